/*
 * stat.c
 *	  Statistics: counters and histograms in shared memory, and what a running
 *	  transaction will have counted.
 *
 * Each database has counters of its own, from the first call in it on; those
 * that come when all places are taken share one.  A place is kept until the
 * server ends.
 *
 * A call of a way that is counted with its transaction is remembered until
 * that ends: committed it counts by its outcome, rolled back, whether by a
 * savepoint or as a whole, as aborted.  How long it took is from its start, or
 * its statement's, to that end, the commit's flush and a synchronous standby included.  Calls are
 * remembered one by one as long as they are few; many of one transaction are
 * summed by way, outcome and savepoint, as long as the first of them.
 *
 * Concurrency: counters are atomics that nobody reads but to tell; each
 * processor has its stripe of them, so that no cache line goes to and fro.  A place is
 * taken by a compare-and-exchange of its database.  The callbacks of the
 * transaction never allocate and never throw.
 */
#include "postgres.h"

#ifdef __linux__
#include <sched.h>
#endif

#include "access/xact.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "storage/shmem.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "base/stat.h"

#define PLACES			8		/* and one for all others */
#define STRIPES			8
#define COMMIT_SAMPLE	8		/* of so many commits one is timed */
#define FEW				1024	/* calls of a transaction that are remembered
								 * one by one */
#define KEPT			4096	/* a larger array is freed at the end */
#define WINDOW			64		/* so far back the same is looked for */

#define ABORTED			COUPON_MAX_OUTCOMES /* as an outcome */
#define FIRST_ERROR		(ABORTED + 1)
#define WAY_COUNTERS	((int) (sizeof(CouponWaySum) / sizeof(uint64)))
#define COUNTER(field)	((int) (offsetof(CouponWaySum, field) / sizeof(uint64)))

const int	coupon_stat_uppers[COUPON_STAT_INTERVALS - 1] = {
	10, 15, 20, 30, 50, 70,
	100, 150, 200, 300, 500, 700,
	1000, 1500, 2000, 3000, 5000, 7000,
	10000, 15000, 20000, 30000, 50000, 70000,
	100000, 150000, 200000, 300000, 500000, 700000,
	1000000, 1500000, 2000000, 3000000, 5000000, 7000000,
	10000000, 15000000, 20000000, 30000000, 60000000
};

const char *const coupon_stat_classes[COUPON_STAT_CLASSES] = {
	"08", "0A", "22", "23", "25", "28", "40", "42", "53", "54", "55", "57", "58", "P0", "UC", "XX",
	"other"
};

CouponWay  *const *coupon_ways = NULL;

/* ---- shared memory ---- */

typedef struct Stripe
{
	pg_atomic_uint64 ways[COUPON_MAX_WAYS][WAY_COUNTERS];
	pg_atomic_uint64 tallies[COUPON_TALLIES];
	char		padding[PG_CACHE_LINE_SIZE];
} Stripe;

typedef struct Place
{
	pg_atomic_uint32 database;	/* its OID; 0: free, and for the last place */
	pg_atomic_uint64 reset_at;	/* a TimestampTz; 0: never */
	Stripe		stripes[STRIPES];
} Place;

static Place *places = NULL;

static void
set_up(void)
{
	for (int i = 0; i <= PLACES; i++)
	{
		Place	   *place = &places[i];

		pg_atomic_init_u32(&place->database, 0);
		pg_atomic_init_u64(&place->reset_at, 0);
		for (int s = 0; s < STRIPES; s++)
		{
			Stripe	   *stripe = &place->stripes[s];

			for (int w = 0; w < COUPON_MAX_WAYS; w++)
			{
				for (int c = 0; c < WAY_COUNTERS; c++)
					pg_atomic_init_u64(&stripe->ways[w][c], 0);
			}
			for (int t = 0; t < COUPON_TALLIES; t++)
				pg_atomic_init_u64(&stripe->tallies[t], 0);
		}
	}
}

/* Without memory nothing is counted: bench/figures/statistics.sh measures that. */
const CouponModule coupon_stat_module = {
#ifndef COUPON_NO_STATISTICS
	.name = "coupon statistics",
	.size = (PLACES + 1) * sizeof(Place),
	.memory = (void **) &places,
#endif
	.set_up = set_up
};

