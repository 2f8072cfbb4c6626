-- Holds: seats imported, held, confirmed, released, run out.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL coupon.sold_out_wait = 0;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT plan(156);

CREATE FUNCTION pg_temp.hold(bigint, bigint, text, interval DEFAULT '5 min') RETURNS text LANGUAGE sql AS
	$$ SELECT status FROM coupon_hold($1, $2, $3, $4) $$;
CREATE FUNCTION pg_temp.many(bigint, bigint[], text, interval DEFAULT '5 min') RETURNS text LANGUAGE sql AS
	$$ SELECT string_agg(serial || ' ' || status, ', ') FROM coupon_hold_many($1, $2, $3, $4) $$;
CREATE FUNCTION pg_temp.hold_any(bigint, text, interval DEFAULT '5 min') RETURNS text LANGUAGE sql AS
	$$ SELECT status FROM coupon_hold_any($1, $2, $3) $$;
CREATE FUNCTION pg_temp.confirm(bigint, bigint, text, text) RETURNS text LANGUAGE sql AS
	$$ SELECT status FROM coupon_confirm($1, $2, $3, $4) $$;
-- what each unit is, in short: F free, H held, I issued
CREATE FUNCTION pg_temp.map(bigint) RETURNS text LANGUAGE sql AS
	$$ SELECT string_agg(left(status, 1), '' ORDER BY serial) FROM coupon_units($1) $$;
CREATE FUNCTION pg_temp.run_out(bigint, bigint) RETURNS void LANGUAGE sql AS
	$$ UPDATE coupon.issuance SET held_until = clock_timestamp() - interval '1 ms' WHERE campaign_id = $1 AND serial = $2 AND state = 'held' $$;
-- the events since the last call
CREATE TEMP TABLE seen (id uuid);
CREATE FUNCTION pg_temp.events() RETURNS text LANGUAGE sql AS $$
	WITH new AS (INSERT INTO seen SELECT id FROM coupon.outbox WHERE id NOT IN (SELECT id FROM seen) RETURNING id)
	SELECT coalesce(string_agg(substr(type, 8) || ':' || key, ' ' ORDER BY o.id), '') FROM coupon.outbox o JOIN new USING (id)
$$;
-- units with labels
SELECT coupon_campaign_create('hall', 0, per_user_limit => 2, policy => '{"usage_period_days": 1}') AS c \gset
SELECT is(coupon_units_import(:c, ARRAY['A1', 'A2', 'A3', 'A4']), 4::bigint, 'units are imported');
SELECT is(coupon_units_import(:c, ARRAY['B1', 'B2']), 2::bigint, 'a later import appends');
SELECT is((SELECT string_agg(serial || label, ' ' ORDER BY serial) FROM coupon_units(:c)), '1A1 2A2 3A3 4A4 5B1 6B2', 'serials are consecutive, in the order of the array');
SELECT throws_ok(format('SELECT coupon_units_import(%s, ARRAY[''C1'', ''C2'', ''C1''])', :c), '23505', 'duplicate label', 'twice in the array: ERROR');
SELECT throws_ok(format('SELECT coupon_units_import(%s, ARRAY[''C1'', ''B2''])', :c), '23505', 'duplicate label', 'there already: ERROR');
SELECT is((SELECT count(*) FROM coupon_units(:c)), 6::bigint, 'and nothing was imported');
SELECT is(coupon_units_import(:c, '{}'), 0::bigint, 'an empty array: nothing');
SELECT throws_ok(format('SELECT coupon_codes_import(%s, ''{X}'')', :c), 'UC004', NULL, 'no codes beside seats');
SELECT coupon_campaign_create('codes', 0) AS k \gset
SELECT coupon_codes_import(:k, '{SECRET1,SECRET2}') AS ignore \gset
SELECT throws_ok(format('SELECT coupon_units_import(%s, ''{A1}'')', :k), 'UC004', NULL, 'no seats beside codes');
SELECT coupon_campaign_create('plain', 3) AS p \gset
SELECT throws_ok(format('SELECT coupon_units_import(%s, ''{A1,A2}'')', :p), 'UC004', NULL, 'fewer labels than units: ERROR');
SELECT is(coupon_units_import(:p, '{A1,A2,A3,A4}'), 4::bigint, 'the units of a campaign that issued none get labels, the rest is new');
SELECT is((SELECT string_agg(serial || label, ' ' ORDER BY serial) FROM coupon_units(:p)), '1A1 2A2 3A3 4A4', 'in order');
SELECT is(pg_temp.map(:c), 'FFFFFF', 'all are free');
SELECT throws_ok('SELECT * FROM coupon_units(-1)', 'UC001', NULL, 'units of an unknown campaign');

