# What can be said of the packages without building them, which make deb-test
# does: META.json, the version, what a package is built with, what is in the
# source.
use strict;
use warnings;

use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();

is(`test/bin/check_meta 2>&1`, '', 'META.json is as the spec says, the version is the same everywhere');

# the check sees what is wrong
my $n = 0;
for my $case (
	[ 'no license' => sub { delete $_[0]{license} }, qr/has no license/ ],
	[ 'a license that the spec does not know' => sub { $_[0]{license} = 'mine' }, qr/license is not/ ],
	[ 'a field that it does not know' => sub { $_[0]{licence} = 'postgresql' }, qr/licence is not known/ ],
	[ 'a version that is none' => sub { $_[0]{version} = '1.0' }, qr/version is not a semantic version/ ],
	[ 'another version' => sub { $_[0]{version} = '1.0.1' }, qr/debian\/changelog is of version/ ],
	[ 'a file that is not there' => sub { $_[0]{provides}{coupon}{docfile} = 'doc/none.md' }, qr/there is no doc\/none\.md/ ],
	[ 'a phase that it does not know' => sub { $_[0]{prereqs}{boot} = { requires => { plpgsql => 0 } } }, qr/boot is not a phase/ ],
	[ 'tags of the wrong kind' => sub { $_[0]{tags} = { sale => 1 } }, qr/tags is not a tag/ ])
{
	my ($what, $change, $complaint) = @$case;
	my $meta = decode_json(slurp_file('META.json'));
	my $file = "$dir/meta" . $n++;

	$change->($meta);
	append_to_file($file, encode_json($meta));
	local $ENV{COUPON_META} = $file;
	like(`test/bin/check_meta 2>&1`, $complaint, "seen: $what");
}

my $control = slurp_file('debian/control');
my ($major) = $control =~ /^Package: postgresql-(\d+)-coupon$/m;
is($control, slurp_file('debian/control.in') =~ s/PGVERSION/$major/gr, 'debian/control is made of debian/control.in');
my ($build_depends) = $control =~ /^Build-Depends:\n((?: .*\n)+)/m;
my ($installed) = slurp_file('test/bin/install_dependencies') =~ /^\t\tmissing_packages (.*)/m;
is(join(' ', grep { my $needed = $_; !grep { $_ eq $needed } split ' ', $installed } map { s/-compat \(.*\)//r } $build_depends =~ /^ (.*?),?$/mg),
	'', 'make deb installs what debian/control says');
like($control, qr/Recommends:\n \$\{jwt:Recommends\}/, 'libjwt, which is opened and not linked, is recommended');

my @source = split /\n/, `bash -c '. test/bin/source.sh && source_files'`;
my %source = map { $_ => 1 } @source;
is(join(' ', grep { !$source{$_} } qw(META.json LICENSE README.md SECURITY.md coupon.control Makefile sql/build debian/rules src/coupon.c src/front/pages/coupon-board.html doc/operations.md)),
	'', 'the source is whole');
is(join(' ', grep { m{^tmp_|\.(?:o|so|bc)$|^\.git/} } @source), '', 'and nothing else is in it');

done_testing();
