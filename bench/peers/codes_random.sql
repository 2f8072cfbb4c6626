-- Pre-made codes with SKIP LOCKED from a random place: as codes.sql, but each
-- caller starts at its own point of the pool, so that callers rarely meet and
-- nobody walks the deleted rows at its front.

\ir common.sql

CREATE TABLE pool (
	campaign_id bigint,
	serial      bigint,
	code        text COLLATE "C" NOT NULL,
	PRIMARY KEY (campaign_id, serial)
);

ALTER TABLE issuance ADD COLUMN code text COLLATE "C";

CREATE FUNCTION setup(stock bigint) RETURNS void LANGUAGE sql AS $$
	INSERT INTO campaign VALUES (1, stock, NULL, NULL, false, '{"kind": "FIXED", "amount": 5000}', 'coupon-issued');
	INSERT INTO pool
	SELECT 1, s, left(upper(md5(s::text)), 16)
	  FROM generate_series(1, stock) s;
	ANALYZE pool;
$$;

CREATE FUNCTION issue(p_campaign bigint, p_user text) RETURNS issue_result LANGUAGE plpgsql AS $$
DECLARE
	c_policy  jsonb;
	c_topic   text;
	c_stock   bigint;
	c_now     timestamptz;
	c_refusal text;
	r         issue_result;
	unit      pool;
	start     bigint;
BEGIN
	SELECT policy, topic, stock, clock_timestamp(),
	       CASE WHEN closes_at <= clock_timestamp() THEN 'closed'
	            WHEN paused THEN 'paused'
	            WHEN opens_at > clock_timestamp() THEN 'not_open' END
	  INTO STRICT c_policy, c_topic, c_stock, c_now, c_refusal FROM campaign WHERE campaign_id = p_campaign;
	IF c_refusal IS NOT NULL THEN
		RETURN (p_user, c_refusal, NULL, NULL, NULL, NULL)::issue_result;
	END IF;
	start := 1 + floor(random() * c_stock);

	-- a duplicate click must not burn a code
	SELECT user_id, 'already_issued', serial, code, issued_at, expires_at INTO r
	  FROM issuance
	 WHERE campaign_id = p_campaign AND user_id = p_user;
	IF FOUND THEN
		RETURN r;
	END IF;

	DELETE FROM pool
	 WHERE ctid = (SELECT ctid FROM pool WHERE campaign_id = p_campaign AND serial >= start
	                ORDER BY serial LIMIT 1 FOR UPDATE SKIP LOCKED)
	RETURNING * INTO unit;
	IF NOT FOUND THEN	-- nothing between here and the end
		DELETE FROM pool
		 WHERE ctid = (SELECT ctid FROM pool WHERE campaign_id = p_campaign
		                ORDER BY serial LIMIT 1 FOR UPDATE SKIP LOCKED)
		RETURNING * INTO unit;
	END IF;
	IF unit.serial IS NULL THEN
		RETURN (p_user, 'sold_out', NULL, NULL, NULL, NULL)::issue_result;
	END IF;

	INSERT INTO issuance (campaign_id, serial, issued_at, user_id, state, policy, code)
	VALUES (p_campaign, unit.serial, c_now, p_user, 'issued', c_policy, unit.code)
	ON CONFLICT (campaign_id, user_id) DO NOTHING
	RETURNING user_id, 'issued', serial, code, issued_at, expires_at INTO r;
	IF NOT FOUND THEN	-- the same user at the same time: put the code back
		INSERT INTO pool SELECT unit.*;
		SELECT user_id, 'already_issued', serial, code, issued_at, expires_at INTO r
		  FROM issuance WHERE campaign_id = p_campaign AND user_id = p_user;
		RETURN r;
	END IF;

	INSERT INTO outbox (topic, key, type, payload)
	VALUES (c_topic, p_user, 'coupon.issued',
	        json_build_object('campaign_id', p_campaign, 'user_id', p_user, 'serial', r.serial,
	                          'code', r.code, 'policy', c_policy, 'issued_at', r.issued_at));
	RETURN r;
END
$$;

CREATE FUNCTION "check"() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT check_rows()
	UNION ALL
	SELECT format('%s issued, %s codes gone', i.n, c.stock - p.n)
	  FROM campaign c, (SELECT count(*) AS n FROM issuance) i, (SELECT count(*) AS n FROM pool) p
	 WHERE i.n <> c.stock - p.n
	UNION ALL
	SELECT format('code %s is both free and issued', code)
	  FROM issuance JOIN pool USING (campaign_id, serial, code)
$$;
