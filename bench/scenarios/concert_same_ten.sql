-- A user wants seat 1, else 2, ... else 10, else any; then pays for it.
\if :seat = 0
\set try :try + 1
\if :try <= 10
SELECT bench.told(status), CASE status WHEN 'held' THEN serial ELSE 0 END AS seat
  FROM coupon_hold(:campaign, :try, 'user ' || :client_id) \gset x
\set seat :xseat
\else
SELECT bench.told(status), CASE status WHEN 'held' THEN serial WHEN 'sold_out' THEN -1 ELSE 0 END AS seat
  FROM coupon_hold_any(:campaign, 'user ' || :client_id) \gset x
\set seat :xseat
\endif
\elif :seat > 0
SELECT bench.told(status) FROM coupon_confirm(:campaign, :seat, 'user ' || :client_id, 'payment');
\set seat -1
\endif
