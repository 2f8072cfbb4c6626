-- One user asks for one unit.
\set user random(1, :users)
SELECT bench.told((coupon_issue(:campaign, :user::text)).status);
