-- Codes: import, generate, and campaigns whose units carry labels.
BEGIN;
SET LOCAL client_min_messages = error;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT plan(64);

CREATE FUNCTION pg_temp.stock_of(bigint) RETURNS bigint LANGUAGE sql AS
	$$ SELECT stock FROM coupon_status($1) $$;

-- import
SELECT coupon_campaign_create('imported', 0) AS c \gset
SELECT is(coupon_codes_import(:c, ARRAY['A-1', 'A-2', 'A-3']), 3::bigint, 'three codes are imported');
SELECT is(coded, true, 'the campaign is coded') FROM coupon.campaign WHERE campaign_id = :c;
SELECT is(pg_temp.stock_of(:c), 3::bigint, 'each code is one unit');
SELECT results_eq(format('SELECT serial, label COLLATE "default" FROM coupon.unit WHERE campaign_id = %s ORDER BY serial', :c),
	$$ VALUES (1::bigint, 'A-1'), (2, 'A-2'), (3, 'A-3') $$, 'serials in the array''s order');
SELECT is(coupon_codes_import(:c, ARRAY['A-3', 'A-4', 'A-4', 'A-1']), 1::bigint, 'duplicates in the array and of earlier imports are skipped');
SELECT is(pg_temp.stock_of(:c), 4::bigint, 'one unit more');
SELECT is(coupon_codes_import(:c, ARRAY['A-1', 'A-2']), 0::bigint, 'nothing new: 0');
SELECT is(coupon_codes_import(:c, '{}'), 0::bigint, 'an empty array: 0');
SELECT is(pg_temp.stock_of(:c), 4::bigint, 'and no units');
SELECT is(coupon_codes_import(:c, ARRAY['a-1', ' A-1', 'A-1 ', '할인', 'q"\', repeat('c', 256)]), 6::bigint, 'codes are compared byte by byte');

-- the answer has the code
CREATE TEMP TABLE answer AS SELECT * FROM coupon_issue(:c, 'alice');
SELECT is(a.code, u.label::text, 'the answer has the serial''s code')
  FROM answer a LEFT JOIN coupon.unit u ON u.campaign_id = :c AND u.serial = a.serial;
SELECT isnt(code, NULL, 'which is not null') FROM answer;
SELECT is(r.code, a.code, 'a retry has the same code') FROM coupon_issue(:c, 'alice') r, answer a;
SELECT is(payload->>'code', (SELECT code FROM answer), 'the event has the code')
  FROM coupon.outbox WHERE type = 'coupon.issued' AND payload->>'campaign_id' = :c::text;
SELECT is(r.code, a.code, 'redeem shows the code') FROM coupon_redeem(:c, 'alice', 'o') r, answer a;
INSERT INTO answer SELECT * FROM coupon_issue_many(:c, (SELECT array_agg('u' || g) FROM generate_series(1, 12) g));
SELECT is(count(*) FILTER (WHERE status = 'issued'), 10::bigint, 'F1: many: as many as there are codes') FROM answer;
SELECT is(count(DISTINCT code), 10::bigint, 'F1: many: every code once') FROM answer;
SELECT set_eq('SELECT code FROM answer WHERE code IS NOT NULL',
	format('SELECT label::text FROM coupon.unit WHERE campaign_id = %s', :c), 'F1: exactly the imported codes');
SELECT is((SELECT count(*) FROM coupon_verify(:c)), 0::bigint, 'verify finds nothing');

-- the same label in another campaign
SELECT coupon_campaign_create('other', 0) AS o \gset
SELECT is(coupon_codes_import(:o, ARRAY['A-1']), 1::bigint, 'another campaign may have the same code');
SELECT is((SELECT code FROM coupon_issue(:o, 'alice')), 'A-1', 'and issues it');

-- a plain campaign gets labels only before it has issued, and for all of its units
SELECT coupon_campaign_create('plain', 3) AS p \gset
SELECT throws_ok(format('SELECT coupon_codes_import(%s, ARRAY[''a'', ''b''])', :p), 'UC004', NULL, 'fewer codes than units: UC004');
SELECT is(coded, false, 'and the campaign stays plain') FROM coupon.campaign WHERE campaign_id = :p;
SELECT throws_ok(format('SELECT coupon_codes_import(%s, ARRAY[''a'', ''b'', ''b''])', :p), 'UC004', NULL, 'a duplicate does not count as a label');
SELECT is(coupon_codes_import(:p, ARRAY['a', 'b', 'c', 'd', 'e']), 5::bigint, 'enough codes: they label the units, the rest are new units');
SELECT is(pg_temp.stock_of(:p), 5::bigint, 'stock 3 and five codes: stock 5');
SELECT results_eq(format('SELECT serial FROM coupon.unit WHERE campaign_id = %s ORDER BY serial', :p), ARRAY[1, 2, 3, 4, 5]::bigint[], 'serials 1..5');
SELECT is(coded, true, 'the campaign is coded now') FROM coupon.campaign WHERE campaign_id = :p;
SELECT is(coupon_codes_import(:p, ARRAY['f']), 1::bigint, 'from now on any number');
SELECT throws_ok(format('SELECT coupon_campaign_add_stock(%s, 1)', :p), 'UC004', NULL, 'add_stock to a coded campaign: UC004');
SELECT is(pg_temp.stock_of(:p), 6::bigint, 'and the stock stays');
SELECT is((SELECT count(code) FROM coupon_issue_many(:p, ARRAY['1', '2', '3', '4', '5', '6', '7'])), 6::bigint, 'each issued unit has its code');

SELECT coupon_campaign_create('exactly', 2) AS e \gset
SELECT is(coupon_codes_import(:e, ARRAY['x', 'y']), 2::bigint, 'exactly as many codes as units');
SELECT is(pg_temp.stock_of(:e), 2::bigint, 'the stock stays');

SELECT coupon_campaign_create('has issued', 3) AS h \gset
SELECT is((SELECT status FROM coupon_issue(:h, 'alice')), 'issued', 'a plain campaign issues');
SELECT throws_ok(format('SELECT coupon_codes_import(%s, ARRAY[''a'', ''b'', ''c'', ''d''])', :h), 'UC004', NULL, 'import after it has issued: UC004');
SELECT throws_ok(format('SELECT coupon_codes_generate(%s, NULL, 10)', :h), 'UC004', NULL, 'generate after it has issued: UC004');
SELECT is(pg_temp.stock_of(:h), 3::bigint, 'and the stock stays');

-- a hundred thousand in one call
SELECT coupon_campaign_create('hundred thousand', 0) AS x \gset
SELECT is(coupon_codes_import(:x, (SELECT array_agg('CODE-' || g) FROM generate_series(1, 100000) g)), 100000::bigint, '100,000 codes in one call');
SELECT is(pg_temp.stock_of(:x), 100000::bigint, '100,000 units');
SELECT is(coupon_codes_import(:x, (SELECT array_agg('CODE-' || g) FROM generate_series(50001, 150000) g)), 50000::bigint, 'half of the next 100,000 are duplicates');
SELECT is(pg_temp.stock_of(:x), 150000::bigint, '150,000 units');
SELECT is((SELECT max(last_serial) FROM coupon.shard WHERE campaign_id = :x), 150000::bigint, 'in the shards too');
SELECT matches((SELECT code FROM coupon_issue(:x, 'alice')), '^CODE-\d+$', 'and they are issued');
SELECT is((SELECT count(*) FROM coupon_verify(:x)), 0::bigint, 'verify finds nothing');

-- generate
SELECT coupon_campaign_create('generated', 0) AS g \gset
SELECT is(coupon_codes_generate(:g, '10OFF-#######', 1000), 1000::bigint, 'generate returns the number made');
SELECT is(pg_temp.stock_of(:g), 1000::bigint, 'each is one unit');
SELECT is(count(*) FILTER (WHERE label !~ '^10OFF-[0-9A-HJKMNP-TV-Z]{7}$'), 0::bigint, 'every code follows the pattern')
  FROM coupon.unit WHERE campaign_id = :g;
SELECT is(count(DISTINCT label), 1000::bigint, 'every code is different') FROM coupon.unit WHERE campaign_id = :g;
SELECT is(coupon_codes_generate(:g, NULL, 1000), 1000::bigint, 'generate without a pattern');
SELECT is(count(*) FILTER (WHERE label !~ '^[0-9A-HJKMNP-TV-Z]{16}$'), 0::bigint, '16 random characters: 80 bits')
  FROM coupon.unit WHERE campaign_id = :g AND serial > 1000;
SELECT results_eq(format('SELECT DISTINCT ch::text COLLATE "C" AS ch FROM coupon.unit, regexp_split_to_table(label, '''') ch WHERE campaign_id = %s AND serial > 1000 ORDER BY ch', :g),
	$$ SELECT ch COLLATE "C" FROM regexp_split_to_table('0123456789ABCDEFGHJKMNPQRSTVWXYZ', '') ch $$, 'all 32 characters are used');
SELECT is((SELECT min(n) FROM (SELECT count(DISTINCT substr(label, p, 1)) AS n FROM coupon.unit, generate_series(1, 16) p
	WHERE campaign_id = :g AND serial > 1000 GROUP BY p) x), 32::bigint, 'in every place');
SELECT is((SELECT count(*) FROM coupon_issue_many(:g, (SELECT array_agg('u' || g) FROM generate_series(1, 2001) g)) WHERE code IS NOT NULL),
	2000::bigint, 'F1: 2,000 codes are issued');
SELECT is((SELECT count(*) FROM coupon_verify(:g)), 0::bigint, 'verify finds nothing');

-- generated labels for a plain campaign
SELECT coupon_campaign_create('plain, generated', 5) AS q \gset
SELECT throws_ok(format('SELECT coupon_codes_generate(%s, NULL, 4)', :q), 'UC004', NULL, 'fewer than its units: UC004');
SELECT is(coupon_codes_generate(:q, NULL, 5), 5::bigint, 'as many as its units');
SELECT is(pg_temp.stock_of(:q), 5::bigint, 'the stock stays');

-- feasibility: at most half of the space
SELECT coupon_campaign_create('tight', 0) AS t \gset
SELECT throws_ok(format('SELECT coupon_codes_generate(%s, ''X#'', 17)', :t), 'UC006', NULL, '17 of 32: UC006');
SELECT is(coupon_codes_generate(:t, 'X#', 16), 16::bigint, '16 of 32');
SELECT throws_ok(format('SELECT coupon_codes_generate(%s, ''X#'', 1)', :t), 'UC006', NULL, 'one more of 32: UC006');
SELECT is(coupon_codes_generate(:t, '##X', 496), 496::bigint, '512 of 1,024, the earlier ones included');
SELECT throws_ok(format('SELECT coupon_codes_generate(%s, ''##X'', 1)', :t), 'UC006', NULL, 'one more of 1,024: UC006');
SELECT throws_ok(format('SELECT coupon_codes_generate(%s, ''FIXED'', 1)', :t), 'UC006', NULL, 'a pattern without # has room for half a code: UC006');

SELECT * FROM finish();
ROLLBACK;
