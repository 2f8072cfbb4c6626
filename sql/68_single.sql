-- Campaigns that live on one node as a whole, seats and small ones: their id says which node.

CREATE SEQUENCE coupon.campaign_single_seq;
COMMENT ON SEQUENCE coupon.campaign_single_seq IS 'Numbers of campaigns that live on this node as a whole.';

CREATE FUNCTION coupon.campaign_create_as(
	name text, stock bigint, per_user_limit integer, opens_at timestamptz, closes_at timestamptz, policy jsonb, topic text, campaign_id bigint)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_campaign_create';
COMMENT ON FUNCTION coupon.campaign_create_as(text, bigint, integer, timestamptz, timestamptz, jsonb, text, bigint) IS 'coupon_campaign_create() with an id that was chosen.';

CREATE FUNCTION coupon.campaign_id_here() RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := coupon.cluster_require();
	stays boolean[];
	id bigint;
BEGIN
	-- who gives a slot away waits for this transaction, and then looks for campaigns
	LOCK TABLE coupon.slot IN ROW EXCLUSIVE MODE;
	SELECT array_agg(s.node_id = self AND s.leaving IS NULL AND p.slot IS NULL ORDER BY s.slot) INTO stays
	  FROM coupon.slot s LEFT JOIN coupon.slot_plan p ON p.slot = s.slot;
	IF NOT true = ANY (stays) OR NOT EXISTS (SELECT FROM coupon.node n WHERE n.node_id = self AND n.state = 'active') THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'a campaign cannot live on this node',
			DETAIL = format('Node %s has no slots that stay.', self),
			HINT = 'Call it at an active node that has slots: coupon.node_status lists them.';
	END IF;
	FOR i IN 1 .. 100000 LOOP
		-- no other node gives that number
		id := 1000000000 + nextval('coupon.campaign_single_seq') * 64 + self % 64;
		IF stays[1 + coupon.slot_of('campaign ' || id)] AND NOT EXISTS (SELECT FROM coupon.campaign c WHERE c.campaign_id = id) THEN
			RETURN id;
		END IF;
	END LOOP;
	RAISE EXCEPTION 'no id was found for a campaign of node %', self;
END
$$;
COMMENT ON FUNCTION coupon.campaign_id_here() IS 'An id of a campaign whose home is this node.';

CREATE FUNCTION @extschema@.coupon_cluster_create_single(
	name           text,
	stock          bigint,
	per_user_limit integer DEFAULT 1,
	opens_at       timestamptz DEFAULT NULL,
	closes_at      timestamptz DEFAULT NULL,
	policy         jsonb DEFAULT '{}',
	topic          text DEFAULT 'coupon-issued',
	request_key    text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	used coupon.cluster_key;
	id bigint;
BEGIN
	PERFORM coupon.cluster_stay();
	used := coupon.cluster_key_used($8, NULL, $2);
	IF used.request_key IS NOT NULL THEN
		RETURN used.campaign_id;
	END IF;
	id := coupon.campaign_create_as($1, $2, $3, $4, $5, $6, $7, coupon.campaign_id_here());
	INSERT INTO coupon.cluster_key (request_key, campaign_id, units, last_serial) SELECT $8, id, $2, $2 WHERE $8 IS NOT NULL;
	RETURN id;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_cluster_create_single(text, bigint, integer, timestamptz, timestamptz, jsonb, text, text) IS
	'Creates a campaign that lives on this node as a whole: all its users are served here, wherever their own home is. For seats and small campaigns. Returns its id, which says so. With the same request_key again it returns the same campaign.';
