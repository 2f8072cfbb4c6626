# From one server to three nodes and back to one server, while users buy: nothing is lost,
# and what is left is a server like any other.
use strict;
use warnings;

use CouponCluster;
use CouponTest;
use CouponNginx qw(free_port);
use IO::Socket::INET;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

if (my $why = CouponCluster::plproxy_is_missing())
{
	plan skip_all => $why;
}
my $cluster = CouponCluster->new(nodes => ['one'], proxy => 0, settings => "coupon.cluster = on\ncoupon.sold_out_wait = 2s\nlog_min_messages = warning\n");
my $one = $cluster->server('one');

sub one { return $cluster->on('one', $_[0]) }

# ---- a node that is alone is a single server again at any time ----
is(one('SELECT coupon_node_disband()'), 0, 'the first node leaves');
is(one('SELECT coupon_node_self() IS NULL AND NOT EXISTS (SELECT FROM coupon.slot)'), 't', 'and is none');
like(sql_error($one, 'postgres', 'SELECT coupon_node_disband();'), qr/UC303: this server is no node/, 'once');

# ---- one server ----
my $sale = one(q{SELECT coupon_campaign_create('sale', 6000)});
is(one(q{SELECT coupon_campaign_create('other', 100)}), $sale + 1, 'its campaigns are numbered one after the other');
is(one("SELECT count(*) FROM coupon_issue_many($sale, ARRAY(SELECT 'early-' || g FROM generate_series(1, 500) g)) WHERE status = 'issued'"), 500, 'it sells');

