/*
 * statistics.h
 *	  What the front has done, and what it is doing, of all its workers.
 */
#ifndef COUPON_STATISTICS_H
#define COUPON_STATISTICS_H

#include "base/shmem.h"
#include "front/http.h"

extern const CouponModule coupon_statistics_module;

/* Why a call was refused before any work. */
typedef enum CouponRefusal
{
	COUPON_REFUSED_RATE,		/* its user or its address calls too often */
	COUPON_REFUSED_FULL,		/* too many wait */
	COUPON_REFUSED_SIZE,		/* something of it is too large */
	COUPON_REFUSALS
} CouponRefusal;

/* Counts an answer that is about to be sent, or a stream that is opened. */
extern void coupon_statistics_answered(const CouponHttpCall *call);

extern void coupon_statistics_refused(CouponRefusal why);

/* What a worker (the first is 0) has open now. */
extern void coupon_statistics_open(int worker, int connections, int waiting, int streams);

/* In all answers, by the first digit of their status; of how long they took. */
extern uint64 coupon_statistics_class(int digit);
extern void coupon_statistics_times(double *average_ms, double *slowest_ms);

#endif							/* COUPON_STATISTICS_H */
