# The roles belong to the cluster.  One that is there already is taken
# only if it is what CREATE EXTENSION would have made, and its members are named.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('roles');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'coupon'\ncoupon.databases = ''\n");
$node->start;

my @roles = qw(coupon_admin coupon_service coupon_reader coupon_user);

sub sql { return $node->safe_psql('postgres', $_[0]) }

# what CREATE EXTENSION says in a database, errors and warnings
sub create
{
	my ($database) = @_;
	my (undef, undef, $stderr) = $node->psql($database, "\\set VERBOSITY verbose\nCREATE EXTENSION coupon");

	# that no workers come is another test's business
	return $stderr =~ s/^psql:\S* WARNING:  55000: database "\w+" has no workers\n(?:DETAIL|HINT|LOCATION):.*\n//mr
	  =~ s/^(?:HINT:  Add "\w+" to coupon\.databases|LOCATION:  warn_of_unlisted,).*\n?//mgr;
}

sub forget
{
	sql('DROP EXTENSION IF EXISTS coupon');
	sql("DROP ROLE IF EXISTS $_") for @roles, 'clerk', 'team', 'mallory';
	return;
}

# ---- what is no plain group ----

for my $role (@roles)
{
	for my $attribute (qw(LOGIN SUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS))
	{
		sql("CREATE ROLE $role $attribute");
		my $said = create('postgres');
		like($said, qr/ERROR:  42710: role "$role" exists and is no plain group/, "$role $attribute is refused");
		like($said, qr/DETAIL:  It has $attribute\.\n/, 'and why');
		like($said, qr/HINT:  .*ALTER ROLE $role NOLOGIN/, 'and what to do');
		sql("ALTER ROLE $role NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS");
		is(create('postgres'), '', 'without it the role is taken');
		forget();
	}
}
is(sql(q{SELECT count(*) FROM pg_namespace WHERE nspname = 'coupon'}), '0', 'a refusal leaves nothing');

# a role of theirs with a password, made before the extension comes
sql('CREATE ROLE mallory CREATEROLE LOGIN');
$node->safe_psql('postgres', q{CREATE ROLE coupon_admin LOGIN PASSWORD 'x' CREATEROLE},
	connstr => $node->connstr('postgres') . ' user=mallory');
like(create('postgres'), qr/ERROR:  42710: .*\nDETAIL:  It has LOGIN, CREATEROLE\./, 'a role that somebody made to log in by is refused');
forget();

# ---- one that is another ----

sql('CREATE ROLE coupon_admin; CREATE ROLE coupon_service; GRANT coupon_admin TO coupon_service');
like(create('postgres'), qr/ERROR:  42710: role "coupon_service" is a member of role "coupon_admin"/, 'a service that is an admin is refused');
forget();
sql('CREATE ROLE coupon_admin; CREATE ROLE coupon_reader; CREATE ROLE team; GRANT coupon_admin TO team; GRANT team TO coupon_reader');
like(create('postgres'), qr/ERROR:  42710: role "coupon_reader" is a member of role "coupon_admin"/, 'by way of another role, too');
forget();

# ---- members ----

sql('CREATE ROLE clerk; CREATE ROLE team; CREATE ROLE coupon_admin; CREATE ROLE coupon_service; GRANT coupon_admin TO clerk; GRANT coupon_admin TO team WITH ADMIN OPTION');
my $said = create('postgres');
like($said, qr/WARNING:  01000: role "coupon_admin" exists already, and its members have its rights in this database, too/, 'members are named');
like($said, qr/DETAIL:  Members: clerk, team \(may grant it\)\./, 'each of them');
like($said, qr/HINT:  REVOKE coupon_admin FROM/, 'and what to do');
unlike($said, qr/coupon_service|coupon_reader|ERROR/, 'a role without members needs no word');
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_extension WHERE extname = \'coupon\''), '1', 'the extension is there');

# ---- a second database, and a restored one ----

sql('CREATE DATABASE second');
like(create('second'), qr/^(?!.*ERROR).*WARNING:.*"coupon_admin"/s, 'the same roles in a second database');
sql('REVOKE coupon_admin FROM clerk, team');
sql('CREATE DATABASE third');
is(create('third'), '', 'without members not a word');
sql('GRANT coupon_admin TO clerk');
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('postgres') ], 'dump');
sql('CREATE DATABASE restored');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('restored'), $dump ], 'restore beside the original, with members');

# all roles and their members, then the database, as into a new cluster
my $roles = PostgreSQL::Test::Utils::tempdir() . '/roles.sql';
$node->command_ok([ 'pg_dumpall', '--roles-only', '-f', $roles, '-d', $node->connstr('postgres') ], 'pg_dumpall --roles-only');
my $other = PostgreSQL::Test::Cluster->new('other');
$other->init;
$other->append_conf('postgresql.conf', "shared_preload_libraries = 'coupon'\ncoupon.databases = ''\n");
$other->start;
$other->command_ok([ 'psql', '-X', '-q', '-f', $roles, $other->connstr('postgres') ], 'the roles in a new cluster');
$other->command_ok([ 'pg_restore', '--exit-on-error', '-d', $other->connstr('postgres'), $dump ], 'the database in a new cluster');
is($other->safe_psql('postgres', q{SELECT pg_has_role('clerk', 'coupon_admin', 'MEMBER')}), 't', 'with its members');
$other->stop;

# ---- two databases at once ----

sql("DROP DATABASE $_") for qw(second third restored);
forget();
sql("CREATE DATABASE $_") for qw(second third);
my $first = $node->background_psql('second');
$first->query_safe('SET client_min_messages = error; BEGIN; CREATE EXTENSION coupon');
$said = '';
my $wait = IPC::Run::start(
	[ 'psql', '-XAtq', '-d', $node->connstr('third'), '-c', 'SET client_min_messages = error', '-c', 'CREATE EXTENSION coupon' ], '<', \undef, '>', \$said, '2>&1');
poll_until('the second to wait', sub {
	sql(q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'third' AND wait_event_type = 'Lock'}) eq '1' });
$first->query_safe('COMMIT');
$first->quit;
$wait->finish;
is($said, '', 'who makes the roles at the same time takes those of the other');
is($node->safe_psql('third', q{SELECT count(*) FROM pg_extension WHERE extname = 'coupon'}), '1', 'and has the extension');

# ---- what only the admin sees ----

for my $table (qw(request_key request outbox dead_letter ticket))
{
	like(sql_error($node, 'third', "SET ROLE coupon_reader; SELECT * FROM coupon.$table"), qr/permission denied for table $table/, "coupon_reader does not read coupon.$table");
}

$node->stop;
server_log_is_clean($node, 'roles');
done_testing();
