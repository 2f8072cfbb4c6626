# Links: from alerts and from coupon_health() to the pages of the runbook, and
# between the documents.  Each leads to a heading that is there, and there is no
# page of an incident to which nothing leads.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

# anchor(heading): as a page of Markdown has it
sub anchor
{
	my ($heading) = @_;

	return lc($heading =~ s/[^\w\s-]//gr) =~ s/\s/-/gr;
}

# headings(file): anchor => the heading, of those below a heading of its own if
# one is given
sub headings
{
	my ($file, $below) = @_;
	my $text = slurp_file($file) =~ s/^```.*?^```$//msgr;

	$text =~ s/.*^## \Q$below\E\n(.*?)(?=^## |\z)/$1/ms or die "$file has no $below" if defined $below;
	return map { anchor($_) => $_ } $text =~ /^#{1,6} (.*)/mg;
}

my @documents = ('README.md', 'CONTRIBUTING.md', 'SECURITY.md', glob('doc/*.md'), glob('examples/*/README.md'), 'src/README.md');
my %led_to;		# anchor of the runbook => where from

# ---- documents ----

for my $document (@documents)
{
	my ($folder) = $document =~ m{^(.*/)};
	my @broken;

	for my $link (slurp_file($document) =~ /\]\(([^)\s]+)\)/g)
	{
		next if $link =~ /^[a-z]+:/;
		my ($path, $anchor) = split /#/, $link, 2;
		my $file = $path eq '' ? $document : ($folder // '') . $path;

		1 while $file =~ s{[^/]+/\.\./}{};
		if (!-e $file || (defined $anchor && !{ headings($file) }->{$anchor}))
		{
			push @broken, $link;
		}
		$led_to{$anchor} //= $document if defined $anchor && $file eq 'doc/operations.md';
	}
	is("@broken", '', "$document: links lead somewhere");

	# files that are named in words
	my @missing = grep { !/NAME/ && !-e $_ } map { s/\.$//r } slurp_file($document) =~ m{`((?:doc|examples|test|sql|src|bench)/[\w./-]+)`}g;
	is("@missing", '', "$document: files that it names are there");
}

# ---- alerts and health ----

my %page = headings('doc/operations.md');
my %incident = headings('doc/operations.md', 'Incidents');

# leads(from, to...): the anchors to which it leads
sub leads
{
	my ($from, @anchors) = @_;

	is(join(' ', grep { !$page{$_} } @anchors), '', "$from: its pages are in the runbook");
	$led_to{$_} //= $from for @anchors;
	return;
}

for my $file (glob 'examples/monitoring/*.yml')
{
	my $text = slurp_file($file);
	my @anchors = $text =~ /operations\.md#([\w-]+)/g;

	leads($file, @anchors) if @anchors;
	next unless $file =~ m{/alerts\.yml$};
	my @alerts = split /^\s*- alert: /m, $text;
	shift @alerts;
	cmp_ok(scalar @alerts, '>', 10, "$file: there are alerts");
	is(join(' ', map { /(\S+)/ } grep { !/operations\.md#/ } @alerts), '', "$file: each has its page");
}

# coupon.finding(severity, what, detail, hint, heading)
my $pieces = join '', map { slurp_file($_) } glob 'sql/[0-9]*.sql';
my @findings;
while ($pieces =~ /coupon\.finding(\((?:[^()']++|'(?:[^']|'')*+'|(?1))*+\))/g)
{
	my $arguments = $1;

	push @findings, $1 if $arguments =~ /'([^']+)'\s*\)\z/;
}
leads('coupon_health()', map { anchor($_) } @findings) if @findings;

is(join("\n", map { $incident{$_} } grep { !$led_to{$_} } sort keys %incident), '', 'no incident is without a link to it');

done_testing();
