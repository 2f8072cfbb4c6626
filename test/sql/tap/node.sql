-- A node of a sale: the hash, the map, and who is refused.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL coupon.sold_out_wait = 0;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT no_plan();

-- the hash: vectors that must never change; zlib.crc32(id) >> 16 & 1023 in Python
SELECT is(coupon_slot(v.id), v.slot, format('the slot of "%s"', v.id)) FROM (VALUES
	('', 0), ('1', 988), ('42', 548), ('alice', 910), ('user-1', 550), ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 382),
	('campaign 1000000000', 365), (U&'\C0AC\C6A9\C790', 632)) v(id, slot);
SELECT is(coupon_slot(42::bigint), 548, 'of a bigint as of its text');
SELECT is(coupon_slot('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'::uuid), 382, 'of a uuid as of its text');
SELECT throws_ok('SELECT coupon_slot(NULL::text)', '22004', NULL, 'of nobody');
SELECT is(coupon_slot(repeat('x', 3000)), coupon_slot(repeat('x', 3000) || ''), 'of a text of any length');
SELECT is(coupon_home(999999999, 'alice'), 910, 'most campaigns: the user decides');
SELECT is(coupon_home(1000000000, 'alice'), 365, 'one with a home of its own: the campaign does');
SELECT cmp_ok((SELECT count(DISTINCT coupon_slot(n::bigint)) FROM generate_series(1, 20000) n), '=', 1024::bigint, 'all slots are used');
SELECT cmp_ok((SELECT max(n) FROM (SELECT count(*) AS n FROM generate_series(1, 102400) n GROUP BY coupon_slot(n::bigint)) s), '<', 130::bigint, 'evenly');

-- an ordinary server
SELECT coupon_campaign_create('everywhere', 100, 2) AS c \gset
SELECT is((SELECT status FROM coupon_issue(:c, 'ann')), 'issued', 'a server that is no node has everybody');
SELECT is(coupon_node_self(), NULL, 'it is none');
SELECT is(coupon_node_map(), '{"self": null, "nodes": [], "slots": [], "numbers": null}', 'and knows none');
SELECT is((SELECT get_byte(uuid_send(request_id), 8) & 3 FROM coupon_request(:c, 'gil')), (SELECT get_byte(uuid_send(request_id), 8) & 3 FROM coupon_request(:c, 'gil')), 'a request has an id');

-- the first node
SELECT lives_ok($$ SELECT coupon_node_found(1, 'one', 'host=one dbname=sale', 'http://one:8080') $$, 'it becomes the first');
SELECT is(coupon_node_self(), 1, 'with a number');
SELECT is((SELECT concat_ws(' ', slots, leaving, is_self, state) FROM coupon.node_status), '1024 0 t active', 'and all slots');
SELECT is((SELECT status FROM coupon_issue(:c, 'ben')), 'issued', 'everybody stays at home');
SELECT throws_ok($$ SELECT coupon_node_found(2, 'two', 'host=two') $$, 'UC303', 'this server is a node already', 'once is enough');
SELECT is((SELECT count(*) FROM pg_locks WHERE relation = 'coupon.slot'::regclass AND pid = pg_backend_pid() AND mode = 'RowExclusiveLock'), 1::bigint, 'who was asked for is locked until the end of the transaction');

-- a slot that is leaving
UPDATE coupon.slot SET leaving = 2 WHERE slot = coupon_slot('ann');
SELECT throws_ok(format($$ SELECT coupon_issue(%s, 'ann') $$, :c), 'UC301', 'the user has their home on another node', 'issue');
SELECT throws_ok(format($$ SELECT coupon_request(%s, 'ann') $$, :c), 'UC301', NULL, 'request');
SELECT throws_ok(format($$ SELECT coupon_request_status_of(%s, 'ann') $$, :c), 'UC301', NULL, 'status of');
SELECT throws_ok(format($$ SELECT coupon_hold(%s, 7, 'ann') $$, :c), 'UC301', NULL, 'hold');
SELECT throws_ok(format($$ SELECT * FROM coupon_hold_many(%s, '{7}', 'ann') $$, :c), 'UC301', NULL, 'hold_many');
SELECT throws_ok(format($$ SELECT coupon_hold_any(%s, 'ann') $$, :c), 'UC301', NULL, 'hold_any');
SELECT throws_ok(format($$ SELECT coupon_confirm(%s, 7, 'ann', 'r') $$, :c), 'UC301', NULL, 'confirm');
SELECT throws_ok(format($$ SELECT coupon_release(%s, 7, 'ann') $$, :c), 'UC301', NULL, 'release');
SELECT throws_ok(format($$ SELECT coupon_redeem(%s, 'ann', 'o') $$, :c), 'UC301', NULL, 'redeem');
SELECT throws_ok(format($$ SELECT coupon_redeem_cancel(%s, 'ann', 'o') $$, :c), 'UC301', NULL, 'redeem_cancel');
SELECT throws_ok(format($$ SELECT coupon_revoke(%s, 'ann', 'r') $$, :c), 'UC301', NULL, 'revoke');
SELECT is((SELECT string_agg(concat_ws(' ', user_id, status), ', ') FROM coupon_issue_many(:c, '{ben,ann,cid,NULL}')),
	'ben issued, ann moved, cid issued, invalid', 'in a batch the others go on');
