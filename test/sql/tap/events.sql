-- Events: exactly one for each change, none for anything else; their
-- contents, ids and order; coupon_emit.
BEGIN;
SET LOCAL client_min_messages = error;
SET LOCAL TimeZone = 'Asia/Seoul';
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT plan(92);

-- What was appended since the last look, in append order.
CREATE TEMP TABLE seen (id uuid PRIMARY KEY);
INSERT INTO seen SELECT id FROM coupon.outbox;
CREATE FUNCTION pg_temp.new_events() RETURNS text LANGUAGE plpgsql AS $$
DECLARE answer text;
BEGIN
	SELECT coalesce(string_agg(type || ':' || key, ' ' ORDER BY id), '') INTO answer
	  FROM coupon.outbox o WHERE NOT EXISTS (SELECT 1 FROM seen s WHERE s.id = o.id);
	INSERT INTO seen SELECT id FROM coupon.outbox o ON CONFLICT DO NOTHING;
	RETURN answer;
END $$;
CREATE FUNCTION pg_temp.last_event() RETURNS coupon.outbox LANGUAGE sql AS
	$$ SELECT o FROM coupon.outbox o ORDER BY id DESC LIMIT 1 $$;
-- the keys of the newest event's payload, sorted
CREATE FUNCTION pg_temp.last_keys() RETURNS text LANGUAGE sql AS
	$$ SELECT string_agg(k, ' ' ORDER BY k COLLATE "C") FROM json_object_keys((pg_temp.last_event()).payload) k $$;
CREATE FUNCTION pg_temp.last_payload() RETURNS jsonb LANGUAGE sql AS
	$$ SELECT (pg_temp.last_event()).payload::jsonb $$;

-- the same call again and again: the statuses
CREATE FUNCTION pg_temp.issue_times(bigint, text, integer) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE answers text[];
BEGIN
	FOR i IN 1..$3 LOOP
		answers := answers || (coupon_issue($1, $2)).status;
	END LOOP;
	RETURN answers;
END $$;

