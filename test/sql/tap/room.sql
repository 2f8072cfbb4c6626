-- Waiting rooms as one session sees them.  Nobody is admitted before the
-- commit; test/sql/queues.sql and test/t/026_rooms.pl go on from there.
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT plan(69);

SELECT coupon_room_create('tap room', 2) AS r \gset
CREATE TEMP TABLE answer (step text, status text, token text, queue_position bigint, eta interval, poll_after interval);
INSERT INTO answer SELECT u, j.* FROM unnest(ARRAY['a', 'b', 'c', 'd']) u, coupon_queue_join('tap room', u) j;

SELECT results_eq('SELECT status, queue_position FROM answer ORDER BY step',
	$$ VALUES ('WAITING', 1::bigint), ('WAITING', 2), ('WAITING', 3), ('WAITING', 4) $$, 'F23: tickets in the order of arrival, a number each');
SELECT matches(token, '^' || :r || '\.1\.[0-9a-f]{32}$', 'a token') FROM answer WHERE step = 'a';
SELECT is((SELECT count(DISTINCT token) FROM answer), 4::bigint, 'each another');
SELECT is((SELECT count(*) FROM coupon.ticket WHERE room_id = :r), 4::bigint, 'each has its row');
SELECT is((SELECT j.token FROM coupon_queue_join('tap room', 'b') j), token, 'F23: joining again gives the same place') FROM answer WHERE step = 'b';
SELECT is((SELECT p.queue_position FROM coupon_queue_position(token) p), 3::bigint, 'position by token') FROM answer WHERE step = 'c';
SELECT is((SELECT p.token FROM coupon_queue_position(token) p), NULL, 'which it does not repeat') FROM answer WHERE step = 'c';
SELECT cmp_ok((SELECT p.poll_after FROM coupon_queue_position(token) p), '<=', interval '20 s', 'the next poll comes before the ticket is taken for gone') FROM answer WHERE step = 'c';
SELECT cmp_ok((SELECT p.poll_after FROM coupon_queue_position(token) p), '>=', interval '1 s', 'and not at once') FROM answer WHERE step = 'c';

-- leaving
SELECT ok(coupon_queue_leave(token), 'b leaves') FROM answer WHERE step = 'b';
SELECT ok(NOT coupon_queue_leave(token), 'once') FROM answer WHERE step = 'b';
SELECT is((SELECT reason FROM coupon.ticket WHERE room_id = :r AND user_id = 'b'), 'left', 'the row says how it ended');
SAVEPOINT s;
SELECT ok(coupon_queue_leave(token, 'paid'), 'c leaves') FROM answer WHERE step = 'c';
ROLLBACK TO s;
SELECT is((SELECT p.queue_position FROM coupon_queue_position(token) p), 3::bigint, 'F20: a rollback keeps the place') FROM answer WHERE step = 'c';
SELECT is((SELECT ended_at FROM coupon.ticket WHERE room_id = :r AND user_id = 'c'), NULL, 'in the row, too');
SELECT isnt((SELECT j.token FROM coupon_queue_join('tap room', 'b') j), token, 'who left gets a new ticket') FROM answer WHERE step = 'b';

-- an aborted join
SELECT coupon_room_create('tap abort', 1) AS ignore \gset
SAVEPOINT s;
SELECT is(queue_position, 1::bigint, 'a join') FROM coupon_queue_join('tap abort', 'x');
ROLLBACK TO s;
SELECT is(queue_position, 1::bigint, 'F23: that was rolled back leaves no hole') FROM coupon_queue_join('tap abort', 'y');

