-- What a DBA adds to the tables that are written below the executor works as
-- everywhere, or is refused with a message: a test for each line of the list
-- at the head of src/base/table_support.c.  What takes several sessions is in
-- test/t/045_table_writer.pl and test/specs/.  Changes tables (rolled back),
-- so not beside another test.
BEGIN;
SET LOCAL client_min_messages = error;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT no_plan();

-- Makes the change, does the call, undoes both; returns the call's answer or
-- the SQLSTATE, and what a refusal lacks.
CREATE FUNCTION pg_temp.with_change(change text, call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
	detail text;
	hint text;
BEGIN
	EXECUTE change;
	EXECUTE call INTO answer;
	RAISE EXCEPTION USING ERRCODE = 'TT000', MESSAGE = answer;
EXCEPTION
	WHEN SQLSTATE 'TT000' THEN RETURN SQLERRM;
	WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
		RETURN SQLSTATE || CASE WHEN SQLSTATE = '0A000' AND (detail = '' OR hint = '')
			THEN ' without DETAIL or HINT: ' || SQLERRM ELSE '' END;
END $$;
CREATE FUNCTION pg_temp.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';

SELECT coupon_campaign_create('writer', 50) AS c \gset
SELECT coupon_campaign_create('map first', 3) AS m \gset
SELECT coupon_campaign_create('labels', 0) AS l \gset
SELECT coupon_room_create('writer', 5) AS ignore \gset
SELECT status FROM coupon_hold(:c, 1, 'holder');
SELECT status FROM coupon_hold(:c, 2, 'sleeper');
SELECT status FROM coupon_issue(:c, 'shopper');
UPDATE coupon.issuance SET held_until = clock_timestamp() - interval '1 ms' WHERE campaign_id = :c AND serial = 2;
-- a row that the map does not know stands in the way of the next issue
SELECT status FROM coupon_issue(:m, 'a');
INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy)
SELECT :m, min(n), 0, 1, now(), 'x', 'issued', '{}' FROM generate_series(1, 3) n
 WHERE n NOT IN (SELECT serial FROM coupon.issuance WHERE campaign_id = :m);

CREATE TEMP TABLE call (name text, sql text, answer text);
INSERT INTO call VALUES
	('issue', format('SELECT status FROM coupon_issue(%s, ''new'')', :c), 'issued'),
	('many', format('SELECT string_agg(status, '' '') FROM coupon_issue_many(%s, ''{n1,n2}'')', :c), 'issued issued'),
	('keyed', format('SELECT status FROM coupon_issue(%s, ''new'', ''k'')', :c), 'issued'),
	('conflict', format('SELECT status FROM coupon_issue(%s, ''b'')', :m), 'issued'),
	('hold', format('SELECT status FROM coupon_hold(%s, 9, ''new'')', :c), 'held'),
	('confirm', format('SELECT status FROM coupon_confirm(%s, 1, ''holder'', ''pay'')', :c), 'confirmed'),
	('release', format('SELECT coupon_release(%s, 1, ''holder'')', :c), 'true'),
	('sweep', 'SELECT coupon_hold_expire(10)', '1'),
	('inherit', format('SELECT status FROM coupon_hold(%s, 2, ''new'')', :c), 'held'),
	('redeem', format('SELECT status FROM coupon_redeem(%s, ''shopper'', ''order'')', :c), 'redeemed'),
	('revoke', format('SELECT coupon_revoke(%s, ''shopper'', ''reason'')', :c), 'true'),
	('create', 'SELECT coupon_campaign_create(''another'', 5) > 0', 'true'),
	('import', format('SELECT coupon_codes_import(%s, ''{A,B}'')', :l), '2'),
	('add', format('SELECT coupon_campaign_add_stock(%s, 100)', :m), '103'),
	('emit', 'SELECT count(coupon_emit(''t'', ''k'', ''x'', ''{}''))', '1'),
	('request', format('SELECT status FROM coupon_request(%s, ''asker'')', :c), 'WAITING'),
	('join', 'SELECT status FROM coupon_queue_join(''writer'', ''guest'')', 'WAITING'),
	('leave', 'SELECT coupon_queue_leave(j.token) FROM coupon_queue_join(''writer'', ''guest'') j', 'true');

-- Every call, without a change: what is compared with below.
SELECT is(pg_temp.with_change('SELECT 1', sql), answer, name || ': without a change') FROM call;

