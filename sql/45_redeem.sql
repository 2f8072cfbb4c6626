-- After issuing: redeem, cancel, revoke, expire.

CREATE TYPE coupon.redeem_result AS (
	user_id     text,
	status      text,
	serial      bigint,
	code        text,
	order_ref   text,
	redeemed_at timestamptz
);
COMMENT ON TYPE coupon.redeem_result IS
	'The answer of a redeem call. Status: redeemed | already_redeemed | expired | held | not_issued; of a cancellation: cancelled | not_redeemed | other_order | not_issued.';
COMMENT ON COLUMN coupon.redeem_result.user_id IS 'The user who asked.';
COMMENT ON COLUMN coupon.redeem_result.status IS 'What became of the call.';
COMMENT ON COLUMN coupon.redeem_result.serial IS 'The unit; null: the user has none.';
COMMENT ON COLUMN coupon.redeem_result.code IS 'The label of the unit, if the campaign has labels.';
COMMENT ON COLUMN coupon.redeem_result.order_ref IS 'The order that redeemed the unit.';
COMMENT ON COLUMN coupon.redeem_result.redeemed_at IS 'When it did.';

CREATE FUNCTION @extschema@.coupon_redeem(campaign_id bigint, user_id USER_TYPE, order_ref text, serial bigint DEFAULT NULL)
RETURNS coupon.redeem_result
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_redeem_USER_TYPE';
COMMENT ON FUNCTION @extschema@.coupon_redeem(bigint, USER_TYPE, text, bigint) IS
	'Uses a unit of the user for an order: the one of that serial, or else the oldest that can be used. The same order gets the same answer again.';

CREATE FUNCTION @extschema@.coupon_redeem_cancel(campaign_id bigint, user_id USER_TYPE, order_ref text, serial bigint DEFAULT NULL)
RETURNS coupon.redeem_result
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_redeem_cancel_USER_TYPE';
COMMENT ON FUNCTION @extschema@.coupon_redeem_cancel(bigint, USER_TYPE, text, bigint) IS
	'Undoes a redemption, for the order that redeemed only. The user keeps the unit.';

CREATE FUNCTION @extschema@.coupon_revoke(campaign_id bigint, user_id USER_TYPE, reason text, serial bigint DEFAULT NULL)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_revoke_USER_TYPE';
COMMENT ON FUNCTION @extschema@.coupon_revoke(bigint, USER_TYPE, text, bigint) IS
	'Takes a unit of the user back into stock: the one of that serial, or else the newest; a hold only if the user has nothing else. False if there is none. A redeemed one is an ERROR.';

CREATE FUNCTION @extschema@.coupon_expire(max_rows integer DEFAULT 1000)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_expire(integer) IS
	'Marks up to max_rows issuances as expired whose usage period is over, each with an event. The sweeper worker does this all the time.';
