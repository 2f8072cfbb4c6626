/*
 * campaign_status.c
 *	  What a dashboard reads: stock from the stock map, answers from counters.
 *
 * Cheap once the map is built: no table is counted.  Holds are: there are no
 * more of them than have been begun and not paid for in their time to live.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"

#include "base/arguments.h"
#include "sale/campaign.h"
#include "sale/sweep.h"
#include "sale/stock.h"

#define STATUS_NATTS	(5 + COUPON_COUNTED_STATUSES)

PG_FUNCTION_INFO_V1(coupon_status);

/*
 * coupon_status(campaign_id)
 */
Datum
coupon_status(PG_FUNCTION_ARGS)
{
	CouponCampaign *campaign;
	const CouponDefinition *def;
	CouponStockSum sum;
	int64		held;
	int64		lapsed;
	int64		gone;
	TupleDesc	desc;
	Datum		values[STATUS_NATTS];
	bool		nulls[STATUS_NATTS] = {0};

	coupon_require_argument(fcinfo, 0, "campaign_id");
	PreventCommandDuringRecovery("coupon_status()");
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
		desc->natts != STATUS_NATTS)
		elog(ERROR, "coupon_status has an unexpected shape");

	campaign = coupon_campaign_enter(PG_GETARG_INT64(0), &def);
	coupon_stock_sum(campaign, coupon_stock_open(campaign, def), &sum);

	coupon_sweep_count(def, &held, &lapsed);

	/* what this transaction withdraws is in flight, too */
	gone = sum.units - sum.free - sum.in_flight - def->withdrawn;
	if (gone < 0)
	{
		sum.in_flight = Max(sum.in_flight + gone, 0);
		gone = 0;
	}

	/* what is in flight may be counted as held, too */
	lapsed = Min(lapsed, gone);
	held = Min(held, gone - lapsed);

	values[0] = Int64GetDatum(sum.units - def->withdrawn);
	values[1] = Int64GetDatum(gone - held - lapsed);
	values[2] = Int64GetDatum(held);
	values[3] = Int64GetDatum(sum.in_flight);
	values[4] = Int64GetDatum(sum.free + lapsed);
	for (int s = 0; s < COUPON_COUNTED_STATUSES; s++)
		values[5 + s] = Int64GetDatum(pg_atomic_read_u64(&campaign->answers[s]));

	coupon_campaign_leave(campaign);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}
