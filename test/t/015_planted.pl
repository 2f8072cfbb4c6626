# CREATE EXTENSION in a database whose owner is up to no good.  The target
# schema is theirs, and holds an operator of every name that the script uses,
# for every pair of types that pg_catalog has none for, functions likewise,
# types and casts.  One that is closer to the operands than pg_catalog's would
# be taken, and run by the superuser who installs, or by whoever uses the sale.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('planted');
$node->init;
$node->append_conf('postgresql.conf', <<'END');
shared_preload_libraries = 'coupon'
coupon.databases = ''
END
$node->start;
$node->safe_psql('postgres', q{CREATE ROLE mallory LOGIN; CREATE DATABASE prey OWNER mallory});

# What planted functions do: say that they were called.  The script's own
# words are what to plant: a superset of the operators and functions in it.
my $plant = <<'END';
SET check_function_bodies = off;
SET search_path = pg_catalog, pg_temp;
CREATE TABLE public.caught (by name DEFAULT current_user, what text);
GRANT ALL ON public.caught TO PUBLIC;
CREATE TYPE public.lure AS (x integer);

CREATE TABLE public.type (type regtype);
INSERT INTO public.type SELECT unnest(ARRAY['int2', 'int4', 'int8', 'float8', 'numeric', 'bool', 'text', 'varchar',
	'bpchar', 'name', '"char"', 'timestamptz', 'interval', 'jsonb', 'json', 'oid', 'regclass', 'uuid', 'bytea', 'public.lure']::regtype[]);
CREATE TABLE public.word AS SELECT DISTINCT w[1] AS word FROM regexp_matches(:'script', '[a-z_][a-z_0-9]*', 'g') w;

CREATE FUNCTION public.plant(name text, arguments text, result text) RETURNS void LANGUAGE plpgsql AS $p$
BEGIN
	EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', name, arguments, result,
		format('BEGIN INSERT INTO public.caught (what) VALUES (%L); RETURN NULL; END', name || '(' || arguments || ')'));
END $p$;

DO $p$
DECLARE
	o record;
	result text;
BEGIN
	-- operators
	FOR o IN SELECT p.oprname, l.type AS l, r.type AS r, p.result
	           FROM (SELECT DISTINCT ON (oprname) oprname, oprresult::regtype AS result FROM pg_operator
	                  WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprkind = 'b' AND oprresult IN (SELECT type FROM public.type)
	                  ORDER BY oprname, oprresult = 'bool'::regtype DESC) p, public.type l, public.type r
	          WHERE strpos(current_setting('test.script'), p.oprname) > 0
	            AND NOT EXISTS (SELECT FROM pg_operator x WHERE x.oprname = p.oprname AND x.oprleft = l.type AND x.oprright = r.type)
	LOOP
		result := 'operator_' || o.result::oid;
		IF to_regprocedure(format('public.%s(%s, %s)', result, o.l, o.r)) IS NULL THEN
			PERFORM public.plant(result, format('%s, %s', o.l, o.r), o.result::text);
		END IF;
		EXECUTE format('CREATE OPERATOR public.%s (FUNCTION = public.%s, LEFTARG = %s, RIGHTARG = %s)', o.oprname, result, o.l, o.r);
	END LOOP;
	-- functions: those of pg_catalog with another type in one place
	FOR o IN SELECT DISTINCT p.proname, p.proargtypes, p.pronargs, p.prorettype, n, t.type
	           FROM pg_proc p JOIN public.word w ON w.word = p.proname, generate_series(0, p.pronargs - 1) n, public.type t
	          WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.pronargs BETWEEN 1 AND 5 AND p.provariadic = 0
	LOOP
		SELECT string_agg(CASE WHEN a.i - 1 = o.n THEN o.type ELSE a.t::regtype END::text, ', ' ORDER BY a.i) INTO result
		  FROM unnest(o.proargtypes::oid[]) WITH ORDINALITY a(t, i);
		BEGIN
			IF to_regprocedure(format('pg_catalog.%I(%s)', o.proname, result)) IS NULL
			   AND to_regprocedure(format('public.%I(%s)', o.proname, result)) IS NULL THEN
				PERFORM public.plant(o.proname, result, CASE WHEN o.prorettype::regtype::text ~ '^any|internal|trigger|cstring|record|void' THEN 'text'
					ELSE o.prorettype::regtype::text END);
			END IF;
		EXCEPTION WHEN OTHERS THEN
			NULL;
		END;
	END LOOP;
	-- those that take anything
	FOR o IN SELECT f, a FROM unnest(ARRAY['format', 'concat', 'jsonb_build_object', 'json_build_object', 'jsonb_build_array', 'unnest', 'min', 'max', 'count', 'lag', 'array_agg', 'quote_literal']) f,
	                          unnest(ARRAY['text, text', 'text, bigint', 'text, integer', 'text, bigint, bigint', 'text, name', 'text, jsonb', 'text', 'bigint', 'integer', 'uuid', 'jsonb', 'anyelement', 'anyarray', 'text, anyelement']) a
	LOOP
		IF to_regprocedure(format('pg_catalog.%I(%s)', o.f, o.a)) IS NULL AND to_regprocedure(format('public.%I(%s)', o.f, o.a)) IS NULL THEN
			PERFORM public.plant(o.f, o.a, 'text');
		END IF;
	END LOOP;
	-- types of the names that the script uses, and casts to and from a type of theirs
	FOR o IN SELECT word FROM public.word WHERE to_regtype('pg_catalog.' || word) IS NOT NULL LOOP
		EXECUTE format('CREATE TYPE public.%I AS (x integer)', o.word);
	END LOOP;
	FOR o IN SELECT t.type, row_number() OVER () AS n FROM public.type t WHERE t.type <> 'public.lure'::regtype LOOP
		PERFORM public.plant('from_' || o.n, o.type::text, 'public.lure');
		PERFORM public.plant('to_' || o.n, 'public.lure', o.type::text);
		EXECUTE format('CREATE CAST (%s AS public.lure) WITH FUNCTION public.from_%s(%1$s) AS IMPLICIT', o.type, o.n);
		EXECUTE format('CREATE CAST (public.lure AS %s) WITH FUNCTION public.to_%s(public.lure) AS IMPLICIT', o.type, o.n);
	END LOOP;
