-- Health: what is wrong, and what to do.  coupon_health() works on a standby, where
-- coupon is not preloaded, and for coupon_reader; a check that fails is a row like the
-- others.  It names no broker, file or key.

CREATE FUNCTION coupon.warn_without_workers(rooms boolean) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_warn_without_workers';
COMMENT ON FUNCTION coupon.warn_without_workers(boolean) IS 'A WARNING where this database has no workers, once a session.';

CREATE TYPE coupon.finding AS (
	severity text,
	what     text,
	detail   text,
	hint     text,
	page     text
);
COMMENT ON TYPE coupon.finding IS 'What coupon_health() has found.';
COMMENT ON COLUMN coupon.finding.severity IS 'error: the sale does not work, or not as promised | warning: it will not for long | notice: look at it.';
COMMENT ON COLUMN coupon.finding.what IS 'What is wrong.';
COMMENT ON COLUMN coupon.finding.detail IS 'The values.';
COMMENT ON COLUMN coupon.finding.hint IS 'What to do.';
COMMENT ON COLUMN coupon.finding.page IS 'Where doc/operations.md tells more.';

CREATE FUNCTION coupon.health_facts(
	OUT preloaded boolean, OUT listed boolean, OUT databases text[], OUT kinds text[], OUT wanted integer[], OUT running integer[],
	OUT http_built boolean, OUT jwt_there boolean,
	OUT broker text, OUT refused_topics text, OUT last_error text, OUT failed_at timestamptz, OUT acknowledged_at timestamptz,
	OUT maps_dropped bigint, OUT slots_taken bigint, OUT dropped_at timestamptz, OUT map_failures bigint,
	OUT lines_in_use integer, OUT queue_refused bigint, OUT descriptors bigint,
	OUT refusals_lost bigint,
	OUT listen_problem text, OUT admin_listen_problem text, OUT keys_in_use integer)
RETURNS record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_health_facts';
COMMENT ON FUNCTION coupon.health_facts() IS 'What SQL cannot see, for coupon_health().';

CREATE FUNCTION coupon.health_lines(
	OUT kind text, OUT id bigint, OUT waiting bigint, OUT failures bigint, OUT passed_at timestamptz, OUT admitted bigint)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_health_lines';
COMMENT ON FUNCTION coupon.health_lines() IS 'Who waits, as shared memory knows it; builds nothing.';

CREATE FUNCTION coupon.health_file(path text, of_kafka boolean) RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_health_file';
COMMENT ON FUNCTION coupon.health_file(text, boolean) IS 'Why the server refuses a file of properties or keys; null: it does not.';

CREATE FUNCTION coupon.finding(severity text, what text, detail text, hint text, heading text) RETURNS coupon.finding
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT $1, $2, $3, $4, 'doc/operations.md#' || replace(lower($5), ' ', '-')
$$;
COMMENT ON FUNCTION coupon.finding(text, text, text, text, text) IS 'A finding; the heading is the one in doc/operations.md.';

-- The checks.  Each has the settings and the facts.

