-- Grouped issuing as far as a transaction sees it: refusals, and answers that
-- need no worker.  Workers are in test/t/075_group.pl.
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS coupon;
SELECT plan(21);

SELECT coupon_campaign_create('open', 10) AS open, coupon_campaign_create('none', 0) AS none,
       coupon_campaign_create('early', 10, opens_at => now() + interval '1 day') AS early,
       coupon_campaign_create('paused', 10) AS paused, coupon_campaign_create('closed', 10) AS closed \gset
SELECT coupon_issue(:paused, 'has'), coupon_campaign_pause(:paused), coupon_campaign_close(:closed) \g /dev/null

CREATE FUNCTION pg_temp.error(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	sqlstate_ text; message text; detail text; hint text;
BEGIN
	EXECUTE statement;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS sqlstate_ = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN sqlstate_ || ' ' || message || CASE WHEN detail = '' THEN ' NO DETAIL' ELSE '' END || CASE WHEN hint = '' THEN ' NO HINT' ELSE '' END;
END $$;

SELECT is(pg_temp.error(format('SELECT coupon_issue_grouped(%s, ''a'')', :open)),
	'25001 coupon_issue_grouped() cannot be part of another transaction', 'refused in a transaction block');
SELECT is(pg_temp.error(format('SELECT coupon_issue_grouped(%s, ''a'')', :closed)),
	'25001 coupon_issue_grouped() cannot be part of another transaction', 'also where nothing would be issued');
SELECT is(pg_temp.error(format('SELECT coupon_issue_grouped(%s, NULL::text)', :open)),
	'22004 user_id must not be null', 'no user');
SELECT is(pg_temp.error(format('SELECT coupon_issue_grouped(%s, NULL::bigint)', :open)),
	'22004 user_id must not be null', 'no user by number');
SELECT is(pg_temp.error('SELECT coupon_issue_grouped(NULL, ''a'')'),
	'22004 campaign_id must not be null', 'no campaign');
SELECT is(pg_temp.error(format('SELECT coupon_issue_grouped(%s, '''')', :open)),
	'22023 user_id must not be empty', 'an empty user');
SELECT is(pg_temp.error(format('SELECT coupon_issue_grouped(%s, repeat(''x'', 257))', :open)),
	'22023 user_id is too long', 'a user that is too long');

SET LOCAL coupon.allow_autonomous = on;
SELECT is((coupon_issue_grouped(:early, 'a')).status, 'not_open', 'not open yet');
SELECT is((coupon_issue_grouped(:paused, 'a')).status, 'paused', 'paused');
SELECT is((coupon_issue_grouped(:closed, 'a')).status, 'closed', 'closed');
SELECT is((coupon_issue_grouped(:closed, 7)).status, 'closed', 'closed, by number');
SELECT set_eq(format('SELECT status, serial FROM coupon_issue_grouped(%s, ''has'')', :paused),
	format('SELECT ''already_issued''::text, serial FROM coupon.issuance WHERE campaign_id = %s', :paused),
	'who has a unit is told so in a paused campaign');
SELECT is(pg_temp.error('SELECT coupon_issue_grouped(0, ''a'')'), 'UC001 unknown campaign', 'an unknown campaign');
-- this database has no worker of its own in this test, or the campaign is not committed for it
SELECT matches(pg_temp.error(format('SELECT coupon_issue_grouped(%s, ''a'')', :open)), '^UC0(20|01) [^A-Z]*$',
	'what has to be issued is the worker''s');
SELECT is((SELECT count(*) FROM coupon.issuance WHERE campaign_id = :open), 0::bigint, 'and not issued here');
SET LOCAL transaction_read_only = on;
SELECT is((coupon_issue_grouped(:closed, 'a')).status, 'closed', 'read-only: an answer that writes nothing');
SELECT matches(pg_temp.error(format('SELECT coupon_issue_grouped(%s, ''a'')', :open)), '^25006 ', 'read-only: no issuing');

SELECT is(current_setting('coupon.group_workers'), '1', 'one worker by default');
SELECT is((SELECT context FROM pg_settings WHERE name = 'coupon.group_workers'), 'sighup', 'changed by a reload');
SELECT is((SELECT context || ' ' || boot_val FROM pg_settings WHERE name = 'coupon.allow_autonomous'), 'user off', 'autonomy is each session''s to allow');
SELECT results_eq('SELECT batches >= 0, calls >= batches, largest_batch <= calls, repeated_batches <= batches FROM coupon_group_status()',
	'SELECT true, true, true, true', 'the status is consistent');

SELECT * FROM finish();
ROLLBACK;
