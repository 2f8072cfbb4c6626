# A clock that a test sets while servers run, by test/chaos/clock.c.
package CouponClock;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;

our @EXPORT = qw(clock_missing with_clock set_clock);

my $dir;

# clock_missing(): makes it; why it cannot be had, '' if it can
sub clock_missing
{
	my $cc = $ENV{CC} // 'cc';

	$dir = PostgreSQL::Test::Utils::tempdir();
	return system("$cc -shared -fPIC -o $dir/clock.so test/chaos/clock.c >$dir/cc.log 2>&1") == 0 ? '' :
	  "skipped: $cc makes no shared library";
}

# with_clock(code): the servers that it starts go by the clock
sub with_clock
{
	my ($code) = @_;
	local $ENV{LD_PRELOAD} = join ':', $ENV{LD_PRELOAD} // (), "$dir/clock.so";
	local $ENV{COUPON_CHAOS_CLOCK} = "$dir/clock";

	return $code->();
}

# set_clock(seconds): by which it is ahead; first of all before a server is started
sub set_clock
{
	my ($seconds) = @_;

	open my $file, -e "$dir/clock" ? '+<' : '>', "$dir/clock" or die "$dir/clock: $!";
	syswrite($file, pack 'q', $seconds) == 8 or die "$dir/clock: $!";
	close $file or die "$dir/clock: $!";
	return;
}

1;
