# Two nodes share the last units of a sale, and each step of a transfer fails, at
# the donor and at the receiver, by an error and by kill -9: users who try again get
# all units, each once.
use strict;
use warnings;

use CouponCluster;
use CouponFault;
use CouponTest;
use PostgreSQL::Test::Utils;
use Test::More;

{
	no warnings 'redefine';
	*CouponCluster::new_server = \&fault_server;
}
my $cluster = CouponCluster->new(nodes => [qw(one two)], proxy => 0, settings => "coupon.cluster = on\ncoupon.sold_out_wait = 2s\n");
ok(await_true($cluster->server($_), 'postgres', 'SELECT coupon.node_confirmed()'), "node $_ is confirmed") for $cluster->names;

# Node two has sold its part: whatever it sells comes from node one.
my $campaign = $cluster->on('one', q{SELECT coupon_cluster_create('a', 20)});
ok(await_true($cluster->server('two'), 'postgres', "SELECT EXISTS (SELECT FROM coupon.campaign WHERE campaign_id = $campaign)"), 'node two has its part');
my @users = split /,/, $cluster->on('two', q{SELECT string_agg(u, ',') FROM (SELECT 'u' || g AS u FROM generate_series(1, 4000) g) x
	WHERE (SELECT s.node_id FROM coupon.slot s WHERE s.slot = coupon_slot(u)) = 2});
my $sold = 0;
my $units = 20;

# sell(n, what): to n users, who try again until they have one
sub sell
{
	my ($n, $what) = @_;
	my $ids = join ',', splice @users, 0, $n;

	poll_until($what, sub { (try_sql($cluster->server('two'), 'postgres',
		"SELECT count(*) FROM coupon_issue_many($campaign, '{$ids}') WHERE status IN ('issued', 'already_issued')") // 0) == $n });
	$sold += $n;
	return;
}
sell(10, 'its own units are sold');

# the units that a step needs are at the donor: whatever node two has is sold first
foreach (['one', 'units_sent'], ['two', 'units_come'], ['two', 'peer_asked'], ['two', 'peer_answered'], ['one', 'commit_unsettled'], ['two', 'commit_unsettled'])
{
	my ($name, $point) = @$_;

	foreach my $kind ($point eq 'commit_unsettled' ? 'kill' : qw(error kill))
	{
		my $server = $cluster->server($name);
		# half of them are for node two
		$units = $cluster->on('one', "SELECT coupon_cluster_add_stock($campaign, 20)");
		ok(await_true($cluster->server('one'), 'postgres', "SELECT NOT EXISTS (SELECT FROM coupon.transfer WHERE state = 'cut')"), 'more units');
		my $here = $cluster->on('two', "SELECT remaining FROM coupon_status($campaign)");
		my $lines = () = slurp_file($server->logfile) =~ /^coupon fault point $point: $kind$/gm;

		sell($here, 'what was fetched') if $here > 0;
		arm($server, $point, $kind);
		sell(2, "$point at node $name, $kind");
		poll_until("$point: $kind", sub { (() = slurp_file($server->logfile) =~ /^coupon fault point $point: $kind$/gm) > $lines
			|| (sell(1, "$point at node $name, $kind, again"), 0)[1] });
		poll_until('the server is back', sub { (try_sql($server, 'postgres', 'SELECT coupon.node_confirmed()') // '') eq 't' });
		disarm($server);
		is($cluster->on('one', "SELECT * FROM coupon_cluster_verify($campaign)"), '', "$point at node $name, $kind: no unit is lost or doubled");
	}
}
my $left = $units - $sold;
sell($left, 'all is sold');
poll_until('sold out', sub { $cluster->on('two', "SELECT status FROM coupon_issue_many($campaign, '{$users[0]}')") eq 'sold_out' });
is($cluster->on('one', "SELECT sum(issued) || ' ' || sum(remaining) || ' ' || sum(in_transit) FROM coupon_cluster_status($campaign)"), "$units 0 0", 'each unit is sold');
is($cluster->on('one', "SELECT * FROM coupon_cluster_verify($campaign)"), '', 'and once');
$cluster->stop;
done_testing;
