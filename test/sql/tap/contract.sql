-- F6: the names, arguments, defaults and results that callers rely on.
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;

CREATE TEMP TABLE expected (signature text, result text);
INSERT INTO expected VALUES
('coupon_campaign_create(name text, stock bigint, per_user_limit integer DEFAULT 1, opens_at timestamp with time zone DEFAULT NULL::timestamp with time zone, closes_at timestamp with time zone DEFAULT NULL::timestamp with time zone, policy jsonb DEFAULT ''{}''::jsonb, topic text DEFAULT ''coupon-issued''::text)', 'bigint'),
('coupon_user_issuances(user_id text, OUT campaign_id bigint, OUT name text, OUT serial bigint, OUT state text, OUT issued_at timestamp with time zone, OUT expires_at timestamp with time zone, OUT held_until timestamp with time zone, OUT redeemed_at timestamp with time zone, OUT order_ref text, OUT confirm_ref text)', 'SETOF record'),
('coupon_user_issuances(user_id uuid, OUT campaign_id bigint, OUT name text, OUT serial bigint, OUT state text, OUT issued_at timestamp with time zone, OUT expires_at timestamp with time zone, OUT held_until timestamp with time zone, OUT redeemed_at timestamp with time zone, OUT order_ref text, OUT confirm_ref text)', 'SETOF record'),
('coupon_user_issuances(user_id bigint, OUT campaign_id bigint, OUT name text, OUT serial bigint, OUT state text, OUT issued_at timestamp with time zone, OUT expires_at timestamp with time zone, OUT held_until timestamp with time zone, OUT redeemed_at timestamp with time zone, OUT order_ref text, OUT confirm_ref text)', 'SETOF record'),
('coupon_campaign_note_refusals(campaign_id bigint, note boolean DEFAULT true)', 'boolean'),
('coupon_user_refusals(user_id text, OUT campaign_id bigint, OUT status text, OUT first_at timestamp with time zone, OUT last_at timestamp with time zone, OUT times bigint)', 'SETOF record'),
('coupon_user_refusals(user_id uuid, OUT campaign_id bigint, OUT status text, OUT first_at timestamp with time zone, OUT last_at timestamp with time zone, OUT times bigint)', 'SETOF record'),
('coupon_user_refusals(user_id bigint, OUT campaign_id bigint, OUT status text, OUT first_at timestamp with time zone, OUT last_at timestamp with time zone, OUT times bigint)', 'SETOF record'),
('coupon_user_erase(user_id text, OUT issuances bigint, OUT requests bigint, OUT tickets bigint, OUT events bigint, OUT others bigint, OUT waiting bigint)', 'record'),
('coupon_user_erase(user_id uuid, OUT issuances bigint, OUT requests bigint, OUT tickets bigint, OUT events bigint, OUT others bigint, OUT waiting bigint)', 'record'),
('coupon_user_erase(user_id bigint, OUT issuances bigint, OUT requests bigint, OUT tickets bigint, OUT events bigint, OUT others bigint, OUT waiting bigint)', 'record'),
('coupon_health()', 'SETOF coupon.finding'),
('coupon_slot(user_id USER_TYPE)', 'integer'),
('coupon_home(campaign_id bigint, user_id USER_TYPE)', 'integer'),
('coupon_node_self()', 'integer'),
('coupon_node_map()', 'jsonb'),
('coupon_node_found(node_id integer, name text, conninfo text, http_url text DEFAULT NULL::text)', 'void'),
('coupon_node_join(node_id integer, name text, conninfo text, map jsonb, http_url text DEFAULT NULL::text)', 'void'),
('coupon_node_learn(map jsonb)', 'integer'),
('coupon_slots_move(receiver integer, slots integer)', 'integer'),
('coupon_slots_balance()', 'integer'),
('coupon_node_drain()', 'integer'),
('coupon_node_disband()', 'integer'),
('coupon_node_address(node_id integer, conninfo text, http_url text DEFAULT NULL::text)', 'boolean'),
('coupon_node_remove(node_id integer)', 'boolean'),
('coupon_room_key_rotate()', 'integer'),
('coupon_room_pass(token text)', 'text'),
('coupon_room_admit(pass text)', 'timestamp with time zone'),
('coupon_doctor()', 'SETOF text'),
('coupon_campaign_add_stock(campaign_id bigint, units bigint)', 'bigint'),
('coupon_campaign_pause(campaign_id bigint)', 'boolean'),
('coupon_campaign_resume(campaign_id bigint)', 'boolean'),
('coupon_campaign_close(campaign_id bigint)', 'boolean'),
('coupon_campaign_alter(campaign_id bigint, name text DEFAULT NULL::text, opens_at timestamp with time zone DEFAULT NULL::timestamp with time zone, closes_at timestamp with time zone DEFAULT NULL::timestamp with time zone, per_user_limit integer DEFAULT NULL::integer, policy jsonb DEFAULT NULL::jsonb, topic text DEFAULT NULL::text)', 'boolean'),
('coupon_campaign_reduce_stock(campaign_id bigint, units bigint)', 'bigint'),
('coupon_units_withdraw(campaign_id bigint, serials bigint[])', 'bigint'),
('coupon_restored(accept boolean DEFAULT false, OUT campaign bigint, OUT problem text, OUT detail text)', 'SETOF record'),
('coupon_room_drop(name text)', 'void'),
('coupon_codes_import(campaign_id bigint, codes text[])', 'bigint'),
('coupon_campaign_share(campaign_id bigint)', 'boolean'),
('coupon_cluster_add_stock(campaign_id bigint, units bigint, request_key text DEFAULT NULL::text)', 'bigint'),
('coupon_cluster_create(name text, stock bigint, per_user_limit integer DEFAULT 1, opens_at timestamp with time zone DEFAULT NULL::timestamp with time zone, closes_at timestamp with time zone DEFAULT NULL::timestamp with time zone, policy jsonb DEFAULT ''{}''::jsonb, topic text DEFAULT ''coupon-issued''::text, request_key text DEFAULT NULL::text)', 'bigint'),
('coupon_cluster_create_single(name text, stock bigint, per_user_limit integer DEFAULT 1, opens_at timestamp with time zone DEFAULT NULL::timestamp with time zone, closes_at timestamp with time zone DEFAULT NULL::timestamp with time zone, policy jsonb DEFAULT ''{}''::jsonb, topic text DEFAULT ''coupon-issued''::text, request_key text DEFAULT NULL::text)', 'bigint'),
('coupon_cluster_status(campaign_id bigint, OUT node_id integer, OUT name text, OUT state text, OUT stock bigint, OUT issued bigint, OUT held bigint, OUT in_flight bigint, OUT remaining bigint, OUT in_transit bigint, OUT problem text)', 'SETOF record'),
('coupon_cluster_verify(campaign_id bigint, OUT node_id integer, OUT law text, OUT serial bigint, OUT user_id text, OUT detail text)', 'SETOF record'),
('coupon_codes_generate(campaign_id bigint, pattern text, units bigint)', 'bigint'),
('coupon_issue(campaign_id bigint, user_id USER_TYPE, request_key text DEFAULT NULL::text)', 'coupon.issue_result'),
('coupon_issue_grouped(campaign_id bigint, user_id USER_TYPE, request_key text DEFAULT NULL::text)', 'coupon.issue_result'),
('coupon_issue_many(campaign_id bigint, user_ids text[], request_keys text[] DEFAULT NULL::text[])', 'SETOF coupon.issue_result'),
('coupon_http_status(OUT answers_2xx bigint, OUT answers_3xx bigint, OUT answers_4xx bigint, OUT answers_5xx bigint, OUT average_ms double precision, OUT slowest_ms double precision)', 'record'),
('coupon_stat_reset()', 'void'),
('coupon_metrics()', 'text'),
('coupon_route_add(method text, path text, function regprocedure, batched boolean DEFAULT false, role regrole DEFAULT NULL::regrole, anonymous_role regrole DEFAULT NULL::regrole, admin boolean DEFAULT false)', 'void'),
('coupon_route_drop(method text, path text)', 'boolean'),
('coupon_redeem(campaign_id bigint, user_id USER_TYPE, order_ref text, serial bigint DEFAULT NULL::bigint)', 'coupon.redeem_result'),
('coupon_redeem_cancel(campaign_id bigint, user_id USER_TYPE, order_ref text, serial bigint DEFAULT NULL::bigint)', 'coupon.redeem_result'),
('coupon_revoke(campaign_id bigint, user_id USER_TYPE, reason text, serial bigint DEFAULT NULL::bigint)', 'boolean'),
('coupon_expire(max_rows integer DEFAULT 1000)', 'bigint'),
('coupon_units_import(campaign_id bigint, labels text[])', 'bigint'),
('coupon_units(campaign_id bigint, OUT serial bigint, OUT label text, OUT status text, OUT held_until timestamp with time zone)', 'SETOF record'),
('coupon_hold(campaign_id bigint, serial bigint, user_id USER_TYPE, ttl interval DEFAULT ''00:05:00''::interval, request_key text DEFAULT NULL::text)', 'coupon.hold_result'),
('coupon_hold_many(campaign_id bigint, serials bigint[], user_id USER_TYPE, ttl interval DEFAULT ''00:05:00''::interval, request_key text DEFAULT NULL::text)', 'SETOF coupon.hold_result'),
('coupon_hold_any(campaign_id bigint, user_id USER_TYPE, ttl interval DEFAULT ''00:05:00''::interval, request_key text DEFAULT NULL::text)', 'coupon.hold_result'),
('coupon_confirm(campaign_id bigint, serial bigint, user_id USER_TYPE, ref text)', 'coupon.hold_result'),
('coupon_release(campaign_id bigint, serial bigint, user_id USER_TYPE)', 'boolean'),
('coupon_hold_expire(max_rows integer DEFAULT 1000)', 'bigint'),
('coupon_emit(topic text, key text, type text, payload jsonb)', 'uuid'),
('coupon_status(campaign_id bigint, OUT stock bigint, OUT issued bigint, OUT held bigint, OUT in_flight bigint, OUT remaining bigint, OUT answered_issued bigint, OUT answered_already_issued bigint, OUT answered_sold_out bigint, OUT answered_busy bigint, OUT answered_not_open bigint, OUT answered_closed bigint, OUT answered_paused bigint, OUT answered_not_admitted bigint, OUT answered_held bigint)', 'record'),
('coupon_request(campaign_id bigint, user_id USER_TYPE, request_key text DEFAULT NULL::text)', 'coupon.request_result'),
('coupon_request_status(request_id uuid)', 'coupon.request_result'),
('coupon_request_status_of(campaign_id bigint, user_id USER_TYPE)', 'coupon.request_result'),
('coupon_request_wait(request_id uuid, timeout interval DEFAULT ''00:00:05''::interval)', 'coupon.request_result'),
('coupon_request_queue(campaign_id bigint DEFAULT NULL::bigint, OUT campaign bigint, OUT depth bigint, OUT oldest interval, OUT decided bigint, OUT decided_per_second double precision, OUT drain_time interval, OUT depth_limit bigint)', 'SETOF record'),
('coupon_request_decide(max_rows integer DEFAULT 1000)', 'bigint'),
('coupon_room_create(name text, capacity integer, admit_per_second numeric DEFAULT NULL::numeric, session_ttl interval DEFAULT ''00:05:00''::interval, idle_ttl interval DEFAULT ''00:01:00''::interval, method text DEFAULT ''fifo''::text, opens_at timestamp with time zone DEFAULT NULL::timestamp with time zone)', 'bigint'),
('coupon_room_alter(name text, capacity integer DEFAULT NULL::integer, admit_per_second numeric DEFAULT NULL::numeric, session_ttl interval DEFAULT NULL::interval, idle_ttl interval DEFAULT NULL::interval, method text DEFAULT NULL::text)', 'void'),
('coupon_room_pause(name text)', 'boolean'),
('coupon_room_resume(name text)', 'boolean'),
('coupon_room_draw(name text, OUT number bigint, OUT place bigint)', 'SETOF record'),
('coupon_room_counts(room_id bigint, OUT waiting bigint, OUT admitted bigint, OUT joined bigint, OUT served bigint, OUT served_per_second double precision)', 'record'),
('coupon_campaign_require_room(campaign_id bigint, room text)', 'void'),
('coupon_queue_join(room text, user_id USER_TYPE)', 'coupon.queue_result'),
('coupon_queue_position(token text)', 'coupon.queue_result'),
('coupon_queue_require(token text, room text DEFAULT NULL::text, user_id text DEFAULT NULL::text)', 'void'),
('coupon_queue_require(token text, room text, user_id bigint)', 'void'),
('coupon_queue_require(token text, room text, user_id uuid)', 'void'),
('coupon_queue_leave(token text, reason text DEFAULT ''left''::text)', 'boolean'),
('coupon_queue_serve()', 'bigint'),
('coupon_dead_letter_replay(id uuid DEFAULT NULL::uuid, topic text DEFAULT NULL::text)', 'bigint'),
('coupon_dead_letter_discard(id uuid DEFAULT NULL::uuid, topic text DEFAULT NULL::text)', 'bigint'),
('coupon_outbox_status(exact boolean DEFAULT true, OUT unpublished bigint, OUT oldest_age interval, OUT in_flight bigint, OUT published bigint, OUT retried bigint, OUT dead bigint, OUT dead_letters bigint, OUT last_ack_at timestamp with time zone, OUT broker text, OUT refused_topics text, OUT last_error text, OUT last_error_at timestamp with time zone, OUT blocking_age interval, OUT blocking_pid integer, OUT size_bytes bigint)', 'record'),
('coupon_group_status(OUT workers integer, OUT batches bigint, OUT calls bigint, OUT mean_batch double precision, OUT largest_batch bigint, OUT commit_ms double precision, OUT repeated_batches bigint)', 'record'),
('coupon_verify(campaign_id bigint DEFAULT NULL::bigint, OUT campaign bigint, OUT law text, OUT serial bigint, OUT user_id text, OUT detail text)', 'SETOF record');

