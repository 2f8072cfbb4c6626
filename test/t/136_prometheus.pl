# A sale as Prometheus sees it: what each panel of the dashboard asks for has a
# series, every metric that panels and alerts name is one of /metrics, and the
# alert on a stopped worker fires, and clears when the worker is back.
use strict;
use warnings;

use CouponKafka;
use CouponNginx qw(free_port);
use CouponPrometheus qw(program start_prometheus series);
use CouponTest;
use HTTP::Tiny;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

plan skip_all => 'skipped: no prometheus (Debian: prometheus)' unless program('prometheus');

my $dir = 'examples/monitoring';
my $port = free_port();
my $broker = kafka_tools_missing() ? undef : mock_broker(topics => { 'coupon-issued' => 12 });
my $brokers = $broker ? $broker->bootstrap : '';
my $node = new_server('sale', <<"END");
coupon.http_listen = '127.0.0.1:$port'
coupon.http_role = 'coupon_service'
coupon.kafka_brokers = '$brokers'
END
my $http = HTTP::Tiny->new(timeout => CouponTest::PATIENCE);
poll_until('the front', sub { $http->get("http://127.0.0.1:$port/readyz")->{status} == 200 });

my $c = $node->safe_psql('postgres', q{SELECT coupon_campaign_create('sale', 100000)});
$node->safe_psql('postgres', q{SELECT coupon_room_create('hall', 10)});
my $calls = 0;

# sell(): one call of each kind, one that fails among them
sub sell
{
	my $n = ++$calls;

	$node->psql('postgres', <<"END", on_error_stop => 0);
SELECT coupon_issue($c, 'issue-$n');
SELECT coupon_issue_grouped($c, 'grouped-$n');
SELECT coupon_issue_many($c, '{many-$n,more-$n}');
SELECT coupon_request($c, 'request-$n');
SELECT coupon_hold_any($c, 'hold-$n');
SELECT coupon_queue_join('hall', 'visitor-$n');
SELECT coupon_issue(999, 'nobody');
END
	$http->post_form("http://127.0.0.1:$port/campaigns/$c/issues", { user_id => "http-$n" });
	return;
}
sell();

# As it is in examples, but faster.
my $rules = PostgreSQL::Test::Utils::tempdir() . '/alerts.yml';
append_to_file($rules, slurp_file("$dir/alerts.yml") =~ s/for: 15s/for: 1s/gr);
my $config = slurp_file("$dir/prometheus.yml");
$config =~ s/_interval: 5s/_interval: 500ms/g;
$config =~ s/localhost:8000/127.0.0.1:$port/ or die;
$config =~ s/alerts\.yml/$rules/ or die;
my $prometheus = start_prometheus($config);

# ---- the dashboard ----

my $dashboard = decode_json(slurp_file("$dir/dashboard.json"));
my @asked;
for my $panel (@{ $dashboard->{panels} })
{
	push @asked, map { [ $panel->{title}, $_->{expr} ] } @{ $panel->{targets} // [] };
}
cmp_ok(scalar(@asked), '>=', 30, 'queries of the dashboard: ' . @asked);
for (@asked)
{
	$_->[1] =~ s/\$__rate_interval/1m/g;
	$_->[1] =~ s/\$(instance|campaign)\b/.*/g;
}
my @empty;
my $deadline = time + within(15);
do
{
	sell();
	@empty = grep { !$prometheus->query($_->[1]) } @asked;
} while (@empty && time < $deadline);
is_deeply([ map { "$_->[0]: $_->[1]" } @empty ], [], 'each has a series during a sale');
cmp_ok(($prometheus->query(qq(sum(coupon_campaign_issued{campaign="$c"}))))[0]{value}[1], '>', 0, '  and what was sold is in it');
for my $variable (grep { $_->{type} eq 'query' } @{ $dashboard->{templating}{list} })
{
	my ($selector, $label) = $variable->{query} =~ /^label_values\((.*), (\w+)\)$/ or die $variable->{query};
	$selector =~ s/\$instance/.*/;
	cmp_ok(scalar(grep { $_->{metric}{$label} } $prometheus->query($selector)), '>', 0, "  and so has the choice of $variable->{name}");
}

# ---- the names ----

my $metrics = $http->get("http://127.0.0.1:$port/metrics");
my %known = map { (s/\{.*//r => 1) } keys %{ series($metrics->{content}) };
my %named = map { ($_ => 1) } ("@{[ map { $_->[1] } @asked ]} " . join ' ', slurp_file("$dir/alerts.yml") =~ /^ +expr: (.*)$/mg) =~ /\b(coupon_[a-z_]+)/g;
delete @named{ grep { /^coupon_verify_/ } keys %named };    # verify.sh
is_deeply([ grep { !$known{$_} } sort keys %named ], [], 'every metric that is asked for is one of /metrics: ' . keys %named);
my @answered = $prometheus->get('rules')->{groups};
is_deeply([ map { "$_->{name}: $_->{lastError}" } grep { $_->{health} ne 'ok' } map { @{ $_->{rules} } } map { @$_ } @answered ], [], 'each rule can be evaluated');

# ---- an alert ----

my $stopped = sub { grep { $_ eq 'CouponNoWorker' } $prometheus->firing };
is($stopped->(), 0, 'all workers run');
poll_until('the alert on a worker that is stopped again and again', sub {
	$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'coupon sweeper'});
	return $stopped->();
});
pass('CouponNoWorker fires while one is stopped');
poll_until('its end', sub { !$stopped->() });
pass('  and clears when it is back');

# ---- verify.sh ----

my $file = PostgreSQL::Test::Utils::tempdir() . '/coupon.prom';
my $said = `$dir/verify.sh '$file' -d '${\ $node->connstr('postgres')}' 2>&1`;
is($said, '', 'verify.sh');
like(slurp_file($file), qr/\Acoupon_verify_violations\{database="postgres"\} 0\ncoupon_verify_timestamp_seconds\{database="postgres"\} \d{10}\n\z/, '  writes what it found');
$said = `$dir/verify.sh '$file' -d 'dbname=none host=/nowhere' 2>&1`;
isnt($?, 0, '  and says when it cannot be run');
like(slurp_file($file), qr/violations/, '  which leaves the file');

$prometheus->stop;
$node->stop;
done_testing();
