-- A sale on several nodes: which slots there are, and who has them.

CREATE FUNCTION @extschema@.coupon_slot(user_id USER_TYPE) RETURNS integer
LANGUAGE c STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_slot_USER_TYPE';
COMMENT ON FUNCTION @extschema@.coupon_slot(USER_TYPE) IS
	'The slot of a user, 0 to 1023: bits 16 to 25 of the CRC-32 of the id as text. It never changes.';

CREATE FUNCTION @extschema@.coupon_home(campaign_id bigint, user_id USER_TYPE) RETURNS integer
LANGUAGE c STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_home_USER_TYPE';
COMMENT ON FUNCTION @extschema@.coupon_home(bigint, USER_TYPE) IS
	'The slot that decides on which node a user of a campaign has their home: the user''s, or the campaign''s if its id is 1000000000 or more.';

CREATE TABLE coupon.node (
	node_id  smallint PRIMARY KEY CHECK (node_id BETWEEN 1 AND 64),
	name     text COLLATE "C" NOT NULL UNIQUE CHECK (pg_catalog.octet_length(name) BETWEEN 1 AND 64),
	conninfo text NOT NULL,
	http_url text,
	state    text COLLATE "C" NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'draining', 'gone')),
	version  bigint NOT NULL DEFAULT 1
);
COMMENT ON TABLE coupon.node IS 'The nodes of the sale, as far as this one knows. Empty on a server that is no node.';
COMMENT ON COLUMN coupon.node.node_id IS 'The node''s number. It is never given to another server.';
COMMENT ON COLUMN coupon.node.name IS 'A name for people.';
COMMENT ON COLUMN coupon.node.conninfo IS 'How proxies and other nodes connect to it, without a password.';
COMMENT ON COLUMN coupon.node.http_url IS 'Where its front listens, as http://10.0.0.1:8080; null: it has none.';
COMMENT ON COLUMN coupon.node.state IS 'active, draining: it is to get no more slots, gone: it has left.';
COMMENT ON COLUMN coupon.node.version IS 'The higher one of two versions of the row is true.';

CREATE TABLE coupon.slot (
	slot    smallint PRIMARY KEY CHECK (slot BETWEEN 0 AND 1023),
	node_id smallint NOT NULL,
	version bigint NOT NULL,
	leaving smallint
);
COMMENT ON TABLE coupon.slot IS 'Who has each slot, as far as this node knows. Only who has one gives it away, and only who receives it makes itself its owner.';
COMMENT ON COLUMN coupon.slot.slot IS 'The slot, see coupon_slot().';
COMMENT ON COLUMN coupon.slot.node_id IS 'The node that has it, or to which it is on its way.';
COMMENT ON COLUMN coupon.slot.version IS 'How often it has been given away. The higher one of two versions is true.';
COMMENT ON COLUMN coupon.slot.leaving IS 'The node that it is about to be given to: calls for it are refused. Null: it stays.';

CREATE TABLE coupon.node_self (
	node_id smallint NOT NULL CHECK (node_id BETWEEN 1 AND 64),
	is_self boolean NOT NULL DEFAULT true PRIMARY KEY CHECK (is_self)
);
COMMENT ON TABLE coupon.node_self IS 'Which node this server is: one row, or none.';
COMMENT ON COLUMN coupon.node_self.node_id IS 'Its number in coupon.node.';
COMMENT ON COLUMN coupon.node_self.is_self IS 'True, so that there is one row at most.';

CREATE TABLE coupon.node_copy (
	node_id smallint PRIMARY KEY,
	digest  text,
	due_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	problem text,
	since   timestamptz
);
COMMENT ON TABLE coupon.node_copy IS 'What the other nodes are known to know of coupon.node, and whether they answer.';
COMMENT ON COLUMN coupon.node_copy.node_id IS 'The node.';
COMMENT ON COLUMN coupon.node_copy.digest IS 'What it knew when this node heard of it last, see coupon.map_digest(); null: something else.';
COMMENT ON COLUMN coupon.node_copy.due_at IS 'When it is told again, if it has not answered.';
COMMENT ON COLUMN coupon.node_copy.problem IS 'Why the transfer worker got no answer, when it began to get none; null: it got one when it asked last.';
COMMENT ON COLUMN coupon.node_copy.since IS 'Since when.';

