# A random concurrent run with kills and restarts.  Sessions issue, abort,
# revoke and redeem in every way there is, while backends are killed, the
# server is stopped without mercy, and statements are cancelled.  Each client
# writes down what it was told after the COMMIT.  In the end:
#	- what a client was told is in the tables and in the events;
#	- the events of each unit tell a possible story, ending as the table has it;
#	- coupon_verify finds nothing, and nothing is in flight;
#	- with demand above stock, the stock is issued to the last unit.
#
# COUPON_TEST_SEED repeats a run's choices, COUPON_TEST_KILLS and
# COUPON_TEST_RESTARTS make it longer.
use strict;
use warnings;

use CouponTest;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{COUPON_TEST_SEED} || time ^ $$ << 8;
my $kills = $ENV{COUPON_TEST_KILLS} || 20;
my $restarts = $ENV{COUPON_TEST_RESTARTS} || 5;
my $clients = 10;
my $users = 400;
my $dir = PostgreSQL::Test::Utils::tempdir_short();

$seed = int($seed) & 0x7fffffff;
diag("COUPON_TEST_SEED=$seed");
srand($seed);

my $node = new_server('main', <<'END');
coupon.databases = 'postgres'
coupon.sweep_interval = 20ms
coupon.sold_out_wait = 20ms
log_min_messages = log
END

# campaign 1: always near its end; 2: roomy; 3: codes; 4: two a user; 5: expires
$node->safe_psql('postgres', q{
	SELECT coupon_campaign_create('edge', 30);
	SELECT coupon_campaign_create('plain', 4000, 10000);
	SELECT coupon_campaign_create('coded', 0);
	SELECT coupon_codes_import(3, ARRAY(SELECT 'CODE-' || g FROM generate_series(1, 250) g));
	SELECT coupon_campaign_create('two each', 500, 2);
	SELECT coupon_campaign_create('expiring', 300, policy => '{"usage_period_days": 1}')});
my $campaigns = 5;

# ---- the clients ----

# Words that psql echoes, and rows that it prints, after the server confirmed
# the commit: psql prints an autocommitted statement's rows only then.
sub issue_row
{
	my ($campaign, $user) = @_;
	my $how = rand() < 0.5 ? 'coupon_issue' : 'coupon_issue_grouped';

	return "SELECT '$how', $campaign, user_id, status, coalesce(serial, 0) FROM $how($campaign, '$user');\n";
}

# An explicit transaction: an error ends the script before the echo.
sub transaction
{
	my ($body, @echoes) = @_;

	return "\\set ON_ERROR_STOP 1\nBEGIN;\n${body}COMMIT;\n"
	  . join('', map { "\\echo $_\n" } @echoes)
	  . "\\set ON_ERROR_STOP 0\n";
}

sub issue_into
{
	my ($prefix, $campaign, $user) = @_;

	return "SELECT status, coalesce(serial, 0) AS serial FROM coupon_issue($campaign, '$user') \\gset ${prefix}_\n";
}