CREATE FUNCTION coupon.health_server(s jsonb, f jsonb) RETURNS SETOF coupon.finding
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coupon.finding('error', 'coupon is not preloaded',
	       format('shared_preload_libraries is ''%s''. Tables can be read, nothing can be issued.', s->>'shared_preload_libraries'),
	       'Add coupon to shared_preload_libraries in postgresql.conf and restart the server.', 'The library is not preloaded')
	 WHERE NOT (f->>'preloaded')::boolean
	UNION ALL
	SELECT coupon.finding('notice', 'This server is a standby', 'It shows the sale and sells nothing; calls are refused with 25006.',
	       'Send buyers to the primary. After pg_promote() it sells on by itself.', 'This is a standby')
	 WHERE pg_is_in_recovery()
	UNION ALL
	SELECT coupon.finding('error', format('Answers are not durable: %s is off', n.name),
	       'A crash of the machine takes back what users were told they have, or damages the tables.',
	       format('ALTER SYSTEM SET %s = on; SELECT pg_reload_conf();', n.name), 'Answers are not durable')
	  FROM (VALUES ('fsync'), ('full_page_writes')) n(name)
	 WHERE s->>n.name = 'off'
	UNION ALL
	SELECT coupon.finding('warning', 'Answers are not durable: synchronous_commit is off',
	       'A crash forgets the answers of the last moments.',
	       'ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf();', 'Answers are not durable')
	 WHERE s->>'synchronous_commit' = 'off'
	UNION ALL
	SELECT coupon.finding('warning', 'Answers are not durable: synchronous_commit is off',
	       format('It is so for %s.', concat_ws(' in ', 'role ' || r.rolname, 'database ' || d.datname)),
	       format('ALTER %s RESET synchronous_commit;', coalesce(format('ROLE %I', r.rolname) || format(' IN DATABASE %I', d.datname),
	              format('ROLE %I', r.rolname), format('DATABASE %I', d.datname))), 'Answers are not durable')
	  FROM pg_db_role_setting c LEFT JOIN pg_roles r ON r.oid = c.setrole LEFT JOIN pg_database d ON d.oid = c.setdatabase
	 WHERE 'synchronous_commit=off' = ANY (c.setconfig) AND (d.datname IS NULL OR d.datname = current_database())
	UNION ALL
	SELECT coupon.finding('error', 'Commits wait for a standby that is not there',
	       'synchronous_standby_names is set, and no synchronous standby is connected: no call returns.',
	       'Connect the standby, or ALTER SYSTEM SET synchronous_standby_names = ''''; SELECT pg_reload_conf();', 'Commits hang')
	 WHERE s->>'synchronous_standby_names' <> '' AND s->>'synchronous_commit' NOT IN ('off', 'local') AND NOT pg_is_in_recovery()
	   AND NOT EXISTS (SELECT FROM pg_stat_replication r WHERE r.sync_state IN ('sync', 'quorum'))
	UNION ALL
	SELECT coupon.finding(CASE WHEN c.used >= 0.9 * c.there THEN 'error' ELSE 'warning' END, 'Connections run out',
	       format('%s of %s are in use.', c.used, c.there),
	       'Put PgBouncer in front (transaction mode fits), or raise max_connections.', 'Too many connections')
	  FROM (SELECT count(*) AS used, (s->>'max_connections')::integer - (s->>'superuser_reserved_connections')::integer AS there
	          FROM pg_stat_activity a WHERE a.backend_type = 'client backend') c
	 WHERE c.used >= 0.7 * c.there
	UNION ALL
	SELECT coupon.finding('warning', 'Every statement is logged', format('log_statement = %s, log_min_duration_statement = %s.',
	       s->>'log_statement', s->>'log_min_duration_statement'),
	       'Set log_statement = ddl or none, and log_min_duration_statement to -1 or 200 ms: the log costs as much as the sale, and keeps users'' names.',
	       'Settings do not fit together')
	 WHERE s->>'log_statement' = 'all' OR s->>'log_min_duration_statement' = '0'
	UNION ALL
	SELECT coupon.finding('error', 'Transactions are read-only', 'default_transaction_read_only is on: nothing can be issued.',
	       'ALTER SYSTEM RESET default_transaction_read_only; SELECT pg_reload_conf();', 'Settings do not fit together')
	 WHERE s->>'default_transaction_read_only' = 'on' AND NOT pg_is_in_recovery()
	UNION ALL
	SELECT coupon.finding('warning', 'Autovacuum is off', 'Dead rows stay, and the tables grow.',
	       'ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf();', 'Settings do not fit together')
	 WHERE s->>'autovacuum' = 'off'
$$;
COMMENT ON FUNCTION coupon.health_server(jsonb, jsonb) IS 'A check of coupon_health(): the server.';

CREATE FUNCTION coupon.health_workers(s jsonb, f jsonb) RETURNS SETOF coupon.finding
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	names text[] := ARRAY(SELECT jsonb_array_elements_text(f->'databases'));
	each_database integer := (SELECT sum(w::integer) FROM jsonb_array_elements_text(f->'wanted') w);
	slots integer := (s->>'max_worker_processes')::integer;
	-- whatever was started or changed a moment ago may be on its way
	settled boolean := least(clock_timestamp() - pg_postmaster_start_time(), clock_timestamp() - pg_conf_load_time()) > interval '10 s';
	needed integer;
	others integer := ((s->>'max_logical_replication_workers')::integer > 0)::integer;	-- the launcher of logical replication
	absent text;
BEGIN
	IF pg_is_in_recovery() THEN
		RETURN;
	END IF;
	-- the launcher; HTTP; the formula is that of doc/operations.md, "Sizing"
	needed := 1
		+ CASE WHEN s->>'coupon.http_listen' = '' THEN 0 ELSE (s->>'coupon.http_workers')::integer END
		+ each_database * (SELECT count(*)::integer FROM pg_database d WHERE d.datname = ANY (names) AND d.datallowconn);
	IF NOT (f->>'listed')::boolean THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('error', format('Database "%s" has no workers', current_database()),
			format('coupon.databases is ''%s''. Requests wait for ever, rooms admit nobody, events stay, what runs out is not marked.',
			       s->>'coupon.databases'),
			format('ALTER SYSTEM SET coupon.databases = %L; SELECT pg_reload_conf(); (A subscriber''s copy needs none.)',
			       (SELECT string_agg(CASE WHEN l.n ~ '[[:space:],"]' THEN format('"%s"', replace(l.n, '"', '""')) ELSE l.n END, ', ' ORDER BY l.i)
			          FROM unnest(array_append(ARRAY(SELECT n FROM unnest(names) n JOIN pg_database d ON d.datname = n), current_database()::text)) WITH ORDINALITY l(n, i))),
			'No worker runs') x;
	END IF;
	RETURN QUERY SELECT (coupon.finding('warning', format('coupon.databases names "%s", which does not exist', n),
		'It may be misspelt: then the database that was meant has no workers.',
		format('Correct coupon.databases, or CREATE DATABASE %I.', n), 'A database does not exist')).*
	  FROM unnest(names) n
	 WHERE NOT EXISTS (SELECT FROM pg_database d WHERE d.datname = n AND d.datallowconn);
	IF needed + others > slots THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('error', 'There are too few worker slots',
			format('coupon needs %s (%s in each of the databases of coupon.databases), PostgreSQL itself %s; max_worker_processes is %s.', needed, each_database, others, slots),
			format('ALTER SYSTEM SET max_worker_processes = %s; and restart the server. That is 8 for parallel queries, replication and other extensions, and those of coupon.',
			       needed + 8), 'Too few worker slots') x;
	END IF;
	absent := (SELECT string_agg(format('%s (%s of %s)', k.kind, r.n, w.n), ', ' ORDER BY k.i)
		 FROM jsonb_array_elements_text(f->'kinds') WITH ORDINALITY k(kind, i)
		 JOIN jsonb_array_elements_text(f->'wanted') WITH ORDINALITY w(n, i) ON w.i = k.i
		 JOIN jsonb_array_elements_text(f->'running') WITH ORDINALITY r(n, i) ON r.i = k.i
		WHERE r.n::integer < w.n::integer);
	IF absent IS NOT NULL AND (f->>'listed')::boolean AND settled THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('error', 'Workers are missing in this database', format('There are too few of: %s.', absent),
			CASE WHEN needed + others > slots THEN 'Raise max_worker_processes, see there.'
			     ELSE 'The server''s log says why: no worker slot, or a worker that ends at once. Somebody may have stopped one a moment ago; it comes back within 5 s.' END,
			'No worker runs') x;
	END IF;
	IF s->>'coupon.group_workers' = '0' THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('notice', 'Grouped calls are refused', 'coupon.group_workers is 0: coupon_issue_grouped() is answered with UC020.',
			'ALTER SYSTEM RESET coupon.group_workers; SELECT pg_reload_conf();', 'Settings do not fit together') x;
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.health_workers(jsonb, jsonb) IS 'A check of coupon_health(): the workers.';

CREATE FUNCTION coupon.health_http(s jsonb, f jsonb) RETURNS SETOF coupon.finding
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	WITH key AS MATERIALIZED (
		SELECT k.i, coupon.health_file(btrim(k.path, ' "'), false) AS why
		  FROM string_to_table(s->>'coupon.http_jwt_key_files', ',') WITH ORDINALITY k(path, i)
		 WHERE btrim(k.path, ' "') <> '')
	SELECT x.* FROM (
	SELECT (coupon.finding('error', 'HTTP is asked for, but not built in', 'coupon was built without libmicrohttpd and libjwt.',
	       'Install them (Debian: libmicrohttpd-dev, libjwt-dev), build coupon again and restart, or set coupon.http_listen = ''''.', 'A library is missing')).*
	 WHERE NOT (f->>'http_built')::boolean
	UNION ALL
	SELECT (coupon.finding('error', 'Nothing serves HTTP', 'coupon.http_listen is set, and no "coupon front" runs.',
	       'Restart the server if coupon.http_listen was empty when it started; else the server''s log says why.', 'HTTP does not answer')).*
	 WHERE (f->>'http_built')::boolean AND pg_postmaster_start_time() < clock_timestamp() - interval '10 s'
	   AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.backend_type = 'coupon front')
	UNION ALL
	SELECT (coupon.finding('error', 'HTTP cannot listen', format('%s: %s.', p.setting, p.why),
	       'Correct the address, or end what has the port; then SELECT pg_reload_conf(). It is tried again every second.', 'HTTP does not answer')).*
	  FROM (VALUES ('coupon.http_listen', f->>'listen_problem'), ('coupon.http_admin_listen', f->>'admin_listen_problem')) p(setting, why)
	 WHERE p.why IS NOT NULL
	UNION ALL
	SELECT (coupon.finding('error', 'Every call over HTTP is refused', 'coupon.http_role and coupon.http_jwt_algorithm are empty: nobody has rights, and there are no tokens.',
	       'Set coupon.http_jwt_algorithm and coupon.http_jwt_key_files; or, behind a gateway that knows its callers, coupon.http_role = ''coupon_service''.', 'Tokens are refused')).*
	 WHERE s->>'coupon.http_role' = '' AND s->>'coupon.http_jwt_algorithm' = ''
	UNION ALL
	SELECT (coupon.finding('error', 'Tokens cannot be checked', 'libjwt is not there, or is another version than coupon was built with.',
	       'Install it (Debian: libjwt0 or libjwt2).', 'A library is missing')).*
	 WHERE (f->>'http_built')::boolean AND NOT (f->>'jwt_there')::boolean
	UNION ALL
	SELECT (coupon.finding('error', 'Tokens are refused: there is no key', 'coupon.http_jwt_algorithm is set, and coupon.http_jwt_key_files is empty.',
	       'Name the file of the secret or of the public key in coupon.http_jwt_key_files.', 'Tokens are refused')).*
	 WHERE s->>'coupon.http_jwt_algorithm' <> '' AND s->>'coupon.http_jwt_key_files' = ''
	UNION ALL
	SELECT (coupon.finding('error', 'Tokens are refused: keys without an algorithm', 'coupon.http_jwt_key_files is set, and coupon.http_jwt_algorithm is empty.',
	       'Set coupon.http_jwt_algorithm to HS256, RS256 or ES256.', 'Tokens are refused')).*
	 WHERE s->>'coupon.http_jwt_algorithm' = '' AND s->>'coupon.http_jwt_key_files' <> ''
	UNION ALL
	SELECT (coupon.finding('error', format('Key file %s of coupon.http_jwt_key_files is refused', k.i), k.why,
	       'It must belong to the server''s user, with mode 0600, or to root, with 0640; a secret has at least 32 bytes, a public key is in PEM. Then SELECT pg_reload_conf();', 'Tokens are refused')).*
	  FROM key k
	 WHERE k.why IS NOT NULL
	UNION ALL
	SELECT (coupon.finding('error', 'Key files are not in use', format('HTTP uses %s of %s.', f->>'keys_in_use', k.n),
	       'SELECT pg_reload_conf(); reads them. There can be four.', 'Tokens are refused')).*
	  FROM (SELECT count(*) AS n FROM key WHERE key.why IS NULL) k
	 WHERE (f->>'keys_in_use')::integer < k.n AND (f->>'jwt_there')::boolean AND s->>'coupon.http_jwt_algorithm' <> ''
	   AND greatest(pg_postmaster_start_time(), pg_conf_load_time()) < clock_timestamp() - interval '10 s'
	UNION ALL
	SELECT (coupon.finding('error', 'coupon.http_role is no role', format('There is no role "%s".', s->>'coupon.http_role'),
	       'Use coupon_service, or a role of your own that is a member of it.', 'Tokens are refused')).*
	 WHERE s->>'coupon.http_role' <> '' AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = s->>'coupon.http_role')
	UNION ALL
	SELECT (coupon.finding('error', 'coupon.http_role is a superuser', 'Whoever reaches the port has a superuser''s rights, or is refused.',
	       'Use coupon_service.', 'Tokens are refused')).*
	  FROM pg_roles r WHERE r.rolname = s->>'coupon.http_role' AND r.rolsuper
	UNION ALL
	SELECT (coupon.finding('error', 'coupon.http_role may not call', format('"%s" is a member of neither coupon_service nor coupon_admin: calls without a token are answered 401.', r.rolname),
	       'Use coupon_service, or a role of your own that is a member of it.', 'Tokens are refused')).*
	  FROM pg_roles r
	 WHERE r.rolname = s->>'coupon.http_role'
	   AND NOT EXISTS (SELECT FROM pg_roles g WHERE g.rolname IN ('coupon_service', 'coupon_admin') AND pg_has_role(r.oid, g.oid, 'MEMBER'))
	UNION ALL
	SELECT (coupon.finding('error', 'coupon.http_database does not exist', format('There is no database "%s".', s->>'coupon.http_database'),
	       'Correct it and restart the server.', 'HTTP does not answer')).*
	 WHERE s->>'coupon.http_database' <> '' AND NOT EXISTS (SELECT FROM pg_database d WHERE d.datname = s->>'coupon.http_database')
	UNION ALL
	SELECT (coupon.finding('error', 'HTTP serves a database without workers', format('coupon.http_database "%s" is not among coupon.databases: /readyz answers 503, requests wait.', s->>'coupon.http_database'),
	       'Add it to coupon.databases and reload.', 'No worker runs')).*
	 WHERE s->>'coupon.http_database' <> '' AND NOT coalesce(f->'databases' ? (s->>'coupon.http_database'), false)
	UNION ALL
	SELECT (coupon.finding('warning', 'HTTP has too few file descriptors', format('A worker keeps %s connections, a process may open %s files.', s->>'coupon.http_max_connections', f->>'descriptors'),
	       'Raise LimitNOFILE of the service, or lower coupon.http_max_connections.', 'HTTP does not answer')).*
	 WHERE (f->>'descriptors')::bigint < (s->>'coupon.http_max_connections')::bigint + 100
	UNION ALL
	SELECT (coupon.finding('notice', 'HTTP takes calls from everywhere without a limit', 'coupon.http_listen is no local address, and neither coupon.http_rate_per_address nor coupon.http_trusted_proxies is set.',
	       'Put a proxy in front, or set coupon.http_rate_per_address.', 'HTTP does not answer')).*
	 WHERE s->>'coupon.http_listen' !~ '^(127\.|\[::1\]|localhost)' AND s->>'coupon.http_rate_per_address' = '0' AND s->>'coupon.http_trusted_proxies' = ''
	) x
	 WHERE s->>'coupon.http_listen' <> ''
