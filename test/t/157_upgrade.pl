# An extension that was upgraded is the one that is created anew: functions with
# their bodies, comments, grants, tables, what a dump keeps.  For each version
# from which there is a way to this one; and, tried with a next version that the
# test makes up from the pieces of sql/, that the comparison sees whatever an
# upgrade script forgets, and that a sale goes on through an upgrade.
use strict;
use warnings;

use CouponCatalog;
use CouponTest;
use File::Copy qw(copy);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# The scripts of the next version go beside those of this one, in the copy of
# the installation that this run of the tests has for itself.
my $node = new_server('upgrade', "coupon.databases = 'selling'\n");
my $extensions = config_data($node, '--sharedir') . '/extension';
my $dir = PostgreSQL::Test::Utils::tempdir();
my ($current) = slurp_file('coupon.control') =~ /^default_version = '(.*)'$/m;
my $next = "$current.next";
END { unlink glob "$extensions/coupon--*$next*.sql" if $next; }

# catalog_of(version[, upgraded to]): of a database that has neither afterwards
sub catalog_of
{
	my ($version, $upgraded) = @_;

	return [ extension_catalog($node, 'bare', "CREATE EXTENSION coupon VERSION '$version';" . ($upgraded ? "ALTER EXTENSION coupon UPDATE TO '$upgraded'" : '')) ];
}

# upgraded(version): this version's database, upgraded, which it is not afterwards
sub upgraded
{
	my ($version) = @_;

	return [ extension_catalog($node, 'postgres', "ALTER EXTENSION coupon UPDATE TO '$version'") ];
}

$node->safe_psql('postgres', 'CREATE DATABASE bare');
my $fresh = catalog_of($current);
for my $kind ('member', 'function', 'comment', 'privilege', 'initial privilege', 'relation', 'column', 'view', 'sequence', 'index', 'constraint', 'trigger', 'type', 'dumped')
{
	cmp_ok(scalar(grep { /^\Q$kind\E  / } @$fresh), '>', 0, "the catalog has: $kind");
}

for my $earlier (split /\n/, $node->safe_psql('postgres', qq{
	SELECT source FROM pg_extension_update_paths('coupon') WHERE target = '$current' AND path IS NOT NULL}))
{
	is(catalog_difference(catalog_of($earlier, $current), $fresh), '', "$earlier, upgraded, is $current");
}

# ---- the next version ----

# change(piece, pattern, sub that gives the replacement): in the pieces, of which the test has a copy
system_or_bail('cp', '-R', 'sql', 'coupon.control', $dir);
sub change
{
	my ($piece, $pattern, $replacement) = @_;
	my $text = slurp_file("$dir/sql/$piece");

	$text =~ s/$pattern/$replacement->()/e or die "$piece has no $pattern: this test must be brought up to date";
	unlink "$dir/sql/$piece";
	append_to_file("$dir/sql/$piece", $text);
	return;
}

my $outbox = '50_outbox.sql';
my ($guard) = slurp_file("sql/$outbox") =~ /^(CREATE FUNCTION coupon\.outbox_guard\(\).*?^\$\$;\n)/ms;
(my $new_guard = $guard) =~ s/Rows can be deleted\./Delete rows, or leave them./ or die 'outbox_guard has another hint';
change($outbox, qr/\Q$guard\E/, sub { $new_guard });
change($outbox, qr/(^CREATE TABLE coupon\.dead_letter \(.*?)\n\);/ms, sub { "$1,\n\tnote text DEFAULT 'none',\n\tCONSTRAINT dead_letter_tried CHECK (attempts OPERATOR(pg_catalog.>=) 0)\n);" });
change($outbox, qr/(COMMENT ON COLUMN coupon\.dead_letter\.dead_at IS )'.*';/, sub { "$1'When it was given up for good.';" });
change($outbox, qr/^CREATE FUNCTION \@extschema\@\.coupon_dead_letter_discard.*?^COMMENT ON FUNCTION.*?;\n/ms, sub { '' });
change('privileges', qr/^.*function coupon_dead_letter_discard.*\n/m, sub { '' });
change('privileges', qr/^  X     -       -( .*function coupon_campaign_pause)/m, sub { "  X     X       -$1" });
append_to_file("$dir/sql/98_next.sql", my $new_piece = <<'END');
CREATE TABLE coupon.promise (
	promise_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	what       text NOT NULL
);
CREATE INDEX promise_what_idx ON coupon.promise (what);
COMMENT ON TABLE coupon.promise IS 'What was promised.';
SELECT pg_catalog.pg_extension_config_dump('coupon.promise', '');
CREATE FUNCTION coupon.promise_guard() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER promise_guard BEFORE INSERT ON coupon.promise FOR EACH ROW EXECUTE FUNCTION coupon.promise_guard();
END
append_to_file("$dir/sql/privileges", "  r     -       r      -     table coupon.promise\n  -     -       -      -     function coupon.promise_guard()\n");
append_to_file("$dir/coupon.control.new", slurp_file("$dir/coupon.control") =~ s/^default_version = .*$/default_version = '$next'/mr);
rename "$dir/coupon.control.new", "$dir/coupon.control";
append_to_file("$extensions/coupon--$next.sql", scalar `'$dir/sql/build'`);

