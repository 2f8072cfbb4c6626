# Runs a suite of pg_regress or pg_isolation_regress as TAP: one "ok" for
# each of its tests, the differences as diagnostics when one fails.
package PgRegress;

use strict;
use warnings;

use Exporter 'import';
use File::Basename;
use File::Path;
use File::Copy;
use InitdbTemplate;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(run_suite);

# run_suite(name, program, [options], [files], settings): files are the tests'
# inputs, settings those of the server beside the usual
sub run_suite
{
	my ($suite, $program, $options, $files, $settings) = @_;
	my @tests = map { (fileparse($_, qr/\.[^.]*/))[0] } @$files;

	plan skip_all => "no tests of $suite" unless @tests;

	# The program looks for expected/ where it runs, and for inputs in test/.
	my $dir = "$PostgreSQL::Test::Utils::tmp_check/$suite";
	mkpath("$dir/expected");
	copy($_, "$dir/expected/") or die "copy $_: $!" for glob('expected/*.out');
	my $input = File::Spec->rel2abs('test');

	my $node = PostgreSQL::Test::Cluster->new($suite);
	$node->init;
	$node->append_conf('postgresql.conf',
		"shared_preload_libraries = 'coupon'\nmax_prepared_transactions = 10\n" .
		($settings // "coupon.databases = ''\n"));
	$node->start;

	my $output = '';
	my $run = IPC::Run::run(
		[
			$program, "--inputdir=$input", '--bindir=',
			'--host=' . $node->host, '--port=' . $node->port, @$options, @tests
		],
		'<', \undef, '>', \$output, '2>&1',
		init => sub { chdir $dir or die "chdir $dir: $!" });

	# "test x ... ok   12 ms" until PostgreSQL 15, "ok 1 - x   12 ms" from 16
	my %result;
	for my $line (split /\n/, $output)
	{
		$result{$1} = $2 eq 'ok' if $line =~ /^(?:test )?\s*(\S+)\s+\.\.\. (\w+)/;
		$result{$2} = !$1 if $line =~ /^(not )?ok \d+\s+[-+] (\S+)/;
	}
	ok($result{$_}, "$suite: $_") for @tests;
	ok($run, "$suite: exit status");

	if (!$run)
	{
		diag($output);
		diag(slurp_file("$dir/regression.diffs")) if -s "$dir/regression.diffs";
	}
	$node->stop;
	return;
}

1;
