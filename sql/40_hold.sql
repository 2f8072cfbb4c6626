-- Holds: a unit is the user's for a while, and for good once it is paid for.

CREATE TYPE coupon.hold_result AS (
	user_id    text,
	status     text,
	serial     bigint,
	label      text,
	held_until timestamptz
);
COMMENT ON TYPE coupon.hold_result IS
	'The answer of a hold call. Status: held | already_held | already_issued | taken | busy | limit_reached | not_open | closed | paused | not_admitted; of coupon_hold_any() also: sold_out; of coupon_hold_many() also: not_held; of coupon_confirm(): confirmed | already_confirmed | other_ref | lost | limit_reached | not_held | busy; with a request_key also: returned | other_call.';
COMMENT ON COLUMN coupon.hold_result.user_id IS 'The user who asked.';
COMMENT ON COLUMN coupon.hold_result.status IS 'What became of the call.';
COMMENT ON COLUMN coupon.hold_result.serial IS 'The unit.';
COMMENT ON COLUMN coupon.hold_result.label IS 'The label of the unit, if the campaign has labels.';
COMMENT ON COLUMN coupon.hold_result.held_until IS 'When the hold runs out; null: the user has no hold.';

-- C code (src/sale/late_payment.c) writes the rows and knows the columns by position.
CREATE TABLE coupon.lapsed_hold (
	campaign_id bigint NOT NULL,
	serial      bigint NOT NULL,
	held_until  timestamptz NOT NULL,
	user_id     text COLLATE "C" NOT NULL,
	refused_ref text COLLATE "C"
);
CREATE INDEX lapsed_hold_idx ON coupon.lapsed_hold (campaign_id, serial, user_id);
CREATE INDEX lapsed_hold_until_idx ON coupon.lapsed_hold (held_until);
-- A user may hold the same unit twice and pay late twice, so no columns are a
-- key.  Without an identity a publication for all tables would refuse deletes.
ALTER TABLE coupon.lapsed_hold REPLICA IDENTITY FULL;
COMMENT ON TABLE coupon.lapsed_hold IS 'Users who did not pay in time for a unit that they held. Rows are kept for coupon.hold_keep; coupon_confirm() looks here when a payment is late.';
COMMENT ON COLUMN coupon.lapsed_hold.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.lapsed_hold.serial IS 'The unit.';
COMMENT ON COLUMN coupon.lapsed_hold.held_until IS 'When the hold ran out, or the payment was refused.';
COMMENT ON COLUMN coupon.lapsed_hold.user_id IS 'The user who held it.';
COMMENT ON COLUMN coupon.lapsed_hold.refused_ref IS 'A payment that was refused and must be given back, so that it can confirm nothing any more; null: none was refused.';

SELECT pg_catalog.pg_extension_config_dump('coupon.lapsed_hold', '');

CREATE FUNCTION @extschema@.coupon_hold(campaign_id bigint, serial bigint, user_id USER_TYPE, ttl interval DEFAULT '5 min', request_key text DEFAULT NULL)
RETURNS coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_hold_USER_TYPE';
COMMENT ON FUNCTION @extschema@.coupon_hold(bigint, bigint, USER_TYPE, interval, text) IS
	'Holds a certain unit for the user, in the caller''s transaction. The answer is in status.';

CREATE FUNCTION @extschema@.coupon_hold_many(campaign_id bigint, serials bigint[], user_id USER_TYPE, ttl interval DEFAULT '5 min', request_key text DEFAULT NULL)
RETURNS SETOF coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_hold_many_USER_TYPE';
COMMENT ON FUNCTION @extschema@.coupon_hold_many(bigint, bigint[], USER_TYPE, interval, text) IS
	'Holds all of the units for the user, or none. Returns an answer for each serial, in the order of the array; not_held: this one could be had, but another one could not.';

CREATE FUNCTION @extschema@.coupon_hold_any(campaign_id bigint, user_id USER_TYPE, ttl interval DEFAULT '5 min', request_key text DEFAULT NULL)
RETURNS coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_hold_any_USER_TYPE';
COMMENT ON FUNCTION @extschema@.coupon_hold_any(bigint, USER_TYPE, interval, text) IS
	'Holds any free unit for the user. A user who has as many as the limit allows is told which unit they have.';

CREATE FUNCTION @extschema@.coupon_confirm(campaign_id bigint, serial bigint, user_id USER_TYPE, ref text)
RETURNS coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_confirm_USER_TYPE';
COMMENT ON FUNCTION @extschema@.coupon_confirm(bigint, bigint, USER_TYPE, text) IS
	'Makes the user''s hold an issuance that the payment ref paid for. A hold that has run out is confirmed, too, as long as nobody else has the unit. The same ref gets the same answer again. For lost, other_ref and limit_reached an event says that the money must be given back.';

CREATE FUNCTION @extschema@.coupon_release(campaign_id bigint, serial bigint, user_id USER_TYPE)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_release_USER_TYPE';
COMMENT ON FUNCTION @extschema@.coupon_release(bigint, bigint, USER_TYPE) IS
	'Ends the user''s hold and returns the unit to stock. False if the user has no hold on it, for example because it is confirmed or has run out.';

CREATE FUNCTION @extschema@.coupon_hold_expire(max_rows integer DEFAULT 1000)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_hold_expire(integer) IS
	'Returns up to max_rows units to stock whose holds have run out, each with an event. The sweeper worker does this all the time.';
