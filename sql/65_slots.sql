-- Slots that move to another node, with all that their users have, while the sale goes on.
--
-- A wish to move slots is a row of coupon.slot_plan. The transfer worker takes some of
-- them at a time, as many as move within a moment, and in transactions of their own:
--	1  marks them as leaving: from here on their users are told to come again
--	2  waits for the transactions that are at work for them, for their requests and for
--	   their events; then takes their rows out of the tables and puts them into a parcel,
--	   and gives the slots away. Or, if that takes too long, keeps them and tries later.
--	3  sends the parcel until the receiver has said that it has it. The receiver takes it in
--	   once: only that transaction makes it the owner of the slots.
-- In between nobody has them, and whatever dies, it goes on from where it was.

CREATE TABLE coupon.slot_plan (
	slot     smallint PRIMARY KEY,
	receiver smallint NOT NULL,
	rows     bigint NOT NULL,
	due_at   timestamptz NOT NULL,
	left_at  timestamptz
);
COMMENT ON TABLE coupon.slot_plan IS 'Slots of this node that are to move to another one.';
COMMENT ON COLUMN coupon.slot_plan.slot IS 'The slot.';
COMMENT ON COLUMN coupon.slot_plan.receiver IS 'The node that is to have it.';
COMMENT ON COLUMN coupon.slot_plan.rows IS 'About how many issuances its users have.';
COMMENT ON COLUMN coupon.slot_plan.due_at IS 'From when on it may move.';
COMMENT ON COLUMN coupon.slot_plan.left_at IS 'Since when its users are told to come again; null: they are served.';

CREATE TABLE coupon.slot_parcel (
	parcel_id uuid PRIMARY KEY,
	donor     smallint NOT NULL,
	receiver  smallint NOT NULL,
	slots     smallint[] NOT NULL,
	content   jsonb,
	state     text COLLATE "C" NOT NULL CHECK (state IN ('sent', 'done', 'received')),
	due_at    timestamptz NOT NULL,
	noted_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	problem   text
);
CREATE INDEX slot_parcel_due_idx ON coupon.slot_parcel (due_at) WHERE state = 'sent';
COMMENT ON TABLE coupon.slot_parcel IS 'Slots that were given to another node or came from one, and on their way all that their users have.';
COMMENT ON COLUMN coupon.slot_parcel.parcel_id IS 'The same at both nodes.';
COMMENT ON COLUMN coupon.slot_parcel.donor IS 'The node that gave them away.';
COMMENT ON COLUMN coupon.slot_parcel.receiver IS 'The node that they are for.';
COMMENT ON COLUMN coupon.slot_parcel.slots IS 'The slots.';
COMMENT ON COLUMN coupon.slot_parcel.content IS 'The rows of their users, until the receiver has them.';
COMMENT ON COLUMN coupon.slot_parcel.state IS 'At the donor: sent, and done once the receiver has it. At the receiver: received.';
COMMENT ON COLUMN coupon.slot_parcel.due_at IS 'When it is sent again.';
COMMENT ON COLUMN coupon.slot_parcel.noted_at IS 'When this node had its part.';
COMMENT ON COLUMN coupon.slot_parcel.problem IS 'Why the receiver did not take it when it was sent last; null: it did, or it was not sent yet.';

CREATE VIEW coupon.node_status AS
SELECT n.node_id, n.name, n.state,
       (SELECT pg_catalog.count(*) FROM coupon.slot s WHERE s.node_id OPERATOR(pg_catalog.=) n.node_id) AS slots,
       (SELECT pg_catalog.count(*) FROM coupon.slot s
         WHERE s.node_id OPERATOR(pg_catalog.=) n.node_id AND s.leaving IS NOT NULL) AS leaving,
       EXISTS (SELECT FROM coupon.node_self f WHERE f.node_id OPERATOR(pg_catalog.=) n.node_id) AS is_self,
       n.conninfo, n.http_url,
       coalesce((SELECT p.problem FROM coupon.slot_parcel p
         WHERE p.receiver OPERATOR(pg_catalog.=) n.node_id AND p.state OPERATOR(pg_catalog.=) 'sent'::pg_catalog.text AND p.problem IS NOT NULL
         ORDER BY p.noted_at LIMIT 1),
        (SELECT k.problem FROM coupon.node_copy k
          WHERE k.node_id OPERATOR(pg_catalog.=) n.node_id AND n.state OPERATOR(pg_catalog.<>) 'gone'::pg_catalog.text)) AS problem
  FROM coupon.node n;
