# The end of a sale: a campaign is archived while its units are redeemed and given back
# and another one is sold, and the call is killed again and again.  Whatever was
# acknowledged is in the archive, each unit once, and nothing is left behind.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', "coupon.databases = 'postgres'\n");
my $dir = PostgreSQL::Test::Utils::tempdir();
my $units = 30000;

$node->safe_psql('postgres', qq{
	CREATE TABLE archive (LIKE coupon.archived_issuance);
	CREATE TABLE gate (rows bigint);
	CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS \$\$
	BEGIN
		PERFORM pg_sleep(600) FROM gate WHERE rows < (SELECT count(*) FROM archive);
		RETURN NULL;
	END \$\$;
	CREATE TRIGGER wait_at_gate AFTER INSERT ON archive EXECUTE FUNCTION wait_at_gate();
	CREATE TABLE redeemed (user_id text);
	CREATE TABLE cancelled (user_id text);
	SELECT coupon_campaign_create('old', 0), coupon_campaign_create('new', 1000000);
	SELECT coupon_codes_generate(1, NULL, $units);
	SELECT count(*) FROM coupon_issue_many(1, ARRAY(SELECT 'u' || g FROM generate_series(1, $units) g));
	SELECT count(coupon_redeem(1, 'u' || g, 'before')) FROM generate_series(1, 500) g;
	SELECT coupon_campaign_close(1)});

# what redeeming says is noted in the same transaction
append_to_file("$dir/redeem.sql", <<"END");
\\set u random(501, $units)
\\set c random(1, 500)
INSERT INTO redeemed SELECT user_id FROM coupon_redeem(1, 'u' || :u, 'meanwhile') WHERE status = 'redeemed';
INSERT INTO cancelled SELECT user_id FROM coupon_redeem_cancel(1, 'u' || :c, 'before') WHERE status = 'cancelled';
SELECT coupon_issue(2, 'n' || random());
END
my ($stdout, $stderr) = ('', '');
my $load = IPC::Run::start(
	[ 'pgbench', '-n', '-c', '4', '-T', '600', '-f', "$dir/redeem.sql", $node->connstr('postgres') ],
	'<', \undef, '>', \$stdout, '2>', \$stderr);
await_true($node, 'postgres', 'SELECT count(*) > 50 FROM redeemed');

my $archiving = q{FROM pg_stat_activity WHERE query LIKE 'CALL coupon_campaign_archive%' AND pid <> pg_backend_pid()};
my $kills = 0;
for my $round (1 .. 4)
{
	my $archived = $node->safe_psql('postgres', 'SELECT count(*) FROM archive');
	my ($out, $err) = ('', '');
	# it does not get to the end before it is killed, however late that is
	$node->safe_psql('postgres', "TRUNCATE gate; INSERT INTO gate VALUES ($archived + 4000)");
	my $call = IPC::Run::start([ 'psql', '-X', '-d', $node->connstr('postgres'), '-c', q{CALL coupon_campaign_archive(1, 'archive')} ],
		'<', \undef, '>', \$out, '2>', \$err);

	poll_until('some of it', sub { $node->safe_psql('postgres', "SELECT count(*) > $archived FROM archive") eq 't' });
	$kills += $node->safe_psql('postgres', "SELECT count(pg_terminate_backend(pid)) $archiving");
	$call->finish;
}
$node->safe_psql('postgres', 'TRUNCATE gate');
cmp_ok($kills, '>=', 2, "the call was killed $kills times");
is($node->safe_psql('postgres', q{SELECT count(*), count(DISTINCT serial), (SELECT count(*) FROM coupon.issuance WHERE campaign_id = 1) FROM archive}) =~ /^(\d+)\|\1\|(\d+)$/ ? $1 + $2 : 'a row twice',
	$units, 'each unit is in the archive or in the campaign');