-- tokens are checked to the last digit
SELECT is((SELECT status FROM coupon_queue_position(left(token, -1) || CASE right(token, 1) WHEN '0' THEN '1' ELSE '0' END)), 'GONE', 'a wrong digit') FROM answer WHERE step = 'a';
SELECT is((SELECT status FROM coupon_queue_position(regexp_replace(token, '\.1\.', '.2.'))), 'GONE', 'another''s number') FROM answer WHERE step = 'a';
SELECT is((SELECT status FROM coupon_queue_position(regexp_replace(token, '\.1\.', '.999999999999999.'))), 'GONE', 'a number that was not given') FROM answer WHERE step = 'a';
SELECT is((SELECT status FROM coupon_queue_position(regexp_replace(token, '^\d+', '999999999999999'))), 'GONE', 'a room that is not there') FROM answer WHERE step = 'a';
SELECT ok(NOT coupon_queue_leave(left(token, -1) || CASE right(token, 1) WHEN '0' THEN '1' ELSE '0' END), 'a wrong token ends nothing') FROM answer WHERE step = 'a';
SELECT throws_ok(format('SELECT coupon_queue_position(%L)', t), '22023', NULL, 'not a token: ' || t)
  FROM unnest(ARRAY['', 'x', '1.1', '1.1.', '1.1.xyz', '-1.1.00000000000000000000000000000000', '1.1.0000000000000000000000000000000', '1.1.000000000000000000000000000000000', '1.1.0000000000000000000000000000000G', '1.1.G0000000000000000000000000000000']) t;
SELECT throws_ok('SELECT coupon_queue_position(NULL)', '22004', NULL, 'no token: position');
SELECT throws_ok('SELECT coupon_queue_require(NULL)', '22004', NULL, 'no token: require');
SELECT throws_ok('SELECT coupon_queue_leave(NULL)', '22004', NULL, 'no token: leave');

