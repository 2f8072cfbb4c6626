-- Issuances: who has which unit.

CREATE TYPE coupon.issue_result AS (
	user_id    text,
	status     text,
	serial     bigint,
	code       text,
	issued_at  timestamptz,
	expires_at timestamptz
);
COMMENT ON TYPE coupon.issue_result IS
	'answer of an issue call; status: issued | already_issued | sold_out | busy | not_open | closed | paused | not_admitted | held (coupon_issue_many also: invalid)';

-- Column order packs the fixed-width columns without padding.  The C core
-- writes this table (src/sale/issuance_table.c) and knows the columns by position.
CREATE TABLE coupon.issuance (
	campaign_id bigint NOT NULL,
	serial      bigint NOT NULL,
	shard       integer NOT NULL,
	nth         integer NOT NULL,
	issued_at   timestamptz NOT NULL,
	expires_at  timestamptz,
	user_id     text COLLATE "C" NOT NULL,
	state       text COLLATE "C" NOT NULL,
	policy      jsonb NOT NULL,
	redeemed_at timestamptz,
	order_ref   text,
	held_until  timestamptz,
	confirm_ref text,
	CONSTRAINT issuance_serial_key PRIMARY KEY (campaign_id, serial),
	CONSTRAINT issuance_user_key UNIQUE (campaign_id, user_id, nth),
	FOREIGN KEY (campaign_id, shard) REFERENCES coupon.shard
);
CREATE INDEX issuance_due_idx ON coupon.issuance (expires_at)
	WHERE state = 'issued' AND expires_at IS NOT NULL;
CREATE INDEX issuance_held_idx ON coupon.issuance (campaign_id, held_until)
	WHERE held_until IS NOT NULL;
CREATE INDEX issuance_lapse_idx ON coupon.issuance (held_until)
	WHERE held_until IS NOT NULL;
COMMENT ON TABLE coupon.issuance IS 'the durable truth: this serial of this campaign belongs to this user';
COMMENT ON COLUMN coupon.issuance.campaign_id IS 'the campaign';
COMMENT ON COLUMN coupon.issuance.serial IS 'the unit: unique in its campaign, so it cannot be sold twice';
COMMENT ON COLUMN coupon.issuance.shard IS 'the shard that the serial lies in';
COMMENT ON COLUMN coupon.issuance.nth IS 'the user''s first, second, ... unit, up to per_user_limit';
COMMENT ON COLUMN coupon.issuance.issued_at IS 'when it was issued; of a hold: when it began';
COMMENT ON COLUMN coupon.issuance.expires_at IS 'first instant at which it can no longer be redeemed, null: never';
COMMENT ON COLUMN coupon.issuance.user_id IS 'the owner';
COMMENT ON COLUMN coupon.issuance.state IS 'issued | redeemed | expired | held (until held_until, unless it is confirmed)';
COMMENT ON COLUMN coupon.issuance.policy IS 'the campaign''s policy as it was at that moment';
COMMENT ON COLUMN coupon.issuance.redeemed_at IS 'when it was redeemed';
COMMENT ON COLUMN coupon.issuance.order_ref IS 'the order that redeemed it';
COMMENT ON COLUMN coupon.issuance.held_until IS 'of a hold: first instant at which anybody may have the unit, null: it is not a hold';
COMMENT ON COLUMN coupon.issuance.confirm_ref IS 'the payment that confirmed the hold, null: there was none';

SELECT pg_catalog.pg_extension_config_dump('coupon.issuance', '');

