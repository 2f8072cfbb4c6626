/*
 * statistics.c
 *	  What the front has done, and what it is doing, of all its workers.
 *
 * Answers are counted as calls of their ways in (base/stat.h).  What is open is
 * a number of each worker's own, which it alone writes, anew after every turn,
 * so that a worker that ends leaves nothing behind once the next one has begun.
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "base/compat.h"
#include "front/route.h"
#include "front/settings.h"
#include "front/statistics.h"

PG_FUNCTION_INFO_V1(coupon_stat_front_workers);

/* The statuses that are counted apart; of others, how they begin. */
static const char *const statuses[] = {
	"200", "201", "202", "204", "206", "2xx",
	"301", "302", "303", "304", "307", "308", "3xx",
	"400", "401", "402", "403", "404", "405", "406", "408", "409", "410", "411", "412", "413", "414",
	"415", "417", "422", "425", "426", "428", "429", "4xx",
	"500", "502", "503", "504", "5xx"
};

StaticAssertDecl(lengthof(statuses) <= COUPON_MAX_OUTCOMES, "too many statuses");

#define HTTP_WAY(what) \
	{.name = what, .kind = COUPON_WAY_NOW, .outcomes = statuses, .noutcomes = lengthof(statuses)}

CouponWay	coupon_way_http = HTTP_WAY("http");
CouponWay	coupon_way_http_waited = HTTP_WAY("http_waited");
CouponWay	coupon_way_http_stream = HTTP_WAY("http_stream");
CouponWay	coupon_way_http_operator = HTTP_WAY("http_operator");
CouponWay	coupon_way_http_front = HTTP_WAY("http_front");

static const CouponWay *const ways[] = {
	&coupon_way_http, &coupon_way_http_waited, &coupon_way_http_stream, &coupon_way_http_operator,
	&coupon_way_http_front
};

/* A worker; it alone writes it. */
typedef struct Worker
{
	pg_atomic_uint32 pid;		/* 0: none runs */
	pg_atomic_uint32 database;	/* an OID; 0: it never ran */
	pg_atomic_uint64 started_at;	/* a TimestampTz */
	pg_atomic_uint64 starts;
	pg_atomic_uint32 connections;
	pg_atomic_uint32 waiting;
	pg_atomic_uint32 streams;
	pg_atomic_uint32 keys;
	slock_t		mutex;			/* of what follows */
	char		troubles[COUPON_DOORS][COUPON_TROUBLE];
	char		padding[PG_CACHE_LINE_SIZE];
} Worker;

typedef struct Statistics
{
	pg_atomic_uint64 slowest;	/* microseconds */
	Worker		workers[MAX_HTTP_WORKERS];
} Statistics;

static Statistics *statistics = NULL;

static void
set_up(void)
{
	pg_atomic_init_u64(&statistics->slowest, 0);
	for (int i = 0; i < MAX_HTTP_WORKERS; i++)
	{
		Worker	   *worker = &statistics->workers[i];

		pg_atomic_init_u32(&worker->pid, 0);
		pg_atomic_init_u32(&worker->database, 0);
		pg_atomic_init_u64(&worker->started_at, 0);
		pg_atomic_init_u64(&worker->starts, 0);
		pg_atomic_init_u32(&worker->connections, 0);
		pg_atomic_init_u32(&worker->waiting, 0);
		pg_atomic_init_u32(&worker->streams, 0);
		pg_atomic_init_u32(&worker->keys, 0);
		SpinLockInit(&worker->mutex);
		memset(worker->troubles, 0, sizeof(worker->troubles));
	}
}

/* Does the front serve this database? */
static bool
is_mine(Worker *worker)
{
	return pg_atomic_read_u32(&worker->database) == MyDatabaseId;
}

static void
reset_statistics(void)
{
	for (int i = 0; i < MAX_HTTP_WORKERS; i++)
	{
		if (!is_mine(&statistics->workers[i]))
			continue;
		pg_atomic_write_u64(&statistics->workers[i].starts, 0);
		pg_atomic_write_u64(&statistics->slowest, 0);
	}
}

const CouponModule coupon_statistics_module = {
	.name = "coupon http statistics",
	.size = sizeof(Statistics),
	.memory = (void **) &statistics,
	.set_up = set_up,
	.reset_statistics = reset_statistics
};

/* ---- what keeps HTTP from working ---- */

void
coupon_statistics_keys(int number, int keys)
{
	pg_atomic_write_u32(&statistics->workers[number].keys, keys);
}

void
coupon_statistics_trouble(int number, int door, const char *why)
{
	Worker	   *worker = &statistics->workers[number];
	char		copy[COUPON_TROUBLE];

	strlcpy(copy, why ? why : "", sizeof(copy));
	/* databases differ in their encodings, and it may have been cut */
	for (char *c = copy; *c != '\0'; c++)
	{
		if (IS_HIGHBIT_SET(*c))
			*c = '?';
	}
	SpinLockAcquire(&worker->mutex);
	memcpy(worker->troubles[door], copy, sizeof(copy));
	SpinLockRelease(&worker->mutex);
}

char *
coupon_statistics_first_trouble(int door)
{
	char		copy[COUPON_TROUBLE];

	for (int i = 0; i < MAX_HTTP_WORKERS; i++)
	{
		Worker	   *worker = &statistics->workers[i];

		SpinLockAcquire(&worker->mutex);
		memcpy(copy, worker->troubles[door], sizeof(copy));
		SpinLockRelease(&worker->mutex);
		if (copy[0] != '\0')
			return pstrdup(copy);
	}
	return NULL;
}

