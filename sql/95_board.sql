-- What the board shows.  Nothing here tells of a user, and there is no more of
-- it than coupon.watched_campaign() has rows.

-- The campaigns that are shown one by one: those that sell, then the newest.  One that
-- is over is shown as long as its map is there: after a restart the front would read
-- all of its issuances for this, while calls wait.
CREATE FUNCTION coupon.watched_campaign() RETURNS SETOF coupon.campaign_status
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY SELECT s.* FROM coupon.campaign_status s
	 WHERE s.campaign_id = ANY (ARRAY(
		SELECT w.campaign_id FROM coupon.campaign w
		 WHERE coalesce(w.closed_at, w.closes_at) <= clock_timestamp() IS NOT TRUE
		    OR w.campaign_id IN (SELECT m.campaign_id FROM coupon.stat_campaigns(NULL) m WHERE m.map_bytes IS NOT NULL)
		 ORDER BY coalesce(w.closed_at, w.closes_at) <= clock_timestamp() IS TRUE, w.campaign_id DESC
		 LIMIT 50))
	 ORDER BY s.state = 'closed', s.campaign_id DESC;
END
$$;
COMMENT ON FUNCTION coupon.watched_campaign() IS 'coupon.campaign_status of 50 campaigns at most: those that are not closed first, of these the newest; of others those that memory has a map of.';

CREATE FUNCTION coupon.http_board() RETURNS json
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	selling boolean := NOT pg_is_in_recovery();
BEGIN
	PERFORM set_config('response.headers', '[{"Cache-Control": "no-store"}]', true);
	RETURN (WITH answers AS (SELECT c.way, c.outcome, c.calls FROM coupon.stat_call c WHERE c.way LIKE 'http%' AND c.way <> 'http_issue' AND c.calls > 0)
	SELECT json_build_object(
		'at', round(extract(epoch FROM clock_timestamp()) * 1000),
		'standby', NOT selling,
		'http', (SELECT json_build_object(
				'answers', (SELECT coalesce(json_object_agg(a.outcome, a.calls), '{}') FROM (
					SELECT s.outcome, sum(s.calls) AS calls FROM answers s GROUP BY s.outcome) a),
				'refused', json_build_object('rate', f.refused_rate, 'full', f.refused_full, 'size', f.refused_size),
				'connections', f.connections,
				'max_connections', f.max_connections,
				'waiting', f.waiting,
				'streams', f.streams,
				'seconds', (SELECT json_agg(CASE WHEN u.upper < 'infinity' THEN u.upper END ORDER BY u.upper)
					FROM coupon.stat_latency u WHERE u.way = 'http'),
				'calls', (SELECT json_agg(u.calls ORDER BY u.upper) FROM coupon.stat_latency u WHERE u.way = 'http'),
				'total_seconds', (SELECT w.seconds FROM coupon.stat_way w WHERE w.way = 'http'))
			FROM coupon.stat_front f),
		'campaigns', (SELECT coalesce(json_agg(json_build_object(
				'id', w.campaign_id, 'name', w.name, 'state', w.state, 'stock', w.stock, 'issued', w.issued, 'held', w.held,
				'in_flight', w.in_flight, 'remaining', w.remaining,
				'answers', json_build_object('issued', w.answered_issued, 'already_issued', w.answered_already_issued,
					'sold_out', w.answered_sold_out, 'busy', w.answered_busy, 'not_open', w.answered_not_open, 'closed', w.answered_closed,
					'paused', w.answered_paused, 'not_admitted', w.answered_not_admitted, 'held', w.answered_held))), '[]')
			FROM coupon.watched_campaign() w WHERE selling),
		'campaigns_in_all', (SELECT count(*) FROM coupon.campaign),
		'requests', (SELECT coalesce(json_agg(json_build_object('campaign', q.campaign_id, 'waiting', q.waiting, 'limit', q.waiting_limit,
				'oldest_seconds', q.oldest_seconds, 'decided', q.decided)), '[]')
			FROM coupon.stat_queue q WHERE selling),
		'rooms', (SELECT coalesce(json_agg(json_build_object('name', r.name, 'state', r.state, 'method', r.method, 'capacity', r.capacity,
				'waiting', r.waiting, 'admitted', r.admitted, 'joined', r.joined, 'served', r.served) ORDER BY r.name), '[]')
			FROM (SELECT * FROM coupon.room_status WHERE selling ORDER BY room_id LIMIT 50) r),
		'outbox', (SELECT json_build_object('unpublished', o.unpublished, 'oldest_seconds', o.oldest_seconds,
				'published', o.published, 'dead_letters', o.dead_letters, 'bytes', o.size_bytes,
				'failing', o.failing, 'has_broker', o.configured)
			FROM coupon.stat_outbox o WHERE selling),
		'workers', (SELECT coalesce(json_object_agg(a.kind, a.n), '{}') FROM (
			SELECT substr(p.backend_type, 8) AS kind, count(*) AS n FROM pg_stat_activity p
			 WHERE p.backend_type LIKE 'coupon %' GROUP BY 1) a),
		'sessions', json_build_object('open', (SELECT count(*) FROM pg_stat_activity p WHERE p.backend_type = 'client backend'),
			'max', current_setting('max_connections')::bigint)));
END
$$;
COMMENT ON FUNCTION coupon.http_board() IS 'GET /board.json - 200 what the board at /board shows';
