# What people look at: the waiting room, the board, /metrics.  What of them is
# HTTP is tested everywhere; how they behave in a browser where there is one
# (test/pages/browse.js, test/bin/page_tools).
use strict;
use warnings;

use CouponNginx qw(free_port);
use CouponTest;
use Digest::SHA qw(hmac_sha256);
use HTTP::Tiny;
use IO::Socket::INET;
use IPC::Run;
use JSON::PP;
use MIME::Base64 qw(encode_base64url);
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $json = JSON::PP->new->canonical->utf8;
my $port = free_port();
my $admin_port = free_port();
my $key = 'a secret of thirty-two bytes, say';
my $key_file = PostgreSQL::Test::Utils::tempdir() . '/key';
append_to_file($key_file, $key);
chmod 0600, $key_file;
my $node = new_server('pages', <<"END", allows_streaming => 1);
coupon.http_listen = '127.0.0.1:$port'
coupon.http_role = 'coupon_service'
coupon.http_workers = 2
coupon.http_jwt_algorithm = 'HS256'
coupon.http_jwt_key_files = '$key_file'
coupon.http_cors_origins = 'https://shop.example, https://"quoted".example'
END
my $http = HTTP::Tiny->new(timeout => CouponTest::PATIENCE, keep_alive => 0, max_redirect => 0);

# AddressSanitizer lets nobody load libjwt as it has to be
my $tokens = $ENV{COUPON_SANITIZED} ? 0 : 1;

# token(claims): signed
sub token
{
	my ($claims) = @_;
	my $text = join '.', map { encode_base64url($json->encode($_)) } { alg => 'HS256', typ => 'JWT' }, { exp => time + 3600, %$claims };

	return "$text." . encode_base64url(hmac_sha256($text, $key));
}

sub sql { return $node->safe_psql('postgres', shift) }

# get(path, headers): the answer
sub get
{
	my ($path, %headers) = @_;

	return $http->request('GET', "http://127.0.0.1:$port$path", { headers => {%headers} });
}

sub post
{
	my ($path, $body) = @_;

	return $http->request('POST', "http://127.0.0.1:$port$path",
		{ headers => { 'Content-Type' => 'application/json' }, content => ref $body ? $json->encode($body) : $body });
}

sql(q{SELECT coupon_campaign_create('sale', 100000)});
sql(q{SELECT coupon_campaign_create(E'a "name" \\\\ with\nmuch', 7)});
# nobody is taken for gone while a slow machine looks at pages
sql(q{SELECT coupon_room_create('hall', 1, session_ttl => '1 day', idle_ttl => '1 day')});
sql(q{SELECT coupon_room_create('lobby', 100, session_ttl => '1 day', idle_ttl => '1 day')});
sql(q{SELECT coupon_room_create('quiet', 1, session_ttl => '1 day', idle_ttl => '1 day'); SELECT coupon_room_pause('quiet')});
poll_until('the front', sub { get('/readyz')->{status} == 200 });

# ---- the files ----

