-- A campaign's stock over all nodes: what the transfer worker does, and what an operator calls.

CREATE FUNCTION coupon.units_born(campaign_id bigint, serials bigint[], last_serial bigint) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_units_born';
COMMENT ON FUNCTION coupon.units_born(bigint, bigint[], bigint) IS 'At the keeper: the campaign has the serials up to last_serial from now on; of the new ones these are here.';

CREATE FUNCTION coupon.units_lose(campaign_id bigint, serials bigint[]) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_units_lose';
COMMENT ON FUNCTION coupon.units_lose(bigint, bigint[]) IS 'These units went to another node before this server took the place of the one that sent them.';

-- ---- is this node still itself? ----

CREATE FUNCTION coupon.node_begin() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	line bigint := ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint;
	system bigint := (SELECT c.system_identifier FROM pg_control_system() c);
	here oid := (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
	started coupon.node_start;
BEGIN
	SELECT * INTO started FROM coupon.node_start;
	IF started.system_identifier = system AND started.database <> here THEN
		RETURN NULL;
	ELSIF started.timeline = line AND started.system_identifier = system THEN
		RETURN false;
	END IF;
	PERFORM coupon.transfer_commits();
	INSERT INTO coupon.node_epoch AS e (node_id, epoch) VALUES (self, coupon.epoch_after(0))
	ON CONFLICT ON CONSTRAINT node_epoch_pkey DO UPDATE SET epoch = coupon.epoch_after(e.epoch);
	INSERT INTO coupon.node_start AS n (timeline, system_identifier, database, told) VALUES (line, system, here, started.is_self IS NULL)
	ON CONFLICT ON CONSTRAINT node_start_pkey DO UPDATE SET timeline = excluded.timeline, system_identifier = excluded.system_identifier,
	                                                         database = excluded.database, told = false;
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.node_begin() IS 'Gives a new node, or a server that has replaced another one, an epoch of its own; false: it has one; null: this is a copy of the node''s database, and no node. It is to be committed before others are told.';

CREATE FUNCTION coupon.transfers_restore(messages jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	lost int8multirange;
	come int8multirange;
	fresh int8multirange;
	m record;
BEGIN
	FOR m IN SELECT (x.m ->> 'campaign_id')::bigint AS campaign_id, max((x.m #>> '{campaign,last_serial}')::bigint) AS last_serial,
	                jsonb_agg(x.m) AS all_of_it, (array_agg(x.m -> 'campaign' ORDER BY (x.m #>> '{campaign,version}')::bigint DESC))[1] AS definition
	           FROM jsonb_array_elements($1) x(m)
	          WHERE NOT EXISTS (SELECT FROM coupon.transfer k WHERE k.transfer_id = (x.m ->> 'transfer_id')::uuid)
	          GROUP BY 1
	LOOP
		-- one that was dropped here stays so
		CONTINUE WHEN m.definition ->> 'closed_at' IS NOT NULL AND NOT EXISTS (SELECT FROM coupon.campaign c WHERE c.campaign_id = m.campaign_id);
		PERFORM coupon.campaign_define(m.definition);
		SELECT int8multirange(int8range(s.last + 1, greatest(m.last_serial, s.last) + 1)) INTO fresh
		  FROM (SELECT coalesce(max(x.last_serial), 0) AS last FROM coupon.shard x WHERE x.campaign_id = m.campaign_id) s;
		-- a unit may have come and gone: what counts is how often, in whatever order
		WITH moves AS (
			SELECT CASE WHEN (x.m ->> 'receiver')::smallint = self THEN 1 ELSE -1 END AS weight, r.r
			  FROM jsonb_array_elements(m.all_of_it) x(m), unnest((x.m ->> 'serials')::int8multirange) r(r)),
		bounds AS (
			SELECT b.serial, sum(b.weight) AS weight
			  FROM (SELECT lower(v.r) AS serial, v.weight FROM moves v UNION ALL SELECT upper(v.r), -v.weight FROM moves v) b
			 GROUP BY b.serial),
		runs AS (
			SELECT int8range(b.serial, lead(b.serial) OVER (ORDER BY b.serial)) AS r, sum(b.weight) OVER (ORDER BY b.serial) AS net FROM bounds b)
		SELECT coalesce(range_agg(u.r) FILTER (WHERE u.net = 1), '{}'), coalesce(range_agg(u.r) FILTER (WHERE u.net = -1), '{}')
		  INTO come, lost FROM runs u WHERE NOT upper_inf(u.r);
		-- what is new to this server is away with that; as the keeper it has what never left it
		IF (m.definition ->> 'keeper')::smallint = self AND NOT (m.definition ->> 'coded')::boolean THEN
			come := come + (fresh - lost);
		END IF;
		lost := lost - fresh;
		PERFORM coupon.units_arrive(m.campaign_id, coupon.ranges_of(come), m.last_serial, true);
		PERFORM coupon.units_lose(m.campaign_id, coupon.ranges_of(lost));
		INSERT INTO coupon.transfer (transfer_id, campaign_id, donor, receiver, serials, labels, state, due_at)
		SELECT t.transfer_id, t.campaign_id, t.donor, t.receiver, t.serials, t.labels, CASE WHEN t.receiver = self THEN 'received' ELSE 'done' END, clock_timestamp()
		  FROM jsonb_array_elements(m.all_of_it) x(m), jsonb_populate_record(NULL::coupon.transfer, x.m) t
		ON CONFLICT ON CONSTRAINT transfer_pkey DO NOTHING;
		INSERT INTO coupon.unit (campaign_id, serial, label)
		SELECT m.campaign_id, l.serial, l.label
		  FROM jsonb_array_elements(m.all_of_it) x(m), jsonb_populate_record(NULL::coupon.transfer, x.m) t, coupon.labels_of(t.serials, t.labels) l
		ON CONFLICT ON CONSTRAINT unit_pkey DO NOTHING;
	END LOOP;
END
$$;
COMMENT ON FUNCTION coupon.transfers_restore(jsonb) IS 'Makes up for transfers of which this server does not know, since it has replaced another one.';

CREATE FUNCTION coupon.node_confirm() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	told boolean;
	others integer;
	confirmed integer := 0;
	replaced boolean := false;
	messages jsonb := '[]';
	maps jsonb := '[]';
	sent jsonb := '[]';
	versions jsonb := '[]';
	handed jsonb := '[]';
	r record;
BEGIN
	PERFORM coupon.transfer_commits();
	SELECT n.told INTO STRICT told FROM coupon.node_start n;
	SELECT count(*) INTO others FROM coupon.node n WHERE n.state <> 'gone' AND n.node_id <> (SELECT s.node_id FROM coupon.node_self s);
	FOR r IN SELECT * FROM coupon.peers_call(CASE WHEN told THEN 'hello' ELSE 'replaces' END, jsonb_build_object('map', @extschema@.coupon_node_map()))
	LOOP
		replaced := replaced OR coalesce(r.error LIKE 'UC310%', false);
		CONTINUE WHEN r.answer IS NULL;
		confirmed := confirmed + 1;
		PERFORM coupon.learn_map(r.answer -> 'map');
		IF NOT told THEN
			messages := messages || (r.answer -> 'transfers');
			maps := maps || (r.answer #> '{map,slots}');
			sent := sent || (r.answer -> 'sent');
			versions := versions || jsonb_build_array(r.answer -> 'versions');
			handed := handed || (r.answer -> 'handed');
		END IF;
	END LOOP;
	IF replaced OR confirmed < (CASE WHEN told THEN least(others, 1) ELSE others END) THEN
		RETURN false;
	END IF;
	IF NOT told THEN
		-- campaigns that got another keeper, and changes of the others, that this server has forgotten
		PERFORM coupon.campaign_define(h.d) FROM jsonb_array_elements(handed) h(d)
		  JOIN coupon.campaign c ON c.campaign_id = (h.d ->> 'campaign_id')::bigint AND c.keeper = (SELECT s.node_id FROM coupon.node_self s)
		 ORDER BY (h.d ->> 'version')::bigint;
		UPDATE coupon.campaign c SET version = v.version + 1
		  FROM (SELECT e.key::bigint AS campaign_id, max(e.value::bigint) AS version
		          FROM jsonb_array_elements(versions) x(v), jsonb_each_text(x.v) e GROUP BY 1) v
		 WHERE c.campaign_id = v.campaign_id AND c.version <= v.version AND c.keeper = (SELECT s.node_id FROM coupon.node_self s);
		PERFORM coupon.transfers_restore(messages);
		PERFORM coupon.slots_restore(maps, sent);
		UPDATE coupon.node_start n SET told = true;
		UPDATE coupon.campaign_copy c SET version = 0;
		DELETE FROM coupon.node_copy;
	END IF;
	-- nothing is sold before that is committed
	RETURN told;
END
$$;
COMMENT ON FUNCTION coupon.node_confirm() IS
	'Asks the other nodes whether this server has been replaced: one that says no is enough. One that has replaced another server tells all of them, makes up for what it does not know of, and asks once more.';

-- ---- what the worker does; each returns whether there was something to do ----

-- plpgsql, which keeps its plans
CREATE FUNCTION coupon.nodes_silent() RETURNS smallint[]
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- one that answers with an error is not silent
	RETURN ARRAY(SELECT k.node_id FROM coupon.node_copy k JOIN coupon.node n ON n.node_id = k.node_id
	              WHERE k.problem !~ '^[0-9A-Z]{5}: ' AND n.state <> 'gone');
END
$$;
COMMENT ON FUNCTION coupon.nodes_silent() IS 'Nodes that did not answer when they were asked last. coupon.map_spread() asks them again, once a second: all that waits for them would take up the time of the others.';

CREATE FUNCTION coupon.transfer_settle() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	silent CONSTANT smallint[] := coupon.nodes_silent();
	w record;
	problem text;
BEGIN
	SELECT t.donor, array_agg(t.transfer_id) AS ids INTO w
	  FROM (SELECT * FROM coupon.transfer x WHERE x.state = 'received' AND x.due_at <= clock_timestamp() AND x.donor <> ALL (silent)
	         ORDER BY x.due_at LIMIT 100) t
	 GROUP BY t.donor LIMIT 1;
	IF w.donor IS NULL THEN
		RETURN false;
	END IF;
	SELECT coalesce(c.error, CASE WHEN c.answer IS NULL THEN '?' END) INTO problem
	  FROM coupon.peers_try('done', jsonb_build_object('transfer_ids', w.ids), w.donor) c;
	-- of a node that has left for good nobody need be told
	IF problem IS NULL THEN
		UPDATE coupon.transfer t SET state = 'settled' WHERE t.transfer_id = ANY (w.ids) AND t.state = 'received';
	ELSE
		UPDATE coupon.transfer t SET due_at = clock_timestamp() + interval '1 second' WHERE t.transfer_id = ANY (w.ids) AND t.state = 'received';
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.transfer_settle() IS 'Tells a donor that its units have arrived.';

CREATE FUNCTION coupon.units_places(answers jsonb, OUT first bigint, OUT last bigint, OUT places numeric) RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	-- what a node has, and what its donor alone knows to have sent, less what its receiver alone
	-- knows to have got; this holds whenever each node was asked
	WITH known AS (
		SELECT a.key::integer AS node_id, (t ->> 0)::uuid AS transfer_id, (t ->> 1)::integer AS donor, (t ->> 2)::integer AS receiver, (t ->> 3)::int8multirange AS serials
		  FROM jsonb_each($1) a, jsonb_array_elements(a.value -> 'transfers') t
		 -- what came from a node that has left is here, and what went there and on is elsewhere
		 WHERE $1 ? (t ->> 1) AND $1 ? (t ->> 2)),
	weights AS (
		SELECT (a.value ->> 'here')::int8multirange AS serials, 1 AS weight FROM jsonb_each($1) a
		UNION ALL
		SELECT k.serials, CASE WHEN k.node_id = k.donor THEN 1 ELSE -1 END FROM known k
		 WHERE NOT EXISTS (SELECT FROM known o WHERE o.transfer_id = k.transfer_id AND o.node_id <> k.node_id)),
	bounds AS (
		SELECT b.serial, sum(b.weight) AS weight
		  FROM (SELECT lower(x.r) AS serial, w.weight FROM weights w, unnest(w.serials) x(r)
		        UNION ALL
		        SELECT upper(x.r), -w.weight FROM weights w, unnest(w.serials) x(r)
		        UNION ALL
		        SELECT 1, 0
		        UNION ALL
		        SELECT max((a.value ->> 'last_serial')::bigint) + 1, 0 FROM jsonb_each($1) a) b
		 GROUP BY b.serial),
	runs AS (
		SELECT b.serial AS first, lead(b.serial) OVER (ORDER BY b.serial) - 1 AS last, sum(b.weight) OVER (ORDER BY b.serial) AS places FROM bounds b)
	SELECT r.first, r.last, r.places FROM runs r WHERE r.last >= r.first
$$;
COMMENT ON FUNCTION coupon.units_places(jsonb) IS 'At how many nodes, or on their way between two, the units of a campaign are: one, by the law. The answers are of coupon.call_holdings(), by node, of all nodes.';

CREATE FUNCTION coupon.units_nowhere(campaign_id bigint, serials int8multirange) RETURNS int8multirange
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	answers jsonb;
	nowhere int8multirange;
	r record;
BEGIN
	-- first what is little work: as long as one is down nobody reads all that it has, again and again
	IF EXISTS (SELECT FROM coupon.peers_call('hello', jsonb_build_object('map', coupon.map_here())) c WHERE c.answer IS NULL) THEN
		RETURN NULL;
	END IF;
	answers := jsonb_build_object(self, coupon.call_holdings($1));
	FOR r IN SELECT * FROM coupon.peers_call('holdings', jsonb_build_object('campaign_id', $1, 'map', coupon.map_here()))
	LOOP
		IF r.answer IS NULL THEN
			RETURN NULL;
		END IF;
		answers := answers || jsonb_build_object(r.node_id, r.answer);
	END LOOP;
	-- one that has come lately, and that not all know yet, may have them
	IF EXISTS (SELECT FROM jsonb_each(answers) a WHERE a.value -> 'nodes' <> answers -> self::text -> 'nodes') THEN
		RETURN NULL;
	END IF;
	-- what the one that has left had received and sent on is at a node; of two donors of one unit the first takes it back
	SELECT coalesce(range_agg(int8range(p.first, p.last, '[]')), '{}') * $2 INTO nowhere FROM coupon.units_places(answers) p WHERE p.places = 0;
	IF EXISTS (SELECT FROM jsonb_each(answers) a, jsonb_array_elements(a.value -> 'transfers') x
	            WHERE x ->> 4 = 'cut' AND (x ->> 1)::smallint = a.key::smallint AND a.key::smallint < self
	              AND NOT answers ? (x ->> 2) AND (x ->> 3)::int8multirange && nowhere) THEN
		RETURN NULL;
	END IF;
	RETURN nowhere;
END
$$;
COMMENT ON FUNCTION coupon.units_nowhere(bigint, int8multirange) IS
	'Which units that were sent to a node that has left are at no node, so that this one takes them back; null: not all nodes say so yet, or another one comes first.';

CREATE FUNCTION coupon.transfer_back(t coupon.transfer) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	nowhere int8multirange := coupon.units_nowhere($1.campaign_id, $1.serials);
BEGIN
	IF nowhere IS NULL THEN
		UPDATE coupon.transfer x SET due_at = clock_timestamp() + interval '1 second' WHERE x.transfer_id = $1.transfer_id;
		RETURN;
	END IF;
	PERFORM coupon.transfer_commits();
	UPDATE coupon.transfer x SET state = 'done' WHERE x.transfer_id = $1.transfer_id AND x.state = 'cut';
	IF FOUND THEN
		PERFORM coupon.units_arrive($1.campaign_id, coupon.ranges_of(nowhere), 0, true);
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.transfer_back(coupon.transfer) IS 'At the donor: takes back units that were for a node which has left and that are at no other one. All nodes must say so.';

CREATE FUNCTION coupon.transfer_push() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	silent CONSTANT smallint[] := coupon.nodes_silent();
	t coupon.transfer;
	done boolean;
BEGIN
	SELECT * INTO t FROM coupon.transfer x WHERE x.state = 'cut' AND x.due_at <= clock_timestamp() AND x.receiver <> ALL (silent)
	 ORDER BY x.due_at LIMIT 1;
	IF t.transfer_id IS NULL THEN
		RETURN false;
	ELSIF EXISTS (SELECT FROM coupon.node n WHERE n.node_id = t.receiver AND n.state = 'gone') THEN
		BEGIN
			PERFORM coupon.transfer_back(t);
		EXCEPTION WHEN OTHERS THEN
			-- the rest goes on
			RAISE WARNING USING MESSAGE = format('units of campaign %s could not be taken back', t.campaign_id), DETAIL = SQLERRM;
			UPDATE coupon.transfer x SET due_at = clock_timestamp() + interval '5 seconds' WHERE x.transfer_id = t.transfer_id;
		END;
		RETURN true;
	END IF;
	SELECT c.answer IS NOT NULL INTO done
	  FROM coupon.peers_try('receive', jsonb_build_object('transfer', coupon.transfer_message(t)), t.receiver) c;
	IF done THEN
		PERFORM coupon.transfer_end(ARRAY[t.transfer_id]);
	ELSE
		UPDATE coupon.transfer x SET due_at = clock_timestamp() + interval '1 second' WHERE x.transfer_id = t.transfer_id AND x.state = 'cut';
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.transfer_push() IS 'Sends units to a receiver that has not said that it has them.';

CREATE FUNCTION coupon.campaign_spread() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	silent CONSTANT smallint[] := coupon.nodes_silent();
	w record;
	done boolean;
BEGIN
	-- of a campaign that this node has handed over the new keeper alone
	SELECT c.campaign_id, c.version, n.node_id, c.keeper <> s.node_id AS handed INTO w
	  FROM coupon.campaign c
	 CROSS JOIN coupon.node_self s
	  JOIN coupon.node n ON n.node_id <> s.node_id AND n.state <> 'gone' AND n.node_id <> ALL (silent)
	  LEFT JOIN coupon.campaign_copy k ON k.campaign_id = c.campaign_id AND k.node_id = n.node_id
	 WHERE c.shared AND (c.keeper = s.node_id OR k.node_id = c.keeper) AND coalesce(k.version, 0) < c.version AND coalesce(k.due_at, '-infinity') <= clock_timestamp()
	 ORDER BY k.due_at NULLS FIRST LIMIT 1;
	IF w.campaign_id IS NULL THEN
		RETURN false;
	END IF;
	SELECT c.answer IS NOT NULL INTO done
	  FROM coupon.peers_try('define', jsonb_build_object('campaign', coupon.campaign_definition(w.campaign_id)
	           || CASE WHEN w.handed THEN jsonb_build_object('keys', (SELECT coalesce(jsonb_agg(to_jsonb(x)), '[]') FROM coupon.cluster_key x WHERE x.campaign_id = w.campaign_id))
	              ELSE '{}' END), w.node_id) c;
	IF done AND w.handed THEN
		DELETE FROM coupon.campaign_copy k WHERE k.campaign_id = w.campaign_id;
		DELETE FROM coupon.cluster_key k WHERE k.campaign_id = w.campaign_id;
		RETURN true;
	END IF;
	INSERT INTO coupon.campaign_copy AS k (campaign_id, node_id, version, due_at)
	VALUES (w.campaign_id, w.node_id, CASE WHEN done THEN w.version ELSE 0 END, clock_timestamp() + interval '1 second')
	ON CONFLICT ON CONSTRAINT campaign_copy_pkey DO UPDATE
	   SET version = greatest(k.version, excluded.version), due_at = excluded.due_at;
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.campaign_spread() IS 'Tells a node of a campaign, or of its change.';

CREATE FUNCTION coupon.node_has_slots() RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN EXISTS (SELECT FROM coupon.slot s WHERE s.node_id = (SELECT f.node_id FROM coupon.node_self f));
END
$$;
COMMENT ON FUNCTION coupon.node_has_slots() IS 'Has this node slots, or has some coming?';

CREATE FUNCTION coupon.node_that_answers(campaign_id bigint) RETURNS smallint
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT n.node_id
	  FROM coupon.peers_try('report', jsonb_build_object('campaign_id', $1)) a
	  JOIN coupon.node n ON n.node_id = a.node_id AND n.state = 'active'
	 WHERE a.answer IS NOT NULL ORDER BY random() LIMIT 1
$$;
COMMENT ON FUNCTION coupon.node_that_answers(bigint) IS 'One of the active nodes that answer now; null: there is none.';

CREATE FUNCTION coupon.node_unload() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	target smallint;
	campaign bigint;
	t coupon.transfer;
BEGIN
	PERFORM FROM coupon.node n JOIN coupon.node_self s ON s.node_id = n.node_id AND n.state = 'draining';
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	BEGIN
		-- what came after the drain began, or was to go to a node that is itself drained now
		IF coupon.node_has_slots()
		   AND NOT EXISTS (SELECT FROM coupon.slot_plan) AND coupon.campaigns_alone() IS NULL AND coupon.slots_balance() > 0 THEN
			RETURN true;
		END IF;
		-- then its campaigns: from the commit on nobody changes them, until the new keeper has heard of it
		SELECT c.campaign_id INTO campaign
		  FROM coupon.campaign c JOIN coupon.node_self s ON s.node_id = c.keeper
		 WHERE c.shared AND c.withdrawn = 0 AND c.archived_at IS NULL AND c.dumped IS NULL ORDER BY c.campaign_id LIMIT 1;
		IF campaign IS NOT NULL THEN
			target := coupon.node_that_answers(campaign);
			UPDATE coupon.campaign c SET keeper = target, version = c.version + 1
			 WHERE target IS NOT NULL AND c.campaign_id = campaign AND c.withdrawn = 0 AND c.keeper = (SELECT s.node_id FROM coupon.node_self s);
			IF FOUND THEN
				DELETE FROM coupon.campaign_copy k WHERE k.campaign_id = campaign;
				INSERT INTO coupon.campaign_copy (campaign_id, node_id, version) VALUES (campaign, target, 0);
				RETURN true;
			END IF;
		END IF;
		-- its units last: as long as it has slots it has users who want some
		IF coupon.node_has_slots() THEN
			RETURN false;
		END IF;
		FOR campaign IN SELECT c.campaign_id FROM coupon.campaign c WHERE c.shared AND c.dumped IS NULL
		LOOP
			CONTINUE WHEN NOT (SELECT h.free > 0 FROM coupon.stock_here(campaign) h);
			-- one that answers: who is dead would keep them from all until it is back
			target := coalesce(target, coupon.node_that_answers(campaign));
			EXIT WHEN target IS NULL;
			t := coupon.transfer_out(campaign, target, 100000, clock_timestamp());
			IF t.transfer_id IS NOT NULL THEN
				RETURN true;
			END IF;
		END LOOP;
		RETURN false;
	EXCEPTION WHEN lock_not_available THEN
		-- of a campaign: it goes later, and the rest of the work goes on
		RETURN false;
	END;
END
$$;
COMMENT ON FUNCTION coupon.node_unload() IS 'Gives the campaigns and the free units of a node that is being drained to another one that answers.';

CREATE FUNCTION coupon.stock_fetch(campaign_id bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self integer := (SELECT s.node_id FROM coupon.node_self s);
	before jsonb;
	reports jsonb := '{}';
	answer jsonb;
	disagree boolean := false;
	r record;
BEGIN
	-- twice, the second time only if the first one found nothing anywhere
	FOR turn IN 1 .. 2 LOOP
		before := reports;
		reports := jsonb_build_object(self, coupon.stock_report($1));
		FOR r IN SELECT * FROM coupon.peers_try('report', jsonb_build_object('campaign_id', $1))
		LOOP
			reports := reports || jsonb_build_object(r.node_id, coalesce(r.answer - 'epoch', '{"gone": false, "free": 0}'));
		END LOOP;
		-- one of the two may know a node that has joined, or left, which the other one has not heard of
		FOR r IN SELECT x.key::integer AS node_id FROM jsonb_each(reports) x WHERE x.value -> 'nodes' <> reports -> self::text -> 'nodes'
		LOOP
			disagree := true;
			PERFORM coupon.learn_map(c.answer -> 'map')
			   FROM coupon.peers_try('hello', jsonb_build_object('map', coupon.map_here()), r.node_id) c WHERE c.answer IS NOT NULL;
		END LOOP;
		SELECT x.key::integer AS node_id INTO r
		  FROM jsonb_each(reports) x
		 WHERE x.key::integer <> self
		   AND (x.value ->> 'free')::bigint > CASE WHEN (reports -> self::text ->> 'free')::bigint = 0 THEN 0 ELSE (reports -> self::text ->> 'free')::bigint + 1 END
		 ORDER BY (x.value ->> 'free')::bigint DESC, random() LIMIT 1;
		IF r.node_id IS NOT NULL THEN
			SELECT c.answer INTO answer
			  FROM coupon.peers_try('cut', jsonb_build_object('campaign_id', $1, 'has', reports -> self::text -> 'free'), r.node_id) c;
			IF answer ? 'transfer' THEN
				PERFORM coupon.transfer_in(answer -> 'transfer');
				RETURN true;
			END IF;
			RETURN false;
		END IF;
		IF disagree OR EXISTS (SELECT FROM jsonb_each(reports) x WHERE NOT (x.value ->> 'gone')::boolean OR (x.value ->> 'transit')::bigint > 0) THEN
			RETURN false;
		END IF;
	END LOOP;
	IF reports = before THEN
		PERFORM coupon.stock_set_gone($1, reports -> self::text ->> 'number');
	END IF;
	RETURN reports = before;
END
$$;
COMMENT ON FUNCTION coupon.stock_fetch(bigint) IS 'Fetches units from the node that has most; or finds out that none has any, which every node must say twice with the same number.';

CREATE FUNCTION coupon.stock_fetch_all() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	campaign bigint;
	wanting bigint[] := coupon.stock_wants(ARRAY(SELECT c.campaign_id FROM coupon.campaign c
		WHERE c.shared AND c.closed_at IS NULL AND NOT c.paused AND c.dumped IS NULL ORDER BY random()));
	fetched boolean;
BEGIN
	-- none does; or one that is empty, and is to stay so
	IF wanting = '{}' THEN
		RETURN false;
	ELSIF NOT coupon.node_has_slots() AND EXISTS (SELECT FROM coupon.node n JOIN coupon.node_self s ON s.node_id = n.node_id WHERE n.state <> 'active') THEN
		RETURN false;
	END IF;
	FOREACH campaign IN ARRAY wanting LOOP
		-- a campaign's trouble is its own
		BEGIN
			fetched := coupon.stock_fetch(campaign);
			PERFORM coupon.stock_fetched(campaign, false);
			-- this has locked the campaign until the commit: no node is called meanwhile, which may wait for this one
			EXIT WHEN fetched;
		EXCEPTION WHEN OTHERS THEN
			RAISE WARNING USING MESSAGE = format('no units of campaign %s could be fetched', campaign), DETAIL = SQLERRM;
			PERFORM coupon.stock_fetched(campaign, true);
		END;
	END LOOP;
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.stock_fetch_all() IS 'Fetches units of those campaigns that want some, of one in a transaction; returns whether any does.';

CREATE FUNCTION coupon.cluster_work() RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	pause integer;
	begun boolean;
	fetches_first boolean := random() < 0.5;
BEGIN
	IF NOT EXISTS (SELECT FROM coupon.node_self) THEN
		PERFORM coupon.node_set_confirmed(false);
		RETURN 100;
	END IF;
	-- one that was a node before, and is a new one, has to begin, too
	IF NOT coupon.node_confirmed() OR NOT EXISTS (SELECT FROM coupon.node_start) THEN
		begun := coupon.node_begin();
		IF begun IS NULL THEN
			RAISE WARNING USING
				MESSAGE = format('database "%s" is a copy of a node and sells nothing', current_database()),
				DETAIL = 'The other nodes would take it for the original, which has the same units and users.',
				HINT = 'Take it off coupon.databases.';
			RETURN 60000;
		ELSIF begun THEN
			RETURN 0;
		ELSIF NOT coupon.node_confirm() THEN
			RETURN 100;
		END IF;
		PERFORM coupon.node_set_confirmed(true);
		RETURN 0;
	END IF;
	-- what somebody has locked is done later, and the rest now
	PERFORM set_config('lock_timeout', '300ms', true);
	IF coupon.map_spread() THEN
		RETURN 0;
	END IF;
	-- who is on the way comes first; whether more leave takes turns with the rest
	pause := coupon.slots_work(random() < 0.5);
	IF pause IS NOT NULL THEN
		RETURN pause;
	END IF;
	-- and so does what is fetched: as long as users ask for what nobody has, there is always something to fetch
	IF coupon.transfer_settle() OR fetches_first AND coupon.stock_fetch_all()
	   OR coupon.transfer_push() OR coupon.campaign_spread() OR coupon.node_unload()
	   OR NOT fetches_first AND coupon.stock_fetch_all() THEN
		RETURN 0;
	END IF;
	RETURN coalesce(coupon.slots_work(true), 100);
END
$$;
COMMENT ON FUNCTION coupon.cluster_work() IS 'One step of the transfer worker. Returns after how many milliseconds there may be another one.';

-- ---- for operators ----

CREATE FUNCTION coupon.cluster_require() RETURNS smallint
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
BEGIN
	IF self IS NULL THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'this server is no node',
			DETAIL = 'coupon.node_self has no row.',
			HINT = 'Make it one with coupon_node_found() or coupon_node_join().';
	END IF;
	RETURN self;
END
$$;
COMMENT ON FUNCTION coupon.cluster_require() IS 'Which node this server is, or an ERROR.';

CREATE FUNCTION coupon.cluster_stay() RETURNS smallint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	LOCK TABLE coupon.node_self IN SHARE MODE;
	RETURN coupon.cluster_require();
END
$$;
COMMENT ON FUNCTION coupon.cluster_stay() IS 'coupon.cluster_require(); until the transaction ends the server stays that node.';

CREATE FUNCTION coupon.stock_parts(first_serial bigint, units bigint, OUT node_id smallint, OUT part int8range) RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT n.node_id, int8range($1 + $2 * (n.place - 1) / n.nodes, $1 + $2 * n.place / n.nodes)
	  FROM (SELECT x.node_id, row_number() OVER (ORDER BY x.node_id) AS place, count(*) OVER () AS nodes
	          FROM coupon.node x
	         -- if all are drained, at the same time, they stay here
	         WHERE x.state = 'active' OR NOT EXISTS (SELECT FROM coupon.node a WHERE a.state = 'active') AND x.node_id = coupon.cluster_require()) n
	 WHERE $2 * (n.place - 1) / n.nodes < $2 * n.place / n.nodes
$$;
COMMENT ON FUNCTION coupon.stock_parts(bigint, bigint) IS 'New units, dealt out to the nodes.';

CREATE FUNCTION coupon.stock_born(campaign_id bigint, units bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	self smallint := coupon.cluster_require();
	first_new bigint;
BEGIN
	-- the lock first: who adds units at the same time waits here
	PERFORM FROM coupon.campaign c WHERE c.campaign_id = $1 FOR NO KEY UPDATE;
	SELECT coalesce(max(s.last_serial), 0) + 1 INTO first_new FROM coupon.shard s WHERE s.campaign_id = $1;
	PERFORM coupon.units_born($1, (
		SELECT coalesce(coupon.ranges_of(range_agg(p.part) FILTER (WHERE p.node_id = self)), '{}')
		  FROM coupon.stock_parts(first_new, $2) p), first_new + $2 - 1);
	INSERT INTO coupon.transfer (transfer_id, campaign_id, donor, receiver, serials, state, due_at)
	SELECT gen_random_uuid(), $1, self, p.node_id, int8multirange(p.part), 'cut', clock_timestamp()
	  FROM coupon.stock_parts(first_new, $2) p WHERE p.node_id <> self;
	RETURN first_new + $2 - 1;
END
$$;
COMMENT ON FUNCTION coupon.stock_born(bigint, bigint) IS 'Adds units to a shared campaign: each node gets its part, those of the others are on their way.';

CREATE FUNCTION coupon.cluster_key_used(request_key text, campaign_id bigint, units bigint) RETURNS coupon.cluster_key
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	used coupon.cluster_key;
BEGIN
	IF octet_length($1) NOT BETWEEN 1 AND 255 THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'request_key must have 1 to 255 bytes',
			DETAIL = format('It has %s.', octet_length($1)),
			HINT = 'Use a random value, and the same one when the call is tried again.';
	END IF;
	-- two calls with the same key, one after the other
	PERFORM pg_advisory_xact_lock(hashtextextended('coupon.cluster_key ' || $1, 0)) WHERE $1 IS NOT NULL;
	SELECT * INTO used FROM coupon.cluster_key k WHERE k.request_key = $1;
	IF used.request_key IS NOT NULL AND (used.campaign_id <> coalesce($2, used.campaign_id) OR used.units <> $3) THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'request_key was used for another call',
			DETAIL = format('It added %s units to campaign %s.', used.units, used.campaign_id),
			HINT = 'Use a new key for a new call.';
	END IF;
	RETURN used;
END
$$;
COMMENT ON FUNCTION coupon.cluster_key_used(text, bigint, bigint) IS 'What a call with the key did; the next one waits until this transaction has ended.';

CREATE FUNCTION @extschema@.coupon_cluster_create(
	name           text,
	stock          bigint,
	per_user_limit integer DEFAULT 1,
	opens_at       timestamptz DEFAULT NULL,
	closes_at      timestamptz DEFAULT NULL,
	policy         jsonb DEFAULT '{}',
	topic          text DEFAULT 'coupon-issued',
	request_key    text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	used coupon.cluster_key;
	id bigint;
BEGIN
	PERFORM coupon.cluster_stay();
	used := coupon.cluster_key_used($8, NULL, $2);
	IF used.request_key IS NOT NULL THEN
		RETURN used.campaign_id;
	END IF;
	IF $2 IS NULL OR $2 NOT BETWEEN 0 AND 100000000 THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'stock must be between 0 and 100000000',
			DETAIL = format('It is %s.', coalesce($2::text, 'null')),
			HINT = 'Codes are imported at this node once the campaign is there.';
	END IF;
	id := @extschema@.coupon_campaign_create($1, 0, $3, $4, $5, $6, $7);
	PERFORM @extschema@.coupon_campaign_share(id);
	IF $2 > 0 THEN
		PERFORM coupon.stock_born(id, $2);
	END IF;
	INSERT INTO coupon.cluster_key (request_key, campaign_id, units, last_serial) SELECT $8, id, $2, $2 WHERE $8 IS NOT NULL;
	RETURN id;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_cluster_create(text, bigint, integer, timestamptz, timestamptz, jsonb, text, text) IS
	'Creates a campaign whose stock all nodes share, and returns its id. Once it has committed here the other nodes follow by themselves. With the same request_key again it returns the same campaign.';

CREATE FUNCTION @extschema@.coupon_campaign_share(campaign_id bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := coupon.cluster_stay();
	c coupon.campaign;
BEGIN
	SELECT * INTO c FROM coupon.campaign x WHERE x.campaign_id = $1 FOR NO KEY UPDATE;
	IF c.campaign_id IS NULL THEN
		RAISE SQLSTATE 'UC001' USING
			MESSAGE = 'unknown campaign',
			DETAIL = format('There is no campaign %s.', coalesce($1::text, 'null')),
			HINT = 'Use an id that coupon_campaign_create() returned; coupon.campaign lists them.';
	ELSIF c.shared THEN
		RETURN false;
	ELSIF c.labels_public OR c.closed_at IS NOT NULL OR c.archived_at IS NOT NULL OR c.dumped IS NOT NULL OR c.campaign_id >= 1000000000 THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'campaign cannot be shared',
			DETAIL = format('Campaign %s %s.', $1, CASE WHEN c.labels_public THEN 'has labelled units, which stay together'
				WHEN c.campaign_id >= 1000000000 THEN 'lives at one node' WHEN c.dumped IS NOT NULL THEN 'was restored and is not checked yet' ELSE 'is closed' END),
			HINT = 'Seats are sold at one node.';
	END IF;
	UPDATE coupon.campaign x SET shared = true, keeper = self, version = 1 WHERE x.campaign_id = $1;
	RETURN true;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_campaign_share(bigint) IS
	'Lets all nodes sell the units of a campaign of this one, which becomes its keeper: it is changed here, and units are added here. Returns whether this call changed it.';

CREATE FUNCTION @extschema@.coupon_cluster_add_stock(campaign_id bigint, units bigint, request_key text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	self smallint := coupon.cluster_require();
	used coupon.cluster_key;
	c coupon.campaign;
	stock bigint;
BEGIN
	used := coupon.cluster_key_used($3, $1, $2);
	IF used.request_key IS NOT NULL THEN
		RETURN used.last_serial;
	END IF;
	SELECT * INTO c FROM coupon.campaign x WHERE x.campaign_id = $1;
	IF c.campaign_id IS NULL OR NOT c.shared OR c.keeper <> self OR c.coded OR $2 IS NULL OR $2 < 1 THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'units cannot be added here',
			DETAIL = CASE WHEN c.campaign_id IS NULL THEN format('There is no campaign %s.', coalesce($1::text, 'null'))
			              WHEN NOT c.shared THEN format('Campaign %s is not shared.', $1)
			              WHEN c.keeper <> self THEN format('The keeper of campaign %s is node %s.', $1, c.keeper)
			              WHEN c.coded THEN format('Campaign %s has codes.', $1)
			              ELSE format('units is %s.', coalesce($2::text, 'null')) END,
			HINT = 'Call it at the keeper of a shared campaign; codes are imported there; coupon_campaign_add_stock() is for campaigns of one node.';
	END IF;
	stock := coupon.stock_born($1, $2);
	INSERT INTO coupon.cluster_key (request_key, campaign_id, units, last_serial) SELECT $3, $1, $2, stock WHERE $3 IS NOT NULL;
	RETURN stock;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_cluster_add_stock(bigint, bigint, text) IS
	'Adds units to a shared campaign, at its keeper; each node gets its part. Returns the new stock of all nodes. With the same request_key again it adds nothing.';

CREATE FUNCTION @extschema@.coupon_cluster_status(
	campaign_id bigint,
	OUT node_id integer,
	OUT name text,
	OUT state text,
	OUT stock bigint,
	OUT issued bigint,
	OUT held bigint,
	OUT in_flight bigint,
	OUT remaining bigint,
	OUT in_transit bigint,
	OUT problem text)
RETURNS SETOF record
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	WITH answers AS (
		SELECT s.node_id::integer, coupon.call_status($1) AS answer, NULL::text AS error FROM coupon.node_self s
		UNION ALL
		SELECT c.node_id, c.answer, c.error FROM coupon.peers_call('status', jsonb_build_object('campaign_id', $1)) c)
	SELECT n.node_id::integer, n.name, CASE WHEN a.answer IS NULL THEN 'missing' WHEN NOT (a.answer ->> 'confirmed')::boolean THEN 'fenced' ELSE n.state END,
	       (a.answer ->> 'stock')::bigint, (a.answer ->> 'issued')::bigint, (a.answer ->> 'held')::bigint, (a.answer ->> 'in_flight')::bigint,
	       (a.answer ->> 'remaining')::bigint, (a.answer ->> 'in_transit')::bigint, a.error
	  FROM coupon.node n LEFT JOIN answers a ON a.node_id = n.node_id
	 WHERE n.state <> 'gone'
	 ORDER BY n.node_id
$$;
COMMENT ON FUNCTION @extschema@.coupon_cluster_status(bigint) IS
	'What each node has of a campaign now; in_transit: units that it has sent away and that have yet to arrive. Of a node that is missing the numbers are null, not zero.';

CREATE FUNCTION @extschema@.coupon_cluster_verify(
	campaign_id bigint,
	OUT node_id integer,
	OUT law text,
	OUT serial bigint,
	OUT user_id text,
	OUT detail text)
RETURNS SETOF record
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	answers jsonb := '{}';
	r record;
BEGIN
	answers := jsonb_build_object(coupon.cluster_require(), coupon.call_holdings($1));
	FOR r IN SELECT * FROM coupon.peers_call('holdings', jsonb_build_object('campaign_id', $1))
	LOOP
		IF r.answer IS NULL THEN
			node_id := r.node_id;
			law := 'node is missing';
			detail := r.error;
			RETURN NEXT;
		ELSE
			answers := answers || jsonb_build_object(r.node_id, r.answer);
		END IF;
	END LOOP;
	RETURN QUERY
	SELECT a.key::integer, b ->> 'law', (b ->> 'serial')::bigint, b ->> 'user_id', b ->> 'detail'
	  FROM jsonb_each(answers) a, jsonb_array_elements(a.value -> 'broken') b;
	-- without all nodes nothing is said of where a unit is
	IF law IS NOT NULL THEN
		RETURN;
	END IF;
	RETURN QUERY
	SELECT NULL::integer, CASE WHEN p.places > 1 THEN 'unit is at two nodes' ELSE 'unit is at no node' END, p.first, NULL::text,
	       format('serials %s to %s, %s places', p.first, p.last, p.places)
	  FROM coupon.units_places(answers) p WHERE p.places <> 1;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_cluster_verify(bigint) IS
	'What breaks a law of the sale at any node, and units that are at two nodes or at none, also while they are sold; none when all is well. A node that cannot be asked is a row, too.';
