# A DBA who has never seen coupon sets it up wrongly, in more than ten ways, on a
# real server, and is told each time what is wrong and what to do, with the page
# of doc/operations.md that tells more.
use strict;
use warnings;

use CouponTest;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $operations = slurp_file('doc/operations.md');
my %heading = map { (my $anchor = lc $_) =~ s/[^a-z0-9 _-]//g; $anchor =~ tr/ /-/; $anchor => 1 } $operations =~ /^#{2,4} (.*)$/mg;

# findings(node, database): "what" => { severity, detail, hint, page }
sub findings
{
	my ($node, $database, $role) = @_;
	my $rows = $node->safe_psql($database, ($role ? "SET ROLE $role;" : '') . q{
		SELECT concat_ws(E'\x01', severity, what, detail, hint, page) FROM coupon_health()});

	return { map { my ($severity, $what, $detail, $hint, $page) = split /\x01/; ($what => { severity => $severity, detail => $detail, hint => $hint, page => $page }) } split /\n/, $rows };
}

my %told;		# whatever health has told in this test

# told(node, database, what, severity, detail, hint): waits until it is told, and
# holds it against what it should say
sub told
{
	my ($node, $database, $what, $severity, $detail, $hint) = @_;
	my $found;

	poll_until("health tells: $what", sub { $found = findings($node, $database)->{$what} });
	$told{$what} = 1;
	is($found->{severity}, $severity, "$what: $severity");
	like($found->{detail}, $detail, 'with the values');
	like($found->{hint}, $hint, 'and what to do');
	my ($anchor) = $found->{page} =~ m{^doc/operations\.md#(.*)$};
	ok($heading{ $anchor // '' }, "and the page is there: $found->{page}");
	return;
}

sub not_told
{
	my ($node, $database, $what) = @_;

	poll_until("health no longer tells: $what", sub { !findings($node, $database)->{$what} });
	return pass("it is well again: $what");
}

# ---- every heading that the script names is there ----

my $script = slurp_file('sql/88_health.sql');
my @headings = $script =~ /, '([A-Z][^']{6,})'\)/g;
cmp_ok(scalar @headings, '>', 40, 'the findings name their headings');
my %missing = map { $_ => 1 } grep { !$heading{ lc(s/ /-/gr) } } @headings;
is_deeply([ sort keys %missing ], [], 'and doc/operations.md has them all');

# ---- 1: not preloaded ----

my $node = PostgreSQL::Test::Cluster->new('misconfigured');
$node->init;
# shared_preload_libraries is first without coupon; the rest is what goes wrong by and by
$node->append_conf('postgresql.conf', "max_connections = 40\nlog_statement = none\nshared_buffers = 32MB\nfsync = on\nautovacuum_naptime = 1d\n");
$node->start;
my (undef, undef, $said) = $node->psql('postgres', 'CREATE EXTENSION coupon');
like($said, qr/WARNING:  coupon is not preloaded.*HINT:.*shared_preload_libraries/s, 'CREATE EXTENSION warns that it is not preloaded');
told($node, 'postgres', 'coupon is not preloaded', 'error', qr/shared_preload_libraries is ''/, qr/restart the server/);

# ---- 2, 3: a misspelt name, a misspelt setting; WARNINGs and the log ----

my $log_start = -s $node->logfile;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'coupon'\ncoupon.databases = 'postgers'\nmax_worker_processes = 8\nautovacuum = off\n");
$node->restart;
told($node, 'postgres', 'Database "postgres" has no workers', 'error', qr/coupon\.databases is 'postgers'/, qr/SET coupon\.databases = 'postgres'/);
told($node, 'postgres', 'coupon.databases names "postgers", which does not exist', 'warning', qr/misspelt/, qr/CREATE DATABASE postgers/);
told($node, 'postgres', 'Autovacuum is off', 'warning', qr/grow/, qr/autovacuum = on/);
$node->safe_psql('postgres', q{SELECT coupon_campaign_create('a', 10)});
my $calls = q{SELECT status FROM coupon_request(1, 'a'::text); SELECT status FROM coupon_request(1, 'b'::text); SELECT coupon_room_create('r', 1);};
my ($status, $answers, $warnings) = $node->psql('postgres', $calls);
is($answers, "WAITING\nWAITING\n1", 'requests are accepted, the room is made');
is(scalar(() = $warnings =~ /WARNING:  database "postgres" has no workers/g), 1, 'with one WARNING a session');
like($warnings, qr/HINT:  Add "postgres" to coupon\.databases/, 'that says what to do');
like(($node->psql('postgres', q{SELECT coupon_room_create('second', 1)}))[2], qr/has no workers/, 'who makes a room is told, too');
$node->safe_psql('postgres', 'CREATE DATABASE other');
like(($node->psql('other', 'CREATE EXTENSION coupon'))[2], qr/WARNING:  database "other" has no workers/, 'and CREATE EXTENSION');
told($node, 'postgres', 'Requests wait and nobody decides them', 'error', qr/2 requests of 1 campaign/, qr/workers/);
$node->safe_psql('postgres', q{SELECT coupon_queue_join('r', 'a'::text); SELECT coupon_queue_join('r', 'b'::text); SELECT coupon_room_pause('r'); SELECT coupon_campaign_pause(1)});
told($node, 'postgres', 'Rooms admit nobody', 'error', qr/2 users wait in 1 rooms/, qr/workers/);
told($node, 'postgres', 'A room is paused and users wait', 'notice', qr/Room 'r': 2 users/, qr/coupon_room_resume\('r'\)/);
told($node, 'postgres', 'Requests wait for a paused campaign', 'notice', qr/Campaign 1: 2 requests/, qr/coupon_campaign_resume\(1\)/);
$node->safe_psql('postgres', q{SELECT coupon_room_resume('r'); SELECT coupon_campaign_resume(1)});
poll_until('the line in the log', sub { slurp_file($node->logfile, $log_start) =~ /database "postgers" of coupon\.databases does not exist/ });
pass('after ten seconds the log has a line for the name');
is(scalar(() = slurp_file($node->logfile, $log_start) =~ /"postgers" of coupon/g), 1, 'one');
my @lines = split /\n/, $node->safe_psql('postgres', 'SELECT coupon_doctor()');
like($lines[0], qr/^1\. ERROR: /, 'the doctor begins with the worst');
is_deeply([ grep { length > 90 && !m{doc/} } @lines ], [], 'in lines for people');

# for a reader, and without what is not theirs
$node->safe_psql('postgres', 'CREATE ROLE watcher IN ROLE coupon_reader');
ok(findings($node, 'postgres', 'watcher')->{'Database "postgres" has no workers'}, 'coupon_reader is told as well');

# ---- 4: too few worker slots for a second database ----

reload($node, "coupon.databases = 'postgres, other'\nautovacuum = on\n");
not_told($node, 'postgres', 'Database "postgres" has no workers');
told($node, 'other', 'There are too few worker slots', 'error', qr/needs 11 \(5 in each.*PostgreSQL itself 1; max_worker_processes is 8/, qr/max_worker_processes = 19; and restart/);
not_told($node, 'postgres', 'Requests wait and nobody decides them');
told($node, 'other', 'Workers are missing in this database', 'error', qr/too few of: coupon/, qr/max_worker_processes/);

# ---- 5 to 10: what the server itself has wrong ----

my $secret = $node->data_dir . '/secret.key';
PostgreSQL::Test::Utils::append_to_file($secret, "0123456789abcdef0123456789abcdef\n");
chmod 0644, $secret;
my $properties = $node->data_dir . '/kafka.properties';
PostgreSQL::Test::Utils::append_to_file($properties, "sasl.password=hush\n");
chmod 0644, $properties;
$node->append_conf('postgresql.conf', <<"END");
max_worker_processes = 24
coupon.max_lines = 8
coupon.kafka_create_topics = on
coupon.kafka_replication = 1
fsync = off
full_page_writes = off
synchronous_commit = off
coupon.max_campaigns = 16
coupon.stock_map_memory = 8MB
coupon.sold_out_wait = 2s
statement_timeout = 1s
coupon.http_listen = '127.0.0.1:@{[PostgreSQL::Test::Cluster::get_free_port()]}'
coupon.http_database = 'nowhere'
coupon.http_jwt_algorithm = HS256
coupon.http_jwt_key_files = 'secret.key'
coupon.http_role = 'nobody_at_all'
coupon.http_lock_timeout = 9s
coupon.kafka_brokers = 'broker.secret.example:9092, second.secret.example:9092'
coupon.kafka_config_file = 'kafka.properties'
coupon.group_workers = 0
log_min_duration_statement = 0
END
$node->restart;
not_told($node, 'other', 'There are too few worker slots');
$node->safe_psql('postgres', q{
	SELECT count(coupon_campaign_create('campaign ' || g, 10)) FROM generate_series(1, 20) g;
	SELECT coupon_campaign_create('large', 100000000);
	INSERT INTO coupon.dead_letter VALUES (gen_random_uuid(), 't', 'k', 'my.type', '{}', 'too large', 1, now());
	UPDATE coupon.campaign SET room_id = 4711 WHERE campaign_id = 2});
told($node, 'postgres', "Answers are not durable: $_ is off", 'error', qr/crash/, qr/SET $_ = on/) for qw(fsync full_page_writes);
told($node, 'postgres', 'Answers are not durable: synchronous_commit is off', 'warning', qr/forgets/, qr/synchronous_commit = on/);
told($node, 'postgres', 'coupon.max_campaigns is below the campaigns that are open', 'warning', qr/22 are open, 16/, qr/coupon\.max_campaigns = 44/);
told($node, 'postgres', 'Stock maps do not fit into coupon.stock_map_memory', 'warning', qr/about \d+ kB at once, there are 8192 kB/, qr/coupon\.stock_map_memory = '\d+ MB'/);
told($node, 'postgres', 'Callers are cancelled before they are answered busy', 'warning', qr/2000 ms, statement_timeout 1000 ms/, qr/below/);
told($node, 'postgres', 'A lock timeout is longer than the statement may take', 'warning', qr/9000 ms.*5000 ms/, qr/below/);
told($node, 'postgres', 'Key file 1 of coupon.http_jwt_key_files is refused', 'error', qr/mode must be 0600/, qr/0600/);
told($node, 'postgres', 'coupon.http_role is no role', 'error', qr/nobody_at_all/, qr/coupon_service/);
told($node, 'postgres', 'coupon.http_database does not exist', 'error', qr/"nowhere"/, qr/restart/);
told($node, 'postgres', 'The file of coupon.kafka_config_file is refused', 'error', qr/0600/, qr/pg_reload_conf/);
told($node, 'postgres', 'There are dead letters', 'warning', qr/^1 events/, qr/coupon_dead_letter_replay/);
told($node, 'postgres', 'A campaign requires a room that is not there', 'error', qr/Campaign 2, room 4711/, qr/coupon_campaign_require_room\(2, NULL\)/);
told($node, 'postgres', 'Grouped calls are refused', 'notice', qr/UC020/, qr/RESET coupon\.group_workers/);
told($node, 'postgres', 'Every statement is logged', 'warning', qr/log_min_duration_statement = 0/, qr/-1/);
told($node, 'postgres', 'HTTP serves a database without workers', 'error', qr/"nowhere"/, qr/coupon\.databases/);
told($node, 'postgres', 'Topics are created with one replica', 'warning', qr/loss of a broker/, qr/to 3/);
like(($node->psql('postgres', q{SELECT coupon_status(22)}))[2], qr/stock maps do not fit/, 'a map that does not fit');
told($node, 'postgres', 'Calls got no room for a stock map', 'error', qr/UC007/, qr/stock_map_memory/);
$node->safe_psql('postgres', q{SELECT count(coupon_room_create('room ' || g, 1)) FROM generate_series(1, 9) g});
like(join('', map { ($node->psql('postgres', "SELECT coupon_queue_join('room $_', 'a'::text)"))[2] } 1 .. 9), qr/All 8 lines are in use/, 'rooms without a line');
told($node, 'postgres', 'There are more rooms than lines', 'warning', qr/is 8\./, qr/max_lines/);
told($node, 'postgres', 'Lines run out', 'error', qr/8 of coupon\.max_lines = 8/, qr/max_lines/);
told($node, 'postgres', 'Requests or visitors got no room', 'error', qr/UC201/, qr/queue_memory/);
$node->safe_psql('postgres', q{
	SELECT setval('coupon.event_clock', (1000 * extract(epoch FROM now()))::bigint + 3600000);
	SET session_replication_role = replica;
	INSERT INTO coupon.outbox_parked (id, topic, key, type, payload) VALUES (gen_random_uuid(), 't', 'k', 'my.type', '{}')});
told($node, 'postgres', 'Event ids are ahead of the clock', 'warning', qr/^By /, qr/NTP/);
told($node, 'postgres', 'Events are parked', 'warning', qr/^1 events/, qr/topic/);
told($node, 'postgres', 'Nothing serves HTTP', 'error', qr/no "coupon front" runs/, qr/log says why/);
my $all = $node->safe_psql('postgres', 'SELECT coupon_doctor()');
unlike($all, qr/secret\.example|hush|0123456789abcdef|kafka\.properties|secret\.key/, 'no broker, no file, no key is named');

# ---- 11: maps that are dropped again and again ----

$node->safe_psql('postgres', q{SET statement_timeout = 0; SELECT count(coupon_status(c)) FROM generate_series(1, 10) g, generate_series(2, 21) c});
told($node, 'postgres', 'Stock maps are dropped again and again', 'warning', qr/\d+ maps and \d{3} places/, qr/coupon\.max_campaigns/);

# ---- 12: misspelt and wrong settings ----

$node->append_conf('postgresql.conf', "coupon.http_listen = '192.0.2.1:80'\ncoupon.http_statement_timeout = 1s\ncoupon.issuer = 3\ncoupon.queue_keep = many\ncoupon.max_lines = 99\nstatement_timeout = 0\nlog_min_duration_statement = -1\n");
$node->reload;
# PostgreSQL 14 takes any name with a prefix, and does not show it
told($node, 'postgres', 'Setting coupon.issuer is not applied', 'error', qr/Line \d+ of postgresql\.conf: there is no setting of that name/, qr/Correct the line/)
  if $node->safe_psql('postgres', 'SHOW server_version_num') >= 150000;
told($node, 'postgres', 'Setting coupon.queue_keep is not applied', 'error', qr/cannot be applied/, qr/Correct the line/);
told($node, 'postgres', 'Calls over HTTP are cancelled before they are answered busy', 'warning', qr/2000 ms.*1000 ms/, qr/below/);
told($node, 'postgres', 'HTTP takes calls from everywhere without a limit', 'notice', qr/no local address/, qr/proxy/);
told($node, 'postgres', 'Setting coupon.max_lines waits for a restart', 'warning', qr/another value/, qr/Restart/);

# ---- 13: guards ----

$node->safe_psql('postgres', 'ALTER TABLE coupon.issuance DISABLE TRIGGER issuance_guard');
told($node, 'postgres', 'A trigger of coupon is disabled', 'error', qr/issuance_guard on coupon\.issuance/, qr/ENABLE TRIGGER issuance_guard; then SELECT \* FROM coupon_verify/);
$node->safe_psql('postgres', 'ALTER TABLE coupon.issuance ENABLE TRIGGER issuance_guard');
not_told($node, 'postgres', 'A trigger of coupon is disabled');

$node->safe_psql('postgres', q{
	ALTER INDEX coupon.issuance_user_key RENAME TO away;
	ALTER TABLE coupon.room ADD CONSTRAINT mine CHECK (true) NOT VALID;
	SET allow_system_table_mods = on;
	UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'coupon.outbox_parked_idx'::regclass});
told($node, 'postgres', 'Index coupon.issuance_user_key is missing', 'error', qr/sold twice/, qr/coupon_verify/);
told($node, 'postgres', 'Index coupon.outbox_parked_idx is invalid', 'error', qr/CONCURRENTLY/, qr/REINDEX INDEX/);
told($node, 'postgres', 'Constraint mine is not validated', 'warning', qr/coupon\.room/, qr/VALIDATE CONSTRAINT mine/);
$node->safe_psql('postgres', q{
	ALTER INDEX coupon.away RENAME TO issuance_user_key;
	ALTER TABLE coupon.room DROP CONSTRAINT mine;
	REINDEX INDEX coupon.outbox_parked_idx;
	ALTER DATABASE postgres SET default_transaction_read_only = on});
told($node, 'postgres', 'Transactions are read-only', 'error', qr/nothing can be issued/, qr/RESET default_transaction_read_only/);
$node->safe_psql('other', 'ALTER DATABASE postgres RESET default_transaction_read_only');

# ---- a check that fails is a row, and the others are made ----

$node->safe_psql('postgres', 'ALTER TABLE coupon.dead_letter RENAME TO lost_letter');
told($node, 'postgres', 'The check "events" failed', 'warning', qr/dead_letter/, qr/other checks/);
ok(findings($node, 'postgres')->{'coupon.http_role is no role'}, 'the other checks were made');
$node->safe_psql('postgres', 'ALTER TABLE coupon.lost_letter RENAME TO dead_letter');

# ---- no broker, and the standby ----

chmod 0600, $properties;
alter_system($node, 'coupon.kafka_brokers' => '127.0.0.1:1', 'coupon.kafka_config_file' => '');
$node->append_conf('postgresql.conf', '');
poll_until('the publisher fails', sub { my $f = findings($node, 'postgres')->{'No broker can be reached'}; $f && $f->{detail} =~ /127\.0\.0\.1/ });
told($node, 'postgres', 'No broker can be reached', 'error', qr/127\.0\.0\.1/, qr/nothing is lost/);
unlike(findings($node, 'postgres', 'watcher')->{'No broker can be reached'}->{detail} // '', qr/127\.0\.0\.1/, 'coupon_reader does not learn where it is');
PostgreSQL::Test::Utils::append_to_file($properties, "no.such.property=1\n");
alter_system($node, 'coupon.kafka_config_file' => 'kafka.properties');
told($node, 'postgres', 'The publisher is misconfigured', 'error', qr/no\.such\.property/, qr/Correct the property/);
server_log_is_clean($node, 'after all of it');
$node->stop;

# ---- and one who does it right ----

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $well = new_server('well', "coupon.databases = 'postgres'\nhot_standby_feedback = off\nmax_prepared_transactions = 2\ncoupon.http_listen = '127.0.0.1:$port'\ncoupon.http_role = 'coupon_service'\n", allows_streaming => 1);
$well->safe_psql('postgres', q{SELECT coupon_campaign_create('a', 10)});
await_true($well, 'postgres', q{SELECT count(*) >= 5 FROM pg_stat_activity WHERE backend_type LIKE 'coupon %' AND datname = 'postgres'});
my $report = $well->safe_psql('postgres', 'SELECT coupon_doctor()');
$report = join "\n", grep { !/fsync/ } split /\n/, $report;
is($well->safe_psql('postgres', q{SELECT what FROM coupon_health() WHERE what NOT LIKE '%fsync%'}), '', 'nothing is told of a server that is set up well')
  or diag($report);
$well->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($well, 'copy', has_streaming => 1);
$standby->append_conf('postgresql.conf', "coupon.http_listen = ''\n");
$standby->start;
await_true($standby, 'postgres', q{SELECT count(*) > 0 FROM coupon_health()});
is($standby->safe_psql('postgres', q{SELECT severity, what FROM coupon_health() WHERE what NOT LIKE '%fsync%'}), 'notice|This server is a standby', 'a standby says that it is one, and no more');
$standby->stop;

# ---- and then makes HTTP, and the list of databases, wrong ----

for my $case ([ 'coupon.http_listen', '127.0.0.1:1x', 'form address:port' ],
	[ 'coupon.http_listen', '127.0.0.1:70000', 'from 1 to 65535' ],
	[ 'coupon.http_admin_listen', 'foo', 'form address:port' ],
	[ 'coupon.http_trusted_proxies', '127.0.0.1, foo', '"foo" is not an IP address' ],
	[ 'coupon.http_cors_origins', 'foo', '"foo" is not an origin' ],
	[ 'coupon.http_cors_origins', 'https://shop.example/', 'is not an origin' ],
	[ 'coupon.http_jwt_key_files', 'a b', 'list of names' ],
	[ 'coupon.databases', 'shop,,x', 'list of names' ],
	[ 'coupon.databases', 'postgres, Other One', 'double quotes' ])
{
	my ($name, $value, $why) = @$case;

	like(($well->psql('postgres', "ALTER SYSTEM SET $name = '$value'"))[2], qr/ERROR:  invalid value for parameter "$name".*\Q$why\E/s, "$name = '$value' is refused at once");
}
$well->safe_psql('postgres', "ALTER SYSTEM SET $_->[0] = '$_->[1]'; ALTER SYSTEM RESET $_->[0]")
  for [ 'coupon.http_trusted_proxies', '10.0.0.1 ::1, 127.0.0.1' ], [ 'coupon.http_cors_origins', '*' ], [ 'coupon.http_cors_origins', 'https://a.example:8443, null' ], [ 'coupon.http_listen', '[::1]:8000' ], [ 'coupon.http_listen', ':8000' ];
pass('what is right is not');

$well->safe_psql('postgres', 'CREATE DATABASE "Other One"');
$well->psql('Other One', 'CREATE EXTENSION coupon');
told($well, 'Other One', 'Database "Other One" has no workers', 'error', qr/for ever/, qr/SET coupon\.databases = 'postgres, "Other One"'/);
$well->safe_psql('postgres', $_) for findings($well, 'Other One')->{'Database "Other One" has no workers'}->{hint} =~ /([^;]+;)/g;
not_told($well, 'Other One', 'Database "Other One" has no workers');

# as another server of the same user would, which a kernel that is told so deals half of the connections to
my $taken = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1, ReusePort => 1) or die "listen: $!";
alter_system($well, 'coupon.http_listen' => '127.0.0.1:' . $taken->sockport, 'coupon.http_admin_listen' => "192.0.2.1:$port");
told($well, 'postgres', 'HTTP cannot listen', 'error', qr/^coupon\.http_(admin_)?listen: "[0-9.:]+": (Address already in use|Cannot assign)/, qr/every second/);
alter_system($well, 'coupon.http_admin_listen' => '');
poll_until('one door is well', sub { my $f = findings($well, 'postgres')->{'HTTP cannot listen'}; $f && $f->{detail} =~ /^coupon\.http_listen: .*in use/ });
like($well->safe_psql('postgres', 'SELECT coupon_doctor()'), qr/HTTP cannot listen\n.*Address already\s+in use.*#http-does-not-answer/s, 'the doctor leads to the page');
like(slurp_file($well->logfile), qr/coupon front cannot listen: "127\.0\.0\.1:\d+": Address already in use/, 'and the log says so in a sentence');
close $taken;
not_told($well, 'postgres', 'HTTP cannot listen');
alter_system($well, 'coupon.http_listen' => "127.0.0.1:$port", 'coupon.http_admin_listen' => "127.0.0.1:$port");
told($well, 'postgres', 'HTTP cannot listen', 'error', qr/^coupon\.http_admin_listen: .* are the same/, qr/every second/);
alter_system($well, 'coupon.http_admin_listen' => '');
not_told($well, 'postgres', 'HTTP cannot listen');

alter_system($well, 'coupon.http_role' => 'pg_monitor');
told($well, 'postgres', 'coupon.http_role may not call', 'error', qr/"pg_monitor" is a member of neither/, qr/coupon_service/);
alter_system($well, 'coupon.http_role' => '');
told($well, 'postgres', 'Every call over HTTP is refused', 'error', qr/no tokens/, qr/coupon_service/);
alter_system($well, 'coupon.http_role' => $well->safe_psql('postgres', 'SELECT current_user'), 'coupon.http_jwt_algorithm' => 'HS256');
told($well, 'postgres', 'coupon.http_role is a superuser', 'error', qr/superuser/, qr/coupon_service/);
told($well, 'postgres', 'Tokens are refused: there is no key', 'error', qr/is empty/, qr/Name the file/);
alter_system($well, 'coupon.http_jwt_algorithm' => '', 'coupon.http_jwt_key_files' => 'short.key');
told($well, 'postgres', 'Tokens are refused: keys without an algorithm', 'error', qr/is empty/, qr/HS256/);
my $short = $well->data_dir . '/short.key';
PostgreSQL::Test::Utils::append_to_file($short, "too short\n");
chmod 0600, $short;
alter_system($well, 'coupon.http_jwt_algorithm' => 'HS256', 'coupon.http_jwt_key_files' => 'short.key');
told($well, 'postgres', 'Key file 1 of coupon.http_jwt_key_files is refused', 'error', qr/a secret has at least 32 bytes/, qr/32 bytes/);

# ---- transactions that stay open; a minute is made a moment ----

$well->safe_psql('postgres', q{
	DO $$ BEGIN EXECUTE replace(pg_get_functiondef('coupon.health_sale'::regproc), '1 min', '1 ms'); END $$;
	BEGIN; DELETE FROM coupon.issuance WHERE false; PREPARE TRANSACTION 'forgotten'});
my $open = $well->background_psql('postgres');
$open->query_safe(q{BEGIN; SELECT coupon_issue(1, 'open'::text)});
told($well, 'postgres', 'A transaction keeps units', 'warning', qr/idle in transaction/, qr/pg_terminate_backend/);
told($well, 'postgres', 'A prepared transaction keeps units', 'warning', qr/^"forgotten" was prepared/, qr/ROLLBACK PREPARED 'forgotten'/);
$open->query_safe('ROLLBACK');
$open->quit;
$well->safe_psql('postgres', q{ROLLBACK PREPARED 'forgotten'});
alter_system($well, 'synchronous_standby_names' => 'nobody');
told($well, 'postgres', 'Commits wait for a standby that is not there', 'error', qr/no call returns/, qr/Connect the standby/);
alter_system($well, 'synchronous_standby_names' => '');
not_told($well, 'postgres', 'Commits wait for a standby that is not there');
server_log_is_clean($well, 'the server that was well');
$well->stop;

# ---- each finding has been told here, or is told elsewhere, or it is said why not ----

my %not_here = map { $_ => 1 } (
	'This server is a standby',    # above
	'A restored copy has not been checked',    # 140_restore.pl
	'The end of a campaign was begun and is not done',    # 141_end_of_sale.pl
	'This node shares nothing', 'A node does not answer', 'Units do not arrive', 'The transfer worker stands',    # 171_told.pl
	'This node is not confirmed and sells nothing', 'A node does not take slots',    # need a node that is replaced, or refuses
	'HTTP is asked for, but not built in', 'Tokens cannot be checked',    # need another build
	'Connections run out', 'HTTP has too few file descriptors', 'Events gather',    # dear
	'Events are late', 'A topic is refused',    # need a broker
	'Refusals were not noted', 'Requests may wait and nobody decides them',    # need a race
	'Requests of a campaign cannot be decided', 'A room admits nobody', 'Key files are not in use');    # need long waits
my @whats = $script =~ /coupon\.finding\(\s*(?:'(?:error|warning|notice)'|CASE[^\n]*END),\s*(?:format\()?'((?:[^']|'')*)'/g;
cmp_ok(scalar @whats, '>', 65, 'the findings are found in the script');
my @untold = grep {
	my $pattern = join '.+', map { quotemeta } split /%s/, $_, -1;
	!$not_here{$_} && !grep { /^$pattern$/ } keys %told;
} @whats;
is(join("\n", @untold), '', 'each of them has been told');
done_testing();
