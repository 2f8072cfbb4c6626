/*
 * redeem.h
 *	  The life of an issuance after it was issued.
 */
#ifndef COUPON_REDEEM_H
#define COUPON_REDEEM_H

#include "sale/sweep.h"

/* The ways in. */
extern struct CouponWay coupon_way_redeem;
extern struct CouponWay coupon_way_cancel;
extern struct CouponWay coupon_way_revoke;

/*
 * Marks those of n issuances of one campaign whose usage period is over as
 * expired, skipping rows that others have locked; returns how many.
 */
extern int	coupon_redeem_expire_campaign(const CouponDue *due, int n, TimestampTz now);

#endif							/* COUPON_REDEEM_H */
