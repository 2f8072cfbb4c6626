-- What the routes of every example share: answers, arguments, and who asks.
-- After roles.sql, as a superuser; may be run again:
--
--	psql -d shop -f http.sql
--
-- These functions pin no search_path, for the routes have done so.

\set ON_ERROR_STOP on
\set QUIET on
BEGIN;
SET LOCAL client_min_messages = warning;

CREATE SCHEMA IF NOT EXISTS web AUTHORIZATION coupon_web_owner;
SET LOCAL ROLE coupon_web_owner;
COMMENT ON SCHEMA web IS 'shared by the routes of coupon''s examples; not exposed';

CREATE OR REPLACE FUNCTION web.answer(status integer, body jsonb) RETURNS jsonb
LANGUAGE sql VOLATILE
RETURN CASE WHEN pg_catalog.set_config('response.status', $1::pg_catalog.text, true) IS NOT NULL THEN $2 END;
COMMENT ON FUNCTION web.answer(integer, jsonb) IS 'the body, with its status code set';

CREATE OR REPLACE FUNCTION web.error(status integer, code text, message text, data jsonb DEFAULT NULL) RETURNS jsonb
LANGUAGE sql VOLATILE
RETURN web.answer($1, pg_catalog.jsonb_build_object('error', pg_catalog.jsonb_build_object('code', $2, 'message', $3), 'message', $3)
	OPERATOR(pg_catalog.||) CASE WHEN $4 IS NULL THEN '{}' ELSE pg_catalog.jsonb_build_object('data', $4) END);
COMMENT ON FUNCTION web.error(integer, text, text, jsonb) IS 'an error body, with its status code set; the message stands at the top, too, where some clients look';

CREATE OR REPLACE FUNCTION web.headers(headers jsonb) RETURNS text
LANGUAGE sql VOLATILE
RETURN pg_catalog.set_config('response.headers', pg_catalog.jsonb_build_array($1)::pg_catalog.text, true);
COMMENT ON FUNCTION web.headers(jsonb) IS 'sets the response''s headers';

CREATE OR REPLACE FUNCTION web.header(name text) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
DECLARE
	headers json := nullif(current_setting('request.headers', true), '');
BEGIN
	RETURN coalesce(headers ->> name, (SELECT h.value FROM json_each_text(headers) h WHERE lower(h.key) = name LIMIT 1));
END
$$;
COMMENT ON FUNCTION web.header(text) IS 'a header of the request, its name in lower case; null without it';

CREATE OR REPLACE FUNCTION web.value(value jsonb) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE pg_catalog.jsonb_typeof($1)
	WHEN 'string' THEN $1 OPERATOR(pg_catalog.#>>) '{}'
	WHEN 'number' THEN CASE WHEN $1::pg_catalog.text OPERATOR(pg_catalog.~) '^-?[0-9]{1,19}$' THEN $1::pg_catalog.text ELSE '' END
	WHEN 'null' THEN NULL
	ELSE CASE WHEN $1 IS NOT NULL THEN '' END
END;
COMMENT ON FUNCTION web.value(jsonb) IS 'a string or an integer of a body as text; empty, which no argument may be, for anything else';

CREATE OR REPLACE FUNCTION web.may_speak_for_others() RETURNS boolean
LANGUAGE sql STABLE
RETURN COALESCE((
	SELECT pg_catalog.pg_has_role(r.oid, 'coupon_service', 'USAGE') FROM pg_catalog.pg_roles r
	 WHERE r.rolname OPERATOR(pg_catalog.=) COALESCE(
		NULLIF(pg_catalog.current_setting('request.jwt.claims', true), '')::pg_catalog.json OPERATOR(pg_catalog.->>) 'role',
		SESSION_USER::pg_catalog.text)::pg_catalog.name), false);
COMMENT ON FUNCTION web.may_speak_for_others() IS
	'has the caller''s role, by its verified claim or else that of the session, the rights of coupon_service: an application that knows its users';

CREATE OR REPLACE FUNCTION web.subject() RETURNS text
LANGUAGE sql STABLE
RETURN NULLIF(pg_catalog.current_setting('request.jwt.claims', true), '')::pg_catalog.json OPERATOR(pg_catalog.->>) 'sub';
COMMENT ON FUNCTION web.subject() IS 'the user that the verified token names; null: none';

CREATE OR REPLACE FUNCTION web.caller(user_key text, given_user text, OUT user_id text, OUT error jsonb)
RETURNS record
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
	claim text := web.subject();
BEGIN
	user_id := coalesce(claim, given_user);
	CASE
		WHEN octet_length(given_user) NOT BETWEEN 1 AND 256 THEN
			error := web.error(400, 'invalid', user_key || ' must be a text of 1 to 256 bytes, or an integer.');
		WHEN octet_length(claim) NOT BETWEEN 1 AND 256 THEN
			error := web.error(401, 'invalid_token', 'The token''s sub must be a text of 1 to 256 bytes.');
		WHEN claim IS NULL AND NOT web.may_speak_for_others() THEN
			error := web.error(401, 'invalid_token', 'The token names no user, and its role may not speak for others.');
		WHEN user_id IS NULL THEN
			error := web.error(400, 'missing', user_key || ' is missing.');
		WHEN claim <> given_user COLLATE "C" THEN
			error := web.error(403, 'other_user', user_key || ' is not the user of the token.');
		ELSE
	END CASE;
END
$$;
COMMENT ON FUNCTION web.caller(text, text) IS
	'who asks: the verified claim sub, which a given user must be; without it the given user, if the caller may speak for others';

CREATE OR REPLACE FUNCTION web.ticket(OUT token text, OUT error jsonb)
RETURNS record
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
	token := web.header('x-access-token');
	IF coalesce(token, '') = '' THEN
		error := web.error(400, 'missing', 'The header X-Access-Token is missing.');
	ELSIF token !~ '^[1-9][0-9]{0,17}[.][1-9][0-9]{0,17}[.][0-9a-f]{32}$' THEN
		error := web.error(400, 'invalid', 'X-Access-Token is not a token.');
	END IF;
END
$$;
COMMENT ON FUNCTION web.ticket() IS 'the ticket in X-Access-Token, or what is wrong with it';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA web FROM PUBLIC;
GRANT USAGE ON SCHEMA web TO coupon_service, coupon_admin;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA web TO coupon_service, coupon_admin;

COMMIT;
