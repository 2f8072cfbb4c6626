# A campaign that cannot be swept is no other campaign's trouble: one that a
# trigger refuses, one that is damaged, one whose rows are locked, more of them
# than shared memory has room for.
use strict;
use warnings;

use CouponTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('main', <<'END');
coupon.sweep_interval = 50ms
coupon.hold_keep = 1s
coupon.key_keep = 1s
END

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub campaign
{
	my ($name, $units) = @_;

	return sql(qq{SELECT coupon_campaign_create('$name', $units, per_user_limit => $units,
		policy => '{"usage_period_days": 1}')});
}

my $users = 0;

# lets an issuance of the campaign run out
sub make_due
{
	my ($campaign) = @_;
	my $user = 'u' . ++$users;

	sql(qq{
		SELECT coupon_issue($campaign, '$user');
		UPDATE coupon.issuance SET expires_at = now() - interval '1 s' WHERE user_id = '$user'});
	return;
}

# and a hold, which triggers do not allow
sub make_both_due
{
	my ($campaign) = @_;
	my $user = 'u' . ++$users;

	make_due($campaign);
	sql(qq{
		SELECT coupon_hold_any($campaign, '$user');
		UPDATE coupon.issuance SET held_until = now() - interval '1 s' WHERE user_id = '$user'});
	return;
}

sub left
{
	my ($campaign) = @_;

	return sql(qq{SELECT count(*) FROM coupon.issuance
		WHERE campaign_id = $campaign AND (state = 'issued' AND expires_at < now() OR held_until < now())});
}

sub swept
{
	my ($campaign, $what) = @_;

	poll_until($what, sub { left($campaign) eq '0' });
	pass($what);
	return;
}

my $good = campaign('good', 1000);
make_both_due($good);
swept($good, 'a campaign is swept');

# a trigger of a DBA that refuses one campaign; attempts leave the sequence behind
my $bad = campaign('bad', 10);
sql(qq{
	CREATE SEQUENCE attempts;
	CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN PERFORM nextval('public.attempts'); RAISE 'not this one'; END \$\$;
	CREATE TRIGGER refuse BEFORE UPDATE OF state ON coupon.issuance
		FOR EACH ROW WHEN (NEW.campaign_id = $bad AND NEW.state = 'expired') EXECUTE FUNCTION refuse()});
my $offset = -s $node->logfile;
make_due($bad);
poll_until('the sweeper has met the trigger', sub { sql('SELECT is_called FROM attempts') eq 't' });
make_due($good);
swept($good, 'another one is swept while a trigger refuses one');
poll_until('and is tried again', sub { sql('SELECT last_value >= 3 FROM attempts') eq 't' });
is(left($bad), '1', 'what is refused waits');
my @warnings = slurp_file($node->logfile, $offset) =~ /(WARNING: .*not this one)/g;
is(scalar @warnings, 1, 'the error is logged once');
like($warnings[0] // '', qr/campaign $bad\b/, 'with the campaign');
unlike(slurp_file($node->logfile, $offset), qr/ERROR/, 'and is none of the worker');

# the same from SQL: the error is a warning, and what can be done is done
$node->append_conf('postgresql.conf', q{coupon.databases = ''});
$node->reload;
my $count_sweepers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'coupon sweeper'};
poll_until('no sweeper', sub { sql($count_sweepers) eq '0' });
make_due($good);
make_due($bad);
my ($status, $out, $err) = $node->psql('postgres', 'SELECT coupon_expire(1), coupon_expire(1)');
is($out, '1|0', 'coupon_expire: what can be done is done, however few are wanted');
like($err, qr/WARNING:.*campaign $bad: not this one/, 'and what cannot is told');

# one that is deferred to the commit
sql(qq{
	DROP TRIGGER refuse ON coupon.issuance;
	CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON coupon.issuance DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW WHEN (NEW.campaign_id = $bad AND NEW.state = 'expired') EXECUTE FUNCTION refuse()});
make_due($good);
$node->append_conf('postgresql.conf', q{coupon.databases = 'postgres'});
$node->reload;
$offset = -s $node->logfile;
swept($good, 'another one is swept while a deferred trigger refuses one');
sql('DROP FUNCTION refuse() CASCADE');
swept($bad, 'the campaign is swept when nothing refuses it');
unlike(slurp_file($node->logfile, $offset), qr/ERROR/, 'a deferred trigger is none of the worker, either');

# a campaign whose row is gone
my $orphan = campaign('orphan', 10);
$node->append_conf('postgresql.conf', q{coupon.databases = ''});
$node->reload;
poll_until('no sweeper', sub { sql($count_sweepers) eq '0' });
make_both_due($orphan);
sql(qq{SET session_replication_role = replica;
	CREATE TABLE saved AS SELECT * FROM coupon.campaign WHERE campaign_id = $orphan;
	DELETE FROM coupon.campaign WHERE campaign_id = $orphan});
make_both_due($good);
$node->append_conf('postgresql.conf', q{coupon.databases = 'postgres'});
$node->reload;
swept($good, 'a damaged campaign stops no other');
make_both_due($good);
swept($good, 'nor later');
is(left($orphan), '2', 'and is left as it is');
sql('SET session_replication_role = replica; INSERT INTO coupon.campaign OVERRIDING SYSTEM VALUE SELECT * FROM saved');
swept($orphan, 'until it is whole again');

