# The HTTP front: every route of the neutral contract by real HTTP, tokens,
# bad input, waiting, event streams, overload, and what a signal, a kill, a
# reload, a lock and a standby do to it.
use strict;
use warnings;

use CouponNginx qw(free_port);
use CouponTest;
use Digest::SHA qw(hmac_sha256);
use HTTP::Tiny;
use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use MIME::Base64 qw(encode_base64url);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $json = JSON::PP->new->canonical->allow_nonref->utf8;
my $port = free_port();
my $node = new_server('front', <<"END", allows_streaming => 1);
coupon.http_listen = '127.0.0.1:$port'
coupon.http_role = 'coupon_service'
END

sub sql { return $node->safe_psql('postgres', shift) }

my $http = HTTP::Tiny->new(timeout => CouponTest::PATIENCE, keep_alive => 0, max_redirect => 0);

# request(method, path, body, headers): the answer, its content decoded; a body
# that is a reference is sent as JSON
sub request
{
	my ($method, $path, $body, %headers) = @_;
	my $answer = $http->request($method, "http://127.0.0.1:$port$path", {
			headers => { ref $body ? ('Content-Type' => 'application/json') : (), %headers },
			defined $body ? (content => ref $body ? $json->encode($body) : $body) : () });

	$answer->{json} = eval { $json->decode($answer->{content}) };
	return $answer;
}