-- hold
SELECT pg_temp.events() AS ignore \gset
CREATE TEMP TABLE held AS SELECT * FROM coupon_hold(:c, 3, 'alice');
SELECT is(user_id || ' ' || status || ' ' || serial || ' ' || label, 'alice held 3 A3', 'held, with its label') FROM held;
SELECT ok(held_until BETWEEN now() + interval '5 min' AND clock_timestamp() + interval '5 min', 'for five minutes') FROM held;
SELECT is(pg_temp.events(), 'held:alice', 'one event');
SELECT is(payload::jsonb - 'at', jsonb_build_object('campaign_id', :c, 'user_id', 'alice', 'serial', 3, 'label', 'A3',
	'held_until', regexp_replace(to_char(h.held_until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), '\.?0*$', '') || 'Z'), 'that says what and until when')
  FROM coupon.outbox o, held h WHERE o.type = 'coupon.held' AND o.key = 'alice';
SELECT results_eq(format('SELECT state COLLATE "default", held_until, expires_at, confirm_ref, policy FROM coupon.issuance WHERE campaign_id = %s', :c),
	$$ SELECT 'held', held_until, NULL::timestamptz, NULL::text, '{"usage_period_days": 1}'::jsonb FROM held $$, 'F18: the state is in the row');
SELECT is(pg_temp.map(:c), 'FFHFFF', 'the map shows it');
SELECT is((SELECT remaining FROM coupon_status(:c)), 5::bigint, 'it is not on sale');
SELECT results_eq(format('SELECT status, held_until FROM coupon_hold(%s, 3, ''alice'', ''1 hour'')', :c),
	$$ SELECT 'already_held', held_until FROM held $$, 'again: already_held, and no longer than before');
SELECT is(pg_temp.hold(:c, 3, 'bob'), 'taken', 'F18: another user: taken');
SELECT is(pg_temp.events(), '', 'no event for answers');
SELECT ok(label IS NULL AND held_until IS NULL AND serial = 3, 'a refusal says nothing of the other''s hold') FROM coupon_hold(:c, 3, 'bob');
SELECT throws_ok(format('SELECT coupon_hold(%s, 7, ''bob'')', :c), 'UC008', 'unknown unit', 'no such serial: ERROR');
SELECT is(pg_temp.hold(:c, 4, 'alice'), 'held', 'a second unit');
SELECT is(pg_temp.hold(:c, 5, 'alice'), 'limit_reached', 'holds count for the limit');
SELECT is(pg_temp.map(:c), 'FFHHFF', 'and the unit stays free');
SELECT is(pg_temp.hold(:c, 4, 'alice'), 'already_held', 'what they have they are told first');
SELECT is((SELECT status FROM coupon_hold(:c, 5, 7)), 'held', 'numeric users');
SELECT is(pg_temp.hold(:c, 5, '7'), 'already_held', 'the text is the same user');
SELECT is((SELECT count(*) FROM coupon_verify(:c)), 0::bigint, 'verify finds nothing');

