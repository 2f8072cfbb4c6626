# Support and the law: what a user has, why they got nothing, and that they are
# forgotten: with one name in all rows that nobody can lead back to them, and
# every law kept, whatever else goes on.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('support', <<'END');
coupon.databases = 'postgres'
coupon.sweep_interval = 1h
END

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub await { return await_true($node, 'postgres', $_[0]); }

# ---- what a user has ----

sql(q{
	CREATE ROLE desk IN ROLE coupon_reader;
	SELECT coupon_campaign_create('campaign ' || g, 4, 2, topic => CASE WHEN g < 20 THEN 'coupon-issued' ELSE 'other' END) FROM generate_series(1, 30) g;
	SELECT coupon_issue(g, 'anna') FROM generate_series(1, 30, 3) g;
	SELECT coupon_issue(1, 'anna'), coupon_issue(1, '42');
	SELECT coupon_redeem(1, 'anna', 'order', 1);
	SELECT coupon_hold(2, 3, 'anna')});
my $list = q{SELECT string_agg(campaign_id || ':' || serial || ':' || state || ':' || (held_until IS NOT NULL) || ':' || coalesce(order_ref, ''), ' ' ORDER BY campaign_id, serial) FROM coupon_user_issuances('anna')};
my $expected = sql(q{SELECT string_agg(campaign_id || ':' || serial || ':' || state || ':' || (held_until IS NOT NULL) || ':' || coalesce(order_ref, ''), ' ' ORDER BY campaign_id, serial) FROM coupon.issuance WHERE user_id = 'anna'});
like($expected, qr/^1:1:redeemed:false:order 1:\d:issued:false: 2:3:held:true: 4:/, 'the user has units, one of them redeemed, one on hold');
is(sql("SET ROLE desk; $list"), $expected, 'the list is the table\'s, for coupon_reader too');
is(sql('SELECT campaign_id, serial FROM coupon_user_issuances(42)'), sql(q{SELECT campaign_id, serial FROM coupon.issuance WHERE user_id = '42'}), 'of numeric users as well');
sql('CREATE INDEX CONCURRENTLY issuance_user_idx ON coupon.issuance USING hash (user_id)');
is(sql($list), $expected, 'the same with an index of the DBA\'s');
is(sql(q{SELECT string_agg(status, ' ') FROM generate_series(5, 8) c, coupon_issue(c, 'bert')}), 'issued issued issued issued', 'which issuing maintains');
is(sql(q{SELECT count(*) FROM coupon_user_issuances('bert')}), '4', 'and the list finds');
sql('DROP INDEX coupon.issuance_user_idx');
is(sql(q{SELECT count(*) FROM coupon_user_issuances('nobody')}), '0', 'who has nothing has no rows');

# ---- why a user got nothing ----

