-- The database of the Redis + Kafka pile: what consumer.c writes into.  The
-- stock is in Redis, the event is the Kafka message; the two unique indexes
-- are the last line against what Redis forgets in a crash.

\ir common.sql

CREATE FUNCTION setup(stock bigint) RETURNS void LANGUAGE sql AS $$
	INSERT INTO campaign VALUES (1, stock, NULL, NULL, false, '{"kind": "FIXED", "amount": 5000}', 'coupon-issued')
$$;

CREATE FUNCTION "check"() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT format('serial %s issued %s times', serial, count(*))
	  FROM issuance GROUP BY campaign_id, serial HAVING count(*) > 1
	UNION ALL
	SELECT format('user %s has %s', user_id, count(*))
	  FROM issuance GROUP BY campaign_id, user_id HAVING count(*) > 1
$$;
