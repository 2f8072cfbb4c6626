/*
 * queue_table.c
 *	  A queue's two tables, which take turns.
 *
 * Rows go to one child.  When all rows of the other are final and were kept
 * for coupon.queue_keep it is truncated, and takes its turn.  TRUNCATE takes
 * the dead versions along, so a held snapshot cannot make the tables grow
 * without bound, and no scan begins with what is done.
 *
 * Shared memory says whether a row may change yet; the table is searched as
 * well, so that a row that was written past us is never lost.  That takes
 * seconds where millions of rows are, so it is done a few milliseconds at a
 * time between other work, and beside whoever reads and writes.  Only then
 * the child is locked, for as long as a TRUNCATE takes: a row that comes
 * meanwhile is noted in shared memory, or makes the table longer than what was
 * searched.  A writer looks again which child is in use once it has locked it.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/attempt.h"
#include "base/clock.h"
#include "base/guc.h"
#include "base/spi.h"
#include "base/trigger.h"
#include "queue/queue_table.h"

#define IDLE_MS			500		/* between cycles of a worker without work */
#define LOOK_EVERY_MS	200		/* at the tables */
#define SEARCH_EVERY_MS	50		/* while a child is searched, */
#define SEARCH_US		10000	/* each time for so long */
#define SEARCH_BLOCKS	64		/* between looks at the clock */

/* How far a child was searched for rows that are not final. */
typedef struct Search
{
	Oid			table;			/* InvalidOid: none is searched */
	TimestampTz finished;		/* as it was; if it has moved the search is
								 * void */
	BlockNumber searched;
	bool		done;			/* and only the lock is missing */
	TimestampTz looked_at;
} Search;

static Search searches[COUPON_QUEUE_IDS];
static bool allowed = false;	/* what is being executed is ours */

PG_FUNCTION_INFO_V1(coupon_queue_guard);

/*
 * coupon_queue_guard() - trigger on the tables of queues, for every statement
 *
 * Shared memory must know of every change.
 */
Datum
coupon_queue_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = coupon_trigger(fcinfo, "queue_guard");

	if (!allowed)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot change table coupon.%s directly",
						RelationGetRelationName(trigger->tg_relation)),
				 errdetail("Shared memory holds who waits, and in which order."),
				 errhint("Use the functions coupon_request and coupon_queue_join, and those beside them.")));
	return PointerGetDatum(NULL);
}

CouponTableWriter *
coupon_queue_table_open(const CouponQueueKind *kind, CouponQueue *queue, uint32 *child)
{
	for (;;)
	{
		Oid			table;

		*child = pg_atomic_read_u32(&queue->child);
		table = coupon_queue_oids(kind->children)[*child];
		LockRelationOid(table, RowExclusiveLock);
		if (*child == pg_atomic_read_u32(&queue->child))
			return coupon_writer_open(table, COUPON_INSERT);
		/* the lock stays until the transaction ends: it may have rows there */
	}
}

/* ---- taking turns ---- */

static bool
is_searching(const CouponQueueKind *kind)
{
	Search	   *search = &searches[kind->number];

	return OidIsValid(search->table) && !search->done;
}

static bool
is_empty(Oid table)
{
	Relation	rel = table_open(table, AccessShareLock);
	bool		empty = RelationGetNumberOfBlocks(rel) == 0;

	table_close(rel, AccessShareLock);
	return empty;
}

/* Has any of these blocks a row without a value in the column that final ones have? */
static bool
has_open_row(Relation rel, Snapshot snapshot, TupleTableSlot *slot, int final_column,
			 BlockNumber first, BlockNumber end)
{
	/*
	 * with a ring of buffers, so that a large child drives nothing out of
	 * memory
	 */
	TableScanDesc scan = table_beginscan_strat(rel, snapshot, 0, NULL, true, false);
	bool		found = false;

	heap_setscanlimits(scan, first, end - first);
	while (!found && table_scan_getnextslot(scan, ForwardScanDirection, slot))
		found = slot_attisnull(slot, final_column);
	ExecClearTuple(slot);
	table_endscan(scan);
	return found;
}

typedef enum Found
{
	SEARCH_ON,					/* not all was searched yet */
	OPEN_ROW,
	ALL_FINAL
} Found;

/* Searches on for a while. */
static Found
search_on(Search *search, int final_column)
{
	Relation	rel = table_open(search->table, NoLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	BlockNumber nblocks = RelationGetNumberOfBlocks(rel);
	TimestampTz end = GetCurrentTimestamp() + SEARCH_US;
	Found		found = search->searched < nblocks ? SEARCH_ON : ALL_FINAL;

	while (found == SEARCH_ON)
	{
		BlockNumber first = search->searched;

		CHECK_FOR_INTERRUPTS();
		search->searched = Min(nblocks, first + SEARCH_BLOCKS);
		if (has_open_row(rel, snapshot, slot, final_column, first, search->searched))
			found = OPEN_ROW;
		else if (search->searched == nblocks)
			found = ALL_FINAL;
		else if (GetCurrentTimestamp() > end)
			break;
	}
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
	return found;
}

static void
truncate_child(void *arg)
{
	Oid			table = *(Oid *) arg;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "TRUNCATE %s",
					 quote_qualified_identifier(get_namespace_name(get_rel_namespace(table)),
												get_rel_name(table)));
	coupon_spi_connect();
	allowed = true;
	PG_TRY();
	{
		if (SPI_execute(sql.data, false, 0) != SPI_OK_UTILITY)
			elog(ERROR, "could not execute: %s", sql.data);
	}
	PG_FINALLY();
	{
		allowed = false;
	}
	PG_END_TRY();
	coupon_spi_finish();
}