sql(q{SELECT coupon_campaign_create('small', 1) FROM generate_series(1, 2)});
my ($noted, $silent) = (31, 32);
is(sql("SELECT coupon_campaign_note_refusals($noted), coupon_campaign_note_refusals($noted)"), 't|f', 'noting is turned on once');
sql("SELECT coupon_issue(c, 'lucky') FROM unnest('{$noted, $silent}'::bigint[]) c");
is(sql("BEGIN; SELECT status FROM coupon_issue($noted, 'late'); SELECT pg_current_xact_id_if_assigned() IS NULL; COMMIT"), "sold_out\nt", 'a noted refusal takes no transaction id');
sql("SELECT coupon_issue(c, 'late') FROM unnest('{$noted, $silent}'::bigint[]) c, generate_series(1, 3); SELECT coupon_issue($noted, 'lucky'); SELECT coupon_request($noted, 'late'::text)");
sql("SELECT coupon_campaign_pause($noted)");
sql("SELECT coupon_issue($noted, 'late')");
await(q{SELECT sum(times) = 6 FROM coupon.refusal});
is(sql("SET ROLE desk; SELECT campaign_id, status, times, last_at >= first_at FROM coupon_user_refusals('late')"), "$noted|sold_out|5|t\n$noted|paused|1|t", 'each answer with its times; none of the campaign that does not note');
is(sql(q{SELECT count(*) FROM coupon_user_refusals('lucky')}), '0', 'who has a unit was not refused');
sql("SELECT coupon_campaign_note_refusals($noted, false)");
sql("SELECT coupon_issue($noted, 'later')");
sql("SELECT coupon_campaign_note_refusals($noted, true); SELECT coupon_campaign_resume($noted)");
sql("SELECT count(coupon_issue($noted, 'crowd ' || g)) FROM generate_series(1, 3000) g");
await(q{SELECT count(*) = 3000 FROM coupon.refusal WHERE user_id LIKE 'crowd %'});
is(sql(q{SELECT count(*) FROM coupon.refusal WHERE user_id = 'later'}), '0', 'what came while it was off is not there; a crowd is, without a second of waiting for the sweeper');
reload($node, "coupon.refusal_keep = 1s\n");
sql("UPDATE coupon.refusal SET last_at = now() - interval '1 hour'");
$node->restart;
sql("SELECT coupon_issue($noted, 'fresh')");
await(q{SELECT count(*) = 0 FROM coupon.refusal WHERE user_id LIKE 'crowd %'});
pass('rows go after coupon.refusal_keep');
reload($node, "coupon.refusal_keep = 30d\n");

# whoever has a campaign's row locked, to delete it, keeps the sweeper from nothing
my $deleter = $node->background_psql('postgres');
$deleter->query_safe("BEGIN; SELECT FROM coupon.campaign WHERE campaign_id = $noted FOR UPDATE");
sql("SELECT coupon_campaign_note_refusals($silent); SELECT coupon_issue(c, 'behind') FROM unnest('{$noted, $silent}'::bigint[]) c");
await(q{SELECT count(*) = 1 FROM coupon_user_refusals('behind')});
$deleter->query_safe('ROLLBACK');
$deleter->quit;
is(sql(q{SELECT campaign_id FROM coupon_user_refusals('behind')}), $silent, 'who deletes a campaign is not waited for');

# ---- requests and tickets, without secrets ----

sql(q{SELECT coupon_room_create('hall', 1); SELECT coupon_queue_join('hall', u) FROM unnest('{anna,bert}'::text[]) u; SELECT coupon_request(9, 'anna', 'my secret key')});
await(q{SELECT count(*) = 1 FROM coupon.user_request WHERE outcome = 'issued'});
await(q{SELECT count(*) = 1 FROM coupon.user_ticket WHERE admitted_at IS NOT NULL});
is(sql(q{SET ROLE desk; SELECT user_id, campaign_id, outcome, serial IS NOT NULL FROM coupon.user_request WHERE user_id = 'anna'}), 'anna|9|issued|t', 'coupon_reader reads requests');
is(sql(q{SET ROLE desk; SELECT user_id, room, number, ended_at FROM coupon.user_ticket ORDER BY number}), "anna|hall|1|\nbert|hall|2|", 'and tickets');
is(sql(q{SELECT string_agg(attname, ' ') FROM pg_attribute WHERE attrelid IN ('coupon.user_request'::regclass, 'coupon.user_ticket'::regclass) AND attname IN ('request_id', 'request_key', 'secret')}), '', 'without what only their owners know');
like(sql_error($node, 'postgres', 'SET ROLE desk; SELECT * FROM coupon.request'), qr/permission denied/, 'the tables stay closed');
like(sql_error($node, 'postgres', q{SET ROLE desk; SELECT coupon_user_erase('anna')}), qr/permission denied/, 'and nobody is erased by a reader');

# ---- erasing ----

