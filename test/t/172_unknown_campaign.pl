# A campaign that is made while slots are about to move is known to one node only: the
# slots stay, with a word in the log, until it is shared.
use strict;
use warnings;

use CouponCluster;
use CouponTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $cluster = CouponCluster->new(nodes => [qw(one two)], proxy => 0, settings => "coupon.cluster = on\n");
my $one = $cluster->server('one');
ok(await_true($cluster->server($_), 'postgres', 'SELECT coupon.node_confirmed()'), "node $_ is confirmed") for $cluster->names;

my $user = $cluster->on('one', q{SELECT 'u' || g FROM generate_series(1, 100000) g WHERE coupon_slot('u' || g) = 0 LIMIT 1});
$one->psql('postgres', qq{
	BEGIN;
	SELECT coupon_slots_move(2, 3);
	SELECT coupon_campaign_create('alone', 10) AS campaign \\gset
	SELECT coupon_issue(:campaign, '$user');
	COMMIT});
my $campaign = $cluster->on('one', q{SELECT campaign_id FROM coupon.campaign WHERE name = 'alone'});
is($cluster->on('one', "SELECT status FROM coupon_issue($campaign, '$user')"), 'already_issued', 'a user of a slot that is to move has a unit of a campaign of this node');

poll_until('a word in the log', sub { slurp_file($one->logfile) =~ /slots cannot move now/ });
is($cluster->on('one', 'SELECT count(*) FROM coupon.slot_plan'), '3', 'the slots are still to move');
is($cluster->on('one', 'SELECT count(*) FROM coupon.slot WHERE slot IN (0, 2, 4) AND node_id = 1'), '3', 'and are here');
is($cluster->on('one', "SELECT status FROM coupon_issue($campaign, '$user')"), 'already_issued', 'their users are served');

$cluster->on('one', "SELECT coupon_campaign_share($campaign)");
poll_until('the slots have moved', sub { $cluster->on('two', 'SELECT count(*) FROM coupon.slot WHERE slot IN (0, 2, 4) AND node_id = 2') eq '3' });
is($cluster->on('two', "SELECT status FROM coupon_issue($campaign, '$user')"), 'already_issued', 'with what their users have');
is($cluster->on('one', "SELECT * FROM coupon_cluster_verify($campaign)"), '', 'coupon_cluster_verify finds nothing');

# ---- verify reads all of a campaign, and takes longer than other calls ----
my $lock = $cluster->server('two')->background_psql('postgres');
$lock->query_safe('BEGIN; LOCK TABLE coupon.shard IN ACCESS EXCLUSIVE MODE');
my $verify = $one->background_psql('postgres');
$verify->query_until(qr/began/, "\\echo began\nSELECT law FROM coupon_cluster_verify($campaign);\n");
ok(await_true($cluster->server('two'), 'postgres',
	q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'coupon_node' AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > '1500 ms')}),
	'node two takes longer than coupon.cluster_timeout');
$lock->query_safe('COMMIT');
is($verify->query('SELECT 1'), '1', 'and is not missing');
$_->quit for $lock, $verify;

# ---- a node that takes its time, or does not take slots ----
my $two = $cluster->server('two');
my $given = q{SELECT state || ' ' || coalesce((SELECT problem FROM coupon.node_status WHERE name = 'two'), 'no problem') FROM coupon.slot_parcel ORDER BY noted_at DESC LIMIT 1};
my $asked = q{FROM pg_stat_activity WHERE usename = 'coupon_node' AND wait_event_type = 'Lock'};

$lock = $two->background_psql('postgres');
$lock->query_safe('BEGIN; LOCK TABLE coupon.slot_parcel IN SHARE MODE');
$cluster->on('one', 'SELECT coupon_slots_move(2, 1)');
poll_until('node one says why', sub { $cluster->on('one', $given) eq 'sent no answer in time' });
$lock->query_safe('COMMIT');
poll_until('a node that did not answer is asked again', sub { $cluster->on('one', $given) eq 'done no problem' });

my $rich = $cluster->on('one', q{SELECT 'u' || g FROM generate_series(1, 100000) g
	WHERE coupon_slot('u' || g) = (SELECT min(slot) FROM coupon.slot WHERE node_id = 1) LIMIT 1});
my $large = $cluster->on('one', q{SELECT coupon_campaign_create('large', 5000, 5000)});
$cluster->on('one', "SELECT coupon_campaign_share($large)");
is($cluster->on('one', "SELECT count(*) FROM generate_series(1, 5000) g, LATERAL coupon_issue($large, '$rich' || left(g::text, 0)) i WHERE i.status = 'issued'"), '5000', 'a slot with many rows');
$lock->query_safe('BEGIN; LOCK TABLE coupon.slot_parcel IN SHARE MODE');
$cluster->on('one', 'SELECT coupon_slots_move(2, 1)');
ok(await_true($two, 'postgres', "SELECT EXISTS (SELECT $asked AND clock_timestamp() - query_start > '2500 ms')"), 'it is waited for');
is($cluster->on('two', "SELECT count(*) $asked"), '1', 'and not sent again');
$lock->query_safe('COMMIT');
poll_until('it has moved', sub { $cluster->on('one', $given) eq 'done no problem' });

$cluster->on('two', q{ALTER TABLE coupon.slot_parcel ADD CONSTRAINT full_up CHECK (noted_at < '2000-01-01') NOT VALID});
$cluster->on('one', 'SELECT coupon_slots_move(2, 1)');
poll_until('node one says what node two says', sub { $cluster->on('one', $given) =~ /^sent 23514: .*full_up/ });
$cluster->on('two', 'ALTER TABLE coupon.slot_parcel DROP CONSTRAINT full_up');
poll_until('they are taken', sub { $cluster->on('one', $given) eq 'done no problem' });
is($cluster->on('one', "SELECT * FROM coupon_cluster_verify($large)"), '', 'coupon_cluster_verify finds nothing');
$lock->quit;

done_testing;
