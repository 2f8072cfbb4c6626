# What seldom happens, and no other test reaches: settings that are refused, files
# of properties that are not to be used, databases that are not UTF-8.
use strict;
use warnings;

use CouponKafka;
use CouponTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $missing = kafka_tools_missing();
plan skip_all => $missing if $missing;

my $broker = mock_broker(brokers => 1, topics => { topic => 12, 'topic.DLT' => 12 });
my $node = new_server('main', <<"END");
coupon.databases = 'postgres, latin, ascii'
coupon.publish_interval = 100ms
END

# ---- settings ----

foreach my $case (
	[ 'coupon.kafka_brokers', 'a,,b', 'A broker between commas is missing' ],
	[ 'coupon.kafka_brokers', 'a:99999', 'The port of "a:99999" is not a number' ],
	[ 'coupon.http_jwt_algorithm', 'none', 'Use HS256, RS256 or ES256, or nothing' ],
	[ 'coupon.http_listen', 'nowhere', 'It is not of the form address:port' ])
{
	my ($setting, $value, $detail) = @$case;

	like(sql_error($node, 'postgres', "ALTER SYSTEM SET $setting = '$value'"), qr/\Q$detail\E/, "$setting = $value is refused");
}

# ---- files of properties ----

my $file = $node->data_dir . '/kafka.properties';

# problem(what, words): the publisher says so
sub problem
{
	my ($what, $words) = @_;

	ok(await_true($node, 'postgres', "SELECT last_error LIKE '%$words%' FROM coupon_outbox_status()"), "$what: $words");
	return;
}

alter_system($node, 'coupon.kafka_config_file' => 'kafka.properties', 'coupon.kafka_brokers' => $broker->bootstrap);
problem('no file', 'it cannot be opened');
mkdir $file;
$node->reload;
problem('a directory', 'it is not a regular file');
rmdir $file;
foreach my $case (
	[ 'a zero byte', "linger.ms=1\0", 'it contains a zero byte' ],
	[ 'no property', 'linger.ms', 'line 1 is not name=value' ],
	[ 'a value that is none', 'linger.ms=soon', 'linger.ms' ],
	[ 'tokens', 'sasl.mechanisms=OAUTHBEARER', 'OAUTHBEARER is not supported' ],
	[ 'a large file', "#\n" x 1000000, 'it is larger than' ])
{
	my ($what, $content, $words) = @$case;

	unlink $file;
	append_to_file($file, $content);
	chmod 0600, $file;
	$node->reload;
	problem($what, $words);
}
alter_system($node, 'coupon.kafka_config_file' => '');

# ---- databases that are not UTF-8 ----

$node->safe_psql('postgres', q{CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0});
$node->safe_psql('postgres', q{CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0});
foreach my $database ('latin', 'ascii')
{
	$node->safe_psql($database, 'CREATE EXTENSION coupon');
	$node->safe_psql($database, qq{SET client_encoding = 'UTF8'; SELECT coupon_emit('topic', '$database', 'type', '{"a": "caf\xc3\xa9"}')});
}
$node->safe_psql('ascii', qq{SELECT coupon_emit('topic', 'broken', 'type', '{"a": "\xe9"}')});
await_true($node, $_, 'SELECT unpublished = 0 FROM coupon_outbox_status()') for 'latin', 'ascii';

my %value = map { $_->{key} => $_->{value} } @{ consume($broker->bootstrap, 'topic') };

foreach my $database ('latin', 'ascii')
{
	# as bytes or as characters, however kcat's JSON was read
	utf8::encode($value{$database}) if utf8::is_utf8($value{$database});
	like($value{$database}, qr/caf(\xc3\xa9|\\u00e9)/, "$database: an event arrives as UTF-8");
}
is($value{broken}, undef, 'what is no UTF-8 does not arrive');
is($node->safe_psql('ascii', 'SELECT count(*) FROM coupon.dead_letter'), 1, '  and is a dead letter');

$node->stop;
done_testing();
