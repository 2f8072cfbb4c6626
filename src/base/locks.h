/*
 * locks.h
 *	  Heavyweight locks of our own.
 *
 * They are user locks with the kind in the last field.  Advisory locks use the
 * same lock method with other tags, so an application's never meet ours.
 */
#ifndef COUPON_LOCKS_H
#define COUPON_LOCKS_H

#include "storage/lock.h"

typedef enum CouponLockKind
{
	COUPON_LOCK_USER = 1,		/* key: hash of campaign and user */
	COUPON_LOCK_REQUESTS,		/* key: table; who builds its lines */
	COUPON_LOCK_TICKETS,		/* the same */
	COUPON_LOCK_DECIDING,		/* key: campaign whose requests are decided */
	COUPON_LOCK_REQUESTER,		/* key: hash of campaign and user */
	COUPON_LOCK_JOINER,			/* key: hash of room and user */
	COUPON_LOCK_ADMITTING,		/* key: room whose tickets are served */
	COUPON_LOCK_PAYMENT			/* key: hash of unit and user; whose payments
								 * are decided */
} CouponLockKind;

/* Exclusive, until coupon_unlock or the end of the transaction. */
extern void coupon_lock(CouponLockKind kind, uint64 key);
extern void coupon_unlock(CouponLockKind kind, uint64 key);

/* Without waiting; tells whether it is new, was held already or is another's. */
extern LockAcquireResult coupon_lock_try(CouponLockKind kind, uint64 key);

/*
 * The hash of a user id, a text; salt: what the hash is for, as the campaign.
 * The id may be compressed.
 */
extern uint64 coupon_user_hash(Datum user_id, uint64 salt);

#endif							/* COUPON_LOCKS_H */
