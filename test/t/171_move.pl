# Slots move to a node that is new, and back, while the sale goes on: nobody is
# without a home for long, nothing is lost or doubled, whoever is killed; the
# events of each user arrive at a broker in order.
use strict;
use warnings;

use CouponCluster;
use CouponKafka;
use CouponTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

if (my $why = CouponCluster::plproxy_is_missing())
{
	plan skip_all => $why;
}
my $users = 6000;
my $broker = kafka_tools_missing() ? undef : mock_broker(topics => { 'coupon-issued' => 12, orders => 12 });
my $settings = "coupon.cluster = on\ncoupon.sold_out_wait = 2s\nlog_min_messages = warning\n";
$settings .= "coupon.kafka_brokers = '" . $broker->bootstrap . "'\n" if $broker;
my $cluster = CouponCluster->new(nodes => ['one'], settings => $settings);
my $one = $cluster->server('one');
ok(await_true($one, 'postgres', 'SELECT coupon.node_confirmed()'), 'one node sells');

my $sale = $cluster->on('one', q{SELECT coupon_cluster_create('sale', 20000)});
my $other = $cluster->on('one', q{SELECT coupon_cluster_create('other', 500, 3)});
my $orders = $cluster->on('one', q{SELECT coupon_cluster_create('orders', 100, topic => 'orders')});

# who gets an ERROR tries again; what they were told is kept, and how long it took
$cluster->proxy(q{
	CREATE UNLOGGED TABLE told (user_id text, campaign bigint, status text, serial bigint, took double precision, tries integer);
	CREATE FUNCTION try_issue(campaign bigint, wants text) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		begun timestamptz := clock_timestamp();
		tries integer := 0;
		answer coupon.issue_result;
	BEGIN
		LOOP
			tries := tries + 1;
			BEGIN
				SELECT * INTO answer FROM coupon_issue($1, $2);
				IF answer.status <> 'busy' THEN
					INSERT INTO told VALUES ($2, $1, answer.status, answer.serial, extract(epoch FROM clock_timestamp() - begun), tries);
					RETURN;
				END IF;
			EXCEPTION WHEN OTHERS THEN
				IF SQLSTATE !~ '^(UC30|UC31|08|57|XX000|40)' THEN
					RAISE;
				END IF;
			END;
			PERFORM pg_sleep(0.01);
		END LOOP;
	END $$;

	-- the next order of a user, or the cancellation of the last
	CREATE TABLE orders (user_id text PRIMARY KEY, n integer NOT NULL);
	CREATE FUNCTION try_order(campaign bigint, wants text) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		mine integer;
		answer text;
	BEGIN
		SELECT n + 1 INTO mine FROM orders WHERE user_id = wants;
		LOOP
			BEGIN
				IF mine % 2 = 1 THEN
					SELECT status INTO answer FROM coupon_redeem(campaign, wants, 'order-' || mine);
				ELSE
					SELECT status INTO answer FROM coupon_redeem_cancel(campaign, wants, 'order-' || mine - 1);
				END IF;
				EXIT WHEN answer <> 'busy';
			EXCEPTION WHEN OTHERS THEN
				IF SQLSTATE !~ '^(UC30|UC31|08|57|XX000|40)' THEN
					RAISE;
				END IF;
			END;
			PERFORM pg_sleep(0.01);
		END LOOP;
		UPDATE orders SET n = mine WHERE user_id = wants;
	END $$});
$cluster->proxy(qq{ALTER DATABASE postgres SET statement_timeout = '@{[ CouponTest::PATIENCE ]}s'});

# everything that a user may have
my $held = $cluster->proxy("SELECT string_agg(u, ',') FROM generate_series(1, 60) g, LATERAL (SELECT 'held-' || g AS u) x, LATERAL coupon_hold_any($other, u, '1 hour') h WHERE h.status = 'held'");
is(scalar(split /,/, $held), 60, 'some hold a unit');
is($cluster->proxy("SELECT string_agg(DISTINCT status, ' ') FROM generate_series(1, 60) g, coupon_issue($other, 'keyed-' || g, 'k')"), 'issued', 'some have used a key');
is($cluster->proxy("SELECT string_agg(DISTINCT r.status, ' ') FROM generate_series(1, 60) g, LATERAL coupon_redeem($other, 'keyed-' || g, 'order-' || g) r WHERE g % 2 = 0"), 'redeemed', 'some have redeemed');
$cluster->on('one', "SELECT count(*) FROM coupon_issue_many($sale, ARRAY(SELECT 'early-' || g FROM generate_series(1, 3000) g))");

