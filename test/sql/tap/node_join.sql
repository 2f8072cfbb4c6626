-- A server that joins a sale on several nodes.
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT no_plan();
SELECT throws_ok($$ SELECT coupon_node_join(3, 'three', 'host=three', '{"nodes": [], "slots": []}') $$, 'UC303', 'this is no map', 'it needs the whole map');
SELECT jsonb_build_object('nodes', '[{"node_id": 1, "name": "one", "conninfo": "", "state": "active", "version": 1}]'::jsonb,
	'slots', (SELECT jsonb_agg(jsonb_build_array(s, 1, 1)) FROM generate_series(0, 1023) s)) AS map \gset
SELECT throws_ok(format($$ SELECT coupon_node_join(1, 'uno', 'host=one', %L) $$, :'map'), 'UC303', 'there is a node of that number', 'and a number of its own');
SELECT lives_ok(format($$ SELECT coupon_node_join(3, 'three', 'host=three', %L) $$, :'map'), 'it joins');
SELECT is((SELECT string_agg(concat_ws(' ', name, slots, is_self), ', ' ORDER BY node_id) FROM coupon.node_status), 'one 1024 f, three 0 t', 'without slots');
SELECT coupon_campaign_create('here, too', 100) AS c \gset
SELECT throws_ok(format($$ SELECT coupon_issue(%s, 'ann') $$, :c), 'UC301', NULL, 'and has nobody yet');
SELECT * FROM finish();
ROLLBACK;
