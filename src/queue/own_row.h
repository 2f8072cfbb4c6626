/*
 * own_row.h
 *	  The row of a user's that a call is answered with.
 */
#ifndef COUPON_OWN_ROW_H
#define COUPON_OWN_ROW_H

#include "queue/queue.h"

/*
 * Is a row of the user's the answer?  If so it is copied into arg.  Whether it
 * may be a final one, whoever asks says as well: most calls need not look for
 * those.
 */
typedef bool (*CouponAnswers) (TupleTableSlot *slot, uint32 child, void *arg);

typedef enum CouponOwnRow
{
	COUPON_OWN_NONE,			/* there is no answer yet */
	COUPON_OWN_FOUND,
	COUPON_OWN_LOCKED			/* another transaction is at it; not waited
								 * for, and nothing is locked */
} CouponOwnRow;

/*
 * Locks a user of a line against calls of other sessions, until
 * coupon_own_row_unlock() of *lock, and looks for the answer to this one.  With
 * wait it waits for the user and for transactions that have yet to decide about
 * the answer: not for whoever holds rows of other users, who might be waited
 * for.  *nothers: how many other rows of the user are not final.
 */
extern CouponOwnRow coupon_own_row_lock(const CouponQueueKind *kind, int64 id, text *user_id,
										CouponAnswers answers, bool final_too, void *arg, bool wait,
										int *nothers, uint64 *lock);
extern void coupon_own_row_unlock(const CouponQueueKind *kind, uint64 lock);

#endif							/* COUPON_OWN_ROW_H */
