#!/usr/bin/env perl
#
# report.pl DIRECTORY [DOCUMENT [NAME...]]: tables of the runs that the parts of
# make bench have left in DIRECTORY.  For each part PART.csv (medians of the passes)
# and PART.md; figures.csv and figures.md, what must be reached; quick.md, figures,
# costs and profile together.  In DOCUMENT the text between <!-- begin NAME -->
# and <!-- end NAME --> becomes NAME.md, for each NAME or for all.
#
# A ratio of two variants is taken within a pass, its median and its spread over
# the passes; of two conditions, it is the ratio of the medians.  BENCH_LAST is the
# figures.csv of an earlier run: a ratio that has lost more than 15 % is marked.
use strict;
use warnings;

my ($dir, $document, @wanted) = @ARGV or die "usage: report.pl DIRECTORY [DOCUMENT [NAME...]]\n";
my @parts = qw(issue to_row bulk latency sale mixes snapshot growth profile);
my $loss = 0.15;
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

# ratio(a, b, column): median, lowest and highest over the passes of both
sub ratio
{
	my ($x, $y, $column) = @_;
	$column //= 'per_second';
	return unless $x && $y && !$x->{void} && !$y->{void};
	my %of = map { $_->{pass} => $_->{$column} } @{ $y->{runs} };
	my @r = sort { $a <=> $b }
	  map { $_->{$column} / $of{ $_->{pass} } }
	  grep { $of{ $_->{pass} } && length $_->{$column} } @{ $x->{runs} };
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
	# the second one is of a part that has not ended
	my ($head, @lines) = split /\n/, slurp("$dir/$part.runs.csv") || slurp("$dir/$part.part.csv");
	return unless @lines;
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
		# a run that failed is as one that was not made; one that broke a law voids all
		if ($run{violations} =~ /^failed: /)
		{
			$cell->{failed} = $run{violations};
			push @{ $cell->{lost} }, \%run;
			next;
		}
		push @{ $cell->{runs} }, \%run;
		$cell->{void} = $run{violations} if $run{violations};
	}
	for my $cell (map { values %$_ } values %{ $cell{$part} })
	{
		next if @{ $cell->{runs} };
		$cell->{runs} = $cell->{lost};
		$cell->{void} = $cell->{failed};
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

# the CPU time that the machine must have for a call or a row
sub cost_table
{
	my ($part, $conditions) = @_;
	my $cost = sub {
		my ($cell) = @_;
		my ($server, $client) = map { $cell && !$cell->{void} ? median_of($cell, $_) : undef } 'server_cpu_us', 'client_cpu_us';
		return defined $server ? sprintf('%.*f', $server < 10 ? 1 : 0, $server) . (defined $client ? sprintf(' + %.*f', $client < 10 ? 1 : 0, $client) : '') : '';
	};

	return "\nCPU time for each, us: servers + load generator:\n\n" . matrix($part, $cost, $conditions);
}

# bytes of WAL, and how many of them are pages written whole
sub wal_table
{
	my ($part, $conditions) = @_;
	my $bytes = sub {
		my ($cell) = @_;
		my ($wal, $images) = map { $cell && !$cell->{void} ? median_of($cell, $_) : undef } 'wal_bytes', 'image_bytes';
		return defined $wal ? number($wal) . (defined $images ? ' (' . number($images) . ')' : '') : '';
	};

	return "\nBytes of WAL for each (of them full-page images):\n\n" . matrix($part, $bytes, $conditions);
}

# What each variant would do with ten times as many rows as the most that were
# measured, by the step from a tenth of these to them.
sub extrapolated
{
	my (@conditions) = @_;
	my %at = map { /^(\d+) rows (.*)/ ? ("$2/$1" => $_) : () } @conditions;
	my @lines;

	for my $more (sort grep { m{/10000000$} && $at{s{/10000000$}{/1000000}r} } keys %at)
	{
		my ($one, $ten) = ($at{ $more =~ s{/10000000$}{/1000000}r }, $at{$more});
		my @said;
		for my $v (@{ $order{growth}{variants} })
		{
			my ($c1, $c10) = map { my $c = $cell{growth}{$_}{$v}; $c && !$c->{void} ? median_of($c, 'server_cpu_us') : undef } $one, $ten;
			push @said, sprintf('%s %.0f', $v, $c10 + ($c10 > $c1 ? $c10 - $c1 : 0)) if $c1 && $c10;
		}
		push @lines, "$more" =~ s{/.*}{}r . ': ' . join(', ', @said) if @said;
	}
	return @lines ? "\nServer CPU for each with 100 M rows, us, as much more than with 10 M as these cost more than 1 M: " . join('; ', @lines) . ".\n" : '';
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
		  . cost_table('issue');
	},
	to_row => sub {
		"Rows a second from the first call to the last row (and event), by connections. Broker: " . (slurp("$dir/broker.txt") =~ s/^broker: |\n//gr || 'none') . ".\n\n"
		  . matrix('to_row', \&rate)
		  . times_table('to_row', 'http_kafka')
		  . times_table('to_row', 'grouped_kafka')
		  . cost_table('to_row')
		  . "\nHow far behind the rows were (of the last pass):\n\n"
		  . rows('to_row', [ 'connections', 'variant', 'answer, average ms', 'behind' ], 'average_ms', sub { $_[0]{runs}[-1]{note} });
	},
	bulk => sub {
		"Rows a second of one session, by users a call; many: coupon_issue_many, insert_select: the same rows by INSERT ... SELECT, drain: so many requests by their worker.\n\n"
		  . matrix('bulk', \&rate)
		  . times_table('bulk', 'many')
		  . cost_table('bulk');
	},
	profile => sub {
		my %share;
		my %sum;
		my @variants;
		for (split /\n/, slurp("$dir/profile.functions.csv"))
		{
			my ($variant, $share, $process, $function) = split /,/;
			next unless $process && $process eq 'postgres';
			push @variants, $variant unless $share{$variant};
			$share{$variant}{$function} += $share;
			$sum{$variant} += $share;
		}
		return '' unless @variants;
		my %most;
		for my $v (@variants)
		{
			for my $f (keys %{ $share{$v} })
			{
				my $percent = $share{$v}{$f} *= 100 / $sum{$v};
				$most{$f} = $percent if $percent > ($most{$f} // 0);
			}
		}
		my @top = grep { $most{$_} >= 1 } sort { $most{$b} <=> $most{$a} || $a cmp $b } keys %most;
		$#top = 39 if $#top > 39;
		"Percent of the server's CPU time by function, by perf, variant and number of connections (many: 10,000 users a call):\n\n"
		  . table([ 'function', @variants ], map { my $f = $_; [ "`$f`", map { sprintf('%.1f', $share{$_}{$f} // 0) } @variants ] } @top);
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
		"64 connections. sold out: answers a second; duplicates: calls a second, every second one a duplicate; rollbacks: units a second that stay, a fifth of the transactions rolled back; "
		  . "waiting: position polls a second in a room with so many; holds: of random seats, coupon: issues of one campaign beside them.\n\n"
		  . matrix('mixes', \&rate)
		  . times_table('mixes', 'coupon')
		  . cost_table('mixes');
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
		for my $kind ([ qr/ campaigns/, 'Rows a second at 64 connections; 10,000 campaigns are there, the calls go to so many; warm: that have issued before, cold: of which nothing is in shared memory:' ],
			[ qr/ bytes$/, 'Rows a second at 64 connections, by the length of the user\'s key:' ],
			[ qr/ connections$/, 'Rows a second by connections; 1000@64: through PgBouncer, which has 64:' ],
			[ qr/ rows at/, 'Rows a second by the issuances that were there before and connections; each run right after a checkpoint, and without one:' ])
		{
			my @these = grep { $_ =~ $kind->[0] } @c or next;
			$text .= "\n$kind->[1]\n\n" . matrix('growth', \&rate, \@these) . cost_table('growth', \@these) . wal_table('growth', \@these);
			$text .= extrapolated(@these);
		}
		$text;
	});

# ---- figures ----

my @figures;

# figure(name, measured, 'at least'|'at most', required, spread, detail); one that
# is not required is info
sub figure
{
	my ($name, $measured, $how, $required, $spread, $detail) = @_;
	my $verdict = !defined $measured ? 'not measured'
	  : !defined $required ? 'info'
	  : ($how eq 'at least' ? $measured >= $required : $measured <= $required) ? 'pass' : 'FAIL';

	$name =~ s/,/;/g;
	push @figures, { name => $name, measured => defined $measured ? sprintf($measured < 10 ? '%.2f' : '%.0f', $measured) : '', how => $how // '',
		required => defined $required ? "$how $required" : '', verdict => $verdict, spread => $spread // '', detail => $detail // '' };
	return;
}

# why(part, condition, variant): what was missing for it, or went wrong
sub why
{
	my ($part, $c, $v) = @_;
	my $void = $cell{$part}{$c}{$v} && $cell{$part}{$c}{$v}{void};
	my ($why) = slurp("$dir/$part.skipped.txt") =~ /^\Q$v at $c\E: (skipped: .*)/m;
	return $void ? "$v void: $void" : $why // '';
}

# ratio_figure(name, part, condition, variant, other variant, required, column)
sub ratio_figure
{
	my ($name, $part, $c, $x, $y, $required, $column) = @_;
	return unless $cell{$part}{$c} || slurp("$dir/$part.skipped.txt");
	my @r = ratio($cell{$part}{$c}{$x}, $cell{$part}{$c}{$y}, $column);

	figure($name, $r[0], ($column // '') =~ /^p\d/ ? 'at most' : 'at least', $required, @r ? sprintf('%.2f - %.2f', @r[ 1, 2 ]) : '',
		@r ? '' : join ' ', grep { length } why($part, $c, $x), why($part, $c, $y));
	return;
}

# medians_figure(name, cell, cell, required): of two conditions
sub medians_figure
{
	my ($name, $x, $y, $required) = @_;
	my ($a, $b) = map { $_ && !$_->{void} ? median_of($_, 'per_second') : undef } $x, $y;

	figure($name, $a && $b ? $a / $b : undef, 'at least', $required, $a && $b ? sprintf('%.0f / %.0f', $a, $b) : '') if $x && $y;
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
	my @c = @{ $order{growth}{conditions} // [] };

	# the price of an issue
	ratio_figure("coupon / bare INSERT at $_->[0]", 'issue', $_->[0], 'coupon', 'insert', $_->[1]) for [ 16, 0.9 ], [ 64, 0.8 ], [ 200, 0.75 ];
	ratio_figure('coupon / an INSERT of the same rows at 64', 'issue', 64, 'coupon', 'insert_rows') if $cell{issue}{64}{insert_rows};
	ratio_figure("grouped / bare INSERT at $_", 'issue', $_, 'grouped', 'insert', 1.3) for 64, 200;
	for ([ 16, 0.9 ], [ 64, 0.8 ], [ 200, 0.75 ])
	{
		ratio_figure("coupon / bare INSERT at $_->[0] in tables of a million rows", 'growth', "1000000 rows at $_->[0] without a checkpoint", 'coupon', 'insert', $_->[1]);
		ratio_figure("grouped / bare INSERT at $_->[0] in tables of a million rows", 'growth', "1000000 rows at $_->[0] without a checkpoint", 'grouped', 'insert', 1.3) unless $_->[0] == 16;
	}
	ratio_figure('grouped / bare INSERT at 1000 through PgBouncer', 'issue', '1000@64', 'grouped', 'insert', 1.3);
	ratio_figure('requests accepted and decided / bare INSERT at 64', 'to_row', 64, 'request', 'insert', 0.8);
	ratio_figure("coupon_issue_many of $_->[0] / INSERT ... SELECT", 'bulk', "$_->[0] a call", 'many', 'insert_select', $_->[1]) for [200], [ 10000, 1.8 ], [100000], [1000000];
	ratio_figure("drain of $_ / coupon_issue_many", 'bulk', "backlog of $_", 'drain', 'many', 0.8) for map { /^backlog of (\d+)/ } @{ $order{bulk}{conditions} // [] };
	ratio_figure("$_ / coupon of one campaign", 'mixes', $_, 'hold', 'coupon', 0.85) for grep { /^holds/ } @{ $order{mixes}{conditions} // [] };
	ratio_figure('sold-out answers / SELECT 1 at 64', 'mixes', 'sold out', 'coupon', 'select1', 0.9);
	ratio_figure('the same answer without a function / SELECT 1 at 64', 'mixes', 'sold out', 'answer', 'select1') if $cell{mixes}{'sold out'}{answer};
	ratio_figure("position poll / SELECT 1 with $_", 'mixes', $_, 'coupon', 'select1', 0.75) for grep { /waiting/ } @{ $order{mixes}{conditions} // [] };
	for ([ 'coupon at 64', $at->('issue', 64, 'coupon'), 500 ], [ 'many of 200 a call', $at->('bulk', '200 a call', 'many'), 500 ])
	{
		my ($name, $cell, $required) = @$_;
		my @bytes = sort { $a <=> $b } map { $_->{wal_bytes} } @{ $cell && !$cell->{void} ? $cell->{runs} : [] };
		figure("bytes of WAL for an issue and its event by $name", median(@bytes), 'at most', $required, "$bytes[0] - $bytes[-1]") if @bytes;
	}
	for my $v ('coupon', 'grouped')
	{
		medians_figure("$v with 10 M issuances / an empty table $_->[0]", $at->('growth', "10000000 rows at 64$_->[1]", $v), $at->('growth', '0 rows at 64', $v), 0.85)
		  for [ 'right after a checkpoint', '' ], [ 'without one', ' without a checkpoint' ];
		ratio_figure("p99.9 of $v / of the bare INSERT at 70 % load with a checkpoint inside", 'latency', '70 % and a checkpoint', $v, 'insert', 1.5, 'p999');
	}

	# other ways
	ratio_figure("http / bare INSERT at $_->[0]", 'issue', $_->[0], 'http', 'insert', $_->[1]) for [ 64, 1.3 ], [ 200, 1.5 ], [ '1000@64', 2.5 ];
	medians_figure('http at 1000 connections / at 64', $at->('issue', '1000@64', 'http'), $at->('issue', 64, 'http'), 0.9);
	ratio_figure('http / Redis Lua with appendfsync always at 200', 'issue', 200, 'http', 'redis_always', 0.5);
	ratio_figure('http / grouped at 64', 'issue', 64, 'http', 'grouped', 1.3);
	medians_figure('grouped at 200 / at 64', $at->('growth', '200 connections', 'grouped'), $at->('growth', '64 connections', 'grouped'), 0.85);
	for ([ 64, 3 ], [ 200, 6 ])
	{
		my $best = best_peer($_->[0]) or next;
		ratio_figure("grouped / the best SQL peer at $_->[0] ($best)", 'issue', $_->[0], 'grouped', $best, $_->[1]);
	}
	ratio_figure("grouped / Redis Lua with appendfsync always at $_", 'issue', $_, 'grouped', 'redis_always', 0.5) for 64, 200;
	for my $ours ('grouped', 'http')
	{
		for my $pile ('pile_always', 'pile')
		{
			ratio_figure("$ours with Kafka / the $pile to row and event at $_", 'to_row', $_, "${ours}_kafka", $pile, 2) for grep { $at->('to_row', $_, $pile) } @{ $order{to_row}{conditions} // [] };
		}
	}
	for my $v ('grouped', 'coupon', 'insert')
	{
		my $c = $at->('latency', '70 % and a checkpoint', $v) or next;
		figure("ms p99.9 of $v at 70 % load and 64 connections with a checkpoint inside", $c->{void} ? undef : median_of($c, 'p999'), 'at most', $v eq 'insert' ? undef : 20);
	}
	for my $v ('grouped', 'coupon')
	{
		medians_figure("$v at 1000 connections through PgBouncer / 64 direct", $at->('growth', '1000@64 connections', $v), $at->('growth', '64 connections', $v), 0.6);
		medians_figure("$v with a snapshot held / before", $at->('snapshot', 'held', $v), $at->('snapshot', 'before', $v), 0.95);
		medians_figure("$v of a campaign of 10000 / of one", map({ $at->('growth', "$_ campaigns warm", $v) } 10000, 1), 0.8);
	}

	# what bench/figures/price.sh has said
	for (split /\n/, slurp("$dir/price.txt"))
	{
		my ($name, $measured, $how, $required, $detail) = /^([^#].*?), (-?[\d.]+), (?:(at least|at most) ([\d.]+)|-), (?:pass|FAIL|info)(?:  # (.*))?$/ or next;
		figure($name, $measured, $how, $required, $detail);
	}
	return;
}

# What it was in the run before, and whether a ratio is now worse by more than 15 %.
sub compare_with_last
{
	my %last = map { my ($name, $measured) = split /, /; ($name => $measured) } split /\n/, slurp($ENV{BENCH_LAST} // '');
	my $lost = 0;

	for (@figures)
	{
		my $before = $last{ $_->{name} };
		next unless defined $before && $before =~ /^[\d.]+$/ && length $_->{measured};
		$_->{last} = $before;
		next unless $before > 0 && $_->{name} =~ m{ / } && $_->{measured} > 0;
		my $change = $_->{how} eq 'at most' ? $before / $_->{measured} : $_->{measured} / $before;
		next if $change >= 1 - $loss;
		$_->{last} .= sprintf ' **LOST %.0f %%**', 100 * (1 - $change);
		$lost++;
	}
	return $lost;
}

# ---- all of it ----

my (%text, @all_others);
for my $part (@parts)
{
	next unless read_part($part);
	$text{$part} = $tables{$part}->() . "\n";
	if (my $voids = join '', map { my $c = $_; map { my $x = $cell{$part}{$c}{$_}; my $why = $x && ($x->{void} // $x->{failed}); $why ? "- void: $_, $c: $why\n" : () } @{ $order{$part}{variants} } } @{ $order{$part}{conditions} })
	{
		$text{$part} .= "$voids\n";
	}
	$text{$part} .= join '', map { "- $_\n" } sort keys %{ { map { $_ => 1 } split /\n/, slurp("$dir/$part.skipped.txt") } };
	$text{$part} .= "\n" if $text{$part} =~ /^- .*\n\z/m;
	my @others = map { $_->{others_cpu_percent} || 0 } map { @{ $_->{runs} } } map { values %$_ } values %{ $cell{$part} };
	push @all_others, @others;
	my $machine = slurp("$dir/$part.machine.txt");
	my ($took) = $machine =~ /^took: (.*)/m;
	my ($date) = $machine =~ /^date: (.*)/m;
	my ($command) = $machine =~ /^command: (.*)/m;
	my ($most) = sort { $b <=> $a } @others;
	# as BENCH_OTHERS by default
	$text{$part} .= "**The machine was not quiet: do not rely on these.** " if (median(@others) // 0) > 10;
	$text{$part} .= sprintf "%s%d runs; other work of the machine took %.1f %% of the CPU time in the median run, %.1f %% at most. `%s`\n",
	  ($date ? "$date, $took, " : ''), scalar @others, median(@others) // 0, $most // 0, $command // 'make bench';

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
my $lost = compare_with_last();
@figures = grep { $_->{verdict} ne 'not measured' || length $_->{detail} } @figures;
$text{figures} = table([ 'figure', 'measured', 'required', '', 'spread', 'last' ],
	map { [ @$_{qw(name measured required verdict)}, join('; ', grep { length } @$_{qw(spread detail)}), $_->{last} // '' ] } @figures);
$text{figures} .= "\n$lost of the ratios lost more than " . 100 * $loss . " % since the run that is stored.\n" if $lost;
spew("$dir/figures.md", $text{figures});
spew("$dir/figures.csv", map { my $f = $_; join(', ', map { $f->{$_} =~ s/,/;/gr } qw(name measured required verdict spread detail)) . "\n" } @figures);
if (my ($machine) = grep { -e } map { "$dir/$_.machine.txt" } @parts)
{
	$text{machine} = join '', map { "- $_\n" } grep { !/^(took|command|date)/ } split /\n/, slurp($machine);
	spew("$dir/machine.md", $text{machine});
}
$text{quick} = join "\n", $text{figures},
	($text{issue} ? "Rows (`select1`: answers) a second by connections:\n\n" . matrix('issue', \&rate) . cost_table('issue') : ()),
	(map { $text{$_} ? cost_table($_) =~ s/^\n//r : () } 'to_row', 'bulk', 'mixes'), $text{profile} // slurp("$dir/profile.skipped.txt"),
	((median(@all_others) // 0) > 10 ? "**The machine was not quiet: do not rely on these.**\n" : ()),
	sprintf("%d runs; other work of the machine took %.1f %% of the CPU time in the median run.\n", scalar @all_others, median(@all_others) // 0),
	(map { /^command: (.*)/m ? "`$1`, " . (/^date: (.*)/m)[0] . ', coupon ' . (/^coupon: (.*)/m)[0] . "\n" : () } (grep { length } map { slurp("$dir/$_.machine.txt") } @parts)[0] // '');
spew("$dir/quick.md", $text{quick});
if ($document)
{
	my $all = slurp($document) or die "no $document\n";
	for my $name (@wanted ? @wanted : keys %text)
	{
		next unless $text{$name};
		$all =~ s/(<!-- begin \Q$name\E -->\n).*?(<!-- end \Q$name\E -->)/$1\n$text{$name}\n$2/s;
	}
	spew($document, $all);
}
print "\n$text{$_}\n" for grep { $text{$_} } @wanted ? () : ('issue', 'to_row'), 'profile';
print "$text{figures}\n";
