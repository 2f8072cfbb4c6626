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
 * campaign is called sold out.  Shards are built from the index one by one,
 * on first use (stock_build.c).
 *
 * A unit is in flight while a transaction that is still running has taken it,
 * or has changed or deleted its row: what becomes of it is known at the end.
 *
 * Concurrency.  The fields are atomics, changed in an order that makes one
 * question answerable without a lock: can no unit be had, now or later?
 *	- Taking: sets the bit, raises in_flight, lowers free.
 *	- Taking over a unit whose row is there: raises in_flight, raises supply.
 *	- A unit that can be had again: clears the bit and raises free, or notes
 *	  that a hold may have run out; raises supply; lowers in_flight.
 * Who reads supply, then sees that no hold has run out, that free is 0 and
 * then that in_flight is 0 in every shard, and then the same supply, knows
 * that no unit is free nor can come back.  That verdict is remembered as the
 * supply at which it was reached: whatever makes it wrong raises supply.
 *
 * lapse_at is a time before which no hold runs out, or an earlier one.  It is
 * raised by who has looked at all holds, if none was noted since that look
 * began, and lowered by who inserts a hold, afterwards, or brings one back by
 * a rollback.  Holds whose row a running transaction has deleted or changed
 * are in flight instead.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/compat.h"
#include "base/database.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/intent.h"
#include "base/stat.h"
#include "sale/stock.h"

/* how often to look at what nobody will wake us for: a foreign transaction */
#define UNSETTLED_SLICE_MS	20

/* What becomes of a unit in flight: flags of its intent. */
#define UNIT_ISSUED		1		/* at commit it is counted as issued */
#define UNIT_RETURNS	2		/* at commit it is free; otherwise it is gone */
#define UNIT_HAS_ROW	4		/* at abort its old row is there again;
								 * otherwise it is free */

/* The units that this transaction has in flight, by the number of the campaign's slot. */
typedef struct OwnUnits
{
	uint32		in_flight;
	uint32		returning;		/* those among them that are free at commit */
} OwnUnits;

static OwnUnits *own_units = NULL;

static OwnUnits *
own_units_of(CouponCampaign *campaign)
{
	static OwnUnits none = {0};

	return own_units == NULL ? &none : &own_units[coupon_slot_number(campaign)];
}

