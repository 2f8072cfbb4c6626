# The load scenarios of bench/scenarios, shortened: a fraction of the sources'
# durations and sessions.  What no load excuses must hold; latencies and rates
# are told, for they depend on what else the machine does.
use strict;
use warnings;

use CouponTest;
use Cwd qw(abs_path);
use File::Basename;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = dirname(dirname(dirname(abs_path(__FILE__))));
my $node = new_server('main', <<'END');
max_connections = 200
track_functions = pl
END

local %ENV = (
	%ENV,
	PGHOST => $node->host,
	PGPORT => $node->port,
	PGDATABASE => 'postgres',
	COUPON_SERVER_LOG => $node->logfile,
	BENCH_IN_SERVER => 'warm',
	BENCH_SCALE => 0.01,
	BENCH_SESSIONS => 0.2);

# all but those that are others with fewer sessions
my ($all) = slurp_file("$top/bench/scenarios/sources.sh") =~ /^all_scenarios=\((.*?)\)/ms;
my @names = grep { !/^(003_basic|004_smoke|004_load|004_stress)$/ } $all =~ /\w+/g;

my ($out, $err) = ('', '');
IPC::Run::run([ 'bash', "$top/bench/scenarios/run.sh", @names ], '>', \$out, '2>', \$err);
is($err, '', 'nobody complains');

my ($scenario, %laws, %shown) = ('');
for my $line (split /\n/, $out)
{
	note($line);
	if ($line =~ /^(00\d \S[^:]*): /)
	{
		$scenario = $1;
	}
	elsif ($line =~ /^  (pass|FAIL)  law +(.*)/)
	{
		is($1, 'pass', "$scenario: $2");
		$laws{$scenario}++;
	}
	elsif ($line =~ /^  calls [1-9]\d*, \d+\/s; latency p50 [\d.]+ p95 [\d.]+ p99 [\d.]+ max [\d.]+ ms$/)
	{
		$shown{$scenario}++;
	}
	elsif ($line =~ /^(\w+): skipped: (.*)/)
	{
		pass("$1: skipped: $2");
	}
}

my @skipped = $out =~ /^\w+: skipped/mg;
is(scalar(keys %laws) + @skipped, scalar(@names), 'every scenario was played to its end');
is_deeply([ sort keys %shown ], [ sort keys %laws ], 'F7: each shows its calls, latencies and answers by type');

$node->stop;
server_log_is_clean($node, 'scenarios');
done_testing();
