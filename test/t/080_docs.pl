# The examples in README.md and doc/: every block marked sql runs as it stands,
# top to bottom, in a fresh database a file.  Then, of doc/http.md and the
# examples' README.md, every command after a "$ " of a block marked console, which
# prints what is below it ("..." is anything).
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
my $node = new_server('docs', "coupon.http_listen = '127.0.0.1:$port'\ncoupon.http_role = 'coupon_service'\ncoupon.http_database = 'http_md'\ncoupon.databases = 'postgres, http_md'\n");

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

# console(file): the commands of its blocks marked console, in one shell, and
# what each prints
sub console
{
	my ($file) = @_;
	my $name = $file =~ s{^\Q$top\E/}{}r;
	my @examples = map { [ split /\n/, $_, 2 ] } map { split /^\$ /m } slurp_file($file) =~ /^```console\n\$ (.*?)^```/msg;
	my $script = join '', map { (my $command = $_->[0]) =~ s/localhost:8000/127.0.0.1:$port/g; "$command\necho '<end>'\n" } @examples;
	my @printed = split /<end>\n/, do { local $ENV{SCRIPT} = $script; `bash -c "\$SCRIPT" 2>&1` };

	for my $example (@examples)
	{
		my ($command, $expected) = @$example;
		my $pattern = join '.*', map { quotemeta } split /\.\.\./, $expected =~ s/\n\z//r, -1;

		like(shift @printed // '', qr/\A$pattern\n?\z/s, "$name: $command");
	}
	return;
}

SKIP:
{
	skip 'curl is not installed', 1 if system('curl -s -o /dev/null file:///dev/null') != 0;

	poll_until('the front', sub { `curl -s 127.0.0.1:$port/healthz` =~ /ok/ });
	console("$top/doc/http.md");

	# the examples, on a server for load tests without tokens
	load_example($node, 'http_md', "sources/$_.sql", '-v', 'open=on') for qw(roles http api routes);
	$node->safe_psql('http_md', join '', slurp_file("$top/examples/sources/README.md") =~ /^```sql\n(.*?)^```/msg);
	load_example($node, 'http_md', "concert/$_.sql", '-v', 'concerts=2', '-v', 'dates=2', '-v', 'seats=20') for qw(schema api routes load);
	$node->safe_psql('http_md', q{ALTER SYSTEM SET coupon.http_role = 'coupon_web_anonymous'});
	$node->reload;
	poll_until('the routes', sub { `curl -s -o /dev/null -w '%{http_code}' 127.0.0.1:$port/admin/kafka/status` eq '200' });
	console("$top/examples/$_/README.md") for qw(sources concert);
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
