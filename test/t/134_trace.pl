# Tracing: a traceparent of W3C trace context, by a setting and over HTTP, goes
# with the events of its call into the outbox, to the broker and into the dead
# letters, and into the log lines of the session.  What is none is an ERROR as a
# setting, and ignored as a header; without one there is nothing.
use strict;
use warnings;

use CouponKafka;
use CouponNginx qw(free_port);
use CouponTest;
use HTTP::Tiny;
use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $port = free_port();
my $node = new_server('trace', <<"END");
coupon.http_listen = '127.0.0.1:$port'
coupon.http_role = 'coupon_service'
END

sub sql { return $node->safe_psql('postgres', shift) }

# trace(n): a traceparent of its own for each call
sub trace { return sprintf '00-%032x-%016x-01', 0xabc000 + $_[0], 0xdef000 + $_[0] }

# traced(n, sql): in a session of that trace
sub traced
{
	my ($n, $sql) = @_;

	return sql("SET coupon.traceparent = '" . trace($n) . "'; $sql");
}

# of(key): "type trace" of the events of a key, in order; - is none
sub of
{
	my ($key) = @_;
	my $events = sql("SELECT type || ' ' || coalesce(traceparent, '-') FROM coupon.outbox WHERE key = '$key' ORDER BY id");

	for my $n (reverse 1 .. 99)
	{
		my $trace = trace($n);
		$events =~ s/\Q$trace\E/$n/g;
	}
	return $events =~ s/coupon[.]//gr =~ s/\n/, /gr;
}

# ---- the setting ----

my $valid = trace(1);
for my $bad (
	'x', substr($valid, 0, 54), "$valid-", "${valid}0", uc $valid, $valid =~ s/^00/ff/r, $valid =~ s/^00/0g/r,
	'00-' . '0' x 32 . '-00f067aa0ba902b7-01', '00-4bf92f3577b34da6a3ce929d0e0e4736-' . '0' x 16 . '-01',
	'00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0', "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
	" $valid", "$valid\n")
{
	my $error = sql_error($node, 'postgres', "SET coupon.traceparent = '$bad'");
	like($error, qr/22023.*DETAIL:.*00-<trace id, 32 digits>.*HINT:/s, "no traceparent: " . $bad =~ s/\n/\\n/r);
}
is(sql("SET coupon.traceparent = ''; SELECT 'ok'"), 'ok', 'nothing is none');