-- other calls of who has only holds
SELECT results_eq(format('SELECT status, serial, code FROM coupon_issue(%s, ''alice'')', :c), $$ VALUES ('held', NULL::bigint, NULL::text) $$, 'issue: held');
SELECT is((SELECT answered_held FROM coupon_status(:c)), 1::bigint, 'F7: which is counted');
SELECT is((SELECT status || outcome FROM coupon_request(:c, 'alice'::text)), 'REFUSEDheld', 'a request: refused, held');
SELECT results_eq(format('SELECT status, serial FROM coupon_redeem(%s, ''alice'', ''o'')', :c), $$ VALUES ('held', 3::bigint) $$, 'a hold cannot be redeemed');
SELECT is((SELECT status FROM coupon_redeem(:c, 'alice', 'o', 4)), 'held', 'nor by name');
SELECT is((SELECT status FROM coupon_redeem_cancel(:c, 'alice', 'o')), 'not_redeemed', 'nor its redemption cancelled');
SELECT is(coupon_expire(1000000) >= 0 AND pg_temp.map(:c) = 'FFHHHF', true, 'the end of usage periods does not touch holds');
SELECT is((SELECT status FROM coupon_issue(:c, 'zoe')), 'issued', 'issuing goes on beside');
SELECT is(serial IN (1, 2, 6), true, 'with what is free') FROM coupon.issuance WHERE campaign_id = :c AND user_id = 'zoe';
SELECT pg_temp.events() AS ignore \gset

-- release
SELECT is(coupon_release(:c, 4, 'bob'), false, 'F18: another''s hold is not released');
SELECT is(coupon_release(:c, 1, 'bob'), false, 'nor what is free');
SELECT is(coupon_release(:c, 4, 'alice'), true, 'release: true');
SELECT is(pg_temp.events(), 'hold_released:alice', 'one event');
SELECT is(coupon_release(:c, 4, 'alice'), false, 'again: false');
SELECT is(pg_temp.events(), '', 'and none');
SELECT is(pg_temp.hold(:c, 4, 'bob'), 'busy', 'the unit comes back with the commit');
SELECT is(coupon_release(:c, 5, 7), true, 'numeric users');
SELECT throws_ok(format('SELECT coupon_release(%s, 7, ''bob'')', :c), 'UC008', NULL, 'no such serial: ERROR');

-- confirm
SELECT pg_temp.events() AS ignore \gset
SELECT is(pg_temp.confirm(:c, 3, 'bob', 'pay 1'), 'not_held', 'F18: another''s hold is not confirmed');
SELECT is(pg_temp.confirm(:c, 1, 'bob', 'pay 1'), 'not_held', 'F24: nor what is free') WHERE pg_temp.map(:c) LIKE 'F%'
UNION ALL SELECT is(pg_temp.confirm(:c, 2, 'bob', 'pay 1'), 'not_held', 'F24: nor what is free') WHERE pg_temp.map(:c) NOT LIKE 'F%';
SELECT is(pg_temp.events(), '', 'F18: of strangers nothing is recorded');
CREATE TEMP TABLE confirmed AS SELECT * FROM coupon_confirm(:c, 3, 'alice', 'pay 1');
SELECT is(user_id || ' ' || status || ' ' || serial || ' ' || label, 'alice confirmed 3 A3', 'confirmed') FROM confirmed WHERE held_until IS NULL;
SELECT is(pg_temp.events(), 'confirmed:alice', 'one event');
SELECT results_eq(format('SELECT state COLLATE "default", held_until, confirm_ref, expires_at - issued_at, issued_at > now() FROM coupon.issuance WHERE campaign_id = %s AND serial = 3', :c),
	$$ VALUES ('issued', NULL::timestamptz, 'pay 1', interval '1 day', true) $$, 'it is an issuance, and its usage period begins now') ;
SELECT is(payload::jsonb - '{issued_at,expires_at}'::text[], jsonb_build_object('campaign_id', :c, 'user_id', 'alice', 'serial', 3, 'label', 'A3', 'ref', 'pay 1',
	'policy', '{"usage_period_days": 1}'::jsonb), 'the event says what was paid for') FROM coupon.outbox WHERE type = 'coupon.confirmed' AND key = 'alice';
SELECT is(pg_temp.confirm(:c, 3, 'alice', 'pay 1'), 'already_confirmed', 'F18: double payment is safe: the same ref');
SELECT is(pg_temp.events(), '', 'and no event');
SELECT is(pg_temp.confirm(:c, 3, 'alice', 'pay 2'), 'other_ref', 'another ref says so');
SELECT is(pg_temp.events(), 'confirm_refused:alice', 'and is recorded, for refund');
SELECT is(payload::jsonb - 'at', jsonb_build_object('campaign_id', :c, 'user_id', 'alice', 'serial', 3, 'label', 'A3', 'ref', 'pay 2', 'reason', 'other_ref'), 'with its ref')
  FROM coupon.outbox WHERE type = 'coupon.confirm_refused' AND key = 'alice';
