/*
 * stock_map.h
 *	  How a stock map lies in memory: for stock.c, stock_build.c and
 *	  user_filter.c; and the area in which it and the definition lie.
 */
#ifndef COUPON_STOCK_MAP_H
#define COUPON_STOCK_MAP_H

#include "port/pg_bitutils.h"
#include "storage/condition_variable.h"
#include "storage/proclist.h"
#include "storage/spin.h"

#include "base/shmem.h"

typedef struct CouponStock CouponStock;
typedef struct CouponShard CouponShard;

extern dsa_area *coupon_area;

/* Its size, in bytes. */
extern Size coupon_area_size(void);

/* states of a shard, bits */
#define SHARD_BUILDING	1		/* a session reads the index for it */
#define SHARD_STALE		2		/* a unit returned meanwhile: read again */
#define SHARD_READY		4		/* its bits can be used */
#define SHARD_CHECKING	8		/* ready; a session compares it with the index */

/* whether a shard was compared with the index since that was last wanted */
#define SHARD_CHECKED		0
#define SHARD_UNCHECKED		1
#define SHARD_BEING_CHECKED	2

/* states of a filter of users, see user_filter.c */
#define FILTER_UNTRIED	0		/* nobody has asked whether there are rows */
#define FILTER_NONE		1		/* there were, or there is no memory */
#define FILTER_ALLOCATING	2	/* a session looks for memory */
#define FILTER_BUILDING	3		/* who inserts is added, from here on */
#define FILTER_GROWING	4		/* there were no rows before who gave it
								 * memory came */
#define FILTER_COMPLETE	5

struct CouponShard
{
	int64		first_serial;	/* constant */
	int32		units;			/* constant */
	int32		number;			/* constant */
	dsa_pointer bits;			/* written by the builder, constant when ready */
	pg_atomic_uint32 state;
	pg_atomic_uint32 free;
	pg_atomic_uint32 in_flight; /* units whose transaction has yet to end */
	pg_atomic_uint32 cursor;	/* word in which a free unit was last found */
	pg_atomic_uint32 unchecked; /* to be compared with the index before all is
								 * called gone */
};

#define CACHE_LINE	64
#define SHARD_STRIDE	TYPEALIGN(CACHE_LINE, sizeof(CouponShard))

/*
 * Shards are never moved, since sessions keep pointers to them: the first
 * segment holds those that were there at first, each further one as many as
 * all before it together.
 */
#define MAX_SEGMENTS	24

struct CouponStock
{
	pg_atomic_uint64 supply;	/* raised whenever a unit becomes free, or may
								 * yet */
	pg_atomic_uint64 sold_out_at;	/* supply at which all was gone */
	slock_t		lapse_lock;
	uint64		holds_noted;	/* lapse_lock */
	pg_atomic_uint64 lapse_at;	/* lapse_lock to write; a time, no hold runs
								 * out before */
	pg_atomic_uint32 nshards;	/* partition lock to write */
	ConditionVariable changed;

	/* of a campaign that several nodes share, see cluster/stock_report.c */
	uint64		birth;			/* random, constant: supplies of another map
								 * are other numbers */
	pg_atomic_uint32 wanted;	/* 1: a call found nothing here */
	pg_atomic_uint64 low_water; /* with fewer units, more are fetched */
	pg_atomic_uint64 fetch_at;	/* by the steady clock: not before, since it
								 * failed */
	pg_atomic_uint64 gone_at;	/* supply at which all nodes had nothing */
	pg_atomic_uint64 gone_until;	/* a time, until which that may be said */
	uint32		base;			/* shards in the first segment, constant */
	pg_atomic_uint32 filter_state;
	uint32		filter_words;	/* partition lock; constant while pinned, once
								 * set */
	dsa_pointer filter;			/* the same */
	pg_atomic_uint64 filter_missed; /* answers sold_out when there last was no
									 * memory for one */
	dsa_pointer segments[MAX_SEGMENTS]; /* partition lock; constant once set */
};

#define NEVER_SOLD_OUT	PG_UINT64_MAX
#define NEVER_FETCHED	PG_UINT64_MAX

static inline CouponShard *
get_shard(CouponStock *stock, uint32 number)
{
	uint32		segment = 0;
	uint32		start = 0;

	Assert(stock->base > 0);
	if (number >= stock->base)
	{
		segment = pg_leftmost_one_pos32(number / stock->base) + 1;
		start = stock->base << (segment - 1);
	}
	return (CouponShard *)
		((char *) dsa_get_address(coupon_area, stock->segments[segment]) +
		 (number - start) * SHARD_STRIDE);
}

static inline pg_atomic_uint64 *
get_words(CouponShard *shard)
{
	return dsa_get_address(coupon_area, shard->bits);
}

static inline int
count_words(CouponShard *shard)
{
	return (shard->units + 63) / 64;
}

static inline uint32
count_shards(CouponStock *stock)
{
	uint32		nshards = pg_atomic_read_u32(&stock->nshards);

	pg_read_barrier();			/* pairs with grow_stock */
	return nshards;
}

static inline bool
is_ready(CouponShard *shard)
{
	bool		ready = (pg_atomic_read_u32(&shard->state) & SHARD_READY) != 0;

	pg_read_barrier();			/* the bits are read after the state */
	return ready;
}

/* An unlocked look: who goes to sleep looks at the stock again after joining. */
static inline bool
has_waiters(CouponStock *stock)
{
	pg_memory_barrier();
	return !proclist_is_empty(&stock->changed.wakeup);
}

static inline void
wake_waiters(CouponStock *stock)
{
	if (has_waiters(stock))
		ConditionVariableBroadcast(&stock->changed);
}

/* Makes a unit free.  Tolerates that it is free already. */
static inline void
clear_bit(CouponStock *stock, CouponShard *shard, uint32 bit)
{
	uint64		mask = UINT64CONST(1) << (bit % 64);
	uint64		old = pg_atomic_fetch_and_u64(&get_words(shard)[bit / 64], ~mask);

	if (old & mask)
		pg_atomic_fetch_add_u32(&shard->free, 1);
	pg_atomic_fetch_add_u64(&stock->supply, 1);
}

static inline void
free_bits(CouponShard *shard)
{
	if (DsaPointerIsValid(shard->bits))
		dsa_free(coupon_area, shard->bits);
	shard->bits = InvalidDsaPointer;
}

static inline Size
filter_size(CouponStock *stock)
{
	return stock->filter_words * sizeof(uint64);
}

/*
 * Filters are what a map can do without, so they have a quarter of the area in all,
 * and the maps can have the rest.  Who has reserved so many bytes allocates
 * them.
 */
extern bool coupon_filter_has_room(Size size);
extern bool coupon_filter_reserve(Size size);
extern void coupon_filter_release(Size size);

/* Frees the filter of a map that nobody has pinned, if it has one. */
extern void coupon_filter_free(CouponStock *stock);

/* What a session waits in for units and shards. */
extern uint32 coupon_stock_wait_event(void);

/* Frees a map that nobody has pinned. */
extern void coupon_stock_free(dsa_pointer stock);

extern const CouponModule coupon_stock_map_module;

#endif							/* COUPON_STOCK_MAP_H */
