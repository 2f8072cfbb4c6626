-- Waiting rooms.  Tickets are kept as requests are.

CREATE TABLE coupon.room (
	room_id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name             text COLLATE "C" NOT NULL,
	capacity         integer NOT NULL CHECK (capacity BETWEEN 1 AND 1000000),
	admit_per_second double precision CHECK (admit_per_second > 0 AND admit_per_second <= 1000000),
	session_ttl      interval NOT NULL,
	idle_ttl         interval NOT NULL,
	method           text COLLATE "C" NOT NULL CHECK (method IN ('fifo', 'random', 'passthrough', 'reject')),
	paused           boolean NOT NULL DEFAULT false,
	opens_at         timestamptz,
	seed             bytea,
	drawn            bigint,
	CONSTRAINT room_name_key UNIQUE (name),
	CONSTRAINT room_seed_check CHECK ((seed IS NULL) = (drawn IS NULL))
);
COMMENT ON TABLE coupon.room IS 'Waiting rooms.';
COMMENT ON COLUMN coupon.room.room_id IS 'The room''s number, which is part of tokens.';
COMMENT ON COLUMN coupon.room.name IS 'The name that the functions take.';
COMMENT ON COLUMN coupon.room.capacity IS 'How many users may be admitted at a time.';
COMMENT ON COLUMN coupon.room.admit_per_second IS 'How many users are admitted a second at most; null: as many as leave.';
COMMENT ON COLUMN coupon.room.session_ttl IS 'How long an admitted user may stay at most.';
COMMENT ON COLUMN coupon.room.idle_ttl IS 'How long a ticket lives when its user does not ask.';
COMMENT ON COLUMN coupon.room.method IS 'fifo | random | passthrough | reject. In a random room those who come before opens_at draw lots.';
COMMENT ON COLUMN coupon.room.paused IS 'While this is true, nobody is admitted.';
COMMENT ON COLUMN coupon.room.opens_at IS 'When admission begins; null: at once.';
COMMENT ON COLUMN coupon.room.seed IS 'The seed of the draw, made when lots are drawn; null: not yet.';
COMMENT ON COLUMN coupon.room.drawn IS 'The last of the tickets that drew lots; null: not yet.';

CREATE TABLE coupon.ticket (
	room_id     bigint NOT NULL,
	number      bigint NOT NULL,
	secret      uuid NOT NULL,
	joined_at   timestamptz NOT NULL,
	admitted_at timestamptz,
	ended_at    timestamptz,
	user_id     text COLLATE "C" NOT NULL,
	reason      text COLLATE "C",
	CONSTRAINT ticket_children_only CHECK (false) NO INHERIT
);
CREATE TABLE coupon.ticket_0 (PRIMARY KEY (room_id, number)) INHERITS (coupon.ticket)
	WITH (fillfactor = 35, autovacuum_enabled = off);
CREATE TABLE coupon.ticket_1 (PRIMARY KEY (room_id, number)) INHERITS (coupon.ticket)
	WITH (fillfactor = 35, autovacuum_enabled = off);
CREATE INDEX ticket_0_user_idx ON coupon.ticket_0 (room_id, user_id);
CREATE INDEX ticket_1_user_idx ON coupon.ticket_1 (room_id, user_id);
COMMENT ON TABLE coupon.ticket IS 'Places in waiting rooms. The rows are in the children.';
COMMENT ON TABLE coupon.ticket_0 IS 'The first of two tables for tickets, which take turns.';
COMMENT ON TABLE coupon.ticket_1 IS 'The second of two tables for tickets, which take turns.';
COMMENT ON COLUMN coupon.ticket.room_id IS 'The room.';
COMMENT ON COLUMN coupon.ticket.number IS 'The number of the ticket, in the order of arrival.';
COMMENT ON COLUMN coupon.ticket.secret IS 'The part of the token that cannot be guessed.';
COMMENT ON COLUMN coupon.ticket.joined_at IS 'When it was taken.';
COMMENT ON COLUMN coupon.ticket.admitted_at IS 'When the user was admitted; null: not yet.';
COMMENT ON COLUMN coupon.ticket.ended_at IS 'When the ticket ended; null: it waits or is admitted.';
COMMENT ON COLUMN coupon.ticket.user_id IS 'The user who has the ticket.';
COMMENT ON COLUMN coupon.ticket.reason IS 'Why it ended: idle, expired, gone when the room was deleted, or what coupon_queue_leave() was told.';

