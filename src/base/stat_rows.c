/*
 * stat_rows.c
 *	  The statistics as rows: the functions below the views coupon.stat_*, and
 *	  coupon_stat_reset().
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/tuplestore.h"

#include "base/compat.h"
#include "base/database.h"
#include "base/stat.h"
#include "base/worker.h"

PG_FUNCTION_INFO_V1(coupon_stat_calls);
PG_FUNCTION_INFO_V1(coupon_stat_errors);
PG_FUNCTION_INFO_V1(coupon_stat_latencies);
PG_FUNCTION_INFO_V1(coupon_stat_ways);
PG_FUNCTION_INFO_V1(coupon_stat_batches);
PG_FUNCTION_INFO_V1(coupon_stat_tallies);
PG_FUNCTION_INFO_V1(coupon_stat_since);
PG_FUNCTION_INFO_V1(coupon_stat_workers);
PG_FUNCTION_INFO_V1(coupon_stat_reset);

static const char *const tally_names[COUPON_TALLIES] = {
	[COUPON_TALLY_MAP_BUILDS] = "map_builds",
	[COUPON_TALLY_MAP_CHECKS] = "map_checks",
	[COUPON_TALLY_FALSE_HINTS] = "false_hints",
	[COUPON_TALLY_WAITS] = "waits",
	[COUPON_TALLY_RETRIES] = "retries",
	[COUPON_TALLY_MAP_EVICTIONS] = "map_evictions",
	[COUPON_TALLY_CAMPAIGN_EVICTIONS] = "campaign_evictions",
	[COUPON_TALLY_REFUSED_RATE] = "refused_rate",
	[COUPON_TALLY_REFUSED_FULL] = "refused_full",
	[COUPON_TALLY_REFUSED_SIZE] = "refused_size"
};

/* Begins a result of rows. */
static ReturnSetInfo *
begin_rows(FunctionCallInfo fcinfo)
{
	coupon_shmem_attach();
	InitMaterializedSRF(fcinfo, 0);
	return (ReturnSetInfo *) fcinfo->resultinfo;
}

static void
put(ReturnSetInfo *rsinfo, Datum *values, bool *nulls)
{
	static bool none[10] = {0};

	CHECK_FOR_INTERRUPTS();
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls == NULL ? none : nulls);
}

static void
put_call(ReturnSetInfo *rsinfo, const CouponWay *way, const char *outcome, uint64 calls)
{
	Datum		values[3] = {CStringGetTextDatum(way->name), CStringGetTextDatum(outcome), Int64GetDatum(calls)};

	put(rsinfo, values, NULL);
}

static uint64
sum_errors(const CouponWaySum *sum)
{
	uint64		errors = 0;

	for (int i = 0; i < COUPON_STAT_CLASSES; i++)
		errors += sum->errors[i];
	return errors;
}

/*
 * coupon.stat_calls(OUT way text, OUT outcome text, OUT calls bigint)
 */
Datum
coupon_stat_calls(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = begin_rows(fcinfo);

	for (CouponWay *const *way = coupon_ways; *way != NULL; way++)
	{
		CouponWaySum sum;

		coupon_stat_read(*way, &sum);
		for (int i = 0; i < (*way)->noutcomes; i++)
		{
			if ((*way)->outcomes[i] != NULL)
				put_call(rsinfo, *way, (*way)->outcomes[i], sum.outcomes[i]);
		}
		if ((*way)->kind == COUPON_WAY_TRANSACTION)
			put_call(rsinfo, *way, "aborted", sum.aborted);
		if ((*way)->kind == COUPON_WAY_TRANSACTION || (*way)->kind == COUPON_WAY_CALL)
			put_call(rsinfo, *way, "error", sum_errors(&sum));
	}
	return (Datum) 0;
}

/*
 * coupon.stat_errors(OUT way text, OUT class text, OUT errors bigint)
 */
Datum
coupon_stat_errors(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = begin_rows(fcinfo);

	for (CouponWay *const *way = coupon_ways; *way != NULL; way++)
	{
		CouponWaySum sum;

		coupon_stat_read(*way, &sum);
		for (int i = 0; i < COUPON_STAT_CLASSES; i++)
		{
			if (sum.errors[i] > 0)
				put_call(rsinfo, *way, coupon_stat_classes[i], sum.errors[i]);
		}
	}
	return (Datum) 0;
}

/* The upper end of an interval, in seconds. */
static double
upper_of(int interval)
{
	return interval == COUPON_STAT_INTERVALS - 1 ? get_float8_infinity() :
		coupon_stat_uppers[interval] / 1e6;
}

/*
 * coupon.stat_latencies(OUT way text, OUT upper double precision, OUT calls bigint):
 * how many took no longer than upper
 */
Datum
coupon_stat_latencies(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = begin_rows(fcinfo);

	for (CouponWay *const *way = coupon_ways; *way != NULL; way++)
	{
		CouponWaySum sum;
		uint64		calls = 0;
		Datum		values[3] = {CStringGetTextDatum((*way)->name)};

		coupon_stat_read(*way, &sum);
		for (int i = 0; i < COUPON_STAT_INTERVALS; i++)
		{
			calls += sum.intervals[i];
			values[1] = Float8GetDatum(upper_of(i));
			values[2] = Int64GetDatum(calls);
			put(rsinfo, values, NULL);
		}
	}
	return (Datum) 0;
}

