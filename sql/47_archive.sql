-- The end of a campaign: its rows go to a table of the application's, or away.

CREATE TYPE coupon.archived_issuance AS (
	campaign_id bigint,
	serial      bigint,
	label       text,
	user_id     text,
	nth         integer,
	state       text,
	issued_at   timestamptz,
	expires_at  timestamptz,
	redeemed_at timestamptz,
	order_ref   text,
	confirm_ref text,
	policy      jsonb
);
COMMENT ON TYPE coupon.archived_issuance IS
	'A row that coupon_campaign_archive() writes. CREATE TABLE ... (LIKE coupon.archived_issuance) makes a table for them.';
COMMENT ON COLUMN coupon.archived_issuance.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.archived_issuance.serial IS 'The unit.';
COMMENT ON COLUMN coupon.archived_issuance.label IS 'Its code or seat; null: it has none.';
COMMENT ON COLUMN coupon.archived_issuance.user_id IS 'The user who has it.';
COMMENT ON COLUMN coupon.archived_issuance.nth IS 'Whether it is the user''s first, second, ...';
COMMENT ON COLUMN coupon.archived_issuance.state IS 'issued | redeemed | expired';
COMMENT ON COLUMN coupon.archived_issuance.issued_at IS 'When it was issued.';
COMMENT ON COLUMN coupon.archived_issuance.expires_at IS 'From when on it could not be redeemed; null: never.';
COMMENT ON COLUMN coupon.archived_issuance.redeemed_at IS 'When it was redeemed.';
COMMENT ON COLUMN coupon.archived_issuance.order_ref IS 'The order that redeemed it.';
COMMENT ON COLUMN coupon.archived_issuance.confirm_ref IS 'The payment that confirmed it.';
COMMENT ON COLUMN coupon.archived_issuance.policy IS 'The rules of the discount, as they were when it was issued.';

CREATE FUNCTION coupon.campaign_ending(campaign_id bigint) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'coupon_campaign_ending';
COMMENT ON FUNCTION coupon.campaign_ending(bigint) IS 'Part of coupon_campaign_archive() and coupon_campaign_drop(): whoever inserts issuances looks from now on whether the campaign has ended.';

