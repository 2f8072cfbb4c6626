-- coupon_verify: empty when all is well, and each violation is found.  The
-- violations are made with triggers off and, at the end, without the unique
-- indexes; all of it is rolled back.
-- Locks tables, so not beside another test.
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT plan(39);

CREATE FUNCTION pg_temp.laws(bigint) RETURNS text LANGUAGE sql AS
	$$ SELECT coalesce(string_agg(DISTINCT law, ', ' ORDER BY law), '') FROM coupon_verify($1) $$;
-- events are looked at without a campaign only
CREATE FUNCTION pg_temp.laws_and_events(bigint) RETURNS text LANGUAGE sql AS
	$$ SELECT coalesce(string_agg(DISTINCT law, ', ' ORDER BY law), '') FROM coupon_verify() WHERE campaign = $1 $$;
-- a campaign of 10 units with issuances for alice and bob; returns its id
CREATE FUNCTION pg_temp.sale(integer DEFAULT 1) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE c bigint := coupon_campaign_create('verify', 10, $1);
BEGIN
	PERFORM coupon_issue_many(c, ARRAY['alice', 'bob']);
	RETURN c;
END $$;
-- a row as a writer without scruples would insert it
CREATE FUNCTION pg_temp.forge(bigint, bigint, text, integer DEFAULT 1) RETURNS void LANGUAGE sql AS $$
	INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy)
	VALUES ($1, $2, 0, $4, now(), $3, 'issued', '{}') $$;

-- all is well
SELECT pg_temp.sale(2) AS c \gset
SELECT count(*) AS ignore FROM coupon_issue_many(:c, ARRAY['alice', 'carol', 'dave']) \gset
SELECT count(*) AS ignore FROM coupon_redeem(:c, 'carol', 'o') \gset
SELECT coupon_revoke(:c, 'dave', 'r') AS ignore \gset
SELECT is(pg_temp.laws(:c), '', 'empty after issue, redeem and revoke');
SELECT coupon_campaign_create('coded', 0) AS k \gset
SELECT coupon_codes_import(:k, ARRAY['A', 'B']) AS ignore \gset
SELECT count(*) AS ignore FROM coupon_issue_many(:k, ARRAY['a', 'b', 'c']) \gset
SELECT is(pg_temp.laws(:k), '', 'empty for a coded campaign');
SELECT is(pg_temp.laws(9223372036854775807), '', 'empty for an unknown campaign');
SELECT is((SELECT count(*) FROM coupon_verify(NULL)), (SELECT count(*) FROM coupon_verify()), 'NULL is every campaign');

SET LOCAL session_replication_role = replica;

SELECT pg_temp.sale() AS c \gset
SELECT pg_temp.forge(:c, 11, 'mallory') AS ignore \gset
SELECT is(pg_temp.laws(:c), 'oversold: serial outside the shards', 'a serial above the stock');
SELECT results_eq(format('SELECT campaign, serial, user_id FROM coupon_verify(%s)', :c), format('VALUES (%s::bigint, 11::bigint, ''mallory'')', :c), 'the row says where');
SELECT pg_temp.sale() AS c \gset
SELECT pg_temp.forge(:c, 0, 'mallory') AS ignore \gset
SELECT is(pg_temp.laws(:c), 'oversold: serial outside the shards', 'serial 0');
SELECT pg_temp.sale() AS c \gset
UPDATE coupon.issuance SET shard = 99 WHERE campaign_id = :c AND user_id = 'alice';
SELECT is(pg_temp.laws(:c), 'oversold: serial outside the shards', 'a shard that is not there');
SELECT coupon_campaign_create('large', 100000) AS c \gset
SELECT count(*) AS ignore FROM coupon_issue(:c, 'alice') \gset
UPDATE coupon.issuance i SET shard = s.shard FROM coupon.shard s
 WHERE i.campaign_id = :c AND s.campaign_id = :c AND s.shard <> i.shard AND s.shard IN (0, 1);
SELECT is(pg_temp.laws(:c), 'oversold: serial outside the shards', 'a shard that has other serials');

SELECT pg_temp.sale() AS c \gset
SELECT serial AS free FROM generate_series(1, 10) serial WHERE serial NOT IN (SELECT serial FROM coupon.issuance WHERE campaign_id = :c) LIMIT 1 \gset
SELECT pg_temp.forge(:c, :free, 'alice', 2) AS ignore \gset
SELECT is(pg_temp.laws(:c), 'per-user limit exceeded', 'a second unit where the limit is one');
SELECT is(user_id, 'alice', 'the row says who') FROM coupon_verify(:c);
SELECT pg_temp.sale(2) AS c \gset
UPDATE coupon.issuance SET nth = 3 WHERE campaign_id = :c AND user_id = 'alice';
SELECT is(pg_temp.laws(:c), 'per-user limit exceeded', 'nth above the limit');

