-- Keys of calls: a repeated call gets what the first one got.
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL coupon.sold_out_wait = 0;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT no_plan();

CREATE FUNCTION pg_temp.issue(bigint, text, text) RETURNS text LANGUAGE sql AS
	$$ SELECT concat_ws(' ', status, serial) FROM coupon_issue($1, $2, $3) $$;
CREATE FUNCTION pg_temp.many(bigint, text[], text[]) RETURNS text LANGUAGE sql AS
	$$ SELECT string_agg(concat_ws(' ', user_id, status, serial), ', ') FROM coupon_issue_many($1, $2, $3) $$;
CREATE FUNCTION pg_temp.hold_any(bigint, text, text) RETURNS text LANGUAGE sql AS
	$$ SELECT concat_ws(' ', status, serial) FROM coupon_hold_any($1, $2, request_key => $3) $$;
CREATE FUNCTION pg_temp.hold(bigint, bigint, text, text) RETURNS text LANGUAGE sql AS
	$$ SELECT concat_ws(' ', status, serial) FROM coupon_hold($1, $2, $3, request_key => $4) $$;
CREATE FUNCTION pg_temp.hold_many(bigint, bigint[], text, text) RETURNS text LANGUAGE sql AS
	$$ SELECT string_agg(concat_ws(' ', status, serial), ', ') FROM coupon_hold_many($1, $2, $3, request_key => $4) $$;
CREATE FUNCTION pg_temp.got(bigint, text, text) RETURNS bigint LANGUAGE sql AS
	$$ SELECT serials[1] FROM coupon.request_key WHERE (campaign_id, user_id, request_key) = ($1, $2, $3) $$;
CREATE FUNCTION pg_temp.run_out(bigint, bigint) RETURNS void LANGUAGE sql AS
	$$ UPDATE coupon.issuance SET held_until = clock_timestamp() - interval '1 ms' WHERE campaign_id = $1 AND serial = $2 AND state = 'held' $$;