SELECT is((SELECT confirm_ref FROM coupon.issuance WHERE campaign_id = :c AND serial = 3), 'pay 1', 'the first one stays');
SELECT is(pg_temp.hold(:c, 3, 'alice'), 'already_issued', 'holding it again: already_issued');
SELECT is(pg_temp.hold(:c, 3, 'bob'), 'taken', 'F18: for others it is taken');
SELECT is(coupon_release(:c, 3, 'alice'), false, 'what is confirmed is not released');
SELECT is(left(pg_temp.map(:c), 3), left(pg_temp.map(:c), 2) || 'I', 'the map shows it');
SELECT is((SELECT status FROM coupon_redeem(:c, 'alice', 'o')), 'redeemed', 'now it can be redeemed');
SELECT is(pg_temp.confirm(:c, 3, 'alice', 'pay 1'), 'already_confirmed', 'the payment may come again after that');
SELECT is((SELECT count(*) FROM coupon_verify(:c)), 0::bigint, 'verify finds nothing');

-- run out
SELECT coupon_campaign_create('late', 10, per_user_limit => 2) AS l \gset
SELECT is(pg_temp.many(:l, '{1,2}', 'alice'), '1 held, 2 held', 'two holds');
SELECT is(pg_temp.many(:l, '{3,4}', 'bob'), '3 held, 4 held', 'and two');
SELECT pg_temp.events() AS ignore \gset
SELECT pg_temp.run_out(:l, s) FROM unnest('{1,2,3}'::bigint[]) s;
SELECT is(pg_temp.map(:l), 'FFFHFFFFFF', 'F18: what has run out is free');
SELECT is(coupon_release(:l, 1, 'alice'), false, 'and not theirs to release');
SELECT is(pg_temp.hold(:l, 1, 'carol'), 'held', 'F18: anybody can hold it, swept or not');
SELECT is(pg_temp.events(), 'hold_expired:alice held:carol', 'with an event for each');
SELECT is(pg_temp.confirm(:l, 1, 'alice', 'late pay'), 'lost', 'F18: a late payment does not take it from her');
SELECT is(pg_temp.events(), 'confirm_refused:alice', 'and is recorded, for refund');
SELECT is(payload::jsonb - 'at', jsonb_build_object('campaign_id', :l, 'user_id', 'alice', 'serial', 1, 'ref', 'late pay', 'reason', 'lost'), 'with its ref')
  FROM coupon.outbox WHERE type = 'coupon.confirm_refused' AND payload->>'campaign_id' = :'l';
SELECT is(pg_temp.confirm(:l, 2, 'alice', 'in time after all'), 'confirmed', 'F18: while it is free, a late payment takes it');
SELECT is(pg_temp.events(), 'confirmed:alice', 'with one event');
SELECT is(coupon_hold_expire(), 1::bigint, 'the sweep takes what is left');
SELECT is(pg_temp.events(), 'hold_expired:bob', 'with an event for each');
SELECT is(coupon_hold_expire(), 0::bigint, 'once');
SELECT is((SELECT string_agg(user_id || serial, ' ' ORDER BY serial) FROM coupon.lapsed_hold WHERE campaign_id = :l), 'alice1 bob3', 'it is remembered whose hold ran out');
SELECT is(pg_temp.hold(:l, 4, 'bob', '1 ms'), 'already_held', 'a live hold is not shortened');
SELECT pg_temp.run_out(:l, 4);
SELECT is(pg_temp.hold(:l, 4, 'bob'), 'held', 'one''s own that has run out can be held again');
SELECT is(pg_temp.events(), 'hold_expired:bob held:bob', 'which is two events');
SELECT is(pg_temp.hold(:l, 5, 'dora', '1 ms'), 'held', 'held for a millisecond');
SELECT pg_sleep(0.002) AS ignore \gset
SELECT is(pg_temp.confirm(:l, 5, 'erin', 'p'), 'not_held', 'F24: no stranger gets it by paying');
SELECT is(pg_temp.confirm(:l, 5, 'dora', 'p'), 'confirmed', 'who held it does');
SELECT is((SELECT count(*) FROM coupon_verify(:l)), 0::bigint, 'verify finds nothing');

