-- Guards: what the core keeps by construction is kept for every other
-- writer, a superuser's own DML included.  Changes tables (rolled back), so
-- not beside another test.
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT plan(137);

CREATE FUNCTION pg_temp.put(c bigint, serial bigint, who text, nth integer DEFAULT 1, state text DEFAULT 'issued', shard integer DEFAULT NULL)
RETURNS void LANGUAGE sql AS $$
	INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy)
	VALUES ($1, $2, coalesce($6, (SELECT s.shard FROM coupon.shard s WHERE s.campaign_id = $1 AND $2 BETWEEN s.first_serial AND s.last_serial), 0),
	        $4, now(), $3, $5, '{}') $$;

-- inserts
SELECT coupon_campaign_create('guard', 3, per_user_limit => 2) AS c \gset
SELECT coupon_campaign_create('other', 100000) AS o \gset
SELECT coupon_campaign_create('empty', 0) AS k \gset
SELECT throws_ok(format('SELECT pg_temp.put(%s, 4, ''a'')', :c), '23514', NULL, 'F1: a serial above the stock');
SELECT throws_ok(format('SELECT pg_temp.put(%s, 0, ''a'')', :c), '23514', NULL, 'F1: serial 0');
SELECT throws_ok(format('SELECT pg_temp.put(%s, -1, ''a'')', :c), '23514', NULL, 'F1: a serial below 0');
SELECT throws_ok(format('SELECT pg_temp.put(%s, 9223372036854775807, ''a'')', :c), '23514', NULL, 'F1: the largest serial');
SELECT throws_ok(format('SELECT pg_temp.put(%s, 1, ''a'', shard => 7)', :c), '23514', NULL, 'F1: a shard that is not there');
SELECT throws_ok(format('SELECT pg_temp.put(%s, 1, ''a'', shard => 1)', :o), '23514', NULL, 'F1: a shard that has other serials');
SELECT throws_ok('SELECT pg_temp.put(9223372036854775807, 1, ''a'')', '23514', NULL, 'F1: a campaign that is not there');
SELECT throws_ok(format('SELECT pg_temp.put(%s, 1, ''a'', 3)', :c), '23514', NULL, 'nth above the per-user limit');
SELECT throws_ok(format('SELECT pg_temp.put(%s, 1, ''a'', 0)', :c), '23514', NULL, 'nth 0');
SELECT throws_ok(format('SELECT pg_temp.put(%s, 1, ''a'', -1)', :c), '23514', NULL, 'nth below 0');
SELECT throws_ok(format('SELECT pg_temp.put(%s, 1, ''a'', state => ''other'')', :c), '23514', NULL, 'an unknown state');
SELECT throws_ok(format('SELECT pg_temp.put(%s, 1, NULL)', :c), '23502', NULL, 'no user');
SELECT lives_ok(format('SELECT pg_temp.put(%s, 1, ''a'')', :c), 'a row that keeps the laws is accepted');
SELECT throws_ok(format('SELECT pg_temp.put(%s, 1, ''b'')', :c), '23505', NULL, 'F1: a serial twice');
SELECT throws_ok(format('SELECT pg_temp.put(%s, 2, ''a'', 1)', :c), '23505', NULL, 'F1: a user''s nth twice');
SELECT lives_ok(format('SELECT pg_temp.put(%s, 2, ''a'', 2)', :c), 'the limit can be reached');

-- the engine respects such rows
SELECT is((SELECT status FROM coupon_issue(:c, 'a')), 'already_issued', 'the engine sees that the limit is reached');
SELECT is((SELECT serial FROM coupon_issue(:c, 'b')), 3::bigint, 'and takes the unit that is left');
SELECT isnt((SELECT status FROM coupon_issue(:c, 'd')), 'issued', 'F1: no other');
SELECT is((SELECT count(*) FROM coupon_verify(:c)), 0::bigint, 'verify finds nothing');

