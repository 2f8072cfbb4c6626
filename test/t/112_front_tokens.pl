# Tokens with real keys: RS256 and ES256, made by openssl; every way of passing
# off another algorithm, key, audience or time; rotation by a reload; files of
# keys that are not to be trusted; a role that loses its rights; a stream that
# does not outlive its token.
use strict;
use warnings;

use CouponNginx qw(free_port);
use CouponTest;
use Digest::SHA qw(hmac_sha256 hmac_sha384);
use HTTP::Tiny;
use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use MIME::Base64 qw(encode_base64url decode_base64url);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

plan skip_all => 'skipped: AddressSanitizer lets nobody load libjwt as it has to be' if $ENV{COUPON_SANITIZED};
plan skip_all => 'skipped: openssl is not installed' unless grep { -x "$_/openssl" } split /:/, $ENV{PATH};

my $json = JSON::PP->new->canonical->allow_nonref->utf8;
my $port = free_port();
my $node = new_server('front_tokens', <<"END");
coupon.http_listen = '127.0.0.1:$port'
coupon.http_jwt_algorithm = 'RS256'
coupon.http_jwt_key_files = 'rsa1.pub'
coupon.http_jwt_audience = 'shop'
END
my $directory = $node->data_dir;
my $http = HTTP::Tiny->new(timeout => CouponTest::PATIENCE, keep_alive => 0);

sub sql { return $node->safe_psql('postgres', shift) }

sub openssl
{
	my ($input, @arguments) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run([ 'openssl', @arguments ], '<', \$input, '>', \$out, '2>', \$err) or die "openssl @arguments: $err";
	return $out;
}

# make_key(name, kind): NAME.key and NAME.pub in the server's directory
sub make_key
{
	my ($name, @kind) = @_;

	openssl('', 'genpkey', @kind, '-out', "$directory/$name.key");
	openssl('', 'pkey', '-in', "$directory/$name.key", '-pubout', '-out', "$directory/$name.pub");
	chmod 0600, "$directory/$name.pub" or die "chmod: $!";
	return;
}

# the two numbers of an ECDSA signature in DER, as JWS has them
sub raw_signature
{
	my ($der) = @_;
	my ($r, $s) = $der =~ /\A\x30.\x02(.)/s ? (substr($der, 4, ord $1), substr($der, 6 + ord $1)) : die 'not DER';

	return join '', map { substr("\0" x 32 . $_, -32) } $r, $s;
}

my %sign = (
	RS256 => sub { my ($input, $key) = @_; return openssl($input, 'dgst', '-sha256', '-sign', "$directory/$key.key") },
	RS384 => sub { my ($input, $key) = @_; return openssl($input, 'dgst', '-sha384', '-sign', "$directory/$key.key") },
	ES256 => sub { my ($input, $key) = @_; return raw_signature(openssl($input, 'dgst', '-sha256', '-sign', "$directory/$key.key")) },
	# the public key, which everybody knows, as a secret
	HS256 => sub { my ($input, $key) = @_; return hmac_sha256($input, slurp_file("$directory/$key.pub")) },
	HS384 => sub { my ($input, $key) = @_; return hmac_sha384($input, slurp_file("$directory/$key.pub")) },
	none => sub { return '' });

my %good = (role => 'visitor', sub => 'alice', aud => 'shop', exp => int(time) + 3600);

