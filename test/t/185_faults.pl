# Fault points (src/base/fault.h): whatever fails at one, the next call finds
# the sale as it was before, or as the commit left it.
use strict;
use warnings;

use CouponFault;
use CouponTest;
use PostgreSQL::Test::Utils;
use Test::More;

# nothing of it is in a build for users
unlike(slurp_file(slurp_dir_of_release() . '/coupon.so'), qr/coupon.fault|fault point/, 'a release has no fault points');

sub slurp_dir_of_release
{
	chomp(my $directory = `pg_config --pkglibdir`);
	return $directory;
}

my $node = fault_server('main', '');

sub sql { return $node->safe_psql('postgres', $_[0]); }

sql(q{SELECT coupon_campaign_create('sale', 1000)});

# memory that runs out at any allocation of a call
for my $skip (0 .. 1000)
{
	my ($status) = $node->psql('postgres', qq{
		SELECT fault.arm('allocation', 'memory', skip => $skip, pid => pg_backend_pid());
		SELECT coupon_issue(1, 'memory')});

	next if $status != 0 && $skip < 1000;
	cmp_ok($skip, '>', 5, "$skip allocations failed, one after another");
	is(sql('SELECT count(*) FROM coupon.issuance'), 1, 'and one unit was issued');
	last;
}
conserved($node, 'postgres', 'no memory');

arm($node, 'commit_unsettled', 'kill');
$node->psql('postgres', q{SELECT coupon_issue(1, 'killed')});
await_true($node, 'postgres', q{SELECT status = 'already_issued' FROM coupon_issue(1, 'killed')});
conserved($node, 'postgres', 'killed after its commit');

$node->stop;
done_testing();
