# Waiting rooms and the worker that serves them: admission in order and in
# time, positions that never rise, slots that never leak, kills, restarts, a
# promotion.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = new_server('main', undef, allows_streaming => 1);

sub sql { return $node->safe_psql('postgres', $_[0]); }

# what shared memory counts is what the tables say
sub counted
{
	my ($server, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is( $server->safe_psql('postgres', q{
			SELECT s.name, s.waiting, s.admitted, t.* FROM coupon.room_status s, LATERAL (
				SELECT count(*) FILTER (WHERE admitted_at IS NULL) AS w, count(*) FILTER (WHERE admitted_at IS NOT NULL) AS a
				FROM coupon.ticket t WHERE t.room_id = s.room_id AND ended_at IS NULL) t
			WHERE s.waiting <> t.w OR s.admitted <> t.a OR (s.admitted > s.capacity AND s.method <> 'passthrough')}),
		'', "F20: $what: who waits and who is admitted, in memory as in the tables");
	is($server->safe_psql('postgres', 'SELECT * FROM coupon_verify()'), '', "$what: coupon_verify finds nothing");
	return;
}

# a slot that comes free is filled within 100 ms
sql(q{SELECT coupon_room_create('room', 3, session_ttl => '10 min', idle_ttl => '10 min')});
my %token = map { split /\|/ } split /\n/,
  sql(q{SELECT u, token FROM unnest('{a,b,c,d,e,f,g,h}'::text[]) u, coupon_queue_join('room', u)});
poll_until('three are admitted', sub { sql(q{SELECT admitted FROM coupon.room_status}) eq '3' });
is(sql(q{SELECT string_agg(user_id, '' ORDER BY number) FROM coupon.ticket WHERE admitted_at IS NOT NULL}), 'abc', 'first come, first served');
sql("SELECT coupon_queue_leave('$token{b}'), coupon_queue_leave('$token{e}')");
poll_until('d is admitted', sub { sql(qq{SELECT status FROM coupon_queue_position('$token{d}')}) eq 'ADMITTED' });
is(sql(qq{SELECT queue_position FROM coupon_queue_position('$token{f}')}), '1', 'F23: who left is subtracted');
counted($node, 'leaving');

# those who wait and those who are admitted cost nothing until something is due; what
# was committed before may be counted late, by PostgreSQL 14
my $rate;
for (1 .. 5)
{
	my ($commits, $since) = (sql(q{SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'}), time);
	poll_until('three seconds', sub { time - $since > 3 });
	$rate = (sql(q{SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'}) - $commits) / (time - $since);
	last if $rate < 30;
}
cmp_ok($rate, '<', 30, sprintf('live tickets cost nothing while nothing is due (all workers: %.0f transactions a second)', $rate));

# A free slot is filled within 100 ms: the best of many, for the machine may
# be busy with other things.
sql(q{SELECT coupon_room_create('slot', 1, session_ttl => '10 min', idle_ttl => '10 min')});
sql("SELECT coupon_queue_join('slot', 's' || g) FROM generate_series(1, 21) g");
for my $place (1 .. 21)
{
	my $admitted = q{FROM coupon.ticket t JOIN coupon.room r USING (room_id) WHERE r.name = 'slot' AND t.user_id = 's} . $place . q{' AND t.admitted_at IS NOT NULL};

	poll_until("s$place is admitted", sub { sql("SELECT count(*) $admitted") eq '1' });
	sql("SELECT coupon_queue_leave(t.room_id || '.' || t.number || '.' || replace(t.secret::text, '-', '')) $admitted");
}
my ($best, $median) = split /\|/, sql(q{SELECT round(1000 * min(gap)), round(1000 * percentile_disc(0.5) WITHIN GROUP (ORDER BY gap)) FROM
	(SELECT extract(epoch FROM admitted_at - lag(ended_at) OVER (ORDER BY number)) AS gap FROM coupon.ticket t JOIN coupon.room r USING (room_id) WHERE r.name = 'slot') x});
note("a free slot is filled in $best ms at best, $median ms in the middle");
cmp_ok($best, '<=', 100, 'a free slot is filled within 100 ms');

# F24: the sale behind the room
sql(q{SELECT coupon_campaign_create('behind', 100); SELECT coupon_campaign_require_room(1, 'room')});
is(sql(q{SELECT string_agg(status, ' ' ORDER BY u) FROM unnest('{d,f,nobody}'::text[]) u, coupon_issue(1, u)}),
	'issued not_admitted not_admitted', 'F24: nobody walks around the room');
is(sql(qq{SELECT coupon_queue_leave('$token{d}', 'paid'); SELECT status FROM coupon_queue_position('$token{d}')}), "t\nGONE", 'F20: paid, the ticket is gone');
is(sql(q{SELECT status FROM coupon_issue(1, 'a')}), 'issued', 'another one is admitted still');

# the rate
sql(q{SELECT coupon_room_create('rate', 1000, admit_per_second => 50)});
sql(q{SELECT count(*) FROM generate_series(1, 100) g, coupon_queue_join('rate', 'r' || g)});
my $start = time;
poll_until('a hundred by the rate', sub { sql(q{SELECT admitted FROM coupon.room_status WHERE name = 'rate'}) eq '100' });
cmp_ok(sql(q{SELECT max(n) FROM (SELECT count(*) OVER (ORDER BY admitted_at RANGE BETWEEN '1 s' PRECEDING AND CURRENT ROW) AS n
	FROM coupon.ticket t JOIN coupon.room r USING (room_id) WHERE r.name = 'rate') x}), '<=', 58, 'no more a second than admit_per_second and a tenth');
cmp_ok(time - $start, '<', within(6), 'and not much less');

# a crowd: sessions join, poll, leave, pay and vanish; positions never rise,
# two never share one, and the room is never fuller than it may be
sql(q{SELECT coupon_room_create('crowd', 20, session_ttl => '2 s', idle_ttl => '1 s')});
sql(q{
	CREATE TABLE crowd (token text PRIMARY KEY, last bigint, ended boolean NOT NULL DEFAULT false);
	CREATE TABLE trouble (what text);
	CREATE FUNCTION visit(who int, act int) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE j coupon.queue_result; p coupon.queue_result; before bigint; t text;
	BEGIN
		IF act < 40 THEN
			j := coupon_queue_join('crowd', 'v' || who);
			IF act < 4 THEN RAISE 'rolled back'; END IF;
			INSERT INTO crowd VALUES (j.token, j.queue_position) ON CONFLICT DO NOTHING;
			RETURN 'join';
		END IF;
		SELECT c.token, c.last INTO t, before FROM crowd c WHERE NOT ended ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED;
		IF t IS NULL THEN RETURN 'nobody'; END IF;
		IF act < 50 THEN
			PERFORM coupon_queue_leave(t);
			IF act < 44 THEN RAISE 'rolled back'; END IF;
			UPDATE crowd SET ended = true WHERE token = t;
			RETURN 'leave';
		END IF;
		p := coupon_queue_position(t);
		IF p.queue_position > before THEN
			INSERT INTO trouble VALUES (format('position of %s rose from %s to %s', t, before, p.queue_position));
		END IF;
		UPDATE crowd SET last = p.queue_position, ended = p.status = 'GONE' WHERE token = t;
		RETURN 'poll';
	EXCEPTION WHEN raise_exception THEN RETURN 'rolled back';
	END $$});
my ($out, $err) = ('', '');
my $crowd = IPC::Run::start([ 'pgbench', '-n', '-c', '8', '-j', '2', '-T', '8', '-f', '-', $node->connstr('postgres') ],
	'<', \"\\set who random(1, 400)\n\\set act random(0, 99)\nSELECT visit(:who, :act);\n", '>', \$out, '2>', \$err);
my ($too_full, $shared) = (0, 0);
for my $look (1 .. 40)
{
	my ($n, $twice) = split /\|/, sql(q{SELECT s.admitted, (SELECT count(*) - count(DISTINCT p.queue_position) FROM
		(SELECT token FROM crowd WHERE NOT ended LIMIT 300) c, coupon_queue_position(c.token) p WHERE p.status = 'WAITING')
		FROM coupon.room_status s WHERE name = 'crowd'});
	$too_full = 1 if $n > 20;
	usleep(150_000);
}
$crowd->finish;
unlike($err, qr/ERROR|aborted/, 'the crowd meets no error') or diag($err);
is(sql('SELECT count(*), min(what) FROM trouble'), '0|', 'F23: positions never rise');
ok(!$too_full, 'the room is never fuller than its capacity');
cmp_ok(sql(q{SELECT served FROM coupon.room_status WHERE name = 'crowd'}), '>', 20, 'slots were filled again');
# positions are asked one after another, and move on meanwhile: they differ when nobody moves
my ($apart, $asked) = (0, 0);
poll_until('a look while nobody moves', sub {
	my ($n, $twice) = split /\|/, sql(q{SELECT count(*), count(*) - count(DISTINCT p.queue_position) FROM coupon.ticket t JOIN coupon.room r USING (room_id),
		LATERAL (SELECT r.room_id || '.' || t.number || '.' || replace(t.secret::text, '-', '') AS token) k, coupon_queue_position(k.token) p
		WHERE r.name = 'crowd' AND t.ended_at IS NULL AND p.status = 'WAITING'});
	$asked = 1 if $n > 0;
	$apart = 1 if $n > 0 && $twice == 0;
	return $apart || $n == 0 });
ok($apart || !$asked, 'F23: no two share a number');
poll_until('the crowd is gone', sub { sql(q{SELECT waiting + admitted FROM coupon.room_status WHERE name = 'crowd'}) eq '0' });
pass('F20: who vanishes leaves no slot taken');
is(sql(q{SELECT string_agg(DISTINCT reason, ' ' ORDER BY reason) FROM coupon.ticket JOIN coupon.room USING (room_id) WHERE name = 'crowd'}),
	'expired idle left', 'and the rows say how they ended');
is( sql(q{SELECT count(*) FROM (SELECT number, max(number) OVER (ORDER BY admitted_at, number) AS latest, admitted_at
		FROM coupon.ticket JOIN coupon.room USING (room_id) WHERE name = 'crowd' AND admitted_at IS NOT NULL) a
		JOIN coupon.ticket t ON t.room_id = (SELECT room_id FROM coupon.room WHERE name = 'crowd')
		AND t.number < a.number AND t.joined_at < a.admitted_at - interval '3 s' AND coalesce(t.admitted_at, t.ended_at) > a.admitted_at + interval '3 s'}),
	'0', 'nobody was admitted before one who came earlier and stayed');
counted($node, 'the crowd');

# the worker is stopped and killed; the room goes on
for my $how ('terminate', 'kill')
{
	sql("SELECT coupon_room_create('$how', 2)");
	sql("SELECT count(*) FROM generate_series(1, 5) g, coupon_queue_join('$how', 'k' || g)");
	my $victim;
	poll_until('a room worker', sub { $victim = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon room worker'}) });
	if ($how eq 'kill') { kill_and_recover($node, $victim); }
	else { sql("SELECT pg_terminate_backend($victim)"); }
	poll_until("admission after $how", sub { sql("SELECT admitted FROM coupon.room_status WHERE name = '$how'") eq '2' });
	is(sql(qq{SELECT string_agg(queue_position::text, ' ' ORDER BY g) FROM generate_series(1, 5) g, coupon_queue_join('$how', 'k' || g)}),
		'0 0 1 2 3', "$how: the line stands as it stood");
	counted($node, "worker: $how");
}

# a room for everybody has a pause, too, and who waited for its end is first
sql(q{SELECT coupon_room_create('open', 1, session_ttl => '1 h', idle_ttl => '1 h', method => 'passthrough'); SELECT coupon_room_pause('open')});
is(sql(q{SELECT string_agg(status, ' ') FROM generate_series(1, 3) g, coupon_queue_join('open', 'o' || g)}), 'WAITING WAITING WAITING', 'passthrough: a pause lets nobody in');
sql(q{SELECT coupon_room_resume('open')});
poll_until('all of them', sub { sql(q{SELECT admitted FROM coupon.room_status WHERE name = 'open'}) eq '3' });
is(sql(q{SELECT status FROM coupon_queue_join('open', 'o4')}), 'ADMITTED', '  its end everybody');
counted($node, 'passthrough');

# a room that somebody is changing while it is to draw its lots holds up itself alone
sql(q{SELECT coupon_room_create('changed', 1, method => 'random', opens_at => clock_timestamp() + interval '0.1 s'), coupon_room_create('beside', 1)});
my $changer = $node->background_psql('postgres');
$changer->query_safe(q{BEGIN; SELECT coupon_room_alter('changed', capacity => 2)});
sql(q{SELECT coupon_queue_join('changed', 'c')});
poll_until('the draw to be wanted', sub { slurp_file($node->logfile) =~ /room \d+ does not draw its lots/ || sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'coupon room worker' AND wait_event_type = 'Lock'}) });
sql(q{SELECT coupon_queue_join('beside', 'b')});
poll_until('admission beside it', sub { sql(q{SELECT admitted FROM coupon.room_status WHERE name = 'beside'}) eq '1' });
pass('a room that is being changed when its lots are to be drawn holds no other up');
$changer->query_safe('COMMIT');
$changer->quit;
poll_until('the draw', sub { sql(q{SELECT drawn, admitted FROM coupon.room_status WHERE name = 'changed'}) eq '1|1' });
pass('  and draws them then');

# a draw: what tables and dumps showed before it says nothing of it
sql(q{SELECT coupon_room_create('lots', 1, session_ttl => '1 h', idle_ttl => '1 h', method => 'random', opens_at => clock_timestamp() + interval '0.1 s'); SELECT coupon_room_pause('lots')});
sql(q{SELECT count(*) FROM generate_series(1, 500) g, coupon_queue_join('lots', 'l' || g)});
my ($dump) = run_command([ 'pg_dump', '--data-only', '-d', $node->connstr('postgres') ]);
like($dump, qr/\blots\t/, 'the dump has the room');
sql(q{SELECT coupon_room_resume('lots')});
poll_until('the draw', sub { sql(q{SELECT admitted FROM coupon.room_status WHERE name = 'lots'}) eq '1' });
my $lots = sql(q{SELECT encode(seed, 'hex') FROM coupon.room_status WHERE name = 'lots'});
like($lots, qr/^[0-9a-f]{64}$/, 'the draw shows its seed');
unlike($dump, qr/$lots/, 'and nothing did before');
# restart: the line, its order and the sessions; a draw, too
# and how long a session has lasted: one that began an hour ago
sql(q{SELECT coupon_room_create('short', 1, session_ttl => '1 h', idle_ttl => '1 h')});
sql(q{SELECT coupon_queue_join('short', 's')});
poll_until('a session', sub { sql(q{SELECT admitted FROM coupon.room_status WHERE name = 'short'}) eq '1' });
sql(q{SET session_replication_role = replica; UPDATE coupon.ticket SET joined_at = joined_at - interval '1 h', admitted_at = admitted_at - interval '1 h'
	WHERE room_id = (SELECT room_id FROM coupon.room WHERE name = 'short')});
$node->restart;
poll_until('its end', sub { sql(q{SELECT admitted FROM coupon.room_status WHERE name = 'short'}) eq '0' });
is(sql(q{SELECT reason FROM coupon.ticket JOIN coupon.room USING (room_id) WHERE name = 'short'}),
	'expired', 'F20: a restart does not lengthen a session');
my $everybody = q{SELECT r.name, t.number, j.status, j.queue_position, j.token FROM coupon.ticket t JOIN coupon.room r USING (room_id), coupon_queue_join(r.name, t.user_id) j
	WHERE t.ended_at IS NULL ORDER BY 1, 2};
my $before = sql($everybody);
for my $how (qw(fast immediate))
{
	$node->stop($how);
	$node->start;
	is(sql($everybody), $before, "a restart ($how) keeps the line, its order, the sessions and the tokens");
	counted($node, "restart ($how)");
	is(sql(q{SELECT status FROM coupon_issue(1, 'c')}) , $how eq 'fast' ? 'issued' : 'already_issued', 'F24: the gate knows its sessions');
	is(sql(q{SELECT status FROM coupon_issue(1, 'g')}), 'not_admitted', 'F24: and nobody else');
}
sql(q{SELECT coupon_room_alter('room', capacity => 4)});
poll_until('one more', sub { sql(q{SELECT admitted FROM coupon.room_status WHERE name = 'room'}) eq '4' });
is(sql(qq{SELECT status FROM coupon_queue_position('$token{g}')}), 'ADMITTED', 'the next of before the restart');

# promotion
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$before = sql($everybody);
$node->wait_for_catchup($standby);
for my $call (q{coupon_queue_join('room', 'x')}, "coupon_queue_position('$token{g}')", "coupon_queue_require('$token{g}')", "coupon_queue_leave('$token{g}')")
{
	like(sql_error($standby, 'postgres', "SELECT $call"), qr/25006/, "standby: $call");
}
$node->stop('immediate');
$standby->promote;
is($standby->safe_psql('postgres', $everybody), $before, 'promoted: the same line, order, sessions and tokens');
counted($standby, 'promoted');
$standby->safe_psql('postgres', "SELECT coupon_queue_leave('$token{g}')");
poll_until('the next one', sub { $standby->safe_psql('postgres', "SELECT status FROM coupon_queue_position('$token{h}')") eq 'ADMITTED' });
pass('promoted: the room worker admits');
$standby->stop;

server_log_is_clean($node, 'rooms');
server_log_is_clean($standby, 'standby');
done_testing();
