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

#endif							/* COUPON_TAKE_H */
