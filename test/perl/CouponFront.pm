# What tests write to the front by hand, onto a socket of their own.
package CouponFront;

use strict;
use warnings;

use Exporter 'import';
use JSON::PP;

our @EXPORT_OK = qw(calling);

my $json = JSON::PP->new->utf8;

# calling(method, path, body, headers): a request on the wire
sub calling
{
	my ($method, $path, $body, @headers) = @_;

	$body = defined $body ? $json->encode($body) : '';
	return join "\r\n", "$method $path HTTP/1.1", 'Host: x', 'Content-Type: application/json',
		'Content-Length: ' . length $body, @headers, '', $body;
}

1;
