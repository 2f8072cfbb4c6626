# Recovery to a point in time, as doc/operations.md tells of it: what was
# answered afterwards is free again, its events can be told from the new ones
# by their ids, and whoever had a unit can be given the same one again.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('primary', "wal_keep_size = 0\n", has_archiving => 1, allows_streaming => 1);
my $events = q{SELECT id, type, payload ->> 'user_id' FROM coupon.outbox ORDER BY id};

$node->safe_psql('postgres', q{
	SELECT coupon_campaign_create('sale', 10);
	SELECT coupon_issue_many(1, '{a,b}'::text[])});
$node->backup('base');
$node->safe_psql('postgres', q{SELECT coupon_issue(1, 'c')});
my $kept = $node->safe_psql('postgres', $events);
$node->safe_psql('postgres', q{SELECT pg_create_restore_point('before the mistake')});
my ($status, $serial) = split /\|/, $node->safe_psql('postgres', q{SELECT status, serial FROM coupon_issue(1, 'late')});
$node->safe_psql('postgres', q{SELECT coupon_redeem(1, 'late', 'order'), coupon_issue(1, 'later')});
my @lost = (split /\n/, $node->safe_psql('postgres', $events))[ scalar(split /\n/, $kept) .. 6 ];
is(scalar @lost, 3, 'three events that the copy will not know');
my $segment = $node->safe_psql('postgres', 'SELECT pg_walfile_name(pg_switch_wal())');
await_true($node, 'postgres', "SELECT last_archived_wal >= '$segment' FROM pg_stat_archiver");

my $copy = PostgreSQL::Test::Cluster->new('recovered');
$copy->init_from_backup($node, 'base', has_restoring => 1, standby => 0);
$copy->append_conf('postgresql.conf', <<'END');
coupon.databases = ''
coupon.kafka_brokers = ''
coupon.http_listen = ''
recovery_target_name = 'before the mistake'
recovery_target_action = promote
END
$copy->start;
await_true($copy, 'postgres', 'SELECT NOT pg_is_in_recovery()');
is($copy->safe_psql('postgres', $events), $kept, 'the events of before, under their ids');
is($copy->safe_psql('postgres', 'SELECT issued, remaining FROM coupon_status(1)'), '3|7', 'what came later is free again');
is($copy->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'coupon%' AND datname IS NOT NULL}), '0', 'nothing works on the copy');

is($copy->safe_psql('postgres', qq{SELECT h.status, c.status FROM coupon_hold(1, $serial, 'late') h, LATERAL coupon_confirm(1, h.serial, 'late', 'recovered') c}),
	'held|confirmed', 'the same unit for the same user');
is($copy->safe_psql('postgres', q{SELECT status FROM coupon_redeem(1, 'late', 'order')}), 'redeemed', 'and for the same order');
my @new = (split /\n/, $copy->safe_psql('postgres', $events))[ scalar(split /\n/, $kept) .. 5 ];
is(join(' ', grep { $_ le $lost[-1] } @new), '', 'new ids are above those that were lost');
is($copy->safe_psql('postgres', q{SELECT count(*) FILTER (WHERE status = 'issued') FROM coupon_issue_many(1, ARRAY(SELECT 'n' || g FROM generate_series(1, 9) g))}),
	'6', 'exactly the rest is sold');
conserved($copy, 'postgres', 'recovered');

$copy->stop;
$node->stop;
server_log_is_clean($copy, 'recovery');
done_testing();
