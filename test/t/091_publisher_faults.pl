# Faults while 20,000 events pass: connections cut, slow and failing brokers,
# moved leaders, reloads, publishers that are asked to end or killed.
use strict;
use warnings;

use CouponKafka;
use CouponStorm;
use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $missing = kafka_tools_missing();
plan skip_all => $missing if $missing;

my $seed = $ENV{COUPON_SEED} // time ^ $$;
srand $seed;
note("COUPON_SEED=$seed");

my $broker = mock_broker(topics => { storm => 12 });
my $brokers = $broker->bootstrap;
my $node = new_server('storm', <<"END");
coupon.kafka_brokers = '$brokers'
synchronous_commit = off
END

# The mock knows no sequence numbers: with more than one request in flight it
# would store a repeated one behind its successor, as no real broker does.
my $config = $node->data_dir . '/kafka.properties';
append_to_file($config, "max.in.flight.requests.per.connection = 1\n");
chmod 0600, $config;
$node->append_conf('postgresql.conf', "coupon.kafka_config_file = 'kafka.properties'");
$node->reload;

storm_prepare($node, 300);

my $faults = 0;
my %fault = (
	'all down' => sub { $broker->command('down all'); nap(rand 0.4); $broker->command('up all') },
	'one down' => sub { my $b = 1 + int rand 3; $broker->command("down $b"); nap(rand 0.6); $broker->command("up $b") },
	slow => sub { $broker->command('rtt ' . int rand 200); nap(rand 0.5); $broker->command('rtt 0') },
	'Produce fails' => sub {
		my @codes = qw(NOT_ENOUGH_REPLICAS REQUEST_TIMED_OUT NOT_LEADER_FOR_PARTITION LEADER_NOT_AVAILABLE);
		$broker->command('error Produce ' . (1 + int rand 5) . ' ' . $codes[ rand @codes ]);
		nap(rand 0.3);
	},
	'connection cut in Produce' => sub { $broker->command('error Produce 1 _TRANSPORT'); nap(0.2) },
	'leader moves' => sub {
		my $p = int rand 12;
		$broker->command('down all');
		$broker->command("leader storm $p " . (1 + int rand 3));
		nap(0.2);
		$broker->command('up all');
	},
	'publisher ends' => sub {
		my $pid = publisher_pid($node);
		$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)") if $pid ne '';
		nap(rand 0.5);
	},
	reload => sub { $node->reload; nap(rand 0.3) });
my %count = map { $_ => 0 } keys %fault;

# ---- 18,000 events under 50 faults; a tenth is rolled back ----

my $storm = storm_start($node, 8, 19, 1100);
while (!storm_is_over($storm) || $faults < 50)
{
	my @names = sort keys %fault;
	my $name = $names[ rand @names ];

	$fault{$name}->();
	$count{$name}++;
	$faults++;
	$storm->pump_nb if $storm->pumpable;
	nap(rand 0.2);
}
ok(storm_end($storm), 'no session notices anything of the broker');
$broker->command('clear Produce');

# ---- killed: the server restarts and goes on; whatever is lost was not acknowledged ----

for my $kill (1 .. 3)
{
	my $load = storm_start($node, 4, 10, 1000);
	nap(0.7 + rand 0.5);
	kill_publisher($node);
	storm_end($load);
	$faults++;
}

# ---- a crash, with commits that were not waited for ----

for my $crash (1 .. 2)
{
	my $load = storm_start($node, 4, 10, 1000);
	nap(1);
	$node->stop('immediate');
	storm_end($load);
	$node->start;
	$faults++;
}

poll_until('drained', sub { $node->safe_psql('postgres', 'SELECT unpublished FROM coupon_outbox_status()') eq '0' });
note(join ', ', map { "$_: $count{$_}" } sort keys %count);
my $committed = storm_committed($node);
cmp_ok(scalar(@$committed), '>=', 18000, scalar(@$committed) . " events committed, $faults faults");
events_arrived($committed, consume($brokers, 'storm'), 'F13, after all that');
is($node->safe_psql('postgres', 'SELECT count(*) FROM coupon.dead_letter'), '0', 'no dead letters');
conserved($node, 'postgres', 'after the storm');

$node->stop;
$broker->stop;
done_testing();
