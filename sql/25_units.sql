-- Units that carry a label: coupon codes, seats.

CREATE TABLE coupon.unit (
	campaign_id bigint NOT NULL,
	serial      bigint NOT NULL CHECK (serial >= 1),
	label       text COLLATE "C" NOT NULL,
	PRIMARY KEY (campaign_id, serial),
	CONSTRAINT unit_label_key UNIQUE (campaign_id, label)
);
COMMENT ON TABLE coupon.unit IS 'The labels of units: coupon codes or seat numbers. Rows are never updated.';
COMMENT ON COLUMN coupon.unit.campaign_id IS 'The campaign.';
COMMENT ON COLUMN coupon.unit.serial IS 'The serial of the unit that has the label.';
COMMENT ON COLUMN coupon.unit.label IS 'The code or seat number, unique in its campaign.';

SELECT pg_catalog.pg_extension_config_dump('coupon.unit', '');

CREATE TRIGGER campaign_known BEFORE INSERT OR UPDATE OF campaign_id ON coupon.unit
	FOR EACH ROW EXECUTE FUNCTION coupon.campaign_known();

CREATE FUNCTION @extschema@.coupon_codes_import(campaign_id bigint, codes text[])
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_codes_import(bigint, text[]) IS
	'Makes each code that is new a unit of the campaign. Duplicates are skipped, and a NOTICE says how many. Returns the number of units made.';

CREATE FUNCTION @extschema@.coupon_codes_generate(campaign_id bigint, pattern text, units bigint)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_codes_generate(bigint, text, bigint) IS
	'Makes units with random codes. Each # of the pattern becomes one of 32 characters, which is 5 bits; null stands for a pattern of 16. Returns the number of units made.';

CREATE FUNCTION @extschema@.coupon_units_import(campaign_id bigint, labels text[])
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.coupon_units_import(bigint, text[]) IS
	'Makes each label, such as a seat number, a unit of the campaign, with consecutive serials in the order of the array. A duplicate is an ERROR, and then none is imported. Unlike codes, labels are shown to everybody. Returns the number of units made.';

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
	'Every unit of the campaign in the order of serials. Status: FREE | HELD | ISSUED; a unit whose hold has run out is FREE. Withdrawn units and codes are not shown.';
