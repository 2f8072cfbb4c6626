-- Optimistic: read the version, change the row only if it is still the same,
-- otherwise read again.
--
-- Issuance and event first and kept over the retries, so that a retry costs
-- two short statements; it goes on until it wins or the stock is gone.

\ir common.sql

CREATE TABLE counter (
	campaign_id bigint PRIMARY KEY,
	remaining   bigint NOT NULL CHECK (remaining >= 0),
	version     bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);	-- room for HOT updates

CREATE FUNCTION setup(stock bigint) RETURNS void LANGUAGE sql AS $$
	INSERT INTO campaign VALUES (1, stock, NULL, NULL, false, '{"kind": "FIXED", "amount": 5000}', 'coupon-issued');
	INSERT INTO counter VALUES (1, stock);
$$;

CREATE FUNCTION issue(p_campaign bigint, p_user text) RETURNS issue_result LANGUAGE plpgsql AS $$
DECLARE
	c_policy  jsonb;
	c_topic   text;
	c_now     timestamptz;
	c_refusal text;
	c_gone    boolean;
	r         issue_result;
	event     tid;
	seen      counter;
BEGIN
	SELECT policy, topic, sold_out, clock_timestamp(),
	       CASE WHEN closes_at <= clock_timestamp() THEN 'closed'
	            WHEN paused THEN 'paused'
	            WHEN opens_at > clock_timestamp() THEN 'not_open' END
	  INTO STRICT c_policy, c_topic, c_gone, c_now, c_refusal FROM campaign WHERE campaign_id = p_campaign;
	IF c_refusal IS NOT NULL THEN
		RETURN (p_user, c_refusal, NULL, NULL, NULL, NULL)::issue_result;
	END IF;
	IF c_gone THEN
		SELECT user_id, 'already_issued', serial, NULL, issued_at, expires_at INTO r
		  FROM issuance WHERE campaign_id = p_campaign AND user_id = p_user;
		IF NOT FOUND THEN
			r := (p_user, 'sold_out', NULL, NULL, NULL, NULL);
		END IF;
		RETURN r;
	END IF;

	INSERT INTO issuance (campaign_id, serial, issued_at, user_id, state, policy)
	VALUES (p_campaign, nextval('serial_seq'), c_now, p_user, 'issued', c_policy)
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
	                          'policy', c_policy, 'issued_at', r.issued_at))
	RETURNING ctid INTO event;

	LOOP
		SELECT * INTO seen FROM counter WHERE campaign_id = p_campaign;
		EXIT WHEN seen.remaining = 0;
		UPDATE counter SET remaining = seen.remaining - 1, version = seen.version + 1
		 WHERE campaign_id = p_campaign AND version = seen.version;
		EXIT WHEN FOUND;
	END LOOP;
	IF seen.remaining = 0 THEN
		DELETE FROM issuance WHERE campaign_id = p_campaign AND serial = r.serial;
		DELETE FROM outbox WHERE ctid = event;
		UPDATE campaign SET sold_out = true WHERE campaign_id = p_campaign AND NOT sold_out;
		RETURN (p_user, 'sold_out', NULL, NULL, NULL, NULL)::issue_result;
	END IF;
	RETURN r;
END
$$;

CREATE FUNCTION "check"() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT check_rows()
	UNION ALL
	SELECT format('%s issued, %s counted', i.n, c.stock - k.remaining)
	  FROM campaign c JOIN counter k USING (campaign_id), (SELECT count(*) AS n FROM issuance) i
	 WHERE i.n <> c.stock - k.remaining
$$;
