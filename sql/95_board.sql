-- What an operator looks at: the front's statistics, /metrics, and what the board
-- shows.  Nothing here tells of a user, and no label takes more than
-- coupon.watched_campaign() has rows.

CREATE FUNCTION @extschema@.coupon_http_statistics(
	OUT name text, OUT label text, OUT upper double precision, OUT value double precision)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'coupon_http_statistics';
COMMENT ON FUNCTION @extschema@.coupon_http_statistics() IS
	'The HTTP front since the server started, of all its workers: answers by status, refused calls by reason, durations in seconds by way (how many took no longer than upper; duration_sum: all together), and the connections, waiting calls and streams that are open now.';

CREATE VIEW coupon.stat_http AS
SELECT s.name, s.label, s.upper, s.value FROM @extschema@.coupon_http_statistics() s;
COMMENT ON VIEW coupon.stat_http IS 'coupon_http_statistics()';
COMMENT ON COLUMN coupon.stat_http.name IS 'answers | refused | duration | duration_sum | connections | waiting | streams';
COMMENT ON COLUMN coupon.stat_http.label IS 'The status, the reason, or the way.';
COMMENT ON COLUMN coupon.stat_http.upper IS 'Of durations: those are counted that took no longer, in seconds.';
COMMENT ON COLUMN coupon.stat_http.value IS 'The number.';

CREATE VIEW coupon.stat_request AS
SELECT q.campaign, q.depth, q.oldest, q.decided, q.depth_limit
  FROM @extschema@.coupon_request_queue() q;
COMMENT ON VIEW coupon.stat_request IS 'coupon_request_queue() of every campaign.';
COMMENT ON COLUMN coupon.stat_request.campaign IS 'The campaign.';
COMMENT ON COLUMN coupon.stat_request.depth IS 'How many requests wait.';
COMMENT ON COLUMN coupon.stat_request.oldest IS 'How long the oldest has waited.';
COMMENT ON COLUMN coupon.stat_request.decided IS 'How many were decided since the server knows the campaign.';
COMMENT ON COLUMN coupon.stat_request.depth_limit IS 'How many may wait.';

CREATE VIEW coupon.stat_outbox AS
SELECT o.unpublished, o.oldest_age, o.in_flight, o.published, o.retried, o.dead, o.dead_letters, o.blocking_age, o.size_bytes,
       o.last_error_at IS NOT NULL AND (o.last_ack_at IS NULL OR o.last_error_at OPERATOR(pg_catalog.>) o.last_ack_at) AS failing
  FROM @extschema@.coupon_outbox_status() o;
COMMENT ON VIEW coupon.stat_outbox IS 'The numbers of coupon_outbox_status().';
COMMENT ON COLUMN coupon.stat_outbox.unpublished IS 'Events that are not published.';
COMMENT ON COLUMN coupon.stat_outbox.oldest_age IS 'How old the oldest of them is.';
COMMENT ON COLUMN coupon.stat_outbox.in_flight IS 'Events that are sent and not acknowledged.';
COMMENT ON COLUMN coupon.stat_outbox.published IS 'Events that the broker acknowledged since the server started.';
COMMENT ON COLUMN coupon.stat_outbox.retried IS 'Events that were sent again.';
COMMENT ON COLUMN coupon.stat_outbox.dead IS 'Events that became dead letters since the server started.';
COMMENT ON COLUMN coupon.stat_outbox.dead_letters IS 'Dead letters.';
COMMENT ON COLUMN coupon.stat_outbox.blocking_age IS 'How long the oldest open transaction that uses the outbox has run.';
COMMENT ON COLUMN coupon.stat_outbox.size_bytes IS 'The size of the outbox''s tables.';
COMMENT ON COLUMN coupon.stat_outbox.failing IS 'Whether the last thing that the publisher did was to fail.';

-- The campaigns that are shown one by one: those that sell, then the newest.
CREATE FUNCTION coupon.watched_campaign() RETURNS SETOF coupon.campaign_status
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY SELECT s.* FROM coupon.campaign_status s
	 WHERE s.campaign_id = ANY (ARRAY(
		SELECT w.campaign_id FROM coupon.campaign w
		 ORDER BY coalesce(w.closed_at, w.closes_at) <= clock_timestamp() IS TRUE, w.campaign_id DESC
		 LIMIT 50))
	 ORDER BY s.state = 'closed', s.campaign_id DESC;
END
$$;
COMMENT ON FUNCTION coupon.watched_campaign() IS 'coupon.campaign_status of 50 campaigns at most: those that are not closed first, of these the newest.';

