\echo Use "CREATE EXTENSION coupon" to load this file. \quit

-- The script would run with the target schema in the path, and who owns that
-- schema or may create in it could have put operators and functions there that
-- are closer to some operands than those of pg_catalog.  So no name is looked
-- for there: what goes there is created with @extschema@.
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE SCHEMA coupon;
COMMENT ON SCHEMA coupon IS 'The tables, types and views of the coupon extension.';

-- Roles belong to the cluster, so a second database and a restored one find them
-- there.  Anybody with CREATEROLE can have made them before: they are taken if they
-- are what is made here, and who is in them already is said.
DO $$
DECLARE
	our_roles CONSTANT text[] := ARRAY['coupon_admin', 'coupon_service', 'coupon_reader', 'coupon_user'];
	our_role text;
	found_roles text[] := '{}';
	attributes text;
	one record;
BEGIN
	FOREACH our_role IN ARRAY our_roles
	LOOP
		BEGIN
			EXECUTE format('CREATE ROLE %I', our_role);
		EXCEPTION
			WHEN duplicate_object OR unique_violation THEN
				found_roles := found_roles || our_role;
		END;
	END LOOP;

	FOREACH our_role IN ARRAY found_roles
	LOOP
		SELECT concat_ws(', ', CASE WHEN r.rolcanlogin THEN 'LOGIN' END, CASE WHEN r.rolsuper THEN 'SUPERUSER' END,
		                 CASE WHEN r.rolcreatedb THEN 'CREATEDB' END, CASE WHEN r.rolcreaterole THEN 'CREATEROLE' END,
		                 CASE WHEN r.rolreplication THEN 'REPLICATION' END, CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END)
		  INTO STRICT attributes FROM pg_roles r WHERE r.rolname = our_role;
		IF attributes <> '' THEN
			RAISE duplicate_object USING
				MESSAGE = format('role "%s" exists and is no plain group', our_role),
				DETAIL = format('It has %s.', attributes),
				HINT = format('If the role is yours, ALTER ROLE %I NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS; else drop it.', our_role);
		END IF;
	END LOOP;

	FOR one IN SELECT a AS member, b AS role FROM unnest(our_roles) a, unnest(our_roles) b
	            WHERE a <> b AND pg_has_role(a, b, 'MEMBER')
	LOOP
		RAISE duplicate_object USING
			MESSAGE = format('role "%s" is a member of role "%s"', one.member, one.role),
			DETAIL = 'Each of these roles is to have its own rights only.',
			HINT = format('REVOKE %I FROM %I, or from the role between them.', one.role, one.member);
	END LOOP;

	FOR one IN SELECT g.rolname AS role,
	                  string_agg(DISTINCT quote_ident(m.rolname) || CASE WHEN a.admin_option THEN ' (may grant it)' ELSE '' END, ', ') AS members
	             FROM pg_auth_members a JOIN pg_roles g ON g.oid = a.roleid JOIN pg_roles m ON m.oid = a.member
	            WHERE g.rolname = ANY (found_roles)
	            GROUP BY g.rolname
	LOOP
		RAISE WARNING USING
			MESSAGE = format('role "%s" exists already, and its members have its rights in this database, too', one.role),
			DETAIL = format('Members: %s.', one.members),
			HINT = format('REVOKE %I FROM those who should not have them.', one.role);
	END LOOP;
END
$$;
