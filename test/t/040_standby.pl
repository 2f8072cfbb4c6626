# A sale that moves to its standby half done: nothing is issued there before
# the promotion, and afterwards exactly what was left.
use strict;
use warnings;

use CouponKafka;
use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $settings = <<'END';
coupon.databases = 'postgres'
coupon.sweep_interval = 50ms
END
my $primary = new_server('primary', $settings, allows_streaming => 1);

$primary->safe_psql('postgres', q{
	SELECT coupon_campaign_create('plain', 2000);
	SELECT coupon_campaign_create('coded', 0);
	SELECT coupon_codes_import(2, ARRAY(SELECT 'C' || g FROM generate_series(1, 500) g));
	SELECT coupon_campaign_create('due', 5, policy => '{"usage_period_days": 1}')});
$primary->backup('base');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

# half the sale, on the primary
$primary->pgbench('-n -c 8 -j 2 -t 100', 0, [qr/processed: 800\/800/], [qr/^$/],
	'half a sale on the primary', { '040_half' => q{
		\set u random(1, 100000)
		SELECT coupon_issue(1, :u);
		SELECT coupon_issue(2, :u % 1000);
	} });
$primary->safe_psql('postgres', q{SELECT coupon_issue(3, 'alice'), coupon_redeem(3, 'alice', 'o')});
$primary->wait_for_catchup($standby);

# this session lives through the promotion
my $session = $standby->background_psql('postgres', on_error_stop => 0);
for my $call ("coupon_issue(1, 'x')", "coupon_issue_many(1, '{x,y}'::text[])",
	"coupon_redeem(3, 'alice', 'o2')", "coupon_revoke(1, 'x', 'r')", "coupon_campaign_create('x', 1)",
	"coupon_campaign_add_stock(1, 1)", "coupon_expire()", "coupon_hold(1, 5, 'x')",
	"coupon_hold_many(1, '{5,6}', 'x')", "coupon_hold_any(1, 'x')", "coupon_confirm(3, 1, 'alice', 'p')",
	"coupon_release(3, 1, 'alice')", "coupon_hold_expire()", "coupon_emit('t', 'k', 'my.type', '{}')")
{
	like(sql_error($standby, 'postgres', "SELECT $call;"),
		qr/ERROR:  (25006|55000|0A000): .*(recovery|read-only|standby)/s, "standby: $call");
}
$session->query("SELECT coupon_issue(1, 'x')");
like($session->{stderr}, qr/recovery|read-only|standby/, 'standby: a session that stays');
$session->{stderr} = '';
is($standby->safe_psql('postgres', 'SELECT * FROM coupon_verify()'), '', 'standby: coupon_verify works');
is($standby->safe_psql('postgres', q{SELECT count(*) FILTER (WHERE status = 'ISSUED') FROM coupon_units(3)}),
	'1', 'standby: coupon_units works');
is( $standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'coupon %'}),
	'0', 'standby: no workers');
ok(await_true($primary, 'postgres', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'coupon sweeper'}),
	'primary: a sweeper');

# the primary dies in the middle of a transaction that holds units
my $lost = $primary->background_psql('postgres');
$lost->query_safe(q{BEGIN; SELECT count(*) FROM coupon_issue_many(1, ARRAY(SELECT 'lost' || g FROM generate_series(1, 50) g))});
$primary->safe_psql('postgres', 'SELECT pg_switch_wal()');
$primary->wait_for_catchup($standby);
my $before = $primary->safe_psql('postgres', 'SELECT count(*) FROM coupon.issuance WHERE campaign_id IN (1, 2)');
$primary->stop('immediate');
eval { $lost->quit };
$standby->promote;

is($standby->safe_psql('postgres', 'SELECT count(*) FROM coupon.issuance WHERE campaign_id IN (1, 2)'),
	$before, 'promoted with what was issued');
is($session->query_safe(q{SELECT status FROM coupon_issue(1, 'x')}), 'issued', 'the session that stayed can issue now');
$session->quit;
conserved($standby, 'postgres', 'promoted');
is($standby->safe_psql('postgres', q{SELECT status, order_ref FROM coupon_redeem(3, 'alice', 'o2')}),
	'already_redeemed|o', 'what was redeemed stays so');
my $first = $standby->safe_psql('postgres', 'SELECT user_id, serial FROM coupon.issuance WHERE campaign_id = 1 ORDER BY issued_at LIMIT 1');
my ($user, $serial) = split /\|/, $first;
is($standby->safe_psql('postgres', "SELECT status, serial FROM coupon_issue(1, '$user')"),
	"already_issued|$serial", 'a retry on the promoted server gets the original answer');

# demand above stock
$standby->pgbench('-n -c 8 -j 2 -t 400', 0, [qr/processed: 3200\/3200/], [qr/^$/],
	'the other half on the promoted server', { '040_rest' => q{
		\set u random(200000, 300000)
		SELECT coupon_issue(1, :u);
		SELECT coupon_issue(2, :u);
	} });
settle($standby, 'postgres');
is( $standby->safe_psql('postgres', q{
		SELECT campaign_id, count(*), count(DISTINCT serial) FROM coupon.issuance
		WHERE campaign_id IN (1, 2) GROUP BY 1 ORDER BY 1}),
	"1|2000|2000\n2|500|500", 'exactly the stock is issued');
is( $standby->safe_psql('postgres', q{SELECT DISTINCT status FROM generate_series(1, 2) c, coupon_issue(c, 'late')}),
	'sold_out', 'then sold out');
conserved($standby, 'postgres', 'sold out');

# its workers have started
$standby->safe_psql('postgres', q{
	SELECT coupon_issue(3, 'bob');
	UPDATE coupon.issuance SET expires_at = now() - interval '1 s' WHERE user_id = 'bob'});
ok(await_true($standby, 'postgres', q{SELECT state = 'expired' FROM coupon.issuance WHERE user_id = 'bob'}),
	'the promoted server sweeps');

SKIP:
{
	my $missing = kafka_tools_missing();
	skip $missing, 3 if $missing;

	my @events = split /\n/, $standby->safe_psql('postgres', 'SELECT id FROM coupon.outbox ORDER BY id');
	my $broker = mock_broker(topics => { 'coupon-issued' => 12 });
	$standby->append_conf('postgresql.conf', "coupon.kafka_brokers = '" . $broker->bootstrap . "'");
	$standby->reload;
	ok(await_true($standby, 'postgres', q{SELECT unpublished = 0 AND broker = 'up' FROM coupon_outbox_status()}),
		'the promoted server publishes');
	is_deeply([ sort map { $_->{id} } @{ consume($broker->bootstrap, 'coupon-issued') } ], \@events,
		'every event of the old server and of the new one, once');
	$standby->append_conf('postgresql.conf', "coupon.kafka_brokers = ''");
	$standby->reload;
	ok(await_true($standby, 'postgres', q{SELECT broker = 'off' FROM coupon_outbox_status()}), 'until it is told not to');
	$broker->stop;
}

$standby->stop;
server_log_is_clean($standby, 'promotion');
done_testing();
