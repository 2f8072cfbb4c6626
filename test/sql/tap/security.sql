-- Definitions that keep an unprivileged user out, computed from the
-- catalogs, and a search_path full of traps: functions and operators named
-- as those of pg_catalog, tables and types named as ours.
BEGIN;
SET LOCAL client_min_messages = error;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT plan(73);

CREATE TEMP VIEW member AS
SELECT d.classid, d.objid, e.extnamespace
  FROM pg_extension e
  JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
 WHERE e.extname = 'coupon';
CREATE TEMP VIEW routine AS
SELECT p.oid::regprocedure AS routine, p.*, l.lanname
  FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid JOIN pg_language l ON l.oid = p.prolang;

-- definitions
SELECT cmp_ok((SELECT count(*) FROM routine), '>', 20::bigint, 'the extension''s functions are found');
SELECT is_empty('SELECT routine FROM routine WHERE prosecdef AND NOT coalesce(''search_path=pg_catalog, pg_temp'' = ANY (proconfig), false)',
	'every SECURITY DEFINER function has search_path = pg_catalog, pg_temp');
-- (a procedure that commits can have none: its names are all qualified, as pgspot sees)
SELECT is_empty('SELECT routine FROM routine WHERE prokind = ''f'' AND lanname NOT IN (''c'', ''internal'', ''sql'') AND NOT coalesce(''search_path=pg_catalog, pg_temp'' = ANY (proconfig), false)',
	'and every function in a procedural language');
SELECT is_empty('SELECT routine FROM routine WHERE proparallel <> ''u''', 'every function is PARALLEL UNSAFE');
-- (the hash of a user is pinned, and indexes are made of it)
SELECT is_empty('SELECT routine FROM routine WHERE proleakproof OR provolatile = ''i'' AND routine::text <> ''coupon.slot_of(text)''',
	'none is LEAKPROOF or IMMUTABLE');
SELECT is_empty('SELECT routine FROM routine WHERE proisstrict', 'none is STRICT: a NULL is refused, not answered with NULL');
SELECT is_empty('SELECT routine FROM routine WHERE lanname = ''c'' AND probin <> ''$libdir/coupon''', 'every C function is in our library');
SELECT is_empty('SELECT routine FROM routine WHERE pronamespace = (SELECT extnamespace FROM member LIMIT 1) AND proname !~ ''^coupon_''',
	'every function in the target schema begins with coupon_');
SELECT is_empty('SELECT routine FROM routine r WHERE NOT (SELECT rolsuper FROM pg_roles WHERE oid = r.proowner)', 'the functions are a superuser''s');
SELECT is_empty($$SELECT c.relname FROM member m JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid WHERE c.relkind IN ('r', 'v') AND c.relnamespace <> 'coupon'::regnamespace$$,
	'tables and views are in schema coupon');
SELECT is((SELECT extrelocatable FROM pg_extension WHERE extname = 'coupon'), false, 'the extension cannot be moved away from its bodies'' names');

-- comments
SELECT is_empty('SELECT routine FROM routine WHERE obj_description(oid, ''pg_proc'') IS NULL', 'every function has a comment');
SELECT is_empty($$SELECT c.relname FROM member m JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
	 WHERE c.relkind IN ('r', 'p', 'v') AND obj_description(c.oid, 'pg_class') IS NULL$$, 'every table and view has a comment');
SELECT is_empty($$SELECT c.relname, a.attname FROM member m
	  LEFT JOIN pg_type t ON m.classid = 'pg_type'::regclass AND t.oid = m.objid
	  JOIN pg_class c ON c.oid = CASE WHEN m.classid = 'pg_class'::regclass THEN m.objid ELSE t.typrelid END
	  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attislocal
	 WHERE c.relkind IN ('r', 'p', 'v', 'c') AND col_description(c.oid, a.attnum) IS NULL$$, 'every column of a table, a view and a composite type has a comment');
SELECT is_empty($$SELECT t.typname FROM member m JOIN pg_type t ON m.classid = 'pg_type'::regclass AND t.oid = m.objid
	  LEFT JOIN pg_class c ON c.oid = t.typrelid
	 WHERE t.typelem = 0 AND c.relkind IS DISTINCT FROM 'r' AND c.relkind IS DISTINCT FROM 'v' AND obj_description(t.oid, 'pg_type') IS NULL$$, 'every type has a comment');
