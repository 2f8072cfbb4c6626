# Where a request ends: what could be read in two ways the front refuses, and
# closes the connection, so that nothing behind it is taken for a request of
# somebody else.  By itself, and behind nginx: both count the same requests, and
# the next client gets its own answer.
use strict;
use warnings;

use CouponNginx;
use CouponTest;
use IO::Select;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $port = free_port();
my $node = new_server('front_smuggling', <<"END");
coupon.http_listen = '127.0.0.1:$port'
coupon.http_role = 'coupon_service'
coupon.http_access_log = 1
coupon.http_request_timeout = 5s
coupon.http_idle_timeout = 5s
END

# talk(port, bytes): all that comes until the other side closes
sub talk
{
	my ($to, $bytes) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$to") or die "no connection: $!";
	my $deadline = time + CouponTest::PATIENCE;
	my $in = '';

	local $SIG{PIPE} = 'IGNORE';
	syswrite $socket, $bytes;
	while ((my $left = $deadline - time) > 0)
	{
		last if IO::Select->new($socket)->can_read($left) && !sysread $socket, $in, 65536, length $in;
	}
	return $in;
}

# statuses(answers): as a client counts them, up to the one that says that it is
# the last; "junk" for what is no answer
sub statuses
{
	my ($answers) = @_;
	my @statuses;

	while ($answers ne '')
	{
		return join ' ', @statuses, 'junk' unless $answers =~ s{\AHTTP/1\.1 (\d+) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n}{};
		my $headers = $2;
		push @statuses, $1;
		return join ' ', @statuses if $headers =~ /^Connection: close\r$/mi;
		substr $answers, 0, $1, '' if $headers =~ /^Content-Length: (\d+)/mi;
	}
	return join ' ', @statuses;
}

# how many requests the front has answered, in whatever way
sub answered { return scalar(() = slurp_file($node->logfile) =~ /LOG:  access: /g) }

