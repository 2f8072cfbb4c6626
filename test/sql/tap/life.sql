-- After issuing: redeem, cancel, revoke, expire.
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT plan(81);

CREATE FUNCTION pg_temp.redeem(bigint, text, text, bigint DEFAULT NULL) RETURNS text LANGUAGE sql AS
	$$ SELECT status || coalesce(' ' || order_ref, '') FROM coupon_redeem($1, $2, $3, $4) $$;
CREATE FUNCTION pg_temp.cancel(bigint, text, text, bigint DEFAULT NULL) RETURNS text LANGUAGE sql AS
	$$ SELECT status FROM coupon_redeem_cancel($1, $2, $3, $4) $$;
CREATE FUNCTION pg_temp.state(bigint, text) RETURNS text LANGUAGE sql AS
	$$ SELECT string_agg(state, ' ' ORDER BY nth) FROM coupon.issuance WHERE campaign_id = $1 AND user_id = $2 $$;

-- redeem
SELECT coupon_campaign_create('life', 10) AS c \gset
CREATE TEMP TABLE issue AS SELECT * FROM coupon_issue(:c, 'alice');
CREATE TEMP TABLE redeem AS SELECT 'first' AS step, * FROM coupon_redeem(:c, 'alice', 'order 1');
SELECT is(status, 'redeemed', 'redeemed') FROM redeem;
SELECT is(r.user_id || r.serial, 'alice' || i.serial, 'the answer has the user and the serial') FROM redeem r, issue i;
SELECT is(order_ref, 'order 1', 'the answer has the order') FROM redeem;
SELECT ok(redeemed_at BETWEEN now() AND clock_timestamp(), 'redeemed_at is now') FROM redeem;
SELECT results_eq(format('SELECT state COLLATE "default", order_ref, redeemed_at FROM coupon.issuance WHERE campaign_id = %s', :c),
	$$ SELECT 'redeemed', order_ref, redeemed_at FROM redeem $$, 'F15: the row says what the answer says');
INSERT INTO redeem SELECT 'again', * FROM coupon_redeem(:c, 'alice', 'order 1');
SELECT is(status, 'already_redeemed', 'the same order again: already_redeemed') FROM redeem WHERE step = 'again';
SELECT results_eq($$ SELECT user_id, serial, code, order_ref, redeemed_at FROM redeem WHERE step = 'again' $$,
	$$ SELECT user_id, serial, code, order_ref, redeemed_at FROM redeem WHERE step = 'first' $$, 'with the same data');
SELECT is(pg_temp.redeem(:c, 'alice', 'order 2'), 'already_redeemed order 1', 'another order: already_redeemed, and whose');
SELECT is((SELECT order_ref FROM coupon.issuance WHERE campaign_id = :c), 'order 1', 'the order stays');
SELECT is(pg_temp.redeem(:c, 'bob', 'order 3'), 'not_issued', 'a user without a unit: not_issued');
SELECT ok(user_id = 'bob' AND serial IS NULL AND code IS NULL AND order_ref IS NULL AND redeemed_at IS NULL, 'a refusal carries the user and no unit')
  FROM coupon_redeem(:c, 'bob', 'order 3');
SELECT is((SELECT status FROM coupon_issue(:c, 'alice')), 'already_issued', 'a redeemed unit still counts for its user');
SELECT is((SELECT remaining FROM coupon_status(:c)), 9::bigint, 'redeeming does not change the stock');

-- cancel
SELECT is(pg_temp.cancel(:c, 'alice', 'order 2'), 'other_order', 'cancel by another order: other_order');
SELECT is(pg_temp.state(:c, 'alice'), 'redeemed', 'and it stays redeemed');
SELECT is(pg_temp.cancel(:c, 'bob', 'order 1'), 'not_issued', 'cancel without a unit: not_issued');
SELECT is(pg_temp.cancel(:c, 'alice', 'order 1'), 'cancelled', 'cancel by the order that redeemed: cancelled');
SELECT results_eq(format('SELECT state COLLATE "default", order_ref, redeemed_at FROM coupon.issuance WHERE campaign_id = %s', :c),
	$$ VALUES ('issued', NULL::text, NULL::timestamptz) $$, 'the unit is usable again');
SELECT is(pg_temp.cancel(:c, 'alice', 'order 1'), 'not_redeemed', 'cancel twice: not_redeemed');
SELECT is(pg_temp.cancel(:c, 'alice', 'order 2'), 'not_redeemed', 'cancel by another order, nothing redeemed: not_redeemed');
SELECT is(pg_temp.redeem(:c, 'alice', 'order 2'), 'redeemed order 2', 'after the cancellation another order can redeem');
SELECT is(pg_temp.cancel(:c, 'alice', 'order 1'), 'other_order', 'the first order can no longer cancel');
SELECT is((SELECT serial FROM coupon.issuance WHERE campaign_id = :c AND user_id = 'alice'), (SELECT serial FROM issue), 'it was the same unit all the time');
SELECT is((SELECT count(*) FROM coupon_verify(:c)), 0::bigint, 'verify finds nothing');