-- the limit, with what has run out
SELECT coupon_campaign_create('limit', 10) AS m \gset
SELECT is(pg_temp.hold(:m, 1, 'alice'), 'held', 'one each');
SELECT pg_temp.run_out(:m, 1);
SELECT is(pg_temp.hold(:m, 2, 'alice'), 'held', 'what has run out does not count for the limit');
SELECT is(pg_temp.confirm(:m, 1, 'alice', 'late'), 'busy', 'its unit comes back with the commit');
SELECT pg_temp.run_out(:m, 2);
SELECT is((SELECT status FROM coupon_issue(:m, 'alice')), 'issued', 'nor when issuing');
SELECT is((SELECT status FROM coupon_issue(:m, 'alice')), 'already_issued', 'once');
SELECT is(pg_temp.hold(:m, 5, 'alice'), 'limit_reached', 'then the limit is used up');
SELECT is(pg_temp.hold_any(:m, 'alice'), 'already_issued', 'any: they are told what they have');

-- any
SELECT coupon_campaign_create('any', 3, per_user_limit => 2) AS a \gset
SELECT is(pg_temp.hold_any(:a, 'alice'), 'held', 'any unit');
SELECT is((SELECT status FROM coupon_hold_any(:a, 7)), 'held', 'numeric users');
SELECT is(pg_temp.hold_any(:a, 'alice'), 'held', 'a second one');
SELECT results_eq(format('SELECT status, serial FROM coupon_hold_any(%s, ''alice'')', :a),
	format('SELECT ''already_held'', serial FROM coupon.issuance WHERE campaign_id = %s AND user_id = ''alice'' AND nth = 2', :a), 'then: already_held, the newest');
SELECT ok(status IN ('sold_out', 'busy') AND serial IS NULL, 'none is left') FROM coupon_hold_any(:a, 'bob');
SELECT pg_temp.run_out(:a, serial) FROM coupon.issuance WHERE campaign_id = :a AND user_id = '7';
SELECT is(pg_temp.hold_any(:a, 'bob'), 'held', 'F22: what has run out is found, swept or not');
SELECT pg_temp.run_out(:a, serial) FROM coupon.issuance WHERE campaign_id = :a AND user_id = 'bob';
SELECT is((SELECT status FROM coupon_issue(:a, 'carol')), 'issued', 'F22: also when issuing');
SELECT is((SELECT count(*) FROM coupon.issuance WHERE campaign_id = :a), 3::bigint, 'three rows for three units');
SELECT is((SELECT count(*) FROM coupon_verify(:a)), 0::bigint, 'verify finds nothing');

-- all or none
SELECT coupon_campaign_create('sets', 12, per_user_limit => 4) AS s \gset
SELECT is(pg_temp.many(:s, '{4,2,3}', 'alice'), '4 held, 2 held, 3 held', 'a set, in the array''s order');
SELECT is(pg_temp.many(:s, '{2,3,4}', 'alice'), '2 already_held, 3 already_held, 4 already_held', 'again: what they have');
SELECT is(pg_temp.many(:s, '{5,4}', 'alice'), '5 held, 4 already_held', 'what they have stands in no way');
SELECT is(pg_temp.many(:s, '{1,4,6,2}', 'bob'), '1 not_held, 4 taken, 6 not_held, 2 taken', 'who is in the way is named');
SELECT is((SELECT count(*) FROM coupon.issuance WHERE campaign_id = :s AND user_id = 'bob'), 0::bigint, 'and nothing is held');
SELECT is(pg_temp.many(:s, '{1,6,7,8,9}', 'bob'), '1 limit_reached, 6 limit_reached, 7 limit_reached, 8 limit_reached, 9 limit_reached', 'more than the limit: none');
SELECT is(pg_temp.many(:s, '{1,6,7,8}', 'bob'), '1 held, 6 held, 7 held, 8 held', 'as many as the limit: all; nothing of the failures is left');
SELECT pg_temp.run_out(:s, x) FROM unnest('{2,3}'::bigint[]) x;
SELECT pg_temp.events() AS ignore \gset
SELECT is(pg_temp.many(:s, '{12,3,11,2}', 'carol'), '12 held, 3 held, 11 held, 2 held', 'what has run out is taken along');
SELECT is(pg_temp.events(), 'hold_expired:alice hold_expired:alice held:carol held:carol held:carol held:carol', 'with its events');
SELECT is((SELECT count(*) FROM coupon_hold_many(:s, '{10}', 9)), 1::bigint, 'numeric users');
SELECT is(pg_temp.many(:s, '{}', 'dora'), NULL, 'no serials, no rows');
SELECT throws_ok(format('SELECT coupon_hold_many(%s, ''{1,13}'', ''x''::text)', :s), 'UC008', NULL, 'an unknown one: ERROR');
SELECT is((SELECT count(*) FROM coupon_verify(:s)), 0::bigint, 'verify finds nothing');