SELECT matches((SELECT string_agg(concat_ws(' ', a.status, a.body), ', ') FROM coupon.http_issue(ARRAY[:c, :c]::bigint[], '{ann,dan}') a),
	'^503 .*moved.*, 201 ', 'over HTTP: 503, and the others go on');
SELECT matches((SELECT string_agg(concat_ws(' ', a.status, a.body), ', ') FROM coupon.http_request(ARRAY[:c, :c]::bigint[], '{ann,eve}') a),
	'^503 .*moved.*, 202 ', 'a request, too');
SELECT is((SELECT get_byte(uuid_send(request_id), 8) & 3 = 0 AND get_byte(uuid_send(request_id), 9) >> 2 = 1 FROM coupon_request(:c, 'fay')), true, 'ids of requests tell the node');
UPDATE coupon.slot SET leaving = NULL;
SELECT is((SELECT status FROM coupon_issue(:c, 'ann')), 'issued', 'it stays after all');

-- what keeps a slot that is leaving
SELECT is(coupon.slots_hindered(ARRAY[coupon_slot('fay')]::smallint[]), 'requests of its users wait', 'requests are decided first');
SELECT is(coupon.slots_hindered(ARRAY[coupon_slot('zoe')]::smallint[]), 'a campaign is known to this node only', 'nobody goes where their campaign is not');
UPDATE coupon.campaign SET shared = true, keeper = 1;
SELECT is(coupon.slots_hindered(ARRAY[coupon_slot('zoe')]::smallint[]), NULL, 'nothing keeps the others');

-- a savepoint that is rolled back takes the change with it
SAVEPOINT s;
UPDATE coupon.slot SET node_id = 2 WHERE slot = coupon_slot('ben');
SELECT throws_ok(format($$ SELECT coupon_issue(%s, 'ben') $$, :c), 'UC301', NULL, 'given away');
ROLLBACK TO s;
SELECT is((SELECT status FROM coupon_issue(:c, 'ben')), 'already_issued', 'and not');

-- what others know
SELECT is(coupon_node_learn(coupon_node_map()), 0, 'its own map is nothing new');
SELECT is(coupon_node_learn('{"nodes": [{"node_id": 2, "name": "two", "conninfo": "host=two", "http_url": null, "state": "active", "version": 1}],
	"slots": [[988, 2, 1], [548, 1, 7]]}'), 1, 'another node; neither a version that is no higher nor what would be given to it');
SELECT is((SELECT count(*) FROM coupon.slot WHERE node_id <> 1 OR version <> 1), 0::bigint, 'the slots are as they were');
SELECT is(coupon_node_learn('{"nodes": [{"node_id": 2, "name": "two", "conninfo": "host=two.new", "http_url": null, "state": "draining", "version": 2}],
	"slots": [[988, 2, 3]]}'), 2, 'a higher version is true');
SELECT is((SELECT string_agg(concat_ws(' ', name, state, slots, conninfo), ', ' ORDER BY node_id) FROM coupon.node_status),
	'one active 1023 host=one dbname=sale, two draining 1 host=two.new', 'as told');
SELECT throws_ok(format($$ SELECT coupon_issue(%s, '1') $$, :c), 'UC301', NULL, 'what another has got is not sold here');
SELECT coupon_node_map() AS map \gset

SELECT throws_ok(format($$ SELECT coupon_node_join(3, 'three', 'host=three', %L) $$, :'map'), 'UC303', 'a server that has campaigns cannot join', 'who has users cannot join');

-- labels: what other nodes have of the stock has none, and seats stay together
SELECT coupon_campaign_create('plain', 3) AS plain, coupon_campaign_create('empty', 0) AS empty \gset
SELECT is(coupon_campaign_share(c), true, 'shared') FROM unnest(ARRAY[:plain, :empty]) c;
SELECT throws_ok(format($$ SELECT coupon_codes_import(%s, '{A,B,C}') $$, :plain), 'UC004', 'units of a shared campaign cannot get labels', 'no codes for units that others may have issued');
SELECT throws_ok(format($$ SELECT coupon_codes_generate(%s, NULL, 3) $$, :plain), 'UC004', NULL, 'nor generated ones');
SELECT throws_ok(format($$ SELECT coupon_units_import(%s, '{A}') $$, :empty), 'UC004', NULL, 'seats are not shared');
SELECT is(coupon_codes_import(:empty, '{A,B}'), 2::bigint, 'codes are');

-- a conninfo is coupon_admin's to write, and the server's passwords and files are not
SELECT is((SELECT error FROM coupon.peers_ask('{2}', ARRAY[format('host=127.0.0.1 port=1 dbname=x %s=x', o)], 'hello', ARRAY['{}'])),
	format('conninfo of a node cannot have "%s"', o), format('no connection is made with %s', o))
  FROM unnest('{hostaddr,password,passfile,service,sslkey,sslcert,options}'::text[]) o;
SELECT alike((SELECT error FROM coupon.peers_ask('{2}', ARRAY['host=127.0.0.1 port=1 dbname=x user=y sslmode=prefer'], 'hello', ARRAY['{}'])),
	'%refused%', 'one is with the name of a host');

SELECT * FROM finish();
ROLLBACK;
