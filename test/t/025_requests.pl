# Requests and the issuers that decide them: kills, restarts, a promotion,
# waiting callers, a held snapshot, tables that take turns.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = new_server('main', <<'END', allows_streaming => 1);
coupon.issuers = 2
coupon.request_depth = 50000
wal_level = replica
END

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub issuers
{
	return sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'coupon issuer'});
}

# every request has ended, once, and as the issuances say
sub decided
{
	my ($server, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	poll_until("$what: all is decided", sub {
		$server->safe_psql('postgres', 'SELECT count(*) FROM coupon.request WHERE decided_at IS NULL') eq '0' });
	is( $server->safe_psql('postgres', q{
			SELECT q.campaign_id, q.request_id, q.outcome FROM coupon.request q
			LEFT JOIN coupon.issuance i USING (campaign_id, serial, user_id)
			WHERE (q.outcome = 'issued') AND i.serial IS NULL
			UNION ALL
			SELECT campaign_id, min(request_id::text)::uuid, 'twice' FROM coupon.request WHERE outcome = 'issued'
			GROUP BY campaign_id, serial HAVING count(*) > 1}),
		'', "F5, F21: $what: each issued request has its unit, each unit one request");
	conserved($server, 'postgres', $what);
	return;
}

poll_until('issuers', sub { issuers() eq '2' });
pass('as many issuers as coupon.issuers says');

# accepted to decided, and a caller that waits for it
sql(q{SELECT coupon_campaign_create('latency', 1000)});
my @ms;
for my $i (1 .. 50)
{
	my ($id) = sql("SELECT request_id FROM coupon_request(1, 'u$i')");
	my $start = time;
	my $answer = sql("SELECT status, outcome FROM coupon_request_wait('$id')");
	is($answer, 'COMPLETED|issued', 'decided') if $i == 1 || $answer ne 'COMPLETED|issued';
}
my ($soonest, $median) = split /\|/, sql(q{SELECT round(1000 * min(extract(epoch FROM decided_at - requested_at)), 1),
	round(1000 * percentile_disc(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM decided_at - requested_at)), 1)
	FROM coupon.request WHERE campaign_id = 1});
note("accepted to decided, median: $median ms");
cmp_ok($soonest, '<', 100, 'an idle issuer decides at once');
decided($node, 'one by one');

# a caller that waits can be stopped, and its timeout works: nobody decides
# while the user's own other transaction is undecided
sql(q{SELECT coupon_campaign_create('none', 10)});
sql(q{SELECT coupon_campaign_create('held up', 10)});
my $holder = $node->background_psql('postgres');
$holder->query_safe(q{BEGIN; SELECT coupon_issue(3, 'a')});
my $waiting = sql(q{SELECT request_id FROM coupon_request(3, 'a')});
my $start = time;
is(sql("SELECT status FROM coupon_request_wait('$waiting', '0.3 s')"), 'WAITING', 'the timeout answers WAITING');
cmp_ok(time - $start, '>=', 0.25, 'and not before it is over');
my ($out, $err) = ('', '');
for my $how (qw(pg_cancel_backend pg_terminate_backend))
{
	my $done = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'),
			'-c', "SET application_name = 'waiter'", '-c', "SELECT coupon_request_wait('$waiting', '1 h')" ],
		'>', \$out, '2>', \$err);
	poll_until('a waiter', sub { sql(q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'waiter' AND wait_event_type = 'Extension'}) eq '1' });
	my $stopped = time;
	sql("SELECT $how(pid) FROM pg_stat_activity WHERE application_name = 'waiter'");
	$done->finish;
	cmp_ok(time - $stopped, '<', within(5), "$how ends a wait at once");
}
$holder->query_safe('ROLLBACK');
is(sql("SELECT outcome FROM coupon_request_wait('$waiting', '@{[ CouponTest::PATIENCE ]}s')"), 'issued', 'the one passed by is decided when its user is free');
$holder->quit;

