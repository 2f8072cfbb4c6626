-- Fills an empty database: 100 concerts of 100 dates with 150 seats, or
--
--	psql -d shop -f load.sql -v concerts=10 -v dates=10 -v seats=150

\set ON_ERROR_STOP on
\set QUIET on
\if :{?concerts} \else
	\set concerts 100
\endif
\if :{?dates} \else
	\set dates 100
\endif
\if :{?seats} \else
	\set seats 150
\endif

CALL concert.load(:concerts, :dates, :seats);
VACUUM (ANALYZE) concert.concert, concert.schedule, coupon.campaign, coupon.shard, coupon.unit;

SELECT (SELECT count(*) FROM concert.concert) AS concerts,
       (SELECT count(*) FROM concert.schedule) AS schedules,
       (SELECT sum(s.seats) FROM concert.schedule s) AS seats,
       pg_size_pretty(pg_total_relation_size('coupon.unit')) AS units,
       pg_size_pretty(pg_database_size(current_database())) AS database;
