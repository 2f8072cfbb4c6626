-- Statistics: counters, histograms and what is open now, in shared memory, of
-- this database.  They count from stats_reset on: coupon_stat_reset(), or the
-- server's start.  Nothing here tells of a user.

CREATE FUNCTION coupon.stat_since() RETURNS timestamptz
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'coupon_stat_since';
COMMENT ON FUNCTION coupon.stat_since() IS 'From when on statistics count.';

CREATE FUNCTION @extschema@.coupon_stat_reset() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_stat_reset() IS
	'The counters of coupon.stat_* begin anew, at once and for all sessions of this database.';

-- ---- calls ----

CREATE FUNCTION coupon.stat_calls(OUT way text, OUT outcome text, OUT calls bigint) RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 400 AS 'MODULE_PATHNAME', 'coupon_stat_calls';
COMMENT ON FUNCTION coupon.stat_calls() IS 'coupon.stat_call';

CREATE FUNCTION coupon.stat_errors(OUT way text, OUT class text, OUT errors bigint) RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 20 AS 'MODULE_PATHNAME', 'coupon_stat_errors';
COMMENT ON FUNCTION coupon.stat_errors() IS 'coupon.stat_error';

CREATE FUNCTION coupon.stat_ways(
	OUT way text, OUT calls bigint, OUT errors bigint, OUT aborted bigint, OUT seconds double precision,
	OUT p50 double precision, OUT p95 double precision, OUT p99 double precision) RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 21 AS 'MODULE_PATHNAME', 'coupon_stat_ways';
COMMENT ON FUNCTION coupon.stat_ways() IS 'coupon.stat_way';

CREATE FUNCTION coupon.stat_latencies(OUT way text, OUT upper double precision, OUT calls bigint) RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 900 AS 'MODULE_PATHNAME', 'coupon_stat_latencies';
COMMENT ON FUNCTION coupon.stat_latencies() IS 'coupon.stat_latency';

CREATE FUNCTION coupon.stat_batches(OUT way text, OUT batches bigint, OUT items bigint, OUT largest bigint) RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 4 AS 'MODULE_PATHNAME', 'coupon_stat_batches';
COMMENT ON FUNCTION coupon.stat_batches() IS 'coupon.stat_batch';

CREATE FUNCTION coupon.stat_tallies(OUT name text, OUT value bigint) RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'coupon_stat_tallies';
COMMENT ON FUNCTION coupon.stat_tallies() IS 'What is counted beside calls: coupon.stat_stock, coupon.stat_memory and coupon.stat_front show it.';

CREATE VIEW coupon.stat_call AS
SELECT s.way, s.outcome, s.calls, coupon.stat_since() AS stats_reset FROM coupon.stat_calls() s;
COMMENT ON VIEW coupon.stat_call IS 'Calls by way in and outcome: one for each user or unit that was asked for, counted when the transaction ends.';
COMMENT ON COLUMN coupon.stat_call.way IS 'issue | many | grouped | http_issue | request | decision | hold | hold_many | hold_any | confirm | release | redeem | cancel | revoke | join | http | http_waited | http_stream | http_operator | http_front | commit';
COMMENT ON COLUMN coupon.stat_call.outcome IS 'The answer; aborted: there was one, and its transaction or savepoint was rolled back; error: an ERROR instead. Of http ways the status.';
COMMENT ON COLUMN coupon.stat_call.calls IS 'How many.';
COMMENT ON COLUMN coupon.stat_call.stats_reset IS 'From when on.';

CREATE VIEW coupon.stat_error AS
SELECT s.way, s.class, s.errors, coupon.stat_since() AS stats_reset FROM coupon.stat_errors() s;
COMMENT ON VIEW coupon.stat_error IS 'Calls that ended with an ERROR, by the class of its SQLSTATE, where there are any.';
COMMENT ON COLUMN coupon.stat_error.way IS 'The way in.';
COMMENT ON COLUMN coupon.stat_error.class IS 'The first two characters of the SQLSTATE, or other.';
COMMENT ON COLUMN coupon.stat_error.errors IS 'How many.';
COMMENT ON COLUMN coupon.stat_error.stats_reset IS 'From when on.';

