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

/* How long it is said that no node has a unit, once that was found out. */
#define COUPON_GONE_MS	1000

/* A unit taken by this transaction. */
typedef struct CouponUnit
{
	CouponShard *shard;
	uint32		bit;
	int32		shard_number;
	int64		serial;
} CouponUnit;

/* For qsort(): by their serials. */
static inline int
coupon_compare_units(const void *a, const void *b)
{
	const CouponUnit *x = a;
	const CouponUnit *y = b;

	return x->serial < y->serial ? -1 : x->serial > y->serial;
}

/* What a unit is taken for: units issued are counted. */
typedef enum CouponPurpose
{
	COUPON_TO_ISSUE,
	COUPON_TO_HOLD,
	COUPON_TO_SEND				/* to another node */
} CouponPurpose;

/*
 * The map of an entered campaign, made if need be; no shard is built yet.
 * Valid while the campaign is pinned.
 */
extern CouponStock *coupon_stock_open(CouponCampaign *campaign, const CouponDefinition *def);

/* The map of a campaign that has one, by campaign->stock. */
extern CouponStock *coupon_stock_known(CouponCampaign *campaign);

/*
 * True if the campaign is known to be sold out, and no hold of it may have run
 * out by now: a few reads of shared memory.
 */
extern bool coupon_stock_sold_out(CouponCampaign *campaign, const CouponDefinition *def,
								  TimestampTz now);

/*
 * Of a campaign that several nodes share, when no unit can be had here: can none
 * be had anywhere, either?  As long as that is not known the transfer worker is
 * asked for it, and for units.
 */
extern bool coupon_stock_gone_everywhere(CouponStock *stock);

/* ---- taking; each unit is given back if the (sub)transaction aborts ---- */

/* One walk over all shards: takes up to n free units, returns how many. */
extern int	coupon_stock_take(CouponCampaign *campaign, CouponStock *stock, CouponPurpose purpose,
							  int n, CouponUnit *units);

/*
 * Takes the unit of that serial, to hold it; false if it is not free, and who
 * has it is to be seen in the index.  The serial must exist; *unit is set
 * anyway.
 */
extern bool coupon_stock_take_serial(CouponCampaign *campaign, CouponStock *stock, int64 serial,
									 CouponUnit *unit);

/*
 * Is a unit that is not free, and has no row, off the sale?  False as long as
 * the withdrawal can be undone by others.
 */
extern bool coupon_stock_is_withdrawn(CouponCampaign *campaign, const CouponUnit *unit);

/* A unit was not free, but has no row: compares it with the index. */
extern void coupon_stock_heal(CouponCampaign *campaign, CouponStock *stock, const CouponUnit *unit);

/*
 * Takes over a unit whose row this transaction has just deleted, to insert
 * another one, or changed: nobody else can have it in between.  At abort the
 * old row is there again.  False for a serial outside the shards.
 */
extern bool coupon_stock_take_over(CouponCampaign *campaign, CouponStock *stock,
								   CouponPurpose purpose, int64 serial, CouponUnit *unit);

/* Has this transaction units in flight?  Then others may wait for it. */
extern bool coupon_stock_has_own(CouponCampaign *campaign);

/* ---- giving back ---- */

/* Why a unit is not used that this transaction has taken. */
typedef enum CouponUnused
{
	COUPON_UNTOUCHED,			/* no row was written for it: free at once */
	COUPON_WITHDRAWN,			/* a row was, and is deleted again, which
								 * others cannot know yet: free when the
								 * transaction ends */
	COUPON_NOT_OURS				/* the index says that it is somebody else's:
								 * stays taken */
} CouponUnused;

/* One that was taken over is free when the transaction commits, in any case. */
extern void coupon_stock_give_back(CouponCampaign *campaign, const CouponUnit *unit,
								   CouponUnused why);

/* The unit of a row that this transaction has deleted: free when it commits. */
extern void coupon_stock_return(CouponCampaign *campaign, CouponStock *stock, int64 serial);

/* ---- is everything gone? ---- */

typedef enum CouponVerdict
{
	COUPON_ALL_GONE,			/* none can be had, now or later */
	COUPON_LOOK_AGAIN,			/* one is or was to be had since the look
								 * began */
	COUPON_IN_FLIGHT,			/* it depends on sessions that will wake us */
	COUPON_COMING_BACK,			/* one comes back with our own commit */
	COUPON_UNSETTLED			/* it depends on somebody who will not wake us */
} CouponVerdict;

/*
 * A look begins with the supply; then the shards are walked over, then the
 * holds that have run out.  If that was in vain, this says why.  undecided:
 * another transaction is at a hold that has run out.
 */
static inline uint64
coupon_stock_supply(CouponStock *stock)
{
	uint64		supply = pg_atomic_read_u64(&stock->supply);

	pg_read_barrier();			/* all else is read after it */
	return supply;
}

extern CouponVerdict coupon_stock_judge(CouponCampaign *campaign, CouponStock *stock,
										uint64 supply, bool undecided);

/*
 * Waits until another look may end differently; false if it cannot, or the
 * deadline has passed, which the first wait sets to wait_ms from then on.
 * Ends with ConditionVariableCancelSleep() if *deadline is set.
 */
extern bool coupon_stock_wait(CouponStock *stock, CouponVerdict verdict, int wait_ms,
							  TimestampTz *deadline);

/* ---- holds that run out ---- */

/* To be called when a hold is in the index. */
extern void coupon_stock_note_hold(CouponStock *stock, TimestampTz held_until);

/* May one have run out by now?  False only if none has. */
extern bool coupon_stock_may_lapse(CouponCampaign *campaign, TimestampTz now);

/*
 * Who looks through all holds asks first which were noted, and says afterwards
 * when the first of them runs out that is not its own.  There is none that ends
 * before *from: what the index has there is dead, and much of it as long as
 * somebody keeps a snapshot.
 */
extern uint64 coupon_stock_holds_noted(CouponStock *stock, TimestampTz *from);
extern void coupon_stock_next_lapse(CouponStock *stock, uint64 noted, TimestampTz next);

/* ---- counting ---- */

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
extern bool coupon_stock_settled(CouponStock *stock);

/* Builds a shard from the index, unless another session is at it. */
extern void coupon_stock_build_shard(CouponCampaign *campaign, CouponStock *stock,
									 CouponShard *shard);

/* The same, and waits if another session is. */
extern void coupon_stock_make_ready(CouponCampaign *campaign, CouponStock *stock,
									CouponShard *shard);

/*
 * Sets the bits first to last of a shard whose serials have a live or undecided
 * row; returns how many of these rows are undecided.
 */
extern int	coupon_stock_read_rows(int64 campaign_id, CouponShard *shard, int32 first, int32 last,
								   uint64 *bits);

/*
 * Compares the bits first to last of a shard with the index, and frees the
 * units that are taken and have no row.  Returns the number of undecided rows:
 * those of transactions that did not come through this map.
 */
extern int	coupon_stock_recheck(CouponCampaign *campaign, CouponStock *stock,
								 CouponShard *shard, int32 first, int32 last);

#endif							/* COUPON_STOCK_H */
