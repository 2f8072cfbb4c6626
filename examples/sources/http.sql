-- What the routes of every example share: answers, arguments, and who asks.
-- After roles.sql, as a superuser; may be run again:
--
--	psql -d shop -f http.sql
--
-- All of them find names in pg_catalog alone: those of others they write out.

\set ON_ERROR_STOP on
\set QUIET on
BEGIN;
SET LOCAL client_min_messages = warning;

SELECT 'CREATE SCHEMA web AUTHORIZATION coupon_web_owner' WHERE to_regnamespace('web') IS NULL \gexec
SET LOCAL ROLE coupon_web_owner;
COMMENT ON SCHEMA web IS 'shared by the routes of coupon''s examples; not exposed';

CREATE OR REPLACE FUNCTION web.answer(status integer, body jsonb) RETURNS jsonb
LANGUAGE sql VOLATILE
RETURN CASE WHEN pg_catalog.set_config('response.status', $1::pg_catalog.text, true) IS NOT NULL THEN $2 END;
COMMENT ON FUNCTION web.answer(integer, jsonb) IS 'the body, with its status code set';

CREATE OR REPLACE FUNCTION web.korean(code text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE $1
	WHEN 'sold_out' THEN '모두 소진되었습니다.'
	WHEN 'already_issued' THEN '이미 발급받았습니다.'
	WHEN 'held' THEN '선점한 뒤 아직 결제하지 않았습니다.'
	WHEN 'requested' THEN '이미 요청이 접수되어 대기 중입니다.'
	WHEN 'busy' THEN '다른 요청이 처리 중입니다. 다시 시도해 주세요.'
	WHEN 'full' THEN '대기 중인 요청이 너무 많습니다. 다시 시도해 주세요.'
	WHEN 'not_open' THEN '아직 시작되지 않았습니다.'
	WHEN 'paused' THEN '일시 중지되었습니다.'
	WHEN 'closed' THEN '종료되었습니다.'
	WHEN 'not_admitted' THEN '아직 입장하지 않았습니다.'
	WHEN 'unavailable' THEN '지금은 이용할 수 없습니다. 다시 시도해 주세요.'
	WHEN 'rejected' THEN '지금은 입장할 수 없습니다.'
	WHEN 'gone' THEN '대기표가 만료되었습니다. 다시 대기열에 들어가 주세요.'
	WHEN 'missing' THEN '필요한 값이 없습니다.'
	WHEN 'invalid' THEN '값이 올바르지 않습니다.'
	WHEN 'invalid_token' THEN '토큰이 올바르지 않습니다.'
	WHEN 'other_user' THEN '다른 사용자의 것입니다.'
	WHEN 'other_ticket' THEN '다른 사용자의 대기표이거나 다른 대기열의 것입니다.'
	WHEN 'exists' THEN '같은 코드의 쿠폰이 이미 있습니다.'
	WHEN 'taken' THEN '다른 사용자가 선점한 좌석입니다.'
	WHEN 'not_held' THEN '선점하지 않은 좌석입니다.'
	WHEN 'limit_reached' THEN '더 이상 가질 수 없습니다.'
	WHEN 'lost' THEN '선점 시간이 지나 다른 사용자에게 넘어갔습니다. 결제는 환불됩니다.'
	WHEN 'other_ref' THEN '이미 다른 결제로 처리되었습니다. 결제는 환불됩니다.'
	ELSE CASE WHEN $1 OPERATOR(pg_catalog.~) '^unknown_' THEN '찾을 수 없습니다.' END
END;
COMMENT ON FUNCTION web.korean(text) IS 'what an error''s code means, in Korean; null: it has not been put so';

CREATE OR REPLACE FUNCTION web.error(status integer, code text, message text, data jsonb DEFAULT NULL) RETURNS jsonb
LANGUAGE sql VOLATILE
RETURN (SELECT web.answer($1, pg_catalog.jsonb_build_object('error', pg_catalog.jsonb_build_object('code', $2, 'message', s.message), 'message', s.message)
	OPERATOR(pg_catalog.||) CASE WHEN $4 IS NULL THEN '{}' ELSE pg_catalog.jsonb_build_object('data', $4) END)
  FROM (SELECT CASE WHEN pg_catalog.current_setting('request.headers', true) OPERATOR(pg_catalog.~*) '"accept-language" ?: ?" *ko' THEN COALESCE(web.korean($2), $3)
	ELSE $3 END AS message) s);
COMMENT ON FUNCTION web.error(integer, text, text, jsonb) IS
	'an error body, with its status code set; the message stands at the top, too, where some clients look, and is Korean for who prefers that';

CREATE OR REPLACE FUNCTION web.headers(headers jsonb) RETURNS text
LANGUAGE sql VOLATILE
RETURN pg_catalog.set_config('response.headers', pg_catalog.jsonb_build_array($1)::pg_catalog.text, true);
COMMENT ON FUNCTION web.headers(jsonb) IS 'sets the response''s headers';

CREATE OR REPLACE FUNCTION web.header(name text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
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
	WHEN 'number' THEN COALESCE((
		SELECT n.digits FROM (SELECT pg_catalog.trim_scale($1::pg_catalog.numeric)::pg_catalog.text AS digits) n
		 WHERE n.digits OPERATOR(pg_catalog.~) '^-?[0-9]{1,19}$'), '')
	WHEN 'null' THEN NULL
	ELSE CASE WHEN $1 IS NOT NULL THEN '' END
END;
COMMENT ON FUNCTION web.value(jsonb) IS 'a string or a whole number (50, 50.0) of a body as text; empty, which no argument may be, for anything else';

-- PostgREST calls a function of one json without a name for a body whose keys no
-- other of its name has; without such a one it answers 404, with the signature of
-- what there is.
CREATE OR REPLACE FUNCTION web.unknown_argument(function regprocedure, body jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF jsonb_typeof(body) <> 'object' THEN
		RETURN web.error(400, 'invalid', 'The body must be a JSON object.');
	END IF;
	RETURN web.error(400, 'invalid', (
		SELECT format('There is no argument "%s".', left(min(k), 64)) FROM jsonb_object_keys(body) k
		 WHERE NOT k = ANY ((SELECT p.proargnames FROM pg_proc p WHERE p.oid = function)::text[])));
END
$$;
COMMENT ON FUNCTION web.unknown_argument(regprocedure, jsonb) IS 'the error that a body is whose keys are not all arguments of the function';

CREATE OR REPLACE FUNCTION web.may_speak_for_others() RETURNS boolean
LANGUAGE sql STABLE
RETURN COALESCE((
	SELECT pg_catalog.pg_has_role(r.oid, 'coupon_service', 'USAGE') FROM pg_catalog.pg_roles r
	 WHERE r.rolname OPERATOR(pg_catalog.=) CASE COALESCE(pg_catalog.current_setting('request.jwt.claims', true), '')
		WHEN '' THEN SESSION_USER
		ELSE (pg_catalog.current_setting('request.jwt.claims', true)::pg_catalog.json OPERATOR(pg_catalog.->>) 'role')::pg_catalog.name
	   END), false);
COMMENT ON FUNCTION web.may_speak_for_others() IS
	'has the caller''s role, by its verified claim or, where there are no claims, that of the session, the rights of coupon_service: an application that knows its users';

CREATE OR REPLACE FUNCTION web.subject() RETURNS text
LANGUAGE sql STABLE
RETURN NULLIF(pg_catalog.current_setting('request.jwt.claims', true), '')::pg_catalog.json OPERATOR(pg_catalog.->>) 'sub';
COMMENT ON FUNCTION web.subject() IS 'the user that the verified token names; null: none';

CREATE OR REPLACE FUNCTION web.caller(user_key text, given_user text, OUT user_id text, OUT error jsonb)
RETURNS record
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
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
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
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
