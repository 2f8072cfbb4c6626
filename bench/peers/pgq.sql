-- PgQ as the queue: a call is an event in a queue and is answered "accepted"
-- when that is durable; a consumer decides, a batch at a time, so no two
-- sessions meet at the stock.
--
-- CALL consume() in a session of its own: it is the ticker and the consumer
-- until that session ends.

\ir common.sql

CREATE EXTENSION IF NOT EXISTS pgq;

-- One consumer, so one row and no lock that anybody waits for.
CREATE TABLE counter (
	campaign_id bigint PRIMARY KEY,
	stock       bigint NOT NULL,
	issued      bigint NOT NULL DEFAULT 0 CHECK (issued BETWEEN 0 AND stock),
	refused     bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);

CREATE FUNCTION setup(stock bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO campaign VALUES (1, stock, NULL, NULL, false, '{"kind": "FIXED", "amount": 5000}', 'coupon-issued');
	INSERT INTO counter VALUES (1, stock);
	PERFORM pgq.create_queue('coupon-issue');
	-- whatever is there is a batch, as often as the consumer asks
	PERFORM pgq.set_queue_config('coupon-issue', 'ticker_max_count', '1');
	PERFORM pgq.set_queue_config('coupon-issue', 'ticker_max_lag', '0');
	PERFORM pgq.register_consumer('coupon-issue', 'issuer');
END
$$;

CREATE FUNCTION decide(p_batch bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	n_events bigint;
	n_issued bigint;
BEGIN
	WITH event AS (
		SELECT ev_id, ev_data AS user_id FROM pgq.get_batch_events(p_batch)
	), wish AS (
		SELECT user_id, row_number() OVER (ORDER BY min(ev_id)) AS n
		  FROM event
		 WHERE NOT EXISTS (SELECT FROM issuance i WHERE i.campaign_id = 1 AND i.user_id = event.user_id)
		 GROUP BY user_id
	), issued AS (
		INSERT INTO issuance (campaign_id, serial, issued_at, user_id, state, policy)
		SELECT c.campaign_id, k.issued + w.n, clock_timestamp(), w.user_id, 'issued', c.policy
		  FROM wish w, campaign c JOIN counter k USING (campaign_id)
		 WHERE c.campaign_id = 1 AND w.n <= k.stock - k.issued AND NOT c.paused
		   AND (c.opens_at <= clock_timestamp()) IS NOT FALSE AND (c.closes_at > clock_timestamp()) IS NOT FALSE
		RETURNING serial, user_id, policy, issued_at
	), told AS (
		INSERT INTO outbox (topic, key, type, payload)
		SELECT 'coupon-issued', user_id, 'coupon.issued',
		       json_build_object('campaign_id', 1, 'user_id', user_id, 'serial', serial,
		                         'policy', policy, 'issued_at', issued_at)
		  FROM issued
		RETURNING 1
	)
	SELECT (SELECT count(*) FROM event), (SELECT count(*) FROM told) INTO n_events, n_issued;
	UPDATE counter SET issued = issued + n_issued, refused = refused + n_events - n_issued WHERE campaign_id = 1;
	PERFORM pgq.finish_batch(p_batch);
END
$$;

CREATE PROCEDURE consume() LANGUAGE plpgsql AS $$
DECLARE
	batch bigint;
BEGIN
	LOOP
		PERFORM pgq.ticker('coupon-issue');
		COMMIT;
		batch := pgq.next_batch('coupon-issue', 'issuer');
		IF batch IS NULL THEN
			COMMIT;
			PERFORM pg_sleep(0.005);
		ELSE
			PERFORM decide(batch);
			COMMIT;
		END IF;
	END LOOP;
END
$$;

CREATE FUNCTION "check"() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT check_rows()
	UNION ALL
	SELECT format('%s issued, counter says %s of %s', i.n, k.issued, k.stock)
	  FROM counter k, (SELECT count(*) AS n FROM issuance) i
	 WHERE i.n <> k.issued OR i.n > k.stock
$$;
