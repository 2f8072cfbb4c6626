# Calls that come at the same moment: what is wrong with one of them is its own,
# whatever it is, and its neighbours are answered as if it were not there.
use strict;
use warnings;

use CouponFront qw(calling);
use CouponNginx qw(free_port);
use CouponTest;
use HTTP::Tiny;
use IO::Socket::INET;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $port = free_port();
my $node = new_server('front_neighbours', <<"END");
coupon.http_listen = '127.0.0.1:$port'
coupon.http_role = 'coupon_service'
track_functions = all
END
my $http = HTTP::Tiny->new(timeout => CouponTest::PATIENCE, keep_alive => 0);
my $json = JSON::PP->new->utf8;

sub sql { return $node->safe_psql('postgres', shift) }

sub issue { my ($campaign, $user) = @_; return calling('POST', "/campaigns/$campaign/issues", { user_id => $user }) }

# answer(socket): its status and the code of its problem, or why there is none
sub answer
{
	my ($socket) = @_;
	my ($status, $length, $body) = (0, 0, '');

	while (defined(my $line = readline $socket))
	{
		$status = $1 if $line =~ m{^HTTP/1\.1 (\d+)};
		$length = $1 if $line =~ /^content-length: (\d+)/i;
		last if $line =~ /^\r?\n$/;
	}
	return 'closed' if !$status;
	read $socket, $body, $length if $length;
	my $code = (eval { $json->decode($body) } // {})->{code};
	return defined $code && $status >= 400 ? "$status $code" : $status;
}

# begun(requests): their connections, all having come while the front could not look
sub begun
{
	my @requests = @_;
	my $pid = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon front'});
	my @sockets = map { IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") || die "no connection: $!" } @requests;

	# it knows them all
	for my $socket (@sockets)
	{
		syswrite $socket, calling('GET', '/healthz');
		answer($socket);
	}
	kill 'STOP', $pid or die "kill: $!";
	syswrite $sockets[$_], $requests[$_] for 0 .. $#requests;
	kill 'CONT', $pid or die "kill: $!";
	return @sockets;
}

# together(requests): what each of them is answered
sub together { return map { answer($_) } begun(@_) }

# tally(answers): how often each was given
sub tally
{
	my %count;

	$count{$_}++ for @_;
	return join ', ', map { "$count{$_} x $_" } sort keys %count;
}

poll_until('the front', sub { $http->get("http://127.0.0.1:$port/readyz")->{status} == 200 });

# calls_of(function, requests): how often that was called for them, of which it
# must be the first use, and their answers
sub calls_of
{
	my ($function, @requests) = @_;
	my @answers = together(@requests);
	my $calls;

	# they are told within a second, by a transaction that comes later
	poll_until('the count', sub {
			$http->get("http://127.0.0.1:$port/campaigns/1");
			$calls = sql("SELECT coalesce(sum(calls), 0) FROM pg_stat_user_functions WHERE funcname = '$function'") });
	return ($calls, tally(@answers));
}

# ---- a batch that is wrong as a whole ----

my ($calls, $tally) = calls_of('http_issue', map { issue(99, "u-$_") } 1 .. 40);
is($tally, '40 x 404 unknown_campaign', 'many calls of a campaign that is not there');
cmp_ok($calls, '<', 20, '  are done at once');

sql(q{SELECT coupon_campaign_create('one', 1000); SELECT coupon_campaign_create('two', 1000); SELECT coupon_room_create('hall', 1000, session_ttl => '1 day', idle_ttl => '1 day')});

# ---- a value that is wrong in one call ----

sub asking { my ($user, @headers) = @_; return calling('POST', '/campaigns/1/requests', { user_id => $user }, @headers) }
sub joining { my ($user) = @_; return calling('POST', '/rooms/hall/tickets', { user_id => $user }) }

($calls, $tally) = calls_of('http_request', asking(undef), asking(''), asking('x' x 257), asking('k', 'Idempotency-Key: ' . 'k' x 257),
	map { asking("r-$_", "Idempotency-Key: k-$_") } 1 .. 40);
is($tally, '40 x 202, 3 x 400 invalid, 1 x 400 invalid_key', 'no user, an empty one, long ones, a long key, beside requests');
cmp_ok($calls, '<', 20, '  are one batch');
($calls, $tally) = calls_of('http_join', joining(undef), joining(''), joining('x' x 257), map { joining("j-$_") } 1 .. 40);
is($tally, '40 x 201, 3 x 400 invalid', 'the same at a room');
cmp_ok($calls, '<', 20, '  are one batch');

sql(q{
	CREATE TABLE run(calls integer, xid xid8 DEFAULT pg_current_xact_id());
	CREATE FUNCTION near(n bigint[], d date[]) RETURNS SETOF coupon.http_answer SECURITY DEFINER LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.run VALUES (cardinality(n));
		RETURN QUERY SELECT x::integer, NULL::text[], json_build_object('d', y), false FROM ROWS FROM (unnest(n), unnest(d)) WITH ORDINALITY t(x, y, o) ORDER BY o;
	END $$;
	GRANT EXECUTE ON FUNCTION near TO coupon_service;
	SELECT coupon_route_add('POST', '/near', 'near(bigint[], date[])', batched => true)});
sub near { my ($n, $d) = @_; return calling('POST', '/near', { n => $n, d => $d }) }

my @told = together(near(200, '2026-01-01'), near('x', '2026-01-01'), near(201, 'soon'), map { near(200 + $_, '2026-01-02') } 1 .. 40);
is(join(', ', @told), join(', ', '200', ('400 invalid_argument') x 2, 201 .. 240), 'values that are none of their types, beside good ones: all have their own answers');
is(sql('SELECT sum(calls), count(*) < 20 FROM run'), '41|t', '  and the good ones are together');
@told = together(near(200, '2026-01-01'), near(999, '2026-01-01'), near(201, '2026-01-01'), near(199, '2026-01-01'));
is(join(', ', @told), '200, 500 XX000, 201, 500 XX000', 'a status that is none is answered with 500');

# ---- an ERROR of one user, of several campaigns and of one ----

sql(q{ALTER TABLE coupon.issuance ADD CONSTRAINT mine CHECK (user_id <> 'bad')});
@told = together(issue(1, 'bad'), (map { issue(1, "a-$_") } 1 .. 20), map { issue(2, "b-$_") } 1 .. 20);
is(shift @told, '503 23514', 'an ERROR of one user');
is(tally(@told), '40 x 201', '  is not its neighbours\', of several campaigns');
@told = together(issue(1, 'bad'), map { issue(1, "c-$_") } 1 .. 20);
is(shift(@told) . ', ' . tally(@told), '503 23514, 20 x 201', '  nor of one');

# ---- another campaign's request ----

my $asked = $json->decode($http->post("http://127.0.0.1:$port/campaigns/2/requests",
		{ headers => { 'Content-Type' => 'application/json' }, content => '{"user_id":"other"}' })->{content})->{request_id};
is_deeply([ together(calling('GET', "/campaigns/2/requests/$asked"), calling('GET', "/campaigns/1/requests/$asked"),
			calling('GET', "/campaigns/9999999999/requests/$asked")) ],
	[ 200, ('404 not_requested') x 2 ], 'a request is its own campaign\'s');

# ---- what is counted as too large ----

sub too_large { return sql(q{SELECT refused_size FROM coupon.stat_front}) }
my $large = too_large();
is_deeply([ together("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n") ], ['400 malformed'], 'a malformed request');
is(too_large(), $large, '  is not one that is too large');
is_deeply([ together("GET / HTTP/1.1\r\nHost: x\r\nX: " . 'x' x 8200 . "\r\n\r\n") ], ['431 header_too_large'], 'large headers');
is(too_large(), $large + 1, '  are');

# ---- a stream that lives through changes of the routes ----

sub version
{
	my ($version) = @_;

	return sql(qq{
		CREATE OR REPLACE FUNCTION numbered(name text[]) RETURNS SETOF coupon.http_answer STABLE LANGUAGE sql AS
			'SELECT 200, NULL::text[], json_build_object(''version'', $version), true FROM unnest(name)'});
}

# memory(): of the one call that there is, in the front
sub memory
{
	my $offset = -s $node->logfile;
	my $log = '';

	sql(q{SELECT pg_log_backend_memory_contexts(pid) FROM pg_stat_activity WHERE backend_type = 'coupon front'});
	poll_until('the log', sub { ($log = slurp_file($node->logfile, $offset)) =~ /Grand total: / });
	my $size = 0;
	$size += $1 while $log =~ /coupon call.*?: (\d+) total/g;
	return $size;
}

version(0);
sql(q{GRANT EXECUTE ON FUNCTION numbered TO coupon_service; SELECT coupon_route_add('GET', '/versions/{name}', 'numbered(text[])', batched => true)});
my $stream = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die "no connection: $!";
my $first;
syswrite $stream, "GET /versions/" . 'x' x 6000 . " HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";
for my $version (1 .. 12)
{
	version($version);
	while (defined(my $line = readline $stream)) { last if $line =~ /"version" : $version\b/ }
	$first = memory() if $version == 3;
}
cmp_ok(memory(), '<=', $first + 8192, 'a stream needs no more memory after changes of the routes');
my $front = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon front'});
my @others = map { my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port"); syswrite $s, "GET /versions/$_ HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"; $s } 1 .. 3;
for my $other (@others) { while (defined(my $line = readline $other)) { last if $line =~ /"version"/ } }
sql(q{BEGIN; SELECT coupon_route_drop('GET', '/versions/{name}');
	CREATE FUNCTION plainly(name text) RETURNS json STABLE LANGUAGE sql AS $$ SELECT json_build_object('plain', name) $$;
	SELECT coupon_route_add('GET', '/versions/{name}', 'plainly(text)'); COMMIT});
poll_until('the other route', sub { $http->get("http://127.0.0.1:$port/versions/x")->{content} =~ /plain/ });
for my $open ($stream, @others)
{
	my $seen = '';
	while (defined(my $line = readline $open)) { $seen .= $line; last if $line =~ /^0\r?$/ }
	like($seen, qr/event: problem\n.*unknown_route/s, 'a stream whose route has become one without events ends');
}
is(sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon front'}), $front, '  and nothing else does');
close $_ for $stream, @others;

# ---- rows that are locked in another order by somebody else, as by another worker ----

sql(q{CREATE TABLE counter (i integer PRIMARY KEY, n integer); INSERT INTO counter VALUES (1, 0), (2, 0); GRANT ALL ON counter TO coupon_service;
	CREATE FUNCTION bump(c integer) RETURNS json LANGUAGE sql AS $$ UPDATE public.counter SET n = n + 1 WHERE i = c RETURNING json_build_object('n', n) $$;
	SELECT coupon_route_add('POST', '/bump', 'bump(integer)')});
reload($node, "coupon.http_lock_timeout = '@{[ CouponTest::PATIENCE ]}s'\ncoupon.http_statement_timeout = '@{[ CouponTest::PATIENCE ]}s'\n");
poll_until('the settings', sub { sql('SHOW coupon.http_lock_timeout') ne '1s' && $http->get("http://127.0.0.1:$port/bump")->{status} == 405 });
my $rival = $node->background_psql('postgres');
$rival->query_safe('BEGIN; UPDATE counter SET n = 10 WHERE i = 2');
my @bumps = begun(map { calling('POST', '/bump', { c => $_ }) } 1, 2);
poll_until('the second to wait', sub { sql(q{SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted AND a.backend_type = 'coupon front'}) });
$rival->query_safe('UPDATE counter SET n = n + 10 WHERE i = 1; COMMIT');
is(join(' ', map { answer($_) } @bumps), '200 200', 'who waits for a row keeps no other call\'s from others');
is(sql(q{SELECT string_agg(n::text, ' ' ORDER BY i) FROM counter}), '11 11', '  and each is done once');
$rival->quit;

# ---- a route whose function is gone, with the type of an argument ----

sql(q{CREATE TYPE color AS ENUM ('red'); CREATE FUNCTION paint(c color) RETURNS json STABLE LANGUAGE sql AS $$ SELECT to_json(c) $$;
	SELECT coupon_route_add('GET', '/paint/{c}', 'paint(color)')});
poll_until('the route', sub { $http->get("http://127.0.0.1:$port/paint/red")->{content} eq '"red"' });
sql('DROP TYPE color CASCADE');
poll_until('the routes', sub { $http->get("http://127.0.0.1:$port/paint/red")->{status} != 200 });
is($http->get("http://127.0.0.1:$port/paint/red")->{status}, 404, 'a route whose types are gone is none');
is($http->get("http://127.0.0.1:$port/campaigns/1")->{status}, 200, '  and the others are served');
is($http->get("http://127.0.0.1:$port/openapi.json")->{status}, 200, '  and described');

# ---- a database that the front cannot serve ----

sql(q{CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'});
$node->append_conf('postgresql.conf', "coupon.http_database = 'latin'");
my $offset = -s $node->logfile;
$node->restart;
$node->wait_for_log(qr/Database "latin" is in LATIN1/, $offset);
pass('a database in another encoding is named');

done_testing();
