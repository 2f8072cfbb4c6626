/*
 * launcher.h
 *	  The launcher: starts and stops the workers of all databases.
 */
#ifndef COUPON_LAUNCHER_H
#define COUPON_LAUNCHER_H

#include "base/worker.h"

/* Registers the launcher, while preloading, for kinds by CouponWorkerId. */
extern void coupon_launcher_register(const CouponWorkerKind *const *kinds);

#endif							/* COUPON_LAUNCHER_H */
