-- One call of 001, the :call-th of its list; first a user who may.
\if :ready = 0
\set user (random(1, 1000000) * 100 + :process) * 1000 + :client_id
SELECT bench.enqueue(:user) AS token \gset
\set ready 1
\elif :call = 1
SELECT bench.concerts(:token);
\elif :call = 2
\set other (random(1, 1000000) * 100 + :process) * 1000 + :client_id
SELECT bench.enqueue(:other);
\elif :call = 3
SELECT bench.order(:token) AS place \gset
\elif :call = 4
\set concert random(1, :concerts)
SELECT bench.schedules(:token, :concert);
\elif :call = 5
\set schedule random(1, least(20, :schedules))
SELECT bench.seats(:token, :schedule);
\else
\set seat random(1, :seats)
SELECT bench.reserve(:token, :user, :seat) AS reservation \gset
\endif
