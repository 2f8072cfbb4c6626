# A publication for all tables takes coupon's, too: the sale goes on, its
# events are published and its sweeps done, and the subscriber has the same sale.
use strict;
use warnings;

use CouponKafka;
use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = !kafka_tools_missing();
my $broker = $kafka ? mock_broker(topics => { 'coupon-issued' => 12 }) : undef;
my $brokers = $kafka ? $broker->bootstrap : '';
my $node = new_server('main', <<"END", allows_streaming => 'logical');
coupon.kafka_brokers = '$brokers'
coupon.hold_keep = 1d
END
my $copy = new_server('copy', "coupon.databases = ''\n");

sub sql { return $node->safe_psql('postgres', $_[0]) }

sql('CREATE PUBLICATION everything FOR ALL TABLES');
my $publisher = 'host=' . $node->host . ' port=' . $node->port . ' dbname=postgres';
$copy->safe_psql('postgres', "CREATE SUBSCRIPTION everything CONNECTION '$publisher' PUBLICATION everything");
poll_until('the first copy', sub {
	$copy->safe_psql('postgres', q{SELECT count(*) FILTER (WHERE srsubstate NOT IN ('r', 's')) FROM pg_subscription_rel}) eq '0' });

sql(q{SELECT coupon_campaign_create('plain', 100, 2, policy => '{"usage_period_days": 1}')});
sql(q{SELECT coupon_campaign_create('hall', 0, 5); SELECT coupon_units_import(2, '{S1,S2,S3,S4,S5}')});
sql(q{SELECT coupon_campaign_create('coded', 0); SELECT coupon_codes_generate(3, NULL, 20)});

is(sql(q{SELECT string_agg(status, ' ') FROM coupon_issue_many(1, '{a,b,c,d}'::text[])}), 'issued issued issued issued', 'issue');
is(sql(q{SELECT status FROM coupon_issue(3, 'a', 'key')}), 'issued', 'issue a code');
is(sql(q{SELECT status FROM coupon_redeem(1, 'a', 'order')}), 'redeemed', 'redeem');
is(sql(q{SELECT status FROM coupon_redeem_cancel(1, 'a', 'order')}), 'cancelled', 'cancel');
is(sql(q{SELECT coupon_revoke(1, 'b', 'test')}), 't', 'revoke');

is(sql(q{SELECT status FROM coupon_hold(2, 1, 'pays')}), 'held', 'hold');
is(sql(q{SELECT status FROM coupon_confirm(2, 1, 'pays', 'ref')}), 'confirmed', 'confirm');
is(sql(q{SELECT status FROM coupon_hold(2, 2, 'leaves')}), 'held', 'hold another');
is(sql(q{SELECT coupon_release(2, 2, 'leaves')}), 't', 'release');
is(sql(q{SELECT string_agg(status, ' ') FROM coupon_hold_many(2, '{3,4,5}', 'late', '1 ms')}), 'held held held', 'hold many');
poll_until('the sweeper to take the holds back', sub { sql('SELECT count(*) FROM coupon.lapsed_hold') eq '3' });
is(sql(q{SELECT status FROM coupon_hold(2, 3, 'next')}), 'held', 'a swept unit is held again');
is(sql(q{SELECT status FROM coupon_confirm(2, 3, 'late', 'too late')}), 'lost', 'a late payment is refused');
is(sql(q{SELECT status FROM coupon_confirm(2, 4, 'late', 'in time')}), 'confirmed', 'one whose unit is free is not');
is(sql(q{SELECT coupon_revoke(2, 'late', 'test', 4)}), 't', 'and is revoked');

sql(q{UPDATE coupon.issuance SET expires_at = now() - interval '1 s' WHERE campaign_id = 1 AND user_id = 'c'});
poll_until('the sweeper to expire', sub { sql(q{SELECT state FROM coupon.issuance WHERE campaign_id = 1 AND user_id = 'c'}) eq 'expired' });
# a worker that begins looks for what can be forgotten at once
$node->append_conf('postgresql.conf', "coupon.hold_keep = 1s\n");
$node->restart;
poll_until('the sweeper to forget', sub { sql('SELECT count(*) FROM coupon.lapsed_hold') eq '0' });

sql(q{SELECT coupon_request(1, 'q' || g) FROM generate_series(1, 10) g});
poll_until('the issuer', sub { sql(q{SELECT count(*) FROM coupon.issuance WHERE user_id LIKE 'q%'}) eq '10' });

sql(q{SELECT coupon_room_create('room', 2)});
my $token = sql(q{SELECT token FROM coupon_queue_join('room', 'a')});
poll_until('to be admitted', sub { sql("SELECT status FROM coupon_queue_position('$token')") eq 'ADMITTED' });
is(sql("SELECT coupon_queue_leave('$token')"), 't', 'a ticket ends');
is(sql(q{SELECT coupon_room_pause('room')}), 't', 'a room changes');
is(sql(q{SELECT coupon_campaign_add_stock(1, 10)}), '110', 'a campaign grows');

sql(q{INSERT INTO coupon.dead_letter VALUES (gen_random_uuid(), 't', 'k', 'y', '{}', 'test', 1, now())});
SKIP:
{
	skip kafka_tools_missing(), 2 unless $kafka;
	poll_until('everything to be published', sub { sql('SELECT unpublished FROM coupon_outbox_status()') eq '0' });
	is(sql('SELECT dead, last_error FROM coupon_outbox_status()'), '0|', 'the outbox is published');
	is(sql('SELECT count(*) FROM coupon.outbox'), '0', 'and empty');
}
sql(q{SELECT coupon_campaign_close(3), coupon_route_drop('POST', '/rooms/{room}/tickets')});
conserved($node, 'postgres', 'publisher');

# ---- the subscriber ----

$node->wait_for_catchup('everything');
for my $table ('campaign ORDER BY campaign_id', 'shard ORDER BY campaign_id, shard', 'unit ORDER BY campaign_id, serial',
	'issuance ORDER BY campaign_id, serial', 'lapsed_hold', 'request_key', 'room ORDER BY room_id', 'dead_letter ORDER BY id',
	'request ORDER BY request_id', 'ticket ORDER BY room_id, number', 'http_route ORDER BY path, method')
{
	my ($name) = split / /, $table;

	is($copy->safe_psql('postgres', "SELECT * FROM coupon.$table"), sql("SELECT * FROM coupon.$table"), "the subscriber has the same $name");
}
conserved($copy, 'postgres', 'subscriber');

$copy->safe_psql('postgres', 'DROP SUBSCRIPTION everything');
$copy->stop;
$node->stop;
server_log_is_clean($node, 'publisher');
server_log_is_clean($copy, 'subscriber');
done_testing();