-- Whoever takes a user takes one of each type.
INSERT INTO expected
SELECT replace(signature, 'USER_TYPE', type), result
  FROM expected, unnest('{text,bigint,uuid}'::text[]) type WHERE signature LIKE '%USER!_TYPE%' ESCAPE '!';
DELETE FROM expected WHERE signature LIKE '%USER!_TYPE%' ESCAPE '!';

-- Every function in the extension's target schema, whatever it is called.
CREATE TEMP VIEW actual AS
SELECT p.proname || '(' || pg_get_function_arguments(p.oid) || ')' AS signature,
       pg_get_function_result(p.oid) AS result
  FROM pg_extension e
  JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
       AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
  JOIN pg_proc p ON p.oid = d.objid AND p.pronamespace = e.extnamespace
 WHERE e.extname = 'coupon';

SELECT plan(8 + (SELECT count(*)::int FROM expected FULL JOIN actual USING (signature)));

SELECT is(a.result, x.result, 'F6: ' || signature)
  FROM expected x FULL JOIN actual a USING (signature) ORDER BY signature;

PREPARE columns_of(text) AS
SELECT (a.attname || ' ' || format_type(a.atttypid, a.atttypmod)) COLLATE "default"
  FROM pg_attribute a WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum;

SELECT results_eq($$EXECUTE columns_of('coupon.issue_result')$$,
	ARRAY['user_id text', 'status text', 'serial bigint', 'code text',
	      'issued_at timestamp with time zone', 'expires_at timestamp with time zone'],
	'F6: the answer of an issue call');
