/*
 * campaign_status.c
 *	  What a dashboard reads: stock from the stock map, answers from counters.
 *
 * Cheap once the map is built: no table is counted.  Holds are: there are no
 * more of them than have been begun and not paid for in their time to live.
 * A standby has neither map nor counters; there the rows of the campaign are
 * counted.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"

#include "base/arguments.h"
#include "base/catalog.h"
#include "sale/campaign.h"
#include "sale/sweep.h"
#include "sale/stock.h"

#define STATUS_NATTS	(5 + COUPON_COUNTED_STATUSES)

PG_FUNCTION_INFO_V1(coupon_status);

typedef struct Counts
{
	int64		stock;
	int64		issued;
	int64		held;
	int64		in_flight;
	int64		remaining;
} Counts;

/* From the stock map; but for holds, no row is counted. */
static void
count_units(CouponCampaign *campaign, const CouponDefinition *def, Counts *counts)
{
	CouponStock *stock = coupon_stock_open(campaign, def);
	CouponStockSum sum;
	int64		held;
	int64		lapsed;
	int64		gone;

	coupon_stock_sum(campaign, stock, &sum);
	coupon_sweep_count(def->campaign_id, stock, &held, &lapsed);

	/* what this transaction withdraws is in flight, too */
	gone = sum.units - sum.free - sum.in_flight - def->withdrawn - def->away;
	if (gone < 0)
	{
		sum.in_flight = Max(sum.in_flight + gone, 0);
		gone = 0;
	}

	/* what is in flight may be counted as held, too */
	lapsed = Min(lapsed, gone);
	held = Min(held, gone - lapsed);
	counts->stock = sum.units - def->withdrawn - def->away;
	counts->issued = gone - held - lapsed;
	counts->held = held;
	counts->in_flight = sum.in_flight;
	counts->remaining = sum.free + lapsed;
}

/* How many units a campaign's shards are of, but for those that were withdrawn or are other nodes'. */
static int64
count_stock(int64 campaign_id, Snapshot snapshot)
{
	int64		stock = 0;
	ScanKeyData key;
	CouponScan	scan;

	coupon_key_int64(&key, 1, BTEqualStrategyNumber, campaign_id);
	coupon_scan_begin(&scan, coupon_catalog()->campaign, coupon_catalog()->campaign_pkey, snapshot, &key, 1, false);
	if (!coupon_scan_next(&scan, ForwardScanDirection))
		coupon_campaign_unknown(campaign_id);
	else
	{
		bool		isnull;

		stock = -DatumGetInt64(slot_getattr(scan.slot, Campaign_withdrawn, &isnull)) -
			DatumGetInt64(slot_getattr(scan.slot, Campaign_away, &isnull));
	}
	coupon_scan_end_unlock(&scan);
	coupon_scan_begin(&scan, coupon_catalog()->shard, coupon_catalog()->shard_pkey, snapshot, &key, 1, false);
	while (coupon_scan_next(&scan, ForwardScanDirection))
	{
		bool		isnull;

		stock += DatumGetInt64(slot_getattr(scan.slot, Shard_last_serial, &isnull)) -
			DatumGetInt64(slot_getattr(scan.slot, Shard_first_serial, &isnull)) + 1;
	}
	coupon_scan_end_unlock(&scan);
	return stock;
}

/* How many rows of issuances a campaign has, holds among them. */
static int64
count_issuances(int64 campaign_id, Snapshot snapshot)
{
	int64		n = 0;
	ScanKeyData key;
	CouponScan	scan;

	coupon_key_int64(&key, 1, BTEqualStrategyNumber, campaign_id);
	coupon_scan_begin(&scan, coupon_catalog()->issuance, coupon_catalog()->issuance_serial_key,
					  snapshot, &key, 1, false);
	while (coupon_scan_next(&scan, ForwardScanDirection))
	{
		CHECK_FOR_INTERRUPTS();
		n++;
	}
	coupon_scan_end_unlock(&scan);
	return n;
}

/*
 * On a standby, which has no stock map: from the rows.  What the primary has in
 * flight is not among them.
 */
static void
count_rows(int64 campaign_id, Counts *counts)
{
	int64		held;
	int64		lapsed;
	int64		gone;
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

	counts->stock = count_stock(campaign_id, snapshot);
	gone = count_issuances(campaign_id, snapshot);
	UnregisterSnapshot(snapshot);
	coupon_sweep_count(campaign_id, NULL, &held, &lapsed);
	/* more may have been replayed meanwhile */
	gone = Max(gone, held + lapsed);
	counts->issued = gone - held - lapsed;
	counts->held = held;
	counts->in_flight = 0;
	counts->remaining = Max(counts->stock - counts->issued - held, 0);
}

/*
 * coupon_status(campaign_id)
 */
Datum
coupon_status(PG_FUNCTION_ARGS)
{
	bool		standby = RecoveryInProgress();
	Counts		counts;
	TupleDesc	desc;
	Datum		values[STATUS_NATTS] = {0};
	bool		nulls[STATUS_NATTS] = {0};

	coupon_require_argument(fcinfo, 0, "campaign_id");
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
		desc->natts != STATUS_NATTS)
		elog(ERROR, "coupon_status has an unexpected shape");

	if (standby)
	{
		count_rows(PG_GETARG_INT64(0), &counts);
		/* the primary counts its answers in its memory */
		memset(&nulls[5], true, COUPON_COUNTED_STATUSES * sizeof(bool));
	}
	else
	{
		const CouponDefinition *def;
		CouponCampaign *campaign = coupon_campaign_enter(PG_GETARG_INT64(0), &def);

		count_units(campaign, def, &counts);
		for (int s = 0; s < COUPON_COUNTED_STATUSES; s++)
			values[5 + s] = Int64GetDatum(pg_atomic_read_u64(&campaign->answers[s]));
		coupon_campaign_leave(campaign);
	}
	values[0] = Int64GetDatum(counts.stock);
	values[1] = Int64GetDatum(counts.issued);
	values[2] = Int64GetDatum(counts.held);
	values[3] = Int64GetDatum(counts.in_flight);
	values[4] = Int64GetDatum(counts.remaining);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}