-- the same when the map was built before the row was inserted
SELECT coupon_campaign_create('map first', 3) AS m \gset
SELECT serial AS s FROM coupon_issue(:m, 'a') \gset
SELECT pg_temp.put(:m, (SELECT min(n) FROM generate_series(1, 3) n WHERE n <> :s), 'x') AS ignore \gset
SELECT is((SELECT status FROM coupon_issue(:m, 'b')), 'issued', 'a map that is wrong towards free: the index refuses and another unit is taken');
SELECT isnt((SELECT status FROM coupon_issue(:m, 'c')), 'issued', 'F1: and no unit is sold twice');
SELECT is((SELECT count(*) FROM coupon.issuance WHERE campaign_id = :m), 3::bigint, 'F1: three rows');
SELECT is((SELECT status FROM coupon_issue(:m, 'x')), 'already_issued', 'the inserted user has their unit');
SELECT is(coupon_revoke(:m, 'x', 'r'), true, 'which can be revoked');
SELECT is((SELECT count(*) FROM coupon_verify(:m)), 0::bigint, 'verify finds nothing');

-- nor are such units taken off the sale
SELECT coupon_campaign_create('map wrong', 3) AS w \gset
SELECT serial AS s FROM coupon_issue(:w, 'a') \gset
SELECT min(n) AS x, max(n) AS y FROM generate_series(1, 3) n WHERE n <> :s \gset
SELECT pg_temp.put(:w, :x, 'x') AS ignore \gset
SELECT throws_ok(format('SELECT coupon_campaign_reduce_stock(%s, 2)', :w), 'UC009', NULL, 'a unit that somebody has is not withdrawn, whatever the map says');
SELECT pg_temp.put(:w, :y, 'y') AS ignore \gset
SELECT throws_ok(format('SELECT coupon_units_withdraw(%s, ARRAY[%s]::bigint[])', :w, :y), 'UC009', NULL, 'nor one that is named');
SELECT is((SELECT count(*) FROM coupon_verify(:w)), 0::bigint, 'verify finds nothing');

-- updates
SELECT throws_ok(format('UPDATE coupon.issuance SET serial = 4 WHERE campaign_id = %s AND serial = 3', :c), '23514', NULL, 'update to a serial above the stock');
SELECT throws_ok(format('UPDATE coupon.issuance SET serial = 2 WHERE campaign_id = %s AND serial = 3', :c), '23505', NULL, 'F1: update to a taken serial');
SELECT throws_ok(format('UPDATE coupon.issuance SET nth = 3 WHERE campaign_id = %s AND serial = 3', :c), '23514', NULL, 'update of nth above the limit');
SELECT throws_ok(format('UPDATE coupon.issuance SET shard = 9 WHERE campaign_id = %s AND serial = 3', :c), '23514', NULL, 'update of the shard');
SELECT throws_ok(format('UPDATE coupon.issuance SET state = ''x'' WHERE campaign_id = %s AND serial = 3', :c), '23514', NULL, 'update to an unknown state');
SELECT throws_ok(format('UPDATE coupon.issuance SET campaign_id = 9223372036854775807 WHERE campaign_id = %s AND serial = 3', :c), '23514', NULL, 'update to a campaign that is not there');

