/*
 * access_log.h
 *	  A line in the server's log for each answer, or for some.
 */
#ifndef COUPON_ACCESS_LOG_H
#define COUPON_ACCESS_LOG_H

#include "front/http.h"

/* Writes the line of a call that has its answer, if it is one that gets one. */
extern void coupon_access_log(CouponHttpCall *call);

#endif							/* COUPON_ACCESS_LOG_H */
