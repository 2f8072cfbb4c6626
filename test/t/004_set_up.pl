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

# ---- who only asks ----

my $dry = `make -n -C '$top' PG_CONFIG='$bare' demo 2>&1`;
is($?, 0, 'make -n demo looks for nothing, and installs nothing') or diag($dry);

# ---- on whatever machine: programs of the test's own play sudo and apt-get ----

sub lines
{
	my ($name) = @_;

	open my $file, '<', "$dir/$name" or return ();
	chomp(my @lines = <$file>);
	return @lines;
}

# in_common(environment, commands): what they print, with test/bin/common.sh read
sub in_common
{
	my ($environment, $commands) = @_;

	open my $script, '>', "$dir/script" or die $!;
	print $script "set -euo pipefail\n. test/bin/common.sh\n$commands\n";
	close $script;
	return scalar `cd '$top' && env $environment bash '$dir/script' 2>&1`;
}

program('apt-cache', 'exit 0');
program('apt-get', 'exit 0');
program('sudo', qq{case "\$1" in --version) exit 0 ;; esac; umask >'$dir/umask'; exit 1});
my $lacking = lying_pg_config('lacking_config', 'includedir-server' => "$dir/nowhere", bindir => "$root/99/bin", version => 'PostgreSQL 99.1');
like(`umask 077; '$top/test/bin/install_dependencies' '$lacking' demo 2>&1`, qr/sudo does not let you/, 'installing is tried');
is_deeply([ lines('umask') ], ['0022'], "  and what it makes can be read by all, whatever the user's umask");

# each installation waits a moment for the other to begin, too
program('sudo', <<"END");
case "\$*" in
tee*) cat >/dev/null ;;
*apt-get*install*)
	echo begin >>'$dir/installs'
	perl -e 'for (1 .. 20) { open my \$f, "<", "$dir/installs"; exit if grep({ /begin/ } <\$f>) > 1; select undef, undef, undef, 0.05 }'
	echo end >>'$dir/installs'
	exit 1
	;;
esac
END
system("for i in 1 2; do '$top/test/bin/install_dependencies' '$lacking' demo >/dev/null 2>&1 & done; wait");
is_deeply([ lines('installs') ], [qw(begin end begin end)], 'of two who install one waits: the other keeps the services as they are until it ends');
unlink map { "$dir/$_" } qw(apt-cache apt-get sudo);

is(in_common("CDPATH='$top'", 'echo "$top"'), "$top\n", 'scripts find their directory where CDPATH is set');
is(in_common('LANG=de_DE.UTF-8 LC_NUMERIC=de_DE.UTF-8 LANGUAGE=ko', 'echo "$LC_ALL $LANG ${LC_NUMERIC-} ${LANGUAGE-}"'), "C.UTF-8 C.UTF-8  \n", '  read what programs say in one language');
mkdir "$dir/a b";
like(in_common("TMPDIR='$dir/a b'", 'make_work_dir; echo "$work"'), qr{\A/(var/)?tmp/coupon\.\w+\n\z}, '  work in no directory whose name some program would want to be quoted');
mkdir "$dir/noexec";
like(in_common("TMPDIR='$dir/noexec'", <<"END"), qr{\A/(var/)?tmp/coupon\.\w+\n\z}, '  nor where no program can be run');
as_server_user() { case "\$1" in '$dir'/noexec/*) return 126 ;; *) "\$@" ;; esac; }
make_work_dir
echo "\$work"
END

# ---- two at once in one checkout ----

# await(command): until it succeeds, within a minute
my $await = program('await', 'for i in $(seq 1200); do "$@" && exit; perl -e "select undef, undef, undef, 0.05"; done');
my $alone = "'$top/test/bin/alone' sh -c";
system(qq{$alone 'echo first; "$await" test -e "$dir/go"; echo first ends' >>'$dir/alone' &
	'$await' test -s '$dir/alone'
	$alone 'echo second' >>'$dir/alone' 2>'$dir/waits' &
	'$await' grep -qs -e Waiting -e second '$dir/waits' '$dir/alone'
	touch '$dir/go'; wait});
is_deeply([ lines('alone') ], [ 'first', 'first ends', 'second' ], 'of two makes one builds after the other');

# libpq-dev is newer than the server: its pg_config is not the one to use
mkdir "$root/$_" for qw(9 9/bin);
symlink lying_pg_config('complete'), "$root/9/bin/pg_config";
lying_pg_config('pg_config', version => 'PostgreSQL 99.1', bindir => "$root/99/bin", 'includedir-server' => "$dir/nowhere");
is(`'$top/test/bin/install_dependencies' pg_config demo`, "$root/9/bin/pg_config\n", 'of several, the PostgreSQL that has all is used');

done_testing();
