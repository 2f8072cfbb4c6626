-- The routes of the services that coupon was measured against, for PostgREST
-- or any front that calls functions as it does.  After roles.sql and http.sql,
-- as a superuser; may be run again:
--
--	psql -d shop -f api.sql
--
-- A route is a function of schema coupon_api; it answers JSON and sets
-- response.status and response.headers.  What routes share is in schemas
-- sources and web, which are not exposed.  Bodies arrive as jsonb, so that a
-- wrong type is seen; parts of a path or a query as text.  What can be reached
-- by GET is STABLE, since it is run in READ ONLY.
--
-- Routes run with the rights of coupon_web_owner; who may call them needs no
-- other right.  The extension is in schema public.

\set ON_ERROR_STOP on
\set QUIET on
BEGIN;
SET LOCAL client_min_messages = warning;
-- so that its setting is known, which one of the functions sets
LOAD 'coupon';

SELECT format('CREATE SCHEMA %I AUTHORIZATION coupon_web_owner', s) FROM unnest(ARRAY['sources', 'coupon_api']) s WHERE to_regnamespace(s) IS NULL \gexec
SET LOCAL ROLE coupon_web_owner;
COMMENT ON SCHEMA sources IS 'shared by the routes of coupon_api; not exposed';
COMMENT ON SCHEMA coupon_api IS 'the HTTP routes of the services that coupon was measured against';

CREATE OR REPLACE FUNCTION sources.counts(
	campaign_id bigint, OUT issued bigint, OUT in_flight bigint, OUT remaining bigint, OUT depth bigint)
RETURNS record
LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT s.issued, s.in_flight, s.remaining, coalesce(q.depth, 0)
	  FROM public.coupon_status($1) s LEFT JOIN public.coupon_request_queue($1) q ON true;
END;
COMMENT ON FUNCTION sources.counts(bigint) IS 'of coupon_status() and coupon_request_queue(), for routes';

CREATE OR REPLACE FUNCTION sources.refuse(route text, outcome text, data jsonb DEFAULT NULL) RETURNS jsonb
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
	message text := CASE outcome
		WHEN 'sold_out' THEN 'Nothing is left.'
		WHEN 'already_issued' THEN 'The user has it already.'
		WHEN 'held' THEN 'The user holds a unit, and has not paid for it yet.'
		WHEN 'requested' THEN 'The user''s request waits already.'
		WHEN 'busy' THEN 'The user, or the last units, are in another transaction: try again.'
		WHEN 'full' THEN 'Too many requests wait: try again.'
		WHEN 'not_open' THEN 'The sale has not begun.'
		WHEN 'paused' THEN 'The sale is paused.'
		WHEN 'closed' THEN 'The sale is over.'
		WHEN 'not_admitted' THEN 'The waiting room has not admitted the user.'
		WHEN 'unavailable' THEN 'The service is not available at the moment: try again.'
		ELSE outcome
	END;
BEGIN
	IF outcome IN ('busy', 'full', 'unavailable') THEN
		PERFORM web.headers('{"Retry-After": "1"}');
	END IF;
	RETURN web.error(status, outcome, message, data);
END
$$;
COMMENT ON FUNCTION sources.refuse(text, text, jsonb) IS 'the error that an outcome is on a route';

CREATE OR REPLACE FUNCTION sources.target(
	user_key text, given_user text, campaign_key text, given_campaign text,
	OUT user_id text, OUT campaign_id bigint, OUT error jsonb)
