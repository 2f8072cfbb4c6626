-- Every function with every argument at and beyond its limits: the exact
-- SQLSTATE, and for a refusal of ours a DETAIL or a HINT.
BEGIN;
SET LOCAL client_min_messages = error;
SET LOCAL TimeZone = 'UTC';
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;

-- {c} plain and open, {k} coded, {x} closed
SELECT coupon_campaign_create('boundaries', 1000, 3) AS c \gset
SELECT coupon_campaign_create('boundaries', 0) AS k \gset
SELECT coupon_codes_import(:k, ARRAY['A', 'B']) AS ignore \gset
SELECT coupon_campaign_create('boundaries', 10) AS x \gset
SELECT count(*) AS ignore FROM coupon_issue_many(:c, ARRAY['u']) \gset
SELECT count(*) AS ignore FROM coupon_issue_many(:x, ARRAY['u']) \gset
SELECT coupon_campaign_close(:x) AS ignore \gset

CREATE TEMP TABLE trial (n serial, call text, state text);

-- Values of a kind, and what becomes of them: null, refused or accepted.
CREATE TEMP TABLE kind (kind text, value text, state text);
INSERT INTO kind
SELECT 'campaign', v, s FROM (VALUES ('NULL', '22004'), ('0', 'UC001'), ('-1', 'UC001'),
	('(-9223372036854775808)', 'UC001'), ('9223372036854775807', 'UC001')) x(v, s)
UNION ALL
SELECT 'serial', v, s FROM (VALUES ('NULL', '00000'), ('0', '22023'), ('-1', '22023'), ('1', '00000'), ('1001', '00000'),
	('100000000', '00000'), ('100000001', '22023'), ('(-9223372036854775808)', '22023'), ('9223372036854775807', '22023')) x(v, s)
UNION ALL
SELECT 'hold_serial', v, s FROM (VALUES ('NULL', '22004'), ('0', 'UC008'), ('-1', 'UC008'), ('1', '00000'), ('1001', 'UC008'),
	('(-9223372036854775808)', 'UC008'), ('9223372036854775807', 'UC008')) x(v, s)
UNION ALL
SELECT 'ttl', v, s FROM (VALUES ('NULL', '22004'), ('''0''', '22023'), ('''-1 s''', '22023'), ('''999 us''', '22023'), ('''1 ms''', '00000'),
	('''7 days''', '00000'), ('''7 days 1 us''', '22023'), ('''1 month''', '22023'), ('''-178000000 years''', '22023'), ('''178000000 years''', '22023')) x(v, s)
UNION ALL
-- 1 to 256 bytes; bytes, not characters
SELECT 'text256', v, s FROM (VALUES ('NULL', '22004'), ('''''', '22023'), ('repeat(''x'', 257)', '22023'), ('repeat(''가'', 86)', '22023'),
	('repeat(''x'', 1048576)', '22023'), ('''x''', '00000'), ('repeat(''x'', 256)', '00000'), ('repeat(''가'', 85)', '00000'),
	('E''\\x01\\n''', '00000')) x(v, s)
UNION ALL
SELECT 'text1024', v, s FROM (VALUES ('NULL', '22004'), ('''''', '22023'), ('repeat(''x'', 1025)', '22023'), ('repeat(''가'', 342)', '22023'),
	('repeat(''x'', 1048576)', '22023'), ('''x''', '00000'), ('repeat(''x'', 1024)', '00000')) x(v, s)
UNION ALL
SELECT 'number', v, s FROM (VALUES ('NULL::bigint', '22004'), ('0', '00000'), ('-1', '00000'),
	('(-9223372036854775808)', '00000'), ('9223372036854775807', '00000')) x(v, s)
UNION ALL
SELECT 'topic', v, s FROM (VALUES ('NULL', '22004'), ('''''', '22023'), ('repeat(''x'', 250)', '22023'), ('repeat(''x'', 1048576)', '22023'),
	('''a b''', '22023'), ('''a/b''', '22023'), ('''가''', '22023'), ('E''a\\n''', '22023'), ('''.''', '22023'), ('''..''', '22023'),
	('''x.DLT''', '22023'), ('''__consumer_offsets''', '22023'), ('''...''', '00000'), ('repeat(''x'', 245)', '00000'), ('''A-z_0.9''', '00000')) x(v, s)
UNION ALL
SELECT 'type', v, s FROM (VALUES ('NULL', '22004'), ('''''', '22023'), ('repeat(''x'', 257)', '22023'), ('repeat(''x'', 1048576)', '22023'),
	('''a b''', '22023'), ('''가''', '22023'), ('E''\\x01\\n''', '22023'), ('''x''', '00000'), ('repeat(''x'', 256)', '00000'),
	('''A-z_0.9:/''', '00000')) x(v, s)
UNION ALL
SELECT 'units', v, s FROM (VALUES ('NULL', '22004'), ('0', '22023'), ('-1', '22023'), ('100000001', '22023'), ('99999001', '22023'),
	('(-9223372036854775808)', '22023'), ('9223372036854775807', '22023'), ('1', '00000'), ('99999000', '00000')) x(v, s);

CREATE FUNCTION pg_temp.try(call text, kind text) RETURNS void LANGUAGE sql AS
	$$ INSERT INTO trial (call, state) SELECT replace($1, '{v}', k.value), k.state FROM kind k WHERE k.kind = $2 $$;

