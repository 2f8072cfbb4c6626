-- Status: the counts add up, each kind of answer has its own counter.
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT plan(38);

-- the counters, without the ones that are 0
CREATE FUNCTION pg_temp.counters(bigint) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(string_agg(substr(key, 10) || '=' || value, ' ' ORDER BY key), '')
	  FROM jsonb_each_text((SELECT to_jsonb(s) FROM coupon_status($1) s))
	 WHERE key LIKE 'answered\_%' AND value <> '0' $$;
-- stock, taken (issued and in flight: here the transaction is still open), remaining
CREATE FUNCTION pg_temp.counts(bigint) RETURNS text LANGUAGE sql AS
	$$ SELECT format('%s = %s + %s', stock, issued + held + in_flight, remaining) FROM coupon_status($1) $$;

-- the same call again and again: the statuses
CREATE FUNCTION pg_temp.issue_times(bigint, text, integer) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE answers text[];
BEGIN
	FOR i IN 1..$3 LOOP
		answers := answers || (coupon_issue($1, $2)).status;
	END LOOP;
	RETURN answers;
END $$;

SELECT coupon_campaign_create('status', 5, per_user_limit => 2) AS c \gset
SELECT results_eq(format('SELECT * FROM coupon_status(%s)', :c),
	$$ VALUES (5::bigint, 0::bigint, 0::bigint, 0::bigint, 5::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint) $$,
	'a new campaign');
SELECT count(*) AS ignore FROM coupon_issue(:c, 'alice') \gset
SELECT is(pg_temp.counts(:c), '5 = 1 + 4', 'after one issue');
SELECT is(pg_temp.counters(:c), '', 'F7: issued is counted when it commits');
SELECT pg_temp.issue_times(:c, 'alice', 3) AS ignore \gset
SELECT is(pg_temp.counts(:c), '5 = 2 + 3', 'after a second unit and two retries');
SELECT is(pg_temp.counters(:c), 'already_issued=2', 'F7: already_issued');
SELECT count(*) AS ignore FROM coupon_issue_many(:c, ARRAY['a', 'b', 'c', 'd', NULL, 'alice']) \gset
SELECT is(pg_temp.counts(:c), '5 = 5 + 0', 'sold out');
SELECT matches(pg_temp.counters(:c), '^already_issued=3 (busy=1|sold_out=1)$', 'F7: each item of many is counted under its own outcome');
SELECT is(answered_sold_out + answered_busy, 1::bigint, 'F7: sold_out is counted apart') FROM coupon_status(:c);

SELECT coupon_campaign_create('none', 0) AS n \gset
SELECT is(pg_temp.counts(:n), '0 = 0 + 0', 'stock 0');
SELECT count(*) AS ignore FROM generate_series(1, 7) g, LATERAL coupon_issue(:n, 'u' || g) \gset
SELECT is(pg_temp.counters(:n), 'sold_out=7', 'F7: sold_out');
SELECT is(pg_temp.counts(:n), '0 = 0 + 0', 'refusals do not change the counts');

SELECT coupon_campaign_create('future', 5, opens_at => '2999-01-01 00:00:00+00') AS f \gset
SELECT pg_temp.issue_times(:f, 'u', 2) AS ignore \gset
SELECT is(pg_temp.counters(:f), 'not_open=2', 'F7: not_open');
SELECT coupon_campaign_pause(:f) AS ignore \gset
SELECT pg_temp.issue_times(:f, 'u', 3) AS ignore \gset
SELECT is(pg_temp.counters(:f), 'not_open=2 paused=3', 'F7: paused');
SELECT coupon_campaign_close(:f) AS ignore \gset
SELECT pg_temp.issue_times(:f, 'u', 4) AS ignore \gset
SELECT is(pg_temp.counters(:f), 'closed=4 not_open=2 paused=3', 'F7: closed');
SELECT is(pg_temp.counts(:f), '5 = 0 + 5', 'and no unit was taken');

