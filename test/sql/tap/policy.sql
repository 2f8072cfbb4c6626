-- The discount policy: every rule of its validation, and the snapshot that
-- the server (never the client) copies into the issuance and its event.
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;

CREATE TEMP TABLE good (policy text);
INSERT INTO good VALUES
('{}'),
('{"kind": "FIXED", "amount": 1000}'),
('{"kind": "FIXED", "amount": 0.01}'),
('{"kind": "FIXED", "amount": 1000, "min_order_amount": 0}'),
('{"kind": "FIXED", "amount": 1000, "min_order_amount": 15000.50}'),
('{"kind": "RATE", "rate": 10}'),
('{"kind": "RATE", "rate": 0.5}'),
('{"kind": "RATE", "rate": 100}'),
('{"kind": "RATE", "rate": 10, "max_discount": 5000}'),
('{"kind": "RATE", "rate": 10, "max_discount": 5000, "min_order_amount": 1, "usage_period_days": 30, "attributes": {}}'),
('{"usage_period_days": 1}'),
('{"usage_period_days": 36500}'),
('{"min_order_amount": 100}'),
('{"attributes": {}}'),
('{"attributes": {"kind": "anything", "unknown": [1, 2, {"a": null}]}}');

CREATE TEMP TABLE bad (policy text, why text);
INSERT INTO bad VALUES
('[]', 'an array'), ('1', 'a number'), ('"FIXED"', 'a string'), ('null', 'JSON null'), ('true', 'a boolean'),
('{"kind": "OTHER"}', 'unknown kind'), ('{"kind": "fixed", "amount": 1}', 'kind in lower case'),
('{"kind": 1}', 'kind not a string'), ('{"kind": null}', 'kind null'), ('{"kind": ""}', 'kind empty'),
('{"kind": "FIXED"}', 'FIXED without amount'),
('{"kind": "FIXED", "amount": 0}', 'amount 0'), ('{"kind": "FIXED", "amount": -1}', 'amount below 0'),
('{"kind": "FIXED", "amount": "1000"}', 'amount a string'), ('{"kind": "FIXED", "amount": null}', 'amount null'),
('{"kind": "FIXED", "amount": [1]}', 'amount an array'), ('{"kind": "FIXED", "amount": true}', 'amount a boolean'),
('{"kind": "FIXED", "amount": 1, "rate": 1}', 'FIXED with rate'),
('{"kind": "FIXED", "amount": 1, "max_discount": 1}', 'FIXED with max_discount'),
('{"kind": "RATE"}', 'RATE without rate'),
('{"kind": "RATE", "rate": 0}', 'rate 0'), ('{"kind": "RATE", "rate": -1}', 'rate below 0'),
('{"kind": "RATE", "rate": 100.01}', 'rate above 100'), ('{"kind": "RATE", "rate": "10"}', 'rate a string'),
('{"kind": "RATE", "rate": null}', 'rate null'),
('{"kind": "RATE", "rate": 1, "amount": 1}', 'RATE with amount'),
('{"kind": "RATE", "rate": 1, "max_discount": 0}', 'max_discount 0'),
('{"kind": "RATE", "rate": 1, "max_discount": -1}', 'max_discount below 0'),
('{"kind": "RATE", "rate": 1, "max_discount": "1"}', 'max_discount a string'),
('{"amount": 1}', 'amount without kind'), ('{"rate": 1}', 'rate without kind'), ('{"max_discount": 1}', 'max_discount without kind'),
('{"min_order_amount": -1}', 'min_order_amount below 0'), ('{"min_order_amount": "1"}', 'min_order_amount a string'),
('{"min_order_amount": null}', 'min_order_amount null'),
('{"usage_period_days": 0}', 'usage_period_days 0'), ('{"usage_period_days": -1}', 'usage_period_days below 0'),
('{"usage_period_days": 36501}', 'usage_period_days above 36500'), ('{"usage_period_days": 1.5}', 'usage_period_days not whole'),
('{"usage_period_days": "30"}', 'usage_period_days a string'), ('{"usage_period_days": 1e300}', 'usage_period_days enormous'),
('{"usage_period_days": null}', 'usage_period_days null'),
('{"attributes": []}', 'attributes an array'), ('{"attributes": 1}', 'attributes a number'), ('{"attributes": null}', 'attributes null'),
('{"expires_at": "2999-01-01"}', 'unknown key'), ('{"Kind": "FIXED", "amount": 1}', 'key in another case'),
('{"": 1}', 'empty key'), ('{"kind": "FIXED", "amount": 1, "x": 1}', 'unknown key beside known ones');

SELECT plan(20 + (SELECT count(*)::int FROM good) + (SELECT count(*)::int FROM bad));

SELECT lives_ok(format('SELECT coupon_campaign_create(%L, 1, policy => %L)', 'good', policy), 'accepted: ' || policy) FROM good;
SELECT throws_ok(format('SELECT coupon_campaign_create(%L, 1, policy => %L)', 'bad', policy), '22023', NULL, 'refused: ' || why) FROM bad;