-- revoke
SELECT throws_ok(format('SELECT coupon_revoke(%s, ''alice'', ''r'')', :c), 'UC005', NULL, 'revoke a redeemed unit: UC005');
SELECT is(pg_temp.state(:c, 'alice'), 'redeemed', 'and it stays redeemed');
SELECT is((SELECT status FROM coupon_issue(:c, 'bob')), 'issued', 'bob gets one');
SELECT is(coupon_revoke(:c, 'bob', 'fraud'), true, 'revoke: true');
SELECT is((SELECT count(*) FROM coupon.issuance WHERE campaign_id = :c AND user_id = 'bob'), 0::bigint, 'the issuance is gone');
SELECT is(coupon_revoke(:c, 'bob', 'fraud'), false, 'revoke twice: false');
SELECT is(coupon_revoke(:c, 'nobody', 'fraud'), false, 'revoke of nothing: false');
SELECT is(pg_temp.redeem(:c, 'bob', 'order 9'), 'not_issued', 'a revoked unit cannot be redeemed');
SELECT is((SELECT status FROM coupon_issue(:c, 'bob')), 'issued', 'the user can have another unit');
SELECT is(pg_temp.cancel(:c, 'alice', 'order 2'), 'cancelled', 'cancel the redemption');
SELECT is(coupon_revoke(:c, 'alice', 'fraud'), true, 'then it can be revoked');
SELECT is((SELECT count(*) FROM coupon_verify(:c)), 0::bigint, 'verify finds nothing');

-- several units of one user
SELECT coupon_campaign_create('three each', 10, per_user_limit => 3) AS m \gset
SELECT count(*) AS ignore FROM coupon_issue_many(:m, ARRAY['alice', 'alice', 'alice']) \gset
SELECT count(*) AS ignore FROM coupon_issue(:m, 'bob') \gset
SELECT serial AS n1 FROM coupon.issuance WHERE campaign_id = :m AND user_id = 'alice' AND nth = 1 \gset
SELECT serial AS n2 FROM coupon.issuance WHERE campaign_id = :m AND user_id = 'alice' AND nth = 2 \gset
SELECT serial AS n3 FROM coupon.issuance WHERE campaign_id = :m AND user_id = 'alice' AND nth = 3 \gset
SELECT serial AS nb FROM coupon.issuance WHERE campaign_id = :m AND user_id = 'bob' \gset
SELECT is((SELECT serial FROM coupon_redeem(:m, 'alice', 'a')), :n1::bigint, 'redeem takes the oldest');
SELECT is((SELECT serial FROM coupon_redeem(:m, 'alice', 'a')), :n1::bigint, 'the same order again: the same unit');
SELECT is(pg_temp.state(:m, 'alice'), 'redeemed issued issued', 'and only that one');
SELECT is((SELECT serial FROM coupon_redeem(:m, 'alice', 'c', :n3)), :n3::bigint, 'or the one that is named');
SELECT is((SELECT serial FROM coupon_redeem(:m, 'alice', 'b')), :n2::bigint, 'another order: the next usable one');
SELECT is(pg_temp.redeem(:m, 'alice', 'd', :n2), 'already_redeemed b', 'a named unit that is used');
SELECT is(split_part(pg_temp.redeem(:m, 'alice', 'd'), ' ', 1), 'already_redeemed', 'all are used');
SELECT is(pg_temp.redeem(:m, 'alice', 'd', :nb), 'not_issued', 'another user''s unit: not_issued');
SELECT is(pg_temp.cancel(:m, 'alice', 'c'), 'cancelled', 'cancel finds the order''s unit');
SELECT is(pg_temp.state(:m, 'alice'), 'redeemed redeemed issued', 'and only that one');
SELECT is(pg_temp.cancel(:m, 'alice', 'b', :n1), 'other_order', 'a named unit of another order');
SELECT is(pg_temp.cancel(:m, 'alice', 'b', :n2), 'cancelled', 'a named unit');
SELECT is(pg_temp.cancel(:m, 'bob', 'a', :n1), 'not_issued', 'another user''s unit: not_issued');
SELECT is(coupon_revoke(:m, 'alice', 'r'), true, 'revoke takes one back');
SELECT is(pg_temp.state(:m, 'alice'), 'redeemed issued', 'the newest');
SELECT throws_ok(format('SELECT coupon_revoke(%s, ''alice'', ''r'', %s)', :m, :n1), 'UC005', NULL, 'a named one that is redeemed: UC005');
SELECT is(coupon_revoke(:m, 'alice', 'r', :nb), false, 'another user''s unit: false');
SELECT is(coupon_revoke(:m, 'alice', 'r', :n2), true, 'a named one');
SELECT is(pg_temp.state(:m, 'alice'), 'redeemed', 'the redeemed one stays');
SELECT is(pg_temp.state(:m, 'bob'), 'issued', 'the other user''s unit was not touched');
SELECT is((SELECT count(*) FROM coupon_verify(:m)), 0::bigint, 'verify finds nothing');