-- routes
INSERT INTO trial (call, state) VALUES
('coupon_http_status()', '00000'),
('coupon_stat_reset()', '00000'),
('coupon_metrics()', '00000'),
('coupon_route_add(NULL, ''/x'', ''pg_catalog.now()'')', '22004'),
('coupon_route_add(''GET'', NULL, ''pg_catalog.now()'')', '22004'),
('coupon_route_add(''GET'', ''/x'', NULL)', '22004'),
('coupon_route_add(''FETCH'', ''/x'', ''pg_catalog.now()'')', '22023'),
('coupon_route_add(repeat(''x'', 100000), ''/x'', ''pg_catalog.now()'')', '22023'),
('coupon_route_add(''GET'', ''x'', ''pg_catalog.now()'')', '22023'),
('coupon_route_add(''GET'', '''', ''pg_catalog.now()'')', '22023'),
('coupon_route_add(''GET'', ''/'' || repeat(''x'', 100000), ''pg_catalog.now()'')', '22023'),
('coupon_route_add(''GET'', repeat(''/x'', 20), ''pg_catalog.now()'')', '22023'),
('coupon_route_add(''GET'', ''/{name}'', ''pg_catalog.now()'')', '22023'),
('coupon_route_add(''GET'', ''/x'', ''pg_catalog.now()'', true)', '22023'),
('coupon_route_add(''GET'', ''/x'', ''pg_catalog.now()'')', '00000'),
('coupon_route_drop(NULL, NULL)', '00000'),
('coupon_route_drop(''GET'', ''/x'')', '00000');

-- requests
SELECT pg_temp.try('coupon_request({v}, ''a''::text)', 'campaign') \g /dev/null
SELECT pg_temp.try(format('coupon_request(%s, {v}::text)', :c), 'text256') \g /dev/null
SELECT pg_temp.try(format('coupon_request(%s, {v})', :c), 'number') \g /dev/null
SELECT pg_temp.try(format('coupon_request(%s, ''a''::text, {v})', :c), 'text256') \g /dev/null
UPDATE trial SET state = '00000' WHERE call LIKE 'coupon\_request(%''a''::text, NULL)';	-- no key
SELECT pg_temp.try('coupon_request_status_of({v}, ''a'')', 'campaign') \g /dev/null
SELECT pg_temp.try(format('coupon_request_status_of(%s, {v})', :c), 'text256') \g /dev/null
SELECT pg_temp.try('coupon_campaign_require_room({v}, NULL)', 'campaign') \g /dev/null
INSERT INTO trial (call, state) VALUES
('coupon_request_status(NULL)', '22004'),
('coupon_request_status(gen_random_uuid())', '00000'),
('coupon_request_status(''00000000-0000-0000-0000-000000000000'')', '00000'),
('coupon_request_status(''ffffffff-ffff-ffff-ffff-ffffffffffff'')', '00000'),
('coupon_request_wait(NULL)', '22004'),
('coupon_request_wait(gen_random_uuid(), NULL)', '22004'),
('coupon_request_wait(gen_random_uuid(), ''-1 us'')', '22023'),
('coupon_request_wait(gen_random_uuid(), ''-1 day'')', '22023'),
('coupon_request_wait(gen_random_uuid(), ''1 day'')', '00000'),
('coupon_request_wait(gen_random_uuid(), ''1 day 1 ms'')', '22023'),
('coupon_request_wait(gen_random_uuid(), ''178000000 years'')', '22023'),
('coupon_request_queue(NULL)', '00000'),
('coupon_request_queue(-9223372036854775808)', '00000'),
('coupon_request_decide(NULL)', '22004'),
('coupon_request_decide(0)', '22023'),
('coupon_request_decide(-2147483648)', '22023'),
('coupon_request_decide(100000)', '00000'),
('coupon_request_decide(100001)', '22023');

-- rooms
SELECT coupon_room_create('boundaries', 2) AS ignore \gset
SELECT pg_temp.try('coupon_queue_join(''boundaries'', {v})', 'text256') \g /dev/null
SELECT pg_temp.try('coupon_queue_join({v}, ''a'')', 'text256') \g /dev/null
UPDATE trial SET state = 'UC202' WHERE call LIKE 'coupon\_queue\_join(%, ''a'')' AND call NOT LIKE '%boundaries%' AND state = '00000';
SELECT pg_temp.try('coupon_queue_leave(''1.1.00000000000000000000000000000000'', {v})', 'text256') \g /dev/null
SELECT pg_temp.try('coupon_room_create({v}, 1)', 'text256') \g /dev/null
UPDATE trial SET state = '22023' WHERE call LIKE 'coupon\_room\_create(NULL%';
INSERT INTO trial (call, state) VALUES
('coupon_queue_position(NULL)', '22004'),
('coupon_queue_position(repeat(''x'', 1048576))', '22023'),
('coupon_queue_position(repeat(''9'', 40) || ''.1.00000000000000000000000000000000'')', '22023'),
('coupon_queue_position(''999999999999999999.999999999999999999.00000000000000000000000000000000'')', '00000'),
('coupon_queue_position(''0.1.00000000000000000000000000000000'')', '22023'),
('coupon_queue_require(NULL)', '22004'),
('coupon_queue_require('''')', '22023'),
('coupon_queue_require(''1.1.00000000000000000000000000000000'')', 'UC203'),
('coupon_queue_require(''1.1.00000000000000000000000000000000'', user_id => '''')', '22023'),
('coupon_queue_require(''1.1.00000000000000000000000000000000'', room => '''')', '22023'),
('coupon_queue_require(''1.1.00000000000000000000000000000000'', room => ''no such'')', 'UC202'),
('coupon_queue_serve()', '00000'),
('coupon_room_counts(NULL)', '22004'),
('coupon_room_counts(-1)', '00000'),
('coupon_room_create(''n'', NULL)', '22023'),
('coupon_room_create(''n'', 0)', '22023'),
('coupon_room_create(''n'', 1000000)', '00000'),
('coupon_room_create(''n'', 1000001)', '22023'),
('coupon_room_create(''n'', 1, -1)', '22023'),
('coupon_room_create(''n'', 1, 0.001)', '00000'),
('coupon_room_create(''n'', 1, ''NaN'')', '22023'),
('coupon_room_create(''n'', 1, 1000001)', '22023'),
('coupon_room_create(''n'', 1, idle_ttl => NULL)', '22023'),
('coupon_room_create(''n'', 1, idle_ttl => ''8 days'')', '22023'),
('coupon_room_create(''n'', 1, session_ttl => ''-1 s'')', '22023'),
('coupon_room_create(''n'', 1, method => NULL)', '22023'),
('coupon_room_create(''n'', 1, method => repeat(''x'', 1048576))', '22023'),
('coupon_room_create(''n'', 1, method => ''random'', opens_at => ''infinity'')', '00000'),
('coupon_room_create(''boundaries'', 1)', '23505'),
('coupon_room_alter(''boundaries'')', '00000'),
('coupon_room_alter(''boundaries'', admit_per_second => 0)', '00000'),
('coupon_room_alter(''boundaries'', capacity => 0)', '22023'),
('coupon_room_alter(NULL)', 'UC202'),
('coupon_room_alter(repeat(''x'', 1048576))', 'UC202'),
('coupon_room_pause(NULL)', 'UC202'),
('coupon_room_pause(''boundaries'')', '00000'),
('coupon_room_resume(repeat(''x'', 1048576))', 'UC202'),
('coupon_room_resume(''boundaries'')', '00000'),
('coupon_room_drop(NULL)', 'UC202'),
('coupon_room_drop(''boundaries'')', '00000'),
('coupon_room_draw(NULL)', '00000'),
('coupon_room_draw(''boundaries'')', '00000');