COMMENT ON COLUMN coupon.node_status.node_id IS 'The node''s number.';
COMMENT ON COLUMN coupon.node_status.name IS 'Its name.';
COMMENT ON COLUMN coupon.node_status.state IS 'active, draining or gone.';
COMMENT ON COLUMN coupon.node_status.slots IS 'How many slots it has.';
COMMENT ON COLUMN coupon.node_status.leaving IS 'How many of them are about to be given away.';
COMMENT ON COLUMN coupon.node_status.is_self IS 'Whether it is this server.';
COMMENT ON COLUMN coupon.node_status.conninfo IS 'How to connect to it.';
COMMENT ON COLUMN coupon.node_status.http_url IS 'Where its front listens.';
COMMENT ON COLUMN coupon.node_status.problem IS 'Why it has not taken slots that this node has given to it, or why it did not answer when this node asked it last; null: it did, or was not asked.';
COMMENT ON VIEW coupon.node_status IS 'The nodes of the sale, and how many slots each has, as far as this node knows.';

CREATE FUNCTION coupon.slot_of(user_id text) RETURNS integer
LANGUAGE c IMMUTABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'coupon_slot';
COMMENT ON FUNCTION coupon.slot_of(text) IS 'coupon_slot(), for indexes, too.';

-- ---- planning ----

CREATE FUNCTION coupon.campaigns_alone() RETURNS text
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT string_agg(a.campaign_id::text, ', ' ORDER BY a.campaign_id)
	  FROM (SELECT c.campaign_id FROM coupon.campaign c
	         WHERE NOT c.shared AND c.campaign_id < 1000000000
	           AND (c.archived_at IS NULL OR EXISTS (SELECT FROM coupon.issuance i WHERE i.campaign_id = c.campaign_id))
	         ORDER BY c.campaign_id LIMIT 20) a
$$;
COMMENT ON FUNCTION coupon.campaigns_alone() IS 'Campaigns that other nodes do not know, and that have users with a home of their own: these cannot move. Null: there are none.';

CREATE FUNCTION coupon.slots_plan(receivers smallint[]) RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := coupon.cluster_require();
	alone text := coupon.campaigns_alone();
	missing integer;
	n integer;
BEGIN
	IF alone IS NOT NULL THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'campaigns are known to this node only',
			DETAIL = format('Their users would be on a node without campaign %s.', alone),
			HINT = 'Share them with coupon_campaign_share(), or archive them.';
	END IF;
	SELECT r INTO missing FROM unnest($1) r
	 WHERE r = self OR NOT EXISTS (SELECT FROM coupon.node n WHERE n.node_id = r AND n.state = 'active') LIMIT 1;
	IF FOUND THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'slots cannot move there',
			DETAIL = format('Node %s is this one, is not known, or is not active.', coalesce(missing::text, 'null')),
			HINT = 'coupon.node_status lists the nodes.';
	END IF;
	LOCK TABLE coupon.slot_plan IN SHARE ROW EXCLUSIVE MODE;
	-- campaigns that are on this node as a whole stay, and keep their slot here
	INSERT INTO coupon.slot_plan AS p (slot, receiver, rows, due_at)
	SELECT f.slot, $1[f.place], coalesce(i.rows, 0), clock_timestamp()
	  FROM (SELECT s.slot, row_number() OVER (ORDER BY s.slot) AS place
	          FROM coupon.slot s
	         WHERE s.node_id = self AND s.leaving IS NULL
	           AND NOT EXISTS (SELECT FROM coupon.slot_plan q WHERE q.slot = s.slot)
	           AND NOT EXISTS (SELECT FROM coupon.campaign c
	                            WHERE c.campaign_id >= 1000000000 AND coupon.slot_of('campaign ' || c.campaign_id) = s.slot)) f
	  LEFT JOIN (SELECT coupon.slot_of(x.user_id) AS slot, count(*) AS rows FROM coupon.issuance x GROUP BY 1) i ON i.slot = f.slot
	 WHERE f.place <= cardinality($1);
	GET DIAGNOSTICS n = ROW_COUNT;
	-- each step reads all of it, while users of its slots are without a home
	IF n > 0 AND (SELECT c.reltuples FROM pg_class c WHERE c.oid = 'coupon.issuance'::regclass) > 500000
	   AND NOT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = 'coupon.issuance'::regclass AND x.indisvalid
	                      AND pg_get_expr(x.indexprs, x.indrelid) = 'coupon.slot_of(user_id)') THEN
		RAISE WARNING USING
			MESSAGE = 'slots will move slowly',
			DETAIL = 'Each step reads all issuances of this node, and the users that it takes along wait for it.',
			HINT = 'Create the indexes of examples/cluster/slot_index.sql now, and drop them when the slots have moved.';
	END IF;
	RETURN n;