# a request that waits, dead letters, a refusal, events of both topics, of a campaign
# whose number is the user's name, and of the application
sql(q{
	SELECT coupon_request(11, 'anna'::text);
	SELECT coupon_release(2, 3, 'anna');
	INSERT INTO coupon.dead_letter VALUES (gen_random_uuid(), 'coupon-issued', 'anna', 'coupon.issued', '{"campaign_id":1,"user_id":"anna"}', 'r', 1, now());
	SELECT coupon_emit('app', 'anna', 'app.mail', '{"user_id": "anna", "n": 1}');
	SELECT coupon_emit('app', '7', 'app.other', '{"list": [1]}');
	INSERT INTO coupon.room_guest VALUES (1, 'anna', now());
	SELECT coupon_issue(31, 'anna')});
await(q{SELECT count(*) = 0 FROM coupon.request WHERE decided_at IS NULL});
await(q{SELECT count(*) = 1 FROM coupon.refusal WHERE user_id = 'anna'});
sql(q{SELECT coupon_campaign_create('slow', 5)});
my $ids = sql(q{SELECT string_agg(id::text, ' ' ORDER BY id) FROM coupon.outbox});
my $numbers = sql(q{SELECT count(*) FROM coupon.issuance WHERE user_id = 'anna'});
like(sql(q{SELECT issuances, requests, tickets, events > 10, others, waiting FROM coupon_user_erase('anna')}), qr/^$numbers\|2\|1\|t\|4\|0$/, 'it says what was erased');
is(sql(q{SELECT count(*) FROM coupon.issuance WHERE user_id = 'anna'}), '0', 'no issuance has the name');
my $names = sql(q{
	SELECT string_agg(DISTINCT user_id, ' ') FROM (
		SELECT user_id FROM coupon.issuance UNION ALL SELECT user_id FROM coupon.request UNION ALL SELECT user_id FROM coupon.request_key UNION ALL SELECT user_id FROM coupon.ticket
		UNION ALL SELECT user_id FROM coupon.lapsed_hold UNION ALL SELECT user_id FROM coupon.refusal UNION ALL SELECT key FROM coupon.dead_letter
		UNION ALL SELECT user_id FROM coupon.room_guest
		UNION ALL SELECT payload->>'user_id' FROM coupon.dead_letter UNION ALL SELECT key FROM coupon.outbox WHERE type <> 'coupon.user_erased'
		UNION ALL SELECT payload->>'user_id' FROM coupon.outbox WHERE type <> 'coupon.user_erased') x
	WHERE user_id ~ 'anna|erased'});
like($names, qr/^erased-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/, 'one random name everywhere');
is(sql(q{SELECT count(*) FROM coupon.request WHERE request_key IS NOT NULL}), '0', 'the key of the request is gone, too');
is(sql(q{SELECT string_agg(id::text, ' ' ORDER BY id) FROM coupon.outbox WHERE type <> 'coupon.user_erased'}), $ids, 'the events keep their ids, so their order');
is(sql(q{SELECT key, type, payload->>'list' FROM coupon.outbox WHERE key = '7' AND type LIKE 'app.%'}), '7|app.other|[1]', 'others\' events are what they were');
is(sql(q{SELECT string_agg(topic, ' ' ORDER BY topic) FROM coupon.outbox WHERE type = 'coupon.user_erased' AND key = 'anna' AND payload->>'user_id' = 'anna'}), 'coupon-issued other', 'each topic of theirs tells consumers');
conserved($node, 'postgres', 'after erasing');
await(q{SELECT waiting = 0 AND admitted = 1 FROM coupon.room_status WHERE name = 'hall'});
is(sql(q{SELECT user_id, admitted_at IS NOT NULL, ended_at IS NULL FROM coupon.user_ticket WHERE user_id = 'bert'}), 'bert|t|t', 'whose session it was has left the room, and the next is in');
is(sql(q{SELECT issuances, events, others FROM coupon_user_erase('anna')}), '0|0|0', 'again there is nothing to do');

# of a unit that was given back there is no row, but consumers know of it
sql(q{SELECT coupon_issue(21, 'gone'); SELECT coupon_revoke(21, 'gone', 'returned'); SELECT coupon_user_erase('gone')});
is(sql(q{SELECT string_agg(topic, ' ' ORDER BY topic) FROM coupon.outbox WHERE type = 'coupon.user_erased' AND key = 'gone'}), 'coupon-issued other', 'who has nothing left is forgotten by consumers, too');

