-- Savepoints, EXCEPTION blocks and aborts: a unit taken in what is rolled
-- back is free again, one taken in what stays is not.  pgTAP's own state
-- must survive, so nothing is asserted between SAVEPOINT and ROLLBACK TO.
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT plan(62);

CREATE FUNCTION pg_temp.status_of(bigint, text) RETURNS text LANGUAGE sql AS
	$$ SELECT status FROM coupon_issue($1, $2) $$;
CREATE FUNCTION pg_temp.events_of(bigint) RETURNS bigint LANGUAGE sql AS
	$$ SELECT count(*) FROM coupon.outbox WHERE payload->>'campaign_id' = $1::text $$;

-- savepoint, the last unit
SELECT coupon_campaign_create('last unit', 1) AS c \gset
SELECT pg_temp.events_of(:c) AS events_before \gset
SAVEPOINT s;
SELECT pg_temp.status_of(:c, 'alice') AS taken, pg_temp.status_of(:c, 'bob') AS refused \gset
ROLLBACK TO s;
SELECT is(:'taken'::text, 'issued', 'the last unit is taken');
SELECT isnt(:'refused'::text, 'issued', 'nobody else gets it meanwhile');
SELECT is((SELECT count(*) FROM coupon.issuance WHERE campaign_id = :c), 0::bigint, 'F21: rolled back, no issuance');
SELECT is(pg_temp.events_of(:c), :events_before::bigint, 'F21: rolled back, no event');
SELECT is((SELECT remaining FROM coupon_status(:c)), 1::bigint, 'the unit is free');
SELECT is(pg_temp.status_of(:c, 'bob'), 'issued', 'F22: another user gets it, sold out is not remembered');
SELECT isnt(pg_temp.status_of(:c, 'alice'), 'issued', 'F1: the first one does not');
SELECT is(pg_temp.status_of(:c, 'bob'), 'already_issued', 'the owner gets their unit');

-- the same user after the rollback
SELECT coupon_campaign_create('same user', 1) AS c \gset
SAVEPOINT s;
SELECT pg_temp.status_of(:c, 'alice') AS taken \gset
ROLLBACK TO s;
SELECT is(pg_temp.status_of(:c, 'alice'), 'issued', 'the same user can have it after the rollback');

-- released savepoint
SELECT coupon_campaign_create('released', 1) AS c \gset
SAVEPOINT s;
SELECT pg_temp.status_of(:c, 'alice') AS taken \gset
RELEASE s;
SELECT is(pg_temp.status_of(:c, 'alice'), 'already_issued', 'a released savepoint keeps its unit');
SELECT isnt(pg_temp.status_of(:c, 'bob'), 'issued', 'F1: and nobody else gets it');

-- released into a savepoint that is rolled back
SELECT coupon_campaign_create('nested', 3) AS c \gset
SELECT pg_temp.status_of(:c, 'outer') AS o \gset
SAVEPOINT s1;
SELECT pg_temp.status_of(:c, 'middle') AS m \gset
SAVEPOINT s2;
SELECT pg_temp.status_of(:c, 'inner') AS i \gset
RELEASE s2;
ROLLBACK TO s1;
SELECT is((SELECT remaining FROM coupon_status(:c)), 2::bigint, 'nested: released then rolled back, both units are free');
SELECT is(pg_temp.status_of(:c, 'outer'), 'already_issued', 'nested: what was before stays');
SELECT is(pg_temp.status_of(:c, 'inner'), 'issued', 'nested: one free unit');
SELECT is(pg_temp.status_of(:c, 'middle'), 'issued', 'nested: the other free unit');
SELECT isnt(pg_temp.status_of(:c, 'more'), 'issued', 'F1: nested: no third one');
SELECT is((SELECT count(*) FROM coupon_verify(:c)), 0::bigint, 'verify finds nothing');

-- the inner savepoint alone
SELECT coupon_campaign_create('inner', 2) AS c \gset
SAVEPOINT s1;
SELECT pg_temp.status_of(:c, 'middle') AS m \gset
SAVEPOINT s2;
SELECT pg_temp.status_of(:c, 'inner') AS i \gset
ROLLBACK TO s2;
RELEASE s1;
SELECT is(pg_temp.status_of(:c, 'middle'), 'already_issued', 'inner rolled back: the outer unit stays');
SELECT is((SELECT remaining FROM coupon_status(:c)), 1::bigint, 'inner rolled back: its unit is free');

-- the same savepoint rolled back again and again
SELECT coupon_campaign_create('again', 1) AS c \gset
SAVEPOINT s;
SELECT pg_temp.status_of(:c, 'a') AS a \gset
ROLLBACK TO s;
SELECT pg_temp.status_of(:c, 'b') AS b \gset
ROLLBACK TO s;
SELECT pg_temp.status_of(:c, 'c') AS c3 \gset
ROLLBACK TO s;
SELECT is(:'a' || ' ' || :'b' || ' ' || :'c3', 'issued issued issued', 'each time the unit comes back');
SELECT is((SELECT remaining FROM coupon_status(:c)), 1::bigint, 'and is free at the end');

