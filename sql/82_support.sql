-- Support and the law: what a user has, why they got nothing, and that they are forgotten.

-- Rows are added by the sweeper (src/sale/refusal.c).  A dump leaves them out.
CREATE TABLE coupon.refusal (
	user_id     text COLLATE "C" NOT NULL,
	campaign_id bigint NOT NULL,
	status      text COLLATE "C" NOT NULL,
	first_at    timestamptz NOT NULL,
	last_at     timestamptz NOT NULL,
	times       bigint NOT NULL,
	PRIMARY KEY (user_id, campaign_id, status),
	FOREIGN KEY (campaign_id) REFERENCES coupon.campaign ON DELETE CASCADE
);
CREATE INDEX refusal_campaign_idx ON coupon.refusal (campaign_id);
CREATE INDEX refusal_last_at_idx ON coupon.refusal (last_at);
COMMENT ON TABLE coupon.refusal IS 'Who was refused a unit, for campaigns that note it (coupon_campaign_note_refusals). Rows are kept for coupon.refusal_keep.';
COMMENT ON COLUMN coupon.refusal.user_id IS 'The user.';
COMMENT ON COLUMN coupon.refusal.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.refusal.status IS 'The answer: sold_out | busy | not_open | closed | paused | not_admitted; of a request also: full.';
COMMENT ON COLUMN coupon.refusal.first_at IS 'When they were answered so for the first time.';
COMMENT ON COLUMN coupon.refusal.last_at IS 'When they were answered so for the last time.';
COMMENT ON COLUMN coupon.refusal.times IS 'How often.';

-- Requests and tickets, without what only their owners are to know: ids and keys of
-- requests, tokens of tickets.
CREATE VIEW coupon.user_request AS
SELECT r.user_id, r.campaign_id, r.requested_at, r.decided_at, r.outcome, r.serial
  FROM coupon.request r;
COMMENT ON VIEW coupon.user_request IS 'Requests, without their ids and keys.';
COMMENT ON COLUMN coupon.user_request.user_id IS 'The user.';
COMMENT ON COLUMN coupon.user_request.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.user_request.requested_at IS 'When it was accepted.';
COMMENT ON COLUMN coupon.user_request.decided_at IS 'When it was decided; null: it waits.';
COMMENT ON COLUMN coupon.user_request.outcome IS 'How; null: it waits.';
COMMENT ON COLUMN coupon.user_request.serial IS 'The unit that the user has; null: none.';

CREATE VIEW coupon.user_ticket AS
SELECT t.user_id, o.name AS room, t.number, t.joined_at, t.admitted_at, t.ended_at, t.reason
  FROM coupon.ticket t LEFT JOIN coupon.room o ON o.room_id OPERATOR(pg_catalog.=) t.room_id;
COMMENT ON VIEW coupon.user_ticket IS 'Tickets of waiting rooms, without their tokens.';
COMMENT ON COLUMN coupon.user_ticket.user_id IS 'The user.';
COMMENT ON COLUMN coupon.user_ticket.room IS 'The room; null: it was deleted.';
COMMENT ON COLUMN coupon.user_ticket.number IS 'The number of the ticket, in the order of arrival.';
COMMENT ON COLUMN coupon.user_ticket.joined_at IS 'When the user came.';
COMMENT ON COLUMN coupon.user_ticket.admitted_at IS 'When they were admitted; null: not yet.';
COMMENT ON COLUMN coupon.user_ticket.ended_at IS 'When the ticket ended; null: it waits or is admitted.';
COMMENT ON COLUMN coupon.user_ticket.reason IS 'Why it ended.';

