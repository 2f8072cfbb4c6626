# The publisher and a real Apache Kafka: topics, logins, restarts, order.
use strict;
use warnings;

use CouponKafka;
use CouponStorm;
use CouponTest;
use File::Copy qw(copy);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $missing = real_kafka_missing();
plan skip_all => $missing if $missing;

my $kafka = real_kafka(secure => 1);
my $brokers = $kafka->bootstrap;
my $node = new_server('kafka', <<"END");
coupon.kafka_brokers = '$brokers'
coupon.kafka_replication = 1
END

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub status { return sql("SELECT $_[0] FROM coupon_outbox_status()") }

sub set { return alter_system($node, @_) }

sub drained
{
	my ($what) = @_;

	return poll_until("$what: drained", sub { status('unpublished') eq '0' });
}

# ---- topics ----

my $c = sql(q{SELECT coupon_campaign_create('c', 10)});
poll_until('a missing topic', sub { status('refused_topics') =~ /coupon-issued: it does not exist/ });
pass('F10: a topic that is missing is not created without being asked');
set('coupon.kafka_create_topics' => 'on');
drained('created');
is(topics($brokers, 'partitions', 'coupon-issued'), '12', 'F10: when asked, it is created with 12 partitions');
is(scalar(@{ consume($brokers, 'coupon-issued') }), 1, 'and gets its event');

$kafka->create_topic('narrow', 1);
sql(q{SELECT coupon_emit('narrow', 'k', 'x', '{"n": 1}')});
poll_until('one partition', sub { status('refused_topics') =~ /narrow: it has 1 partitions, coupon\.kafka_partitions is 12/ });
is(scalar(@{ consume($brokers, 'narrow') }), 0, 'F10: a topic of one partition gets nothing');
topics($brokers, 'widen', 'narrow', 12);
drained('widened');
is(scalar(@{ consume($brokers, 'narrow') }), 1, 'until it has twelve');
set('coupon.kafka_replication' => 3);
poll_until('replication', sub { status('refused_topics') =~ /its replication factor is 1, coupon\.kafka_replication is 3/ });
pass('the replication factor is compared, too, at a reload');
set('coupon.kafka_replication' => 1);
poll_until('replication', sub { status('refused_topics') eq '' });

# one that is deleted is not the others' trouble: the client would wait for it for half a minute
set('coupon.kafka_create_topics' => 'off');
$kafka->create_topic('doomed', 12);
sql(q{SELECT coupon_emit('doomed', 'k', 'x', '{}')});
drained('before the end of a topic');
topics($brokers, 'delete', 'doomed');
sql(q{SELECT coupon_emit('doomed', 'k', 'x', '{}')});
poll_until('in flight, or refused', sub { status('in_flight') eq '1' || status('refused_topics') =~ /doomed/ });
sql(q{SELECT coupon_emit('narrow', 'k', 'x', '{"n": 2}')});
poll_until('another topic', sub { scalar(@{ consume($brokers, 'narrow') }) == 2 });
like(status('refused_topics'), qr/doomed: it does not exist/, 'a topic that is deleted is refused');
unlike(status('last_error'), qr/was not delivered/, 'before the client gives up what was sent for it');
$kafka->create_topic('doomed', 12);
drained('a topic that is made again');
set('coupon.kafka_create_topics' => 'on');

# one that the broker will not create is wished for again and again, without a word
$kafka->create_topic('col.lide', 12);
my ($collides) = split /\n/, sql(q{SELECT coupon_campaign_create('collides', 1, topic => 'col_lide'); DELETE FROM coupon.outbox WHERE topic = 'col_lide'});
poll_until('a topic that cannot be created', sub { status('refused_topics') =~ /col_lide: it cannot be created/ });

# ---- a topic that takes less than the publisher would send ----

$kafka->create_topic('small', 12, 'max.message.bytes' => 20000);
sql(q{SELECT coupon_emit('small', 'k', 'x', jsonb_build_object('n', g, 'x', CASE g WHEN 5 THEN repeat(md5(g::text), 1000) || (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 2000) i) ELSE '' END))
	FROM generate_series(1, 9) g});
drained('poison');
is(join(' ', map { $_->{value} =~ /"n": (\d)/ } @{ consume($brokers, 'small') }), '1 2 3 4 6 7 8 9',
	'F13: the event that the topic will not take is put aside, its neighbours arrive in order');
like(sql('SELECT topic, attempts FROM coupon.dead_letter'), qr/^small\|[2-9]$/, 'as a dead letter, when it has been rejected alone');
is(topics($brokers, 'partitions', 'small.DLT'), '12', 'with a topic of its own');
is(scalar(@{ consume($brokers, 'small.DLT') }), 1, 'and an event there');
sql('SELECT coupon_dead_letter_discard()');

# in the middle of many: a rejected request must not be overtaken
$kafka->create_topic('mixed', 12, 'max.message.bytes' => 400000);
sql(q{CREATE TABLE mixed AS SELECT g AS n, 'key-' || g % 50 AS key, coupon_emit('mixed', 'key-' || g % 50, 'mixed', jsonb_build_object('n', g, 'x',
	CASE g WHEN 7000 THEN (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 29000)) ELSE '' END)) AS id
	FROM generate_series(1, 20000) g});
drained('poison among many');
events_arrived([ map { my ($id, $key, $n) = split /\|/; [ $id, 'mixed', $key, $n ] }
	  split /\n/, sql('SELECT id, key, n FROM mixed WHERE n <> 7000') ], consume($brokers, 'mixed'),
	'F13: one rejected among 20,000');
