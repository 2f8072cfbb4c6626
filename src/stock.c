/*
 * stock.c
 *	  The stock map: which units of a campaign are free, in shared memory.
 *
 * One bit a unit, in shards that each have a count of free units.  A session
 * begins in a shard of its own and goes on to the next when that is empty, so
 * sessions seldom meet; a unit is taken by one atomic fetch-or and nobody
 * waits for a bit.  The durable truth is coupon.issuance.  A map that is wrong
 * towards free costs a refused insertion, and the bit stays set; one that is
 * wrong towards taken is healed by a second look at the index before the
 * campaign is called sold out (see recheck_shard).
 *
 * Shards are built from the index one by one, on first use, with a dirty
 * snapshot: what running transactions have inserted counts as taken.
 *
 * Concurrency.  All fields are atomics, changed in an order that makes one
 * question answerable without a lock: is everything gone?  A taker sets the
 * bit, raises in_flight, then lowers free; whoever gives back clears the bit,
 * raises free, raises supply, then lowers in_flight.  So a reader that sees
 * free = 0 and then in_flight = 0 in every shard, and the same supply before
 * and after, knows that no unit is free nor can come back.  The verdict is
 * remembered as the supply at which it was reached: it lapses by itself when
 * a unit returns.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/tableam.h"
#include "access/visibilitymap.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/bufmgr.h"
#include "storage/condition_variable.h"
#include "storage/proclist.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "intent.h"
#include "stock.h"

/* states of a shard, bits */
#define SHARD_BUILDING	1		/* a session reads the index for it */
#define SHARD_STALE		2		/* a unit returned meanwhile: read again */
#define SHARD_READY		4		/* its bits can be used */
#define SHARD_CHECKING	8		/* ready; a session compares it with the index */

struct CouponShard
{
	int64		first_serial;	/* constant */
	int32		units;			/* constant */
	int32		number;			/* constant */
	dsa_pointer bits;			/* written by the builder, constant when ready */
	pg_atomic_uint32 state;
	pg_atomic_uint32 free;
	pg_atomic_uint32 in_flight; /* units taken or being returned, undecided */
	pg_atomic_uint32 cursor;	/* word in which a free unit was last found */
	pg_atomic_uint32 unchecked; /* 1: not compared with the index since it mattered */
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
	pg_atomic_uint64 supply;	/* raised whenever units become free */
	pg_atomic_uint64 sold_out_at;	/* supply at which all was gone */
	pg_atomic_uint32 nshards;
	ConditionVariable changed;
	uint32		base;			/* shards in the first segment, constant */
	dsa_pointer segments[MAX_SEGMENTS]; /* partition lock; constant once set */
};

#define NEVER_SOLD_OUT	PG_UINT64_MAX

