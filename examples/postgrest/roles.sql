-- The roles that postgrest.conf names.  In the database of the sale, as a
-- superuser, after CREATE EXTENSION coupon:
--
--	psql -d shop -f roles.sql
--
-- and for load tests without tokens, never where users come:
--
--	psql -d shop -v open=on -f roles.sql

\set ON_ERROR_STOP on
BEGIN;

-- PostgREST logs in as this one, which may nothing by itself
CREATE ROLE coupon_web LOGIN NOINHERIT;

-- who has no token
CREATE ROLE coupon_web_anonymous NOLOGIN;
-- a user: the token's sub is the user, for no other can be asked
CREATE ROLE coupon_web_user NOLOGIN IN ROLE coupon_service;
-- an application that knows its users: no sub, the user is as given
CREATE ROLE coupon_web_server NOLOGIN IN ROLE coupon_service;
GRANT coupon_web_anonymous, coupon_web_user, coupon_web_server, coupon_admin TO coupon_web;

-- longer than a lock is waited for
ALTER ROLE coupon_web_user SET statement_timeout = '15s';
ALTER ROLE coupon_web_server SET statement_timeout = '15s';

\if :{?open}
GRANT coupon_service, coupon_admin TO coupon_web_anonymous;
\endif

CREATE SCHEMA coupon_web;
CREATE FUNCTION coupon_web.check_token() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF current_setting('role') = 'coupon_web_user'
	   AND (nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub') IS NULL THEN
		RAISE SQLSTATE 'PT401' USING
			MESSAGE = 'the token names no user',
			DETAIL = 'A token of role coupon_web_user has the user in sub.',
			HINT = 'Sign the token with sub, or with the role of an application.';
	END IF;
END
$$;
COMMENT ON FUNCTION coupon_web.check_token() IS 'refuses a user''s token that names no user';
REVOKE ALL ON FUNCTION coupon_web.check_token() FROM PUBLIC;
GRANT USAGE ON SCHEMA coupon_web TO coupon_web_anonymous, coupon_web_user, coupon_web_server, coupon_admin;
GRANT EXECUTE ON FUNCTION coupon_web.check_token() TO coupon_web_anonymous, coupon_web_user, coupon_web_server, coupon_admin;

COMMIT;
