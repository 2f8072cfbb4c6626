# Shared memory that is far too small for the campaigns in use: maps and slots
# are evicted and built again while sessions issue, and nothing in flight is
# lost.  What cannot fit is refused with a hint.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', <<'END');
coupon.stock_map_memory = '8MB'
coupon.max_campaigns = 64
END

# ---- 2,000 campaigns in 64 slots ----

$node->safe_psql('postgres', q{SELECT count(coupon_campaign_create('c' || g, 5)) FROM generate_series(1, 2000) g});

# These hold units of campaigns 1 to 20, while thousands of others come and go.
my $holder = $node->background_psql('postgres');
$holder->query_safe(q{BEGIN; SELECT count(*) FROM generate_series(1, 20) c, coupon_issue_many(c, '{h1,h2}'::text[])});
my $saver = $node->background_psql('postgres');
$saver->query_safe(q{BEGIN; SAVEPOINT a; SELECT count(*) FROM generate_series(1, 10) c, coupon_issue(c, 'saver')});

$node->pgbench('-n -c 8 -j 2 -t 600', 0, [qr/processed: 4800\/4800/], [qr/^$/],
	'sessions issue from random campaigns', { '060_random' => q{
		\set c random(1, 2000)
		\set u random(1, 1000000)
		SELECT coupon_issue(:c, :u);
		BEGIN;
		SELECT coupon_issue(:u % 2000 + 1, :u);
		ROLLBACK;
	} });

is( $node->safe_psql('postgres', q{
		SELECT count(*), sum(in_flight) FROM generate_series(11, 20) c, coupon_status(c) WHERE in_flight >= 2}),
	'10|20', 'units in flight are remembered');
$saver->query_safe('ROLLBACK TO a; COMMIT');
$holder->query_safe('COMMIT');
$_->quit for $saver, $holder;
settle($node, 'postgres');
is( $node->safe_psql('postgres', q{SELECT count(*) FROM coupon.issuance WHERE user_id IN ('h1', 'h2')}),
	'40', 'the holder has its units');
conserved($node, 'postgres', 'evictions');

# a transaction that needs more campaigns at once than there are slots
like(sql_error($node, 'postgres', q{SELECT coupon_issue(c, 'greedy') FROM generate_series(1000, 1999) c}),
	qr/ERROR:  UC007: .*HINT: .*coupon\.max_campaigns/s, 'too many campaigns in one transaction');
conserved($node, 'postgres', 'after the refusal');

# demand above stock in every one of them
$node->pgbench('-n -c 4 -j 2 -t 500', 0, [qr/processed: 2000\/2000/], [qr/^$/],
	'demand above stock', { '060_rest' => q{
		\set c random(1, 2000)
		SELECT count(*) FROM coupon_issue_many(:c, ARRAY['a','b','c','d','e','f','g']);
	} });
