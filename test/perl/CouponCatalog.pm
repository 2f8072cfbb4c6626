# What an extension consists of, read from the catalogs: a list of lines that
# are the same in two databases when the extension is.
package CouponCatalog;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(extension_catalog catalog_difference);

# The objects of the extension, and what hangs on its tables.  Each line begins
# with what it tells of.  pg_attver is a stamp that some minor releases of the
# server put upon every column.
my $objects = q{
WITH member AS (
	SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
	WHERE d.deptype = 'e' AND e.extname = 'coupon'
), relation AS (
	SELECT c.* FROM pg_class c WHERE c.oid IN (SELECT objid FROM member WHERE classid = 'pg_class'::regclass)
	UNION SELECT c.* FROM pg_class c JOIN pg_type t ON t.typrelid = c.oid
	WHERE c.relkind = 'c' AND t.oid IN (SELECT objid FROM member WHERE classid = 'pg_type'::regclass)
), part AS (
	SELECT classid, objid, 0 AS objsubid FROM member
	UNION SELECT 'pg_class'::regclass, r.oid, a.attnum FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid AND attnum > 0 AND NOT attisdropped
	UNION SELECT 'pg_class'::regclass, indexrelid, 0 FROM pg_index WHERE indrelid IN (SELECT oid FROM relation)
	UNION SELECT 'pg_constraint'::regclass, oid, 0 FROM pg_constraint WHERE conrelid IN (SELECT oid FROM relation)
	UNION SELECT 'pg_trigger'::regclass, oid, 0 FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM relation) AND NOT tgisinternal
), acl AS (
	SELECT 'pg_class'::regclass::oid AS classid, oid AS objid, 0 AS objsubid,
		coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)) AS acl FROM pg_class
	UNION ALL SELECT 'pg_class'::regclass, attrelid, attnum, attacl FROM pg_attribute WHERE attacl IS NOT NULL
	UNION ALL SELECT 'pg_proc'::regclass, oid, 0, coalesce(proacl, acldefault('f', proowner)) FROM pg_proc
	UNION ALL SELECT 'pg_namespace'::regclass, oid, 0, coalesce(nspacl, acldefault('n', nspowner)) FROM pg_namespace
	UNION ALL SELECT 'pg_type'::regclass, oid, 0, coalesce(typacl, acldefault('T', typowner)) FROM pg_type
	UNION ALL SELECT 'pg_language'::regclass, oid, 0, coalesce(lanacl, acldefault('l', lanowner)) FROM pg_language
), line AS (
	SELECT 'member' AS what, pg_describe_object(classid, objid, 0) AS object, '' AS detail FROM member
	UNION ALL
	SELECT 'function', p.oid::regprocedure::text, pg_get_userbyid(proowner) || ' ' || pg_get_functiondef(p.oid)
	FROM pg_proc p JOIN member m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid WHERE prokind IN ('f', 'p')
	UNION ALL
	SELECT 'comment', pg_describe_object(p.classid, p.objid, p.objsubid), d.description
	FROM part p JOIN pg_description d ON d.classoid = p.classid AND d.objoid = p.objid AND d.objsubid = p.objsubid
	UNION ALL
	SELECT 'privilege', pg_describe_object(p.classid, p.objid, p.objsubid), (SELECT string_agg(x::text, ' ' ORDER BY x::text) FROM aclexplode(a.acl) x)
	FROM part p JOIN acl a ON a.classid = p.classid AND a.objid = p.objid AND a.objsubid = p.objsubid
	UNION ALL
	SELECT 'initial privilege', pg_describe_object(p.classid, p.objid, p.objsubid), (SELECT string_agg(x::text, ' ' ORDER BY x::text) FROM aclexplode(i.initprivs) x)
	FROM part p JOIN pg_init_privs i ON i.classoid = p.classid AND i.objoid = p.objid AND i.objsubid = p.objsubid
	UNION ALL
	SELECT 'relation', r.oid::regclass::text, concat_ws(' ', pg_get_userbyid(relowner), relkind, relpersistence, relreplident, relrowsecurity,
		relforcerowsecurity, reloptions::text, (SELECT amname FROM pg_am WHERE oid = relam),
		(SELECT string_agg(inhparent::regclass::text, ' ' ORDER BY inhseqno) FROM pg_inherits WHERE inhrelid = r.oid))
	FROM relation r
	UNION ALL
	SELECT 'column', a.attrelid::regclass || '.' || attname, concat_ws(' ', row_number() OVER (PARTITION BY attrelid ORDER BY attnum),
		format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated, attstorage, attcompression, attislocal, attinhcount,
		nullif(attstattarget, -1), attcollation::regcollation, pg_get_expr(adbin, adrelid),
		(SELECT string_agg(o, ' ' ORDER BY o) FROM unnest(attoptions) o WHERE o NOT LIKE 'pg\_attver=%'))
	FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid AND attnum > 0 AND NOT attisdropped
		LEFT JOIN pg_attrdef d ON adrelid = attrelid AND adnum = attnum
	UNION ALL
	SELECT 'view', oid::regclass::text, pg_get_viewdef(oid) FROM relation WHERE relkind IN ('v', 'm')
	UNION ALL
	SELECT 'sequence', seqrelid::regclass::text, concat_ws(' ', format_type(seqtypid, NULL), seqstart, seqincrement, seqmin, seqmax, seqcache, seqcycle)
	FROM pg_sequence WHERE seqrelid IN (SELECT oid FROM relation)
	UNION ALL
	SELECT 'index', indexrelid::regclass::text, concat_ws(' ', pg_get_indexdef(indexrelid), indisvalid, indisreplident, indisclustered)
	FROM pg_index WHERE indrelid IN (SELECT oid FROM relation)
	UNION ALL
	SELECT 'constraint', conrelid::regclass || ' ' || conname, concat_ws(' ', pg_get_constraintdef(oid), convalidated, conislocal, coninhcount, connoinherit)
	FROM pg_constraint WHERE conrelid IN (SELECT oid FROM relation)
	UNION ALL
	SELECT 'trigger', tgrelid::regclass || ' ' || tgname, pg_get_triggerdef(oid) || ' ' || tgenabled::text
	FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM relation) AND NOT tgisinternal
	UNION ALL
	SELECT 'type', t.oid::regtype::text, concat_ws(' ', typtype, typcategory, typnotnull, typdefault, format_type(nullif(typbasetype, 0), typtypmod),
		(SELECT string_agg(enumlabel, ' ' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid),
		(SELECT string_agg(pg_get_constraintdef(oid), ' ' ORDER BY conname) FROM pg_constraint WHERE contypid = t.oid))
	FROM pg_type t JOIN member m ON m.classid = 'pg_type'::regclass AND m.objid = t.oid
	UNION ALL
	SELECT 'dumped', config::regclass::text, extcondition[n]
	FROM pg_extension, unnest(extconfig) WITH ORDINALITY c(config, n) WHERE extname = 'coupon'
)
SELECT replace(concat_ws('  ', what, object, detail), E'\n', ' ') FROM line ORDER BY 1};

# A query for each table, whose rows are those that the extension's script has written.
my $rows = q{
SELECT format('SELECT %L || replace(t::text, E''\n'', '' '') FROM ONLY %s t', 'row  ' || c.oid::regclass || '  ', c.oid::regclass)
FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
	JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'coupon'
WHERE relkind = 'r'};

# extension_catalog(node, database, change): those lines, and those rows, after a
# change that is then rolled back
sub extension_catalog
{
	my ($node, $database, $change) = @_;

	return sort split /\n/, $node->safe_psql($database, "BEGIN;\n$change;\n$objects;\n$rows \\gexec\nROLLBACK");
}

# catalog_difference(old, new): the lines that only one of two lists has, marked
# by < and >
sub catalog_difference
{
	my ($old, $new) = @_;
	my %count;

	$count{$_}-- for @$old;
	$count{$_}++ for @$new;
	return join '', map { $count{$_} == 0 ? () : $count{$_} < 0 ? "< $_\n" : "> $_\n" } sort keys %count;
}

1;
