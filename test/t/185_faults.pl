# Fault points (src/base/fault.h): whoever fails at one, in whatever way, the
# same call succeeds when it is made again, and the sale adds up.  Each point
# has a driver here; one that none reaches fails the test.
use strict;
use warnings;

use CouponFault;
use CouponKafka;
use CouponNginx qw(free_port);
use CouponTest;
use HTTP::Tiny;
use PostgreSQL::Test::Utils;
use Test::More;

my $missing = kafka_tools_missing();
my $port = free_port();
my $node = fault_server('main', <<"END");
coupon.http_listen = '127.0.0.1:$port'
coupon.http_role = 'coupon_service'
coupon.publish_interval = 100ms
END

sub sql { return $node->safe_psql('postgres', $_[0]); }

# ---- nothing of it is in a build for users ----

chomp(my $directory = `pg_config --pkglibdir`);
unlike(slurp_file("$directory/coupon.so"), qr/coupon.fault|fault point/, 'a release has no fault points');
like(slurp_file(config_data($node, '--pkglibdir') . '/coupon.so'), qr/fault point/, 'and this one has');

# ---- memory runs out at each allocation of a call ----

sql(q{
	SELECT coupon_campaign_create('sale', 5000);
	SELECT coupon_room_create('room', 100000);
	CREATE ROLE coupon_node LOGIN IN ROLE coupon_admin;
	SELECT coupon_campaign_create('memory', 100, 2)});

# starved(what, sql): fails at its first allocation, then at its second...
sub starved
{
	my ($what, $sql) = @_;

	for my $skip (0 .. 2000)
	{
		my ($status, undef, $error) = $node->psql('postgres', qq{
			SELECT fault.arm('allocation', 'memory', skip => $skip, pid => pg_backend_pid());
			BEGIN; $sql; COMMIT});

		next if $status != 0 && $skip < 2000 && $error =~ /out of memory/;
		is($error, '', "$what: $skip allocations have failed, one after another");
		cmp_ok($skip, '>', 3, '  and there are some');
		last;
	}
	conserved($node, 'postgres', $what);
	return;
}

starved('coupon_issue', q{SELECT coupon_issue(2, 'issue')});
starved('coupon_issue_many', q{SELECT count(*) FROM coupon_issue_many(2, '{a,b,c,d,a}')});
starved('a key', q{SELECT coupon_issue(2, 'key', 'k')});
starved('hold and confirm', q{SELECT coupon_hold(2, 90, 'hold', '1 day'), coupon_confirm(2, 90, 'hold', 'ref')});
starved('revoke', q{SELECT coupon_revoke(2, 'hold', 'reason')});
starved('request', q{SELECT coupon_request(2, 'request')});
starved('join', q{SELECT coupon_queue_join('room', 'join')});

# ---- each point in each way ----

my $issue = { act => sub { "SELECT coupon_issue(1, '$_[0]')" }, rows => 1 };
my $hold = {
	prepare => sub { "SELECT coupon_hold_any(1, '$_[0]', '1 day')" },
	act => sub { "SELECT coupon_confirm(1, serial, '$_[0]', 'ref') FROM coupon.issuance WHERE campaign_id = 1 AND user_id = '$_[0]'" },
	check => sub { "SELECT state = 'issued' FROM coupon.issuance WHERE user_id = '$_[0]'" } };
my $unread = {
	prepare => sub { "SELECT coupon_campaign_create('$_[0]', 3)" },
	act => sub { "SELECT coupon_issue(campaign_id, '$_[0]') FROM coupon.campaign WHERE name = '$_[0]'" },
	rows => 1 };
my $sold_out = {
	prepare => sub { "SELECT coupon_issue(coupon_campaign_create('$_[0]', 1), 'somebody')" },
	act => sub { "SELECT coupon_issue(campaign_id, '$_[0]') FROM coupon.campaign WHERE name = '$_[0]'" },
	check => sub { "SELECT (coupon_issue(campaign_id, '$_[0]')).status = 'sold_out' FROM coupon.campaign WHERE name = '$_[0]'" } };
my $lapsed = {
	prepare => sub { "SELECT coupon_hold(coupon_campaign_create('$_[0]', 1), 1, 'somebody', '1 ms')" },
	act => sub { "SELECT coupon_issue(campaign_id, '$_[0]') FROM coupon.campaign WHERE name = '$_[0]'" },
	rows => 1 };
my $revoked = {
	prepare => sub { "SELECT coupon_issue(1, '$_[0]')" },
	act => sub { "SELECT coupon_revoke(1, '$_[0]', 'reason')" },
	check => sub { "SELECT count(*) = 0 FROM coupon.issuance WHERE user_id = '$_[0]'" } };