# a publication of all tables: old memories cannot be deleted, or can; a
# sweeper that has just started looks for them first
sql('CREATE PUBLICATION everything FOR ALL TABLES');
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'coupon sweeper'});
make_both_due($good);
swept($good, 'a publication of all tables stops no sweep');
sql('DROP PUBLICATION everything');

# more rows that others have locked than are looked at in one sweep
my $locked = campaign('locked', 1100);
my $session = $node->background_psql('postgres');
$session->query_safe("SELECT count(*) FROM coupon_hold_many($locked, (SELECT array_agg(g) FROM generate_series(1, 1100) g), 'u', '5 min')");
$node->append_conf('postgresql.conf', q{coupon.databases = ''});
$node->reload;
poll_until('no sweeper', sub { sql($count_sweepers) eq '0' });
# they ran out before others did
$session->query_safe("UPDATE coupon.issuance SET held_until = now() - interval '2 s' WHERE campaign_id = $locked");
$session->query_safe("BEGIN; SELECT count(*) FROM (SELECT FROM coupon.issuance WHERE campaign_id = $locked FOR UPDATE) x");
make_both_due($good);
$node->append_conf('postgresql.conf', q{coupon.databases = 'postgres'});
$node->reload;
swept($good, 'rows that a session has locked stop no other campaign');
$session->query_safe('COMMIT');
$session->quit;
swept($locked, 'and are swept when they are free');

# memories, keys and refusals of users whose erasure has yet to commit: who has
# nothing of it is forgotten, and refused, nevertheless
sub rows
{
	my ($user) = @_;

	return sql("SELECT (SELECT count(*) FROM coupon.lapsed_hold WHERE user_id = '$user'),
		(SELECT count(*) FROM coupon.request_key WHERE user_id = '$user'), (SELECT sum(times) FROM coupon.refusal WHERE user_id = '$user')");
}

my $old = campaign('old', 10);
$node->append_conf('postgresql.conf', q{coupon.databases = ''});
$node->reload;
poll_until('no sweeper', sub { sql($count_sweepers) eq '0' });
for my $user (qw(erased other))
{
	sql("INSERT INTO coupon.lapsed_hold VALUES ($old, 1, now() - interval '1 hour', '$user', NULL);
		INSERT INTO coupon.request_key VALUES ($old, now() - interval '1 hour', '$user', 'key', 'issue', '{1}');
		INSERT INTO coupon.refusal VALUES ('$user', $old, 'paused', now(), now(), 1)");
}
sql("SELECT coupon_campaign_note_refusals($old), coupon_campaign_pause($old)");
my $eraser = $node->background_psql('postgres');
$eraser->query_safe(q{BEGIN; SELECT coupon_user_erase('erased')});
sql("SELECT coupon_issue($old, u) FROM unnest('{erased,other,third}'::text[]) u");
make_both_due($good);
$node->append_conf('postgresql.conf', q{coupon.databases = 'postgres'});
$node->reload;
swept($good, 'an erasure that is open stops no sweep');
poll_until('other users', sub { rows('other') eq '0|0|2' && rows('third') eq '0|0|1' });
is(rows('erased'), '1|1|1', 'but that of their rows');
$eraser->query_safe('COMMIT');
$eraser->quit;

# a limit for sessions is none for workers
SKIP:
{
	skip 'transaction_timeout is of PostgreSQL 17', 1 if sql(q{SELECT current_setting('transaction_timeout', true) IS NULL}) eq 't';
	local $ENV{PGOPTIONS} = '-c transaction_timeout=0';
	$node->append_conf('postgresql.conf', q{transaction_timeout = '300ms'});
	$node->reload;
	my $slow = campaign('slow', 10);
	sql(q{
		CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.6); RETURN NEW; END $$;
		CREATE TRIGGER slow BEFORE UPDATE ON coupon.issuance FOR EACH ROW WHEN (NEW.state = 'expired') EXECUTE FUNCTION slow()});
	make_due($slow);
	swept($slow, 'a sweep may take longer than transaction_timeout');
	sql('DROP TRIGGER slow ON coupon.issuance');
	$node->append_conf('postgresql.conf', 'transaction_timeout = 0');
	$node->reload;
}
conserved($node, 'postgres', 'in the end');
$node->stop;

# more campaigns are due than there is room for at the same time
$node = new_server('small', <<'END');
coupon.databases = ''
coupon.max_campaigns = 16
coupon.sweep_interval = 50ms
END
sql(q{
	SELECT coupon_campaign_create('c' || g, 2) FROM generate_series(1, 60) g});
sql("SELECT coupon_hold_any($_, 'u')") for 1 .. 60;
sql(q{UPDATE coupon.issuance SET held_until = now() - interval '1 s'});
my $first = sql('SELECT coupon_hold_expire()');
cmp_ok($first, '>', 0, "60 campaigns due, room for 16: a call sweeps some ($first)");
cmp_ok($first, '<', 60, 'not all');
is(sql("SELECT count(*) FROM coupon.issuance"), 60 - $first, 'and says how many');
$node->append_conf('postgresql.conf', q{coupon.databases = 'postgres'});
$node->reload;
poll_until('the sweeper sweeps all', sub { sql('SELECT count(*) FROM coupon.issuance') eq '0' });
pass('the sweeper sweeps all');
conserved($node, 'postgres', 'small');
$node->stop;
server_log_is_clean($node, 'small');
done_testing();
