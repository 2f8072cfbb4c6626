# What the tests of publishing share: brokers, a consumer that is not built
# on our own code, and the check that every committed event arrived.
package CouponKafka;

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename;
use IPC::Open2;
use IPC::Run;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

our @EXPORT = qw(kafka_tools_missing mock_broker real_kafka_missing real_kafka
  kafka_program topics read_events consume follow event_faults
  events_arrived murmur2 partition_of);

use constant PATIENCE => $PostgreSQL::Test::Utils::timeout_default;

my $top = dirname(dirname(dirname(abs_path(__FILE__))));

# kafka_program(name): the path of mock_broker, producer or topics
sub kafka_program
{
	my ($name) = @_;

	return "$top/tmp_kafka/bin/$name";
}

# kafka_tools_missing(): why tests with a broker must be skipped; '' if not
sub kafka_tools_missing
{
	for my $name (qw(mock_broker producer topics))
	{
		return "skipped: no tmp_kafka/bin/$name: make kafka-programs" unless -x kafka_program($name);
	}
	return 'skipped: no kcat' if system('command -v kcat >/dev/null 2>&1') != 0;
	return '';
}

# run_program(command): what it printed; dies when it fails
sub run_program
{
	my (@command) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(PATIENCE))
	  or die "@command: $err$out";
	return $out;
}

# topics(brokers, command...): as test/kafka/topics.c says
sub topics
{
	my ($brokers, @command) = @_;
	my $answer = run_program(kafka_program('topics'), $brokers, @command);

	chomp $answer;
	return $answer;
}

# ---- the mock cluster ----

# mock_broker(brokers => 3, topics => {name => partitions}): a running one,
# gone when the object is or when the test is killed
sub mock_broker
{
	my (%options) = @_;
	my $topics = $options{topics} // {};
	my @command = (kafka_program('mock_broker'), '-b', $options{brokers} // 3,
		map { ('-t', "$_:$topics->{$_}") } sort keys %$topics);
	my $self = bless {}, 'CouponKafka::Mock';

	$self->{pid} = open2($self->{answers}, $self->{commands}, @command);
	$self->{bootstrap} = $self->answer;
	die "@command does not start" unless $self->{bootstrap} =~ /^127\.0\.0\.1:/;
	return $self;
}

# ---- a real Kafka ----

sub kafka_script
{
	return run_program("$top/test/bin/kafka", @_);
}

# real_kafka_missing(): why a real one cannot be had; '' if it can
sub real_kafka_missing
{
	my $missing = kafka_tools_missing();
	return $missing if $missing;

	my $why = `$top/test/bin/kafka available`;
	chomp $why;
	return $? == 0 ? '' : $why || 'skipped: test/bin/kafka fails';
}

# real_kafka(secure => 1, settings => {name => value}): a running broker with
# empty data, gone when the object is
sub real_kafka
{
	my (%options) = @_;
	my $settings = $options{settings} // {};
	my $self = bless { dir => PostgreSQL::Test::Utils::tempdir_short() }, 'CouponKafka::Real';

	$self->{options} = [
		$options{secure} ? '-s' : (),
		map { ('-c', "$_=$settings->{$_}") } sort keys %$settings
	];
	$self->start;
	return $self;
}

# Before the directories go; DESTROY may come after that.
my %owner_of;

END
{
	my $status = $?;

	system("$top/test/bin/kafka", 'kill', $_) for grep { $owner_of{$_} == $$ } keys %owner_of;
	$? = $status;
}

# ---- consuming, by kcat ----

# What kcat is told besides: a mock that has nothing new lets a consumer wait, and
# on a loaded machine one that is busy needs more than 5 s to say what topics it has.
my @kcat = (qw(kcat -C -q -J -o beginning), '-m', PATIENCE, qw(-X fetch.wait.max.ms=50
	  -X reconnect.backoff.ms=20 -X reconnect.backoff.max.ms=500
	  -X allow.auto.create.topics=false -X auto.offset.reset=earliest));

my %escaped = (b => "\b", f => "\f", n => "\n", r => "\r", t => "\t");

# A JSON string as kcat writes it, without its quotes, to bytes.
sub unescape
{
	my ($string) = @_;

	$string =~ s{\\(?:u([0-9a-fA-F]{4})|(.))}
		{defined $1 ? chr hex $1 : $escaped{$2} // $2}ge
	  if index($string, '\\') >= 0;
	return $string;
}

# A line of kcat -J, which is JSON of one shape; a parser for any JSON would
# take most of a test's time.
sub parse_message
{
	my ($line) = @_;
	my $string = qr/"((?:[^"\\]++|\\.)*+)"/;
	my %message;

	$line =~ /^\{"topic":$string,"partition":(\d+),"offset":(\d+),/gc or die "kcat printed: $line";
	@message{qw(topic partition offset)} = (unescape($1), $2, $3);

	$message{headers} = [];
	if ($line =~ /\G[^\[\]]*?"headers":\[/gc)
	{
		while ($line =~ /\G,?(?:$string|null)/gc)
		{
			push @{ $message{headers} }, defined $1 ? unescape($1) : undef;
		}
		$line =~ /\G\]/gc or die "kcat printed: $line";
	}
	$line =~ /\G.*?,"key":(?:$string|null),"payload":(?:$string|null)[,}]/gc or die "kcat printed: $line";
	$message{key} = defined $1 ? unescape($1) : undef;
	$message{value} = defined $2 ? unescape($2) : undef;

	my %header = @{ $message{headers} };
	$message{id} = $header{id};
	return \%message;
}