static CouponShard *
get_shard(CouponStock *stock, uint32 number)
{
	uint32		segment = 0;
	uint32		start = 0;

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

static CouponShard *
find_shard(CouponStock *stock, int64 serial)
{
	uint32		low = 0;
	uint32		high = count_shards(stock);

	while (low < high)
	{
		uint32		middle = low + (high - low) / 2;
		CouponShard *shard = get_shard(stock, middle);

		if (serial < shard->first_serial)
			high = middle;
		else if (serial >= shard->first_serial + shard->units)
			low = middle + 1;
		else
			return shard;
	}
	return NULL;
}

/* An unlocked look: who goes to sleep looks at the stock again after joining. */
static inline bool
has_waiters(CouponStock *stock)
{
	pg_memory_barrier();
	return !proclist_is_empty(&stock->changed.wakeup);
}

static void
wake_waiters(CouponStock *stock)
{
	if (has_waiters(stock))
		ConditionVariableBroadcast(&stock->changed);
}

static uint32
sum_in_flight(CouponStock *stock)
{
	uint32		nshards = count_shards(stock);
	uint32		sum = 0;

	for (uint32 i = 0; i < nshards; i++)
		sum += pg_atomic_read_u32(&get_shard(stock, i)->in_flight);
	return sum;
}

static uint32
wait_event(void)
{
	static uint32 event = 0;

	if (event == 0)
		event = coupon_wait_event("CouponUnitInFlight");
	return event;
}

static CouponStock *
stock_of(CouponCampaign *campaign)
{
	return dsa_get_address(coupon_area, campaign->stock);
}

/* ---- intents ---- */

/* Makes a unit free.  Tolerates that it is free already. */
static void
clear_bit(CouponStock *stock, CouponShard *shard, uint32 bit)
{
	uint64		mask = UINT64CONST(1) << (bit % 64);
	uint64		old = pg_atomic_fetch_and_u64(&get_words(shard)[bit / 64], ~mask);

	if (old & mask)
		pg_atomic_fetch_add_u32(&shard->free, 1);
	pg_atomic_fetch_add_u64(&stock->supply, 1);
}

/* Ends a unit's flight; the last one to land tells those who wait for it. */
static void
land(CouponCampaign *campaign, CouponStock *stock, CouponShard *shard, bool freed)
{
	uint32		left = pg_atomic_sub_fetch_u32(&shard->in_flight, 1);

	if (freed ||
		(left == 0 && has_waiters(stock) && sum_in_flight(stock) == 0))
		wake_waiters(stock);
	coupon_slot_unpin(campaign);
}

/* A unit taken: sold at commit, free again at abort. */
static void
resolve_take(CouponIntent *intent, bool committed)
{
	CouponStock *stock = stock_of(intent->campaign);

	if (committed)
		pg_atomic_fetch_add_u64(&intent->campaign->answers[COUPON_ISSUED], 1);
	else
		clear_bit(stock, intent->shard, intent->number);
	land(intent->campaign, stock, intent->shard, !committed);
}

/* A unit whose row was deleted: free at commit. */
static void
resolve_return(CouponIntent *intent, bool committed)
{
	CouponStock *stock = stock_of(intent->campaign);
	CouponShard *shard = intent->shard;

	while (committed)
	{
		uint32		state = pg_atomic_read_u32(&shard->state);

		if (state & SHARD_READY)
			clear_bit(stock, shard, intent->number);
		else if (state & SHARD_BUILDING)
		{
			/* the builder may have read the row as live */
			if (!pg_atomic_compare_exchange_u32(&shard->state, &state,
												SHARD_BUILDING | SHARD_STALE))
				continue;
		}
		break;
	}
	land(intent->campaign, stock, shard, committed);
}

/* A shard being built: somebody else may. */
static void
resolve_build(CouponIntent *intent, bool committed)
{
	pg_atomic_write_u32(&intent->shard->state, 0);
	wake_waiters(stock_of(intent->campaign));
}

/* A shard being compared with the index. */
static void
resolve_check(CouponIntent *intent, bool committed)
{
	pg_atomic_fetch_and_u32(&intent->shard->state, ~SHARD_CHECKING);
	wake_waiters(stock_of(intent->campaign));
}

static void
free_bits(CouponShard *shard)
{
	if (DsaPointerIsValid(shard->bits))
		dsa_free(coupon_area, shard->bits);
	shard->bits = InvalidDsaPointer;
}

/* Shards that nobody else knows of yet: gone with the transaction's shards. */
static void
resolve_growth(CouponIntent *intent, bool committed)
{
	if (!committed)
	{
		CouponStock *stock = stock_of(intent->campaign);
		uint32		nshards = count_shards(stock);

		pg_atomic_write_u32(&stock->nshards, intent->number);
		for (uint32 i = intent->number; i < nshards; i++)
			free_bits(get_shard(stock, i));
	}
	coupon_slot_unpin(intent->campaign);
}

/* ---- making and growing a map ---- */

typedef struct ShardRow
{
	int64		first_serial;
	int64		last_serial;
} ShardRow;

/* Reads the rows of shards first..last - 1. */
static ShardRow *
read_shard_rows(int64 campaign_id, uint32 first, uint32 last)
{
	const CouponCatalog *catalog = coupon_catalog();
	ShardRow   *rows = palloc((last - first) * sizeof(ShardRow));
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	uint32		nread = 0;
	ScanKeyData keys[2];
	CouponScan	scan;
	bool		isnull;

	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, campaign_id);
	coupon_key_int32(&keys[1], 2, BTGreaterEqualStrategyNumber, first);
	coupon_scan_begin(&scan, catalog->shard, catalog->shard_pkey, snapshot, keys, 2, false);
	while (first + nread < last && coupon_scan_next(&scan, ForwardScanDirection))
	{
		ShardRow   *row = &rows[nread];

		row->first_serial = DatumGetInt64(slot_getattr(scan.slot, Shard_first_serial, &isnull));
		row->last_serial = DatumGetInt64(slot_getattr(scan.slot, Shard_last_serial, &isnull));
		if (DatumGetInt32(slot_getattr(scan.slot, Shard_number, &isnull)) != (int32) (first + nread) ||
			row->last_serial < row->first_serial ||
			row->last_serial - row->first_serial >= COUPON_MAX_STOCK)
			break;
		nread++;
	}
	coupon_scan_end(&scan);
	UnregisterSnapshot(snapshot);

	if (first + nread < last)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("shards of campaign %lld are damaged", (long long) campaign_id),
				 errdetail("Expected %u shards without gaps, found %u.", last, first + nread),
				 errhint("Compare with SELECT * FROM coupon_verify(%lld).", (long long) campaign_id)));
	return rows;
}

