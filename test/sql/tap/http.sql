-- examples/sources: the routes of schema coupon_api in PostgREST's envelope: one transaction,
-- the role, request.*, GET in READ ONLY, the keys of the body as named
-- arguments; response.status and response.headers are read back.  What workers
-- and other sessions do is in test/t/095_http.pl.
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT no_plan();

-- http(method, function, arguments, headers, claims, role): with arguments that
-- no function of the name has, the one of a json is called; an ERROR is shown by
-- its SQLSTATE, with status 500.
CREATE FUNCTION pg_temp.http(
	method text, function text, arguments text DEFAULT '{}', headers json DEFAULT '{}', claims json DEFAULT NULL,
	role name DEFAULT 'coupon_service', OUT status text, OUT headers_out jsonb, OUT body jsonb)
LANGUAGE plpgsql AS $$
DECLARE
	given text[] := ARRAY(SELECT json_object_keys(arguments::json));
	parameters text;
	list text;
	is_known boolean;
BEGIN
	SELECT string_agg(format('%I %s', a.name, a.type), ', '), string_agg(format('%I := a.%I', a.name, a.name), ', ')
	  INTO parameters, list
	  FROM pg_proc p, unnest(p.proargnames, p.proargtypes::regtype[]) a(name, type)
	 WHERE p.proname = function AND p.pronamespace = 'coupon_api'::regnamespace AND a.name = ANY (given);
	is_known := cardinality(given) = (SELECT count(*) FROM pg_proc p, unnest(p.proargnames) n
	                                   WHERE p.proname = function AND p.pronamespace = 'coupon_api'::regnamespace AND n = ANY (given));
	BEGIN
		PERFORM set_config('request.method', method, true), set_config('request.path', '/rpc/' || function, true),
		        set_config('request.headers', headers::text, true), set_config('request.jwt.claims', (jsonb_build_object('role', role) || coalesce(claims::jsonb, '{}'))::text, true),
		        set_config('response.status', '', true), set_config('response.headers', '', true),
		        set_config('search_path', 'coupon_api, public', true), set_config('role', role, true);
		IF method = 'GET' THEN
			PERFORM set_config('transaction_read_only', 'on', true);
		END IF;
		EXECUTE CASE WHEN NOT is_known THEN format('SELECT coupon_api.%I($1)', function)
		             WHEN parameters IS NULL THEN format('SELECT coupon_api.%I()', function)
		             ELSE format('SELECT coupon_api.%I(%s) FROM json_to_record($1) AS a(%s)', function, list, parameters) END
		   INTO body USING arguments::json;
		status := nullif(current_setting('response.status'), '');
		headers_out := nullif(current_setting('response.headers'), '');
		PERFORM set_config('role', 'none', true);
		-- what GET did is undone, and with it READ ONLY
		IF method = 'GET' THEN
			RAISE SQLSTATE 'TT000';
		END IF;
	EXCEPTION
		WHEN SQLSTATE 'TT000' THEN NULL;
		WHEN OTHERS THEN
			status := 500; body := jsonb_build_object('code', SQLSTATE, 'message', SQLERRM);
	END;
	PERFORM set_config('role', 'none', true), set_config('search_path', 'public', true);
END $$;

-- keys and types of a body, as in "a: number, b: {c: string}"
CREATE FUNCTION pg_temp.shape(body jsonb) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(e.key || ': ' || CASE jsonb_typeof(e.value) WHEN 'object' THEN '{' || pg_temp.shape(e.value) || '}'
	                                        ELSE jsonb_typeof(e.value) END, ', ' ORDER BY e.key COLLATE "C")
	  FROM jsonb_each(body) e $$;
-- status and the error's code
CREATE FUNCTION pg_temp.refusal(
	method text, function text, arguments text DEFAULT '{}', headers json DEFAULT '{}', claims json DEFAULT NULL,
	role name DEFAULT 'coupon_service')
