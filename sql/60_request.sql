-- Asynchronous requests.  A row is inserted, changed once when the request is
-- decided, and truncated with its table when all of a table are old: two tables take
-- turns.  Half of each page is left free for the change.  C code (src/queue/queue_table.c,
-- src/request/) writes the rows and knows the columns by position.

CREATE TABLE coupon.request (
	request_id   uuid NOT NULL,
	campaign_id  bigint NOT NULL,
	requested_at timestamptz NOT NULL,
	decided_at   timestamptz,
	serial       bigint,
	user_id      text COLLATE "C" NOT NULL,
	outcome      text COLLATE "C",
	request_key  text COLLATE "C",
	traceparent  text COLLATE "C",
	CONSTRAINT request_children_only CHECK (false) NO INHERIT
);
CREATE TABLE coupon.request_0 (PRIMARY KEY (request_id)) INHERITS (coupon.request)
	WITH (fillfactor = 45, autovacuum_enabled = off);
CREATE TABLE coupon.request_1 (PRIMARY KEY (request_id)) INHERITS (coupon.request)
	WITH (fillfactor = 45, autovacuum_enabled = off);
CREATE INDEX request_0_user_idx ON coupon.request_0 (campaign_id, user_id);
CREATE INDEX request_1_user_idx ON coupon.request_1 (campaign_id, user_id);
COMMENT ON TABLE coupon.request IS 'Asynchronous requests. The rows are in the children.';
COMMENT ON TABLE coupon.request_0 IS 'The first of two tables for requests, which take turns.';
COMMENT ON TABLE coupon.request_1 IS 'The second of two tables for requests, which take turns.';
COMMENT ON COLUMN coupon.request.request_id IS 'A UUID of version 8, made of the campaign, the request''s number in the campaign''s line, and 58 random bits.';
COMMENT ON COLUMN coupon.request.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.request.requested_at IS 'When it was accepted.';
COMMENT ON COLUMN coupon.request.decided_at IS 'When it was decided; null: it waits.';
COMMENT ON COLUMN coupon.request.serial IS 'The unit that the user has; null: none.';
COMMENT ON COLUMN coupon.request.user_id IS 'The user who is to be issued a unit.';
COMMENT ON COLUMN coupon.request.outcome IS 'A status of coupon.issue_result, or failed; null: it waits.';
COMMENT ON COLUMN coupon.request.request_key IS 'The caller''s own key. The same key again is the same request.';
COMMENT ON COLUMN coupon.request.traceparent IS 'The trace of the call that made it; null: none.';

CREATE TYPE coupon.request_result AS (
	request_id     uuid,
	status         text,
	outcome        text,
	queue_position bigint,
	issuance       coupon.issue_result,
	requested_at   timestamptz,
	decided_at     timestamptz,
	repeated       boolean
);
COMMENT ON TYPE coupon.request_result IS
	'What is known of a request. Status: WAITING | COMPLETED | REFUSED | NOT_REQUESTED. Outcome: a status of coupon.issue_result, or full, or failed.';
COMMENT ON COLUMN coupon.request_result.request_id IS 'The id of the request.';
COMMENT ON COLUMN coupon.request_result.status IS 'How far it is.';
COMMENT ON COLUMN coupon.request_result.outcome IS 'How it was decided; null: it waits.';
COMMENT ON COLUMN coupon.request_result.queue_position IS 'Its place in the line: 1 is next, 0 is decided.';
COMMENT ON COLUMN coupon.request_result.issuance IS 'The unit, where the user has one.';
COMMENT ON COLUMN coupon.request_result.requested_at IS 'When it was accepted.';
COMMENT ON COLUMN coupon.request_result.decided_at IS 'When it was decided; null: it waits.';
COMMENT ON COLUMN coupon.request_result.repeated IS 'Of coupon_request(): whether an earlier call had made the request; null: nothing was asked for, or it was refused.';

CREATE FUNCTION coupon.queue_guard() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'coupon_queue_guard';
COMMENT ON FUNCTION coupon.queue_guard() IS 'Trigger: refuses changes that the functions did not make, of which shared memory would not learn.';

CREATE TRIGGER queue_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.request
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.queue_guard();
CREATE TRIGGER queue_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.request_0
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.queue_guard();
CREATE TRIGGER queue_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.request_1
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.queue_guard();

CREATE FUNCTION @extschema@.coupon_request(campaign_id bigint, user_id USER_TYPE, request_key text DEFAULT NULL)
RETURNS coupon.request_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_request_USER_TYPE';
COMMENT ON FUNCTION @extschema@.coupon_request(bigint, USER_TYPE, text) IS
	'Asks for a unit, which a worker decides after the commit. The same key again, or without a key a request of the user that still waits, is the same request. REFUSED: nothing was stored, and the outcome says why.';

CREATE FUNCTION @extschema@.coupon_request_status(request_id uuid)
RETURNS coupon.request_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_request_status(uuid) IS
	'What is known of a request. NOT_REQUESTED: there is none, or it was decided longer than coupon.queue_keep ago.';

CREATE FUNCTION @extschema@.coupon_request_status_of(campaign_id bigint, user_id USER_TYPE)
RETURNS coupon.request_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_request_status_of_USER_TYPE';
COMMENT ON FUNCTION @extschema@.coupon_request_status_of(bigint, USER_TYPE) IS
	'What is known of the user''s newest request. Without one: COMPLETED for a user who has a unit, else NOT_REQUESTED.';

CREATE FUNCTION @extschema@.coupon_request_wait(request_id uuid, timeout interval DEFAULT '5 s')
RETURNS coupon.request_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_request_wait(uuid, interval) IS
	'Waits until the request is decided, at most for the timeout, and then answers as coupon_request_status().';

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
	'How many requests wait, how long the oldest has waited, how many were decided since the server knows the campaign, and how long the rest will take.';

CREATE FUNCTION @extschema@.coupon_request_decide(max_rows integer DEFAULT 1000)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_request_decide(integer) IS
	'Decides up to max_rows requests of one campaign in their order. The issuer worker does this all the time.';
