# What the process tests share: servers with coupon preloaded, polling with a
# deadline, and the checks that must hold whenever a server is quiet.
package CouponTest;

use strict;
use warnings;

use Exporter 'import';
use InitdbTemplate;
use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

our @EXPORT = qw(new_server server_of config_data load_example poll_until within try_sql await_true kill_and_recover
  sql_error settle conserved alone_seconds cpu_seconds reload alter_system server_log_is_clean);

# How long a test waits for what must come; PG_TEST_TIMEOUT_DEFAULT sets it.
use constant PATIENCE => $PostgreSQL::Test::Utils::timeout_default;

# Some minor releases of PostgreSQL 16 leave a newline at the end of what a
# background session answers.
{
	my $query = PostgreSQL::Test::BackgroundPsql->can('query');

	no warnings 'redefine';
	*PostgreSQL::Test::BackgroundPsql::query = sub {
		my @answer = wantarray ? $query->(@_) : scalar $query->(@_);

		$answer[0] =~ s/\n\z//;
		return wantarray ? @answer : $answer[0];
	};
}

# server_of(name, installation): a server that is not there yet; of the
# installation that all tests use, if none is given.  The new() of PostgreSQL
# 14 takes "install_path" for a host.
sub server_of
{
	my ($name, $install_path) = @_;
	my $class = 'PostgreSQL::Test::Cluster';
	my $new = $class->can('get_new_node') ? 'get_new_node' : 'new';

	return defined $install_path ? $class->$new($name, install_path => $install_path) : $class->new($name);
}

# new_server(name, settings): a running server with coupon in "postgres"; of
# another installation, if an install_path is given
sub new_server
{
	my ($name, $settings, %init) = @_;
	my $node = server_of($name, delete $init{install_path});

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

# config_data(node, option): what the pg_config of its installation says; that
# of PostgreSQL 14's nodes cannot be asked
sub config_data
{
	my ($node, $option) = @_;
	my $bin = defined $node->{_install_path} ? "$node->{_install_path}/bin/" : '';

	chomp(my $answer = `${bin}pg_config $option`);
	return $answer;
}

# load_example(node, database, file, psql's options): runs a file of examples/
sub load_example
{
	my ($node, $database, $file, @options) = @_;

	PostgreSQL::Test::Utils::system_or_bail('psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', @options,
		'-d', $node->connstr($database), '-f', "examples/$file");
	return;
}

# poll_until(what, sub): waits for the sub to be true; dies when it never is.
# What takes longer is asked for less often: each look costs, mostly a psql.
sub poll_until
{
	my ($what, $check) = @_;
	my $begun = time;

	until ($check->())
	{
		my $waited = time - $begun;

		die "timed out: $what" if $waited > PATIENCE;
		select undef, undef, undef, $waited < 1.6 ? 0.02 + $waited / 20 : 0.1;
	}
	return 1;
}

# within(seconds): how long something may take that takes less than so many
# seconds on an idle machine.  The machine of a test may be ten times slower.
sub within
{
	my ($seconds) = @_;

	return $seconds * PATIENCE / 18;
}

# reload(node, settings, check): more settings for a server, which reads them;
# waits for the check, if there is one, to be true
sub reload
{
	my ($node, $settings, $check) = @_;

	$node->append_conf('postgresql.conf', $settings);
	$node->reload;
	poll_until('the reload', $check) if $check;
	return;
}

# alter_system(node, settings): name => value, which the server reads
sub alter_system
{
	my ($node, %settings) = @_;

	$node->safe_psql('postgres', "ALTER SYSTEM SET $_ = '$settings{$_}'") for keys %settings;
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
	return;
}

# try_sql(node, database, sql): what the SQL answers; undef when it fails, or
# when there is no server to ask
sub try_sql
{
	my ($node, $database, $sql) = @_;

	# psql may be gone before it has read what it is to do, which is a die
	my ($status, $answer) = eval { $node->psql($database, $sql) };

	return defined $status && $status == 0 ? $answer : undef;
}

# await_true(node, database, query): waits until it answers "t"; dies when it
# never does
sub await_true
{
	my ($node, $database, $query) = @_;

	return poll_until($query, sub { (try_sql($node, $database, $query) // '') eq 't' });
}

# kill_and_recover(node, pid): kill -9 of one of its processes, and waits until
# the server has noticed that, restarted its other processes and recovered.
# That it answers would not tell: it may not have noticed yet.
sub kill_and_recover
{
	my ($node, $pid) = @_;
	my $checkpointer = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'};
	my $before = $node->safe_psql('postgres', $checkpointer);

	kill 'KILL', $pid or die "kill -9 $pid: $!";
	return poll_until('recovery after kill -9', sub { (try_sql($node, 'postgres', $checkpointer) || $before) ne $before });
}

# alone_seconds(node, campaign, times): the median of how long one waits for
# what becomes of a request when nobody else asks, one after another
sub alone_seconds
{
	my ($node, $campaign, $times) = @_;
	my ($n, $median) = split /\|/, $node->safe_psql('postgres', qq{
		CREATE TABLE alone (took numeric);
		CREATE PROCEDURE ask() LANGUAGE plpgsql AS \$\$
		DECLARE
			id uuid;
			begun timestamptz;
			outcome text;
		BEGIN
			FOR i IN 1 .. $times LOOP
				SELECT request_id INTO id FROM coupon_request($campaign, 'asked ' || i);
				begun := clock_timestamp();
				COMMIT;
				SELECT w.outcome INTO outcome FROM coupon_request_wait(id, '@{[ PATIENCE ]} s') w;
				INSERT INTO alone SELECT extract(epoch FROM clock_timestamp() - begun) WHERE outcome = 'issued';
			END LOOP;
		END \$\$;
		CALL ask();
		DROP PROCEDURE ask();
		SELECT count(took), round(percentile_disc(0.5) WITHIN GROUP (ORDER BY took), 3) FROM alone;
		DROP TABLE alone});

	die "of $times who asked alone $n are known to be issued a unit" if $n < $times;
	return $median;
}

# cpu_seconds(node, sql): what the statement costs its own process, however busy
# the machine is
sub cpu_seconds
{
	my ($node, $sql) = @_;
	my $spent = q{(split_part(pg_read_file('/proc/self/schedstat'), ' ', 1)::numeric / 1e9)};

	return $node->safe_psql('postgres', qq{
		SELECT $spent AS before \\gset
		$sql \\g /dev/null
		SELECT round($spent - :before, 4)});
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

	return await_true($node, $database, q{
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
			WHERE s.stock <> u.n - c.withdrawn - c.away OR s.issued + s.held <> i.n OR s.in_flight <> 0
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
		/PANIC:|TRAP:|terminated by signal (?!9:)|WARNING:.*(leak|still referenced)|stuck spinlock|XX00\d|\(null\)/
	} split /\n/, slurp_file($node->logfile);

	is(join("\n", @bad[ 0 .. ($#bad > 9 ? 9 : $#bad) ]), '', "$what: nothing alarming in the server's log");
	return;
}

1;