static dsa_pointer
make_stock(uint32 base)
{
	dsa_pointer pointer = coupon_area_allocate(sizeof(CouponStock));
	CouponStock *stock = dsa_get_address(coupon_area, pointer);

	pg_atomic_init_u64(&stock->supply, 0);
	pg_atomic_init_u64(&stock->sold_out_at, NEVER_SOLD_OUT);
	pg_atomic_init_u32(&stock->nshards, 0);
	ConditionVariableInit(&stock->changed);
	stock->base = Max(base, 1);
	return pointer;
}

/* Installs a pointer if nobody has yet; frees it otherwise. */
static void
install(CouponCampaign *campaign, dsa_pointer *place, dsa_pointer pointer)
{
	LWLock	   *lock = coupon_slot_partition(campaign);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (!DsaPointerIsValid(*place))
	{
		*place = pointer;
		pointer = InvalidDsaPointer;
	}
	LWLockRelease(lock);
	if (DsaPointerIsValid(pointer))
		dsa_free(coupon_area, pointer);
}

/* Makes the map know the shards that the definition knows. */
static void
grow_stock(CouponCampaign *campaign, CouponStock *stock, const CouponDefinition *def)
{
	uint32		first = count_shards(stock);
	uint32		last = def->nshards;
	ShardRow   *rows = read_shard_rows(def->campaign_id, first, last);
	LWLock	   *lock = coupon_slot_partition(campaign);

	for (int segment = 0; segment < MAX_SEGMENTS; segment++)
	{
		uint32		start = segment == 0 ? 0 : stock->base << (segment - 1);
		uint32		room = segment == 0 ? stock->base : start;

		if (start >= last)
			break;
		if (!DsaPointerIsValid(stock->segments[segment]))
			install(campaign, &stock->segments[segment],
					coupon_area_allocate(mul_size(room, SHARD_STRIDE)));
	}

	/* what only this transaction knows must go when it aborts */
	coupon_intent_reserve(1);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (count_shards(stock) == first)
	{
		for (uint32 i = first; i < last; i++)
		{
			CouponShard *shard = get_shard(stock, i);

			shard->first_serial = rows[i - first].first_serial;
			shard->units = rows[i - first].last_serial - rows[i - first].first_serial + 1;
			shard->number = i;
			pg_atomic_init_u32(&shard->state, 0);
			pg_atomic_init_u32(&shard->free, 0);
			pg_atomic_init_u32(&shard->in_flight, 0);
			pg_atomic_init_u32(&shard->cursor, 0);
			pg_atomic_init_u32(&shard->unchecked, 1);
		}
		pg_write_barrier();
		pg_atomic_write_u32(&stock->nshards, last);
		pg_atomic_fetch_add_u64(&stock->supply, 1);
		if (def->created)
		{
			pg_atomic_fetch_add_u32(&campaign->pins, 1);
			coupon_intent_push(resolve_growth, campaign, NULL, first);
		}
	}
	LWLockRelease(lock);
	pfree(rows);
}

