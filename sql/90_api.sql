-- HTTP: what PostgREST exposes. A route of schema coupon_api answers JSON and
-- sets response.status and response.headers; the api_ functions that routes
-- share are in schema coupon, which is not exposed. Bodies arrive as jsonb,
-- so that a wrong type is seen; parts of a path or a query as text. What can
-- be reached by GET is STABLE, for PostgREST runs it in READ ONLY.

CREATE SCHEMA coupon_api;
COMMENT ON SCHEMA coupon_api IS 'the HTTP routes of the coupon extension, for PostgREST';

-- a code of HTTP is a campaign's name
CREATE INDEX campaign_name_idx ON coupon.campaign (name, campaign_id);

-- The core, by names that do not depend on the schema it is in.
CREATE FUNCTION coupon.api_issue_grouped(campaign_id bigint, user_id text) RETURNS coupon.issue_result
LANGUAGE sql VOLATILE
RETURN @extschema@.coupon_issue_grouped($1, $2);
COMMENT ON FUNCTION coupon.api_issue_grouped(bigint, text) IS 'coupon_issue_grouped() for routes';

CREATE FUNCTION coupon.api_issue(campaign_id bigint, user_id text) RETURNS coupon.issue_result
LANGUAGE sql VOLATILE
RETURN @extschema@.coupon_issue($1, $2);
COMMENT ON FUNCTION coupon.api_issue(bigint, text) IS 'coupon_issue() for routes';

CREATE FUNCTION coupon.api_request(campaign_id bigint, user_id text) RETURNS coupon.request_result
LANGUAGE sql VOLATILE
RETURN @extschema@.coupon_request($1, $2);
COMMENT ON FUNCTION coupon.api_request(bigint, text) IS 'coupon_request() for routes';

CREATE FUNCTION coupon.api_request_status(request_id uuid) RETURNS coupon.request_result
LANGUAGE sql STABLE
RETURN @extschema@.coupon_request_status($1);
COMMENT ON FUNCTION coupon.api_request_status(uuid) IS 'coupon_request_status() for routes';

CREATE FUNCTION coupon.api_request_status_of(campaign_id bigint, user_id text) RETURNS coupon.request_result
LANGUAGE sql STABLE
RETURN @extschema@.coupon_request_status_of($1, $2);
COMMENT ON FUNCTION coupon.api_request_status_of(bigint, text) IS 'coupon_request_status_of() for routes';

CREATE FUNCTION coupon.api_campaign_create(name text, stock bigint, policy jsonb) RETURNS bigint
LANGUAGE sql VOLATILE
RETURN @extschema@.coupon_campaign_create($1, $2, policy => $3);
COMMENT ON FUNCTION coupon.api_campaign_create(text, bigint, jsonb) IS 'coupon_campaign_create() for routes';

CREATE FUNCTION coupon.api_queue_join(room text, user_id text) RETURNS coupon.queue_result
LANGUAGE sql VOLATILE
RETURN @extschema@.coupon_queue_join($1, $2);
COMMENT ON FUNCTION coupon.api_queue_join(text, text) IS 'coupon_queue_join() for routes';

CREATE FUNCTION coupon.api_queue_position(token text) RETURNS coupon.queue_result
LANGUAGE sql STABLE
RETURN @extschema@.coupon_queue_position($1);
COMMENT ON FUNCTION coupon.api_queue_position(text) IS 'coupon_queue_position() for routes';

CREATE FUNCTION coupon.api_counts(
	campaign_id bigint, OUT issued bigint, OUT in_flight bigint, OUT remaining bigint, OUT depth bigint)
RETURNS record
LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT s.issued, s.in_flight, s.remaining, coalesce(q.depth, 0)
	  FROM @extschema@.coupon_status($1) s LEFT JOIN @extschema@.coupon_request_queue($1) q ON true;
END;
COMMENT ON FUNCTION coupon.api_counts(bigint) IS 'of coupon_status() and coupon_request_queue(), for routes';

