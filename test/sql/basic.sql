-- A first session: a sale of three units from creation to sell-out.
SET client_min_messages = error;
CREATE EXTENSION IF NOT EXISTS coupon;
RESET client_min_messages;
-- a campaign with three units, one for each user
SELECT coupon_campaign_create('summer sale', 3,
	policy => '{"kind": "RATE", "rate": 10, "max_discount": 5000, "usage_period_days": 30}') AS sale \gset
SELECT name, per_user_limit, paused, coded, topic, policy FROM coupon.campaign WHERE campaign_id = :sale;
-- alice gets a unit
SELECT user_id, status, serial BETWEEN 1 AND 3 AS serial_ok, code, issued_at IS NOT NULL AS issued,
       expires_at - issued_at = interval '720 hours' AS thirty_days
  FROM coupon_issue(:sale, 'alice');
-- her retry gets the same one
SELECT user_id, status, r.serial = i.serial AS same_serial, r.issued_at = i.issued_at AS same_time
  FROM coupon_issue(:sale, 'alice') r JOIN coupon.issuance i USING (user_id) WHERE i.campaign_id = :sale;
-- several users at once; the stock ends with the second
SELECT user_id, status FROM coupon_issue_many(:sale, ARRAY['bob', 'alice', '', 'carol', 'dave']);
SELECT user_id, status FROM coupon_issue(:sale, 'erin');
-- numbers will do as users
SELECT user_id, status FROM coupon_issue(:sale, 42);
SELECT stock, issued, held, in_flight, remaining FROM coupon_status(:sale);
SELECT answered_issued, answered_already_issued, answered_sold_out, answered_busy,
       answered_not_open, answered_closed, answered_paused FROM coupon_status(:sale);
-- alice uses hers, once
SELECT user_id, status, order_ref FROM coupon_redeem(:sale, 'alice', 'order-1');
SELECT user_id, status, order_ref FROM coupon_redeem(:sale, 'alice', 'order-1');
SELECT user_id, status, order_ref FROM coupon_redeem(:sale, 'alice', 'order-2');
SELECT user_id, status, order_ref FROM coupon_redeem_cancel(:sale, 'alice', 'order-2');
SELECT user_id, status, order_ref FROM coupon_redeem_cancel(:sale, 'alice', 'order-1');
-- bob's is taken back; erin gets it
SELECT coupon_revoke(:sale, 'bob', 'fraud');
SELECT coupon_revoke(:sale, 'bob', 'fraud');
SELECT user_id, status FROM coupon_issue(:sale, 'erin');
-- more stock, then a pause, then the end
SELECT coupon_campaign_add_stock(:sale, 1);
SELECT user_id, status FROM coupon_issue(:sale, 'frank');
SELECT coupon_campaign_pause(:sale);
SELECT user_id, status FROM coupon_issue(:sale, 'grace');
SELECT coupon_campaign_resume(:sale);
SELECT user_id, status FROM coupon_issue(:sale, 'grace');
SELECT coupon_campaign_close(:sale);
SELECT user_id, status FROM coupon_issue(:sale, 'heidi');
SELECT user_id, status FROM coupon_issue(:sale, 'alice');
SELECT name, state, stock, issued, remaining FROM coupon.campaign_status WHERE campaign_id = :sale;
-- every change has its event
SELECT topic, CASE key WHEN :'sale' THEN 'the campaign' ELSE key END AS key, type
  FROM coupon.outbox WHERE payload->>'campaign_id' = :'sale' ORDER BY id;
SELECT * FROM coupon_verify(:sale);
-- a campaign whose units are codes
SELECT coupon_campaign_create('codes', 0) AS codes \gset
SELECT coupon_codes_import(:codes, ARRAY['SAVE10-A', 'SAVE10-B', 'SAVE10-A']);
SELECT coupon_codes_generate(:codes, 'SAVE10-########', 2);
SELECT user_id, status, code ~ '^SAVE10-([AB]|[0-9A-HJKMNP-TV-Z]{8})$' AS code_ok FROM coupon_issue(:codes, 'alice');
SELECT stock, issued, remaining FROM coupon_status(:codes);
SELECT * FROM coupon_verify(:codes);
-- leave nothing behind
DELETE FROM coupon.issuance WHERE campaign_id IN (:sale, :codes);
DELETE FROM coupon.unit WHERE campaign_id IN (:sale, :codes);
UPDATE coupon.campaign SET closed_at = now() WHERE campaign_id IN (:sale, :codes);
DELETE FROM coupon.shard WHERE campaign_id IN (:sale, :codes);
DELETE FROM coupon.campaign WHERE campaign_id IN (:sale, :codes);
DELETE FROM coupon.outbox WHERE payload->>'campaign_id' IN (:'sale', :'codes');
SELECT count(*) FROM coupon_verify();
