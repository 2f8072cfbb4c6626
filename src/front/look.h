/*
 * look.h
 *	  Looking at a call: everything before its function.
 */
#ifndef COUPON_LOOK_H
#define COUPON_LOOK_H

#include "front/http.h"

/*
 * Finds route, caller and arguments of a call, whose memory context is there;
 * or the call is done: it has its answer.  In a transaction, with routes read; now is
 * that of coupon_steady_now().
 */
extern void coupon_look_at(CouponHttpCall *call, TimestampTz now);

/*
 * The same of a call that was kept.  Its role may have lost the route, and if
 * routes have been read anew, its own is to be found again.
 */
extern void coupon_look_again(CouponHttpCall *call);

/* Adds what lets a page of another origin read the answer. */
extern void coupon_look_answer_cors(CouponHttpCall *call);

#endif							/* COUPON_LOOK_H */
