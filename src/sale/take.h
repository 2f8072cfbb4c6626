/*
 * take.h
 *	  Taking any units of a campaign: free ones, and those of holds that have
 *	  run out.
 */
#ifndef COUPON_TAKE_H
#define COUPON_TAKE_H

#include "sale/issuance_table.h"
#include "sale/stock.h"

/* Why fewer units were taken than wanted. */
typedef enum CouponShortage
{
	COUPON_NO_SHORTAGE,
	COUPON_SHORT_SOLD_OUT,		/* none can be had, now or later */
	COUPON_SHORT_BUSY			/* another transaction's when the wait was
								 * over */
} CouponShortage;

/*
 * Takes up to n units; returns how many, and why not all.  Each is given back
 * if the (sub)transaction aborts.  Waits up to wait_ms for those in flight.
 */
extern int	coupon_take(CouponCampaign *campaign, const CouponDefinition *def,
						CouponTableWriter *table, CouponPurpose purpose, int n, int wait_ms,
						CouponUnit *units, CouponShortage *why);

/*
 * Of n units in the order of their serials those that have a row are given back,
 * for good, and the gaps are closed; returns how many are left.  For who inserts no
 * rows: the map may be wrong towards free, and no index would refuse.
 */
extern int	coupon_take_drop_issued(CouponCampaign *campaign, CouponUnit *units, int n);

#endif							/* COUPON_TAKE_H */
