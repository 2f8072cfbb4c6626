# Nodes that have not heard of each other: what is said of the whole sale waits until
# they have, and who is asked for units tells.
use strict;
use warnings;

use CouponCluster;
use CouponTest;
use Test::More;

my $cluster = CouponCluster->new(nodes => [qw(one two three)], proxy => 0, settings => "coupon.sold_out_wait = 5s\ncoupon.transfer_low_water = 0\n");
my @names = $cluster->names;

sub issue
{
	my ($node, $campaign, $n, $prefix) = @_;

	return $cluster->on($node, qq{SELECT string_agg(status || ' ' || n, ' ' ORDER BY status) FROM (SELECT status, count(*) AS n
		FROM coupon_issue_many($campaign, ARRAY(SELECT '$prefix' || g FROM generate_series(1, 100 * $n) g
			WHERE (SELECT s.node_id FROM coupon.slot s WHERE s.slot = coupon_slot('$prefix' || g)) = coupon_node_self() LIMIT $n)) GROUP BY 1) s});
}

# ---- numbers of campaigns, before any worker has run ----
is($cluster->on($_, q{SELECT coupon_campaign_create('own', 1) % 64 = coupon_node_self()}), 't', "node $_ has numbers of its own") for @names;
foreach my $name (@names)
{
	$cluster->server($name)->append_conf('postgresql.conf', 'coupon.cluster = on');
	$cluster->server($name)->reload;
}
ok(await_true($cluster->server($_), 'postgres', 'SELECT coupon.node_confirmed()'), "node $_ is confirmed") for @names;

# ---- node one has not heard of node three, which has units ----
my $campaign = $cluster->on('one', q{SELECT coupon_cluster_create('a', 30)});
ok(await_true($cluster->server($_), 'postgres', "SELECT (SELECT remaining FROM coupon.campaign_status WHERE campaign_id = $campaign) = 10"), "node $_ has its part") for @names;
ok(await_true($cluster->server($_), 'postgres', q{SELECT NOT EXISTS (SELECT FROM coupon.transfer WHERE state IN ('cut', 'received'))}), "node $_ has settled") for @names;
$cluster->on('one', 'DELETE FROM coupon.node WHERE node_id = 3');
is(issue('two', $campaign, 10, 'a'), 'issued 10', 'node two sells what it has');
is(issue('one', $campaign, 10, 'b'), 'issued 10', 'so does node one');
is(issue('one', $campaign, 10, 'c'), 'issued 10', 'then it hears of node three, and sells what that one has');
is(issue('one', $campaign, 1, 'd'), 'sold_out 1', 'before it says that all is gone');

# ---- node one knows that node three has left, node two does not ----
$cluster->server('three')->stop('immediate');
$cluster->on('one', q{UPDATE coupon.node SET state = 'gone', version = version + 1 WHERE node_id = 3});
poll_until('node two need not wait for it', sub { issue('two', $campaign, 1, 'e') eq 'sold_out 1' });
is($cluster->on('two', 'SELECT state FROM coupon.node WHERE node_id = 3'), 'gone', 'since it has heard of it');

$cluster->server($_)->stop for qw(one two);
done_testing;