CREATE TEMP TABLE matrix (n serial, what text, change text, call text, expected text, version int DEFAULT 0);

-- triggers, of rows and statements, for each event
INSERT INTO matrix (what, change, call, expected)
SELECT format('%s %s trigger of a %s', t, e, l),
	format('CREATE TRIGGER t %s %s ON coupon.issuance FOR EACH %s EXECUTE FUNCTION pg_temp.nothing()', t, e, l),
	c, CASE WHEN e = fires THEN '0A000' ELSE 'works' END
  FROM unnest('{BEFORE,AFTER}'::text[]) t, unnest('{INSERT,UPDATE,DELETE}'::text[]) e,
	unnest('{ROW,STATEMENT}'::text[]) l,
	(VALUES ('issue', 'INSERT'), ('many', 'INSERT'), ('hold', NULL), ('confirm', NULL), ('release', NULL)) call(c, fires)
 WHERE fires = 'INSERT' OR e IN ('UPDATE', 'DELETE');
UPDATE matrix SET expected = '0A000' WHERE call IN ('hold', 'confirm', 'release');
INSERT INTO matrix (what, change, call, expected) VALUES
	('a trigger that leaves the row as it is', 'CREATE TRIGGER t BEFORE UPDATE ON coupon.issuance FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing()', 'redeem', '0A000'),
	('a trigger that leaves the row as it is', 'CREATE TRIGGER t BEFORE DELETE ON coupon.issuance FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing()', 'revoke', '0A000'),
	('a trigger that leaves a campaign out', 'CREATE TRIGGER t BEFORE INSERT ON coupon.campaign FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing()', 'create', '0A000'),
	('a trigger that leaves labels out', 'CREATE TRIGGER t BEFORE INSERT ON coupon.unit FOR EACH ROW WHEN (NEW.label = ''B'') EXECUTE FUNCTION pg_temp.nothing()', 'import', '0A000'),
	('a trigger that leaves shards out', 'CREATE TRIGGER t BEFORE INSERT ON coupon.shard FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing()', 'add', '0A000'),
	('a trigger that only looks', 'CREATE TRIGGER t AFTER UPDATE OR DELETE ON coupon.issuance FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing()', 'redeem', 'works'),
	('a trigger that only looks', 'CREATE TRIGGER t AFTER UPDATE OR DELETE ON coupon.issuance FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing()', 'revoke', 'works'),
	('a trigger with a transition table', 'CREATE TRIGGER t AFTER INSERT ON coupon.issuance REFERENCING NEW TABLE AS new FOR EACH STATEMENT EXECUTE FUNCTION pg_temp.nothing()', 'issue', '0A000'),
	('a trigger that is disabled', 'CREATE TRIGGER t BEFORE INSERT ON coupon.issuance FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing(); ALTER TABLE coupon.issuance DISABLE TRIGGER t', 'issue', 'works'),
	('a trigger on an unused event', 'CREATE TRIGGER t AFTER TRUNCATE ON coupon.issuance FOR EACH STATEMENT EXECUTE FUNCTION pg_temp.nothing()', 'issue', 'works'),
	('a trigger on keys', 'CREATE TRIGGER t BEFORE INSERT ON coupon.request_key FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing()', 'keyed', '0A000'),
	('a trigger on keys, for those without', 'CREATE TRIGGER t BEFORE INSERT ON coupon.request_key FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing()', 'issue', 'works'),
	('a trigger on the memory of holds', 'CREATE TRIGGER t BEFORE INSERT ON coupon.lapsed_hold FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing()', 'inherit', '0A000'),
	('a trigger on the outbox', 'CREATE TRIGGER t BEFORE INSERT ON coupon.outbox_0 FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing(); CREATE TRIGGER t BEFORE INSERT ON coupon.outbox_1 FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing(); CREATE TRIGGER t BEFORE INSERT ON coupon.outbox_2 FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing()', 'emit', '0A000'),
	('a trigger on requests', 'CREATE TRIGGER t AFTER INSERT ON coupon.request_0 FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing(); CREATE TRIGGER t AFTER INSERT ON coupon.request_1 FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing()', 'request', '0A000'),
	('an insert trigger on tickets', 'CREATE TRIGGER t AFTER INSERT ON coupon.ticket_0 FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing(); CREATE TRIGGER t AFTER INSERT ON coupon.ticket_1 FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing()', 'join', '0A000'),
	('an update trigger on tickets', 'CREATE TRIGGER t AFTER UPDATE ON coupon.ticket_0 FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing(); CREATE TRIGGER t AFTER UPDATE ON coupon.ticket_1 FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing()', 'join', 'works'),
	('an update trigger on tickets', 'CREATE TRIGGER t AFTER UPDATE ON coupon.ticket_0 FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing(); CREATE TRIGGER t AFTER UPDATE ON coupon.ticket_1 FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing()', 'leave', '0A000');

