# What changes of the nodes themselves is told to all nodes by itself, also to one that is
# down meanwhile and to one that comes later; so are the keys of rooms. Then nothing is said.
use strict;
use warnings;

use CouponCluster;
use CouponFault qw(start_sql answer);
use CouponTest;
use IO::Socket::INET;
use PostgreSQL::Test::Utils qw(slurp_file);
use Test::More;

# a name of which no name server says anything, in any server of this test
my $names = PostgreSQL::Test::Utils::tempdir() . '/names.so';
my $cc = $ENV{CC} // 'cc';
my $nameless = system("$cc -shared -fPIC -o $names test/mute_names.c >$names.log 2>&1") == 0 ? '' : "skipped: $cc makes no shared library";
local $ENV{LD_PRELOAD} = join ':', $ENV{LD_PRELOAD} // (), $nameless eq '' ? $names : ();

my $cluster = CouponCluster->new(nodes => [qw(one two)], proxy => 0, settings => "coupon.cluster = on\n");

# told(what, sql): true at all nodes
sub told
{
	my ($what, $sql) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok(await_true($cluster->server($_), 'postgres', $sql), "$what: node $_ knows") for $cluster->names;
	return;
}

ok(await_true($cluster->server($_), 'postgres', 'SELECT coupon.node_confirmed()'), "node $_ is confirmed") for $cluster->names;
is($cluster->on('one', 'SELECT coupon_room_key_rotate()'), 1, 'a key of rooms');
my $key = $cluster->on('one', 'SELECT encode(inner_key, \'hex\') FROM coupon.room_key WHERE signs');

# ---- one that comes ----
$cluster->add('three');
told('a node has come', 'SELECT count(*) = 3 FROM coupon.node');
told('the key', "SELECT EXISTS (SELECT FROM coupon.room_key WHERE signs AND encode(inner_key, 'hex') = '$key')");

# ---- which has no epoch for a moment ----
my $epoch = $cluster->on('three', 'DELETE FROM coupon.node_epoch WHERE node_id = 3 RETURNING epoch');
is($cluster->on('one', q{BEGIN; DELETE FROM coupon.node_epoch WHERE node_id = 3; SELECT error FROM coupon.peers_call('status', '{"campaign_id": 0}', 3); ROLLBACK}),
	'the server has yet to begin as a node', 'and is not taken for another server then');
$cluster->on('three', "INSERT INTO coupon.node_epoch VALUES (3, $epoch)");

# ---- one that is down meanwhile ----
$cluster->kill('two');
my $address = $cluster->server('three')->connstr('postgres') =~ s/'/''/gr;
is($cluster->on('one', "SELECT coupon_node_address(3, '$address', 'http://127.0.0.1:9')"), 't', 'an address changes');
like(sql_error($cluster->server('one'), 'postgres', q{SELECT coupon_node_address(4, 'host=x');}), qr/UC303: there is no such node/, 'of a node that is there');
like(sql_error($cluster->server('one'), 'postgres', q{SELECT coupon_node_address(3, 'host=x password=y');}), qr/22023: invalid conninfo of a node/, 'to one that can be');
# of two changes at the same time one would be lost
ok(await_true($cluster->server('three'), 'postgres', q{SELECT http_url = 'http://127.0.0.1:9' FROM coupon.node WHERE node_id = 3}), 'which that node hears of');
is($cluster->on('three', 'SELECT coupon_node_drain()'), 0, 'and that node is drained');
ok(await_true($cluster->server('one'), 'postgres', q{SELECT state = 'draining' FROM coupon.node WHERE node_id = 3}), 'node one knows');
# ---- which is seen ----
my $trouble = q{SELECT string_agg(severity || ' ' || what || ' ' || page, ', ') FROM coupon_health() WHERE page LIKE '%nodes%'};
poll_until('coupon_health says so', sub { $cluster->on('one', $trouble) eq 'error A node does not answer doc/operations.md#nodes-do-not-share' });
like($cluster->on('one', q{SELECT problem FROM coupon.node_status WHERE name = 'two'}), qr/connect|no answer|refused/i, 'and coupon.node_status why');
$cluster->start('two');
poll_until('until it is back', sub { $cluster->on('one', $trouble) eq '' });
told('both', q{SELECT state = 'draining' AND http_url = 'http://127.0.0.1:9' FROM coupon.node WHERE node_id = 3});

