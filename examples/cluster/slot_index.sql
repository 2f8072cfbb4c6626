-- Indexes on the slot of a user: for as long as slots of a node that has millions of issuances move to
-- others, so that each step finds the rows that it takes along.  Run by psql at that node, as the owner of
-- the extension, before coupon_slots_move(), coupon_slots_balance() or coupon_node_drain(); the sale goes on.
--
-- They cost something with each issue.  When the slots have moved:
--	DROP INDEX CONCURRENTLY coupon.issuance_slot_idx; the same for the other two
CREATE INDEX CONCURRENTLY issuance_slot_idx ON coupon.issuance (coupon.slot_of(user_id));
CREATE INDEX CONCURRENTLY request_key_slot_idx ON coupon.request_key (coupon.slot_of(user_id));
CREATE INDEX CONCURRENTLY refusal_slot_idx ON coupon.refusal (coupon.slot_of(user_id));
ANALYZE coupon.issuance, coupon.request_key, coupon.refusal;