RETURNS record
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF user_key IS NOT NULL THEN
		SELECT c.user_id, c.error INTO user_id, error FROM web.caller(user_key, given_user) c;
	END IF;
	IF error IS NOT NULL THEN
		RETURN;
	END IF;
	CASE
		WHEN given_campaign IS NULL THEN
			error := web.error(400, 'missing', campaign_key || ' is missing.');
		WHEN campaign_key = 'code' THEN
			IF octet_length(given_campaign) NOT BETWEEN 1 AND 256 THEN
				error := web.error(400, 'invalid', 'code must be a text of 1 to 256 bytes.');
			ELSE
				SELECT c.campaign_id INTO campaign_id FROM coupon.campaign c
				 WHERE c.name = given_campaign ORDER BY c.campaign_id DESC LIMIT 1;
			END IF;
		WHEN given_campaign !~ '^[0-9]{1,18}$' THEN
			error := web.error(400, 'invalid', campaign_key || ' must be an integer.');
		ELSE
			-- a client that has an id built in is served by a campaign of that name
			SELECT c.campaign_id INTO campaign_id FROM coupon.campaign c
			 WHERE c.name = given_campaign ORDER BY c.campaign_id DESC LIMIT 1;
			IF NOT FOUND THEN
				SELECT c.campaign_id INTO campaign_id FROM coupon.campaign c WHERE c.campaign_id = given_campaign::bigint;
			END IF;
	END CASE;
	IF campaign_id IS NULL AND error IS NULL THEN
		error := web.error(404, 'unknown_campaign', format('There is no campaign of this %s.', campaign_key));
	END IF;
END
$$;
COMMENT ON FUNCTION sources.target(text, text, text, text) IS
	'who asks, and for what: the newest campaign that has the code as its name, or for another key than code the one of that name or id';

CREATE OR REPLACE FUNCTION sources.issuance(campaign_id bigint, issuance coupon.issue_result) RETURNS jsonb
LANGUAGE sql STABLE
RETURN pg_catalog.jsonb_build_object('status', ($2).status, 'userId', ($2).user_id, 'couponId', $1, 'serial', ($2).serial,
	'code', ($2).code, 'issuedAt', ($2).issued_at, 'expiresAt', ($2).expires_at);
COMMENT ON FUNCTION sources.issuance(bigint, coupon.issue_result) IS 'a unit as JSON';