# told(method, path, body, headers): "status word", the word being the status or
# the code of a problem
sub told
{
	my $answer = request(@_);

	return "$answer->{status} " . ($answer->{json}{code} && $answer->{status} >= 400 ? $answer->{json}{code} : $answer->{json}{status} // '');
}

poll_until('the front', sub { request('GET', '/healthz')->{status} == 200 });
poll_until('workers', sub { request('GET', '/readyz')->{status} == 200 });
pass('/healthz and /readyz');

# ---- issues ----

sql(q{SELECT coupon_campaign_create('one', 2)});
sql(q{SELECT coupon_campaign_create('paused', 2); SELECT coupon_campaign_pause(2)});
sql(q{SELECT coupon_campaign_create('closed', 2); SELECT coupon_campaign_close(3)});
sql(q{SELECT coupon_campaign_create('later', 2, opens_at => now() + interval '1 day')});
sql(q{SELECT coupon_room_create('hall', 1, session_ttl => '1 day', idle_ttl => '1 day'); SELECT coupon_campaign_create('hall', 2); SELECT coupon_campaign_require_room(5, 'hall')});
sql(q{SELECT coupon_campaign_create('codes', 0); SELECT coupon_codes_import(6, '{C-1}')});

my $first = request('POST', '/campaigns/1/issues', { user_id => 'alice' });
is("$first->{status} $first->{json}{status} $first->{json}{user_id} $first->{json}{campaign_id}", '201 issued alice 1', '201 issued');
is($first->{headers}{'content-type'}, 'application/json', '  its type');
is(sql(q{SELECT serial FROM coupon.issuance WHERE campaign_id = 1 AND user_id = 'alice'}), $first->{json}{serial}, '  the row is there when the answer is');
is(sql(q{SELECT count(*) FROM coupon.outbox WHERE type = 'coupon.issued' AND key = 'alice'}), 1, '  and its event');
my $again = request('POST', '/campaigns/1/issues', { user_id => 'alice' });
is("$again->{status} $again->{json}{status} $again->{json}{serial}", "200 already_issued $first->{json}{serial}", '200 already issued, the same unit');
is(told('POST', '/campaigns/1/issues', 'user_id=bob', 'Content-Type' => 'application/x-www-form-urlencoded'), '201 issued', 'by a form');
is(told('POST', '/campaigns/1/issues', { user_id => 'carol' }), '409 sold_out', '409 sold out');
is(told('POST', '/campaigns/2/issues', { user_id => 'carol' }), '503 paused', '503 paused');
is(request('POST', '/campaigns/2/issues', { user_id => 'carol' })->{headers}{'retry-after'}, 1, '  with Retry-After');
is(told('POST', '/campaigns/3/issues', { user_id => 'carol' }), '410 closed', '410 closed');
is(told('POST', '/campaigns/4/issues', { user_id => 'carol' }), '425 not_open', '425 not open');
is(told('POST', '/campaigns/5/issues', { user_id => 'carol' }), '403 not_admitted', '403 not admitted');
is(request('POST', '/campaigns/6/issues', { user_id => 'carol' })->{json}{code}, 'C-1', 'a code');
is(told('POST', '/campaigns/99/issues', { user_id => 'carol' }), '404 unknown_campaign', '404 for an unknown campaign');
is(request('GET', '/campaigns/1')->{json}{remaining}, 0, 'GET /campaigns/{campaign_id}');
is(told('GET', '/campaigns/99'), '404 unknown_campaign', '  of none');

# ---- bad input names what is wrong ----

for my $bad (
	[ 'POST', '/campaigns/1/issues', '{"user_id":', 400 ], [ 'POST', '/campaigns/1/issues', '[1]', 400 ],
	[ 'POST', '/campaigns/1/issues', {}, 400, 'user_id' ], [ 'POST', '/campaigns/1/issues', { user_id => '' }, 400 ],
	[ 'POST', '/campaigns/1/issues', { user_id => 'x' x 300 }, 400 ], [ 'POST', '/campaigns/1/issues', { user_id => undef }, 400 ],
	[ 'POST', '/campaigns/1/issues', { user_id => 'a', stock => 1 }, 400, 'stock' ],
	[ 'POST', '/campaigns/one/issues', { user_id => 'a' }, 400, 'campaign_id' ],
	[ 'POST', '/campaigns/1/issues?user_id=a', { user_id => 'a' }, 400, 'user_id' ],
	[ 'POST', '/campaigns/99999999999999999999/issues', { user_id => 'a' }, 400, 'campaign_id' ],
	[ 'GET', '/campaigns/1/requests/x', undef, 400, 'request_id' ],
	[ 'GET', '/campaigns/%00', undef, 400 ], [ 'GET', '/campaigns/%zz', undef, 400 ], [ 'GET', '/campaigns/%ff', undef, 400 ],
	[ 'POST', '/campaigns/1/issues', '{"user_id":"a' . "\xff" . '"}', 400 ],
	[ 'POST', '/campaigns/1/issues', '{"user_id":' . '[' x 5000, 400 ],
	[ 'POST', '/campaigns/1/issues', '{"user_id":"\u0000"}', 400 ],
	[ 'POST', '/campaigns/1/issues', '{"user_id":"' . 'x' x 70000 . '"}', 413 ],
	[ 'GET', '/nowhere', undef, 404 ], [ 'GET', '/', undef, 404 ], [ 'GET', '/campaigns/1/issues/../..', undef, 404 ],
	[ 'DELETE', '/campaigns/1/issues', undef, 405 ])
{
	my ($method, $path, $body, $status, $named) = @$bad;
	my $answer = request($method, $path, $body);

	is($answer->{status}, $status, "$status: $method $path " . substr(ref $body ? $json->encode($body) : $body // '', 0, 40)) or diag($answer->{content});
	is($answer->{headers}{'content-type'}, 'application/problem+json', '  is a problem');
	like($answer->{json}{title}, qr/"$named"/, "  that names $named") if $named;
}
is(request('DELETE', '/campaigns/1/issues')->{headers}{allow}, 'POST', '405 with Allow');
is(request('OPTIONS', '/campaigns/1')->{headers}{allow}, 'GET, HEAD, OPTIONS', 'OPTIONS');
my $head = request('HEAD', '/campaigns/1');
is("$head->{status} $head->{content}", '200 ', 'HEAD');

# ---- requests ----

sql(q{SELECT coupon_campaign_create('requests', 5)});
my $accepted = request('POST', '/campaigns/7/requests', { user_id => 'dave' });
is($accepted->{status}, 202, 'a request: 202');
like($accepted->{headers}{location}, qr{^/campaigns/7/requests/[-0-9a-f]{36}$}, '  with Location');
my $decided = request('GET', $accepted->{headers}{location}, undef, 'Prefer' => 'wait=30');
is("$decided->{status} $decided->{json}{status} $decided->{json}{outcome}", '200 completed issued', 'waited for by Prefer: wait');
is(told('POST', '/campaigns/7/requests', { user_id => 'dave' }), '200 refused', 'who has a unit is told so');
is(told('GET', '/campaigns/7/requests/00000007-0000-8000-8000-000000000000'), '404 not_requested', 'no such request');
my $keyed = request('POST', '/campaigns/7/requests', { user_id => 'erin' }, 'Idempotency-Key' => 'k1');
is(request('POST', '/campaigns/7/requests', { user_id => 'erin' }, 'Idempotency-Key' => 'k1')->{json}{request_id}, $keyed->{json}{request_id}, 'Idempotency-Key: the same request');

# ---- holds ----

sql(q{SELECT coupon_campaign_create('holds', 3)});
my $hold = request('POST', '/campaigns/8/holds', { user_id => 'frank', serial => 2 });
is("$hold->{status} $hold->{json}{status} $hold->{json}{serial}", '201 held 2', 'a hold: 201');
is(told('POST', '/campaigns/8/holds', { user_id => 'grace', serial => 2 }), '409 taken', 'taken: 409');
is(told('POST', '/campaigns/8/holds/2/confirmation', { user_id => 'frank', ref => 'p1' }), '200 confirmed', 'confirmed');
is(told('POST', '/campaigns/8/holds/2/confirmation', { user_id => 'frank', ref => 'p1' }), '200 already_confirmed', 'and again');
is(told('POST', '/campaigns/8/holds', { user_id => 'heidi' }), '201 held', 'any unit');
my $serial = sql(q{SELECT serial FROM coupon.issuance WHERE campaign_id = 8 AND user_id = 'heidi'});
is(told('DELETE', "/campaigns/8/holds/$serial?user_id=heidi"), '200 released', 'released');
is(told('DELETE', "/campaigns/8/holds/$serial?user_id=heidi"), '404 not_held', 'and not twice');
is(told('POST', '/campaigns/8/holds', { user_id => 'ivan', ttl => 'soon' }), '400 invalid_argument', 'a bad ttl');

# ---- rooms, and events ----

# open_stream(path, headers): a socket on which events arrive
sub open_stream
{
	my ($path, %headers) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die "no connection: $!";

	print $socket "GET $path HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n", (map { "$_: $headers{$_}\r\n" } keys %headers), "\r\n";
	return { socket => $socket, seen => '' };
}

# stream_status(path): what a stream is answered with at once
sub stream_status
{
	my $stream = open_stream(@_);

	return await($stream, qr/\r\n/) && $stream->{seen} =~ m{^HTTP/1\.1 (\d+)} ? $1 : 0;
}

# await(stream, pattern): until what has arrived matches it
sub await
{
	my ($stream, $pattern) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while ($stream->{seen} !~ $pattern)
	{
		my $left = $deadline - time;

		return 0 if $left <= 0 || !IO::Select->new($stream->{socket})->can_read($left);
		return $stream->{seen} =~ $pattern unless sysread $stream->{socket}, $stream->{seen}, 4096, length $stream->{seen};
	}
	return 1;
}

my $ticket = request('POST', '/rooms/hall/tickets', { user_id => 'judy' });
is($ticket->{status}, 201, 'a ticket: 201');
my $mine = "/rooms/hall/tickets/$ticket->{json}{token}";
is($ticket->{headers}{location}, $mine, '  with Location');
poll_until('admission', sub { request('GET', $mine)->{json}{status} eq 'admitted' });
is(told('POST', '/campaigns/5/issues', { user_id => 'judy' }), '201 issued', 'who is admitted gets a unit');
my $second = request('POST', '/rooms/hall/tickets', { user_id => 'ken' });
is("$second->{json}{status} $second->{json}{position}", 'waiting 1', 'the next one waits');
my $stream = open_stream("/rooms/hall/tickets/$second->{json}{token}");
ok(await($stream, qr/event: status\ndata: \{"status":"waiting".*?\n\n/s), 'events: the position');
like($stream->{seen}, qr{^HTTP/1.1 200 .*\r\nContent-Type: text/event-stream\r\n}s, '  their type');
like($stream->{seen}, qr/\r\nX-Accel-Buffering: no\r\n/, '  unbuffered by nginx');
is(request('DELETE', $mine)->{status}, 204, 'leaving: 204');
ok(await($stream, qr/data: \{"status":"admitted"/), 'events: admitted');
my ($id) = $stream->{seen} =~ /.*^id: (\w+)$/ms;
close $stream->{socket};
my $resumed = open_stream("/rooms/hall/tickets/$second->{json}{token}", 'Last-Event-ID' => $id);
ok(await($resumed, qr/retry: \d+/), 'events resumed by Last-Event-ID');
unlike($resumed->{seen}, qr/data:/, '  do not tell what was told');
is(request('DELETE', "/rooms/hall/tickets/$second->{json}{token}")->{status}, 204, 'leaving while a stream is open');
ok(await($resumed, qr/event: problem\ndata: .*"code":"gone"/), 'events: the ticket has ended');
is(told('GET', $mine), '410 gone', 'a ticket that has ended: 410');
is(told('GET', '/rooms/hall/tickets/x'), '410 gone', 'what is no ticket: 410');
is(told('POST', '/rooms/none/tickets', { user_id => 'a' }), '404 unknown_room', 'no such room: 404');
my $decision = open_stream($accepted->{headers}{location});
ok(await($decision, qr/data: .*"status":"completed"/), 'events of a request');
ok(await($decision, qr/\r\n0\r\n\r\n\z/), '  end with the decision');

# ---- one call's error is its own ----

sql(q{SELECT coupon_campaign_create('broken', 1000); SELECT coupon_campaign_create('whole', 1000)});
sql(q{ALTER TABLE coupon.issuance ADD CONSTRAINT mine CHECK (campaign_id <> 9)});
my @sockets;
for my $i (1 .. 60)
{
	my $campaign = $i % 2 ? 9 : 10;
	my $body = qq({"user_id":"u$i"});
	my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die "no connection: $!";

	printf $socket "POST /campaigns/$campaign/issues HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", length $body, $body;
	push @sockets, $socket;
}
my %outcomes;
for my $i (1 .. 60)
{
	my $answer = do { local $/; readline $sockets[ $i - 1 ] };

	$outcomes{ ($i % 2 ? 'broken ' : 'whole ') . ($answer =~ m{^HTTP/1.1 (\d+)})[0] }++;
}
is_deeply(\%outcomes, { 'broken 503' => 30, 'whole 201' => 30 }, 'F25: a campaign whose rows are refused fails alone') or diag(explain \%outcomes);
sql('ALTER TABLE coupon.issuance DROP CONSTRAINT mine');

# ---- routes of one's own ----

sql(q{
	CREATE FUNCTION greet(name text, times integer DEFAULT 1, tags text[] DEFAULT '{}') RETURNS json STABLE LANGUAGE plpgsql AS $$
	BEGIN
		IF name = 'nobody' THEN RAISE SQLSTATE 'PT418' USING MESSAGE = 'no teapot'; END IF;
		IF name = 'sleeper' THEN PERFORM pg_sleep(60); END IF;
		IF name = 'boss' THEN PERFORM set_config('role', 'none', true); END IF;
		PERFORM set_config('response.headers', CASE name WHEN 'headers' THEN 'none' ELSE '[{"X-Greeting": "yes"}]' END, true);
		IF name = 'status' THEN PERFORM set_config('response.status', '99', true); END IF;
		RETURN json_build_object('hello', name, 'times', times, 'tags', tags, 'role', current_user, 'method', current_setting('request.method'),
			'path', current_setting('request.path'), 'agent', current_setting('request.headers')::json ->> 'x-agent');
	END $$;
	CREATE TABLE made (n integer PRIMARY KEY);
	CREATE FUNCTION make(n integer) RETURNS void LANGUAGE sql AS 'INSERT INTO public.made VALUES (n)';
	GRANT INSERT ON made TO coupon_service;
	SELECT coupon_route_add('GET', '/greetings/{name}', 'greet(text, integer, text[])');
	SELECT coupon_route_add('POST', '/greetings/{name}', 'greet(text, integer, text[])');
	SELECT coupon_route_add('POST', '/made', 'make(integer)');
});
poll_until('the route', sub { request('GET', '/greetings/x')->{status} == 200 });
my $greeting = request('GET', '/greetings/J%C3%BCrgen?times=3', undef, 'X-Agent' => 'test');
is_deeply($greeting->{json}, { hello => "J\x{fc}rgen", times => 3, tags => [], role => 'coupon_service', method => 'GET', path => '/greetings/J%C3%BCrgen', agent => 'test' },
	'a function sees its arguments, its role and what PostgREST would show it') or diag($greeting->{content});
is($greeting->{headers}{'x-greeting'}, 'yes', '  and sets headers');
is_deeply(request('POST', '/greetings/x', { tags => [ 'a', 'b' ] })->{json}{tags}, [ 'a', 'b' ], '  a JSON array as an array');
is(told('GET', '/greetings/x?times=many'), '400 invalid_argument', '  a bad value: 400');
is(told('GET', '/greetings/nobody'), '418 PT418', '  PTnnn is a status');
is(told('GET', '/greetings/boss'), '403 42501', '  SET ROLE is refused: the worker is a superuser, the caller is not');
my $logged = -s $node->logfile;
is(told('GET', "/greetings/$_"), '500 39000', "  response.$_ that is none: the function's mistake, not the caller's") for qw(status headers);
is(scalar(() = slurp_file($node->logfile, $logged) =~ m{LOG:  GET /greetings/\{name\} failed: }g), 2, '  of which the log tells');
is(request('POST', '/made', { n => 1 })->{status}, 204, 'a function without a result: 204');
is(told('POST', '/made', { n => 1 }), '409 23505', '  a duplicate: 409');
is(sql('SELECT count(*) FROM made'), 1, '  committed once');
like(sql_error($node, 'postgres', q{SELECT coupon_route_add('GET', '/greetings/{nobody}', 'greet(text, integer, text[])')}), qr/no parameter "nobody"/, 'a template that names no parameter is refused');
like(sql_error($node, 'postgres', q{SELECT coupon_route_add('GET', '/greetings/{name}', 'greet(text, integer, text[])')}), qr/23505.*HINT/s, 'a route that is there already is refused');
my $parameters = join ', ', map { "p$_ integer DEFAULT 0" } 1 .. 99;
like(sql_error($node, 'postgres', qq{CREATE FUNCTION wide($parameters) RETURNS json LANGUAGE sql AS \$\$ SELECT '{}'::json \$\$; SELECT coupon_route_add('GET', '/wide', 'wide'::regproc::regprocedure)}),
	qr/too many parameters/, 'a function of 99 parameters is refused');
sql('DROP FUNCTION make(integer)');
poll_until('the route is not served', sub { request('POST', '/made', { n => 2 })->{status} == 404 });
is(told('GET', '/greetings/x'), '200 ', 'a route whose function is gone is left out, the others serve');
reload($node, "coupon.http_statement_timeout = '200ms'\n", sub { sql('SHOW coupon.http_statement_timeout') eq '200ms' });
is(told('GET', '/greetings/sleeper'), '503 57014', 'a function that takes too long: 503');
reload($node, "coupon.http_statement_timeout = '5s'\n");
is(sql(q{SELECT coupon_route_drop('GET', '/greetings/{name}')}), 't', 'a route is dropped');
poll_until('the drop', sub { request('GET', '/greetings/x')->{status} == 405 });

# ---- tokens ----

my $secret = 'a secret that has more than 32 bytes';
my $other = 'another secret with more than 32 bytes';
my $directory = $node->data_dir;
sub write_key
{
	my ($name, $key) = @_;

	append_to_file("$directory/$name", $key);
	chmod 0600, "$directory/$name" or die "chmod: $!";
	return;
}
sub token
{
	my ($claims, $key, $alg) = @_;
	my $text = join '.', map { encode_base64url($json->encode($_)) } { alg => $alg // 'HS256', typ => 'JWT' }, $claims;

	return 'Bearer ' . "$text." . ($alg && $alg eq 'none' ? '' : encode_base64url(hmac_sha256($text, $key // $secret)));
}
write_key('key1', "$secret\n");
write_key('key2', $other);
sql('CREATE ROLE visitor; GRANT coupon_user TO visitor; CREATE ROLE stranger; CREATE ROLE boss SUPERUSER; GRANT coupon_user TO boss');
reload($node, "coupon.http_role = ''\ncoupon.http_jwt_algorithm = 'HS256'\ncoupon.http_jwt_key_files = 'key1, key2'\ncoupon.http_jwt_audience = 'shop'\n",
	sub { request('GET', '/campaigns/1')->{status} == 401 });
my $tokens = sql(q{SELECT coupon_campaign_create('tokens', 100)});
my %good = (role => 'visitor', sub => 'mallory', aud => 'shop', exp => int(time) + 600);
sub told_by { my ($authorization, $body) = @_; return told('POST', "/campaigns/$tokens/issues", $body // {}, 'Authorization' => $authorization) }
SKIP:
{
	skip 'AddressSanitizer lets nobody load libjwt as it has to be', 7 if $ENV{COUPON_SANITIZED};
	is(told_by(token(\%good)), '201 issued', 'a token: its sub is the user');
	is(sql("SELECT user_id FROM coupon.issuance WHERE campaign_id = $tokens"), 'mallory', '  and nobody else');
	is(told_by(token(\%good), { user_id => 'mallory' }), '200 already_issued', '  who may be named');
	is(told_by(token(\%good), { user_id => 'alice' }), '403 other_user', '  another may not');
	is(told_by(token(\%good, $other)), '200 already_issued', 'signed with the second key');
	is(told_by(token({ %good, sub => 'niaj', aud => [ 'x', 'shop' ] })), '201 issued', 'one of several audiences');
	is(told_by(token({ role => 'coupon_service', aud => 'shop' }), { user_id => 'olivia' }), '201 issued', 'an application speaks for its users');
}
for my $bad (
	[ token(\%good, 'a secret that nobody knows of here, too') => 'another signature' ], [ token(\%good, '', 'none') => 'no signature' ],
	[ token(\%good, undef, 'HS384') => 'another algorithm' ], [ token({ %good, exp => int(time) - 60 }) => 'expired' ],
	[ token({ %good, nbf => int(time) + 600 }) => 'not valid yet' ], [ token({ %good, aud => 'other' }) => 'another audience' ],
	[ token({ role => 'visitor', aud => 'shop' }) => 'no sub, and no right to speak for others' ], [ token({ %good, role => 'stranger' }) => 'a role that was not let in' ],
	[ token({ %good, role => 'boss' }) => 'a superuser' ], [ token({ %good, role => 'nobody' }) => 'a role that does not exist' ], [ token({ sub => 'x', aud => 'shop' }) => 'no role' ],
	[ token({ %good, sub => '' }) => 'an empty sub' ], [ 'Bearer x' => 'no token' ], [ 'Bearer a.b.c' => 'no token, either' ], [ 'Basic eDp5' => 'another scheme' ], [ 'Bearer ' . 'x' x 5000 => 'too long' ])
{
	is(told_by($bad->[0], { user_id => 'x' }), '401 token', "401: $bad->[1]");
}
is(request('GET', '/campaigns/1')->{headers}{'www-authenticate'}, 'Bearer', '401 with WWW-Authenticate');
is(request('GET', '/healthz')->{status}, 200, '/healthz needs no token');
sql('REVOKE coupon_user FROM visitor');
is(told_by(token(\%good)), '401 token', 'a role that is not let in any more');
chmod 0644, "$directory/key1";
reload($node, "coupon.http_jwt_key_files = 'key1'\n", sub { told_by(token({ role => 'coupon_service', aud => 'shop' }, $other), { user_id => 'x' }) eq '401 token' });
is(told_by(token({ role => 'coupon_service', aud => 'shop' }), { user_id => 'x' }), '401 token', 'a key that others can read is not used');
like(slurp_file($node->logfile), qr/LOG: .*(key1.* is not used: others can read it|no way to load libjwt)/, '  and the log says so');
reload($node, "coupon.http_role = 'coupon_service'\ncoupon.http_jwt_algorithm = ''\n", sub { request('GET', '/campaigns/1')->{status} == 200 });

# ---- CORS and rates ----

reload($node, "coupon.http_cors_origins = 'https://shop.example'\n", sub { request('GET', '/campaigns/1', undef, Origin => 'https://shop.example')->{headers}{'access-control-allow-origin'} });
is(request('GET', '/campaigns/1', undef, Origin => 'https://shop.example')->{headers}{'access-control-allow-origin'}, 'https://shop.example', 'CORS: an origin that may');
is(request('GET', '/campaigns/1', undef, Origin => 'https://evil.example')->{headers}{'access-control-allow-origin'}, undef, '  one that may not');
is(request('OPTIONS', '/campaigns/1/issues', undef, Origin => 'https://shop.example', 'Access-Control-Request-Method' => 'POST')->{headers}{'access-control-allow-methods'}, 'POST', '  the preflight');
reload($node, "coupon.http_rate_per_address = 1\ncoupon.http_burst = 3\n", sub { sql('SHOW coupon.http_burst') eq '3' });
# on a machine that is too slow for more a second, all are within
my %rate;
poll_until('429 beyond the rate', sub {
	%rate = ();
	$rate{ request('GET', '/campaigns/1')->{status} }++ for 1 .. 20;
	return ($rate{429} // 0) >= 10 });
is(($rate{429} // 0) + ($rate{200} // 0), 20, 'beyond the rate 429, within 200') or diag(explain \%rate);
reload($node, "coupon.http_rate_per_address = 0\n", sub { request('GET', '/campaigns/1')->{status} == 200 && request('GET', '/campaigns/1')->{status} == 200 && sql('SHOW coupon.http_rate_per_address') eq '0' });

# ---- too many wait ----

my $crowd = request('POST', '/rooms/hall/tickets', { user_id => 'quentin' });
my $in = open_stream($crowd->{headers}{location});
ok(await($in, qr/event: status/), 'one that waits');
reload($node, "coupon.http_max_waiting = 1\n", sub { stream_status($crowd->{headers}{location}) == 503 });
is(told('GET', $crowd->{headers}{location}, undef, Accept => 'text/event-stream'), '503 full', '503 when too many wait');
is(request('GET', $crowd->{headers}{location})->{status}, 200, '  who does not wait is answered');
reload($node, "coupon.http_max_waiting = 1000\n");
close $in->{socket};

# a function that waits for a lock: it is given up, the others go on
sql(q{SELECT coupon_campaign_create('locked', 10)});
my $locked = sql(q{SELECT max(campaign_id) FROM coupon.campaign});
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE coupon.issuance IN ACCESS EXCLUSIVE MODE');
reload($node, "coupon.http_lock_timeout = '100ms'\n", sub { told('POST', "/campaigns/$locked/issues", { user_id => 'a' }) =~ /^503/ });
is(told('POST', "/campaigns/$locked/issues", { user_id => 'a' }), '503 55P03', 'the table is locked: 503');
is(request('GET', '/healthz')->{status}, 200, '  and the front is alive');
$locker->query_safe('ROLLBACK');
is(told('POST', "/campaigns/$locked/issues", { user_id => 'a' }), '201 issued', '  and issues again');
# routes that could not be read when they had to be are read later
$locker->query_safe('BEGIN; LOCK TABLE coupon.route IN ACCESS EXCLUSIVE MODE');
sql('CREATE FUNCTION another() RETURNS integer LANGUAGE sql RETURN 1');
poll_until('routes that cannot be read', sub { told('GET', '/campaigns/1') eq '503 55P03' });
$locker->query_safe('ROLLBACK');
$locker->quit;
is(request('GET', '/campaigns/1')->{status}, 200, 'routes that could not be read are read when they can be');

# ---- the address moves, the process is killed or ended ----

my $old_port = $port;
$port = free_port();
reload($node, "coupon.http_listen = '127.0.0.1:$port'\n", sub { request('GET', '/healthz')->{status} == 200 });
ok(!IO::Socket::INET->new(PeerAddr => "127.0.0.1:$old_port"), 'the address moves at a reload');
my $pid = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon front'});
sql("SELECT pg_cancel_backend($pid)");
is(request('GET', '/healthz')->{status}, 200, 'who cancels the front while it waits');
is(sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon front'}), $pid, '  does not end it');
my $waiting = open_stream('/rooms/hall/tickets/' . request('POST', '/rooms/hall/tickets', { user_id => 'peggy' })->{json}{token});
ok(await($waiting, qr/event: status/), 'a stream is open');
sql("SELECT pg_terminate_backend($pid)");
ok(await($waiting, qr/\r\n0\r\n\r\n\z/), 'SIGTERM: the stream ends as it should');
poll_until('the next front', sub { request('GET', '/healthz')->{status} == 200 });
isnt(sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon front'}), $pid, '  and another process serves');

# what was answered before a kill is there
my $kill = sql(q{SELECT coupon_campaign_create('kill', 100000)});
my @acknowledged;
for my $i (1 .. 300)
{
	my $answer = request('POST', "/campaigns/$kill/issues", { user_id => "k$i" });

	push @acknowledged, "k$i" if $answer->{status} == 201;
	kill KILL => sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon front'}) if $i == 150;
	last if $i > 150 && $answer->{status} == 599;
}
poll_until('the server', sub { request('GET', '/readyz')->{status} == 200 });
is(sql('SELECT count(*) FROM unnest(ARRAY[' . join(',', map { "'$_'" } @acknowledged) . "]) u WHERE NOT EXISTS (SELECT FROM coupon.issuance WHERE campaign_id = $kill AND user_id = u)"),
	0, 'F21: a unit for every answer that was given before kill -9 (' . @acknowledged . ')');
is(told('POST', "/campaigns/$kill/issues", { user_id => 'k1' }), '200 already_issued', '  and asking again tells which');

conserved($node, 'postgres', 'front');

# ---- DROP EXTENSION, DROP DATABASE ----

sql('DROP EXTENSION coupon CASCADE');
is(request('GET', '/campaigns/1')->{status}, 503, 'without the extension: 503');
is(request('GET', '/healthz')->{status}, 503, '  and not healthy');
sql('CREATE EXTENSION coupon');
sql(q{SELECT coupon_campaign_create('new', 2)});
poll_until('the new extension', sub { request('GET', '/campaigns/1')->{status} == 200 });
is(told('POST', '/campaigns/1/issues', { user_id => 'a' }), '201 issued', 'a new one is served');

# who wants to rename the database does not wait for the front
$node->safe_psql('template1', 'ALTER DATABASE postgres RENAME TO away');
$node->safe_psql('template1', 'ALTER DATABASE away RENAME TO postgres');
poll_until('the front', sub { request('GET', '/campaigns/1')->{status} == 200 });
pass('the database can be renamed, and is served again');

# ---- a standby reads ----

sql(q{CREATE FUNCTION how_many() RETURNS bigint STABLE SECURITY DEFINER LANGUAGE sql AS 'SELECT count(*) FROM coupon.issuance';
	GRANT EXECUTE ON FUNCTION how_many TO coupon_service; SELECT coupon_route_add('GET', '/count', 'how_many()')});
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('front_standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
my $primary_port = $port;
my $standby_port = free_port();
$standby->append_conf('postgresql.conf', "coupon.http_listen = '127.0.0.1:$standby_port'\n");
$standby->start;
$port = $standby_port;
poll_until('the standby', sub { request('GET', '/healthz')->{status} == 200 });
is(told('GET', '/readyz'), '503 standby', 'a standby is not ready');
is(request('GET', '/count')->{content}, 1, '  it reads tables');
sql(q{SELECT coupon_issue(1, 'before'); SELECT coupon_campaign_add_stock(1, 4); SELECT coupon_hold(1, 4, 'holder'); SELECT coupon_issue(1, 'short')});
$node->wait_for_catchup($standby);
my @left = qw(stock issued held remaining);
is_deeply({ map { $_ => request('GET', '/campaigns/1')->{json}{$_} } @left }, { stock => 6, issued => 3, held => 1, remaining => 2 },
	'  and counts them for the status of a campaign');
is($standby->safe_psql('postgres', q{SELECT in_flight, answered_issued IS NULL FROM coupon_status(1)}), '0|t', '  which knows of nothing else');
is(told('GET', '/campaigns/99'), '404 unknown_campaign', '  and of no other');
my $asked = sql(q{SELECT (coupon_request(1, 'asker')).request_id});
is(told(@$_), '503 25006', "  and answers not: $_->[0] $_->[1]")
	for [ 'POST', '/campaigns/1/issues', { user_id => 'b' } ], [ 'POST', '/campaigns/1/requests', { user_id => 'b' } ],
	[ 'GET', "/campaigns/1/requests/$asked" ], [ 'POST', '/rooms/hall/tickets', { user_id => 'b' } ],
	[ 'DELETE', '/rooms/hall/tickets/1.1.' . '0' x 32 ], [ 'GET', '/rooms/hall/tickets/1.1.' . '0' x 32 ];
$standby->promote;
poll_until('the promotion', sub { request('GET', '/readyz')->{status} == 200 });
is(told('POST', '/campaigns/1/issues', { user_id => 'b' }), '201 issued', 'promoted, it serves by itself');
$standby->stop;
$port = $primary_port;

$node->stop;
server_log_is_clean($node, 'front');
done_testing();
