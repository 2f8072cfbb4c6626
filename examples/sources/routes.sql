-- The routes of api.sql for the extension's own HTTP front.  After api.sql, as a
-- superuser; may be run again:
--
--	psql -d shop -f routes.sql

\set ON_ERROR_STOP on
\set QUIET on
BEGIN;

SELECT count(coupon_route_drop(r.method, r.path)) FROM coupon.route r WHERE r.function LIKE 'coupon\_api.%' \g /dev/null
SELECT count(*) FROM (VALUES
	('POST', '/coupons/issue-sync/{userId}', 'coupon_api.issue_sync(text, text)'),
	('POST', '/coupons/issue-optimistic/{userId}', 'coupon_api.issue_optimistic(text, text)'),
	('POST', '/coupons/issue-async/{userId}', 'coupon_api.issue_async(text, text)'),
	('GET', '/coupons/issue-status/{userId}', 'coupon_api.issue_status(text, text)'),
	('GET', '/coupons/issue-result/{userId}', 'coupon_api.issue_result(text, text, text)'),
	('POST', '/coupons/issue/{userId}', 'coupon_api.issue_async(text, text)'),
	('GET', '/coupons/result/{userId}', 'coupon_api.issue_result(text, text, text)'),
	('POST', '/coupon/issue', 'coupon_api.issue(jsonb, jsonb, jsonb, jsonb, jsonb, jsonb, jsonb, jsonb, jsonb)'),
	('POST', '/api/coupons/{couponId}/issue-fcfs/{publicId}', 'coupon_api.issue_fcfs(text, text)'),
	('POST', '/admin/coupon-policies', 'coupon_api.admin_coupon_policies(jsonb, jsonb, jsonb)'),
	('GET', '/admin/coupons/{code}/status', 'coupon_api.admin_coupon_status(text)'),
	('GET', '/admin/redis/queue-status', 'coupon_api.admin_queue_status(text)'),
	('GET', '/admin/kafka/health', 'coupon_api.admin_kafka_health()'),
	('GET', '/admin/kafka/status', 'coupon_api.admin_kafka_status()'),
	('POST', '/queues/enqueue', 'coupon_api.queue_enqueue(jsonb, jsonb)'),
	('GET', '/queues/order', 'coupon_api.queue_order()')) r(method, path, function),
	LATERAL coupon_route_add(r.method, r.path, r.function::regprocedure) \g /dev/null

COMMIT;
