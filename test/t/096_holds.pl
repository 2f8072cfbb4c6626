# Holds in a crowd and over time: one winner each, sets without deadlocks, run
# out within a second, with the sweeper dead, through crashes, behind a room;
# and storms of everything, whose events are played again in order.
use strict;
use warnings;

use CouponTest;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('main', <<'END');
deadlock_timeout = '20ms'
END

# Who wants to be told whose a unit is waits for who is at it, however slow the
# machine is; the default of 100 ms ends in busy then.
my $patient = q{SET coupon.sold_out_wait = '60s'};

sub ask
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# hall(seats, limit): a campaign with labelled units
sub hall
{
	my ($seats, $limit) = @_;

	return ask(sprintf q{
		SELECT coupon_campaign_create('hall', 0, per_user_limit => %d) AS c \gset
		SELECT coupon_units_import(:c, ARRAY(SELECT 'S' || g FROM generate_series(1, %d) g)) AS ignore \gset
		SELECT :c}, $limit // 1, $seats);
}

# Each unit's events in order are a life that can be, and end as the table says.
sub lives_are_right
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %next = (
		free => { held => 'held', issued => 'issued', confirmed => 'issued' },
		held => { confirmed => 'issued', hold_released => 'free', hold_expired => 'free', revoked => 'free' },
		issued => { revoked => 'free' });
	my (%state, %owner, @wrong);

	for (split /\n/, ask(q{
		SELECT payload->>'campaign_id', payload->>'serial', substr(type, 8), key FROM coupon.outbox
		WHERE payload->>'serial' IS NOT NULL AND type NOT IN ('coupon.confirm_refused') ORDER BY id}))
	{
		my ($campaign, $serial, $type, $user) = split /\|/;
		my $unit = "$campaign/$serial";
		my $state = $state{$unit} // 'free';
		my $then = $next{$state}{$type};

		if (!defined $then || ($state ne 'free' && $owner{$unit} ne $user))
		{
			push @wrong, "$unit: $type of $user, but $state" . ($state eq 'free' ? '' : " by $owner{$unit}");
			$then = $type eq 'held' ? 'held' : 'free';
		}
		($state{$unit}, $owner{$unit}) = ($then, $user);
	}
	is(join("\n", @wrong[ 0 .. ($#wrong > 9 ? 9 : $#wrong) ]), '', "$what: every unit's events are a life that can be");

	my $events = join "\n", sort map { "$_|$state{$_}|$owner{$_}" } grep { $state{$_} ne 'free' } keys %state;
	my $rows = join "\n", sort split /\n/, ask(q{
		SELECT campaign_id || '/' || serial, state, user_id FROM coupon.issuance});
	is($events, $rows, "$what: and end as the table says");
	return;
}

# ---- F18: 20 at once, one winner ----

my $c = hall(10);
ask('CREATE SEQUENCE users; CREATE TABLE answers (who text, status text)');
$node->pgbench('-n -c 20 -j 2 -t 1', 0, [qr/processed: 20\/20/], [qr/^$/],
	'20 users and one seat', { '096_one' => qq{
		$patient;
		INSERT INTO answers SELECT user_id, status FROM coupon_hold($c, 7, nextval('users'));
	} });
is(ask(q{SELECT string_agg(status || n, ' ' ORDER BY status) FROM (SELECT status, count(*) AS n FROM answers GROUP BY 1) a}),
	'held1 taken19', 'F18, F8: one of 20 holds it, 19 are told so, nobody has an error');
is(ask("SELECT user_id FROM coupon.issuance WHERE campaign_id = $c AND serial = 7"),
	ask(q{SELECT who FROM answers WHERE status = 'held'}), 'F18: and it is the one in the table');

# ---- F8: 300 users, 150 seats, all want the same ten ----

$c = hall(150);
ask(q{TRUNCATE answers; ALTER SEQUENCE users RESTART});
my $start = time;
$node->pgbench('-n -c 60 -j 2 -t 5', 0, [qr/processed: 300\/300/], [qr/^$/],
	'300 users want the same ten seats first', { '096_crowd' => qq{
		\\set seat random(1, 10)
		$patient;
		SELECT nextval('users') AS u \\gset
		SELECT CASE WHEN status = 'held' THEN 1 ELSE 0 END AS mine FROM coupon_hold($c, :seat, :u) \\gset
		\\if :mine = 0
		INSERT INTO answers SELECT user_id, status FROM coupon_hold_any($c, :u);
		\\else
		INSERT INTO answers VALUES (:u, 'held');
		\\endif
	} });
note(sprintf '300 users on 150 seats: %.2f s with their connections', time - $start);
is(ask(q{SELECT string_agg(status || n, ' ' ORDER BY status) FROM (SELECT status, count(*) AS n FROM answers GROUP BY 1) a}),
	'held150 sold_out150', 'F8: 150 hold one, 150 are told sold_out');
is(ask("SELECT count(*), count(DISTINCT serial), count(DISTINCT user_id) FROM coupon.issuance WHERE campaign_id = $c"),
	'150|150|150', 'F18: each seat once');
is(ask("SELECT held, issued, remaining, in_flight FROM coupon_status($c)"), '150|0|0|0', 'and so says the status');

# ---- F8: 50 users, overlapping sets of four ----

$c = hall(40, 8);
ask(q{
	CREATE FUNCTION set_answer(text[]) RETURNS text LANGUAGE sql AS $$
		SELECT CASE WHEN NOT 'held' = ANY ($1) THEN 'none'
		            WHEN $1 <@ ARRAY['held', 'already_held'] THEN 'whole'
		            ELSE 'part' END $$});
$node->pgbench('-n -c 50 -j 2 -t 20', 0, [qr/processed: 1000\/1000/], [qr/^$/],
	'50 users hold overlapping sets of four', { '096_sets' => qq{
		\\set a random(1, 10)
		\\set b random(11, 20)
		\\set d random(21, 30)
		\\set e random(31, 40)
		\\set order random(0, 1)
		\\set end random(0, 3)
		BEGIN;
		\\if :order = 1
		INSERT INTO answers SELECT 'set', set_answer(array_agg(status)) FROM coupon_hold_many($c, ARRAY[:a, :b, :d, :e], 'set' || :client_id);
		\\else
		INSERT INTO answers SELECT 'set', set_answer(array_agg(status)) FROM coupon_hold_many($c, ARRAY[:e, :d, :b, :a], 'set' || :client_id);
		\\endif
		\\if :end = 3
		ROLLBACK;
		\\else
		COMMIT;
		\\endif
		\\if :end = 0
		SELECT coupon_release($c, s, 'set' || :client_id) FROM unnest(ARRAY[:a, :b, :d, :e]::bigint[]) s;
		\\endif
	} });
is(ask(q{SELECT string_agg(DISTINCT status, ' ') FROM answers WHERE who = 'set'}), 'none whole', 'F8: whole sets or none');
unlike(slurp_file($node->logfile), qr/deadlock detected/, 'F8: no deadlock');
settle($node, 'postgres');
conserved($node, 'postgres', 'F8: sets');
lives_are_right('sets');

# ---- run out: within a second on a machine that is idle, one event each ----

my $soon = within(1);
$c = hall(200, 100);
ask("SELECT count(*) FROM coupon_hold_many($c, ARRAY(SELECT generate_series(1, 100)), 'short'::text, '300 ms')");
ask("SELECT coupon_hold($c, 150, 'long')");
poll_until('holds to run out', sub { ask("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $c") eq '1' });
is(ask(qq{
		SELECT count(*), count(DISTINCT payload->>'serial'), bool_and((payload->>'at')::timestamptz - (payload->>'held_until')::timestamptz BETWEEN '0' AND '$soon s')
		FROM coupon.outbox WHERE type = 'coupon.hold_expired' AND payload->>'campaign_id' = '$c'}),
	'100|100|t', 'F20: what has run out is back in stock soon, with one event each');
note('latest: ' . ask(qq{
		SELECT max((payload->>'at')::timestamptz - (payload->>'held_until')::timestamptz) FROM coupon.outbox
		WHERE type = 'coupon.hold_expired' AND payload->>'campaign_id' = '$c'}));
is(ask("SELECT held, remaining, in_flight FROM coupon_status($c)"), '1|199|0', 'a longer one stays');

# a sweeper that sleeps for long wakes up for what it knows to run out earlier:
# it has seen the one when it sweeps the other
my $to_come = '';
for my $seconds (4, 20, 100)
{
	ask("SELECT coupon_hold($c, 151, 'wakes $seconds', '$seconds s'), coupon_hold($c, 152, 'short', '50 ms')");
	poll_until('the short one to be swept', sub { ask("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $c AND serial = 152") eq '0' });
	$to_come = ask("SELECT status FROM coupon_units($c) WHERE serial = 151");
	last if $to_come eq 'HELD';
}
is($to_come, 'HELD', 'the sweeper has been here, and one hold is to come');
$node->append_conf('postgresql.conf', "coupon.sweep_interval = '1h'");
$node->reload;
poll_until('the sweeper to wake up', sub { ask("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $c AND serial = 151") eq '0' });
is(ask(qq{
		SELECT bool_and((payload->>'at')::timestamptz - (payload->>'held_until')::timestamptz BETWEEN '0' AND '$soon s')
		FROM coupon.outbox WHERE type = 'coupon.hold_expired' AND key LIKE 'wakes%'}),
	't', 'F20: a sweeper that sleeps for an hour wakes up for it');

# ---- the sweeper is dead ----

$c = hall(2);
$node->append_conf('postgresql.conf', "coupon.databases = ''");
$node->reload;
poll_until('no sweeper', sub { ask(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'coupon sweeper'}) eq '0' });
is(ask("SELECT coupon_hold($c, 1, 'gone', '3 s'), coupon_hold($c, 2, 'gone too', '3 s') \\g /dev/null\nSELECT status FROM coupon_hold_any($c, 'waits')"),
	'sold_out', 'all is held');
poll_until('it to run out', sub { ask("SELECT remaining FROM coupon_status($c)") eq '2' });
is(ask("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $c"), '2', 'run out, and nobody sweeps');
is(ask("SELECT status FROM coupon_hold($c, 1, 'next')"), 'held', 'F18, F20: with the sweeper dead, what has run out can be held');
is(ask("SELECT status, serial FROM coupon_issue($c, 'any')"), 'issued|2', 'F20, F22: and issued, though sold_out was said');
is(ask("SELECT status FROM coupon_confirm($c, 1, 'gone', 'late')"), 'lost', 'F18: a late payment is told that it is lost');
is(ask("SELECT status FROM coupon_hold_any($c, 'too late')"), 'sold_out', 'then it is sold out again');
ask("SELECT coupon_release($c, 1, 'next'), coupon_revoke($c, 'any', 'test')");
ask("SELECT coupon_hold($c, 1, 'left', '50 ms')");

# 400 units whose holds have run out, wanted by 20 clients in all ways; a fourth
# of the transactions is rolled back.  Nobody is told that all is gone before it is.
my $many = ask("SELECT coupon_campaign_create('many', 400, per_user_limit => 400)");
ask("SELECT count(*) FROM coupon_hold_many($many, ARRAY(SELECT generate_series(1, 400)), 'gone'::text, '1 ms')");
poll_until('them to run out', sub { ask("SELECT remaining FROM coupon_status($many)") eq '400' });
ask('TRUNCATE answers; ALTER SEQUENCE users RESTART');
my %wants = (
	'096_wants_issue' => "SELECT user_id, status FROM coupon_issue($many, nextval('users'))",
	'096_wants_any' => "SELECT user_id, status FROM coupon_hold_any($many, nextval('users'))",
	'096_wants_many' => "SELECT user_id, status FROM coupon_issue_many($many, ARRAY[nextval('users')::text])");
$node->pgbench('-n -c 20 -j 2 -t 19', 0, [qr/processed: 380\/380/], [qr/^$/],
	'20 clients want what has run out', { map { $_ => qq{
		\\set end random(1, 4)
		$patient;
		BEGIN;
		\\if :end = 1
		INSERT INTO answers $wants{$_};
		ROLLBACK;
		BEGIN;
		\\endif
		INSERT INTO answers $wants{$_};
		COMMIT;
	} } keys %wants });
is(ask(q{SELECT string_agg(status || n, ' ' ORDER BY status) FROM (SELECT CASE WHEN status IN ('held', 'issued') THEN 'got' ELSE status END AS status, count(*) AS n FROM answers GROUP BY 1) a}),
	'got380', 'F22: 380 of 400 get one, and nobody is told sold_out or busy');
is(ask("$patient; SELECT string_agg(status || n, ' ' ORDER BY status) FROM (SELECT status, count(*) AS n FROM coupon_issue_many($many, ARRAY(SELECT 'late' || g FROM generate_series(1, 25) g)) GROUP BY 1) a"),
	'issued20 sold_out5', 'F22: then the last 20 are had');
ask("SELECT coupon_release($many, serial, user_id) FROM coupon.issuance WHERE campaign_id = $many AND state = 'held'");
$node->append_conf('postgresql.conf', "coupon.databases = 'postgres'");
$node->reload;
poll_until('the next sweeper', sub { ask("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $c") eq '0' });
pass('the next sweeper finds what was left');

# killed in the middle of its work, again and again
$c = hall(64, 64);
$node->append_conf('postgresql.conf', "coupon.sweep_interval = '10ms'");
$node->reload;
for my $round (1 .. 3)
{
	ask("SELECT count(*) FROM coupon_hold_many($c, ARRAY(SELECT generate_series(1, 64)), 'round $round'::text, '1 ms')");
	ask(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'coupon sweeper'});
	is(ask("$patient; SELECT count(*) FROM coupon_hold_many($c, ARRAY[1, 2, 3], 'again'::text, '1 ms') WHERE status = 'held'"),
		'3', "the sweeper is killed, round $round: what has run out can be held");
	poll_until('it to be swept', sub { ask("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $c") eq '0' });
}
lives_are_right('a sweeper that is killed');

# what is remembered is forgotten in time
is(ask("SELECT count(*) > 0 FROM coupon.lapsed_hold"), 't', 'it is remembered whose holds ran out');
$node->append_conf('postgresql.conf', "coupon.hold_keep = '1s'");
$node->reload;
poll_until('it to be old', sub { ask(q{SELECT max(held_until) < now() - interval '1 s' FROM coupon.lapsed_hold}) eq 't' });
ask(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'coupon sweeper'});
poll_until('it to be forgotten', sub { ask("SELECT count(*) FROM coupon.lapsed_hold") eq '0' });
pass('and forgotten after coupon.hold_keep');

# ---- a crash ----

$c = hall(10, 2);
$node->append_conf('postgresql.conf', "coupon.hold_keep = '1d'");
my $until = ask("SELECT held_until FROM coupon_hold($c, 1, 'alice')");
ask("SELECT coupon_hold($c, 2, 'bob', '700 ms'), coupon_hold($c, 3, 'carol'), coupon_confirm($c, 3, 'carol', 'p')");
my $open = $node->background_psql('postgres', on_error_stop => 0);
$open->query_safe("BEGIN; SELECT coupon_hold($c, 4, 'dora'), coupon_release($c, 1, 'alice'), coupon_confirm($c, 2, 'bob', 'p')");
$node->stop('immediate');
eval { $open->quit };
$node->start;
is(ask("SELECT string_agg(left(status, 1), '' ORDER BY serial) FROM coupon_units($c) WHERE serial <> 2"), 'HIFFFFFFF',
	'a crash: what was held is held, what was not committed is free');
is(ask("SELECT held_until FROM coupon_hold($c, 1, 'alice')"), $until, 'F18: until the same time');
is(ask("SELECT status FROM coupon_hold($c, 1, 'erin')"), 'taken', 'F18: and taken for others');
is(ask("SELECT status FROM coupon_hold($c, 4, 'erin')"), 'held', 'F21: what the crash undid can be held');
is(ask("SELECT status FROM coupon_confirm($c, 1, 'alice', 'p')"), 'confirmed', 'a hold from before the crash is paid for');
poll_until('the sweeper after the crash', sub { ask("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $c AND serial = 2") eq '0' });
is(ask("SELECT status FROM coupon_confirm($c, 2, 'bob', 'p')"), 'confirmed', 'F18: one that ran out meanwhile, too, while the seat is free');

# ---- F24: behind a room ----

$c = hall(10);
my $token = ask(qq{
	SELECT coupon_room_create('hall', 10) AS ignore \\gset
	SELECT coupon_campaign_require_room($c, 'hall') AS ignore \\gset
	SELECT token FROM coupon_queue_join('hall', 'alice')});
poll_until('alice to be admitted', sub { ask("SELECT queue_position FROM coupon_queue_position('$token')") eq '0' });
is(ask("SELECT status FROM coupon_hold($c, 1, 'mallory')"), 'not_admitted', 'F24: nobody holds past the room');
is(ask("SELECT status FROM coupon_hold_any($c, 'mallory')"), 'not_admitted', 'F24: nor any');
is(ask("SELECT string_agg(status, ' ') FROM coupon_hold_many($c, ARRAY[1, 2], 'mallory'::text)"), 'not_admitted not_admitted', 'F24: nor several');
is(ask("SELECT status FROM coupon_confirm($c, 1, 'mallory', 'p')"), 'not_held', 'F24: nor pays past it');
is(ask("SELECT status FROM coupon_hold($c, 1, 'alice')"), 'held', 'F24: who is admitted does');
is(ask(qq{
		BEGIN;
		SELECT status FROM coupon_confirm($c, 1, 'alice', 'p');
		SELECT coupon_queue_leave('$token', 'paid');
		COMMIT}), "confirmed\nt", 'F20: the payment ends the ticket, in one transaction');
is(ask("SELECT status FROM coupon_hold($c, 2, 'alice')"), 'not_admitted', 'F20: and the session with it');
is(ask("SELECT status FROM coupon_hold($c, 1, 'alice')"), 'already_issued', 'what is theirs they are told all the same');

# ---- a storm ----

my $storm = ask(q{
	SELECT coupon_campaign_create('storm', 30, per_user_limit => 3, policy => '{"usage_period_days": 1}')});
my %storm = (
	'096_hold@6' => qq{
		\\set u random(1, 25)
		\\set s random(1, 30)
		\\set ms random(1, 60)
		\\set end random(0, 4)
		BEGIN;
		SELECT coupon_hold($storm, :s, :u, :ms * interval '1 ms');
		\\if :end = 0
		ROLLBACK;
		\\else
		COMMIT;
		\\endif
	}, '096_many@2' => qq{
		\\set u random(1, 25)
		\\set s random(1, 28)
		\\set ms random(1, 60)
		SELECT coupon_hold_many($storm, ARRAY[:s + 2, :s], :u, :ms * interval '1 ms');
	}, '096_any@1' => qq{
		\\set u random(1, 25)
		\\set ms random(1, 60)
		BEGIN;
		SAVEPOINT a;
		SELECT coupon_hold_any($storm, :u);
		ROLLBACK TO a;
		SELECT coupon_hold_any($storm, :u, :ms * interval '1 ms');
		COMMIT;
	}, '096_pay@4' => qq{
		\\set u random(1, 25)
		\\set s random(1, 30)
		\\set p random(1, 1000000000)
		SELECT coupon_confirm($storm, :s, :u, 'p' || :p);
	}, '096_release@2' => qq{
		\\set u random(1, 25)
		\\set s random(1, 30)
		SELECT coupon_release($storm, :s, :u);
	}, '096_issue@1' => qq{
		\\set u random(1, 25)
		SELECT coupon_issue($storm, :u);
	}, '096_revoke@3' => qq{
		\\set u random(1, 25)
		SELECT coupon_revoke($storm, :u, 'test');
	}, '096_expire@1' => q{
		SELECT coupon_hold_expire(3);
	});
my $rounds = 0;
poll_until('all kinds of events', sub {
	$rounds++;
	$node->pgbench('-n -c 16 -j 2 -T 6', 0, [qr/processed: \d+/], [qr/^$/],
		'a storm of holds, payments, releases, issues, revocations and sweeps', { map { ("$rounds-$_" => $storm{$_}) } keys %storm });
	return ask("SELECT count(DISTINCT type) FROM coupon.outbox WHERE payload->>'campaign_id' = '$storm' AND type <> 'coupon.campaign_created'") eq '7';
});
settle($node, 'postgres');
poll_until('the storm to be swept', sub { ask("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $storm AND state = 'held'") eq '0' });
unlike(slurp_file($node->logfile), qr/deadlock detected/, 'F8: no deadlock');
conserved($node, 'postgres', 'the storm');
lives_are_right('the storm');

# ---- somebody keeps a snapshot, and with it the index entries of holds that have ended ----

my $analyst = $node->background_psql('postgres');
$analyst->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT');
my $kept = ask(q{SELECT coupon_campaign_create('kept', 3000)});
# in another order than they are in the table, so that each costs a page
ask("SELECT count(coupon_hold_any($kept, 'k' || g, (1 + g * 7919 % 400) * interval '1 ms')) FROM generate_series(1, 3000) g");
poll_until('them to be swept', sub { ask("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $kept") eq '0' });
my ($status) = ask("EXPLAIN (ANALYZE, BUFFERS, TIMING off) SELECT * FROM coupon_status($kept)") =~ /Buffers: shared hit=(\d+)/;
cmp_ok($status, '<', 1000, 'coupon_status() does not walk over them');
is(ask("SELECT remaining || ' ' || held FROM coupon_status($kept)"), '3000 0', '  and counts right');
$analyst->query_safe('COMMIT');
$analyst->quit;

# ---- the same storm, and a session is killed in the middle of it ----

my $killer = fork;
die "fork: $!" unless defined $killer;
if ($killer == 0)
{
	my $acted = 0;

	my $busy = q{FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND query ~ 'coupon_(hold|confirm)'};

	eval {
		poll_until('the storm', sub {
			my $victim = ask("SELECT CASE WHEN count(*) > 5 THEN min(pid) ELSE 0 END $busy");

			$acted = kill 'KILL', $victim if $victim;
			return $acted;
		});
	};
	POSIX::_exit($acted ? 0 : 1);
}
$node->pgbench('-n -c 16 -j 2 -T 60', 2, [qr/./], [qr/terminating connection|server closed|connection to server/],
	'the same storm, cut off', { map { s/096/096_again/r => $storm{$_} } keys %storm });
waitpid $killer, 0;
is($?, 0, 'by a session that is killed');
poll_until('the server to be back', sub { defined try_sql($node, 'postgres', 'SELECT') });
settle($node, 'postgres');
poll_until('the storm to be swept', sub { ask("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $storm AND state = 'held'") eq '0' });
conserved($node, 'postgres', 'F21: the storm and a crash');
lives_are_right('F21: the storm and a crash');
is(ask(qq{SELECT count(*) FROM coupon_issue_many($storm, ARRAY(SELECT 'last' || g FROM generate_series(1, 40) g)) WHERE status = 'issued'}),
	30 - ask("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $storm AND user_id NOT LIKE 'last%'"),
	'F22: not one unit is stranded');
server_log_is_clean($node, 'holds');

$node->stop;
done_testing();