CouponStock *
coupon_stock_open(CouponCampaign *campaign, const CouponDefinition *def)
{
	CouponStock *stock;

	if (!DsaPointerIsValid(campaign->stock))
		install(campaign, &campaign->stock, make_stock(def->nshards));
	stock = stock_of(campaign);
	while (count_shards(stock) < (uint32) def->nshards)
		grow_stock(campaign, stock, def);
	return stock;
}

void
coupon_stock_free(dsa_pointer pointer)
{
	CouponStock *stock = dsa_get_address(coupon_area, pointer);
	uint32		nshards = count_shards(stock);

	for (uint32 i = 0; i < nshards; i++)
		free_bits(get_shard(stock, i));
	for (int segment = 0; segment < MAX_SEGMENTS; segment++)
	{
		if (DsaPointerIsValid(stock->segments[segment]))
			dsa_free(coupon_area, stock->segments[segment]);
	}
	dsa_free(coupon_area, pointer);
}

/* ---- reading the index ---- */

/*
 * Sets the bits of the serials of a shard that have a live or undecided row;
 * returns the number of rows that a running transaction has yet to decide.
 * Pages that the visibility map calls all-visible are not looked at.
 */
static int
read_index(int64 campaign_id, CouponShard *shard, uint64 *bits)
{
	const CouponCatalog *catalog = coupon_catalog();
	SnapshotData dirty;
	ScanKeyData keys[3];
	CouponScan	scan;
	ItemPointer tid;
	Buffer		vmbuffer = InvalidBuffer;
	int			undecided = 0;

	memset(bits, 0, count_words(shard) * sizeof(uint64));

	InitDirtySnapshot(dirty);
	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, campaign_id);
	coupon_key_int64(&keys[1], 2, BTGreaterEqualStrategyNumber, shard->first_serial);
	coupon_key_int64(&keys[2], 2, BTLessEqualStrategyNumber,
					 shard->first_serial + shard->units - 1);
	coupon_scan_begin(&scan, catalog->issuance, catalog->issuance_serial_key,
					  &dirty, keys, 3, true);

	while ((tid = index_getnext_tid(scan.scan, ForwardScanDirection)) != NULL)
	{
		bool		isnull;
		int64		serial;
		int64		bit;

		CHECK_FOR_INTERRUPTS();

		if (!VM_ALL_VISIBLE(scan.heap, ItemPointerGetBlockNumber(tid), &vmbuffer))
		{
			if (!index_fetch_heap(scan.scan, scan.slot))
				continue;
			ExecClearTuple(scan.slot);
			if (TransactionIdIsValid(dirty.xmin) || TransactionIdIsValid(dirty.xmax))
				undecided++;
		}
		serial = DatumGetInt64(index_getattr(scan.scan->xs_itup, 2,
											 scan.scan->xs_itupdesc, &isnull));
		bit = serial - shard->first_serial;
		bits[bit / 64] |= UINT64CONST(1) << (bit % 64);
	}

	if (BufferIsValid(vmbuffer))
		ReleaseBuffer(vmbuffer);
	coupon_scan_end(&scan);

	/* what lies beyond the last unit is never free */
	if (shard->units % 64 != 0)
		bits[count_words(shard) - 1] |= PG_UINT64_MAX << (shard->units % 64);
	return undecided;
}