END
$$;
COMMENT ON FUNCTION coupon.slots_plan(smallint[]) IS 'Plans for a slot of this node to move to each of these nodes; returns for how many.';

CREATE FUNCTION @extschema@.coupon_slots_move(receiver integer, slots integer) RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF $1 IS NULL OR $2 IS NULL OR $1 NOT BETWEEN 1 AND 64 OR $2 NOT BETWEEN 0 AND 1024 THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'invalid receiver or number of slots',
			DETAIL = format('%s slots to node %s.', coalesce($2::text, 'null'), coalesce($1::text, 'null')),
			HINT = 'A node is 1 to 64, and there are 1024 slots.';
	END IF;
	RETURN coupon.slots_plan(array_fill($1::smallint, ARRAY[$2]));
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_slots_move(integer, integer) IS
	'Has so many slots of this node move to another one, with their users; returns for how many that is planned. The transfer worker does it, while the sale goes on.';

CREATE FUNCTION coupon.slots_balance() RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := coupon.cluster_require();
	receivers smallint[];
BEGIN
	-- what each node lacks, in turns, as far as this one has more than its share
	WITH has AS (
		SELECT n.node_id, (SELECT count(*) FROM coupon.slot s WHERE s.node_id = n.node_id)
		                  + (SELECT count(*) FROM coupon.slot_plan p WHERE p.receiver = n.node_id)
		                  - CASE WHEN n.node_id = self THEN (SELECT count(*) FROM coupon.slot_plan p) ELSE 0 END AS slots,
		       count(*) FILTER (WHERE n.state = 'active') OVER () AS nodes,
		       row_number() OVER (PARTITION BY n.state = 'active' ORDER BY n.node_id) AS place, n.state
		  FROM coupon.node n WHERE n.state <> 'gone'),
	due AS (SELECT h.*, CASE WHEN h.state = 'active' THEN 1024 / h.nodes + CASE WHEN h.place <= 1024 % h.nodes THEN 1 ELSE 0 END ELSE 0 END AS share
	          FROM has h)
	SELECT array_agg(w.node_id ORDER BY w.turn, w.node_id) INTO receivers
	  FROM (SELECT d.node_id, g AS turn, row_number() OVER (ORDER BY g, d.node_id) AS place
	          FROM due d, generate_series(1, d.share - d.slots) g WHERE d.node_id <> self) w
	 WHERE w.place <= (SELECT d.slots - d.share FROM due d WHERE d.node_id = self);
	RETURN coupon.slots_plan(coalesce(receivers, '{}'));
END
$$;
COMMENT ON FUNCTION coupon.slots_balance() IS 'coupon_slots_balance() for those who have the right.';

CREATE FUNCTION @extschema@.coupon_slots_balance() RETURNS integer
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT coupon.slots_balance() $$;
COMMENT ON FUNCTION @extschema@.coupon_slots_balance() IS
	'Has those slots of this node move that are more than its share: all of them, if it is being drained. Returns for how many that is planned.';

-- ---- at the donor ----

CREATE FUNCTION coupon.slots_stay(seconds double precision) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE coupon.slot_plan p SET left_at = NULL, due_at = clock_timestamp() + make_interval(secs => $1) WHERE p.left_at IS NOT NULL;
	UPDATE coupon.slot s SET leaving = NULL WHERE s.leaving IS NOT NULL;
END
$$;
COMMENT ON FUNCTION coupon.slots_stay(double precision) IS 'Slots that were about to leave are served again, and may move after so many seconds.';

CREATE FUNCTION coupon.slots_next(OUT receiver smallint, OUT slots smallint[]) RETURNS record
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	alone text := coupon.campaigns_alone();
BEGIN
	DELETE FROM coupon.slot_plan p USING coupon.slot s WHERE s.slot = p.slot AND s.node_id IS DISTINCT FROM self;
	-- a node that is drained meanwhile gets no more
	DELETE FROM coupon.slot_plan p WHERE p.left_at IS NULL AND NOT EXISTS (SELECT FROM coupon.node n WHERE n.node_id = p.receiver AND n.state = 'active');
	-- one that is made after the plan, too
	IF alone IS NOT NULL THEN
		UPDATE coupon.slot_plan p SET due_at = clock_timestamp() + interval '5 s';
		RAISE WARNING USING
			MESSAGE = 'slots cannot move now',
			DETAIL = format('Other nodes do not know campaign %s.', alone),
			HINT = 'Share it with coupon_campaign_share(), or archive it.';
		RETURN;
	END IF;
	SELECT p.receiver INTO receiver FROM coupon.slot_plan p WHERE p.due_at <= clock_timestamp() ORDER BY p.due_at, p.slot LIMIT 1;
	-- as many as move within a part of a second, one at least
	SELECT array_agg(w.slot ORDER BY w.slot) INTO slots
	  FROM (SELECT p.slot, sum(p.rows + 50) OVER (ORDER BY p.due_at, p.slot) AS cost, row_number() OVER (ORDER BY p.due_at, p.slot) AS place
	          FROM coupon.slot_plan p WHERE p.receiver = slots_next.receiver AND p.due_at <= clock_timestamp()) w
	 WHERE w.cost <= 4000 OR w.place = 1;
