-- One event of this session's user: number 1, 2, 3, ...
\set number :number + 1
SELECT bench.told(CASE WHEN coupon_emit('order-events', 'user ' || :client_id, 'order.placed',
       jsonb_build_object('number', :number::int)) IS NULL THEN 'wrong' ELSE 'emitted' END);
