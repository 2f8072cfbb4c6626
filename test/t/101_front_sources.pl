# The routes of examples/sources and examples/concert by the extension's own
# front: the table of calls that test/t/095_http.pl plays in PostgREST's
# envelope, a turn of several calls, the concert's flow, and all of it behind
# nginx.
use strict;
use warnings;

use CouponContract;
use CouponNginx;
use CouponTest;
use IO::Socket::INET;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'skipped: AddressSanitizer lets nobody load libjwt as it has to be' if $ENV{COUPON_SANITIZED};

my $json = JSON::PP->new->canonical->allow_nonref->utf8;
my $secret = 'a secret that has more than 32 bytes';
my $port = free_port();
my $base = "http://127.0.0.1:$port";
my $node = new_server('front_sources', <<"END");
coupon.http_listen = '127.0.0.1:$port'
coupon.http_jwt_algorithm = 'HS256'
coupon.http_jwt_key_files = 'key'
coupon.http_trusted_proxies = '127.0.0.1'
END
sub sql { return $node->safe_psql('postgres', shift) }

append_to_file($node->data_dir . '/key', $secret);
chmod 0600, $node->data_dir . '/key' or die "chmod: $!";
load_example($node, 'postgres', $_) for map { "sources/$_.sql" } qw(roles http api routes), qw(api routes);
$node->reload;