END
$$;
COMMENT ON FUNCTION coupon.slots_next() IS 'Which slots are to leave next, all to one node; null: none.';

CREATE FUNCTION coupon.slots_leave(slots smallint[], receiver smallint) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE coupon.slot s SET leaving = $2
	 WHERE s.slot = ANY ($1) AND s.node_id = (SELECT f.node_id FROM coupon.node_self f) AND s.leaving IS NULL;
	UPDATE coupon.slot_plan p SET left_at = clock_timestamp() WHERE p.slot = ANY ($1);
END
$$;
COMMENT ON FUNCTION coupon.slots_leave(smallint[], smallint) IS 'Step 1: users of these slots are told to come again.';

CREATE FUNCTION coupon.slots_hindered(slots smallint[]) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET lock_timeout = '300ms'
AS $$
BEGIN
	BEGIN
		PERFORM coupon.slots_settle();
	EXCEPTION WHEN lock_not_available THEN
		RETURN 'a transaction of one of its users goes on';
	END;
	IF EXISTS (SELECT FROM coupon.request r WHERE r.decided_at IS NULL AND coupon.slot_of(r.user_id) = ANY ($1)) THEN
		RETURN 'requests of its users wait';
	ELSIF coupon.campaigns_alone() IS NOT NULL THEN
		RETURN 'a campaign is known to this node only';
	ELSIF EXISTS (SELECT FROM coupon.campaign c WHERE c.campaign_id >= 1000000000 AND coupon.slot_of('campaign ' || c.campaign_id) = ANY ($1)) THEN
		RETURN 'a campaign has its home there';
	-- a user's events come from one node after the other, in their order
	ELSIF coupon.has_broker() AND EXISTS (SELECT FROM coupon.outbox o WHERE coupon.slot_of(o.key) = ANY ($1)) THEN
		RETURN 'events of its users are not published';
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION coupon.slots_hindered(smallint[]) IS 'Why slots that are leaving cannot go now; null: they can, and nobody is at work for them.';

CREATE FUNCTION coupon.slots_give() RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET lock_timeout = '300ms'
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	parcel uuid := gen_random_uuid();
	receiver smallint;
	moving smallint[];
	versions jsonb;
	hindrance text;
	issuances jsonb;
	campaigns jsonb := '[]';
	c record;
