-- The whole matrix of role x object.  The objects are computed from
-- pg_depend, so one that has no entry in sql/privileges fails the test.
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;

CREATE ROLE coupon_test_public;

-- What each role may do, as sql/privileges has it: X execute, U usage, C create,
-- r select, a insert, w update, d delete, D truncate, x references, t trigger;
-- - nothing.
CREATE TEMP TABLE expected (admin text, service text, reader text, "user" text, object text PRIMARY KEY, public text DEFAULT '-');
\copy expected (admin, service, reader, "user", object) FROM PROGRAM 'sql/build list'

-- The extension's objects, and sequences that belong to its tables.
CREATE TEMP TABLE object AS
WITH member AS (
	SELECT d.classid, d.objid, e.extnamespace
	  FROM pg_extension e
	  JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
	 WHERE e.extname = 'coupon')
SELECT m.classid, m.objid, c.relkind::text AS kind,
       CASE c.relkind WHEN 'r' THEN 'table ' WHEN 'p' THEN 'table ' WHEN 'v' THEN 'view ' WHEN 'S' THEN 'sequence '
            ELSE 'relation of kind ' || c.relkind::text || ' ' END || n.nspname || '.' || c.relname AS object
  FROM (SELECT objid, classid FROM member WHERE classid = 'pg_class'::regclass
        UNION
        SELECT d.objid, d.classid FROM member m JOIN pg_depend d ON d.refclassid = m.classid AND d.refobjid = m.objid
          JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
         WHERE m.classid = 'pg_class'::regclass AND d.classid = 'pg_class'::regclass) m
  JOIN pg_class c ON c.oid = m.objid JOIN pg_namespace n ON n.oid = c.relnamespace
UNION ALL
SELECT m.classid, m.objid, 'X', CASE p.prokind WHEN 'f' THEN 'function ' WHEN 'p' THEN 'procedure ' ELSE 'routine of kind ' || p.prokind::text || ' ' END ||
       CASE WHEN p.pronamespace = m.extnamespace THEN '' ELSE n.nspname || '.' END || p.proname || '(' || oidvectortypes(p.proargtypes) || ')'
  FROM member m JOIN pg_proc p ON p.oid = m.objid JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE m.classid = 'pg_proc'::regclass
UNION ALL
SELECT m.classid, m.objid, 'T', 'type ' || n.nspname || '.' || t.typname
  FROM member m JOIN pg_type t ON t.oid = m.objid JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE m.classid = 'pg_type'::regclass
   -- a table's row type and array types have no privileges of their own
   AND NOT EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind <> 'c') AND t.typelem = 0
UNION ALL
SELECT m.classid, m.objid, 'N', 'schema ' || n.nspname
  FROM member m JOIN pg_namespace n ON n.oid = m.objid
 WHERE m.classid = 'pg_namespace'::regclass
UNION ALL
SELECT m.classid, m.objid, '?', pg_describe_object(m.classid, m.objid, 0)
  FROM member m WHERE m.classid NOT IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass, 'pg_namespace'::regclass);

CREATE FUNCTION pg_temp.rights(role name, object oid, kind text) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(nullif(string_agg(letter, '' ORDER BY n), ''), '-')
	  FROM (SELECT 1 AS n, 'X' AS letter WHERE kind = 'X' AND has_function_privilege(role, object, 'EXECUTE')
	  UNION ALL SELECT 2, 'U' WHERE kind = 'T' AND has_type_privilege(role, object, 'USAGE')
	  UNION ALL SELECT 2, 'U' WHERE kind = 'N' AND has_schema_privilege(role, object, 'USAGE')
	  UNION ALL SELECT 3, 'C' WHERE kind = 'N' AND has_schema_privilege(role, object, 'CREATE')
	  UNION ALL SELECT 2, 'U' WHERE kind = 'S' AND has_sequence_privilege(role, object, 'USAGE')
	  UNION ALL SELECT 4, 'r' WHERE kind = 'S' AND has_sequence_privilege(role, object, 'SELECT')
	  UNION ALL SELECT 6, 'w' WHERE kind = 'S' AND has_sequence_privilege(role, object, 'UPDATE')
	  UNION ALL
	  SELECT p.n, p.letter FROM (VALUES (4, 'r', 'SELECT'), (5, 'a', 'INSERT'), (6, 'w', 'UPDATE'), (9, 'x', 'REFERENCES')) p(n, letter, privilege)
	   WHERE kind IN ('r', 'p', 'v') AND has_any_column_privilege(role, object, p.privilege)
	  UNION ALL
	  SELECT p.n, p.letter FROM (VALUES (7, 'd', 'DELETE'), (8, 'D', 'TRUNCATE'), (10, 't', 'TRIGGER')) p(n, letter, privilege)
	   WHERE kind IN ('r', 'p', 'v') AND has_table_privilege(role, object, p.privilege)) x $$;

