/*
 * refusal.h
 *	  Who was refused a unit, and why: noted for campaigns that want it.
 */
#ifndef COUPON_REFUSAL_H
#define COUPON_REFUSAL_H

#include "base/shmem.h"
#include "sale/campaign.h"

/* Who has a unit, or a hold, got what they may have; a key used wrongly is no refusal. */
static inline bool
coupon_is_refusal(CouponStatus status)
{
	return status != COUPON_ALREADY_ISSUED && status != COUPON_HELD &&
		status != COUPON_RETURNED && status != COUPON_OTHER_CALL;
}

/*
 * For a campaign with note_refusals: notes that a user, a text, was refused,
 * and with which answer; never throws.  What there is no room for is counted
 * and lost.
 */
extern void coupon_refusal_note(const CouponDefinition *def, Datum user_id, const char *status);

/* For the sweeper: is anything of this database noted, and writing it. */
extern bool coupon_refusal_is_due(void);
extern void coupon_refusal_write(void);

/* Notes that were lost since the server started. */
extern uint64 coupon_refusal_lost(void);

extern const CouponModule coupon_refusal_module;

#endif							/* COUPON_REFUSAL_H */
