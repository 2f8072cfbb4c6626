/*
 * issue.h
 *	  Issuing: the one core that all ways in share.
 */
#ifndef COUPON_ISSUE_H
#define COUPON_ISSUE_H

#include "access/htup.h"
#include "fmgr.h"

#include "sale/issue_item.h"

/*
 * Issues one unit of a campaign to each item's user, in the current
 * transaction; one outcome an item, and no item's failure touches another.
 * Where stock runs short earlier items come first.  ERROR for an unknown
 * campaign and where the transaction cannot write.
 */
extern void coupon_issue_batch(int64 campaign_id, CouponItem *items, int nitems,
							   CouponWait wait);

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
