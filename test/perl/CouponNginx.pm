# nginx with an example's file on ports of ours, in front of an upstream that
# answers with what it received.
package CouponNginx;

use strict;
use warnings;

use CouponTest;
use Exporter 'import';
use File::Temp;
use IO::Socket::INET;
use IO::Socket::UNIX;
use IPC::Run;
use JSON::PP;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(nginx_program free_port start_upstream start_nginx);

# nginx_program(): its path, undef when it is not installed
sub nginx_program
{
	my ($nginx) = grep { -x $_ } map { "$_/nginx" } split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/sbin';

	return $nginx;
}

# free_port(): on the loopback, for whom it is to stay free while a server of ours
# is down: not one of those that the kernel gives to clients, and no other
# test's, also of another run on this machine.  A name that a socket has says
# whose it is, until this test ends.
my @ours;

sub free_port
{
	for (1 .. 1000)
	{
		my $port = 10240 + int rand 22000;
		my $mine = IO::Socket::UNIX->new(Type => SOCK_STREAM, Local => "\0coupon test port $port", Listen => 1) or next;

		next unless IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1:$port", ReuseAddr => 1);
		push @ours, $mine;
		return $port;
	}
	die "no port: $!";
}

# start_upstream(): its port, and its process, to be ended by SIGTERM
sub start_upstream
{
	my $json = JSON::PP->new->canonical->allow_nonref->utf8;
	my $upstream = IO::Socket::INET->new(Listen => 64, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die "no port: $!";
	my $port = $upstream->sockport;
	my $pid = fork // die "fork: $!";

	return ($port, $pid) if $pid != 0;

	local $SIG{TERM} = sub { POSIX::_exit(0) };
	while (my $client = $upstream->accept)
	{
		my ($method, $uri) = split / /, <$client> // next;
		my (%headers, $body);
		while (defined(my $line = <$client>))
		{
			$line =~ s/\r?\n\z//;
			last if $line eq '';
			my ($name, $value) = split /:\s*/, $line, 2;
			$headers{ lc $name } = $value;
		}
		read $client, $body, $headers{'content-length'} if $headers{'content-length'};
		# as PostgREST does with what is no UTF-8
		if (($body // '') =~ /\xff/)
		{
			print $client "HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\nContent-Length: 20\r\nConnection: close\r\n\r\nSomething went wrong";
			close $client;
			next;
		}
		my $answer = $json->encode({ method => $method, uri => $uri, headers => \%headers, body => $body // '' });
		printf $client "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nX-Access-Token: secret\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
			length $answer, $answer;
		close $client;
	}
	POSIX::_exit(0);
}

# start_nginx(program, port, conf): the process, of IPC::Run, and what nginx -t
# had to say; answers on that port when it returns
sub start_nginx
{
	my ($program, $port, $conf) = @_;
	my $directory = PostgreSQL::Test::Utils::tempdir();
	my ($out, $err) = ('', '');
	my @nginx = ($program, '-e', 'stderr', '-p', $directory, '-c', "$directory/nginx.conf", '-g', 'daemon off;');

	append_to_file("$directory/nginx.conf", $conf);
	ok(IPC::Run::run([ @nginx, '-t' ], '<', \undef, '>', \$out, '2>', \$err), 'nginx -t passes') or diag($err);
	my $said = $err;
	my $proxy = IPC::Run::start(\@nginx, '<', \undef, '>', \$out, '2>', \$err);
	poll_until('nginx', sub { IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") });
	return ($proxy, $said);
}

1;
