-- A node that leaves the sale, and the last one, which is a single server again.

CREATE FUNCTION coupon.call_leaving(node_id smallint) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	here jsonb := '{}';
	transit bigint;
BEGIN
	-- first what is here, then what is under way: a unit that is sent away between the two is not missed
	IF $1 = self THEN
		here := jsonb_build_object(
			'slots', (SELECT count(*) FROM coupon.slot s WHERE s.node_id = self),
			'units', (SELECT coalesce(sum(h.remaining + h.held + h.in_flight), 0)
			            FROM coupon.campaign c, LATERAL @extschema@.coupon_status(c.campaign_id) h
			           WHERE c.shared AND c.archived_at IS NULL AND c.dumped IS NULL),
			'issuances', (SELECT count(*) FROM (SELECT FROM coupon.campaign c JOIN coupon.issuance i ON i.campaign_id = c.campaign_id
			                                   WHERE c.archived_at IS NULL LIMIT 1000) i),
			'events', (SELECT count(*) FROM (SELECT FROM coupon.outbox o WHERE coupon.has_broker() LIMIT 1000) o),
			'rooms', (SELECT count(*) FROM coupon.room r
			           WHERE EXISTS (SELECT FROM coupon.campaign c WHERE c.room_id = r.room_id AND c.closed_at IS NULL)));
	END IF;
	SELECT count(*) INTO transit FROM coupon.transfer t WHERE t.state = 'cut' AND $1 IN (t.donor, t.receiver);
	RETURN here || jsonb_build_object('transit', transit,
		'parcels', (SELECT count(*) FROM coupon.slot_parcel p WHERE p.state = 'sent' AND $1 IN (p.donor, p.receiver)),
		-- slots that this node has, or has given away and can take back
		'has', (SELECT coalesce(jsonb_agg(h.slot), '[]')
		          FROM (SELECT x.slot FROM coupon.slot x WHERE x.node_id = self
		                UNION ALL
		                SELECT unnest(p.slots) FROM coupon.slot_parcel p WHERE p.state = 'sent') h),
		'kept', (SELECT coalesce(jsonb_agg(coupon.campaign_definition(c.campaign_id)), '[]') FROM coupon.campaign c
		          WHERE c.shared AND c.keeper = $1 AND c.archived_at IS NULL AND c.dumped IS NULL),
		'elsewhere', (SELECT coalesce(jsonb_agg(c.campaign_id), '[]') FROM coupon.campaign c WHERE c.shared AND c.keeper <> $1));
END
$$;
COMMENT ON FUNCTION coupon.call_leaving(smallint) IS 'What would be lost with a node, as far as this one knows: at the node itself what only it has, and at each one transfers from it or to it that have yet to arrive, and of which campaigns it is the keeper.';

CREATE FUNCTION coupon.node_leave() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	has jsonb;
BEGIN
	-- the lock: what comes meanwhile has been taken in, or is refused
	PERFORM FROM coupon.node n WHERE n.node_id = self AND n.state = 'draining' FOR UPDATE;
	IF NOT FOUND THEN
		RETURN EXISTS (SELECT FROM coupon.node n WHERE n.node_id = self AND n.state = 'gone');
	END IF;
	has := coupon.call_leaving(self);
	IF has - '{elsewhere,kept,has}'::text[] <> '{"slots": 0, "units": 0, "issuances": 0, "events": 0, "rooms": 0, "transit": 0, "parcels": 0}' OR has -> 'kept' <> '[]' THEN
		RETURN false;
	END IF;
	UPDATE coupon.node n SET state = 'gone', version = n.version + 1 WHERE n.node_id = self;
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.node_leave() IS 'At a node that is removed: it has nothing, and gets nothing any more; false: it has something.';

