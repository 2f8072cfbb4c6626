# examples/cluster/proxy.sql: the functions by way of a proxy, which finds each
# user's node; a map that is old; a node that is dead, or says nothing.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# A node is a database: two share a server with the proxy, the third has its own.
my $main = PostgreSQL::Test::Cluster->new('main');
$main->init;
$main->append_conf('postgresql.conf', "shared_preload_libraries = 'coupon'\nmax_worker_processes = 32\ncoupon.databases = 'one, two'\nlog_statement = none\n");
$main->start;
unless (-e config_data($main, '--pkglibdir') . '/plproxy.so')
{
	$main->stop;
	plan skip_all => 'skipped: plproxy is not installed for this PostgreSQL';
}
my $far = new_server('far', "coupon.databases = 'postgres'\n");
my %server = (one => $main, two => $main, three => $far);
my %database = (one => 'one', two => 'two', three => 'postgres', proxy => 'proxy');

sub on { my ($node, $sql) = @_; return ($server{$node} // $main)->safe_psql($database{$node}, $sql) }
sub proxy { return on('proxy', $_[0]) }
sub run_as { my ($role, $sql) = @_; my ($rc, $out, $err) = $main->psql('proxy', $sql, extra_params => [ '-U', $role ]); return ($out, $err) }

for my $name (qw(one two proxy))
{
	$main->safe_psql('postgres', "CREATE DATABASE $name");
	$main->safe_psql($name, 'CREATE EXTENSION coupon') if $name ne 'proxy';
}
load_example($main, 'proxy', 'cluster/proxy.sql');

like(sql_error($main, 'proxy', q{SELECT coupon_issue(1, 'ann')}), qr/UC303: this proxy has no map.*coupon_cluster_connect/s, 'a proxy without a map says what to do');

my %conninfo = map { $_ => $server{$_}->connstr($database{$_}) =~ s/'/''/gr } qw(one two three);
on('one', "SELECT coupon_node_found(1, 'one', '$conninfo{one}')");
on('two', "SELECT coupon_node_join(2, 'two', '$conninfo{two}', \$\$" . on('one', 'SELECT coupon_node_map()') . '$$)');
on('three', "SELECT coupon_node_join(3, 'three', '$conninfo{three}', \$\$" . on('two', 'SELECT coupon_node_map()') . '$$)');
# slots as a move leaves them behind; 171 moves them
for my $node (qw(one two three))
{
	on($node, q{UPDATE coupon.slot SET node_id = 1 + slot % 3, version = 2});
	on($node, 'SELECT coupon_node_learn($map$' . on($_, 'SELECT coupon_node_map()') . '$map$)')
	  for qw(one two three);
}
# asked for as the role of the nodes' workers: who has made the proxy need not be on the nodes
on($_, 'CREATE ROLE coupon_node LOGIN IN ROLE coupon_admin') for qw(one three);
proxy('CREATE ROLE nobody_there LOGIN SUPERUSER; ALTER FUNCTION coupon_cluster.refresh(integer) OWNER TO nobody_there');
is((run_as('nobody_there', "SELECT coupon_cluster_connect('$conninfo{three}')"))[0], 3 + 1024, 'a proxy takes the map over from a node');
proxy('UPDATE coupon_cluster.slot SET version = 1');
is(proxy('SELECT coupon_cluster_refresh()'), 1024, 'asks for it again');
is(proxy('SELECT coupon_cluster_refresh()'), 0, 'and knows then what all know');
like(sql_error($main, 'proxy', qq{SELECT coupon_cluster.learn('{"slots": [], "nodes": [{"node_id": 4, "name": "d", "state": "active", "version": 9, "conninfo": "$_"}]}')}), qr/UC303/, "but no conninfo as $_")
  for 'host=db hostaddr=192.0.2.1', 'postgresql://db/sale?host%61ddr=192.0.2.1';
is(proxy(q{SELECT string_agg(coupon_slot(id) || '', ' ') FROM unnest('{1,42,alice}'::text[]) id}), '988 548 910', 'with the nodes\' hash');

# the same campaign on each: its own id, and serials of its own so that none is sold twice
my $campaign = 7;
my @offered = (['one', 1], ['two', 2], ['three', 3]);
on($_->[0], qq{ALTER TABLE coupon.campaign ALTER campaign_id SET INCREMENT BY 1 RESTART WITH 1;
	SELECT count(coupon_campaign_create('sale ' || g, CASE g WHEN $campaign THEN 2000 ELSE 0 END, 2)) FROM generate_series(1, $campaign) g}) for @offered;
# and one whose home is one node
on($_->[0], q{ALTER TABLE coupon.campaign ALTER campaign_id RESTART WITH 1000000000;
	SELECT coupon_units_import(coupon_campaign_create('seats', 0, 10), array_agg('S' || g)) FROM generate_series(1, 50) g}) for @offered;

# ---- each way in, for each type of a user ----
sub home { my ($user) = @_; return (qw(one two three))[ proxy("SELECT coupon_slot('$user') % 3") ] }

my @users = map { "user-$_" } 1 .. 30;
is(proxy(qq{SELECT string_agg(DISTINCT status, ' ') FROM unnest('{@{[ join ',', @users ]}}'::text[]) u, coupon_issue($campaign, u)}), 'issued', 'issue');
is(proxy(qq{SELECT string_agg(DISTINCT status, ' ') FROM unnest('{@{[ join ',', @users ]}}'::text[]) u, coupon_issue($campaign, u, 'k')}), 'issued', 'with a key');
is(proxy(qq{SELECT string_agg(DISTINCT status, ' ') FROM unnest('{@{[ join ',', @users ]}}'::text[]) u, coupon_issue_grouped($campaign, u)}), 'already_issued', 'grouped');
for my $node (qw(one two three))
{
	is(on($node, "SELECT coalesce(string_agg(DISTINCT (1 + coupon_slot(user_id) % 3)::text, ' '), 'nobody') FROM coupon.issuance"), { one => 1, two => 2, three => 3 }->{$node}, "node $node has its own users");
}
is(proxy("SELECT status FROM coupon_issue($campaign, 4711)"), 'issued', 'a bigint');
is(proxy("SELECT status FROM coupon_issue_grouped($campaign, 4711::text)"), 'issued', 'is the text that it prints as');
is(proxy("SELECT user_id || ' ' || status FROM coupon_issue($campaign, 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'::uuid)"), 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11 issued', 'a uuid');
is(proxy("SELECT string_agg(concat_ws(' ', user_id, status), ', ') FROM coupon_issue_many($campaign, ARRAY['u3', NULL, 'u1', 'user-1', 'u2', 'u1', '', 'u1'])"),
	'u3 issued, invalid, u1 issued, user-1 already_issued, u2 issued, u1 issued,  invalid, u1 already_issued', 'many: over all nodes, in the order of the array');
is(proxy("SELECT string_agg(concat_ws(' ', user_id, status), ', ') FROM coupon_issue_many($campaign, '{v1,v1,v2}', '{a,a,NULL}')"), 'v1 issued, v1 issued, v2 issued', 'with keys');
is(proxy("SELECT count(*) FROM coupon_issue_many($campaign, '{}')"), 0, 'of nobody');
like(sql_error($main, 'proxy', "SELECT coupon_issue_many($campaign, '{a,b}', '{a}')"), qr/2202E/, 'a key too few');
is(proxy("SELECT count(*) FILTER (WHERE status = 'issued') FROM coupon_issue_many($campaign, ARRAY(SELECT 'm' || g FROM generate_series(1, 500) g))"), 500, 'of many');

my $asked = 'asker-1';
my $id = proxy("SELECT request_id FROM coupon_request($campaign, '$asked')");
is(proxy("SELECT status || ' ' || outcome FROM coupon_request_wait('$id', '@{[ CouponTest::PATIENCE ]}s')"), 'COMPLETED issued', 'a request is decided on its node');
is(proxy("SELECT (issuance).user_id || ' ' || outcome FROM coupon_request_status('$id')"), "$asked issued", 'its id leads there');
is(proxy("SELECT request_id FROM coupon_request_status_of($campaign, '$asked')"), $id, 'and its user');
is(proxy("SELECT string_agg(DISTINCT status, ' ') FROM generate_series(1, 9), LATERAL coupon_request_status(gen_random_uuid())"), 'NOT_REQUESTED', 'an id that nobody was given');

my $seats = 1000000000;
is(proxy("SELECT string_agg(h.status, ' ') FROM unnest('{ann,ben,cid,dan}'::text[]) WITH ORDINALITY u(id, n), coupon_hold($seats, u.n, u.id) h"), 'held held held held', 'seats: whoever asks');
is(proxy("SELECT status FROM coupon_hold($seats, 1, 'eve')"), 'taken', 'one hall, one node');
is(scalar(grep { on($_, "SELECT count(*) FROM coupon.issuance WHERE campaign_id = $seats") > 0 } qw(one two three)), 1, 'has them all');
is(proxy("SELECT string_agg(status, ' ') FROM coupon_hold_many($seats, '{10,11}', 'ann', '1 min')"), 'held held', 'hold_many');
is(proxy("SELECT status FROM coupon_hold_any($seats, 'fay')"), 'held', 'hold_any');
is(proxy("SELECT status || ' ' || label FROM coupon_confirm($seats, 1, 'ann', 'pay-1')"), 'confirmed S1', 'confirm');
is(proxy("SELECT coupon_release($seats, 2, 'ben')"), 't', 'release');
is(proxy("SELECT status FROM coupon_redeem($seats, 'ann', 'order-1')"), 'redeemed', 'redeem');
is(proxy("SELECT status FROM coupon_redeem_cancel($seats, 'ann', 'order-1')"), 'cancelled', 'redeem_cancel');
is(proxy("SELECT coupon_revoke($seats, 'ann', 'no show')"), 't', 'revoke');
is(proxy("SELECT status FROM coupon_hold($seats, 1, 'eve')"), 'held', 'the seat is free again');

# ---- a campaign that is made by way of the proxy, and lives on one node ----
my $hall = proxy(q{SELECT coupon_cluster_create_single('hall', 0, 10, request_key => 'hall 1')});
cmp_ok($hall, '>', 1000000000, 'a campaign that lives on one node');
is(proxy(q{SELECT coupon_cluster_create_single('hall', 0, 10, request_key => 'hall 1')}), $hall, 'the same call makes it once');
my ($its) = grep { on($_, "SELECT count(*) FROM coupon.campaign WHERE campaign_id = $hall") } qw(one two three);
is(on($its, "SELECT s.node_id = coupon_node_self() FROM coupon.slot s WHERE s.slot = coupon_home($hall, ''::text)"), 't', 'it is where its id says');
is(proxy("SELECT coupon_units_import($hall, ARRAY['A1', 'A2', 'A3', 'A4'])"), 4, 'its seats come there');
is(proxy("SELECT string_agg(h.status, ' ') FROM unnest('{user-27,user-28,user-29,user-30}'::text[]) WITH ORDINALITY u(id, n), coupon_hold($hall, u.n, u.id) h"), 'held held held held', 'and whoever asks is sent there');
is(proxy(q{SELECT count(DISTINCT coupon_cluster_create_single('small ' || g, 1) % 64) FROM generate_series(1, 30) g}), 3, 'others are at all nodes');
like(sql_error($server{$its}, $database{$its}, 'SELECT coupon_node_drain();'), qr/UC303: campaigns that are at this node as a whole cannot leave it.*Campaign .*$hall.*HINT:.*coupon_campaign_drop/s, 'such a node is not drained');
on($its, q{UPDATE coupon.node SET state = 'draining' WHERE node_id = coupon_node_self()});
like(sql_error($server{$its}, $database{$its}, q{SELECT coupon_cluster_create_single('late', 1);}), qr/UC303: a campaign cannot live on this node.*HINT/s, 'nor does one that is drained get any');
on($its, q{UPDATE coupon.node SET state = 'active' WHERE node_id = coupon_node_self()});

# ---- support ----
my ($guest) = grep { home($_) ne $its } map { "user-$_" } 27 .. 30;
is(proxy("SELECT string_agg(campaign_id || ' ' || state, ', ' ORDER BY campaign_id) FROM coupon_user_issuances('$guest'::text)"), "$campaign issued, $campaign issued, $hall held", 'what a user has, at whatever node');
is(proxy("SELECT count(*) FROM coupon_user_refusals('$guest'::text)"), 0, 'and was refused');
my $erased = proxy("SELECT coupon_release($hall, serial, '$guest') FROM coupon_user_issuances('$guest'::text) WHERE state = 'held'") && proxy("SELECT issuances || ' ' || waiting FROM coupon_user_erase('$guest'::text)");
is($erased, '2 0', 'they are forgotten, at all nodes');
is(proxy("SELECT count(*) FROM coupon_user_issuances('$guest'::text)"), 0, 'and have nothing');
is(on(home($guest), "SELECT count(*) FROM coupon.issuance WHERE user_id LIKE 'erased-%' AND coupon_slot(user_id) <> coupon_slot('$guest'::text)"), 0, 'what was theirs moves with their slot');

# errors are the nodes'
like(sql_error($main, 'proxy', q{SELECT coupon_issue(12345, 'ann')}), qr/ERROR:  UC001: .*unknown campaign.*DETAIL:.*12345.*HINT:/s, 'an ERROR comes with SQLSTATE, DETAIL and HINT');
like(sql_error($main, 'proxy', "SELECT coupon_issue($campaign, NULL::text)"), qr/22004/, 'nobody is nobody');

# rights are the nodes'
$_->safe_psql('postgres', 'CREATE ROLE app LOGIN; CREATE ROLE guest LOGIN; GRANT coupon_service TO app') for $main, $far;
is($main->safe_psql('proxy', "SELECT string_agg(DISTINCT status, ' ') FROM unnest('{r1,r2,r3,r4,r5,r6}'::text[]) u, coupon_issue($campaign, u)", extra_params => [ '-U', 'app' ]), 'issued', 'who may call on the nodes may call here');
my (undef, undef, $refused) = $main->psql('proxy', "\\set VERBOSITY verbose\nSELECT coupon_issue($campaign, 'ann')", extra_params => [ '-U', 'guest' ]);
like($refused, qr/42501: .*permission denied for function coupon_issue/, 'and who may not, may not');
(undef, undef, $refused) = $main->psql('proxy', "\\set VERBOSITY verbose\nSELECT coupon_cluster_connect('host=elsewhere')", extra_params => [ '-U', 'app' ]);
like($refused, qr/42501: permission denied for function coupon_cluster_connect/, 'the map is the administrator\'s');

# ---- a room at one node, users at all of them ----
on($_, q{INSERT INTO coupon.room_key VALUES (1, decode(repeat('36', 64), 'hex'), decode(repeat('5c', 64), 'hex'), true)}) for qw(one two three);
my $room = on('two', q{SELECT setval('coupon.room_room_id_seq', 1000); SELECT coupon_room_create('hall', 1000)}) =~ s/.*\n//r;
my $roomy = 3;
on($_, "SELECT coupon_campaign_add_stock($roomy, 100); UPDATE coupon.campaign SET room_id = $room WHERE campaign_id = $roomy") for qw(one two three);
my @visitors = map { "visitor-$_" } 1 .. 12;
is(proxy("SELECT string_agg(DISTINCT status, ' ') FROM unnest('{@{[ join ',', @visitors ]}}'::text[]) u, coupon_issue($roomy, u)"), 'not_admitted', 'a campaign behind a room: nobody is admitted yet');
my @tokens = map { proxy("SELECT token FROM coupon_queue_join('hall', '$_'::text)") } @visitors;
poll_until('admission', sub { proxy("SELECT string_agg(DISTINCT status, ' ') FROM unnest('{@{[ join ',', @tokens ]}}'::text[]) t, coupon_queue_position(t)") eq 'ADMITTED' });
is(proxy("SELECT string_agg(DISTINCT status, ' ') FROM unnest('{@{[ join ',', @visitors ]}}'::text[]) u, coupon_issue($roomy, u)"), 'issued', 'who is admitted there is believed everywhere');
is(join(' ', map { on($_, "SELECT count(*) > 0 FROM coupon.issuance WHERE campaign_id = $roomy") } qw(one two three)), 't t t', 'at every node');
is(proxy("SELECT status FROM coupon_issue($roomy, 'stranger')"), 'not_admitted', 'and nobody else');
is(proxy("SELECT coupon_queue_require('$tokens[0]', 'hall', '$visitors[0]')"), '', 'a token is required where it is');
is(proxy("SELECT coupon_queue_leave('$tokens[0]')"), 't', 'who leaves, leaves there');
is(proxy("SELECT status FROM coupon_queue_position('$tokens[0]')"), 'GONE', 'and is gone');
like(sql_error($main, 'proxy', q{SELECT coupon_queue_join('nowhere', 'ann'::text)}), qr/UC202/, 'no such room');

# ---- an old map ----
my $moved = (grep { home($_) eq 'one' } map { "moving-$_" } 1 .. 99)[0];
my $slot = proxy("SELECT coupon_slot('$moved')");
on($_, "UPDATE coupon.slot SET node_id = 2, version = 3 WHERE slot = $slot") for qw(one two);
is($main->safe_psql('proxy', "SELECT status FROM coupon_issue($campaign, '$moved')", extra_params => [ '-U', 'app' ]), 'issued', 'who has moved is found: the map is asked for again');
is(on('two', "SELECT count(*) FROM coupon.issuance WHERE user_id = '$moved'"), 1, 'on the new node');
$moved = (grep { home($_) eq 'two' } map { "moving-$_" } 1 .. 99)[0];
$slot = proxy("SELECT coupon_slot('$moved')");
on($_, "UPDATE coupon.slot SET node_id = 1, version = 3 WHERE slot = $slot") for qw(one two);
is(proxy("SELECT string_agg(user_id || ' ' || status, ', ') FROM coupon_issue_many($campaign, '{user-2,$moved,user-3,$moved}')"),
	"user-2 already_issued, $moved issued, user-3 already_issued, $moved issued", 'in a batch, too');
on('one', "UPDATE coupon.slot SET leaving = 2 WHERE slot = $slot");
like(sql_error($main, 'proxy', "SELECT coupon_issue($campaign, '$moved')"), qr/UC301: .*HINT:  Remote hint: The cluster's map has changed: ask the proxy again/s, 'who is on the way is told to try again');
is(proxy("SELECT string_agg(user_id || ' ' || status, ', ') FROM coupon_issue_many($campaign, '{user-2,$moved}')"), "user-2 already_issued, $moved moved", 'and one item of a batch');
on('one', 'UPDATE coupon.slot SET leaving = NULL');

# ---- what the proxy adds ----
my $file = PostgreSQL::Test::Utils::tempdir() . '/call.sql';
append_to_file($file, "SELECT coupon_issue($campaign, 'user-3')");
my $direct = PostgreSQL::Test::Utils::tempdir() . '/direct.sql';
append_to_file($direct, "SELECT coupon_issue($campaign, 'user-3')");
sub p50
{
	my ($database, $script) = @_;
	my ($out, $err) = run_command([ 'pgbench', '-n', '-M', 'prepared', '-t', 400, '-f', $script, $main->connstr($database) ]);

	return $out =~ /latency average = ([\d.]+) ms/ ? $1 : die $err;
}
my $home = home('user-3');
SKIP:
{
	skip 'that user is on the other server', 1 if $home eq 'three';
	my ($added) = sort { $a <=> $b } map { p50('proxy', $file) - p50($home, $direct) } 1 .. 3;
	cmp_ok($added, '<', within(0.5), sprintf('a proxied call takes %.2f ms longer than a direct one', $added));
}

# ---- a node that is dead ----
my ($near) = grep { home($_) ne 'three' } @users;
my ($gone) = grep { home($_) eq 'three' } @users;
$far->stop('immediate');
my $begun = time;
like(sql_error($main, 'proxy', "SELECT coupon_issue($campaign, '$gone')"), qr/ERROR:  (08\w{3}|XX000): .*(refused|No such file|connect)/s, 'a node that is down: its users get an ERROR');
cmp_ok(time - $begun, '<', within(4), 'at once');
is(proxy("SELECT status FROM coupon_issue($campaign, '$near')"), 'already_issued', 'the others are served');
$far->start;
is(proxy("SELECT status FROM coupon_issue($campaign, '$gone')"), 'already_issued', 'and it comes back');

# ---- a node that says nothing ----
proxy('UPDATE coupon_cluster.setting SET query_timeout = 1, version = version + 1');
proxy(q{ALTER DATABASE proxy SET statement_timeout = '2s'});
my $postmaster = (split /\n/, slurp_file($far->data_dir . '/postmaster.pid'))[0];
kill 'STOP', $postmaster;
$begun = time;
like(sql_error($main, 'proxy', "SELECT coupon_issue($campaign, '$gone')"), qr/ERROR:  (08\w{3}|XX000|57014): /, 'a node that does not answer: its users get an ERROR');
proxy(qq{ALTER DATABASE proxy SET statement_timeout = '@{[ CouponTest::PATIENCE ]}s'});
cmp_ok(time - $begun, '<', within(5), sprintf('in time (%.1f s)', time - $begun));
is(proxy("SELECT status FROM coupon_issue($campaign, '$near')"), 'already_issued', 'the others are served');
kill 'CONT', $postmaster;
poll_until('the node', sub { (try_sql($main, 'proxy', "SELECT status FROM coupon_issue($campaign, '$gone')") // '') eq 'already_issued' });

# the campaign was made on each node by itself: each sells its own 2,000 units
conserved($server{$_}, $database{$_}, $_) for qw(one two three);
server_log_is_clean($_, $_->name) for $main, $far;
$_->stop for $main, $far;
done_testing();
