# What coupon.stat_* counts: every way in, exactly, whatever becomes of the
# transaction; how long it took; the reset; whose it is.  Four sessions print
# each answer that they are given, and the views must have the same.
use strict;
use warnings;

use CouponNginx qw(free_port);
use CouponTest;
use HTTP::Tiny;
use JSON::PP;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $port = free_port();
my $node = new_server('statistics', <<"END");
coupon.databases = 'postgres'
coupon.http_listen = '127.0.0.1:$port'
coupon.http_role = 'coupon_service'
coupon.sold_out_wait = '20ms'
END

sub sql { return $node->safe_psql('postgres', shift) }

# counts(): way => outcome => calls, of those that there are
sub counts
{
	my %counts;

	for (split /\n/, sql('SELECT way, outcome, calls FROM coupon.stat_call WHERE calls > 0'))
	{
		my ($way, $outcome, $calls) = split /\|/;
		$counts{$way}{$outcome} = $calls;
	}
	return \%counts;
}

# What statements add to the counters.  A session that is ended is counted
# when its process goes, which may be after psql.
sub changes_are
{
	my ($statements, $expected, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $before = counts();
	my %changes;

	$node->psql('postgres', $statements);
	settle($node, 'postgres');
	my $after = counts();
	for my $way (qw(issue many grouped hold redeem))
	{
		for (keys %{ $after->{$way} // {} })
		{
			my $n = $after->{$way}{$_} - ($before->{$way}{$_} // 0);
			$changes{"$way $_"} = $n if $n != 0;
		}
	}
	is_deeply(\%changes, $expected, $what);
	return;
}

# A histogram has as many calls as its outcomes have, of every way in.
sub histograms_agree
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(sql(q{
		SELECT c.way, c.calls, l.calls, w.calls
		  FROM (SELECT way, sum(calls) AS calls FROM coupon.stat_call GROUP BY way) c
		  FULL JOIN (SELECT way, calls FROM coupon.stat_latency WHERE upper = 'infinity') l USING (way)
		  FULL JOIN coupon.stat_way w USING (way)
		 WHERE coalesce(c.calls, 0) IS DISTINCT FROM l.calls OR l.calls IS DISTINCT FROM w.calls}),
		'', "$what: histograms have as many calls as outcomes");
	is(sql(q{SELECT count(*) FROM coupon.stat_latency a JOIN coupon.stat_latency b USING (way) WHERE a.upper < b.upper AND a.calls > b.calls}),
		0, "$what: and rise");
	is(sql(q{SELECT way FROM coupon.stat_way w WHERE errors <> (SELECT coalesce(sum(e.errors), 0) FROM coupon.stat_error e WHERE e.way = w.way)}),
		'', "$what: errors are the sum of their classes");
	return;
}

sql(q{CREATE EXTENSION IF NOT EXISTS coupon;
	SELECT coupon_campaign_create('many', 100000, 10), coupon_campaign_create('few', 20), coupon_campaign_create('requests', 15), coupon_campaign_create('web', 15);
	SELECT coupon_room_create('hall', 5);
	CREATE TABLE doomed (a int);
	CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE division_by_zero; END $$;
	CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON doomed DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()});
await_true($node, 'postgres', q{SELECT count(*) = 5 FROM coupon.stat_worker WHERE wanted AND kind <> 'front' AND pid IS NOT NULL});
await_true($node, 'postgres', q{SELECT workers > 0 FROM coupon_group_status()});

# ---- four sessions, all ways in ----

my $script = join '', map { <<"END" } 1 .. 20;
SELECT 'issue ' || status FROM coupon_issue(2, 'user $_');
SELECT 'issue ' || status FROM coupon_issue(1, :'me' || ' $_');
SELECT 'many ' || status FROM coupon_issue_many(1, ARRAY['a $_', 'b $_', :'me', NULL, 'a $_']);
SELECT 'grouped ' || status FROM coupon_issue_grouped(2, 'grouped $_');
SELECT 'request ' || CASE WHEN status = 'REFUSED' THEN outcome ELSE 'accepted' END FROM coupon_request(3, :'me' || ' $_', 'key');
SELECT 'request ' || CASE WHEN status = 'REFUSED' THEN outcome ELSE 'repeated' END FROM coupon_request(3, :'me' || ' $_', 'key');
SELECT 'hold ' || status FROM coupon_hold(1, 50000 + $_, 'holder ' || ($_ + :me) % 3, '1 min');
SELECT 'hold_many ' || status FROM coupon_hold_many(1, ARRAY[60000 + $_, 60001 + $_], :'me', '1 min') WHERE $_ % 4 = 0;
SELECT 'hold_any ' || status FROM coupon_hold_any(1, :'me' || ' any $_', '1 min');
SELECT 'confirm ' || status FROM coupon_confirm(1, 50000 + $_, 'holder ' || ($_ + :me) % 3, 'ref');
SELECT 'hold ' || status FROM coupon_hold(1, 80000 + $_, 'releaser', '1 min');
SELECT 'release ' || CASE WHEN coupon_release(1, 80000 + $_, 'releaser') THEN 'released' ELSE 'not_held' END;
SELECT 'redeem ' || status FROM coupon_redeem(1, :'me' || ' $_', 'order');
SELECT 'cancel ' || status FROM coupon_redeem_cancel(1, :'me' || ' $_', CASE WHEN $_ % 2 = 0 THEN 'order' ELSE 'other' END);
SELECT 'revoke ' || CASE WHEN coupon_revoke(1, 'a $_', 'why') THEN 'revoked' ELSE 'not_issued' END;
SELECT 'join ' || lower(status) FROM coupon_queue_join('hall', :'me' || ' $_');
BEGIN; SELECT 'issue aborted' FROM coupon_issue(1, :'me' || ' rolled back'); ROLLBACK;
BEGIN; SAVEPOINT s; SELECT 'issue aborted' FROM coupon_issue(1, :'me' || ' rolled back'); ROLLBACK TO s;
SELECT 'hold ' || status FROM coupon_hold(1, 70000, 'somebody', '1 min'); RELEASE s; COMMIT;
BEGIN; SAVEPOINT s; SELECT 'issue aborted' FROM coupon_issue(1, :'me' || ' rolled back'); RELEASE s; ROLLBACK;
END
my @children;
my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/script.sql", $script);
for my $me (1 .. 4)
{
	my $pid = fork // die "fork: $!";
	if (!$pid)
	{
		open STDOUT, '>', "$dir/$me" or POSIX::_exit(1);
		open STDERR, '>', "$dir/$me.err" or POSIX::_exit(1);
		exec 'psql', '-XAtq', '-v', "me=$me", '-d', $node->connstr('postgres'), '-f', "$dir/script.sql";
	}
	push @children, $pid;
}
is(join(' ', map { waitpid $_, 0; $? } @children), '0 0 0 0', 'four sessions');
is(join('', map { slurp_file("$dir/$_.err") } 1 .. 4), '', '  without an ERROR');
my %told;
$told{$_}++ for map { split /\n/, slurp_file("$dir/$_") } 1 .. 4;
my $have = counts();
my %counted = map { my $way = $_; map { ("$way $_" => $have->{$way}{$_}) } keys %{ $have->{$way} } }
	grep { !/^(decision|commit|http.*)$/ } keys %$have;
is_deeply(\%counted, \%told, '  and every answer that they were told is counted once')
	or diag(join "\n", map { "$_: told " . ($told{$_} // 0) . ', counted ' . ($counted{$_} // 0) }
		grep { ($told{$_} // 0) != ($counted{$_} // 0) } sort keys %{ { %told, %counted } });
ok((grep { $told{$_} } 'issue sold_out', 'hold taken', 'confirm confirmed', 'release released', 'cancel cancelled', 'revoke revoked', 'redeem redeemed') == 7,
	'  of many kinds') or diag(join ', ', sort keys %told);
poll_until('decided requests', sub { sql('SELECT count(*) FROM coupon.request WHERE decided_at IS NULL') eq '0' });
is(sql(q{SELECT string_agg(outcome || ' ' || calls, ' ' ORDER BY outcome) FROM coupon.stat_call WHERE way = 'decision' AND calls > 0}),
	sql(q{SELECT string_agg(outcome || ' ' || n, ' ' ORDER BY outcome) FROM (SELECT outcome, count(*) AS n FROM coupon.request GROUP BY outcome) r}),
	'decisions are those in coupon.request');
is(sql(q{SELECT items FROM coupon.stat_batch WHERE way = 'many'}), 4 * 20 * 5, 'how many there were in batches');
is(sql(q{SELECT largest FROM coupon.stat_batch WHERE way = 'many'}), 5, '  and in the largest');
histograms_agree('after four sessions');

# ---- what becomes of the transaction ----

my @cases = (
	[ 'an ERROR', q{SELECT coupon_issue(999, 'a')}, { 'issue error' => 1 } ],
	[ 'an ERROR that is caught', q{DO $$ BEGIN PERFORM coupon_issue(999, 'a'); EXCEPTION WHEN OTHERS THEN NULL; END $$}, { 'issue error' => 1 } ],
	[ 'a wrong argument', q{SELECT coupon_hold(1, 1, '', '1 min')}, { 'hold error' => 1 } ],
	[ 'an ERROR of the same statement', q{SELECT 1 / length(left(status, 0)) FROM coupon_issue(1, 'lost')}, { 'issue aborted' => 1 } ],
	[ 'an ERROR at the commit', q{BEGIN; SELECT coupon_issue(1, 'lost'); INSERT INTO doomed VALUES (1); COMMIT}, { 'issue aborted' => 1 } ],
	[ 'a session that ends', q{BEGIN; SELECT coupon_issue(1, 'lost'); SELECT pg_terminate_backend(pg_backend_pid())}, { 'issue aborted' => 1 } ],
	[ 'nested savepoints', q{BEGIN; SELECT coupon_issue(1, 'n 1'); SAVEPOINT a; SELECT coupon_issue(1, 'n 2'); SAVEPOINT b; SELECT coupon_issue(1, 'n 3');
		RELEASE b; SELECT coupon_issue(1, 'n 4'); ROLLBACK TO a; SELECT coupon_issue(1, 'n 5'); COMMIT}, { 'issue issued' => 2, 'issue aborted' => 3 } ],
	[ 'a grouped call of a transaction that is rolled back', q{SET coupon.allow_autonomous = on; BEGIN; SELECT coupon_issue_grouped(1, 'g'); ROLLBACK},
		{ 'grouped issued' => 1 } ],
	[ 'a grouped call that is refused', q{BEGIN; SELECT coupon_issue_grouped(1, 'g')}, { 'grouped error' => 1 } ],
	[ 'a batch that is rolled back', q{BEGIN; SELECT coupon_issue_many(1, '{x,y,z}'); ROLLBACK}, { 'many aborted' => 3 } ],
	[ 'more calls than are remembered one by one', q{SELECT count(coupon_issue(1, 'big ' || i)) FROM generate_series(1, 2500) i}, { 'issue issued' => 2500 } ],
	[ 'as many, rolled back', q{BEGIN; SELECT count(coupon_issue(1, 'back ' || i)) FROM generate_series(1, 2500) i; ROLLBACK}, { 'issue aborted' => 2500 } ],
	[ 'as many savepoints', q{DO $$ BEGIN FOR i IN 1 .. 2500 LOOP
		BEGIN PERFORM coupon_issue(1, 'sub ' || i); IF i % 5 = 0 THEN RAISE division_by_zero; END IF; EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$},
		{ 'issue issued' => 2000, 'issue aborted' => 500 } ],
	[ 'an answer in READ ONLY', q{BEGIN READ ONLY; SELECT coupon_issue(2, 'nobody'); COMMIT}, { 'issue sold_out' => 1 } ]);
for my $case (@cases)
{
	my ($what, $statements, $expected) = @$case;

	changes_are($statements, $expected, $what);
}
is(sql(q{SELECT string_agg(class || ' ' || errors, ' ' ORDER BY class) FROM coupon.stat_error WHERE way = 'issue'}), 'UC 2', 'errors have the class of their SQLSTATE');
histograms_agree('after all of that');
is(sql(q{SELECT calls > 0 AND seconds > 0 AND p50 <= p99 FROM coupon.stat_way WHERE way = 'commit'}), 't', 'how long commits take is counted');

# a call that waits in a transaction takes as long as the transaction
sql(q{SELECT coupon_stat_reset()});
sql(q{BEGIN; SELECT coupon_issue(1, 'slow'); SELECT pg_sleep(0.3); COMMIT});
is(sql(q{SELECT seconds BETWEEN 0.3 AND 60 AND p50 >= 0.3 FROM coupon.stat_way WHERE way = 'issue'}), 't', 'a call lasts until its commit');

# ---- HTTP ----

my $http = HTTP::Tiny->new(timeout => CouponTest::PATIENCE);
my %statuses;
for my $call ([ 4, 'h 1' ], [ 4, 'h 1' ], [ 4, 'h 2' ], [ 2, 'h 3' ], [ 999, 'h 4' ], [ 4, '' ])
{
	my $answer = $http->post("http://127.0.0.1:$port/campaigns/$call->[0]/issues",
		{ headers => { 'Content-Type' => 'application/json' }, content => JSON::PP->new->encode({ user_id => $call->[1] }) });
	$statuses{ $answer->{status} }++;
}
is(sql(q{SELECT string_agg(outcome || ' ' || n, ' ' ORDER BY outcome) FROM (SELECT outcome, sum(calls) AS n FROM coupon.stat_call
		WHERE way ~ '^http(_waited)?$' GROUP BY outcome HAVING sum(calls) > 0) s}),
	join(' ', map { "$_ $statuses{$_}" } sort keys %statuses), 'answers over HTTP are counted by their status: ' . join ' ', sort keys %statuses);
is(sql(q{SELECT string_agg(outcome || ' ' || calls, ' ' ORDER BY outcome) FROM coupon.stat_call WHERE way = 'http_issue' AND outcome ~ 'issued|invalid' AND calls > 0}),
	'already_issued 1 invalid 1 issued 2', '  and what was issued by the outcome');
is(sql(q{SELECT errors FROM coupon.stat_error WHERE way = 'http_issue'}), 1, '  an ERROR of one call, too');
is($http->get("http://127.0.0.1:$port/healthz")->{status}, 200, 'what the front answers by itself');
is(sql(q{SELECT calls FROM coupon.stat_call WHERE way = 'http_front' AND outcome = '200'}), 1, '  is counted apart');
histograms_agree('after HTTP');

# ---- stock, campaigns, workers ----

is(sql(q{SELECT answered_issued = (SELECT count(*) FROM coupon.issuance WHERE campaign_id = 2) FROM coupon.stat_campaign WHERE campaign_id = 2}), 'f',
	'a campaign counts from the reset on');
is(sql(q{SELECT map_builds >= 0 AND false_hints >= 0 AND waits >= 0 FROM coupon.stat_stock}), 't', 'what maps cost');
is(sql(q{SELECT campaigns >= 3 AND maps >= 2 AND map_bytes BETWEEN 1000 AND map_memory_bytes FROM coupon.stat_memory}), 't', 'memory');
is(sql(q{SELECT string_agg(DISTINCT kind, ', ' ORDER BY kind) FROM coupon.stat_worker WHERE pid IS NOT NULL}),
	'front, group, issuer, publisher, room worker, sweeper', 'the workers');
is(sql(q{SELECT count(*) FROM pg_stat_activity a JOIN coupon.stat_worker w USING (pid) WHERE a.backend_type = 'coupon ' || w.kind AND a.query <> ''}),
	sql(q{SELECT count(*) FROM coupon.stat_worker WHERE pid IS NOT NULL}), '  say in pg_stat_activity what they do');
my $victim = sql(q{SELECT pid FROM coupon.stat_worker WHERE kind = 'sweeper'});
sql("SELECT pg_terminate_backend($victim)");
poll_until('another sweeper', sub { sql("SELECT pid <> $victim AND starts = 1 FROM coupon.stat_worker WHERE kind = 'sweeper'") eq 't' });
pass('a worker that is started again is counted');
SKIP:
{
	skip 'skipped: wait events have names from PostgreSQL 17 on', 1 if sql('SHOW server_version_num') < 170000;
	poll_until('names of waits', sub {
		sql(q{SELECT count(*) FILTER (WHERE wait_event !~ '^Coupon') FROM pg_stat_activity WHERE backend_type LIKE 'coupon%' AND wait_event_type = 'Extension'}) eq '0' });
	pass('waits have names');
}

# ---- the reset; another database ----

my $since = sql('SELECT stats_reset FROM coupon.stat_way LIMIT 1');
sql(q{SELECT coupon_stat_reset()});
is(sql(q{SELECT sum(calls) FROM coupon.stat_call WHERE way NOT LIKE 'http%'}), 0, 'after the reset there are no calls');
is(sql(q{SELECT sum(calls) FROM coupon.stat_latency WHERE way NOT LIKE 'http%'}), 0, '  and no durations');
is(sql(q{SELECT sum(answered_issued + answered_sold_out) FROM coupon.stat_campaign}), 0, '  nor answers of campaigns');
is(sql(q{SELECT sum(decided) FROM coupon.stat_queue}), 0, '  nor decisions of campaigns');
is(sql(qq{SELECT bool_and(stats_reset > '$since') FROM coupon.stat_call}), 't', '  and it says since when');
sql(q{SELECT coupon_issue(1, 'after')});
is(sql(q{SELECT calls FROM coupon.stat_call WHERE way = 'issue' AND outcome = 'issued'}), 1, 'what comes later is counted');

sql('CREATE DATABASE other');
$node->safe_psql('other', q{CREATE EXTENSION coupon; SELECT coupon_campaign_create('c', 10); SELECT coupon_issue(1, 'a')});
is($node->safe_psql('other', q{SELECT calls FROM coupon.stat_call WHERE way = 'issue' AND outcome = 'issued'}), 1, 'another database has its own');
$node->safe_psql('other', 'SELECT coupon_stat_reset()');
is(sql(q{SELECT calls FROM coupon.stat_call WHERE way = 'issue' AND outcome = 'issued'}), 1, '  and its own reset');
is($node->safe_psql('other', q{SELECT count(*) FROM coupon.stat_worker}), 0, '  and no workers, if none are wanted');

conserved($node, 'postgres', 'statistics');
server_log_is_clean($node, 'statistics');
$node->stop;
done_testing();