$$;
COMMENT ON FUNCTION coupon.health_http(jsonb, jsonb) IS 'A check of coupon_health(): HTTP.';

CREATE FUNCTION coupon.health_events(s jsonb, f jsonb) RETURNS SETOF coupon.finding
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	size bigint := pg_relation_size('coupon.outbox_0') + pg_relation_size('coupon.outbox_1') + pg_relation_size('coupon.outbox_2')
		+ pg_relation_size('coupon.outbox_parked');
	ahead interval;
	problem text;
	parked bigint;
	dead bigint;
	oldest interval;
	age_text text;
BEGIN
	SELECT to_timestamp((e.last_value - 1000) / 1000.0) - clock_timestamp() INTO ahead FROM coupon.event_clock e;
	IF ahead > interval '2 s' THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('warning', 'Event ids are ahead of the clock', format('By %s: the clock was set back, or was wrong.', date_trunc('seconds', ahead)),
			'Order is kept and nothing need be done, but times in ids are wrong until the clock catches up. See to NTP.', 'The clock has stepped') x;
	END IF;
	SELECT count(*) INTO dead FROM (SELECT FROM coupon.dead_letter LIMIT 10000) d;
	IF dead > 0 THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('warning', 'There are dead letters', format('%s%s events were not accepted by the broker.', CASE WHEN dead = 10000 THEN 'At least ' END, dead),
			'See reason in coupon.dead_letter, mend it, then SELECT coupon_dead_letter_replay(); or coupon_dead_letter_discard().', 'There are dead letters') x;
	END IF;
	IF pg_is_in_recovery() OR NOT (f->>'preloaded')::boolean THEN
		RETURN;
	END IF;
	IF s->>'coupon.kafka_config_file' <> '' THEN
		problem := coupon.health_file(s->>'coupon.kafka_config_file', true);
	END IF;
	IF problem IS NOT NULL THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('error', 'The file of coupon.kafka_config_file is refused', problem,
			'It must belong to the server''s user, with mode 0600; then SELECT pg_reload_conf();', 'Events are not published') x;
	ELSIF f->>'broker' = 'misconfigured' THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('error', 'The publisher is misconfigured', f->>'last_error',
			'Correct the property or the setting, then SELECT pg_reload_conf();', 'Events are not published') x;
	END IF;
	IF f->>'broker' = 'down' OR f->>'broker' = 'connecting' AND (f->>'failed_at')::timestamptz > clock_timestamp() - interval '1 min' THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('error', 'No broker can be reached', coalesce(f->>'last_error', 'no error yet'),
			'See to the broker, the network, TLS and the login. Events wait, nothing is lost.', 'Events are not published') x;
	END IF;
	IF f->>'refused_topics' IS NOT NULL THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('error', 'A topic is refused', f->>'refused_topics',
			'Create or alter the topic, or change coupon.kafka_partitions and coupon.kafka_replication. It is seen within 5 s.', 'A topic is refused') x;
	END IF;
	SELECT count(*) INTO parked FROM (SELECT FROM coupon.outbox_parked LIMIT 1000) p;
	IF parked > 0 THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('warning', 'Events are parked', format('%s%s events wait in coupon.outbox_parked for a topic that is refused.', CASE WHEN parked = 1000 THEN 'At least ' END, parked),
			'Mend the topic; they go first then.', 'A topic is refused') x;
	END IF;
	IF size > 256 * 1024 * 1024 THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('warning', 'Events gather', format('The outbox has %s, the broker is %s.', pg_size_pretty(size), f->>'broker'),
			CASE WHEN s->>'coupon.kafka_brokers' = '' THEN 'Set coupon.kafka_brokers, or delete the events that you have read.'
			     ELSE 'coupon_outbox_status() says what the publisher does, and which transaction keeps the tables.' END, 'Events are not published') x;
	ELSIF f->>'broker' = 'up' THEN
		SELECT clock_timestamp() - to_timestamp(('x' || left(replace(e.id::text, '-', ''), 12))::bit(48)::bigint / 1000.0) INTO oldest
		  FROM (SELECT (SELECT o.id FROM coupon.outbox_0 o LIMIT 1) UNION ALL SELECT (SELECT o.id FROM coupon.outbox_1 o LIMIT 1)
		        UNION ALL SELECT (SELECT o.id FROM coupon.outbox_2 o LIMIT 1)) e(id)
		 WHERE e.id IS NOT NULL ORDER BY e.id LIMIT 1;
		age_text := date_trunc('seconds', oldest)::text;
		IF oldest > interval '10 s' THEN
			RETURN QUERY SELECT x.* FROM coupon.finding(CASE WHEN oldest > interval '60 s' THEN 'error' ELSE 'warning' END, 'Events are late', format('The oldest event has waited for %s.', age_text),
				'The broker is slow, or a partition has too few replicas in sync; coupon_outbox_status() says what the publisher does.', 'Events are not published') x;
		END IF;
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.health_events(jsonb, jsonb) IS 'A check of coupon_health(): events.';