END $p$;
END

$node->safe_psql('prey', "\\set script `sql/build`\nSET test.script = :'script';\n$plant",
	connstr => $node->connstr('prey') . ' user=mallory');

my $count = q{SELECT count(*) FROM %s WHERE %snamespace = 'public'::regnamespace};
cmp_ok($node->safe_psql('prey', sprintf($count, 'pg_operator', 'opr')), '>', 1000, 'operators are planted');
cmp_ok($node->safe_psql('prey', sprintf($count, 'pg_proc', 'pro')), '>', 1000, 'functions are planted');

# the trap works
$node->safe_psql('prey', 'SET search_path = public; SELECT 1.5::float8 > 0');
is($node->safe_psql('prey', 'DELETE FROM public.caught RETURNING by'), 'postgres', 'the trap works: a superuser calls an operator of the owner');

$node->safe_psql('prey', 'CREATE EXTENSION coupon');

# Whatever refers to a planted object and is not planted itself.
is( $node->safe_psql('prey', q{
		SET search_path = pg_catalog;
		WITH planted AS (
			SELECT 'pg_proc'::regclass AS classid, oid FROM pg_proc WHERE proowner = 'mallory'::regrole
			UNION ALL SELECT 'pg_operator'::regclass, oid FROM pg_operator WHERE oprowner = 'mallory'::regrole
			UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typowner = 'mallory'::regrole
			UNION ALL SELECT 'pg_class'::regclass, oid FROM pg_class WHERE relowner = 'mallory'::regrole
			UNION ALL SELECT 'pg_cast'::regclass, oid FROM pg_cast WHERE oid >= 16384)
		SELECT pg_describe_object(d.classid, d.objid, d.objsubid) || ' uses ' || pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
		  FROM pg_depend d JOIN planted p ON p.classid = d.refclassid AND p.oid = d.refobjid
		 WHERE NOT EXISTS (SELECT FROM planted q WHERE q.classid = d.classid AND q.oid = d.objid)
		   AND d.classid <> 'pg_attrdef'::regclass
		 ORDER BY 1}),
	'', 'no object of the extension uses anything planted');
is($node->safe_psql('prey', 'SELECT DISTINCT by, what FROM public.caught'), '', 'CREATE EXTENSION called nothing planted');

# A sale by the superuser, with the target schema in the path as it is by default.
$node->safe_psql('prey', q{
	SET search_path = public;
	SELECT public.coupon_campaign_create('plain'::text, 100::bigint, 2::integer, NULL::timestamptz, NULL::timestamptz, '{"kind": "RATE", "rate": 10, "usage_period_days": 1}'::jsonb);
	SELECT public.coupon_campaign_create('coded'::text, 0::bigint);
	SELECT public.coupon_codes_import(2::bigint, ARRAY['A', 'B', 'A']::text[]), public.coupon_codes_generate(2::bigint, '########'::text, 5::bigint);
	SELECT public.coupon_campaign_create('hall'::text, 0::bigint, 4::integer);
	SELECT public.coupon_units_import(3::bigint, ARRAY['S1', 'S2', 'S3', 'S4']::text[]);
	SELECT public.coupon_campaign_add_stock(1::bigint, 10::bigint), public.coupon_campaign_pause(1::bigint), public.coupon_campaign_resume(1::bigint);
	SELECT public.coupon_issue(1::bigint, 'a'::text), public.coupon_issue(1::bigint, 7::bigint), public.coupon_issue(2::bigint, 'a'::text);
	SELECT public.coupon_issue_many(1::bigint, ARRAY['b', 'c', '']::text[]);
	SELECT public.coupon_hold(3::bigint, 1::bigint, 'a'::text, '1 ms'::interval), public.coupon_hold(3::bigint, 2::bigint, 7::bigint, '5 min'::interval),
		public.coupon_hold_any(3::bigint, 'a'::text, '1 ms'::interval), public.coupon_hold_many(3::bigint, ARRAY[4]::bigint[], 7::bigint, '5 min'::interval)});
