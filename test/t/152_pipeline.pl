# A grouped call that is not alone in its transaction is refused before anything
# is issued, also where only the protocol tells: as the first of a pipeline, of a
# batch, of several statements in a string.
use strict;
use warnings;

use CouponTest;
use IO::Select;
use IO::Socket::UNIX;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main');

sub sql { return $node->safe_psql('postgres', shift) }

poll_until('workers', sub { (try_sql($node, 'postgres', 'SELECT workers FROM coupon_group_status()') // '') eq '1' });
sql(q{SELECT coupon_campaign_create('c', 100)});

# ---- a client of the protocol itself ----

sub message { my ($type, $body) = @_; return $type . pack('N', 4 + length $body) . $body }
sub parse { return message('P', "\0$_[0]\0" . pack('n', 0)) }
sub bind_portal { return message('B', "\0\0" . pack('nnn', 0, 0, 0)) }
sub execute { return message('E', "\0" . pack('N', 0)) }
sub statement { return parse($_[0]) . bind_portal() . execute() }
my ($sync, $flush, $close) = (message('S', ''), message('H', ''), message('C', "P\0"));

my $socket;

sub receive
{
	my ($length) = @_;
	my $data = '';

	while (length $data < $length)
	{
		die 'no answer' unless IO::Select->new($socket)->can_read(180);
		sysread $socket, $data, $length - length $data, length $data or die 'the server has closed the connection';
	}
	return $data;
}

# the answers up to the next ReadyForQuery, or another type of message: SQLSTATEs of
# errors, fields of rows
sub answers
{
	my $last = shift // 'Z';
	my @answers;

	while (1)
	{
		my ($type, $length) = unpack 'aN', receive(5);
		my $body = $length > 4 ? receive($length - 4) : '';

		push @answers, $body =~ /\0C([0-9A-Z]{5})\0/ ? $1 : $body if $type eq 'E';
		push @answers, unpack 'x2 N/a', $body if $type eq 'D';
		return join ' ', @answers if $type eq $last;
	}
}

sub send_all { for my $part (@_) { syswrite $socket, $part or die "send: $!" } return }

my $user = sql('SELECT current_user');

sub connect_as
{
	my ($name) = @_;
	my $startup = pack('N', 196608) . "user\0$user\0database\0postgres\0application_name\0$name\0\0";

	$socket = IO::Socket::UNIX->new(Peer => $node->host . '/.s.PGSQL.' . $node->port) or die "connect: $!";
	send_all(pack('N', 4 + length $startup) . $startup);
	answers();
	return $socket;
}

sub grouped { return "SELECT status FROM coupon_issue_grouped(1, '$_[0]')" }

# clients that stall before their Sync: one is cancelled, the other is given up meanwhile
my $stalled = connect_as('stalled');
send_all(statement(grouped('x')));
connect_as('timeout');
send_all(message('Q', "SET statement_timeout = '200ms'\0"));
answers();
send_all(statement(grouped('x')));
is(answers('E'), '57014', 'statement_timeout ends the call of a client that stalls before its Sync');
send_all($sync);
answers();
close $socket;

connect_as('main');

my $one = statement('SELECT 1');
my @cases = (
	[ 'alone', [ statement(grouped('a')) . $sync ], 'issued' ],
	[ 'alone, its Sync a packet of its own', [ statement(grouped('b')), $sync ], 'issued' ],
	[ 'alone, with a Close of its portal', [ statement(grouped('c')) . $close . $sync ], 'issued' ],
	[ 'two transactions in a packet', [ statement(grouped('d')) . $sync ], 'issued' ],
	[ 'the first of a pipeline', [ statement(grouped('x')) . $one . $sync ], '25001' ],
	[ 'the first of a pipeline in packets', [ statement(grouped('x')), $one, $sync ], '25001' ],
	[ 'the last of a pipeline', [ $one . statement(grouped('x')) . $sync ], '1 25001' ],
	[ 'a batch of the same statement', [ parse(grouped('x')) . bind_portal() . execute() . bind_portal() . execute() . $sync ], '25001' ],
	[ 'with a Flush, in a transaction that goes on', [ statement(grouped('x')) . $flush, $sync ], '25001' ],
	[ 'after BEGIN', [ statement('BEGIN') . statement(grouped('x')) . statement('ROLLBACK') . $sync ], '25001' ],
	[ 'several statements in a string', [ message('Q', grouped('x') . "; SELECT 1\0") ], '25001' ],
	[ 'the last in a string', [ message('Q', 'SELECT 1; ' . grouped('x') . "\0") ], '1 25001' ],
	[ 'alone in a string', [ message('Q', grouped('e') . "\0") ], 'issued' ],
	[ 'coupon_issue in a pipeline', [ statement(q{SELECT status FROM coupon_issue(1, 'f')}) . $one . $sync ], 'issued 1' ]);

for (@cases)
{
	my ($what, $parts, $told) = @$_;

	send_all(@$parts);
	is(answers(), $told, $what);
	# a transaction that BEGIN has left behind
	send_all(message('Q', "ROLLBACK\0"));
	answers();
}
send_all(statement(grouped('g')) . $sync . statement(grouped('h')) . $sync);
is(answers() . ' ' . answers(), 'issued issued', 'two in a row without waiting, each with its Sync');
is(sql(q{SELECT string_agg(user_id, '' ORDER BY user_id) FROM coupon.issuance}), 'abcdefgh', 'what was refused issued nothing');
like(sql_error($node, 'postgres', 'BEGIN; ' . grouped('x')), qr/autocommit/, 'the hint says autocommit');

send_all(message('Q', "SET coupon.allow_autonomous = on\0"));
answers();
send_all(statement(grouped('i')) . $one . $sync);
is(answers(), 'issued 1', 'under coupon.allow_autonomous it is carried out');

# in the end without a timeout, too: it holds a snapshot
my $main = $socket;
$socket = $stalled;
is(answers('E'), '25001', 'a client that stalls for seconds is refused');
send_all($sync);
is(answers(), '', 'and goes on');
close $socket;
$socket = $main;

# a client that is gone in between has issued nothing
send_all(message('Q', "SET coupon.allow_autonomous = off\0"));
answers();
send_all(statement(grouped('gone')));
close $socket;
poll_until('its session to end', sub { sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'}) eq '1' });
is(sql(q{SELECT count(*) FROM coupon.issuance WHERE user_id = 'gone'}), '0', 'whose client has gone before its Sync is issued nothing');

conserved($node, 'postgres', 'pipelines');
$node->stop;
done_testing();
