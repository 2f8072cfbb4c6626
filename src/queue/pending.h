/*
 * pending.h
 *	  Changes of lines that a running transaction owes.
 *
 * Applied when the (sub)transaction ends, under the line's lock; must not
 * throw.  At commit all changes are applied in the order in which they were
 * noted, those to one line in one go.
 */
#ifndef COUPON_PENDING_H
#define COUPON_PENDING_H

#include "queue/line.h"

/* True: wake who waits for a change of the line. */
typedef struct CouponPending CouponPending;
typedef bool (*CouponApply) (CouponPending *change, bool committed);

struct CouponPending
{
	CouponApply apply;
	CouponLine *line;
	int64		number;
	uint64		extra;			/* of the change's own */
	uint32		child;			/* the table that has the row */
};

/* Makes room for n changes; may throw. */
extern void coupon_pending_reserve(int n);

/* Notes a change in reserved room, under the line's lock.  Never throws. */
extern void coupon_pending_push(CouponApply apply, CouponLine *line, int64 number,
								uint32 child, uint64 extra);

#endif							/* COUPON_PENDING_H */