CREATE FUNCTION coupon.campaign_end_begin(campaign_id bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	campaign record;
	held bigint;
BEGIN
	SELECT c.closed_at, c.dumped INTO campaign FROM coupon.campaign c WHERE c.campaign_id = $1 FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RAISE SQLSTATE 'UC001' USING
			MESSAGE = 'unknown campaign',
			DETAIL = format('There is no campaign %s.', coalesce($1::text, 'null')),
			HINT = 'Use an id that coupon_campaign_create() returned; coupon.campaign lists them.';
	END IF;
	IF campaign.closed_at IS NULL THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'campaign is not closed',
			DETAIL = format('Campaign %s may be issued from.', $1),
			HINT = 'Close it with coupon_campaign_close() first.';
	END IF;
	-- what is missing would be missing in the archive; and its holds are not swept
	IF campaign.dumped IS NOT NULL THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'campaign was restored and is not checked yet',
			DETAIL = format('Campaign %s may lack issuances.', $1),
			HINT = 'Look with SELECT * FROM coupon_restored().';
	END IF;
	SELECT count(*) INTO held FROM coupon.issuance i WHERE i.campaign_id = $1 AND i.held_until > clock_timestamp();
	IF held > 0 THEN
		RAISE object_in_use USING
			MESSAGE = 'units of the campaign are held',
			DETAIL = format('Campaign %s: %s units are held, and may be paid for.', $1, held),
			HINT = 'Wait until the holds have run out, or revoke them with coupon_revoke().';
	END IF;
	PERFORM coupon.campaign_ending($1);
	UPDATE coupon.campaign c SET archived_at = clock_timestamp() WHERE c.campaign_id = $1 AND c.archived_at IS NULL;
	RETURN coalesce((SELECT max(s.last_serial) FROM coupon.shard s WHERE s.campaign_id = $1), 0);
END
$$;
COMMENT ON FUNCTION coupon.campaign_end_begin(bigint) IS 'Part of coupon_campaign_archive() and coupon_campaign_drop(): may the campaign end? Returns its last serial.';

CREATE FUNCTION coupon.campaign_end_holds(campaign_id bigint, serials bigint[]) RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_campaign_end_holds';
COMMENT ON FUNCTION coupon.campaign_end_holds(bigint, bigint[]) IS 'Part of coupon_campaign_archive() and coupon_campaign_drop(): ends those of the holds that have run out, each with its event. Returns how many.';

-- Takes rows away and returns them, so that whoever calls it writes them with their own
-- rights.  A row that somebody has locked is passed by, or waited for if it is the only one.
-- A hold may come from a transaction that had begun before the close: it is nobody's to
-- take away while it may be paid for, and ends as any other when it has run out.
-- Labels go with their rows.  The others are left to coupon.campaign_end(), since a row
-- that is not committed needs its label, and is not seen here.
CREATE FUNCTION coupon.campaign_end_rows(campaign_id bigint, first_serial bigint, last_serial bigint)
RETURNS SETOF coupon.archived_issuance
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
	serials bigint[];
	held bigint[];
	live bigint;
BEGIN
	IF NOT EXISTS (SELECT FROM coupon.campaign c WHERE c.campaign_id = $1 AND c.archived_at IS NOT NULL AND c.closed_at IS NOT NULL) THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'campaign is not being archived or dropped',
			DETAIL = format('Campaign %s.', coalesce($1::text, 'null')),
			HINT = 'Use coupon_campaign_archive() or coupon_campaign_drop().';
	END IF;
	IF $2 = $3 THEN
		serials := ARRAY(SELECT i.serial FROM coupon.issuance i WHERE i.campaign_id = $1 AND i.serial = $2 FOR UPDATE);
	ELSE
		serials := ARRAY(SELECT i.serial FROM coupon.issuance i
		                  WHERE i.campaign_id = $1 AND i.serial BETWEEN $2 AND $3 ORDER BY i.serial
		                    FOR UPDATE SKIP LOCKED);
	END IF;
	held := ARRAY(SELECT i.serial FROM coupon.issuance i
	               WHERE i.campaign_id = $1 AND i.held_until IS NOT NULL AND i.serial = ANY (serials));
	IF held <> '{}' THEN
		PERFORM coupon.campaign_end_holds($1, held);
		SELECT count(*) INTO live FROM coupon.issuance i
		 WHERE i.campaign_id = $1 AND i.serial = ANY (held) AND i.held_until > clock_timestamp();
		IF live > 0 THEN
			RAISE object_in_use USING
				MESSAGE = 'units of the campaign are held',
				DETAIL = format('Campaign %s: %s units are held, and may be paid for.', $1, live),
				HINT = 'Wait until the holds have run out, or revoke them with coupon_revoke(), and call it again.';
		END IF;
	END IF;
	IF serials <> '{}' THEN
		RETURN QUERY
		WITH gone AS (
			DELETE FROM coupon.issuance i
			 WHERE i.campaign_id = $1 AND i.serial = ANY (serials) AND i.state <> 'held'
			RETURNING i.*)
		SELECT g.campaign_id, g.serial, u.label, g.user_id, g.nth, g.state, g.issued_at, g.expires_at,
		       g.redeemed_at, g.order_ref, g.confirm_ref, g.policy
		  FROM gone g LEFT JOIN coupon.unit u ON u.campaign_id = g.campaign_id AND u.serial = g.serial
		 ORDER BY g.serial;
		DELETE FROM coupon.unit u
		 WHERE u.campaign_id = $1 AND u.serial = ANY (serials) AND u.serial <> ALL (held);
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.campaign_end_rows(bigint, bigint, bigint) IS 'Part of coupon_campaign_archive() and coupon_campaign_drop(): takes the rows of some serials away.';

CREATE FUNCTION coupon.campaign_end_row_left(campaign_id bigint) RETURNS bigint
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT i.serial FROM coupon.issuance i WHERE i.campaign_id = $1 ORDER BY i.serial LIMIT 1 $$;
COMMENT ON FUNCTION coupon.campaign_end_row_left(bigint) IS 'Part of coupon_campaign_archive() and coupon_campaign_drop(): the first serial that is issued yet.';

CREATE FUNCTION coupon.campaign_end(campaign_id bigint, archived boolean) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_campaign_end';
COMMENT ON FUNCTION coupon.campaign_end(bigint, boolean) IS 'Part of coupon_campaign_archive() and coupon_campaign_drop(): takes away what is left once no row is, and tells of it.';

-- Procedures have their caller's rights, since they commit: so all names and operators
-- in them are qualified.  Each step is a transaction; a call that was cut short is called
-- again, and goes on.
CREATE PROCEDURE coupon.campaign_end_steps(campaign_id bigint, target regclass)
LANGUAGE plpgsql
AS $$
DECLARE
	step CONSTANT bigint := 2000;
	into_target CONSTANT text := 'INSERT INTO %s (campaign_id, serial, label, user_id, nth, state, issued_at, expires_at, redeemed_at, order_ref, confirm_ref, policy)'
		' SELECT r.campaign_id, r.serial, r.label, r.user_id, r.nth, r.state, r.issued_at, r.expires_at, r.redeemed_at, r.order_ref, r.confirm_ref, r.policy'
		' FROM coupon.campaign_end_rows($1, $2, $3) r';
	final bigint;
	first bigint := 1;
	last bigint;
	began timestamptz;
BEGIN
	final := coupon.campaign_end_begin($1);
	COMMIT;
	LOOP
		IF first OPERATOR(pg_catalog.<=) final THEN
			last := first OPERATOR(pg_catalog.+) step;
		ELSE
			-- what somebody had locked is waited for, one by one
			last := coupon.campaign_end_row_left($1);
			IF last IS NULL THEN
				BEGIN
					PERFORM coupon.campaign_end($1, target IS NOT NULL);
					RETURN;
				EXCEPTION WHEN foreign_key_violation THEN
					-- a transaction that had begun before the close has issued one
					last := coupon.campaign_end_row_left($1);
					IF last IS NULL THEN
						RAISE;
					END IF;
				END;
			END IF;
			first := last;
			final := 0;
		END IF;
		began := pg_catalog.clock_timestamp();
		-- a step that a crash undoes is done again, so none waits for the disk
		PERFORM pg_catalog.set_config('synchronous_commit', 'off', true);
		IF target IS NULL THEN
			PERFORM FROM coupon.campaign_end_rows($1, first, last);
		ELSE
			EXECUTE pg_catalog.format(into_target, target) USING $1, first, last;
		END IF;
		COMMIT;
		-- the machine is the others', too: a rest of half the time
		PERFORM pg_catalog.pg_sleep(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) began) OPERATOR(pg_catalog./) 2::double precision);
		first := last OPERATOR(pg_catalog.+) 1::bigint;
	END LOOP;