/* Builds a shard, unless another session is at it. */
static void
build_shard(CouponCampaign *campaign, CouponStock *stock, CouponShard *shard)
{
	int			nwords = count_words(shard);
	uint64	   *bits = palloc(nwords * sizeof(uint64));
	uint32		state = 0;
	uint32		free;

	coupon_intent_reserve(1);
	if (!pg_atomic_compare_exchange_u32(&shard->state, &state, SHARD_BUILDING))
	{
		pfree(bits);
		return;
	}
	coupon_intent_push(resolve_build, campaign, shard, 0);

	if (!DsaPointerIsValid(shard->bits))
		shard->bits = coupon_area_allocate(nwords * sizeof(uint64));

	do
	{
		pg_atomic_write_u32(&shard->state, SHARD_BUILDING);
		(void) read_index(campaign->key.campaign_id, shard, bits);

		free = nwords * 64;
		for (int i = 0; i < nwords; i++)
		{
			pg_atomic_init_u64(&get_words(shard)[i], bits[i]);
			free -= pg_popcount64(bits[i]);
		}
		pg_atomic_write_u32(&shard->free, free);
		pg_atomic_write_u32(&shard->unchecked, 1);
		state = SHARD_BUILDING;
	} while (!pg_atomic_compare_exchange_u32(&shard->state, &state, SHARD_READY));

	coupon_intent_forget(coupon_intent_find(resolve_build, campaign, shard, 0));
	pg_atomic_fetch_add_u64(&stock->supply, 1);
	wake_waiters(stock);
	pfree(bits);
}

/*
 * Compares a shard in which nothing is free or in flight with the index, and
 * frees the units that have no row.  Returns the number of undecided rows:
 * those of transactions that did not come through this map.
 */
static int
recheck_shard(CouponCampaign *campaign, CouponStock *stock, CouponShard *shard)
{
	int			nwords = count_words(shard);
	uint64	   *bits = palloc(nwords * sizeof(uint64));
	uint64		supply = pg_atomic_read_u64(&stock->supply);
	uint32		state = SHARD_READY;
	int			undecided;

	coupon_intent_reserve(1);
	if (!pg_atomic_compare_exchange_u32(&shard->state, &state, SHARD_READY | SHARD_CHECKING))
	{
		pfree(bits);
		return 1;				/* another session is at it: not settled yet */
	}
	coupon_intent_push(resolve_check, campaign, shard, 0);

	undecided = read_index(campaign->key.campaign_id, shard, bits);

	/* a unit that came back meanwhile makes the comparison void */
	if (pg_atomic_read_u64(&stock->supply) == supply &&
		pg_atomic_read_u32(&shard->in_flight) == 0)
	{
		if (undecided == 0)
			pg_atomic_write_u32(&shard->unchecked, 0);
		for (int i = 0; i < nwords; i++)
		{
			uint64		wrong = pg_atomic_read_u64(&get_words(shard)[i]) & ~bits[i];

			while (wrong != 0)
			{
				int			bit = pg_rightmost_one_pos64(wrong);

				wrong &= wrong - 1;
				clear_bit(stock, shard, i * 64 + bit);
			}
		}
	}

	coupon_intent_finish(coupon_intent_find(resolve_check, campaign, shard, 0), true);
	pfree(bits);
	return undecided;
}

/* ---- taking ---- */

