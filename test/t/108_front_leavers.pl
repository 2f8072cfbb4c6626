# Clients of the HTTP front that leave at every moment: before their request is
# whole, with it, while it is carried out, while they wait, while events come.
# Whoever stays is answered, and nothing is lost or kept.
use strict;
use warnings;

use CouponNginx qw(free_port);
use CouponTest;
use HTTP::Tiny;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Socket qw(SOL_SOCKET SO_LINGER);
use Test::More;

my $port = free_port();
my $node = new_server('leavers', <<"END");
coupon.http_listen = '127.0.0.1:$port'
coupon.http_role = 'coupon_service'
END
my $http = HTTP::Tiny->new(timeout => CouponTest::PATIENCE, keep_alive => 0, max_redirect => 0);

sub sql { return $node->safe_psql('postgres', shift) }

# connection(text): a socket to which the text has been sent
sub connection
{
	my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die "no connection: $!";

	syswrite $socket, shift;
	return $socket;
}

# leave(socket, rudely): rudely by a reset
sub leave
{
	my ($socket, $rudely) = @_;

	setsockopt $socket, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0) if $rudely;
	close $socket;
	return;
}

sub issue
{
	my ($campaign, $user, @headers) = @_;
	my $body = qq({"user_id":"$user"});

	return join "\r\n", "POST /campaigns/$campaign/issues HTTP/1.1", 'Host: x', 'Content-Type: application/json',
		'Content-Length: ' . length $body, @headers, '', $body;
}

sub status_of
{
	my ($socket) = @_;
	my $line = readline $socket;

	return $line && $line =~ m{^HTTP/1\.1 (\d+)} ? $1 : 0;
}

poll_until('the front', sub { $http->get("http://127.0.0.1:$port/readyz")->{status} == 200 });
sql(q{SELECT coupon_campaign_create('many', 100000); SELECT coupon_campaign_create('one', 1)});
my $pid = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon front'});

# ---- with a request under way, beside others who stay ----

my ($left, @staying) = (0);
for my $round (1 .. 40)
{
	for my $i (1 .. 10)
	{
		my $whole = issue(1, "leaver-$round-$i");
		my $sent = $i % 3 == 0 ? substr $whole, 0, rand length $whole : $whole;

		leave(connection($sent), $i % 2);
		$left++;
	}
	push @staying, connection(issue(1, "stayer-$round", 'Connection: close'));
}
my %told;
$told{ status_of($_) }++ for @staying;
is_deeply(\%told, { 201 => 40 }, "$left left, and who stayed has a unit") or diag(explain \%told);
is(sql(q{SELECT count(*) FROM coupon.issuance WHERE user_id LIKE 'stayer-%'}), 40, '  of their own');

# ---- while the answer is waited for ----

# the only unit is in another transaction's hands
my $session = $node->background_psql('postgres');
$session->query_safe(q{BEGIN; SELECT coupon_issue(2, 'holder')});
my @waiting = map { connection(issue(2, "waiter-$_", 'Connection: close', 'Prefer: wait=60')) } 1 .. 40;
my $accepted = $http->get("http://127.0.0.1:$port/campaigns/1");    # and so have they been
is($accepted->{status}, 200, 'while they wait others are answered');
leave($waiting[$_], $_ % 2) for grep { $_ % 4 != 0 } 0 .. 39;
$session->query_safe('COMMIT');
$session->quit;
%told = ();
$told{ status_of($waiting[$_]) }++ for grep { $_ % 4 == 0 } 0 .. 39;
is_deeply(\%told, { 409 => 10 }, 'who waited on is told that it is sold out') or diag(explain \%told);

# ---- while events come ----

sql(q{SELECT coupon_room_create('hall', 1, session_ttl => '1 day', idle_ttl => '1 day'); SELECT coupon_queue_join('hall', 'inside')});
my @tokens = split /\n/, sql(q{SELECT (coupon_queue_join('hall', 'w' || g)).token FROM generate_series(1, 40) g});
my @streams = map { connection("GET /rooms/hall/tickets/$_ HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n") } @tokens;
is((grep { status_of($_) == 200 } @streams), 40, '40 event streams');
leave($streams[$_], $_ % 2) for grep { $_ > 0 } 0 .. 39;
sql("SELECT coupon_queue_leave('$tokens[0]', 'left')");
my $text = '';
$text .= $_ while $text !~ /"code":"gone"/ && defined($_ = readline $streams[0]);
like($text, qr/"code":"gone"/, 'the one that stays is told');

# ---- afterwards ----

is(sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon front'}), $pid, 'the front is the same process');
is($http->get("http://127.0.0.1:$port/healthz")->{status}, 200, '  and serves');
is(sql('SELECT count(*) FROM coupon_verify()'), 0, 'coupon_verify finds nothing');
is(sql(q{SELECT count(*) FROM coupon.issuance i WHERE NOT EXISTS (SELECT FROM coupon.outbox o WHERE o.key = i.user_id)}), 0, 'each issuance has its event');
$node->stop;
like(slurp_file($node->logfile), qr/database system is shut down/, 'the server ends');
done_testing();