CREATE FUNCTION coupon.health_memory(s jsonb, f jsonb) RETURNS SETOF coupon.finding
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	WITH open AS MATERIALIZED (
		SELECT c.campaign_id FROM coupon.campaign c WHERE c.closed_at IS NULL AND (c.closes_at IS NULL OR c.closes_at > now())),
	-- what all open campaigns would need at once, in kB; shards are counted, if there are not too many to be looked at
	need AS (
		SELECT count(*) AS campaigns, (SELECT sum((h.last_serial - h.first_serial + 1) / 8 + 100) FROM coupon.shard h
		        WHERE h.campaign_id IN (SELECT o.campaign_id FROM open o)
		          AND (SELECT c.reltuples < 100000 FROM pg_class c WHERE c.oid = 'coupon.shard'::regclass)) / 1024 AS kb
		  FROM open)
	SELECT coupon.finding('warning', 'coupon.max_campaigns is below the campaigns that are open', format('%s are open, %s have a place.', n.campaigns, s->>'coupon.max_campaigns'),
	       format('ALTER SYSTEM SET coupon.max_campaigns = %s; and restart, or close campaigns that are over.', n.campaigns * 2), 'Maps are evicted')
	  FROM need n WHERE n.campaigns > (s->>'coupon.max_campaigns')::integer
	UNION ALL
	SELECT coupon.finding('warning', 'Stock maps do not fit into coupon.stock_map_memory', format('The open campaigns need about %s kB at once, there are %s kB.', round(n.kb), s->>'coupon.stock_map_memory'),
	       format('ALTER SYSTEM SET coupon.stock_map_memory = ''%s MB''; and restart.', ceil(n.kb / 512)), 'Map memory is short')
	  FROM need n WHERE n.kb > (s->>'coupon.stock_map_memory')::bigint
	UNION ALL
	SELECT coupon.finding('warning', 'Stock maps are dropped again and again', format('%s maps and %s places since the server started, the last one %s ago; each is built again from the index.',
	       f->>'maps_dropped', f->>'slots_taken', date_trunc('seconds', clock_timestamp() - (f->>'dropped_at')::timestamptz)),
	       'Raise coupon.stock_map_memory (maps) or coupon.max_campaigns (places), and restart.', 'Maps are evicted')
	 WHERE (f->>'maps_dropped')::bigint + (f->>'slots_taken')::bigint >= 100 AND (f->>'dropped_at')::timestamptz > clock_timestamp() - interval '10 min'
	UNION ALL
	SELECT coupon.finding('error', 'Calls got no room for a stock map', format('%s times since the server started, each an ERROR UC007.', f->>'map_failures'),
	       'Raise coupon.stock_map_memory or coupon.max_campaigns and restart; use fewer campaigns in one transaction.', 'Map memory is short')
	 WHERE (f->>'map_failures')::bigint > 0
	UNION ALL
	SELECT coupon.finding(CASE WHEN (f->>'lines_in_use')::integer >= (s->>'coupon.max_lines')::integer THEN 'error' ELSE 'warning' END,
	       'Lines run out', format('%s of coupon.max_lines = %s are in use by rooms and by campaigns with requests that wait.', f->>'lines_in_use', s->>'coupon.max_lines'),
	       'Raise coupon.max_lines and restart.', 'Lines are full')
	 WHERE (f->>'lines_in_use')::integer >= 0.8 * (s->>'coupon.max_lines')::integer
	UNION ALL
	SELECT coupon.finding('warning', 'There are more rooms than lines', format('%s rooms, coupon.max_lines is %s.', r.n, s->>'coupon.max_lines'),
	       'Raise coupon.max_lines and restart: each room that somebody is in needs one.', 'Lines are full')
	  FROM (SELECT count(*) AS n FROM coupon.room) r WHERE r.n > (s->>'coupon.max_lines')::integer
	UNION ALL
	SELECT coupon.finding('error', 'Requests or visitors got no room', format('%s were refused with UC201 since the server started.', f->>'queue_refused'),
	       'Raise coupon.queue_memory (40 bytes a ticket) or coupon.max_lines, and restart.', 'Lines are full')
	 WHERE (f->>'queue_refused')::bigint > 0
	UNION ALL
	SELECT coupon.finding('notice', 'Refusals were not noted', format('%s since the server started: they came faster than the sweeper writes, or no sweeper runs.', f->>'refusals_lost'),
	       'coupon.refusal lacks some. Nothing need be done.', 'Support and erasure')
	 WHERE (f->>'refusals_lost')::bigint > 0
