# Slots move between two nodes while both sell, and each step of a move fails, by an
# error and by kill -9: each slot has one home after it, whoever was told of a unit has
# that one, and the sale goes on.
use strict;
use warnings;

use CouponCluster;
use CouponFault;
use CouponTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $cluster = CouponCluster->new(nodes => [qw(one two)], proxy => 0, make => \&fault_server, settings => "coupon.cluster = on\n");
ok(await_true($cluster->server($_), 'postgres', 'SELECT coupon.node_confirmed()'), "node $_ is confirmed") for $cluster->names;
my $campaign = $cluster->on('one', q{SELECT coupon_cluster_create('a', 4000)});
ok(await_true($cluster->server('two'), 'postgres', "SELECT EXISTS (SELECT FROM coupon.campaign WHERE campaign_id = $campaign)"), 'both have a part');

# the lowest slots move to and fro: these users live there
my @users = split /,/, $cluster->on('one', q{SELECT string_agg('u' || g, ',') FROM generate_series(1, 100000) g WHERE coupon_slot('u' || g) < 20});
my %told;
my @wait;

# who of these has a unit now, at the node that is asked
$cluster->on($_, q{
	CREATE FUNCTION sell(campaign bigint, users text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
	DECLARE
		wants text;
		answer coupon.issue_result;
	BEGIN
		FOREACH wants IN ARRAY users LOOP
			BEGIN
				SELECT * INTO answer FROM coupon_issue(campaign, wants);
				IF answer.status IN ('issued', 'already_issued') THEN
					RETURN NEXT wants || ' ' || answer.serial;
				END IF;
			EXCEPTION WHEN OTHERS THEN
				IF SQLSTATE !~ '^(UC30|UC31|08|57|40|55)' THEN
					RAISE;
				END IF;
			END;
		END LOOP;
	END $$}) for $cluster->names;

# sell(n): so many come, and those who have nothing yet try again; each at both nodes
sub sell
{
	my ($n) = @_;

	push @wait, splice @users, 0, $n;
	foreach my $name ($cluster->names)
	{
		last if !@wait;
		my $answer = try_sql($cluster->server($name), 'postgres', "SELECT * FROM sell($campaign, '{" . join(',', @wait) . "}')") // '';
		my %now = $answer =~ /^(\S+) (\d+)$/gm;

		$told{$_} = $now{$_} for keys %now;
		@wait = grep { !$now{$_} } @wait;
	}
	return;
}

# whether nothing is on its way
sub at_rest
{
	return !grep { (try_sql($cluster->server($_), 'postgres', q{SELECT coupon.node_confirmed() AND NOT EXISTS (SELECT FROM coupon.slot_plan)
		AND NOT EXISTS (SELECT FROM coupon.slot WHERE leaving IS NOT NULL) AND NOT EXISTS (SELECT FROM coupon.slot_parcel WHERE state = 'sent')}) // '') ne 't' } $cluster->names;
}

sub all_is_well
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my (%homes, %has);

	poll_until("$what: the move ends", sub { sell(0); return at_rest() });
	poll_until("$what: the sale goes on", sub { sell(@wait ? 0 : 1); return !@wait });
	foreach my $name ($cluster->names)
	{
		my ($slots, $units, $strangers) = split /\|/, $cluster->on($name, qq{
			SELECT (SELECT string_agg(slot::text, ' ') FROM coupon.slot WHERE node_id = coupon_node_self()),
				(SELECT string_agg(user_id || ' ' || serial, ',') FROM coupon.issuance WHERE campaign_id = $campaign),
				(SELECT count(*) FROM coupon.issuance i JOIN coupon.slot s ON s.slot = coupon_slot(i.user_id) WHERE s.node_id <> coupon_node_self())});

		$homes{$_}++ for split / /, $slots;
		$has{$_}++ for split /,/, $units;
		is($strangers, 0, "$what: node $name has nobody of another home");
	}
	is(scalar(grep { ($homes{$_} // 0) != 1 } 0 .. 1023), 0, "$what: each slot has one home");
	is(join(' ', sort keys %has), join(' ', sort map { "$_ $told{$_}" } keys %told), "$what: everybody has the unit they were told of");
	is(scalar(grep { $_ != 1 } values %has), 0, "$what: once");
	is($cluster->on('one', "SELECT * FROM coupon_cluster_verify($campaign)"), '', "$what: no unit is lost or doubled");
	return;
}

sub fired_in_log { my ($server, $point, $kind) = @_; return scalar(() = slurp_file($server->logfile) =~ /^coupon fault point $point: $kind$/gm) }

# move(): ten slots, each time the other way
my @way = qw(one two);
sub move { @way = reverse @way; return $cluster->on($way[0], 'SELECT coupon_slots_move(' . ($way[1] eq 'one' ? 1 : 2) . ', 10)') }

sell(40);
foreach (['donor', 'slots_leaving'], ['donor', 'slots_packed'], ['donor', 'slots_given'], ['receiver', 'slots_noted'], ['receiver', 'slots_owned'],
	['receiver', 'slots_come'], ['donor', 'slots_done'], ['donor', 'peer_asked'], ['donor', 'peer_answered'], ['donor', 'peer_answered', 'sleep'])
{
	my ($role, $point, @kinds) = @$_;

	foreach my $kind (@kinds ? @kinds : qw(error kill))
	{
		# move() turns the way
		my ($receiver, $donor) = map { $cluster->server($_) } @way;
		my $server = $role eq 'donor' ? $donor : $receiver;
		my $what = "$point at the $role, $kind";
		my $before = fired_in_log($server, $point, $kind);

		# the next question is the one with the parcel
		my $first = $point =~ /^peer/ ? 'slots_given' : $point;
		arm($server, $first, $first eq $point ? $kind : 'sleep');
		is(move(), 10, "$what: ten slots are to move");
		if ($first ne $point)
		{
			asleep($server, $first);
			arm($server, $point, $kind);
			release($server, $first);
		}
		poll_until("$what: reached", sub { sell(1); return fired_in_log($server, $point, $kind) > $before });
		if ($kind eq 'sleep')
		{
			# the receiver has said that it has them, and dies
			my $parcel = $donor->safe_psql('postgres', q{SELECT parcel_id FROM coupon.slot_parcel WHERE state = 'sent'});

			is($receiver->safe_psql('postgres', "SELECT state FROM coupon.slot_parcel WHERE parcel_id = '$parcel'"), 'received', "$what: they are there");
			$cluster->kill($way[1]);
			$cluster->start($way[1]);
			release($server, $point);
		}
		all_is_well($what);
	}
}
$cluster->stop;
done_testing();