poll_until('the holds to run out', sub { $node->safe_psql('prey', q{
	SELECT bool_and(h.held_until OPERATOR(pg_catalog.<) clock_timestamp()) FROM coupon.issuance h WHERE h.user_id OPERATOR(pg_catalog.=) 'a'::text AND h.campaign_id OPERATOR(pg_catalog.=) 3::bigint}) eq 't' });
$node->safe_psql('prey', q{
	SET search_path = public;
	SELECT public.coupon_hold(3::bigint, 1::bigint, 8::bigint, '5 min'::interval);
	SELECT public.coupon_confirm(3::bigint, 1::bigint, 'a'::text, 'late'::text), public.coupon_confirm(3::bigint, 2::bigint, 7::bigint, 'paid'::text);
	SELECT public.coupon_hold_expire(10::integer), public.coupon_release(3::bigint, 4::bigint, 7::bigint);
	SELECT public.coupon_redeem(1::bigint, 'a'::text, 'o'::text, NULL::bigint), public.coupon_redeem(1::bigint, 7::bigint, 'o'::text, NULL::bigint);
	SELECT public.coupon_redeem_cancel(1::bigint, 'a'::text, 'o'::text, NULL::bigint);
	SELECT public.coupon_revoke(1::bigint, 'a'::text, 'r'::text, NULL::bigint), public.coupon_expire(10::integer);
	SELECT public.coupon_emit('t'::text, 'k'::text, 'y'::text, '{}'::jsonb);
	SELECT public.coupon_request(1::bigint, 'r'::text, NULL::text), public.coupon_request(1::bigint, 9::bigint, 'k'::text);
	SELECT public.coupon_request_decide(10::integer), public.coupon_request_status_of(1::bigint, 'r'::text);
	SELECT public.coupon_request_queue(NULL::bigint);
	SELECT public.coupon_room_create('lots'::text, 5::integer, 2.5::numeric, '5 min'::interval, '1 min'::interval, 'random'::text, clock_timestamp());
	SELECT public.coupon_room_create('room'::text, 5::integer, 2.5::numeric);
	SELECT public.coupon_room_alter('room'::text, 6::integer, 3.5::numeric), public.coupon_room_pause('room'::text), public.coupon_room_resume('room'::text);
	SELECT public.coupon_campaign_require_room(2::bigint, 'room'::text);
	SELECT public.coupon_queue_join('room'::text, 'a'::text), public.coupon_queue_join('lots'::text, 'a'::text), public.coupon_queue_serve();
	SELECT public.coupon_room_draw('lots'::text);
	INSERT INTO coupon.dead_letter SELECT e.id, e.topic, e.key, e.type, e.payload, 'r'::text, 1::integer, now() FROM coupon.outbox e LIMIT 2;
	SELECT public.coupon_dead_letter_replay(d.id, NULL::text) FROM coupon.dead_letter d LIMIT 1;
	SELECT public.coupon_dead_letter_discard(NULL::uuid, NULL::text);
	SELECT public.coupon_outbox_status(), public.coupon_group_status(), public.coupon_status(1::bigint);
	SELECT public.coupon_units(3::bigint);
	SELECT * FROM coupon.campaign_status; SELECT * FROM coupon.room_status;
	SELECT public.coupon_campaign_close(1::bigint)});
is($node->safe_psql('prey', 'SELECT public.coupon_verify()'), '', 'the sale is sound');
is($node->safe_psql('prey', 'SELECT DISTINCT by, what FROM public.caught'), '', 'a sale called nothing planted');

# the workers, too
$node->append_conf('postgresql.conf', "coupon.databases = 'prey'\n");
$node->restart;
$node->safe_psql('prey', q{
	SELECT public.coupon_campaign_create('more'::text, 10::bigint);
	SELECT public.coupon_request(4::bigint, 'w'::text, NULL::text)});
poll_until('the issuer', sub { $node->safe_psql('prey', q{SELECT (public.coupon_request_status_of(4::bigint, 'w'::text)).status}) eq 'COMPLETED' });
is($node->safe_psql('prey', 'SELECT DISTINCT by, what FROM public.caught'), '', 'the workers called nothing planted');

is($node->safe_psql('postgres', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'}), 'f', 'the owner is no superuser');
$node->stop;
server_log_is_clean($node, 'planted');
done_testing();
