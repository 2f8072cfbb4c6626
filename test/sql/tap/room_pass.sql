-- Passes: what a room of another node says of its guests is believed by its signature alone.
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT no_plan();

-- HMAC-SHA256 as RFC 4231 has it: test case 2, whose key is "Jefe"
SELECT is(coupon.pass_signature('what do ya want for nothing?', k),
	'5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843', 'the signature is HMAC-SHA256')
  FROM (SELECT string_agg(set_byte('\x00', 0, get_byte(p, i) # 54), '' ORDER BY i) AS inner_key, string_agg(set_byte('\x00', 0, get_byte(p, i) # 92), '' ORDER BY i) AS outer_key
          FROM (SELECT '\x4a656665'::bytea || decode(repeat('00', 60), 'hex') AS p) x, generate_series(0, 63) i) b,
       LATERAL (SELECT row(1, b.inner_key, b.outer_key, true, now())::coupon.room_key AS k) y;

SELECT throws_ok('SELECT coupon_room_key_rotate()', 'UC303', NULL, 'an ordinary server has no use for a key');
SELECT coupon_node_found(1, 'one', 'host=one') AS ignore \gset
SELECT throws_ok($$ SELECT coupon_room_pass('1.1.00000000000000000000000000000000') $$, 'UC203', NULL, 'nobody is admitted');
SELECT is(coupon_room_key_rotate(), 1, 'the first key');
SELECT is((SELECT octet_length(inner_key) || ' ' || octet_length(outer_key) || ' ' || signs FROM coupon.room_key), '64 64 true', 'of 64 bytes, and it signs');

-- passes as a room of another node signs them
CREATE FUNCTION pg_temp.pass(room bigint, user_id text, until timestamptz, key integer) RETURNS text LANGUAGE sql AS $$
	SELECT w || '.' || coupon.pass_signature(w, k)
	  FROM coupon.room_key k, LATERAL (SELECT format('%s.%s.%s.%s', $1, ceil(extract(epoch FROM $3))::bigint, $4, encode(convert_to($2, 'UTF8'), 'hex')) AS w) x
	 WHERE k.key_id = $4 $$;
SELECT coupon_campaign_create('behind a room', 100, 2) AS c \gset
SELECT coupon_campaign_create('behind another', 100) AS d \gset
UPDATE coupon.campaign SET room_id = 4711 WHERE campaign_id = :c;
UPDATE coupon.campaign SET room_id = 4712 WHERE campaign_id = :d;
SELECT is((SELECT status FROM coupon_issue(:c, 'ann')), 'not_admitted', 'who has no pass is not admitted');
SELECT pg_temp.pass(4711, 'ann', now() + interval '1 hour', 1) AS pass \gset
SELECT cmp_ok(coupon_room_admit(:'pass'), '>', now(), 'a pass is believed');
SELECT is((SELECT status FROM coupon_issue(:c, 'ann')), 'issued', 'and its user is issued a unit');
SELECT is((SELECT status FROM coupon_issue(:c, 'ben')), 'not_admitted', 'nobody else is');
SELECT is((SELECT status FROM coupon_issue(:d, 'ann')), 'not_admitted', 'nor elsewhere');
SELECT lives_ok(format('SELECT coupon_room_admit(%L)', :'pass'), 'twice is as good as once');
SELECT throws_ok(format('SELECT coupon_room_admit(%L)', replace(:'pass', '.616e6e.', '.62656e.')), 'UC203', 'not admitted', 'the pass of one user is not another''s');
SELECT throws_ok(format('SELECT coupon_room_admit(%L)', replace(:'pass', '4711.', '4712.')), 'UC203', NULL, 'nor that of another room');
SELECT throws_ok(format('SELECT coupon_room_admit(%L)', regexp_replace(:'pass', '\.(\d)(\d+)', '.9\2')), 'UC203', NULL, 'nor longer than it says');
SELECT throws_ok(format('SELECT coupon_room_admit(%L)', pg_temp.pass(4711, 'ben', now() - interval '2 s', 1)), 'UC203', NULL, 'one that has ended is not good');
SELECT lives_ok(format('SELECT coupon_room_admit(%L)', pg_temp.pass(4711, U&'\C0AC\C6A9\C790.1', now() + interval '1 hour', 1)), 'a user may be called anything');
SELECT is((SELECT status FROM coupon_issue(:c, U&'\C0AC\C6A9\C790.1')), 'issued', 'and is believed');
UPDATE coupon.room_guest SET until = now() - interval '1 s' WHERE user_id = 'ann';
SELECT is((SELECT status FROM coupon_issue(:c, 'ann', 'k')), 'not_admitted', 'when it has ended it admits nobody');

-- rotation: the key before is good, the one before that is not
SELECT pg_temp.pass(4711, 'cid', now() + interval '1 hour', 1) AS old_pass \gset
SELECT is(coupon_room_key_rotate(), 2, 'a second key');
SELECT lives_ok(format('SELECT coupon_room_admit(%L)', :'old_pass'), 'passes of the first are good');
SELECT is(coupon_room_key_rotate(), 3, 'a third key');
SELECT throws_ok(format('SELECT coupon_room_admit(%L)', :'old_pass'), 'UC203', NULL, 'those of the first are not any more');

-- a rotation that another node could not end, and the next one, which has the same number
SELECT coupon.room_key_put(to_jsonb(coupon.room_key_new(4))) AS ignore \gset
SELECT to_jsonb(coupon.room_key_new(4)) AS next \gset
SELECT coupon.room_key_put(:'next') AS ignore \gset
SELECT coupon.room_key_put(:'next'::jsonb || '{"signs": true}') AS ignore \gset
SELECT is((SELECT k.inner_key::text || k.signs FROM coupon.room_key k WHERE k.key_id = 4), (:'next'::jsonb ->> 'inner_key') || 'true', 'a key that not all nodes got is replaced');
SELECT throws_ok(format('SELECT coupon.room_key_put(%L)', to_jsonb(coupon.room_key_new(4))), 'UC303', NULL, 'one that signs is not, and the caller is told');

-- a room that is here: its own sessions decide, and nobody's pass
SELECT coupon_room_create('hall', 10) AS r \gset
UPDATE coupon.campaign SET room_id = :r WHERE campaign_id = :d;
INSERT INTO coupon.room_guest VALUES (:r, 'dan', now() + interval '1 hour');
SELECT is((SELECT status FROM coupon_issue(:d, 'dan')), 'not_admitted', 'where the room is, its own sessions decide');
SELECT * FROM finish();
ROLLBACK;
