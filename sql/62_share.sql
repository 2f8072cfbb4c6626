-- A campaign whose stock several nodes share: which units are here, and how they move.

CREATE FUNCTION coupon.units_cut(campaign_id bigint, units bigint) RETURNS bigint[]
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_units_cut';
COMMENT ON FUNCTION coupon.units_cut(bigint, bigint) IS 'Part of coupon.transfer_cut(): sends up to so many free units away, and returns which: first and last serials of ranges.';

CREATE FUNCTION coupon.units_leave(campaign_id bigint, serials bigint[]) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_units_leave';
COMMENT ON FUNCTION coupon.units_leave(bigint, bigint[]) IS 'Deletes the issuances of ranges of serials, without events, because they go to another node with their units.';

CREATE FUNCTION coupon.units_arrive(campaign_id bigint, serials bigint[], last_serial bigint, free boolean) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_units_arrive';
COMMENT ON FUNCTION coupon.units_arrive(bigint, bigint[], bigint, boolean) IS 'Has ranges of serials at this node, free from the commit on, or to be inserted with their issuances. The campaign has at least the serials 1 to last_serial.';

CREATE FUNCTION coupon.shard_of(campaign_id bigint, serial bigint) RETURNS integer
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT s.shard FROM coupon.shard s WHERE s.campaign_id = $1 AND s.first_serial <= $2 AND s.last_serial >= $2 ORDER BY s.first_serial DESC LIMIT 1 $$;
COMMENT ON FUNCTION coupon.shard_of(bigint, bigint) IS 'The shard of a serial at this node; null: it has none.';

CREATE FUNCTION coupon.serials_of(ranges bigint[]) RETURNS int8multirange
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT coalesce(range_agg(int8range($1[2 * n - 1], $1[2 * n], '[]')), '{}') FROM generate_series(1, cardinality($1) / 2) n $$;
COMMENT ON FUNCTION coupon.serials_of(bigint[]) IS 'Ranges of serials, given by their first and last ones, as a multirange.';

CREATE FUNCTION coupon.ranges_of(serials int8multirange) RETURNS bigint[]
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT coalesce(array_agg(b.serial ORDER BY b.serial, b.last), '{}')
        FROM unnest($1) r, LATERAL (VALUES (lower(r), false), (upper(r) - 1, true)) b(serial, last) $$;
COMMENT ON FUNCTION coupon.ranges_of(int8multirange) IS 'A multirange of serials as first and last ones: the opposite of coupon.serials_of().';

CREATE FUNCTION coupon.units_of(serials int8multirange) RETURNS bigint
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint FROM unnest($1) r $$;
COMMENT ON FUNCTION coupon.units_of(int8multirange) IS 'How many serials there are in a multirange.';