# ---- three nodes ----
one("SELECT coupon_node_found(1, 'one', '" . ($one->connstr('postgres') =~ s/'/''/gr) . "')");
one("SELECT coupon_campaign_share($_)") for $sale, $sale + 1;
$cluster->start_proxy;
# who gets an ERROR, or is told busy, tries again; what they were told is kept
$cluster->proxy(q{
	CREATE UNLOGGED TABLE told (user_id text, status text, serial bigint);
	CREATE FUNCTION try_issue(campaign bigint, wants text) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		answer coupon.issue_result;
	BEGIN
		LOOP
			BEGIN
				SELECT * INTO answer FROM coupon_issue($1, $2);
				IF answer.status <> 'busy' THEN
					INSERT INTO told VALUES ($2, answer.status, answer.serial);
					RETURN;
				END IF;
			EXCEPTION WHEN OTHERS THEN
				IF SQLSTATE !~ '^(UC30|UC31|08|57|XX000|40)' THEN
					RAISE;
				END IF;
			END;
			PERFORM pg_sleep(0.01);
		END LOOP;
	END $$});
$cluster->proxy(qq{ALTER DATABASE postgres SET statement_timeout = '@{[ CouponTest::PATIENCE ]}s'});
my $script = PostgreSQL::Test::Utils::tempdir() . '/sell.sql';
append_to_file($script, "\\set user random(1, 4000)\nSELECT try_issue($sale, 'user-' || :user);\n");
my ($out, $err);
my $run = IPC::Run::start([ 'pgbench', '-n', '-c', 2, '-R', 100, '-T', 600, '-f', $script, $cluster->proxy_server->connstr('postgres') ], '<', \undef, '>', \$out, '2>', \$err);
sub sold { return $cluster->proxy('SELECT count(*) FROM told') }
sub selling { my $before = sold(); return poll_until('sales', sub { sold() > $before + 20 }) }

$cluster->add('two');
$cluster->add('three');
poll_until('all know each other', sub { $cluster->sum('SELECT count(*) FROM coupon.node WHERE coupon.node_confirmed()') == 9 });
# node three is behind PgBouncer from now on, for the other nodes and for the proxy
my $pooler;
SKIP:
{
	skip 'PgBouncer is not installed', 1 unless (`pgbouncer --version 2>/dev/null` // '') =~ /PgBouncer/;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $port = free_port();
	my ($three, $user) = ($cluster->server('three'), one('SELECT current_user'));

	append_to_file("$dir/users", qq{"$user" ""\n"coupon_node" ""\n});
	append_to_file("$dir/pgbouncer.ini", "[databases]\npostgres = host=" . $three->host . ' port=' . $three->port . " dbname=postgres\n"
		. "[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = $port\nunix_socket_dir =\nauth_type = trust\nauth_file = $dir/users\npool_mode = transaction\ndefault_pool_size = 8\n");
	$pooler = IPC::Run::start([ 'pgbouncer', "$dir/pgbouncer.ini" ], '<', \undef, '>', \my $said, '2>', \my $log);
	poll_until('PgBouncer', sub {
		$pooler->pump_nb;
		die "pgbouncer: $log" unless $pooler->pumpable;
		return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port);
	});
	one("SELECT coupon_node_address(3, 'host=127.0.0.1 port=$port dbname=postgres')");
	poll_until('all know the address', sub { $cluster->sum("SELECT count(*) FROM coupon.node WHERE node_id = 3 AND conninfo LIKE '%port=$port%'") == 3 });
	$cluster->proxy('SELECT coupon_cluster_refresh()');
	ok(poll_until('no problem', sub { one("SELECT string_agg(concat_ws(' ', node_id, problem), ', ' ORDER BY node_id) FROM coupon.node_status") eq '1, 2, 3' }), 'and reach it by PgBouncer');
}
is(one('SELECT coupon_slots_balance()'), 682, 'two thirds of the slots are to move');
poll_until('they have moved', sub { join(' ', sort map { $cluster->on($_, 'SELECT count(*) FROM coupon.slot WHERE node_id = coupon_node_self()') } $cluster->names) eq '341 341 342' });
selling();
my $third = $cluster->on('three', q{SELECT coupon_cluster_create('of three', 300, request_key => 'k')});
ok(await_true($_, 'postgres', "SELECT (SELECT remaining FROM coupon.campaign_status WHERE campaign_id = $third) > 0"), 'a campaign of node three is known at ' . $_->name) for $one, $cluster->server('two');
my $stock = one("SELECT coupon_cluster_add_stock($sale, 600, 'lot')");
is($stock, 6600, 'units are added');
like(sql_error($one, 'postgres', 'SELECT coupon_node_disband();'), qr/UC303: this node is not all that there is.*Node 2, 3 has not been removed.*slots are not here.*HINT/s, 'not everything is here now');

# ---- and back ----
$cluster->on($_, 'SELECT coupon_node_drain()') for qw(two three);
poll_until("node $_ leaves", sub { (try_sql($one, 'postgres', "SELECT coupon_node_remove($_)") // '') eq 't' }) for 2, 3;
is(one("SELECT count(*) FROM coupon.campaign WHERE keeper = 1"), 3, 'node one is the keeper of all campaigns');
is(one("SELECT coupon_cluster_add_stock($third, 50)"), 350, 'also of that of node three');
# or it would ask those that are stopped for users of slots that moved last
$cluster->proxy('SELECT coupon_cluster_refresh()');
is($cluster->proxy('SELECT count(*) FROM coupon_cluster.slot WHERE node_id <> 1'), 0, 'the proxy knows that all slots are here');
is(one('SELECT coupon_node_disband()'), 3, 'then it is a single server, with three campaigns');
is(one('SELECT coupon_node_self() IS NULL'), 't', 'and no node');
selling();
$cluster->server($_)->stop('fast') for qw(two three);
selling();
# not INT: who is started in the background ignores that
$run->signal('TERM');
$run->finish;
unlike($err, qr/ERROR/, 'everybody got an answer');

# ---- like any other ----
one(q{ALTER SYSTEM SET coupon.cluster = off});
$one->restart;
is($cluster->proxy(q{SELECT string_agg(DISTINCT status, ' ' ORDER BY status) FROM told}), 'already_issued issued', 'users got units');
my %has = map { $_ => 1 } split /,/, one("SELECT string_agg(user_id || ' ' || serial, ',') FROM coupon.issuance WHERE campaign_id = $sale");
is(scalar(grep { !$has{$_} } split /,/, $cluster->proxy(q{SELECT string_agg(DISTINCT user_id || ' ' || serial, ',') FROM told})), 0, 'they have them now');
is(one("SELECT issued FROM coupon_status($sale)"), 500 + $cluster->proxy('SELECT count(DISTINCT user_id) FROM told'), 'and nobody has more');
is(one("SELECT stock || ' ' || (stock = issued + remaining) FROM coupon_status($_->[0])"), "$_->[1] true", "campaign $_->[0] has all of its units") for [ $sale, 6600 ], [ $third, 350 ], [ $sale + 1, 100 ];
is(one('SELECT * FROM coupon_verify()'), '', 'coupon_verify finds nothing');
is(one(q{SELECT string_agg(what, ', ') FROM coupon_health() WHERE severity = 'error' AND what NOT LIKE '%fsync%'}), '', 'nor does coupon_health');
is(one("SELECT coupon_campaign_add_stock($sale, 10)"), 6610, 'units are added as ever');
is(one("SELECT coupon_campaign_reduce_stock($sale, 10)"), 6600, 'and withdrawn');
is(one(q{SELECT coupon_campaign_create('next', 5) - (SELECT max(campaign_id) FROM coupon.campaign WHERE name <> 'next')}), 1, 'campaigns are numbered one after the other');
is(one("SELECT count(*) FROM coupon_issue_many($sale, ARRAY(SELECT 'late-' || g FROM generate_series(1, 10000) g)) WHERE status = 'issued'"), one("SELECT 6600 - issued FROM coupon_status($sale)") + one("SELECT count(*) FROM coupon.issuance WHERE user_id LIKE 'late-%'"), 'it sells the rest');
is(one("SELECT status FROM coupon_issue($sale, 'too late')"), 'sold_out', 'and then no more');

# ---- its dump, too ----
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';
one('CREATE DATABASE copy');
system_or_bail('pg_dump', '-f', $dump, '-d', $one->connstr('postgres'));
system_or_bail('psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-d', $one->connstr('copy'), '-f', $dump);
is($one->safe_psql('copy', "SELECT problem FROM coupon_restored() WHERE problem IS NOT NULL"), '', 'a restored dump is whole');
is($one->safe_psql('copy', "SELECT status FROM coupon_issue($third, 'ann')"), 'issued', 'and sells');

$pooler->kill_kill if $pooler;
$cluster->proxy_server->stop;
$one->stop;
server_log_is_clean($one, 'one');
done_testing;
