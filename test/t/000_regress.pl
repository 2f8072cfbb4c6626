# test/sql/*.sql against expected/*.out, by pg_regress.
use strict;
use warnings;

use PgRegress;
use Test::More;

run_suite('regress', $ENV{PG_REGRESS}, [], [ sort glob('test/sql/*.sql') ]);
done_testing();
