# What saves a look-up or a record of WAL must not change an answer: users who
# are presumed new and are not, rows that are written together and of which one
# is refused, and what a duplicate leaves behind.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('price', <<'END');
autovacuum = off
coupon.databases = ''
coupon.sold_out_wait = 0
END

sub sql { return $node->safe_psql('postgres', $_[0]) }

# new_campaign(name, stock, arguments): one with an issuance, so that it has a filter
sub new_campaign
{
	my ($name, $stock, $more) = @_;
	my $campaign = sql("SELECT coupon_campaign_create('$name', $stock" . ($more // '') . ')');

	is(sql("SELECT status FROM coupon_issue($campaign, 'first')"), 'issued', "$name: the first is issued");
	return $campaign;
}

# unknown(campaign, serial, user): an issuance that shared memory knows nothing of
sub unknown
{
	my ($campaign, $serial, $user) = @_;

	sql(qq{ALTER TABLE coupon.issuance DISABLE TRIGGER issuance_arrived;
		INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy)
		SELECT $campaign, $serial, s.shard, 1, now(), '$user', 'issued', '{}' FROM coupon.shard s
		 WHERE s.campaign_id = $campaign AND $serial BETWEEN s.first_serial AND s.last_serial;
		ALTER TABLE coupon.issuance ENABLE ALWAYS TRIGGER issuance_arrived});
	return;
}

# answers(campaign, users): the statuses of a batch, each with how many had it
sub answers
{
	my ($campaign, $users) = @_;

	return sql(qq{SELECT string_agg(status || ' ' || n, ', ' ORDER BY status) FROM (
		SELECT status, count(*) AS n FROM coupon_issue_many($campaign, $users) GROUP BY status) s});
}

# ---- presumed new, and is not ----

my $c = new_campaign('presumed', 1000);
unknown($c, 900, 'owner');
is(sql("SELECT status, serial FROM coupon_issue($c, 'owner')"), 'already_issued|900', 'one who is not as new as it seemed');
unknown($c, 901, 'other');
is(answers($c, "ARRAY(SELECT 'm' || g FROM generate_series(1, 100) g) || '{other,owner,first,m7}'::text[] || ARRAY(SELECT 'p' || g FROM generate_series(1, 100) g)"),
	'already_issued 4, issued 200', 'a batch of new ones and of others');
is(sql("SELECT count(*), (SELECT in_flight FROM coupon_status($c)) FROM coupon.issuance WHERE campaign_id = $c"),
	'203|0', 'no unit is lost to them');
is(sql("SELECT count(*) FROM coupon.outbox WHERE type = 'coupon.issued'"), '201', 'nor told of');

# a second unit
my $twice = new_campaign('twice', 1000, ', 2');
unknown($twice, 900, 'owner');
is(answers($twice, "'{owner,owner,owner,new,new,new}'"), 'already_issued 3, issued 3',
	'limits of two: one has one already');
is(sql("SELECT string_agg(nth::text, ' ' ORDER BY user_id, nth) FROM coupon.issuance WHERE campaign_id = $twice AND user_id <> 'first'"),
	'1 2 1 2', 'numbered in order');

# a hold: its unit is withdrawn with the row that was refused, or gets another number
my $hall = new_campaign('hall', 100);
unknown($hall, 90, 'owner');
is(sql("SELECT status FROM coupon_hold($hall, 5, 'owner')"), 'limit_reached', 'a hold of one who is not as new as it seemed');
is(sql("SELECT status FROM coupon_hold($hall, 5, 'other')"), 'held', 'and its unit is free again');
is(sql("BEGIN; SELECT status FROM coupon_hold($hall, 6, 'another'); SELECT status FROM coupon_hold($hall, 7, 'another'); ROLLBACK"),
	"held\nlimit_reached", 'one who is new once');
my $hall2 = new_campaign('hall of two', 100, ', 2');
unknown($hall2, $_, "owner of $_") for 90, 91, 92;
is(sql("SELECT string_agg(status, ' ') FROM coupon_hold_many($hall2, '{7,8}', 'owner of 90')"), 'limit_reached limit_reached',
	'two more are one too many');
is(sql("SELECT string_agg(status, ' ') FROM coupon_hold_many($hall2, '{7,8}', 'new')"), 'held held', 'and these are free again');
is(sql("SELECT status FROM coupon_hold($hall2, 9, 'owner of 91', request_key => 'k')"), 'held', 'one more is the second one');
is(sql("SELECT status FROM coupon_hold($hall2, 9, 'owner of 91', request_key => 'k')"), 'held', 'the same with the same key');
is(sql("SELECT string_agg(nth::text, ' ' ORDER BY nth) FROM coupon.issuance WHERE campaign_id = $hall2 AND user_id = 'owner of 91'"),
	'1 2', 'by its number, too');
is(sql("BEGIN; SELECT status FROM coupon_hold($hall2, 11, 'owner of 92'); SELECT status FROM coupon_hold($hall2, 12, 'owner of 92'); ROLLBACK; SELECT status FROM coupon_hold($hall2, 11, 'later')"),
	"held\nlimit_reached\nheld", 'a rollback gives back what was written twice');
is(sql("SELECT sum(in_flight) FROM coupon_status($hall)") . sql("SELECT sum(in_flight) FROM coupon_status($hall2)"), '00', 'nothing is left in flight');

# a request is let in, as one whose user got a unit since; nobody is refused by it
my $asked = new_campaign('asked', 3);
unknown($asked, $_, "owner of $_") for 2, 3;
is(sql("SELECT status, outcome FROM coupon_request($asked, 'owner of 2')"), 'WAITING|', 'a request of one who is not as new as it seemed');
is(sql("SELECT status, outcome FROM coupon_request($asked, 'first')"), 'REFUSED|already_issued', 'of one who is known');
sql("SELECT * FROM coupon_issue_many($asked, '{a,b,c}')");
is(sql("SELECT status, outcome, (issuance).serial FROM coupon_request($asked, 'owner of 3')"), 'REFUSED|already_issued|3',
	'where nothing is left, too, owners are told so');
is(sql("SELECT status, outcome FROM coupon_request($asked, 'new')"), 'REFUSED|busy', 'and the others to try again: one waits');

# whoever has one is told so, and nothing else
my $few = new_campaign('few', 3);
unknown($few, 3, 'owner');
is(answers($few, "'{a,b,c,owner}'"), 'already_issued 1, issued 1, sold_out 2', 'of the last units: owners are told so');
# this owner's unit is in a shard that nobody has looked at: the stock alone refuses
my $short = new_campaign('short', 200);
unknown($short, sql("SELECT CASE WHEN serial > 64 THEN 1 ELSE 200 END FROM coupon.issuance WHERE campaign_id = $short"), 'owner');
is(answers($short, "ARRAY(SELECT 'u' || g FROM generate_series(1, 204) g) || '{owner}'::text[]"),
	'already_issued 1, issued 198, sold_out 6', 'an owner for whom no other unit was left');
is(sql("SELECT status FROM coupon_issue($short, 'owner')"), 'already_issued', 'the same after sell-out');
sql("SELECT coupon_room_create('room', 1)");
my $roomed = sql("SELECT coupon_campaign_create('roomed', 100)");
is(sql("SELECT status FROM coupon_issue($roomed, 'early')"), 'issued', 'one who came before there was a room');
sql("SELECT coupon_campaign_require_room($roomed, 'room')");
is(sql("SELECT status FROM coupon_issue($roomed, 'stranger')"), 'not_admitted', 'not admitted');
unknown($roomed, 50, 'owner');
is(answers($roomed, "'{owner,stranger}'"), 'already_issued 1, not_admitted 1', 'owners need no ticket');

# two transactions: the second waits, whatever was presumed
my $first = $node->background_psql('postgres');
my $second = $node->background_psql('postgres', on_error_stop => 0);
$first->query_safe("BEGIN; SELECT coupon_issue_many($c, '{x,y,z}')");
$second->query_until(qr/begun/, "\\echo begun\nSELECT string_agg(status, ' ') FROM coupon_issue_many($c, '{w,y,zz}');\n");
poll_until('the second waits', sub { sql(q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'transactionid'}) eq '1' });
$first->query_safe('ROLLBACK');
is($second->query(q{SELECT 'and on'}), "issued issued issued\nand on", 'and has the unit that came back');
$_->quit for $first, $second;