/* The time that such a part of the calls took no longer than; at most that. */
static double
percentile(const CouponWaySum *sum, uint64 calls, double part)
{
	uint64		seen = 0;

	for (int i = 0; i < COUPON_STAT_INTERVALS; i++)
	{
		seen += sum->intervals[i];
		if (seen >= calls * part)
			return upper_of(i);
	}
	return get_float8_infinity();
}

/*
 * coupon.stat_ways(OUT way text, OUT calls bigint, OUT errors bigint,
 * OUT aborted bigint, OUT seconds double precision, OUT p50 double precision,
 * OUT p95 double precision, OUT p99 double precision)
 */
Datum
coupon_stat_ways(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = begin_rows(fcinfo);

	for (CouponWay *const *way = coupon_ways; *way != NULL; way++)
	{
		CouponWaySum sum;
		uint64		calls = 0;
		Datum		values[8] = {0};
		bool		nulls[8] = {0};

		coupon_stat_read(*way, &sum);
		for (int i = 0; i < COUPON_STAT_INTERVALS; i++)
			calls += sum.intervals[i];
		values[0] = CStringGetTextDatum((*way)->name);
		values[1] = Int64GetDatum(calls);
		values[2] = Int64GetDatum(sum_errors(&sum));
		values[3] = Int64GetDatum(sum.aborted);
		values[4] = Float8GetDatum(sum.microseconds / 1e6);
		values[5] = Float8GetDatum(percentile(&sum, calls, 0.5));
		values[6] = Float8GetDatum(percentile(&sum, calls, 0.95));
		values[7] = Float8GetDatum(percentile(&sum, calls, 0.99));
		nulls[5] = nulls[6] = nulls[7] = calls == 0;
		put(rsinfo, values, nulls);
	}
	return (Datum) 0;
}

/*
 * coupon.stat_batches(OUT way text, OUT batches bigint, OUT items bigint, OUT largest bigint)
 */
Datum
coupon_stat_batches(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = begin_rows(fcinfo);

	for (CouponWay *const *way = coupon_ways; *way != NULL; way++)
	{
		CouponWaySum sum;
		Datum		values[4];

		if (!(*way)->batched)
			continue;
		coupon_stat_read(*way, &sum);
		values[0] = CStringGetTextDatum((*way)->name);
		values[1] = Int64GetDatum(sum.batches);
		values[2] = Int64GetDatum(sum.items);
		values[3] = Int64GetDatum(sum.largest);
		put(rsinfo, values, NULL);
	}
	return (Datum) 0;
}

/*
 * coupon.stat_tallies(OUT name text, OUT value bigint)
 */
Datum
coupon_stat_tallies(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = begin_rows(fcinfo);

	for (int tally = 0; tally < COUPON_TALLIES; tally++)
	{
		Datum		values[2] = {CStringGetTextDatum(tally_names[tally]), Int64GetDatum(coupon_stat_tallied(tally))};

		put(rsinfo, values, NULL);
	}
	return (Datum) 0;
}

/*
 * coupon.stat_since() RETURNS timestamptz
 */
Datum
coupon_stat_since(PG_FUNCTION_ARGS)
{
	coupon_shmem_attach();
	PG_RETURN_TIMESTAMPTZ(coupon_stat_reset_at());
}

/* One place of a worker: one that runs, or ran, or is to run. */
static void
put_worker(ReturnSetInfo *rsinfo, const CouponWorkerKind *kind, int instance,
		   CouponWorkerSlot *slot, bool wanted)
{
	TimestampTz started_at = pg_atomic_read_u64(&slot->started_at);
	pid_t		pid = slot->pid;
	Datum		values[9];
	bool		nulls[9] = {0};

	if (!wanted && pid == 0 && started_at == 0)
		return;
	values[0] = CStringGetTextDatum(kind->name + strlen("coupon "));
	values[1] = Int32GetDatum(instance);
	values[2] = BoolGetDatum(wanted);
	values[3] = Int32GetDatum(pid);
	nulls[3] = pid == 0;
	values[4] = TimestampTzGetDatum(started_at);
	nulls[4] = started_at == 0;
	values[5] = Int64GetDatum(pg_atomic_read_u64(&slot->starts));
	values[6] = Int64GetDatum(pg_atomic_read_u64(&slot->errors));
	values[7] = Int64GetDatum(pg_atomic_read_u64(&slot->wakes));
	values[8] = Int64GetDatum(pg_atomic_read_u64(&slot->cycles));
	put(rsinfo, values, nulls);
}

/*
 * coupon.stat_workers(OUT kind text, OUT instance integer, OUT wanted boolean,
 * OUT pid integer, OUT started_at timestamptz, OUT starts bigint,
 * OUT errors bigint, OUT wakes bigint, OUT cycles bigint): of this database
 */
Datum
coupon_stat_workers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = begin_rows(fcinfo);
	CouponDatabase *database = coupon_database();

	for (int id = 0; database != NULL && id < COUPON_WORKER_IDS; id++)
	{
		const CouponWorkerKind *kind = coupon_worker_kinds[id];
		int			wanted = !database->wanted ? 0 : kind->instances == NULL ? 1 : kind->instances();

		for (int i = 0; i < COUPON_MAX_INSTANCES; i++)
			put_worker(rsinfo, kind, i, &database->workers[id][i], i < wanted);
	}
	return (Datum) 0;
}

/*
 * coupon_stat_reset()
 */
Datum
coupon_stat_reset(PG_FUNCTION_ARGS)
{
	coupon_shmem_attach();
	coupon_stat_clear();
	for (const CouponModule *const *module = coupon_modules; *module; module++)
	{
		if ((*module)->reset_statistics)
			(*module)->reset_statistics();
	}
	PG_RETURN_VOID();
}
