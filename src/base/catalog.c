/*
 * catalog.c
 *	  Where coupon's tables are, and one way to scan them.
 *
 * OIDs are looked up by name once and forgotten with a relcache invalidation
 * of one of them, so DROP EXTENSION and CREATE EXTENSION are noticed.
 */
#include "postgres.h"

#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation_d.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "base/catalog.h"
#include "base/compat.h"

static CouponCatalog catalog;
static bool catalog_valid = false;
static uint64 invalidations = 0;

static void
relcache_callback(Datum arg, Oid relid)
{
	invalidations++;
	if (relid == InvalidOid)
		catalog_valid = false;
	else
	{
		/* CouponCatalog is nothing but OIDs */
		const Oid  *oids = (const Oid *) &catalog;

		for (size_t i = 0; i < sizeof(catalog) / sizeof(Oid); i++)
		{
			if (oids[i] == relid)
				catalog_valid = false;
		}
	}
}

static Oid
relation_oid(Oid namespace_oid, const char *name)
{
	Oid			oid = get_relname_relid(name, namespace_oid);

	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation coupon.%s does not exist", name),
				 errhint("Run CREATE EXTENSION coupon in this database.")));
	return oid;
}

const CouponCatalog *
coupon_catalog(void)
{
	static bool registered = false;
	CouponCatalog found;
	uint64		before;
	Oid			ns;

	if (likely(catalog_valid))
		return &catalog;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
		registered = true;
	}

	/* again, if something was dropped or created meanwhile */
	do
	{
		before = invalidations;
		ns = get_namespace_oid("coupon", true);
		found.campaign = relation_oid(ns, "campaign");
		found.campaign_pkey = relation_oid(ns, "campaign_pkey");
		found.shard = relation_oid(ns, "shard");
		found.shard_pkey = relation_oid(ns, "shard_pkey");
		found.unit = relation_oid(ns, "unit");
		found.unit_pkey = relation_oid(ns, "unit_pkey");
		found.issuance = relation_oid(ns, "issuance");
		found.issuance_serial_key = relation_oid(ns, "issuance_serial_key");
		found.issuance_user_key = relation_oid(ns, "issuance_user_key");
		found.issuance_held_idx = relation_oid(ns, "issuance_held_idx");
		found.issuance_lapse_idx = relation_oid(ns, "issuance_lapse_idx");
		found.lapsed_hold = relation_oid(ns, "lapsed_hold");
		found.lapsed_hold_idx = relation_oid(ns, "lapsed_hold_idx");
		found.outbox[0] = relation_oid(ns, "outbox_0");
		found.outbox[1] = relation_oid(ns, "outbox_1");
		found.outbox[2] = relation_oid(ns, "outbox_2");
		found.request = relation_oid(ns, "request");
		found.requests[0] = relation_oid(ns, "request_0");
		found.requests[1] = relation_oid(ns, "request_1");
		found.request_pkeys[0] = relation_oid(ns, "request_0_pkey");
		found.request_pkeys[1] = relation_oid(ns, "request_1_pkey");
		found.request_user_keys[0] = relation_oid(ns, "request_0_user_idx");
		found.request_user_keys[1] = relation_oid(ns, "request_1_user_idx");
		found.room = relation_oid(ns, "room");
		found.room_pkey = relation_oid(ns, "room_pkey");
		found.room_name_key = relation_oid(ns, "room_name_key");
		found.ticket = relation_oid(ns, "ticket");
		found.tickets[0] = relation_oid(ns, "ticket_0");
		found.tickets[1] = relation_oid(ns, "ticket_1");
		found.ticket_pkeys[0] = relation_oid(ns, "ticket_0_pkey");
		found.ticket_pkeys[1] = relation_oid(ns, "ticket_1_pkey");
		found.ticket_user_keys[0] = relation_oid(ns, "ticket_0_user_idx");
		found.ticket_user_keys[1] = relation_oid(ns, "ticket_1_user_idx");
	} while (invalidations != before);

	catalog = found;
	catalog_valid = true;
	return &catalog;
}

void
coupon_scan_begin(CouponScan *s, Oid heap, Oid index, Snapshot snapshot,
				  ScanKey keys, int nkeys, bool want_index_tuples)
{
	s->heap = table_open(heap, AccessShareLock);
	s->index = index_open(index, AccessShareLock);
	s->slot = table_slot_create(s->heap, NULL);
	s->scan = coupon_index_beginscan(s->heap, s->index, snapshot, nkeys);
	s->scan->xs_want_itup = want_index_tuples;
	if (keys != NULL)
		index_rescan(s->scan, keys, nkeys, NULL, 0);
}

bool
coupon_scan_next(CouponScan *s, ScanDirection direction)
{
	CHECK_FOR_INTERRUPTS();
	return index_getnext_slot(s->scan, direction, s->slot);
}

static void
end_scan(CouponScan *s, LOCKMODE lock)
{
	index_endscan(s->scan);
	ExecDropSingleTupleTableSlot(s->slot);
	index_close(s->index, lock);
	table_close(s->heap, lock);
}

void
coupon_scan_end(CouponScan *s)
{
	/* the locks go with the transaction, all at once */
	end_scan(s, NoLock);
}

void
coupon_scan_end_unlock(CouponScan *s)
{
	end_scan(s, AccessShareLock);
}

void
coupon_key_int64(ScanKey key, int column, StrategyNumber strategy, int64 value)
{
	RegProcedure procedure;

	switch (strategy)
	{
		case BTGreaterEqualStrategyNumber:
			procedure = F_INT8GE;
			break;
		case BTLessEqualStrategyNumber:
			procedure = F_INT8LE;
			break;
		default:
			Assert(strategy == BTEqualStrategyNumber);
			procedure = F_INT8EQ;
	}
	ScanKeyInit(key, column, strategy, procedure, Int64GetDatum(value));
}

void
coupon_key_int32(ScanKey key, int column, StrategyNumber strategy, int32 value)
{
	Assert(strategy == BTGreaterEqualStrategyNumber);
	ScanKeyInit(key, column, strategy, F_INT4GE, Int32GetDatum(value));
}

void
coupon_key_time(ScanKey key, int column, StrategyNumber strategy, TimestampTz value)
{
	RegProcedure procedure = strategy == BTLessEqualStrategyNumber ? F_TIMESTAMPTZ_LE :
		strategy == BTGreaterEqualStrategyNumber ? F_TIMESTAMPTZ_GE : F_TIMESTAMPTZ_GT;

	ScanKeyInit(key, column, strategy, procedure, TimestampTzGetDatum(value));
}

void
coupon_key_uuid(ScanKey key, int column, StrategyNumber strategy, const pg_uuid_t *value)
{
	RegProcedure procedure = strategy == BTGreaterEqualStrategyNumber ? F_UUID_GE :
		strategy == BTLessEqualStrategyNumber ? F_UUID_LE : F_UUID_EQ;

	ScanKeyInit(key, column, strategy, procedure, UUIDPGetDatum(value));
}

void
coupon_key_text(ScanKey key, int column, Datum value)
{
	ScanKeyEntryInitialize(key, 0, column, BTEqualStrategyNumber, InvalidOid,
						   C_COLLATION_OID, F_TEXTEQ, value);
}
