-- A proxy of a sale on several nodes: coupon's functions, under their own names
-- and with their own arguments, each of which is carried out where the user has
-- their home.  An application changes its connection string and nothing else.
--
--	createdb sale
--	psql -d sale -v ON_ERROR_STOP=1 -f proxy.sql          (as superuser)
--	SELECT coupon_cluster_connect('host=10.0.0.1 dbname=sale');
--
-- The server needs the packages of plproxy and of coupon (for the hash of users; not
-- its extension, nor shared_preload_libraries). A proxy keeps nothing but a copy of the
-- map, so there may be any number of them, and one that is lost is made anew.
--
-- Each call is a transaction of its own on its node: call in autocommit. plproxy
-- connects as the role that calls, so the rights are those that the role has on
-- the nodes; passwords are in the .pgpass of this server's owner. For the map it asks as
-- coupon_node, the role of the nodes' workers, whoever calls.
--
-- Of a node that is down its users are told at once, of one that says nothing after the
-- database's statement_timeout.
--
-- Where a node says that a user is not its own (UC301), the map is asked for again
-- and the call made once more. Who is on the way from one node to another gets the
-- error, and tries again.

\set ON_ERROR_STOP on
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE EXTENSION plproxy SCHEMA public;
CREATE SCHEMA plproxy;
CREATE SCHEMA coupon;
CREATE SCHEMA coupon_cluster;
GRANT USAGE ON SCHEMA plproxy, coupon, coupon_cluster TO PUBLIC;

-- ---- the hash, the nodes' own ----

CREATE FUNCTION public.coupon_slot(user_id text) RETURNS integer
LANGUAGE c IMMUTABLE PARALLEL SAFE AS '$libdir/coupon', 'coupon_slot';
CREATE FUNCTION public.coupon_slot(user_id bigint) RETURNS integer
LANGUAGE c IMMUTABLE PARALLEL SAFE AS '$libdir/coupon', 'coupon_slot_bigint';
CREATE FUNCTION public.coupon_slot(user_id uuid) RETURNS integer
LANGUAGE c IMMUTABLE PARALLEL SAFE AS '$libdir/coupon', 'coupon_slot_uuid';
CREATE FUNCTION public.coupon_home(campaign_id bigint, user_id text) RETURNS integer
LANGUAGE c IMMUTABLE PARALLEL SAFE AS '$libdir/coupon', 'coupon_home';
CREATE FUNCTION public.coupon_home(campaign_id bigint, user_id bigint) RETURNS integer
LANGUAGE c IMMUTABLE PARALLEL SAFE AS '$libdir/coupon', 'coupon_home_bigint';
CREATE FUNCTION public.coupon_home(campaign_id bigint, user_id uuid) RETURNS integer
LANGUAGE c IMMUTABLE PARALLEL SAFE AS '$libdir/coupon', 'coupon_home_uuid';

