# Codes cost the same each, whatever ANALYZE knew of the table when it was
# nearly empty: ten times as many take about ten times as long.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', "autovacuum = off\n");

for my $call (
	q{SELECT coupon_codes_generate(CAMPAIGN, NULL, COUNT)},
	q{SELECT coupon_codes_import(CAMPAIGN, ARRAY(SELECT 'code ' || g FROM generate_series(1, COUNT) g))},
	q{SELECT coupon_units_import(CAMPAIGN, ARRAY(SELECT 'seat ' || g FROM generate_series(1, COUNT) g))})
{
	my ($function) = $call =~ /(coupon_\w+)/;
	my %time;

	my $campaign = 0;

	$node->safe_psql('postgres', 'DROP EXTENSION coupon; CREATE EXTENSION coupon');
	for my $count (2000, 20000)
	{
		my $sql = $call;
		my $first = $function eq 'coupon_units_import' ? 'coupon_units_import' : 'coupon_codes_import';

		$campaign++;
		$sql =~ s/CAMPAIGN/$campaign/;
		$sql =~ s/COUNT/$count/;
		$node->safe_psql('postgres', "SELECT coupon_campaign_create('codes', 0); SELECT $first($campaign, '{a}')");
		$node->safe_psql('postgres', 'ANALYZE coupon.unit') if $campaign == 1;
		$time{$count} = cpu_seconds($node, $sql);
		is($node->safe_psql('postgres', "SELECT count(*), max(serial) FROM coupon.unit WHERE campaign_id = $campaign"),
			($count + 1) . '|' . ($count + 1), "$function: $count");
	}
	note("$function: $time{2000} s for 2,000, $time{20000} s for 20,000");
	cmp_ok($time{20000}, '<', 35 * $time{2000}, "$function: the time is linear");
}

$node->stop;
server_log_is_clean($node, 'codes');
done_testing();