sub random_script
{
	my $script = '';

	for (1 .. 60)
	{
		my $campaign = 1 + int(rand($campaigns));
		my $user = 'u' . int(rand($users));
		my $other = 'u' . int(rand($users));
		my $order = 'order' . int(rand(3));
		my $choice = rand();

		if ($choice < 0.25)
		{
			$script .= issue_row($campaign, $user);
		}
		elsif ($choice < 0.30)
		{
			$script .= "BEGIN;\n" . issue_into('r', $campaign, $user) . "ROLLBACK;\n";
		}
		elsif ($choice < 0.40)
		{
			# the first unit goes back, the second stays
			$script .= transaction(
				"SAVEPOINT a;\n"
				  . issue_into('r', $campaign, $user)
				  . "ROLLBACK TO a;\n"
				  . issue_into('s', $campaign, $other),
				"issue|$campaign|$other|:s_status|:s_serial");
		}
		elsif ($choice < 0.45)
		{
			# released, and the outer one rolled back or not
			my $end = rand() < 0.5 ? 'ROLLBACK TO a' : 'RELEASE a';

			$script .= transaction(
				"SAVEPOINT a;\nSAVEPOINT b;\n" . issue_into('r', $campaign, $user) . "RELEASE b;\n$end;\n",
				$end =~ /RELEASE/ ? "issue|$campaign|$user|:r_status|:r_serial" : ());
		}
		elsif ($choice < 0.50)
		{
			$script .= "DO \$\$ BEGIN PERFORM coupon_issue($campaign, '$user'); "
			  . "RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN NULL; END \$\$;\n";
		}
		elsif ($choice < 0.65)
		{
			my @many = map { 'u' . int(rand($users)) } 1 .. 1 + int(rand(8));

			push @many, $many[0];
			$script .= "SELECT 'issue', $campaign, user_id, status, coalesce(serial, 0) "
			  . "FROM coupon_issue_many($campaign, '{" . join(',', @many) . "}'::text[]);\n";
		}
		elsif ($choice < 0.66)
		{
			# the unit goes from one user to the other, or does not
			my $end = rand() < 0.5 ? 'COMMIT' : 'ROLLBACK';

			$script .= "BEGIN;\nSELECT coupon_revoke($campaign, '$user', 'test');\n"
			  . issue_into('r', $campaign, $other) . "$end;\n";
		}
		elsif ($choice < 0.67)
		{
			# a revocation undone
			$script .= transaction(
				"SAVEPOINT a;\nSELECT coupon_revoke($campaign, '$user', 'test') AS undone \\gset\nROLLBACK TO a;\n"
				  . issue_into('r', $campaign, $user),
				"issue|$campaign|$user|:r_status|:r_serial");
		}
		elsif ($choice < 0.675)
		{
			$script .= "SELECT 'codes', 3, '', '', coupon_codes_import(3, "
			  . "ARRAY['N-" . int(rand(1000)) . "', 'N-" . int(rand(1000)) . "']);\n";
		}
		elsif ($choice < 0.68)
		{
			$script .= "SELECT coupon_status($campaign), coupon_expire(3);\n";
		}
		elsif ($choice < 0.70)
		{
			# a wait that is cut short, or a statement that is just done;
			# it may even hit the SET that is to end it
			my $ms = 1 + int(rand(4));

			$script .= "\\warn timeout follows\nSET statement_timeout = $ms;\n"
			  . issue_row(1, $user)
			  . "SET statement_timeout = '@{[ CouponTest::PATIENCE ]}s';\n";
		}
		elsif ($choice < 0.88)
		{
			$script .= "SELECT 'revoke', $campaign, '$user', coupon_revoke($campaign, '$user', 'test'), 0;\n";
		}
		elsif ($choice < 0.95)
		{
			$script .= "SELECT 'redeem', $campaign, user_id, status, coalesce(serial, 0) "
			  . "FROM coupon_redeem($campaign, '$user', '$order');\n";
		}
		elsif ($choice < 0.98)
		{
			$script .= "SELECT 'cancel', $campaign, user_id, status, coalesce(serial, 0) "
			  . "FROM coupon_redeem_cancel($campaign, '$user', '$order');\n";
		}
		elsif ($choice < 0.99)
		{
			$script .= "UPDATE coupon.issuance SET expires_at = now() WHERE campaign_id = 5 AND user_id = '$user';\n";
		}
		else
		{
			$script .= transaction(
				"SELECT coupon_campaign_add_stock(2, 3) AS total \\gset r_\n" . issue_into('r', 1, $user),
				"stock|2|||3", "issue|1|$user|:r_status|:r_serial");
		}
	}
	return $script;
}

my $connstr = $node->connstr('postgres');
my @children;

for my $client (1 .. $clients)
{
	my $pid = fork;

	die "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		srand($seed + $client);
		$ENV{PGAPPNAME} = 'load';
		open STDOUT, '>>', "$dir/out$client";
		open STDERR, '>>', "$dir/err$client";
		until (-e "$dir/stop")
		{
			open my $script, '>', "$dir/script$client";
			print $script "\\warn timeout over\nSET statement_timeout = '@{[ CouponTest::PATIENCE ]}s';\n", random_script();
			close $script;
			system 'psql', '-X', '-q', '-A', '-t', '-d', $connstr, '-f', "$dir/script$client";
			select undef, undef, undef, 0.01 if $?;
		}
		POSIX::_exit(0);
	}
	push @children, $pid;
}

# ---- the havoc ----

# How much the clients were told so far, in bytes.
sub told
{
	my $sum = 0;

	$sum += -s $_ || 0 for glob "$dir/out*";
	return $sum;
}

sub wait_for_progress
{
	my $goal = told() + 20_000;

	poll_until('progress of the clients', sub { told() > $goal });
	return;
}

sub random_pid
{
	my ($where) = @_;
	my @pids = split /\n/, try_sql($node, 'postgres', "SELECT pid FROM pg_stat_activity WHERE $where ORDER BY pid") // '';

	return @pids ? $pids[ int(rand(@pids)) ] : undef;
}

