# What a hostile client may do to the front, and what the others see of it: slow
# and silent clients, more connections than there may be, headers and bodies
# that are too large, rates, forged addresses, answers and streams that are never
# read, few file descriptors; the access log; SIGTERM with all of that going on.
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

my $json = JSON::PP->new->canonical->allow_nonref->utf8;
my $port = free_port();
my $node = new_server('front_abuse', <<"END");
coupon.http_listen = '127.0.0.1:$port'
coupon.http_role = 'coupon_service'
coupon.http_max_connections = 100
coupon.http_request_timeout = 60s
END
my $http = HTTP::Tiny->new(timeout => CouponTest::PATIENCE, keep_alive => 0);

sub sql { return $node->safe_psql('postgres', shift) }

# request(method, path, body, headers): the answer, its content decoded
sub request
{
	my ($method, $path, $body, %headers) = @_;
	my $answer = $http->request($method, "http://127.0.0.1:$port$path", {
			headers => { ref $body ? ('Content-Type' => 'application/json') : (), %headers },
			defined $body ? (content => ref $body ? $json->encode($body) : $body) : () });

	$answer->{json} = eval { $json->decode($answer->{content}) };
	return $answer;
}

# a bound that is reached is told by 503, and the client tries again
my $retries = 0;
sub eventually { my @what = @_; my $answer; poll_until('an answer', sub { ($answer = told(@what)) !~ /^503/ || !++$retries }); return $answer }