sub parse_messages
{
	my ($text) = @_;

	return [ map { parse_message($_) } split /\n/, $text ];
}

# consume(brokers, topic, kcat arguments): all messages that are there now,
# each as {topic, partition, offset, key, value, id, headers => [name, value, ...]}
sub consume
{
	my ($brokers, $topic, @arguments) = @_;

	return parse_messages(run_program(@kcat, '-e', '-b', $brokers, '-t', $topic, @arguments));
}

# follow(brokers, topic, kcat arguments): consumes in the background, so that
# the mock may drop what it has no room for
sub follow
{
	my ($brokers, $topic, @arguments) = @_;
	my $self = bless { out => PostgreSQL::Test::Utils::tempdir() . '/messages', owner => $$ },
	  'CouponKafka::Follower';

	# -E: go on when no broker is there
	$self->{pid} = fork // die "cannot fork: $!";
	if (!$self->{pid})
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>', $self->{out};
		open STDERR, '>', "$self->{out}.err";
		exec(@kcat, '-E', '-u', '-b', $brokers, '-t', $topic, @arguments) or POSIX::_exit(127);
	}
	return $self;
}

# ---- the check ----

# read_events(file): the list that producer -e wrote, as event_faults wants it
sub read_events
{
	my ($file) = @_;

	return [ map { [ split /\t/ ] } split /\n/, slurp_file($file) ];
}

