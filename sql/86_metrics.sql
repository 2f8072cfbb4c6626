-- /metrics: the statistics in Prometheus's text format.

-- RETURN, so that it is inlined.  For names: all other values are numbers or words of ours.
CREATE FUNCTION coupon.label(name text, value text) RETURNS text
LANGUAGE sql STABLE
RETURN pg_catalog.concat($1, '="', pg_catalog.replace(pg_catalog.replace(pg_catalog.replace($2, E'\\', E'\\\\'), '"', E'\\"'), E'\n', E'\\n'), '"');
COMMENT ON FUNCTION coupon.label(text, text) IS 'A label in Prometheus''s text format.';

-- One campaign that cannot be looked at now must not make all others unseen.
CREATE FUNCTION coupon.stock_now(
	campaign_id bigint,
	OUT stock bigint, OUT issued bigint, OUT held bigint, OUT in_flight bigint, OUT remaining bigint)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	SELECT s.stock, s.issued, s.held, s.in_flight, s.remaining INTO stock, issued, held, in_flight, remaining
	  FROM coupon.campaign_status s WHERE s.campaign_id = $1;
EXCEPTION WHEN OTHERS THEN
	NULL;
END
$$;
COMMENT ON FUNCTION coupon.stock_now(bigint) IS 'What coupon_status() says of the stock; nulls where that fails.';

