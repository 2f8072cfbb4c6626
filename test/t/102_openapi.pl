# /openapi.json: a public validator finds nothing in it; each route of the front
# is there, built in, of the examples and of one's own; and each operation
# answers as it is told there, whatever it is called with.
use strict;
use warnings;

use CouponContract qw(request);
use CouponNginx qw(free_port);
use CouponTest;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

my $json = JSON::PP->new->canonical->allow_nonref->utf8;
my $port = free_port();
my $base = "http://127.0.0.1:$port";
my $node = new_server('openapi', <<"END");
coupon.http_listen = '127.0.0.1:$port'
coupon.http_role = 'coupon_web_anonymous'
END
sub sql { return $node->safe_psql('postgres', shift) }

load_example($node, 'postgres', $_, '-v', 'open=on') for map { "sources/$_.sql" } qw(roles http api routes);
load_example($node, 'postgres', "concert/$_.sql", '-v', 'open=on') for qw(schema api routes);
sql(q{
	CREATE FUNCTION mine(name text, tags text[], n smallint DEFAULT 1, since timestamptz DEFAULT NULL, rate numeric DEFAULT 0, id uuid DEFAULT NULL, really boolean DEFAULT false)
	RETURNS TABLE (a integer) LANGUAGE sql STABLE AS 'SELECT 1';
	CREATE FUNCTION silent(n bigint) RETURNS void LANGUAGE sql AS '';
	COMMENT ON FUNCTION silent(bigint) IS 'PUT /silent?n= - 204 done, 418 never';
	SELECT coupon_route_add('POST', '/mine/{name}', 'mine'::regproc::regprocedure);
	SELECT coupon_route_add('PUT', '/silent', 'silent(bigint)', role => 'coupon_web_anonymous', admin => true);
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO coupon_web_anonymous});
poll_until('the front', sub { request($base, 'GET', '/readyz')->{status} == 200 && request($base, 'GET', '/openapi.json')->{status} == 200 });
my $answer;
poll_until('the routes', sub { $answer = request($base, 'GET', '/openapi.json'); $answer->{json}{paths}{'/silent'} });
my $document = $answer->{json};
is($document->{openapi}, '3.1.0', 'an OpenAPI document of ' . length($answer->{content}) . ' bytes');

