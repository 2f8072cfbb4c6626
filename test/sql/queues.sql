-- Requests and rooms across commits.  No worker serves this database:
-- coupon_request_decide() and coupon_queue_serve() do a worker's work.
SET client_min_messages = error;
DROP EXTENSION IF EXISTS coupon;
CREATE EXTENSION coupon;
RESET client_min_messages;
-- in order, as far as the units go; then sold out
SELECT coupon_campaign_create('three', 3) AS c \gset
SELECT u, status, outcome, queue_position FROM unnest('{a,b,c,d}'::text[]) u, coupon_request(:c, u);
SELECT coupon_request_decide(2);
SELECT user_id, outcome FROM coupon.request ORDER BY request_id;
SELECT status, queue_position FROM coupon_request_status_of(:c, 'c');
SELECT coupon_request_decide(), coupon_request_decide();
SELECT user_id, outcome, serial IS NOT NULL AS has_serial FROM coupon.request ORDER BY request_id;
SELECT r.status, r.outcome, r.queue_position, (r.issuance).user_id, (r.issuance).status AS issued
  FROM coupon.request q, coupon_request_status(q.request_id) r WHERE q.user_id = 'a';
-- at once, for it is decided
SELECT r.status, r.outcome FROM coupon.request q, coupon_request_wait(q.request_id, '1 h') r WHERE q.user_id = 'a';
SELECT status, outcome FROM coupon_request(:c, 'd');
-- F22: a unit returns
SELECT coupon_revoke(:c, 'a', 'test');
SELECT status FROM coupon_request(:c, 'd');
-- the second of the two calls above found nobody and let the line rest
SELECT pg_sleep(0.15);
SELECT coupon_request_decide();
SELECT status, outcome FROM coupon_request_status_of(:c, 'd');
SELECT depth, decided FROM coupon_request_queue(:c);
-- who was chosen by a transaction that failed is the next again: nobody overtakes
SELECT coupon_campaign_create('undone', 3) AS u \gset
SELECT u, status FROM unnest('{a,b}'::text[]) u, coupon_request(:u, u);
BEGIN;
SELECT coupon_request_decide(1);
ROLLBACK;
SELECT coupon_request_decide(1);
SELECT user_id, outcome FROM coupon.request WHERE campaign_id = :u ORDER BY request_id;
SELECT coupon_request_decide();
-- a key is the same request, also when it is decided
SELECT coupon_campaign_create('keys', 5, 5) AS k \gset
SELECT request_id AS first FROM coupon_request(:k, 'a', 'k1') \gset
SELECT coupon_request_decide();
SELECT request_id = :'first' AS same, status, outcome FROM coupon_request(:k, 'a', 'k1');
SELECT request_id = :'first' AS same, status, outcome FROM coupon_request(:k, 'a', 'k2');
SELECT request_id = :'first' AS same, status, outcome FROM coupon_request(:k, 'a');
SELECT coupon_request_decide();
SELECT issued FROM coupon_status(:k);
-- F2: an empty shard refuses no request
SELECT coupon_campaign_create('shards', 5000) AS f \gset
SELECT count(*) FROM coupon_issue_many(:f, ARRAY(SELECT 'i' || g FROM generate_series(1, 4997) g));
SELECT u, status, outcome FROM generate_series(1, 4) u, coupon_request(:f, 'r' || u);
SELECT coupon_request_decide();
SELECT user_id, outcome FROM coupon.request WHERE campaign_id = :f ORDER BY request_id;
-- a paused campaign keeps them waiting, a closed one ends them
SELECT coupon_campaign_create('paused', 5) AS p \gset
SELECT status FROM coupon_request(:p, 'a');
SELECT coupon_campaign_pause(:p);
SELECT coupon_request_decide();
SELECT coupon_campaign_resume(:p);
SELECT pg_sleep(0.15);
SELECT coupon_request_decide();
SELECT status FROM coupon_request(:p, 'b');
SELECT coupon_campaign_close(:p);
SELECT coupon_request_decide();
SELECT user_id, outcome FROM coupon.request WHERE campaign_id = :p ORDER BY request_id;
-- F9: a row that a constraint of ours refuses fails alone
SELECT coupon_campaign_create('constraint', 10) AS k \gset
ALTER TABLE coupon.issuance ADD CONSTRAINT coupon_test_no_eve CHECK (user_id <> 'eve');
SELECT u, status FROM unnest('{a,b,eve,c,d}'::text[]) u, coupon_request(:k, u);
SELECT coupon_request_decide();
SELECT user_id, outcome FROM coupon.request WHERE campaign_id = :k ORDER BY request_id;
ALTER TABLE coupon.issuance DROP CONSTRAINT coupon_test_no_eve;
SELECT issued, remaining FROM coupon_status(:k);
-- F5: a campaign that is gone
SELECT coupon_campaign_create('gone', 10) AS g \gset
SELECT status FROM coupon_request(:g, 'a');
SELECT coupon_campaign_close(:g);
DELETE FROM coupon.shard WHERE campaign_id = :g;
DELETE FROM coupon.campaign WHERE campaign_id = :g;
SELECT coupon_request_decide();
SELECT user_id, outcome FROM coupon.request WHERE campaign_id = :g;
-- every end but issuing has its event
SELECT payload->>'user_id' AS user_id, payload->>'outcome' AS outcome FROM coupon.outbox WHERE type = 'coupon.request_failed' ORDER BY id;
SELECT * FROM coupon_verify();
-- a room: admitted in order, as slots are free
SELECT coupon_room_create('room', 2) AS r \gset
CREATE TABLE coupon_test_token AS
SELECT u, token FROM unnest('{a,b,c,d,e}'::text[]) u, coupon_queue_join('room', u);
CREATE FUNCTION coupon_test_room() RETURNS TABLE (u text, status text, queue_position bigint) LANGUAGE sql VOLATILE AS $$
	SELECT t.u, p.status, p.queue_position FROM coupon_test_token t, coupon_queue_position(t.token) p ORDER BY 1 $$;
