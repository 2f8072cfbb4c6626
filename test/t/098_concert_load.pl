# Source 001's load on examples/concert, shortened: a fraction of its sessions,
# durations and seats.  What no load excuses must hold; latencies and rates are
# told, for they depend on what else the machine does.
use strict;
use warnings;

use CouponTest;
use Cwd qw(abs_path);
use File::Basename;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = dirname(dirname(dirname(abs_path(__FILE__))));
my $node = new_server('main', <<'END');
max_connections = 400
track_functions = pl
END

local %ENV = (
	%ENV,
	PGHOST => $node->host,
	PGPORT => $node->port,
	PGDATABASE => 'postgres',
	COUPON_SERVER_LOG => $node->logfile,
	BENCH_IN_SERVER => 'warm',
	BENCH_CONCERTS => 10,
	BENCH_PATIENCE => 0);

# play(sessions, scenario...): laws by scenario, and what was printed
sub play
{
	my ($sessions, @scenarios) = @_;
	my ($out, $err, $scenario, %laws, %broken) = ('', '', '');

	local $ENV{BENCH_SESSIONS} = $sessions;
	local $ENV{BENCH_CALLS} = 'enqueue schedules pay';
	# in so short a time a busy machine may not get to each call
	for my $scale (0.02, 0.2, 1)
	{
		local $ENV{BENCH_SCALE} = $scale;

		IPC::Run::run([ 'bash', "$top/bench/scenarios/run.sh", @scenarios ], '>', \$out, '2>', \$err);
		last unless $out =~ /^  FAIL  law +(?:.*: )?(?:calls that were made|sets that were held): 0/m;
	}
	is($err, '', 'nobody complains');
	for my $line (split /\n/, $out)
	{
		note($line);
		$scenario = $1 if $line =~ /^(001 \S[^:]*): /;
		next unless $line =~ /^  (pass|FAIL)  law +(.*)/;
		$laws{$scenario}++;
		$broken{$scenario} .= "$2\n" if $1 ne 'pass';
	}
	is($broken{$_} // '', '', "$_: its laws are kept") for sort keys %laws;
	return ($out, keys %laws);
}

my ($out, @played) = play(0.2, '001_calls', '001_flow');
is_deeply([ sort @played ], [ '001 calls', '001 flow' ], 'F8, F18, F20: the calls and the flow were played to their ends');
is(() = $out =~ /^  \w[\w ]*: [1-9]\d* calls, average [\d.]+ p95 [\d.]+ p99 [\d.]+ max [\d.]+ ms$/mg, 3 + 7 + 1, 'each call has its latencies');

# all of their sessions: they are what these are about
($out, @played) = play(1, '001_same_ten', '001_sets');
is_deeply([ sort @played ], [ '001 same ten', '001 sets' ], 'F8, F18: the same ten and the sets were played to their ends');
like($out, qr/^001 same ten: 300 users, 150 seats.*pass  law     seats sold: 150 \(equal 150\)/ms, 'F18: 300 users, 150 seats: sold out, each once');

$node->stop;
server_log_is_clean($node, 'concert load');
done_testing();
