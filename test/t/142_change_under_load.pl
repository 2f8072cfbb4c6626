# Stock is reduced and added and rules are altered while many sessions issue, hold,
# revoke and pay; the server crashes.  The books close exactly: what was taken off the
# sale is never sold, and everything else is.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', "coupon.databases = 'postgres'\ncoupon.sold_out_wait = 20ms\n");
my $dir = PostgreSQL::Test::Utils::tempdir();

$node->safe_psql('postgres', q{
	CREATE SEQUENCE buyer;
	CREATE TABLE taken (units bigint);
	SELECT coupon_campaign_create('sale', 6000, 3);
	CREATE FUNCTION reduce(n bigint) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM coupon_campaign_reduce_stock(1, n);
		INSERT INTO taken VALUES (n);
	EXCEPTION WHEN SQLSTATE 'UC009' THEN NULL;
	END $$;
	CREATE FUNCTION withdraw(s bigint) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM coupon_units_withdraw(1, ARRAY[s]);
		INSERT INTO taken VALUES (1);
	EXCEPTION WHEN SQLSTATE 'UC009' THEN NULL;
	END $$});
append_to_file("$dir/buy.sql", <<'END');
\set s random(1, 6000)
\set r random(1, 400)
SELECT coupon_issue(1, nextval('buyer')::text);
SELECT coupon_hold_any(1, 'h' || nextval('buyer'), '30 ms');
SELECT coupon_hold(1, :s, 'n' || nextval('buyer'), '20 ms');
SELECT coupon_revoke(1, :r::text, 'r');
BEGIN;
SELECT coupon_issue(1, 'back' || nextval('buyer'));
ROLLBACK;
END
append_to_file("$dir/change.sql", <<'END');
\set n random(1, 40)
\set s random(1, 6000)
\set l random(1, 3)
SELECT reduce(:n);
SELECT withdraw(:s);
SELECT coupon_campaign_alter(1, per_user_limit => :l, name => 'n' || :n);
BEGIN;
SELECT reduce(:n);
ROLLBACK;
END

for my $round (1 .. 2)
{
	$node->command_ok([ 'pgbench', '-n', '-c', '6', '-t', '60', '-f', "$dir/buy.sql\@5", '-f', "$dir/change.sql\@1", $node->connstr('postgres') ], "round $round");
	if ($round == 1)
	{
		$node->stop('immediate');
		$node->start;
	}
	else
	{
		settle($node, 'postgres');
	}
	is($node->safe_psql('postgres', 'SELECT withdrawn - (SELECT sum(units) FROM taken) FROM coupon.campaign'), '0', "round $round: what was taken away is noted");
	is($node->safe_psql('postgres', 'SELECT stock + (SELECT sum(units) FROM taken) FROM coupon_status(1)'), '6000', "round $round: and is no stock");
}
poll_until('the holds to end', sub { $node->safe_psql('postgres', 'SELECT count(*) FROM coupon.issuance WHERE held_until IS NOT NULL') eq '0' });
conserved($node, 'postgres', 'after the changes');
is($node->safe_psql('postgres', q{SELECT count(*) FROM coupon.outbox WHERE type = 'coupon.campaign_stock_reduced'}),
	$node->safe_psql('postgres', 'SELECT count(*) FROM taken'), 'one event for each reduction');

# all that is left is sold, and not one more
$node->safe_psql('postgres', q{SELECT coupon_campaign_alter(1, per_user_limit => 3)});
$node->safe_psql('postgres', q{SELECT count(*) FROM coupon_issue_many(1, ARRAY(SELECT 'last' || g FROM generate_series(1, 6100) g))});
is($node->safe_psql('postgres', 'SELECT remaining, issued = stock, issued + (SELECT sum(units) FROM taken) FROM coupon_status(1)'), '0|t|6000', 'exactly the rest is sold');
is($node->safe_psql('postgres', q{SELECT status FROM coupon_issue(1, 'nobody')}), 'sold_out', 'sold out');
conserved($node, 'postgres', 'sold out');

# a call that comes after the commit goes by it, in every session, workers' too
my $c = $node->safe_psql('postgres', q{SELECT coupon_campaign_create('altered', 100)});
my @sessions = map { $node->background_psql('postgres') } 1 .. 3;
$_->query_safe("SELECT status FROM coupon_issue($c, 'warm')") for @sessions;
for my $n (1 .. 10)
{
	my $close = $n % 2;

	$node->safe_psql('postgres', "SELECT coupon_campaign_alter($c, closes_at => " . ($close ? 'clock_timestamp())' : q{'infinity')}));
	my @answers = map { $_->query_safe("SELECT status FROM coupon_issue($c, 'u' || nextval('buyer'))") } @sessions;
	push @answers, $node->safe_psql('postgres', "SELECT status FROM coupon_issue_grouped($c, 'g$n')");
	is("@answers", join(' ', map { $close ? 'closed' : 'issued' } 1 .. 4), "change $n is seen by the next call of each");
}
$_->quit for @sessions;
conserved($node, 'postgres', 'at the end');

$node->stop;
server_log_is_clean($node, 'changes under load');
done_testing();
