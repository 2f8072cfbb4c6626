# Servers of the build with fault points (src/base/fault.h), and what arms them.
package CouponFault;

use strict;
use warnings;

use CouponTest;
use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(fault_server arm disarm asleep fired);

# fault_server(name, settings): as new_server, with fault points.  Waits for
# the build, which run_tests makes beside the first tests.
sub fault_server
{
	my ($name, $settings, %init) = @_;
	my $install = $ENV{COUPON_FAULT_INSTALL} // die 'COUPON_FAULT_INSTALL is not set: see test/bin/run_tests';

	poll_until('the build with fault points', sub {
		die slurp_file("$ENV{TESTDIR}/fault_build.log") if -e "$ENV{TESTDIR}/fault_build.failed";
		return -x "$install/bin/postgres";
	});

	my $node = new_server($name, $settings, %init, install_path => $install);

	$node->safe_psql('postgres', slurp_file('test/fault.sql'));
	return $node;
}

# arm(node, point, kind, options): skip, times, ms, pid
sub arm
{
	my ($node, $point, $kind, %options) = @_;
	my $more = join '', map { ", $_ => $options{$_}" } sort keys %options;

	$node->safe_psql('postgres', "SELECT fault.arm('$point', '$kind'$more)");
	return;
}

# Disarms all points; who sleeps at one goes on.
sub disarm
{
	my ($node) = @_;

	$node->safe_psql('postgres', 'SELECT fault.disarm()');
	return;
}

# asleep(node, point): waits until somebody sleeps there
sub asleep
{
	my ($node, $point) = @_;

	return await_true($node, 'postgres', "SELECT asleep > 0 FROM fault.points() WHERE point = '$point'");
}

# fired(node, point): how often since the server's start
sub fired
{
	my ($node, $point) = @_;

	return $node->safe_psql('postgres', "SELECT fired FROM fault.points() WHERE point = '$point'");
}

1;
