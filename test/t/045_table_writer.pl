# The list at the head of src/base/table_support.c, as far as it takes several
# sessions or a server of its own: logical decoding, and what a DBA does to a
# table while it is written.  The rest is in test/sql/tap/table_writer.sql.
use strict;
use warnings;

use CouponKafka;
use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', <<'END', allows_streaming => 'logical');
coupon.databases = ''
max_locks_per_transaction = 256
END

sub sql { return $node->safe_psql('postgres', $_[0]) }

sql('CREATE EXTENSION pgtap');

# ---- with wal_level = logical rows are inserted in another way ----

my $output = '';
my $ok = IPC::Run::run(
	[ 'pg_prove', '--host', $node->host, '--port', $node->port, '--dbname', 'postgres', 'test/sql/tap/table_writer.sql' ],
	'<', \undef, '>', \$output, '2>&1');
ok($ok, 'the list with wal_level = logical') or diag($output);

# ---- logical decoding ----

# contrib's plugin, which not every installation has
my $decodes = defined try_sql($node, 'postgres', q{LOAD 'test_decoding'});

# decoded(expression): of each change of coupon.issuance since the last call
sub decoded
{
	my ($expression) = @_;

	return sql(qq{SELECT string_agg($expression, ' ')
		FROM pg_logical_slot_get_changes('decoded', NULL, NULL) WHERE data LIKE 'table coupon.issuance:%'});
}

# A row in the way that the map does not know: the insertion meets it in the
# index, is withdrawn, and another unit is taken.  Who applies the log must not
# meet the conflict.
my $campaign = sql(q{SELECT coupon_campaign_create('decoded', 3)});
sql(qq{SELECT coupon_issue($campaign, 'a')});
sql(qq{INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy)
	SELECT $campaign, min(n), 0, 1, now(), 'x', 'issued', '{}' FROM generate_series(1, 3) n
	 WHERE n NOT IN (SELECT serial FROM coupon.issuance WHERE campaign_id = $campaign)});
sql(q{SELECT pg_create_logical_replication_slot('decoded', 'test_decoding')}) if $decodes;
is(sql(qq{SELECT status FROM coupon_issue($campaign, 'b')}), 'issued', 'issued past a row that the map does not know');
SKIP:
{
	skip 'no test_decoding, which contrib has', 1 unless $decodes;
	is(decoded(q{split_part(data, ' ', 3) || substring(data FROM ' user_id.text.:''(\w+)''')}),
		'INSERT:b', 'decoded: the row that stands, and none that was withdrawn');
}

# two who want the same user: the second is told what the first did
my $first = $node->background_psql('postgres');
my $second = $node->background_psql('postgres', on_error_stop => 0);
my $race = sql(q{SELECT coupon_campaign_create('race', 100000)});
$first->query_safe("BEGIN; SELECT coupon_issue($race, 'same')");
$second->query_until(qr/begun/, "\\echo begun\nSELECT 'answer ' || status FROM coupon_issue($race, 'same');\n");
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'})
  or die 'nobody waits';
$first->query_safe('COMMIT');
like($second->query(q{SELECT 'and on'}), qr/answer already_issued/, 'the second of two clicks');

# what a transaction has given back it is in the way with until it ends: waited for, not tried again and again
$first->query_safe("BEGIN; SELECT coupon_release($race, serial, 'back') FROM coupon_hold_any($race, 'back')");
$second->query_until(qr/begun/, "\\echo begun\nSELECT 'answer ' || status FROM coupon_issue($race, 'back');\n");
poll_until('who waits', sub { sql(q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'transactionid'}) eq '1' });
$first->query_safe('COMMIT');
like($second->query(q{SELECT 'and on'}), qr/answer issued/, 'a unit that was held and given back in another transaction');
$_->quit for $first, $second;