SKIP:
{
	my $missing = `test/bin/openapi available 2>&1`;

	skip $missing =~ s/^skipped: |\s+$//gr, 1 if $?;
	my $file = "$ENV{TESTDATADIR}/openapi.json";
	append_to_file($file, $answer->{content});
	my $said = `test/bin/openapi validate '$file' 2>&1`;
	is($?, 0, 'openapi-spec-validator finds nothing') or diag($said);
	# and would find something
	append_to_file("$file.bad", $answer->{content} =~ s/"parameters": *\[\{"in": *"path"/"parameters":[{"in":"nowhere"/r);
	`test/bin/openapi validate '$file.bad' 2>&1`;
	isnt($?, 0, '  and would find a parameter that is nowhere');
}

# ---- what is in it ----

my @routes = map { [ split /\|/ ] } split /\n/, sql(q{SELECT method, path FROM coupon.http_route ORDER BY path, method});
cmp_ok(scalar @routes, '>=', 36, 'routes: ' . @routes);
is_deeply([ grep { !$document->{paths}{ $_->[1] }{ lc $_->[0] } } @routes ], [], 'each route is in it');
my %known = map { ("$_->[1] " . lc $_->[0] => 1) } @routes;
is_deeply([ sort grep { !$known{$_} } map { my $path = $_; map { "$path $_" } keys %{ $document->{paths}{$path} } } keys %{ $document->{paths} } ],
	[ '/healthz get', '/readyz get' ], 'and nothing else, but what the front answers by itself');

my $issue = $document->{paths}{'/campaigns/{campaign_id}/issues'}{post};
is_deeply($issue->{parameters}[0], { name => 'campaign_id', in => 'path', required => JSON::PP::true, schema => { type => 'integer', format => 'int64' } }, 'an issue: the path');
is_deeply([ map { "$_->{name} $_->{in}" } @{ $document->{paths}{$_}{post}{parameters} } ], [ 'campaign_id path', 'Idempotency-Key header' ], "$_: the key")
	for map { "/campaigns/{campaign_id}/$_" } qw(issues holds);
is_deeply($issue->{requestBody}{content}{'application/json'}{schema}{properties}, { user_id => { type => 'string' } }, '  the body');
is(join(' ', grep { /^(20.|409|410|422|425)$/ } sort keys %{ $issue->{responses} }), '200 201 409 410 422 425', '  the answers');
is($issue->{responses}{425}{description}, 'not open', '  what they mean');
ok($document->{paths}{$_}{get}{responses}{204}, "  and of a stream that has ended: $_")
	for '/campaigns/{campaign_id}/requests/{request_id}', '/rooms/{room}/tickets/{token}';
is_deeply($issue->{responses}{409}{content}, { 'application/problem+json' => { schema => { '$ref' => '#/components/schemas/Problem' } } }, '  and are');
my $request = $document->{paths}{'/campaigns/{campaign_id}/requests'}{post};
is_deeply([ map { "$_->{name} $_->{in}" } @{ $request->{parameters} } ], [ 'campaign_id path', 'Idempotency-Key header' ], 'a request: its key is a header');
my $mine = $document->{paths}{'/mine/{name}'}{post};
is_deeply($mine->{requestBody}{content}{'application/json'}{schema}, {
		type => 'object', additionalProperties => JSON::PP::false, required => ['tags'], properties => {
			tags => { type => 'array', items => { type => 'string' } }, n => { type => 'integer', format => 'int32' }, since => { type => 'string', format => 'date-time' },
			rate => { type => 'number' }, id => { type => 'string', format => 'uuid' }, really => { type => 'boolean' } } }, 'a function of one\'s own: types of its signature');
is_deeply($mine->{responses}{200}{content}{'application/json'}{schema}{type}, 'array', '  a set is an array');
my $silent = $document->{paths}{'/silent'}{put};
is_deeply([ map { "$_->{name} $_->{in}" } @{ $silent->{parameters} } ], ['n query'], '  what the comment shows in a query');
is(join(' ', grep { /^(204|418)$/ } sort keys %{ $silent->{responses} }) . ' ' . ($silent->{responses}{200} // 'no 200'), '204 418 no 200', '  what it says of answers');
is_deeply($silent->{tags}, ['admin'], '  that it is for the operator');

# ---- what is answered ----

sql(q{SELECT coupon_campaign_create('one', 5); SELECT coupon_room_alter('default', capacity => 5)});
# sample(schema, name): a value of the schema
sub sample
{
	my ($schema, $name) = @_;
	my %of = (integer => 1, number => 1.5, boolean => JSON::PP::true, array => ['2031-01-01']);

	return $schema->{format} eq 'uuid' ? '00000001-0000-8000-8000-000000000000' : $schema->{format} eq 'date-time' ? '2031-01-01T00:00:00Z' : '2031-01-01'
	  if ($schema->{type} // '') eq 'string' && $schema->{format};
	return '5 min' if $schema->{examples};
	return { room => 'default', code => 'one', title => 'x', dates => ['2031-01-01'] }->{$name} // $of{ $schema->{type} // 'integer' } // '1';
}

for my $path (sort keys %{ $document->{paths} })
{
	for my $method (sort keys %{ $document->{paths}{$path} })
	{
		my $operation = $document->{paths}{$path}{$method};
		# as it should be called, with nothing, and with what is wrong
		for my $kind (qw(whole bare wrong))
		{
			my ($target, %headers, @query, %body) = ($path);

			for my $parameter (@{ $operation->{parameters} // [] })
			{
				my $value = $kind eq 'wrong' ? '%20' : sample($parameter->{schema}, $parameter->{name});

				$target =~ s/\{\Q$parameter->{name}\E\}/$value/ if $parameter->{in} eq 'path';
				push @query, "$parameter->{name}=" . $value =~ s/([^\w%-])/sprintf '%%%02X', ord $1/ger if $parameter->{in} eq 'query' && $kind ne 'bare';
				$headers{ $parameter->{name} } = 'key' if $parameter->{in} eq 'header' && $kind ne 'bare';
			}
			my $schema = $operation->{requestBody}{content}{'application/json'}{schema};
			if ($schema)
			{
				$body{$_} = $kind eq 'whole' ? sample($schema->{properties}{$_}, $_) : [ [] ] for $kind eq 'bare' ? () : keys %{ $schema->{properties} };
				$headers{'Content-Type'} = 'application/json';
			}
			$target .= '?' . join '&', @query if @query;
			my $got = request($base, uc $method, $target, $schema ? $json->encode(\%body) : undef, %headers);
			my $documented = $operation->{responses}{ $got->{status} };
			ok($documented && $got->{status} != 405 && $got->{status} != 500 && (ref $got->{json} eq 'HASH' ? $got->{json}{code} // '' : '') ne 'unknown_route', "$kind: " . uc($method) . " $path: $got->{status}")
			  or diag($target, ' ', $json->encode(\%body), ' ', $got->{content});
			next unless $documented;
			$documented = $document->{components}{responses}{$1} if ($documented->{'$ref'} // '') =~ m{^#/components/responses/(\d+)$};
			my ($type) = ($got->{headers}{'content-type'} // '') =~ /^([^;]+)/;
			ok($got->{status} == 204 || $documented->{content}{$type} || $documented->{content}{'*/*'}, '  is of a type that it may have') or diag("$got->{status} $type $got->{content}") unless $path =~ /^\/(health|ready)z$/;
		}
	}
}

# by how much it holds the others up
my $calls = 20;
my $start = Time::HiRes::time();
request($base, 'GET', '/openapi.json') for 1 .. $calls;
note(sprintf '%.1f ms a document', 1000 * (Time::HiRes::time() - $start) / $calls);

# a route that goes goes from it, too
sql(q{SELECT coupon_route_drop('PUT', '/silent')});
poll_until('the drop', sub { !request($base, 'GET', '/openapi.json')->{json}{paths}{'/silent'} });
pass('a route that is dropped is not in it');

$node->stop;
server_log_is_clean($node, 'openapi');
done_testing();