/* Makes room for n more units in flight.  May throw. */
static void
reserve_units(int n)
{
	if (own_units == NULL)
		own_units = MemoryContextAllocZero(TopMemoryContext, mul_size(coupon_max_campaigns, sizeof(OwnUnits)));
	coupon_intent_reserve(n);
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

static uint32
sum_in_flight(CouponStock *stock)
{
	uint32		nshards = count_shards(stock);
	uint32		sum = 0;

	for (uint32 i = 0; i < nshards; i++)
		sum += pg_atomic_read_u32(&get_shard(stock, i)->in_flight);
	return sum;
}

CouponStock *
coupon_stock_known(CouponCampaign *campaign)
{
	return stock_of(campaign);
}

/* ---- units in flight ---- */

/* Ends the flight of n units; the last one to land tells those who wait for it. */
static void
land(CouponCampaign *campaign, CouponStock *stock, CouponShard *shard, uint32 n, bool to_be_had)
{
	uint32		left;

	COUPON_FAULT(unit_freed);
	left = pg_atomic_sub_fetch_u32(&shard->in_flight, n);
	own_units_of(campaign)->in_flight -= n;
	if (to_be_had ||
		(left == 0 && has_waiters(stock) && sum_in_flight(stock) == 0))
		wake_waiters(stock);
	coupon_slot_unpin(campaign);
}

/* Makes a unit free that has no row any more. */
static void
free_unit(CouponStock *stock, CouponShard *shard, uint32 bit)
{
	uint32		state = pg_atomic_read_u32(&shard->state);

	/*
	 * who is building may have read the row as live, and is told to read
	 * again
	 */
	while ((state & SHARD_BUILDING) != 0)
	{
		if (pg_atomic_compare_exchange_u32(&shard->state, &state, SHARD_BUILDING | SHARD_STALE))
			return;
	}
	pg_read_barrier();			/* the bits are read after the state */
	if ((state & SHARD_READY) != 0)
		clear_bit(stock, shard, bit);
}

/* A deletion or a change was undone: the row may be a hold that has run out. */
static void
row_is_back(CouponStock *stock)
{
	coupon_stock_note_hold(stock, DT_NOBEGIN);
	pg_atomic_fetch_add_u64(&stock->supply, 1);
}

/* The intent of units whose rows were deleted: flags has a bit for each. */
static void
resolve_returned(CouponIntent *intent, bool committed)
{
	CouponStock *stock = stock_of(intent->campaign);
	uint32		n = pg_popcount32(intent->flags);

	own_units_of(intent->campaign)->returning -= n;
	for (uint32 i = 0; i < 32 && committed; i++)
	{
		if (intent->flags & (1U << i))
			free_unit(stock, intent->shard, intent->number * 32 + i);
	}
	if (!committed)
		row_is_back(stock);
	land(intent->campaign, stock, intent->shard, n, true);
}

/* One intent does what two did. */
static void
unpin_merged(CouponIntent *intent)
{
	coupon_slot_unpin(intent->campaign);
}

/* The intent of a unit in flight. */
static void
resolve_unit(CouponIntent *intent, bool committed)
{
	CouponCampaign *campaign = intent->campaign;
	CouponStock *stock = stock_of(campaign);
	bool		to_be_had = true;

	if (intent->flags & UNIT_RETURNS)
		own_units_of(campaign)->returning--;
	if (committed && !(intent->flags & UNIT_RETURNS))
	{
		if (intent->flags & UNIT_ISSUED)
			pg_atomic_fetch_add_u64(&campaign->answers[COUPON_ISSUED], 1);
		to_be_had = false;
	}
	else if (!committed && (intent->flags & UNIT_HAS_ROW))
		row_is_back(stock);
	else
		free_unit(stock, intent->shard, intent->number);
	land(campaign, stock, intent->shard, 1, to_be_had);
}

/* Records a unit in flight, in reserved room.  Never throws. */
static void
start_flight(CouponCampaign *campaign, CouponShard *shard, uint32 bit, uint32 flags)
{
	pg_atomic_fetch_add_u32(&shard->in_flight, 1);
	pg_atomic_fetch_add_u32(&campaign->pins, 1);
	coupon_intent_push(resolve_unit, campaign, shard, bit)->flags = flags;
	own_units_of(campaign)->in_flight++;
}

static void
set_unit(CouponUnit *unit, CouponShard *shard, uint32 bit)
{
	unit->shard = shard;
	unit->bit = bit;
	unit->shard_number = shard->number;
	unit->serial = shard->first_serial + bit;
}

bool
coupon_stock_has_own(CouponCampaign *campaign)
{
	return own_units_of(campaign)->in_flight > 0;
}

/* ---- taking ---- */

/* Takes up to n units of a shard.  Nothing in here can throw. */
static int
take_from_shard(CouponCampaign *campaign, CouponShard *shard, CouponPurpose purpose, int n,
				CouponUnit *units)
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
			COUPON_FAULT(unit_marked);

			while (got != 0)
			{
				uint32		bit = at * 64 + pg_rightmost_one_pos64(got);

				got &= got - 1;
				start_flight(campaign, shard, bit, purpose == COUPON_TO_ISSUE ? UNIT_ISSUED : 0);
				COUPON_FAULT(unit_in_flight);
				pg_atomic_fetch_sub_u32(&shard->free, 1);
				set_unit(&units[taken++], shard, bit);
			}
			if (taken > 0 && at != start)
				pg_atomic_write_u32(&shard->cursor, at);
		}
	}
	return taken;
}

int
coupon_stock_take(CouponCampaign *campaign, CouponStock *stock, CouponPurpose purpose, int n,
				  CouponUnit *units)
{
	uint32		nshards = count_shards(stock);

	/* neighbouring processes begin far apart */
	uint32		home = coupon_my_proc_number() * 2654435761U;
	int			taken = 0;

	reserve_units(n);
	for (uint32 i = 0; i < nshards && taken < n; i++)
	{
		CouponShard *shard = get_shard(stock, (home % nshards + i) % nshards);

		if (pg_atomic_read_u32(&shard->state) == 0)
			coupon_stock_build_shard(campaign, stock, shard);
		if (is_ready(shard) && pg_atomic_read_u32(&shard->free) > 0)
			taken += take_from_shard(campaign, shard, purpose, n - taken, units + taken);
	}
	return taken;
}