-- RETURN, so that it is inlined.
CREATE FUNCTION coupon.label(name text, value text) RETURNS text
LANGUAGE sql STABLE
RETURN pg_catalog.concat($1, '="', pg_catalog.replace(pg_catalog.replace(pg_catalog.replace($2, E'\\', E'\\\\'), '"', E'\\"'), E'\n', E'\\n'), '"');
COMMENT ON FUNCTION coupon.label(text, text) IS 'A label in Prometheus''s text format.';

-- In plpgsql, which keeps the plan.  Every sample that /metrics has: family, its type and help, and the line.
CREATE FUNCTION coupon.metrics(OUT family text, OUT kind text, OUT help text, OUT sample text, OUT labels text, OUT value double precision) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	-- as a variable it is asked once, before what a standby cannot do
	selling boolean := NOT pg_is_in_recovery();
BEGIN
	RETURN QUERY WITH statistics AS MATERIALIZED (SELECT * FROM coupon.stat_http),
	watched AS MATERIALIZED (SELECT *, coupon.label('campaign', campaign_id::text) AS labels FROM coupon.watched_campaign() WHERE selling),
	rooms AS MATERIALIZED (SELECT *, coupon.label('room', name) AS labels FROM coupon.room_status WHERE selling ORDER BY room_id LIMIT 50),
	queues AS MATERIALIZED (SELECT q.*, coupon.label('campaign', q.campaign::text) AS labels FROM coupon.stat_request q
	                         WHERE selling ORDER BY q.depth DESC, q.campaign DESC LIMIT 50),
	outbox AS MATERIALIZED (SELECT * FROM coupon.stat_outbox WHERE selling)
	SELECT 'coupon_up', 'gauge', 'Whether this server sells: 0 on a standby.', 'coupon_up', '', selling::int::double precision
	UNION ALL
	SELECT 'coupon_http_answers_total', 'counter', 'Answers of the HTTP front, by status.',
	       'coupon_http_answers_total', coupon.label('status', label), value FROM statistics WHERE name = 'answers'
	UNION ALL
	SELECT 'coupon_http_refused_total', 'counter', 'Calls that were refused before any work, by reason.',
	       'coupon_http_refused_total', coupon.label('reason', label), value FROM statistics WHERE name = 'refused'
	UNION ALL
	SELECT 'coupon_http_duration_seconds', 'histogram', 'From the arrival of a request to its answer, by way.',
	       'coupon_http_duration_seconds' || m.suffix, coupon.label('way', s.label) || m.more, s.value
	  FROM statistics s,
	       LATERAL (VALUES ('duration', '_bucket', ',' || coupon.label('le', CASE s.upper WHEN 'infinity' THEN '+Inf' ELSE s.upper::text END)),
	                       ('duration_sum', '_sum', ''),
	                       (CASE WHEN s.upper = 'infinity' THEN 'duration' END, '_count', '')) m(name, suffix, more)
	 WHERE m.name = s.name
	UNION ALL
	SELECT 'coupon_http_' || name, 'gauge', CASE name WHEN 'connections' THEN 'Open connections.' WHEN 'waiting' THEN 'Calls whose answer is waited for.'
	       ELSE 'Open event streams.' END, 'coupon_http_' || name, '', value
	  FROM statistics WHERE name IN ('connections', 'waiting', 'streams')
	UNION ALL
	SELECT 'coupon_campaigns', 'gauge', 'Campaigns; the 50 that are not closed or the newest have samples of their own.',
	       'coupon_campaigns', '', (SELECT count(*) FROM coupon.campaign)
	UNION ALL
	SELECT 'coupon_campaign_info', 'gauge', 'What a campaign is called, and its state.',
	       'coupon_campaign_info', concat_ws(',', labels, coupon.label('name', name), coupon.label('state', state)), 1 FROM watched
	UNION ALL
	SELECT 'coupon_campaign_' || m.name, 'gauge', m.help, 'coupon_campaign_' || m.name, w.labels, m.value
	  FROM watched w, LATERAL (VALUES ('stock', 'Units of a campaign.', w.stock), ('issued', 'Units that are issued.', w.issued),
	       ('held', 'Units that are held.', w.held), ('in_flight', 'Units that are being issued.', w.in_flight),
	       ('remaining', 'Units that are free.', w.remaining)) m(name, help, value)
	UNION ALL
	SELECT 'coupon_campaign_answers_total', 'counter', 'Answers of issue calls by any way in, by outcome.',
	       'coupon_campaign_answers_total', w.labels || ',' || coupon.label('outcome', m.outcome), m.value
	  FROM watched w, LATERAL (VALUES ('issued', w.answered_issued), ('already_issued', w.answered_already_issued), ('sold_out', w.answered_sold_out),
	       ('busy', w.answered_busy), ('not_open', w.answered_not_open), ('closed', w.answered_closed), ('paused', w.answered_paused),
	       ('not_admitted', w.answered_not_admitted), ('held', w.answered_held)) m(outcome, value)
	UNION ALL
	SELECT 'coupon_requests_' || m.name, m.kind, m.help, 'coupon_requests_' || m.name, q.labels, m.value
	  FROM queues q, LATERAL (VALUES ('waiting', 'gauge', 'Requests that are not decided.', q.depth::double precision),
	       ('oldest_seconds', 'gauge', 'How long the oldest of them has waited.', coalesce(extract(epoch FROM q.oldest), 0)),
	       ('limit', 'gauge', 'How many may wait.', q.depth_limit),
	       ('decided_total', 'counter', 'Requests that were decided.', q.decided)) m(name, kind, help, value)
	 WHERE m.value IS NOT NULL
	UNION ALL
	SELECT 'coupon_room_' || m.name, m.kind, m.help, 'coupon_room_' || m.name, r.labels, m.value
	  FROM rooms r, LATERAL (VALUES ('waiting', 'gauge', 'Tickets that wait.', r.waiting), ('admitted', 'gauge', 'Tickets that are admitted.', r.admitted),
	       ('capacity', 'gauge', 'How many may be admitted at a time.', r.capacity), ('joined_total', 'counter', 'Tickets that were given.', r.joined),
	       ('served_total', 'counter', 'Tickets that were admitted.', r.served)) m(name, kind, help, value)
	 WHERE m.value IS NOT NULL
	UNION ALL
	SELECT 'coupon_' || m.name, m.kind, m.help, 'coupon_' || m.name, '', m.value
	  FROM outbox o, LATERAL (VALUES ('outbox_unpublished', 'gauge', 'Events that are not published.', o.unpublished::double precision),
	       ('outbox_oldest_seconds', 'gauge', 'How old the oldest of them is.', coalesce(extract(epoch FROM o.oldest_age), 0)),
	       ('outbox_bytes', 'gauge', 'The size of the outbox''s tables.', o.size_bytes),
	       ('outbox_blocking_seconds', 'gauge', 'How long the oldest open transaction that uses the outbox has run.', coalesce(extract(epoch FROM o.blocking_age), 0)),
	       ('publisher_in_flight', 'gauge', 'Events that are sent and not acknowledged.', o.in_flight),
	       ('publisher_published_total', 'counter', 'Events that the broker acknowledged.', o.published),
	       ('publisher_retried_total', 'counter', 'Events that were sent again.', o.retried),
	       ('publisher_dead_total', 'counter', 'Events that became dead letters.', o.dead),
	       ('publisher_failing', 'gauge', 'Whether the last thing that the publisher did was to fail.', o.failing::int),
	       ('dead_letters', 'gauge', 'Dead letters.', o.dead_letters)) m(name, kind, help, value)
	 WHERE m.value IS NOT NULL
	UNION ALL
	SELECT 'coupon_workers', 'gauge', 'Running workers, by kind.', 'coupon_workers', coupon.label('kind', substr(backend_type, 8)), count(*)
	  FROM pg_stat_activity WHERE backend_type LIKE 'coupon %' GROUP BY backend_type;
