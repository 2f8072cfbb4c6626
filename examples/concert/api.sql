-- Concert booking on coupon: the routes, for PostgREST or any front that calls
-- functions as it does.  After ../sources/roles.sql, ../sources/http.sql and
-- schema.sql:
--
--	psql -d shop -f api.sql
--
-- A route is a function of schema concert_api that returns JSON and sets
-- response.status; the ones that it shares are in schema concert, which is not
-- exposed.  Routes run with the rights of concert_owner, who may use coupon and
-- these tables; whoever may call them needs no other right.
--
-- To be admitted is asked twice: coupon_queue_require() judges the token here,
-- and coupon_hold() asks the room itself, for whoever gets past this file.

\set ON_ERROR_STOP on
\set QUIET on
BEGIN;

CREATE SCHEMA concert_api AUTHORIZATION concert_owner;
SET LOCAL ROLE concert_owner;
COMMENT ON SCHEMA concert_api IS 'the HTTP routes of the concert booking';

-- ---------------------------------------------------------------------------
-- Shared by the routes
-- ---------------------------------------------------------------------------

CREATE FUNCTION concert.refuse(outcome text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF outcome = 'busy' THEN
		PERFORM set_config('response.headers', '[{"Retry-After": "1"}]', true);
	END IF;
	RETURN web.error(CASE outcome WHEN 'not_admitted' THEN 403 ELSE 409 END, outcome, CASE outcome
		WHEN 'taken' THEN 'The seat is another user''s.'
		WHEN 'busy' THEN 'Another call is at the seat: try again.'
		WHEN 'already_issued' THEN 'The user has bought the seat.'
		WHEN 'limit_reached' THEN 'The user has as many seats as one may have.'
		WHEN 'not_open' THEN 'The sale has not begun.'
		WHEN 'paused' THEN 'The sale is paused.'
		WHEN 'closed' THEN 'The sale is over.'
		WHEN 'not_admitted' THEN 'The waiting room has not admitted the user.'
		WHEN 'not_held' THEN 'The user does not hold the seat.'
		ELSE outcome
	END);
END
$$;
COMMENT ON FUNCTION concert.refuse(text) IS 'the error that an outcome of coupon is';

-- For GET there is no user but in the token; an application may do without.
CREATE FUNCTION concert.caller(needs_user boolean, given_user text, OUT user_id text, OUT token text, OUT error jsonb)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	SELECT t.token, t.error INTO token, error FROM web.ticket() t;
	IF error IS NULL AND (needs_user OR web.subject() IS NOT NULL OR NOT web.may_speak_for_others()) THEN
		SELECT c.user_id, c.error INTO user_id, error FROM web.caller('userId', given_user) c;
	END IF;
END
$$;
COMMENT ON FUNCTION concert.caller(boolean, text) IS
	'who calls, by the verified claim or else as given, and with which ticket; or what is wrong with that';

CREATE FUNCTION concert.admit(token text, user_id text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM public.coupon_queue_require(token, concert.room(), user_id);
	RETURN NULL;
EXCEPTION
	WHEN SQLSTATE 'UC203' THEN
		RETURN CASE (public.coupon_queue_position(token)).status
			WHEN 'GONE' THEN web.error(401, 'gone', 'The ticket has ended: enter the queue again.')
			WHEN 'WAITING' THEN web.error(403, 'not_admitted', 'The ticket still waits.')
			ELSE web.error(403, 'other_ticket', 'The ticket is another user''s, or of another room.')
		END;
END
$$;
COMMENT ON FUNCTION concert.admit(text, text) IS 'null for the ticket of a session, else the error';

-- ---------------------------------------------------------------------------
-- What there is
-- ---------------------------------------------------------------------------

CREATE FUNCTION concert_api.concerts() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	who record := concert.caller(false, NULL);
	refused jsonb := coalesce(who.error, concert.admit(who.token, who.user_id));
BEGIN
	IF refused IS NOT NULL THEN
		RETURN refused;
	END IF;
	RETURN web.answer(200, jsonb_build_object('concertsList', coalesce((
		SELECT jsonb_agg(l) FROM (SELECT c.id, c.title FROM concert.concert c ORDER BY c.id) l), '[]')));
END
$$;
COMMENT ON FUNCTION concert_api.concerts() IS 'GET /concerts - 200 the concerts, 401 the ticket has ended, 403 not admitted';

CREATE FUNCTION concert_api.schedules("concertId" text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	who record := concert.caller(false, NULL);
	refused jsonb := coalesce(who.error, concert.admit(who.token, who.user_id));
	list jsonb;
BEGIN
	IF refused IS NOT NULL THEN
		RETURN refused;
	END IF;
	IF coalesce($1 !~ '^[0-9]{1,18}$', true) THEN
		RETURN web.error(400, 'invalid', 'concertId must be an integer.');
	END IF;
	SELECT jsonb_agg(l) INTO list FROM (
		SELECT s.id, s.date, (
		       SELECT CASE WHEN c.state <> 'open' THEN upper(c.state) WHEN c.remaining > 0 THEN 'AVAILABLE' ELSE 'SOLD_OUT' END
		         FROM coupon.campaign_status c WHERE c.campaign_id = s.campaign_id) AS status
		  FROM concert.schedule s WHERE s.concert_id = $1::bigint ORDER BY s.date) l;
	IF list IS NULL AND NOT EXISTS (SELECT FROM concert.concert c WHERE c.id = $1::bigint) THEN
		RETURN web.error(404, 'unknown_concert', 'There is no such concert.');
	END IF;
	RETURN web.answer(200, jsonb_build_object('schedules', coalesce(list, '[]')));
END
$$;
COMMENT ON FUNCTION concert_api.schedules(text) IS
	'GET /concerts/{id}/schedules - 200 the schedules, 404 unknown concert, 401 the ticket has ended, 403 not admitted; AVAILABLE, SOLD_OUT (also while the last seats are held), NOT_OPEN, PAUSED or CLOSED';

CREATE FUNCTION concert_api.seats("scheduleId" text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	who record := concert.caller(false, NULL);
	refused jsonb := coalesce(who.error, concert.admit(who.token, who.user_id));
	schedule concert.schedule;
BEGIN
	IF refused IS NOT NULL THEN
		RETURN refused;
	END IF;
	IF coalesce($1 !~ '^[0-9]{1,18}$', true) THEN
		RETURN web.error(400, 'invalid', 'scheduleId must be an integer.');
	END IF;
	SELECT * INTO schedule FROM concert.schedule s WHERE s.id = $1::bigint;
	IF NOT FOUND THEN
		RETURN web.error(404, 'unknown_schedule', 'There is no such schedule.');
	END IF;
	RETURN web.answer(200, jsonb_build_object('seats', (
		SELECT jsonb_agg(l) FROM (
			SELECT schedule.first_seat + u.serial - 1 AS id, u.label AS "seatNum",
			       CASE u.status WHEN 'FREE' THEN 'EMPTY' WHEN 'HELD' THEN 'RESERVED' ELSE 'SOLD' END AS status
			  FROM public.coupon_units(schedule.campaign_id) u ORDER BY u.serial) l)));
END
$$;
COMMENT ON FUNCTION concert_api.seats(text) IS 'GET /concerts/schedules/{id}/seats - 200 the seats, 404 unknown schedule, 401 the ticket has ended, 403 not admitted; EMPTY, RESERVED while held, SOLD when paid';

-- ---------------------------------------------------------------------------
-- Reserve, pay, give back
-- ---------------------------------------------------------------------------

CREATE FUNCTION concert_api.reservation("userId" jsonb DEFAULT NULL, "concertSeatId" jsonb DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	who record := concert.caller(true, web.value($1));
	seat text := web.value($2);
	refused jsonb := who.error;
	schedule concert.schedule;
	hold coupon.hold_result;
	reservation_id bigint;
BEGIN
	IF refused IS NULL THEN
		refused := CASE
			WHEN seat IS NULL THEN web.error(400, 'missing', 'concertSeatId is missing.')
			WHEN seat !~ '^[0-9]{1,18}$' THEN web.error(400, 'invalid', 'concertSeatId must be an integer.')
			ELSE concert.admit(who.token, who.user_id)
		END;
	END IF;
	IF refused IS NOT NULL THEN
		RETURN refused;
	END IF;

	SELECT * INTO schedule FROM concert.schedule s
	 WHERE s.first_seat <= seat::bigint ORDER BY s.first_seat DESC LIMIT 1;
	IF NOT FOUND OR seat::bigint >= schedule.first_seat + schedule.seats THEN
		RETURN web.error(404, 'unknown_seat', 'There is no such seat.');
	END IF;

	hold := public.coupon_hold(schedule.campaign_id, seat::bigint - schedule.first_seat + 1, who.user_id, '5 min');
	IF hold.status = 'already_held' THEN
		-- a second click; there is none if the application held it by itself
		SELECT max(r.id) INTO reservation_id FROM concert.reservation r
		 WHERE r.seat_id = seat::bigint AND r.user_id = who.user_id AND r.held_until = hold.held_until;
	ELSIF hold.status <> 'held' THEN
		RETURN concert.refuse(hold.status);
	END IF;
	IF reservation_id IS NULL THEN
		INSERT INTO concert.reservation AS r (schedule_id, seat_id, user_id, price, held_until)
		VALUES (schedule.id, seat::bigint, who.user_id, schedule.price, hold.held_until)
		RETURNING r.id INTO reservation_id;
	END IF;
	RETURN web.answer(200, jsonb_build_object('reservationId', reservation_id));
END
$$;
COMMENT ON FUNCTION concert_api.reservation(jsonb, jsonb) IS
	'POST /concerts/reservation - 200 held for 5 minutes, 409 another has it or not open or busy, 404 unknown seat, 401 the ticket has ended, 403 not admitted; the same user''s repetition is the same reservation';

-- The id of the reservation is in the path: the front gives it as an argument,
-- nginx hands it on as a header.
CREATE FUNCTION concert.reservation_of(
	user_id text, given jsonb, OUT id bigint, OUT price bigint, OUT seat_id bigint, OUT schedule_id bigint,
	OUT campaign_id bigint, OUT serial bigint, OUT error jsonb)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	in_header text := nullif(web.header('x-reservation-id'), '');
	number text := coalesce(in_header, web.value(given));
	owner text;
BEGIN
	IF in_header <> web.value(given) THEN
		error := web.error(400, 'invalid', 'reservationId is given twice.');
		RETURN;
	END IF;
	IF coalesce(number !~ '^[0-9]{1,18}$', true) THEN
		error := web.error(400, 'invalid', 'reservationId must be an integer.');
		RETURN;
	END IF;
	SELECT r.id, r.price, r.seat_id, r.schedule_id, s.campaign_id, r.seat_id - s.first_seat + 1, r.user_id
	  INTO id, price, seat_id, schedule_id, campaign_id, serial, owner
	  FROM concert.reservation r JOIN concert.schedule s ON s.id = r.schedule_id
	 WHERE r.id = number::bigint;
	IF NOT FOUND THEN
		error := web.error(404, 'unknown_reservation', 'There is no such reservation.');
	ELSIF owner <> user_id COLLATE "C" THEN
		error := web.error(403, 'other_user', 'The reservation is another user''s.');
	END IF;
END
$$;
COMMENT ON FUNCTION concert.reservation_of(text, jsonb) IS 'the reservation that the path names, or what is wrong with it';

CREATE FUNCTION concert.paid(reservation_id bigint) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	payment concert.payment;
BEGIN
	SELECT * INTO payment FROM concert.payment p WHERE p.reservation_id = $1;
	RETURN CASE
		WHEN NOT FOUND THEN NULL
		WHEN payment.state = 'PAID' THEN web.answer(200, jsonb_build_object('paymentId', payment.id))
		ELSE web.error(CASE payment.reason WHEN 'other_ref' THEN 409 ELSE 410 END, payment.reason, CASE payment.reason
			WHEN 'lost' THEN 'The reservation ran out, and the seat is another user''s. The payment is given back.'
			WHEN 'limit_reached' THEN 'The reservation ran out, and the user has as many seats as one may have. The payment is given back.'
			ELSE 'The seat has been paid for otherwise. The payment is given back.' END,
			jsonb_build_object('paymentId', payment.id, 'status', payment.state))
	END;
END
$$;
COMMENT ON FUNCTION concert.paid(bigint) IS 'the answer to the payment of a reservation; null: there was none';

-- One transaction confirms the seat, records the payment, tells the world and
-- ends the ticket.  Locks are taken in this order by every call.
CREATE FUNCTION concert_api.pay("userId" jsonb DEFAULT NULL, "reservationId" jsonb DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	who record := concert.caller(true, web.value($1));
	reservation record;
	seat coupon.hold_result;
	answer jsonb;
	payment_id bigint;
	is_late boolean;
BEGIN
	IF who.error IS NOT NULL THEN
		RETURN who.error;
	END IF;
	reservation := concert.reservation_of(who.user_id, $2);
	IF reservation.error IS NOT NULL THEN
		RETURN reservation.error;
	END IF;

	-- A repetition gets the first answer; by then its ticket has ended, maybe
	-- just between these two lines.
	answer := coalesce(concert.paid(reservation.id), concert.admit(who.token, who.user_id));
	IF answer IS NOT NULL THEN
		RETURN coalesce(concert.paid(reservation.id), answer);
	END IF;

	seat := public.coupon_confirm(reservation.campaign_id, reservation.serial, who.user_id, 'reservation ' || reservation.id);
	IF seat.status NOT IN ('confirmed', 'already_confirmed', 'lost', 'limit_reached', 'other_ref') THEN
		RETURN coalesce(concert.paid(reservation.id), concert.refuse(seat.status));
	END IF;
	is_late := seat.status NOT IN ('confirmed', 'already_confirmed');
	INSERT INTO concert.payment AS p (reservation_id, user_id, amount, state, reason)
	VALUES (reservation.id, who.user_id, reservation.price,
	        CASE WHEN is_late THEN 'REFUND' ELSE 'PAID' END, CASE WHEN is_late THEN seat.status END)
	ON CONFLICT (reservation_id) DO NOTHING RETURNING p.id INTO payment_id;
	-- else another call of this user was first
	IF payment_id IS NOT NULL THEN
		PERFORM public.coupon_emit(CASE WHEN is_late THEN 'payment-refund' ELSE 'payment-completed' END, who.user_id,
			CASE WHEN is_late THEN 'payment.refund' ELSE 'payment.completed' END,
			jsonb_build_object('paymentId', payment_id, 'reservationId', reservation.id, 'userId', who.user_id,
				'concertScheduleId', reservation.schedule_id, 'concertSeatId', reservation.seat_id, 'seatNum', seat.label,
				'amount', reservation.price));
		-- who came too late may choose another seat
		IF NOT is_late THEN
			PERFORM public.coupon_queue_leave(who.token, 'paid');
		END IF;
	END IF;
	RETURN concert.paid(reservation.id);
END
$$;
COMMENT ON FUNCTION concert_api.pay(jsonb, jsonb) IS
	'POST /concerts/reservations/{id}/pay - 200 the seat is the user''s for good, 410 it has gone to another and the payment is recorded for refund, 409 not held or paid for otherwise, 404 unknown reservation, 401 the ticket has ended, 403 another user''s; a repetition gets the same answer';

CREATE FUNCTION concert_api.release("userId" jsonb DEFAULT NULL, "reservationId" jsonb DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	who record := concert.caller(true, web.value($1));
	reservation record;
	refused jsonb := who.error;
BEGIN
	IF refused IS NULL THEN
		reservation := concert.reservation_of(who.user_id, $2);
		-- anybody can write another's userId, but not their ticket
		refused := coalesce(reservation.error, concert.admit(who.token, who.user_id));
	END IF;
	IF refused IS NOT NULL THEN
		RETURN refused;
	END IF;
	RETURN web.answer(200, jsonb_build_object('released',
		public.coupon_release(reservation.campaign_id, reservation.serial, who.user_id)));
END
$$;
COMMENT ON FUNCTION concert_api.release(jsonb, jsonb) IS
	'POST /concerts/reservations/{id}/release - 200 given back or false when it is paid for or not held any more, 404 unknown reservation, 401 the ticket has ended, 403 another user''s';

-- What PostgREST calls for a body with other keys

CREATE FUNCTION concert_api.reservation(json) RETURNS jsonb
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN web.unknown_argument('concert_api.reservation(jsonb, jsonb)', $1::jsonb);
COMMENT ON FUNCTION concert_api.reservation(json) IS 'POST /concerts/reservation with an argument that there is not - 400';

CREATE FUNCTION concert_api.pay(json) RETURNS jsonb
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN web.unknown_argument('concert_api.pay(jsonb, jsonb)', $1::jsonb);
COMMENT ON FUNCTION concert_api.pay(json) IS 'POST /concerts/reservations/{id}/pay with an argument that there is not - 400';

CREATE FUNCTION concert_api.release(json) RETURNS jsonb
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN web.unknown_argument('concert_api.release(jsonb, jsonb)', $1::jsonb);
COMMENT ON FUNCTION concert_api.release(json) IS 'POST /concerts/reservations/{id}/release with an argument that there is not - 400';

-- ---------------------------------------------------------------------------
-- Administration: with the rights of who calls, coupon_admin
-- ---------------------------------------------------------------------------

CREATE FUNCTION concert_api.concert_create(
	title jsonb DEFAULT NULL, dates jsonb DEFAULT NULL, "seatAmount" jsonb DEFAULT NULL, price jsonb DEFAULT NULL)
RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	days date[];
	is_missing boolean := 'null' IN (coalesce(jsonb_typeof($1), 'null'), coalesce(jsonb_typeof($2), 'null'),
		coalesce(jsonb_typeof($3), 'null'), coalesce(jsonb_typeof($4), 'null'));
BEGIN
	IF is_missing THEN
		RETURN web.error(400, 'missing', 'title, dates, seatAmount and price are needed.');
	END IF;
	IF jsonb_typeof($1) <> 'string' OR octet_length($1 #>> '{}') NOT BETWEEN 1 AND 200 THEN
		RETURN web.error(400, 'invalid', 'title must be a text of 1 to 200 bytes.');
	END IF;
	IF web.value($3) !~ '^[0-9]{1,6}$' OR web.value($3)::integer NOT BETWEEN 1 AND 100000 THEN
		RETURN web.error(400, 'invalid', 'seatAmount must be an integer from 1 to 100000.');
	END IF;
	IF web.value($4) !~ '^[0-9]{1,12}$' THEN
		RETURN web.error(400, 'invalid', 'price must be an integer from 0 on.');
	END IF;
	BEGIN
		-- a date that is written out: now and tomorrow are none
		days := ARRAY(SELECT substring(d #>> '{}' FROM '^\d{4}-\d{2}-\d{2}$')::date FROM jsonb_array_elements($2) d);
	EXCEPTION
		WHEN data_exception THEN NULL;
	END;
	IF coalesce(cardinality(days) NOT BETWEEN 1 AND 1000, true) OR array_position(days, NULL) IS NOT NULL
	   OR cardinality(days) > (SELECT count(DISTINCT d) FROM unnest(days) d WHERE isfinite(d)) THEN
		RETURN web.error(400, 'invalid', 'dates must be an array of 1 to 1000 dates, each as YYYY-MM-DD and once.');
	END IF;
	RETURN web.answer(201, jsonb_build_object('id',
		concert.concert_add($1 #>> '{}', days, web.value($3)::integer, web.value($4)::bigint)));
END
$$;
COMMENT ON FUNCTION concert_api.concert_create(jsonb, jsonb, jsonb, jsonb) IS
	'POST /concerts/create - 201 a concert with a schedule of so many seats for each date';

CREATE FUNCTION concert_api.concert_create(json) RETURNS jsonb
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN web.unknown_argument('concert_api.concert_create(jsonb, jsonb, jsonb, jsonb)', $1::jsonb);
COMMENT ON FUNCTION concert_api.concert_create(json) IS 'POST /concerts/create with an argument that there is not - 400';

REVOKE ALL ON ALL ROUTINES IN SCHEMA concert, concert_api FROM PUBLIC;
GRANT USAGE ON SCHEMA concert_api TO coupon_admin, coupon_service, coupon_web_user;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA concert_api TO coupon_admin, coupon_service, coupon_web_user;
REVOKE EXECUTE ON FUNCTION concert_api.concert_create(jsonb, jsonb, jsonb, jsonb), concert_api.concert_create(json) FROM coupon_service, coupon_web_user;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA concert TO coupon_admin;

COMMIT;
