# The edge of the front's parser: thousands of mutated requests are answered 2xx
# or 4xx, nothing of the inside is told, and the worker is the same afterwards:
# the same process, of the same size, with no connection left.
#
# COUPON_TEST_SEED repeats a run, COUPON_TEST_REQUESTS makes it longer.
use strict;
use warnings;

use CouponNginx qw(free_port);
use CouponTest;
use HTTP::Tiny;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $json = JSON::PP->new->allow_nonref->utf8;
my $requests = $ENV{COUPON_TEST_REQUESTS} || 10000;
my $seed = $ENV{COUPON_TEST_SEED} || time ^ $$ << 8;
$seed = int($seed) & 0x7fffffff;
diag("COUPON_TEST_SEED=$seed");

my $port = free_port();
my $node = new_server('front_fuzz', <<"END");
coupon.http_listen = '127.0.0.1:$port'
coupon.http_role = 'coupon_service'
coupon.http_access_log = 0.001
coupon.http_idle_timeout = 3s
coupon.http_request_timeout = 3s
END
my $http = HTTP::Tiny->new(timeout => CouponTest::PATIENCE, keep_alive => 0);

sub sql { return $node->safe_psql('postgres', shift) }
sub status { my ($path) = @_; return $http->get("http://127.0.0.1:$port$path")->{status} }

# something for each kind of route; a plain function with all kinds of types
sql(q{
	SELECT coupon_campaign_create('one', 100000);
	SELECT coupon_campaign_create('two', 3);
	SELECT coupon_campaign_create('three', 100000);
	SELECT coupon_campaign_create('four', 100000);
	SELECT coupon_room_create('hall', 10);
	CREATE FUNCTION anything(name text, n integer DEFAULT 0, d date DEFAULT NULL, j jsonb DEFAULT NULL, tags text[] DEFAULT '{}', m numeric DEFAULT 0, user_id text DEFAULT '')
	RETURNS json STABLE LANGUAGE sql AS $$ SELECT json_build_object('name', name, 'n', n, 'd', d, 'j', j, 'tags', tags, 'path', current_setting('request.path'), 'headers', current_setting('request.headers')::json) $$;
	GRANT EXECUTE ON FUNCTION anything TO coupon_service;
	SELECT coupon_route_add(m, '/anything/{name}', 'anything(text, integer, date, jsonb, text[], numeric, text)') FROM unnest(ARRAY['GET', 'POST']) m});
poll_until('the front', sub { status('/anything/x') == 200 });

# ---- what is known of the worker, from outside ----

sub pid { return sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon front'}) }
sub resident { my ($pid) = @_; return slurp_file("/proc/$pid/status") =~ /^VmRSS:\s+(\d+)/m ? $1 : 0 }
sub sockets { my ($pid) = @_; return scalar grep { (readlink // '') =~ /^socket:/ } glob "/proc/$pid/fd/*" }
sub log_size { return -s $node->logfile }

sub fuzz
{
	my ($count, $from) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run([ $^X, 'test/bin/fuzz_front', '--port', $port, '--count', $count, '--seed', $from, '--patience', int(within(30)) ], '>', \$out, '2>', \$err);
	return eval { $json->decode($out) } // die "fuzz_front: $out $err";
}

# the first ones make plans, caches and so on
fuzz(500, $seed + 1_000_000_000);
my $pid = pid();
my $sockets = sockets($pid);
my $resident = resident($pid);
my $log = log_size();
my $result = fuzz($requests, $seed);
note($json->canonical->encode($result->{statuses}), " in $result->{seconds} s");
is_deeply($result->{wrong}, [], "$requests mutated requests: nothing wrong") or diag(explain $result->{wrong});
cmp_ok($result->{statuses}{$_} // 0, '>', $requests / 200, "  many answers are $_") for 200, 400, 404;
is(pid(), $pid, '  the worker is the same process');
poll_until('connections are freed', sub { sockets($pid) <= $sockets });
pass('  all connections are freed');
# AddressSanitizer keeps what is freed, to see it used
cmp_ok(resident($pid) - $resident, '<', ($ENV{COUPON_SANITIZED} ? 400 : 20) * 1024, '  it has not grown') or diag("from $resident kB to " . resident($pid) . ' kB');
cmp_ok(log_size() - $log, '<', 100 * $requests / 1000 * 10 + 10000, '  the log is not flooded');
is(status('/healthz'), 200, '  and it serves');

conserved($node, 'postgres', 'fuzz');
is(sql(q{SELECT count(*) FROM coupon.issuance i WHERE NOT EXISTS (SELECT FROM coupon.outbox o WHERE o.type IN ('coupon.issued', 'coupon.held') AND o.payload ->> 'serial' = i.serial::text AND o.payload ->> 'campaign_id' = i.campaign_id::text)}),
	0, 'each row has its event');
$node->stop;
server_log_is_clean($node, 'fuzz');
done_testing();
