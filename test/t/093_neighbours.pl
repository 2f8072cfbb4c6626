# One topic's trouble is its own: refused topics with a large backlog, many
# topics that are missing at once, a rejected request among many events, names
# of topics without end.
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

my $broker = mock_broker(topics => { narrow => 1, map { $_ => 12 } qw(other many) });
my $brokers = $broker->bootstrap;
my $node = new_server('neighbours', <<"END");
coupon.kafka_brokers = '$brokers'
coupon.publish_interval = 10s
autovacuum = off
END

# The mock checks no sequence numbers, see test/kafka/mock_broker.c.
my $config = $node->data_dir . '/kafka.properties';
append_to_file($config, "max.in.flight.requests.per.connection = 1\n");
chmod 0600, $config;
$node->append_conf('postgresql.conf', "coupon.kafka_config_file = 'kafka.properties'");
$node->reload;

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub status { return sql("SELECT $_[0] FROM coupon_outbox_status()") }

sub drained
{
	my ($what) = @_;

	return poll_until("$what: drained", sub { status('unpublished') eq '0' });
}

sub set { return alter_system($node, @_) }

# arrived(topic): [id, topic, key, n] of the events of a topic, in the order of
# their numbers, from what was emitted into the table "emitted"
sub emitted
{
	my ($topic) = @_;

	return [ map { my ($id, $key, $n) = split /\|/; [ $id, $topic, $key, $n ] }
		  split /\n/, sql("SELECT id, key, n FROM emitted WHERE topic = '$topic' ORDER BY n") ];
}

sub emit
{
	my ($topic, $first, $last, $keys) = @_;

	sql(qq{INSERT INTO emitted SELECT coupon_emit('$topic', 'key-' || g % $keys, 'numbered', jsonb_build_object('n', g, 'text', repeat('x', 150))),
		'$topic', 'key-' || g % $keys, g FROM generate_series($first, $last) g});
	return;
}

sql('CREATE TABLE emitted (id uuid, topic text, key text, n int)');

# ---- a refused topic with a backlog is not read again for each batch ----

my $backlog = $ENV{COUPON_BACKLOG} // 100_000;
my $others = follow($brokers, 'other');
emit('other', 1, 1, 7);
$others->wait_for(1);
emit('narrow', 1, $backlog, 50);
poll_until('refused', sub { status('refused_topics') =~ /narrow: it has 1 partitions/ });
emit('other', 2, 2, 7);
$others->wait_for(2);
poll_until('they are out of the way', sub {
	sql(q{SELECT count(*) FROM coupon.outbox WHERE tableoid::regclass::text ~ 'outbox_\d'}) eq '0' });

# pages of the outbox that anybody looked at since the server's start
sub pages_read
{
	return sql(q{SELECT sum(heap_blks_read + heap_blks_hit) FROM pg_statio_all_tables
		WHERE schemaname = 'coupon' AND relname ~ '^outbox'});
}

my $before = pages_read();
my @latency;
for my $n (3 .. 42)
{
	my $start = time;
	emit('other', $n, $n, 7);
	$others->wait_for($n);
	push @latency, 1000 * (time - $start);
}
my $pages = pages_read() - $before;
note(sprintf 'another topic waits %.0f ms behind %d refused events (median, psql included)',
	(sort { $a <=> $b } @latency)[20], $backlog);
# twice for each event those that appending goes to, which are 1,024 at most
cmp_ok($pages, '<', 40 * 2.2 * 1024, "40 events of another topic: $pages pages of the outbox are read");
is(status('unpublished'), $backlog, 'the refused events stay');
# a tenth of them shows that they come in order
my $tenth = int($backlog / 10);
sql("DELETE FROM coupon.outbox WHERE topic = 'narrow' AND (payload->>'n')::int > $tenth; DELETE FROM emitted WHERE topic = 'narrow' AND n > $tenth");
emit('narrow', $backlog + 1, $backlog + 1000, 50);
set('coupon.kafka_partitions' => 0);
emit('narrow', $backlog + 1001, $backlog + 2000, 50);
drained('a topic that is accepted again');
events_arrived(emitted('narrow'), consume($brokers, 'narrow'), 'accepted after all');
set('coupon.kafka_partitions' => 12);

