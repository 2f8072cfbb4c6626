-- Every other transaction is a payment; the one before makes what is paid for.
\if :ready = 0
\set user (random(1, 1000000) * 100 + :process) * 1000 + :client_id
SELECT bench.enqueue(:user) AS token \gset
\set reservation 0
\if :reservation = 0
\set seat random(1, :seats)
SELECT bench.reserve(:token, :user, :seat) AS reservation \gset
\endif
\if :reservation = 0
\set seat random(1, :seats)
SELECT bench.reserve(:token, :user, :seat) AS reservation \gset
\endif
\if :reservation = 0
\set seat random(1, :seats)
SELECT bench.reserve(:token, :user, :seat) AS reservation \gset
\endif
\if :reservation = 0
\set seat random(1, :seats)
SELECT bench.reserve(:token, :user, :seat) AS reservation \gset
\endif
\set ready 1
\else
SELECT bench.pay(:token, :user, :reservation);
\set ready 0
\endif