/* Takes up to n units of a shard.  Nothing in here can throw. */
static int
take_from_shard(CouponCampaign *campaign, CouponShard *shard, int n, CouponUnit *units)
{
	pg_atomic_uint64 *words = get_words(shard);
	int			nwords = count_words(shard);
	uint32		start = pg_atomic_read_u32(&shard->cursor);
	int			taken = 0;

	for (int i = 0; i < nwords && taken < n; i++)
	{
		uint32		at = (start + i) % nwords;
		uint64		word = pg_atomic_read_u64(&words[at]);

		while (word != PG_UINT64_MAX && taken < n)
		{
			uint64		wanted = 0;
			uint64		candidates = ~word;
			uint64		got;

			for (int k = taken; k < n && candidates != 0; k++)
			{
				wanted |= candidates & -candidates;
				candidates &= candidates - 1;
			}
			word = pg_atomic_fetch_or_u64(&words[at], wanted);
			got = wanted & ~word;
			word |= wanted;

			while (got != 0)
			{
				uint32		bit = at * 64 + pg_rightmost_one_pos64(got);
				CouponUnit *unit = &units[taken++];

				got &= got - 1;
				pg_atomic_fetch_add_u32(&shard->in_flight, 1);
				pg_atomic_fetch_sub_u32(&shard->free, 1);
				pg_atomic_fetch_add_u32(&campaign->pins, 1);
				coupon_intent_push(resolve_take, campaign, shard, bit);

				unit->shard = shard;
				unit->bit = bit;
				unit->shard_number = shard->number;
				unit->serial = shard->first_serial + bit;
			}
			if (taken > 0 && at != start)
				pg_atomic_write_u32(&shard->cursor, at);
		}
	}
	return taken;
}

/* One walk over all shards, from the session's own. */
static int
take_from_shards(CouponCampaign *campaign, CouponStock *stock, int n, CouponUnit *units)
{
	uint32		nshards = count_shards(stock);
	uint32		home;
	int			taken = 0;

	if (nshards == 0)
		return 0;

	/* neighbouring processes get shards far apart */
	home = (coupon_my_proc_number() * 2654435761U) % nshards;

	for (uint32 i = 0; i < nshards && taken < n; i++)
	{
		CouponShard *shard = get_shard(stock, (home + i) % nshards);

		if (pg_atomic_read_u32(&shard->state) == 0)
			build_shard(campaign, stock, shard);
		if (is_ready(shard) && pg_atomic_read_u32(&shard->free) > 0)
			taken += take_from_shard(campaign, shard, n - taken, units + taken);
	}
	return taken;
}

typedef enum Verdict
{
	ALL_GONE,
	TRY_AGAIN,					/* a unit is or was free since the walk */
	IN_FLIGHT					/* it depends on running transactions */
} Verdict;

/* A walk over all shards, every one of them ready, found nothing.  Why? */
static Verdict
judge(CouponCampaign *campaign, CouponStock *stock)
{
	uint32		nshards = count_shards(stock);
	uint64		supply = pg_atomic_read_u64(&stock->supply);
	uint32		in_flight = 0;
	uint32		mine;

	for (uint32 i = 0; i < nshards; i++)
	{
		CouponShard *shard = get_shard(stock, i);

		if (!is_ready(shard))
			return IN_FLIGHT;
		if (pg_atomic_read_u32(&shard->free) > 0)
			return TRY_AGAIN;
		in_flight += pg_atomic_read_u32(&shard->in_flight);
	}

	/* what this transaction itself holds cannot come back while it waits */
	mine = coupon_intent_count(resolve_take, campaign) +
		coupon_intent_count(resolve_return, campaign);
	if (in_flight > mine)
		return IN_FLIGHT;

	if (mine == 0)
	{
		for (uint32 i = 0; i < nshards; i++)
		{
			CouponShard *shard = get_shard(stock, i);

			if (pg_atomic_read_u32(&shard->unchecked) == 1 &&
				recheck_shard(campaign, stock, shard) > 0)
				return IN_FLIGHT;
		}
	}

	if (pg_atomic_read_u64(&stock->supply) != supply)
		return TRY_AGAIN;
	if (mine == 0)
		pg_atomic_write_u64(&stock->sold_out_at, supply);
	return ALL_GONE;
}

bool
coupon_stock_sold_out(CouponCampaign *campaign)
{
	CouponStock *stock;

	if (!DsaPointerIsValid(campaign->stock))
		return false;
	stock = stock_of(campaign);
	return pg_atomic_read_u64(&stock->sold_out_at) == pg_atomic_read_u64(&stock->supply);
}