RETURNS text LANGUAGE sql AS $$
	SELECT status || ' ' || coalesce(body #>> '{error,code}', body ->> 'code', 'no error')
	       || CASE WHEN headers_out IS NULL THEN '' ELSE ' ' || (headers_out -> 0)::text END
	  FROM pg_temp.http(method, function, arguments, headers, claims, role) $$;

-- sales in every state
SELECT coupon_campaign_create('OPEN', 3, policy => '{"kind": "RATE", "rate": 10}') AS open \gset
SELECT coupon_campaign_create('CODED', 0) AS coded \gset
SELECT coupon_codes_import(:coded, ARRAY['C-1', 'C-2']) AS ignore \gset
SELECT coupon_campaign_create('GONE', 5) AS gone \gset
SELECT coupon_campaign_create('EMPTY', 0) AS empty \gset
SELECT coupon_campaign_create('FUTURE', 5, opens_at => now() + interval '1 day') AS future \gset
SELECT coupon_campaign_create('PAUSED', 5) AS paused \gset
SELECT coupon_campaign_pause(:paused) AS ignore \gset
SELECT coupon_campaign_create('CLOSED', 5) AS closed \gset
SELECT coupon_campaign_close(:closed) AS ignore \gset
SELECT coupon_room_create('default', 10) AS ignore \gset
SELECT coupon_campaign_create('ROOM', 5) AS room \gset
SELECT coupon_campaign_require_room(:room, 'default') AS ignore \gset

-- ---- 000: at once ----

-- what has to look for a unit is a worker's, which does not see the campaigns
-- of this transaction: that is in test/t/095_http.pl
SELECT coupon_issue(:open, 'a'), coupon_issue(:coded, 'a'), coupon_issue(:open, 'b'), coupon_issue(:gone, 'a') \g /dev/null
SELECT serial FROM coupon_issue(:gone, 'a') \gset
SELECT coupon_campaign_close(:gone) \g /dev/null
CREATE TEMP TABLE answer AS SELECT * FROM pg_temp.http('POST', 'issue_sync', '{"userId": "a", "code": "GONE"}');
SELECT is(status || ' ' || (body #>> '{error,code}'), '409 already_issued', 'F7: a duplicate: 409 of its own kind') FROM answer;
SELECT is(pg_temp.shape(body), 'data: {code: null, couponId: number, expiresAt: null, issuedAt: string, serial: number, status: string, userId: string}, error: {code: string, message: string}, message: string',
	'F6: issue-sync: an error, and the unit: keys and types') FROM answer;
SELECT is(body #>> '{data,serial}', :'serial', 'the first answer comes with it') FROM answer;
SELECT is(body #>> '{data,serial}', :'serial', 'issue-optimistic: and here') FROM pg_temp.http('POST', 'issue_optimistic', '{"userId": "a", "code": "GONE"}');
SELECT is(current_setting('coupon.allow_autonomous'), 'off', 'grouped calls are allowed to the routes alone');
SELECT is(pg_temp.refusal('POST', 'issue_async', '{"userId": "n", "code": "EMPTY"}'), '409 sold_out', 'F7: issue_async: sold out');
SELECT is(pg_temp.refusal('POST', f, '{"userId": "n", "code": "FUTURE"}'), '409 not_open', 'F7: ' || f || ': not open') FROM unnest(ARRAY['issue_sync', 'issue_optimistic', 'issue_async']) f;
SELECT is(pg_temp.refusal('POST', f, '{"userId": "n", "code": "PAUSED"}'), '409 paused', 'F7: ' || f || ': paused') FROM unnest(ARRAY['issue_sync', 'issue_optimistic', 'issue_async']) f;
SELECT is(pg_temp.refusal('POST', f, '{"userId": "n", "code": "CLOSED"}'), '409 closed', 'F7: ' || f || ': closed') FROM unnest(ARRAY['issue_sync', 'issue_optimistic', 'issue_async']) f;
SELECT is(pg_temp.refusal('POST', 'issue_async', '{"userId": "n", "code": "ROOM"}'), '403 not_admitted', 'F24: issue_async: past the room');
SELECT is(pg_temp.refusal('POST', f, '{"userId": "n", "code": "NONE"}'), '404 unknown_campaign', f || ': no such code') FROM unnest(ARRAY['issue_sync', 'issue_optimistic', 'issue_async']) f;
SELECT is(pg_temp.refusal('POST', f, '{"code": "OPEN"}'), '400 missing', f || ': no user') FROM unnest(ARRAY['issue_sync', 'issue_optimistic', 'issue_async']) f;
SELECT is(pg_temp.refusal('POST', f, '{"userId": "n"}'), '400 missing', f || ': no code') FROM unnest(ARRAY['issue_sync', 'issue_optimistic', 'issue_async']) f;
SELECT is(pg_temp.refusal('POST', f), '400 missing', f || ': nothing') FROM unnest(ARRAY['issue_sync', 'issue_optimistic', 'issue_async']) f;
SELECT is(pg_temp.refusal('POST', f, '{"userId": "", "code": "OPEN"}'), '400 invalid', f || ': an empty user') FROM unnest(ARRAY['issue_sync', 'issue_optimistic', 'issue_async']) f;
SELECT is(pg_temp.refusal('POST', f, '{"userId": "n", "code": ""}'), '400 invalid', f || ': an empty code') FROM unnest(ARRAY['issue_sync', 'issue_optimistic', 'issue_async']) f;
SELECT is(pg_temp.refusal('POST', 'issue_sync', json_build_object('userId', repeat('x', 257), 'code', 'OPEN')::text), '400 invalid', 'issue-sync: a user too long');
SELECT is(pg_temp.refusal('POST', 'issue_sync', json_build_object('userId', 'n', 'code', repeat('x', 257))::text), '400 invalid', 'issue-sync: a code too long');
SELECT is((coupon_status(:open)).remaining, 1::bigint, 'F3: what was refused took nothing');
SELECT is('lock_timeout=10s' = ANY (proconfig), true, 'F8: issue-sync waits for a lock for 10 s') FROM pg_proc WHERE oid = 'coupon_api.issue_sync'::regproc;

-- ---- 000: later ----

SELECT coupon_campaign_create('LATER', 3) AS later \gset
TRUNCATE answer;
INSERT INTO answer SELECT * FROM pg_temp.http('POST', 'issue_async', '{"userId": "a", "code": "LATER"}');
SELECT is(status || ' ' || pg_temp.shape(body), '202 data: {requestId: string}', 'F6: issue-async: 202 and a requestId') FROM answer;
SELECT is(count(*), 1::bigint, 'F4: behind 202 there is a request that waits')
  FROM answer, coupon.request r WHERE r.request_id = (body #>> '{data,requestId}')::uuid AND r.decided_at IS NULL;
SELECT is(h.body, a.body, 'issue-async: while it waits, the same request') FROM answer a, pg_temp.http('POST', 'issue_async', '{"userId": "a", "code": "LATER"}') h;
SELECT is(status || body::text, '200{"data": {"status": "WAITING", "queuePosition": 1}}', 'F6: issue-status: WAITING') FROM pg_temp.http('GET', 'issue_status', '{"userId": "a", "code": "LATER"}');
SELECT is(status || body::text, '200{"data": {"status": "NOT_REQUESTED", "queuePosition": 0}}', 'F4: issue-status: not requested is no WAITING') FROM pg_temp.http('GET', 'issue_status', '{"userId": "z", "code": "LATER"}');
SELECT is(status || body::text, '200{"data": {"status": "COMPLETED", "queuePosition": 0}}', 'issue-status: who has a unit') FROM pg_temp.http('GET', 'issue_status', '{"userId": "a", "code": "OPEN"}');
SELECT is(h.status || h.body::text, '404{"data": {"status": "WAITING", "success": false, "processed": false}}', 'F6: issue-result: 404 while it waits')
  FROM answer a, pg_temp.http('GET', 'issue_result', json_build_object('requestId', a.body #>> '{data,requestId}')::text) h;
SELECT is(status || body::text, '404{"data": {"status": "NOT_REQUESTED", "success": false, "processed": false}}', 'F4: issue-result: nor is one that is not there processed')
  FROM pg_temp.http('GET', 'issue_result', '{"requestId": "00000004-0000-8000-8000-000000000000"}');
SELECT is(status || ' ' || pg_temp.shape(body), '200 data: {code: string, outcome: string, processed: boolean, serial: number, success: boolean}', 'F6: issue-result: by user and code')
  FROM pg_temp.http('GET', 'issue_result', '{"userId": "a", "code": "CODED"}');
SELECT is(pg_temp.refusal('GET', 'issue_result', '{"requestId": "7"}'), '400 invalid', 'issue-result: not an id');
SELECT is(pg_temp.refusal('GET', 'issue_result'), '400 missing', 'issue-result: nothing');
SELECT is(pg_temp.refusal('GET', f, '{"code": "LATER"}'), '400 missing', f || ': no user') FROM unnest(ARRAY['issue_status', 'issue_result']) f;
SELECT is(pg_temp.refusal('GET', f, '{"userId": "a"}'), '400 missing', f || ': no code') FROM unnest(ARRAY['issue_status', 'issue_result']) f;
SELECT is(pg_temp.refusal('GET', f, '{"userId": "a", "code": "NONE"}'), '404 unknown_campaign', f || ': no such code') FROM unnest(ARRAY['issue_status', 'issue_result']) f;
SELECT is(pg_temp.refusal('POST', 'issue_async', '{"userId": "a", "code": "OPEN"}'), '409 already_issued', 'F7: issue-async: a duplicate');
SELECT count(*) AS ignore FROM pg_temp.http('POST', 'issue_async', '{"userId": "b", "code": "LATER"}') b, pg_temp.http('POST', 'issue_async', '{"userId": "c", "code": "LATER"}') c \gset
SELECT is(pg_temp.refusal('POST', 'issue_async', '{"userId": "d", "code": "LATER"}'), '409 busy {"Retry-After": "1"}', 'F7: issue-async: all units are spoken for');

-- ---- 000: administration ----

TRUNCATE answer;
INSERT INTO answer SELECT * FROM pg_temp.http('POST', 'admin_coupon_policies', '{"code": "NEW", "maxCount": 7, "discountRate": 12.5}', role => 'coupon_admin');
SELECT is(status || ' ' || pg_temp.shape(body), '201 code: string, couponId: number, discountRate: number, maxCount: number', 'F6: coupon-policies: 201') FROM answer;
SELECT results_eq(format('SELECT name, policy FROM coupon.campaign WHERE campaign_id = %s', (SELECT body ->> 'couponId' FROM answer)),
	$$ VALUES ('NEW', '{"kind": "RATE", "rate": 12.5}'::jsonb) $$, 'coupon-policies: name and policy');
SELECT is((coupon_status((body ->> 'couponId')::bigint)).stock, 7::bigint, 'coupon-policies: stock') FROM answer;
SELECT is(pg_temp.refusal('POST', 'admin_coupon_policies', '{"code": "NEW", "maxCount": 7, "discountRate": 12.5}', role => 'coupon_admin'), '409 exists', 'F1: coupon-policies: one sale for a code');
SELECT coupon_campaign_close((body ->> 'couponId')::bigint) AS ignore FROM answer \gset
SELECT is(status, '201', 'coupon-policies: the next one when that is over') FROM pg_temp.http('POST', 'admin_coupon_policies', '{"code": "NEW", "maxCount": 7, "discountRate": 12.5}', role => 'coupon_admin');
SELECT is(pg_temp.refusal('POST', 'admin_coupon_policies', arguments, role => 'coupon_admin'), expected, 'coupon-policies: ' || arguments)
  FROM (VALUES ('{}', '400 missing'), ('{"code": "P", "maxCount": 1}', '400 missing'), ('{"code": "P", "discountRate": 1}', '400 missing'), ('{"maxCount": 1, "discountRate": 1}', '400 missing'),
               ('{"code": "P", "maxCount": 1, "discountRate": null}', '400 missing'),
               ('{"code": "", "maxCount": 1, "discountRate": 1}', '400 invalid'), ('{"code": ["P"], "maxCount": 1, "discountRate": 1}', '400 invalid'),
               ('{"code": "P", "maxCount": 0, "discountRate": 1}', '400 invalid'), ('{"code": "P", "maxCount": 1.5, "discountRate": 1}', '400 invalid'),
               ('{"code": "P", "maxCount": -1, "discountRate": 1}', '400 invalid'), ('{"code": "P", "maxCount": 1e30, "discountRate": 1}', '400 invalid'),
               ('{"code": "P", "maxCount": true, "discountRate": 1}', '400 invalid'), ('{"code": "P", "maxCount": "many", "discountRate": 1}', '400 invalid'),
               ('{"code": "P", "maxCount": 1, "discountRate": "1"}', '400 invalid'), ('{"code": "P", "maxCount": 1, "discountRate": 0}', '400 invalid'),
               ('{"code": "P", "maxCount": 1, "discountRate": 101}', '400 invalid'), ('{"code": "P", "maxCount": 1, "discountRate": 1e-16000}', '400 invalid'), ('{"code": "P", "maxCount": 1, "discountRate": [1]}', '400 invalid')) x(arguments, expected);
SELECT is(count(*), 0::bigint, 'coupon-policies: what is refused makes nothing') FROM coupon.campaign WHERE name = 'P';
SELECT is(status || ' ' || pg_temp.shape(body), '200 issuedCount: number', 'F6: coupon status') FROM pg_temp.http('GET', 'admin_coupon_status', '{"code": "OPEN"}', role => 'coupon_admin');
SELECT is(status || ' ' || (body ->> 'queueSize') || ' ' || pg_temp.shape(body), '200 3 processingCount: number, queueSize: number', 'F12: queue-status') FROM pg_temp.http('GET', 'admin_queue_status', '{"code": "LATER"}', role => 'coupon_admin');
SELECT is(body ->> 'queueSize', '0', 'queue-status: nobody waits') FROM pg_temp.http('GET', 'admin_queue_status', '{"code": "CLOSED"}', role => 'coupon_admin');
SELECT is(pg_temp.refusal('GET', f, role => 'coupon_admin'), '400 missing', f || ': no code') FROM unnest(ARRAY['admin_coupon_status', 'admin_queue_status']) f;
SELECT is(pg_temp.refusal('GET', f, '{"code": "NONE"}', role => 'coupon_admin'), '404 unknown_campaign', f || ': no such code') FROM unnest(ARRAY['admin_coupon_status', 'admin_queue_status']) f;
SELECT is(pg_temp.refusal('POST', 'admin_coupon_policies', '{"code": "P", "maxCount": 1, "discountRate": 1}'), '500 42501', 'coupon-policies: not for the service');
SELECT is(pg_temp.refusal('GET', f, '{"code": "OPEN"}'), '500 42501', f || ': not for the service') FROM unnest(ARRAY['admin_coupon_status', 'admin_queue_status']) f;

-- ---- 003 ----

SELECT coupon_campaign_create('SHARDED', 5, policy => '{"kind": "FIXED", "amount": 1000, "usage_period_days": 30}') AS sharded \gset
TRUNCATE answer;
INSERT INTO answer SELECT * FROM pg_temp.http('POST', 'issue', format('{"userId": 4711, "couponId": %s, "policyId": 21, "typeSnapshot": "RATE", "discountRateSnapshot": 99.0,
	"discountAmountSnapshot": 999999, "minimumOrderAmountSnapshot": 0, "usagePeriodSnapshot": 36500, "expiredAt": "2999-12-31T23:59:59"}', :sharded));
SELECT is(status || ' ' || pg_temp.shape(body), '202 data: {outcome: null, requestId: string, status: string}', 'F6: coupon/issue: 202') FROM answer;
SELECT is(count(*), 1::bigint, 'F4: behind 202 there is a request that waits')
  FROM answer, coupon.request r WHERE r.request_id = (body #>> '{data,requestId}')::uuid AND r.user_id = '4711' AND r.decided_at IS NULL;
SELECT is(h.status || h.body::text, '202' || a.body::text, 'coupon/issue: the same request again') FROM answer a, pg_temp.http('POST', 'issue', format('{"userId": "4711", "couponId": "%s"}', :sharded)) h;
SELECT coupon_issue(:sharded, 'has') AS ignore \gset
SELECT is(status || body::text, '202{"data": {"status": "COMPLETED", "outcome": "already_issued", "requestId": null}}', 'F7: coupon/issue: who has one is told so, and has not failed')
  FROM pg_temp.http('POST', 'issue', format('{"userId": "has", "couponId": %s}', :sharded));
SELECT is(pg_temp.refusal('POST', 'issue', format('{"userId": 1, "couponId": %s}', c)), expected, 'F7: coupon/issue: ' || expected)
  FROM (VALUES (:empty, '409 sold_out'), (:future, '409 not_open'), (:paused, '409 paused'), (:closed, '409 closed'), (:room, '403 not_admitted'), (:later, '409 busy {"Retry-After": "1"}'), (999999, '404 unknown_campaign')) x(c, expected);
SELECT is(pg_temp.refusal('POST', 'issue', arguments), expected, 'coupon/issue: ' || arguments)
  FROM (VALUES ('{}', '400 missing'), ('{"userId": 1}', '400 missing'), ('{"couponId": 1}', '400 missing'), ('{"userId": null, "couponId": 1}', '400 missing'), ('{"userId": 1, "couponId": null}', '400 missing'),
               ('{"userId": "", "couponId": 1}', '400 invalid'), ('{"userId": 1.5, "couponId": 1}', '400 invalid'), ('{"userId": true, "couponId": 1}', '400 invalid'),
               ('{"userId": {"a": 1}, "couponId": 1}', '400 invalid'), ('{"userId": [1], "couponId": 1}', '400 invalid'), ('{"userId": 1e400, "couponId": 1}', '400 invalid'),
               ('{"userId": 1, "couponId": "one"}', '400 invalid'), ('{"userId": 1, "couponId": 1.5}', '400 invalid'), ('{"userId": 1, "couponId": [1]}', '400 invalid'),
               ('{"userId": 1, "couponId": -1}', '400 invalid'), ('{"userId": 1, "couponId": 1e400}', '400 invalid'), ('{"userId": 1, "couponId": ""}', '400 invalid'),
               ('{"userId": 1, "couponId": 1, "price": 1}', '400 invalid')) x(arguments, expected);

-- ---- 004 ----

SELECT coupon_campaign_create('SPIKE', 2) AS spike \gset
TRUNCATE answer;
INSERT INTO answer SELECT * FROM pg_temp.http('POST', 'issue_fcfs', format('{"couponId": "%s", "publicId": "p-1"}', :spike));
SELECT is(status || ' ' || pg_temp.shape(body), '202 message: string, remainingStock: number, requestId: string', 'F6: issue-fcfs: 202') FROM answer;
SELECT is(body ->> 'remainingStock', '1', 'issue-fcfs: the stock that nobody waits for') FROM answer;
SELECT is(count(*), 1::bigint, 'F4: behind 202 there is a request that waits') FROM answer, coupon.request r WHERE r.request_id = (body ->> 'requestId')::uuid AND r.decided_at IS NULL;
SELECT is(h.status || ' ' || (h.body #>> '{error,code}') || ' ' || (h.body #>> '{data,requestId}'), '409 requested ' || (a.body ->> 'requestId'), 'F3: issue-fcfs: a second click is a duplicate, and told its request')
  FROM answer a, pg_temp.http('POST', 'issue_fcfs', format('{"couponId": "%s", "publicId": "p-1"}', :spike)) h;
SELECT is(count(*), 1::bigint, 'F1: and takes nothing') FROM coupon.request WHERE campaign_id = :spike;
SELECT is(pg_temp.refusal('POST', 'issue_fcfs', format('{"couponId": "%s", "publicId": "a"}', :open)), '409 already_issued', 'F7: issue-fcfs: 409 already_issued');
SELECT is(pg_temp.refusal('POST', 'issue_fcfs', format('{"couponId": "%s", "publicId": "n"}', c)), expected, 'F7: issue-fcfs: ' || expected)
  FROM (VALUES (:empty, '400 sold_out'), (:future, '409 not_open'), (:paused, '409 paused'), (:closed, '409 closed'), (:room, '403 not_admitted'), (:later, '400 busy {"Retry-After": "1"}'), (999999, '404 unknown_campaign')) x(c, expected);
SELECT is(pg_temp.refusal('POST', 'issue_fcfs', arguments), expected, 'issue-fcfs: ' || arguments)
  FROM (VALUES ('{}', '400 missing'), ('{"couponId": "1"}', '400 missing'), ('{"publicId": "p"}', '400 missing'), ('{"couponId": "", "publicId": "p"}', '400 invalid'),
               ('{"couponId": "x", "publicId": "p"}', '400 invalid'), ('{"couponId": "1", "publicId": ""}', '400 invalid'), ('{"couponId": "99999999999999999999", "publicId": "p"}', '400 invalid')) x(arguments, expected);

-- ---- 001: the waiting room ----

TRUNCATE answer;
INSERT INTO answer SELECT * FROM pg_temp.http('POST', 'queue_enqueue', '{"userId": 77}');
SELECT is(status || ' ' || pg_temp.shape(body), '201 order: number, status: string', 'F6: enqueue: 201') FROM answer;
SELECT is(headers_out ->> 0 ~ '^\{"X-Access-Token": "[0-9]+\.[0-9]+\.[0-9a-f]{32}"\}$', true, 'F6: enqueue: the header X-Access-Token') FROM answer;
SELECT is(h.headers_out, a.headers_out, 'F23: enqueue: the live ticket again') FROM answer a, pg_temp.http('POST', 'queue_enqueue', '{"userId": "77"}') h;
SELECT headers_out #>> '{0,X-Access-Token}' AS token FROM answer \gset
SELECT is(h.status || h.body::text || (h.headers_out #>> '{0,Retry-After}' ~ '^[0-9]+$'), '200{"order": 1}true', 'F6: order: the place, and when to ask again')
  FROM pg_temp.http('GET', 'queue_order', headers => json_build_object('x-access-token', :'token')) h;
SELECT is(status, '200', 'order: names of headers in any case') FROM pg_temp.http('GET', 'queue_order', headers => json_build_object('X-Access-Token', :'token'));
SELECT is(pg_temp.refusal('GET', 'queue_order'), '400 missing', 'order: no token');
SELECT is(pg_temp.refusal('GET', 'queue_order', headers => '{"x-access-token": ""}'), '400 missing', 'order: an empty token');
SELECT is(pg_temp.refusal('GET', 'queue_order', headers => json_build_object('x-access-token', t)), '400 invalid', 'order: not a token: ' || t)
  FROM unnest(ARRAY['x', '1.1', '1.1.zz', '0.1.00000000000000000000000000000000', '1.99999999999999999999.00000000000000000000000000000000', :'token' || '0']) t;
SELECT is(pg_temp.refusal('GET', 'queue_order', headers => json_build_object('x-access-token', regexp_replace(:'token', '.{32}$', repeat('0', 32)))), '401 gone', 'order: another secret');
SELECT coupon_room_create('open door', 1, method => 'passthrough') AS ignore, coupon_room_create('shut', 1, method => 'reject') AS ignore2,
       coupon_room_create('lottery', 1, method => 'random', opens_at => now() + interval '1 day') AS ignore3 \gset
SELECT is(body ->> 'order', '0', 'enqueue: admitted is 0') FROM pg_temp.http('POST', 'queue_enqueue', '{"userId": 77, "room": "open door"}');
SELECT cmp_ok((body ->> 'order')::bigint, '>', 0::bigint, 'F24: before a draw nobody takes themselves for admitted') FROM pg_temp.http('POST', 'queue_enqueue', '{"userId": 77, "room": "lottery"}');
SELECT is(pg_temp.refusal('POST', 'queue_enqueue', arguments), expected, 'enqueue: ' || arguments)
  FROM (VALUES ('{}', '400 missing'), ('{"userId": null}', '400 missing'), ('{"userId": ""}', '400 invalid'), ('{"userId": {}}', '400 invalid'), ('{"userId": false}', '400 invalid'),
               ('{"userId": 1, "room": "none"}', '404 unknown_room'), ('{"userId": 1, "room": ""}', '400 invalid'), ('{"userId": 1, "room": [1]}', '400 invalid'), ('{"userId": 1, "room": "shut"}', '503 rejected')) x(arguments, expected);

-- ---- identity ----

SELECT coupon_campaign_create('ROOMY', 9) AS roomy \gset
SELECT coupon_issue(:roomy, 'me'), coupon_issue(:roomy, '12') \g /dev/null
SELECT is(pg_temp.refusal('POST', 'issue_async', '{"code": "ROOMY"}', claims => '{"role": "coupon_service", "sub": "me"}'), '409 already_issued', 'a token''s sub is the user');
SELECT is(pg_temp.refusal(method, f, arguments, claims => '{"role": "coupon_service", "sub": "me"}'), '403 other_user', f || ': nobody else''s user')
  FROM (VALUES ('POST', 'issue_sync', '{"userId": "you", "code": "ROOMY"}'), ('POST', 'issue_optimistic', '{"userId": "you", "code": "ROOMY"}'), ('POST', 'issue_async', '{"userId": "you", "code": "ROOMY"}'),
               ('GET', 'issue_status', '{"userId": "you", "code": "ROOMY"}'), ('GET', 'issue_result', '{"userId": "you", "code": "ROOMY"}'), ('POST', 'issue', '{"userId": "you", "couponId": 1}'),
               ('POST', 'issue_fcfs', '{"couponId": "1", "publicId": "you"}'), ('POST', 'queue_enqueue', '{"userId": "you"}')) x(method, f, arguments);
SELECT is(pg_temp.refusal('POST', 'issue_async', '{"userId": "me", "code": "ROOMY"}', claims => '{"sub": "me"}'), '409 already_issued', 'one''s own user may be said');
SELECT is(pg_temp.refusal('POST', 'issue_sync', '{"code": "ROOMY"}', claims => '{"sub": ""}'), '401 invalid_token', 'an empty sub');
SELECT is(pg_temp.refusal('POST', 'issue_sync', '{"code": "ROOMY"}', claims => '{"role": "coupon_service"}'), '400 missing', 'without sub the user must be said');
SELECT is(pg_temp.refusal('POST', 'issue_sync', '{"userId": "me", "code": "ROOMY"}', role => 'coupon_web_user'), '401 invalid_token', 'a role that may not speak for others names nobody');
SELECT is(pg_temp.refusal('POST', 'issue_async', '{"userId": "me", "code": "ROOMY"}', role => 'coupon_web_user', claims => '{"sub": "me"}'), '409 already_issued', 'a user for themselves');
SELECT is(pg_temp.refusal('POST', 'issue_async', '{"code": "ROOMY"}', claims => '{"sub": 12}'), '409 already_issued', 'a sub that is a number');

-- ---- what there is ----

SELECT results_eq($$SELECT (p.proname || '(' || pg_get_function_arguments(p.oid) || ') ' || pg_get_function_result(p.oid)) COLLATE "default"
	FROM pg_proc p WHERE p.pronamespace = 'coupon_api'::regnamespace AND (p.proargnames IS NOT NULL OR p.pronargs = 0) ORDER BY p.proname$$,
	ARRAY[
	'admin_coupon_policies(code jsonb DEFAULT NULL::jsonb, "maxCount" jsonb DEFAULT NULL::jsonb, "discountRate" jsonb DEFAULT NULL::jsonb) jsonb',
	'admin_coupon_status(code text DEFAULT NULL::text) jsonb',
	'admin_kafka_health() jsonb',
	'admin_kafka_status() jsonb',
	'admin_queue_status(code text DEFAULT NULL::text) jsonb',
	'issue("userId" jsonb DEFAULT NULL::jsonb, "couponId" jsonb DEFAULT NULL::jsonb, "policyId" jsonb DEFAULT NULL::jsonb, "typeSnapshot" jsonb DEFAULT NULL::jsonb, "discountRateSnapshot" jsonb DEFAULT NULL::jsonb, "discountAmountSnapshot" jsonb DEFAULT NULL::jsonb, "minimumOrderAmountSnapshot" jsonb DEFAULT NULL::jsonb, "usagePeriodSnapshot" jsonb DEFAULT NULL::jsonb, "expiredAt" jsonb DEFAULT NULL::jsonb) jsonb',
	'issue_async("userId" text DEFAULT NULL::text, code text DEFAULT NULL::text) jsonb',
	'issue_fcfs("couponId" text DEFAULT NULL::text, "publicId" text DEFAULT NULL::text) jsonb',
	'issue_optimistic("userId" text DEFAULT NULL::text, code text DEFAULT NULL::text) jsonb',
	'issue_result("requestId" text DEFAULT NULL::text, "userId" text DEFAULT NULL::text, code text DEFAULT NULL::text) jsonb',
	'issue_status("userId" text DEFAULT NULL::text, code text DEFAULT NULL::text) jsonb',
	'issue_sync("userId" text DEFAULT NULL::text, code text DEFAULT NULL::text) jsonb',
	'queue_enqueue("userId" jsonb DEFAULT NULL::jsonb, room jsonb DEFAULT ''"default"''::jsonb) jsonb',
	'queue_order() jsonb'],
	'F6: the routes');

SELECT results_eq($$ SELECT proname::text COLLATE "default", provolatile::text COLLATE "default" FROM pg_proc
	WHERE pronamespace = 'coupon_api'::regnamespace AND (proargnames IS NOT NULL OR pronargs = 0) ORDER BY 1 $$,
	$$ VALUES ('admin_coupon_policies', 'v'), ('admin_coupon_status', 's'), ('admin_kafka_health', 's'), ('admin_kafka_status', 's'), ('admin_queue_status', 's'), ('issue', 'v'), ('issue_async', 'v'), ('issue_fcfs', 'v'),
	          ('issue_optimistic', 'v'), ('issue_result', 's'), ('issue_status', 's'), ('issue_sync', 'v'), ('queue_enqueue', 'v'), ('queue_order', 's') $$,
	'the routes, and which are for GET');
SELECT is(pg_temp.refusal('GET', 'issue_sync', '{"userId": "ro", "code": "ROOMY"}'), '500 25006', 'the envelope''s READ ONLY is one');

SELECT * FROM finish();
ROLLBACK;
