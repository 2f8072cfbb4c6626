\echo Use "CREATE EXTENSION coupon" to load this file. \quit

-- The script would run with the target schema in the path, and who owns that
-- schema or may create in it could have put operators and functions there that
-- are closer to some operands than those of pg_catalog.  So no name is looked
-- for there: what goes there is created with @extschema@.
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE SCHEMA coupon;
COMMENT ON SCHEMA coupon IS 'tables, types and views of the coupon extension';

-- Roles belong to the cluster, so a second database finds them there.
DO $$
DECLARE
	role_name pg_catalog.text;
BEGIN
	FOREACH role_name IN ARRAY ARRAY['coupon_admin', 'coupon_service', 'coupon_reader', 'coupon_user']
	LOOP
		BEGIN
			EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', role_name);
		EXCEPTION
			WHEN duplicate_object OR unique_violation THEN NULL;
		END;
	END LOOP;
END
$$;