/*
 * Sleeps until something changes or the deadline, which the first call sets.
 * False if it has passed.  The first sleep of a series returns at once, so
 * that the caller looks again after it has joined the waiters.
 */
static bool
wait_for_change(CouponStock *stock, int wait_ms, TimestampTz *deadline)
{
	TimestampTz now = GetCurrentTimestamp();
	long		left_ms;

	if (*deadline == 0)
		*deadline = TimestampTzPlusMilliseconds(now, wait_ms);
	left_ms = TimestampDifferenceMilliseconds(now, *deadline);
	if (left_ms <= 0)
		return false;
	(void) ConditionVariableTimedSleep(&stock->changed, left_ms,
									   wait_event());
	return true;
}

int
coupon_stock_take(CouponCampaign *campaign, CouponStock *stock, int n, int wait_ms,
				  CouponUnit *units, CouponShortage *why)
{
	TimestampTz deadline = 0;
	int			taken = 0;

	*why = COUPON_NO_SHORTAGE;
	coupon_intent_reserve(n);

	while (*why == COUPON_NO_SHORTAGE && !coupon_stock_sold_out(campaign))
	{
		Verdict		verdict;

		CHECK_FOR_INTERRUPTS();
		taken += take_from_shards(campaign, stock, n - taken, units + taken);
		if (taken == n)
			break;

		verdict = judge(campaign, stock);
		if (verdict == ALL_GONE)
			*why = COUPON_SHORT_SOLD_OUT;
		else if (verdict == IN_FLIGHT && !wait_for_change(stock, wait_ms, &deadline))
			*why = COUPON_SHORT_BUSY;
	}
	if (taken < n && *why == COUPON_NO_SHORTAGE)
		*why = COUPON_SHORT_SOLD_OUT;

	if (deadline != 0)
		ConditionVariableCancelSleep();
	return taken;
}

/* ---- giving back ---- */

void
coupon_stock_give_back(CouponCampaign *campaign, const CouponUnit *unit)
{
	coupon_intent_finish(coupon_intent_find(resolve_take, campaign, unit->shard, unit->bit),
						 false);
}

void
coupon_stock_disown(CouponCampaign *campaign, const CouponUnit *unit)
{
	coupon_intent_forget(coupon_intent_find(resolve_take, campaign, unit->shard, unit->bit));
	pg_atomic_write_u32(&unit->shard->unchecked, 1);
	land(campaign, stock_of(campaign), unit->shard, false);
}

void
coupon_stock_return(CouponCampaign *campaign, CouponStock *stock, int64 serial)
{
	CouponShard *shard = find_shard(stock, serial);

	/* outside the shards there is nothing to give back */
	if (shard == NULL)
		return;

	coupon_intent_reserve(1);
	pg_atomic_fetch_add_u32(&shard->in_flight, 1);
	pg_atomic_fetch_add_u32(&campaign->pins, 1);
	coupon_intent_push(resolve_return, campaign, shard, serial - shard->first_serial);
}

/* ---- summing ---- */

void
coupon_stock_sum(CouponCampaign *campaign, CouponStock *stock, CouponStockSum *sum)
{
	uint32		nshards = count_shards(stock);

	memset(sum, 0, sizeof(*sum));
	for (uint32 i = 0; i < nshards; i++)
	{
		CouponShard *shard = get_shard(stock, i);

		while (!is_ready(shard))
		{
			build_shard(campaign, stock, shard);
			if (!is_ready(shard))	/* another session is at it */
				(void) ConditionVariableTimedSleep(&stock->changed, 10,
												   wait_event());
		}
		sum->units += shard->units;
		sum->in_flight += pg_atomic_read_u32(&shard->in_flight);
		sum->free += Min(pg_atomic_read_u32(&shard->free), (uint32) shard->units);
	}
	ConditionVariableCancelSleep();
}
