-- /openapi.json: what the front serves, as OpenAPI 3.1. All of it comes from the
-- routes and their functions: arguments from the signature, answers from the
-- comment, in which the built-in routes' functions say, after " - ", each status
-- and what it means, and before that which arguments are in the query.

CREATE FUNCTION coupon.openapi_schema(type oid) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	element oid := (SELECT t.typelem FROM pg_type t WHERE t.oid = type AND t.typcategory = 'A');
BEGIN
	IF element IS NOT NULL THEN
		RETURN jsonb_build_object('type', 'array', 'items', coupon.openapi_schema(element));
	END IF;
	RETURN CASE type::regtype::text
		WHEN 'smallint' THEN '{"type": "integer", "format": "int32"}'
		WHEN 'integer' THEN '{"type": "integer", "format": "int32"}'
		WHEN 'bigint' THEN '{"type": "integer", "format": "int64"}'
		WHEN 'numeric' THEN '{"type": "number"}'
		WHEN 'real' THEN '{"type": "number"}'
		WHEN 'double precision' THEN '{"type": "number"}'
		WHEN 'boolean' THEN '{"type": "boolean"}'
		WHEN 'uuid' THEN '{"type": "string", "format": "uuid"}'
		WHEN 'date' THEN '{"type": "string", "format": "date"}'
		WHEN 'timestamp with time zone' THEN '{"type": "string", "format": "date-time"}'
		WHEN 'interval' THEN '{"type": "string", "examples": ["5 min"]}'
		WHEN 'json' THEN '{}'
		WHEN 'jsonb' THEN '{}'
		WHEN 'bytea' THEN '{}'
		ELSE '{"type": "string"}'
	END;
END
$$;
COMMENT ON FUNCTION coupon.openapi_schema(oid) IS 'a type of PostgreSQL as a JSON schema';

-- Where each argument of a route goes. All but those in the path may be in a
-- query, too; the one place is told that a client would choose.
CREATE FUNCTION coupon.openapi_arguments(
	route coupon.http_route, OUT name text, OUT place text, OUT required boolean, OUT schema jsonb)
RETURNS SETOF record
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	proc oid := coupon.route_function(route.function);
	about text := coalesce(obj_description(proc, 'pg_proc'), '');
BEGIN
	RETURN QUERY
	SELECT a.name,
	       CASE WHEN strpos(route.path, '{' || a.name || '}') > 0 THEN 'path'
	            WHEN a.name = 'request_key' THEN 'header'
	            WHEN route.method IN ('GET', 'DELETE') OR about ~ ('[?&]' || a.name || '=') THEN 'query'
	            ELSE 'body' END,
	       -- a token names the user
	       a.n <= a.nrequired AND a.name <> 'user_id',
	       coupon.openapi_schema(CASE WHEN route.batched THEN (SELECT t.typelem FROM pg_type t WHERE t.oid = a.type) ELSE a.type END)
	  FROM (SELECT x.name, x.type, row_number() OVER (ORDER BY x.n) AS n, p.pronargs - p.pronargdefaults AS nrequired
	          FROM pg_proc p,
	               unnest(p.proargnames, coalesce(p.proallargtypes, p.proargtypes::oid[])) WITH ORDINALITY x(name, type, n)
	         WHERE p.oid = proc AND coalesce(p.proargmodes[x.n], 'i') IN ('i', 'b')) a
	 -- that is a header of any call
	 WHERE a.name <> 'traceparent'
	 ORDER BY a.n;
END
$$;
COMMENT ON FUNCTION coupon.openapi_arguments(coupon.http_route) IS 'the arguments of a route: in path, query, header or body';

CREATE FUNCTION coupon.openapi_responses(route coupon.http_route) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	proc pg_proc := (SELECT p FROM pg_proc p WHERE p.oid = coupon.route_function(route.function));
	about text := coalesce(obj_description(proc.oid, 'pg_proc'), '');
	result jsonb := CASE WHEN route.batched THEN '{"type": "object"}' ELSE coupon.openapi_schema(proc.prorettype) END;
	-- what the front itself answers, on any route
	answers jsonb := (
		SELECT jsonb_object_agg(n, jsonb_build_object('$ref', '#/components/responses/' || n))
		  FROM unnest(ARRAY[400, 401, 403, 409, 429, 500, 503] || CASE WHEN route.method IN ('GET', 'DELETE') THEN '{}'::integer[] ELSE '{413}' END
		              || CASE WHEN route.path ~ '[{]' THEN ARRAY[404] ELSE '{}' END) n);
	-- bytes are of a type that the function says when it is called
	type text := CASE proc.prorettype WHEN 'bytea'::regtype THEN '*/*' ELSE 'application/json' END;
	problem jsonb := '{"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}';
	one record;
BEGIN
	IF proc.proretset AND NOT route.batched THEN
		result := jsonb_build_object('type', 'array', 'items', result);
	END IF;
	IF proc.pronamespace <> 'coupon'::regnamespace THEN
		problem := problem || '{"application/json": {"schema": {}}}';
	END IF;
	FOR one IN
		SELECT m[1]::integer AS status, btrim(m[2]) AS meaning
		  FROM regexp_matches(substring(about FROM ' - (.*)$'), '\m([2-5][0-9][0-9])\M([^,;]*)', 'g') m
	LOOP
		answers := answers || jsonb_build_object(one.status, jsonb_build_object(
			'description', CASE WHEN one.meaning = '' THEN 'as the summary says' ELSE one.meaning END)
			|| CASE WHEN one.status = 204 THEN '{}'
			        WHEN one.status >= 400 THEN jsonb_build_object('content', problem)
			        ELSE jsonb_build_object('content', jsonb_build_object(type, jsonb_build_object('schema', result))
			             || CASE WHEN route.batched AND route.method = 'GET' THEN '{"text/event-stream": {"schema": {"type": "string"}}}'::jsonb ELSE '{}' END)
			   END);
	END LOOP;
	IF NOT answers ?| ARRAY['200', '201', '202', '204'] THEN
		answers := answers || CASE WHEN proc.prorettype = 'void'::regtype THEN '{"204": {"description": "done"}}'
			ELSE jsonb_build_object('200', jsonb_build_object('description', 'what the function returns',
				'content', jsonb_build_object(type, jsonb_build_object('schema', result)))) END;
	END IF;
	IF route.batched AND route.method = 'GET' THEN
		answers := answers || '{"204": {"description": "a stream of events that has ended, asked for again with Last-Event-ID: there is nothing more to come"}}';
	END IF;
	RETURN answers;
