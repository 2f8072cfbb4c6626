-- coupon 1.0: first-come-first-served sales inside PostgreSQL
--
-- Made by sql/build from the pieces in sql/: change those, then run make.
-- Functions go to the extension's target schema (public unless you say
-- otherwise); tables, types and views to schema coupon, made here.

\echo Use "CREATE EXTENSION coupon" to load this file. \quit

-- The script would run with the target schema in the path, and who owns that
-- schema or may create in it could have put operators and functions there that
-- are closer to some operands than those of pg_catalog.  So no name is looked
-- for there: what goes there is created with @extschema@.
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE SCHEMA coupon;
COMMENT ON SCHEMA coupon IS 'The tables, types and views of the coupon extension.';

-- Roles belong to the cluster, so a second database and a restored one find them
-- there.  Anybody with CREATEROLE can have made them before: they are taken if they
-- are what is made here, and who is in them already is said.
DO $$
DECLARE
	our_roles CONSTANT text[] := ARRAY['coupon_admin', 'coupon_service', 'coupon_reader', 'coupon_user'];
	our_role text;
	found_roles text[] := '{}';
	attributes text;
	one record;
BEGIN
	FOREACH our_role IN ARRAY our_roles
	LOOP
		BEGIN
			EXECUTE format('CREATE ROLE %I', our_role);
		EXCEPTION
			WHEN duplicate_object OR unique_violation THEN
				found_roles := found_roles || our_role;
		END;
	END LOOP;

	FOREACH our_role IN ARRAY found_roles
	LOOP
		SELECT concat_ws(', ', CASE WHEN r.rolcanlogin THEN 'LOGIN' END, CASE WHEN r.rolsuper THEN 'SUPERUSER' END,
		                 CASE WHEN r.rolcreatedb THEN 'CREATEDB' END, CASE WHEN r.rolcreaterole THEN 'CREATEROLE' END,
		                 CASE WHEN r.rolreplication THEN 'REPLICATION' END, CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END)
		  INTO STRICT attributes FROM pg_roles r WHERE r.rolname = our_role;
		IF attributes <> '' THEN
			RAISE duplicate_object USING
				MESSAGE = format('role "%s" exists and is no plain group', our_role),
				DETAIL = format('It has %s.', attributes),
				HINT = format('If the role is yours, ALTER ROLE %I NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS; else drop it.', our_role);
		END IF;
	END LOOP;

	FOR one IN SELECT a AS member, b AS role FROM unnest(our_roles) a, unnest(our_roles) b
	            WHERE a <> b AND pg_has_role(a, b, 'MEMBER')
	LOOP
		RAISE duplicate_object USING
			MESSAGE = format('role "%s" is a member of role "%s"', one.member, one.role),
			DETAIL = 'Each of these roles is to have its own rights only.',
			HINT = format('REVOKE %I FROM %I, or from the role between them.', one.role, one.member);
	END LOOP;

	FOR one IN SELECT g.rolname AS role,
	                  string_agg(DISTINCT quote_ident(m.rolname) || CASE WHEN a.admin_option THEN ' (may grant it)' ELSE '' END, ', ') AS members
	             FROM pg_auth_members a JOIN pg_roles g ON g.oid = a.roleid JOIN pg_roles m ON m.oid = a.member
	            WHERE g.rolname = ANY (found_roles)
	            GROUP BY g.rolname
	LOOP
		RAISE WARNING USING
			MESSAGE = format('role "%s" exists already, and its members have its rights in this database, too', one.role),
			DETAIL = format('Members: %s.', one.members),
			HINT = format('REVOKE %I FROM those who should not have them.', one.role);
	END LOOP;
END
$$;

-- Campaigns: what is offered, and the ranges of serials that are its stock.

CREATE TABLE coupon.campaign (
	campaign_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name           text NOT NULL,
	per_user_limit integer NOT NULL CHECK (per_user_limit BETWEEN 1 AND 10000),
	opens_at       timestamptz,
	closes_at      timestamptz,
	paused         boolean NOT NULL DEFAULT false,
	closed_at      timestamptz,
	coded          boolean NOT NULL DEFAULT false,
	policy         jsonb NOT NULL,
	topic          text NOT NULL,
	created_at     timestamptz NOT NULL DEFAULT pg_catalog.now(),
	room_id        bigint,
	labels_public  boolean NOT NULL DEFAULT false,
	max_per_user_limit integer NOT NULL,
	withdrawn      bigint NOT NULL DEFAULT 0 CHECK (withdrawn >= 0),
	archived_at    timestamptz,
	dumped         bigint[],
	note_refusals  boolean NOT NULL DEFAULT false,
	shared         boolean NOT NULL DEFAULT false,
	keeper         smallint,
	version        bigint NOT NULL DEFAULT 0,
	away           bigint NOT NULL DEFAULT 0 CHECK (away >= 0),
	CHECK (closes_at > opens_at),
	CHECK (coded OR NOT labels_public),
	CHECK (max_per_user_limit >= per_user_limit),
	CHECK (shared = (keeper IS NOT NULL))
);
-- coupon_emit refuses the topics of campaigns, and looks for them here.
CREATE INDEX campaign_topic_idx ON coupon.campaign (topic COLLATE "C");
-- Names are not unique: routes take the campaign of a name that was created last.
CREATE INDEX campaign_name_idx ON coupon.campaign (name, campaign_id);
COMMENT ON TABLE coupon.campaign IS 'What is offered. The stock is the number of serials in the campaign''s shards.';
COMMENT ON COLUMN coupon.campaign.campaign_id IS 'The campaign''s number, assigned by coupon_campaign_create().';
COMMENT ON COLUMN coupon.campaign.name IS 'A name for people. Several campaigns may have the same.';
COMMENT ON COLUMN coupon.campaign.per_user_limit IS 'How many units one user may have.';
COMMENT ON COLUMN coupon.campaign.max_per_user_limit IS 'The highest per_user_limit that the campaign has had. What was issued under it stays valid when the limit is lowered.';
COMMENT ON COLUMN coupon.campaign.withdrawn IS 'How many units were taken off the sale by coupon_campaign_reduce_stock() and coupon_units_withdraw().';
COMMENT ON COLUMN coupon.campaign.archived_at IS 'When coupon_campaign_archive() or coupon_campaign_drop() began to take the rows away; null: neither did.';
COMMENT ON COLUMN coupon.campaign.dumped IS 'How many shards, labels, issuances with holds, request keys and memories of holds the campaign had when it was dumped, and how many dead letters there were in all. In a restored copy it is paused until coupon_restored() has found them all; null: it is no copy, or that has been done.';
COMMENT ON COLUMN coupon.campaign.note_refusals IS 'Whether coupon.refusal is to tell who was refused a unit, and why. Set by coupon_campaign_note_refusals().';
COMMENT ON COLUMN coupon.campaign.shared IS 'Whether the stock is shared with the other nodes of a cluster: coupon_campaign_share().';
COMMENT ON COLUMN coupon.campaign.keeper IS 'Of a shared campaign, the node that changes it and adds its units; null: it is not shared.';
COMMENT ON COLUMN coupon.campaign.version IS 'Of a shared campaign, how often its keeper has changed it. The others have a copy, and take a later one only.';
COMMENT ON COLUMN coupon.campaign.away IS 'How many of its units are at other nodes of the cluster, or on their way to one.';
COMMENT ON COLUMN coupon.campaign.opens_at IS 'When the sale begins; null: at once.';
COMMENT ON COLUMN coupon.campaign.closes_at IS 'When the sale is over; null: never.';
COMMENT ON COLUMN coupon.campaign.paused IS 'While this is true, issuing answers "paused". Set by coupon_campaign_pause() and coupon_campaign_resume().';
COMMENT ON COLUMN coupon.campaign.closed_at IS 'When coupon_campaign_close() ended the sale for good; null: it did not.';
COMMENT ON COLUMN coupon.campaign.coded IS 'Whether every unit has a label: a coupon code or a seat number.';
COMMENT ON COLUMN coupon.campaign.policy IS 'The rules of the discount, checked when the row is written. Each issuance gets a copy.';
COMMENT ON COLUMN coupon.campaign.topic IS 'The Kafka topic of the campaign''s events.';
COMMENT ON COLUMN coupon.campaign.created_at IS 'When the campaign was created.';
COMMENT ON COLUMN coupon.campaign.room_id IS 'The waiting room that must have admitted a user before they are issued anything; null: none.';
COMMENT ON COLUMN coupon.campaign.labels_public IS 'Whether everybody may see the labels, as with seat numbers. Codes are secret until they are issued.';

-- That a shard has its campaign is seen to by triggers: pg_restore with several jobs
-- loads tables in any order, and a foreign key would refuse that.
CREATE TABLE coupon.shard (
	campaign_id  bigint NOT NULL,
	shard        integer NOT NULL CHECK (shard >= 0),
	first_serial bigint NOT NULL CHECK (first_serial >= 1),
	last_serial  bigint NOT NULL,
	withdrawn    bytea,
	away         bytea,
	PRIMARY KEY (campaign_id, shard),
	UNIQUE (campaign_id, first_serial),
	CHECK (last_serial >= first_serial)
);
COMMENT ON TABLE coupon.shard IS 'The units that exist, as ranges of serials. Sessions spread over the ranges, so that they do not wait for each other.';
COMMENT ON COLUMN coupon.shard.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.shard.shard IS 'The number of the range: 0, 1, 2, ... without gaps.';
COMMENT ON COLUMN coupon.shard.first_serial IS 'The first serial of the range. It follows the last one of the range before.';
COMMENT ON COLUMN coupon.shard.last_serial IS 'The last serial of the range.';
COMMENT ON COLUMN coupon.shard.withdrawn IS 'Which units are off the sale for good: get_bit(withdrawn, n) is that of serial first_serial + n; null: none.';
COMMENT ON COLUMN coupon.shard.away IS 'Which units are at other nodes of the cluster, or on their way to one, in the same way; null: none.';

-- A dump keeps the sale; events are left out, a copy must not publish them again.
-- (coupon.campaign itself: see coupon_restored.)
SELECT pg_catalog.pg_extension_config_dump('coupon.campaign_campaign_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('coupon.shard', '');

-- The functions write nothing that breaks a law.  These triggers see to it that
-- others, a restore or a superuser's own INSERT, do not either.

CREATE FUNCTION coupon.campaign_changed() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'coupon_campaign_changed';
COMMENT ON FUNCTION coupon.campaign_changed() IS 'Trigger: has the cached definition of a campaign read again once a change commits.';

CREATE FUNCTION coupon.shard_deleted() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'coupon_shard_deleted';
COMMENT ON FUNCTION coupon.shard_deleted() IS 'Trigger: waits for those who issue units of a deleted shard, and refuses the deletion if one is issued.';

CREATE FUNCTION coupon.campaign_guard() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NEW.max_per_user_limit < OLD.max_per_user_limit THEN
		RAISE check_violation USING
			MESSAGE = 'max_per_user_limit cannot be lowered',
			DETAIL = format('Campaign %s: users may have had %s units.', NEW.campaign_id, OLD.max_per_user_limit),
			HINT = 'Change per_user_limit.';
	END IF;
	NEW.max_per_user_limit := greatest(NEW.max_per_user_limit, NEW.per_user_limit);
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION coupon.campaign_guard() IS 'Trigger: keeps max_per_user_limit.';

CREATE FUNCTION coupon.policy_guard() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'coupon_policy_guard';
COMMENT ON FUNCTION coupon.policy_guard() IS 'Trigger: refuses a policy that coupon_campaign_create() would refuse.';

CREATE FUNCTION coupon.restoring() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$ SELECT current_setting('check_function_bodies') = 'off' $$;
COMMENT ON FUNCTION coupon.restoring() IS 'Is this session one of pg_restore, or does it run a script of pg_dump? They set check_function_bodies off, and load tables in any order.';

CREATE FUNCTION coupon.campaign_known() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM 1 FROM coupon.campaign c WHERE c.campaign_id = NEW.campaign_id FOR KEY SHARE;
	IF NOT FOUND AND NOT coupon.restoring() THEN
		RAISE foreign_key_violation USING
			MESSAGE = format('coupon.%I needs a campaign', TG_TABLE_NAME),
			DETAIL = format('There is no campaign %s.', NEW.campaign_id),
			HINT = 'Create it with coupon_campaign_create().';
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION coupon.campaign_known() IS 'Trigger: refuses shards and labels of a campaign that does not exist.';

CREATE FUNCTION coupon.campaign_in_use() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF EXISTS (SELECT FROM coupon.shard s WHERE s.campaign_id = OLD.campaign_id)
	   OR EXISTS (SELECT FROM coupon.unit u WHERE u.campaign_id = OLD.campaign_id) THEN
		RAISE foreign_key_violation USING
			MESSAGE = 'campaign is in use',
			DETAIL = format('Campaign %s has shards or labels.', OLD.campaign_id),
			HINT = 'Use coupon_campaign_drop().';
	END IF;
	RETURN OLD;
END
$$;
COMMENT ON FUNCTION coupon.campaign_in_use() IS 'Trigger: refuses to delete a campaign that has shards or labels.';

CREATE FUNCTION coupon.shard_withdrawn() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'coupon_shard_withdrawn';
COMMENT ON FUNCTION coupon.shard_withdrawn() IS 'Trigger: refuses to withdraw units, or to send them to another node, but by the functions, which take them first.';

CREATE FUNCTION coupon.shard_guard() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF TG_OP = 'DELETE' THEN
		PERFORM 1 FROM coupon.campaign c
		 WHERE c.campaign_id = OLD.campaign_id AND c.closed_at IS NULL;
		IF NOT FOUND THEN
			RETURN OLD;
		END IF;
	END IF;
	RAISE feature_not_supported USING
		MESSAGE = 'units of a campaign cannot be taken away',
		DETAIL = format('Campaign %s, shard %s; sessions may be issuing from it.', OLD.campaign_id, OLD.shard),
		HINT = 'Use coupon_campaign_reduce_stock(); or coupon_campaign_close(), and then coupon_campaign_drop().';
END
$$;
COMMENT ON FUNCTION coupon.shard_guard() IS 'Trigger: refuses to change or delete the shards of a campaign that is not closed.';

CREATE FUNCTION coupon.refuse_truncate() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE feature_not_supported USING
		MESSAGE = format('cannot truncate table coupon.%I', TG_TABLE_NAME),
		HINT = 'Sessions hold this table''s contents in shared memory. Use coupon_revoke(), or DELETE.';
END
$$;
COMMENT ON FUNCTION coupon.refuse_truncate() IS 'Trigger: refuses TRUNCATE, of which shared memory would not learn.';

CREATE TRIGGER campaign_guard BEFORE INSERT OR UPDATE OF per_user_limit, max_per_user_limit ON coupon.campaign
	FOR EACH ROW EXECUTE FUNCTION coupon.campaign_guard();
CREATE TRIGGER policy_guard AFTER INSERT OR UPDATE OF policy ON coupon.campaign
	FOR EACH ROW EXECUTE FUNCTION coupon.policy_guard();
CREATE TRIGGER campaign_changed AFTER INSERT OR UPDATE OR DELETE ON coupon.campaign
	FOR EACH ROW EXECUTE FUNCTION coupon.campaign_changed();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON coupon.campaign
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.refuse_truncate();
-- A subscriber's tables and shared memory must be right, too, so these triggers
-- fire for replicated changes as well.
ALTER TABLE coupon.campaign ENABLE ALWAYS TRIGGER campaign_guard;
ALTER TABLE coupon.campaign ENABLE ALWAYS TRIGGER campaign_changed;
ALTER TABLE coupon.campaign ENABLE ALWAYS TRIGGER refuse_truncate;

CREATE TRIGGER campaign_in_use BEFORE DELETE ON coupon.campaign
	FOR EACH ROW EXECUTE FUNCTION coupon.campaign_in_use();
CREATE TRIGGER campaign_known BEFORE INSERT OR UPDATE OF campaign_id ON coupon.shard
	FOR EACH ROW EXECUTE FUNCTION coupon.campaign_known();
CREATE TRIGGER shard_guard BEFORE DELETE OR UPDATE OF campaign_id, shard, first_serial, last_serial ON coupon.shard
	FOR EACH ROW EXECUTE FUNCTION coupon.shard_guard();
CREATE TRIGGER shard_withdrawn AFTER UPDATE OF withdrawn, away ON coupon.shard
	FOR EACH ROW EXECUTE FUNCTION coupon.shard_withdrawn();
CREATE TRIGGER shard_changed AFTER INSERT OR UPDATE OR DELETE ON coupon.shard
	FOR EACH ROW EXECUTE FUNCTION coupon.campaign_changed();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON coupon.shard
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.refuse_truncate();
ALTER TABLE coupon.shard ENABLE ALWAYS TRIGGER shard_changed;
CREATE TRIGGER shard_deleted AFTER DELETE ON coupon.shard
	FOR EACH ROW EXECUTE FUNCTION coupon.shard_deleted();
ALTER TABLE coupon.shard ENABLE ALWAYS TRIGGER shard_deleted;
ALTER TABLE coupon.shard ENABLE ALWAYS TRIGGER refuse_truncate;

CREATE FUNCTION @extschema@.coupon_campaign_create(
	name           text,
	stock          bigint,
	per_user_limit integer DEFAULT 1,
	opens_at       timestamptz DEFAULT NULL,
	closes_at      timestamptz DEFAULT NULL,
	policy         jsonb DEFAULT '{}',
	topic          text DEFAULT 'coupon-issued')
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_campaign_create(text, bigint, integer, timestamptz, timestamptz, jsonb, text) IS
	'Creates a campaign with the units 1 to stock and returns its id. A campaign whose units are codes or seats begins with stock 0.';

CREATE FUNCTION @extschema@.coupon_campaign_add_stock(campaign_id bigint, units bigint)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_campaign_add_stock(bigint, bigint) IS
	'Adds units to a campaign, which are on sale once the transaction commits. Returns the new stock.';

CREATE FUNCTION @extschema@.coupon_campaign_pause(campaign_id bigint)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_campaign_pause(bigint) IS
	'Pauses the sale from the commit on: issuing answers "paused". Returns whether this call changed it.';

CREATE FUNCTION @extschema@.coupon_campaign_resume(campaign_id bigint)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_campaign_resume(bigint) IS
	'Ends a pause. Returns whether this call changed it.';

CREATE FUNCTION @extschema@.coupon_campaign_close(campaign_id bigint)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_campaign_close(bigint) IS
	'Ends the sale for good. What was issued stays valid. Returns whether this call changed it.';

-- Changing a sale that is under way.

CREATE FUNCTION @extschema@.coupon_campaign_alter(
	campaign_id    bigint,
	name           text DEFAULT NULL,
	opens_at       timestamptz DEFAULT NULL,
	closes_at      timestamptz DEFAULT NULL,
	per_user_limit integer DEFAULT NULL,
	policy         jsonb DEFAULT NULL,
	topic          text DEFAULT NULL)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_campaign_alter(bigint, text, timestamptz, timestamptz, integer, jsonb, text) IS
	'Changes what is not null, from the commit on; opens_at -infinity is at once, closes_at infinity is never. What was issued keeps its policy and stays valid, also above a lowered limit. Returns whether anything changed.';

CREATE FUNCTION @extschema@.coupon_campaign_reduce_stock(campaign_id bigint, units bigint)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_campaign_reduce_stock(bigint, bigint) IS
	'Takes so many free units off the sale for good, whichever they are, or is an ERROR if fewer are free. Returns the new stock.';

CREATE FUNCTION @extschema@.coupon_units_withdraw(campaign_id bigint, serials bigint[])
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_units_withdraw(bigint, bigint[]) IS
	'Takes these units off the sale for good, or is an ERROR if one of them is not free. Returns the new stock.';

-- Units that carry a label: coupon codes, seats.

CREATE TABLE coupon.unit (
	campaign_id bigint NOT NULL,
	serial      bigint NOT NULL CHECK (serial >= 1),
	label       text COLLATE "C" NOT NULL,
	PRIMARY KEY (campaign_id, serial),
	CONSTRAINT unit_label_key UNIQUE (campaign_id, label)
);
COMMENT ON TABLE coupon.unit IS 'The labels of units: coupon codes or seat numbers. Rows are never updated.';
COMMENT ON COLUMN coupon.unit.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.unit.serial IS 'The serial of the unit that has the label.';
COMMENT ON COLUMN coupon.unit.label IS 'The code or seat number, unique in its campaign.';

SELECT pg_catalog.pg_extension_config_dump('coupon.unit', '');

CREATE TRIGGER campaign_known BEFORE INSERT OR UPDATE OF campaign_id ON coupon.unit
	FOR EACH ROW EXECUTE FUNCTION coupon.campaign_known();

CREATE FUNCTION @extschema@.coupon_codes_import(campaign_id bigint, codes text[])
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_codes_import(bigint, text[]) IS
	'Makes each code that is new a unit of the campaign. Duplicates are skipped, and a NOTICE says how many. Returns the number of units made.';

CREATE FUNCTION @extschema@.coupon_codes_generate(campaign_id bigint, pattern text, units bigint)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_codes_generate(bigint, text, bigint) IS
	'Makes units with random codes. Each # of the pattern becomes one of 32 characters, which is 5 bits; null stands for a pattern of 16. Returns the number of units made.';

CREATE FUNCTION @extschema@.coupon_units_import(campaign_id bigint, labels text[])
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_units_import(bigint, text[]) IS
	'Makes each label, such as a seat number, a unit of the campaign, with consecutive serials in the order of the array. A duplicate is an ERROR, and then none is imported. Unlike codes, labels are shown to everybody. Returns the number of units made.';

CREATE FUNCTION @extschema@.coupon_units(
	campaign_id bigint,
	OUT serial bigint,
	OUT label text,
	OUT status text,
	OUT held_until timestamptz)
RETURNS SETOF record
LANGUAGE c STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_units(bigint) IS
	'Every unit of the campaign in the order of serials. Status: FREE | HELD | ISSUED; a unit whose hold has run out is FREE. Withdrawn units and codes are not shown.';

-- Issuances: who has which unit.

CREATE TYPE coupon.issue_result AS (
	user_id    text,
	status     text,
	serial     bigint,
	code       text,
	issued_at  timestamptz,
	expires_at timestamptz
);
COMMENT ON TYPE coupon.issue_result IS
	'The answer of an issue call. Status: issued | already_issued | sold_out | busy | not_open | closed | paused | not_admitted | held; with a request_key also: returned | other_call; of coupon_issue_many() also: invalid.';
COMMENT ON COLUMN coupon.issue_result.user_id IS 'The user who asked.';
COMMENT ON COLUMN coupon.issue_result.status IS 'What became of the call.';
COMMENT ON COLUMN coupon.issue_result.serial IS 'The unit that the user has; null: none.';
COMMENT ON COLUMN coupon.issue_result.code IS 'The label of the unit, if the campaign has labels.';
COMMENT ON COLUMN coupon.issue_result.issued_at IS 'When the unit was issued.';
COMMENT ON COLUMN coupon.issue_result.expires_at IS 'From when on the unit can no longer be redeemed; null: always.';

-- The order of the columns leaves no padding between those of fixed width.  C code
-- (src/sale/issuance_table.c) writes the rows and knows the columns by position.
CREATE TABLE coupon.issuance (
	campaign_id bigint NOT NULL,
	serial      bigint NOT NULL,
	shard       integer NOT NULL,
	nth         integer NOT NULL,
	issued_at   timestamptz NOT NULL,
	expires_at  timestamptz,
	user_id     text COLLATE "C" NOT NULL,
	state       text COLLATE "C" NOT NULL,
	policy      jsonb NOT NULL,
	redeemed_at timestamptz,
	order_ref   text,
	held_until  timestamptz,
	confirm_ref text,
	CONSTRAINT issuance_serial_key PRIMARY KEY (campaign_id, serial),
	CONSTRAINT issuance_user_key UNIQUE (campaign_id, user_id, nth)
);
CREATE INDEX issuance_due_idx ON coupon.issuance (expires_at)
	WHERE state = 'issued' AND expires_at IS NOT NULL;
CREATE INDEX issuance_held_idx ON coupon.issuance (campaign_id, held_until)
	WHERE held_until IS NOT NULL;
CREATE INDEX issuance_lapse_idx ON coupon.issuance (held_until)
	WHERE held_until IS NOT NULL;
COMMENT ON TABLE coupon.issuance IS 'Which unit of which campaign belongs to which user. What is left of a campaign follows from this table alone.';
COMMENT ON COLUMN coupon.issuance.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.issuance.serial IS 'The unit. It is unique in its campaign, so that it cannot be sold twice.';
COMMENT ON COLUMN coupon.issuance.shard IS 'The shard that the serial belongs to.';
COMMENT ON COLUMN coupon.issuance.nth IS 'Whether it is the user''s first, second, ... unit, up to the limit per user. A number that became free is used again.';
COMMENT ON COLUMN coupon.issuance.issued_at IS 'When the unit was issued, or the hold began.';
COMMENT ON COLUMN coupon.issuance.expires_at IS 'From when on it can no longer be redeemed; null: always.';
COMMENT ON COLUMN coupon.issuance.user_id IS 'The user who has the unit.';
COMMENT ON COLUMN coupon.issuance.state IS 'issued | redeemed | expired | held. A hold ends at held_until unless it is confirmed.';
COMMENT ON COLUMN coupon.issuance.policy IS 'The campaign''s policy as it was when the unit was issued.';
COMMENT ON COLUMN coupon.issuance.redeemed_at IS 'When it was redeemed.';
COMMENT ON COLUMN coupon.issuance.order_ref IS 'The order that redeemed it.';
COMMENT ON COLUMN coupon.issuance.held_until IS 'Of a hold, from when on anybody may have the unit; null: it is no hold.';
COMMENT ON COLUMN coupon.issuance.confirm_ref IS 'The payment that confirmed the hold; null: there was no hold.';

SELECT pg_catalog.pg_extension_config_dump('coupon.issuance', '');

CREATE FUNCTION coupon.issuance_guard() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	user_limit integer;
BEGIN
	-- What was allowed when the row was inserted stays so: only what changes is checked.
	IF ROW(NEW.campaign_id, NEW.shard, NEW.serial) IS DISTINCT FROM ROW(OLD.campaign_id, OLD.shard, OLD.serial) THEN
		-- the lock, until the end of the transaction, as a foreign key would take it
		PERFORM FROM coupon.shard s
		 WHERE s.campaign_id = NEW.campaign_id AND s.shard = NEW.shard
		   AND NEW.serial BETWEEN s.first_serial AND s.last_serial
		   AND CASE WHEN s.withdrawn IS NULL THEN true
		            WHEN NEW.serial BETWEEN s.first_serial AND s.last_serial THEN get_bit(s.withdrawn, NEW.serial - s.first_serial) = 0 END
		   AND CASE WHEN s.away IS NULL THEN true
		            WHEN NEW.serial BETWEEN s.first_serial AND s.last_serial THEN get_bit(s.away, NEW.serial - s.first_serial) = 0 END
		   FOR KEY SHARE;
		IF NOT FOUND AND NOT coupon.restoring() THEN
			RAISE check_violation USING
				MESSAGE = 'serial is outside the campaign''s shards',
				DETAIL = format('Campaign %s, shard %s, serial %s.', NEW.campaign_id, NEW.shard, NEW.serial),
				HINT = 'Units are added with coupon_campaign_add_stock().';
		END IF;
	END IF;
	IF ROW(NEW.campaign_id, NEW.nth) IS DISTINCT FROM ROW(OLD.campaign_id, OLD.nth) THEN
		SELECT c.max_per_user_limit INTO user_limit FROM coupon.campaign c
		 WHERE c.campaign_id = NEW.campaign_id;
		IF NEW.nth NOT BETWEEN 1 AND user_limit THEN
			RAISE check_violation USING
				MESSAGE = 'issuance exceeds the per-user limit',
				DETAIL = format('Campaign %s, user %s, nth %s, limit %s.', NEW.campaign_id, left(NEW.user_id, 64), NEW.nth, user_limit),
				HINT = 'nth counts a user''s units from 1.';
		END IF;
	END IF;
	IF NEW.state NOT IN ('issued', 'redeemed', 'expired', 'held') THEN
		RAISE check_violation USING
			MESSAGE = 'invalid issuance state',
			DETAIL = format('State "%s".', left(NEW.state, 32)),
			HINT = 'The states are issued, redeemed, expired and held.';
	END IF;
	IF (NEW.state = 'redeemed') <> (NEW.order_ref IS NOT NULL)
	   OR (NEW.state = 'redeemed') <> (NEW.redeemed_at IS NOT NULL) THEN
		RAISE check_violation USING
			MESSAGE = 'order_ref and redeemed_at belong to redeemed issuances, and to no others',
			DETAIL = format('Campaign %s, serial %s, state "%s".', NEW.campaign_id, NEW.serial, left(NEW.state, 32)),
			HINT = 'Use coupon_redeem() and coupon_redeem_cancel().';
	END IF;
	IF (NEW.state = 'held') <> (NEW.held_until IS NOT NULL)
	   OR NEW.state = 'held' AND (NEW.confirm_ref IS NOT NULL OR NEW.expires_at IS NOT NULL) THEN
		RAISE check_violation USING
			MESSAGE = 'held_until belongs to holds, and to no others; confirm_ref and expires_at do not',
			DETAIL = format('Campaign %s, serial %s, state "%s".', NEW.campaign_id, NEW.serial, left(NEW.state, 32)),
			HINT = 'Use coupon_hold(), coupon_confirm() and coupon_release().';
	END IF;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION coupon.issuance_guard() IS 'Trigger: refuses an issuance outside the shards, above the highest limit per user, or in a state that its other columns contradict.';

CREATE FUNCTION coupon.issuance_arrived() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'coupon_issuance_arrived';
COMMENT ON FUNCTION coupon.issuance_arrived() IS 'Trigger: tells shared memory of a row that was not written by the functions.';

CREATE FUNCTION coupon.issuance_returned() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'coupon_issuance_returned';
COMMENT ON FUNCTION coupon.issuance_returned() IS 'Trigger: gives the unit of a deleted row back to stock once the deletion commits.';

CREATE TRIGGER issuance_guard BEFORE INSERT OR UPDATE OF campaign_id, serial, shard, nth, state, order_ref, redeemed_at,
	held_until, confirm_ref, expires_at
	ON coupon.issuance
	FOR EACH ROW EXECUTE FUNCTION coupon.issuance_guard();
CREATE TRIGGER issuance_arrived AFTER INSERT OR UPDATE OF campaign_id, user_id, held_until ON coupon.issuance
	FOR EACH ROW EXECUTE FUNCTION coupon.issuance_arrived();
CREATE TRIGGER issuance_returned AFTER DELETE OR UPDATE OF campaign_id, serial ON coupon.issuance
	FOR EACH ROW EXECUTE FUNCTION coupon.issuance_returned();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON coupon.issuance
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.refuse_truncate();
-- A subscriber's shared memory must be right, too, so these triggers fire for
-- replicated changes as well.
ALTER TABLE coupon.issuance ENABLE ALWAYS TRIGGER issuance_arrived;
ALTER TABLE coupon.issuance ENABLE ALWAYS TRIGGER issuance_returned;
ALTER TABLE coupon.issuance ENABLE ALWAYS TRIGGER refuse_truncate;

-- Issuing.  These functions are not SECURITY DEFINER: C code reads and writes the
-- tables itself, so EXECUTE on the function is all that a caller needs.

CREATE FUNCTION @extschema@.coupon_issue(campaign_id bigint, user_id text, request_key text DEFAULT NULL)
RETURNS coupon.issue_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_issue';
COMMENT ON FUNCTION @extschema@.coupon_issue(bigint, text, text) IS
	'Issues a unit to the user, in the caller''s transaction. The answer is in status. The same request_key of the same user again gets the same unit.';

CREATE FUNCTION @extschema@.coupon_issue(campaign_id bigint, user_id bigint, request_key text DEFAULT NULL)
RETURNS coupon.issue_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_issue_bigint';
COMMENT ON FUNCTION @extschema@.coupon_issue(bigint, bigint, text) IS
	'Issues a unit to the user, in the caller''s transaction. The answer is in status. The same request_key of the same user again gets the same unit.';

CREATE FUNCTION @extschema@.coupon_issue(campaign_id bigint, user_id uuid, request_key text DEFAULT NULL)
RETURNS coupon.issue_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_issue_uuid';
COMMENT ON FUNCTION @extschema@.coupon_issue(bigint, uuid, text) IS
	'Issues a unit to the user, in the caller''s transaction. The answer is in status. The same request_key of the same user again gets the same unit.';

CREATE FUNCTION @extschema@.coupon_issue_many(campaign_id bigint, user_ids text[], request_keys text[] DEFAULT NULL)
RETURNS SETOF coupon.issue_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_issue_many(bigint, text[], text[]) IS
	'Issues a unit to each user, in the caller''s transaction. Returns an answer for each user, in the order of the array. Other users than texts are cast: ids::text[].';

-- Keys of calls: a repeated call gets what the first one got.  Rows are written
-- with the units that they tell of, never changed, and removed after coupon.key_keep.

-- C code (src/sale/request_key.c) writes the rows and knows the columns by position.
CREATE TABLE coupon.request_key (
	campaign_id bigint NOT NULL,
	used_at     timestamptz NOT NULL,
	user_id     text COLLATE "C" NOT NULL,
	request_key text COLLATE "C" NOT NULL,
	kind        text COLLATE "C" NOT NULL,
	serials     bigint[] NOT NULL,
	PRIMARY KEY (campaign_id, user_id, request_key)
);
CREATE INDEX request_key_used_idx ON coupon.request_key (used_at);
COMMENT ON TABLE coupon.request_key IS 'What calls with a request_key got. Rows are kept for coupon.key_keep; a call with the same key of the same user is answered with them.';
COMMENT ON COLUMN coupon.request_key.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.request_key.used_at IS 'When the units were issued or held.';
COMMENT ON COLUMN coupon.request_key.user_id IS 'The user.';
COMMENT ON COLUMN coupon.request_key.request_key IS 'The caller''s own key.';
COMMENT ON COLUMN coupon.request_key.kind IS 'issue, whichever way; hold, of units that the call has named; hold_any.';
COMMENT ON COLUMN coupon.request_key.serials IS 'The units.';

SELECT pg_catalog.pg_extension_config_dump('coupon.request_key', '');

-- Grouped issuing: calls that come at the same time share a transaction.

CREATE FUNCTION @extschema@.coupon_issue_grouped(campaign_id bigint, user_id text, request_key text DEFAULT NULL)
RETURNS coupon.issue_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_issue_grouped';
COMMENT ON FUNCTION @extschema@.coupon_issue_grouped(bigint, text, text) IS
	'Issues a unit to the user in a transaction of its own, which it shares with the other calls that wait at that moment.';

CREATE FUNCTION @extschema@.coupon_issue_grouped(campaign_id bigint, user_id bigint, request_key text DEFAULT NULL)
RETURNS coupon.issue_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_issue_grouped_bigint';
COMMENT ON FUNCTION @extschema@.coupon_issue_grouped(bigint, bigint, text) IS
	'Issues a unit to the user in a transaction of its own, which it shares with the other calls that wait at that moment.';

CREATE FUNCTION @extschema@.coupon_issue_grouped(campaign_id bigint, user_id uuid, request_key text DEFAULT NULL)
RETURNS coupon.issue_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_issue_grouped_uuid';
COMMENT ON FUNCTION @extschema@.coupon_issue_grouped(bigint, uuid, text) IS
	'Issues a unit to the user in a transaction of its own, which it shares with the other calls that wait at that moment.';

CREATE FUNCTION @extschema@.coupon_group_status(
	OUT workers integer,
	OUT batches bigint,
	OUT calls bigint,
	OUT mean_batch double precision,
	OUT largest_batch bigint,
	OUT commit_ms double precision,
	OUT repeated_batches bigint)
RETURNS record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_group_status() IS
	'Grouped issuing in this database since the server started or coupon_stat_reset(): the workers that run now, the transactions, the calls in them, how long their commits took, and the transactions that were repeated after an error.';

-- Holds: a unit is the user's for a while, and for good once it is paid for.

CREATE TYPE coupon.hold_result AS (
	user_id    text,
	status     text,
	serial     bigint,
	label      text,
	held_until timestamptz
);
COMMENT ON TYPE coupon.hold_result IS
	'The answer of a hold call. Status: held | already_held | already_issued | taken | busy | limit_reached | not_open | closed | paused | not_admitted; of coupon_hold_any() also: sold_out; of coupon_hold_many() also: not_held; of coupon_confirm(): confirmed | already_confirmed | other_ref | lost | limit_reached | not_held | busy; with a request_key also: returned | other_call.';
COMMENT ON COLUMN coupon.hold_result.user_id IS 'The user who asked.';
COMMENT ON COLUMN coupon.hold_result.status IS 'What became of the call.';
COMMENT ON COLUMN coupon.hold_result.serial IS 'The unit.';
COMMENT ON COLUMN coupon.hold_result.label IS 'The label of the unit, if the campaign has labels.';
COMMENT ON COLUMN coupon.hold_result.held_until IS 'When the hold runs out; null: the user has no hold.';

-- C code (src/sale/late_payment.c) writes the rows and knows the columns by position.
CREATE TABLE coupon.lapsed_hold (
	campaign_id bigint NOT NULL,
	serial      bigint NOT NULL,
	held_until  timestamptz NOT NULL,
	user_id     text COLLATE "C" NOT NULL,
	refused_ref text COLLATE "C"
);
CREATE INDEX lapsed_hold_idx ON coupon.lapsed_hold (campaign_id, serial, user_id);
CREATE INDEX lapsed_hold_until_idx ON coupon.lapsed_hold (held_until);
-- A user may hold the same unit twice and pay late twice, so no columns are a
-- key.  Without an identity a publication for all tables would refuse deletes.
ALTER TABLE coupon.lapsed_hold REPLICA IDENTITY FULL;
COMMENT ON TABLE coupon.lapsed_hold IS 'Users who did not pay in time for a unit that they held. Rows are kept for coupon.hold_keep; coupon_confirm() looks here when a payment is late.';
COMMENT ON COLUMN coupon.lapsed_hold.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.lapsed_hold.serial IS 'The unit.';
COMMENT ON COLUMN coupon.lapsed_hold.held_until IS 'When the hold ran out, or the payment was refused.';
COMMENT ON COLUMN coupon.lapsed_hold.user_id IS 'The user who held it.';
COMMENT ON COLUMN coupon.lapsed_hold.refused_ref IS 'A payment that was refused and must be given back, so that it can confirm nothing any more; null: none was refused.';

SELECT pg_catalog.pg_extension_config_dump('coupon.lapsed_hold', '');

CREATE FUNCTION @extschema@.coupon_hold(campaign_id bigint, serial bigint, user_id text, ttl interval DEFAULT '5 min', request_key text DEFAULT NULL)
RETURNS coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_hold';
COMMENT ON FUNCTION @extschema@.coupon_hold(bigint, bigint, text, interval, text) IS
	'Holds a certain unit for the user, in the caller''s transaction. The answer is in status.';

CREATE FUNCTION @extschema@.coupon_hold(campaign_id bigint, serial bigint, user_id bigint, ttl interval DEFAULT '5 min', request_key text DEFAULT NULL)
RETURNS coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_hold_bigint';
COMMENT ON FUNCTION @extschema@.coupon_hold(bigint, bigint, bigint, interval, text) IS
	'Holds a certain unit for the user, in the caller''s transaction. The answer is in status.';

CREATE FUNCTION @extschema@.coupon_hold(campaign_id bigint, serial bigint, user_id uuid, ttl interval DEFAULT '5 min', request_key text DEFAULT NULL)
RETURNS coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_hold_uuid';
COMMENT ON FUNCTION @extschema@.coupon_hold(bigint, bigint, uuid, interval, text) IS
	'Holds a certain unit for the user, in the caller''s transaction. The answer is in status.';

CREATE FUNCTION @extschema@.coupon_hold_many(campaign_id bigint, serials bigint[], user_id text, ttl interval DEFAULT '5 min', request_key text DEFAULT NULL)
RETURNS SETOF coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_hold_many';
COMMENT ON FUNCTION @extschema@.coupon_hold_many(bigint, bigint[], text, interval, text) IS
	'Holds all of the units for the user, or none. Returns an answer for each serial, in the order of the array; not_held: this one could be had, but another one could not.';

CREATE FUNCTION @extschema@.coupon_hold_many(campaign_id bigint, serials bigint[], user_id bigint, ttl interval DEFAULT '5 min', request_key text DEFAULT NULL)
RETURNS SETOF coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_hold_many_bigint';
COMMENT ON FUNCTION @extschema@.coupon_hold_many(bigint, bigint[], bigint, interval, text) IS
	'Holds all of the units for the user, or none. Returns an answer for each serial, in the order of the array; not_held: this one could be had, but another one could not.';

CREATE FUNCTION @extschema@.coupon_hold_many(campaign_id bigint, serials bigint[], user_id uuid, ttl interval DEFAULT '5 min', request_key text DEFAULT NULL)
RETURNS SETOF coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_hold_many_uuid';
COMMENT ON FUNCTION @extschema@.coupon_hold_many(bigint, bigint[], uuid, interval, text) IS
	'Holds all of the units for the user, or none. Returns an answer for each serial, in the order of the array; not_held: this one could be had, but another one could not.';

CREATE FUNCTION @extschema@.coupon_hold_any(campaign_id bigint, user_id text, ttl interval DEFAULT '5 min', request_key text DEFAULT NULL)
RETURNS coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_hold_any';
COMMENT ON FUNCTION @extschema@.coupon_hold_any(bigint, text, interval, text) IS
	'Holds any free unit for the user. A user who has as many as the limit allows is told which unit they have.';

CREATE FUNCTION @extschema@.coupon_hold_any(campaign_id bigint, user_id bigint, ttl interval DEFAULT '5 min', request_key text DEFAULT NULL)
RETURNS coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_hold_any_bigint';
COMMENT ON FUNCTION @extschema@.coupon_hold_any(bigint, bigint, interval, text) IS
	'Holds any free unit for the user. A user who has as many as the limit allows is told which unit they have.';

CREATE FUNCTION @extschema@.coupon_hold_any(campaign_id bigint, user_id uuid, ttl interval DEFAULT '5 min', request_key text DEFAULT NULL)
RETURNS coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_hold_any_uuid';
COMMENT ON FUNCTION @extschema@.coupon_hold_any(bigint, uuid, interval, text) IS
	'Holds any free unit for the user. A user who has as many as the limit allows is told which unit they have.';

CREATE FUNCTION @extschema@.coupon_confirm(campaign_id bigint, serial bigint, user_id text, ref text)
RETURNS coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_confirm';
COMMENT ON FUNCTION @extschema@.coupon_confirm(bigint, bigint, text, text) IS
	'Makes the user''s hold an issuance that the payment ref paid for. A hold that has run out is confirmed, too, as long as nobody else has the unit. The same ref gets the same answer again. For lost, other_ref and limit_reached an event says that the money must be given back.';

CREATE FUNCTION @extschema@.coupon_confirm(campaign_id bigint, serial bigint, user_id bigint, ref text)
RETURNS coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_confirm_bigint';
COMMENT ON FUNCTION @extschema@.coupon_confirm(bigint, bigint, bigint, text) IS
	'Makes the user''s hold an issuance that the payment ref paid for. A hold that has run out is confirmed, too, as long as nobody else has the unit. The same ref gets the same answer again. For lost, other_ref and limit_reached an event says that the money must be given back.';

CREATE FUNCTION @extschema@.coupon_confirm(campaign_id bigint, serial bigint, user_id uuid, ref text)
RETURNS coupon.hold_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_confirm_uuid';
COMMENT ON FUNCTION @extschema@.coupon_confirm(bigint, bigint, uuid, text) IS
	'Makes the user''s hold an issuance that the payment ref paid for. A hold that has run out is confirmed, too, as long as nobody else has the unit. The same ref gets the same answer again. For lost, other_ref and limit_reached an event says that the money must be given back.';

CREATE FUNCTION @extschema@.coupon_release(campaign_id bigint, serial bigint, user_id text)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_release';
COMMENT ON FUNCTION @extschema@.coupon_release(bigint, bigint, text) IS
	'Ends the user''s hold and returns the unit to stock. False if the user has no hold on it, for example because it is confirmed or has run out.';

CREATE FUNCTION @extschema@.coupon_release(campaign_id bigint, serial bigint, user_id bigint)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_release_bigint';
COMMENT ON FUNCTION @extschema@.coupon_release(bigint, bigint, bigint) IS
	'Ends the user''s hold and returns the unit to stock. False if the user has no hold on it, for example because it is confirmed or has run out.';

CREATE FUNCTION @extschema@.coupon_release(campaign_id bigint, serial bigint, user_id uuid)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_release_uuid';
COMMENT ON FUNCTION @extschema@.coupon_release(bigint, bigint, uuid) IS
	'Ends the user''s hold and returns the unit to stock. False if the user has no hold on it, for example because it is confirmed or has run out.';

CREATE FUNCTION @extschema@.coupon_hold_expire(max_rows integer DEFAULT 1000)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_hold_expire(integer) IS
	'Returns up to max_rows units to stock whose holds have run out, each with an event. The sweeper worker does this all the time.';

-- After issuing: redeem, cancel, revoke, expire.

CREATE TYPE coupon.redeem_result AS (
	user_id     text,
	status      text,
	serial      bigint,
	code        text,
	order_ref   text,
	redeemed_at timestamptz
);
COMMENT ON TYPE coupon.redeem_result IS
	'The answer of a redeem call. Status: redeemed | already_redeemed | expired | held | not_issued; of a cancellation: cancelled | not_redeemed | other_order | not_issued.';
COMMENT ON COLUMN coupon.redeem_result.user_id IS 'The user who asked.';
COMMENT ON COLUMN coupon.redeem_result.status IS 'What became of the call.';
COMMENT ON COLUMN coupon.redeem_result.serial IS 'The unit; null: the user has none.';
COMMENT ON COLUMN coupon.redeem_result.code IS 'The label of the unit, if the campaign has labels.';
COMMENT ON COLUMN coupon.redeem_result.order_ref IS 'The order that redeemed the unit.';
COMMENT ON COLUMN coupon.redeem_result.redeemed_at IS 'When it did.';

CREATE FUNCTION @extschema@.coupon_redeem(campaign_id bigint, user_id text, order_ref text, serial bigint DEFAULT NULL)
RETURNS coupon.redeem_result
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_redeem';
COMMENT ON FUNCTION @extschema@.coupon_redeem(bigint, text, text, bigint) IS
	'Uses a unit of the user for an order: the one of that serial, or else the oldest that can be used. The same order gets the same answer again.';

CREATE FUNCTION @extschema@.coupon_redeem(campaign_id bigint, user_id bigint, order_ref text, serial bigint DEFAULT NULL)
RETURNS coupon.redeem_result
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_redeem_bigint';
COMMENT ON FUNCTION @extschema@.coupon_redeem(bigint, bigint, text, bigint) IS
	'Uses a unit of the user for an order: the one of that serial, or else the oldest that can be used. The same order gets the same answer again.';

CREATE FUNCTION @extschema@.coupon_redeem(campaign_id bigint, user_id uuid, order_ref text, serial bigint DEFAULT NULL)
RETURNS coupon.redeem_result
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_redeem_uuid';
COMMENT ON FUNCTION @extschema@.coupon_redeem(bigint, uuid, text, bigint) IS
	'Uses a unit of the user for an order: the one of that serial, or else the oldest that can be used. The same order gets the same answer again.';

CREATE FUNCTION @extschema@.coupon_redeem_cancel(campaign_id bigint, user_id text, order_ref text, serial bigint DEFAULT NULL)
RETURNS coupon.redeem_result
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_redeem_cancel';
COMMENT ON FUNCTION @extschema@.coupon_redeem_cancel(bigint, text, text, bigint) IS
	'Undoes a redemption, for the order that redeemed only. The user keeps the unit.';

CREATE FUNCTION @extschema@.coupon_redeem_cancel(campaign_id bigint, user_id bigint, order_ref text, serial bigint DEFAULT NULL)
RETURNS coupon.redeem_result
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_redeem_cancel_bigint';
COMMENT ON FUNCTION @extschema@.coupon_redeem_cancel(bigint, bigint, text, bigint) IS
	'Undoes a redemption, for the order that redeemed only. The user keeps the unit.';

CREATE FUNCTION @extschema@.coupon_redeem_cancel(campaign_id bigint, user_id uuid, order_ref text, serial bigint DEFAULT NULL)
RETURNS coupon.redeem_result
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_redeem_cancel_uuid';
COMMENT ON FUNCTION @extschema@.coupon_redeem_cancel(bigint, uuid, text, bigint) IS
	'Undoes a redemption, for the order that redeemed only. The user keeps the unit.';

CREATE FUNCTION @extschema@.coupon_revoke(campaign_id bigint, user_id text, reason text, serial bigint DEFAULT NULL)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_revoke';
COMMENT ON FUNCTION @extschema@.coupon_revoke(bigint, text, text, bigint) IS
	'Takes a unit of the user back into stock: the one of that serial, or else the newest; a hold only if the user has nothing else. False if there is none. A redeemed one is an ERROR.';

CREATE FUNCTION @extschema@.coupon_revoke(campaign_id bigint, user_id bigint, reason text, serial bigint DEFAULT NULL)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_revoke_bigint';
COMMENT ON FUNCTION @extschema@.coupon_revoke(bigint, bigint, text, bigint) IS
	'Takes a unit of the user back into stock: the one of that serial, or else the newest; a hold only if the user has nothing else. False if there is none. A redeemed one is an ERROR.';

CREATE FUNCTION @extschema@.coupon_revoke(campaign_id bigint, user_id uuid, reason text, serial bigint DEFAULT NULL)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_revoke_uuid';
COMMENT ON FUNCTION @extschema@.coupon_revoke(bigint, uuid, text, bigint) IS
	'Takes a unit of the user back into stock: the one of that serial, or else the newest; a hold only if the user has nothing else. False if there is none. A redeemed one is an ERROR.';

CREATE FUNCTION @extschema@.coupon_expire(max_rows integer DEFAULT 1000)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_expire(integer) IS
	'Marks up to max_rows issuances as expired whose usage period is over, each with an event. The sweeper worker does this all the time.';

-- The end of a campaign: its rows go to a table of the application's, or away.

CREATE TYPE coupon.archived_issuance AS (
	campaign_id bigint,
	serial      bigint,
	label       text,
	user_id     text,
	nth         integer,
	state       text,
	issued_at   timestamptz,
	expires_at  timestamptz,
	redeemed_at timestamptz,
	order_ref   text,
	confirm_ref text,
	policy      jsonb
);
COMMENT ON TYPE coupon.archived_issuance IS
	'A row that coupon_campaign_archive() writes. CREATE TABLE ... (LIKE coupon.archived_issuance) makes a table for them.';
COMMENT ON COLUMN coupon.archived_issuance.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.archived_issuance.serial IS 'The unit.';
COMMENT ON COLUMN coupon.archived_issuance.label IS 'Its code or seat; null: it has none.';
COMMENT ON COLUMN coupon.archived_issuance.user_id IS 'The user who has it.';
COMMENT ON COLUMN coupon.archived_issuance.nth IS 'Whether it is the user''s first, second, ...';
COMMENT ON COLUMN coupon.archived_issuance.state IS 'issued | redeemed | expired';
COMMENT ON COLUMN coupon.archived_issuance.issued_at IS 'When it was issued.';
COMMENT ON COLUMN coupon.archived_issuance.expires_at IS 'From when on it could not be redeemed; null: never.';
COMMENT ON COLUMN coupon.archived_issuance.redeemed_at IS 'When it was redeemed.';
COMMENT ON COLUMN coupon.archived_issuance.order_ref IS 'The order that redeemed it.';
COMMENT ON COLUMN coupon.archived_issuance.confirm_ref IS 'The payment that confirmed it.';
COMMENT ON COLUMN coupon.archived_issuance.policy IS 'The rules of the discount, as they were when it was issued.';

CREATE FUNCTION coupon.campaign_ending(campaign_id bigint) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'coupon_campaign_ending';
COMMENT ON FUNCTION coupon.campaign_ending(bigint) IS 'Part of coupon_campaign_archive() and coupon_campaign_drop(): whoever inserts issuances looks from now on whether the campaign has ended.';

CREATE FUNCTION coupon.campaign_end_begin(campaign_id bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	campaign record;
	held bigint;
BEGIN
	SELECT c.closed_at, c.dumped INTO campaign FROM coupon.campaign c WHERE c.campaign_id = $1 FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RAISE SQLSTATE 'UC001' USING
			MESSAGE = 'unknown campaign',
			DETAIL = format('There is no campaign %s.', coalesce($1::text, 'null')),
			HINT = 'Use an id that coupon_campaign_create() returned; coupon.campaign lists them.';
	END IF;
	IF campaign.closed_at IS NULL THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'campaign is not closed',
			DETAIL = format('Campaign %s may be issued from.', $1),
			HINT = 'Close it with coupon_campaign_close() first.';
	END IF;
	-- what is missing would be missing in the archive; and its holds are not swept
	IF campaign.dumped IS NOT NULL THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'campaign was restored and is not checked yet',
			DETAIL = format('Campaign %s may lack issuances.', $1),
			HINT = 'Look with SELECT * FROM coupon_restored().';
	END IF;
	SELECT count(*) INTO held FROM coupon.issuance i WHERE i.campaign_id = $1 AND i.held_until > clock_timestamp();
	IF held > 0 THEN
		RAISE object_in_use USING
			MESSAGE = 'units of the campaign are held',
			DETAIL = format('Campaign %s: %s units are held, and may be paid for.', $1, held),
			HINT = 'Wait until the holds have run out, or revoke them with coupon_revoke().';
	END IF;
	PERFORM coupon.campaign_ending($1);
	UPDATE coupon.campaign c SET archived_at = clock_timestamp() WHERE c.campaign_id = $1 AND c.archived_at IS NULL;
	RETURN coalesce((SELECT max(s.last_serial) FROM coupon.shard s WHERE s.campaign_id = $1), 0);
END
$$;
COMMENT ON FUNCTION coupon.campaign_end_begin(bigint) IS 'Part of coupon_campaign_archive() and coupon_campaign_drop(): may the campaign end? Returns its last serial.';

CREATE FUNCTION coupon.campaign_end_holds(campaign_id bigint, serials bigint[]) RETURNS integer
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_campaign_end_holds';
COMMENT ON FUNCTION coupon.campaign_end_holds(bigint, bigint[]) IS 'Part of coupon_campaign_archive() and coupon_campaign_drop(): ends those of the holds that have run out, each with its event. Returns how many.';

-- Takes rows away and returns them, so that whoever calls it writes them with their own
-- rights.  A row that somebody has locked is passed by, or waited for if it is the only one.
-- A hold may come from a transaction that had begun before the close: it is nobody's to
-- take away while it may be paid for, and ends as any other when it has run out.
-- Labels go with their rows.  The others are left to coupon.campaign_end(), since a row
-- that is not committed needs its label, and is not seen here.
CREATE FUNCTION coupon.campaign_end_rows(campaign_id bigint, first_serial bigint, last_serial bigint)
RETURNS SETOF coupon.archived_issuance
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
	serials bigint[];
	held bigint[];
	live bigint;
BEGIN
	IF NOT EXISTS (SELECT FROM coupon.campaign c WHERE c.campaign_id = $1 AND c.archived_at IS NOT NULL AND c.closed_at IS NOT NULL) THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'campaign is not being archived or dropped',
			DETAIL = format('Campaign %s.', coalesce($1::text, 'null')),
			HINT = 'Use coupon_campaign_archive() or coupon_campaign_drop().';
	END IF;
	IF $2 = $3 THEN
		serials := ARRAY(SELECT i.serial FROM coupon.issuance i WHERE i.campaign_id = $1 AND i.serial = $2 FOR UPDATE);
	ELSE
		serials := ARRAY(SELECT i.serial FROM coupon.issuance i
		                  WHERE i.campaign_id = $1 AND i.serial BETWEEN $2 AND $3 ORDER BY i.serial
		                    FOR UPDATE SKIP LOCKED);
	END IF;
	held := ARRAY(SELECT i.serial FROM coupon.issuance i
	               WHERE i.campaign_id = $1 AND i.held_until IS NOT NULL AND i.serial = ANY (serials));
	IF held <> '{}' THEN
		PERFORM coupon.campaign_end_holds($1, held);
		SELECT count(*) INTO live FROM coupon.issuance i
		 WHERE i.campaign_id = $1 AND i.serial = ANY (held) AND i.held_until > clock_timestamp();
		IF live > 0 THEN
			RAISE object_in_use USING
				MESSAGE = 'units of the campaign are held',
				DETAIL = format('Campaign %s: %s units are held, and may be paid for.', $1, live),
				HINT = 'Wait until the holds have run out, or revoke them with coupon_revoke(), and call it again.';
		END IF;
	END IF;
	IF serials <> '{}' THEN
		RETURN QUERY
		WITH gone AS (
			DELETE FROM coupon.issuance i
			 WHERE i.campaign_id = $1 AND i.serial = ANY (serials) AND i.state <> 'held'
			RETURNING i.*)
		SELECT g.campaign_id, g.serial, u.label, g.user_id, g.nth, g.state, g.issued_at, g.expires_at,
		       g.redeemed_at, g.order_ref, g.confirm_ref, g.policy
		  FROM gone g LEFT JOIN coupon.unit u ON u.campaign_id = g.campaign_id AND u.serial = g.serial
		 ORDER BY g.serial;
		DELETE FROM coupon.unit u
		 WHERE u.campaign_id = $1 AND u.serial = ANY (serials) AND u.serial <> ALL (held);
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.campaign_end_rows(bigint, bigint, bigint) IS 'Part of coupon_campaign_archive() and coupon_campaign_drop(): takes the rows of some serials away.';

CREATE FUNCTION coupon.campaign_end_row_left(campaign_id bigint) RETURNS bigint
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT i.serial FROM coupon.issuance i WHERE i.campaign_id = $1 ORDER BY i.serial LIMIT 1 $$;
COMMENT ON FUNCTION coupon.campaign_end_row_left(bigint) IS 'Part of coupon_campaign_archive() and coupon_campaign_drop(): the first serial that is issued yet.';

CREATE FUNCTION coupon.campaign_end(campaign_id bigint, archived boolean) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_campaign_end';
COMMENT ON FUNCTION coupon.campaign_end(bigint, boolean) IS 'Part of coupon_campaign_archive() and coupon_campaign_drop(): takes away what is left once no row is, and tells of it.';

-- Procedures have their caller's rights, since they commit: so all names and operators
-- in them are qualified.  Each step is a transaction; a call that was cut short is called
-- again, and goes on.
CREATE PROCEDURE coupon.campaign_end_steps(campaign_id bigint, target regclass)
LANGUAGE plpgsql
AS $$
DECLARE
	step CONSTANT bigint := 2000;
	into_target CONSTANT text := 'INSERT INTO %s (campaign_id, serial, label, user_id, nth, state, issued_at, expires_at, redeemed_at, order_ref, confirm_ref, policy)'
		' SELECT r.campaign_id, r.serial, r.label, r.user_id, r.nth, r.state, r.issued_at, r.expires_at, r.redeemed_at, r.order_ref, r.confirm_ref, r.policy'
		' FROM coupon.campaign_end_rows($1, $2, $3) r';
	final bigint;
	first bigint := 1;
	last bigint;
	began timestamptz;
BEGIN
	final := coupon.campaign_end_begin($1);
	COMMIT;
	LOOP
		IF first OPERATOR(pg_catalog.<=) final THEN
			last := first OPERATOR(pg_catalog.+) step;
		ELSE
			-- what somebody had locked is waited for, one by one
			last := coupon.campaign_end_row_left($1);
			IF last IS NULL THEN
				BEGIN
					PERFORM coupon.campaign_end($1, target IS NOT NULL);
					RETURN;
				EXCEPTION WHEN foreign_key_violation THEN
					-- a transaction that had begun before the close has issued one
					last := coupon.campaign_end_row_left($1);
					IF last IS NULL THEN
						RAISE;
					END IF;
				END;
			END IF;
			first := last;
			final := 0;
		END IF;
		began := pg_catalog.clock_timestamp();
		-- a step that a crash undoes is done again, so none waits for the disk
		PERFORM pg_catalog.set_config('synchronous_commit', 'off', true);
		IF target IS NULL THEN
			PERFORM FROM coupon.campaign_end_rows($1, first, last);
		ELSE
			EXECUTE pg_catalog.format(into_target, target) USING $1, first, last;
		END IF;
		COMMIT;
		-- the machine is the others', too: a rest of half the time
		PERFORM pg_catalog.pg_sleep(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) began) OPERATOR(pg_catalog./) 2::double precision);
		first := last OPERATOR(pg_catalog.+) 1::bigint;
	END LOOP;
END
$$;
COMMENT ON PROCEDURE coupon.campaign_end_steps(bigint, regclass) IS 'What coupon_campaign_archive() and coupon_campaign_drop() share.';

CREATE PROCEDURE @extschema@.coupon_campaign_archive(campaign_id bigint, target regclass)
LANGUAGE plpgsql
AS $$
BEGIN
	IF target IS NULL THEN
		RAISE null_value_not_allowed USING
			MESSAGE = 'target must not be null',
			HINT = 'Name a table with the columns of coupon.archived_issuance, or use coupon_campaign_drop().';
	END IF;
	CALL coupon.campaign_end_steps($1, target);
END
$$;
COMMENT ON PROCEDURE @extschema@.coupon_campaign_archive(bigint, regclass) IS
	'Moves the issuances of a closed campaign to a table of yours, in steps that commit, and then takes the campaign away. Call it again if it is cut short.';

CREATE PROCEDURE @extschema@.coupon_campaign_drop(campaign_id bigint)
LANGUAGE plpgsql
AS $$
BEGIN
	CALL coupon.campaign_end_steps($1, NULL);
END
$$;
COMMENT ON PROCEDURE @extschema@.coupon_campaign_drop(bigint) IS
	'Takes a closed campaign away with all of its issuances, in steps that commit. Call it again if it is cut short.';

-- Events: the outbox, and what the broker did not accept.

-- There is no index: rows are appended to one of the children, the publisher reads
-- them in order and deletes what is delivered.  When nearly all of a child's rows are
-- gone, the next child takes its turn and this one is truncated.
CREATE TABLE coupon.outbox (
	id      uuid NOT NULL,
	topic   text NOT NULL,
	key     text NOT NULL,
	type    text NOT NULL,
	payload json NOT NULL,
	traceparent text COLLATE "C",
	CONSTRAINT outbox_children_only CHECK (false) NO INHERIT
);
CREATE TABLE coupon.outbox_0 () INHERITS (coupon.outbox) USING heap;
CREATE TABLE coupon.outbox_1 () INHERITS (coupon.outbox) USING heap;
CREATE TABLE coupon.outbox_2 () INHERITS (coupon.outbox) USING heap;
-- Events of topics that are refused wait here, out of the others' way.
CREATE TABLE coupon.outbox_parked () INHERITS (coupon.outbox) USING heap;
CREATE INDEX outbox_parked_idx ON coupon.outbox_parked (topic COLLATE "C", id);
-- A subscriber is not told of single deletions, but of the truncation of a child.
-- There is no key to find a row by, and with REPLICA IDENTITY FULL it would stop at
-- the first deletion, since json has no equality operator.
ALTER TABLE coupon.outbox_0 REPLICA IDENTITY NOTHING;
ALTER TABLE coupon.outbox_1 REPLICA IDENTITY NOTHING;
ALTER TABLE coupon.outbox_2 REPLICA IDENTITY NOTHING;
ALTER TABLE coupon.outbox_parked REPLICA IDENTITY NOTHING;
COMMENT ON TABLE coupon.outbox IS 'Events that are not published yet, each committed together with the change that it tells of. The rows are in the children.';
COMMENT ON TABLE coupon.outbox_0 IS 'The first of three tables for events, which take turns.';
COMMENT ON TABLE coupon.outbox_1 IS 'The second of three tables for events, which take turns.';
COMMENT ON TABLE coupon.outbox_2 IS 'The third of three tables for events, which take turns.';
COMMENT ON TABLE coupon.outbox_parked IS 'Events whose topic is refused. They are published when it is refused no longer.';
COMMENT ON COLUMN coupon.outbox.id IS 'A UUID of version 7. Ids rise in the order of appending. Consumers drop duplicates by the id.';
COMMENT ON COLUMN coupon.outbox.topic IS 'The Kafka topic.';
COMMENT ON COLUMN coupon.outbox.key IS 'The Kafka key: the user, or the campaign where an event is the campaign''s own.';
COMMENT ON COLUMN coupon.outbox.type IS 'What happened. Types that begin with "coupon." are the engine''s own.';
COMMENT ON COLUMN coupon.outbox.payload IS 'The event as it is published.';
COMMENT ON COLUMN coupon.outbox.traceparent IS 'The trace of the call that it comes of (W3C trace context); null: none.';

CREATE FUNCTION coupon.outbox_guard() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE feature_not_supported USING
		MESSAGE = format('cannot write to table coupon.%I directly', TG_TABLE_NAME),
		DETAIL = 'The order of events is that of their ids, which rise in the order of appending.',
		HINT = 'Use coupon_emit(). Rows can be deleted.';
END
$$;
COMMENT ON FUNCTION coupon.outbox_guard() IS 'Trigger: refuses events that were not appended by the functions.';

CREATE TRIGGER outbox_guard BEFORE INSERT OR UPDATE ON coupon.outbox_0
	FOR EACH ROW EXECUTE FUNCTION coupon.outbox_guard();
CREATE TRIGGER outbox_guard BEFORE INSERT OR UPDATE ON coupon.outbox_1
	FOR EACH ROW EXECUTE FUNCTION coupon.outbox_guard();
CREATE TRIGGER outbox_guard BEFORE INSERT OR UPDATE ON coupon.outbox_2
	FOR EACH ROW EXECUTE FUNCTION coupon.outbox_guard();
CREATE TRIGGER outbox_guard BEFORE INSERT OR UPDATE ON coupon.outbox_parked
	FOR EACH ROW EXECUTE FUNCTION coupon.outbox_guard();

-- So that ids rise when the clock steps back over a restart (src/outbox/event_id.c).
CREATE SEQUENCE coupon.event_clock MINVALUE 0;
CREATE SEQUENCE coupon.event_start MINVALUE 0;
COMMENT ON SEQUENCE coupon.event_clock IS 'Event ids up to this time may have been given, in milliseconds since 1970.';
COMMENT ON SEQUENCE coupon.event_start IS 'Which start of the server has set coupon.event_clock: a random number.';

CREATE TABLE coupon.dead_letter (
	id       uuid PRIMARY KEY,
	topic    text NOT NULL,
	key      text NOT NULL,
	type     text NOT NULL,
	payload  json NOT NULL,
	reason   text NOT NULL,
	attempts integer NOT NULL,
	dead_at  timestamptz NOT NULL,
	traceparent text COLLATE "C"
);
COMMENT ON TABLE coupon.dead_letter IS 'Events that the broker did not accept. coupon_dead_letter_replay() puts them back into the outbox.';
COMMENT ON COLUMN coupon.dead_letter.id IS 'The id of the event.';
COMMENT ON COLUMN coupon.dead_letter.topic IS 'The topic that it was for.';
COMMENT ON COLUMN coupon.dead_letter.key IS 'Its key.';
COMMENT ON COLUMN coupon.dead_letter.type IS 'Its type.';
COMMENT ON COLUMN coupon.dead_letter.payload IS 'The event.';
COMMENT ON COLUMN coupon.dead_letter.reason IS 'Why it was not accepted.';
COMMENT ON COLUMN coupon.dead_letter.attempts IS 'How often it was tried.';
COMMENT ON COLUMN coupon.dead_letter.dead_at IS 'When it was given up.';
COMMENT ON COLUMN coupon.dead_letter.traceparent IS 'Its trace; null: none.';

SELECT pg_catalog.pg_extension_config_dump('coupon.event_clock', '');
SELECT pg_catalog.pg_extension_config_dump('coupon.event_start', '');
SELECT pg_catalog.pg_extension_config_dump('coupon.dead_letter', '');

CREATE FUNCTION @extschema@.coupon_emit(topic text, key text, type text, payload jsonb)
RETURNS uuid
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_emit(text, text, text, jsonb) IS
	'Appends an event of the application to the outbox, in the caller''s transaction. Returns the id of the event.';

CREATE FUNCTION @extschema@.coupon_dead_letter_replay(id uuid DEFAULT NULL, topic text DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_dead_letter_replay(uuid, text) IS
	'Puts dead letters back into the outbox under their ids: the one of an id, those of a topic, or all. Returns how many.';

CREATE FUNCTION @extschema@.coupon_dead_letter_discard(id uuid DEFAULT NULL, topic text DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_dead_letter_discard(uuid, text) IS
	'Deletes dead letters for good: the one of an id, those of a topic, or all. Returns how many.';

CREATE FUNCTION coupon.publisher_state(
	exact boolean, OUT unpublished bigint, OUT oldest_at timestamptz, OUT in_flight bigint,
	OUT published bigint, OUT retried bigint, OUT dead bigint,
	OUT acknowledged_at timestamptz, OUT broker text, OUT refused_topics text,
	OUT last_error text, OUT failed_at timestamptz, OUT size_bytes bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_publisher_state';
COMMENT ON FUNCTION coupon.publisher_state(boolean) IS 'What shared memory knows of the publisher; use coupon_outbox_status().';

CREATE FUNCTION @extschema@.coupon_outbox_status(
	exact boolean DEFAULT true, OUT unpublished bigint, OUT oldest_age interval, OUT in_flight bigint,
	OUT published bigint, OUT retried bigint, OUT dead bigint, OUT dead_letters bigint,
	OUT last_ack_at timestamptz, OUT broker text, OUT refused_topics text,
	OUT last_error text, OUT last_error_at timestamptz,
	OUT blocking_age interval, OUT blocking_pid integer, OUT size_bytes bigint)
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT s.unpublished, clock_timestamp() - s.oldest_at, s.in_flight, s.published, s.retried, s.dead,
	       (SELECT count(*) FROM (SELECT FROM coupon.dead_letter LIMIT CASE WHEN $1 IS FALSE THEN 10000 END) d), s.acknowledged_at, s.broker, s.refused_topics,
	       s.last_error, s.failed_at, clock_timestamp() - b.xact_start, b.pid, s.size_bytes
	  FROM coupon.publisher_state($1 IS NOT FALSE) s
	  LEFT JOIN LATERAL (
		SELECT coalesce(a.xact_start, p.prepared) AS xact_start, a.pid
		  FROM pg_locks l
		  LEFT JOIN pg_stat_activity a ON a.pid = l.pid
		  LEFT JOIN pg_prepared_xacts p ON l.pid IS NULL AND p.transaction::text = split_part(l.virtualtransaction, '/', 2)
		 WHERE l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
		   AND l.relation IN ('coupon.outbox_0'::regclass, 'coupon.outbox_1'::regclass, 'coupon.outbox_2'::regclass)
		   AND (a.backend_type NOT LIKE 'coupon %' AND a.pid <> pg_backend_pid() OR p.transaction IS NOT NULL)
		 ORDER BY 1 LIMIT 1) b ON true
$$;
COMMENT ON FUNCTION @extschema@.coupon_outbox_status(boolean) IS
	'The outbox and its publisher: what is yet to be published and since when, what became of the rest since the server started or coupon_stat_reset(), the broker and the last error, and the oldest open transaction that uses the outbox. With exact false it takes no longer for a large outbox: events are estimated by a sample of 16 MB, and 10000 dead letters are counted at most.';

-- Asynchronous requests.  A row is inserted, changed once when the request is
-- decided, and truncated with its table when all of a table are old: two tables take
-- turns.  Half of each page is left free for the change.  C code (src/queue/queue_table.c,
-- src/request/) writes the rows and knows the columns by position.

CREATE TABLE coupon.request (
	request_id   uuid NOT NULL,
	campaign_id  bigint NOT NULL,
	requested_at timestamptz NOT NULL,
	decided_at   timestamptz,
	serial       bigint,
	user_id      text COLLATE "C" NOT NULL,
	outcome      text COLLATE "C",
	request_key  text COLLATE "C",
	traceparent  text COLLATE "C",
	CONSTRAINT request_children_only CHECK (false) NO INHERIT
);
CREATE TABLE coupon.request_0 (PRIMARY KEY (request_id)) INHERITS (coupon.request)
	WITH (fillfactor = 45, autovacuum_enabled = off);
CREATE TABLE coupon.request_1 (PRIMARY KEY (request_id)) INHERITS (coupon.request)
	WITH (fillfactor = 45, autovacuum_enabled = off);
CREATE INDEX request_0_user_idx ON coupon.request_0 (campaign_id, user_id);
CREATE INDEX request_1_user_idx ON coupon.request_1 (campaign_id, user_id);
COMMENT ON TABLE coupon.request IS 'Asynchronous requests. The rows are in the children.';
COMMENT ON TABLE coupon.request_0 IS 'The first of two tables for requests, which take turns.';
COMMENT ON TABLE coupon.request_1 IS 'The second of two tables for requests, which take turns.';
COMMENT ON COLUMN coupon.request.request_id IS 'A UUID of version 8, made of the campaign, the request''s number in the campaign''s line, and 58 random bits.';
COMMENT ON COLUMN coupon.request.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.request.requested_at IS 'When it was accepted.';
COMMENT ON COLUMN coupon.request.decided_at IS 'When it was decided; null: it waits.';
COMMENT ON COLUMN coupon.request.serial IS 'The unit that the user has; null: none.';
COMMENT ON COLUMN coupon.request.user_id IS 'The user who is to be issued a unit.';
COMMENT ON COLUMN coupon.request.outcome IS 'A status of coupon.issue_result, or failed; null: it waits.';
COMMENT ON COLUMN coupon.request.request_key IS 'The caller''s own key. The same key again is the same request.';
COMMENT ON COLUMN coupon.request.traceparent IS 'The trace of the call that made it; null: none.';

CREATE TYPE coupon.request_result AS (
	request_id     uuid,
	status         text,
	outcome        text,
	queue_position bigint,
	issuance       coupon.issue_result,
	requested_at   timestamptz,
	decided_at     timestamptz,
	repeated       boolean
);
COMMENT ON TYPE coupon.request_result IS
	'What is known of a request. Status: WAITING | COMPLETED | REFUSED | NOT_REQUESTED. Outcome: a status of coupon.issue_result, or full, or failed.';
COMMENT ON COLUMN coupon.request_result.request_id IS 'The id of the request.';
COMMENT ON COLUMN coupon.request_result.status IS 'How far it is.';
COMMENT ON COLUMN coupon.request_result.outcome IS 'How it was decided; null: it waits.';
COMMENT ON COLUMN coupon.request_result.queue_position IS 'Its place in the line: 1 is next, 0 is decided.';
COMMENT ON COLUMN coupon.request_result.issuance IS 'The unit, where the user has one.';
COMMENT ON COLUMN coupon.request_result.requested_at IS 'When it was accepted.';
COMMENT ON COLUMN coupon.request_result.decided_at IS 'When it was decided; null: it waits.';
COMMENT ON COLUMN coupon.request_result.repeated IS 'Of coupon_request(): whether an earlier call had made the request; null: nothing was asked for, or it was refused.';

CREATE FUNCTION coupon.queue_guard() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'coupon_queue_guard';
COMMENT ON FUNCTION coupon.queue_guard() IS 'Trigger: refuses changes that the functions did not make, of which shared memory would not learn.';

CREATE TRIGGER queue_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.request
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.queue_guard();
CREATE TRIGGER queue_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.request_0
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.queue_guard();
CREATE TRIGGER queue_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.request_1
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.queue_guard();

CREATE FUNCTION @extschema@.coupon_request(campaign_id bigint, user_id text, request_key text DEFAULT NULL)
RETURNS coupon.request_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_request';
COMMENT ON FUNCTION @extschema@.coupon_request(bigint, text, text) IS
	'Asks for a unit, which a worker decides after the commit. The same key again, or without a key a request of the user that still waits, is the same request. REFUSED: nothing was stored, and the outcome says why.';

CREATE FUNCTION @extschema@.coupon_request(campaign_id bigint, user_id bigint, request_key text DEFAULT NULL)
RETURNS coupon.request_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_request_bigint';
COMMENT ON FUNCTION @extschema@.coupon_request(bigint, bigint, text) IS
	'Asks for a unit, which a worker decides after the commit. The same key again, or without a key a request of the user that still waits, is the same request. REFUSED: nothing was stored, and the outcome says why.';

CREATE FUNCTION @extschema@.coupon_request(campaign_id bigint, user_id uuid, request_key text DEFAULT NULL)
RETURNS coupon.request_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_request_uuid';
COMMENT ON FUNCTION @extschema@.coupon_request(bigint, uuid, text) IS
	'Asks for a unit, which a worker decides after the commit. The same key again, or without a key a request of the user that still waits, is the same request. REFUSED: nothing was stored, and the outcome says why.';

CREATE FUNCTION @extschema@.coupon_request_status(request_id uuid)
RETURNS coupon.request_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_request_status(uuid) IS
	'What is known of a request. NOT_REQUESTED: there is none, or it was decided longer than coupon.queue_keep ago.';

CREATE FUNCTION @extschema@.coupon_request_status_of(campaign_id bigint, user_id text)
RETURNS coupon.request_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_request_status_of';
COMMENT ON FUNCTION @extschema@.coupon_request_status_of(bigint, text) IS
	'What is known of the user''s newest request. Without one: COMPLETED for a user who has a unit, else NOT_REQUESTED.';

CREATE FUNCTION @extschema@.coupon_request_status_of(campaign_id bigint, user_id bigint)
RETURNS coupon.request_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_request_status_of_bigint';
COMMENT ON FUNCTION @extschema@.coupon_request_status_of(bigint, bigint) IS
	'What is known of the user''s newest request. Without one: COMPLETED for a user who has a unit, else NOT_REQUESTED.';

CREATE FUNCTION @extschema@.coupon_request_status_of(campaign_id bigint, user_id uuid)
RETURNS coupon.request_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_request_status_of_uuid';
COMMENT ON FUNCTION @extschema@.coupon_request_status_of(bigint, uuid) IS
	'What is known of the user''s newest request. Without one: COMPLETED for a user who has a unit, else NOT_REQUESTED.';

CREATE FUNCTION @extschema@.coupon_request_wait(request_id uuid, timeout interval DEFAULT '5 s')
RETURNS coupon.request_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_request_wait(uuid, interval) IS
	'Waits until the request is decided, at most for the timeout, and then answers as coupon_request_status().';

CREATE FUNCTION @extschema@.coupon_request_queue(
	campaign_id bigint DEFAULT NULL,
	OUT campaign bigint,
	OUT depth bigint,
	OUT oldest interval,
	OUT decided bigint,
	OUT decided_per_second double precision,
	OUT drain_time interval,
	OUT depth_limit bigint)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_request_queue(bigint) IS
	'How many requests wait, how long the oldest has waited, how many were decided since the server knows the campaign, and how long the rest will take.';

CREATE FUNCTION @extschema@.coupon_request_decide(max_rows integer DEFAULT 1000)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_request_decide(integer) IS
	'Decides up to max_rows requests of one campaign in their order. The issuer worker does this all the time.';

-- A sale on several nodes: which slots there are, and who has them.

CREATE FUNCTION @extschema@.coupon_slot(user_id text) RETURNS integer
LANGUAGE c STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_slot';
COMMENT ON FUNCTION @extschema@.coupon_slot(text) IS
	'The slot of a user, 0 to 1023: bits 16 to 25 of the CRC-32 of the id as text. It never changes.';

CREATE FUNCTION @extschema@.coupon_slot(user_id bigint) RETURNS integer
LANGUAGE c STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_slot_bigint';
COMMENT ON FUNCTION @extschema@.coupon_slot(bigint) IS
	'The slot of a user, 0 to 1023: bits 16 to 25 of the CRC-32 of the id as text. It never changes.';

CREATE FUNCTION @extschema@.coupon_slot(user_id uuid) RETURNS integer
LANGUAGE c STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_slot_uuid';
COMMENT ON FUNCTION @extschema@.coupon_slot(uuid) IS
	'The slot of a user, 0 to 1023: bits 16 to 25 of the CRC-32 of the id as text. It never changes.';

CREATE FUNCTION @extschema@.coupon_home(campaign_id bigint, user_id text) RETURNS integer
LANGUAGE c STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_home';
COMMENT ON FUNCTION @extschema@.coupon_home(bigint, text) IS
	'The slot that decides on which node a user of a campaign has their home: the user''s, or the campaign''s if its id is 1000000000 or more.';

CREATE FUNCTION @extschema@.coupon_home(campaign_id bigint, user_id bigint) RETURNS integer
LANGUAGE c STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_home_bigint';
COMMENT ON FUNCTION @extschema@.coupon_home(bigint, bigint) IS
	'The slot that decides on which node a user of a campaign has their home: the user''s, or the campaign''s if its id is 1000000000 or more.';

CREATE FUNCTION @extschema@.coupon_home(campaign_id bigint, user_id uuid) RETURNS integer
LANGUAGE c STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_home_uuid';
COMMENT ON FUNCTION @extschema@.coupon_home(bigint, uuid) IS
	'The slot that decides on which node a user of a campaign has their home: the user''s, or the campaign''s if its id is 1000000000 or more.';

CREATE TABLE coupon.node (
	node_id  smallint PRIMARY KEY CHECK (node_id BETWEEN 1 AND 64),
	name     text COLLATE "C" NOT NULL UNIQUE CHECK (pg_catalog.octet_length(name) BETWEEN 1 AND 64),
	conninfo text NOT NULL,
	http_url text,
	state    text COLLATE "C" NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'draining', 'gone')),
	version  bigint NOT NULL DEFAULT 1
);
COMMENT ON TABLE coupon.node IS 'The nodes of the sale, as far as this one knows. Empty on a server that is no node.';
COMMENT ON COLUMN coupon.node.node_id IS 'The node''s number. It is never given to another server.';
COMMENT ON COLUMN coupon.node.name IS 'A name for people.';
COMMENT ON COLUMN coupon.node.conninfo IS 'How proxies and other nodes connect to it, without a password.';
COMMENT ON COLUMN coupon.node.http_url IS 'Where its front listens, as http://10.0.0.1:8080; null: it has none.';
COMMENT ON COLUMN coupon.node.state IS 'active, draining: it is to get no more slots, gone: it has left.';
COMMENT ON COLUMN coupon.node.version IS 'The higher one of two versions of the row is true.';

CREATE TABLE coupon.slot (
	slot    smallint PRIMARY KEY CHECK (slot BETWEEN 0 AND 1023),
	node_id smallint NOT NULL,
	version bigint NOT NULL,
	leaving smallint
);
COMMENT ON TABLE coupon.slot IS 'Who has each slot, as far as this node knows. Only who has one gives it away, and only who receives it makes itself its owner.';
COMMENT ON COLUMN coupon.slot.slot IS 'The slot, see coupon_slot().';
COMMENT ON COLUMN coupon.slot.node_id IS 'The node that has it, or to which it is on its way.';
COMMENT ON COLUMN coupon.slot.version IS 'How often it has been given away. The higher one of two versions is true.';
COMMENT ON COLUMN coupon.slot.leaving IS 'The node that it is about to be given to: calls for it are refused. Null: it stays.';

CREATE TABLE coupon.node_self (
	node_id smallint NOT NULL CHECK (node_id BETWEEN 1 AND 64),
	is_self boolean NOT NULL DEFAULT true PRIMARY KEY CHECK (is_self)
);
COMMENT ON TABLE coupon.node_self IS 'Which node this server is: one row, or none.';
COMMENT ON COLUMN coupon.node_self.node_id IS 'Its number in coupon.node.';
COMMENT ON COLUMN coupon.node_self.is_self IS 'True, so that there is one row at most.';

CREATE TABLE coupon.node_copy (
	node_id smallint PRIMARY KEY,
	digest  text,
	due_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	problem text,
	since   timestamptz
);
COMMENT ON TABLE coupon.node_copy IS 'What the other nodes are known to know of coupon.node, and whether they answer.';
COMMENT ON COLUMN coupon.node_copy.node_id IS 'The node.';
COMMENT ON COLUMN coupon.node_copy.digest IS 'What it knew when this node heard of it last, see coupon.map_digest(); null: something else.';
COMMENT ON COLUMN coupon.node_copy.due_at IS 'When it is told again, if it has not answered.';
COMMENT ON COLUMN coupon.node_copy.problem IS 'Why the transfer worker got no answer, when it began to get none; null: it got one when it asked last.';
COMMENT ON COLUMN coupon.node_copy.since IS 'Since when.';

CREATE FUNCTION coupon.node_changed() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'coupon_node_changed';
COMMENT ON FUNCTION coupon.node_changed() IS 'Trigger: has all sessions read the map again once a change commits.';

CREATE TRIGGER node_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.slot
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.node_changed();
CREATE TRIGGER node_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.node_self
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.node_changed();
ALTER TABLE coupon.slot ENABLE ALWAYS TRIGGER node_changed;
ALTER TABLE coupon.node_self ENABLE ALWAYS TRIGGER node_changed;

CREATE FUNCTION coupon.slots_settle() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_slots_settle';
COMMENT ON FUNCTION coupon.slots_settle() IS 'Waits for the end of all transactions that asked whether a slot is here, at most for lock_timeout.';

CREATE FUNCTION @extschema@.coupon_node_self() RETURNS integer
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT s.node_id::integer FROM coupon.node_self s $$;
COMMENT ON FUNCTION @extschema@.coupon_node_self() IS 'Which node this server is; null: none.';

CREATE FUNCTION coupon.node_check(node_id integer, name text, conninfo text, http_url text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	problem text;
	hint text;
BEGIN
	CASE
		WHEN $1 IS NULL OR $1 NOT BETWEEN 1 AND 64 THEN
			problem := 'node_id'; hint := 'Use 1 to 64, and a number that no server of the sale has had before.';
		WHEN $2 IS NULL OR octet_length($2) NOT BETWEEN 1 AND 64 THEN
			problem := 'name'; hint := 'Use 1 to 64 bytes.';
		WHEN $3 IS NULL OR octet_length($3) NOT BETWEEN 1 AND 1024 THEN
			problem := 'conninfo'; hint := 'Use a connection string of 1 to 1024 bytes, as host=10.0.0.1 dbname=sale.';
		WHEN $3 ~* 'password[[:space:]]*=' OR $3 ~ '://[^/@]*:[^/@]*@' THEN
			problem := 'conninfo'; hint := 'Put the password into the .pgpass of those who connect: this string is shown.';
		WHEN $4 IS NOT NULL AND ($4 !~ '^https?://[^/[:space:];"]+$' OR octet_length($4) > 256) THEN
			problem := 'http_url'; hint := 'Use a URL without a path, as http://10.0.0.1:8080, or null.';
		ELSE
	END CASE;
	IF problem IS NOT NULL THEN
		RAISE invalid_parameter_value USING
			MESSAGE = format('invalid %s of a node', problem),
			DETAIL = format('Node %s, name %s.', coalesce($1::text, 'null'), coalesce(quote_literal(left($2, 32)), 'null')),
			HINT = hint;
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.node_check(integer, text, text, text) IS 'Refuses what cannot be a node.';

CREATE FUNCTION coupon.node_become(node_id integer, name text, conninfo text, http_url text) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	already integer;
BEGIN
	PERFORM coupon.node_check($1, $2, $3, $4);
	LOCK TABLE coupon.node_self IN SHARE ROW EXCLUSIVE MODE;
	SELECT s.node_id INTO already FROM coupon.node_self s;
	IF already IS NOT NULL THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'this server is a node already',
			DETAIL = format('It is node %s.', already),
			HINT = 'coupon.node_status lists the nodes.';
	END IF;
	INSERT INTO coupon.node (node_id, name, conninfo, http_url) VALUES ($1, $2, $3, $4);
	INSERT INTO coupon.node_self (node_id) VALUES ($1);
END
$$;
COMMENT ON FUNCTION coupon.node_become(integer, text, text, text) IS 'Makes this server a node, which has no slots yet.';

CREATE FUNCTION coupon.node_number() RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
BEGIN
	EXECUTE format('ALTER SEQUENCE coupon.campaign_campaign_id_seq INCREMENT BY 64 RESTART WITH %s',
		(SELECT ((greatest(max(c.campaign_id) FILTER (WHERE c.campaign_id < 1000000000), CASE WHEN q.is_called THEN q.last_value END, 0) + 63) / 64) * 64 + self
		   FROM coupon.campaign_campaign_id_seq q LEFT JOIN coupon.campaign c ON true GROUP BY q.is_called, q.last_value));
	EXECUTE format('ALTER SEQUENCE coupon.room_room_id_seq INCREMENT BY 64 RESTART WITH %s',
		(SELECT ((greatest(max(r.room_id), CASE WHEN q.is_called THEN q.last_value END, 0) + 63) / 64) * 64 + self
		   FROM coupon.room_room_id_seq q LEFT JOIN coupon.room r ON true GROUP BY q.is_called, q.last_value));
END
$$;
COMMENT ON FUNCTION coupon.node_number() IS 'From here on this node gives campaigns and rooms numbers that no other node gives.';

CREATE FUNCTION @extschema@.coupon_node_found(node_id integer, name text, conninfo text, http_url text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM coupon.node_become($1, $2, $3, $4);
	PERFORM coupon.node_number();
	INSERT INTO coupon.slot (slot, node_id, version)
	SELECT s::smallint, $1::smallint, 1 FROM generate_series(0, 1023) s;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_node_found(integer, text, text, text) IS
	'Makes this server the first node of a sale, which has all slots: its users stay where they are.';

CREATE FUNCTION coupon.learn_map(map jsonb) RETURNS integer
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := coupon.cluster_require();
	n integer;
	changed integer;
BEGIN
	IF (jsonb_typeof($1 -> 'nodes') = 'array' AND jsonb_typeof($1 -> 'slots') = 'array') IS NOT TRUE THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'this is no map',
			DETAIL = 'It has no arrays nodes and slots.',
			HINT = 'Pass what coupon_node_map() of another node returns.';
	END IF;
	INSERT INTO coupon.node AS o (node_id, name, conninfo, http_url, state, version)
	SELECT r.node_id, r.name, r.conninfo, r.http_url, r.state, r.version
	  FROM jsonb_to_recordset($1 -> 'nodes') r(node_id smallint, name text, conninfo text, http_url text, state text, version bigint)
	 ORDER BY r.node_id
	ON CONFLICT ON CONSTRAINT node_pkey DO UPDATE
	   SET name = excluded.name, conninfo = excluded.conninfo, http_url = excluded.http_url,
	       state = excluded.state, version = excluded.version
	-- two changes at two nodes at the same time: all take the same one
	 WHERE (o.version, o.state COLLATE "C", o.conninfo COLLATE "C", coalesce(o.http_url, '') COLLATE "C", o.name)
	       < (excluded.version, excluded.state COLLATE "C", excluded.conninfo COLLATE "C", coalesce(excluded.http_url, '') COLLATE "C", excluded.name);
	GET DIAGNOSTICS changed = ROW_COUNT;
	-- A node that is told that it has a slot waits until the slot comes.  One that is told
	-- that another has what it took for its own gave it away, and has forgotten that.
	PERFORM 1 FROM coupon.slot s
	  JOIN jsonb_array_elements($1 -> 'slots') r ON s.slot = (r ->> 0)::smallint AND s.version < (r ->> 2)::bigint AND (r ->> 1)::smallint IS DISTINCT FROM self
	 ORDER BY s.slot FOR UPDATE OF s;
	WITH told AS (
		SELECT (r ->> 0)::smallint AS slot, (r ->> 1)::smallint AS node_id, (r ->> 2)::bigint AS version
		  FROM jsonb_array_elements($1 -> 'slots') r),
	news AS (
		SELECT t.* FROM told t LEFT JOIN coupon.slot s ON s.slot = t.slot
		 WHERE s.slot IS NULL OR s.version < t.version AND t.node_id IS DISTINCT FROM self)
	INSERT INTO coupon.slot AS s (slot, node_id, version)
	SELECT w.slot, w.node_id, w.version FROM news w
	ON CONFLICT ON CONSTRAINT slot_pkey DO UPDATE
	   SET node_id = excluded.node_id, version = excluded.version, leaving = NULL
	 WHERE s.version < excluded.version;
	GET DIAGNOSTICS n = ROW_COUNT;
	RETURN changed + n;
END
$$;
COMMENT ON FUNCTION coupon.learn_map(jsonb) IS 'coupon_node_learn() for those who have the right.';

CREATE FUNCTION @extschema@.coupon_node_join(node_id integer, name text, conninfo text, map jsonb, http_url text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF EXISTS (SELECT FROM coupon.issuance) OR EXISTS (SELECT FROM coupon.campaign) THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'a server that has campaigns cannot join',
			DETAIL = 'Its users have their home here already.',
			HINT = 'Join with a new database; campaigns and users come by themselves.';
	END IF;
	IF jsonb_typeof($4 -> 'nodes') = 'array'
	   AND EXISTS (SELECT FROM jsonb_array_elements($4 -> 'nodes') n WHERE (n ->> 'node_id')::integer = $1) THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'there is a node of that number',
			DETAIL = format('The map has node %s.', $1),
			HINT = 'Use a number that no server has had before.';
	END IF;
	PERFORM coupon.node_become($1, $2, $3, $5);
	PERFORM coupon.learn_map($4);
	-- what was made before there were nodes has numbers without gaps
	PERFORM setval('coupon.campaign_campaign_id_seq', ($4 -> 'numbers' ->> 'campaign')::bigint) WHERE ($4 -> 'numbers' ->> 'campaign')::bigint > 0;
	PERFORM setval('coupon.room_room_id_seq', ($4 -> 'numbers' ->> 'room')::bigint) WHERE ($4 -> 'numbers' ->> 'room')::bigint > 0;
	PERFORM coupon.node_number();
	IF (SELECT count(*) FROM coupon.slot) <> 1024 THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'this is no map',
			DETAIL = format('It tells of %s slots.', (SELECT count(*) FROM coupon.slot)),
			HINT = 'Pass what coupon_node_map() of another node returns.';
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_node_join(integer, text, text, jsonb, text) IS
	'Makes this server, which has sold nothing yet, a further node without slots. The map is what coupon_node_map() of another node returns.';

CREATE FUNCTION coupon.map_here() RETURNS jsonb
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object(
		'self', (SELECT s.node_id FROM coupon.node_self s),
		'nodes', coalesce((SELECT jsonb_agg(to_jsonb(n) ORDER BY n.node_id) FROM coupon.node n), '[]'),
		'slots', coalesce((SELECT jsonb_agg(jsonb_build_array(s.slot, s.node_id, s.version) ORDER BY s.slot) FROM coupon.slot s), '[]'),
		'numbers', CASE WHEN EXISTS (SELECT FROM coupon.node_self) THEN jsonb_build_object(
			'campaign', (SELECT coalesce(max(c.campaign_id), 0) FROM coupon.campaign c WHERE c.campaign_id < 1000000000),
			'room', (SELECT coalesce(max(r.room_id), 0) FROM coupon.room r)) END)
$$;
COMMENT ON FUNCTION coupon.map_here() IS 'coupon_node_map() for those who have the right.';

CREATE FUNCTION @extschema@.coupon_node_map() RETURNS jsonb
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT coupon.map_here() $$;
COMMENT ON FUNCTION @extschema@.coupon_node_map() IS
	'What this node knows of nodes and slots, for coupon_node_learn() of others and of proxies.';

CREATE FUNCTION @extschema@.coupon_node_learn(map jsonb) RETURNS integer
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT coupon.learn_map($1) $$;
COMMENT ON FUNCTION @extschema@.coupon_node_learn(jsonb) IS
	'Takes over what another node''s map knows better, by version; returns how many rows that changed. It never makes this node the owner of a slot.';

-- A campaign whose stock several nodes share: which units are here, and how they move.

CREATE FUNCTION coupon.units_cut(campaign_id bigint, units bigint) RETURNS bigint[]
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_units_cut';
COMMENT ON FUNCTION coupon.units_cut(bigint, bigint) IS 'Part of coupon.transfer_cut(): sends up to so many free units away, and returns which: first and last serials of ranges.';

CREATE FUNCTION coupon.units_leave(campaign_id bigint, serials bigint[]) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_units_leave';
COMMENT ON FUNCTION coupon.units_leave(bigint, bigint[]) IS 'Deletes the issuances of ranges of serials, without events, because they go to another node with their units.';

CREATE FUNCTION coupon.units_arrive(campaign_id bigint, serials bigint[], last_serial bigint, free boolean) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_units_arrive';
COMMENT ON FUNCTION coupon.units_arrive(bigint, bigint[], bigint, boolean) IS 'Has ranges of serials at this node, free from the commit on, or to be inserted with their issuances. The campaign has at least the serials 1 to last_serial.';

CREATE FUNCTION coupon.shard_of(campaign_id bigint, serial bigint) RETURNS integer
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT s.shard FROM coupon.shard s WHERE s.campaign_id = $1 AND s.first_serial <= $2 AND s.last_serial >= $2 ORDER BY s.first_serial DESC LIMIT 1 $$;
COMMENT ON FUNCTION coupon.shard_of(bigint, bigint) IS 'The shard of a serial at this node; null: it has none.';

CREATE FUNCTION coupon.serials_of(ranges bigint[]) RETURNS int8multirange
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT coalesce(range_agg(int8range($1[2 * n - 1], $1[2 * n], '[]')), '{}') FROM generate_series(1, cardinality($1) / 2) n $$;
COMMENT ON FUNCTION coupon.serials_of(bigint[]) IS 'Ranges of serials, given by their first and last ones, as a multirange.';

CREATE FUNCTION coupon.ranges_of(serials int8multirange) RETURNS bigint[]
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT coalesce(array_agg(b.serial ORDER BY b.serial, b.last), '{}')
        FROM unnest($1) r, LATERAL (VALUES (lower(r), false), (upper(r) - 1, true)) b(serial, last) $$;
COMMENT ON FUNCTION coupon.ranges_of(int8multirange) IS 'A multirange of serials as first and last ones: the opposite of coupon.serials_of().';

CREATE FUNCTION coupon.units_of(serials int8multirange) RETURNS bigint
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint FROM unnest($1) r $$;
COMMENT ON FUNCTION coupon.units_of(int8multirange) IS 'How many serials there are in a multirange.';

-- Nodes that share stock: how they know each other, and how units go from one to the other
-- without a transaction that spans both.  The donor sends units away and notes the transfer;
-- the receiver takes them in once, and says so; in between nobody has them.  Each step is one
-- transaction at one node and is done again until it has succeeded, so it is idempotent.
--
-- A node's epoch rises when a standby takes its place: counter << 32 | random.  Each call says
-- whose it is and whom it is for, with their newest epochs that the caller knows; so a server
-- that has been replaced is refused, and learns of it.

CREATE TABLE coupon.transfer (
	transfer_id uuid PRIMARY KEY,
	campaign_id bigint NOT NULL,
	donor       smallint NOT NULL,
	receiver    smallint NOT NULL,
	serials     int8multirange NOT NULL,
	labels      text[],
	state       text COLLATE "C" NOT NULL CHECK (state IN ('cut', 'done', 'received', 'settled')),
	due_at      timestamptz NOT NULL,
	noted_at    timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
CREATE INDEX transfer_due_idx ON coupon.transfer (due_at) WHERE state IN ('cut', 'received');
CREATE INDEX transfer_campaign_idx ON coupon.transfer (campaign_id);
COMMENT ON TABLE coupon.transfer IS 'Units that went to another node or came from one, as far as this node has had a part in it.';
COMMENT ON COLUMN coupon.transfer.transfer_id IS 'The same at both nodes.';
COMMENT ON COLUMN coupon.transfer.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.transfer.donor IS 'The node that sent them away.';
COMMENT ON COLUMN coupon.transfer.receiver IS 'The node that they are for.';
COMMENT ON COLUMN coupon.transfer.serials IS 'The units.';
COMMENT ON COLUMN coupon.transfer.labels IS 'Their labels, in the order of serials; null: they have none.';
COMMENT ON COLUMN coupon.transfer.state IS 'At the donor: cut, and done once the receiver has them. At the receiver: received, and settled once the donor knows.';
COMMENT ON COLUMN coupon.transfer.due_at IS 'When this node tells the other one of it again, if it has not answered.';
COMMENT ON COLUMN coupon.transfer.noted_at IS 'When this node had its part.';

CREATE TABLE coupon.campaign_copy (
	campaign_id bigint NOT NULL,
	node_id     smallint NOT NULL,
	version     bigint NOT NULL,
	due_at      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	PRIMARY KEY (campaign_id, node_id)
);
COMMENT ON TABLE coupon.campaign_copy IS 'Which version of a shared campaign, of which this node is the keeper, the other nodes have.';
COMMENT ON COLUMN coupon.campaign_copy.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.campaign_copy.node_id IS 'The node.';
COMMENT ON COLUMN coupon.campaign_copy.version IS 'The version that it has said to have; 0: none.';
COMMENT ON COLUMN coupon.campaign_copy.due_at IS 'When it is told again, if it has not answered.';

CREATE TABLE coupon.cluster_key (
	request_key text COLLATE "C" PRIMARY KEY,
	campaign_id bigint NOT NULL,
	units       bigint NOT NULL,
	last_serial bigint NOT NULL
);
COMMENT ON TABLE coupon.cluster_key IS 'Calls of coupon_cluster_create() and coupon_cluster_add_stock() that had a key.';
COMMENT ON COLUMN coupon.cluster_key.request_key IS 'The key.';
COMMENT ON COLUMN coupon.cluster_key.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.cluster_key.units IS 'How many units were asked for.';
COMMENT ON COLUMN coupon.cluster_key.last_serial IS 'The last one of them.';

CREATE TABLE coupon.node_epoch (
	node_id smallint PRIMARY KEY,
	epoch   bigint NOT NULL
);
COMMENT ON TABLE coupon.node_epoch IS 'The newest epoch of each node, this one among them, that this node knows.';
COMMENT ON COLUMN coupon.node_epoch.node_id IS 'The node.';
COMMENT ON COLUMN coupon.node_epoch.epoch IS 'Its epoch.';

CREATE TABLE coupon.node_start (
	is_self           boolean PRIMARY KEY DEFAULT true CHECK (is_self),
	timeline          bigint NOT NULL,
	system_identifier bigint NOT NULL,
	database          oid NOT NULL,
	told              boolean NOT NULL
);
COMMENT ON TABLE coupon.node_start IS 'The server that the own epoch belongs to.';
COMMENT ON COLUMN coupon.node_start.is_self IS 'True, so that there is one row at most.';
COMMENT ON COLUMN coupon.node_start.timeline IS 'Its timeline: another one after a promotion.';
COMMENT ON COLUMN coupon.node_start.system_identifier IS 'Its system identifier.';
COMMENT ON COLUMN coupon.node_start.database IS 'The node''s database there: a copy of it is another one.';
COMMENT ON COLUMN coupon.node_start.told IS 'Whether all other nodes know the epoch.';

-- ---- C ----

CREATE FUNCTION coupon.node_confirmed() RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_node_confirmed';
COMMENT ON FUNCTION coupon.node_confirmed() IS 'Has another node confirmed this one since the server started?';

CREATE FUNCTION coupon.node_set_confirmed(confirmed boolean) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_node_set_confirmed';
COMMENT ON FUNCTION coupon.node_set_confirmed(boolean) IS 'Says so, at once and whatever becomes of the transaction. Returns what was so before.';

CREATE FUNCTION coupon.peers_ask(nodes integer[], conninfos text[], call text, arguments text[], OUT node_id integer, OUT answer text, OUT error text)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_peers_ask';
COMMENT ON FUNCTION coupon.peers_ask(integer[], text[], text, text[]) IS 'coupon.node_call() at several nodes at once.';

CREATE FUNCTION coupon.stock_here(campaign_id bigint, OUT free bigint, OUT in_flight bigint, OUT gone boolean, OUT number text)
RETURNS record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_stock_here';
COMMENT ON FUNCTION coupon.stock_here(bigint) IS 'What this node has of a campaign; gone: no unit can be had here, now or later, as long as the number is the same.';

CREATE FUNCTION coupon.stock_wants(campaign_ids bigint[]) RETURNS bigint[]
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_stock_wants';
COMMENT ON FUNCTION coupon.stock_wants(bigint[]) IS 'Those campaigns of which units are to be fetched from other nodes.';

CREATE FUNCTION coupon.stock_fetched(campaign_id bigint, failed boolean) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_stock_fetched';
COMMENT ON FUNCTION coupon.stock_fetched(bigint, boolean) IS 'Units were fetched: not again before half of what is here is gone. Or that failed: not again at once.';

CREATE FUNCTION coupon.stock_set_gone(campaign_id bigint, number text) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_stock_set_gone';
COMMENT ON FUNCTION coupon.stock_set_gone(bigint, text) IS 'No node has a unit, as was found out while the number of this node was that one.';

-- ---- epochs ----

CREATE FUNCTION coupon.epoch_after(epoch bigint) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT (((coalesce($1, 0) >> 32) + 1) << 32) | (get_byte(r, 0)::bigint << 16) | (get_byte(r, 1)::bigint << 8) | get_byte(r, 2)
        FROM uuid_send(gen_random_uuid()) r $$;
COMMENT ON FUNCTION coupon.epoch_after(bigint) IS 'An epoch that is newer, and that nobody else would choose.';

CREATE FUNCTION coupon.epoch_learn(node_id smallint, epoch bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	known bigint := (SELECT e.epoch FROM coupon.node_epoch e WHERE e.node_id = $1);
BEGIN
	IF known = $2 THEN
		-- what is done with this call is committed before a server that replaces the node is
		-- heard of, and so it is told of it
		PERFORM pg_advisory_xact_lock_shared(hashtext('coupon.node_epoch'), $1);
		RETURN EXISTS (SELECT FROM coupon.node_epoch e WHERE e.node_id = $1 AND e.epoch = $2);
	ELSIF $2 IS NULL OR known IS NOT NULL AND $2 >> 32 <= known >> 32 THEN
		RETURN false;
	ELSIF NOT pg_is_in_recovery() THEN
		PERFORM pg_advisory_xact_lock(hashtext('coupon.node_epoch'), $1);
		INSERT INTO coupon.node_epoch AS e (node_id, epoch) VALUES ($1, $2)
		ON CONFLICT ON CONSTRAINT node_epoch_pkey DO UPDATE SET epoch = excluded.epoch WHERE e.epoch >> 32 < excluded.epoch >> 32;
		RETURN EXISTS (SELECT FROM coupon.node_epoch e WHERE e.node_id = $1 AND e.epoch = $2);
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.epoch_learn(smallint, bigint) IS 'Notes the epoch of another node if it is newer; false: a newer one is known.';

CREATE FUNCTION coupon.peer_check(argument jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	own bigint := (SELECT e.epoch FROM coupon.node_epoch e WHERE e.node_id = self);
	told bigint := ($1 ->> 'to_epoch')::bigint;
BEGIN
	IF self IS DISTINCT FROM ($1 ->> 'to')::smallint THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'this is another node',
			DETAIL = format('The call is for node %s, and this is node %s.', coalesce($1 ->> 'to', 'null'), coalesce(self::text, 'null')),
			HINT = 'Correct the conninfo of the node in coupon.node.';
	END IF;
	IF told IS NOT NULL AND told IS DISTINCT FROM own AND told >> 32 >= coalesce(own, 0) >> 32 THEN
		PERFORM coupon.node_set_confirmed(false);
		RAISE SQLSTATE 'UC311' USING
			MESSAGE = 'this server has been replaced',
			DETAIL = format('Node %s has epoch %s by now, and this server %s.', self, told, coalesce(own::text, 'none')),
			HINT = 'Make it a standby of the server that has replaced it, or take it away.';
	END IF;
	IF NOT coupon.epoch_learn(($1 ->> 'from')::smallint, ($1 ->> 'from_epoch')::bigint) THEN
		RAISE SQLSTATE 'UC310' USING
			MESSAGE = 'the calling server has been replaced',
			DETAIL = format('Node %s has another epoch than %s by now.', coalesce($1 ->> 'from', 'null'), coalesce($1 ->> 'from_epoch', 'null')),
			HINT = 'Make it a standby of the server that has replaced it, or take it away.';
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.peer_check(jsonb) IS 'Refuses a call of a server that has been replaced, or for one.';

CREATE FUNCTION coupon.peers_call(call text, argument jsonb, only_node integer DEFAULT NULL)
RETURNS TABLE (node_id integer, answer jsonb, error text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	own bigint := (SELECT e.epoch FROM coupon.node_epoch e WHERE e.node_id = self);
	nodes integer[];
	conninfos text[];
	arguments text[];
BEGIN
	SELECT array_agg(n.node_id::integer ORDER BY n.node_id), array_agg(n.conninfo ORDER BY n.node_id),
	       array_agg(($2 || jsonb_build_object('from', self, 'from_epoch', own, 'to', n.node_id, 'to_epoch', e.epoch))::text ORDER BY n.node_id)
	  INTO nodes, conninfos, arguments
	  FROM coupon.node n LEFT JOIN coupon.node_epoch e ON e.node_id = n.node_id
	 WHERE n.node_id <> self AND n.state <> 'gone' AND ($3 IS NULL OR n.node_id = $3);
	IF nodes IS NULL THEN
		RETURN;
	END IF;
	FOR node_id, answer, error IN SELECT a.node_id, a.answer::jsonb, a.error FROM coupon.peers_ask(nodes, conninfos, $1, arguments) a
	LOOP
		IF answer IS NOT NULL AND NOT coupon.epoch_learn(node_id::smallint, (answer ->> 'epoch')::bigint) THEN
			-- one that has joined gets its epoch a moment later
			error := CASE WHEN answer ->> 'epoch' IS NULL THEN 'the server has yet to begin as a node' ELSE 'the server has been replaced by another one' END;
			answer := NULL;
		ELSIF error LIKE 'UC310%' THEN
			-- and this one need not go on
			PERFORM coupon.node_set_confirmed(false);
		END IF;
		RETURN NEXT;
	END LOOP;
END
$$;
COMMENT ON FUNCTION coupon.peers_call(text, jsonb, integer) IS 'Calls coupon.node_call() at the other nodes, or at one of them.';

CREATE FUNCTION coupon.peers_try(call text, argument jsonb, only_node integer DEFAULT NULL)
RETURNS TABLE (node_id integer, answer jsonb, error text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	FOR node_id, answer, error IN SELECT c.node_id, c.answer, c.error FROM coupon.peers_call($1, $2, $3) c
	LOOP
		-- written when that changes, and only then
		UPDATE coupon.node_copy k SET problem = CASE WHEN answer IS NULL THEN left(coalesce(error, '?'), 300) END,
		       since = CASE WHEN answer IS NULL THEN clock_timestamp() END
		 WHERE k.node_id = peers_try.node_id AND (k.problem IS NULL) <> (answer IS NOT NULL);
		INSERT INTO coupon.node_copy (node_id, problem, since)
		SELECT node_id, left(coalesce(error, '?'), 300), clock_timestamp()
		 WHERE answer IS NULL AND NOT EXISTS (SELECT FROM coupon.node_copy k WHERE k.node_id = peers_try.node_id)
		ON CONFLICT ON CONSTRAINT node_copy_pkey DO NOTHING;
		RETURN NEXT;
	END LOOP;
END
$$;
COMMENT ON FUNCTION coupon.peers_try(text, jsonb, integer) IS 'coupon.peers_call() of the transfer worker, which notes who does not answer.';

-- ---- campaigns ----

CREATE FUNCTION coupon.campaign_definition(campaign_id bigint) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT to_jsonb(c) - '{withdrawn,away,archived_at,dumped}'::text[]
	       || jsonb_build_object('last_serial', (SELECT coalesce(max(s.last_serial), 0) FROM coupon.shard s WHERE s.campaign_id = c.campaign_id))
	  FROM coupon.campaign c WHERE c.campaign_id = $1
$$;
COMMENT ON FUNCTION coupon.campaign_definition(bigint) IS 'A campaign as other nodes are told of it.';

CREATE FUNCTION coupon.campaign_define(definition jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	r coupon.campaign := jsonb_populate_record(NULL::coupon.campaign, $1);
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
BEGIN
	INSERT INTO coupon.campaign AS c (campaign_id, name, per_user_limit, opens_at, closes_at, paused, closed_at, coded, policy,
	                                  topic, created_at, room_id, labels_public, max_per_user_limit, note_refusals, shared, keeper, version)
	OVERRIDING SYSTEM VALUE
	VALUES (r.campaign_id, r.name, r.per_user_limit, r.opens_at, r.closes_at, r.paused, r.closed_at, r.coded, r.policy,
	        r.topic, r.created_at, r.room_id, r.labels_public, r.max_per_user_limit, r.note_refusals, r.shared, r.keeper, r.version)
	ON CONFLICT ON CONSTRAINT campaign_pkey DO UPDATE
	   SET name = excluded.name, per_user_limit = excluded.per_user_limit, opens_at = excluded.opens_at, closes_at = excluded.closes_at,
	       paused = excluded.paused, closed_at = excluded.closed_at, coded = excluded.coded, policy = excluded.policy, topic = excluded.topic,
	       room_id = excluded.room_id, labels_public = excluded.labels_public,
	       max_per_user_limit = greatest(c.max_per_user_limit, excluded.max_per_user_limit),
	       note_refusals = excluded.note_refusals, keeper = excluded.keeper, version = excluded.version
	 -- two that took it from a keeper that left, at the same time: all take the same one
	 WHERE c.shared AND c.created_at = excluded.created_at AND (c.version, c.keeper) < (excluded.version, excluded.keeper);
	PERFORM FROM coupon.campaign c WHERE c.campaign_id = r.campaign_id AND c.shared AND c.created_at = r.created_at;
	IF NOT FOUND THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'campaign is another one at this node',
			DETAIL = format('Campaign %s of node %s.', r.campaign_id, r.keeper),
			HINT = 'Make campaigns of a cluster with coupon_cluster_create().';
	END IF;
	-- a new keeper knows all serials and all calls before it makes further ones
	IF $1 ? 'keys' AND r.keeper = self THEN
		PERFORM coupon.units_arrive(r.campaign_id, '{}', ($1 ->> 'last_serial')::bigint, true);
		INSERT INTO coupon.cluster_key SELECT k.* FROM jsonb_populate_recordset(NULL::coupon.cluster_key, $1 -> 'keys') k
		ON CONFLICT ON CONSTRAINT cluster_key_pkey DO NOTHING;
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.campaign_define(jsonb) IS 'Makes a shared campaign what its keeper says, unless a later version is here. With the keys of calls: this node is its keeper from now on.';

CREATE FUNCTION coupon.campaign_shared_guard() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF (NEW.version, NEW.keeper) > (OLD.version, OLD.keeper)
	   OR to_jsonb(NEW) - '{withdrawn,away,archived_at,dumped}'::text[] = to_jsonb(OLD) - '{withdrawn,away,archived_at,dumped}'::text[] THEN
		RETURN NEW;
	END IF;
	IF NEW.keeper IS DISTINCT FROM (SELECT s.node_id FROM coupon.node_self s) THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'campaign is shared and is changed at another node',
			DETAIL = format('The keeper of campaign %s is node %s.', NEW.campaign_id, NEW.keeper),
			HINT = 'Call the function at that node: the others follow by themselves.';
	END IF;
	NEW.version := OLD.version + 1;
	RETURN NEW;
END
$$;
COMMENT ON FUNCTION coupon.campaign_shared_guard() IS 'Trigger: counts the versions of a shared campaign, which its keeper alone changes.';
CREATE TRIGGER shared_guard BEFORE UPDATE ON coupon.campaign
	FOR EACH ROW WHEN (OLD.shared) EXECUTE FUNCTION coupon.campaign_shared_guard();

CREATE FUNCTION coupon.transfer_forget() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF EXISTS (SELECT FROM coupon.transfer t WHERE t.campaign_id = OLD.campaign_id AND t.state = 'cut') THEN
		RAISE object_in_use USING
			MESSAGE = 'units of the campaign are on their way to another node',
			DETAIL = format('Campaign %s.', OLD.campaign_id),
			HINT = 'Call it again when they have arrived: coupon_cluster_status() says which node is missing.';
	END IF;
	DELETE FROM coupon.transfer t WHERE t.campaign_id = OLD.campaign_id;
	DELETE FROM coupon.campaign_copy t WHERE t.campaign_id = OLD.campaign_id;
	DELETE FROM coupon.cluster_key t WHERE t.campaign_id = OLD.campaign_id;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION coupon.transfer_forget() IS 'Trigger: takes away what is noted of a campaign that is deleted.';
CREATE TRIGGER transfer_forget AFTER DELETE ON coupon.campaign
	FOR EACH ROW WHEN (OLD.shared OR OLD.campaign_id >= 1000000000) EXECUTE FUNCTION coupon.transfer_forget();

-- ---- one transfer ----

CREATE FUNCTION coupon.transfer_commits() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- what the other node is told must be true after a crash
	IF current_setting('synchronous_commit') IN ('off', 'local') THEN
		PERFORM set_config('synchronous_commit', 'on', true);
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.transfer_commits() IS 'Has this transaction commit durably.';

CREATE FUNCTION coupon.transfer_message(t coupon.transfer) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT to_jsonb($1) - '{state,due_at,noted_at}'::text[] || jsonb_build_object('campaign', coupon.campaign_definition($1.campaign_id)) $$;
COMMENT ON FUNCTION coupon.transfer_message(coupon.transfer) IS 'A transfer as its receiver is told of it.';

CREATE FUNCTION coupon.units_labelled(campaign_id bigint, serials int8multirange) RETURNS SETOF coupon.unit
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	-- range by range, so that the index finds them
	SELECT u.* FROM unnest($2) r, LATERAL (SELECT x.* FROM coupon.unit x WHERE x.campaign_id = $1 AND x.serial >= lower(r) AND x.serial < upper(r) OFFSET 0) u
$$;
COMMENT ON FUNCTION coupon.units_labelled(bigint, int8multirange) IS 'The labels of some units.';

CREATE FUNCTION coupon.transfer_out(campaign_id bigint, receiver smallint, units bigint, due_at timestamptz) RETURNS coupon.transfer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	t coupon.transfer;
	sent int8multirange;
BEGIN
	PERFORM coupon.transfer_commits();
	sent := coupon.serials_of(coupon.units_cut($1, $3));
	IF isempty(sent) THEN
		RETURN NULL;
	END IF;
	INSERT INTO coupon.transfer (transfer_id, campaign_id, donor, receiver, serials, labels, state, due_at)
	SELECT gen_random_uuid(), $1, s.node_id, $2, sent,
	       CASE WHEN c.coded THEN ARRAY(SELECT u.label FROM coupon.units_labelled($1, sent) u ORDER BY u.serial) END,
	       'cut', $4
	  FROM coupon.node_self s, coupon.campaign c WHERE c.campaign_id = $1
	RETURNING * INTO STRICT t;
	RETURN t;
END
$$;
COMMENT ON FUNCTION coupon.transfer_out(bigint, smallint, bigint, timestamptz) IS 'Step 1, at the donor: sends up to so many free units away; null: none is free.';

CREATE FUNCTION coupon.labels_of(serials int8multirange, labels text[], OUT serial bigint, OUT label text) RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT n.serial, l.label
	  FROM (SELECT g AS serial, row_number() OVER (ORDER BY g) AS place FROM unnest($1) r, generate_series(lower(r), upper(r) - 1) g) n
	  JOIN unnest($2) WITH ORDINALITY l(label, place) ON l.place = n.place
$$;
COMMENT ON FUNCTION coupon.labels_of(int8multirange, text[]) IS 'Each serial with its label.';

CREATE FUNCTION coupon.receiver_check(donor smallint, receiver smallint) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	donor_state text;
BEGIN
	IF $2 IS DISTINCT FROM (SELECT s.node_id FROM coupon.node_self s) THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'this is for another node',
			DETAIL = format('It is for node %s.', $2),
			HINT = 'Correct the conninfo of the node in coupon.node.';
	END IF;
	-- the locks: who says that one of the two has left has this committed before, or has it refused
	PERFORM FROM coupon.node n WHERE n.node_id IN ($1, $2) ORDER BY n.node_id FOR SHARE;
	IF EXISTS (SELECT FROM coupon.node n WHERE n.node_id = $2 AND n.state = 'gone') THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'this node has left',
			DETAIL = format('Node %s gets nothing any more.', $2),
			HINT = 'Who sent it hears of that, and takes it back.';
	END IF;
	SELECT n.state INTO donor_state FROM coupon.node n WHERE n.node_id = $1;
	IF donor_state = 'gone' THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'the node has left',
			DETAIL = format('What node %s had sent away was taken back, or is lost with it.', $1),
			HINT = 'Have a new server join, with a number of its own.';
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.receiver_check(smallint, smallint) IS 'Refuses units and slots that are for another node, or from one that has left.';

CREATE FUNCTION coupon.transfer_in(message jsonb) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t coupon.transfer := jsonb_populate_record(NULL::coupon.transfer, $1);
BEGIN
	PERFORM coupon.transfer_commits();
	PERFORM coupon.receiver_check(t.donor, t.receiver);
	-- this locks the campaign: the same transfer cannot come in twice at the same time
	PERFORM coupon.campaign_define($1 -> 'campaign');
	INSERT INTO coupon.transfer (transfer_id, campaign_id, donor, receiver, serials, labels, state, due_at)
	VALUES (t.transfer_id, t.campaign_id, t.donor, t.receiver, t.serials, t.labels, 'received', clock_timestamp())
	ON CONFLICT ON CONSTRAINT transfer_pkey DO NOTHING;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM coupon.units_arrive(t.campaign_id, coupon.ranges_of(t.serials), ($1 -> 'campaign' ->> 'last_serial')::bigint, true);
	IF t.labels IS NOT NULL THEN
		INSERT INTO coupon.unit (campaign_id, serial, label)
		SELECT t.campaign_id, l.serial, l.label FROM coupon.labels_of(t.serials, t.labels) l
		ON CONFLICT ON CONSTRAINT unit_pkey DO NOTHING;
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.transfer_in(jsonb) IS 'Step 2, at the receiver: takes the units in, once.';

CREATE FUNCTION coupon.transfer_end(transfer_ids uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM coupon.transfer_commits();
	UPDATE coupon.transfer t SET state = 'done' WHERE t.transfer_id = ANY ($1) AND t.state = 'cut';
END
$$;
COMMENT ON FUNCTION coupon.transfer_end(uuid[]) IS 'Step 3, at the donor: the receiver has the units.';

CREATE FUNCTION coupon.stock_report(campaign_id bigint) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	nodes jsonb := jsonb_build_object('nodes', (SELECT jsonb_agg(n.node_id ORDER BY n.node_id) FROM coupon.node n WHERE n.state <> 'gone'));
	transit bigint;
	h record;
BEGIN
	IF NOT coupon.node_confirmed() THEN
		RETURN '{"free": 0, "gone": false, "transit": 0, "number": "fenced"}'::jsonb || nodes;
	ELSIF NOT EXISTS (SELECT FROM coupon.campaign c WHERE c.campaign_id = $1) THEN
		RETURN '{"free": 0, "gone": true, "transit": 0, "number": "unknown"}'::jsonb || nodes;
	END IF;
	-- first what is under way, then what is here: a unit that leaves between the two is not missed
	-- but said to be free
	SELECT * INTO h FROM coupon.stock_here($1);
	SELECT count(*) INTO transit FROM coupon.transfer t WHERE t.campaign_id = $1 AND t.state = 'cut';
	RETURN jsonb_build_object('free', h.free, 'gone', h.gone, 'transit', transit, 'number', h.number) || nodes;
END
$$;
COMMENT ON FUNCTION coupon.stock_report(bigint) IS 'What this node has of a campaign, whether units that it has sent away have yet to arrive, and which nodes it knows.';

-- ---- what nodes ask of each other ----

CREATE FUNCTION coupon.call_hello(argument jsonb, replaces boolean) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	caller smallint := ($1 ->> 'from')::smallint;
BEGIN
	PERFORM coupon.learn_map($1 -> 'map');
	RETURN jsonb_build_object('map', @extschema@.coupon_node_map())
	       || CASE WHEN $2 THEN jsonb_build_object(
	              -- but for those that a parcel will bring
	              'transfers', (SELECT coalesce(jsonb_agg(coupon.transfer_message(t) ORDER BY t.noted_at), '[]') FROM coupon.transfer t
	                             WHERE t.donor IN (self, caller) AND t.receiver IN (self, caller) AND NOT (t.state = 'cut' AND t.due_at = 'infinity')),
	              'sent', (SELECT coalesce(jsonb_agg(x.slot), '[]') FROM coupon.slot_parcel p, unnest(p.slots) x(slot) WHERE p.state = 'sent' AND p.receiver = caller),
	              'versions', (SELECT coalesce(jsonb_object_agg(c.campaign_id, c.version), '{}') FROM coupon.campaign c WHERE c.shared AND c.keeper = caller),
	              'handed', (SELECT coalesce(jsonb_agg(coupon.campaign_definition(c.campaign_id)), '[]') FROM coupon.campaign c WHERE c.shared AND c.keeper <> caller))
	          ELSE '{}' END;
END
$$;
COMMENT ON FUNCTION coupon.call_hello(jsonb, boolean) IS 'Another node has started. One that has replaced another server is told what that one had told us.';

CREATE FUNCTION coupon.call_cut(argument jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	t coupon.transfer;
BEGIN
	IF NOT coupon.node_confirmed() OR EXISTS (SELECT FROM coupon.node n WHERE n.node_id = ($1 ->> 'from')::smallint AND n.state = 'gone') THEN
		RETURN '{}';
	END IF;
	-- what is on its way to that node comes first: one that cannot take it in would get all that there is, part by part
	SELECT * INTO t FROM coupon.transfer x
	 WHERE x.campaign_id = ($1 ->> 'campaign_id')::bigint AND x.receiver = ($1 ->> 'from')::smallint AND x.state = 'cut' AND x.due_at <> 'infinity'
	 ORDER BY x.noted_at LIMIT 1;
	IF t.transfer_id IS NULL THEN
		t := coupon.transfer_out(($1 ->> 'campaign_id')::bigint, ($1 ->> 'from')::smallint,
			greatest(1, ((SELECT h.free FROM coupon.stock_here(($1 ->> 'campaign_id')::bigint) h) - ($1 ->> 'has')::bigint) / 2),
			clock_timestamp() + interval '1 second');
	END IF;
	RETURN CASE WHEN t.transfer_id IS NULL THEN '{}' ELSE jsonb_build_object('transfer', coupon.transfer_message(t)) END;
END
$$;
COMMENT ON FUNCTION coupon.call_cut(jsonb) IS 'Another node wants units.';

CREATE FUNCTION coupon.call_holdings(campaign_id bigint) RETURNS jsonb
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object(
		'nodes', (SELECT jsonb_agg(n.node_id ORDER BY n.node_id) FROM coupon.node n WHERE n.state <> 'gone'),
		'last_serial', (SELECT coalesce(max(s.last_serial), 0) FROM coupon.shard s WHERE s.campaign_id = $1),
		'here', (SELECT coalesce(range_agg(h.r), '{}')
		           FROM (SELECT int8range(s.first_serial, s.last_serial, '[]') AS r FROM coupon.shard s WHERE s.campaign_id = $1 AND s.away IS NULL
		                 UNION ALL
		                 SELECT int8range(min(b.serial), max(b.serial), '[]')
		                   FROM (SELECT g AS serial, g - row_number() OVER (ORDER BY g) AS run
		                           -- || for a copy of the bits that is read from disk once, and not for each of them
		                           FROM (SELECT x.first_serial, x.last_serial, x.away || ''::bytea AS away
		                                   FROM coupon.shard x WHERE x.campaign_id = $1 AND x.away IS NOT NULL OFFSET 0) s,
		                                generate_series(s.first_serial, s.last_serial) g
		                          WHERE get_bit(s.away, g - s.first_serial) = 0) b
		                  GROUP BY b.run) h),
		'transfers', (SELECT coalesce(jsonb_agg(jsonb_build_array(t.transfer_id, t.donor, t.receiver, t.serials, t.state)), '[]')
		                FROM coupon.transfer t WHERE t.campaign_id = $1),
		'broken', (SELECT coalesce(jsonb_agg(to_jsonb(v)), '[]') FROM coupon.verify($1) v))
$$;
COMMENT ON FUNCTION coupon.call_holdings(bigint) IS 'Which units of a campaign are at this node, its transfers, and what breaks a law here.';

CREATE FUNCTION coupon.call_status(campaign_id bigint) RETURNS jsonb
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce((SELECT to_jsonb(s) || jsonb_build_object(
			'in_transit', (SELECT coalesce(sum(coupon.units_of(t.serials)), 0) FROM coupon.transfer t WHERE t.campaign_id = $1 AND t.state = 'cut'),
			'keeper', c.keeper)
		FROM coupon.campaign c, LATERAL @extschema@.coupon_status(c.campaign_id) s WHERE c.campaign_id = $1), '{"stock": 0, "issued": 0, "held": 0, "in_flight": 0, "remaining": 0, "in_transit": 0}')
	|| jsonb_build_object('confirmed', coupon.node_confirmed())
$$;
COMMENT ON FUNCTION coupon.call_status(bigint) IS 'coupon_status() at this node, and what it has sent away that has yet to arrive.';

CREATE FUNCTION coupon.node_call(call text, argument jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	answer jsonb;
BEGIN
	-- each statement is to see what was committed before it
	IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'nodes call each other at the isolation level read committed',
			DETAIL = format('This transaction is %s.', current_setting('transaction_isolation')),
			HINT = format('ALTER ROLE %I SET default_transaction_isolation = ''read committed''', session_user);
	END IF;
	-- what the caller is told, and which server is known to have replaced another, is true after a crash
	PERFORM coupon.transfer_commits();
	-- the caller does not wait for ever, and its next call finds this one gone; for long work it waits longer (peers.c)
	PERFORM set_config('lock_timeout', (CASE WHEN $1 IN ('holdings', 'replaces', 'leaving', 'leave') THEN 60 ELSE least(1 + octet_length($2::text) / 131072, 60) END
		* 1000 * extract(epoch FROM current_setting('coupon.cluster_timeout')::interval))::bigint::text, true);
	PERFORM coupon.peer_check($2);
	CASE $1
		WHEN 'hello' THEN answer := coupon.call_hello($2, false);
		WHEN 'replaces' THEN answer := coupon.call_hello($2, true);
		WHEN 'report' THEN answer := coupon.stock_report(($2 ->> 'campaign_id')::bigint);
		WHEN 'cut' THEN answer := coupon.call_cut($2);
		WHEN 'receive' THEN answer := jsonb_build_object('new', coupon.transfer_in($2 -> 'transfer'));
		WHEN 'done' THEN
			PERFORM coupon.transfer_end(ARRAY(SELECT x.id::uuid FROM jsonb_array_elements_text($2 -> 'transfer_ids') x(id)));
			answer := '{}';
		WHEN 'define' THEN
			PERFORM coupon.campaign_define($2 -> 'campaign');
			answer := '{}';
		WHEN 'holdings' THEN
			-- who asks for units of a node that has left wants nothing of them to come any more
			IF $2 ? 'map' THEN
				PERFORM coupon.learn_map($2 -> 'map');
			END IF;
			answer := coupon.call_holdings(($2 ->> 'campaign_id')::bigint);
		WHEN 'status' THEN answer := coupon.call_status(($2 ->> 'campaign_id')::bigint);
		WHEN 'leaving' THEN answer := coupon.call_leaving(($2 ->> 'node_id')::smallint);
		WHEN 'leave' THEN answer := jsonb_build_object('left', coupon.node_leave());
		WHEN 'slots' THEN answer := jsonb_build_object('new', coupon.slots_accept($2 -> 'parcel'));
		WHEN 'room_key' THEN
			PERFORM coupon.room_key_put($2 -> 'key');
			answer := '{}';
		WHEN 'map' THEN answer := coupon.call_map($2);
		ELSE
			RAISE invalid_parameter_value USING
				MESSAGE = 'unknown call of a node',
				DETAIL = format('It is "%s".', left($1, 32)),
				HINT = 'All nodes have the same version of coupon.';
	END CASE;
	RETURN answer || jsonb_build_object('epoch', (SELECT e.epoch FROM coupon.node_epoch e WHERE e.node_id = (SELECT s.node_id FROM coupon.node_self s)));
END
$$;
COMMENT ON FUNCTION coupon.node_call(text, jsonb) IS 'What another node asks of this one. Its role is a member of coupon_admin and no superuser.';

-- A campaign's stock over all nodes: what the transfer worker does, and what an operator calls.

CREATE FUNCTION coupon.units_born(campaign_id bigint, serials bigint[], last_serial bigint) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_units_born';
COMMENT ON FUNCTION coupon.units_born(bigint, bigint[], bigint) IS 'At the keeper: the campaign has the serials up to last_serial from now on; of the new ones these are here.';

CREATE FUNCTION coupon.units_lose(campaign_id bigint, serials bigint[]) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_units_lose';
COMMENT ON FUNCTION coupon.units_lose(bigint, bigint[]) IS 'These units went to another node before this server took the place of the one that sent them.';

-- ---- is this node still itself? ----

CREATE FUNCTION coupon.node_begin() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	line bigint := ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint;
	system bigint := (SELECT c.system_identifier FROM pg_control_system() c);
	here oid := (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
	started coupon.node_start;
BEGIN
	SELECT * INTO started FROM coupon.node_start;
	IF started.system_identifier = system AND started.database <> here THEN
		RETURN NULL;
	ELSIF started.timeline = line AND started.system_identifier = system THEN
		RETURN false;
	END IF;
	PERFORM coupon.transfer_commits();
	INSERT INTO coupon.node_epoch AS e (node_id, epoch) VALUES (self, coupon.epoch_after(0))
	ON CONFLICT ON CONSTRAINT node_epoch_pkey DO UPDATE SET epoch = coupon.epoch_after(e.epoch);
	INSERT INTO coupon.node_start AS n (timeline, system_identifier, database, told) VALUES (line, system, here, started.is_self IS NULL)
	ON CONFLICT ON CONSTRAINT node_start_pkey DO UPDATE SET timeline = excluded.timeline, system_identifier = excluded.system_identifier,
	                                                         database = excluded.database, told = false;
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.node_begin() IS 'Gives a new node, or a server that has replaced another one, an epoch of its own; false: it has one; null: this is a copy of the node''s database, and no node. It is to be committed before others are told.';

CREATE FUNCTION coupon.transfers_restore(messages jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	lost int8multirange;
	come int8multirange;
	fresh int8multirange;
	m record;
BEGIN
	FOR m IN SELECT (x.m ->> 'campaign_id')::bigint AS campaign_id, max((x.m #>> '{campaign,last_serial}')::bigint) AS last_serial,
	                jsonb_agg(x.m) AS all_of_it, (array_agg(x.m -> 'campaign' ORDER BY (x.m #>> '{campaign,version}')::bigint DESC))[1] AS definition
	           FROM jsonb_array_elements($1) x(m)
	          WHERE NOT EXISTS (SELECT FROM coupon.transfer k WHERE k.transfer_id = (x.m ->> 'transfer_id')::uuid)
	          GROUP BY 1
	LOOP
		-- one that was dropped here stays so
		CONTINUE WHEN m.definition ->> 'closed_at' IS NOT NULL AND NOT EXISTS (SELECT FROM coupon.campaign c WHERE c.campaign_id = m.campaign_id);
		PERFORM coupon.campaign_define(m.definition);
		SELECT int8multirange(int8range(s.last + 1, greatest(m.last_serial, s.last) + 1)) INTO fresh
		  FROM (SELECT coalesce(max(x.last_serial), 0) AS last FROM coupon.shard x WHERE x.campaign_id = m.campaign_id) s;
		-- a unit may have come and gone: what counts is how often, in whatever order
		WITH moves AS (
			SELECT CASE WHEN (x.m ->> 'receiver')::smallint = self THEN 1 ELSE -1 END AS weight, r.r
			  FROM jsonb_array_elements(m.all_of_it) x(m), unnest((x.m ->> 'serials')::int8multirange) r(r)),
		bounds AS (
			SELECT b.serial, sum(b.weight) AS weight
			  FROM (SELECT lower(v.r) AS serial, v.weight FROM moves v UNION ALL SELECT upper(v.r), -v.weight FROM moves v) b
			 GROUP BY b.serial),
		runs AS (
			SELECT int8range(b.serial, lead(b.serial) OVER (ORDER BY b.serial)) AS r, sum(b.weight) OVER (ORDER BY b.serial) AS net FROM bounds b)
		SELECT coalesce(range_agg(u.r) FILTER (WHERE u.net = 1), '{}'), coalesce(range_agg(u.r) FILTER (WHERE u.net = -1), '{}')
		  INTO come, lost FROM runs u WHERE NOT upper_inf(u.r);
		-- what is new to this server is away with that; as the keeper it has what never left it
		IF (m.definition ->> 'keeper')::smallint = self AND NOT (m.definition ->> 'coded')::boolean THEN
			come := come + (fresh - lost);
		END IF;
		lost := lost - fresh;
		PERFORM coupon.units_arrive(m.campaign_id, coupon.ranges_of(come), m.last_serial, true);
		PERFORM coupon.units_lose(m.campaign_id, coupon.ranges_of(lost));
		INSERT INTO coupon.transfer (transfer_id, campaign_id, donor, receiver, serials, labels, state, due_at)
		SELECT t.transfer_id, t.campaign_id, t.donor, t.receiver, t.serials, t.labels, CASE WHEN t.receiver = self THEN 'received' ELSE 'done' END, clock_timestamp()
		  FROM jsonb_array_elements(m.all_of_it) x(m), jsonb_populate_record(NULL::coupon.transfer, x.m) t
		ON CONFLICT ON CONSTRAINT transfer_pkey DO NOTHING;
		INSERT INTO coupon.unit (campaign_id, serial, label)
		SELECT m.campaign_id, l.serial, l.label
		  FROM jsonb_array_elements(m.all_of_it) x(m), jsonb_populate_record(NULL::coupon.transfer, x.m) t, coupon.labels_of(t.serials, t.labels) l
		ON CONFLICT ON CONSTRAINT unit_pkey DO NOTHING;
	END LOOP;
END
$$;
COMMENT ON FUNCTION coupon.transfers_restore(jsonb) IS 'Makes up for transfers of which this server does not know, since it has replaced another one.';

CREATE FUNCTION coupon.node_confirm() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	told boolean;
	others integer;
	confirmed integer := 0;
	replaced boolean := false;
	messages jsonb := '[]';
	maps jsonb := '[]';
	sent jsonb := '[]';
	versions jsonb := '[]';
	handed jsonb := '[]';
	r record;
BEGIN
	PERFORM coupon.transfer_commits();
	SELECT n.told INTO STRICT told FROM coupon.node_start n;
	SELECT count(*) INTO others FROM coupon.node n WHERE n.state <> 'gone' AND n.node_id <> (SELECT s.node_id FROM coupon.node_self s);
	FOR r IN SELECT * FROM coupon.peers_call(CASE WHEN told THEN 'hello' ELSE 'replaces' END, jsonb_build_object('map', @extschema@.coupon_node_map()))
	LOOP
		replaced := replaced OR coalesce(r.error LIKE 'UC310%', false);
		CONTINUE WHEN r.answer IS NULL;
		confirmed := confirmed + 1;
		PERFORM coupon.learn_map(r.answer -> 'map');
		IF NOT told THEN
			messages := messages || (r.answer -> 'transfers');
			maps := maps || (r.answer #> '{map,slots}');
			sent := sent || (r.answer -> 'sent');
			versions := versions || jsonb_build_array(r.answer -> 'versions');
			handed := handed || (r.answer -> 'handed');
		END IF;
	END LOOP;
	IF replaced OR confirmed < (CASE WHEN told THEN least(others, 1) ELSE others END) THEN
		RETURN false;
	END IF;
	IF NOT told THEN
		-- campaigns that got another keeper, and changes of the others, that this server has forgotten
		PERFORM coupon.campaign_define(h.d) FROM jsonb_array_elements(handed) h(d)
		  JOIN coupon.campaign c ON c.campaign_id = (h.d ->> 'campaign_id')::bigint AND c.keeper = (SELECT s.node_id FROM coupon.node_self s)
		 ORDER BY (h.d ->> 'version')::bigint;
		UPDATE coupon.campaign c SET version = v.version + 1
		  FROM (SELECT e.key::bigint AS campaign_id, max(e.value::bigint) AS version
		          FROM jsonb_array_elements(versions) x(v), jsonb_each_text(x.v) e GROUP BY 1) v
		 WHERE c.campaign_id = v.campaign_id AND c.version <= v.version AND c.keeper = (SELECT s.node_id FROM coupon.node_self s);
		PERFORM coupon.transfers_restore(messages);
		PERFORM coupon.slots_restore(maps, sent);
		UPDATE coupon.node_start n SET told = true;
		UPDATE coupon.campaign_copy c SET version = 0;
		DELETE FROM coupon.node_copy;
	END IF;
	-- nothing is sold before that is committed
	RETURN told;
END
$$;
COMMENT ON FUNCTION coupon.node_confirm() IS
	'Asks the other nodes whether this server has been replaced: one that says no is enough. One that has replaced another server tells all of them, makes up for what it does not know of, and asks once more.';

-- ---- what the worker does; each returns whether there was something to do ----

-- plpgsql, which keeps its plans
CREATE FUNCTION coupon.nodes_silent() RETURNS smallint[]
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- one that answers with an error is not silent
	RETURN ARRAY(SELECT k.node_id FROM coupon.node_copy k JOIN coupon.node n ON n.node_id = k.node_id
	              WHERE k.problem !~ '^[0-9A-Z]{5}: ' AND n.state <> 'gone');
END
$$;
COMMENT ON FUNCTION coupon.nodes_silent() IS 'Nodes that did not answer when they were asked last. coupon.map_spread() asks them again, once a second: all that waits for them would take up the time of the others.';

CREATE FUNCTION coupon.transfer_settle() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	silent CONSTANT smallint[] := coupon.nodes_silent();
	w record;
	problem text;
BEGIN
	SELECT t.donor, array_agg(t.transfer_id) AS ids INTO w
	  FROM (SELECT * FROM coupon.transfer x WHERE x.state = 'received' AND x.due_at <= clock_timestamp() AND x.donor <> ALL (silent)
	         ORDER BY x.due_at LIMIT 100) t
	 GROUP BY t.donor LIMIT 1;
	IF w.donor IS NULL THEN
		RETURN false;
	END IF;
	SELECT coalesce(c.error, CASE WHEN c.answer IS NULL THEN '?' END) INTO problem
	  FROM coupon.peers_try('done', jsonb_build_object('transfer_ids', w.ids), w.donor) c;
	-- of a node that has left for good nobody need be told
	IF problem IS NULL THEN
		UPDATE coupon.transfer t SET state = 'settled' WHERE t.transfer_id = ANY (w.ids) AND t.state = 'received';
	ELSE
		UPDATE coupon.transfer t SET due_at = clock_timestamp() + interval '1 second' WHERE t.transfer_id = ANY (w.ids) AND t.state = 'received';
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.transfer_settle() IS 'Tells a donor that its units have arrived.';

CREATE FUNCTION coupon.units_places(answers jsonb, OUT first bigint, OUT last bigint, OUT places numeric) RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	-- what a node has, and what its donor alone knows to have sent, less what its receiver alone
	-- knows to have got; this holds whenever each node was asked
	WITH known AS (
		SELECT a.key::integer AS node_id, (t ->> 0)::uuid AS transfer_id, (t ->> 1)::integer AS donor, (t ->> 2)::integer AS receiver, (t ->> 3)::int8multirange AS serials
		  FROM jsonb_each($1) a, jsonb_array_elements(a.value -> 'transfers') t
		 -- what came from a node that has left is here, and what went there and on is elsewhere
		 WHERE $1 ? (t ->> 1) AND $1 ? (t ->> 2)),
	weights AS (
		SELECT (a.value ->> 'here')::int8multirange AS serials, 1 AS weight FROM jsonb_each($1) a
		UNION ALL
		SELECT k.serials, CASE WHEN k.node_id = k.donor THEN 1 ELSE -1 END FROM known k
		 WHERE NOT EXISTS (SELECT FROM known o WHERE o.transfer_id = k.transfer_id AND o.node_id <> k.node_id)),
	bounds AS (
		SELECT b.serial, sum(b.weight) AS weight
		  FROM (SELECT lower(x.r) AS serial, w.weight FROM weights w, unnest(w.serials) x(r)
		        UNION ALL
		        SELECT upper(x.r), -w.weight FROM weights w, unnest(w.serials) x(r)
		        UNION ALL
		        SELECT 1, 0
		        UNION ALL
		        SELECT max((a.value ->> 'last_serial')::bigint) + 1, 0 FROM jsonb_each($1) a) b
		 GROUP BY b.serial),
	runs AS (
		SELECT b.serial AS first, lead(b.serial) OVER (ORDER BY b.serial) - 1 AS last, sum(b.weight) OVER (ORDER BY b.serial) AS places FROM bounds b)
	SELECT r.first, r.last, r.places FROM runs r WHERE r.last >= r.first
$$;
COMMENT ON FUNCTION coupon.units_places(jsonb) IS 'At how many nodes, or on their way between two, the units of a campaign are: one, by the law. The answers are of coupon.call_holdings(), by node, of all nodes.';

CREATE FUNCTION coupon.units_nowhere(campaign_id bigint, serials int8multirange) RETURNS int8multirange
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	answers jsonb;
	nowhere int8multirange;
	r record;
BEGIN
	-- first what is little work: as long as one is down nobody reads all that it has, again and again
	IF EXISTS (SELECT FROM coupon.peers_call('hello', jsonb_build_object('map', coupon.map_here())) c WHERE c.answer IS NULL) THEN
		RETURN NULL;
	END IF;
	answers := jsonb_build_object(self, coupon.call_holdings($1));
	FOR r IN SELECT * FROM coupon.peers_call('holdings', jsonb_build_object('campaign_id', $1, 'map', coupon.map_here()))
	LOOP
		IF r.answer IS NULL THEN
			RETURN NULL;
		END IF;
		answers := answers || jsonb_build_object(r.node_id, r.answer);
	END LOOP;
	-- one that has come lately, and that not all know yet, may have them
	IF EXISTS (SELECT FROM jsonb_each(answers) a WHERE a.value -> 'nodes' <> answers -> self::text -> 'nodes') THEN
		RETURN NULL;
	END IF;
	-- what the one that has left had received and sent on is at a node; of two donors of one unit the first takes it back
	SELECT coalesce(range_agg(int8range(p.first, p.last, '[]')), '{}') * $2 INTO nowhere FROM coupon.units_places(answers) p WHERE p.places = 0;
	IF EXISTS (SELECT FROM jsonb_each(answers) a, jsonb_array_elements(a.value -> 'transfers') x
	            WHERE x ->> 4 = 'cut' AND (x ->> 1)::smallint = a.key::smallint AND a.key::smallint < self
	              AND NOT answers ? (x ->> 2) AND (x ->> 3)::int8multirange && nowhere) THEN
		RETURN NULL;
	END IF;
	RETURN nowhere;
END
$$;
COMMENT ON FUNCTION coupon.units_nowhere(bigint, int8multirange) IS
	'Which units that were sent to a node that has left are at no node, so that this one takes them back; null: not all nodes say so yet, or another one comes first.';

CREATE FUNCTION coupon.transfer_back(t coupon.transfer) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	nowhere int8multirange := coupon.units_nowhere($1.campaign_id, $1.serials);
BEGIN
	IF nowhere IS NULL THEN
		UPDATE coupon.transfer x SET due_at = clock_timestamp() + interval '1 second' WHERE x.transfer_id = $1.transfer_id;
		RETURN;
	END IF;
	PERFORM coupon.transfer_commits();
	UPDATE coupon.transfer x SET state = 'done' WHERE x.transfer_id = $1.transfer_id AND x.state = 'cut';
	IF FOUND THEN
		PERFORM coupon.units_arrive($1.campaign_id, coupon.ranges_of(nowhere), 0, true);
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.transfer_back(coupon.transfer) IS 'At the donor: takes back units that were for a node which has left and that are at no other one. All nodes must say so.';

CREATE FUNCTION coupon.transfer_push() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	silent CONSTANT smallint[] := coupon.nodes_silent();
	t coupon.transfer;
	done boolean;
BEGIN
	SELECT * INTO t FROM coupon.transfer x WHERE x.state = 'cut' AND x.due_at <= clock_timestamp() AND x.receiver <> ALL (silent)
	 ORDER BY x.due_at LIMIT 1;
	IF t.transfer_id IS NULL THEN
		RETURN false;
	ELSIF EXISTS (SELECT FROM coupon.node n WHERE n.node_id = t.receiver AND n.state = 'gone') THEN
		BEGIN
			PERFORM coupon.transfer_back(t);
		EXCEPTION WHEN OTHERS THEN
			-- the rest goes on
			RAISE WARNING USING MESSAGE = format('units of campaign %s could not be taken back', t.campaign_id), DETAIL = SQLERRM;
			UPDATE coupon.transfer x SET due_at = clock_timestamp() + interval '5 seconds' WHERE x.transfer_id = t.transfer_id;
		END;
		RETURN true;
	END IF;
	SELECT c.answer IS NOT NULL INTO done
	  FROM coupon.peers_try('receive', jsonb_build_object('transfer', coupon.transfer_message(t)), t.receiver) c;
	IF done THEN
		PERFORM coupon.transfer_end(ARRAY[t.transfer_id]);
	ELSE
		UPDATE coupon.transfer x SET due_at = clock_timestamp() + interval '1 second' WHERE x.transfer_id = t.transfer_id AND x.state = 'cut';
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.transfer_push() IS 'Sends units to a receiver that has not said that it has them.';

CREATE FUNCTION coupon.campaign_spread() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	silent CONSTANT smallint[] := coupon.nodes_silent();
	w record;
	done boolean;
BEGIN
	-- of a campaign that this node has handed over the new keeper alone
	SELECT c.campaign_id, c.version, n.node_id, c.keeper <> s.node_id AS handed INTO w
	  FROM coupon.campaign c
	 CROSS JOIN coupon.node_self s
	  JOIN coupon.node n ON n.node_id <> s.node_id AND n.state <> 'gone' AND n.node_id <> ALL (silent)
	  LEFT JOIN coupon.campaign_copy k ON k.campaign_id = c.campaign_id AND k.node_id = n.node_id
	 WHERE c.shared AND (c.keeper = s.node_id OR k.node_id = c.keeper) AND coalesce(k.version, 0) < c.version AND coalesce(k.due_at, '-infinity') <= clock_timestamp()
	 ORDER BY k.due_at NULLS FIRST LIMIT 1;
	IF w.campaign_id IS NULL THEN
		RETURN false;
	END IF;
	SELECT c.answer IS NOT NULL INTO done
	  FROM coupon.peers_try('define', jsonb_build_object('campaign', coupon.campaign_definition(w.campaign_id)
	           || CASE WHEN w.handed THEN jsonb_build_object('keys', (SELECT coalesce(jsonb_agg(to_jsonb(x)), '[]') FROM coupon.cluster_key x WHERE x.campaign_id = w.campaign_id))
	              ELSE '{}' END), w.node_id) c;
	IF done AND w.handed THEN
		DELETE FROM coupon.campaign_copy k WHERE k.campaign_id = w.campaign_id;
		DELETE FROM coupon.cluster_key k WHERE k.campaign_id = w.campaign_id;
		RETURN true;
	END IF;
	INSERT INTO coupon.campaign_copy AS k (campaign_id, node_id, version, due_at)
	VALUES (w.campaign_id, w.node_id, CASE WHEN done THEN w.version ELSE 0 END, clock_timestamp() + interval '1 second')
	ON CONFLICT ON CONSTRAINT campaign_copy_pkey DO UPDATE
	   SET version = greatest(k.version, excluded.version), due_at = excluded.due_at;
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.campaign_spread() IS 'Tells a node of a campaign, or of its change.';

CREATE FUNCTION coupon.node_has_slots() RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN EXISTS (SELECT FROM coupon.slot s WHERE s.node_id = (SELECT f.node_id FROM coupon.node_self f));
END
$$;
COMMENT ON FUNCTION coupon.node_has_slots() IS 'Has this node slots, or has some coming?';

CREATE FUNCTION coupon.node_that_answers(campaign_id bigint) RETURNS smallint
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT n.node_id
	  FROM coupon.peers_try('report', jsonb_build_object('campaign_id', $1)) a
	  JOIN coupon.node n ON n.node_id = a.node_id AND n.state = 'active'
	 WHERE a.answer IS NOT NULL ORDER BY random() LIMIT 1
$$;
COMMENT ON FUNCTION coupon.node_that_answers(bigint) IS 'One of the active nodes that answer now; null: there is none.';

CREATE FUNCTION coupon.node_unload() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	target smallint;
	campaign bigint;
	t coupon.transfer;
BEGIN
	PERFORM FROM coupon.node n JOIN coupon.node_self s ON s.node_id = n.node_id AND n.state = 'draining';
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	BEGIN
		-- what came after the drain began, or was to go to a node that is itself drained now
		IF coupon.node_has_slots()
		   AND NOT EXISTS (SELECT FROM coupon.slot_plan) AND coupon.campaigns_alone() IS NULL AND coupon.slots_balance() > 0 THEN
			RETURN true;
		END IF;
		-- then its campaigns: from the commit on nobody changes them, until the new keeper has heard of it
		SELECT c.campaign_id INTO campaign
		  FROM coupon.campaign c JOIN coupon.node_self s ON s.node_id = c.keeper
		 WHERE c.shared AND c.withdrawn = 0 AND c.archived_at IS NULL AND c.dumped IS NULL ORDER BY c.campaign_id LIMIT 1;
		IF campaign IS NOT NULL THEN
			target := coupon.node_that_answers(campaign);
			UPDATE coupon.campaign c SET keeper = target, version = c.version + 1
			 WHERE target IS NOT NULL AND c.campaign_id = campaign AND c.withdrawn = 0 AND c.keeper = (SELECT s.node_id FROM coupon.node_self s);
			IF FOUND THEN
				DELETE FROM coupon.campaign_copy k WHERE k.campaign_id = campaign;
				INSERT INTO coupon.campaign_copy (campaign_id, node_id, version) VALUES (campaign, target, 0);
				RETURN true;
			END IF;
		END IF;
		-- its units last: as long as it has slots it has users who want some
		IF coupon.node_has_slots() THEN
			RETURN false;
		END IF;
		FOR campaign IN SELECT c.campaign_id FROM coupon.campaign c WHERE c.shared AND c.dumped IS NULL
		LOOP
			CONTINUE WHEN NOT (SELECT h.free > 0 FROM coupon.stock_here(campaign) h);
			-- one that answers: who is dead would keep them from all until it is back
			target := coalesce(target, coupon.node_that_answers(campaign));
			EXIT WHEN target IS NULL;
			t := coupon.transfer_out(campaign, target, 100000, clock_timestamp());
			IF t.transfer_id IS NOT NULL THEN
				RETURN true;
			END IF;
		END LOOP;
		RETURN false;
	EXCEPTION WHEN lock_not_available THEN
		-- of a campaign: it goes later, and the rest of the work goes on
		RETURN false;
	END;
END
$$;
COMMENT ON FUNCTION coupon.node_unload() IS 'Gives the campaigns and the free units of a node that is being drained to another one that answers.';

CREATE FUNCTION coupon.stock_fetch(campaign_id bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self integer := (SELECT s.node_id FROM coupon.node_self s);
	before jsonb;
	reports jsonb := '{}';
	answer jsonb;
	disagree boolean := false;
	r record;
BEGIN
	-- twice, the second time only if the first one found nothing anywhere
	FOR turn IN 1 .. 2 LOOP
		before := reports;
		reports := jsonb_build_object(self, coupon.stock_report($1));
		FOR r IN SELECT * FROM coupon.peers_try('report', jsonb_build_object('campaign_id', $1))
		LOOP
			reports := reports || jsonb_build_object(r.node_id, coalesce(r.answer - 'epoch', '{"gone": false, "free": 0}'));
		END LOOP;
		-- one of the two may know a node that has joined, or left, which the other one has not heard of
		FOR r IN SELECT x.key::integer AS node_id FROM jsonb_each(reports) x WHERE x.value -> 'nodes' <> reports -> self::text -> 'nodes'
		LOOP
			disagree := true;
			PERFORM coupon.learn_map(c.answer -> 'map')
			   FROM coupon.peers_try('hello', jsonb_build_object('map', coupon.map_here()), r.node_id) c WHERE c.answer IS NOT NULL;
		END LOOP;
		SELECT x.key::integer AS node_id INTO r
		  FROM jsonb_each(reports) x
		 WHERE x.key::integer <> self
		   AND (x.value ->> 'free')::bigint > CASE WHEN (reports -> self::text ->> 'free')::bigint = 0 THEN 0 ELSE (reports -> self::text ->> 'free')::bigint + 1 END
		 ORDER BY (x.value ->> 'free')::bigint DESC, random() LIMIT 1;
		IF r.node_id IS NOT NULL THEN
			SELECT c.answer INTO answer
			  FROM coupon.peers_try('cut', jsonb_build_object('campaign_id', $1, 'has', reports -> self::text -> 'free'), r.node_id) c;
			IF answer ? 'transfer' THEN
				PERFORM coupon.transfer_in(answer -> 'transfer');
				RETURN true;
			END IF;
			RETURN false;
		END IF;
		IF disagree OR EXISTS (SELECT FROM jsonb_each(reports) x WHERE NOT (x.value ->> 'gone')::boolean OR (x.value ->> 'transit')::bigint > 0) THEN
			RETURN false;
		END IF;
	END LOOP;
	IF reports = before THEN
		PERFORM coupon.stock_set_gone($1, reports -> self::text ->> 'number');
	END IF;
	RETURN reports = before;
END
$$;
COMMENT ON FUNCTION coupon.stock_fetch(bigint) IS 'Fetches units from the node that has most; or finds out that none has any, which every node must say twice with the same number.';

CREATE FUNCTION coupon.stock_fetch_all() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	campaign bigint;
	wanting bigint[] := coupon.stock_wants(ARRAY(SELECT c.campaign_id FROM coupon.campaign c
		WHERE c.shared AND c.closed_at IS NULL AND NOT c.paused AND c.dumped IS NULL ORDER BY random()));
	fetched boolean;
BEGIN
	-- none does; or one that is empty, and is to stay so
	IF wanting = '{}' THEN
		RETURN false;
	ELSIF NOT coupon.node_has_slots() AND EXISTS (SELECT FROM coupon.node n JOIN coupon.node_self s ON s.node_id = n.node_id WHERE n.state <> 'active') THEN
		RETURN false;
	END IF;
	FOREACH campaign IN ARRAY wanting LOOP
		-- a campaign's trouble is its own
		BEGIN
			fetched := coupon.stock_fetch(campaign);
			PERFORM coupon.stock_fetched(campaign, false);
			-- this has locked the campaign until the commit: no node is called meanwhile, which may wait for this one
			EXIT WHEN fetched;
		EXCEPTION WHEN OTHERS THEN
			RAISE WARNING USING MESSAGE = format('no units of campaign %s could be fetched', campaign), DETAIL = SQLERRM;
			PERFORM coupon.stock_fetched(campaign, true);
		END;
	END LOOP;
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.stock_fetch_all() IS 'Fetches units of those campaigns that want some, of one in a transaction; returns whether any does.';

CREATE FUNCTION coupon.cluster_work() RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	pause integer;
	begun boolean;
	fetches_first boolean := random() < 0.5;
BEGIN
	IF NOT EXISTS (SELECT FROM coupon.node_self) THEN
		PERFORM coupon.node_set_confirmed(false);
		RETURN 100;
	END IF;
	-- one that was a node before, and is a new one, has to begin, too
	IF NOT coupon.node_confirmed() OR NOT EXISTS (SELECT FROM coupon.node_start) THEN
		begun := coupon.node_begin();
		IF begun IS NULL THEN
			RAISE WARNING USING
				MESSAGE = format('database "%s" is a copy of a node and sells nothing', current_database()),
				DETAIL = 'The other nodes would take it for the original, which has the same units and users.',
				HINT = 'Take it off coupon.databases.';
			RETURN 60000;
		ELSIF begun THEN
			RETURN 0;
		ELSIF NOT coupon.node_confirm() THEN
			RETURN 100;
		END IF;
		PERFORM coupon.node_set_confirmed(true);
		RETURN 0;
	END IF;
	-- what somebody has locked is done later, and the rest now
	PERFORM set_config('lock_timeout', '300ms', true);
	IF coupon.map_spread() THEN
		RETURN 0;
	END IF;
	-- who is on the way comes first; whether more leave takes turns with the rest
	pause := coupon.slots_work(random() < 0.5);
	IF pause IS NOT NULL THEN
		RETURN pause;
	END IF;
	-- and so does what is fetched: as long as users ask for what nobody has, there is always something to fetch
	IF coupon.transfer_settle() OR fetches_first AND coupon.stock_fetch_all()
	   OR coupon.transfer_push() OR coupon.campaign_spread() OR coupon.node_unload()
	   OR NOT fetches_first AND coupon.stock_fetch_all() THEN
		RETURN 0;
	END IF;
	RETURN coalesce(coupon.slots_work(true), 100);
END
$$;
COMMENT ON FUNCTION coupon.cluster_work() IS 'One step of the transfer worker. Returns after how many milliseconds there may be another one.';

-- ---- for operators ----

CREATE FUNCTION coupon.cluster_require() RETURNS smallint
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
BEGIN
	IF self IS NULL THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'this server is no node',
			DETAIL = 'coupon.node_self has no row.',
			HINT = 'Make it one with coupon_node_found() or coupon_node_join().';
	END IF;
	RETURN self;
END
$$;
COMMENT ON FUNCTION coupon.cluster_require() IS 'Which node this server is, or an ERROR.';

CREATE FUNCTION coupon.cluster_stay() RETURNS smallint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	LOCK TABLE coupon.node_self IN SHARE MODE;
	RETURN coupon.cluster_require();
END
$$;
COMMENT ON FUNCTION coupon.cluster_stay() IS 'coupon.cluster_require(); until the transaction ends the server stays that node.';

CREATE FUNCTION coupon.stock_parts(first_serial bigint, units bigint, OUT node_id smallint, OUT part int8range) RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT n.node_id, int8range($1 + $2 * (n.place - 1) / n.nodes, $1 + $2 * n.place / n.nodes)
	  FROM (SELECT x.node_id, row_number() OVER (ORDER BY x.node_id) AS place, count(*) OVER () AS nodes
	          FROM coupon.node x
	         -- if all are drained, at the same time, they stay here
	         WHERE x.state = 'active' OR NOT EXISTS (SELECT FROM coupon.node a WHERE a.state = 'active') AND x.node_id = coupon.cluster_require()) n
	 WHERE $2 * (n.place - 1) / n.nodes < $2 * n.place / n.nodes
$$;
COMMENT ON FUNCTION coupon.stock_parts(bigint, bigint) IS 'New units, dealt out to the nodes.';

CREATE FUNCTION coupon.stock_born(campaign_id bigint, units bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	self smallint := coupon.cluster_require();
	first_new bigint;
BEGIN
	-- the lock first: who adds units at the same time waits here
	PERFORM FROM coupon.campaign c WHERE c.campaign_id = $1 FOR NO KEY UPDATE;
	SELECT coalesce(max(s.last_serial), 0) + 1 INTO first_new FROM coupon.shard s WHERE s.campaign_id = $1;
	PERFORM coupon.units_born($1, (
		SELECT coalesce(coupon.ranges_of(range_agg(p.part) FILTER (WHERE p.node_id = self)), '{}')
		  FROM coupon.stock_parts(first_new, $2) p), first_new + $2 - 1);
	INSERT INTO coupon.transfer (transfer_id, campaign_id, donor, receiver, serials, state, due_at)
	SELECT gen_random_uuid(), $1, self, p.node_id, int8multirange(p.part), 'cut', clock_timestamp()
	  FROM coupon.stock_parts(first_new, $2) p WHERE p.node_id <> self;
	RETURN first_new + $2 - 1;
END
$$;
COMMENT ON FUNCTION coupon.stock_born(bigint, bigint) IS 'Adds units to a shared campaign: each node gets its part, those of the others are on their way.';

CREATE FUNCTION coupon.cluster_key_used(request_key text, campaign_id bigint, units bigint) RETURNS coupon.cluster_key
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	used coupon.cluster_key;
BEGIN
	IF octet_length($1) NOT BETWEEN 1 AND 255 THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'request_key must have 1 to 255 bytes',
			DETAIL = format('It has %s.', octet_length($1)),
			HINT = 'Use a random value, and the same one when the call is tried again.';
	END IF;
	-- two calls with the same key, one after the other
	PERFORM pg_advisory_xact_lock(hashtextextended('coupon.cluster_key ' || $1, 0)) WHERE $1 IS NOT NULL;
	SELECT * INTO used FROM coupon.cluster_key k WHERE k.request_key = $1;
	IF used.request_key IS NOT NULL AND (used.campaign_id <> coalesce($2, used.campaign_id) OR used.units <> $3) THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'request_key was used for another call',
			DETAIL = format('It added %s units to campaign %s.', used.units, used.campaign_id),
			HINT = 'Use a new key for a new call.';
	END IF;
	RETURN used;
END
$$;
COMMENT ON FUNCTION coupon.cluster_key_used(text, bigint, bigint) IS 'What a call with the key did; the next one waits until this transaction has ended.';

CREATE FUNCTION @extschema@.coupon_cluster_create(
	name           text,
	stock          bigint,
	per_user_limit integer DEFAULT 1,
	opens_at       timestamptz DEFAULT NULL,
	closes_at      timestamptz DEFAULT NULL,
	policy         jsonb DEFAULT '{}',
	topic          text DEFAULT 'coupon-issued',
	request_key    text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	used coupon.cluster_key;
	id bigint;
BEGIN
	PERFORM coupon.cluster_stay();
	used := coupon.cluster_key_used($8, NULL, $2);
	IF used.request_key IS NOT NULL THEN
		RETURN used.campaign_id;
	END IF;
	IF $2 IS NULL OR $2 NOT BETWEEN 0 AND 100000000 THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'stock must be between 0 and 100000000',
			DETAIL = format('It is %s.', coalesce($2::text, 'null')),
			HINT = 'Codes are imported at this node once the campaign is there.';
	END IF;
	id := @extschema@.coupon_campaign_create($1, 0, $3, $4, $5, $6, $7);
	PERFORM @extschema@.coupon_campaign_share(id);
	IF $2 > 0 THEN
		PERFORM coupon.stock_born(id, $2);
	END IF;
	INSERT INTO coupon.cluster_key (request_key, campaign_id, units, last_serial) SELECT $8, id, $2, $2 WHERE $8 IS NOT NULL;
	RETURN id;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_cluster_create(text, bigint, integer, timestamptz, timestamptz, jsonb, text, text) IS
	'Creates a campaign whose stock all nodes share, and returns its id. Once it has committed here the other nodes follow by themselves. With the same request_key again it returns the same campaign.';

CREATE FUNCTION @extschema@.coupon_campaign_share(campaign_id bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := coupon.cluster_stay();
	c coupon.campaign;
BEGIN
	SELECT * INTO c FROM coupon.campaign x WHERE x.campaign_id = $1 FOR NO KEY UPDATE;
	IF c.campaign_id IS NULL THEN
		RAISE SQLSTATE 'UC001' USING
			MESSAGE = 'unknown campaign',
			DETAIL = format('There is no campaign %s.', coalesce($1::text, 'null')),
			HINT = 'Use an id that coupon_campaign_create() returned; coupon.campaign lists them.';
	ELSIF c.shared THEN
		RETURN false;
	ELSIF c.labels_public OR c.closed_at IS NOT NULL OR c.archived_at IS NOT NULL OR c.dumped IS NOT NULL OR c.campaign_id >= 1000000000 THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'campaign cannot be shared',
			DETAIL = format('Campaign %s %s.', $1, CASE WHEN c.labels_public THEN 'has labelled units, which stay together'
				WHEN c.campaign_id >= 1000000000 THEN 'lives at one node' WHEN c.dumped IS NOT NULL THEN 'was restored and is not checked yet' ELSE 'is closed' END),
			HINT = 'Seats are sold at one node.';
	END IF;
	UPDATE coupon.campaign x SET shared = true, keeper = self, version = 1 WHERE x.campaign_id = $1;
	RETURN true;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_campaign_share(bigint) IS
	'Lets all nodes sell the units of a campaign of this one, which becomes its keeper: it is changed here, and units are added here. Returns whether this call changed it.';

CREATE FUNCTION @extschema@.coupon_cluster_add_stock(campaign_id bigint, units bigint, request_key text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	self smallint := coupon.cluster_require();
	used coupon.cluster_key;
	c coupon.campaign;
	stock bigint;
BEGIN
	used := coupon.cluster_key_used($3, $1, $2);
	IF used.request_key IS NOT NULL THEN
		RETURN used.last_serial;
	END IF;
	SELECT * INTO c FROM coupon.campaign x WHERE x.campaign_id = $1;
	IF c.campaign_id IS NULL OR NOT c.shared OR c.keeper <> self OR c.coded OR $2 IS NULL OR $2 < 1 THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'units cannot be added here',
			DETAIL = CASE WHEN c.campaign_id IS NULL THEN format('There is no campaign %s.', coalesce($1::text, 'null'))
			              WHEN NOT c.shared THEN format('Campaign %s is not shared.', $1)
			              WHEN c.keeper <> self THEN format('The keeper of campaign %s is node %s.', $1, c.keeper)
			              WHEN c.coded THEN format('Campaign %s has codes.', $1)
			              ELSE format('units is %s.', coalesce($2::text, 'null')) END,
			HINT = 'Call it at the keeper of a shared campaign; codes are imported there; coupon_campaign_add_stock() is for campaigns of one node.';
	END IF;
	stock := coupon.stock_born($1, $2);
	INSERT INTO coupon.cluster_key (request_key, campaign_id, units, last_serial) SELECT $3, $1, $2, stock WHERE $3 IS NOT NULL;
	RETURN stock;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_cluster_add_stock(bigint, bigint, text) IS
	'Adds units to a shared campaign, at its keeper; each node gets its part. Returns the new stock of all nodes. With the same request_key again it adds nothing.';

CREATE FUNCTION @extschema@.coupon_cluster_status(
	campaign_id bigint,
	OUT node_id integer,
	OUT name text,
	OUT state text,
	OUT stock bigint,
	OUT issued bigint,
	OUT held bigint,
	OUT in_flight bigint,
	OUT remaining bigint,
	OUT in_transit bigint,
	OUT problem text)
RETURNS SETOF record
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	WITH answers AS (
		SELECT s.node_id::integer, coupon.call_status($1) AS answer, NULL::text AS error FROM coupon.node_self s
		UNION ALL
		SELECT c.node_id, c.answer, c.error FROM coupon.peers_call('status', jsonb_build_object('campaign_id', $1)) c)
	SELECT n.node_id::integer, n.name, CASE WHEN a.answer IS NULL THEN 'missing' WHEN NOT (a.answer ->> 'confirmed')::boolean THEN 'fenced' ELSE n.state END,
	       (a.answer ->> 'stock')::bigint, (a.answer ->> 'issued')::bigint, (a.answer ->> 'held')::bigint, (a.answer ->> 'in_flight')::bigint,
	       (a.answer ->> 'remaining')::bigint, (a.answer ->> 'in_transit')::bigint, a.error
	  FROM coupon.node n LEFT JOIN answers a ON a.node_id = n.node_id
	 WHERE n.state <> 'gone'
	 ORDER BY n.node_id
$$;
COMMENT ON FUNCTION @extschema@.coupon_cluster_status(bigint) IS
	'What each node has of a campaign now; in_transit: units that it has sent away and that have yet to arrive. Of a node that is missing the numbers are null, not zero.';

CREATE FUNCTION @extschema@.coupon_cluster_verify(
	campaign_id bigint,
	OUT node_id integer,
	OUT law text,
	OUT serial bigint,
	OUT user_id text,
	OUT detail text)
RETURNS SETOF record
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	answers jsonb := '{}';
	r record;
BEGIN
	answers := jsonb_build_object(coupon.cluster_require(), coupon.call_holdings($1));
	FOR r IN SELECT * FROM coupon.peers_call('holdings', jsonb_build_object('campaign_id', $1))
	LOOP
		IF r.answer IS NULL THEN
			node_id := r.node_id;
			law := 'node is missing';
			detail := r.error;
			RETURN NEXT;
		ELSE
			answers := answers || jsonb_build_object(r.node_id, r.answer);
		END IF;
	END LOOP;
	RETURN QUERY
	SELECT a.key::integer, b ->> 'law', (b ->> 'serial')::bigint, b ->> 'user_id', b ->> 'detail'
	  FROM jsonb_each(answers) a, jsonb_array_elements(a.value -> 'broken') b;
	-- without all nodes nothing is said of where a unit is
	IF law IS NOT NULL THEN
		RETURN;
	END IF;
	RETURN QUERY
	SELECT NULL::integer, CASE WHEN p.places > 1 THEN 'unit is at two nodes' ELSE 'unit is at no node' END, p.first, NULL::text,
	       format('serials %s to %s, %s places', p.first, p.last, p.places)
	  FROM coupon.units_places(answers) p WHERE p.places <> 1;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_cluster_verify(bigint) IS
	'What breaks a law of the sale at any node, and units that are at two nodes or at none, also while they are sold; none when all is well. A node that cannot be asked is a row, too.';

-- Slots that move to another node, with all that their users have, while the sale goes on.
--
-- A wish to move slots is a row of coupon.slot_plan. The transfer worker takes some of
-- them at a time, as many as move within a moment, and in transactions of their own:
--	1  marks them as leaving: from here on their users are told to come again
--	2  waits for the transactions that are at work for them, for their requests and for
--	   their events; then takes their rows out of the tables and puts them into a parcel,
--	   and gives the slots away. Or, if that takes too long, keeps them and tries later.
--	3  sends the parcel until the receiver has said that it has it. The receiver takes it in
--	   once: only that transaction makes it the owner of the slots.
-- In between nobody has them, and whatever dies, it goes on from where it was.

CREATE TABLE coupon.slot_plan (
	slot     smallint PRIMARY KEY,
	receiver smallint NOT NULL,
	rows     bigint NOT NULL,
	due_at   timestamptz NOT NULL,
	left_at  timestamptz
);
COMMENT ON TABLE coupon.slot_plan IS 'Slots of this node that are to move to another one.';
COMMENT ON COLUMN coupon.slot_plan.slot IS 'The slot.';
COMMENT ON COLUMN coupon.slot_plan.receiver IS 'The node that is to have it.';
COMMENT ON COLUMN coupon.slot_plan.rows IS 'About how many issuances its users have.';
COMMENT ON COLUMN coupon.slot_plan.due_at IS 'From when on it may move.';
COMMENT ON COLUMN coupon.slot_plan.left_at IS 'Since when its users are told to come again; null: they are served.';

CREATE TABLE coupon.slot_parcel (
	parcel_id uuid PRIMARY KEY,
	donor     smallint NOT NULL,
	receiver  smallint NOT NULL,
	slots     smallint[] NOT NULL,
	content   jsonb,
	state     text COLLATE "C" NOT NULL CHECK (state IN ('sent', 'done', 'received')),
	due_at    timestamptz NOT NULL,
	noted_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	problem   text
);
CREATE INDEX slot_parcel_due_idx ON coupon.slot_parcel (due_at) WHERE state = 'sent';
COMMENT ON TABLE coupon.slot_parcel IS 'Slots that were given to another node or came from one, and on their way all that their users have.';
COMMENT ON COLUMN coupon.slot_parcel.parcel_id IS 'The same at both nodes.';
COMMENT ON COLUMN coupon.slot_parcel.donor IS 'The node that gave them away.';
COMMENT ON COLUMN coupon.slot_parcel.receiver IS 'The node that they are for.';
COMMENT ON COLUMN coupon.slot_parcel.slots IS 'The slots.';
COMMENT ON COLUMN coupon.slot_parcel.content IS 'The rows of their users, until the receiver has them.';
COMMENT ON COLUMN coupon.slot_parcel.state IS 'At the donor: sent, and done once the receiver has it. At the receiver: received.';
COMMENT ON COLUMN coupon.slot_parcel.due_at IS 'When it is sent again.';
COMMENT ON COLUMN coupon.slot_parcel.noted_at IS 'When this node had its part.';
COMMENT ON COLUMN coupon.slot_parcel.problem IS 'Why the receiver did not take it when it was sent last; null: it did, or it was not sent yet.';

CREATE VIEW coupon.node_status AS
SELECT n.node_id, n.name, n.state,
       (SELECT pg_catalog.count(*) FROM coupon.slot s WHERE s.node_id OPERATOR(pg_catalog.=) n.node_id) AS slots,
       (SELECT pg_catalog.count(*) FROM coupon.slot s
         WHERE s.node_id OPERATOR(pg_catalog.=) n.node_id AND s.leaving IS NOT NULL) AS leaving,
       EXISTS (SELECT FROM coupon.node_self f WHERE f.node_id OPERATOR(pg_catalog.=) n.node_id) AS is_self,
       n.conninfo, n.http_url,
       coalesce((SELECT p.problem FROM coupon.slot_parcel p
         WHERE p.receiver OPERATOR(pg_catalog.=) n.node_id AND p.state OPERATOR(pg_catalog.=) 'sent'::pg_catalog.text AND p.problem IS NOT NULL
         ORDER BY p.noted_at LIMIT 1),
        (SELECT k.problem FROM coupon.node_copy k
          WHERE k.node_id OPERATOR(pg_catalog.=) n.node_id AND n.state OPERATOR(pg_catalog.<>) 'gone'::pg_catalog.text)) AS problem
  FROM coupon.node n;
COMMENT ON COLUMN coupon.node_status.node_id IS 'The node''s number.';
COMMENT ON COLUMN coupon.node_status.name IS 'Its name.';
COMMENT ON COLUMN coupon.node_status.state IS 'active, draining or gone.';
COMMENT ON COLUMN coupon.node_status.slots IS 'How many slots it has.';
COMMENT ON COLUMN coupon.node_status.leaving IS 'How many of them are about to be given away.';
COMMENT ON COLUMN coupon.node_status.is_self IS 'Whether it is this server.';
COMMENT ON COLUMN coupon.node_status.conninfo IS 'How to connect to it.';
COMMENT ON COLUMN coupon.node_status.http_url IS 'Where its front listens.';
COMMENT ON COLUMN coupon.node_status.problem IS 'Why it has not taken slots that this node has given to it, or why it did not answer when this node asked it last; null: it did, or was not asked.';
COMMENT ON VIEW coupon.node_status IS 'The nodes of the sale, and how many slots each has, as far as this node knows.';

CREATE FUNCTION coupon.slot_of(user_id text) RETURNS integer
LANGUAGE c IMMUTABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'coupon_slot';
COMMENT ON FUNCTION coupon.slot_of(text) IS 'coupon_slot(), for indexes, too.';

-- ---- planning ----

CREATE FUNCTION coupon.campaigns_alone() RETURNS text
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT string_agg(a.campaign_id::text, ', ' ORDER BY a.campaign_id)
	  FROM (SELECT c.campaign_id FROM coupon.campaign c
	         WHERE NOT c.shared AND c.campaign_id < 1000000000
	           AND (c.archived_at IS NULL OR EXISTS (SELECT FROM coupon.issuance i WHERE i.campaign_id = c.campaign_id))
	         ORDER BY c.campaign_id LIMIT 20) a
$$;
COMMENT ON FUNCTION coupon.campaigns_alone() IS 'Campaigns that other nodes do not know, and that have users with a home of their own: these cannot move. Null: there are none.';

CREATE FUNCTION coupon.slots_plan(receivers smallint[]) RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := coupon.cluster_require();
	alone text := coupon.campaigns_alone();
	missing integer;
	n integer;
BEGIN
	IF alone IS NOT NULL THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'campaigns are known to this node only',
			DETAIL = format('Their users would be on a node without campaign %s.', alone),
			HINT = 'Share them with coupon_campaign_share(), or archive them.';
	END IF;
	SELECT r INTO missing FROM unnest($1) r
	 WHERE r = self OR NOT EXISTS (SELECT FROM coupon.node n WHERE n.node_id = r AND n.state = 'active') LIMIT 1;
	IF FOUND THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'slots cannot move there',
			DETAIL = format('Node %s is this one, is not known, or is not active.', coalesce(missing::text, 'null')),
			HINT = 'coupon.node_status lists the nodes.';
	END IF;
	LOCK TABLE coupon.slot_plan IN SHARE ROW EXCLUSIVE MODE;
	-- campaigns that are on this node as a whole stay, and keep their slot here
	INSERT INTO coupon.slot_plan AS p (slot, receiver, rows, due_at)
	SELECT f.slot, $1[f.place], coalesce(i.rows, 0), clock_timestamp()
	  FROM (SELECT s.slot, row_number() OVER (ORDER BY s.slot) AS place
	          FROM coupon.slot s
	         WHERE s.node_id = self AND s.leaving IS NULL
	           AND NOT EXISTS (SELECT FROM coupon.slot_plan q WHERE q.slot = s.slot)
	           AND NOT EXISTS (SELECT FROM coupon.campaign c
	                            WHERE c.campaign_id >= 1000000000 AND coupon.slot_of('campaign ' || c.campaign_id) = s.slot)) f
	  LEFT JOIN (SELECT coupon.slot_of(x.user_id) AS slot, count(*) AS rows FROM coupon.issuance x GROUP BY 1) i ON i.slot = f.slot
	 WHERE f.place <= cardinality($1);
	GET DIAGNOSTICS n = ROW_COUNT;
	-- each step reads all of it, while users of its slots are without a home
	IF n > 0 AND (SELECT c.reltuples FROM pg_class c WHERE c.oid = 'coupon.issuance'::regclass) > 500000
	   AND NOT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = 'coupon.issuance'::regclass AND x.indisvalid
	                      AND pg_get_expr(x.indexprs, x.indrelid) = 'coupon.slot_of(user_id)') THEN
		RAISE WARNING USING
			MESSAGE = 'slots will move slowly',
			DETAIL = 'Each step reads all issuances of this node, and the users that it takes along wait for it.',
			HINT = 'Create the indexes of examples/cluster/slot_index.sql now, and drop them when the slots have moved.';
	END IF;
	RETURN n;
END
$$;
COMMENT ON FUNCTION coupon.slots_plan(smallint[]) IS 'Plans for a slot of this node to move to each of these nodes; returns for how many.';

CREATE FUNCTION @extschema@.coupon_slots_move(receiver integer, slots integer) RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF $1 IS NULL OR $2 IS NULL OR $1 NOT BETWEEN 1 AND 64 OR $2 NOT BETWEEN 0 AND 1024 THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'invalid receiver or number of slots',
			DETAIL = format('%s slots to node %s.', coalesce($2::text, 'null'), coalesce($1::text, 'null')),
			HINT = 'A node is 1 to 64, and there are 1024 slots.';
	END IF;
	RETURN coupon.slots_plan(array_fill($1::smallint, ARRAY[$2]));
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_slots_move(integer, integer) IS
	'Has so many slots of this node move to another one, with their users; returns for how many that is planned. The transfer worker does it, while the sale goes on.';

CREATE FUNCTION coupon.slots_balance() RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := coupon.cluster_require();
	receivers smallint[];
BEGIN
	-- what each node lacks, in turns, as far as this one has more than its share
	WITH has AS (
		SELECT n.node_id, (SELECT count(*) FROM coupon.slot s WHERE s.node_id = n.node_id)
		                  + (SELECT count(*) FROM coupon.slot_plan p WHERE p.receiver = n.node_id)
		                  - CASE WHEN n.node_id = self THEN (SELECT count(*) FROM coupon.slot_plan p) ELSE 0 END AS slots,
		       count(*) FILTER (WHERE n.state = 'active') OVER () AS nodes,
		       row_number() OVER (PARTITION BY n.state = 'active' ORDER BY n.node_id) AS place, n.state
		  FROM coupon.node n WHERE n.state <> 'gone'),
	due AS (SELECT h.*, CASE WHEN h.state = 'active' THEN 1024 / h.nodes + CASE WHEN h.place <= 1024 % h.nodes THEN 1 ELSE 0 END ELSE 0 END AS share
	          FROM has h)
	SELECT array_agg(w.node_id ORDER BY w.turn, w.node_id) INTO receivers
	  FROM (SELECT d.node_id, g AS turn, row_number() OVER (ORDER BY g, d.node_id) AS place
	          FROM due d, generate_series(1, d.share - d.slots) g WHERE d.node_id <> self) w
	 WHERE w.place <= (SELECT d.slots - d.share FROM due d WHERE d.node_id = self);
	RETURN coupon.slots_plan(coalesce(receivers, '{}'));
END
$$;
COMMENT ON FUNCTION coupon.slots_balance() IS 'coupon_slots_balance() for those who have the right.';

CREATE FUNCTION @extschema@.coupon_slots_balance() RETURNS integer
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT coupon.slots_balance() $$;
COMMENT ON FUNCTION @extschema@.coupon_slots_balance() IS
	'Has those slots of this node move that are more than its share: all of them, if it is being drained. Returns for how many that is planned.';

-- ---- at the donor ----

CREATE FUNCTION coupon.slots_stay(seconds double precision) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE coupon.slot_plan p SET left_at = NULL, due_at = clock_timestamp() + make_interval(secs => $1) WHERE p.left_at IS NOT NULL;
	UPDATE coupon.slot s SET leaving = NULL WHERE s.leaving IS NOT NULL;
END
$$;
COMMENT ON FUNCTION coupon.slots_stay(double precision) IS 'Slots that were about to leave are served again, and may move after so many seconds.';

CREATE FUNCTION coupon.slots_next(OUT receiver smallint, OUT slots smallint[]) RETURNS record
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	alone text := coupon.campaigns_alone();
BEGIN
	DELETE FROM coupon.slot_plan p USING coupon.slot s WHERE s.slot = p.slot AND s.node_id IS DISTINCT FROM self;
	-- a node that is drained meanwhile gets no more
	DELETE FROM coupon.slot_plan p WHERE p.left_at IS NULL AND NOT EXISTS (SELECT FROM coupon.node n WHERE n.node_id = p.receiver AND n.state = 'active');
	-- one that is made after the plan, too
	IF alone IS NOT NULL THEN
		UPDATE coupon.slot_plan p SET due_at = clock_timestamp() + interval '5 s';
		RAISE WARNING USING
			MESSAGE = 'slots cannot move now',
			DETAIL = format('Other nodes do not know campaign %s.', alone),
			HINT = 'Share it with coupon_campaign_share(), or archive it.';
		RETURN;
	END IF;
	SELECT p.receiver INTO receiver FROM coupon.slot_plan p WHERE p.due_at <= clock_timestamp() ORDER BY p.due_at, p.slot LIMIT 1;
	-- as many as move within a part of a second, one at least
	SELECT array_agg(w.slot ORDER BY w.slot) INTO slots
	  FROM (SELECT p.slot, sum(p.rows + 50) OVER (ORDER BY p.due_at, p.slot) AS cost, row_number() OVER (ORDER BY p.due_at, p.slot) AS place
	          FROM coupon.slot_plan p WHERE p.receiver = slots_next.receiver AND p.due_at <= clock_timestamp()) w
	 WHERE w.cost <= 4000 OR w.place = 1;
END
$$;
COMMENT ON FUNCTION coupon.slots_next() IS 'Which slots are to leave next, all to one node; null: none.';

CREATE FUNCTION coupon.slots_leave(slots smallint[], receiver smallint) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE coupon.slot s SET leaving = $2
	 WHERE s.slot = ANY ($1) AND s.node_id = (SELECT f.node_id FROM coupon.node_self f) AND s.leaving IS NULL;
	UPDATE coupon.slot_plan p SET left_at = clock_timestamp() WHERE p.slot = ANY ($1);
END
$$;
COMMENT ON FUNCTION coupon.slots_leave(smallint[], smallint) IS 'Step 1: users of these slots are told to come again.';

CREATE FUNCTION coupon.slots_hindered(slots smallint[]) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET lock_timeout = '300ms'
AS $$
BEGIN
	BEGIN
		PERFORM coupon.slots_settle();
	EXCEPTION WHEN lock_not_available THEN
		RETURN 'a transaction of one of its users goes on';
	END;
	IF EXISTS (SELECT FROM coupon.request r WHERE r.decided_at IS NULL AND coupon.slot_of(r.user_id) = ANY ($1)) THEN
		RETURN 'requests of its users wait';
	ELSIF coupon.campaigns_alone() IS NOT NULL THEN
		RETURN 'a campaign is known to this node only';
	ELSIF EXISTS (SELECT FROM coupon.campaign c WHERE c.campaign_id >= 1000000000 AND coupon.slot_of('campaign ' || c.campaign_id) = ANY ($1)) THEN
		RETURN 'a campaign has its home there';
	-- a user's events come from one node after the other, in their order
	ELSIF coupon.has_broker() AND EXISTS (SELECT FROM coupon.outbox o WHERE coupon.slot_of(o.key) = ANY ($1)) THEN
		RETURN 'events of its users are not published';
	END IF;
	RETURN NULL;
END
$$;
COMMENT ON FUNCTION coupon.slots_hindered(smallint[]) IS 'Why slots that are leaving cannot go now; null: they can, and nobody is at work for them.';

CREATE FUNCTION coupon.slots_give() RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET lock_timeout = '300ms'
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	parcel uuid := gen_random_uuid();
	receiver smallint;
	moving smallint[];
	versions jsonb;
	hindrance text;
	issuances jsonb;
	campaigns jsonb := '[]';
	c record;
BEGIN
	SELECT min(s.leaving), array_agg(s.slot ORDER BY s.slot), jsonb_agg(jsonb_build_array(s.slot, s.version + 1) ORDER BY s.slot)
	  INTO receiver, moving, versions
	  FROM coupon.slot s WHERE s.node_id = self AND s.leaving IS NOT NULL;
	IF moving IS NULL THEN
		RETURN NULL;
	END IF;
	hindrance := coupon.slots_hindered(moving);
	IF hindrance IS NOT NULL THEN
		IF EXISTS (SELECT FROM coupon.slot_plan p WHERE p.left_at > clock_timestamp() - interval '500 ms') THEN
			RETURN 'waiting: ' || hindrance;
		END IF;
		PERFORM coupon.slots_stay(1 + 2 * random());
		RETURN 'staying: ' || hindrance;
	END IF;

	PERFORM coupon.transfer_commits();
	-- who takes a hold that has run out away is waited for
	SELECT jsonb_agg(to_jsonb(i) - 'shard' ORDER BY i.campaign_id, i.serial) INTO issuances
	  FROM (SELECT x.* FROM coupon.issuance x
	         WHERE coupon.slot_of(x.user_id) = ANY (moving) AND x.campaign_id < 1000000000
	           -- rows of one that ends are taken away here
	           AND NOT EXISTS (SELECT FROM coupon.campaign e WHERE e.campaign_id = x.campaign_id AND e.archived_at IS NOT NULL)
	           FOR UPDATE OF x) i;
	FOR c IN SELECT r.campaign_id, range_agg(int8range(r.serial, r.serial, '[]')) AS serials
	           FROM jsonb_to_recordset(issuances) r(campaign_id bigint, serial bigint)
	          GROUP BY r.campaign_id ORDER BY r.campaign_id
	LOOP
		campaigns := campaigns || jsonb_build_object('definition', coupon.campaign_definition(c.campaign_id), 'transfer_id', gen_random_uuid(),
			'campaign_id', c.campaign_id, 'serials', c.serials, 'labels',
			(SELECT jsonb_agg(jsonb_build_array(u.serial, u.label)) FROM coupon.units_labelled(c.campaign_id, c.serials) u));
		INSERT INTO coupon.transfer (transfer_id, campaign_id, donor, receiver, serials, state, due_at)
		VALUES ((campaigns -> -1 ->> 'transfer_id')::uuid, c.campaign_id, self, receiver, c.serials, 'cut', 'infinity');
		PERFORM coupon.units_leave(c.campaign_id, coupon.ranges_of(c.serials));
	END LOOP;

	WITH lapsed AS (DELETE FROM coupon.lapsed_hold x WHERE coupon.slot_of(x.user_id) = ANY (moving) AND x.campaign_id < 1000000000 RETURNING x.*),
	keys AS (DELETE FROM coupon.request_key x WHERE coupon.slot_of(x.user_id) = ANY (moving) AND x.campaign_id < 1000000000 RETURNING x.*),
	guests AS (DELETE FROM coupon.room_guest x WHERE coupon.slot_of(x.user_id) = ANY (moving) RETURNING x.*),
	refusals AS (DELETE FROM coupon.refusal x WHERE coupon.slot_of(x.user_id) = ANY (moving) AND x.campaign_id < 1000000000 RETURNING x.*)
	INSERT INTO coupon.slot_parcel (parcel_id, donor, receiver, slots, state, due_at, content)
	SELECT parcel, self, receiver, moving, 'sent', clock_timestamp(), jsonb_build_object(
		'parcel_id', parcel, 'donor', self, 'receiver', receiver, 'slots', versions, 'campaigns', campaigns,
		'issuances', coalesce(issuances, '[]'),
		'lapsed', coalesce((SELECT jsonb_agg(to_jsonb(x)) FROM lapsed x), '[]'),
		'keys', coalesce((SELECT jsonb_agg(to_jsonb(x)) FROM keys x), '[]'),
		'refusals', coalesce((SELECT jsonb_agg(to_jsonb(x)) FROM refusals x), '[]'),
		'guests', coalesce((SELECT jsonb_agg(to_jsonb(x)) FROM guests x), '[]'));
	UPDATE coupon.slot s SET node_id = s.leaving, version = s.version + 1, leaving = NULL WHERE s.slot = ANY (moving);
	DELETE FROM coupon.slot_plan p WHERE p.slot = ANY (moving);
	RETURN 'given';
END
$$;
COMMENT ON FUNCTION coupon.slots_give() IS 'Step 2: puts all that users of the leaving slots have into a parcel, and gives the slots away; or keeps them.';

CREATE FUNCTION coupon.slots_done(parcel_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM coupon.transfer_commits();
	UPDATE coupon.transfer t SET state = 'done'
	  FROM coupon.slot_parcel p, jsonb_array_elements(p.content -> 'campaigns') c
	 WHERE p.parcel_id = $1 AND p.state = 'sent' AND t.transfer_id = (c ->> 'transfer_id')::uuid AND t.state = 'cut';
	UPDATE coupon.slot_parcel p SET state = 'done', content = NULL, problem = NULL WHERE p.parcel_id = $1 AND p.state = 'sent';
END
$$;
COMMENT ON FUNCTION coupon.slots_done(uuid) IS 'Step 3, at the donor: the receiver has the parcel.';

-- ---- at the receiver ----

CREATE FUNCTION coupon.parcel_unpack(content jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO coupon.issuance (campaign_id, serial, shard, nth, issued_at, expires_at, user_id, state, policy, redeemed_at, order_ref, held_until, confirm_ref)
	SELECT i.campaign_id, i.serial, coupon.shard_of(i.campaign_id, i.serial), i.nth, i.issued_at, i.expires_at, i.user_id, i.state, i.policy,
	       i.redeemed_at, i.order_ref, i.held_until, i.confirm_ref
	  FROM jsonb_populate_recordset(NULL::coupon.issuance, $1 -> 'issuances') i;
	INSERT INTO coupon.lapsed_hold SELECT l.* FROM jsonb_populate_recordset(NULL::coupon.lapsed_hold, $1 -> 'lapsed') l;
	INSERT INTO coupon.request_key SELECT k.* FROM jsonb_populate_recordset(NULL::coupon.request_key, $1 -> 'keys') k;
	INSERT INTO coupon.room_guest SELECT g.* FROM jsonb_populate_recordset(NULL::coupon.room_guest, $1 -> 'guests') g
	ON CONFLICT ON CONSTRAINT room_guest_pkey DO NOTHING;
	INSERT INTO coupon.refusal SELECT r.* FROM jsonb_populate_recordset(NULL::coupon.refusal, $1 -> 'refusals') r
	 WHERE EXISTS (SELECT FROM coupon.campaign x WHERE x.campaign_id = r.campaign_id)
	ON CONFLICT ON CONSTRAINT refusal_pkey DO NOTHING;
END
$$;
COMMENT ON FUNCTION coupon.parcel_unpack(jsonb) IS 'Puts the rows of users of a parcel into the tables.';

CREATE FUNCTION coupon.slots_accept(parcel jsonb) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	ours smallint[];
	n integer;
	c record;
BEGIN
	PERFORM coupon.transfer_commits();
	PERFORM coupon.receiver_check(($1 ->> 'donor')::smallint, ($1 ->> 'receiver')::smallint);
	SELECT array_agg((r ->> 0)::smallint) INTO ours FROM jsonb_array_elements($1 -> 'slots') r;
	-- the same parcel again waits here for the first one
	INSERT INTO coupon.slot_parcel (parcel_id, donor, receiver, slots, state, due_at)
	VALUES (($1 ->> 'parcel_id')::uuid, ($1 ->> 'donor')::smallint, self, ours, 'received', 'infinity')
	ON CONFLICT ON CONSTRAINT slot_parcel_pkey DO NOTHING;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	UPDATE coupon.slot s SET node_id = self, version = (r ->> 1)::bigint, leaving = NULL
	  FROM jsonb_array_elements($1 -> 'slots') r
	 WHERE s.slot = (r ->> 0)::smallint AND s.version < (r ->> 1)::bigint;
	GET DIAGNOSTICS n = ROW_COUNT;
	IF n <> cardinality(ours) THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'slots were given away by a node that does not have them',
			DETAIL = format('Of the %s slots of parcel %s this node knows %s otherwise.', cardinality(ours), $1 ->> 'parcel_id', cardinality(ours) - n),
			HINT = 'Compare coupon.slot of the nodes.';
	END IF;

	FOR c IN SELECT r.* FROM jsonb_to_recordset($1 -> 'campaigns')
	                    r(campaign_id bigint, definition jsonb, transfer_id uuid, serials int8multirange, labels jsonb)
	LOOP
		PERFORM coupon.campaign_define(c.definition);
		INSERT INTO coupon.transfer (transfer_id, campaign_id, donor, receiver, serials, state, due_at)
		VALUES (c.transfer_id, c.campaign_id, ($1 ->> 'donor')::smallint, self, c.serials, 'settled', 'infinity');
		PERFORM coupon.units_arrive(c.campaign_id, coupon.ranges_of(c.serials), (c.definition ->> 'last_serial')::bigint, false);
		INSERT INTO coupon.unit (campaign_id, serial, label)
		SELECT c.campaign_id, (l ->> 0)::bigint, l ->> 1 FROM jsonb_array_elements(nullif(c.labels, 'null')) l
		ON CONFLICT ON CONSTRAINT unit_pkey DO NOTHING;
	END LOOP;
	PERFORM coupon.parcel_unpack($1);
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.slots_accept(jsonb) IS 'Step 3, at the receiver: takes slots in with all that their users have, once.';

-- ---- at the donor, when the receiver has left the sale ----

CREATE FUNCTION coupon.slots_back(p coupon.slot_parcel) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	asked integer := 0;
	ours smallint[];
	nowhere jsonb := '{}';
	rest jsonb;
	r record;
BEGIN
	-- the receiver may have taken the parcel in, and given some of its slots on
	FOR r IN SELECT * FROM coupon.peers_call('hello', jsonb_build_object('map', coupon.map_here()))
	LOOP
		IF r.answer IS NULL THEN
			RETURN false;
		END IF;
		PERFORM coupon.learn_map(r.answer -> 'map');
		asked := asked + 1;
	END LOOP;
	IF asked <> (SELECT count(*) FROM coupon.node n WHERE n.state <> 'gone' AND n.node_id <> self) THEN
		RETURN false;
	END IF;
	FOR r IN SELECT x.* FROM jsonb_to_recordset($1.content -> 'campaigns') x(campaign_id bigint, serials int8multirange)
	LOOP
		nowhere := nowhere || jsonb_build_object(r.campaign_id, coupon.units_nowhere(r.campaign_id, r.serials));
		IF nowhere ->> r.campaign_id::text IS NULL THEN
			RETURN false;
		END IF;
	END LOOP;
	PERFORM coupon.transfer_commits();
	WITH back AS (
		UPDATE coupon.slot s SET node_id = self, version = s.version + 1
		  FROM jsonb_array_elements($1.content -> 'slots') x
		 WHERE s.slot = (x ->> 0)::smallint AND s.version = (x ->> 1)::bigint AND s.node_id = $1.receiver
		RETURNING s.slot)
	SELECT coalesce(array_agg(b.slot), '{}') INTO ours FROM back b;
	-- of users whose slots went on, and of units that are elsewhere, the rows are there
	SELECT jsonb_object_agg(k, (
			SELECT coalesce(jsonb_agg(e), '[]') FROM jsonb_array_elements($1.content -> k) e
			 WHERE coupon.slot_of(e ->> 'user_id') = ANY (ours)
			   AND (k <> 'issuances' OR (e ->> 'serial')::bigint <@ (nowhere ->> (e ->> 'campaign_id'))::int8multirange)))
	  INTO rest FROM unnest('{issuances,lapsed,keys,guests,refusals}'::text[]) k;
	FOR r IN SELECT n.key::bigint AS campaign_id, n.value::int8multirange AS serials, coalesce(
	                (SELECT range_agg(int8range(i.serial, i.serial, '[]')) FROM jsonb_to_recordset(rest -> 'issuances') i(campaign_id bigint, serial bigint)
	                  WHERE i.campaign_id = n.key::bigint), '{}') AS taken
	           FROM jsonb_each_text(nowhere) n ORDER BY 1
	LOOP
		PERFORM coupon.units_arrive(r.campaign_id, coupon.ranges_of(r.taken), 0, false);
		PERFORM coupon.units_arrive(r.campaign_id, coupon.ranges_of(r.serials - r.taken), 0, true);
	END LOOP;
	PERFORM coupon.parcel_unpack(rest);
	PERFORM coupon.slots_done($1.parcel_id);
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.slots_back(coupon.slot_parcel) IS
	'Takes back a parcel that was for a node which has left, but for what that one had given on; false: not all nodes say yet what they have.';

CREATE FUNCTION coupon.slots_restore(maps jsonb, sent jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
BEGIN
	-- what is on its way to this node comes by itself
	UPDATE coupon.slot s SET node_id = self, version = m.version, leaving = NULL
	  FROM (SELECT DISTINCT ON (x.m -> 0) (x.m ->> 0)::smallint AS slot, (x.m ->> 1)::smallint AS node_id, (x.m ->> 2)::bigint AS version
	          FROM jsonb_array_elements($1) x(m) ORDER BY x.m -> 0, (x.m ->> 2)::bigint DESC) m
	 WHERE m.slot = s.slot AND m.node_id = self AND s.version < m.version
	   AND NOT EXISTS (SELECT FROM jsonb_array_elements($2) y(slot) WHERE y.slot::smallint = s.slot);
	-- users who had gone away with all that they have
	DELETE FROM coupon.lapsed_hold x USING coupon.slot s WHERE s.slot = coupon.slot_of(x.user_id) AND s.node_id <> self AND x.campaign_id < 1000000000;
	DELETE FROM coupon.request_key x USING coupon.slot s WHERE s.slot = coupon.slot_of(x.user_id) AND s.node_id <> self AND x.campaign_id < 1000000000;
	DELETE FROM coupon.room_guest x USING coupon.slot s WHERE s.slot = coupon.slot_of(x.user_id) AND s.node_id <> self;
	DELETE FROM coupon.refusal x USING coupon.slot s WHERE s.slot = coupon.slot_of(x.user_id) AND s.node_id <> self AND x.campaign_id < 1000000000;
END
$$;
COMMENT ON FUNCTION coupon.slots_restore(jsonb, jsonb) IS
	'Makes up for slots of which this server does not know that they came to the one that it has replaced, or left it. What users of the first had is lost; their units came back as free ones.';

-- ---- the worker ----

CREATE FUNCTION coupon.slots_work(may_begin boolean) RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	p coupon.slot_parcel;
	next record;
	done boolean;
	reason text;
BEGIN
	SELECT * INTO p FROM coupon.slot_parcel x WHERE x.state = 'sent' AND x.due_at <= clock_timestamp() ORDER BY x.due_at LIMIT 1;
	IF p.parcel_id IS NOT NULL AND EXISTS (SELECT FROM coupon.node n WHERE n.node_id = p.receiver AND n.state = 'gone') THEN
		BEGIN
			done := coupon.slots_back(p);
			reason := 'the node has left, and not all others say what they have';
		EXCEPTION WHEN OTHERS THEN
			-- the rest goes on
			done := false;
			reason := SQLERRM;
			RAISE WARNING USING MESSAGE = 'slots could not be taken back', DETAIL = reason;
		END;
		IF done THEN
			PERFORM coupon.peers_try('map', jsonb_build_object('map', coupon.map_here()));
		ELSE
			UPDATE coupon.slot_parcel x SET due_at = clock_timestamp() + interval '1 s', problem = reason WHERE x.parcel_id = p.parcel_id;
		END IF;
		RETURN 0;
	ELSIF p.parcel_id IS NOT NULL THEN
		SELECT c.answer IS NOT NULL, c.error INTO done, reason FROM coupon.peers_try('slots', jsonb_build_object('parcel', p.content), p.receiver) c;
		IF done THEN
			PERFORM coupon.slots_done(p.parcel_id);
			-- so that the others send nobody here; who is not told now asks later
			PERFORM coupon.peers_try('map', jsonb_build_object('map', coupon.map_here()));
		ELSE
			UPDATE coupon.slot_parcel x SET due_at = clock_timestamp() + interval '200 ms', problem = coalesce(reason, 'the receiver is not known') WHERE x.parcel_id = p.parcel_id;
			-- the receiver's fault, and not that it cannot now
			IF reason ~ '^[0-9A-Z]{5}: ' AND reason !~ '^(08|40|53|55|57|58)' THEN
				UPDATE coupon.slot_parcel x SET due_at = clock_timestamp() + interval '2 s' WHERE x.parcel_id = p.parcel_id;
				RAISE WARNING USING
					MESSAGE = format('node %s does not take slots', p.receiver),
					DETAIL = format('Parcel %s: %s', p.parcel_id, reason),
					HINT = 'Their users are served once it does: the parcel is sent again and again.';
			END IF;
		END IF;
		RETURN 0;
	END IF;
	IF EXISTS (SELECT FROM coupon.slot s WHERE s.leaving IS NOT NULL) THEN
		BEGIN
			RETURN CASE WHEN coupon.slots_give() LIKE 'waiting%' THEN 10 ELSE 0 END;
		EXCEPTION WHEN OTHERS THEN
			-- a hold that ran out in this moment is no reason to stay
			IF EXISTS (SELECT FROM coupon.slot_plan x WHERE x.left_at > clock_timestamp() - interval '500 ms') THEN
				RETURN 10;
			END IF;
			PERFORM coupon.slots_stay(5);
			RAISE WARNING USING MESSAGE = 'slots could not be given away, and stay', DETAIL = SQLERRM;
			RETURN 0;
		END;
	END IF;
	IF NOT $1 OR NOT EXISTS (SELECT FROM coupon.slot_plan x WHERE x.due_at <= clock_timestamp()) THEN
		RETURN NULL;
	END IF;
	SELECT * INTO next FROM coupon.slots_next();
	IF next.slots IS NULL THEN
		RETURN NULL;
	END IF;
	SELECT c.answer IS NOT NULL INTO done FROM coupon.peers_try('map', jsonb_build_object('map', coupon.map_here()), next.receiver) c;
	IF done THEN
		PERFORM coupon.slots_leave(next.slots, next.receiver);
	ELSE
		UPDATE coupon.slot_plan x SET due_at = clock_timestamp() + interval '1 s' WHERE x.receiver = next.receiver;
	END IF;
	RETURN 0;
END
$$;
COMMENT ON FUNCTION coupon.slots_work(boolean) IS 'One step of the moving of slots, of the transfer worker. Returns after how many milliseconds there may be another one; null: there is nothing to do.';

CREATE FUNCTION coupon.cluster_all_due() RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE coupon.transfer t SET due_at = clock_timestamp()
	 WHERE t.state IN ('cut', 'received') AND t.due_at > clock_timestamp() AND t.due_at < 'infinity';
	UPDATE coupon.slot_parcel p SET due_at = clock_timestamp() WHERE p.state = 'sent' AND p.due_at > clock_timestamp();
	UPDATE coupon.slot_plan p SET due_at = least(p.due_at, clock_timestamp()), left_at = least(p.left_at, clock_timestamp())
	 WHERE p.due_at > clock_timestamp() OR p.left_at > clock_timestamp();
	UPDATE coupon.campaign_copy c SET due_at = clock_timestamp() WHERE c.due_at > clock_timestamp();
	UPDATE coupon.node_copy c SET due_at = clock_timestamp() WHERE c.due_at > clock_timestamp();
$$;
COMMENT ON FUNCTION coupon.cluster_all_due() IS 'The clock was set back: what was to be done again in a moment would wait until it has caught up.';

-- A node that leaves the sale, and the last one, which is a single server again.

CREATE FUNCTION coupon.call_leaving(node_id smallint) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	here jsonb := '{}';
	transit bigint;
BEGIN
	-- first what is here, then what is under way: a unit that is sent away between the two is not missed
	IF $1 = self THEN
		here := jsonb_build_object(
			'slots', (SELECT count(*) FROM coupon.slot s WHERE s.node_id = self),
			'units', (SELECT coalesce(sum(h.remaining + h.held + h.in_flight), 0)
			            FROM coupon.campaign c, LATERAL @extschema@.coupon_status(c.campaign_id) h
			           WHERE c.shared AND c.archived_at IS NULL AND c.dumped IS NULL),
			'issuances', (SELECT count(*) FROM (SELECT FROM coupon.campaign c JOIN coupon.issuance i ON i.campaign_id = c.campaign_id
			                                   WHERE c.archived_at IS NULL LIMIT 1000) i),
			'events', (SELECT count(*) FROM (SELECT FROM coupon.outbox o WHERE coupon.has_broker() LIMIT 1000) o),
			'rooms', (SELECT count(*) FROM coupon.room r
			           WHERE EXISTS (SELECT FROM coupon.campaign c WHERE c.room_id = r.room_id AND c.closed_at IS NULL)));
	END IF;
	SELECT count(*) INTO transit FROM coupon.transfer t WHERE t.state = 'cut' AND $1 IN (t.donor, t.receiver);
	RETURN here || jsonb_build_object('transit', transit,
		'parcels', (SELECT count(*) FROM coupon.slot_parcel p WHERE p.state = 'sent' AND $1 IN (p.donor, p.receiver)),
		-- slots that this node has, or has given away and can take back
		'has', (SELECT coalesce(jsonb_agg(h.slot), '[]')
		          FROM (SELECT x.slot FROM coupon.slot x WHERE x.node_id = self
		                UNION ALL
		                SELECT unnest(p.slots) FROM coupon.slot_parcel p WHERE p.state = 'sent') h),
		'kept', (SELECT coalesce(jsonb_agg(coupon.campaign_definition(c.campaign_id)), '[]') FROM coupon.campaign c
		          WHERE c.shared AND c.keeper = $1 AND c.archived_at IS NULL AND c.dumped IS NULL),
		'elsewhere', (SELECT coalesce(jsonb_agg(c.campaign_id), '[]') FROM coupon.campaign c WHERE c.shared AND c.keeper <> $1));
END
$$;
COMMENT ON FUNCTION coupon.call_leaving(smallint) IS 'What would be lost with a node, as far as this one knows: at the node itself what only it has, and at each one transfers from it or to it that have yet to arrive, and of which campaigns it is the keeper.';

CREATE FUNCTION coupon.node_leave() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := (SELECT s.node_id FROM coupon.node_self s);
	has jsonb;
BEGIN
	-- the lock: what comes meanwhile has been taken in, or is refused
	PERFORM FROM coupon.node n WHERE n.node_id = self AND n.state = 'draining' FOR UPDATE;
	IF NOT FOUND THEN
		RETURN EXISTS (SELECT FROM coupon.node n WHERE n.node_id = self AND n.state = 'gone');
	END IF;
	has := coupon.call_leaving(self);
	IF has - '{elsewhere,kept,has}'::text[] <> '{"slots": 0, "units": 0, "issuances": 0, "events": 0, "rooms": 0, "transit": 0, "parcels": 0}' OR has -> 'kept' <> '[]' THEN
		RETURN false;
	END IF;
	UPDATE coupon.node n SET state = 'gone', version = n.version + 1 WHERE n.node_id = self;
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.node_leave() IS 'At a node that is removed: it has nothing, and gets nothing any more; false: it has something.';

CREATE FUNCTION coupon.keeper_take(answers jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	-- whoever calls, at whatever node: two who remove it at the same time choose the same one
	chosen smallint := coalesce((SELECT min(n.node_id) FROM coupon.node n WHERE n.state = 'active' AND $1 ? n.node_id::text), coupon.cluster_require());
	k record;
BEGIN
	FOR k IN SELECT (array_agg(x.d ORDER BY (x.d ->> 'version')::bigint DESC))[1] AS definition,
	                max((x.d ->> 'version')::bigint) + 1 AS version, max((x.d ->> 'last_serial')::bigint) AS last_serial
	           FROM jsonb_each($1) a, jsonb_array_elements(a.value -> 'kept') x(d)
	          -- unless somebody knows that it has another one by now
	          WHERE NOT EXISTS (SELECT FROM jsonb_each($1) o WHERE o.value -> 'elsewhere' @> (x.d -> 'campaign_id'))
	          GROUP BY x.d -> 'campaign_id' ORDER BY x.d -> 'campaign_id'
	LOOP
		PERFORM coupon.campaign_define(k.definition
			|| jsonb_build_object('keeper', chosen, 'version', k.version, 'last_serial', k.last_serial, 'keys', '[]'::jsonb));
		-- another one hears of it, and of the serials that there are, as of a campaign that is handed over
		IF chosen <> coupon.cluster_require() THEN
			PERFORM coupon.units_arrive((k.definition ->> 'campaign_id')::bigint, '{}', k.last_serial, true);
			INSERT INTO coupon.campaign_copy AS c (campaign_id, node_id, version) VALUES ((k.definition ->> 'campaign_id')::bigint, chosen, 0)
			ON CONFLICT ON CONSTRAINT campaign_copy_pkey DO UPDATE SET version = 0, due_at = clock_timestamp();
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION coupon.keeper_take(jsonb) IS 'Makes the first active node that answers the keeper of campaigns whose keeper has left without a word, from what the nodes say to coupon.call_leaving().';

CREATE FUNCTION @extschema@.coupon_node_drain() RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := coupon.cluster_require();
	stuck text;
BEGIN
	IF NOT EXISTS (SELECT FROM coupon.node n WHERE n.state = 'active' AND n.node_id <> self) THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'this is the last node',
			DETAIL = format('No other node than %s is active.', self),
			HINT = 'Have another server join first; or make it a single server again, with coupon_node_disband().';
	END IF;
	SELECT string_agg(c.campaign_id::text, ', ' ORDER BY c.campaign_id) INTO stuck FROM coupon.campaign c WHERE c.campaign_id >= 1000000000;
	IF stuck IS NOT NULL THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'campaigns that are at this node as a whole cannot leave it',
			DETAIL = format('Campaign %s.', left(stuck, 200)),
			HINT = 'When they are over end them with coupon_campaign_archive() or coupon_campaign_drop(), or drain other nodes. coupon_slots_move() moves all other slots.';
	END IF;
	SELECT string_agg(c.campaign_id::text, ', ' ORDER BY c.campaign_id) INTO stuck
	  FROM coupon.campaign c WHERE c.shared AND c.withdrawn > 0 AND c.archived_at IS NULL;
	IF stuck IS NOT NULL THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'units that were withdrawn at this node cannot leave it',
			DETAIL = format('Campaign %s.', left(stuck, 200)),
			HINT = 'Drain the other nodes, or end the campaign first.';
	END IF;
	UPDATE coupon.node n SET state = 'draining', version = n.version + 1 WHERE n.node_id = self AND n.state = 'active';
	RETURN coupon.slots_balance();
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_node_drain() IS
	'Has all slots, all free units and the campaigns of this node move to the others. Returns how many slots are planned to.';

CREATE FUNCTION @extschema@.coupon_node_remove(node_id integer) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := coupon.cluster_require();
	left_over text;
	answers jsonb;
	told jsonb;
	unclaimed bigint;
	silent text;
	complaint text;
BEGIN
	SELECT CASE WHEN n.state IS NULL THEN 'nothing that is known' WHEN n.state = 'active' THEN 'state active' END INTO left_over
	  FROM (VALUES ($1)) v(node_id) LEFT JOIN coupon.node n ON n.node_id = v.node_id;
	IF left_over <> '' OR $1 IS NULL THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'node cannot be removed',
			DETAIL = format('Node %s has %s.', coalesce($1::text, 'null'), coalesce(nullif(left_over, ''), 'no number')),
			HINT = 'Call coupon_node_drain() at that node, and wait until coupon.node_status shows no slots.';
	END IF;
	-- who has it gone already has nothing to ask
	PERFORM FROM coupon.node n WHERE n.node_id = $1 AND n.state <> 'gone';
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	SELECT jsonb_object_agg(a.node_id, a.answer) FILTER (WHERE a.answer IS NOT NULL), string_agg(a.node_id::text, ', ' ORDER BY a.node_id) FILTER (WHERE a.answer IS NULL),
	       max(a.error) FILTER (WHERE a.node_id = $1)
	  INTO answers, silent, complaint
	  FROM (SELECT self::integer AS node_id, coupon.call_leaving($1::smallint) AS answer, NULL::text AS error
	        UNION ALL
	        SELECT c.node_id, c.answer, c.error FROM coupon.peers_call('leaving', jsonb_build_object('node_id', $1)) c) a;
	told := answers -> $1::text;
	-- a server that refuses is not dead
	IF told IS NULL AND complaint ~ '(^|: +)[0-9A-Z]{5}: |is a superuser' THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'node cannot be removed',
			DETAIL = format('Node %s runs, but does not say what it has: %s', $1, complaint),
			HINT = 'Call it again when it does. If the server is not to be used any more stop it first.';
	END IF;
	SELECT count(*) INTO unclaimed FROM coupon.slot x
	 WHERE NOT EXISTS (SELECT FROM jsonb_each(answers) a WHERE a.value -> 'has' @> to_jsonb(x.slot))
	   AND (x.node_id = $1 OR answers ? x.node_id::text);
	SELECT concat_ws(', ',
		CASE WHEN (told ->> 'slots')::bigint > 0 THEN (told ->> 'slots') || ' slots' END,
		-- of a node that is dead all slots must be with others, or on their way from one that takes them back
		CASE WHEN told IS NULL AND unclaimed > 0 THEN unclaimed || ' slots, or knows who has them' END,
		CASE WHEN told IS NOT NULL AND sum((a.value ->> 'parcels')::bigint) > 0 THEN sum((a.value ->> 'parcels')::bigint) || ' parcels of slots that have yet to arrive' END,
		CASE WHEN (told ->> 'units')::bigint > 0 THEN (told ->> 'units') || ' units that are not issued' END,
		CASE WHEN (told ->> 'issuances')::bigint > 0 THEN (told ->> 'issuances') || ' issuances' END,
		-- what is on its way to one that is dead comes back to who has sent it
		CASE WHEN told IS NOT NULL AND sum((a.value ->> 'transit')::bigint) > 0 THEN sum((a.value ->> 'transit')::bigint) || ' transfers that have yet to arrive' END,
		CASE WHEN (told ->> 'events')::bigint > 0 THEN (told ->> 'events') || ' events that are not published' END,
		CASE WHEN (told ->> 'rooms')::bigint > 0 THEN (told ->> 'rooms') || ' rooms that campaigns require' END,
		CASE WHEN jsonb_array_length(told -> 'kept') > 0 THEN jsonb_array_length(told -> 'kept') || ' campaigns of which it is the keeper' END)
	  INTO left_over FROM jsonb_each(answers) a;
	IF left_over <> '' THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'node cannot be removed',
			DETAIL = format('Node %s has %s.', $1, left_over),
			HINT = CASE WHEN told IS NULL THEN 'Start the node again, or a standby of it.'
				ELSE 'Call it again when they have moved, which all but rooms do by themselves while the nodes run: coupon_cluster_status() shows where units are.' END;
	ELSIF silent IS NOT NULL THEN
		RAISE WARNING USING
			MESSAGE = 'not all nodes could be asked for what the node that is removed has',
			DETAIL = format('No answer from node %s.', silent),
			HINT = 'Compare with coupon_cluster_verify() whether units are at no node.';
	END IF;
	IF told IS NULL THEN
		PERFORM coupon.keeper_take(answers);
	ELSIF (SELECT (c.answer ->> 'left')::boolean FROM coupon.peers_call('leave', '{}', $1) c) IS NOT TRUE THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'node cannot be removed',
			DETAIL = format('Node %s has got something in this moment, or did not answer.', $1),
			HINT = 'Call it again.';
	END IF;
	UPDATE coupon.node n SET state = 'gone', version = n.version + 1 WHERE n.node_id = $1 AND n.state <> 'gone';
	RETURN true;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_node_remove(integer) IS
	'Takes a node that has been drained out of the sale; an ERROR while something would be lost with it. Of the campaigns of one that does not answer the active node with the lowest number that does becomes the keeper. Returns whether this call did; the other nodes are told.';

CREATE FUNCTION @extschema@.coupon_node_disband() RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint;
	left_over text;
	campaigns integer;
BEGIN
	-- who shares a campaign at the same time has done so, or is refused
	LOCK TABLE coupon.node_self IN SHARE ROW EXCLUSIVE MODE;
	LOCK TABLE coupon.campaign, coupon.transfer, coupon.slot_parcel, coupon.slot_plan IN SHARE ROW EXCLUSIVE MODE;
	self := coupon.cluster_require();
	left_over := concat_ws('; ',
		(SELECT 'node ' || string_agg(n.node_id::text, ', ' ORDER BY n.node_id) || ' has not been removed'
		   FROM coupon.node n WHERE n.node_id <> self AND n.state <> 'gone'),
		(SELECT count(*) || ' slots are not here' FROM coupon.slot s WHERE s.node_id <> self OR s.leaving IS NOT NULL HAVING count(*) > 0),
		(SELECT count(*) || ' parcels of slots have yet to arrive' FROM coupon.slot_parcel p WHERE p.state = 'sent' HAVING count(*) > 0),
		(SELECT count(*) || ' transfers have yet to arrive' FROM coupon.transfer t WHERE t.state = 'cut' HAVING count(*) > 0),
		(SELECT 'units of campaign ' || string_agg(c.campaign_id::text, ', ' ORDER BY c.campaign_id) || ' are not here'
		   FROM coupon.campaign c WHERE c.away > 0 AND c.archived_at IS NULL));
	IF left_over <> '' THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'this node is not all that there is of the sale',
			DETAIL = format('%s.', upper(left(left_over, 1)) || substr(left_over, 2)),
			HINT = 'Drain and remove the other nodes. Units that were lost with a node do not come back: end their campaign first.';
	END IF;
	UPDATE coupon.campaign c SET shared = false, keeper = NULL, version = c.version + 1 WHERE c.shared;
	GET DIAGNOSTICS campaigns = ROW_COUNT;
	DELETE FROM coupon.transfer;
	DELETE FROM coupon.campaign_copy;
	DELETE FROM coupon.cluster_key;
	DELETE FROM coupon.slot_plan;
	DELETE FROM coupon.slot_parcel;
	DELETE FROM coupon.room_key;
	DELETE FROM coupon.room_guest;
	DELETE FROM coupon.node_start;
	DELETE FROM coupon.node_epoch;
	DELETE FROM coupon.node_copy;
	DELETE FROM coupon.slot;
	DELETE FROM coupon.node;
	DELETE FROM coupon.node_self;
	PERFORM coupon.number_alone('coupon.campaign_campaign_id_seq', (SELECT max(c.campaign_id) FROM coupon.campaign c WHERE c.campaign_id < 1000000000));
	PERFORM coupon.number_alone('coupon.room_room_id_seq', (SELECT max(r.room_id) FROM coupon.room r));
	RETURN campaigns;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_node_disband() IS
	'Makes the last node, which has everything, an ordinary server again, while it sells; an ERROR if something is elsewhere. Returns how many campaigns were shared.';

CREATE FUNCTION coupon.number_alone(sequence regclass, last_used bigint) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	given bigint;
BEGIN
	EXECUTE format('SELECT CASE WHEN q.is_called THEN q.last_value END FROM %s q', $1) INTO given;
	EXECUTE format('ALTER SEQUENCE %s INCREMENT BY 1 RESTART WITH %s', $1, greatest(given, $2, 0) + 1);
END
$$;
COMMENT ON FUNCTION coupon.number_alone(regclass, bigint) IS 'From here on a sequence gives each number, as on a single server.';

-- What the nodes know of each other is told to all of them, until they have said that they
-- know the same: a node that is drained, has left, has come, or has another address; and the
-- keys of rooms. When all know it nothing is said.

-- plpgsql, which keeps its plans: each node asks ten times a second
CREATE FUNCTION coupon.map_digest() RETURNS text
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN md5(concat_ws(E'\n', (SELECT string_agg(to_jsonb(n)::text, E'\n' ORDER BY n.node_id) FROM coupon.node n),
		(SELECT max(k.key_id) FROM coupon.room_key k WHERE k.signs)));
END
$$;
COMMENT ON FUNCTION coupon.map_digest() IS 'The same at two nodes that know the same of coupon.node, and have the same newest key of rooms.';

CREATE FUNCTION coupon.keys_after(key_id integer) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT coalesce(jsonb_agg(to_jsonb(k) ORDER BY k.key_id), '[]') FROM coupon.room_key k WHERE k.signs AND k.key_id > coalesce($1, 0) $$;
COMMENT ON FUNCTION coupon.keys_after(integer) IS 'The keys of rooms that are newer than that one, for a node that lacks them.';

CREATE FUNCTION coupon.map_note(node_id smallint, digest text) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO coupon.node_copy AS k (node_id, digest, due_at) VALUES ($1, $2, clock_timestamp() + interval '1 second')
	ON CONFLICT ON CONSTRAINT node_copy_pkey DO UPDATE SET digest = excluded.digest, due_at = excluded.due_at
$$;
COMMENT ON FUNCTION coupon.map_note(smallint, text) IS 'Notes what another node knows; null: not the same as this one.';

CREATE FUNCTION coupon.call_map(argument jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	digest text;
BEGIN
	PERFORM coupon.learn_map($1 -> 'map');
	IF NOT $1 ? 'digest' THEN
		RETURN '{}';
	END IF;
	digest := coupon.map_digest();
	IF digest = $1 ->> 'digest' THEN
		PERFORM coupon.map_note(($1 ->> 'from')::smallint, digest);
		RETURN jsonb_build_object('digest', digest);
	END IF;
	RETURN jsonb_build_object('digest', digest, 'map', coupon.map_here(), 'keys', coupon.keys_after(($1 ->> 'key')::integer));
END
$$;
COMMENT ON FUNCTION coupon.call_map(jsonb) IS 'Another node tells what it knows, and is told what it lacks.';

CREATE FUNCTION coupon.map_spread() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	known text := coupon.map_digest();
	other smallint;
	told jsonb;
BEGIN
	SELECT n.node_id INTO other
	  FROM coupon.node n LEFT JOIN coupon.node_copy k ON k.node_id = n.node_id
	 WHERE n.node_id <> (SELECT s.node_id FROM coupon.node_self s) AND n.state <> 'gone'
	   -- at once what has changed; again what has failed, until it answers
	   AND (k.digest <> known OR (k.digest IS NULL OR k.problem IS NOT NULL) AND coalesce(k.due_at, '-infinity') <= clock_timestamp())
	 ORDER BY k.due_at NULLS FIRST LIMIT 1;
	IF other IS NULL THEN
		RETURN false;
	END IF;
	SELECT c.answer INTO told
	  FROM coupon.peers_try('map', jsonb_build_object('map', coupon.map_here(), 'digest', known,
	           'key', (SELECT max(k.key_id) FROM coupon.room_key k WHERE k.signs)), other) c;
	IF told ? 'map' THEN
		PERFORM coupon.learn_map(told -> 'map');
		PERFORM coupon.room_key_put(k) FROM jsonb_array_elements(told -> 'keys') k;
		known := coupon.map_digest();
	END IF;
	PERFORM coupon.map_note(other, CASE WHEN told ->> 'digest' = known THEN known END);
	RETURN true;
END
$$;
COMMENT ON FUNCTION coupon.map_spread() IS 'Tells a node that does not know the same as this one; again after a second, if that has not helped.';

CREATE FUNCTION @extschema@.coupon_node_address(node_id integer, conninfo text, http_url text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM coupon.cluster_require();
	PERFORM coupon.node_check($1, 'node', $2, $3);
	UPDATE coupon.node n SET conninfo = $2, http_url = $3, version = n.version + 1
	 WHERE n.node_id = $1 AND n.state <> 'gone';
	IF NOT FOUND THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'there is no such node',
			DETAIL = format('Node %s is not known, or has left.', $1),
			HINT = 'coupon.node_status lists the nodes.';
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_node_address(integer, text, text) IS
	'Says how a node is reached from now on; the other nodes are told. Call it at any node.';

-- Campaigns that live on one node as a whole, seats and small ones: their id says which node.

CREATE SEQUENCE coupon.campaign_single_seq;
COMMENT ON SEQUENCE coupon.campaign_single_seq IS 'Numbers of campaigns that live on this node as a whole.';

CREATE FUNCTION coupon.campaign_create_as(
	name text, stock bigint, per_user_limit integer, opens_at timestamptz, closes_at timestamptz, policy jsonb, topic text, campaign_id bigint)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'coupon_campaign_create';
COMMENT ON FUNCTION coupon.campaign_create_as(text, bigint, integer, timestamptz, timestamptz, jsonb, text, bigint) IS 'coupon_campaign_create() with an id that was chosen.';

CREATE FUNCTION coupon.campaign_id_here() RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	self smallint := coupon.cluster_require();
	stays boolean[];
	id bigint;
BEGIN
	-- who gives a slot away waits for this transaction, and then looks for campaigns
	LOCK TABLE coupon.slot IN ROW EXCLUSIVE MODE;
	SELECT array_agg(s.node_id = self AND s.leaving IS NULL AND p.slot IS NULL ORDER BY s.slot) INTO stays
	  FROM coupon.slot s LEFT JOIN coupon.slot_plan p ON p.slot = s.slot;
	IF NOT true = ANY (stays) OR NOT EXISTS (SELECT FROM coupon.node n WHERE n.node_id = self AND n.state = 'active') THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'a campaign cannot live on this node',
			DETAIL = format('Node %s has no slots that stay.', self),
			HINT = 'Call it at an active node that has slots: coupon.node_status lists them.';
	END IF;
	FOR i IN 1 .. 100000 LOOP
		-- no other node gives that number
		id := 1000000000 + nextval('coupon.campaign_single_seq') * 64 + self % 64;
		IF stays[1 + coupon.slot_of('campaign ' || id)] AND NOT EXISTS (SELECT FROM coupon.campaign c WHERE c.campaign_id = id) THEN
			RETURN id;
		END IF;
	END LOOP;
	RAISE EXCEPTION 'no id was found for a campaign of node %', self;
END
$$;
COMMENT ON FUNCTION coupon.campaign_id_here() IS 'An id of a campaign whose home is this node.';

CREATE FUNCTION @extschema@.coupon_cluster_create_single(
	name           text,
	stock          bigint,
	per_user_limit integer DEFAULT 1,
	opens_at       timestamptz DEFAULT NULL,
	closes_at      timestamptz DEFAULT NULL,
	policy         jsonb DEFAULT '{}',
	topic          text DEFAULT 'coupon-issued',
	request_key    text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	used coupon.cluster_key;
	id bigint;
BEGIN
	PERFORM coupon.cluster_stay();
	used := coupon.cluster_key_used($8, NULL, $2);
	IF used.request_key IS NOT NULL THEN
		RETURN used.campaign_id;
	END IF;
	id := coupon.campaign_create_as($1, $2, $3, $4, $5, $6, $7, coupon.campaign_id_here());
	INSERT INTO coupon.cluster_key (request_key, campaign_id, units, last_serial) SELECT $8, id, $2, $2 WHERE $8 IS NOT NULL;
	RETURN id;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_cluster_create_single(text, bigint, integer, timestamptz, timestamptz, jsonb, text, text) IS
	'Creates a campaign that lives on this node as a whole: all its users are served here, wherever their own home is. For seats and small campaigns. Returns its id, which says so. With the same request_key again it returns the same campaign.';

-- Waiting rooms.  Tickets are kept as requests are.

CREATE TABLE coupon.room (
	room_id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name             text COLLATE "C" NOT NULL,
	capacity         integer NOT NULL CHECK (capacity BETWEEN 1 AND 1000000),
	admit_per_second double precision CHECK (admit_per_second > 0 AND admit_per_second <= 1000000),
	session_ttl      interval NOT NULL,
	idle_ttl         interval NOT NULL,
	method           text COLLATE "C" NOT NULL CHECK (method IN ('fifo', 'random', 'passthrough', 'reject')),
	paused           boolean NOT NULL DEFAULT false,
	opens_at         timestamptz,
	seed             bytea,
	drawn            bigint,
	CONSTRAINT room_name_key UNIQUE (name),
	CONSTRAINT room_seed_check CHECK ((seed IS NULL) = (drawn IS NULL))
);
COMMENT ON TABLE coupon.room IS 'Waiting rooms.';
COMMENT ON COLUMN coupon.room.room_id IS 'The room''s number, which is part of tokens.';
COMMENT ON COLUMN coupon.room.name IS 'The name that the functions take.';
COMMENT ON COLUMN coupon.room.capacity IS 'How many users may be admitted at a time.';
COMMENT ON COLUMN coupon.room.admit_per_second IS 'How many users are admitted a second at most; null: as many as leave.';
COMMENT ON COLUMN coupon.room.session_ttl IS 'How long an admitted user may stay at most.';
COMMENT ON COLUMN coupon.room.idle_ttl IS 'How long a ticket lives when its user does not ask.';
COMMENT ON COLUMN coupon.room.method IS 'fifo | random | passthrough | reject. In a random room those who come before opens_at draw lots.';
COMMENT ON COLUMN coupon.room.paused IS 'While this is true, nobody is admitted.';
COMMENT ON COLUMN coupon.room.opens_at IS 'When admission begins; null: at once.';
COMMENT ON COLUMN coupon.room.seed IS 'The seed of the draw, made when lots are drawn; null: not yet.';
COMMENT ON COLUMN coupon.room.drawn IS 'The last of the tickets that drew lots; null: not yet.';

CREATE TABLE coupon.ticket (
	room_id     bigint NOT NULL,
	number      bigint NOT NULL,
	secret      uuid NOT NULL,
	joined_at   timestamptz NOT NULL,
	admitted_at timestamptz,
	ended_at    timestamptz,
	user_id     text COLLATE "C" NOT NULL,
	reason      text COLLATE "C",
	CONSTRAINT ticket_children_only CHECK (false) NO INHERIT
);
CREATE TABLE coupon.ticket_0 (PRIMARY KEY (room_id, number)) INHERITS (coupon.ticket)
	WITH (fillfactor = 35, autovacuum_enabled = off);
CREATE TABLE coupon.ticket_1 (PRIMARY KEY (room_id, number)) INHERITS (coupon.ticket)
	WITH (fillfactor = 35, autovacuum_enabled = off);
CREATE INDEX ticket_0_user_idx ON coupon.ticket_0 (room_id, user_id);
CREATE INDEX ticket_1_user_idx ON coupon.ticket_1 (room_id, user_id);
COMMENT ON TABLE coupon.ticket IS 'Places in waiting rooms. The rows are in the children.';
COMMENT ON TABLE coupon.ticket_0 IS 'The first of two tables for tickets, which take turns.';
COMMENT ON TABLE coupon.ticket_1 IS 'The second of two tables for tickets, which take turns.';
COMMENT ON COLUMN coupon.ticket.room_id IS 'The room.';
COMMENT ON COLUMN coupon.ticket.number IS 'The number of the ticket, in the order of arrival.';
COMMENT ON COLUMN coupon.ticket.secret IS 'The part of the token that cannot be guessed.';
COMMENT ON COLUMN coupon.ticket.joined_at IS 'When it was taken.';
COMMENT ON COLUMN coupon.ticket.admitted_at IS 'When the user was admitted; null: not yet.';
COMMENT ON COLUMN coupon.ticket.ended_at IS 'When the ticket ended; null: it waits or is admitted.';
COMMENT ON COLUMN coupon.ticket.user_id IS 'The user who has the ticket.';
COMMENT ON COLUMN coupon.ticket.reason IS 'Why it ended: idle, expired, gone when the room was deleted, or what coupon_queue_leave() was told.';

CREATE TYPE coupon.queue_result AS (
	status         text,
	token          text,
	queue_position bigint,
	eta            interval,
	poll_after     interval
);
COMMENT ON TYPE coupon.queue_result IS
	'The answer of a waiting room. Status: WAITING | ADMITTED | REJECTED | GONE.';
COMMENT ON COLUMN coupon.queue_result.status IS 'How far the ticket is.';
COMMENT ON COLUMN coupon.queue_result.token IS 'What identifies the ticket. Only coupon_queue_join() tells it.';
COMMENT ON COLUMN coupon.queue_result.queue_position IS 'The place in the line: 1 is next, 0 is admitted; null: lots are not drawn yet.';
COMMENT ON COLUMN coupon.queue_result.eta IS 'How long that will take; null: unknown.';
COMMENT ON COLUMN coupon.queue_result.poll_after IS 'How long to wait before asking again.';

-- A dump keeps the rooms, since campaigns require them.  It leaves out tickets and
-- requests: nobody waits in a copy, and nothing is decided twice.
SELECT pg_catalog.pg_extension_config_dump('coupon.room', '');
SELECT pg_catalog.pg_extension_config_dump('coupon.room_room_id_seq', '');

CREATE FUNCTION coupon.room_changed() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'coupon_room_changed';
COMMENT ON FUNCTION coupon.room_changed() IS 'Trigger: has the room''s definition read again once a change commits.';

CREATE TRIGGER room_changed AFTER INSERT OR UPDATE OR DELETE ON coupon.room
	FOR EACH ROW EXECUTE FUNCTION coupon.room_changed();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON coupon.room
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.refuse_truncate();
ALTER TABLE coupon.room ENABLE ALWAYS TRIGGER room_changed;
ALTER TABLE coupon.room ENABLE ALWAYS TRIGGER refuse_truncate;
CREATE TRIGGER queue_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.ticket
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.queue_guard();
CREATE TRIGGER queue_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.ticket_0
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.queue_guard();
CREATE TRIGGER queue_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.ticket_1
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.queue_guard();

CREATE FUNCTION coupon.room_check(
	name text, capacity integer, admit_per_second numeric, session_ttl interval, idle_ttl interval,
	method text)
RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	problem text;
	hint text;
BEGIN
	CASE
		WHEN name IS NULL OR octet_length(name) NOT BETWEEN 1 AND 256 THEN
			problem := 'name'; hint := 'Use 1 to 256 bytes.';
		WHEN capacity IS NULL OR capacity NOT BETWEEN 1 AND 1000000 THEN
			problem := 'capacity'; hint := 'Use 1 to 1000000.';
		WHEN admit_per_second < 0.0001 OR admit_per_second > 1000000 THEN
			problem := 'admit_per_second'; hint := 'Use 0.0001 to 1000000, or null: as slots come free.';
		WHEN session_ttl IS NULL OR session_ttl NOT BETWEEN interval '1 s' AND interval '7 days' THEN
			problem := 'session_ttl'; hint := 'Use 1 second to 7 days.';
		WHEN idle_ttl IS NULL OR idle_ttl NOT BETWEEN interval '1 s' AND interval '7 days' THEN
			problem := 'idle_ttl'; hint := 'Use 1 second to 7 days.';
		WHEN method IS NULL OR method NOT IN ('fifo', 'random', 'passthrough', 'reject') THEN
			problem := 'method'; hint := 'Use fifo, random, passthrough or reject.';
		ELSE
			RETURN;
	END CASE;
	RAISE invalid_parameter_value USING
		MESSAGE = format('invalid %s of a room', problem),
		DETAIL = format('Room %s: capacity %s, admit_per_second %s, session_ttl %s, idle_ttl %s, method %s.',
		                coalesce(quote_literal(left(name, 64)), 'null'), coalesce(capacity::text, 'null'),
		                coalesce(left(admit_per_second::text, 32), 'null'), coalesce(session_ttl::text, 'null'),
		                coalesce(idle_ttl::text, 'null'), coalesce(left(method, 32), 'null')),
		HINT = hint;
END
$$;
COMMENT ON FUNCTION coupon.room_check(text, integer, numeric, interval, interval, text) IS 'An ERROR for what a room cannot have.';

CREATE FUNCTION coupon.room_id(room text) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	id bigint;
BEGIN
	SELECT r.room_id INTO id FROM coupon.room r WHERE r.name = room COLLATE "C";
	IF id IS NULL THEN
		RAISE SQLSTATE 'UC202' USING
			MESSAGE = 'unknown room',
			DETAIL = format('There is no room %s.', coalesce(quote_literal(left(room, 64)), 'null')),
			HINT = 'Make it with coupon_room_create(); coupon.room_status lists them.';
	END IF;
	RETURN id;
END
$$;
COMMENT ON FUNCTION coupon.room_id(text) IS 'The number of a room, or an ERROR.';

CREATE FUNCTION @extschema@.coupon_room_create(
	name             text,
	capacity         integer,
	admit_per_second numeric DEFAULT NULL,
	session_ttl      interval DEFAULT '5 min',
	idle_ttl         interval DEFAULT '1 min',
	method           text DEFAULT 'fifo',
	opens_at         timestamptz DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	id bigint;
BEGIN
	PERFORM coupon.room_check($1, $2, $3, $4, $5, $6);
	IF $6 = 'random' AND $7 IS NULL THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'a room that draws lots needs opens_at',
			DETAIL = 'Those who join before that time draw lots.',
			HINT = 'Pass opens_at, or use method fifo.';
	END IF;
	INSERT INTO coupon.room (name, capacity, admit_per_second, session_ttl, idle_ttl, method, opens_at)
	VALUES ($1, $2, $3, $4, $5, $6, $7)
	RETURNING room_id INTO id;
	PERFORM coupon.warn_without_workers(true);
	RETURN id;
EXCEPTION
	WHEN unique_violation THEN
		RAISE unique_violation USING
			MESSAGE = 'there is a room of that name',
			DETAIL = format('Room %L.', $1),
			HINT = 'Choose another name, or change that room with coupon_room_alter().';
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_room_create(text, integer, numeric, interval, interval, text, timestamptz) IS
	'Makes a waiting room and returns its number.';

CREATE FUNCTION @extschema@.coupon_room_alter(
	name             text,
	capacity         integer DEFAULT NULL,
	admit_per_second numeric DEFAULT NULL,
	session_ttl      interval DEFAULT NULL,
	idle_ttl         interval DEFAULT NULL,
	method           text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	r record;
	rate numeric;
BEGIN
	SELECT * INTO r FROM coupon.room o WHERE o.room_id = coupon.room_id($1) FOR UPDATE;
	r.capacity := coalesce($2, r.capacity);
	rate := CASE WHEN $3 = 0 THEN NULL ELSE coalesce($3, r.admit_per_second::numeric) END;
	r.session_ttl := coalesce($4, r.session_ttl);
	r.idle_ttl := coalesce($5, r.idle_ttl);
	IF $6 = 'random' AND r.method <> 'random' THEN
		RAISE feature_not_supported USING
			MESSAGE = 'a room cannot begin to draw lots',
			DETAIL = format('Room %L has method %s.', $1, r.method),
			HINT = 'Make it with coupon_room_create(..., method => ''random'', opens_at => ...).';
	END IF;
	r.method := coalesce($6, r.method);
	PERFORM coupon.room_check($1, r.capacity, rate, r.session_ttl, r.idle_ttl, r.method);
	UPDATE coupon.room o
	   SET capacity = r.capacity, admit_per_second = rate, session_ttl = r.session_ttl,
	       idle_ttl = r.idle_ttl, method = r.method
	 WHERE o.room_id = r.room_id;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_room_alter(text, integer, numeric, interval, interval, text) IS
	'Changes what is not null, from the commit on. With admit_per_second 0 there is no limit. A lower capacity ends no session.';

CREATE FUNCTION @extschema@.coupon_room_pause(name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE coupon.room r SET paused = true WHERE r.room_id = coupon.room_id($1) AND NOT r.paused;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_room_pause(text) IS 'Admits nobody from the commit on. Returns whether this call changed it.';

CREATE FUNCTION @extschema@.coupon_room_resume(name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE coupon.room r SET paused = false WHERE r.room_id = coupon.room_id($1) AND r.paused;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_room_resume(text) IS 'Ends a pause. Returns whether this call changed it.';

CREATE FUNCTION @extschema@.coupon_room_drop(name text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	id bigint;
	needed_by text;
BEGIN
	LOOP
		id := coupon.room_id($1);
		-- Who makes a campaign require the room locks its row, too: one of the two is first.
		PERFORM FROM coupon.room r WHERE r.room_id = id FOR UPDATE;
		EXIT WHEN FOUND;
	END LOOP;
	SELECT string_agg(c.campaign_id::text, ', ' ORDER BY c.campaign_id) INTO needed_by
	  FROM (SELECT o.campaign_id FROM coupon.campaign o
	         WHERE o.room_id = id AND o.closed_at IS NULL ORDER BY o.campaign_id LIMIT 20) c;
	IF needed_by IS NOT NULL THEN
		RAISE dependent_objects_still_exist USING
			MESSAGE = 'campaigns require the room',
			DETAIL = format('Room %L is required by campaign %s.', $1, needed_by),
			HINT = 'Close them, or let them issue to everybody with coupon_campaign_require_room(..., NULL).';
	END IF;
	UPDATE coupon.campaign c SET room_id = NULL WHERE c.room_id = id;
	DELETE FROM coupon.room r WHERE r.room_id = id;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_room_drop(text) IS
	'Takes a room away. From the commit on whoever waits there or is admitted is told GONE. An ERROR while a campaign that is not closed requires it.';

CREATE FUNCTION @extschema@.coupon_room_draw(name text, OUT number bigint, OUT place bigint)
RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT t.n, row_number() OVER (ORDER BY sha256(r.seed || int8send(t.n)), t.n)
	  FROM coupon.room r, generate_series(1::bigint, r.drawn) t(n)
	 WHERE r.name = $1 COLLATE "C"
$$;
COMMENT ON FUNCTION @extschema@.coupon_room_draw(text) IS
	'The draw of a room once it is open: the place of each ticket that drew lots. Anybody can compute it from the seed.';

CREATE FUNCTION @extschema@.coupon_campaign_require_room(campaign_id bigint, room text) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_campaign_require_room(bigint, text) IS
	'From the commit on the campaign issues only to users whom the room has admitted, or with null to everybody.';

CREATE FUNCTION @extschema@.coupon_queue_join(room text, user_id text)
RETURNS coupon.queue_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_queue_join';
COMMENT ON FUNCTION @extschema@.coupon_queue_join(text, text) IS
	'Takes a place in a room. A user who has one gets the same ticket again.';

CREATE FUNCTION @extschema@.coupon_queue_join(room text, user_id bigint)
RETURNS coupon.queue_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_queue_join_bigint';
COMMENT ON FUNCTION @extschema@.coupon_queue_join(text, bigint) IS
	'Takes a place in a room. A user who has one gets the same ticket again.';

CREATE FUNCTION @extschema@.coupon_queue_join(room text, user_id uuid)
RETURNS coupon.queue_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_queue_join_uuid';
COMMENT ON FUNCTION @extschema@.coupon_queue_join(text, uuid) IS
	'Takes a place in a room. A user who has one gets the same ticket again.';

CREATE FUNCTION @extschema@.coupon_queue_position(token text)
RETURNS coupon.queue_result
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_queue_position(text) IS
	'How many are served before this ticket, and when to ask again. Asking keeps the ticket alive.';

CREATE FUNCTION @extschema@.coupon_queue_require(token text, room text DEFAULT NULL, user_id text DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_queue_require(text, text, text) IS
	'An ERROR unless the token belongs to an admitted user, and to that room and that user where they are given. Asking keeps the ticket alive.';

-- Without defaults, so that a call without a user is one of the function above.
CREATE FUNCTION @extschema@.coupon_queue_require(token text, room text, user_id bigint)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_queue_require_bigint';
COMMENT ON FUNCTION @extschema@.coupon_queue_require(text, text, bigint) IS
	'An ERROR unless the token belongs to an admitted user, and to that room and that user where they are given. Asking keeps the ticket alive.';

CREATE FUNCTION @extschema@.coupon_queue_require(token text, room text, user_id uuid)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_queue_require_uuid';
COMMENT ON FUNCTION @extschema@.coupon_queue_require(text, text, uuid) IS
	'An ERROR unless the token belongs to an admitted user, and to that room and that user where they are given. Asking keeps the ticket alive.';

CREATE FUNCTION @extschema@.coupon_queue_leave(token text, reason text DEFAULT 'left')
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_queue_leave(text, text) IS
	'Ends a ticket and frees its place, in the caller''s transaction. Returns whether this call did.';

CREATE FUNCTION @extschema@.coupon_queue_serve()
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_queue_serve() IS
	'Admits those who are next and ends tickets that are over. Returns how many tickets it changed. The room worker does this all the time.';

CREATE FUNCTION @extschema@.coupon_room_counts(
	room_id bigint,
	OUT waiting bigint,
	OUT admitted bigint,
	OUT joined bigint,
	OUT served bigint,
	OUT served_per_second double precision)
RETURNS record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_room_counts(bigint) IS
	'How many wait and how many are admitted now, the number of the newest ticket, and how many were admitted since the server knows the room.';

CREATE VIEW coupon.room_status AS
SELECT r.room_id, r.name, r.method,
       CASE WHEN r.opens_at > pg_catalog.clock_timestamp() THEN 'not_open'
            WHEN r.paused THEN 'paused'
            ELSE 'open' END AS state,
       r.capacity, r.admit_per_second, r.session_ttl, r.idle_ttl, r.opens_at, r.seed, r.drawn,
       c.waiting, c.admitted, c.joined, c.served, c.served_per_second
  FROM coupon.room r, LATERAL @extschema@.coupon_room_counts(r.room_id) c;
COMMENT ON VIEW coupon.room_status IS 'Every waiting room, and how many wait there and are admitted.';
COMMENT ON COLUMN coupon.room_status.room_id IS 'The rooms number.';
COMMENT ON COLUMN coupon.room_status.name IS 'Its name.';
COMMENT ON COLUMN coupon.room_status.method IS 'fifo | random | passthrough | reject';
COMMENT ON COLUMN coupon.room_status.state IS 'open | not_open | paused';
COMMENT ON COLUMN coupon.room_status.capacity IS 'How many users may be admitted at a time.';
COMMENT ON COLUMN coupon.room_status.admit_per_second IS 'How many are admitted a second at most; null: as many as leave.';
COMMENT ON COLUMN coupon.room_status.session_ttl IS 'How long an admitted user may stay at most.';
COMMENT ON COLUMN coupon.room_status.idle_ttl IS 'How long a ticket lives when its user does not ask.';
COMMENT ON COLUMN coupon.room_status.opens_at IS 'When admission begins; null: at once.';
COMMENT ON COLUMN coupon.room_status.seed IS 'The seed of the draw; null: lots are not drawn.';
COMMENT ON COLUMN coupon.room_status.drawn IS 'The last of the tickets that drew lots; null: none has.';
COMMENT ON COLUMN coupon.room_status.waiting IS 'How many wait now.';
COMMENT ON COLUMN coupon.room_status.admitted IS 'How many are admitted now.';
COMMENT ON COLUMN coupon.room_status.joined IS 'The number of the newest ticket.';
COMMENT ON COLUMN coupon.room_status.served IS 'How many were admitted since the server knows the room.';
COMMENT ON COLUMN coupon.room_status.served_per_second IS 'How many were admitted a second when it last admitted.';

-- Rooms on several nodes. A room is at one node, which admits people and gives each a pass: signed,
-- so that any node can check it alone. The node where the user has their home notes the guest, and
-- campaigns that require the room issue to them there.

CREATE TABLE coupon.room_key (
	key_id  integer PRIMARY KEY,
	inner_key bytea NOT NULL,
	outer_key bytea NOT NULL,
	signs   boolean NOT NULL,
	made_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE coupon.room_key IS 'The keys that passes are signed with, the same at all nodes. Nobody but a superuser reads them.';
COMMENT ON COLUMN coupon.room_key.key_id IS 'The key''s number: the newest one that signs is used.';
COMMENT ON COLUMN coupon.room_key.inner_key IS 'The secret, as HMAC-SHA256 begins its inner hash with it.';
COMMENT ON COLUMN coupon.room_key.outer_key IS 'The same of its outer hash.';
COMMENT ON COLUMN coupon.room_key.signs IS 'Whether all nodes have it, so that passes may be signed with it.';
COMMENT ON COLUMN coupon.room_key.made_at IS 'When it came to this node.';

CREATE TABLE coupon.room_guest (
	room_id bigint NOT NULL,
	user_id text COLLATE "C" NOT NULL,
	until   timestamptz NOT NULL,
	PRIMARY KEY (room_id, user_id)
);
CREATE INDEX room_guest_until_idx ON coupon.room_guest (until);
COMMENT ON TABLE coupon.room_guest IS 'Users who have shown the pass of a room of another node.';
COMMENT ON COLUMN coupon.room_guest.room_id IS 'The room.';
COMMENT ON COLUMN coupon.room_guest.user_id IS 'The user.';
COMMENT ON COLUMN coupon.room_guest.until IS 'When the pass ends.';

CREATE FUNCTION coupon.pass_signature(words text, key coupon.room_key) RETURNS text
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT encode(sha256($2.outer_key || sha256($2.inner_key || convert_to($1, 'UTF8'))), 'hex') $$;
COMMENT ON FUNCTION coupon.pass_signature(text, coupon.room_key) IS 'HMAC-SHA256.';

CREATE FUNCTION coupon.room_key_new(key_id integer) RETURNS coupon.room_key
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	secret bytea := sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
	             || sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
	inner_key bytea := secret;
	outer_key bytea := secret;
BEGIN
	FOR i IN 0 .. 63 LOOP
		inner_key := set_byte(inner_key, i, get_byte(secret, i) # 54);
		outer_key := set_byte(outer_key, i, get_byte(secret, i) # 92);
	END LOOP;
	RETURN ROW($1, inner_key, outer_key, false, clock_timestamp())::coupon.room_key;
END
$$;
COMMENT ON FUNCTION coupon.room_key_new(integer) IS 'A key of 64 random bytes.';

CREATE FUNCTION coupon.room_key_put(key jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	k coupon.room_key := jsonb_populate_record(NULL::coupon.room_key, $1);
BEGIN
	INSERT INTO coupon.room_key AS r (key_id, inner_key, outer_key, signs, made_at)
	VALUES (k.key_id, k.inner_key, k.outer_key, k.signs, clock_timestamp())
	-- a key of that number that not all nodes got is none
	ON CONFLICT ON CONSTRAINT room_key_pkey DO UPDATE SET inner_key = excluded.inner_key, outer_key = excluded.outer_key, signs = excluded.signs WHERE NOT r.signs;
	IF NOT EXISTS (SELECT FROM coupon.room_key r WHERE r.key_id = k.key_id AND r.inner_key = k.inner_key) THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'another key of that number is used',
			DETAIL = format('Key %s.', k.key_id),
			HINT = 'Call coupon_room_key_rotate() again, at one node.';
	END IF;
	-- passes of the one before are good as long as they last
	IF k.signs THEN
		DELETE FROM coupon.room_key r WHERE r.key_id < (SELECT max(x.key_id) FROM coupon.room_key x WHERE x.signs AND x.key_id < k.key_id);
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.room_key_put(jsonb) IS 'Notes a key, or that all nodes have it.';

CREATE FUNCTION @extschema@.coupon_room_key_rotate() RETURNS integer
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	k coupon.room_key;
	missing text;
BEGIN
	PERFORM coupon.cluster_require();
	LOCK TABLE coupon.room_key IN SHARE ROW EXCLUSIVE MODE;
	k := coupon.room_key_new((SELECT coalesce(max(r.key_id), 0) + 1 FROM coupon.room_key r));
	SELECT string_agg(c.node_id || ': ' || coalesce(c.error, 'no answer'), ', ' ORDER BY c.node_id) INTO missing
	  FROM coupon.peers_call('room_key', jsonb_build_object('key', to_jsonb(k))) c WHERE c.answer IS NULL;
	IF missing IS NOT NULL THEN
		RAISE SQLSTATE 'UC303' USING
			MESSAGE = 'not all nodes have the new key',
			DETAIL = format('Node %s.', left(missing, 200)),
			HINT = 'The key before is still used. Call it again when all nodes answer.';
	END IF;
	PERFORM coupon.room_key_put(to_jsonb(k) || '{"signs": true}');
	-- who misses this goes on signing with the key before, which all have
	PERFORM coupon.peers_call('room_key', jsonb_build_object('key', to_jsonb(k) || '{"signs": true}'));
	RETURN k.key_id;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_room_key_rotate() IS
	'Gives all nodes a new key to sign the passes of rooms with; passes of the key before stay good. Returns its number.';

CREATE FUNCTION @extschema@.coupon_room_pass(token text) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	part text[] := CASE WHEN $1 ~ '^[0-9]{1,18}\.[0-9]{1,18}\.[0-9a-f]{32}$' THEN string_to_array($1, '.') END;
	t record;
	k coupon.room_key;
	words text;
BEGIN
	SELECT x.room_id, x.user_id, x.admitted_at + r.session_ttl AS until INTO t
	  FROM coupon.ticket x JOIN coupon.room r ON r.room_id = x.room_id
	 WHERE x.room_id = part[1]::bigint AND x.number = part[2]::bigint
	   AND sha256(uuid_send(x.secret)) = sha256(decode(part[3], 'hex'))
	   AND x.admitted_at IS NOT NULL AND x.ended_at IS NULL;
	SELECT * INTO k FROM coupon.room_key x WHERE x.signs ORDER BY x.key_id DESC LIMIT 1;
	IF t.until IS NULL OR t.until <= clock_timestamp() OR k.key_id IS NULL THEN
		RAISE SQLSTATE 'UC203' USING
			MESSAGE = 'not admitted',
			DETAIL = CASE WHEN t.until IS NULL OR t.until <= clock_timestamp() THEN 'The ticket is not one of an admitted user.' ELSE 'There is no key to sign with.' END,
			HINT = CASE WHEN t.until IS NULL OR t.until <= clock_timestamp() THEN 'Ask coupon_queue_position() until the position is 0.' ELSE 'Make one with coupon_room_key_rotate().' END;
	END IF;
	words := format('%s.%s.%s.%s', t.room_id, ceil(extract(epoch FROM t.until))::bigint, k.key_id, encode(convert_to(t.user_id, 'UTF8'), 'hex'));
	RETURN words || '.' || coupon.pass_signature(words, k);
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_room_pass(text) IS
	'At the node of the room: the pass of an admitted user, for coupon_room_admit() of the node where they have their home.';

CREATE FUNCTION @extschema@.coupon_room_admit(pass text) RETURNS timestamptz
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	part text[] := CASE WHEN octet_length($1) <= 700 AND $1 ~ '^[0-9]{1,18}\.[0-9]{1,11}\.[0-9]{1,9}\.([0-9a-f]{2})+\.[0-9a-f]{64}$' THEN string_to_array($1, '.') END;
	until timestamptz := to_timestamp(part[2]::double precision);
	k coupon.room_key;
	problem text;
BEGIN
	SELECT * INTO k FROM coupon.room_key r WHERE r.key_id = part[3]::integer;
	problem := CASE
		WHEN part IS NULL THEN 'It has not the form of one.'
		WHEN k.key_id IS NULL THEN 'Its key is not known here: it is an old one, or a wrong one.'
		-- hashed, so that the time of the comparison says nothing
		WHEN sha256(convert_to(coupon.pass_signature(array_to_string(part[1:4], '.'), k), 'UTF8')) <> sha256(convert_to(part[5], 'UTF8')) THEN 'Its signature is wrong.'
		WHEN until <= clock_timestamp() THEN 'It has ended.'
	END;
	IF problem IS NOT NULL THEN
		RAISE SQLSTATE 'UC203' USING
			MESSAGE = 'not admitted',
			DETAIL = format('The pass is not good. %s', problem),
			HINT = 'Get a new one of coupon_room_pass() at the node of the room.';
	END IF;
	INSERT INTO coupon.room_guest AS g (room_id, user_id, until)
	VALUES (part[1]::bigint, convert_from(decode(part[4], 'hex'), 'UTF8'), until)
	ON CONFLICT ON CONSTRAINT room_guest_pkey DO UPDATE SET until = excluded.until WHERE g.until < excluded.until;
	-- a few of those whose time is over
	DELETE FROM coupon.room_guest g WHERE g.ctid = ANY (ARRAY(
		SELECT x.ctid FROM coupon.room_guest x WHERE x.until < clock_timestamp() ORDER BY x.until LIMIT 2 FOR UPDATE SKIP LOCKED));
	RETURN until;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_room_admit(text) IS
	'At the node where the user has their home: believes the pass of a room of another node, which is checked by its signature alone. Returns when it ends.';

-- Status, and the laws judged from the tables.

CREATE FUNCTION @extschema@.coupon_status(
	campaign_id bigint,
	OUT stock bigint,
	OUT issued bigint,
	OUT held bigint,
	OUT in_flight bigint,
	OUT remaining bigint,
	OUT answered_issued bigint,
	OUT answered_already_issued bigint,
	OUT answered_sold_out bigint,
	OUT answered_busy bigint,
	OUT answered_not_open bigint,
	OUT answered_closed bigint,
	OUT answered_paused bigint,
	OUT answered_not_admitted bigint,
	OUT answered_held bigint)
RETURNS record
LANGUAGE c VOLATILE PARALLEL UNSAFE COST 100
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_status(bigint) IS
	'What is left of a campaign now: stock = issued + held + in_flight + remaining. answered_* count the answers of issue calls since the server started or coupon_stat_reset(). On a standby all rows of the campaign are counted: in_flight is 0, answered_* are null.';

-- RETURN, so that it is inlined.
CREATE FUNCTION coupon.campaign_state(closed_at timestamptz, closes_at timestamptz, paused boolean, opens_at timestamptz)
RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
RETURN CASE WHEN $1 IS NOT NULL OR $2 OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp() THEN 'closed'
            WHEN $3 THEN 'paused'
            WHEN $4 OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp() THEN 'not_open'
            ELSE 'open' END;
COMMENT ON FUNCTION coupon.campaign_state(timestamptz, timestamptz, boolean, timestamptz) IS 'The state of a campaign now: open | not_open | paused | closed.';

CREATE VIEW coupon.campaign_status AS
SELECT c.campaign_id, c.name,
       CASE WHEN c.dumped IS NOT NULL THEN 'restored'
            WHEN c.archived_at IS NOT NULL THEN 'ending'
            ELSE coupon.campaign_state(c.closed_at, c.closes_at, c.paused, c.opens_at) END AS state,
       s.*
  FROM coupon.campaign c, LATERAL @extschema@.coupon_status(c.campaign_id) s;
COMMENT ON VIEW coupon.campaign_status IS 'coupon_status() of every campaign.';
COMMENT ON COLUMN coupon.campaign_status.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.campaign_status.name IS 'Its name.';
COMMENT ON COLUMN coupon.campaign_status.state IS 'open | not_open | paused | closed | restored: paused until coupon_restored() has checked it | ending: coupon_campaign_archive() or coupon_campaign_drop() has begun to take its rows away';
COMMENT ON COLUMN coupon.campaign_status.stock IS 'How many units there are.';
COMMENT ON COLUMN coupon.campaign_status.issued IS 'How many are issued.';
COMMENT ON COLUMN coupon.campaign_status.held IS 'How many are held.';
COMMENT ON COLUMN coupon.campaign_status.in_flight IS 'How many are being issued by transactions that have not committed.';
COMMENT ON COLUMN coupon.campaign_status.remaining IS 'How many are free.';
COMMENT ON COLUMN coupon.campaign_status.answered_issued IS 'How many issue calls were answered issued.';
COMMENT ON COLUMN coupon.campaign_status.answered_already_issued IS 'How many were answered already_issued.';
COMMENT ON COLUMN coupon.campaign_status.answered_sold_out IS 'How many were answered sold_out.';
COMMENT ON COLUMN coupon.campaign_status.answered_busy IS 'How many were answered busy.';
COMMENT ON COLUMN coupon.campaign_status.answered_not_open IS 'How many were answered not_open.';
COMMENT ON COLUMN coupon.campaign_status.answered_closed IS 'How many were answered closed.';
COMMENT ON COLUMN coupon.campaign_status.answered_paused IS 'How many were answered paused.';
COMMENT ON COLUMN coupon.campaign_status.answered_not_admitted IS 'How many were answered not_admitted.';
COMMENT ON COLUMN coupon.campaign_status.answered_held IS 'How many were answered held.';

-- Without a campaign by sequential scans only: what a damaged index let through it
-- would also hide.  Of one campaign only its own rows are read, by the indexes, and no
-- events, which have none.  Nothing is joined by a nested loop, which without an index
-- takes the square of the rows; a restored copy has no statistics that would tell.
CREATE FUNCTION coupon.verify(
	campaign_id bigint,
	OUT campaign bigint,
	OUT law text,
	OUT serial bigint,
	OUT user_id text,
	OUT detail text)
RETURNS SETOF record
LANGUAGE plpgsql STABLE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan SET jit = off
SET enable_nestloop = off SET enable_hashjoin = on SET enable_seqscan = on SET enable_indexscan = on SET enable_indexonlyscan = on SET enable_bitmapscan = on
AS $$
#variable_conflict use_column
BEGIN
	PERFORM set_config(s, 'off', true)
	   FROM unnest(CASE WHEN $1 IS NULL THEN ARRAY['enable_indexscan', 'enable_indexonlyscan', 'enable_bitmapscan']
	                    ELSE ARRAY['enable_seqscan'] END) s;
	RETURN QUERY
	SELECT i.campaign_id, 'oversold: serial issued twice', i.serial, min(i.user_id), format('%s issuances', count(*))
	  FROM coupon.issuance i
	 WHERE $1 IS NULL OR i.campaign_id = $1
	 GROUP BY i.campaign_id, i.serial HAVING count(*) > 1
	UNION ALL
	SELECT i.campaign_id, 'oversold: serial outside the shards', i.serial, i.user_id, format('shard %s', i.shard)
	  FROM coupon.issuance i
	  LEFT JOIN coupon.shard s ON s.campaign_id = i.campaign_id AND s.shard = i.shard
	       AND i.serial BETWEEN s.first_serial AND s.last_serial
	 WHERE ($1 IS NULL OR i.campaign_id = $1) AND s.shard IS NULL
	UNION ALL
	SELECT i.campaign_id, 'oversold: withdrawn unit issued', i.serial, i.user_id, format('shard %s', i.shard)
	  FROM coupon.issuance i
	  JOIN coupon.shard s ON s.campaign_id = i.campaign_id AND s.shard = i.shard AND s.withdrawn IS NOT NULL
	 WHERE ($1 IS NULL OR i.campaign_id = $1) AND i.serial BETWEEN s.first_serial AND s.last_serial
	   AND CASE WHEN i.serial BETWEEN s.first_serial AND s.last_serial THEN get_bit(s.withdrawn, i.serial - s.first_serial) END = 1
	UNION ALL
	SELECT c.campaign_id, 'withdrawn units are counted wrong', NULL, NULL, format('%s, counted %s', coalesce(w.n, 0), c.withdrawn)
	  FROM coupon.campaign c
	  LEFT JOIN (SELECT s.campaign_id, sum(bit_count(s.withdrawn)) AS n FROM coupon.shard s
	              WHERE ($1 IS NULL OR s.campaign_id = $1) AND s.withdrawn IS NOT NULL
	              GROUP BY s.campaign_id) w ON w.campaign_id = c.campaign_id
	 WHERE ($1 IS NULL OR c.campaign_id = $1) AND coalesce(w.n, 0) <> c.withdrawn
	UNION ALL
	SELECT i.campaign_id, 'oversold: unit of another node issued', i.serial, i.user_id, format('shard %s', i.shard)
	  FROM coupon.issuance i
	  JOIN coupon.shard s ON s.campaign_id = i.campaign_id AND s.shard = i.shard AND s.away IS NOT NULL
	 WHERE ($1 IS NULL OR i.campaign_id = $1) AND i.serial BETWEEN s.first_serial AND s.last_serial
	   AND CASE WHEN i.serial BETWEEN s.first_serial AND s.last_serial THEN get_bit(s.away, i.serial - s.first_serial) END = 1
	UNION ALL
	SELECT c.campaign_id, 'units of other nodes are counted wrong', NULL, NULL, format('%s, counted %s', coalesce(w.n, 0), c.away)
	  FROM coupon.campaign c
	  LEFT JOIN (SELECT s.campaign_id, sum(bit_count(s.away)) AS n FROM coupon.shard s
	              WHERE ($1 IS NULL OR s.campaign_id = $1) AND s.away IS NOT NULL
	              GROUP BY s.campaign_id) w ON w.campaign_id = c.campaign_id
	 WHERE ($1 IS NULL OR c.campaign_id = $1) AND coalesce(w.n, 0) <> c.away
	UNION ALL
	SELECT s.campaign_id, 'shard without its campaign', s.first_serial, NULL, format('shard %s', s.shard)
	  FROM coupon.shard s LEFT JOIN coupon.campaign c ON c.campaign_id = s.campaign_id
	 WHERE ($1 IS NULL OR s.campaign_id = $1) AND c.campaign_id IS NULL
	UNION ALL
	SELECT i.campaign_id, 'per-user limit exceeded', NULL, i.user_id,
	       format('%s issuances, limit %s', count(*), c.max_per_user_limit)
	  FROM coupon.issuance i JOIN coupon.campaign c ON c.campaign_id = i.campaign_id
	 WHERE $1 IS NULL OR i.campaign_id = $1
	 GROUP BY i.campaign_id, i.user_id, c.max_per_user_limit
	HAVING count(*) > c.max_per_user_limit OR max(i.nth) > c.max_per_user_limit OR count(DISTINCT i.nth) < count(*)
	UNION ALL
	SELECT s.campaign_id, 'shards overlap or leave a gap', s.first_serial, NULL, format('shard %s', s.shard)
	  FROM (SELECT h.*, lag(h.last_serial, 1, 0::bigint) OVER w AS previous_last, row_number() OVER w - 1 AS position
	          FROM coupon.shard h WHERE $1 IS NULL OR h.campaign_id = $1
	        WINDOW w AS (PARTITION BY h.campaign_id ORDER BY h.shard)) s
	 WHERE s.first_serial <> s.previous_last + 1 OR s.shard <> s.position
	UNION ALL
	SELECT i.campaign_id, 'issued without its code', i.serial, i.user_id, NULL
	  FROM coupon.issuance i JOIN coupon.campaign c ON c.campaign_id = i.campaign_id AND c.coded
	  LEFT JOIN coupon.unit u ON u.campaign_id = i.campaign_id AND u.serial = i.serial
	 WHERE ($1 IS NULL OR i.campaign_id = $1) AND u.serial IS NULL
	UNION ALL
	SELECT i.campaign_id, 'redemption without its order, or the reverse', i.serial, i.user_id, i.state
	  FROM coupon.issuance i
	 WHERE ($1 IS NULL OR i.campaign_id = $1)
	   AND ((i.state = 'redeemed') <> (i.order_ref IS NOT NULL) OR (i.state = 'redeemed') <> (i.redeemed_at IS NOT NULL))
	UNION ALL
	SELECT i.campaign_id, 'hold without its end, or the reverse', i.serial, i.user_id, i.state
	  FROM coupon.issuance i
	 WHERE ($1 IS NULL OR i.campaign_id = $1)
	   AND ((i.state = 'held') <> (i.held_until IS NOT NULL)
	        OR i.state = 'held' AND (i.confirm_ref IS NOT NULL OR i.expires_at IS NOT NULL))
	UNION ALL
	SELECT o.campaign_id, 'event of an issuance that is not there', o.serial, o.user_id, o.id::text
	  FROM (SELECT e.id, e.type, e.key AS user_id, (e.payload->>'campaign_id')::bigint AS campaign_id,
	               (e.payload->>'serial')::bigint AS serial,
	               row_number() OVER (PARTITION BY e.payload->>'campaign_id', e.payload->>'serial'
	                                  ORDER BY e.id DESC) AS newest
	          FROM coupon.outbox e
	         WHERE e.type IN ('coupon.issued', 'coupon.redeemed', 'coupon.redeem_cancelled', 'coupon.expired', 'coupon.revoked',
	                          'coupon.held', 'coupon.confirmed', 'coupon.hold_released', 'coupon.hold_expired')
	           AND $1 IS NULL) o
	  -- the rows of a campaign that is archived or dropped are gone, and their events may wait yet
	  JOIN coupon.campaign c ON c.campaign_id = o.campaign_id AND c.archived_at IS NULL
	  LEFT JOIN coupon.issuance i ON i.campaign_id = o.campaign_id AND i.serial = o.serial AND i.user_id = o.user_id
	 WHERE o.newest = 1
	   AND ((i.serial IS NULL) <> (o.type IN ('coupon.revoked', 'coupon.hold_released', 'coupon.hold_expired'))
	        OR o.type = 'coupon.held' AND i.state <> 'held' OR o.type <> 'coupon.held' AND i.state = 'held')
	   -- one that went to another node before its event was published
	   AND NOT (i.serial IS NULL
	            AND EXISTS (SELECT FROM coupon.shard s
	                         WHERE s.campaign_id = o.campaign_id AND o.serial BETWEEN s.first_serial AND s.last_serial
	                           AND CASE WHEN s.away IS NOT NULL AND o.serial BETWEEN s.first_serial AND s.last_serial
	                                    THEN get_bit(s.away, o.serial - s.first_serial) END = 1))
	UNION ALL
	SELECT r.campaign_id, 'request with two rows', NULL, min(r.user_id), r.request_id::text
	  FROM (SELECT q.* FROM coupon.request q WHERE $1 IS NULL OR q.campaign_id = $1 OFFSET 0) r
	 GROUP BY r.campaign_id, r.request_id HAVING count(*) > 1
	UNION ALL
	SELECT r.campaign_id, 'request decided without an outcome, or the reverse', r.serial, r.user_id, r.request_id::text
	  FROM coupon.request r
	 WHERE ($1 IS NULL OR r.campaign_id = $1)
	   AND ((r.decided_at IS NULL) <> (r.outcome IS NULL)
	        OR (r.serial IS NULL) = (r.outcome IN ('issued', 'already_issued')))
	UNION ALL
	SELECT NULL, 'ticket number given twice', NULL, min(t.user_id), format('room %s, ticket %s', t.room_id, t.number)
	  FROM coupon.ticket t
	 WHERE $1 IS NULL
	 GROUP BY t.room_id, t.number HAVING count(*) > 1
	UNION ALL
	SELECT NULL, 'two live tickets of one user', NULL, t.user_id, format('room %s', t.room_id)
	  FROM coupon.ticket t
	 WHERE $1 IS NULL AND t.ended_at IS NULL
	 GROUP BY t.room_id, t.user_id HAVING count(*) > 1
	UNION ALL
	SELECT NULL, 'ticket ended without a reason, or the reverse', NULL, t.user_id, format('room %s, ticket %s', t.room_id, t.number)
	  FROM coupon.ticket t
	 WHERE $1 IS NULL AND (t.ended_at IS NULL) <> (t.reason IS NULL);
END
$$;
COMMENT ON FUNCTION coupon.verify(bigint) IS 'What coupon_verify() finds.';

CREATE FUNCTION @extschema@.coupon_verify(
	campaign_id bigint DEFAULT NULL,
	OUT campaign bigint,
	OUT law text,
	OUT serial bigint,
	OUT user_id text,
	OUT detail text)
RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT * FROM coupon.verify($1) $$;
COMMENT ON FUNCTION @extschema@.coupon_verify(bigint) IS
	'The rows that break a law of the sale, found from the tables alone; none when all is well. Without a campaign all of them are checked, and the events that are not published yet; of one campaign no other rows are read.';

-- Support and the law: what a user has, why they got nothing, and that they are forgotten.

-- Rows are added by the sweeper (src/sale/refusal.c).  A dump leaves them out.
CREATE TABLE coupon.refusal (
	user_id     text COLLATE "C" NOT NULL,
	campaign_id bigint NOT NULL,
	status      text COLLATE "C" NOT NULL,
	first_at    timestamptz NOT NULL,
	last_at     timestamptz NOT NULL,
	times       bigint NOT NULL,
	PRIMARY KEY (user_id, campaign_id, status),
	FOREIGN KEY (campaign_id) REFERENCES coupon.campaign ON DELETE CASCADE
);
CREATE INDEX refusal_campaign_idx ON coupon.refusal (campaign_id);
CREATE INDEX refusal_last_at_idx ON coupon.refusal (last_at);
COMMENT ON TABLE coupon.refusal IS 'Who was refused a unit, for campaigns that note it (coupon_campaign_note_refusals). Rows are kept for coupon.refusal_keep.';
COMMENT ON COLUMN coupon.refusal.user_id IS 'The user.';
COMMENT ON COLUMN coupon.refusal.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.refusal.status IS 'The answer: sold_out | busy | not_open | closed | paused | not_admitted; of a request also: full.';
COMMENT ON COLUMN coupon.refusal.first_at IS 'When they were answered so for the first time.';
COMMENT ON COLUMN coupon.refusal.last_at IS 'When they were answered so for the last time.';
COMMENT ON COLUMN coupon.refusal.times IS 'How often.';

-- Requests and tickets, without what only their owners are to know: ids and keys of
-- requests, tokens of tickets.
CREATE VIEW coupon.user_request AS
SELECT r.user_id, r.campaign_id, r.requested_at, r.decided_at, r.outcome, r.serial
  FROM coupon.request r;
COMMENT ON VIEW coupon.user_request IS 'Requests, without their ids and keys.';
COMMENT ON COLUMN coupon.user_request.user_id IS 'The user.';
COMMENT ON COLUMN coupon.user_request.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.user_request.requested_at IS 'When it was accepted.';
COMMENT ON COLUMN coupon.user_request.decided_at IS 'When it was decided; null: it waits.';
COMMENT ON COLUMN coupon.user_request.outcome IS 'How; null: it waits.';
COMMENT ON COLUMN coupon.user_request.serial IS 'The unit that the user has; null: none.';

CREATE VIEW coupon.user_ticket AS
SELECT t.user_id, o.name AS room, t.number, t.joined_at, t.admitted_at, t.ended_at, t.reason
  FROM coupon.ticket t LEFT JOIN coupon.room o ON o.room_id OPERATOR(pg_catalog.=) t.room_id;
COMMENT ON VIEW coupon.user_ticket IS 'Tickets of waiting rooms, without their tokens.';
COMMENT ON COLUMN coupon.user_ticket.user_id IS 'The user.';
COMMENT ON COLUMN coupon.user_ticket.room IS 'The room; null: it was deleted.';
COMMENT ON COLUMN coupon.user_ticket.number IS 'The number of the ticket, in the order of arrival.';
COMMENT ON COLUMN coupon.user_ticket.joined_at IS 'When the user came.';
COMMENT ON COLUMN coupon.user_ticket.admitted_at IS 'When they were admitted; null: not yet.';
COMMENT ON COLUMN coupon.user_ticket.ended_at IS 'When the ticket ended; null: it waits or is admitted.';
COMMENT ON COLUMN coupon.user_ticket.reason IS 'Why it ended.';

CREATE FUNCTION coupon.check_user(user_id text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF user_id IS NULL THEN
		RAISE null_value_not_allowed USING MESSAGE = 'user_id must not be null', DETAIL = 'It says whose rows are meant.', HINT = 'Pass a user.';
	ELSIF octet_length(user_id) NOT BETWEEN 1 AND 256 THEN
		RAISE invalid_parameter_value USING MESSAGE = 'invalid user_id', DETAIL = format('The value has %s bytes.', octet_length(user_id)), HINT = 'Use 1 to 256 bytes.';
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.check_user(text) IS 'An ERROR for what is no user.';

-- Where a user's rows are: by an index on user_id, if the DBA has made one, else by
-- one look into the index of users for each campaign.
CREATE FUNCTION coupon.units_of(wanted text) RETURNS SETOF coupon.issuance
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
AS $$
BEGIN
	IF EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
	            WHERE i.indrelid = 'coupon.issuance'::regclass AND a.attname = 'user_id' AND i.indisvalid AND i.indpred IS NULL) THEN
		RETURN QUERY SELECT i.* FROM coupon.issuance i WHERE i.user_id = wanted;
	ELSE
		RETURN QUERY SELECT x.* FROM coupon.campaign c,
			LATERAL (SELECT i.* FROM coupon.issuance i WHERE i.campaign_id = c.campaign_id AND i.user_id = wanted OFFSET 0) x;
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.units_of(text) IS 'The issuances of a user, of all campaigns.';

CREATE FUNCTION coupon.user_issuances(
	wanted text, OUT campaign_id bigint, OUT name text, OUT serial bigint, OUT state text, OUT issued_at timestamptz, OUT expires_at timestamptz,
	OUT held_until timestamptz, OUT redeemed_at timestamptz, OUT order_ref text, OUT confirm_ref text)
RETURNS SETOF record
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM coupon.check_user(wanted);
	RETURN QUERY SELECT i.campaign_id, c.name, i.serial, i.state, i.issued_at, i.expires_at, i.held_until, i.redeemed_at, i.order_ref, i.confirm_ref
		  FROM coupon.units_of(wanted) i JOIN coupon.campaign c ON c.campaign_id = i.campaign_id
		 ORDER BY i.issued_at, i.campaign_id, i.serial;
END
$$;
COMMENT ON FUNCTION coupon.user_issuances(text) IS 'What a user has; see coupon_user_issuances().';

CREATE FUNCTION @extschema@.coupon_user_issuances(
	user_id text, OUT campaign_id bigint, OUT name text, OUT serial bigint, OUT state text, OUT issued_at timestamptz, OUT expires_at timestamptz,
	OUT held_until timestamptz, OUT redeemed_at timestamptz, OUT order_ref text, OUT confirm_ref text)
RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT u.* FROM coupon.user_issuances($1::text COLLATE "C") u
$$;
COMMENT ON FUNCTION @extschema@.coupon_user_issuances(text) IS
	'What a user has over all campaigns, the oldest first. Codes are not told.';

CREATE FUNCTION @extschema@.coupon_user_issuances(
	user_id bigint, OUT campaign_id bigint, OUT name text, OUT serial bigint, OUT state text, OUT issued_at timestamptz, OUT expires_at timestamptz,
	OUT held_until timestamptz, OUT redeemed_at timestamptz, OUT order_ref text, OUT confirm_ref text)
RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT u.* FROM coupon.user_issuances($1::text COLLATE "C") u
$$;
COMMENT ON FUNCTION @extschema@.coupon_user_issuances(bigint) IS
	'What a user has over all campaigns, the oldest first. Codes are not told.';

CREATE FUNCTION @extschema@.coupon_user_issuances(
	user_id uuid, OUT campaign_id bigint, OUT name text, OUT serial bigint, OUT state text, OUT issued_at timestamptz, OUT expires_at timestamptz,
	OUT held_until timestamptz, OUT redeemed_at timestamptz, OUT order_ref text, OUT confirm_ref text)
RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT u.* FROM coupon.user_issuances($1::text COLLATE "C") u
$$;
COMMENT ON FUNCTION @extschema@.coupon_user_issuances(uuid) IS
	'What a user has over all campaigns, the oldest first. Codes are not told.';

CREATE FUNCTION @extschema@.coupon_campaign_note_refusals(campaign_id bigint, note boolean DEFAULT true) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	was boolean;
BEGIN
	IF $2 IS NULL THEN
		RAISE null_value_not_allowed USING MESSAGE = 'note must not be null', DETAIL = 'It says whether refusals are noted.', HINT = 'Pass true or false.';
	END IF;
	SELECT c.note_refusals INTO was FROM coupon.campaign c WHERE c.campaign_id = $1 FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RAISE SQLSTATE 'UC001' USING
			MESSAGE = 'unknown campaign',
			DETAIL = format('There is no campaign %s.', coalesce($1::text, 'null')),
			HINT = 'Use an id that coupon_campaign_create() returned; coupon.campaign lists them.';
	END IF;
	IF was <> $2 THEN
		UPDATE coupon.campaign c SET note_refusals = $2 WHERE c.campaign_id = $1;
	END IF;
	RETURN was <> $2;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_campaign_note_refusals(bigint, boolean) IS
	'From the commit on coupon.refusal tells who is refused a unit of the campaign, and why; or no longer. Returns whether this call changed it.';

CREATE FUNCTION coupon.user_refusals(wanted text, OUT campaign_id bigint, OUT status text, OUT first_at timestamptz, OUT last_at timestamptz, OUT times bigint)
RETURNS SETOF record
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM coupon.check_user(wanted);
	RETURN QUERY SELECT r.campaign_id, r.status, r.first_at, r.last_at, r.times FROM coupon.refusal r WHERE r.user_id = wanted ORDER BY r.first_at, r.campaign_id, r.status;
END
$$;
COMMENT ON FUNCTION coupon.user_refusals(text) IS 'Why a user got nothing; see coupon_user_refusals().';

CREATE FUNCTION @extschema@.coupon_user_refusals(user_id text, OUT campaign_id bigint, OUT status text, OUT first_at timestamptz, OUT last_at timestamptz, OUT times bigint)
RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT u.* FROM coupon.user_refusals($1::text COLLATE "C") u
$$;
COMMENT ON FUNCTION @extschema@.coupon_user_refusals(text) IS
	'Why a user got nothing: how they were refused, by campaigns that note it. What was refused in the last second may be missing.';

CREATE FUNCTION @extschema@.coupon_user_refusals(user_id bigint, OUT campaign_id bigint, OUT status text, OUT first_at timestamptz, OUT last_at timestamptz, OUT times bigint)
RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT u.* FROM coupon.user_refusals($1::text COLLATE "C") u
$$;
COMMENT ON FUNCTION @extschema@.coupon_user_refusals(bigint) IS
	'Why a user got nothing: how they were refused, by campaigns that note it. What was refused in the last second may be missing.';

CREATE FUNCTION @extschema@.coupon_user_refusals(user_id uuid, OUT campaign_id bigint, OUT status text, OUT first_at timestamptz, OUT last_at timestamptz, OUT times bigint)
RETURNS SETOF record
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT u.* FROM coupon.user_refusals($1::text COLLATE "C") u
$$;
COMMENT ON FUNCTION @extschema@.coupon_user_refusals(uuid) IS
	'Why a user got nothing: how they were refused, by campaigns that note it. What was refused in the last second may be missing.';

-- ---- erasing ----

CREATE FUNCTION coupon.refusal_forget(user_id text) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'coupon_refusal_forget';
COMMENT ON FUNCTION coupon.refusal_forget(text) IS 'Drops what is noted of a user and not written to coupon.refusal yet.';

CREATE FUNCTION coupon.erase_ticket(token text, reason text) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'coupon_queue_leave';
COMMENT ON FUNCTION coupon.erase_ticket(text, text) IS 'coupon_queue_leave(), for coupon_user_erase().';

CREATE FUNCTION coupon.erase_queues(user_id text, pseudonym text, tickets boolean) RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'coupon_erase_queues';
COMMENT ON FUNCTION coupon.erase_queues(text, text, boolean) IS 'Renames a user in requests that are decided, or in tickets that have ended.';

CREATE FUNCTION coupon.erase_events(user_id text, pseudonym text, topics text[]) RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'coupon_erase_events';
COMMENT ON FUNCTION coupon.erase_events(text, text, text[]) IS 'Renames a user in events that are not published, and appends coupon.user_erased for each topic.';

CREATE FUNCTION coupon.renamed(payload json, old_name text, new_name text) RETURNS json
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF json_typeof(payload) <> 'object' THEN
		RETURN payload;
	END IF;
	RETURN coalesce((SELECT json_object_agg(e.key,
			CASE WHEN e.key = 'user_id' AND e.value #>> '{}' = old_name THEN to_json(new_name)
			     WHEN e.key = 'payload' THEN coupon.renamed(e.value, old_name, new_name)
			     ELSE e.value END)
		FROM json_each(payload) e), payload);
END
$$;
COMMENT ON FUNCTION coupon.renamed(json, text, text) IS 'The payload of an event with another user_id; also of the event that a dead letter has inside.';

-- STABLE, so that it sees what the statement sees that takes the events.
CREATE FUNCTION coupon.has_unit(event text, payload json, wanted text) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN event LIKE 'coupon.%' AND EXISTS (
		SELECT FROM coupon.issuance i
		 WHERE i.campaign_id = (payload->>'campaign_id')::bigint AND i.serial = (payload->>'serial')::bigint AND i.user_id = wanted);
END
$$;
COMMENT ON FUNCTION coupon.has_unit(text, json, text) IS 'Whether the user still has the unit that an event tells of.';

CREATE FUNCTION coupon.pseudonym_for(user_id text) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	pseudonym text;
BEGIN
	-- on a node it moves to others with the slot of the user, and so is of the same slot
	LOOP
		pseudonym := 'erased-' || gen_random_uuid();
		EXIT WHEN NOT EXISTS (SELECT FROM coupon.node_self) OR coupon.slot_of(pseudonym) = coupon.slot_of($1);
	END LOOP;
	RETURN pseudonym;
END
$$;
COMMENT ON FUNCTION coupon.pseudonym_for(text) IS 'A random name in place of a user''s.';

CREATE FUNCTION coupon.erase_user(
	erased text, OUT issuances bigint, OUT requests bigint, OUT tickets bigint, OUT events bigint, OUT others bigint, OUT waiting bigint)
RETURNS record
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	-- random: nobody can compute it from the user, nor the user from it
	pseudonym CONSTANT text := coupon.pseudonym_for(erased);
	-- of whom held a unit since then a payment may come yet, which has to find them
	remembered_since CONSTANT timestamptz := clock_timestamp() - current_setting('coupon.hold_keep')::interval;
	topics text[];
	n bigint;
BEGIN
	PERFORM coupon.check_user(erased);
	-- who waits in a room or is admitted leaves it first: shared memory knows them by name
	PERFORM coupon.erase_ticket(t.room_id || '.' || t.number || '.' || replace(t.secret::text, '-', ''), 'erased')
	   FROM coupon.ticket t WHERE t.user_id = erased AND t.ended_at IS NULL;

	UPDATE coupon.issuance i SET user_id = pseudonym
	  FROM (SELECT u.campaign_id, u.serial FROM coupon.units_of(erased) u) o
	 WHERE i.campaign_id = o.campaign_id AND i.serial = o.serial AND i.user_id = erased AND i.state <> 'held';
	GET DIAGNOSTICS issuances = ROW_COUNT;
	requests := coupon.erase_queues(erased, pseudonym, false);
	tickets := coupon.erase_queues(erased, pseudonym, true);

	UPDATE coupon.lapsed_hold l SET user_id = pseudonym WHERE l.user_id = erased AND l.held_until < remembered_since;
	GET DIAGNOSTICS others = ROW_COUNT;
	DELETE FROM coupon.request_key k WHERE k.user_id = erased;
	GET DIAGNOSTICS n = ROW_COUNT;
	others := others + n;
	DELETE FROM coupon.room_guest g WHERE g.user_id = erased;
	GET DIAGNOSTICS n = ROW_COUNT;
	others := others + n;
	UPDATE coupon.dead_letter d SET key = pseudonym, payload = coupon.renamed(d.payload, erased, pseudonym)
	 WHERE d.key = erased AND d.type NOT LIKE 'coupon.campaign\_%'
	   AND NOT (d.type = 'coupon.dead_letter' AND d.payload->>'type' LIKE 'coupon.campaign\_%');
	GET DIAGNOSTICS n = ROW_COUNT;
	others := others + n;
	PERFORM coupon.refusal_forget(erased);
	UPDATE coupon.refusal r SET user_id = pseudonym WHERE r.user_id = erased;
	GET DIAGNOSTICS n = ROW_COUNT;
	others := others + n;

	-- Whatever topic may have told of the user: no row needs to be left of a unit that was
	-- revoked or released.
	SELECT array_agg(DISTINCT c.topic) INTO topics FROM coupon.campaign c;
	-- last: whatever was waited for above has its events committed by now
	events := coupon.erase_events(erased, pseudonym, coalesce(topics, '{}'));
	waiting := (SELECT count(*) FROM coupon.request r WHERE r.user_id = erased AND r.decided_at IS NULL)
		+ (SELECT count(*) FROM coupon.units_of(erased) u WHERE u.state = 'held')
		+ (SELECT count(*) FROM coupon.lapsed_hold l WHERE l.user_id = erased AND l.held_until >= remembered_since)
		-- whatever is on its way to another node has the name yet
		+ (SELECT count(*) FROM coupon.slot_parcel p WHERE p.state = 'sent' AND coupon.slot_of(erased) = ANY (p.slots));
END
$$;
COMMENT ON FUNCTION coupon.erase_user(text) IS 'See coupon_user_erase().';

CREATE FUNCTION @extschema@.coupon_user_erase(
	user_id text, OUT issuances bigint, OUT requests bigint, OUT tickets bigint, OUT events bigint, OUT others bigint, OUT waiting bigint)
RETURNS record
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT e.* FROM coupon.erase_user($1::text COLLATE "C") e
$$;
COMMENT ON FUNCTION @extschema@.coupon_user_erase(text) IS
	'Forgets a user: one random pseudonym takes their place in issuances, decided requests, tickets, dead letters, refusals and events that are not published; an event coupon.user_erased tells consumers. Returns how many rows of each, and how many requests and holds wait, for a decision or a payment, and have to be erased again.';

CREATE FUNCTION @extschema@.coupon_user_erase(
	user_id bigint, OUT issuances bigint, OUT requests bigint, OUT tickets bigint, OUT events bigint, OUT others bigint, OUT waiting bigint)
RETURNS record
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT e.* FROM coupon.erase_user($1::text COLLATE "C") e
$$;
COMMENT ON FUNCTION @extschema@.coupon_user_erase(bigint) IS
	'Forgets a user: one random pseudonym takes their place in issuances, decided requests, tickets, dead letters, refusals and events that are not published; an event coupon.user_erased tells consumers. Returns how many rows of each, and how many requests and holds wait, for a decision or a payment, and have to be erased again.';

CREATE FUNCTION @extschema@.coupon_user_erase(
	user_id uuid, OUT issuances bigint, OUT requests bigint, OUT tickets bigint, OUT events bigint, OUT others bigint, OUT waiting bigint)
RETURNS record
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT e.* FROM coupon.erase_user($1::text COLLATE "C") e
$$;
COMMENT ON FUNCTION @extschema@.coupon_user_erase(uuid) IS
	'Forgets a user: one random pseudonym takes their place in issuances, decided requests, tickets, dead letters, refusals and events that are not published; an event coupon.user_erased tells consumers. Returns how many rows of each, and how many requests and holds wait, for a decision or a payment, and have to be erased again.';

-- Statistics: counters, histograms and what is open now, in shared memory, of
-- this database.  They count from stats_reset on: coupon_stat_reset(), or the
-- server's start.  Nothing here tells of a user.

CREATE FUNCTION coupon.stat_since() RETURNS timestamptz
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'coupon_stat_since';
COMMENT ON FUNCTION coupon.stat_since() IS 'From when on statistics count.';

CREATE FUNCTION @extschema@.coupon_stat_reset() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_stat_reset() IS
	'The counters of coupon.stat_* begin anew, at once and for all sessions of this database.';

-- ---- calls ----

CREATE FUNCTION coupon.stat_calls(OUT way text, OUT outcome text, OUT calls bigint) RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 400 AS 'MODULE_PATHNAME', 'coupon_stat_calls';
COMMENT ON FUNCTION coupon.stat_calls() IS 'coupon.stat_call';

CREATE FUNCTION coupon.stat_errors(OUT way text, OUT class text, OUT errors bigint) RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 20 AS 'MODULE_PATHNAME', 'coupon_stat_errors';
COMMENT ON FUNCTION coupon.stat_errors() IS 'coupon.stat_error';

CREATE FUNCTION coupon.stat_ways(
	OUT way text, OUT calls bigint, OUT errors bigint, OUT aborted bigint, OUT seconds double precision,
	OUT p50 double precision, OUT p95 double precision, OUT p99 double precision) RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 21 AS 'MODULE_PATHNAME', 'coupon_stat_ways';
COMMENT ON FUNCTION coupon.stat_ways() IS 'coupon.stat_way';

CREATE FUNCTION coupon.stat_latencies(OUT way text, OUT upper double precision, OUT calls bigint) RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 900 AS 'MODULE_PATHNAME', 'coupon_stat_latencies';
COMMENT ON FUNCTION coupon.stat_latencies() IS 'coupon.stat_latency';

CREATE FUNCTION coupon.stat_batches(OUT way text, OUT batches bigint, OUT items bigint, OUT largest bigint) RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 4 AS 'MODULE_PATHNAME', 'coupon_stat_batches';
COMMENT ON FUNCTION coupon.stat_batches() IS 'coupon.stat_batch';

CREATE FUNCTION coupon.stat_tallies(OUT name text, OUT value bigint) RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'coupon_stat_tallies';
COMMENT ON FUNCTION coupon.stat_tallies() IS 'What is counted beside calls: coupon.stat_stock, coupon.stat_memory and coupon.stat_front show it.';

CREATE VIEW coupon.stat_call AS
SELECT s.way, s.outcome, s.calls, coupon.stat_since() AS stats_reset FROM coupon.stat_calls() s;
COMMENT ON VIEW coupon.stat_call IS 'Calls by way in and outcome: one for each user or unit that was asked for, counted when the transaction ends.';
COMMENT ON COLUMN coupon.stat_call.way IS 'issue | many | grouped | http_issue | request | decision | hold | hold_many | hold_any | confirm | release | redeem | cancel | revoke | join | http | http_waited | http_stream | http_operator | http_front | commit';
COMMENT ON COLUMN coupon.stat_call.outcome IS 'The answer; aborted: there was one, and its transaction or savepoint was rolled back; error: an ERROR instead. Of http ways the status.';
COMMENT ON COLUMN coupon.stat_call.calls IS 'How many.';
COMMENT ON COLUMN coupon.stat_call.stats_reset IS 'From when on.';

CREATE VIEW coupon.stat_error AS
SELECT s.way, s.class, s.errors, coupon.stat_since() AS stats_reset FROM coupon.stat_errors() s;
COMMENT ON VIEW coupon.stat_error IS 'Calls that ended with an ERROR, by the class of its SQLSTATE, where there are any.';
COMMENT ON COLUMN coupon.stat_error.way IS 'The way in.';
COMMENT ON COLUMN coupon.stat_error.class IS 'The first two characters of the SQLSTATE, or other.';
COMMENT ON COLUMN coupon.stat_error.errors IS 'How many.';
COMMENT ON COLUMN coupon.stat_error.stats_reset IS 'From when on.';

CREATE VIEW coupon.stat_way AS
SELECT s.way, s.calls, s.errors, s.aborted, s.seconds, s.p50, s.p95, s.p99, coupon.stat_since() AS stats_reset FROM coupon.stat_ways() s;
COMMENT ON VIEW coupon.stat_way IS 'Each way in at a glance: how many calls, and how long they took, in seconds.';
COMMENT ON COLUMN coupon.stat_way.way IS 'The way in.';
COMMENT ON COLUMN coupon.stat_way.calls IS 'All calls, whatever came of them.';
COMMENT ON COLUMN coupon.stat_way.errors IS 'Those among them that ended with an ERROR.';
COMMENT ON COLUMN coupon.stat_way.aborted IS 'Those that had an answer and were rolled back.';
COMMENT ON COLUMN coupon.stat_way.seconds IS 'How long all of them took together.';
COMMENT ON COLUMN coupon.stat_way.p50 IS 'Half of them took no longer, by the histogram: at most 1.67 times too much.';
COMMENT ON COLUMN coupon.stat_way.p95 IS '95 of 100 took no longer.';
COMMENT ON COLUMN coupon.stat_way.p99 IS '99 of 100 took no longer.';
COMMENT ON COLUMN coupon.stat_way.stats_reset IS 'From when on.';

CREATE VIEW coupon.stat_latency AS
SELECT s.way, s.upper, s.calls, coupon.stat_since() AS stats_reset FROM coupon.stat_latencies() s;
COMMENT ON VIEW coupon.stat_latency IS 'How long calls took: a histogram for each way in, from the start of a call to the end of its commit, or to its answer.';
COMMENT ON COLUMN coupon.stat_latency.way IS 'The way in.';
COMMENT ON COLUMN coupon.stat_latency.upper IS 'Seconds; infinity for all.';
COMMENT ON COLUMN coupon.stat_latency.calls IS 'How many took no longer.';
COMMENT ON COLUMN coupon.stat_latency.stats_reset IS 'From when on.';

CREATE VIEW coupon.stat_batch AS
SELECT s.way, s.batches, s.items, s.largest, coupon.stat_since() AS stats_reset FROM coupon.stat_batches() s;
COMMENT ON VIEW coupon.stat_batch IS 'What was worked off together, in one transaction or call.';
COMMENT ON COLUMN coupon.stat_batch.way IS 'many | grouped | http_issue | decision';
COMMENT ON COLUMN coupon.stat_batch.batches IS 'How many batches.';
COMMENT ON COLUMN coupon.stat_batch.items IS 'How many users there were in them.';
COMMENT ON COLUMN coupon.stat_batch.largest IS 'Most users of a batch.';
COMMENT ON COLUMN coupon.stat_batch.stats_reset IS 'From when on.';

-- ---- campaigns, stock, memory ----

CREATE FUNCTION coupon.stat_campaigns(
	apart bigint[], OUT campaign_id bigint, OUT map_bytes bigint,
	OUT answered_issued bigint, OUT answered_already_issued bigint, OUT answered_sold_out bigint, OUT answered_busy bigint,
	OUT answered_not_open bigint, OUT answered_closed bigint, OUT answered_paused bigint, OUT answered_not_admitted bigint,
	OUT answered_held bigint) RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'coupon_stat_campaigns';
COMMENT ON FUNCTION coupon.stat_campaigns(bigint[]) IS 'coupon.stat_campaign; given some campaigns those, and the sum of all others in a row without an id.';

CREATE FUNCTION coupon.stat_slots(
	OUT campaigns bigint, OUT max_campaigns bigint, OUT maps bigint, OUT map_bytes bigint, OUT map_memory_bytes bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'coupon_stat_memory';
COMMENT ON FUNCTION coupon.stat_slots() IS 'coupon.stat_memory';

CREATE VIEW coupon.stat_campaign AS
SELECT s.campaign_id, c.name, coupon.campaign_state(c.closed_at, c.closes_at, c.paused OR c.dumped IS NOT NULL, c.opens_at) AS state, s.map_bytes,
       s.answered_issued, s.answered_already_issued, s.answered_sold_out, s.answered_busy, s.answered_not_open, s.answered_closed,
       s.answered_paused, s.answered_not_admitted, s.answered_held, coupon.stat_since() AS stats_reset
  FROM coupon.stat_campaigns(NULL::bigint[]) s JOIN coupon.campaign c ON c.campaign_id OPERATOR(pg_catalog.=) s.campaign_id;
COMMENT ON VIEW coupon.stat_campaign IS 'The answers of each campaign that shared memory knows, by any way in. A campaign that was not used for long may be forgotten, and counts anew.';
COMMENT ON COLUMN coupon.stat_campaign.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.stat_campaign.name IS 'Its name.';
COMMENT ON COLUMN coupon.stat_campaign.state IS 'open | not_open | paused | closed';
COMMENT ON COLUMN coupon.stat_campaign.map_bytes IS 'The memory of its stock map; null: it has none at the moment.';
COMMENT ON COLUMN coupon.stat_campaign.answered_issued IS 'How many issues were committed.';
COMMENT ON COLUMN coupon.stat_campaign.answered_already_issued IS 'How many calls were answered already_issued, rolled back or not.';
COMMENT ON COLUMN coupon.stat_campaign.answered_sold_out IS 'How many were answered sold_out.';
COMMENT ON COLUMN coupon.stat_campaign.answered_busy IS 'How many were answered busy.';
COMMENT ON COLUMN coupon.stat_campaign.answered_not_open IS 'How many were answered not_open.';
COMMENT ON COLUMN coupon.stat_campaign.answered_closed IS 'How many were answered closed.';
COMMENT ON COLUMN coupon.stat_campaign.answered_paused IS 'How many were answered paused.';
COMMENT ON COLUMN coupon.stat_campaign.answered_not_admitted IS 'How many were answered not_admitted.';
COMMENT ON COLUMN coupon.stat_campaign.answered_held IS 'How many were answered held.';
COMMENT ON COLUMN coupon.stat_campaign.stats_reset IS 'From when on.';

CREATE VIEW coupon.stat_stock AS
SELECT pg_catalog.max(t.value) FILTER (WHERE t.name OPERATOR(pg_catalog.=) 'map_builds') AS map_builds,
       pg_catalog.max(t.value) FILTER (WHERE t.name OPERATOR(pg_catalog.=) 'map_checks') AS map_checks,
       pg_catalog.max(t.value) FILTER (WHERE t.name OPERATOR(pg_catalog.=) 'false_hints') AS false_hints,
       pg_catalog.max(t.value) FILTER (WHERE t.name OPERATOR(pg_catalog.=) 'waits') AS waits,
       pg_catalog.max(t.value) FILTER (WHERE t.name OPERATOR(pg_catalog.=) 'retries') AS retries,
       coupon.stat_since() AS stats_reset
  FROM coupon.stat_tallies() t;
COMMENT ON VIEW coupon.stat_stock IS 'What stock maps cost, and what calls had to do again.';
COMMENT ON COLUMN coupon.stat_stock.map_builds IS 'Shards of stock maps that were read from the index.';
COMMENT ON COLUMN coupon.stat_stock.map_checks IS 'Shards that were compared with the index again, before a campaign was called sold out.';
COMMENT ON COLUMN coupon.stat_stock.false_hints IS 'Units that a map called free, and the index did not: each cost a refused insertion.';
COMMENT ON COLUMN coupon.stat_stock.waits IS 'Sleeps for units that other transactions have in flight.';
COMMENT ON COLUMN coupon.stat_stock.retries IS 'Further rounds of a batch, waits for a unit that is busy, batches done again after an ERROR.';
COMMENT ON COLUMN coupon.stat_stock.stats_reset IS 'From when on.';

CREATE VIEW coupon.stat_memory AS
SELECT m.campaigns, m.max_campaigns, m.maps, m.map_bytes, m.map_memory_bytes,
       (SELECT t.value FROM coupon.stat_tallies() t WHERE t.name OPERATOR(pg_catalog.=) 'map_evictions') AS map_evictions,
       (SELECT t.value FROM coupon.stat_tallies() t WHERE t.name OPERATOR(pg_catalog.=) 'campaign_evictions') AS campaign_evictions,
       coupon.stat_since() AS stats_reset
  FROM coupon.stat_slots() m;
COMMENT ON VIEW coupon.stat_memory IS 'Shared memory for campaigns: what the whole server uses, and what sessions of this database had to push out.';
COMMENT ON COLUMN coupon.stat_memory.campaigns IS 'Campaigns in use.';
COMMENT ON COLUMN coupon.stat_memory.max_campaigns IS 'How many there may be: coupon.max_campaigns.';
COMMENT ON COLUMN coupon.stat_memory.maps IS 'Stock maps.';
COMMENT ON COLUMN coupon.stat_memory.map_bytes IS 'What maps and definitions take.';
COMMENT ON COLUMN coupon.stat_memory.map_memory_bytes IS 'What they may take: coupon.stock_map_memory.';
COMMENT ON COLUMN coupon.stat_memory.map_evictions IS 'Maps of idle campaigns that made room for others.';
COMMENT ON COLUMN coupon.stat_memory.campaign_evictions IS 'Campaigns that were forgotten for others.';
COMMENT ON COLUMN coupon.stat_memory.stats_reset IS 'From when on evictions count.';

-- ---- queues, rooms, outbox ----

CREATE FUNCTION coupon.stat_clock_ahead() RETURNS double precision
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'coupon_stat_clock_ahead';
COMMENT ON FUNCTION coupon.stat_clock_ahead() IS 'By how many seconds the ids of events are ahead of the clock.';

CREATE VIEW coupon.stat_queue AS
SELECT q.campaign AS campaign_id, q.depth AS waiting, COALESCE(EXTRACT(epoch FROM q.oldest), 0)::double precision AS oldest_seconds,
       q.decided, q.decided_per_second, q.depth_limit AS waiting_limit, coupon.stat_since() AS stats_reset
  FROM @extschema@.coupon_request_queue() q;
COMMENT ON VIEW coupon.stat_queue IS 'The requests of each campaign that shared memory knows.';
COMMENT ON COLUMN coupon.stat_queue.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.stat_queue.waiting IS 'How many wait.';
COMMENT ON COLUMN coupon.stat_queue.oldest_seconds IS 'How long the oldest has waited.';
COMMENT ON COLUMN coupon.stat_queue.decided IS 'How many were decided; a campaign that nobody asks for may be forgotten, and counts anew.';
COMMENT ON COLUMN coupon.stat_queue.decided_per_second IS 'How many were decided a second when it last decided.';
COMMENT ON COLUMN coupon.stat_queue.waiting_limit IS 'How many may wait: coupon.request_depth.';
COMMENT ON COLUMN coupon.stat_queue.stats_reset IS 'From when on decided counts.';

CREATE VIEW coupon.stat_room AS
SELECT r.room_id, r.name, r.state, r.capacity, r.waiting, r.admitted, r.joined, r.served, r.served_per_second,
       coupon.stat_since() AS stats_reset
  FROM coupon.room_status r;
COMMENT ON VIEW coupon.stat_room IS 'The flow of each waiting room.';
COMMENT ON COLUMN coupon.stat_room.room_id IS 'The room.';
COMMENT ON COLUMN coupon.stat_room.name IS 'Its name.';
COMMENT ON COLUMN coupon.stat_room.state IS 'open | not_open | paused';
COMMENT ON COLUMN coupon.stat_room.capacity IS 'How many may be admitted at a time.';
COMMENT ON COLUMN coupon.stat_room.waiting IS 'How many wait.';
COMMENT ON COLUMN coupon.stat_room.admitted IS 'How many are admitted.';
COMMENT ON COLUMN coupon.stat_room.joined IS 'How many tickets were given, ever.';
COMMENT ON COLUMN coupon.stat_room.served IS 'How many were admitted.';
COMMENT ON COLUMN coupon.stat_room.served_per_second IS 'How many were admitted a second when it last admitted.';
COMMENT ON COLUMN coupon.stat_room.stats_reset IS 'From when on served counts.';

-- The setting is a superuser's to see.
CREATE FUNCTION coupon.has_broker() RETURNS boolean
LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT current_setting('coupon.kafka_brokers') <> '' $$;
COMMENT ON FUNCTION coupon.has_broker() IS 'Whether coupon.kafka_brokers names a broker.';

CREATE VIEW coupon.stat_outbox AS
SELECT o.unpublished, COALESCE(EXTRACT(epoch FROM o.oldest_age), 0)::double precision AS oldest_seconds,
       COALESCE(EXTRACT(epoch FROM o.blocking_age), 0)::double precision AS blocking_seconds, o.size_bytes,
       (SELECT pg_catalog.count(*) FROM (SELECT FROM coupon.outbox_parked LIMIT 10000) p) AS parked,
       coupon.stat_clock_ahead() AS clock_ahead_seconds, o.in_flight, o.published, o.retried, o.dead, o.dead_letters,
       coupon.has_broker() AS configured,
       o.broker OPERATOR(pg_catalog.=) 'up' AS connected,
       o.last_error_at IS NOT NULL AND (o.last_ack_at IS NULL OR o.last_error_at OPERATOR(pg_catalog.>) o.last_ack_at) AS failing,
       o.refused_topics IS NOT NULL AS refused_topics, coupon.stat_since() AS stats_reset
  FROM @extschema@.coupon_outbox_status(false) o;
COMMENT ON VIEW coupon.stat_outbox IS 'The outbox and its publisher in numbers: coupon_outbox_status() has the texts, and counts exactly.';
COMMENT ON COLUMN coupon.stat_outbox.unpublished IS 'Events that are not published; of an outbox of more than 16 MB an estimate.';
COMMENT ON COLUMN coupon.stat_outbox.oldest_seconds IS 'How old the oldest of them is.';
COMMENT ON COLUMN coupon.stat_outbox.blocking_seconds IS 'How long the oldest open transaction that uses the outbox has run.';
COMMENT ON COLUMN coupon.stat_outbox.size_bytes IS 'The size of the outbox''s tables.';
COMMENT ON COLUMN coupon.stat_outbox.parked IS 'Events that are put aside, for the topic is refused; at most 10000 are counted.';
COMMENT ON COLUMN coupon.stat_outbox.clock_ahead_seconds IS 'By how much the ids of events are ahead of the clock, which was set back.';
COMMENT ON COLUMN coupon.stat_outbox.in_flight IS 'Events that are sent and not acknowledged.';
COMMENT ON COLUMN coupon.stat_outbox.published IS 'Events that the broker acknowledged.';
COMMENT ON COLUMN coupon.stat_outbox.retried IS 'Events that were sent again.';
COMMENT ON COLUMN coupon.stat_outbox.dead IS 'Events that became dead letters.';
COMMENT ON COLUMN coupon.stat_outbox.dead_letters IS 'Dead letters that there are; at most 10000 are counted.';
COMMENT ON COLUMN coupon.stat_outbox.configured IS 'Whether coupon.kafka_brokers names a broker.';
COMMENT ON COLUMN coupon.stat_outbox.connected IS 'Whether a broker is reached.';
COMMENT ON COLUMN coupon.stat_outbox.failing IS 'Whether the last thing that the publisher did was to fail.';
COMMENT ON COLUMN coupon.stat_outbox.refused_topics IS 'Whether the broker refuses a topic.';
COMMENT ON COLUMN coupon.stat_outbox.stats_reset IS 'From when on published, retried and dead count.';

-- ---- workers, the front ----

CREATE FUNCTION coupon.stat_workers(
	OUT kind text, OUT instance integer, OUT wanted boolean, OUT pid integer, OUT started_at timestamptz,
	OUT starts bigint, OUT errors bigint, OUT wakes bigint, OUT cycles bigint) RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'coupon_stat_workers';
COMMENT ON FUNCTION coupon.stat_workers() IS 'coupon.stat_worker, without the front';

CREATE FUNCTION coupon.stat_front_workers(
	OUT instance integer, OUT wanted boolean, OUT pid integer, OUT started_at timestamptz, OUT starts bigint,
	OUT connections bigint, OUT waiting bigint, OUT streams bigint, OUT slowest double precision) RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 2 AS 'MODULE_PATHNAME', 'coupon_stat_front_workers';
COMMENT ON FUNCTION coupon.stat_front_workers() IS 'The workers of the HTTP front, if it serves this database.';

CREATE VIEW coupon.stat_worker AS
SELECT w.kind, w.instance, w.wanted, w.pid, w.started_at, w.starts, w.errors, w.wakes, w.cycles, coupon.stat_since() AS stats_reset
  FROM coupon.stat_workers() w
UNION ALL
SELECT 'front', f.instance, f.wanted, f.pid, f.started_at, f.starts, NULL, NULL, NULL, coupon.stat_since()
  FROM coupon.stat_front_workers() f;
COMMENT ON VIEW coupon.stat_worker IS 'The workers of this database: those that the settings ask for, and those that ran.';
COMMENT ON COLUMN coupon.stat_worker.kind IS 'sweeper | issuer | room worker | group | publisher | transfer | front';
COMMENT ON COLUMN coupon.stat_worker.instance IS 'Which one of its kind, from 0.';
COMMENT ON COLUMN coupon.stat_worker.wanted IS 'Whether the settings ask for it.';
COMMENT ON COLUMN coupon.stat_worker.pid IS 'Its process; null: it does not run.';
COMMENT ON COLUMN coupon.stat_worker.started_at IS 'When it was started last; null: never.';
COMMENT ON COLUMN coupon.stat_worker.starts IS 'How often it was started.';
COMMENT ON COLUMN coupon.stat_worker.errors IS 'How many of its cycles ended with an ERROR; null: not counted.';
COMMENT ON COLUMN coupon.stat_worker.wakes IS 'How often whoever had work woke it; null: not counted.';
COMMENT ON COLUMN coupon.stat_worker.cycles IS 'How many cycles it has begun, each a transaction; null: not counted.';
COMMENT ON COLUMN coupon.stat_worker.stats_reset IS 'From when on.';

CREATE VIEW coupon.stat_front AS
SELECT COALESCE(f.connections, 0)::bigint AS connections,
       pg_catalog.current_setting('coupon.http_max_connections')::bigint OPERATOR(pg_catalog.*) pg_catalog.current_setting('coupon.http_workers')::bigint AS max_connections,
       COALESCE(f.waiting, 0)::bigint AS waiting, COALESCE(f.streams, 0)::bigint AS streams,
       (SELECT t.value FROM coupon.stat_tallies() t WHERE t.name OPERATOR(pg_catalog.=) 'refused_rate') AS refused_rate,
       (SELECT t.value FROM coupon.stat_tallies() t WHERE t.name OPERATOR(pg_catalog.=) 'refused_full') AS refused_full,
       (SELECT t.value FROM coupon.stat_tallies() t WHERE t.name OPERATOR(pg_catalog.=) 'refused_size') AS refused_size,
       COALESCE(f.slowest, 0) AS slowest_seconds, coupon.stat_since() AS stats_reset
  FROM (SELECT pg_catalog.sum(w.connections) AS connections, pg_catalog.sum(w.waiting) AS waiting,
               pg_catalog.sum(w.streams) AS streams, pg_catalog.max(w.slowest) AS slowest
          FROM coupon.stat_front_workers() w) f;
COMMENT ON VIEW coupon.stat_front IS 'The HTTP front, of all its workers; coupon.stat_call has its answers, and coupon.stat_latency how long they took.';
COMMENT ON COLUMN coupon.stat_front.connections IS 'Open connections.';
COMMENT ON COLUMN coupon.stat_front.max_connections IS 'How many there may be.';
COMMENT ON COLUMN coupon.stat_front.waiting IS 'Calls whose answer is waited for.';
COMMENT ON COLUMN coupon.stat_front.streams IS 'Open event streams.';
COMMENT ON COLUMN coupon.stat_front.refused_rate IS 'Calls that were refused because their user or address calls too often.';
COMMENT ON COLUMN coupon.stat_front.refused_full IS 'Calls that were refused because too many wait or are connected.';
COMMENT ON COLUMN coupon.stat_front.refused_size IS 'Calls that were refused because something of them is too large.';
COMMENT ON COLUMN coupon.stat_front.slowest_seconds IS 'The slowest answer.';
COMMENT ON COLUMN coupon.stat_front.stats_reset IS 'From when on.';

-- /metrics: the statistics in Prometheus's text format.

-- RETURN, so that it is inlined.  For names: all other values are numbers or words of ours.
CREATE FUNCTION coupon.label(name text, value text) RETURNS text
LANGUAGE sql STABLE
RETURN pg_catalog.concat($1, '="', pg_catalog.replace(pg_catalog.replace(pg_catalog.replace($2, E'\\', E'\\\\'), '"', E'\\"'), E'\n', E'\\n'), '"');
COMMENT ON FUNCTION coupon.label(text, text) IS 'A label in Prometheus''s text format.';

-- One campaign that cannot be looked at now must not make all others unseen.
CREATE FUNCTION coupon.stock_now(
	campaign_id bigint,
	OUT stock bigint, OUT issued bigint, OUT held bigint, OUT in_flight bigint, OUT remaining bigint)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	SELECT s.stock, s.issued, s.held, s.in_flight, s.remaining INTO stock, issued, held, in_flight, remaining
	  FROM coupon.campaign_status s WHERE s.campaign_id = $1;
EXCEPTION WHEN OTHERS THEN
	NULL;
END
$$;
COMMENT ON FUNCTION coupon.stock_now(bigint) IS 'What coupon_status() says of the stock; nulls where that fails.';

CREATE FUNCTION coupon.metric_families(OUT n bigint, OUT family text, OUT kind text, OUT help text) RETURNS SETOF record
LANGUAGE sql STABLE ROWS 90 SET search_path = pg_catalog, pg_temp
AS $$
SELECT row_number() OVER (), 'coupon_' || m.name, m.kind, m.help FROM (VALUES
	('up', 'gauge', 'Whether this server sells: 0 on a standby, and where coupon is not preloaded.'),
	('stats_reset_timestamp_seconds', 'gauge', 'From when on the counters count.'),
	('calls_total', 'counter', 'Calls by way in and outcome, one for each user or unit that was asked for.'),
	('call_errors_total', 'counter', 'Calls that ended with an ERROR, by the class of its SQLSTATE.'),
	('call_duration_seconds', 'histogram', 'From the start of a call to the end of its commit, or to its answer.'),
	('batches_total', 'counter', 'What was worked off together.'),
	('batch_items_total', 'counter', 'How many users there were in batches.'),
	('batch_largest', 'gauge', 'Most users of a batch.'),
	('stock_map_builds_total', 'counter', 'Shards of stock maps that were read from the index.'),
	('stock_map_checks_total', 'counter', 'Shards of stock maps that were compared with the index again.'),
	('stock_false_hints_total', 'counter', 'Units that a map called free, and the index did not.'),
	('stock_waits_total', 'counter', 'Sleeps for units that other transactions have in flight.'),
	('stock_retries_total', 'counter', 'Further rounds of a batch, waits for a busy unit, batches done again.'),
	('campaigns', 'gauge', 'Campaigns by state.'),
	('campaign_info', 'gauge', 'What a campaign is called, and its state.'),
	('campaign_open', 'gauge', 'Whether a campaign is open: 0 when it is paused, or not yet open.'),
	('campaign_opens_timestamp_seconds', 'gauge', 'When a campaign opens.'),
	('campaign_closes_timestamp_seconds', 'gauge', 'When a campaign closes.'),
	('campaign_answers_total', 'counter', 'Answers of issue calls by any way in; other: of all campaigns that are not shown.'),
	('campaign_stock', 'gauge', 'Units of a campaign.'),
	('campaign_issued', 'gauge', 'Units that are issued.'),
	('campaign_held', 'gauge', 'Units that are held.'),
	('campaign_in_flight', 'gauge', 'Units that are being issued.'),
	('campaign_remaining', 'gauge', 'Units that are free.'),
	('requests_waiting', 'gauge', 'Requests that are not decided.'),
	('requests_oldest_seconds', 'gauge', 'How long the oldest of them has waited.'),
	('requests_limit', 'gauge', 'How many may wait.'),
	('requests_decided_total', 'counter', 'Requests that were decided.'),
	('room_open', 'gauge', 'Whether a room admits: 0 when it is paused, or not yet open.'),
	('room_capacity', 'gauge', 'How many may be admitted at a time.'),
	('room_waiting', 'gauge', 'Tickets that wait.'),
	('room_admitted', 'gauge', 'Tickets that are admitted.'),
	('room_joined_total', 'counter', 'Tickets that were given.'),
	('room_served_total', 'counter', 'Tickets that were admitted.'),
	('outbox_unpublished', 'gauge', 'Events that are not published; of a large outbox an estimate.'),
	('outbox_oldest_seconds', 'gauge', 'How old the oldest of them is.'),
	('outbox_bytes', 'gauge', 'The size of the tables of the outbox.'),
	('outbox_blocking_seconds', 'gauge', 'How long the oldest open transaction that uses the outbox has run.'),
	('outbox_parked', 'gauge', 'Events put aside, for their topic is refused; at most 10000 are counted.'),
	('outbox_clock_ahead_seconds', 'gauge', 'By how much the ids of events are ahead of the clock, which was set back.'),
	('publisher_configured', 'gauge', 'Whether a broker is configured.'),
	('publisher_connected', 'gauge', 'Whether a broker is reached.'),
	('publisher_failing', 'gauge', 'Whether the last thing that the publisher did was to fail.'),
	('publisher_refused_topics', 'gauge', 'Whether the broker refuses a topic.'),
	('publisher_in_flight', 'gauge', 'Events that are sent and not acknowledged.'),
	('publisher_published_total', 'counter', 'Events that the broker acknowledged.'),
	('publisher_retried_total', 'counter', 'Events that were sent again.'),
	('publisher_dead_total', 'counter', 'Events that became dead letters.'),
	('dead_letters', 'gauge', 'Dead letters; at most 10000 are counted.'),
	('workers', 'gauge', 'Running workers of this database, by kind.'),
	('workers_wanted', 'gauge', 'Workers that the settings ask for.'),
	('worker_starts_total', 'counter', 'How often workers were started.'),
	('worker_errors_total', 'counter', 'Cycles of workers that ended with an ERROR.'),
	('worker_wakes_total', 'counter', 'How often workers were woken by whoever had work.'),
	('worker_cycles_total', 'counter', 'Cycles that workers have begun.'),
	('memory_campaigns', 'gauge', 'Campaigns in shared memory, of the whole server.'),
	('memory_campaigns_limit', 'gauge', 'How many there may be.'),
	('memory_maps', 'gauge', 'Stock maps in shared memory.'),
	('memory_map_bytes', 'gauge', 'What maps and definitions take.'),
	('memory_map_limit_bytes', 'gauge', 'What they may take.'),
	('memory_map_evictions_total', 'counter', 'Maps of idle campaigns that made room for others.'),
	('memory_campaign_evictions_total', 'counter', 'Campaigns that were forgotten for others.'),
	('http_connections', 'gauge', 'Open connections of the HTTP front.'),
	('http_connections_limit', 'gauge', 'How many there may be.'),
	('http_waiting', 'gauge', 'HTTP calls whose answer is waited for.'),
	('http_streams', 'gauge', 'Open event streams.'),
	('http_refused_total', 'counter', 'HTTP calls that were refused before any work, by reason.'),
	('sessions', 'gauge', 'Sessions of clients, of the whole server.'),
	('sessions_limit', 'gauge', 'How many there may be.')) m(name, kind, help)
$$;
COMMENT ON FUNCTION coupon.metric_families() IS 'What /metrics has, in the order in which it is shown.';

-- In plpgsql, which keeps the plan.  The bound on campaigns and rooms is the one on labels.
CREATE FUNCTION coupon.metric_samples(OUT family text, OUT suffix text, OUT labels text, OUT value double precision) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE ROWS 5000 SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	max_labels CONSTANT integer := 100;
	-- as a variable it is asked once, before what a standby cannot do
	selling boolean := NOT pg_is_in_recovery();
	moment timestamptz := clock_timestamp();
BEGIN
	-- those that are open come first, and by the index: mostly there is no need to look at all of them
	RETURN QUERY WITH chosen AS (
		(SELECT c.* FROM coupon.campaign c
		  WHERE selling AND c.closed_at IS NULL AND (c.closes_at IS NULL OR c.closes_at > moment) AND c.opens_at > moment IS NOT TRUE
		  ORDER BY c.campaign_id DESC LIMIT max_labels)
		UNION ALL
		(SELECT c.* FROM coupon.campaign c
		  WHERE selling AND c.closed_at IS NULL AND (c.closes_at IS NULL OR c.closes_at > moment) AND c.opens_at > moment
		  ORDER BY c.opens_at, c.campaign_id DESC LIMIT max_labels)
		LIMIT max_labels),
	shown AS MATERIALIZED (
		SELECT c.campaign_id, c.name, coupon.campaign_state(c.closed_at, c.closes_at, c.paused OR c.dumped IS NOT NULL, c.opens_at) AS state,
		       c.opens_at, c.closes_at, concat('campaign="', c.campaign_id, '"') AS labels
		  FROM chosen c),
	stock AS MATERIALIZED (SELECT w.labels, s.* FROM shown w, LATERAL coupon.stock_now(w.campaign_id) s),
	answers AS MATERIALIZED (
		SELECT coalesce(w.labels, 'campaign="other"') AS labels, s.*
		  FROM coupon.stat_campaigns(ARRAY(SELECT w.campaign_id FROM shown w)) s FULL JOIN shown w ON w.campaign_id = s.campaign_id
		 WHERE selling),
	queues AS MATERIALIZED (
		SELECT coalesce(w.labels, 'campaign="other"') AS labels, w.labels IS NULL AS is_other,
		       sum(q.waiting) AS waiting, max(q.oldest_seconds) AS oldest, sum(q.decided) AS decided, max(q.waiting_limit) AS waiting_limit
		  FROM coupon.stat_queue q LEFT JOIN shown w ON w.campaign_id = q.campaign_id
		 WHERE selling
		 GROUP BY w.labels),
	rooms AS MATERIALIZED (SELECT r.*, coupon.label('room', r.name) AS labels FROM coupon.stat_room r WHERE selling ORDER BY r.room_id LIMIT max_labels),
	outbox AS MATERIALIZED (SELECT * FROM coupon.stat_outbox WHERE selling),
	latencies AS MATERIALIZED (SELECT l.upper, l.calls, concat('way="', l.way, '"') AS labels FROM coupon.stat_latencies() l),
	workers AS MATERIALIZED (
		SELECT concat('kind="', k.kind, '"') AS labels, count(w.pid) AS running, count(*) FILTER (WHERE w.wanted) AS wanted,
		       sum(w.starts) AS starts, sum(w.errors) AS errors, sum(w.wakes) AS wakes, sum(w.cycles) AS cycles
		  FROM (VALUES ('sweeper'), ('issuer'), ('room worker'), ('group'), ('publisher'), ('transfer'), ('front')) k(kind)
		  LEFT JOIN coupon.stat_worker w ON w.kind = k.kind
		 GROUP BY k.kind)
	SELECT 'coupon_up', '', '', selling::int::double precision
	UNION ALL
	SELECT 'coupon_stats_reset_timestamp_seconds', '', '', extract(epoch FROM coupon.stat_since())
	UNION ALL
	SELECT 'coupon_calls_total', '', concat('way="', s.way, '",outcome="', s.outcome, '"'), s.calls
	  FROM coupon.stat_calls() s WHERE s.way <> 'commit'
	UNION ALL
	SELECT 'coupon_call_errors_total', '', concat('way="', s.way, '",class="', s.class, '"'), s.errors
	  FROM coupon.stat_errors() s
	UNION ALL
	SELECT 'coupon_call_duration_seconds', '_bucket',
	       concat(s.labels, ',le="', CASE s.upper WHEN 'infinity' THEN '+Inf' ELSE s.upper::text END, '"'), s.calls
	  FROM latencies s
	UNION ALL
	SELECT 'coupon_call_duration_seconds', '_sum', concat('way="', s.way, '"'), s.seconds FROM coupon.stat_ways() s
	UNION ALL
	SELECT 'coupon_call_duration_seconds', '_count', s.labels, s.calls FROM latencies s WHERE s.upper = 'infinity'
	UNION ALL
	SELECT 'coupon_' || m.family, '', concat('way="', b.way, '"'), m.value
	  FROM coupon.stat_batches() b,
	       LATERAL (VALUES ('batches_total', b.batches), ('batch_items_total', b.items), ('batch_largest', b.largest)) m(family, value)
	UNION ALL
	SELECT CASE WHEN t.name LIKE '%evictions' THEN 'coupon_memory_' || t.name || '_total'
	            WHEN t.name LIKE 'refused%' THEN 'coupon_http_refused_total'
	            ELSE 'coupon_stock_' || t.name || '_total' END, '',
	       CASE WHEN t.name LIKE 'refused%' THEN concat('reason="', substr(t.name, 9), '"') ELSE '' END, t.value
	  FROM coupon.stat_tallies() t
	UNION ALL
	SELECT 'coupon_campaigns', '', concat('state="', m.state, '"'), m.value
	  FROM (SELECT count(*) FILTER (WHERE c.state = 'open') AS open, count(*) FILTER (WHERE c.state = 'not_open') AS not_open,
	               count(*) FILTER (WHERE c.state = 'paused') AS paused, count(*) FILTER (WHERE c.state = 'closed') AS closed
	          FROM (SELECT coupon.campaign_state(a.closed_at, a.closes_at, a.paused OR a.dumped IS NOT NULL, a.opens_at) AS state FROM coupon.campaign a WHERE selling) c) c,
	       LATERAL (VALUES ('open', c.open), ('not_open', c.not_open), ('paused', c.paused), ('closed', c.closed)) m(state, value)
	 WHERE selling
	UNION ALL
	SELECT 'coupon_campaign_' || m.family, '', m.labels, m.value
	  FROM shown w,
	       LATERAL (VALUES ('info', concat(w.labels, ',', coupon.label('name', w.name), ',state="', w.state, '"'), 1),
	                       ('open', w.labels, (w.state = 'open')::int),
	                       ('opens_timestamp_seconds', w.labels, extract(epoch FROM nullif(nullif(w.opens_at, 'infinity'), '-infinity'))),
	                       ('closes_timestamp_seconds', w.labels, extract(epoch FROM nullif(nullif(w.closes_at, 'infinity'), '-infinity')))) m(family, labels, value)
	 WHERE m.value IS NOT NULL
	UNION ALL
	SELECT 'coupon_campaign_answers_total', '', concat(a.labels, ',outcome="', m.outcome, '"'), coalesce(m.value, 0)
	  FROM answers a, LATERAL (VALUES ('issued', a.answered_issued), ('already_issued', a.answered_already_issued),
	       ('sold_out', a.answered_sold_out), ('busy', a.answered_busy), ('not_open', a.answered_not_open),
	       ('closed', a.answered_closed), ('paused', a.answered_paused), ('not_admitted', a.answered_not_admitted),
	       ('held', a.answered_held)) m(outcome, value)
	UNION ALL
	SELECT 'coupon_campaign_' || m.family, '', s.labels, m.value
	  FROM stock s, LATERAL (VALUES ('stock', s.stock), ('issued', s.issued), ('held', s.held), ('in_flight', s.in_flight),
	       ('remaining', s.remaining)) m(family, value)
	 WHERE m.value IS NOT NULL
	UNION ALL
	SELECT 'coupon_requests_' || m.family, '', q.labels, m.value
	  FROM queues q, LATERAL (VALUES ('waiting', q.waiting::double precision), ('oldest_seconds', q.oldest),
	       ('limit', CASE WHEN NOT q.is_other THEN q.waiting_limit END), ('decided_total', q.decided)) m(family, value)
	 WHERE m.value IS NOT NULL
	UNION ALL
	SELECT 'coupon_room_' || m.family, '', r.labels, m.value
	  FROM rooms r, LATERAL (VALUES ('open', (r.state = 'open')::int), ('capacity', r.capacity), ('waiting', r.waiting), ('admitted', r.admitted),
	       ('joined_total', r.joined), ('served_total', r.served)) m(family, value)
	 WHERE m.value IS NOT NULL
	UNION ALL
	SELECT 'coupon_' || m.family, '', '', m.value
	  FROM outbox o, LATERAL (VALUES ('outbox_unpublished', o.unpublished::double precision), ('outbox_oldest_seconds', o.oldest_seconds),
	       ('outbox_bytes', o.size_bytes), ('outbox_blocking_seconds', o.blocking_seconds), ('outbox_parked', o.parked),
	       ('outbox_clock_ahead_seconds', o.clock_ahead_seconds), ('publisher_configured', o.configured::int),
	       ('publisher_connected', o.connected::int), ('publisher_failing', o.failing::int),
	       ('publisher_refused_topics', o.refused_topics::int), ('publisher_in_flight', o.in_flight),
	       ('publisher_published_total', o.published), ('publisher_retried_total', o.retried), ('publisher_dead_total', o.dead),
	       ('dead_letters', o.dead_letters)) m(family, value)
	 WHERE m.value IS NOT NULL
	UNION ALL
	SELECT 'coupon_' || m.family, '', w.labels, coalesce(m.value, 0)
	  FROM workers w, LATERAL (VALUES ('workers', w.running), ('workers_wanted', w.wanted), ('worker_starts_total', w.starts),
	       ('worker_errors_total', w.errors), ('worker_wakes_total', w.wakes), ('worker_cycles_total', w.cycles)) m(family, value)
	UNION ALL
	SELECT 'coupon_memory_' || m.family, '', '', m.value
	  FROM coupon.stat_slots() s, LATERAL (VALUES ('campaigns', s.campaigns), ('campaigns_limit', s.max_campaigns), ('maps', s.maps),
	       ('map_bytes', s.map_bytes), ('map_limit_bytes', s.map_memory_bytes)) m(family, value)
	UNION ALL
	SELECT 'coupon_http_' || m.family, '', '', m.value
	  FROM coupon.stat_front f, LATERAL (VALUES ('connections', f.connections), ('connections_limit', f.max_connections),
	       ('waiting', f.waiting), ('streams', f.streams)) m(family, value)
	UNION ALL
	SELECT 'coupon_sessions', '', '', count(*) FROM pg_stat_activity a WHERE a.backend_type = 'client backend'
	UNION ALL
	SELECT 'coupon_sessions_limit', '', '', current_setting('max_connections')::double precision;
END
$$;
COMMENT ON FUNCTION coupon.metric_samples() IS 'Every sample of /metrics, without a user or a request in it.';

CREATE FUNCTION @extschema@.coupon_metrics() RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM set_config('response.headers', '[{"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}, {"Cache-Control": "no-store"}]', true);
	RETURN (SELECT string_agg(concat(
	               CASE WHEN m.nth = 1 THEN concat('# HELP ', m.family, ' ', m.help, E'\n# TYPE ', m.family, ' ', m.kind, E'\n') END,
	               m.family, m.suffix, '{' || nullif(m.labels, '') || '}', ' ', m.value, E'\n'), '' ORDER BY m.family_n, m.nth)
	  FROM (SELECT f.n AS family_n, f.family, f.kind, f.help, s.suffix, s.labels, s.value, row_number() OVER (PARTITION BY f.n ORDER BY s.n) AS nth
	          FROM coupon.metric_families() f
	          JOIN coupon.metric_samples() WITH ORDINALITY AS s(family, suffix, labels, value, n) ON s.family = f.family) m);
EXCEPTION WHEN SQLSTATE 'UC003' THEN
	-- coupon is not preloaded: there is nothing to read
	RETURN (SELECT concat('# HELP ', f.family, ' ', f.help, E'\n# TYPE ', f.family, ' ', f.kind, E'\n', f.family, E' 0\n')
	  FROM coupon.metric_families() f WHERE f.family = 'coupon_up');
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_metrics() IS
	'The statistics in Prometheus''s text format, version 0.0.4: campaigns by themselves while they run, the first 100 of them.';

CREATE FUNCTION coupon.http_metrics() RETURNS bytea
LANGUAGE sql VOLATILE
RETURN pg_catalog.convert_to(@extschema@.coupon_metrics(), 'UTF8');
COMMENT ON FUNCTION coupon.http_metrics() IS 'GET /metrics - 200 what Prometheus reads';

-- Health: what is wrong, and what to do.  coupon_health() works on a standby, where
-- coupon is not preloaded, and for coupon_reader; a check that fails is a row like the
-- others.  It names no broker, file or key.

CREATE FUNCTION coupon.warn_without_workers(rooms boolean) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_warn_without_workers';
COMMENT ON FUNCTION coupon.warn_without_workers(boolean) IS 'A WARNING where this database has no workers, once a session.';

CREATE TYPE coupon.finding AS (
	severity text,
	what     text,
	detail   text,
	hint     text,
	page     text
);
COMMENT ON TYPE coupon.finding IS 'What coupon_health() has found.';
COMMENT ON COLUMN coupon.finding.severity IS 'error: the sale does not work, or not as promised | warning: it will not for long | notice: look at it.';
COMMENT ON COLUMN coupon.finding.what IS 'What is wrong.';
COMMENT ON COLUMN coupon.finding.detail IS 'The values.';
COMMENT ON COLUMN coupon.finding.hint IS 'What to do.';
COMMENT ON COLUMN coupon.finding.page IS 'Where doc/operations.md tells more.';

CREATE FUNCTION coupon.health_facts(
	OUT preloaded boolean, OUT listed boolean, OUT databases text[], OUT kinds text[], OUT wanted integer[], OUT running integer[],
	OUT http_built boolean, OUT jwt_there boolean,
	OUT broker text, OUT refused_topics text, OUT last_error text, OUT failed_at timestamptz, OUT acknowledged_at timestamptz,
	OUT maps_dropped bigint, OUT slots_taken bigint, OUT dropped_at timestamptz, OUT map_failures bigint,
	OUT lines_in_use integer, OUT queue_refused bigint, OUT descriptors bigint,
	OUT refusals_lost bigint,
	OUT listen_problem text, OUT admin_listen_problem text, OUT keys_in_use integer)
RETURNS record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_health_facts';
COMMENT ON FUNCTION coupon.health_facts() IS 'What SQL cannot see, for coupon_health().';

CREATE FUNCTION coupon.health_lines(
	OUT kind text, OUT id bigint, OUT waiting bigint, OUT failures bigint, OUT passed_at timestamptz, OUT admitted bigint)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_health_lines';
COMMENT ON FUNCTION coupon.health_lines() IS 'Who waits, as shared memory knows it; builds nothing.';

CREATE FUNCTION coupon.health_file(path text, of_kafka boolean) RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'coupon_health_file';
COMMENT ON FUNCTION coupon.health_file(text, boolean) IS 'Why the server refuses a file of properties or keys; null: it does not.';

CREATE FUNCTION coupon.finding(severity text, what text, detail text, hint text, heading text) RETURNS coupon.finding
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT $1, $2, $3, $4, 'doc/operations.md#' || replace(lower($5), ' ', '-')
$$;
COMMENT ON FUNCTION coupon.finding(text, text, text, text, text) IS 'A finding; the heading is the one in doc/operations.md.';

-- The checks.  Each has the settings and the facts.

CREATE FUNCTION coupon.health_server(s jsonb, f jsonb) RETURNS SETOF coupon.finding
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coupon.finding('error', 'coupon is not preloaded',
	       format('shared_preload_libraries is ''%s''. Tables can be read, nothing can be issued.', s->>'shared_preload_libraries'),
	       'Add coupon to shared_preload_libraries in postgresql.conf and restart the server.', 'The library is not preloaded')
	 WHERE NOT (f->>'preloaded')::boolean
	UNION ALL
	SELECT coupon.finding('notice', 'This server is a standby', 'It shows the sale and sells nothing; calls are refused with 25006.',
	       'Send buyers to the primary. After pg_promote() it sells on by itself.', 'This is a standby')
	 WHERE pg_is_in_recovery()
	UNION ALL
	SELECT coupon.finding('error', format('Answers are not durable: %s is off', n.name),
	       'A crash of the machine takes back what users were told they have, or damages the tables.',
	       format('ALTER SYSTEM SET %s = on; SELECT pg_reload_conf();', n.name), 'Answers are not durable')
	  FROM (VALUES ('fsync'), ('full_page_writes')) n(name)
	 WHERE s->>n.name = 'off'
	UNION ALL
	SELECT coupon.finding('warning', 'Answers are not durable: synchronous_commit is off',
	       'A crash forgets the answers of the last moments.',
	       'ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf();', 'Answers are not durable')
	 WHERE s->>'synchronous_commit' = 'off'
	UNION ALL
	SELECT coupon.finding('warning', 'Answers are not durable: synchronous_commit is off',
	       format('It is so for %s.', concat_ws(' in ', 'role ' || r.rolname, 'database ' || d.datname)),
	       format('ALTER %s RESET synchronous_commit;', coalesce(format('ROLE %I', r.rolname) || format(' IN DATABASE %I', d.datname),
	              format('ROLE %I', r.rolname), format('DATABASE %I', d.datname))), 'Answers are not durable')
	  FROM pg_db_role_setting c LEFT JOIN pg_roles r ON r.oid = c.setrole LEFT JOIN pg_database d ON d.oid = c.setdatabase
	 WHERE 'synchronous_commit=off' = ANY (c.setconfig) AND (d.datname IS NULL OR d.datname = current_database())
	UNION ALL
	SELECT coupon.finding('error', 'Commits wait for a standby that is not there',
	       'synchronous_standby_names is set, and no synchronous standby is connected: no call returns.',
	       'Connect the standby, or ALTER SYSTEM SET synchronous_standby_names = ''''; SELECT pg_reload_conf();', 'Commits hang')
	 WHERE s->>'synchronous_standby_names' <> '' AND s->>'synchronous_commit' NOT IN ('off', 'local') AND NOT pg_is_in_recovery()
	   AND NOT EXISTS (SELECT FROM pg_stat_replication r WHERE r.sync_state IN ('sync', 'quorum'))
	UNION ALL
	SELECT coupon.finding(CASE WHEN c.used >= 0.9 * c.there THEN 'error' ELSE 'warning' END, 'Connections run out',
	       format('%s of %s are in use.', c.used, c.there),
	       'Put PgBouncer in front (transaction mode fits), or raise max_connections.', 'Too many connections')
	  FROM (SELECT count(*) AS used, (s->>'max_connections')::integer - (s->>'superuser_reserved_connections')::integer AS there
	          FROM pg_stat_activity a WHERE a.backend_type = 'client backend') c
	 WHERE c.used >= 0.7 * c.there
	UNION ALL
	SELECT coupon.finding('warning', 'Every statement is logged', format('log_statement = %s, log_min_duration_statement = %s.',
	       s->>'log_statement', s->>'log_min_duration_statement'),
	       'Set log_statement = ddl or none, and log_min_duration_statement to -1 or 200 ms: the log costs as much as the sale, and keeps users'' names.',
	       'Settings do not fit together')
	 WHERE s->>'log_statement' = 'all' OR s->>'log_min_duration_statement' = '0'
	UNION ALL
	SELECT coupon.finding('error', 'Transactions are read-only', 'default_transaction_read_only is on: nothing can be issued.',
	       'ALTER SYSTEM RESET default_transaction_read_only; SELECT pg_reload_conf();', 'Settings do not fit together')
	 WHERE s->>'default_transaction_read_only' = 'on' AND NOT pg_is_in_recovery()
	UNION ALL
	SELECT coupon.finding('warning', 'Autovacuum is off', 'Dead rows stay, and the tables grow.',
	       'ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf();', 'Settings do not fit together')
	 WHERE s->>'autovacuum' = 'off'
$$;
COMMENT ON FUNCTION coupon.health_server(jsonb, jsonb) IS 'A check of coupon_health(): the server.';

CREATE FUNCTION coupon.health_workers(s jsonb, f jsonb) RETURNS SETOF coupon.finding
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	names text[] := ARRAY(SELECT jsonb_array_elements_text(f->'databases'));
	each_database integer := (SELECT sum(w::integer) FROM jsonb_array_elements_text(f->'wanted') w);
	slots integer := (s->>'max_worker_processes')::integer;
	-- whatever was started or changed a moment ago may be on its way
	settled boolean := least(clock_timestamp() - pg_postmaster_start_time(), clock_timestamp() - pg_conf_load_time()) > interval '10 s';
	needed integer;
	others integer := ((s->>'max_logical_replication_workers')::integer > 0)::integer;	-- the launcher of logical replication
	absent text;
BEGIN
	IF pg_is_in_recovery() THEN
		RETURN;
	END IF;
	-- the launcher; HTTP; the formula is that of doc/operations.md, "Sizing"
	needed := 1
		+ CASE WHEN s->>'coupon.http_listen' = '' THEN 0 ELSE (s->>'coupon.http_workers')::integer END
		+ each_database * (SELECT count(*)::integer FROM pg_database d WHERE d.datname = ANY (names) AND d.datallowconn);
	IF NOT (f->>'listed')::boolean THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('error', format('Database "%s" has no workers', current_database()),
			format('coupon.databases is ''%s''. Requests wait for ever, rooms admit nobody, events stay, what runs out is not marked.',
			       s->>'coupon.databases'),
			format('ALTER SYSTEM SET coupon.databases = %L; SELECT pg_reload_conf(); (A subscriber''s copy needs none.)',
			       (SELECT string_agg(CASE WHEN l.n ~ '[[:space:],"]' THEN format('"%s"', replace(l.n, '"', '""')) ELSE l.n END, ', ' ORDER BY l.i)
			          FROM unnest(array_append(ARRAY(SELECT n FROM unnest(names) n JOIN pg_database d ON d.datname = n), current_database()::text)) WITH ORDINALITY l(n, i))),
			'No worker runs') x;
	END IF;
	RETURN QUERY SELECT (coupon.finding('warning', format('coupon.databases names "%s", which does not exist', n),
		'It may be misspelt: then the database that was meant has no workers.',
		format('Correct coupon.databases, or CREATE DATABASE %I.', n), 'A database does not exist')).*
	  FROM unnest(names) n
	 WHERE NOT EXISTS (SELECT FROM pg_database d WHERE d.datname = n AND d.datallowconn);
	IF needed + others > slots THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('error', 'There are too few worker slots',
			format('coupon needs %s (%s in each of the databases of coupon.databases), PostgreSQL itself %s; max_worker_processes is %s.', needed, each_database, others, slots),
			format('ALTER SYSTEM SET max_worker_processes = %s; and restart the server. That is 8 for parallel queries, replication and other extensions, and those of coupon.',
			       needed + 8), 'Too few worker slots') x;
	END IF;
	absent := (SELECT string_agg(format('%s (%s of %s)', k.kind, r.n, w.n), ', ' ORDER BY k.i)
		 FROM jsonb_array_elements_text(f->'kinds') WITH ORDINALITY k(kind, i)
		 JOIN jsonb_array_elements_text(f->'wanted') WITH ORDINALITY w(n, i) ON w.i = k.i
		 JOIN jsonb_array_elements_text(f->'running') WITH ORDINALITY r(n, i) ON r.i = k.i
		WHERE r.n::integer < w.n::integer);
	IF absent IS NOT NULL AND (f->>'listed')::boolean AND settled THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('error', 'Workers are missing in this database', format('There are too few of: %s.', absent),
			CASE WHEN needed + others > slots THEN 'Raise max_worker_processes, see there.'
			     ELSE 'The server''s log says why: no worker slot, or a worker that ends at once. Somebody may have stopped one a moment ago; it comes back within 5 s.' END,
			'No worker runs') x;
	END IF;
	IF s->>'coupon.group_workers' = '0' THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('notice', 'Grouped calls are refused', 'coupon.group_workers is 0: coupon_issue_grouped() is answered with UC020.',
			'ALTER SYSTEM RESET coupon.group_workers; SELECT pg_reload_conf();', 'Settings do not fit together') x;
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.health_workers(jsonb, jsonb) IS 'A check of coupon_health(): the workers.';

CREATE FUNCTION coupon.health_http(s jsonb, f jsonb) RETURNS SETOF coupon.finding
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	WITH key AS MATERIALIZED (
		SELECT k.i, coupon.health_file(btrim(k.path, ' "'), false) AS why
		  FROM string_to_table(s->>'coupon.http_jwt_key_files', ',') WITH ORDINALITY k(path, i)
		 WHERE btrim(k.path, ' "') <> '')
	SELECT x.* FROM (
	SELECT (coupon.finding('error', 'HTTP is asked for, but not built in', 'coupon was built without libmicrohttpd and libjwt.',
	       'Install them (Debian: libmicrohttpd-dev, libjwt-dev), build coupon again and restart, or set coupon.http_listen = ''''.', 'A library is missing')).*
	 WHERE NOT (f->>'http_built')::boolean
	UNION ALL
	SELECT (coupon.finding('error', 'Nothing serves HTTP', 'coupon.http_listen is set, and no "coupon front" runs.',
	       'Restart the server if coupon.http_listen was empty when it started; else the server''s log says why.', 'HTTP does not answer')).*
	 WHERE (f->>'http_built')::boolean AND pg_postmaster_start_time() < clock_timestamp() - interval '10 s'
	   AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.backend_type = 'coupon front')
	UNION ALL
	SELECT (coupon.finding('error', 'HTTP cannot listen', format('%s: %s.', p.setting, p.why),
	       'Correct the address, or end what has the port; then SELECT pg_reload_conf(). It is tried again every second.', 'HTTP does not answer')).*
	  FROM (VALUES ('coupon.http_listen', f->>'listen_problem'), ('coupon.http_admin_listen', f->>'admin_listen_problem')) p(setting, why)
	 WHERE p.why IS NOT NULL
	UNION ALL
	SELECT (coupon.finding('error', 'Every call over HTTP is refused', 'coupon.http_role and coupon.http_jwt_algorithm are empty: nobody has rights, and there are no tokens.',
	       'Set coupon.http_jwt_algorithm and coupon.http_jwt_key_files; or, behind a gateway that knows its callers, coupon.http_role = ''coupon_service''.', 'Tokens are refused')).*
	 WHERE s->>'coupon.http_role' = '' AND s->>'coupon.http_jwt_algorithm' = ''
	UNION ALL
	SELECT (coupon.finding('error', 'Tokens cannot be checked', 'libjwt is not there, or is another version than coupon was built with.',
	       'Install it (Debian: libjwt0 or libjwt2).', 'A library is missing')).*
	 WHERE (f->>'http_built')::boolean AND NOT (f->>'jwt_there')::boolean
	UNION ALL
	SELECT (coupon.finding('error', 'Tokens are refused: there is no key', 'coupon.http_jwt_algorithm is set, and coupon.http_jwt_key_files is empty.',
	       'Name the file of the secret or of the public key in coupon.http_jwt_key_files.', 'Tokens are refused')).*
	 WHERE s->>'coupon.http_jwt_algorithm' <> '' AND s->>'coupon.http_jwt_key_files' = ''
	UNION ALL
	SELECT (coupon.finding('error', 'Tokens are refused: keys without an algorithm', 'coupon.http_jwt_key_files is set, and coupon.http_jwt_algorithm is empty.',
	       'Set coupon.http_jwt_algorithm to HS256, RS256 or ES256.', 'Tokens are refused')).*
	 WHERE s->>'coupon.http_jwt_algorithm' = '' AND s->>'coupon.http_jwt_key_files' <> ''
	UNION ALL
	SELECT (coupon.finding('error', format('Key file %s of coupon.http_jwt_key_files is refused', k.i), k.why,
	       'It must belong to the server''s user, with mode 0600, or to root, with 0640; a secret has at least 32 bytes, a public key is in PEM. Then SELECT pg_reload_conf();', 'Tokens are refused')).*
	  FROM key k
	 WHERE k.why IS NOT NULL
	UNION ALL
	SELECT (coupon.finding('error', 'Key files are not in use', format('HTTP uses %s of %s.', f->>'keys_in_use', k.n),
	       'SELECT pg_reload_conf(); reads them. There can be four.', 'Tokens are refused')).*
	  FROM (SELECT count(*) AS n FROM key WHERE key.why IS NULL) k
	 WHERE (f->>'keys_in_use')::integer < k.n AND (f->>'jwt_there')::boolean AND s->>'coupon.http_jwt_algorithm' <> ''
	   AND greatest(pg_postmaster_start_time(), pg_conf_load_time()) < clock_timestamp() - interval '10 s'
	UNION ALL
	SELECT (coupon.finding('error', 'coupon.http_role is no role', format('There is no role "%s".', s->>'coupon.http_role'),
	       'Use coupon_service, or a role of your own that is a member of it.', 'Tokens are refused')).*
	 WHERE s->>'coupon.http_role' <> '' AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = s->>'coupon.http_role')
	UNION ALL
	SELECT (coupon.finding('error', 'coupon.http_role is a superuser', 'Whoever reaches the port has a superuser''s rights, or is refused.',
	       'Use coupon_service.', 'Tokens are refused')).*
	  FROM pg_roles r WHERE r.rolname = s->>'coupon.http_role' AND r.rolsuper
	UNION ALL
	SELECT (coupon.finding('error', 'coupon.http_role may not call', format('"%s" is a member of neither coupon_service nor coupon_admin: calls without a token are answered 401.', r.rolname),
	       'Use coupon_service, or a role of your own that is a member of it.', 'Tokens are refused')).*
	  FROM pg_roles r
	 WHERE r.rolname = s->>'coupon.http_role'
	   AND NOT EXISTS (SELECT FROM pg_roles g WHERE g.rolname IN ('coupon_service', 'coupon_admin') AND pg_has_role(r.oid, g.oid, 'MEMBER'))
	UNION ALL
	SELECT (coupon.finding('error', 'coupon.http_database does not exist', format('There is no database "%s".', s->>'coupon.http_database'),
	       'Correct it and restart the server.', 'HTTP does not answer')).*
	 WHERE s->>'coupon.http_database' <> '' AND NOT EXISTS (SELECT FROM pg_database d WHERE d.datname = s->>'coupon.http_database')
	UNION ALL
	SELECT (coupon.finding('error', 'HTTP serves a database without workers', format('coupon.http_database "%s" is not among coupon.databases: /readyz answers 503, requests wait.', s->>'coupon.http_database'),
	       'Add it to coupon.databases and reload.', 'No worker runs')).*
	 WHERE s->>'coupon.http_database' <> '' AND NOT coalesce(f->'databases' ? (s->>'coupon.http_database'), false)
	UNION ALL
	SELECT (coupon.finding('warning', 'HTTP has too few file descriptors', format('A worker keeps %s connections, a process may open %s files.', s->>'coupon.http_max_connections', f->>'descriptors'),
	       'Raise LimitNOFILE of the service, or lower coupon.http_max_connections.', 'HTTP does not answer')).*
	 WHERE (f->>'descriptors')::bigint < (s->>'coupon.http_max_connections')::bigint + 100
	UNION ALL
	SELECT (coupon.finding('notice', 'HTTP takes calls from everywhere without a limit', 'coupon.http_listen is no local address, and neither coupon.http_rate_per_address nor coupon.http_trusted_proxies is set.',
	       'Put a proxy in front, or set coupon.http_rate_per_address.', 'HTTP does not answer')).*
	 WHERE s->>'coupon.http_listen' !~ '^(127\.|\[::1\]|localhost)' AND s->>'coupon.http_rate_per_address' = '0' AND s->>'coupon.http_trusted_proxies' = ''
	) x
	 WHERE s->>'coupon.http_listen' <> ''
$$;
COMMENT ON FUNCTION coupon.health_http(jsonb, jsonb) IS 'A check of coupon_health(): HTTP.';

CREATE FUNCTION coupon.health_events(s jsonb, f jsonb) RETURNS SETOF coupon.finding
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	size bigint := pg_relation_size('coupon.outbox_0') + pg_relation_size('coupon.outbox_1') + pg_relation_size('coupon.outbox_2')
		+ pg_relation_size('coupon.outbox_parked');
	ahead interval;
	problem text;
	parked bigint;
	dead bigint;
	oldest interval;
	age_text text;
BEGIN
	SELECT to_timestamp((e.last_value - 1000) / 1000.0) - clock_timestamp() INTO ahead FROM coupon.event_clock e;
	IF ahead > interval '2 s' THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('warning', 'Event ids are ahead of the clock', format('By %s: the clock was set back, or was wrong.', date_trunc('seconds', ahead)),
			'Order is kept and nothing need be done, but times in ids are wrong until the clock catches up. See to NTP.', 'The clock has stepped') x;
	END IF;
	SELECT count(*) INTO dead FROM (SELECT FROM coupon.dead_letter LIMIT 10000) d;
	IF dead > 0 THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('warning', 'There are dead letters', format('%s%s events were not accepted by the broker.', CASE WHEN dead = 10000 THEN 'At least ' END, dead),
			'See reason in coupon.dead_letter, mend it, then SELECT coupon_dead_letter_replay(); or coupon_dead_letter_discard().', 'There are dead letters') x;
	END IF;
	IF pg_is_in_recovery() OR NOT (f->>'preloaded')::boolean THEN
		RETURN;
	END IF;
	IF s->>'coupon.kafka_config_file' <> '' THEN
		problem := coupon.health_file(s->>'coupon.kafka_config_file', true);
	END IF;
	IF problem IS NOT NULL THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('error', 'The file of coupon.kafka_config_file is refused', problem,
			'It must belong to the server''s user, with mode 0600; then SELECT pg_reload_conf();', 'Events are not published') x;
	ELSIF f->>'broker' = 'misconfigured' THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('error', 'The publisher is misconfigured', f->>'last_error',
			'Correct the property or the setting, then SELECT pg_reload_conf();', 'Events are not published') x;
	END IF;
	IF f->>'broker' = 'down' OR f->>'broker' = 'connecting' AND (f->>'failed_at')::timestamptz > clock_timestamp() - interval '1 min' THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('error', 'No broker can be reached', coalesce(f->>'last_error', 'no error yet'),
			'See to the broker, the network, TLS and the login. Events wait, nothing is lost.', 'Events are not published') x;
	END IF;
	IF f->>'refused_topics' IS NOT NULL THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('error', 'A topic is refused', f->>'refused_topics',
			'Create or alter the topic, or change coupon.kafka_partitions and coupon.kafka_replication. It is seen within 5 s.', 'A topic is refused') x;
	END IF;
	SELECT count(*) INTO parked FROM (SELECT FROM coupon.outbox_parked LIMIT 1000) p;
	IF parked > 0 THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('warning', 'Events are parked', format('%s%s events wait in coupon.outbox_parked for a topic that is refused.', CASE WHEN parked = 1000 THEN 'At least ' END, parked),
			'Mend the topic; they go first then.', 'A topic is refused') x;
	END IF;
	IF size > 256 * 1024 * 1024 THEN
		RETURN QUERY SELECT x.* FROM coupon.finding('warning', 'Events gather', format('The outbox has %s, the broker is %s.', pg_size_pretty(size), f->>'broker'),
			CASE WHEN s->>'coupon.kafka_brokers' = '' THEN 'Set coupon.kafka_brokers, or delete the events that you have read.'
			     ELSE 'coupon_outbox_status() says what the publisher does, and which transaction keeps the tables.' END, 'Events are not published') x;
	ELSIF f->>'broker' = 'up' THEN
		SELECT clock_timestamp() - to_timestamp(('x' || left(replace(e.id::text, '-', ''), 12))::bit(48)::bigint / 1000.0) INTO oldest
		  FROM (SELECT (SELECT o.id FROM coupon.outbox_0 o LIMIT 1) UNION ALL SELECT (SELECT o.id FROM coupon.outbox_1 o LIMIT 1)
		        UNION ALL SELECT (SELECT o.id FROM coupon.outbox_2 o LIMIT 1)) e(id)
		 WHERE e.id IS NOT NULL ORDER BY e.id LIMIT 1;
		age_text := date_trunc('seconds', oldest)::text;
		IF oldest > interval '10 s' THEN
			RETURN QUERY SELECT x.* FROM coupon.finding(CASE WHEN oldest > interval '60 s' THEN 'error' ELSE 'warning' END, 'Events are late', format('The oldest event has waited for %s.', age_text),
				'The broker is slow, or a partition has too few replicas in sync; coupon_outbox_status() says what the publisher does.', 'Events are not published') x;
		END IF;
	END IF;
END
$$;
COMMENT ON FUNCTION coupon.health_events(jsonb, jsonb) IS 'A check of coupon_health(): events.';

CREATE FUNCTION coupon.health_memory(s jsonb, f jsonb) RETURNS SETOF coupon.finding
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	WITH open AS MATERIALIZED (
		SELECT c.campaign_id FROM coupon.campaign c WHERE c.closed_at IS NULL AND (c.closes_at IS NULL OR c.closes_at > now())),
	-- what all open campaigns would need at once, in kB; shards are counted, if there are not too many to be looked at
	need AS (
		SELECT count(*) AS campaigns, (SELECT sum((h.last_serial - h.first_serial + 1) / 8 + 100) FROM coupon.shard h
		        WHERE h.campaign_id IN (SELECT o.campaign_id FROM open o)
		          AND (SELECT c.reltuples < 100000 FROM pg_class c WHERE c.oid = 'coupon.shard'::regclass)) / 1024 AS kb
		  FROM open)
	SELECT coupon.finding('warning', 'coupon.max_campaigns is below the campaigns that are open', format('%s are open, %s have a place.', n.campaigns, s->>'coupon.max_campaigns'),
	       format('ALTER SYSTEM SET coupon.max_campaigns = %s; and restart, or close campaigns that are over.', n.campaigns * 2), 'Maps are evicted')
	  FROM need n WHERE n.campaigns > (s->>'coupon.max_campaigns')::integer
	UNION ALL
	SELECT coupon.finding('warning', 'Stock maps do not fit into coupon.stock_map_memory', format('The open campaigns need about %s kB at once, there are %s kB.', round(n.kb), s->>'coupon.stock_map_memory'),
	       format('ALTER SYSTEM SET coupon.stock_map_memory = ''%s MB''; and restart.', ceil(n.kb / 512)), 'Map memory is short')
	  FROM need n WHERE n.kb > (s->>'coupon.stock_map_memory')::bigint
	UNION ALL
	SELECT coupon.finding('warning', 'Stock maps are dropped again and again', format('%s maps and %s places since the server started, the last one %s ago; each is built again from the index.',
	       f->>'maps_dropped', f->>'slots_taken', date_trunc('seconds', clock_timestamp() - (f->>'dropped_at')::timestamptz)),
	       'Raise coupon.stock_map_memory (maps) or coupon.max_campaigns (places), and restart.', 'Maps are evicted')
	 WHERE (f->>'maps_dropped')::bigint + (f->>'slots_taken')::bigint >= 100 AND (f->>'dropped_at')::timestamptz > clock_timestamp() - interval '10 min'
	UNION ALL
	SELECT coupon.finding('error', 'Calls got no room for a stock map', format('%s times since the server started, each an ERROR UC007.', f->>'map_failures'),
	       'Raise coupon.stock_map_memory or coupon.max_campaigns and restart; use fewer campaigns in one transaction.', 'Map memory is short')
	 WHERE (f->>'map_failures')::bigint > 0
	UNION ALL
	SELECT coupon.finding(CASE WHEN (f->>'lines_in_use')::integer >= (s->>'coupon.max_lines')::integer THEN 'error' ELSE 'warning' END,
	       'Lines run out', format('%s of coupon.max_lines = %s are in use by rooms and by campaigns with requests that wait.', f->>'lines_in_use', s->>'coupon.max_lines'),
	       'Raise coupon.max_lines and restart.', 'Lines are full')
	 WHERE (f->>'lines_in_use')::integer >= 0.8 * (s->>'coupon.max_lines')::integer
	UNION ALL
	SELECT coupon.finding('warning', 'There are more rooms than lines', format('%s rooms, coupon.max_lines is %s.', r.n, s->>'coupon.max_lines'),
	       'Raise coupon.max_lines and restart: each room that somebody is in needs one.', 'Lines are full')
	  FROM (SELECT count(*) AS n FROM coupon.room) r WHERE r.n > (s->>'coupon.max_lines')::integer
	UNION ALL
	SELECT coupon.finding('error', 'Requests or visitors got no room', format('%s were refused with UC201 since the server started.', f->>'queue_refused'),
	       'Raise coupon.queue_memory (40 bytes a ticket) or coupon.max_lines, and restart.', 'Lines are full')
	 WHERE (f->>'queue_refused')::bigint > 0
	UNION ALL
	SELECT coupon.finding('notice', 'Refusals were not noted', format('%s since the server started: they came faster than the sweeper writes, or no sweeper runs.', f->>'refusals_lost'),
	       'coupon.refusal lacks some. Nothing need be done.', 'Support and erasure')
	 WHERE (f->>'refusals_lost')::bigint > 0
$$;
COMMENT ON FUNCTION coupon.health_memory(jsonb, jsonb) IS 'A check of coupon_health(): shared memory.';

CREATE FUNCTION coupon.health_sale(s jsonb, f jsonb) RETURNS SETOF coupon.finding
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	WITH line AS MATERIALIZED (SELECT l.* FROM coupon.health_lines() l),
	running AS MATERIALIZED (
		SELECT k.kind, r.n::integer AS n FROM jsonb_array_elements_text(f->'kinds') WITH ORDINALITY k(kind, i)
		  JOIN jsonb_array_elements_text(f->'running') WITH ORDINALITY r(n, i) ON r.i = k.i)
	SELECT coupon.finding('error', 'Requests wait and nobody decides them', format('%s requests of %s campaigns; no "coupon issuer" runs in this database.', sum(l.waiting), count(*)),
	       'See what is said of workers.', 'Requests wait')
	  FROM line l WHERE l.kind = 'requests' AND l.waiting > 0 AND (SELECT r.n = 0 FROM running r WHERE r.kind = 'coupon issuer')
	HAVING count(*) > 0
	UNION ALL
	SELECT coupon.finding('warning', 'Requests may wait and nobody decides them', 'There are rows in coupon.request, nobody has read them since the server started, and no "coupon issuer" runs in this database.',
	       'See what is said of workers.', 'Requests wait')
	 WHERE NOT EXISTS (SELECT FROM line l WHERE l.kind = 'requests') AND (SELECT r.n = 0 FROM running r WHERE r.kind = 'coupon issuer')
	   AND pg_relation_size('coupon.request_0') + pg_relation_size('coupon.request_1') > 0
	   AND EXISTS (SELECT FROM (SELECT q.decided_at FROM coupon.request q LIMIT 10000) q WHERE q.decided_at IS NULL)
	UNION ALL
	SELECT coupon.finding('error', 'Requests of a campaign cannot be decided', format('Campaign %s: %s requests wait, %s attempts failed in a row.', l.id, l.waiting, l.failures),
	       'The server''s log says why: a lock, a full disk, a trigger or a constraint of your own.', 'Requests wait')
	  FROM line l WHERE l.kind = 'requests' AND l.waiting > 0 AND l.failures > 0
	UNION ALL
	SELECT coupon.finding('notice', 'Requests wait for a paused campaign', format('Campaign %s: %s requests.', l.id, l.waiting),
	       format('SELECT coupon_campaign_resume(%s); when the sale is to go on.', l.id), 'Requests wait')
	  FROM line l JOIN coupon.campaign c ON c.campaign_id = l.id AND c.paused AND c.closed_at IS NULL
	 WHERE l.kind = 'requests' AND l.waiting > 0
	UNION ALL
	SELECT coupon.finding('error', 'Rooms admit nobody', format('%s users wait in %s rooms; no "coupon room worker" runs in this database.', sum(l.waiting), count(*)),
	       'See what is said of workers.', 'A room admits nobody')
	  FROM line l WHERE l.kind = 'tickets' AND l.waiting > 0 AND (SELECT r.n = 0 FROM running r WHERE r.kind = 'coupon room worker')
	HAVING count(*) > 0
	UNION ALL
	SELECT coupon.finding('error', 'A room admits nobody', format('Room %L: somebody has locked the row of the ticket that is next, for %s; %s users wait behind it.', o.name, date_trunc('seconds', clock_timestamp() - l.passed_at), l.waiting),
	       'End that transaction: pg_stat_activity shows it, the server''s log names the ticket.', 'A room admits nobody')
	  FROM line l JOIN coupon.room o ON o.room_id = l.id
	 WHERE l.kind = 'tickets' AND l.waiting > 0 AND l.passed_at < clock_timestamp() - interval '10 s'
	UNION ALL
	SELECT coupon.finding('notice', 'A room is paused and users wait', format('Room %L: %s users.', o.name, l.waiting),
	       format('SELECT coupon_room_resume(%L); to admit them.', o.name), 'A room admits nobody')
	  FROM line l JOIN coupon.room o ON o.room_id = l.id AND o.paused
	 WHERE l.kind = 'tickets' AND l.waiting > 0
	UNION ALL
	SELECT coupon.finding('error', 'A campaign requires a room that is not there', format('Campaign %s, room %s: everybody is answered not_admitted.', c.campaign_id, c.room_id),
	       format('SELECT coupon_campaign_require_room(%s, NULL); or name another room.', c.campaign_id), 'A room admits nobody')
	  FROM coupon.campaign c
	 WHERE c.room_id IS NOT NULL AND c.closed_at IS NULL AND NOT EXISTS (SELECT FROM coupon.room o WHERE o.room_id = c.room_id)
	   -- that of a node may be at another one
	   AND NOT EXISTS (SELECT FROM coupon.node_self)
	UNION ALL
	SELECT coupon.finding('error', 'A restored copy has not been checked', format('%s campaigns issue nothing.', count(*)),
	       'SELECT * FROM coupon_restored(); says what is missing, and lets those be sold of which everything is there.', 'A copy has not been checked')
	  FROM coupon.campaign c
	 WHERE c.dumped IS NOT NULL
	HAVING count(*) > 0
	UNION ALL
	SELECT coupon.finding('notice', 'The end of a campaign was begun and is not done',
	       format('Campaign %s: coupon_campaign_archive() or coupon_campaign_drop() began to take its rows away %s ago.', c.campaign_id, date_trunc('seconds', clock_timestamp() - c.archived_at)),
	       'If no session is at it any more, make the same call again: it goes on where the first one ended.', 'A campaign is half archived')
	  FROM coupon.campaign c
	 WHERE c.archived_at < clock_timestamp() - interval '1 min'
	UNION ALL
	SELECT coupon.finding('warning', 'A transaction keeps units', format('Process %s (%s) has been open for %s and has written issuances: its units are neither free nor sold.', a.pid, a.state, date_trunc('seconds', clock_timestamp() - a.xact_start)),
	       format('SELECT pg_terminate_backend(%s); and set idle_in_transaction_session_timeout.', a.pid), 'Answers are busy')
	  FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
	 WHERE l.relation = 'coupon.issuance'::regclass AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
	   AND l.mode = 'RowExclusiveLock' AND l.granted AND a.xact_start < clock_timestamp() - interval '1 min' AND a.pid <> pg_backend_pid()
	   AND a.backend_type NOT LIKE 'autovacuum%'
	UNION ALL
	SELECT coupon.finding('warning', 'A prepared transaction keeps units', format('"%s" was prepared %s ago and has written issuances.', p.gid, date_trunc('seconds', clock_timestamp() - p.prepared)),
	       format('COMMIT PREPARED %L; or ROLLBACK PREPARED %L;', p.gid, p.gid), 'Answers are busy')
	  FROM pg_prepared_xacts p
	  -- it keeps the virtual id of the session that it was prepared in
	  JOIN pg_locks x ON x.pid IS NULL AND x.locktype = 'transactionid' AND x.transactionid = p.transaction
	  JOIN pg_locks l ON l.pid IS NULL AND l.virtualtransaction = x.virtualtransaction
	 WHERE l.relation = 'coupon.issuance'::regclass AND l.mode = 'RowExclusiveLock'
	   AND p.database = current_database() AND p.prepared < clock_timestamp() - interval '1 min'
$$;
COMMENT ON FUNCTION coupon.health_sale(jsonb, jsonb) IS 'A check of coupon_health(): requests, rooms, transactions.';

CREATE FUNCTION coupon.health_nodes(s jsonb, f jsonb) RETURNS SETOF coupon.finding
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	WITH node AS (
		SELECT n.* FROM coupon.node n WHERE EXISTS (SELECT FROM coupon.node_self) AND NOT pg_is_in_recovery())
	SELECT coupon.finding('error', 'This node shares nothing', 'coupon.cluster is off: slots and units stay where they are, and no other server that takes its place is noticed.',
	       'ALTER SYSTEM SET coupon.cluster = on; SELECT pg_reload_conf();', 'Nodes do not share')
	 WHERE EXISTS (SELECT FROM node) AND s->>'coupon.cluster' = 'off'
	UNION ALL
	SELECT coupon.finding('error', 'This node is not confirmed and sells nothing',
	       'Since this server started no other node has confirmed that no standby has taken its place: calls are refused with UC302.',
	       'Start another node, see that it can be reached from here, and see what is said of workers.', 'Nodes do not share')
	 WHERE EXISTS (SELECT FROM node) AND s->>'coupon.cluster' = 'on' AND NOT coupon.node_confirmed()
	   AND clock_timestamp() - pg_postmaster_start_time() > interval '10 s'
	UNION ALL
	SELECT coupon.finding('error', 'A node does not answer', format('Node %s (%s), for %s: %s', n.node_id, n.name, date_trunc('seconds', clock_timestamp() - k.since), k.problem),
	       'Start it, promote its standby, or say with coupon_node_address() where it is. Until then its users are out, and who finds nothing elsewhere is told busy.', 'Nodes do not share')
	  FROM node n JOIN coupon.node_copy k ON k.node_id = n.node_id
	 WHERE n.state <> 'gone' AND k.since < clock_timestamp() - interval '5 s'
	UNION ALL
	SELECT coupon.finding('error', 'A node does not take slots', format('Node %s (%s), for %s: %s', n.node_id, n.name, date_trunc('seconds', clock_timestamp() - p.noted_at), p.problem),
	       'Mend what it says. Their users are served once it takes them: they are sent again and again.', 'Nodes do not share')
	  FROM node n JOIN coupon.slot_parcel p ON p.receiver = n.node_id AND p.state = 'sent' AND p.problem IS NOT NULL AND p.noted_at < clock_timestamp() - interval '5 s'
	UNION ALL
	SELECT coupon.finding('warning', 'Units do not arrive', format('%s transfers to node %s (%s), the oldest for %s.', count(*), n.node_id, n.name, date_trunc('seconds', clock_timestamp() - min(t.noted_at))),
	       'If the node answers see what is said of workers, here and there: they are sent again and again.', 'Nodes do not share')
	  FROM node n JOIN coupon.transfer t ON t.receiver = n.node_id AND t.state = 'cut' AND t.due_at <> 'infinity' AND t.noted_at < clock_timestamp() - interval '30 s'
	 GROUP BY n.node_id, n.name
	UNION ALL
	SELECT coupon.finding('error', 'The transfer worker stands', format('Of what it has to do %s steps have been due for %s.', count(*), date_trunc('seconds', clock_timestamp() - min(w.due_at))),
	       'coupon.stat_worker shows its errors, and the server''s log says why; pg_stat_activity shows what it waits for.', 'Nodes do not share')
	  FROM (SELECT t.due_at FROM coupon.transfer t WHERE t.state IN ('cut', 'received') AND t.due_at < clock_timestamp() - interval '60 s'
	           -- what waits for a node that does not answer is said above
	           AND CASE t.state WHEN 'cut' THEN t.receiver ELSE t.donor END <> ALL (coupon.nodes_silent())
	        UNION ALL
	        SELECT p.due_at FROM coupon.slot_parcel p WHERE p.state = 'sent' AND p.due_at < clock_timestamp() - interval '60 s') w
	 WHERE EXISTS (SELECT FROM node)
	HAVING count(*) > 0
$$;
COMMENT ON FUNCTION coupon.health_nodes(jsonb, jsonb) IS 'A check of coupon_health(): the other nodes.';

-- What the laws rest on.  coupon_verify() reads the rows; this only looks whether what
-- guards them is there.
CREATE FUNCTION coupon.health_guards(s jsonb, f jsonb) RETURNS SETOF coupon.finding
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coupon.finding('error', 'A trigger of coupon is disabled', format('Trigger %s on coupon.%s.', t.tgname, c.relname),
	       format('ALTER TABLE coupon.%I ENABLE %sTRIGGER %I; then SELECT * FROM coupon_verify();', c.relname,
	              CASE WHEN t.tgname ~ '_(changed|deleted|arrived|returned)$' OR t.tgname IN ('refuse_truncate', 'campaign_guard') THEN 'ALWAYS ' ELSE '' END, t.tgname), 'A guard is missing')
	  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
	 WHERE c.relnamespace = 'coupon'::regnamespace AND p.pronamespace = 'coupon'::regnamespace AND NOT t.tgisinternal AND t.tgenabled IN ('D', 'R')
	UNION ALL
	SELECT coupon.finding('error', format('Index coupon.%s is missing', k.name), 'A unit could be sold twice, or a user have too many.',
	       'Pause the sale, create it again as the extension''s script does, then SELECT * FROM coupon_verify();', 'A guard is missing')
	  FROM (VALUES ('issuance_serial_key'), ('issuance_user_key')) k(name)
	 WHERE NOT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
	                    WHERE i.indrelid = 'coupon.issuance'::regclass AND c.relname = k.name AND i.indisunique)
	UNION ALL
	SELECT coupon.finding('error', format('Index coupon.%s is invalid', c.relname), 'A REINDEX or CREATE INDEX CONCURRENTLY did not end well.',
	       CASE WHEN i.indisunique THEN format('REINDEX INDEX coupon.%I; then SELECT * FROM coupon_verify();', c.relname)
	            ELSE format('DROP INDEX coupon.%I; if its name ends in _ccnew or _ccold, else REINDEX INDEX coupon.%I;', c.relname, c.relname) END, 'A guard is missing')
	  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
	 WHERE c.relnamespace = 'coupon'::regnamespace AND NOT (i.indisvalid AND i.indisready)
	   AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid)
	UNION ALL
	SELECT coupon.finding('warning', format('Constraint %s is not validated', n.conname), format('On coupon.%s.', n.conrelid::regclass),
	       format('ALTER TABLE %s VALIDATE CONSTRAINT %I;', n.conrelid::regclass, n.conname), 'A guard is missing')
	  FROM pg_constraint n WHERE n.connamespace = 'coupon'::regnamespace AND NOT n.convalidated
$$;
COMMENT ON FUNCTION coupon.health_guards(jsonb, jsonb) IS 'A check of coupon_health(): constraints, indexes and triggers.';

CREATE FUNCTION coupon.health_settings(s jsonb, f jsonb) RETURNS SETOF coupon.finding
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coupon.finding('error', format('Setting %s is not applied', e.name), format('Line %s of %s: %s.', e.sourceline, regexp_replace(e.sourcefile, '^.*/', ''),
	              CASE WHEN s ? e.name THEN 'the value cannot be applied' ELSE 'there is no setting of that name' END),
	       'Correct the line; pg_settings lists the settings that there are (name LIKE ''coupon.%'').', 'A setting is not applied')
	  FROM pg_file_settings e
	 WHERE e.error IS NOT NULL AND NOT EXISTS (SELECT FROM pg_settings p WHERE p.name = e.name AND p.pending_restart)
	UNION ALL
	SELECT coupon.finding('warning', format('Setting %s waits for a restart', p.name), 'The file has another value than the server.',
	       'Restart the server.', 'A setting is not applied')
	  FROM pg_settings p
	 WHERE p.pending_restart AND (p.name LIKE 'coupon.%' OR p.name IN ('shared_preload_libraries', 'max_worker_processes', 'max_connections'))
	UNION ALL
	SELECT coupon.finding('warning', 'Callers are cancelled before they are answered busy', format('coupon.sold_out_wait is %s ms, statement_timeout %s ms.', s->>'coupon.sold_out_wait', s->>'statement_timeout'),
	       'Set coupon.sold_out_wait well below statement_timeout.', 'Settings do not fit together')
	 WHERE (s->>'statement_timeout')::integer BETWEEN 1 AND (s->>'coupon.sold_out_wait')::integer
	UNION ALL
	SELECT coupon.finding('warning', 'Calls over HTTP are cancelled before they are answered busy', format('coupon.sold_out_wait is %s ms, coupon.http_statement_timeout %s ms.', s->>'coupon.sold_out_wait', s->>'coupon.http_statement_timeout'),
	       'Set coupon.sold_out_wait well below coupon.http_statement_timeout.', 'Settings do not fit together')
	 WHERE s->>'coupon.http_listen' <> '' AND (s->>'coupon.http_statement_timeout')::integer <= (s->>'coupon.sold_out_wait')::integer
	UNION ALL
	SELECT coupon.finding('warning', 'A lock timeout is longer than the statement may take', format('coupon.http_lock_timeout is %s ms, coupon.http_statement_timeout %s ms.', s->>'coupon.http_lock_timeout', s->>'coupon.http_statement_timeout'),
	       'Set coupon.http_lock_timeout below coupon.http_statement_timeout.', 'Settings do not fit together')
	 WHERE s->>'coupon.http_listen' <> '' AND (s->>'coupon.http_statement_timeout')::integer <= (s->>'coupon.http_lock_timeout')::integer
	UNION ALL
	SELECT coupon.finding('warning', 'Topics are created with one replica', 'coupon.kafka_create_topics is on and coupon.kafka_replication is 1: the loss of a broker loses events.',
	       'Set coupon.kafka_replication to 3, or create the topics yourself.', 'Settings do not fit together')
	 WHERE s->>'coupon.kafka_create_topics' = 'on' AND s->>'coupon.kafka_replication' = '1' AND s->>'coupon.kafka_brokers' LIKE '%,%'
$$;
COMMENT ON FUNCTION coupon.health_settings(jsonb, jsonb) IS 'A check of coupon_health(): settings.';

CREATE FUNCTION coupon.health_findings() RETURNS SETOF coupon.finding
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	checks CONSTANT text[] := ARRAY['server', 'workers', 'http', 'events', 'memory', 'sale', 'nodes', 'guards', 'settings'];
	s jsonb;
	f jsonb;
	one text;
BEGIN
	SELECT jsonb_object_agg(p.name, p.setting) INTO s FROM pg_settings p;
	SELECT to_jsonb(x) INTO f FROM coupon.health_facts() x;
	FOREACH one IN ARRAY checks
	LOOP
		-- these need its settings and its memory
		CONTINUE WHEN NOT (f->>'preloaded')::boolean AND one IN ('workers', 'http', 'memory', 'sale', 'nodes');
		BEGIN
			CASE one
				WHEN 'server' THEN RETURN QUERY SELECT h.* FROM coupon.health_server(s, f) h;
				WHEN 'workers' THEN RETURN QUERY SELECT h.* FROM coupon.health_workers(s, f) h;
				WHEN 'http' THEN RETURN QUERY SELECT h.* FROM coupon.health_http(s, f) h;
				WHEN 'events' THEN RETURN QUERY SELECT h.* FROM coupon.health_events(s, f) h;
				WHEN 'memory' THEN RETURN QUERY SELECT h.* FROM coupon.health_memory(s, f) h;
				WHEN 'sale' THEN RETURN QUERY SELECT h.* FROM coupon.health_sale(s, f) h;
				WHEN 'nodes' THEN RETURN QUERY SELECT h.* FROM coupon.health_nodes(s, f) h;
				WHEN 'guards' THEN RETURN QUERY SELECT h.* FROM coupon.health_guards(s, f) h;
				ELSE RETURN QUERY SELECT h.* FROM coupon.health_settings(s, f) h;
			END CASE;
		EXCEPTION
			WHEN OTHERS THEN
				RETURN QUERY SELECT x.* FROM coupon.finding('warning', format('The check "%s" failed', one), SQLERRM,
					'Mend what it says; the other checks were made.', 'A check failed') x;
		END;
	END LOOP;
END
$$;
COMMENT ON FUNCTION coupon.health_findings() IS 'All checks of coupon_health().';

CREATE FUNCTION @extschema@.coupon_health() RETURNS SETOF coupon.finding
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT h.* FROM coupon.health_findings() h
	 ORDER BY array_position(ARRAY['error', 'warning', 'notice'], h.severity), h.what, h.detail
$$;
COMMENT ON FUNCTION @extschema@.coupon_health() IS
	'What is wrong in this database and its server, and what to do, a row each; none when all is well. It never fails, and works on a standby.';

CREATE FUNCTION @extschema@.coupon_doctor() RETURNS SETOF text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	h record;
	n integer := 0;
BEGIN
	FOR h IN SELECT x.* FROM coupon.health_findings() x
	          ORDER BY array_position(ARRAY['error', 'warning', 'notice'], x.severity), x.what, x.detail
	LOOP
		n := n + 1;
		RETURN QUERY SELECT format('%s. %s: %s', n, upper(h.severity), h.what);
		RETURN QUERY SELECT rtrim('   ' || m.line[1]) FROM regexp_matches(h.detail, '(\S.{0,75}(?!\S)|\S{76,})', 'g') m(line);
		RETURN QUERY SELECT rtrim(CASE WHEN m.i = 1 THEN '   -> ' ELSE '      ' END || m.line[1])
		  FROM regexp_matches(h.hint, '(\S.{0,72}(?!\S)|\S{73,})', 'g') WITH ORDINALITY m(line, i);
		RETURN QUERY SELECT '   ' || h.page;
	END LOOP;
	IF n = 0 THEN
		RETURN QUERY SELECT format('All is well in database "%s".', current_database());
	END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_doctor() IS 'coupon_health() for people to read.';

SELECT coupon.warn_without_workers(false);

-- A dump, and what is made of it.  A dump says of each campaign how many rows it has; so
-- a copy into which they were not all loaded is known, and is not taken for a sale that
-- has issued nothing.  Until it is checked the sweeper lets its rows be.

CREATE FUNCTION @extschema@.coupon_restored(
	accept boolean DEFAULT false,
	OUT campaign bigint,
	OUT problem text,
	OUT detail text)
RETURNS SETOF record
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_hashjoin = on SET jit = off
AS $$
DECLARE
	bad bigint[] := '{}';
	letters bigint;
	dumped_letters bigint;
BEGIN
	PERFORM FROM coupon.campaign c WHERE c.dumped IS NOT NULL ORDER BY c.campaign_id FOR NO KEY UPDATE;
	FOR campaign, problem, detail IN
		SELECT v.campaign, v.law, concat_ws(', ', 'serial ' || v.serial, 'user ' || v.user_id, v.detail)
		  FROM coupon.verify(NULL) v
		UNION ALL
		SELECT m.campaign_id, 'rows are missing', m.detail
		  FROM (SELECT c.campaign_id,
		               (SELECT string_agg(format('%s %s of %s', r.kind, coalesce(r.n, 0), r.dumped), ', ')
		                  FROM (VALUES ('shards', s.n, c.dumped[1]), ('labels', u.n, c.dumped[2]), ('issuances and holds', i.n, c.dumped[3]),
		                               ('request keys', k.n, c.dumped[4]), ('memories of holds', l.n, c.dumped[5])) r(kind, n, dumped)
		                 WHERE coalesce(r.n, 0) < r.dumped) AS detail
		          FROM coupon.campaign c
		          LEFT JOIN (SELECT x.campaign_id, count(*) AS n FROM coupon.shard x GROUP BY 1) s ON s.campaign_id = c.campaign_id
		          LEFT JOIN (SELECT x.campaign_id, count(*) AS n FROM coupon.unit x GROUP BY 1) u ON u.campaign_id = c.campaign_id
		          LEFT JOIN (SELECT x.campaign_id, count(*) AS n FROM coupon.issuance x GROUP BY 1) i ON i.campaign_id = c.campaign_id
		          LEFT JOIN (SELECT x.campaign_id, count(*) AS n FROM coupon.request_key x GROUP BY 1) k ON k.campaign_id = c.campaign_id
		          LEFT JOIN (SELECT x.campaign_id, count(*) AS n FROM coupon.lapsed_hold x GROUP BY 1) l ON l.campaign_id = c.campaign_id
		         WHERE c.dumped IS NOT NULL) m
		 WHERE m.detail IS NOT NULL
		 ORDER BY 1, 2, 3
	LOOP
		bad := bad || campaign;
		RETURN NEXT;
	END LOOP;
	-- they may be of any campaign, so they keep all of them
	SELECT count(*) INTO letters FROM coupon.dead_letter;
	SELECT max(c.dumped[6]) INTO dumped_letters FROM coupon.campaign c WHERE c.dumped IS NOT NULL;
	IF letters < dumped_letters THEN
		campaign := NULL;
		problem := 'rows are missing';
		detail := format('dead letters %s of %s', letters, dumped_letters);
		bad := bad || campaign;
		RETURN NEXT;
	END IF;
	UPDATE coupon.campaign c SET dumped = NULL
	 WHERE c.dumped IS NOT NULL
	   AND (coalesce(accept, false) OR array_position(bad, NULL) IS NULL AND c.campaign_id <> ALL (bad));
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_restored(boolean) IS
	'Once a dump is restored: lets those campaigns be sold of which all rows are there and which break no law, and returns what is wrong with the others. They stay paused; accept lets them be sold nevertheless.';

-- pg_dump reads coupon.campaign with this condition behind the table's name: in place of
-- its rows the same ones, with the number of theirs in the other tables.
DO $$
DECLARE
	columns text;
BEGIN
	SELECT string_agg(CASE a.attname
	                  WHEN 'dumped' THEN 'coalesce(c.dumped, ARRAY[coalesce(s.n, 0), coalesce(u.n, 0), coalesce(i.n, 0),'
	                                ' coalesce(k.n, 0), coalesce(l.n, 0), (SELECT count(*) FROM coupon.dead_letter)])'
	                  ELSE format('c.%I', a.attname) END, ', ' ORDER BY a.attnum)
	  INTO STRICT columns
	  FROM pg_attribute a
	 WHERE a.attrelid = 'coupon.campaign'::regclass AND a.attnum > 0 AND NOT a.attisdropped;
	PERFORM pg_extension_config_dump('coupon.campaign', format(
		'WHERE false UNION ALL SELECT %s FROM coupon.campaign c'
		' LEFT JOIN (SELECT campaign_id, count(*) AS n FROM coupon.shard GROUP BY 1) s ON s.campaign_id = c.campaign_id'
		' LEFT JOIN (SELECT campaign_id, count(*) AS n FROM coupon.unit GROUP BY 1) u ON u.campaign_id = c.campaign_id'
		' LEFT JOIN (SELECT campaign_id, count(*) AS n FROM coupon.issuance GROUP BY 1) i ON i.campaign_id = c.campaign_id'
		' LEFT JOIN (SELECT campaign_id, count(*) AS n FROM coupon.request_key GROUP BY 1) k ON k.campaign_id = c.campaign_id'
		' LEFT JOIN (SELECT campaign_id, count(*) AS n FROM coupon.lapsed_hold GROUP BY 1) l ON l.campaign_id = c.campaign_id',
		columns));
END
$$;

-- HTTP. A route maps a method and a path to a function; the front, a background
-- worker, serves them. The functions here are the neutral contract: they take
-- all calls that came at the same moment as arrays, and give one answer each.

CREATE TYPE coupon.http_answer AS (
	status  integer,
	headers text[],
	body    json,
	pending boolean
);
COMMENT ON TYPE coupon.http_answer IS
	'answer of a batched function to one call: the status, headers as name, value, ..., the body; pending: it may change by itself, so that who can wait may';
COMMENT ON COLUMN coupon.http_answer.status IS 'The status code.';
COMMENT ON COLUMN coupon.http_answer.headers IS 'Headers, as name, value, name, value ...; null: none.';
COMMENT ON COLUMN coupon.http_answer.body IS 'The body; null: none.';
COMMENT ON COLUMN coupon.http_answer.pending IS 'Whether the answer may change by itself, so that a call that can wait does.';

CREATE TABLE coupon.route (
	method         text COLLATE "C" NOT NULL CHECK (method OPERATOR(pg_catalog.=) ANY (ARRAY['GET'::pg_catalog.text, 'POST'::pg_catalog.text, 'PUT'::pg_catalog.text, 'PATCH'::pg_catalog.text, 'DELETE'::pg_catalog.text])),
	path           text COLLATE "C" NOT NULL,
	function       text COLLATE "C",
	batched        boolean NOT NULL,
	role           regrole,
	anonymous_role regrole,
	admin          boolean NOT NULL,
	PRIMARY KEY (path, method)
);
-- The built-in routes are no rows, so that neither a restored table nor a
-- subscriber's first copy meets them twice.
COMMENT ON TABLE coupon.route IS 'The routes that were added, and those built-in ones that were taken away. coupon.http_route shows all that are served.';
COMMENT ON COLUMN coupon.route.method IS 'GET serves HEAD, too';
COMMENT ON COLUMN coupon.route.path IS 'a template: /campaigns/{campaign_id}/issues';
COMMENT ON COLUMN coupon.route.function IS 'The signature of the function, with its schema; null: the built-in route of this method and path is not served.';
COMMENT ON COLUMN coupon.route.batched IS 'it takes arrays, and gives one coupon.http_answer for each element';
COMMENT ON COLUMN coupon.route.role IS 'whoever calls must be a member of it; null: anybody who may execute the function';
COMMENT ON COLUMN coupon.route.anonymous_role IS 'whose rights a call without a token has; null: those of coupon.http_role';
COMMENT ON COLUMN coupon.route.admin IS 'served at coupon.http_admin_listen, where that is set';

SELECT pg_catalog.pg_extension_config_dump('coupon.route', '');

CREATE FUNCTION coupon.route_changed() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'coupon_route_changed';
COMMENT ON FUNCTION coupon.route_changed() IS 'has the routes read again when a change commits';
CREATE TRIGGER route_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON coupon.route
	FOR EACH STATEMENT EXECUTE FUNCTION coupon.route_changed();
ALTER TABLE coupon.route ENABLE ALWAYS TRIGGER route_changed;

CREATE FUNCTION coupon.route_check(method text, path text, function text, batched boolean) RETURNS void
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'coupon_route_check';
COMMENT ON FUNCTION coupon.route_check(text, text, text, boolean) IS 'an error for a route that the front could not serve';

CREATE FUNCTION coupon.route_function(signature text) RETURNS regprocedure
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'coupon_route_function';
COMMENT ON FUNCTION coupon.route_function(text) IS 'The function of a route; null where it, or the type of an argument, is not there any more.';

CREATE VIEW coupon.built_in_route AS
SELECT b.method, b.path, b.function, b.batched, b.admin,
       CASE WHEN b.admin THEN pg_catalog.to_regrole('coupon_reader') END AS anonymous_role
  FROM (VALUES
	('POST', '/campaigns/{campaign_id}/issues', 'coupon.http_issue(bigint[],text[],text[],text[])', true, false),
	('POST', '/campaigns/{campaign_id}/requests', 'coupon.http_request(bigint[],text[],text[],text[])', true, false),
	('GET', '/campaigns/{campaign_id}/requests/{request_id}', 'coupon.http_request_status(bigint[],uuid[])', true, false),
	('POST', '/campaigns/{campaign_id}/holds', 'coupon.http_hold(bigint,text,bigint,interval,text)', false, false),
	('POST', '/campaigns/{campaign_id}/holds/{serial}/confirmation', 'coupon.http_confirm(bigint,bigint,text,text)', false, false),
	('DELETE', '/campaigns/{campaign_id}/holds/{serial}', 'coupon.http_release(bigint,bigint,text)', false, false),
	('POST', '/rooms/{room}/tickets', 'coupon.http_join(text[],text[])', true, false),
	('GET', '/rooms/{room}/tickets/{token}', 'coupon.http_position(text[],text[])', true, false),
	('DELETE', '/rooms/{room}/tickets/{token}', 'coupon.http_leave(text[],text[])', true, false),
	('GET', '/campaigns/{campaign_id}', 'coupon.http_status(bigint[])', true, false),
	('GET', '/openapi.json', 'coupon.http_openapi()', false, false),
	('GET', '/metrics', 'coupon.http_metrics()', false, true),
	('GET', '/board.json', 'coupon.http_board()', false, true)) b(method, path, function, batched, admin);
COMMENT ON VIEW coupon.built_in_route IS 'The routes of the extension itself.';
COMMENT ON COLUMN coupon.built_in_route.method IS 'The method. GET serves HEAD, too.';
COMMENT ON COLUMN coupon.built_in_route.path IS 'A template of the path.';
COMMENT ON COLUMN coupon.built_in_route.function IS 'The signature of the function, with its schema.';
COMMENT ON COLUMN coupon.built_in_route.batched IS 'Whether it takes arrays, and gives one coupon.http_answer for each element.';
COMMENT ON COLUMN coupon.built_in_route.admin IS 'Whether it is served at coupon.http_admin_listen, where that is set.';
COMMENT ON COLUMN coupon.built_in_route.anonymous_role IS 'The role whose rights a call without a token has; null: coupon.http_role.';

CREATE VIEW coupon.http_route AS
SELECT r.method, r.path, r.function, r.batched, r.role, r.anonymous_role, r.admin
  FROM coupon.route r WHERE r.function IS NOT NULL
UNION ALL
SELECT b.method, b.path, b.function, b.batched, NULL, b.anonymous_role, b.admin
  FROM coupon.built_in_route b
 WHERE NOT EXISTS (SELECT FROM coupon.route r WHERE r.method = b.method AND r.path = b.path);
COMMENT ON VIEW coupon.http_route IS 'What the HTTP front serves.';
COMMENT ON COLUMN coupon.http_route.method IS 'The method. GET serves HEAD, too.';
COMMENT ON COLUMN coupon.http_route.path IS 'A template of the path.';
COMMENT ON COLUMN coupon.http_route.function IS 'The signature of the function, with its schema.';
COMMENT ON COLUMN coupon.http_route.batched IS 'Whether it takes arrays, and gives one coupon.http_answer for each element.';
COMMENT ON COLUMN coupon.http_route.role IS 'Who calls must be a member of this role; null: anybody who may execute the function.';
COMMENT ON COLUMN coupon.http_route.anonymous_role IS 'The role whose rights a call without a token has; null: coupon.http_role.';
COMMENT ON COLUMN coupon.http_route.admin IS 'Whether it is served at coupon.http_admin_listen, where that is set.';

CREATE FUNCTION @extschema@.coupon_route_add(
	method text, path text, function regprocedure, batched boolean DEFAULT false,
	role regrole DEFAULT NULL, anonymous_role regrole DEFAULT NULL, admin boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	-- with its schema: nothing but pg_catalog is in the path
	signature text := function::text;
	over_http boolean := (SELECT a.backend_type = 'coupon front' FROM pg_stat_get_activity(pg_backend_pid()) a);
	-- PostgREST's session is of a user who may be any of its roles, and calls as one of them
	caller name := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END;
BEGIN
	IF method IS NULL OR path IS NULL OR function IS NULL OR batched IS NULL OR admin IS NULL THEN
		RAISE null_value_not_allowed USING
			MESSAGE = 'method, path, function, batched and admin must not be null',
			DETAIL = 'One of them is null.',
			HINT = 'Leave out what should have its default.';
	END IF;
	IF upper(method) NOT IN ('GET', 'POST', 'PUT', 'PATCH', 'DELETE') THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'invalid method',
			DETAIL = format('The value is "%s".', left(method, 64)),
			HINT = 'Use GET, POST, PUT, PATCH or DELETE.';
	END IF;
	IF (SELECT a.rolsuper FROM pg_roles a WHERE a.oid = anonymous_role) THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'a superuser cannot be called without a token',
			DETAIL = format('Role %s is a superuser.', anonymous_role),
			HINT = 'Name a role that has only the rights that anybody may have.';
	END IF;
	IF anonymous_role::oid NOT IN (SELECT a.oid FROM pg_roles a WHERE a.rolname IN ('coupon_reader', 'coupon_user', 'coupon_service'))
		-- over HTTP the session is the server's own, and says nothing of who calls
		AND (over_http OR NOT pg_has_role(caller, anonymous_role, 'MEMBER')) THEN
		RAISE insufficient_privilege USING
			MESSAGE = 'permission denied to give the rights of a role away',
			DETAIL = CASE WHEN over_http THEN format('Over HTTP nobody can tell whether the caller is a member of role %s.', anonymous_role)
			              ELSE format('%I is not a member of role %s.', caller, anonymous_role) END,
			HINT = 'Name coupon_reader, coupon_user or coupon_service, or a role of which you are a member.';
	END IF;
	PERFORM coupon.route_check(upper(method), path, signature, batched);
	IF batched AND NOT (SELECT p.provolatile <> 'v' OR upper(method) <> 'GET' FROM pg_proc p WHERE p.oid = function) THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'a volatile function cannot be reached by GET',
			DETAIL = format('%s is declared VOLATILE.', signature),
			HINT = 'Declare it STABLE if it writes nothing, or use POST.';
	END IF;
	IF NOT EXISTS (SELECT FROM coupon.http_route r WHERE r.method = upper($1) AND r.path = $2) THEN
		INSERT INTO coupon.route AS r (method, path, function, batched, role, anonymous_role, admin)
		VALUES (upper($1), $2, signature, $4, $5, $6, $7)
		ON CONFLICT ON CONSTRAINT route_pkey DO UPDATE
		   SET function = excluded.function, batched = excluded.batched, role = excluded.role,
		       anonymous_role = excluded.anonymous_role, admin = excluded.admin
		 WHERE r.function IS NULL;
		IF FOUND THEN
			RETURN;
		END IF;
	END IF;
	RAISE unique_violation USING
		MESSAGE = 'there is such a route already',
		DETAIL = format('It is %s %s.', upper(method), left(path, 256)),
		HINT = 'Drop it first with coupon_route_drop().';
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_route_add(text, text, regprocedure, boolean, regrole, regrole, boolean) IS
	'has the HTTP front serve a function; arguments are matched by their names with those of path, query and body';

CREATE FUNCTION @extschema@.coupon_route_drop(method text, path text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM coupon.built_in_route b WHERE b.method = upper($1) AND b.path = $2) THEN
		DELETE FROM coupon.route r WHERE r.method = upper($1) AND r.path = $2;
		RETURN FOUND;
	END IF;
	INSERT INTO coupon.route AS r (method, path, batched, admin) VALUES (upper($1), $2, false, false)
	ON CONFLICT ON CONSTRAINT route_pkey DO UPDATE
	   SET function = NULL, batched = false, role = NULL, anonymous_role = NULL, admin = false
	 WHERE r.function IS NOT NULL;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION @extschema@.coupon_route_drop(text, text) IS 'Takes a route away. Returns whether there was one.';

CREATE FUNCTION @extschema@.coupon_http_status(
	OUT answers_2xx bigint, OUT answers_3xx bigint, OUT answers_4xx bigint, OUT answers_5xx bigint,
	OUT average_ms double precision, OUT slowest_ms double precision)
RETURNS record
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'coupon_http_status';
COMMENT ON FUNCTION @extschema@.coupon_http_status() IS 'answers of the HTTP front since the server started or coupon_stat_reset()';

-- ---- the neutral contract ----

CREATE FUNCTION coupon.http_issue(campaign_id bigint[], user_id text[], request_key text[] DEFAULT NULL, traceparent text[] DEFAULT NULL)
RETURNS SETOF coupon.http_answer
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'coupon_http_issue';
COMMENT ON FUNCTION coupon.http_issue(bigint[], text[], text[], text[]) IS
	'POST /campaigns/{campaign_id}/issues - 201 issued, 200 already issued, 409 sold out or held, 403 not admitted, 425 not open, 410 closed or returned, 422 other call, 503 paused or busy, 404 unknown campaign; request_key is the header Idempotency-Key';

CREATE FUNCTION coupon.http_outcome(outcome text) RETURNS coupon.http_answer
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'coupon_http_outcome';
COMMENT ON FUNCTION coupon.http_outcome(text) IS 'The problem (RFC 9457) that an outcome is, where it is no success.';

CREATE FUNCTION coupon.http_request(campaign_id bigint[], user_id text[], request_key text[] DEFAULT NULL, traceparent text[] DEFAULT NULL)
RETURNS SETOF coupon.http_answer
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'coupon_http_request';
COMMENT ON FUNCTION coupon.http_request(bigint[], text[], text[], text[]) IS
	'POST /campaigns/{campaign_id}/requests - 202 with Location, 200 for who has a unit already, 409 sold out or held, 403 not admitted, 425 not open, 410 closed, 503 paused or busy or full, 404 unknown campaign; request_key is the header Idempotency-Key';

CREATE FUNCTION coupon.http_request_status(campaign_id bigint[], request_id uuid[]) RETURNS SETOF coupon.http_answer
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'coupon_http_request_status';
COMMENT ON FUNCTION coupon.http_request_status(bigint[], uuid[]) IS
	'GET /campaigns/{campaign_id}/requests/{request_id} - 200 waiting or completed, 404 not requested; waits with Prefer: wait=N; events with Accept: text/event-stream';

CREATE FUNCTION coupon.http_join(room text[], user_id text[]) RETURNS SETOF coupon.http_answer
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'coupon_http_join';
COMMENT ON FUNCTION coupon.http_join(text[], text[]) IS
	'POST /rooms/{room}/tickets - 201 with Location and the ticket, the same again for who has one, 404 unknown room, 503 the room lets nobody in or busy';

-- The token is a secret, so it says by itself which room it is of.
CREATE FUNCTION coupon.http_position(room text[], token text[]) RETURNS SETOF coupon.http_answer
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'coupon_http_position';
COMMENT ON FUNCTION coupon.http_position(text[], text[]) IS
	'GET /rooms/{room}/tickets/{token} - 200 waiting or admitted, 410 when it has ended; events with Accept: text/event-stream';

CREATE FUNCTION coupon.http_leave(room text[], token text[]) RETURNS SETOF coupon.http_answer
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'coupon_http_leave';
COMMENT ON FUNCTION coupon.http_leave(text[], text[]) IS
	'DELETE /rooms/{room}/tickets/{token} - 204, also when it has ended already, 400 no token, 503 busy';

-- Each campaign is looked at once, and described once, however many ask for it. In
-- plpgsql, which keeps its plan: a function in SQL is planned for every batch.
CREATE FUNCTION coupon.http_status(campaign_id bigint[]) RETURNS SETOF coupon.http_answer
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT (CASE WHEN s.campaign_id IS NULL THEN coupon.http_outcome('unknown_campaign')
		ELSE ROW(200, NULL::text[], s.body, false)::coupon.http_answer END).*
	  FROM unnest($1) WITH ORDINALITY AS u(campaign_id, n)
	       LEFT JOIN (SELECT c.campaign_id, json_strip_nulls(json_build_object(
			'campaign_id', c.campaign_id, 'name', c.name, 'state', c.state, 'stock', c.stock, 'issued', c.issued, 'held', c.held,
			'remaining', c.remaining)) AS body
	                    FROM (SELECT DISTINCT a.campaign_id FROM unnest($1) AS a(campaign_id)) d
	                    JOIN coupon.campaign_status c ON c.campaign_id = d.campaign_id OFFSET 0) s
	              ON s.campaign_id = u.campaign_id
	 ORDER BY u.n;
END
$$;
COMMENT ON FUNCTION coupon.http_status(bigint[]) IS 'GET /campaigns/{campaign_id} - 200 what is left of it, 404 unknown campaign';

-- What became of a hold, or of its end.
CREATE FUNCTION coupon.http_hold_answer(result coupon.hold_result, status integer) RETURNS json
LANGUAGE sql VOLATILE
RETURN CASE
	WHEN ($1).status OPERATOR(pg_catalog.=) ANY (ARRAY['held'::text, 'already_held', 'confirmed', 'already_confirmed', 'released'])
		AND pg_catalog.set_config('response.status', (CASE ($1).status WHEN 'held' THEN $2 ELSE 200 END)::text, true) IS NOT NULL
	THEN pg_catalog.json_strip_nulls(pg_catalog.row_to_json($1))
	WHEN pg_catalog.set_config('response.status', ((coupon.http_outcome(($1).status)).status)::text, true) IS NOT NULL
		AND pg_catalog.set_config('response.headers', '[{"Content-Type": "application/problem+json"}]', true) IS NOT NULL
	THEN (coupon.http_outcome(($1).status)).body
END;
COMMENT ON FUNCTION coupon.http_hold_answer(coupon.hold_result, integer) IS 'a hold as JSON, with its status';

-- Is it an application that calls, and not a user with a token of their own?  Who
-- calls in SQL is asked by the privileges.
CREATE FUNCTION coupon.http_is_application() RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	claims text := coalesce(current_setting('request.jwt.claims', true), '');
BEGIN
	RETURN claims = '' OR EXISTS (
		SELECT FROM pg_roles r, pg_roles g
		 WHERE r.rolname = claims::json ->> 'role' AND g.rolname IN ('coupon_service', 'coupon_admin') AND pg_has_role(r.oid, g.oid, 'MEMBER'));
END
$$;
COMMENT ON FUNCTION coupon.http_is_application() IS 'Whether the caller''s role may speak for all users, even if the token names one.';

CREATE FUNCTION coupon.http_hold(campaign_id bigint, user_id text, serial bigint DEFAULT NULL, ttl interval DEFAULT NULL, request_key text DEFAULT NULL) RETURNS json
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- else anybody would keep a seat for days, and pay for nothing
	IF $4 IS NOT NULL AND NOT coupon.http_is_application() THEN
		RAISE SQLSTATE 'PT403' USING MESSAGE = 'How long a unit is held is the application''s to say.';
	END IF;
	RETURN coupon.http_hold_answer(
		CASE WHEN $3 IS NULL THEN @extschema@.coupon_hold_any($1, $2, coalesce($4, '5 min'), $5)
		     ELSE @extschema@.coupon_hold($1, $3, $2, coalesce($4, '5 min'), $5) END, 201);
END
$$;
COMMENT ON FUNCTION coupon.http_hold(bigint, text, bigint, interval, text) IS
	'POST /campaigns/{campaign_id}/holds - 201 held, 200 held before, 409 taken or sold out or limit reached, 403 not admitted or a ttl without coupon_service, 425 not open, 410 closed or returned, 422 other call, 503 paused or busy, 404 unknown campaign or unit; the unit of that serial, or any; request_key is the header Idempotency-Key';

CREATE FUNCTION coupon.http_confirm(campaign_id bigint, serial bigint, user_id text, ref text) RETURNS json
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN coupon.http_hold_answer(@extschema@.coupon_confirm($1, $2, $3, $4), 200);
COMMENT ON FUNCTION coupon.http_confirm(bigint, bigint, text, text) IS
	'POST /campaigns/{campaign_id}/holds/{serial}/confirmation - 200 confirmed, 403 without coupon_service, 410 lost, 404 not held, 409 limit reached or paid for otherwise, 503 busy';

CREATE FUNCTION coupon.http_release(campaign_id bigint, serial bigint, user_id text) RETURNS json
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN coupon.http_hold_answer(ROW($3, CASE WHEN @extschema@.coupon_release($1, $2, $3) THEN 'released' ELSE 'not_held' END, $2, NULL, NULL)::coupon.hold_result, 200);
COMMENT ON FUNCTION coupon.http_release(bigint, bigint, text) IS 'DELETE /campaigns/{campaign_id}/holds/{serial} - 200 released, 404 not held';

-- What the board shows.  Nothing here tells of a user, and there is no more of
-- it than coupon.watched_campaign() has rows.

-- The campaigns that are shown one by one: those that sell, then the newest.  One that
-- is over is shown as long as its map is there: after a restart the front would read
-- all of its issuances for this, while calls wait.
CREATE FUNCTION coupon.watched_campaign() RETURNS SETOF coupon.campaign_status
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY SELECT s.* FROM coupon.campaign_status s
	 WHERE s.campaign_id = ANY (ARRAY(
		SELECT w.campaign_id FROM coupon.campaign w
		 WHERE coalesce(w.closed_at, w.closes_at) <= clock_timestamp() IS NOT TRUE
		    OR w.campaign_id IN (SELECT m.campaign_id FROM coupon.stat_campaigns(NULL) m WHERE m.map_bytes IS NOT NULL)
		 ORDER BY coalesce(w.closed_at, w.closes_at) <= clock_timestamp() IS TRUE, w.campaign_id DESC
		 LIMIT 50))
	 ORDER BY s.state = 'closed', s.campaign_id DESC;
END
$$;
COMMENT ON FUNCTION coupon.watched_campaign() IS 'coupon.campaign_status of 50 campaigns at most: those that are not closed first, of these the newest; of others those that memory has a map of.';

CREATE FUNCTION coupon.http_board() RETURNS json
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	selling boolean := NOT pg_is_in_recovery();
BEGIN
	PERFORM set_config('response.headers', '[{"Cache-Control": "no-store"}]', true);
	RETURN (WITH answers AS (SELECT c.way, c.outcome, c.calls FROM coupon.stat_call c WHERE c.way LIKE 'http%' AND c.way <> 'http_issue' AND c.calls > 0)
	SELECT json_build_object(
		'at', round(extract(epoch FROM clock_timestamp()) * 1000),
		'standby', NOT selling,
		'http', (SELECT json_build_object(
				'answers', (SELECT coalesce(json_object_agg(a.outcome, a.calls), '{}') FROM (
					SELECT s.outcome, sum(s.calls) AS calls FROM answers s GROUP BY s.outcome) a),
				'refused', json_build_object('rate', f.refused_rate, 'full', f.refused_full, 'size', f.refused_size),
				'connections', f.connections,
				'max_connections', f.max_connections,
				'waiting', f.waiting,
				'streams', f.streams,
				'seconds', (SELECT json_agg(CASE WHEN u.upper < 'infinity' THEN u.upper END ORDER BY u.upper)
					FROM coupon.stat_latency u WHERE u.way = 'http'),
				'calls', (SELECT json_agg(u.calls ORDER BY u.upper) FROM coupon.stat_latency u WHERE u.way = 'http'),
				'total_seconds', (SELECT w.seconds FROM coupon.stat_way w WHERE w.way = 'http'))
			FROM coupon.stat_front f),
		'campaigns', (SELECT coalesce(json_agg(json_build_object(
				'id', w.campaign_id, 'name', w.name, 'state', w.state, 'stock', w.stock, 'issued', w.issued, 'held', w.held,
				'in_flight', w.in_flight, 'remaining', w.remaining,
				'answers', json_build_object('issued', w.answered_issued, 'already_issued', w.answered_already_issued,
					'sold_out', w.answered_sold_out, 'busy', w.answered_busy, 'not_open', w.answered_not_open, 'closed', w.answered_closed,
					'paused', w.answered_paused, 'not_admitted', w.answered_not_admitted, 'held', w.answered_held))), '[]')
			FROM coupon.watched_campaign() w WHERE selling),
		'campaigns_in_all', (SELECT count(*) FROM coupon.campaign),
		'requests', (SELECT coalesce(json_agg(json_build_object('campaign', q.campaign_id, 'waiting', q.waiting, 'limit', q.waiting_limit,
				'oldest_seconds', q.oldest_seconds, 'decided', q.decided)), '[]')
			FROM coupon.stat_queue q WHERE selling),
		'rooms', (SELECT coalesce(json_agg(json_build_object('name', r.name, 'state', r.state, 'method', r.method, 'capacity', r.capacity,
				'waiting', r.waiting, 'admitted', r.admitted, 'joined', r.joined, 'served', r.served) ORDER BY r.name), '[]')
			FROM (SELECT * FROM coupon.room_status WHERE selling ORDER BY room_id LIMIT 50) r),
		'outbox', (SELECT json_build_object('unpublished', o.unpublished, 'oldest_seconds', o.oldest_seconds,
				'published', o.published, 'dead_letters', o.dead_letters, 'bytes', o.size_bytes,
				'failing', o.failing, 'has_broker', o.configured)
			FROM coupon.stat_outbox o WHERE selling),
		'workers', (SELECT coalesce(json_object_agg(a.kind, a.n), '{}') FROM (
			SELECT substr(p.backend_type, 8) AS kind, count(*) AS n FROM pg_stat_activity p
			 WHERE p.backend_type LIKE 'coupon %' GROUP BY 1) a),
		'sessions', json_build_object('open', (SELECT count(*) FROM pg_stat_activity p WHERE p.backend_type = 'client backend'),
			'max', current_setting('max_connections')::bigint)));
END
$$;
COMMENT ON FUNCTION coupon.http_board() IS 'GET /board.json - 200 what the board at /board shows';

-- /openapi.json: what the front serves, as OpenAPI 3.1. All of it comes from the
-- routes and their functions: arguments from the signature, answers from the
-- comment, in which the built-in routes' functions say, after " - ", each status
-- and what it means, and before that which arguments are in the query.

CREATE FUNCTION coupon.openapi_schema(type oid) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	element oid := (SELECT t.typelem FROM pg_type t WHERE t.oid = type AND t.typcategory = 'A');
BEGIN
	IF element IS NOT NULL THEN
		RETURN jsonb_build_object('type', 'array', 'items', coupon.openapi_schema(element));
	END IF;
	RETURN CASE type::regtype::text
		WHEN 'smallint' THEN '{"type": "integer", "format": "int32"}'
		WHEN 'integer' THEN '{"type": "integer", "format": "int32"}'
		WHEN 'bigint' THEN '{"type": "integer", "format": "int64"}'
		WHEN 'numeric' THEN '{"type": "number"}'
		WHEN 'real' THEN '{"type": "number"}'
		WHEN 'double precision' THEN '{"type": "number"}'
		WHEN 'boolean' THEN '{"type": "boolean"}'
		WHEN 'uuid' THEN '{"type": "string", "format": "uuid"}'
		WHEN 'date' THEN '{"type": "string", "format": "date"}'
		WHEN 'timestamp with time zone' THEN '{"type": "string", "format": "date-time"}'
		WHEN 'interval' THEN '{"type": "string", "examples": ["5 min"]}'
		WHEN 'json' THEN '{}'
		WHEN 'jsonb' THEN '{}'
		WHEN 'bytea' THEN '{}'
		ELSE '{"type": "string"}'
	END;
END
$$;
COMMENT ON FUNCTION coupon.openapi_schema(oid) IS 'a type of PostgreSQL as a JSON schema';

-- Where each argument of a route goes. All but those in the path may be in a
-- query, too; the one place is told that a client would choose.
CREATE FUNCTION coupon.openapi_arguments(
	route coupon.http_route, OUT name text, OUT place text, OUT required boolean, OUT schema jsonb)
RETURNS SETOF record
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	proc oid := coupon.route_function(route.function);
	about text := coalesce(obj_description(proc, 'pg_proc'), '');
BEGIN
	RETURN QUERY
	SELECT a.name,
	       CASE WHEN strpos(route.path, '{' || a.name || '}') > 0 THEN 'path'
	            WHEN a.name = 'request_key' THEN 'header'
	            WHEN route.method IN ('GET', 'DELETE') OR about ~ ('[?&]' || a.name || '=') THEN 'query'
	            ELSE 'body' END,
	       -- a token names the user
	       a.n <= a.nrequired AND a.name <> 'user_id',
	       coupon.openapi_schema(CASE WHEN route.batched THEN (SELECT t.typelem FROM pg_type t WHERE t.oid = a.type) ELSE a.type END)
	  FROM (SELECT x.name, x.type, row_number() OVER (ORDER BY x.n) AS n, p.pronargs - p.pronargdefaults AS nrequired
	          FROM pg_proc p,
	               unnest(p.proargnames, coalesce(p.proallargtypes, p.proargtypes::oid[])) WITH ORDINALITY x(name, type, n)
	         WHERE p.oid = proc AND coalesce(p.proargmodes[x.n], 'i') IN ('i', 'b')) a
	 -- that is a header of any call
	 WHERE a.name <> 'traceparent'
	 ORDER BY a.n;
END
$$;
COMMENT ON FUNCTION coupon.openapi_arguments(coupon.http_route) IS 'the arguments of a route: in path, query, header or body';

CREATE FUNCTION coupon.openapi_responses(route coupon.http_route) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	proc pg_proc := (SELECT p FROM pg_proc p WHERE p.oid = coupon.route_function(route.function));
	about text := coalesce(obj_description(proc.oid, 'pg_proc'), '');
	result jsonb := CASE WHEN route.batched THEN '{"type": "object"}' ELSE coupon.openapi_schema(proc.prorettype) END;
	-- what the front itself answers, on any route
	answers jsonb := (
		SELECT jsonb_object_agg(n, jsonb_build_object('$ref', '#/components/responses/' || n))
		  FROM unnest(ARRAY[400, 401, 403, 409, 429, 500, 503] || CASE WHEN route.method IN ('GET', 'DELETE') THEN '{}'::integer[] ELSE '{413}' END
		              || CASE WHEN route.path ~ '[{]' THEN ARRAY[404] ELSE '{}' END) n);
	-- bytes are of a type that the function says when it is called
	type text := CASE proc.prorettype WHEN 'bytea'::regtype THEN '*/*' ELSE 'application/json' END;
	problem jsonb := '{"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}';
	one record;
BEGIN
	IF proc.proretset AND NOT route.batched THEN
		result := jsonb_build_object('type', 'array', 'items', result);
	END IF;
	IF proc.pronamespace <> 'coupon'::regnamespace THEN
		problem := problem || '{"application/json": {"schema": {}}}';
	END IF;
	FOR one IN
		SELECT m[1]::integer AS status, btrim(m[2]) AS meaning
		  FROM regexp_matches(substring(about FROM ' - (.*)$'), '\m([2-5][0-9][0-9])\M([^,;]*)', 'g') m
	LOOP
		answers := answers || jsonb_build_object(one.status, jsonb_build_object(
			'description', CASE WHEN one.meaning = '' THEN 'as the summary says' ELSE one.meaning END)
			|| CASE WHEN one.status = 204 THEN '{}'
			        WHEN one.status >= 400 THEN jsonb_build_object('content', problem)
			        ELSE jsonb_build_object('content', jsonb_build_object(type, jsonb_build_object('schema', result))
			             || CASE WHEN route.batched AND route.method = 'GET' THEN '{"text/event-stream": {"schema": {"type": "string"}}}'::jsonb ELSE '{}' END)
			   END);
	END LOOP;
	IF NOT answers ?| ARRAY['200', '201', '202', '204'] THEN
		answers := answers || CASE WHEN proc.prorettype = 'void'::regtype THEN '{"204": {"description": "done"}}'
			ELSE jsonb_build_object('200', jsonb_build_object('description', 'what the function returns',
				'content', jsonb_build_object(type, jsonb_build_object('schema', result)))) END;
	END IF;
	IF route.batched AND route.method = 'GET' THEN
		answers := answers || '{"204": {"description": "a stream of events that has ended, asked for again with Last-Event-ID: there is nothing more to come"}}';
	END IF;
	RETURN answers;
END
$$;
COMMENT ON FUNCTION coupon.openapi_responses(coupon.http_route) IS 'the answers of a route: those of its function''s comment, and those of the front';

CREATE FUNCTION coupon.openapi_operation(route coupon.http_route) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	parameters jsonb;
	body jsonb;
BEGIN
	SELECT jsonb_agg(jsonb_build_object('name', CASE a.place WHEN 'header' THEN 'Idempotency-Key' ELSE a.name END,
	                                    'in', a.place, 'required', a.required OR a.place = 'path', 'schema', a.schema))
	         FILTER (WHERE a.place <> 'body'),
	       jsonb_build_object('type', 'object', 'additionalProperties', false,
	                          'properties', jsonb_object_agg(a.name, a.schema) FILTER (WHERE a.place = 'body'),
	                          'required', coalesce(jsonb_agg(a.name) FILTER (WHERE a.place = 'body' AND a.required), '[]'))
	  INTO parameters, body
	  FROM coupon.openapi_arguments(route) a;
	RETURN jsonb_strip_nulls(jsonb_build_object(
		'operationId', route.method || ' ' || route.path,
		'summary', obj_description(coupon.route_function(route.function), 'pg_proc'),
		'tags', CASE WHEN route.admin THEN '["admin"]'::jsonb END,
		'parameters', parameters,
		'security', CASE WHEN route.anonymous_role IS NULL AND current_setting('coupon.http_role') = '' THEN '[{"bearer": []}]'::jsonb
		                 ELSE '[{"bearer": []}, {}]' END))
		|| CASE WHEN jsonb_typeof(body -> 'properties') = 'object' THEN jsonb_build_object('requestBody', jsonb_build_object(
			'required', body -> 'required' <> '[]',
			'content', jsonb_build_object('application/json', jsonb_build_object('schema', body),
			                              'application/x-www-form-urlencoded', jsonb_build_object('schema', body)))) ELSE '{}' END
		|| jsonb_build_object('responses', coupon.openapi_responses(route));
END
$$;
COMMENT ON FUNCTION coupon.openapi_operation(coupon.http_route) IS 'a route as an operation of OpenAPI';

CREATE FUNCTION coupon.http_openapi() RETURNS json
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	health CONSTANT json := '{"get": {"security": [], "responses": {"200": {"description": "it is"}, "503": {"description": "it is not"}}}}';
	paths json;
	answers json;
BEGIN
	SELECT json_object_agg(p.path, p.operations ORDER BY p.path) INTO paths
	  FROM (SELECT r.path, json_object_agg(lower(r.method), coupon.openapi_operation(r) ORDER BY r.method) AS operations
	          FROM coupon.http_route r WHERE coupon.route_function(r.function) IS NOT NULL GROUP BY r.path
	        UNION ALL VALUES ('/healthz', health), ('/readyz', health)) p;
	-- the functions of an application have errors of their own
	SELECT json_object_agg(a.status, jsonb_build_object('description', a.meaning,
	         'content', '{"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}, "application/json": {"schema": {}}}'::jsonb)
	         || CASE WHEN a.status IN (429, 503) THEN '{"headers": {"Retry-After": {"schema": {"type": "integer"}}}}' ELSE '{}'::jsonb END) INTO answers
	  FROM (VALUES (400, 'a malformed request, or an argument that is missing, unknown, given twice or of another type'),
	               (401, 'no token that is good'), (403, 'another user than the token''s, or a role that may not'),
	               (404, 'there is no such thing'), (409, 'what is there already, or in another state'), (413, 'the body is too large'),
	               (429, 'too many calls from here'), (500, 'the call failed'), (503, 'not at the moment: try again')) a(status, meaning);
	PERFORM set_config('response.headers', '[{"Cache-Control": "max-age=60"}]', true);
	RETURN json_build_object(
		'openapi', '3.1.0',
		'info', json_build_object('title', 'coupon', 'version', (SELECT e.extversion FROM pg_extension e WHERE e.extname = 'coupon'),
			'description', 'First-come-first-served sales. HEAD is answered wherever GET is, OPTIONS everywhere.'),
		'paths', paths,
		'components', json_build_object(
			'securitySchemes', '{"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}'::json,
			'responses', answers,
			'schemas', '{"Problem": {"type": "object", "required": ["type", "status", "title", "code", "message"], "properties": {
				"type": {"type": "string"}, "status": {"type": "integer"}, "title": {"type": "string", "description": "a sentence, for people"},
				"code": {"type": "string", "description": "a word or an SQLSTATE, for programs"}, "detail": {"type": "string"},
				"hint": {"type": "string"}, "message": {"type": "string", "description": "the title again"}}}}'::json));
END
$$;
COMMENT ON FUNCTION coupon.http_openapi() IS 'GET /openapi.json - 200 what is served, as OpenAPI 3.1';

-- Privileges: nothing for PUBLIC; each role gets what its work needs.

GRANT USAGE ON SCHEMA coupon TO coupon_admin, coupon_service, coupon_reader, coupon_user;
GRANT SELECT ON TABLE coupon.campaign TO coupon_admin, coupon_service, coupon_reader;
GRANT SELECT ON TABLE coupon.shard TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION coupon.campaign_changed() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.shard_deleted() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.campaign_guard() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.policy_guard() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.shard_guard() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.shard_withdrawn() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.restoring() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.campaign_known() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.campaign_in_use() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.refuse_truncate() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.coupon_campaign_create(text, bigint, integer, timestamp with time zone, timestamp with time zone, jsonb, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_campaign_create(text, bigint, integer, timestamp with time zone, timestamp with time zone, jsonb, text) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_campaign_add_stock(bigint, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_campaign_add_stock(bigint, bigint) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_campaign_pause(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_campaign_pause(bigint) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_campaign_resume(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_campaign_resume(bigint) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_campaign_close(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_campaign_close(bigint) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_campaign_alter(bigint, text, timestamp with time zone, timestamp with time zone, integer, jsonb, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_campaign_alter(bigint, text, timestamp with time zone, timestamp with time zone, integer, jsonb, text) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_campaign_reduce_stock(bigint, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_campaign_reduce_stock(bigint, bigint) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_units_withdraw(bigint, bigint[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_units_withdraw(bigint, bigint[]) TO coupon_admin;
REVOKE ALL ON TYPE coupon.archived_issuance FROM PUBLIC;
GRANT USAGE ON TYPE coupon.archived_issuance TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION coupon.campaign_ending(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.campaign_end_begin(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.campaign_end_begin(bigint) TO coupon_admin;
REVOKE ALL ON FUNCTION coupon.campaign_end_holds(bigint, bigint[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.campaign_end_rows(bigint, bigint, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.campaign_end_rows(bigint, bigint, bigint) TO coupon_admin;
REVOKE ALL ON FUNCTION coupon.campaign_end_row_left(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.campaign_end_row_left(bigint) TO coupon_admin;
REVOKE ALL ON FUNCTION coupon.campaign_end(bigint, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.campaign_end(bigint, boolean) TO coupon_admin;
REVOKE ALL ON PROCEDURE coupon.campaign_end_steps(bigint, regclass) FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE coupon.campaign_end_steps(bigint, regclass) TO coupon_admin;
REVOKE ALL ON PROCEDURE @extschema@.coupon_campaign_archive(bigint, regclass) FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE @extschema@.coupon_campaign_archive(bigint, regclass) TO coupon_admin;
REVOKE ALL ON PROCEDURE @extschema@.coupon_campaign_drop(bigint) FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE @extschema@.coupon_campaign_drop(bigint) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_restored(boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_restored(boolean) TO coupon_admin;
REVOKE ALL ON FUNCTION coupon.units_cut(bigint, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.units_leave(bigint, bigint[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.units_arrive(bigint, bigint[], bigint, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.shard_of(bigint, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.serials_of(bigint[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.ranges_of(int8multirange) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.units_of(int8multirange) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.units_born(bigint, bigint[], bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.units_lose(bigint, bigint[]) FROM PUBLIC;
GRANT SELECT ON TABLE coupon.campaign_copy TO coupon_admin, coupon_reader;
GRANT SELECT ON TABLE coupon.node_epoch TO coupon_admin, coupon_reader;
GRANT SELECT ON TABLE coupon.node_start TO coupon_admin, coupon_reader;
REVOKE ALL ON FUNCTION coupon.node_confirmed() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.node_set_confirmed(boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.peers_ask(integer[], text[], text, text[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.stock_here(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.stock_wants(bigint[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.stock_fetched(bigint, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.stock_set_gone(bigint, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.epoch_after(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.epoch_learn(smallint, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.peer_check(jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.peers_call(text, jsonb, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.peers_try(text, jsonb, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.campaign_definition(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.campaign_define(jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.campaign_shared_guard() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.transfer_forget() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.transfer_commits() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.transfer_message(coupon.transfer) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.units_labelled(bigint, int8multirange) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.transfer_out(bigint, smallint, bigint, timestamp with time zone) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.labels_of(int8multirange, text[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.receiver_check(smallint, smallint) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.transfer_in(jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.transfer_end(uuid[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.stock_report(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.call_hello(jsonb, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.call_cut(jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.call_holdings(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.call_status(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.node_call(text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.node_call(text, jsonb) TO coupon_admin;
REVOKE ALL ON FUNCTION coupon.node_begin() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.transfers_restore(jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.node_confirm() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.nodes_silent() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.transfer_settle() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.units_places(jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.units_nowhere(bigint, int8multirange) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.transfer_back(coupon.transfer) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.transfer_push() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.campaign_spread() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.node_unload() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.node_has_slots() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.node_that_answers(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.stock_fetch(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.stock_fetch_all() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.cluster_work() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.cluster_require() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.cluster_stay() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.stock_parts(bigint, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.stock_born(bigint, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.cluster_key_used(text, bigint, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.coupon_cluster_create(text, bigint, integer, timestamp with time zone, timestamp with time zone, jsonb, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_cluster_create(text, bigint, integer, timestamp with time zone, timestamp with time zone, jsonb, text, text) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_campaign_share(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_campaign_share(bigint) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_cluster_add_stock(bigint, bigint, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_cluster_add_stock(bigint, bigint, text) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_cluster_status(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_cluster_status(bigint) TO coupon_admin, coupon_reader;
REVOKE ALL ON FUNCTION @extschema@.coupon_cluster_verify(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_cluster_verify(bigint) TO coupon_admin, coupon_reader;
GRANT SELECT ON TABLE coupon.unit TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_codes_import(bigint, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_codes_import(bigint, text[]) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_codes_generate(bigint, text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_codes_generate(bigint, text, bigint) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_units_import(bigint, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_units_import(bigint, text[]) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_units(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_units(bigint) TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON TYPE coupon.issue_result FROM PUBLIC;
GRANT USAGE ON TYPE coupon.issue_result TO coupon_admin, coupon_service, coupon_reader;
GRANT SELECT ON TABLE coupon.issuance TO coupon_admin, coupon_reader;
REVOKE ALL ON FUNCTION coupon.issuance_guard() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.issuance_returned() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.issuance_arrived() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.coupon_issue(bigint, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_issue(bigint, text, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_issue(bigint, bigint, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_issue(bigint, bigint, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_issue(bigint, uuid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_issue(bigint, uuid, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_issue_many(bigint, text[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_issue_many(bigint, text[], text[]) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_issue_grouped(bigint, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_issue_grouped(bigint, text, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_issue_grouped(bigint, bigint, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_issue_grouped(bigint, bigint, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_issue_grouped(bigint, uuid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_issue_grouped(bigint, uuid, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_group_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_group_status() TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON TYPE coupon.hold_result FROM PUBLIC;
GRANT USAGE ON TYPE coupon.hold_result TO coupon_admin, coupon_service, coupon_reader;
GRANT SELECT ON TABLE coupon.request_key TO coupon_admin;
GRANT SELECT ON TABLE coupon.lapsed_hold TO coupon_admin, coupon_reader;
REVOKE ALL ON FUNCTION @extschema@.coupon_hold(bigint, bigint, text, interval, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_hold(bigint, bigint, text, interval, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_hold(bigint, bigint, bigint, interval, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_hold(bigint, bigint, bigint, interval, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_hold(bigint, bigint, uuid, interval, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_hold(bigint, bigint, uuid, interval, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_hold_many(bigint, bigint[], text, interval, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_hold_many(bigint, bigint[], text, interval, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_hold_many(bigint, bigint[], bigint, interval, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_hold_many(bigint, bigint[], bigint, interval, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_hold_many(bigint, bigint[], uuid, interval, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_hold_many(bigint, bigint[], uuid, interval, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_hold_any(bigint, text, interval, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_hold_any(bigint, text, interval, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_hold_any(bigint, bigint, interval, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_hold_any(bigint, bigint, interval, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_hold_any(bigint, uuid, interval, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_hold_any(bigint, uuid, interval, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_confirm(bigint, bigint, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_confirm(bigint, bigint, text, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_confirm(bigint, bigint, bigint, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_confirm(bigint, bigint, bigint, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_confirm(bigint, bigint, uuid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_confirm(bigint, bigint, uuid, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_release(bigint, bigint, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_release(bigint, bigint, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_release(bigint, bigint, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_release(bigint, bigint, bigint) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_release(bigint, bigint, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_release(bigint, bigint, uuid) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_hold_expire(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_hold_expire(integer) TO coupon_admin;
REVOKE ALL ON TYPE coupon.redeem_result FROM PUBLIC;
GRANT USAGE ON TYPE coupon.redeem_result TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION @extschema@.coupon_revoke(bigint, text, text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_revoke(bigint, text, text, bigint) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_revoke(bigint, bigint, text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_revoke(bigint, bigint, text, bigint) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_revoke(bigint, uuid, text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_revoke(bigint, uuid, text, bigint) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_expire(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_expire(integer) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_redeem(bigint, text, text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_redeem(bigint, text, text, bigint) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_redeem(bigint, bigint, text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_redeem(bigint, bigint, text, bigint) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_redeem(bigint, uuid, text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_redeem(bigint, uuid, text, bigint) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_redeem_cancel(bigint, text, text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_redeem_cancel(bigint, text, text, bigint) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_redeem_cancel(bigint, bigint, text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_redeem_cancel(bigint, bigint, text, bigint) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_redeem_cancel(bigint, uuid, text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_redeem_cancel(bigint, uuid, text, bigint) TO coupon_admin, coupon_service;
GRANT SELECT ON TABLE coupon.outbox TO coupon_admin;
GRANT SELECT ON TABLE coupon.outbox_0 TO coupon_admin;
GRANT SELECT ON TABLE coupon.outbox_1 TO coupon_admin;
GRANT SELECT ON TABLE coupon.outbox_2 TO coupon_admin;
GRANT SELECT ON TABLE coupon.outbox_parked TO coupon_admin;
REVOKE ALL ON FUNCTION coupon.outbox_guard() FROM PUBLIC;
GRANT SELECT ON TABLE coupon.dead_letter TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_emit(text, text, text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_emit(text, text, text, jsonb) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_dead_letter_replay(uuid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_dead_letter_replay(uuid, text) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_dead_letter_discard(uuid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_dead_letter_discard(uuid, text) TO coupon_admin;
REVOKE ALL ON FUNCTION coupon.publisher_state(boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.coupon_outbox_status(boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_outbox_status(boolean) TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON TYPE coupon.request_result FROM PUBLIC;
GRANT USAGE ON TYPE coupon.request_result TO coupon_admin, coupon_service, coupon_reader;
GRANT SELECT ON TABLE coupon.request TO coupon_admin;
GRANT SELECT ON TABLE coupon.request_0 TO coupon_admin;
GRANT SELECT ON TABLE coupon.request_1 TO coupon_admin;
REVOKE ALL ON FUNCTION coupon.queue_guard() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.coupon_request(bigint, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_request(bigint, text, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_request(bigint, bigint, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_request(bigint, bigint, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_request(bigint, uuid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_request(bigint, uuid, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_request_status(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_request_status(uuid) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_request_status_of(bigint, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_request_status_of(bigint, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_request_status_of(bigint, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_request_status_of(bigint, bigint) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_request_status_of(bigint, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_request_status_of(bigint, uuid) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_request_wait(uuid, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_request_wait(uuid, interval) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_request_queue(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_request_queue(bigint) TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION @extschema@.coupon_request_decide(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_request_decide(integer) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_slot(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_slot(text) TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION @extschema@.coupon_slot(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_slot(bigint) TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION @extschema@.coupon_slot(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_slot(uuid) TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION @extschema@.coupon_home(bigint, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_home(bigint, text) TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION @extschema@.coupon_home(bigint, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_home(bigint, bigint) TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION @extschema@.coupon_home(bigint, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_home(bigint, uuid) TO coupon_admin, coupon_service, coupon_reader;
GRANT SELECT ON TABLE coupon.node TO coupon_admin, coupon_reader;
GRANT SELECT ON TABLE coupon.slot TO coupon_admin, coupon_reader;
GRANT SELECT ON TABLE coupon.node_self TO coupon_admin, coupon_reader;
GRANT SELECT ON TABLE coupon.node_copy TO coupon_admin, coupon_reader;
REVOKE ALL ON FUNCTION coupon.node_changed() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.slots_settle() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.node_become(integer, text, text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.node_check(integer, text, text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.node_number() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.learn_map(jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.map_here() FROM PUBLIC;
GRANT SELECT ON TABLE coupon.slot_plan TO coupon_admin, coupon_reader;
GRANT SELECT ON TABLE coupon.slot_parcel TO coupon_admin;
REVOKE ALL ON FUNCTION coupon.slot_of(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.campaigns_alone() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.slots_plan(smallint[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.slots_balance() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.slots_stay(double precision) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.slots_next() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.slots_leave(smallint[], smallint) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.slots_hindered(smallint[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.slots_give() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.slots_done(uuid) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.parcel_unpack(jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.slots_accept(jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.slots_back(coupon.slot_parcel) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.slots_restore(jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.slots_work(boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.cluster_all_due() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.coupon_slots_move(integer, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_slots_move(integer, integer) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_slots_balance() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_slots_balance() TO coupon_admin;
REVOKE ALL ON FUNCTION coupon.call_leaving(smallint) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.keeper_take(jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.node_leave() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.coupon_node_drain() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_node_drain() TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_node_remove(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_node_remove(integer) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_node_disband() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_node_disband() TO coupon_admin;
REVOKE ALL ON FUNCTION coupon.number_alone(regclass, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.campaign_create_as(text, bigint, integer, timestamp with time zone, timestamp with time zone, jsonb, text, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.campaign_id_here() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.coupon_cluster_create_single(text, bigint, integer, timestamp with time zone, timestamp with time zone, jsonb, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_cluster_create_single(text, bigint, integer, timestamp with time zone, timestamp with time zone, jsonb, text, text) TO coupon_admin;
REVOKE ALL ON FUNCTION coupon.map_digest() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.keys_after(integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.map_note(smallint, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.call_map(jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.map_spread() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.coupon_node_address(integer, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_node_address(integer, text, text) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_node_self() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_node_self() TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION @extschema@.coupon_node_map() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_node_map() TO coupon_admin, coupon_reader;
REVOKE ALL ON FUNCTION @extschema@.coupon_node_found(integer, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_node_found(integer, text, text, text) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_node_join(integer, text, text, jsonb, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_node_join(integer, text, text, jsonb, text) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_node_learn(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_node_learn(jsonb) TO coupon_admin;
GRANT SELECT ON TABLE coupon.node_status TO coupon_admin, coupon_reader;
REVOKE ALL ON TYPE coupon.queue_result FROM PUBLIC;
GRANT USAGE ON TYPE coupon.queue_result TO coupon_admin, coupon_service, coupon_reader;
GRANT SELECT ON TABLE coupon.room_status TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION coupon.room_changed() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.room_check(text, integer, numeric, interval, interval, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.room_id(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.coupon_room_create(text, integer, numeric, interval, interval, text, timestamp with time zone) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_room_create(text, integer, numeric, interval, interval, text, timestamp with time zone) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_room_alter(text, integer, numeric, interval, interval, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_room_alter(text, integer, numeric, interval, interval, text) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_room_pause(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_room_pause(text) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_room_resume(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_room_resume(text) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_room_drop(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_room_drop(text) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_room_draw(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_room_draw(text) TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION @extschema@.coupon_room_counts(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_room_counts(bigint) TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION @extschema@.coupon_campaign_require_room(bigint, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_campaign_require_room(bigint, text) TO coupon_admin;
REVOKE ALL ON FUNCTION coupon.pass_signature(text, coupon.room_key) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.room_key_new(integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.room_key_put(jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.coupon_room_key_rotate() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_room_key_rotate() TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_room_pass(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_room_pass(text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_room_admit(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_room_admit(text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_queue_join(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_queue_join(text, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_queue_join(text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_queue_join(text, bigint) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_queue_join(text, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_queue_join(text, uuid) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_queue_position(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_queue_position(text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_queue_require(text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_queue_require(text, text, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_queue_require(text, text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_queue_require(text, text, bigint) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_queue_require(text, text, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_queue_require(text, text, uuid) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_queue_leave(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_queue_leave(text, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION @extschema@.coupon_queue_serve() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_queue_serve() TO coupon_admin;
REVOKE ALL ON FUNCTION coupon.campaign_state(timestamp with time zone, timestamp with time zone, boolean, timestamp with time zone) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.campaign_state(timestamp with time zone, timestamp with time zone, boolean, timestamp with time zone) TO coupon_admin, coupon_service, coupon_reader;
GRANT SELECT ON TABLE coupon.campaign_status TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION @extschema@.coupon_status(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_status(bigint) TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION coupon.verify(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.coupon_verify(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_verify(bigint) TO coupon_admin, coupon_reader;
REVOKE ALL ON TYPE coupon.http_answer FROM PUBLIC;
GRANT USAGE ON TYPE coupon.http_answer TO coupon_admin, coupon_service, coupon_reader, coupon_user;
GRANT SELECT ON TABLE coupon.route TO coupon_admin;
GRANT SELECT ON TABLE coupon.built_in_route TO coupon_admin;
GRANT SELECT ON TABLE coupon.http_route TO coupon_admin;
REVOKE ALL ON FUNCTION coupon.route_changed() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.route_check(text, text, text, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.route_function(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.coupon_route_add(text, text, regprocedure, boolean, regrole, regrole, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_route_add(text, text, regprocedure, boolean, regrole, regrole, boolean) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_route_drop(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_route_drop(text, text) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_http_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_http_status() TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION coupon.http_outcome(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.http_hold_answer(coupon.hold_result, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.http_is_application() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.http_issue(bigint[], text[], text[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.http_issue(bigint[], text[], text[], text[]) TO coupon_admin, coupon_service, coupon_user;
REVOKE ALL ON FUNCTION coupon.http_request(bigint[], text[], text[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.http_request(bigint[], text[], text[], text[]) TO coupon_admin, coupon_service, coupon_user;
REVOKE ALL ON FUNCTION coupon.http_request_status(bigint[], uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.http_request_status(bigint[], uuid[]) TO coupon_admin, coupon_service, coupon_user;
REVOKE ALL ON FUNCTION coupon.http_hold(bigint, text, bigint, interval, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.http_hold(bigint, text, bigint, interval, text) TO coupon_admin, coupon_service, coupon_user;
REVOKE ALL ON FUNCTION coupon.http_confirm(bigint, bigint, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.http_confirm(bigint, bigint, text, text) TO coupon_admin, coupon_service;
REVOKE ALL ON FUNCTION coupon.http_release(bigint, bigint, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.http_release(bigint, bigint, text) TO coupon_admin, coupon_service, coupon_user;
REVOKE ALL ON FUNCTION coupon.http_join(text[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.http_join(text[], text[]) TO coupon_admin, coupon_service, coupon_user;
REVOKE ALL ON FUNCTION coupon.http_position(text[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.http_position(text[], text[]) TO coupon_admin, coupon_service, coupon_user;
REVOKE ALL ON FUNCTION coupon.http_leave(text[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.http_leave(text[], text[]) TO coupon_admin, coupon_service, coupon_user;
REVOKE ALL ON FUNCTION coupon.http_status(bigint[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.http_status(bigint[]) TO coupon_admin, coupon_service, coupon_user;
REVOKE ALL ON FUNCTION coupon.openapi_schema(oid) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.openapi_arguments(coupon.http_route) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.openapi_responses(coupon.http_route) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.openapi_operation(coupon.http_route) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.http_openapi() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.http_openapi() TO coupon_admin, coupon_service, coupon_reader, coupon_user;
GRANT SELECT ON TABLE coupon.refusal TO coupon_admin, coupon_reader;
GRANT SELECT ON TABLE coupon.user_request TO coupon_admin, coupon_reader;
GRANT SELECT ON TABLE coupon.user_ticket TO coupon_admin, coupon_reader;
REVOKE ALL ON FUNCTION coupon.check_user(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.units_of(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.user_issuances(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.coupon_user_issuances(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_user_issuances(text) TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION @extschema@.coupon_user_issuances(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_user_issuances(bigint) TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION @extschema@.coupon_user_issuances(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_user_issuances(uuid) TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION @extschema@.coupon_campaign_note_refusals(bigint, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_campaign_note_refusals(bigint, boolean) TO coupon_admin;
REVOKE ALL ON FUNCTION coupon.user_refusals(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.coupon_user_refusals(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_user_refusals(text) TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION @extschema@.coupon_user_refusals(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_user_refusals(bigint) TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION @extschema@.coupon_user_refusals(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_user_refusals(uuid) TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION coupon.refusal_forget(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.erase_ticket(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.erase_queues(text, text, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.erase_events(text, text, text[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.renamed(json, text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.has_unit(text, json, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.erase_user(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.pseudonym_for(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.coupon_user_erase(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_user_erase(text) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_user_erase(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_user_erase(bigint) TO coupon_admin;
REVOKE ALL ON FUNCTION @extschema@.coupon_user_erase(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_user_erase(uuid) TO coupon_admin;
REVOKE ALL ON FUNCTION coupon.warn_without_workers(boolean) FROM PUBLIC;
REVOKE ALL ON TYPE coupon.finding FROM PUBLIC;
GRANT USAGE ON TYPE coupon.finding TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION coupon.health_facts() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.health_lines() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.health_file(text, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.finding(text, text, text, text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.health_server(jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.health_workers(jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.health_http(jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.health_events(jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.health_memory(jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.health_sale(jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.health_nodes(jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.health_guards(jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.health_settings(jsonb, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.health_findings() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.coupon_health() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_health() TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION @extschema@.coupon_doctor() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_doctor() TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION coupon.stat_since() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.stat_since() TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION coupon.stat_calls() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.stat_calls() TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION coupon.stat_errors() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.stat_errors() TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION coupon.stat_ways() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.stat_ways() TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION coupon.stat_latencies() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.stat_latencies() TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION coupon.stat_batches() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.stat_batches() TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION coupon.stat_tallies() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.stat_tallies() TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION coupon.stat_campaigns(bigint[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.stat_campaigns(bigint[]) TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION coupon.stat_slots() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.stat_slots() TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION coupon.stat_workers() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.stat_workers() TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION coupon.stat_front_workers() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.stat_front_workers() TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION coupon.stat_clock_ahead() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.stat_clock_ahead() TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION coupon.has_broker() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.has_broker() TO coupon_admin, coupon_service, coupon_reader;
GRANT SELECT ON TABLE coupon.stat_call TO coupon_admin, coupon_service, coupon_reader;
GRANT SELECT ON TABLE coupon.stat_error TO coupon_admin, coupon_service, coupon_reader;
GRANT SELECT ON TABLE coupon.stat_way TO coupon_admin, coupon_service, coupon_reader;
GRANT SELECT ON TABLE coupon.stat_latency TO coupon_admin, coupon_service, coupon_reader;
GRANT SELECT ON TABLE coupon.stat_batch TO coupon_admin, coupon_service, coupon_reader;
GRANT SELECT ON TABLE coupon.stat_campaign TO coupon_admin, coupon_service, coupon_reader;
GRANT SELECT ON TABLE coupon.stat_stock TO coupon_admin, coupon_service, coupon_reader;
GRANT SELECT ON TABLE coupon.stat_memory TO coupon_admin, coupon_service, coupon_reader;
GRANT SELECT ON TABLE coupon.stat_queue TO coupon_admin, coupon_service, coupon_reader;
GRANT SELECT ON TABLE coupon.stat_room TO coupon_admin, coupon_service, coupon_reader;
GRANT SELECT ON TABLE coupon.stat_outbox TO coupon_admin, coupon_service, coupon_reader;
GRANT SELECT ON TABLE coupon.stat_worker TO coupon_admin, coupon_service, coupon_reader;
GRANT SELECT ON TABLE coupon.stat_front TO coupon_admin, coupon_service, coupon_reader;
REVOKE ALL ON FUNCTION @extschema@.coupon_stat_reset() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_stat_reset() TO coupon_admin;
REVOKE ALL ON FUNCTION coupon.label(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.stock_now(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.metric_families() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.metric_samples() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.coupon_metrics() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.coupon_metrics() TO coupon_admin, coupon_reader;
REVOKE ALL ON FUNCTION coupon.http_metrics() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.http_metrics() TO coupon_admin, coupon_reader;
REVOKE ALL ON FUNCTION coupon.watched_campaign() FROM PUBLIC;
REVOKE ALL ON FUNCTION coupon.http_board() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coupon.http_board() TO coupon_admin, coupon_reader;
