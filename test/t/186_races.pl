# Two sessions between two lines of code: one sleeps at a fault point
# (src/base/fault.h), the other one does what the first does not expect.  Each
# of these orders is the one in which a mutant of test/mutants/ breaks a law.
use strict;
use warnings;

use CouponFault;
use CouponTest;
use Test::More;

my $node = fault_server('main', <<'END');
coupon.sweep_interval = 1h
END

sub sql { return $node->safe_psql('postgres', $_[0]); }

# campaign(stock, limit): a new one
sub campaign { return sql("SELECT coupon_campaign_create('c', $_[0], " . ($_[1] // 1) . ')'); }

# sleeper(point, sql): a session that has gone to sleep at the point
sub sleeper
{
	my ($point, $sql) = @_;
	my $session = start_sql($node, "SELECT fault.arm('$point', 'sleep', pid => pg_backend_pid()) \\g /dev/null\n$sql");

	asleep($node, $point);
	return $session;
}

# waiter(sql): a session that waits for a lock or for units, or is done
sub waiter
{
	my ($sql) = @_;
	my $session = start_sql($node, "SET application_name = 'waiter'; $sql");

	poll_until('a session that waits', sub {
		$session->{run}->pump_nb;
		return $session->{out} ne '' ||
		  sql(q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'waiter' AND wait_event_type IN ('Lock', 'Extension', 'IPC')}); });
	return $session;
}

my $soon = within(5) * 1000;
my ($c, $first, $second, $holder);

# ---- the map is built while a unit comes back ----

$c = campaign(2);
sql("SELECT coupon_issue($c, 'returns')");
$node->restart;
$first = sleeper('shard_read', "SELECT (coupon_issue($c, 'a')).status");
sql("SELECT coupon_revoke($c, 'returns', 'reason')");
release($node, 'shard_read');
is(answer($first), 'issued', 'a map that was being built knows of a unit that came back');
conserved($node, 'postgres', 'building');

# ---- a unit comes back between the look and the verdict, twice ----

# sold_out(campaign): its stock is gone, the map was checked, and that is remembered
sub sold_out
{
	my ($campaign) = @_;

	sql("SELECT coupon_issue($campaign, 'returns')");
	is(sql("SELECT (coupon_issue($campaign, 'nobody')).status"), 'sold_out', 'the only unit is gone');
	return;
}

$c = campaign(1);
sold_out($c);
my $slept = fired($node, 'units_gone');
sql("SELECT coupon_revoke($c, 'returns', 'reason')");
sql("SELECT coupon_issue($c, 'first')");
$first = sleeper('units_gone', "SELECT (coupon_issue($c, 'a')).status");
sql("SELECT coupon_revoke($c, 'first', 'reason')");
sql("SELECT coupon_issue($c, 'second')");
# who is told sold_out has heard it twice: to sleep there again
arm($node, 'units_gone', 'sleep');
poll_until('the second look', sub { fired($node, 'units_gone') == $slept + 2 });
sql("SELECT coupon_revoke($c, 'second', 'reason')");
release($node, 'units_gone');
is(answer($first), 'issued', 'nobody is told sold_out of a unit that came back while it was said');
conserved($node, 'postgres', 'verdict');

# ---- it comes back by a rollback, between the two counts of the look ----

$c = campaign(1);
sold_out($c);
sql("SELECT coupon_revoke($c, 'returns', 'reason')");
$holder = $node->background_psql('postgres');
$holder->query_safe("BEGIN; SELECT coupon_issue($c, 'rolls back')");
$first = sleeper('none_free', "SET coupon.sold_out_wait = '60s'; SELECT (coupon_issue($c, 'a')).status");
$holder->query_safe('ROLLBACK');
release($node, 'none_free');
is(answer($first), 'issued', 'nor of one that a rollback gave back meanwhile');

# ---- a unit is taken while others look: the bit is set, nothing is counted ----

$c = campaign(1);
sold_out($c);
sql("SELECT coupon_revoke($c, 'returns', 'reason')");
$holder->query_safe('SELECT pg_advisory_lock(1)');
$second = sleeper('unit_marked', "BEGIN; SELECT (coupon_issue($c, 'slow')).status; SELECT pg_advisory_xact_lock_shared(1); ROLLBACK");
my $looks = sql(q{SELECT reached FROM fault.points() WHERE point = 'units_missed'});
$first = start_sql($node, "SELECT fault.arm('none_free', 'sleep', pid => pg_backend_pid()) \\g /dev/null
	SET coupon.sold_out_wait = 0; SELECT (coupon_issue($c, 'a')).status");
poll_until('the look', sub {
	$first->{run}->pump_nb;
	return $first->{out} ne '' || sql(q{SELECT asleep FROM fault.points() WHERE point = 'none_free'}) ||
	  sql(qq{SELECT reached > $looks + 20 FROM fault.points() WHERE point = 'units_missed'}) eq 't'; });
release($node, 'unit_marked');
await_true($node, 'postgres', q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted});
release($node, 'none_free');
is(answer($first), 'busy', 'nor of one that is in flight');
$holder->query_safe('SELECT pg_advisory_unlock(1)');
answer($second);
is(sql("SELECT (coupon_issue($c, 'b')).status"), 'issued', 'and it is to be had when it is back');
conserved($node, 'postgres', 'in flight');

# ---- a hold runs out, and its unit is in flight ----

$c = campaign(1);
sql("SELECT coupon_hold($c, 1, 'holder', '1 s')");
is(sql("SELECT (coupon_issue($c, 'a')).status"), 'sold_out', 'sold_out while the last unit is held');
poll_until('the hold has run out', sub { sql("SELECT held_until <= clock_timestamp() FROM coupon.issuance WHERE campaign_id = $c") eq 't' });
$holder->query_safe("BEGIN; SELECT coupon_issue($c, 'takes over')");
is(sql("SET coupon.sold_out_wait = 0; SELECT (coupon_issue($c, 'a')).status"), 'busy', '  not any more while another takes it over');
$holder->query_safe('ROLLBACK');
is(sql("SELECT (coupon_issue($c, 'a')).status"), 'issued', '  and to be had when that is undone');
conserved($node, 'postgres', 'taken over');

# ---- the map is checked while a unit comes back and is taken again ----

$c = campaign(2, 2);
sql("SELECT count(*) FROM coupon_issue_many($c, '{x,y}')");
my $hints = sql('SELECT sum(false_hints) FROM coupon.stat_stock');
$first = sleeper('shard_copied', "SET coupon.sold_out_wait = 0; SELECT (coupon_issue($c, 'a')).status");
sql("SELECT coupon_revoke($c, 'x', 'reason')");
arm($node, 'shard_checked', 'sleep');
release($node, 'shard_copied');
asleep($node, 'shard_checked');
is(sql("SELECT (coupon_issue($c, 'z')).status"), 'issued', 'a unit that came back is sold again');
release($node, 'shard_checked');
like(answer($first), qr/^(busy|sold_out)$/, 'which whoever checks the map learns');
is(sql('SELECT sum(false_hints) FROM coupon.stat_stock'), $hints, '  so that the map offers nobody what is sold');
conserved($node, 'postgres', 'checking');

# ---- who waits for a unit is told when it has gone ----

$c = campaign(1);
$holder->query_safe("BEGIN; SELECT coupon_issue($c, 'takes it')");
$first = waiter("SET coupon.sold_out_wait = '60s'; SET statement_timeout = $soon; SELECT (coupon_issue($c, 'a')).status");
$holder->query_safe('COMMIT');
is(answer($first), 'sold_out', 'who waits for the last unit is woken when it has gone');

# ---- two calls with one key ----

$c = campaign(10, 5);
$first = sleeper('key_unused', "SELECT (coupon_issue($c, 'u', 'key')).serial");
$second = waiter("SELECT (coupon_issue($c, 'u', 'key')).serial");
release($node, 'key_unused');
is(answer($first), answer($second), 'two calls with one key get one unit');
is(sql("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $c"), 1, '  and no more');

# ---- two deliveries of one payment that is too late ----

$c = campaign(1);
sql("SELECT coupon_hold($c, 1, 'late', '1 ms')");
poll_until('another has the unit', sub { sql("SELECT (coupon_issue($c, 'other')).status") =~ /issued/ });
$first = sleeper('payment_refused', "SELECT (coupon_confirm($c, 1, 'late', 'payment')).status");
$second = waiter("SELECT (coupon_confirm($c, 1, 'late', 'payment')).status");
release($node, 'payment_refused');
is(answer($first) . ' ' . answer($second), 'lost lost', 'a late payment is refused, however often it comes');
is(sql("SELECT count(*) FROM coupon.outbox WHERE type = 'coupon.confirm_refused' AND key = 'late'"), 1, '  and given back once');

# ---- grouped calls are answered when they are committed ----

$c = campaign(10);
poll_until('a worker', sub { sql("SELECT (coupon_issue_grouped($c, 'warm')).status") =~ /issued/ });
arm($node, 'calls_carried_out', 'sleep');
$first = start_sql($node, "SELECT (coupon_issue_grouped($c, 'grouped')).status");
asleep($node, 'calls_carried_out');
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'coupon group%'});
answer($first);
is(sql("SELECT count(*) FROM coupon.issuance WHERE campaign_id = $c AND user_id = 'grouped'"),
	($first->{out} =~ /issued/ ? 1 : 0), 'a grouped call whose worker ended is told issued only with its row');

