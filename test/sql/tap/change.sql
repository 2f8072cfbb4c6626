-- Changing a sale: its rules, and units taken off it; a room taken away.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL TimeZone = 'UTC';
SET LOCAL coupon.sold_out_wait = 0;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT * FROM no_plan();

CREATE FUNCTION pg_temp.tally(bigint) RETURNS text LANGUAGE sql AS
	$$ SELECT concat_ws(' ', stock, issued, held, in_flight, remaining) FROM coupon_status($1) $$;
CREATE FUNCTION pg_temp.statuses(bigint, text[]) RETURNS text LANGUAGE sql AS
	$$ SELECT string_agg(status, ' ') FROM coupon_issue_many($1, $2) $$;
CREATE FUNCTION pg_temp.event(bigint) RETURNS json LANGUAGE sql AS
	$$ SELECT payload FROM coupon.outbox WHERE key = $1::text AND type ~ '^coupon.campaign_' ORDER BY id DESC LIMIT 1 $$;
CREATE FUNCTION pg_temp.events(bigint) RETURNS bigint LANGUAGE sql AS
	$$ SELECT count(*) FROM coupon.outbox WHERE key = $1::text AND type ~ '^coupon.campaign_' $$;

-- rules
SELECT coupon_campaign_create('before', 10, 3, policy => '{"kind": "FIXED", "amount": 1000, "usage_period_days": 1}', topic => 'old') AS c \gset
SELECT is(pg_temp.statuses(:c, '{a,a,a,b,b}'), 'issued issued issued issued issued', 'under the old rules');
SELECT ok(coupon_campaign_alter(:c, name => 'after', per_user_limit => 2), 'the limit is lowered');
SELECT results_eq(format('SELECT name, per_user_limit, topic FROM coupon.campaign WHERE campaign_id = %s', :c), $$VALUES ('after', 2, 'old')$$, 'what was not named is as it was');
SELECT is(pg_temp.events(:c), 2::bigint, 'one event');
SELECT is(pg_temp.event(:c)::jsonb - 'at' - 'campaign_id',
	'{"name": "after", "per_user_limit": 2, "policy": {"kind": "FIXED", "amount": 1000, "usage_period_days": 1}, "topic": "old", "stock": 10}', 'it has the rules as they are now');
SELECT ok(NOT coupon_campaign_alter(:c, name => 'after', per_user_limit => 2), 'nothing is changed twice');
SELECT is(pg_temp.events(:c), 2::bigint, 'and that has no event');
SELECT is(pg_temp.statuses(:c, '{a,b,c,c,c}'), 'already_issued already_issued issued issued already_issued', 'the very next call goes by it');
SELECT is((SELECT string_agg(status, ' ') FROM generate_series(1, 4) g, coupon_redeem(:c, 'a', 'o' || g)), 'redeemed redeemed redeemed already_redeemed', 'all that were issued before are redeemed');
UPDATE coupon.issuance SET expires_at = now() WHERE campaign_id = :c AND user_id = 'b';
SELECT is(coupon_expire(), 2::bigint, 'and expire');
SELECT is((SELECT count(*) FROM coupon_verify(:c)), 0::bigint, 'and break no law');
SELECT ok(coupon_campaign_alter(:c, per_user_limit => 4), 'the limit is raised');
SELECT is(pg_temp.statuses(:c, '{a,a}'), 'issued already_issued', 'and holds at once');
SELECT ok(coupon_campaign_alter(:c, policy => '{"kind": "RATE", "rate": 5}', topic => 'new'), 'policy and topic');
SELECT is((SELECT topic FROM coupon.outbox WHERE key = :'c' ORDER BY id DESC LIMIT 1), 'old', 'those who read the old topic are told of the new one');
SELECT is(pg_temp.statuses(:c, '{d}'), 'issued', 'issued under the new policy');
SELECT results_eq(format('SELECT i.policy->>''kind'', o.topic FROM coupon.issuance i, coupon.outbox o WHERE i.campaign_id = %s AND i.user_id = ''d'' AND o.key = ''d'' AND o.payload->>''campaign_id'' = ''%1$s''', :c), $$VALUES ('RATE', 'new')$$, 'which it got, and its event the new topic');
SELECT is((SELECT DISTINCT policy->>'kind' FROM coupon.issuance WHERE campaign_id = :c AND user_id = 'a' AND state = 'redeemed'), 'FIXED', 'who was promised the old one has it');
SELECT ok(coupon_campaign_alter(:c, closes_at => clock_timestamp()), 'it is over');
SELECT is(pg_temp.statuses(:c, '{e}'), 'closed', 'closed');
SELECT ok(coupon_campaign_alter(:c, closes_at => 'infinity'), 'and goes on, with no end');
SELECT is((SELECT closes_at FROM coupon.campaign WHERE campaign_id = :c), NULL, 'which is null');
SELECT ok(coupon_campaign_alter(:c, opens_at => 'tomorrow'), 'it opens later');
SELECT is(pg_temp.statuses(:c, '{e}'), 'not_open', 'not open');
SELECT ok(coupon_campaign_alter(:c, opens_at => '-infinity'), 'or at once');
SELECT is(pg_temp.statuses(:c, '{e}'), 'issued', 'open');
SELECT is(pg_temp.event(:c)->>'opens_at', NULL, 'its event knows no beginning');
SELECT ok(coupon_campaign_alter(:c, opens_at => 'infinity'), 'or never');
SELECT is(pg_temp.statuses(:c, '{e}'), 'not_open', 'not open');
SELECT is(pg_temp.event(:c)->>'opens_at', 'infinity', 'and its event does not look like that of an open sale');
SELECT ok(coupon_campaign_alter(:c, opens_at => '-infinity', closes_at => '-infinity'), 'it is over');
SELECT is(pg_temp.event(:c)->>'closes_at', '-infinity', 'and its event says so');
SELECT ok(coupon_campaign_alter(:c, closes_at => 'infinity'), 'and goes on');
SELECT is((pg_temp.event(:c)::jsonb) ?| '{opens_at,closes_at}', false, 'with no bounds');
SELECT throws_ok(format('SELECT coupon_campaign_alter(%s, opens_at => ''2030-01-02'', closes_at => ''2030-01-01'')', :c), '22023', 'campaign would close before it opens');

