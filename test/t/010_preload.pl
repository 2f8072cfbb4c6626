# The library not preloaded: whatever needs shared memory says which line to
# add; tables, triggers and coupon_verify work, so that a dump can be restored.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('plain');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION coupon');
pass('CREATE EXTENSION without preloading');

my %call = (
	coupon_campaign_create => [q{coupon_campaign_create('a', 1)}],
	coupon_campaign_add_stock => [q{coupon_campaign_add_stock(1, 1)}],
	coupon_campaign_pause => [q{coupon_campaign_pause(1)}],
	coupon_campaign_resume => [q{coupon_campaign_resume(1)}],
	coupon_campaign_close => [q{coupon_campaign_close(1)}],
	coupon_campaign_alter => [q{coupon_campaign_alter(1, 'b')}],
	coupon_campaign_require_room => [q{coupon_campaign_require_room(1, NULL)}],
	coupon_campaign_reduce_stock => [q{coupon_campaign_reduce_stock(1, 1)}],
	coupon_units_withdraw => [q{coupon_units_withdraw(1, '{1}')}],
	units_cut => [q{coupon.units_cut(1, 1)}],
	units_leave => [q{coupon.units_leave(1, '{1,1}')}],
	units_arrive => [q{coupon.units_arrive(1, '{1,1}', 1, true)}],
	units_born => [q{coupon.units_born(1, '{1,1}', 1)}],
	units_lose => [q{coupon.units_lose(1, '{1,1}')}],
	node_confirmed => [q{coupon.node_confirmed()}],
	node_set_confirmed => [q{coupon.node_set_confirmed(true)}],
	stock_here => [q{coupon.stock_here(1)}],
	stock_wants => [q{coupon.stock_wants('{1}')}],
	stock_fetched => [q{coupon.stock_fetched(1, false)}],
	stock_set_gone => [q{coupon.stock_set_gone(1, '1.1')}],
	campaign_create_as => [q{coupon.campaign_create_as('n', 1, 1, NULL, NULL, '{}', 't', 1000000001)}],
	campaign_end => [q{coupon.campaign_end(1, true)}],
	campaign_ending => [q{coupon.campaign_ending(1)}],
	campaign_end_holds => [q{coupon.campaign_end_holds(1, '{1}')}],
	coupon_codes_import => [q{coupon_codes_import(1, '{a,b}')}],
	coupon_codes_generate => [q{coupon_codes_generate(1, null, 2)}],
	coupon_units_import => [q{coupon_units_import(1, '{a,b}')}],
	coupon_hold => [ q{coupon_hold(1, 1, 'a')}, q{coupon_hold(1, 1, 1)} ],
	coupon_hold_many => [ q{coupon_hold_many(1, '{1,2}', 'a')}, q{coupon_hold_many(1, '{1,2}', 1)} ],
	coupon_hold_any => [ q{coupon_hold_any(1, 'a')}, q{coupon_hold_any(1, 1)} ],
	coupon_confirm => [q{coupon_confirm(1, 1, 'a', 'p')}],
	coupon_release => [q{coupon_release(1, 1, 'a')}],
	coupon_hold_expire => [q{coupon_hold_expire()}],
	coupon_issue => [ q{coupon_issue(1, 'a')}, q{coupon_issue(1, 1)} ],
	coupon_issue_grouped => [ q{coupon_issue_grouped(1, 'a')}, q{coupon_issue_grouped(1, 1)} ],
	coupon_group_status => [q{coupon_group_status()}],
	coupon_issue_many => [q{coupon_issue_many(1, '{a,b}'::text[])}],
	coupon_redeem => [q{coupon_redeem(1, 'a', 'o')}],
	coupon_redeem_cancel => [q{coupon_redeem_cancel(1, 'a', 'o')}],
	coupon_revoke => [q{coupon_revoke(1, 'a', 'r')}],
	coupon_expire => [q{coupon_expire()}],
	coupon_emit => [q{coupon_emit('t', 'k', 'my.type', '{}')}],
	coupon_request => [q{coupon_request(1, 'a'::text)}, q{coupon_request(1, 1)}],
	coupon_request_status => [q{coupon_request_status(gen_random_uuid())}],
	coupon_request_status_of => [q{coupon_request_status_of(1, 'a')}],
	coupon_request_wait => [q{coupon_request_wait(gen_random_uuid())}],
	coupon_request_queue => [q{coupon_request_queue()}],
	coupon_request_decide => [q{coupon_request_decide()}],
	coupon_queue_join => [q{coupon_queue_join('r', 'a')}],
	coupon_queue_position => [q{coupon_queue_position('1.1.00000000000000000000000000000000')}],
	coupon_queue_require => [q{coupon_queue_require('1.1.00000000000000000000000000000000')}],
	coupon_queue_leave => [q{coupon_queue_leave('1.1.00000000000000000000000000000000')}],
	coupon_queue_serve => [q{coupon_queue_serve()}],
	coupon_room_counts => [q{coupon_room_counts(1)}],
	coupon_status => [q{coupon_status(1)}],
	coupon_stat_reset => [q{coupon_stat_reset()}],
	stat_campaigns => [q{coupon.stat_campaigns('{1}')}],
	(map { $_ => ["coupon.$_()"] } qw(stat_since stat_calls stat_errors stat_ways stat_latencies stat_batches stat_tallies
			stat_slots stat_workers stat_front_workers stat_clock_ahead)),
	coupon_http_status => [q{coupon_http_status()}],
	publisher_state => [q{coupon.publisher_state(true)}],
	coupon_dead_letter_replay => [q{coupon_dead_letter_replay()}],
	coupon_dead_letter_discard => [q{coupon_dead_letter_discard()}]);