END
$$;
COMMENT ON FUNCTION coupon.metrics() IS 'Every sample of /metrics: its family, with type and help, its name, labels and value.';

CREATE FUNCTION coupon.http_metrics() RETURNS bytea
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM set_config('response.headers', '[{"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}, {"Cache-Control": "no-store"}]', true);
	RETURN (SELECT convert_to(string_agg(f.lines, '' ORDER BY f.family), 'UTF8')
	  FROM (SELECT m.family, format(E'# HELP %s %s\n# TYPE %s %s\n', m.family, min(m.help), m.family, min(m.kind)) ||
	               string_agg(concat(m.sample, '{' || nullif(m.labels, '') || '}', ' ', m.value, E'\n'), '' ORDER BY m.n) AS lines
	          FROM coupon.metrics() WITH ORDINALITY AS m(family, kind, help, sample, labels, value, n)
	         GROUP BY m.family) f);
END
$$;
COMMENT ON FUNCTION coupon.http_metrics() IS 'GET /metrics - 200 what Prometheus reads';

CREATE FUNCTION coupon.http_board() RETURNS json
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	selling boolean := NOT pg_is_in_recovery();
BEGIN
	PERFORM set_config('response.headers', '[{"Cache-Control": "no-store"}]', true);
	RETURN (WITH s AS MATERIALIZED (SELECT * FROM coupon.stat_http)
	SELECT json_build_object(
		'at', round(extract(epoch FROM clock_timestamp()) * 1000),
		'standby', NOT selling,
		'http', (SELECT json_build_object(
				'answers', coalesce(json_object_agg(s.label, s.value) FILTER (WHERE s.name = 'answers'), '{}'),
				'refused', coalesce(json_object_agg(s.label, s.value) FILTER (WHERE s.name = 'refused'), '{}'),
				'connections', max(s.value) FILTER (WHERE s.name = 'connections'),
				'max_connections', current_setting('coupon.http_max_connections')::bigint * current_setting('coupon.http_workers')::bigint,
				'waiting', max(s.value) FILTER (WHERE s.name = 'waiting'),
				'streams', max(s.value) FILTER (WHERE s.name = 'streams'),
				'seconds', (SELECT json_agg(CASE WHEN u.upper < 'infinity' THEN u.upper END ORDER BY u.upper) FROM (
					SELECT DISTINCT t.upper FROM s t WHERE t.name = 'duration') u),
				'calls', (SELECT json_agg(u.calls ORDER BY u.upper) FROM (
					SELECT t.upper, sum(t.value) AS calls FROM s t
					 WHERE t.name = 'duration' AND t.label IN ('batched', 'plain') GROUP BY t.upper) u),
				'total_seconds', sum(s.value) FILTER (WHERE s.name = 'duration_sum' AND s.label IN ('batched', 'plain')))
			FROM s),
		'campaigns', (SELECT coalesce(json_agg(json_build_object(
				'id', w.campaign_id, 'name', w.name, 'state', w.state, 'stock', w.stock, 'issued', w.issued, 'held', w.held,
				'in_flight', w.in_flight, 'remaining', w.remaining,
				'answers', json_build_object('issued', w.answered_issued, 'already_issued', w.answered_already_issued,
					'sold_out', w.answered_sold_out, 'busy', w.answered_busy, 'not_open', w.answered_not_open, 'closed', w.answered_closed,
					'paused', w.answered_paused, 'not_admitted', w.answered_not_admitted, 'held', w.answered_held))), '[]')
			FROM coupon.watched_campaign() w WHERE selling),
		'campaigns_in_all', (SELECT count(*) FROM coupon.campaign),
		'requests', (SELECT coalesce(json_agg(json_build_object('campaign', q.campaign, 'waiting', q.depth, 'limit', q.depth_limit,
				'oldest_seconds', extract(epoch FROM q.oldest), 'decided', q.decided)), '[]')
			FROM coupon.stat_request q WHERE selling),
		'rooms', (SELECT coalesce(json_agg(json_build_object('name', r.name, 'state', r.state, 'method', r.method, 'capacity', r.capacity,
				'waiting', r.waiting, 'admitted', r.admitted, 'joined', r.joined, 'served', r.served) ORDER BY r.name), '[]')
			FROM (SELECT * FROM coupon.room_status WHERE selling ORDER BY room_id LIMIT 50) r),
		'outbox', (SELECT json_build_object('unpublished', o.unpublished, 'oldest_seconds', extract(epoch FROM o.oldest_age),
				'published', o.published, 'dead_letters', o.dead_letters, 'bytes', o.size_bytes,
				'failing', o.failing,
				'has_broker', current_setting('coupon.kafka_brokers') <> '')
			FROM coupon.stat_outbox o WHERE selling),
		'workers', (SELECT coalesce(json_object_agg(a.kind, a.n), '{}') FROM (
			SELECT substr(p.backend_type, 8) AS kind, count(*) AS n FROM pg_stat_activity p
			 WHERE p.backend_type LIKE 'coupon %' GROUP BY 1) a),
		'sessions', json_build_object('open', (SELECT count(*) FROM pg_stat_activity p WHERE p.backend_type = 'client backend'),
			'max', current_setting('max_connections')::bigint)));
END
$$;
COMMENT ON FUNCTION coupon.http_board() IS 'GET /board.json - 200 what the board at /board shows';
