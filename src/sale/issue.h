/*
 * issue.h
 *	  Issuing: the one core that all ways in share.
 */
#ifndef COUPON_ISSUE_H
#define COUPON_ISSUE_H

#include "access/htup.h"
#include "fmgr.h"

#include "sale/issuance_table.h"
#include "sale/status_codes.h"

/* One wish and its outcome. */
typedef struct CouponItem
{
	Datum		user_id;		/* a detoasted text, 0: the item is invalid */
	bool		admitted;		/* the campaign's room need not be asked again */
	bool		accepted;		/* this node has said that the user's home is
								 * here */
	const char *trace;			/* of its call; NULL: the session's */
	text	   *request_key;	/* what the caller calls the wish, or NULL */
	int			twin;			/* issue.c's own */
	CouponStatus status;		/* out */
	bool		repeated;		/* out: issued to an earlier call with the key */
	CouponIssuance issuance;	/* out, for issued and already_issued */
} CouponItem;

/*
 * Issues one unit of a campaign to each item's user, in the current
 * transaction; one outcome an item, and no item's failure touches another.
 * Where stock runs short earlier items come first.  ERROR for an unknown
 * campaign and where the transaction cannot write.
 */
extern void coupon_issue_batch(int64 campaign_id, CouponItem *items, int nitems,
							   CouponWait wait);

/* What the item counts as: a repeated answer issues nothing. */
static inline CouponStatus
coupon_item_outcome(const CouponItem *item)
{
	return item->repeated && item->status == COUPON_ISSUED ? COUPON_ALREADY_ISSUED : item->status;
}

/* What the window says; COUPON_ISSUED: units may be issued. */
extern CouponStatus coupon_issue_window(const CouponDefinition *def, TimestampTz now);

/* The names of the outcomes, by CouponStatus. */
extern const char *const coupon_issue_outcomes[];

/* The ways in of this file. */
extern struct CouponWay coupon_way_issue;
extern struct CouponWay coupon_way_many;

/* A coupon.issue_result. */
extern HeapTuple coupon_issue_form_result(TupleDesc desc, Datum user_id, const CouponItem *item);

/*
 * Gives the answer of a campaign that issues nothing at the moment (sold out,
 * paused, closed, not open).  False, and nothing is done, if it might issue.
 */
extern bool coupon_issue_refuse(int64 campaign_id, CouponItem *item);

/* An item with its outcome as the result of a function: coupon.issue_result. */
extern Datum coupon_issue_result(FunctionCallInfo fcinfo, Datum user_id, const CouponItem *item);

#endif							/* COUPON_ISSUE_H */
