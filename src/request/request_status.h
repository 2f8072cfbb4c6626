/*
 * request_status.h
 *	  What a caller is told of a request: coupon.request_result.
 */
#ifndef COUPON_REQUEST_STATUS_H
#define COUPON_REQUEST_STATUS_H

#include "fmgr.h"

#include "request/request_table.h"
#include "sale/issue.h"

typedef enum CouponRequestStatus
{
	COUPON_REQUEST_WAITING,
	COUPON_REQUEST_COMPLETED,
	COUPON_REQUEST_REFUSED,
	COUPON_REQUEST_NONE
} CouponRequestStatus;

typedef struct CouponRequestResult
{
	CouponRequestStatus status;
	pg_uuid_t	id;				/* of WAITING and COMPLETED with requested_at */
	const char *outcome;		/* NULL: it waits, or there is none */
	int64		position;		/* of WAITING */
	text	   *user_id;
	CouponItem	item;			/* of issued and already_issued */
	TimestampTz requested_at;	/* 0: there is no request */
	TimestampTz decided_at;		/* 0: not decided */
	bool		is_asked;		/* a call has asked for it, and */
	bool		repeated;		/* an earlier one had done so, too */
} CouponRequestResult;

/* Fills in everything that is known of a request that was found. */
extern void coupon_request_describe(const CouponRequest *request, CouponRequestResult *result);

/* The way in of coupon_request(). */
extern struct CouponWay coupon_way_request;

/* The request of an id, as of now, and its campaign; false if there is none. */
extern bool coupon_request_look(const pg_uuid_t *id, CouponRequestResult *result, int64 *campaign_id);

/* Upper case, as it is told. */
extern const char *coupon_request_status_name(CouponRequestStatus status);

extern Datum coupon_request_form_result(FunctionCallInfo fcinfo, const CouponRequestResult *result);

#endif							/* COUPON_REQUEST_STATUS_H */