my $refused = {
	prepare => sub { "SELECT coupon_hold_any(1, '$_[0]', '1 day');
		SELECT coupon_confirm(1, serial, '$_[0]', 'first') FROM coupon.issuance WHERE user_id = '$_[0]'" },
	act => sub { "SELECT coupon_confirm(1, serial, '$_[0]', 'second') FROM coupon.issuance WHERE user_id = '$_[0]'" },
	check => sub { "SELECT count(*) = 1 FROM coupon.outbox WHERE type = 'coupon.confirm_refused' AND key = '$_[0]'" } };
# a unit whose row the map does not know of
my $misled = {
	prepare => sub { "SELECT coupon_issue(coupon_campaign_create('$_[0]', 2), 'somebody');
		INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, user_id, state, issued_at, policy)
		SELECT campaign_id, 3 - serial, shard, nth, 'other', state, issued_at, i.policy FROM coupon.issuance i JOIN coupon.campaign USING (campaign_id) WHERE name = '$_[0]'" },
	act => sub { "SELECT coupon_issue(campaign_id, '$_[0]') FROM coupon.campaign WHERE name = '$_[0]'" },
	check => sub { "SELECT (coupon_issue(campaign_id, '$_[0]')).status = 'sold_out' FROM coupon.campaign WHERE name = '$_[0]'" } };
my $request = {
	act => sub { "SELECT coupon_request(1, '$_[0]')" },
	rows => 1 };
my $join = {
	act => sub { "SELECT coupon_queue_join('room', '$_[0]')" },
	check => sub { "SELECT bool_and(admitted_at IS NOT NULL) FROM coupon.ticket WHERE user_id = '$_[0]'" } };
my $grouped = { act => sub { "SELECT coupon_issue_grouped(1, '$_[0]')" }, rows => 1 };
my $http = {
	act => sub {
		HTTP::Tiny->new(timeout => $PostgreSQL::Test::Utils::timeout_default)->post("http://127.0.0.1:$port/campaigns/1/issues",
			{ headers => { 'Content-Type' => 'application/json' }, content => qq({"user_id": "$_[0]"}) });
		return undef; },
	rows => 1 };
my $publish = {
	act => sub { "SELECT coupon_emit('topic', '$_[0]', 'type', '{}')" },
	check => sub { 'SELECT unpublished = 0 FROM coupon_outbox_status()' } };
my $worker = {
	act => sub { "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'coupon sweeper'" },
	check => sub { "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'coupon sweeper'" } };
my $sent = {
	act => sub { 'SELECT coupon.units_arrive(1, coupon.units_cut(1, 1), 1, true)' },
	check => sub { 'SELECT away = 0 FROM coupon.campaign WHERE campaign_id = 1' } };
my $peer = {
	act => sub { "SELECT error LIKE 'UC303%' FROM coupon.peers_ask('{1}', ARRAY['host=" . $node->host . ' port=' . $node->port . " dbname=postgres'], 'hello', ARRAY['{}'])" },
	check => sub { 'SELECT true' } };
# each step that 179_move_faults.pl drives between nodes
my $move = {
	act => sub { q{BEGIN;
		INSERT INTO coupon.slot (slot, node_id, version) VALUES (0, 1, 1);
		UPDATE coupon.slot SET leaving = 2;
		INSERT INTO coupon.slot_parcel (parcel_id, donor, receiver, slots, state, due_at) VALUES (gen_random_uuid(), 1, 2, '{0}', 'sent', 'infinity');
		UPDATE coupon.slot SET node_id = leaving, leaving = NULL;
		UPDATE coupon.slot_parcel SET state = 'done';
		INSERT INTO coupon.slot_parcel (parcel_id, donor, receiver, slots, state, due_at) VALUES (gen_random_uuid(), 2, 1, '{0}', 'received', 'infinity');
		UPDATE coupon.slot SET node_id = 1;
		SET CONSTRAINTS ALL IMMEDIATE;
		ROLLBACK} },
	check => sub { 'SELECT true' } };

# who fails: the session that calls, another one, or either
my @drivers = (
	[ $issue, qw(unit_marked unit_in_flight unit_taken row_written unit_changed event_appended commit_unsettled) ],
	[ { %$issue, other => 1 }, qw(allocation) ],
	[ $unread, qw(shard_building shard_read filter_unknown) ],
	[ $sold_out, qw(units_missed none_free shard_copied shard_checked units_gone) ],
	# the sweeper may be first
	[ { %$lapsed, either => 1 }, qw(unit_over hold_removed) ],
	[ $revoked, qw(unit_returns unit_freed) ],
	[ { %$issue, act => sub { "SELECT coupon_issue(1, '$_[0]', 'key')" } }, qw(user_locked key_unused) ],
	[ { %$issue, act => sub { "BEGIN; SELECT coupon_issue(1, '$_[0]'); ROLLBACK" },
		check => sub { "SELECT count(*) = 0 FROM coupon.issuance WHERE user_id = '$_[0]'" }, rows => 0 }, qw(abort_unsettled) ],
	[ $hold, qw(row_updated) ],
	# or a worker that looks around
	[ { %$hold, either => 1 }, qw(entry_read) ],
	[ $refused, qw(payment_locked payment_refused) ],
	[ $misled, qw(row_refused) ],
	[ $request, qw(request_entered line_behind) ],
	[ { %$request, other => 1 }, qw(request_chosen request_decided) ],
	[ $join, qw(ticket_entered) ],
	[ { %$join, other => 1 }, qw(ticket_changed) ],
	[ $grouped, qw(call_published) ],
	[ { %$grouped, other => 1 }, qw(calls_taken calls_carried_out calls_committed) ],
	[ { %$http, other => 1 }, qw(turn_carried_out turn_committed) ],
	[ $sent, qw(units_sent units_come) ],
	[ $peer, qw(peer_asked peer_answered) ],
	[ $move, qw(slots_leaving slots_packed slots_given slots_noted slots_owned slots_come slots_done) ],
	[ { %$worker, other => 1 }, qw(worker_claimed) ]);

my %throws = map { split /\|/ } split /\n/, sql('SELECT point, throws FROM fault.points()');
my %driven;
my $users = 0;

# how often a point has failed, the crashes included
sub lines
{
	my ($point, $kind) = @_;
	my @lines = slurp_file($node->logfile) =~ /^coupon fault point $point: $kind$/gm;

	return scalar @lines;
}

my $checkpointer = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'};

# drive(driver, point, kind): until it has failed there, then until all is well
sub drive
{
	my ($driver, $point, $kind) = @_;
	my $before = lines($point, $kind);
	my ($user, $server, $status);

	poll_until("$point: $kind", sub {
		my $sql;

		$user = "$point-$kind-" . ++$users;
		$server = try_sql($node, 'postgres', ($driver->{prepare} ? $driver->{prepare}->($user) . ';' : '') .
			"SELECT fault.arm('$point', '$kind', ms => 20);" . $checkpointer) // return 0;
		($server) = $server =~ /(\d+)\z/;
		$sql = $driver->{act}->($user);
		($status) = defined $sql ? eval { $node->psql('postgres', $sql, on_error_stop => 1) } : 0;
		# somebody else gets there in a moment
		poll_until("$point: $kind by another", sub { lines($point, $kind) > $before }) if $driver->{other};
		return lines($point, $kind) > $before; });
	if ($kind eq 'kill')
	{
		poll_until("$point: recovery", sub { (try_sql($node, 'postgres', $checkpointer) || $server) ne $server });
	}
	elsif (!$driver->{other} && !$driver->{either} && ($status != 0) != ($kind ne 'sleep'))
	{
		fail("$point: $kind is " . ($status == 0 ? 'no' : 'an') . ' error');
	}
	poll_until("$point: after $kind", sub {
		my $sql;

		return 1 if (try_sql($node, 'postgres', $driver->{check} ? $driver->{check}->($user) :
			"SELECT count(*) = 1 FROM coupon.issuance WHERE user_id = '$user'") // '') eq 't';
		$sql = $driver->{act}->($user);
		try_sql($node, 'postgres', $sql) if defined $sql;
		return 0; });
	is(sql("SELECT count(*) FROM coupon.outbox WHERE type = 'coupon.issued' AND key = '$user'"), 1, "$point, $kind: one event")
	  if $driver->{rows} && $missing;
	return;
}

sub drive_all
{
	for my $entry (@_)
	{
		my ($driver, @points) = @$entry;

		for my $point (@points)
		{
			my @kinds = $throws{$point} eq 't' ? qw(sleep error memory fatal kill) : qw(sleep kill);

			drive($driver, $point, $_) for @kinds;
			pass("$point: @kinds");
			$driven{$point} = 1;
			conserved($node, 'postgres', $point);
		}
	}
	return;
}

drive_all(@drivers);

is(sql(q{
		SELECT user_id FROM coupon.issuance LEFT JOIN coupon.outbox ON key = user_id AND type = 'coupon.issued'
		WHERE campaign_id = 1 GROUP BY user_id, state, confirm_ref HAVING count(key) <> (confirm_ref IS NULL)::int}),
	'', 'one event for each who has a unit');
is(sql(q{
		SELECT key FROM coupon.outbox LEFT JOIN coupon.issuance ON key = user_id
		WHERE type = 'coupon.issued' AND user_id IS NULL AND key NOT IN (SELECT key FROM coupon.outbox WHERE type = 'coupon.revoked')}),
	'', 'no event of one who has none');

# ---- the broker ----

SKIP:
{
	skip $missing, 1 if $missing;
	my $broker = mock_broker(brokers => 1, topics => { topic => 12, 'coupon-issued' => 12 });

	alter_system($node, 'coupon.kafka_brokers' => $broker->bootstrap);
	await_true($node, 'postgres', 'SELECT unpublished = 0 FROM coupon_outbox_status()');
	drive_all([ { %$publish, other => 1 }, qw(event_sent event_delivered event_removed) ]);
	alter_system($node, 'coupon.kafka_brokers' => '');
}
$driven{$_} //= $missing for qw(event_sent event_delivered event_removed);

# ---- rows that are decoded are inserted in another way ----

$node->append_conf('postgresql.conf', 'wal_level = logical');
$node->restart;
drive_all([ $issue, qw(row_speculative) ]);

is(join(' ', grep { !$driven{$_} } sort keys %throws), '', 'each point was reached, in each of its ways');

$node->stop;
done_testing();