-- rules
INSERT INTO matrix (what, change, call, expected) VALUES
	('an INSTEAD rule', 'CREATE RULE r AS ON INSERT TO coupon.issuance DO INSTEAD NOTHING', 'issue', '0A000'),
	('an ALSO rule', 'CREATE RULE r AS ON INSERT TO coupon.issuance DO ALSO SELECT 1', 'many', '0A000'),
	('a rule that is disabled', 'CREATE RULE r AS ON INSERT TO coupon.issuance DO INSTEAD NOTHING; ALTER TABLE coupon.issuance DISABLE RULE r', 'issue', 'works'),
	('a rule for updates', 'CREATE RULE r AS ON UPDATE TO coupon.issuance DO INSTEAD NOTHING', 'issue', 'works'),
	('a rule for updates', 'CREATE RULE r AS ON UPDATE TO coupon.issuance DO INSTEAD NOTHING', 'confirm', '0A000'),
	('a rule for deletions', 'CREATE RULE r AS ON DELETE TO coupon.issuance DO INSTEAD NOTHING', 'release', '0A000'),
	('a rule on the memory of holds', 'CREATE RULE r AS ON INSERT TO coupon.lapsed_hold DO INSTEAD NOTHING', 'inherit', '0A000'),
	('a rule on the outbox', 'CREATE RULE r AS ON INSERT TO coupon.outbox_0 DO INSTEAD NOTHING; CREATE RULE r AS ON INSERT TO coupon.outbox_1 DO INSTEAD NOTHING; CREATE RULE r AS ON INSERT TO coupon.outbox_2 DO INSTEAD NOTHING', 'emit', '0A000');

-- row level security
INSERT INTO matrix (what, change, call, expected) VALUES
	('row level security', 'ALTER TABLE coupon.issuance ENABLE ROW LEVEL SECURITY', 'issue', '0A000'),
	('row level security', 'ALTER TABLE coupon.issuance ENABLE ROW LEVEL SECURITY', 'release', '0A000'),
	('row level security with a policy', 'ALTER TABLE coupon.issuance ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY p ON coupon.issuance WITH CHECK (false)', 'issue', '0A000'),
	('a policy without row level security', 'CREATE POLICY p ON coupon.issuance WITH CHECK (false)', 'issue', 'works'),
	('row level security on requests', 'ALTER TABLE coupon.request_0 ENABLE ROW LEVEL SECURITY; ALTER TABLE coupon.request_1 ENABLE ROW LEVEL SECURITY', 'request', '0A000'),
	('row level security on the outbox', 'ALTER TABLE coupon.outbox_0 ENABLE ROW LEVEL SECURITY; ALTER TABLE coupon.outbox_1 ENABLE ROW LEVEL SECURITY; ALTER TABLE coupon.outbox_2 ENABLE ROW LEVEL SECURITY', 'emit', '0A000');

-- foreign keys
CREATE TABLE writer_user (user_id text COLLATE "C" PRIMARY KEY);
INSERT INTO matrix (what, change, call, expected) VALUES
	('a foreign key of ours', 'ALTER TABLE coupon.issuance ADD FOREIGN KEY (user_id) REFERENCES writer_user NOT VALID', 'issue', '0A000'),
	('a foreign key of ours', 'ALTER TABLE coupon.request_0 ADD FOREIGN KEY (user_id) REFERENCES writer_user; ALTER TABLE coupon.request_1 ADD FOREIGN KEY (user_id) REFERENCES writer_user', 'request', '0A000'),
	('a foreign key to us', 'CREATE TABLE writer_ref (campaign_id bigint, serial bigint, FOREIGN KEY (campaign_id, serial) REFERENCES coupon.issuance)', 'issue', 'works'),
	('a foreign key to us', 'CREATE TABLE writer_ref (campaign_id bigint, serial bigint, FOREIGN KEY (campaign_id, serial) REFERENCES coupon.issuance)', 'conflict', 'works'),
	('a foreign key to us', 'CREATE TABLE writer_ref (campaign_id bigint, serial bigint, FOREIGN KEY (campaign_id, serial) REFERENCES coupon.issuance)', 'release', '0A000'),
	('a foreign key to labels', 'CREATE TABLE writer_ref (campaign_id bigint, serial bigint, FOREIGN KEY (campaign_id, serial) REFERENCES coupon.unit)', 'release', 'works');

