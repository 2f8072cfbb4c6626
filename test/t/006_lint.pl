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

done_testing();
