-- Grouped issuing: calls that come at the same time share a transaction.

CREATE FUNCTION @extschema@.coupon_issue_grouped(campaign_id bigint, user_id USER_TYPE, request_key text DEFAULT NULL)
RETURNS coupon.issue_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_issue_grouped_USER_TYPE';
COMMENT ON FUNCTION @extschema@.coupon_issue_grouped(bigint, USER_TYPE, text) IS
	'Issues a unit to the user in a transaction of its own, which it shares with the other calls that wait at that moment.';

CREATE FUNCTION @extschema@.coupon_group_status(
	OUT workers integer,
	OUT batches bigint,
	OUT calls bigint,
	OUT mean_batch double precision,
	OUT largest_batch bigint,
	OUT commit_ms double precision,
	OUT repeated_batches bigint)
RETURNS record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_group_status() IS
	'Grouped issuing in this database since the server started or coupon_stat_reset(): the workers that run now, the transactions, the calls in them, how long their commits took, and the transactions that were repeated after an error.';
