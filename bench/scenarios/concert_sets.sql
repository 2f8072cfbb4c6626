-- A user wants four of forty seats, in any order, all or none.  They give them
-- back and go on, but one time of fifty they keep them.
\if :kept = 0
\set a random(0, 39)
\set b (:a + random(1, 13)) % 40
\set c (:b + random(1, 13)) % 40
\set d (:c + random(1, 13)) % 40
SELECT min(CASE status WHEN 'held' THEN 1 ELSE 0 END) AS got,
       bench.told(CASE WHEN bool_and(status = 'held') THEN 'held' WHEN bool_or(status = 'held') THEN 'wrong'
                       WHEN bool_or(status = 'taken') THEN 'taken' ELSE min(nullif(status, 'not_held')) END) AS told
  FROM coupon_hold_many(:campaign, ARRAY[1 + :a, 1 + :b, 1 + :c, 1 + :d]::bigint[], 'user ' || :client_id) \gset
\set keeps random(1, 50)
\if :got = 1 and :keeps = 1
\set kept 1
\elif :got = 1
SELECT CASE WHEN count(*) FILTER (WHERE coupon_release(:campaign, seat, 'user ' || :client_id)) < 4 THEN bench.told('wrong') END AS ok
  FROM unnest(ARRAY[1 + :a, 1 + :b, 1 + :c, 1 + :d]::bigint[]) seat \gset
\endif
\else
\sleep 100 ms
\endif
