/*
 * units.c
 *	  The units of a campaign and what each one is: the map of a hall.
 *
 * Read from the tables with the statement's snapshot, by two index scans side
 * by side, so that a hall of a few hundred seats costs no planning and no
 * join.  Works in a READ ONLY transaction and on a standby.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/stratnum.h"
#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/arguments.h"
#include "base/catalog.h"
#include "base/compat.h"
#include "sale/campaign.h"

PG_FUNCTION_INFO_V1(coupon_units);

#define UNITS_NATTS		4

static bool
are_labels_public(int64 campaign_id, Snapshot snapshot)
{
	const CouponCatalog *catalog = coupon_catalog();
	bool		labels_public;
	ScanKeyData key;
	CouponScan	scan;
	bool		isnull;

	coupon_key_int64(&key, 1, BTEqualStrategyNumber, campaign_id);
	coupon_scan_begin(&scan, catalog->campaign, catalog->campaign_pkey, snapshot, &key, 1, false);
	if (!coupon_scan_next(&scan, ForwardScanDirection))
		coupon_campaign_unknown(campaign_id);
	labels_public = DatumGetBool(slot_getattr(scan.slot, Campaign_labels_public, &isnull));
	coupon_scan_end(&scan);
	return labels_public;
}

/* Moves a scan in the order of serials on to the first from serial on; 0: none. */
static int64
move_to(CouponScan *scan, int column, int64 at, int64 serial)
{
	bool		isnull;

	while (at != 0 && at < serial)
		at = coupon_scan_next(scan, ForwardScanDirection) ?
			DatumGetInt64(slot_getattr(scan->slot, column, &isnull)) : 0;
	return at;
}

/* A walk over the units, with the two scans beside it. */
typedef struct Walk
{
	ReturnSetInfo *rsinfo;
	TimestampTz now;
	Datum		words[3];
	bool		labels_public;
	CouponScan	units;
	CouponScan	issuances;
	int64		labelled;		/* the serials at which they are */
	int64		issued;
} Walk;

static void
put_unit(Walk *walk, int64 serial)
{
	Datum		values[UNITS_NATTS] = {0};
	bool		nulls[UNITS_NATTS] = {false, true, false, true};
	HeapTuple	tuple;
	bool		isnull;

	values[0] = Int64GetDatum(serial);
	if (walk->labels_public &&
		(walk->labelled = move_to(&walk->units, Unit_serial, walk->labelled, serial)) == serial)
	{
		values[1] = slot_getattr(walk->units.slot, Unit_label, &isnull);
		nulls[1] = false;
	}
	values[2] = walk->words[0];
	if ((walk->issued = move_to(&walk->issuances, Issuance_serial, walk->issued, serial)) == serial)
	{
		values[2] = walk->words[2];
		values[3] = slot_getattr(walk->issuances.slot, Issuance_held_until, &isnull);
		if (!isnull)
		{
			nulls[3] = DatumGetTimestampTz(values[3]) <= walk->now;
			values[2] = walk->words[nulls[3] ? 0 : 1];
		}
	}
	tuple = heap_form_tuple(walk->rsinfo->setDesc, values, nulls);
	tuplestore_puttuple(walk->rsinfo->setResult, tuple);
	heap_freetuple(tuple);
}

/* The units of a shard that are on sale. */
static void
put_shard(Walk *walk, TupleTableSlot *shard)
{
	bool		isnull;
	int64		first = DatumGetInt64(slot_getattr(shard, Shard_first_serial, &isnull));
	int64		last = DatumGetInt64(slot_getattr(shard, Shard_last_serial, &isnull));
	Datum		value = slot_getattr(shard, Shard_withdrawn, &isnull);
	bytea	   *withdrawn = isnull ? NULL : DatumGetByteaPP(value);
	bytea	   *away;

	value = slot_getattr(shard, Shard_away, &isnull);
	away = isnull ? NULL : DatumGetByteaPP(value);
	for (int64 serial = first; serial <= last; serial++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!coupon_unit_is_in(withdrawn, serial - first) && !coupon_unit_is_in(away, serial - first))
			put_unit(walk, serial);
	}
}

/*
 * coupon_units(campaign_id)
 */
Datum
coupon_units(PG_FUNCTION_ARGS)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	snapshot = GetActiveSnapshot();
	Walk		walk = {.labelled = -1,.issued = -1};
	ScanKeyData key;
	CouponScan	shards;

	coupon_require_argument(fcinfo, 0, "campaign_id");
	InitMaterializedSRF(fcinfo, 0);
	walk.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	walk.now = GetCurrentTimestamp();
	walk.words[0] = CStringGetTextDatum("FREE");
	walk.words[1] = CStringGetTextDatum("HELD");
	walk.words[2] = CStringGetTextDatum("ISSUED");
	walk.labels_public = are_labels_public(PG_GETARG_INT64(0), snapshot);

	coupon_key_int64(&key, 1, BTEqualStrategyNumber, PG_GETARG_INT64(0));
	coupon_scan_begin(&walk.units, catalog->unit, catalog->unit_pkey, snapshot, &key, 1, false);
	coupon_scan_begin(&walk.issuances, catalog->issuance, catalog->issuance_serial_key,
					  snapshot, &key, 1, false);
	coupon_scan_begin(&shards, catalog->shard, catalog->shard_pkey, snapshot, &key, 1, false);
	while (coupon_scan_next(&shards, ForwardScanDirection))
		put_shard(&walk, shards.slot);
	coupon_scan_end(&shards);
	coupon_scan_end(&walk.issuances);
	coupon_scan_end(&walk.units);
	return (Datum) 0;
}