my @html = (Accept => 'text/html,application/xhtml+xml,*/*;q=0.8');
for my $page ([ '/rooms/hall', 'text/html', @html ], [ '/board', 'text/html' ], [ '/board?lang=ko', 'text/html' ],
	[ '/pages/coupon-room.js', 'text/javascript' ], [ '/pages/coupon-board.js', 'text/javascript' ], [ '/pages/coupon-page.css', 'text/css' ])
{
	my ($path, $type, @headers) = @$page;
	my $answer = get($path, @headers);
	my %got = %{ $answer->{headers} };

	is("$answer->{status} $got{'content-type'}", "200 $type; charset=utf-8", "GET $path");
	like($got{'content-security-policy'}, qr/\Adefault-src 'none'; script-src 'self'; style-src 'self'/, '  with a policy');
	unlike($got{'content-security-policy'}, qr/unsafe|\*/, '  that is strict');
	is($got{'x-content-type-options'}, 'nosniff', '  nothing is guessed');
	my $again = get($path, @headers, 'If-None-Match' => $got{etag});
	is("$again->{status} " . ($again->{content} // ''), '304 ', '  304 for who has it');
	is(get($path, @headers, 'If-None-Match' => '"x"')->{status}, 200, '  200 for who has another');
	is($http->request('HEAD', "http://127.0.0.1:$port$path", { headers => {@headers} })->{status}, 200, '  HEAD');
	next if $type ne 'text/html';
	unlike($answer->{content}, qr/<script(?![^>]*src=)|<style|style=|\son\w+=|javascript:|\{lang\}|\{origins\}/, '  nothing inline, and nothing left to be put in');
	like($answer->{content}, qr/[\xea-\xed][\x80-\xbf]{2}/, '  Korean is there');
}
for my $path ('/pages/', '/pages/coupon.control', '/pages/coupon--1.0.sql', '/pages/../coupon.control', '/pages/coupon-room.html',
	'/rooms/', '/rooms/hall/', '/boards', '/board/', '/pages/%2e%2e/coupon.control')
{
	is(get($path, @html)->{status}, 404, "404: $path");
}
is(get('/rooms/hall', Accept => 'application/json')->{status}, 404, 'a program that asks for the room gets no page');
is(post('/board', '{}')->{status}, 404, 'a page takes no POST');
like(get('/rooms/hall', @html)->{content}, qr/content="https:\/\/shop\.example, https:\/\/&#34;quoted&#34;\.example"/, 'the origins that may be returned to, escaped');

for my $language (
	[ 'en', '/board' ], [ 'en', '/board', 'en-US,en;q=0.9,ko;q=0.8' ], [ 'ko', '/board', 'ko-KR,ko;q=0.9,en;q=0.8' ], [ 'ko', '/board', 'ko' ],
	[ 'ko', '/board', 'fr, KO;q=0.3' ], [ 'en', '/board', 'fr' ], [ 'ko', '/board', 'en;q=0.5,ko;q=0.6' ], [ 'en', '/board', ',;q=;,ko;q=0' ],
	[ 'ko', '/board?lang=ko', 'en' ], [ 'en', '/board?x=1&lang=en', 'ko' ], [ 'en', '/board?lang=xx', 'en' ])
{
	my ($expected, $path, $accept) = @$language;

	like(get($path, defined $accept ? ('Accept-Language' => $accept) : ())->{content}, qr/<html lang="$expected">/, "$expected: $path, " . ($accept // 'no Accept-Language'));
}
like(get('/board')->{headers}{vary}, qr/Accept-Language/, 'Vary says so');

# ---- statistics ----

my $answers = q{SELECT coalesce(sum(calls), 0) FROM coupon.stat_call WHERE way ~ '^http(_(?!issue)|$)'};
my $durations = q{SELECT sum(calls) FROM coupon.stat_latency WHERE way ~ '^http(_(?!issue)|$)' AND upper = 'infinity'};
my ($answers_before, $durations_before) = (sql($answers), sql($durations));
my @children;
for my $child (1 .. 4)
{
	my $pid = fork // die "fork: $!";
	if (!$pid)
	{
		my $failed = grep { post('/campaigns/1/issues', { user_id => "user-$child-" . int($_ / 2) })->{status} !~ /^20[01]$/ } 0 .. 99;
		POSIX::_exit($failed ? 1 : 0);
	}
	push @children, $pid;
}
is(join(' ', map { waitpid $_, 0; $? } @children), '0 0 0 0', '400 calls');
is(sql($answers) - $answers_before, 400, 'every answer is counted once, of both workers');
is(sql($durations) - $durations_before, 400, '  and so is its duration');
is(sql(q{SELECT count(*) FROM coupon.stat_latency a JOIN coupon.stat_latency b USING (way)
	WHERE a.upper < b.upper AND a.calls > b.calls}), 0, '  in a histogram that rises');
is(get('/nowhere')->{status}, 404, 'a call of no route');
is(sql(q{SELECT sum(calls) > 0 FROM coupon.stat_call WHERE outcome = '404'}), 't', '  is counted');
is(post('/campaigns/1/issues', 'x' x 70000)->{status}, 413, 'a body that is too large');
is(sql(q{SELECT refused_size FROM coupon.stat_front}), 1, '  is counted as refused');
my $open = q{SELECT concat_ws(' ', connections, streams) FROM coupon.stat_front};
poll_until('closed connections', sub { sql($open) eq '0 0' });
my $ticket = $json->decode(post('/rooms/lobby/tickets', { user_id => 'streamer' })->{content});
my $stream = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die "connect: $!";
print $stream "GET /rooms/lobby/tickets/$ticket->{token} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";
poll_until('an open stream', sub { sql($open) eq '1 1' });
pass('an open stream and its connection are counted');
close $stream;
poll_until('no stream', sub { sql($open) eq '0 0' });
pass('  and not any more when it is closed');

sql(q{SELECT coupon_room_create('crowd', 1); SELECT coupon_room_pause('crowd'); CREATE TABLE crowd (n bigint, token text);
	INSERT INTO crowd SELECT n, (coupon_queue_join('crowd', 'c' || n)).token FROM generate_series(1, 12346) n});
is(sql(q{SELECT string_agg(coalesce(p.body ->> 'behind', '-'), ' ' ORDER BY o)
	FROM (SELECT array_agg('crowd'::text ORDER BY n) AS rooms, array_agg(token ORDER BY n) AS tokens FROM crowd
	       WHERE 12346 - n IN (0, 99, 100, 987, 1234, 12345)) c, coupon.http_position(rooms, tokens) WITH ORDINALITY p(status, headers, body, pending, o)}),
	'12000 1200 980 100 99 0', 'how many are behind is told to two digits');
sql(q{DROP TABLE crowd; DELETE FROM coupon.room WHERE name = 'crowd'});

# ---- /metrics, board.json ----

sql(q{SELECT count(coupon_campaign_create('one of many', 1)) FROM generate_series(1, 120)});
my $metrics = get('/metrics');
is("$metrics->{status} $metrics->{headers}{'content-type'}", '200 text/plain; version=0.0.4; charset=utf-8', 'GET /metrics');
unlike($metrics->{content}, qr/user-|streamer/, '  tells nothing of users');
like($metrics->{content}, qr/^coupon_calls_total\{way="http",outcome="201"\} \d+$/m, '  answers');
like($metrics->{content}, qr/^coupon_call_duration_seconds_bucket\{way="http",le="\+Inf"\} (\d+)$/m, '  durations');
like($metrics->{content}, qr/^coupon_room_capacity\{room="hall"\} 1$/m, '  rooms');
like($metrics->{content}, qr/^coupon_outbox_unpublished \d+$/m, '  the outbox');
is(scalar(() = $metrics->{content} =~ /^coupon_campaign_remaining\{/mg), 100, '  of 122 campaigns 100 have samples of their own');
like($metrics->{content}, qr/^coupon_campaigns\{state="open"\} 122$/m, '  and all are counted');
sql(q{SELECT count(coupon_campaign_close(c)) FROM generate_series(3, 122) c});
$metrics = get('/metrics');
like($metrics->{content}, qr/^coupon_campaign_issued\{campaign="1"\} 200$/m, '  those that sell have theirs');
like($metrics->{content}, qr/^coupon_campaign_info\{campaign="2",name="a \\"name\\" \\\\ with\\nmuch",state="open"\} 1$/m, '  a name is escaped');
my $board = get('/board.json');
is("$board->{status} $board->{headers}{'content-type'}", '200 application/json', 'GET /board.json');
my ($sale) = grep { $_->{id} == 1 } @{ $json->decode($board->{content})->{campaigns} };
is("$sale->{stock} $sale->{issued} $sale->{remaining} $sale->{answers}{already_issued}", '100000 200 99800 200', '  tells the same');
unlike($board->{content}, qr/user-|streamer/, '  and nothing of users');

SKIP:
{
	my ($promtool) = grep { -x $_ } map { "$_/promtool" } split /:/, $ENV{PATH};

	skip 'skipped: no promtool (Debian: prometheus)', 1 unless $promtool;
	my $out = '';
	IPC::Run::run([ $promtool, 'check', 'metrics' ], '<', \$metrics->{content}, '>&', \$out, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	is("$? $out", '0 ', 'promtool finds nothing wrong with /metrics');
}

# ---- in a browser ----

SKIP:
{
	my $missing = `test/bin/page_tools available`;
	chomp $missing;
	skip $missing || 'skipped: test/bin/page_tools fails', 1 if $? != 0;

	local $ENV{TOKEN} = $tokens ? token({ role => 'coupon_user', sub => 'signed-in' }) : '';
	my $out = '';
	my $done = IPC::Run::run([ 'node', 'test/pages/browse.js', "http://127.0.0.1:$port", grep { defined } $ENV{COUPON_PICTURES} ],
		'<', \undef, '>&', \$out, IPC::Run::timeout(10 * $PostgreSQL::Test::Utils::timeout_default));
	for my $line (split /\n/, $out)
	{
		$line =~ /\A(not )?ok (.*)/ ? ok(!$1, $2) : $line =~ /\Adone\z/ ? pass('the whole visit') : diag($line);
	}
	ok($done && $out =~ /^done$/m, 'the browser came to its end');
	is(sql(q{SELECT count(*) FROM coupon.ticket WHERE user_id = 'signed-in'}), $tokens, 'who came with a token joined by its name');
}

# ---- who may, and where ----

$node->append_conf('postgresql.conf', "coupon.http_role = ''\n");
$node->reload;
poll_until('no role without a token', sub { (grep { get('/campaigns/1')->{status} == 401 } 1 .. 20) == 20 });
is(join(' ', map { get($_, @html)->{status} } '/metrics', '/board', '/board.json', '/healthz', '/rooms/hall'), '200 200 200 200 200', 'no token is needed to look');
is(get('/board.json', Authorization => 'Bearer ' . token({ role => 'coupon_user', sub => 'a' }))->{status}, $tokens ? 403 : 401, 'but a token that is no operator\'s does not help');
is(get('/board.json', Authorization => 'Bearer ' . token({ role => 'coupon_admin' }))->{status}, $tokens ? 200 : 401, '  and an operator\'s does not harm');

$node->append_conf('postgresql.conf', "coupon.http_admin_listen = '127.0.0.1:$admin_port'\n");
$node->reload;
poll_until('the other address', sub { $http->get("http://127.0.0.1:$admin_port/healthz")->{status} == 200 });
poll_until('both workers', sub { (grep { get('/healthz')->{status} == 404 } 1 .. 20) == 20 });
is(join(' ', map { get($_, @html)->{status} } '/metrics', '/board', '/board.json', '/pages/coupon-board.js', '/rooms/hall', '/pages/coupon-page.css'),
	'404 404 404 404 200 200', 'with an address of their own the operator\'s pages are not the visitors\'');
is(join(' ', map { $http->request('GET', "http://127.0.0.1:$admin_port$_", { headers => {@html} })->{status} }
		'/metrics', '/board', '/board.json', '/pages/coupon-board.js', '/rooms/hall', '/pages/coupon-page.css'),
	'200 200 200 200 404 200', '  nor the visitors\' the operator\'s');

# ---- a standby tells what it knows ----

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('pages_standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$port = free_port();
$standby->append_conf('postgresql.conf', "coupon.http_listen = '127.0.0.1:$port'\ncoupon.http_admin_listen = ''\n");
$standby->start;
poll_until('the standby', sub { get('/healthz')->{status} == 200 });
like(get('/metrics')->{content}, qr/^coupon_up 0$/m, '/metrics of a standby');
is($json->decode(get('/board.json')->{content})->{standby}, JSON::PP::true, '  and its board');
$standby->stop;

conserved($node, 'postgres', 'pages');
$node->stop;
server_log_is_clean($node, 'pages');
done_testing();
