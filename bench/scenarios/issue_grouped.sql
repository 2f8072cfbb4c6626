-- One user asks for one unit, together with all who ask at that moment.
\set user random(1, :users)
SELECT remaining, bench.told(issued.status)
  FROM coupon_issue_grouped(:campaign, :user::text) issued, coupon_status(:campaign);
