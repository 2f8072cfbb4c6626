-- Campaigns: creation and defaults, windows, pause, resume, close, stock.
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT plan(67);

-- Shards are right when they are numbered from 0, start at serial 1 and leave no gap.
CREATE FUNCTION pg_temp.units_of(bigint) RETURNS bigint LANGUAGE sql AS $$
	SELECT CASE WHEN coalesce(bool_and(shard = n AND first_serial = before + 1), true)
	            THEN coalesce(max(last_serial), 0) ELSE -1 END
	  FROM (SELECT s.*, row_number() OVER w - 1 AS n, lag(last_serial, 1, 0::bigint) OVER w AS before
	          FROM coupon.shard s WHERE campaign_id = $1 WINDOW w AS (ORDER BY shard)) s $$;
CREATE FUNCTION pg_temp.status_of(bigint, text) RETURNS text LANGUAGE sql AS
	$$ SELECT status FROM coupon_issue($1, $2) $$;

-- defaults
SELECT coupon_campaign_create('plain', 10) AS c \gset
SELECT ok(:c > 0, 'create returns an id');
SELECT results_eq(
	format('SELECT name, per_user_limit, opens_at, closes_at, paused, closed_at, coded, policy, topic
	          FROM coupon.campaign WHERE campaign_id = %s', :c),
	$$ VALUES ('plain', 1, NULL::timestamptz, NULL::timestamptz, false, NULL::timestamptz, false,
	           '{}'::jsonb, 'coupon-issued') $$,
	'create without options takes the defaults');
SELECT ok(created_at BETWEEN now() AND clock_timestamp(), 'created_at is set')
  FROM coupon.campaign WHERE campaign_id = :c;
SELECT is(pg_temp.units_of(:c), 10::bigint, 'the shards are units 1..10');
SELECT is(stock, 10::bigint, 'status shows the stock') FROM coupon_status(:c);

SELECT coupon_campaign_create(name => 'all set', stock => 3, per_user_limit => 2,
	opens_at => '2020-01-01 00:00:00+00', closes_at => '2999-01-01 00:00:00+00',
	policy => '{"kind": "FIXED", "amount": 1000}', topic => 'my.topic_1-x') AS d \gset
SELECT ok(:d > :c, 'ids rise');
SELECT results_eq(
	format('SELECT name, per_user_limit, opens_at, closes_at, policy, topic
	          FROM coupon.campaign WHERE campaign_id = %s', :d),
	$$ VALUES ('all set', 2, '2020-01-01 00:00:00+00'::timestamptz, '2999-01-01 00:00:00+00'::timestamptz,
	           '{"kind": "FIXED", "amount": 1000}'::jsonb, 'my.topic_1-x') $$,
	'create keeps what it was given');
SELECT is(pg_temp.status_of(:d, 'u'), 'issued', 'inside its window a campaign issues');
SELECT lives_ok($$SELECT coupon_campaign_create('plain', 1)$$, 'names need not be unique');

-- stock
SELECT coupon_campaign_create('nothing', 0) AS z \gset
SELECT is(pg_temp.units_of(:z), 0::bigint, 'stock 0: no units');
SELECT is(pg_temp.status_of(:z, 'u'), 'sold_out', 'stock 0: sold out');
SELECT coupon_campaign_create('one', 1) AS one \gset
SELECT is(pg_temp.units_of(:one), 1::bigint, 'stock 1: one unit');
SELECT coupon_campaign_create('million', 1000000) AS m \gset
SELECT is(pg_temp.units_of(:m), 1000000::bigint, 'a million units');
SELECT cmp_ok((SELECT count(*) FROM coupon.shard WHERE campaign_id = :m), '>', 1::bigint, 'a large stock has several shards');
SELECT coupon_campaign_create('largest', 100000000) AS l \gset
SELECT is(pg_temp.units_of(:l), 100000000::bigint, 'the largest stock');
SELECT is(pg_temp.status_of(:l, 'u'), 'issued', 'the largest stock issues');

SELECT is(coupon_campaign_add_stock(:c, 5), 15::bigint, 'add_stock returns the new total');
SELECT is(pg_temp.units_of(:c), 15::bigint, 'added units follow the old ones');
SELECT is(coupon_campaign_add_stock(:c, 1), 16::bigint, 'add_stock of one unit');
SELECT is(pg_temp.units_of(:c), 16::bigint, 'one unit more');
SELECT is(coupon_campaign_add_stock(:z, 2), 2::bigint, 'add_stock to stock 0');
SELECT is(pg_temp.units_of(:z), 2::bigint, 'two units where there were none');
SELECT is(stock, 16::bigint, 'status shows the new total') FROM coupon_status(:c);
SELECT throws_ok(format('SELECT coupon_campaign_add_stock(%s, 1)', :l), '22023', NULL, 'the limit on units holds for the total');
SELECT throws_ok(format('SELECT coupon_campaign_add_stock(%s, 100000000)', :c), '22023', NULL, 'the total cannot pass the limit');
SELECT is(coupon_campaign_add_stock(:c, 100000000 - 16), 100000000::bigint, 'the total can reach the limit');

-- windows, by the clock and not by the transaction's start: both instants
-- lie between the two
SELECT coupon_campaign_create('opens now', 5, opens_at => clock_timestamp()) AS w \gset
SELECT ok(opens_at > now(), 'opens_at is after the transaction''s start') FROM coupon.campaign WHERE campaign_id = :w;
SELECT is(pg_temp.status_of(:w, 'u'), 'issued', 'from opens_at on: issued');
SELECT coupon_campaign_create('closes now', 5, closes_at => clock_timestamp()) AS v \gset
SELECT is(pg_temp.status_of(:v, 'u'), 'closed', 'from closes_at on: closed');
SELECT coupon_campaign_create('later', 5, opens_at => clock_timestamp() + interval '1 hour') AS w2 \gset
SELECT is(pg_temp.status_of(:w2, 'u'), 'not_open', 'before opens_at: not_open');
SELECT coupon_campaign_create('soon over', 5, closes_at => clock_timestamp() + interval '1 hour') AS v2 \gset
SELECT is(pg_temp.status_of(:v2, 'u'), 'issued', 'before closes_at: issued');
UPDATE coupon.campaign SET closes_at = clock_timestamp() WHERE campaign_id = :v2;
SELECT is(pg_temp.status_of(:v2, 'v'), 'closed', 'when closes_at has come: closed');
SELECT is(pg_temp.status_of(:v2, 'u'), 'already_issued', 'a retry after closes_at gets the original');
SELECT coupon_campaign_create('over', 5, closes_at => '2020-01-01 00:00:00+00') AS o \gset
SELECT is(pg_temp.status_of(:o, 'u'), 'closed', 'closes_at in the past: closed');
SELECT coupon_campaign_create('far', 5, opens_at => '2999-01-01 00:00:00+00', closes_at => '2999-01-02 00:00:00+00') AS f \gset
SELECT is(pg_temp.status_of(:f, 'u'), 'not_open', 'window in the future: not_open');

-- pause and resume
SELECT coupon_campaign_create('pausing', 5) AS p \gset
SELECT is(pg_temp.status_of(:p, 'first'), 'issued', 'issued before the pause');
SELECT is(coupon_campaign_pause(:p), true, 'pause changes it');
SELECT is(coupon_campaign_pause(:p), false, 'pause again changes nothing');
SELECT is(pg_temp.status_of(:p, 'second'), 'paused', 'a paused campaign answers paused');
SELECT is(pg_temp.status_of(:p, 'first'), 'already_issued', 'a retry during the pause gets the original');
SELECT is((SELECT paused FROM coupon.campaign WHERE campaign_id = :p), true, 'the pause is in the table');
SELECT is(coupon_campaign_resume(:p), true, 'resume changes it');
SELECT is(coupon_campaign_resume(:p), false, 'resume again changes nothing');
SELECT is(pg_temp.status_of(:p, 'second'), 'issued', 'after resume it issues');
SELECT is(coupon_campaign_resume(:d), false, 'resume without pause changes nothing');
SELECT coupon_campaign_pause(:f) AS ignore \gset
SELECT is(pg_temp.status_of(:f, 'u'), 'paused', 'paused comes before not_open');

-- close
SELECT is(state, 'open', 'view: open') FROM coupon.campaign_status WHERE campaign_id = :p;
SELECT coupon_campaign_create('future', 1, opens_at => '2999-01-01 00:00:00+00') AS g \gset
SELECT is(state, 'not_open', 'view: not_open') FROM coupon.campaign_status WHERE campaign_id = :g;
SELECT is(state, 'paused', 'view: paused') FROM coupon.campaign_status WHERE campaign_id = :f;
SELECT is(state, 'closed', 'view: closed by its window') FROM coupon.campaign_status WHERE campaign_id = :o;
SELECT coupon_campaign_pause(:p) AS ignore \gset
SELECT is(coupon_campaign_close(:p), true, 'close changes it, also while paused');
SELECT is(coupon_campaign_close(:p), false, 'close again changes nothing');
SELECT ok(closed_at BETWEEN created_at AND clock_timestamp(), 'closed_at is set') FROM coupon.campaign WHERE campaign_id = :p;
SELECT is(state, 'closed', 'view: closed by hand') FROM coupon.campaign_status WHERE campaign_id = :p;
SELECT is(pg_temp.status_of(:p, 'third'), 'closed', 'closed comes before paused');
SELECT is(pg_temp.status_of(:p, 'first'), 'already_issued', 'a retry after the close gets the original');
SELECT is((SELECT status FROM coupon_redeem(:p, 'first', 'order 1')), 'redeemed', 'what was issued stays valid after the close');
SELECT is(coupon_campaign_close(:g), true, 'a campaign can be closed before it opens');
SELECT is(pg_temp.status_of(:g, 'u'), 'closed', 'closed comes before not_open');
SELECT throws_ok(format('SELECT coupon_campaign_pause(%s)', :p), 'UC002', NULL, 'pause of a closed campaign');
SELECT throws_ok(format('SELECT coupon_campaign_resume(%s)', :p), 'UC002', NULL, 'resume of a closed campaign');
SELECT throws_ok(format('SELECT coupon_campaign_add_stock(%s, 1)', :p), 'UC002', NULL, 'add_stock to a closed campaign');
SELECT throws_ok(format('SELECT coupon_codes_import(%s, ARRAY[''a''])', :p), 'UC002', NULL, 'import into a closed campaign');
SELECT throws_ok(format('SELECT coupon_codes_generate(%s, NULL, 1)', :p), 'UC002', NULL, 'generate for a closed campaign');

-- one campaign's state does not touch another's
SELECT is(pg_temp.status_of(:d, 'other'), 'issued', 'another campaign goes on');
SELECT is((SELECT count(*) FROM coupon_verify(:p)), 0::bigint, 'verify finds nothing in the closed campaign');
SELECT is((SELECT count(*) FROM coupon_verify(:c)), 0::bigint, 'verify finds nothing after add_stock');

SELECT * FROM finish();
ROLLBACK;