# What the upgrade script has to do, each by a name.  What others need comes
# first, and cannot be left out.
my ($table, @piece) = split /^(?=CREATE INDEX|COMMENT|SELECT|CREATE TRIGGER)/m, $new_piece;
my ($trigger_function) = $new_piece =~ /^(CREATE FUNCTION.*?\$\$;\n)/ms;
@piece = map { s/^CREATE FUNCTION.*?\$\$;\n//msr } @piece;
my @steps = (
	[ 'a column' => q{ALTER TABLE coupon.dead_letter ADD COLUMN note text DEFAULT 'none';} ],
	[ 'a constraint' => 'ALTER TABLE coupon.dead_letter ADD CONSTRAINT dead_letter_tried CHECK (attempts OPERATOR(pg_catalog.>=) 0);' ],
	[ 'a comment' => q{COMMENT ON COLUMN coupon.dead_letter.dead_at IS 'When it was given up for good.';} ],
	[ 'the body of a function' => $new_guard =~ s/CREATE FUNCTION/CREATE OR REPLACE FUNCTION/r ],
	[ 'a function that went' => 'DROP FUNCTION @extschema@.coupon_dead_letter_discard(uuid, text);' ],
	[ 'a grant' => 'GRANT EXECUTE ON FUNCTION @extschema@.coupon_campaign_pause(bigint) TO coupon_service;' ],
	[ 'to revoke from PUBLIC' => 'REVOKE ALL ON FUNCTION coupon.promise_guard() FROM PUBLIC;' ],
	[ 'grants on a table' => 'GRANT SELECT ON TABLE coupon.promise TO coupon_admin, coupon_reader;' ],
	map { [ (/^CREATE INDEX/ ? 'an index' : /^COMMENT/ ? 'a comment on a table' : /^SELECT/ ? 'what a dump keeps' : 'a trigger') => $_ ] } @piece);

# upgrade_script(target, steps): from this version to that one
sub upgrade_script
{
	my ($target, @chosen) = @_;

	append_to_file("$extensions/coupon--$current--$target.sql", join "\n", $table, $trigger_function, map { $_->[1] } @chosen);
	return;
}

upgrade_script($next, @steps);
my $next_fresh = catalog_of($next);
isnt(catalog_difference($fresh, $next_fresh), '', 'the next version is another one');
is(catalog_difference(upgraded($next), $next_fresh), '', 'upgraded, it is the next version');
for my $forgotten (0 .. $#steps)
{
	upgrade_script("$next.$forgotten", @steps[ grep { $_ != $forgotten } 0 .. $#steps ]);
	isnt(catalog_difference(upgraded("$next.$forgotten"), $next_fresh), '', "seen when it is forgotten: $steps[$forgotten][0]");
}

# ---- a sale goes on ----

$node->safe_psql('postgres', 'CREATE DATABASE selling');
$node->safe_psql('selling', "CREATE EXTENSION coupon VERSION '$current'");
$node->safe_psql('selling', q{
	SELECT coupon_campaign_create('before', 100);
	SELECT coupon_issue_many(1, ARRAY(SELECT 'u' || g FROM generate_series(1, 40) g))});
await_true($node, 'selling', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'coupon issuer' AND datname = 'selling'});
$node->safe_psql('selling', "ALTER EXTENSION coupon UPDATE TO '$next'");
is($node->safe_psql('selling', q{SELECT string_agg(status, ' ') FROM coupon_issue_many(1, '{u1,new}'::text[])}), 'already_issued issued', 'upgraded while it sells: it sells on');
$node->safe_psql('selling', q{SELECT coupon_request(1, 'asks')});
await_true($node, 'selling', q{SELECT count(*) = 1 FROM coupon.issuance WHERE user_id = 'asks'});
conserved($node, 'selling', 'upgraded');

$node->stop;
server_log_is_clean($node, 'upgrade');
done_testing();
