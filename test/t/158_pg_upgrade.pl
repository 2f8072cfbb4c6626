# pg_upgrade: the data directory of a sale goes on with a newer server, or
# another one of the same version.  Everything that was there is there, what
# was not published is published, who waited is served.
#
# COUPON_OTHER_PG_CONFIG names pg_config's of other versions, separated by colons:
# coupon is built for each, and the sale goes from the older one to the newer.
use strict;
use warnings;

use CouponKafka;
use CouponTest;
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $broker = kafka_tools_missing() ? undef : mock_broker(topics => { 'coupon-issued' => 12 });
my $tables = q{
	SELECT format('SELECT %L, t::text FROM ONLY %s t ORDER BY 2', c.oid::regclass, c.oid::regclass) FROM pg_class c
	WHERE relnamespace = 'coupon'::regnamespace AND relkind = 'r' ORDER BY c.oid::regclass::text \gexec};

# major(pg_config)
sub major { return (`'$_[0]' --version` =~ /(\d+)/)[0] }

# installation(pg_config): a copy of that PostgreSQL with coupon in it, as the
# install_path of a server; undef: the one that all tests use
sub installation
{
	my ($pg_config) = @_;
	my $copy = "$dir/" . major($pg_config);
	my $source = "$copy.source";

	mkdir $source;
	system_or_bail('cp', '-R', 'Makefile', 'coupon.control', (glob 'coupon--*.sql'), 'sql', 'src', $source);
	system_or_bail('test/bin/copy_postgres', $pg_config, $copy);
	delete local @ENV{qw(MAKEFLAGS MFLAGS)};
	system_or_bail('make', '-s', '-j2', '-C', $source, "PG_CONFIG=$pg_config", 'with_llvm=no', "DESTDIR=$copy", $_) for qw(all install);
	return $copy . dirname(`'$pg_config' --bindir` =~ s/\n//r);
}

# server(name, installation, major): with nothing in it, stopped
sub server
{
	my ($name, $install_path, $major) = @_;
	my $node = server_of($name, $install_path);

	$node->init(extra => [ '--locale=C', '--encoding=UTF8', $major >= 18 ? '--no-data-checksums' : () ]);
	$node->append_conf('postgresql.conf', <<"END");
shared_preload_libraries = 'coupon'
max_worker_processes = 32
coupon.databases = 'postgres'
END
	return $node;
}

# upgrade(what, old, new): old and new are installation and major version
sub upgrade
{
	my ($what, $old_version, $new_version) = @_;
	(my $name = $what) =~ s/\W+/_/g;
	my $old = server("old_$name", @$old_version);
	my $sql = sub { $old->safe_psql('postgres', @_) };

	$old->start;
	$sql->('CREATE EXTENSION coupon');
	$sql->(q{
		CREATE ROLE my_application;
		GRANT coupon_service TO my_application;
		ALTER ROLE my_application SET coupon.sold_out_wait = '70ms';
		ALTER DATABASE postgres SET coupon.sold_out_wait = '50ms';
		SELECT coupon_campaign_create('plain', 100, policy => '{"kind": "RATE", "rate": 10, "usage_period_days": 30}');
		SELECT coupon_campaign_create('coded', 0), coupon_codes_generate(2, 'C-########', 50);
		SELECT coupon_campaign_create('hall', 0), coupon_units_import(3, '{A1,A2,A3,A4}');
		SELECT coupon_campaign_create('asked for', 10);
		SELECT coupon_room_create('door', 1, session_ttl => '1 day', idle_ttl => '1 day');
		SELECT coupon_issue_many(c, ARRAY(SELECT 'u' || g FROM generate_series(1, 40) g)) FROM generate_series(1, 2) c;
		SELECT coupon_campaign_create('by key', 5, per_user_limit => 2), coupon_issue(5, 'keyed', 'key 1');
		SELECT coupon_redeem(1, 'u1', 'order'), coupon_revoke(1, 'u2', 'test');
		SELECT coupon_hold(3, 1, 'holds', '1 day'), coupon_hold(3, 2, 'paid', '1 day'), coupon_confirm(3, 2, 'paid', 'ref');
		BEGIN;
		SELECT coupon_request(4, 'r' || g, 'key ' || g) FROM generate_series(1, 5) g;
		SELECT coupon_campaign_pause(4);
		COMMIT;
		CREATE FUNCTION greeting(name text) RETURNS json LANGUAGE sql STABLE AS 'SELECT json_build_object(''hello'', name)';
		SELECT coupon_route_add('GET', '/greetings/{name}', 'greeting(text)', role => 'my_application');
		INSERT INTO coupon.dead_letter SELECT id, topic, key, type, payload, 'too large', 1, now() FROM coupon.outbox LIMIT 1});
	my %token = map { split /\|/ } split /\n/, $sql->(q{SELECT u, token FROM unnest('{a,b,c}'::text[]) u, coupon_queue_join('door', u)});
	await_true($old, 'postgres', q{SELECT admitted = 1 FROM coupon.room_status});
	my $before = $sql->($tables);
	my $places = $sql->(qq{SELECT p.status, p.queue_position FROM unnest('{$token{a},$token{b},$token{c}}'::text[]) t, coupon_queue_position(t) p});
	my $stamped = $sql->(q{SELECT count(*) FROM pg_attribute WHERE attrelid = 'coupon.campaign'::regclass AND attoptions::text LIKE '%pg_attver%'});
	my $last_event = $sql->('SELECT max(id::text) FROM coupon.outbox');
	$old->stop;

	# Some minor releases stamp each column with an option that others do not know.
	my $new = server("new_$name", @$new_version);
	if ($stamped ne '0')
	{
		$new->start;
		my $unknown = sql_error($new, 'template1', 'BEGIN; CREATE TABLE t (a int); ALTER TABLE t ALTER a SET (pg_attver = 1); ROLLBACK');
		$new->stop;
		if ($unknown)
		{
			skip "skipped: $what: pg_upgrade cannot do it with any table: $unknown", 1;
		}
	}
	chdir $dir or die $!;
	my $succeeded = ok(run_log([ config_data($new, '--bindir') . '/pg_upgrade', (config_data($new, '--version') =~ / 14/ ? () : '--no-sync'), '-d', $old->data_dir, '-D', $new->data_dir,
			'-b', config_data($old, '--bindir'), '-B', config_data($new, '--bindir'), '-s', $new->host, '-p', $old->port, '-P', $new->port ]),
		"$what: pg_upgrade");
	chdir $ENV{PWD} or die $!;
	return if !$succeeded;
	$new->start;
	$sql = sub { $new->safe_psql('postgres', @_) };

	is($sql->($tables), $before, "$what: every row of every table");
	is($sql->(qq{SELECT p.status, p.queue_position FROM unnest('{$token{a},$token{b},$token{c}}'::text[]) t, coupon_queue_position(t) p}),
		$places, "$what: who waits waits in the same place, by the same token");
	is($sql->(q{SELECT setdatabase <> 0, setrole::regrole, setconfig FROM pg_db_role_setting ORDER BY 1}),
		"f|my_application|{coupon.sold_out_wait=70ms}\nt|-|{coupon.sold_out_wait=50ms}", "$what: settings of a database and a role");
	is($sql->(q{SELECT role FROM coupon.http_route WHERE path LIKE '/greetings%'}), 'my_application', "$what: a route, and its role");
	is($sql->(q{SET ROLE my_application; SELECT status, serial FROM coupon_issue(1, 'u7')}),
		$sql->(q{SELECT 'already_issued', serial FROM coupon.issuance WHERE campaign_id = 1 AND user_id = 'u7'}), "$what: a retry finds its unit");
	is($sql->(q{SELECT string_agg(status, ' ' ORDER BY n) FROM (
			SELECT 1 AS n, status FROM coupon_hold(3, 1, 'another') UNION ALL SELECT 2, status FROM coupon_confirm(3, 1, 'holds', 'ref 2')
			UNION ALL SELECT 3, status FROM coupon_confirm(3, 2, 'paid', 'ref') UNION ALL SELECT 4, status FROM coupon_redeem(1, 'u1', 'else')) x}),
		'taken confirmed already_confirmed already_redeemed', "$what: holds and redemptions");
	is($sql->(q{SELECT count(DISTINCT serial) FROM unnest('{key 1,key 1,key 2}'::text[]) k, coupon_issue(5, 'keyed', k)}), '2', "$what: the key of a call is known");
	is($sql->(q{SELECT status, repeated FROM coupon_request(4, 'r3', 'key 3')}), 'WAITING|t', "$what: the key of a request is known");
	$sql->('SELECT coupon_campaign_resume(4)');
	await_true($new, 'postgres', q{SELECT count(*) = 5 FROM coupon.issuance WHERE campaign_id = 4});
	is($sql->(q{SELECT string_agg(user_id, ' ' ORDER BY decided_at, request_id) FROM coupon.request WHERE outcome = 'issued'}), 'r1 r2 r3 r4 r5', "$what: decided in order");
	is($sql->(q{SELECT count(*) FILTER (WHERE status = 'issued'), count(*) FILTER (WHERE status = 'sold_out')
			FROM coupon_issue_many(1, ARRAY(SELECT 'n' || g FROM generate_series(1, 70) g))}), '61|9', "$what: exactly the rest is sold");
	is($sql->(q{SELECT coupon_campaign_create('next', 1)}), '6', "$what: the next campaign's id");
	is($sql->(qq{SELECT count(*) > 60 AND min(id::text) > '$last_event' FROM coupon.outbox WHERE payload ->> 'user_id' LIKE 'n%'}), 't', "$what: ids of events rise");
	conserved($new, 'postgres', $what);

  SKIP:
	{
		skip kafka_tools_missing(), 1 unless $broker;

		my $events = $sql->(q{SELECT string_agg(id::text, ' ' ORDER BY id) FROM coupon.outbox});
		alter_system($new, 'coupon.kafka_brokers' => $broker->bootstrap);
		await_true($new, 'postgres', 'SELECT unpublished = 0 FROM coupon_outbox_status()');
		my %arrived = map { $_->{id} => 1 } grep { defined $_->{id} } @{ consume($broker->bootstrap, 'coupon-issued') };
		is(join(' ', grep { !$arrived{$_} } split / /, $events), '', "$what: what was not published is published");
	}
	$new->stop;
	server_log_is_clean($new, $what);
	return;
}

my $here = [ undef, major($ENV{PG_CONFIG}) ];
SKIP:
{
	upgrade("$here->[1] to itself", $here, $here);
}

my @others = split /:/, $ENV{COUPON_OTHER_PG_CONFIG} // '';
SKIP:
{
	skip 'skipped: one version of PostgreSQL; COUPON_OTHER_PG_CONFIG names others', 1 if !@others;
}
for my $pg_config (@others)
{
	my $other = [ installation($pg_config), major($pg_config) ];
	my ($old, $new) = sort { $a->[1] <=> $b->[1] } $here, $other;

  SKIP:
	{
		upgrade("$old->[1] to $new->[1]", $old, $new);
	}
}
done_testing();