-- secret labels stay secret until they are paid for
SELECT is((SELECT string_agg(label, '') FROM coupon_units(:k)), NULL, 'codes are not listed');
SELECT is(label, NULL, 'nor shown to who holds one') FROM coupon_hold(:k, 1, 'alice');
SELECT is((SELECT count(*) FROM coupon.outbox WHERE type = 'coupon.held' AND payload::text LIKE '%SECRET%'), 0::bigint, 'nor in the event');
SELECT is(code, NULL, 'nor when they try to redeem it') FROM coupon_redeem(:k, 'alice', 'o');
SELECT is(label, 'SECRET1', 'but when it is paid for') FROM coupon_confirm(:k, 1, 'alice', 'p');

-- the window
SELECT coupon_campaign_create('window', 5, per_user_limit => 2, opens_at => '2999-01-01') AS w \gset
SELECT is(pg_temp.hold(:w, 1, 'alice') || pg_temp.hold_any(:w, 'alice'), 'not_opennot_open', 'not open yet');
UPDATE coupon.campaign SET opens_at = NULL WHERE campaign_id = :w;
SELECT is(pg_temp.many(:w, '{1,2}', 'alice'), '1 held, 2 held', 'open');
SELECT coupon_campaign_pause(:w) AS ignore \gset
SELECT is(pg_temp.hold(:w, 3, 'bob') || ' ' || pg_temp.hold(:w, 1, 'bob') || ' ' || pg_temp.hold(:w, 1, 'alice'), 'paused paused already_held', 'paused');
SELECT is(pg_temp.many(:w, '{3,1}', 'alice'), '3 paused, 1 already_held', 'of a set, too');
SELECT coupon_campaign_resume(:w) AS ignore \gset
SELECT coupon_campaign_close(:w) AS ignore \gset
SELECT is(pg_temp.hold(:w, 3, 'bob') || ' ' || pg_temp.hold_any(:w, 'bob') || ' ' || pg_temp.hold_any(:w, 'alice'), 'closed closed already_held', 'closed');
SELECT is(pg_temp.confirm(:w, 1, 'alice', 'p') || ' ' || coupon_release(:w, 2, 'alice'), 'confirmed true', 'a hold outlives the window');

-- the room
SELECT coupon_campaign_create('guarded', 5) AS g \gset
SELECT coupon_room_create('hold room', 10) AS ignore \gset
SELECT coupon_campaign_require_room(:g, 'hold room') AS ignore \gset
SELECT is(pg_temp.hold(:g, 1, 'alice') || ' ' || pg_temp.hold_any(:g, 'alice') || ' ' || pg_temp.many(:g, '{1,2}', 'alice'),
	'not_admitted not_admitted 1 not_admitted, 2 not_admitted', 'F24: nobody holds past the room');
SELECT is(pg_temp.confirm(:g, 1, 'alice', 'p'), 'not_held', 'F24: nor pays past it');