-- the definitions
SELECT throws_ok(format('DELETE FROM coupon.shard WHERE campaign_id = %s', :c), '0A000', NULL, 'a shard of an open campaign cannot be deleted');
SELECT throws_ok(format('UPDATE coupon.shard SET last_serial = last_serial - 1 WHERE campaign_id = %s', :c), '0A000', NULL, 'nor made smaller');
SELECT throws_ok(format('UPDATE coupon.issuance SET state = ''redeemed'' WHERE campaign_id = %s AND serial = 3', :c), '23514', NULL, 'redeemed by no order');
SELECT throws_ok(format('UPDATE coupon.issuance SET order_ref = ''x'' WHERE campaign_id = %s AND serial = 3', :c), '23514', NULL, 'an order that redeemed nothing');
SELECT throws_ok(format('DELETE FROM coupon.campaign WHERE campaign_id = %s', :c), '23503', NULL, 'a campaign that has shards cannot be deleted');
SELECT throws_ok(format('UPDATE coupon.campaign SET per_user_limit = 0 WHERE campaign_id = %s', :c), '23514', NULL, 'a limit of 0');
SELECT throws_ok(format('UPDATE coupon.campaign SET opens_at = ''2020-01-02'', closes_at = ''2020-01-01'' WHERE campaign_id = %s', :c), '23514', NULL, 'a window that ends before it begins');
SELECT throws_ok(format('INSERT INTO coupon.shard VALUES (%s, 50, 5, 4)', :c), '23514', NULL, 'a shard that ends before it begins');
SELECT throws_ok(format('INSERT INTO coupon.shard VALUES (%s, 50, 0, 4)', :c), '23514', NULL, 'a shard from serial 0');
SELECT throws_ok(format('INSERT INTO coupon.unit VALUES (%s, 0, ''L'')', :c), '23514', NULL, 'a label for serial 0');
SELECT lives_ok(format('INSERT INTO coupon.unit VALUES (%s, 1, ''L'')', :c), 'a label');
SELECT throws_ok(format('INSERT INTO coupon.unit VALUES (%s, 2, ''L'')', :c), '23505', NULL, 'F1: a label twice');
SELECT throws_ok($$INSERT INTO coupon.campaign (campaign_id, name, per_user_limit, policy, topic) VALUES (1, 'x', 1, '{}', 't')$$, '428C9', NULL, 'ids are the sequence''s');
SELECT throws_ok($$INSERT INTO coupon.outbox VALUES (gen_random_uuid(), 't', 'k', 'x', '{}')$$, '23514', NULL, 'an event in the parent instead of a child');

-- an id from the future would come before all that is appended later
SELECT coupon_emit('t', 'k', 'x', '{}') AS ignore \gset
SELECT throws_ok(format('INSERT INTO coupon.%I VALUES (''f0000000-0000-7000-8000-000000000000'', ''t'', ''k'', ''x'', ''{}'')', t), '0A000', NULL, 'an event past coupon_emit() in ' || t)
  FROM unnest('{outbox_0,outbox_1,outbox_2,outbox_parked}'::text[]) t;
SELECT throws_ok($$UPDATE coupon.outbox SET id = 'f0000000-0000-7000-8000-000000000000'$$, '0A000', NULL, 'an event''s id is not changed');
SELECT lives_ok($$DELETE FROM coupon.outbox WHERE type = 'x'$$, 'but it can be deleted');

-- A limit that was lowered: what was issued before stays valid, and counts.
SELECT coupon_campaign_create('lowered', 20, per_user_limit => 3, policy => '{"usage_period_days": 1}') AS l \gset
SELECT count(*) AS ignore FROM coupon_issue_many(:l, '{many,many,many,last,last,last,two,two}'::text[]) \gset
SELECT count(coupon_revoke(:l, 'last', 'r', serial)) AS ignore FROM coupon.issuance WHERE campaign_id = :l AND user_id = 'last' AND nth < 3 \gset
UPDATE coupon.campaign SET per_user_limit = 1 WHERE campaign_id = :l;
SELECT is((SELECT max_per_user_limit FROM coupon.campaign WHERE campaign_id = :l), 3, 'the campaign remembers the highest limit');
SELECT is((SELECT string_agg(status, ' ') FROM coupon_issue_many(:l, '{many,last,two,new,new}'::text[])),
	'already_issued already_issued already_issued issued already_issued', 'a lowered limit counts what a user has, whichever numbers it has');
