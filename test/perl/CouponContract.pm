# What the routes of examples/sources promise, as one table of calls, and how it
# is played: the same for whatever is in front of the functions.
package CouponContract;

use strict;
use warnings;

use CouponTest;
use Digest::SHA qw(hmac_sha256);
use Exporter 'import';
use HTTP::Tiny;
use JSON::PP;
use MIME::Base64 qw(encode_base64url);
use PostgreSQL::Test::Cluster;
use Test::More;

our @EXPORT = qw(source_cases play shape request token postgrest_call);

my $json = JSON::PP->new->canonical->allow_nonref->utf8;
my $text = JSON::PP->new->canonical->allow_nonref;
my $http = HTTP::Tiny->new(timeout => CouponTest::PATIENCE, keep_alive => 0, max_redirect => 0);

# request(base, method, path, body, headers): the answer, its content decoded
sub request
{
	my ($base, $method, $path, $body, %headers) = @_;
	my $answer = $http->request($method, "$base$path", { headers => \%headers, defined $body ? (content => $body) : () });

	$answer->{json} = eval { $json->decode($answer->{content}) };
	return $answer;
}

# token(secret, claims): signed by HS256
sub token
{
	my ($secret, $claims) = @_;
	my $signed = join '.', map { encode_base64url($json->encode($_)) } { alg => 'HS256', typ => 'JWT' }, $claims;

	return "$signed." . encode_base64url(hmac_sha256($signed, $secret));
}

