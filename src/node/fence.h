/*
 * fence.h
 *	  A node sells nothing until another one has confirmed it.
 */
#ifndef COUPON_FENCE_H
#define COUPON_FENCE_H

#include "base/compat.h"
#include "base/shmem.h"

/* Is this database, which is a node, confirmed since the server started?  Never throws. */
extern bool coupon_fence_passed(void);

/* May the node's slots be used?  Yes as well where nobody would confirm it. */
extern bool coupon_fence_open(void);

/* ERROR UC302. */
pg_noreturn extern void coupon_fence_refuse(void);

extern const CouponModule coupon_fence_module;

#endif							/* COUPON_FENCE_H */