-- the guard
SELECT throws_ok(format('SELECT coupon_queue_require(%L)', token), 'UC203', NULL, 'F24: who waits is not let in') FROM answer WHERE step = 'a';
SELECT throws_ok('SELECT coupon_queue_require(''1.1.00000000000000000000000000000000'')', 'UC203', NULL, 'F24: nor who made a token up');
SELECT throws_ok(format('SELECT coupon_queue_require(%L, '''')', token), '22023', NULL, 'require: an empty room') FROM answer WHERE step = 'a';
SELECT coupon_campaign_create('behind a room', 10) AS c \gset
SELECT coupon_campaign_require_room(:c, 'tap room') AS ignore \gset
SELECT is(status, 'not_admitted', 'F24: coupon_issue asks the room itself') FROM coupon_issue(:c, 'a');
SELECT results_eq(format('SELECT status FROM coupon_issue_many(%s, ARRAY[''a'', ''nobody''])', :c), $$ VALUES ('not_admitted'), ('not_admitted') $$, 'F24: so does coupon_issue_many');
SELECT is(status || ' ' || outcome, 'REFUSED not_admitted', 'F24: and coupon_request') FROM coupon_request(:c, 'a');
SELECT is(answered_not_admitted, 3::bigint, 'F7: counted apart') FROM coupon_status(:c);
SELECT coupon_campaign_require_room(:c, NULL) AS ignore \gset
SELECT is(status, 'issued', 'without the requirement everybody may') FROM coupon_issue(:c, 'a');
SELECT coupon_campaign_require_room(:c, 'tap room') AS ignore \gset
SELECT is(status, 'already_issued', 'who has a unit is told so') FROM coupon_issue(:c, 'a');
SELECT throws_ok(format('SELECT coupon_campaign_require_room(%s, ''no such'')', :c), 'UC202', NULL, 'an unknown room');
SELECT throws_ok('SELECT coupon_campaign_require_room(-1, ''tap room'')', 'UC001', NULL, 'an unknown campaign');

-- methods
SELECT coupon_room_create('tap reject', 2, method => 'reject') AS ignore \gset
SELECT results_eq($$ SELECT status, token FROM coupon_queue_join('tap reject', 'a') $$, $$ VALUES ('REJECTED', NULL::text) $$, 'reject: nobody joins');
SELECT coupon_room_create('tap pass', 1, method => 'passthrough') AS ignore \gset
SELECT results_eq($$ SELECT status, queue_position FROM unnest(ARRAY['a', 'b']) u, coupon_queue_join('tap pass', u) $$,
	$$ VALUES ('ADMITTED', 0::bigint), ('ADMITTED', 0) $$, 'passthrough: everybody is admitted');
SELECT coupon_room_create('tap pass later', 1, method => 'passthrough', opens_at => now() + interval '1 hour') AS ignore,
	coupon_room_create('tap pass paused', 1, method => 'passthrough') AS ignore2 \gset
SELECT coupon_room_pause('tap pass paused') AS ignore \gset
SELECT results_eq($$ SELECT status, queue_position FROM unnest(ARRAY['a', 'b']) u, coupon_queue_join('tap pass later', u) $$,
	$$ VALUES ('WAITING', 1::bigint), ('WAITING', 2) $$, 'passthrough: nobody before the opening');
SELECT results_eq($$ SELECT status, queue_position FROM unnest(ARRAY['a', 'b']) u, coupon_queue_join('tap pass paused', u) $$,
	$$ VALUES ('WAITING', 1::bigint), ('WAITING', 2) $$, 'passthrough: nobody during a pause');
SELECT coupon_room_create('tap random', 1, method => 'random', opens_at => now() + interval '1 hour') AS ignore \gset
SELECT results_eq($$ SELECT status, queue_position FROM coupon_queue_join('tap random', 'a') $$, $$ VALUES ('WAITING', NULL::bigint) $$, 'random: no place before the draw');
SELECT is((SELECT count(*) FROM coupon.room r, jsonb_each_text(to_jsonb(r)) c WHERE r.name = 'tap random' AND c.value LIKE '\\x%'), 0::bigint, 'no table shows the seed before the draw, to nobody');
SELECT is((SELECT count(*) FROM coupon_room_draw('tap random')), 0::bigint, 'nor is the draw');

-- times that only a change of the table itself can give a room
SELECT coupon_room_create('tap long', 1) AS ignore \gset
UPDATE coupon.room SET session_ttl = '300000 years', idle_ttl = '300000 years' WHERE name = 'tap long';
SELECT is((SELECT p.status FROM coupon_queue_position(j.token) p), 'WAITING', 'a lifetime beyond all bounds ends nothing early')
  FROM coupon_queue_join('tap long', 'a') j;

-- ids that no room has, negative ones, too
SELECT is((SELECT count(c) FROM generate_series(-1000, 0) g, LATERAL (SELECT coupon_room_counts(g)) x(c) WHERE c IS NOT NULL), 0::bigint, 'no room, no counts');
SELECT is((SELECT count(c) FROM unnest(ARRAY[-9223372036854775808, 9223372036854775807]) g, LATERAL (SELECT coupon_room_counts(g)) x(c) WHERE c IS NOT NULL), 0::bigint, 'nor of the farthest ids');

-- misuse
SELECT throws_ok('SELECT coupon_queue_join(''no such'', ''a'')', 'UC202', NULL, 'join: unknown room');
SELECT throws_ok('SELECT coupon_queue_join(''tap room'', '''')', '22023', NULL, 'join: empty user');
SELECT throws_ok('SELECT coupon_queue_join(''tap room'', NULL)', '22004', NULL, 'join: no user');
SELECT throws_ok('SELECT coupon_room_create(''tap room'', 1)', '23505', NULL, 'a room twice');
SELECT throws_ok(statement, '22023', NULL, statement) FROM unnest(ARRAY[
	'SELECT coupon_room_create(NULL, 1)', 'SELECT coupon_room_create('''', 1)', 'SELECT coupon_room_create(''x'', 0)',
	'SELECT coupon_room_create(''x'', 1, 0)', 'SELECT coupon_room_create(''x'', 1, session_ttl => ''0 s'')',
	'SELECT coupon_room_create(''x'', 1, method => ''lifo'')', 'SELECT coupon_room_create(''x'', 1, method => ''random'')']) statement;
SELECT throws_ok('DELETE FROM coupon.ticket', '0A000', NULL, 'tickets end by the functions');

SELECT * FROM finish();
ROLLBACK;