# ---- an older one that is not with them, since it was locked, is not sent after them ----
poll_until('refused again', sub { status('refused_topics') =~ /narrow: it has 1 partitions/ });
my ($pause, $lock) = map { $node->background_psql('postgres') } 1 .. 2;
$pause->query_safe('BEGIN; LOCK TABLE coupon.dead_letter IN SHARE MODE');
my $first = $backlog + 2001;
emit('narrow', $first, $first, 50);
$lock->query_safe(q{BEGIN; SELECT FROM coupon.outbox WHERE topic = 'narrow' FOR UPDATE});
$pause->query_safe('ROLLBACK');
$pause->quit;
emit('narrow', $first + 1, $first + 12000, 50);
poll_until('all but that one are out of the way', sub {
	sql(q{SELECT count(*) FROM coupon.outbox WHERE tableoid::regclass::text ~ 'outbox_\d'}) eq '1' });
set('coupon.kafka_partitions' => 0);
poll_until('all are sent', sub { status('unpublished') eq '1' });
$lock->query_safe('ROLLBACK');
$lock->quit;
drained('a locked one');
events_arrived(emitted('narrow'), consume($brokers, 'narrow'), 'with one that was locked');
set('coupon.kafka_partitions' => 12);

# ---- many topics that are missing ----

# The mock of librdkafka 2.0 makes each, with 4 partitions, when it is asked;
# later ones do not.  Each question takes 100 ms.
$broker->command('rtt 100');
sql(q{SELECT count(coupon_emit('missing-' || g, 'k', 'numbered', '{}')) FROM generate_series(1, 1500) g});
my $start = time;
emit('other', 43, 43, 7);
$others->wait_for(43);
my $waited = time - $start;
cmp_ok($waited, '<', 30, sprintf '1,500 topics that are checked: another one waits %.1f s', $waited);
poll_until('all are checked', sub {
	sql(q{SELECT count(*) FROM coupon.outbox WHERE topic ~ '^missing' AND tableoid = 'coupon.outbox_parked'::regclass}) eq '1500' });
is(status('in_flight'), '0', 'all of them are refused');

