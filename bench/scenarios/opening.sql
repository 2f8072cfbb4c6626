-- Each session is a user of its own.
SELECT request_id, remaining, bench.told(CASE status WHEN 'WAITING' THEN 'accepted' ELSE outcome END)
  FROM coupon_request(:campaign, 'user ' || :client_id), coupon_status(:campaign);