-- put off when some have a unit already: they are told so, whatever way they ask
SELECT coupon_campaign_create('put off', 10) AS c \gset
SELECT is(pg_temp.statuses(:c, '{a}'), 'issued', 'an open sale');
SELECT is((SELECT status FROM coupon_hold_any(:c, 'h', '1 hour')), 'held', 'and a hold in it');
SELECT ok(coupon_campaign_alter(:c, opens_at => 'infinity'), 'is put off');
SELECT is((SELECT status || ' ' || (serial IS NOT NULL) FROM coupon_issue(:c, 'a')), 'already_issued true', 'who has a unit is told which');
SELECT is(pg_temp.statuses(:c, '{a,b,h}'), 'already_issued not_open held', 'so are several');
SELECT is((SELECT string_agg(status, ' ' ORDER BY u) FROM unnest('{a,b,h}'::text[]) u, coupon_hold_any(:c, u, '1 hour')),
	'already_issued not_open already_held', 'and those who hold');
SELECT is((SELECT string_agg(outcome, ' ' ORDER BY u) FROM unnest('{a,b,h}'::text[]) u, coupon_request(:c, u)),
	'already_issued not_open held', 'and those who request');

-- stock
SELECT coupon_campaign_create('reduced', 200, 10) AS c \gset
SELECT is(pg_temp.statuses(:c, '{a,b,c}'), 'issued issued issued', 'three are issued');
SELECT is((SELECT status FROM coupon_hold_any(:c, 'h', '1 h')), 'held', 'one is held');
SELECT is(coupon_campaign_reduce_stock(:c, 100), 100::bigint, 'a hundred are taken away');
SELECT is(pg_temp.tally(:c), '100 0 0 4 96', 'which are no stock any more; what this transaction has issued is in flight');
SELECT is(pg_temp.event(:c)::jsonb - 'at' - 'campaign_id', '{"units": 100, "stock": 100}', 'the event says so');
SELECT is((SELECT count(*) FROM coupon_units(:c)), 100::bigint, 'the others are the units');
SELECT throws_ok(format('SELECT coupon_campaign_reduce_stock(%s, 97)', :c), 'UC009', 'too few units of the campaign are free', 'no more than are free');
SELECT is(pg_temp.tally(:c), '100 0 0 4 96', 'an error takes none');
SAVEPOINT a;
SELECT is(coupon_campaign_reduce_stock(:c, 96), 4::bigint, 'all of the rest');
SELECT is(pg_temp.statuses(:c, '{d}'), 'sold_out', 'sold out');
ROLLBACK TO a;
SELECT is(pg_temp.tally(:c), '100 0 0 4 96', 'a rollback gives them back');
SELECT is((SELECT count(*) FROM coupon_issue_many(:c, ARRAY(SELECT 'u' || g FROM generate_series(1, 100) g)) WHERE status = 'issued'), 96::bigint, 'exactly the rest is sold');
SELECT ok(coupon_revoke(:c, 'u1', 'r'), 'one comes back');
SELECT is(coupon_campaign_add_stock(:c, 5), 105::bigint, 'stock is added behind');
SELECT is((SELECT count(*) FROM coupon_verify(:c)), 0::bigint, 'no law is broken');
SELECT throws_ok(format('UPDATE coupon.shard SET withdrawn = NULL WHERE campaign_id = %s', :c), '0A000', NULL, 'not by hand');

