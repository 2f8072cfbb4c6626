-- The same with two campaigns side by side.
\set user random(1, :users)
\set either :campaign + random(0, 1)
SELECT request_id, queue_position, bench.told(CASE status WHEN 'WAITING' THEN 'accepted' ELSE outcome END)
  FROM coupon_request(:either, :user::text);
