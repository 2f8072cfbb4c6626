# What happens to one worker, table or campaign is not the others' trouble:
# cancelled workers, a launcher that is restarted, locks, campaigns that cannot
# be swept.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', <<'END');
coupon.databases = 'postgres, later'
coupon.sweep_interval = 50ms
coupon.group_workers = 2
log_min_messages = debug1
END

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub log_offset { return -s $node->logfile; }

# the workers of a database and their pids, by kind
sub workers
{
	my ($database) = @_;

	return sql(qq{
		SELECT coalesce(string_agg(backend_type || ' ' || pid, ', ' ORDER BY backend_type, pid), '') FROM pg_stat_activity
		WHERE datname = '$database' AND backend_type LIKE 'coupon %'});
}

sub count_workers
{
	my ($database) = @_;

	return scalar split /, /, workers($database);
}

sub launcher { return sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon launcher'}); }

poll_until('six workers', sub { count_workers('postgres') == 6 });
sql(q{
	SELECT coupon_campaign_create('sale', 1000000, policy => '{"usage_period_days": 1}');
	SELECT coupon_room_create('room', 1000000)});

my $users = 0;

# each kind of worker does what it is for (the publisher has no broker here)
sub work
{
	my ($what, @kinds) = @_;
	my $user = 'u' . ++$users;

	for my $kind (@kinds)
	{
		if ($kind eq 'sweeper')
		{
			sql(qq{SELECT coupon_issue(1, '$user');
				UPDATE coupon.issuance SET expires_at = now() - interval '1 s' WHERE user_id = '$user'});
			poll_until("$what: sweeper", sub { sql(qq{SELECT state FROM coupon.issuance WHERE user_id = '$user'}) eq 'expired' });
		}
		elsif ($kind eq 'issuer')
		{
			sql(qq{SELECT coupon_request(1, 'r$user')});
			poll_until("$what: issuer", sub { sql(qq{SELECT count(*) FROM coupon.issuance WHERE user_id = 'r$user'}) eq '1' });
		}
		elsif ($kind eq 'group')
		{
			poll_until("$what: group", sub { sql(qq{SELECT status FROM coupon_issue_grouped(1, 'g$user')}) =~ /issued/ });
		}
		else
		{
			sql(qq{SELECT coupon_queue_join('room', '$user')});
			poll_until("$what: room", sub { sql(qq{SELECT admitted_at IS NOT NULL FROM coupon.ticket WHERE user_id = '$user'}) eq 't' });
		}
	}
	pass("$what: @kinds");
	return;
}

work('undisturbed', qw(sweeper issuer room group));

# cancelling is for queries; a worker that waits has none
my $before = workers('postgres');
for my $round (1 .. 3)
{
	sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'coupon %'});
	work("cancelled, round $round", qw(sweeper issuer room group));
}
is(workers('postgres'), $before, 'a worker that is cancelled while it waits stays');

# a launcher that is started anew knows who runs: it starts nobody twice
my $offset = log_offset();
my $old_launcher = launcher();
sql("SELECT pg_terminate_backend($old_launcher)");
poll_until('a new launcher', sub { my $new = launcher(); $new && $new ne $old_launcher });
sql('CREATE DATABASE later');
poll_until('the new launcher has looked', sub { count_workers('later') == 6 });
is(workers('postgres'), $before, 'the workers of the old launcher run on');
unlike(slurp_file($node->logfile, $offset), qr/(registering|starting) background worker.*coupon \w+( worker)? postgres"/,
	'the new launcher starts no second ones');
$node->safe_psql('later', 'CREATE EXTENSION coupon');

# and stops those that the settings no longer want
$node->append_conf('postgresql.conf', 'coupon.group_workers = 1');
$node->reload;
poll_until('one worker for groups', sub { count_workers('postgres') == 5 });
pass('a new launcher stops a worker too many that the old one started');
$old_launcher = launcher();
$node->append_conf('postgresql.conf', q{coupon.databases = 'postgres'});
sql("SELECT pg_terminate_backend($old_launcher), pg_reload_conf()");
poll_until('no worker for a database off the list', sub { count_workers('later') == 0 });
pass('a database taken off the list while the launcher is restarted loses its workers');
is(count_workers('postgres'), 5, 'and the other one keeps its own');

# a lock on a table is in the way of those who use it
my $session = $node->background_psql('postgres');
$session->query_safe('BEGIN; LOCK TABLE coupon.campaign, coupon.issuance, coupon.lapsed_hold, coupon.outbox, coupon.request IN ACCESS EXCLUSIVE MODE');
work('the tables of the sale are locked', 'room');
$session->query_safe('COMMIT; BEGIN; LOCK TABLE coupon.room, coupon.ticket, coupon.dead_letter IN ACCESS EXCLUSIVE MODE');
work('those of rooms and dead letters are locked', qw(sweeper issuer group));
$session->query_safe('COMMIT; BEGIN; LOCK TABLE coupon.request IN ACCESS EXCLUSIVE MODE');
work('those of requests are locked', qw(sweeper room group));
$session->query_safe('COMMIT');
$session->quit;
work('no table is locked', qw(sweeper issuer room group));

# who is to go goes, though its last act is an ERROR
sql('ALTER TABLE coupon.outbox_1 ADD COLUMN mine integer');
my $publisher = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon publisher' AND datname = 'postgres'});
sql("SELECT pg_terminate_backend($publisher)");
poll_until('a publisher ends though its table is refused', sub { sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $publisher") eq '0' });
pass('a publisher ends though its table is refused');
sql('ALTER TABLE coupon.outbox_1 DROP COLUMN mine');

conserved($node, 'postgres', 'in the end');
$node->stop;
done_testing();
