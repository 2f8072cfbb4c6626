# A sale on three nodes and a proxy while what they run on is killed: whole nodes,
# the workers that share the stock and move slots, sessions, the proxy; and slots move.
# Users try again on errors. In the end each unit is sold once, and nobody has two.
#
#	COUPON_KILLS=100 COUPON_SEED=7 make test-run TESTS=test/t/177_cluster_kills.pl
use strict;
use warnings;

use CouponCluster;
use CouponTest;
use POSIX qw(WNOHANG);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $missing = CouponCluster::plproxy_is_missing();
plan skip_all => $missing if $missing;

my $kills = $ENV{COUPON_KILLS} // 8;
my $seed = $ENV{COUPON_SEED} // time * 1000 % 100_000;
my $units = 20_000;
my $clients = 4;
my $users = $units * 1.05 / $clients;	# of each client: some get none
srand $seed;
note("seed $seed");

my $cluster = CouponCluster->new(nodes => [qw(one two three)], settings => "coupon.cluster = on\n");
my $proxy = $cluster->proxy_server;
my $campaign = $cluster->on('one', "SELECT coupon_cluster_create('storm', $units)");
# a node that has yet to hear of it would say that there is none
await_true($cluster->server($_), 'postgres', "SELECT count(*) = 1 FROM coupon.campaign WHERE campaign_id = $campaign") for $cluster->names;

# What users were told is noted at the proxy, in a commit after the node's.
$cluster->proxy(q{
	CREATE TABLE answer (user_id text PRIMARY KEY, status text, serial bigint, at timestamptz DEFAULT clock_timestamp());
	CREATE TABLE refused (state text, message text);
	CREATE TABLE strike (n int);
	CREATE PROCEDURE buy(campaign bigint, client int, users int, batch int, kills int) LANGUAGE plpgsql AS $$
	DECLARE
		ids text[];
		told int;
	BEGIN
		FOR low IN 1 .. users BY batch LOOP
			-- the sale does not run away from what is done to it
			WHILE low * (kills + 1) > users * (1 + (SELECT count(*) FROM strike)) LOOP
				COMMIT;
				PERFORM pg_sleep(0.02);
			END LOOP;
			LOOP
				SELECT array_agg(id) INTO ids
				  FROM (SELECT client || '-' || n FROM generate_series(low, least(low + batch - 1, users)) n) u(id)
				 WHERE NOT EXISTS (SELECT FROM answer a WHERE a.user_id = id);
				EXIT WHEN ids IS NULL;
				BEGIN
					INSERT INTO answer SELECT a.user_id, a.status, a.serial FROM coupon_issue_many(campaign, ids) a
					 WHERE a.status NOT IN ('busy', 'moved');
					GET DIAGNOSTICS told = ROW_COUNT;
				EXCEPTION WHEN OTHERS THEN
					INSERT INTO refused VALUES (sqlstate, sqlerrm);
					told := 0;
				END;
				COMMIT;
				IF told = 0 THEN
					PERFORM pg_sleep(0.02);
				END IF;
			END LOOP;
		END LOOP;
	END $$});

# Each client is a psql; one whose proxy is gone begins anew, and goes on where it was.
my (%running, %done);
sub clients_go_on
{
	while ((my $pid = waitpid(-1, WNOHANG)) > 0)
	{
		my $n = delete $running{$pid} // next;

		$done{$n} = 1 if $? == 0;
	}
	my %busy = reverse %running;
	foreach my $n (grep { !$done{$_} && !$busy{$_} } 1 .. $clients)
	{
		my $pid = fork // die "fork: $!";

		if ($pid == 0)
		{
			open STDOUT, '>', '/dev/null';
			open STDERR, '>&', \*STDOUT;
			exec 'psql', '-X', '-q', '-d', $proxy->connstr('postgres'), '-c', "CALL buy($campaign, $n, $users, 20, $kills)" or POSIX::_exit(1);
		}
		$running{$pid} = $n;
	}
	return keys %done == $clients;
}

