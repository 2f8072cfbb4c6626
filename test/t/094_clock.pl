# Ids of events rise whatever the clock does: set back over a restart, behind
# on a promoted standby; so does the order of a key on the broker.
use strict;
use warnings;

use CouponKafka;
use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $missing = kafka_tools_missing();
plan skip_all => $missing if $missing;

# A clock that is SHIFT seconds ahead for whoever preloads it.
my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/clock.c", <<'END');
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>
int
gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
	const char *shift = getenv("SHIFT");
	int			result = syscall(SYS_gettimeofday, tv, tz);

	tv->tv_sec += shift ? atol(shift) : 0;
	return result;
}
END
my $cc = $ENV{CC} // 'cc';
plan skip_all => "skipped: $cc makes no shared library"
  if system("$cc -shared -fPIC -o $dir/clock.so $dir/clock.c >$dir/cc.log 2>&1") != 0;

# start(node, seconds): with a clock that is so far ahead
sub start
{
	my ($node, $seconds) = @_;
	local $ENV{LD_PRELOAD} = join ':', $ENV{LD_PRELOAD} // (), "$dir/clock.so";
	local $ENV{SHIFT} = $seconds;

	$node->start;
	return;
}

my $broker = mock_broker(topics => { t => 12 });
my $node = PostgreSQL::Test::Cluster->new('clock');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', <<'END');
shared_preload_libraries = 'coupon'
max_worker_processes = 32
END
start($node, 7200);
$node->safe_psql('postgres', 'CREATE EXTENSION coupon');
cmp_ok($node->safe_psql('postgres', 'SELECT extract(epoch FROM now())'), '>', time + 7000, 'the clock is ahead');

my @events;

# emit(node): one more event of the key
sub emit
{
	my ($on) = @_;
	my $n = @events + 1;

	push @events, [ $on->safe_psql('postgres', qq{SELECT coupon_emit('t', 'k', 'numbered', '{"n": $n}')}), 't', 'k', $n ];
	return $events[-1][0];
}

sub rises
{
	my ($on, $what) = @_;
	my $before = $events[-1][0];

	return cmp_ok(emit($on), 'gt', $before, $what);
}

emit($node);
$node->stop;
start($node, 3600);
rises($node, 'the clock was set back by an hour and the server restarted');
rises($node, '... the next one, too');
$node->stop('immediate');
start($node, 1800);
rises($node, 'the same, and the server crashed');

# published ones leave nothing in the outbox, and still
$node->safe_psql('postgres', 'DELETE FROM coupon.outbox');
my @published = splice @events, 0, -1;
$node->stop;
start($node, 900);
rises($node, 'what is published and gone counts, too');

# another session, another database
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION coupon');
my $elsewhere = $node->safe_psql('other', q{SELECT coupon_emit('t', 'k', 'x', '{}')});
rises($node, 'after an event of another database');

# a standby with the right time
$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
start($standby, 0);
rises($node, 'while a standby follows');
$node->wait_for_catchup($standby);
$node->stop('immediate');
$standby->promote;
rises($standby, 'a promoted standby whose clock is behind');
shift @events;	# deleted above
is($standby->safe_psql('postgres', 'SELECT count(*) FROM coupon.outbox'), scalar(@events), 'it has all the events');

$standby->append_conf('postgresql.conf', "coupon.kafka_brokers = '" . $broker->bootstrap . q{'});
$standby->reload;
$standby->poll_query_until('postgres', 'SELECT unpublished = 0 FROM coupon_outbox_status()') or die 'not published';
events_arrived(\@events, consume($broker->bootstrap, 't'), 'and publishes in the order of the commits');

# ids do not run away from the clock with each session
$standby->stop;
start($standby, 14400);
emit($standby) for 1 .. 5;
my $ms = hex(substr($events[-1][0], 0, 8) . substr($events[-1][0], 9, 4));
cmp_ok($ms, '<', (time + 14400 + 2) * 1000, 'ids are at most a second ahead of the clock');

$standby->stop;
$broker->stop;
done_testing();
