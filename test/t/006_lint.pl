# test/bin/lint finds nothing, and the sources are laid out as test/bin/format
# lays them out.  scan-build builds everything again, slowly: CI only.
use strict;
use warnings;

use Test::More;

foreach my $tool (qw(shellcheck cppcheck scan-build))
{
  SKIP:
	{
		skip "scan-build: make lint, or CI=true", 1 if $tool eq 'scan-build' && ($ENV{CI} // '') ne 'true';
		my $output = `test/bin/lint "\$PG_CONFIG" $tool 2>&1`;
		my $status = $? >> 8;

		skip $output =~ s/^skipped: |\s+$//gr, 1 if $status == 3;
		is($status, 0, $output =~ /^$tool: (.*clean)$/m ? "$tool: $1" : $tool) or diag($output);
	}
}

SKIP:
{
	# the names of types come from the debug information, and so from the headers
	skip 'the layout is that of a build for PostgreSQL 15', 1 if `"\$PG_CONFIG" --version` !~ /^PostgreSQL 15/;
	my $output = `test/bin/format -n 2>&1`;
	my $status = $? >> 8;

	skip $output =~ s/^format: |\s+$//gr, 1 if $status == 3;
	is($status, 0, 'the layout is that of pgindent: make format') or diag($output);
}

done_testing();