SELECT is_empty($$SELECT n.nspname FROM member m JOIN pg_namespace n ON m.classid = 'pg_namespace'::regclass AND n.oid = m.objid
	 WHERE obj_description(n.oid, 'pg_namespace') IS NULL$$, 'the schema has a comment');
SELECT isnt(obj_description(oid, 'pg_extension'), NULL, 'the extension has a comment') FROM pg_extension WHERE extname = 'coupon';

-- what a dump keeps
SELECT results_eq($$SELECT unnest(extconfig)::regclass::text FROM pg_extension WHERE extname = 'coupon' ORDER BY 1$$,
	ARRAY['coupon.campaign', 'coupon.campaign_campaign_id_seq', 'coupon.dead_letter', 'coupon.event_clock', 'coupon.event_start', 'coupon.issuance', 'coupon.lapsed_hold', 'coupon.request_key', 'coupon.room', 'coupon.room_room_id_seq', 'coupon.route', 'coupon.shard', 'coupon.unit'],
	'a dump keeps the sale and the dead letters, and leaves events out');

-- The trap: in schema coupon_trap, for every operator and function of
-- pg_catalog on everyday types, one of the same name that fails when called.
CREATE ROLE coupon_test_mallory;
CREATE SCHEMA coupon_trap AUTHORIZATION coupon_test_mallory;
GRANT CREATE ON SCHEMA coupon_trap TO PUBLIC;
CREATE TEMP TABLE everyday AS SELECT unnest(ARRAY['bool', 'int4', 'int8', 'numeric', 'float8', 'text', 'timestamptz', 'interval', 'uuid', 'xid8', 'xid', 'oid', 'json', 'jsonb',
	'_text', '_int8', 'name', 'bytea', 'regclass', 'anyelement', 'anyarray']::regtype[]) AS type;
GRANT SELECT ON everyday TO PUBLIC;
DO $$
DECLARE
	o record;
	body text := 'AS ''BEGIN RAISE EXCEPTION USING ERRCODE = ''''XX999'''', MESSAGE = ''''trapped''''; END''';
