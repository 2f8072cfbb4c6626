# test/specs/*.spec against expected/*.out, by pg_isolation_regress: two or
# three sessions whose steps come in a given order.
use strict;
use warnings;

use PgRegress;

run_suite('isolation', $ENV{PG_ISOLATION_REGRESS}, [], [ sort glob('test/specs/*.spec') ]);
