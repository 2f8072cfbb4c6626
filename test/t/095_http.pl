# examples/sources: what nginx makes of each original route, seen by an
# upstream that answers with what it received; the same calls then played in
# PostgREST's envelope with the roles of roles.sql, workers and other sessions
# at work.
use strict;
use warnings;

use CouponContract qw(play source_cases postgrest_call);
use CouponNginx;
use CouponTest;
use Cwd qw(abs_path);
use File::Basename;
use HTTP::Tiny;
use IO::Socket::INET;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $nginx = nginx_program();
plan skip_all => 'skipped: nginx is not installed (Debian: nginx-light)' unless $nginx;

my $example = dirname(dirname(dirname(abs_path(__FILE__)))) . '/examples/sources';
my $json = JSON::PP->new->canonical->allow_nonref->utf8;

# ---- an upstream that answers with what it received ----

my ($upstream_port, $upstream_pid) = start_upstream();

# ---- nginx with the example's file, on ports of ours ----

my $port = free_port();
my $conf = slurp_file("$example/nginx.conf");
is($conf =~ s/listen 127\.0\.0\.1:8080;/listen 127.0.0.1:$port;/g, 1, 'nginx.conf listens on 8080');
is($conf =~ s/server 127\.0\.0\.1:3000;/server 127.0.0.1:$upstream_port;/g, 1, 'nginx.conf has PostgREST at 3000');
my ($proxy, $said) = start_nginx($nginx, $port, $conf);
unlike($said, qr/\[(warn|error|emerg|crit)\]/, 'and has nothing to say');

END
{
	local $?;
	$proxy->kill_kill(grace => 5) if $proxy;
	if ($upstream_pid)
	{
		kill TERM => $upstream_pid;
		waitpid $upstream_pid, 0;
	}
}

my $http = HTTP::Tiny->new(timeout => CouponTest::PATIENCE, keep_alive => 0);

# request(method, path, body, headers): the answer, its content decoded
sub request
{
	my ($method, $path, $body, %headers) = @_;
	my $answer = $http->request($method, "http://127.0.0.1:$port$path",
		{ headers => \%headers, defined $body ? (content => $body) : () });

	$answer->{json} = eval { $json->decode($answer->{content}) };
	return $answer;
}

