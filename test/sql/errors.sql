-- Misuse, as a user sees it: message, DETAIL, HINT.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS coupon;
RESET client_min_messages;
\set VERBOSITY default
\set SHOW_CONTEXT never
-- Messages name campaigns by their ids, so the ids are made known; the
-- transaction is rolled back at the end, and each ERROR costs its statement.
\set ON_ERROR_ROLLBACK on
BEGIN;
ALTER SEQUENCE coupon.campaign_campaign_id_seq RESTART WITH 1000000001;
SELECT coupon_campaign_create('plain', 3) AS plain, coupon_campaign_create('coded', 0) AS coded,
       coupon_campaign_create('closed', 3) AS closed \gset
SELECT coupon_codes_import(:coded, ARRAY['A', 'B', 'A']);
SELECT coupon_campaign_close(:closed);
-- unknown campaign
SELECT coupon_issue(9223372036854775807, 'alice');
SELECT coupon_status(-1);
-- NULL, empty, too long, out of range
SELECT coupon_issue(NULL, 'alice');
SELECT coupon_issue(:plain, NULL::text);
SELECT coupon_issue(:plain, '');
SELECT coupon_issue(:plain, repeat('가', 100));
SELECT coupon_issue_many(:plain, NULL::text[]);
SELECT coupon_issue_many(:plain, '{{a,b},{c,d}}'::text[]);
SELECT coupon_campaign_create('', 1);
SELECT coupon_campaign_create('x', -1);
SELECT coupon_campaign_create('x', 100000001);
SELECT coupon_campaign_create('x', 1, 0);
SELECT coupon_campaign_create('x', 1, opens_at => '2030-01-02 00:00+00', closes_at => '2030-01-01 00:00+00');
SELECT coupon_campaign_create('x', 1, topic => 'no spaces');
SELECT coupon_campaign_add_stock(:plain, 0);
SELECT coupon_campaign_add_stock(:plain, 99999998);
SELECT coupon_expire(0);
SELECT coupon_emit('topic', 'key', 'coupon.issued', '{}');
SELECT coupon_redeem(:plain, 'alice', '');
SELECT coupon_revoke(:plain, 'alice', NULL);
-- policy
SELECT coupon_campaign_create('x', 1, policy => '[]');
SELECT coupon_campaign_create('x', 1, policy => '{"discount": 10}');
SELECT coupon_campaign_create('x', 1, policy => '{"kind": "PERCENT"}');
SELECT coupon_campaign_create('x', 1, policy => '{"kind": "FIXED"}');
SELECT coupon_campaign_create('x', 1, policy => '{"kind": "FIXED", "amount": 0}');
SELECT coupon_campaign_create('x', 1, policy => '{"kind": "FIXED", "amount": 1, "rate": 1}');
SELECT coupon_campaign_create('x', 1, policy => '{"kind": "RATE", "rate": 101}');
SELECT coupon_campaign_create('x', 1, policy => '{"usage_period_days": 1.5}');
SELECT coupon_campaign_create('x', 1, policy => '{"attributes": []}');
SELECT coupon_campaign_create('x', 1, policy => jsonb_build_object('attributes', jsonb_build_object('a', repeat('x', 5000))));
-- a closed campaign
SELECT coupon_campaign_pause(:closed);
SELECT coupon_campaign_add_stock(:closed, 1);
-- plain and coded
SELECT coupon_campaign_add_stock(:coded, 1);
SELECT coupon_codes_import(:plain, ARRAY['A']);
SELECT (coupon_issue(:plain, 'alice')).status;
SELECT coupon_codes_import(:plain, ARRAY['A', 'B', 'C', 'D']);
SELECT coupon_codes_import(:coded, ARRAY['C', NULL]);
SELECT coupon_codes_import(:coded, ARRAY['C', '']);
SELECT coupon_codes_generate(:coded, 'X-#', 17);
SELECT coupon_codes_generate(:coded, 'X', 1);
-- redeemed
SELECT (coupon_redeem(:plain, 'alice', 'order-1')).status;
SELECT coupon_revoke(:plain, 'alice', 'fraud');
-- a superuser's own DML
INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy)
VALUES (:plain, 4, 0, 1, now(), 'mallory', 'issued', '{}');
INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy)
VALUES (:plain, 1, 0, 2, now(), 'mallory', 'issued', '{}');
TRUNCATE coupon.issuance;
-- privileges
SET LOCAL ROLE coupon_service;
SELECT coupon_campaign_create('x', 1);
SELECT * FROM coupon.unit;
RESET ROLE;
SET LOCAL ROLE coupon_reader;
SELECT coupon_issue(:plain, 'alice');
RESET ROLE;
ROLLBACK;
