# test/sql/tap/*.sql, each a pgTAP test in a transaction that is rolled back.
# pg_prove runs them in one database that has the extensions already.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my @files = sort glob('test/sql/tap/*.sql');
plan skip_all => 'no pgTAP tests' unless @files;

my $node = PostgreSQL::Test::Cluster->new('pgtap');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'coupon'\n");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pgtap; CREATE EXTENSION coupon;');
load_example($node, 'postgres', "sources/$_.sql") for qw(roles http api);

# One pg_prove for each file, so that each has its own line here.
foreach my $file (@files)
{
	my $output = '';
	my $ok = IPC::Run::run(
		[
			'pg_prove', '--verbose', '--host', $node->host, '--port', $node->port,
			'--dbname', 'postgres', $file
		],
		'<', \undef, '>', \$output, '2>&1');

	ok($ok, "pgTAP: $file");
	diag($output) unless $ok;
	note($output) if $ok;
}

is($node->safe_psql('postgres', 'SELECT count(*) FROM coupon.campaign'),
	'0', 'pgTAP: the tests leave no campaign');

$node->stop;
done_testing();
