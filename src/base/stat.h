/*
 * stat.h
 *	  Statistics of this database: calls by the way in and the outcome, how long
 *	  they took, and what else is counted.
 *
 * A way in is a CouponWay of whoever carries it out; coupon.c lists them.  What
 * is counted only rises, until coupon_stat_reset() or the server's end.
 */
#ifndef COUPON_STAT_H
#define COUPON_STAT_H

#include "fmgr.h"
#include "utils/timestamp.h"

#include "base/shmem.h"

#define COUPON_MAX_WAYS		24
#define COUPON_MAX_OUTCOMES	40

/* When a call is counted, and how it may end beside its outcomes. */
typedef enum CouponWayKind
{
	COUPON_WAY_TRANSACTION,		/* with its transaction: or it was rolled
								 * back, or an ERROR */
	COUPON_WAY_COMMITTED,		/* with its transaction, if that commits */
	COUPON_WAY_CALL,			/* when it returns: or an ERROR */
	COUPON_WAY_NOW				/* at once */
} CouponWayKind;

typedef struct CouponWay
{
	const char *name;
	CouponWayKind kind;
	bool		batched;		/* coupon_stat_batch() tells of its batches */
	const char *const *outcomes;	/* by number; NULL: none of this way */
	int			noutcomes;
	int			number;			/* set by coupon_stat_register */
} CouponWay;

/* What is counted beside calls. */
typedef enum CouponTally
{
	COUPON_TALLY_MAP_BUILDS,	/* shards of stock maps read from the index */
	COUPON_TALLY_MAP_CHECKS,	/* and compared with it again */
	COUPON_TALLY_FALSE_HINTS,	/* the index refused what the map called free */
	COUPON_TALLY_WAITS,			/* sleeps for units in flight */
	COUPON_TALLY_RETRIES,		/* looks again: a further round, a wait for a
								 * hold, a batch done again */
	COUPON_TALLY_MAP_EVICTIONS,
	COUPON_TALLY_CAMPAIGN_EVICTIONS,
	COUPON_TALLY_REFUSED_RATE,	/* HTTP calls refused before any work */
	COUPON_TALLY_REFUSED_FULL,
	COUPON_TALLY_REFUSED_SIZE,
	COUPON_TALLIES
} CouponTally;

/*
 * Histograms: upper ends of their intervals in microseconds; the last one has
 * none.  Each is at most 1.67 times the one before from 10 us to 30 s, so a
 * percentile is that exact at worst.
 */
#define COUPON_STAT_INTERVALS	42
extern const int coupon_stat_uppers[COUPON_STAT_INTERVALS - 1];

/* Classes of SQLSTATEs; the last one is all others. */
#define COUPON_STAT_CLASSES		17
extern const char *const coupon_stat_classes[COUPON_STAT_CLASSES];

/* ---- counting; where nothing is preloaded all of it does nothing ---- */

/*
 * Calls an SQL function and counts it: as an ERROR, or as what it has said by
 * coupon_stat_outcome(), from its start on.
 */
extern Datum coupon_stat_call(FunctionCallInfo fcinfo, const CouponWay *way, PGFunction function);

/*
 * What the running call's answer is, for n users or units: said by its function
 * as the last it does.  May throw.
 */
extern void coupon_stat_outcome(int outcome, int n);

/* The same, where the answer tells of an ERROR that has been caught. */
extern void coupon_stat_error(int sqlstate);

/* The number of an outcome by its name, in whatever case; -1, which nobody counts: there is none. */
extern int	coupon_stat_find(const CouponWay *way, const char *outcome);

/*
 * The same without a call that runs, which began at such a time.  May throw
 * where the way is counted with the transaction.
 */
extern void coupon_stat_add(const CouponWay *way, int outcome, int n, TimestampTz start);
extern void coupon_stat_add_duration(const CouponWay *way, int outcome, int n, uint64 us);

/*
 * How long commits take, by themselves: of transactions with counted calls or
 * batches, one in eight, which counts for eight.
 */
extern CouponWay coupon_way_commit;

/* So many were worked off together. */
extern void coupon_stat_batch(const CouponWay *way, int n);

/* Never throws. */
extern void coupon_stat_tally(CouponTally tally);

/* ---- reading ---- */

typedef struct CouponWaySum
{
	uint64		outcomes[COUPON_MAX_OUTCOMES];
	uint64		aborted;
	uint64		errors[COUPON_STAT_CLASSES];
	uint64		intervals[COUPON_STAT_INTERVALS];
	uint64		microseconds;
	uint64		batches;
	uint64		items;
	uint64		largest;
} CouponWaySum;

/* All ways, up to NULL. */
extern CouponWay *const *coupon_ways;

extern void coupon_stat_read(const CouponWay *way, CouponWaySum *sum);
extern uint64 coupon_stat_tallied(CouponTally tally);
extern TimestampTz coupon_stat_reset_at(void);

/* This database's begin anew; what is counted meanwhile may be lost. */
extern void coupon_stat_clear(void);

/* While preloading. */
extern void coupon_stat_register(CouponWay *const *ways);
extern const CouponModule coupon_stat_module;

#endif							/* COUPON_STAT_H */
