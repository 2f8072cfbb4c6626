-- A dump, and what is made of it.  A dump says of each campaign how many rows it has; so
-- a copy into which they were not all loaded is known, and is not taken for a sale that
-- has issued nothing.  Until it is checked the sweeper lets its rows be.

CREATE FUNCTION @extschema@.coupon_restored(
	accept boolean DEFAULT false,
	OUT campaign bigint,
	OUT problem text,
	OUT detail text)
RETURNS SETOF record
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_hashjoin = on SET jit = off
AS $$
DECLARE
	bad bigint[] := '{}';
	letters bigint;
	dumped_letters bigint;
BEGIN
	PERFORM FROM coupon.campaign c WHERE c.dumped IS NOT NULL ORDER BY c.campaign_id FOR NO KEY UPDATE;
	FOR campaign, problem, detail IN
		SELECT v.campaign, v.law, concat_ws(', ', 'serial ' || v.serial, 'user ' || v.user_id, v.detail)
		  FROM coupon.verify(NULL) v
		UNION ALL
		SELECT m.campaign_id, 'rows are missing', m.detail
		  FROM (SELECT c.campaign_id,
		               (SELECT string_agg(format('%s %s of %s', r.kind, coalesce(r.n, 0), r.dumped), ', ')
		                  FROM (VALUES ('shards', s.n, c.dumped[1]), ('labels', u.n, c.dumped[2]), ('issuances and holds', i.n, c.dumped[3]),
		                               ('request keys', k.n, c.dumped[4]), ('memories of holds', l.n, c.dumped[5])) r(kind, n, dumped)
		                 WHERE coalesce(r.n, 0) < r.dumped) AS detail
		          FROM coupon.campaign c
		          LEFT JOIN (SELECT x.campaign_id, count(*) AS n FROM coupon.shard x GROUP BY 1) s ON s.campaign_id = c.campaign_id
		          LEFT JOIN (SELECT x.campaign_id, count(*) AS n FROM coupon.unit x GROUP BY 1) u ON u.campaign_id = c.campaign_id
		          LEFT JOIN (SELECT x.campaign_id, count(*) AS n FROM coupon.issuance x GROUP BY 1) i ON i.campaign_id = c.campaign_id
		          LEFT JOIN (SELECT x.campaign_id, count(*) AS n FROM coupon.request_key x GROUP BY 1) k ON k.campaign_id = c.campaign_id
		          LEFT JOIN (SELECT x.campaign_id, count(*) AS n FROM coupon.lapsed_hold x GROUP BY 1) l ON l.campaign_id = c.campaign_id
		         WHERE c.dumped IS NOT NULL) m
		 WHERE m.detail IS NOT NULL
		 ORDER BY 1, 2, 3
	LOOP
		bad := bad || campaign;
		RETURN NEXT;
	END LOOP;
	-- they may be of any campaign, so they keep all of them
	SELECT count(*) INTO letters FROM coupon.dead_letter;
	SELECT max(c.dumped[6]) INTO dumped_letters FROM coupon.campaign c WHERE c.dumped IS NOT NULL;
	IF letters < dumped_letters THEN
		campaign := NULL;
		problem := 'rows are missing';
		detail := format('dead letters %s of %s', letters, dumped_letters);
		bad := bad || campaign;
		RETURN NEXT;
	END IF;
	UPDATE coupon.campaign c SET dumped = NULL
	 WHERE c.dumped IS NOT NULL
	   AND (coalesce(accept, false) OR array_position(bad, NULL) IS NULL AND c.campaign_id <> ALL (bad));
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_restored(boolean) IS
	'Once a dump is restored: lets those campaigns be sold of which all rows are there and which break no law, and returns what is wrong with the others. They stay paused; accept lets them be sold nevertheless.';

-- pg_dump reads coupon.campaign with this condition behind the table's name: in place of
-- its rows the same ones, with the number of theirs in the other tables.
DO $$
DECLARE
	columns text;
BEGIN
	SELECT string_agg(CASE a.attname
	                  WHEN 'dumped' THEN 'coalesce(c.dumped, ARRAY[coalesce(s.n, 0), coalesce(u.n, 0), coalesce(i.n, 0),'
	                                ' coalesce(k.n, 0), coalesce(l.n, 0), (SELECT count(*) FROM coupon.dead_letter)])'
	                  ELSE format('c.%I', a.attname) END, ', ' ORDER BY a.attnum)
	  INTO STRICT columns
	  FROM pg_attribute a
	 WHERE a.attrelid = 'coupon.campaign'::regclass AND a.attnum > 0 AND NOT a.attisdropped;
	PERFORM pg_extension_config_dump('coupon.campaign', format(
		'WHERE false UNION ALL SELECT %s FROM coupon.campaign c'
		' LEFT JOIN (SELECT campaign_id, count(*) AS n FROM coupon.shard GROUP BY 1) s ON s.campaign_id = c.campaign_id'
		' LEFT JOIN (SELECT campaign_id, count(*) AS n FROM coupon.unit GROUP BY 1) u ON u.campaign_id = c.campaign_id'
		' LEFT JOIN (SELECT campaign_id, count(*) AS n FROM coupon.issuance GROUP BY 1) i ON i.campaign_id = c.campaign_id'
		' LEFT JOIN (SELECT campaign_id, count(*) AS n FROM coupon.request_key GROUP BY 1) k ON k.campaign_id = c.campaign_id'
		' LEFT JOIN (SELECT campaign_id, count(*) AS n FROM coupon.lapsed_hold GROUP BY 1) l ON l.campaign_id = c.campaign_id',
		columns));
END
$$;
