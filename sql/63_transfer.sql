-- Nodes that share stock: how they know each other, and how units go from one to the other
-- without a transaction that spans both.  The donor sends units away and notes the transfer;
-- the receiver takes them in once, and says so; in between nobody has them.  Each step is one
-- transaction at one node and is done again until it has succeeded, so it is idempotent.
--
-- A node's epoch rises when a standby takes its place: counter << 32 | random.  Each call says
-- whose it is and whom it is for, with their newest epochs that the caller knows; so a server
-- that has been replaced is refused, and learns of it.

CREATE TABLE coupon.transfer (
	transfer_id uuid PRIMARY KEY,
	campaign_id bigint NOT NULL,
	donor       smallint NOT NULL,
	receiver    smallint NOT NULL,
	serials     int8multirange NOT NULL,
	labels      text[],
	state       text COLLATE "C" NOT NULL CHECK (state IN ('cut', 'done', 'received', 'settled')),
	due_at      timestamptz NOT NULL,
	noted_at    timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
CREATE INDEX transfer_due_idx ON coupon.transfer (due_at) WHERE state IN ('cut', 'received');
CREATE INDEX transfer_campaign_idx ON coupon.transfer (campaign_id);
COMMENT ON TABLE coupon.transfer IS 'Units that went to another node or came from one, as far as this node has had a part in it.';
COMMENT ON COLUMN coupon.transfer.transfer_id IS 'The same at both nodes.';
COMMENT ON COLUMN coupon.transfer.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.transfer.donor IS 'The node that sent them away.';
COMMENT ON COLUMN coupon.transfer.receiver IS 'The node that they are for.';
COMMENT ON COLUMN coupon.transfer.serials IS 'The units.';
COMMENT ON COLUMN coupon.transfer.labels IS 'Their labels, in the order of serials; null: they have none.';
COMMENT ON COLUMN coupon.transfer.state IS 'At the donor: cut, and done once the receiver has them. At the receiver: received, and settled once the donor knows.';
COMMENT ON COLUMN coupon.transfer.due_at IS 'When this node tells the other one of it again, if it has not answered.';
COMMENT ON COLUMN coupon.transfer.noted_at IS 'When this node had its part.';

CREATE TABLE coupon.campaign_copy (
	campaign_id bigint NOT NULL,
	node_id     smallint NOT NULL,
	version     bigint NOT NULL,
	due_at      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	PRIMARY KEY (campaign_id, node_id)
);
COMMENT ON TABLE coupon.campaign_copy IS 'Which version of a shared campaign, of which this node is the keeper, the other nodes have.';
COMMENT ON COLUMN coupon.campaign_copy.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.campaign_copy.node_id IS 'The node.';
COMMENT ON COLUMN coupon.campaign_copy.version IS 'The version that it has said to have; 0: none.';
COMMENT ON COLUMN coupon.campaign_copy.due_at IS 'When it is told again, if it has not answered.';

CREATE TABLE coupon.cluster_key (
	request_key text COLLATE "C" PRIMARY KEY,
	campaign_id bigint NOT NULL,
	units       bigint NOT NULL,
	last_serial bigint NOT NULL
);
COMMENT ON TABLE coupon.cluster_key IS 'Calls of coupon_cluster_create() and coupon_cluster_add_stock() that had a key.';
COMMENT ON COLUMN coupon.cluster_key.request_key IS 'The key.';
COMMENT ON COLUMN coupon.cluster_key.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.cluster_key.units IS 'How many units were asked for.';
COMMENT ON COLUMN coupon.cluster_key.last_serial IS 'The last one of them.';

CREATE TABLE coupon.node_epoch (
	node_id smallint PRIMARY KEY,
	epoch   bigint NOT NULL
);
COMMENT ON TABLE coupon.node_epoch IS 'The newest epoch of each node, this one among them, that this node knows.';
COMMENT ON COLUMN coupon.node_epoch.node_id IS 'The node.';
COMMENT ON COLUMN coupon.node_epoch.epoch IS 'Its epoch.';

CREATE TABLE coupon.node_start (
	is_self           boolean PRIMARY KEY DEFAULT true CHECK (is_self),
	timeline          bigint NOT NULL,
	system_identifier bigint NOT NULL,
	database          oid NOT NULL,
	told              boolean NOT NULL
);
COMMENT ON TABLE coupon.node_start IS 'The server that the own epoch belongs to.';
COMMENT ON COLUMN coupon.node_start.is_self IS 'True, so that there is one row at most.';
COMMENT ON COLUMN coupon.node_start.timeline IS 'Its timeline: another one after a promotion.';
COMMENT ON COLUMN coupon.node_start.system_identifier IS 'Its system identifier.';
COMMENT ON COLUMN coupon.node_start.database IS 'The node''s database there: a copy of it is another one.';
COMMENT ON COLUMN coupon.node_start.told IS 'Whether all other nodes know the epoch.';

-- ---- C ----

CREATE FUNCTION coupon.node_confirmed() RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_node_confirmed';
COMMENT ON FUNCTION coupon.node_confirmed() IS 'Has another node confirmed this one since the server started?';

CREATE FUNCTION coupon.node_set_confirmed(confirmed boolean) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_node_set_confirmed';
COMMENT ON FUNCTION coupon.node_set_confirmed(boolean) IS 'Says so, at once and whatever becomes of the transaction. Returns what was so before.';

CREATE FUNCTION coupon.peers_ask(nodes integer[], conninfos text[], call text, arguments text[], OUT node_id integer, OUT answer text, OUT error text)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_peers_ask';
COMMENT ON FUNCTION coupon.peers_ask(integer[], text[], text, text[]) IS 'coupon.node_call() at several nodes at once.';

CREATE FUNCTION coupon.stock_here(campaign_id bigint, OUT free bigint, OUT in_flight bigint, OUT gone boolean, OUT number text)
RETURNS record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_stock_here';
COMMENT ON FUNCTION coupon.stock_here(bigint) IS 'What this node has of a campaign; gone: no unit can be had here, now or later, as long as the number is the same.';

CREATE FUNCTION coupon.stock_wants(campaign_ids bigint[]) RETURNS bigint[]
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_stock_wants';
COMMENT ON FUNCTION coupon.stock_wants(bigint[]) IS 'Those campaigns of which units are to be fetched from other nodes.';

CREATE FUNCTION coupon.stock_fetched(campaign_id bigint, failed boolean) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_stock_fetched';
COMMENT ON FUNCTION coupon.stock_fetched(bigint, boolean) IS 'Units were fetched: not again before half of what is here is gone. Or that failed: not again at once.';

CREATE FUNCTION coupon.stock_set_gone(campaign_id bigint, number text) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_stock_set_gone';
COMMENT ON FUNCTION coupon.stock_set_gone(bigint, text) IS 'No node has a unit, as was found out while the number of this node was that one.';

-- ---- epochs ----

CREATE FUNCTION coupon.epoch_after(epoch bigint) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT (((coalesce($1, 0) >> 32) + 1) << 32) | (get_byte(r, 0)::bigint << 16) | (get_byte(r, 1)::bigint << 8) | get_byte(r, 2)
        FROM uuid_send(gen_random_uuid()) r $$;
COMMENT ON FUNCTION coupon.epoch_after(bigint) IS 'An epoch that is newer, and that nobody else would choose.';

CREATE FUNCTION coupon.epoch_learn(node_id smallint, epoch bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	known bigint := (SELECT e.epoch FROM coupon.node_epoch e WHERE e.node_id = $1);
BEGIN
	IF known = $2 THEN
		-- what is done with this call is committed before a server that replaces the node is
		-- heard of, and so it is told of it
		PERFORM pg_advisory_xact_lock_shared(hashtext('coupon.node_epoch'), $1);
		RETURN EXISTS (SELECT FROM coupon.node_epoch e WHERE e.node_id = $1 AND e.epoch = $2);
	ELSIF $2 IS NULL OR known IS NOT NULL AND $2 >> 32 <= known >> 32 THEN
		RETURN false;
	ELSIF NOT pg_is_in_recovery() THEN
		PERFORM pg_advisory_xact_lock(hashtext('coupon.node_epoch'), $1);
		INSERT INTO coupon.node_epoch AS e (node_id, epoch) VALUES ($1, $2)
		ON CONFLICT ON CONSTRAINT node_epoch_pkey DO UPDATE SET epoch = excluded.epoch WHERE e.epoch >> 32 < excluded.epoch >> 32;
		RETURN EXISTS (SELECT FROM coupon.node_epoch e WHERE e.node_id = $1 AND e.epoch = $2);
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.epoch_learn(smallint, bigint) IS 'Notes the epoch of another node if it is newer; false: a newer one is known.';

CREATE FUNCTION coupon.peer_check(argument jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	own bigint := (SELECT e.epoch FROM coupon.node_epoch e WHERE e.node_id = self);
	told bigint := ($1 ->> 'to_epoch')::bigint;
BEGIN
	IF self IS DISTINCT FROM ($1 ->> 'to')::smallint THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'this is another node',
			DETAIL = format('The call is for node %s, and this is node %s.', coalesce($1 ->> 'to', 'null'), coalesce(self::text, 'null')),
			HINT = 'Correct the conninfo of the node in coupon.node.';
	END IF;
	IF told IS NOT NULL AND told IS DISTINCT FROM own AND told >> 32 >= coalesce(own, 0) >> 32 THEN
		PERFORM coupon.node_set_confirmed(false);
		RAISE SQLSTATE 'UC311' USING
			MESSAGE = 'this server has been replaced',
			DETAIL = format('Node %s has epoch %s by now, and this server %s.', self, told, coalesce(own::text, 'none')),
			HINT = 'Make it a standby of the server that has replaced it, or take it away.';
	END IF;
	IF NOT coupon.epoch_learn(($1 ->> 'from')::smallint, ($1 ->> 'from_epoch')::bigint) THEN
		RAISE SQLSTATE 'UC310' USING
			MESSAGE = 'the calling server has been replaced',
			DETAIL = format('Node %s has another epoch than %s by now.', coalesce($1 ->> 'from', 'null'), coalesce($1 ->> 'from_epoch', 'null')),
			HINT = 'Make it a standby of the server that has replaced it, or take it away.';
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.peer_check(jsonb) IS 'Refuses a call of a server that has been replaced, or for one.';

CREATE FUNCTION coupon.peers_call(call text, argument jsonb, only_node integer DEFAULT NULL)
RETURNS TABLE (node_id integer, answer jsonb, error text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	own bigint := (SELECT e.epoch FROM coupon.node_epoch e WHERE e.node_id = self);
	nodes integer[];
	conninfos text[];
	arguments text[];
BEGIN
	SELECT array_agg(n.node_id::integer ORDER BY n.node_id), array_agg(n.conninfo ORDER BY n.node_id),
	       array_agg(($2 || jsonb_build_object('from', self, 'from_epoch', own, 'to', n.node_id, 'to_epoch', e.epoch))::text ORDER BY n.node_id)
	  INTO nodes, conninfos, arguments
	  FROM coupon.node n LEFT JOIN coupon.node_epoch e ON e.node_id = n.node_id
	 WHERE n.node_id <> self AND n.state <> 'gone' AND ($3 IS NULL OR n.node_id = $3);
	IF nodes IS NULL THEN
		RETURN;
	END IF;
	FOR node_id, answer, error IN SELECT a.node_id, a.answer::jsonb, a.error FROM coupon.peers_ask(nodes, conninfos, $1, arguments) a
	LOOP
		IF answer IS NOT NULL AND NOT coupon.epoch_learn(node_id::smallint, (answer ->> 'epoch')::bigint) THEN
			-- one that has joined gets its epoch a moment later
			error := CASE WHEN answer ->> 'epoch' IS NULL THEN 'the server has yet to begin as a node' ELSE 'the server has been replaced by another one' END;
			answer := NULL;
		ELSIF error LIKE 'UC310%' THEN
			-- and this one need not go on
			PERFORM coupon.node_set_confirmed(false);
		END IF;
		RETURN NEXT;
	END LOOP;
END
$$;
COMMENT ON FUNCTION coupon.peers_call(text, jsonb, integer) IS 'Calls coupon.node_call() at the other nodes, or at one of them.';

CREATE FUNCTION coupon.peers_try(call text, argument jsonb, only_node integer DEFAULT NULL)
RETURNS TABLE (node_id integer, answer jsonb, error text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	FOR node_id, answer, error IN SELECT c.node_id, c.answer, c.error FROM coupon.peers_call($1, $2, $3) c
	LOOP
		-- written when that changes, and only then
		UPDATE coupon.node_copy k SET problem = CASE WHEN answer IS NULL THEN left(coalesce(error, '?'), 300) END,
		       since = CASE WHEN answer IS NULL THEN clock_timestamp() END
		 WHERE k.node_id = peers_try.node_id AND (k.problem IS NULL) <> (answer IS NOT NULL);
		INSERT INTO coupon.node_copy (node_id, problem, since)
		SELECT node_id, left(coalesce(error, '?'), 300), clock_timestamp()
		 WHERE answer IS NULL AND NOT EXISTS (SELECT FROM coupon.node_copy k WHERE k.node_id = peers_try.node_id)
		ON CONFLICT ON CONSTRAINT node_copy_pkey DO NOTHING;
		RETURN NEXT;
	END LOOP;
END
$$;
COMMENT ON FUNCTION coupon.peers_try(text, jsonb, integer) IS 'coupon.peers_call() of the transfer worker, which notes who does not answer.';

-- ---- campaigns ----

CREATE FUNCTION coupon.campaign_definition(campaign_id bigint) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT to_jsonb(c) - '{withdrawn,away,archived_at,dumped}'::text[]
	       || jsonb_build_object('last_serial', (SELECT coalesce(max(s.last_serial), 0) FROM coupon.shard s WHERE s.campaign_id = c.campaign_id))
	  FROM coupon.campaign c WHERE c.campaign_id = $1
$$;
COMMENT ON FUNCTION coupon.campaign_definition(bigint) IS 'A campaign as other nodes are told of it.';

CREATE FUNCTION coupon.campaign_define(definition jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	r coupon.campaign := jsonb_populate_record(NULL::coupon.campaign, $1);
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
BEGIN
	INSERT INTO coupon.campaign AS c (campaign_id, name, per_user_limit, opens_at, closes_at, paused, closed_at, coded, policy,
	                                  topic, created_at, room_id, labels_public, max_per_user_limit, note_refusals, shared, keeper, version)
	OVERRIDING SYSTEM VALUE
	VALUES (r.campaign_id, r.name, r.per_user_limit, r.opens_at, r.closes_at, r.paused, r.closed_at, r.coded, r.policy,
	        r.topic, r.created_at, r.room_id, r.labels_public, r.max_per_user_limit, r.note_refusals, r.shared, r.keeper, r.version)
	ON CONFLICT ON CONSTRAINT campaign_pkey DO UPDATE
	   SET name = excluded.name, per_user_limit = excluded.per_user_limit, opens_at = excluded.opens_at, closes_at = excluded.closes_at,
	       paused = excluded.paused, closed_at = excluded.closed_at, coded = excluded.coded, policy = excluded.policy, topic = excluded.topic,
	       room_id = excluded.room_id, labels_public = excluded.labels_public,
	       max_per_user_limit = greatest(c.max_per_user_limit, excluded.max_per_user_limit),
	       note_refusals = excluded.note_refusals, keeper = excluded.keeper, version = excluded.version
	 -- two that took it from a keeper that left, at the same time: all take the same one
	 WHERE c.shared AND c.created_at = excluded.created_at AND (c.version, c.keeper) < (excluded.version, excluded.keeper);
	PERFORM FROM coupon.campaign c WHERE c.campaign_id = r.campaign_id AND c.shared AND c.created_at = r.created_at;
	IF NOT FOUND THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'campaign is another one at this node',
			DETAIL = format('Campaign %s of node %s.', r.campaign_id, r.keeper),
			HINT = 'Make campaigns of a cluster with coupon_cluster_create().';
	END IF;
	-- a new keeper knows all serials and all calls before it makes further ones
	IF $1 ? 'keys' AND r.keeper = self THEN
		PERFORM coupon.units_arrive(r.campaign_id, '{}', ($1 ->> 'last_serial')::bigint, true);
		INSERT INTO coupon.cluster_key SELECT k.* FROM jsonb_populate_recordset(NULL::coupon.cluster_key, $1 -> 'keys') k
		ON CONFLICT ON CONSTRAINT cluster_key_pkey DO NOTHING;
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.campaign_define(jsonb) IS 'Makes a shared campaign what its keeper says, unless a later version is here. With the keys of calls: this node is its keeper from now on.';

CREATE FUNCTION coupon.campaign_shared_guard() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF (NEW.version, NEW.keeper) > (OLD.version, OLD.keeper)
	   OR to_jsonb(NEW) - '{withdrawn,away,archived_at,dumped}'::text[] = to_jsonb(OLD) - '{withdrawn,away,archived_at,dumped}'::text[] THEN
		RETURN NEW;
	END IF;
	IF NEW.keeper IS DISTINCT FROM (SELECT s.node_id FROM coupon.node_self s) THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'campaign is shared and is changed at another node',
			DETAIL = format('The keeper of campaign %s is node %s.', NEW.campaign_id, NEW.keeper),
			HINT = 'Call the function at that node: the others follow by themselves.';
	END IF;
	NEW.version := OLD.version + 1;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION coupon.campaign_shared_guard() IS 'Trigger: counts the versions of a shared campaign, which its keeper alone changes.';
CREATE TRIGGER shared_guard BEFORE UPDATE ON coupon.campaign
	FOR EACH ROW WHEN (OLD.shared) EXECUTE FUNCTION coupon.campaign_shared_guard();

CREATE FUNCTION coupon.transfer_forget() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF EXISTS (SELECT FROM coupon.transfer t WHERE t.campaign_id = OLD.campaign_id AND t.state = 'cut') THEN
		RAISE object_in_use USING
			MESSAGE = 'units of the campaign are on their way to another node',
			DETAIL = format('Campaign %s.', OLD.campaign_id),
			HINT = 'Call it again when they have arrived: coupon_cluster_status() says which node is missing.';
	END IF;
	DELETE FROM coupon.transfer t WHERE t.campaign_id = OLD.campaign_id;
	DELETE FROM coupon.campaign_copy t WHERE t.campaign_id = OLD.campaign_id;
	DELETE FROM coupon.cluster_key t WHERE t.campaign_id = OLD.campaign_id;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION coupon.transfer_forget() IS 'Trigger: takes away what is noted of a campaign that is deleted.';
CREATE TRIGGER transfer_forget AFTER DELETE ON coupon.campaign
	FOR EACH ROW WHEN (OLD.shared OR OLD.campaign_id >= 1000000000) EXECUTE FUNCTION coupon.transfer_forget();

-- ---- one transfer ----

CREATE FUNCTION coupon.transfer_commits() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- what the other node is told must be true after a crash
	IF current_setting('synchronous_commit') IN ('off', 'local') THEN
		PERFORM set_config('synchronous_commit', 'on', true);
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.transfer_commits() IS 'Has this transaction commit durably.';

CREATE FUNCTION coupon.transfer_message(t coupon.transfer) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT to_jsonb($1) - '{state,due_at,noted_at}'::text[] || jsonb_build_object('campaign', coupon.campaign_definition($1.campaign_id)) $$;
COMMENT ON FUNCTION coupon.transfer_message(coupon.transfer) IS 'A transfer as its receiver is told of it.';

CREATE FUNCTION coupon.units_labelled(campaign_id bigint, serials int8multirange) RETURNS SETOF coupon.unit
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	-- range by range, so that the index finds them
	SELECT u.* FROM unnest($2) r, LATERAL (SELECT x.* FROM coupon.unit x WHERE x.campaign_id = $1 AND x.serial >= lower(r) AND x.serial < upper(r) OFFSET 0) u
$$;
COMMENT ON FUNCTION coupon.units_labelled(bigint, int8multirange) IS 'The labels of some units.';

CREATE FUNCTION coupon.transfer_out(campaign_id bigint, receiver smallint, units bigint, due_at timestamptz) RETURNS coupon.transfer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	t coupon.transfer;
	sent int8multirange;
BEGIN
	PERFORM coupon.transfer_commits();
	sent := coupon.serials_of(coupon.units_cut($1, $3));
	IF isempty(sent) THEN
		RETURN NULL;
	END IF;
	INSERT INTO coupon.transfer (transfer_id, campaign_id, donor, receiver, serials, labels, state, due_at)
	SELECT gen_random_uuid(), $1, s.node_id, $2, sent,
	       CASE WHEN c.coded THEN ARRAY(SELECT u.label FROM coupon.units_labelled($1, sent) u ORDER BY u.serial) END,
	       'cut', $4
	  FROM coupon.node_self s, coupon.campaign c WHERE c.campaign_id = $1
	RETURNING * INTO STRICT t;
	RETURN t;
END
$$;
COMMENT ON FUNCTION coupon.transfer_out(bigint, smallint, bigint, timestamptz) IS 'Step 1, at the donor: sends up to so many free units away; null: none is free.';

CREATE FUNCTION coupon.labels_of(serials int8multirange, labels text[], OUT serial bigint, OUT label text) RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT n.serial, l.label
	  FROM (SELECT g AS serial, row_number() OVER (ORDER BY g) AS place FROM unnest($1) r, generate_series(lower(r), upper(r) - 1) g) n
	  JOIN unnest($2) WITH ORDINALITY l(label, place) ON l.place = n.place
$$;
COMMENT ON FUNCTION coupon.labels_of(int8multirange, text[]) IS 'Each serial with its label.';

CREATE FUNCTION coupon.receiver_check(donor smallint, receiver smallint) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	donor_state text;
BEGIN
	IF $2 IS DISTINCT FROM (SELECT s.node_id FROM coupon.node_self s) THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'this is for another node',
			DETAIL = format('It is for node %s.', $2),
			HINT = 'Correct the conninfo of the node in coupon.node.';
	END IF;
	-- the locks: who says that one of the two has left has this committed before, or has it refused
	PERFORM FROM coupon.node n WHERE n.node_id IN ($1, $2) ORDER BY n.node_id FOR SHARE;
	IF EXISTS (SELECT FROM coupon.node n WHERE n.node_id = $2 AND n.state = 'gone') THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'this node has left',
			DETAIL = format('Node %s gets nothing any more.', $2),
			HINT = 'Who sent it hears of that, and takes it back.';
	END IF;
	SELECT n.state INTO donor_state FROM coupon.node n WHERE n.node_id = $1;
	IF donor_state = 'gone' THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'the node has left',
			DETAIL = format('What node %s had sent away was taken back, or is lost with it.', $1),
			HINT = 'Have a new server join, with a number of its own.';
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.receiver_check(smallint, smallint) IS 'Refuses units and slots that are for another node, or from one that has left.';

CREATE FUNCTION coupon.transfer_in(message jsonb) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t coupon.transfer := jsonb_populate_record(NULL::coupon.transfer, $1);
BEGIN
	PERFORM coupon.transfer_commits();
	PERFORM coupon.receiver_check(t.donor, t.receiver);
	-- this locks the campaign: the same transfer cannot come in twice at the same time
	PERFORM coupon.campaign_define($1 -> 'campaign');
	INSERT INTO coupon.transfer (transfer_id, campaign_id, donor, receiver, serials, labels, state, due_at)
	VALUES (t.transfer_id, t.campaign_id, t.donor, t.receiver, t.serials, t.labels, 'received', clock_timestamp())
	ON CONFLICT ON CONSTRAINT transfer_pkey DO NOTHING;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM coupon.units_arrive(t.campaign_id, coupon.ranges_of(t.serials), ($1 -> 'campaign' ->> 'last_serial')::bigint, true);
	IF t.labels IS NOT NULL THEN
		INSERT INTO coupon.unit (campaign_id, serial, label)
		SELECT t.campaign_id, l.serial, l.label FROM coupon.labels_of(t.serials, t.labels) l
		ON CONFLICT ON CONSTRAINT unit_pkey DO NOTHING;
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.transfer_in(jsonb) IS 'Step 2, at the receiver: takes the units in, once.';

CREATE FUNCTION coupon.transfer_end(transfer_ids uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM coupon.transfer_commits();
	UPDATE coupon.transfer t SET state = 'done' WHERE t.transfer_id = ANY ($1) AND t.state = 'cut';
END
$$;
COMMENT ON FUNCTION coupon.transfer_end(uuid[]) IS 'Step 3, at the donor: the receiver has the units.';

CREATE FUNCTION coupon.stock_report(campaign_id bigint) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	nodes jsonb := jsonb_build_object('nodes', (SELECT jsonb_agg(n.node_id ORDER BY n.node_id) FROM coupon.node n WHERE n.state <> 'gone'));
	transit bigint;
	h record;
BEGIN
	IF NOT coupon.node_confirmed() THEN
		RETURN '{"free": 0, "gone": false, "transit": 0, "number": "fenced"}'::jsonb || nodes;
	ELSIF NOT EXISTS (SELECT FROM coupon.campaign c WHERE c.campaign_id = $1) THEN
		RETURN '{"free": 0, "gone": true, "transit": 0, "number": "unknown"}'::jsonb || nodes;
	END IF;
	-- first what is under way, then what is here: a unit that leaves between the two is not missed
	-- but said to be free
	SELECT * INTO h FROM coupon.stock_here($1);
	SELECT count(*) INTO transit FROM coupon.transfer t WHERE t.campaign_id = $1 AND t.state = 'cut';
	RETURN jsonb_build_object('free', h.free, 'gone', h.gone, 'transit', transit, 'number', h.number) || nodes;
END
$$;
COMMENT ON FUNCTION coupon.stock_report(bigint) IS 'What this node has of a campaign, whether units that it has sent away have yet to arrive, and which nodes it knows.';

-- ---- what nodes ask of each other ----

CREATE FUNCTION coupon.call_hello(argument jsonb, replaces boolean) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	caller smallint := ($1 ->> 'from')::smallint;
BEGIN
	PERFORM coupon.learn_map($1 -> 'map');
	RETURN jsonb_build_object('map', @extschema@.coupon_node_map())
	       || CASE WHEN $2 THEN jsonb_build_object(
	              -- but for those that a parcel will bring
	              'transfers', (SELECT coalesce(jsonb_agg(coupon.transfer_message(t) ORDER BY t.noted_at), '[]') FROM coupon.transfer t
	                             WHERE t.donor IN (self, caller) AND t.receiver IN (self, caller) AND NOT (t.state = 'cut' AND t.due_at = 'infinity')),
	              'sent', (SELECT coalesce(jsonb_agg(x.slot), '[]') FROM coupon.slot_parcel p, unnest(p.slots) x(slot) WHERE p.state = 'sent' AND p.receiver = caller),
	              'versions', (SELECT coalesce(jsonb_object_agg(c.campaign_id, c.version), '{}') FROM coupon.campaign c WHERE c.shared AND c.keeper = caller),
	              'handed', (SELECT coalesce(jsonb_agg(coupon.campaign_definition(c.campaign_id)), '[]') FROM coupon.campaign c WHERE c.shared AND c.keeper <> caller))
	          ELSE '{}' END;
END
$$;
COMMENT ON FUNCTION coupon.call_hello(jsonb, boolean) IS 'Another node has started. One that has replaced another server is told what that one had told us.';

CREATE FUNCTION coupon.call_cut(argument jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t coupon.transfer;
BEGIN
	IF NOT coupon.node_confirmed() OR EXISTS (SELECT FROM coupon.node n WHERE n.node_id = ($1 ->> 'from')::smallint AND n.state = 'gone') THEN
		RETURN '{}';
	END IF;
	-- what is on its way to that node comes first: one that cannot take it in would get all that there is, part by part
	SELECT * INTO t FROM coupon.transfer x
	 WHERE x.campaign_id = ($1 ->> 'campaign_id')::bigint AND x.receiver = ($1 ->> 'from')::smallint AND x.state = 'cut' AND x.due_at <> 'infinity'
	 ORDER BY x.noted_at LIMIT 1;
	IF t.transfer_id IS NULL THEN
		t := coupon.transfer_out(($1 ->> 'campaign_id')::bigint, ($1 ->> 'from')::smallint,
			greatest(1, ((SELECT h.free FROM coupon.stock_here(($1 ->> 'campaign_id')::bigint) h) - ($1 ->> 'has')::bigint) / 2),
			clock_timestamp() + interval '1 second');
	END IF;
	RETURN CASE WHEN t.transfer_id IS NULL THEN '{}' ELSE jsonb_build_object('transfer', coupon.transfer_message(t)) END;
END
$$;
COMMENT ON FUNCTION coupon.call_cut(jsonb) IS 'Another node wants units.';

CREATE FUNCTION coupon.call_holdings(campaign_id bigint) RETURNS jsonb
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object(
		'nodes', (SELECT jsonb_agg(n.node_id ORDER BY n.node_id) FROM coupon.node n WHERE n.state <> 'gone'),
		'last_serial', (SELECT coalesce(max(s.last_serial), 0) FROM coupon.shard s WHERE s.campaign_id = $1),
		'here', (SELECT coalesce(range_agg(h.r), '{}')
		           FROM (SELECT int8range(s.first_serial, s.last_serial, '[]') AS r FROM coupon.shard s WHERE s.campaign_id = $1 AND s.away IS NULL
		                 UNION ALL
		                 SELECT int8range(min(b.serial), max(b.serial), '[]')
		                   FROM (SELECT g AS serial, g - row_number() OVER (ORDER BY g) AS run
		                           -- || for a copy of the bits that is read from disk once, and not for each of them
		                           FROM (SELECT x.first_serial, x.last_serial, x.away || ''::bytea AS away
		                                   FROM coupon.shard x WHERE x.campaign_id = $1 AND x.away IS NOT NULL OFFSET 0) s,
		                                generate_series(s.first_serial, s.last_serial) g
		                          WHERE get_bit(s.away, g - s.first_serial) = 0) b
		                  GROUP BY b.run) h),
		'transfers', (SELECT coalesce(jsonb_agg(jsonb_build_array(t.transfer_id, t.donor, t.receiver, t.serials, t.state)), '[]')
		                FROM coupon.transfer t WHERE t.campaign_id = $1),
		'broken', (SELECT coalesce(jsonb_agg(to_jsonb(v)), '[]') FROM coupon.verify($1) v))
$$;
COMMENT ON FUNCTION coupon.call_holdings(bigint) IS 'Which units of a campaign are at this node, its transfers, and what breaks a law here.';

CREATE FUNCTION coupon.call_status(campaign_id bigint) RETURNS jsonb
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce((SELECT to_jsonb(s) || jsonb_build_object(
			'in_transit', (SELECT coalesce(sum(coupon.units_of(t.serials)), 0) FROM coupon.transfer t WHERE t.campaign_id = $1 AND t.state = 'cut'),
			'keeper', c.keeper)
		FROM coupon.campaign c, LATERAL @extschema@.coupon_status(c.campaign_id) s WHERE c.campaign_id = $1), '{"stock": 0, "issued": 0, "held": 0, "in_flight": 0, "remaining": 0, "in_transit": 0}')
	|| jsonb_build_object('confirmed', coupon.node_confirmed())
$$;
COMMENT ON FUNCTION coupon.call_status(bigint) IS 'coupon_status() at this node, and what it has sent away that has yet to arrive.';

CREATE FUNCTION coupon.node_call(call text, argument jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	answer jsonb;
BEGIN
	-- each statement is to see what was committed before it
	IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'nodes call each other at the isolation level read committed',
			DETAIL = format('This transaction is %s.', current_setting('transaction_isolation')),
			HINT = format('ALTER ROLE %I SET default_transaction_isolation = ''read committed''', session_user);
	END IF;
	-- what the caller is told, and which server is known to have replaced another, is true after a crash
	PERFORM coupon.transfer_commits();
	-- the caller does not wait for ever, and its next call finds this one gone; for long work it waits longer (peers.c)
	PERFORM set_config('lock_timeout', (CASE WHEN $1 IN ('holdings', 'replaces', 'leaving', 'leave') THEN 60 ELSE least(1 + octet_length($2::text) / 131072, 60) END
		* 1000 * extract(epoch FROM current_setting('coupon.cluster_timeout')::interval))::bigint::text, true);
	PERFORM coupon.peer_check($2);
	CASE $1
		WHEN 'hello' THEN answer := coupon.call_hello($2, false);
		WHEN 'replaces' THEN answer := coupon.call_hello($2, true);
		WHEN 'report' THEN answer := coupon.stock_report(($2 ->> 'campaign_id')::bigint);
		WHEN 'cut' THEN answer := coupon.call_cut($2);
		WHEN 'receive' THEN answer := jsonb_build_object('new', coupon.transfer_in($2 -> 'transfer'));
		WHEN 'done' THEN
			PERFORM coupon.transfer_end(ARRAY(SELECT x.id::uuid FROM jsonb_array_elements_text($2 -> 'transfer_ids') x(id)));
			answer := '{}';
		WHEN 'define' THEN
			PERFORM coupon.campaign_define($2 -> 'campaign');
			answer := '{}';
		WHEN 'holdings' THEN
			-- who asks for units of a node that has left wants nothing of them to come any more
			IF $2 ? 'map' THEN
				PERFORM coupon.learn_map($2 -> 'map');
			END IF;
			answer := coupon.call_holdings(($2 ->> 'campaign_id')::bigint);
		WHEN 'status' THEN answer := coupon.call_status(($2 ->> 'campaign_id')::bigint);
		WHEN 'leaving' THEN answer := coupon.call_leaving(($2 ->> 'node_id')::smallint);
		WHEN 'leave' THEN answer := jsonb_build_object('left', coupon.node_leave());
		WHEN 'slots' THEN answer := jsonb_build_object('new', coupon.slots_accept($2 -> 'parcel'));
		WHEN 'room_key' THEN
			PERFORM coupon.room_key_put($2 -> 'key');
			answer := '{}';
		WHEN 'map' THEN answer := coupon.call_map($2);
		ELSE
			RAISE invalid_parameter_value USING
				MESSAGE = 'unknown call of a node',
				DETAIL = format('It is "%s".', left($1, 32)),
				HINT = 'All nodes have the same version of coupon.';
	END CASE;
	RETURN answer || jsonb_build_object('epoch', (SELECT e.epoch FROM coupon.node_epoch e WHERE e.node_id = (SELECT s.node_id FROM coupon.node_self s)));
END
$$;
COMMENT ON FUNCTION coupon.node_call(text, jsonb) IS 'What another node asks of this one. Its role is a member of coupon_admin and no superuser.';