my $c = sql(q{SELECT coupon_campaign_create('c', 100, per_user_limit => 2)});
sql("SELECT coupon_issue($c, 'none')");
is(of('none'), 'issued -', 'without a trace there is none');
traced(1, "SELECT coupon_issue($c, 'alice')");
traced(2, "SELECT coupon_redeem($c, 'alice', 'order-1')");
traced(3, "SELECT coupon_redeem_cancel($c, 'alice', 'order-1'); SELECT coupon_revoke($c, 'alice', 'mistake')");
is(of('alice'), 'issued 1, redeemed 2, redeem_cancelled 3, revoked 3', 'each event has the trace of its call');
traced(4, "SELECT coupon_issue_many($c, '{many,more}')");
is(of('more'), 'issued 4', 'of many');
traced(5, "SELECT coupon_hold_any($c, 'holder', '1 min')");
traced(6, "SELECT coupon_confirm($c, (SELECT serial FROM coupon.issuance WHERE user_id = 'holder'), 'holder', 'ref')");
traced(7, "SELECT coupon_confirm($c, (SELECT serial FROM coupon.issuance WHERE user_id = 'holder'), 'holder', 'other')");
is(of('holder'), 'held 5, confirmed 6, confirm_refused 7', 'a hold, its payment and one that was refused');
traced(8, "SELECT coupon_hold_any($c, 'leaver', '1 min')");
traced(9, "SELECT coupon_release($c, (SELECT serial FROM coupon.issuance WHERE user_id = 'leaver'), 'leaver')");
is(of('leaver'), 'held 8, hold_released 9', 'and its release');
traced(10, "SELECT coupon_hold_any($c, 'late', '1 ms')");
poll_until('a hold that runs out', sub { traced(11, 'SELECT coupon_hold_expire()'); of('late') =~ /expired/ });
is(of('late'), 'held 10, hold_expired -', 'what time has ended is of no call');
traced(12, q{SELECT coupon_emit('t', 'mine', 'my.type', '{}')});
is(of('mine'), 'my.type 12', q{the application's own events});
traced(13, "SELECT coupon_campaign_pause($c); SELECT coupon_campaign_resume($c)");
like(of($c), qr/campaign_created -, campaign_paused 13, campaign_resumed 13/, q{the campaign's});
sql("BEGIN; SET LOCAL coupon.traceparent = '" . trace(14) . "'; SELECT coupon_issue($c, 'local'); COMMIT; SELECT coupon_issue($c, 'after')");
is(of('local') . ', ' . of('after'), 'issued 14, issued -', 'SET LOCAL is of its transaction');
sql('SET coupon.traceparent = \'cc' . substr(trace(15), 2, 51) . "f1-what-is-new'; SELECT coupon_issue($c, 'later')");
is(of('later'), 'issued 15', 'of a later version, what this one knows');

# ---- workers ----

poll_until('the group worker', sub { try_sql($node, 'postgres', "SET coupon.traceparent = '" . trace(16) . "'; SELECT coupon_issue_grouped($c, 'grouped')") });
traced(17, "SELECT coupon_issue_grouped($c, 'grouped-2')");
sql("SELECT coupon_issue_grouped($c, 'grouped-3')");
is(join(', ', map { of($_) } qw(grouped grouped-2 grouped-3)), 'issued 16, issued 17, issued -', q{grouped calls: each its caller's});
traced(18, "SELECT coupon_request($c, 'asker')");
poll_until('its decision', sub { of('asker') ne '' });
is(of('asker'), 'issued 18', 'a request: that of the call that was accepted');

# ---- the log ----

my $from = -s $node->logfile;
traced(20, q{SELECT 1});
sql_error($node, 'postgres', "SET coupon.traceparent = '" . trace(20) . "'; SELECT coupon_issue(999, 'x')");
sql_error($node, 'postgres', q{SELECT coupon_issue(998, 'x')});
my @lines = grep { /CONTEXT:  traceparent/ } split /\n/, slurp_file($node->logfile, $from);
is(scalar(@lines), 1, q{one session's error has its trace, another's has none});
like($lines[0] // '', qr/\Q${\ trace(20)}\E/, '  which it is');
$from = -s $node->logfile;
sql_error($node, 'postgres', "SET coupon.traceparent = '" . trace(21) . q{'; DO $$ BEGIN PERFORM 1 / 0; END $$});
like(slurp_file($node->logfile, $from), qr/CONTEXT:.*DO.*|PL\/pgSQL.*\n.*traceparent \Q${\ trace(21)}\E/, 'below the context that it has anyway');

# ---- HTTP ----

my $http = HTTP::Tiny->new(timeout => CouponTest::PATIENCE, keep_alive => 0);
my $json = JSON::PP->new->canonical;

sub post
{
	my ($path, $body, $trace) = @_;

	return $http->post("http://127.0.0.1:$port$path", {
			headers => { 'Content-Type' => 'application/json', defined $trace ? (traceparent => $trace) : () },
			content => $json->encode($body) })->{status};
}

poll_until('the front', sub { $http->get("http://127.0.0.1:$port/readyz")->{status} == 200 });
is(post("/campaigns/$c/issues", { user_id => 'h1' }, trace(30)), 201, 'an issue over HTTP');
is(post("/campaigns/$c/issues", { user_id => 'h2' }, 'no-trace'), 201, '  with a bad header');
is(post("/campaigns/$c/issues", { user_id => 'h3' }), 201, '  with none');
is(join(', ', map { of($_) } qw(h1 h2 h3)), 'issued 30, issued -, issued -', q{  each its own, what is none is ignored});
is(post("/campaigns/$c/requests", { user_id => 'h4' }, trace(31)), 202, 'a request over HTTP');
is(post("/campaigns/$c/holds", { user_id => 'h5' }, trace(32)), 201, 'a hold over HTTP');
is(post("/campaigns/$c/holds", { user_id => 'h6' }), 201, '  and one with no trace, of the same worker');
poll_until('its decision', sub { of('h4') ne '' });
is(join(', ', map { of($_) } qw(h4 h5 h6)), 'issued 31, held 32, held -', '  have it');
is(post("/campaigns/$c/issues", { user_id => 'h7', traceparent => 'x' }, trace(33)), 201, 'a body can name one, too');
is(of('h7'), 'issued -', '  and what it names is looked at alike');

# calls that come at the same moment are one batch, and keep their own
{
	my @sockets = map { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die "connect: $!" } 1 .. 20;

	for my $i (0 .. $#sockets)
	{
		my $body = $json->encode({ user_id => "b$i" });
		my $header = $i % 4 == 3 ? '' : 'traceparent: ' . trace(40 + $i) . "\r\n";
		$header x= 2 if $i % 4 == 2;
		$sockets[$i]->syswrite("POST /campaigns/$c/issues HTTP/1.1\r\nHost: x\r\nConnection: close\r\n$header"
			. 'Content-Type: application/json' . "\r\nContent-Length: " . length($body) . "\r\n\r\n$body");
	}
	for my $socket (@sockets)
	{
		local $/;
		like(scalar <$socket>, qr/^HTTP\/1.1 201 /, 'issued') or last;
	}
	is(join(', ', map { of("b$_") } 0 .. 19), join(', ', map { 'issued ' . ($_ % 4 > 1 ? '-' : 40 + $_) } 0 .. 19),
		'calls of a batch keep their own; two headers are none');
}

# a plain function of the application, and the log of what fails
sql(<<'END');
CREATE FUNCTION break(what text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING MESSAGE = what, ERRCODE = 'XX000'; END $$;
CREATE FUNCTION own() RETURNS text LANGUAGE sql AS $$ SELECT current_setting('coupon.traceparent') $$;
GRANT EXECUTE ON FUNCTION break(text), own() TO PUBLIC;
SELECT coupon_route_add('POST', '/break', 'break(text)');
SELECT coupon_route_add('POST', '/own', 'own()');
END
poll_until('the routes', sub { post('/own', {}) == 200 });
is($http->post("http://127.0.0.1:$port/own", { headers => { traceparent => trace(34) } })->{content}, '"' . trace(34) . '"', 'a plain function finds it in the setting');
is($http->post("http://127.0.0.1:$port/own")->{content}, '""', '  and not in the next call');
$from = -s $node->logfile;
is(post('/break', { what => 'broken' }, trace(35)), 500, 'a function that fails');
like(slurp_file($node->logfile, $from), qr/POST \/break failed: broken\n.*traceparent \Q${\ trace(35)}\E/, q{  the front's line names the trace});

# ---- the broker ----

# the memory of a line's context is no longer there when the line is written
is(traced(40, q{DO $$ BEGIN FOR i IN 1 .. 1000 LOOP RAISE LOG 'line %', i; END LOOP; END $$;
	SELECT used_bytes < 20000 FROM pg_backend_memory_contexts WHERE name = 'ErrorContext'}), 't', 'lines of the log leave nothing in memory');

SKIP:
{
	my $missing = kafka_tools_missing();
	skip $missing, 4 if $missing;
	my $broker = mock_broker(topics => { map { $_ => 12 } qw(coupon-issued coupon-issued.DLT t t.DLT) });

	traced(50, q{SELECT coupon_emit('t', 'big', 'big', to_jsonb(repeat('x', 1200000)))});
	alter_system($node, 'coupon.kafka_brokers' => $broker->bootstrap);
	poll_until('the events', sub { sql('SELECT unpublished FROM coupon_outbox_status()') == 0 });
	my %trace;
	for my $topic (qw(coupon-issued t t.DLT))
	{
		for my $event (@{ consume($broker->bootstrap, $topic) })
		{
			my %headers = @{ $event->{headers} };
			$trace{"$topic $event->{key}"} //= $headers{traceparent} // '-';
		}
	}
	is($trace{'coupon-issued asker'}, trace(18), q{Kafka's record has it as a header});
	is($trace{'coupon-issued none'}, '-', '  and none where there was none');
	is($trace{'t.DLT big'}, trace(50), '  the message about a dead letter has it');
	is(sql('SELECT traceparent FROM coupon.dead_letter'), trace(50), '  and the dead letter');
	alter_system($node, 'coupon.kafka_brokers' => '');
	poll_until('no publisher', sub { sql('SELECT broker FROM coupon_outbox_status()') eq 'off' });
	sql('SELECT coupon_dead_letter_replay()');
	is(of('big'), 'big 50', '  also when it goes once more');
}

$node->stop;
done_testing();
