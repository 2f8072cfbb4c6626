-- Queues: asynchronous requests. Rows are inserted once, changed once, and
-- go by TRUNCATE: two tables take turns. The C core writes them (src/queue/queue_table.c,
-- src/request/request.c) and knows the columns by position; half of each page is left
-- free for the change.

CREATE TABLE coupon.request (
	request_id   uuid NOT NULL,
	campaign_id  bigint NOT NULL,
	requested_at timestamptz NOT NULL,
	decided_at   timestamptz,
	serial       bigint,
	user_id      text COLLATE "C" NOT NULL,
	outcome      text COLLATE "C",
	request_key  text COLLATE "C",
	CONSTRAINT request_children_only CHECK (false) NO INHERIT
);
CREATE TABLE coupon.request_0 (PRIMARY KEY (request_id)) INHERITS (coupon.request)
	WITH (fillfactor = 45, autovacuum_enabled = off);
CREATE TABLE coupon.request_1 (PRIMARY KEY (request_id)) INHERITS (coupon.request)
	WITH (fillfactor = 45, autovacuum_enabled = off);
CREATE INDEX request_0_user_idx ON coupon.request_0 (campaign_id, user_id);
CREATE INDEX request_1_user_idx ON coupon.request_1 (campaign_id, user_id);
COMMENT ON TABLE coupon.request IS 'asynchronous requests; the rows are in its children';
COMMENT ON TABLE coupon.request_0 IS 'requests, first of two tables used in turn';
COMMENT ON TABLE coupon.request_1 IS 'requests, second of two tables used in turn';
COMMENT ON COLUMN coupon.request.request_id IS 'UUID version 8: campaign, number in its line, 58 random bits';
COMMENT ON COLUMN coupon.request.campaign_id IS 'the campaign';
COMMENT ON COLUMN coupon.request.requested_at IS 'when it was accepted';
COMMENT ON COLUMN coupon.request.decided_at IS 'when it was decided, null: it waits';
COMMENT ON COLUMN coupon.request.serial IS 'the unit, where the user has one';
COMMENT ON COLUMN coupon.request.user_id IS 'who wishes';
COMMENT ON COLUMN coupon.request.outcome IS 'a status of coupon.issue_result, or failed; null: it waits';
COMMENT ON COLUMN coupon.request.request_key IS 'the caller''s own key: the same key again is the same request';

CREATE TYPE coupon.request_result AS (
	request_id     uuid,
	status         text,
	outcome        text,
	queue_position bigint,
	issuance       coupon.issue_result,
	requested_at   timestamptz,
	decided_at     timestamptz
);
COMMENT ON TYPE coupon.request_result IS
	'what is known of a request; status: WAITING | COMPLETED | REFUSED | NOT_REQUESTED; outcome: a status of coupon.issue_result, or full, failed';

CREATE FUNCTION coupon.queue_guard() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'coupon_queue_guard';
COMMENT ON FUNCTION coupon.queue_guard() IS 'refuses changes past the functions: shared memory holds who waits';

CREATE TRIGGER queue_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.request
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.queue_guard();
CREATE TRIGGER queue_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.request_0
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.queue_guard();
CREATE TRIGGER queue_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.request_1
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.queue_guard();

CREATE FUNCTION @extschema@.coupon_request(campaign_id bigint, user_id text, request_key text DEFAULT NULL)
RETURNS coupon.request_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_request(bigint, text, text) IS
	'accepts a wish to be issued a unit, to be decided by a worker after the commit; the same key, or without one a request that still waits, is the same request; REFUSED: the outcome says why, and nothing was stored';

CREATE FUNCTION @extschema@.coupon_request(campaign_id bigint, user_id bigint, request_key text DEFAULT NULL)
RETURNS coupon.request_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_request_bigint';
COMMENT ON FUNCTION @extschema@.coupon_request(bigint, bigint, text) IS
	'coupon_request(bigint, text, text) for numeric users';

CREATE FUNCTION @extschema@.coupon_request_status(request_id uuid)
RETURNS coupon.request_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_request_status(uuid) IS
	'what is known of a request; NOT_REQUESTED: there is none, or it was decided longer than coupon.queue_keep ago';

CREATE FUNCTION @extschema@.coupon_request_status_of(campaign_id bigint, user_id text)
RETURNS coupon.request_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_request_status_of(bigint, text) IS
	'the same of the user''s newest request; without one, COMPLETED for who has a unit, else NOT_REQUESTED';

CREATE FUNCTION @extschema@.coupon_request_wait(request_id uuid, timeout interval DEFAULT '5 s')
RETURNS coupon.request_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_request_wait(uuid, interval) IS
	'sleeps until the request is decided, at most for the timeout; then answers as coupon_request_status';

CREATE FUNCTION @extschema@.coupon_request_queue(
	campaign_id bigint DEFAULT NULL,
	OUT campaign bigint,
	OUT depth bigint,
	OUT oldest interval,
	OUT decided bigint,
	OUT decided_per_second double precision,
	OUT drain_time interval,
	OUT depth_limit bigint)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_request_queue(bigint) IS
	'how many requests wait, how long the oldest has, how many were decided since the server knows the campaign, and how long the rest will take';

CREATE FUNCTION @extschema@.coupon_request_decide(max_rows integer DEFAULT 1000)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_request_decide(integer) IS
	'decides up to max_rows requests of one campaign, in order; the issuer worker does it all the time';
