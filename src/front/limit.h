/*
 * limit.h
 *	  How often a user, and a client's address, may call.
 */
#ifndef COUPON_LIMIT_H
#define COUPON_LIMIT_H

#include "base/shmem.h"
#include "front/http.h"

extern const CouponModule coupon_limit_module;

/*
 * May the call be carried out, by the rate of its address?  To be asked before
 * anything that costs, such as checking a signature; by the rate of its user?
 * now is that of coupon_steady_now().
 */
extern bool coupon_limit_admits_address(CouponHttpCall *call, TimestampTz now);
extern bool coupon_limit_admits_user(CouponHttpCall *call, TimestampTz now);

/* The client's address: that of the socket, or what a trusted proxy says. */
extern void coupon_limit_client(CouponHttpCall *call, char *buffer, size_t size);

#endif							/* COUPON_LIMIT_H */