SELECT lives_ok(format('SELECT coupon_campaign_create(%L, 1, policy => %L)', 'long',
	jsonb_build_object('attributes', jsonb_build_object('a', repeat('x', 4000)))), 'accepted: almost 4096 bytes');
SELECT throws_ok(format('SELECT coupon_campaign_create(%L, 1, policy => %L)', 'long',
	jsonb_build_object('attributes', jsonb_build_object('a', repeat('x', 4096)))), '22023', NULL, 'refused: more than 4096 bytes');
SELECT throws_ok($$SELECT coupon_campaign_create('null', 1, policy => NULL)$$, '22004', NULL, 'refused: SQL NULL');

-- the snapshot
SELECT coupon_campaign_create('snapshot', 10, policy =>
	'{"kind": "RATE", "rate": 12.5, "max_discount": 3000, "min_order_amount": 10000, "usage_period_days": 7, "attributes": {"label": "q\"\\\n가"}}') AS c \gset
CREATE TEMP TABLE answer AS SELECT * FROM coupon_issue(:c, 'alice');
SELECT is(i.policy, c.policy, 'F16: the issuance holds the campaign''s policy')
  FROM coupon.issuance i JOIN coupon.campaign c USING (campaign_id) WHERE campaign_id = :c;
SELECT is((o.payload->>'policy')::jsonb, c.policy, 'F16: the event holds the campaign''s policy')
  FROM coupon.outbox o, coupon.campaign c
 WHERE o.type = 'coupon.issued' AND o.payload->>'campaign_id' = c.campaign_id::text AND c.campaign_id = :c;
SELECT is(json_typeof(payload->'policy'), 'object', 'the event''s policy is an object, not a string')
  FROM coupon.outbox WHERE type = 'coupon.issued' AND payload->>'campaign_id' = :c::text;
SELECT is(answer.expires_at - answer.issued_at, interval '168 hours', 'expires_at = issued_at + usage_period_days') FROM answer;
SELECT is(i.expires_at, a.expires_at, 'the issuance has the answer''s expires_at')
  FROM coupon.issuance i, answer a WHERE i.campaign_id = :c;
SELECT is((SELECT status FROM coupon_issue(:c, 'alice')), 'already_issued', 'a retry');
SELECT is(r.expires_at, a.expires_at, 'a retry shows the original expires_at') FROM coupon_issue(:c, 'alice') r, answer a;

-- a policy changed afterwards (only a superuser can) leaves what was issued alone
UPDATE coupon.campaign SET policy = '{"kind": "FIXED", "amount": 1}' WHERE campaign_id = :c;
SELECT is(policy->>'kind', 'RATE', 'F16: a later change does not touch the snapshot')
  FROM coupon.issuance WHERE campaign_id = :c AND user_id = 'alice';
SELECT is((SELECT expires_at FROM coupon_issue(:c, 'alice')), (SELECT expires_at FROM answer), 'nor the expiry');

-- no usage period, no expiry
SELECT coupon_campaign_create('forever', 10, policy => '{"kind": "FIXED", "amount": 500}') AS f \gset
SELECT is((SELECT expires_at FROM coupon_issue(:f, 'alice')), NULL, 'without usage_period_days: no expires_at');
SELECT ok(NOT (payload::jsonb ? 'expires_at'), 'and none in the event')
  FROM coupon.outbox WHERE type = 'coupon.issued' AND payload->>'campaign_id' = :f::text;
SELECT is(policy, '{"kind": "FIXED", "amount": 500}'::jsonb, 'FIXED snapshot') FROM coupon.issuance WHERE campaign_id = :f;

-- the longest period, and a day is 24 hours whatever the session's time zone does
SELECT coupon_campaign_create('long', 10, policy => '{"usage_period_days": 36500}') AS l \gset
SET LOCAL TimeZone = 'America/New_York';
SELECT is(extract(epoch FROM expires_at - issued_at), 36500::numeric * 86400, 'usage_period_days 36500 in a zone with summer time')
  FROM coupon_issue(:l, 'alice');
SET LOCAL TimeZone = 'UTC';

SELECT is((SELECT count(DISTINCT policy) FROM coupon.issuance i JOIN (SELECT unnest(ARRAY[:c, :f, :l]::bigint[]) AS campaign_id) x USING (campaign_id)),
	3::bigint, 'each campaign has its own snapshot');
SELECT is((SELECT policy FROM coupon.issuance WHERE campaign_id = :l), '{"usage_period_days": 36500}'::jsonb, 'a policy without kind');
-- F16: nothing that issues takes a policy, a discount or an expiry from its caller
SELECT is_empty($$
	SELECT p.proname, a.name FROM pg_proc p, unnest(p.proargnames[1:p.pronargs]) a(name)
	 WHERE p.proname LIKE 'coupon\_issue%' AND a.name NOT IN ('campaign_id', 'user_id', 'user_ids', 'request_key', 'request_keys') $$,
	'F16: issuing takes the campaign, the user and a key, nothing else');
SELECT is((SELECT count(*) FROM coupon_verify(:c)), 0::bigint, 'verify finds nothing');

SELECT * FROM finish();
ROLLBACK;
