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
	BENCH_SESSIONS => 0.2);

# all but those that are others with fewer sessions
my ($all) = slurp_file("$top/bench/scenarios/sources.sh") =~ /^all_scenarios=\((.*?)\)/ms;
my @names = grep { !/^(003_basic|004_smoke|004_load|004_stress)$/ } $all =~ /\w+/g;

# In so short a time a busy machine may call nothing at all, or nothing while it
# is to be told something: such a scenario is played again, longer.
my (%laws, %shown, %skipped);
my @left = @names;
for my $scale (0.01, 0.1, 0.5)
{
	my ($out, $err, $scenario) = ('', '', '');

	local $ENV{BENCH_SCALE} = $scale;
	IPC::Run::run([ 'bash', "$top/bench/scenarios/run.sh", @left ], '>', \$out, '2>', \$err);
	is($err, '', 'nobody complains');
	for my $line (split /\n/, $out)
	{
		note($line);
		if ($line =~ /^(00\d \S[^:]*): /)
		{
			$scenario = $1 =~ tr/ ,/_/dr;
			delete $laws{$scenario};
		}
		elsif ($line =~ /^  (pass|FAIL)  law +(.*)/)
		{
			push @{ $laws{$scenario} }, [ $1, $2 ];
		}
		elsif ($line =~ /^  calls [1-9]\d*, \d+\/s; latency p50 [\d.]+ p95 [\d.]+ p99 [\d.]+ max [\d.]+ ms$/)
		{
			$shown{$scenario}++;
		}
		elsif ($line =~ /^(\w+): skipped: (.*)/)
		{
			$skipped{$1} = $2;
		}
	}
	@left = grep { my $name = $_; !$skipped{$name} && (!$shown{$name} || grep { "@$_" =~ /^FAIL (told|polls told)/ } @{ $laws{$name} }) } @left;
	last unless @left;
}

for my $name (@names)
{
	if ($skipped{$name})
	{
		pass("$name: skipped: $skipped{$name}");
		next;
	}
	# how many they are depends on what users were told
	is(join("\n", map { $_->[1] } grep { $_->[0] ne 'pass' } @{ $laws{$name} }), '', "$name: its laws are kept");
	ok($laws{$name} && $shown{$name}, "F7: $name was played to its end, and shows its calls, latencies and answers by type");
}

$node->stop;
server_log_is_clean($node, 'scenarios');
done_testing();
