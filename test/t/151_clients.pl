# The programs of examples/clients: each driver with its defaults, straight to the
# server and through PgBouncer in transaction mode. What they print is what
# doc/clients.md promises.
use strict;
use warnings;

use CouponNginx qw(free_port);
use CouponTest;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', "listen_addresses = '127.0.0.1'\n");
my $port = $node->port;
$node->append_conf('pg_hba.conf', "host all all 127.0.0.1/32 trust\n");
$node->reload;

sub sql { return $node->safe_psql('postgres', shift) }

poll_until('workers', sub { (try_sql($node, 'postgres', 'SELECT workers FROM coupon_group_status()') // '') eq '1' });
sql('CREATE ROLE shop LOGIN; GRANT coupon_service TO shop');

my $common = <<'END';
issue issued
the same key issued same
bigint issued
uuid issued
many issued issued
many numbers issued issued
prepared issued
hold held confirmed
request issued
grouped issued
END
my %grouped = ('psycopg_client.py' => 'pipeline', 'sqlalchemy_client.py' => 'transaction');
my @programs = (
	[ python => 'psycopg_client.py' ], [ python => 'asyncpg_client.py' ], [ python => 'sqlalchemy_client.py' ],
	[ node => 'node_postgres.js' ], [ go => 'pgx' ], [ java => 'Client.java' ]);

# run_program(program, port): what it prints; its errors, if it fails
sub run_program
{
	my ($program, $where) = @_;
	my $campaign = sql(q{SELECT coupon_campaign_create('clients', 1000, 5)});
	my ($output, $errors) = ('', '');

	{
		local @ENV{qw(PGHOST PGPORT PGUSER PGDATABASE)} = ('127.0.0.1', $where, 'shop', 'postgres');
		IPC::Run::run([ 'test/bin/client_tools', 'run', $program, $campaign ], '<', \undef, '>', \$output, '2>', \$errors)
			or $output .= $errors;
	}
	is(sql(qq{SELECT count(*) FROM coupon.issuance WHERE campaign_id = $campaign AND user_id LIKE 'batched%'}), '0', "$program: what was refused issued nothing");
	return $output;
}

sub expected
{
	my ($program) = @_;
	my $lines = $common;

	$lines =~ s/^(the same key .*\n)/$1a lost connection issued same\n/m if $program eq 'psycopg_client.py';
	return $lines . 'grouped in a ' . ($grouped{$program} // 'batch') . " 25001\n";
}

# PgBouncer keeps no prepared statements of clients before 1.21
my ($pooler, $pooler_keeps);
my $pooler_port = free_port();
$ENV{PATH} .= ':/usr/sbin';
my ($version) = (`pgbouncer --version 2>/dev/null` // '') =~ /(PgBouncer \S+)/;
if (($version // '') =~ / (\d+)\.(\d+)/)
{
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $keeps = $1 > 1 || $2 >= 21;

	append_to_file("$dir/pgbouncer.ini", <<"END");
[databases]
postgres = host=127.0.0.1 port=$port dbname=postgres user=shop
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $pooler_port
unix_socket_dir =
auth_type = any
pool_mode = transaction
ignore_startup_parameters = extra_float_digits
END
	append_to_file("$dir/pgbouncer.ini", "max_prepared_statements = 100\n") if $keeps;
	$pooler = IPC::Run::start([ 'pgbouncer', "$dir/pgbouncer.ini" ], '<', \undef, '>', \my $out, '2>', \my $err);
	poll_until('PgBouncer', sub {
		$pooler->pump_nb;
		die "pgbouncer: $err" unless $pooler->pumpable;
		return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $pooler_port);
	});
	$pooler_keeps = $keeps;
}

for (@programs)
{
	my ($language, $program) = @$_;
	my $missing = `test/bin/client_tools available $language`;

	SKIP: {
		skip $missing =~ s/^skipped: //r =~ s/\n//r, 4 if $missing;
		is(run_program($program, $port), expected($program), $program);
		skip 'no PgBouncer', 2 unless $pooler;
		local $ENV{POOLER} = 1 unless $pooler_keeps;
		my $lines = expected($program);
		is(run_program($program, $pooler_port), $lines, "$program through $version");
	}
}

$pooler->kill_kill if $pooler;
conserved($node, 'postgres', 'clients');
$node->stop;
done_testing();
