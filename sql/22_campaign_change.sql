-- Changing a sale that is under way.

CREATE FUNCTION @extschema@.coupon_campaign_alter(
	campaign_id    bigint,
	name           text DEFAULT NULL,
	opens_at       timestamptz DEFAULT NULL,
	closes_at      timestamptz DEFAULT NULL,
	per_user_limit integer DEFAULT NULL,
	policy         jsonb DEFAULT NULL,
	topic          text DEFAULT NULL)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_campaign_alter(bigint, text, timestamptz, timestamptz, integer, jsonb, text) IS
	'Changes what is not null, from the commit on; opens_at -infinity is at once, closes_at infinity is never. What was issued keeps its policy and stays valid, also above a lowered limit. Returns whether anything changed.';

CREATE FUNCTION @extschema@.coupon_campaign_reduce_stock(campaign_id bigint, units bigint)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_campaign_reduce_stock(bigint, bigint) IS
	'Takes so many free units off the sale for good, whichever they are, or is an ERROR if fewer are free. Returns the new stock.';

CREATE FUNCTION @extschema@.coupon_units_withdraw(campaign_id bigint, serials bigint[])
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_units_withdraw(bigint, bigint[]) IS
	'Takes these units off the sale for good, or is an ERROR if one of them is not free. Returns the new stock.';
