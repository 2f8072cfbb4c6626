/*
 * health.c
 *	  What coupon_health() cannot ask SQL: shared memory, workers, files, what
 *	  was built in.
 *
 * Nothing here waits, builds, or fails where something is wrong: it is asked
 * just then, also on a standby and where coupon is not preloaded.  What the
 * facts mean, sql/88_health.sql says.
 */
#include "postgres.h"

#include <sys/resource.h>

#include "access/xlog.h"
#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/arguments.h"
#include "base/compat.h"
#include "base/guc.h"
#include "base/missing_workers.h"
#include "base/worker.h"
#include "front/http.h"
#include "front/settings.h"
#include "front/statistics.h"
#include "front/token.h"
#include "kafka/publisher_status.h"
#include "kafka/sink_config.h"
#include "request/request_table.h"
#include "room/room.h"
#include "sale/campaign_slot.h"
#include "sale/refusal.h"

PG_FUNCTION_INFO_V1(coupon_health_facts);
PG_FUNCTION_INFO_V1(coupon_health_lines);
PG_FUNCTION_INFO_V1(coupon_health_file);

/* A row that is filled from the left. */
typedef struct Row
{
	Datum		values[24];
	bool		nulls[24];
	int			n;
} Row;

static void
put(Row *row, Datum value)
{
	row->values[row->n++] = value;
}

static void
put_null(Row *row)
{
	row->nulls[row->n++] = true;
}

static void
put_text(Row *row, const char *value)
{
	if (value == NULL || value[0] == '\0')
		put_null(row);
	else
		put(row, CStringGetTextDatum(value));
}

static void
put_time(Row *row, TimestampTz value)
{
	if (value == 0)
		put_null(row);
	else
		put(row, TimestampTzGetDatum(value));
}

static void
put_array(Row *row, Datum *elements, int n, Oid type)
{
	put(row, PointerGetDatum(type == TEXTOID ?
							 construct_array(elements, n, TEXTOID, -1, false, TYPALIGN_INT) :
							 construct_array(elements, n, INT4OID, sizeof(int32), true, TYPALIGN_INT)));
}

/* The names of coupon.databases. */
static void
put_databases(Row *row)
{
	List	   *names;
	Datum	   *elements;
	ListCell   *cell;
	int			n = 0;

	names = coupon_listed_databases();
	elements = palloc(Max(list_length(names), 1) * sizeof(Datum));
	foreach(cell, names)
		elements[n++] = CStringGetTextDatum(lfirst(cell));
	put_array(row, elements, n, TEXTOID);
}

/* The kinds of workers, how many of each a database gets, and how many run in this one. */
static void
put_workers(Row *row)
{
	Datum		kinds[COUPON_WORKER_IDS];
	Datum		wanted[COUPON_WORKER_IDS];
	Datum		running[COUPON_WORKER_IDS];

	for (int id = 0; id < COUPON_WORKER_IDS; id++)
	{
		const CouponWorkerKind *kind = coupon_worker_kinds[id];

		kinds[id] = CStringGetTextDatum(kind->name);
		wanted[id] = Int32GetDatum(kind->instances ? kind->instances() : 1);
		running[id] = Int32GetDatum(coupon_count_workers(id));
	}
	put_array(row, kinds, COUPON_WORKER_IDS, TEXTOID);
	put_array(row, wanted, COUPON_WORKER_IDS, INT4OID);
	put_array(row, running, COUPON_WORKER_IDS, INT4OID);
}

static void
put_publisher(Row *row)
{
	CouponPublisherStatus publisher;

	coupon_publisher_read(&publisher);
	put_text(row, coupon_publisher_state_name(publisher.state));
	put_text(row, publisher.refused_topics);
	put_text(row, publisher.error[0] == '\0' || coupon_publisher_may_see_errors() ? publisher.error :
			 "Ask a member of coupon_admin or pg_read_all_stats for the error.");
	put_time(row, publisher.failed_at);
	put_time(row, publisher.acknowledged_at);
}

