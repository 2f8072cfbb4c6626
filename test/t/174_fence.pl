# A node whose server dies: the others sell on; its standby takes its place, with
# its units and once; the old server is refused when it returns.
use strict;
use warnings;

use CouponCluster;
use CouponTest;
use PostgreSQL::Test::Cluster;
use Test::More;

my $cluster = CouponCluster->new(nodes => [qw(one two three)], proxy => 0,
	settings => "coupon.cluster = on\ncoupon.sold_out_wait = 5s\nmax_wal_senders = 10\nwal_level = replica\nhot_standby = on\n");
my ($one, $two, $three) = map { $cluster->server($_) } $cluster->names;

sub sql { return $_[0]->safe_psql('postgres', $_[1]); }

sub confirmed { return await_true($_[0], 'postgres', 'SELECT coupon.node_confirmed()'); }

# issue(server, campaign, users): answers by their number
my $users = 0;
sub issue
{
	my ($server, $campaign, $n) = @_;

	my $first = $users;
	$users += 100 * $n;
	return sql($server, qq{SELECT string_agg(status || ' ' || n, ' ' ORDER BY status) FROM (SELECT status, count(*) AS n
		FROM coupon_issue_many($campaign, ARRAY(SELECT u FROM generate_series(1, 100 * $n) g, LATERAL (SELECT 'u' || $first + g AS u) x
			WHERE (SELECT s.node_id FROM coupon.slot s WHERE s.slot = coupon_slot(u)) = coupon_node_self() LIMIT $n)) GROUP BY 1) s});
}

sub settled
{
	my ($server) = @_;
	return await_true($server, 'postgres', q{SELECT NOT EXISTS (SELECT FROM coupon.transfer WHERE state IN ('cut', 'received'))});
}

ok(confirmed($_), 'node ' . $_->name . ' is confirmed') for $one, $two, $three;
my $campaign = sql($one, q{SELECT coupon_cluster_create('a', 3000)});
ok(await_true($_, 'postgres', "SELECT (SELECT remaining FROM coupon.campaign_status WHERE campaign_id = $campaign) = 1000"),
	'node ' . $_->name . ' has its part') for $one, $two, $three;
settled($_) for $one, $two, $three;

# ---- the standby stays behind ----
$two->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($two, 'base', has_streaming => 1);
$standby->start;
is(issue($two, $campaign, 60), 'issued 60', 'node two sells');
my $keyed = sql($two, q{SELECT string_agg(u, ',') FROM (SELECT u FROM generate_series(1, 5000) g, LATERAL (SELECT 'k' || g AS u) x
	WHERE coupon_slot(u) < 90 AND (SELECT s.node_id FROM coupon.slot s WHERE s.slot = coupon_slot(u)) = 2 LIMIT 40) y});
is(sql($two, "SELECT count(*) FROM unnest('{$keyed}'::text[]) u, coupon_issue($campaign, u, 'key') WHERE status = 'issued'"), 40, 'some with keys');
$two->wait_for_catchup($standby);
$standby->stop('fast');

# what the standby does not know: units that came, units that went, and users
is(issue($one, $campaign, 800), 'issued 800', 'node one sells, and so node two has most');
is(issue($three, $campaign, 1010), 'issued 1010', 'node three gets units of it');
is(issue($two, $campaign, 900), 'issued 900', 'node two gets some of the others, and sells them');
settled($_) for $one, $two, $three;
cmp_ok(sql($two, "SELECT count(*) FROM coupon.transfer WHERE receiver = 2"), '>', 1, 'units came to node two');
cmp_ok(sql($two, "SELECT count(*) FROM coupon.transfer WHERE donor = 2"), '>', 0, 'units left it');
# slots that come, and slots that go with a key of a user who has used it
sub moved
{
	return await_true($_[0], 'postgres', q{SELECT NOT EXISTS (SELECT FROM coupon.slot_plan) AND NOT EXISTS (SELECT FROM coupon.slot WHERE leaving IS NOT NULL)
		AND NOT EXISTS (SELECT FROM coupon.slot_parcel WHERE state = 'sent')});
}
# in this order: those that come to node two are not among those that leave it
sql($two, 'SELECT coupon_slots_move(3, 30)');
sql($one, 'SELECT coupon_slots_move(2, 30)');
ok(moved($_), 'slots have moved') for $one, $two;
my ($came) = sql($two, q{SELECT min(user_id) FROM coupon.issuance WHERE coupon_slot(user_id) IN (SELECT unnest(slots) FROM coupon.slot_parcel WHERE receiver = 2)});
isnt($came, '', 'with users');
is(sql($one, "SELECT * FROM coupon_cluster_verify($campaign)"), '', 'all is well');
$two->stop('immediate');

# and some that are on their way to it
sql($one, 'UPDATE coupon.slot SET leaving = 2 WHERE slot IN (SELECT slot FROM coupon.slot WHERE node_id = 1 ORDER BY slot LIMIT 30)');
ok(await_true($one, 'postgres', q{SELECT EXISTS (SELECT FROM coupon.slot_parcel WHERE state = 'sent')}), 'slots are on their way to it');
my ($coming, $units) = split /\|/, sql($one, q{SELECT i ->> 'user_id', count(*) OVER () FROM coupon.slot_parcel p, jsonb_array_elements(p.content -> 'issuances') i WHERE p.state = 'sent' LIMIT 1});
cmp_ok($units, '>', 0, 'with users, too');
sql($one, q{UPDATE coupon.slot_parcel SET due_at = 'infinity' WHERE state = 'sent'});