bool
coupon_stock_take_serial(CouponCampaign *campaign, CouponStock *stock, int64 serial,
						 CouponUnit *unit)
{
	CouponShard *shard = find_shard(stock, serial);
	uint32		bit;
	uint64		mask;
	pg_atomic_uint64 *word;

	if (shard == NULL)
		elog(ERROR, "serial %lld is outside the shards", (long long) serial);
	coupon_stock_make_ready(campaign, stock, shard);
	reserve_units(1);

	bit = serial - shard->first_serial;
	mask = UINT64CONST(1) << (bit % 64);
	word = &get_words(shard)[bit / 64];
	set_unit(unit, shard, bit);
	if ((pg_atomic_read_u64(word) & mask) || (pg_atomic_fetch_or_u64(word, mask) & mask))
		return false;
	start_flight(campaign, shard, bit, 0);
	pg_atomic_fetch_sub_u32(&shard->free, 1);
	return true;
}

bool
coupon_stock_take_over(CouponCampaign *campaign, CouponStock *stock, CouponPurpose purpose,
					   int64 serial, CouponUnit *unit)
{
	CouponShard *shard = find_shard(stock, serial);

	if (shard == NULL)
		return false;
	reserve_units(1);
	set_unit(unit, shard, serial - shard->first_serial);
	start_flight(campaign, shard, unit->bit,
				 UNIT_HAS_ROW | (purpose == COUPON_TO_ISSUE ? UNIT_ISSUED : 0));
	COUPON_FAULT(unit_over);
	pg_atomic_fetch_add_u64(&stock->supply, 1);
	return true;
}

/* ---- giving back ---- */

void
coupon_stock_return(CouponCampaign *campaign, CouponStock *stock, int64 serial)
{
	CouponShard *shard = find_shard(stock, serial);
	CouponIntent *intent;
	uint32		bit;

	if (shard == NULL)
		return;
	reserve_units(1);

	/*
	 * A deletion of many rows keeps one intent for up to 32 of them, also in
	 * an order in which they are not neighbours.
	 */
	bit = serial - shard->first_serial;
	intent = coupon_intent_recent(resolve_returned, campaign, shard, bit / 32);
	if (intent == NULL)
		coupon_intent_merge(resolve_returned, unpin_merged);
	if (intent == NULL || (intent->flags & (1U << (bit % 32))) != 0)
	{
		pg_atomic_fetch_add_u32(&campaign->pins, 1);
		intent = coupon_intent_push(resolve_returned, campaign, shard, bit / 32);
	}
	intent->flags |= 1U << (bit % 32);
	pg_atomic_fetch_add_u32(&shard->in_flight, 1);
	own_units_of(campaign)->in_flight++;
	own_units_of(campaign)->returning++;
	COUPON_FAULT(unit_returns);
	pg_atomic_fetch_add_u64(&stock->supply, 1);
}

void
coupon_stock_give_back(CouponCampaign *campaign, const CouponUnit *unit, CouponUnused why)
{
	CouponIntent *intent = coupon_intent_find(resolve_unit, campaign, unit->shard, unit->bit);
	uint32		has_row = intent->flags & UNIT_HAS_ROW;

	if (why == COUPON_NOT_OURS)
	{
		pg_atomic_write_u32(&unit->shard->unchecked, SHARD_UNCHECKED);
		coupon_stat_tally(COUPON_TALLY_FALSE_HINTS);
	}

	if (has_row == 0 && why == COUPON_UNTOUCHED)
		coupon_intent_finish(intent, false);
	else if (has_row == 0 && why == COUPON_NOT_OURS)
	{
		coupon_intent_forget(intent);
		land(campaign, stock_of(campaign), unit->shard, 1, false);
	}
	else if (why == COUPON_NOT_OURS)
		intent->flags = has_row;
	else
	{
		intent->flags = has_row | UNIT_RETURNS;
		own_units_of(campaign)->returning++;
	}
}

