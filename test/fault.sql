-- What arms the fault points of a build for tests (src/base/fault.h).  Run by a
-- superuser, after CREATE EXTENSION coupon.
--
--	SELECT fault.arm('unit_changed', 'kill');                   the next one
--	SELECT fault.arm('unit_changed', 'sleep', ms => 60000);     until fault.disarm()
--	SELECT fault.arm('allocation', 'memory', skip => 7, pid => 4711);
--	SELECT * FROM fault.points();
--
-- An armed point disarms itself when it has failed so many times.  A restart
-- of the server, after a kill, too, disarms all and counts from 0; the server's
-- log has a line "coupon fault point NAME: KIND" for each that fired.
CREATE SCHEMA fault;
REVOKE ALL ON SCHEMA fault FROM PUBLIC;

CREATE FUNCTION fault.arm(point text, kind text, skip integer DEFAULT 0, times integer DEFAULT 1,
	ms integer DEFAULT 60000, pid integer DEFAULT 0) RETURNS void
	LANGUAGE C STRICT AS '$libdir/coupon', 'coupon_fault_arm';

CREATE FUNCTION fault.disarm() RETURNS void
	LANGUAGE C STRICT AS '$libdir/coupon', 'coupon_fault_disarm';

CREATE FUNCTION fault.points(OUT point text, OUT place text, OUT throws boolean, OUT kind text,
	OUT reached bigint, OUT fired bigint, OUT asleep integer) RETURNS SETOF record
	LANGUAGE C STRICT AS '$libdir/coupon', 'coupon_fault_points';

-- The steps of slots that move (sql/65_slots.sql) are SQL: triggers stand there.
CREATE FUNCTION fault.reach() RETURNS trigger
	LANGUAGE C AS '$libdir/coupon', 'coupon_fault_trigger';

CREATE TRIGGER fault_leaving AFTER UPDATE ON coupon.slot FOR EACH ROW
	WHEN (OLD.leaving IS NULL AND NEW.leaving IS NOT NULL) EXECUTE FUNCTION fault.reach('slots_leaving');
CREATE TRIGGER fault_packed AFTER INSERT ON coupon.slot_parcel FOR EACH ROW
	WHEN (NEW.state = 'sent') EXECUTE FUNCTION fault.reach('slots_packed');
CREATE TRIGGER fault_given AFTER UPDATE ON coupon.slot FOR EACH ROW
	WHEN (OLD.leaving = NEW.node_id) EXECUTE FUNCTION fault.reach('slots_given');
CREATE TRIGGER fault_noted AFTER INSERT ON coupon.slot_parcel FOR EACH ROW
	WHEN (NEW.state = 'received') EXECUTE FUNCTION fault.reach('slots_noted');
CREATE TRIGGER fault_owned AFTER UPDATE ON coupon.slot FOR EACH ROW
	WHEN (OLD.leaving IS NULL AND OLD.node_id <> NEW.node_id) EXECUTE FUNCTION fault.reach('slots_owned');
-- at the end of its transaction
CREATE CONSTRAINT TRIGGER fault_come AFTER INSERT ON coupon.slot_parcel DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
	WHEN (NEW.state = 'received') EXECUTE FUNCTION fault.reach('slots_come');
CREATE TRIGGER fault_done AFTER UPDATE ON coupon.slot_parcel FOR EACH ROW
	WHEN (NEW.state = 'done') EXECUTE FUNCTION fault.reach('slots_done');