END
$$;
COMMENT ON PROCEDURE coupon.campaign_end_steps(bigint, regclass) IS 'What coupon_campaign_archive() and coupon_campaign_drop() share.';

CREATE PROCEDURE @extschema@.coupon_campaign_archive(campaign_id bigint, target regclass)
LANGUAGE plpgsql
AS $$
BEGIN
	IF target IS NULL THEN
		RAISE null_value_not_allowed USING
			MESSAGE = 'target must not be null',
			HINT = 'Name a table with the columns of coupon.archived_issuance, or use coupon_campaign_drop().';
	END IF;
	CALL coupon.campaign_end_steps($1, target);
END
$$;
COMMENT ON PROCEDURE @extschema@.coupon_campaign_archive(bigint, regclass) IS
	'Moves the issuances of a closed campaign to a table of yours, in steps that commit, and then takes the campaign away. Call it again if it is cut short.';

CREATE PROCEDURE @extschema@.coupon_campaign_drop(campaign_id bigint)
LANGUAGE plpgsql
AS $$
BEGIN
	CALL coupon.campaign_end_steps($1, NULL);
END
$$;
COMMENT ON PROCEDURE @extschema@.coupon_campaign_drop(bigint) IS
	'Takes a closed campaign away with all of its issuances, in steps that commit. Call it again if it is cut short.';
