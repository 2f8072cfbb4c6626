/*
 * statistics.c
 *	  What the front has done, and what it is doing, of all its workers.
 *
 * Counters in shared memory, which only rise until the server ends: three
 * atomic additions for an answer.  What is open is a number of each worker's
 * own, which it writes anew after every turn, so that a worker that ends
 * leaves nothing behind once the next one has begun.
 */
#include "postgres.h"

#include <math.h>

#include "funcapi.h"
#include "port/atomics.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/tuplestore.h"

#include "base/compat.h"
#include "front/route.h"
#include "front/settings.h"
#include "front/statistics.h"

PG_FUNCTION_INFO_V1(coupon_http_statistics);

#define MAX_STATUS		600

/* What kind of call it was; the times of different kinds say different things. */
typedef enum Way
{
	WAY_BATCHED,				/* a route's batched function */
	WAY_PLAIN,					/* a route's plain function */
	WAY_WAITED,					/* either, with an answer that was waited for */
	WAY_STREAM,					/* events: until the first */
	WAY_OPERATOR,				/* /metrics, the board, and other routes of
								 * the operator */
	WAY_FRONT,					/* what the front answers by itself */
	WAYS
} Way;

static const char *const way_names[WAYS] = {"batched", "plain", "waited", "stream", "operator", "front"};

static const char *const refusal_names[COUPON_REFUSALS] = {"rate", "full", "size"};

/*
 * Upper ends of the histograms' intervals, in microseconds; the last one has
 * none.  An interval is at most 1.7 times as wide as its lower end, so a
 * percentile that is read from them is that exact at worst.
 */
static const int uppers[] = {
	100, 150, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000, 7000,
	10000, 15000, 20000, 30000, 50000, 70000, 100000, 150000, 200000, 300000, 500000, 700000,
	1000000, 1500000, 2000000, 3000000, 5000000, 10000000
};

#define INTERVALS		(lengthof(uppers) + 1)

/* Of one way, since the server started. */
typedef struct Times
{
	pg_atomic_uint64 calls[INTERVALS];
	pg_atomic_uint64 microseconds;	/* all together */
} Times;

/* What one worker has open; it alone writes it. */
typedef struct Open
{
	pg_atomic_uint32 connections;
	pg_atomic_uint32 waiting;
	pg_atomic_uint32 streams;
	char		padding[PG_CACHE_LINE_SIZE - 3 * sizeof(pg_atomic_uint32)];
} Open;

typedef struct Statistics
{
	pg_atomic_uint64 answers[MAX_STATUS];	/* by status */
	pg_atomic_uint64 refused[COUPON_REFUSALS];
	pg_atomic_uint64 slowest;	/* microseconds */
	Times		times[WAYS];
	Open		open[MAX_HTTP_WORKERS];
} Statistics;

static Statistics *statistics = NULL;

static void
request(void)
{
	RequestAddinShmemSpace(sizeof(Statistics));
}

static void
startup(void)
{
	bool		found;

	statistics = coupon_shmem_struct("coupon http statistics", sizeof(Statistics), &found);
	if (found)
		return;
	for (int status = 0; status < MAX_STATUS; status++)
		pg_atomic_init_u64(&statistics->answers[status], 0);
	for (int why = 0; why < COUPON_REFUSALS; why++)
		pg_atomic_init_u64(&statistics->refused[why], 0);
	pg_atomic_init_u64(&statistics->slowest, 0);
	for (int way = 0; way < WAYS; way++)
	{
		for (size_t i = 0; i < INTERVALS; i++)
			pg_atomic_init_u64(&statistics->times[way].calls[i], 0);
		pg_atomic_init_u64(&statistics->times[way].microseconds, 0);
	}
	for (int worker = 0; worker < MAX_HTTP_WORKERS; worker++)
	{
		pg_atomic_init_u32(&statistics->open[worker].connections, 0);
		pg_atomic_init_u32(&statistics->open[worker].waiting, 0);
		pg_atomic_init_u32(&statistics->open[worker].streams, 0);
	}
}

const CouponModule coupon_statistics_module = {.request = request,.startup = startup};

/* ---- counting ---- */

static Way
way_of(const CouponHttpCall *call)
{
	if (call->events != NULL)
		return WAY_STREAM;
	/* a route that was read anew since is not there any more */
	if (call->route == NULL || call->generation != coupon_route_generation())
		return WAY_FRONT;
	if (call->route->is_admin)
		return WAY_OPERATOR;
	if (call->tries > 0)
		return WAY_WAITED;
	return call->route->batched ? WAY_BATCHED : WAY_PLAIN;
}

