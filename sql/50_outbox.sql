-- Events: the outbox, and what the broker did not accept.

-- There is no index: rows are appended to one of the children, the publisher reads
-- them in order and deletes what is delivered.  When nearly all of a child's rows are
-- gone, the next child takes its turn and this one is truncated.
CREATE TABLE coupon.outbox (
	id      uuid NOT NULL,
	topic   text NOT NULL,
	key     text NOT NULL,
	type    text NOT NULL,
	payload json NOT NULL,
	traceparent text COLLATE "C",
	CONSTRAINT outbox_children_only CHECK (false) NO INHERIT
);
CREATE TABLE coupon.outbox_0 () INHERITS (coupon.outbox) USING heap;
CREATE TABLE coupon.outbox_1 () INHERITS (coupon.outbox) USING heap;
CREATE TABLE coupon.outbox_2 () INHERITS (coupon.outbox) USING heap;
-- Events of topics that are refused wait here, out of the others' way.
CREATE TABLE coupon.outbox_parked () INHERITS (coupon.outbox) USING heap;
CREATE INDEX outbox_parked_idx ON coupon.outbox_parked (topic COLLATE "C", id);
-- A subscriber is not told of single deletions, but of the truncation of a child.
-- There is no key to find a row by, and with REPLICA IDENTITY FULL it would stop at
-- the first deletion, since json has no equality operator.
ALTER TABLE coupon.outbox_0 REPLICA IDENTITY NOTHING;
ALTER TABLE coupon.outbox_1 REPLICA IDENTITY NOTHING;
ALTER TABLE coupon.outbox_2 REPLICA IDENTITY NOTHING;
ALTER TABLE coupon.outbox_parked REPLICA IDENTITY NOTHING;
COMMENT ON TABLE coupon.outbox IS 'Events that are not published yet, each committed together with the change that it tells of. The rows are in the children.';
COMMENT ON TABLE coupon.outbox_0 IS 'The first of three tables for events, which take turns.';
COMMENT ON TABLE coupon.outbox_1 IS 'The second of three tables for events, which take turns.';
COMMENT ON TABLE coupon.outbox_2 IS 'The third of three tables for events, which take turns.';
COMMENT ON TABLE coupon.outbox_parked IS 'Events whose topic is refused. They are published when it is refused no longer.';
COMMENT ON COLUMN coupon.outbox.id IS 'A UUID of version 7. Ids rise in the order of appending. Consumers drop duplicates by the id.';
COMMENT ON COLUMN coupon.outbox.topic IS 'The Kafka topic.';
COMMENT ON COLUMN coupon.outbox.key IS 'The Kafka key: the user, or the campaign where an event is the campaign''s own.';
COMMENT ON COLUMN coupon.outbox.type IS 'What happened. Types that begin with "coupon." are the engine''s own.';
COMMENT ON COLUMN coupon.outbox.payload IS 'The event as it is published.';
COMMENT ON COLUMN coupon.outbox.traceparent IS 'The trace of the call that it comes of (W3C trace context); null: none.';

CREATE FUNCTION coupon.outbox_guard() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE feature_not_supported USING
		MESSAGE = format('cannot write to table coupon.%I directly', TG_TABLE_NAME),
		DETAIL = 'The order of events is that of their ids, which rise in the order of appending.',
		HINT = 'Use coupon_emit(). Rows can be deleted.';
END
$$;
COMMENT ON FUNCTION coupon.outbox_guard() IS 'Trigger: refuses events that were not appended by the functions.';

CREATE TRIGGER outbox_guard BEFORE INSERT OR UPDATE ON coupon.outbox_0
	FOR EACH ROW EXECUTE FUNCTION coupon.outbox_guard();
CREATE TRIGGER outbox_guard BEFORE INSERT OR UPDATE ON coupon.outbox_1
	FOR EACH ROW EXECUTE FUNCTION coupon.outbox_guard();
CREATE TRIGGER outbox_guard BEFORE INSERT OR UPDATE ON coupon.outbox_2
	FOR EACH ROW EXECUTE FUNCTION coupon.outbox_guard();
CREATE TRIGGER outbox_guard BEFORE INSERT OR UPDATE ON coupon.outbox_parked
	FOR EACH ROW EXECUTE FUNCTION coupon.outbox_guard();

-- So that ids rise when the clock steps back over a restart (src/outbox/event_id.c).
CREATE SEQUENCE coupon.event_clock MINVALUE 0;
CREATE SEQUENCE coupon.event_start MINVALUE 0;
COMMENT ON SEQUENCE coupon.event_clock IS 'Event ids up to this time may have been given, in milliseconds since 1970.';
COMMENT ON SEQUENCE coupon.event_start IS 'Which start of the server has set coupon.event_clock: a random number.';