# ---- rows written together, of which one is refused ----

my $map = new_campaign('map', 2000);
sql("SELECT * FROM coupon_status($map)");
unknown($map, $_, "past $_") for 100, 101, 500;
is(answers($map, "ARRAY(SELECT 'u' || g FROM generate_series(1, 1000) g)"), 'issued 1000', 'past serials that the map does not know');
is(answers($map, "ARRAY(SELECT 'v' || g FROM generate_series(1, 1000) g)"), 'issued 996, sold_out 4', 'to the last unit');
is(sql("SELECT count(*), count(DISTINCT serial), count(DISTINCT user_id) FROM coupon.issuance WHERE campaign_id = $map"),
	'2000|2000|2000', 'each of them once');
is(sql("SELECT count(*) FROM coupon.outbox WHERE payload::jsonb ->> 'campaign_id' = '$map' AND type = 'coupon.issued'"),
	'1997', 'an event for each');

# refused by either index in one batch; what is left of it is in all indexes
my $both = new_campaign('both', 400);
sql("SELECT * FROM coupon_status($both)");
unknown($both, $_, "past $_") for 50, 51, 180, 390;
unknown($both, 391, 'o7');
is(answers($both, "ARRAY(SELECT 'o' || g FROM generate_series(1, 300) g) || '{past 180}'::text[]"), 'already_issued 2, issued 299',
	'owners and serials that nobody knew of, in one batch');