SELECT * FROM coupon_test_room();
SELECT coupon_queue_serve();
SELECT * FROM coupon_test_room();
SELECT coupon_queue_serve();
-- one leaves the line, one the room
SELECT u, coupon_queue_leave(token) FROM coupon_test_token WHERE u IN ('a', 'd');
SELECT * FROM coupon_test_room();
SELECT coupon_queue_serve();
SELECT * FROM coupon_test_room();
SELECT waiting, admitted, joined, served FROM coupon.room_status WHERE name = 'room';
-- F24: a sale behind the room
SELECT coupon_campaign_create('behind', 10) AS s \gset
SELECT coupon_campaign_require_room(:s, 'room');
SELECT u, status FROM unnest('{a,b,c,d,e,f}'::text[]) u, coupon_issue(:s, u);
SELECT u, status, outcome FROM unnest('{c,e}'::text[]) u, coupon_request(:s, u);
-- F24: a session is one of its own room only
SELECT coupon_room_create('other', 1) AS other \gset
SELECT coupon_queue_require(token, 'room') FROM coupon_test_token WHERE u = 'b';
SELECT coupon_queue_require(token, 'other') FROM coupon_test_token WHERE u = 'b';
SELECT coupon_queue_require(token, 'no such') FROM coupon_test_token WHERE u = 'b';
-- nor is it another user's
SELECT coupon_queue_require(token, 'room', 'b') FROM coupon_test_token WHERE u = 'b';
SELECT coupon_queue_require(token, user_id => 'c') FROM coupon_test_token WHERE u = 'b';
-- payment and the end of the session, in one transaction
BEGIN;
SELECT coupon_queue_require(token), coupon_queue_leave(token, 'paid') FROM coupon_test_token WHERE u = 'b';
SELECT status FROM coupon_redeem(:s, 'b', 'order');
ROLLBACK;
SELECT u, status FROM coupon_test_room() WHERE u = 'b';
BEGIN;
SELECT coupon_queue_require(token), coupon_queue_leave(token, 'paid') FROM coupon_test_token WHERE u = 'b';
SELECT status FROM coupon_redeem(:s, 'b', 'order');
COMMIT;
SELECT u, status FROM coupon_test_room() WHERE u = 'b';
SELECT coupon_queue_serve();
SELECT * FROM coupon_test_room();
-- twice in one transaction: what is admitted and not committed is not forgotten
SELECT coupon_room_create('one', 1) AS one \gset
SELECT count(*) FROM unnest('{a,b,c}'::text[]) u, coupon_queue_join('one', u);
SELECT coupon_queue_serve(), coupon_queue_serve();
SELECT waiting, admitted FROM coupon.room_status WHERE name = 'one';
SELECT coupon_room_alter('one', method => 'reject'), count(*) FROM coupon.ticket t, coupon_queue_leave(t.room_id || '.' || t.number || '.' || replace(t.secret::text, '-', ''))
 WHERE t.room_id = :one;
