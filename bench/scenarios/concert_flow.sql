-- The whole flow of 001, one call a transaction.  After a poll comes one that
-- is no call and says by its duration how to read the log: 500 ms, to poll
-- again, or nothing.  After a taken seat there is no payment.
\if :step = 0
\set user (random(1, 1000000) * 100 + :process) * 1000 + :client_id
SELECT bench.enqueue(:user) AS token \gset
\set step 1
\elif :step = 1
SELECT bench.order(:token) AS place \gset
\set step 2
\elif :step = 2
\if :place > 0
\sleep 500 ms
\set step 1
\else
\set step 3
\endif
\elif :step = 3
SELECT bench.concerts(:token);
\set step 4
\elif :step = 4
\set concert random(1, :concerts)
SELECT bench.schedules(:token, :concert);
\set step 5
\elif :step = 5
\set schedule random(1, :schedules)
SELECT bench.seats(:token, :schedule);
\set step 6
\elif :step = 6
\set seat random(1, :seats)
SELECT bench.reserve(:token, :user, :seat) AS reservation \gset
\set step 7
\if :reservation = 0
\set step 8
\endif
\elif :step = 7
SELECT bench.pay(:token, :user, :reservation);
\set step 8
\else
\sleep 1 s
\set step 0
\endif