is(sql("SELECT count(*), count(DISTINCT serial), count(DISTINCT user_id) FROM coupon.issuance WHERE campaign_id = $both"),
	'305|305|305', 'each of them once');
SKIP: {
	skip 'skipped: amcheck is not installed', 1 if sql(q{SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'}) eq '0';
	sql('CREATE EXTENSION amcheck');
	is(sql(q{SELECT bt_index_check(indexrelid, true) FROM pg_index WHERE indrelid = 'coupon.issuance'::regclass}), "\n" x 4,
		'every row is in every index');
}

# somebody's own unique index, which may wait: one by one
sql('CREATE UNIQUE INDEX own ON coupon.issuance (campaign_id, (right(user_id, 1))) WHERE campaign_id = 99');
is(answers($c, "ARRAY(SELECT 'own' || g FROM generate_series(1, 100) g)"), 'issued 100', 'with an index that was added');
sql('DROP INDEX coupon.own');

# ---- what a duplicate costs ----

# (what is dead is pruned now, so that no look-up marks anything)
sql('VACUUM coupon.issuance');
sql("SELECT count(*) FROM coupon_issue_many($c, ARRAY(SELECT 'm' || g FROM generate_series(1, 100) g))");
my $dead = q{SELECT pg_current_wal_insert_lsn(), pg_snapshot_xmax(pg_current_snapshot())};
my $before = sql($dead);
is(answers($c, "ARRAY(SELECT 'm' || g FROM generate_series(1, 100) g)"), 'already_issued 100', 'duplicates');
is(sql($dead), $before, 'write nothing');
is(answers($c, "ARRAY(SELECT 'm' || g FROM generate_series(1, 100) g) || ARRAY(SELECT 'q' || g FROM generate_series(1, 100) g)"),
	'already_issued 100, issued 100', 'duplicates among new ones');
is(sql(qq{SELECT count(*) FROM coupon.issuance WHERE campaign_id = $c AND xmin IN (
	SELECT xmin FROM coupon.issuance WHERE campaign_id = $c AND user_id = 'q1')}), '100', 'a row for each new one');

# (maps do not know the rows that went past them until all is sold)
is(sql('SELECT * FROM coupon_verify()'), '', 'the tables agree');
$node->stop;
server_log_is_clean($node, 'price');
done_testing();
