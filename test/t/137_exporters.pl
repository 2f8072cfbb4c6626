# Whoever has no front: prometheus-postgres-exporter and prometheus-sql-exporter
# with the configurations of examples/monitoring, scraped as prometheus.yml
# there says, give the series that coupon_metrics() has.
use strict;
use warnings;

use CouponNginx qw(free_port);
use CouponPrometheus qw(program start_prometheus series);
use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'skipped: no prometheus (Debian: prometheus)' unless program('prometheus');

my $dir = 'examples/monitoring';
my $node = new_server('exported', '', allows_streaming => 1);
$node->safe_psql('postgres', q{CREATE ROLE monitor LOGIN; GRANT coupon_reader, pg_monitor TO monitor});
my ($c) = split /\n/, $node->safe_psql('postgres', q{SELECT coupon_campaign_create('a "campaign"', 100, closes_at => '2099-01-01')});
$node->safe_psql('postgres', q{SELECT coupon_campaign_create('later', 100, opens_at => '2099-01-01'); SELECT coupon_campaign_create('over', 100); SELECT coupon_campaign_close(3)});
$node->safe_psql('postgres', "SELECT coupon_room_create('hall', 10); SELECT coupon_queue_join('hall', 'a'); SELECT coupon_request($c, 'a'); SELECT coupon_hold_any($c, 'b')");
$node->psql('postgres', 'SELECT coupon_issue(3, \'c\'); SELECT coupon_issue(999, \'c\')', on_error_stop => 0);
poll_until('the decision', sub { $node->safe_psql('postgres', "SELECT count(*) FROM coupon.issuance WHERE user_id = 'a'") == 1 });

# What the exporters have no use for: a front's own.
my $of_front = qr/^coupon_http_|way="http|kind="front"/;
my $config = slurp_file("$dir/prometheus.yml");
my ($postgres_job, $sql_job) = $config =~ /^(  # - job_name: coupon\n(?:  # .*\n)+)/mg;
s/^  # /  /mg for $postgres_job, $sql_job;

# told(): what coupon_metrics() has
sub told { return series($node->safe_psql('postgres', 'SELECT coupon_metrics()')) }

# as_series(sample): a sample of Prometheus as series() gives it, with its value
sub as_series
{
	my ($sample) = @_;
	my %labels = %{ $sample->{metric} };
	my $name = delete $labels{__name__};

	delete @labels{qw(instance job database)};
	return ("$name\{" . join(',', sort map { "$_=\"" . $labels{$_} =~ s/(["\\])/\\$1/gr . '"' } keys %labels) . '}', $sample->{value}[1]);
}

# compare(name, job, program and its arguments): each sample that the front
# would give is one of the exporter's, and the numbers that stay are equal
sub compare
{
	my ($name, $job, $environment, @command) = @_;
	my $port = free_port();
	my ($out, %seen, @missing) = ('');

	s/PORT/$port/ for @command;
	$job =~ s/localhost:\d+/127.0.0.1:$port/ or die;
	local %ENV = (%ENV, %$environment);
	my $exporter = IPC::Run::start(\@command, '<', \undef, '>&', \$out);
	my $prometheus = start_prometheus("global:\n  scrape_interval: 500ms\nscrape_configs:\n$job");
	my $told = told();
	# those of sql_exporter come one after the other
	eval {
		poll_until($name, sub {
			$exporter->pump_nb;
			die "it has ended: $out" unless $exporter->pumpable;
			%seen = map { as_series($_) } $prometheus->query('{__name__=~"coupon.*"}');
			@missing = grep { !exists $seen{$_} && !/$of_front/ } sort keys %$told;
			return !@missing;
		});
	} or diag("$name: $@$out");
	is_deeply(\@missing, [], "$name: the series of coupon_metrics(), " . keys %seen);
	is_deeply([ grep { !exists $told->{$_} && !/$of_front/ } sort keys %seen ], [], '  and no others of these names');
	my @other = grep { exists $told->{$_} && /^coupon_(up|calls_total|call_duration_seconds_count|campaign|room|sessions_limit|memory_map_limit|dead|batch|requests_[dw])/ && $told->{$_} != $seen{$_} } sort keys %seen;
	is_deeply([ map { "$_ $told->{$_} $seen{$_}" } @other ], [], '  with the same values');
	$prometheus->stop;
	$exporter->kill_kill(grace => 30);
	return;
}

my $socket = $node->host;
my $at = $node->port;

SKIP:
{
	my $program = program('prometheus-postgres-exporter');
	skip 'skipped: no prometheus-postgres-exporter', 3 unless $program;
	compare('postgres_exporter', $postgres_job, { DATA_SOURCE_NAME => "postgresql:///postgres?host=$socket&port=$at&user=monitor&sslmode=disable" },
		$program, "--extend.query-path=$dir/queries.yaml", '--disable-default-metrics', '--disable-settings-metrics', '--web.listen-address=127.0.0.1:PORT');
}

SKIP:
{
	my $program = program('prometheus-sql-exporter');
	skip 'skipped: no prometheus-sql-exporter', 3 unless $program;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/sql_exporter.yml';
	my $own = slurp_file("$dir/sql_exporter.yml");
	$own =~ s{'postgres://.*'}{'postgres:///postgres?host=$socket&port=$at&user=monitor&sslmode=disable'} or die;
	$own =~ s/interval: '5s'/interval: '1s'/ or die;
	append_to_file($file, $own);
	compare('sql_exporter', $sql_job, { CONFIG => $file, LOGLEVEL => 'WARN' }, $program, '-web.listen-address=127.0.0.1:PORT');
}

# ---- a standby ----

$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->start;
my %queries = slurp_file("$dir/queries.yaml") =~ /^(\w+):\n  query: \|\n((?:    .*\n)+)/mg;
cmp_ok(scalar(keys %queries), '>', 20, 'queries of queries.yaml: ' . keys %queries);
is_deeply([ grep { !defined try_sql($standby, 'postgres', "SET ROLE monitor; $queries{$_}") } sort keys %queries ], [], 'each can be asked of a standby');
is(try_sql($standby, 'postgres', $queries{coupon}) =~ s/\|.*//r, 0, '  which says that it is one');

$standby->stop;
$node->stop;
done_testing();