END
$$;
COMMENT ON FUNCTION coupon.openapi_responses(coupon.http_route) IS 'the answers of a route: those of its function''s comment, and those of the front';

CREATE FUNCTION coupon.openapi_operation(route coupon.http_route) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	parameters jsonb;
	body jsonb;
BEGIN
	SELECT jsonb_agg(jsonb_build_object('name', CASE a.place WHEN 'header' THEN 'Idempotency-Key' ELSE a.name END,
	                                    'in', a.place, 'required', a.required OR a.place = 'path', 'schema', a.schema))
	         FILTER (WHERE a.place <> 'body'),
	       jsonb_build_object('type', 'object', 'additionalProperties', false,
	                          'properties', jsonb_object_agg(a.name, a.schema) FILTER (WHERE a.place = 'body'),
	                          'required', coalesce(jsonb_agg(a.name) FILTER (WHERE a.place = 'body' AND a.required), '[]'))
	  INTO parameters, body
	  FROM coupon.openapi_arguments(route) a;
	RETURN jsonb_strip_nulls(jsonb_build_object(
		'operationId', route.method || ' ' || route.path,
		'summary', obj_description(coupon.route_function(route.function), 'pg_proc'),
		'tags', CASE WHEN route.admin THEN '["admin"]'::jsonb END,
		'parameters', parameters,
		'security', CASE WHEN route.anonymous_role IS NULL AND current_setting('coupon.http_role') = '' THEN '[{"bearer": []}]'::jsonb
		                 ELSE '[{"bearer": []}, {}]' END))
		|| CASE WHEN jsonb_typeof(body -> 'properties') = 'object' THEN jsonb_build_object('requestBody', jsonb_build_object(
			'required', body -> 'required' <> '[]',
			'content', jsonb_build_object('application/json', jsonb_build_object('schema', body),
			                              'application/x-www-form-urlencoded', jsonb_build_object('schema', body)))) ELSE '{}' END
		|| jsonb_build_object('responses', coupon.openapi_responses(route));
END
$$;
COMMENT ON FUNCTION coupon.openapi_operation(coupon.http_route) IS 'a route as an operation of OpenAPI';

CREATE FUNCTION coupon.http_openapi() RETURNS json
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	health CONSTANT json := '{"get": {"security": [], "responses": {"200": {"description": "it is"}, "503": {"description": "it is not"}}}}';
	paths json;
	answers json;
BEGIN
	SELECT json_object_agg(p.path, p.operations ORDER BY p.path) INTO paths
	  FROM (SELECT r.path, json_object_agg(lower(r.method), coupon.openapi_operation(r) ORDER BY r.method) AS operations
	          FROM coupon.http_route r WHERE coupon.route_function(r.function) IS NOT NULL GROUP BY r.path
	        UNION ALL VALUES ('/healthz', health), ('/readyz', health)) p;
	-- the functions of an application have errors of their own
	SELECT json_object_agg(a.status, jsonb_build_object('description', a.meaning,
	         'content', '{"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}, "application/json": {"schema": {}}}'::jsonb)
	         || CASE WHEN a.status IN (429, 503) THEN '{"headers": {"Retry-After": {"schema": {"type": "integer"}}}}' ELSE '{}'::jsonb END) INTO answers
	  FROM (VALUES (400, 'a malformed request, or an argument that is missing, unknown, given twice or of another type'),
	               (401, 'no token that is good'), (403, 'another user than the token''s, or a role that may not'),
	               (404, 'there is no such thing'), (409, 'what is there already, or in another state'), (413, 'the body is too large'),
	               (429, 'too many calls from here'), (500, 'the call failed'), (503, 'not at the moment: try again')) a(status, meaning);
	PERFORM set_config('response.headers', '[{"Cache-Control": "max-age=60"}]', true);
	RETURN json_build_object(
		'openapi', '3.1.0',
		'info', json_build_object('title', 'coupon', 'version', (SELECT e.extversion FROM pg_extension e WHERE e.extname = 'coupon'),
			'description', 'First-come-first-served sales. HEAD is answered wherever GET is, OPTIONS everywhere.'),
		'paths', paths,
		'components', json_build_object(
			'securitySchemes', '{"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}'::json,
			'responses', answers,
			'schemas', '{"Problem": {"type": "object", "required": ["type", "status", "title", "code", "message"], "properties": {
				"type": {"type": "string"}, "status": {"type": "integer"}, "title": {"type": "string", "description": "a sentence, for people"},
				"code": {"type": "string", "description": "a word or an SQLSTATE, for programs"}, "detail": {"type": "string"},
				"hint": {"type": "string"}, "message": {"type": "string", "description": "the title again"}}}}'::json));
END
$$;
COMMENT ON FUNCTION coupon.http_openapi() IS 'GET /openapi.json - 200 what is served, as OpenAPI 3.1';
