-- What the nodes know of each other is told to all of them, until they have said that they
-- know the same: a node that is drained, has left, has come, or has another address; and the
-- keys of rooms. When all know it nothing is said.

-- plpgsql, which keeps its plans: each node asks ten times a second
CREATE FUNCTION coupon.map_digest() RETURNS text
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN md5(concat_ws(E'\n', (SELECT string_agg(to_jsonb(n)::text, E'\n' ORDER BY n.node_id) FROM coupon.node n),
		(SELECT max(k.key_id) FROM coupon.room_key k WHERE k.signs)));
END
$$;
COMMENT ON FUNCTION coupon.map_digest() IS 'The same at two nodes that know the same of coupon.node, and have the same newest key of rooms.';

CREATE FUNCTION coupon.keys_after(key_id integer) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT coalesce(jsonb_agg(to_jsonb(k) ORDER BY k.key_id), '[]') FROM coupon.room_key k WHERE k.signs AND k.key_id > coalesce($1, 0) $$;
COMMENT ON FUNCTION coupon.keys_after(integer) IS 'The keys of rooms that are newer than that one, for a node that lacks them.';

CREATE FUNCTION coupon.map_note(node_id smallint, digest text) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO coupon.node_copy AS k (node_id, digest, due_at) VALUES ($1, $2, clock_timestamp() + interval '1 second')
	ON CONFLICT ON CONSTRAINT node_copy_pkey DO UPDATE SET digest = excluded.digest, due_at = excluded.due_at
$$;
COMMENT ON FUNCTION coupon.map_note(smallint, text) IS 'Notes what another node knows; null: not the same as this one.';

CREATE FUNCTION coupon.call_map(argument jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	digest text;
BEGIN
	PERFORM coupon.learn_map($1 -> 'map');
	IF NOT $1 ? 'digest' THEN
		RETURN '{}';
	END IF;
	digest := coupon.map_digest();
	IF digest = $1 ->> 'digest' THEN
		PERFORM coupon.map_note(($1 ->> 'from')::smallint, digest);
		RETURN jsonb_build_object('digest', digest);
	END IF;
	RETURN jsonb_build_object('digest', digest, 'map', coupon.map_here(), 'keys', coupon.keys_after(($1 ->> 'key')::integer));
END
$$;
COMMENT ON FUNCTION coupon.call_map(jsonb) IS 'Another node tells what it knows, and is told what it lacks.';

CREATE FUNCTION coupon.map_spread() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	known text := coupon.map_digest();
	other smallint;
	told jsonb;
BEGIN
	SELECT n.node_id INTO other
	  FROM coupon.node n LEFT JOIN coupon.node_copy k ON k.node_id = n.node_id
	 WHERE n.node_id <> (SELECT s.node_id FROM coupon.node_self s) AND n.state <> 'gone'
	   -- at once what has changed; again what has failed, until it answers
	   AND (k.digest <> known OR (k.digest IS NULL OR k.problem IS NOT NULL) AND coalesce(k.due_at, '-infinity') <= clock_timestamp())
	 ORDER BY k.due_at NULLS FIRST LIMIT 1;
	IF other IS NULL THEN
		RETURN false;
	END IF;
	SELECT c.answer INTO told
	  FROM coupon.peers_try('map', jsonb_build_object('map', coupon.map_here(), 'digest', known,
	           'key', (SELECT max(k.key_id) FROM coupon.room_key k WHERE k.signs)), other) c;
	IF told ? 'map' THEN
		PERFORM coupon.learn_map(told -> 'map');
		PERFORM coupon.room_key_put(k) FROM jsonb_array_elements(told -> 'keys') k;
		known := coupon.map_digest();
	END IF;
	PERFORM coupon.map_note(other, CASE WHEN told ->> 'digest' = known THEN known END);
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.map_spread() IS 'Tells a node that does not know the same as this one; again after a second, if that has not helped.';

CREATE FUNCTION @extschema@.coupon_node_address(node_id integer, conninfo text, http_url text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM coupon.cluster_require();
	PERFORM coupon.node_check($1, 'node', $2, $3);
	UPDATE coupon.node n SET conninfo = $2, http_url = $3, version = n.version + 1
	 WHERE n.node_id = $1 AND n.state <> 'gone';
	IF NOT FOUND THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'there is no such node',
			DETAIL = format('Node %s is not known, or has left.', $1),
			HINT = 'coupon.node_status lists the nodes.';
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_node_address(integer, text, text) IS
	'Says how a node is reached from now on; the other nodes are told. Call it at any node.';
