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
