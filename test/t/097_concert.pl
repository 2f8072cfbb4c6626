# examples/concert: its README followed from an empty database on, then every
# route in PostgREST's envelope (one transaction, the role, request.*, GET in
# READ ONLY, arguments by name): answers, refusals, two users and one seat,
# late payments, and ways around the room.
use strict;
use warnings;

use CouponNginx;
use CouponTest;
use Cwd qw(abs_path);
use File::Basename;
use File::Temp;
use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $examples = dirname(dirname(dirname(abs_path(__FILE__)))) . '/examples';
my $json = JSON::PP->new->canonical->allow_nonref;
my $node = new_server('concert', "coupon.databases = 'shop'\n");
sub sql { return $node->safe_psql('shop', shift) }
sub literal { return "'" . (shift =~ s/'/''/gr) . "'" }

# ---- README.md ----

my $readme = slurp_file("$examples/concert/README.md");
my $script = join '', $readme =~ /^```sh\n(.*?)^```/msg;
is($script =~ s/-f load\.sql$/-f load.sql -v concerts=3 -v dates=4/mg, 1, 'README.md loads 1,500,000 seats, here fewer');
my ($out, $err) = ('', '');
{
	local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => 'postgres');
	IPC::Run::run([ 'bash', '-e', '-c', "cd '$examples/concert'\n$script" ], '>', \$out, '2>', \$err);
}
is($?, 0, 'README.md: the commands of the shell run') or diag("$out$err");
is(sql(q{SELECT count(*) FROM coupon.room WHERE least(session_ttl, idle_ttl) > interval '5 min'}), 1, 'no session is lost while its user is away to pay for a hold');
like($err, qr/INFO:  1 of 3 concerts, 4 schedules, 600 seats, [\d.]+ s\n.*INFO:  3 of 3 concerts/s, 'the loader says how far it is');
like($out, qr/^ +3 \| +12 \| +1800 \| +\d+ kB +\| +\d+ [kM]B$/m, 'and what there is in the end');
poll_until('the room worker', sub { sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'coupon room worker' AND datname = 'shop'}) });
my ($status, $stdout, $stderr) = $node->psql('shop', join('', $readme =~ /^```sql\n(.*?)^```/msg), on_error_stop => 1);
is("$status $stderr", '0 ', 'README.md: the booking runs');
like($stdout, qr/\A201 \{.*\n\{"order": 0\}\n\{"concertsList".*\{"schedules".*\{"seats".*\{"reservationId": 1\}\n\{"paymentId": 1\}\n.*"gone".*\n1\|A1\|ISSUED\n2\|A2\|FREE\npayment\.completed\|7\|/s,
	'and shows what it says') or diag($stdout);

# no function looks for a name where others may have put one
is(sql(q{SELECT string_agg(p.oid::regprocedure::text, ' ') FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
	WHERE p.pronamespace IN ('web'::regnamespace, 'sources'::regnamespace, 'coupon_api'::regnamespace, 'concert'::regnamespace, 'concert_api'::regnamespace)
	  AND (l.lanname = 'plpgsql' AND p.prokind = 'f' OR p.prosecdef) AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)}), '', 'every function pins its search_path');
unlike(join('', map { slurp_file($_) } glob "$examples/*/*.sql"), qr/IF NOT EXISTS/, 'and nothing that is there already is taken for one\'s own');

# a room that is there already, as ../sources makes one
{
	local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port);
	$node->safe_psql('postgres', 'CREATE DATABASE patient');
	$node->safe_psql('patient', q{CREATE EXTENSION coupon; SELECT coupon_room_create('default', 500, session_ttl => '2 h')});
	$node->command_ok([ 'psql', '-qX', '-d', 'patient', '-f', "$examples/concert/schema.sql" ], 'schema.sql, where there is a room');
	is($node->safe_psql('patient', 'SELECT capacity, session_ttl, idle_ttl FROM coupon.room'), '500|02:00:00|00:06:00', 'which becomes as patient as it must be');
	$node->safe_psql('postgres', 'DROP DATABASE patient');
}

# ---- nginx ----

SKIP:
{
	my $nginx = nginx_program();
	skip 'nginx is not installed (Debian: nginx-light)', 1 unless $nginx;

	my ($upstream_port, $upstream_pid) = start_upstream();
	my $port = free_port();
	my $conf = slurp_file("$examples/sources/nginx.conf");
	$conf =~ s/listen 127\.0\.0\.1:8080;/listen 127.0.0.1:$port;/;
	$conf =~ s/server 127\.0\.0\.1:3000;/server 127.0.0.1:$upstream_port;/;
	is($conf =~ s{^(\t\tlocation / \{)}{include $examples/concert/nginx-locations.conf;\n$1}m, 1, 'nginx.conf has the place that README.md names');
	my ($proxy) = start_nginx($nginx, $port, $conf);

	my $http = HTTP::Tiny->new(timeout => CouponTest::PATIENCE, keep_alive => 0);
	for my $route (
		[ 'GET', '/concerts', '/rpc/concerts', '' ],
		[ 'GET', '/concerts?concertId=1', '/rpc/concerts', '' ],
		[ 'GET', '/concerts/7/schedules', '/rpc/schedules', 'concertId=7' ],
		[ 'GET', '/concerts/7/schedules?concertId=8', '/rpc/schedules', 'concertId=7' ],
		[ 'GET', '/concerts/schedules/12/seats', '/rpc/seats', 'scheduleId=12' ],
		[ 'POST', '/concerts/reservation', '/rpc/reservation', '{"userId":7,"concertSeatId":1}' ],
		[ 'POST', '/concerts/reservations/33/pay', '/rpc/pay', '{"userId":7}', 33 ],
		[ 'POST', '/concerts/reservations/33/release', '/rpc/release', '{"userId":7}', 33 ],
		[ 'POST', '/concerts/create', '/rpc/concert_create', '{"title":"t","dates":["2030-01-01"],"seatAmount":1,"price":1}' ])
	{
		my ($method, $path, $uri, $body, $reservation) = @$route;
		my $answer = $http->request($method, "http://127.0.0.1:$port$path", {
				headers => { 'X-Access-Token' => 'token', 'Authorization' => 'Bearer a.b.c', 'X-Reservation-Id' => 1,
					'Accept-Profile' => 'pg_catalog', 'Content-Profile' => 'pg_catalog', 'Prefer' => 'tx=rollback' },
				$method eq 'POST' ? (content => $body) : () });
		my $seen = eval { $json->decode($answer->{content}) } // { headers => {} };
		my $headers = $seen->{headers};

		is(($seen->{method} // '') . ' ' . ($seen->{uri} // '') . ' ' . ($seen->{body} // ''), "POST $uri " . ($body // ''), "$method $path");
		is($headers->{'content-profile'}, 'concert_api', '  its schema');
		is(join(' ', map { $headers->{$_} // '-' } qw(x-access-token authorization prefer)), 'token Bearer a.b.c -', '  headers');
		is($headers->{'x-reservation-id'}, $reservation, '  the reservation is that of the path') if $method eq 'POST';
	}
	for my $refused (
		[ 'POST', '/concerts', 405 ], [ 'GET', '/concerts/reservation', 405 ], [ 'GET', '/concerts/reservations/1/pay', 405 ],
		[ 'GET', '/concerts/x/schedules', 404 ], [ 'POST', '/concerts/reservations/1%26/pay', 404 ],
		[ 'GET', '/.concert_query', 404 ], [ 'POST', '/rpc/pay', 404 ])
	{
		my ($method, $path, $code) = @$refused;
		is($http->request($method, "http://127.0.0.1:$port$path")->{status}, $code, "$method $path: $code");
	}
	$proxy->kill_kill(grace => 5);
	kill TERM => $upstream_pid;
	waitpid $upstream_pid, 0;
}

# ---- the routes ----

# call(function, arguments, headers, claims, role, before): "status" and the
# answer as JSON; an ERROR is its SQLSTATE.  before: SQL that the same
# transaction begins with
sub call
{
	my ($function, $arguments, $headers, $claims, $role, $before) = @_;
	my $is_get = $function =~ /^(concerts|schedules|seats|queue_order)$/;
	my $schema = $function =~ /^queue_/ ? 'coupon_api' : 'concert_api';
	my $list = join ', ', map {
		my $value = $arguments->{$_};
		qq("$_" := ) . ($is_get ? literal($value) : literal($json->encode($value)) . '::jsonb')
	} sort keys %$arguments;

	$role //= 'coupon_service';
	my %setting = (search_path => 'coupon_api, concert_api, public', 'request.method' => $is_get ? 'GET' : 'POST',
		'request.path' => "/rpc/$function", 'request.headers' => $json->encode($headers // {}),
		'request.jwt.claims' => $json->encode({ role => $role, %{ $claims // {} } }));
	my ($status, $stdout, $stderr) = $node->psql('shop', join("\n",
		'\set VERBOSITY verbose', 'BEGIN' . ($is_get ? ' READ ONLY;' : ';'),
		(defined $before ? "$before \\g /dev/null" : ()), "SET LOCAL ROLE $role;",
		(map { "SELECT set_config('$_', " . literal($setting{$_}) . ', true) \g /dev/null' } sort keys %setting),
		"SELECT $schema.$function($list);",
		q{SELECT current_setting('response.status'), current_setting('response.headers', true);}, 'COMMIT;'));

	return { status => $stderr =~ /ERROR:  (\w+)/ ? $1 : "psql $status", json => {} } if $status != 0;
	my ($content, $code, $headers_out) = $stdout =~ /\A(.*)\n(\d+)\|(.*)\z/s;
	return { status => $code, json => $json->decode($content), headers => { map { %$_ } @{ $json->decode($headers_out || '[]') } } };
}

# "status code" of an error, "status" without one
sub brief
{
	my $answer = call(@_);

	return join ' ', $answer->{status}, $answer->{json}{error}{code} // ();
}

# the header of a user's admitted ticket
sub enter
{
	my $user = shift;
	my $token = call('queue_enqueue', { userId => $user })->{headers}{'X-Access-Token'};

	poll_until("admission of $user", sub { sql("SELECT queue_position = 0 FROM coupon_queue_position('$token')") eq 't' });
	return { 'x-access-token' => $token };
}

sub reserve
{
	my ($user, $seat, $headers, $before) = @_;
	my $answer;

	# busy says try again: the sweeper may just be at a hold that has run out
	do
	{
		$answer = call('reservation', { userId => $user, concertSeatId => $seat }, $headers, {}, undef, $before);
	} while (($answer->{json}{error}{code} // '') eq 'busy');
	return $answer->{json}{reservationId} // "$answer->{status} $answer->{json}{error}{code}";
}

sub pay
{
	my ($user, $reservation, $headers) = @_;

	return call('pay', { userId => $user }, { %$headers, 'x-reservation-id' => $reservation });
}

sub seat_status { return sql("SELECT status FROM coupon_units((SELECT campaign_id FROM concert.schedule WHERE id = $_[0])) WHERE serial = $_[1]") }
sub events { return sql("SELECT count(*) FROM coupon.outbox WHERE type = '$_[0]' AND key = '$_[1]'") }

my $a = enter('a');
my $b = enter(8);
my $answer = call('queue_order', {}, $a);
is("$answer->{status} " . $json->encode($answer->{json}), '200 {"order":0}', 'F6: queue/order');
$answer = call('concerts', {}, $a);
is_deeply([ $answer->{status}, $answer->{json} ], [ 200, { concertsList => [ map { { id => $_, title => "Concert $_" } } 1 .. 3 ] } ], 'F6: concerts');
my @dates = split /\n/, sql('SELECT current_date + n FROM generate_series(1, 4) n');
$answer = call('schedules', { concertId => '2' }, $a);
is_deeply([ $answer->{status}, $answer->{json} ],
	[ 200, { schedules => [ map { { id => 4 + $_, date => $dates[ $_ - 1 ], status => 'AVAILABLE' } } 1 .. 4 ] } ], 'F6: schedules');
sub seats
{
	my ($schedule, %status) = @_;

	return { seats => [ map { { id => ($schedule - 1) * 150 + $_, seatNum => chr(65 + int(($_ - 1) / 10)) . (1 + ($_ - 1) % 10),
				status => $status{$_} // 'EMPTY' } } 1 .. 150 ] };
}
$answer = call('seats', { scheduleId => '5' }, $a);
is_deeply([ $answer->{status}, $answer->{json} ], [ 200, seats(5) ], 'F6: seats, 150 in their order');
$answer = call('reservation', { userId => 'a', concertSeatId => 603 }, $a);
my $first = $answer->{json}{reservationId};
is("$answer->{status} " . $json->encode($answer->{json}), qq(200 {"reservationId":$first}), 'F6: reservation');
is(sql("SELECT campaign_id = (SELECT campaign_id FROM concert.schedule WHERE id = 5), serial, user_id FROM coupon.issuance WHERE user_id = 'a'"),
	't|3|a', 'F6: seat 603 is unit 3 of schedule 5');
cmp_ok(abs(sql("SELECT extract(epoch FROM held_until - clock_timestamp()) FROM concert.reservation WHERE id = $first") - 300), '<', within(3), 'held for 5 minutes');
is_deeply(call('seats', { scheduleId => '5' }, $b)->{json}, seats(5, 3 => 'RESERVED'), 'F6: seats: one is reserved');
is(reserve('a', 603, $a), $first, 'a second click is the same reservation');
is(reserve(8, 603, $b), '409 taken', 'F18: the seat is another\'s');
is(reserve(8, 604, $b) =~ /^\d+$/, 1, 'the next one is not');
$answer = pay('a', $first, $a);
my $paid = $answer->{json}{paymentId};
is("$answer->{status} " . $json->encode($answer->{json}), qq(200 {"paymentId":$paid}), 'F6: pay');
is_deeply(call('seats', { scheduleId => '5' }, $b)->{json}, seats(5, 3 => 'SOLD', 4 => 'RESERVED'), 'F6: seats: one is sold');
is(sql(qq{SELECT reservation_id, user_id, amount, state FROM concert.payment WHERE id = $paid}), "$first|a|50000|PAID", 'the payment is recorded');
is(sql(q{SELECT topic, type, payload - 'paymentId' - 'reservationId' FROM (SELECT topic, type, key, payload::jsonb FROM coupon.outbox) e WHERE key = 'a' AND type = 'payment.completed'}),
	'payment-completed|payment.completed|{"amount": 50000, "userId": "a", "seatNum": "A3", "concertSeatId": 603, "concertScheduleId": 5}', 'the event is in the outbox');
is(brief('queue_order', {}, $a), '401 gone', 'F20: payment ends the ticket');
is(sql(qq{SELECT reason FROM coupon.ticket WHERE user_id = 'a'}), 'paid', 'F20: and the row says why');
is(brief($_->[0], $_->[1], $a), '401 gone', "F24: $_->[0]: the ticket is of no more use")
  for [ 'concerts', {} ], [ 'seats', { scheduleId => 1 } ], [ 'reservation', { userId => 'a', concertSeatId => 1 } ];

# a repetition
is($json->encode(pay('a', $first, $a)->{json}), qq({"paymentId":$paid}), 'double payment: the same answer, though the ticket has ended');
is(sql("SELECT count(*) FROM concert.payment WHERE user_id = 'a'") . ' ' . events('payment.completed', 'a') . ' ' . events('coupon.confirmed', 'a'), '1 1 1', 'and one payment, one event of each kind');
is(reserve('a', 603, enter('a')), '409 already_issued', 'who has bought the seat is told so');

# ---- refusals ----

is(brief($_, {}, {}), '400 missing', "$_: no token") for qw(concerts schedules seats);
is(brief($_, { userId => 1 }, {}), '400 missing', "$_: no token") for qw(reservation pay release);
is(brief($_, {}, $b), '400 missing', "$_: no user") for qw(reservation pay release);
is(brief($_, { userId => undef }, $b), '400 missing', "$_: null for a user") for qw(reservation pay release);
is(brief($_, { userId => '' }, $b), '400 invalid', "$_: an empty user") for qw(reservation pay release);
is(brief($_, { userId => [] }, $b), '400 invalid', "$_: an array for a user") for qw(reservation pay release);
is(brief('concerts', {}, { 'x-access-token' => 'x' }), '400 invalid', 'not a token');
is(brief('concerts', {}, { 'x-access-token' => '1.1.00000000000000000000000000000000' }), '401 gone', 'F24: a token that is made up');
is(brief('reservation', { userId => 8 }, $b), '400 missing', 'reservation: no seat');
is(brief('reservation', { userId => 8, concertSeatId => $_ }, $b), '400 invalid', "reservation: no number: $_") for 'x', '', -1, '99999999999999999999';
is(brief('reservation', { userId => 8, concertSeatId => $_ }, $b), '404 unknown_seat', "reservation: no such seat: $_") for 0, 1801, '999999999999999999';
is(brief('schedules', { concertId => $_ }, $b), '400 invalid', "schedules: no number: $_") for 'x', '';
is(brief('schedules', { concertId => 99 }, $b), '404 unknown_concert', 'schedules: no such concert');
is(brief('seats', { scheduleId => 99 }, $b), '404 unknown_schedule', 'seats: no such schedule');
is(brief($_, { userId => 8 }, $b), '400 invalid', "$_: no reservation") for qw(pay release);
is(brief($_, { userId => 8 }, { %$b, 'x-reservation-id' => 999 }), '404 unknown_reservation', "$_: no such reservation") for qw(pay release);

# whose it is
my $c = enter('c');
my $mine = reserve('c', 301, $c);
is(brief('pay', { userId => 8 }, { %$b, 'x-reservation-id' => $mine }), '403 other_user', 'F18: payment by another');
is(brief('release', { userId => 8 }, { %$b, 'x-reservation-id' => $mine }), '403 other_user', 'F18: release by another');
is(brief('release', { userId => 'c' }, { %$b, 'x-reservation-id' => $mine }), '403 other_ticket', 'F18: who says that they are the owner, too');
is(brief('release', { userId => 'c' }, { 'x-access-token' => '1.1.00000000000000000000000000000000', 'x-reservation-id' => $mine }), '401 gone', 'F18: nor with a token that is made up');
is(sql("SELECT coupon_release(campaign_id, 1, '8'), (coupon_confirm(campaign_id, 1, '8', 'x')).status FROM concert.schedule WHERE id = 3"), 'f|not_held', 'F18: nor by the functions of coupon');
is(brief('pay', { userId => 'c' }, { %$b, 'x-reservation-id' => $mine }), '403 other_ticket', 'F20: not with another\'s ticket');
is(brief('reservation', { userId => 'c', concertSeatId => 302 }, $b), '403 other_ticket', 'F24: nor a reservation');
is(brief('reservation', { userId => 'c', concertSeatId => 302 }, $c, { sub => 'z' }), '403 other_user', 'the claim names another user');
is(brief('reservation', { concertSeatId => 302 }, $c, { sub => 'z' }), '403 other_ticket', 'whose ticket it is not');
is(brief('concerts', {}, $c, { sub => 'z' }), '403 other_ticket', 'not even to look');
is(call('reservation', { concertSeatId => 301 }, $c, { sub => 'c' })->{json}{reservationId}, $mine, 'the claim is the user');
is(seat_status(3, 1), 'HELD', 'F18: nothing of this has moved the seat');
is($json->encode(call('release', { userId => 'c' }, { %$c, 'x-reservation-id' => $mine })->{json}), '{"released":true}', 'release by the owner');
is(seat_status(3, 1), 'FREE', 'gives the seat back');
is(brief('pay', { userId => 'c' }, { %$c, 'x-reservation-id' => $mine }), '409 not_held', 'and is not paid for after that');
is($json->encode(call('release', { userId => 'a' }, { %{ enter('a') }, 'x-reservation-id' => $first })->{json}), '{"released":false}', 'what is paid for is not released');
is(seat_status(5, 3), 'ISSUED', 'and stays sold');

# as many as one may have
like(reserve('c', 300 + $_, $c), qr/^\d+$/, "seat $_") for 1 .. 4;
is(reserve('c', 305, $c), '409 limit_reached', 'and no fifth');
like(reserve('c', 451, $c), qr/^\d+$/, 'but on another date');

# ---- administration ----

my $concert = { title => 'New', dates => [ '2031-01-02', '2031-01-01' ], seatAmount => 12, price => 100 };
is(brief('concert_create', $concert), '42501', 'F24: create: not for the service');
$answer = call('concert_create', $concert, {}, {}, 'coupon_admin');
is("$answer->{status} " . $json->encode($answer->{json}), '201 {"id":4}', 'F6: create');
is_deeply(call('schedules', { concertId => 4 }, $c)->{json}{schedules},
	[ { id => 14, date => '2031-01-01', status => 'AVAILABLE' }, { id => 13, date => '2031-01-02', status => 'AVAILABLE' } ], 'its schedules, by date');
is_deeply([ map { "$_->{id} $_->{seatNum}" } @{ call('seats', { scheduleId => 14 }, $c)->{json}{seats} }[ 0, 9, 10, 11 ] ],
	[ '1813 A1', '1822 A10', '1823 B1', '1824 B2' ], 'its seats go on where the last ended');
like(reserve('c', 1824, $c), qr/^\d+$/, 'the last one can be held');
is(brief('concert_create', { %$concert, %$_ }, {}, {}, 'coupon_admin'), '400 invalid', 'create: ' . $json->encode($_))
  for { title => '' }, { title => 1 }, { dates => [] }, { dates => 'x' }, { dates => ['x'] }, { dates => [undef] }, { dates => ['infinity'] },
  { dates => [ '2031-01-01', '2031-01-01' ] }, { seatAmount => 0 }, { seatAmount => 'x' }, { seatAmount => 999999 }, { price => -1 };
is(brief('concert_create', { title => 'x' }, {}, {}, 'coupon_admin'), '400 missing', 'create: a part of it');
sql('SELECT coupon_campaign_pause(campaign_id) FROM concert.schedule WHERE id = 13');
is(call('schedules', { concertId => 4 }, $c)->{json}{schedules}[1]{status}, 'PAUSED', 'a paused schedule says so');
is(reserve('c', 1801, $c), '409 paused', 'and holds nothing');
is(sql(q{SELECT string_agg(concert.seat_label(n), ' ') FROM unnest(ARRAY[1, 150, 260, 261, 520, 521, 7020, 7021]) n}), 'A1 O10 Z10 AA1 AZ10 BA1 ZZ10 AAA1', 'labels of larger halls');

# ---- two users and one seat ----

# crowd(calls, call): what so many at once are answered, each with a ticket
sub crowd
{
	my ($n, $prefix, $call) = @_;
	my $directory = File::Temp->newdir;
	my $file = "$directory/crowd.sql";

	sql(qq{DROP TABLE IF EXISTS crowd; CREATE TABLE crowd (client int, token text, status text, body json);
		INSERT INTO crowd SELECT n, (coupon_queue_join('default', '$prefix' || n)).token FROM generate_series(0, $n - 1) n});
	poll_until('admission', sub { sql('SELECT bool_and((coupon_queue_position(token)).queue_position = 0) FROM crowd') eq 't' });
	append_to_file($file, <<"END");
BEGIN;
SELECT set_config('request.headers', json_build_object('x-access-token', token)::text, true) FROM crowd WHERE client = :client_id;
UPDATE crowd SET body = $call WHERE client = :client_id;
UPDATE crowd SET status = current_setting('response.status') WHERE client = :client_id;
COMMIT;
END
	$node->command_ok([ 'pgbench', '-n', '-c', $n, '-j', 2, '-t', 1, '-f', $file, 'shop' ], "$n at once");
	return sql(q{SELECT string_agg(answer || ' ' || n, ', ' ORDER BY answer) FROM (
		SELECT status || coalesce(' ' || (body #>> '{error,code}'), '') AS answer, count(*) AS n FROM crowd GROUP BY 1) x});
}

like(crowd(20, 'crowd', qq{concert_api.reservation(to_jsonb('crowd' || :client_id), '150')}), qr/^200 1, (409 busy \d+, )?409 taken \d+$/, 'F18: 20 at once and one seat: one winner');
is(sql(q{SELECT count(*) FROM concert.reservation WHERE seat_id = 150}), 1, 'F18: one reservation');
is(sql(q{SELECT i.user_id = 'crowd' || c.client FROM crowd c, coupon.issuance i WHERE c.status = '200' AND i.campaign_id = (SELECT campaign_id FROM concert.schedule WHERE id = 1) AND i.serial = 150}), 't', 'F18: and the seat is theirs');

# one user, who clicks ten times at once
my $d = enter('d');
my $clicked = reserve('d', 149, $d);
my $clicks = crowd(10, 'click', qq{(SELECT concert_api.pay('"d"', '$clicked') FROM set_config('request.headers', '} . $json->encode($d) . q{', true))});
like($clicks, qr/^200 \d+(, 409 busy \d+)?$/, 'double payment at the same time');
is(sql(q{SELECT count(DISTINCT body ->> 'paymentId') FROM crowd WHERE status = '200'}) . ' ' . sql("SELECT count(*) FROM concert.payment WHERE user_id = 'd'") . ' ' . events('payment.completed', 'd') . ' ' . events('coupon.confirmed', 'd'),
	'1 1 1 1', 'one payment, one event of each kind');

# ---- expiry and payment, in both orders ----

# a reservation that runs out in no time: the hold is there already, and not
# over before the reservation however slow the machine is to start a psql
sub reserve_shortly
{
	my ($user, $seat, $headers) = @_;

	return reserve($user, $seat, $headers, "SELECT coupon_hold(campaign_id, $seat - first_seat + 1, '$user', '1500 ms') FROM concert.schedule WHERE $seat BETWEEN first_seat AND first_seat + seats - 1");
}
sub ran_out { my $id = shift; poll_until('the end of the hold', sub { sql("SELECT held_until < clock_timestamp() FROM concert.reservation WHERE id = $id") eq 't' }) }

my ($e, $f) = (enter('e'), enter('f'));
my $short = reserve_shortly('e', 901, $e);
like($short, qr/^\d+$/, 'a short hold');
ran_out($short);
is(pay('e', $short, $e)->{status}, 200, 'F18: paid after the end, while nobody else has the seat: it is theirs again');
is(seat_status(7, 1), 'ISSUED', 'and sold');

$e = enter('e');
$short = reserve_shortly('e', 902, $e);
ran_out($short);
my $taker = reserve('f', 902, $f);
like($taker, qr/^\d+$/, 'F18: an expired hold does not block the seat');
$answer = pay('e', $short, $e);
is("$answer->{status} $answer->{json}{error}{code} $answer->{json}{data}{status}", '410 lost REFUND', 'F18: a late payment does not take it away');
is(sql("SELECT state, reason FROM concert.payment WHERE reservation_id = $short") . ' ' . events('payment.refund', 'e') . ' ' . events('coupon.confirm_refused', 'e'),
	'REFUND|lost 1 1', 'F18: it is recorded for refund, with its events');
is_deeply(pay('e', $short, $e)->{json}, $answer->{json}, 'a repetition: the same answer');
is(sql("SELECT count(*) FROM concert.payment WHERE reservation_id = $short") . ' ' . events('payment.refund', 'e') . ' ' . events('coupon.confirm_refused', 'e'), '1 1 1', 'and no second refund');
is(call('queue_order', {}, $e)->{json}{order}, 0, 'who came too late may choose another seat');
is(pay('f', $taker, $f)->{status}, 200, 'the taker pays');
is(sql(q{SELECT user_id, state, serial FROM coupon.issuance WHERE campaign_id = (SELECT campaign_id FROM concert.schedule WHERE id = 7) AND serial = 2}), 'f|issued|2', 'F18: and has the seat');
is(events('payment.completed', 'e'), 1, 'no payment of the late one is told as completed');

$short = reserve_shortly('e', 903, $e);
is(pay('e', $short, $e)->{status}, 200, 'paid before the end');
ran_out($short);
is(reserve('f', 903, enter('f')), '409 taken', 'F18: payment first: the end of the hold is none');
is(sql('SELECT coupon_hold_expire()'), 0, 'for the sweeper, too');
is(seat_status(7, 3), 'ISSUED', 'and the seat stays sold');

# ---- around the room ----

my $campaign = sql('SELECT campaign_id FROM concert.schedule WHERE id = 12');
is(sql("SET ROLE coupon_service; SELECT status FROM $_"), 'not_admitted', "F24: $_")
  for "coupon_hold($campaign, 1, 'nobody')", "coupon_hold($campaign, 1, 4711)", "coupon_hold_any($campaign, 'nobody')", "coupon_issue($campaign, 'nobody')",
  "coupon_issue_many($campaign, ARRAY['nobody'])", "coupon_issue_grouped($campaign, 'nobody')";
is(sql("SET ROLE coupon_service; SELECT DISTINCT status FROM coupon_hold_many($campaign, ARRAY[1, 2, 3, 4], 'nobody')"), 'not_admitted', 'F24: coupon_hold_many');
is(sql("SET ROLE coupon_service; SELECT status, outcome FROM coupon_request($campaign, 'nobody')"), 'REFUSED|not_admitted', 'F24: coupon_request');
is(sql("SET ROLE coupon_service; SELECT status FROM coupon_confirm($campaign, 1, 'nobody', 'x')"), 'not_held', 'F24: coupon_confirm without a hold');
like(sql_error($node, 'shop', "SET ROLE coupon_service; $_"), qr/42501/, "F24: $_")
  for "INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, user_id, state, policy) VALUES ($campaign, 1, 0, 1, now(), 'nobody', 'issued', '{}')",
  "UPDATE coupon.campaign SET room_id = NULL WHERE campaign_id = $campaign", "SELECT coupon_campaign_require_room($campaign, NULL)",
  'SELECT * FROM concert.schedule', q{INSERT INTO concert.payment (reservation_id, user_id, amount, state) VALUES (1, 'nobody', 0, 'PAID')}, "SELECT concert.admit('x', 'nobody')";
is(sql("SELECT remaining, held, issued FROM coupon_status($campaign)"), '150|0|0', 'F24: nothing was taken');
is(brief('concerts', {}, $c, {}, 'pg_read_all_data'), '42501', 'nor are the routes everybody\'s');

# who waits: the room is full
sql(q{SELECT coupon_room_create('next door', 10)});
my $next_door = { 'x-access-token' => sql(q{SELECT token FROM coupon_queue_join('next door', 'nobody')}) };
poll_until('next door', sub { sql("SELECT queue_position = 0 FROM coupon_queue_position('$next_door->{'x-access-token'}')") eq 't' });
is(brief('concerts', {}, $next_door), '403 other_ticket', 'F24: a session of another room');
sql(q{SELECT coupon_room_alter('default', capacity => 1)});
my $waiting = { 'x-access-token' => call('queue_enqueue', { userId => 'w' })->{headers}{'X-Access-Token'} };
cmp_ok(call('queue_order', {}, $waiting)->{json}{order}, '>', 0, 'the room is full');
is(brief('concerts', {}, $waiting), '403 not_admitted', 'F24: who waits sees nothing');
is(brief('reservation', { userId => 'w', concertSeatId => 1700 }, $waiting), '403 not_admitted', 'F24: and holds nothing');

# the last session of the room pays, and its slot is the next one's
my $last = reserve('c', 1700, $c);
sql(q{SELECT count(coupon_queue_leave((coupon_queue_join('default', user_id)).token)) FROM coupon.ticket
	WHERE ended_at IS NULL AND user_id NOT IN ('c', 'w') AND room_id = (SELECT room_id FROM coupon.room WHERE name = 'default')});
is(brief('concerts', {}, $waiting), '403 not_admitted', 'one session, one waits');
is(pay('c', $last, $c)->{status}, 200, 'the one pays');
poll_until('the slot', sub { call('queue_order', {}, $waiting)->{json}{order} == 0 });
like(reserve('w', 1701, $waiting), qr/^\d+$/, 'F20: and the next one is in');

conserved($node, 'shop', 'concert');
is(sql(q{SELECT count(*) FROM concert.payment p JOIN concert.reservation r ON r.id = p.reservation_id JOIN concert.schedule s ON s.id = r.schedule_id
	LEFT JOIN coupon.issuance i ON i.campaign_id = s.campaign_id AND i.serial = r.seat_id - s.first_seat + 1 AND i.user_id = r.user_id AND i.state = 'issued'
	WHERE (p.state = 'PAID') <> (i.serial IS NOT NULL)}), 0, 'who has paid has their seat, who gets a refund has not');
$node->stop;
server_log_is_clean($node, 'concert');
done_testing();