void
coupon_stock_heal(CouponCampaign *campaign, CouponStock *stock, const CouponUnit *unit)
{
	(void) coupon_stock_recheck(campaign, stock, unit->shard, unit->bit, unit->bit);
}

/* ---- is everything gone? ---- */

CouponVerdict
coupon_stock_judge(CouponCampaign *campaign, CouponStock *stock, uint64 supply, bool undecided)
{
	OwnUnits   *own = own_units_of(campaign);
	uint32		nshards = count_shards(stock);
	uint32		in_flight = 0;

	for (uint32 i = 0; i < nshards; i++)
	{
		CouponShard *shard = get_shard(stock, i);

		if (!is_ready(shard))
			return COUPON_IN_FLIGHT;
		if (pg_atomic_read_u32(&shard->free) > 0)
			return COUPON_LOOK_AGAIN;
		COUPON_FAULT(none_free);
		pg_read_barrier();		/* who takes lowers free last, who frees
								 * raises it first */
		in_flight += pg_atomic_read_u32(&shard->in_flight);
	}

	/* what this transaction itself holds is not decided by waiting */
	if (in_flight > own->in_flight)
		/* nobody wakes those who are the last to hold something */
		return own->in_flight == 0 ? COUPON_IN_FLIGHT : COUPON_UNSETTLED;
	if (undecided)
		return COUPON_UNSETTLED;
	if (own->returning > 0)
		return COUPON_COMING_BACK;

	for (uint32 i = 0; i < nshards && own->in_flight == 0; i++)
	{
		CouponShard *shard = get_shard(stock, i);

		/* also while another session is at it: it may find one that is free */
		if (pg_atomic_read_u32(&shard->unchecked) != SHARD_CHECKED &&
			coupon_stock_recheck(campaign, stock, shard, 0, shard->units - 1) > 0)
			return COUPON_UNSETTLED;
	}

	COUPON_FAULT(units_gone);
	pg_read_barrier();
	if (pg_atomic_read_u64(&stock->supply) != supply)
		return COUPON_LOOK_AGAIN;
	if (own->in_flight == 0)
		pg_atomic_write_u64(&stock->sold_out_at, supply);
	return COUPON_ALL_GONE;
}

bool
coupon_stock_settled(CouponStock *stock)
{
	return pg_atomic_read_u64(&stock->sold_out_at) == pg_atomic_read_u64(&stock->supply);
}

bool
coupon_stock_sold_out(CouponCampaign *campaign, const CouponDefinition *def, TimestampTz now)
{
	CouponStock *stock;

	/*
	 * holds first: one that is taken over voids the verdict, then it is no
	 * hold any more
	 */
	if (!DsaPointerIsValid(campaign->stock) || coupon_stock_may_lapse(campaign, now))
		return false;
	pg_read_barrier();
	stock = stock_of(campaign);
	/* a verdict says nothing of units that the map has yet to hear of */
	return coupon_stock_settled(stock) && count_shards(stock) >= (uint32) def->nshards &&
		(!def->shared || coupon_stock_gone_everywhere(stock));
}

bool
coupon_stock_gone_everywhere(CouponStock *stock)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz until = (TimestampTz) pg_atomic_read_u64(&stock->gone_until);

	pg_read_barrier();			/* gone_at is written before it */
	/* nor is it said for longer when the clock was set back */
	if (now < until && until - now <= COUPON_GONE_MS * INT64CONST(1000) &&
		pg_atomic_read_u64(&stock->gone_at) == pg_atomic_read_u64(&stock->supply))
	{
		/* as long as somebody asks it is found out anew in time */
		if (until - now > COUPON_GONE_MS * INT64CONST(1000) / 2)
			return true;
		if (pg_atomic_exchange_u32(&stock->wanted, 1) == 0)
			coupon_wake(COUPON_TRANSFER);
		return true;
	}
	pg_atomic_write_u32(&stock->wanted, 1);
	coupon_wake(COUPON_TRANSFER);
	return false;
}