# ids of a table of the application's, which has a collation of its own
sql(q{CREATE TABLE customer AS SELECT 'bea' COLLATE "POSIX" AS id, 'hall' COLLATE "POSIX" AS room;
	SELECT coupon_issue(22, id) FROM customer});
is(sql(q{SELECT (SELECT count(*) FROM coupon_user_issuances(id)), (SELECT count(*) FROM coupon_user_refusals(id)), (coupon_user_erase(id)).issuances FROM customer}), '1|0|1', 'users of whatever collation');
is(sql(q{SELECT coupon_room_pause(room), coupon_room_resume(room), (SELECT count(*) FROM coupon_room_draw(room)) FROM customer}), 't|t|0', 'and rooms');

# users whose name is a campaign's number: its events are not theirs
my $campaign_events = sql(q{SELECT count(*) FROM coupon.outbox WHERE key = '5' AND type LIKE 'coupon.campaign%'});
sql(q{SELECT coupon_issue(20, 5)});
like(sql(q{SELECT issuances, events FROM coupon_user_erase(5)}), qr/^1\|1$/, 'a numeric user with a campaign\'s number is erased');
is(sql(q{SELECT count(*) FROM coupon.outbox WHERE key = '5' AND type LIKE 'coupon.campaign%'}), $campaign_events, 'and the campaign\'s events are not');

# a unit of somebody erased goes back to stock as any other's does
my $who = sql('SELECT user_id FROM coupon.issuance WHERE campaign_id = 20');
is(sql("SELECT coupon_revoke(20, '$who', 'returned')"), 't', 'a unit under the new name can be revoked');
is(sql(q{SELECT string_agg(status, ' ') FROM coupon_issue_many(20, '{a,b,c,d,e}'::text[])}), 'issued issued issued issued sold_out', 'and is sold again');
sql(q{
	SELECT coupon_campaign_create('once', 2, 1);
	SELECT coupon_issue_many(34, '{c,d}'::text[]);
	SELECT count(coupon_issue(34, 'x' || g)) FROM generate_series(1, 40) g;
	SELECT coupon_user_erase('c')});
is(sql(q{SELECT string_agg(status, ' ') FROM coupon_issue_many(34, '{c,d}'::text[])}), 'sold_out already_issued', 'after sell-out who was erased is a stranger, whoever was not is known');
conserved($node, 'postgres', 'after a sold-out campaign');

# a request that waits is left, and told of
sql('ALTER SYSTEM SET coupon.databases = \'\'; SELECT pg_reload_conf()');
await(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'coupon issuer'});
sql(q{SELECT coupon_request(33, 'fritz'::text)});
is(sql(q{SELECT requests, waiting FROM coupon_user_erase('fritz')}), '0|1', 'a request that waits keeps its user');
sql('ALTER SYSTEM RESET coupon.databases; SELECT pg_reload_conf()');
await(q{SELECT count(*) = 1 FROM coupon.user_request WHERE user_id = 'fritz' AND outcome = 'issued'});
is(sql(q{SELECT issuances, requests, waiting FROM coupon_user_erase('fritz')}), '1|1|0', 'until it is decided');

# nor is a hold, while a payment may come for it: it would find nobody, and be lost
sql(q{
	SELECT coupon_campaign_create('held', 5, 3);
	SELECT coupon_hold(35, 1, 'paul');
	INSERT INTO coupon.lapsed_hold VALUES (35, 2, now(), 'paul', NULL), (35, 3, now(), 'paul', 'refused')});