-- pause, resume, more slots
SELECT coupon_room_pause('room'), coupon_room_pause('room');
SELECT count(*) FROM unnest('{f,g,h}'::text[]) u, coupon_queue_join('room', u);
SELECT coupon_room_alter('room', capacity => 4);
SELECT coupon_queue_serve();
SELECT state, capacity, waiting, admitted FROM coupon.room_status WHERE name = 'room';
SELECT coupon_room_resume('room'), coupon_room_resume('room');
SELECT coupon_queue_serve();
SELECT state, capacity, waiting, admitted FROM coupon.room_status WHERE name = 'room';
-- silence: F20
SELECT coupon_room_create('quiet', 1, session_ttl => '2 s', idle_ttl => '1 s') AS q \gset
SELECT token AS one FROM coupon_queue_join('quiet', 'one') \gset
SELECT token AS two FROM coupon_queue_join('quiet', 'two') \gset
SELECT token AS three FROM coupon_queue_join('quiet', 'three') \gset
SELECT coupon_queue_serve();
SELECT pg_sleep(0.7);
SELECT status FROM coupon_queue_position(:'one');
SELECT status FROM coupon_queue_position(:'three');
SELECT pg_sleep(0.7);
SELECT coupon_queue_serve();
SELECT status FROM coupon_queue_position(:'one');
SELECT status FROM coupon_queue_position(:'two');
SELECT status, queue_position FROM coupon_queue_position(:'three');
SELECT pg_sleep(0.7);
SELECT status FROM coupon_queue_position(:'one');
SELECT status FROM coupon_queue_position(:'three');
SELECT pg_sleep(0.3);
-- the session is over although it was polled; the next is admitted
SELECT coupon_queue_serve();
SELECT coupon_queue_serve();
SELECT status FROM coupon_queue_position(:'one');
SELECT status FROM coupon_queue_position(:'three');
SELECT user_id, admitted_at IS NOT NULL AS admitted, reason FROM coupon.ticket WHERE room_id = :q ORDER BY number;
-- a draw: no seed before, and one rolled back draws the same again
SELECT coupon_room_create('lots', 3, method => 'random', opens_at => clock_timestamp() + interval '0.3 s') AS l \gset
SELECT count(*) FROM generate_series(1, 200) g, coupon_queue_join('lots', 'u' || g);
SELECT coupon_queue_serve();
SELECT pg_sleep(0.4);
SELECT seed, drawn FROM coupon.room WHERE room_id = :l;
BEGIN;
SELECT coupon_queue_serve() >= 0 AS served;
SELECT seed AS seen FROM coupon.room WHERE room_id = :l \gset
ROLLBACK;
SELECT count(*) FROM coupon_queue_join('lots', 'late');
SELECT coupon_queue_serve() >= 0 AS served;
SELECT seed = :'seen' AS the_same FROM coupon.room WHERE room_id = :l;
SELECT coupon_queue_serve() >= 0 AS served;
SELECT length(seed), drawn, waiting, admitted FROM coupon.room_status WHERE name = 'lots';
SELECT count(*) AS admitted, bool_and(d.place <= 3) AS first_three FROM coupon.ticket t JOIN coupon_room_draw('lots') d USING (number)
 WHERE t.room_id = :l AND t.admitted_at IS NOT NULL;
SELECT count(*), count(DISTINCT queue_position), bool_and(queue_position = d.place - 3) AS as_drawn
  FROM coupon.ticket t JOIN coupon_room_draw('lots') d USING (number), coupon_queue_join('lots', t.user_id)
 WHERE t.room_id = :l AND t.admitted_at IS NULL;
SELECT queue_position FROM coupon_queue_join('lots', 'late');
SELECT * FROM coupon_verify();
DROP FUNCTION coupon_test_room();
DROP TABLE coupon_test_token;
DROP EXTENSION coupon;
