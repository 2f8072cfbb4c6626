# A dump keeps the sale: campaigns, stock, codes, issuances, rooms, dead
# letters, the next id.  It leaves out who waits, and the events, which a copy
# must not publish again.  The restored sale goes on and sells exactly what was
# left.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', "max_locks_per_transaction = 256\ncoupon.max_lines = 16\n");
my $dir = PostgreSQL::Test::Utils::tempdir();

$node->safe_psql('postgres', q{
	SELECT coupon_campaign_create('plain', 500);
	SELECT coupon_campaign_create('coded', 0);
	SELECT coupon_codes_import(2, ARRAY(SELECT 'C' || g FROM generate_series(1, 300) g));
	SELECT coupon_campaign_create('two each', 100, 2, policy => '{"kind": "FIXED", "amount": 1000, "usage_period_days": 30}');
	SELECT coupon_campaign_create('paused', 10);
	SELECT coupon_campaign_create('closed', 10);
	SELECT coupon_campaign_create('grown', 10);
	SELECT coupon_campaign_add_stock(6, 90);
	SELECT coupon_campaign_create('empty', 0);
	SELECT coupon_campaign_create('hall', 0);
	SELECT coupon_units_import(8, ARRAY(SELECT 'S' || g FROM generate_series(1, 20) g));
	SELECT coupon_hold(8, 1, 'holds', '7 days'), coupon_hold(8, 2, 'paid'), coupon_hold(8, 3, 'late', '1 ms'), coupon_hold(8, 4, 'later', '1 ms');
	SELECT coupon_confirm(8, 2, 'paid', 'ref');
	SELECT coupon_issue_many(c, ARRAY(SELECT 'u' || g FROM generate_series(1, 60) g)) FROM generate_series(1, 6) c;
	SELECT coupon_issue_many(3, ARRAY(SELECT 'u' || g FROM generate_series(1, 10) g));
	SELECT coupon_issue(3, 'keyed', 'k');
	SELECT coupon_redeem(c, 'u1', 'order') FROM generate_series(1, 3) c;
	SELECT coupon_revoke(1, 'u2', 'test'), coupon_revoke(6, 'u3', 'test');
	SELECT coupon_campaign_reduce_stock(3, 10), coupon_campaign_add_stock(3, 10), coupon_units_withdraw(8, '{20}');
	SELECT coupon_campaign_pause(4), coupon_campaign_close(5)});
$node->safe_psql('postgres', q{UPDATE coupon.issuance SET expires_at = now() - interval '1 s' WHERE campaign_id = 3 AND user_id = 'u5'});
$node->safe_psql('postgres', 'SELECT coupon_expire()');
poll_until('holds to run out', sub { $node->safe_psql('postgres', 'SELECT count(*) FROM coupon.lapsed_hold') eq '2' });
$node->safe_psql('postgres', q{SELECT coupon_hold(8, 4, 'has it now', '7 days')});
$node->safe_psql('postgres', q{
	SELECT coupon_room_create('hall', 5), coupon_campaign_require_room(4, 'hall'), coupon_queue_join('hall', 'u1');
	INSERT INTO coupon.dead_letter SELECT id, topic, key, type, payload, 'too large', 1, now() FROM coupon.outbox LIMIT 1});


# What was issued before its campaign's limit was lowered, above the limit that
# holds now; and more rooms than are in use at a time.
$node->safe_psql('postgres', q{
	SELECT coupon_campaign_create('lowered', 20, 3);
	SELECT coupon_issue_many(9, '{a,a,a,b,b,b}'::text[]);
	SELECT coupon_revoke(9, 'b', 'test', serial) FROM coupon.issuance WHERE campaign_id = 9 AND user_id = 'b' AND nth < 3;
	SELECT coupon_campaign_alter(9, per_user_limit => 1)});
$node->safe_psql('postgres', join '', map { "SELECT coupon_room_create('room $_', 5);\n" } 1 .. 40);