-- An item without a user has to go somewhere, to be told that it is invalid.
CREATE FUNCTION coupon_cluster.home_of_item(campaign_id bigint, user_id text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT public.coupon_home(coalesce($1, 0), coalesce($2, '')) $$;

-- ---- the copy of the map ----

CREATE TABLE coupon_cluster.node (
	node_id  smallint PRIMARY KEY,
	name     text NOT NULL,
	conninfo text NOT NULL,
	http_url text,
	state    text NOT NULL,
	version  bigint NOT NULL
);
CREATE TABLE coupon_cluster.slot (
	slot    smallint PRIMARY KEY,
	node_id smallint NOT NULL,
	version bigint NOT NULL
);

-- A node that says nothing holds nobody up for longer: plproxy waits for ever for a
-- connection that is neither made nor refused.
SELECT format('ALTER DATABASE %I SET statement_timeout = %L', current_database(), '10s') \gexec

-- version: of the copy; seconds after which the connection of a call without an answer is
-- closed, and of one that waits.
CREATE TABLE coupon_cluster.setting (
	one             boolean PRIMARY KEY DEFAULT true CHECK (one),
	version         integer NOT NULL DEFAULT 1,
	query_timeout   integer NOT NULL DEFAULT 5 CHECK (query_timeout >= 1),
	wait_timeout    integer NOT NULL DEFAULT 9 CHECK (wait_timeout >= 1)
);
INSERT INTO coupon_cluster.setting DEFAULT VALUES;

-- ---- what plproxy asks ----
-- Clusters: coupon, all slots; coupon_all, all nodes; coupon_node_N, one node; coupon_wait_N, the same for calls
-- that wait; coupon_map_N, the same for its map.

CREATE FUNCTION coupon_cluster.as_node(conninfo text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$ SELECT CASE WHEN $1 ~ '\muser[[:space:]]*=' THEN $1 ELSE $1 || ' user=coupon_node' END $$;

CREATE FUNCTION plproxy.get_cluster_version(cluster_name text) RETURNS integer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT s.version FROM coupon_cluster.setting s $$;

CREATE FUNCTION plproxy.get_cluster_partitions(cluster_name text) RETURNS SETOF text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	n integer;
BEGIN
	IF cluster_name = 'coupon' THEN
		RETURN QUERY SELECT o.conninfo
		               FROM coupon_cluster.slot s JOIN coupon_cluster.node o ON o.node_id = s.node_id ORDER BY s.slot;
		GET DIAGNOSTICS n = ROW_COUNT;
		IF n <> 1024 THEN
			RAISE SQLSTATE 'UC303' USING
				MESSAGE = 'this proxy has no map',
				DETAIL = format('It knows the nodes of %s slots.', n),
				HINT = 'Have it ask a node: SELECT coupon_cluster_connect(''host=... dbname=...'').';
		END IF;
	ELSIF cluster_name = 'coupon_all' THEN
		-- a power of two of them, each at least once; plproxy calls each once
		RETURN QUERY SELECT o.conninfo
		               FROM generate_series(0, 63) g
		               JOIN (SELECT x.conninfo, row_number() OVER (ORDER BY x.node_id) AS place, count(*) OVER () AS nodes
		                       FROM coupon_cluster.node x WHERE x.state <> 'gone') o ON o.place = 1 + g % o.nodes
		              ORDER BY g;
	ELSE
		RETURN QUERY SELECT CASE WHEN cluster_name LIKE 'coupon\_map\_%' THEN coupon_cluster.as_node(o.conninfo) ELSE o.conninfo END
		               FROM coupon_cluster.node o
		              WHERE cluster_name IN ('coupon_node_' || o.node_id, 'coupon_wait_' || o.node_id, 'coupon_map_' || o.node_id);
		IF NOT FOUND THEN
			RAISE SQLSTATE 'UC303' USING
				MESSAGE = 'unknown node',
				DETAIL = format('The map has no node for "%s".', left(cluster_name, 64)),
				HINT = 'coupon_cluster.node lists them.';
		END IF;
	END IF;
END
$$;

CREATE FUNCTION plproxy.get_cluster_config(cluster_name text, OUT key text, OUT val text) RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'query_timeout', (CASE WHEN cluster_name LIKE 'coupon\_wait\_%' THEN s.wait_timeout ELSE s.query_timeout END)::text
	  FROM coupon_cluster.setting s
$$;

-- ---- learning ----

CREATE FUNCTION coupon_cluster.map_at(connect_string text) RETURNS jsonb
LANGUAGE plproxy
AS $$ CONNECT connect_string; SELECT public.coupon_node_map(); $$;

CREATE FUNCTION coupon_cluster.name_of(node_id integer) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$ SELECT 'coupon_node_' || $1 $$;

CREATE FUNCTION coupon_cluster.map_name_of(node_id integer) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$ SELECT 'coupon_map_' || $1 $$;

CREATE FUNCTION coupon_cluster.map_of(node_id integer) RETURNS jsonb
LANGUAGE plproxy
AS $$ CLUSTER coupon_cluster.map_name_of(node_id); RUN ON 0; SELECT public.coupon_node_map(); $$;

CREATE FUNCTION coupon_cluster.learn(map jsonb) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	n integer;
	changed integer;
BEGIN
	-- it is written at the nodes, and opened with this server's passwords: src/cluster/peers.c
	IF EXISTS (SELECT FROM jsonb_array_elements($1 -> 'nodes') r
	            WHERE r ->> 'conninfo' ~ '\m(hostaddr|passfile|service|servicefile|sslkey|sslkeylogfile|sslcert|options)[[:space:]]*=|%') THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'a node has a conninfo that no connection is made with',
			DETAIL = 'It names another address than the host''s, or a file.',
			HINT = 'Correct it with coupon_node_address() at a node.';
	END IF;
	INSERT INTO coupon_cluster.node AS o (node_id, name, conninfo, http_url, state, version)
	SELECT r.node_id, r.name, r.conninfo, r.http_url, r.state, r.version
	  FROM jsonb_to_recordset($1 -> 'nodes') r(node_id smallint, name text, conninfo text, http_url text, state text, version bigint)
	 ORDER BY r.node_id
	ON CONFLICT (node_id) DO UPDATE
	   SET name = excluded.name, conninfo = excluded.conninfo, http_url = excluded.http_url,
	       state = excluded.state, version = excluded.version
	 WHERE o.version < excluded.version;
	GET DIAGNOSTICS changed = ROW_COUNT;
	INSERT INTO coupon_cluster.slot AS s (slot, node_id, version)
	SELECT (r ->> 0)::smallint, (r ->> 1)::smallint, (r ->> 2)::bigint FROM jsonb_array_elements($1 -> 'slots') r
	 ORDER BY 1
	ON CONFLICT (slot) DO UPDATE SET node_id = excluded.node_id, version = excluded.version
	 WHERE s.version < excluded.version;
	GET DIAGNOSTICS n = ROW_COUNT;
	IF changed + n > 0 THEN
		UPDATE coupon_cluster.setting SET version = version + 1;
	END IF;
	RETURN changed + n;
END
$$;

-- Asks the node that said it is not the one, then the others; one session at a time, and
-- who waited for another's answer has it. slot null: asks all of them.
CREATE FUNCTION coupon_cluster.refresh(slot integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	before integer := (SELECT s.version FROM coupon_cluster.setting s);
	changed integer := 0;
	one record;
	map jsonb;
BEGIN
	LOCK TABLE coupon_cluster.setting IN SHARE ROW EXCLUSIVE MODE;
	IF $1 IS NOT NULL AND before <> (SELECT s.version FROM coupon_cluster.setting s) THEN
		RETURN 0;
	END IF;
	FOR one IN SELECT n.node_id FROM coupon_cluster.node n
	            WHERE n.state <> 'gone'
	            ORDER BY n.node_id IS DISTINCT FROM (SELECT s.node_id FROM coupon_cluster.slot s WHERE s.slot = $1), n.node_id
	LOOP
		BEGIN
			map := coupon_cluster.map_of(one.node_id);
		EXCEPTION
			WHEN query_canceled OR admin_shutdown THEN
				RAISE;
			WHEN OTHERS THEN
				CONTINUE;
		END;
		changed := changed + coupon_cluster.learn(map);
		EXIT WHEN $1 IS NOT NULL AND changed > 0;
	END LOOP;
	RETURN changed;
END
$$;
REVOKE ALL ON FUNCTION coupon_cluster.map_at(text), coupon_cluster.map_of(integer), coupon_cluster.learn(jsonb) FROM PUBLIC;

CREATE FUNCTION public.coupon_cluster_connect(conninfo text) RETURNS integer
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$ SELECT coupon_cluster.learn(coupon_cluster.map_at(coupon_cluster.as_node($1))) $$;
REVOKE ALL ON FUNCTION public.coupon_cluster_connect(text) FROM PUBLIC;
COMMENT ON FUNCTION public.coupon_cluster_connect(text) IS
	'Takes the map over from a node: nodes and slots that are new or newer than those known.';

CREATE FUNCTION public.coupon_cluster_refresh() RETURNS integer
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$ SELECT coupon_cluster.refresh(NULL) $$;
REVOKE ALL ON FUNCTION public.coupon_cluster_refresh() FROM PUBLIC;
COMMENT ON FUNCTION public.coupon_cluster_refresh() IS 'Asks all nodes that answer for their maps; returns how much was new.';

-- ---- the functions ----

CREATE TYPE coupon.issue_result AS (user_id text, status text, serial bigint, code text, issued_at timestamptz, expires_at timestamptz);
CREATE TYPE coupon.hold_result AS (user_id text, status text, serial bigint, label text, held_until timestamptz);
CREATE TYPE coupon.redeem_result AS (user_id text, status text, serial bigint, code text, order_ref text, redeemed_at timestamptz);
CREATE TYPE coupon.request_result AS (request_id uuid, status text, outcome text, queue_position bigint, issuance coupon.issue_result,
	requested_at timestamptz, decided_at timestamptz, repeated boolean);

-- The node that accepted a request has it: 8 bits of its id say which.
CREATE FUNCTION coupon_cluster.node_of(request_id uuid, cluster text) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT $2 || coalesce(
		(SELECT n.node_id FROM coupon_cluster.node n WHERE n.node_id = ((get_byte(uuid_send($1), 8) & 3) << 6 | get_byte(uuid_send($1), 9) >> 2)),
		(SELECT min(n.node_id) FROM coupon_cluster.node n))
$$;

CREATE FUNCTION public.coupon_request_status(request_id uuid) RETURNS coupon.request_result
LANGUAGE plproxy
AS $$ CLUSTER coupon_cluster.node_of(request_id, 'coupon_node_'); RUN ON 0; $$;

-- By way of a proxy nobody waits longer than wait_timeout, less what the call takes.
CREATE FUNCTION coupon_cluster.patience(timeout interval) RETURNS interval
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT least($1, make_interval(secs => greatest(s.wait_timeout - 2, 0.5))) FROM coupon_cluster.setting s $$;

CREATE FUNCTION coupon_cluster.coupon_request_wait(request_id uuid, timeout interval) RETURNS coupon.request_result
LANGUAGE plproxy
AS $$ CLUSTER coupon_cluster.node_of(request_id, 'coupon_wait_'); RUN ON 0; TARGET public.coupon_request_wait; $$;

CREATE FUNCTION public.coupon_request_wait(request_id uuid, timeout interval DEFAULT '5 s') RETURNS coupon.request_result
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	answer coupon.request_result;
BEGIN
	SELECT * INTO answer FROM coupon_cluster.coupon_request_wait($1, coupon_cluster.patience($2));
	RETURN answer;
END
$$;

-- coupon_cluster.WAY is plproxy's; public.WAY calls it, and once more with a new map.
DO $do$
DECLARE
	f record;
	user_type text;
	names text;
	result text;
BEGIN
	FOR f IN
		SELECT * FROM (VALUES
			('coupon_issue', 'campaign_id bigint, user_id USER_TYPE, request_key text DEFAULT NULL', 'coupon.issue_result', 'coupon'),
			('coupon_issue_grouped', 'campaign_id bigint, user_id USER_TYPE, request_key text DEFAULT NULL', 'coupon.issue_result', 'coupon'),
			('coupon_request', 'campaign_id bigint, user_id USER_TYPE, request_key text DEFAULT NULL', 'coupon.request_result', 'coupon'),
			('coupon_request_status_of', 'campaign_id bigint, user_id USER_TYPE', 'coupon.request_result', 'coupon'),
			('coupon_hold', 'campaign_id bigint, serial bigint, user_id USER_TYPE, ttl interval DEFAULT ''5 min'', request_key text DEFAULT NULL', 'coupon.hold_result', 'coupon'),
			('coupon_hold_many', 'campaign_id bigint, serials bigint[], user_id USER_TYPE, ttl interval DEFAULT ''5 min'', request_key text DEFAULT NULL', 'SETOF coupon.hold_result', 'coupon'),
			('coupon_hold_any', 'campaign_id bigint, user_id USER_TYPE, ttl interval DEFAULT ''5 min'', request_key text DEFAULT NULL', 'coupon.hold_result', 'coupon'),
			('coupon_confirm', 'campaign_id bigint, serial bigint, user_id USER_TYPE, ref text', 'coupon.hold_result', 'coupon'),
			('coupon_release', 'campaign_id bigint, serial bigint, user_id USER_TYPE', 'boolean', 'coupon'),
			('coupon_redeem', 'campaign_id bigint, user_id USER_TYPE, order_ref text, serial bigint DEFAULT NULL', 'coupon.redeem_result', 'coupon'),
			('coupon_redeem_cancel', 'campaign_id bigint, user_id USER_TYPE, order_ref text, serial bigint DEFAULT NULL', 'coupon.redeem_result', 'coupon'),
			('coupon_revoke', 'campaign_id bigint, user_id USER_TYPE, reason text, serial bigint DEFAULT NULL', 'boolean', 'coupon')
		) v(name, arguments, result, cluster)
	LOOP
		FOREACH user_type IN ARRAY ARRAY['text', 'bigint', 'uuid']
		LOOP
			SELECT string_agg('$' || n, ', ' ORDER BY n) INTO names FROM generate_series(1, array_length(string_to_array(f.arguments, ','), 1)) n;
			EXECUTE format(
				'CREATE FUNCTION coupon_cluster.%I(%s) RETURNS %s LANGUAGE plproxy AS %L',
				f.name, regexp_replace(replace(f.arguments, 'USER_TYPE', user_type), ' DEFAULT (''[^'']*''|NULL)', '', 'g'), f.result,
				format('CLUSTER %L; RUN ON public.coupon_home(campaign_id, user_id); TARGET public.%s;', f.cluster, f.name));
			result := CASE WHEN f.result LIKE 'SETOF %' THEN format('RETURN QUERY SELECT * FROM coupon_cluster.%I(%s);', f.name, names)
			          WHEN f.result LIKE 'coupon.%' THEN format('SELECT * INTO answer FROM coupon_cluster.%I(%s); RETURN answer;', f.name, names)
			          ELSE format('RETURN coupon_cluster.%I(%s);', f.name, names) END;
			EXECUTE format(
				'CREATE FUNCTION public.%I(%s) RETURNS %s LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS %L',
				f.name, replace(f.arguments, 'USER_TYPE', user_type), f.result,
				format($body$
DECLARE
	answer %s;
BEGIN
	%s
EXCEPTION
	WHEN SQLSTATE 'UC301' THEN
		PERFORM coupon_cluster.refresh(public.coupon_home(campaign_id, user_id));
		%s
END
$body$, replace(f.result, 'SETOF ', ''), result, result));
		END LOOP;
	END LOOP;
END
$do$;

CREATE FUNCTION coupon_cluster.coupon_issue_many(campaign_id bigint, user_ids text[], request_keys text[]) RETURNS SETOF coupon.issue_result
LANGUAGE plproxy
AS $$
	CLUSTER 'coupon';
	SPLIT user_ids, request_keys;
	RUN ON coupon_cluster.home_of_item(campaign_id, user_ids);
	TARGET public.coupon_issue_many;
$$;

-- Answers come node by node; each user's are in their order, so the array's is found again.
CREATE FUNCTION public.coupon_issue_many(campaign_id bigint, user_ids text[], request_keys text[] DEFAULT NULL) RETURNS SETOF coupon.issue_result
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	keys text[] := coalesce($3, array_fill(NULL::text, ARRAY[coalesce(array_length($2, 1), 0)]));
	answers coupon.issue_result[];
	again text[];
	again_keys text[];
BEGIN
	IF array_length($2, 1) IS DISTINCT FROM array_length(keys, 1) THEN
		RAISE array_subscript_error USING
			MESSAGE = 'user_ids and request_keys differ in length',
			DETAIL = format('They have %s and %s elements.', coalesce(array_length($2, 1), 0), coalesce(array_length(keys, 1), 0)),
			HINT = 'Pass a key for each user; null: none.';
	END IF;
	SELECT array_agg(a) INTO answers FROM coupon_cluster.coupon_issue_many($1, $2, keys) a;
	IF EXISTS (SELECT FROM unnest(answers) a WHERE a.status = 'moved') THEN
		PERFORM coupon_cluster.refresh((SELECT public.coupon_home($1, a.user_id) FROM unnest(answers) a WHERE a.status = 'moved' LIMIT 1));
		SELECT array_agg(w.user_id ORDER BY w.n), array_agg(w.key ORDER BY w.n) INTO again, again_keys
		  FROM unnest($2, keys) WITH ORDINALITY w(user_id, key, n)
		 WHERE w.user_id IN (SELECT a.user_id FROM unnest(answers) a WHERE a.status = 'moved');
		SELECT array_agg(a) INTO answers
		  FROM (SELECT a.* FROM unnest(answers) a WHERE a.status <> 'moved'
		        UNION ALL
		        SELECT a.* FROM coupon_cluster.coupon_issue_many($1, again, again_keys) a) a;
	END IF;
	RETURN QUERY
		SELECT a.user_id, a.status, a.serial, a.code, a.issued_at, a.expires_at
		  FROM (SELECT w.user_id, w.n, row_number() OVER (PARTITION BY w.user_id ORDER BY w.n) AS nth FROM unnest($2) WITH ORDINALITY w(user_id, n)) w
		  JOIN (SELECT o.*, row_number() OVER (PARTITION BY o.user_id ORDER BY o.n) AS nth
		          FROM unnest(answers) WITH ORDINALITY o(user_id, status, serial, code, issued_at, expires_at, n)) a
		    ON a.user_id IS NOT DISTINCT FROM w.user_id AND a.nth = w.nth
		 ORDER BY w.n;
END
$$;

-- ---- campaigns that live on one node ----
-- Made on the node that has the slot of the key, or of the name, so that the same call comes
-- to the same node as long as slots do not move.

CREATE FUNCTION coupon_cluster.create_single(slot integer, name text, stock bigint, per_user_limit integer, opens_at timestamptz, closes_at timestamptz,
	policy jsonb, topic text, request_key text) RETURNS bigint
LANGUAGE plproxy
AS $$ CLUSTER 'coupon'; RUN ON slot;
	SELECT public.coupon_cluster_create_single(name, stock, per_user_limit, opens_at, closes_at, policy, topic, request_key); $$;

CREATE FUNCTION public.coupon_cluster_create_single(name text, stock bigint, per_user_limit integer DEFAULT 1, opens_at timestamptz DEFAULT NULL,
	closes_at timestamptz DEFAULT NULL, policy jsonb DEFAULT '{}', topic text DEFAULT 'coupon-issued', request_key text DEFAULT NULL) RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$ SELECT coupon_cluster.create_single(public.coupon_slot(coalesce($8, $1, '')), $1, $2, $3, $4, $5, $6, $7, $8) $$;

CREATE FUNCTION coupon_cluster.units_import(slot integer, campaign_id bigint, labels text[]) RETURNS bigint
LANGUAGE plproxy
AS $$ CLUSTER 'coupon'; RUN ON slot; SELECT public.coupon_units_import(campaign_id, labels); $$;

CREATE FUNCTION public.coupon_units_import(campaign_id bigint, labels text[]) RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$ SELECT coupon_cluster.units_import(public.coupon_home($1, ''::text), $1, $2) $$;

-- ---- support: all nodes are asked, or none ----
-- A user has most at their home, and the rest where a campaign or a room lives, or a request was accepted.

CREATE FUNCTION coupon_cluster.user_issuances(wanted text, OUT campaign_id bigint, OUT name text, OUT serial bigint, OUT state text, OUT issued_at timestamptz,
	OUT expires_at timestamptz, OUT held_until timestamptz, OUT redeemed_at timestamptz, OUT order_ref text, OUT confirm_ref text) RETURNS SETOF record
LANGUAGE plproxy
AS $$ CLUSTER 'coupon_all'; RUN ON ALL;
	SELECT u.campaign_id, u.name, u.serial, u.state, u.issued_at, u.expires_at, u.held_until, u.redeemed_at, u.order_ref, u.confirm_ref
	  FROM public.coupon_user_issuances(wanted::text) u; $$;
CREATE FUNCTION coupon_cluster.user_refusals(wanted text, OUT campaign_id bigint, OUT status text, OUT first_at timestamptz, OUT last_at timestamptz, OUT times bigint) RETURNS SETOF record
LANGUAGE plproxy
AS $$ CLUSTER 'coupon_all'; RUN ON ALL;
	SELECT u.campaign_id, u.status, u.first_at, u.last_at, u.times FROM public.coupon_user_refusals(wanted::text) u; $$;
CREATE FUNCTION coupon_cluster.user_erase(wanted text, OUT issuances bigint, OUT requests bigint, OUT tickets bigint, OUT events bigint, OUT others bigint, OUT waiting bigint) RETURNS SETOF record
LANGUAGE plproxy
AS $$ CLUSTER 'coupon_all'; RUN ON ALL;
	SELECT u.issuances, u.requests, u.tickets, u.events, u.others, u.waiting FROM public.coupon_user_erase(wanted::text) u; $$;

DO $do$
DECLARE
	user_type text;
BEGIN
	FOREACH user_type IN ARRAY ARRAY['text', 'bigint', 'uuid']
	LOOP
		EXECUTE format($f$
			CREATE FUNCTION public.coupon_user_issuances(user_id %s, OUT campaign_id bigint, OUT name text, OUT serial bigint, OUT state text, OUT issued_at timestamptz,
				OUT expires_at timestamptz, OUT held_until timestamptz, OUT redeemed_at timestamptz, OUT order_ref text, OUT confirm_ref text) RETURNS SETOF record
			LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $body$
				SELECT u.* FROM coupon_cluster.user_issuances($1::text) u ORDER BY u.issued_at, u.campaign_id, u.serial $body$ $f$, user_type);
		EXECUTE format($f$
			CREATE FUNCTION public.coupon_user_refusals(user_id %s, OUT campaign_id bigint, OUT status text, OUT first_at timestamptz, OUT last_at timestamptz, OUT times bigint) RETURNS SETOF record
			LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $body$
				SELECT u.* FROM coupon_cluster.user_refusals($1::text) u ORDER BY u.first_at, u.campaign_id, u.status $body$ $f$, user_type);
		EXECUTE format($f$
			CREATE FUNCTION public.coupon_user_erase(user_id %s, OUT issuances bigint, OUT requests bigint, OUT tickets bigint, OUT events bigint, OUT others bigint, OUT waiting bigint) RETURNS record
			LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $body$
				SELECT sum(u.issuances)::bigint, sum(u.requests)::bigint, sum(u.tickets)::bigint, sum(u.events)::bigint, sum(u.others)::bigint, sum(u.waiting)::bigint
				  FROM coupon_cluster.user_erase($1::text) u $body$ $f$, user_type);
	END LOOP;
END
$do$;

-- ---- rooms ----
-- A room is at one node, and so are its tickets. Who is admitted gets a pass there, signed so
-- that the node where they have their home can check it alone: it is shown with each call
-- that finds them admitted, so the application need not know of it.

CREATE TYPE coupon.queue_result AS (status text, token text, queue_position bigint, eta interval, poll_after interval);

CREATE TABLE coupon_cluster.room (
	room_id bigint PRIMARY KEY,
	name    text NOT NULL,
	node_id smallint NOT NULL
);

CREATE FUNCTION coupon_cluster.rooms_at(node_id integer, OUT room_id bigint, OUT name text) RETURNS SETOF record
LANGUAGE plproxy
AS $$ CLUSTER coupon_cluster.name_of(node_id); RUN ON 0; SELECT r.room_id, r.name FROM coupon.room_status r; $$;
REVOKE ALL ON FUNCTION coupon_cluster.rooms_at(integer) FROM PUBLIC;

-- By name, or by number, which is what a token begins with; all nodes are asked for one that is new.
CREATE FUNCTION coupon_cluster.find_room(room text, token text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	number bigint := CASE WHEN token ~ '^[0-9]{1,18}\.' THEN split_part(token, '.', 1)::bigint END;
	found_at integer := (SELECT min(r.node_id) FROM coupon_cluster.room r WHERE r.name = room OR r.room_id = number);
	one record;
BEGIN
	IF found_at IS NOT NULL THEN
		RETURN found_at;
	END IF;
	FOR one IN SELECT n.node_id FROM coupon_cluster.node n WHERE n.state <> 'gone' ORDER BY n.node_id
	LOOP
		BEGIN
			INSERT INTO coupon_cluster.room (room_id, name, node_id)
			SELECT q.room_id, q.name, one.node_id FROM coupon_cluster.rooms_at(one.node_id) q
			ON CONFLICT ON CONSTRAINT room_pkey DO UPDATE SET name = excluded.name, node_id = excluded.node_id;
		EXCEPTION
			WHEN query_canceled OR admin_shutdown THEN
				RAISE;
			WHEN OTHERS THEN
				CONTINUE;
		END;
	END LOOP;
	-- whoever knows nothing of it says so best
	RETURN coalesce((SELECT min(r.node_id) FROM coupon_cluster.room r WHERE r.name = room OR r.room_id = number),
		(SELECT min(n.node_id) FROM coupon_cluster.node n WHERE n.state <> 'gone'));
END
$$;

CREATE FUNCTION coupon_cluster.queue_join(node_id integer, room text, user_id text) RETURNS coupon.queue_result
LANGUAGE plproxy
AS $$ CLUSTER coupon_cluster.name_of(node_id); RUN ON 0;
	SELECT q.status, q.token, q.queue_position, q.eta, q.poll_after FROM public.coupon_queue_join(room::text, user_id::text) q; $$;
CREATE FUNCTION coupon_cluster.queue_position(node_id integer, token text) RETURNS coupon.queue_result
LANGUAGE plproxy
AS $$ CLUSTER coupon_cluster.name_of(node_id); RUN ON 0;
	SELECT q.status, q.token, q.queue_position, q.eta, q.poll_after FROM public.coupon_queue_position(token::text) q; $$;
CREATE FUNCTION coupon_cluster.queue_require(node_id integer, token text, room text, user_id text) RETURNS text
LANGUAGE plproxy
AS $$ CLUSTER coupon_cluster.name_of(node_id); RUN ON 0; SELECT public.coupon_queue_require(token::text, room::text, user_id::text)::text; $$;
CREATE FUNCTION coupon_cluster.queue_leave(node_id integer, token text, reason text) RETURNS boolean
LANGUAGE plproxy
AS $$ CLUSTER coupon_cluster.name_of(node_id); RUN ON 0; SELECT public.coupon_queue_leave(token::text, reason::text); $$;
CREATE FUNCTION coupon_cluster.room_pass(node_id integer, token text) RETURNS text
LANGUAGE plproxy
AS $$ CLUSTER coupon_cluster.name_of(node_id); RUN ON 0; SELECT public.coupon_room_pass(token::text); $$;
CREATE FUNCTION coupon_cluster.room_admit(user_id text, pass text) RETURNS timestamptz
LANGUAGE plproxy
AS $$ CLUSTER 'coupon'; RUN ON public.coupon_slot(user_id); SELECT public.coupon_room_admit(pass::text); $$;

CREATE FUNCTION coupon_cluster.welcome(node_id integer, token text) RETURNS timestamptz
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coupon_cluster.room_admit(convert_from(decode(split_part(p.pass, '.', 4), 'hex'), 'UTF8'), p.pass)
	  FROM (SELECT coupon_cluster.room_pass($1, $2) AS pass OFFSET 0) p
$$;

DO $do$
DECLARE
	user_type text;
BEGIN
	FOREACH user_type IN ARRAY ARRAY['text', 'bigint', 'uuid']
	LOOP
		EXECUTE format($f$
			CREATE FUNCTION public.coupon_queue_join(room text, user_id %s) RETURNS coupon.queue_result
			LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
			DECLARE
				home integer := coupon_cluster.find_room($1, NULL);
				answer coupon.queue_result;
			BEGIN
				SELECT * INTO answer FROM coupon_cluster.queue_join(home, $1, $2::text);
				IF answer.status = 'ADMITTED' THEN
					PERFORM coupon_cluster.welcome(home, answer.token);
				END IF;
				RETURN answer;
			END
			$body$ $f$, user_type);
		EXECUTE format($f$
			CREATE FUNCTION public.coupon_queue_require(token text, room text%s, user_id %s%s) RETURNS void
			LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
			BEGIN
				PERFORM coupon_cluster.queue_require(coupon_cluster.find_room(NULL, $1), $1, $2, $3::text);
			END
			$body$ $f$, CASE user_type WHEN 'text' THEN ' DEFAULT NULL' ELSE '' END, user_type, CASE user_type WHEN 'text' THEN ' DEFAULT NULL' ELSE '' END);
	END LOOP;
END
$do$;

CREATE FUNCTION public.coupon_queue_position(token text) RETURNS coupon.queue_result
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	home integer := coupon_cluster.find_room(NULL, $1);
	answer coupon.queue_result;
BEGIN
	SELECT * INTO answer FROM coupon_cluster.queue_position(home, $1);
	IF answer.status = 'ADMITTED' THEN
		PERFORM coupon_cluster.welcome(home, $1);
	END IF;
	RETURN answer;
END
$$;

CREATE FUNCTION public.coupon_queue_leave(token text, reason text DEFAULT 'left') RETURNS boolean
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$ SELECT coupon_cluster.queue_leave(coupon_cluster.find_room(NULL, $1), $1, $2) $$;
COMMIT;