CREATE FUNCTION coupon.metric_families(OUT n bigint, OUT family text, OUT kind text, OUT help text) RETURNS SETOF record
LANGUAGE sql STABLE ROWS 90 SET search_path = pg_catalog, pg_temp
AS $$
SELECT row_number() OVER (), 'coupon_' || m.name, m.kind, m.help FROM (VALUES
	('up', 'gauge', 'Whether this server sells: 0 on a standby, and where coupon is not preloaded.'),
	('stats_reset_timestamp_seconds', 'gauge', 'From when on the counters count.'),
	('calls_total', 'counter', 'Calls by way in and outcome, one for each user or unit that was asked for.'),
	('call_errors_total', 'counter', 'Calls that ended with an ERROR, by the class of its SQLSTATE.'),
	('call_duration_seconds', 'histogram', 'From the start of a call to the end of its commit, or to its answer.'),
	('batches_total', 'counter', 'What was worked off together.'),
	('batch_items_total', 'counter', 'How many users there were in batches.'),
	('batch_largest', 'gauge', 'Most users of a batch.'),
	('stock_map_builds_total', 'counter', 'Shards of stock maps that were read from the index.'),
	('stock_map_checks_total', 'counter', 'Shards of stock maps that were compared with the index again.'),
	('stock_false_hints_total', 'counter', 'Units that a map called free, and the index did not.'),
	('stock_waits_total', 'counter', 'Sleeps for units that other transactions have in flight.'),
	('stock_retries_total', 'counter', 'Further rounds of a batch, waits for a busy unit, batches done again.'),
	('campaigns', 'gauge', 'Campaigns by state.'),
	('campaign_info', 'gauge', 'What a campaign is called, and its state.'),
	('campaign_open', 'gauge', 'Whether a campaign is open: 0 when it is paused, or not yet open.'),
	('campaign_opens_timestamp_seconds', 'gauge', 'When a campaign opens.'),
	('campaign_closes_timestamp_seconds', 'gauge', 'When a campaign closes.'),
	('campaign_answers_total', 'counter', 'Answers of issue calls by any way in; other: of all campaigns that are not shown.'),
	('campaign_stock', 'gauge', 'Units of a campaign.'),
	('campaign_issued', 'gauge', 'Units that are issued.'),
	('campaign_held', 'gauge', 'Units that are held.'),
	('campaign_in_flight', 'gauge', 'Units that are being issued.'),
	('campaign_remaining', 'gauge', 'Units that are free.'),
	('requests_waiting', 'gauge', 'Requests that are not decided.'),
	('requests_oldest_seconds', 'gauge', 'How long the oldest of them has waited.'),
	('requests_limit', 'gauge', 'How many may wait.'),
	('requests_decided_total', 'counter', 'Requests that were decided.'),
	('room_open', 'gauge', 'Whether a room admits: 0 when it is paused, or not yet open.'),
	('room_capacity', 'gauge', 'How many may be admitted at a time.'),
	('room_waiting', 'gauge', 'Tickets that wait.'),
	('room_admitted', 'gauge', 'Tickets that are admitted.'),
	('room_joined_total', 'counter', 'Tickets that were given.'),
	('room_served_total', 'counter', 'Tickets that were admitted.'),
	('outbox_unpublished', 'gauge', 'Events that are not published; of a large outbox an estimate.'),
	('outbox_oldest_seconds', 'gauge', 'How old the oldest of them is.'),
	('outbox_bytes', 'gauge', 'The size of the tables of the outbox.'),
	('outbox_blocking_seconds', 'gauge', 'How long the oldest open transaction that uses the outbox has run.'),
	('outbox_parked', 'gauge', 'Events put aside, for their topic is refused; at most 10000 are counted.'),
	('outbox_clock_ahead_seconds', 'gauge', 'By how much the ids of events are ahead of the clock, which was set back.'),
	('publisher_configured', 'gauge', 'Whether a broker is configured.'),
	('publisher_connected', 'gauge', 'Whether a broker is reached.'),
	('publisher_failing', 'gauge', 'Whether the last thing that the publisher did was to fail.'),
	('publisher_refused_topics', 'gauge', 'Whether the broker refuses a topic.'),
	('publisher_in_flight', 'gauge', 'Events that are sent and not acknowledged.'),
	('publisher_published_total', 'counter', 'Events that the broker acknowledged.'),
	('publisher_retried_total', 'counter', 'Events that were sent again.'),
	('publisher_dead_total', 'counter', 'Events that became dead letters.'),
	('dead_letters', 'gauge', 'Dead letters; at most 10000 are counted.'),
	('workers', 'gauge', 'Running workers of this database, by kind.'),
	('workers_wanted', 'gauge', 'Workers that the settings ask for.'),
	('worker_starts_total', 'counter', 'How often workers were started.'),
	('worker_errors_total', 'counter', 'Cycles of workers that ended with an ERROR.'),
	('worker_wakes_total', 'counter', 'How often workers were woken by whoever had work.'),
	('worker_cycles_total', 'counter', 'Cycles that workers have begun.'),
	('memory_campaigns', 'gauge', 'Campaigns in shared memory, of the whole server.'),
	('memory_campaigns_limit', 'gauge', 'How many there may be.'),
	('memory_maps', 'gauge', 'Stock maps in shared memory.'),
	('memory_map_bytes', 'gauge', 'What maps and definitions take.'),
	('memory_map_limit_bytes', 'gauge', 'What they may take.'),
	('memory_map_evictions_total', 'counter', 'Maps of idle campaigns that made room for others.'),
	('memory_campaign_evictions_total', 'counter', 'Campaigns that were forgotten for others.'),
	('http_connections', 'gauge', 'Open connections of the HTTP front.'),
	('http_connections_limit', 'gauge', 'How many there may be.'),
	('http_waiting', 'gauge', 'HTTP calls whose answer is waited for.'),
	('http_streams', 'gauge', 'Open event streams.'),
	('http_refused_total', 'counter', 'HTTP calls that were refused before any work, by reason.'),
	('sessions', 'gauge', 'Sessions of clients, of the whole server.'),
	('sessions_limit', 'gauge', 'How many there may be.')) m(name, kind, help)
$$;
COMMENT ON FUNCTION coupon.metric_families() IS 'What /metrics has, in the order in which it is shown.';

-- In plpgsql, which keeps the plan.  The bound on campaigns and rooms is the one on labels.
CREATE FUNCTION coupon.metric_samples(OUT family text, OUT suffix text, OUT labels text, OUT value double precision) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE ROWS 5000 SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	max_labels CONSTANT integer := 100;
	-- as a variable it is asked once, before what a standby cannot do
	selling boolean := NOT pg_is_in_recovery();
	moment timestamptz := clock_timestamp();