-- columns
INSERT INTO matrix (what, change, call, expected)
SELECT 'a dropped column', replace('ALTER TABLE coupon.x ADD COLUMN own int; ALTER TABLE coupon.x DROP COLUMN own', 'x', t), c, 'works'
  FROM (VALUES ('issuance', '{issue,many,conflict,hold,confirm,release,sweep}'::text[]), ('lapsed_hold', '{sweep,inherit}'),
	('outbox', '{emit,many}'), ('request', '{request}'), ('ticket', '{join,leave}')) v(t, calls), unnest(calls) c;
INSERT INTO matrix (what, change, call, expected)
SELECT 'an added column ' || d, 'ALTER TABLE coupon.' || t || ' ADD COLUMN own ' || d, c, '0A000'
  FROM (VALUES ('issuance', 'issue'), ('lapsed_hold', 'inherit'), ('outbox', 'emit'), ('request', 'request'), ('ticket', 'join')) v(t, c),
	unnest('{int,int DEFAULT 7,int NOT NULL DEFAULT 7}'::text[]) d;
INSERT INTO matrix (what, change, call, expected) VALUES
	('a generated column', 'ALTER TABLE coupon.issuance ADD COLUMN own text GENERATED ALWAYS AS (user_id) STORED', 'issue', '0A000'),
	('an identity column', 'ALTER TABLE coupon.issuance ALTER COLUMN nth ADD GENERATED ALWAYS AS IDENTITY', 'issue', '0A000'),
	('a default', 'ALTER TABLE coupon.issuance ALTER COLUMN order_ref SET DEFAULT ''own''', 'issue', 'works'),
	('another type', 'ALTER TABLE coupon.issuance ALTER COLUMN policy TYPE json', 'issue', '0A000'),
	('another type', 'ALTER TABLE coupon.issuance ALTER COLUMN issued_at TYPE timestamptz(0)', 'issue', '0A000'),
	('another type, where nothing is written', 'ALTER TABLE coupon.issuance ALTER COLUMN policy TYPE json', 'look', '0A000'),
	('another type of the outbox', 'ALTER TABLE coupon.outbox ALTER COLUMN payload TYPE jsonb', 'emit', '0A000'),
	('another type of requests', 'ALTER TABLE coupon.request ALTER COLUMN request_key TYPE varchar(20)', 'request', '0A000'),
	('another type of campaigns', 'ALTER TABLE coupon.campaign ALTER COLUMN topic TYPE varchar(249)', 'fresh', '0A000'),
	('another collation', 'ALTER TABLE coupon.request ALTER COLUMN request_key TYPE text COLLATE "POSIX"', 'request', '0A000'),
	('another name', 'ALTER TABLE coupon.lapsed_hold RENAME COLUMN refused_ref TO own', 'sweep', 'works');
INSERT INTO call VALUES
	('look', format('SELECT coupon_campaign_close(%s), (SELECT status FROM coupon_issue(%1$s, ''holder''))', :c), NULL),
	('fresh', 'SELECT status FROM coupon_issue(coupon_campaign_create(''fresh'', 1), ''new'')', 'issued'),
	('replay', 'SELECT coupon_dead_letter_replay()', '0'),
	('null user', format('UPDATE coupon.issuance SET user_id = NULL WHERE campaign_id = %s AND serial = 1 RETURNING 1', :c), '23502'),
	('null policy', format('UPDATE coupon.campaign SET policy = NULL WHERE campaign_id = %s RETURNING 1', :c), '23502');

