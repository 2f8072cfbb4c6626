# Queues at their limits: memory that is full, places that are all in use, what
# is dropped with somebody waiting, tables that change over in the middle.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = new_server('main', <<'END');
coupon.databases = ''
coupon.queue_memory = '1MB'
coupon.max_lines = 16
coupon.request_depth = 10000000
client_min_messages = error
END

sub sql { return $node->safe_psql('postgres', $_[0]); }

# ---- F17: memory is full ----

# rooms that were never served, and so have no memory for sessions
sql(qq{SELECT coupon_room_create('small$_', 1, session_ttl => '1 s', idle_ttl => '1 s'); SELECT coupon_queue_join('small$_', 'a')}) for 1 .. 8;
my $fitted = 0;
sql(q{SELECT coupon_room_create('flood', 1, session_ttl => '1 s', idle_ttl => '1 s')});
for my $i (1 .. 1000)
{
	my ($status) = $node->psql('postgres', "SELECT count(*) FROM generate_series(1, 500) g, coupon_queue_join('flood', '$i.' || g)");
	last if $status != 0;
	$fitted += 500;
}
cmp_ok($fitted, '>=', 5000, "$fitted tickets fit into 1 MB");
like(sql_error($node, 'postgres', "SELECT count(*) FROM generate_series(1, 5000) g, coupon_queue_join('flood', 'x' || g);"),
	qr/ERROR:  UC201: .*DETAIL: .*HINT: .*coupon\.queue_memory/s, 'F17: what does not fit is refused');
is(sql('SELECT * FROM coupon_verify()'), '', 'and the refusal leaves nothing');
poll_until('everybody is gone', sub {
	$node->psql('postgres', 'SELECT coupon_queue_serve()');
	sql('SELECT sum(waiting + admitted) FROM coupon.room_status') eq '0' });
pass('F17, F20: who is silent leaves a memory that is full');
is(sql("SELECT count(*) FROM generate_series(1, 5000) g, coupon_queue_join('flood', 'again' || g)"), '5000', 'F17: and makes room');
poll_until('everybody is gone', sub { sql('SELECT coupon_queue_serve()'); sql('SELECT sum(waiting + admitted) FROM coupon.room_status') eq '0' });

# ---- what is dropped with somebody waiting leaves no memory taken ----

for my $round (1 .. 4)
{
	sql('CREATE DATABASE gone');
	$node->safe_psql('gone', q{CREATE EXTENSION coupon; SELECT coupon_room_create('gone', 1)});
	$node->safe_psql('gone', "SELECT count(*) FROM generate_series(1, 6000) g, coupon_queue_join('gone', 'g' || g)");
	sql('DROP DATABASE gone');
}
pass('F17: four databases are filled and dropped');
sql('CREATE DATABASE other');
for my $round (1 .. 4)
{
	$node->safe_psql('other', q{CREATE EXTENSION coupon; SELECT coupon_room_create('other', 1);
		SELECT count(*) FROM generate_series(1, 6000) g, coupon_queue_join('other', 'g' || g);
		SELECT coupon_campaign_create('other', 10); SELECT coupon_request(1, 'a'::text);
		DROP EXTENSION coupon});
}
pass('F17: an extension is dropped with its line four times');
my $all = join ' ', map { qq{
	CREATE EXTENSION coupon; SELECT coupon_room_create('other', 1);
	SELECT count(*) FROM generate_series(1, 6000) g, coupon_queue_join('other', 'g' || g);
	DROP EXTENSION coupon;} } 1 .. 4;
