-- A sequence as the stock: nextval() until it passes the stock.
--
-- NOT equal work, and so not among the peers that a figure is compared with:
-- a rollback, an error or a duplicate click loses its unit
-- for good.  It shows what plpgsql costs without any counter row.

\ir common.sql

CREATE FUNCTION setup(stock bigint) RETURNS void LANGUAGE sql AS $$
	INSERT INTO campaign VALUES (1, stock, NULL, NULL, false, '{"kind": "FIXED", "amount": 5000}', 'coupon-issued');
	ALTER SEQUENCE serial_seq CACHE 1;
$$;

CREATE FUNCTION issue(p_campaign bigint, p_user text) RETURNS issue_result LANGUAGE plpgsql AS $$
DECLARE
	c_policy  jsonb;
	c_topic   text;
	c_stock   bigint;
	c_now     timestamptz;
	c_refusal text;
	r         issue_result;
	n         bigint;
BEGIN
	SELECT policy, topic, stock, clock_timestamp(),
	       CASE WHEN closes_at <= clock_timestamp() THEN 'closed'
	            WHEN paused THEN 'paused'
	            WHEN opens_at > clock_timestamp() THEN 'not_open' END
	  INTO STRICT c_policy, c_topic, c_stock, c_now, c_refusal FROM campaign WHERE campaign_id = p_campaign;
	IF c_refusal IS NOT NULL THEN
		RETURN (p_user, c_refusal, NULL, NULL, NULL, NULL)::issue_result;
	END IF;

	n := nextval('serial_seq');
	IF n > c_stock THEN
		SELECT user_id, 'already_issued', serial, NULL, issued_at, expires_at INTO r
		  FROM issuance WHERE campaign_id = p_campaign AND user_id = p_user;
		IF NOT FOUND THEN
			r := (p_user, 'sold_out', NULL, NULL, NULL, NULL);
		END IF;
		RETURN r;
	END IF;

	INSERT INTO issuance (campaign_id, serial, issued_at, user_id, state, policy)
	VALUES (p_campaign, n, c_now, p_user, 'issued', c_policy)
	ON CONFLICT (campaign_id, user_id) DO NOTHING
	RETURNING user_id, 'issued', serial, NULL, issued_at, expires_at INTO r;
	IF NOT FOUND THEN
		SELECT user_id, 'already_issued', serial, NULL, issued_at, expires_at INTO r
		  FROM issuance WHERE campaign_id = p_campaign AND user_id = p_user;
		RETURN r;
	END IF;

	INSERT INTO outbox (topic, key, type, payload)
	VALUES (c_topic, p_user, 'coupon.issued',
	        json_build_object('campaign_id', p_campaign, 'user_id', p_user, 'serial', r.serial,
	                          'policy', c_policy, 'issued_at', r.issued_at));
	RETURN r;
END
$$;

CREATE FUNCTION "check"() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT check_rows()
	UNION ALL
	SELECT format('%s issued of %s', i.n, c.stock)
	  FROM campaign c, (SELECT count(*) AS n FROM issuance) i
	 WHERE i.n > c.stock
$$;