SELECT pg_temp.sale() AS c \gset
UPDATE coupon.shard SET first_serial = 2 WHERE campaign_id = :c AND shard = 0;
SELECT matches(pg_temp.laws(:c), 'shards overlap or leave a gap', 'a gap before the first shard');
SELECT coupon_campaign_create('large', 100000) AS c \gset
UPDATE coupon.shard SET last_serial = last_serial + 1 WHERE campaign_id = :c AND shard = 0;
SELECT is(pg_temp.laws(:c), 'shards overlap or leave a gap', 'two shards overlap');
SELECT coupon_campaign_create('large', 100000) AS c \gset
UPDATE coupon.shard SET last_serial = last_serial - 1 WHERE campaign_id = :c AND shard = 0;
SELECT is(pg_temp.laws(:c), 'shards overlap or leave a gap', 'a gap between two shards');
SELECT coupon_campaign_create('large', 100000) AS c \gset
UPDATE coupon.shard SET shard = 1000000 WHERE campaign_id = :c AND shard = (SELECT max(shard) FROM coupon.shard WHERE campaign_id = :c);
SELECT is(pg_temp.laws(:c), 'shards overlap or leave a gap', 'a gap in the shards'' numbers');

SELECT coupon_campaign_create('coded', 0) AS c \gset
SELECT coupon_codes_import(:c, ARRAY['A', 'B']) AS ignore \gset
SELECT count(*) AS ignore FROM coupon_issue_many(:c, ARRAY['a', 'b']) \gset
DELETE FROM coupon.unit WHERE campaign_id = :c AND label = 'A';
SELECT is(pg_temp.laws(:c), 'issued without its code', 'a code is lost');

SELECT pg_temp.sale() AS c \gset
UPDATE coupon.issuance SET state = 'redeemed' WHERE campaign_id = :c AND user_id = 'alice';
SELECT is(pg_temp.laws(:c), 'redemption without its order, or the reverse', 'redeemed without order and time');
SELECT is((SELECT count(*) FROM coupon_verify(:c)), 1::bigint, 'reported once');
SELECT pg_temp.sale() AS c \gset
UPDATE coupon.issuance SET order_ref = 'o' WHERE campaign_id = :c AND user_id = 'alice';
SELECT is(pg_temp.laws(:c), 'redemption without its order, or the reverse', 'an order without redemption');
SELECT pg_temp.sale() AS c \gset
UPDATE coupon.issuance SET redeemed_at = now() WHERE campaign_id = :c AND user_id = 'alice';
SELECT is(pg_temp.laws(:c), 'redemption without its order, or the reverse', 'a time of redemption without redemption');

SELECT pg_temp.sale() AS c \gset
DELETE FROM coupon.issuance WHERE campaign_id = :c AND user_id = 'alice';
SELECT is(pg_temp.laws_and_events(:c), 'event of an issuance that is not there', 'F21: told of, and lost');
SELECT is(detail, (SELECT id::text FROM coupon.outbox WHERE type = 'coupon.issued' AND key = 'alice' AND payload->>'campaign_id' = :c::text),
	'the row says which event') FROM coupon_verify() WHERE campaign = :c;
SELECT pg_temp.sale() AS c \gset
UPDATE coupon.issuance SET user_id = 'mallory' WHERE campaign_id = :c AND user_id = 'alice';
SELECT is(pg_temp.laws_and_events(:c), 'event of an issuance that is not there', 'the unit belongs to somebody else than the event says');
SELECT pg_temp.sale() AS c \gset
CREATE TEMP TABLE kept AS SELECT * FROM coupon.issuance WHERE campaign_id = :c AND user_id = 'alice';
SELECT coupon_revoke(:c, 'alice', 'r') AS ignore \gset
INSERT INTO coupon.issuance SELECT * FROM kept;
SELECT is(pg_temp.laws_and_events(:c), 'event of an issuance that is not there', 'revoked, and still there');

