-- Holding: a unit is the user's for a while, and for good once it is paid for.

CREATE TYPE coupon.hold_result AS (
	user_id    text,
	status     text,
	serial     bigint,
	label      text,
	held_until timestamptz
);
COMMENT ON TYPE coupon.hold_result IS
	'answer of a hold call; status: held | already_held | already_issued | taken | busy | limit_reached | not_open | closed | paused | not_admitted (coupon_hold_any also: sold_out, coupon_hold_many: not_held), of coupon_confirm: confirmed | already_confirmed | other_ref | lost | limit_reached | not_held | busy';

-- Written below the executor (src/sale/lapse.c), by position.
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
COMMENT ON TABLE coupon.lapsed_hold IS 'who held a unit that he did not pay for in time, for coupon.hold_keep: coupon_confirm asks here when a payment is late';
COMMENT ON COLUMN coupon.lapsed_hold.campaign_id IS 'the campaign';
COMMENT ON COLUMN coupon.lapsed_hold.serial IS 'the unit';
COMMENT ON COLUMN coupon.lapsed_hold.held_until IS 'when the hold ran out, or the payment was refused';
COMMENT ON COLUMN coupon.lapsed_hold.user_id IS 'who held it';
COMMENT ON COLUMN coupon.lapsed_hold.refused_ref IS 'a payment that was refused and is to be given back: it cannot confirm anything any more; null: none was';

SELECT pg_catalog.pg_extension_config_dump('coupon.lapsed_hold', '');

CREATE FUNCTION @extschema@.coupon_hold(campaign_id bigint, serial bigint, user_id text, ttl interval DEFAULT '5 min')
RETURNS coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_hold(bigint, bigint, text, interval) IS
	'holds a certain unit for the user, in the caller''s transaction; the answer is in status';

CREATE FUNCTION @extschema@.coupon_hold(campaign_id bigint, serial bigint, user_id bigint, ttl interval DEFAULT '5 min')
RETURNS coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_hold_bigint';
COMMENT ON FUNCTION @extschema@.coupon_hold(bigint, bigint, bigint, interval) IS
	'coupon_hold(bigint, bigint, text, interval) for numeric users';

CREATE FUNCTION @extschema@.coupon_hold_many(campaign_id bigint, serials bigint[], user_id text, ttl interval DEFAULT '5 min')
RETURNS SETOF coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_hold_many(bigint, bigint[], text, interval) IS
	'holds all of the units for the user, or none; one answer per serial, in the array''s order; not_held: another one was not to be had';

CREATE FUNCTION @extschema@.coupon_hold_many(campaign_id bigint, serials bigint[], user_id bigint, ttl interval DEFAULT '5 min')
RETURNS SETOF coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_hold_many_bigint';
COMMENT ON FUNCTION @extschema@.coupon_hold_many(bigint, bigint[], bigint, interval) IS
	'coupon_hold_many(bigint, bigint[], text, interval) for numeric users';

CREATE FUNCTION @extschema@.coupon_hold_any(campaign_id bigint, user_id text, ttl interval DEFAULT '5 min')
RETURNS coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_hold_any(bigint, text, interval) IS
	'holds any free unit for the user; one whose limit is used up is told which he has';

CREATE FUNCTION @extschema@.coupon_hold_any(campaign_id bigint, user_id bigint, ttl interval DEFAULT '5 min')
RETURNS coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_hold_any_bigint';
COMMENT ON FUNCTION @extschema@.coupon_hold_any(bigint, bigint, interval) IS
	'coupon_hold_any(bigint, text, interval) for numeric users';

CREATE FUNCTION @extschema@.coupon_confirm(campaign_id bigint, serial bigint, user_id text, ref text)
RETURNS coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_confirm(bigint, bigint, text, text) IS
	'makes the user''s hold an issuance, paid for by ref; one that has run out, too, while nobody else has the unit; the same ref again gets the same answer; lost, other_ref, limit_reached: an event tells whoever gives the money back';

CREATE FUNCTION @extschema@.coupon_confirm(campaign_id bigint, serial bigint, user_id bigint, ref text)
RETURNS coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_confirm_bigint';
COMMENT ON FUNCTION @extschema@.coupon_confirm(bigint, bigint, bigint, text) IS
	'coupon_confirm(bigint, bigint, text, text) for numeric users';

CREATE FUNCTION @extschema@.coupon_release(campaign_id bigint, serial bigint, user_id text)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_release(bigint, bigint, text) IS
	'ends the user''s own hold and returns the unit to stock; false if he has none there, also of what is confirmed or has run out';

CREATE FUNCTION @extschema@.coupon_release(campaign_id bigint, serial bigint, user_id bigint)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_release_bigint';
COMMENT ON FUNCTION @extschema@.coupon_release(bigint, bigint, bigint) IS
	'coupon_release(bigint, bigint, text) for numeric users';

CREATE FUNCTION @extschema@.coupon_hold_expire(max_rows integer DEFAULT 1000)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_hold_expire(integer) IS
	'returns up to max_rows holds that have run out to stock, one event each; the sweeper worker does it all the time';
