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

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/guc.h"
#include "base/intent.h"
#include "sale/stock.h"

/* how often to look at what nobody will wake us for: a foreign transaction */
#define UNSETTLED_SLICE_MS	20

/* a session whose own shard is not built builds it in one of so many calls */
#define BUILD_EVERY			8

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

static uint32
wait_event(void)
{
	static uint32 event = 0;

	if (event == 0)
		event = coupon_wait_event("CouponUnitInFlight");
	return event;
}

CouponStock *
coupon_stock_known(CouponCampaign *campaign)
{
	return stock_of(campaign);
}

/* ---- intents ---- */

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

/* A unit taken to be held: gone at commit, free again at abort. */
static void
resolve_hold(CouponIntent *intent, bool committed)
{
	CouponStock *stock = stock_of(intent->campaign);

	if (!committed)
		clear_bit(stock, intent->shard, intent->number);
	land(intent->campaign, stock, intent->shard, !committed);
}

/* A unit taken to be issued. */
static void
resolve_take(CouponIntent *intent, bool committed)
{
	if (committed)
		pg_atomic_fetch_add_u64(&intent->campaign->answers[COUPON_ISSUED], 1);
	resolve_hold(intent, committed);
}

/*
 * A unit of which this transaction has deleted one row to insert another: at
 * abort the old row is there again.
 */
static void
resolve_inherit_hold(CouponIntent *intent, bool committed)
{
	land(intent->campaign, stock_of(intent->campaign), intent->shard, false);
}

static void
resolve_inherit(CouponIntent *intent, bool committed)
{
	if (committed)
		pg_atomic_fetch_add_u64(&intent->campaign->answers[COUPON_ISSUED], 1);
	resolve_inherit_hold(intent, committed);
}

/* A unit taken in vain: free again in any case. */
static void
resolve_vain(CouponIntent *intent, bool committed)
{
	CouponStock *stock = stock_of(intent->campaign);

	clear_bit(stock, intent->shard, intent->number);
	land(intent->campaign, stock, intent->shard, true);
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

/* What a unit that this transaction has taken is recorded as. */
static const CouponResolver takes[] = {
	resolve_take, resolve_hold, resolve_inherit, resolve_inherit_hold
};

/* The newest, where a unit was taken and then inherited. */
static CouponIntent *
find_take(CouponCampaign *campaign, const CouponUnit *unit)
{
	CouponIntent *newest = NULL;

	for (size_t i = 0; i < lengthof(takes); i++)
	{
		CouponIntent *intent = coupon_intent_find(takes[i], campaign, unit->shard, unit->bit);

		if (newest == NULL || (intent != NULL && intent > newest))
			newest = intent;
	}
	return newest;
}

static uint32
count_mine(CouponCampaign *campaign)
{
	uint32		count = 0;

	for (size_t i = 0; i < lengthof(takes); i++)
		count += coupon_intent_count(takes[i], campaign);
	return count;
}

static void
set_unit(CouponUnit *unit, CouponShard *shard, uint32 bit)
{
	unit->shard = shard;
	unit->bit = bit;
	unit->shard_number = shard->number;
	unit->serial = shard->first_serial + bit;
}

/* ---- taking ---- */

/* Takes up to n units of a shard.  Nothing in here can throw. */
static int
take_from_shard(CouponCampaign *campaign, CouponShard *shard, CouponPurpose purpose, int n,
				CouponUnit *units)
{
	CouponResolver resolver = purpose == COUPON_TO_HOLD ? resolve_hold : resolve_take;
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

				got &= got - 1;
				pg_atomic_fetch_add_u32(&shard->in_flight, 1);
				pg_atomic_fetch_sub_u32(&shard->free, 1);
				pg_atomic_fetch_add_u32(&campaign->pins, 1);
				coupon_intent_push(resolver, campaign, shard, bit);
				set_unit(&units[taken++], shard, bit);
			}
			if (taken > 0 && at != start)
				pg_atomic_write_u32(&shard->cursor, at);
		}
	}
	return taken;
}