# ---- two changes at the same time are one in the end ----
$cluster->on($_, "UPDATE coupon.node SET http_url = 'http://127.0.0.1:1' || node_id, version = 10 WHERE node_id = 1") for qw(one);
$cluster->on($_, "UPDATE coupon.node SET http_url = 'http://127.0.0.1:2' || node_id, version = 10 WHERE node_id = 1") for qw(two);
told('the same one', q{SELECT http_url = 'http://127.0.0.1:21' FROM coupon.node WHERE node_id = 1});
told('that all know it', 'SELECT count(*) = 2 FROM coupon.node_copy WHERE digest = coupon.map_digest()');

# ---- a campaign is withdrawn from where it is kept, and its keeper changes with the drain of a node ----
my $sale = $cluster->on('two', q{SELECT coupon_cluster_create('sale', 100)});
ok(await_true($cluster->server('one'), 'postgres', "SELECT (SELECT remaining FROM coupon.campaign_status WHERE campaign_id = $sale) = 50"), 'a campaign of node two');
like(sql_error($cluster->server('one'), 'postgres', "SELECT $_;"), qr/UC303: .*keeper of campaign $sale is node 2.*HINT.*withdraw units at that node/s, 'units are not withdrawn at node one')
  for "coupon_campaign_reduce_stock($sale, 5)", "coupon_units_withdraw($sale, '{1}')";
is($cluster->on('two', "SELECT coupon_campaign_reduce_stock($sale, 5)"), 95, 'but at node two');
like(sql_error($cluster->server('two'), 'postgres', "SELECT coupon_campaign_reduce_stock($sale, 60);"), qr/too few units.*45 are free.*HINT:  Units that other nodes have/s, 'those that are there');
like(sql_error($cluster->server('two'), 'postgres', 'SELECT coupon_node_drain();'), qr/UC303: units that were withdrawn at this node cannot leave it.*Campaign $sale.*HINT/s, 'which stays then');

# ---- a worker that stands, units that do not arrive ----
$cluster->on('one', q{INSERT INTO coupon.transfer (transfer_id, campaign_id, donor, receiver, serials, state, due_at, noted_at)
	VALUES (gen_random_uuid(), 7, 1, 2, '{}', 'cut', now() + interval '1 day', now() - interval '1 min'), (gen_random_uuid(), 7, 1, 3, '{}', 'received', now() + interval '1 day', now())});
like($cluster->on('one', $trouble), qr/^warning Units do not arrive [^,]*$/, 'units that do not arrive are seen');
alter_system($cluster->server('one'), 'coupon.cluster' => 'off');
ok(await_true($cluster->server('one'), 'postgres', q{SELECT bool_or(what = 'This node shares nothing') FROM coupon_health()}), 'a node that shares nothing');
$cluster->on('one', q{UPDATE coupon.transfer SET due_at = now() - interval '2 min' WHERE campaign_id = 7});
like($cluster->on('one', $trouble), qr/error The transfer worker stands/, 'and a worker that stands');
$cluster->on('one', 'DELETE FROM coupon.transfer WHERE campaign_id = 7');
alter_system($cluster->server('one'), 'coupon.cluster' => 'on');