CREATE FUNCTION coupon.node_changed() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'coupon_node_changed';
COMMENT ON FUNCTION coupon.node_changed() IS 'Trigger: has all sessions read the map again once a change commits.';

CREATE TRIGGER node_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.slot
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.node_changed();
CREATE TRIGGER node_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.node_self
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.node_changed();
ALTER TABLE coupon.slot ENABLE ALWAYS TRIGGER node_changed;
ALTER TABLE coupon.node_self ENABLE ALWAYS TRIGGER node_changed;

CREATE FUNCTION coupon.slots_settle() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_slots_settle';
COMMENT ON FUNCTION coupon.slots_settle() IS 'Waits for the end of all transactions that asked whether a slot is here, at most for lock_timeout.';

CREATE FUNCTION @extschema@.coupon_node_self() RETURNS integer
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT s.node_id::integer FROM coupon.node_self s $$;
COMMENT ON FUNCTION @extschema@.coupon_node_self() IS 'Which node this server is; null: none.';

CREATE FUNCTION coupon.node_check(node_id integer, name text, conninfo text, http_url text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	problem text;
	hint text;
BEGIN
	CASE
		WHEN $1 IS NULL OR $1 NOT BETWEEN 1 AND 64 THEN
			problem := 'node_id'; hint := 'Use 1 to 64, and a number that no server of the sale has had before.';
		WHEN $2 IS NULL OR octet_length($2) NOT BETWEEN 1 AND 64 THEN
			problem := 'name'; hint := 'Use 1 to 64 bytes.';
		WHEN $3 IS NULL OR octet_length($3) NOT BETWEEN 1 AND 1024 THEN
			problem := 'conninfo'; hint := 'Use a connection string of 1 to 1024 bytes, as host=10.0.0.1 dbname=sale.';
		WHEN $3 ~* 'password[[:space:]]*=' OR $3 ~ '://[^/@]*:[^/@]*@' THEN
			problem := 'conninfo'; hint := 'Put the password into the .pgpass of those who connect: this string is shown.';
		WHEN $4 IS NOT NULL AND ($4 !~ '^https?://[^/[:space:];"]+$' OR octet_length($4) > 256) THEN
			problem := 'http_url'; hint := 'Use a URL without a path, as http://10.0.0.1:8080, or null.';
		ELSE
	END CASE;
	IF problem IS NOT NULL THEN
		RAISE invalid_parameter_value USING
			MESSAGE = format('invalid %s of a node', problem),
			DETAIL = format('Node %s, name %s.', coalesce($1::text, 'null'), coalesce(quote_literal(left($2, 32)), 'null')),
			HINT = hint;
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.node_check(integer, text, text, text) IS 'Refuses what cannot be a node.';

CREATE FUNCTION coupon.node_become(node_id integer, name text, conninfo text, http_url text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	already integer;
BEGIN
	PERFORM coupon.node_check($1, $2, $3, $4);
	LOCK TABLE coupon.node_self IN SHARE ROW EXCLUSIVE MODE;
	SELECT s.node_id INTO already FROM coupon.node_self s;
	IF already IS NOT NULL THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'this server is a node already',
			DETAIL = format('It is node %s.', already),
			HINT = 'coupon.node_status lists the nodes.';
	END IF;
	INSERT INTO coupon.node (node_id, name, conninfo, http_url) VALUES ($1, $2, $3, $4);
	INSERT INTO coupon.node_self (node_id) VALUES ($1);
END
$$;
COMMENT ON FUNCTION coupon.node_become(integer, text, text, text) IS 'Makes this server a node, which has no slots yet.';

CREATE FUNCTION coupon.node_number() RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
BEGIN
	EXECUTE format('ALTER SEQUENCE coupon.campaign_campaign_id_seq INCREMENT BY 64 RESTART WITH %s',
		(SELECT ((greatest(max(c.campaign_id) FILTER (WHERE c.campaign_id < 1000000000), CASE WHEN q.is_called THEN q.last_value END, 0) + 63) / 64) * 64 + self
		   FROM coupon.campaign_campaign_id_seq q LEFT JOIN coupon.campaign c ON true GROUP BY q.is_called, q.last_value));
	EXECUTE format('ALTER SEQUENCE coupon.room_room_id_seq INCREMENT BY 64 RESTART WITH %s',
		(SELECT ((greatest(max(r.room_id), CASE WHEN q.is_called THEN q.last_value END, 0) + 63) / 64) * 64 + self
		   FROM coupon.room_room_id_seq q LEFT JOIN coupon.room r ON true GROUP BY q.is_called, q.last_value));
END
$$;
COMMENT ON FUNCTION coupon.node_number() IS 'From here on this node gives campaigns and rooms numbers that no other node gives.';

CREATE FUNCTION @extschema@.coupon_node_found(node_id integer, name text, conninfo text, http_url text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM coupon.node_become($1, $2, $3, $4);
	PERFORM coupon.node_number();
	INSERT INTO coupon.slot (slot, node_id, version)
	SELECT s::smallint, $1::smallint, 1 FROM generate_series(0, 1023) s;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_node_found(integer, text, text, text) IS
	'Makes this server the first node of a sale, which has all slots: its users stay where they are.';

CREATE FUNCTION coupon.learn_map(map jsonb) RETURNS integer
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := coupon.cluster_require();
	n integer;
	changed integer;
BEGIN
	IF (jsonb_typeof($1 -> 'nodes') = 'array' AND jsonb_typeof($1 -> 'slots') = 'array') IS NOT TRUE THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'this is no map',
			DETAIL = 'It has no arrays nodes and slots.',
			HINT = 'Pass what coupon_node_map() of another node returns.';
	END IF;
	INSERT INTO coupon.node AS o (node_id, name, conninfo, http_url, state, version)
	SELECT r.node_id, r.name, r.conninfo, r.http_url, r.state, r.version
	  FROM jsonb_to_recordset($1 -> 'nodes') r(node_id smallint, name text, conninfo text, http_url text, state text, version bigint)
	 ORDER BY r.node_id
	ON CONFLICT ON CONSTRAINT node_pkey DO UPDATE
	   SET name = excluded.name, conninfo = excluded.conninfo, http_url = excluded.http_url,
	       state = excluded.state, version = excluded.version
	-- two changes at two nodes at the same time: all take the same one
	 WHERE (o.version, o.state COLLATE "C", o.conninfo COLLATE "C", coalesce(o.http_url, '') COLLATE "C", o.name)
	       < (excluded.version, excluded.state COLLATE "C", excluded.conninfo COLLATE "C", coalesce(excluded.http_url, '') COLLATE "C", excluded.name);
	GET DIAGNOSTICS changed = ROW_COUNT;
	-- A node that is told that it has a slot waits until the slot comes.  One that is told
	-- that another has what it took for its own gave it away, and has forgotten that.
	PERFORM 1 FROM coupon.slot s
	  JOIN jsonb_array_elements($1 -> 'slots') r ON s.slot = (r ->> 0)::smallint AND s.version < (r ->> 2)::bigint AND (r ->> 1)::smallint IS DISTINCT FROM self
	 ORDER BY s.slot FOR UPDATE OF s;
	WITH told AS (
		SELECT (r ->> 0)::smallint AS slot, (r ->> 1)::smallint AS node_id, (r ->> 2)::bigint AS version
		  FROM jsonb_array_elements($1 -> 'slots') r),
	news AS (
		SELECT t.* FROM told t LEFT JOIN coupon.slot s ON s.slot = t.slot
		 WHERE s.slot IS NULL OR s.version < t.version AND t.node_id IS DISTINCT FROM self)
	INSERT INTO coupon.slot AS s (slot, node_id, version)
	SELECT w.slot, w.node_id, w.version FROM news w
	ON CONFLICT ON CONSTRAINT slot_pkey DO UPDATE
	   SET node_id = excluded.node_id, version = excluded.version, leaving = NULL
	 WHERE s.version < excluded.version;
	GET DIAGNOSTICS n = ROW_COUNT;
	RETURN changed + n;
END
$$;
COMMENT ON FUNCTION coupon.learn_map(jsonb) IS 'coupon_node_learn() for those who have the right.';

CREATE FUNCTION @extschema@.coupon_node_join(node_id integer, name text, conninfo text, map jsonb, http_url text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF EXISTS (SELECT FROM coupon.issuance) OR EXISTS (SELECT FROM coupon.campaign) THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'a server that has campaigns cannot join',
			DETAIL = 'Its users have their home here already.',
			HINT = 'Join with a new database; campaigns and users come by themselves.';
	END IF;
	IF jsonb_typeof($4 -> 'nodes') = 'array'
	   AND EXISTS (SELECT FROM jsonb_array_elements($4 -> 'nodes') n WHERE (n ->> 'node_id')::integer = $1) THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'there is a node of that number',
			DETAIL = format('The map has node %s.', $1),
			HINT = 'Use a number that no server has had before.';
	END IF;
	PERFORM coupon.node_become($1, $2, $3, $5);
	PERFORM coupon.learn_map($4);
	-- what was made before there were nodes has numbers without gaps
	PERFORM setval('coupon.campaign_campaign_id_seq', ($4 -> 'numbers' ->> 'campaign')::bigint) WHERE ($4 -> 'numbers' ->> 'campaign')::bigint > 0;
	PERFORM setval('coupon.room_room_id_seq', ($4 -> 'numbers' ->> 'room')::bigint) WHERE ($4 -> 'numbers' ->> 'room')::bigint > 0;
	PERFORM coupon.node_number();
	IF (SELECT count(*) FROM coupon.slot) <> 1024 THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'this is no map',
			DETAIL = format('It tells of %s slots.', (SELECT count(*) FROM coupon.slot)),
			HINT = 'Pass what coupon_node_map() of another node returns.';
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_node_join(integer, text, text, jsonb, text) IS
	'Makes this server, which has sold nothing yet, a further node without slots. The map is what coupon_node_map() of another node returns.';

CREATE FUNCTION coupon.map_here() RETURNS jsonb
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object(
		'self', (SELECT s.node_id FROM coupon.node_self s),
		'nodes', coalesce((SELECT jsonb_agg(to_jsonb(n) ORDER BY n.node_id) FROM coupon.node n), '[]'),
		'slots', coalesce((SELECT jsonb_agg(jsonb_build_array(s.slot, s.node_id, s.version) ORDER BY s.slot) FROM coupon.slot s), '[]'),
		'numbers', CASE WHEN EXISTS (SELECT FROM coupon.node_self) THEN jsonb_build_object(
			'campaign', (SELECT coalesce(max(c.campaign_id), 0) FROM coupon.campaign c WHERE c.campaign_id < 1000000000),
			'room', (SELECT coalesce(max(r.room_id), 0) FROM coupon.room r)) END)
$$;
COMMENT ON FUNCTION coupon.map_here() IS 'coupon_node_map() for those who have the right.';

CREATE FUNCTION @extschema@.coupon_node_map() RETURNS jsonb
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT coupon.map_here() $$;
COMMENT ON FUNCTION @extschema@.coupon_node_map() IS
	'What this node knows of nodes and slots, for coupon_node_learn() of others and of proxies.';

CREATE FUNCTION @extschema@.coupon_node_learn(map jsonb) RETURNS integer
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT coupon.learn_map($1) $$;
COMMENT ON FUNCTION @extschema@.coupon_node_learn(jsonb) IS
	'Takes over what another node''s map knows better, by version; returns how many rows that changed. It never makes this node the owner of a slot.';