is(sql('SELECT topic, key FROM coupon.dead_letter'), 'mixed|key-0', 'which is the dead letter');
sql('SELECT coupon_dead_letter_discard()');

# ---- a login ----

copy($kafka->client_properties, $node->data_dir . '/kafka.properties') or die $!;
chmod 0600, $node->data_dir . '/kafka.properties';
set('coupon.kafka_config_file' => 'kafka.properties', 'coupon.kafka_brokers' => $kafka->secure_bootstrap);
sql(q{SELECT coupon_emit('narrow', 'k', 'secure', '{}')});
drained('SASL and TLS');
is(scalar(grep { my %h = @{ $_->{headers} }; $h{ce_type} eq 'secure' } @{ consume($brokers, 'narrow') }), 1, 'published over SASL and TLS');
my $properties = slurp_file($node->data_dir . '/kafka.properties');
my ($password) = $properties =~ /^sasl\.password\s*=\s*(\S+)/m;
$properties =~ s/^(sasl\.password\s*=\s*).*/$1WrongPassword/m;
append_to_file($node->data_dir . '/wrong.properties', $properties);
chmod 0600, $node->data_dir . '/wrong.properties';
set('coupon.kafka_config_file' => 'wrong.properties');
sql(q{SELECT coupon_emit('narrow', 'k', 'secure', '{}')});
poll_until('a wrong password', sub { status('last_error') =~ /authentication/i });
pass('a wrong password: the status says so');
isnt(status('broker'), 'up', 'and that the broker is not up');
set('coupon.kafka_config_file' => '', 'coupon.kafka_brokers' => $brokers);
drained('the right password');

is(scalar(() = slurp_file($node->logfile) =~ /topic "col_lide"/g), 1, 'a topic that cannot be created is told of once');
sql("SELECT coupon_campaign_close($collides); DELETE FROM coupon.outbox WHERE topic = 'col_lide'");

# a certificate that is good no longer, and is renewed under the same name
my $ca = $node->data_dir . '/ca.pem';
system_or_bail(qw(openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -subj /CN=another -days 1 -keyout),
	$node->data_dir . '/another.key', '-out', $ca);
$properties = slurp_file($kafka->client_properties) =~ s/^(ssl\.ca\.location\s*=\s*)(\S+)/$1ca.pem/mr;
my $good = $2;
append_to_file($node->data_dir . '/renewed.properties', $properties);
chmod 0600, $node->data_dir . '/renewed.properties';
chmod 0644, $ca;
set('coupon.kafka_config_file' => 'renewed.properties', 'coupon.kafka_brokers' => $kafka->secure_bootstrap);
sql(q{SELECT coupon_emit('narrow', 'k', 'renewed', '{}')});
poll_until('a certificate that is not good', sub { status('last_error') =~ /certificate/i });
copy($good, "$ca.new") && chmod(0644, "$ca.new") && rename("$ca.new", $ca) or die $!;
drained('a certificate that was renewed, of which nobody has told');
set('coupon.kafka_config_file' => '', 'coupon.kafka_brokers' => $brokers);
unlike(slurp_file($node->logfile), qr/\Q$password\E|WrongPassword/, 'no password is in the log');

# ---- a storm: the broker restarted and killed, the publisher ended and killed ----

$kafka->create_topic('storm', 12);
storm_prepare($node, 200);
my $faults = 0;
my $storm = storm_start($node, 8, 16, 500);
for my $fault (qw(kill end restart end end kill))
{
	nap(0.8);
	if ($fault eq 'end')
	{
		my $pid = publisher_pid($node);
		sql("SELECT pg_terminate_backend($pid)") if $pid ne '';
	}
	elsif ($fault eq 'kill')
	{
		$kafka->kill;
		nap(0.5);
		$kafka->start;
	}
	else
	{
		$kafka->restart;
	}
	$faults++;
}
ok(storm_end($storm), 'no session notices anything of the broker');
my $calm = sql('SELECT count(*) FROM committed');
for my $fault (qw(worker worker worker server))
{
	my $load = storm_start($node, 4, 10, 800);
	nap(1);
	if ($fault eq 'server')
	{
		$node->stop('immediate');
		storm_end($load);
		$node->start;
	}
	else
	{
		kill_publisher($node);
		storm_end($load);
	}
	$faults++;
}
drained('the storm');
my $committed = storm_committed($node);
cmp_ok(scalar(@$committed), '>', $calm, scalar(@$committed) . " events committed, $faults faults");
events_arrived($committed, consume($brokers, 'storm'), 'F13, after all that');

# ---- without faults nothing comes twice ----

sql('TRUNCATE committed');
$kafka->create_topic('calm', 12);
sql(q{INSERT INTO committed SELECT coupon_emit('calm', 'key-' || g % 100, 'calm', jsonb_build_object('n', g)), 'key-' || g % 100, g FROM generate_series(1, 20000) g});
drained('calm');
my $duplicates = events_arrived([ map { $_->[1] = 'calm'; $_ } @{ storm_committed($node) } ], consume($brokers, 'calm'), 'without faults');
is($duplicates, 0, 'nothing comes twice');
server_log_is_clean($node, 'real Kafka');

# ---- it goes away, and so does the server ----

$kafka->kill;
sql(q{SELECT coupon_emit('calm', 'k', 'last', '{}')});
my $start = time;
$node->stop('fast');
cmp_ok(time - $start, '<', within(3), 'a fast shutdown does not wait for a broker that was killed');

done_testing();
