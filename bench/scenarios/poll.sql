-- A session asks for its own request, again and again.  Two of three have made
-- one; its position never rises, and who has none is told so.
SELECT coalesce(queue_position, 0) AS position,
       bench.told(CASE WHEN queue_position > :position THEN 'rose'
                       WHEN (status = 'NOT_REQUESTED') <> (:client_id % 3 = 2) THEN 'wrong'
                       WHEN status = 'COMPLETED' AND outcome <> 'issued' THEN 'wrong'
                       ELSE lower(status) END) AS told
  FROM coupon_request_status_of(:campaign, 'user ' || :client_id) \gset