my $form = 'application/x-www-form-urlencoded';
my $snapshot = '{"userId":7,"couponId":104,"policyId":21,"typeSnapshot":"FIXED","expiredAt":"2025-12-31T23:59:59"}';
for my $route (
	[ 'POST', '/coupons/issue-sync/42?code=SPRING', '/rpc/issue_sync', 'userId=42&code=SPRING' ],
	[ 'POST', '/coupons/issue-optimistic/42?code=SPRING', '/rpc/issue_optimistic', 'userId=42&code=SPRING' ],
	[ 'POST', '/coupons/issue-async/42?code=SPRING', '/rpc/issue_async', 'userId=42&code=SPRING' ],
	[ 'GET', '/coupons/issue-status/42?code=SPRING', '/rpc/issue_status', 'userId=42&code=SPRING' ],
	[ 'GET', '/coupons/issue-result/42?code=SPRING', '/rpc/issue_result', 'userId=42&code=SPRING' ],
	[ 'GET', '/coupons/issue-result/00000004-0000-8000-87f9-95887e05e562', '/rpc/issue_result', 'requestId=00000004-0000-8000-87f9-95887e05e562' ],
	[ 'POST', '/coupons/issue/42?code=SPRING', '/rpc/issue_async', 'userId=42&code=SPRING' ],
	[ 'GET', '/coupons/result/42?code=SPRING', '/rpc/issue_result', 'userId=42&code=SPRING' ],
	[ 'GET', '/coupons/result/42?code=SPRING&requestId=00000004-0000-8000-87f9-95887e05e562', '/rpc/issue_result', 'userId=42&code=SPRING&requestId=00000004-0000-8000-87f9-95887e05e562' ],
	[ 'GET', '/admin/kafka/health', '/rpc/admin_kafka_health', '' ],
	[ 'GET', '/admin/kafka/status', '/rpc/admin_kafka_status', '' ],
	# what PostgREST would take for a filter
	[ 'GET', '/coupons/issue-status/lt.dan?code=eq.x', '/rpc/issue_status', 'userId=lt.dan&code=eq.x' ],
	[ 'POST', '/admin/coupon-policies', '/rpc/admin_coupon_policies', '{"code":"SPRING","maxCount":1,"discountRate":10}' ],
	[ 'GET', '/admin/coupons/SPRING/status', '/rpc/admin_coupon_status', 'code=SPRING' ],
	[ 'GET', '/admin/redis/queue-status?code=SPRING', '/rpc/admin_queue_status', 'code=SPRING' ],
	[ 'POST', '/coupon/issue', '/rpc/issue', $snapshot ],
	[ 'POST', '/api/coupons/11/issue-fcfs/0b7a-public', '/rpc/issue_fcfs', 'couponId=11&publicId=0b7a-public' ],
	[ 'POST', '/queues/enqueue', '/rpc/queue_enqueue', '{"userId":5}' ],
	[ 'GET', '/queues/order', '/rpc/queue_order', '' ],
	# percent-encoded stays so, a plus of a query is a blank
	[ 'POST', '/coupons/issue-sync/a%26b%3Bc%2Fd%20e?code=%EC%BF%A0%ED%8F%B0+1', '/rpc/issue_sync', 'userId=a%26b%3Bc%2Fd%20e&code=%EC%BF%A0%ED%8F%B0+1' ],
	[ 'GET', '/admin/coupons/%EC%BF%A0%ED%8F%B0/status', '/rpc/admin_coupon_status', 'code=%EC%BF%A0%ED%8F%B0' ],
	# more than was asked for, and less
	[ 'POST', '/coupons/issue-sync/42?x=1&code=A&userId=43&code=B', '/rpc/issue_sync', 'userId=42&code=A' ],
	[ 'POST', '/coupons/issue-sync/42', '/rpc/issue_sync', 'userId=42' ],
	[ 'POST', '/coupons/issue-sync/?code=A', '/rpc/issue_sync', 'userId=&code=A' ],
	[ 'GET', '/admin/redis/queue-status', '/rpc/admin_queue_status', '' ],
	[ 'GET', '/queues/order?code=A', '/rpc/queue_order', '' ],
	# no client adds an argument: & and ; separate them, + would be a blank
	[ 'POST', '/coupons/issue-sync/42?code=A;userId=43', '/rpc/issue_sync', 'userId=42&code=' ],
	[ 'GET', '/coupons/issue-status/42?code=A;userId=43', '/rpc/issue_status', 'userId=42&code=' ],
	[ 'POST', '/coupons/issue-sync/42&userId=43?code=A', '/rpc/issue_sync', 'userId=&code=A' ],
	[ 'POST', '/coupons/issue-sync/42;userId=43?code=A', '/rpc/issue_sync', 'userId=&code=A' ],
	[ 'POST', '/api/coupons/1&publicId=2/issue-fcfs/3', '/rpc/issue_fcfs', 'couponId=&publicId=3' ],
	[ 'POST', '/coupons/issue-sync/4+2?code=A', '/rpc/issue_sync', 'userId=&code=A' ])
{
	my ($method, $path, $uri, $body) = @$route;
	my $sent = $method eq 'POST' ? ($body // '') =~ /^\{/ ? $body : '{"ignored":1}' : undef;
	# as a load script would, and as it would not: no type, and headers of PostgREST
	my $seen = request($method, $path, $sent, 'X-Access-Token' => 'token', 'Authorization' => 'Bearer a.b.c',
		'Content-Type' => 'text/plain', 'Prefer' => 'tx=rollback', 'Accept' => 'text/csv', 'Range' => '0-1',
		'Accept-Profile' => 'pg_catalog', 'Content-Profile' => 'pg_catalog')->{json};

	is("$seen->{method} $seen->{uri} $seen->{body}", "POST $uri " . ($body // ''), "F6: $method $path");
	is($seen->{headers}{'content-type'}, $body =~ /^\{/ ? 'application/json' : $form, '  its type');
	is_deeply([ @{ $seen->{headers} }{qw(x-access-token authorization accept)} ], [ 'token', 'Bearer a.b.c', 'application/json' ], '  its headers');
	is_deeply([ grep { exists $seen->{headers}{$_} } qw(prefer range accept-profile content-profile) ], [], '  and none that change a call');
}

my $answer = request('POST', '/queues/enqueue', '{"userId":5}');
is("$answer->{status} $answer->{headers}{'x-access-token'}", '201 secret', "F6: status and headers of the answer come through");

for my $refused (
	[ 'GET', '/coupons/issue-sync/42?code=A', 405, 'method', 'POST' ], [ 'GET', '/coupon/issue', 405, 'method', 'POST' ],
	[ 'DELETE', '/queues/enqueue', 405, 'method', 'POST' ], [ 'POST', '/queues/order', 405, 'method', 'GET, HEAD' ],
	[ 'POST', '/coupons/issue-status/42?code=A', 405, 'method', 'GET, HEAD' ],
	[ 'POST', '/rpc/issue_sync', 404, 'unknown_route' ], [ 'GET', '/', 404, 'unknown_route' ], [ 'POST', '/.form', 404, 'unknown_route' ],
	[ 'GET', '/.query', 404, 'unknown_route' ], [ 'GET', '/coupons/issue-sync/../../rpc/issue_sync', 404, 'unknown_route' ])
{
	my ($method, $path, $status, $code, $allow) = @$refused;
	my $got = request($method, $path);

	is("$got->{status} " . ($got->{json}{error}{code} // ''), "$status $code", "$method $path: $status");
	is($got->{headers}{allow}, $allow, '  and what is allowed') if $allow;
}
$answer = request('POST', '/coupon/issue', '{"userId":"' . 'x' x 20000 . '"}');
is("$answer->{status} $answer->{json}{error}{code}", '400 invalid', 'a body that is too large');
$answer = request('POST', '/queues/enqueue', qq({"userId":"\xff"}));
is("$answer->{status} $answer->{json}{error}{code}", '500 failed', 'what PostgREST answers in plain text is JSON');

# refuse(bytes): what nginx answers to what is no request, its content decoded
sub refuse
{
	my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die "no connection: $!";

	print $socket @_;
	my ($head, $content) = split /\r\n\r\n/, do { local $/; readline $socket } // '', 2;
	my ($status) = $head =~ m{^HTTP/1\.1 (\d+)};
	my ($type) = $head =~ /^content-type: (.*?)\r?$/mi;
	return { status => $status, type => $type, json => eval { $json->decode($content) } };
}
my $rest = " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
for my $raw ([ 'TRACE', "TRACE /coupon/issue$rest", '405 method' ], [ '%00', "POST /coupons/issue-sync/%00?code=A$rest", '400 invalid' ],
	[ '%zz', "POST /coupons/issue-sync/%zz?code=A$rest", '400 invalid' ], [ 'a code with %00', "POST /coupons/issue-sync/7?code=EDGE%00zzz$rest", '400 invalid' ],
	[ 'a code that is no UTF-8', "POST /coupons/issue-sync/7?code=%c3%28$rest", '400 invalid' ], [ 'a URI of 9 kB', 'GET /' . 'x' x 9000 . $rest, '400 invalid' ],
	[ 'a header of 40 kB', "GET / HTTP/1.1\r\nHost: x\r\nX-A: " . 'x' x 40000 . "\r\n\r\n", '400 invalid' ],
	[ 'no Host', "GET / HTTP/1.1\r\nConnection: close\r\n\r\n", '400 invalid' ], [ 'TLS', "\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" . 'x' x 160, '400 invalid' ])
{
	my ($what, $bytes, $told) = @$raw;
	my $refused = refuse($bytes);

	is("$refused->{status} " . ($refused->{json}{error}{code} // ''), $told, "$what: $told, as JSON");
	is($refused->{type}, 'application/json', '  its type');
	ok($refused->{json}{message}, '  its message');
}
$answer = request('GET', '/nowhere', undef, 'Accept-Language' => 'ko-KR,en;q=0.5');
is($json->encode($answer->{json}{message} // ''), $json->encode("\x{adf8}\x{b7f0} \x{acbd}\x{b85c}\x{ac00} \x{c5c6}\x{c2b5}\x{b2c8}\x{b2e4}."), 'in Korean, for who prefers that') or diag($answer->{content});

# pages of other origins
$answer = request('OPTIONS', '/queues/enqueue', undef, Origin => 'http://localhost:5173', 'Access-Control-Request-Method' => 'POST', 'Access-Control-Request-Headers' => 'x-access-token');
is($answer->{status}, 204, 'CORS: the preflight');
is($answer->{headers}{'access-control-allow-origin'}, 'http://localhost:5173', '  the origin');
is($answer->{headers}{'access-control-allow-methods'}, 'GET, POST', '  methods');
like($answer->{headers}{'access-control-allow-headers'}, qr/X-Access-Token/, '  headers');
$answer = request('POST', '/queues/enqueue', '{"userId":5}', Origin => 'http://localhost:5173');
is($answer->{headers}{'access-control-allow-origin'}, 'http://localhost:5173', '  and the call');
like($answer->{headers}{'access-control-expose-headers'}, qr/X-Access-Token/, '  which shows X-Access-Token');
is($answer->{json}{headers}{origin}, undef, '  PostgREST does not answer twice');
$answer = request('POST', '/queues/enqueue', '{"userId":5}', Origin => 'http://evil.example');
is($answer->{headers}{'access-control-allow-origin'}, undef, '  no other origin');

# ---- the same calls in PostgREST's envelope ----

my $node = new_server('http');
sub sql { return $node->safe_psql('postgres', shift) }
# create(name, stock): the campaign's id
sub create { my ($name, $stock) = @_; return sql("SELECT coupon_campaign_create('$name', $stock)") }

# and run again
load_example($node, 'postgres', "sources/$_.sql") for qw(roles http api), qw(roles http api);
pass('roles.sql, http.sql and api.sql run, and again');

# in another database of the cluster, which has the roles already
sql('CREATE DATABASE second');
$node->safe_psql('second', 'CREATE EXTENSION coupon');
load_example($node, 'second', "sources/$_.sql") for qw(roles http api);
sql('DROP DATABASE second');
unlike(slurp_file("$example/postgrest.conf"), qr/^jwt-role-claim-key/m, 'the role is where PostgREST looks by itself: 16.0 refuses ".role"');
is(sql(q{SELECT count(*) FROM unnest(ARRAY['anonymous', 'user', 'server', 'admin']) r, pg_db_role_setting s WHERE s.setrole = ('coupon_web_' || r)::regrole AND 'statement_timeout=15s' = ANY (s.setconfig)}),
	4, 'every role has a statement_timeout');

# call(method, path, body, headers, role, claims): what nginx answers, or else
# through it to the upstream, and from what arrived there to PostgREST's answer
sub call
{
	my ($method, $path, $body, $headers, $role, $claims) = @_;
	my $answer = request($method, $path, $body, %{ $headers // {} });

	return $answer if ref $answer->{json} ne 'HASH' || !$answer->{json}{uri};
	return postgrest_call($node, 'postgres', 'coupon_api', $answer->{json}, $role // 'coupon_web_server', $claims // {});
}

poll_until('a worker', sub { sql('SELECT workers FROM coupon_group_status()') eq '1' });
play(source_cases(), $node, 'postgres', \&call);
is(sql('SELECT calls >= 3 FROM coupon_group_status()'), 't', 'the group worker did it');
like(sql_error($node, 'postgres', q{BEGIN; SELECT coupon_api.issue_sync('8', 'NOW'); SELECT coupon_issue_grouped(2, 'x'); COMMIT}), qr/ERROR:  25001/,
	'no other call of the transaction is allowed to be grouped');

# an answer that is lost: ask again
my $asked = create('LOST', 2);
my $lost = $node->safe_psql('postgres', q{BEGIN; SELECT coupon_api.issue_sync('7', 'LOST') -> 'data' -> 'serial'; ROLLBACK});
my $retried = call('POST', '/coupons/issue-sync/7?code=LOST');
is("$retried->{status} $retried->{json}{error}{code} $retried->{json}{data}{serial}", "409 already_issued $lost", 'F21: a call whose transaction was lost has issued, and its repetition tells what');
is(sql("SELECT remaining FROM coupon_status($asked)"), 1, 'F3: once');

# no worker
$node->append_conf('postgresql.conf', 'coupon.group_workers = 0');
$node->reload;
poll_until('no worker', sub { sql('SELECT workers FROM coupon_group_status()') eq '0' });
for my $how (qw(sync optimistic))
{
	my $away = call('POST', "/coupons/issue-$how/9?code=LOST");
	is("$away->{status} $away->{json}{error}{code} $away->{headers}{'retry-after'}", '503 unavailable 1', "issue-$how without a worker: 503");
}
is(sql("SELECT remaining FROM coupon_status($asked)"), 1, 'F5: and nothing was issued');
like(slurp_file($node->logfile), qr/LOG: .*issue_sync is unavailable: no worker/, 'the log says why');
$node->append_conf('postgresql.conf', 'coupon.group_workers = 1');
$node->reload;
poll_until('a worker', sub { sql('SELECT workers FROM coupon_group_status()') eq '1' });
is(call('POST', '/coupons/issue-sync/9?code=LOST')->{status}, 200, 'with one again');

# the tables are locked
my $locker = $node->background_psql('postgres');
create('TABLES', 2);
$locker->query_safe('BEGIN; LOCK TABLE coupon.issuance IN EXCLUSIVE MODE');
my $locked = call('POST', '/coupons/issue-optimistic/9?code=TABLES');
is("$locked->{status} $locked->{json}{error}{code} $locked->{headers}{'retry-after'}", '423 busy 1', 'F8: the tables are locked: 423');
$locker->query_safe('ROLLBACK');
$locker->quit;

# a request of a user who had a unit by the time it was decided
my $twice = create('TWICE', 5);
my ($second) = split /\n/, sql("BEGIN; SELECT request_id FROM coupon_request($twice, 'a'::text); SELECT status FROM coupon_issue($twice, 'a'::text); COMMIT");
poll_until('the request', sub { sql("SELECT count(*) FROM coupon.request WHERE campaign_id = $twice AND decided_at IS NULL") eq '0' });
my $result = call('GET', "/coupons/issue-result/$second");
is("$result->{status} $result->{json}{data}{outcome} " . ($result->{json}{data}{processed} && !$result->{json}{data}{success} ? 'no success' : ''),
	'200 already_issued no success', 'F7: processed, and no success');

# two calls that share a transaction, as in a turn of the front: the second
# finds a request that another session has made while it waited
my $shared = create('SHARED', 5);
sql(q{ALTER FUNCTION sources.target(text, text, text, text) RENAME TO target_at_once;
	CREATE FUNCTION sources.target(user_key text, given_user text, campaign_key text, given_campaign text, OUT user_id text, OUT campaign_id bigint, OUT error jsonb)
	RETURNS record LANGUAGE plpgsql AS $$ BEGIN
		IF given_user = 'b' THEN PERFORM pg_advisory_xact_lock_shared(1); END IF;
		SELECT * INTO user_id, campaign_id, error FROM sources.target_at_once($1, $2, $3, $4);
	END $$; ALTER FUNCTION sources.target(text, text, text, text) OWNER TO coupon_web_owner});
my $gate = $node->background_psql('postgres');
$gate->query_safe('BEGIN; SELECT pg_advisory_xact_lock(1)');
my $turn = $node->background_psql('postgres');
my $answers = $turn->query_until(qr/asks/, qq{\\echo asks
	BEGIN;
	SELECT 'a ' || coalesce(r #>> '{error,code}', 'accepted') FROM coupon_api.issue_fcfs('$shared', 'a') r;
	SAVEPOINT next;
	SELECT 'b ' || coalesce(r #>> '{error,code}', 'accepted') FROM coupon_api.issue_fcfs('$shared', 'b') r;
	COMMIT;
	\\echo answered
});
await_true($node, 'postgres', q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted});
# nothing is decided meanwhile
$locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE coupon.issuance IN SHARE MODE');
sql("SELECT coupon_request($shared, 'b'::text)");
$gate->query_safe('COMMIT');
$gate->quit;
like($answers . $turn->query_until(qr/answered/, ''), qr/a accepted.*b requested/s, 'F1: a request that another session has made is not taken for one\'s own');
$turn->quit;
$locker->query_safe('COMMIT');
$locker->quit;
sql('DROP FUNCTION sources.target(text, text, text, text); ALTER FUNCTION sources.target_at_once(text, text, text, text) RENAME TO target');

# issue-sync waits for the other transaction, and says what became of it
my $mine = create('WAITS', 5);
my $holder = $node->background_psql('postgres');
$holder->query_safe("BEGIN; SELECT coupon_issue($mine, 'x')");
sql(qq{ALTER FUNCTION coupon_api.issue_sync SET lock_timeout = '@{[ CouponTest::PATIENCE ]}s'});
my $waiter = $node->background_psql('postgres');
$waiter->query_until(qr/asks/, qq{\\echo asks
	SELECT 'got ' || (coupon_api.issue_sync('x', 'WAITS') #>> '{data,status}');
	\\echo answered
});
await_true($node, 'postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%issue_sync%' AND pid <> pg_backend_pid()});
$holder->query_safe('ROLLBACK');
like($waiter->query_until(qr/answered/, ''), qr/got issued/, 'F8: issue-sync waits for who has the user, and gets the unit when that rolls back');
$waiter->quit;
$holder->quit;

# two clicks at once: both find nobody waiting, one gets in
my $clicks = create('CLICKS', 5);
$locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE coupon.request_0, coupon.request_1 IN SHARE MODE');
my @clicks = map { $node->background_psql('postgres') } 1 .. 2;
$_->query_until(qr/asks/, qq{\\echo asks
	SELECT 'got ' || coalesce(r #>> '{error,code}', 'accepted') FROM coupon_api.issue_fcfs('$clicks', 'alice') r;
	\\echo answered
}) for @clicks;
$node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%issue_fcfs%' AND pid <> pg_backend_pid()})
  or die 'they do not wait';
$locker->query_safe('COMMIT');
$locker->quit;
# the first may have been decided before the second is answered
like(join(' ', sort map { $_->query_until(qr/answered/, '') =~ /got (\w+)/ } @clicks), qr/^(accepted requested|accepted already_issued|already_issued accepted)$/, 'F1: of two clicks at once one is accepted, the other is a duplicate');
$_->quit for @clicks;

# for load scripts without tokens
load_example($node, 'postgres', 'sources/roles.sql', '-v', 'open=on');
is(call('POST', '/coupons/issue-sync/77?code=NOW', undef, undef, 'coupon_web_anonymous')->{status}, 200, 'open: without a token');
is(call('GET', '/admin/coupons/NOW/status', undef, undef, 'coupon_web_anonymous')->{status}, 200, 'open: administration, too');

conserved($node, 'postgres', 'http');
$node->stop;
server_log_is_clean($node, 'http');

# PostgREST away
kill TERM => $upstream_pid;
waitpid $upstream_pid, 0;
$upstream_pid = undef;
$answer = request('POST', '/coupon/issue', '{}');
is("$answer->{status} $answer->{json}{error}{code} $answer->{headers}{'retry-after'}", '503 unavailable 1', 'without PostgREST: 503, as JSON');

done_testing();
