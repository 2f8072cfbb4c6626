-- A user wants seat 1, else 2, ... else 10, else any; then pays for it.  First
-- each connection does that with a seat of another schedule, and waits until
-- all have.
\if :ready = 0
SELECT h.serial FROM coupon_hold(:other, 1 + :client_id, 'user ' || :client_id) h;
SELECT h.serial FROM coupon_hold_any(:other, 'user ' || :client_id) h;
SELECT c.serial FROM coupon_confirm(:other, 1 + :client_id, 'user ' || :client_id, 'payment') c;
SELECT bench.told('ok'), greatest(0, extract(epoch FROM at - clock_timestamp()) * 1000)::int AS wait FROM bench.start \gset
\sleep :wait ms
\set ready 1
\elif :seat = 0
\set try :try + 1
\if :try <= 10
SELECT bench.told(status), CASE status WHEN 'held' THEN serial ELSE 0 END AS seat
  FROM coupon_hold(:campaign, :try, 'user ' || :client_id) \gset
\else
SELECT bench.told(status), CASE status WHEN 'held' THEN serial WHEN 'sold_out' THEN -1 ELSE 0 END AS seat
  FROM coupon_hold_any(:campaign, 'user ' || :client_id) \gset
\endif
\elif :seat > 0
SELECT bench.told(status) FROM coupon_confirm(:campaign, :seat, 'user ' || :client_id, 'payment');
\set seat -1
\endif
