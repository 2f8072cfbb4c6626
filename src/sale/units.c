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

typedef struct CampaignKind
{
	bool		labels_public;
	int64		stock;
} CampaignKind;

static void
read_kind(int64 campaign_id, Snapshot snapshot, CampaignKind *kind)
{
	const CouponCatalog *catalog = coupon_catalog();
	ScanKeyData key;
	CouponScan	scan;
	bool		isnull;

	coupon_key_int64(&key, 1, BTEqualStrategyNumber, campaign_id);
	coupon_scan_begin(&scan, catalog->campaign, catalog->campaign_pkey, snapshot, &key, 1, false);
	if (!coupon_scan_next(&scan, ForwardScanDirection))
		coupon_campaign_unknown(campaign_id);
	kind->labels_public = DatumGetBool(slot_getattr(scan.slot, Campaign_labels_public, &isnull));
	coupon_scan_end(&scan);

	kind->stock = 0;
	coupon_scan_begin(&scan, catalog->shard, catalog->shard_pkey, snapshot, &key, 1, false);
	if (coupon_scan_next(&scan, BackwardScanDirection))
		kind->stock = DatumGetInt64(slot_getattr(scan.slot, Shard_last_serial, &isnull));
	coupon_scan_end(&scan);
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

/*
 * coupon_units(campaign_id)
 */
Datum
coupon_units(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Snapshot	snapshot = GetActiveSnapshot();
	TimestampTz now = GetCurrentTimestamp();
	Datum		words[3];
	int64		campaign_id;
	CampaignKind kind;
	ScanKeyData key;
	CouponScan	units;
	CouponScan	issuances;
	int64		labelled = -1;
	int64		issued = -1;

	coupon_require_argument(fcinfo, 0, "campaign_id");
	campaign_id = PG_GETARG_INT64(0);
	InitMaterializedSRF(fcinfo, 0);
	read_kind(campaign_id, snapshot, &kind);
	words[0] = CStringGetTextDatum("FREE");
	words[1] = CStringGetTextDatum("HELD");
	words[2] = CStringGetTextDatum("ISSUED");

	coupon_key_int64(&key, 1, BTEqualStrategyNumber, campaign_id);
	coupon_scan_begin(&units, coupon_catalog()->unit, coupon_catalog()->unit_pkey, snapshot, &key, 1, false);
	coupon_scan_begin(&issuances, coupon_catalog()->issuance, coupon_catalog()->issuance_serial_key,
					  snapshot, &key, 1, false);
	for (int64 serial = 1; serial <= kind.stock; serial++)
	{
		Datum		values[UNITS_NATTS] = {0};
		bool		nulls[UNITS_NATTS] = {false, true, false, true};
		HeapTuple	tuple;
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		values[0] = Int64GetDatum(serial);
		if (kind.labels_public &&
			(labelled = move_to(&units, Unit_serial, labelled, serial)) == serial)
		{
			values[1] = slot_getattr(units.slot, Unit_label, &isnull);
			nulls[1] = false;
		}
		values[2] = words[0];
		if ((issued = move_to(&issuances, Issuance_serial, issued, serial)) == serial)
		{
			values[2] = words[2];
			values[3] = slot_getattr(issuances.slot, Issuance_held_until, &isnull);
			if (!isnull)
			{
				nulls[3] = DatumGetTimestampTz(values[3]) <= now;
				values[2] = words[nulls[3] ? 0 : 1];
			}
		}
		tuple = heap_form_tuple(rsinfo->setDesc, values, nulls);
		tuplestore_puttuple(rsinfo->setResult, tuple);
		heap_freetuple(tuple);
	}
	coupon_scan_end(&issuances);
	coupon_scan_end(&units);
	return (Datum) 0;
}
