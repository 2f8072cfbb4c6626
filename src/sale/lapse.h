/*
 * lapse.h
 *	  Holds that have run out: taken away, and remembered for late payments.
 */
#ifndef COUPON_LAPSE_H
#define COUPON_LAPSE_H

#include "lib/stringinfo.h"

#include "sale/issuance_table.h"

/* What the events of a hold say when it begins, is released or runs out. */
extern void coupon_hold_payload(StringInfo payload, const CouponDefinition *def,
								const char *user_id, int64 serial, text *label,
								TimestampTz held_until, TimestampTz at);

/*
 * What is known of a hold that is over: its event, and for one that has run
 * out the memory of it.  For the row that *seats has just removed.
 */
extern void coupon_lapse_append_event(const CouponIssuanceRow *seats, const char *type,
									  TimestampTz now);
extern void coupon_lapse_record(const CouponIssuanceRow *seats, TimestampTz now);

/*
 * Takes away the hold of that serial if it has run out; its unit is free when
 * the transaction commits.  False if it is not there any more, or somebody is
 * at it.
 */
extern bool coupon_lapse_serial(CouponCampaign *campaign, const CouponDefinition *def,
								CouponIssuanceTable *store, int64 serial);

/*
 * Takes away up to n holds of the campaign that have run out, and makes their
 * units the transaction's own; returns how many.
 */
extern int	coupon_lapse_take(CouponCampaign *campaign, const CouponDefinition *def,
							  CouponIssuanceTable *store, CouponPurpose purpose, int n,
							  CouponUnit *units);

/* What is remembered of a user, a unit and a payment. */
typedef enum CouponMemory
{
	COUPON_MEMORY_NONE,
	COUPON_MEMORY_LAPSED,		/* he held the unit, and did not pay in time */
	COUPON_MEMORY_LOST,			/* and another payment of his was refused then */
	COUPON_MEMORY_REFUSED		/* this payment was refused */
} CouponMemory;

extern CouponMemory coupon_lapse_recall(const CouponIssuanceRow *seats, int64 serial, text *user_id,
										text *ref);

/* Forgets that his hold has run out; not what was refused. */
extern void coupon_lapse_forget(const CouponIssuanceRow *seats, int64 serial, text *user_id);

/* Remembers that this payment was refused, instead of what it was late for. */
extern void coupon_lapse_refuse(const CouponIssuanceRow *seats, int64 serial, text *user_id, text *ref);

/*
 * Takes away up to max_rows holds that have run out, in the current
 * transaction, oldest first, passing by what others are at; returns how many.
 * *next: when the next one runs out, DT_NOEND if there is none.
 */
extern int64 coupon_lapse_sweep(int32 max_rows, TimestampTz *next);

/* Forgets up to max_rows holds that ran out longer than coupon.hold_keep ago. */
extern int64 coupon_lapse_clean(int32 max_rows);

/* Holds of a campaign that are live, and that have run out but are there. */
extern void coupon_lapse_count(const CouponDefinition *def, int64 *live, int64 *lapsed);

#endif							/* COUPON_LAPSE_H */
