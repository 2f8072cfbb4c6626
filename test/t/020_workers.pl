# The launcher and the sweepers: they come, come back, follow the settings,
# do their work, and stand in nobody's way.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('main', <<'END');
coupon.databases = 'postgres, app, not_there'
coupon.sweep_interval = 50ms
END
$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', 'CREATE EXTENSION coupon');

sub sweepers
{
	return $node->safe_psql('postgres', q{
		SELECT coalesce(string_agg(datname, ',' ORDER BY datname), '') FROM pg_stat_activity
		WHERE backend_type = 'coupon sweeper'});
}

sub pid_of
{
	my ($type, $database) = @_;

	return $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity
		WHERE backend_type = '$type'" . ($database ? " AND datname = '$database'" : ''));
}

# A due issuance in a database, and whether a sweeper has seen to it.
sub make_due
{
	my ($database) = @_;

	$node->safe_psql($database, q{
		SELECT coupon_campaign_create('due', 3, policy => '{"usage_period_days": 1}') AS c \gset
		SELECT coupon_issue(:c, 'late'), coupon_issue(:c, 'used'), coupon_issue(:c, 'early');
		SELECT coupon_redeem(:c, 'used', 'order');
		UPDATE coupon.issuance SET expires_at = now() - interval '1 second'
		WHERE campaign_id = :c AND user_id IN ('late', 'used')});
	return;
}

sub swept
{
	my ($database) = @_;

	return $node->safe_psql($database, q{
		SELECT count(*) = 0 FROM coupon.issuance WHERE state = 'issued' AND expires_at < now()}) eq 't';
}

poll_until('sweepers', sub { sweepers() eq 'app,postgres' });
is(sweepers(), 'app,postgres', 'one sweeper for each listed database that exists');
isnt(pid_of('coupon launcher'), '', 'the launcher shows itself');
is( $node->safe_psql('postgres', q{
		SELECT string_agg(DISTINCT application_name, ',' ORDER BY application_name) FROM pg_stat_activity
		WHERE backend_type LIKE 'coupon %'}),
	'coupon group,coupon issuer,coupon launcher,coupon publisher,coupon room worker,coupon sweeper', 'by application_name too');

# work
make_due($_) for qw(postgres app);
poll_until("expiry in $_", sub { swept($_) }) for qw(postgres app);
for my $database (qw(postgres app))
{
	is( $node->safe_psql($database, q{
			SELECT user_id, state FROM coupon.issuance ORDER BY user_id}),
		"early|issued\nlate|expired\nused|redeemed", "$database: what was due has expired");
	is( $node->safe_psql($database, q{
			SELECT type, count(*) FROM coupon.outbox WHERE type = 'coupon.expired' GROUP BY 1}),
		'coupon.expired|1', "$database: with one event");
	conserved($node, $database, "$database after the sweep");
}

# no snapshot is held while it waits, and no transaction is open
ok( $node->poll_query_until('postgres', q{
		SELECT bool_and(backend_xmin IS NULL AND backend_xid IS NULL AND xact_start IS NULL)
		FROM pg_stat_activity WHERE backend_type LIKE 'coupon %'}),
	'idle workers hold no snapshot');

# it comes back: asked to stop, and killed (which restarts the server)
for my $type ('coupon sweeper', 'coupon launcher')
{
	my $database = $type eq 'coupon sweeper' ? 'app' : '';
	my $old = pid_of($type, $database);

	is($node->safe_psql('postgres', "SELECT pg_terminate_backend($old)"), 't', "$type terminated");
	poll_until("$type again", sub { my $new = pid_of($type, $database); $new && $new ne $old });
	pass("$type came back");
}
poll_until('sweepers', sub { sweepers() eq 'app,postgres' });
make_due('app');
poll_until('expiry after termination', sub { swept('app') });
pass('and works');

my $victim = pid_of('coupon sweeper', 'app');
kill_and_recover($node, $victim);
poll_until('sweeper after a kill', sub { (pid_of('coupon sweeper', 'app') || $victim) ne $victim });
make_due('app');
poll_until('expiry after a kill', sub { swept('app') });
pass('sweeper came back from kill -9 and works');

# an ERROR in a cycle does not end it: the sweeper's query fails as long as a
# trigger says so
$node->safe_psql('app', q{
	CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN RAISE 'not now'; END $$;
	CREATE TRIGGER refuse BEFORE UPDATE OF state ON coupon.issuance
		FOR EACH ROW WHEN (NEW.state = 'expired') EXECUTE FUNCTION refuse()});
my $log_start = -s $node->logfile;
make_due('app');
my $worker = pid_of('coupon sweeper', 'app');
SKIP:
{
	# a core that writes the table itself fires no triggers
	skip 'the sweeper fires no triggers', 1 if poll_until('error or expiry',
		sub { swept('app') || slurp_file($node->logfile, $log_start) =~ /not now/ }) && swept('app');
	is(pid_of('coupon sweeper', 'app'), $worker, 'the sweeper survives an ERROR');
}
$node->safe_psql('app', 'DROP FUNCTION refuse() CASCADE');
poll_until('expiry after the error', sub { swept('app') });
pass('and goes on');

# DROP and CREATE EXTENSION while it works; the new sale does not see the old maps
$node->safe_psql('app', q{
	SELECT coupon_campaign_create('old', 5);
	SELECT coupon_issue_many((SELECT max(campaign_id) FROM coupon.campaign), '{a,b,c,d,e,f}'::text[])});