CREATE TABLE coupon.dead_letter (
	id       uuid PRIMARY KEY,
	topic    text NOT NULL,
	key      text NOT NULL,
	type     text NOT NULL,
	payload  json NOT NULL,
	reason   text NOT NULL,
	attempts integer NOT NULL,
	dead_at  timestamptz NOT NULL,
	traceparent text COLLATE "C"
);
COMMENT ON TABLE coupon.dead_letter IS 'Events that the broker did not accept. coupon_dead_letter_replay() puts them back into the outbox.';
COMMENT ON COLUMN coupon.dead_letter.id IS 'The id of the event.';
COMMENT ON COLUMN coupon.dead_letter.topic IS 'The topic that it was for.';
COMMENT ON COLUMN coupon.dead_letter.key IS 'Its key.';
COMMENT ON COLUMN coupon.dead_letter.type IS 'Its type.';
COMMENT ON COLUMN coupon.dead_letter.payload IS 'The event.';
COMMENT ON COLUMN coupon.dead_letter.reason IS 'Why it was not accepted.';
COMMENT ON COLUMN coupon.dead_letter.attempts IS 'How often it was tried.';
COMMENT ON COLUMN coupon.dead_letter.dead_at IS 'When it was given up.';
COMMENT ON COLUMN coupon.dead_letter.traceparent IS 'Its trace; null: none.';

SELECT pg_catalog.pg_extension_config_dump('coupon.event_clock', '');
SELECT pg_catalog.pg_extension_config_dump('coupon.event_start', '');
SELECT pg_catalog.pg_extension_config_dump('coupon.dead_letter', '');

CREATE FUNCTION @extschema@.coupon_emit(topic text, key text, type text, payload jsonb)
RETURNS uuid
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_emit(text, text, text, jsonb) IS
	'Appends an event of the application to the outbox, in the caller''s transaction. Returns the id of the event.';

CREATE FUNCTION @extschema@.coupon_dead_letter_replay(id uuid DEFAULT NULL, topic text DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_dead_letter_replay(uuid, text) IS
	'Puts dead letters back into the outbox under their ids: the one of an id, those of a topic, or all. Returns how many.';

CREATE FUNCTION @extschema@.coupon_dead_letter_discard(id uuid DEFAULT NULL, topic text DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_dead_letter_discard(uuid, text) IS
	'Deletes dead letters for good: the one of an id, those of a topic, or all. Returns how many.';

CREATE FUNCTION coupon.publisher_state(
	exact boolean, OUT unpublished bigint, OUT oldest_at timestamptz, OUT in_flight bigint,
	OUT published bigint, OUT retried bigint, OUT dead bigint,
	OUT acknowledged_at timestamptz, OUT broker text, OUT refused_topics text,
	OUT last_error text, OUT failed_at timestamptz, OUT size_bytes bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_publisher_state';
COMMENT ON FUNCTION coupon.publisher_state(boolean) IS 'What shared memory knows of the publisher; use coupon_outbox_status().';

CREATE FUNCTION @extschema@.coupon_outbox_status(
	exact boolean DEFAULT true, OUT unpublished bigint, OUT oldest_age interval, OUT in_flight bigint,
	OUT published bigint, OUT retried bigint, OUT dead bigint, OUT dead_letters bigint,
	OUT last_ack_at timestamptz, OUT broker text, OUT refused_topics text,
	OUT last_error text, OUT last_error_at timestamptz,
	OUT blocking_age interval, OUT blocking_pid integer, OUT size_bytes bigint)
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT s.unpublished, clock_timestamp() - s.oldest_at, s.in_flight, s.published, s.retried, s.dead,
	       (SELECT count(*) FROM (SELECT FROM coupon.dead_letter LIMIT CASE WHEN $1 IS FALSE THEN 10000 END) d), s.acknowledged_at, s.broker, s.refused_topics,
	       s.last_error, s.failed_at, clock_timestamp() - b.xact_start, b.pid, s.size_bytes
	  FROM coupon.publisher_state($1 IS NOT FALSE) s
	  LEFT JOIN LATERAL (
		SELECT coalesce(a.xact_start, p.prepared) AS xact_start, a.pid
		  FROM pg_locks l
		  LEFT JOIN pg_stat_activity a ON a.pid = l.pid
		  LEFT JOIN pg_prepared_xacts p ON l.pid IS NULL AND p.transaction::text = split_part(l.virtualtransaction, '/', 2)
		 WHERE l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
		   AND l.relation IN ('coupon.outbox_0'::regclass, 'coupon.outbox_1'::regclass, 'coupon.outbox_2'::regclass)
		   AND (a.backend_type NOT LIKE 'coupon %' AND a.pid <> pg_backend_pid() OR p.transaction IS NOT NULL)
		 ORDER BY 1 LIMIT 1) b ON true
$$;
COMMENT ON FUNCTION @extschema@.coupon_outbox_status(boolean) IS
	'The outbox and its publisher: what is yet to be published and since when, what became of the rest since the server started or coupon_stat_reset(), the broker and the last error, and the oldest open transaction that uses the outbox. With exact false it takes no longer for a large outbox: events are estimated by a sample of 16 MB, and 10000 dead letters are counted at most.';
