# Stock that three nodes share: dealt out, fetched where it is wanted, down to the
# last unit; sold out when no node has one; each step done again until it succeeds.
use strict;
use warnings;

use CouponCluster;
use CouponTest;
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;

my $cluster = CouponCluster->new(nodes => [qw(one two three)], proxy => 0, settings => "coupon.cluster = on\ncoupon.sold_out_wait = 5s\n");
my @names = $cluster->names;

# verified(campaign, what): no unit is lost or doubled over all nodes
sub verified
{
	my ($campaign, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is($cluster->on('one', "SELECT * FROM coupon_cluster_verify($campaign)"), '', "$what: coupon_cluster_verify finds nothing");
	return;
}

# users(node, n, prefix): so many users who have their home there
sub users
{
	my ($node, $n, $prefix) = @_;

	return $cluster->on($node, qq{SELECT string_agg(u, ',') FROM (SELECT u FROM generate_series(1, 100 * $n) g, LATERAL (SELECT '$prefix' || g AS u) x
		WHERE (SELECT s.node_id FROM coupon.slot s WHERE s.slot = coupon_slot(u)) = coupon_node_self() LIMIT $n) y});
}

# issue(node, campaign, n, prefix, wait): to so many of them, who wait that long for units
sub issue
{
	my ($node, $campaign, $n, $prefix, $wait) = @_;

	return $cluster->on($node, 'SET coupon.sold_out_wait = ' . ($wait // 5000) . "; SELECT string_agg(status || ' ' || n, ' ' ORDER BY status) FROM (SELECT status, count(*) AS n FROM coupon_issue_many($campaign, '{"
		. users($node, $n, $prefix) . "}') GROUP BY 1) s");
}

ok(await_true($cluster->server($_), 'postgres', 'SELECT coupon.node_confirmed()'), "node $_ is confirmed") for @names;

# ---- created once, dealt out ----
my $campaign = $cluster->on('one', q{SELECT coupon_cluster_create('a', 3000, request_key => 'k1')});
is($cluster->on('one', q{SELECT coupon_cluster_create('a', 3000, request_key => 'k1')}), $campaign, 'the same key: the same campaign');
is($campaign % 64, 1, 'no other node gives this number');
foreach my $name (@names)
{
	ok(await_true($cluster->server($name), 'postgres', "SELECT (SELECT remaining FROM coupon.campaign_status WHERE campaign_id = $campaign) = 1000"),
		"node $name gets its third");
}
verified($campaign, 'dealt out');
is($cluster->on('one', "SELECT coupon_cluster_add_stock($campaign, 300, 'k2')"), '3300', 'stock is added');
is($cluster->on('one', "SELECT coupon_cluster_add_stock($campaign, 300, 'k2')"), '3300', 'once');
ok(await_true($cluster->server('three'), 'postgres', "SELECT remaining = 1100 FROM coupon_status($campaign)"), 'and dealt out');
like(sql_error($cluster->server('two'), 'postgres', "SELECT coupon_campaign_add_stock($campaign, 1);"), qr/UC303.*at another node/, 'at the keeper only');
like(sql_error($cluster->server('two'), 'postgres', "SELECT coupon_campaign_pause($campaign);"), qr/UC303.*changed at another node/, 'so are changes');
$cluster->on('one', "SELECT coupon_campaign_alter($campaign, name => 'b')");
ok(await_true($cluster->server('two'), 'postgres', "SELECT name = 'b' FROM coupon.campaign WHERE campaign_id = $campaign"), 'the others follow');

# ---- nothing is said between nodes before low water ----
ok(await_true($cluster->server($_), 'postgres', "SELECT NOT EXISTS (SELECT FROM coupon.transfer WHERE state IN ('cut', 'received'))"), "node $_ has settled") for @names;
my $calls = "SELECT calls FROM pg_stat_user_functions WHERE funcname = 'node_call'";
is(issue('two', $campaign, 900, 'a'), 'issued 900', 'node two sells most of what it has');
is($cluster->on('two', 'SELECT count(*) FROM coupon.transfer'), '2', 'and fetches nothing');

# ---- one node sells everything ----
is(issue('two', $campaign, 2300, 'b'), 'issued 2300', 'node two sells what the others had, too');
verified($campaign, 'fetched');
is(issue('three', $campaign, 100, 'c'), 'issued 100', 'the last hundred are sold elsewhere');
is(issue('one', $campaign, 5, 'd'), 'sold_out 5', 'then all is sold out');
is(issue('two', $campaign, 5, 'd'), 'sold_out 5', 'at each node');
is($cluster->on('one', "SELECT sum(stock) || ' ' || sum(issued) || ' ' || sum(remaining) || ' ' || sum(in_transit) FROM coupon_cluster_status($campaign)"),
	'3300 3300 0 0', 'one view');
verified($campaign, 'sold out');

# ---- a unit that comes back is sold, wherever somebody asks ----
my ($user) = split /,/, users('three', 1, 'c');
is($cluster->on('three', "SELECT coupon_revoke($campaign, '$user', 'r')"), 't', 'a unit comes back to node three');
poll_until('the unit is sold at node one', sub { issue('one', $campaign, 1, 'e') eq 'issued 1' });
poll_until('sold out again', sub { issue('one', $campaign, 1, 'f') eq 'sold_out 1' });
verified($campaign, 'a unit came back');

# ---- who cannot wait does not leave calls behind, one beside the other, that wait for a lock ----
my $lock = $cluster->server('two')->background_psql('postgres');
$lock->query_safe("BEGIN; SELECT FROM coupon.campaign WHERE campaign_id = $campaign FOR UPDATE");
like($cluster->on('one', "SELECT error FROM coupon.peers_call('define', jsonb_build_object('campaign', coupon.campaign_definition($campaign) || '{\"version\": 1000}'), 2)"), qr/no answer in time|55P03/, 'a call has to wait') for 1 .. 3;
ok(await_true($cluster->server('two'), 'postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'coupon_node' AND wait_event_type = 'Lock'}), 'and ends by itself');
$lock->query_safe('ROLLBACK');
$lock->quit;

# ---- a campaign's trouble is its own: of one that somebody has locked, or whose units cannot be taken in, the others hear nothing ----
my ($stuck, $fine) = map { $cluster->on('two', "SELECT coupon_cluster_create('$_', 90)") } qw(stuck fine);
ok(await_true($cluster->server($_), 'postgres', "SELECT count(*) = 2 FROM coupon.campaign_status WHERE campaign_id IN ($stuck, $fine) AND remaining = 30"), "two campaigns are at node $_") for @names;
$lock = $cluster->server('two')->background_psql('postgres');
$lock->query_safe("BEGIN; SELECT coupon_campaign_pause($stuck)");
my $begun = time;
is(issue('two', $stuck, 40, 'l', 500), 'busy 10 issued 30', 'what somebody has locked gets no further units');
is(issue('two', $fine, 90, 'l'), 'issued 90', 'another one gets all there are');
cmp_ok(time - $begun, '<', within(12), '  in time');
$lock->query_safe('ROLLBACK');
$lock->quit;
poll_until('units come when it is locked no longer', sub { issue('two', $stuck, 40, 'l') eq 'already_issued 40' });
$cluster->on('two', "ALTER TABLE coupon.transfer ADD CONSTRAINT not_these CHECK (campaign_id <> $stuck) NOT VALID");
my $at = -s $cluster->server('two')->logfile;
like(issue('two', $stuck, 60, 'm', 2500), qr/busy/, 'units that cannot be taken in');
like(slurp_file($cluster->server('two')->logfile, $at), qr/no units of campaign $stuck could be fetched/, '  are asked for');
cmp_ok($cluster->on($_, "SELECT count(*) FROM coupon.transfer WHERE campaign_id = $stuck AND state = 'cut'"), '<=', 1, "  and node $_ sends no more of them") for qw(one three);
$cluster->on('two', 'ALTER TABLE coupon.transfer DROP CONSTRAINT not_these');
poll_until('units come when they can', sub { issue('two', $stuck, 60, 'm') =~ /^already_issued 50 sold_out 10$/ });
verified($stuck, 'once they can');

# ---- without a node nobody is told that all is gone ----
$cluster->kill('three');
is($cluster->on('one', "SELECT string_agg(node_id || state, ' ' ORDER BY node_id) FROM coupon_cluster_status($campaign)"), '1active 2active 3missing', 'the missing one is named');
like($cluster->on('one', "SELECT law FROM coupon_cluster_verify($campaign)"), qr/^node is missing$/, 'by verify, too');
poll_until('busy', sub { $cluster->on('one', "SET coupon.sold_out_wait = 10; SELECT status FROM coupon_issue_many($campaign, '{" . users('one', 1, 'g') . "}')") eq 'busy' });
my $next = $cluster->on('one', q{SELECT coupon_cluster_create('c', 30)});
ok(await_true($cluster->server('two'), 'postgres', "SELECT EXISTS (SELECT FROM coupon.campaign WHERE campaign_id = $next)"), 'node two knows a new campaign');
is(issue('two', $next, 12, 'h'), 'issued 12', 'the others sell on, each what the other has');
$cluster->start('three');
ok(await_true($cluster->server('three'), 'postgres', 'SELECT coupon.node_confirmed()'), 'node three is back');
ok(await_true($cluster->server('three'), 'postgres', "SELECT remaining = 10 FROM coupon.campaign_status WHERE campaign_id = $next"), 'and gets what was on its way to it');
poll_until('sold out', sub { issue('one', $campaign, 1, 'g') eq 'sold_out 1' });
verified($next, 'back');

# ---- codes go with their units ----
my $coded = $cluster->on('one', q{SELECT coupon_cluster_create('codes', 0)});
$cluster->on('one', "SELECT coupon_codes_import($coded, ARRAY(SELECT 'CODE' || g FROM generate_series(1, 90) g))");
ok(await_true($cluster->server('three'), 'postgres', "SELECT EXISTS (SELECT FROM coupon.campaign WHERE campaign_id = $coded)"), 'node three knows the campaign');
poll_until('codes are fetched', sub { issue('three', $coded, 1, 'j') eq 'issued 1' });
is($cluster->on('three', "SELECT count(DISTINCT code) || status FROM coupon_issue_many($coded, '{" . users('three', 30, 'i') . "}') GROUP BY status"), '30issued', 'codes of node one are sold at node three');
verified($coded, 'codes');

# ---- very many at a time, in a session that has had none before ----
my $big = $cluster->on('one', q{SELECT coupon_cluster_create('big', 210000)});
is($cluster->on('one', "SELECT coupon.units_of(serials) FROM coupon.transfer_out($big, 2::smallint, 60000, clock_timestamp())"), '60000', 'very many units leave at a time');
ok(await_true($cluster->server('two'), 'postgres', "SELECT (SELECT remaining FROM coupon.campaign_status WHERE campaign_id = $big) = 130000"), 'and arrive');
verified($big, 'very many');

# ---- a campaign ends ----
$cluster->on('one', "SELECT coupon_campaign_close($campaign)");
ok(await_true($cluster->server('two'), 'postgres', "SELECT closed_at IS NOT NULL FROM coupon.campaign WHERE campaign_id = $campaign"), 'closed everywhere');
$cluster->on($_, "CALL coupon_campaign_drop($campaign)") for @names;
is($cluster->on($_, "SELECT count(*) FROM coupon.transfer WHERE campaign_id = $campaign"), '0', "dropped at node $_") for @names;

done_testing;