is($node->safe_psql('other', "$all SELECT 'all'") =~ s/.*\n//sr, 'all', 'in one session, too');
# rolled back, the line is as it was
$node->safe_psql('other', q{CREATE EXTENSION coupon; SELECT coupon_room_create('kept', 1);
	SELECT count(*) FROM generate_series(1, 10) g, coupon_queue_join('kept', 'g' || g);
	BEGIN; DROP EXTENSION coupon; CREATE EXTENSION coupon; SELECT coupon_room_create('kept', 1); SELECT coupon_queue_join('kept', 'g5'); ROLLBACK});
is($node->safe_psql('other', q{SELECT queue_position FROM coupon_queue_join('kept', 'g5')}), '5', 'F23: a drop that is rolled back changes no place');
$node->safe_psql('other', 'DROP EXTENSION coupon');

# ---- more rooms than there are places ----

sql(qq{SELECT coupon_room_create('many$_', 1); }) for 1 .. 20;
my $error = '';
for my $i (1 .. 20)
{
	$error .= sql_error($node, 'postgres', "SELECT coupon_queue_join('many$i', 'a')");
}
like($error, qr/ERROR:  UC201: .*HINT: .*coupon\.max_lines/s, 'F17: too many rooms with somebody in them');
load_example($node, 'postgres', "sources/$_.sql") for qw(roles http api);
is( sql(q{SELECT current_setting('response.status'), r #>> '{error,code}', current_setting('response.headers') FROM coupon_api.queue_enqueue('"a"', '"many20"') r}),
	'503|unavailable|[{"Retry-After": "1"}]', 'F7, F17: over HTTP: 503');
sql(q{SELECT coupon_queue_leave(room_id || '.' || number || '.' || replace(secret::text, '-', '')) FROM coupon.ticket WHERE ended_at IS NULL});
sql(qq{SELECT coupon_queue_leave(token) FROM coupon_queue_join('many$_', 'a')}) for 1 .. 20;
pass('rooms that are empty give their places to others');

# ---- transactions in progress take no more lines than they leave free ----

# 16 lines, 40 rooms: as one transaction restores them
sql(q{SELECT count(coupon_room_create('bulk' || g, 1)) FROM generate_series(1, 40) g});
pass('a transaction creates more rooms than there are lines');
sql(q{SELECT count(coupon_campaign_create('bulk ' || g, 10)) FROM generate_series(1, 40) g});
my $bulk = sql(q{SELECT min(campaign_id) FROM coupon.campaign WHERE name LIKE 'bulk %'});
sql('CREATE ROLE greedy LOGIN IN ROLE coupon_service');
my $greedy = $node->background_psql('postgres', extra_params => [ '-U', 'greedy' ]);
$greedy->query_safe(qq{BEGIN; DO \$\$ BEGIN
	FOR i IN 0 .. 38 LOOP
		BEGIN PERFORM coupon_request($bulk + i, 'greedy'::text); EXCEPTION WHEN SQLSTATE 'UC201' THEN NULL; END;
		BEGIN PERFORM coupon_queue_join('bulk' || i + 1, 'greedy'); EXCEPTION WHEN SQLSTATE 'UC201' THEN NULL; END;
	END LOOP; END \$\$});
is(sql("SELECT status FROM coupon_request($bulk + 39, 'other'::text)"), 'WAITING', 'F25: another role requests in a campaign that nobody used yet');
is(sql("SELECT status FROM coupon_queue_join('bulk40', 'other')"), 'WAITING', 'F25: and joins a room');
my $taken = $greedy->query_safe(q{SELECT (SELECT count(*) FROM coupon_request_queue() WHERE depth > 0) + (SELECT count(*) FROM coupon.room_status WHERE name LIKE 'bulk%' AND waiting > 0) - 2});
cmp_ok($taken, '>=', 7, "though one transaction has $taken lines");
cmp_ok($taken, '<=', 8, 'and no more than half');
like(sql_error($node, 'postgres', "SET SESSION AUTHORIZATION greedy; SELECT coupon_request($bulk + 38, 'more'::text)"), qr/ERROR:  UC201: .*HINT:  Commit first/s, 'its role is told to commit');
$greedy->query_safe('ROLLBACK');
is(sql("SET SESSION AUTHORIZATION greedy; SELECT status FROM coupon_request($bulk + 38, 'more'::text)"), 'WAITING', 'then it has others');
$greedy->quit;
sql('SELECT coupon_request_decide() FROM generate_series(1, 5)');
sql(q{SELECT coupon_queue_leave(room_id || '.' || number || '.' || replace(secret::text, '-', '')) FROM coupon.ticket WHERE ended_at IS NULL});

# ---- both tables in one round ----

# an index that is not a btree is opened anew each time
sql(q{CREATE INDEX mine_0 ON coupon.ticket_0 USING hash (user_id); CREATE INDEX mine_1 ON coupon.ticket_1 USING hash (user_id)});
sql(q{SELECT coupon_room_create('both', 10); SELECT coupon_room_pause('both')});
$node->append_conf('postgresql.conf', "coupon.databases = 'postgres'\ncoupon.queue_keep = '10ms'\n");
$node->reload;
sub tables { return sql(q{SELECT count(DISTINCT t.tableoid) FROM coupon.ticket t JOIN coupon.room USING (room_id) WHERE name = 'both' AND ended_at IS NULL}); }
my $n = 0;
poll_until('tickets in both tables', sub { $n++; sql("SELECT coupon_queue_join('both', 'b$n')"); usleep(20_000); tables() eq '2' || $n > 200 });
is(tables(), '2', 'tickets in both tables');
sql("SELECT coupon_room_alter('both', capacity => 1000); SELECT coupon_room_resume('both')");
poll_until('all are admitted', sub { sql(q{SELECT waiting FROM coupon.room_status WHERE name = 'both'}) eq '0' });
is(sql('SELECT * FROM coupon_verify()'), '', 'tickets of both tables are admitted in one round');
sql(q{SET enable_seqscan = off; SELECT coupon_queue_leave(room_id || '.' || number || '.' || replace(secret::text, '-', '')) FROM coupon.ticket WHERE ended_at IS NULL});

# ---- a request comes into the other table while a decision waits for one ----

sql(q{SELECT coupon_campaign_create('turns', 100)});
my $c = sql('SELECT max(campaign_id) FROM coupon.campaign');
sub child { return sql(q{SELECT tableoid::regclass FROM coupon.request WHERE user_id = '} . $_[0] . q{' AND decided_at IS NULL}); }
sub running { return sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '$_[0]' AND wait_event_type = '$_[1]' AND pid <> pg_backend_pid()"); }
# the tables take turns as long as one of them is empty: until the second is the one in use
my ($first, $last) = ('', '');
for my $try (1 .. 50)
{
	sql("SELECT coupon_request($c, 't$try')");
	poll_until('decided', sub { sql("SELECT outcome FROM coupon_request_status_of($c, 't$try')") ne '' });
	sql("BEGIN; SELECT coupon_request($c, 'f$try'); SELECT coupon_campaign_pause($c); COMMIT");
	$first = child($last = "f$try");
	last if $first eq 'coupon.request_1';
	sql("SELECT coupon_campaign_resume($c)");
	poll_until('decided', sub { sql("SELECT outcome FROM coupon_request_status_of($c, 'f$try')") ne '' });
}
SKIP:
{
	skip 'the second table never was the one in use', 3 if $first ne 'coupon.request_1';
	# the worker changes over to the first when that is emptied
	my $probe = sql(q{SELECT coupon_campaign_create('probe', 1000)});
	my $i = 0;
	poll_until('the change', sub {
		$i++;
		sql("SELECT coupon_request($probe, 'p$i')");
		my $where = sql("SELECT tableoid::regclass FROM coupon.request WHERE campaign_id = $probe AND user_id = 'p$i'");
		usleep(20_000);
		$where eq 'coupon.request_0' });
	poll_until('the probes', sub { sql("SELECT depth FROM coupon_request_queue($probe)") eq '0' });
	my $lock = $node->background_psql('postgres');
	my $open = $node->background_psql('postgres');
	$open->query_safe('SELECT pg_advisory_lock(27)');
	$lock->query_safe('BEGIN; LOCK TABLE coupon.request_1 IN SHARE MODE');
	sql("SELECT coupon_campaign_resume($c)");
	my ($out, $err) = ('', '');
	# not at once: the line may stand yet, or the worker be looking at it
	my $decider = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', 'BEGIN',
			'-c', 'DO $$ BEGIN WHILE coupon_request_decide() = 0 LOOP PERFORM pg_sleep(0.01); END LOOP; END $$',
			'-c', 'SELECT pg_advisory_lock(27)', '-c', 'COMMIT' ],
		'<', \undef, '>', \$out, '2>', \$err);
	poll_until('the decision waits', sub { running('%coupon_request_decide%', 'Lock') eq '1' });
	sql("SELECT coupon_request($c, 'second'::text)");
	is(child('second'), 'coupon.request_0', 'the second request is in the other table');
	$lock->query_safe('COMMIT');
	$lock->quit;
	poll_until('the decision', sub { running('%advisory%', 'Lock') eq '1' });
	sql("SELECT coupon_request($c, 'third'::text)");
	$open->quit;
	$decider->finish;
	is($err, '', 'the decision is committed');
	poll_until('all are decided', sub { sql("SELECT depth FROM coupon_request_queue($c)") eq '0' });
	is( sql(qq{SELECT string_agg(key, ' ' ORDER BY id) FROM coupon.outbox WHERE type = 'coupon.issued'
			AND payload->>'campaign_id' = '$c' AND key IN ('$last', 'second', 'third')}),
		"$last second third", 'first come, first served, whatever the tables');
}
conserved($node, 'postgres', 'limits');

$node->stop;
server_log_is_clean($node, 'limits');
done_testing();
