/*
 * statistics.h
 *	  What the front has done, and what it is doing, of all its workers.
 */
#ifndef COUPON_STATISTICS_H
#define COUPON_STATISTICS_H

#include "base/shmem.h"
#include "base/stat.h"
#include "front/http.h"

extern const CouponModule coupon_statistics_module;

/*
 * The ways in of HTTP calls, whose outcomes are statuses: the times of different
 * kinds of calls say different things.
 */
extern CouponWay coupon_way_http;	/* a route's function, answered at once */
extern CouponWay coupon_way_http_waited;	/* with an answer that was waited
											 * for */
extern CouponWay coupon_way_http_stream;	/* events: until the first */
extern CouponWay coupon_way_http_operator;	/* /metrics, the board, and other
											 * routes of the operator */
extern CouponWay coupon_way_http_front; /* what the front answers by itself */

/* Counts an answer that is about to be sent, or a stream that is opened. */
extern void coupon_statistics_answered(const CouponHttpCall *call);

/* A worker (the first is 0) has begun; and what it has open now. */
extern void coupon_statistics_started(int worker);
extern void coupon_statistics_open(int worker, int connections, int waiting, int streams);

/* It has ended. */
extern void coupon_statistics_ended(int worker);

/*
 * What a worker tells of itself for coupon_health(): how many keys it uses, and
 * why it cannot listen at one of its addresses (NULL: it can).
 */
#define COUPON_DOORS	2		/* coupon.http_listen,
								 * coupon.http_admin_listen */
#define COUPON_TROUBLE	160		/* bytes, with the NUL */
extern void coupon_statistics_keys(int worker, int keys);
extern void coupon_statistics_trouble(int worker, int door, const char *why);

/* Of all that run: the least number of keys, -1 if none runs; some reason, or NULL. */
extern int	coupon_statistics_least_keys(void);
extern char *coupon_statistics_first_trouble(int door);

/* In all answers, by the first digit of their status; of how long they took. */
extern uint64 coupon_statistics_class(int digit);
extern void coupon_statistics_times(double *average_ms, double *slowest_ms);

#endif							/* COUPON_STATISTICS_H */