-- 'ok', or the SQLSTATE
CREATE FUNCTION pg_temp.emits(topic text, type text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM coupon_emit(topic, 'k', type, '{}');
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	RETURN sqlstate;
END $$;
CREATE FUNCTION pg_temp.creates(topic text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM coupon_campaign_create('c', 1, topic => topic);
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	RETURN sqlstate;
END $$;

-- campaigns
SELECT is(pg_temp.new_events(), '', 'no events yet');
SELECT coupon_campaign_create('events', 10, per_user_limit => 2, policy => '{"kind": "FIXED", "amount": 1000, "usage_period_days": 3}', topic => 'my-topic') AS c \gset
SELECT is(pg_temp.new_events(), 'coupon.campaign_created:' || :c, 'create: one event, key is the campaign');
SELECT is((pg_temp.last_event()).topic, 'my-topic', 'its topic is the campaign''s');
SELECT is(pg_temp.last_payload()->>'campaign_id', :c::text, 'its payload names the campaign');
SELECT coupon_campaign_add_stock(:c, 5) AS ignore \gset
SELECT is(pg_temp.new_events(), 'coupon.campaign_stock_added:' || :c, 'add_stock: one event');
SELECT is(pg_temp.last_payload()->>'campaign_id', :c::text, 'its payload names the campaign');
SELECT coupon_campaign_pause(:c) AS ignore \gset
SELECT is(pg_temp.new_events(), 'coupon.campaign_paused:' || :c, 'pause: one event');
SELECT coupon_campaign_pause(:c) AS ignore \gset
SELECT is(pg_temp.new_events(), '', 'pause again: none');
SELECT count(*) AS ignore FROM coupon_issue(:c, 'refused') \gset
SELECT is(pg_temp.new_events(), '', 'an answer paused: none');
SELECT coupon_campaign_resume(:c) AS ignore \gset
SELECT is(pg_temp.new_events(), 'coupon.campaign_resumed:' || :c, 'resume: one event');
SELECT coupon_campaign_resume(:c) AS ignore \gset
SELECT is(pg_temp.new_events(), '', 'resume again: none');

-- issue
CREATE TEMP TABLE answer AS SELECT * FROM coupon_issue(:c, 'alice');
SELECT is(pg_temp.new_events(), 'coupon.issued:alice', 'issue: one event, key is the user');
SELECT is((pg_temp.last_event()).topic, 'my-topic', 'its topic is the campaign''s');
SELECT is(pg_temp.last_keys(), 'campaign_id expires_at issued_at policy serial user_id', 'its payload''s keys');
SELECT is(pg_temp.last_payload() - '{issued_at,expires_at}'::text[],
	jsonb_build_object('campaign_id', :c, 'user_id', 'alice', 'serial', serial,
		'policy', '{"kind": "FIXED", "amount": 1000, "usage_period_days": 3}'::jsonb), 'its payload''s values') FROM answer;
SELECT is((pg_temp.last_payload()->>'issued_at')::timestamptz, issued_at, 'issued_at is exact') FROM answer;
SELECT is((pg_temp.last_payload()->>'expires_at')::timestamptz, expires_at, 'expires_at is exact') FROM answer;
SELECT matches(pg_temp.last_payload()->>'issued_at', '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|\+00:00)$', 'times are ISO 8601 in UTC, whatever the session''s zone');
SELECT pg_temp.issue_times(:c, 'alice', 2) AS ignore \gset
SELECT is(pg_temp.new_events(), 'coupon.issued:alice', 'the second unit has an event, the retry has none');
SELECT count(*) AS ignore FROM coupon_issue_many(:c, ARRAY['x', '', NULL, 'y', 'alice', 'x', 'x', 'z']) \gset
SELECT is((SELECT string_agg(e, ' ' ORDER BY e) FROM regexp_split_to_table(pg_temp.new_events(), ' ') e),
	'coupon.issued:x coupon.issued:x coupon.issued:y coupon.issued:z', 'many: one event for each unit, none for the others');
SELECT is((SELECT count(DISTINCT payload->>'serial') FROM coupon.outbox WHERE type = 'coupon.issued' AND payload->>'campaign_id' = :c::text AND key IN ('x', 'y', 'z')),
	4::bigint, 'each with its own serial');

-- awkward users survive JSON
SELECT count(*) AS ignore FROM coupon_issue(:c, E'q"b\\s/t\tn\nc\u0001\u00e9가😀') \gset
SELECT is(pg_temp.last_payload()->>'user_id', E'q"b\\s/t\tn\nc\u0001\u00e9가😀', 'quotes, backslashes, control and other characters come through');
SELECT is((pg_temp.last_event()).key, E'q"b\\s/t\tn\nc\u0001\u00e9가😀', 'also in the key');
SELECT count(*) AS ignore FROM coupon_issue(:c, repeat('"', 256)) \gset
SELECT is(pg_temp.last_payload()->>'user_id', repeat('"', 256), 'a user of 256 quotes');
SELECT pg_temp.new_events() AS ignore \gset

-- redeem, cancel
SELECT serial AS s1 FROM coupon.issuance WHERE campaign_id = :c AND user_id = 'alice' AND nth = 1 \gset
SELECT serial AS s2 FROM coupon.issuance WHERE campaign_id = :c AND user_id = 'alice' AND nth = 2 \gset
SELECT count(*) AS ignore FROM coupon_redeem(:c, 'alice', 'order "1"') \gset
SELECT is(pg_temp.new_events(), 'coupon.redeemed:alice', 'redeem: one event, key is the user');
SELECT is((pg_temp.last_event()).topic, 'my-topic', 'its topic is the campaign''s');
SELECT is(pg_temp.last_payload() @> jsonb_build_object('campaign_id', :c, 'user_id', 'alice', 'serial', :s1, 'order_ref', 'order "1"'), true,
	'its payload names campaign, user, serial and order');
SELECT is((pg_temp.last_payload()->>'redeemed_at')::timestamptz, redeemed_at, 'and the time') FROM coupon.issuance WHERE campaign_id = :c AND serial = :s1;
SELECT count(*) AS ignore FROM coupon_redeem(:c, 'alice', 'order "1"') \gset
SELECT is(pg_temp.new_events(), '', 'the same order again: none');
SELECT count(*) AS ignore FROM coupon_redeem(:c, 'alice', 'order 2', :s1) \gset
SELECT is(pg_temp.new_events(), '', 'another order on the used unit: none');
SELECT count(*) AS ignore FROM coupon_redeem(:c, 'nobody', 'order 2') \gset
SELECT is(pg_temp.new_events(), '', 'redeem without a unit: none');
SELECT count(*) AS ignore FROM coupon_redeem_cancel(:c, 'alice', 'order 2', :s1) \gset
SELECT is(pg_temp.new_events(), '', 'cancel by another order: none');
SELECT count(*) AS ignore FROM coupon_redeem_cancel(:c, 'alice', 'order "1"') \gset
SELECT is(pg_temp.new_events(), 'coupon.redeem_cancelled:alice', 'cancel: one event');
SELECT is(pg_temp.last_payload() @> jsonb_build_object('campaign_id', :c, 'user_id', 'alice', 'serial', :s1, 'order_ref', 'order "1"'), true,
	'its payload names campaign, user, serial and order');
SELECT count(*) AS ignore FROM coupon_redeem_cancel(:c, 'alice', 'order "1"') \gset
SELECT is(pg_temp.new_events(), '', 'cancel again: none');
SELECT count(*) AS ignore FROM coupon_redeem_cancel(:c, 'nobody', 'order 1') \gset
SELECT is(pg_temp.new_events(), '', 'cancel without a unit: none');

-- revoke
SELECT coupon_revoke(:c, 'alice', E'because "of"\nthat') AS ignore \gset
SELECT is(pg_temp.new_events(), 'coupon.revoked:alice', 'revoke: one event');
SELECT is((pg_temp.last_event()).topic, 'my-topic', 'its topic is the campaign''s');
SELECT is(pg_temp.last_payload() @> jsonb_build_object('campaign_id', :c, 'user_id', 'alice', 'serial', :s2, 'reason', E'because "of"\nthat'), true,
	'its payload names campaign, user, serial and reason');
SELECT coupon_revoke(:c, 'nobody', 'r') AS ignore \gset
SELECT is(pg_temp.new_events(), '', 'revoke of nothing: none');
SELECT count(*) AS ignore FROM coupon_redeem(:c, 'alice', 'order 3') \gset
SELECT pg_temp.new_events() AS ignore \gset
SELECT throws_ok(format('SELECT coupon_revoke(%s, ''alice'', ''r'')', :c), 'UC005', NULL, 'revoke a redeemed unit fails');
SELECT is(pg_temp.new_events(), '', 'and has no event');

-- expire
SELECT coupon_expire(1000000) AS ignore \gset
SELECT pg_temp.new_events() AS ignore \gset
UPDATE coupon.issuance SET expires_at = clock_timestamp() - interval '1 s' WHERE campaign_id = :c AND user_id IN ('x', 'y') AND nth = 1;
SELECT count(*) AS ignore FROM coupon_redeem(:c, 'y', 'late') \gset
SELECT is(pg_temp.new_events(), '', 'an answer expired: none');
SELECT coupon_expire(1000) AS ignore \gset
SELECT is((SELECT string_agg(e, ' ' ORDER BY e) FROM regexp_split_to_table(pg_temp.new_events(), ' ') e), 'coupon.expired:x coupon.expired:y', 'expire: one event for each');
SELECT is((pg_temp.last_event()).topic, 'my-topic', 'its topic is the campaign''s');
SELECT is(pg_temp.last_payload() @> jsonb_build_object('campaign_id', :c, 'user_id', i.user_id, 'serial', i.serial), true, 'its payload names campaign, user and serial')
  FROM coupon.issuance i WHERE i.campaign_id = :c AND i.user_id = (pg_temp.last_event()).key AND i.nth = 1;
SELECT is((pg_temp.last_payload()->>'expires_at')::timestamptz, i.expires_at, 'and the time')
  FROM coupon.issuance i WHERE i.campaign_id = :c AND i.user_id = (pg_temp.last_event()).key AND i.nth = 1;
SELECT coupon_expire(1000) AS ignore \gset
SELECT is(pg_temp.new_events(), '', 'expire again: none');

-- the end of the campaign
SELECT coupon_campaign_close(:c) AS ignore \gset
SELECT is(pg_temp.new_events(), 'coupon.campaign_closed:' || :c, 'close: one event');
SELECT coupon_campaign_close(:c) AS ignore \gset
SELECT is(pg_temp.new_events(), '', 'close again: none');
SELECT count(*) AS ignore FROM coupon_issue_many(:c, ARRAY['new', 'x']) \gset
SELECT is(pg_temp.new_events(), '', 'answers closed and already_issued: none');
SELECT throws_ok(format('SELECT coupon_campaign_add_stock(%s, 1)', :c), 'UC002', NULL, 'add_stock fails after the close');
SELECT is(pg_temp.new_events(), '', 'and has no event');

-- other refusals
SELECT coupon_campaign_create('none', 0) AS n \gset
SELECT coupon_campaign_create('future', 1, opens_at => '2999-01-01 00:00:00+00') AS f \gset
SELECT pg_temp.new_events() AS ignore \gset
SELECT is((SELECT status FROM coupon_issue(:n, 'a')) || ' ' || (SELECT status FROM coupon_issue(:f, 'a')), 'sold_out not_open', 'refusals');
SELECT is(pg_temp.new_events(), '', 'sold_out and not_open: none');
SELECT count(*) AS ignore FROM coupon_status(:n) \gset
SELECT count(*) AS ignore FROM coupon_verify(:n) \gset
SELECT is(pg_temp.new_events(), '', 'status and verify: none');

-- codes
SELECT coupon_codes_import(:n, ARRAY['A', 'B']) AS ignore \gset
SELECT is(pg_temp.new_events(), 'coupon.campaign_stock_added:' || :n, 'import: one event for the call');
SELECT coupon_codes_import(:n, ARRAY['A', 'B']) AS ignore \gset
SELECT is(pg_temp.new_events(), '', 'import of duplicates only: none');
SELECT coupon_codes_import(:n, '{}') AS ignore \gset
SELECT is(pg_temp.new_events(), '', 'import of an empty array: none');
SELECT coupon_codes_generate(:n, 'X-####', 3) AS ignore \gset
SELECT is(pg_temp.new_events(), 'coupon.campaign_stock_added:' || :n, 'generate: one event for the call');
SELECT unalike(pg_temp.last_event()::text, '%X-%', 'which does not carry the codes');
DELETE FROM answer;
INSERT INTO answer SELECT * FROM coupon_issue(:n, 'a');
SELECT is(pg_temp.last_keys(), 'campaign_id code issued_at policy serial user_id', 'a coded unit''s event has the code, and no expiry without a usage period');
SELECT is(pg_temp.last_payload()->>'code', code, 'which is the answer''s') FROM answer;
SELECT is((pg_temp.last_event()).topic, 'coupon-issued', 'the default topic');
SELECT is(pg_temp.new_events(), 'coupon.issued:a', 'and one event');
SELECT count(*) AS ignore FROM coupon_redeem(:n, 'a', 'o') \gset
SELECT is(pg_temp.last_payload()->>'code', code, 'a redemption''s event has the code') FROM answer;
SELECT pg_temp.new_events() AS ignore \gset

-- the application's own events
SELECT coupon_emit('payment-completed', 'user 1', 'payment.completed', '{"amount": 10, "nested": {"a": [1, null]}}') AS id \gset
SELECT is(pg_temp.new_events(), 'payment.completed:user 1', 'emit: one event');
SELECT is((pg_temp.last_event()).id, :'id'::uuid, 'emit returns the event''s id');
SELECT is((pg_temp.last_event()).topic, 'payment-completed', 'emit: topic');
SELECT is(pg_temp.last_payload(), '{"amount": 10, "nested": {"a": [1, null]}}'::jsonb, 'emit: payload');
SELECT throws_ok($$SELECT coupon_emit('t', 'k', 'coupon.issued', '{}')$$, '22023', NULL, 'emit cannot forge the engine''s own events');
SELECT throws_ok($$SELECT coupon_emit('t', 'k', 'coupon.', '{}')$$, '22023', NULL, 'nor anything that begins like them');
SELECT lives_ok($$SELECT coupon_emit('t', 'k', 'coupons', '{}')$$, 'another name is fine');
-- what a reader or a consumer would take for the engine's own
SELECT is_empty(format($$SELECT t FROM unnest(%L::text[]) t WHERE pg_temp.emits('t', t) <> '22023'$$, ARRAY[
	'Coupon.issued', 'COUPON.ISSUED', ' coupon.issued', 'coupon.issued ', E'\tcoupon.issued', E'coupon.issued\r\n',
	E'x\ncoupon.issued', E'\u200bcoupon.issued', E'cou\u200dpon.issued', E'\ufeffcoupon.issued', E'\u0441oupon.issued',
	E'\uff43oupon.issued', 'coupon\.issued', 'coupon .issued', E'\u00a0coupon.issued', 'a"b', 'a''b', 'a,b', E'a\u007f']),
	'nor types that look like them: other case, blanks, invisible or foreign letters, ends of lines');
SELECT is_empty($$SELECT t FROM unnest('{my.type,com.example.Order-Placed,v1/order_placed,urn:order:placed,coupon,coupon-x,1}'::text[]) t
	WHERE pg_temp.emits('t', t) <> 'ok'$$, 'ordinary types are fine');
SELECT is_empty(format($$SELECT t FROM unnest(%L::text[]) t WHERE pg_temp.emits(t, 'y') <> '22023'$$, ARRAY[
	'my-topic', 'coupon-issued', 'my-topic.DLT', 'other.DLT', 'other.dlt', '__consumer_offsets', '__transaction_state', '__x',
	'.', '..', 'a b', 'a/b', E'a\n', E'a\u200b', '', repeat('x', 246)]),
	'nor to topics of campaigns, of dead letters, of Kafka itself, or that Kafka would not have');
SELECT is_empty($$SELECT t FROM unnest('{my-topics,coupon,_a,a__b,DLT,a.DLTs}'::text[]) t WHERE pg_temp.emits(t, 'y') <> 'ok'$$, 'ordinary topics are fine');
SELECT throws_like($$SELECT coupon_emit('my-topic', 'k', 'y', '{}')$$, '%topic "my-topic" belongs to a campaign%', 'and it says why');
SELECT is_empty(format($$SELECT t FROM unnest(%L::text[]) t WHERE pg_temp.creates(t) <> '22023'$$, ARRAY[
	'x.DLT', '__consumer_offsets', 'a b']), 'a campaign has no such topic either');
SELECT pg_temp.new_events() AS ignore \gset

-- rolled back with the change
SAVEPOINT s;
SELECT coupon_emit('t', 'k', 'rolled.back', '{}') AS ignore \gset
SELECT count(*) AS ignore FROM coupon_issue(:n, 'rolled back') \gset
ROLLBACK TO s;
SELECT is(pg_temp.new_events(), '', 'F21: what is rolled back has no event');
SAVEPOINT s;
SELECT count(*) AS ignore FROM coupon_issue(:n, 'released') \gset
RELEASE s;
SELECT is(pg_temp.new_events(), 'coupon.issued:released', 'and there is one event');

-- ids
SELECT is_empty($$SELECT id FROM coupon.outbox WHERE substr(id::text, 15, 1) <> '7' OR substr(id::text, 20, 1) NOT IN ('8', '9', 'a', 'b')$$, 'every id is a UUID of version 7');
CREATE TEMP TABLE emitted AS SELECT g AS n, coupon_emit('t', 'k', 'many', '{}') AS id FROM generate_series(1, 20000) g;
SELECT is_empty($$SELECT * FROM (SELECT id, lag(id) OVER (ORDER BY n) AS before FROM emitted) x WHERE id <= before$$,
	'20,000 ids in a row are strictly increasing');
SELECT is_empty($$SELECT id, count(*) FROM coupon.outbox GROUP BY id HAVING count(*) > 1$$, 'no id comes twice');
SELECT count(*) AS ignore FROM coupon_issue_many(:n, ARRAY['i', 'j', 'k']) \gset
SELECT coupon_emit('t', 'k', 'after', '{}') AS last_id \gset
SELECT is((SELECT string_agg(key, ' ' ORDER BY key) FROM coupon.outbox WHERE id > (SELECT id FROM emitted WHERE n = 20000) AND id < :'last_id'),
	'i j k', 'issuing takes its ids from the same sequence');
SELECT ok(abs(extract(epoch FROM clock_timestamp()) * 1000 - ('x' || substr(replace(id::text, '-', ''), 1, 12))::bit(48)::bigint) < 60000, 'an id begins with its time in milliseconds')
  FROM pg_temp.last_event();
SELECT is((SELECT count(*) FROM ONLY coupon.outbox), 0::bigint, 'the rows are in the children');

-- a large outbox, one event a page: who watches it reads a part of it, and not the front's time
CREATE FUNCTION pg_temp.pages(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE plan json;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, TIMING off, FORMAT json) ' || query INTO plan;
	RETURN (plan #>> '{0,Plan,Shared Hit Blocks}')::bigint + (plan #>> '{0,Plan,Shared Read Blocks}')::bigint;
END $$;
ALTER TABLE coupon.outbox_0 SET (fillfactor = 10);
ALTER TABLE coupon.outbox_1 SET (fillfactor = 10);
ALTER TABLE coupon.outbox_2 SET (fillfactor = 10);
SELECT count(coupon_emit('t', 'k', 'large', jsonb_build_object('text', repeat('x', 600)))) AS ignore FROM generate_series(1, 6500) g \gset
INSERT INTO coupon.dead_letter SELECT gen_random_uuid(), 't', 'k', 'x', '{}', 'r', 1, now() FROM generate_series(1, 10050);
SELECT is(s.unpublished || ' ' || s.dead_letters, n.events || ' 10050', 'coupon_outbox_status() counts each event and dead letter')
  FROM coupon_outbox_status() s, (SELECT count(*) AS events FROM coupon.outbox) n;
SELECT is(o.dead_letters, 10000::bigint, 'coupon.stat_outbox no more dead letters than 10,000') FROM coupon.stat_outbox o;
SELECT ok(abs(o.unpublished - n.events) < 0.05 * n.events AND o.oldest_seconds BETWEEN 0 AND 600, 'and estimates the events')
  FROM coupon.stat_outbox o, (SELECT count(*) AS events FROM coupon.outbox) n;
SELECT cmp_ok(pg_temp.pages('SELECT * FROM coupon_outbox_status()'), '>', 6500::bigint, 'which costs all pages');
SELECT cmp_ok(pg_temp.pages('SELECT * FROM coupon.stat_outbox'), '<', 3500::bigint, 'or some of them');

SELECT * FROM finish();
ROLLBACK;