# an open transaction: the line moves on, and the request comes in when it commits
sql(q{SELECT coupon_campaign_create('late commit', 100)});
my $open = $node->background_psql('postgres');
$open->query_safe(q{BEGIN; SELECT coupon_request(4, 'first')});
sql(q{SELECT count(*) FROM generate_series(1, 20) g, coupon_request(4, 'u' || g)});
poll_until('the others', sub { sql(q{SELECT count(*) FROM coupon.request WHERE campaign_id = 4 AND outcome = 'issued'}) eq '20' });
pass('a request that is not committed holds nobody up');
$open->query_safe('COMMIT');
poll_until('the late one', sub { sql(q{SELECT outcome FROM coupon_request_status_of(4, 'first')}) eq 'issued' });
pass('F4: the number first, the commit last: it is decided');
$open->quit;

# F12: the depth is capped, exactly
sql(q{SELECT coupon_campaign_create('deep', 100000)});
$node->append_conf('postgresql.conf', 'coupon.request_depth = 10');
$node->reload;
poll_until('the cap', sub { sql('SHOW coupon.request_depth') eq '10' });
is( sql(q{SELECT string_agg(n || ' ' || o, ', ' ORDER BY o) FROM
		(SELECT coalesce(outcome, 'accepted') AS o, count(*) AS n FROM generate_series(1, 25) g, coupon_request(5, 'u' || g) GROUP BY 1) x}),
	'10 accepted, 15 full', 'F12: ten in one transaction, the others are told full');
decided($node, 'the cap');
is(sql(q{SELECT coalesce(outcome, 'accepted') FROM coupon_request(5, 'again')}), 'accepted', 'and there is room again');
$node->append_conf('postgresql.conf', 'coupon.request_depth = 50000');
$node->reload;
poll_until('the cap', sub { sql('SHOW coupon.request_depth') eq '50000' });

# of a flood no more get in than there are units; those do well
sql(q{SELECT coupon_campaign_create('flood', 300)});
$node->pgbench('-n -c 16 -j 2 -t 100', 0, [qr/processed: 1600\/1600/], [qr/^$/],
	'a flood', { '025_flood' => q{
		\set u random(1, 100000000)
		SELECT status FROM coupon_request(6, :u);
	} });
decided($node, 'the flood');
my ($accepted, $success) = split /\|/, sql(q{SELECT count(*), count(*) FILTER (WHERE outcome = 'issued') FROM coupon.request WHERE campaign_id = 6});
is($success, 300, 'F1: the flood got the stock, no more and no less');
cmp_ok($success / $accepted, '>=', 0.7, "of $accepted that were accepted, 70 % and more end in success");

# F22: who was refused because nothing was left may come again when a unit is
sql(q{SELECT coupon_issue_many(2, ARRAY(SELECT 'i' || g FROM generate_series(1, 10) g))});
is(sql(q{SELECT outcome FROM coupon_request(2, 'too late'::text)}), 'sold_out', 'F7: sold out, at entry');
sql(q{SELECT coupon_revoke(2, 'i7'::text, 'test')});
my $second = sql(q{SELECT request_id FROM coupon_request(2, 'too late'::text)});
is(sql("SELECT outcome FROM coupon_request_wait('$second', '@{[ CouponTest::PATIENCE ]}s')"), 'issued', 'F22: a unit that comes back is to be had by requests, too');
decided($node, 'a returned unit');

# issuers are killed at any moment, under load: nothing is lost, nothing twice
sql(q{SELECT coupon_campaign_create('kill ' || g, 20000) FROM generate_series(1, 3) g});
my $load = IPC::Run::start([ 'pgbench', '-n', '-c', '4', '-j', '2', '-T', '6', '-f', '-', $node->connstr('postgres') ],
	'<', \"\\set c random(7, 9)\n\\set u random(1, 30000)\nSELECT coupon_request(:c, :u::text);\n", '>', \$out, '2>', \$err);
my $kills = 0;
for my $round (1 .. 25)
{
	usleep(100_000 + rand 100_000);
	my ($status, $victim) = $node->psql('postgres',
		q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'coupon issuer' ORDER BY random() LIMIT 1});
	$kills++ if $status == 0 && $victim eq 't';
}
$load->finish;
cmp_ok($kills, '>', 0, "issuers were terminated ($kills times)");
decided($node, 'F5: issuers terminated under load');

