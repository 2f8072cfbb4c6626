# A user whose row is in somebody's open transaction is waited for by their own
# call alone: the calls that came at the same moment are answered while that
# transaction is open, whatever they ask for.
use strict;
use warnings;

use CouponFront qw(calling);
use CouponNginx qw(free_port);
use CouponTest;
use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# nobody who waited for a lock would be freed by a timeout
my $port = free_port();
my $node = new_server('front_locks', <<"END");
coupon.http_listen = '127.0.0.1:$port'
coupon.http_role = 'coupon_service'
coupon.databases = 'postgres'
coupon.http_lock_timeout = '10min'
coupon.http_statement_timeout = '10min'
END
my $json = JSON::PP->new->utf8;

sub sql { return $node->safe_psql('postgres', shift) }

sub connection { return IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") }

# answer(socket): [ status, body ] of the next answer; dies when there is none
my %read;
sub answer
{
	my ($socket) = @_;
	my $deadline = time + CouponTest::PATIENCE;

	while (1)
	{
		if (($read{$socket} //= '') =~ /\A(HTTP\/1\.1 (\d+).*?\r\n\r\n)/s)
		{
			my ($head, $status) = ($1, $2);
			my $length = $head =~ /^content-length: (\d+)/im ? $1 : 0;

			if (length $read{$socket} >= length($head) + $length)
			{
				my $body = substr $read{$socket}, length $head, $length;

				substr $read{$socket}, 0, length($head) + $length, '';
				return [ $status, eval { $json->decode($body) } // {}, $head ];
			}
		}
		my $left = $deadline - time;
		die 'no answer: the call is held up' if $left <= 0 || !IO::Select->new($socket)->can_read($left);
		sysread($socket, $read{$socket}, 8192, length $read{$socket}) or die 'closed';
	}
}

# is_waiting(socket): nothing has been answered
sub is_waiting { my ($socket) = @_; return !length($read{$socket} // '') && !IO::Select->new($socket)->can_read(0) }

# together(requests): sockets of calls that all came while the front could not look
sub together
{
	my @requests = @_;
	my $pid = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon front'});
	my @sockets = map { connection() // die "no connection: $!" } @requests;

	# it knows them all
	for my $socket (@sockets)
	{
		syswrite $socket, calling('GET', '/healthz');
		answer($socket);
	}
	kill 'STOP', $pid or die "kill: $!";
	syswrite $sockets[$_], $requests[$_] for 0 .. $#requests;
	kill 'CONT', $pid or die "kill: $!";
	return @sockets;
}

# tally(sockets): how often each status was answered
sub tally
{
	my %count;

	$count{ answer($_)->[0] }++ for @_;
	return join ', ', map { "$count{$_} x $_" } sort keys %count;
}

# beside(title, call, neighbours, status): the call of a user who is locked, and
# neighbours, each answered with the status; the socket of the one that waits
sub beside
{
	my ($title, $call, $neighbours, $status) = @_;
	my $began = time;
	my ($own, @others) = together($call, @$neighbours);
	my $tally = eval { tally(@others) } // "held up: $@";

	is($tally, @$neighbours . " x $status", sprintf '%s: the neighbours of one who is locked are answered', $title);
	note(sprintf '%s: after %.0f ms', $title, (time - $began) * 1000);
	ok(is_waiting($own), '  while they wait');
	return $own;
}

poll_until('the front', sub {
		my $socket = connection() or return 0;
		syswrite $socket, calling('GET', '/readyz');
		return answer($socket)->[0] == 200 });
sql(q{SELECT coupon_campaign_create('one', 1000); SELECT coupon_room_create('hall', 1000);
	SELECT coupon_room_create('short', 1, idle_ttl => '1 s')});

my @patient = ('Prefer: wait=60');
sub asking { my ($user, @headers) = @_; return calling('POST', '/campaigns/1/requests', { user_id => $user }, @headers) }
sub joining { my ($room, $user, @headers) = @_; return calling('POST', "/rooms/$room/tickets", { user_id => $user }, @headers) }
sub issuing { my ($user, @headers) = @_; return calling('POST', '/campaigns/1/issues', { user_id => $user }, @headers) }
sub leaving { my ($room, $token, @headers) = @_; return calling('DELETE', "/rooms/$room/tickets/$token", undef, @headers) }
sub join_room { my ($room, $user) = @_; return sql("SELECT (coupon_queue_join('$room', '$user')).token") }

my $holder = $node->background_psql('postgres');
sub hold { $holder->query_safe("BEGIN; $_[0]"); return }

# ---- requests ----

hold(q{SELECT (coupon_request(1, 'r', 'click')).request_id});
my @again = 'Idempotency-Key: click';
my $own = beside('requests', asking('r', @patient, @again), [ map { asking("r-$_") } 1 .. 10 ], 202);
my ($impatient) = together(asking('r', 'Prefer: wait=0', @again));
my $told = answer($impatient);
is("$told->[0] $told->[1]{code}", '503 busy', 'who does not wait is told so');
like($told->[2], qr/^Retry-After: 1\r$/im, '  and when to come again');
my $id = $holder->query_safe('SELECT request_id FROM coupon.request WHERE user_id = \'r\'');
$holder->query_safe('COMMIT');
$told = answer($own);
is("$told->[0] $told->[1]{request_id}", "202 $id", 'the one that waited has the request that was committed');

# ---- joining ----

hold(q{SELECT (coupon_queue_join('hall', 'j')).token});
$own = beside('joining', joining('hall', 'j', @patient), [ map { joining('hall', "j-$_") } 1 .. 10 ], 201);
$holder->query_safe('ROLLBACK');
is(answer($own)->[0], 201, 'the one that waited joins when the other has not');

# whose ticket is over by the clock, and is being ended elsewhere
sql(q{SELECT coupon_room_pause('short')});
my $token = join_room('short', 's');
hold("SELECT coupon_queue_leave('$token', 'left')");
await_true($node, 'postgres', q{SELECT clock_timestamp() > joined_at + interval '2 s' FROM coupon.ticket WHERE user_id = 's'});
$own = beside('a ticket that is over', joining('short', 's', @patient), [ map { joining('hall', "k-$_") } 1 .. 10 ], 201);
$holder->query_safe('COMMIT');
is(answer($own)->[0], 201, 'the one that waited has a new ticket');

# ---- leaving ----

$token = join_room('hall', 'l');
my @tokens = map { join_room('hall', "l-$_") } 1 .. 10;
hold("SELECT coupon_queue_leave('$token', 'left')");
$own = beside('leaving', leaving('hall', $token, @patient), [ map { leaving('hall', $_) } @tokens ], 204);
$holder->query_safe('COMMIT');
is(answer($own)->[0], 204, 'the one that waited has left');
is(sql(q{SELECT count(*) FROM coupon.ticket WHERE user_id LIKE 'l%' AND ended_at IS NULL}), 0, '  and so have the others');

# ---- issues, positions, requests' states ----

hold(q{SELECT coupon_issue(1, 'i')});
$own = beside('issues', issuing('i', @patient), [ map { issuing("i-$_") } 1 .. 10 ], 201);
$holder->query_safe('ROLLBACK');
is(answer($own)->[0], 201, 'the one that waited has a unit when the other has not');

# ---- holds: plain functions, each of which all others wait for ----

sql(q{SELECT coupon_hold(1, 900, 'h')});
hold(q{SELECT coupon_confirm(1, 900, 'h', 'order')});
$own = beside('a payment', calling('POST', '/campaigns/1/holds/900/confirmation', { user_id => 'h', ref => 'order' }, @patient),
	[ map { issuing("h-$_") } 1 .. 10 ], 201);
is(tally(together(map { issuing("h-$_") } 11 .. 20)), '10 x 201', '  and so are those who come later');
$holder->query_safe('COMMIT');
$told = answer($own);
is("$told->[0] $told->[1]{status}", '200 already_confirmed', 'the one that waited is told what came of it');

# ---- a table that is locked ----

hold(q{LOCK TABLE coupon.ticket_0, coupon.ticket_1, coupon.request_0, coupon.request_1});
$own = beside('a table', joining('hall', 't', @patient), [ map { issuing("t-$_") } 1 .. 10 ], 201);
my ($asker) = together(asking('t', @patient));
is(tally(together((map { joining('hall', "t-$_", 'Prefer: wait=0') } 1 .. 5), map { asking("n-$_", 'Prefer: wait=0') } 1 .. 5)),
	'10 x 503', 'who needs the table, and does not wait, is told so');
is(tally(together(map { issuing("t-$_") } 11 .. 20)), '10 x 201', '  and the others go on');
$holder->query_safe('COMMIT');
is(tally($own), '1 x 201', 'who waited has a ticket');
is(tally($asker), '1 x 202', '  and a request');

$token = join_room('hall', 'p');
$id = sql(q{SELECT (coupon_request(1, 'q')).request_id});
hold("SELECT coupon_queue_leave('$token', 'left')");
is(tally(together((map { calling('GET', "/rooms/hall/tickets/$token") } 1 .. 5), map { calling('GET', "/campaigns/1/requests/$id") } 1 .. 5)),
	'10 x 200', 'who only asks waits for nobody');
$holder->query_safe('ROLLBACK');
$holder->quit;

conserved($node, 'postgres', 'locks');
$node->stop;
server_log_is_clean($node, 'front_locks');
done_testing();
