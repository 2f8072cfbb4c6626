# The protocols between nodes, by spin: every order of their steps, and each
# mistake that the models name must be found.  With CI=true also the largest
# run: three units, two transfers, a kill and a return.
use strict;
use warnings;

use File::Copy qw(copy);
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $out;
plan skip_all => 'skipped: spin is not installed' if !IPC::Run::run([ 'sh', '-c', 'command -v spin' ], '>', \$out);

my $ci = ($ENV{CI} // '') eq 'true';
my $number = 0;

# model => the runs that must hold, and the one that shows each mistake
my %runs = (
	transfer => {
		hold => [
			'-DUNITS=3 -DTRANSFERS=1 -DKILLS=1 -DRETURNS=1',
			'-DUNITS=2 -DTRANSFERS=2 -DKILLS=1 -DRETURNS=1',
			$ci ? '-DUNITS=3 -DTRANSFERS=2 -DKILLS=1 -DRETURNS=1' : () ],
		mutants => '-DUNITS=2 -DTRANSFERS=2 -DKILLS=1 -DRETURNS=1' },
	failover => {
		hold => [ '-DUNITS=2 -DTRANSFERS=3' ],
		mutants => '-DUNITS=2 -DTRANSFERS=3' });

# search(model, definitions, for gcc): what the program that spin makes says
sub search
{
	my ($model, $definitions, @optimize) = @_;
	my $directory = PostgreSQL::Test::Utils::tempdir() . '/' . $number++;
	my $said;

	mkdir $directory;
	copy("test/model/$model.pml", "$directory/model.pml") or die "copy: $!";
	foreach my $command (
		[ 'spin', '-a', split(/ /, $definitions), 'model.pml' ],
		[ 'gcc', @optimize, '-w', '-DSAFETY', '-DCOLLAPSE', '-DMEMLIM=4000', '-o', 'pan', 'pan.c' ],
		# -E: that a node has nothing more to do is no fault; -n: no list of what was never reached
		[ "$directory/pan", '-E', '-n', '-m100000' ])
	{
		IPC::Run::run($command, '>&', \$said, 'init', sub { chdir $directory or die "chdir: $!" })
		  or return "@$command: $said";
	}
	return $said;
}

foreach my $model (sort keys %runs)
{
	my %mutants = map { $_ => 1 } slurp_file("test/model/$model.pml") =~ /ifn?def (MUTANT_\w+)/g;

	foreach my $definitions (@{ $runs{$model}{hold} })
	{
		my $said = search($model, $definitions, '-O1');
		my ($states) = $said =~ /(\d+) states, stored/;

		# a search that was cut short has found nothing, too
		ok($said =~ /errors: 0/ && $said !~ /depth too small|out of memory|Search not completed/i,
			"$model holds in each of " . ($states // 'no') . " states: $definitions") or diag($said);
	}
	cmp_ok(scalar keys %mutants, '>=', 5, "$model names mistakes");
	foreach my $mutant (sort keys %mutants)
	{
		like(search($model, "$runs{$model}{mutants} -D$mutant", '-O0'), qr/assertion violated.*errors: 1/s, "$model: $mutant is found");
	}
}

done_testing();