-- numbers that no machine has a word for
INSERT INTO trial (call, state)
SELECT format(f, v), '22023'
  FROM unnest(ARRAY['1e400', '1e131000', '-1e131000', '1e-400', '1e-16000', '''Infinity''', '''-Infinity''', '''NaN''', '0.00009']) v,
       unnest(ARRAY['coupon_room_create(''n'', 1, %s)', 'coupon_room_alter(''boundaries'', admit_per_second => %s)']) f;
INSERT INTO trial (call, state) VALUES
('coupon_room_create(''n'', 1, 0.0001)', '00000'),
('coupon_room_alter(''boundaries'', admit_per_second => 0.0001)', '00000');
INSERT INTO trial (call, state)
SELECT format('coupon_campaign_create(''n'', 1, policy => ''%s'')', replace(p, '@', v)), '22023'
  FROM unnest(ARRAY['1e131000', '-1e131000', '1e-16000']) v,
       unnest(ARRAY['{"kind": "RATE", "rate": @}', '{"kind": "FIXED", "amount": @}', '{"min_order_amount": @}', '{"usage_period_days": @}',
                    '{"kind": "RATE", "rate": 1, "max_discount": @}', '@', '{"kind": @}', '{"attributes": @}', '{"@": 1}']) p;

-- coupon_campaign_create
SELECT pg_temp.try('coupon_campaign_create({v}, 1)', 'text256') \g /dev/null
SELECT pg_temp.try('coupon_campaign_create(''n'', 1, topic => {v})', 'topic') \g /dev/null
INSERT INTO trial (call, state) VALUES
('coupon_campaign_create(''n'', NULL)', '22004'),
('coupon_campaign_create(''n'', 0)', '00000'),
('coupon_campaign_create(''n'', 1)', '00000'),
('coupon_campaign_create(''n'', -1)', '22023'),
('coupon_campaign_create(''n'', 100000000)', '00000'),
('coupon_campaign_create(''n'', 100000001)', '22023'),
('coupon_campaign_create(''n'', -9223372036854775808)', '22023'),
('coupon_campaign_create(''n'', 9223372036854775807)', '22023'),
('coupon_campaign_create(''n'', 1, NULL)', '22004'),
('coupon_campaign_create(''n'', 1, 0)', '22023'),
('coupon_campaign_create(''n'', 1, -1)', '22023'),
('coupon_campaign_create(''n'', 1, 10000)', '00000'),
('coupon_campaign_create(''n'', 1, 10001)', '22023'),
('coupon_campaign_create(''n'', 1, -2147483648)', '22023'),
('coupon_campaign_create(''n'', 1, 2147483647)', '22023'),
('coupon_campaign_create(''n'', 1, opens_at => NULL, closes_at => NULL)', '00000'),
('coupon_campaign_create(''n'', 1, opens_at => ''2999-01-01'')', '00000'),
('coupon_campaign_create(''n'', 1, closes_at => ''2999-01-01'')', '00000'),
('coupon_campaign_create(''n'', 1, opens_at => ''2999-01-01'', closes_at => ''2999-01-01'')', '22023'),
('coupon_campaign_create(''n'', 1, opens_at => ''2999-01-01 00:00:01'', closes_at => ''2999-01-01'')', '22023'),
('coupon_campaign_create(''n'', 1, opens_at => ''2999-01-01'', closes_at => ''2999-01-01 00:00:00.000001'')', '00000'),
('coupon_campaign_create(''n'', 1, opens_at => ''infinity'', closes_at => ''-infinity'')', '22023'),
('coupon_campaign_create(''n'', 1, opens_at => ''infinity'', closes_at => ''infinity'')', '22023'),
('coupon_campaign_create(''n'', 1, opens_at => ''-infinity'', closes_at => ''infinity'')', '00000'),
('coupon_campaign_create(''n'', 1, opens_at => ''infinity'')', '00000'),
('coupon_campaign_create(''n'', 1, opens_at => ''-infinity'')', '00000'),
('coupon_campaign_create(''n'', 1, closes_at => ''infinity'')', '00000'),
('coupon_campaign_create(''n'', 1, closes_at => ''-infinity'')', '00000'),
('coupon_campaign_create(''n'', 1, opens_at => ''4714-11-24 BC'', closes_at => ''294276-12-31 23:59:59.999999'')', '00000'),
('coupon_campaign_create(''n'', 1, policy => NULL)', '22004'),
('coupon_campaign_create(''n'', 1, policy => ''null'')', '22023'),
('coupon_campaign_create(''n'', 1, policy => ''[]'')', '22023'),
('coupon_campaign_create(''n'', 1, policy => to_jsonb(repeat(''x'', 1048576)))', '22023'),
('coupon_campaign_create(''n'', 1, policy => jsonb_build_object(''attributes'', jsonb_build_object(''a'', repeat(''x'', 1048576))))', '22023'),
('coupon_campaign_create(''n'', 1, policy => jsonb_build_object(repeat(''x'', 1000), 1))', '22023'),
('coupon_campaign_create(''n'', 1, policy => jsonb_build_object(repeat(''가'', 100), 1))', '22023'),
('coupon_campaign_create(''n'', 1, policy => ''{"kind": "FIXED", "amount": 1e1000}'')', '00000'),
('coupon_campaign_create(''n'', 1, policy => ''{"kind": "RATE", "rate": 1e-1000}'')', '00000');

