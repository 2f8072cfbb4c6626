-- What every peer has in common: the same rows as coupon writes.
--
-- Loaded into a schema of its own (psql variable "schema"), which callers put
-- on their search_path.  A campaign with its window and policy, an issuance
-- with two unique indexes, an outbox row with the same event.  The peers
-- differ only in how they count the stock.

\set ON_ERROR_STOP on
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS :"schema" CASCADE;
CREATE SCHEMA :"schema";
SET search_path = :"schema";

CREATE TYPE issue_result AS (
	user_id    text,
	status     text,
	serial     bigint,
	code       text,
	issued_at  timestamptz,
	expires_at timestamptz
);

CREATE TABLE campaign (
	campaign_id bigint PRIMARY KEY,
	stock       bigint NOT NULL,
	opens_at    timestamptz,
	closes_at   timestamptz,
	paused      boolean NOT NULL DEFAULT false,
	policy      jsonb NOT NULL,
	topic       text NOT NULL,
	sold_out    boolean NOT NULL DEFAULT false	-- spares the rest of the answer
);

CREATE TABLE issuance (
	campaign_id bigint NOT NULL,
	serial      bigint NOT NULL,
	issued_at   timestamptz NOT NULL,
	expires_at  timestamptz,
	user_id     text COLLATE "C" NOT NULL,
	state       text COLLATE "C" NOT NULL,
	policy      jsonb NOT NULL,
	redeemed_at timestamptz,
	order_ref   text,
	PRIMARY KEY (campaign_id, serial),
	UNIQUE (campaign_id, user_id)
);

CREATE TABLE outbox (
	id      uuid NOT NULL DEFAULT gen_random_uuid(),
	topic   text NOT NULL,
	key     text NOT NULL,
	type    text NOT NULL,
	payload json NOT NULL
);

-- Where the counter gives no serial (it is touched last), a sequence does.
-- The cache keeps sessions off each other; serials are unique, not dense.
CREATE SEQUENCE serial_seq CACHE 100;

-- Laws every peer must keep; each has its own check() that adds the counter.
CREATE FUNCTION check_rows() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT format('serial %s issued %s times', serial, count(*))
	  FROM issuance GROUP BY campaign_id, serial HAVING count(*) > 1
	UNION ALL
	SELECT format('user %s has %s', user_id, count(*))
	  FROM issuance GROUP BY campaign_id, user_id HAVING count(*) > 1
	UNION ALL
	SELECT format('%s issuances, %s events, %s of them matching', i.n, o.n, m.n)
	  FROM (SELECT count(*) AS n FROM issuance) i,
	       (SELECT count(*) AS n FROM outbox) o,
	       (SELECT count(*) AS n FROM outbox
	         WHERE ((payload->>'campaign_id')::bigint, (payload->>'serial')::bigint, key)
	               IN (SELECT campaign_id, serial, user_id FROM issuance)) m
	 WHERE i.n <> o.n OR i.n <> m.n
$$;