BEGIN
	SELECT min(s.leaving), array_agg(s.slot ORDER BY s.slot), jsonb_agg(jsonb_build_array(s.slot, s.version + 1) ORDER BY s.slot)
	  INTO receiver, moving, versions
	  FROM coupon.slot s WHERE s.node_id = self AND s.leaving IS NOT NULL;
	IF moving IS NULL THEN
		RETURN NULL;
	END IF;
	hindrance := coupon.slots_hindered(moving);
	IF hindrance IS NOT NULL THEN
		IF EXISTS (SELECT FROM coupon.slot_plan p WHERE p.left_at > clock_timestamp() - interval '500 ms') THEN
			RETURN 'waiting: ' || hindrance;
		END IF;
		PERFORM coupon.slots_stay(1 + 2 * random());
		RETURN 'staying: ' || hindrance;
	END IF;

	PERFORM coupon.transfer_commits();
	-- who takes a hold that has run out away is waited for
	SELECT jsonb_agg(to_jsonb(i) - 'shard' ORDER BY i.campaign_id, i.serial) INTO issuances
	  FROM (SELECT x.* FROM coupon.issuance x
	         WHERE coupon.slot_of(x.user_id) = ANY (moving) AND x.campaign_id < 1000000000
	           -- rows of one that ends are taken away here
	           AND NOT EXISTS (SELECT FROM coupon.campaign e WHERE e.campaign_id = x.campaign_id AND e.archived_at IS NOT NULL)
	           FOR UPDATE OF x) i;
	FOR c IN SELECT r.campaign_id, range_agg(int8range(r.serial, r.serial, '[]')) AS serials
	           FROM jsonb_to_recordset(issuances) r(campaign_id bigint, serial bigint)
	          GROUP BY r.campaign_id ORDER BY r.campaign_id
	LOOP
		campaigns := campaigns || jsonb_build_object('definition', coupon.campaign_definition(c.campaign_id), 'transfer_id', gen_random_uuid(),
			'campaign_id', c.campaign_id, 'serials', c.serials, 'labels',
			(SELECT jsonb_agg(jsonb_build_array(u.serial, u.label)) FROM coupon.units_labelled(c.campaign_id, c.serials) u));
		INSERT INTO coupon.transfer (transfer_id, campaign_id, donor, receiver, serials, state, due_at)
		VALUES ((campaigns -> -1 ->> 'transfer_id')::uuid, c.campaign_id, self, receiver, c.serials, 'cut', 'infinity');
		PERFORM coupon.units_leave(c.campaign_id, coupon.ranges_of(c.serials));
	END LOOP;

	WITH lapsed AS (DELETE FROM coupon.lapsed_hold x WHERE coupon.slot_of(x.user_id) = ANY (moving) AND x.campaign_id < 1000000000 RETURNING x.*),
	keys AS (DELETE FROM coupon.request_key x WHERE coupon.slot_of(x.user_id) = ANY (moving) AND x.campaign_id < 1000000000 RETURNING x.*),
	guests AS (DELETE FROM coupon.room_guest x WHERE coupon.slot_of(x.user_id) = ANY (moving) RETURNING x.*),
	refusals AS (DELETE FROM coupon.refusal x WHERE coupon.slot_of(x.user_id) = ANY (moving) AND x.campaign_id < 1000000000 RETURNING x.*)
	INSERT INTO coupon.slot_parcel (parcel_id, donor, receiver, slots, state, due_at, content)
	SELECT parcel, self, receiver, moving, 'sent', clock_timestamp(), jsonb_build_object(
		'parcel_id', parcel, 'donor', self, 'receiver', receiver, 'slots', versions, 'campaigns', campaigns,
		'issuances', coalesce(issuances, '[]'),
		'lapsed', coalesce((SELECT jsonb_agg(to_jsonb(x)) FROM lapsed x), '[]'),
		'keys', coalesce((SELECT jsonb_agg(to_jsonb(x)) FROM keys x), '[]'),
		'refusals', coalesce((SELECT jsonb_agg(to_jsonb(x)) FROM refusals x), '[]'),
		'guests', coalesce((SELECT jsonb_agg(to_jsonb(x)) FROM guests x), '[]'));
	UPDATE coupon.slot s SET node_id = s.leaving, version = s.version + 1, leaving = NULL WHERE s.slot = ANY (moving);
	DELETE FROM coupon.slot_plan p WHERE p.slot = ANY (moving);
	RETURN 'given';
END
$$;
COMMENT ON FUNCTION coupon.slots_give() IS 'Step 2: puts all that users of the leaving slots have into a parcel, and gives the slots away; or keeps them.';