bool
coupon_stock_wait(CouponStock *stock, CouponVerdict verdict, int wait_ms, TimestampTz *deadline)
{
	TimestampTz now = GetCurrentTimestamp();
	long		left_ms;

	if (verdict == COUPON_LOOK_AGAIN)
		return true;
	if (verdict == COUPON_COMING_BACK)
		return false;
	if (*deadline == 0)
		*deadline = TimestampTzPlusMilliseconds(now, wait_ms);
	left_ms = coupon_ms_until(*deadline, now, wait_ms);
	if (left_ms <= 0)
		return false;
	if (verdict == COUPON_UNSETTLED)
		left_ms = Min(left_ms, UNSETTLED_SLICE_MS);
	coupon_stat_tally(COUPON_TALLY_WAITS);
	/* the first of a series joins the waiters and returns at once */
	(void) ConditionVariableTimedSleep(&stock->changed, left_ms, coupon_stock_wait_event());
	pg_memory_barrier();		/* who wakes looks for waiters after its
								 * change */
	return true;
}

/* ---- holds that run out ---- */

void
coupon_stock_note_hold(CouponStock *stock, TimestampTz held_until)
{
	SpinLockAcquire(&stock->lapse_lock);
	stock->holds_noted++;
	if (held_until < (TimestampTz) pg_atomic_read_u64(&stock->lapse_at))
		pg_atomic_write_u64(&stock->lapse_at, (uint64) held_until);
	SpinLockRelease(&stock->lapse_lock);
}

bool
coupon_stock_may_lapse(CouponCampaign *campaign, TimestampTz now)
{
	return DsaPointerIsValid(campaign->stock) &&
		(TimestampTz) pg_atomic_read_u64(&stock_of(campaign)->lapse_at) <= now;
}

uint64
coupon_stock_holds_noted(CouponStock *stock, TimestampTz *from)
{
	uint64		noted;

	SpinLockAcquire(&stock->lapse_lock);
	noted = stock->holds_noted;
	*from = (TimestampTz) pg_atomic_read_u64(&stock->lapse_at);
	SpinLockRelease(&stock->lapse_lock);
	return noted;
}

void
coupon_stock_next_lapse(CouponStock *stock, uint64 noted, TimestampTz next)
{
	SpinLockAcquire(&stock->lapse_lock);
	if (stock->holds_noted == noted)
		pg_atomic_write_u64(&stock->lapse_at, (uint64) next);
	SpinLockRelease(&stock->lapse_lock);
}

/* ---- counting ---- */

void
coupon_stock_sum(CouponCampaign *campaign, CouponStock *stock, CouponStockSum *sum)
{
	uint32		nshards = count_shards(stock);

	memset(sum, 0, sizeof(*sum));
	for (uint32 i = 0; i < nshards; i++)
	{
		CouponShard *shard = get_shard(stock, i);
		uint32		free;
		uint32		in_flight;

		coupon_stock_make_ready(campaign, stock, shard);

		/*
		 * counted without a lock; a unit taken and returned is in flight
		 * twice
		 */
		free = Min(pg_atomic_read_u32(&shard->free), (uint32) shard->units);
		in_flight = Min(pg_atomic_read_u32(&shard->in_flight), shard->units - free);
		sum->units += shard->units;
		sum->free += free;
		sum->in_flight += in_flight;
	}
}

bool
coupon_stock_exceeds(CouponCampaign *campaign, CouponStock *stock, int64 wanted, bool build)
{
	uint32		nshards = count_shards(stock);

	for (;;)
	{
		CouponShard *unread = NULL;
		int64		found = 0;

		for (uint32 i = 0; i < nshards && found <= wanted; i++)
		{
			CouponShard *shard = get_shard(stock, i);
			uint32		free;

			if (!is_ready(shard))
			{
				unread = shard;
				continue;
			}

			/*
			 * free first: a unit taken meanwhile is counted twice, not left
			 * out
			 */
			free = Min(pg_atomic_read_u32(&shard->free), (uint32) shard->units);
			pg_read_barrier();
			found += Min(free + pg_atomic_read_u32(&shard->in_flight), (uint32) shard->units);
		}
		if (found > wanted || unread == NULL || !build)
			return found > wanted;
		coupon_stock_make_ready(campaign, stock, unread);
	}
}
