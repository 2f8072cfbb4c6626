/*
 * call.h
 *	  Carrying out calls: functions with their arguments, as a role.
 */
#ifndef COUPON_CALL_H
#define COUPON_CALL_H

#include "front/http.h"
#include "front/route.h"

/*
 * Completes the arguments by the rules of names (user_id, request_key) and
 * checks them against the function.  False: the call has its answer.
 */
extern bool coupon_call_bind(CouponHttpCall *call);

/*
 * Carries out calls of one batched route and one role, in a transaction with
 * a snapshot: each gets its answer, an ERROR of one is its own.  Sets pending
 * of those whose answer may change by itself.
 */
extern void coupon_call_batch(CouponHttpCall **calls, int ncalls, bool *pending);

/* True while a plain function runs, which may take its time: for a signal. */
extern volatile sig_atomic_t coupon_call_is_plain;

/*
 * Carries out a plain call in PostgREST's envelope, likewise.  shared: others have
 * been carried out in this transaction.  False, then only: it has no answer, for
 * want of a lock, and is to be the first in another one.
 */
extern bool coupon_call_plain(CouponHttpCall *call, bool shared, bool *pending);

#endif							/* COUPON_CALL_H */
