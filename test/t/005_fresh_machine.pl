# What a stranger types first, on a new machine: test/bin/fresh_machines, which
# test/bin/run_tests has started, because it needs root.
use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

my $result = $ENV{COUPON_FRESH_MACHINE}
  or plan skip_all => 'only where CI=true, or when it is the only test asked for';

# It ends by itself; the deadline is for one that was killed.
my $deadline = time + 60 * 60;
until (-e "$result.status" || time > $deadline)
{
	select undef, undef, undef, 0.2;
}
die "test/bin/fresh_machines does not end" unless -e "$result.status";

my ($status, $output) = map { slurp("$result.$_") } qw(status log);
if ($status == 3)
{
	(my $reason) = $output =~ /^no chroot: (.*)/m;
	plan skip_all => "no new machine can be made here: $reason";
}
my @machines = $output =~ /^(\S+ +\S+ +make .*)/mg;
cmp_ok(scalar @machines, '>', 0, 'a machine was made');
like($_, qr/ ok /, $_) for @machines;
cmp_ok($status, '==', 0, 'all is well on it') or diag($output);

done_testing();

sub slurp
{
	open my $file, '<', $_[0] or die "$_[0]: $!";
	local $/;
	return scalar <$file>;
}
