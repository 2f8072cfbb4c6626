# A server's data directory is copied from that which run_tests has made, in a
# tenth of the time that initdb takes.  PostgreSQL::Test::Cluster does so itself
# from PostgreSQL 17 on, and has the same name for it, INITDB_TEMPLATE.
package InitdbTemplate;

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

our $usable = 0;

if (defined $ENV{INITDB_TEMPLATE})
{
	my $init = PostgreSQL::Test::Cluster->can('init');
	my $run = PostgreSQL::Test::Utils->can('system_or_bail');

	no warnings 'redefine';
	*PostgreSQL::Test::Cluster::init = sub {
		my ($self, %params) = @_;

		# a server of another installation is made by that one's initdb
		local $usable = !defined $self->{_install_path};
		return $init->($self, %params, $usable ? () : (force_initdb => 1));
	};
	*PostgreSQL::Test::Utils::system_or_bail = sub {
		return $run->($usable && "@_" =~ /^initdb -D \S+ -A trust -N$/ ? ('cp', '-RPp', $ENV{INITDB_TEMPLATE}, $_[2]) : @_);
	};
}

1;
