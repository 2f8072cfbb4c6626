/*
 * sweep.h
 *	  Holds that have run out: taken away.
 */
#ifndef COUPON_SWEEP_H
#define COUPON_SWEEP_H

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
extern void coupon_sweep_append_event(const CouponIssuanceRow *seats, const char *type,
									  TimestampTz now);
extern void coupon_sweep_record(const CouponIssuanceRow *seats, TimestampTz now);

/*
 * Takes away the hold of that serial if it has run out; its unit is free when
 * the transaction commits.  False if it is not there any more, or somebody is
 * at it.
 */
extern bool coupon_sweep_serial(CouponCampaign *campaign, const CouponDefinition *def,
								CouponTableWriter *store, int64 serial);

/*
 * Takes away up to n holds of the campaign that have run out, and makes their
 * units the transaction's own; returns how many.
 */
extern int	coupon_sweep_take(CouponCampaign *campaign, const CouponDefinition *def,
							  CouponTableWriter *store, CouponPurpose purpose, int n,
							  CouponUnit *units);

/* A unit of a campaign whose time seems to be over. */
typedef struct CouponDue
{
	int64		campaign_id;
	int64		serial;
} CouponDue;

/*
 * Takes away those of n holds of one campaign that have run out, passing by
 * what others are at; returns how many.
 */
extern int	coupon_sweep_campaign(const CouponDue *due, int n, TimestampTz now);

/* Holds of a campaign that are live, and that have run out but are there. */
extern void coupon_sweep_count(const CouponDefinition *def, int64 *live, int64 *lapsed);

/* sweeper.c */
extern const struct CouponWorkerKind coupon_sweeper;

#endif							/* COUPON_SWEEP_H */