-- constraints
INSERT INTO matrix (what, change, call, expected) VALUES
	('a CHECK that holds', 'ALTER TABLE coupon.issuance ADD CHECK (nth < 100)', 'issue', 'works'),
	('a CHECK that fails', 'ALTER TABLE coupon.issuance ADD CHECK (user_id <> ''new'')', 'issue', '23514'),
	('a CHECK that is not validated', 'ALTER TABLE coupon.issuance ADD CHECK (user_id <> ''new'') NOT VALID', 'issue', '23514'),
	('a CHECK that fails for an update', 'ALTER TABLE coupon.issuance ADD CHECK (confirm_ref <> ''pay'')', 'confirm', '23514'),
	('a CHECK on the outbox', 'ALTER TABLE coupon.outbox ADD CHECK (key <> ''k'')', 'emit', '23514'),
	('a CHECK on the outbox, of many', 'ALTER TABLE coupon.outbox ADD CHECK (key <> ''n2'') NOT VALID', 'many', '23514'),
	('a CHECK on the memory of holds', 'ALTER TABLE coupon.lapsed_hold ADD CHECK (user_id <> ''sleeper'')', 'inherit', '23514'),
	('a CHECK on requests', 'ALTER TABLE coupon.request ADD CHECK (user_id <> ''asker'')', 'request', '23514'),
	('a CHECK on tickets', 'ALTER TABLE coupon.ticket ADD CHECK (user_id <> ''guest'')', 'join', '23514'),
	('a CHECK on tickets, of the update', 'ALTER TABLE coupon.ticket ADD CHECK (ended_at IS NULL)', 'leave', '23514'),
	('NOT NULL', 'DELETE FROM coupon.issuance; ALTER TABLE coupon.issuance ALTER COLUMN expires_at SET NOT NULL', 'issue', '23502'),
	('a parent''s CHECK', 'CREATE TABLE writer_parent (campaign_id bigint, user_id text COLLATE "C" CHECK (user_id <> ''new'')); ALTER TABLE coupon.issuance ADD CONSTRAINT writer_parent_user_id_check CHECK (user_id <> ''new''), INHERIT writer_parent', 'issue', '23514'),
	('a CHECK that calls a function', 'CREATE FUNCTION pg_temp.may(text) RETURNS boolean LANGUAGE plpgsql AS $f$ BEGIN RETURN $1 <> ''new''; END $f$; ALTER TABLE coupon.issuance ADD CHECK (pg_temp.may(user_id))', 'issue', '23514'),
	('a CHECK that calls coupon', 'CREATE FUNCTION pg_temp.also(text) RETURNS boolean LANGUAGE sql AS $f$ SELECT count(coupon_issue(coupon_campaign_create(repeat(''long'', 50), 5), $1 || ''2'')) = 1 $f$; ALTER TABLE coupon.issuance ADD CHECK (pg_temp.also(user_id)) NOT VALID', 'issue', '0A000'),
	('a CHECK that calls coupon and goes on', 'CREATE FUNCTION pg_temp.also(text) RETURNS boolean LANGUAGE plpgsql AS $f$ BEGIN PERFORM coupon_issue(coupon_campaign_create(repeat(''long'', 50), 5), $1 || ''2''); RETURN false; EXCEPTION WHEN feature_not_supported THEN RETURN true; END $f$; ALTER TABLE coupon.issuance ADD CHECK (pg_temp.also(user_id)) NOT VALID', 'many', 'works'),
	('an index that calls coupon', 'CREATE FUNCTION pg_temp.also(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $f$ BEGIN RETURN $1 NOT LIKE ''n%'' OR public.coupon_emit(''t'', ''k'', ''x'', ''{}'') IS NULL; END $f$; CREATE INDEX own ON coupon.issuance (pg_temp.also(user_id))', 'issue', '0A000'),
	('a deferrable unique constraint', 'ALTER TABLE coupon.issuance ADD UNIQUE (campaign_id, issued_at, serial) DEFERRABLE', 'issue', '0A000');

-- indexes
INSERT INTO matrix (what, change, call, expected)
SELECT 'an index by ' || i, 'CREATE INDEX own ON coupon.issuance USING ' || i, c, 'works'
  FROM unnest('{btree (issued_at), hash (user_id), gin (policy), brin (issued_at), btree (lower(user_id)), btree (shard) WHERE nth = 1}'::text[]) i,
	unnest('{issue,many,conflict,hold,confirm,release,sweep}'::text[]) c;