CREATE FUNCTION coupon.slots_done(parcel_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM coupon.transfer_commits();
	UPDATE coupon.transfer t SET state = 'done'
	  FROM coupon.slot_parcel p, jsonb_array_elements(p.content -> 'campaigns') c
	 WHERE p.parcel_id = $1 AND p.state = 'sent' AND t.transfer_id = (c ->> 'transfer_id')::uuid AND t.state = 'cut';
	UPDATE coupon.slot_parcel p SET state = 'done', content = NULL, problem = NULL WHERE p.parcel_id = $1 AND p.state = 'sent';
END
$$;
COMMENT ON FUNCTION coupon.slots_done(uuid) IS 'Step 3, at the donor: the receiver has the parcel.';

-- ---- at the receiver ----

CREATE FUNCTION coupon.parcel_unpack(content jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, expires_at, user_id, state, policy, redeemed_at, order_ref, held_until, confirm_ref)
	SELECT i.campaign_id, i.serial, coupon.shard_of(i.campaign_id, i.serial), i.nth, i.issued_at, i.expires_at, i.user_id, i.state, i.policy,
	       i.redeemed_at, i.order_ref, i.held_until, i.confirm_ref
	  FROM jsonb_populate_recordset(NULL::coupon.issuance, $1 -> 'issuances') i;
	INSERT INTO coupon.lapsed_hold SELECT l.* FROM jsonb_populate_recordset(NULL::coupon.lapsed_hold, $1 -> 'lapsed') l;
	INSERT INTO coupon.request_key SELECT k.* FROM jsonb_populate_recordset(NULL::coupon.request_key, $1 -> 'keys') k;
	INSERT INTO coupon.room_guest SELECT g.* FROM jsonb_populate_recordset(NULL::coupon.room_guest, $1 -> 'guests') g
	ON CONFLICT ON CONSTRAINT room_guest_pkey DO NOTHING;
	INSERT INTO coupon.refusal SELECT r.* FROM jsonb_populate_recordset(NULL::coupon.refusal, $1 -> 'refusals') r
	 WHERE EXISTS (SELECT FROM coupon.campaign x WHERE x.campaign_id = r.campaign_id)
	ON CONFLICT ON CONSTRAINT refusal_pkey DO NOTHING;
END
$$;
COMMENT ON FUNCTION coupon.parcel_unpack(jsonb) IS 'Puts the rows of users of a parcel into the tables.';

CREATE FUNCTION coupon.slots_accept(parcel jsonb) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	ours smallint[];
	n integer;
	c record;
BEGIN
	PERFORM coupon.transfer_commits();
	PERFORM coupon.receiver_check(($1 ->> 'donor')::smallint, ($1 ->> 'receiver')::smallint);
	SELECT array_agg((r ->> 0)::smallint) INTO ours FROM jsonb_array_elements($1 -> 'slots') r;
	-- the same parcel again waits here for the first one
	INSERT INTO coupon.slot_parcel (parcel_id, donor, receiver, slots, state, due_at)
	VALUES (($1 ->> 'parcel_id')::uuid, ($1 ->> 'donor')::smallint, self, ours, 'received', 'infinity')
	ON CONFLICT ON CONSTRAINT slot_parcel_pkey DO NOTHING;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	UPDATE coupon.slot s SET node_id = self, version = (r ->> 1)::bigint, leaving = NULL
	  FROM jsonb_array_elements($1 -> 'slots') r
	 WHERE s.slot = (r ->> 0)::smallint AND s.version < (r ->> 1)::bigint;
	GET DIAGNOSTICS n = ROW_COUNT;
	IF n <> cardinality(ours) THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'slots were given away by a node that does not have them',
			DETAIL = format('Of the %s slots of parcel %s this node knows %s otherwise.', cardinality(ours), $1 ->> 'parcel_id', cardinality(ours) - n),
			HINT = 'Compare coupon.slot of the nodes.';
	END IF;

	FOR c IN SELECT r.* FROM jsonb_to_recordset($1 -> 'campaigns')
	                    r(campaign_id bigint, definition jsonb, transfer_id uuid, serials int8multirange, labels jsonb)
	LOOP
		PERFORM coupon.campaign_define(c.definition);
		INSERT INTO coupon.transfer (transfer_id, campaign_id, donor, receiver, serials, state, due_at)
		VALUES (c.transfer_id, c.campaign_id, ($1 ->> 'donor')::smallint, self, c.serials, 'settled', 'infinity');
		PERFORM coupon.units_arrive(c.campaign_id, coupon.ranges_of(c.serials), (c.definition ->> 'last_serial')::bigint, false);
		INSERT INTO coupon.unit (campaign_id, serial, label)
		SELECT c.campaign_id, (l ->> 0)::bigint, l ->> 1 FROM jsonb_array_elements(nullif(c.labels, 'null')) l
		ON CONFLICT ON CONSTRAINT unit_pkey DO NOTHING;
	END LOOP;
	PERFORM coupon.parcel_unpack($1);
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.slots_accept(jsonb) IS 'Step 3, at the receiver: takes slots in with all that their users have, once.';

-- ---- at the donor, when the receiver has left the sale ----

CREATE FUNCTION coupon.slots_back(p coupon.slot_parcel) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	asked integer := 0;
	ours smallint[];
	nowhere jsonb := '{}';
	rest jsonb;
	r record;
BEGIN
	-- the receiver may have taken the parcel in, and given some of its slots on
	FOR r IN SELECT * FROM coupon.peers_call('hello', jsonb_build_object('map', coupon.map_here()))
	LOOP
		IF r.answer IS NULL THEN
			RETURN false;
		END IF;
		PERFORM coupon.learn_map(r.answer -> 'map');
		asked := asked + 1;
	END LOOP;
	IF asked <> (SELECT count(*) FROM coupon.node n WHERE n.state <> 'gone' AND n.node_id <> self) THEN
		RETURN false;
	END IF;
	FOR r IN SELECT x.* FROM jsonb_to_recordset($1.content -> 'campaigns') x(campaign_id bigint, serials int8multirange)
	LOOP
		nowhere := nowhere || jsonb_build_object(r.campaign_id, coupon.units_nowhere(r.campaign_id, r.serials));
		IF nowhere ->> r.campaign_id::text IS NULL THEN
			RETURN false;
		END IF;
	END LOOP;
	PERFORM coupon.transfer_commits();
	WITH back AS (
		UPDATE coupon.slot s SET node_id = self, version = s.version + 1
		  FROM jsonb_array_elements($1.content -> 'slots') x
		 WHERE s.slot = (x ->> 0)::smallint AND s.version = (x ->> 1)::bigint AND s.node_id = $1.receiver
		RETURNING s.slot)
	SELECT coalesce(array_agg(b.slot), '{}') INTO ours FROM back b;
	-- of users whose slots went on, and of units that are elsewhere, the rows are there
	SELECT jsonb_object_agg(k, (
			SELECT coalesce(jsonb_agg(e), '[]') FROM jsonb_array_elements($1.content -> k) e
			 WHERE coupon.slot_of(e ->> 'user_id') = ANY (ours)
			   AND (k <> 'issuances' OR (e ->> 'serial')::bigint <@ (nowhere ->> (e ->> 'campaign_id'))::int8multirange)))
	  INTO rest FROM unnest('{issuances,lapsed,keys,guests,refusals}'::text[]) k;
	FOR r IN SELECT n.key::bigint AS campaign_id, n.value::int8multirange AS serials, coalesce(
	                (SELECT range_agg(int8range(i.serial, i.serial, '[]')) FROM jsonb_to_recordset(rest -> 'issuances') i(campaign_id bigint, serial bigint)
	                  WHERE i.campaign_id = n.key::bigint), '{}') AS taken
	           FROM jsonb_each_text(nowhere) n ORDER BY 1
	LOOP
		PERFORM coupon.units_arrive(r.campaign_id, coupon.ranges_of(r.taken), 0, false);
		PERFORM coupon.units_arrive(r.campaign_id, coupon.ranges_of(r.serials - r.taken), 0, true);
	END LOOP;
	PERFORM coupon.parcel_unpack(rest);
	PERFORM coupon.slots_done($1.parcel_id);
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.slots_back(coupon.slot_parcel) IS
	'Takes back a parcel that was for a node which has left, but for what that one had given on; false: not all nodes say yet what they have.';

CREATE FUNCTION coupon.slots_restore(maps jsonb, sent jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
BEGIN
	-- what is on its way to this node comes by itself
	UPDATE coupon.slot s SET node_id = self, version = m.version, leaving = NULL
	  FROM (SELECT DISTINCT ON (x.m -> 0) (x.m ->> 0)::smallint AS slot, (x.m ->> 1)::smallint AS node_id, (x.m ->> 2)::bigint AS version
	          FROM jsonb_array_elements($1) x(m) ORDER BY x.m -> 0, (x.m ->> 2)::bigint DESC) m
	 WHERE m.slot = s.slot AND m.node_id = self AND s.version < m.version
	   AND NOT EXISTS (SELECT FROM jsonb_array_elements($2) y(slot) WHERE y.slot::smallint = s.slot);
	-- users who had gone away with all that they have
	DELETE FROM coupon.lapsed_hold x USING coupon.slot s WHERE s.slot = coupon.slot_of(x.user_id) AND s.node_id <> self AND x.campaign_id < 1000000000;
	DELETE FROM coupon.request_key x USING coupon.slot s WHERE s.slot = coupon.slot_of(x.user_id) AND s.node_id <> self AND x.campaign_id < 1000000000;
	DELETE FROM coupon.room_guest x USING coupon.slot s WHERE s.slot = coupon.slot_of(x.user_id) AND s.node_id <> self;
	DELETE FROM coupon.refusal x USING coupon.slot s WHERE s.slot = coupon.slot_of(x.user_id) AND s.node_id <> self AND x.campaign_id < 1000000000;
END
$$;
COMMENT ON FUNCTION coupon.slots_restore(jsonb, jsonb) IS
	'Makes up for slots of which this server does not know that they came to the one that it has replaced, or left it. What users of the first had is lost; their units came back as free ones.';

-- ---- the worker ----

CREATE FUNCTION coupon.slots_work(may_begin boolean) RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	p coupon.slot_parcel;
	next record;
	done boolean;
	reason text;
BEGIN
	SELECT * INTO p FROM coupon.slot_parcel x WHERE x.state = 'sent' AND x.due_at <= clock_timestamp() ORDER BY x.due_at LIMIT 1;
	IF p.parcel_id IS NOT NULL AND EXISTS (SELECT FROM coupon.node n WHERE n.node_id = p.receiver AND n.state = 'gone') THEN
		BEGIN
			done := coupon.slots_back(p);
			reason := 'the node has left, and not all others say what they have';
		EXCEPTION WHEN OTHERS THEN
			-- the rest goes on
			done := false;
			reason := SQLERRM;
			RAISE WARNING USING MESSAGE = 'slots could not be taken back', DETAIL = reason;
		END;
		IF done THEN
			PERFORM coupon.peers_try('map', jsonb_build_object('map', coupon.map_here()));
		ELSE
			UPDATE coupon.slot_parcel x SET due_at = clock_timestamp() + interval '1 s', problem = reason WHERE x.parcel_id = p.parcel_id;
		END IF;
		RETURN 0;
	ELSIF p.parcel_id IS NOT NULL THEN
		SELECT c.answer IS NOT NULL, c.error INTO done, reason FROM coupon.peers_try('slots', jsonb_build_object('parcel', p.content), p.receiver) c;
		IF done THEN
			PERFORM coupon.slots_done(p.parcel_id);
			-- so that the others send nobody here; who is not told now asks later
			PERFORM coupon.peers_try('map', jsonb_build_object('map', coupon.map_here()));
		ELSE
			UPDATE coupon.slot_parcel x SET due_at = clock_timestamp() + interval '200 ms', problem = coalesce(reason, 'the receiver is not known') WHERE x.parcel_id = p.parcel_id;
			-- the receiver's fault, and not that it cannot now
			IF reason ~ '^[0-9A-Z]{5}: ' AND reason !~ '^(08|40|53|55|57|58)' THEN
				UPDATE coupon.slot_parcel x SET due_at = clock_timestamp() + interval '2 s' WHERE x.parcel_id = p.parcel_id;
				RAISE WARNING USING
					MESSAGE = format('node %s does not take slots', p.receiver),
					DETAIL = format('Parcel %s: %s', p.parcel_id, reason),
					HINT = 'Their users are served once it does: the parcel is sent again and again.';
			END IF;
		END IF;
		RETURN 0;
	END IF;
	IF EXISTS (SELECT FROM coupon.slot s WHERE s.leaving IS NOT NULL) THEN
		BEGIN
			RETURN CASE WHEN coupon.slots_give() LIKE 'waiting%' THEN 10 ELSE 0 END;
		EXCEPTION WHEN OTHERS THEN
			-- a hold that ran out in this moment is no reason to stay
			IF EXISTS (SELECT FROM coupon.slot_plan x WHERE x.left_at > clock_timestamp() - interval '500 ms') THEN
				RETURN 10;
			END IF;
			PERFORM coupon.slots_stay(5);
			RAISE WARNING USING MESSAGE = 'slots could not be given away, and stay', DETAIL = SQLERRM;
			RETURN 0;
		END;
	END IF;
	IF NOT $1 OR NOT EXISTS (SELECT FROM coupon.slot_plan x WHERE x.due_at <= clock_timestamp()) THEN
		RETURN NULL;
	END IF;
	SELECT * INTO next FROM coupon.slots_next();
	IF next.slots IS NULL THEN
		RETURN NULL;
	END IF;
	SELECT c.answer IS NOT NULL INTO done FROM coupon.peers_try('map', jsonb_build_object('map', coupon.map_here()), next.receiver) c;
	IF done THEN
		PERFORM coupon.slots_leave(next.slots, next.receiver);
	ELSE
		UPDATE coupon.slot_plan x SET due_at = clock_timestamp() + interval '1 s' WHERE x.receiver = next.receiver;
	END IF;
	RETURN 0;
END
$$;
COMMENT ON FUNCTION coupon.slots_work(boolean) IS 'One step of the moving of slots, of the transfer worker. Returns after how many milliseconds there may be another one; null: there is nothing to do.';

CREATE FUNCTION coupon.cluster_all_due() RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE coupon.transfer t SET due_at = clock_timestamp()
	 WHERE t.state IN ('cut', 'received') AND t.due_at > clock_timestamp() AND t.due_at < 'infinity';
	UPDATE coupon.slot_parcel p SET due_at = clock_timestamp() WHERE p.state = 'sent' AND p.due_at > clock_timestamp();
	UPDATE coupon.slot_plan p SET due_at = least(p.due_at, clock_timestamp()), left_at = least(p.left_at, clock_timestamp())
	 WHERE p.due_at > clock_timestamp() OR p.left_at > clock_timestamp();
	UPDATE coupon.campaign_copy c SET due_at = clock_timestamp() WHERE c.due_at > clock_timestamp();
	UPDATE coupon.node_copy c SET due_at = clock_timestamp() WHERE c.due_at > clock_timestamp();
$$;
COMMENT ON FUNCTION coupon.cluster_all_due() IS 'The clock was set back: what was to be done again in a moment would wait until it has caught up.';