# call(method, path, body, headers, role, claims): over HTTP, by a token of that
# role; without one for anonymous
sub call
{
	my ($method, $path, $body, $headers, $role, $claims) = @_;
	my %headers = %{ $headers // {} };

	$role //= 'coupon_web_server';
	$headers{Authorization} = 'Bearer ' . token($secret, { role => $role, exp => int(time) + 3600, %{ $claims // {} } }) if $role ne 'coupon_web_anonymous';
	$headers{'Content-Type'} //= 'application/json' if defined $body;
	return request($base, $method, $path, $body, %headers);
}
sub told
{
	my $answer = call(@_);

	return join ' ', grep { defined } $answer->{status}, ref $answer->{json} eq 'HASH' ? $answer->{json}{error}{code} // ($answer->{status} >= 400 ? $answer->{json}{code} : undef) : undef;
}

poll_until('the front', sub { request($base, 'GET', '/readyz')->{status} == 200 });
poll_until('its key', sub { call('GET', '/admin/kafka/status', undef, {}, 'coupon_web_admin')->{status} == 200 });
poll_until('a worker', sub { sql('SELECT workers FROM coupon_group_status()') eq '1' });

play(source_cases(), $node, 'postgres', \&call);

# ---- several calls of one turn ----

# The front waits for a lock while two calls arrive, which are one turn then. The
# second of them waits, too, until another session has asked for its user.
sql(qq{ALTER SYSTEM SET coupon.http_lock_timeout = '@{[ CouponTest::PATIENCE ]}s'});
sql(qq{ALTER SYSTEM SET coupon.http_statement_timeout = '@{[ CouponTest::PATIENCE ]}s'});
sql('SELECT pg_reload_conf()');
poll_until('the reload', sub { sql(q{SELECT setting FROM pg_settings WHERE name = 'coupon.http_lock_timeout'}) == 1000 * CouponTest::PATIENCE });
my $shared = sql(q{SELECT coupon_campaign_create('SHARED', 5)});
sql(q{CREATE FUNCTION public.gate(n integer) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(n); RETURN '{}'; END $$;
	SELECT coupon_route_add('POST', '/gate', 'public.gate(integer)');
	ALTER FUNCTION sources.target(text, text, text, text) RENAME TO target_at_once;
	CREATE FUNCTION sources.target(user_key text, given_user text, campaign_key text, given_campaign text, OUT user_id text, OUT campaign_id bigint, OUT error jsonb)
	RETURNS record LANGUAGE plpgsql AS $$ BEGIN
		IF given_user = 'b' THEN PERFORM pg_advisory_xact_lock_shared(2); END IF;
		SELECT * INTO user_id, campaign_id, error FROM sources.target_at_once($1, $2, $3, $4);
	END $$; ALTER FUNCTION sources.target(text, text, text, text) OWNER TO coupon_web_owner});
poll_until('the route', sub { told('POST', '/gate', '{"n":3}') eq '200' });
my @gates = map { $node->background_psql('postgres') } 1 .. 2;
$gates[ $_ - 1 ]->query_safe("BEGIN; SELECT pg_advisory_xact_lock($_)") for 1 .. 2;
sub begin_call
{
	my ($path, $body) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die "no connection: $!";

	printf $socket "POST $path HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		token($secret, { role => 'coupon_web_server' }), length $body, $body;
	return $socket;
}
sub end_call
{
	my $answer = do { local $/; readline $_[0] };
	my ($status, $content) = $answer =~ m{^HTTP/1\.1 (\d+).*?\r\n\r\n(.*)}s;

	return "$status " . ($json->decode($content)->{error}{code} // 'accepted');
}
sub front_waits_for { return sql("SELECT count(*) = 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.backend_type = 'coupon front' AND l.locktype = 'advisory' AND l.objid = $_[0] AND NOT l.granted") eq 't' }
my $first = begin_call('/gate', '{"n":1}');
poll_until('the front at the gate', sub { front_waits_for(1) });
my @calls = map { begin_call("/api/coupons/$shared/issue-fcfs/$_", '') } 'a', 'b';
$gates[0]->query_safe('COMMIT');
poll_until('the second call at its gate', sub { front_waits_for(2) });
# nothing is decided meanwhile
my $decision = $node->background_psql('postgres');
$decision->query_safe('BEGIN; LOCK TABLE coupon.issuance IN SHARE MODE');
sql("SELECT coupon_request($shared, 'b'::text)");
$gates[1]->query_safe('COMMIT');
$_->quit for @gates;
end_call($first);
is(end_call($calls[0]), '202 accepted', 'F1: of two calls of a turn the first is accepted');
is(end_call($calls[1]), '409 requested', '  and the second is told of the request that another session has made');
$decision->query_safe('COMMIT');
$decision->quit;
sql('DROP FUNCTION sources.target(text, text, text, text); ALTER FUNCTION sources.target_at_once(text, text, text, text) RENAME TO target');

# ---- the concert ----

load_example($node, 'postgres', "concert/$_.sql") for qw(schema api);
load_example($node, 'postgres', 'concert/load.sql', '-v', 'concerts=2', '-v', 'dates=2', '-v', 'seats=12');
load_example($node, 'postgres', 'concert/routes.sql', '-v', 'open=on') for 1 .. 2;
sql(q{SELECT coupon_room_alter('default', capacity => 100)});
poll_until('the routes', sub { told('GET', '/concerts') eq '400 missing' });

# enter(user): the header of a session
sub enter
{
	my $answer = call('POST', '/queues/enqueue', $json->encode({ userId => shift }));
	my $ticket = { 'X-Access-Token' => $answer->{headers}{'x-access-token'} };

	poll_until('admission', sub { call('GET', '/queues/order', undef, $ticket)->{json}{order} == 0 });
	return $ticket;
}
my $k = enter('kim');
my ($concert) = @{ call('GET', '/concerts', undef, $k)->{json}{concertsList} };
is(shape($concert), 'id: number, title: string', '001: GET /concerts');
my ($schedule) = @{ call('GET', "/concerts/$concert->{id}/schedules", undef, $k)->{json}{schedules} };
is(shape($schedule) . " $schedule->{status}", 'date: string, id: number, status: string AVAILABLE', '001: GET /concerts/{id}/schedules');
my ($seat) = @{ call('GET', "/concerts/schedules/$schedule->{id}/seats", undef, $k)->{json}{seats} };
is(shape($seat) . " $seat->{seatNum} $seat->{status}", 'id: number, seatNum: string, status: string A1 EMPTY', '001: GET /concerts/schedules/{id}/seats');
my $reserved = call('POST', '/concerts/reservation', qq({"userId":"kim","concertSeatId":$seat->{id}}), $k);
is("$reserved->{status} " . shape($reserved->{json}), '200 reservationId: number', '001: POST /concerts/reservation') or diag($reserved->{content});
my $id = $reserved->{json}{reservationId};
my $l = enter('lee');
is(told('POST', '/concerts/reservation', qq({"userId":"lee","concertSeatId":$seat->{id}}), $l), '409 taken', 'F18: the seat is taken');
is(told('POST', "/concerts/reservations/$id/pay", '{"userId":"lee"}', $l), '403 other_user', 'F18: and not paid for by another');
is(told('POST', "/concerts/reservations/$id/pay", '{"userId":"kim"}', { %$k, 'X-Reservation-Id' => 999 }), '400 invalid', 'the reservation is that of the path');
is(told('POST', "/concerts/reservations/$id/pay", '{"userId":"kim","reservationId":1}', $k), '400 malformed', '  and named once');
is(told('POST', "/concerts/reservations/$id/pay", '{"userId":"kim","price":1}', $k), '400 invalid_argument', 'an argument that there is not');
is(told('POST', '/concerts/reservations/x/pay', '{"userId":"kim"}', $k), '400 invalid_argument', 'no number');
is(told('POST', "/concerts/reservations/$id/pay", '{"userId":"kim"}'), '400 missing', 'F24: no ticket');
my $paid = call('POST', "/concerts/reservations/$id/pay", '{"userId":"kim"}', $k);
is("$paid->{status} " . shape($paid->{json}), '200 paymentId: number', '001: POST /concerts/reservations/{id}/pay') or diag($paid->{content});
is(call('POST', "/concerts/reservations/$id/pay", '{"userId":"kim"}', $k)->{json}{paymentId}, $paid->{json}{paymentId}, 'a repetition: the first answer');
is(told('GET', '/queues/order', undef, $k), '401 gone', 'F20: the ticket has ended with the payment');
is((grep { $_->{id} == $seat->{id} } @{ call('GET', "/concerts/schedules/$schedule->{id}/seats", undef, $l)->{json}{seats} })[0]{status}, 'SOLD', 'the seat is sold');
my $mine = call('POST', '/concerts/reservation', '{"userId":"lee","concertSeatId":2}', $l)->{json}{reservationId};
is(call('POST', "/concerts/reservations/$mine/release", '{"userId":"lee"}', $l)->{content}, '{"released": true}', 'POST /concerts/reservations/{id}/release');
my $new = '{"title":"New","dates":["2031-01-01"],"seatAmount":12.0,"price":50.0}';
is(told('POST', '/concerts/create', $new), '403 42501', 'concerts/create: not for an application');
my $created = call('POST', '/concerts/create', $new, {}, 'coupon_web_admin');
is("$created->{status} " . shape($created->{json}), '201 id: number', '001: POST /concerts/create, price 50.0') or diag($created->{content});
is(told('POST', '/concerts/create', '{"title":"New","dates":["now"],"seatAmount":12,"price":50}', {}, 'coupon_web_admin'), '400 invalid', '  "now" is no date');
is(told('POST', '/concerts/create', '{"title":"New","dates":["2031-01-01"],"seatAmount":12,"price":50.5}', {}, 'coupon_web_admin'), '400 invalid', '  nor 50.5 a price');

# ---- Location ----

sql(q{SELECT coupon_room_create(E'a b/\u00fc?', 10)});
my $ticket = call('POST', '/rooms/a%20b%2F%C3%BC%3F/tickets', '{"user_id":"kim"}');
like($ticket->{headers}{location} // '', qr{^/rooms/a%20b%2F%C3%BC%3F/tickets/[\d.a-f]+$}, 'Location is percent-encoded') or diag($ticket->{content});
is(call('GET', $ticket->{headers}{location})->{status}, 200, '  and leads to the ticket');

# ---- behind nginx ----

SKIP:
{
	my $nginx = nginx_program();
	skip 'nginx is not installed (Debian: nginx-light)', 1 unless $nginx;

	my $proxy_port = free_port();
	my $conf = slurp_file('examples/front/nginx.conf');
	is($conf =~ s/listen 127\.0\.0\.1:8080;/listen 127.0.0.1:$proxy_port;/g, 1, 'examples/front/nginx.conf listens on 8080');
	is($conf =~ s/server 127\.0\.0\.1:8000;/server 127.0.0.1:$port;/g, 1, '  and has the front at 8000');
	my ($proxy, $said) = start_nginx($nginx, $proxy_port, $conf);
	unlike($said, qr/\[(warn|error|emerg|crit)\]/, '  and has nothing to say');
	$base = "http://127.0.0.1:$proxy_port";
	my $sale = sql(q{SELECT coupon_campaign_create('PROXY', 3)});

	is(call('POST', "/campaigns/$sale/issues", '{"user_id":"kim"}')->{status}, 201, 'nginx before the front: a unit');
	is(call('POST', '/coupons/issue-sync/lee%20%EC%BF%A0?code=PROXY')->{json}{data}{userId}, "lee \x{cfe0}", '  a path as it came');
	is(told('POST', '/coupons/issue-sync/lee?code=PROXY%00', ''), '400 malformed', '  and what is wrong with it');
	is(told('GET', '/nowhere'), '404 unknown_route', '  no route');
	is(join(' ', map { call('GET', $_)->{status} } '/metrics', '/board', '/board/', '/board.json', '/pages/coupon-board.js'), '404 404 404 404 404', '  what is the operator\'s is not shown');
	is(call('GET', '/%zz')->{json}{code}, 'malformed', '  what nginx refuses is a problem, too');
	is(call('GET', '/' . 'x' x 9000)->{headers}{'content-type'}, 'application/problem+json', '  a URI that is too long');
	is(call('GET', "/campaigns/$sale", undef, { 'Accept-Encoding' => 'gzip' })->{json}{issued}, 2, '  a status');
	my $stream = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$proxy_port") or die "no connection: $!";
	printf $stream "GET %s HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nAuthorization: Bearer %s\r\n\r\n", $ticket->{headers}{location}, token($secret, { role => 'coupon_web_server' });
	my $seen = '';
	poll_until('an event', sub { sysread $stream, $seen, 4096, length $seen; $seen =~ /^data: \{"status":"admitted"/m });
	pass('  events arrive while the stream is open');
	close $stream;
	$proxy->kill_kill(grace => 5);
}

# ---- where users come ----

$base = "http://127.0.0.1:$port";
load_example($node, 'postgres', 'concert/routes.sql');
poll_until('the routes', sub { told('POST', '/campaigns/1/issues', '{"user_id":"kim"}') =~ /^404/ });
is(join(' ', map { told('POST', $_, '{"user_id":"kim"}') } map { "/campaigns/1/$_" } 'requests', 'holds', 'holds/1/confirmation'), '404 unknown_route 404 unknown_route 404 unknown_route', 'no way to a seat but that of the concert');

conserved($node, 'postgres', 'front_sources');
$node->stop;
server_log_is_clean($node, 'front_sources');
done_testing();
