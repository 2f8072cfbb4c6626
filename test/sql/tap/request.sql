-- Asynchronous requests as one session sees them.  They are decided only when
-- they are committed, which test/sql/queues.sql and test/t/025_requests.pl do.
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT plan(59);

SELECT coupon_campaign_create('requests', 4) AS c \gset
CREATE TEMP TABLE answer (step text, request_id uuid, status text, outcome text, queue_position bigint,
	issuance coupon.issue_result, requested_at timestamptz, decided_at timestamptz, repeated boolean);

INSERT INTO answer SELECT 'a', * FROM coupon_request(:c, 'a');
INSERT INTO answer SELECT 'b', * FROM coupon_request(:c, 'b', 'key of b');
SELECT results_eq($$ SELECT status, outcome, queue_position FROM answer WHERE step = 'a' $$,
	$$ VALUES ('WAITING', NULL::text, 1::bigint) $$, 'the first waits, at position 1');
SELECT is(queue_position, 2::bigint, 'F23: the second at position 2') FROM answer WHERE step = 'b';
SELECT is((SELECT count(*) FROM coupon.request WHERE campaign_id = :c AND decided_at IS NULL), 2::bigint,
	'F4: behind WAITING there is a row');
SELECT is(substr(request_id::text, 15, 1) || substr(request_id::text, 20, 1) ~ '^8[89ab]$', true, 'the id is a UUID of version 8') FROM answer WHERE step = 'a';

-- the same wish again
SELECT is((SELECT string_agg(step || repeated, ' ' ORDER BY step) FROM answer), 'afalse bfalse', 'neither repeats another call');
SELECT is((SELECT r.repeated FROM coupon_request(:c, 'a') r), true, 'F8: but this one does');
SELECT is((SELECT r.repeated FROM coupon_request(:c, 'b', 'another') r), NULL, 'and one that is refused asked for nothing');
SELECT is((SELECT r.request_id FROM coupon_request(:c, 'a') r), request_id, 'without a key: the request that waits') FROM answer WHERE step = 'a';
SELECT is((SELECT r.request_id FROM coupon_request(:c, 'b', 'key of b') r), request_id, 'F8: the same key: the same id') FROM answer WHERE step = 'b';
SELECT is((SELECT r.request_id FROM coupon_request(:c, 'b') r), request_id, 'without the key, too, while it waits') FROM answer WHERE step = 'b';
SELECT is((SELECT r.status || ' ' || r.outcome FROM coupon_request(:c, 'b', 'another') r), 'REFUSED busy', 'F12: another key queues no more than the user may have') FROM answer WHERE step = 'b';
SELECT isnt((SELECT r.request_id FROM coupon_request(:c, 'c', 'key of b') r), request_id, 'another user''s key is another one') FROM answer WHERE step = 'b';
SELECT is((SELECT count(*) FROM coupon.request WHERE campaign_id = :c), 3::bigint, 'F1: three requests, three rows');
SELECT is((SELECT r.queue_position FROM coupon_request(:c, '7'::bigint) r), 4::bigint, 'a numeric user');
SELECT is((SELECT user_id FROM coupon.request WHERE campaign_id = :c ORDER BY request_id DESC LIMIT 1), '7', 'is its digits');

-- status
SELECT results_eq($$ SELECT r.status, r.queue_position, r.outcome FROM answer a, coupon_request_status(a.request_id) r WHERE step = 'b' $$,
	$$ VALUES ('WAITING', 2::bigint, NULL::text) $$, 'status by id');
SELECT results_eq(format('SELECT status, queue_position FROM coupon_request_status_of(%s, ''b'')', :c),
	$$ VALUES ('WAITING', 2::bigint) $$, 'status by user');
SELECT is(status, 'NOT_REQUESTED', 'F4: no request, no state made up: by id') FROM coupon_request_status('00000004-0000-8000-8000-000000000000');
SELECT is(status, 'NOT_REQUESTED', 'F4: by user') FROM coupon_request_status_of(:c, 'nobody');
SELECT is(status, 'NOT_REQUESTED', 'F4: and by waiting') FROM coupon_request_wait('00000004-0000-8000-8000-000000000000');
SELECT throws_ok($$ SELECT coupon_request_wait(request_id) FROM answer WHERE step = 'a' $$, 'UC204', NULL, 'waiting for one''s own open transaction would be for ever');
SELECT results_eq(format('SELECT depth, decided FROM coupon_request_queue(%s)', :c), $$ VALUES (4::bigint, 0::bigint) $$, 'F12: the depth is shown');
SELECT cmp_ok((SELECT depth_limit FROM coupon_request_queue(:c)), '>', 0::bigint, 'F12: and its limit');

-- no more requests than units; a rollback makes room
SELECT results_eq(format('SELECT status, outcome, request_id::text FROM coupon_request(%s, ''late'')', :c),
	$$ VALUES ('REFUSED', 'busy', NULL::text) $$, 'F12: all units are spoken for: refused at entry, not queued');
SELECT ok(r.issuance IS NULL, '  and no unit is told of') FROM coupon_request(:c, 'late') r;
SELECT coupon_campaign_create('rollback', 2) AS r \gset
SAVEPOINT s;
SELECT is(queue_position, 1::bigint, 'before the rollback') FROM coupon_request(:r, 'x');
SELECT is(queue_position, 2::bigint, 'two') FROM coupon_request(:r, 'y');
SELECT is(outcome, 'busy', 'and no more') FROM coupon_request(:r, 'z');
ROLLBACK TO s;
SELECT is(depth, 0::bigint, 'F23: an aborted request leaves no hole') FROM coupon_request_queue(:r);
SELECT is(queue_position, 1::bigint, 'F3: nor holds it a unit') FROM coupon_request(:r, 'z');
SELECT is(queue_position, 2::bigint, 'the next') FROM coupon_request(:r, 'y');