SELECT is((SELECT status FROM coupon_hold_any(:l, u)), 'already_issued', 'of a hold, too: ' || u) FROM unnest('{many,last,two}'::text[]) u;
SELECT is((SELECT max(n) FROM (SELECT count(*) AS n FROM coupon.issuance WHERE campaign_id = :l AND user_id IN ('last', 'new') GROUP BY user_id) x), 1::bigint, 'and nobody has more than before');
SELECT is((SELECT status FROM coupon_redeem(:l, 'last', 'o')), 'redeemed', 'what is above a lowered limit can be redeemed');
SELECT is((SELECT status FROM coupon_redeem_cancel(:l, 'last', 'o')), 'cancelled', 'and given back');
UPDATE coupon.issuance SET expires_at = now() - interval '1 s' WHERE campaign_id = :l;
SELECT is(coupon_expire(), 7::bigint, 'and expires');
SELECT is((SELECT count(*) FROM coupon_verify(:l)), 0::bigint, 'verify judges by the limit of its time');
SELECT throws_ok(format('SELECT pg_temp.put(%s, 20, ''a'', 4)', :l), '23514', NULL, 'above every limit that there was');
SELECT throws_ok(format('UPDATE coupon.campaign SET max_per_user_limit = 1 WHERE campaign_id = %s', :l), '23514', NULL, 'the highest limit is not lowered');
UPDATE coupon.campaign SET per_user_limit = 5 WHERE campaign_id = :l;
SELECT is((SELECT string_agg(status, ' ') FROM coupon_issue_many(:l, '{many,many,many,last}'::text[])), 'issued issued already_issued issued', 'a raised limit gives the rest');
SELECT throws_ok(format('UPDATE coupon.campaign SET per_user_limit = 10001 WHERE campaign_id = %s', :l), '23514', NULL, 'a limit that is too high');