# token(claims, key, algorithm, algorithm it says): a signed token
sub token
{
	my ($claims, $key, $algorithm, $says) = @_;
	my $input = join '.', map { encode_base64url(ref $_ ? $json->encode($_) : $_) } { alg => $says // $algorithm, typ => 'JWT' }, $claims;

	return "$input." . encode_base64url($sign{$algorithm}->($input, $key));
}

# told(token, body, path): "status word"
sub told
{
	my ($token, $body, $path) = @_;
	my $answer = $http->request('POST', "http://127.0.0.1:$port" . ($path // '/campaigns/1/issues'), {
			headers => { 'Content-Type' => 'application/json', defined $token ? (Authorization => "Bearer $token") : () }, content => $json->encode($body // {}) });
	my $read = eval { $json->decode($answer->{content}) } // {};

	return "$answer->{status} " . ($read->{code} // $read->{status} // '');
}

make_key('rsa1', '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048');
make_key('rsa2', '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048');
make_key('ec1', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256');
make_key('ec2', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256');
make_key('p384', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-384');
sql('CREATE ROLE visitor; GRANT coupon_user TO visitor; CREATE ROLE other; GRANT coupon_user TO other; CREATE ROLE app; GRANT coupon_service TO app');
sql(q{SELECT coupon_campaign_create('one', 100000); SELECT coupon_room_create('hall', 1, session_ttl => '1 day', idle_ttl => '1 day')});

poll_until('the front', sub { $http->get("http://127.0.0.1:$port/healthz")->{status} == 200 });
reload($node, '', sub { told(token(\%good, 'rsa1', 'RS256')) =~ /^20/ });

# ---- each algorithm ----

for my $case ([ 'RS256', 'rsa1', 'rsa2' ], [ 'ES256', 'ec1', 'ec2' ])
{
	my ($algorithm, $key, $second) = @$case;
	my $now = int time;

	reload($node, "coupon.http_jwt_algorithm = '$algorithm'\ncoupon.http_jwt_key_files = '$key.pub'\n", sub { told(token(\%good, $key, $algorithm)) =~ /^20/ });
	is(told(token({ %good, sub => "$key-user" }, $key, $algorithm)), '201 issued', "$algorithm: a token that is good");
	is(sql("SELECT count(*) FROM coupon.issuance WHERE user_id = '$key-user'"), 1, '  issues to its sub');
	is(told(token(\%good, $key, $algorithm), { user_id => 'mallory' }), '403 other_user', '  and to nobody else: the body');
	is(told(token(\%good, $key, $algorithm), {}, '/campaigns/1/issues?user_id=mallory'), '403 other_user', '  the query');
	is(told(token({ role => 'app', aud => 'shop', exp => $now + 60 }, $key, $algorithm), { user_id => "$key-other" }), '201 issued', '  an application speaks for its users');
	is(told(token(\%good, $second, $algorithm)), '401 token', '  another key');
	is(told(token(\%good, $key, 'HS256')), '401 token', '  HS256, the public key being the secret');
	is(told(token(\%good, $key, 'HS256', $algorithm)), '401 token', "    that says it is $algorithm");
	is(told(token(\%good, $key, 'HS384')), '401 token', '  HS384, likewise');
	is(told(token(\%good, $key, 'none', $_)), '401 token', "  $_, and no signature") for 'none', 'None', 'nOnE', '', $algorithm;
	is(told(token(\%good, 'rsa1', 'RS384')), '401 token', '  RS384');
	is(told(token(\%good, $algorithm eq 'RS256' ? 'ec1' : 'rsa1', $algorithm eq 'RS256' ? 'ES256' : 'RS256')), '401 token', '  the other kind of key');
	is(told(token({ %good, exp => $now - 60 }, $key, $algorithm)), '401 token', '  expired');
	is(told(token({ %good, exp => 'soon' }, $key, $algorithm)), '401 token', '  exp is no time');
	is(told(token({ %good, exp => 1e300 }, $key, $algorithm)), '401 token', '  nor is this');
	is(told(token({ %good, exp => undef }, $key, $algorithm)), '401 token', '  nor null');
	is(told(token({ %good, nbf => $now + 600 }, $key, $algorithm)), '401 token', '  not valid yet');
	is(told(token({ %good, nbf => $now - 600 }, $key, $algorithm)) =~ /^20/ ? 1 : 0, 1, '  valid since a while');
	is(told(token({ %good, aud => 'other' }, $key, $algorithm)), '401 token', '  another audience');
	is(told(token({ %good, aud => [ 'a', 'b' ] }, $key, $algorithm)), '401 token', '  several others');
	is(told(token({ %good, aud => [ { shop => 1 } ] }, $key, $algorithm)), '401 token', '  an object that has its name');
	is(told(token({ %good, aud => '["shop"]' }, $key, $algorithm)), '401 token', '  a text that looks like a list');
	is(told(token({ %good, aud => undef }, $key, $algorithm)), '401 token', '  null');
	is(told(token({ %good, aud => [ 'a', 'shop' ] }, $key, $algorithm)) =~ /^20/ ? 1 : 0, 1, '  ours among several');
	is(told(token({ %good, sub => $_ }, $key, $algorithm)), '401 token', '  a sub that is no name: ' . $json->encode($_)) for '', 'x' x 300, { a => 1 }, [ 'alice' ], JSON::PP::true;
	is(told(token('[1]', $key, $algorithm)), '401 token', '  claims that are no object');
	is(told(token('{"role":"visitor","sub":"a","aud":"shop","deep":' . '[' x 500 . ']' x 500 . '}', $key, $algorithm)), '401 token', '  claims that are nested too deeply');

	# tampered with: each part, and the signature cut, doubled, padded
	my $token = token(\%good, $key, $algorithm);
	my ($header, $claims, $signature) = split /\./, $token;
	my $forged = encode_base64url($json->encode({ %good, sub => 'mallory' }));
	for my $bad ("$header.$forged.$signature", "$header.$claims.", "$header.$claims", $header, "$header.$claims." . substr($signature, 0, 20), "$token.$signature", "$header.$claims.$signature$signature",
		"..", ".", "", "$header..$signature", ".$claims.$signature", encode_base64url("\0" x 100) . ".$claims.$signature", 'x' x 4096, 'x' x 4097, 'x' x 7000, ".$claims" x 30)
	{
		like(told($bad), qr/^401/, '  not a token: ' . substr($bad =~ s/[^ -~]/?/gr, 0, 30));
	}
	like(told('x' x 9000), qr/^431/, '  too large for a header');
	if ($algorithm eq 'ES256')
	{
		is(told("$header.$claims." . encode_base64url("\0" x 64)), '401 token', '  r = s = 0 (CVE-2022-21449)');
		is(told(token(\%good, 'p384', 'ES256')), '401 token', '  another curve');
	}
	is(told($token) =~ /^20/ ? 1 : 0, 1, '  the real one is still good');
}

# ---- two keys at once, and rotation ----

my %by = map { $_ => token(\%good, $_, 'ES256') } 'ec1', 'ec2';
reload($node, "coupon.http_jwt_key_files = 'ec1.pub, ec2.pub'\n", sub { told($by{ec2}) =~ /^20/ });
is(told($by{ec1}), '200 already_issued', 'two keys at once: the first');
is(told($by{ec2}), '200 already_issued', '  the second');
reload($node, "coupon.http_jwt_key_files = 'ec2.pub'\n", sub { told($by{ec1}) =~ /^401/ });
is(told($by{ec1}), '401 token', 'a removed key: what is remembered of its tokens goes with it');
is(told($by{ec2}), '200 already_issued', '  the other goes on');
unlink "$directory/ec2.pub" or die "unlink: $!";
openssl('', 'pkey', '-in', "$directory/ec1.key", '-pubout', '-out', "$directory/ec2.pub");
chmod 0600, "$directory/ec2.pub";
is(told($by{ec2}), '200 already_issued', 'a file that has changed is not looked at before a reload');
reload($node, '', sub { told($by{ec1}) =~ /^200/ });
is(told($by{ec2}), '401 token', '  and is, after one');

# ---- files ----

for my $case ([ 'others may read it', sub { chmod 0644, "$directory/ec2.pub" }, qr/others can read it/ ],
	[ 'its group may write it', sub { chmod 0620, "$directory/ec2.pub" }, qr/others can read it/ ],
	[ 'it is not there', sub { rename "$directory/ec2.pub", "$directory/away.pub" }, qr/No such file/ ],
	[ 'it is a directory', sub { mkdir "$directory/ec2.pub", 0700 }, qr/it is not a regular file/ ],
	[ 'it is empty', sub { rmdir "$directory/ec2.pub"; append_to_file("$directory/ec2.pub", ''); chmod 0600, "$directory/ec2.pub" }, qr/it is empty/ ])
{
	my ($what, $make, $said) = @$case;
	my $from = -s $node->logfile;

	$make->();
	reload($node, '', sub { told($by{ec1}) =~ /^401/ && slurp_file($node->logfile, $from) =~ /is not used/ });
	like(slurp_file($node->logfile, $from), $said, "a key file: $what");
}
unlink "$directory/ec2.pub";
append_to_file("$directory/ec2.pub", "not a key, however long it may be\n");
chmod 0600, "$directory/ec2.pub";
reload($node, '', sub { 1 });
is(told($by{ec1}), '401 token', 'a key file without a key: all tokens are refused');
is($http->get("http://127.0.0.1:$port/healthz")->{status}, 200, '  and the front lives');

# ---- what changes while a token is remembered ----

reload($node, "coupon.http_jwt_key_files = 'ec1.pub'\n", sub { told($by{ec1}) =~ /^200/ });
sql('REVOKE coupon_user FROM visitor');
is(told($by{ec1}), '401 token', 'a role that may not call any more');
sql('GRANT coupon_user TO visitor');
is(told($by{ec1}), '200 already_issued', '  and may again');
sql('ALTER ROLE visitor SUPERUSER');
is(told($by{ec1}), '401 token', 'a role that becomes a superuser');
sql('ALTER ROLE visitor NOSUPERUSER');
is(told(token({ %good, role => 'other', sub => 'rolf' }, 'ec1', 'ES256')), '201 issued', 'another role');
sql('DROP ROLE other');
is(told(token({ %good, role => 'other', sub => 'rolf' }, 'ec1', 'ES256')), '401 token', '  that is dropped');

# a user holds, and the application says for how long, and what was paid
sql(q{SELECT coupon_campaign_create('seats', 0); SELECT coupon_units_import(2, '{A1,A2,A3}')});
my %holder = (hand => token({ %good, sub => 'holly' }, 'ec1', 'ES256'), app => token({ role => 'app', aud => 'shop' }, 'ec1', 'ES256'), own => token({ role => 'app', aud => 'shop', sub => 'holly' }, 'ec1', 'ES256'));
is(told($holder{hand}, { serial => 1, ttl => '7 days' }, '/campaigns/2/holds'), '403 PT403', 'a user does not say how long a hold lasts');
is(told($holder{hand}, { serial => 1 }, '/campaigns/2/holds'), '201 held', '  but holds');
is(sql('SELECT held_until < clock_timestamp() + $$6 min$$ FROM coupon.issuance WHERE campaign_id = 2'), 't', '  for five minutes');
is(told($holder{hand}, { ref => 'nothing' }, '/campaigns/2/holds/1/confirmation'), '403 42501', '  and does not say that it is paid for');
is(told($holder{app}, { user_id => 'holly', ref => 'payment' }, '/campaigns/2/holds/1/confirmation'), '200 confirmed', '  which an application does');
is(told($holder{app}, { user_id => 'hugh', serial => 2, ttl => '1 day' }, '/campaigns/2/holds'), '201 held', '  as it says how long a hold lasts');
is(told($holder{own}, { ref => 'payment' }, '/campaigns/2/holds/1/confirmation'), '200 already_confirmed', '  also by a token of its own that names the user');

# the cache does not outlive exp; 5 s are granted to the clocks
my $short = token({ %good, exp => int(time) - 3 }, 'ec1', 'ES256');
like(told($short), qr/^20/, 'a token that is about to expire');
poll_until('it to expire', sub { told($short) =~ /^401/ });
pass('  expires while it is remembered');

# so do streams
my $waiting = token({ %good, sub => 'bob', exp => int(time) + 1 }, 'ec1', 'ES256');
$http->request('POST', "http://127.0.0.1:$port/rooms/hall/tickets", { headers => { 'Content-Type' => 'application/json', Authorization => 'Bearer ' . token({ %good, sub => 'first' }, 'ec1', 'ES256') }, content => '{}' });
my $ticket = $http->request('POST', "http://127.0.0.1:$port/rooms/hall/tickets", { headers => { 'Content-Type' => 'application/json', Authorization => "Bearer $waiting" }, content => '{}' });
my $stream = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die "no connection: $!";
print $stream "GET $ticket->{headers}{location} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer $waiting\r\nAccept: text/event-stream\r\n\r\n";
my $seen = '';
my $deadline = time + CouponTest::PATIENCE;
while ($seen !~ /\r\n0\r\n\r\n\z/ && time < $deadline)
{
	next unless IO::Select->new($stream)->can_read(1);
	last unless sysread $stream, $seen, 4096, length $seen;
}
like($seen, qr/event: status\n/, 'a stream tells');
like($seen, qr/\r\n0\r\n\r\n\z/, '  until its token expires') or diag($seen);

# ---- nothing of a token is in the log ----

unlike(slurp_file($node->logfile), qr/eyJ/, 'no token is in the log');
conserved($node, 'postgres', 'tokens');
$node->stop;
server_log_is_clean($node, 'tokens');
done_testing();