CREATE VIEW coupon.stat_way AS
SELECT s.way, s.calls, s.errors, s.aborted, s.seconds, s.p50, s.p95, s.p99, coupon.stat_since() AS stats_reset FROM coupon.stat_ways() s;
COMMENT ON VIEW coupon.stat_way IS 'Each way in at a glance: how many calls, and how long they took, in seconds.';
COMMENT ON COLUMN coupon.stat_way.way IS 'The way in.';
COMMENT ON COLUMN coupon.stat_way.calls IS 'All calls, whatever came of them.';
COMMENT ON COLUMN coupon.stat_way.errors IS 'Those among them that ended with an ERROR.';
COMMENT ON COLUMN coupon.stat_way.aborted IS 'Those that had an answer and were rolled back.';
COMMENT ON COLUMN coupon.stat_way.seconds IS 'How long all of them took together.';
COMMENT ON COLUMN coupon.stat_way.p50 IS 'Half of them took no longer, by the histogram: at most 1.67 times too much.';
COMMENT ON COLUMN coupon.stat_way.p95 IS '95 of 100 took no longer.';
COMMENT ON COLUMN coupon.stat_way.p99 IS '99 of 100 took no longer.';
COMMENT ON COLUMN coupon.stat_way.stats_reset IS 'From when on.';

CREATE VIEW coupon.stat_latency AS
SELECT s.way, s.upper, s.calls, coupon.stat_since() AS stats_reset FROM coupon.stat_latencies() s;
COMMENT ON VIEW coupon.stat_latency IS 'How long calls took: a histogram for each way in, from the start of a call to the end of its commit, or to its answer.';
COMMENT ON COLUMN coupon.stat_latency.way IS 'The way in.';
COMMENT ON COLUMN coupon.stat_latency.upper IS 'Seconds; infinity for all.';
COMMENT ON COLUMN coupon.stat_latency.calls IS 'How many took no longer.';
COMMENT ON COLUMN coupon.stat_latency.stats_reset IS 'From when on.';

CREATE VIEW coupon.stat_batch AS
SELECT s.way, s.batches, s.items, s.largest, coupon.stat_since() AS stats_reset FROM coupon.stat_batches() s;
COMMENT ON VIEW coupon.stat_batch IS 'What was worked off together, in one transaction or call.';
COMMENT ON COLUMN coupon.stat_batch.way IS 'many | grouped | http_issue | decision';
COMMENT ON COLUMN coupon.stat_batch.batches IS 'How many batches.';
COMMENT ON COLUMN coupon.stat_batch.items IS 'How many users there were in them.';
COMMENT ON COLUMN coupon.stat_batch.largest IS 'Most users of a batch.';
COMMENT ON COLUMN coupon.stat_batch.stats_reset IS 'From when on.';

-- ---- campaigns, stock, memory ----

CREATE FUNCTION coupon.stat_campaigns(
	apart bigint[], OUT campaign_id bigint, OUT map_bytes bigint,
	OUT answered_issued bigint, OUT answered_already_issued bigint, OUT answered_sold_out bigint, OUT answered_busy bigint,
	OUT answered_not_open bigint, OUT answered_closed bigint, OUT answered_paused bigint, OUT answered_not_admitted bigint,
	OUT answered_held bigint) RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'coupon_stat_campaigns';
COMMENT ON FUNCTION coupon.stat_campaigns(bigint[]) IS 'coupon.stat_campaign; given some campaigns those, and the sum of all others in a row without an id.';

