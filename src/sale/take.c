/*
 * take.c
 *	  Taking any units of a campaign: free ones, and those of holds that have
 *	  run out.
 *
 * There are three answers to who gets no unit.  As long as another transaction
 * has one in its hands that may come back it is waited for, and then the
 * campaign is busy.  Sold out is said only when no unit is free, none in
 * flight and no hold has run out; until then a user is asked to try again.  Of
 * a campaign that several nodes share that must be true of all of them; who finds
 * nothing here waits for the transfer worker, which fetches units or finds out
 * that there are none.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "utils/timestamp.h"

#include "base/fault.h"
#include "node/fence.h"
#include "node/node.h"
#include "sale/sweep.h"
#include "sale/take.h"

int
coupon_take(CouponCampaign *campaign, const CouponDefinition *def, CouponTableWriter *table,
			CouponPurpose purpose, int n, int wait_ms, CouponUnit *units, CouponShortage *why)
{
	CouponStock *stock = coupon_stock_open(campaign, def);
	TimestampTz deadline = 0;
	int			taken = 0;

	*why = COUPON_NO_SHORTAGE;
	if (unlikely(def->shared) && !(coupon_node_here() && coupon_fence_passed()))
		coupon_fence_refuse();
	while (*why == COUPON_NO_SHORTAGE)
	{
		TimestampTz now = GetCurrentTimestamp();
		uint64		supply = coupon_stock_supply(stock);
		bool		undecided = false;
		CouponVerdict verdict;

		CHECK_FOR_INTERRUPTS();
		if (coupon_stock_sold_out(campaign, def, now))
		{
			*why = COUPON_SHORT_SOLD_OUT;
			break;
		}
		taken += coupon_stock_take(campaign, stock, purpose, n - taken, units + taken);
		if (taken < n && coupon_stock_may_lapse(campaign, now))
			taken += coupon_sweep_take(campaign, def, table, purpose, n - taken, units + taken,
									   &undecided);
		if (taken == n)
			break;

		COUPON_FAULT(units_missed);
		verdict = coupon_stock_judge(campaign, stock, supply, undecided);
		if (verdict == COUPON_ALL_GONE && def->shared && purpose != COUPON_TO_SEND &&
			!coupon_stock_gone_everywhere(stock))
		{
			/*
			 * One may come from another node.  Where the campaign has no
			 * serial yet, the call's definition does not know the shard of
			 * the first one, so the caller has to ask again.
			 */
			if (def->stock == 0)
			{
				*why = COUPON_SHORT_BUSY;
				break;
			}
			verdict = COUPON_IN_FLIGHT;
		}
		if (verdict == COUPON_ALL_GONE)
			*why = COUPON_SHORT_SOLD_OUT;
		else if (!coupon_stock_wait(stock, verdict, wait_ms, &deadline))
			*why = COUPON_SHORT_BUSY;
	}
	if (deadline != 0)
		ConditionVariableCancelSleep();
	if (taken > 0)
		COUPON_FAULT(unit_taken);
	return taken;
}

int
coupon_take_drop_issued(CouponCampaign *campaign, CouponUnit *units, int n)
{
	int			kept = 0;
	int			end;

	for (int begin = 0; begin < n; begin = end)
	{
		CouponShard *shard = units[begin].shard;
		uint64	   *bits = palloc(count_words(shard) * sizeof(uint64));

		for (end = begin + 1; end < n && units[end].shard == shard; end++)
			;
		(void) coupon_stock_read_rows(campaign->key.campaign_id, shard, units[begin].bit, units[end - 1].bit, bits);
		for (int i = begin; i < end; i++)
		{
			if (bits[units[i].bit / 64] & (UINT64CONST(1) << (units[i].bit % 64)))
				coupon_stock_give_back(campaign, &units[i], COUPON_NOT_OURS);
			else
				units[kept++] = units[i];
		}
		pfree(bits);
	}
	return kept;
}
