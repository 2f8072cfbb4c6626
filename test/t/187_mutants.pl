# The bugs of test/mutants/ can be planted in the sources as they are, and each
# says what it breaks and which tests are to catch it.  make mutants plants them.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

my @patches = glob 'test/mutants/*.patch';

cmp_ok(scalar @patches, '>=', 15, 'at least 15 mutants');
foreach my $patch (@patches)
{
	my $content = slurp_file($patch);

	like($content, qr/\A\w[^\n]+\.\nCaught by: test\S+( test\S+)*\n\ndiff /, "$patch says what it is");
	is(join(' ', grep { !-e } split / /, ($content =~ /^Caught by: (.*)$/m)[0]), '', '  and names tests that are there');
  SKIP:
	{
		skip 'skipped: no git', 1 if system('command -v git >/dev/null 2>&1') != 0;
		is(`git apply --check "$patch" 2>&1`, '', '  and can be planted: make it anew where the code has changed');
	}
}

done_testing();
