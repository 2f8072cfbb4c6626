-- The same, answered with what is left: {requestId, message, remainingStock}.
\set user random(1, :users)
SELECT request_id, remaining, bench.told(CASE status WHEN 'WAITING' THEN 'accepted' ELSE outcome END)
  FROM coupon_request(:campaign, :user::text), coupon_status(:campaign);
