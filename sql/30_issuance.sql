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
	'The answer of an issue call. Status: issued | already_issued | sold_out | busy | not_open | closed | paused | not_admitted | held; with a request_key also: returned | other_call; of coupon_issue_many() also: invalid.';
COMMENT ON COLUMN coupon.issue_result.user_id IS 'The user who asked.';
COMMENT ON COLUMN coupon.issue_result.status IS 'What became of the call.';
COMMENT ON COLUMN coupon.issue_result.serial IS 'The unit that the user has; null: none.';
COMMENT ON COLUMN coupon.issue_result.code IS 'The label of the unit, if the campaign has labels.';
COMMENT ON COLUMN coupon.issue_result.issued_at IS 'When the unit was issued.';
COMMENT ON COLUMN coupon.issue_result.expires_at IS 'From when on the unit can no longer be redeemed; null: always.';

-- The order of the columns leaves no padding between those of fixed width.  C code
-- (src/sale/issuance_table.c) writes the rows and knows the columns by position.
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
	CONSTRAINT issuance_user_key UNIQUE (campaign_id, user_id, nth)
);
CREATE INDEX issuance_due_idx ON coupon.issuance (expires_at)
	WHERE state = 'issued' AND expires_at IS NOT NULL;
CREATE INDEX issuance_held_idx ON coupon.issuance (campaign_id, held_until)
	WHERE held_until IS NOT NULL;
CREATE INDEX issuance_lapse_idx ON coupon.issuance (held_until)
	WHERE held_until IS NOT NULL;
COMMENT ON TABLE coupon.issuance IS 'Which unit of which campaign belongs to which user. What is left of a campaign follows from this table alone.';
COMMENT ON COLUMN coupon.issuance.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.issuance.serial IS 'The unit. It is unique in its campaign, so that it cannot be sold twice.';
COMMENT ON COLUMN coupon.issuance.shard IS 'The shard that the serial belongs to.';
COMMENT ON COLUMN coupon.issuance.nth IS 'Whether it is the user''s first, second, ... unit, up to the limit per user. A number that became free is used again.';
COMMENT ON COLUMN coupon.issuance.issued_at IS 'When the unit was issued, or the hold began.';
COMMENT ON COLUMN coupon.issuance.expires_at IS 'From when on it can no longer be redeemed; null: always.';
COMMENT ON COLUMN coupon.issuance.user_id IS 'The user who has the unit.';
COMMENT ON COLUMN coupon.issuance.state IS 'issued | redeemed | expired | held. A hold ends at held_until unless it is confirmed.';
COMMENT ON COLUMN coupon.issuance.policy IS 'The campaign''s policy as it was when the unit was issued.';
COMMENT ON COLUMN coupon.issuance.redeemed_at IS 'When it was redeemed.';
COMMENT ON COLUMN coupon.issuance.order_ref IS 'The order that redeemed it.';
COMMENT ON COLUMN coupon.issuance.held_until IS 'Of a hold, from when on anybody may have the unit; null: it is no hold.';
COMMENT ON COLUMN coupon.issuance.confirm_ref IS 'The payment that confirmed the hold; null: there was no hold.';

SELECT pg_catalog.pg_extension_config_dump('coupon.issuance', '');

CREATE FUNCTION coupon.issuance_guard() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	user_limit integer;
BEGIN
	-- What was allowed when the row was inserted stays so: only what changes is checked.
	IF ROW(NEW.campaign_id, NEW.shard, NEW.serial) IS DISTINCT FROM ROW(OLD.campaign_id, OLD.shard, OLD.serial) THEN
		-- the lock, until the end of the transaction, as a foreign key would take it
		PERFORM FROM coupon.shard s
		 WHERE s.campaign_id = NEW.campaign_id AND s.shard = NEW.shard
		   AND NEW.serial BETWEEN s.first_serial AND s.last_serial
		   AND CASE WHEN s.withdrawn IS NULL THEN true
		            WHEN NEW.serial BETWEEN s.first_serial AND s.last_serial THEN get_bit(s.withdrawn, NEW.serial - s.first_serial) = 0 END
		   AND CASE WHEN s.away IS NULL THEN true
		            WHEN NEW.serial BETWEEN s.first_serial AND s.last_serial THEN get_bit(s.away, NEW.serial - s.first_serial) = 0 END
		   FOR KEY SHARE;
		IF NOT FOUND AND NOT coupon.restoring() THEN
			RAISE check_violation USING
				MESSAGE = 'serial is outside the campaign''s shards',
				DETAIL = format('Campaign %s, shard %s, serial %s.', NEW.campaign_id, NEW.shard, NEW.serial),
				HINT = 'Units are added with coupon_campaign_add_stock().';
		END IF;
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
COMMENT ON FUNCTION coupon.issuance_guard() IS 'Trigger: refuses an issuance outside the shards, above the highest limit per user, or in a state that its other columns contradict.';

CREATE FUNCTION coupon.issuance_arrived() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'coupon_issuance_arrived';
COMMENT ON FUNCTION coupon.issuance_arrived() IS 'Trigger: tells shared memory of a row that was not written by the functions.';

CREATE FUNCTION coupon.issuance_returned() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'coupon_issuance_returned';
COMMENT ON FUNCTION coupon.issuance_returned() IS 'Trigger: gives the unit of a deleted row back to stock once the deletion commits.';

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
-- A subscriber's shared memory must be right, too, so these triggers fire for
-- replicated changes as well.
ALTER TABLE coupon.issuance ENABLE ALWAYS TRIGGER issuance_arrived;
ALTER TABLE coupon.issuance ENABLE ALWAYS TRIGGER issuance_returned;
ALTER TABLE coupon.issuance ENABLE ALWAYS TRIGGER refuse_truncate;

-- Issuing.  These functions are not SECURITY DEFINER: C code reads and writes the
-- tables itself, so EXECUTE on the function is all that a caller needs.

CREATE FUNCTION @extschema@.coupon_issue(campaign_id bigint, user_id USER_TYPE, request_key text DEFAULT NULL)
RETURNS coupon.issue_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_issue_USER_TYPE';
COMMENT ON FUNCTION @extschema@.coupon_issue(bigint, USER_TYPE, text) IS
	'Issues a unit to the user, in the caller''s transaction. The answer is in status. The same request_key of the same user again gets the same unit.';

CREATE FUNCTION @extschema@.coupon_issue_many(campaign_id bigint, user_ids text[], request_keys text[] DEFAULT NULL)
RETURNS SETOF coupon.issue_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_issue_many(bigint, text[], text[]) IS
	'Issues a unit to each user, in the caller''s transaction. Returns an answer for each user, in the order of the array. Other users than texts are cast: ids::text[].';
