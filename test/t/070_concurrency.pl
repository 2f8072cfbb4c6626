# Crowds: everybody wants the last units, one user clicks from everywhere,
# sessions wait for a unit in flight, statements are cancelled all the time.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('main', <<'END');
coupon.sold_out_wait = '100ms'
max_prepared_transactions = 10
END

sub create
{
	my ($stock, $limit) = @_;

	return $node->safe_psql('postgres', sprintf q{SELECT coupon_campaign_create('c', %d, %d)}, $stock, $limit // 1);
}

sub status_of
{
	my ($campaign, $columns) = @_;

	return $node->safe_psql('postgres', "SELECT $columns FROM coupon_status($campaign)");
}

# ---- 1,000 users, 100 units ----

my $c = create(100);
$node->pgbench('-n -c 32 -j 2 -t 100', 0, [qr/processed: 3200\/3200/], [qr/^$/],
	'1,000 users want 100 units', { '070_last' => qq{
		\\set u random(1, 1000)
		SELECT coupon_issue($c, :u);
	} });
settle($node, 'postgres');
is( $node->safe_psql('postgres', "SELECT count(*), count(DISTINCT user_id), count(DISTINCT serial) FROM coupon.issuance WHERE campaign_id = $c"),
	'100|100|100', 'exactly 100 are issued');
is(status_of($c, 'issued, remaining, in_flight, answered_issued'), '100|0|0|100', 'and counted');
is( status_of($c, 'answered_issued + answered_already_issued + answered_sold_out + answered_busy'),
	'3200', 'each of 3,200 answers is counted once');
is( $node->safe_psql('postgres', "SELECT count(*) FROM coupon.outbox WHERE type = 'coupon.issued' AND payload->>'campaign_id' = '$c'"),
	'100', 'with 100 events');

# ---- the same, with transactions that abort, in a coded campaign ----

$c = create(0);
$node->safe_psql('postgres', "SELECT coupon_codes_import($c, ARRAY(SELECT 'K' || g FROM generate_series(1, 100) g))");
$node->pgbench('-n -c 16 -j 2 -t 150', 0, [qr/processed: 2400\/2400/], [qr/^$/],
	'100 codes, every second transaction aborts', { '070_abort@1' => qq{
		\\set u random(1, 100000)
		BEGIN;
		SELECT coupon_issue($c, :u);
		ROLLBACK;
	}, '070_keep@1' => qq{
		\\set u random(1, 100000)
		BEGIN;
		SAVEPOINT a;
		SELECT coupon_issue($c, :u);
		ROLLBACK TO a;
		SELECT coupon_issue($c, :u + 1);
		COMMIT;
	} });
settle($node, 'postgres');
is( $node->safe_psql('postgres', "SELECT count(*), count(DISTINCT serial) FROM coupon.issuance WHERE campaign_id = $c"),
	'100|100', 'every code is issued once');
is(status_of($c, 'remaining, in_flight'), '0|0', 'none is left');

# ---- one user, 20 sessions ----

$c = create(100);
$node->pgbench('-n -c 20 -j 2 -t 20', 0, [qr/processed: 400\/400/], [qr/^$/],
	'one user from 20 sessions', { '070_one' => "SELECT coupon_issue($c, 'one')" });
is($node->safe_psql('postgres', "SELECT count(*) FROM coupon.issuance WHERE campaign_id = $c"), '1', 'has one unit');
is(status_of($c, 'answered_issued, answered_already_issued, remaining, in_flight'), '1|399|99|0',
	'and was told so 399 times');

$c = create(100, 3);
$node->pgbench('-n -c 20 -j 2 -t 20', 0, [qr/processed: 400\/400/], [qr/^$/],
	'one user from 20 sessions, limit 3', { '070_three' => "SELECT coupon_issue($c, 'one')" });
is( $node->safe_psql('postgres', "SELECT array_agg(nth ORDER BY nth) FROM coupon.issuance WHERE campaign_id = $c"),
	'{1,2,3}', 'has three');
is(status_of($c, 'answered_issued, answered_already_issued, remaining'), '3|397|97', 'and is told so');

# ---- batches over the same users in every order: no deadlock ----

$c = create(300);
$node->pgbench('-n -c 16 -j 2 -t 50', 0, [qr/processed: 800\/800/], [qr/^$/],
	'batches over the same users', { '070_batch' => qq{
		SELECT count(*) FROM coupon_issue_many($c,
			ARRAY(SELECT g::text FROM generate_series(1, 400) g WHERE random() < 0.05 ORDER BY random()));
	} });
settle($node, 'postgres');
is( $node->safe_psql('postgres', "SELECT count(*), count(DISTINCT user_id) FROM coupon.issuance WHERE campaign_id = $c"),
	'300|300', 'exactly the stock');

$c = create(100, 2);
$node->pgbench('-n -c 16 -j 2 -t 20', 0, [qr/processed: 320\/320/], [qr/^$/],
	'batches with two wishes of each user', { '070_wishes' => qq{
		SELECT count(*) FROM coupon_issue_many($c,
			ARRAY(SELECT (g % 60)::text FROM generate_series(1, 120) g WHERE random() < 0.2 ORDER BY random()));
	} });
settle($node, 'postgres');
is( $node->safe_psql('postgres', "SELECT count(*), max(nth) FROM coupon.issuance WHERE campaign_id = $c"),
	'100|2', 'exactly the stock, at most two each');

# ---- PREPARE TRANSACTION is refused, and the unit comes back ----

$c = create(1);
like(sql_error($node, 'postgres', "BEGIN; SELECT coupon_issue($c, 'two-phase'); PREPARE TRANSACTION 'x';"),
	qr/ERROR:  0A000: .*HINT:/s, 'a transaction that has a unit cannot be prepared');
like(sql_error($node, 'postgres', "BEGIN; SAVEPOINT a; SELECT coupon_issue($c, 'two-phase'); RELEASE a; PREPARE TRANSACTION 'x';"),
	qr/ERROR:  0A000: /, 'nor one that has it from a subtransaction');
is( $node->safe_psql('postgres', "BEGIN; SAVEPOINT a; SELECT status FROM coupon_issue($c, 'two-phase'); ROLLBACK TO a;
		PREPARE TRANSACTION 'x'; ROLLBACK PREPARED 'x';"),
	'issued', 'one that gave it back can');
is(status_of($c, 'issued, remaining, in_flight'), '0|1|0', 'the unit came back');

# ---- the last unit in flight, and a crowd that waits for it ----

my @waiters = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 5;

# Starts "waiter N asks" in each session, waits until all of them wait.
sub ask
{
	my ($campaign, $wait, @sessions) = @_;
	my $n = 0;

	for my $session (@sessions)
	{
		$n++;
		$session->query_safe("SET coupon.sold_out_wait = '$wait'");
		$session->query_until(qr/asks/, qq{
			\\echo asks
			SELECT 'got ' || status FROM coupon_issue($campaign, 'waiter$n');
			\\echo answered
		});
	}
	await_true($node, 'postgres', q{
		SELECT count(*) = } . scalar(@sessions) . q{ FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND state = 'active' AND wait_event_type = 'Extension'});
	return;
}

sub answers
{
	my @sessions = @_;
	my $start = time;
	my @answers = map { $_->query_until(qr/answered/, '') =~ /got (\w+)/ ? $1 : 'error' } @sessions;

	cmp_ok(time - $start, '<', within(3), 'the answers come at once, not after the wait');
	return join ',', sort @answers;
}

my $holder = $node->background_psql('postgres', on_error_stop => 0);

$c = create(1);
$holder->query_safe("BEGIN; SELECT coupon_issue($c, 'holder')");
ask($c, '60s', @waiters);
$holder->query_safe('ROLLBACK');
is(answers(@waiters), 'issued,sold_out,sold_out,sold_out,sold_out', 'rolled back: one of the waiters gets it');

$c = create(1);
$holder->query_safe("BEGIN; SELECT coupon_issue($c, 'holder')");
ask($c, '60s', @waiters);
$holder->query_safe('COMMIT');
is(answers(@waiters), 'sold_out,sold_out,sold_out,sold_out,sold_out', 'committed: all of them are told sold out');

$c = create(2);
$holder->query_safe("BEGIN; SELECT coupon_issue_many($c, '{h1,h2}'::text[])");
ask($c, '60s', @waiters);
my $pid = $holder->query_safe('SELECT pg_backend_pid()');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
is(answers(@waiters), 'issued,issued,sold_out,sold_out,sold_out', 'the holder is terminated: its units are sold');
eval { $holder->quit };
$holder = $node->background_psql('postgres', on_error_stop => 0);

# a waiter that is cancelled, one whose wait is over; the others go on
$c = create(1);
$holder->query_safe("BEGIN; SELECT coupon_issue($c, 'holder')");
my $impatient = $node->background_psql('postgres', on_error_stop => 0);
$impatient->query_safe("SET coupon.sold_out_wait = '10ms'");
ask($c, '60s', @waiters);
is($impatient->query_safe("SELECT status FROM coupon_issue($c, 'impatient')"), 'busy', 'the wait is over: busy');
$impatient->query_safe("SET coupon.sold_out_wait = '60s'; SET statement_timeout = '20ms'");
$impatient->query("SELECT status FROM coupon_issue($c, 'impatient')");
like($impatient->{stderr}, qr/statement timeout/, 'a waiter can be cancelled');
$impatient->{stderr} = '';
$impatient->query_safe("RESET statement_timeout; BEGIN; SAVEPOINT a");
is(status_of($c, 'in_flight, remaining'), '1|0', 'one unit is in flight all the time');
$holder->query_safe('ROLLBACK');
is(answers(@waiters), 'issued,sold_out,sold_out,sold_out,sold_out', 'the waiters before are served all the same');
is($impatient->query_safe("SELECT status FROM coupon_issue($c, 'impatient')"), 'sold_out', 'then sold out');
$impatient->query_safe('ROLLBACK');

# many waiters, units that come back one by one
$c = create(3);
$holder->query_safe("BEGIN; SAVEPOINT a; SELECT coupon_issue($c, 'h1'); SAVEPOINT b; SELECT coupon_issue($c, 'h2');
	SAVEPOINT c; SELECT coupon_issue($c, 'h3')");
ask($c, '60s', @waiters);
$holder->query_safe('ROLLBACK TO c');
poll_until('one waiter', sub { status_of($c, 'issued') eq '1' });
$holder->query_safe('ROLLBACK TO b');
poll_until('two waiters', sub { status_of($c, 'issued') eq '2' });
is(status_of($c, 'in_flight, remaining'), '1|0', 'savepoints give back one unit each');
$holder->query_safe('COMMIT');
is(answers(@waiters), 'issued,issued,sold_out,sold_out,sold_out', 'to the waiters, and no more');

$_->quit for @waiters, $holder, $impatient;
settle($node, 'postgres');
conserved($node, 'postgres', 'waiters');

# ---- a storm of cancellations ----

$c = create(400);
my $dir = PostgreSQL::Test::Utils::tempdir();
my @storm;

for my $client (1 .. 6)
{
	my $file = "$dir/storm$client.sql";

	open my $script, '>', $file or die $!;
	print $script "SET coupon.sold_out_wait = '5s';\n";
	for my $i (1 .. 150)
	{
		my $ms = 1 + $i % 3;

		print $script "SET statement_timeout = $ms;\n";
		print $script $i % 2
		  ? "SELECT count(*) FROM coupon_issue_many($c, ARRAY(SELECT 's$client-$i-' || g FROM generate_series(1, 20) g));\n"
		  : "BEGIN; SELECT coupon_issue($c, 's$client-$i'); SAVEPOINT a; SELECT coupon_issue($c, 't$client-$i'); SELECT pg_sleep(1); COMMIT;\n";
		print $script "DO \$\$ BEGIN PERFORM coupon_issue($c, 'd$client-$i'); PERFORM pg_sleep(1);
			EXCEPTION WHEN query_canceled THEN NULL; END \$\$;\n";
	}
	close $script;
	push @storm, IPC::Run::start([ 'psql', '-X', '-q', '-At', '-d', $node->connstr('postgres'), '-f', $file ],
		'>', '/dev/null', '2>', "$dir/storm$client.err");
}
$_->finish for @storm;
settle($node, 'postgres');
my %errors;
for my $file (glob "$dir/storm*.err")
{
	/(?:ERROR|FATAL): +(.*)/ and $errors{$1}++ for split /\n/, slurp_file($file);
}
delete $errors{'current transaction is aborted, commands ignored until end of transaction block'};
# where BEGIN was cancelled
delete $errors{'SAVEPOINT can only be used in transaction blocks'};
# the server may take the late arrival of a timeout for a cancellation
my $cancelled = delete $errors{'canceling statement due to statement timeout'};
delete $errors{'canceling statement due to user request'};
cmp_ok($cancelled, '>', 100, 'statements were cancelled');
is_deeply(\%errors, {}, 'and nothing else happened');
conserved($node, 'postgres', 'after the storm');
$node->safe_psql('postgres', "SELECT count(*) FROM coupon_issue_many($c, ARRAY(SELECT 'rest' || g FROM generate_series(1, 450) g))");
is(status_of($c, 'issued, remaining, in_flight'), '400|0|0', 'the units came back and are sold, to the last');

# ---- units that the map takes for sold ----

# A superuser's rows are undecided when the map is made, then rolled back, so
# the units are found free only by a look at the whole index.  Nobody is told
# sold_out while somebody else is looking.
$c = create(64);
$node->safe_psql('postgres', qq{
	SET session_replication_role = replica;
	UPDATE coupon.shard SET last_serial = 30000 WHERE campaign_id = $c;
	RESET session_replication_role;
	CREATE TABLE answers (status text)});
$holder = $node->background_psql('postgres');
$holder->query_safe(qq{BEGIN; INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy)
	SELECT $c, g, 0, 1, now(), 'row' || g, 'issued', '{}' FROM generate_series(1, 20) g});
is($node->safe_psql('postgres', "SELECT count(*) FROM coupon_issue_many($c, ARRAY(SELECT 'u' || g FROM generate_series(1, 29980) g)) WHERE status = 'issued'"),
	'29980', 'all others are issued');
$holder->query_safe('ROLLBACK');
$holder->quit;
$node->pgbench('-n -c 20 -j 2 -t 1', 0, [qr/processed: 20\/20/], [qr/^$/],
	'20 users want 20 units', { '070_unchecked' => qq{
		SET coupon.sold_out_wait = '60s';
		INSERT INTO answers SELECT status FROM coupon_issue($c, 'late' || :client_id);
	} });
is($node->safe_psql('postgres', 'SELECT status, count(*) FROM answers GROUP BY 1 ORDER BY 1'),
	'issued|20', 'and have them all');
settle($node, 'postgres');
conserved($node, 'postgres', 'units that the map took for sold');

# ---- a double click on the last unit ----

# four sessions, one user, 500 campaigns of one unit: whoever waits for the
# unit that becomes their own must be told so, not that it is sold out
my $single = $node->safe_psql('postgres',
	q{SELECT min(coupon_campaign_create('single ' || g, 1)) FROM generate_series(1, 500) g});
my @clicks = map { '' } 1 .. 4;
my @sessions = map {
	my $out = \$clicks[$_];
	IPC::Run::start([ 'psql', '-X', '-q', '-At', '-d', $node->connstr('postgres') ], '<',
		\join('', "SET coupon.sold_out_wait = '60s';\n", map { "SELECT status FROM coupon_issue($_, 'me');\n" } $single .. $single + 499),
		'>', $out);
} 0 .. 3;
$_->finish for @sessions;
my %clicked;
$clicked{$_}++ for map { split /\n/ } @clicks;
is_deeply(\%clicked, { issued => 500, already_issued => 1500 }, 'a double click on the last unit finds it');

# ---- a waiter that holds units itself ----

$c = create(3);
my $holder3 = $node->background_psql('postgres');
$holder3->query_safe("BEGIN; SELECT coupon_issue($c, 'holder')");
my ($waited, $started) = ('', time);
my $waiter3 = IPC::Run::start([ 'psql', '-X', '-q', '-At', '-d', $node->connstr('postgres'), '-c',
	"SET coupon.sold_out_wait = '60s'", '-c', "SELECT string_agg(status, ' ') FROM coupon_issue_many($c, '{a,b,c}')" ],
	'>', \$waited);
await_true($node, 'postgres', "SELECT in_flight = 3 FROM coupon_status($c)");
$holder3->query_safe('COMMIT');
$waiter3->finish;
$holder3->quit;
is($waited, "issued issued sold_out\n", 'a batch that holds units waits for the rest');
cmp_ok(time - $started, '<', within(3), 'and not longer than they are in flight');

# ---- a million ----

$c = create(1_000_000);
my $before = time;
$node->pgbench('-n -c 4 -j 2 -t 27', 0, [qr/processed: 108\/108/], [qr/^$/],
	'1,080,000 users want 1,000,000 units', { '070_million' => qq{
		SELECT count(*) FROM coupon_issue_many($c, ARRAY(
			SELECT (:client_id * 270000 + n)::text FROM
				(SELECT coalesce(max(upto), 0) AS done FROM progress WHERE client = :client_id) p,
				generate_series(p.done + 1, p.done + 10000) n));
		INSERT INTO progress SELECT :client_id, coalesce(max(upto), 0) + 10000 FROM progress WHERE client = :client_id;
	} }) if $node->safe_psql('postgres', 'CREATE TABLE progress (client int, upto int)') eq '';
note(sprintf 'a million in %.1f s', time - $before);
is( $node->safe_psql('postgres', "SELECT count(*), count(DISTINCT serial), min(serial), max(serial)
		FROM coupon.issuance WHERE campaign_id = $c"),
	'1000000|1000000|1|1000000', 'every one of a million units is issued once');
is(status_of($c, 'issued, remaining, in_flight, answered_issued, answered_issued + answered_sold_out + answered_busy'),
	'1000000|0|0|1000000|1080000', 'and every answer counted');

conserved($node, 'postgres', 'all campaigns');
$node->stop;
server_log_is_clean($node, 'concurrency');
done_testing();