CREATE FUNCTION coupon.check_user(user_id text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF user_id IS NULL THEN
		RAISE null_value_not_allowed USING MESSAGE = 'user_id must not be null', DETAIL = 'It says whose rows are meant.', HINT = 'Pass a user.';
	ELSIF octet_length(user_id) NOT BETWEEN 1 AND 256 THEN
		RAISE invalid_parameter_value USING MESSAGE = 'invalid user_id', DETAIL = format('The value has %s bytes.', octet_length(user_id)), HINT = 'Use 1 to 256 bytes.';
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.check_user(text) IS 'An ERROR for what is no user.';

-- Where a user's rows are: by an index on user_id, if the DBA has made one, else by
-- one look into the index of users for each campaign.
CREATE FUNCTION coupon.units_of(wanted text) RETURNS SETOF coupon.issuance
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
AS $$
BEGIN
	IF EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
	            WHERE i.indrelid = 'coupon.issuance'::regclass AND a.attname = 'user_id' AND i.indisvalid AND i.indpred IS NULL) THEN
		RETURN QUERY SELECT i.* FROM coupon.issuance i WHERE i.user_id = wanted;
	ELSE
		RETURN QUERY SELECT x.* FROM coupon.campaign c,
			LATERAL (SELECT i.* FROM coupon.issuance i WHERE i.campaign_id = c.campaign_id AND i.user_id = wanted OFFSET 0) x;
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.units_of(text) IS 'The issuances of a user, of all campaigns.';

CREATE FUNCTION coupon.user_issuances(
	wanted text, OUT campaign_id bigint, OUT name text, OUT serial bigint, OUT state text, OUT issued_at timestamptz, OUT expires_at timestamptz,
	OUT held_until timestamptz, OUT redeemed_at timestamptz, OUT order_ref text, OUT confirm_ref text)
RETURNS SETOF record
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM coupon.check_user(wanted);
	RETURN QUERY SELECT i.campaign_id, c.name, i.serial, i.state, i.issued_at, i.expires_at, i.held_until, i.redeemed_at, i.order_ref, i.confirm_ref
		  FROM coupon.units_of(wanted) i JOIN coupon.campaign c ON c.campaign_id = i.campaign_id
		 ORDER BY i.issued_at, i.campaign_id, i.serial;
END
$$;
COMMENT ON FUNCTION coupon.user_issuances(text) IS 'What a user has; see coupon_user_issuances().';

CREATE FUNCTION @extschema@.coupon_user_issuances(
	user_id USER_TYPE, OUT campaign_id bigint, OUT name text, OUT serial bigint, OUT state text, OUT issued_at timestamptz, OUT expires_at timestamptz,
	OUT held_until timestamptz, OUT redeemed_at timestamptz, OUT order_ref text, OUT confirm_ref text)
RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT u.* FROM coupon.user_issuances($1::text COLLATE "C") u
$$;
COMMENT ON FUNCTION @extschema@.coupon_user_issuances(USER_TYPE) IS
	'What a user has over all campaigns, the oldest first. Codes are not told.';

CREATE FUNCTION @extschema@.coupon_campaign_note_refusals(campaign_id bigint, note boolean DEFAULT true) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	was boolean;
BEGIN
	IF $2 IS NULL THEN
		RAISE null_value_not_allowed USING MESSAGE = 'note must not be null', DETAIL = 'It says whether refusals are noted.', HINT = 'Pass true or false.';
	END IF;
	SELECT c.note_refusals INTO was FROM coupon.campaign c WHERE c.campaign_id = $1 FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RAISE SQLSTATE 'UC001' USING
			MESSAGE = 'unknown campaign',
			DETAIL = format('There is no campaign %s.', coalesce($1::text, 'null')),
			HINT = 'Use an id that coupon_campaign_create() returned; coupon.campaign lists them.';
	END IF;
	IF was <> $2 THEN
		UPDATE coupon.campaign c SET note_refusals = $2 WHERE c.campaign_id = $1;
	END IF;
	RETURN was <> $2;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_campaign_note_refusals(bigint, boolean) IS
	'From the commit on coupon.refusal tells who is refused a unit of the campaign, and why; or no longer. Returns whether this call changed it.';

CREATE FUNCTION coupon.user_refusals(wanted text, OUT campaign_id bigint, OUT status text, OUT first_at timestamptz, OUT last_at timestamptz, OUT times bigint)
RETURNS SETOF record
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM coupon.check_user(wanted);
	RETURN QUERY SELECT r.campaign_id, r.status, r.first_at, r.last_at, r.times FROM coupon.refusal r WHERE r.user_id = wanted ORDER BY r.first_at, r.campaign_id, r.status;