-- a user may have several, under several keys
SELECT coupon_campaign_create('several', 10, 2) AS m \gset
SELECT results_eq(format($$ SELECT k, status || coalesce(' ' || outcome, '') FROM unnest(ARRAY['1', '2', '3']) k, coupon_request(%s, 'a', k) ORDER BY k $$, :m),
	$$ VALUES ('1', 'WAITING'), ('2', 'WAITING'), ('3', 'REFUSED busy') $$, 'as many requests wait as the user may have units');
SELECT coupon_issue(:m, 'b') AS ignore \gset
SELECT coupon_request(:m, 'b', '1') AS ignore \gset
SELECT is(status || ' ' || outcome, 'REFUSED busy', 'counts, too') FROM coupon_request(:m, 'b', '2');

-- refused at entry, each with its own reason
SELECT coupon_campaign_create('window', 2, opens_at => now() + interval '1 hour') AS w \gset
SELECT is(status || ' ' || outcome, 'REFUSED not_open', 'F7: not open') FROM coupon_request(:w, 'a');
SELECT coupon_campaign_create('paused', 2) AS p \gset
SELECT coupon_campaign_pause(:p) AS ignore \gset
SELECT is(status || ' ' || outcome, 'REFUSED paused', 'F7: paused') FROM coupon_request(:p, 'a');
SELECT coupon_campaign_close(:p) AS ignore \gset
SELECT is(status || ' ' || outcome, 'REFUSED closed', 'F7: closed') FROM coupon_request(:p, 'a');
SELECT coupon_campaign_create('had', 1) AS h \gset
SELECT serial AS s FROM coupon_issue(:h, 'a') \gset
SELECT results_eq(format('SELECT status, outcome, (issuance).serial, (issuance).user_id FROM coupon_request(%s, ''a'')', :h),
	format('VALUES (''REFUSED'', ''already_issued'', %s::bigint, ''a'')', :s), 'F7: who has a unit is shown it');
SELECT is(status || ' ' || outcome, 'COMPLETED issued', 'and has it by whatever way') FROM coupon_request_status_of(:h, 'a');
SELECT is((SELECT count(*) FROM coupon.request WHERE campaign_id IN (:w, :p, :h)), 0::bigint, 'a refusal stores nothing');

-- misuse
SELECT throws_ok('SELECT coupon_request(9223372036854775807, ''a'')', 'UC001', NULL, 'an unknown campaign');
SELECT throws_ok('SELECT coupon_request(-1, ''a'')', 'UC001', NULL, 'a negative one');
SELECT throws_ok('SELECT coupon_request(1000000, ''a'')', 'UC001', NULL, 'one that may come');
SELECT throws_ok('SELECT coupon_request(NULL, ''a''::text)', '22004', NULL, 'NULL campaign');
SELECT throws_ok(format('SELECT coupon_request(%s, NULL::text)', :c), '22004', NULL, 'NULL user');
SELECT throws_ok(format('SELECT coupon_request(%s, ''''::text)', :c), '22023', NULL, 'empty user');
SELECT throws_ok(format('SELECT coupon_request(%s, repeat(''x'', 257))', :c), '22023', NULL, 'long user');
SELECT throws_ok(format('SELECT coupon_request(%s, ''a''::text, '''')', :c), '22023', NULL, 'empty key');
SELECT throws_ok(format('SELECT coupon_request(%s, ''a''::text, repeat(''k'', 257))', :c), '22023', NULL, 'long key');
SELECT throws_ok('SELECT coupon_request_status(NULL)', '22004', NULL, 'NULL id');
SELECT throws_ok('SELECT coupon_request_wait(NULL)', '22004', NULL, 'NULL id to wait for');
SELECT throws_ok('SELECT coupon_request_wait(gen_random_uuid(), NULL)', '22004', NULL, 'NULL timeout');
SELECT throws_ok('SELECT coupon_request_wait(gen_random_uuid(), ''-1 s'')', '22023', NULL, 'negative timeout');
SELECT throws_ok('SELECT coupon_request_wait(gen_random_uuid(), ''2 days'')', '22023', NULL, 'timeout without end');
SELECT throws_ok('SELECT coupon_request_decide(0)', '22023', NULL, 'a batch of nothing');

-- nobody writes past the functions
SELECT throws_ok('DELETE FROM coupon.request', '0A000', NULL, 'no DELETE');
SELECT throws_ok('UPDATE coupon.request SET outcome = ''issued''', '0A000', NULL, 'no UPDATE');
SELECT throws_ok('INSERT INTO coupon.request_0 SELECT * FROM coupon.request', '0A000', NULL, 'no INSERT');
SELECT throws_ok('TRUNCATE coupon.request', '0A000', NULL, 'no TRUNCATE');
SET LOCAL transaction_read_only = on;
SELECT throws_ok(format('SELECT coupon_request(%s, ''ro'')', :r) || ', coupon_request_status(gen_random_uuid())', NULL, NULL, 'READ ONLY: no request');

SELECT * FROM finish();
ROLLBACK;
