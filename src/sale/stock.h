/*
 * stock.h
 *	  The stock map: which units of a campaign are free, in shared memory.
 *
 * A hint: the unique index over (campaign_id, serial) is the law.
 */
#ifndef COUPON_STOCK_H
#define COUPON_STOCK_H

#include "sale/campaign.h"
#include "sale/stock_map.h"

/* A unit taken by this transaction. */
typedef struct CouponUnit
{
	CouponShard *shard;
	uint32		bit;
	int32		shard_number;
	int64		serial;
} CouponUnit;

/* What a unit is taken for: units issued are counted. */
typedef enum CouponPurpose
{
	COUPON_TO_ISSUE,
	COUPON_TO_HOLD
} CouponPurpose;

/* Why fewer units were taken than wanted. */
typedef enum CouponShortage
{
	COUPON_NO_SHORTAGE,
	COUPON_SHORT_SOLD_OUT,		/* none free, none in flight elsewhere */
	COUPON_SHORT_BUSY			/* still in flight when the wait was over */
} CouponShortage;

/*
 * The map of an entered campaign, made if need be; no shard is built yet.
 * Valid while the campaign is pinned.
 */
extern CouponStock *coupon_stock_open(CouponCampaign *campaign, const CouponDefinition *def);

/* The map of a campaign that has one, by campaign->stock. */
extern CouponStock *coupon_stock_known(CouponCampaign *campaign);

/* True if the campaign is known to be sold out: a few reads of shared memory. */
extern bool coupon_stock_sold_out(CouponCampaign *campaign, const CouponDefinition *def);

/*
 * Takes up to n units; returns how many, and why not all.  Each is given back
 * if the (sub)transaction aborts.  Waits up to wait_ms for units in flight.
 */
extern int	coupon_stock_take(CouponCampaign *campaign, CouponStock *stock, CouponPurpose purpose,
							  int n, int wait_ms, CouponUnit *units, CouponShortage *why);

/*
 * Takes the unit of that serial, to hold it; false if it is not free, and who
 * has it is to be seen in the index.  The serial must exist; *unit is set
 * anyway.
 */
extern bool coupon_stock_take_serial(CouponCampaign *campaign, CouponStock *stock, int64 serial,
									 CouponUnit *unit);

/* A unit was not free, but has no row: compares its shard with the index. */
extern void coupon_stock_heal(CouponCampaign *campaign, CouponStock *stock, const CouponUnit *unit);

/*
 * Takes over a unit whose row this transaction has just deleted, to insert
 * another one: nobody else can have it in between.
 */
extern void coupon_stock_inherit(CouponCampaign *campaign, CouponStock *stock,
								 CouponPurpose purpose, int64 serial, CouponUnit *unit);

/* Has this transaction units in flight?  Then others may wait for it. */
extern bool coupon_stock_has_mine(CouponCampaign *campaign);

/*
 * When holds run out, as far as shared memory knows: may one have by now?  Who
 * inserts a hold notes it afterwards; who looks for those that have run out
 * begins so, and then notes the first that has not.
 */
extern void coupon_stock_note_hold(CouponStock *stock, TimestampTz held_until);
extern bool coupon_stock_may_lapse(CouponCampaign *campaign, TimestampTz now);
extern void coupon_stock_begin_lapse(CouponStock *stock);

/* Gives a unit back now: no row was inserted for it. */
extern void coupon_stock_put_back(CouponCampaign *campaign, const CouponUnit *unit);

/*
 * Gives a unit back when the transaction ends, one way or the other: it was
 * not used, but a row that was inserted for it and deleted again is undecided
 * to others until then.
 */
extern void coupon_stock_give_back(CouponCampaign *campaign, const CouponUnit *unit);

/* Leaves a unit taken that the index says is somebody else's. */
extern void coupon_stock_disown(CouponCampaign *campaign, const CouponUnit *unit);

/* Gives a serial back when this transaction, which deleted its row, commits. */
extern void coupon_stock_return(CouponCampaign *campaign, CouponStock *stock, int64 serial);

/* Sums over all shards, building those that are not built. */
typedef struct CouponStockSum
{
	int64		units;
	int64		free;
	int64		in_flight;
} CouponStockSum;

extern void coupon_stock_sum(CouponCampaign *campaign, CouponStock *stock, CouponStockSum *sum);

/*
 * Are more than so many units free or in flight?  Counts shards until it
 * knows; builds those that it needs, if allowed to read tables.
 */
extern bool coupon_stock_exceeds(CouponCampaign *campaign, CouponStock *stock, int64 wanted,
								 bool build);

/* ---- among stock.c, stock_build.c and user_filter.c ---- */

static inline CouponStock *
stock_of(CouponCampaign *campaign)
{
	return dsa_get_address(coupon_area, campaign->stock);
}

/* Sold out, and nothing in flight: no row can be on its way. */
extern bool coupon_stock_settled(CouponCampaign *campaign, CouponStock *stock);

/* Builds a shard from the index, unless another session is at it. */
extern void coupon_stock_build_shard(CouponCampaign *campaign, CouponStock *stock,
									 CouponShard *shard);

/*
 * Compares a shard in which nothing is free or in flight with the index, and
 * frees the units that have no row.  Returns the number of undecided rows:
 * those of transactions that did not come through this map.
 */
extern int	coupon_stock_recheck_shard(CouponCampaign *campaign, CouponStock *stock,
									   CouponShard *shard);

#endif							/* COUPON_STOCK_H */