# ---- units get codes while one of them is being issued ----

for my $call ("coupon_issue(CAMPAIGN, 'u')", "coupon_hold_any(CAMPAIGN, 'u')", "coupon_issue_many(CAMPAIGN, '{u,v}')")
{
	$c = campaign(2);
	$first = sleeper('unit_taken', 'SELECT (' . $call =~ s/CAMPAIGN/$c/r . ').status');
	sql("SELECT coupon_codes_import($c, '{A,B}')");
	release($node, 'unit_taken');
	like(answer($first), qr/ERROR:  the units of campaign $c have got labels meanwhile/, "$call gets no unit without its code");
	is(sql("SELECT code IN ('A', 'B') FROM coupon_issue($c, 'u')"), 't', '  and one with it, when it is called again');
	conserved($node, 'postgres', $call);
}

# ---- a draw is committed, and the line has yet to hear of it ----

sql(q{SELECT coupon_room_create('lots', 1, session_ttl => '1 h', idle_ttl => '1 h', method => 'random', opens_at => clock_timestamp() + interval '0.1 s'),
	coupon_room_create('other', 1); SELECT coupon_room_pause('lots')});
sql(q{CREATE TABLE drawer AS SELECT j.token FROM generate_series(1, 40) g, coupon_queue_join('lots', 'l' || g) j});
my $places = q{SELECT string_agg(coalesce(p.queue_position::text, '-'), ' ') FROM (SELECT token FROM drawer ORDER BY ctid) d, coupon_queue_position(d.token) p};
arm($node, 'line_behind', 'sleep', pid => sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'coupon room worker'}));
sql(q{SELECT coupon_room_resume('lots')});
asleep($node, 'line_behind');
# whoever reads the room now sees that it has drawn
sql(q{SELECT coupon_room_alter('other', capacity => 2); SELECT coupon_queue_join('lots', 'late')});
my $told = sql($places);
release($node, 'line_behind');
poll_until('the draw', sub { sql($places) !~ /-/ });
is($told, join(' ', ('-') x 40), 'nobody is told a place by the order in which they came, which is not theirs');