SELECT results_eq($$EXECUTE columns_of('coupon.redeem_result')$$,
	ARRAY['user_id text', 'status text', 'serial bigint', 'code text',
	      'order_ref text', 'redeemed_at timestamp with time zone'],
	'F6: the answer of a redeem call');
SELECT results_eq($$EXECUTE columns_of('coupon.hold_result')$$,
	ARRAY['user_id text', 'status text', 'serial bigint', 'label text', 'held_until timestamp with time zone'],
	'F6: the answer of a hold call');
SELECT results_eq($$EXECUTE columns_of('coupon.request_result')$$,
	ARRAY['request_id uuid', 'status text', 'outcome text', 'queue_position bigint', 'issuance coupon.issue_result',
	      'requested_at timestamp with time zone', 'decided_at timestamp with time zone', 'repeated boolean'],
	'F6: the answer of a request');
SELECT results_eq($$EXECUTE columns_of('coupon.queue_result')$$,
	ARRAY['status text', 'token text', 'queue_position bigint', 'eta interval', 'poll_after interval'],
	'F6: the answer of a room');
SELECT results_eq($$EXECUTE columns_of('coupon.outbox')$$,
	ARRAY['id uuid', 'topic text', 'key text', 'type text', 'payload json', 'traceparent text'],
	'F6: an event row');
SELECT results_eq($$EXECUTE columns_of('coupon.dead_letter')$$,
	ARRAY['id uuid', 'topic text', 'key text', 'type text', 'payload json', 'reason text', 'attempts integer', 'dead_at timestamp with time zone', 'traceparent text'],
	'F13: a dead letter');
SELECT results_eq($$EXECUTE columns_of('coupon.campaign_status')$$,
	ARRAY['campaign_id bigint', 'name text', 'state text', 'stock bigint', 'issued bigint', 'held bigint',
	      'in_flight bigint', 'remaining bigint', 'answered_issued bigint', 'answered_already_issued bigint',
	      'answered_sold_out bigint', 'answered_busy bigint', 'answered_not_open bigint',
	      'answered_closed bigint', 'answered_paused bigint', 'answered_not_admitted bigint', 'answered_held bigint'],
	'F6: the status view');

SELECT * FROM finish();
ROLLBACK;