like($node->safe_psql('postgres', q{SELECT state FROM coupon.campaign_status WHERE campaign_id = 1}), qr/^ending$/, 'the status says that the end was begun');
my $finding = q{SELECT severity, detail, page FROM coupon_health() WHERE what = 'The end of a campaign was begun and is not done'};
is($node->safe_psql('postgres', $finding), '', 'health does not complain of a call that may be under way');
$node->safe_psql('postgres', q{UPDATE coupon.campaign SET archived_at = archived_at - interval '1 h' WHERE campaign_id = 1});
like($node->safe_psql('postgres', $finding), qr{^notice\|Campaign 1: .* 01:0.*\|doc/operations\.md#a-campaign-is-half-archived$}, 'and tells of one that was begun long ago');
is($node->safe_psql('postgres', q{SELECT * FROM coupon_verify(1)}), '', 'and breaks no law');

$load->signal('TERM');
$load->finish;
settle($node, 'postgres');
$node->stop('immediate');
$node->start;
$node->safe_psql('postgres', q{CALL coupon_campaign_archive(1, 'archive')});

is($node->safe_psql('postgres', q{SELECT count(*), count(DISTINCT serial), count(label), count(DISTINCT user_id) FROM archive}), "$units|$units|$units|$units", 'after a crash it goes on to the end');
is($node->safe_psql('postgres', q{
		SELECT count(*) FROM redeemed r LEFT JOIN archive a ON a.user_id = r.user_id AND a.state = 'redeemed' AND a.order_ref = 'meanwhile' WHERE a.serial IS NULL}),
	'0', 'who was told redeemed has it in the archive');
is($node->safe_psql('postgres', q{
		SELECT count(*) FROM archive a LEFT JOIN redeemed r USING (user_id)
		 WHERE a.state = 'redeemed' AND a.order_ref = 'meanwhile' AND r.user_id IS NULL}), '0', 'and nobody else');
is($node->safe_psql('postgres', q{
		SELECT count(*) FROM cancelled c JOIN archive a USING (user_id) WHERE a.state <> 'issued'}), '0', 'who gave one back has it in the archive, not redeemed');
is($node->safe_psql('postgres', q{
		SELECT (SELECT count(*) FROM coupon.campaign WHERE campaign_id = 1), (SELECT count(*) FROM coupon.shard WHERE campaign_id = 1),
			(SELECT count(*) FROM coupon.unit WHERE campaign_id = 1), (SELECT count(*) FROM coupon.issuance WHERE campaign_id = 1)}), '0|0|0|0', 'nothing is left of the campaign');
is($node->safe_psql('postgres', $finding), '', 'then health has nothing to tell');
is($node->safe_psql('postgres', q{SELECT type FROM coupon.outbox WHERE key = '1' AND type ~ 'campaign' ORDER BY id DESC LIMIT 1}), 'coupon.campaign_archived', 'and an event says so');
like(sql_error($node, 'postgres', q{SELECT coupon_issue(1, 'late')}), qr/UC001/, 'who comes late is told that there is no such campaign');
conserved($node, 'postgres', 'the other campaign');

# dropped, and what is refused
my $c = $node->safe_psql('postgres', q{SELECT coupon_campaign_create('dropped', 100)});
$node->safe_psql('postgres', qq{SELECT coupon_issue_many($c, '{a,b}'), coupon_hold($c, 99, 'h', '1 h')});
like(sql_error($node, 'postgres', "CALL coupon_campaign_drop($c)"), qr/55000.*coupon_campaign_close/s, 'not while it is open');
$node->safe_psql('postgres', "SELECT coupon_campaign_close($c)");
like(sql_error($node, 'postgres', "CALL coupon_campaign_drop($c)"), qr/55006/, 'not while a unit is held');
$node->safe_psql('postgres', qq{SELECT coupon_release($c, 99, 'h')});
like(sql_error($node, 'postgres', "BEGIN; CALL coupon_campaign_drop($c)"), qr/2D000/, 'not in a transaction block');
$node->safe_psql('postgres', 'CREATE ROLE keeper IN ROLE coupon_admin; CREATE ROLE other IN ROLE coupon_service');
like(sql_error($node, 'postgres', qq{SET ROLE keeper; CALL coupon_campaign_archive($c, 'archive')}), qr/42501.*table archive/s, 'a table is written with the rights of whoever calls');
like(sql_error($node, 'postgres', qq{SET ROLE other; CALL coupon_campaign_drop($c)}), qr/42501/, 'coupon_service may not');
is($node->safe_psql('postgres', qq{SELECT count(*) FROM coupon.issuance WHERE campaign_id = $c}), '2', 'nothing is gone yet');
is($node->safe_psql('postgres', qq{SET ROLE keeper; CALL coupon_campaign_drop($c)}), '', 'coupon_admin drops it');
is($node->safe_psql('postgres', q{SELECT count(*) FROM coupon.campaign}), '1', 'it is gone');
conserved($node, 'postgres', 'at the end');

# verify of one campaign reads no other rows
my $small = $node->safe_psql('postgres', q{SELECT coupon_campaign_create('small', 10)});
$node->safe_psql('postgres', qq{SELECT coupon_issue_many($small, '{a,b}'); SELECT pg_stat_reset()});
is($node->safe_psql('postgres', "SELECT * FROM coupon_verify($small)"), '', 'verify of one campaign');
await_true($node, 'postgres', q{SELECT idx_scan > 0 FROM pg_stat_user_tables WHERE relid = 'coupon.issuance'::regclass});
is($node->safe_psql('postgres', q{SELECT sum(seq_scan) FROM pg_stat_user_tables WHERE schemaname = 'coupon' AND relname IN ('issuance', 'unit', 'shard', 'lapsed_hold')}), '0', 'scans no table');

# and that of all does not take the square of the campaigns: each table is read a few times
$node->safe_psql('postgres', q{
	SELECT count(coupon_campaign_create('one of many', 10)) FROM generate_series(1, 300);
	SELECT count(coupon_issue(campaign_id, 'buyer')) FROM coupon.campaign WHERE name = 'one of many'});
for my $call ('coupon_verify()', 'coupon_restored()')
{
  SKIP:
	{
		skip 'skipped: no auto_explain (of PostgreSQL\'s contrib)', 3 unless -e config_data($node, '--pkglibdir') . '/auto_explain.so';
		my ($status, $out, $plans) = $node->psql('postgres', qq{
			UPDATE coupon.campaign SET dumped = '{0,0,0,0,0,0}' WHERE name = 'one of many';
			LOAD 'auto_explain';
			SET auto_explain.log_nested_statements = on;
			SET client_min_messages = log;
			BEGIN;
			SET LOCAL auto_explain.log_min_duration = 0;
			SELECT * FROM $call;
			SET LOCAL auto_explain.log_min_duration = -1;
			SELECT 'scans', coalesce(max(seq_scan), 0) FROM pg_stat_xact_user_tables WHERE schemaname = 'coupon'});

		like($plans, qr/Seq Scan on shard/, "$call: its plans are seen");
		unlike($plans, qr/Nested Loop/, "$call: no nested loop in them");
		like($out, qr/^scans\|(\d|[12]\d)$/, "$call: no table is read for each campaign");
	}
}

$node->stop;
server_log_is_clean($node, 'end of a sale');
done_testing();
