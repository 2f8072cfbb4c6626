/*
 * request_table.h
 *	  The rows of coupon.request, and the queue that is made from them.
 */
#ifndef COUPON_REQUEST_TABLE_H
#define COUPON_REQUEST_TABLE_H

#include "executor/tuptable.h"
#include "utils/uuid.h"

#include "queue/queue.h"

/* What fits into an id beside 58 random bits. */
#define COUPON_MAX_REQUEST_CAMPAIGN	((INT64CONST(1) << 30) - 1)
#define COUPON_MAX_REQUEST_NUMBER	((INT64CONST(1) << 34) - 1)

/* A row of coupon.request. */
typedef struct CouponRequest
{
	pg_uuid_t	id;
	int64		campaign_id;	/* both are in the id */
	int64		number;
	TimestampTz requested_at;
	TimestampTz decided_at;		/* 0: it waits */
	int64		serial;			/* 0: none */
	text	   *user_id;
	text	   *outcome;		/* NULL: it waits */
	text	   *key;			/* or NULL */
	const char *trace;			/* of the call that was accepted, or NULL */
	ItemPointerData tid;
	uint32		child;
	bool		own;			/* written by this transaction */
} CouponRequest;

extern const CouponQueueKind coupon_requests;

/* A new id for a request whose campaign and number are set. */
extern void coupon_request_make_id(CouponRequest *request);

extern void coupon_request_read(TupleTableSlot *slot, uint32 child, CouponRequest *request);
extern void coupon_request_fill(TupleTableSlot *slot, const CouponRequest *request);

/* By id, as of now; false if there is none. */
extern bool coupon_request_find(const pg_uuid_t *id, CouponRequest *request);

/* The newest of a user as of now. */
extern bool coupon_request_find_newest(int64 campaign_id, text *user_id, CouponRequest *request);

/*
 * Those of a campaign that wait and have one of these numbers, which ascend,
 * in that order; bit n of the mask: look into child n.
 */
extern int	coupon_request_find_numbers(int64 campaign_id, const int64 *numbers, int nnumbers,
										uint32 child_mask, CouponRequest *requests);

#endif							/* COUPON_REQUEST_TABLE_H */
