# Whose rights a call has, and what it leaves behind: roles without a token that
# are or become superusers, code that runs when a transaction commits, claims,
# row security, the state of the session, roles that lose a route, and that what
# was answered survives a crash.
use strict;
use warnings;

use CouponContract qw(request);
use CouponNginx qw(free_port);
use CouponTest;
use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(time);

my $json = JSON::PP->new->canonical->allow_nonref->utf8;
my $port = free_port();
my $base = "http://127.0.0.1:$port";
my $node = new_server('front_rights', <<"END");
coupon.http_listen = '127.0.0.1:$port'
coupon.http_role = 'app"x'
coupon.http_lock_timeout = @{[ CouponTest::PATIENCE ]}s
coupon.http_statement_timeout = @{[ CouponTest::PATIENCE ]}s
synchronous_commit = off
wal_writer_delay = 10s
END

sub sql { return $node->safe_psql('postgres', shift) }

# told(method, path, body): "status body"
sub told
{
	my ($method, $path, $body) = @_;
	my $answer = request($base, $method, $path, $body, defined $body ? ('Content-Type' => 'application/json') : ());

	return "$answer->{status} " . ($answer->{status} >= 400 ? $answer->{json}{code} // '' : $answer->{json} ? $json->encode($answer->{json}) : '');
}

# connected(request): a connection on which it has been sent
sub connected
{
	my ($request) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port") or die "no connection: $!";

	print $socket $request;
	return $socket;
}
sub post
{
	my ($path, $body) = @_;

	return connected(sprintf "POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", $path, length $body, $body);
}
sub status_of { my $answer = do { local $/; readline $_[0] }; return $answer =~ m{^HTTP/1\.1 (\d+)} ? $1 : 'none' }

# read_until(socket, pattern): what has come by then
sub read_until
{
	my ($socket, $pattern) = @_;
	my $seen = '';
	my $deadline = time + CouponTest::PATIENCE;

	while ($seen !~ $pattern && time < $deadline)
	{
		next unless IO::Select->new($socket)->can_read(1);
		last unless sysread $socket, $seen, 4096, length $seen;
	}
	return $seen;
}

sql(q{CREATE ROLE "app""x"; GRANT coupon_service TO "app""x"; CREATE ROLE later; CREATE ROLE boss; GRANT coupon_admin TO boss;
	CREATE ROLE club; GRANT club TO "app""x"});
load_example($node, 'postgres', "sources/$_.sql") for 'roles', 'http';
sql(q{GRANT USAGE ON SCHEMA web TO later; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA web TO later;
	CREATE TABLE note (who text, by text);
	CREATE TABLE seen (what text, by text);
	GRANT ALL ON note, seen TO later, coupon_service;
	CREATE FUNCTION see(what text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.seen VALUES (what, current_user); RETURN what; END $$;
	CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		PERFORM public.see('trigger');
		IF new.who = 'bad' THEN RAISE 'a bad one'; END IF;
		RETURN NULL; END $$;
	CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON note DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION at_commit();
	CREATE FUNCTION note_all(who text[]) RETURNS SETOF coupon.http_answer LANGUAGE plpgsql AS $$ DECLARE w text; BEGIN
		FOREACH w IN ARRAY who LOOP
			INSERT INTO public.note VALUES (w, current_user);
			RETURN NEXT ROW(201, NULL, json_build_object('who', w), false)::coupon.http_answer;
		END LOOP; END $$;
	CREATE FUNCTION note_one(who text) RETURNS json LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.note VALUES (who, current_user); RETURN '{}'; END $$;
	CREATE FUNCTION hold() RETURNS json LANGUAGE plpgsql AS $$ BEGIN
		EXECUTE $q$ DECLARE held CURSOR WITH HOLD FOR SELECT see('cursor') $q$; RETURN '{}'; END $$;
	CREATE FUNCTION gate() RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN '{}'; END $$;
	CREATE FUNCTION who() RETURNS json STABLE LANGUAGE sql AS $$ SELECT to_json(current_user::text) $$;
	CREATE FUNCTION claims() RETURNS json STABLE LANGUAGE sql AS $$ SELECT json_build_object('claims', current_setting('request.jwt.claims')::json, 'others', web.may_speak_for_others()) $$;
	CREATE FUNCTION watch(name text[]) RETURNS SETOF coupon.http_answer STABLE LANGUAGE sql AS $$ SELECT (200, NULL, '{"a":1}', true)::coupon.http_answer FROM unnest(name) $$;
	CREATE TABLE secret (owner text);
	INSERT INTO secret VALUES ('a'), ('b'), ('b');
	ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
	CREATE POLICY own_rows ON secret FOR SELECT TO coupon_service USING (owner = 'a');
	GRANT SELECT ON secret TO coupon_service;
	CREATE FUNCTION secrets() RETURNS json STABLE LANGUAGE sql AS $$ SELECT to_json(count(*)) FROM secret $$;
	GRANT TEMPORARY ON DATABASE postgres TO coupon_service;
	CREATE FUNCTION litter(fails boolean) RETURNS json LANGUAGE plpgsql AS $$ BEGIN
		PERFORM pg_advisory_lock(77);
		EXECUTE 'CREATE TEMPORARY TABLE left_over (a integer)';
		EXECUTE 'PREPARE left_over AS SELECT 1';
		EXECUTE 'DECLARE left_over CURSOR WITH HOLD FOR SELECT 1';
		IF fails THEN RAISE 'it fails'; END IF;
		RETURN '{}'; END $$;
	CREATE FUNCTION look() RETURNS json LANGUAGE sql AS $$ SELECT json_build_array(
		(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 77), (SELECT count(*) FROM pg_prepared_statements),
		(SELECT count(*) FROM pg_cursors WHERE name = 'left_over'), (SELECT count(*) FROM pg_class WHERE relname = 'left_over')) $$;
	SELECT coupon_route_add('POST', '/notes', 'note_all(text[])', true), coupon_route_add('POST', '/note', 'note_one(text)'),
		coupon_route_add('POST', '/hold', 'hold()'), coupon_route_add('POST', '/gate', 'gate()'),
		coupon_route_add('GET', '/who', 'who()', anonymous_role => 'later'), coupon_route_add('GET', '/claims', 'claims()', anonymous_role => 'later'),
		coupon_route_add('GET', '/own/claims', 'claims()'),
		coupon_route_add('GET', '/members', 'who()', role => 'coupon_admin', anonymous_role => 'later'),
		coupon_route_add('GET', '/watch/{name}', 'watch(text[])', true, role => 'club'),
		coupon_route_add('GET', '/secrets', 'secrets()'), coupon_route_add('POST', '/litter', 'litter(boolean)'), coupon_route_add('POST', '/look', 'look()')});
poll_until('the front', sub { told('GET', '/who') =~ /^200/ });

# ---- whose rights may be given away ----

sub refused
{
	my ($role) = @_;

	return sql_error($node, 'postgres', "SET SESSION AUTHORIZATION boss; SELECT coupon_route_add('POST', '/sql', 'query_to_xml(text,boolean,boolean,text)', anonymous_role => '$role')");
}
like(refused(10), qr/22023.*a superuser/s, 'coupon_admin cannot have anybody be a superuser');
like(refused('later'), qr/42501.*not a member.*HINT/s, '  nor a role that is not theirs');
like(refused('pg_read_all_data'), qr/42501/, '  nor one of the server');
like(sql_error($node, 'postgres', "SET ROLE boss; SELECT coupon_route_add('POST', '/sql', 'query_to_xml(text,boolean,boolean,text)', anonymous_role => 'later')"), qr/42501.*boss is not a member/s, '  nor by SET ROLE, as PostgREST calls');
like(sql_error($node, 'postgres', "SELECT coupon_route_add('POST', '/sql', 'who()', anonymous_role => '10')"), qr/22023/, 'nor can a superuser');
is(sql("SET SESSION AUTHORIZATION boss; SELECT coupon_route_add('POST', '/$_', 'who()', anonymous_role => '$_') IS NULL"), 'f', "coupon_admin may give $_") for 'coupon_reader', 'coupon_user', 'coupon_service', 'coupon_admin';
is(told('GET', '/who'), '200 "later"', 'who sends no token is whom the route says');
# the session of a call over HTTP is a superuser's, whoever calls
sql(q{SET SESSION AUTHORIZATION boss; SELECT coupon_route_add('POST', '/add', 'coupon_route_add(text,text,regprocedure,boolean,regrole,regrole,boolean)', anonymous_role => 'coupon_admin')});
poll_until('the route', sub { told('GET', '/add') =~ /^405/ });
sub add { my ($path, $role) = @_; return told('POST', '/add', $json->encode({ method => 'POST', path => $path, function => 'query_to_xml(text,boolean,boolean,text)', anonymous_role => $role })) }
is(add("/over/$_", $_), '403 42501', "over HTTP coupon_admin gives no role away but coupon's: $_") for 'pg_execute_server_program', 'later', 'coupon_admin';
is(add('/over/reader', 'coupon_reader'), '204 ', '  and those as in SQL');
is(sql(q{SELECT string_agg(path, ' ') FROM coupon.route WHERE path LIKE '/over/%'}), '/over/reader', '  which is all that is served');
sql('ALTER ROLE later SUPERUSER');
is(told('GET', '/who'), '403 role', '  and nobody while that is a superuser');
sql('ALTER ROLE later NOSUPERUSER');
is(told('GET', '/who'), '200 "later"', '  and again');

# ---- refused calls beside one whose transaction fails at its end ----

my $gate = $node->background_psql('postgres');
$gate->query_safe('BEGIN; SELECT pg_advisory_xact_lock(1)');
my $first = post('/gate', '{}');
poll_until('the front at the gate', sub { sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") eq '1' });
my @calls = map { post('/notes', $_) } '{"who":"bad"}', '{"who":"refused","more":1}', '{"who":"good"}';
$gate->query_safe('COMMIT');
$gate->quit;
is(join(' ', map { status_of($_) } $first, @calls), '200 400 400 201', 'a turn of a bad, a refused and a good call');
is(sql('SELECT string_agg(who, $$ $$) FROM note'), 'good', '  of which one is carried out');

# ---- as whom, when it commits ----

is(told('POST', '/note', '{"who":"a"}'), '200 {}', 'a function whose trigger is deferred');
is(told('POST', '/note', '{"who":"bad"}'), '400 P0001', '  and fails');
is(sql(q{SELECT string_agg(DISTINCT by, ' ') FROM seen WHERE what = 'trigger'}), 'app"x', '  the trigger has the rights of the caller');
is(told('POST', '/hold'), '200 {}', 'a function that leaves a cursor');
is(sql(q{SELECT string_agg(DISTINCT by, ' ') FROM seen WHERE what = 'cursor' AND by <> 'app"x'}), '', '  which is read as nobody else');
sql(q{CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(CASE WHEN new.who = 'slow' THEN 2 ELSE 0 END); RETURN NULL; END $$;
	CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON note DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow();
	ALTER SYSTEM SET coupon.http_statement_timeout = '500ms'});
$node->reload;
poll_until('a limit for what is deferred', sub { told('POST', '/note', '{"who":"slow"}') =~ /^50[34]/ });
pass('what is deferred takes no longer than the function may');
sql('ALTER SYSTEM RESET coupon.http_statement_timeout');
$node->reload;
poll_until('the reload', sub { told('POST', '/note', '{"who":"slow"}') =~ /^200/ });

# ---- claims ----

is(told('GET', '/claims'), '200 {"claims":{"role":"later"},"others":false}', 'who sends no token speaks for nobody else');
is(told('GET', '/own/claims'), '200 {"claims":{"role":"app\"x"},"others":true}', 'the claims of coupon.http_role, whatever its name');
is(sql(q{SELECT web.may_speak_for_others(); SET request.jwt.claims = '{}'; SELECT web.may_speak_for_others()}), "t\nf", 'claims without a role are not those of the session');

# ---- row security ----

is(told('GET', '/secrets'), '200 1', 'a function sees the rows that the caller may see');

# ---- one role's plan is not another's right ----

sub become { my ($role) = @_; reload($node, "coupon.http_role = '$role'\n"); poll_until("calls as $role", sub { told('GET', '/own/claims') =~ /"role":"\Q@{[ $role =~ s{"}{\\"}gr ]}\E"/ }); return }
sql(q{CREATE ROLE inside; CREATE ROLE outside; GRANT coupon_service TO inside, outside;
	CREATE SCHEMA inner_room; GRANT USAGE ON SCHEMA inner_room TO inside;
	CREATE FUNCTION inner_room.tell() RETURNS json STABLE LANGUAGE sql AS $$ SELECT '"told"'::json $$;
	CREATE FUNCTION told_to_some() RETURNS json STABLE LANGUAGE sql AS $$ SELECT '"told"'::json $$;
	REVOKE EXECUTE ON FUNCTION told_to_some() FROM PUBLIC; GRANT EXECUTE ON FUNCTION told_to_some() TO inside;
	CREATE FUNCTION tell() RETURNS json STABLE LANGUAGE sql AS $$ SELECT public.told_to_some() $$;
	SELECT coupon_route_add('GET', '/inner', 'inner_room.tell()'), coupon_route_add('GET', '/some', 'tell()')});
become('inside');
is(told('GET', '/inner'), '200 "told"', 'a function in a schema that the role may use');
is(join(' ', map { told('GET', '/some') } 1 .. 8), join(' ', ('200 "told"') x 8), '  and one that calls another, which it may');
become('outside');
is(told('GET', '/inner'), '403 42501', '  are none of a role that may not');
is(told('GET', '/some'), '403 42501', '  either of them');
become('app"x');

# ---- what a function leaves in the session ----

is(told('POST', '/litter', '{"fails":false}'), '200 {}', 'a function that leaves things in the session');
is(told('POST', '/look', '{}'), '200 [0,0,0,0]', '  which are gone after it');
is(told('POST', '/litter', '{"fails":true}'), '400 P0001', '  and if it fails');
is(told('POST', '/look', '{}'), '200 [0,0,0,0]', '  likewise');

# ---- roles that a route asks for ----

is(told('GET', '/members'), '403 role', 'a route for members is none for those without a token');
my $stream = connected("GET /watch/a HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n");
like(read_until($stream, qr/event: status\n/), qr/event: status\n/, 'a stream of a route for members');
sql('REVOKE club FROM "app""x"');
like(read_until($stream, qr/\r\n0\r\n\r\n\z/), qr/event: problem\n.*"role".*\r\n0\r\n\r\n\z/s, '  ends when the caller is none any more');
is(told('GET', '/watch/a'), '403 role', '  who is not let in again');

# ---- what was answered lasts ----

my $campaign = sql("SELECT coupon_campaign_create('lasting', 5)");
is(request($base, 'POST', "/campaigns/$campaign/issues", '{"user_id":"u"}', 'Content-Type' => 'application/json')->{status}, 201, 'issued while synchronous_commit is off');
$node->stop('immediate');
$node->start;
is(sql("SELECT count(*) FROM coupon.issuance WHERE user_id = 'u'"), 1, '  and there after a crash');
conserved($node, 'postgres', 'rights');
$node->stop;
done_testing();