CREATE TEMP TABLE matrix AS
SELECT coalesce(o.object, e.object) AS object, r.role,
       CASE WHEN o.object IS NULL THEN 'no such object' ELSE pg_temp.rights(r.role, o.objid, o.kind) END AS has,
       CASE WHEN e.object IS NULL THEN 'no entry in sql/privileges'
            ELSE CASE r.role WHEN 'coupon_admin' THEN admin WHEN 'coupon_service' THEN service
                             WHEN 'coupon_reader' THEN reader WHEN 'coupon_user' THEN "user" ELSE public END END AS should_have
  FROM object o FULL JOIN expected e ON e.object = o.object
 CROSS JOIN (VALUES ('coupon_admin'), ('coupon_service'), ('coupon_reader'), ('coupon_user'), ('coupon_test_public')) r(role);

SELECT plan(60 + (SELECT count(*)::int FROM matrix));

SELECT cmp_ok((SELECT count(*) FROM object), '>', 30::bigint, 'the extension''s objects are found');
SELECT is(has, should_have, role || ' on ' || object) FROM matrix ORDER BY object, role;

-- nothing beside the matrix
SELECT is_empty($$
	SELECT object FROM object o JOIN pg_proc p ON o.classid = 'pg_proc'::regclass AND p.oid = o.objid, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
	 WHERE a.grantee = 0 OR (a.grantee <> p.proowner AND a.is_grantable)
	UNION ALL
	SELECT object FROM object o JOIN pg_class c ON o.classid = 'pg_class'::regclass AND c.oid = o.objid, aclexplode(coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))) a
	 WHERE a.grantee = 0 OR (a.grantee <> c.relowner AND a.is_grantable)
	UNION ALL
	SELECT object FROM object o JOIN pg_namespace n ON o.classid = 'pg_namespace'::regclass AND n.oid = o.objid, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
	 WHERE a.grantee = 0 OR (a.grantee <> n.nspowner AND a.is_grantable) $$,
	'nothing is granted to PUBLIC, nothing with grant option');
SELECT is_empty($$
	SELECT object, role.rolname FROM object o JOIN pg_class c ON o.classid = 'pg_class'::regclass AND c.oid = o.objid, aclexplode(c.relacl) a
	  JOIN pg_roles role ON role.oid = a.grantee
	 WHERE a.grantee <> c.relowner AND role.rolname NOT IN ('coupon_admin', 'coupon_service', 'coupon_reader', 'coupon_user')
	UNION ALL
	SELECT object, role.rolname FROM object o JOIN pg_proc p ON o.classid = 'pg_proc'::regclass AND p.oid = o.objid, aclexplode(p.proacl) a
	  JOIN pg_roles role ON role.oid = a.grantee
	 WHERE a.grantee <> p.proowner AND role.rolname NOT IN ('coupon_admin', 'coupon_service', 'coupon_reader', 'coupon_user') $$,
	'nothing is granted to any other role');
SELECT results_eq(
	$$ SELECT rolname::text COLLATE "default", rolsuper, rolcanlogin, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls
	     FROM pg_roles WHERE rolname IN ('coupon_admin', 'coupon_service', 'coupon_reader', 'coupon_user') ORDER BY 1 $$,
	$$ VALUES ('coupon_admin', false, false, false, false, false, false),
	          ('coupon_reader', false, false, false, false, false, false),
	          ('coupon_service', false, false, false, false, false, false),
	          ('coupon_user', false, false, false, false, false, false) $$,
	'the roles are plain groups that cannot log in');
SELECT is_empty($$ SELECT 1 FROM pg_auth_members WHERE member IN ('coupon_admin'::regrole, 'coupon_service'::regrole, 'coupon_reader'::regrole, 'coupon_user'::regrole) $$,
	'no role of the four is a member of another');