-- issuing
SELECT coupon_campaign_create('several each', 100, 3) AS c \gset
SELECT is(pg_temp.issue(:c, 'ann', 'k1'), 'issued ' || pg_temp.got(:c, 'ann', 'k1'), 'a new key: issued, and remembered');
SELECT is(pg_temp.issue(:c, 'ann', 'k1'), 'issued ' || pg_temp.got(:c, 'ann', 'k1'), 'the same key: the same answer');
SELECT is((SELECT count(*) FROM coupon.issuance WHERE campaign_id = :c), 1::bigint, 'and no second unit');
SELECT is((SELECT count(*) FROM coupon.outbox WHERE payload ->> 'campaign_id' = :'c' AND type = 'coupon.issued'), 1::bigint, 'nor a second event');
SELECT is((SELECT row(a.issued_at, a.expires_at) FROM coupon_issue(:c, 'ann', 'k1') a), (SELECT row(i.issued_at, i.expires_at) FROM coupon.issuance i WHERE i.campaign_id = :c), 'with the times of the first');
SELECT is(pg_temp.issue(:c, 'ann', 'k2'), 'issued ' || pg_temp.got(:c, 'ann', 'k2'), 'another key: another unit');
SELECT is(pg_temp.issue(:c, 'ben', 'k1'), 'issued ' || pg_temp.got(:c, 'ben', 'k1'), 'the key of another user is another one');
SELECT pg_temp.issue(:c, 'ann', NULL) AS answer \gset
SELECT is(:'answer', 'issued ' || (SELECT serial FROM coupon.issuance WHERE campaign_id = :c AND user_id = 'ann' AND nth = 3), 'without a key as ever');
SELECT is((SELECT count(*) FROM coupon.request_key WHERE campaign_id = :c), 3::bigint, 'which is not remembered');
SELECT matches(pg_temp.issue(:c, 'ann', 'k4'), '^already_issued ', 'who has as many as allowed is told the newest');
SELECT is((SELECT count(*) FROM coupon.request_key WHERE request_key = 'k4'), 0::bigint, 'which uses up no key');
SELECT is(pg_temp.issue(:c, 'ann', 'k2'), 'issued ' || pg_temp.got(:c, 'ann', 'k2'), 'and an earlier key still finds its own unit');
SELECT coupon_campaign_create('another', 100, 3) AS d \gset
SELECT matches(pg_temp.issue(:d, 'ann', 'k1'), '^issued ', 'of another campaign it is another key');
SELECT throws_ok(format('SELECT coupon_issue(%s, ''ann'', '''')', :c), '22023', 'request_key must not be empty', 'an empty key');
SELECT throws_ok(format('SELECT coupon_issue(%s, ''ann'', repeat(''x'', 257))', :c), '22023', 'request_key is too long', 'a long one');
SELECT matches(pg_temp.issue(:d, 'ann', repeat('x', 256)), '^issued ', 'the longest');

-- undone with its unit
SAVEPOINT s;
SELECT pg_temp.issue(:d, 'una', 'k') AS ignore \gset
ROLLBACK TO s;
SELECT is(pg_temp.got(:d, 'una', 'k'), NULL, 'a rollback takes the key with the unit');
SELECT matches(pg_temp.issue(:d, 'una', 'k'), '^issued ', 'and it is new again');

-- arrays
SELECT coupon_campaign_create('arrays', 5, 2) AS e \gset
SELECT pg_temp.many(:e, '{a,b,a,a,b}', '{x,x,x,y,NULL}') AS answer \gset
SELECT is(:'answer',
	format('a issued %s, b issued %s, a issued %s, a issued %s, b issued %s', v.ax, v.bx, v.ax, v.ay, (SELECT serial FROM coupon.issuance i WHERE i.campaign_id = :e AND i.user_id = 'b' AND i.serial <> v.bx)),
	'the same key twice in an array: one unit')
  FROM (SELECT pg_temp.got(:e, 'a', 'x') AS ax, pg_temp.got(:e, 'b', 'x') AS bx, pg_temp.got(:e, 'a', 'y') AS ay) v;
SELECT pg_temp.many(:e, '{a,b,c,c,d,d}', '{y,x,z,z,z,NULL}') AS answer \gset
SELECT is(:'answer',
	format('a issued %s, b issued %s, c issued %s, c issued %3$s, d sold_out, d sold_out', pg_temp.got(:e, 'a', 'y'), pg_temp.got(:e, 'b', 'x'), pg_temp.got(:e, 'c', 'z')),
	'keys used before beside new ones, after sell-out, too');
SELECT is(pg_temp.got(:e, 'd', 'z'), NULL, 'what got nothing is not remembered');
SELECT is(pg_temp.many(:e, '{a,a,c}', ARRAY['', repeat('x', 257), 'z']), format('a invalid, a invalid, c issued %s', pg_temp.got(:e, 'c', 'z')), 'a bad key is an invalid item');
SELECT throws_ok(format('SELECT * FROM coupon_issue_many(%s, ''{a,b}'', ''{x}'')', :e), '2202E', 'user_ids and request_keys differ in length', 'a key for each user');
SELECT is(pg_temp.many(:e, '{}', '{}'), NULL, 'none for nobody');
SELECT coupon_campaign_create('one left', 1, 2) AS o \gset
SELECT is(pg_temp.many(:o, '{a,a,b}', '{x,x,x}'), 'a issued 1, a issued 1, b sold_out', 'the last unit, for the first of two twins');
SELECT is(pg_temp.issue(:o, 'a', 'x'), 'issued 1', 'sold out: a key finds its unit');
SELECT coupon_campaign_pause(:o) AS ignore \gset
SELECT is(pg_temp.issue(:o, 'a', 'x'), 'issued 1', 'paused: too');
SELECT coupon_campaign_close(:o) AS ignore \gset
SELECT is(pg_temp.issue(:o, 'a', 'x'), 'issued 1', 'closed: too');
SELECT pg_temp.many(:c, array_agg('crowd'::text), array_agg((n % 2)::text)) AS answer FROM generate_series(1, 1000) n \gset
SELECT is(:'answer', string_agg(format('crowd issued %s', pg_temp.got(:c, 'crowd', (n % 2)::text)), ', ' ORDER BY n), 'a thousand repetitions in an array')
  FROM generate_series(1, 1000) n;

-- given back
SELECT coupon_revoke(:c, 'ben', 'fraud') AS ignore \gset
SELECT is(pg_temp.issue(:c, 'ben', 'k1'), 'returned', 'of a unit that was taken back: returned');
SELECT matches(pg_temp.issue(:c, 'ben', 'k1 again'), '^issued ', 'a new key issues');
SELECT coupon_campaign_create('codes', 0, 2) AS k \gset
SELECT coupon_codes_import(:k, '{SECRET1}') AS ignore \gset
SELECT is((SELECT status || code FROM coupon_issue(:k, 'ann', 'k')), 'issuedSECRET1', 'a code');
SELECT is((SELECT status || code FROM coupon_issue(:k, 'ann', 'k')), 'issuedSECRET1', 'is told again');

-- holds
SELECT coupon_campaign_create('hall', 0, per_user_limit => 6) AS h \gset
SELECT coupon_units_import(:h, '{A1,A2,A3,A4,A5,A6,A7,A8}') AS ignore \gset
SELECT is(pg_temp.hold_any(:h, 'ann', 'h'), 'held ' || pg_temp.got(:h, 'ann', 'h'), 'any unit is held');
SELECT is(pg_temp.hold_any(:h, 'ann', 'h'), 'held ' || pg_temp.got(:h, 'ann', 'h'), 'and again the same');
SELECT is((SELECT label || held_until FROM coupon_hold_any(:h, 'ann', request_key => 'h')), (SELECT u.label || u.held_until FROM coupon_units(:h) u WHERE u.status = 'HELD'), 'with its label and end');
SELECT is(pg_temp.hold(:h, 5, 'ann', 's'), 'held 5', 'a certain one');
SELECT is(pg_temp.hold(:h, 5, 'ann', 's'), 'held 5', 'again');
SELECT is(pg_temp.hold(:h, 6, 'ann', 's'), 'other_call 6', 'the key is not for another one');
SELECT is(pg_temp.hold_many(:h, '{8,7}', 'ann', 'm'), 'held 8, held 7', 'several');
SELECT is(pg_temp.hold_many(:h, '{7,8}', 'ann', 'm'), 'held 7, held 8', 'again, in whichever order');
SELECT is(pg_temp.hold_many(:h, '{7,6}', 'ann', 'm'), 'other_call 7, other_call 6', 'others');
SELECT is(pg_temp.hold_any(:h, 'ann', 'm') || pg_temp.issue(:h, 'ann', 'm'), 'other_callother_call', 'other kinds of call');
SELECT is((SELECT count(*) FROM coupon.issuance WHERE campaign_id = :h), 4::bigint, 'nothing more was held');
SELECT coupon_confirm(:h, 7, 'ann', 'pay') AS ignore \gset
SELECT is(pg_temp.hold_many(:h, '{7,8}', 'ann', 'm'), 'already_issued 7, held 8', 'what is paid for is issued');
SELECT coupon_release(:h, 8, 'ann') AS ignore \gset
SELECT is(pg_temp.hold_many(:h, '{7,8}', 'ann', 'm'), 'already_issued 7, returned 8', 'what was released is returned');
SELECT pg_temp.run_out(:h, 5) AS ignore \gset
SELECT is(pg_temp.hold(:h, 5, 'ann', 's'), 'returned 5', 'what has run out, too');
SELECT is((SELECT outcome FROM coupon_request(:c, 'ann', 'k1')) || (SELECT (issuance).serial FROM coupon_request(:c, 'ann', 'k1')), 'already_issued' || pg_temp.got(:c, 'ann', 'k1'), 'a request with the key of an issue finds its unit');

-- over HTTP
SELECT is((SELECT string_agg(concat_ws(' ', a.status, a.body ->> 'serial', a.body ->> 'code'), ', ') FROM coupon.http_issue(ARRAY[:c, :c, :c, :h], '{ann,ben,ann,ann}', ARRAY['k1', 'k1', '', 'm']) a),
	format('201 %s, 410 returned, 400 invalid_key, 422 other_call', pg_temp.got(:c, 'ann', 'k1')), 'a call of POST /campaigns/{campaign_id}/issues by its key');
SELECT is((coupon.http_hold(:h, 'ann', request_key => 'h')) ->> 'serial' || current_setting('response.status'), pg_temp.got(:h, 'ann', 'h') || '201', 'and one of POST /campaigns/{campaign_id}/holds');

SELECT finish();
ROLLBACK;
