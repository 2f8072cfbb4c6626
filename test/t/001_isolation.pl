# test/specs/*.spec against expected/*.out, by pg_isolation_regress: two or
# three sessions whose steps come in a given order.
use strict;
use warnings;

use PgRegress;
use Test::More;

# workers decide what the steps of the others are to decide
my @workers = 'test/specs/grouped.spec';
my @alone = grep { my $spec = $_; !grep { $_ eq $spec } @workers } sort glob('test/specs/*.spec');

run_suite('isolation', $ENV{PG_ISOLATION_REGRESS}, [], \@alone);
run_suite('isolation_workers', $ENV{PG_ISOLATION_REGRESS}, [], \@workers, "coupon.databases = 'isolation_regression'\nmax_worker_processes = 16\n");
done_testing();
