/*
 * issuer.h
 *	  The worker that decides requests.
 */
#ifndef COUPON_ISSUER_H
#define COUPON_ISSUER_H

#include "base/worker.h"

extern const CouponWorkerKind coupon_issuer;

#endif							/* COUPON_ISSUER_H */
