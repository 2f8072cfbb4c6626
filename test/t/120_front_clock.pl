# The clock is set back by two hours while visitors wait: rooms, streams, calls
# that wait, rates and slow clients do not wait until it comes by again.
use strict;
use warnings;

use CouponClock;
use CouponNginx qw(free_port);
use CouponTest;
use HTTP::Tiny;
use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(time);

my $clockless = clock_missing();
plan skip_all => $clockless if $clockless;

my $port = free_port();
set_clock(7200);
my $node = with_clock(sub { return new_server('front_clock', <<"END") });
coupon.http_listen = '127.0.0.1:$port'
coupon.http_role = 'coupon_service'
coupon.http_request_timeout = 2s
coupon.http_rate_per_address = 1000
coupon.http_burst = 1000
END
my $http = HTTP::Tiny->new(timeout => CouponTest::PATIENCE, keep_alive => 0);

sub sql { return $node->safe_psql('postgres', shift) }

# told(method, path, body): the answer's status and what it says
sub told
{
	my ($method, $path, $body) = @_;
	my $answer = $http->request($method, "http://127.0.0.1:$port$path", { headers => { 'Content-Type' => 'application/json' }, defined $body ? (content => $body) : () });
	my $json = eval { decode_json($answer->{content}) } // {};

	return ("$answer->{status} " . ($json->{status} // '') . ($json->{code} // ''), $answer->{headers}{location});
}

# begun(request): a connection on which it has been sent
sub begun
{
	my ($request) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die "no connection: $!";

	syswrite $socket, $request;
	return $socket;
}

# seen(socket, pattern): what comes until it matches, or the other side closes
sub seen
{
	my ($socket, $pattern) = @_;
	my $deadline = time + CouponTest::PATIENCE;
	my $in = '';

	while ($in !~ $pattern && (my $left = $deadline - time) > 0)
	{
		last if IO::Select->new($socket)->can_read($left) && !sysread $socket, $in, 4096, length $in;
	}
	return $in;
}

cmp_ok(sql('SELECT extract(epoch FROM clock_timestamp())'), '>', time + 7000, 'the clock is ahead');
sql(q{SELECT coupon_room_create('hall', 1, session_ttl => '10 min', idle_ttl => '3 s')});
poll_until('the front', sub { (told('GET', '/readyz'))[0] =~ /^200/ });

# the first is admitted and vanishes; the second and the third ask
my (undef, $first) = told('POST', '/rooms/hall/tickets', '{"user_id":"first"}');
poll_until('admission', sub { (told('GET', $first))[0] eq '200 admitted' });
my (undef, $second) = told('POST', '/rooms/hall/tickets', '{"user_id":"second"}');
my (undef, $third) = told('POST', '/rooms/hall/tickets', '{"user_id":"third"}');
my $stream = begun("GET $third HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n");
like(seen($stream, qr/"position":\d/), qr/"position":\d/, 'the third is told by events');
my $waiting = begun("GET $third HTTP/1.1\r\nHost: x\r\nPrefer: wait=3\r\n\r\n");
my $slow = begun("GET / HTTP/1.1\r\nHost: x\r\nX: ");
like((told('GET', $second))[0], qr/^200/, 'the second waits');

set_clock(0);
poll_until('the clock', sub { sql('SELECT extract(epoch FROM clock_timestamp())') < time + 1000 });
like((told('GET', $second))[0], qr/^200/, 'set back: nobody has used up a rate');
poll_until('the next one', sub { (told('GET', $second))[0] eq '200 admitted' });
pass('  who is silent leaves the room, and the next is admitted');
like(seen($waiting, qr/\r\n\r\n/), qr{^HTTP/1\.1 200}, '  a call that waited is answered');
is(seen($slow, qr/^never/), '', '  a slow client is cut off');
is((told('DELETE', $second))[0], '204 ', '  the second leaves');
like(seen($stream, qr/"status":"admitted"/), qr/"status":"admitted"/, '  and the third is told by events');
$node->stop;
done_testing();
