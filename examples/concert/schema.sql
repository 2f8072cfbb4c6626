-- Concert booking on coupon: the tables of the application.
--
--	psql -d shop -f schema.sql [-v capacity=1000]
--
-- as a superuser, in a database with the extension coupon in schema public.
--
-- A schedule is a campaign whose units carry labels: its seats.  Who has which
-- seat is known to coupon alone; here are titles, dates, prices, and what was
-- reserved and paid.

\set ON_ERROR_STOP on
\set QUIET on
\if :{?capacity} \else
	\set capacity 1000
\endif
BEGIN;
-- what others have put into their schemas is not to be taken for what is meant
SET LOCAL search_path = pg_catalog, pg_temp;

-- who owns all of it, and whose rights the routes of api.sql have
SELECT to_regrole('concert_owner') IS NULL AS is_new \gset
\if :is_new
	CREATE ROLE concert_owner NOLOGIN IN ROLE coupon_service;
\endif
GRANT REFERENCES ON coupon.campaign TO concert_owner;

-- The room that every schedule requires.  Nobody loses a session while they are
-- away to pay for a seat that is held for 5 minutes, so a room that is there
-- already (../postgrest) may have to be more patient than it is.
SELECT NOT EXISTS (SELECT FROM coupon.room WHERE name = 'default') AS is_new \gset
\if :is_new
	SELECT public.coupon_room_create('default', capacity => :capacity, session_ttl => '15 min', idle_ttl => '6 min') AS room \gset
\else
	SELECT public.coupon_room_alter(r.name, session_ttl => greatest(r.session_ttl, '15 min'), idle_ttl => greatest(r.idle_ttl, '6 min')) AS room
	  FROM coupon.room r WHERE r.name = 'default' \gset
\endif

CREATE SCHEMA concert AUTHORIZATION concert_owner;
SET LOCAL ROLE concert_owner;
COMMENT ON SCHEMA concert IS 'concerts, schedules, reservations and payments; the seats are coupon''s';

CREATE FUNCTION concert.room() RETURNS text
LANGUAGE sql IMMUTABLE
RETURN 'default';
COMMENT ON FUNCTION concert.room() IS 'the waiting room of all concerts: where POST /queues/enqueue leads';