my @functions = split /\n/, $node->safe_psql('postgres', q{
	SELECT DISTINCT proname FROM pg_proc p JOIN pg_language l ON l.oid = prolang
	WHERE lanname = 'c' AND prorettype <> 'trigger'::regtype
	  AND probin LIKE '%coupon' AND proname !~ '^(coupon_units|route_check|route_function|http_.*|health_.*|warn_without_workers|refusal_forget|erase_.*|coupon_slot|coupon_home|slot_of|slots_settle|peers_ask)$' ORDER BY 1});
is_deeply(\@functions, [ sort keys %call ], 'every C function is called here');

# in a campaign that exists, so that nothing else can be the reason
$node->safe_psql('postgres', q{
	INSERT INTO coupon.campaign (name, per_user_limit, policy, topic) VALUES ('a', 1, '{}', 't');
	INSERT INTO coupon.shard VALUES (1, 0, 1, 10);
	INSERT INTO coupon.dead_letter VALUES (gen_random_uuid(), 't', 'k', 'my.type', '{}', 'no reason', 1, now())});

for my $function (sort keys %call)
{
	for my $call (@{ $call{$function} })
	{
		my $error = sql_error($node, 'postgres', "SELECT * FROM $call;");

		like($error, qr/ERROR:  UC003: .*HINT: .*shared_preload_libraries = 'coupon'/s, $call);
	}
}

is($node->safe_psql('postgres', 'SELECT coupon_metrics()'),
	"# HELP coupon_up Whether this server sells: 0 on a standby, and where coupon is not preloaded.\n# TYPE coupon_up gauge\ncoupon_up 0\n", 'coupon_metrics() says that nothing is sold');

# over HTTP: come again
load_example($node, 'postgres', "sources/$_.sql") for qw(roles http api);
is($node->safe_psql('postgres', qq{SELECT coupon_api.$_('u', 'a') #>> '{error,code}', current_setting('response.status'), current_setting('response.headers')}),
	'unavailable|503|[{"Retry-After": "1"}]', "coupon_api.$_ answers 503")
  for qw(issue_sync issue_optimistic);

# tables and their triggers
$node->safe_psql('postgres', q{
	INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy)
	SELECT 1, g, 0, 1, now(), 'user' || g, 'issued', '{}' FROM generate_series(1, 4) g;
	UPDATE coupon.issuance SET state = 'expired' WHERE serial = 3;
	DELETE FROM coupon.issuance WHERE serial = 4;
	UPDATE coupon.campaign SET paused = true;
	UPDATE coupon.campaign SET paused = false});
is($node->safe_psql('postgres', 'SELECT count(*) FROM coupon.issuance'), '3', 'tables can be written');
is($node->safe_psql('postgres', 'SELECT * FROM coupon_verify()'), '', 'coupon_verify works');
is($node->safe_psql('postgres', q{SELECT string_agg(status, ' ') FROM coupon_units(1)}),
	'ISSUED ISSUED ISSUED FREE FREE FREE FREE FREE FREE FREE', 'coupon_units works');
like(sql_error($node, 'postgres', q{
		INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy)
		VALUES (1, 11, 0, 1, now(), 'x', 'issued', '{}');}),
	qr/23514: serial is outside/, 'the guards stand');

# loaded late it is no better, and does no harm
like(sql_error($node, 'postgres', "LOAD 'coupon'; SELECT coupon_issue(1, 'a');"),
	qr/UC003/, 'after LOAD');
like(sql_error($node, 'postgres', "SET session_preload_libraries = 'coupon';
		\\c\nSELECT coupon_issue(1, 'a');"),
	qr/UC003/, 'session_preload_libraries is not enough');

# the hint is right
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'coupon'");
$node->restart;
is($node->safe_psql('postgres', q{SELECT count(*), min(status), max(status)
		FROM generate_series(1, 10) g, coupon_issue(1, 'new' || g)}),
	'10|issued|sold_out', 'with the line added, the same sale goes on');
is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT serial) FROM coupon.issuance'),
	'10|10', 'to the last unit');

$node->stop;
done_testing();
