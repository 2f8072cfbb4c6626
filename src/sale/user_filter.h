/*
 * user_filter.h
 *	  Who can have no unit of a campaign: answers for the flood after sell-out.
 */
#ifndef COUPON_USER_FILTER_H
#define COUPON_USER_FILTER_H

#include "sale/stock.h"

/*
 * True if the user certainly has no issuance, without a look into a table.
 * False if the user may have one, or if there is no filter.
 */
extern bool coupon_filter_excludes(CouponCampaign *campaign, Datum user_id);

/* To be called with a unit in flight, before a row is inserted for a user. */
extern void coupon_filter_add(CouponCampaign *campaign, Datum user_id);

/* Builds the filter of a campaign that is sold out, if that will pay. */
extern void coupon_filter_consider(CouponCampaign *campaign, const CouponDefinition *def);

#endif							/* COUPON_USER_FILTER_H */
