-- Units that carry a label: coupon codes, seats.

CREATE TABLE coupon.unit (
	campaign_id bigint NOT NULL REFERENCES coupon.campaign,
	serial      bigint NOT NULL CHECK (serial >= 1),
	label       text COLLATE "C" NOT NULL,
	PRIMARY KEY (campaign_id, serial),
	CONSTRAINT unit_label_key UNIQUE (campaign_id, label)
);
COMMENT ON TABLE coupon.unit IS 'labels of serials: coupon codes, seat numbers; never updated';
COMMENT ON COLUMN coupon.unit.campaign_id IS 'the campaign';
COMMENT ON COLUMN coupon.unit.serial IS 'the serial that the label belongs to';
COMMENT ON COLUMN coupon.unit.label IS 'the code or seat number, unique in its campaign';

SELECT pg_catalog.pg_extension_config_dump('coupon.unit', '');

CREATE FUNCTION @extschema@.coupon_codes_import(campaign_id bigint, codes text[])
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_codes_import(bigint, text[]) IS
	'makes each new code one unit of the campaign; duplicates are skipped and reported in a NOTICE; returns the number imported';

CREATE FUNCTION @extschema@.coupon_codes_generate(campaign_id bigint, pattern text, units bigint)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_codes_generate(bigint, text, bigint) IS
	'makes random codes, one unit each; each # of the pattern becomes one of 32 characters (5 bits), null pattern: 16 of them; returns the number made';

CREATE FUNCTION @extschema@.coupon_units_import(campaign_id bigint, labels text[])
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_units_import(bigint, text[]) IS
	'makes each label (a seat number) one unit of the campaign, with consecutive serials in the order of the array; all or nothing, a duplicate is an ERROR; unlike codes, labels are shown to everybody; returns the number imported';

CREATE FUNCTION @extschema@.coupon_units(
	campaign_id bigint,
	OUT serial bigint,
	OUT label text,
	OUT status text,
	OUT held_until timestamptz)
RETURNS SETOF record
LANGUAGE c STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_units(bigint) IS
	'every unit of the campaign in the order of serials; status: FREE | HELD | ISSUED; a hold that has run out is FREE; labels that are codes are not shown';