# Topics are forgotten by a new connection, and asked about anew: not again and
# again while nothing comes of it.
sub connections
{
	my $pid = publisher_pid($node);
	my %mine = map { (readlink // '') =~ /^socket:\[(\d+)\]/ ? ($1 => 1) : () } glob "/proc/$pid/fd/*";
	my %port = map { /:(\d+)$/ ? (sprintf('%04X', $1) => 1) : () } split /,/, $brokers;
	my %tcp = map { my (undef, undef, $to, @more) = split; (split /:/, $to)[1] && $port{ (split /:/, $to)[1] } ? ($more[6] => 1) : () }
	  split /\n/, slurp_file('/proc/net/tcp');

	return grep { $tcp{$_} } keys %mine;
}
set('coupon.publish_interval' => '1s');
my %since;
poll_until('a connection that stays', sub {
	%since = map { $_ => $since{$_} // time } connections();
	return grep { time - $_ > 12 } values %since });
pass('while nothing can be published, many topics are not forgotten');
set('coupon.publish_interval' => '10s');
$broker->command('rtt 0');
$broker->ask("topic missing-$_ 4") for 1 .. 1500;
set('coupon.kafka_partitions' => 0);
drained('any number of partitions');

# ---- a topic's name costs memory only as long as it is used ----

sub topics_memory
{
	my $pid = publisher_pid($node);
	my $mark = -s $node->logfile;
	my $text = '';

	sql("SELECT pg_log_backend_memory_contexts($pid)");
	poll_until('contexts', sub {
		$text = substr slurp_file($node->logfile), $mark;
		$text =~ /Grand total/ });
	return $text =~ /coupon topics: (\d+) total/ ? $1 : 0;
}
my $memory = 0;
poll_until('topics are forgotten', sub { ($memory = topics_memory()) < 700_000 });
pass("after 1,500 topics: $memory bytes");

# Those with parked events are looked at in turns, and forgotten meanwhile; yet each has its turn.
$broker->command("topic $_ 12") for qw(busy zealous);
sql(q{
	ALTER TABLE coupon.outbox_parked DISABLE TRIGGER outbox_guard;
	INSERT INTO coupon.outbox_parked SELECT gen_random_uuid(), 'absent-' || g, 'k', 'numbered', '{}' FROM generate_series(1, 3300) g;
	INSERT INTO coupon.outbox_parked VALUES (gen_random_uuid(), 'zealous', 'k', 'numbered', '{}');
	ALTER TABLE coupon.outbox_parked ENABLE TRIGGER outbox_guard});
set('coupon.kafka_partitions' => 12);
poll_until('the last of many topics', sub {
	sql(q{SELECT coupon_emit('busy', 'k', 'numbered', '{}')});
	return @{ consume($brokers, 'zealous') } == 1; });
pass('of thousands of topics that are refused none keeps another one from its turn');
sql(q{DELETE FROM coupon.outbox WHERE topic ~ '^absent-'});

# ---- one rejected request ----

# When all are in flight; one by one that many would take minutes.
sub time_to_drain
{
	my ($first, $last, $fault) = @_;
	my $begin = time;

	$broker->command('rtt 800');
	emit('many', $first, $last, 1000);
	poll_until('in flight', sub { status('in_flight') > ($last - $first) * 0.8 });
	$broker->command($fault) if $fault;
	$broker->command('rtt 10');
	drained("events $first to $last");
	return time - $begin;
}
my $undisturbed = time_to_drain(1, 10_000);
my $disturbed = time_to_drain(10_001, 20_000, 'error Produce 1 MSG_SIZE_TOO_LARGE');
cmp_ok($disturbed, '<', 30 + 5 * $undisturbed,
	sprintf '10,000 events: %.1f s, with one request of them rejected %.1f s', $undisturbed, $disturbed);
is(status('dead_letters'), '0', 'which were good events');
events_arrived(emitted('many'), consume($brokers, 'many'), 'a rejected request');

# ---- a dead letter that cannot be written ----

append_to_file($config, "message.max.bytes = 20000\n");
$broker->command("topic $_ 4") for qw(poisoned poisoned.DLT);
set('coupon.kafka_partitions' => 0);
sql(q{ALTER TABLE coupon.dead_letter ADD CONSTRAINT mine CHECK (topic <> 'poisoned') NOT VALID});
sql(q{SELECT coupon_emit('poisoned', 'k', 'numbered', jsonb_build_object('n', n, 'text', repeat('x', CASE n WHEN 2 THEN 30000 ELSE 1 END)))
	FROM generate_series(1, 3) n});
poll_until('no dead letter', sub { status('last_error') =~ /check constraint "mine"/ });
emit('other', 44, 44, 7);
$others->wait_for(44);
poll_until('refused', sub { status('refused_topics') =~ /poisoned: a dead letter cannot be written: .*check constraint "mine"/ });
pass('its topic waits, and no other one');
sql('ALTER TABLE coupon.dead_letter DROP CONSTRAINT mine');
drained('a dead letter that can be written');
is(status('dead_letters'), '1', 'then it is one');
is(join(' ', map { $_->{value} =~ /"n": (\d)/ } @{ consume($brokers, 'poisoned') }), '1 3', 'and the rest of the topic is published');

server_log_is_clean($node, 'neighbours');
$node->stop;
$broker->stop;
done_testing();