void
coupon_stat_register(CouponWay *const *ways)
{
	int			n = 0;

	coupon_ways = ways;
	for (CouponWay *const *way = ways; *way != NULL; way++)
	{
		Assert(n < COUPON_MAX_WAYS && (*way)->noutcomes <= COUPON_MAX_OUTCOMES);
		(*way)->number = n++;
	}
}

/* This database's.  Never throws. */
static Place *
my_place(void)
{
	static Place *mine = NULL;

	for (int i = 0; mine == NULL && places != NULL && i < PLACES && OidIsValid(MyDatabaseId); i++)
	{
		uint32		database = 0;

		if (pg_atomic_compare_exchange_u32(&places[i].database, &database, MyDatabaseId) ||
			database == MyDatabaseId)
			mine = &places[i];
	}
	return mine != NULL ? mine : places == NULL ? NULL : &places[PLACES];
}

static Stripe *
my_stripe(void)
{
#ifdef __linux__
	int			cpu = sched_getcpu();
#else
	int			cpu = -1;
#endif

	return &my_place()->stripes[(cpu < 0 ? coupon_my_proc_number() : (uint32) cpu) % STRIPES];
}

/* ---- clocks ---- */

/* What has gone by since; a clock that was set back must not make it a century. */
static uint64
since(TimestampTz start, TimestampTz now)
{
	return now < start ? 0 : now - start;
}

/*
 * When a call begins: the first of a statement with its statement, which saves
 * it a look at the clock.
 */
static TimestampTz
start_of_call(void)
{
	static TimestampTz seen = 0;
	TimestampTz statement = GetCurrentStatementStartTimestamp();

	if (statement == seen)
		return GetCurrentTimestamp();
	seen = statement;
	return statement;
}

/* ---- counting at once ---- */

/*
 * The interval that a time is in.  Six make a factor of ten, so nine bits are
 * 16 of them at least: from there it is not far.
 */
static int
interval_of(uint64 us)
{
	int			interval = us < 2 ? 0 : Max(pg_leftmost_one_pos64(us) * 16 / 9 - 6, 0);

	interval = Min(interval, COUPON_STAT_INTERVALS - 1);
	while (interval > 0 && us <= (uint64) coupon_stat_uppers[interval - 1])
		interval--;
	while (interval < COUPON_STAT_INTERVALS - 1 && us > (uint64) coupon_stat_uppers[interval])
		interval++;
	return interval;
}

/* counter: an outcome, ABORTED, or FIRST_ERROR and the number of a class. */
static void
record(int way, int counter, int n, uint64 us)
{
	pg_atomic_uint64 *counters = my_stripe()->ways[way];

	pg_atomic_fetch_add_u64(&counters[counter], n);
	pg_atomic_fetch_add_u64(&counters[COUNTER(intervals) + interval_of(us)], n);
	pg_atomic_fetch_add_u64(&counters[COUNTER(microseconds)], us * n);
}

static int
class_of(int sqlstate)
{
	for (int i = 0; i < COUPON_STAT_CLASSES - 1; i++)
	{
		if (ERRCODE_TO_CATEGORY(sqlstate) ==
			MAKE_SQLSTATE(coupon_stat_classes[i][0], coupon_stat_classes[i][1], '0', '0', '0'))
			return i;
	}
	return COUPON_STAT_CLASSES - 1;
}

void
coupon_stat_tally(CouponTally tally)
{
	if (places != NULL)
		pg_atomic_fetch_add_u64(&my_stripe()->tallies[tally], 1);
}

/* ---- what the running transaction will have counted ---- */

typedef struct Pending
{
	TimestampTz start;
	uint32		n;
	uint8		way;
	uint8		outcome;
	int			level;			/* nesting level of the subtransaction; they
								 * ascend */
} Pending;

static Pending *pending = NULL;
static int	npending = 0;
static int	max_pending = 0;
static bool is_watched = false; /* its commit may be timed */
static TimestampTz commit_began = 0;	/* 0: nothing is being committed */

static const char *const commit_outcomes[] = {"committed"};

CouponWay	coupon_way_commit = {
	.name = "commit",
	.kind = COUPON_WAY_NOW,
	.outcomes = commit_outcomes,
	.noutcomes = lengthof(commit_outcomes)
};

