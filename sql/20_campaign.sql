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
