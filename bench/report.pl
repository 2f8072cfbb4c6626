#!/usr/bin/env perl
#
# report.pl DIRECTORY [DOCUMENT]: tables of the runs that the parts of make
# bench have left in DIRECTORY.  For each part PART.csv (medians of the passes)
# and PART.md; figures.csv and figures.md, what must be reached.  In DOCUMENT
# the text between <!-- begin NAME --> and <!-- end NAME --> becomes NAME.md.
#
# A ratio of two variants is taken within a pass, its median and its spread over
# the passes; of two conditions, it is the ratio of the medians.
use strict;
use warnings;

my ($dir, $document) = @ARGV or die "usage: report.pl DIRECTORY [DOCUMENT]\n";
my @parts = qw(issue to_row latency sale mixes snapshot growth);
my %ceiling = (select1 => 1, insert => 1, sequence => 1);
my (%cell, %order);    # {part}{condition}{variant}

sub median
{
	my @x = sort { $a <=> $b } @_;
	return undef unless @x;
	return @x % 2 ? $x[ @x / 2 ] : ($x[ @x / 2 - 1 ] + $x[ @x / 2 ]) / 2;
}

sub median_of
{
	my ($cell, $column) = @_;

	return median(grep { defined && /\d/ } map { $_->{$column} } @{ $cell->{runs} });
}

# ratio(a, b): median, lowest and highest over the passes of both
sub ratio
{
	my ($x, $y) = @_;
	return unless $x && $y && !$x->{void} && !$y->{void};
	my %of = map { $_->{pass} => $_->{per_second} } @{ $y->{runs} };
	my @r = sort { $a <=> $b }
	  map { $_->{per_second} / $of{ $_->{pass} } }
	  grep { $of{ $_->{pass} } } @{ $x->{runs} };
	return @r ? (median(@r), $r[0], $r[-1]) : ();
}

sub slurp
{
	my ($file) = @_;
	open my $in, '<', $file or return '';
	local $/;
	return scalar <$in>;
}

sub spew
{
	my ($file, @text) = @_;
	open my $out, '>', "$file.new" or die "$file: $!\n";
	print $out @text;
	close $out or die "$file: $!\n";
	rename "$file.new", $file or die "$file: $!\n";
	return;
}

