-- One user asks, to be decided by a worker: 202 or refused.
\set user random(1, :users)
SELECT request_id, queue_position, bench.told(CASE status WHEN 'WAITING' THEN 'accepted' ELSE outcome END)
  FROM coupon_request(:campaign, :user::text);