INSERT INTO matrix (what, change, call, expected) VALUES
	('indexes on the outbox', 'CREATE INDEX ON coupon.outbox_0 (id); CREATE INDEX ON coupon.outbox_1 (id); CREATE INDEX ON coupon.outbox_2 (id)', 'emit', 'works'),
	('indexes on the outbox', 'CREATE INDEX ON coupon.outbox_0 (id); CREATE INDEX ON coupon.outbox_1 (id); CREATE INDEX ON coupon.outbox_2 (id)', 'many', 'works'),
	('an index on requests', 'CREATE INDEX ON coupon.request_0 (requested_at); CREATE INDEX ON coupon.request_1 (requested_at)', 'request', 'works'),
	('an index on tickets', 'CREATE INDEX ON coupon.ticket_0 (ended_at); CREATE INDEX ON coupon.ticket_1 (ended_at)', 'leave', 'works'),
	('a unique index without a conflict', 'CREATE UNIQUE INDEX own ON coupon.issuance (user_id, campaign_id)', 'issue', 'works'),
	('a unique index with a conflict', 'CREATE UNIQUE INDEX own ON coupon.issuance ((1)) WHERE user_id LIKE ''n_''', 'many', '23505'),
	('another unique index of our columns', 'CREATE UNIQUE INDEX own ON coupon.issuance (serial, campaign_id)', 'conflict', 'works'),
	('another unique index that has our columns', 'CREATE UNIQUE INDEX own ON coupon.issuance (campaign_id, shard, serial)', 'conflict', 'works'),
	('a partial unique index of our columns', 'CREATE UNIQUE INDEX own ON coupon.issuance (campaign_id, serial) WHERE nth = 1', 'conflict', 'works'),
	('a unique index on the outbox', 'CREATE UNIQUE INDEX ON coupon.outbox_0 ((1)) WHERE key LIKE ''n_''; CREATE UNIQUE INDEX ON coupon.outbox_1 ((1)) WHERE key LIKE ''n_''; CREATE UNIQUE INDEX ON coupon.outbox_2 ((1)) WHERE key LIKE ''n_''', 'many', '23505'),
	('an exclusion constraint without a conflict', 'ALTER TABLE coupon.issuance ADD EXCLUDE USING btree (user_id WITH =, campaign_id WITH =)', 'issue', 'works'),
	('an exclusion constraint with a conflict', 'ALTER TABLE coupon.issuance ADD EXCLUDE USING hash (shard WITH =) WHERE (user_id LIKE ''n_'')', 'many', '23P01'),
	('our own unique index replaced', 'ALTER TABLE coupon.issuance DROP CONSTRAINT issuance_user_key; CREATE UNIQUE INDEX issuance_user_key ON coupon.issuance (campaign_id, user_id, nth)', 'issue', 'works'),
	('our own unique index replaced by none', 'ALTER TABLE coupon.issuance DROP CONSTRAINT issuance_user_key; CREATE INDEX issuance_user_key ON coupon.issuance (campaign_id, user_id, nth)', 'issue', '0A000');

-- nor is a null read where there can be none
INSERT INTO matrix (what, change, call, expected) VALUES
	('NOT NULL of our column dropped', 'ALTER TABLE coupon.issuance ALTER COLUMN user_id DROP NOT NULL', 'issue', '0A000'),
	('NOT NULL of our column dropped', 'ALTER TABLE coupon.lapsed_hold ALTER COLUMN user_id DROP NOT NULL', 'inherit', '0A000'),
	('NOT NULL of our column dropped', 'ALTER TABLE coupon.issuance ALTER COLUMN user_id DROP NOT NULL', 'null user', '0A000'),
	('NOT NULL of our column dropped', 'ALTER TABLE coupon.issuance ALTER COLUMN state DROP NOT NULL; UPDATE coupon.issuance SET state = NULL WHERE user_id = ''shopper''', 'redeem', '0A000'),
	('NOT NULL of our column dropped', 'ALTER TABLE coupon.dead_letter ALTER COLUMN payload DROP NOT NULL; INSERT INTO coupon.dead_letter VALUES (gen_random_uuid(), ''t'', ''k'', ''x'', NULL, ''r'', 1, now())', 'replay', '22004'),
	('NOT NULL of our column dropped', 'ALTER TABLE coupon.campaign ALTER COLUMN policy DROP NOT NULL', 'null policy', '0A000');