my %done = (kill => 0, restart => 0, cancel => 0, terminate => 0);
my $start = time;
my $fail = '';

eval {
	while ($done{kill} < $kills || $done{restart} < $restarts)
	{
		wait_for_progress();

		for (1 .. 4)
		{
			my $pid = random_pid("application_name = 'load'") or next;
			my $what = rand() < 0.7 ? 'cancel' : 'terminate';

			$done{$what}++;
			kill $what eq 'cancel' ? 'INT' : 'TERM', $pid;
		}

		if (rand() * ($kills + $restarts) < $restarts ? $done{restart} < $restarts : $done{kill} >= $kills)
		{
			$node->stop('immediate');
			$node->start;
			$done{restart}++;
		}
		else
		{
			# now and then it hits a worker
			my $where = rand() < 0.1 ? "backend_type LIKE 'coupon %'" : "application_name = 'load' AND state <> 'idle'";
			my $pid = random_pid($where) or next;

			$done{kill} += kill 'KILL', $pid;
		}
	}
	wait_for_progress();
	1;
} or $fail = $@;

append_to_file("$dir/stop", '');
waitpid $_, 0 for @children;
is($fail, '', 'the clients got on after each blow');
note(sprintf '%d kills, %d immediate restarts, %d cancels, %d terminations in %.1f s',
	@done{qw(kill restart cancel terminate)}, time - $start);
cmp_ok($done{kill}, '>=', $kills, "$done{kill} backends killed");
cmp_ok($done{restart}, '>=', $restarts, "$done{restart} immediate restarts");
settle($node, 'postgres');

# ---- what the clients saw ----

my %unexpected;
my $timeout_ok = 0;

for my $file (glob "$dir/err*")
{
	for (split /\n/, slurp_file($file))
	{
		$timeout_ok = $_ =~ /follows/ if /^timeout (follows|over)/;
		next unless /(?:ERROR|FATAL|PANIC): +(.*)/;
		my $message = $1;

		next if $message =~ join '|', 'the database system is', 'terminating connection',
		  'canceling statement due to user request', 'server closed the connection';
		next if $timeout_ok && $message =~ /canceling statement due to statement timeout/;
		next if $message =~ /^(cannot revoke a redeemed unit|current transaction is aborted)/;
		# a grouped call after a restart, before its worker, or when it ends
		next if $message =~ /^(no worker carries out grouped calls|the coupon group worker was stopped)/;
		$unexpected{$message}++;
	}
}
is_deeply(\%unexpected, {}, 'no other errors than the havoc explains');

my $grouped = 0;
my @told = map { grep { /^(issue|revoke|redeem|cancel|stock|codes)\|/ } map { $grouped += /^coupon_issue_grouped\|.*\|issued\|/; s/^coupon_issue\w*\|/issue|/r } split /\n/, slurp_file($_) } glob "$dir/out*";
cmp_ok($grouped, '>', 100, "$grouped units were issued by grouped calls");
cmp_ok(scalar(@told), '>', 5000, 'the clients were told ' . @told . ' results');
open my $copy, '>', "$dir/told.sql";
print $copy "CREATE TABLE told (what text, campaign_id bigint, user_id text, status text, serial bigint);\n",
  "COPY told FROM stdin (DELIMITER '|');\n", map({ "$_\n" } @told), "\\.\n";
close $copy;
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $connstr, '-f', "$dir/told.sql" ],
	'their notes are whole');