BEGIN
	-- those that are open come first, and by the index: mostly there is no need to look at all of them
	RETURN QUERY WITH chosen AS (
		(SELECT c.* FROM coupon.campaign c
		  WHERE selling AND c.closed_at IS NULL AND (c.closes_at IS NULL OR c.closes_at > moment) AND c.opens_at > moment IS NOT TRUE
		  ORDER BY c.campaign_id DESC LIMIT max_labels)
		UNION ALL
		(SELECT c.* FROM coupon.campaign c
		  WHERE selling AND c.closed_at IS NULL AND (c.closes_at IS NULL OR c.closes_at > moment) AND c.opens_at > moment
		  ORDER BY c.opens_at, c.campaign_id DESC LIMIT max_labels)
		LIMIT max_labels),
	shown AS MATERIALIZED (
		SELECT c.campaign_id, c.name, coupon.campaign_state(c.closed_at, c.closes_at, c.paused OR c.dumped IS NOT NULL, c.opens_at) AS state,
		       c.opens_at, c.closes_at, concat('campaign="', c.campaign_id, '"') AS labels
		  FROM chosen c),
	stock AS MATERIALIZED (SELECT w.labels, s.* FROM shown w, LATERAL coupon.stock_now(w.campaign_id) s),
	answers AS MATERIALIZED (
		SELECT coalesce(w.labels, 'campaign="other"') AS labels, s.*
		  FROM coupon.stat_campaigns(ARRAY(SELECT w.campaign_id FROM shown w)) s FULL JOIN shown w ON w.campaign_id = s.campaign_id
		 WHERE selling),
	queues AS MATERIALIZED (
		SELECT coalesce(w.labels, 'campaign="other"') AS labels, w.labels IS NULL AS is_other,
		       sum(q.waiting) AS waiting, max(q.oldest_seconds) AS oldest, sum(q.decided) AS decided, max(q.waiting_limit) AS waiting_limit
		  FROM coupon.stat_queue q LEFT JOIN shown w ON w.campaign_id = q.campaign_id
		 WHERE selling
		 GROUP BY w.labels),
	rooms AS MATERIALIZED (SELECT r.*, coupon.label('room', r.name) AS labels FROM coupon.stat_room r WHERE selling ORDER BY r.room_id LIMIT max_labels),
	outbox AS MATERIALIZED (SELECT * FROM coupon.stat_outbox WHERE selling),
	latencies AS MATERIALIZED (SELECT l.upper, l.calls, concat('way="', l.way, '"') AS labels FROM coupon.stat_latencies() l),
	workers AS MATERIALIZED (
		SELECT concat('kind="', k.kind, '"') AS labels, count(w.pid) AS running, count(*) FILTER (WHERE w.wanted) AS wanted,
		       sum(w.starts) AS starts, sum(w.errors) AS errors, sum(w.wakes) AS wakes, sum(w.cycles) AS cycles
		  FROM (VALUES ('sweeper'), ('issuer'), ('room worker'), ('group'), ('publisher'), ('transfer'), ('front')) k(kind)
		  LEFT JOIN coupon.stat_worker w ON w.kind = k.kind
		 GROUP BY k.kind)
	SELECT 'coupon_up', '', '', selling::int::double precision
	UNION ALL
	SELECT 'coupon_stats_reset_timestamp_seconds', '', '', extract(epoch FROM coupon.stat_since())
	UNION ALL
	SELECT 'coupon_calls_total', '', concat('way="', s.way, '",outcome="', s.outcome, '"'), s.calls
	  FROM coupon.stat_calls() s WHERE s.way <> 'commit'
	UNION ALL
	SELECT 'coupon_call_errors_total', '', concat('way="', s.way, '",class="', s.class, '"'), s.errors
	  FROM coupon.stat_errors() s
	UNION ALL
	SELECT 'coupon_call_duration_seconds', '_bucket',
	       concat(s.labels, ',le="', CASE s.upper WHEN 'infinity' THEN '+Inf' ELSE s.upper::text END, '"'), s.calls
	  FROM latencies s
	UNION ALL
	SELECT 'coupon_call_duration_seconds', '_sum', concat('way="', s.way, '"'), s.seconds FROM coupon.stat_ways() s
	UNION ALL
	SELECT 'coupon_call_duration_seconds', '_count', s.labels, s.calls FROM latencies s WHERE s.upper = 'infinity'
	UNION ALL
	SELECT 'coupon_' || m.family, '', concat('way="', b.way, '"'), m.value
	  FROM coupon.stat_batches() b,
	       LATERAL (VALUES ('batches_total', b.batches), ('batch_items_total', b.items), ('batch_largest', b.largest)) m(family, value)
	UNION ALL
	SELECT CASE WHEN t.name LIKE '%evictions' THEN 'coupon_memory_' || t.name || '_total'
	            WHEN t.name LIKE 'refused%' THEN 'coupon_http_refused_total'
	            ELSE 'coupon_stock_' || t.name || '_total' END, '',
	       CASE WHEN t.name LIKE 'refused%' THEN concat('reason="', substr(t.name, 9), '"') ELSE '' END, t.value
	  FROM coupon.stat_tallies() t
	UNION ALL
	SELECT 'coupon_campaigns', '', concat('state="', m.state, '"'), m.value
	  FROM (SELECT count(*) FILTER (WHERE c.state = 'open') AS open, count(*) FILTER (WHERE c.state = 'not_open') AS not_open,
	               count(*) FILTER (WHERE c.state = 'paused') AS paused, count(*) FILTER (WHERE c.state = 'closed') AS closed
	          FROM (SELECT coupon.campaign_state(a.closed_at, a.closes_at, a.paused OR a.dumped IS NOT NULL, a.opens_at) AS state FROM coupon.campaign a WHERE selling) c) c,
	       LATERAL (VALUES ('open', c.open), ('not_open', c.not_open), ('paused', c.paused), ('closed', c.closed)) m(state, value)
	 WHERE selling
	UNION ALL
	SELECT 'coupon_campaign_' || m.family, '', m.labels, m.value
	  FROM shown w,
	       LATERAL (VALUES ('info', concat(w.labels, ',', coupon.label('name', w.name), ',state="', w.state, '"'), 1),
	                       ('open', w.labels, (w.state = 'open')::int),
	                       ('opens_timestamp_seconds', w.labels, extract(epoch FROM nullif(nullif(w.opens_at, 'infinity'), '-infinity'))),
	                       ('closes_timestamp_seconds', w.labels, extract(epoch FROM nullif(nullif(w.closes_at, 'infinity'), '-infinity')))) m(family, labels, value)
	 WHERE m.value IS NOT NULL
	UNION ALL
	SELECT 'coupon_campaign_answers_total', '', concat(a.labels, ',outcome="', m.outcome, '"'), coalesce(m.value, 0)
	  FROM answers a, LATERAL (VALUES ('issued', a.answered_issued), ('already_issued', a.answered_already_issued),
	       ('sold_out', a.answered_sold_out), ('busy', a.answered_busy), ('not_open', a.answered_not_open),
	       ('closed', a.answered_closed), ('paused', a.answered_paused), ('not_admitted', a.answered_not_admitted),
	       ('held', a.answered_held)) m(outcome, value)
	UNION ALL
	SELECT 'coupon_campaign_' || m.family, '', s.labels, m.value
	  FROM stock s, LATERAL (VALUES ('stock', s.stock), ('issued', s.issued), ('held', s.held), ('in_flight', s.in_flight),
	       ('remaining', s.remaining)) m(family, value)
	 WHERE m.value IS NOT NULL
	UNION ALL
	SELECT 'coupon_requests_' || m.family, '', q.labels, m.value
	  FROM queues q, LATERAL (VALUES ('waiting', q.waiting::double precision), ('oldest_seconds', q.oldest),
	       ('limit', CASE WHEN NOT q.is_other THEN q.waiting_limit END), ('decided_total', q.decided)) m(family, value)
	 WHERE m.value IS NOT NULL
	UNION ALL
	SELECT 'coupon_room_' || m.family, '', r.labels, m.value
	  FROM rooms r, LATERAL (VALUES ('open', (r.state = 'open')::int), ('capacity', r.capacity), ('waiting', r.waiting), ('admitted', r.admitted),
	       ('joined_total', r.joined), ('served_total', r.served)) m(family, value)
	 WHERE m.value IS NOT NULL
	UNION ALL
	SELECT 'coupon_' || m.family, '', '', m.value
	  FROM outbox o, LATERAL (VALUES ('outbox_unpublished', o.unpublished::double precision), ('outbox_oldest_seconds', o.oldest_seconds),
	       ('outbox_bytes', o.size_bytes), ('outbox_blocking_seconds', o.blocking_seconds), ('outbox_parked', o.parked),
	       ('outbox_clock_ahead_seconds', o.clock_ahead_seconds), ('publisher_configured', o.configured::int),
	       ('publisher_connected', o.connected::int), ('publisher_failing', o.failing::int),
	       ('publisher_refused_topics', o.refused_topics::int), ('publisher_in_flight', o.in_flight),
	       ('publisher_published_total', o.published), ('publisher_retried_total', o.retried), ('publisher_dead_total', o.dead),
	       ('dead_letters', o.dead_letters)) m(family, value)
	 WHERE m.value IS NOT NULL
	UNION ALL
	SELECT 'coupon_' || m.family, '', w.labels, coalesce(m.value, 0)
	  FROM workers w, LATERAL (VALUES ('workers', w.running), ('workers_wanted', w.wanted), ('worker_starts_total', w.starts),
	       ('worker_errors_total', w.errors), ('worker_wakes_total', w.wakes), ('worker_cycles_total', w.cycles)) m(family, value)
	UNION ALL
	SELECT 'coupon_memory_' || m.family, '', '', m.value
	  FROM coupon.stat_slots() s, LATERAL (VALUES ('campaigns', s.campaigns), ('campaigns_limit', s.max_campaigns), ('maps', s.maps),
	       ('map_bytes', s.map_bytes), ('map_limit_bytes', s.map_memory_bytes)) m(family, value)
	UNION ALL
	SELECT 'coupon_http_' || m.family, '', '', m.value
	  FROM coupon.stat_front f, LATERAL (VALUES ('connections', f.connections), ('connections_limit', f.max_connections),
	       ('waiting', f.waiting), ('streams', f.streams)) m(family, value)
	UNION ALL
	SELECT 'coupon_sessions', '', '', count(*) FROM pg_stat_activity a WHERE a.backend_type = 'client backend'
	UNION ALL
	SELECT 'coupon_sessions_limit', '', '', current_setting('max_connections')::double precision;
