# examples/sources: what nginx makes of each original route, seen by an
# upstream that answers with what it received; the same calls then played in
# PostgREST's envelope with the roles of roles.sql, workers and other sessions
# at work.
use strict;
use warnings;

use CouponNginx;
use CouponTest;
use Cwd qw(abs_path);
use File::Basename;
use HTTP::Tiny;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $nginx = nginx_program();
plan skip_all => 'skipped: nginx is not installed (Debian: nginx-light)' unless $nginx;

my $example = dirname(dirname(dirname(abs_path(__FILE__)))) . '/examples/sources';
my $json = JSON::PP->new->canonical->allow_nonref;

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

# ---- the same calls in PostgREST's envelope ----

my $node = new_server('http');
sub sql { return $node->safe_psql('postgres', shift) }
# create(name, stock, more arguments): the campaign's id
sub create { my ($name, $stock, $more) = @_; return sql("SELECT coupon_campaign_create('$name', $stock" . ($more // '') . ')') }
sub literal { return "'" . (shift =~ s/'/''/gr) . "'" }
# shape(value): keys and types, as in "a: number, b: {c: string}"
sub shape
{
	my ($value) = @_;

	return join ', ', map { my $x = $value->{$_}; "$_: " . (ref $x eq 'HASH' ? '{' . shape($x) . '}' : !defined $x ? 'null' : ref $x ? 'boolean' : $json->encode($x) =~ /^"/ ? 'string' : 'number') } sort keys %$value;
}
sub unescape { return shift =~ s/\+/ /gr =~ s/%(..)/chr hex $1/ger }

# and run again
load_example($node, 'postgres', "sources/$_.sql") for qw(roles http api), qw(roles http api);
pass('roles.sql, http.sql and api.sql run, and again');

# call(method, path, body, headers, role, claims): through nginx to the
# upstream, and from what arrived there to the answer: status, body, headers
sub call
{
	my ($method, $path, $body, $headers, $role, $claims) = @_;
	my $seen = request($method, $path, $body, %{ $headers // {} })->{json};
	my ($function) = $seen->{uri} =~ m{^/rpc/(\w+)};
	my $type = $seen->{headers}{'content-type'} // $form;
	my $arguments = $type eq $form
	  ? { map { map { unescape($_) } split /=/, $_, 2 } split /[&;]/, $seen->{body} }
	  : $json->decode($seen->{body} eq '' ? '{}' : $seen->{body});

	$role //= 'coupon_web_server';
	my %types = map { split / /, $_, 2 } split /\n/, sql(qq{
		SELECT name || ' ' || type FROM pg_proc p, unnest(p.proargnames, p.proargtypes::regtype[]) a(name, type)
		WHERE p.proname = '$function' AND p.pronamespace = 'coupon_api'::regnamespace});
	my $columns = join ', ', map { qq("$_" $types{$_}) } sort keys %$arguments;
	my $list = join ', ', map { qq("$_" := a."$_") } sort keys %$arguments;
	my $from = %$arguments ? 'FROM json_to_record(' . literal($json->encode($arguments)) . ") AS a($columns)" : '';
	my %setting = (search_path => 'coupon_api, public', 'request.method' => $method, 'request.path' => "/rpc/$function",
		'request.headers' => $json->encode($seen->{headers}), 'request.jwt.claims' => $json->encode({ role => $role, %{ $claims // {} } }));
	my ($status, $stdout, $stderr) = $node->psql('postgres', join("\n",
		'\set VERBOSITY verbose', 'BEGIN' . ($method eq 'GET' ? ' READ ONLY;' : ';'), "SET LOCAL ROLE $role;",
		(map { "SELECT set_config('$_', " . literal($setting{$_}) . ', true) \g /dev/null' } sort keys %setting),
		"SELECT coupon_api.$function($list) $from;",
		q{SELECT current_setting('response.status'), nullif(current_setting('response.headers', true), '');}, 'COMMIT;'));

	return { status => $stderr =~ /ERROR:  (\w+)/ ? $1 : $status, json => undef, headers => {} } if $status != 0;
	my ($content, $code, $out_headers) = $stdout =~ /\A(.*)\n(\d+)\|(.*)\z/s;
	return { status => $code, json => $json->decode($content), headers => { map { %$_ } @{ $json->decode($out_headers || '[]') } } };
}

# 000, at once: by a grouped call, in a transaction of its own
poll_until('a worker', sub { sql('SELECT workers FROM coupon_group_status()') eq '1' });
create('NOW', 9);
my $newest = create('NOW', 3);
sql(sprintf q{SELECT coupon_codes_import(%d, '{C-1}')}, create('CODES', 0));
sql(sprintf q{SELECT coupon_room_create('hall', 1); SELECT coupon_campaign_require_room(%d, 'hall')}, create('HALL', 3));
my $now = call('POST', '/coupons/issue-sync/7?code=NOW');
is("$now->{status} " . shape($now->{json}), '200 data: {code: null, couponId: number, expiresAt: null, issuedAt: string, serial: number, status: string, userId: string}',
	'F6: issue-sync: keys and types');
is_deeply([ @{ $now->{json}{data} }{qw(status userId couponId)} ], [ 'issued', '7', $newest ], 'issued, of the newest campaign of the name');
is(sql("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $newest AND user_id = '7'"), 1, 'F1: one row behind it');
is(call('POST', '/coupons/issue-optimistic/8?code=NOW')->{status}, 200, 'issue-optimistic');
is(call('POST', '/coupons/issue-sync/7?code=CODES')->{json}{data}{code}, 'C-1', 'issue-sync: a code');
for my $how (qw(sync optimistic))
{
	my $again = call('POST', "/coupons/issue-$how/7?code=NOW");
	is("$again->{status} $again->{json}{error}{code} $again->{json}{data}{serial}", "409 already_issued $now->{json}{data}{serial}",
		"F7: issue-$how: a duplicate: 409 of its own kind, with the first answer");
	my $none = call('POST', "/coupons/issue-$how/8?code=CODES");
	is("$none->{status} $none->{json}{error}{code}", '409 sold_out', "F7: issue-$how: sold out");
	is(call('POST', "/coupons/issue-$how/7?code=HALL")->{json}{error}{code}, 'not_admitted', "F24: issue-$how: past the room");
}
is(call('POST', '/coupons/issue-sync/me?code=NOW', undef, undef, 'coupon_web_user', { sub => 'me' })->{json}{data}{userId}, 'me', 'a token\'s sub is the user');
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
	is("$away->{status} $away->{json}{error}{code} $away->{headers}{'Retry-After'}", '503 unavailable 1', "issue-$how without a worker: 503");
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
is("$locked->{status} $locked->{json}{error}{code} $locked->{headers}{'Retry-After'}", '423 busy 1', 'F8: the tables are locked: 423');
$locker->query_safe('ROLLBACK');
$locker->quit;

# 000, event and result: decided by the issuer
my $made = call('POST', '/admin/coupon-policies', '{"code":"EVENT","maxCount":2,"discountRate":10}', undef, 'coupon_web_admin');
is("$made->{status} $made->{json}{maxCount}", '201 2', 'a coupon is made');
my $accepted = call('POST', '/coupons/issue-async/7?code=EVENT');
my $id = $accepted->{json}{data}{requestId};
is($accepted->{status}, 202, 'F4: accepted');
is(sql("SELECT count(*) FROM coupon.request WHERE request_id = '$id'"), 1, 'F4: with a row behind it');
poll_until('the decision', sub { call('GET', '/coupons/issue-status/7?code=EVENT')->{json}{data}{status} eq 'COMPLETED' });
my $result = call('GET', "/coupons/issue-result/$id");
is("$result->{status} $result->{json}{data}{outcome}", '200 issued', 'F4: the result is there');
ok($result->{json}{data}{processed} && $result->{json}{data}{success}, 'F6: processed and success are true');
is(call('POST', '/coupons/issue-async/7?code=EVENT')->{status}, 409, 'F7: a duplicate');
is(call('GET', '/admin/coupons/EVENT/status', undef, undef, 'coupon_web_admin')->{json}{issuedCount}, 1, 'issuedCount');
is(call('POST', '/coupons/issue-sync/8?code=EVENT')->{status}, 200, 'the last one');
my $sold_out = call('POST', '/coupons/issue-async/9?code=EVENT');
is("$sold_out->{status} $sold_out->{json}{error}{code}", '409 sold_out', 'F7: sold out is refused at entry');
is_deeply(call('GET', '/admin/redis/queue-status?code=EVENT', undef, undef, 'coupon_web_admin')->{json}, { queueSize => 0, processingCount => 0 }, 'nobody waits');

# a request of a user who had a unit by the time it was decided
my $twice = create('TWICE', 5);
my ($second) = split /\n/, sql("BEGIN; SELECT request_id FROM coupon_request($twice, 'a'::text); SELECT status FROM coupon_issue($twice, 'a'::text); COMMIT");
poll_until('the request', sub { sql("SELECT count(*) FROM coupon.request WHERE campaign_id = $twice AND decided_at IS NULL") eq '0' });
$result = call('GET', "/coupons/issue-result/$second");
is("$result->{status} $result->{json}{data}{outcome} " . ($result->{json}{data}{processed} && !$result->{json}{data}{success} ? 'no success' : ''),
	'200 already_issued no success', 'F7: processed, and no success');

# 003: the client's discount and expiry are not read
my $policy = create('POLICY', 5, q{, policy => '{"kind": "FIXED", "amount": 1000, "usage_period_days": 30}'});
is(call('POST', '/coupon/issue', '{"userId":7,"couponId":' . $policy . ',"policyId":21,"typeSnapshot":"RATE","discountRateSnapshot":99.0,"discountAmountSnapshot":999999,'
	  . '"minimumOrderAmountSnapshot":0,"usagePeriodSnapshot":36500,"expiredAt":"2999-12-31T23:59:59"}')->{status}, 202, 'coupon/issue');
poll_until('the issuance', sub { sql("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $policy") eq '1' });
is(sql("SELECT policy::text || ' ' || (expires_at - issued_at) FROM coupon.issuance WHERE campaign_id = $policy"),
	'{"kind": "FIXED", "amount": 1000, "usage_period_days": 30} 30 days', 'F16: the policy and the expiry are the campaign\'s');

# 001 and 004: through the room, and around it
my $room = create('ROOM', 5);
sql("SELECT coupon_room_create('default', 1); SELECT coupon_campaign_require_room($room, 'default')");
is(call('POST', "/api/coupons/$room/issue-fcfs/7")->{status}, 403, 'F24: past the room: refused');
my $enqueued = call('POST', '/queues/enqueue', '{"userId":7}');
my $token = $enqueued->{headers}{'X-Access-Token'};
is($enqueued->{status}, 201, 'enqueue');
poll_until('admission', sub { call('GET', '/queues/order', undef, { 'X-Access-Token' => $token })->{json}{order} == 0 });
my $other = call('POST', '/queues/enqueue', '{"userId":8}');
is(call('GET', '/queues/order', undef, { 'X-Access-Token' => $other->{headers}{'X-Access-Token'} })->{json}{order}, 1, 'the next one waits');
is(call('POST', "/api/coupons/$room/issue-fcfs/8")->{status}, 403, 'F24: one that waits: refused');
my $spike = call('POST', "/api/coupons/$room/issue-fcfs/7");
is("$spike->{status} $spike->{json}{remainingStock}", '202 4', 'one that is admitted: accepted');
sql(qq{SELECT coupon_queue_leave('$token', 'paid')});
my $gone = call('GET', '/queues/order', undef, { 'X-Access-Token' => $token });
is("$gone->{status} $gone->{json}{error}{code}", '401 gone', 'F20: a ticket that has ended is told so');
poll_until('the slot', sub { call('GET', '/queues/order', undef, { 'X-Access-Token' => $other->{headers}{'X-Access-Token'} })->{json}{order} == 0 });
pass('F20: and its slot is the next one\'s');
isnt(call('POST', '/queues/enqueue', '{"userId":7}')->{headers}{'X-Access-Token'}, $token, 'F20: enqueue again: another ticket');

# busy, in each way of it
my ($last, $mine) = (create('LAST', 1), create('MINE', 5));
my $holder = $node->background_psql('postgres');
$holder->query_safe("BEGIN; SELECT coupon_issue($last, 'x'); SELECT coupon_issue($mine, 'x')");
for my $busy ([ 'sync', 'LAST', 'y', 429 ], [ 'optimistic', 'LAST', 'y', 423 ], [ 'optimistic', 'MINE', 'x', 423 ], [ 'sync', 'MINE', 'x', 429 ])
{
	my ($how, $code, $user, $status) = @$busy;
	# shorter than the 10 s that test/sql/tap/http.sql has seen
	sql(q{ALTER FUNCTION coupon_api.issue_sync SET lock_timeout = '300ms'});
	my $start = time;
	my $got = call('POST', "/coupons/issue-$how/$user?code=$code");
	is("$got->{status} $got->{json}{error}{code} $got->{headers}{'Retry-After'}", "$status busy 1", "F8: issue-$how, " . ($user eq 'x' ? 'the user is locked' : 'the last unit is in flight') . ": $status");
	note(sprintf '%.0f ms', 1000 * (time - $start));
}
# issue-sync waits for the other transaction, and says what became of it
sql(q{ALTER FUNCTION coupon_api.issue_sync SET lock_timeout = '60s'});
my $waiter = $node->background_psql('postgres');
$waiter->query_until(qr/asks/, qq{\\echo asks
	SELECT 'got ' || (coupon_api.issue_sync('x', 'MINE') #>> '{data,status}');
	\\echo answered
});
await_true($node, 'postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%issue_sync%' AND pid <> pg_backend_pid()});
$holder->query_safe('ROLLBACK');
like($waiter->query_until(qr/answered/, ''), qr/got issued/, 'F8: issue-sync waits for who has the user, and gets the unit when he rolls back');
$waiter->quit;
is(call('POST', "/coupons/issue-sync/y?code=LAST")->{status}, 200, 'F3: the unit is back');
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

# the depth of the queue is capped
my $deep = create('DEEP', 5);
$node->append_conf('postgresql.conf', 'coupon.request_depth = 1');
$node->reload;
poll_until('the cap', sub { sql('SHOW coupon.request_depth') eq '1' });
$holder = $node->background_psql('postgres');
$holder->query_safe("BEGIN; SELECT coupon_request($deep, 'x'::text)");
for my $route ([ '/coupons/issue-async/y?code=DEEP' ], [ '/coupon/issue', qq({"userId":"y","couponId":$deep}) ], ["/api/coupons/$deep/issue-fcfs/y"])
{
	my $full = call('POST', @$route);
	is("$full->{status} $full->{json}{error}{code} $full->{headers}{'Retry-After'}", '429 full 1', "F12: $route->[0]: the queue is full");
}
$holder->query_safe('ROLLBACK');
$holder->quit;

# who may what
is(call('POST', '/coupons/issue-sync/me?code=DEEP', undef, undef, 'coupon_web_user', { sub => 'me' })->{status}, 200, 'a user for himself');
is(call('POST', '/coupons/issue-sync/you?code=DEEP', undef, undef, 'coupon_web_user', { sub => 'me' })->{status}, 403, 'a user for no other');
is(call('POST', '/coupons/issue-sync/you?code=DEEP', undef, undef, 'coupon_web_user')->{status}, 401, 'a user\'s token that names no user');
is(call('POST', '/coupons/issue-sync/you?code=DEEP', undef, undef, 'coupon_web_anonymous')->{status}, '42501', 'nobody without a token');
is(call('GET', '/admin/coupons/DEEP/status')->{status}, '42501', 'no administration for an application');
is(call('GET', "/coupons/issue-result/$id", undef, undef, 'coupon_web_user', { sub => 'you' })->{json}{data}{serial}, undef, 'another\'s result shows no unit');
is(call('GET', "/coupons/issue-result/$id", undef, undef, 'coupon_web_user', { sub => '7' })->{json}{data}{serial}, $result->{json}{data}{serial} // sql("SELECT serial FROM coupon.request WHERE request_id = '$id'"), 'one\'s own does');

# for load scripts without tokens
load_example($node, 'postgres', 'sources/roles.sql', '-v', 'open=on');
is(call('POST', '/coupons/issue-sync/77?code=DEEP', undef, undef, 'coupon_web_anonymous')->{status}, 200, 'open: without a token');
is(call('GET', '/admin/coupons/DEEP/status', undef, undef, 'coupon_web_anonymous')->{status}, 200, 'open: administration, too');

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
