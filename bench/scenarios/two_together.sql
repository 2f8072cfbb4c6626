-- Two coupons in one transaction, in either order; nobody else is this user.
\set first random(0, 1)
\set one :campaign + :first
\set two :campaign + 1 - :first
\set user (1 + random(1, 1000000)) * 1000 + :client_id
BEGIN;
SELECT bench.told((coupon_issue(:one, :user::text)).status);
SELECT bench.told((coupon_issue(:two, :user::text)).status);
COMMIT;
