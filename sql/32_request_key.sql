-- Keys of calls: a repeated call gets what the first one got.  Rows are written
-- with the units that they tell of, never changed, and removed after coupon.key_keep.

-- C code (src/sale/request_key.c) writes the rows and knows the columns by position.
CREATE TABLE coupon.request_key (
	campaign_id bigint NOT NULL,
	used_at     timestamptz NOT NULL,
	user_id     text COLLATE "C" NOT NULL,
	request_key text COLLATE "C" NOT NULL,
	kind        text COLLATE "C" NOT NULL,
	serials     bigint[] NOT NULL,
	PRIMARY KEY (campaign_id, user_id, request_key)
);
CREATE INDEX request_key_used_idx ON coupon.request_key (used_at);
COMMENT ON TABLE coupon.request_key IS 'What calls with a request_key got. Rows are kept for coupon.key_keep; a call with the same key of the same user is answered with them.';
COMMENT ON COLUMN coupon.request_key.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.request_key.used_at IS 'When the units were issued or held.';
COMMENT ON COLUMN coupon.request_key.user_id IS 'The user.';
COMMENT ON COLUMN coupon.request_key.request_key IS 'The caller''s own key.';
COMMENT ON COLUMN coupon.request_key.kind IS 'issue, whichever way; hold, of units that the call has named; hold_any.';
COMMENT ON COLUMN coupon.request_key.serials IS 'The units.';

SELECT pg_catalog.pg_extension_config_dump('coupon.request_key', '');