/*
 * The shard at which this session begins: one of its own, so that neighbouring
 * processes are far apart.  While that one is not built, mostly the one that
 * was built last, so that of thousands of campaigns that are used now and
 * then not every shard is read from the index.
 */
static uint32
choose_home(CouponStock *stock, uint32 nshards)
{
	static uint32 visits = 0;
	uint32		home = (coupon_my_proc_number() * 2654435761U) % nshards;
	uint32		built = pg_atomic_read_u32(&stock->built);

	if (is_ready(get_shard(stock, home)) || built >= nshards || ++visits % BUILD_EVERY == 0)
		return home;
	if (is_ready(get_shard(stock, built)) &&
		pg_atomic_read_u32(&get_shard(stock, built)->free) > 0)
		return built;
	return home;
}

/* One walk over all shards, from the session's own. */
static int
take_from_shards(CouponCampaign *campaign, CouponStock *stock, CouponPurpose purpose, int n,
				 CouponUnit *units)
{
	uint32		nshards = count_shards(stock);
	uint32		home;
	int			taken = 0;

	if (nshards == 0)
		return 0;
	home = choose_home(stock, nshards);

	for (uint32 i = 0; i < nshards && taken < n; i++)
	{
		CouponShard *shard = get_shard(stock, (home + i) % nshards);

		if (pg_atomic_read_u32(&shard->state) == 0)
			coupon_stock_build_shard(campaign, stock, shard);
		if (is_ready(shard) && pg_atomic_read_u32(&shard->free) > 0)
			taken += take_from_shard(campaign, shard, purpose, n - taken, units + taken);
	}
	return taken;
}

typedef enum Verdict
{
	ALL_GONE,
	LOOK_AGAIN,					/* a unit is or was free since the walk */
	IN_FLIGHT,					/* it depends on sessions that will wake us */
	COMING_BACK,				/* it comes back with our own commit */
	UNSETTLED					/* it depends on somebody who will not */
} Verdict;

/* Units that this transaction's own commit will free. */
static uint32
count_coming_back(CouponCampaign *campaign)
{
	return coupon_intent_count(resolve_return, campaign) +
		coupon_intent_count(resolve_vain, campaign);
}

/* A walk over all shards, every one of them ready, found nothing.  Why? */
static Verdict
judge(CouponCampaign *campaign, CouponStock *stock)
{
	uint32		nshards = count_shards(stock);
	uint64		supply = pg_atomic_read_u64(&stock->supply);
	uint32		in_flight = 0;
	uint32		mine;
	uint32		coming_back;

	for (uint32 i = 0; i < nshards; i++)
	{
		CouponShard *shard = get_shard(stock, i);

		if (!is_ready(shard))
			return IN_FLIGHT;
		if (pg_atomic_read_u32(&shard->free) > 0)
			return LOOK_AGAIN;
		in_flight += pg_atomic_read_u32(&shard->in_flight);
	}

	/* what this transaction itself holds is not decided by waiting */
	mine = count_mine(campaign);
	coming_back = count_coming_back(campaign);
	if (in_flight > mine + coming_back)
		/* nobody wakes those who are the last to hold something */
		return mine + coming_back == 0 ? IN_FLIGHT : UNSETTLED;
	if (coming_back > 0)
		return COMING_BACK;

	if (mine == 0)
	{
		for (uint32 i = 0; i < nshards; i++)
		{
			CouponShard *shard = get_shard(stock, i);

			if (pg_atomic_read_u32(&shard->unchecked) == 1 &&
				coupon_stock_recheck_shard(campaign, stock, shard) > 0)
				return UNSETTLED;
		}
	}

	if (pg_atomic_read_u64(&stock->supply) != supply)
		return LOOK_AGAIN;
	if (mine == 0)
		pg_atomic_write_u64(&stock->sold_out_at, supply);
	return ALL_GONE;
}

static bool
is_sold_out(CouponCampaign *campaign, CouponStock *stock)
{
	return pg_atomic_read_u64(&stock->sold_out_at) == pg_atomic_read_u64(&stock->supply) &&
		count_coming_back(campaign) == 0;
}