-- campaigns
SELECT pg_temp.try('coupon_campaign_add_stock({v}, 1)', 'campaign') \g /dev/null
SELECT pg_temp.try('coupon_campaign_add_stock({c}, {v})', 'units') \g /dev/null
SELECT pg_temp.try('coupon_campaign_pause({v})', 'campaign') \g /dev/null
SELECT pg_temp.try('coupon_campaign_resume({v})', 'campaign') \g /dev/null
SELECT pg_temp.try('coupon_campaign_close({v})', 'campaign') \g /dev/null
INSERT INTO trial (call, state) VALUES
('coupon_campaign_add_stock({x}, 1)', 'UC002'), ('coupon_campaign_add_stock({x}, 0)', '22023'), ('coupon_campaign_add_stock({k}, 1)', 'UC004'),
('coupon_campaign_pause({x})', 'UC002'), ('coupon_campaign_resume({x})', 'UC002'), ('coupon_campaign_close({x})', '00000');

SELECT pg_temp.try('coupon_campaign_alter({v}, ''n'')', 'campaign') \g /dev/null
SELECT pg_temp.try('coupon_campaign_alter({c}, {v})', 'text256') \g /dev/null
SELECT pg_temp.try('coupon_campaign_alter({c}, topic => {v})', 'topic') \g /dev/null
UPDATE trial SET state = '00000' WHERE call LIKE 'coupon\_campaign\_alter({c}%NULL%';
SELECT pg_temp.try('coupon_campaign_reduce_stock({v}, 1)', 'campaign') \g /dev/null
SELECT pg_temp.try('coupon_units_withdraw({v}, ''{1}'')', 'campaign') \g /dev/null
INSERT INTO trial (call, state) VALUES
('coupon_campaign_alter({x}, ''n'')', 'UC002'), ('coupon_campaign_alter({c})', '00000'),
('coupon_campaign_alter({c}, per_user_limit => 0)', '22023'), ('coupon_campaign_alter({c}, per_user_limit => 10001)', '22023'),
('coupon_campaign_alter({c}, per_user_limit => 1)', '00000'),
('coupon_campaign_alter({c}, opens_at => ''infinity'')', '00000'), ('coupon_campaign_alter({c}, opens_at => ''-infinity'', closes_at => ''infinity'')', '00000'),
('coupon_campaign_alter({c}, closes_at => ''-infinity'')', '00000'),
('coupon_campaign_alter({c}, opens_at => now(), closes_at => now())', '22023'),
('coupon_campaign_alter({c}, policy => ''{"kind": "FIXED"}'')', '22023'),
('coupon_campaign_reduce_stock({c}, NULL)', '22004'), ('coupon_campaign_reduce_stock({c}, 0)', '22023'), ('coupon_campaign_reduce_stock({c}, 1000001)', '22023'),
('coupon_campaign_reduce_stock({c}, 999)', '00000'), ('coupon_campaign_reduce_stock({c}, 1000)', 'UC009'), ('coupon_campaign_reduce_stock({x}, 1)', 'UC002'),
('coupon_units_withdraw({c}, NULL)', '22004'), ('coupon_units_withdraw({c}, ''{}'')', '22023'), ('coupon_units_withdraw({c}, ''{NULL}'')', '22004'),
('coupon_units_withdraw({c}, ''{0}'')', 'UC008'), ('coupon_units_withdraw({c}, ''{1001}'')', 'UC008'), ('coupon_units_withdraw({c}, ''{9,9}'')', 'UC009'),
('coupon_units_withdraw({c}, ''{{8,9}}'')', '2202E'),
('coupon_units_withdraw({c}, array_fill(1::bigint, ''{10001}''))', '22023'), ('coupon_units_withdraw({x}, ''{1}'')', 'UC002');

