-- The roles that come in over HTTP, and the one whose rights the routes have.
-- In the database of the sale, as a superuser, after CREATE EXTENSION coupon;
-- may be run again, and in a second database:
--
--	psql -d shop -f roles.sql
--
-- and for load tests without tokens, never where users come:
--
--	psql -d shop -v open=on -f roles.sql

\set ON_ERROR_STOP on
\set QUIET on
BEGIN;
SET LOCAL client_min_messages = warning;

-- Roles belong to the cluster: another database may have made them.
DO $$
DECLARE
	name text;
BEGIN
	FOREACH name IN ARRAY ARRAY['coupon_web', 'coupon_web_anonymous', 'coupon_web_user', 'coupon_web_server', 'coupon_web_admin', 'coupon_web_owner'] LOOP
		IF pg_catalog.to_regrole(name) IS NULL THEN
			EXECUTE pg_catalog.format('CREATE ROLE %I', name);
		END IF;
	END LOOP;
END
$$;

-- PostgREST logs in as this one, which may nothing by itself
ALTER ROLE coupon_web LOGIN NOINHERIT;
-- owns the functions of the examples, which run with its rights
GRANT coupon_service, coupon_admin TO coupon_web_owner;
-- an application that knows its users: no sub in its token, the user is as given
GRANT coupon_service TO coupon_web_server;
-- administration
GRANT coupon_admin TO coupon_web_admin;
-- a user: the token's sub is the user, for no other can be asked; it may call
-- the routes, and nothing else
GRANT coupon_user TO coupon_web_user;
GRANT coupon_web_anonymous, coupon_web_user, coupon_web_server, coupon_web_admin TO coupon_web;

-- longer than a lock is waited for
ALTER ROLE coupon_web_anonymous SET statement_timeout = '15s';
ALTER ROLE coupon_web_user SET statement_timeout = '15s';
ALTER ROLE coupon_web_server SET statement_timeout = '15s';
ALTER ROLE coupon_web_admin SET statement_timeout = '15s';

-- who has no token may nothing, but on an open server everything
\if :{?open}
GRANT coupon_web_server, coupon_web_admin TO coupon_web_anonymous;
\else
SELECT 'REVOKE coupon_web_server, coupon_web_admin FROM coupon_web_anonymous'
 WHERE pg_has_role('coupon_web_anonymous', 'coupon_web_server', 'MEMBER') \gexec
\endif

COMMIT;