my $rest = $node->background_psql('postgres');
$rest->query_safe(q{
	CREATE PROCEDURE sell_rest(first int, last int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR c IN first..last LOOP
			PERFORM coupon_issue_many(c, ARRAY['a','b','c','d','e','f','g']);
			COMMIT;
		END LOOP;
	END $$;});
$rest->query_safe('CALL sell_rest(1, 2000)');
$rest->quit;
is( $node->safe_psql('postgres', q{
		SELECT count(*), min(n), max(n) FROM (SELECT count(*) AS n FROM coupon.issuance GROUP BY campaign_id) x}),
	'2000|5|5', '2,000 campaigns are sold to the last unit');
conserved($node, 'postgres', 'sold out');

# ---- maps that fit one by one, but not together ----

# 40 campaigns of 4 million units, a bit each: 20 MB
my $first = $node->safe_psql('postgres',
	q{SELECT min(coupon_campaign_create('large ' || g, 4000000)) FROM generate_series(1, 40) g});
my $last = $first + 39;
$holder = $node->background_psql('postgres');
$holder->query_safe("BEGIN; SELECT coupon_issue(c, 'holder') FROM generate_series($first, $first + 5) c");
$node->pgbench('-n -c 4 -j 2 -t 100', 0, [qr/processed: 400\/400/], [qr/^$/],
	'sessions issue from large campaigns', { '060_large' => qq{
		\\set c random($first, $last)
		\\set u random(1, 1000000)
		SELECT coupon_issue(:c, :u);
		SELECT coupon_status(:c);
	} });
is($node->safe_psql('postgres', "SELECT sum(in_flight) FROM generate_series($first, $first + 5) c, coupon_status(c)"),
	'6', 'units in flight are remembered');
$holder->query_safe('COMMIT');
$holder->quit;
settle($node, 'postgres');
conserved($node, 'postgres', 'large campaigns');

# ---- filters of users do not take what maps need ----

# 60 of 100,000 units in one transaction: 0.8 MB of maps, 12 MB of filters
$first = $node->safe_psql('postgres', q{SELECT min(coupon_campaign_create('filtered ' || g, 100000)) FROM generate_series(1, 60) g});
$last = $first + 59;
$node->restart;	# nothing is in memory
is($node->safe_psql('postgres', "BEGIN; SELECT status, count(*) FROM generate_series($first, $last) c, coupon_issue(c, 'first') GROUP BY 1;
	SELECT sum(remaining) FROM generate_series($first, $last) c, coupon_status(c); COMMIT"),
	"issued|60\n5999940", 'a transaction that uses many campaigns has their maps');
# those that rest give way, once a second to a sale that begins, and to one that is sold out
my $filter = sub {
	my $id = shift;
	return $node->safe_psql('postgres', "SELECT s.map_bytes - sum((h.last_serial - h.first_serial + 1) / 8 + 128)::bigint
		FROM coupon.stat_campaign s JOIN coupon.shard h USING (campaign_id) WHERE s.campaign_id = $id GROUP BY s.map_bytes");
};
my $next = $node->safe_psql('postgres', q{SELECT coupon_campaign_create('next', 100000)});
$node->safe_psql('postgres', "SELECT pg_sleep(1); SELECT coupon_issue($next, 'first'); SELECT coupon_status($next)");
cmp_ok($filter->($next), '>', 190000, 'the next sale has its filter');
my $gone = $node->safe_psql('postgres', q{SELECT coupon_campaign_create('gone', 100000)});
$node->safe_psql('postgres', "SELECT count(*) FROM coupon_issue_many($gone, ARRAY(SELECT g::text FROM generate_series(1, 100000) g))");
$node->restart;	# now it has none from its beginning
$node->safe_psql('postgres', "SELECT min(coupon_campaign_create('filtered again ' || g, 100000)) FROM generate_series(1, 50) g");
$node->safe_psql('postgres', "SELECT count(coupon_issue(c.campaign_id, 'first')) FROM coupon.campaign c WHERE c.name LIKE 'filtered again %'");
$node->safe_psql('postgres', "SELECT pg_sleep(1); SELECT count(*) FROM coupon_issue_many($gone, ARRAY(SELECT 'n' || g FROM generate_series(1, 13000) g))") for 1 .. 2;
cmp_ok($filter->($gone), '>', 190000, 'a sale that is sold out has its filter');
conserved($node, 'postgres', 'filters');

# ---- a map that does not fit ----

# 100 million units: a bit each is 12.5 MB
my $big = $node->safe_psql('postgres', q{SELECT coupon_campaign_create('big', 100000000)});
like(sql_error($node, 'postgres', "SELECT * FROM coupon_status($big);"),
	qr/ERROR:  UC007: .*DETAIL: .*HINT: .*coupon\.stock_map_memory/s, 'a map too large for the memory');
my $many = sql_error($node, 'postgres', "SELECT count(*) FROM coupon_issue_many($big,
	ARRAY(SELECT g::text FROM generate_series(1, 10) g));");
ok($many eq '' || $many =~ /ERROR:  UC007/, 'issuing from it works or is refused');
is( $node->safe_psql('postgres', "SELECT DISTINCT status FROM generate_series(100, 2000, 100) g, coupon_issue(g, 'nobody')"),
	'sold_out', 'the others are served on');

# who is to be told sold_out is told so, although memory that would make it quicker is
# missing: all of it is in use by a transaction
my $sold = $node->safe_psql('postgres', q{SELECT coupon_campaign_create('sold', 20000)});
$node->safe_psql('postgres', "SELECT count(*) FROM coupon_issue_many($sold, ARRAY(SELECT g::text FROM generate_series(1, 20000) g))");
$node->safe_psql('postgres', q{SELECT count(coupon_campaign_create('filler', s)) FROM unnest(ARRAY[60000, 4000]) s, generate_series(1, 25)});
$node->restart;
is($node->safe_psql('postgres', "SELECT DISTINCT status FROM coupon_issue_many($sold, ARRAY(SELECT 'n' || g FROM generate_series(1, 3000) g))"), 'sold_out', 'all is sold');
$holder = $node->background_psql('postgres');
$holder->query_safe("BEGIN; SELECT coupon.campaign_ending($sold)");	# keeps its map
$holder->query_safe(q{
	DO $$
	DECLARE
		size bigint;
		c bigint;
	BEGIN
		FOREACH size IN ARRAY ARRAY[4000000, 60000, 4000] LOOP
			FOR c IN SELECT s.campaign_id FROM coupon.shard s GROUP BY 1 HAVING max(s.last_serial) = size LOOP
				BEGIN
					PERFORM coupon_issue(c, 'filler'), coupon_status(c);
				EXCEPTION WHEN SQLSTATE 'UC007' THEN
					EXIT;
				END;
			END LOOP;
		END LOOP;
	END $$});
is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT status, ' ') FROM generate_series(1, 9) g, coupon_issue($sold, 'late' || g)"),
	'sold_out', 'without memory for a filter calls are answered nevertheless');
$holder->query_safe('ROLLBACK');
$holder->quit;

# shared memory was not exhausted for good
$node->safe_psql('postgres', q{SELECT coupon_revoke(7, 'a', 'test') OR coupon_revoke(7, 'b', 'test') OR coupon_revoke(7, 'c', 'test')});
is($node->safe_psql('postgres', q{SELECT status FROM coupon_issue(7, 'after')}), 'issued', 'a returned unit is sold');
is($node->safe_psql('postgres', q{SELECT status FROM coupon_issue(7, 'late')}), 'sold_out', 'and only that');

# it fits where there is room
$node->append_conf('postgresql.conf', "coupon.stock_map_memory = '32MB'");
$node->restart;
my $issued = $node->safe_psql('postgres', "SELECT issued FROM coupon_status($big)");
is( $node->safe_psql('postgres', "SELECT status FROM coupon_issue($big, 'someone')"),
	'issued', 'with more memory the large campaign is served');
is($node->safe_psql('postgres', "SELECT stock, issued, remaining FROM coupon_status($big)"),
	'100000000|' . ($issued + 1) . '|' . (99999999 - $issued), 'and counted');

# ---- what a transaction remembers ----

# A deletion of many rows gives as many units back at its commit.
my $wide = $node->safe_psql('postgres', q{SELECT coupon_campaign_create('wide', 60000)});
$node->safe_psql('postgres', "SELECT count(*) FROM coupon_issue_many($wide, ARRAY(SELECT g::text FROM generate_series(1, 40000) g))");
my $memory = q{SELECT sum(total_bytes) FROM pg_backend_memory_contexts WHERE name = 'TopMemoryContext'};
my ($before, $after) = split /\n/, $node->safe_psql('postgres', "BEGIN;
	DELETE FROM coupon.issuance WHERE campaign_id = $wide AND serial <= 64; $memory;
	DELETE FROM coupon.issuance WHERE campaign_id = $wide; $memory; ROLLBACK;");
cmp_ok($after - $before, '<', 400000, 'a deletion of 40,000 rows remembers a few bytes of each');
is($node->safe_psql('postgres', "SELECT issued, remaining, in_flight FROM coupon_status($wide)"), '40000|20000|0', 'undone');
# the order in which they are deleted does not matter
my $shuffled = "DELETE FROM coupon.issuance i USING (SELECT serial FROM coupon.issuance WHERE campaign_id = $wide ORDER BY md5(serial::text) OFFSET 0) r
		WHERE i.campaign_id = $wide AND i.serial = r.serial AND r.serial";
($before, $after) = split /\n/, $node->safe_psql('postgres', "SET enable_hashjoin = off; SET enable_mergejoin = off; SET work_mem = '64MB'; BEGIN;
	$shuffled <= 64; $memory; $shuffled > 64; $memory; ROLLBACK;");
cmp_ok($after - $before, '<', 800000, 'nor does one in any order');
is($node->safe_psql('postgres', "SELECT issued, remaining, in_flight FROM coupon_status($wide)"), '40000|20000|0', 'undone, too');

$node->safe_psql('postgres', "BEGIN;
	DELETE FROM coupon.issuance WHERE campaign_id = $wide AND serial % 3 = 0;
	SAVEPOINT a;
	DELETE FROM coupon.issuance WHERE campaign_id = $wide AND serial % 3 = 1;
	ROLLBACK TO a;
	SAVEPOINT b;
	DELETE FROM coupon.issuance WHERE campaign_id = $wide AND serial % 30 = 1;
	RELEASE b;
	COMMIT;");
is( $node->safe_psql('postgres', "SELECT stock - issued - remaining, in_flight, issued = (SELECT count(*) FROM coupon.issuance WHERE campaign_id = $wide)
		FROM coupon_status($wide)"), '0|0|t', 'done in part');

# a row that is deleted, inserted and deleted again
$node->safe_psql('postgres', "BEGIN;
	CREATE TEMP TABLE again AS SELECT * FROM coupon.issuance WHERE campaign_id = $wide ORDER BY serial LIMIT 50;
	DELETE FROM coupon.issuance i USING again a WHERE (i.campaign_id, i.serial) = (a.campaign_id, a.serial);
	INSERT INTO coupon.issuance SELECT * FROM again;
	DELETE FROM coupon.issuance i USING again a WHERE (i.campaign_id, i.serial) = (a.campaign_id, a.serial);
	COMMIT;");
is( $node->safe_psql('postgres', "SELECT stock - issued - remaining, in_flight, issued = (SELECT count(*) FROM coupon.issuance WHERE campaign_id = $wide)
		FROM coupon_status($wide)"), '0|0|t', 'done twice');
# rows deleted by hand have no event
$node->safe_psql('postgres', "SELECT coupon_campaign_close($wide); DELETE FROM coupon.issuance WHERE campaign_id = $wide;
	DELETE FROM coupon.shard WHERE campaign_id = $wide; DELETE FROM coupon.campaign WHERE campaign_id = $wide");

# Four times the calls in a transaction take four times the work, not sixteen
# times: CPU time of the session, since the machine may be busy.
my %least;
for my $n ((5000, 20000) x 3)
{
	my $id = $node->safe_psql('postgres', "SELECT coupon_campaign_create('calls $n', 30000)");
	my $took = cpu_seconds($node, "SELECT count(coupon_hold_any($id, 'h' || g)) FROM generate_series(1, $n) g");
	$least{$n} = $took if !defined $least{$n} || $took < $least{$n};
}
cmp_ok($least{20000} / ($least{5000} || 1), '<', 8, 'the price of a hold does not grow with those before it')
  or diag("$least{5000} s, $least{20000} s");

$node->stop;
server_log_is_clean($node, 'memory');
done_testing();
