# The examples in README.md and doc/: every block marked sql runs as it stands,
# top to bottom, in a fresh database a file; then, of doc/http.md, every command
# after a "$ " of a block marked console, which prints what is below it ("..." is
# anything).
use strict;
use warnings;

use CouponNginx qw(free_port);
use CouponTest;
use Cwd qw(abs_path);
use File::Basename;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = dirname(dirname(dirname(abs_path(__FILE__))));
my $port = free_port();
my $node = new_server('docs', "coupon.http_listen = '127.0.0.1:$port'\ncoupon.http_role = 'coupon_service'\ncoupon.http_database = 'http_md'\n");

# roles that the examples name, as a reader would have them
$node->safe_psql('postgres', 'CREATE ROLE my_application');

for my $file ("$top/README.md", sort glob "$top/doc/*.md")
{
	my $name = basename($file);
	my @blocks = slurp_file($file) =~ /^```sql\n(.*?)^```/msg;
	next unless @blocks;

	(my $database = lc $name) =~ s/\W/_/g;
	my $script = join '', @blocks;
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$script = "CREATE EXTENSION coupon;\n$script" unless $script =~ /CREATE EXTENSION coupon/;

	my ($status, undef, $stderr) = $node->psql($database, $script, on_error_stop => 1);
	is($status, 0, "$name: " . @blocks . ' examples run') or diag($stderr);
}

# by curl
my @commands = map { split /^\$ /m } slurp_file("$top/doc/http.md") =~ /^```console\n\$ (.*?)^```/msg;
SKIP:
{
	skip 'curl is not installed', scalar @commands if system('curl -s -o /dev/null file:///dev/null') != 0;

	poll_until('the front', sub { `curl -s 127.0.0.1:$port/healthz` =~ /ok/ });
	for my $example (@commands)
	{
		my ($command, $expected) = split /\n/, $example, 2;
		my $pattern = join '.*', map { quotemeta } split /\.\.\./, $expected =~ s/\n\z//r, -1;
		my $output = do { (my $here = $command) =~ s/localhost:8000/127.0.0.1:$port/g; `$here` };

		like($output, qr/\A$pattern\n?\z/s, "http.md: $command");
	}
}

# what the reference promises in words is in the catalogs, and the reverse
my $reference = slurp_file("$top/doc/reference.md");
my @functions = split /\n/, $node->safe_psql('postgres', q{
	SELECT DISTINCT proname FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid
	JOIN pg_extension e ON e.oid = d.refobjid AND d.deptype = 'e'
	WHERE extname = 'coupon' AND proname LIKE 'coupon%' ORDER BY 1});
for my $function (@functions)
{
	like($reference, qr/\b$function\b/, "doc/reference.md knows $function");
}
my @settings = split /\n/, $node->safe_psql('postgres', q{
	SELECT name || ' | ' || CASE vartype WHEN 'string' THEN boot_val ELSE current_setting(name) END
	  FROM pg_settings WHERE name LIKE 'coupon.%' ORDER BY 1});
for my $setting (@settings)
{
	next if $setting =~ /^coupon\.databases/;
	like($reference, qr/^\| \Q$setting\E \|/m, "doc/reference.md has the default: $setting");
}
my @in_code = map { "UC$_" } map { s/\D//gr } slurp_file("$top/src/base/errors.h") =~ /'U','C',('\d','\d','\d')/g;
my @in_doc = $reference =~ /^\| (UC\d{3}) \|/mg;
is_deeply([ sort @in_doc ], [ sort @in_code ], 'every SQLSTATE is documented');

$node->stop;
done_testing();
