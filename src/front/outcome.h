/*
 * outcome.h
 *	  What an outcome that is no success is over HTTP.
 */
#ifndef COUPON_OUTCOME_H
#define COUPON_OUTCOME_H

#include "lib/stringinfo.h"

typedef struct CouponHttpOutcome
{
	const char *name;			/* lower case, as it is told */
	int			status;			/* 503: with Retry-After */
	const char *title;
} CouponHttpOutcome;

/* By its name, in whichever case; one that is not known is a conflict. */
extern CouponHttpOutcome coupon_outcome_find(const char *name);

/* {"Retry-After", "1"}, as a text array. */
extern Datum coupon_outcome_retry(void);

#endif							/* COUPON_OUTCOME_H */
