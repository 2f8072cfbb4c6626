# A node that is drained gives its free units to the others that answer, and is not
# removed before: afterwards everything is sold, and no unit is lost.
use strict;
use warnings;

use CouponCluster;
use CouponFault;
use CouponTest;
use Test::More;

my $cluster = CouponCluster->new(nodes => [qw(one two three)], proxy => 0, settings => "coupon.cluster = on\ncoupon.sold_out_wait = 5s\nlog_min_messages = warning\n");
my @names = $cluster->names;
my $one = $cluster->server('one');

# issue(node, campaign, n, prefix): to so many users who have their home there
sub issue
{
	my ($node, $campaign, $n, $prefix) = @_;

	return $cluster->on($node, qq{SELECT string_agg(status || ' ' || n, ' ' ORDER BY status) FROM (
		SELECT status, count(*) AS n FROM coupon_issue_many($campaign, ARRAY(SELECT u FROM generate_series(1, 100 * $n) g, LATERAL (SELECT '$prefix' || g AS u) x
			WHERE (SELECT s.node_id FROM coupon.slot s WHERE s.slot = coupon_slot(u)) = coupon_node_self() LIMIT $n)) GROUP BY 1) s});
}

sub slots { return $cluster->on($_[0], 'SELECT count(*) FROM coupon.slot WHERE node_id = 3') }

ok(await_true($cluster->server($_), 'postgres', 'SELECT coupon.node_confirmed()'), "node $_ is confirmed") for @names;
my $sale = $cluster->on('one', q{SELECT coupon_cluster_create('sale', 900)});
my $ended = $cluster->on('one', q{SELECT coupon_cluster_create('ended', 30)});
my $wanted = $cluster->on('one', q{SELECT coupon_cluster_create('wanted', 3)});
ok(await_true($cluster->server($_), 'postgres', "SELECT (SELECT sum(remaining) FROM coupon.campaign_status WHERE campaign_id IN ($sale, $ended)) = 310"), "node $_ has its third") for @names;
$cluster->on('one', "SELECT coupon_campaign_close($ended)");
ok(await_true($cluster->server('three'), 'postgres', "SELECT closed_at IS NOT NULL FROM coupon.campaign WHERE campaign_id = $ended"), 'a sale ends');
is(issue('three', $sale, 20, 'a'), 'issued 20', 'node three has users');
like(sql_error($one, 'postgres', 'SELECT coupon_node_remove(3);'), qr/UC303: node cannot be removed.*slots/s, 'a node that sells is not removed');

# ---- slots alone leave first: the units stay until the node is drained ----
$cluster->on('three', 'SELECT coupon_slots_move(1, 1024)');
poll_until('node three has no slots', sub { slots('one') == 0 && slots('two') == 0 && slots('three') == 0 });
poll_until('its users have arrived', sub { $cluster->sum(q{SELECT count(*) FROM coupon.slot_parcel WHERE state = 'sent'}) == 0 });

# what node two has on its way to node three when it dies: units that do not get there, and
# some that do, of which node two does not hear
$cluster->on('two', qq{SELECT coupon.transfer_out($sale, 3::smallint, 7, 'infinity')});
my $there = $cluster->on('two', qq{SELECT (coupon.transfer_out($sale, 3::smallint, 5, clock_timestamp())).transfer_id});
ok(await_true($cluster->server('two'), 'postgres', "SELECT state = 'done' FROM coupon.transfer WHERE transfer_id = '$there'"), 'units come to node three');
ok(await_true($cluster->server('three'), 'postgres', "SELECT state = 'settled' FROM coupon.transfer WHERE transfer_id = '$there'"), 'and all is said');
$cluster->on('two', "UPDATE coupon.transfer SET state = 'cut', due_at = 'infinity' WHERE transfer_id = '$there'");
is($cluster->on('two', q{SELECT coupon.call_leaving(3::smallint) ->> 'transit'}), 2, 'what is on its way is seen at its donor');
$cluster->kill('two');

# ---- as long as node two is dead, what waits for it keeps nobody from hearing of the rest ----
$cluster->on('one', qq{INSERT INTO coupon.transfer (transfer_id, campaign_id, donor, receiver, serials, state, due_at)
	SELECT gen_random_uuid(), $sale, 1, 2, '{}', 'cut', now() FROM generate_series(1, 3000)});
