-- Queues: waiting rooms. Tickets as requests above.

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
COMMENT ON TABLE coupon.room IS 'waiting rooms';
COMMENT ON COLUMN coupon.room.room_id IS 'identifier, part of tokens';
COMMENT ON COLUMN coupon.room.name IS 'what the functions call it';
COMMENT ON COLUMN coupon.room.capacity IS 'how many may be admitted at a time';
COMMENT ON COLUMN coupon.room.admit_per_second IS 'how many are admitted a second at most, null: as slots come free';
COMMENT ON COLUMN coupon.room.session_ttl IS 'how long a session lasts at most';
COMMENT ON COLUMN coupon.room.idle_ttl IS 'how long a ticket lives without a sign of life';
COMMENT ON COLUMN coupon.room.method IS 'fifo | random (who came before opens_at draws lots) | passthrough | reject';
COMMENT ON COLUMN coupon.room.paused IS 'true: nobody is admitted';
COMMENT ON COLUMN coupon.room.opens_at IS 'nobody is admitted before, null: open';
COMMENT ON COLUMN coupon.room.seed IS 'seed of the draw, made by it; null: not yet';
COMMENT ON COLUMN coupon.room.drawn IS 'tickets 1 to this one drew lots, null: not yet';

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
COMMENT ON TABLE coupon.ticket IS 'places in rooms; the rows are in its children';
COMMENT ON TABLE coupon.ticket_0 IS 'tickets, first of two tables used in turn';
COMMENT ON TABLE coupon.ticket_1 IS 'tickets, second of two tables used in turn';
COMMENT ON COLUMN coupon.ticket.room_id IS 'the room';
COMMENT ON COLUMN coupon.ticket.number IS 'in the order of arrival';
COMMENT ON COLUMN coupon.ticket.secret IS 'the part of the token that cannot be guessed';
COMMENT ON COLUMN coupon.ticket.joined_at IS 'when it was taken';
COMMENT ON COLUMN coupon.ticket.admitted_at IS 'when the session began, null: not yet';
COMMENT ON COLUMN coupon.ticket.ended_at IS 'when it ended, null: it waits or is admitted';
COMMENT ON COLUMN coupon.ticket.user_id IS 'whose it is';
COMMENT ON COLUMN coupon.ticket.reason IS 'why it ended: idle, expired, gone (the room was deleted), or what coupon_queue_leave was told';

CREATE TYPE coupon.queue_result AS (
	status         text,
	token          text,
	queue_position bigint,
	eta            interval,
	poll_after     interval
);
COMMENT ON TYPE coupon.queue_result IS
	'answer of a room; status: WAITING | ADMITTED | REJECTED | GONE; position 0: admitted; token: only from a join';

-- A dump keeps the rooms, for campaigns require them; who waited in the
-- original does not wait in a copy, and requests are not decided twice.
SELECT pg_catalog.pg_extension_config_dump('coupon.room', '');
SELECT pg_catalog.pg_extension_config_dump('coupon.room_room_id_seq', '');

CREATE FUNCTION coupon.room_changed() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'coupon_room_changed';
COMMENT ON FUNCTION coupon.room_changed() IS 'has the definition in shared memory read again when a change commits';

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
COMMENT ON FUNCTION coupon.room_check(text, integer, numeric, interval, interval, text) IS 'refuses what a room cannot be';

CREATE FUNCTION coupon.room_id(room text) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	id bigint;
BEGIN
	SELECT r.room_id INTO id FROM coupon.room r WHERE r.name = room;
	IF id IS NULL THEN
		RAISE SQLSTATE 'UC202' USING
			MESSAGE = 'unknown room',
			DETAIL = format('There is no room %s.', coalesce(quote_literal(left(room, 64)), 'null')),
			HINT = 'Make it with coupon_room_create(); coupon.room_status lists them.';
	END IF;
	RETURN id;
