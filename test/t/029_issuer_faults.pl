# Issuers whose requests raise: while the campaign's definition grows, and
# whose rows cannot be written, with others behind them.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# memory that was given back reads as garbage
$ENV{MALLOC_PERTURB_} = 165;
my $node = new_server('faults', "coupon.databases = ''\ncoupon.request_depth = 50000\n");
delete $ENV{MALLOC_PERTURB_};

sub sql { return $node->safe_psql('postgres', $_[0]); }

# A policy that is replaced by a longer one between the look at the campaign
# and the units.  In jsonb numbers are long, so the definition has a piece of
# memory to itself, which goes back to malloc.
sub policy { return qq{jsonb_build_object('attributes', jsonb_build_object('n', array_fill(1, ARRAY[$_[0]])))}; }
my $topic = 'grown-' . 'x' x 100;
my $grown = sql("SELECT coupon_campaign_create('grown', 10, policy => " . policy(800) . ", topic => '$topic')");
sql("ALTER TABLE coupon.issuance ADD CONSTRAINT mine CHECK (user_id <> 'poison') NOT VALID");
sql("SELECT coupon_request($grown, 'poison'::text)");

my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE ONLY coupon.request_0, coupon.request_1 IN SHARE MODE');
my ($out, $err) = ('', '');
my $decider = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'),
		'-c', "SET application_name = 'decider'", '-c', 'SELECT coupon_request_decide(10)' ],
	'>', \$out, '2>', \$err);
poll_until('one who decides, and has looked at the campaign', sub {
	sql(q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'decider' AND wait_event_type = 'Lock'}) eq '1' });
sql("UPDATE coupon.campaign SET policy = " . policy(1300) . " WHERE campaign_id = $grown");
$locker->query_safe('COMMIT');
$locker->quit;
$decider->finish;
is("$out$err", "1\n", 'a request fails after the definition of its campaign has grown');
is(sql("SELECT outcome FROM coupon_request_status_of($grown, 'poison')"), 'failed', 'and ends as failed');
is(sql(q{SELECT topic FROM coupon.outbox WHERE type = 'coupon.request_failed'}), $topic, q{its event has the campaign's topic});
sql('ALTER TABLE coupon.issuance DROP CONSTRAINT mine');

# One whose row cannot be written: how long do as many take with them, and without?
use constant MANY => 15_000;
sql(q{ALTER TABLE coupon.request ADD CONSTRAINT mine CHECK (user_id <> 'stuck' OR outcome IS NULL) NOT VALID});
my ($free, $behind) = split /\n/, sql(q{SELECT coupon_campaign_create('line ' || g, 20000) FROM generate_series(1, 2) g});
sql("SELECT coupon_request($behind, 'stuck'::text)");
alter_system($node, 'coupon.databases' => 'postgres');
my @seconds;
for my $line ($free, $behind)
{
	sql("SELECT count(coupon_request($line, g::text)) FROM generate_series(1, " . MANY . ') g');
	poll_until('the end of many', sub { sql("SELECT count(*) FROM coupon.request WHERE campaign_id = $line AND outcome = 'issued'") eq MANY });
	push @seconds, sql("SELECT round(extract(epoch FROM max(decided_at) - min(decided_at)), 2) FROM coupon.request WHERE campaign_id = $line");
}
# at one batch a second they would be as long as there are batches
cmp_ok($seconds[1], '<', 3 * $seconds[0] + MANY / 1000 / 2,
	"one that is stuck does not slow the others down ($seconds[0] s without, $seconds[1] s with)");

# and one by one
my ($undisturbed, $usual) = map { alone_seconds($node, $_, 15) } $free, $behind;
cmp_ok($usual, '<', 0.7 + 2 * $undisturbed, "nor one who comes alone ($usual s, $undisturbed s in another line)");

# the log is told now and then, not each time
my $begun = time;
my $told = sub { scalar(() = slurp_file($node->logfile) =~ /what became of a coupon request could not be written/g) };
poll_until('the second report', sub { $told->() > 1 });
cmp_ok($told->(), '<', 3 + (time - $begun) / 10 + 60 / 10, 'the log is not told each second: ' . $told->() . ' times');
sql('ALTER TABLE coupon.request DROP CONSTRAINT mine');
poll_until('the one that was stuck', sub { sql("SELECT outcome FROM coupon_request_status_of($behind, 'stuck')") eq 'issued' });
pass('who was stuck is decided when their row can be written');
conserved($node, 'postgres', 'the end');

$node->stop;
server_log_is_clean($node, 'faults');
done_testing();
