# Chaos, the short form: a sale in which everything is broken, held against the
# laws of the design (test/chaos); and the checker, tried with histories that
# break each law.  COUPON_TEST_SEED repeats a run's choices; test/bin/chaos and
# make chaos take their time.
use strict;
use warnings;

use CouponKafka;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $python = -x '/usr/bin/python3' ? '/usr/bin/python3' : 'python3';
plan skip_all => 'skipped: no python3 that finds libpq.so.5'
  if system("$python -c 'import ctypes; ctypes.CDLL(\"libpq.so.5\")' >/dev/null 2>&1") != 0;

$ENV{PYTHONDONTWRITEBYTECODE} = 1;
my $seed = $ENV{COUPON_TEST_SEED} || (time ^ $$ << 8) & 0x7fffffff;

my $tried = `$python test/chaos/selftest.py`;
is($?, 0, 'the checker finds what breaks a law, and nothing else') or diag($tried);
like($tried, qr/^\d+ histories, \d+ laws, 0 failed$/m, 'and says so');

# It ends in its time however loaded the machine is: what is loaded has fewer calls.
my @command = ($python, 'test/chaos/run.py', '--home', PostgreSQL::Test::Utils::tempdir_short(),
	'-s', $seed, '-d', 80, '-c', 20, '--rate', 120, '--between', 70);
push @command, '--broker', kafka_program('mock_broker') unless kafka_tools_missing();
my $out = '';
IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>&1');
is($? >> 8, 0, 'all laws kept') or diag("seed $seed\n$out");
like($out, qr/^all laws kept$/m, 'and it says so');
my ($calls) = $out =~ /^1 rounds, (\d+) calls/m;
my ($crashes) = $out =~ /(\d+) crashes and kills/;
note($out);
cmp_ok($calls // 0, '>', 100, 'the sessions called') or diag($out);
cmp_ok($crashes // 0, '>', 0, 'and the server crashed') or diag($out);
done_testing();