-- and as the roles see it: privileges that are there must be enough
SELECT coupon_campaign_create('privileges', 100, 5) AS c \gset
CREATE FUNCTION pg_temp.try(role name, statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE answer text;
BEGIN
	BEGIN
		PERFORM set_config('role', role, true);
		EXECUTE statement INTO answer;
		RAISE EXCEPTION USING ERRCODE = 'TT000', MESSAGE = coalesce(answer, 'null');
	EXCEPTION
		WHEN SQLSTATE 'TT000' THEN RETURN SQLERRM;
		WHEN OTHERS THEN RETURN SQLSTATE;
	END;
END $$;
SELECT count(*) AS ignore FROM coupon_issue_many(:c, ARRAY['owner']) \gset

SELECT is(pg_temp.try('coupon_service', format('SELECT status FROM coupon_issue(%s, ''a'')', :c)), 'issued', 'service: issue');
SELECT is(pg_temp.try('coupon_service', format('SELECT status FROM coupon_issue(%s, 7)', :c)), 'issued', 'service: issue by number');
SELECT is(pg_temp.try('coupon_service', format('SELECT status FROM coupon_issue_grouped(%s, ''a'')', :c)), '25001', 'service: issue grouped, but not in a transaction');
SELECT is(pg_temp.try('coupon_reader', 'SELECT workers >= 0 FROM coupon_group_status()'), 'true', 'reader: status of grouped issuing');
SELECT is(pg_temp.try('coupon_reader', format('SELECT status FROM coupon_issue_grouped(%s, ''a'')', :c)), '42501', 'reader: no grouped issue');
SELECT is(pg_temp.try('coupon_test_public', format('SELECT status FROM coupon_issue_grouped(%s, 7)', :c)), '42501', 'anybody else: no grouped issue');
SELECT is(pg_temp.try('coupon_service', format('SELECT string_agg(status, '' '') FROM coupon_issue_many(%s, ARRAY[''a'', ''b''])', :c)), 'issued issued', 'service: issue many');
SELECT is(pg_temp.try('coupon_service', format('SELECT status FROM coupon_redeem(%s, ''owner'', ''o'')', :c)), 'redeemed', 'service: redeem');
SELECT is(pg_temp.try('coupon_service', format('SELECT status FROM coupon_redeem(%s, 7, ''o'')', :c)), 'not_issued', 'service: redeem by number');
SELECT is(pg_temp.try('coupon_service', format('SELECT status FROM coupon_redeem_cancel(%s, ''owner'', ''o'')', :c)), 'not_redeemed', 'service: cancel');
SELECT is(pg_temp.try('coupon_service', format('SELECT status FROM coupon_redeem_cancel(%s, 7, ''o'')', :c)), 'not_issued', 'service: cancel by number');
SELECT matches(pg_temp.try('coupon_service', 'SELECT coupon_emit(''t'', ''k'', ''y'', ''{}'')'), '^[0-9a-f-]{36}$', 'service: emit');
SELECT is(pg_temp.try('coupon_service', format('SELECT stock FROM coupon_status(%s)', :c)), '100', 'service: status');
SELECT is(pg_temp.try('coupon_service', format('SELECT stock FROM coupon.campaign_status WHERE campaign_id = %s', :c)), '100', 'service: status view');
SELECT is(pg_temp.try('coupon_service', format('SELECT status FROM coupon_request(%s, ''q''::text)', :c)), 'WAITING', 'service: request');
SELECT is(pg_temp.try('coupon_service', format('SELECT status FROM coupon_request_status_of(%s, ''owner'')', :c)), 'COMPLETED', 'service: status of a request');
SELECT coupon_room_create('privileges', 1) AS ignore \gset
SELECT is(pg_temp.try('coupon_service', 'SELECT status FROM coupon_queue_join(''privileges'', ''a'')'), 'WAITING', 'service: join a room');
SELECT is(pg_temp.try('coupon_service', 'SELECT capacity FROM coupon.room_status WHERE name = ''privileges'''), '1', 'service: see the rooms');
SELECT is(pg_temp.try('coupon_service', 'SELECT seed FROM coupon.room'), '42501', 'service: but not the table itself');
SELECT is(pg_temp.try('coupon_admin', 'SELECT secret FROM coupon.ticket'), '42501', 'admin: nobody reads tokens');
SELECT is(pg_temp.try('coupon_admin', 'SELECT coupon_room_pause(''privileges'')'), 'true', 'admin: pause a room');
SELECT is(pg_temp.try('coupon_service', format('SELECT status FROM coupon_hold(%s, 50, ''holder'')', :c)), 'held', 'service: hold');
SELECT is(pg_temp.try('coupon_service', format('SELECT status FROM coupon_hold(%s, 51, 51)', :c)), 'held', 'service: hold by number');
SELECT is(pg_temp.try('coupon_service', format('SELECT status FROM coupon_hold_many(%s, ''{52}'', ''many'')', :c)), 'held', 'service: hold many');
SELECT is(pg_temp.try('coupon_service', format('SELECT status FROM coupon_hold_many(%s, ''{53}'', 53)', :c)), 'held', 'service: hold many by number');
SELECT count(*) AS ignore FROM coupon_hold(:c, 50, 'holder') a, coupon_hold(:c, 51, 51) b, coupon_hold(:c, 52, 'many') c, coupon_hold(:c, 53, 53) d \gset
SELECT is(pg_temp.try('coupon_service', format('SELECT status FROM coupon_hold_any(%s, ''any'')', :c)), 'held', 'service: hold any');
SELECT is(pg_temp.try('coupon_service', format('SELECT status FROM coupon_confirm(%s, 50, ''holder'', ''p'')', :c)), 'confirmed', 'service: confirm');
SELECT is(pg_temp.try('coupon_service', format('SELECT status FROM coupon_confirm(%s, 51, 51, ''p'')', :c)), 'confirmed', 'service: confirm by number');
SELECT is(pg_temp.try('coupon_service', format('SELECT coupon_release(%s, 52, ''many'')', :c)), 'true', 'service: release');
SELECT is(pg_temp.try('coupon_service', format('SELECT coupon_release(%s, 53, 53)', :c)), 'true', 'service: release by number');
SELECT is(pg_temp.try('coupon_service', format('SELECT count(*) FROM coupon_units(%s)', :c)), '100', 'service: units');
SELECT is(pg_temp.try('coupon_service', 'SELECT count(*) FROM coupon.lapsed_hold'), '42501', 'service: no look at whose holds ran out');
SELECT is(pg_temp.try('coupon_service', 'SELECT coupon_hold_expire()'), '42501', 'service: no sweep');
SELECT is(pg_temp.try('coupon_service', format('SELECT coupon_units_import(%s, ''{A}'')', :c)), '42501', 'service: no import');
SELECT is(pg_temp.try('coupon_reader', format('SELECT status FROM coupon_hold(%s, 60, ''a'')', :c)), '42501', 'reader: no hold');
SELECT is(pg_temp.try('coupon_reader', format('SELECT count(*) FROM coupon_units(%s)', :c)), '100', 'reader: units');
SELECT is(pg_temp.try('coupon_admin', 'SELECT coupon_hold_expire()'), '0', 'admin: sweep');
SELECT is(pg_temp.try('coupon_service', 'SELECT coupon_campaign_create(''x'', 1)'), '42501', 'service: no create');
SELECT is(pg_temp.try('coupon_service', format('SELECT coupon_revoke(%s, ''owner'', ''r'')', :c)), '42501', 'service: no revoke');
SELECT is(pg_temp.try('coupon_service', 'SELECT label FROM coupon.unit LIMIT 1'), '42501', 'service: codes only through an answer');
SELECT is(pg_temp.try('coupon_service', 'INSERT INTO coupon.issuance DEFAULT VALUES'), '42501', 'service: no direct DML');
SELECT is(pg_temp.try('coupon_reader', format('SELECT stock FROM coupon.campaign_status WHERE campaign_id = %s', :c)), '100', 'reader: status view');
SELECT is(pg_temp.try('coupon_reader', format('SELECT count(*) FROM coupon_verify(%s)', :c)), '0', 'reader: verify');
SELECT is(pg_temp.try('coupon_reader', format('SELECT user_id FROM coupon.issuance WHERE campaign_id = %s AND user_id = ''owner''', :c)), 'owner', 'reader: issuances');
SELECT is(pg_temp.try('coupon_reader', format('SELECT status FROM coupon_issue(%s, ''a'')', :c)), '42501', 'reader: no issue');
SELECT matches(pg_temp.try('coupon_admin', 'SELECT coupon_campaign_create(''x'', 1)'), '^\d+$', 'admin: create');
SELECT is(pg_temp.try('coupon_admin', format('SELECT coupon_campaign_add_stock(%s, 5)', :c)), '105', 'admin: add stock');
SELECT is(pg_temp.try('coupon_admin', format('SELECT coupon_campaign_pause(%s)', :c)), 'true', 'admin: pause');
SELECT is(pg_temp.try('coupon_admin', format('SELECT coupon_campaign_close(%s)', :c)), 'true', 'admin: close');
SELECT is(pg_temp.try('coupon_admin', format('SELECT coupon_revoke(%s, ''owner'', ''r'')', :c)), 'true', 'admin: revoke');
SELECT is(pg_temp.try('coupon_admin', format('SELECT coupon_revoke(%s, 7, ''r'')', :c)), 'false', 'admin: revoke by number');
SELECT is(pg_temp.try('coupon_admin', format('UPDATE coupon.campaign SET per_user_limit = 9 WHERE campaign_id = %s', :c)), '42501', 'admin: no direct DML');
SELECT is(pg_temp.try('coupon_admin', format('DELETE FROM coupon.issuance WHERE campaign_id = %s', :c)), '42501', 'admin: not even of an issuance');
SELECT is(pg_temp.try('coupon_test_public', format('SELECT status FROM coupon_issue(%s, ''a'')', :c)), '42501', 'anybody else: no issue');
SELECT is(pg_temp.try('coupon_test_public', 'SELECT count(*) FROM coupon.campaign'), '42501', 'anybody else: no look');

SELECT * FROM finish();
ROLLBACK;
