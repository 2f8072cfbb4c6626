# Servers of the build with fault points (src/base/fault.h), and what arms them.
package CouponFault;

use strict;
use warnings;

use CouponTest;
use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(fault_server arm disarm asleep fired release start_sql answer);

# fault_server(name, settings): as new_server, with fault points.  Waits for
# the build, which run_tests makes beside the first tests.
sub fault_server
{
	my ($name, $settings, %init) = @_;
	my $install = $ENV{COUPON_FAULT_INSTALL} // die 'COUPON_FAULT_INSTALL is not set: see test/bin/run_tests';

	# it ends, in one way or the other, however loaded the machine is
	until (-x "$install/bin/postgres")
	{
		die slurp_file("$ENV{TESTDIR}/fault_build.log") if -e "$ENV{TESTDIR}/fault_build.failed";
		select undef, undef, undef, 0.1;
	}

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

# release(node, point): who sleeps at this one goes on
sub release
{
	my ($node, $point) = @_;

	arm($node, $point, 'none');
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

# start_sql(node, sql): a session that is at it; answer() has what it said
sub start_sql
{
	my ($node, $sql) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/session.sql';
	my %session = (out => '', err => '');

	append_to_file($file, "$sql\n");
	$session{run} = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-f', $file ],
		'<', \undef, '>', \$session{out}, '2>', \$session{err},
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return \%session;
}

# answer(session): all that it has said, at its end
sub answer
{
	my ($session) = @_;

	$session->{run}->finish;
	chomp(my $answer = $session->{out} . $session->{err});
	return $answer;
}

1;