static void
put_memory(Row *row)
{
	CouponEvictions evictions;

	coupon_slot_evictions(&evictions);
	put(row, Int64GetDatum((int64) evictions.maps));
	put(row, Int64GetDatum((int64) evictions.slots));
	put_time(row, evictions.last);
	put(row, Int64GetDatum((int64) evictions.failures));
	put(row, Int32GetDatum(coupon_queue_lines_in_use()));
	put(row, Int64GetDatum((int64) coupon_queue_refused()));
}

/* Files and connections that a process may have open. */
static void
put_descriptors(Row *row)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
		put_null(row);
	else
		put(row, Int64GetDatum((int64) limit.rlim_cur));
}

/* Why the front does not listen, and how many keys it uses. */
static void
put_front(Row *row)
{
	for (int door = 0; door < COUPON_DOORS; door++)
		put_text(row, coupon_statistics_first_trouble(door));
	if (coupon_statistics_least_keys() < 0)
		put_null(row);
	else
		put(row, Int32GetDatum(coupon_statistics_least_keys()));
}

/*
 * coupon.health_facts(): one row; where coupon is not preloaded all but the
 * first column is null
 */
Datum
coupon_health_facts(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Row			row = {0};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
		desc->natts > (int) lengthof(row.values))
		elog(ERROR, "coupon.health_facts has an unexpected shape");
	put(&row, BoolGetDatum(coupon_shmem_available()));
	if (coupon_shmem_available())
	{
		coupon_shmem_attach();
		put(&row, BoolGetDatum(coupon_database_is_listed()));
		put_databases(&row);
		put_workers(&row);
		put(&row, BoolGetDatum(coupon_listener_is_built()));
		put(&row, BoolGetDatum(coupon_http_jwt_algorithm[0] == '\0' || coupon_token_has_library()));
		put_publisher(&row);
		put_memory(&row);
		put_descriptors(&row);
		put(&row, Int64GetDatum((int64) coupon_refusal_lost()));
		put_front(&row);
	}
	else
		memset(row.nulls + 1, true, sizeof(row.nulls) - sizeof(row.nulls[0]));
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), row.values, row.nulls));
}

/* The lines of one queue, unless nobody has built it yet. */
static void
put_lines(ReturnSetInfo *rsinfo, const CouponQueueKind *kind, const char *name)
{
	CouponQueue *queue = coupon_queue_known(kind);

	for (int i = 0; queue != NULL && i < coupon_queue_slots(); i++)
	{
		CouponLine *line = coupon_queue_lock_nth(queue, i, LW_SHARED);
		Row			row = {0};
		int64		id;
		uint32		waiting;
		uint32		failures;
		int64		admitted = -1;
		TimestampTz passed_at;

		CHECK_FOR_INTERRUPTS();
		if (line == NULL)
			continue;
		id = line->id;
		waiting = line->ready;
		failures = line->failures;
		passed_at = line->passed_at;
		if (kind == &coupon_tickets)
			admitted = coupon_room(line)->nadmitted;
		LWLockRelease(line->lock);

		put_text(&row, name);
		put(&row, Int64GetDatum(id));
		put(&row, Int64GetDatum(waiting));
		put(&row, Int64GetDatum(failures));
		put_time(&row, passed_at);
		if (admitted < 0)
			put_null(&row);
		else
			put(&row, Int64GetDatum(admitted));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row.values, row.nulls);
	}
}

/*
 * coupon.health_lines(): who waits, as far as shared memory knows
 */
Datum
coupon_health_lines(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	if (coupon_shmem_available() && !RecoveryInProgress())
	{
		put_lines(rsinfo, &coupon_requests, "requests");
		put_lines(rsinfo, &coupon_tickets, "tickets");
	}
	return (Datum) 0;
}

/*
 * coupon.health_file(path, of_kafka): what is wrong with a file of properties
 * or keys; null: nothing.  Names neither the file nor what is in it.
 */
Datum
coupon_health_file(PG_FUNCTION_ARGS)
{
	char	   *path = coupon_get_text(fcinfo, 0, "path", 1, MAXPGPATH);
	const char *problem = NULL;

	coupon_require_argument(fcinfo, 1, "of_kafka");
	if (PG_GETARG_BOOL(1))
		(void) coupon_sink_config_read(path, &problem);
	else if (coupon_shmem_available())
		problem = coupon_token_judge_file(path);
	if (problem == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(problem));
}