is($cluster->proxy("WITH o AS (INSERT INTO orders SELECT g::text, 0 FROM generate_series(0, 59) g RETURNING user_id)
	SELECT string_agg(DISTINCT status, ' ') FROM o, coupon_issue($orders, user_id)"), 'issued', 'some will order');

# sell(calls): sessions that sell, until they are finished; each in four of them
# orders for users of its own
my $script = PostgreSQL::Test::Utils::tempdir() . '/sell.sql';
append_to_file($script, "\\set user random(1, $users)\nSELECT try_issue($sale, 'user-' || :user);\n");
my $order_script = PostgreSQL::Test::Utils::tempdir() . '/order.sql';
append_to_file($order_script, "\\set user 15 * :client_id + random(0, 14)\nSELECT try_order($orders, (:user)::text);\n");
my ($out, $err);
sub sell
{
	my ($calls) = @_;

	return IPC::Run::start([ 'pgbench', '-n', '-c', 4, '-t', $calls, '-f', "$script\@3", '-f', "$order_script\@1", $cluster->proxy_server->connstr('postgres') ],
		'<', \undef, '>', \$out, '2>', \$err);
}

sub selling { my $before = $cluster->proxy('SELECT count(*) FROM told'); return poll_until('sales', sub { $cluster->proxy('SELECT count(*) FROM told') > $before + 100 }) }

sub sold
{
	my ($run, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok($run->finish, "$what: everybody got an answer") or diag($err);
	return;
}

sub all_is_well
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	poll_until('quiet', sub { $cluster->sum(q{SELECT count(*) FROM coupon.transfer WHERE state = 'cut'}) == 0 });
	is($cluster->on('one', "SELECT string_agg(concat_ws(' ', law, detail), ', ') FROM coupon_cluster_verify($_)"), '', "$what: coupon_cluster_verify finds nothing") for $sale, $other, $orders;
	foreach my $node ($cluster->names)
	{
		is($cluster->on($node, 'SELECT * FROM coupon_verify()'), '', "$what: nor does coupon_verify at $node");
		is($cluster->on($node, q{SELECT count(*) FROM coupon.issuance i JOIN coupon.slot s ON s.slot = coupon_slot(i.user_id) WHERE s.node_id <> coupon_node_self()}),
			0, "$what: nobody's rows are left behind at $node");
	}
	# each user who was told of a unit has that one
	my $told = $cluster->proxy("SELECT string_agg(DISTINCT user_id || ' ' || serial, ',') FROM told WHERE status IN ('issued', 'already_issued')");
	my %has = map { $_ => 1 } map { split /,/, $cluster->on($_, "SELECT string_agg(user_id || ' ' || serial, ',') FROM coupon.issuance WHERE campaign_id = $sale") } $cluster->names;
	is(scalar(grep { !$has{$_} } split /,/, $told), 0, "$what: whoever was told of a unit has it");
	is($cluster->proxy("SELECT count(*) FROM told WHERE status NOT IN ('issued', 'already_issued')"), 0, "$what: nobody was told anything else");
	is($cluster->sum("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $sale"),
		3000 + $cluster->proxy("SELECT count(DISTINCT user_id) FROM told"), "$what: once for each");
	return;
}

sub slots { return join ' ', map { $cluster->on($_, 'SELECT count(*) FROM coupon.slot WHERE node_id = coupon_node_self() AND leaving IS NULL') } $cluster->names }

# ---- a second node ----
$cluster->add('two');
ok(await_true($cluster->server('two'), 'postgres', 'SELECT coupon.node_confirmed()'), 'a second node comes');
like(sql_error($one, 'postgres', 'SELECT coupon_slots_move(1, 5);'), qr/UC303: slots cannot move there/, 'slots move to another node');
my $alone = $cluster->on('one', q{SELECT coupon_campaign_create('alone', 5)});
like(sql_error($one, 'postgres', 'SELECT coupon_slots_balance();'), qr/UC303: campaigns are known to this node only.*campaign $alone\b/s, 'and not without their campaigns');
$cluster->on('one', "SELECT coupon_campaign_close($alone)");
$cluster->on('one', "CALL coupon_campaign_drop($alone)");

# with very many issuances that takes an index
$cluster->on('one', q{UPDATE pg_class SET reltuples = 1e7 WHERE oid = 'coupon.issuance'::regclass});
my (undef, $planned, $warned) = $one->psql('postgres', 'BEGIN; SELECT coupon_slots_balance(); ROLLBACK');
like($warned, qr/WARNING:.*slots will move slowly.*HINT:.*slot_index\.sql/s, 'many issuances without an index are a warning');
load_example($one, 'postgres', 'cluster/slot_index.sql');
$cluster->on('one', q{UPDATE pg_class SET reltuples = 1e7 WHERE oid = 'coupon.issuance'::regclass});
(undef, $planned, $warned) = $one->psql('postgres', 'BEGIN; SELECT coupon_slots_balance(); ROLLBACK');
is($warned, '', 'with one they are none');
like($cluster->on('one', q{SET enable_seqscan = off; EXPLAIN SELECT FROM coupon.issuance x WHERE coupon.slot_of(x.user_id) = ANY ('{1,2}'::smallint[])}),
	qr/issuance_slot_idx/, 'it is used');
$cluster->on('one', 'ANALYZE coupon.issuance');

my $run = sell(1000);
selling();
is($cluster->on('one', 'SELECT coupon_slots_balance()'), 512, 'half of the slots are to move');
is($cluster->on('one', 'SELECT coupon_slots_balance()'), 0, 'once');
poll_until('the slots have moved', sub { slots() eq '512 512' });
sold($run, 'moving');
my $longest = $cluster->proxy('SELECT max(took) FROM told WHERE tries > 1') || 0;
note(sprintf('%d calls had to be made again, the longest took %.2f s', $cluster->proxy('SELECT count(*) FROM told WHERE tries > 1'), $longest));
cmp_ok($longest, '<', within(1), 'nobody is without a home for a second');
all_is_well('moved');
is($cluster->on('two', "SELECT count(*) > 500 FROM coupon.issuance WHERE user_id LIKE 'early-%'"), 't', 'users came with their units');

# they have what they had
is($cluster->proxy("SELECT count(DISTINCT serial) FROM generate_series(1, 60) g, coupon_issue($other, 'keyed-' || g, 'k') WHERE status = 'issued'"), 60, 'a key gets what it got');
is($cluster->sum("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $other AND user_id LIKE 'keyed-%'"), 60, 'and no second unit');
is($cluster->proxy("SELECT string_agg(DISTINCT r.status, ' ') FROM generate_series(1, 60) g, LATERAL coupon_redeem($other, 'keyed-' || g, 'order-' || g) r WHERE g % 2 = 0"), 'already_redeemed', 'what was redeemed is so');
is($cluster->sum("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $other AND state = 'held'"), 60, 'holds came along');

# ---- back again, and everything is killed on the way ----
$run = sell(1500);
selling();
is($cluster->on('two', 'SELECT coupon_node_drain()'), 512, 'all slots of the second node are to move');
my $kills = 0;
my @victims = qw(two one two one);
my $before;
# the last may move at any moment: counted once for the question and for what is waited for
while (@victims && ($before = $cluster->on('one', 'SELECT count(*) FROM coupon.slot WHERE node_id = 1')) < 1024)
{
	my $victim = shift @victims;

	poll_until('some slots move', sub { (try_sql($one, 'postgres', 'SELECT count(*) FROM coupon.slot WHERE node_id = 1') // 0) > $before });
	$cluster->kill($victim);
	$cluster->start($victim);
	$kills++;
}
note("$kills kills");
poll_until('the slots have moved', sub { (try_sql($one, 'postgres', 'SELECT count(*) FROM coupon.slot WHERE node_id = 1') // 0) == 1024 && slots() eq '1024 0' });
sold($run, 'draining');
poll_until('the free units have moved', sub { $cluster->on('two', 'SELECT sum(remaining) FROM coupon.campaign_status') == 0 });
all_is_well('drained');
is($cluster->on('two', 'SELECT count(*) FROM coupon.issuance'), 0, 'the second node is empty');

# ---- the events ----
SKIP:
{
	skip kafka_tools_missing(), 2 unless $broker;
	poll_until('all is published', sub { $cluster->sum('SELECT unpublished FROM coupon_outbox_status()') == 0 });
	# the order of a user's events is that of their orders: 1, its cancellation, 3, ...
	my (%seen, %orders);
	foreach my $message (sort { $a->{partition} <=> $b->{partition} || $a->{offset} <=> $b->{offset} } @{ consume($broker->bootstrap, 'orders') })
	{
		next if $seen{ $message->{id} }++ || $message->{value} !~ /"order_ref" ?: ?"order-(\d+)"/;
		my $n = $1;
		my %header = @{ $message->{headers} };
		push @{ $orders{ $message->{key} } }, $header{ce_type} eq 'coupon.redeemed' ? $n : $n + 1;
	}
	my $done = $cluster->proxy(q{SELECT string_agg(user_id || ':' || n, ' ' ORDER BY user_id) FROM orders WHERE n > 0});
	is(join(' ', map { $_ . ':' . scalar @{ $orders{$_} } } sort keys %orders), $done, 'each order is an event, once');
	is(join(' ', map { "$_: @{ $orders{$_} }" } grep { "@{ $orders{$_} }" ne join(' ', 1 .. @{ $orders{$_} }) } sort keys %orders), '', 'of each user in order, wherever they were');
}
is($cluster->on('one', 'SELECT coupon_node_remove(2)'), 't', 'and leaves');
is($cluster->on('one', q{SELECT string_agg(concat_ws(' ', name, state, slots), ', ' ORDER BY node_id) FROM coupon.node_status}), 'one active 1024, two gone 0', 'one node is left');
is($cluster->proxy("SELECT string_agg(DISTINCT status, ' ') FROM generate_series(1, 200) g, coupon_issue($sale, 'late-' || g)"), 'issued', 'and sells');

$cluster->stop;
done_testing();