# kill -9, which takes the server down with it, in the middle of a backlog
sql(q{SELECT coupon_campaign_create('crash', 40000)});
my $before = sql(q{SELECT count(*) FROM generate_series(1, 40000) g, coupon_request(10, g::text) r WHERE r.status = 'WAITING'});
my $victim = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon issuer' LIMIT 1});
kill_and_recover($node, $victim);
is(sql('SELECT count(*) FROM coupon.request WHERE campaign_id = 10'), $before, 'F4: what was accepted is still there');
decided($node, 'F21: kill -9 in a backlog');
is(sql(q{SELECT count(*) FROM coupon.request WHERE campaign_id = 10 AND outcome = 'issued'}), '40000', 'all were served');
is( sql(q{SELECT count(*) FROM (SELECT decided_at, lag(decided_at) OVER (ORDER BY request_id) AS before
		FROM coupon.request WHERE campaign_id = 10) x WHERE decided_at < before}),
	'0', 'in the order of their numbers, across the crash');

# restart with a line that stands: the order and the positions stay
my $r = sql(q{SELECT coupon_campaign_create('restart', 100)});
sql(qq{BEGIN; SELECT count(*) FROM generate_series(1, 9) g, coupon_request($r, 'u' || g); SELECT coupon_campaign_pause($r); COMMIT});
is(sql(qq{SELECT queue_position FROM coupon_request_status_of($r, 'u7')}), '7', 'before the restart');
$node->restart;
is(sql(qq{SELECT queue_position FROM coupon_request_status_of($r, 'u7')}), '7', 'F23: the position is the same after a restart');
is(sql(q{SELECT status || ' ' || outcome FROM coupon_request_status_of(10, '1')}), 'COMPLETED issued', 'and what was decided stays decided');

# a promotion, with the line standing
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
sql(qq{SELECT coupon_request_status_of($r, 'u1')});
$node->wait_for_catchup($standby);
like(sql_error($standby, 'postgres', "SELECT coupon_request($r, 'x'::text)"), qr/25006/, 'standby: no requests');
like(sql_error($standby, 'postgres', "SELECT coupon_request_status_of($r, 'u1')"), qr/25006/, 'standby: no status');
$node->stop('immediate');
$standby->promote;
is($standby->safe_psql('postgres', qq{SELECT queue_position FROM coupon_request_status_of($r, 'u7')}), '7', 'promoted: the line stands as it stood');
$standby->safe_psql('postgres', "SELECT coupon_campaign_resume($r)");
decided($standby, 'promoted');
is( $standby->safe_psql('postgres', qq{SELECT string_agg(user_id, ' ' ORDER BY request_id) FROM coupon.request WHERE campaign_id = $r AND outcome = 'issued'}),
	'u1 u2 u3 u4 u5 u6 u7 u8 u9', 'promoted: all are served');
$standby->stop;
server_log_is_clean($standby, 'standby');
$node->start;

# tables take turns while a snapshot is held; what was decided lately is kept
$node->append_conf('postgresql.conf', "coupon.queue_keep = '2s'");
$node->reload;
sql(qq{SELECT coupon_campaign_resume($r)});
poll_until('nobody waits', sub { sql('SELECT count(*) FROM coupon.request WHERE decided_at IS NULL') eq '0' });
my $t = sql(q{SELECT coupon_campaign_create('turns', 10000000)});
my $snapshot = $node->background_psql('postgres');
$snapshot->query_safe(q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class});
my ($live, $rows, $kept, $round) = (0, 0, 1, 0);
my %seen;
poll_until('turns', sub {
	$round++;
	# in one session: nothing is to come between that lasts longer than rows are kept
	my $status = sql("SELECT min(request_id::text) AS id FROM generate_series(1, 2000) g, coupon_request($t, $round * 2000 + g) \\gset\n" .
		"SELECT status FROM coupon_request_wait(:'id', '@{[ CouponTest::PATIENCE ]}s')");
	$rows += 2000;
	$kept = 0 if $status ne 'COMPLETED';
	($live, my ($node0, $node1)) = split /\|/, sql(qq{SELECT (SELECT count(*) FROM coupon.request WHERE campaign_id = $t),
		pg_relation_filenode('coupon.request_0'), pg_relation_filenode('coupon.request_1')});
	$seen{"0 $node0"} = $seen{"1 $node1"} = 1;
	return keys %seen >= 4 && $live < $rows * 0.5;
});
pass("F17: both tables were emptied in turn, under a held snapshot, and hold no more than lately ($live of $rows rows)");
ok($kept, 'who waits for their own request finds it decided, through all turns');
$snapshot->quit;
decided($node, 'turns');