-- a hold that has run out is free
SELECT coupon_campaign_create('lapsed', 2, 2) AS c \gset
SELECT is((SELECT string_agg(status, ' ') FROM generate_series(1, 2) g, coupon_hold(:c, g, 'h', '1 ms')), 'held held', 'holds');
SELECT pg_sleep(0.005) \g /dev/null
SELECT is(coupon_campaign_reduce_stock(:c, 1), 1::bigint, 'its unit is taken away');
SELECT is((SELECT count(*) FROM coupon.outbox WHERE payload->>'campaign_id' = :'c' AND type = 'coupon.hold_expired'), 1::bigint, 'the hold that ended has its event');

-- named units, and seats
SELECT coupon_campaign_create('hall', 0, 4) AS h \gset
SELECT is(coupon_units_import(:h, '{A1,A2,A3,A4}'), 4::bigint, 'seats');
SELECT throws_ok(format('SELECT coupon_campaign_reduce_stock(%s, 1)', :h), 'UC004', NULL, 'seats are not alike');
SELECT is((SELECT status FROM coupon_hold(:h, 2, 'x', '1 h')), 'held', 'one is held');
SELECT throws_ok(format('SELECT coupon_units_withdraw(%s, ''{1,2}'')', :h), 'UC009', 'unit is not free', 'which cannot be withdrawn');
SELECT is(coupon_units_withdraw(:h, '{4,1}'), 2::bigint, 'two others can');
SELECT results_eq(format('SELECT serial, label, status FROM coupon_units(%s)', :h), $$VALUES (2::bigint, 'A2', 'HELD'), (3, 'A3', 'FREE')$$, 'they are not shown');
SELECT is((SELECT status FROM coupon_hold(:h, 4, 'y', '1 h')), 'taken', 'nor can be held');
SELECT throws_ok(format('SELECT coupon_units_withdraw(%s, ''{4}'')', :h), 'UC009', NULL, 'nor withdrawn again');
SELECT throws_ok(format('INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy) VALUES (%s, 4, 0, 1, now(), ''m'', ''issued'', ''{}'')', :h), '23514', NULL, 'nor issued by hand');
SELECT is(pg_temp.tally(:h), '2 0 0 1 1', 'two are left');
SELECT is((SELECT count(*) FROM coupon_verify(:h)), 0::bigint, 'no law is broken');

-- a room
SELECT coupon_campaign_create('behind a room', 5) AS c \gset
SELECT ok(coupon_room_create('change room', 5) > 0, 'a room');
SELECT coupon_campaign_require_room(:c, 'change room') \g /dev/null
SELECT is(pg_temp.event(:c)->>'room', 'change room', 'that a campaign requires it is an event');
SELECT coupon_campaign_require_room(:c, 'change room') \g /dev/null
SELECT is(pg_temp.events(:c), 2::bigint, 'and only when it changes');
SELECT throws_ok('SELECT coupon_room_drop(''change room'')', '2BP01', 'campaigns require the room');
SELECT coupon_campaign_require_room(:c, NULL) \g /dev/null
SELECT token AS ticket FROM coupon_queue_join('change room', 'v') \gset
SELECT lives_ok('SELECT coupon_room_drop(''change room'')', 'nobody requires it');
SELECT throws_ok('SELECT coupon_queue_join(''change room'', ''w'')', 'UC202', NULL, 'nobody can join');
SELECT throws_ok('SELECT coupon_room_drop(''change room'')', 'UC202', NULL, 'it is gone');
SELECT coupon_room_create('change room', 5) \g /dev/null
SELECT coupon_campaign_require_room(:c, 'change room') \g /dev/null
SELECT coupon_campaign_close(:c) \g /dev/null
SELECT lives_ok('SELECT coupon_room_drop(''change room'')', 'a closed campaign needs none');

SELECT * FROM finish();
ROLLBACK;
