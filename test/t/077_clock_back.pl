# The clock is set back by an hour while workers and sessions wait: nobody waits
# until it has caught up.
use strict;
use warnings;

use CouponClock;
use CouponCluster;
use CouponFault qw(start_sql answer);
use CouponKafka;
use CouponTest;
use Test::More;

my $clockless = clock_missing();
plan skip_all => $clockless if $clockless;

my $missing = kafka_tools_missing();
my $broker = $missing ? undef : mock_broker(topics => { map { $_ => 12 } 'other', 'coupon-issued' });
set_clock(7200);
my $node = with_clock(sub {
	return new_server('main', "coupon.databases = 'postgres'\n" . ($broker ? "coupon.kafka_brokers = '" . $broker->bootstrap . "'\n" : ''));
});

sub sql { return $node->safe_psql('postgres', $_[0]); }

cmp_ok(sql('SELECT extract(epoch FROM clock_timestamp())'), '>', time + 7000, 'the clock is ahead');

# cycles(kind): so often has the worker looked for work
sub cycles { return sql("SELECT sum(cycles) FROM coupon.stat_worker WHERE kind = '$_[0]'") }

# a request that waits in a line that stands
my $stands = sql(q{SELECT coupon_campaign_create('stands', 10)});
my $wish = (split /\n/, sql("BEGIN; SELECT request_id FROM coupon_request($stands, 'waits'); SELECT coupon_campaign_pause($stands); COMMIT"))[0];
my $before = cycles('issuer');
poll_until('the issuer to have looked', sub { cycles('issuer') > $before + 3 });

# a room that admits two a second
sql(q{SELECT coupon_room_create('room', 1000, admit_per_second => 2); SELECT count(coupon_queue_join('room', g::text)) FROM generate_series(1, 20) g});
my $admitted = q{SELECT count(*) FROM coupon.ticket WHERE admitted_at IS NOT NULL};
poll_until('the first visitors', sub { sql($admitted) > 1 });

# who waits for what is in other hands, for a while
my $short = sql(q{SELECT coupon_campaign_create('short', 1)});
my $holder = $node->background_psql('postgres');
$holder->query_safe("BEGIN; SELECT coupon_issue($short, 'holder')");
my %waiters = (
	coupon_issue => "SELECT status FROM coupon_issue($short, 'late')",
	coupon_hold => "SELECT status FROM coupon_hold($short, 1, 'late')",
	coupon_request_wait => "SELECT status FROM coupon_request_wait('$wish', '5 s')");
my %sessions = map { $_ => start_sql($node, "SET application_name = 'waiter'; SET coupon.sold_out_wait = '5s'; $waiters{$_}") } keys %waiters;
poll_until('sessions that wait', sub {
	$_->{run}->pump_nb for values %sessions;
	my $done = grep { $_->{out} ne '' } values %sessions;
	return $done + sql(q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'waiter' AND wait_event_type IN ('Extension', 'IPC')}) >= 3; });

# an event whose topic is refused for a while
if ($broker)
{
	$broker->command('error Produce 10000 TOPIC_AUTHORIZATION_FAILED');
	sql(q{SELECT coupon_emit('other', 'key', 'denied', '{}')});
	poll_until('a topic that is refused', sub { sql(q{SELECT refused_topics FROM coupon_outbox_status()}) =~ /other/ });
}

set_clock(3600);
my $set_back = time;
is(answer($sessions{coupon_issue}), 'busy', 'coupon_issue does not wait for an hour');
is(answer($sessions{coupon_hold}), 'busy', 'nor does coupon_hold');
is(answer($sessions{coupon_request_wait}), 'WAITING', 'nor coupon_request_wait');
cmp_ok(time - $set_back, '<', within(6), '  but for seconds');
$holder->query_safe('ROLLBACK');
$holder->quit;

sql("SELECT coupon_campaign_resume($stands)");
poll_until('the request', sub { sql("SELECT outcome FROM coupon_request_status('$wish')") eq 'issued' });
pass('a line that stood goes on');
my $were = sql($admitted);
poll_until('more visitors', sub { sql($admitted) > $were + 1 });
pass('a room admits on');
sql("SELECT coupon_hold($short, 1, 'lapses', '100 ms')");
poll_until('the sweeper', sub { sql(q{SELECT count(*) FROM coupon.lapsed_hold}) eq '1' });
pass('the sweeper goes on');
SKIP:
{
	skip $missing, 1 if $missing;
	$broker->command('clear Produce');
	poll_until('the event', sub { sql('SELECT unpublished FROM coupon_outbox_status()') eq '0' });
	pass('topics that were refused are asked about again');
}
conserved($node, 'postgres', 'the end');

$node->stop;

# ---- what is on its way to a node that is down meanwhile ----
my $cluster = CouponCluster->new(nodes => [qw(one two)], proxy => 0, settings => "coupon.cluster = on\n",
	make => sub { my @server = @_; return with_clock(sub { new_server(@server) }) });
ok(await_true($cluster->server($_), 'postgres', 'SELECT coupon.node_confirmed()'), "node $_ is confirmed") for $cluster->names;
$cluster->kill('two');
my $sale = $cluster->on('one', q{SELECT coupon_cluster_create('sale', 100)});
ok(await_true($cluster->server('one'), 'postgres', 'SELECT problem IS NOT NULL FROM coupon.node_copy WHERE node_id = 2'), 'a node that does not answer');
set_clock(0);
with_clock(sub { $cluster->start('two') });
ok(await_true($cluster->server('two'), 'postgres', "SELECT (SELECT remaining FROM coupon.campaign_status WHERE campaign_id = $sale) = 50"),
	'is asked again, and gets its units');
$cluster->stop;
done_testing();
