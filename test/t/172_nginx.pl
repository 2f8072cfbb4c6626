# examples/cluster/nginx.conf and nginx.sql: the fronts of several nodes behind nginx,
# which finds each user's node by the nodes' own hash.
use strict;
use warnings;

use CouponCluster;
use CouponNginx qw(nginx_program free_port start_nginx);
use CouponTest;
use HTTP::Tiny;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

my $nginx = nginx_program();
plan skip_all => 'skipped: nginx is not installed' unless $nginx;

my @names = qw(one two three);
my %port = map { $_ => free_port() } @names;
sub settings { return "coupon.http_database = 'postgres'\ncoupon.http_role = 'coupon_service'\ncoupon.http_listen = '127.0.0.1:$port{$_[0]}'\n" }
my $cluster = CouponCluster->new(nodes => [ $names[0] ], proxy => 0, settings => settings($names[0]));
foreach my $name (@names[ 1, 2 ])
{
	$cluster->{settings} = settings($name);
	$cluster->add($name);
}
# runs of slots, of different lengths, so that nginx has something to get wrong
foreach my $name (@names)
{
	$cluster->on($name, "UPDATE coupon.slot SET version = 3, node_id = CASE WHEN slot < 100 THEN 2 WHEN slot < 101 THEN 3 WHEN slot < 600 THEN 1 WHEN slot < 990 THEN 3 ELSE 2 END");
	$cluster->on($name, "UPDATE coupon.node SET version = 2, http_url = 'http://127.0.0.1:' || (ARRAY[" . join(', ', map { $port{$_} } @names) . "])[node_id]");
	$cluster->on($name, q{ALTER TABLE coupon.campaign ALTER campaign_id RESTART WITH 1; SELECT coupon_campaign_create('sale', 1000)});
}
my $http = HTTP::Tiny->new(timeout => CouponTest::PATIENCE);
poll_until("the front of $_", sub { $http->get("http://127.0.0.1:$port{$_}/healthz")->{success} }) for @names;

# upstreams.conf, as the example's comment says
sub upstreams
{
	my ($out) = run_command([ 'psql', '-X', '-qAt', '-d', $cluster->server('two')->connstr('postgres'), '-f', 'examples/cluster/nginx.sql' ]);

	return "$out\n";
}

my $listen = free_port();
my $upstreams = upstreams();
like($upstreams, qr/hash \$coupon_key;\n\tserver 127\.0\.0\.1:$port{two} weight=100 max_fails=0;\n\tserver 127\.0\.0\.1:$port{three} weight=1 /, 'runs of slots are lines');
my $conf = slurp_file('examples/cluster/nginx.conf') =~ s/127\.0\.0\.1:8080/127.0.0.1:$listen/r;
my ($proxy) = start_nginx($nginx, $listen, $conf =~ s/include upstreams.conf;/$upstreams/r);
my $url = "http://127.0.0.1:$listen";

# call(method, path, user, body): status and what the body says
sub call
{
	my ($method, $path, $user, $body) = @_;
	my $answer = $http->request($method, "$url$path", { headers => { 'Content-Type' => 'application/json', defined $user ? ('Coupon-User' => $user) : () }, defined $body ? (content => encode_json($body)) : () });

	return ($answer->{status}, eval { decode_json($answer->{content}) } // {}, $answer->{headers});
}

# ---- each user to their node ----
my @users = map { ("user-$_", "$_") } 1 .. 150;
my %statuses;
foreach my $user (@users)
{
	my ($status) = call('POST', '/campaigns/1/issues', $user, { user_id => $user });

	$statuses{$status}++;
}
is_deeply(\%statuses, { 201 => 300 }, 'each call comes to the node of its user');
is(join(' ', map { $cluster->on($_, 'SELECT count(*) > 20 FROM coupon.issuance') } @names), 't t t', 'and all nodes sell');
my ($again) = call('POST', '/campaigns/1/issues?user_id=user-1');
is($again, 200, 'the query tells whose call it is, too');

# ---- who comes the wrong way ----
my ($mine) = grep { $cluster->on('one', "SELECT node_id FROM coupon.slot WHERE slot = coupon_slot('$_')") == 1 } map { "stray-$_" } 1 .. 99;
my ($theirs) = grep { $cluster->on('one', "SELECT node_id FROM coupon.slot WHERE slot = coupon_slot('$_')") == 2 } map { "stray-$_" } 1 .. 99;
my ($status, $body, $headers) = call('POST', '/campaigns/1/issues', $theirs, { user_id => $mine });
is("$status $body->{code}", '503 moved', 'the header is no identity: a node serves its own users alone');
is($headers->{'retry-after'}, 1, 'they are told to come again');
($status, $body) = call('POST', '/campaigns/1/holds', $theirs, { user_id => $mine });
is("$status $body->{code}", '503 UC301', 'of a hold, too');

# ---- a request is asked for by its id ----
my %found;
foreach my $user (map { "asker-$_" } 1 .. 30)
{
	my ($accepted, $request) = call('POST', '/campaigns/1/requests', $user, { user_id => $user });
	my ($asked, $known) = call('GET', "/campaigns/1/requests/$request->{request_id}");

	$found{"$accepted $asked " . ($known->{request_id} eq $request->{request_id})}++;
}
is_deeply(\%found, { '202 200 1' => 30 }, 'a request is found by its id alone');
is(join(' ', map { $cluster->on($_, 'SELECT count(*) > 0 FROM coupon.request') } @names), 't t t', 'at whichever node it is');

# ---- a campaign that is on one node ----
my $home = $cluster->on('one', q{SELECT name FROM coupon.slot JOIN coupon.node USING (node_id) WHERE slot = coupon_home(1000000000, ''::text)});
$cluster->on($home, q{ALTER TABLE coupon.campaign ALTER campaign_id RESTART WITH 1000000000; SELECT coupon_campaign_create('hall', 100)});
is_deeply([ sort { $a <=> $b } map { (call('POST', '/campaigns/1000000000/issues', $_, { user_id => $_ }))[0] } @users[ 0 .. 9 ] ], [ (201) x 10 ], 'whoever calls for it is sent there');

# ---- a node that is down ----
my ($gone) = grep { $cluster->on('one', "SELECT node_id FROM coupon.slot WHERE slot = coupon_slot('$_')") == 3 } @users;
$cluster->kill('three');
($status) = call('POST', '/campaigns/1/issues', $gone, { user_id => $gone });
is($status, 502, 'its users are not sent elsewhere');
($status) = call('POST', '/campaigns/1/issues', $mine, { user_id => $mine });
is($status, 201, 'the others are served');
$cluster->start('three');
poll_until('the node is back', sub { (call('POST', '/campaigns/1/issues', $gone, { user_id => $gone }))[0] == 200 });

$proxy->kill_kill;
$cluster->stop;
done_testing();
