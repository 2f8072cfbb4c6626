-- The extension itself: installed again, and in a schema of its own.
SET client_min_messages = error;
DROP EXTENSION IF EXISTS coupon;
CREATE EXTENSION coupon;
RESET client_min_messages;
SELECT coupon_campaign_create('first', 1) AS c \gset
SELECT status FROM coupon_issue(:c, 'alice');
SELECT status FROM coupon_issue(:c, 'bob');
-- a drop that is rolled back
BEGIN;
DROP EXTENSION coupon;
ROLLBACK;
SELECT status FROM coupon_issue(:c, 'alice');
-- everything goes with it but the roles, which are the cluster's
DROP EXTENSION coupon;
SELECT to_regnamespace('coupon') IS NULL AS no_schema, to_regproc('coupon_verify') IS NULL AS no_function;
SELECT rolname FROM pg_roles WHERE rolname IN ('coupon_admin', 'coupon_service', 'coupon_reader') ORDER BY 1;
-- an installation that is rolled back
BEGIN;
CREATE EXTENSION coupon;
SELECT coupon_campaign_create('rolled back', 2) AS r \gset
SELECT status FROM coupon_issue(:r, 'alice');
ROLLBACK;
-- the next one numbers its campaigns from the start, and knows nothing of the old
CREATE EXTENSION coupon;
SELECT coupon_issue(:c, 'bob');
SELECT coupon_campaign_create('second', 2, 2) AS d \gset
SELECT :d = :c AS same_id;
SELECT user_id, status FROM coupon_issue_many(:d, ARRAY['bob', 'bob', 'alice']);
SELECT stock, issued, remaining, answered_issued, answered_sold_out FROM coupon_status(:d);
SELECT * FROM coupon_verify();
DROP EXTENSION coupon;
-- in a schema of its own
CREATE SCHEMA coupon_test_shop;
CREATE EXTENSION coupon SCHEMA coupon_test_shop;
ALTER EXTENSION coupon SET SCHEMA public;
SELECT coupon_test_shop.coupon_campaign_create('shop', 5) AS s \gset
SELECT user_id, status FROM coupon_test_shop.coupon_issue(:s, 1);
SELECT user_id, status FROM coupon_test_shop.coupon_issue_many(:s, '{1,2}');
SELECT status FROM coupon_test_shop.coupon_redeem(:s, 1, 'order-1');
SELECT status FROM coupon_test_shop.coupon_redeem_cancel(:s, 1, 'order-1');
SELECT coupon_test_shop.coupon_revoke(:s, 1, 'test');
SELECT name, state, stock, issued, remaining FROM coupon.campaign_status;
SELECT * FROM coupon_test_shop.coupon_verify();
SELECT coupon_issue(:s, 'alice');
-- DROP ... CASCADE takes what depends on it
CREATE VIEW coupon_test_view AS SELECT (coupon_test_shop.coupon_status(campaign_id)).stock FROM coupon.campaign;
DROP EXTENSION coupon;
SET client_min_messages = warning;
DROP EXTENSION coupon CASCADE;
RESET client_min_messages;
SELECT to_regclass('coupon_test_view') IS NULL AS no_view;
DROP SCHEMA coupon_test_shop;
