# The front's loop: routes that cannot be read while calls wait, plain functions
# that take long beside short ones, an address that moves, a database that is
# dropped under load, SIGTERM with work ahead and with a standby that is gone.
use strict;
use warnings;

use CouponNginx qw(free_port);
use CouponTest;
use HTTP::Tiny;
use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $port = free_port();
my $node = new_server('front_loop', <<"END", allows_streaming => 1);
coupon.http_listen = '127.0.0.1:$port'
coupon.http_role = 'coupon_service'
coupon.http_database = 'shop'
coupon.databases = 'shop'
coupon.http_statement_timeout = '10min'
END
my $http = HTTP::Tiny->new(timeout => CouponTest::PATIENCE, keep_alive => 0);

sub sql { return $node->safe_psql('shop', shift) }
sub pid { return sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon front'}) }

# told(method, path, body, headers): status, and the word of the answer
sub told
{
	my ($method, $path, $body, %headers) = @_;
	my $answer = $http->request($method, "http://127.0.0.1:$port$path", {
			headers => { $body ? ('Content-Type' => 'application/json') : (), %headers }, defined $body ? (content => $body) : () });
	my $json = eval { decode_json($answer->{content}) } // {};

	return "$answer->{status} " . (($answer->{status} < 400 ? $json->{status} : $json->{code}) // '') if ref $json eq 'HASH' && %$json;
	return $answer->{status};
}

# begin(method, path, body, headers): a socket on which the request has been sent
sub begin
{
	my ($method, $path, $body, @headers) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die "no connection: $!";
	my $text = $body // '';

	push @headers, 'Content-Type: application/json' if $body;
	push @headers, 'Content-Length: ' . length $text if $method eq 'POST';
	syswrite $socket, "$method $path HTTP/1.1\r\n" . join('', map { "$_\r\n" } 'Host: x', @headers) . "\r\n$text";
	return $socket;
}

# await(socket, pattern): what has arrived when it matches; dies when it never does
my %seen;
sub await
{
	my ($socket, $pattern) = @_;
	my $deadline = time + CouponTest::PATIENCE;

	until (($seen{$socket} //= '') =~ $pattern)
	{
		my $left = $deadline - time;

		die "timed out: $pattern in $seen{$socket}" if $left <= 0;
		next unless IO::Select->new($socket)->can_read($left);
		last unless sysread $socket, $seen{$socket}, 4096, length $seen{$socket};
	}
	return $seen{$socket};
}

sub arrived { my ($socket) = @_; return IO::Select->new($socket)->can_read(0) ? 1 : 0 }
sub asleep { return sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'coupon front' AND wait_event = 'PgSleep'}) }

$node->safe_psql('postgres', 'CREATE DATABASE shop');
sql(q{CREATE EXTENSION coupon});
sql(q{SELECT coupon_campaign_create('one', 100000); SELECT coupon_room_create('hall', 1, session_ttl => '1 day', idle_ttl => '1 day')});
sql(q{CREATE FUNCTION nap(seconds float8) RETURNS json LANGUAGE sql AS $$ SELECT json_build_object('status', 'slept' || pg_sleep(seconds)::text) $$;
	GRANT EXECUTE ON FUNCTION nap TO coupon_service; SELECT coupon_route_add('POST', '/nap', 'nap(float8)')});
poll_until('the front', sub { told('POST', '/nap', '{"seconds":0}') eq '200 slept' });
my $pid = pid();

# ---- routes that cannot be read, while calls wait and streams are open ----

sub ticket { my ($user) = @_; return $http->post("http://127.0.0.1:$port/rooms/hall/tickets", { headers => { 'Content-Type' => 'application/json' }, content => qq({"user_id":"$user"}) })->{headers}{location} }
my $first = ticket('first');
poll_until('admission', sub { told('GET', $first) eq '200 admitted' });
my $second = ticket('second');
my @waiting = map { begin('GET', $second, undef, 'Prefer: wait=60') } 1 .. 20;
my $stream = begin('GET', $second, undef, 'Accept: text/event-stream');
await($stream, qr/"status":"waiting"/);
reload($node, "coupon.http_lock_timeout = '100ms'\n");
my $locker = $node->background_psql('shop');
$locker->query_safe('BEGIN; LOCK TABLE coupon.route IN ACCESS EXCLUSIVE MODE');
sql('CREATE FUNCTION another() RETURNS integer LANGUAGE sql RETURN 1');
poll_until('routes that cannot be read', sub { told('GET', '/campaigns/1') =~ /^503/ });
like(await($_, qr/\r\n\r\n/), qr{^HTTP/1.1 503}, 'routes that cannot be read: who waits is told so') for $waiting[0];
# streams are looked at every second
my $until = time + 2.5;
poll_until('more turns', sub { told('GET', '/campaigns/1') =~ /^503/ && time > $until });
$locker->query_safe('ROLLBACK');
$locker->quit;
poll_until('routes again', sub { told('GET', '/campaigns/1') =~ /^200/ });
is(told('DELETE', $first), '204', '  and leaving');
await($stream, qr/"status":"admitted"|event: problem/);
unlike($seen{$stream}, qr/problem/, '  an open stream goes on as if nothing had been');
is(pid(), $pid, '  in the same process');
reload($node, "coupon.http_lock_timeout = '1s'\n");
close $_ for @waiting, $stream;

# ---- streams ----

my $accepted = $http->post("http://127.0.0.1:$port/campaigns/1/requests", { headers => { 'Content-Type' => 'application/json' }, content => '{"user_id":"asker"}' })->{headers}{location};
reload($node, "coupon.http_cors_origins = 'https://shop.example'\n");
poll_until('the setting', sub { sql('SHOW coupon.http_cors_origins') ne '' });
my $decision = begin('GET', $accepted, undef, 'Accept: text/event-stream', 'Origin: https://shop.example');
my ($id) = await($decision, qr/\r\n0\r\n\r\n\z/) =~ /.*^id: (\w+)/ms;
like($seen{$decision}, qr/^Access-Control-Allow-Origin: https:\/\/shop\.example\r$/m, 'a stream has CORS, too');
is(told('GET', $accepted, undef, Accept => 'text/event-stream', 'Last-Event-ID' => $id), '204', 'who was told all, and comes again: 204');
is(told('GET', $accepted, undef, Accept => 'text/event-stream', 'Last-Event-ID' => '1'), '200', '  who was told another: 200');

# ---- plain calls that take long ----

my $long = begin('POST', '/nap', '{"seconds":3}');
poll_until('a nap', sub { asleep() });
my @short = map { begin('POST', '/nap', '{"seconds":0.3}') } 1 .. 20;
my $between = begin('POST', '/campaigns/1/issues', '{"user_id":"between"}');
like(await($between, qr/\r\n\r\n/), qr{^HTTP/1.1 201}, 'an issue that came with 20 plain calls');
cmp_ok(scalar(grep { arrived($_) } @short), '<', 15, '  is answered before they are all done');
like(await($_, qr/\r\n\r\n/), qr{^HTTP/1.1 200}, '  and they are') for @short;

# ---- the address moves ----

my $moved = begin('POST', '/nap', '{"seconds":3}');
poll_until('a nap', sub { asleep() });
my $old_port = $port;
$port = free_port();
reload($node, "coupon.http_listen = '127.0.0.1:$port'\n");
like(await($moved, qr/\r\n\r\n/), qr{^HTTP/1.1 200}, 'an answer that was due when the address moved is given');
poll_until('the new address', sub { told('GET', '/campaigns/1') =~ /^200/ });
ok(!IO::Socket::INET->new(PeerAddr => "127.0.0.1:$old_port"), '  and then the old one is closed');

# ---- SIGTERM ----

# many plain calls in one turn: the first is cancelled, the others do not begin
my $blocker = begin('POST', '/nap', '{"seconds":3}');
poll_until('a nap', sub { asleep() });
my @naps = map { begin('POST', '/nap', '{"seconds":60}') } 1 .. 5;
await($blocker, qr/slept/);
poll_until('a long nap', sub { asleep() });
sql("SELECT pg_terminate_backend($pid)");
my $begun = time;
poll_until('its end', sub { !-e "/proc/$pid" });
cmp_ok(time - $begun, '<', within(5), 'SIGTERM: of many plain functions none is begun any more');
like(await($_, qr/\r\n\r\n/), qr{^HTTP/1.1 503}, '  each is answered 503') for @naps;
poll_until('the next front', sub { told('GET', '/campaigns/1') =~ /^200/ });

# a synchronous standby that never comes
$pid = pid();
reload($node, "synchronous_standby_names = 'nobody'\n");
poll_until('the setting', sub { sql('SHOW synchronous_standby_names') eq 'nobody' });
my $issue = begin('POST', '/campaigns/1/issues', '{"user_id":"sync"}');
poll_until('the commit to wait', sub { sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'coupon front' AND wait_event = 'SyncRep'}) });
sql("SELECT pg_terminate_backend($pid)");
$begun = time;
poll_until('its end', sub { !-e "/proc/$pid" });
cmp_ok(time - $begun, '<', within(5), 'SIGTERM: a standby that never comes is not waited for');
like(await($issue, qr/\r\n\r\n.*\}/s), qr{^HTTP/1.1 503.*"40003"}s, '  and what it may not have is not told as done');
reload($node, "synchronous_standby_names = ''\n");
poll_until('the next front', sub { told('POST', '/campaigns/1/issues', '{"user_id":"sync"}') eq '200 already_issued' });
pass('  asking again tells');

conserved($node, 'shop', 'the loop');

# ---- a database that is dropped, while clients never stop ----

my @children;
for (1 .. 4)
{
	my $child = fork // die "fork: $!";
	if ($child == 0)
	{
		my $busy = HTTP::Tiny->new(timeout => CouponTest::PATIENCE);
		my $end = time + CouponTest::PATIENCE;

		while (time < $end)
		{
			last if $busy->post("http://127.0.0.1:$port/nap", { headers => { 'Content-Type' => 'application/json' }, content => '{"seconds":0.05}' })->{status} != 200;
		}
		require POSIX;
		POSIX::_exit(0);
	}
	push @children, $child;
}
poll_until('load', sub { asleep() });
my ($dropped, undef, $why) = $node->psql('postgres', 'DROP DATABASE shop');
is($dropped, 0, 'a database is dropped under load') or diag($why);
kill 'KILL', @children;
waitpid $_, 0 for @children;

$node->stop;
server_log_is_clean($node, 'the loop');
done_testing();