my $statuses = $node->safe_psql('postgres',
	"SELECT string_agg(what || ' ' || status || ' ' || n, ', ' ORDER BY what, status)
	 FROM (SELECT what, coalesce(status, '') AS status, count(*) AS n FROM told GROUP BY 1, 2) x");
note($statuses);
for my $seen ('issue issued', 'issue already_issued', 'issue sold_out', 'redeem redeemed',
	'redeem already_redeemed', 'revoke t', 'cancel cancelled')
{
	like($statuses, qr/\b$seen [0-9]/, "seen: $seen");
}

# ---- what the tables say ----

sub read_events
{
	$node->safe_psql('postgres', q{
		DROP TABLE IF EXISTS event;
		CREATE TABLE event AS
		SELECT id, type, (payload->>'campaign_id')::bigint AS campaign_id, key AS user_id,
			   (payload->>'serial')::bigint AS serial
		FROM coupon.outbox WHERE type ~ '^coupon\.(issued|redeemed|redeem_cancelled|revoked|expired)$';
		CREATE INDEX ON event (campaign_id, serial, user_id);
		ANALYZE});
	return;
}

# Each of these queries lists what must not be.
my %law = (
	'a told issue has its event' => q{
		SELECT t.campaign_id, t.user_id, t.serial, t.n, count(e.id)
		FROM (SELECT campaign_id, user_id, serial, count(*) AS n FROM told
			  WHERE what = 'issue' AND status = 'issued' GROUP BY 1, 2, 3) t
		LEFT JOIN event e ON e.type = 'coupon.issued' AND e.campaign_id = t.campaign_id
			AND e.user_id = t.user_id AND e.serial = t.serial
		GROUP BY 1, 2, 3, 4 HAVING count(e.id) < t.n},
	'already_issued names a unit that was issued to the user' => q{
		SELECT t.* FROM told t WHERE what = 'issue' AND status = 'already_issued'
		AND NOT EXISTS (SELECT FROM event e WHERE e.type = 'coupon.issued' AND e.campaign_id = t.campaign_id
			AND e.user_id = t.user_id AND e.serial = t.serial)},
	'a told redemption, cancellation and revocation has its event' => q{
		SELECT t.*, count(e.id)
		FROM (SELECT what, campaign_id, user_id, count(*) AS n FROM told
			  WHERE status IN ('redeemed', 'cancelled') OR (what = 'revoke' AND status = 't') GROUP BY 1, 2, 3) t
		LEFT JOIN event e ON e.campaign_id = t.campaign_id AND e.user_id = t.user_id
			AND e.type = CASE t.what WHEN 'redeem' THEN 'coupon.redeemed'
									 WHEN 'cancel' THEN 'coupon.redeem_cancelled' ELSE 'coupon.revoked' END
		GROUP BY t.what, t.campaign_id, t.user_id, t.n HAVING count(e.id) < t.n},
	'issuances = issued events - revoked events, unit by unit' => q{
		SELECT campaign_id, serial, user_id, e.n, i.n
		FROM (SELECT campaign_id, serial, user_id,
					 count(*) FILTER (WHERE type = 'coupon.issued') - count(*) FILTER (WHERE type = 'coupon.revoked') AS n
			  FROM event GROUP BY 1, 2, 3) e
		FULL JOIN (SELECT campaign_id, serial, user_id, count(*) AS n FROM coupon.issuance GROUP BY 1, 2, 3) i
			USING (campaign_id, serial, user_id)
		WHERE coalesce(e.n, 0) <> coalesce(i.n, 0)},
	'redemptions = redeemed events - cancelled events' => q{
		SELECT campaign_id, serial, user_id, e.n, i.n
		FROM (SELECT campaign_id, serial, user_id,
					 count(*) FILTER (WHERE type = 'coupon.redeemed') - count(*) FILTER (WHERE type = 'coupon.redeem_cancelled') AS n
			  FROM event GROUP BY 1, 2, 3) e
		FULL JOIN (SELECT campaign_id, serial, user_id, count(*) FILTER (WHERE state = 'redeemed') AS n
				   FROM coupon.issuance GROUP BY 1, 2, 3) i
			USING (campaign_id, serial, user_id)
		WHERE coalesce(e.n, 0) <> coalesce(i.n, 0)},
	'the events of a unit, in order of their ids, tell a possible story' => q{
		SELECT * FROM (
			SELECT *, lag(type) OVER w AS last_type, lag(user_id) OVER w AS last_user
			FROM event WINDOW w AS (PARTITION BY campaign_id, serial ORDER BY id)) e
		WHERE NOT CASE type
			WHEN 'coupon.issued' THEN last_type IS NULL OR last_type = 'coupon.revoked'
			WHEN 'coupon.redeem_cancelled' THEN last_type = 'coupon.redeemed' AND last_user = user_id
			ELSE coalesce(last_type IN ('coupon.issued', 'coupon.redeem_cancelled', 'coupon.expired'), false)
				AND last_user = user_id AND NOT (type <> 'coupon.revoked' AND last_type = 'coupon.expired') END},
	'no event twice' => q{
		SELECT id, count(*) FROM coupon.outbox GROUP BY 1 HAVING count(*) > 1},
	'imported codes are units' => q{
		SELECT told, units, labels FROM
			(SELECT 250 + coalesce(sum(serial), 0) AS told FROM told WHERE what = 'codes') t,
			(SELECT sum(last_serial - first_serial + 1) AS units FROM coupon.shard WHERE campaign_id = 3) s,
			(SELECT count(*) AS labels FROM coupon.unit WHERE campaign_id = 3) u
		WHERE told > units OR units <> labels},
	'added stock is what was told, or a little more' => q{
		SELECT told, units FROM
			(SELECT 4000 + coalesce(sum(serial), 0) AS told FROM told WHERE what = 'stock') t,
			(SELECT sum(last_serial - first_serial + 1) AS units FROM coupon.shard WHERE campaign_id = 2) s,
			(SELECT 4000 + 3 * count(*) AS events FROM coupon.outbox WHERE type = 'coupon.campaign_stock_added'
				AND key = '2') e
		WHERE told > units OR units <> events});

sub check_laws
{
	read_events();
	for my $law (sort keys %law)
	{
		is($node->safe_psql('postgres', "SELECT * FROM ($law{$law}) x LIMIT 10"), '', $law);
	}
	return;
}

check_laws();
conserved($node, 'postgres', 'after the havoc');

# ---- demand above stock ----

my @buyers;

for my $buyer (1 .. 4)
{
	my $file = "$dir/buy$buyer.sql";

	open my $script, '>', $file;
	for my $campaign (1 .. $campaigns)
	{
		# a few large calls, then one by one
		print $script "SELECT count(*) FROM coupon_issue_many($campaign,
			ARRAY(SELECT 'new-$buyer-' || g FROM generate_series($_ * 300, $_ * 300 + 299) g));\n" for 0 .. 4;
		print $script "SELECT coupon_issue($campaign, 'single-$buyer-$_');\n" for 1 .. 50;
	}
	close $script;
	push @buyers, IPC::Run::start([ 'psql', '-X', '-q', '-At', '-v', 'ON_ERROR_STOP=1', '-d', $connstr, '-f', $file ],
		'>', '/dev/null');
}
ok($_->finish, 'a buyer') for @buyers;

