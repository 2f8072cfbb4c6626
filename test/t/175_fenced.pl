# A node that has started and that nobody has confirmed yet: it sells nothing, refuses
# with a value or an ERROR that says to try again, and forgets no request.
use strict;
use warnings;

use CouponCluster;
use CouponTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $cluster = CouponCluster->new(nodes => ['one'], proxy => 0, settings => "jit_above_cost = 0\ncoupon.cluster = on\ncoupon.cluster_timeout = 100ms\n");
my $one = $cluster->server('one');
ok(await_true($one, 'postgres', 'SELECT coupon.node_confirmed()'), 'a node alone is confirmed at once');
my $campaign = $cluster->on('one', q{SELECT coupon_cluster_create('a', 1)});

# the last unit is in the hands of a transaction that does not end, so a request waits
my $session = $one->background_psql('postgres', on_error_stop => 0);
is($session->query("BEGIN; SELECT status FROM coupon_issue($campaign, 'ann')"), 'issued', 'the last unit is in flight');
is($cluster->on('one', "SELECT status FROM coupon_request($campaign, 'bob')"), 'WAITING', 'a request waits');
is($cluster->on('one', "SELECT status FROM coupon_request($campaign, 'bob')"), 'WAITING', 'and is not decided');

# it starts again beside a node that does not answer
$cluster->on('one', q{INSERT INTO coupon.node (node_id, name, conninfo) VALUES (2, 'two', 'host=127.0.0.1 port=1 dbname=postgres')});
$one->stop('immediate');
$session->{run}->finish;
$one->start;
is($cluster->on('one', 'SELECT coupon.node_confirmed()'), 'f', 'nobody has confirmed it');
like(sql_error($one, 'postgres', "SELECT coupon_issue($campaign, 'carl');"), qr/UC302.*not confirmed/, 'nothing is issued');
like(sql_error($one, 'postgres', "SELECT coupon_issue_grouped($campaign, 'carl');"), qr/UC302.*not confirmed/, 'by a grouped call neither');
like(sql_error($one, 'postgres', "SELECT coupon_request($campaign, 'carl');"), qr/UC302.*not confirmed/, 'nor accepted');
like($cluster->on('one', "SELECT status || ' ' || body FROM coupon.http_request(ARRAY[$campaign]::bigint[], ARRAY['carl'], NULL::text[], NULL::text[])"),
	qr/^503 .*another node/, 'over HTTP, too: 503');
is($cluster->on('one', 'SELECT coupon_request_decide(100)'), '0', 'whoever waits is not decided');
is($cluster->on('one', "SELECT count(*) FROM coupon.request WHERE campaign_id = $campaign AND decided_at IS NULL"), '1', 'and waits on');

$cluster->on('one', 'DELETE FROM coupon.node WHERE node_id = 2');
ok(await_true($one, 'postgres', 'SELECT coupon.node_confirmed()'), 'it is confirmed');
ok(await_true($one, 'postgres', "SELECT outcome = 'issued' FROM coupon.request WHERE campaign_id = $campaign"), 'and the request gets the unit');

# its worker makes a step ten times a second, for which compiling the statements is too dear
SKIP: {
	my ($worker, $jit) = split /\|/, $cluster->on('one', q{SELECT pid, pg_jit_available() FROM pg_stat_activity WHERE backend_type = 'coupon transfer'});
	skip 'skipped: this server has no JIT, or this system no /proc', 1 unless $jit eq 't' && -r "/proc/$worker/maps";
	unlike(slurp_file("/proc/$worker/maps"), qr/llvmjit/, 'the transfer worker compiles nothing');
}

$one->stop('fast');
done_testing;