# a child is searched for rows that wait before it is locked, and without waiting for the lock:
# the one that is in use when both are locked can only be searched after that
my $reader = $node->background_psql('postgres');
my ($probe, $current, @searched) = (0);
sub searched { return sql("SELECT seq_tup_read FROM pg_stat_all_tables WHERE relid = 'coupon.request_$_[0]'::regclass"); }
poll_until('a child that is empty', sub {
	$probe++;
	sql("SELECT coupon_request($t, 'probe $probe')");
	return 0 if sql("SELECT least(pg_relation_size('coupon.request_0'), pg_relation_size('coupon.request_1'))");
	@searched = map { searched($_) } 0, 1;
	$reader->query_safe('BEGIN; LOCK TABLE ONLY coupon.request_0, coupon.request_1 IN ACCESS SHARE MODE');
	($current, my @size) = split /\|/, (split /\n/, sql("SELECT request_id AS id FROM coupon_request($t, 'search $probe') \\gset\n" .
		"SET enable_seqscan = off; SELECT right(tableoid::regclass::text, 1), pg_relation_size('coupon.request_0'), pg_relation_size('coupon.request_1') FROM coupon.request WHERE request_id = :'id'"))[-1];
	return 1 if $size[1 - $current] == 0;
	$reader->query_safe('ROLLBACK');
	return 0 });
poll_until('the search of a child that is out of use', sub { searched($current) > $searched[$current] });
pass('F25: a child is searched while somebody has it locked');
$reader->quit;

# a child that cannot be emptied stops nobody
sql(q{
	CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'kept'; END $$;
	CREATE TRIGGER keep BEFORE TRUNCATE ON coupon.request_0 EXECUTE FUNCTION keep();
	CREATE TRIGGER keep BEFORE TRUNCATE ON coupon.request_1 EXECUTE FUNCTION keep()});
poll_until('a child that is kept', sub {
	$probe++;
	sql("SELECT coupon_request($t, 'kept $probe')");
	slurp_file($node->logfile) =~ /(WARNING|ERROR):  .*kept/ });
my $kept_s = alone_seconds($node, $t, 21);
sql('DROP TRIGGER keep ON coupon.request_0; DROP TRIGGER keep ON coupon.request_1');
my $alone = sql(q{SELECT coupon_campaign_create('alone', 100)});
my $alone_s = alone_seconds($node, $alone, 21);
cmp_ok($kept_s, '<', 0.25 + 2 * $alone_s, "F25: a table that cannot be emptied holds up no request ($kept_s s, $alone_s s otherwise)");

