# A restore that did not load all rows cannot be taken for a sale that has issued
# nothing: a copy is paused until coupon_restored() has found every row.  And
# pg_restore with several jobs, which keep no order, loads whatever was dumped.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main');
my $dir = PostgreSQL::Test::Utils::tempdir();

$node->safe_psql('postgres', q{
	SELECT coupon_campaign_create('plain', 300, 2), coupon_campaign_create('codes', 0), coupon_campaign_create('nothing yet', 50);
	SELECT coupon_codes_import(2, ARRAY(SELECT 'C' || g FROM generate_series(1, 100) g));
	SELECT coupon_issue_many(c, ARRAY(SELECT 'u' || g FROM generate_series(1, 80) g)) FROM generate_series(1, 2) c;
	SELECT coupon_hold_any(1, 'holder', '1 ms');
	SELECT coupon_campaign_reduce_stock(1, 20);
	SELECT coupon_room_create('room', 5), coupon_campaign_require_room(2, 'room');
	SELECT coupon_campaign_alter(1, per_user_limit => 1, opens_at => '2020-01-01', closes_at => 'infinity')});
poll_until('the hold to run out', sub { $node->safe_psql('postgres', q{SELECT coupon_hold_expire(); SELECT count(*) FROM coupon.issuance WHERE state = 'held'}) =~ /^0\z/m });
$node->command_ok([ 'pg_dump', '-Fd', '-f', "$dir/dump", $node->connstr('postgres') ], 'pg_dump');
$node->command_ok([ 'pg_dump', '--inserts', '-f', "$dir/inserts.sql", $node->connstr('postgres') ], 'pg_dump --inserts');

# restore(name, list of tables to leave out, options): a database of that name
my $dump = "$dir/dump";
sub restore
{
	my ($name, $without, @options) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $name");
	if (defined $without)
	{
		my ($list) = run_command([ 'pg_restore', '-l', $dump ]);

		$list = join "\n", grep { !/TABLE DATA coupon (?:$without) / } split /\n/, $list;
		append_to_file("$dir/$name.list", "$list\n");
		push @options, '-L', "$dir/$name.list";
	}
	$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr($name), @options, $dump ], "$name: pg_restore @options");
	return;
}

sub answers
{
	my ($name) = @_;

	return $node->safe_psql($name, q{
		SELECT string_agg(status, ' ') FROM (
			SELECT status FROM coupon_issue(1, 'new') UNION ALL SELECT status FROM coupon_hold_any(1, 'other')
			UNION ALL SELECT status FROM coupon_issue(3, 'new')) x});
}

# whole ones, with several jobs: no order is kept
for my $n (1 .. 3)
{
	restore("jobs$n", undef, '-j', '4');
	is(answers("jobs$n"), 'paused paused paused', "jobs$n: nothing is issued yet");
	is($node->safe_psql("jobs$n", q{SELECT string_agg(state, ' ') FROM coupon.campaign_status}), 'restored restored restored', "jobs$n: which the status says");
	my $finding = q{SELECT severity, detail, page FROM coupon_health() WHERE what = 'A restored copy has not been checked'};
	is($node->safe_psql("jobs$n", $finding), 'error|3 campaigns issue nothing.|doc/operations.md#a-copy-has-not-been-checked', "jobs$n: and health, too");
	is($node->safe_psql("jobs$n", q{SELECT status FROM coupon_issue(1, 'u5')}), 'already_issued', "jobs$n: who has a unit is told so");
	is($node->safe_psql("jobs$n", q{SELECT * FROM coupon_restored()}), '', "jobs$n: every row is there");
	is($node->safe_psql("jobs$n", $finding), '', "jobs$n: then there is no finding any more");
	is(answers("jobs$n"), 'issued held issued', "jobs$n: the sale goes on");
	is($node->safe_psql("jobs$n", q{SELECT stock, issued, held, remaining FROM coupon_status(1)}), '280|81|1|198', "jobs$n: with what was left");
	$node->safe_psql("jobs$n", 'SELECT coupon_hold_expire()');
	conserved($node, "jobs$n", "jobs$n");
}
for my $statement ('coupon_campaign_resume(1)', 'coupon_campaign_add_stock(1, 5)', 'coupon_campaign_reduce_stock(1, 5)')
{
	restore('early', undef) unless $node->safe_psql('postgres', q{SELECT count(*) FROM pg_database WHERE datname = 'early'});
	like(sql_error($node, 'early', "SELECT $statement"), qr/55000.*coupon_restored\(\)/s, "$statement: not before it is checked");
}

