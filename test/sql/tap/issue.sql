-- Issuing: every answer, retries, limits, and coupon_issue_many.
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT plan(76);

CREATE TEMP TABLE answer AS SELECT ''::text AS step, r.* FROM (SELECT (NULL::coupon.issue_result).*) r LIMIT 0;

-- the same call again and again: the statuses
CREATE FUNCTION pg_temp.issue_times(bigint, text, integer) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE answers text[];
BEGIN
	FOR i IN 1..$3 LOOP
		answers := answers || (coupon_issue($1, $2)).status;
	END LOOP;
	RETURN answers;
END $$;

-- the first call and its retry
SELECT coupon_campaign_create('basic', 3) AS c \gset
INSERT INTO answer SELECT 'first', * FROM coupon_issue(:c, 'alice');
SELECT is(status, 'issued', 'first call: issued') FROM answer WHERE step = 'first';
SELECT is(user_id, 'alice', 'the answer names the user') FROM answer WHERE step = 'first';
SELECT ok(serial BETWEEN 1 AND 3, 'the serial is one of the stock') FROM answer WHERE step = 'first';
SELECT is(code, NULL, 'no code in a plain campaign') FROM answer WHERE step = 'first';
SELECT ok(issued_at BETWEEN now() AND clock_timestamp(), 'issued_at is now') FROM answer WHERE step = 'first';
SELECT is(expires_at, NULL, 'no usage period, no expiry') FROM answer WHERE step = 'first';
SELECT results_eq(
	format('SELECT serial, nth, user_id, state, issued_at, redeemed_at, order_ref FROM coupon.issuance WHERE campaign_id = %s', :c),
	$$ SELECT serial, 1, 'alice' COLLATE "C", 'issued' COLLATE "C", issued_at, NULL::timestamptz, NULL::text FROM answer WHERE step = 'first' $$,
	'F15: the issuance row says what the answer says');
SELECT ok(i.serial BETWEEN s.first_serial AND s.last_serial, 'the serial lies in its shard')
  FROM coupon.issuance i JOIN coupon.shard s USING (campaign_id, shard) WHERE campaign_id = :c;

INSERT INTO answer SELECT 'retry', * FROM coupon_issue(:c, 'alice');
SELECT is(status, 'already_issued', 'retry: already_issued') FROM answer WHERE step = 'retry';
SELECT results_eq(
	$$ SELECT user_id, serial, code, issued_at, expires_at FROM answer WHERE step = 'retry' $$,
	$$ SELECT user_id, serial, code, issued_at, expires_at FROM answer WHERE step = 'first' $$,
	'F1: a retry answers with the original');
SELECT pg_temp.issue_times(:c, 'alice', 100) AS ignore \gset
SELECT is(remaining, 2::bigint, 'F3: a hundred duplicate clicks burn no stock') FROM coupon_status(:c);
SELECT is((SELECT count(*) FROM coupon.issuance WHERE campaign_id = :c), 1::bigint, 'F1: and make no row');

-- sell out
SELECT is((SELECT status FROM coupon_issue(:c, 'bob')), 'issued', 'second unit');
SELECT is((SELECT status FROM coupon_issue(:c, 'carol')), 'issued', 'the last unit');
INSERT INTO answer SELECT 'sold out', * FROM coupon_issue(:c, 'dave');
SELECT is(status, 'sold_out', 'F1: no unit left: sold_out') FROM answer WHERE step = 'sold out';
SELECT ok(user_id = 'dave' AND serial IS NULL AND code IS NULL AND issued_at IS NULL AND expires_at IS NULL,
	'a refusal carries the user and no unit') FROM answer WHERE step = 'sold out';
SELECT is((SELECT status FROM coupon_issue(:c, 'dave')), 'sold_out', 'sold_out again');
SELECT is((SELECT serial FROM coupon_issue(:c, 'alice')), (SELECT serial FROM answer WHERE step = 'first'),
	'a retry after sell-out gets the original');
SELECT is((SELECT count(DISTINCT serial) FROM coupon.issuance WHERE campaign_id = :c), 3::bigint, 'F1: three units, three serials');

-- every shard is probed before anything is called sold out
SELECT coupon_campaign_create('many shards', 5000) AS s \gset
SELECT is((SELECT count(*) FROM generate_series(1, 5000) g, LATERAL coupon_issue(:s, 'u' || g) r WHERE r.status = 'issued'),
	5000::bigint, 'F2: one session sells every unit of every shard, one call at a time');
