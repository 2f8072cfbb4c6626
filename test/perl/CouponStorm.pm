# A storm: sessions append numbered events, keys and commits in any order, a
# tenth rolled back, while the caller breaks things.  What was committed is in
# a table of its own, written by the same transactions.
package CouponStorm;

use strict;
use warnings;

use CouponKafka;
use CouponTest;
use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

our @EXPORT = qw(storm_prepare storm_start storm_is_over storm_end storm_committed publisher_pid
  kill_publisher nap);

sub nap { select undef, undef, undef, $_[0]; return }

# '' if there is none, or no server
sub publisher_pid
{
	my ($node) = @_;

	return try_sql($node, 'postgres', q{SELECT pid FROM pg_stat_activity
		WHERE backend_type = 'coupon publisher' AND datname = current_database()}) // '';
}

# kill_publisher(node): by SIGKILL; returns when the server has come up again,
# which it may not have begun to when the process is gone
sub kill_publisher
{
	my ($node) = @_;
	my $victim = '';

	poll_until('a victim', sub { ($victim = publisher_pid($node)) ne '' });
	kill 'KILL', $victim;
	poll_until('another publisher', sub { my $pid = publisher_pid($node); $pid ne '' && $pid ne $victim });
	return;
}

# storm_prepare(node, keys): the tables.  A key's row is locked until commit,
# so its numbers are in the order of the commits.
sub storm_prepare
{
	my ($node, $keys) = @_;

	$node->safe_psql('postgres', qq{
		CREATE TABLE counter (key int PRIMARY KEY, n int NOT NULL);
		INSERT INTO counter SELECT g, 0 FROM generate_series(1, $keys) g;
		CREATE TABLE committed (id uuid, key text, n int);
		CREATE FUNCTION append(k int) RETURNS void LANGUAGE sql BEGIN ATOMIC
			WITH c AS (UPDATE counter SET n = n + 1 WHERE key = k RETURNING n)
			INSERT INTO committed SELECT coupon_emit('storm', 'key-' || k, 'storm', jsonb_build_object('n', n)), 'key-' || k, n FROM c;
		END;});
	append_to_file($node->basedir . '/storm.sql', qq{
		\\set k random(1, $keys)
		\\set fate random(1, 10)
		BEGIN;
		SELECT append(:k);
		\\if :fate = 1
		ROLLBACK;
		\\else
		COMMIT;
		\\endif
	});
	return;
}

# storm_start(node, clients, seconds, rate): in the background, seconds * rate
# transactions; a machine that cannot do so many a second takes longer
sub storm_start
{
	my ($node, $clients, $seconds, $rate) = @_;
	my ($out, $err) = ('', '');
	my @command = ('pgbench', '-n', '-c', $clients, '-j', 2, '-t', int($seconds * $rate / $clients), '-R', $rate,
		'-f', $node->basedir . '/storm.sql', $node->connstr('postgres'));

	return IPC::Run::start(\@command, '<', \undef, '>', \$out, '2>', \$err);
}

sub storm_is_over { my ($storm) = @_; return !$storm->pumpable }
sub storm_end { my ($storm) = @_; return $storm->finish }

# storm_committed(node): as event_faults wants it
sub storm_committed
{
	my ($node) = @_;

	return [ map { my ($id, $key, $n) = split /\|/; [ $id, 'storm', $key, $n ] }
		  split /\n/, $node->safe_psql('postgres', 'SELECT * FROM committed') ];
}

1;