END
$$;
COMMENT ON FUNCTION coupon.metric_samples() IS 'Every sample of /metrics, without a user or a request in it.';

CREATE FUNCTION @extschema@.coupon_metrics() RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM set_config('response.headers', '[{"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}, {"Cache-Control": "no-store"}]', true);
	RETURN (SELECT string_agg(concat(
	               CASE WHEN m.nth = 1 THEN concat('# HELP ', m.family, ' ', m.help, E'\n# TYPE ', m.family, ' ', m.kind, E'\n') END,
	               m.family, m.suffix, '{' || nullif(m.labels, '') || '}', ' ', m.value, E'\n'), '' ORDER BY m.family_n, m.nth)
	  FROM (SELECT f.n AS family_n, f.family, f.kind, f.help, s.suffix, s.labels, s.value, row_number() OVER (PARTITION BY f.n ORDER BY s.n) AS nth
	          FROM coupon.metric_families() f
	          JOIN coupon.metric_samples() WITH ORDINALITY AS s(family, suffix, labels, value, n) ON s.family = f.family) m);
EXCEPTION WHEN SQLSTATE 'UC003' THEN
	-- coupon is not preloaded: there is nothing to read
	RETURN (SELECT concat('# HELP ', f.family, ' ', f.help, E'\n# TYPE ', f.family, ' ', f.kind, E'\n', f.family, E' 0\n')
	  FROM coupon.metric_families() f WHERE f.family = 'coupon_up');
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_metrics() IS
	'The statistics in Prometheus''s text format, version 0.0.4: campaigns by themselves while they run, the first 100 of them.';

CREATE FUNCTION coupon.http_metrics() RETURNS bytea
LANGUAGE sql VOLATILE
RETURN pg_catalog.convert_to(@extschema@.coupon_metrics(), 'UTF8');
COMMENT ON FUNCTION coupon.http_metrics() IS 'GET /metrics - 200 what Prometheus reads';