is(sql(q{SELECT issuances, waiting FROM coupon_user_erase('paul')}), '0|3', 'holds keep their user, those that have run out as well');
is(sql(q{SELECT string_agg((coupon_confirm(35, s, 'paul', 'pay ' || s)).status, ' ') FROM generate_series(1, 3) s}), 'confirmed confirmed lost', 'payments are confirmed or given back');
is(sql(q{SELECT issuances, waiting FROM coupon_user_erase('paul')}), '2|2', 'what is paid for is erased');
reload($node, "coupon.hold_keep = 1s\n");
await(q{SELECT waiting = 0 FROM coupon_user_erase('paul')});
is(sql(q{SELECT count(*) FROM coupon.lapsed_hold WHERE user_id = 'paul'}), '0', 'and the rest when coupon.hold_keep is over');
reload($node, "coupon.hold_keep = 1d\n");

# ---- two sessions ----

sql(q{SELECT coupon_issue(21, 'gerd')});
my $eraser = $node->background_psql('postgres');
my $buyer = $node->background_psql('postgres');
$eraser->query_safe(q{BEGIN; SELECT coupon_user_erase('gerd')});
is($buyer->query_safe(q{SELECT status FROM coupon_issue(22, 'gerd')}), 'issued', 'who is being erased is issued something elsewhere');
is($buyer->query_safe(q{SELECT status, serial IS NOT NULL FROM coupon_issue(21, 'gerd')}), 'issued|t', 'and, with a limit of two, in the same campaign');
$eraser->query_safe('ROLLBACK');
is(sql(q{SELECT count(*) FROM coupon_user_issuances('gerd')}), '3', 'after a rollback it is as before');
$buyer->query_safe(q{BEGIN; SELECT coupon_issue(23, 'gerd')});
$eraser->query_safe(q{BEGIN; SELECT coupon_user_erase('gerd')});
$buyer->query_safe('COMMIT');
$eraser->query_safe('COMMIT');
is(sql(q{SELECT string_agg(campaign_id::text, ' ') FROM coupon_user_issuances('gerd')}), '23', 'what was not committed yet stays');
is(sql(q{SELECT issuances FROM coupon_user_erase('gerd')}), '1', 'and the next time goes');
conserved($node, 'postgres', 'after erasing beside a buyer');

# what is committed while an erasure is under way is erased, and told of
$buyer->query_safe(q{BEGIN; LOCK TABLE coupon.issuance IN SHARE ROW EXCLUSIVE MODE; SELECT coupon_issue(22, 'hugo')});
$eraser->query_until(qr/begun/, "\\echo begun\nSELECT issuances FROM coupon_user_erase('hugo');\n");
ok(await(q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%hugo%')}), 'an erasure waits');
$buyer->query_safe('COMMIT');
$eraser->query_safe('SELECT 1');
is(sql(q{SELECT count(*) FROM coupon_user_issuances('hugo')}), '0', 'a unit that was had meanwhile is erased');
is(sql(q{SELECT string_agg(topic, ' ') FROM coupon.outbox WHERE type = 'coupon.user_erased' AND key = 'hugo'}), 'coupon-issued other', 'and its topic is told');

# many at once: users are issued, revoked and erased by several sessions
sql(q{SELECT coupon_campaign_create('busy', 200, 1)});
my $busy = sql('SELECT max(campaign_id) FROM coupon.campaign');
$node->pgbench('--no-vacuum --client=6 --jobs=2 --transactions=40', 0, [qr/240\/240/], [qr/^$/], 'issue, revoke and erase at once',
	{ '146_mix' => qq{
\\set u random(1, 12)
\\set what random(1, 4)
SELECT CASE :what WHEN 1 THEN (coupon_user_erase(:u)).issuances::text WHEN 2 THEN coupon_revoke($busy, :u, 'r')::text
       ELSE (coupon_issue($busy, :u)).status END;
} });
conserved($node, 'postgres', 'after the mix');
is(sql("SELECT count(*) - count(DISTINCT (user_id, nth)) FROM coupon.issuance WHERE campaign_id = $busy"), '0', 'once per user');

$_->quit for $eraser, $buyer;
server_log_is_clean($node, 'support');
$node->stop;
done_testing();