$$;
COMMENT ON FUNCTION coupon.health_memory(jsonb, jsonb) IS 'A check of coupon_health(): shared memory.';

CREATE FUNCTION coupon.health_sale(s jsonb, f jsonb) RETURNS SETOF coupon.finding
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	WITH line AS MATERIALIZED (SELECT l.* FROM coupon.health_lines() l),
	running AS MATERIALIZED (
		SELECT k.kind, r.n::integer AS n FROM jsonb_array_elements_text(f->'kinds') WITH ORDINALITY k(kind, i)
		  JOIN jsonb_array_elements_text(f->'running') WITH ORDINALITY r(n, i) ON r.i = k.i)
	SELECT coupon.finding('error', 'Requests wait and nobody decides them', format('%s requests of %s campaigns; no "coupon issuer" runs in this database.', sum(l.waiting), count(*)),
	       'See what is said of workers.', 'Requests wait')
	  FROM line l WHERE l.kind = 'requests' AND l.waiting > 0 AND (SELECT r.n = 0 FROM running r WHERE r.kind = 'coupon issuer')
	HAVING count(*) > 0
	UNION ALL
	SELECT coupon.finding('warning', 'Requests may wait and nobody decides them', 'There are rows in coupon.request, nobody has read them since the server started, and no "coupon issuer" runs in this database.',
	       'See what is said of workers.', 'Requests wait')
	 WHERE NOT EXISTS (SELECT FROM line l WHERE l.kind = 'requests') AND (SELECT r.n = 0 FROM running r WHERE r.kind = 'coupon issuer')
	   AND pg_relation_size('coupon.request_0') + pg_relation_size('coupon.request_1') > 0
	   AND EXISTS (SELECT FROM (SELECT q.decided_at FROM coupon.request q LIMIT 10000) q WHERE q.decided_at IS NULL)
	UNION ALL
	SELECT coupon.finding('error', 'Requests of a campaign cannot be decided', format('Campaign %s: %s requests wait, %s attempts failed in a row.', l.id, l.waiting, l.failures),
	       'The server''s log says why: a lock, a full disk, a trigger or a constraint of your own.', 'Requests wait')
	  FROM line l WHERE l.kind = 'requests' AND l.waiting > 0 AND l.failures > 0
	UNION ALL
	SELECT coupon.finding('notice', 'Requests wait for a paused campaign', format('Campaign %s: %s requests.', l.id, l.waiting),
	       format('SELECT coupon_campaign_resume(%s); when the sale is to go on.', l.id), 'Requests wait')
	  FROM line l JOIN coupon.campaign c ON c.campaign_id = l.id AND c.paused AND c.closed_at IS NULL
	 WHERE l.kind = 'requests' AND l.waiting > 0
	UNION ALL
	SELECT coupon.finding('error', 'Rooms admit nobody', format('%s users wait in %s rooms; no "coupon room worker" runs in this database.', sum(l.waiting), count(*)),
	       'See what is said of workers.', 'A room admits nobody')
	  FROM line l WHERE l.kind = 'tickets' AND l.waiting > 0 AND (SELECT r.n = 0 FROM running r WHERE r.kind = 'coupon room worker')
	HAVING count(*) > 0
	UNION ALL
	SELECT coupon.finding('error', 'A room admits nobody', format('Room %L: somebody has locked the row of the ticket that is next, for %s; %s users wait behind it.', o.name, date_trunc('seconds', clock_timestamp() - l.passed_at), l.waiting),
	       'End that transaction: pg_stat_activity shows it, the server''s log names the ticket.', 'A room admits nobody')
	  FROM line l JOIN coupon.room o ON o.room_id = l.id
	 WHERE l.kind = 'tickets' AND l.waiting > 0 AND l.passed_at < clock_timestamp() - interval '10 s'
	UNION ALL
	SELECT coupon.finding('notice', 'A room is paused and users wait', format('Room %L: %s users.', o.name, l.waiting),
	       format('SELECT coupon_room_resume(%L); to admit them.', o.name), 'A room admits nobody')
	  FROM line l JOIN coupon.room o ON o.room_id = l.id AND o.paused
	 WHERE l.kind = 'tickets' AND l.waiting > 0
	UNION ALL
	SELECT coupon.finding('error', 'A campaign requires a room that is not there', format('Campaign %s, room %s: everybody is answered not_admitted.', c.campaign_id, c.room_id),
	       format('SELECT coupon_campaign_require_room(%s, NULL); or name another room.', c.campaign_id), 'A room admits nobody')
	  FROM coupon.campaign c
	 WHERE c.room_id IS NOT NULL AND c.closed_at IS NULL AND NOT EXISTS (SELECT FROM coupon.room o WHERE o.room_id = c.room_id)
	   -- that of a node may be at another one
	   AND NOT EXISTS (SELECT FROM coupon.node_self)
	UNION ALL
	SELECT coupon.finding('error', 'A restored copy has not been checked', format('%s campaigns issue nothing.', count(*)),
	       'SELECT * FROM coupon_restored(); says what is missing, and lets those be sold of which everything is there.', 'A copy has not been checked')
	  FROM coupon.campaign c
	 WHERE c.dumped IS NOT NULL
	HAVING count(*) > 0
	UNION ALL
	SELECT coupon.finding('notice', 'The end of a campaign was begun and is not done',
	       format('Campaign %s: coupon_campaign_archive() or coupon_campaign_drop() began to take its rows away %s ago.', c.campaign_id, date_trunc('seconds', clock_timestamp() - c.archived_at)),
	       'If no session is at it any more, make the same call again: it goes on where the first one ended.', 'A campaign is half archived')
	  FROM coupon.campaign c
	 WHERE c.archived_at < clock_timestamp() - interval '1 min'
	UNION ALL
	SELECT coupon.finding('warning', 'A transaction keeps units', format('Process %s (%s) has been open for %s and has written issuances: its units are neither free nor sold.', a.pid, a.state, date_trunc('seconds', clock_timestamp() - a.xact_start)),
	       format('SELECT pg_terminate_backend(%s); and set idle_in_transaction_session_timeout.', a.pid), 'Answers are busy')
	  FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
	 WHERE l.relation = 'coupon.issuance'::regclass AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
	   AND l.mode = 'RowExclusiveLock' AND l.granted AND a.xact_start < clock_timestamp() - interval '1 min' AND a.pid <> pg_backend_pid()
	   AND a.backend_type NOT LIKE 'autovacuum%'
	UNION ALL
	SELECT coupon.finding('warning', 'A prepared transaction keeps units', format('"%s" was prepared %s ago and has written issuances.', p.gid, date_trunc('seconds', clock_timestamp() - p.prepared)),
	       format('COMMIT PREPARED %L; or ROLLBACK PREPARED %L;', p.gid, p.gid), 'Answers are busy')
	  FROM pg_prepared_xacts p
	  -- it keeps the virtual id of the session that it was prepared in
	  JOIN pg_locks x ON x.pid IS NULL AND x.locktype = 'transactionid' AND x.transactionid = p.transaction
	  JOIN pg_locks l ON l.pid IS NULL AND l.virtualtransaction = x.virtualtransaction
	 WHERE l.relation = 'coupon.issuance'::regclass AND l.mode = 'RowExclusiveLock'
	   AND p.database = current_database() AND p.prepared < clock_timestamp() - interval '1 min'