CREATE FUNCTION pg_temp.with_change(change text, call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE answer text;
BEGIN
	EXECUTE change;
	EXECUTE call INTO answer;
	RAISE EXCEPTION USING ERRCODE = 'TT000', MESSAGE = answer;
EXCEPTION
	WHEN SQLSTATE 'TT000' THEN RETURN SQLERRM;
	WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS answer = PG_EXCEPTION_HINT;
		RETURN SQLSTATE || CASE WHEN SQLSTATE NOT LIKE '23%' AND answer = '' THEN ' without a HINT' ELSE '' END;
END $$;

-- Our trigger functions read rows of their own tables, and do nothing for others.
CREATE TEMP TABLE misuse (x text);
INSERT INTO misuse VALUES ('x');
CREATE TEMP VIEW misuse_view AS SELECT x FROM misuse;
SELECT is(pg_temp.with_change(format('CREATE TRIGGER zz %s EXECUTE FUNCTION coupon.%s()', t, f), statement), '39P01', f || '(): ' || t)
  FROM unnest(ARRAY['issuance_arrived', 'issuance_returned', 'campaign_changed', 'room_changed', 'policy_guard', 'shard_deleted']) f,
       (VALUES ('AFTER TRUNCATE ON misuse FOR EACH STATEMENT', 'TRUNCATE misuse'),
               ('BEFORE TRUNCATE ON misuse FOR EACH STATEMENT', 'TRUNCATE misuse'),
               ('AFTER INSERT ON misuse FOR EACH ROW', 'INSERT INTO misuse VALUES (''y'')'),
               ('AFTER UPDATE ON misuse FOR EACH ROW', 'UPDATE misuse SET x = ''y'''),
               ('AFTER DELETE ON misuse FOR EACH ROW', 'DELETE FROM misuse'),
               ('BEFORE DELETE ON misuse FOR EACH STATEMENT', 'DELETE FROM misuse'),
               ('INSTEAD OF INSERT ON misuse_view FOR EACH ROW', 'INSERT INTO misuse_view VALUES (''y'')')) x(t, statement);
SELECT is(pg_temp.with_change(format('CREATE TRIGGER zz %s EXECUTE FUNCTION coupon.%s()', t, f), statement), '39P01', f || '(): ' || t)
  FROM (VALUES ('issuance_returned', 'AFTER INSERT ON coupon.issuance FOR EACH ROW', format('SELECT pg_temp.put(%s, 1, ''a'')', :o)),
               ('issuance_returned', 'BEFORE DELETE ON coupon.issuance FOR EACH ROW', format('DELETE FROM coupon.issuance WHERE campaign_id = %s', :c)),
               ('issuance_returned', 'AFTER DELETE ON coupon.issuance FOR EACH STATEMENT', format('DELETE FROM coupon.issuance WHERE campaign_id = %s', :c)),
               ('issuance_arrived', 'AFTER DELETE ON coupon.issuance FOR EACH ROW', format('DELETE FROM coupon.issuance WHERE campaign_id = %s', :c)),
               ('issuance_arrived', 'AFTER UPDATE ON coupon.campaign FOR EACH ROW', format('UPDATE coupon.campaign SET paused = true WHERE campaign_id = %s', :c)),
               ('policy_guard', 'AFTER DELETE ON coupon.campaign FOR EACH ROW', format('DELETE FROM coupon.campaign WHERE campaign_id = %s', :k)),
               ('campaign_changed', 'AFTER UPDATE ON coupon.campaign FOR EACH STATEMENT', format('UPDATE coupon.campaign SET paused = true WHERE campaign_id = %s', :c))) x(f, t, statement);
SELECT is(pg_temp.with_change('CREATE TRIGGER zz AFTER TRUNCATE ON misuse FOR EACH STATEMENT EXECUTE FUNCTION coupon.queue_guard()', 'TRUNCATE misuse'), '0A000', 'queue_guard() on another table');

-- A policy is checked however it comes.  One that came past the check, in a
-- restore without triggers, means that nothing expires.
SELECT coupon_campaign_create('policy', 10, policy => '{"usage_period_days": 1}') AS y \gset
SELECT throws_ok(format('UPDATE coupon.campaign SET policy = %L WHERE campaign_id = %s', policy, :y), '22023', 'invalid policy', 'a policy of ' || policy)
  FROM unnest(ARRAY['[]', 'null', '1', '"x"', '[{"usage_period_days": 1}]', '{"usage_period_days": 1e400}', '{"usage_period_days": "1"}']) policy;
SELECT serial AS y1 FROM coupon_hold_any(:y, 'holds') \gset
SET LOCAL session_replication_role = replica;
UPDATE coupon.issuance SET policy = '[]' WHERE campaign_id = :y;
SELECT is((SELECT status FROM coupon_confirm(:y, :y1, 'holds', 'p')), 'confirmed', 'an issuance with a policy of []');
CREATE FUNCTION pg_temp.issue_with(c bigint, policy jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	UPDATE coupon.campaign SET policy = $2 WHERE campaign_id = c;
	RETURN (SELECT i.status || coalesce(' until ' || i.expires_at, ' for good') FROM coupon_issue(c, policy::text) i);
END $$;
SELECT is(pg_temp.issue_with(:y, policy), 'issued for good', 'a campaign with a policy of ' || policy::text)
  FROM unnest(ARRAY['[]', 'null', '1', '[{"usage_period_days": 1}]', '{"usage_period_days": 99999}', '{"usage_period_days": "1"}']::jsonb[]) policy;
SET LOCAL session_replication_role = origin;

-- truncation would leave shared memory behind
SELECT throws_ok('TRUNCATE coupon.issuance', '0A000', 'cannot truncate table coupon.issuance', 'TRUNCATE issuance');
SELECT throws_like('TRUNCATE coupon.shard CASCADE', 'cannot truncate table coupon.%', 'TRUNCATE shard CASCADE');
SELECT throws_like('TRUNCATE coupon.campaign CASCADE', 'cannot truncate table coupon.%', 'TRUNCATE campaign CASCADE');
SELECT is((SELECT status FROM coupon_issue(:c, 'a')), 'already_issued', 'all is still there');

SELECT * FROM finish();
ROLLBACK;