# an ERROR of one request, or of one campaign, is that one's alone
$node->append_conf('postgresql.conf', "coupon.queue_keep = '1h'");
$node->restart;
sql(q{
	CREATE FUNCTION mine(user_id text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
		IF user_id = 'poison' THEN RAISE 'not this one' USING ERRCODE = 'UX001'; END IF;
		IF user_id = 'later' THEN RAISE 'not now' USING ERRCODE = '53400'; END IF;
		RETURN true;
	END $$;
	ALTER TABLE coupon.issuance ADD CONSTRAINT mine CHECK (mine(user_id))});
my $poisoned = sql(q{SELECT coupon_campaign_create('poisoned', 100)});
sql("SELECT count(*) FROM unnest('{a,poison,b}'::text[]) u, coupon_request($poisoned, u)");
poll_until('the poison', sub { sql("SELECT count(*) FROM coupon.request WHERE campaign_id = $poisoned AND decided_at IS NOT NULL") eq '3' });
is(sql("SELECT string_agg(user_id || ' ' || outcome, ', ' ORDER BY request_id) FROM coupon.request WHERE campaign_id = $poisoned"),
	'a issued, poison failed, b issued', 'F9: a request that raises what is no constraint ends as failed');
is(sql(q{SELECT payload->>'sqlstate' FROM coupon.outbox WHERE type = 'coupon.request_failed' AND key = 'poison'}), 'UX001', 'F5: with its reason');
my $later = sql(q{SELECT min(coupon_campaign_create('later ' || g, 100)) FROM generate_series(1, 8) g});
sql("SELECT count(*) FROM generate_series($later, $later + 7) c, coupon_request(c, 'later'::text)");
my $usual = alone_seconds($node, $poisoned, 11);
cmp_ok($usual, '<', 0.25 + 2 * $alone_s, "F25: eight campaigns whose requests cannot be decided now hold up no other ($usual s)");
is(sql("SELECT count(*) FROM coupon.request WHERE user_id = 'later' AND decided_at IS NULL"), '8', 'what may pass is tried again');
sql('ALTER TABLE coupon.issuance DROP CONSTRAINT mine');
decided($node, 'what has passed');

# An outcome that cannot be written.  First the event of one request: it ends
# without, for its row is what counts.
my $refused = sql(q{SELECT coupon_campaign_create('refused', 100)});
sub outcomes
{
	return sql("SELECT string_agg(user_id || ' ' || coalesce(outcome, 'waits'), ', ' ORDER BY request_id) FROM coupon.request WHERE campaign_id = $refused");
}
sql(q{ALTER TABLE coupon.outbox ADD CONSTRAINT mine CHECK (key <> 'mute') NOT VALID});
sql("SELECT count(*) FROM unnest('{a,mute,b}'::text[]) u, coupon_request($refused, u)");
poll_until('the end of all three', sub { outcomes() eq 'a issued, mute failed, b issued' });
pass('F9: a request whose event the outbox refuses ends as failed, and nobody waits for it');
like(slurp_file($node->logfile), qr/WARNING:.*coupon request failed, and its event could not be written.*constraint "mine"/, 'and the log says so');
sql('ALTER TABLE coupon.outbox DROP CONSTRAINT mine');

# then the row of one request: it waits until it can be written, others do not
sql(q{ALTER TABLE coupon.request ADD CONSTRAINT mine CHECK (
	(user_id <> 'stuck' OR outcome IS NULL) AND (user_id <> 'odd' OR outcome <> 'issued')) NOT VALID});
sql("SELECT count(*) FROM unnest('{c,stuck,odd,d}'::text[]) u, coupon_request($refused, u)");
poll_until('the end of three', sub { outcomes() =~ /c issued, stuck waits, odd failed, d issued/ });
pass('F9: a request whose row cannot be written holds up nobody');
is(sql("SELECT count(*) FROM coupon.issuance WHERE user_id IN ('mute', 'stuck', 'odd')"), '0', 'and has no unit that it is not told of');
is(sql("SELECT string_agg(user_id, ' ') FROM coupon.request WHERE campaign_id = $refused AND (coalesce(outcome, '') = 'issued') <> (serial IS NOT NULL)"), '', 'nor is it told of one that it has not');
sql('ALTER TABLE coupon.request DROP CONSTRAINT mine');
poll_until('the last one', sub { outcomes() =~ /stuck issued/ });

# then all events: nobody can be told anything, so all wait, and none is failed for it
sql(q{CREATE TRIGGER mine BEFORE INSERT ON coupon.outbox_0 EXECUTE FUNCTION keep();
	CREATE TRIGGER mine BEFORE INSERT ON coupon.outbox_1 EXECUTE FUNCTION keep();
	CREATE TRIGGER mine BEFORE INSERT ON coupon.outbox_2 EXECUTE FUNCTION keep()});
sql("SELECT count(*) FROM unnest('{e,f}'::text[]) u, coupon_request($refused, u)");
poll_until('the outbox refuses', sub { slurp_file($node->logfile) =~ /requests of campaign $refused cannot be decided now.*triggers/ });
like(outcomes(), qr/e waits, f waits/, 'an outbox that refuses all ends no request');
sql("DROP TRIGGER mine ON coupon.outbox_$_") for 0 .. 2;
decided($node, 'an outbox that takes events again');
like(outcomes(), qr/e issued, f issued/, 'which are issued when it takes events again');

$node->stop;
server_log_is_clean($node, 'requests');
done_testing();