CREATE FUNCTION coupon.keeper_take(answers jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	-- whoever calls, at whatever node: two who remove it at the same time choose the same one
	chosen smallint := coalesce((SELECT min(n.node_id) FROM coupon.node n WHERE n.state = 'active' AND $1 ? n.node_id::text), coupon.cluster_require());
	k record;
BEGIN
	FOR k IN SELECT (array_agg(x.d ORDER BY (x.d ->> 'version')::bigint DESC))[1] AS definition,
	                max((x.d ->> 'version')::bigint) + 1 AS version, max((x.d ->> 'last_serial')::bigint) AS last_serial
	           FROM jsonb_each($1) a, jsonb_array_elements(a.value -> 'kept') x(d)
	          -- unless somebody knows that it has another one by now
	          WHERE NOT EXISTS (SELECT FROM jsonb_each($1) o WHERE o.value -> 'elsewhere' @> (x.d -> 'campaign_id'))
	          GROUP BY x.d -> 'campaign_id' ORDER BY x.d -> 'campaign_id'
	LOOP
		PERFORM coupon.campaign_define(k.definition
			|| jsonb_build_object('keeper', chosen, 'version', k.version, 'last_serial', k.last_serial, 'keys', '[]'::jsonb));
		-- another one hears of it, and of the serials that there are, as of a campaign that is handed over
		IF chosen <> coupon.cluster_require() THEN
			PERFORM coupon.units_arrive((k.definition ->> 'campaign_id')::bigint, '{}', k.last_serial, true);
			INSERT INTO coupon.campaign_copy AS c (campaign_id, node_id, version) VALUES ((k.definition ->> 'campaign_id')::bigint, chosen, 0)
			ON CONFLICT ON CONSTRAINT campaign_copy_pkey DO UPDATE SET version = 0, due_at = clock_timestamp();
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION coupon.keeper_take(jsonb) IS 'Makes the first active node that answers the keeper of campaigns whose keeper has left without a word, from what the nodes say to coupon.call_leaving().';

CREATE FUNCTION @extschema@.coupon_node_drain() RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := coupon.cluster_require();
	stuck text;
BEGIN
	IF NOT EXISTS (SELECT FROM coupon.node n WHERE n.state = 'active' AND n.node_id <> self) THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'this is the last node',
			DETAIL = format('No other node than %s is active.', self),
			HINT = 'Have another server join first; or make it a single server again, with coupon_node_disband().';
	END IF;
	SELECT string_agg(c.campaign_id::text, ', ' ORDER BY c.campaign_id) INTO stuck FROM coupon.campaign c WHERE c.campaign_id >= 1000000000;
	IF stuck IS NOT NULL THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'campaigns that are at this node as a whole cannot leave it',
			DETAIL = format('Campaign %s.', left(stuck, 200)),
			HINT = 'When they are over end them with coupon_campaign_archive() or coupon_campaign_drop(), or drain other nodes. coupon_slots_move() moves all other slots.';
	END IF;
	SELECT string_agg(c.campaign_id::text, ', ' ORDER BY c.campaign_id) INTO stuck
	  FROM coupon.campaign c WHERE c.shared AND c.withdrawn > 0 AND c.archived_at IS NULL;
	IF stuck IS NOT NULL THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'units that were withdrawn at this node cannot leave it',
			DETAIL = format('Campaign %s.', left(stuck, 200)),
			HINT = 'Drain the other nodes, or end the campaign first.';
	END IF;
	UPDATE coupon.node n SET state = 'draining', version = n.version + 1 WHERE n.node_id = self AND n.state = 'active';
	RETURN coupon.slots_balance();
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_node_drain() IS
	'Has all slots, all free units and the campaigns of this node move to the others. Returns how many slots are planned to.';

CREATE FUNCTION @extschema@.coupon_node_remove(node_id integer) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := coupon.cluster_require();
	left_over text;
	answers jsonb;
	told jsonb;
	unclaimed bigint;
	silent text;
	complaint text;
BEGIN
	SELECT CASE WHEN n.state IS NULL THEN 'nothing that is known' WHEN n.state = 'active' THEN 'state active' END INTO left_over
	  FROM (VALUES ($1)) v(node_id) LEFT JOIN coupon.node n ON n.node_id = v.node_id;
	IF left_over <> '' OR $1 IS NULL THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'node cannot be removed',
			DETAIL = format('Node %s has %s.', coalesce($1::text, 'null'), coalesce(nullif(left_over, ''), 'no number')),
			HINT = 'Call coupon_node_drain() at that node, and wait until coupon.node_status shows no slots.';
	END IF;
	-- who has it gone already has nothing to ask
	PERFORM FROM coupon.node n WHERE n.node_id = $1 AND n.state <> 'gone';
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	SELECT jsonb_object_agg(a.node_id, a.answer) FILTER (WHERE a.answer IS NOT NULL), string_agg(a.node_id::text, ', ' ORDER BY a.node_id) FILTER (WHERE a.answer IS NULL),
	       max(a.error) FILTER (WHERE a.node_id = $1)
	  INTO answers, silent, complaint
	  FROM (SELECT self::integer AS node_id, coupon.call_leaving($1::smallint) AS answer, NULL::text AS error
	        UNION ALL
	        SELECT c.node_id, c.answer, c.error FROM coupon.peers_call('leaving', jsonb_build_object('node_id', $1)) c) a;
	told := answers -> $1::text;
	-- a server that refuses is not dead
	IF told IS NULL AND complaint ~ '(^|: +)[0-9A-Z]{5}: |is a superuser' THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'node cannot be removed',
			DETAIL = format('Node %s runs, but does not say what it has: %s', $1, complaint),
			HINT = 'Call it again when it does. If the server is not to be used any more stop it first.';
	END IF;
	SELECT count(*) INTO unclaimed FROM coupon.slot x
	 WHERE NOT EXISTS (SELECT FROM jsonb_each(answers) a WHERE a.value -> 'has' @> to_jsonb(x.slot))
	   AND (x.node_id = $1 OR answers ? x.node_id::text);
	SELECT concat_ws(', ',
		CASE WHEN (told ->> 'slots')::bigint > 0 THEN (told ->> 'slots') || ' slots' END,
		-- of a node that is dead all slots must be with others, or on their way from one that takes them back
		CASE WHEN told IS NULL AND unclaimed > 0 THEN unclaimed || ' slots, or knows who has them' END,
		CASE WHEN told IS NOT NULL AND sum((a.value ->> 'parcels')::bigint) > 0 THEN sum((a.value ->> 'parcels')::bigint) || ' parcels of slots that have yet to arrive' END,
		CASE WHEN (told ->> 'units')::bigint > 0 THEN (told ->> 'units') || ' units that are not issued' END,
		CASE WHEN (told ->> 'issuances')::bigint > 0 THEN (told ->> 'issuances') || ' issuances' END,
		-- what is on its way to one that is dead comes back to who has sent it
		CASE WHEN told IS NOT NULL AND sum((a.value ->> 'transit')::bigint) > 0 THEN sum((a.value ->> 'transit')::bigint) || ' transfers that have yet to arrive' END,
		CASE WHEN (told ->> 'events')::bigint > 0 THEN (told ->> 'events') || ' events that are not published' END,
		CASE WHEN (told ->> 'rooms')::bigint > 0 THEN (told ->> 'rooms') || ' rooms that campaigns require' END,
		CASE WHEN jsonb_array_length(told -> 'kept') > 0 THEN jsonb_array_length(told -> 'kept') || ' campaigns of which it is the keeper' END)
	  INTO left_over FROM jsonb_each(answers) a;
	IF left_over <> '' THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'node cannot be removed',
			DETAIL = format('Node %s has %s.', $1, left_over),
			HINT = CASE WHEN told IS NULL THEN 'Start the node again, or a standby of it.'
				ELSE 'Call it again when they have moved, which all but rooms do by themselves while the nodes run: coupon_cluster_status() shows where units are.' END;
	ELSIF silent IS NOT NULL THEN
		RAISE WARNING USING
			MESSAGE = 'not all nodes could be asked for what the node that is removed has',
			DETAIL = format('No answer from node %s.', silent),
			HINT = 'Compare with coupon_cluster_verify() whether units are at no node.';
	END IF;
	IF told IS NULL THEN
		PERFORM coupon.keeper_take(answers);
	ELSIF (SELECT (c.answer ->> 'left')::boolean FROM coupon.peers_call('leave', '{}', $1) c) IS NOT TRUE THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'node cannot be removed',
			DETAIL = format('Node %s has got something in this moment, or did not answer.', $1),
			HINT = 'Call it again.';
	END IF;
	UPDATE coupon.node n SET state = 'gone', version = n.version + 1 WHERE n.node_id = $1 AND n.state <> 'gone';
	RETURN true;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_node_remove(integer) IS
	'Takes a node that has been drained out of the sale; an ERROR while something would be lost with it. Of the campaigns of one that does not answer the active node with the lowest number that does becomes the keeper. Returns whether this call did; the other nodes are told.';

CREATE FUNCTION @extschema@.coupon_node_disband() RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint;
	left_over text;
	campaigns integer;
BEGIN
	-- who shares a campaign at the same time has done so, or is refused
	LOCK TABLE coupon.node_self IN SHARE ROW EXCLUSIVE MODE;
	LOCK TABLE coupon.campaign, coupon.transfer, coupon.slot_parcel, coupon.slot_plan IN SHARE ROW EXCLUSIVE MODE;
	self := coupon.cluster_require();
	left_over := concat_ws('; ',
		(SELECT 'node ' || string_agg(n.node_id::text, ', ' ORDER BY n.node_id) || ' has not been removed'
		   FROM coupon.node n WHERE n.node_id <> self AND n.state <> 'gone'),
		(SELECT count(*) || ' slots are not here' FROM coupon.slot s WHERE s.node_id <> self OR s.leaving IS NOT NULL HAVING count(*) > 0),
		(SELECT count(*) || ' parcels of slots have yet to arrive' FROM coupon.slot_parcel p WHERE p.state = 'sent' HAVING count(*) > 0),
		(SELECT count(*) || ' transfers have yet to arrive' FROM coupon.transfer t WHERE t.state = 'cut' HAVING count(*) > 0),
		(SELECT 'units of campaign ' || string_agg(c.campaign_id::text, ', ' ORDER BY c.campaign_id) || ' are not here'
		   FROM coupon.campaign c WHERE c.away > 0 AND c.archived_at IS NULL));
	IF left_over <> '' THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'this node is not all that there is of the sale',
			DETAIL = format('%s.', upper(left(left_over, 1)) || substr(left_over, 2)),
			HINT = 'Drain and remove the other nodes. Units that were lost with a node do not come back: end their campaign first.';
	END IF;
	UPDATE coupon.campaign c SET shared = false, keeper = NULL, version = c.version + 1 WHERE c.shared;
	GET DIAGNOSTICS campaigns = ROW_COUNT;
	DELETE FROM coupon.transfer;
	DELETE FROM coupon.campaign_copy;
	DELETE FROM coupon.cluster_key;
	DELETE FROM coupon.slot_plan;
	DELETE FROM coupon.slot_parcel;
	DELETE FROM coupon.room_key;
	DELETE FROM coupon.room_guest;
	DELETE FROM coupon.node_start;
	DELETE FROM coupon.node_epoch;
	DELETE FROM coupon.node_copy;
	DELETE FROM coupon.slot;
	DELETE FROM coupon.node;
	DELETE FROM coupon.node_self;
	PERFORM coupon.number_alone('coupon.campaign_campaign_id_seq', (SELECT max(c.campaign_id) FROM coupon.campaign c WHERE c.campaign_id < 1000000000));
	PERFORM coupon.number_alone('coupon.room_room_id_seq', (SELECT max(r.room_id) FROM coupon.room r));
	RETURN campaigns;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_node_disband() IS
	'Makes the last node, which has everything, an ordinary server again, while it sells; an ERROR if something is elsewhere. Returns how many campaigns were shared.';

CREATE FUNCTION coupon.number_alone(sequence regclass, last_used bigint) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	given bigint;
BEGIN
	EXECUTE format('SELECT CASE WHEN q.is_called THEN q.last_value END FROM %s q', $1) INTO given;
	EXECUTE format('ALTER SEQUENCE %s INCREMENT BY 1 RESTART WITH %s', $1, greatest(given, $2, 0) + 1);
END
$$;
COMMENT ON FUNCTION coupon.number_alone(regclass, bigint) IS 'From here on a sequence gives each number, as on a single server.';
