-- What a DBA does to the tables while a session is at work.
SET client_min_messages = error;
CREATE EXTENSION IF NOT EXISTS coupon;
RESET client_min_messages;
SELECT coupon_campaign_create('maintenance', 12) AS c \gset
SELECT status FROM coupon_issue(:c, '1');
VACUUM coupon.issuance, coupon.campaign, coupon.shard, coupon.unit, coupon.outbox_0, coupon.outbox_1, coupon.outbox_2;
SELECT status FROM coupon_issue(:c, '2');
VACUUM (FULL) coupon.issuance;
VACUUM (FULL) coupon.campaign;
VACUUM (FULL) coupon.shard;
VACUUM (FULL) coupon.outbox_0;
VACUUM (FULL) coupon.outbox_1;
VACUUM (FULL) coupon.outbox_2;
SELECT status FROM coupon_issue(:c, '3');
SELECT status FROM coupon_issue(:c, '1');
REINDEX TABLE coupon.issuance;
REINDEX TABLE coupon.campaign;
REINDEX TABLE coupon.shard;
SELECT status FROM coupon_issue(:c, '4');
-- this one gives the indexes new OIDs
REINDEX TABLE CONCURRENTLY coupon.issuance;
REINDEX TABLE CONCURRENTLY coupon.campaign;
REINDEX TABLE CONCURRENTLY coupon.shard;
REINDEX TABLE CONCURRENTLY coupon.unit;
SELECT status FROM coupon_issue(:c, '5');
SELECT status FROM coupon_issue(:c, '1');
CLUSTER coupon.issuance USING issuance_user_key;
ALTER TABLE coupon.issuance SET WITHOUT CLUSTER;
SELECT status FROM coupon_issue(:c, '6');
ANALYZE coupon.issuance, coupon.campaign, coupon.shard;
SELECT status FROM coupon_issue(:c, '7');
ALTER TABLE coupon.issuance SET (fillfactor = 90);
ALTER TABLE coupon.issuance RESET (fillfactor);
SELECT status FROM coupon_issue(:c, '8');
DISCARD ALL;
SELECT status FROM coupon_issue(:c, '9');
-- the change of a table and the issue in one transaction, rolled back and not
BEGIN;
REINDEX TABLE coupon.issuance;
SELECT status FROM coupon_issue(:c, '10');
ROLLBACK;
SELECT status FROM coupon_issue(:c, '10');
BEGIN;
REINDEX TABLE coupon.issuance;
SELECT status FROM coupon_issue(:c, '11');
COMMIT;
SELECT user_id, status FROM coupon_issue_many(:c, ARRAY['12', '13', '1']);
SELECT stock, issued, in_flight, remaining FROM coupon_status(:c);
SELECT * FROM coupon_verify(:c);
-- A map built from an index with all kinds of rows: vacuumed ones, and ones
-- that were updated, deleted, rolled back since.
SELECT coupon_campaign_create('restored', 2000) AS r \gset
INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy)
SELECT s.campaign_id, n, s.shard, 1, now(), 'restored ' || n, 'issued', '{}'
  FROM coupon.shard s, generate_series(s.first_serial, least(s.last_serial, 1500)) n WHERE s.campaign_id = :r;
VACUUM coupon.issuance;
DELETE FROM coupon.issuance WHERE campaign_id = :r AND serial BETWEEN 101 AND 200;
UPDATE coupon.issuance SET issued_at = issued_at - interval '1 day' WHERE campaign_id = :r AND serial BETWEEN 301 AND 400;
SELECT count(*) FROM (SELECT coupon_redeem(:r, 'restored ' || n, 'order ' || n) FROM generate_series(401, 450) n) x;
BEGIN;
INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy)
SELECT s.campaign_id, n, s.shard, 1, now(), 'aborted ' || n, 'issued', '{}'
  FROM coupon.shard s, generate_series(s.first_serial, s.last_serial) n WHERE s.campaign_id = :r AND n BETWEEN 1601 AND 1700;