# Campaign 2 may have more stock than those four wanted.
$node->safe_psql('postgres', q{
	SELECT count(*) FROM coupon_issue_many(2,
		ARRAY(SELECT 'last-' || g FROM generate_series(1, (SELECT remaining FROM coupon_status(2))) g))});
settle($node, 'postgres');

is( $node->safe_psql('postgres', q{
		SELECT c, s.remaining, s.issued = s.stock, n = s.stock FROM generate_series(1, 5) c, coupon_status(c) s,
			LATERAL (SELECT count(*) AS n FROM coupon.issuance i WHERE i.campaign_id = c) i ORDER BY c}),
	join("\n", map { "$_|0|t|t" } 1 .. 5), 'all stock is issued, to the last unit');
is( $node->safe_psql('postgres', q{
		SELECT DISTINCT status FROM generate_series(1, 5) c, coupon_issue(c, 'too late')}),
	'sold_out', 'and everything is sold out');
check_laws();
conserved($node, 'postgres', 'sold out');

# nor has a restart another opinion
$node->restart;
is( $node->safe_psql('postgres', q{
		SELECT DISTINCT status FROM generate_series(1, 5) c, coupon_issue(c, 'too late')}),
	'sold_out', 'sold out after a restart');
conserved($node, 'postgres', 'after a restart');

# ---- the checks above can fail: lose a row, double one, lose an event ----

$node->safe_psql('postgres', q{
	SET session_replication_role = replica;
	DELETE FROM coupon.issuance WHERE (campaign_id, serial) =
		(SELECT campaign_id, serial FROM told WHERE what = 'issue' AND status = 'issued' AND (campaign_id, serial) IN
			(SELECT campaign_id, serial FROM coupon.issuance) LIMIT 1)});
isnt($node->safe_psql('postgres', $law{'issuances = issued events - revoked events, unit by unit'}),
	'', 'a lost issuance would be noticed');
isnt($node->safe_psql('postgres', 'SELECT * FROM coupon_verify()'), '', 'also by coupon_verify');
$node->safe_psql('postgres', q{
	DELETE FROM event e USING told t WHERE t.what = 'issue' AND t.status = 'issued' AND e.type = 'coupon.issued'
		AND (e.campaign_id, e.serial, e.user_id) = (t.campaign_id, t.serial, t.user_id)});
isnt($node->safe_psql('postgres', $law{'a told issue has its event'}), '', 'a lost commit would be noticed');
isnt($node->safe_psql('postgres', $law{'the events of a unit, in order of their ids, tell a possible story'}),
	'', 'an impossible story would be noticed');

$node->stop;
server_log_is_clean($node, 'crashes');
done_testing();