bool
coupon_stock_settled(CouponCampaign *campaign, CouponStock *stock)
{
	pg_memory_barrier();		/* after what the caller has announced */
	return is_sold_out(campaign, stock) && sum_in_flight(stock) == 0 &&
		is_sold_out(campaign, stock);
}

bool
coupon_stock_sold_out(CouponCampaign *campaign, const CouponDefinition *def)
{
	CouponStock *stock;

	if (!DsaPointerIsValid(campaign->stock))
		return false;
	stock = stock_of(campaign);
	/* a verdict says nothing of units that the map has yet to hear of */
	return is_sold_out(campaign, stock) && count_shards(stock) >= (uint32) def->nshards;
}

/*
 * Sleeps until something changes, at most max_ms, or the deadline, which the
 * first call sets.  False if it has passed.  The first sleep of a series
 * returns at once, so that the caller looks again after joining the waiters.
 */
static bool
wait_for_change(CouponStock *stock, int wait_ms, long max_ms, TimestampTz *deadline)
{
	TimestampTz now = GetCurrentTimestamp();
	long		left_ms;

	if (*deadline == 0)
		*deadline = TimestampTzPlusMilliseconds(now, wait_ms);
	left_ms = TimestampDifferenceMilliseconds(now, *deadline);
	if (left_ms <= 0)
		return false;
	(void) ConditionVariableTimedSleep(&stock->changed, Min(left_ms, max_ms),
									   wait_event());
	return true;
}

int
coupon_stock_take(CouponCampaign *campaign, CouponStock *stock, CouponPurpose purpose, int n,
				  int wait_ms, CouponUnit *units, CouponShortage *why)
{
	TimestampTz deadline = 0;
	int			taken = 0;

	*why = COUPON_NO_SHORTAGE;
	coupon_intent_reserve(n);

	while (*why == COUPON_NO_SHORTAGE && !is_sold_out(campaign, stock))
	{
		Verdict		verdict;

		CHECK_FOR_INTERRUPTS();
		taken += take_from_shards(campaign, stock, purpose, n - taken, units + taken);
		if (taken == n)
			break;

		verdict = judge(campaign, stock);
		if (verdict == ALL_GONE)
			*why = COUPON_SHORT_SOLD_OUT;
		else if (verdict == COMING_BACK)
			*why = COUPON_SHORT_BUSY;
		else if (verdict != LOOK_AGAIN &&
				 !wait_for_change(stock, wait_ms,
								  verdict == UNSETTLED ? UNSETTLED_SLICE_MS : MAX_SOLD_OUT_WAIT,
								  &deadline))
			*why = COUPON_SHORT_BUSY;
	}
	if (taken < n && *why == COUPON_NO_SHORTAGE)
		*why = COUPON_SHORT_SOLD_OUT;

	if (deadline != 0)
		ConditionVariableCancelSleep();
	return taken;
}

/* ---- taking a certain unit ---- */

static void
make_ready(CouponCampaign *campaign, CouponStock *stock, CouponShard *shard)
{
	if (is_ready(shard))
		return;
	do
	{
		coupon_stock_build_shard(campaign, stock, shard);
		if (!is_ready(shard))	/* another session is at it */
			(void) ConditionVariableTimedSleep(&stock->changed, 10, wait_event());
	} while (!is_ready(shard));
	ConditionVariableCancelSleep();
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
	make_ready(campaign, stock, shard);
	coupon_intent_reserve(1);

	bit = serial - shard->first_serial;
	mask = UINT64CONST(1) << (bit % 64);
	word = &get_words(shard)[bit / 64];
	set_unit(unit, shard, bit);
	if ((pg_atomic_read_u64(word) & mask) || (pg_atomic_fetch_or_u64(word, mask) & mask))
		return false;
	pg_atomic_fetch_add_u32(&shard->in_flight, 1);
	pg_atomic_fetch_sub_u32(&shard->free, 1);
	pg_atomic_fetch_add_u32(&campaign->pins, 1);
	coupon_intent_push(resolve_hold, campaign, shard, bit);
	return true;
}