CREATE FUNCTION coupon.stat_slots(
	OUT campaigns bigint, OUT max_campaigns bigint, OUT maps bigint, OUT map_bytes bigint, OUT map_memory_bytes bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'coupon_stat_memory';
COMMENT ON FUNCTION coupon.stat_slots() IS 'coupon.stat_memory';

CREATE VIEW coupon.stat_campaign AS
SELECT s.campaign_id, c.name, coupon.campaign_state(c.closed_at, c.closes_at, c.paused OR c.dumped IS NOT NULL, c.opens_at) AS state, s.map_bytes,
       s.answered_issued, s.answered_already_issued, s.answered_sold_out, s.answered_busy, s.answered_not_open, s.answered_closed,
       s.answered_paused, s.answered_not_admitted, s.answered_held, coupon.stat_since() AS stats_reset
  FROM coupon.stat_campaigns(NULL::bigint[]) s JOIN coupon.campaign c ON c.campaign_id OPERATOR(pg_catalog.=) s.campaign_id;
COMMENT ON VIEW coupon.stat_campaign IS 'The answers of each campaign that shared memory knows, by any way in. A campaign that was not used for long may be forgotten, and counts anew.';
COMMENT ON COLUMN coupon.stat_campaign.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.stat_campaign.name IS 'Its name.';
COMMENT ON COLUMN coupon.stat_campaign.state IS 'open | not_open | paused | closed';
COMMENT ON COLUMN coupon.stat_campaign.map_bytes IS 'The memory of its stock map; null: it has none at the moment.';
COMMENT ON COLUMN coupon.stat_campaign.answered_issued IS 'How many issues were committed.';
COMMENT ON COLUMN coupon.stat_campaign.answered_already_issued IS 'How many calls were answered already_issued, rolled back or not.';
COMMENT ON COLUMN coupon.stat_campaign.answered_sold_out IS 'How many were answered sold_out.';
COMMENT ON COLUMN coupon.stat_campaign.answered_busy IS 'How many were answered busy.';
COMMENT ON COLUMN coupon.stat_campaign.answered_not_open IS 'How many were answered not_open.';
COMMENT ON COLUMN coupon.stat_campaign.answered_closed IS 'How many were answered closed.';
COMMENT ON COLUMN coupon.stat_campaign.answered_paused IS 'How many were answered paused.';
COMMENT ON COLUMN coupon.stat_campaign.answered_not_admitted IS 'How many were answered not_admitted.';
COMMENT ON COLUMN coupon.stat_campaign.answered_held IS 'How many were answered held.';
COMMENT ON COLUMN coupon.stat_campaign.stats_reset IS 'From when on.';

CREATE VIEW coupon.stat_stock AS
SELECT pg_catalog.max(t.value) FILTER (WHERE t.name OPERATOR(pg_catalog.=) 'map_builds') AS map_builds,
       pg_catalog.max(t.value) FILTER (WHERE t.name OPERATOR(pg_catalog.=) 'map_checks') AS map_checks,
       pg_catalog.max(t.value) FILTER (WHERE t.name OPERATOR(pg_catalog.=) 'false_hints') AS false_hints,
       pg_catalog.max(t.value) FILTER (WHERE t.name OPERATOR(pg_catalog.=) 'waits') AS waits,
       pg_catalog.max(t.value) FILTER (WHERE t.name OPERATOR(pg_catalog.=) 'retries') AS retries,
       coupon.stat_since() AS stats_reset
  FROM coupon.stat_tallies() t;
COMMENT ON VIEW coupon.stat_stock IS 'What stock maps cost, and what calls had to do again.';
COMMENT ON COLUMN coupon.stat_stock.map_builds IS 'Shards of stock maps that were read from the index.';
COMMENT ON COLUMN coupon.stat_stock.map_checks IS 'Shards that were compared with the index again, before a campaign was called sold out.';
COMMENT ON COLUMN coupon.stat_stock.false_hints IS 'Units that a map called free, and the index did not: each cost a refused insertion.';
COMMENT ON COLUMN coupon.stat_stock.waits IS 'Sleeps for units that other transactions have in flight.';
COMMENT ON COLUMN coupon.stat_stock.retries IS 'Further rounds of a batch, waits for a unit that is busy, batches done again after an ERROR.';
COMMENT ON COLUMN coupon.stat_stock.stats_reset IS 'From when on.';

CREATE VIEW coupon.stat_memory AS
SELECT m.campaigns, m.max_campaigns, m.maps, m.map_bytes, m.map_memory_bytes,
       (SELECT t.value FROM coupon.stat_tallies() t WHERE t.name OPERATOR(pg_catalog.=) 'map_evictions') AS map_evictions,
       (SELECT t.value FROM coupon.stat_tallies() t WHERE t.name OPERATOR(pg_catalog.=) 'campaign_evictions') AS campaign_evictions,
       coupon.stat_since() AS stats_reset
  FROM coupon.stat_slots() m;
COMMENT ON VIEW coupon.stat_memory IS 'Shared memory for campaigns: what the whole server uses, and what sessions of this database had to push out.';
COMMENT ON COLUMN coupon.stat_memory.campaigns IS 'Campaigns in use.';
COMMENT ON COLUMN coupon.stat_memory.max_campaigns IS 'How many there may be: coupon.max_campaigns.';
COMMENT ON COLUMN coupon.stat_memory.maps IS 'Stock maps.';
COMMENT ON COLUMN coupon.stat_memory.map_bytes IS 'What maps and definitions take.';
COMMENT ON COLUMN coupon.stat_memory.map_memory_bytes IS 'What they may take: coupon.stock_map_memory.';
COMMENT ON COLUMN coupon.stat_memory.map_evictions IS 'Maps of idle campaigns that made room for others.';
COMMENT ON COLUMN coupon.stat_memory.campaign_evictions IS 'Campaigns that were forgotten for others.';
COMMENT ON COLUMN coupon.stat_memory.stats_reset IS 'From when on evictions count.';

-- ---- queues, rooms, outbox ----

CREATE FUNCTION coupon.stat_clock_ahead() RETURNS double precision
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'coupon_stat_clock_ahead';
COMMENT ON FUNCTION coupon.stat_clock_ahead() IS 'By how many seconds the ids of events are ahead of the clock.';

CREATE VIEW coupon.stat_queue AS
SELECT q.campaign AS campaign_id, q.depth AS waiting, COALESCE(EXTRACT(epoch FROM q.oldest), 0)::double precision AS oldest_seconds,
       q.decided, q.decided_per_second, q.depth_limit AS waiting_limit, coupon.stat_since() AS stats_reset
  FROM @extschema@.coupon_request_queue() q;
COMMENT ON VIEW coupon.stat_queue IS 'The requests of each campaign that shared memory knows.';
COMMENT ON COLUMN coupon.stat_queue.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.stat_queue.waiting IS 'How many wait.';
COMMENT ON COLUMN coupon.stat_queue.oldest_seconds IS 'How long the oldest has waited.';
COMMENT ON COLUMN coupon.stat_queue.decided IS 'How many were decided; a campaign that nobody asks for may be forgotten, and counts anew.';
COMMENT ON COLUMN coupon.stat_queue.decided_per_second IS 'How many were decided a second when it last decided.';
COMMENT ON COLUMN coupon.stat_queue.waiting_limit IS 'How many may wait: coupon.request_depth.';
COMMENT ON COLUMN coupon.stat_queue.stats_reset IS 'From when on decided counts.';

CREATE VIEW coupon.stat_room AS
SELECT r.room_id, r.name, r.state, r.capacity, r.waiting, r.admitted, r.joined, r.served, r.served_per_second,
       coupon.stat_since() AS stats_reset
  FROM coupon.room_status r;
COMMENT ON VIEW coupon.stat_room IS 'The flow of each waiting room.';
COMMENT ON COLUMN coupon.stat_room.room_id IS 'The room.';
COMMENT ON COLUMN coupon.stat_room.name IS 'Its name.';
COMMENT ON COLUMN coupon.stat_room.state IS 'open | not_open | paused';
COMMENT ON COLUMN coupon.stat_room.capacity IS 'How many may be admitted at a time.';
COMMENT ON COLUMN coupon.stat_room.waiting IS 'How many wait.';
COMMENT ON COLUMN coupon.stat_room.admitted IS 'How many are admitted.';
COMMENT ON COLUMN coupon.stat_room.joined IS 'How many tickets were given, ever.';
COMMENT ON COLUMN coupon.stat_room.served IS 'How many were admitted.';
COMMENT ON COLUMN coupon.stat_room.served_per_second IS 'How many were admitted a second when it last admitted.';
COMMENT ON COLUMN coupon.stat_room.stats_reset IS 'From when on served counts.';

-- The setting is a superuser's to see.
CREATE FUNCTION coupon.has_broker() RETURNS boolean
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT current_setting('coupon.kafka_brokers') <> '' $$;
COMMENT ON FUNCTION coupon.has_broker() IS 'Whether coupon.kafka_brokers names a broker.';

CREATE VIEW coupon.stat_outbox AS
SELECT o.unpublished, COALESCE(EXTRACT(epoch FROM o.oldest_age), 0)::double precision AS oldest_seconds,
       COALESCE(EXTRACT(epoch FROM o.blocking_age), 0)::double precision AS blocking_seconds, o.size_bytes,
       (SELECT pg_catalog.count(*) FROM (SELECT FROM coupon.outbox_parked LIMIT 10000) p) AS parked,
       coupon.stat_clock_ahead() AS clock_ahead_seconds, o.in_flight, o.published, o.retried, o.dead, o.dead_letters,
       coupon.has_broker() AS configured,
       o.broker OPERATOR(pg_catalog.=) 'up' AS connected,
       o.last_error_at IS NOT NULL AND (o.last_ack_at IS NULL OR o.last_error_at OPERATOR(pg_catalog.>) o.last_ack_at) AS failing,
       o.refused_topics IS NOT NULL AS refused_topics, coupon.stat_since() AS stats_reset
  FROM @extschema@.coupon_outbox_status(false) o;
COMMENT ON VIEW coupon.stat_outbox IS 'The outbox and its publisher in numbers: coupon_outbox_status() has the texts, and counts exactly.';
COMMENT ON COLUMN coupon.stat_outbox.unpublished IS 'Events that are not published; of an outbox of more than 16 MB an estimate.';
COMMENT ON COLUMN coupon.stat_outbox.oldest_seconds IS 'How old the oldest of them is.';
COMMENT ON COLUMN coupon.stat_outbox.blocking_seconds IS 'How long the oldest open transaction that uses the outbox has run.';
COMMENT ON COLUMN coupon.stat_outbox.size_bytes IS 'The size of the outbox''s tables.';
COMMENT ON COLUMN coupon.stat_outbox.parked IS 'Events that are put aside, for the topic is refused; at most 10000 are counted.';
COMMENT ON COLUMN coupon.stat_outbox.clock_ahead_seconds IS 'By how much the ids of events are ahead of the clock, which was set back.';
COMMENT ON COLUMN coupon.stat_outbox.in_flight IS 'Events that are sent and not acknowledged.';
COMMENT ON COLUMN coupon.stat_outbox.published IS 'Events that the broker acknowledged.';
COMMENT ON COLUMN coupon.stat_outbox.retried IS 'Events that were sent again.';
COMMENT ON COLUMN coupon.stat_outbox.dead IS 'Events that became dead letters.';
COMMENT ON COLUMN coupon.stat_outbox.dead_letters IS 'Dead letters that there are; at most 10000 are counted.';
COMMENT ON COLUMN coupon.stat_outbox.configured IS 'Whether coupon.kafka_brokers names a broker.';
COMMENT ON COLUMN coupon.stat_outbox.connected IS 'Whether a broker is reached.';
COMMENT ON COLUMN coupon.stat_outbox.failing IS 'Whether the last thing that the publisher did was to fail.';
COMMENT ON COLUMN coupon.stat_outbox.refused_topics IS 'Whether the broker refuses a topic.';
COMMENT ON COLUMN coupon.stat_outbox.stats_reset IS 'From when on published, retried and dead count.';

-- ---- workers, the front ----

CREATE FUNCTION coupon.stat_workers(
	OUT kind text, OUT instance integer, OUT wanted boolean, OUT pid integer, OUT started_at timestamptz,
	OUT starts bigint, OUT errors bigint, OUT wakes bigint, OUT cycles bigint) RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'coupon_stat_workers';
COMMENT ON FUNCTION coupon.stat_workers() IS 'coupon.stat_worker, without the front';

CREATE FUNCTION coupon.stat_front_workers(
	OUT instance integer, OUT wanted boolean, OUT pid integer, OUT started_at timestamptz, OUT starts bigint,
	OUT connections bigint, OUT waiting bigint, OUT streams bigint, OUT slowest double precision) RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 2 AS 'MODULE_PATHNAME', 'coupon_stat_front_workers';
COMMENT ON FUNCTION coupon.stat_front_workers() IS 'The workers of the HTTP front, if it serves this database.';

CREATE VIEW coupon.stat_worker AS
SELECT w.kind, w.instance, w.wanted, w.pid, w.started_at, w.starts, w.errors, w.wakes, w.cycles, coupon.stat_since() AS stats_reset
  FROM coupon.stat_workers() w
UNION ALL
SELECT 'front', f.instance, f.wanted, f.pid, f.started_at, f.starts, NULL, NULL, NULL, coupon.stat_since()
  FROM coupon.stat_front_workers() f;
COMMENT ON VIEW coupon.stat_worker IS 'The workers of this database: those that the settings ask for, and those that ran.';
COMMENT ON COLUMN coupon.stat_worker.kind IS 'sweeper | issuer | room worker | group | publisher | transfer | front';
COMMENT ON COLUMN coupon.stat_worker.instance IS 'Which one of its kind, from 0.';
COMMENT ON COLUMN coupon.stat_worker.wanted IS 'Whether the settings ask for it.';
COMMENT ON COLUMN coupon.stat_worker.pid IS 'Its process; null: it does not run.';
COMMENT ON COLUMN coupon.stat_worker.started_at IS 'When it was started last; null: never.';
COMMENT ON COLUMN coupon.stat_worker.starts IS 'How often it was started.';
COMMENT ON COLUMN coupon.stat_worker.errors IS 'How many of its cycles ended with an ERROR; null: not counted.';
COMMENT ON COLUMN coupon.stat_worker.wakes IS 'How often whoever had work woke it; null: not counted.';
COMMENT ON COLUMN coupon.stat_worker.cycles IS 'How many cycles it has begun, each a transaction; null: not counted.';
COMMENT ON COLUMN coupon.stat_worker.stats_reset IS 'From when on.';

CREATE VIEW coupon.stat_front AS
SELECT COALESCE(f.connections, 0)::bigint AS connections,
       pg_catalog.current_setting('coupon.http_max_connections')::bigint OPERATOR(pg_catalog.*) pg_catalog.current_setting('coupon.http_workers')::bigint AS max_connections,
       COALESCE(f.waiting, 0)::bigint AS waiting, COALESCE(f.streams, 0)::bigint AS streams,
       (SELECT t.value FROM coupon.stat_tallies() t WHERE t.name OPERATOR(pg_catalog.=) 'refused_rate') AS refused_rate,
       (SELECT t.value FROM coupon.stat_tallies() t WHERE t.name OPERATOR(pg_catalog.=) 'refused_full') AS refused_full,
       (SELECT t.value FROM coupon.stat_tallies() t WHERE t.name OPERATOR(pg_catalog.=) 'refused_size') AS refused_size,
       COALESCE(f.slowest, 0) AS slowest_seconds, coupon.stat_since() AS stats_reset
  FROM (SELECT pg_catalog.sum(w.connections) AS connections, pg_catalog.sum(w.waiting) AS waiting,
               pg_catalog.sum(w.streams) AS streams, pg_catalog.max(w.slowest) AS slowest
          FROM coupon.stat_front_workers() w) f;
COMMENT ON VIEW coupon.stat_front IS 'The HTTP front, of all its workers; coupon.stat_call has its answers, and coupon.stat_latency how long they took.';
COMMENT ON COLUMN coupon.stat_front.connections IS 'Open connections.';
COMMENT ON COLUMN coupon.stat_front.max_connections IS 'How many there may be.';
COMMENT ON COLUMN coupon.stat_front.waiting IS 'Calls whose answer is waited for.';
COMMENT ON COLUMN coupon.stat_front.streams IS 'Open event streams.';
COMMENT ON COLUMN coupon.stat_front.refused_rate IS 'Calls that were refused because their user or address calls too often.';
COMMENT ON COLUMN coupon.stat_front.refused_full IS 'Calls that were refused because too many wait or are connected.';
COMMENT ON COLUMN coupon.stat_front.refused_size IS 'Calls that were refused because something of them is too large.';
COMMENT ON COLUMN coupon.stat_front.slowest_seconds IS 'The slowest answer.';
COMMENT ON COLUMN coupon.stat_front.stats_reset IS 'From when on.';
