# The brokers that the tests of publishing use, and the check of what arrived
# there: they must work, and the check must be able to fail.
use strict;
use warnings;

use CouponKafka;
use CouponTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $missing = kafka_tools_missing();
plan skip_all => $missing if $missing;

my $dir = PostgreSQL::Test::Utils::tempdir();

# produce(brokers, topic, arguments): what the producer did: its exit status,
# what it said, and the events that it was told are delivered
sub produce
{
	my ($brokers, $topic, @arguments) = @_;
	my $producer = start_producer($brokers, $topic, @arguments);

	return end_producer($producer);
}

sub start_producer
{
	my ($brokers, $topic, @arguments) = @_;
	my %producer = (events => "$dir/events", said => '');

	unlink $producer{events};
	$producer{run} = IPC::Run::start(
		[ kafka_program('producer'), '-b', $brokers, '-t', $topic, '-e', $producer{events}, @arguments ],
		'<', \undef, '>&', \$producer{said}, IPC::Run::timeout(CouponKafka::PATIENCE));
	return \%producer;
}

sub end_producer
{
	my ($producer) = @_;

	$producer->{run}->finish;
	return {
		ok => $producer->{run}->full_result(0) == 0,
		said => $producer->{said},
		events => read_events($producer->{events})
	};
}

# nap(seconds): faults are to come while the producer is at work
sub nap
{
	select undef, undef, undef, $_[0];
	return;
}

# ---- murmur2, against the numbers of the Java client's own test ----

my %murmur2 = (
	'21' => -973932308,
	'foobar' => -790332482,
	'a-little-bit-long-string' => -985981536,
	'a-little-bit-longer-string' => -1486304829,
	'lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8' => -58897971,
	'abc' => 479470107);
is(murmur2($_), $murmur2{$_}, "murmur2 of $_") for sort keys %murmur2;
is(partition_of('foobar', 12), (-790332482 & 0x7fffffff) % 12, 'the sign is dropped, not turned');

# ---- the check finds what is wrong ----