$node->safe_psql('postgres', q{SELECT coupon_campaign_create('one', 100000)});
poll_until('the front', sub { eval { talk($port, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") =~ /200/ } });
poll_until('its workers', sub { talk($port, "GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") =~ /200/ });

# a target as a proxy gets it is the same
for my $target ('http://x/campaigns/1', "HTTP://127.0.0.1:$port/campaigns/1?", 'https://x/campaigns/1')
{
	like(talk($port, "GET $target HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), qr{^HTTP/1\.1 200 .*"campaign_id"}s, $target);
}
like(talk($port, "GET $_ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), qr{^HTTP/1\.1 404 }, $_) for 'http://x', 'http://x?/campaigns/1', 'http:/campaigns/1';

my $hidden = "POST /campaigns/1/issues HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 22\r\n\r\n{\"user_id\":\"smuggled\"}";
my $post = "POST /campaigns/1/issues HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
my $body = '{"user_id":"honest"}';
my $chunks = sprintf "%x\r\n%s\r\n0\r\n\r\n", length $body, $body;
my $length = 'Content-Length: ' . length $body;

# what a request has in its headers, and its body
my %ambiguous = (
	'a length and an encoding' => [ "Content-Length: 4\r\nTransfer-Encoding: chunked", $chunks ],
	'an encoding and a length' => [ "Transfer-Encoding: chunked\r\nContent-Length: 4", $chunks ],
	'two lengths' => [ "Content-Length: 0\r\n$length", $body ],
	'the same length twice' => [ "$length\r\n$length", $body ],
	'a list of lengths' => [ 'Content-Length: 20, 20', $body ],
	'a length with a sign' => [ 'Content-Length: +20', $body ],
	'a negative length' => [ 'Content-Length: -20', $body ],
	'a length in hexadecimal' => [ 'Content-Length: 0x14', $body ],
	'a length that overflows' => [ 'Content-Length: 18446744073709551636', $body ],
	'a blank before the colon of a length' => [ 'Content-Length : 20', $body ],
	'a blank before the colon of an encoding' => [ 'Transfer-Encoding : chunked', $chunks ],
	'two encodings' => [ "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", $chunks ],
	'an unknown encoding' => [ 'Transfer-Encoding: xchunked', $chunks ],
	'an unknown encoding and a length' => [ "Transfer-Encoding: x\r\n$length", $body ],
	'a list of encodings' => [ 'Transfer-Encoding: identity, chunked', $chunks ],
	'a vertical tab before an encoding' => [ "Transfer-Encoding: \x0bchunked", $chunks ],
	'an encoding in quotes' => [ 'Transfer-Encoding: "chunked"', $chunks ],
	'a folded encoding' => [ "Transfer-Encoding:\r\n chunked", $chunks ],
	'a folded length' => [ "Content-Length:\r\n 20", $body ],
	'a folded name' => [ "$length\r\n x: y", $body ],
	'a header without a colon' => [ "$length\r\nnothing", $body ],
	'a name that is none' => [ "$length\r\nX(y): z", $body ],
	'two hosts' => [ "Host: y\r\n$length", $body ],
	'two tokens' => [ "Authorization: Bearer x\r\nAuthorization: Bearer y\r\n$length", $body ],
	'a chunk of a negative size' => [ 'Transfer-Encoding: chunked', "-14\r\n$body\r\n0\r\n\r\n" ],
	'a chunk whose size overflows' => [ 'Transfer-Encoding: chunked', "10000000000000014\r\n$body\r\n0\r\n\r\n" ],
	'a chunk that is longer than it says' => [ 'Transfer-Encoding: chunked', "4\r\n$body\r\n0\r\n\r\n" ],
);
# what libmicrohttpd 0.9.75 takes for the end of the headers, and we cannot see:
# a proxy must not let it through
my %by_proxy = ('a header without a name' => [ "$length\r\n: x", $body ]);
# and what can be read in one way only
my %plain = (
	'a length' => [ $length, $body ],
	'chunks' => [ 'Transfer-Encoding: chunked', $chunks ],
	'chunks, in capitals' => [ 'TRANSFER-ENCODING: Chunked', $chunks ],
	'chunks with extensions and a trailer' => [ 'Transfer-Encoding: chunked', sprintf("%x;a=b\r\n%s\r\n0;c\r\nX-T: Content-Length: 5\r\n\r\n", length $body, $body) ],
);

# ---- the front alone ----

for my $what (sort keys %ambiguous)
{
	my ($headers, $content) = @{ $ambiguous{$what} };

	like(statuses(talk($port, "$post$headers\r\n\r\n$content$hidden")), qr/^(?:400|413)?$/, "$what: refused, and nothing behind it is read");
}
for my $what (sort keys %plain)
{
	my ($headers, $content) = @{ $plain{$what} };

	like(statuses(talk($port, "$post$headers\r\n\r\n$content" . "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")), $what =~ /extensions/ ? qr/^(?:20[01] 200|400)$/ : qr/^20[01] 200$/, "$what: answered, and so is what comes behind it");
}
like(statuses(talk($port, "${post}Connection: close\r\n$length\r\nExpect: 100-continue\r\n\r\n$body")), qr/^(?:100 )?20[01]$/, 'Expect: 100-continue');
like(statuses(talk($port, "POST /campaigns/1/issues HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n$chunks$hidden")), qr/^400?$/, 'chunks in HTTP/1.0: refused');
# lines that end with LF alone may be lines, RFC 9112 allows it; an end of headers is one, too
like(statuses(talk($port, "GET /healthz HTTP/1.1\nHost: x\nConnection: close\n\n")), qr/^(?:200|400)$/, 'bare LF');
# libmicrohttpd 1.0.1 computes an address from the last argument's value, which is none
is(statuses(talk($port, "GET /healthz?x HTTP/1.0\r\n\r\n" . 'y' x 100)), '200', 'an argument without a value, and no header');
# a CR alone ends nothing
like(statuses(talk($port, "GET /healthz HTTP/1.1\r\nHost: x\rContent-Length: 5\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")), qr/^(?:400|200 200)$/, 'bare CR');
is($node->safe_psql('postgres', q{SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM coupon.issuance}), 'honest', 'nothing was issued to who was smuggled in');

# ---- behind nginx ----

my $nginx = nginx_program();
SKIP:
{
	skip 'skipped: nginx is not installed (Debian: nginx-light)', 1 unless $nginx;
	my $front = free_port();
	my $log = PostgreSQL::Test::Utils::tempdir() . '/passed';
	# one connection to the front, which all clients share: what one leaves in it
	# the next would get
	my ($proxy) = start_nginx($nginx, $front, <<"END");
worker_processes 1;
pid nginx.pid;
events { worker_connections 256; }
http {
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	log_format passed '\$upstream_status';
	access_log $log passed;
	error_log stderr crit;
	upstream front { server 127.0.0.1:$port; keepalive 1; }
	client_header_timeout 5s;
	client_body_timeout 5s;
	keepalive_timeout 5s;
	server {
		listen 127.0.0.1:$front;
		location / {
			proxy_pass http://front;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_request_buffering off;
			proxy_next_upstream off;
		}
	}
}
END
	# how many requests nginx has passed on
	my $passed = sub { return scalar(() = (-e $log ? slurp_file($log) : '') =~ /^\d+/mg) };

	is(statuses(talk($front, "GET /campaigns/1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")), '200', 'behind nginx');
	for my $what (sort(keys %ambiguous), sort(keys %by_proxy), sort keys %plain)
	{
		my ($headers, $content) = @{ $ambiguous{$what} // $by_proxy{$what} // $plain{$what} };
		my $before = answered();
		my $sent = $passed->();

		talk($front, "$post$headers\r\n\r\n$content$hidden");
		my $victim = talk($front, "GET /campaigns/77 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
		like($victim, qr{^HTTP/1\.1 404 .*unknown_campaign}s, "$what: the next client gets its own answer");
		poll_until('the logs', sub { answered() - $before >= 1 && $passed->() - $sent >= 1 });
		is(answered() - $before, $passed->() - $sent, '  nginx and the front have counted the same requests');
	}
	$proxy->kill_kill(grace => 5);
}

conserved($node, 'postgres', 'smuggling');
$node->stop;
server_log_is_clean($node, 'smuggling');
done_testing();
