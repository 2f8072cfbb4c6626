/*
 * outcome.h
 *	  What an outcome that is no success is over HTTP.
 */
#ifndef COUPON_OUTCOME_H
#define COUPON_OUTCOME_H

#include "lib/stringinfo.h"
#include "nodes/execnodes.h"

typedef struct CouponHttpOutcome
{
	const char *name;			/* lower case, as it is told */
	int			status;			/* 503: with Retry-After */
	const char *title;
} CouponHttpOutcome;

/* By its name, in whichever case; one that is not known is a conflict. */
extern CouponHttpOutcome coupon_outcome_find(const char *name);

/* {name, value}, as a text array. */
extern Datum coupon_outcome_header(const char *name, const char *value);

/* {"Retry-After", "1"}, as a text array. */
extern Datum coupon_outcome_retry(void);

/*
 * The next answer of a batched function: a coupon.http_answer.  headers: a text
 * array, 0: none; body NULL: none; pending: it may change by itself.
 */
extern void coupon_outcome_put(ReturnSetInfo *rsinfo, int status, Datum headers, StringInfo body,
							   bool pending);

/* The same of an outcome that is no success; detail may be NULL. */
extern void coupon_outcome_put_problem(ReturnSetInfo *rsinfo, const char *name, const char *detail);

/* The traceparent of a call, NULL: none; what is no traceparent is ignored. */
extern const char *coupon_outcome_trace(text *given);

#endif							/* COUPON_OUTCOME_H */