# ---- a copy of a node's database is no node ----
my $second = $cluster->server('two');
my $log = -s $second->logfile;
alter_system($cluster->server($_), 'coupon.cluster' => 'off') for qw(one three);
ok(await_true($second, 'template1', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'postgres' AND backend_type = 'client backend'}), 'no other node is connected');
$second->safe_psql('template1', 'CREATE DATABASE copy TEMPLATE postgres');
alter_system($cluster->server($_), 'coupon.cluster' => 'on') for qw(one three);
alter_system($second, 'coupon.databases' => 'postgres, copy');
poll_until('the copy has a worker', sub {
	$second->safe_psql('copy', 'SELECT coupon.node_confirmed()') eq 't' || substr(slurp_file($second->logfile), $log) =~ /database "copy" is a copy of a node and sells nothing/ });
is($second->safe_psql('copy', 'SELECT coupon.node_confirmed()'), 'f', 'a copy of the database of a node is not confirmed');
ok(await_true($second, 'postgres', 'SELECT coupon.node_confirmed()'), 'and the original is');

# ---- of several hosts the first one says nothing ----
my $mute = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1') or die "listen: $!";
like($cluster->on('one', sprintf q{SELECT error FROM coupon.peers_ask('{2}', ARRAY['host=127.0.0.1,%s port=%d,%d dbname=postgres'], 'hello', ARRAY['{}'])},
		$second->host, $mute->sockport, $second->port), qr/^UC303: this is another node/, 'the next one is asked while there is time');

# ---- who has much to tell to one that hears nothing ----
my ($port, $impostor) = CouponCluster::impostor("R\0\0\0\0", "Sis_superuser\0off\0", 'ZI');
alter_system($cluster->server('one'), 'coupon.cluster_timeout' => '20ms');
poll_until('the setting', sub { $cluster->on('one', 'SHOW coupon.cluster_timeout') eq '20ms' });
my $teller = start_sql($cluster->server('one'),
	qq{SELECT error FROM coupon.peers_ask('{2}', '{host=127.0.0.1 port=$port}', 'hello', ARRAY[repeat('x', 30000000)])});
poll_until('it to go on', sub { $teller->{run}->pump_nb; $teller->{out} ne '' });
is(answer($teller), 'no answer in time', 'does not wait for ever');
alter_system($cluster->server('one'), 'coupon.cluster_timeout' => '1s');
kill 'KILL', $impostor;
waitpid $impostor, 0;

# ---- of a name nobody says what it is ----
SKIP:
{
	skip $nameless, 3 if $nameless;
	my $begun = time;
	is($cluster->on('one', q{SELECT error FROM coupon.peers_ask('{2}', '{host=node.mute}', 'hello', '{"{}"}')}), 'no answer in time', 'that is not waited for');
	cmp_ok(time - $begun, '<', within(5), '  for longer than for an answer');
	$cluster->on('one', q{UPDATE coupon.node SET conninfo = 'host=node.mute,127.0.0.1 port=9', version = version + 1 WHERE node_id = 2});
	poll_until('the worker looks it up', sub { $cluster->on('one', q{SELECT problem FROM coupon.node_copy WHERE node_id = 2}) eq 'no answer in time' });
	$begun = time;
	$cluster->on('one', q{SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE backend_type = 'coupon transfer'});
	cmp_ok(time - $begun, '<', within(5), 'and ends when it is told to');
	my $conninfo = $second->connstr('postgres') =~ s/'/''/gr;
	$cluster->on('one', "UPDATE coupon.node SET conninfo = '$conninfo', version = version + 1 WHERE node_id = 2");
	poll_until('node two answers', sub { $cluster->on('one', $trouble) eq '' });
}

# ---- and one that leaves ----
is($cluster->on('two', 'SELECT coupon_node_remove(3)'), 't', 'a node leaves');
ok(await_true($cluster->server('one'), 'postgres', q{SELECT state = 'gone' FROM coupon.node WHERE node_id = 3}), 'node one knows');

$second->safe_psql('postgres', 'DROP DATABASE copy WITH (FORCE)');
$cluster->stop;
done_testing;
