/*
 * late_payment.h
 *	  What is remembered of holds that have run out, for payments that come late.
 */
#ifndef COUPON_LATE_PAYMENT_H
#define COUPON_LATE_PAYMENT_H

#include "sale/issuance_table.h"

/* Remembers the hold that *row has just removed: it has run out. */
extern void coupon_late_payment_remember(const CouponIssuanceRow *row);

/* What is remembered of a user, a unit and a payment. */
typedef enum CouponMemory
{
	COUPON_MEMORY_NONE,
	COUPON_MEMORY_LAPSED,		/* the user held the unit, and did not pay in
								 * time */
	COUPON_MEMORY_LOST,			/* and another payment of theirs was refused
								 * then */
	COUPON_MEMORY_REFUSED		/* this payment was refused */
} CouponMemory;

/*
 * Locks the payments of a user for a unit, until the transaction ends.  Not
 * needed where nothing is remembered: then the row of the unit decides.
 */
extern void coupon_late_payment_lock(const CouponDefinition *def, int64 serial, text *user_id);

/* Is anything remembered of them, also by a transaction that is still running? */
extern bool coupon_late_payment_any(const CouponIssuanceRow *row, int64 serial, text *user_id);

/* To be asked with the lock. */
extern CouponMemory coupon_late_payment_recall(const CouponIssuanceRow *row, int64 serial,
											   text *user_id, text *ref);

/* Forgets that the user's hold has run out; not what was refused. */
extern void coupon_late_payment_forget(const CouponIssuanceRow *row, int64 serial, text *user_id);

/* Remembers that this payment was refused, instead of what it was late for. */
extern void coupon_late_payment_refuse(const CouponIssuanceRow *row, int64 serial, text *user_id, text *ref);

/* Forgets up to max_rows holds that ran out longer than coupon.hold_keep ago. */
extern int64 coupon_late_payment_clean(int32 max_rows);

#endif							/* COUPON_LATE_PAYMENT_H */
