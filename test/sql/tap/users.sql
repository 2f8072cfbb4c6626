-- Whoever takes a user takes one of every type that a driver sends, and no call is
-- ambiguous.
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT no_plan();

CREATE TEMP VIEW taking AS
SELECT p.oid, p.proname::text AS name, array_position(p.proargnames, 'user_id') AS place, p.proargtypes::oid[] AS types, p.pronargs - p.pronargdefaults AS required
  FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
       JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'coupon' AND p.pronamespace = e.extnamespace
 WHERE 'user_id' = ANY (p.proargnames[1:p.pronargs]);

SELECT is(string_agg(DISTINCT t.types[t.place - 1]::regtype::text, ' ' ORDER BY t.types[t.place - 1]::regtype::text), 'bigint text uuid', name || ': for users of each type')
  FROM taking t GROUP BY name ORDER BY name;

-- called(function, what stands for the user): the type of the function that it is
CREATE FUNCTION pg_temp.called(name text, account text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	t taking := (SELECT t FROM taking t WHERE t.name = $1 AND t.types[t.place - 1] = 'text'::regtype);
	arguments text := (SELECT string_agg(CASE WHEN n = t.place THEN account ELSE 'NULL' END, ', ' ORDER BY n) FROM generate_series(1, greatest(t.required, t.place)) n);
	plan json;
BEGIN
	EXECUTE format('EXPLAIN (VERBOSE, FORMAT json) SELECT 1 FROM (SELECT %s(%s) OFFSET 0) x', t.name, arguments) INTO plan;
	RETURN 'called';
EXCEPTION WHEN others THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
SELECT is(pg_temp.called(f.name, v.account), 'called', format('%s: %s', f.name, v.account))
  FROM (SELECT DISTINCT name FROM taking ORDER BY name) f,
       (VALUES ('''u'''), ('42'), ('42::smallint'), ('42::bigint'), ('''u''::varchar'), ('''u''::text'), ('gen_random_uuid()'), ('NULL')) v(account)
 WHERE f.name <> 'coupon_queue_require';
SELECT lives_ok('EXPLAIN SELECT coupon_queue_require(''t'')', 'a token alone');
SELECT lives_ok('EXPLAIN SELECT coupon_queue_require(''t'', ''r'', ' || v.account || ')', 'with a user ' || v.account)
  FROM (VALUES ('''u'''), ('42'), ('gen_random_uuid()'), ('NULL')) v(account);
SELECT is(pg_temp.called('coupon_issue', '4.2'), '42883 function coupon_issue(unknown, numeric) does not exist', 'a fraction is no user');

-- a parameter of no type is a text
PREPARE typeless AS SELECT coupon_issue($1, $2, $3), coupon_hold_any($1, $2), coupon_redeem($1, $2, $4), coupon_request($1, $2), coupon_queue_join($5, $2);
SELECT is((SELECT parameter_types::text FROM pg_prepared_statements WHERE name = 'typeless'), '{bigint,text,text,text,text}', 'a parameter whose type the server is asked for is a text');
PREPARE many AS SELECT status FROM coupon_issue_many($1, $2);
SELECT is((SELECT parameter_types::text FROM pg_prepared_statements WHERE name = 'many'), '{bigint,text[]}', 'an array of such, too');

-- one user, however they are written
SELECT coupon_campaign_create('users', 10) AS c \gset
SELECT is((SELECT status FROM coupon_issue(:c, 42)) || (SELECT status FROM coupon_issue(:c, '42')) || (SELECT status FROM coupon_issue(:c, 42::smallint)), 'issuedalready_issuedalready_issued', '42 is ''42''');
SELECT is((SELECT status FROM coupon_issue(:c, 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'::uuid)) || (SELECT status FROM coupon_issue(:c, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11')), 'issuedalready_issued', 'a uuid is its lower-case form');
SELECT is((SELECT string_agg(status, ' ') FROM coupon_issue_many(:c, '{42,43}'::bigint[]::text[])), 'already_issued issued', 'an array of numbers');
SELECT is((SELECT string_agg(status, ' ') FROM coupon_hold_many(:c, '{9,10}'::smallint[], '44')), 'limit_reached limit_reached', 'serials of a smaller type');
SELECT throws_ok(format('SELECT coupon_issue(%s, NULL::uuid)', :c), '22004', 'user_id must not be null', 'a uuid that is null');
SELECT throws_ok(format('SELECT coupon_issue(%s, NULL::bigint)', :c), '22004', 'user_id must not be null', 'a number that is null');

SELECT finish();
ROLLBACK;