-- an ERROR is not an answer
SELECT throws_ok(format('SELECT coupon_issue(%s, '''')', :n), '22023', NULL, 'an invalid user');
SELECT is(pg_temp.counters(:n), 'sold_out=7', 'F7: an ERROR is not counted as an answer');

-- what changes the counts, and what does not
SELECT coupon_campaign_create('life', 10) AS l \gset
SELECT count(*) AS ignore FROM coupon_issue_many(:l, ARRAY['a', 'b', 'c']) \gset
SELECT is(pg_temp.counts(:l), '10 = 3 + 7', 'three issued');
SELECT count(*) AS ignore FROM coupon_redeem(:l, 'a', 'o') \gset
SELECT is(pg_temp.counts(:l), '10 = 3 + 7', 'a redemption changes nothing');
SELECT count(*) AS ignore FROM coupon_redeem_cancel(:l, 'a', 'o') \gset
SELECT is(pg_temp.counts(:l), '10 = 3 + 7', 'nor does its cancellation');
SELECT is(coupon_campaign_add_stock(:l, 5), 15::bigint, 'add stock');
SELECT is(stock, 15::bigint, 'the stock is the new total') FROM coupon_status(:l);
SELECT is(stock, issued + held + in_flight + remaining, 'and the counts add up') FROM coupon_status(:l);
SELECT coupon_revoke(:l, 'c', 'r') AS ignore \gset
SELECT is(stock, issued + held + in_flight + remaining, 'after a revocation, too') FROM coupon_status(:l);
SAVEPOINT s;
SELECT count(*) AS ignore FROM coupon_issue_many(:l, ARRAY['d', 'e']) \gset
ROLLBACK TO s;
SELECT is(stock, issued + held + in_flight + remaining, 'after a rollback, too') FROM coupon_status(:l);
SELECT ok(bool_and(s >= 0), 'no count is below 0') FROM (SELECT unnest(ARRAY[stock, issued, held, in_flight, remaining]) AS s FROM coupon_status(:l)) x;
SELECT is(held, 0::bigint, 'nothing is held') FROM coupon_status(:l);

-- a row inserted behind the engine's back is found when the map is built
SELECT coupon_campaign_create('behind', 3) AS b \gset
INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy)
SELECT campaign_id, 2, shard, 1, now(), 'x', 'issued', '{}' FROM coupon.shard WHERE campaign_id = :b AND 2 BETWEEN first_serial AND last_serial;
SELECT is(pg_temp.counts(:b), '3 = 1 + 2', 'an issuance that was there before the map is counted');

-- coded
SELECT coupon_campaign_create('coded', 0) AS k \gset
SELECT coupon_codes_import(:k, ARRAY['A', 'B', 'C']) AS ignore \gset
SELECT is(pg_temp.counts(:k), '3 = 0 + 3', 'imported codes are stock');
SELECT count(*) AS ignore FROM coupon_issue(:k, 'a') \gset
SELECT is(pg_temp.counts(:k), '3 = 1 + 2', 'and go down by one');

-- the view
SELECT results_eq(format('SELECT name, state, stock FROM coupon.campaign_status WHERE campaign_id IN (%s, %s, %s) ORDER BY campaign_id', :c, :n, :f),
	$$ VALUES ('status', 'open', 5::bigint), ('none', 'open', 0), ('future', 'closed', 5) $$, 'the view has a row for each campaign');
SELECT is((SELECT count(*) FROM coupon.campaign_status), (SELECT count(*) FROM coupon.campaign), 'for all of them');
SELECT is((SELECT to_jsonb(v) - '{campaign_id,name,state}'::text[] FROM coupon.campaign_status v WHERE campaign_id = :c),
	(SELECT to_jsonb(s) FROM coupon_status(:c) s), 'with what coupon_status says');
SELECT ok((SELECT bool_and(stock = issued + held + in_flight + remaining) FROM coupon.campaign_status), 'the counts of every campaign add up');

-- asking costs nothing
SELECT is(pg_temp.counters(:c), pg_temp.counters(:c), 'asking for the status is not counted');
SELECT throws_ok('SELECT coupon_status(9223372036854775807)', 'UC001', NULL, 'status of an unknown campaign: UC001');
SELECT throws_ok('SELECT coupon_status(NULL)', '22004', NULL, 'status of NULL: 22004');
SELECT is((SELECT count(*) FROM coupon_verify(:b)), 0::bigint, 'verify finds nothing');

SELECT * FROM finish();
ROLLBACK;
