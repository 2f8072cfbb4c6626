/*
 * stock_report.c
 *	  What this node has of a campaign that several nodes share: as others are
 *	  told, and as the transfer worker is.
 *
 * A campaign is sold out when every node has said twice that no unit is free, in
 * flight or on its way, with the same numbers both times.  The number is the
 * stock map's supply, which rises with whatever becomes free or may yet, and a
 * random value that each map is born with; so two equal numbers say that nothing
 * came back between them, neither by a restart.  That verdict holds here until
 * the own number changes, and at most for COUPON_GONE_MS, since others do not
 * say when theirs does.
 *
 * The fields in the map are atomics; gone_until is written after gone_at.
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/arguments.h"
#include "base/clock.h"
#include "base/guc.h"
#include "sale/stock.h"
#include "sale/sweep.h"

#define HERE_NATTS		4
#define FETCH_AGAIN_MS	1000	/* after it failed */

PG_FUNCTION_INFO_V1(coupon_stock_here);
PG_FUNCTION_INFO_V1(coupon_stock_wants);
PG_FUNCTION_INFO_V1(coupon_stock_fetched);
PG_FUNCTION_INFO_V1(coupon_stock_set_gone);

static char *
form_number(CouponStock *stock, uint64 supply)
{
	return psprintf(UINT64_FORMAT "." UINT64_FORMAT, stock->birth, supply);
}

/*
 * coupon.stock_here(campaign_id) RETURNS (free, in_flight, gone, number)
 *
 * free: units that can be had now, by sweeping a hold too.
 */
Datum
coupon_stock_here(PG_FUNCTION_ARGS)
{
	const CouponDefinition *def;
	CouponCampaign *campaign;
	CouponStock *stock;
	CouponStockSum sum;
	TupleDesc	desc;
	Datum		values[HERE_NATTS];
	bool		nulls[HERE_NATTS] = {0};
	uint64		supply;
	bool		gone = false;

	coupon_require_argument(fcinfo, 0, "campaign_id");
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts != HERE_NATTS)
		elog(ERROR, "coupon.stock_here has an unexpected shape");
	campaign = coupon_campaign_enter(PG_GETARG_INT64(0), &def);
	stock = coupon_stock_open(campaign, def);
	supply = coupon_stock_supply(stock);
	if (coupon_stock_may_lapse(campaign, GetCurrentTimestamp()))
	{
		int64		live;
		int64		lapsed;

		coupon_stock_sum(campaign, stock, &sum);
		coupon_sweep_count(def->campaign_id, stock, &live, &lapsed);
		/* who takes looks for them, and finds out when the next one runs out */
		sum.free += Max(lapsed, 1);
	}
	else
	{
		coupon_stock_sum(campaign, stock, &sum);
		gone = sum.free == 0 && coupon_stock_judge(campaign, stock, supply, false) == COUPON_ALL_GONE;
	}
	values[0] = Int64GetDatum(sum.free);
	values[1] = Int64GetDatum(sum.in_flight);
	values[2] = BoolGetDatum(gone);
	values[3] = CStringGetTextDatum(form_number(stock, supply));
	coupon_campaign_leave(campaign);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

/* Is it time to fetch units of a campaign whose map is there? */
static bool
wants(CouponCampaign *campaign, const CouponDefinition *def, CouponStock *stock)
{
	uint64		low = pg_atomic_read_u64(&stock->low_water);

	if ((TimestampTz) pg_atomic_read_u64(&stock->fetch_at) > coupon_steady_now())
		return false;
	if (pg_atomic_exchange_u32(&stock->wanted, 0) != 0 || has_waiters(stock))
		return true;
	if (low == NEVER_FETCHED)
	{
		low = (def->stock - def->withdrawn - def->away) * coupon_transfer_low_water / 100;
		pg_atomic_write_u64(&stock->low_water, low);
	}
	return low > 0 && !coupon_stock_exceeds(campaign, stock, low - 1, true);
}

/*
 * coupon.stock_wants(campaign_ids): those of them that want units of others
 */
Datum
coupon_stock_wants(PG_FUNCTION_ARGS)
{
	int64	   *ids;
	int			n;
	int			nwanting = 0;

	coupon_require_argument(fcinfo, 0, "campaign_ids");
	ids = coupon_int64s(PG_GETARG_DATUM(0), "campaign_ids", &n);
	for (int i = 0; i < n; i++)
	{
		CouponCampaign *campaign = coupon_campaign_enter_known(ids[i]);
		const CouponDefinition *def;
		bool		has_map;

		CHECK_FOR_INTERRUPTS();
		if (campaign == NULL)
			continue;
		/* what nobody has asked for here wants nothing */
		has_map = DsaPointerIsValid(campaign->stock);
		coupon_campaign_leave(campaign);
		if (!has_map)
			continue;
		campaign = coupon_campaign_enter(ids[i], &def);
		if (wants(campaign, def, coupon_stock_open(campaign, def)))
			ids[nwanting++] = ids[i];
		coupon_campaign_leave(campaign);
	}
	PG_RETURN_DATUM(coupon_int64s_form(ids, nwanting));
}

/*
 * coupon.stock_fetched(campaign_id, failed)
 *
 * Units were fetched, or there were none: not again before half of what is here
 * is gone.  Or that failed, and will as well in the next moment.
 */
Datum
coupon_stock_fetched(PG_FUNCTION_ARGS)
{
	const CouponDefinition *def;
	CouponCampaign *campaign;
	CouponStock *stock;
	CouponStockSum sum;

	coupon_require_argument(fcinfo, 0, "campaign_id");
	coupon_require_argument(fcinfo, 1, "failed");
	campaign = coupon_campaign_enter(PG_GETARG_INT64(0), &def);
	stock = coupon_stock_open(campaign, def);
	if (PG_GETARG_BOOL(1))
		pg_atomic_write_u64(&stock->fetch_at, (uint64) TimestampTzPlusMilliseconds(coupon_steady_now(), FETCH_AGAIN_MS));
	else
	{
		coupon_stock_sum(campaign, stock, &sum);
		pg_atomic_write_u64(&stock->low_water, sum.free / 2);
	}
	coupon_campaign_leave(campaign);
	PG_RETURN_VOID();
}

/*
 * coupon.stock_set_gone(campaign_id, number)
 *
 * No node has a unit, found out while the own number was this.  Returns whether
 * it is that still.
 */
Datum
coupon_stock_set_gone(PG_FUNCTION_ARGS)
{
	const CouponDefinition *def;
	CouponCampaign *campaign;
	CouponStock *stock;
	uint64		supply;
	bool		same;

	coupon_require_argument(fcinfo, 0, "campaign_id");
	coupon_require_argument(fcinfo, 1, "number");
	campaign = coupon_campaign_enter(PG_GETARG_INT64(0), &def);
	stock = coupon_stock_open(campaign, def);
	supply = coupon_stock_supply(stock);
	same = strcmp(form_number(stock, supply), text_to_cstring(PG_GETARG_TEXT_PP(1))) == 0;
	if (same)
	{
		pg_atomic_write_u64(&stock->gone_until, 0);
		pg_write_barrier();
		pg_atomic_write_u64(&stock->gone_at, supply);
		pg_write_barrier();
		pg_atomic_write_u64(&stock->gone_until,
							(uint64) TimestampTzPlusMilliseconds(GetCurrentTimestamp(), COUPON_GONE_MS));
		wake_waiters(stock);
	}
	coupon_campaign_leave(campaign);
	PG_RETURN_BOOL(same);
}