END
$$;
COMMENT ON FUNCTION coupon.user_refusals(text) IS 'Why a user got nothing; see coupon_user_refusals().';

CREATE FUNCTION @extschema@.coupon_user_refusals(user_id USER_TYPE, OUT campaign_id bigint, OUT status text, OUT first_at timestamptz, OUT last_at timestamptz, OUT times bigint)
RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT u.* FROM coupon.user_refusals($1::text COLLATE "C") u
$$;
COMMENT ON FUNCTION @extschema@.coupon_user_refusals(USER_TYPE) IS
	'Why a user got nothing: how they were refused, by campaigns that note it. What was refused in the last second may be missing.';

-- ---- erasing ----

CREATE FUNCTION coupon.refusal_forget(user_id text) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'coupon_refusal_forget';
COMMENT ON FUNCTION coupon.refusal_forget(text) IS 'Drops what is noted of a user and not written to coupon.refusal yet.';

CREATE FUNCTION coupon.erase_ticket(token text, reason text) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'coupon_queue_leave';
COMMENT ON FUNCTION coupon.erase_ticket(text, text) IS 'coupon_queue_leave(), for coupon_user_erase().';

CREATE FUNCTION coupon.erase_queues(user_id text, pseudonym text, tickets boolean) RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'coupon_erase_queues';
COMMENT ON FUNCTION coupon.erase_queues(text, text, boolean) IS 'Renames a user in requests that are decided, or in tickets that have ended.';

CREATE FUNCTION coupon.erase_events(user_id text, pseudonym text, topics text[]) RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'coupon_erase_events';
COMMENT ON FUNCTION coupon.erase_events(text, text, text[]) IS 'Renames a user in events that are not published, and appends coupon.user_erased for each topic.';

CREATE FUNCTION coupon.renamed(payload json, old_name text, new_name text) RETURNS json
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF json_typeof(payload) <> 'object' THEN
		RETURN payload;
	END IF;
	RETURN coalesce((SELECT json_object_agg(e.key,
			CASE WHEN e.key = 'user_id' AND e.value #>> '{}' = old_name THEN to_json(new_name)
			     WHEN e.key = 'payload' THEN coupon.renamed(e.value, old_name, new_name)
			     ELSE e.value END)
		FROM json_each(payload) e), payload);
END
$$;
COMMENT ON FUNCTION coupon.renamed(json, text, text) IS 'The payload of an event with another user_id; also of the event that a dead letter has inside.';

-- STABLE, so that it sees what the statement sees that takes the events.
CREATE FUNCTION coupon.has_unit(event text, payload json, wanted text) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN event LIKE 'coupon.%' AND EXISTS (
		SELECT FROM coupon.issuance i
		 WHERE i.campaign_id = (payload->>'campaign_id')::bigint AND i.serial = (payload->>'serial')::bigint AND i.user_id = wanted);
END
$$;
COMMENT ON FUNCTION coupon.has_unit(text, json, text) IS 'Whether the user still has the unit that an event tells of.';

CREATE FUNCTION coupon.pseudonym_for(user_id text) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	pseudonym text;
BEGIN
	-- on a node it moves to others with the slot of the user, and so is of the same slot
	LOOP
		pseudonym := 'erased-' || gen_random_uuid();
		EXIT WHEN NOT EXISTS (SELECT FROM coupon.node_self) OR coupon.slot_of(pseudonym) = coupon.slot_of($1);
	END LOOP;
	RETURN pseudonym;
END
$$;
COMMENT ON FUNCTION coupon.pseudonym_for(text) IS 'A random name in place of a user''s.';

CREATE FUNCTION coupon.erase_user(
	erased text, OUT issuances bigint, OUT requests bigint, OUT tickets bigint, OUT events bigint, OUT others bigint, OUT waiting bigint)