/* The same among the newest before an end of the array, or NULL. */
static Pending *
find_same(int end, const Pending *wanted)
{
	for (int i = end - 1; i >= Max(end - WINDOW, 0); i--)
	{
		Pending    *p = &pending[i];

		if (p->way == wanted->way && p->outcome == wanted->outcome && p->level == wanted->level)
			return p;
	}
	return NULL;
}

/* Those from the end down to a subtransaction's first have come to their end. */
static void
resolve(int level, bool committed, TimestampTz now)
{
	while (npending > 0 && pending[npending - 1].level >= level)
	{
		Pending    *p = &pending[--npending];

		if (committed || coupon_ways[p->way]->kind == COUPON_WAY_TRANSACTION)
			record(p->way, committed ? p->outcome : ABORTED, p->n, since(p->start, now));
	}
}

static void
end_transaction(bool committed)
{
	TimestampTz now = commit_began == 0 && npending == 0 ? 0 : GetCurrentTimestamp();

	if (committed && commit_began != 0)
		record(coupon_way_commit.number, 0, COMMIT_SAMPLE, since(commit_began, now));
	commit_began = 0;
	is_watched = false;
	resolve(0, committed, now);
	if (max_pending > KEPT)
	{
		pfree(pending);
		pending = NULL;
		max_pending = 0;
	}
}

static void
xact_callback(XactEvent event, void *arg)
{
	static uint32 ncommits = 0;

	if (ncommits == 0)
		ncommits = MyProcPid;	/* sessions of one commit are sampled, too */
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (is_watched && TransactionIdIsValid(GetTopTransactionIdIfAny()) &&
				++ncommits % COMMIT_SAMPLE == 0)
				commit_began = GetCurrentTimestamp();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
			end_transaction(true);
			break;
		case XACT_EVENT_ABORT:
			end_transaction(false);
			break;
		default:
			break;
	}
}

/* The parent inherits the tail; of many those that are the same become one. */
static void
hand_to_parent(int level)
{
	int			first = npending;
	int			kept;

	while (first > 0 && pending[first - 1].level >= level)
		pending[--first].level = level - 1;
	if (npending <= FEW)
		return;
	kept = first;
	for (int i = first; i < npending; i++)
	{
		Pending    *same = find_same(kept, &pending[i]);

		if (same != NULL)
			same->n += pending[i].n;
		else
			pending[kept++] = pending[i];
	}
	npending = kept;
}

static void
subxact_callback(SubXactEvent event, SubTransactionId subid,
				 SubTransactionId parent_subid, void *arg)
{
	if (npending == 0)
		return;
	if (event == SUBXACT_EVENT_COMMIT_SUB)
		hand_to_parent(GetCurrentTransactionNestLevel());
	else if (event == SUBXACT_EVENT_ABORT_SUB)
		resolve(GetCurrentTransactionNestLevel(), false, GetCurrentTimestamp());
}

static void
watch_transaction(void)
{
	static bool registered = false;

	if (!registered)
	{
		RegisterXactCallback(xact_callback, NULL);
		RegisterSubXactCallback(subxact_callback, NULL);
		registered = true;
	}
	is_watched = true;
}

static void
remember(const CouponWay *way, int outcome, int n, TimestampTz start)
{
	Pending		new = {start, n, way->number, outcome, GetCurrentTransactionNestLevel()};
	Pending    *same = npending < FEW ? NULL : find_same(npending, &new);

	watch_transaction();
	if (same != NULL)
	{
		same->n += n;
		return;
	}
	if (npending == max_pending)
	{
		int			wanted = Max(max_pending * 2, WINDOW);

		pending = pending == NULL ? MemoryContextAlloc(TopMemoryContext, wanted * sizeof(Pending)) :
			repalloc_huge(pending, mul_size(wanted, sizeof(Pending)));
		max_pending = wanted;
	}
	pending[npending++] = new;
}

/* ---- calls ---- */

/* A counted function at work. */
typedef struct Call
{
	const CouponWay *way;
	TimestampTz start;
} Call;

static const Call *running = NULL;