$$;
COMMENT ON FUNCTION coupon.health_sale(jsonb, jsonb) IS 'A check of coupon_health(): requests, rooms, transactions.';

CREATE FUNCTION coupon.health_nodes(s jsonb, f jsonb) RETURNS SETOF coupon.finding
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	WITH node AS (
		SELECT n.* FROM coupon.node n WHERE EXISTS (SELECT FROM coupon.node_self) AND NOT pg_is_in_recovery())
	SELECT coupon.finding('error', 'This node shares nothing', 'coupon.cluster is off: slots and units stay where they are, and no other server that takes its place is noticed.',
	       'ALTER SYSTEM SET coupon.cluster = on; SELECT pg_reload_conf();', 'Nodes do not share')
	 WHERE EXISTS (SELECT FROM node) AND s->>'coupon.cluster' = 'off'
	UNION ALL
	SELECT coupon.finding('error', 'This node is not confirmed and sells nothing',
	       'Since this server started no other node has confirmed that no standby has taken its place: calls are refused with UC302.',
	       'Start another node, see that it can be reached from here, and see what is said of workers.', 'Nodes do not share')
	 WHERE EXISTS (SELECT FROM node) AND s->>'coupon.cluster' = 'on' AND NOT coupon.node_confirmed()
	   AND clock_timestamp() - pg_postmaster_start_time() > interval '10 s'
	UNION ALL
	SELECT coupon.finding('error', 'A node does not answer', format('Node %s (%s), for %s: %s', n.node_id, n.name, date_trunc('seconds', clock_timestamp() - k.since), k.problem),
	       'Start it, promote its standby, or say with coupon_node_address() where it is. Until then its users are out, and who finds nothing elsewhere is told busy.', 'Nodes do not share')
	  FROM node n JOIN coupon.node_copy k ON k.node_id = n.node_id
	 WHERE n.state <> 'gone' AND k.since < clock_timestamp() - interval '5 s'
	UNION ALL
	SELECT coupon.finding('error', 'A node does not take slots', format('Node %s (%s), for %s: %s', n.node_id, n.name, date_trunc('seconds', clock_timestamp() - p.noted_at), p.problem),
	       'Mend what it says. Their users are served once it takes them: they are sent again and again.', 'Nodes do not share')
	  FROM node n JOIN coupon.slot_parcel p ON p.receiver = n.node_id AND p.state = 'sent' AND p.problem IS NOT NULL AND p.noted_at < clock_timestamp() - interval '5 s'
	UNION ALL
	SELECT coupon.finding('warning', 'Units do not arrive', format('%s transfers to node %s (%s), the oldest for %s.', count(*), n.node_id, n.name, date_trunc('seconds', clock_timestamp() - min(t.noted_at))),
	       'If the node answers see what is said of workers, here and there: they are sent again and again.', 'Nodes do not share')
	  FROM node n JOIN coupon.transfer t ON t.receiver = n.node_id AND t.state = 'cut' AND t.due_at <> 'infinity' AND t.noted_at < clock_timestamp() - interval '30 s'
	 GROUP BY n.node_id, n.name
	UNION ALL
	SELECT coupon.finding('error', 'The transfer worker stands', format('Of what it has to do %s steps have been due for %s.', count(*), date_trunc('seconds', clock_timestamp() - min(w.due_at))),
	       'coupon.stat_worker shows its errors, and the server''s log says why; pg_stat_activity shows what it waits for.', 'Nodes do not share')
	  FROM (SELECT t.due_at FROM coupon.transfer t WHERE t.state IN ('cut', 'received') AND t.due_at < clock_timestamp() - interval '60 s'
	           -- what waits for a node that does not answer is said above
	           AND CASE t.state WHEN 'cut' THEN t.receiver ELSE t.donor END <> ALL (coupon.nodes_silent())
	        UNION ALL
	        SELECT p.due_at FROM coupon.slot_parcel p WHERE p.state = 'sent' AND p.due_at < clock_timestamp() - interval '60 s') w
	 WHERE EXISTS (SELECT FROM node)
	HAVING count(*) > 0
