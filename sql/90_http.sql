-- HTTP. A route maps a method and a path to a function; the front, a background
-- worker, serves them. The functions here are the neutral contract: they take
-- all calls that came at the same moment as arrays, and give one answer each.

CREATE TYPE coupon.http_answer AS (
	status  integer,
	headers text[],
	body    json,
	pending boolean
);
COMMENT ON TYPE coupon.http_answer IS
	'answer of a batched function to one call: the status, headers as name, value, ..., the body; pending: it may change by itself, so that who can wait may';
COMMENT ON COLUMN coupon.http_answer.status IS 'The status code.';
COMMENT ON COLUMN coupon.http_answer.headers IS 'Headers, as name, value, name, value ...; null: none.';
COMMENT ON COLUMN coupon.http_answer.body IS 'The body; null: none.';
COMMENT ON COLUMN coupon.http_answer.pending IS 'Whether the answer may change by itself, so that a call that can wait does.';

CREATE TABLE coupon.route (
	method         text COLLATE "C" NOT NULL CHECK (method OPERATOR(pg_catalog.=) ANY (ARRAY['GET'::pg_catalog.text, 'POST'::pg_catalog.text, 'PUT'::pg_catalog.text, 'PATCH'::pg_catalog.text, 'DELETE'::pg_catalog.text])),
	path           text COLLATE "C" NOT NULL,
	function       text COLLATE "C",
	batched        boolean NOT NULL,
	role           regrole,
	anonymous_role regrole,
	admin          boolean NOT NULL,
	PRIMARY KEY (path, method)
);
-- The built-in routes are no rows, so that neither a restored table nor a
-- subscriber's first copy meets them twice.
COMMENT ON TABLE coupon.route IS 'The routes that were added, and those built-in ones that were taken away. coupon.http_route shows all that are served.';
COMMENT ON COLUMN coupon.route.method IS 'GET serves HEAD, too';
COMMENT ON COLUMN coupon.route.path IS 'a template: /campaigns/{campaign_id}/issues';
COMMENT ON COLUMN coupon.route.function IS 'The signature of the function, with its schema; null: the built-in route of this method and path is not served.';
COMMENT ON COLUMN coupon.route.batched IS 'it takes arrays, and gives one coupon.http_answer for each element';
COMMENT ON COLUMN coupon.route.role IS 'whoever calls must be a member of it; null: anybody who may execute the function';
COMMENT ON COLUMN coupon.route.anonymous_role IS 'whose rights a call without a token has; null: those of coupon.http_role';
COMMENT ON COLUMN coupon.route.admin IS 'served at coupon.http_admin_listen, where that is set';

SELECT pg_catalog.pg_extension_config_dump('coupon.route', '');

CREATE FUNCTION coupon.route_changed() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'coupon_route_changed';
COMMENT ON FUNCTION coupon.route_changed() IS 'has the routes read again when a change commits';
CREATE TRIGGER route_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.route
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.route_changed();
ALTER TABLE coupon.route ENABLE ALWAYS TRIGGER route_changed;

CREATE FUNCTION coupon.route_check(method text, path text, function text, batched boolean) RETURNS void
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'coupon_route_check';
COMMENT ON FUNCTION coupon.route_check(text, text, text, boolean) IS 'an error for a route that the front could not serve';

CREATE FUNCTION coupon.route_function(signature text) RETURNS regprocedure
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'coupon_route_function';
COMMENT ON FUNCTION coupon.route_function(text) IS 'The function of a route; null where it, or the type of an argument, is not there any more.';