# A route of one's own, a built-in one taken away, another one replaced.
$node->safe_psql('postgres', q{
	CREATE FUNCTION hello(name text) RETURNS json LANGUAGE sql STABLE AS 'SELECT json_build_object(''hello'', name)';
	SELECT coupon_route_add('GET', '/hello/{name}', 'hello(text)');
	SELECT coupon_route_drop('GET', '/campaigns/{campaign_id}'), coupon_route_drop('POST', '/rooms/{room}/tickets');
	SELECT coupon_route_add('POST', '/rooms/{name}/tickets', 'hello(text)'), coupon_route_add('GET', '/campaigns/{campaign_id}', 'coupon.http_status(bigint[])', true)});
is($node->safe_psql('postgres', q{SELECT coupon_route_drop('GET', '/campaigns/{campaign_id}'), coupon_route_drop('GET', '/campaigns/{campaign_id}')}),
	't|f', 'a built-in route is taken away, added again and taken away');
like(sql_error($node, 'postgres', q{SELECT coupon_route_add('GET', '/hello/{name}', 'hello(text)')}), qr/23505/, 'a route that is there cannot be added');
like(sql_error($node, 'postgres', q{SELECT coupon_route_add('POST', '/campaigns/{campaign_id}/issues', 'coupon.http_issue(bigint[],text[],text[],text[])', true)}), qr/23505/, 'nor a built-in one');

my @tables = ('campaign ORDER BY campaign_id', 'shard ORDER BY campaign_id, shard',
	'unit ORDER BY campaign_id, serial', 'issuance ORDER BY campaign_id, serial',
	'lapsed_hold ORDER BY campaign_id, serial', 'request_key ORDER BY campaign_id, user_id, request_key', 'http_route ORDER BY path, method', 'room ORDER BY room_id', 'dead_letter ORDER BY id');

sub contents
{
	my ($database) = @_;

	return join "\n--\n", map { $node->safe_psql($database, "SELECT * FROM coupon.$_") } @tables;
}

my $original = contents('postgres');
isnt($node->safe_psql('postgres', 'SELECT count(*) FROM coupon.outbox'), '0', 'there are events to leave out');

# Plain, custom, and a directory with four jobs, which load tables in any order.
$node->command_ok([ 'pg_dump', '-f', "$dir/plain.sql", $node->connstr('postgres') ], 'pg_dump');
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/custom", $node->connstr('postgres') ], 'pg_dump -Fc');
$node->command_ok([ 'pg_dump', '-Fd', '-j', '2', '-f', "$dir/directory", $node->connstr('postgres') ], 'pg_dump -Fd -j 2');
$node->safe_psql('postgres', "CREATE DATABASE $_") for qw(plain custom directory);
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/plain.sql", $node->connstr('plain') ],
	'restored by psql');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('custom'), "$dir/custom" ],
	'restored by pg_restore');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-j', '4', '-d', $node->connstr('directory'), "$dir/directory" ],
	'restored by pg_restore -j 4');