# ---- the others sell on ----
like(issue($one, $campaign, 10), qr/^(issued|busy) 10/, 'node one answers without node two');
is(sql($one, q{SELECT node_id || state FROM coupon_cluster_status(1) WHERE state <> 'active'}), '2missing', 'which is missing');

# ---- the standby takes its place: all others must know ----
my $knows = sql($one, 'SELECT epoch >> 32 FROM coupon.node_epoch WHERE node_id = 2');
$three->stop('immediate');
$standby->start;
$standby->promote;
my $conninfo = $standby->connstr('postgres') =~ s/'/''/gr;
my $moved = "UPDATE coupon.node SET conninfo = '$conninfo', version = version + 1 WHERE node_id = 2";
sql($one, $moved);
sql($standby, $moved);
ok(await_true($one, 'postgres', "SELECT epoch >> 32 > $knows FROM coupon.node_epoch WHERE node_id = 2"), 'node one knows of the new server');
like(sql_error($standby, 'postgres', "SELECT coupon_issue($campaign, 'x');"), qr/UC302.*not confirmed/s, 'but node three does not, so it sells nothing');
is(sql($standby, 'SELECT coupon.node_confirmed()'), 'f', 'and is not confirmed');
$three->start;
ok(confirmed($standby), 'once node three knows, it is');
sql($one, q{UPDATE coupon.slot_parcel SET due_at = clock_timestamp() WHERE state = 'sent'});
ok(moved($one), 'what was on its way arrives after that');
is(sql($one, "SELECT * FROM coupon_cluster_verify($campaign)"), '', 'what it did not know it knows again: no unit is lost or doubled');

# slots that came are at this node again, and those that left are not
my %homes;
$homes{$_}++ for map { split / /, sql($_, q{SELECT string_agg(slot::text, ' ') FROM coupon.slot WHERE node_id = coupon_node_self()}) } $one, $standby, $three;
is(scalar(grep { ($homes{$_} // 0) != 1 } 0 .. 1023), 0, 'each slot has one home');
is(sql($standby, "SELECT status FROM coupon_issue($campaign, '$came')"), 'issued', 'users of a slot that came to the old server are served; what they had is lost');
is(sql($standby, "SELECT status FROM coupon_issue($campaign, '$coming')"), 'already_issued', 'those of one that came after it have theirs');
is(sql($standby, 'SELECT count(*) FROM coupon.request_key'), 0, 'nothing is left of who had gone');
sql($three, 'SELECT coupon_slots_move(2, 1024)');
ok(moved($three), 'they may come back');
is(sql($standby, "SELECT string_agg(DISTINCT status, ' ') FROM unnest('{$keyed}'::text[]) u, coupon_issue($campaign, u, 'key')"), 'issued', 'and have what they had');
is(sql($one, "SELECT * FROM coupon_cluster_verify($campaign)"), '', 'no unit is lost or doubled');
sql($standby, 'SELECT coupon_slots_move(3, 300)');
ok(moved($standby), 'node three has users again');

# ---- the old server returns ----
$two->start;
ok(await_true($two, 'postgres', q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'coupon transfer')}), 'the old server is back');
poll_until('it has asked', sub { sql($two, 'SELECT sum(cycles) FROM coupon.stat_worker') > 20 });
is(sql($two, 'SELECT coupon.node_confirmed()'), 'f', 'it is not confirmed');
like(sql_error($two, 'postgres', "SELECT coupon_issue($campaign, 'x');"), qr/UC302/, 'and sells nothing');
# who has its old address is not given units either
# (in a transaction: the node of that number would tell its own address meanwhile)
like(sql($one, "BEGIN; UPDATE coupon.node SET conninfo = '" . ($two->connstr('postgres') =~ s/'/''/gr) . "' WHERE node_id = 2;
	SELECT error FROM coupon.peers_call('cut', jsonb_build_object('campaign_id', $campaign, 'has', 0), 2); ROLLBACK"), qr/UC311/, 'nor does it give any away');
$two->stop('immediate');

# ---- everything that is left is sold, at all nodes ----
# (counted by what is issued: others may be on their way between two nodes)
my $left = 3000 - sql($one, "SELECT sum(issued) FROM coupon_cluster_status($campaign)");
is(issue($standby, $campaign, $left), "issued $left", 'the new server sells all that is left');
is(issue($_, $campaign, 3), 'sold_out 3', 'then all is gone, at node ' . $_->name) for $one, $standby, $three;
is(sql($one, "SELECT * FROM coupon_cluster_verify($campaign)"), '', 'and all is well');

# ---- a copy of a node that is none sells nothing of it ----
sql($one, 'DELETE FROM coupon.node_self');
poll_until('a server that is no node does not sell what nodes share', sub { sql_error($one, 'postgres', "SELECT coupon_issue($campaign, 'zz');") =~ /UC302/ });

$_->stop for $one, $three, $standby;
done_testing;
