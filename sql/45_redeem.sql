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
	'answer of a redeem call; status: redeemed | already_redeemed | expired | held | not_issued, of a cancellation: cancelled | not_redeemed | other_order | not_issued';

CREATE FUNCTION @extschema@.coupon_redeem(campaign_id bigint, user_id text, order_ref text, serial bigint DEFAULT NULL)
RETURNS coupon.redeem_result
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_redeem(bigint, text, text, bigint) IS
	'uses the user''s unit (the given serial, or the oldest usable one) for an order; the same order again gets the same answer';

CREATE FUNCTION @extschema@.coupon_redeem(campaign_id bigint, user_id bigint, order_ref text, serial bigint DEFAULT NULL)
RETURNS coupon.redeem_result
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_redeem_bigint';
COMMENT ON FUNCTION @extschema@.coupon_redeem(bigint, bigint, text, bigint) IS
	'coupon_redeem(bigint, text, text, bigint) for numeric users';

CREATE FUNCTION @extschema@.coupon_redeem_cancel(campaign_id bigint, user_id text, order_ref text, serial bigint DEFAULT NULL)
RETURNS coupon.redeem_result
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_redeem_cancel(bigint, text, text, bigint) IS
	'undoes a redemption, only for the order that redeemed; the unit stays with the user';

CREATE FUNCTION @extschema@.coupon_redeem_cancel(campaign_id bigint, user_id bigint, order_ref text, serial bigint DEFAULT NULL)
RETURNS coupon.redeem_result
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_redeem_cancel_bigint';
COMMENT ON FUNCTION @extschema@.coupon_redeem_cancel(bigint, bigint, text, bigint) IS
	'coupon_redeem_cancel(bigint, text, text, bigint) for numeric users';

CREATE FUNCTION @extschema@.coupon_revoke(campaign_id bigint, user_id text, reason text, serial bigint DEFAULT NULL)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_revoke(bigint, text, text, bigint) IS
	'takes the user''s unit (the given serial, or the newest one; a hold only if he has nothing else) back into stock; false if there is none; a redeemed one is an ERROR';

CREATE FUNCTION @extschema@.coupon_revoke(campaign_id bigint, user_id bigint, reason text, serial bigint DEFAULT NULL)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_revoke_bigint';
COMMENT ON FUNCTION @extschema@.coupon_revoke(bigint, bigint, text, bigint) IS
	'coupon_revoke(bigint, text, text, bigint) for numeric users';

CREATE FUNCTION @extschema@.coupon_expire(max_rows integer DEFAULT 1000)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_expire(integer) IS
	'marks up to max_rows issuances whose usage period is over as expired, one event each; the sweeper worker calls it every second';