# a process of a node, whose server then begins anew
sub kill_process
{
	my ($name, $type) = @_;
	my $pid = try_sql($cluster->server($name), 'postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = '$type' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1");

	kill 'KILL', $pid if $pid;
	return $pid;
}

my %down;
sub strike
{
	my $name = ($cluster->names)[ rand 3 ];
	my $how = rand;

	return 0 if $down{$name};
	if ($how < 0.35)
	{
		$cluster->kill($name);
		$down{$name} = time + rand 0.5;
	}
	elsif ($how < 0.75) { return 0 unless kill_process($name, 'coupon transfer') }
	elsif ($how < 0.9) { return 0 unless kill_process($name, 'client backend') }
	else
	{
		$cluster->kill_proxy;
		$proxy->start;
	}
	return 1;
}

my $deadline = time + within(60 + 3 * $kills);
my $struck = 0;
my $next = 0;
until (clients_go_on() && !%down)
{
	die 'timed out' if time > $deadline;
	foreach my $name (keys %down)
	{
		next if time < $down{$name};
		$cluster->start($name);
		delete $down{$name};
	}
	# spread over the sale: as much has been struck as has been sold
	if ($struck < $kills && time > $next)
	{
		my $told = try_sql($proxy, 'postgres', 'SELECT count(*) FROM answer') // 0;

		if ($told >= $struck * $clients * $users / ($kills + 1) && strike())
		{
			poll_until('the strike is noted', sub { defined try_sql($proxy, 'postgres', "INSERT INTO strike VALUES ($struck)") });
			$struck++;
			# and slots are on their way, to and fro
			try_sql($cluster->server('one'), 'postgres', 'SELECT coupon_slots_move(2, 20)') if $struck % 2;
			try_sql($cluster->server('two'), 'postgres', 'SELECT coupon_slots_move(1, 20)');
		}
		$next = time + 0.1;
	}
	select undef, undef, undef, 0.05;
}
is($struck, $kills, "killed $struck times");
$cluster->start($_) for keys %down;
foreach my $name ($cluster->names)
{
	await_true($cluster->server($name), 'postgres', 'SELECT true');
	# whatever is on its way arrives
	await_true($cluster->server($name), 'postgres', q{SELECT count(*) = 0 FROM coupon.transfer WHERE state IN ('cut', 'received')});
	await_true($cluster->server($name), 'postgres', 'SELECT count(*) = 0 FROM coupon.slot_plan');
}

conserved($cluster->server($_), 'postgres', "node $_") for $cluster->names;

# ---- the books ----
my (%owner, %unit, @twice);
my $last_issue = '';
foreach my $name ($cluster->names)
{
	foreach (split /\n/, $cluster->on($name, "SELECT user_id, serial FROM coupon.issuance WHERE campaign_id = $campaign"))
	{
		my ($user, $serial) = split /\|/;

		push @twice, "user $user" if defined $owner{$user};
		push @twice, "unit $serial" if defined $unit{$serial};
		$owner{$user} = $serial;
		$unit{$serial} = $user;
	}
	my $last = $cluster->on($name, "SELECT max(issued_at) FROM coupon.issuance WHERE campaign_id = $campaign");
	$last_issue = $last if $last gt $last_issue;
}
is(scalar keys %unit, $units, 'each unit is sold');
is("@twice[0 .. ($#twice > 9 ? 9 : $#twice)]", '', 'and sold once, and nobody has two');
my @wrong;
foreach (split /\n/, $cluster->proxy(q{SELECT user_id, status, serial FROM answer}))
{
	my ($user, $status, $serial) = split /\|/, $_, -1;

	push @wrong, $_ if $status eq 'sold_out' ? defined $owner{$user} : ($owner{$user} // '') ne $serial;
}
is("@wrong[0 .. ($#wrong > 9 ? 9 : $#wrong)]", '', 'what users were told is so');
is($cluster->proxy('SELECT count(*) FROM answer'), $clients * $users, 'and each was told something');
is($cluster->proxy("SELECT count(*) FROM answer WHERE status = 'sold_out' AND at < '$last_issue'"), 0, 'nobody was told sold out before the last unit was taken');
is($cluster->on('one', "SELECT * FROM coupon_cluster_verify($campaign)"), '', 'coupon_cluster_verify finds nothing');
is($cluster->proxy(q{SELECT string_agg(DISTINCT state || ' ' || message, E'\n') FROM refused
	WHERE state !~ '^(08|57|UC3|XX000|40001)'}), '', 'who was refused was told to try again');
note($cluster->proxy(q{SELECT string_agg(n || ' ' || state || ' ' || message, E'\n') FROM (SELECT count(*) AS n, state, left(message, 100) AS message FROM refused GROUP BY 2, 3) r}));
$cluster->stop;
done_testing();
