# A sale on several nodes: servers that are nodes, and one that is the proxy, all
# on the loopback.
#
#	my $cluster = CouponCluster->new(nodes => [qw(one two three)]);
#	$cluster->proxy("SELECT status FROM coupon_issue($campaign, 'ann')");
#	$cluster->on('two', 'SELECT ...');
#	$cluster->kill('two'); $cluster->start('two');
package CouponCluster;

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use POSIX ();

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# plproxy_is_missing(): why there can be no proxy; undef: there can
sub plproxy_is_missing
{
	chomp(my $sharedir = `pg_config --sharedir`);
	return -r "$sharedir/extension/plproxy.control" ? undef : 'skipped: plproxy is not installed for this PostgreSQL';
}

# new(nodes => names, proxy => 0 for none, settings => of each node, make => in
# place of new_server)
sub new
{
	my ($class, %options) = @_;
	my $self = bless { settings => $options{settings} // '', make => $options{make} // \&new_server, order => [], server => {} }, $class;

	$self->add($_) for @{ $options{nodes} };
	$self->deal;
	$self->start_proxy if $options{proxy} // 1;
	return $self;
}

# add(name): a further node, which has no slots yet
sub add
{
	my ($self, $name) = @_;
	my $id = @{ $self->{order} } + 1;
	my $server = $self->{make}->($name, "coupon.databases = 'postgres'\n$self->{settings}");
	my $conninfo = $server->connstr('postgres') =~ s/'/''/gr;

	# the role that the nodes' workers connect as
	$server->safe_psql('postgres', 'CREATE ROLE coupon_node LOGIN IN ROLE coupon_admin');
	if ($id == 1)
	{
		$server->safe_psql('postgres', "SELECT coupon_node_found(1, '$name', '$conninfo')");
	}
	else
	{
		my $map = $self->on($self->{order}[0], 'SELECT coupon_node_map()');
		$server->safe_psql('postgres', "SELECT coupon_node_join($id, '$name', '$conninfo', \$\$$map\$\$)");
	}
	push @{ $self->{order} }, $name;
	$self->{server}{$name} = $server;
	$self->tell;
	return $server;
}

# deal(): the slots among all nodes, in turn; before anybody has a home
sub deal
{
	my ($self) = @_;
	my $nodes = @{ $self->{order} };

	$self->on($_, "UPDATE coupon.slot SET node_id = 1 + slot % $nodes, version = 2") for @{ $self->{order} };
	return;
}

# tell(): each node what the others know of the map
sub tell
{
	my ($self) = @_;

	foreach my $from (@{ $self->{order} })
	{
		my $map = $self->on($from, 'SELECT coupon_node_map()');

		$self->on($_, "SELECT coupon_node_learn(\$\$$map\$\$)") for grep { $_ ne $from } @{ $self->{order} };
	}
	return;
}

# start_proxy(): a server that has no extension of ours, but examples/cluster/proxy.sql
sub start_proxy
{
	my ($self) = @_;
	my $proxy = PostgreSQL::Test::Cluster->new('proxy');

	$proxy->init;
	$proxy->append_conf('postgresql.conf', "max_connections = 200\nlog_statement = none\nshared_buffers = 16MB\n");
	$proxy->start;
	load_example($proxy, 'postgres', 'cluster/proxy.sql');
	$self->{proxy} = $proxy;
	$self->proxy("SELECT coupon_cluster_connect('" . $self->server($self->{order}[0])->connstr('postgres') =~ s/'/''/gr . "')");
	return $proxy;
}

sub names { return @{ $_[0]{order} } }

sub server { return $_[0]{server}{ $_[1] } // die "no node $_[1]" }

sub proxy_server { return $_[0]{proxy} }

# on(node, sql), proxy(sql): what it answers; dies when it fails
sub on
{
	my ($self, $name, $sql) = @_;

	return $self->server($name)->safe_psql('postgres', $sql);
}

sub proxy
{
	my ($self, $sql) = @_;

	return $self->{proxy}->safe_psql('postgres', $sql);
}

# try(sql): of the proxy; undef when it fails
sub try
{
	my ($self, $sql) = @_;

	return try_sql($self->{proxy}, 'postgres', $sql);
}

# sum(sql): of one number on each node
sub sum
{
	my ($self, $sql) = @_;
	my $sum = 0;

	$sum += $self->on($_, $sql) for $self->names;
	return $sum;
}

# home(user): the name of the node of a user, as the proxy has it
sub home
{
	my ($self, $user) = @_;

	return $self->proxy("SELECT name FROM coupon_cluster.slot JOIN coupon_cluster.node USING (node_id) WHERE slot = coupon_slot('$user'::text)");
}

# kill(node): kill -9 of all its processes, as if the machine had failed; start(node)
sub kill
{
	my ($self, $name) = @_;

	kill_server($self->server($name));
	return;
}

sub kill_proxy
{
	my ($self) = @_;

	kill_server($self->{proxy});
	return;
}

sub kill_server
{
	my ($server) = @_;
	my $postmaster = (split /\n/, slurp_file($server->data_dir . '/postmaster.pid'))[0];

	CORE::kill('STOP', $postmaster);
	my @pids = ($postmaster, split / /, slurp_file("/proc/$postmaster/task/$postmaster/children"));
	CORE::kill('KILL', @pids);
	# also until nobody has to be told of it: postmaster.pid names a process that is no more
	poll_until('the end of ' . $server->name, sub { !grep { -e "/proc/$_" } @pids });
	$server->{_pid} = undef;
	return;
}

sub start
{
	my ($self, $name) = @_;

	$self->server($name)->start;
	return;
}

# impostor(messages): what looks like a server until somebody has connected, says this, and
# hears nothing more; its port, and its process, to be killed
sub impostor
{
	my @messages = @_;
	my $server = IO::Socket::INET->new(Listen => 16, LocalAddr => '127.0.0.1') or die "listen: $!";
	my $select = IO::Select->new($server);
	my $test = $$;
	my $pid = fork // die "fork: $!";
	my @clients;

	return ($server->sockport, $pid) if $pid != 0;
	while (getppid() == $test)
	{
		my $client = $select->can_read(1) ? $server->accept : undef;

		next unless $client;
		# who asks for encryption (eight bytes) is told that there is none
		while (sysread($client, my $packet, 8192) == 8)
		{
			syswrite $client, 'N';
		}
		syswrite $client, join '', map { substr($_, 0, 1) . pack('N', 3 + length) . substr($_, 1) } @messages;
		push @clients, $client;
	}
	POSIX::_exit(0);
}

# stop(): everything; the logs hold nothing alarming
sub stop
{
	my ($self) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	foreach my $server (map({ $self->server($_) } $self->names), $self->{proxy} // ())
	{
		$server->stop('fast');
		server_log_is_clean($server, $server->name);
	}
	return;
}

1;
