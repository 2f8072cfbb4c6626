# coupon_metrics(): what Prometheus reads, whoever asks, on whatever server.
use strict;
use warnings;

use CouponNginx qw(free_port);
use CouponTest;
use HTTP::Tiny;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $port = free_port();
my $node = new_server('metrics', <<"END", allows_streaming => 1);
coupon.databases = 'postgres'
coupon.http_listen = '127.0.0.1:$port'
END

sub sql { return $node->safe_psql('postgres', shift) }

# metrics(node): name and labels => value
sub metrics
{
	my ($server) = @_;
	my $text = ($server // $node)->safe_psql('postgres', 'SELECT coupon_metrics()');

	return ($text, { map { /^(coupon.*) (\S+)$/ ? ($1 => $2) : () } split /\n/, $text });
}

sql(q{SELECT coupon_campaign_create(E'a "name" \\\\ with\nmuch {in="it"} 한국', 100);
	SELECT coupon_campaign_create('later', 100, opens_at => now() + interval '1 hour', closes_at => now() + interval '2 hours');
	SELECT coupon_room_create(E'a "room" \\\\ too', 5);
	SELECT coupon_issue(1, 'secret-user'), coupon_issue(1, 'secret-user'), coupon_request(1, 'secret-requester', 'secret-key');
	SELECT coupon_queue_join(E'a "room" \\\\ too', 'secret-visitor')});
$node->psql('postgres', q{SELECT coupon_issue(999, 'nobody')});
poll_until('the decision', sub { sql('SELECT count(*) FROM coupon.request WHERE decided_at IS NULL') eq '0' });
poll_until('the front', sub { HTTP::Tiny->new->get("http://127.0.0.1:$port/metrics")->{status} == 200 });

# ---- the format ----

my ($text, $samples) = metrics();
like($text, qr/\A# HELP /, 'it begins with the first family');
is(scalar(grep { !/^(# HELP coupon_[a-z_]+ \S.*|# TYPE coupon_[a-z_]+ (counter|gauge|histogram)|coupon_[a-z_]+(\{([a-z_]+="([^"\\]|\\\\|\\"|\\n)*",?)+\})? -?[0-9.e+-]+)$/ } split /\n/, $text),
	0, 'every line is of the format') or diag(join "\n", (grep { !/^#|^coupon_[a-z_]+(\{.*\})? \S+$/ } split /\n/, $text)[ 0 .. 5 ]);
like($text, qr/^coupon_campaign_info\{campaign="1",name="a \\"name\\" \\\\ with\\nmuch \{in=\\"it\\"\} 한국",state="open"\} 1$/m, 'a hostile name is escaped');
like($text, qr/^coupon_room_capacity\{room="a \\"room\\" \\\\ too"\} 5$/m, '  and a room\'s');
unlike($text, qr/secret/, 'no user and no request is in it');
is(join(' ', sort keys %{ { map { $_ => 1 } $text =~ /[{,]([a-z_]+)="(?:[^"\\]|\\.)*"/g } }),
	'campaign class kind le name outcome reason room state way', 'the labels that there are');
is(sql('SELECT string_agg(DISTINCT family, \' \') FROM coupon.metric_samples() WHERE family NOT IN (SELECT family FROM coupon.metric_families())'),
	'', 'every sample has its family');
is(sql('SELECT string_agg(family, \' \') FROM coupon.metric_families() WHERE family NOT IN (SELECT family FROM coupon.metric_samples())'),
	'', 'and every family its samples');
is(sql(q{SELECT string_agg(family, ' ') FROM coupon.metric_families() WHERE (kind = 'counter') <> (family LIKE '%\_total')}), '', 'counters, and they alone, end in _total');

SKIP:
{
	my ($promtool) = grep { -x $_ } map { "$_/promtool" } split /:/, $ENV{PATH};

	skip 'skipped: no promtool (Debian: prometheus)', 1 unless $promtool;
	my $out = '';
	my $in = "$text\n";
	IPC::Run::run([ $promtool, 'check', 'metrics' ], '<', \$in, '>&', \$out, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	is("$? $out", '0 ', 'promtool finds nothing wrong');
}

# ---- what it says ----

my %expected = (
	'coupon_up' => 1,
	'coupon_calls_total{way="issue",outcome="issued"}' => 1,
	'coupon_calls_total{way="issue",outcome="already_issued"}' => 1,
	'coupon_calls_total{way="issue",outcome="sold_out"}' => 0,
	'coupon_calls_total{way="issue",outcome="error"}' => 1,
	'coupon_call_errors_total{way="issue",class="UC"}' => 1,
	'coupon_calls_total{way="request",outcome="accepted"}' => 1,
	'coupon_calls_total{way="decision",outcome="issued"}' => 1,
	'coupon_call_duration_seconds_count{way="issue"}' => 3,
	'coupon_call_duration_seconds_bucket{way="issue",le="+Inf"}' => 3,
	'coupon_campaigns{state="open"}' => 1,
	'coupon_campaigns{state="not_open"}' => 1,
	'coupon_campaigns{state="closed"}' => 0,
	'coupon_campaign_answers_total{campaign="1",outcome="issued"}' => 2,
	'coupon_campaign_issued{campaign="1"}' => 2,
	'coupon_campaign_remaining{campaign="1"}' => 98,
	'coupon_campaign_open{campaign="1"}' => 1,
	'coupon_campaign_open{campaign="2"}' => 0,
	'coupon_requests_decided_total{campaign="1"}' => 1,
	'coupon_publisher_configured' => 0,
	(map { ("coupon_workers{kind=\"$_\"}" => 1, "coupon_workers_wanted{kind=\"$_\"}" => 1) } 'sweeper', 'issuer', 'room worker', 'group', 'publisher', 'front'),
	'coupon_sessions_limit' => 100);
is_deeply({ map { $_ => $samples->{$_} } keys %expected }, \%expected, 'what it says');
is(join(', ', sort $text =~ /^coupon_workers\{kind="([^"]*)"\}/mg), sql(q{SELECT string_agg(replace(k, 'coupon ', ''), ', ' ORDER BY replace(k, 'coupon ', '') COLLATE "C")
	FROM coupon.health_facts() f, unnest(f.kinds || 'coupon front'::text) k}), 'workers of every kind');
is(HTTP::Tiny->new->get("http://127.0.0.1:$port/metrics")->{headers}{'content-type'}, 'text/plain; version=0.0.4; charset=utf-8', 'the front serves it as what it is');
sql(q{SELECT coupon_campaign_pause(1)});
is((metrics())[1]{'coupon_campaigns{state="paused"}'}, 1, 'a paused campaign');
sql(q{SELECT coupon_campaign_resume(1)});

# ---- labels are bounded ----

sql(q{SELECT count(coupon_campaign_create('c' || i, 10)) FROM generate_series(1, 120) i;
	SELECT count(coupon_issue(i, 'u')) FROM generate_series(3, 122) i;
	SELECT count(coupon_room_create('r' || i, 1)) FROM generate_series(1, 110) i});
($text, $samples) = metrics();
for my $label (qw(campaign room))
{
	my %values = map { $_ => 1 } $text =~ /^coupon_\w+\{$label="((?:[^"\\]|\\.)*)"/mg;
	is(scalar(keys %values), $label eq 'campaign' ? 101 : 100, "$label: 100 at most" . ($label eq 'campaign' ? ', and other' : ''));
}
my $issued = 0;
$issued += $samples->{$_} for grep { /^coupon_campaign_answers_total\{.*outcome="issued"/ } keys %$samples;
is($issued, sql(q{SELECT sum(answered_issued) FROM coupon.stat_campaign}), 'the answers of all campaigns are in it');
ok(!exists $samples->{'coupon_campaign_stock{campaign="2"}'}, 'those that are open come first');
sql(q{SELECT count(coupon_campaign_close(i)) FROM generate_series(3, 122) i});
($text, $samples) = metrics();
is(scalar(grep { /^coupon_campaign_stock\{/ } keys %$samples), 2, 'closed ones are not shown');
is($samples->{'coupon_campaign_answers_total{campaign="other",outcome="issued"}'}, 120, '  but counted');

sql(q{SELECT count(coupon_campaign_create('soon' || i, 10, opens_at => now() + (200 - i) * interval '1 hour')) FROM generate_series(1, 110) i});
($text, $samples) = metrics();
is(join(' ', sort map { /^coupon_campaign_info\{campaign="\d+",name="([^"]*)",/ && $1 =~ /^(later|soon\d+)$/ ? $1 : () } keys %$samples),
	join(' ', sort('later', map { "soon$_" } 13 .. 110)), 'of those that are not yet open the next ones');
ok(exists $samples->{'coupon_campaign_stock{campaign="1"}'}, '  behind those that are');
sql(q{SELECT count(coupon_campaign_close(campaign_id)) FROM coupon.campaign WHERE name LIKE 'soon%'});

# the board shows those that are over as long as it costs nothing
like(HTTP::Tiny->new->get("http://127.0.0.1:$port/board.json")->{content}, qr/"state" : "closed"/, 'the board shows closed ones');
$node->restart;
poll_until('the front', sub { HTTP::Tiny->new->get("http://127.0.0.1:$port/board.json")->{status} == 200 });
is(sql(q{SELECT count(*) FROM coupon.stat_campaign WHERE state = 'closed' AND map_bytes IS NOT NULL}), 0, '  and reads none of them for it after a restart');

# one that is damaged must not hide the others
sql(q{SET session_replication_role = replica; INSERT INTO coupon.campaign (name, per_user_limit, max_per_user_limit, policy, topic) VALUES ('damaged', 1, 1, '{}', 't');
	INSERT INTO coupon.shard SELECT max(campaign_id), 3, 31, 40 FROM coupon.campaign});
($text, $samples) = metrics();
is($samples->{'coupon_campaign_remaining{campaign="1"}'}, 98, 'a damaged campaign does not hide the others');
sql(q{SET session_replication_role = replica; DELETE FROM coupon.shard WHERE shard = 3; DELETE FROM coupon.campaign WHERE name = 'damaged'});

# ---- who may ----

for my $role (qw(reader admin service user))
{
	my $may = $role =~ /reader|admin/ ? 't' : 'f';

	sql("CREATE ROLE a_$role LOGIN IN ROLE coupon_$role");
	is((try_sql($node, 'postgres', "SET ROLE a_$role; SELECT coupon_metrics() LIKE '%coupon_up 1%'") // 'f'), $may, "coupon_$role: coupon_metrics()");
	is(defined try_sql($node, 'postgres', "SET ROLE a_$role; SELECT coupon_stat_reset()") ? 't' : 'f', $role eq 'admin' ? 't' : 'f', "coupon_$role: coupon_stat_reset()");
	my $views = sql(q{SELECT string_agg(oid::regclass::text, ' ') FROM pg_class WHERE relnamespace = 'coupon'::regnamespace AND relname LIKE 'stat\_%' AND relkind = 'v'});
	is(scalar(grep { !defined try_sql($node, 'postgres', "SET ROLE a_$role; SELECT count(*) FROM (SELECT * FROM $_ LIMIT 100) v") } split ' ', $views), $role eq 'user' ? 13 : 0, "coupon_$role: the views");
}

# ---- a standby ----

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('metrics_standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "coupon.http_listen = ''\n");
$standby->start;
($text, $samples) = metrics($standby);
is($samples->{coupon_up}, 0, 'a standby says that it does not sell');
is(scalar(grep { /^coupon_(campaign|room|outbox|requests)/ } keys %$samples), 0, '  and nothing of a sale');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM coupon.stat_call WHERE calls > 0}), 0, '  its calls are its own');
$standby->stop;

conserved($node, 'postgres', 'metrics');
server_log_is_clean($node, 'metrics');
$node->stop;
done_testing();