# holds, confirmed, given up and swept: decoded in the order of their changes
my $hall = sql(q{SELECT coupon_campaign_create('hall', 5)});
decoded(q{''}) if $decodes;
sql(qq{SELECT coupon_hold($hall, 1, 'h1')});
sql(qq{SELECT coupon_confirm($hall, 1, 'h1', 'pay')});
sql(qq{SELECT coupon_hold($hall, 2, 'h2')});
sql(qq{SELECT coupon_release($hall, 2, 'h2')});
sql(qq{UPDATE coupon.issuance SET held_until = now() - interval '1 s' WHERE campaign_id = $hall AND state = 'held'});
sql(qq{SELECT coupon_hold($hall, 3, 'h3', '1 ms')});
is(sql('SELECT coupon_hold_expire(10)'), '1', 'swept');
SKIP:
{
	skip 'no test_decoding, which contrib has', 1 unless $decodes;
	is(decoded(q{rtrim(split_part(data, ' ', 3), ':') || coalesce(substring(data FROM ' serial.bigint.:(\d+)'), '')}),
		'INSERT1 UPDATE1 INSERT2 DELETE2 INSERT3 DELETE3', 'decoded: holds');
	sql(q{SELECT pg_drop_replication_slot('decoded')});
}

# ---- what a DBA does while the tables are written ----

# Ten thousand users who come again and again, and holds beside them.
my $busy = sql(q{SELECT coupon_campaign_create('busy', 1000000)});
my $seats = sql(q{SELECT coupon_campaign_create('seats', 100)});
sql(q{SELECT coupon_room_create('room', 1000)});
my $load = $node->basedir . '/045_load.sql';
append_to_file($load, <<"END");
\\set u random(1, 3000)
\\set s random(1, 100)
SELECT coupon_issue($busy, :u);
SELECT count(*) FROM coupon_issue_many($busy, ARRAY[:u + 1, :u + 2, :u + 3]::text[]);
SELECT coupon_hold($seats, :s, 'h' || :client_id, '1 min');
SELECT coupon_confirm($seats, :s, 'h' || :client_id, 'p' || :u);
SELECT coupon_revoke($seats, 'h' || :client_id, 'again');
SELECT coupon_request($busy, :u + 5000);
SELECT coupon_queue_leave(j.token) FROM coupon_queue_join('room', 'u' || :u) j;
END
my @maintenance = (
	'REINDEX TABLE CONCURRENTLY coupon.issuance',
	'CREATE INDEX CONCURRENTLY own ON coupon.issuance (issued_at)',
	'CREATE UNIQUE INDEX CONCURRENTLY own_key ON coupon.issuance (user_id, campaign_id, nth)',
	'VACUUM FULL coupon.issuance',
	'REINDEX TABLE CONCURRENTLY coupon.issuance',
	'DROP INDEX CONCURRENTLY coupon.own',
	'DROP INDEX CONCURRENTLY coupon.own_key',
	'CLUSTER coupon.issuance USING issuance_serial_key',
	# refused while it is there, so both at once, as a DBA does who thinks better of it
	'BEGIN; ALTER TABLE coupon.issuance ADD COLUMN own int; ALTER TABLE coupon.issuance DROP COLUMN own; COMMIT',
	'ALTER TABLE coupon.issuance ADD CHECK (nth > 0)',
	'ALTER TABLE coupon.issuance DROP CONSTRAINT issuance_nth_check',
	'ALTER TABLE coupon.issuance SET (fillfactor = 90)',
	'VACUUM FULL coupon.request_0', 'VACUUM FULL coupon.ticket_0', 'VACUUM FULL coupon.outbox_0',
	'REINDEX TABLE CONCURRENTLY coupon.request_0', 'REINDEX TABLE CONCURRENTLY coupon.ticket_0',
	'REINDEX TABLE CONCURRENTLY coupon.lapsed_hold', 'ANALYZE coupon.issuance');

sub start_load
{
	my ($transactions) = @_;
	my %run = (out => '');

	$run{harness} = IPC::Run::start(
		[ 'pgbench', '-n', '-c', 4, '-j', 2, '-t', $transactions, '-f', $load, $node->connstr('postgres') ],
		'<', \undef, '>', \$run{out}, '2>&1', IPC::Run::timer($PostgreSQL::Test::Utils::timeout_default * 5));
	return \%run;
}