-- whatever has the name of an index of ours, and is another one, is not read as if it were it
INSERT INTO matrix (what, change, call, expected)
SELECT 'our own index replaced: ' || made,
	CASE WHEN made LIKE '%\_key ON%' THEN format('ALTER TABLE coupon.issuance DROP CONSTRAINT %s; ', split_part(made, ' ', 1)) ELSE format('DROP INDEX coupon.%s; ', split_part(made, ' ', 1)) END ||
	CASE WHEN made LIKE '%\_key ON%' THEN 'CREATE UNIQUE INDEX ' ELSE 'CREATE INDEX ' END || made, c, '0A000'
  FROM (VALUES ('issuance_user_key ON coupon.issuance (user_id, campaign_id, nth)', 'issue'), ('issuance_user_key ON coupon.issuance (campaign_id, user_id, nth, shard)', 'issue'),
	('issuance_user_key ON coupon.issuance (campaign_id, user_id, nth DESC)', 'issue'), ('issuance_user_key ON coupon.issuance (campaign_id, user_id COLLATE "default", nth)', 'issue'),
	('issuance_user_key ON coupon.issuance (campaign_id, user_id, nth) WHERE nth > 0', 'issue'), ('issuance_serial_key ON coupon.issuance (serial, campaign_id)', 'hold'),
	('issuance_lapse_idx ON coupon.issuance (user_id)', 'sweep'), ('issuance_lapse_idx ON coupon.issuance USING hash (held_until)', 'sweep'),
	('lapsed_hold_idx ON coupon.lapsed_hold (user_id)', 'confirm')) x(made, c);

-- inheritance and storage
INSERT INTO matrix (what, change, call, expected, version) VALUES
	('a child', 'CREATE TABLE writer_child () INHERITS (coupon.issuance)', 'issue', '0A000', 0),
	('a child that is gone', 'CREATE TABLE writer_child () INHERITS (coupon.issuance); DROP TABLE writer_child', 'issue', 'works', 0),
	('a child of the outbox', 'CREATE TABLE writer_child () INHERITS (coupon.outbox_0, coupon.outbox_1, coupon.outbox_2)', 'emit', '0A000', 0),
	('a parent', 'CREATE TABLE writer_parent (campaign_id bigint NOT NULL); ALTER TABLE coupon.issuance INHERIT writer_parent', 'issue', 'works', 0),
	('as a partition', 'CREATE TABLE writer_part (LIKE coupon.issuance) PARTITION BY RANGE (campaign_id); ALTER TABLE writer_part ATTACH PARTITION coupon.issuance FOR VALUES FROM (0) TO (1000000000000)', 'issue', '0A000', 0),
	('UNLOGGED', 'ALTER TABLE coupon.issuance SET UNLOGGED', 'issue', '0A000', 0),
	('UNLOGGED requests', 'ALTER TABLE coupon.request_0 SET UNLOGGED; ALTER TABLE coupon.request_1 SET UNLOGGED', 'request', '0A000', 0),
	('UNLOGGED and back', 'ALTER TABLE coupon.issuance SET UNLOGGED; ALTER TABLE coupon.issuance SET LOGGED', 'issue', 'works', 0),
	('another access method', 'CREATE ACCESS METHOD writer_heap TYPE TABLE HANDLER heap_tableam_handler; ALTER TABLE coupon.issuance SET ACCESS METHOD writer_heap', 'issue', '0A000', 150000),
	('CLUSTER', 'CLUSTER coupon.issuance USING issuance_user_key', 'issue', 'works', 0),
	('CLUSTER', 'CLUSTER coupon.issuance USING issuance_user_key', 'confirm', 'works', 0),
	('REINDEX', 'REINDEX TABLE coupon.issuance', 'conflict', 'works', 0),
	('storage parameters', 'ALTER TABLE coupon.issuance SET (fillfactor = 50, toast_tuple_target = 128); ALTER TABLE coupon.issuance ALTER COLUMN policy SET STORAGE EXTERNAL, ALTER COLUMN user_id SET STATISTICS 1000', 'confirm', 'works', 0),
	('TRUNCATE of the memory of holds', 'TRUNCATE coupon.lapsed_hold', 'sweep', 'works', 0);