SELECT isnt((SELECT status FROM coupon_issue(:s, 'late')), 'issued', 'F1: and not one more');
SELECT is((SELECT count(*) FROM coupon_verify(:s)), 0::bigint, 'verify finds nothing');
SELECT is((SELECT array_agg(serial ORDER BY serial) FROM coupon.issuance WHERE campaign_id = :s),
	(SELECT array_agg(g::bigint ORDER BY g) FROM generate_series(1, 5000) g), 'F1: serials 1..5000, each once');

-- users are compared byte by byte
SELECT coupon_campaign_create('users', 100) AS u \gset
SELECT results_eq(
	format($$ SELECT status FROM unnest(ARRAY['a', 'A', ' a', 'a ', E'e\u0301', E'\u00e9', E'x\ny', '"', '\', '''', '사용자', 'a']) x, LATERAL coupon_issue(%s, x) $$, :u),
	ARRAY['issued', 'issued', 'issued', 'issued', 'issued', 'issued', 'issued', 'issued', 'issued', 'issued', 'issued', 'already_issued'],
	'users that differ in one byte are different users');
SELECT is((SELECT status FROM coupon_issue(:u, repeat('u', 256))), 'issued', 'a user of 256 bytes');
SELECT is((SELECT status FROM coupon_issue(:u, repeat('u', 255))), 'issued', 'a user of 255 bytes is another');
SELECT is((SELECT status FROM coupon_issue(:u, 42)), 'issued', 'a numeric user');
SELECT is((SELECT status FROM coupon_issue(:u, '42')), 'already_issued', 'the number and its text are the same user');
SELECT is((SELECT user_id FROM coupon_issue(:u, 42)), '42', 'the answer has the text');
SELECT is((SELECT user_id FROM coupon_issue(:u, -9223372036854775808)), '-9223372036854775808', 'the smallest number');
SELECT is((SELECT status FROM coupon_issue(:u, '-9223372036854775808')), 'already_issued', 'and its text');
SELECT is((SELECT status FROM coupon_issue(:c, 'dave')), 'sold_out', 'another campaign''s stock does not count');

-- per-user limit above one
SELECT coupon_campaign_create('limit', 10, per_user_limit => 3) AS l \gset
SELECT is(pg_temp.issue_times(:l, 'alice', 5),
	ARRAY['issued', 'issued', 'issued', 'already_issued', 'already_issued'], 'limit 3: three units, then already_issued');
SELECT is((SELECT count(DISTINCT serial) FROM coupon.issuance WHERE campaign_id = :l), 3::bigint, 'three different units');
SELECT is((SELECT count(*) FROM coupon_issue(:l, 'alice') r JOIN coupon.issuance i USING (serial, issued_at) WHERE i.campaign_id = :l AND i.user_id = 'alice'),
	1::bigint, 'already_issued shows one of them');
SELECT results_eq(format('SELECT nth FROM coupon.issuance WHERE campaign_id = %s ORDER BY nth', :l), ARRAY[1, 2, 3], 'nth is 1, 2, 3');
SELECT is((SELECT status FROM coupon_issue(:l, 'bob')), 'issued', 'another user has their own limit');

-- a revoked unit gives the user's place back: the free nth is used again
SELECT serial AS first_serial FROM coupon.issuance WHERE campaign_id = :l AND user_id = 'alice' AND nth = 1 \gset
SELECT is(coupon_revoke(:l, 'alice', 'test', :first_serial), true, 'revoke the first of three');
SELECT is((SELECT status FROM coupon_issue(:l, 'alice')), 'issued', 'a third unit again');
SELECT results_eq(format('SELECT nth FROM coupon.issuance WHERE campaign_id = %s AND user_id = ''alice'' ORDER BY nth', :l),
	ARRAY[1, 2, 3], 'the free nth was used again');
SELECT is((SELECT status FROM coupon_issue(:l, 'alice')), 'already_issued', 'and the limit holds again');
SELECT is((SELECT count(*) FROM coupon_verify(:l)), 0::bigint, 'verify finds nothing');

-- refusals by state
SELECT coupon_campaign_create('states', 5) AS t \gset
INSERT INTO answer SELECT 'before', * FROM coupon_issue(:t, 'alice');
SELECT coupon_campaign_pause(:t) AS ignore \gset
SELECT is((SELECT r::text FROM coupon_issue(:t, 'bob') r), '(bob,paused,,,,)', 'paused, and nothing else in the answer');
SELECT is((SELECT serial FROM coupon_issue(:t, 'alice')), (SELECT serial FROM answer WHERE step = 'before'), 'paused: a retry gets the original');
SELECT coupon_campaign_resume(:t) AS ignore, coupon_campaign_close(:t) AS ignore2 \gset
SELECT is((SELECT r::text FROM coupon_issue(:t, 'bob') r), '(bob,closed,,,,)', 'closed, and nothing else in the answer');
SELECT is((SELECT serial FROM coupon_issue(:t, 'alice')), (SELECT serial FROM answer WHERE step = 'before'), 'closed: a retry gets the original');
SELECT results_eq(format('SELECT status FROM coupon_issue_many(%s, ARRAY[''bob'', ''alice'', ''''])', :t),
	ARRAY['closed', 'already_issued', 'invalid'], 'closed: many answers each item on its own');
SELECT coupon_campaign_create('future', 5, opens_at => '2999-01-01 00:00:00+00') AS f \gset
SELECT is((SELECT r::text FROM coupon_issue(:f, 'bob') r), '(bob,not_open,,,,)', 'not_open, and nothing else in the answer');
SELECT is((SELECT count(*) FROM coupon.issuance WHERE campaign_id = :f), 0::bigint, 'not_open took nothing');

-- many: order, duplicates, invalid items
SELECT coupon_campaign_create('many', 100) AS m \gset
INSERT INTO answer SELECT 'many', r.* FROM coupon_issue_many(:m, ARRAY['z', 'a', NULL, 'm', '', 'a', repeat('x', 257), repeat('y', 256), 'z']) r;
SELECT results_eq($$ SELECT user_id FROM answer WHERE step = 'many' $$,
	ARRAY['z', 'a', NULL, 'm', '', 'a', repeat('x', 257), repeat('y', 256), 'z'], 'many: one answer for each item, in the array''s order');
SELECT results_eq($$ SELECT status FROM answer WHERE step = 'many' $$,
	ARRAY['issued', 'issued', 'invalid', 'issued', 'invalid', 'already_issued', 'invalid', 'issued', 'already_issued'],
	'F9: a bad item has its own outcome and its neighbours theirs');
SELECT is((SELECT count(DISTINCT serial) FROM answer WHERE step = 'many' AND user_id = 'a'), 1::bigint, 'F1: a duplicate in the array gets the same unit');
SELECT ok((SELECT bool_and(serial IS NULL AND issued_at IS NULL) FROM answer WHERE step = 'many' AND status = 'invalid'), 'an invalid item has no unit');
SELECT is((SELECT count(*) FROM coupon.issuance WHERE campaign_id = :m), 4::bigint, 'many: four units');
SELECT results_eq(format('SELECT status FROM coupon_issue_many(%s, ARRAY[''m'', ''new''])', :m), ARRAY['already_issued', 'issued'], 'many knows the earlier ones');
SELECT is((SELECT serial FROM coupon_issue(:m, 'z')), (SELECT serial FROM answer WHERE step = 'many' AND user_id = 'z' LIMIT 1), 'one knows what many issued');
SELECT is((SELECT count(*) FROM coupon_issue_many(:m, '{}'::text[])), 0::bigint, 'an empty array: no rows');
SELECT throws_ok(format('SELECT * FROM coupon_issue_many(%s, NULL::text[])', :m), '22004', NULL, 'a NULL array is an ERROR');
SELECT throws_ok($$ SELECT * FROM coupon_issue_many(9223372036854775807, ARRAY['a']) $$, 'UC001', NULL, 'many: an unknown campaign is an ERROR');
SELECT results_eq(format('SELECT user_id, status FROM coupon_issue_many(%s, ARRAY[7, NULL, 7, 8]::text[])', :m),
	$$ VALUES ('7', 'issued'), (NULL, 'invalid'), ('7', 'already_issued'), ('8', 'issued') $$, 'many with numbers made text');
PREPARE untyped AS SELECT user_id, status FROM coupon_issue_many($1, $2);
SELECT results_eq(format('EXECUTE untyped(%s, ''{9,9}'')', :m), $$ VALUES ('9', 'issued'), ('9', 'already_issued') $$,
	'many with parameters of unknown type, as drivers send them');
PREPARE untyped_one AS SELECT user_id, status FROM coupon_issue($1, $2);
SELECT results_eq(format('EXECUTE untyped_one(%s, ''10'')', :m), $$ VALUES ('10', 'issued') $$, 'one with parameters of unknown type');
SELECT is((SELECT count(*) FROM coupon_issue_many(:m, '[5:6]={q,r}'::text[]) WHERE status = 'issued'), 2::bigint, 'an array may start at any index');

-- many: the stock ends inside the array
SELECT coupon_campaign_create('short', 2) AS h \gset
SELECT results_eq(format('SELECT status FROM coupon_issue_many(%s, ARRAY[''a'', ''b'', ''c'', ''a'', ''d''])', :h),
	ARRAY['issued', 'issued', 'sold_out', 'already_issued', 'sold_out'], 'F9: the stock ends inside the array');
SELECT is((SELECT count(*) FROM coupon.issuance WHERE campaign_id = :h), 2::bigint, 'F1: two units');

-- many: a limit above one counts inside the array too
SELECT coupon_campaign_create('many limit', 10, per_user_limit => 2) AS k \gset
SELECT results_eq(format('SELECT status FROM coupon_issue_many(%s, ARRAY[''a'', ''a'', ''b'', ''a''])', :k),
	ARRAY['issued', 'issued', 'issued', 'already_issued'], 'many: the limit counts inside the array');
SELECT coupon_campaign_create('many order', 3, per_user_limit => 3) AS ko \gset
SELECT results_eq(format('SELECT status FROM coupon_issue_many(%s, ARRAY[''z'', ''z'', ''a'', ''z'', ''b''])', :ko),
	ARRAY['issued', 'issued', 'issued', 'sold_out', 'sold_out'], 'many: first come, first served, also for a user''s second wish');

-- many: ten thousand in one call
SELECT coupon_campaign_create('ten thousand', 10000) AS x \gset
SELECT is((SELECT count(DISTINCT serial) FROM coupon_issue_many(:x, (SELECT array_agg('u' || g) FROM generate_series(1, 10000) g)) WHERE status = 'issued'),
	10000::bigint, 'many: 10,000 users, 10,000 units');
SELECT is((SELECT remaining FROM coupon_status(:x)), 0::bigint, 'none is left');
SELECT is((SELECT count(*) FROM coupon_verify(:x)), 0::bigint, 'verify finds nothing');

-- many: the time grows with the number of items, whatever the answer is
SET LOCAL statement_timeout = '20s';
SELECT array_agg('same'::text) AS same FROM generate_series(1, 40000) \gset
SELECT coupon_campaign_create('many refused', 5000) AS q \gset
SELECT status FROM coupon_issue(:q, 'first') \g /dev/null
SELECT coupon_campaign_pause(:q) \g /dev/null
SELECT results_eq(format('SELECT status, count(*) FROM coupon_issue_many(%s, %L) GROUP BY 1', :q, :'same'),
	$$ VALUES ('paused', 40000::bigint) $$, 'many: 40,000 wishes of one user, paused');
SELECT coupon_campaign_resume(:q) \g /dev/null
SELECT results_eq(format('SELECT status, count(*) FROM coupon_issue_many(%s, %L) GROUP BY 1 ORDER BY 1', :q, :'same'),
	$$ VALUES ('already_issued', 39999::bigint), ('issued', 1) $$, 'many: 40,000 wishes of one user, open');
INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy)
SELECT :q, serial, shard, 1, now(), 'hand' || serial, 'issued', '{}'
  FROM coupon.shard s, generate_series(s.first_serial, s.last_serial) serial
 WHERE s.campaign_id = :q AND serial NOT IN (SELECT i.serial FROM coupon.issuance i WHERE i.campaign_id = :q);
SELECT results_eq(format('SELECT status, count(*) FROM coupon_issue_many(%s, ARRAY(SELECT ''u'' || g FROM generate_series(1, 5000) g)) GROUP BY 1', :q),
	$$ VALUES ('sold_out', 5000::bigint) $$, 'many: 5,000 users, and every unit was given away by hand');
SELECT results_eq(format('SELECT status, count(*) FROM coupon_issue_many(%s, array_replace(%L::text[], ''same'', ''other'')) GROUP BY 1', :q, :'same'),
	$$ VALUES ('sold_out', 40000::bigint) $$, 'many: 40,000 wishes of one user, sold out');
RESET statement_timeout;

-- called once for each row of a query
SELECT coupon_campaign_create('join', 10) AS j \gset
SELECT is((SELECT count(*) FROM (VALUES ('a'), ('b'), ('a')) v(u) CROSS JOIN LATERAL coupon_issue(:j, u) r WHERE r.status = 'issued'),
	2::bigint, 'in a join each row is a call');
SELECT throws_ok(format('SELECT * FROM coupon_issue(%s, NULL::text)', :j), '22004', NULL, 'a NULL user is an ERROR in the single call');

SELECT * FROM finish();
ROLLBACK;