$$;
COMMENT ON FUNCTION coupon.health_nodes(jsonb, jsonb) IS 'A check of coupon_health(): the other nodes.';

-- What the laws rest on.  coupon_verify() reads the rows; this only looks whether what
-- guards them is there.
CREATE FUNCTION coupon.health_guards(s jsonb, f jsonb) RETURNS SETOF coupon.finding
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coupon.finding('error', 'A trigger of coupon is disabled', format('Trigger %s on coupon.%s.', t.tgname, c.relname),
	       format('ALTER TABLE coupon.%I ENABLE %sTRIGGER %I; then SELECT * FROM coupon_verify();', c.relname,
	              CASE WHEN t.tgname ~ '_(changed|deleted|arrived|returned)$' OR t.tgname IN ('refuse_truncate', 'campaign_guard') THEN 'ALWAYS ' ELSE '' END, t.tgname), 'A guard is missing')
	  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
	 WHERE c.relnamespace = 'coupon'::regnamespace AND p.pronamespace = 'coupon'::regnamespace AND NOT t.tgisinternal AND t.tgenabled IN ('D', 'R')
	UNION ALL
	SELECT coupon.finding('error', format('Index coupon.%s is missing', k.name), 'A unit could be sold twice, or a user have too many.',
	       'Pause the sale, create it again as the extension''s script does, then SELECT * FROM coupon_verify();', 'A guard is missing')
	  FROM (VALUES ('issuance_serial_key'), ('issuance_user_key')) k(name)
	 WHERE NOT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
	                    WHERE i.indrelid = 'coupon.issuance'::regclass AND c.relname = k.name AND i.indisunique)
	UNION ALL
	SELECT coupon.finding('error', format('Index coupon.%s is invalid', c.relname), 'A REINDEX or CREATE INDEX CONCURRENTLY did not end well.',
	       CASE WHEN i.indisunique THEN format('REINDEX INDEX coupon.%I; then SELECT * FROM coupon_verify();', c.relname)
	            ELSE format('DROP INDEX coupon.%I; if its name ends in _ccnew or _ccold, else REINDEX INDEX coupon.%I;', c.relname, c.relname) END, 'A guard is missing')
	  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
	 WHERE c.relnamespace = 'coupon'::regnamespace AND NOT (i.indisvalid AND i.indisready)
	   AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid)
	UNION ALL
	SELECT coupon.finding('warning', format('Constraint %s is not validated', n.conname), format('On coupon.%s.', n.conrelid::regclass),
	       format('ALTER TABLE %s VALIDATE CONSTRAINT %I;', n.conrelid::regclass, n.conname), 'A guard is missing')
	  FROM pg_constraint n WHERE n.connamespace = 'coupon'::regnamespace AND NOT n.convalidated
$$;
COMMENT ON FUNCTION coupon.health_guards(jsonb, jsonb) IS 'A check of coupon_health(): constraints, indexes and triggers.';