-- publications: an update or deletion needs a replica identity, as anywhere
INSERT INTO matrix (what, change, call, expected) 
SELECT 'a publication for all tables', 'CREATE PUBLICATION writer FOR ALL TABLES', name, 'works' FROM call WHERE name <> 'look';
INSERT INTO matrix (what, change, call, expected) VALUES
	('a publication without replica identity', 'ALTER TABLE coupon.issuance REPLICA IDENTITY NOTHING; CREATE PUBLICATION writer FOR TABLE coupon.issuance', 'issue', 'works'),
	('a publication without replica identity', 'ALTER TABLE coupon.issuance REPLICA IDENTITY NOTHING; CREATE PUBLICATION writer FOR TABLE coupon.issuance', 'conflict', 'works'),
	('a publication without replica identity', 'ALTER TABLE coupon.issuance REPLICA IDENTITY NOTHING; CREATE PUBLICATION writer FOR TABLE coupon.issuance', 'release', '55000'),
	('a publication without replica identity', 'ALTER TABLE coupon.issuance REPLICA IDENTITY NOTHING; CREATE PUBLICATION writer FOR TABLE coupon.issuance', 'confirm', '55000'),
	('a publication of inserts alone', 'ALTER TABLE coupon.issuance REPLICA IDENTITY NOTHING; CREATE PUBLICATION writer FOR TABLE coupon.issuance WITH (publish = ''insert'')', 'confirm', 'works');

SELECT is(pg_temp.with_change(change, sql), CASE expected WHEN 'works' THEN answer ELSE expected END,
	format('%s: %s', call, what))
  FROM matrix JOIN call ON name = call
 WHERE version <= current_setting('server_version_num')::int
 ORDER BY n;

-- nothing of all that is left
SELECT is(pg_temp.with_change('SELECT 1', sql), answer, name || ': after all changes') FROM call WHERE name <> 'look';
SELECT is((SELECT count(*) FROM coupon_verify(:c)), 0::bigint, 'verify finds nothing');

-- what an index of another's holds is the row that was written
CREATE INDEX own ON coupon.issuance (lower(user_id)) WHERE campaign_id = :c;
SELECT status FROM coupon_issue(:c, 'Indexed');
SELECT status FROM coupon_confirm(:c, 1, 'holder', 'pay');
SET LOCAL enable_seqscan = off;
SELECT is((SELECT status FROM coupon_issue(:c, 'Indexed')), 'already_issued', 'issued');
SELECT is((SELECT string_agg(state, ' ') FROM coupon.issuance WHERE campaign_id = :c AND lower(user_id) IN ('indexed', 'holder')),
	'issued issued', 'and found by another''s index');
RESET enable_seqscan;

-- statistics count what was written
SELECT pg_stat_get_xact_tuples_inserted('coupon.issuance'::regclass) AS i, pg_stat_get_xact_tuples_updated('coupon.issuance'::regclass) AS u,
	pg_stat_get_xact_tuples_deleted('coupon.issuance'::regclass) AS d \gset
SELECT count(*) FROM coupon_issue_many(:c, '{s1,s2,s3}');
SELECT status FROM coupon_hold(:c, 20, 's4');
SELECT status FROM coupon_hold(:c, 21, 's5');
SELECT status FROM coupon_confirm(:c, 20, 's4', 'p');
SELECT coupon_release(:c, 21, 's5');
SELECT is(ARRAY[pg_stat_get_xact_tuples_inserted('coupon.issuance'::regclass) - :i, pg_stat_get_xact_tuples_updated('coupon.issuance'::regclass) - :u,
	pg_stat_get_xact_tuples_deleted('coupon.issuance'::regclass) - :d], ARRAY[5, 1, 1]::bigint[], 'statistics: inserted, updated, deleted');

-- limits of a campaign that only a dropped CHECK allows
SELECT coupon_campaign_create('beyond', 5) AS b \gset
ALTER TABLE coupon.campaign DROP CONSTRAINT campaign_per_user_limit_check;
UPDATE coupon.campaign SET per_user_limit = 1000000 WHERE campaign_id = :b;
INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy) VALUES (:b, 1, 0, 900000, now(), 'many', 'issued', '{}');
SELECT is((SELECT status FROM coupon_hold_any(:b, 'many')), 'held', 'a limit beyond all limits is the highest');
UPDATE coupon.campaign SET per_user_limit = -1000000 WHERE campaign_id = :b;
SELECT is((SELECT status FROM coupon_hold_any(:b, 'other')), 'held', 'and one below all the lowest');

SELECT * FROM finish();
ROLLBACK;
