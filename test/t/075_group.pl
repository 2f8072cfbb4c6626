# Grouped calls: crowds, cancellations at every moment, workers and sessions
# that stop, are killed or missing, errors of one call beside its neighbours.
# A client that is told "issued" has it; one that is told that nothing was
# issued has nothing.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('main', <<'END');
coupon.databases = 'postgres, app'
coupon.sold_out_wait = '100ms'
max_wal_senders = 4
wal_level = replica
END
my $dir = PostgreSQL::Test::Utils::tempdir();

sub sql
{
	return $node->safe_psql('postgres', shift);
}

sub create
{
	my ($stock, $limit) = @_;

	return sql(sprintf q{SELECT coupon_campaign_create('c', %d, %d)}, $stock, $limit // 1);
}

sub worker
{
	my ($database) = @_;

	return $node->safe_psql('postgres', sprintf q{
		SELECT coalesce(min(pid), 0) FROM pg_stat_activity
		WHERE backend_type = 'coupon group' AND datname = '%s'}, $database // 'postgres');
}

# so many workers are ready, of whom none is the one before
sub await_workers
{
	my ($n, $before) = @_;

	return poll_until("$n group workers", sub {
		my $ready = try_sql($node, 'postgres', 'SELECT workers FROM coupon_group_status()');
		return defined $ready && $ready eq $n && (!$before || worker() != $before);
	});
}

# A stopped worker takes nothing: what is called meanwhile waits.  It is
# stopped while it waits itself, so that it is in nobody's way.
sub stop_worker
{
	my $pid = worker();

	poll_until('a worker that waits', sub {
		kill 'STOP', $pid or die "kill: $!";
		poll_until('stopped', sub { slurp_file("/proc/$pid/stat") =~ /\) T/ });
		return 1 if sql("SELECT count(*) = 0 FROM pg_locks WHERE pid = $pid AND locktype <> 'userlock'") eq 't'
		  && sql("SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $pid") eq 't';
		kill 'CONT', $pid;
		return 0;
	});
	return $pid;
}

sub waiting
{
	my ($n, $database) = @_;

	return await_true($node, 'postgres', sprintf q{
		SELECT count(*) = %d FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND state = 'active' AND wait_event_type = 'Extension'
		  AND query LIKE '%%coupon_issue_grouped%%' AND datname = '%s'}, $n, $database // 'postgres');
}

# Starts a psql with a script; { out, err, run }
my $scripts = 0;
sub start
{
	my ($script, $database) = @_;
	my $file = "$dir/script" . $scripts++;
	my %p = (out => '', err => '');

	open my $f, '>', "$file.sql" or die $!;
	print $f "\\set VERBOSITY verbose\n$script";
	close $f;
	$p{out_file} = "$file.out";
	$p{err_file} = "$file.err";
	$p{run} = IPC::Run::start(
		[ 'psql', '-X', '-q', '-At', '-d', $node->connstr($database // 'postgres'), '-f', "$file.sql" ],
		'>', $p{out_file}, '2>', $p{err_file});
	return \%p;
}

sub finish
{
	my ($p) = @_;

	$p->{run}->finish;
	$p->{out} = slurp_file($p->{out_file});
	$p->{err} = slurp_file($p->{err_file});
	$p->{err} =~ s/^LOCATION:.*\n//mg;
	return $p;
}

sub call
{
	my ($campaign, $user) = @_;

	return "SELECT user_id, status FROM coupon_issue_grouped($campaign, '$user');\n";
}

sub issued_to
{
	my ($campaign, $user) = @_;

	return sql("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $campaign AND user_id = '$user'");
}

await_workers(1);

# ---- answers ----

my $c = create(3);
like(sql("SELECT * FROM coupon_issue_grouped($c, 'alice')"), qr/^alice\|issued\|\d\|\|2.*\|$/, 'issued');
is( sql("SELECT i.status, i.serial = x.serial, i.issued_at = x.issued_at
		FROM coupon_issue_grouped($c, 'alice') i, coupon.issuance x WHERE x.campaign_id = $c"),
	'already_issued|t|t', 'a repetition finds it');
is(sql("SELECT user_id, status FROM coupon_issue_grouped($c, 42)"), '42|issued', 'a number');
is(sql("SELECT status FROM coupon_issue($c, '42')"), 'already_issued', 'the direct way knows of it');
is(sql("SELECT status FROM coupon_issue($c, 'bob')"), 'issued', 'and the other way');
is(sql("SELECT status FROM coupon_issue_grouped($c, 'bob')"), 'already_issued', 'round');
is(sql("SELECT status FROM coupon_issue_grouped($c, 'carol')"), 'sold_out', 'sold out');
my $calls = sql('SELECT calls FROM coupon_group_status()');
is(sql("SELECT status FROM coupon_issue_grouped($c, 'carol')"), 'sold_out', 'again');
is(sql('SELECT calls FROM coupon_group_status()'), $calls, 'for which no worker is needed');
is(sql("SELECT answered_issued, answered_already_issued, answered_sold_out FROM coupon_status($c)"), '3|3|2', 'answers are counted');

$c = create(0, 2);
sql("SELECT coupon_codes_import($c, '{K1,K2}')");
is(sql("SELECT code FROM coupon_issue_grouped($c, 'a')") . sql("SELECT code FROM coupon_issue_grouped($c, 'a')"), 'K1K2', 'codes');
my $due = sql(q{SELECT coupon_campaign_create('due', 3, policy => '{"usage_period_days": 1}')});
is(sql("SELECT expires_at - issued_at FROM coupon_issue_grouped($due, 'a')"), '1 day', 'a usage period');
is(sql("SELECT (coupon_issue_grouped($due, u)).status FROM unnest('{x,x}'::text[]) u"), "issued\nalready_issued", 'several in a statement');

# ---- transactions ----

$c = create(100);
for my $within (
	"BEGIN; SELECT coupon_issue_grouped($c, 'x'); COMMIT;",
	"SELECT coupon_issue_grouped($c, 'x')\\; SELECT 1;",
	"DO \$\$ BEGIN PERFORM coupon_issue_grouped($c, 'x'); END \$\$;",
	"CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN status FROM coupon_issue_grouped($c, \$\$x\$\$); END'; SELECT f();",
	"CREATE FUNCTION g() RETURNS text LANGUAGE plpgsql AS 'DECLARE r record; BEGIN r := coupon_issue_grouped($c, \$\$x\$\$); RETURN r; END'; SELECT g();",
	"CREATE TABLE t AS SELECT coupon_issue_grouped($c, 'x');")
{
	like(sql_error($node, 'postgres', $within), qr/ERROR:  25001: .*DETAIL:.*HINT:/s, "refused: $within");
}
is(issued_to($c, 'x'), '0', 'and nothing is issued');
is(sql("SET coupon.allow_autonomous = on; SELECT f()"), 'issued', 'allowed in a function');
is(sql("SET coupon.allow_autonomous = on; BEGIN; SELECT status FROM coupon_issue_grouped($c, 'y'); ROLLBACK"), 'issued', 'and in a block');
is(issued_to($c, 'y'), '1', 'which a rollback does not undo');
is(sql("SET coupon.allow_autonomous = on; BEGIN; SELECT status FROM coupon_issue($c, 'z');
		SELECT status FROM coupon_issue_grouped($c, 'z'); COMMIT"),
	"issued\nbusy", 'who holds the user in the same transaction is told busy');
like(sql_error($node, 'postgres', "SET default_transaction_read_only = on; SELECT coupon_issue_grouped($c, 'x2')"),
	qr/ERROR:  25006/, 'a read-only transaction');
like(sql_error($node, 'postgres', "SELECT coupon_issue_grouped(0, 'x')"), qr/ERROR:  UC001/, 'an unknown campaign');
like(sql_error($node, 'postgres', "SET coupon.allow_autonomous = on; BEGIN; SELECT coupon_campaign_create('mine', 5) AS c \\gset\nSELECT coupon_issue_grouped(:c, 'x')"),
	qr/ERROR:  UC001.*DETAIL:.*HINT:/s, 'a campaign that is not committed');

# ---- crowds ----

sub crowd
{
	my ($what, $workers) = @_;

	$c = create(100);
	$node->pgbench('-n -c 32 -j 2 -t 60', 0, [qr/processed: 1920\/1920/], [qr/^$/],
		"$what: 1,000 users want 100 units", { "075_last$workers" => qq{
			\\set u random(1, 1000)
			SELECT coupon_issue_grouped($c, :u);
		} });
	settle($node, 'postgres');
	is( sql("SELECT count(*), count(DISTINCT user_id), count(DISTINCT serial) FROM coupon.issuance WHERE campaign_id = $c"),
		'100|100|100', "$what: exactly 100 are issued");
	is(sql("SELECT issued, remaining, in_flight, answered_issued, answered_issued + answered_already_issued + answered_sold_out + answered_busy FROM coupon_status($c)"),
		'100|0|0|100|1920', "$what: each of 1,920 answers is counted once");
	is(sql("SELECT count(*) FROM coupon.outbox WHERE type = 'coupon.issued' AND payload->>'campaign_id' = '$c'"),
		'100', "$what: with 100 events");

	$c = create(100, 3);
	$node->pgbench('-n -c 20 -j 2 -t 20', 0, [qr/processed: 400\/400/], [qr/^$/],
		"$what: one user from 20 sessions, limit 3", { "075_three$workers" => "SELECT coupon_issue_grouped($c, 'one')" });
	is(sql("SELECT array_agg(nth ORDER BY nth) FROM coupon.issuance WHERE campaign_id = $c"), '{1,2,3}', "$what: has three");

	# grouped, direct, many; transactions that abort; several campaigns
	$c = create(200);
	my $d = create(0);
	sql("SELECT coupon_codes_import($d, ARRAY(SELECT 'K' || g FROM generate_series(1, 200) g))");
	$node->pgbench('-n -c 24 -j 2 -t 100', 0, [qr/processed: 2400\/2400/], [qr/^$/],
		"$what: all ways at once", { "075_grouped$workers\@4" => qq{
			\\set u random(1, 400)
			SELECT coupon_issue_grouped($c + :u % 2, :u);
		}, "075_direct$workers\@1" => qq{
			\\set u random(1, 400)
			SELECT coupon_issue($c + :u % 2, :u);
		}, "075_abort$workers\@1" => qq{
			\\set u random(1, 400)
			BEGIN;
			SELECT coupon_issue($c + :u % 2, :u);
			ROLLBACK;
		}, "075_many$workers\@1" => qq{
			SELECT count(*) FROM coupon_issue_many($c, ARRAY(SELECT g::text FROM generate_series(1, 400) g WHERE random() < 0.02 ORDER BY random()));
		} });
	settle($node, 'postgres');
	sql("SELECT count(*) FROM coupon_issue_many($_, ARRAY(SELECT 'r' || g FROM generate_series(1, 250) g))") for $c, $d;
	is(sql("SELECT count(*), count(DISTINCT user_id), count(DISTINCT serial) FROM coupon.issuance WHERE campaign_id = $_"),
		'200|200|200', "$what: exactly the stock") for $c, $d;
	conserved($node, 'postgres', $what);
}

my $before = sql('SELECT repeated_batches FROM coupon_group_status()');
crowd('one worker', 1);
my ($batches, $mean, $largest, $commit, $repeated) = split /\|/, sql('SELECT batches, mean_batch, largest_batch, commit_ms, repeated_batches FROM coupon_group_status()');
cmp_ok($mean, '>', 1, 'calls share transactions');
cmp_ok($largest, '>=', 5, 'many of them');
cmp_ok($commit, '>', 0, 'commits take time');
is($repeated, $before, 'and none was repeated');

# ---- given up before and after it was taken ----

$c = create(10);
my $pid = stop_worker();
my $p = start("SET statement_timeout = '200ms';\n" . call($c, 'impatient'));
like(finish($p)->{err}, qr/57014.*statement timeout/, 'a call that waits can be cancelled');
my $q = start(call($c, 'terminated'));
waiting(1);
sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%terminated%' AND pid <> pg_backend_pid()");
like(finish($q)->{err}, qr/57P01/, 'and terminated');
my $patient = start(call($c, 'patient'));
waiting(1);
kill 'CONT', $pid;
is(finish($patient)->{out}, "patient|issued\n", 'who stays is served');
is(issued_to($c, 'impatient') . issued_to($c, 'terminated'), '00', 'nothing came of the calls that were given up');
is(sql("SELECT status FROM coupon_issue_grouped($c, 'impatient')"), 'issued', 'a new one is another matter');

# the commit waits for a standby that never comes; sessions ask for less or more
my $doomed = create(10);
sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
$node->reload;
await_true($node, 'postgres', q{SELECT current_setting('synchronous_standby_names') = 'nobody'});
is(sql("SET synchronous_commit = local; SELECT status FROM coupon_issue_grouped($c, 'local')"), 'issued', 'who asks for less does not wait for a standby');
$p = start(call($c, 'taken'));
await_true($node, 'postgres', "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $pid");
sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%taken%' AND pid <> pg_backend_pid()");
like(finish($p)->{err}, qr/57014.*user request/, 'a call in a batch whose commit waits for a standby can be cancelled');
is(sql("SELECT wait_event FROM pg_stat_activity WHERE pid = $pid"), 'SyncRep', 'and the commit goes on waiting');
sql("ALTER SYSTEM RESET synchronous_standby_names");
$node->reload;
is(sql("SELECT status FROM coupon_issue_grouped($c, 'taken')"), 'already_issued', 'it was issued: a repetition tells so');
is(worker(), $pid, 'by the same worker');

# who asks for more after others asked for less, in a batch that is repeated
sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
$node->reload;
await_true($node, 'postgres', q{SELECT current_setting('synchronous_standby_names') = 'nobody'});
is(sql("SET synchronous_commit = off; SELECT status FROM coupon_issue_grouped($c, 'less')"), 'issued', 'who asks for nothing does not wait at all');
stop_worker();
$q = start(call($doomed, 'culprit'));
$p = start(call($c, 'more'));
waiting(2);
sql("SET synchronous_commit = off; SELECT coupon_campaign_close($doomed); DELETE FROM coupon.shard WHERE campaign_id = $doomed; DELETE FROM coupon.campaign WHERE campaign_id = $doomed");
kill 'CONT', $pid;
poll_until('the batch', sub { -s $p->{out_file} || sql("SELECT wait_event FROM pg_stat_activity WHERE pid = $pid") eq 'SyncRep' });
is(-s $p->{out_file}, 0, 'who asks for a standby waits for it, whatever was asked for before an error');
sql("SELECT pg_cancel_backend($pid), pg_sleep(0.3)");
is(-s $p->{out_file}, 0, 'to cancel the worker makes no answer of it');
sql("ALTER SYSTEM RESET synchronous_standby_names");
$node->reload;
is(finish($p)->{out}, "more|issued\n", 'and is answered then');
like(finish($q)->{err}, qr/ERROR:  UC001/, 'the error is the other call\'s');

sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
$node->reload;
await_true($node, 'postgres', q{SELECT current_setting('synchronous_standby_names') = 'nobody'});
$p = start(call($c, 'unknown'));
await_true($node, 'postgres', "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $pid");
sql("SELECT pg_terminate_backend($pid)");
like(finish($p)->{err}, qr/40003.*DETAIL:.*might not be on the standby.*HINT:/s, 'a worker that is stopped does not say that the standby has it');
sql("ALTER SYSTEM RESET synchronous_standby_names");
$node->reload;
await_workers(1, $pid);
is(sql("SELECT status FROM coupon_issue_grouped($c, 'unknown')"), 'already_issued', 'it is there');
conserved($node, 'postgres', 'given up');

# a session that does not run does not keep the others from their answers
$pid = stop_worker();
my @others = map { start(call($c, "other$_")) } 1 .. 3;
my @slow = map { my $s = start(call($c, "slow$_")); waiting(3 + $_); $s } 1 .. 4;
push @others, start(call($c, 'other4'));
waiting(8);
my @slow_pids = split /\n/, sql("SELECT pid FROM pg_stat_activity WHERE query LIKE '%slow%' AND pid <> pg_backend_pid()");
kill 'STOP', @slow_pids;
kill 'CONT', $pid;
my $started = time;
my %got = map { split /\|/, finish($_)->{out} =~ s/\n//r } @others;
is_deeply([ sort keys %got ], [ map { "other$_" } 1 .. 4 ], 'sessions that are stopped hold up nobody');
cmp_ok(time - $started, '<', within(5), 'for long');
kill 'CONT', @slow_pids;
finish($_) for @slow;

# ---- an error is its own call's ----

my ($gone, $long, $once) = (create(10), create(0), create(10));
sql("INSERT INTO coupon.unit SELECT $long, 1, repeat('x', 300); INSERT INTO coupon.shard VALUES ($long, 0, 1, 1); UPDATE coupon.campaign SET coded = true WHERE campaign_id = $long");
$c = create(10);
sql("SELECT coupon_issue_grouped($gone, 'before')");
sql("SELECT coupon_revoke($gone, 'before', 'r')");
# somebody's own index: a user of this campaign has no unit of the other one
sql("CREATE UNIQUE INDEX either ON coupon.issuance (user_id) WHERE campaign_id IN ($once, $c)");
sql("SELECT coupon_issue($c, 'twice')");
$pid = stop_worker();
my %p = (gone => start(call($gone, 'a')), long => start(call($long, 'a')));
$p{"fine$_"} = start(call($c, "n$_")) for 1 .. 3;
$p{$_} = start(call($once, $_)) for 'one', 'twice', 'two';
waiting(8);
sql("SELECT coupon_campaign_close($gone); DELETE FROM coupon.issuance WHERE campaign_id = $gone; DELETE FROM coupon.shard WHERE campaign_id = $gone; DELETE FROM coupon.campaign WHERE campaign_id = $gone");
kill 'CONT', $pid;
finish($_) for values %p;
like($p{gone}->{err}, qr/ERROR:  UC001: unknown campaign\nDETAIL:  There is no campaign $gone.\nHINT:/, 'a campaign that went meanwhile');
like($p{long}->{err}, qr/ERROR:  54000: .*DETAIL:  It has 300 bytes.\nHINT:/s, 'a code that cannot be');
is(join('', map { $p{"fine$_"}->{out} } 1 .. 3), "n1|issued\nn2|issued\nn3|issued\n", 'are nothing to the others');
like($p{twice}->{err}, qr/ERROR:  23505: .*DETAIL:/s, 'a row that an index refuses');
is($p{one}->{out} . $p{two}->{out}, "one|issued\ntwo|issued\n", 'is nothing to others of the same campaign');
is(issued_to($long, 'a') . issued_to($once, 'twice'), '00', 'and they leave nothing behind');
sql('DROP INDEX coupon.either');
cmp_ok(sql('SELECT repeated_batches FROM coupon_group_status()'), '>', 0, 'which took a second attempt');
sql("DELETE FROM coupon.unit WHERE campaign_id = $long; UPDATE coupon.campaign SET coded = false WHERE campaign_id = $long");

# the tables locked: for a moment, and for longer
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE coupon.issuance');
$p = start(call($c, 'moment'));
waiting(1);
$locker->query_safe('COMMIT');
is(finish($p)->{out}, "moment|issued\n", 'tables that are locked for a moment');
$locker->query_safe('BEGIN; LOCK TABLE coupon.issuance');
$started = time;
like(finish(start(call($c, 'longer')))->{err}, qr/ERROR:  55P03: .*DETAIL:.*HINT:/s, 'and for longer');
cmp_ok(time - $started, '<', within(5), 'are no endless wait');
$locker->query_safe('COMMIT');
$locker->quit;
is(issued_to($c, 'longer'), '0', 'nothing was issued');
conserved($node, 'postgres', 'errors');

# what the worker needs is locked by the caller themselves, where the worker does not look before
my %own = ('an index' => 'ALTER INDEX coupon.issuance_user_key SET TABLESPACE pg_default');
# from 18 on a cache knows what is in that one
$own{'a catalog'} = 'LOCK TABLE pg_extension' if sql('SHOW server_version_num') < 180000;
for my $what (sort keys %own)
{
	like(finish(start("SET coupon.allow_autonomous = on;\nSET statement_timeout = '150s';\nBEGIN;\n$own{$what};\n" . call($c, 'own lock')))->{err},
		qr/ERROR:  (55P03|UC020): .*DETAIL:.*HINT:.*/s, "$what locked by the caller: no endless wait");
}
is(issued_to($c, 'own lock'), '0', 'nothing was issued');

# ---- a storm of timeouts ----

$c = create(100000);
my @storm;
for my $client (1 .. 8)
{
	my $script = '';

	for my $i (1 .. 200)
	{
		# and none now and then: a busy machine serves nobody within 3 ms
		$script .= sprintf "SET statement_timeout = %d;\n", $i % 4;
		$script .= call($c, "s$client-$i");
	}
	push @storm, start($script);
}
# and of terminations
my $killer = start(join '', map { "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE '%endless%' AND state = 'active' AND pid <> pg_backend_pid(); SELECT pg_sleep(0.02);\n" } 1 .. 50);
my @endless = map { my $n = $_; start(join '', map { call($c, "endless$n-$_") } 1 .. 3000) } 1 .. 3;
finish($_) for @storm, $killer, @endless;
my ($acks, %errors) = (0);
my %served = map { $_ => 1 } split /\n/, sql("SELECT user_id FROM coupon.issuance WHERE campaign_id = $c");
for my $s (@storm)
{
	$errors{$1}++ while $s->{err} =~ /(?:ERROR|FATAL):  (\w+)/g;
	for my $line (split /\n/, $s->{out})
	{
		my ($user, $status) = split /\|/, $line;

		$acks++ if $status eq 'issued';
		$errors{$line}++ unless $status eq 'issued' && $served{$user};
	}
}
my $cancelled = delete $errors{57014} // 0;
cmp_ok($acks, '>', 0, "storm: $acks calls were issued");
cmp_ok($cancelled, '>', 0, "storm: $cancelled were cancelled");
is_deeply(\%errors, {}, 'storm: who was told so has a unit, and nothing else happened');
settle($node, 'postgres');
conserved($node, 'postgres', 'storm');
is(join(',', map { sql("SELECT status FROM coupon_issue_grouped($c, 'after$_')") } 1 .. 3), 'issued,issued,issued', 'storm: it goes on');

# ---- workers that are stopped, in mid-stream ----

sub stream
{
	my ($campaign, $n) = @_;

	return map {
		my $client = $_;

		# who is told that there is no worker does not use up their calls meanwhile
		start(join '', map { "\\echo call c$client-$_\n" . call($campaign, "c$client-$_") . "\\if :ERROR\nSELECT pg_sleep(0.02) \\g /dev/null\n\\endif\n" } 1 .. $n);
	} 1 .. 6;
}

# Each call has its answer, and the tables say the same; the errors by SQLSTATE.
sub judge
{
	my ($what, $campaign, @streams) = @_;
	my (%answer, %states, @wrong);
	my %has = map { $_ => 1 } split /\n/, sql("SELECT user_id FROM coupon.issuance WHERE campaign_id = $campaign");

	for my $s (@streams)
	{
		my $user;

		finish($s);
		for my $line (split /\n/, $s->{out})
		{
			if ($line =~ /^call (.*)/)
			{
				$answer{ $user = $1 } = 'none';
			}
			elsif ($line =~ /^\Q$user\E\|(\w+)$/)
			{
				$answer{$user} = $1;
			}
		}
		$states{$1}++ while $s->{err} =~ /(?:ERROR|FATAL):  (\w+)/g;
	}
	%has = map { $_ => 1 } split /\n/, sql("SELECT user_id FROM coupon.issuance WHERE campaign_id = $campaign");
	for my $user (keys %answer)
	{
		push @wrong, "$user $answer{$user}" if ($answer{$user} eq 'issued') != exists $has{$user};
	}
	cmp_ok(scalar(grep { $_ eq 'issued' } values %answer), '>', 0, "$what: units were issued");
	return (\@wrong, \%states);
}

for my $workers (1, 2)
{
	sql("ALTER SYSTEM SET coupon.group_workers = $workers");
	$node->reload;
	await_workers($workers);
	$c = create(100000);
	my @streams = stream($c, 4000);
	my $stopped = 0;

	for (1 .. 4)
	{
		poll_until('some calls', sub { sql("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $c") > 200 * $_ });
		my $victim = worker();
		$stopped++ if $victim && sql("SELECT pg_terminate_backend($victim)") eq 't';
		await_workers($workers, $victim);
	}
	my ($wrong, $states) = judge("$workers stopped", $c, @streams);
	is_deeply($wrong, [], "$workers worker(s) stopped $stopped times: issued is issued, and an error is nothing");
	is_deeply([ grep { $_ ne 'UC020' } keys %$states ], [], 'and the only error is that there is no worker')
	  or diag(join ' ', %$states);
	conserved($node, 'postgres', "$workers stopped");
}
crowd('two workers', 2);
$c = create(100);

sql("ALTER SYSTEM SET coupon.group_workers = 0");
$node->reload;
await_workers(0);
like(sql_error($node, 'postgres', "SELECT coupon_issue_grouped($c, 'nobody')"),
	qr/ERROR:  UC020: .*DETAIL:  Nothing was issued.*HINT:.*coupon.group_workers/s, 'without a worker: an error');
sql("ALTER SYSTEM RESET coupon.group_workers");
$node->reload;
await_workers(1);

# the last worker goes while calls wait
$pid = stop_worker();
$p = start(call($c, 'left alone'));
waiting(1);
sql("SELECT pg_terminate_backend($pid)");
kill 'CONT', $pid;
like(finish($p)->{err}, qr/ERROR:  UC020: .*DETAIL:  Nothing was issued/s, 'who waits is told when the worker goes');
is(issued_to($c, 'left alone'), '0', 'and nothing was');
await_workers(1, $pid);

# ---- DROP EXTENSION, DROP DATABASE ----

$pid = stop_worker();
$p = start(call($c, 'dropped'));
waiting(1);
# the call has looked at the tables, so DROP waits for it, and the worker for both
my $drop = start("SET lock_timeout = '@{[ CouponTest::PATIENCE ]}s';\nDROP EXTENSION coupon;\n");
await_true($node, 'postgres', 'SELECT count(*) > 0 FROM pg_locks WHERE NOT granted');
kill 'CONT', $pid;
like(finish($p)->{err}, qr/ERROR:  55P03: /, 'DROP EXTENSION while a call waits');
is(finish($drop)->{err}, '', 'is done when the call is turned away');
sql('CREATE EXTENSION coupon');
$c = create(100000);
is(sql("SELECT status FROM coupon_issue_grouped($c, 'new')"), 'issued', 'a new extension is served');
my @streams = stream($c, 300);
for (1 .. 3)
{
	sql("SET lock_timeout = '@{[ CouponTest::PATIENCE ]}s'; DROP EXTENSION coupon; CREATE EXTENSION coupon");
}
finish($_) for @streams;
pass('DROP and CREATE EXTENSION in mid-stream');
conserved($node, 'postgres', 'new extension');

for my $round (1 .. 2)
{
	sql('CREATE DATABASE app');
	$node->safe_psql('app', q{CREATE EXTENSION coupon; SELECT coupon_campaign_create('c', 100000)});
	poll_until('a worker in app', sub { $node->safe_psql('app', 'SELECT workers FROM coupon_group_status()') eq '1' });
	my $session = start(join('', map { call(1, "d$_") } 1 .. 100000), 'app');
	poll_until('calls in app', sub { $node->safe_psql('app', 'SELECT calls FROM coupon_group_status()') > 100 });
	$started = time;
	sql('DROP DATABASE app WITH (FORCE)');
	finish($session);
	cmp_ok(time - $started, '<', within(5), "round $round: DROP DATABASE in mid-stream");
}
$c = create(100000);
is(sql("SELECT status FROM coupon_issue_grouped($c, 'elsewhere')"), 'issued', 'other databases go on');

# ---- kills and crashes ----

my %acknowledged;
for my $crash ('worker', 'session', 'server')
{
	my $campaign = create(100000);

	@streams = stream($campaign, 20000);
	poll_until('some calls', sub { sql("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $campaign") > 300 });
	if ($crash eq 'server')
	{
		$node->stop('immediate');
	}
	else
	{
		my $victim = $crash eq 'worker' ? worker() :
		  sql("SELECT min(pid) FROM pg_stat_activity WHERE query LIKE '%grouped%' AND pid <> pg_backend_pid()");
		kill 'KILL', $victim;
	}
	finish($_) for @streams;
	$node->start if $crash eq 'server';
	await_workers(1);
	my @acks = map { $_->{out} =~ /^(\S+)\|issued$/mg } @streams;
	my %has = map { $_ => 1 } split /\n/, sql("SELECT user_id FROM coupon.issuance WHERE campaign_id = $campaign");
	cmp_ok(scalar(@acks), '>', 100, "$crash killed: units were issued");
	is_deeply([ grep { !$has{$_} } @acks ], [], "$crash killed: who was told so has one");
	is( sql("SELECT count(*) FROM coupon.outbox WHERE type = 'coupon.issued' AND payload->>'campaign_id' = '$campaign'"),
		scalar(keys %has), "$crash killed: one event each");
	conserved($node, 'postgres', "$crash killed");
	is(sql("SELECT status FROM coupon_issue_grouped($campaign, 'after')"), 'issued', "$crash killed: it goes on");
}

$started = time;
$node->stop('fast');
cmp_ok(time - $started, '<', within(5), 'fast shutdown');
server_log_is_clean($node, 'group');
done_testing();
