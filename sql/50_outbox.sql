-- Events: the outbox, and what the broker did not accept.

-- No index: rows are appended to one child; the publisher reads them in order
-- and removes what is delivered; a child without rows is truncated in rotation.
CREATE TABLE coupon.outbox (
	id      uuid NOT NULL,
	topic   text NOT NULL,
	key     text NOT NULL,
	type    text NOT NULL,
	payload json NOT NULL,
	CONSTRAINT outbox_children_only CHECK (false) NO INHERIT
);
CREATE TABLE coupon.outbox_0 () INHERITS (coupon.outbox) USING heap;
CREATE TABLE coupon.outbox_1 () INHERITS (coupon.outbox) USING heap;
CREATE TABLE coupon.outbox_2 () INHERITS (coupon.outbox) USING heap;
-- A subscriber gets what is appended, and loses what was delivered when a child
-- is truncated, not row by row: there is no key, and with FULL it would stop at
-- the first row, since json has no equality.
ALTER TABLE coupon.outbox_0 REPLICA IDENTITY NOTHING;
ALTER TABLE coupon.outbox_1 REPLICA IDENTITY NOTHING;
ALTER TABLE coupon.outbox_2 REPLICA IDENTITY NOTHING;
COMMENT ON TABLE coupon.outbox IS 'events, each committed with the change it tells of; the rows are in its children';
COMMENT ON TABLE coupon.outbox_0 IS 'events, first of three tables used in rotation';
COMMENT ON TABLE coupon.outbox_1 IS 'events, second of three tables used in rotation';
COMMENT ON TABLE coupon.outbox_2 IS 'events, third of three tables used in rotation';
COMMENT ON COLUMN coupon.outbox.id IS 'UUID version 7, strictly increasing in append order; consumers drop duplicates by it';
COMMENT ON COLUMN coupon.outbox.topic IS 'Kafka topic';
COMMENT ON COLUMN coupon.outbox.key IS 'Kafka key: the user, or the campaign for a campaign''s own events';
COMMENT ON COLUMN coupon.outbox.type IS 'what happened; types that begin with coupon. are the engine''s own';
COMMENT ON COLUMN coupon.outbox.payload IS 'the event, as it is published';

-- Below what it says ids may have been given; see src/outbox/event_id.c.
CREATE SEQUENCE coupon.event_clock MINVALUE 0;
COMMENT ON SEQUENCE coupon.event_clock IS 'milliseconds since 1970 below which event ids may have been given, times 65536, and a number of the server''s start';

CREATE TABLE coupon.dead_letter (
	id       uuid PRIMARY KEY,
	topic    text NOT NULL,
	key      text NOT NULL,
	type     text NOT NULL,
	payload  json NOT NULL,
	reason   text NOT NULL,
	attempts integer NOT NULL,
	dead_at  timestamptz NOT NULL
);
COMMENT ON TABLE coupon.dead_letter IS 'events that the broker will not accept; coupon_dead_letter_replay puts them back into the outbox';
COMMENT ON COLUMN coupon.dead_letter.id IS 'the event''s id';
COMMENT ON COLUMN coupon.dead_letter.topic IS 'the topic that it was for';
COMMENT ON COLUMN coupon.dead_letter.key IS 'its key';
COMMENT ON COLUMN coupon.dead_letter.type IS 'its type';
COMMENT ON COLUMN coupon.dead_letter.payload IS 'the event';
COMMENT ON COLUMN coupon.dead_letter.reason IS 'why it was not accepted';
COMMENT ON COLUMN coupon.dead_letter.attempts IS 'how often it was tried';
COMMENT ON COLUMN coupon.dead_letter.dead_at IS 'when it was given up';

SELECT pg_catalog.pg_extension_config_dump('coupon.event_clock', '');
SELECT pg_catalog.pg_extension_config_dump('coupon.dead_letter', '');

CREATE FUNCTION @extschema@.coupon_emit(topic text, key text, type text, payload jsonb)
RETURNS uuid
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_emit(text, text, text, jsonb) IS
	'appends the application''s own event to the outbox, committed with the caller''s transaction; returns the event id';

CREATE FUNCTION @extschema@.coupon_dead_letter_replay(id uuid DEFAULT NULL, topic text DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_dead_letter_replay(uuid, text) IS
	'puts dead letters back into the outbox under their ids: one, those of a topic, or all; returns how many';

CREATE FUNCTION @extschema@.coupon_dead_letter_discard(id uuid DEFAULT NULL, topic text DEFAULT NULL)
RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	WITH gone AS (
		DELETE FROM coupon.dead_letter d
		 WHERE (coupon_dead_letter_discard.id IS NULL OR d.id = coupon_dead_letter_discard.id)
		   AND (coupon_dead_letter_discard.topic IS NULL OR d.topic = coupon_dead_letter_discard.topic)
		RETURNING 1)
	SELECT count(*) FROM gone
$$;
COMMENT ON FUNCTION @extschema@.coupon_dead_letter_discard(uuid, text) IS
	'deletes dead letters for good: one, those of a topic, or all; returns how many';

CREATE FUNCTION coupon.publisher_state(
	OUT unpublished bigint, OUT oldest_at timestamptz, OUT in_flight bigint,
	OUT published bigint, OUT retried bigint, OUT dead bigint,
	OUT acknowledged_at timestamptz, OUT broker text, OUT refused_topics text,
	OUT last_error text, OUT failed_at timestamptz, OUT size_bytes bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_publisher_state';
COMMENT ON FUNCTION coupon.publisher_state() IS 'what coupon_outbox_status is made of';

CREATE FUNCTION @extschema@.coupon_outbox_status(
	OUT unpublished bigint, OUT oldest_age interval, OUT in_flight bigint,
	OUT published bigint, OUT retried bigint, OUT dead bigint, OUT dead_letters bigint,
	OUT last_ack_at timestamptz, OUT broker text, OUT refused_topics text,
	OUT last_error text, OUT last_error_at timestamptz,
	OUT blocking_age interval, OUT blocking_pid integer, OUT size_bytes bigint)
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT s.unpublished, clock_timestamp() - s.oldest_at, s.in_flight, s.published, s.retried, s.dead,
	       (SELECT count(*) FROM coupon.dead_letter), s.acknowledged_at, s.broker, s.refused_topics,
	       s.last_error, s.failed_at, clock_timestamp() - b.xact_start, b.pid, s.size_bytes
	  FROM coupon.publisher_state() s
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
COMMENT ON FUNCTION @extschema@.coupon_outbox_status() IS
	'the outbox and its publisher: what is yet to be published and since when, what became of the rest since the server started, the broker and the last error, the oldest open transaction that uses the outbox';