int
coupon_statistics_least_keys(void)
{
	int			least = -1;

	for (int i = 0; i < MAX_HTTP_WORKERS; i++)
	{
		Worker	   *worker = &statistics->workers[i];
		int			n = (int) pg_atomic_read_u32(&worker->keys);

		if (pg_atomic_read_u32(&worker->pid) != 0 && (least < 0 || n < least))
			least = n;
	}
	return least;
}

/* ---- counting ---- */

static const CouponWay *
way_of(const CouponHttpCall *call)
{
	if (call->events != NULL)
		return &coupon_way_http_stream;
	/* a route that was read anew since is not there any more */
	if (call->route == NULL || call->generation != coupon_route_generation())
		return &coupon_way_http_front;
	if (call->route->is_admin)
		return &coupon_way_http_operator;
	return call->tries > 0 ? &coupon_way_http_waited : &coupon_way_http;
}

/* The number of a status among those above. */
static int
number_of(int status)
{
	static int8 numbers[600];	/* plus 1; 0: not looked for yet */
	int			known = status >= 200 && status < 600 ? status : 599;

	if (numbers[known] == 0)
	{
		for (size_t i = 0; i < lengthof(statuses); i++)
		{
			if (atoi(statuses[i]) == known ||
				(statuses[i][1] == 'x' && statuses[i][0] - '0' == known / 100 && numbers[known] == 0))
				numbers[known] = i + 1;
		}
	}
	return numbers[known] - 1;
}

void
coupon_statistics_answered(const CouponHttpCall *call)
{
	uint64		slowest = pg_atomic_read_u64(&statistics->slowest);
	instr_time	took;
	uint64		us;

	INSTR_TIME_SET_CURRENT(took);
	INSTR_TIME_SUBTRACT(took, call->arrived);
	us = INSTR_TIME_GET_MICROSEC(took);
	coupon_stat_add_duration(way_of(call), number_of(call->status), 1, us);
	while (slowest < us && !pg_atomic_compare_exchange_u64(&statistics->slowest, &slowest, us))
		;
}

void
coupon_statistics_started(int number)
{
	Worker	   *worker = &statistics->workers[number];

	pg_atomic_write_u32(&worker->database, MyDatabaseId);
	pg_atomic_write_u64(&worker->started_at, GetCurrentTimestamp());
	pg_atomic_fetch_add_u64(&worker->starts, 1);
	pg_atomic_write_u32(&worker->pid, MyProcPid);
}

void
coupon_statistics_open(int number, int connections, int waiting, int streams)
{
	Worker	   *worker = &statistics->workers[number];

	pg_atomic_write_u32(&worker->connections, connections);
	pg_atomic_write_u32(&worker->waiting, waiting);
	pg_atomic_write_u32(&worker->streams, streams);
}

void
coupon_statistics_ended(int number)
{
	coupon_statistics_open(number, 0, 0, 0);
	coupon_statistics_keys(number, 0);
	for (int door = 0; door < COUPON_DOORS; door++)
		coupon_statistics_trouble(number, door, NULL);
	pg_atomic_write_u32(&statistics->workers[number].pid, 0);
}

/* ---- reading ---- */

uint64
coupon_statistics_class(int digit)
{
	uint64		calls = 0;

	for (size_t way = 0; way < lengthof(ways); way++)
	{
		CouponWaySum sum;

		coupon_stat_read(ways[way], &sum);
		for (size_t i = 0; i < lengthof(statuses); i++)
			calls += statuses[i][0] - '0' == digit ? sum.outcomes[i] : 0;
	}
	return calls;
}

void
coupon_statistics_times(double *average_ms, double *slowest_ms)
{
	uint64		calls = 0;
	uint64		us = 0;

	for (size_t way = 0; way < lengthof(ways); way++)
	{
		CouponWaySum sum;

		coupon_stat_read(ways[way], &sum);
		us += sum.microseconds;
		for (int i = 0; i < COUPON_STAT_INTERVALS; i++)
			calls += sum.intervals[i];
	}
	*average_ms = calls == 0 ? 0 : us / 1000.0 / calls;
	*slowest_ms = pg_atomic_read_u64(&statistics->slowest) / 1000.0;
}

/*
 * coupon.stat_front_workers(OUT instance integer, OUT wanted boolean,
 * OUT pid integer, OUT started_at timestamptz, OUT starts bigint,
 * OUT connections bigint, OUT waiting bigint, OUT streams bigint,
 * OUT slowest double precision): those that serve this database
 */
Datum
coupon_stat_front_workers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	coupon_shmem_attach();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < MAX_HTTP_WORKERS; i++)
	{
		Worker	   *worker = &statistics->workers[i];
		pid_t		pid = pg_atomic_read_u32(&worker->pid);
		Datum		values[9];
		bool		nulls[9] = {0};

		if (!is_mine(worker))
			continue;
		values[0] = Int32GetDatum(i);
		values[1] = BoolGetDatum(i < coupon_http_workers);
		values[2] = Int32GetDatum(pid);
		nulls[2] = pid == 0;
		values[3] = TimestampTzGetDatum((TimestampTz) pg_atomic_read_u64(&worker->started_at));
		values[4] = Int64GetDatum(pg_atomic_read_u64(&worker->starts));
		values[5] = Int64GetDatum(pg_atomic_read_u32(&worker->connections));
		values[6] = Int64GetDatum(pg_atomic_read_u32(&worker->waiting));
		values[7] = Int64GetDatum(pg_atomic_read_u32(&worker->streams));
		values[8] = Float8GetDatum(pg_atomic_read_u64(&statistics->slowest) / 1e6);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