like(sql_error($node, 'early', 'SELECT coupon_campaign_close(3); CALL coupon_campaign_drop(3)'), qr/55000.*coupon_restored\(\)/s, 'nor is it archived or dropped, though it is closed');

# a dump of a copy that is not checked says what the original said
$node->safe_psql('early', q{DELETE FROM coupon.issuance WHERE campaign_id = 1 AND serial = (SELECT min(serial) FROM coupon.issuance WHERE campaign_id = 1)});
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/again", $node->connstr('early') ], 'a copy is dumped');
$node->safe_psql('postgres', 'CREATE DATABASE again');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('again'), "$dir/again" ], 'and restored');
is($node->safe_psql('again', 'SELECT campaign, problem, detail FROM coupon_restored()'),
	'1|rows are missing|issuances and holds 79 of 80', 'what the first copy lacked is missed in the second one');

# INSERTs
$node->safe_psql('postgres', 'CREATE DATABASE inserts');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/inserts.sql", $node->connstr('inserts') ], 'restored from INSERTs');
is($node->safe_psql('inserts', 'SELECT * FROM coupon_restored()'), '', 'INSERTs: every row is there');
is(answers('inserts'), 'issued held issued', 'INSERTs: the sale goes on');

# one table did not load
for my $table ('issuance', 'shard', 'unit', 'campaign', 'issuance|shard|unit')
{
	my $name = 'no_' . ($table =~ s/\W/_/gr);

	restore($name, $table, '-j', '2');
	is(answers($name), 'paused paused paused', "$name: nothing is issued") unless $table eq 'campaign';
	isnt($node->safe_psql($name, 'SELECT * FROM coupon_restored()'), '', "$name: it is told");
	next if $table eq 'campaign';
	is($node->safe_psql($name, q{SELECT status FROM coupon_issue(2, 'new')}), 'paused', "$name: nor afterwards");
}
is($node->safe_psql('no_issuance', 'SELECT * FROM coupon_restored()'),
	"1|rows are missing|issuances and holds 0 of 80\n2|rows are missing|issuances and holds 0 of 80", 'what is missing, and of which');
is($node->safe_psql('no_issuance', q{SELECT status FROM coupon_issue(3, 'new')}), 'issued', 'a campaign that lacks nothing is sold');
isnt($node->safe_psql('no_issuance', 'SELECT * FROM coupon_restored(accept => true)'), '', 'accepted as it is');
is($node->safe_psql('no_issuance', q{SELECT status FROM coupon_issue(1, 'new')}), 'issued', 'it is sold from the beginning');

# nor is a sale of which only the holds are gone, or what tells a repeated call
$node->safe_psql('postgres', 'CREATE DATABASE holds');
$node->safe_psql('holds', q{
	CREATE EXTENSION coupon;
	SELECT coupon_campaign_create('all held', 5), coupon_campaign_create('keyed', 5, 5), coupon_campaign_create('short', 5);
	SELECT coupon_hold_any(1, 'h' || g, '1 h') FROM generate_series(1, 5) g;
	SELECT coupon_hold_any(3, 'short', '1 s');
	SELECT coupon_issue(2, 'alice', 'key');
	INSERT INTO coupon.lapsed_hold VALUES (1, 1, now(), 'late');
	INSERT INTO coupon.dead_letter (id, topic, key, type, payload, reason, attempts, dead_at) VALUES (gen_random_uuid(), 't', 'k', 'x', '{}', 'too large', 1, now())});
$dump = "$dir/holds";
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('holds') ], 'a sale of holds is dumped');
my %missing = (
	issuance => "1|rows are missing|issuances and holds 0 of 5\n2|rows are missing|issuances and holds 0 of 1\n3|rows are missing|issuances and holds 0 of 1",
	request_key => '2|rows are missing|request keys 0 of 1',
	lapsed_hold => '1|rows are missing|memories of holds 0 of 1',
	dead_letter => '|rows are missing|dead letters 0 of 1');
