/*
 * issuer.h
 *	  The worker that decides requests.
 */
#ifndef COUPON_ISSUER_H
#define COUPON_ISSUER_H

#include "base/worker.h"

extern const CouponWorkerKind coupon_issuer;

/* What becomes of accepted requests, as a way in. */
extern struct CouponWay coupon_way_decision;

#endif							/* COUPON_ISSUER_H */
