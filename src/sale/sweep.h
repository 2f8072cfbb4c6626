/*
 * sweep.h
 *	  Holds that have run out: taken away.
 */
#ifndef COUPON_SWEEP_H
#define COUPON_SWEEP_H

#include "sale/issuance_table.h"
#include "sale/stock.h"

/*
 * What is known of a hold that is over: its event, and for one that has run
 * out the memory of it.  For the row that *row has just removed.
 */
extern void coupon_sweep_append_event(const CouponIssuanceRow *row, const char *type,
									  TimestampTz now, const char *trace);
extern void coupon_sweep_record(const CouponIssuanceRow *row, TimestampTz now);

/*
 * Takes away the hold of that serial if it has run out, and takes its unit
 * over; false if it is not there any more, or another transaction is at it.
 */
extern bool coupon_sweep_serial(CouponCampaign *campaign, const CouponDefinition *def,
								CouponTableWriter *table, CouponPurpose purpose, int64 serial,
								CouponUnit *unit);

/*
 * The same with up to n holds of the campaign, whichever have run out; returns
 * how many.  Sets *undecided if another transaction is at one that has.
 */
extern int	coupon_sweep_take(CouponCampaign *campaign, const CouponDefinition *def,
							  CouponTableWriter *table, CouponPurpose purpose, int n,
							  CouponUnit *units, bool *undecided);

/* How many holds of the campaign have run out and are still there; stops at max. */
extern int64 coupon_sweep_count_due(CouponCampaign *campaign, const CouponDefinition *def, int max);

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

/*
 * Holds of a campaign that are live, and that have run out but are there; stock
 * is NULL where there is none, on a standby.
 */
extern void coupon_sweep_count(int64 campaign_id, CouponStock *stock, int64 *live, int64 *lapsed);

/* sweeper.c */
extern const struct CouponWorkerKind coupon_sweeper;

#endif							/* COUPON_SWEEP_H */