-- codes
SELECT pg_temp.try('coupon_codes_import({v}, ARRAY[''n''])', 'campaign') \g /dev/null
SELECT pg_temp.try('coupon_codes_import({k}, ARRAY[''n'', {v}])', 'text256') \g /dev/null
UPDATE trial SET state = '22004' WHERE call LIKE 'coupon\_codes\_import%NULL%';
INSERT INTO trial (call, state) VALUES
('coupon_codes_import({k}, NULL)', '22004'),
('coupon_codes_import({k}, ''{}'')', '00000'),
('coupon_codes_import({k}, ''{{p,q},{r,s}}'')', '2202E'),
('coupon_codes_import({k}, ''{{p}}'')', '2202E'),
('coupon_codes_import({k}, ''[3:4]={p,q}'')', '00000'),
('coupon_codes_import({k}, ARRAY[NULL]::text[])', '22004'),
('coupon_codes_import({x}, ARRAY[''n''])', 'UC002');
SELECT pg_temp.try('coupon_codes_generate({v}, NULL, 1)', 'campaign') \g /dev/null
INSERT INTO trial (call, state) VALUES
('coupon_codes_generate({k}, NULL, 1)', '00000'),
('coupon_codes_generate({k}, '''', 1)', '22023'),
('coupon_codes_generate({k}, ''N'', 1)', 'UC006'),
('coupon_codes_generate({k}, ''N#'', 1)', '00000'),
('coupon_codes_generate({k}, repeat(''#'', 256), 1)', '00000'),
('coupon_codes_generate({k}, repeat(''#'', 257), 1)', '22023'),
('coupon_codes_generate({k}, repeat(''가'', 85) || ''#'', 1)', '00000'),
('coupon_codes_generate({k}, repeat(''가'', 86), 1)', '22023'),
('coupon_codes_generate({k}, repeat(''#'', 1048576), 1)', '22023'),
('coupon_codes_generate({k}, NULL, NULL)', '22004'),
('coupon_codes_generate({k}, NULL, 0)', '22023'),
('coupon_codes_generate({k}, NULL, -1)', '22023'),
('coupon_codes_generate({k}, NULL, -9223372036854775808)', '22023'),
('coupon_codes_generate({k}, NULL, 9223372036854775807)', '22023'),
('coupon_codes_generate({k}, NULL, 100000001)', '22023'),
('coupon_codes_generate({k}, ''####'', 10000000)', 'UC006'),
('coupon_codes_generate({k}, ''####'', 10000001)', '22023'),
('coupon_codes_generate({x}, NULL, 1)', 'UC002');

-- issue
SELECT pg_temp.try('coupon_issue({v}, ''u'')', 'campaign') \g /dev/null
SELECT pg_temp.try('coupon_issue({c}, {v})', 'text256') \g /dev/null
SELECT pg_temp.try('coupon_issue({v}, 1)', 'campaign') \g /dev/null
SELECT pg_temp.try('coupon_issue({c}, {v})', 'number') \g /dev/null
SELECT pg_temp.try('coupon_issue({x}, {v})', 'text256') \g /dev/null
-- a closed campaign's answers need no worker
SET LOCAL coupon.allow_autonomous = on;
SELECT pg_temp.try('coupon_issue_grouped({v}, ''u'')', 'campaign') \g /dev/null
SELECT pg_temp.try('coupon_issue_grouped({x}, {v})', 'text256') \g /dev/null
SELECT pg_temp.try('coupon_issue_grouped({v}, 1)', 'campaign') \g /dev/null
SELECT pg_temp.try('coupon_issue_grouped({x}, {v})', 'number') \g /dev/null
SELECT pg_temp.try('coupon_issue_many({v}, ARRAY[''u''])', 'campaign') \g /dev/null
SELECT pg_temp.try('coupon_issue_many({v}, ''{}''::text[])', 'campaign') \g /dev/null
-- a bad user in the array is an outcome, not an ERROR
SELECT pg_temp.try('coupon_issue_many({c}, ARRAY[''n'', {v}])', 'text256') \g /dev/null
UPDATE trial SET state = '00000' WHERE call LIKE 'coupon\_issue\_many({c}, ARRAY[%';
INSERT INTO trial (call, state) VALUES
('coupon_issue_many({c}, NULL::text[])', '22004'),
('coupon_issue_many({c}, ''{}''::text[])', '00000'),
('coupon_issue_many({c}, ARRAY[NULL, NULL]::text[])', '00000'),
('coupon_issue_many({c}, ''{{a,b},{c,d}}''::text[])', '2202E'),
('coupon_issue_many({c}, ''{{{a}}}''::text[])', '2202E'),
('coupon_issue_many({c}, NULL)', '22004'),
('coupon_issue_many({c}, ''{a,b}'')', '00000'),
('coupon_issue_many({c}, ''[0:1]={a,b}''::text[])', '00000'),
('coupon_issue_many({c}, array_fill(NULL::text, ARRAY[10000]))', '00000');

-- holds; serials here are of campaign {c}
SELECT pg_temp.try('coupon_hold({v}, 1, ''u'')', 'campaign') \g /dev/null
SELECT pg_temp.try('coupon_hold({c}, 1000, {v})', 'text256') \g /dev/null
SELECT pg_temp.try('coupon_hold({c}, 1000, {v})', 'number') \g /dev/null
SELECT pg_temp.try('coupon_hold({c}, {v}, ''u'')', 'hold_serial') \g /dev/null
SELECT pg_temp.try('coupon_hold({c}, 1000, ''u'', {v})', 'ttl') \g /dev/null
SELECT pg_temp.try('coupon_hold_any({v}, ''u'')', 'campaign') \g /dev/null
SELECT pg_temp.try('coupon_hold_any({c}, {v})', 'text256') \g /dev/null
SELECT pg_temp.try('coupon_hold_any({c}, {v})', 'number') \g /dev/null
SELECT pg_temp.try('coupon_hold_any({c}, ''u'', {v})', 'ttl') \g /dev/null
SELECT pg_temp.try('coupon_hold_any({x}, {v})', 'text256') \g /dev/null
SELECT pg_temp.try('coupon_hold_many({v}, ''{1000}'', ''u'')', 'campaign') \g /dev/null
SELECT pg_temp.try('coupon_hold_many({c}, ''{1000}'', {v})', 'text256') \g /dev/null
SELECT pg_temp.try('coupon_hold_many({c}, ''{1000}'', {v})', 'number') \g /dev/null
SELECT pg_temp.try('coupon_hold_many({c}, ARRAY[1000, {v}], ''u'')', 'hold_serial') \g /dev/null
SELECT pg_temp.try('coupon_hold_many({c}, ''{1000}'', ''u'', {v})', 'ttl') \g /dev/null
SELECT pg_temp.try(f || '({v}, 1, ''u'', ''p'')', 'campaign') FROM unnest(ARRAY['coupon_confirm']) f \g /dev/null
SELECT pg_temp.try('coupon_confirm({c}, {v}, ''u'', ''p'')', 'hold_serial') \g /dev/null
SELECT pg_temp.try('coupon_confirm({c}, 1, {v}, ''p'')', 'text256') \g /dev/null
SELECT pg_temp.try('coupon_confirm({c}, 1, {v}, ''p'')', 'number') \g /dev/null
SELECT pg_temp.try('coupon_confirm({c}, 1, ''u'', {v})', 'text1024') \g /dev/null
SELECT pg_temp.try('coupon_release({v}, 1, ''u'')', 'campaign') \g /dev/null
SELECT pg_temp.try('coupon_release({c}, {v}, ''u'')', 'hold_serial') \g /dev/null
SELECT pg_temp.try('coupon_release({c}, 1, {v})', 'text256') \g /dev/null
SELECT pg_temp.try('coupon_release({c}, 1, {v})', 'number') \g /dev/null
SELECT pg_temp.try('coupon_units({v})', 'campaign') \g /dev/null
SELECT pg_temp.try('coupon_units_import({v}, ARRAY[''n''])', 'campaign') \g /dev/null
SELECT coupon_campaign_create('seats', 0) AS s \gset
SELECT coupon_units_import(:s, '{A1,A2}') AS ignore \gset
SELECT pg_temp.try(format('coupon_units_import(%s, ARRAY[''n'', {v}])', :s), 'text256') \g /dev/null
UPDATE trial SET state = '22004' WHERE call LIKE 'coupon\_units\_import%, NULL])';
INSERT INTO trial (call, state) VALUES
(format('coupon_units_import(%s, NULL)', :s), '22004'),
(format('coupon_units_import(%s, ''{}'')', :s), '00000'),
(format('coupon_units_import(%s, ''{{p,q},{r,s}}'')', :s), '2202E'),
(format('coupon_units_import(%s, ARRAY[''b'', ''b''])', :s), '23505'),
(format('coupon_units_import(%s, ARRAY[''b'', ''A2''])', :s), '23505'),
(format('coupon_units_import(%s, ARRAY[''b'', ''a2''])', :s), '00000'),
(format('coupon_codes_import(%s, ARRAY[''b''])', :s), 'UC004'),
(format('coupon_codes_generate(%s, NULL, 1)', :s), 'UC004'),
(format('coupon_campaign_add_stock(%s, 1)', :s), 'UC004'),
('coupon_units_import({k}, ARRAY[''b''])', 'UC004'),
('coupon_units_import({x}, ARRAY[''b''])', 'UC002'),
('coupon_hold_many({c}, NULL, ''u''::text)', '22004'),
('coupon_hold_many({c}, ''{}'', ''u''::text)', '00000'),
('coupon_hold_many({c}, ''{NULL}'', ''u''::text)', '22004'),
('coupon_hold_many({c}, ''{1000,1000}'', ''u''::text)', '22023'),
('coupon_hold_many({c}, ''{{1000},{999}}'', ''u''::text)', '2202E'),
('coupon_hold_many({c}, ''[3:4]={1000,999}'', ''u''::text)', '00000'),
('coupon_hold_many({c}, ARRAY(SELECT generate_series(1, 10001)), ''u''::text)', '22023'),
('coupon_hold_many({c}, ARRAY(SELECT generate_series(1, 1000)), ''u''::text)', '00000'),
('coupon_hold_expire(NULL)', '22004'), ('coupon_hold_expire(0)', '22023'), ('coupon_hold_expire(-1)', '22023'),
('coupon_hold_expire(1)', '00000'), ('coupon_hold_expire(1000000)', '00000'), ('coupon_hold_expire(1000001)', '22023');

-- redeem, cancel, revoke
SELECT pg_temp.try(f || '({v}, ''u'', ''o'')', 'campaign') FROM unnest(ARRAY['coupon_redeem', 'coupon_redeem_cancel', 'coupon_revoke']) f \g /dev/null
SELECT pg_temp.try(f || '({v}, 1, ''o'')', 'campaign') FROM unnest(ARRAY['coupon_redeem', 'coupon_redeem_cancel', 'coupon_revoke']) f \g /dev/null
SELECT pg_temp.try(f || '({c}, {v}, ''o'')', 'text256') FROM unnest(ARRAY['coupon_redeem', 'coupon_redeem_cancel', 'coupon_revoke']) f \g /dev/null
SELECT pg_temp.try(f || '({c}, {v}, ''o'')', 'number') FROM unnest(ARRAY['coupon_redeem', 'coupon_redeem_cancel', 'coupon_revoke']) f \g /dev/null
SELECT pg_temp.try(f || '({c}, ''u'', {v})', 'text1024') FROM unnest(ARRAY['coupon_redeem', 'coupon_redeem_cancel', 'coupon_revoke']) f \g /dev/null
SELECT pg_temp.try(f || '({c}, 1, {v})', 'text1024') FROM unnest(ARRAY['coupon_redeem', 'coupon_redeem_cancel', 'coupon_revoke']) f \g /dev/null
SELECT pg_temp.try(f || '({c}, ''u'', ''o'', {v})', 'serial') FROM unnest(ARRAY['coupon_redeem', 'coupon_redeem_cancel', 'coupon_revoke']) f \g /dev/null
SELECT pg_temp.try(f || '({c}, 1, ''o'', {v})', 'serial') FROM unnest(ARRAY['coupon_redeem', 'coupon_redeem_cancel', 'coupon_revoke']) f \g /dev/null

-- the rest
INSERT INTO trial (call, state) VALUES
('coupon_expire(NULL)', '22004'), ('coupon_expire(0)', '22023'), ('coupon_expire(-1)', '22023'),
('coupon_expire(-2147483648)', '22023'), ('coupon_expire(1)', '00000'), ('coupon_expire(1000000)', '00000'), ('coupon_expire(1000001)', '22023'), ('coupon_expire(2147483647)', '22023');
SELECT pg_temp.try('coupon_emit({v}, ''k'', ''t'', ''{}'')', 'topic') \g /dev/null
SELECT pg_temp.try('coupon_emit(''t'', {v}, ''t'', ''{}'')', 'text1024') \g /dev/null
SELECT pg_temp.try('coupon_emit(''t'', ''k'', {v}, ''{}'')', 'type') \g /dev/null
INSERT INTO trial (call, state) VALUES
('coupon_emit(''t'', ''k'', ''coupon.'', ''{}'')', '22023'),
('coupon_emit(''t'', ''k'', ''coupon.x'', ''{}'')', '22023'),
('coupon_emit(''t'', ''k'', ''t'', NULL)', '22004'),
('coupon_emit(''t'', ''k'', ''t'', ''null'')', '00000'),
('coupon_emit(''t'', ''k'', ''t'', ''[]'')', '00000'),
('coupon_emit(''t'', ''k'', ''t'', to_jsonb(repeat(''x'', 1048576)))', '00000');
SELECT pg_temp.try('coupon_status({v})', 'campaign') \g /dev/null
INSERT INTO trial (call, state) VALUES ('coupon_group_status()', '00000'), ('coupon_health()', '00000'), ('coupon_doctor()', '00000'),
('coupon_campaign_note_refusals({c}, true)', '00000'), ('coupon_campaign_note_refusals(NULL, true)', 'UC001'), ('coupon_campaign_note_refusals(-1, true)', 'UC001'),
('coupon_campaign_note_refusals({c}, NULL)', '22004'),
('coupon_user_issuances(NULL::text)', '22004'), ('coupon_user_issuances(repeat(''x'', 1048576))', '22023'), ('coupon_user_issuances('''')', '22023'),
('coupon_user_issuances(repeat(''x'', 256))', '00000'), ('coupon_user_issuances(9223372036854775807)', '00000'), ('coupon_user_issuances(NULL::bigint)', '22004'),
('coupon_user_refusals(NULL)', '22004'), ('coupon_user_refusals('''')', '22023'), ('coupon_user_refusals(repeat(''x'', 256))', '00000'),
('coupon_user_erase(NULL::text)', '22004'), ('coupon_user_erase('''')', '22023'), ('coupon_user_erase(repeat(''x'', 257))', '22023'),
('coupon_user_erase(repeat(''x'', 256))', '00000'), ('coupon_user_erase(-9223372036854775808)', '00000'), ('coupon_user_erase(NULL::bigint)', '22004');
INSERT INTO trial (call, state) VALUES
('coupon_outbox_status()', '00000'),
('coupon_dead_letter_replay()', '00000'), ('coupon_dead_letter_replay(NULL, NULL)', '00000'), ('coupon_dead_letter_replay(gen_random_uuid())', '00000'),
('coupon_dead_letter_replay(topic => repeat(''x'', 1048576))', '00000'),
('coupon_dead_letter_discard()', '00000'), ('coupon_dead_letter_discard(gen_random_uuid(), ''t'')', '00000'), ('coupon_dead_letter_discard(topic => '''')', '00000');
-- of nodes
INSERT INTO trial (call, state) VALUES
('coupon_slot(NULL::text)', '22004'), ('coupon_slot('''')', '00000'), ('coupon_slot(repeat(''x'', 1048576))', '00000'), ('coupon_slot(-9223372036854775808)', '00000'),
('coupon_home(NULL, ''u''::text)', '22004'), ('coupon_home(1, NULL::text)', '22004'), ('coupon_home(-9223372036854775808, ''u''::text)', '00000'), ('coupon_home(9223372036854775807, 1)', '00000'),
('coupon_node_self()', '00000'), ('coupon_node_map()', '00000'),
('coupon_room_key_rotate()', 'UC303'), ('coupon_room_pass(NULL)', 'UC203'), ('coupon_room_pass('''')', 'UC203'), ('coupon_room_pass(repeat(''x'', 1048576))', 'UC203'),
('coupon_room_pass(''1.1.00000000000000000000000000000000'')', 'UC203'), ('coupon_room_pass(''999999999999999999.999999999999999999.00000000000000000000000000000000'')', 'UC203'),
('coupon_room_admit(NULL)', 'UC203'), ('coupon_room_admit('''')', 'UC203'), ('coupon_room_admit(repeat(''1'', 1048576))', 'UC203'),
('coupon_room_admit(''1.99999999999.1.61.'' || repeat(''0'', 64))', 'UC203'), ('coupon_room_admit(''999999999999999999.99999999999.999999999.ff.'' || repeat(''f'', 64))', 'UC203'),
('coupon_slots_move(NULL, 1)', '22023'), ('coupon_slots_move(2, NULL)', '22023'), ('coupon_slots_move(0, 1)', '22023'), ('coupon_slots_move(65, 1)', '22023'),
('coupon_slots_move(2, -1)', '22023'), ('coupon_slots_move(2, 1025)', '22023'), ('coupon_slots_move(2, 1)', 'UC303'),
('coupon_node_disband()', 'UC303'), ('coupon_cluster_create_single(''n'', 1)', 'UC303'), ('coupon_node_address(1, ''host=x'')', 'UC303'), ('coupon_slots_balance()', 'UC303'), ('coupon_node_drain()', 'UC303'), ('coupon_node_remove(NULL)', 'UC303'), ('coupon_node_remove(2147483647)', 'UC303'),
('coupon_node_learn(NULL)', 'UC303'), ('coupon_node_learn(''{}'')', 'UC303'),
('coupon_node_found(NULL, ''n'', ''host=h'')', '22023'), ('coupon_node_found(0, ''n'', ''host=h'')', '22023'), ('coupon_node_found(65, ''n'', ''host=h'')', '22023'),
('coupon_node_found(2147483647, ''n'', ''host=h'')', '22023'), ('coupon_node_found(1, NULL, ''host=h'')', '22023'), ('coupon_node_found(1, '''', ''host=h'')', '22023'),
('coupon_node_found(1, repeat(''x'', 1048576), ''host=h'')', '22023'), ('coupon_node_found(1, ''n'', NULL)', '22023'), ('coupon_node_found(1, ''n'', '''')', '22023'),
('coupon_node_found(1, ''n'', repeat(''x'', 1048576))', '22023'), ('coupon_node_found(1, ''n'', ''host=h password = secret'')', '22023'), ('coupon_node_found(1, ''n'', ''postgresql://u:secret@h/sale'')', '22023'),
('coupon_node_found(1, ''n'', ''host=h'', ''ftp://h'')', '22023'), ('coupon_node_found(1, ''n'', ''host=h'', ''http://h; }'')', '22023'),
('coupon_node_found(64, ''n'', ''host=h'', ''http://h:8080'')', '00000'), ('coupon_node_join(1, ''n'', ''host=h'', NULL)', 'UC303');
-- verify looks at the tables; a campaign that is not there violates no law
INSERT INTO trial (call, state) VALUES
('coupon_cluster_create(''n'', 1)', 'UC303'), ('coupon_campaign_share({c})', 'UC303'), ('coupon_cluster_add_stock({c}, 1)', 'UC303'),
('coupon_cluster_status({c})', '00000'), ('coupon_cluster_verify({c})', 'UC303'),
('coupon_restored()', '00000'), ('coupon_restored(NULL)', '00000'),
('coupon_verify(NULL)', '00000'), ('coupon_verify(0)', '00000'), ('coupon_verify(-1)', '00000'),
('coupon_verify(-9223372036854775808)', '00000'), ('coupon_verify(9223372036854775807)', '00000');

