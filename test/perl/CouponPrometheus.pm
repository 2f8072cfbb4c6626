# Prometheus, its exporters and what they show.
package CouponPrometheus;

use strict;
use warnings;

use CouponNginx qw(free_port);
use CouponTest;
use HTTP::Tiny;
use IPC::Run ();
use JSON::PP;
use PostgreSQL::Test::Utils;

use Exporter 'import';
our @EXPORT_OK = qw(program start_prometheus series);

my $http = HTTP::Tiny->new(timeout => CouponTest::PATIENCE);

# program(name): where a program is; undef if it is nowhere
sub program
{
	my ($name) = @_;

	return (grep { -x $_ } map { "$_/$name" } split /:/, $ENV{PATH})[0];
}

# start_prometheus(configuration): a Prometheus that scrapes
sub start_prometheus
{
	my ($config) = @_;
	my $port = free_port();
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $self = bless { url => "http://127.0.0.1:$port", log => "$dir/log" }, __PACKAGE__;

	append_to_file("$dir/prometheus.yml", $config);
	$self->{run} = IPC::Run::start([ program('prometheus'), "--config.file=$dir/prometheus.yml", "--storage.tsdb.path=$dir/data",
			"--web.listen-address=127.0.0.1:$port", '--log.level=warn' ], '<', \undef, '>&', $self->{log});
	poll_until('Prometheus', sub {
		die slurp_file($self->{log}) unless $self->{run}->pumpable;
		return $http->get("$self->{url}/-/ready")->{status} == 200;
	});
	return $self;
}

# get(path, parameters): what its API answers
sub get
{
	my ($self, $path, %parameters) = @_;
	my $answer = $http->get("$self->{url}/api/v1/$path?" . $http->www_form_urlencode(\%parameters));

	die "$path: $answer->{status} $answer->{content}" unless $answer->{status} == 200;
	return decode_json($answer->{content})->{data};
}

# query(PromQL): the series that it has now
sub query { return @{ $_[0]->get('query', query => $_[1])->{result} } }

# firing(): the names of the alerts that fire
sub firing
{
	my ($self) = @_;

	return map { $_->{labels}{alertname} } grep { $_->{state} eq 'firing' } @{ $self->get('alerts')->{alerts} };
}

sub stop
{
	my ($self) = @_;
	my $run = delete $self->{run} or return;

	$run->kill_kill(grace => 30);
	return;
}

sub DESTROY { local ($?, $@); $_[0]->stop; return }

# series(text, families): the samples of a text of metrics as { 'name{labels}' =>
# value }, labels in their order; of those families
sub series
{
	my ($text, $family) = @_;
	my %series;

	for (split /\n/, $text)
	{
		my ($name, $labels, $value) = /^([a-z_:]+)(?:\{(.*)\})? (\S+)$/ or next;
		next if $family && $name !~ $family;
		# an empty label is none
		my @labels = grep { !/=""$/ } ($labels // '') =~ /(\w+="(?:[^"\\]|\\.)*")/g;
		$series{ "$name\{" . join(',', sort @labels) . '}' } = $value;
	}
	return \%series;
}

1;