for my $table (sort keys %missing)
{
	restore("held_$table", $table);
	is($node->safe_psql("held_$table", 'SELECT * FROM coupon_restored()'), $missing{$table}, "without $table: it is told");
	is($node->safe_psql("held_$table", 'SELECT string_agg(status, $$ $$) FROM (SELECT status FROM coupon_issue(1, $$new$$) UNION ALL SELECT status FROM coupon_issue(2, $$bob$$)) x'),
		{ issuance => 'paused paused', request_key => 'sold_out paused', lapsed_hold => 'paused issued', dead_letter => 'paused paused' }->{$table}, "without $table: what is sold");
}

is($node->safe_psql('held_issuance', q{SELECT status FROM coupon_confirm(1, 1, 'late', 'paid')}), 'busy',
	'nor does a late payment get a unit whose row may be missing');

# what has run out since the dump stays until it is counted
restore('swept', undef);
poll_until('the hold to run out', sub { $node->safe_psql('swept', 'SELECT held FROM coupon_status(3)') eq '0' });
is($node->safe_psql('swept', 'SELECT coupon_hold_expire()'), '0', 'no hold is swept before the check');
is($node->safe_psql('swept', 'SELECT * FROM coupon_restored()'), '', 'nothing is missed');
is($node->safe_psql('swept', 'SELECT coupon_hold_expire()'), '1', 'it is swept afterwards');
$node->safe_psql('swept', q{
	UPDATE coupon.campaign SET dumped = '{1,0,5,0,1,1}' WHERE campaign_id = 1;
	DELETE FROM coupon.request_key;
	DELETE FROM coupon.lapsed_hold;
	INSERT INTO coupon.request_key SELECT c, '2020-01-01', 'u', 'k', 'issue', '{1}' FROM generate_series(1, 2) c;
	INSERT INTO coupon.lapsed_hold SELECT c, 1, '2020-01-01', 'u' FROM generate_series(1, 2) c});
$node->append_conf('postgresql.conf', "coupon.databases = 'swept'\n");
$node->restart;
await_true($node, 'swept', 'SELECT (SELECT count(*) FROM coupon.request_key WHERE campaign_id = 2) + (SELECT count(*) FROM coupon.lapsed_hold WHERE campaign_id = 2) = 0');
is($node->safe_psql('swept', q{SELECT count(*) FROM coupon.request_key UNION ALL SELECT count(*) FROM coupon.lapsed_hold}), "1\n1", 'nor are old keys and memories forgotten');

# a restore that is killed with its transaction open, as on a full disk
$node->safe_psql('postgres', 'CREATE DATABASE broken');
$node->safe_psql('broken', 'CREATE EXTENSION coupon');
isnt(sql_error($node, 'broken', "\\i $dir/inserts.sql\nSELECT 1/0"), '', 'a script that runs over what is there');
isnt($node->safe_psql('broken', 'SELECT count(*) FROM coupon_issue(1, $$new$$) WHERE status = $$issued$$'), '1', 'sells nothing twice');

# the original was never paused, and by hand nothing gets in that a restore may
is(answers('postgres'), 'issued held issued', 'the original goes on');
like(sql_error($node, 'postgres', q{INSERT INTO coupon.shard VALUES (99, 0, 1, 5)}), qr/23503/, 'no shard without its campaign');
like(sql_error($node, 'postgres', q{INSERT INTO coupon.unit VALUES (99, 1, 'x')}), qr/23503/, 'no label either');
like(sql_error($node, 'postgres', q{INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy) VALUES (99, 1, 0, 1, now(), 'm', 'issued', '{}')}),
	qr/23514/, 'nor an issuance');
like(sql_error($node, 'postgres', q{DELETE FROM coupon.campaign WHERE campaign_id = 1}), qr/23503/, 'and no campaign goes from under its shards');

$node->stop;
server_log_is_clean($node, 'restore');
done_testing();