CREATE FUNCTION coupon.issuance_guard() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	user_limit integer;
BEGIN
	-- a change to anything else leaves what was allowed when the row came
	IF ROW(NEW.campaign_id, NEW.shard, NEW.serial) IS DISTINCT FROM ROW(OLD.campaign_id, OLD.shard, OLD.serial)
	   AND NOT EXISTS (SELECT FROM coupon.shard s
	                    WHERE s.campaign_id = NEW.campaign_id AND s.shard = NEW.shard
	                      AND NEW.serial BETWEEN s.first_serial AND s.last_serial) THEN
		RAISE check_violation USING
			MESSAGE = 'serial is outside the campaign''s shards',
			DETAIL = format('Campaign %s, shard %s, serial %s.', NEW.campaign_id, NEW.shard, NEW.serial),
			HINT = 'Units are added with coupon_campaign_add_stock().';
	END IF;
	IF ROW(NEW.campaign_id, NEW.nth) IS DISTINCT FROM ROW(OLD.campaign_id, OLD.nth) THEN
		SELECT c.max_per_user_limit INTO user_limit FROM coupon.campaign c
		 WHERE c.campaign_id = NEW.campaign_id;
		IF NEW.nth NOT BETWEEN 1 AND user_limit THEN
			RAISE check_violation USING
				MESSAGE = 'issuance exceeds the per-user limit',
				DETAIL = format('Campaign %s, user %s, nth %s, limit %s.', NEW.campaign_id, left(NEW.user_id, 64), NEW.nth, user_limit),
				HINT = 'nth counts a user''s units from 1.';
		END IF;
	END IF;
	IF NEW.state NOT IN ('issued', 'redeemed', 'expired', 'held') THEN
		RAISE check_violation USING
			MESSAGE = 'invalid issuance state',
			DETAIL = format('State "%s".', left(NEW.state, 32)),
			HINT = 'The states are issued, redeemed, expired and held.';
	END IF;
	IF (NEW.state = 'redeemed') <> (NEW.order_ref IS NOT NULL)
	   OR (NEW.state = 'redeemed') <> (NEW.redeemed_at IS NOT NULL) THEN
		RAISE check_violation USING
			MESSAGE = 'order_ref and redeemed_at belong to redeemed issuances, and to no others',
			DETAIL = format('Campaign %s, serial %s, state "%s".', NEW.campaign_id, NEW.serial, left(NEW.state, 32)),
			HINT = 'Use coupon_redeem() and coupon_redeem_cancel().';
	END IF;
	IF (NEW.state = 'held') <> (NEW.held_until IS NOT NULL)
	   OR NEW.state = 'held' AND (NEW.confirm_ref IS NOT NULL OR NEW.expires_at IS NOT NULL) THEN
		RAISE check_violation USING
			MESSAGE = 'held_until belongs to holds, and to no others; confirm_ref and expires_at do not',
			DETAIL = format('Campaign %s, serial %s, state "%s".', NEW.campaign_id, NEW.serial, left(NEW.state, 32)),
			HINT = 'Use coupon_hold(), coupon_confirm() and coupon_release().';
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION coupon.issuance_guard() IS 'refuses issuances outside the shards, or above the highest per-user limit that there was';

CREATE FUNCTION coupon.issuance_arrived() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'coupon_issuance_arrived';
COMMENT ON FUNCTION coupon.issuance_arrived() IS 'lets the filter of users know of a row that did not come through coupon';

CREATE FUNCTION coupon.issuance_returned() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'coupon_issuance_returned';
COMMENT ON FUNCTION coupon.issuance_returned() IS 'gives a deleted issuance''s unit back to the stock map when the deletion commits';

CREATE TRIGGER issuance_guard BEFORE INSERT OR UPDATE OF campaign_id, serial, shard, nth, state, order_ref, redeemed_at,
	held_until, confirm_ref, expires_at
	ON coupon.issuance
	FOR EACH ROW EXECUTE FUNCTION coupon.issuance_guard();
CREATE TRIGGER issuance_arrived AFTER INSERT OR UPDATE OF campaign_id, user_id, held_until ON coupon.issuance
	FOR EACH ROW EXECUTE FUNCTION coupon.issuance_arrived();
CREATE TRIGGER issuance_returned AFTER DELETE OR UPDATE OF campaign_id, serial ON coupon.issuance
	FOR EACH ROW EXECUTE FUNCTION coupon.issuance_returned();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON coupon.issuance
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.refuse_truncate();
-- What keeps shared memory right must fire for replicated changes, too.
ALTER TABLE coupon.issuance ENABLE ALWAYS TRIGGER issuance_arrived;
ALTER TABLE coupon.issuance ENABLE ALWAYS TRIGGER issuance_returned;
ALTER TABLE coupon.issuance ENABLE ALWAYS TRIGGER refuse_truncate;

-- Issuing. Not SECURITY DEFINER: the C core reads and writes the tables
-- itself, so EXECUTE on the function is the whole privilege.

CREATE FUNCTION @extschema@.coupon_issue(campaign_id bigint, user_id text)
RETURNS coupon.issue_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_issue(bigint, text) IS
	'issues one unit to the user in the caller''s transaction; the answer is in status';

CREATE FUNCTION @extschema@.coupon_issue(campaign_id bigint, user_id bigint)
RETURNS coupon.issue_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_issue_bigint';
COMMENT ON FUNCTION @extschema@.coupon_issue(bigint, bigint) IS
	'coupon_issue(bigint, text) for numeric users';

CREATE FUNCTION @extschema@.coupon_issue_many(campaign_id bigint, user_ids text[])
RETURNS SETOF coupon.issue_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_issue_many(bigint, text[]) IS
	'issues one unit to each user in the caller''s transaction; one answer per user, in the array''s order; numeric users: pass ids::text[]';