CREATE VIEW coupon.built_in_route AS
SELECT b.method, b.path, b.function, b.batched, b.admin,
       CASE WHEN b.admin THEN pg_catalog.to_regrole('coupon_reader') END AS anonymous_role
  FROM (VALUES
	('POST', '/campaigns/{campaign_id}/issues', 'coupon.http_issue(bigint[],text[],text[],text[])', true, false),
	('POST', '/campaigns/{campaign_id}/requests', 'coupon.http_request(bigint[],text[],text[],text[])', true, false),
	('GET', '/campaigns/{campaign_id}/requests/{request_id}', 'coupon.http_request_status(bigint[],uuid[])', true, false),
	('POST', '/campaigns/{campaign_id}/holds', 'coupon.http_hold(bigint,text,bigint,interval,text)', false, false),
	('POST', '/campaigns/{campaign_id}/holds/{serial}/confirmation', 'coupon.http_confirm(bigint,bigint,text,text)', false, false),
	('DELETE', '/campaigns/{campaign_id}/holds/{serial}', 'coupon.http_release(bigint,bigint,text)', false, false),
	('POST', '/rooms/{room}/tickets', 'coupon.http_join(text[],text[])', true, false),
	('GET', '/rooms/{room}/tickets/{token}', 'coupon.http_position(text[],text[])', true, false),
	('DELETE', '/rooms/{room}/tickets/{token}', 'coupon.http_leave(text[],text[])', true, false),
	('GET', '/campaigns/{campaign_id}', 'coupon.http_status(bigint[])', true, false),
	('GET', '/openapi.json', 'coupon.http_openapi()', false, false),
	('GET', '/metrics', 'coupon.http_metrics()', false, true),
	('GET', '/board.json', 'coupon.http_board()', false, true)) b(method, path, function, batched, admin);
COMMENT ON VIEW coupon.built_in_route IS 'The routes of the extension itself.';
COMMENT ON COLUMN coupon.built_in_route.method IS 'The method. GET serves HEAD, too.';
COMMENT ON COLUMN coupon.built_in_route.path IS 'A template of the path.';
COMMENT ON COLUMN coupon.built_in_route.function IS 'The signature of the function, with its schema.';
COMMENT ON COLUMN coupon.built_in_route.batched IS 'Whether it takes arrays, and gives one coupon.http_answer for each element.';
COMMENT ON COLUMN coupon.built_in_route.admin IS 'Whether it is served at coupon.http_admin_listen, where that is set.';
COMMENT ON COLUMN coupon.built_in_route.anonymous_role IS 'The role whose rights a call without a token has; null: coupon.http_role.';

CREATE VIEW coupon.http_route AS
SELECT r.method, r.path, r.function, r.batched, r.role, r.anonymous_role, r.admin
  FROM coupon.route r WHERE r.function IS NOT NULL
UNION ALL
SELECT b.method, b.path, b.function, b.batched, NULL, b.anonymous_role, b.admin
  FROM coupon.built_in_route b
 WHERE NOT EXISTS (SELECT FROM coupon.route r WHERE r.method = b.method AND r.path = b.path);
COMMENT ON VIEW coupon.http_route IS 'What the HTTP front serves.';
COMMENT ON COLUMN coupon.http_route.method IS 'The method. GET serves HEAD, too.';
COMMENT ON COLUMN coupon.http_route.path IS 'A template of the path.';
COMMENT ON COLUMN coupon.http_route.function IS 'The signature of the function, with its schema.';
COMMENT ON COLUMN coupon.http_route.batched IS 'Whether it takes arrays, and gives one coupon.http_answer for each element.';
COMMENT ON COLUMN coupon.http_route.role IS 'Who calls must be a member of this role; null: anybody who may execute the function.';
COMMENT ON COLUMN coupon.http_route.anonymous_role IS 'The role whose rights a call without a token has; null: coupon.http_role.';
COMMENT ON COLUMN coupon.http_route.admin IS 'Whether it is served at coupon.http_admin_listen, where that is set.';

