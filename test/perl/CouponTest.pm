# What the process tests share: servers with coupon preloaded, polling with a
# deadline, and the checks that must hold whenever a server is quiet.
package CouponTest;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

our @EXPORT = qw(new_server poll_until sql_error settle conserved
  server_log_is_clean);

use constant PATIENCE => $PostgreSQL::Test::Utils::timeout_default;

# new_server(name, settings): a running server with coupon in "postgres"
sub new_server
{
	my ($name, $settings, %init) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(%init);
	$node->append_conf('postgresql.conf', <<"END" . ($settings // ''));
shared_preload_libraries = 'coupon'
restart_after_crash = on
log_statement = none
max_connections = 100
max_worker_processes = 32
shared_buffers = 32MB
END
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION coupon');
	return $node;
}

# poll_until(what, sub): waits for the sub to be true; dies when it never is
sub poll_until
{
	my ($what, $check) = @_;
	my $deadline = time + PATIENCE;

	until ($check->())
	{
		die "timed out: $what" if time > $deadline;
		select undef, undef, undef, 0.02;
	}
	return 1;
}

# sql_error(node, database, sql): everything psql says of a failing statement,
# SQLSTATE, DETAIL and HINT included; '' if it did not fail
sub sql_error
{
	my ($node, $database, $sql) = @_;
	my ($status, undef, $stderr) = $node->psql($database, "\\set VERBOSITY verbose\n$sql");

	return $status == 0 ? '' : $stderr;
}

# settle(node, database): until no other client is connected to the database
sub settle
{
	my ($node, $database) = @_;

	return $node->poll_query_until($database, q{
		SELECT count(*) = 0 FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND datname = current_database()
		  AND pid <> pg_backend_pid()});
}

# conserved(node, database, what): on a quiet server, each law of the engine
sub conserved
{
	my ($node, $database, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is($node->safe_psql($database, 'SELECT * FROM coupon_verify()'),
		'', "$what: coupon_verify finds nothing");

	is( $node->safe_psql($database, q{
			SELECT c.campaign_id, s.*, i.* FROM coupon.campaign c,
				LATERAL coupon_status(c.campaign_id) s,
				LATERAL (SELECT count(*) AS n FROM coupon.issuance i
						 WHERE i.campaign_id = c.campaign_id) i,
				LATERAL (SELECT coalesce(sum(last_serial - first_serial + 1), 0) AS n
						 FROM coupon.shard h WHERE h.campaign_id = c.campaign_id) u
			WHERE s.stock <> u.n OR s.issued + s.held <> i.n OR s.in_flight <> 0
			   OR s.issued + s.held + s.in_flight + s.remaining <> s.stock}),
		'', "$what: stock = issued + held + remaining, nothing in flight");
	return;
}

# The server's log holds no crash but the kills that the test itself did.
sub server_log_is_clean
{
	my ($node, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @bad = grep {
		/PANIC:|TRAP:|terminated by signal (?!9:)|WARNING:.*(leak|still referenced)|stuck spinlock|XX00\d/
	} split /\n/, slurp_file($node->logfile);

	is(join("\n", @bad[ 0 .. ($#bad > 9 ? 9 : $#bad) ]), '', "$what: nothing alarming in the server's log");
	return;
}

1;
