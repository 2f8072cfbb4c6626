/*
 * room_change.h
 *	  What the end of a transaction makes of the tickets that it changed.
 *
 * Functions for coupon_pending_push(); extra is the user's hash.
 */
#ifndef COUPON_ROOM_CHANGE_H
#define COUPON_ROOM_CHANGE_H

#include "queue/pending.h"

extern bool coupon_apply_join(CouponPending *change, bool committed);
extern bool coupon_apply_join_admitted(CouponPending *change, bool committed);
extern bool coupon_apply_admit(CouponPending *change, bool committed);
extern bool coupon_apply_end(CouponPending *change, bool committed);

/* Of all tickets up to a number; extra is the draw, in the queues' memory. */
extern bool coupon_apply_draw(CouponPending *change, bool committed);

#endif							/* COUPON_ROOM_CHANGE_H */