# shape(value): keys and types, as in "a: number, b: {c: string}"
sub shape
{
	my ($value) = @_;

	return join ', ', map {
		my $x = $value->{$_};
		"$_: " . (ref $x eq 'HASH' ? '{' . shape($x) . '}' : !defined $x ? 'null' : ref $x ? 'boolean' : $text->encode($x) =~ /^"/ ? 'string' : 'number')
	} sort keys %$value;
}

sub literal { return "'" . (shift =~ s/'/''/gr) . "'" }
sub unescape
{
	my $bytes = shift =~ s/\+/ /gr =~ s/%(..)/chr hex $1/ger;

	utf8::decode($bytes);
	return $bytes;
}

# postgrest_call(node, database, schema, seen, role, claims): the answer of
# PostgREST to what has arrived at it: a function of the schema, found by the
# names of its arguments, in one transaction, as the role.  seen: uri, headers
# and body of a POST.
sub postgrest_call
{
	my ($node, $database, $schema, $seen, $role, $claims) = @_;
	my ($function) = $seen->{uri} =~ m{^/rpc/(\w+)};
	my $arguments = ($seen->{headers}{'content-type'} // '') =~ /^application\/json/
	  ? eval { $text->decode($seen->{body} eq '' ? '{}' : $seen->{body}) }
	  : { map { map { unescape($_) } split /=/, $_, 2 } split /[&;]/, $seen->{body} };
	return { status => 400, json => { code => 'PGRST102', message => 'Empty or invalid json' }, headers => {} } if !defined $arguments;
	my @given = sort keys %$arguments;

	my ($volatility, %types);
	for my $line (split /\n/, $node->safe_psql($database, qq{
		SELECT concat_ws(' ', provolatile, (SELECT string_agg(name || ' ' || type, ' ') FROM unnest(p.proargnames, p.proargtypes::regtype[]) a(name, type)))
		  FROM pg_proc p WHERE p.proname = '$function' AND p.pronamespace = '$schema'::regnamespace AND (p.proargnames IS NOT NULL OR p.pronargs = 0)}))
	{
		($volatility, %types) = split / /, $line;
	}
	my $is_known = !grep { !$types{$_} } @given;
	my $columns = join ', ', map { qq("$_" $types{$_}) } @given;
	my $list = join ', ', map { qq("$_" := a."$_") } @given;
	my $body = literal($text->encode($arguments));
	# with other keys: the one of a jsonb without a name
	my $call = !$is_known ? "$schema.$function($body\::jsonb)" : @given ? "$schema.$function($list) FROM json_to_record($body) AS a($columns)" : "$schema.$function()";
	my %setting = (search_path => "$schema, public", 'request.method' => 'POST', 'request.path' => "/rpc/$function",
		'request.headers' => $text->encode($seen->{headers}), 'request.jwt.claims' => $text->encode({ role => $role, %$claims }));
	my $sql = join("\n",
		'\set VERBOSITY verbose', $volatility eq 'v' ? 'BEGIN;' : 'BEGIN READ ONLY;', "SET LOCAL ROLE $role;",
		(map { "SELECT set_config('$_', " . literal($setting{$_}) . ', true) \g /dev/null' } sort keys %setting),
		"SELECT $call;", q{SELECT current_setting('response.status'), nullif(current_setting('response.headers', true), '');}, 'COMMIT;');

	utf8::encode($sql);
	my ($status, $stdout, $stderr) = $node->psql($database, $sql);
	if ($status != 0)
	{
		my $code = $stderr =~ /ERROR:  (\w+)/ ? $1 : $stderr;

		return { status => $code ne '42501' ? 500 : $role eq 'coupon_web_anonymous' ? 401 : 403, json => { code => $code, message => $stderr }, headers => {} };
	}
	my ($content, $code, $headers) = $stdout =~ /\A(.*)\n(\d+)\|(.*)\z/s;
	my %headers = map { %$_ } @{ $text->decode($headers || '[]') };
	return { status => $code, json => $json->decode($content), headers => { map { lc $_ => $headers{$_} } keys %headers } };
}

# find(answer, where): "data.serial" of the body, or "header Retry-After"
sub find
{
	my ($answer, $where) = @_;
	my $value = $answer->{json};

	return $answer->{headers}{ lc $1 } if $where =~ /^header (.*)/;
	$value = ref $value eq 'HASH' ? $value->{$_} : undef for split /\./, $where;
	return JSON::PP::is_bool($value) ? ($value ? 'true' : 'false') : $value;
}

# told(answer): "status code"
sub told
{
	my ($answer) = @_;

	return join ' ', grep { defined } $answer->{status}, ref $answer->{json} eq 'HASH' ? find($answer, 'error.code') // ($answer->{status} >= 400 ? $answer->{json}{code} : undef) : undef;
}

# play(cases, node, database, call): call(method, path, body, headers, role,
# claims) gives status, json and headers, their names in lower case.
#
# A case has a name (is), and either
#   call => "POST /path", body, headers, as => role, sub => user; and then
#   gives => "status" or "status code", has => {where => what}, shape
# or sql, with gives; session => name keeps it open, until ends => its last
# statement.  keep => {name => where} (sql: a name) keeps a value, which {name}
# stands for from then on.  until: it is repeated until it gives that, {n}
# being how often.
sub play
{
	my ($cases, $node, $database, $call) = @_;
	my (%kept, %sessions);
	my $fill = sub { my $s = shift; defined $s ? $s =~ s/\{(\w+)\}/$kept{$1} \/\/ "{$1}"/ger : undef };
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	for my $case (@$cases)
	{
		my $gives = $fill->($case->{gives});

		if (my $name = $case->{session})
		{
			my $session = $sessions{$name} //= $node->background_psql($database);

			$session->query_safe($fill->($case->{ends} // $case->{sql}));
			(delete $sessions{$name})->quit if $case->{ends};
			next;
		}
		if ($case->{sql})
		{
			my $sql = $fill->($case->{sql});
			my $answer;

			poll_until($case->{is} // $sql, sub { $answer = $node->safe_psql($database, $sql); !$case->{until} || $answer eq $gives });
			$kept{ $case->{keep} } = $answer if $case->{keep};
			is($answer, $gives, $case->{is} // $sql) if defined $gives;
			next;
		}

		my ($method, $path) = split / /, $case->{call}, 2;
		my $as_given = join ' ', grep { defined } $method, $path, $case->{body};
		my $answer;
		$kept{n} = 0;
		poll_until($case->{is}, sub {
			$kept{n}++;
			$answer = $call->($method, $fill->($path), $fill->($case->{body}), { map { $_ => $fill->($case->{headers}{$_}) } keys %{ $case->{headers} // {} } },
				$case->{as} // 'coupon_web_server', defined $case->{sub} ? { sub => $case->{sub} } : {});
			!$case->{until} || (told($answer) eq $gives && !grep { (find($answer, $_) // '') ne $case->{has}{$_} } keys %{ $case->{has} // {} });
		});
		my $told = $gives =~ / / ? told($answer) : $answer->{status};
		is($told, $gives, "$case->{is}: $as_given") or diag($text->encode([ $answer->{json}, $answer->{content} ]));
		is(find($answer, $_), $fill->($case->{has}{$_}), "  $_") for sort keys %{ $case->{has} // {} };
		is(shape($answer->{json}), $case->{shape}, '  keys and types') if $case->{shape};
		ok(length(find($answer, 'message') // ''), '  and a message') if $answer->{status} >= 400 && !defined find($answer, 'data.processed');
		$kept{$_} = find($answer, $case->{keep}{$_}) for keys %{ $case->{keep} // {} };
	}
	return \%kept;
}

my $unit = 'data: {code: null, couponId: number, expiresAt: null, issuedAt: string, serial: number, status: string, userId: string}';
my $error = 'error: {code: string, message: string}, message: string';
my $snapshot = '"policyId":21,"typeSnapshot":"FIXED","discountRateSnapshot":10.0,"discountAmountSnapshot":1000,"minimumOrderAmountSnapshot":5000,"usagePeriodSnapshot":30,"expiredAt":"2025-12-31T23:59:59"';

# source_cases(): in a database with the roles and functions of examples/sources
sub source_cases
{
	return [
		{ sql => q{SELECT coupon_campaign_create('NOW', 9)} },
		{ sql => q{SELECT coupon_campaign_create('NOW', 4)}, keep => 'newest' },
		{ sql => q{SELECT coupon_codes_import(coupon_campaign_create('CODES', 0), '{C-1}')} },
		{ sql => q{SELECT coupon_room_create('hall', 1); SELECT coupon_campaign_require_room(coupon_campaign_create('HALL', 3), 'hall')} },
		{ sql => q{SELECT coupon_campaign_pause(coupon_campaign_create('PAUSED', 3))} },
		{ sql => q{SELECT coupon_campaign_close(coupon_campaign_create('CLOSED', 3))} },
		{ sql => q{SELECT coupon_campaign_create('FUTURE', 3, opens_at => now() + interval '1 day')} },

		# 000, at once
		{ is => 'F6: issue-sync', call => 'POST /coupons/issue-sync/7?code=NOW', gives => '200', shape => $unit,
			has => { 'data.status' => 'issued', 'data.userId' => 7, 'data.couponId' => '{newest}' }, keep => { serial => 'data.serial' } },
		{ is => 'F1: one row behind it', sql => q{SELECT count(*) FROM coupon.issuance WHERE campaign_id = {newest} AND user_id = '7'}, gives => 1 },
		{ is => 'issue-optimistic', call => 'POST /coupons/issue-optimistic/8?code=NOW', gives => '200', has => { 'data.status' => 'issued' } },
		{ is => 'a code', call => 'POST /coupons/issue-sync/7?code=CODES', gives => '200', has => { 'data.code' => 'C-1' } },
		(map { (
				{ is => 'F7: a duplicate, with the first answer', call => "POST /coupons/issue-$_/7?code=NOW", gives => '409 already_issued', has => { 'data.serial' => '{serial}' } },
				{ is => 'F7: sold out', call => "POST /coupons/issue-$_/8?code=CODES", gives => '409 sold_out', shape => $error },
				{ is => 'F24: past the room', call => "POST /coupons/issue-$_/7?code=HALL", gives => '403 not_admitted' },
				{ is => 'not open', call => "POST /coupons/issue-$_/7?code=FUTURE", gives => '409 not_open' },
				{ is => 'paused', call => "POST /coupons/issue-$_/7?code=PAUSED", gives => '409 paused' },
				{ is => 'closed', call => "POST /coupons/issue-$_/7?code=CLOSED", gives => '409 closed' },
				{ is => 'no such code', call => "POST /coupons/issue-$_/7?code=NONE", gives => '404 unknown_campaign' },
				{ is => 'no code', call => "POST /coupons/issue-$_/7", gives => '400' } ) } qw(sync optimistic)),
		{ is => 'a code with a NUL is none', call => 'POST /coupons/issue-sync/9?code=NOW%00zzz', gives => '400' },
		{ is => 'nor is one that is no UTF-8', call => 'POST /coupons/issue-sync/9?code=NOW%ff', gives => '400' },
		{ is => 'nor one that is not percent-encoded', call => 'POST /coupons/issue-sync/9?code=NOW%zz', gives => '400' },
		{ is => 'a user with a NUL', call => 'POST /coupons/issue-sync/a%00b?code=NOW', gives => '400' },
		{ is => 'a user that is no UTF-8', call => 'POST /coupons/issue-sync/a%e0%80%80?code=NOW', gives => '400' },
		{ is => 'a user of blanks and letters of all kinds', call => 'POST /coupons/issue-sync/a%20%EC%BF%A0%2F%26?code=NOW', gives => '200', has => { 'data.userId' => "a \x{cfe0}/&" } },
		{ is => 'F7: sold out, in Korean', call => 'POST /coupons/issue-sync/8?code=CODES', headers => { 'Accept-Language' => 'ko-KR,ko;q=0.9,en;q=0.8' }, gives => '409 sold_out',
			has => { message => "\x{baa8}\x{b450} \x{c18c}\x{c9c4}\x{b418}\x{c5c8}\x{c2b5}\x{b2c8}\x{b2e4}.", 'error.message' => "\x{baa8}\x{b450} \x{c18c}\x{c9c4}\x{b418}\x{c5c8}\x{c2b5}\x{b2c8}\x{b2e4}." } },

		# 000, event and result: decided by the issuer
		{ is => 'coupon-policies', call => 'POST /admin/coupon-policies', body => '{"code":"EVENT","maxCount":2.0,"discountRate":10.50}', as => 'coupon_web_admin',
			gives => '201', shape => 'code: string, couponId: number, discountRate: number, maxCount: number', has => { maxCount => 2, discountRate => 10.5 } },
		{ is => 'F1: one sale for a code', call => 'POST /admin/coupon-policies', body => '{"code":"EVENT","maxCount":2,"discountRate":10}', as => 'coupon_web_admin', gives => '409 exists' },
		(map { { is => 'coupon-policies', call => 'POST /admin/coupon-policies', body => $_, as => 'coupon_web_admin', gives => '400' } }
			  '{}', '{"code":"P","maxCount":0,"discountRate":1}', '{"code":"P","maxCount":1.5,"discountRate":1}', '{"code":"P","maxCount":1,"discountRate":1e-400}',
			'{"code":"P","maxCount":1,"discountRate":0}', '{"code":"P","maxCount":1,"discountRate":1,"more":1}', '{"code":["P"],"maxCount":1,"discountRate":1}'),
		{ is => 'F6: issue-async', call => 'POST /coupons/issue-async/7?code=EVENT', gives => '202', shape => 'data: {requestId: string}', keep => { id => 'data.requestId' } },
		{ is => 'F4: with a row behind it', sql => q{SELECT count(*) FROM coupon.request WHERE request_id = '{id}'}, gives => 1 },
		{ is => 'issue-status', call => 'GET /coupons/issue-status/7?code=EVENT', gives => '200', until => 1, has => { 'data.status' => 'COMPLETED' } },
		{ is => 'F6: issue-status', call => 'GET /coupons/issue-status/7?code=EVENT', gives => '200', shape => 'data: {queuePosition: number, status: string}' },
		{ is => 'F4: not requested is not WAITING', call => 'GET /coupons/issue-status/z?code=EVENT', gives => '200', has => { 'data.status' => 'NOT_REQUESTED' } },
		(map { { is => 'F6: the result', call => "GET $_", gives => '200', has => { 'data.processed' => 'true', 'data.success' => 'true', 'data.outcome' => 'issued' } } }
			  '/coupons/issue-result/{id}', '/coupons/issue-result/7?code=EVENT', '/coupons/result/7?code=EVENT', '/coupons/result/7?code=EVENT&requestId={id}'),
		{ is => 'not processed', call => 'GET /coupons/result/z?code=EVENT', gives => '404', has => { 'data.processed' => 'false', 'data.success' => 'false' } },
		{ is => 'not an id', call => 'GET /coupons/result/z?requestId=7', gives => '400 invalid' },
		{ is => 'F7: a duplicate', call => 'POST /coupons/issue-async/7?code=EVENT', gives => '409 already_issued' },
		{ is => 'the service by events: the last unit', call => 'POST /coupons/issue/8?code=EVENT', gives => '202' },
		{ is => 'its decision', call => 'GET /coupons/result/8?code=EVENT', gives => '200', until => 1 },
		{ is => 'F7: sold out is refused at entry', call => 'POST /coupons/issue/9?code=EVENT', gives => '409 sold_out' },
		{ is => 'coupon status', call => 'GET /admin/coupons/EVENT/status', as => 'coupon_web_admin', gives => '200', has => { issuedCount => 2 }, shape => 'issuedCount: number' },
		{ is => 'F12: queue-status', call => 'GET /admin/redis/queue-status?code=EVENT', as => 'coupon_web_admin', gives => '200', has => { queueSize => 0, processingCount => 0 } },
		{ is => 'kafka health', call => 'GET /admin/kafka/health', as => 'coupon_web_admin', gives => '200', has => { status => 'DOWN' } },
		{ is => 'kafka status', call => 'GET /admin/kafka/status', as => 'coupon_web_admin', gives => '200', shape => 'broker: string, deadLetters: number, lagSeconds: number, published: number, unpublished: number' },

		# 002 and 003: the client's discount and expiry are not read; its id is built in
		{ sql => q{SELECT coupon_campaign_create('104', 5, policy => '{"kind": "FIXED", "amount": 1000, "usage_period_days": 30}')}, keep => 'built_in' },
		{ is => 'F16: coupon/issue', call => 'POST /coupon/issue', body => qq({"userId":7,"couponId":104,$snapshot}), gives => '202', has => { 'data.status' => 'WAITING' } },
		{ is => 'F16: the issuance', sql => q{SELECT count(*) FROM coupon.issuance WHERE campaign_id = {built_in}}, until => 1, gives => 1 },
		{ is => 'F16: the policy and the expiry are the campaign\'s', sql => q{SELECT policy::text || ' ' || (expires_at - issued_at) FROM coupon.issuance WHERE campaign_id = {built_in}},
			gives => '{"kind": "FIXED", "amount": 1000, "usage_period_days": 30} 30 days' },
		{ is => 'coupon/issue again', call => 'POST /coupon/issue', body => qq({"userId":"7","couponId":{built_in},$snapshot}), gives => '202', has => { 'data.outcome' => 'already_issued' } },
		{ is => 'an argument that there is not', call => 'POST /coupon/issue', body => '{"userId":7,"couponId":104,"couponID":1}', gives => '400' },
		{ is => 'no user', call => 'POST /coupon/issue', body => '{"couponId":104}', gives => '400 missing' },
		{ is => 'no coupon', call => 'POST /coupon/issue', body => '{"userId":7}', gives => '400 missing' },
		{ is => 'no number', call => 'POST /coupon/issue', body => '{"userId":7,"couponId":"x"}', gives => '400 invalid' },
		{ is => 'no such coupon', call => 'POST /coupon/issue', body => '{"userId":7,"couponId":999999}', gives => '404 unknown_campaign' },

		# 001: the waiting room; and 004, through it and around it
		{ sql => q{SELECT coupon_room_create('default', 1)} },
		{ sql => q{SELECT coupon_campaign_create('ROOM', 5)}, keep => 'room' },
		{ sql => q{SELECT coupon_campaign_require_room({room}, 'default')} },
		{ is => 'F24: past the room', call => 'POST /api/coupons/{room}/issue-fcfs/7', gives => '403 not_admitted' },
		{ is => 'enqueue', call => 'POST /queues/enqueue', body => '{"userId":7}', gives => '201', shape => 'order: number, status: string', keep => { token => 'header X-Access-Token' } },
		{ is => 'admission', call => 'GET /queues/order', headers => { 'X-Access-Token' => '{token}' }, gives => '200', until => 1, has => { order => 0 } },
		{ is => 'the next one', call => 'POST /queues/enqueue', body => '{"userId":"8"}', gives => '201', keep => { other => 'header X-Access-Token' } },
		{ is => 'waits', call => 'GET /queues/order', headers => { 'X-Access-Token' => '{other}' }, gives => '200', shape => 'order: number', has => { order => 1 } },
		{ is => 'F24: who waits', call => 'POST /api/coupons/{room}/issue-fcfs/8', gives => '403 not_admitted' },
		{ is => 'who is admitted', call => 'POST /api/coupons/{room}/issue-fcfs/7', gives => '202', shape => 'message: string, remainingStock: number, requestId: string', has => { remainingStock => 4 } },
		{ sql => q{SELECT coupon_queue_leave('{token}', 'paid')} },
		{ is => 'F20: a ticket that has ended', call => 'GET /queues/order', headers => { 'X-Access-Token' => '{token}' }, gives => '401 gone' },
		{ is => 'F20: and its slot is the next one\'s', call => 'GET /queues/order', headers => { 'X-Access-Token' => '{other}' }, gives => '200', until => 1, has => { order => 0 } },
		{ is => 'no token', call => 'GET /queues/order', gives => '400 missing' },
		{ is => 'no token of ours', call => 'GET /queues/order', headers => { 'X-Access-Token' => 'x' }, gives => '400 invalid' },
		{ is => 'no user', call => 'POST /queues/enqueue', body => '{}', gives => '400 missing' },
		{ is => 'an argument that there is not', call => 'POST /queues/enqueue', body => '{"userId":7,"user":7}', gives => '400' },
		{ is => 'no such room', call => 'POST /queues/enqueue', body => '{"userId":7,"room":"none"}', gives => '404 unknown_room' },
		{ sql => q{SELECT coupon_campaign_create('FCFS', 1)}, keep => 'fcfs' },
		{ is => '004', call => 'POST /api/coupons/{fcfs}/issue-fcfs/p-1', gives => '202', has => { remainingStock => 0 } },
		{ is => '004: the decision', sql => q{SELECT remaining FROM coupon_status({fcfs})}, until => 1, gives => 0 },
		{ is => '004: a duplicate', call => 'POST /api/coupons/{fcfs}/issue-fcfs/p-1', gives => '409 already_issued' },
		{ is => '004: sold out', call => 'POST /api/coupons/{fcfs}/issue-fcfs/p-2', gives => '400 sold_out' },

		# F8: busy, in each way of it
		{ sql => q{SELECT coupon_campaign_create('LAST', 1)}, keep => 'last' },
		{ sql => q{SELECT coupon_campaign_create('MINE', 5)}, keep => 'mine' },
		{ session => 'holder', sql => q{BEGIN; SELECT coupon_issue({last}, 'x'); SELECT coupon_issue({mine}, 'x')} },
		# shorter than the 10 s that test/sql/tap/http.sql has seen
		{ sql => q{ALTER FUNCTION coupon_api.issue_sync SET lock_timeout = '300ms'} },
		{ is => 'F8: the last unit is in flight', call => 'POST /coupons/issue-sync/y?code=LAST', gives => '429 busy', has => { 'header Retry-After' => 1 } },
		{ is => 'F8: the last unit is in flight', call => 'POST /coupons/issue-optimistic/y?code=LAST', gives => '423 busy', has => { 'header Retry-After' => 1 } },
		{ is => 'F8: the user is locked', call => 'POST /coupons/issue-optimistic/x?code=MINE', gives => '423 busy' },
		{ is => 'F8: the user is locked', call => 'POST /coupons/issue-sync/x?code=MINE', gives => '429 busy' },
		{ session => 'holder', ends => 'ROLLBACK' },
		{ sql => q{ALTER FUNCTION coupon_api.issue_sync SET lock_timeout = '10s'} },
		{ is => 'F3: the unit is back', call => 'POST /coupons/issue-sync/y?code=LAST', gives => '200' },

		# F12: the depth of the queue is capped
		{ sql => q{SELECT coupon_campaign_create('DEEP', 1000)}, keep => 'deep' },
		{ session => 'holder', sql => q{BEGIN; SELECT coupon_request({deep}, 'x'::text)} },
		{ sql => q{ALTER SYSTEM SET coupon.request_depth = 1} },
		{ sql => q{SELECT pg_reload_conf()} },
		{ sql => q{SHOW coupon.request_depth}, until => 1, gives => 1 },
		{ is => 'F12: the queue is full', call => 'POST /coupons/issue-async/deep{n}?code=DEEP', gives => '429 full', until => 1 },
		{ is => 'F12: the queue is full', call => 'POST /coupon/issue', body => '{"userId":"y","couponId":{deep}}', gives => '429 full', has => { 'header Retry-After' => 1 } },
		{ is => 'F12: the queue is full', call => 'POST /api/coupons/{deep}/issue-fcfs/y', gives => '429 full', has => { 'header Retry-After' => 1 } },
		{ session => 'holder', ends => 'ROLLBACK' },
		{ sql => q{ALTER SYSTEM RESET coupon.request_depth} },
		{ sql => q{SELECT pg_reload_conf()} },

		# who may what
		{ is => 'a user for themselves', call => 'POST /coupons/issue-sync/me?code=DEEP', as => 'coupon_web_user', sub => 'me', gives => '200', has => { 'data.userId' => 'me' } },
		{ is => 'for no other', call => 'POST /coupons/issue-sync/you?code=DEEP', as => 'coupon_web_user', sub => 'me', gives => '403 other_user' },
		{ is => 'a token that names no user', call => 'POST /coupons/issue-sync/you?code=DEEP', as => 'coupon_web_user', gives => '401' },
		{ is => 'no token', call => 'POST /coupons/issue-sync/you?code=DEEP', as => 'coupon_web_anonymous', gives => '401' },
		{ is => 'no administration for an application', call => 'GET /admin/coupons/DEEP/status', gives => '403 42501' },
		{ is => 'nor to make anything', call => 'POST /admin/coupon-policies', body => '{"code":"MINE","maxCount":2,"discountRate":10}', gives => '403 42501' },
		{ is => 'another\'s result shows no unit', call => 'GET /coupons/issue-result/{id}', as => 'coupon_web_user', sub => 'you', gives => '200', has => { 'data.serial' => undef } },
		{ is => 'one\'s own does', call => 'GET /coupons/issue-result/{id}', as => 'coupon_web_user', sub => '7', gives => '200', keep => { own => 'data.serial' } },
		{ is => 'that of the request', sql => q{SELECT serial = {own} FROM coupon.request WHERE request_id = '{id}'}, gives => 't' },

		# what is no route, or is not to be called so
		(map { { is => 'no such method', call => $_, gives => '405 method', has => { 'header Allow' => 'POST' } } }
			  'GET /coupons/issue-sync/42?code=A', 'GET /coupon/issue', 'DELETE /queues/enqueue'),
		(map { { is => 'no such method', call => $_, gives => '405 method', has => { 'header Allow' => 'GET, HEAD' } } }
			  'POST /queues/order', 'POST /coupons/issue-status/42?code=A'),
		(map { { is => 'no such route', call => $_, gives => '404 unknown_route' } } 'POST /rpc/issue_sync', 'POST /.form', 'GET /.query', 'GET /coupons'),
		{ is => 'a body that is no JSON', call => 'POST /queues/enqueue', body => '{"userId":', gives => '400' } ];
}

1;
