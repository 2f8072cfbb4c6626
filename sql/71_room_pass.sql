-- Rooms on several nodes. A room is at one node, which admits people and gives each a pass: signed,
-- so that any node can check it alone. The node where the user has their home notes the guest, and
-- campaigns that require the room issue to them there.

CREATE TABLE coupon.room_key (
	key_id  integer PRIMARY KEY,
	inner_key bytea NOT NULL,
	outer_key bytea NOT NULL,
	signs   boolean NOT NULL,
	made_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE coupon.room_key IS 'The keys that passes are signed with, the same at all nodes. Nobody but a superuser reads them.';
COMMENT ON COLUMN coupon.room_key.key_id IS 'The key''s number: the newest one that signs is used.';
COMMENT ON COLUMN coupon.room_key.inner_key IS 'The secret, as HMAC-SHA256 begins its inner hash with it.';
COMMENT ON COLUMN coupon.room_key.outer_key IS 'The same of its outer hash.';
COMMENT ON COLUMN coupon.room_key.signs IS 'Whether all nodes have it, so that passes may be signed with it.';
COMMENT ON COLUMN coupon.room_key.made_at IS 'When it came to this node.';

CREATE TABLE coupon.room_guest (
	room_id bigint NOT NULL,
	user_id text COLLATE "C" NOT NULL,
	until   timestamptz NOT NULL,
	PRIMARY KEY (room_id, user_id)
);
CREATE INDEX room_guest_until_idx ON coupon.room_guest (until);
COMMENT ON TABLE coupon.room_guest IS 'Users who have shown the pass of a room of another node.';
COMMENT ON COLUMN coupon.room_guest.room_id IS 'The room.';
COMMENT ON COLUMN coupon.room_guest.user_id IS 'The user.';
COMMENT ON COLUMN coupon.room_guest.until IS 'When the pass ends.';

CREATE FUNCTION coupon.pass_signature(words text, key coupon.room_key) RETURNS text
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT encode(sha256($2.outer_key || sha256($2.inner_key || convert_to($1, 'UTF8'))), 'hex') $$;
COMMENT ON FUNCTION coupon.pass_signature(text, coupon.room_key) IS 'HMAC-SHA256.';

CREATE FUNCTION coupon.room_key_new(key_id integer) RETURNS coupon.room_key
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	secret bytea := sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
	             || sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
	inner_key bytea := secret;
	outer_key bytea := secret;
BEGIN
	FOR i IN 0 .. 63 LOOP
		inner_key := set_byte(inner_key, i, get_byte(secret, i) # 54);
		outer_key := set_byte(outer_key, i, get_byte(secret, i) # 92);
	END LOOP;
	RETURN ROW($1, inner_key, outer_key, false, clock_timestamp())::coupon.room_key;
END
$$;
COMMENT ON FUNCTION coupon.room_key_new(integer) IS 'A key of 64 random bytes.';

CREATE FUNCTION coupon.room_key_put(key jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	k coupon.room_key := jsonb_populate_record(NULL::coupon.room_key, $1);
BEGIN
	INSERT INTO coupon.room_key AS r (key_id, inner_key, outer_key, signs, made_at)
	VALUES (k.key_id, k.inner_key, k.outer_key, k.signs, clock_timestamp())
	-- a key of that number that not all nodes got is none
	ON CONFLICT ON CONSTRAINT room_key_pkey DO UPDATE SET inner_key = excluded.inner_key, outer_key = excluded.outer_key, signs = excluded.signs WHERE NOT r.signs;
	IF NOT EXISTS (SELECT FROM coupon.room_key r WHERE r.key_id = k.key_id AND r.inner_key = k.inner_key) THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'another key of that number is used',
			DETAIL = format('Key %s.', k.key_id),
			HINT = 'Call coupon_room_key_rotate() again, at one node.';
	END IF;
	-- passes of the one before are good as long as they last
	IF k.signs THEN
		DELETE FROM coupon.room_key r WHERE r.key_id < (SELECT max(x.key_id) FROM coupon.room_key x WHERE x.signs AND x.key_id < k.key_id);
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.room_key_put(jsonb) IS 'Notes a key, or that all nodes have it.';

CREATE FUNCTION @extschema@.coupon_room_key_rotate() RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	k coupon.room_key;
	missing text;
BEGIN
	PERFORM coupon.cluster_require();
	LOCK TABLE coupon.room_key IN SHARE ROW EXCLUSIVE MODE;
	k := coupon.room_key_new((SELECT coalesce(max(r.key_id), 0) + 1 FROM coupon.room_key r));
	SELECT string_agg(c.node_id || ': ' || coalesce(c.error, 'no answer'), ', ' ORDER BY c.node_id) INTO missing
	  FROM coupon.peers_call('room_key', jsonb_build_object('key', to_jsonb(k))) c WHERE c.answer IS NULL;
	IF missing IS NOT NULL THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'not all nodes have the new key',
			DETAIL = format('Node %s.', left(missing, 200)),
			HINT = 'The key before is still used. Call it again when all nodes answer.';
	END IF;
	PERFORM coupon.room_key_put(to_jsonb(k) || '{"signs": true}');
	-- who misses this goes on signing with the key before, which all have
	PERFORM coupon.peers_call('room_key', jsonb_build_object('key', to_jsonb(k) || '{"signs": true}'));
	RETURN k.key_id;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_room_key_rotate() IS
	'Gives all nodes a new key to sign the passes of rooms with; passes of the key before stay good. Returns its number.';

CREATE FUNCTION @extschema@.coupon_room_pass(token text) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	part text[] := CASE WHEN $1 ~ '^[0-9]{1,18}\.[0-9]{1,18}\.[0-9a-f]{32}$' THEN string_to_array($1, '.') END;
	t record;
	k coupon.room_key;
	words text;
BEGIN
	SELECT x.room_id, x.user_id, x.admitted_at + r.session_ttl AS until INTO t
	  FROM coupon.ticket x JOIN coupon.room r ON r.room_id = x.room_id
	 WHERE x.room_id = part[1]::bigint AND x.number = part[2]::bigint
	   AND sha256(uuid_send(x.secret)) = sha256(decode(part[3], 'hex'))
	   AND x.admitted_at IS NOT NULL AND x.ended_at IS NULL;
	SELECT * INTO k FROM coupon.room_key x WHERE x.signs ORDER BY x.key_id DESC LIMIT 1;
	IF t.until IS NULL OR t.until <= clock_timestamp() OR k.key_id IS NULL THEN
		RAISE SQLSTATE 'UC203' USING
			MESSAGE = 'not admitted',
			DETAIL = CASE WHEN t.until IS NULL OR t.until <= clock_timestamp() THEN 'The ticket is not one of an admitted user.' ELSE 'There is no key to sign with.' END,
			HINT = CASE WHEN t.until IS NULL OR t.until <= clock_timestamp() THEN 'Ask coupon_queue_position() until the position is 0.' ELSE 'Make one with coupon_room_key_rotate().' END;
	END IF;
	words := format('%s.%s.%s.%s', t.room_id, ceil(extract(epoch FROM t.until))::bigint, k.key_id, encode(convert_to(t.user_id, 'UTF8'), 'hex'));
	RETURN words || '.' || coupon.pass_signature(words, k);
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_room_pass(text) IS
	'At the node of the room: the pass of an admitted user, for coupon_room_admit() of the node where they have their home.';

CREATE FUNCTION @extschema@.coupon_room_admit(pass text) RETURNS timestamptz
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	part text[] := CASE WHEN octet_length($1) <= 700 AND $1 ~ '^[0-9]{1,18}\.[0-9]{1,11}\.[0-9]{1,9}\.([0-9a-f]{2})+\.[0-9a-f]{64}$' THEN string_to_array($1, '.') END;
	until timestamptz := to_timestamp(part[2]::double precision);
	k coupon.room_key;
	problem text;
BEGIN
	SELECT * INTO k FROM coupon.room_key r WHERE r.key_id = part[3]::integer;
	problem := CASE
		WHEN part IS NULL THEN 'It has not the form of one.'
		WHEN k.key_id IS NULL THEN 'Its key is not known here: it is an old one, or a wrong one.'
		-- hashed, so that the time of the comparison says nothing
		WHEN sha256(convert_to(coupon.pass_signature(array_to_string(part[1:4], '.'), k), 'UTF8')) <> sha256(convert_to(part[5], 'UTF8')) THEN 'Its signature is wrong.'
		WHEN until <= clock_timestamp() THEN 'It has ended.'
	END;
	IF problem IS NOT NULL THEN
		RAISE SQLSTATE 'UC203' USING
			MESSAGE = 'not admitted',
			DETAIL = format('The pass is not good. %s', problem),
			HINT = 'Get a new one of coupon_room_pass() at the node of the room.';
	END IF;
	INSERT INTO coupon.room_guest AS g (room_id, user_id, until)
	VALUES (part[1]::bigint, convert_from(decode(part[4], 'hex'), 'UTF8'), until)
	ON CONFLICT ON CONSTRAINT room_guest_pkey DO UPDATE SET until = excluded.until WHERE g.until < excluded.until;
	-- a few of those whose time is over
	DELETE FROM coupon.room_guest g WHERE g.ctid = ANY (ARRAY(
		SELECT x.ctid FROM coupon.room_guest x WHERE x.until < clock_timestamp() ORDER BY x.until LIMIT 2 FOR UPDATE SKIP LOCKED));
	RETURN until;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_room_admit(text) IS
	'At the node where the user has their home: believes the pass of a room of another node, which is checked by its signature alone. Returns when it ends.';