# event_faults(committed, messages): what is wrong, a line each, and the number
# of duplicates.  committed is a list of [id, topic, key, sequence]: the order
# of a topic's key is that of its sequences.  A key may be undefined, and has
# no order then.
sub event_faults
{
	my ($committed, $messages) = @_;
	my (%event, %seen, %last, %partition, %first_offset, @faults);
	my $duplicates = 0;

	for (@$committed)
	{
		die "event $_->[0] was committed twice" if $event{ $_->[0] };
		$event{ $_->[0] } = $_;
	}

	for my $message (
		sort { $a->{topic} cmp $b->{topic} || $a->{partition} <=> $b->{partition} || $a->{offset} <=> $b->{offset} }
		@$messages)
	{
		my $id = $message->{id} // '(none)';
		my $where = "at $message->{topic}/$message->{partition}/$message->{offset}";
		my $event = $event{$id};

		$first_offset{"$message->{topic}/$message->{partition}"} //= $message->{offset};
		if (!$event)
		{
			push @faults, "event $id $where was not committed";
			next;
		}
		my (undef, $topic, $key, $sequence) = @$event;
		push @faults, "event $id $where belongs to topic $topic" if $topic ne $message->{topic};
		push @faults, "event $id $where has key " . ($message->{key} // 'null') . ', not ' . ($key // 'null')
		  if ($key // "\0") ne ($message->{key} // "\0");

		my $known = $seen{$id}++;
		$duplicates++ if $known;
		next unless defined $key;

		my $stream = "$topic\0$key";
		push @faults, "event $id $where: others of key $key are in partition $partition{$stream}"
		  if ($partition{$stream} //= $message->{partition}) != $message->{partition};
		next if $known;
		push @faults, "event $id $where: number $sequence of key $key comes after number $last{$stream}"
		  if defined $last{$stream} && $last{$stream} > $sequence;
		$last{$stream} = $sequence;
	}

	my @missing = grep { !$seen{ $_->[0] } } @$committed;
	push @faults, map { "event $_->[0], number $_->[3] of key " . ($_->[2] // 'null') . " in $_->[1], is missing" } @missing;
	if (@missing)
	{
		push @faults, map { "the log of $_ begins at offset $first_offset{$_}: what was before is gone" }
		  grep { $first_offset{$_} > 0 } sort keys %first_offset;
	}
	return (\@faults, $duplicates);
}

# events_arrived(committed, messages, what): every committed event at least
# once, nothing else, each key in one partition and in order once duplicates
# are removed.  Returns the number of duplicates.
sub events_arrived
{
	my ($committed, $messages, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($faults, $duplicates) = event_faults($committed, $messages);
	my $count = @$faults;

	$what .= ': ' . @$committed . " events arrived, $duplicates duplicates";
	if (!ok($count == 0, $what))
	{
		diag("$count faults in " . @$messages . " messages, the first:");
		diag($_) for @{$faults}[ 0 .. ($count > 20 ? 19 : $count - 1) ];
	}
	return $duplicates;
}

# ---- the Java client's partitioner ----

# murmur2(bytes): a signed 32-bit number, as org.apache.kafka.common.utils.Utils
sub murmur2
{
	my ($data) = @_;
	my $m = 0x5bd1e995;
	my $h = 0x9747b28c ^ length $data;
	my $rest = length($data) % 4;

	for my $k (unpack 'V*', substr $data, 0, length($data) - $rest)
	{
		$k = ($k * $m) & 0xffffffff;
		$k ^= $k >> 24;
		$k = ($k * $m) & 0xffffffff;
		$h = (($h * $m) & 0xffffffff) ^ $k;
	}
	if ($rest)
	{
		my @tail = unpack 'C*', substr $data, -$rest;
		$h ^= $tail[$_] << (8 * $_) for 0 .. $#tail;
		$h = ($h * $m) & 0xffffffff;
	}
	$h ^= $h >> 13;
	$h = ($h * $m) & 0xffffffff;
	$h ^= $h >> 15;
	return unpack 'l', pack 'L', $h;
}

# partition_of(key, partitions): where a Java client sends it
sub partition_of
{
	my ($key, $partitions) = @_;

	return (murmur2($key) & 0x7fffffff) % $partitions;
}

package CouponKafka::Mock;

use IO::Select;

sub bootstrap { return $_[0]{bootstrap} }

# the next line it prints
sub answer
{
	my ($self) = @_;
	my $line = '';

	until ($line =~ s/\n\z//)
	{
		IO::Select->new($self->{answers})->can_read(CouponKafka::PATIENCE)
		  or die 'mock_broker does not answer';
		sysread($self->{answers}, $line, 1000, length $line) or die 'mock_broker ended';
	}
	return $line;
}

# ask(command): the answer, which may be an error
sub ask
{
	my ($self, $command) = @_;
	local $SIG{PIPE} = 'IGNORE';

	syswrite($self->{commands}, "$command\n") or die "mock_broker ended before: $command";
	return $self->answer;
}

# command(line): done, or dies
sub command
{
	my ($self, $command) = @_;
	my $answer = $self->ask($command);

	die "mock_broker: $command: $answer" if $answer ne 'ok';
	return;
}

sub stop
{
	my ($self) = @_;

	return unless $self->{pid};
	close $self->{commands};
	close $self->{answers};
	waitpid delete $self->{pid}, 0;
	return $? == 0;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $@);

	$self->stop;
	return;
}

package CouponKafka::Real;

# (after kill or stop) on the same port, with its data
sub start
{
	my ($self) = @_;

	$owner_of{ $self->{dir} } = $$;
	@{$self}{qw(bootstrap secure_bootstrap)} =
	  split /\n/, CouponKafka::kafka_script('start', @{ delete $self->{options} // [] }, $self->{dir});
	return;
}

sub bootstrap { return $_[0]{bootstrap} }

# the listener that wants SASL and TLS, and a client's properties for it
sub secure_bootstrap { return $_[0]{secure_bootstrap} }
sub client_properties { return "$_[0]{dir}/client.properties" }

sub kill
{
	my ($self) = @_;

	CouponKafka::kafka_script('kill', $self->{dir});
	delete $owner_of{ $self->{dir} };
	return;
}

sub stop
{
	my ($self) = @_;

	CouponKafka::kafka_script('stop', $self->{dir});
	delete $owner_of{ $self->{dir} };
	return;
}

sub restart
{
	my ($self) = @_;

	$self->stop;
	$self->start;
	return;
}

# create_topic(name, partitions, setting => value, ...)
sub create_topic
{
	my ($self, $name, $partitions, %settings) = @_;

	CouponKafka::topics($self->{bootstrap}, 'create', $name, $partitions,
		map { "$_=$settings{$_}" } sort keys %settings);
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $@);

	eval { $self->kill } if ($owner_of{ $self->{dir} } // 0) == $$;
	return;
}

package CouponKafka::Follower;

use Time::HiRes qw(time);

# the whole lines that have come
sub lines
{
	my ($self) = @_;
	my ($lines) = -e $self->{out} ? PostgreSQL::Test::Utils::slurp_file($self->{out}) =~ /\A(.*\n)?/s : ();

	return $lines // '';
}

# how many messages have come
sub count
{
	my ($self) = @_;

	return $self->lines =~ tr/\n//;
}

# wait_for(count): until so many have come; dies when they do not
sub wait_for
{
	my ($self, $count) = @_;
	my $deadline = time + CouponKafka::PATIENCE;

	while ($self->count < $count)
	{
		my $ended = waitpid($self->{pid}, POSIX::WNOHANG) != 0;

		delete $self->{pid} if $ended;
		die 'kcat ' . ($ended ? 'ended' : 'has not got more') . ' after ' . $self->count .
		  " of $count messages: " . PostgreSQL::Test::Utils::slurp_file("$self->{out}.err")
		  if $ended || time > $deadline;
		select undef, undef, undef, 0.05;
	}
	return;
}

sub end
{
	my ($self) = @_;

	if (my $pid = delete $self->{pid})
	{
		kill 'KILL', $pid;
		waitpid $pid, 0;
	}
	return;
}

# stop(): the messages that have come
sub stop
{
	my ($self) = @_;

	$self->end;
	return CouponKafka::parse_messages($self->lines);
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $@);

	$self->end if $self->{owner} == $$;
	return;
}

1;
