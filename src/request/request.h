/*
 * request.h
 *	  Accepting asynchronous requests.
 */
#ifndef COUPON_REQUEST_H
#define COUPON_REQUEST_H

#include "request/request_status.h"

/*
 * Accepts a request of a campaign (0 to COUPON_MAX_REQUEST_CAMPAIGN) in the
 * caller's transaction, or says why not; key and trace may be NULL.  ERROR for
 * an unknown campaign and where queues do not fit into memory.  False, only
 * without wait: another transaction is at the user.
 */
extern bool coupon_request_accept(int64 campaign_id, text *user_id, text *key, const char *trace, bool wait,
								  CouponRequestResult *result);

/* The number of what came of it among the outcomes of coupon_way_request. */
extern int	coupon_request_outcome(const CouponRequestResult *result);

#endif							/* COUPON_REQUEST_H */
