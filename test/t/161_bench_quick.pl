# The machinery of make bench-quick, in its smallest form: the report is complete,
# a ratio that has lost is marked, a peer that is missing is named, and a run that
# fails does not keep the others from being measured.
use strict;
use warnings;

use CouponTest;
use Cwd qw(abs_path);
use File::Basename;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = dirname(dirname(dirname(abs_path(__FILE__))));
my $results = PostgreSQL::Test::Utils::tempdir();
my $nothing = PostgreSQL::Test::Utils::tempdir();
my $node = new_server('bench', "max_connections = 100\n");

PostgreSQL::Test::Utils::append_to_file("$results/last", "coupon / bare INSERT at 16, 0.001, at least 0.9, FAIL, , \ncoupon / bare INSERT at 64, 1000, at least 0.8, pass, , \n");
local %ENV = (
	%ENV,
	PGHOST => $node->host,
	PGPORT => $node->port,
	PGDATABASE => 'postgres',
	BENCH_IN_SERVER => 'warm',
	BENCH_QUICK => 'quick',
	BENCH_RESULTS => $results,
	BENCH_LAST => "$results/last",
	BENCH_PROGRAMS => $nothing,
	BENCH_PARTS => 'to_row issue',
	BENCH_ROW_VARIANTS => 'nonsense',
	BENCH_CLIENTS => '16:insert,coupon 64:insert,coupon,redis_always',
	BENCH_SECONDS => '5x',
	BENCH_PASSES => 2,
	BENCH_PATIENCE => 0,
	BENCH_RETRIES => 0);

my ($out, $err) = ('', '');
ok(!IPC::Run::run([ 'bash', "$top/bench/run.sh" ], '>', \$out, '2>', \$err), 'a run that fails is told by the exit status');
note($out, $err);
like($err, qr{nonsense.*^FAILED: a run was void or a part was not completed}ms, '... and which it was');
like($out, qr{^to_row: FAILED$}m, '... and the part that it is of');
like($out, qr{^64 +1 nonsense +void }m, '... it has no figures');

for my $clients (16, 64)
{
	like($out, qr{^$clients +2 coupon +[1-9]\d* +[\d.]+ ms +[\d.]+ us +[\d.]+ us +[\d.]+ %  ok$}m, "each run at $clients is told");
	like($out, qr{^  coupon / bare INSERT at $clients, [\d.]+, at least 0\.\d+, (?:pass|FAIL), [\d.]+ - [\d.]+, $}m, "the figure at $clients when its part ends");
}

my $report = slurp_file("$results/quick.md");
like($report, qr{^\| coupon / bare INSERT at 16 \| [\d.]+ \| at least 0.9 \| \w+ \| [\d.]+ - [\d.]+ \| 0.001 \|$}m, 'a ratio that has not lost');
like($report, qr{^\| coupon / bare INSERT at 64 \| [\d.]+ \| at least 0.8 \| \w+ \| [\d.]+ - [\d.]+ \| 1000 \*\*LOST \d+ %\*\* \|$}m, 'one that has');
like($report, qr{^1 of the ratios lost more than 15 % }m, 'how many');
like($report, qr{^\| grouped / Redis Lua with appendfsync always at 64 \|  \| at least 0.5 \| not measured \| skipped: no hiredis to build}m, 'a peer that is missing');
like($report, qr{^\| bytes of WAL for an issue and its event by coupon at 64 \| \d+ \| at most 500 \| (?:pass|FAIL) \| \d+ - \d+ \|}m, 'WAL');
like($report, qr{^CPU time for each, us: servers \+ load generator:\n\n\| variant \| 16 \| 64 \|\n.*\n\| insert \| .*\n\| coupon \| [\d.]+ \+ [\d.]+ \| [\d.]+ \+ [\d.]+ \|$}m, 'what a call costs');
like($report, qr{`.*BENCH_PARTS='to_row issue' .*make bench-quick`}, 'the command');
like(slurp_file("$results/to_row.md"), qr{void: nonsense, 64: failed: }, 'why a run has no figures');

done_testing();
