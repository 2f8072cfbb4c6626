# The laws over HTTP while everything is killed: clients that keep their
# connections and repeat what got no answer issue, request and hold, while the
# front, other workers and the whole server are killed, ended and restarted.
# Each client writes down what it was answered, outside of the server.  In the
# end:
#	- the stock is issued to the last unit, and each user has one;
#	- every answer 200 and 201 is in the tables, of the same unit;
#	- every request that was accepted has ended;
#	- who asked again after an answer was lost was told what they have;
#	- each row has its event: coupon_verify finds nothing.
#
# COUPON_TEST_SEED repeats a run's choices, COUPON_TEST_KILLS makes it longer.
use strict;
use warnings;

use CouponNginx qw(free_port);
use CouponTest;
use HTTP::Tiny;
use JSON::PP;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{COUPON_TEST_SEED} || time ^ $$ << 8;
my $kills = $ENV{COUPON_TEST_KILLS} || 8;
my $clients = 8;
my $users = 3000;
my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $json = JSON::PP->new->canonical->allow_nonref->utf8;

$seed = int($seed) & 0x7fffffff;
diag("COUPON_TEST_SEED=$seed");
srand $seed;

my $port = free_port();
my $node = new_server('front_storm', <<"END");
coupon.http_listen = '127.0.0.1:$port'
coupon.http_role = 'coupon_service'
coupon.sweep_interval = 50ms
END

sub sql { return $node->safe_psql('postgres', shift) }

# 1: issued; 2: requested; 3: held; 4: issued, and each time that somebody asks for it near its end
my %stock = (1 => 700, 2 => 300, 3 => 300, 4 => 20);
sql("SELECT coupon_campaign_create('storm $_', $stock{$_})") for 1 .. 4;

# ---- the clients ----