my $session = $node->background_psql('app');
$session->query_safe(q{SELECT status FROM coupon_issue(1, 'x')});
for my $round (1 .. 3)
{
	$node->safe_psql('app', qq{
		SET lock_timeout = '@{[ CouponTest::PATIENCE ]}s';
		DROP EXTENSION coupon;
		CREATE EXTENSION coupon;
		SELECT coupon_campaign_create('new', 5)});
	is( $session->query_safe(q{SELECT string_agg(status, ',') FROM coupon_issue_many(1, '{a,b,c,d,e,f}'::text[])}),
		'issued,issued,issued,issued,issued,sold_out', "round $round: a new sale after CREATE EXTENSION");
	is($session->query_safe('SELECT answered_issued, answered_sold_out FROM coupon_status(1)'),
		'5|1', "round $round: with counters of its own");
}
$session->quit;
make_due('app');
poll_until('expiry in the new extension', sub { swept('app') });
pass('the sweeper found the new tables');
$node->safe_psql('app', 'DROP EXTENSION coupon');
$node->safe_psql('app', 'CREATE SCHEMA shop; CREATE EXTENSION coupon WITH SCHEMA shop');
$node->safe_psql('app', q{
	SET search_path = shop, public;
	SELECT coupon_campaign_create('due', 3, policy => '{"usage_period_days": 1}') AS c \gset
	SELECT coupon_issue(:c, 'late');
	UPDATE coupon.issuance SET expires_at = now() - interval '1 second'});
poll_until('expiry, extension in another schema', sub { swept('app') });
pass('the sweeper works with the functions in another schema');
$node->safe_psql('app', 'DROP EXTENSION coupon; DROP SCHEMA shop; CREATE EXTENSION coupon');

# databases: copied, renamed, dropped, made anew while a sweeper is at work
make_due('app');
poll_until('sweepers', sub { sweepers() eq 'app,postgres' });
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE app');
is($node->safe_psql('copy', 'SELECT count(*) FROM coupon.issuance'), '3', 'CREATE DATABASE ... TEMPLATE');
is($node->safe_psql('copy', q{SELECT status FROM coupon_issue(1, 'someone')}),
	'sold_out', 'the copy has its own stock map');
$node->safe_psql('postgres', 'ALTER DATABASE app RENAME TO app2');
pass('ALTER DATABASE ... RENAME');
poll_until('no sweeper for a name that is gone', sub { sweepers() eq 'postgres' });
$node->safe_psql('postgres', 'ALTER DATABASE app2 RENAME TO app');
poll_until('sweepers', sub { sweepers() eq 'app,postgres' });
for my $round (1 .. 3)
{
	my $start = time;

	poll_until('sweepers', sub { sweepers() eq 'app,postgres' });
	$node->safe_psql('postgres', 'DROP DATABASE app');
	cmp_ok(time - $start, '<', within(5), "round $round: DROP DATABASE");
	$node->safe_psql('postgres', 'CREATE DATABASE app');
}
$node->safe_psql('app', 'CREATE EXTENSION coupon');
make_due('app');
poll_until('expiry in the new database', sub { swept('app') });
pass('the sweeper works in the new database');

# settings change at SIGHUP
$node->append_conf('postgresql.conf', "coupon.sweep_interval = '1h'\ncoupon.databases = 'copy'");
$node->reload;
poll_until('databases by SIGHUP', sub { sweepers() eq 'copy' });
await_true($node, 'postgres', q{
	SELECT state = 'idle' FROM pg_stat_activity WHERE backend_type = 'coupon sweeper'});
pass('SIGHUP: sweepers follow coupon.databases');
make_due('copy');
ok(!swept('copy'), 'SIGHUP: a sweep an hour leaves what is due');
$node->append_conf('postgresql.conf', "coupon.sweep_interval = '20ms'");
$node->reload;
poll_until('interval by SIGHUP', sub { swept('copy') });
pass('SIGHUP: the sweeper follows coupon.sweep_interval');
$node->append_conf('postgresql.conf', "coupon.databases = ''");
$node->reload;
poll_until('no databases', sub { sweepers() eq '' });
pass('SIGHUP: no databases, no sweepers');

# whatever role sessions of a database begin with; and none for one that is half dropped
make_due('app');
my $log = -s $node->logfile;
$node->safe_psql('postgres', $_) for 'CREATE ROLE nobody', 'ALTER DATABASE app SET role = nobody', 'CREATE DATABASE half',
  q{UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'half'};
$node->append_conf('postgresql.conf', "coupon.databases = 'half,postgres,copy,app'");
$node->reload;
poll_until('all databases', sub { sweepers() eq 'app,copy,postgres' });
$node->safe_psql('postgres', 'ALTER DATABASE app RESET role');
poll_until('expiry in a database with a role of its own', sub { swept('app') });
pass('workers are nobody but themselves');
unlike(slurp_file($node->logfile, $log), qr/invalid database/, 'a database whose DROP DATABASE was interrupted gets no workers');
$node->safe_psql('postgres', 'DROP DATABASE half');

# a fast shutdown, in the middle of work
make_due('app');
my $start = time;
$node->stop('fast');
cmp_ok(time - $start, '<', within(5), 'fast shutdown');
$node->start;
poll_until('expiry after restart', sub { swept('app') });
conserved($node, 'app', 'after restart');

$node->stop;
server_log_is_clean($node, 'workers');
done_testing();