CREATE TYPE coupon.queue_result AS (
	status         text,
	token          text,
	queue_position bigint,
	eta            interval,
	poll_after     interval
);
COMMENT ON TYPE coupon.queue_result IS
	'The answer of a waiting room. Status: WAITING | ADMITTED | REJECTED | GONE.';
COMMENT ON COLUMN coupon.queue_result.status IS 'How far the ticket is.';
COMMENT ON COLUMN coupon.queue_result.token IS 'What identifies the ticket. Only coupon_queue_join() tells it.';
COMMENT ON COLUMN coupon.queue_result.queue_position IS 'The place in the line: 1 is next, 0 is admitted; null: lots are not drawn yet.';
COMMENT ON COLUMN coupon.queue_result.eta IS 'How long that will take; null: unknown.';
COMMENT ON COLUMN coupon.queue_result.poll_after IS 'How long to wait before asking again.';

-- A dump keeps the rooms, since campaigns require them.  It leaves out tickets and
-- requests: nobody waits in a copy, and nothing is decided twice.
SELECT pg_catalog.pg_extension_config_dump('coupon.room', '');
SELECT pg_catalog.pg_extension_config_dump('coupon.room_room_id_seq', '');

CREATE FUNCTION coupon.room_changed() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'coupon_room_changed';
COMMENT ON FUNCTION coupon.room_changed() IS 'Trigger: has the room''s definition read again once a change commits.';

CREATE TRIGGER room_changed AFTER INSERT OR UPDATE OR DELETE ON coupon.room
	FOR EACH ROW EXECUTE FUNCTION coupon.room_changed();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON coupon.room
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.refuse_truncate();
ALTER TABLE coupon.room ENABLE ALWAYS TRIGGER room_changed;
ALTER TABLE coupon.room ENABLE ALWAYS TRIGGER refuse_truncate;
CREATE TRIGGER queue_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.ticket
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.queue_guard();
CREATE TRIGGER queue_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.ticket_0
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.queue_guard();
CREATE TRIGGER queue_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.ticket_1
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.queue_guard();

CREATE FUNCTION coupon.room_check(
	name text, capacity integer, admit_per_second numeric, session_ttl interval, idle_ttl interval,
	method text)
RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	problem text;
	hint text;
BEGIN
	CASE
		WHEN name IS NULL OR octet_length(name) NOT BETWEEN 1 AND 256 THEN
			problem := 'name'; hint := 'Use 1 to 256 bytes.';
		WHEN capacity IS NULL OR capacity NOT BETWEEN 1 AND 1000000 THEN
			problem := 'capacity'; hint := 'Use 1 to 1000000.';
		WHEN admit_per_second < 0.0001 OR admit_per_second > 1000000 THEN
			problem := 'admit_per_second'; hint := 'Use 0.0001 to 1000000, or null: as slots come free.';
		WHEN session_ttl IS NULL OR session_ttl NOT BETWEEN interval '1 s' AND interval '7 days' THEN
			problem := 'session_ttl'; hint := 'Use 1 second to 7 days.';
		WHEN idle_ttl IS NULL OR idle_ttl NOT BETWEEN interval '1 s' AND interval '7 days' THEN
			problem := 'idle_ttl'; hint := 'Use 1 second to 7 days.';
		WHEN method IS NULL OR method NOT IN ('fifo', 'random', 'passthrough', 'reject') THEN
			problem := 'method'; hint := 'Use fifo, random, passthrough or reject.';
		ELSE
			RETURN;
	END CASE;
	RAISE invalid_parameter_value USING
		MESSAGE = format('invalid %s of a room', problem),
		DETAIL = format('Room %s: capacity %s, admit_per_second %s, session_ttl %s, idle_ttl %s, method %s.',
		                coalesce(quote_literal(left(name, 64)), 'null'), coalesce(capacity::text, 'null'),
		                coalesce(left(admit_per_second::text, 32), 'null'), coalesce(session_ttl::text, 'null'),
		                coalesce(idle_ttl::text, 'null'), coalesce(left(method, 32), 'null')),
		HINT = hint;