-- revoke
SELECT coupon_campaign_create('revoke', 5, per_user_limit => 3) AS r \gset
SELECT is(pg_temp.many(:r, '{1,2}', 'alice'), '1 held, 2 held', 'two holds');
SELECT is(pg_temp.confirm(:r, 1, 'alice', 'p'), 'confirmed', 'one is paid for');
SELECT pg_temp.events() AS ignore \gset
SELECT is(coupon_revoke(:r, 'alice', 'r'), true, 'revoke takes what is paid for first');
SELECT is((SELECT string_agg(serial || state, ' ') FROM coupon.issuance WHERE campaign_id = :r), '2held', 'that one');
SELECT is(coupon_revoke(:r, 'alice', 'r'), true, 'then the hold');
SELECT is(pg_temp.events(), 'revoked:alice revoked:alice', 'one event each');
SELECT is(pg_temp.confirm(:r, 2, 'alice', 'q'), 'not_held', 'a revoked hold is not remembered');
SELECT is(pg_temp.hold(:r, 3, 'alice'), 'held', 'another hold');
SELECT pg_temp.run_out(:r, 3);
SELECT is(coupon_revoke(:r, 'alice', 'r'), false, 'of what has run out there is nothing to revoke');
SELECT is((SELECT status FROM coupon_redeem(:r, 'alice', 'o')), 'not_issued', 'nor to redeem');
SELECT is((SELECT count(*) FROM coupon_verify(:r)), 0::bigint, 'verify finds nothing');

-- the guards, for everybody else who writes
SELECT throws_ok(format('UPDATE coupon.issuance SET held_until = NULL WHERE campaign_id = %s AND serial = 4 AND state = ''held''', :s), '23514', NULL, 'a hold has an end');
SELECT throws_ok(format('UPDATE coupon.issuance SET held_until = now() WHERE campaign_id = %s AND serial = 3', :c), '23514', NULL, 'what is issued has none');
SELECT throws_ok(format('UPDATE coupon.issuance SET confirm_ref = ''p'' WHERE campaign_id = %s AND serial = 4', :s), '23514', NULL, 'a hold is not paid for');
ALTER TABLE coupon.issuance DISABLE TRIGGER issuance_guard;
UPDATE coupon.issuance SET held_until = NULL WHERE campaign_id = :s AND serial = 4;
SELECT is((SELECT law || ' ' || serial FROM coupon_verify(:s)), 'hold without its end, or the reverse 4', 'verify finds what the guards would refuse');
UPDATE coupon.issuance SET held_until = clock_timestamp() + interval '1 h' WHERE campaign_id = :s AND serial = 4;
SELECT is((SELECT count(*) FROM coupon_verify(:s)), 0::bigint, 'and nothing else');
DELETE FROM coupon.issuance WHERE campaign_id = :s AND serial = 5;
SELECT is((SELECT law || ' ' || serial FROM coupon_verify() WHERE campaign = :s), 'event of an issuance that is not there 5', 'verify finds a hold that is not there');
ALTER TABLE coupon.issuance ENABLE ALWAYS TRIGGER issuance_guard;

-- what fires below the executor is refused
CREATE TABLE pg_temp.reference (campaign_id bigint, serial bigint);
CREATE FUNCTION pg_temp.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
CREATE TRIGGER foreign_deletion BEFORE DELETE ON coupon.issuance FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing();
SELECT throws_ok(format('SELECT coupon_hold(%s, 10, ''x'')', :s), '0A000', NULL, 'a foreign trigger on deletions: no holds');
DROP TRIGGER foreign_deletion ON coupon.issuance;
CREATE TABLE coupon_test_ref (campaign_id bigint, serial bigint, FOREIGN KEY (campaign_id, serial) REFERENCES coupon.issuance);
SELECT throws_ok(format('SELECT coupon_hold(%s, 10, ''x'')', :s), '0A000', NULL, 'a foreign key: no holds');
SELECT is((SELECT status FROM coupon_issue(:s, 'zed')), 'issued', 'issuing goes on');
DROP TABLE coupon_test_ref;
SELECT is(pg_temp.hold(:s, 12, 'x'), 'taken', 'holds again');

SELECT * FROM finish();
ROLLBACK;