END
$$;
COMMENT ON FUNCTION coupon.room_id(text) IS 'the id of a room, or an ERROR';

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
	'makes a waiting room and returns its id';

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
	'changes what is not null, from the commit on; admit_per_second 0: no limit; a lower capacity ends no session';

CREATE FUNCTION @extschema@.coupon_room_pause(name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE coupon.room r SET paused = true WHERE r.room_id = coupon.room_id($1) AND NOT r.paused;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_room_pause(text) IS 'nobody is admitted from the commit on; true if this call changed it';

CREATE FUNCTION @extschema@.coupon_room_resume(name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE coupon.room r SET paused = false WHERE r.room_id = coupon.room_id($1) AND r.paused;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_room_resume(text) IS 'ends a pause; true if this call changed it';

CREATE FUNCTION @extschema@.coupon_room_draw(name text, OUT number bigint, OUT place bigint)
RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT t.n, row_number() OVER (ORDER BY sha256(r.seed || int8send(t.n)), t.n)
	  FROM coupon.room r, generate_series(1::bigint, r.drawn) t(n)
	 WHERE r.name = $1
$$;
COMMENT ON FUNCTION @extschema@.coupon_room_draw(text) IS
	'the draw of a room, once it is open: the place of each ticket that drew lots; anybody can compute it from the seed';

CREATE FUNCTION @extschema@.coupon_campaign_require_room(campaign_id bigint, room text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE coupon.campaign c
	   SET room_id = CASE WHEN $2 IS NULL THEN NULL ELSE coupon.room_id($2) END
	 WHERE c.campaign_id = $1;
	IF NOT FOUND THEN
		RAISE SQLSTATE 'UC001' USING
			MESSAGE = 'unknown campaign',
			DETAIL = format('There is no campaign %s.', coalesce($1::text, 'null')),
			HINT = 'Use an id that coupon_campaign_create() returned; coupon.campaign lists them.';
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_campaign_require_room(bigint, text) IS
	'from the commit on the campaign issues only to users whom the room has admitted; null: to everybody';

CREATE FUNCTION @extschema@.coupon_queue_join(room text, user_id text)
RETURNS coupon.queue_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_queue_join(text, text) IS
	'takes a place in a room; the user''s live ticket again if there is one';

CREATE FUNCTION @extschema@.coupon_queue_position(token text)
RETURNS coupon.queue_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_queue_position(text) IS
	'how many are served before, 0: admitted; a sign of life; when to ask again is in poll_after';

CREATE FUNCTION @extschema@.coupon_queue_require(token text, room text DEFAULT NULL, user_id text DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_queue_require(text, text, text) IS
	'ERROR unless the token is of a session that lives, in that room and of that user where they are given; a sign of life';

CREATE FUNCTION @extschema@.coupon_queue_leave(token text, reason text DEFAULT 'left')
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_queue_leave(text, text) IS
	'ends a ticket and frees its slot, in the caller''s transaction; true if this call did';

CREATE FUNCTION @extschema@.coupon_queue_serve()
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_queue_serve() IS
	'admits who is next and ends what is over; the room worker does it all the time; returns the number of tickets changed';

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
	'who waits and who is admitted now, the last number given, and how many were admitted since the server knows the room';

CREATE VIEW coupon.room_status AS
SELECT r.room_id, r.name, r.method,
       CASE WHEN r.opens_at > pg_catalog.clock_timestamp() THEN 'not_open'
            WHEN r.paused THEN 'paused'
            ELSE 'open' END AS state,
       r.capacity, r.admit_per_second, r.session_ttl, r.idle_ttl, r.opens_at, r.seed, r.drawn,
       c.waiting, c.admitted, c.joined, c.served, c.served_per_second
  FROM coupon.room r, LATERAL @extschema@.coupon_room_counts(r.room_id) c;
COMMENT ON VIEW coupon.room_status IS 'every room with who waits and who is admitted';