CREATE FUNCTION coupon.health_settings(s jsonb, f jsonb) RETURNS SETOF coupon.finding
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coupon.finding('error', format('Setting %s is not applied', e.name), format('Line %s of %s: %s.', e.sourceline, regexp_replace(e.sourcefile, '^.*/', ''),
	              CASE WHEN s ? e.name THEN 'the value cannot be applied' ELSE 'there is no setting of that name' END),
	       'Correct the line; pg_settings lists the settings that there are (name LIKE ''coupon.%'').', 'A setting is not applied')
	  FROM pg_file_settings e
	 WHERE e.error IS NOT NULL AND NOT EXISTS (SELECT FROM pg_settings p WHERE p.name = e.name AND p.pending_restart)
	UNION ALL
	SELECT coupon.finding('warning', format('Setting %s waits for a restart', p.name), 'The file has another value than the server.',
	       'Restart the server.', 'A setting is not applied')
	  FROM pg_settings p
	 WHERE p.pending_restart AND (p.name LIKE 'coupon.%' OR p.name IN ('shared_preload_libraries', 'max_worker_processes', 'max_connections'))
	UNION ALL
	SELECT coupon.finding('warning', 'Callers are cancelled before they are answered busy', format('coupon.sold_out_wait is %s ms, statement_timeout %s ms.', s->>'coupon.sold_out_wait', s->>'statement_timeout'),
	       'Set coupon.sold_out_wait well below statement_timeout.', 'Settings do not fit together')
	 WHERE (s->>'statement_timeout')::integer BETWEEN 1 AND (s->>'coupon.sold_out_wait')::integer
	UNION ALL
	SELECT coupon.finding('warning', 'Calls over HTTP are cancelled before they are answered busy', format('coupon.sold_out_wait is %s ms, coupon.http_statement_timeout %s ms.', s->>'coupon.sold_out_wait', s->>'coupon.http_statement_timeout'),
	       'Set coupon.sold_out_wait well below coupon.http_statement_timeout.', 'Settings do not fit together')
	 WHERE s->>'coupon.http_listen' <> '' AND (s->>'coupon.http_statement_timeout')::integer <= (s->>'coupon.sold_out_wait')::integer
	UNION ALL
	SELECT coupon.finding('warning', 'A lock timeout is longer than the statement may take', format('coupon.http_lock_timeout is %s ms, coupon.http_statement_timeout %s ms.', s->>'coupon.http_lock_timeout', s->>'coupon.http_statement_timeout'),
	       'Set coupon.http_lock_timeout below coupon.http_statement_timeout.', 'Settings do not fit together')
	 WHERE s->>'coupon.http_listen' <> '' AND (s->>'coupon.http_statement_timeout')::integer <= (s->>'coupon.http_lock_timeout')::integer
	UNION ALL
	SELECT coupon.finding('warning', 'Topics are created with one replica', 'coupon.kafka_create_topics is on and coupon.kafka_replication is 1: the loss of a broker loses events.',
	       'Set coupon.kafka_replication to 3, or create the topics yourself.', 'Settings do not fit together')
	 WHERE s->>'coupon.kafka_create_topics' = 'on' AND s->>'coupon.kafka_replication' = '1' AND s->>'coupon.kafka_brokers' LIKE '%,%'
$$;
COMMENT ON FUNCTION coupon.health_settings(jsonb, jsonb) IS 'A check of coupon_health(): settings.';

CREATE FUNCTION coupon.health_findings() RETURNS SETOF coupon.finding
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	checks CONSTANT text[] := ARRAY['server', 'workers', 'http', 'events', 'memory', 'sale', 'nodes', 'guards', 'settings'];
	s jsonb;
	f jsonb;
	one text;
BEGIN
	SELECT jsonb_object_agg(p.name, p.setting) INTO s FROM pg_settings p;
	SELECT to_jsonb(x) INTO f FROM coupon.health_facts() x;
	FOREACH one IN ARRAY checks
	LOOP
		-- these need its settings and its memory
		CONTINUE WHEN NOT (f->>'preloaded')::boolean AND one IN ('workers', 'http', 'memory', 'sale', 'nodes');
		BEGIN
			CASE one
				WHEN 'server' THEN RETURN QUERY SELECT h.* FROM coupon.health_server(s, f) h;
				WHEN 'workers' THEN RETURN QUERY SELECT h.* FROM coupon.health_workers(s, f) h;
				WHEN 'http' THEN RETURN QUERY SELECT h.* FROM coupon.health_http(s, f) h;
				WHEN 'events' THEN RETURN QUERY SELECT h.* FROM coupon.health_events(s, f) h;
				WHEN 'memory' THEN RETURN QUERY SELECT h.* FROM coupon.health_memory(s, f) h;
				WHEN 'sale' THEN RETURN QUERY SELECT h.* FROM coupon.health_sale(s, f) h;
				WHEN 'nodes' THEN RETURN QUERY SELECT h.* FROM coupon.health_nodes(s, f) h;
				WHEN 'guards' THEN RETURN QUERY SELECT h.* FROM coupon.health_guards(s, f) h;
				ELSE RETURN QUERY SELECT h.* FROM coupon.health_settings(s, f) h;
			END CASE;
		EXCEPTION
			WHEN OTHERS THEN
				RETURN QUERY SELECT x.* FROM coupon.finding('warning', format('The check "%s" failed', one), SQLERRM,
					'Mend what it says; the other checks were made.', 'A check failed') x;
		END;
	END LOOP;
END
$$;
COMMENT ON FUNCTION coupon.health_findings() IS 'All checks of coupon_health().';

CREATE FUNCTION @extschema@.coupon_health() RETURNS SETOF coupon.finding
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT h.* FROM coupon.health_findings() h
	 ORDER BY array_position(ARRAY['error', 'warning', 'notice'], h.severity), h.what, h.detail
$$;
COMMENT ON FUNCTION @extschema@.coupon_health() IS
	'What is wrong in this database and its server, and what to do, a row each; none when all is well. It never fails, and works on a standby.';

CREATE FUNCTION @extschema@.coupon_doctor() RETURNS SETOF text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	h record;
	n integer := 0;
BEGIN
	FOR h IN SELECT x.* FROM coupon.health_findings() x
	          ORDER BY array_position(ARRAY['error', 'warning', 'notice'], x.severity), x.what, x.detail
	LOOP
		n := n + 1;
		RETURN QUERY SELECT format('%s. %s: %s', n, upper(h.severity), h.what);
		RETURN QUERY SELECT rtrim('   ' || m.line[1]) FROM regexp_matches(h.detail, '(\S.{0,75}(?!\S)|\S{76,})', 'g') m(line);
		RETURN QUERY SELECT rtrim(CASE WHEN m.i = 1 THEN '   -> ' ELSE '      ' END || m.line[1])
		  FROM regexp_matches(h.hint, '(\S.{0,72}(?!\S)|\S{73,})', 'g') WITH ORDINALITY m(line, i);
		RETURN QUERY SELECT '   ' || h.page;
	END LOOP;
	IF n = 0 THEN
		RETURN QUERY SELECT format('All is well in database "%s".', current_database());
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_doctor() IS 'coupon_health() for people to read.';

SELECT coupon.warn_without_workers(false);