void
coupon_stock_heal(CouponCampaign *campaign, CouponStock *stock, const CouponUnit *unit)
{
	if (pg_atomic_read_u32(&unit->shard->in_flight) == 0)
		(void) coupon_stock_recheck_shard(campaign, stock, unit->shard);
}

void
coupon_stock_inherit(CouponCampaign *campaign, CouponStock *stock, CouponPurpose purpose,
					 int64 serial, CouponUnit *unit)
{
	CouponShard *shard = find_shard(stock, serial);

	if (shard == NULL)
		elog(ERROR, "serial %lld is outside the shards", (long long) serial);
	coupon_intent_reserve(1);
	set_unit(unit, shard, serial - shard->first_serial);
	pg_atomic_fetch_add_u32(&shard->in_flight, 1);
	pg_atomic_fetch_add_u32(&campaign->pins, 1);
	coupon_intent_push(purpose == COUPON_TO_HOLD ? resolve_inherit_hold : resolve_inherit,
					   campaign, shard, unit->bit);
}

bool
coupon_stock_has_mine(CouponCampaign *campaign)
{
	return count_mine(campaign) + count_coming_back(campaign) > 0;
}

/* ---- holds that run out ---- */

void
coupon_stock_note_hold(CouponStock *stock, TimestampTz held_until)
{
	uint64		known;

	pg_memory_barrier();		/* the row is in the index before this look */
	known = pg_atomic_read_u64(&stock->lapse_at);
	while ((TimestampTz) known > held_until &&
		   !pg_atomic_compare_exchange_u64(&stock->lapse_at, &known, (uint64) held_until))
		;
}

bool
coupon_stock_may_lapse(CouponCampaign *campaign, TimestampTz now)
{
	return DsaPointerIsValid(campaign->stock) &&
		(TimestampTz) pg_atomic_read_u64(&stock_of(campaign)->lapse_at) <= now;
}

void
coupon_stock_begin_lapse(CouponStock *stock)
{
	pg_atomic_exchange_u64(&stock->lapse_at, (uint64) DT_NOEND);
}

/* ---- giving back ---- */

void
coupon_stock_put_back(CouponCampaign *campaign, const CouponUnit *unit)
{
	coupon_intent_finish(find_take(campaign, unit), false);
}

void
coupon_stock_give_back(CouponCampaign *campaign, const CouponUnit *unit)
{
	CouponIntent *intent = find_take(campaign, unit);

	/* where a row was deleted, an abort brings it back */
	if (intent->resolve == resolve_inherit || intent->resolve == resolve_inherit_hold)
		intent->resolve = resolve_return;
	else
		intent->resolve = resolve_vain;
}

void
coupon_stock_disown(CouponCampaign *campaign, const CouponUnit *unit)
{
	coupon_intent_forget(find_take(campaign, unit));
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
		uint32		free;
		uint32		in_flight;

		while (!is_ready(shard))
		{
			coupon_stock_build_shard(campaign, stock, shard);
			if (!is_ready(shard))	/* another session is at it */
				(void) ConditionVariableTimedSleep(&stock->changed, 10,
												   wait_event());
		}
		/* counted without a lock; a unit taken and returned is in flight twice */
		free = Min(pg_atomic_read_u32(&shard->free), (uint32) shard->units);
		in_flight = Min(pg_atomic_read_u32(&shard->in_flight), shard->units - free);
		sum->units += shard->units;
		sum->free += free;
		sum->in_flight += in_flight;
	}
	ConditionVariableCancelSleep();
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
			/* free first: a unit taken meanwhile is counted twice, not left out */
			free = Min(pg_atomic_read_u32(&shard->free), (uint32) shard->units);
			pg_read_barrier();
			found += Min(free + pg_atomic_read_u32(&shard->in_flight), (uint32) shard->units);
		}
		if (found > wanted || unread == NULL || !build)
		{
			if (build)
				ConditionVariableCancelSleep();
			return found > wanted;
		}
		coupon_stock_build_shard(campaign, stock, unread);
		if (!is_ready(unread))	/* another session is at it */
			(void) ConditionVariableTimedSleep(&stock->changed, 10, wait_event());
	}
}