SELECT pg_temp.sale() AS c \gset
SELECT coupon_campaign_reduce_stock(:c, 3) AS ignore \gset
SELECT is(pg_temp.laws_and_events(:c), '', 'units were withdrawn');
SELECT serial AS gone FROM coupon.shard s, generate_series(1, 10) serial WHERE s.campaign_id = :c AND get_bit(s.withdrawn, (serial - 1)::bigint) = 1 LIMIT 1 \gset
SELECT pg_temp.forge(:c, :gone, 'mallory') AS ignore \gset
SELECT is(pg_temp.laws(:c), 'oversold: withdrawn unit issued', 'one of them is issued');
SELECT pg_temp.sale() AS c \gset
UPDATE coupon.campaign SET withdrawn = 1 WHERE campaign_id = :c;
SELECT is(pg_temp.laws(:c), 'withdrawn units are counted wrong', 'one is counted and not noted');

-- requests and tickets
CREATE FUNCTION pg_temp.forge_request(c bigint, u text, id uuid, decided boolean, outcome text, serial bigint) RETURNS void LANGUAGE sql AS $$
	INSERT INTO coupon.request_0 (request_id, campaign_id, requested_at, decided_at, serial, user_id, outcome)
	VALUES (id, c, now(), CASE WHEN decided THEN now() END, serial, u, outcome) $$;
SELECT pg_temp.sale() AS c \gset
SELECT pg_temp.forge_request(:c, 'a', '00000001-0000-8000-8000-000000000001', true, NULL, NULL) AS ignore \gset
SELECT is(pg_temp.laws(:c), 'request decided without an outcome, or the reverse', 'F5: a decision without a reason');
SELECT pg_temp.sale() AS c \gset
SELECT pg_temp.forge_request(:c, 'a', '00000001-0000-8000-8000-000000000002', true, 'issued', NULL) AS ignore \gset
SELECT is(pg_temp.laws(:c), 'request decided without an outcome, or the reverse', 'F5: issued, but which unit?');
SELECT pg_temp.sale() AS c \gset
SELECT pg_temp.forge_request(:c, 'a', '00000001-0000-8000-8000-000000000003', false, NULL, NULL) AS ignore \gset
INSERT INTO coupon.request_1 SELECT * FROM coupon.request_0 WHERE campaign_id = :c;
SELECT is(pg_temp.laws(:c), 'request with two rows', 'a request in both tables');
INSERT INTO coupon.ticket_0 (room_id, number, secret, joined_at, user_id, ended_at) VALUES (-1, 1, gen_random_uuid(), now(), 'a', NULL), (-1, 2, gen_random_uuid(), now(), 'a', NULL);
SELECT matches(pg_temp.laws(NULL), 'two live tickets of one user', 'F23: two live tickets');
INSERT INTO coupon.ticket_1 (room_id, number, secret, joined_at, user_id, ended_at) VALUES (-1, 1, gen_random_uuid(), now(), 'b', now());
SELECT matches(pg_temp.laws(NULL), 'ticket ended without a reason', 'F20: ended, but how?');
SELECT matches(pg_temp.laws(NULL), 'ticket number given twice', 'F23: a number twice');

-- at the end: without the unique indexes
SELECT pg_temp.sale() AS c \gset
SELECT pg_temp.sale(2) AS d \gset
SELECT pg_temp.sale() AS e \gset
-- (without that index the engine's own triggers refuse to work, too)
ALTER TABLE coupon.issuance DISABLE TRIGGER USER;
ALTER TABLE coupon.issuance DROP CONSTRAINT issuance_serial_key, DROP CONSTRAINT issuance_user_key;
SELECT serial AS taken FROM coupon.issuance WHERE campaign_id = :c AND user_id = 'alice' \gset
INSERT INTO coupon.issuance SELECT campaign_id, serial, shard, nth, issued_at, expires_at, 'mallory', state, policy, redeemed_at, order_ref
  FROM coupon.issuance WHERE campaign_id = :c AND user_id = 'alice';
SELECT matches(pg_temp.laws(:c), 'oversold: serial issued twice', 'F1: a serial issued twice');
SELECT is((SELECT serial FROM coupon_verify(:c) WHERE law = 'oversold: serial issued twice'), :taken::bigint, 'the row says which');
UPDATE coupon.issuance SET nth = 1, user_id = 'alice' WHERE campaign_id = :d;
SELECT matches(pg_temp.laws(:d), 'per-user limit exceeded', 'F1: the same nth twice');

SELECT is(pg_temp.laws(:e), '', 'and the neighbour is still well');
SELECT ok(EXISTS (SELECT 1 FROM coupon_verify() WHERE campaign = :c) AND EXISTS (SELECT 1 FROM coupon_verify() WHERE campaign = :d),
	'without a campaign it reports all of them');

SELECT * FROM finish();
ROLLBACK;