my $run = start_load(400);
do
{
	is(sql_error($node, 'postgres', $_), '', "under load: $_") for @maintenance;
	$run->{harness}->pump_nb;
} while ($run->{harness}->pumpable);
$run->{harness}->finish;
like($run->{out}, qr{processed: 1600/1600}, 'nobody noticed') or diag($run->{out});
unlike($run->{out}, qr/ERROR/, 'no errors');
settle($node, 'postgres');
conserved($node, 'postgres', 'after maintenance');
is(sql(qq{SELECT count(*) - count(DISTINCT user_id) FROM coupon.issuance WHERE campaign_id = $busy}), '0', 'once per user');

SKIP:
{
	skip 'no amcheck', 1 if sql(q{SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'}) eq '0';
	sql('CREATE EXTENSION amcheck');
	is( sql(q{SELECT count(bt_index_check(i.indexrelid, true)) > 0 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
			JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND c.relnamespace = 'coupon'::regnamespace}),
		't', 'every index has every row');
}

# a transaction that has been open since before the indexes were replaced
my $open = $node->background_psql('postgres');
$open->query_safe("SELECT issued FROM coupon_status($busy); SELECT status FROM coupon_issue($busy, '1')");
foreach my $call ("SELECT count(*) FROM coupon_status($busy)", "SELECT count(*) FROM coupon_issue($busy, '1')",
	"SELECT count(*) FROM coupon_hold($seats, 1, 'h1')")
{
	$open->query_safe('BEGIN; SELECT 1');
	sql("REINDEX TABLE CONCURRENTLY coupon.$_") for qw(issuance shard campaign);
	is($open->query_safe($call), '1', "after REINDEX CONCURRENTLY: $call");
	$open->query_safe('COMMIT');
}
$open->quit;

# ---- another tablespace ----

SKIP:
{
	skip 'no tablespaces in place', 1 if sql(q{SELECT count(*) FROM pg_settings WHERE name = 'allow_in_place_tablespaces'}) eq '0';
	sql(q{ALTER SYSTEM SET allow_in_place_tablespaces = on});
	sql(q{SELECT pg_reload_conf()});
	$node->poll_query_until('postgres', q{SELECT current_setting('allow_in_place_tablespaces') = 'on'});
	sql(q{CREATE TABLESPACE own LOCATION ''});
	sql("ALTER TABLE coupon.$_ SET TABLESPACE own") for qw(issuance request_0 request_1 ticket_0 ticket_1 outbox_0 lapsed_hold);
	sql('ALTER INDEX coupon.issuance_user_key SET TABLESPACE own');
	$run = start_load(20);
	$run->{harness}->finish;
	like($run->{out}, qr{processed: 80/80}, 'in another tablespace') or diag($run->{out});
	conserved($node, 'postgres', 'in another tablespace');
}

$node->stop;

# ---- what the publisher deletes ----

SKIP:
{
	my $missing = kafka_tools_missing();
	skip $missing, 2 if $missing;
	my $broker = mock_broker(topics => { own => 12 });
	my $publisher = new_server('publisher', "coupon.kafka_brokers = '" . $broker->bootstrap . "'\n");
	my $unpublished = q{SELECT count(*) FROM coupon.outbox};

	# the publisher would fail at the first batch, so it is there before the event
	$publisher->safe_psql('postgres', q{CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'});
	$publisher->safe_psql('postgres', "CREATE TRIGGER own BEFORE DELETE ON coupon.outbox_$_ FOR EACH ROW EXECUTE FUNCTION nothing()") for 0 .. 2;
	my $offset = -s $publisher->logfile;
	$publisher->safe_psql('postgres', q{SELECT coupon_emit('own', 'k', 'x', '{}')});
	$publisher->wait_for_log(qr/added triggers on coupon\.outbox_\d are not supported/, $offset);
	is($publisher->safe_psql('postgres', $unpublished), '1', 'a trigger on deletions from the outbox: refused, and said so');
	$publisher->safe_psql('postgres', "DROP TRIGGER own ON coupon.outbox_$_") for 0 .. 2;
	poll_until('the event to be published', sub { $publisher->safe_psql('postgres', $unpublished) eq '0' });
	pass('without it the event is published');
	$publisher->stop;
}
done_testing();