sub post
{
	my ($http, $path, $body) = @_;
	my $answer = $http->post("http://127.0.0.1:$port$path", { headers => { 'Content-Type' => 'application/json' }, content => $json->encode($body) });

	return ($answer->{status}, eval { $json->decode($answer->{content}) } // {});
}

# client(n): until the file "stop" is there; never returns
sub client
{
	my ($n) = @_;
	my $http = HTTP::Tiny->new(timeout => CouponTest::PATIENCE, keep_alive => 1);

	srand $seed + $n;
	open my $log, '>', "$dir/client.$n" or POSIX::_exit(1);
	$log->autoflush(1);
	until (-e "$dir/stop")
	{
		my $user = 'u' . int rand $users;
		my ($campaign, $path) = @{ ([ 1, 'issues' ], [ 1, 'issues' ], [ 2, 'requests' ], [ 3, 'holds' ], [ 4, 'issues' ])[ int rand 5 ] };
		my $lost = 0;

		while (1)
		{
			my ($status, $body) = post($http, "/campaigns/$campaign/$path", { user_id => $user });

			# no answer, or "try again": what was asked for may have happened
			if ($status == 599 || $status == 503)
			{
				$lost ||= $status == 599;
				last if -e "$dir/stop";
				select undef, undef, undef, 0.02;
				next;
			}
			my $word = $body->{status} // $body->{code} // '';
			$word = $body->{code} if $status >= 400;
			printf $log "%d %s %d %s %s %d\n", $campaign, $user, $status, $word, $body->{request_id} // $body->{serial} // 0, $lost;
			last;
		}
	}
	POSIX::_exit(0);
}

my @pids;
END { local $?; kill KILL => @pids if @pids; }

poll_until('the front', sub { HTTP::Tiny->new->get("http://127.0.0.1:$port/readyz")->{status} == 200 });
for my $n (1 .. $clients)
{
	my $pid = fork // die "fork: $!";

	client($n) if $pid == 0;
	push @pids, $pid;
}

# the lines that the clients have written
sub answers { return map { my $file = $_; map { [ split ] } grep { /\n/ } map { "$_\n" } split /\n/, slurp_file($file) } glob "$dir/client.*" }
sub some_answers { my ($n) = @_; my $before = answers(); return poll_until('answers', sub { answers() >= $before + $n }) }

# ---- what happens to the server ----

sub worker { my ($kind) = @_; return try_sql($node, 'postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = '$kind' LIMIT 1") // '' }
sub back { return poll_until('the server', sub { HTTP::Tiny->new->get("http://127.0.0.1:$port/readyz")->{status} == 200 }) }

my %faults = (
	'kill -9 of the front' => sub { kill_and_recover($node, worker('coupon front')) },
	'kill -9 of the issuer' => sub { kill_and_recover($node, worker('coupon issuer')) },
	'SIGTERM to the front' => sub { my $pid = worker('coupon front'); kill TERM => $pid; poll_until('its end', sub { !-e "/proc/$pid" }) },
	'an immediate stop' => sub { $node->stop('immediate'); $node->start },
	'a fast stop' => sub { $node->stop('fast'); $node->start },
	'kill -9 of the postmaster' => sub {
		my @children = split /\n/, slurp_file('/proc/' . $node->{_pid} . "/task/$node->{_pid}/children") =~ s/ /\n/gr;

		$node->kill9;
		poll_until('its processes to end', sub { !grep { -e "/proc/$_" } @children });
		$node->start;
	},
);
my @order = sort keys %faults;
for my $i (0 .. $kills - 1)
{
	my $fault = $i < @order ? $order[$i] : $order[ int rand @order ];

	some_answers(60);
	note("$fault, after " . scalar(answers()) . ' answers');
	poll_until("a worker for $fault", sub { worker('coupon front') ne '' && worker('coupon issuer') ne '' });
	$faults{$fault}->();
	back();
}
some_answers(100);
append_to_file("$dir/stop", '');
waitpid $_, 0 for @pids;
@pids = ();

# ---- to the last unit ----

my $http = HTTP::Tiny->new(timeout => CouponTest::PATIENCE, keep_alive => 1);
for my $n (1 .. $users)
{
	my ($status) = post($http, '/campaigns/1/issues', { user_id => "u$n" });

	last if $status == 409;
}
post($http, '/campaigns/4/issues', { user_id => "last$_" }) for 1 .. $stock{4};
for my $n (1 .. $stock{2}) { post($http, '/campaigns/2/requests', { user_id => "late$n" }) }
poll_until('the requests', sub { sql('SELECT count(*) FROM coupon.issuance WHERE campaign_id = 2') >= $stock{2} });
for my $n (1 .. $users)
{
	my ($status) = post($http, '/campaigns/3/holds', { user_id => "h$n" });

	last if $status == 409;
}

# ---- what the clients were told ----

my @answers = answers();
my %unit;
my (@missing, %statuses, @requests);
my $again = 0;
for my $row (split /\n/, sql('SELECT campaign_id, user_id, serial FROM coupon.issuance'))
{
	my ($campaign, $user, $serial) = split /\|/, $row;
	$unit{"$campaign $user"} = $serial;
}
for my $answer (@answers)
{
	my ($campaign, $user, $status, $word, $what, $lost) = @$answer;

	$statuses{"$status $word"}++;
	push @requests, [ $user, $what ] if $campaign == 2 && $status == 202;
	next if $campaign == 2 || $status >= 300;
	push @missing, "@$answer" if ($unit{"$campaign $user"} // 0) != $what;
	$again++ if $lost && $word =~ /^already/;
}
note($json->encode(\%statuses));
is_deeply(\@missing, [], 'every answer 200 and 201 is in the table, of the same unit (' . grep({ $_->[2] < 300 } @answers) . ')');
cmp_ok(scalar(grep { $_->[5] } @answers), '>', 0, 'answers were lost (' . grep({ $_->[5] } @answers) . ')');
note("$again of those who asked again had got theirs");
is(scalar(grep { $_->[2] >= 500 || $_->[2] == 400 || $_->[2] == 404 } @answers), 0, 'nobody was told of an error') or diag(explain \%statuses);
is(sql("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $_"), $stock{$_}, "campaign $_: the stock, to the last unit") for sort keys %stock;
is(sql('SELECT count(*) FROM (SELECT FROM coupon.issuance GROUP BY campaign_id, user_id HAVING count(*) > 1) t'), 0, 'each user has one');
my @unended;
for my $request (@requests)
{
	my $answer = $http->get("http://127.0.0.1:$port/campaigns/2/requests/$request->[1]", { headers => { Prefer => 'wait=30' } });
	my $read = eval { $json->decode($answer->{content}) } // {};

	push @unended, "$request->[1] $answer->{status} $answer->{content}" unless ($read->{status} // '') eq 'completed' && ($read->{outcome} ne 'issued' || defined $unit{"2 $request->[0]"});
}
is_deeply(\@unended, [], 'every request that was accepted has ended (' . @requests . ')');

conserved($node, 'postgres', 'storm');
$node->stop;
server_log_is_clean($node, 'storm');
done_testing();