-- numeric users
SELECT coupon_campaign_create('numbers', 10) AS n \gset
SELECT is((SELECT status FROM coupon_issue(:n, 7)), 'issued', 'number: issue');
SELECT is((SELECT status FROM coupon_redeem(:n, 7, 'o')), 'redeemed', 'number: redeem');
SELECT is((SELECT status FROM coupon_redeem(:n, '7', 'o')), 'already_redeemed', 'number: the text is the same user');
SELECT is((SELECT status FROM coupon_redeem_cancel(:n, 7, 'o')), 'cancelled', 'number: cancel');
SELECT is(coupon_revoke(:n, 7, 'r'), true, 'number: revoke');

-- expiry; the usage period is whole days, so the test moves expires_at
SELECT coupon_expire(1000000) AS ignore \gset
SELECT coupon_campaign_create('expiry', 10, policy => '{"usage_period_days": 1}') AS e \gset
SELECT count(*) AS ignore FROM coupon_issue_many(:e, ARRAY['a', 'b', 'c', 'd', 'e']) \gset
SELECT is(coupon_expire(), 0::bigint, 'nothing is due yet');
SELECT is(pg_temp.redeem(:e, 'e', 'o1'), 'redeemed o1', 'within the usage period');
UPDATE coupon.issuance SET expires_at = clock_timestamp() - interval '1 s' WHERE campaign_id = :e AND user_id IN ('a', 'b', 'c', 'e');
SELECT is(pg_temp.redeem(:e, 'a', 'o2'), 'expired', 'after the usage period: expired, before anything swept it');
SELECT is(pg_temp.redeem(:e, 'e', 'o1'), 'already_redeemed o1', 'what was redeemed in time stays so');
SELECT is(coupon_expire(1), 1::bigint, 'expire at most so many');
SELECT is(coupon_expire(1000), 2::bigint, 'then the rest');
SELECT is(coupon_expire(1000), 0::bigint, 'then none');
SELECT results_eq(format('SELECT user_id COLLATE "default", state COLLATE "default" FROM coupon.issuance WHERE campaign_id = %s ORDER BY user_id', :e),
	$$ VALUES ('a', 'expired'), ('b', 'expired'), ('c', 'expired'), ('d', 'issued'), ('e', 'redeemed') $$, 'only those that were due and unused');
SELECT is(pg_temp.redeem(:e, 'a', 'o2'), 'expired', 'an expired unit cannot be redeemed');
SELECT is(pg_temp.cancel(:e, 'a', 'o2'), 'not_redeemed', 'nor cancelled');
SELECT is((SELECT status FROM coupon_issue(:e, 'a')), 'already_issued', 'it still counts for its user');
SELECT is((SELECT remaining FROM coupon_status(:e)), 5::bigint, 'and does not return to stock');
SELECT is((SELECT issued FROM coupon_status(:e)) + (SELECT in_flight FROM coupon_status(:e)), 5::bigint, 'expired units count as issued');
SELECT is(coupon_revoke(:e, 'a', 'r'), true, 'an expired unit can be revoked');
SELECT is((SELECT count(*) FROM coupon_verify(:e)), 0::bigint, 'verify finds nothing');

-- with a usable unit beside an expired one, the usable one is taken
SELECT coupon_campaign_create('two', 10, per_user_limit => 2, policy => '{"usage_period_days": 1}') AS w \gset
SELECT count(*) AS ignore FROM coupon_issue_many(:w, ARRAY['a', 'a']) \gset
UPDATE coupon.issuance SET expires_at = clock_timestamp() - interval '1 s' WHERE campaign_id = :w AND nth = 1;
SELECT is(r.serial, i.serial, 'the oldest usable unit, not the oldest') FROM coupon_redeem(:w, 'a', 'o') r, coupon.issuance i
 WHERE i.campaign_id = :w AND i.nth = 2;
SELECT coupon_expire(1000) AS ignore \gset
SELECT is(pg_temp.state(:w, 'a'), 'expired redeemed', 'the other one expires');
SELECT is(pg_temp.redeem(:w, 'a', 'o'), 'already_redeemed o', 'and the order still finds its unit');

-- the life of a unit does not depend on the campaign being open
SELECT coupon_campaign_create('ending', 10) AS z \gset
SELECT count(*) AS ignore FROM coupon_issue_many(:z, ARRAY['a', 'b']) \gset
SELECT coupon_campaign_close(:z) AS ignore \gset
SELECT is(pg_temp.redeem(:z, 'a', 'o') || ', ' || pg_temp.cancel(:z, 'a', 'o') || ', ' || coupon_revoke(:z, 'b', 'r'),
	'redeemed o, cancelled, true', 'redeem, cancel and revoke work after the close');

SELECT * FROM finish();
ROLLBACK;