-- plpgsql EXCEPTION block
CREATE FUNCTION pg_temp.issue_and_fail(bigint, text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE answer text;
BEGIN
	BEGIN
		answer := (coupon_issue($1, $2)).status;
		PERFORM 1 / 0;
	EXCEPTION WHEN division_by_zero THEN NULL;
	END;
	RETURN answer;
END $$;
SELECT coupon_campaign_create('exception', 1) AS c \gset
SELECT is(pg_temp.issue_and_fail(:c, 'alice'), 'issued', 'EXCEPTION block: issued, then an error');
SELECT is((SELECT remaining FROM coupon_status(:c)), 1::bigint, 'EXCEPTION block: the unit is free');
SELECT is(pg_temp.events_of(:c), 1::bigint, 'F21: EXCEPTION block: no event but the campaign''s');
SELECT is(pg_temp.status_of(:c, 'bob'), 'issued', 'EXCEPTION block: the next user gets it');
SELECT is(pg_temp.issue_and_fail(:c, 'bob'), 'already_issued', 'EXCEPTION block: a duplicate takes nothing');
SELECT is(pg_temp.status_of(:c, 'bob'), 'already_issued', 'EXCEPTION block: and gives nothing away');

-- a thousand of them leave the stock as it was
SELECT coupon_campaign_create('thousand', 10) AS c \gset
SELECT is((SELECT count(*) FROM generate_series(1, 1000) g WHERE pg_temp.issue_and_fail(:c, 'u' || g) = 'issued'),
	1000::bigint, '1,000 aborted subtransactions on 10 units are all issued first');
SELECT is((SELECT remaining FROM coupon_status(:c)), 10::bigint, '10 units are left');
SELECT is((SELECT count(*) FROM generate_series(1, 11) g WHERE pg_temp.status_of(:c, 'v' || g) = 'issued'), 10::bigint, 'F1: and 10 can be issued');

-- deep nesting: every second level fails
CREATE FUNCTION pg_temp.deep(bigint, integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF $2 = 0 THEN RETURN; END IF;
	BEGIN
		PERFORM coupon_issue($1, 'level ' || $2);
		PERFORM pg_temp.deep($1, $2 - 1);
		IF $2 % 20 = 10 THEN RAISE division_by_zero; END IF;
	EXCEPTION WHEN division_by_zero THEN NULL;
	END;
END $$;
SELECT coupon_campaign_create('deep', 40) AS c \gset
SELECT pg_temp.deep(:c, 40) AS ignore \gset
-- level 30 fails and takes 1..30 with it; 31..40 stay
SELECT results_eq(format('SELECT user_id COLLATE "default" FROM coupon.issuance WHERE campaign_id = %s ORDER BY serial, user_id', :c),
	format('SELECT user_id COLLATE "default" FROM coupon.issuance WHERE campaign_id = %s AND substr(user_id, 7)::int > 30 ORDER BY serial, user_id', :c),
	'deep nesting: only levels above the failing one stay');
SELECT is((SELECT count(*) FROM coupon.issuance WHERE campaign_id = :c), 10::bigint, 'deep nesting: ten of them');
SELECT is((SELECT remaining FROM coupon_status(:c)), 30::bigint, 'deep nesting: thirty units are free');

-- an error in the middle of coupon_issue_many's rows
SELECT coupon_campaign_create('many', 5) AS c \gset
SELECT throws_ok(format(
	'SELECT 1 / (CASE WHEN user_id = ''c'' THEN 0 ELSE 1 END) FROM coupon_issue_many(%s, ARRAY[''a'', ''b'', ''c'', ''d''])', :c),
	'22012', NULL, 'an error while reading many''s answers');
SELECT is((SELECT remaining FROM coupon_status(:c)), 5::bigint, 'gives back every unit');
SELECT is(pg_temp.events_of(:c), 1::bigint, 'F21: and leaves no event but the campaign''s');
SELECT is((SELECT count(*) FROM coupon_issue_many(:c, ARRAY['v', 'w', 'x', 'y', 'z']) WHERE status = 'issued'), 5::bigint, 'all of them can be issued');

-- an error inside coupon_issue itself: a trigger refuses the row
SELECT coupon_campaign_create('refused', 2) AS c \gset
SELECT throws_ok(format('SELECT coupon_issue(%s, '''')', :c), '22023', NULL, 'an invalid user takes no unit');
SELECT is((SELECT remaining FROM coupon_status(:c)), 2::bigint, 'both units are free');

-- what else is rolled back
SELECT coupon_campaign_create('pause', 5) AS c \gset
SAVEPOINT s;
SELECT coupon_campaign_pause(:c) AS ignore \gset
SELECT pg_temp.status_of(:c, 'a') AS during \gset
ROLLBACK TO s;
SELECT is(:'during'::text, 'paused', 'the own pause is seen at once');
SELECT is(pg_temp.status_of(:c, 'a'), 'issued', 'a pause that is rolled back is gone');
SAVEPOINT s;
SELECT coupon_campaign_close(:c) AS ignore \gset
SELECT pg_temp.status_of(:c, 'b') AS during \gset
ROLLBACK TO s;
SELECT is(:'during'::text, 'closed', 'the own close is seen at once');
SELECT is(pg_temp.status_of(:c, 'b'), 'issued', 'a close that is rolled back is gone');

SAVEPOINT s;
SELECT coupon_campaign_create('gone', 5) AS g \gset
SELECT pg_temp.status_of(:g, 'a') AS during \gset
ROLLBACK TO s;
SELECT is(:'during'::text, 'issued', 'a new campaign issues in its own transaction');
SELECT throws_ok(format('SELECT coupon_issue(%s, ''a'')', :g), 'UC001', NULL, 'a campaign that is rolled back is unknown');

-- stock added to a new campaign and rolled back
SELECT coupon_campaign_create('growth', 1) AS c \gset
SELECT pg_temp.status_of(:c, 'a') AS ignore \gset
SAVEPOINT s;
SELECT coupon_campaign_add_stock(:c, 200) AS ignore \gset
SELECT count(*) AS during FROM coupon_issue_many(:c, (SELECT array_agg('g' || g) FROM generate_series(1, 201) g)) WHERE status = 'issued' \gset
ROLLBACK TO s;
SELECT is(:during, 200, 'stock added to a new campaign is on sale in its own transaction');
SELECT is((SELECT stock FROM coupon_status(:c)), 1::bigint, 'rolled back it is gone');
SELECT isnt(pg_temp.status_of(:c, 'b'), 'issued', 'F1: and not on sale');
SELECT is(coupon_campaign_add_stock(:c, 1), 2::bigint, 'stock can be added again');
SELECT is(pg_temp.status_of(:c, 'b'), 'issued', 'and sold');
SELECT isnt(pg_temp.status_of(:c, 'c'), 'issued', 'F1: to the last unit');
SELECT is((SELECT count(*) FROM coupon_verify(:c)), 0::bigint, 'verify finds nothing');

-- codes imported and rolled back
SELECT coupon_campaign_create('codes', 0) AS c \gset
SAVEPOINT s;
SELECT coupon_codes_import(:c, ARRAY['A', 'B']) AS ignore \gset
SELECT code AS during FROM coupon_issue(:c, 'a') \gset
ROLLBACK TO s;
SELECT isnt(pg_temp.status_of(:c, 'a'), 'issued', 'imported codes that are rolled back are gone');
SELECT is(coupon_codes_import(:c, ARRAY['C']), 1::bigint, 'others can be imported');
SELECT is((SELECT code FROM coupon_issue(:c, 'a')), 'C', 'and issued');
SELECT is((SELECT count(*) FROM coupon_verify(:c)), 0::bigint, 'verify finds nothing');

-- a campaign created in a released savepoint of one that is rolled back, while another one stays
SAVEPOINT s1;
SELECT coupon_campaign_create('stays', 1) AS stays \gset
SELECT pg_temp.status_of(:stays, 'a') AS ignore \gset
RELEASE s1;
SAVEPOINT s1;
SAVEPOINT s2;
SELECT coupon_campaign_create('goes', 1) AS goes \gset
SELECT pg_temp.status_of(:goes, 'a') AS ignore \gset
RELEASE s2;
ROLLBACK TO s1;
SELECT throws_ok(format('SELECT coupon_issue(%s, ''a'')', :goes), 'UC001', NULL, 'the campaign of the rolled back savepoint is unknown');
SELECT is(pg_temp.status_of(:stays, 'a'), 'already_issued', 'the other one stays');

-- a revocation that is rolled back gives nothing away
SELECT coupon_campaign_create('revoke', 1) AS c \gset
SELECT pg_temp.status_of(:c, 'alice') AS ignore \gset
SAVEPOINT s;
SELECT coupon_revoke(:c, 'alice', 'test') AS ignore \gset
ROLLBACK TO s;
SELECT is(pg_temp.status_of(:c, 'alice'), 'already_issued', 'a revocation that is rolled back leaves the unit with its owner');
SELECT isnt(pg_temp.status_of(:c, 'bob'), 'issued', 'F1: and nobody else gets it');

-- redemption and cancellation likewise
SAVEPOINT s;
SELECT status AS during FROM coupon_redeem(:c, 'alice', 'order 1') \gset
ROLLBACK TO s;
SELECT is((SELECT status FROM coupon_redeem(:c, 'alice', 'order 2')), 'redeemed', 'a redemption that is rolled back leaves the unit usable');
SELECT is((SELECT count(*) FROM coupon_verify(:c)), 0::bigint, 'verify finds nothing');

SELECT * FROM finish();
ROLLBACK;
