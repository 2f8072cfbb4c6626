/*
 * late_payment.h
 *	  What is remembered of holds that have run out, for payments that come late.
 */
#ifndef COUPON_LATE_PAYMENT_H
#define COUPON_LATE_PAYMENT_H

#include "sale/issuance_table.h"

/* Remembers the hold that *seats has just removed: it has run out. */
extern void coupon_late_payment_remember(const CouponIssuanceRow *seats);

/* What is remembered of a user, a unit and a payment. */
typedef enum CouponMemory
{
	COUPON_MEMORY_NONE,
	COUPON_MEMORY_LAPSED,		/* he held the unit, and did not pay in time */
	COUPON_MEMORY_LOST,			/* and another payment of his was refused then */
	COUPON_MEMORY_REFUSED		/* this payment was refused */
} CouponMemory;

extern CouponMemory coupon_late_payment_recall(const CouponIssuanceRow *seats, int64 serial,
												text *user_id, text *ref);

/* Forgets that his hold has run out; not what was refused. */
extern void coupon_late_payment_forget(const CouponIssuanceRow *seats, int64 serial, text *user_id);

/* Remembers that this payment was refused, instead of what it was late for. */
extern void coupon_late_payment_refuse(const CouponIssuanceRow *seats, int64 serial, text *user_id, text *ref);

/* Forgets up to max_rows holds that ran out longer than coupon.hold_keep ago. */
extern int64 coupon_late_payment_clean(int32 max_rows);

#endif							/* COUPON_LATE_PAYMENT_H */