# ---- a savepoint that was released belongs to the one around it ----

$c = campaign(2);
$holder->query_safe("BEGIN; SAVEPOINT a; SELECT coupon_issue($c, 'kept'); RELEASE a; SAVEPOINT b; SELECT coupon_issue($c, 'gone'); ROLLBACK TO b");
is(sql("SELECT (coupon_issue($c, 'next')).status || remaining FROM coupon_status($c)"), 'issued1', 'a rollback gives back what its own savepoint took');
$holder->query_safe('COMMIT');
conserved($node, 'postgres', 'savepoints');

# ---- a user's row is changed while their units are counted ----

$c = campaign(4, 2);
sql("SELECT coupon_issue($c, 'u')");
$first = start_sql($node, "SELECT coupon_hold($c, 4, 'other') \\g /dev/null
	SELECT fault.arm('entry_read', 'sleep', pid => pg_backend_pid()) \\g /dev/null
	SELECT (coupon_hold($c, 3, 'u')).status");
asleep($node, 'entry_read');
is(sql("SELECT (coupon_redeem($c, 'u', 'order')).status"), 'redeemed', 'a unit is redeemed while its user holds another');
release($node, 'entry_read');
is(answer($first), 'held', '  who is told nothing of that');
conserved($node, 'postgres', 'counting');

# ---- many come at the opening of a sale, and there is memory for one filter more ----

$holder->quit;
$node->restart;	# no campaign has a filter
$c = campaign(1100000);
my $others = sql("SELECT array_agg(coupon_campaign_create('other', 1100000)) FROM generate_series(1, 7)");
$holder = $node->background_psql('postgres');
$holder->query_safe("BEGIN; SELECT coupon_issue(o, 'u') FROM unnest('$others'::bigint[]) o");
$first = sleeper('filter_unknown', "SELECT (coupon_issue($c, 'first')).status");
is(sql("SELECT (coupon_issue($c, 'second')).status"), 'issued', 'who comes while a filter of users is made does not wait for it');
release($node, 'filter_unknown');
is(answer($first), 'issued', '  nor is it lost');
# look-ups, and what it takes to read a shard from the index
my $scans = sql("BEGIN; SELECT count(coupon_issue($c, 'new ' || g)) FROM generate_series(1, 100) g \\g /dev/null
	SELECT idx_scan FROM pg_stat_xact_user_tables WHERE relname = 'issuance'; COMMIT");
cmp_ok($scans, '<', 50, '  but saves looking for those who are new');
is(sql("SELECT (coupon_issue($c, 'second')).status"), 'already_issued', 'who came meanwhile has one');
$holder->query_safe('ROLLBACK');
conserved($node, 'postgres', 'filter');

$holder->quit;
$node->stop;
done_testing();
