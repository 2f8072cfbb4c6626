/*
 * queue_table.c
 *	  A queue's two tables, which take turns.
 *
 * A child is emptied only when shared memory says that all of its rows are
 * final, the table says so too, and nobody has it locked; a writer looks
 * again which child is in use once it has locked it.  TRUNCATE takes the dead
 * versions along, so a held snapshot cannot make the tables grow without
 * bound, and no scan begins with what is done.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "commands/trigger.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/spi.h"
#include "queue/queue_table.h"

CouponTableWriter *
coupon_queue_table_open(CouponQueue *queue, const Oid *children, uint32 *child)
{
	for (;;)
	{
		*child = pg_atomic_read_u32(&queue->child);
		LockRelationOid(children[*child], RowExclusiveLock);
		if (*child == pg_atomic_read_u32(&queue->child))
			return coupon_writer_open(children[*child], COUPON_INSERT);
		UnlockRelationOid(children[*child], RowExclusiveLock);
	}
}

/* ---- taking turns ---- */

static bool rotating = false;

PG_FUNCTION_INFO_V1(coupon_queue_guard);

/*
 * coupon_queue_guard() - trigger on the tables of queues, for every statement
 *
 * Shared memory must know of every change.
 */
Datum
coupon_queue_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("coupon.queue_guard() must be called as a trigger")));
	if (!rotating)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot change table coupon.%s directly",
						RelationGetRelationName(trigger->tg_relation)),
				 errdetail("Shared memory holds who waits, and in which order."),
				 errhint("Use the functions coupon_request and coupon_queue_join, and those beside them.")));
	return PointerGetDatum(NULL);
}


/* Does a row of the table have no value in the column that final ones have? */
static bool
has_open_row(Oid table, int final_column)
{
	Relation	rel = table_open(table, NoLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	bool		found = false;

	while (!found && table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		found = slot_attisnull(slot, final_column);
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
	return found;
}

static bool
is_empty(Oid table)
{
	Relation	rel = table_open(table, AccessShareLock);
	bool		empty = RelationGetNumberOfBlocks(rel) == 0;

	table_close(rel, AccessShareLock);
	return empty;
}

static void
truncate_child(Oid table)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "TRUNCATE %s",
					 quote_qualified_identifier(get_namespace_name(get_rel_namespace(table)),
												get_rel_name(table)));
	coupon_spi_connect();
	rotating = true;
	PG_TRY();
	{
		if (SPI_execute(sql.data, false, 0) != SPI_OK_UTILITY)
			elog(ERROR, "could not execute: %s", sql.data);
	}
	PG_FINALLY();
	{
		rotating = false;
	}
	PG_END_TRY();
	coupon_spi_finish();
}

void
coupon_queue_table_rotate(CouponQueue *queue, const Oid *children, int final_column, int keep_ms)
{
	uint32		current = pg_atomic_read_u32(&queue->child);
	uint32		other = 1 - current;
	TimestampTz now = GetCurrentTimestamp();

	/* who drops the table waits for nobody's worker */
	if (!ConditionalLockRelationOid(children[other], AccessShareLock) ||
		!ConditionalLockRelationOid(children[current], AccessShareLock))
		return;
	if (!is_empty(children[other]))
	{
		if (pg_atomic_read_u32(&queue->open[other]) != 0 ||
			!TimestampDifferenceExceeds((TimestampTz) pg_atomic_read_u64(&queue->finished[other]), now, keep_ms) ||
			!ConditionalLockRelationOid(children[other], AccessExclusiveLock))
			return;
		if (has_open_row(children[other], final_column))
		{
			/* only rows that were written past us; nothing that waits may go */
			ereport(WARNING,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("table coupon.%s has rows that are not final and nobody waits for",
							get_rel_name(children[other])),
					 errhint("Restart the server: then they are read again.")));
			pg_atomic_write_u64(&queue->finished[other], now);
			return;
		}
		truncate_child(children[other]);
		return;					/* empty when this commits; the turn comes then */
	}
	if (TimestampDifferenceExceeds((TimestampTz) pg_atomic_read_u64(&queue->since), now, keep_ms) &&
		!is_empty(children[current]))
	{
		pg_atomic_write_u64(&queue->since, now);
		pg_atomic_write_u32(&queue->child, other);
	}
}