for my $database (qw(plain custom directory))
{
	is($node->safe_psql($database, q{SELECT * FROM coupon_restored()}), '', "$database: all rows are there, and break no law");
	ok(contents($database) eq $original, "$database: the same rows");
	is($node->safe_psql($database, 'SELECT count(*) FROM coupon.outbox'), '0', "$database: no events");
	conserved($node, $database, $database);

	is($node->safe_psql($database, q{SELECT coupon_campaign_create('next', 1)}), '10', "$database: the next campaign's id");

	is( $node->safe_psql($database, q{SELECT string_agg(status, ' ') FROM coupon_issue_many(9, '{a,b,c,c}'::text[])}),
		'already_issued already_issued issued already_issued', "$database: a lowered limit holds for all");
	is($node->safe_psql($database, q{SELECT status FROM coupon_redeem(9, 'b', 'order')}),
		'redeemed', "$database: what was issued before it is valid");

	# answers are the original ones
	is( $node->safe_psql($database, q{
			SELECT i.status, i.serial = o.serial, i.code IS NOT DISTINCT FROM u.label, i.issued_at = o.issued_at
			FROM coupon.issuance o LEFT JOIN coupon.unit u USING (campaign_id, serial),
				coupon_issue(2, 'u7') i WHERE o.campaign_id = 2 AND o.user_id = 'u7'}),
		'already_issued|t|t|t', "$database: a retry gets the original answer");
	is( $node->safe_psql($database, q{SELECT status, serial = (SELECT serials[1] FROM coupon.request_key) FROM coupon_issue(3, 'keyed', 'k')}),
		'issued|t', "$database: and one with a key, too");
	is( $node->safe_psql($database, q{SELECT status, order_ref FROM coupon_redeem(1, 'u1', 'another')}),
		'already_redeemed|order', "$database: used is used");
	is( $node->safe_psql($database, q{
			SELECT string_agg(status, ',' ORDER BY c) FROM generate_series(4, 5) c, coupon_issue(c, 'new')}),
		'paused,closed', "$database: paused and closed campaigns are");

	is( $node->safe_psql($database, q{SELECT string_agg(left(status, 1), '') FROM coupon_units(8)}), 'HIFHFFFFFFFFFFFFFFF',
		"$database: what was held is held");
	is( $node->safe_psql($database, q{
			SELECT string_agg(status, ' ') FROM (
				SELECT status FROM coupon_hold(8, 1, 'holds') UNION ALL SELECT status FROM coupon_hold(8, 1, 'else')
				UNION ALL SELECT status FROM coupon_confirm(8, 1, 'holds', 'p') UNION ALL SELECT status FROM coupon_confirm(8, 2, 'paid', 'ref')
				UNION ALL SELECT status FROM coupon_confirm(8, 3, 'late', 'p') UNION ALL SELECT status FROM coupon_confirm(8, 4, 'later', 'p')) x}),
		'already_held taken confirmed already_confirmed confirmed lost', "$database: F18: holds, payments and late payments as before");

	# more buyers than units, from several sessions
	$node->safe_psql($database, 'CREATE SEQUENCE buyer');
	$node->command_ok([ 'pgbench', '-n', '-c', '4', '-j', '2', '-t', '20', '-f', buyers(), $node->connstr($database) ],
		"$database: the sale goes on");
	settle($node, $database);
	is( $node->safe_psql($database, q{
			SELECT c, s.stock, s.issued, s.remaining FROM unnest('{1,2,3,6}'::bigint[]) c, coupon_status(c) s ORDER BY c}),
		"1|500|500|0\n2|300|300|0\n3|100|100|0\n6|100|100|0", "$database: exactly the rest is sold");
	is( $node->safe_psql($database, q{
			SELECT count(*) FROM coupon.outbox WHERE type = 'coupon.issued'}),
		$node->safe_psql($database, q{SELECT count(*) FROM coupon.issuance WHERE campaign_id <> 8}) - total_issued($original),
		"$database: one event for each new issuance");
	conserved($node, $database, "$database, sold out");
}

sub buyers
{
	my $file = "$dir/buyers.sql";

	append_to_file($file, join '', map {
			"SELECT count(*) FROM coupon_issue_many($_, ARRAY(SELECT nextval('buyer')::text FROM generate_series(1, 15)));\n"
		} 1, 2, 3, 6)
	  unless -e $file;
	return $file;
}

sub total_issued
{
	my ($contents) = @_;
	my ($issuances) = (split /\n--\n/, $contents)[3];

	return scalar(grep { !/^8\|/ } split /\n/, $issuances);
}

# the original was not disturbed
ok(contents('postgres') eq $original, 'the original is as it was');
$node->safe_psql('postgres', q{SELECT coupon_issue(1, 'one more')});
conserved($node, 'postgres', 'original');

$node->stop;
server_log_is_clean($node, 'dump and restore');
done_testing();
