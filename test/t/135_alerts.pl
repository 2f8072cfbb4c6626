# The alerts of examples/monitoring: promtool finds the rules and the
# configuration valid, each alert fires when it should and is silent otherwise
# (alerts_test.yml), says what is wrong, and leads to a page of the runbook.  The
# dashboard is what its script makes.
use strict;
use warnings;

use CouponPrometheus qw(program);
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = 'examples/monitoring';
my $rules = slurp_file("$dir/alerts.yml");

# ---- each alert ----

my @alerts = $rules =~ /^      - alert: (.*?)(?=^      - alert:|\z)/msg;
cmp_ok(scalar(@alerts), '>=', 20, 'alerts: ' . @alerts);
my $tests = slurp_file("$dir/alerts_test.yml");
my %page = map { (lc($_ =~ s/[^\w\s-]//gr) =~ s/ /-/gr => 1) } slurp_file('doc/operations.md') =~ /^#+ (.*)$/mg;
my @wrong;
for (@alerts)
{
	my ($name) = /^(\w+)/;
	my ($severity) = /severity: (\w+)/;
	my ($link) = m{runbook_url: doc/operations\.md#(\S+)};

	push @wrong, "$name: no summary" unless /summary: \S/;
	push @wrong, "$name: no description" unless /description: \S/;
	push @wrong, "$name: no page " . ($link // '') unless $link && $page{$link};
	push @wrong, "$name: severity" unless ($severity // '') =~ /^(warning|critical)$/;
	push @wrong, "$name: no test" unless $tests =~ /alertname="$name", severity="\Q$severity\E"/;
}
is_deeply(\@wrong, [], 'each says what is wrong, leads to a page of doc/operations.md, and has a test');

# ---- promtool ----

SKIP:
{
	my $promtool = program('promtool');
	skip 'skipped: no promtool (Debian: prometheus)', 4 unless $promtool;
	my $tool = sub {
		my ($out, @command) = ('', @_);
		IPC::Run::run([ $promtool, @command ], '>&', \$out, IPC::Run::timeout(10 * $PostgreSQL::Test::Utils::timeout_default));
		return "$? $out";
	};

	like($tool->('check', 'config', "$dir/prometheus.yml"), qr/^0 .*rules found/s, 'promtool check config');
	like($tool->('test', 'rules', "$dir/alerts_test.yml"), qr/^0 .*SUCCESS/s, 'promtool test rules');
	# and would find something
	my $work = PostgreSQL::Test::Utils::tempdir();
	append_to_file("$work/alerts.yml", $rules =~ s/(up\{job="coupon"\}) == 0/$1 == 7/r);
	append_to_file("$work/alerts_test.yml", $tests =~ s/\n\n  # a worker is gone.*//sr);
	like($tool->('test', 'rules', "$work/alerts_test.yml"), qr/^[1-9].*FAILED/s, '  which finds an alert that does not fire');
	unlink "$work/alerts.yml";
	append_to_file("$work/alerts.yml", $rules =~ s/(up\{job="coupon"\}) == 0/$1 >= 0/r);
	like($tool->('test', 'rules', "$work/alerts_test.yml"), qr/^[1-9].*FAILED/s, '  and one that is not silent');
}

# ---- the dashboard ----

SKIP:
{
	my $missing = `test/bin/grafana_sdk available 2>&1`;
	skip $missing =~ s/\s+$//r, 1 if $?;
	my $made = `test/bin/grafana_sdk dashboard`;
	ok($made eq slurp_file("$dir/dashboard.json"), 'dashboard.json is what dashboard.py makes')
	  or diag('Make it anew: test/bin/grafana_sdk dashboard >examples/monitoring/dashboard.json');
}

done_testing();