sub read_part
{
	my ($part) = @_;
	my ($head, @lines) = split /\n/, slurp("$dir/$part.runs.csv");
	return unless $head;
	my @names = split /,/, $head;
	my (%seen, %seen_variant);

	for (@lines)
	{
		my %run;
		@run{@names} = map { s/^"|"$//gr } split /,/, $_, -1;
		my ($c, $v) = @run{qw(condition variant)};
		push @{ $order{$part}{conditions} }, $c unless $seen{$c}++;
		push @{ $order{$part}{variants} }, $v unless $seen_variant{$v}++;
		my $cell = $cell{$part}{$c}{$v} //= { runs => [] };
		push @{ $cell->{runs} }, \%run;
		$cell->{void} = $run{violations} if $run{violations};
	}
	return 1;
}

sub table
{
	my ($head, @rows) = @_;

	return join '', map { "| " . join(' | ', map { $_ // '' } @$_) . " |\n" }
	  $head, [ '---', map { '---:' } 2 .. @$head ], @rows;
}

sub number { return defined $_[0] ? sprintf('%.0f', $_[0]) : '' }

# "median (lowest - highest)" of the rates of a cell
sub rate
{
	my ($cell) = @_;
	return '' unless $cell;
	return '**void**' if $cell->{void};
	my @r = sort { $a <=> $b } map { $_->{per_second} } @{ $cell->{runs} };
	return number(median(@r)) . ($r[0] == $r[-1] ? '' : " ($r[0] - $r[-1])");
}

sub times_of
{
	my @r = ratio(@_);
	return '' unless @r;
	return sprintf('%.2f', $r[0]) . (sprintf('%.2f', $r[1]) eq sprintf('%.2f', $r[2]) ? '' : sprintf(' (%.2f - %.2f)', @r[ 1, 2 ]));
}

# variants down, conditions across
sub matrix
{
	my ($part, $what, $conditions) = @_;
	my @c = $conditions ? @$conditions : @{ $order{$part}{conditions} };

	return table([ 'variant', @c ],
		grep { grep { length } @$_[ 1 .. $#$_ ] }
		map { my $v = $_; [ $v, map { $what->($cell{$part}{$_}{$v}, $_, $v) } @c ] } @{ $order{$part}{variants} });
}

sub times_table
{
	my ($part, $ours, $conditions) = @_;
	return '' unless grep { $_ eq $ours } @{ $order{$part}{variants} };
	return "\nHow many times as much `$ours` does, median of the passes (lowest - highest):\n\n"
	  . matrix($part, sub { my ($cell, $c) = @_; times_of($cell{$part}{$c}{$ours}, $cell) }, $conditions);
}

# one row for each run of a condition and variant, columns by name
sub rows
{
	my ($part, $names, @columns) = @_;
	my @rows;

	for my $c (@{ $order{$part}{conditions} })
	{
		for my $v (@{ $order{$part}{variants} })
		{
			my $cell = $cell{$part}{$c}{$v} or next;
			push @rows, [ $c, $v, $cell->{void} ? '**void**' : (), map { ref $_ ? $_->($cell, $c, $v) : median_of($cell, $_) } @columns ];
			$#{ $rows[-1] } = $#$names;
		}
	}
	return table($names, @rows);
}

my %tables = (
	issue => sub {
		"Rows (`select1`: answers) a second, median of the passes (lowest - highest), by connections; 1000\@64: through PgBouncer.\n\n"
		  . matrix('issue', \&rate)
		  . times_table('issue', 'http')
		  . times_table('issue', 'grouped')
		  . times_table('issue', 'coupon')
		  . "\nCPU time of the server(s) for a call, us:\n\n"
		  . matrix('issue', sub { my ($cell) = @_; $cell && !$cell->{void} ? sprintf('%.0f', median_of($cell, 'server_cpu_us')) : '' });
	},
	to_row => sub {
		"Rows a second from the first call to the last row (and event), by connections. Broker: " . (slurp("$dir/broker.txt") =~ s/^broker: |\n//gr || 'none') . ".\n\n"
		  . matrix('to_row', \&rate)
		  . times_table('to_row', 'http_kafka')
		  . times_table('to_row', 'grouped_kafka')
		  . "\nHow far behind the rows were (of the last pass):\n\n"
		  . rows('to_row', [ 'connections', 'variant', 'answer, average ms', 'behind' ], 'average_ms', sub { $_[0]{runs}[-1]{note} });
	},
	latency => sub {
		"ms from when the call was due, 64 connections; load in percent of what the variant did at most right before. "
		  . "A checkpoint: CHECKPOINT by hand, which writes at once what the server's own would spread.\n\n"
		  . rows('latency', [ 'load', 'variant', 'calls/s done', 'p50', 'p95', 'p99', 'p99.9' ], sub { number(median_of($_[0], 'per_second')) }, qw(p50 p95 p99 p999));
	},
	sale => sub {
		"Seconds until 20,000 are sold, by connections.\n\n"
		  . matrix('sale', sub { my ($cell) = @_; !$cell ? '' : $cell->{void} ? '**void**' : sprintf('%.2f', median_of($cell, 'seconds')) });
	},
	mixes => sub {
		"64 connections. sold out: answers a second; duplicates: calls a second, every second one a duplicate; rollbacks: units a second that stay, a fifth of the transactions rolled back.\n\n"
		  . matrix('mixes', \&rate)
		  . times_table('mixes', 'coupon');
	},
	snapshot => sub {
		"Rows a second at 64 connections: before a snapshot is held, on average while it is, and in its last quarter.\n\n"
		  . table([ 'variant', 'before', 'held', 'end', 'held / before', 'slope' ],
			map {
				my $v = $_;
				my ($b, $h, $e) = map { $cell{snapshot}{$_}{$v} } 'before', 'held', 'end of held';
				[ $v, rate($b), rate($h), rate($e), times_of($h, $b), $h->{runs}[-1]{note} ]
			} @{ $order{snapshot}{variants} });
	},
	growth => sub {
		my @c = @{ $order{growth}{conditions} };
		my $text = '';
		for my $kind ('campaigns', 'connections', 'rows')
		{
			my @these = grep { / $kind$/ } @c or next;
			$text .= { campaigns => "Rows a second at 64 connections; 10,000 campaigns are there, the calls go to so many:",
				connections => "\nRows a second by connections; 1000\@64: through PgBouncer, which has 64:",
				rows => "\nRows a second at 64 connections, by the issuances that were there before:" }->{$kind} . "\n\n";
			$text .= matrix('growth', \&rate, \@these);
		}
		$text;
	});

# ---- figures ----

my @figures;

sub figure
{
	my ($name, $measured, $how, $required, $detail) = @_;
	my $verdict = !defined $measured ? 'not measured'
	  : !defined $required ? 'info'
	  : ($how eq 'at least' ? $measured >= $required : $measured <= $required) ? 'pass' : 'FAIL';

	push @figures, [ $name, defined $measured ? sprintf('%.2f', $measured) : '', defined $required ? "$how $required" : '', $verdict, $detail // '' ];
	return;
}

sub ratio_figure
{
	my ($name, $x, $y, $required, $detail) = @_;
	my @r = ratio($x, $y);

	figure($name, $r[0], 'at least', $required, join '; ', grep { $_ } @r ? sprintf('%.2f - %.2f', @r[ 1, 2 ]) : '', $detail);
	return;
}

sub medians_figure
{
	my ($name, $x, $y, $required) = @_;
	my ($a, $b) = map { $_ && !$_->{void} ? median_of($_, 'per_second') : undef } $x, $y;

	figure($name, $a && $b ? $a / $b : undef, 'at least', $required, $a && $b ? sprintf('%.0f / %.0f', $a, $b) : '');
	return;
}

# the best of the peers in SQL, by its median
sub best_peer
{
	my ($c) = @_;
	my $cells = $cell{issue}{$c} or return '';
	my ($best) = sort { median_of($cells->{$b}, 'per_second') <=> median_of($cells->{$a}, 'per_second') }
	  grep { !/^(redis_|coupon$|grouped$|http$)/ && !$ceiling{$_} && !$cells->{$_}{void} } keys %$cells;
	return $best // '';
}

sub make_figures
{
	my $at = sub { $cell{ $_[0] }{ $_[1] }{ $_[2] } };

	ratio_figure("grouped / bare INSERT at $_->[0]", $at->('issue', $_->[0], 'grouped'), $at->('issue', $_->[0], 'insert'), $_->[1]) for [ 64, 1.2 ], [ 200, 1.3 ];
	ratio_figure("http / bare INSERT at $_->[0]", $at->('issue', $_->[0], 'http'), $at->('issue', $_->[0], 'insert'), $_->[1]) for [ 64, 1.3 ], [ 200, 1.5 ], [ '1000@64', 2.5 ];
	medians_figure('http at 1,000 connections / at 64', $at->('issue', '1000@64', 'http'), $at->('issue', 64, 'http'), 0.9);
	ratio_figure('http / Redis Lua, appendfsync always, at 200', $at->('issue', 200, 'http'), $at->('issue', 200, 'redis_always'), 0.5);
	ratio_figure('http / grouped at 64', $at->('issue', 64, 'http'), $at->('issue', 64, 'grouped'), 1.3);
	ratio_figure('grouped at 200 / at 64', $at->('growth', '200 connections', 'grouped'), $at->('growth', '64 connections', 'grouped'), 0.85);
	for ([ 64, 3 ], [ 200, 6 ])
	{
		my $best = best_peer($_->[0]);
		ratio_figure("grouped / the best SQL peer at $_->[0]", $at->('issue', $_->[0], 'grouped'), $at->('issue', $_->[0], $best), $_->[1], $best);
	}
	ratio_figure("grouped / Redis Lua, appendfsync always, at $_", $at->('issue', $_, 'grouped'), $at->('issue', $_, 'redis_always'), 0.5) for 64, 200;
	for my $pile ('pile_always', 'pile')
	{
		ratio_figure("grouped with Kafka / the $pile, to row and event, at $_", $at->('to_row', $_, 'grouped_kafka'), $at->('to_row', $_, $pile), 2) for @{ $order{to_row}{conditions} // [64] };
	}
	for my $pile ('pile_always', 'pile')
	{
		ratio_figure("http with Kafka / the $pile, to row and event, at $_", $at->('to_row', $_, 'http_kafka'), $at->('to_row', $_, $pile), 2) for @{ $order{to_row}{conditions} // [64] };
	}
	for my $v ('grouped', 'coupon', 'insert')
	{
		my $c = $at->('latency', '70 % and a checkpoint', $v);
		my $need = $v eq 'insert' ? undef : 20;
		figure("p99.9 of $v at 70 % load and 64 connections, a checkpoint inside, ms", $c && !$c->{void} ? median_of($c, 'p999') : undef, 'at most', $need);
	}
	my @rows = grep { / rows$/ } @{ $order{growth}{conditions} // [] };
	medians_figure("$_, 10 M issuances / empty table", (@rows && $rows[-1] eq '10000000 rows' ? $at->('growth', $rows[-1], $_) : undef), (@rows ? $at->('growth', $rows[0], $_) : undef), 0.8) for 'grouped', 'coupon';
	ratio_figure("$_, 1,000 connections through PgBouncer / 64 direct", $at->('growth', '1000@64 connections', $_), $at->('growth', '64 connections', $_), 0.6) for 'grouped', 'coupon';
	ratio_figure("$_ with a snapshot held / before", $at->('snapshot', 'held', $_), $at->('snapshot', 'before', $_), 0.95) for 'grouped', 'coupon';
	return;
}

# ---- all of it ----

my %text;
for my $part (@parts)
{
	next unless read_part($part);
	$text{$part} = $tables{$part}->() . "\n";
	if (my $voids = join '', map { my $c = $_; map { my $x = $cell{$part}{$c}{$_}; $x && $x->{void} ? "- void: $_, $c: $x->{void}\n" : () } @{ $order{$part}{variants} } } @{ $order{$part}{conditions} })
	{
		$text{$part} .= "$voids\n";
	}
	my @others = map { $_->{others_cpu_percent} || 0 } map { @{ $_->{runs} } } map { values %$_ } values %{ $cell{$part} };
	my $machine = slurp("$dir/$part.machine.txt");
	my ($took) = $machine =~ /^took: (.*)/m;
	my ($date) = $machine =~ /^date: (.*)/m;
	my ($command) = $machine =~ /^command: (.*)/m;
	my ($most) = sort { $b <=> $a } @others;
	# as BENCH_OTHERS by default
	$text{$part} .= "**The machine was not quiet: do not rely on these.** " if median(@others) > 10;
	$text{$part} .= sprintf "%s%d runs; other work of the machine took %.1f %% of the CPU time in the median run, %.1f %% at most. `%s`\n",
	  ($date ? "$date, $took, " : ''), scalar @others, median(@others), $most, $command // 'make bench';

	spew("$dir/$part.csv",
		"condition,variant,per_second,lowest,highest,passes,seconds,average_ms,server_cpu_us,p50,p95,p99,p999,of_bare_insert,coupon_is_times,grouped_is_times\n",
		map {
			my $c = $_;
			map {
				my $v = $_;
				my $x = $cell{$part}{$c}{$v};
				my @r = $x ? sort { $a <=> $b } grep { length } map { $_->{per_second} } @{ $x->{runs} } : ();
				$x ? join(',', $c, $v, $x->{void} ? 'void' : number(median(@r)), $r[0] // '', $r[-1] // '', scalar @{ $x->{runs} },
					(map { median_of($x, $_) // '' } qw(seconds average_ms server_cpu_us p50 p95 p99 p999)),
					map { defined $_ ? sprintf('%.3f', $_) : '' } (ratio($x, $cell{$part}{$c}{insert}))[0], (ratio($cell{$part}{$c}{coupon}, $x))[0], (ratio($cell{$part}{$c}{grouped}, $x))[0]) . "\n" : ()
			} @{ $order{$part}{variants} }
		} @{ $order{$part}{conditions} });
	spew("$dir/$part.md", $text{$part});
}
make_figures();
$text{figures} = table([ 'figure', 'measured', 'required', '', 'spread' ], map { [ @$_[ 0 .. 4 ] ] } @figures);
spew("$dir/figures.md", $text{figures});
spew("$dir/figures.csv", map { join(', ', map { s/,/;/gr } @$_) . "\n" } @figures);
if (my ($machine) = grep { -e } map { "$dir/$_.machine.txt" } @parts)
{
	$text{machine} = join '', map { "- $_\n" } grep { !/^(took|command|date)/ } split /\n/, slurp($machine);
	spew("$dir/machine.md", $text{machine});
}
if ($document)
{
	my $all = slurp($document) or die "no $document\n";
	for my $name (keys %text)
	{
		$all =~ s/(<!-- begin \Q$name\E -->\n).*?(<!-- end \Q$name\E -->)/$1\n$text{$name}\n$2/s;
	}
	spew($document, $all);
}
print "\n$text{$_}\n" for grep { $text{$_} } 'issue', 'to_row';
print "$text{figures}\n";
