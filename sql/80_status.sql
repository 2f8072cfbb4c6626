-- Status, and the laws judged from the tables.

CREATE FUNCTION @extschema@.coupon_status(
	campaign_id bigint,
	OUT stock bigint,
	OUT issued bigint,
	OUT held bigint,
	OUT in_flight bigint,
	OUT remaining bigint,
	OUT answered_issued bigint,
	OUT answered_already_issued bigint,
	OUT answered_sold_out bigint,
	OUT answered_busy bigint,
	OUT answered_not_open bigint,
	OUT answered_closed bigint,
	OUT answered_paused bigint,
	OUT answered_not_admitted bigint,
	OUT answered_held bigint)
RETURNS record
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 100
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_status(bigint) IS
	'What is left of a campaign now: stock = issued + held + in_flight + remaining. answered_* count the answers of issue calls since the server started or coupon_stat_reset(). On a standby all rows of the campaign are counted: in_flight is 0, answered_* are null.';

-- RETURN, so that it is inlined.
CREATE FUNCTION coupon.campaign_state(closed_at timestamptz, closes_at timestamptz, paused boolean, opens_at timestamptz)
RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
RETURN CASE WHEN $1 IS NOT NULL OR $2 OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp() THEN 'closed'
            WHEN $3 THEN 'paused'
            WHEN $4 OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp() THEN 'not_open'
            ELSE 'open' END;
COMMENT ON FUNCTION coupon.campaign_state(timestamptz, timestamptz, boolean, timestamptz) IS 'The state of a campaign now: open | not_open | paused | closed.';

CREATE VIEW coupon.campaign_status AS
SELECT c.campaign_id, c.name,
       CASE WHEN c.dumped IS NOT NULL THEN 'restored'
            WHEN c.archived_at IS NOT NULL THEN 'ending'
            ELSE coupon.campaign_state(c.closed_at, c.closes_at, c.paused, c.opens_at) END AS state,
       s.*
  FROM coupon.campaign c, LATERAL @extschema@.coupon_status(c.campaign_id) s;
COMMENT ON VIEW coupon.campaign_status IS 'coupon_status() of every campaign.';
COMMENT ON COLUMN coupon.campaign_status.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.campaign_status.name IS 'Its name.';
COMMENT ON COLUMN coupon.campaign_status.state IS 'open | not_open | paused | closed | restored: paused until coupon_restored() has checked it | ending: coupon_campaign_archive() or coupon_campaign_drop() has begun to take its rows away';
COMMENT ON COLUMN coupon.campaign_status.stock IS 'How many units there are.';
COMMENT ON COLUMN coupon.campaign_status.issued IS 'How many are issued.';
COMMENT ON COLUMN coupon.campaign_status.held IS 'How many are held.';
COMMENT ON COLUMN coupon.campaign_status.in_flight IS 'How many are being issued by transactions that have not committed.';
COMMENT ON COLUMN coupon.campaign_status.remaining IS 'How many are free.';
COMMENT ON COLUMN coupon.campaign_status.answered_issued IS 'How many issue calls were answered issued.';
COMMENT ON COLUMN coupon.campaign_status.answered_already_issued IS 'How many were answered already_issued.';
COMMENT ON COLUMN coupon.campaign_status.answered_sold_out IS 'How many were answered sold_out.';
COMMENT ON COLUMN coupon.campaign_status.answered_busy IS 'How many were answered busy.';
COMMENT ON COLUMN coupon.campaign_status.answered_not_open IS 'How many were answered not_open.';
COMMENT ON COLUMN coupon.campaign_status.answered_closed IS 'How many were answered closed.';
COMMENT ON COLUMN coupon.campaign_status.answered_paused IS 'How many were answered paused.';
COMMENT ON COLUMN coupon.campaign_status.answered_not_admitted IS 'How many were answered not_admitted.';
COMMENT ON COLUMN coupon.campaign_status.answered_held IS 'How many were answered held.';