-- PostgREST's transaction has nothing else to commit or roll back, so a
-- grouped call may run in it: of all calls, only those here.  It waits for
-- nobody; what it finds locked is busy, and issue-sync then waits as a direct
-- call does.
CREATE OR REPLACE FUNCTION sources.issue_now(route text, given_user text, code text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET coupon.allow_autonomous = on
AS $$
DECLARE
	target record;
	unit coupon.issue_result;
BEGIN
	target := sources.target('userId', given_user, 'code', code);
	IF target.error IS NOT NULL THEN
		RETURN target.error;
	END IF;
	BEGIN
		unit := public.coupon_issue_grouped(target.campaign_id, target.user_id);
		IF unit.status = 'busy' AND route = 'issue_sync' THEN
			unit := public.coupon_issue(target.campaign_id, target.user_id);
		END IF;
	EXCEPTION
		WHEN lock_not_available OR deadlock_detected THEN
			RETURN sources.refuse(route, 'busy');
		-- no worker, not preloaded, no memory for the map, stopped while a standby was waited for
		WHEN SQLSTATE 'UC020' OR SQLSTATE 'UC003' OR SQLSTATE 'UC007' OR statement_completion_unknown THEN
			RAISE LOG '% is unavailable: %', route, SQLERRM;
			RETURN sources.refuse(route, 'unavailable');
	END;
	IF unit.status = 'issued' THEN
		RETURN web.answer(200, jsonb_build_object('data', sources.issuance(target.campaign_id, unit)));
	END IF;
	RETURN sources.refuse(route, unit.status,
		CASE WHEN unit.serial IS NOT NULL THEN sources.issuance(target.campaign_id, unit) END);
END
$$;
COMMENT ON FUNCTION sources.issue_now(text, text, text) IS 'the routes that answer at once; a unit is issued when they return, also if their transaction is rolled back';

-- Issuing at once
CREATE OR REPLACE FUNCTION coupon_api.issue_sync("userId" text DEFAULT NULL, code text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '10s'
AS $$
BEGIN
	RETURN sources.issue_now('issue_sync', $1, $2);
END
$$;
COMMENT ON FUNCTION coupon_api.issue_sync(text, text) IS
	'POST /coupons/issue-sync/{userId}?code= - 200 the unit, 409 sold out or had already or not open, 429 busy, 403 not admitted, 503 unavailable, 404 unknown campaign; waits for what another transaction has locked';

CREATE OR REPLACE FUNCTION coupon_api.issue_optimistic("userId" text DEFAULT NULL, code text DEFAULT NULL) RETURNS jsonb
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN sources.issue_now('issue_optimistic', $1, $2);
COMMENT ON FUNCTION coupon_api.issue_optimistic(text, text) IS
	'POST /coupons/issue-optimistic/{userId}?code= - 200 the unit, 409 sold out or had already or not open, 423 busy, 403 not admitted, 503 unavailable, 404 unknown campaign; waits for no other transaction';

-- Issuing later
CREATE OR REPLACE FUNCTION coupon_api.issue_async("userId" text DEFAULT NULL, code text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	target record;
	request coupon.request_result;
BEGIN
	target := sources.target('userId', $1, 'code', $2);
	IF target.error IS NOT NULL THEN
		RETURN target.error;
	END IF;
	request := public.coupon_request(target.campaign_id, target.user_id);
	IF request.status = 'REFUSED' THEN
		RETURN sources.refuse('issue_async', request.outcome);
	END IF;
	RETURN web.answer(202, jsonb_build_object('data', jsonb_build_object('requestId', request.request_id)));
END
$$;
COMMENT ON FUNCTION coupon_api.issue_async(text, text) IS
	'POST /coupons/issue-async/{userId}?code=, /coupons/issue/{userId}?code= - 202 with the requestId, 409 sold out or had already or not open, 403 not admitted, 429 too many wait, 404 unknown campaign; a request that waits already is the same request';

CREATE OR REPLACE FUNCTION coupon_api.issue_status("userId" text DEFAULT NULL, code text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	target record;
	request coupon.request_result;
BEGIN
	target := sources.target('userId', $1, 'code', $2);
	IF target.error IS NOT NULL THEN
		RETURN target.error;
	END IF;
	request := public.coupon_request_status_of(target.campaign_id, target.user_id);
	RETURN web.answer(200, jsonb_build_object('data',
		jsonb_build_object('status', request.status, 'queuePosition', coalesce(request.queue_position, 0))));
END
$$;
COMMENT ON FUNCTION coupon_api.issue_status(text, text) IS
	'GET /coupons/issue-status/{userId}?code= - 200 WAITING or COMPLETED or NOT_REQUESTED, 404 unknown campaign';

CREATE OR REPLACE FUNCTION coupon_api.issue_result("requestId" text DEFAULT NULL, "userId" text DEFAULT NULL, code text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	target record;
	request coupon.request_result;
	unit coupon.issue_result;
	success boolean;
BEGIN
	-- /coupons/issue-result/{requestId} has it in the user's place
	IF code IS NULL AND "requestId" IS NULL AND "userId" ~ '^[0-9a-fA-F]{8}-' THEN
		"requestId" := "userId";
	END IF;
	IF coalesce("requestId", '') = '' THEN
		target := sources.target('userId', $2, 'code', $3);
		IF target.error IS NOT NULL THEN
			RETURN target.error;
		END IF;
		request := public.coupon_request_status_of(target.campaign_id, target.user_id);
	ELSIF "requestId" !~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' THEN
		RETURN web.error(400, 'invalid', 'requestId must be a UUID.');
	ELSE
		request := public.coupon_request_status("requestId"::uuid);
	END IF;
	IF request.status <> 'COMPLETED' THEN
		RETURN web.answer(404, jsonb_build_object('data',
			jsonb_build_object('processed', false, 'success', false, 'status', request.status)));
	END IF;
	success := coalesce(request.outcome = 'issued', false);
	unit := request.issuance;
	-- who knows the id of another user's request is told its outcome, and no code
	IF (web.caller('userId', unit.user_id)).error IS NOT NULL THEN
		unit := NULL;
	END IF;
	RETURN web.answer(200, jsonb_build_object('data', jsonb_build_object(
		'processed', true, 'success', success, 'outcome', request.outcome, 'serial', unit.serial, 'code', unit.code)));
END
$$;
COMMENT ON FUNCTION coupon_api.issue_result(text, text, text) IS
	'GET /coupons/issue-result/{requestId}, /coupons/issue-result/{userId}?code=, /coupons/result/{userId}?code=&requestId= - 200 when decided, 404 before';

CREATE OR REPLACE FUNCTION coupon_api.issue(
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
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	target record;
	request coupon.request_result;
BEGIN
	target := sources.target('userId', web.value($1), 'couponId', web.value($2));
	IF target.error IS NOT NULL THEN
		RETURN target.error;
	END IF;
	request := public.coupon_request(target.campaign_id, target.user_id);
	-- for this route a repetition is no error: what was asked for is so
	IF request.status = 'REFUSED' AND request.outcome <> 'already_issued' THEN
		RETURN sources.refuse('issue', request.outcome);
	END IF;
	RETURN web.answer(202, jsonb_build_object('data', jsonb_build_object('requestId', request.request_id,
		'status', CASE request.status WHEN 'REFUSED' THEN 'COMPLETED' ELSE request.status END, 'outcome', request.outcome)));
END
$$;
COMMENT ON FUNCTION coupon_api.issue(jsonb, jsonb, jsonb, jsonb, jsonb, jsonb, jsonb, jsonb, jsonb) IS
	'POST /coupon/issue - 202 also for who has a unit or waits, 409 sold out or not open, 403 not admitted, 429 too many wait, 404 unknown campaign; the snapshots are not read, the campaign''s policy holds';

CREATE OR REPLACE FUNCTION coupon_api.issue(json) RETURNS jsonb
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN web.unknown_argument('coupon_api.issue(jsonb, jsonb, jsonb, jsonb, jsonb, jsonb, jsonb, jsonb, jsonb)', $1::jsonb);
COMMENT ON FUNCTION coupon_api.issue(json) IS 'POST /coupon/issue with an argument that there is not - 400';

CREATE OR REPLACE FUNCTION coupon_api.issue_fcfs("couponId" text DEFAULT NULL, "publicId" text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	target record;
	request coupon.request_result;
BEGIN
	target := sources.target('publicId', $2, 'couponId', $1);
	IF target.error IS NOT NULL THEN
		RETURN target.error;
	END IF;
	request := public.coupon_request(target.campaign_id, target.user_id);
	IF request.status = 'REFUSED' THEN
		RETURN sources.refuse('issue_fcfs', request.outcome);
	END IF;
	IF request.repeated THEN
		RETURN sources.refuse('issue_fcfs', 'requested', jsonb_build_object('requestId', request.request_id));
	END IF;
	RETURN web.answer(202, jsonb_build_object('requestId', request.request_id, 'message', 'The request is accepted.',
		'remainingStock', (SELECT greatest(c.remaining - c.depth, 0) FROM sources.counts(target.campaign_id) c)));
END
$$;
COMMENT ON FUNCTION coupon_api.issue_fcfs(text, text) IS
	'POST /api/coupons/{couponId}/issue-fcfs/{publicId} - 202 with the requestId and the stock that nobody waits for, 409 for a duplicate, 400 when sold out, 403 not admitted, 429 too many wait, 404 unknown campaign';

-- Administration
CREATE OR REPLACE FUNCTION coupon_api.admin_coupon_policies(code jsonb DEFAULT NULL, "maxCount" jsonb DEFAULT NULL, "discountRate" jsonb DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	campaign_name text := web.value($1);
	stock text := web.value($2);
	rate numeric;
	id bigint;
BEGIN
	IF campaign_name IS NULL OR stock IS NULL OR coalesce(jsonb_typeof($3), 'null') = 'null' THEN
		RETURN web.error(400, 'missing', 'code, maxCount and discountRate are needed.');
	END IF;
	IF octet_length(campaign_name) NOT BETWEEN 1 AND 256 THEN
		RETURN web.error(400, 'invalid', 'code must be a text of 1 to 256 bytes.');
	END IF;
	IF stock !~ '^[0-9]{1,9}$' OR stock::bigint NOT BETWEEN 1 AND 100000000 THEN
		RETURN web.error(400, 'invalid', 'maxCount must be an integer from 1 to 100000000.');
	END IF;
	rate := CASE jsonb_typeof($3) WHEN 'number' THEN $3::numeric END;
	IF rate IS NULL OR rate <= 0 OR rate > 100 OR scale(trim_scale(rate)) > 6 THEN
		RETURN web.error(400, 'invalid', 'discountRate must be a number above 0, up to 100, with 6 decimal places at most.');
	END IF;
	-- one at a time for a code, so that a code does not come to mean two sales
	PERFORM pg_advisory_xact_lock(hashtextextended('coupon_api ' || campaign_name, 0));
	IF EXISTS (SELECT FROM coupon.campaign c
	            WHERE c.name = campaign_name AND c.closed_at IS NULL
	              AND (c.closes_at IS NULL OR c.closes_at > clock_timestamp())) THEN
		RETURN web.error(409, 'exists', 'There is a campaign of this code that is not closed.');
	END IF;
	rate := trim_scale(rate);
	id := public.coupon_campaign_create(campaign_name, stock::bigint, policy => jsonb_build_object('kind', 'RATE', 'rate', rate));
	RETURN web.answer(201, jsonb_build_object('couponId', id, 'code', campaign_name, 'maxCount', stock::bigint, 'discountRate', rate));
END
$$;
COMMENT ON FUNCTION coupon_api.admin_coupon_policies(jsonb, jsonb, jsonb) IS
	'POST /admin/coupon-policies - 201 with the couponId, 409 while a campaign of the code is not closed';

CREATE OR REPLACE FUNCTION coupon_api.admin_coupon_policies(json) RETURNS jsonb
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN web.unknown_argument('coupon_api.admin_coupon_policies(jsonb, jsonb, jsonb)', $1::jsonb);
COMMENT ON FUNCTION coupon_api.admin_coupon_policies(json) IS 'POST /admin/coupon-policies with an argument that there is not - 400';

CREATE OR REPLACE FUNCTION coupon_api.admin_coupon_status(code text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	campaign record;
BEGIN
	campaign := sources.target(NULL, NULL, 'code', $1);
	IF campaign.error IS NOT NULL THEN
		RETURN campaign.error;
	END IF;
	RETURN web.answer(200, jsonb_build_object('issuedCount', (sources.counts(campaign.campaign_id)).issued));
END
$$;
COMMENT ON FUNCTION coupon_api.admin_coupon_status(text) IS 'GET /admin/coupons/{code}/status - 200 how many are issued, 404 unknown campaign';

CREATE OR REPLACE FUNCTION coupon_api.admin_queue_status(code text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	campaign record;
BEGIN
	campaign := sources.target(NULL, NULL, 'code', $1);
	IF campaign.error IS NOT NULL THEN
		RETURN campaign.error;
	END IF;
	RETURN web.answer(200, jsonb_build_object(
		'queueSize', (sources.counts(campaign.campaign_id)).depth,
		'processingCount', (sources.counts(campaign.campaign_id)).in_flight));
END
$$;
COMMENT ON FUNCTION coupon_api.admin_queue_status(text) IS
	'GET /admin/redis/queue-status?code= - 200 the requests that wait and the units that are being issued, 404 unknown campaign';

-- The waiting room

-- Before a draw nobody has a place; a client takes anything but a number
-- above 0 for admission.
CREATE OR REPLACE FUNCTION sources.place(ticket coupon.queue_result) RETURNS bigint
LANGUAGE sql STABLE
RETURN CASE ($1).status WHEN 'ADMITTED' THEN 0 ELSE coalesce(($1).queue_position, 2147483647) END;
COMMENT ON FUNCTION sources.place(coupon.queue_result) IS 'the place in the line, 0: admitted, 2147483647: the lots are not drawn yet';

CREATE OR REPLACE FUNCTION coupon_api.queue_enqueue("userId" jsonb DEFAULT NULL, room jsonb DEFAULT '"default"') RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	who record;
	room_name text := coalesce(web.value($2), 'default');
	ticket coupon.queue_result;
BEGIN
	who := web.caller('userId', web.value($1));
	IF who.error IS NOT NULL THEN
		RETURN who.error;
	END IF;
	IF octet_length(room_name) NOT BETWEEN 1 AND 256 THEN
		RETURN web.error(400, 'invalid', 'room must be a text of 1 to 256 bytes.');
	END IF;
	BEGIN
		ticket := public.coupon_queue_join(room_name, who.user_id);
	EXCEPTION
		WHEN SQLSTATE 'UC202' THEN
			RETURN web.error(404, 'unknown_room', 'There is no room of this name.');
		WHEN SQLSTATE 'UC201' OR SQLSTATE 'UC003' THEN
			RAISE LOG 'queue_enqueue is unavailable: %', SQLERRM;
			RETURN sources.refuse('queue_enqueue', 'unavailable');
	END;
	IF ticket.token IS NULL THEN
		RETURN web.error(503, 'rejected', 'The room lets nobody in.');
	END IF;
	PERFORM web.headers(jsonb_build_object('X-Access-Token', ticket.token));
	RETURN web.answer(201, jsonb_build_object('status', ticket.status, 'order', sources.place(ticket)));
END
$$;
COMMENT ON FUNCTION coupon_api.queue_enqueue(jsonb, jsonb) IS
	'POST /queues/enqueue - 201 with the header X-Access-Token, 404 unknown room, 503 the room lets nobody in; the room is the one named default';

CREATE OR REPLACE FUNCTION coupon_api.queue_enqueue(json) RETURNS jsonb
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN web.unknown_argument('coupon_api.queue_enqueue(jsonb, jsonb)', $1::jsonb);
COMMENT ON FUNCTION coupon_api.queue_enqueue(json) IS 'POST /queues/enqueue with an argument that there is not - 400';

CREATE OR REPLACE FUNCTION coupon_api.queue_order() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	given record := web.ticket();
	ticket coupon.queue_result;
BEGIN
	IF given.error IS NOT NULL THEN
		RETURN given.error;
	END IF;
	ticket := public.coupon_queue_position(given.token);
	IF ticket.status = 'GONE' THEN
		RETURN web.error(401, 'gone', 'The ticket has ended: enter the queue again.');
	END IF;
	IF ticket.poll_after IS NOT NULL THEN
		PERFORM web.headers(jsonb_build_object('Retry-After', ceil(extract(epoch FROM ticket.poll_after))::text));
	END IF;
	RETURN web.answer(200, jsonb_build_object('order', sources.place(ticket)));
END
$$;
COMMENT ON FUNCTION coupon_api.queue_order() IS
	'GET /queues/order - 200 the place in the line of the ticket in X-Access-Token (0: admitted), 401 the ticket has ended';

-- The broker, for the service that issues by events

CREATE OR REPLACE FUNCTION coupon_api.admin_kafka_health() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	broker text := (public.coupon_outbox_status(false)).broker;
BEGIN
	RETURN web.answer(200, jsonb_build_object('status', CASE WHEN broker = 'up' THEN 'UP' ELSE 'DOWN' END, 'broker', broker));
END
$$;
COMMENT ON FUNCTION coupon_api.admin_kafka_health() IS 'GET /admin/kafka/health - 200 UP while there is a broker';

CREATE OR REPLACE FUNCTION coupon_api.admin_kafka_status() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	outbox record;
BEGIN
	SELECT * INTO outbox FROM public.coupon_outbox_status(false);
	RETURN web.answer(200, jsonb_build_object('broker', outbox.broker, 'unpublished', coalesce(outbox.unpublished, 0),
		'lagSeconds', coalesce(round(extract(epoch FROM outbox.oldest_age), 3), 0),
		'published', coalesce(outbox.published, 0), 'deadLetters', outbox.dead_letters));
END
$$;
COMMENT ON FUNCTION coupon_api.admin_kafka_status() IS 'GET /admin/kafka/status - 200 the broker and what it has yet to be told';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA sources, coupon_api FROM PUBLIC;
GRANT USAGE ON SCHEMA coupon_api TO coupon_service, coupon_admin, coupon_web_user;
GRANT EXECUTE ON FUNCTION coupon_api.issue_sync(text, text), coupon_api.issue_optimistic(text, text),
	coupon_api.issue_async(text, text), coupon_api.issue_status(text, text), coupon_api.issue_result(text, text, text),
	coupon_api.issue(jsonb, jsonb, jsonb, jsonb, jsonb, jsonb, jsonb, jsonb, jsonb), coupon_api.issue(json), coupon_api.issue_fcfs(text, text),
	coupon_api.queue_enqueue(jsonb, jsonb), coupon_api.queue_enqueue(json), coupon_api.queue_order() TO coupon_service, coupon_web_user;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA coupon_api TO coupon_admin;

COMMIT;