BEGIN
	SET LOCAL ROLE coupon_test_mallory;
	SET LOCAL check_function_bodies = off;
	FOR o IN SELECT oprname, oprleft, oprright, oprresult, row_number() OVER () AS n FROM pg_operator
	          WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprkind = 'b' AND oprresult <> 0
	            AND oprleft IN (SELECT type FROM everyday) AND oprright IN (SELECT type FROM everyday) AND oprresult IN (SELECT type FROM everyday)
	LOOP
		EXECUTE format('CREATE FUNCTION coupon_trap.op_%s(%s, %s) RETURNS %s LANGUAGE plpgsql %s',
			o.n, o.oprleft::regtype, o.oprright::regtype, o.oprresult::regtype, body);
		EXECUTE format('CREATE OPERATOR coupon_trap.%s (FUNCTION = coupon_trap.op_%s, LEFTARG = %s, RIGHTARG = %s)',
			o.oprname, o.n, o.oprleft::regtype, o.oprright::regtype);
	END LOOP;
	FOR o IN SELECT proname, oidvectortypes(proargtypes) AS arguments, prorettype FROM pg_proc
	          WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind IN ('f', 'a', 'w') AND NOT proretset
	            AND prorettype IN (SELECT type FROM everyday) AND provariadic = 0
	            AND NOT EXISTS (SELECT 1 FROM unnest(proargtypes) t WHERE t NOT IN (SELECT type FROM everyday))
	            AND NOT (prorettype IN ('anyelement'::regtype, 'anyarray'::regtype) AND NOT proargtypes::oid[] && ARRAY['anyelement'::regtype, 'anyarray'::regtype]::oid[])
	LOOP
		EXECUTE format('CREATE FUNCTION coupon_trap.%I(%s) RETURNS %s LANGUAGE plpgsql %s', o.proname, o.arguments, o.prorettype::regtype, body);
	END LOOP;
	-- variadic "any" cannot be written in SQL, so the usual calls of it
	FOR o IN SELECT f, a FROM unnest(ARRAY['format', 'concat', 'jsonb_build_object', 'json_build_object']) f,
	                          unnest(ARRAY['text, text', 'text, bigint', 'text, bigint, integer, bigint', 'text, bigint, bigint', 'text, integer']) a
	LOOP
		EXECUTE format('CREATE FUNCTION coupon_trap.%I(%s) RETURNS text LANGUAGE plpgsql %s', o.f, o.a, body);
	END LOOP;
	-- our own names
	CREATE TABLE coupon_trap.campaign (campaign_id bigint, name text);
	CREATE TABLE coupon_trap.shard (campaign_id bigint);
	CREATE TABLE coupon_trap.unit (campaign_id bigint);
	CREATE TABLE coupon_trap.lapsed_hold (campaign_id bigint);
	CREATE TABLE coupon_trap.issuance (campaign_id bigint, serial bigint, user_id text);
	CREATE TABLE coupon_trap.outbox (id uuid);
	CREATE TABLE coupon_trap.outbox_0 (id uuid);
	CREATE TYPE coupon_trap.issue_result AS (status text);
	CREATE TYPE coupon_trap.redeem_result AS (status text);
	CREATE TYPE coupon_trap.hold_result AS (status text);
	CREATE DOMAIN coupon_trap.text AS pg_catalog.text CHECK (false);
	CREATE DOMAIN coupon_trap.int8 AS pg_catalog.int8 CHECK (false);
	CREATE DOMAIN coupon_trap.uuid AS pg_catalog.uuid CHECK (false);
	CREATE DOMAIN coupon_trap.jsonb AS pg_catalog.jsonb CHECK (false);
	CREATE FUNCTION coupon_trap.coupon_issue_many(bigint, text[], text[]) RETURNS text LANGUAGE plpgsql AS
		'BEGIN RAISE EXCEPTION USING ERRCODE = ''XX999'', MESSAGE = ''trapped''; END';
	CREATE FUNCTION coupon_trap.coupon_redeem(bigint, text, text, bigint) RETURNS text LANGUAGE plpgsql AS
		'BEGIN RAISE EXCEPTION USING ERRCODE = ''XX999'', MESSAGE = ''trapped''; END';
	CREATE FUNCTION coupon_trap.coupon_redeem_cancel(bigint, text, text, bigint) RETURNS text LANGUAGE plpgsql AS
		'BEGIN RAISE EXCEPTION USING ERRCODE = ''XX999'', MESSAGE = ''trapped''; END';
	CREATE FUNCTION coupon_trap.coupon_revoke(bigint, text, text, bigint) RETURNS text LANGUAGE plpgsql AS
		'BEGIN RAISE EXCEPTION USING ERRCODE = ''XX999'', MESSAGE = ''trapped''; END';
	CREATE FUNCTION coupon_trap.coupon_hold_many(bigint, bigint[], text, interval, text) RETURNS text LANGUAGE plpgsql AS
		'BEGIN RAISE EXCEPTION USING ERRCODE = ''XX999'', MESSAGE = ''trapped''; END';
	CREATE FUNCTION coupon_trap.coupon_confirm(bigint, bigint, text, text) RETURNS text LANGUAGE plpgsql AS
		'BEGIN RAISE EXCEPTION USING ERRCODE = ''XX999'', MESSAGE = ''trapped''; END';
	CREATE FUNCTION coupon_trap.coupon_release(bigint, bigint, text) RETURNS text LANGUAGE plpgsql AS
		'BEGIN RAISE EXCEPTION USING ERRCODE = ''XX999'', MESSAGE = ''trapped''; END';
	CREATE FUNCTION coupon_trap.coupon_status(bigint) RETURNS text LANGUAGE plpgsql AS
		'BEGIN RAISE EXCEPTION USING ERRCODE = ''XX999'', MESSAGE = ''trapped''; END';
	RESET ROLE;
END $$;
GRANT USAGE ON SCHEMA coupon_trap TO PUBLIC;
-- the temporary schema is searched first of all for tables and types
CREATE TEMP TABLE campaign (campaign_id bigint);
CREATE TEMP TABLE shard (campaign_id bigint);
CREATE TEMP TABLE issuance (campaign_id bigint);
CREATE TEMP TABLE unit (campaign_id bigint);
CREATE TEMP TABLE outbox (id uuid);

