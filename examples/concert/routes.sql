-- The routes of api.sql for the extension's own HTTP front.  After api.sql, and
-- after ../sources/routes.sql, which has the waiting room's; as a superuser, may
-- be run again:
--
--	psql -d shop -f routes.sql
--
-- It takes away the built-in routes by which a user with a token could have a seat
-- and pay nothing, unless it is for load tests, never where users come:
--
--	psql -d shop -v open=on -f routes.sql

\set ON_ERROR_STOP on
\set QUIET on
BEGIN;

SELECT count(coupon_route_drop(r.method, r.path)) FROM coupon.route r WHERE r.function LIKE 'concert\_api.%' \g /dev/null
SELECT count(*) FROM (VALUES
	('GET', '/concerts', 'concert_api.concerts()'),
	('GET', '/concerts/{concertId}/schedules', 'concert_api.schedules(text)'),
	('GET', '/concerts/schedules/{scheduleId}/seats', 'concert_api.seats(text)'),
	('POST', '/concerts/reservation', 'concert_api.reservation(jsonb, jsonb)'),
	('POST', '/concerts/reservations/{reservationId}/pay', 'concert_api.pay(jsonb, jsonb)'),
	('POST', '/concerts/reservations/{reservationId}/release', 'concert_api.release(jsonb, jsonb)'),
	('POST', '/concerts/create', 'concert_api.concert_create(jsonb, jsonb, jsonb, jsonb)')) r(method, path, function),
	LATERAL coupon_route_add(r.method, r.path, r.function::regprocedure) \g /dev/null

\if :{?open} \else
SELECT count(coupon_route_drop(r.method, r.path)) FROM (VALUES
	('POST', '/campaigns/{campaign_id}/issues'),
	('POST', '/campaigns/{campaign_id}/requests'),
	('POST', '/campaigns/{campaign_id}/holds'),
	('POST', '/campaigns/{campaign_id}/holds/{serial}/confirmation'),
	('DELETE', '/campaigns/{campaign_id}/holds/{serial}')) r(method, path) \g /dev/null
\endif

COMMIT;