DELETE FROM coupon.issuance WHERE campaign_id = :r AND serial BETWEEN 501 AND 600;
ROLLBACK;
-- 1500 - 100 rows are live, so 600 units are free
SELECT status, count(*) FROM coupon_issue_many(:r, (SELECT array_agg('new ' || n) FROM generate_series(1, 700) n)) GROUP BY status ORDER BY status;
SELECT stock, issued, in_flight, remaining FROM coupon_status(:r);
SELECT * FROM coupon_verify(:r);
-- indexes of a DBA are maintained, also those of access methods that keep
-- pointers to the open index, and also when only the index changes
CREATE INDEX dba_gin ON coupon.issuance USING gin (policy) WITH (fastupdate = off);
CREATE INDEX dba_brin ON coupon.issuance USING brin (issued_at);
SELECT coupon_campaign_create('indexed', 200) AS x \gset
SELECT status, count(*) FROM coupon_issue_many(:x, ARRAY(SELECT 'a' || g FROM generate_series(1, 40) g)) GROUP BY 1;
ALTER INDEX coupon.dba_gin SET (fastupdate = off);
ALTER INDEX coupon.dba_brin SET (pages_per_range = 4);
SELECT status, count(*) FROM coupon_issue_many(:x, ARRAY(SELECT 'b' || g FROM generate_series(1, 40) g)) GROUP BY 1;
SELECT status FROM coupon_issue(:x, 'c');
DROP INDEX coupon.dba_gin, coupon.dba_brin;
DELETE FROM coupon.issuance WHERE campaign_id = :x;
SELECT coupon_campaign_close(:x);
DELETE FROM coupon.shard WHERE campaign_id = :x;
DELETE FROM coupon.campaign WHERE campaign_id = :x;
DELETE FROM coupon.outbox WHERE payload->>'campaign_id' = :'x';
-- after sell-out a filter answers those who have nothing, and nobody else:
-- not who has a unit, not who gets a returned one, not who was given one by hand
SELECT coupon_campaign_create('filtered', 3) AS f \gset
SELECT status, count(*) FROM coupon_issue_many(:f, '{a,b,c,d}') GROUP BY 1 ORDER BY 1;
SELECT status, count(*) FROM generate_series(1, 50) g, coupon_issue(:f, 'x' || g) GROUP BY 1;
SELECT user_id, status FROM coupon_issue_many(:f, '{a,b,c,d}');
SELECT coupon_revoke(:f, 'b', 'test');
SELECT status FROM coupon_issue(:f, 'd');
SELECT user_id, status FROM coupon_issue_many(:f, '{a,b,c,d}');
DELETE FROM coupon.issuance WHERE campaign_id = :f AND user_id = 'a';
INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy)
SELECT :f, serial, 0, 1, now(), 'hand', 'issued', '{}' FROM generate_series(1, 3) serial
 WHERE serial NOT IN (SELECT serial FROM coupon.issuance WHERE campaign_id = :f);
SELECT user_id, status FROM coupon_issue_many(:f, '{a,hand,x1}');
SELECT status, count(*) FROM generate_series(1, 50) g, coupon_issue(:f, 'x' || g) GROUP BY 1;
SELECT user_id, status FROM coupon_issue_many(:f, '{hand,c,d,x2}');
SELECT coupon_campaign_close(:f);
SELECT user_id, status FROM coupon_issue_many(:f, '{hand,c,d,x2}');
DELETE FROM coupon.issuance WHERE campaign_id = :f;
DELETE FROM coupon.shard WHERE campaign_id = :f;
DELETE FROM coupon.campaign WHERE campaign_id = :f;
DELETE FROM coupon.outbox WHERE payload->>'campaign_id' = :'f';
-- ... nor who has one under a user id that the table keeps compressed, where the
-- filter has it from there: a row that is there before the campaign is first used
SELECT coupon_campaign_create('compressed', 1, policy => jsonb_build_object('attributes', jsonb_build_object('note',
	(SELECT string_agg(translate(encode(sha512(g::text::bytea), 'base64'), E'\n', ''), '') FROM generate_series(1, 22) g)))) AS f \gset
INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy)
SELECT :f, 1, 0, 1, now(), repeat('ab', 100), 'issued', c.policy FROM coupon.campaign c WHERE c.campaign_id = :f;
SELECT state, pg_column_size(user_id) < 100 AS compressed FROM coupon.issuance WHERE campaign_id = :f;
SELECT status, count(*) FROM generate_series(1, 50) g, coupon_issue(:f, 'x' || g) GROUP BY 1;
SELECT status FROM coupon_issue(:f, repeat('ab', 100));
SELECT coupon_campaign_close(:f);
DELETE FROM coupon.issuance WHERE campaign_id = :f;
DELETE FROM coupon.shard WHERE campaign_id = :f;
DELETE FROM coupon.campaign WHERE campaign_id = :f;
DELETE FROM coupon.outbox WHERE payload->>'campaign_id' = :'f';
-- a foreign key would not be checked, so it is refused
CREATE TABLE app_user (user_id text COLLATE "C" PRIMARY KEY);
ALTER TABLE coupon.issuance ADD CONSTRAINT issuance_app_user FOREIGN KEY (user_id) REFERENCES app_user NOT VALID;
SELECT coupon_issue(:c, 'nobody');
ALTER TABLE coupon.issuance DROP CONSTRAINT issuance_app_user;
DROP TABLE app_user;
-- a row that says redeemed without an order was written by somebody else
BEGIN;
SELECT coupon_campaign_create('forged', 2) AS y \gset
SELECT status FROM coupon_issue(:y, 'ann');
SET LOCAL session_replication_role = replica;
UPDATE coupon.issuance SET state = 'redeemed' WHERE campaign_id = :y;
SELECT status, order_ref FROM coupon_redeem(:y, 'ann', 'order');
SELECT status FROM coupon_redeem_cancel(:y, 'ann', 'order');
ROLLBACK;
-- leave nothing behind
DELETE FROM coupon.issuance WHERE campaign_id IN (:c, :r);
UPDATE coupon.campaign SET closed_at = now() WHERE campaign_id IN (:c, :r);
DELETE FROM coupon.shard WHERE campaign_id IN (:c, :r);
DELETE FROM coupon.campaign WHERE campaign_id IN (:c, :r);
DELETE FROM coupon.outbox WHERE payload->>'campaign_id' IN (:'c', :'r');
SELECT count(*) FROM coupon_verify();