END
$$;
COMMENT ON FUNCTION coupon.room_check(text, integer, numeric, interval, interval, text) IS 'An ERROR for what a room cannot have.';

CREATE FUNCTION coupon.room_id(room text) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	id bigint;
BEGIN
	SELECT r.room_id INTO id FROM coupon.room r WHERE r.name = room COLLATE "C";
	IF id IS NULL THEN
		RAISE SQLSTATE 'UC202' USING
			MESSAGE = 'unknown room',
			DETAIL = format('There is no room %s.', coalesce(quote_literal(left(room, 64)), 'null')),
			HINT = 'Make it with coupon_room_create(); coupon.room_status lists them.';
	END IF;
	RETURN id;
END
$$;
COMMENT ON FUNCTION coupon.room_id(text) IS 'The number of a room, or an ERROR.';

CREATE FUNCTION @extschema@.coupon_room_create(
	name             text,
	capacity         integer,
	admit_per_second numeric DEFAULT NULL,
	session_ttl      interval DEFAULT '5 min',
	idle_ttl         interval DEFAULT '1 min',
	method           text DEFAULT 'fifo',
	opens_at         timestamptz DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	id bigint;
BEGIN
	PERFORM coupon.room_check($1, $2, $3, $4, $5, $6);
	IF $6 = 'random' AND $7 IS NULL THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'a room that draws lots needs opens_at',
			DETAIL = 'Those who join before that time draw lots.',
			HINT = 'Pass opens_at, or use method fifo.';
	END IF;
	INSERT INTO coupon.room (name, capacity, admit_per_second, session_ttl, idle_ttl, method, opens_at)
	VALUES ($1, $2, $3, $4, $5, $6, $7)
	RETURNING room_id INTO id;
	PERFORM coupon.warn_without_workers(true);
	RETURN id;
EXCEPTION
	WHEN unique_violation THEN
		RAISE unique_violation USING
			MESSAGE = 'there is a room of that name',
			DETAIL = format('Room %L.', $1),
			HINT = 'Choose another name, or change that room with coupon_room_alter().';
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_room_create(text, integer, numeric, interval, interval, text, timestamptz) IS
	'Makes a waiting room and returns its number.';

CREATE FUNCTION @extschema@.coupon_room_alter(
	name             text,
	capacity         integer DEFAULT NULL,
	admit_per_second numeric DEFAULT NULL,
	session_ttl      interval DEFAULT NULL,
	idle_ttl         interval DEFAULT NULL,
	method           text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	r record;
	rate numeric;
BEGIN
	SELECT * INTO r FROM coupon.room o WHERE o.room_id = coupon.room_id($1) FOR UPDATE;
	r.capacity := coalesce($2, r.capacity);
	rate := CASE WHEN $3 = 0 THEN NULL ELSE coalesce($3, r.admit_per_second::numeric) END;
	r.session_ttl := coalesce($4, r.session_ttl);
	r.idle_ttl := coalesce($5, r.idle_ttl);
	IF $6 = 'random' AND r.method <> 'random' THEN
		RAISE feature_not_supported USING
			MESSAGE = 'a room cannot begin to draw lots',
			DETAIL = format('Room %L has method %s.', $1, r.method),
			HINT = 'Make it with coupon_room_create(..., method => ''random'', opens_at => ...).';
	END IF;
	r.method := coalesce($6, r.method);
	PERFORM coupon.room_check($1, r.capacity, rate, r.session_ttl, r.idle_ttl, r.method);
	UPDATE coupon.room o
	   SET capacity = r.capacity, admit_per_second = rate, session_ttl = r.session_ttl,
	       idle_ttl = r.idle_ttl, method = r.method
	 WHERE o.room_id = r.room_id;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_room_alter(text, integer, numeric, interval, interval, text) IS
	'Changes what is not null, from the commit on. With admit_per_second 0 there is no limit. A lower capacity ends no session.';

CREATE FUNCTION @extschema@.coupon_room_pause(name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE coupon.room r SET paused = true WHERE r.room_id = coupon.room_id($1) AND NOT r.paused;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_room_pause(text) IS 'Admits nobody from the commit on. Returns whether this call changed it.';

CREATE FUNCTION @extschema@.coupon_room_resume(name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE coupon.room r SET paused = false WHERE r.room_id = coupon.room_id($1) AND r.paused;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_room_resume(text) IS 'Ends a pause. Returns whether this call changed it.';

CREATE FUNCTION @extschema@.coupon_room_drop(name text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	id bigint;
	needed_by text;
BEGIN
	LOOP
		id := coupon.room_id($1);
		-- Who makes a campaign require the room locks its row, too: one of the two is first.
		PERFORM FROM coupon.room r WHERE r.room_id = id FOR UPDATE;
		EXIT WHEN FOUND;
	END LOOP;
	SELECT string_agg(c.campaign_id::text, ', ' ORDER BY c.campaign_id) INTO needed_by
	  FROM (SELECT o.campaign_id FROM coupon.campaign o
	         WHERE o.room_id = id AND o.closed_at IS NULL ORDER BY o.campaign_id LIMIT 20) c;
	IF needed_by IS NOT NULL THEN
		RAISE dependent_objects_still_exist USING
			MESSAGE = 'campaigns require the room',
			DETAIL = format('Room %L is required by campaign %s.', $1, needed_by),
			HINT = 'Close them, or let them issue to everybody with coupon_campaign_require_room(..., NULL).';
	END IF;
	UPDATE coupon.campaign c SET room_id = NULL WHERE c.room_id = id;
	DELETE FROM coupon.room r WHERE r.room_id = id;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_room_drop(text) IS
	'Takes a room away. From the commit on whoever waits there or is admitted is told GONE. An ERROR while a campaign that is not closed requires it.';

CREATE FUNCTION @extschema@.coupon_room_draw(name text, OUT number bigint, OUT place bigint)
RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT t.n, row_number() OVER (ORDER BY sha256(r.seed || int8send(t.n)), t.n)
	  FROM coupon.room r, generate_series(1::bigint, r.drawn) t(n)
	 WHERE r.name = $1 COLLATE "C"
$$;
COMMENT ON FUNCTION @extschema@.coupon_room_draw(text) IS
	'The draw of a room once it is open: the place of each ticket that drew lots. Anybody can compute it from the seed.';

CREATE FUNCTION @extschema@.coupon_campaign_require_room(campaign_id bigint, room text) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_campaign_require_room(bigint, text) IS
	'From the commit on the campaign issues only to users whom the room has admitted, or with null to everybody.';

CREATE FUNCTION @extschema@.coupon_queue_join(room text, user_id USER_TYPE)
RETURNS coupon.queue_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_queue_join_USER_TYPE';
COMMENT ON FUNCTION @extschema@.coupon_queue_join(text, USER_TYPE) IS
	'Takes a place in a room. A user who has one gets the same ticket again.';

CREATE FUNCTION @extschema@.coupon_queue_position(token text)
RETURNS coupon.queue_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_queue_position(text) IS
	'How many are served before this ticket, and when to ask again. Asking keeps the ticket alive.';

CREATE FUNCTION @extschema@.coupon_queue_require(token text, room text DEFAULT NULL, user_id text DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_queue_require(text, text, text) IS
	'An ERROR unless the token belongs to an admitted user, and to that room and that user where they are given. Asking keeps the ticket alive.';

-- Without defaults, so that a call without a user is one of the function above.
CREATE FUNCTION @extschema@.coupon_queue_require(token text, room text, user_id bigint)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_queue_require_bigint';
COMMENT ON FUNCTION @extschema@.coupon_queue_require(text, text, bigint) IS
	'An ERROR unless the token belongs to an admitted user, and to that room and that user where they are given. Asking keeps the ticket alive.';

CREATE FUNCTION @extschema@.coupon_queue_require(token text, room text, user_id uuid)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_queue_require_uuid';
COMMENT ON FUNCTION @extschema@.coupon_queue_require(text, text, uuid) IS
	'An ERROR unless the token belongs to an admitted user, and to that room and that user where they are given. Asking keeps the ticket alive.';

CREATE FUNCTION @extschema@.coupon_queue_leave(token text, reason text DEFAULT 'left')
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_queue_leave(text, text) IS
	'Ends a ticket and frees its place, in the caller''s transaction. Returns whether this call did.';

CREATE FUNCTION @extschema@.coupon_queue_serve()
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_queue_serve() IS
	'Admits those who are next and ends tickets that are over. Returns how many tickets it changed. The room worker does this all the time.';

CREATE FUNCTION @extschema@.coupon_room_counts(
	room_id bigint,
	OUT waiting bigint,
	OUT admitted bigint,
	OUT joined bigint,
	OUT served bigint,
	OUT served_per_second double precision)
RETURNS record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_room_counts(bigint) IS
	'How many wait and how many are admitted now, the number of the newest ticket, and how many were admitted since the server knows the room.';

CREATE VIEW coupon.room_status AS
SELECT r.room_id, r.name, r.method,
       CASE WHEN r.opens_at > pg_catalog.clock_timestamp() THEN 'not_open'
            WHEN r.paused THEN 'paused'
            ELSE 'open' END AS state,
       r.capacity, r.admit_per_second, r.session_ttl, r.idle_ttl, r.opens_at, r.seed, r.drawn,
       c.waiting, c.admitted, c.joined, c.served, c.served_per_second
  FROM coupon.room r, LATERAL @extschema@.coupon_room_counts(r.room_id) c;
COMMENT ON VIEW coupon.room_status IS 'Every waiting room, and how many wait there and are admitted.';
COMMENT ON COLUMN coupon.room_status.room_id IS 'The rooms number.';
COMMENT ON COLUMN coupon.room_status.name IS 'Its name.';
COMMENT ON COLUMN coupon.room_status.method IS 'fifo | random | passthrough | reject';
COMMENT ON COLUMN coupon.room_status.state IS 'open | not_open | paused';
COMMENT ON COLUMN coupon.room_status.capacity IS 'How many users may be admitted at a time.';
COMMENT ON COLUMN coupon.room_status.admit_per_second IS 'How many are admitted a second at most; null: as many as leave.';
COMMENT ON COLUMN coupon.room_status.session_ttl IS 'How long an admitted user may stay at most.';
COMMENT ON COLUMN coupon.room_status.idle_ttl IS 'How long a ticket lives when its user does not ask.';
COMMENT ON COLUMN coupon.room_status.opens_at IS 'When admission begins; null: at once.';
COMMENT ON COLUMN coupon.room_status.seed IS 'The seed of the draw; null: lots are not drawn.';
COMMENT ON COLUMN coupon.room_status.drawn IS 'The last of the tickets that drew lots; null: none has.';
COMMENT ON COLUMN coupon.room_status.waiting IS 'How many wait now.';
COMMENT ON COLUMN coupon.room_status.admitted IS 'How many are admitted now.';
COMMENT ON COLUMN coupon.room_status.joined IS 'The number of the newest ticket.';
COMMENT ON COLUMN coupon.room_status.served IS 'How many were admitted since the server knows the room.';
COMMENT ON COLUMN coupon.room_status.served_per_second IS 'How many were admitted a second when it last admitted.';
