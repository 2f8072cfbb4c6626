# Calls that come at the same moment: what is wrong with one of them is its own,
# whatever it is, and its neighbours are answered as if it were not there.
use strict;
use warnings;

use CouponNginx qw(free_port);
use CouponTest;
use HTTP::Tiny;
use IO::Socket::INET;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $port = free_port();
my $node = new_server('front_neighbours', <<"END");
coupon.http_listen = '127.0.0.1:$port'
coupon.http_role = 'coupon_service'
track_functions = all
END
my $http = HTTP::Tiny->new(timeout => 60, keep_alive => 0);
my $json = JSON::PP->new->utf8;

sub sql { return $node->safe_psql('postgres', shift) }

# calling(method, path, body, headers): a request on the wire
sub calling
{
	my ($method, $path, $body, @headers) = @_;

	$body = defined $body ? $json->encode($body) : '';
	return join "\r\n", "$method $path HTTP/1.1", 'Host: x', 'Content-Type: application/json',
		'Content-Length: ' . length $body, @headers, '', $body;
}

sub issue { my ($campaign, $user) = @_; return calling('POST', "/campaigns/$campaign/issues", { user_id => $user }) }

# answer(socket): its status and the code of its problem, or why there is none
sub answer
{
	my ($socket) = @_;
	my ($status, $length, $body) = (0, 0, '');

	while (defined(my $line = readline $socket))
	{
		$status = $1 if $line =~ m{^HTTP/1\.1 (\d+)};
		$length = $1 if $line =~ /^content-length: (\d+)/i;
		last if $line =~ /^\r?\n$/;
	}
	return 'closed' if !$status;
	read $socket, $body, $length if $length;
	my $code = (eval { $json->decode($body) } // {})->{code};
	return defined $code && $status >= 400 ? "$status $code" : $status;
}

# together(requests): what each is answered, all having come while the front
# could not look
sub together
{
	my @requests = @_;
	my $pid = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon front'});
	my @sockets = map { IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") || die "no connection: $!" } @requests;

	# it knows them all
	for my $socket (@sockets)
	{
		syswrite $socket, calling('GET', '/healthz');
		answer($socket);
	}
	kill 'STOP', $pid or die "kill: $!";
	syswrite $sockets[$_], $requests[$_] for 0 .. $#requests;
	kill 'CONT', $pid or die "kill: $!";
	return map { answer($_) } @sockets;
}

# tally(answers): how often each was given
sub tally
{
	my %count;

	$count{$_}++ for @_;
	return join ', ', map { "$count{$_} x $_" } sort keys %count;
}

poll_until('the front', sub { $http->get("http://127.0.0.1:$port/readyz")->{status} == 200 });

# calls_of(function, requests): how often that was called for them, of which it
# must be the first use, and their answers
sub calls_of
{
	my ($function, @requests) = @_;
	my @answers = together(@requests);
	my $calls;

	# they are told within a second, by a transaction that comes later
	poll_until('the count', sub {
			$http->get("http://127.0.0.1:$port/campaigns/1");
			$calls = sql("SELECT coalesce(sum(calls), 0) FROM pg_stat_user_functions WHERE funcname = '$function'") });
	return ($calls, tally(@answers));
}

# ---- a batch that is wrong as a whole ----

my ($calls, $tally) = calls_of('http_issue', map { issue(99, "u-$_") } 1 .. 40);
is($tally, '40 x 404 unknown_campaign', 'many calls of a campaign that is not there');
cmp_ok($calls, '<', 20, '  are done at once');

# ---- an ERROR of one user, of several campaigns and of one ----

sql(q{SELECT coupon_campaign_create('one', 1000); SELECT coupon_campaign_create('two', 1000)});
sql(q{ALTER TABLE coupon.issuance ADD CONSTRAINT mine CHECK (user_id <> 'bad')});
my @told = together(issue(1, 'bad'), (map { issue(1, "a-$_") } 1 .. 20), map { issue(2, "b-$_") } 1 .. 20);
is(shift @told, '503 23514', 'an ERROR of one user');
is(tally(@told), '40 x 201', '  is not its neighbours\', of several campaigns');
@told = together(issue(1, 'bad'), map { issue(1, "c-$_") } 1 .. 20);
is(shift(@told) . ', ' . tally(@told), '503 23514, 20 x 201', '  nor of one');

done_testing();
