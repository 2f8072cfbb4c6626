# The node that makes the units of campaigns fails, and its standby was behind: what
# was made meanwhile, and has gone to other nodes in part, is made up for.
use strict;
use warnings;

use CouponCluster;
use CouponTest;
use PostgreSQL::Test::Cluster;
use Test::More;

my $cluster = CouponCluster->new(nodes => [qw(one two)], proxy => 0,
	settings => "coupon.cluster = on\nmax_wal_senders = 10\nwal_level = replica\nhot_standby = on\n");
my ($one, $two) = map { $cluster->server($_) } $cluster->names;

sub sql { return $_[0]->safe_psql('postgres', $_[1]); }

sub has
{
	my ($server, $campaign, $units) = @_;

	ok(await_true($server, 'postgres', "SELECT (SELECT remaining FROM coupon.campaign_status WHERE campaign_id = $campaign) = $units"),
		'node ' . $server->name . " has $units units of campaign $campaign");
	return;
}

ok(await_true($_, 'postgres', 'SELECT coupon.node_confirmed()'), 'node ' . $_->name . ' is confirmed') for $one, $two;
my $before = sql($one, q{SELECT coupon_cluster_create('before', 1000)});
my $dropped = sql($one, q{SELECT coupon_cluster_create('dropped', 100)});
has($two, $before, 500);
has($two, $dropped, 50);
ok(await_true($_, 'postgres', q{SELECT NOT EXISTS (SELECT FROM coupon.transfer WHERE state IN ('cut', 'received'))}), 'all have arrived') for $one, $two;
sql($one, "SELECT coupon_campaign_close($dropped)");
ok(await_true($two, 'postgres', "SELECT closed_at IS NOT NULL FROM coupon.campaign WHERE campaign_id = $dropped"), 'node two knows that one is closed');
sql($one, "CALL coupon_campaign_drop($dropped)");

# ---- the standby stays behind ----
$one->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($one, 'base', has_streaming => 1);
$standby->start;
$one->wait_for_catchup($standby);
$standby->stop('fast');
sql($one, "SELECT coupon_cluster_add_stock($before, 200)");
my $after = sql($one, q{SELECT coupon_cluster_create('after', 300)});
has($two, $before, 600);
has($two, $after, 150);
$one->stop('immediate');

# ---- and takes the place ----
# what the other one has to tell of years takes longer than it waits elsewhere
sql($two, q{
	ALTER FUNCTION coupon.transfer_message(coupon.transfer) RENAME TO message_of;
	CREATE FUNCTION coupon.transfer_message(t coupon.transfer) RETURNS jsonb LANGUAGE plpgsql
	AS $$ BEGIN PERFORM pg_sleep(0.5); RETURN coupon.message_of(t); END $$});
$standby->start;
$standby->promote;
sql($_, q{UPDATE coupon.node SET version = version + 1, conninfo = '} . ($standby->connstr('postgres') =~ s/'/''/gr) . q{' WHERE node_id = 1}) for $two, $standby;
ok(await_true($standby, 'postgres', 'SELECT coupon.node_confirmed()'), 'it is confirmed');
has($standby, $before, 600);
has($standby, $after, 150);
is(sql($standby, "SELECT * FROM coupon_cluster_verify($_)"), '', "campaign $_: no unit is lost or doubled") for $before, $after;
is(sql($standby, "SELECT count(*) FROM coupon.campaign WHERE campaign_id = $dropped"), '0', 'a campaign that was dropped stays so');

$_->stop for $two, $standby;
done_testing;
