-- What nginx needs to know of a sale on several nodes: the upstreams of nginx.conf beside
-- this file, from the map of any node.
--
--	psql -d sale -qAt -f nginx.sql >upstreams.conf && nginx -s reload
--
-- nginx's "hash" without "consistent" takes bits 16 to 30 of the CRC-32 of its key, modulo
-- the sum of the weights. That is 1,024 here, so what it takes is the slot of a user
-- (coupon_slot), and whose slots follow each other are one line with their number as weight.
-- A node without an http_url is not there; nor is it tried elsewhere when a node fails:
-- no other one has its users.

SELECT E'upstream coupon_home {\n\thash $coupon_key;'
UNION ALL
(SELECT format(E'\tserver %s weight=%s max_fails=0;', coalesce(regexp_replace(n.http_url, '^http://', ''), '127.0.0.1:9'), count(*))
   FROM (SELECT s.slot, s.node_id, s.slot - row_number() OVER (PARTITION BY s.node_id ORDER BY s.slot) AS run FROM coupon.slot s) s
   JOIN coupon.node n ON n.node_id = s.node_id
  GROUP BY n.node_id, n.http_url, s.run
  ORDER BY min(s.slot))
UNION ALL
SELECT '}'
UNION ALL
(SELECT format(E'upstream coupon_node_%s {\n\tserver %s max_fails=0;\n}', n.node_id, regexp_replace(n.http_url, '^http://', ''))
   FROM coupon.node n WHERE n.state <> 'gone' AND n.http_url IS NOT NULL ORDER BY n.node_id)
UNION ALL
-- a request is where it was accepted: 8 bits of its id are the node
SELECT E'map $uri $coupon_upstream {\n\tdefault coupon_home;'
UNION ALL
(SELECT format(E'\t"~^/campaigns/[0-9]+/requests/[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][%s]%s[%s]" coupon_node_%s;',
               -- the last two bits of the ninth byte, and the first six of the tenth
               (ARRAY['048c', '159d', '26ae', '37bf'])[1 + (n.node_id >> 6)], to_hex((n.node_id & 63) >> 2),
               (ARRAY['0-3', '4-7', '89ab', 'c-f'])[1 + (n.node_id & 3)], n.node_id)
   FROM coupon.node n WHERE n.state <> 'gone' AND n.http_url IS NOT NULL ORDER BY n.node_id)
UNION ALL
SELECT '}';
