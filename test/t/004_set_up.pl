# What test/bin/install_dependencies finds missing on machines that have some of
# what is needed, or only a sign of it.  Programs of the test's own play the
# machine; nothing is installed.  And what make says without server headers.
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename;
use File::Temp;
use Test::More;

my $top = dirname(dirname(dirname(abs_path(__FILE__))));
my $pg_config = $ENV{PG_CONFIG};
my $dir = File::Temp->newdir;
my $root = "$dir/postgresql";
mkdir $root;
$ENV{COUPON_POSTGRES_ROOT} = $root;
my $path = $ENV{PATH};
delete $ENV{CI};

# program(name, text): a shell script that is found before the machine's
sub program
{
	my ($name, $text) = @_;

	open my $file, '>', "$dir/$name" or die $!;
	print $file "#!/bin/sh\n$text\n";
	close $file;
	chmod 0755, "$dir/$name";
	$ENV{PATH} = "$dir:$path";
	return "$dir/$name";
}

# A pg_config that tells what the real one tells, but for some of it.
sub lying_pg_config
{
	my ($name, %lies) = @_;

	return program($name, <<'END' . join("\n", map { "--$_) echo '$lies{$_}' ;;" } sort keys %lies) . <<"END");
for what; do
case $what in
END

*) '$pg_config' "\$what" ;;
esac
done
END
}

sub missing
{
	my ($which, $purpose) = @_;
	my $packages = `'$top/test/bin/install_dependencies' -n '$which' $purpose 2>&1`;

	is($?, 0, "$purpose: install_dependencies looks") or diag($packages);
	return [ split ' ', $packages ];
}

is_deeply(missing($pg_config, 'test'), [], 'here, nothing is missing');

my $bare = lying_pg_config('bare_config', 'includedir-server' => "$dir/nowhere");
is_deeply(missing($bare, 'demo'), ['postgresql-server-dev-@'], "Debian's server package: pgxs.mk, pg_config, no headers");

my $make = `make -C '$top' PG_CONFIG='$bare' all 2>&1`;
isnt($?, 0, 'make without the headers fails');
like($make, qr/PostgreSQL \d+\S*, .* has no server headers here: \S*nowhere\/postgres\.h is missing/, '... and says what is missing');
like($make, qr/Debian: postgresql-server-dev-\d+/, '... and which package has it');
unlike($make, qr/gcc/, '... compiling nothing');

is_deeply(
	missing(lying_pg_config('libpq_config', pgxs => "$dir/nowhere/pgxs.mk", 'includedir-server' => "$dir/nowhere", bindir => $dir), 'demo'),
	[ 'postgresql-@', 'postgresql-client-@', 'postgresql-server-dev-@' ],
	'libpq-dev: a pg_config and nothing of what it tells of');
is_deeply(
	missing(program('dead_config', 'echo "You need to install postgresql-server-dev-NN" >&2; exit 1'), 'test'),
	[ 'postgresql-@', 'postgresql-@-pgtap', 'postgresql-server-dev-@' ],
	'a pg_config that only says what to install');
symlink "$dir/nowhere", "$dir/broken_config";
is_deeply(missing("$dir/broken_config", 'demo'), [ 'postgresql-@', 'postgresql-server-dev-@' ], 'a pg_config that points to nothing');
is_deeply(missing(lying_pg_config('share_config', sharedir => $dir), 'test'), ['postgresql-@-pgtap'], 'no pgtap');

my $cc = program('cc_config', 'grep -q librdkafka && exit 1; exit 0');
is_deeply(missing(lying_pg_config('kafka_config', cc => $cc), 'demo'), ['librdkafka-dev'], 'no header of librdkafka');
program('kcat', 'exit 127');
is_deeply(missing($pg_config, 'demo'), ['kcat'], 'a program that is there and does not run');
unlink "$dir/kcat";

# libpq-dev is newer than the server: its pg_config is not the one to use
mkdir "$root/$_" for qw(9 9/bin);
symlink lying_pg_config('complete'), "$root/9/bin/pg_config";
lying_pg_config('pg_config', version => 'PostgreSQL 99.1', bindir => "$root/99/bin", 'includedir-server' => "$dir/nowhere");
is(`'$top/test/bin/install_dependencies' pg_config demo`, "$root/9/bin/pg_config\n", 'of several, the PostgreSQL that has all is used');

done_testing();
