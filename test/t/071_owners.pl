# Who has a unit is told so, whatever is done to their row at that moment: a
# scan of the index can miss a row that is updated under its eyes.
use strict;
use warnings;

use CouponTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('owners', <<'END');
synchronous_commit = off
autovacuum = off
END

sub sql { return $node->safe_psql('postgres', $_[0]) }

# Answers of so many calls by owners, from "first" on, counted where they are wrong.
sql(q{CREATE FUNCTION denied(campaigns bigint[], owners int, calls int) RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE n bigint := 0;
	BEGIN
		FOR i IN 1 .. calls LOOP
			IF (coupon_issue(campaigns[1 + i % array_length(campaigns, 1)], 'o' || 1 + i / array_length(campaigns, 1) % owners)).status <> 'already_issued' THEN
				n := n + 1;
			END IF;
		END LOOP;
		RETURN n;
	END $$});

# redeem(campaigns, owners): does and undoes it all the time, until stopped
sub redeem
{
	my ($first, $last, $owners) = @_;
	my $script = $node->data_dir . '/redeem.sql';

	open my $file, '>', $script or die "$script: $!";
	print $file "\\set c random($first, $last)\n\\set u random(1, $owners)\n",
		"SELECT status FROM coupon_redeem(:c, 'o' || :u, 'r');\nSELECT status FROM coupon_redeem_cancel(:c, 'o' || :u, 'r');\n";
	close $file;
	return IPC::Run::start([ 'pgbench', '-n', '-f', $script, '-c', '3', '-j', '1', '-T', '3600', '-M', 'prepared',
			'-h', $node->host, '-p', $node->port, 'postgres' ], '>', \my $out, '2>', \my $err);
}

# ---- each one looked up ----

my $c = sql(q{SELECT coupon_campaign_create('few', 20)});
sql("SELECT count(*) FROM coupon_issue_many($c, ARRAY(SELECT 'o' || g FROM generate_series(1, 20) g))");
is(sql("SELECT status FROM coupon_issue($c, 'nobody')"), 'sold_out', 'sold out');
my $redeem = redeem($c, $c, 20);
is(sql("SELECT denied('{$c}', 20, 100000)"), '0', 'F3: owners are told so while their coupons are redeemed');
$redeem->kill_kill;

# ---- those whom the filter does not know need no look-up ----

# a filter that was there from the first issue on knows its owners by that; one that
# is made after a restart has them from the index

my ($owners, $campaigns) = (1500, 40);
my ($first) = split /\n/, sql("SELECT coupon_campaign_create('many ' || g, $owners) FROM generate_series(1, $campaigns) g");
my $last = $first + $campaigns - 1;
sql("SELECT count(*) FROM generate_series($first, $last) c, coupon_issue_many(c, ARRAY(SELECT 'o' || g FROM generate_series(1, $owners) g))");
$node->restart;
$redeem = redeem($first, $last, $owners);
# so many refusals have the filter built
is(sql("SELECT string_agg(DISTINCT i.status, ' ') FROM generate_series($first, $last) c, generate_series(1, $owners / 8 + 2) u, coupon_issue(c, 'nobody' || u) i"),
	'sold_out', 'many who have none');
$redeem->kill_kill;
is(sql("SELECT denied(ARRAY(SELECT * FROM generate_series($first, $last)), $owners, $owners * $campaigns)"), '0',
	'F3: the filter of users knows all owners');

$node->stop;
server_log_is_clean($node, 'owners');
done_testing();