-- Without a campaign by sequential scans only: what a damaged index let through it
-- would also hide.  Of one campaign only its own rows are read, by the indexes, and no
-- events, which have none.  Nothing is joined by a nested loop, which without an index
-- takes the square of the rows; a restored copy has no statistics that would tell.
CREATE FUNCTION coupon.verify(
	campaign_id bigint,
	OUT campaign bigint,
	OUT law text,
	OUT serial bigint,
	OUT user_id text,
	OUT detail text)
RETURNS SETOF record
LANGUAGE plpgsql STABLE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan SET jit = off
SET enable_nestloop = off SET enable_hashjoin = on SET enable_seqscan = on SET enable_indexscan = on SET enable_indexonlyscan = on SET enable_bitmapscan = on
AS $$
#variable_conflict use_column
BEGIN
	PERFORM set_config(s, 'off', true)
	   FROM unnest(CASE WHEN $1 IS NULL THEN ARRAY['enable_indexscan', 'enable_indexonlyscan', 'enable_bitmapscan']
	                    ELSE ARRAY['enable_seqscan'] END) s;
	RETURN QUERY
	SELECT i.campaign_id, 'oversold: serial issued twice', i.serial, min(i.user_id), format('%s issuances', count(*))
	  FROM coupon.issuance i
	 WHERE $1 IS NULL OR i.campaign_id = $1
	 GROUP BY i.campaign_id, i.serial HAVING count(*) > 1
	UNION ALL
	SELECT i.campaign_id, 'oversold: serial outside the shards', i.serial, i.user_id, format('shard %s', i.shard)
	  FROM coupon.issuance i
	  LEFT JOIN coupon.shard s ON s.campaign_id = i.campaign_id AND s.shard = i.shard
	       AND i.serial BETWEEN s.first_serial AND s.last_serial
	 WHERE ($1 IS NULL OR i.campaign_id = $1) AND s.shard IS NULL
	UNION ALL
	SELECT i.campaign_id, 'oversold: withdrawn unit issued', i.serial, i.user_id, format('shard %s', i.shard)
	  FROM coupon.issuance i
	  JOIN coupon.shard s ON s.campaign_id = i.campaign_id AND s.shard = i.shard AND s.withdrawn IS NOT NULL
	 WHERE ($1 IS NULL OR i.campaign_id = $1) AND i.serial BETWEEN s.first_serial AND s.last_serial
	   AND CASE WHEN i.serial BETWEEN s.first_serial AND s.last_serial THEN get_bit(s.withdrawn, i.serial - s.first_serial) END = 1
	UNION ALL
	SELECT c.campaign_id, 'withdrawn units are counted wrong', NULL, NULL, format('%s, counted %s', coalesce(w.n, 0), c.withdrawn)
	  FROM coupon.campaign c
	  LEFT JOIN (SELECT s.campaign_id, sum(bit_count(s.withdrawn)) AS n FROM coupon.shard s
	              WHERE ($1 IS NULL OR s.campaign_id = $1) AND s.withdrawn IS NOT NULL
	              GROUP BY s.campaign_id) w ON w.campaign_id = c.campaign_id
	 WHERE ($1 IS NULL OR c.campaign_id = $1) AND coalesce(w.n, 0) <> c.withdrawn
	UNION ALL
	SELECT i.campaign_id, 'oversold: unit of another node issued', i.serial, i.user_id, format('shard %s', i.shard)
	  FROM coupon.issuance i
	  JOIN coupon.shard s ON s.campaign_id = i.campaign_id AND s.shard = i.shard AND s.away IS NOT NULL
	 WHERE ($1 IS NULL OR i.campaign_id = $1) AND i.serial BETWEEN s.first_serial AND s.last_serial
	   AND CASE WHEN i.serial BETWEEN s.first_serial AND s.last_serial THEN get_bit(s.away, i.serial - s.first_serial) END = 1
	UNION ALL
	SELECT c.campaign_id, 'units of other nodes are counted wrong', NULL, NULL, format('%s, counted %s', coalesce(w.n, 0), c.away)
	  FROM coupon.campaign c
	  LEFT JOIN (SELECT s.campaign_id, sum(bit_count(s.away)) AS n FROM coupon.shard s
	              WHERE ($1 IS NULL OR s.campaign_id = $1) AND s.away IS NOT NULL
	              GROUP BY s.campaign_id) w ON w.campaign_id = c.campaign_id
	 WHERE ($1 IS NULL OR c.campaign_id = $1) AND coalesce(w.n, 0) <> c.away
	UNION ALL
	SELECT s.campaign_id, 'shard without its campaign', s.first_serial, NULL, format('shard %s', s.shard)
	  FROM coupon.shard s LEFT JOIN coupon.campaign c ON c.campaign_id = s.campaign_id
	 WHERE ($1 IS NULL OR s.campaign_id = $1) AND c.campaign_id IS NULL
	UNION ALL
	SELECT i.campaign_id, 'per-user limit exceeded', NULL, i.user_id,
	       format('%s issuances, limit %s', count(*), c.max_per_user_limit)
	  FROM coupon.issuance i JOIN coupon.campaign c ON c.campaign_id = i.campaign_id
	 WHERE $1 IS NULL OR i.campaign_id = $1
	 GROUP BY i.campaign_id, i.user_id, c.max_per_user_limit
	HAVING count(*) > c.max_per_user_limit OR max(i.nth) > c.max_per_user_limit OR count(DISTINCT i.nth) < count(*)
	UNION ALL
	SELECT s.campaign_id, 'shards overlap or leave a gap', s.first_serial, NULL, format('shard %s', s.shard)
	  FROM (SELECT h.*, lag(h.last_serial, 1, 0::bigint) OVER w AS previous_last, row_number() OVER w - 1 AS position
	          FROM coupon.shard h WHERE $1 IS NULL OR h.campaign_id = $1
	        WINDOW w AS (PARTITION BY h.campaign_id ORDER BY h.shard)) s
	 WHERE s.first_serial <> s.previous_last + 1 OR s.shard <> s.position
	UNION ALL
	SELECT i.campaign_id, 'issued without its code', i.serial, i.user_id, NULL
	  FROM coupon.issuance i JOIN coupon.campaign c ON c.campaign_id = i.campaign_id AND c.coded
	  LEFT JOIN coupon.unit u ON u.campaign_id = i.campaign_id AND u.serial = i.serial
	 WHERE ($1 IS NULL OR i.campaign_id = $1) AND u.serial IS NULL
	UNION ALL
	SELECT i.campaign_id, 'redemption without its order, or the reverse', i.serial, i.user_id, i.state
	  FROM coupon.issuance i
	 WHERE ($1 IS NULL OR i.campaign_id = $1)
	   AND ((i.state = 'redeemed') <> (i.order_ref IS NOT NULL) OR (i.state = 'redeemed') <> (i.redeemed_at IS NOT NULL))
	UNION ALL
	SELECT i.campaign_id, 'hold without its end, or the reverse', i.serial, i.user_id, i.state
	  FROM coupon.issuance i
	 WHERE ($1 IS NULL OR i.campaign_id = $1)
	   AND ((i.state = 'held') <> (i.held_until IS NOT NULL)
	        OR i.state = 'held' AND (i.confirm_ref IS NOT NULL OR i.expires_at IS NOT NULL))
	UNION ALL
	SELECT o.campaign_id, 'event of an issuance that is not there', o.serial, o.user_id, o.id::text
	  FROM (SELECT e.id, e.type, e.key AS user_id, (e.payload->>'campaign_id')::bigint AS campaign_id,
	               (e.payload->>'serial')::bigint AS serial,
	               row_number() OVER (PARTITION BY e.payload->>'campaign_id', e.payload->>'serial'
	                                  ORDER BY e.id DESC) AS newest
	          FROM coupon.outbox e
	         WHERE e.type IN ('coupon.issued', 'coupon.redeemed', 'coupon.redeem_cancelled', 'coupon.expired', 'coupon.revoked',
	                          'coupon.held', 'coupon.confirmed', 'coupon.hold_released', 'coupon.hold_expired')
	           AND $1 IS NULL) o
	  -- the rows of a campaign that is archived or dropped are gone, and their events may wait yet
	  JOIN coupon.campaign c ON c.campaign_id = o.campaign_id AND c.archived_at IS NULL
	  LEFT JOIN coupon.issuance i ON i.campaign_id = o.campaign_id AND i.serial = o.serial AND i.user_id = o.user_id
	 WHERE o.newest = 1
	   AND ((i.serial IS NULL) <> (o.type IN ('coupon.revoked', 'coupon.hold_released', 'coupon.hold_expired'))
	        OR o.type = 'coupon.held' AND i.state <> 'held' OR o.type <> 'coupon.held' AND i.state = 'held')
	   -- one that went to another node before its event was published
	   AND NOT (i.serial IS NULL
	            AND EXISTS (SELECT FROM coupon.shard s
	                         WHERE s.campaign_id = o.campaign_id AND o.serial BETWEEN s.first_serial AND s.last_serial
	                           AND CASE WHEN s.away IS NOT NULL AND o.serial BETWEEN s.first_serial AND s.last_serial
	                                    THEN get_bit(s.away, o.serial - s.first_serial) END = 1))
	UNION ALL
	SELECT r.campaign_id, 'request with two rows', NULL, min(r.user_id), r.request_id::text
	  FROM (SELECT q.* FROM coupon.request q WHERE $1 IS NULL OR q.campaign_id = $1 OFFSET 0) r
	 GROUP BY r.campaign_id, r.request_id HAVING count(*) > 1
	UNION ALL
	SELECT r.campaign_id, 'request decided without an outcome, or the reverse', r.serial, r.user_id, r.request_id::text
	  FROM coupon.request r
	 WHERE ($1 IS NULL OR r.campaign_id = $1)
	   AND ((r.decided_at IS NULL) <> (r.outcome IS NULL)
	        OR (r.serial IS NULL) = (r.outcome IN ('issued', 'already_issued')))
	UNION ALL
	SELECT NULL, 'ticket number given twice', NULL, min(t.user_id), format('room %s, ticket %s', t.room_id, t.number)
	  FROM coupon.ticket t
	 WHERE $1 IS NULL
	 GROUP BY t.room_id, t.number HAVING count(*) > 1
	UNION ALL
	SELECT NULL, 'two live tickets of one user', NULL, t.user_id, format('room %s', t.room_id)
	  FROM coupon.ticket t
	 WHERE $1 IS NULL AND t.ended_at IS NULL
	 GROUP BY t.room_id, t.user_id HAVING count(*) > 1
	UNION ALL
	SELECT NULL, 'ticket ended without a reason, or the reverse', NULL, t.user_id, format('room %s, ticket %s', t.room_id, t.number)
	  FROM coupon.ticket t
	 WHERE $1 IS NULL AND (t.ended_at IS NULL) <> (t.reason IS NULL);
END
$$;
COMMENT ON FUNCTION coupon.verify(bigint) IS 'What coupon_verify() finds.';

CREATE FUNCTION @extschema@.coupon_verify(
	campaign_id bigint DEFAULT NULL,
	OUT campaign bigint,
	OUT law text,
	OUT serial bigint,
	OUT user_id text,
	OUT detail text)
RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT * FROM coupon.verify($1) $$;
COMMENT ON FUNCTION @extschema@.coupon_verify(bigint) IS
	'The rows that break a law of the sale, found from the tables alone; none when all is well. Without a campaign all of them are checked, and the events that are not published yet; of one campaign no other rows are read.';
