-- What PostgREST does around a call, in one statement: the ticket in a header,
-- a role, the route, its status.  Each of these is one call of source 001.
CREATE FUNCTION bench.begin_call(token text, reservation text DEFAULT '') RETURNS void
LANGUAGE sql
AS $$
	SELECT set_config('request.headers', json_build_object('x-access-token', $1, 'x-reservation-id', $2)::text, true),
	       set_config('response.status', '', true), set_config('role', 'coupon_service', true)
$$;

-- counts the answer; a refusal by its code
CREATE FUNCTION bench.end_call(body jsonb) RETURNS jsonb
LANGUAGE plpgsql
AS $$
DECLARE
	status text := current_setting('response.status');
BEGIN
	PERFORM bench.told(CASE WHEN status IN ('200', '201') THEN 'ok' ELSE body #>> '{error,code}' END);
	RETURN body;
END
$$;

CREATE FUNCTION bench.enqueue(user_id bigint) RETURNS text
LANGUAGE plpgsql
AS $$
BEGIN
	PERFORM bench.begin_call('');
	PERFORM bench.end_call(coupon_api.queue_enqueue(to_jsonb(user_id)));
	RETURN current_setting('response.headers')::jsonb #>> '{0,X-Access-Token}';
END
$$;

CREATE FUNCTION bench.order(token text) RETURNS bigint
LANGUAGE plpgsql
AS $$
BEGIN
	PERFORM bench.begin_call(token);
	RETURN bench.end_call(coupon_api.queue_order()) ->> 'order';
END
$$;

CREATE FUNCTION bench.concerts(token text) RETURNS jsonb
LANGUAGE plpgsql
AS $$
BEGIN
	PERFORM bench.begin_call(token);
	RETURN bench.end_call(concert_api.concerts());
END
$$;

CREATE FUNCTION bench.schedules(token text, concert_id bigint) RETURNS jsonb
LANGUAGE plpgsql
AS $$
BEGIN
	PERFORM bench.begin_call(token);
	RETURN bench.end_call(concert_api.schedules(concert_id::text));
END
$$;

CREATE FUNCTION bench.seats(token text, schedule_id bigint) RETURNS jsonb
LANGUAGE plpgsql
AS $$
BEGIN
	PERFORM bench.begin_call(token);
	RETURN bench.end_call(concert_api.seats(schedule_id::text));
END
$$;

-- 0: none
CREATE FUNCTION bench.reserve(token text, user_id bigint, seat bigint) RETURNS bigint
LANGUAGE plpgsql
AS $$
BEGIN
	PERFORM bench.begin_call(token);
	RETURN coalesce(bench.end_call(concert_api.reservation(to_jsonb(user_id), to_jsonb(seat))) ->> 'reservationId', '0');
END
$$;

CREATE FUNCTION bench.pay(token text, user_id bigint, reservation bigint) RETURNS bigint
LANGUAGE plpgsql
AS $$
BEGIN
	PERFORM bench.begin_call(token, reservation::text);
	RETURN bench.end_call(concert_api.pay(to_jsonb(user_id))) ->> 'paymentId';
END
$$;