-- Answers
CREATE FUNCTION coupon.api_answer(status integer, body jsonb) RETURNS jsonb
LANGUAGE sql VOLATILE
RETURN CASE WHEN pg_catalog.set_config('response.status', $1::pg_catalog.text, true) IS NOT NULL THEN $2 END;
COMMENT ON FUNCTION coupon.api_answer(integer, jsonb) IS 'the body, with its status code set';

CREATE FUNCTION coupon.api_error(status integer, code text, message text) RETURNS jsonb
LANGUAGE sql VOLATILE
RETURN coupon.api_answer($1, pg_catalog.jsonb_build_object('error', pg_catalog.jsonb_build_object('code', $2, 'message', $3)));
COMMENT ON FUNCTION coupon.api_error(integer, text, text) IS 'an error body, with its status code set';

CREATE FUNCTION coupon.api_headers(headers jsonb) RETURNS text
LANGUAGE sql VOLATILE
RETURN pg_catalog.set_config('response.headers', pg_catalog.jsonb_build_array($1)::pg_catalog.text, true);
COMMENT ON FUNCTION coupon.api_headers(jsonb) IS 'sets the response''s headers';

CREATE FUNCTION coupon.api_refuse(route text, outcome text, data jsonb DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	-- the same outcome has another code on another route
	status integer := CASE outcome
		WHEN 'sold_out' THEN CASE route WHEN 'issue_fcfs' THEN 400 ELSE 409 END
		WHEN 'busy' THEN CASE route WHEN 'issue_sync' THEN 429 WHEN 'issue_optimistic' THEN 423 WHEN 'issue_fcfs' THEN 400 ELSE 409 END
		WHEN 'full' THEN 429
		WHEN 'not_admitted' THEN 403
		WHEN 'unavailable' THEN 503
		ELSE 409
	END;
	answer jsonb := coupon.api_error(status, outcome, CASE outcome
		WHEN 'sold_out' THEN 'Nothing is left.'
		WHEN 'already_issued' THEN 'The user has it already.'
		WHEN 'held' THEN 'The user holds what he may have, and has not paid for it yet.'
		WHEN 'requested' THEN 'The user''s request waits already.'
		WHEN 'busy' THEN 'The user, or the last units, are in another transaction: try again.'
		WHEN 'full' THEN 'Too many requests wait: try again.'
		WHEN 'not_open' THEN 'The sale has not begun.'
		WHEN 'paused' THEN 'The sale is paused.'
		WHEN 'closed' THEN 'The sale is over.'
		WHEN 'not_admitted' THEN 'The waiting room has not admitted the user.'
		WHEN 'unavailable' THEN 'The service is not available at the moment: try again.'
		ELSE outcome
	END);
BEGIN
	IF outcome IN ('busy', 'full', 'unavailable') THEN
		PERFORM coupon.api_headers('{"Retry-After": "1"}');
	END IF;
	RETURN CASE WHEN data IS NULL THEN answer ELSE answer || jsonb_build_object('data', data) END;
END
$$;
COMMENT ON FUNCTION coupon.api_refuse(text, text, jsonb) IS 'the error that an outcome is on a route';

-- Arguments
CREATE FUNCTION coupon.api_text(value jsonb) RETURNS text
LANGUAGE sql STABLE
RETURN CASE pg_catalog.jsonb_typeof($1)
	WHEN 'string' THEN $1 #>> '{}'
	WHEN 'number' THEN CASE WHEN $1::pg_catalog.text ~ '^-?[0-9]{1,19}$' THEN $1::pg_catalog.text ELSE '' END
	WHEN 'null' THEN NULL
	ELSE CASE WHEN $1 IS NOT NULL THEN '' END
END;
COMMENT ON FUNCTION coupon.api_text(jsonb) IS 'a string or an integer of a body as text; empty, which no argument may be, for anything else';

CREATE FUNCTION coupon.api_header(name text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	headers json := nullif(current_setting('request.headers', true), '');
BEGIN
	RETURN coalesce(headers ->> name, (SELECT h.value FROM json_each_text(headers) h WHERE lower(h.key) = name LIMIT 1));
END
$$;
COMMENT ON FUNCTION coupon.api_header(text) IS 'a header of the request, its name in lower case; null without it';

-- One function for all arguments: to call another, and to pin its search_path,
-- costs more than what it does.
CREATE FUNCTION coupon.api_target(
	user_key text, given_user text, campaign_key text, given_campaign text,
	OUT user_id text, OUT campaign_id bigint, OUT error jsonb)
RETURNS record
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	claim text;
BEGIN
	IF user_key IS NOT NULL THEN
		claim := nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub';
		user_id := coalesce(claim, given_user);
		CASE
			WHEN user_id IS NULL THEN
				error := coupon.api_error(400, 'missing', user_key || ' is missing.');
			WHEN octet_length(given_user) NOT BETWEEN 1 AND 256 THEN
				error := coupon.api_error(400, 'invalid', user_key || ' must be a text of 1 to 256 bytes, or an integer.');
			WHEN octet_length(claim) NOT BETWEEN 1 AND 256 THEN
				error := coupon.api_error(401, 'invalid_token', 'The token''s sub must be a text of 1 to 256 bytes.');
			WHEN claim <> given_user COLLATE "C" THEN
				error := coupon.api_error(403, 'other_user', user_key || ' is not the user of the token.');
			ELSE
		END CASE;
	END IF;
	IF campaign_key IS NULL OR error IS NOT NULL THEN
		RETURN;
	END IF;
	CASE
		WHEN given_campaign IS NULL THEN
			error := coupon.api_error(400, 'missing', campaign_key || ' is missing.');
		WHEN campaign_key = 'code' THEN
			IF octet_length(given_campaign) NOT BETWEEN 1 AND 256 THEN
				error := coupon.api_error(400, 'invalid', 'code must be a text of 1 to 256 bytes.');
			ELSE
				SELECT c.campaign_id INTO campaign_id FROM coupon.campaign c
				 WHERE c.name = given_campaign ORDER BY c.campaign_id DESC LIMIT 1;
			END IF;
		WHEN given_campaign !~ '^[0-9]{1,18}$' THEN
			error := coupon.api_error(400, 'invalid', campaign_key || ' must be an integer.');
		ELSE
			SELECT c.campaign_id INTO campaign_id FROM coupon.campaign c WHERE c.campaign_id = given_campaign::bigint;
	END CASE;
	IF campaign_id IS NULL AND error IS NULL THEN
		error := coupon.api_error(404, 'unknown_campaign', format('There is no campaign of this %s.', campaign_key));
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.api_target(text, text, text, text) IS
	'who asks: the verified claim sub, which a given user must be, or without a claim the given user; and for what: the newest campaign that has the code as its name, or for another key than code the one of that id';

CREATE FUNCTION coupon.api_issuance(campaign_id bigint, issuance coupon.issue_result) RETURNS jsonb
LANGUAGE sql STABLE
RETURN pg_catalog.jsonb_build_object('status', ($2).status, 'userId', ($2).user_id, 'couponId', $1, 'serial', ($2).serial,
	'code', ($2).code, 'issuedAt', ($2).issued_at, 'expiresAt', ($2).expires_at);
COMMENT ON FUNCTION coupon.api_issuance(bigint, coupon.issue_result) IS 'a unit as JSON';

-- PostgREST's transaction has nothing else to commit or roll back, so a
-- grouped call may run in it: of all calls, only those here.  It waits for
-- nobody; what it finds locked is busy, and issue-sync then waits as a direct
-- call does.
CREATE FUNCTION coupon.api_issue_now(route text, given_user text, code text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET coupon.allow_autonomous = on
AS $$
DECLARE
	target record;
	unit coupon.issue_result;
BEGIN
	target := coupon.api_target('userId', given_user, 'code', code);
	IF target.error IS NOT NULL THEN
		RETURN target.error;
	END IF;
	BEGIN
		unit := coupon.api_issue_grouped(target.campaign_id, target.user_id);
		IF unit.status = 'busy' AND route = 'issue_sync' THEN
			unit := coupon.api_issue(target.campaign_id, target.user_id);
		END IF;
	EXCEPTION
		WHEN lock_not_available OR deadlock_detected THEN
			RETURN coupon.api_refuse(route, 'busy');
		-- no worker, not preloaded, no memory for the map, stopped while a standby was waited for
		WHEN SQLSTATE 'UC020' OR SQLSTATE 'UC003' OR SQLSTATE 'UC007' OR statement_completion_unknown THEN
			RAISE LOG '% is unavailable: %', route, SQLERRM;
			RETURN coupon.api_refuse(route, 'unavailable');
	END;
	IF unit.status = 'issued' THEN
		RETURN coupon.api_answer(200, jsonb_build_object('data', coupon.api_issuance(target.campaign_id, unit)));
	END IF;
	RETURN coupon.api_refuse(route, unit.status,
		CASE WHEN unit.serial IS NOT NULL THEN coupon.api_issuance(target.campaign_id, unit) END);
END
$$;
COMMENT ON FUNCTION coupon.api_issue_now(text, text, text) IS 'the routes that answer at once; a unit is issued when they return, also if their transaction is rolled back';

-- Issuing at once
CREATE FUNCTION coupon_api.issue_sync("userId" text DEFAULT NULL, code text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '10s'
AS $$
BEGIN
	RETURN coupon.api_issue_now('issue_sync', $1, $2);
END
$$;
COMMENT ON FUNCTION coupon_api.issue_sync(text, text) IS
	'POST /coupons/issue-sync/{userId}?code= - 200, 409, 429 when busy; waits for what another transaction has locked';

CREATE FUNCTION coupon_api.issue_optimistic("userId" text DEFAULT NULL, code text DEFAULT NULL) RETURNS jsonb
LANGUAGE sql VOLATILE
RETURN coupon.api_issue_now('issue_optimistic', $1, $2);
COMMENT ON FUNCTION coupon_api.issue_optimistic(text, text) IS
	'POST /coupons/issue-optimistic/{userId}?code= - 200, 409, 423 when busy; waits for no other transaction';

-- Issuing later
CREATE FUNCTION coupon_api.issue_async("userId" text DEFAULT NULL, code text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	target record;
	request coupon.request_result;
BEGIN
	target := coupon.api_target('userId', $1, 'code', $2);
	IF target.error IS NOT NULL THEN
		RETURN target.error;
	END IF;
	request := coupon.api_request(target.campaign_id, target.user_id);
	IF request.status = 'REFUSED' THEN
		RETURN coupon.api_refuse('issue_async', request.outcome);
	END IF;
	RETURN coupon.api_answer(202, jsonb_build_object('data', jsonb_build_object('requestId', request.request_id)));
END
$$;
COMMENT ON FUNCTION coupon_api.issue_async(text, text) IS
	'POST /coupons/issue-async/{userId}?code= - 202 with the requestId, 409; a request that waits already is the same request';

CREATE FUNCTION coupon_api.issue_status("userId" text DEFAULT NULL, code text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	target record;
	request coupon.request_result;
BEGIN
	target := coupon.api_target('userId', $1, 'code', $2);
	IF target.error IS NOT NULL THEN
		RETURN target.error;
	END IF;
	request := coupon.api_request_status_of(target.campaign_id, target.user_id);
	RETURN coupon.api_answer(200, jsonb_build_object('data',
		jsonb_build_object('status', request.status, 'queuePosition', coalesce(request.queue_position, 0))));
END
$$;
COMMENT ON FUNCTION coupon_api.issue_status(text, text) IS
	'GET /coupons/issue-status/{userId}?code= - WAITING, COMPLETED or NOT_REQUESTED, and the position';

CREATE FUNCTION coupon_api.issue_result("requestId" text DEFAULT NULL, "userId" text DEFAULT NULL, code text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	target record;
	request coupon.request_result;
	unit coupon.issue_result;
	success boolean;
BEGIN
	IF "requestId" IS NULL THEN
		target := coupon.api_target('userId', $2, 'code', $3);
		IF target.error IS NOT NULL THEN
			RETURN target.error;
		END IF;
		request := coupon.api_request_status_of(target.campaign_id, target.user_id);
	ELSIF "requestId" !~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' THEN
		RETURN coupon.api_error(400, 'invalid', 'requestId must be a UUID.');
	ELSE
		request := coupon.api_request_status("requestId"::uuid);
	END IF;
	IF request.status <> 'COMPLETED' THEN
		RETURN coupon.api_answer(404, jsonb_build_object('data',
			jsonb_build_object('processed', false, 'success', false, 'status', request.status)));
	END IF;
	success := coalesce(request.outcome = 'issued', false);
	unit := request.issuance;
	-- who knows the id of another user's request is told its outcome, and no code
	target := coupon.api_target('userId', unit.user_id, NULL, NULL);
	IF target.error IS NOT NULL THEN
		unit := NULL;
	END IF;
	RETURN coupon.api_answer(200, jsonb_build_object('data', jsonb_build_object(
		'processed', true, 'success', success, 'outcome', request.outcome, 'serial', unit.serial, 'code', unit.code)));
END
$$;
COMMENT ON FUNCTION coupon_api.issue_result(text, text, text) IS
	'GET /coupons/issue-result/{requestId}, /coupons/issue-result/{userId}?code= - 200 when decided, 404 before';

CREATE FUNCTION coupon_api.issue(
	"userId" jsonb DEFAULT NULL,
	"couponId" jsonb DEFAULT NULL,
	"policyId" jsonb DEFAULT NULL,
	"typeSnapshot" jsonb DEFAULT NULL,
	"discountRateSnapshot" jsonb DEFAULT NULL,
	"discountAmountSnapshot" jsonb DEFAULT NULL,
	"minimumOrderAmountSnapshot" jsonb DEFAULT NULL,
	"usagePeriodSnapshot" jsonb DEFAULT NULL,
	"expiredAt" jsonb DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	target record;
	request coupon.request_result;
BEGIN
	target := coupon.api_target('userId', coupon.api_text($1), 'couponId', coupon.api_text($2));
	IF target.error IS NOT NULL THEN
		RETURN target.error;
	END IF;
	request := coupon.api_request(target.campaign_id, target.user_id);
	-- for this route a repetition is no error: what was asked for is so
	IF request.status = 'REFUSED' AND request.outcome <> 'already_issued' THEN
		RETURN coupon.api_refuse('issue', request.outcome);
	END IF;
	RETURN coupon.api_answer(202, jsonb_build_object('data', jsonb_build_object('requestId', request.request_id,
		'status', CASE request.status WHEN 'REFUSED' THEN 'COMPLETED' ELSE request.status END, 'outcome', request.outcome)));
END
$$;
COMMENT ON FUNCTION coupon_api.issue(jsonb, jsonb, jsonb, jsonb, jsonb, jsonb, jsonb, jsonb, jsonb) IS
	'POST /coupon/issue - 202, also for who has a unit or waits; 409; the snapshots are not read, the campaign''s policy holds';

CREATE FUNCTION coupon_api.issue_fcfs("couponId" text DEFAULT NULL, "publicId" text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	target record;
	request coupon.request_result;
	began timestamptz := clock_timestamp();
BEGIN
	target := coupon.api_target('publicId', $2, 'couponId', $1);
	IF target.error IS NOT NULL THEN
		RETURN target.error;
	END IF;
	request := coupon.api_request(target.campaign_id, target.user_id);
	IF request.status = 'REFUSED' THEN
		RETURN coupon.api_refuse('issue_fcfs', request.outcome);
	END IF;
	-- of two clicks at once the later one gets the other's request, which is
	-- not older than its own call, but then this transaction has written nothing
	IF request.requested_at < began OR pg_current_xact_id_if_assigned() IS NULL THEN
		RETURN coupon.api_refuse('issue_fcfs', 'requested', jsonb_build_object('requestId', request.request_id));
	END IF;
	RETURN coupon.api_answer(202, jsonb_build_object('requestId', request.request_id, 'message', 'The request is accepted.',
		'remainingStock', (SELECT greatest(c.remaining - c.depth, 0) FROM coupon.api_counts(target.campaign_id) c)));
END
$$;
COMMENT ON FUNCTION coupon_api.issue_fcfs(text, text) IS
	'POST /api/coupons/{couponId}/issue-fcfs/{publicId} - 202 with the requestId and the stock that nobody waits for, 409 for a duplicate, 400 when sold out';

-- Administration
CREATE FUNCTION coupon_api.admin_coupon_policies(code jsonb DEFAULT NULL, "maxCount" jsonb DEFAULT NULL, "discountRate" jsonb DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	campaign_name text := coupon.api_text($1);
	stock text := coupon.api_text($2);
	rate numeric;
	id bigint;
BEGIN
	IF campaign_name IS NULL OR stock IS NULL OR coalesce(jsonb_typeof($3), 'null') = 'null' THEN
		RETURN coupon.api_error(400, 'missing', 'code, maxCount and discountRate are needed.');
	END IF;
	IF octet_length(campaign_name) NOT BETWEEN 1 AND 256 THEN
		RETURN coupon.api_error(400, 'invalid', 'code must be a text of 1 to 256 bytes.');
	END IF;
	IF stock !~ '^[0-9]{1,9}$' OR stock::bigint NOT BETWEEN 1 AND 100000000 THEN
		RETURN coupon.api_error(400, 'invalid', 'maxCount must be an integer from 1 to 100000000.');
	END IF;
	rate := CASE jsonb_typeof($3) WHEN 'number' THEN $3::numeric END;
	IF rate IS NULL OR rate <= 0 OR rate > 100 THEN
		RETURN coupon.api_error(400, 'invalid', 'discountRate must be a number above 0, up to 100.');
	END IF;
	-- one at a time for a code, so that a code does not come to mean two sales
	PERFORM pg_advisory_xact_lock(hashtextextended('coupon_api ' || campaign_name, 0));
	IF EXISTS (SELECT FROM coupon.campaign c
	            WHERE c.name = campaign_name AND c.closed_at IS NULL
	              AND (c.closes_at IS NULL OR c.closes_at > clock_timestamp())) THEN
		RETURN coupon.api_error(409, 'exists', 'There is a campaign of this code that is not closed.');
	END IF;
	BEGIN
		id := coupon.api_campaign_create(campaign_name, stock::bigint, jsonb_build_object('kind', 'RATE', 'rate', $3));
	EXCEPTION
		WHEN invalid_parameter_value THEN
			RETURN coupon.api_error(400, 'invalid', 'discountRate has too many digits.');
	END;
	RETURN coupon.api_answer(201, jsonb_build_object('couponId', id, 'code', campaign_name, 'maxCount', stock::bigint, 'discountRate', $3));
END
$$;
COMMENT ON FUNCTION coupon_api.admin_coupon_policies(jsonb, jsonb, jsonb) IS
	'POST /admin/coupon-policies - 201 with the couponId, 409 while a campaign of the code is not closed';

CREATE FUNCTION coupon_api.admin_coupon_status(code text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	campaign record;
BEGIN
	campaign := coupon.api_target(NULL, NULL, 'code', $1);
	IF campaign.error IS NOT NULL THEN
		RETURN campaign.error;
	END IF;
	RETURN coupon.api_answer(200, jsonb_build_object('issuedCount', (coupon.api_counts(campaign.campaign_id)).issued));
END
$$;
COMMENT ON FUNCTION coupon_api.admin_coupon_status(text) IS 'GET /admin/coupons/{code}/status - how many are issued';

CREATE FUNCTION coupon_api.admin_queue_status(code text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	campaign record;
BEGIN
	campaign := coupon.api_target(NULL, NULL, 'code', $1);
	IF campaign.error IS NOT NULL THEN
		RETURN campaign.error;
	END IF;
	RETURN coupon.api_answer(200, jsonb_build_object(
		'queueSize', (coupon.api_counts(campaign.campaign_id)).depth,
		'processingCount', (coupon.api_counts(campaign.campaign_id)).in_flight));
END
$$;
COMMENT ON FUNCTION coupon_api.admin_queue_status(text) IS
	'GET /admin/redis/queue-status?code= - the requests that wait, and the units that are being issued';

-- The waiting room

-- Before a draw nobody has a place; a client takes anything but a number
-- above 0 for admission.
CREATE FUNCTION coupon.api_order(ticket coupon.queue_result) RETURNS bigint
LANGUAGE sql STABLE
RETURN CASE ($1).status WHEN 'ADMITTED' THEN 0 ELSE coalesce(($1).queue_position, 2147483647) END;
COMMENT ON FUNCTION coupon.api_order(coupon.queue_result) IS 'the place in the line, 0: admitted, 2147483647: the lots are not drawn yet';

CREATE FUNCTION coupon_api.queue_enqueue("userId" jsonb DEFAULT NULL, room jsonb DEFAULT '"default"') RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	who record;
	room_name text := coalesce(coupon.api_text($2), 'default');
	ticket coupon.queue_result;
BEGIN
	who := coupon.api_target('userId', coupon.api_text($1), NULL, NULL);
	IF who.error IS NOT NULL THEN
		RETURN who.error;
	END IF;
	IF octet_length(room_name) NOT BETWEEN 1 AND 256 THEN
		RETURN coupon.api_error(400, 'invalid', 'room must be a text of 1 to 256 bytes.');
	END IF;
	BEGIN
		ticket := coupon.api_queue_join(room_name, who.user_id);
	EXCEPTION
		WHEN SQLSTATE 'UC202' THEN
			RETURN coupon.api_error(404, 'unknown_room', 'There is no room of this name.');
		WHEN SQLSTATE 'UC201' OR SQLSTATE 'UC003' THEN
			RAISE LOG 'queue_enqueue is unavailable: %', SQLERRM;
			RETURN coupon.api_refuse('queue_enqueue', 'unavailable');
	END;
	IF ticket.token IS NULL THEN
		RETURN coupon.api_error(503, 'rejected', 'The room lets nobody in.');
	END IF;
	PERFORM coupon.api_headers(jsonb_build_object('X-Access-Token', ticket.token));
	RETURN coupon.api_answer(201, jsonb_build_object('status', ticket.status, 'order', coupon.api_order(ticket)));
END
$$;
COMMENT ON FUNCTION coupon_api.queue_enqueue(jsonb, jsonb) IS
	'POST /queues/enqueue - 201 with the header X-Access-Token; the room is the one named default';

CREATE FUNCTION coupon_api.queue_order() RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	token text := coupon.api_header('x-access-token');
	ticket coupon.queue_result;
BEGIN
	IF coalesce(token, '') = '' THEN
		RETURN coupon.api_error(400, 'missing', 'The header X-Access-Token is missing.');
	END IF;
	IF token !~ '^[1-9][0-9]{0,17}[.][1-9][0-9]{0,17}[.][0-9a-f]{32}$' THEN
		RETURN coupon.api_error(400, 'invalid', 'X-Access-Token is not a token.');
	END IF;
	ticket := coupon.api_queue_position(token);
	IF ticket.status = 'GONE' THEN
		RETURN coupon.api_error(401, 'gone', 'The ticket has ended: enter the queue again.');
	END IF;
	IF ticket.poll_after IS NOT NULL THEN
		PERFORM coupon.api_headers(jsonb_build_object('Retry-After', ceil(extract(epoch FROM ticket.poll_after))::text));
	END IF;
	RETURN coupon.api_answer(200, jsonb_build_object('order', coupon.api_order(ticket)));
END
$$;
COMMENT ON FUNCTION coupon_api.queue_order() IS
	'GET /queues/order - the place in the line of the ticket in X-Access-Token, 0: admitted';
