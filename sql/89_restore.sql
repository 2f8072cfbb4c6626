-- A dump, and what is made of it.  A dump says of each campaign how many rows it has; so
-- a copy into which they were not all loaded is known, and is not taken for a sale that
-- has issued nothing.

CREATE FUNCTION @extschema@.coupon_restored(
	accept boolean DEFAULT false,
	OUT campaign bigint,
	OUT problem text,
	OUT detail text)
RETURNS SETOF record
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	bad bigint[] := '{}';
BEGIN
	PERFORM FROM coupon.campaign c WHERE c.dumped IS NOT NULL ORDER BY c.campaign_id FOR NO KEY UPDATE;
	FOR campaign, problem, detail IN
		SELECT v.campaign, v.law, concat_ws(', ', 'serial ' || v.serial, 'user ' || v.user_id, v.detail)
		  FROM coupon.verify(NULL) v
		UNION ALL
		SELECT c.campaign_id, 'rows are missing',
		       format('shards %s of %s, labels %s of %s, issuances %s of %s',
		              s.n, c.dumped[1], u.n, c.dumped[2], i.n, c.dumped[3])
		  FROM coupon.campaign c,
		       LATERAL (SELECT count(*) AS n FROM coupon.shard x WHERE x.campaign_id = c.campaign_id) s,
		       LATERAL (SELECT count(*) AS n FROM coupon.unit x WHERE x.campaign_id = c.campaign_id) u,
		       LATERAL (SELECT count(*) AS n FROM coupon.issuance x WHERE x.campaign_id = c.campaign_id AND x.state <> 'held') i
		 WHERE c.dumped IS NOT NULL
		   AND (s.n < c.dumped[1] OR u.n < c.dumped[2] OR i.n < c.dumped[3])
		 ORDER BY 1, 2, 3
	LOOP
		bad := bad || campaign;
		RETURN NEXT;
	END LOOP;
	UPDATE coupon.campaign c SET dumped = NULL
	 WHERE c.dumped IS NOT NULL AND (coalesce(accept, false) OR c.campaign_id <> ALL (bad));
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
	                  WHEN 'dumped' THEN 'coalesce(c.dumped, ARRAY[coalesce(s.n, 0), coalesce(u.n, 0), coalesce(i.n, 0)])'
	                  ELSE format('c.%I', a.attname) END, ', ' ORDER BY a.attnum)
	  INTO STRICT columns
	  FROM pg_attribute a
	 WHERE a.attrelid = 'coupon.campaign'::regclass AND a.attnum > 0 AND NOT a.attisdropped;
	PERFORM pg_extension_config_dump('coupon.campaign', format(
		'WHERE false UNION ALL SELECT %s FROM coupon.campaign c'
		' LEFT JOIN (SELECT campaign_id, count(*) AS n FROM coupon.shard GROUP BY 1) s ON s.campaign_id = c.campaign_id'
		' LEFT JOIN (SELECT campaign_id, count(*) AS n FROM coupon.unit GROUP BY 1) u ON u.campaign_id = c.campaign_id'
		' LEFT JOIN (SELECT campaign_id, count(*) AS n FROM coupon.issuance WHERE state <> ''held'' GROUP BY 1) i ON i.campaign_id = c.campaign_id',
		columns));
END
$$;