sub told { my $answer = request(@_); return "$answer->{status} " . ($answer->{json}{code} // $answer->{json}{status} // '') }

sub connected
{
	my ($bytes) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die "no connection: $!";

	local $SIG{PIPE} = 'IGNORE';
	syswrite $socket, $bytes if defined $bytes;
	return $socket;
}

# read_all(socket): until the other side closes; undef: it does not
sub read_all
{
	my ($socket) = @_;
	my $deadline = time + CouponTest::PATIENCE;
	my $in = '';

	while ((my $left = $deadline - time) > 0)
	{
		return $in if IO::Select->new($socket)->can_read($left) && !sysread $socket, $in, 65536, length $in;
	}
	return;
}

sub pid { return sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon front'}) }
sub resident { my ($pid) = @_; return slurp_file("/proc/$pid/status") =~ /^VmRSS:\s+(\d+)/m ? $1 : 0 }
sub sockets { my ($pid) = @_; return scalar grep { (readlink // '') =~ /^socket:/ } glob "/proc/$pid/fd/*" }

sql(q{SELECT coupon_campaign_create('one', 100000); SELECT coupon_room_create('hall', 1, session_ttl => '1 day', idle_ttl => '1 day')});
poll_until('the front', sub { request('GET', '/campaigns/1')->{status} == 200 });
my $pid = pid();

# ---- slow clients ----

# 500 of them where 100 may be connected, each a byte now and then
my $half = "POST /campaigns/1/issues HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n{\"user";
my @slow = map { connected((undef, 'G', "GET / HTTP/1.1\r\nHost", $half)[ $_ % 4 ]) } 1 .. 500;
my %outcomes;
my $begun = time;
for my $i (1 .. 20)
{
	local $SIG{PIPE} = 'IGNORE';
	syswrite $_, 'x' for @slow;
	$outcomes{ eventually('POST', '/campaigns/1/issues', { user_id => "s$i" }) }++;
}
is($outcomes{'201 issued'} // 0, 20, 'slowloris: 500 slow connections do not keep the others out') or diag(explain \%outcomes);
note(sprintf '20 issues meanwhile in %.1f s, %d times 503', time - $begun, $retries);
is(pid(), $pid, '  the worker is the same');
close $_ for @slow;

# who is within the bound, and slow, is cut off when the time is over
reload($node, "coupon.http_request_timeout = 1s\ncoupon.http_idle_timeout = 2s\n");
for my $case ([ 'a connection without a request', undef ], [ 'half a first line', 'GET /' ], [ 'half the headers', "GET / HTTP/1.1\r\nHost: x\r\nX: " ], [ 'half a body', $half ],
	[ 'half a chunk', "POST /campaigns/1/issues HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{" ])
{
	ok(defined read_all(connected($case->[1])), "cut off, by settings that a reload changes: $case->[0]");
}
my $dribbling = connected("GET / HTTP/1.1\r\nHost: x\r\n");
my $deadline = time + CouponTest::PATIENCE;
my $cut = 0;
while (!$cut && time < $deadline)
{
	local $SIG{PIPE} = 'IGNORE';
	$cut = !defined syswrite $dribbling, "X: y\r\n";
	IO::Select->new->can_read(0.05);
	select undef, undef, undef, 0.05;
}
ok($cut, '  a header every 50 ms, without end');
reload($node, "coupon.http_request_timeout = 60s\ncoupon.http_idle_timeout = 60s\n");

# ---- more connections than there may be ----

# those who wait for an answer are not slow: their number is what is bounded
my $ticket = request('POST', '/rooms/hall/tickets', { user_id => 'first' });
poll_until('admission', sub { request('GET', $ticket->{headers}{location})->{json}{status} eq 'admitted' });
my $mine = request('POST', '/rooms/hall/tickets', { user_id => 'second' })->{headers}{location};
poll_until('no connections', sub { sockets($pid) < 10 });
my @streams = map { connected("GET $mine HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n") } 1 .. 100;
for my $stream (@streams) { my $line = <$stream> }
my $beyond = request('POST', '/campaigns/1/issues', { user_id => 'beyond' });
is("$beyond->{status} $beyond->{json}{code}", '503 full', 'connection 101 of 100: 503');
is($beyond->{headers}{'retry-after'}, 1, '  with Retry-After');
is($beyond->{headers}{connection} // '', 'close', '  and it is closed');
is(sql(q{SELECT count(*) FROM coupon.issuance WHERE user_id = 'beyond'}), 0, '  before any work');
close $_ for splice @streams, 0, 50;
poll_until('room', sub { told('POST', '/campaigns/1/issues', { user_id => 'beyond' }) =~ /^20/ });
pass('  whoever leaves makes room');
reload($node, "coupon.http_max_waiting = 50\n", sub { sql('SHOW coupon.http_max_waiting') eq '50' });
poll_until('the bound', sub { my $s = connected("GET $mine HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"); <$s> =~ /^HTTP\/1.1 503/ });
pass('calls that wait are bounded');
close $_ for @streams;
reload($node, "coupon.http_max_waiting = 20000\n");

# ---- what no cache is to tell others ----

is(request($_, '/campaigns/1')->{headers}{'cache-control'}, 'no-store', "$_: no cache keeps the answer") for 'GET', 'HEAD';
is(request('GET', '/rooms/hall/tickets/1.1.' . '0' x 32)->{headers}{'cache-control'}, 'no-store', '  nor a refusal');
is(request('GET', '/openapi.json')->{headers}{'cache-control'}, 'max-age=60', '  unless the function lets it');

# ---- sizes ----

sub raw { return (read_all(connected($_[0])) // 'open') =~ m{^HTTP/1\.1 (\d+)} ? $1 : 'closed' }
my $close = "Host: x\r\nConnection: close\r\n";
is(raw("GET /campaigns/1 HTTP/1.1\r\n${close}X: " . 'y' x 7900 . "\r\n\r\n"), 200, 'headers of 8 kB');
is(raw("GET /campaigns/1 HTTP/1.1\r\n${close}X: " . 'y' x 8300 . "\r\n\r\n"), 431, '  more: 431');
is(raw("GET /campaigns/1 HTTP/1.1\r\n${close}X: " . 'y' x 100000 . "\r\n\r\n"), 431, '  much more: 431');
is(raw("GET /campaigns/1 HTTP/1.1\r\n$close" . "X: y\r\n" x 98 . "\r\n"), 200, '100 headers');
is(raw("GET /campaigns/1 HTTP/1.1\r\n$close" . "X: y\r\n" x 99 . "\r\n"), 431, '  101: 431');
is(raw('GET /' . 'x' x 9000 . " HTTP/1.1\r\n$close\r\n"), 414, 'a target of 9 kB: 414');
is(raw('GET /' . 'x' x 90000 . " HTTP/1.1\r\n$close\r\n"), 414, '  of 90 kB');
my $issue = "POST /campaigns/1/issues HTTP/1.1\r\n${close}Content-Type: application/json\r\n";
sub padded { my ($n) = @_; my $body = '{"user_id":"padded"'; return $body . ' ' x ($n - 1 - length $body) . '}' }
is(raw("${issue}Content-Length: 65536\r\n\r\n" . padded(65536)), 201, 'a body of 64 kB');
is(raw("${issue}Content-Length: 65537\r\n\r\n" . padded(65537)), 413, '  a byte more: 413');
is(raw("${issue}Content-Length: 1000000\r\n\r\n" . padded(1000000)), 413, '  1 MB: 413, read to its end');
is(raw("${issue}Content-Length: 100000000\r\n\r\n"), 413, '  100 MB: 413 before it is sent');
is(raw("${issue}Transfer-Encoding: chunked\r\n\r\n" . sprintf("%x\r\n%s\r\n0\r\n\r\n", 70000, padded(70000))), 413, '  in chunks: 413');
my $endless = connected("${issue}Transfer-Encoding: chunked\r\n\r\n");
my $sent = 0;
$deadline = time + CouponTest::PATIENCE;
while (time < $deadline)
{
	local $SIG{PIPE} = 'IGNORE';
	last unless syswrite $endless, sprintf("%x\r\n%s\r\n", 50000, 'x' x 50000);
	$sent++;
}
cmp_ok($sent, '<', 200, '  without end: closed after a megabyte');

# many optional arguments, in each combination, do not fill memory with plans
my $wide = join ', ', map { "p$_ integer DEFAULT 0" } 1 .. 9;
my $types = join ',', ('integer') x 9;
sql(qq{CREATE FUNCTION wide($wide) RETURNS json STABLE LANGUAGE sql AS \$\$ SELECT '{}'::json \$\$; GRANT EXECUTE ON FUNCTION wide TO coupon_service; SELECT coupon_route_add('GET', '/wide', 'wide($types)')});
poll_until('the route', sub { request('GET', '/wide')->{status} == 200 });
my $ua = HTTP::Tiny->new(timeout => CouponTest::PATIENCE, keep_alive => 1);
my $all = 0;
for my $set (0 .. 511) { $all += $ua->get("http://127.0.0.1:$port/wide?" . join('&', map { "p$_=1" } grep { $set & 1 << $_ - 1 } 1 .. 9))->{status} == 200 }
is($all, 512, '512 sets of arguments');
undef $ua;
sql("SELECT pg_log_backend_memory_contexts($pid)");
poll_until('the contexts', sub { slurp_file($node->logfile) =~ /Grand total/ });
my $plans = () = slurp_file($node->logfile) =~ /CachedPlanSource: /g;
cmp_ok($plans, '<', 200, "  are not 512 plans ($plans)");

# ---- what others are not to know ----

sql(q{
	CREATE TABLE private (who text PRIMARY KEY, secret text NOT NULL CHECK (secret <> 'x'));
	INSERT INTO private VALUES ('them', 'the secret');
	CREATE FUNCTION peek(who text, secret text DEFAULT NULL) RETURNS json LANGUAGE plpgsql SECURITY DEFINER AS $$
	BEGIN
		IF who = 'denied' THEN SET LOCAL ROLE pg_monitor; END IF;
		IF who = 'file' THEN RAISE undefined_file USING MESSAGE = 'could not open file "base/1/2"'; END IF;
		INSERT INTO public.private VALUES (who, secret);
		RETURN '{}';
	END $$;
	CREATE FUNCTION denied() RETURNS json LANGUAGE sql AS $$ SELECT json_agg(p) FROM public.private p $$;
	GRANT EXECUTE ON FUNCTION peek, denied TO coupon_service;
	SELECT coupon_route_add('POST', '/peek', 'peek(text, text)');
	SELECT coupon_route_add('GET', '/denied', 'denied()')});
poll_until('the routes', sub { request('GET', '/denied')->{status} == 403 });
for my $case ([ 'POST', { who => 'them', secret => 'y' }, '409 23505' ], [ 'POST', { who => 'null' }, '400 23502' ], [ 'POST', { who => 'check', secret => 'x' }, '400 23514' ], [ 'POST', { who => 'file' }, '503 58P01' ], [ 'GET', undef, '403 42501' ])
{
	my $answer = request($case->[0], $case->[0] eq 'GET' ? '/denied' : '/peek', $case->[1]);

	is("$answer->{status} $answer->{json}{code}", $case->[2], "an error of the inside: $case->[2]");
	unlike($answer->{content}, qr/private|secret|pkey|base\/1|constraint|column|relation/, '  tells nothing of it');
}
is(request('GET', '/campaigns/1?' . 'a' x 63 . "\xc3\xa4b=1")->{json}{code}, 'invalid_argument', 'an unknown argument whose name is cut in the middle of a letter: valid JSON');
is(raw("POST /campaigns/1/requests HTTP/1.1\r\n${close}Idempotency-Key: \xff\r\nContent-Length: 15\r\n\r\n{\"user_id\":\"a\"}"), 400, 'an Idempotency-Key that is not UTF-8');
is(sql('SELECT count(*) FROM coupon.request'), 0, '  is not kept');
is(told('GET', "/campaigns/1?\xff"), '400 malformed', 'a target that is not UTF-8');
sql(q{CREATE FUNCTION pass_through(name text) RETURNS json STABLE LANGUAGE sql AS $$ SELECT json_build_object('path', current_setting('request.path'), 'headers', current_setting('request.headers')::json) $$;
	GRANT EXECUTE ON FUNCTION pass_through TO coupon_service; SELECT coupon_route_add('GET', '/pass/{name}', 'pass_through(text)')});
poll_until('the route', sub { request('GET', '/pass/x')->{status} == 200 });
is(told('GET', "/pass/\xc3%bc"), '400 malformed', '  half a letter as it is, half encoded');
is(raw("GET /pass/x HTTP/1.1\r\n${close}X-H: \xff\r\n\r\n"), 200, '  a header that is not: left out');

# a failed reading of the routes is repeated
my $locker = $node->background_psql('postgres');
reload($node, "coupon.http_lock_timeout = '100ms'\n");
$locker->query_safe('BEGIN; LOCK TABLE coupon.route IN ACCESS EXCLUSIVE MODE; CREATE FUNCTION one_more() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$');
sql('CREATE FUNCTION another() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$');
poll_until('a failure', sub { request('GET', '/campaigns/1')->{status} == 503 });
$locker->query_safe('ROLLBACK');
$locker->quit;
is(told('GET', '/campaigns/1'), '200 ' . ('' . (request('GET', '/campaigns/1')->{json}{status} // '')), 'routes that could not be read while they were locked are read afterwards');

# ---- rates, by address ----

my $forged = 0;
sub burst { my ($n, @headers) = @_; my %seen; $seen{ request('GET', '/campaigns/1', undef, @headers)->{status} }++ for 1 .. $n; return \%seen }
# limited(request): its refusal, which comes when calls follow each other fast enough
sub limited { my @what = @_; my $answer; poll_until("a refusal of $what[1]", sub { burst(10); ($answer = request(@what))->{status} == 429 }); return $answer }
reload($node, "coupon.http_rate_per_address = 1\ncoupon.http_burst = 3\n");
is(limited('GET', '/campaigns/1')->{headers}{'retry-after'}, 1, '429 with Retry-After');
is(request('GET', '/healthz')->{status}, 200, '  health is not limited');
limited('GET', '/nowhere');
pass('  what is not there is');
limited('GET', '/campaigns/1', undef, Authorization => 'Bearer x.y.z');
pass('  and so are bad tokens, before they are looked at');
poll_until('all but a few are refused', sub { (burst(10, 'X-Forwarded-For' => '203.0.113.' . ++$forged)->{429} // 0) >= 8 });
pass('X-Forwarded-For of somebody who is no proxy of ours: not believed');
reload($node, "coupon.http_trusted_proxies = '127.0.0.1, 10.0.0.1'\n", sub { request('GET', '/campaigns/1', undef, 'X-Forwarded-For' => '203.0.113.99')->{status} == 200 });
# spent(forwarded): has that address used up what it may?
sub spend { my ($forwarded) = @_; burst(8, 'X-Forwarded-For' => $forwarded); return }
sub spent { my ($forwarded) = @_; return (grep { $_ == 200 } map { request('GET', '/campaigns/1', undef, 'X-Forwarded-For' => $forwarded)->{status} } 1 .. 2) < 2 ? 1 : 0 }
# spends(forwarded, address, what): what the first asks for is of the second's account
sub spends { my ($forwarded, $address, $what) = @_; poll_until($what, sub { spend($forwarded); spent($address) }); return pass($what) }
spends('203.0.113.2', '203.0.113.2', 'of a proxy of ours: believed');
is(spent('203.0.113.3'), 0, '  another client is not held to account');
spends('198.51.100.7, 203.0.113.4', '203.0.113.4', '  what the client itself has said before is not');
is(spent('198.51.100.7'), 0, '  nor is it held against who was named');
spends('203.0.113.5, 10.0.0.1', '203.0.113.5', '  two proxies of ours in a row');
spends([ '198.51.100.8', '203.0.113.6' ], '203.0.113.6', '  the last of several lines counts, which is the proxy\'s');
is(spent('198.51.100.8'), 0, '  and not the first');
reload($node, "coupon.http_trusted_proxies = '::ffff:127.0.0.1 2001:0DB8::000A'\n");
spends('203.0.113.9, 2001:db8::a', '203.0.113.9', '  whichever way their addresses are written');
spends('2001:db8:1:2::1', '2001:db8:1:2:ffff::2', '  IPv6: another address of the same network');
is(spent('2001:db8:1:3::1'), 0, '  and of another');
spends('::ffff:203.0.113.8', '203.0.113.8', '  IPv4 in the clothes of IPv6');
reload($node, "coupon.http_rate_per_address = 1000\ncoupon.http_burst = 100000\n", sub { (burst(20)->{200} // 0) == 20 });
reload($node, "coupon.http_rate_per_address = 0\n");

# ---- the access log ----

my $from = -s $node->logfile;
reload($node, "coupon.http_access_log = 1\n", sub { request('GET', '/healthz'); slurp_file($node->logfile, $from) =~ /access: GET - 200/ });
is(request('POST', '/campaigns/1/issues', { user_id => 'somebody' })->{status}, 201, 'an issue');
request('GET', $mine);
request('GET', '/campaigns/1%0aLOG:%20forged?user_id=somebody', undef, Authorization => 'Bearer secret.token.here', 'User-Agent' => 'forged');
request('FORGED', '/campaigns/1');
my $lines = slurp_file($node->logfile, $from);
like($lines, qr{LOG:  access: POST /campaigns/\{campaign_id\}/issues 201, \d+\.\d\d\d ms, \d+ bytes, from 127\.0\.0\.1\n}, '  the access log has its line');
like($lines, qr{access: GET /rooms/\{room\}/tickets/\{token\} 200,}, '  of a ticket the template');
like($lines, qr{access: - }, '  of a method that is none a dash');
unlike($lines, qr/somebody|secret|forged|FORGED|$mine/, '  no user, no token, nothing that a client has chosen');
$from = -s $node->logfile;
reload($node, "coupon.http_access_log = 0.1\n", sub { sql('SHOW coupon.http_access_log') eq '0.1' });
poll_until('the rate', sub { my $at = -s $node->logfile; request('GET', '/healthz') for 1 .. 20; return (() = slurp_file($node->logfile, $at) =~ /access:/g) <= 3 });
$from = -s $node->logfile;
request('GET', '/campaigns/1') for 1 .. 100;
is(scalar(() = slurp_file($node->logfile, $from) =~ /access: /g), 10, '  a tenth of 100');
reload($node, "coupon.http_access_log = 0\n");

# ---- who never reads ----

sql(q{CREATE FUNCTION large() RETURNS json STABLE LANGUAGE sql AS $$ SELECT to_json(repeat('x', 5000000)) $$;
	CREATE FUNCTION changing(n bigint[]) RETURNS SETOF coupon.http_answer STABLE LANGUAGE sql AS $$ SELECT 200, NULL::text[], to_json(repeat(md5(clock_timestamp()::text || i), 32000)), true FROM unnest(n) i $$;
	GRANT EXECUTE ON FUNCTION large, changing TO coupon_service;
	SELECT coupon_route_add('GET', '/large', 'large()'); SELECT coupon_route_add('GET', '/changing/{n}', 'changing(bigint[])', true)});
poll_until('the routes', sub { request('GET', '/large')->{status} == 200 });
poll_until('no connections', sub { sockets($pid) < 10 });
my $before = sockets($pid);
reload($node, "coupon.http_idle_timeout = 1s\n");
my @deaf = map { connected("GET /large HTTP/1.1\r\nHost: x\r\n\r\n") } 1 .. 5;
poll_until('it to begin', sub { sockets($pid) >= $before + 5 });
poll_until('it to be given up', sub { sockets($pid) <= $before });
pass('an answer that is never read: the connection is shut');
close $_ for @deaf;
my $large = sub { my $s = connected("GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); return length(read_all($s) // '') };
cmp_ok($large->(), '>', 5000000, '  who reads gets all of it');

# a megabyte of news each second, which nobody reads
@deaf = map { connected("GET /changing/$_ HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n") } 1 .. 5;
poll_until('it to begin', sub { sockets($pid) >= $before + 5 });
poll_until('it to be given up', sub { sockets($pid) <= $before });
pass('streams that are never read: shut');
reload($node, "coupon.http_idle_timeout = 60s\n");
$_ = connected("GET /changing/1 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n") for @deaf;
poll_until('it to begin', sub { sockets($pid) >= $before + 5 });
my $grown = resident($pid);
my $until = time + 8;
my $most = 0;
poll_until('8 seconds', sub { my $now = resident($pid); $most = $now if $now > $most; return time > $until });
cmp_ok($most - $grown, '<', 20 * 1024, '  nothing piles up for them') or diag("from $grown kB to $most kB");
close $_ for @deaf;

# a client that leaves while its call is carried out, or waits
$ticket = request('POST', '/campaigns/1/requests', { user_id => 'leaver' });
for (1 .. 50)
{
	close connected("GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
	close connected("GET $mine HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n");
	close connected("GET $ticket->{headers}{location} HTTP/1.1\r\nHost: x\r\nPrefer: wait=1\r\n\r\n");
}
is(request('GET', '/healthz')->{status}, 200, 'clients that leave at once');
poll_until('connections are freed', sub { sockets($pid) <= $before });
is(pid(), $pid, '  the worker is the same as at the beginning');

# ---- SIGTERM, with all of that ----

sql(q{CREATE FUNCTION slow() RETURNS json LANGUAGE sql AS $$ SELECT json_build_object('slept', pg_sleep(60)::text) $$; GRANT EXECUTE ON FUNCTION slow TO coupon_service; SELECT coupon_route_add('POST', '/slow', 'slow()')});
poll_until('the route', sub { request('GET', '/slow')->{status} == 405 });
reload($node, "coupon.http_statement_timeout = '10min'\n", sub { sql('SHOW coupon.http_statement_timeout') eq '10min' });
my @open = (
	(map { connected("GET $mine HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n") } 1 .. 10),
	(map { connected("GET /changing/1 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n") } 1 .. 5),
	(map { connected("GET /changing/1 HTTP/1.1\r\nHost: x\r\nPrefer: wait=60\r\n\r\n") } 1 .. 5),
	(map { connected($half) } 1 .. 10), connected("GET /large HTTP/1.1\r\nHost: x\r\n\r\n"), connected());
poll_until('all of them', sub { sockets($pid) >= $before + @open });
my $slow = connected("POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
poll_until('the slow function', sub { sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'coupon front' AND wait_event = 'PgSleep'}) });
$begun = time;
sql("SELECT pg_terminate_backend($pid)");
poll_until('its end', sub { !-e "/proc/$pid" });
my $took = time - $begun;
cmp_ok($took, '<', within(5), sprintf('SIGTERM: out in %.1f s', $took));
like(read_all($slow), qr{^HTTP/1\.1 503 .*Connection: close}s, '  what took its time is answered 503, and its connection closed');
like(read_all($open[0]), qr/\r\n0\r\n\r\n\z/, '  streams end as they should');
like(read_all($open[15]), qr{^HTTP/1\.1 200}, '  who waits is told what is known');
poll_until('the next one', sub { request('GET', '/healthz')->{status} == 200 });
close $_ for @open;

# ---- few file descriptors ----

# as many clients as there may be files: the server's own files are still opened
$node->stop;
$node->append_conf('postgresql.conf', "coupon.http_max_connections = 5000\nmax_files_per_process = 100\nmin_wal_size = 32MB\n");
my $log = $node->logfile;
PostgreSQL::Test::Utils::system_or_bail('bash', '-c', 'ulimit -n 400 && exec pg_ctl -w -s -D "$0" -l "$1" start', $node->data_dir, $log);
$node->_update_pid(1);
poll_until('the front', sub { request('GET', '/readyz')->{status} == 200 });
like(slurp_file($log), qr/coupon front takes \d+ connections on .*, not 5000/, 'few files: the log says how many connections there may be');
my @many = map { IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 10) } 1 .. 450;
sql('SELECT pg_switch_wal()');
my %few;
for my $i (1 .. 40) { $few{ eventually('POST', '/campaigns/1/issues', { user_id => "few$i" }) }++; sql('SELECT pg_switch_wal()') if $i % 10 == 0 }
is($few{'201 issued'} // 0, 40, '  with all of them taken, issues are written to new WAL segments') or diag(explain \%few);
close $_ for grep { defined } @many;

conserved($node, 'postgres', 'abuse');
$node->stop;
server_log_is_clean($node, 'abuse');
done_testing();