RETURNS record
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	-- random: nobody can compute it from the user, nor the user from it
	pseudonym CONSTANT text := coupon.pseudonym_for(erased);
	-- of whom held a unit since then a payment may come yet, which has to find them
	remembered_since CONSTANT timestamptz := clock_timestamp() - current_setting('coupon.hold_keep')::interval;
	topics text[];
	n bigint;
BEGIN
	PERFORM coupon.check_user(erased);
	-- who waits in a room or is admitted leaves it first: shared memory knows them by name
	PERFORM coupon.erase_ticket(t.room_id || '.' || t.number || '.' || replace(t.secret::text, '-', ''), 'erased')
	   FROM coupon.ticket t WHERE t.user_id = erased AND t.ended_at IS NULL;

	UPDATE coupon.issuance i SET user_id = pseudonym
	  FROM (SELECT u.campaign_id, u.serial FROM coupon.units_of(erased) u) o
	 WHERE i.campaign_id = o.campaign_id AND i.serial = o.serial AND i.user_id = erased AND i.state <> 'held';
	GET DIAGNOSTICS issuances = ROW_COUNT;
	requests := coupon.erase_queues(erased, pseudonym, false);
	tickets := coupon.erase_queues(erased, pseudonym, true);

	UPDATE coupon.lapsed_hold l SET user_id = pseudonym WHERE l.user_id = erased AND l.held_until < remembered_since;
	GET DIAGNOSTICS others = ROW_COUNT;
	DELETE FROM coupon.request_key k WHERE k.user_id = erased;
	GET DIAGNOSTICS n = ROW_COUNT;
	others := others + n;
	DELETE FROM coupon.room_guest g WHERE g.user_id = erased;
	GET DIAGNOSTICS n = ROW_COUNT;
	others := others + n;
	UPDATE coupon.dead_letter d SET key = pseudonym, payload = coupon.renamed(d.payload, erased, pseudonym)
	 WHERE d.key = erased AND d.type NOT LIKE 'coupon.campaign\_%'
	   AND NOT (d.type = 'coupon.dead_letter' AND d.payload->>'type' LIKE 'coupon.campaign\_%');
	GET DIAGNOSTICS n = ROW_COUNT;
	others := others + n;
	PERFORM coupon.refusal_forget(erased);
	UPDATE coupon.refusal r SET user_id = pseudonym WHERE r.user_id = erased;
	GET DIAGNOSTICS n = ROW_COUNT;
	others := others + n;

	-- Whatever topic may have told of the user: no row needs to be left of a unit that was
	-- revoked or released.
	SELECT array_agg(DISTINCT c.topic) INTO topics FROM coupon.campaign c;
	-- last: whatever was waited for above has its events committed by now
	events := coupon.erase_events(erased, pseudonym, coalesce(topics, '{}'));
	waiting := (SELECT count(*) FROM coupon.request r WHERE r.user_id = erased AND r.decided_at IS NULL)
		+ (SELECT count(*) FROM coupon.units_of(erased) u WHERE u.state = 'held')
		+ (SELECT count(*) FROM coupon.lapsed_hold l WHERE l.user_id = erased AND l.held_until >= remembered_since)
		-- whatever is on its way to another node has the name yet
		+ (SELECT count(*) FROM coupon.slot_parcel p WHERE p.state = 'sent' AND coupon.slot_of(erased) = ANY (p.slots));
END
$$;
COMMENT ON FUNCTION coupon.erase_user(text) IS 'See coupon_user_erase().';

CREATE FUNCTION @extschema@.coupon_user_erase(
	user_id USER_TYPE, OUT issuances bigint, OUT requests bigint, OUT tickets bigint, OUT events bigint, OUT others bigint, OUT waiting bigint)
RETURNS record
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT e.* FROM coupon.erase_user($1::text COLLATE "C") e
$$;
COMMENT ON FUNCTION @extschema@.coupon_user_erase(USER_TYPE) IS
	'Forgets a user: one random pseudonym takes their place in issuances, decided requests, tickets, dead letters, refusals and events that are not published; an event coupon.user_erased tells consumers. Returns how many rows of each, and how many requests and holds wait, for a decision or a payment, and have to be erased again.';