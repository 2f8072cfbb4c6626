-- What needs commits: when a change takes effect for others and for later.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS coupon;
RESET client_min_messages;
\set SHOW_CONTEXT never
-- A deletion behind the engine's back gives the unit back when it commits.
SELECT coupon_campaign_create('deletion', 1) AS c \gset
SELECT status FROM coupon_issue(:c, 'alice');
SELECT status FROM coupon_issue(:c, 'bob');
BEGIN;
DELETE FROM coupon.issuance WHERE campaign_id = :c;
ROLLBACK;
SELECT status FROM coupon_issue(:c, 'bob');
DELETE FROM coupon.issuance WHERE campaign_id = :c;
SELECT status FROM coupon_issue(:c, 'bob');
SELECT status FROM coupon_issue(:c, 'alice');
SELECT stock, issued, in_flight, remaining FROM coupon_status(:c);
SELECT * FROM coupon_verify(:c);
-- A row inserted behind its back is never sold a second time.
SELECT coupon_campaign_create('insertion', 2) AS i \gset
SELECT remaining FROM coupon_status(:i);
INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy)
VALUES (:i, 1, 0, 1, now(), 'x', 'issued', '{}');
SELECT status, serial FROM coupon_issue(:i, 'alice');
SELECT status FROM coupon_issue(:i, 'bob');
SELECT stock, issued, in_flight, remaining FROM coupon_status(:i);
SELECT * FROM coupon_verify(:i);
-- Nor is one that is deleted and put back within a transaction.
BEGIN;
DELETE FROM coupon.issuance WHERE campaign_id = :i AND serial = 1;
INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy)
VALUES (:i, 1, 0, 1, now(), 'y', 'issued', '{}');
COMMIT;
SELECT user_id, status FROM coupon_issue_many(:i, ARRAY['bob', 'y']);
-- One that is put back and deleted again is free, once.
BEGIN;
DELETE FROM coupon.issuance WHERE campaign_id = :i AND serial = 1;
INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy)
VALUES (:i, 1, 0, 1, now(), 'z', 'issued', '{}');
DELETE FROM coupon.issuance WHERE campaign_id = :i AND serial = 1;
COMMIT;
SELECT stock, issued, in_flight, remaining FROM coupon_status(:i);
SELECT user_id, status, serial FROM coupon_issue_many(:i, ARRAY['bob', 'carol']);
-- Nor is one whose serial is moved; the old one is free again.
SELECT coupon_campaign_create('move', 2) AS m \gset
SELECT status, serial AS from_serial, 3 - serial AS to_serial FROM coupon_issue(:m, 'alice') \gset
UPDATE coupon.issuance SET serial = :to_serial WHERE campaign_id = :m;
SELECT status, serial = :from_serial AS the_old_one FROM coupon_issue(:m, 'bob');
SELECT status FROM coupon_issue(:m, 'carol');
-- Also into another shard, after all was gone.
SELECT coupon_campaign_create('move far', 1) AS g \gset
SELECT status, serial FROM coupon_issue(:g, 'alice');
SELECT status FROM coupon_issue(:g, 'bob');
SELECT coupon_campaign_add_stock(:g, 1);
UPDATE coupon.issuance SET serial = 2, shard = 1 WHERE campaign_id = :g;
SELECT status, serial FROM coupon_issue(:g, 'bob');
SELECT status FROM coupon_issue(:g, 'carol');
SELECT * FROM coupon_verify(:g);
-- A revocation returns the unit when it commits, and only then.
SELECT coupon_campaign_create('revocation', 1) AS r \gset
SELECT status FROM coupon_issue(:r, 'alice');
SELECT status FROM coupon_issue(:r, 'bob');
BEGIN;
SELECT coupon_revoke(:r, 'alice', 'test');
ROLLBACK;
SELECT status FROM coupon_issue(:r, 'bob');
SELECT coupon_revoke(:r, 'alice', 'test');
SELECT status FROM coupon_issue(:r, 'bob');
SELECT status FROM coupon_issue(:r, 'alice');
SELECT * FROM coupon_verify(:r);
-- Nobody else has it before, not even the transaction that revokes.
BEGIN;
SELECT coupon_revoke(:r, 'bob', 'test');
SELECT status FROM coupon_issue(:r, 'carol');
COMMIT;
SELECT status FROM coupon_issue(:r, 'carol');
-- Issue and abort, over and over: nothing is lost, nothing remembered.
SELECT coupon_campaign_create('abort', 1) AS a \gset
BEGIN;
SELECT status FROM coupon_issue(:a, 'alice');
ROLLBACK;
BEGIN;
SELECT status FROM coupon_issue(:a, 'alice');
SELECT 1 / 0;
COMMIT;
SELECT status, 1 / 0 FROM coupon_issue(:a, 'alice');
SELECT count(*) FROM coupon.issuance WHERE campaign_id = :a;
SELECT count(*) FROM coupon.outbox WHERE type = 'coupon.issued' AND payload->>'campaign_id' = :'a';
SELECT status FROM coupon_issue(:a, 'bob');
-- Added stock is on sale at commit, also after the sell-out was remembered.
SELECT status FROM coupon_issue(:a, 'carol');
SELECT status FROM coupon_issue(:a, 'carol');
BEGIN;
SELECT coupon_campaign_add_stock(:a, 1);
ROLLBACK;
SELECT status FROM coupon_issue(:a, 'carol');
SELECT coupon_campaign_add_stock(:a, 1);
SELECT status FROM coupon_issue(:a, 'carol');
SELECT status FROM coupon_issue(:a, 'dave');
SELECT stock, issued, in_flight, remaining FROM coupon_status(:a);
SELECT * FROM coupon_verify(:a);
-- Imported codes likewise.
SELECT coupon_campaign_create('codes', 0) AS k \gset
SELECT status FROM coupon_issue(:k, 'alice');
SELECT coupon_codes_import(:k, ARRAY['A']);
SELECT status, code FROM coupon_issue(:k, 'alice');
SELECT status, code FROM coupon_issue(:k, 'bob');
SELECT coupon_codes_import(:k, ARRAY['B', 'A', 'B']);
SELECT status, code FROM coupon_issue(:k, 'bob');
SELECT status, code FROM coupon_issue(:k, 'carol');
-- Labels for a plain campaign that this session has in use but not sold from.
SELECT coupon_campaign_create('labels', 2) AS l \gset
BEGIN;
SELECT status FROM coupon_issue(:l, 'alice');
ROLLBACK;
SELECT coupon_codes_import(:l, ARRAY['A', 'B']);
SELECT status, code IS NOT NULL AS has_code FROM coupon_issue_many(:l, ARRAY['alice', 'bob', 'carol']);
-- Pause, resume and close are seen by the next transaction.
SELECT coupon_campaign_create('pause', 9) AS p \gset
SELECT status FROM coupon_issue(:p, 'alice');
SELECT coupon_campaign_pause(:p);
SELECT status FROM coupon_issue(:p, 'bob');
BEGIN;
SELECT coupon_campaign_resume(:p);
SELECT status FROM coupon_issue(:p, 'bob');
ROLLBACK;
SELECT status FROM coupon_issue(:p, 'bob');
SELECT coupon_campaign_resume(:p);
SELECT status FROM coupon_issue(:p, 'bob');
SELECT coupon_campaign_close(:p);
SELECT status FROM coupon_issue(:p, 'carol');
SELECT status FROM coupon_issue(:p, 'bob');
-- A definition changed by hand is seen, too.
SELECT coupon_campaign_create('by hand', 9) AS h \gset
SELECT status FROM coupon_issue(:h, 'alice');
SELECT status FROM coupon_issue(:h, 'alice');
UPDATE coupon.campaign SET per_user_limit = 2, policy = '{"kind": "FIXED", "amount": 5}' WHERE campaign_id = :h;
SELECT status FROM coupon_issue(:h, 'alice');
SELECT status FROM coupon_issue(:h, 'alice');
SELECT nth, policy FROM coupon.issuance WHERE campaign_id = :h ORDER BY nth;
-- Counters: an answer is counted at once, a unit when it commits.
SELECT coupon_campaign_create('counters', 2) AS u \gset
BEGIN;
SELECT user_id, status FROM coupon_issue_many(:u, ARRAY['alice', 'alice']);
ROLLBACK;
SELECT answered_issued, answered_already_issued FROM coupon_status(:u);
SELECT user_id, status FROM coupon_issue_many(:u, ARRAY['alice', 'bob', 'carol', 'alice', '']);
SELECT stock, issued, held, in_flight, remaining, answered_issued, answered_already_issued, answered_sold_out FROM coupon_status(:u);
-- Issued and revoked within one transaction, which aborts or commits.
BEGIN;
SELECT coupon_revoke(:u, 'bob', 'test');
SELECT coupon_campaign_add_stock(:u, 2);
SELECT status FROM coupon_issue(:u, 'dave');
COMMIT;
BEGIN;
SELECT status FROM coupon_issue(:u, 'erin');
SELECT coupon_revoke(:u, 'erin', 'test');
ROLLBACK;
BEGIN;
SELECT status FROM coupon_issue(:u, 'erin');
SELECT coupon_revoke(:u, 'erin', 'test');
SELECT stock = issued + held + in_flight + remaining AND least(issued, in_flight, remaining) >= 0 AS counts_right FROM coupon_status(:u);
COMMIT;
SELECT stock, issued, in_flight, remaining FROM coupon_status(:u);
SELECT user_id, status FROM coupon_issue_many(:u, ARRAY['dave', 'erin', 'frank', 'grace', 'heidi']);
SELECT * FROM coupon_verify(:u);
-- Every isolation level.
SELECT coupon_campaign_create('isolation', 3) AS s \gset
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT status FROM coupon_issue(:s, 'alice');
SELECT status FROM coupon_issue(:s, 'alice');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT status FROM coupon_issue(:s, 'bob');
SELECT status FROM coupon_issue(:s, 'alice');
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT status FROM coupon_issue(:s, 'carol');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT user_id, status FROM coupon_issue_many(:s, ARRAY['dave', 'erin']);
COMMIT;
SELECT stock, issued, in_flight, remaining FROM coupon_status(:s);
SELECT * FROM coupon_verify(:s);
-- A read-only transaction is refused where a unit would be taken; answers
-- that take nothing are given.
SELECT coupon_campaign_create('read only', 1) AS o \gset
BEGIN READ ONLY;
SELECT status FROM coupon_issue(:o, 'alice');
\echo :SQLSTATE
ROLLBACK;
SELECT remaining FROM coupon_status(:o);
SELECT status FROM coupon_issue(:o, 'alice');
SELECT status FROM coupon_issue(:o, 'bob');
BEGIN READ ONLY;
SELECT status FROM coupon_issue(:o, 'alice');
SELECT status FROM coupon_issue(:o, 'bob');
SELECT user_id, status FROM coupon_issue_many(:o, ARRAY['alice', 'bob', '']);
SELECT stock, remaining FROM coupon_status(:o);
SELECT count(*) FROM coupon_verify(:o);
SELECT coupon_emit('topic', 'key', 'type', '{}');
\echo :SQLSTATE
ROLLBACK;
BEGIN READ ONLY;
SELECT coupon_campaign_pause(:o);
\echo :SQLSTATE
ROLLBACK;
-- Refusals and retries need no transaction id, so they write nothing.
SELECT coupon_campaign_create('nothing', 0) AS z \gset
SELECT coupon_campaign_create('future', 1, opens_at => '2999-01-01 00:00:00+00') AS f \gset
BEGIN;
SELECT status FROM coupon_issue(:z, 'alice');
SELECT status FROM coupon_issue(:f, 'alice');
SELECT status FROM coupon_issue(:o, 'bob');
SELECT status FROM coupon_issue(:o, 'alice');
SELECT status FROM coupon_issue(:p, 'carol');
SELECT count(*) FROM coupon_issue_many(:o, ARRAY['alice', 'bob', 'carol', '']);
SELECT stock FROM coupon_status(:o);
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_transaction_id;
COMMIT;
-- PREPARE TRANSACTION is refused where a unit was taken or is to be returned.
BEGIN;
SELECT status FROM coupon_issue(:h, 'prepared');
PREPARE TRANSACTION 'coupon_test';
\echo :SQLSTATE
SELECT count(*) FROM coupon.issuance WHERE campaign_id = :h AND user_id = 'prepared';
BEGIN;
SELECT coupon_revoke(:o, 'alice', 'test');
PREPARE TRANSACTION 'coupon_test';
\echo :SQLSTATE
SELECT status FROM coupon_issue(:o, 'alice');
SELECT remaining FROM coupon_status(:h);
-- A COMMIT that fails is an abort: here a deferred constraint refuses it.
CREATE TABLE coupon_test_parent (id bigint PRIMARY KEY);
CREATE TABLE coupon_test_child (id bigint REFERENCES coupon_test_parent DEFERRABLE INITIALLY DEFERRED);
SELECT coupon_campaign_create('deferred', 1) AS d \gset
BEGIN;
INSERT INTO coupon_test_child VALUES (1);
SELECT status FROM coupon_issue(:d, 'alice');
COMMIT;
SELECT status FROM coupon_issue(:d, 'bob');
SELECT * FROM coupon_verify(:d);
DROP TABLE coupon_test_child, coupon_test_parent;
-- The whole is one transaction with the application's own rows.
CREATE TABLE coupon_test_order (id bigint PRIMARY KEY, owner text, serial bigint);
SELECT coupon_campaign_create('order', 2) AS n \gset
WITH issue AS (SELECT * FROM coupon_issue(:n, 'alice'))
INSERT INTO coupon_test_order SELECT 1, user_id, serial FROM issue WHERE status = 'issued';
WITH issue AS (SELECT * FROM coupon_issue(:n, 'bob'))
INSERT INTO coupon_test_order SELECT 1, user_id, serial FROM issue WHERE status = 'issued';
SELECT o.owner, o.serial = i.serial AS same FROM coupon_test_order o FULL JOIN coupon.issuance i ON i.user_id = o.owner WHERE i.campaign_id = :n;
DROP TABLE coupon_test_order;
-- A procedure that commits in between.
SELECT coupon_campaign_create('procedure', 3) AS q \gset
CREATE PROCEDURE coupon_test_sell(campaign bigint) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..6 LOOP
		PERFORM coupon_issue(campaign, 'user ' || i);
		IF i % 2 = 0 THEN
			COMMIT;
		ELSE
			ROLLBACK;
		END IF;
	END LOOP;
