# Keys of calls: a storm of retries by all ways at once, a crash between two
# tries, the same key over HTTP, and keys that are forgotten in time.
use strict;
use warnings;

use CouponNginx qw(free_port);
use CouponTest;
use HTTP::Tiny;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $port = free_port();
my $node = new_server('main', <<"END");
coupon.http_listen = '127.0.0.1:$port'
coupon.http_role = 'coupon_service'
END

sub sql { return $node->safe_psql('postgres', shift) }

poll_until('workers', sub { (try_sql($node, 'postgres', 'SELECT workers FROM coupon_group_status()') // '') eq '1' });

# ---- a storm ----

# 10 users with 4 keys each, by whichever way; a unit for each key, and no more
my $c = sql(q{SELECT coupon_campaign_create('storm', 1000, 100)});
sql('CREATE TABLE told (user_id text, key text, way text, status text, serial bigint)');
my @scripts;
my %ways = (
	coupon_issue => "SELECT status, serial FROM coupon_issue($c, :u, :k::text)",
	coupon_issue_grouped => "SELECT status, serial FROM coupon_issue_grouped($c, :u, :k::text)",
	coupon_issue_many => "SELECT status, serial FROM coupon_issue_many($c, ARRAY[:u::text, :u::text, 'other'], ARRAY[:k::text, :k::text, :k::text]) LIMIT 1",
	rolled_back => "BEGIN;\nSELECT status, serial FROM coupon_issue($c, :u, :k::text);\nROLLBACK");
for my $way (sort keys %ways)
{
	my $file = PostgreSQL::Test::Utils::tempdir() . "/$way.sql";

	append_to_file($file, join "\n", '\set u random(1, 10)', '\set k random(1, 4)',
		$way eq 'rolled_back' ? "$ways{$way};" :
			("$ways{$way} \\gset", "INSERT INTO told SELECT :u::text, :k::text, '$way', ':status', nullif(':serial', '')::bigint;"));
	push @scripts, '-f', $file;
}
$node->command_ok([ 'pgbench', '-n', '-M', 'simple', '-c', '12', '-j', '2', '-t', '40', @scripts, '-d', 'postgres' ], 'retries by all ways at once');
is(sql('SELECT count(*) FROM coupon.request_key'), sql('SELECT count(*) FROM coupon.issuance'), 'a unit for each key');
is(sql(q{SELECT count(*) FROM coupon.request_key k JOIN coupon.issuance i USING (campaign_id, user_id) WHERE i.serial = k.serials[1] AND i.issued_at = k.used_at}),
	sql('SELECT count(*) FROM coupon.issuance'), 'and it is the one');
is(sql(q{SELECT count(*) FROM (SELECT FROM told WHERE status = 'issued' GROUP BY user_id, key HAVING count(DISTINCT serial) > 1) t}),
	'0', 'each key was told the same unit always');
is(sql(q{SELECT string_agg(DISTINCT status, ' ') FROM told WHERE status NOT IN ('issued', 'busy')}), '', 'nobody was told anything else');
is(sql(q{SELECT count(*) FROM told t WHERE t.status = 'issued' AND NOT EXISTS (SELECT FROM coupon.request_key k WHERE k.user_id = t.user_id AND k.request_key = t.key AND k.serials[1] = t.serial)}),
	'0', 'what was told is so');
conserved($node, 'postgres', 'the storm');

# ---- a request, and a crash ----

my $wish = sql(qq{SELECT request_id FROM coupon_request($c, 'asks', 'k')});
is(sql(qq{SELECT outcome FROM coupon_request_wait('$wish', '60 s')}), 'issued', 'a request with a key');
is(sql(qq{SELECT status || (serial = (SELECT serials[1] FROM coupon.request_key WHERE user_id = 'asks')) FROM coupon_issue($c, 'asks', 'k')}),
	'issuedtrue', 'and a call with it');
my $before = sql(qq{SELECT serial FROM coupon_issue($c, 'crash', 'k')});
kill_and_recover($node, sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon sweeper'}));
poll_until('workers', sub { (try_sql($node, 'postgres', 'SELECT workers FROM coupon_group_status()') // '') eq '1' });
is(sql(qq{SELECT status || serial FROM coupon_issue_grouped($c, 'crash', 'k')}), "issued$before", 'after a crash the key finds its unit');

# ---- a unit that comes back to its user ----

my $k = sql(q{SELECT coupon_campaign_create('codes', 0, 2)});
sql(qq{SELECT coupon_codes_import($k, '{SECRET1}')});
is(sql(qq{SELECT status, code FROM coupon_issue($k, 'ann', 'k')}), 'issued|SECRET1', 'a code');
sql(qq{SELECT coupon_revoke($k, 'ann', 'error')});
is(sql(qq{SELECT status, code FROM coupon_issue($k, 'ann', 'k')}), 'returned|', 'is taken back');
is(sql(qq{SELECT status, code FROM coupon_issue($k, 'ann')}), 'issued|SECRET1', 'the same user gets it again by another call');
is(sql(qq{SELECT status, code FROM coupon_issue($k, 'ann', 'k')}), 'returned|', 'which is not the key\'s');

# so it is once all is sold, and a server that starts anew knows of no earlier user
my $gone = sql(q{SELECT coupon_campaign_create('gone', 2, 2)});
sql(qq{SELECT coupon_issue($gone, 'had', 'k'), coupon_revoke($gone, 'had', 'error')});
sql(qq{SELECT count(*) FROM coupon_issue_many($gone, '{a,b}')});
$node->restart;
is(sql(qq{SELECT string_agg(DISTINCT status, ' ') FROM generate_series(1, 3) g, coupon_issue($gone, 'late' || g)}), 'sold_out', 'all is sold');
is(sql(qq{SELECT status FROM coupon_issue($gone, 'had', 'k')}), 'returned', q{the key's unit was returned nevertheless});
poll_until('workers', sub { (try_sql($node, 'postgres', 'SELECT workers FROM coupon_group_status()') // '') eq '1' });
is(sql(qq{SELECT status FROM coupon_issue_grouped($gone, 'had', 'k')}), 'returned', '  by a grouped call, too');

# ---- HTTP ----

my $http = HTTP::Tiny->new(timeout => CouponTest::PATIENCE);

sub post
{
	my ($what, $user, $key, %more) = @_;
	my $answer = $http->post("http://127.0.0.1:$port/campaigns/$c/$what", {
			headers => { 'Content-Type' => 'application/json', 'Idempotency-Key' => $key },
			content => encode_json({ user_id => $user, %more }) });
	my $body = eval { decode_json($answer->{content}) } // {};

	return "$answer->{status} " . ($body->{serial} // $body->{code} // $answer->{content});
}

poll_until('the front', sub { $http->get("http://127.0.0.1:$port/readyz")->{success} });
my $first = post('issues', 'web', 'click-1');
like($first, qr/^201 \d+$/, 'a call with Idempotency-Key');
is(post('issues', 'web', 'click-1'), $first, 'the same again is the same answer');
isnt(post('issues', 'web', 'click-2'), $first, 'another click is another unit');
is(sql(qq{SELECT serial FROM coupon_issue($c, 'web', 'click-1')}), (split / /, $first)[1], 'a direct call has the same keys');
is(post('holds', 'web', 'click-1'), '422 other_call', 'a hold is another call');
my $hold = post('holds', 'web', 'hold-1');
like($hold, qr/^201 \d+$/, 'a hold with Idempotency-Key');
is(post('holds', 'web', 'hold-1'), $hold, 'is held once');
is(post('issues', 'web', 'x' x 257), '400 invalid_key', 'a key that is too long');
is(post('issues', 'web', '"click-1"'), $first, 'a key in quotes is the key');
is((post('issues', 'web', '"a \\"\\\\"') =~ /^201 (\d+)$/)[0], sql(qq{SELECT serial FROM coupon_issue($c, 'web', 'a "\\')}), '  whose own are escaped');
isnt(post('issues', 'web', '"click-1'), $first, '  half a pair is part of it');
like(post('issues', 'web', [ 'click-1', 'click-3' ]), qr/^400 invalid_argument/, 'two keys are refused');
like(post('issues', 'web', [ 'click-1', 'click-1' ]), qr/^400 invalid_argument/, '  and so is one twice');
like(post('issues', 'web', 'click-1', request_key => 'click-3'), qr/^400 invalid_argument/, '  or another in the body');
sql(qq{SELECT coupon_revoke($c, 'web', 'test', } . (split / /, $first)[1] . ')');
is(post('issues', 'web', 'click-1'), '410 returned', 'what was taken back');

# ---- forgotten ----

$node->append_conf('postgresql.conf', "coupon.key_keep = '1s'\n");
$node->reload;
poll_until('the keys to be old', sub { sql(q{SELECT max(used_at) < now() - interval '1 s' FROM coupon.request_key}) eq 't' });
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'coupon sweeper'});
poll_until('them to be forgotten', sub { sql('SELECT count(*) FROM coupon.request_key') eq '0' });
is(sql(qq{SELECT status || (serial = $before) FROM coupon_issue($c, 'crash', 'k')}), 'issuedfalse', 'after coupon.key_keep the key is new');

# tables that a DBA has locked stop nobody who has no key
my $session = $node->background_psql('postgres');
$session->query_safe('BEGIN; LOCK TABLE coupon.request_key IN ACCESS EXCLUSIVE MODE');
is(sql(qq{SELECT status FROM coupon_issue($c, 'no key')}), 'issued', 'without a key the table is not touched');
$session->quit;

$node->stop;
done_testing();