/* The interval that a time is in. */
static int
interval_of(uint64 us)
{
	int			low = 0;
	int			high = INTERVALS - 1;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (us <= (uint64) uppers[middle])
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

void
coupon_statistics_answered(const CouponHttpCall *call)
{
	Times	   *times = &statistics->times[way_of(call)];
	uint64		slowest = pg_atomic_read_u64(&statistics->slowest);
	instr_time	took;
	uint64		us;

	INSTR_TIME_SET_CURRENT(took);
	INSTR_TIME_SUBTRACT(took, call->arrived);
	us = INSTR_TIME_GET_MICROSEC(took);
	pg_atomic_fetch_add_u64(&statistics->answers[call->status >= 100 && call->status < MAX_STATUS ? call->status : 0], 1);
	pg_atomic_fetch_add_u64(&times->calls[interval_of(us)], 1);
	pg_atomic_fetch_add_u64(&times->microseconds, us);
	while (slowest < us && !pg_atomic_compare_exchange_u64(&statistics->slowest, &slowest, us))
		;
}

void
coupon_statistics_refused(CouponRefusal why)
{
	pg_atomic_fetch_add_u64(&statistics->refused[why], 1);
}

void
coupon_statistics_open(int worker, int connections, int waiting, int streams)
{
	Open	   *open = &statistics->open[worker];

	pg_atomic_write_u32(&open->connections, connections);
	pg_atomic_write_u32(&open->waiting, waiting);
	pg_atomic_write_u32(&open->streams, streams);
}

/* ---- reading ---- */

uint64
coupon_statistics_class(int digit)
{
	uint64		sum = 0;

	for (int status = digit * 100; status < (digit + 1) * 100 && status < MAX_STATUS; status++)
		sum += pg_atomic_read_u64(&statistics->answers[status]);
	return sum;
}

void
coupon_statistics_times(double *average_ms, double *slowest_ms)
{
	uint64		calls = 0;
	uint64		us = 0;

	for (int way = 0; way < WAYS; way++)
	{
		us += pg_atomic_read_u64(&statistics->times[way].microseconds);
		for (size_t i = 0; i < INTERVALS; i++)
			calls += pg_atomic_read_u64(&statistics->times[way].calls[i]);
	}
	*average_ms = calls == 0 ? 0 : us / 1000.0 / calls;
	*slowest_ms = pg_atomic_read_u64(&statistics->slowest) / 1000.0;
}

/* A row; label and upper end may be none (NULL, and NaN). */
static void
put(ReturnSetInfo *rsinfo, const char *name, const char *label, double upper, double value)
{
	Datum		values[4];
	bool		nulls[4] = {false, label == NULL, isnan(upper), false};

	values[0] = CStringGetTextDatum(name);
	values[1] = label == NULL ? (Datum) 0 : CStringGetTextDatum(label);
	values[2] = Float8GetDatum(upper);
	values[3] = Float8GetDatum(value);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
put_times(ReturnSetInfo *rsinfo, int way)
{
	Times	   *times = &statistics->times[way];
	uint64		calls = 0;

	for (size_t i = 0; i < INTERVALS; i++)
	{
		calls += pg_atomic_read_u64(&times->calls[i]);
		put(rsinfo, "duration", way_names[way],
			i < lengthof(uppers) ? uppers[i] / 1e6 : get_float8_infinity(), (double) calls);
	}
	put(rsinfo, "duration_sum", way_names[way], get_float8_nan(),
		pg_atomic_read_u64(&times->microseconds) / 1e6);
}

static void
put_open(ReturnSetInfo *rsinfo)
{
	uint64		connections = 0;
	uint64		waiting = 0;
	uint64		streams = 0;

	for (int i = 0; i < coupon_http_workers; i++)
	{
		connections += pg_atomic_read_u32(&statistics->open[i].connections);
		waiting += pg_atomic_read_u32(&statistics->open[i].waiting);
		streams += pg_atomic_read_u32(&statistics->open[i].streams);
	}
	put(rsinfo, "connections", NULL, get_float8_nan(), (double) connections);
	put(rsinfo, "waiting", NULL, get_float8_nan(), (double) waiting);
	put(rsinfo, "streams", NULL, get_float8_nan(), (double) streams);
}

/*
 * coupon_http_statistics(OUT name text, OUT label text, OUT upper double
 * precision, OUT value double precision): answers by status, refusals by their
 * reason, durations by way (how many took no longer than upper, in seconds),
 * their sums, and what is open.
 */
Datum
coupon_http_statistics(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	coupon_shmem_attach();
	InitMaterializedSRF(fcinfo, 0);
	for (int status = 0; status < MAX_STATUS; status++)
	{
		uint64		n = pg_atomic_read_u64(&statistics->answers[status]);
		char		label[12];

		snprintf(label, sizeof(label), "%d", status);
		if (n > 0)
			put(rsinfo, "answers", label, get_float8_nan(), (double) n);
	}
	for (int why = 0; why < COUPON_REFUSALS; why++)
		put(rsinfo, "refused", refusal_names[why], get_float8_nan(),
			(double) pg_atomic_read_u64(&statistics->refused[why]));
	for (int way = 0; way < WAYS; way++)
		put_times(rsinfo, way);
	put_open(rsinfo);
	return (Datum) 0;
}