-- Runs a call for nothing and reports how it ended.
CREATE FUNCTION pg_temp.outcome(call text, OUT state text, OUT message text, OUT detail text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'SELECT * FROM ' || call;
	RAISE EXCEPTION USING ERRCODE = 'TT000';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	IF state = 'TT000' THEN
		state := '00000'; message := ''; detail := ''; hint := '';
	END IF;
END $$;
CREATE TEMP TABLE result AS
SELECT t.n, t.call, t.state AS expected, o.*
  FROM trial t, LATERAL pg_temp.outcome(replace(replace(replace(t.call, '{c}', :'c'), '{k}', :'k'), '{x}', :'x')) o;

SELECT plan(6 + (SELECT count(*)::int FROM trial));

SELECT is(state || CASE WHEN state <> '00000' AND detail = '' AND hint = '' THEN ' without DETAIL and HINT: ' || message ELSE '' END,
          expected, call || ': ' || expected) FROM result ORDER BY n;

SELECT is_empty($$ SELECT call, length(message), length(detail), length(hint) FROM result
                    WHERE length(message) > 200 OR length(detail) > 400 OR length(hint) > 400 $$,
	'no message repeats a megabyte of what it was given');
SELECT lives_ok($$ SELECT convert_to(message || detail || hint, 'UTF8') FROM result $$, 'no message cuts a character in two');
SELECT is_empty($$ SELECT call, state FROM result WHERE state !~ '^(00000|22004|22023|2202E|UC00[1-689]|UC20[1-4]|UC303|23505)$' $$, 'clean SQLSTATEs only');
SELECT is_empty($$ SELECT call, detail FROM result WHERE state <> '00000' AND detail = '' $$, 'every refusal has a DETAIL with the values');
SELECT is_empty($$ SELECT call, hint FROM result WHERE state <> '00000' AND hint = '' $$, 'every refusal has a HINT with the action');
SELECT set_eq($$ SELECT DISTINCT split_part(call, '(', 1) FROM trial $$,
	$$ SELECT DISTINCT p.proname::text FROM pg_extension e
	     JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.classid = 'pg_proc'::regclass
	     JOIN pg_proc p ON p.oid = d.objid AND p.pronamespace = e.extnamespace WHERE e.extname = 'coupon' AND p.prokind = 'f' $$,
	'every function of the extension is tried');

SELECT * FROM finish();
ROLLBACK;
