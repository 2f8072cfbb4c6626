-- One click, by pgbench.  The clicks of a run are numbered k = 0 .. clicks-1
-- over all clients.  Most are wishes: every pair of user and campaign once,
-- in random order.  The others, spread evenly, are repeats of a recent wish:
-- somebody clicks twice.
--
-- A client's first call comes before the opening.  Then it waits for the lock
-- that the driver holds until it has opened the sale.
\set k greatest(:client_id + :clients * (:mine - 1), 0)
\set before :k * (:clicks - :wishes) / :clicks
\set is_repeat (:k + 1) * (:clicks - :wishes) / :clicks > :before
\set wish :k - :before
\if :is_repeat
\set wish greatest(:wish - random(1, 100), 0)
\endif
\set pair permute(:wish, :wishes, :seed)
\set user 1 + :pair % :users
\set campaign :first_campaign + :pair / :users
SELECT status FROM coupon_issue(:campaign, :user);
\if :mine = 0
SELECT pg_advisory_xact_lock_shared(1);
\endif
\set mine :mine + 1