sub message
{
	my ($partition, $offset, $id, $key, $topic) = @_;

	return { topic => $topic // 't', partition => $partition, offset => $offset, id => $id, key => $key };
}

my @committed = (
	[ 'a1', 't', 'a', 1 ], [ 'a2', 't', 'a', 2 ], [ 'a3', 't', 'a', 3 ],
	[ 'b1', 't', 'b', 4 ], [ 'n1', 't', undef, 5 ]);
my @good = (
	message(0, 0, 'a1', 'a'), message(0, 1, 'a2', 'a'), message(0, 2, 'a3', 'a'),
	message(1, 0, 'b1', 'b'), message(1, 1, 'n1', undef));

my ($faults, $duplicates) = event_faults(\@committed, \@good);
is_deeply([ $faults, $duplicates ], [ [], 0 ], 'the check finds nothing where nothing is wrong');

# a whole batch once more, as after a lost answer
($faults, $duplicates) = event_faults(\@committed,
	[ @good, message(0, 3, 'a2', 'a'), message(0, 4, 'a3', 'a'), message(0, 5, 'a2', 'a'), message(2, 0, 'n1', undef) ]);
is_deeply([ $faults, $duplicates ], [ [], 4 ], 'duplicates are counted, and are no fault');

for my $case (
	[ 'a lost event', qr/^event a2, number 2 of key a in t, is missing$/, grep { $_->{id} ne 'a2' } @good ],
	[ 'an event that was not committed', qr/^event x1 at t\/1\/2 was not committed$/, @good, message(1, 2, 'x1', 'b') ],
	[ 'an event without an id', qr/^event \(none\) at t\/1\/2 was not committed$/, @good, message(1, 2, undef, 'b') ],
	[ 'a wrong order', qr/^event a2 at t\/0\/2: number 2 of key a comes after number 3$/,
		message(0, 0, 'a1', 'a'), message(0, 1, 'a3', 'a'), message(0, 2, 'a2', 'a'), @good[ 3, 4 ] ],
	[ 'a wrong order of first appearances', qr/number 2 of key a comes after number 3/,
		message(0, 0, 'a1', 'a'), message(0, 1, 'a3', 'a'), message(0, 2, 'a1', 'a'), message(0, 3, 'a2', 'a'),
		message(0, 4, 'a3', 'a'), @good[ 3, 4 ] ],
	[ 'a key in two partitions', qr/^event a3 at t\/1\/9: others of key a are in partition 0$/,
		@good[ 0, 1, 3, 4 ], message(1, 9, 'a3', 'a') ],
	[ 'a duplicate in another partition', qr/^event a3 at t\/1\/9: others of key a are in partition 0$/,
		@good, message(1, 9, 'a3', 'a') ],
	[ 'a wrong key', qr/^event b1 at t\/1\/0 has key c, not b$/, @good[ 0 .. 2, 4 ], message(1, 0, 'b1', 'c') ],
	[ 'a key that is lost', qr/^event b1 at t\/1\/0 has key null, not b$/, @good[ 0 .. 2, 4 ], message(1, 0, 'b1', undef) ],
	[ 'a wrong topic', qr/^event b1 at u\/1\/0 belongs to topic t$/, @good[ 0 .. 2, 4 ], message(1, 0, 'b1', 'b', 'u') ],
  )
{
	my ($what, $expected, @messages) = @$case;

	($faults) = event_faults(\@committed, \@messages);
	is(scalar @$faults, 1, "the check finds $what") or diag("@$faults");
	like($faults->[0], $expected, "... and says it");
}
($faults) = event_faults(\@committed, [ @good[ 1 .. 4 ] ]);
is($faults->[1], 'the log of t/0 begins at offset 1: what was before is gone', 'a log that was cut is told of');

# ---- the mock cluster ----

my $mock = mock_broker(topics => { 'coupon-issued' => 12 });
like($mock->bootstrap, qr/^127\.0\.0\.1:\d+,127\.0\.0\.1:\d+,127\.0\.0\.1:\d+$/, 'three mock brokers');
is(topics($mock->bootstrap, 'partitions', 'coupon-issued'), '12', 'the topic has its partitions');
is($mock->ask('topic small 2'), 'ok', 'a topic is created by command');
is(topics($mock->bootstrap, 'partitions', 'small'), '2', '... with its partitions');
like($mock->ask($_), qr/^error: /, "refused: $_")
  for 'topic small 2', 'topic other 0', 'down 4', 'up', 'rtt -1', 'error Produce 1 NO_SUCH_CODE',
  'error NoSuchApi 1 MSG_SIZE_TOO_LARGE', 'leader small 2 1', 'leader small 0 -1', 'leader nowhere 0 1', 'nonsense';

my $run = produce($mock->bootstrap, 'coupon-issued', '-n', 3000, '-k', 200);
ok($run->{ok}, 'the producer sends to it');
like($run->{said}, qr/^messages 3000 seconds \S+ messages\/s \d+$/m, '... and says how fast');
my $messages = consume($mock->bootstrap, 'coupon-issued');
is(events_arrived($run->{events}, $messages, 'mock'), 0, 'no duplicates without faults');

my ($message) = grep { $_->{key} eq 'user-7' } @$messages;
is_deeply(
	[ map { $message->{headers}[ $_ * 2 ] } 0 .. 6 ],
	[qw(id content-type ce_specversion ce_id ce_type ce_source ce_time)],
	'headers in their order');
my %header = @{ $message->{headers} };
like($header{id}, qr/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/, 'the id is a UUID of version 7');
is($header{ce_id}, $header{id}, 'ce_id is the id');
like($header{ce_time}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, 'ce_time as RFC 3339 in UTC');
like($message->{value}, qr/^\{"campaign_id":4,"user_id":"user-7","serial":8,"code":"[A-Z0-9]+",.*\}$/, 'the value is the payload');
is(scalar(grep { $_->{partition} != partition_of($_->{key}, 12) } @$messages),
	0, 'each key is in the partition that the Java client would choose');

# what JSON must escape comes back as it was
append_to_file("$dir/odd", join "\n", "k\"\\1\t{\"a\": \"\\\"\\u00e9\\\\\", \"b\": [null, \"headers\"]}",
	"\xc3\xa9\t,\"key\":\"x\",\"payload\":null", "empty\t", '');
$run = produce($mock->bootstrap, 'small', '-f', "$dir/odd");
is_deeply(
	[ map { [ $_->{key}, $_->{value} ] } sort { $a->{key} cmp $b->{key} } @{ consume($mock->bootstrap, 'small') } ],
	[
		[ 'empty', '' ],
		[ 'k"\\1', '{"a": "\\"\\u00e9\\\\", "b": [null, "headers"]}' ],
		[ "\xc3\xa9", ',"key":"x","payload":null' ]
	],
	'odd keys and values come back as they were');
is(scalar @{ $run->{events} }, 3, '... sent from a file');

# faults in mid-stream, as test/kafka/mock_broker.c says that order is kept
my @careful = (qw(-X linger.ms=1 -X reconnect.backoff.ms=10 -X reconnect.backoff.max.ms=100
	  -X max.in.flight.requests.per.connection=1));
$mock->command('topic faults 12');
my $producer = start_producer($mock->bootstrap, 'faults', qw(-n 6000 -k 100 -r 2000), @careful);
my $follower = follow($mock->bootstrap, 'faults');
$mock->command('rtt 20');
for my $round (1 .. 2)
{
	nap(0.3);
	$mock->command('down all');
	nap(0.1);
	$mock->command('up all');
	nap(0.2);
	$mock->command("down $round");
	nap(0.1);
	$mock->command("up $round");
	$mock->command('error Produce 2 NOT_ENOUGH_REPLICAS');
	nap(0.1);
	$mock->command('error Produce 1 _TRANSPORT');
	nap(0.1);
	$mock->command('down all');
	$mock->command("leader faults all $round");
	nap(0.2);
	$mock->command('up all');
}
$run = end_producer($producer);
ok($run->{ok}, 'a producer lives through every fault') or diag($run->{said});
is(scalar @{ $run->{events} }, 6000, '... and is told of every delivery');
$messages = consume($mock->bootstrap, 'faults');
my $twice = events_arrived($run->{events}, $messages, 'mock, faults');
note("a lost answer made $twice duplicates");	# newer mock clusters drop them
$follower->wait_for(scalar @$messages);
is(events_arrived($run->{events}, $follower->stop, 'a consumer that reads along'), $twice, 'it sees the same duplicates');

# a broker that is down for good, and one that is slow
$mock->command('topic slow 1');
$mock->command('rtt 100');
$run = produce($mock->bootstrap, 'slow', qw(-n 10));
like($run->{said}, qr/ seconds (0\.[1-9]|[1-9])/, 'rtt delays');
$mock->command('rtt 0');

# a request that is refused for good
$mock->command('topic poison 1');
$mock->command('error Produce 1 MSG_SIZE_TOO_LARGE');
$run = produce($mock->bootstrap, 'poison', qw(-n 100 -X batch.num.messages=10), @careful);
ok(!$run->{ok}, 'a permanent error is told');
like($run->{said}, qr/Message size too large/, '... by its name');
cmp_ok(scalar @{ $run->{events} }, '<', 100, '... and those messages are not delivered');
events_arrived($run->{events}, consume($mock->bootstrap, 'poison'), 'the others');
$mock->command('error Produce 1 TOPIC_AUTHORIZATION_FAILED');
$mock->command('clear Produce');
ok(produce($mock->bootstrap, 'poison', qw(-n 10))->{ok}, 'a failure that is cleared does not happen');

# more than the mock keeps: only who reads along sees all
$mock->command('topic large 1');
$follower = follow($mock->bootstrap, 'large');
$run = produce($mock->bootstrap, 'large', qw(-n 6000 -s 1200 -k 100 -r 1500));
$messages = consume($mock->bootstrap, 'large');
cmp_ok(scalar @$messages, '<', 6000, 'the mock keeps 5 MB of a partition');
is($messages->[-1]{offset}, 5999, '... the newest');
($faults) = event_faults($run->{events}, $messages);
like($faults->[-1], qr/^the log of large\/0 begins at offset \d+: what was before is gone$/, '... and the check says so');
$follower->wait_for(6000);
is(events_arrived($run->{events}, $follower->stop, 'who reads along'), 0, 'sees all');

is($mock->ask('quit'), 'ok', 'the mock ends by command');
ok($mock->stop, '... without a fuss');
$mock = mock_broker(brokers => 1);
ok($mock->stop, 'the mock ends at the end of its input');

# ---- a real Kafka ----

SKIP:
{
	my $missing = real_kafka_missing();
	skip $missing, 1 if $missing;

	my $start = time;
	my $kafka = real_kafka(secure => 1, settings => { 'log.retention.hours' => 1 });
	note(sprintf 'Kafka started in %.1f s', time - $start);

	$kafka->create_topic('coupon-issued', 12);
	is(topics($kafka->bootstrap, 'partitions', 'coupon-issued'), '12', 'a topic with its partitions');
	ok(!eval { consume($kafka->bootstrap, 'nowhere'); 1 }, 'a topic that is asked for');
	is(topics($kafka->bootstrap, 'partitions', 'nowhere'), 'none', '... is not created');
	ok(!eval { $kafka->create_topic('coupon-issued', 1); 1 }, 'a topic is not created twice');

	# kill -9 in mid-stream, and go on
	$follower = follow($kafka->bootstrap, 'coupon-issued');
	$producer = start_producer($kafka->bootstrap, 'coupon-issued', qw(-n 12000 -k 300 -r 4000 -X reconnect.backoff.max.ms=200));
	nap(1.5);
	$kafka->kill;
	$start = time;
	my $bootstrap = $kafka->bootstrap;
	$kafka->start;
	note(sprintf 'Kafka started after kill -9 in %.1f s', time - $start);
	is($kafka->bootstrap, $bootstrap, 'it comes back where it was');
	$run = end_producer($producer);
	ok($run->{ok}, 'a producer lives through kill -9') or diag($run->{said});

	$messages = consume($kafka->bootstrap, 'coupon-issued');
	$duplicates = events_arrived($run->{events}, $messages, 'kill -9');
	is(scalar @{ $run->{events} }, 12000, 'every message was delivered');
	is(scalar(grep { $_->{partition} != partition_of($_->{key}, 12) } @$messages),
		0, 'each key is in the partition that the Java client would choose');
	$follower->wait_for(scalar @$messages);
	is(events_arrived($run->{events}, $follower->stop, 'a consumer that reads along'), $duplicates, 'it lives through kill -9 too');

	# topics
	$kafka->create_topic('narrow', 1, 'max.message.bytes' => 1000);
	$run = produce($kafka->bootstrap, 'narrow', qw(-n 1 -s 5000));
	like($run->{said}, qr/Message size too large/, 'a topic with a setting of its own');
	topics($kafka->bootstrap, 'widen', 'narrow', 3);
	poll_until('more partitions', sub { topics($kafka->bootstrap, 'partitions', 'narrow') eq '3' });
	topics($kafka->bootstrap, 'delete', 'narrow');
	poll_until('no topic', sub { topics($kafka->bootstrap, 'partitions', 'narrow') eq 'none' });

	# SASL and TLS
	is( scalar @{ consume($kafka->secure_bootstrap, 'coupon-issued', '-F', $kafka->client_properties) },
		scalar @$messages, 'by SASL and TLS');
	(my $wrong = slurp_file($kafka->client_properties)) =~ s/^(sasl.password=).*/$1wrong/m;
	append_to_file("$dir/wrong.properties", $wrong);
	ok(!eval { consume($kafka->secure_bootstrap, 'coupon-issued', '-m', 2, '-F', "$dir/wrong.properties"); 1 },
		'not with a wrong password');
	is((stat $kafka->client_properties)[2] & 0777, 0600, 'the password is in a file for its owner');

	$kafka->stop;
	$kafka->restart;
	is(scalar @{ consume($kafka->bootstrap, 'coupon-issued') }, scalar @$messages, 'what was stored is there after a restart');
	like(slurp_file("$kafka->{dir}/server.properties"), qr/^log.retention.hours=1$/m, '... and what it was told when it started');
	my ($pid) = slurp_file("$kafka->{dir}/kafka.pid") =~ /(\d+)/;
	isnt(slurp_file("/proc/$pid/cmdline"), '', 'its process is there');
	undef $kafka;
	ok(!-e "/proc/$pid" || slurp_file("/proc/$pid/cmdline") eq '', '... and gone with the object');
}

done_testing();
