-- One step of a user before, in and after the waiting room, by pgbench.  Each
-- client is a user; one who is through takes no more steps.
\if :state = 0
\set pause random(0, 300)
\sleep :pause ms
-- somebody else walks around the room
SELECT (coupon_issue(:campaign, 'stranger ' || :client_id)).status;
SELECT token, queue_position AS first FROM coupon_queue_join('demo', 'user ' || :client_id) \gset
\set position :first
\set state 1
\elif :state = 1
\sleep 100 ms
\set before :position
SELECT queue_position AS position FROM coupon_queue_position(:token) \gset
\set polls :polls + 1
\if :position > :before
\set rose :rose + 1
\endif
\endif
\if :state = 1 and :position = 0
SELECT (coupon_issue(:campaign, 'user ' || :client_id)).status;
\sleep 100 ms
INSERT INTO demo.visit SELECT :first, :polls, :rose, coupon_queue_leave(:token);
\set state 2
\endif
