/*
 * user_filter.h
 *	  Who can have no unit of a campaign: saves looking them up.
 */
#ifndef COUPON_USER_FILTER_H
#define COUPON_USER_FILTER_H

#include "sale/stock.h"

/*
 * True if the user certainly has no issuance, without a look into a table.
 * False if the user may have one, or if there is no filter.
 */
extern bool coupon_filter_excludes(CouponCampaign *campaign, Datum user_id);

/*
 * True if the user most probably has no issuance, so that it is worth to try
 * an insertion first; no proof that they have none.
 */
extern bool coupon_filter_presumes_new(CouponCampaign *campaign, Datum user_id);

/*
 * To be called with a unit in flight, before a row is inserted for a user; the
 * first time, which may throw, to begin the filter of a campaign without rows.
 */
extern void coupon_filter_begin(CouponCampaign *campaign, const CouponDefinition *def);
extern void coupon_filter_add(CouponCampaign *campaign, Datum user_id);

/* Completes the filter of a campaign that is sold out, if that will pay. */
extern void coupon_filter_consider(CouponCampaign *campaign, const CouponDefinition *def);

#endif							/* COUPON_USER_FILTER_H */