$cluster->on('one', "SELECT coupon_campaign_pause($sale)");
ok(await_true($cluster->server('three'), 'postgres', "SELECT paused FROM coupon.campaign WHERE campaign_id = $sale"), 'a change is told though very much waits for a node that is dead');
$cluster->on('one', q{DELETE FROM coupon.transfer WHERE serials = '{}'});
# the last unit is at node two
poll_until('all that can be had', sub { issue('one', $wanted, 2, 'w');
	$cluster->on('one', "SELECT issued FROM coupon.campaign_status WHERE campaign_id = $wanted") == 2 });
my $waiter = start_sql($one, qq{SET coupon.sold_out_wait = '60s';
	SELECT (coupon_issue($wanted, u)).status FROM generate_series(1, 100) g, LATERAL (SELECT 'v' || g AS u) x
	 WHERE (SELECT s.node_id FROM coupon.slot s WHERE s.slot = coupon_slot(u)) = coupon_node_self() LIMIT 1});
ok(await_true($one, 'postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'SELECT (coupon_issue(%' AND wait_event_type = 'Extension'}), 'somebody waits for it');
$cluster->on('one', "SELECT coupon_campaign_resume($sale)");
ok(await_true($cluster->server('three'), 'postgres', "SELECT NOT paused FROM coupon.campaign WHERE campaign_id = $sale"), 'nor does who wants what nobody has');
is($waiter->{out}, '', 'who waits still');
$cluster->on('one', "SELECT coupon_campaign_close($wanted)");
$waiter->{run}->kill_kill;

like(sql_error($one, 'postgres', q{BEGIN; UPDATE coupon.node SET state = 'draining' WHERE node_id = 3; SELECT coupon_node_remove(3);}),
	qr/UC303: node cannot be removed.*Node 3 has \d+ units that are not issued.*HINT/s, 'nor is one that has free units');
# one that takes its time, or refuses to answer, is not dead
my $barrier = $cluster->server('three')->background_psql('postgres');
$barrier->query_safe('BEGIN; LOCK TABLE coupon.slot_parcel');
my $remover = start_sql($one, q{BEGIN; UPDATE coupon.node SET state = 'draining' WHERE node_id = 3; SELECT coupon_node_remove(3);});
poll_until('node three has been asked for longer than coupon.cluster_timeout', sub {
	$remover->{run}->pump_nb;
	return "$remover->{out}$remover->{err}" ne '' ||
	  $cluster->on('three', q{SELECT max(clock_timestamp() - query_start) > '1.5 s' FROM pg_stat_activity WHERE query LIKE '%coupon.node_call(%' AND wait_event_type = 'Lock'}) eq 't' });
$barrier->query_safe('ROLLBACK');
$barrier->quit;
like(answer($remover), qr/node cannot be removed.*Node 3 has \d+ units that are not issued/s, 'nor one that is slow to say what it has');
$cluster->on('three', 'ALTER FUNCTION coupon.call_leaving(smallint) RENAME TO call_left');
like(sql_error($one, 'postgres', q{BEGIN; UPDATE coupon.node SET state = 'draining' WHERE node_id = 3; SELECT coupon_node_remove(3);}),
	qr/UC303: node cannot be removed.*Node 3 runs, but does not say what it has: 42883/s, 'nor one that answers with an error');
$cluster->on('three', 'ALTER FUNCTION coupon.call_left(smallint) RENAME TO call_leaving');
# or that is starting, and says so in its own language, which this server may not even know
my ($port, $impostor) = CouponCluster::impostor(join("\0", "ES\xec\xb9\x98\xeb\xaa\x85\xec\xa0\x81\xec\x98\xa4\xeb\xa5\x98", 'VFATAL', 'C57P03', "M\xb5\xa5\xc0\xcc\xc5\xcd",
	'Fpostmaster.c', 'L2379', 'RProcessStartupPacket', '', ''));
like(sql_error($one, 'postgres', qq{BEGIN; UPDATE coupon.node SET state = 'draining', conninfo = 'host=127.0.0.1 port=$port' WHERE node_id = 3; SELECT coupon_node_remove(3);}),
	qr/UC303: node cannot be removed.*Node 3 runs, but does not say what it has: connection to [^\n]*: +57P03: \?+$/ms, 'nor one that refuses, in whatever language');
kill 'KILL', $impostor;
waitpid $impostor, 0;
is($cluster->on('one', 'SELECT state FROM coupon.node WHERE node_id = 3'), 'active', 'it stays what it was');

# ---- they go to the one that answers ----
$cluster->on('three', 'SELECT coupon_node_drain()');
poll_until('node three has no units', sub { $cluster->on('three', 'SELECT sum(remaining) FROM coupon.campaign_status') == 0 });
is($cluster->on('three', 'SELECT count(*) FROM coupon.transfer WHERE donor = 3 AND receiver = 2'), 0, 'none is kept for a node that is dead');
poll_until('all has arrived', sub { $cluster->on('three', q{SELECT count(*) FROM coupon.transfer WHERE state = 'cut'}) == 0 });
$cluster->on('one', 'SELECT coupon_node_learn($$' . $cluster->on('three', 'SELECT coupon_node_map()') . '$$)');

# ---- it dies, and is removed: what was on its way to it comes back ----
$cluster->on('one', qq{SELECT coupon.transfer_out($sale, 3::smallint, 3, 'infinity')});
like(sql_error($one, 'postgres', 'SELECT coupon_node_remove(3);'), qr/UC303: node cannot be removed.*1 transfers/s, 'a node is not removed to which units are on their way, and which answers');
$cluster->server('three')->stop('fast');
my ($answer, $warning);
$one->psql('postgres', 'SELECT coupon_node_remove(3)', stdout => \$answer, stderr => \$warning);
is($answer, 't', 'one that is dead is');
like($warning, qr/WARNING.*not all nodes could be asked.*No answer from node 2, 3/s, 'and it is said who was not asked');
is($cluster->on('one', 'SELECT coupon_node_remove(3)'), 'f', 'once');
$cluster->on('one', q{UPDATE coupon.transfer SET due_at = clock_timestamp() WHERE state = 'cut'});
my $cycles = 'SELECT sum(cycles) FROM coupon.stat_worker';
my $cycle = $cluster->on('one', $cycles);
ok(await_true($one, 'postgres', "SELECT ($cycles) > $cycle + 20"), 'node one goes on');
is($cluster->on('one', q{SELECT count(*) FROM coupon.transfer WHERE state = 'cut'}), 1, 'nothing comes back before all nodes say where it is not');
$cluster->start('two');
ok(await_true($cluster->server('two'), 'postgres', 'SELECT coupon.node_confirmed()'), 'node two is back');
ok(await_true($cluster->server('two'), 'postgres', q{SELECT state = 'gone' FROM coupon.node WHERE node_id = 3}), 'and hears of it');
$cluster->on('two', q{UPDATE coupon.transfer SET due_at = clock_timestamp() WHERE state = 'cut'});
poll_until('nothing is on its way', sub { $cluster->on($_, q{SELECT count(*) FROM coupon.transfer WHERE state IN ('cut', 'received')}) == 0 || return 0 for qw(one two); 1 });
like($cluster->on('one', qq{SELECT error FROM coupon.peers_call('receive', '{"transfer": {"donor": 3, "receiver": 2}}', 2)}), qr/UC303: the node has left/, 'what it would still send is refused');

# ---- nothing is lost ----
is($cluster->on('one', "SELECT string_agg(concat_ws(' ', law, detail), ', ') FROM coupon_cluster_verify($_)"), '', 'coupon_cluster_verify finds nothing') for $sale, $ended;
is(issue('two', $sale, 500, 'b'), 'issued 500', 'node two sells');
is(issue('one', $sale, 380, 'c'), 'issued 380', 'and node one the rest');
poll_until('sold out', sub { issue('one', $sale, 1, 'd') eq 'sold_out 1' });
is($cluster->on('one', "SELECT sum(stock) || ' ' || sum(issued) || ' ' || sum(in_transit) FROM coupon_cluster_status($sale)"), '900 900 0', 'all units are sold');
is($cluster->on('two', "SELECT string_agg(concat_ws(' ', law, detail), ', ') FROM coupon_cluster_verify($_)"), '', 'coupon_cluster_verify finds nothing, either') for $sale, $ended;

# ---- slots that are on their way to a node that leaves come back, with their users ----
$cluster->start('three');
ok(await_true($cluster->server('three'), 'postgres', q{SELECT state = 'gone' FROM coupon.node WHERE node_id = 3}), 'a node that has left and is started again hears that it has');
$cluster->add('four');
poll_until('node four is known', sub { $cluster->on($_, 'SELECT count(*) FROM coupon.node WHERE coupon.node_confirmed()') == 4 || return 0 for qw(one two four); 1 });
my $late = $cluster->on('four', q{SELECT coupon_cluster_create('late', 60)});
poll_until('all have their part of a campaign that it keeps', sub { $cluster->on($_, "SELECT (SELECT remaining FROM coupon.campaign_status WHERE campaign_id = $late) = 20") eq 't' || return 0 for qw(one two four); 1 });
sub without_worker
{
	my ($node) = @_;

	alter_system($cluster->server($node), 'coupon.cluster' => 'off');
	return poll_until("the worker of node $node ends", sub { $cluster->on($node, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'coupon transfer'}) == 0 });
}
# parcel(): node two gives a slot with a user to node four, which is cut off from it
sub parcel
{
	my $slot = $cluster->on('two', "SELECT coupon_slot(i.user_id) FROM coupon.issuance i JOIN coupon.slot s ON s.slot = coupon_slot(i.user_id) AND s.node_id = 2 WHERE i.campaign_id = $sale LIMIT 1");

	without_worker('two');
	$cluster->on('two', "SELECT coupon.slots_leave('{$slot}', 4::smallint)");
	is($cluster->on('two', 'SELECT coupon.slots_give()'), 'given', 'a slot is on its way to node four');
	return $slot;
}
my $slot = parcel();
my $users = $cluster->on('two', 'SELECT count(*) FROM coupon.issuance');
without_worker('four');
$cluster->on('four', 'SELECT coupon_node_drain()');
$cluster->on($_, 'SELECT coupon_node_learn($$' . $cluster->on('four', 'SELECT coupon_node_map()') . '$$)') for qw(one two);
like(sql_error($one, 'postgres', 'SELECT coupon_node_remove(4);'), qr/UC303: node cannot be removed.*1 parcels of slots/s, 'and is not removed while it answers');
$cluster->server('four')->stop('fast');
without_worker('one');
my $session = $one->background_psql('postgres', on_error_stop => 0);
is($session->query("SET client_min_messages = error; BEGIN; SELECT coupon_node_remove(4)"), 't', 'one that is dead is');
is($cluster->on('two', 'SELECT coupon_node_remove(4)'), 't', 'also if two do that at the same time');
$session->query('COMMIT');
$session->quit;
is($cluster->on($_, "SELECT keeper FROM coupon.campaign WHERE campaign_id = $late"), 1, "both have the same one take its campaign: node $_") for qw(one two);
like(sql_error($cluster->server('two'), 'postgres', "SELECT coupon_cluster_add_stock($late, 30);"), qr/The keeper of campaign $late is node 1/, 'and no units are made twice');
alter_system($cluster->server($_), 'coupon.cluster' => 'on') for qw(one two);
is($cluster->on('one', "SELECT coupon_cluster_add_stock($late, 30)"), '90', 'it makes more of them');
ok(await_true($cluster->server('two'), 'postgres', "SELECT node_id = 2 FROM coupon.slot WHERE slot = $slot"), 'the slot comes back');
cmp_ok($cluster->on('two', 'SELECT count(*) FROM coupon.issuance'), '>', $users, 'with its users');
is($cluster->on('two', "SELECT string_agg(concat_ws(' ', law, detail), ', ') FROM coupon_cluster_verify($_)"), '', 'and every unit is at one node') for $sale, $ended;
is($cluster->on('one', "SELECT sum(issued) FROM coupon_cluster_status($sale)"), 900, 'as before');
ok(await_true($one, 'postgres', "SELECT node_id = 2 FROM coupon.slot WHERE slot = $slot"), 'node one hears of it');

# ---- all that are left are drained at the same time ----
is($cluster->on('one', q{
	BEGIN;
	UPDATE coupon.node SET state = 'draining' WHERE state = 'active';
	SELECT coupon_cluster_create('last', 10) AS c \gset
	SELECT away FROM coupon.campaign WHERE campaign_id = :c;
	ROLLBACK}), 0, 'new units are here, and not nowhere');

done_testing;