SELECT cmp_ok((SELECT count(*) FROM pg_operator WHERE oprnamespace = 'coupon_trap'::regnamespace), '>', 100::bigint, 'the trap has operators');
SELECT cmp_ok((SELECT count(*) FROM pg_proc WHERE pronamespace = 'coupon_trap'::regnamespace), '>', 500::bigint, 'and functions');

-- Runs a statement as the role with the trap first in search_path (tables
-- and types of the temporary schema come even before it).  The statement
-- qualifies its own names; $1 is its campaign, {ext} the functions' schema.
CREATE FUNCTION pg_temp.trapped(role name, campaign bigint, statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer pg_catalog.text;
BEGIN
	statement := pg_catalog.replace(statement, '{ext}', pg_catalog.current_setting('coupon_test.ext'));
	PERFORM pg_catalog.set_config('role', role, true), pg_catalog.set_config('search_path', 'coupon_trap, pg_catalog', true);
	BEGIN
		EXECUTE statement INTO answer USING campaign;
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS answer = MESSAGE_TEXT;
	END;
	PERFORM pg_catalog.set_config('role', 'none', true), pg_catalog.set_config('search_path', 'pg_catalog', true);
	RETURN answer;
END $$ SET search_path = pg_catalog;

SELECT set_config('coupon_test.ext', extnamespace::regnamespace::text, true) AS ignore FROM pg_extension WHERE extname = 'coupon' \gset
SELECT coupon_campaign_create('trap', 10, 2, policy => '{"kind": "RATE", "rate": 10, "usage_period_days": 1}') AS c \gset

SELECT is(pg_temp.trapped('coupon_admin', :c, 'SELECT $1 = $1'), 'trapped', 'the trap works: an operator');
SELECT is(pg_temp.trapped('coupon_admin', :c, 'SELECT now()'), 'trapped', 'the trap works: a function');
SELECT matches(pg_temp.trapped('coupon_admin', :c, 'SELECT ''a''::uuid'), '^value for domain|^trapped|^invalid input syntax', 'the trap works: a type');

SELECT is(pg_temp.trapped('coupon_service', :c, 'SELECT ({ext}.coupon_issue($1, ''a'')).status'), 'issued', 'issue');
SELECT is(pg_temp.trapped('coupon_service', :c, 'SELECT ({ext}.coupon_issue($1, ''a'')).status'), 'issued', 'issue the second unit');
SELECT is(pg_temp.trapped('coupon_service', :c, 'SELECT ({ext}.coupon_issue($1, ''a'')).status'), 'already_issued', 'issue again');
SELECT is(pg_temp.trapped('coupon_service', :c, 'SELECT ({ext}.coupon_issue($1, 7)).status'), 'issued', 'issue by number');
SELECT is(pg_temp.trapped('coupon_service', :c, 'SELECT pg_catalog.array_agg(status) FROM {ext}.coupon_issue_many($1, ARRAY[''b'', ''c'', ''''])'), '{issued,issued,invalid}', 'issue many');
SELECT is(pg_temp.trapped('coupon_service', :c, 'SELECT ({ext}.coupon_issue($1, 8)).status'), 'issued', 'issue by another number');
SELECT is(pg_temp.trapped('coupon_service', :c, 'SELECT ({ext}.coupon_redeem($1, ''a'', ''o'')).status'), 'redeemed', 'redeem');
SELECT is(pg_temp.trapped('coupon_service', :c, 'SELECT ({ext}.coupon_redeem($1, 7, ''o'')).status'), 'redeemed', 'redeem by number');
SELECT is(pg_temp.trapped('coupon_service', :c, 'SELECT ({ext}.coupon_redeem_cancel($1, ''a'', ''o'')).status'), 'cancelled', 'cancel');
SELECT is(pg_temp.trapped('coupon_service', :c, 'SELECT ({ext}.coupon_redeem_cancel($1, 7, ''o'')).status'), 'cancelled', 'cancel by number');
SELECT is(pg_temp.trapped('coupon_admin', :c, 'SELECT {ext}.coupon_revoke($1, ''a'', ''r'')'), 'true', 'revoke');
SELECT is(pg_temp.trapped('coupon_admin', :c, 'SELECT {ext}.coupon_revoke($1, 8, ''r'')'), 'true', 'revoke by number');
SELECT is(pg_temp.trapped('coupon_service', :c, 'SELECT ({ext}.coupon_hold($1, 10, ''h'')).status'), 'held', 'hold');
SELECT is(pg_temp.trapped('coupon_service', :c, 'SELECT ({ext}.coupon_hold($1, 9, 9)).status'), 'held', 'hold by number');
SELECT is(pg_temp.trapped('coupon_service', :c, 'SELECT ({ext}.coupon_hold_many($1, ''{10,9}''::pg_catalog._int8, 9)).status'), 'taken', 'hold many by number');
SELECT is(pg_temp.trapped('coupon_service', :c, 'SELECT ({ext}.coupon_confirm($1, 9, 9, ''p'')).status'), 'confirmed', 'confirm by number');
SELECT is(pg_temp.trapped('coupon_service', :c, 'SELECT {ext}.coupon_release($1, 10, ''h'')'), 'true', 'release');
SELECT is(pg_temp.trapped('coupon_service', :c, 'SELECT {ext}.coupon_release($1, 9, 9)'), 'false', 'release by number');
SELECT is(pg_temp.trapped('coupon_service', :c, 'SELECT ({ext}.coupon_hold_any($1, 9, ''1 ms'')).status'), 'held', 'hold any by number');
SELECT pg_sleep(0.01) AS ignore \gset
SELECT is(pg_temp.trapped('coupon_admin', :c, 'SELECT {ext}.coupon_hold_expire()'), '1', 'sweep');
SELECT is(pg_temp.trapped('coupon_reader', :c, 'SELECT pg_catalog.count(*) FROM {ext}.coupon_units($1)'), '10', 'units');
SELECT coupon_expire(1000000) AS ignore \gset
UPDATE coupon.issuance SET expires_at = '2020-01-01 00:00:00+00' WHERE campaign_id = :c AND user_id = 'b';
SELECT is(pg_temp.trapped('coupon_admin', :c, 'SELECT {ext}.coupon_expire()'), '1', 'expire');
SELECT matches(pg_temp.trapped('coupon_service', :c, 'SELECT {ext}.coupon_emit(''t'', ''k'', ''y'', ''{"a": 1}''::pg_catalog.jsonb)'), '^[0-9a-f-]{36}$', 'emit');
SELECT is(pg_temp.trapped('coupon_reader', :c, 'SELECT ({ext}.coupon_status($1)).stock'), '10', 'status');
SELECT is(pg_temp.trapped('coupon_reader', :c, 'SELECT name FROM coupon.campaign_status WHERE campaign_id OPERATOR(pg_catalog.=) $1'), 'trap', 'the status view');
SELECT is(pg_temp.trapped('coupon_reader', :c, 'SELECT pg_catalog.count(*) FROM {ext}.coupon_verify($1)'), '0', 'verify');
SELECT is(pg_temp.trapped('coupon_admin', :c, 'SELECT {ext}.coupon_campaign_add_stock($1, 5)'), '15', 'add stock');
SELECT is(pg_temp.trapped('coupon_admin', :c, 'SELECT {ext}.coupon_campaign_pause($1)'), 'true', 'pause');
SELECT is(pg_temp.trapped('coupon_admin', :c, 'SELECT {ext}.coupon_campaign_resume($1)'), 'true', 'resume');
SELECT matches(pg_temp.trapped('coupon_admin', :c, 'SELECT {ext}.coupon_campaign_create(''x'', 10, 1, pg_catalog.clock_timestamp(), ''2999-01-01'', ''{"kind": "FIXED", "amount": 1, "attributes": {}}''::pg_catalog.jsonb)'), '^\d+$', 'create');
-- the routes, as PostgREST calls them
SELECT coupon_room_create('default', 1) AS ignore \gset
SELECT is(pg_temp.trapped('coupon_service', :c, call), expected, 'HTTP: ' || call) FROM (VALUES
	('SELECT coupon_api.issue_async(''n'', ''trap'') OPERATOR(pg_catalog.#>) ''{data,requestId}'' IS NOT NULL', 'true'),
	('SELECT coupon_api.issue_status(''n'', ''trap'') OPERATOR(pg_catalog.#>>) ''{data,status}''', 'WAITING'),
	('SELECT coupon_api.issue_result(NULL, ''a'', ''trap'') OPERATOR(pg_catalog.#>>) ''{data,processed}''', 'true'),
	('SELECT coupon_api.issue_result(''00000004-0000-8000-8000-000000000000'') OPERATOR(pg_catalog.#>>) ''{data,status}''', 'NOT_REQUESTED'),
	('SELECT coupon_api.issue(pg_catalog.to_jsonb(7), pg_catalog.to_jsonb($1)) OPERATOR(pg_catalog.#>>) ''{data,outcome}''', NULL),
	('SELECT coupon_api.issue_fcfs($1::pg_catalog.text, ''p'') OPERATOR(pg_catalog.->>) ''remainingStock''', '3'),
	('SELECT coupon_api.issue_fcfs($1::pg_catalog.text, ''p'') OPERATOR(pg_catalog.#>>) ''{error,code}''', 'requested'),
	('SELECT coupon_api.queue_enqueue("userId" => ''5'') OPERATOR(pg_catalog.->>) ''order''', '1'),
	('SELECT coupon_api.queue_order() OPERATOR(pg_catalog.#>>) ''{error,code}''', 'missing')) x(call, expected);
SELECT is(pg_temp.trapped('coupon_admin', :c, call), expected, 'HTTP: ' || call) FROM (VALUES
	('SELECT coupon_api.admin_coupon_policies(''"t"'', ''5'', ''1.5'') OPERATOR(pg_catalog.->>) ''maxCount''', '5'),
	('SELECT coupon_api.admin_coupon_status(''trap'') OPERATOR(pg_catalog.->>) ''issuedCount''', '0'),
	('SELECT coupon_api.admin_queue_status(''trap'') OPERATOR(pg_catalog.->>) ''queueSize''', '3')) x(call, expected);
SELECT coupon_campaign_pause(:c) AS ignore \gset
SELECT is(pg_temp.trapped('coupon_service', :c, 'SELECT coupon_api.issue_sync(''z'', ''trap'') OPERATOR(pg_catalog.#>>) ''{error,code}'''), 'paused', 'HTTP: issue-sync');
SELECT is(pg_temp.trapped('coupon_service', :c, 'SELECT coupon_api.issue_optimistic(''c'', ''trap'') OPERATOR(pg_catalog.#>>) ''{error,code}'''), 'paused', 'HTTP: issue-optimistic');
SELECT coupon_campaign_resume(:c) AS ignore \gset
SELECT coupon_campaign_create('coded', 0) AS k \gset
SELECT is(pg_temp.trapped('coupon_admin', :k, 'SELECT {ext}.coupon_codes_import($1, ARRAY[''A'', ''B'', ''A''])'), '2', 'import');
SELECT is(pg_temp.trapped('coupon_admin', :k, 'SELECT {ext}.coupon_codes_generate($1, ''X-####'', 3)'), '3', 'generate');
SELECT matches(pg_temp.trapped('coupon_service', :k, 'SELECT ({ext}.coupon_issue($1, ''a'')).code'), '^(A|B|X-.{4})$', 'issue a code');
SELECT is(pg_temp.trapped('coupon_admin', :c, 'SELECT {ext}.coupon_campaign_close($1)'), 'true', 'close');
-- the guards run with the path of whoever writes; with check_function_bodies off that
-- would be a restore
SET LOCAL check_function_bodies = on;
SELECT is(pg_temp.trapped(current_user, :k, 'INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy) VALUES ($1, 99, 0, 1, pg_catalog.now(), ''m'', ''issued'', ''{}''::pg_catalog.jsonb)'),
	'serial is outside the campaign''s shards', 'the guard');
SELECT is(pg_temp.trapped(current_user, :k, 'DELETE FROM coupon.issuance WHERE campaign_id OPERATOR(pg_catalog.=) $1 RETURNING user_id'), 'a', 'the trigger on deletion');

SELECT * FROM finish();
ROLLBACK;
