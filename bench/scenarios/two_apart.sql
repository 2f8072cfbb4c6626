-- Two coupons by two calls, in either order, by users who click everywhere.
\set first random(0, 1)
\set one :campaign + :first
\set two :campaign + 1 - :first
\set user random(1, 1000)
SELECT bench.told((coupon_issue(:one, :user::text)).status);
SELECT bench.told((coupon_issue(:two, :user::text)).status);