Datum
coupon_stat_call(FunctionCallInfo fcinfo, const CouponWay *way, PGFunction function)
{
	const Call *outer = running;
	Call		call;
	Datum		result;

	if (places == NULL)
		return function(fcinfo);
	call.way = way;
	call.start = start_of_call();
	PG_TRY();
	{
		running = &call;
		result = function(fcinfo);
	}
	PG_CATCH();
	{
		running = outer;
		record(way->number, FIRST_ERROR + class_of(geterrcode()), 1, since(call.start, GetCurrentTimestamp()));
		PG_RE_THROW();
	}
	PG_END_TRY();
	running = outer;
	return result;
}

void
coupon_stat_outcome(int outcome, int n)
{
	if (running != NULL && n > 0)
		coupon_stat_add(running->way, outcome, n, running->start);
}

void
coupon_stat_error(int sqlstate)
{
	if (running != NULL)
		record(running->way->number, FIRST_ERROR + class_of(sqlstate), 1,
			   since(running->start, GetCurrentTimestamp()));
}

int
coupon_stat_find(const CouponWay *way, const char *outcome)
{
	for (int i = 0; i < way->noutcomes; i++)
	{
		if (way->outcomes[i] != NULL && pg_strcasecmp(way->outcomes[i], outcome) == 0)
			return i;
	}
	Assert(false);
	return -1;
}

void
coupon_stat_add(const CouponWay *way, int outcome, int n, TimestampTz start)
{
	if (places == NULL || outcome < 0)
		return;
	if (way->kind == COUPON_WAY_TRANSACTION || way->kind == COUPON_WAY_COMMITTED)
	{
		remember(way, outcome, n, start);
		return;
	}
	record(way->number, outcome, n, since(start, GetCurrentTimestamp()));
}

void
coupon_stat_add_duration(const CouponWay *way, int outcome, int n, uint64 us)
{
	if (places != NULL)
		record(way->number, outcome, n, us);
}

void
coupon_stat_batch(const CouponWay *way, int n)
{
	pg_atomic_uint64 *counters;
	uint64		largest;

	if (places == NULL || n == 0)
		return;
	watch_transaction();
	counters = my_stripe()->ways[way->number];
	pg_atomic_fetch_add_u64(&counters[COUNTER(batches)], 1);
	pg_atomic_fetch_add_u64(&counters[COUNTER(items)], n);
	largest = pg_atomic_read_u64(&counters[COUNTER(largest)]);
	while (largest < n &&
		   !pg_atomic_compare_exchange_u64(&counters[COUNTER(largest)], &largest, n))
		;
}

/* ---- reading ---- */

void
coupon_stat_read(const CouponWay *way, CouponWaySum *sum)
{
	Place	   *place = my_place();
	uint64	   *values = (uint64 *) sum;
	uint64		largest = 0;

	memset(sum, 0, sizeof(*sum));
	for (int s = 0; s < STRIPES && places != NULL; s++)
	{
		pg_atomic_uint64 *counters = place->stripes[s].ways[way->number];

		for (int c = 0; c < WAY_COUNTERS; c++)
			values[c] += pg_atomic_read_u64(&counters[c]);
		largest = Max(largest, pg_atomic_read_u64(&counters[COUNTER(largest)]));
	}
	sum->largest = largest;
}

uint64
coupon_stat_tallied(CouponTally tally)
{
	Place	   *place = my_place();
	uint64		sum = 0;

	for (int s = 0; s < STRIPES && places != NULL; s++)
		sum += pg_atomic_read_u64(&place->stripes[s].tallies[tally]);
	return sum;
}

TimestampTz
coupon_stat_reset_at(void)
{
	TimestampTz at = places == NULL ? 0 : pg_atomic_read_u64(&my_place()->reset_at);

	return at == 0 ? PgStartTime : at;
}

void
coupon_stat_clear(void)
{
	Place	   *place = my_place();

	if (places == NULL)
		return;
	for (int s = 0; s < STRIPES; s++)
	{
		Stripe	   *stripe = &place->stripes[s];

		for (int w = 0; w < COUPON_MAX_WAYS; w++)
		{
			for (int c = 0; c < WAY_COUNTERS; c++)
				pg_atomic_write_u64(&stripe->ways[w][c], 0);
		}
		for (int t = 0; t < COUPON_TALLIES; t++)
			pg_atomic_write_u64(&stripe->tallies[t], 0);
	}
	pg_atomic_write_u64(&place->reset_at, GetCurrentTimestamp());
}