uint64
coupon_queue_table_execute(CouponStatement *statement, int expected, Datum *values)
{
	uint64		n = 0;

	coupon_spi_connect();
	allowed = true;
	PG_TRY();
	{
		n = coupon_spi_execute(statement, expected, values, NULL);
	}
	PG_FINALLY();
	{
		allowed = false;
	}
	PG_END_TRY();
	coupon_spi_finish();
	return n;
}

/* Why a child is not emptied; it is tried again when as much time has passed as rows are kept. */
static void
postpone(CouponQueue *queue, uint32 child, int sqlerrcode, const char *message, const char *hint)
{
	ereport(WARNING,
			(errcode(sqlerrcode),
			 errmsg("%s", message),
			 hint ? errhint("%s", hint) : 0));
	pg_atomic_write_u64(&queue->finished[child], GetCurrentTimestamp());
}

/* The child that is out of use, which is not empty.  True: the transaction is to end. */
static bool
empty_child(const CouponQueueKind *kind, CouponQueue *queue, uint32 child, TimestampTz now)
{
	Search	   *search = &searches[kind->number];
	Oid			table = coupon_queue_oids(kind->children)[child];
	TimestampTz finished = (TimestampTz) pg_atomic_read_u64(&queue->finished[child]);
	Found		found;

	if (pg_atomic_read_u32(&queue->open[child]) != 0 ||
		!TimestampDifferenceExceeds(finished, now, coupon_queue_keep))
		return false;
	if (search->table != table || search->finished != finished)
	{
		search->table = table;
		search->finished = finished;
		search->searched = 0;
		search->done = false;
	}
	found = search_on(search, kind->final_column);
	if (found == OPEN_ROW)
	{
		/* only a row that was written past us; nothing that waits may go */
		postpone(queue, child, ERRCODE_DATA_CORRUPTED,
				 psprintf("table coupon.%s has rows that are not final and nobody waits for",
						  get_rel_name(table)),
				 "Restart the server: then they are read again.");
	}
	search->done = found == ALL_FINAL;
	if (!search->done || !ConditionalLockRelationOid(table, AccessExclusiveLock))
		return true;
	/* with the lock nobody is in the middle of writing to it */
	if (pg_atomic_read_u32(&queue->open[child]) == 0 &&
		(TimestampTz) pg_atomic_read_u64(&queue->finished[child]) == finished &&
		search_on(search, kind->final_column) == ALL_FINAL)
	{
		/* a trigger of the DBA's may refuse it, which is to stop nobody */
		ErrorData  *error = coupon_attempt(truncate_child, &table);

		if (error != NULL)
			postpone(queue, child, error->sqlerrcode,
					 psprintf("table coupon.%s could not be emptied: %s", get_rel_name(table),
							  error->message), error->hint);
		search->table = InvalidOid;
	}
	return true;				/* empty when this commits; the turn comes
								 * then */
}

bool
coupon_queue_table_rotate(const CouponQueueKind *kind)
{
	Search	   *search = &searches[kind->number];
	const Oid  *children = coupon_queue_oids(kind->children);
	CouponQueue *queue = coupon_queue(kind);
	uint32		current = pg_atomic_read_u32(&queue->child);
	uint32		other = 1 - current;
	TimestampTz now = GetCurrentTimestamp();

	if (coupon_ms_since(search->looked_at, now) < (is_searching(kind) ? SEARCH_EVERY_MS : LOOK_EVERY_MS))
		return false;
	search->looked_at = now;

	/* who drops the table waits for nobody's worker */
	if (!ConditionalLockRelationOid(children[other], AccessShareLock) ||
		!ConditionalLockRelationOid(children[current], AccessShareLock))
		return true;
	if (!is_empty(children[other]))
		return empty_child(kind, queue, other, now);
	if (TimestampDifferenceExceeds((TimestampTz) pg_atomic_read_u64(&queue->since), now, coupon_queue_keep) &&
		!is_empty(children[current]))
	{
		pg_atomic_write_u64(&queue->since, now);
		pg_atomic_write_u32(&queue->child, other);
	}
	return false;
}

int
coupon_queue_table_wait_ms(const CouponQueueKind *kind, TimestampTz due)
{
	long		ms = is_searching(kind) ? SEARCH_EVERY_MS : IDLE_MS;

	if (due != DT_NOEND)
		ms = Min(ms, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), due));
	return Max(ms, 1);
}
