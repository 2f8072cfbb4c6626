/*
 * request.h
 *	  Asynchronous requests: the queue's rows, and what is known of them.
 */
#ifndef COUPON_REQUEST_H
#define COUPON_REQUEST_H

#include "access/htup.h"
#include "executor/tuptable.h"
#include "utils/uuid.h"

#include "queue/line.h"
#include "queue/queue_table.h"

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
	ItemPointerData tid;
	uint32		child;
	bool		own;			/* written by this transaction */
} CouponRequest;

extern const CouponQueueKind coupon_requests;

/* An id, random or, to begin or end a range, with bits all 0 or all 1. */
extern void coupon_request_make_id(pg_uuid_t *id, int64 campaign_id, int64 number, uint64 low_bits);

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

/* What is left after a batch. */
typedef enum CouponDecideResult
{
	COUPON_DECIDED_ALL,			/* nothing to do */
	COUPON_DECIDED_SOME,		/* perhaps more to be done at once */
	COUPON_DECIDE_LATER			/* requests that cannot be decided now */
} CouponDecideResult;

/*
 * Decides up to max waiting requests of one campaign, adds their number to
 * *decided.  Without wait_for_tables it does nothing if a table is locked.
 */
extern CouponDecideResult coupon_request_decide_some(int max, bool wait_for_tables,
													 int64 *decided);

/* issuer_worker.c */
extern const struct CouponWorkerKind coupon_issuer;

#endif							/* COUPON_REQUEST_H */