END $$;
CALL coupon_test_sell(:q);
SELECT user_id FROM coupon.issuance WHERE campaign_id = :q ORDER BY user_id;
SELECT stock, issued, in_flight, remaining FROM coupon_status(:q);
DROP PROCEDURE coupon_test_sell;
-- A call that is only made when the transaction commits: a cursor WITH HOLD, a deferred trigger.
SELECT coupon_campaign_create('at commit', 3) AS w \gset
BEGIN;
DECLARE held CURSOR WITH HOLD FOR SELECT user_id, status FROM coupon_issue_many(:w, ARRAY['alice', 'bob']);
COMMIT;
FETCH ALL FROM held;
CLOSE held;
CREATE TABLE coupon_test_order (campaign_id bigint, owner text);
CREATE FUNCTION coupon_test_issue() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF (coupon_issue(NEW.campaign_id, NEW.owner)).status NOT IN ('issued', 'already_issued') THEN
		RAISE EXCEPTION 'no unit for %', NEW.owner;
	END IF;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER issue AFTER INSERT ON coupon_test_order DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION coupon_test_issue();
INSERT INTO coupon_test_order VALUES (:w, 'carol'), (:w, 'alice');
INSERT INTO coupon_test_order VALUES (:w, 'bob'), (:w, 'dave');
SELECT owner FROM coupon_test_order ORDER BY owner;
DROP TABLE coupon_test_order;
DROP FUNCTION coupon_test_issue;
SELECT user_id FROM coupon.issuance WHERE campaign_id = :w ORDER BY user_id;
SELECT count(*) FROM coupon.outbox WHERE type = 'coupon.issued' AND payload->>'campaign_id' = :'w';
SELECT * FROM coupon_verify(:w);
-- Rows written while triggers are off stay refused by the index.
SELECT coupon_campaign_create('triggers off', 2) AS t \gset
SELECT remaining FROM coupon_status(:t);
SELECT status FROM coupon_issue(:t, 'alice');
SET session_replication_role = replica;
DELETE FROM coupon.issuance WHERE campaign_id = :t;
RESET session_replication_role;
SELECT status FROM coupon_issue(:t, 'bob');
SELECT status FROM coupon_issue(:t, 'carol');
SELECT count(*), count(DISTINCT serial) FROM coupon.issuance WHERE campaign_id = :t;
-- What was looked for when nothing was held is held now: it is to be had when the hold has run out.
SELECT coupon_campaign_create('runs out', 1) AS v \gset
SELECT status FROM coupon_issue(:v, 'alice');
SELECT status FROM coupon_issue(:v, 'bob');
SELECT coupon_revoke(:v, 'alice', 'test');
SELECT status FROM coupon_hold(:v, 1, 'carol', '1 ms');
SELECT pg_sleep(0.01);
SELECT status FROM coupon_issue(:v, 'bob');
-- leave nothing behind
CREATE TEMP TABLE mine AS SELECT unnest(ARRAY[:c, :i, :m, :r, :a, :k, :l, :p, :h, :u, :s, :o, :d, :n, :q, :w, :t, :z, :f, :g, :v]::bigint[]) AS campaign_id;
DELETE FROM coupon.issuance WHERE campaign_id IN (SELECT campaign_id FROM mine);
DELETE FROM coupon.unit WHERE campaign_id IN (SELECT campaign_id FROM mine);
UPDATE coupon.campaign SET closed_at = now() WHERE campaign_id IN (SELECT campaign_id FROM mine);
DELETE FROM coupon.shard WHERE campaign_id IN (SELECT campaign_id FROM mine);
DELETE FROM coupon.campaign WHERE campaign_id IN (SELECT campaign_id FROM mine);
DELETE FROM coupon.outbox WHERE payload->>'campaign_id' IN (SELECT campaign_id::text FROM mine);
SELECT count(*) FROM coupon_verify();