CREATE FUNCTION @extschema@.coupon_route_add(
	method text, path text, function regprocedure, batched boolean DEFAULT false,
	role regrole DEFAULT NULL, anonymous_role regrole DEFAULT NULL, admin boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	-- with its schema: nothing but pg_catalog is in the path
	signature text := function::text;
	over_http boolean := (SELECT a.backend_type = 'coupon front' FROM pg_stat_get_activity(pg_backend_pid()) a);
	-- PostgREST's session is of a user who may be any of its roles, and calls as one of them
	caller name := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END;
BEGIN
	IF method IS NULL OR path IS NULL OR function IS NULL OR batched IS NULL OR admin IS NULL THEN
		RAISE null_value_not_allowed USING
			MESSAGE = 'method, path, function, batched and admin must not be null',
			DETAIL = 'One of them is null.',
			HINT = 'Leave out what should have its default.';
	END IF;
	IF upper(method) NOT IN ('GET', 'POST', 'PUT', 'PATCH', 'DELETE') THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'invalid method',
			DETAIL = format('The value is "%s".', left(method, 64)),
			HINT = 'Use GET, POST, PUT, PATCH or DELETE.';
	END IF;
	IF (SELECT a.rolsuper FROM pg_roles a WHERE a.oid = anonymous_role) THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'a superuser cannot be called without a token',
			DETAIL = format('Role %s is a superuser.', anonymous_role),
			HINT = 'Name a role that has only the rights that anybody may have.';
	END IF;
	IF anonymous_role::oid NOT IN (SELECT a.oid FROM pg_roles a WHERE a.rolname IN ('coupon_reader', 'coupon_user', 'coupon_service'))
		-- over HTTP the session is the server's own, and says nothing of who calls
		AND (over_http OR NOT pg_has_role(caller, anonymous_role, 'MEMBER')) THEN
		RAISE insufficient_privilege USING
			MESSAGE = 'permission denied to give the rights of a role away',
			DETAIL = CASE WHEN over_http THEN format('Over HTTP nobody can tell whether the caller is a member of role %s.', anonymous_role)
			              ELSE format('%I is not a member of role %s.', caller, anonymous_role) END,
			HINT = 'Name coupon_reader, coupon_user or coupon_service, or a role of which you are a member.';
	END IF;
	PERFORM coupon.route_check(upper(method), path, signature, batched);
	IF batched AND NOT (SELECT p.provolatile <> 'v' OR upper(method) <> 'GET' FROM pg_proc p WHERE p.oid = function) THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'a volatile function cannot be reached by GET',
			DETAIL = format('%s is declared VOLATILE.', signature),
			HINT = 'Declare it STABLE if it writes nothing, or use POST.';
	END IF;
	IF NOT EXISTS (SELECT FROM coupon.http_route r WHERE r.method = upper($1) AND r.path = $2) THEN
		INSERT INTO coupon.route AS r (method, path, function, batched, role, anonymous_role, admin)
		VALUES (upper($1), $2, signature, $4, $5, $6, $7)
		ON CONFLICT ON CONSTRAINT route_pkey DO UPDATE
		   SET function = excluded.function, batched = excluded.batched, role = excluded.role,
		       anonymous_role = excluded.anonymous_role, admin = excluded.admin
		 WHERE r.function IS NULL;
		IF FOUND THEN
			RETURN;
		END IF;
	END IF;
	RAISE unique_violation USING
		MESSAGE = 'there is such a route already',
		DETAIL = format('It is %s %s.', upper(method), left(path, 256)),
		HINT = 'Drop it first with coupon_route_drop().';
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_route_add(text, text, regprocedure, boolean, regrole, regrole, boolean) IS
	'has the HTTP front serve a function; arguments are matched by their names with those of path, query and body';

CREATE FUNCTION @extschema@.coupon_route_drop(method text, path text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM coupon.built_in_route b WHERE b.method = upper($1) AND b.path = $2) THEN
		DELETE FROM coupon.route r WHERE r.method = upper($1) AND r.path = $2;
		RETURN FOUND;
	END IF;
	INSERT INTO coupon.route AS r (method, path, batched, admin) VALUES (upper($1), $2, false, false)
	ON CONFLICT ON CONSTRAINT route_pkey DO UPDATE
	   SET function = NULL, batched = false, role = NULL, anonymous_role = NULL, admin = false
	 WHERE r.function IS NOT NULL;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_route_drop(text, text) IS 'Takes a route away. Returns whether there was one.';

CREATE FUNCTION @extschema@.coupon_http_status(
	OUT answers_2xx bigint, OUT answers_3xx bigint, OUT answers_4xx bigint, OUT answers_5xx bigint,
	OUT average_ms double precision, OUT slowest_ms double precision)
RETURNS record
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'coupon_http_status';
COMMENT ON FUNCTION @extschema@.coupon_http_status() IS 'answers of the HTTP front since the server started or coupon_stat_reset()';

-- ---- the neutral contract ----

CREATE FUNCTION coupon.http_issue(campaign_id bigint[], user_id text[], request_key text[] DEFAULT NULL, traceparent text[] DEFAULT NULL)
RETURNS SETOF coupon.http_answer
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'coupon_http_issue';
COMMENT ON FUNCTION coupon.http_issue(bigint[], text[], text[], text[]) IS
	'POST /campaigns/{campaign_id}/issues - 201 issued, 200 already issued, 409 sold out or held, 403 not admitted, 425 not open, 410 closed or returned, 422 other call, 503 paused or busy, 404 unknown campaign; request_key is the header Idempotency-Key';

CREATE FUNCTION coupon.http_outcome(outcome text) RETURNS coupon.http_answer
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'coupon_http_outcome';
COMMENT ON FUNCTION coupon.http_outcome(text) IS 'The problem (RFC 9457) that an outcome is, where it is no success.';

CREATE FUNCTION coupon.http_request(campaign_id bigint[], user_id text[], request_key text[] DEFAULT NULL, traceparent text[] DEFAULT NULL)
RETURNS SETOF coupon.http_answer
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'coupon_http_request';
COMMENT ON FUNCTION coupon.http_request(bigint[], text[], text[], text[]) IS
	'POST /campaigns/{campaign_id}/requests - 202 with Location, 200 for who has a unit already, 409 sold out or held, 403 not admitted, 425 not open, 410 closed, 503 paused or busy or full, 404 unknown campaign; request_key is the header Idempotency-Key';

CREATE FUNCTION coupon.http_request_status(campaign_id bigint[], request_id uuid[]) RETURNS SETOF coupon.http_answer
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'coupon_http_request_status';
COMMENT ON FUNCTION coupon.http_request_status(bigint[], uuid[]) IS
	'GET /campaigns/{campaign_id}/requests/{request_id} - 200 waiting or completed, 404 not requested; waits with Prefer: wait=N; events with Accept: text/event-stream';

CREATE FUNCTION coupon.http_join(room text[], user_id text[]) RETURNS SETOF coupon.http_answer
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'coupon_http_join';
COMMENT ON FUNCTION coupon.http_join(text[], text[]) IS
	'POST /rooms/{room}/tickets - 201 with Location and the ticket, the same again for who has one, 404 unknown room, 503 the room lets nobody in or busy';

-- The token is a secret, so it says by itself which room it is of.
CREATE FUNCTION coupon.http_position(room text[], token text[]) RETURNS SETOF coupon.http_answer
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'coupon_http_position';
COMMENT ON FUNCTION coupon.http_position(text[], text[]) IS
	'GET /rooms/{room}/tickets/{token} - 200 waiting or admitted, 410 when it has ended; events with Accept: text/event-stream';

CREATE FUNCTION coupon.http_leave(room text[], token text[]) RETURNS SETOF coupon.http_answer
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'coupon_http_leave';
COMMENT ON FUNCTION coupon.http_leave(text[], text[]) IS
	'DELETE /rooms/{room}/tickets/{token} - 204, also when it has ended already, 400 no token, 503 busy';

-- Each campaign is looked at once, and described once, however many ask for it. In
-- plpgsql, which keeps its plan: a function in SQL is planned for every batch.
CREATE FUNCTION coupon.http_status(campaign_id bigint[]) RETURNS SETOF coupon.http_answer
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT (CASE WHEN s.campaign_id IS NULL THEN coupon.http_outcome('unknown_campaign')
		ELSE ROW(200, NULL::text[], s.body, false)::coupon.http_answer END).*
	  FROM unnest($1) WITH ORDINALITY AS u(campaign_id, n)
	       LEFT JOIN (SELECT c.campaign_id, json_strip_nulls(json_build_object(
			'campaign_id', c.campaign_id, 'name', c.name, 'state', c.state, 'stock', c.stock, 'issued', c.issued, 'held', c.held,
			'remaining', c.remaining)) AS body
	                    FROM (SELECT DISTINCT a.campaign_id FROM unnest($1) AS a(campaign_id)) d
	                    JOIN coupon.campaign_status c ON c.campaign_id = d.campaign_id OFFSET 0) s
	              ON s.campaign_id = u.campaign_id
	 ORDER BY u.n;
END
$$;
COMMENT ON FUNCTION coupon.http_status(bigint[]) IS 'GET /campaigns/{campaign_id} - 200 what is left of it, 404 unknown campaign';

-- What became of a hold, or of its end.
CREATE FUNCTION coupon.http_hold_answer(result coupon.hold_result, status integer) RETURNS json
LANGUAGE sql VOLATILE
RETURN CASE
	WHEN ($1).status OPERATOR(pg_catalog.=) ANY (ARRAY['held'::text, 'already_held', 'confirmed', 'already_confirmed', 'released'])
		AND pg_catalog.set_config('response.status', (CASE ($1).status WHEN 'held' THEN $2 ELSE 200 END)::text, true) IS NOT NULL
	THEN pg_catalog.json_strip_nulls(pg_catalog.row_to_json($1))
	WHEN pg_catalog.set_config('response.status', ((coupon.http_outcome(($1).status)).status)::text, true) IS NOT NULL
		AND pg_catalog.set_config('response.headers', '[{"Content-Type": "application/problem+json"}]', true) IS NOT NULL
	THEN (coupon.http_outcome(($1).status)).body
END;
COMMENT ON FUNCTION coupon.http_hold_answer(coupon.hold_result, integer) IS 'a hold as JSON, with its status';

-- Is it an application that calls, and not a user with a token of their own?  Who
-- calls in SQL is asked by the privileges.
CREATE FUNCTION coupon.http_is_application() RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	claims text := coalesce(current_setting('request.jwt.claims', true), '');
BEGIN
	RETURN claims = '' OR EXISTS (
		SELECT FROM pg_roles r, pg_roles g
		 WHERE r.rolname = claims::json ->> 'role' AND g.rolname IN ('coupon_service', 'coupon_admin') AND pg_has_role(r.oid, g.oid, 'MEMBER'));
END
$$;
COMMENT ON FUNCTION coupon.http_is_application() IS 'Whether the caller''s role may speak for all users, even if the token names one.';

CREATE FUNCTION coupon.http_hold(campaign_id bigint, user_id text, serial bigint DEFAULT NULL, ttl interval DEFAULT NULL, request_key text DEFAULT NULL) RETURNS json
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- else anybody would keep a seat for days, and pay for nothing
	IF $4 IS NOT NULL AND NOT coupon.http_is_application() THEN
		RAISE SQLSTATE 'PT403' USING MESSAGE = 'How long a unit is held is the application''s to say.';
	END IF;
	RETURN coupon.http_hold_answer(
		CASE WHEN $3 IS NULL THEN @extschema@.coupon_hold_any($1, $2, coalesce($4, '5 min'), $5)
		     ELSE @extschema@.coupon_hold($1, $3, $2, coalesce($4, '5 min'), $5) END, 201);
END
$$;
COMMENT ON FUNCTION coupon.http_hold(bigint, text, bigint, interval, text) IS
	'POST /campaigns/{campaign_id}/holds - 201 held, 200 held before, 409 taken or sold out or limit reached, 403 not admitted or a ttl without coupon_service, 425 not open, 410 closed or returned, 422 other call, 503 paused or busy, 404 unknown campaign or unit; the unit of that serial, or any; request_key is the header Idempotency-Key';

CREATE FUNCTION coupon.http_confirm(campaign_id bigint, serial bigint, user_id text, ref text) RETURNS json
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN coupon.http_hold_answer(@extschema@.coupon_confirm($1, $2, $3, $4), 200);
COMMENT ON FUNCTION coupon.http_confirm(bigint, bigint, text, text) IS
	'POST /campaigns/{campaign_id}/holds/{serial}/confirmation - 200 confirmed, 403 without coupon_service, 410 lost, 404 not held, 409 limit reached or paid for otherwise, 503 busy';

CREATE FUNCTION coupon.http_release(campaign_id bigint, serial bigint, user_id text) RETURNS json
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN coupon.http_hold_answer(ROW($3, CASE WHEN @extschema@.coupon_release($1, $2, $3) THEN 'released' ELSE 'not_held' END, $2, NULL, NULL)::coupon.hold_result, 200);
COMMENT ON FUNCTION coupon.http_release(bigint, bigint, text) IS 'DELETE /campaigns/{campaign_id}/holds/{serial} - 200 released, 404 not held';