CREATE TABLE concert.concert (
	id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	title      text NOT NULL CHECK (octet_length(title) BETWEEN 1 AND 200),
	created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE concert.concert IS 'what is played';

-- Seats have numbers of their own, 1, 2, 3, ... over all schedules: a schedule
-- has those from first_seat on, and seat n is unit n - first_seat + 1 of its
-- campaign.  One descent of an index leads from a seat to its schedule.
CREATE TABLE concert.schedule (
	id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	concert_id  bigint NOT NULL REFERENCES concert.concert,
	date        date NOT NULL,
	campaign_id bigint NOT NULL UNIQUE REFERENCES coupon.campaign,
	first_seat  bigint NOT NULL UNIQUE CHECK (first_seat >= 1),
	seats       integer NOT NULL CHECK (seats >= 1),
	price       bigint NOT NULL CHECK (price >= 0),
	UNIQUE (concert_id, date),
	EXCLUDE USING gist (int8range(first_seat, first_seat + seats) WITH &&)
);
COMMENT ON TABLE concert.schedule IS 'a concert on a date: a campaign of coupon, and the price of its seats';

CREATE TABLE concert.reservation (
	id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	schedule_id bigint NOT NULL REFERENCES concert.schedule,
	seat_id     bigint NOT NULL,
	user_id     text COLLATE "C" NOT NULL,
	price       bigint NOT NULL,
	reserved_at timestamptz NOT NULL DEFAULT now(),
	held_until  timestamptz NOT NULL
);
CREATE INDEX ON concert.reservation (seat_id);
COMMENT ON TABLE concert.reservation IS 'what was held, when, and at which price; whether it still is, coupon knows';

CREATE TABLE concert.payment (
	id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	reservation_id bigint NOT NULL UNIQUE REFERENCES concert.reservation,
	user_id        text COLLATE "C" NOT NULL,
	amount         bigint NOT NULL,
	state          text NOT NULL CHECK (state IN ('PAID', 'REFUND')),
	reason         text CHECK ((reason IS NULL) = (state = 'PAID')),
	paid_at        timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON concert.payment (paid_at) WHERE state = 'REFUND';
COMMENT ON TABLE concert.payment IS 'one for a reservation at most; REFUND: it came too late, and is to be given back';

-- A1 to A10, B1 to B10, ..., Z10, AA1, ...
CREATE FUNCTION concert.seat_label(serial bigint) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	line bigint := (serial - 1) / 10;
	letters text := '';
BEGIN
	LOOP
		letters := chr(65 + (line % 26)::integer) || letters;
		line := line / 26 - 1;
		EXIT WHEN line < 0;
	END LOOP;
	RETURN letters || (serial - 1) % 10 + 1;
END
$$;
COMMENT ON FUNCTION concert.seat_label(bigint) IS 'what is written on the n-th seat of a hall, ten in a row';

-- What follows makes campaigns: coupon_admin's to call, with their own rights.
CREATE FUNCTION concert.schedule_add(concert_id bigint, date date, seats integer, price bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	campaign bigint;
	first bigint;
	id bigint;
BEGIN
	-- one at a time, for the seats' numbers are without gaps
	PERFORM pg_advisory_xact_lock(hashtextextended('concert.schedule', 0));
	SELECT s.first_seat + s.seats INTO first FROM concert.schedule s ORDER BY s.first_seat DESC LIMIT 1;
	SELECT public.coupon_campaign_create(format('%s, %s', c.title, $2), 0, per_user_limit => 4, topic => 'concert-seats')
	  INTO STRICT campaign FROM concert.concert c WHERE c.id = $1;
	PERFORM public.coupon_units_import(campaign, ARRAY(SELECT concert.seat_label(n) FROM generate_series(1, $3) n));
	PERFORM public.coupon_campaign_require_room(campaign, concert.room());
	INSERT INTO concert.schedule AS s (concert_id, date, campaign_id, first_seat, seats, price)
	VALUES ($1, $2, campaign, coalesce(first, 1), $3, $4) RETURNING s.id INTO id;
	RETURN id;
END
$$;
COMMENT ON FUNCTION concert.schedule_add(bigint, date, integer, bigint) IS 'makes a schedule with its seats, returns its id';

CREATE FUNCTION concert.concert_add(title text, dates date[], seats integer, price bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	id bigint;
BEGIN
	INSERT INTO concert.concert AS c (title) VALUES ($1) RETURNING c.id INTO id;
	PERFORM concert.schedule_add(id, d, $3, $4) FROM unnest($2) d;
	RETURN id;
END
$$;
COMMENT ON FUNCTION concert.concert_add(text, date[], integer, bigint) IS 'makes a concert with a schedule for each date, returns its id';

CREATE PROCEDURE concert.load(concerts integer, dates integer, seats integer)
LANGUAGE plpgsql
AS $$
DECLARE
	began timestamptz := clock_timestamp();
BEGIN
	FOR i IN 1..concerts LOOP
		PERFORM concert.concert_add('Concert ' || i,
			ARRAY(SELECT current_date + d FROM generate_series(1, dates) d), seats, 50000);
		COMMIT;
		IF i % greatest(concerts / 10, 1) = 0 OR i = concerts THEN
			RAISE INFO '% of % concerts, % schedules, % seats, % s', i, concerts, i * dates, i::bigint * dates * seats,
				round(extract(epoch FROM clock_timestamp() - began), 1);
		END IF;
	END LOOP;
END
$$;
COMMENT ON PROCEDURE concert.load(integer, integer, integer) IS 'fills an empty database, a transaction for each concert';

REVOKE ALL ON ALL ROUTINES IN SCHEMA concert FROM PUBLIC;
GRANT USAGE ON SCHEMA concert TO coupon_admin, coupon_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA concert TO coupon_admin, coupon_reader;
GRANT INSERT ON concert.concert, concert.schedule TO coupon_admin;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA concert TO coupon_admin;

COMMIT;
