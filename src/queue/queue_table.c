/*
 * queue_table.c
 *	  The rows of a queue's tables: written below the executor, emptied in turn.
 *
 * What an insertion needs of the executor is prepared once per session and
 * table, and again after the table or its indexes change.
 *
 * A child is emptied only when shared memory says that all of its rows are
 * final, the table says so too, and nobody has it locked; a writer looks
 * again which child is in use once it has locked it.  TRUNCATE takes the dead
 * versions along, so a held snapshot cannot make the tables grow without
 * bound, and no scan begins with what is done.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_am_d.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "nodes/execnodes.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/spi.h"
#include "queue/queue_table.h"

struct CouponQueueTable
{
	bool		valid;
	uint64		invalidations;
	Oid			relid;
	int			natts;
	MemoryContext context;
	EState	   *estate;
	ResultRelInfo *relinfo;
	Oid		   *indexes;
	int			nindexes;
	bool		lasting;		/* no index keeps pointers in its IndexInfo */
	TupleTableSlot *slot;
};

/*
 * One for each table that there is, two children of two queues, and
 * lapsed_hold, so that one that is open, and became invalid meanwhile, is never
 * another's.
 */
static CouponQueueTable cache[2 * COUPON_QUEUE_CHILDREN + 1];

static CouponQueueTable *
find_rows(Oid table)
{
	const CouponCatalog *catalog = coupon_catalog();

	for (int child = 0; child < COUPON_QUEUE_CHILDREN; child++)
	{
		if (catalog->requests[child] == table)
			return &cache[child];
		if (catalog->tickets[child] == table)
			return &cache[COUPON_QUEUE_CHILDREN + child];
	}
	if (catalog->lapsed_hold == table)
		return &cache[2 * COUPON_QUEUE_CHILDREN];
	elog(ERROR, "table %u is not of a queue", table);
}

static void
relcache_callback(Datum arg, Oid relid)
{
	for (size_t i = 0; i < lengthof(cache); i++)
	{
		CouponQueueTable *rows = &cache[i];
		bool		ours = relid == InvalidOid || relid == rows->relid;

		for (int k = 0; k < rows->nindexes && !ours; k++)
			ours = relid == rows->indexes[k];
		if (ours)
		{
			rows->valid = false;
			rows->invalidations++;
		}
	}
}

/* What a row written below the executor would silently pass over. */
static void
refuse_foreign_parts(Relation rel, int natts)
{
	bool		foreign = RelationGetNumberOfAttributes(rel) != natts ||
		(rel->rd_att->constr != NULL && rel->rd_att->constr->num_check > 0);

	for (int i = 0; rel->trigdesc != NULL && i < rel->trigdesc->numtriggers; i++)
		foreign |= strcmp(rel->trigdesc->triggers[i].tgname, "queue_guard") != 0;
	if (foreign)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("triggers, constraints and columns added to coupon.%s are not supported",
						RelationGetRelationName(rel)),
				 errdetail("Its rows are written below the level that maintains them."),
				 errhint("Drop them; keep data of your own in tables of your own.")));
}

static void
prepare(CouponQueueTable *rows, Relation rel, int natts)
{
	static bool registered = false;
	MemoryContext oldcontext;
	uint64		invalidations;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
		registered = true;
	}
	if (rows->context == NULL)
		rows->context = AllocSetContextCreate(TopMemoryContext, "coupon rows",
											  ALLOCSET_SMALL_SIZES);
	rows->valid = false;
	rows->nindexes = 0;
	MemoryContextReset(rows->context);
	refuse_foreign_parts(rel, natts);

	oldcontext = MemoryContextSwitchTo(rows->context);
	rows->relid = RelationGetRelid(rel);
	rows->natts = natts;
	invalidations = rows->invalidations;
	rows->estate = CreateExecutorState();
	rows->relinfo = makeNode(ResultRelInfo);
	InitResultRelInfo(rows->relinfo, rel, 0, NULL, 0);
	ExecOpenIndices(rows->relinfo, false);
	rows->indexes = palloc(Max(rows->relinfo->ri_NumIndices, 1) * sizeof(Oid));
	rows->lasting = true;
	for (int i = 0; i < rows->relinfo->ri_NumIndices; i++)
	{
		Relation	index = rows->relinfo->ri_IndexRelationDescs[i];

		rows->indexes[i] = RelationGetRelid(index);
		if (index->rd_rel->relam != BTREE_AM_OID)
			rows->lasting = false;
	}
	rows->nindexes = rows->relinfo->ri_NumIndices;
	/* a copy: a slot that outlives the transaction must not pin the original */
	rows->slot = MakeSingleTupleTableSlot(CreateTupleDescCopy(RelationGetDescr(rel)), &TTSOpsVirtual);
	MemoryContextSwitchTo(oldcontext);
	rows->valid = rows->lasting && rows->invalidations == invalidations;
}

CouponQueueTable *
coupon_queue_table_open(Oid table, int natts)
{
	CouponQueueTable *rows = find_rows(table);
	Relation	rel = table_open(table, RowExclusiveLock);

	if (rows->valid && rows->relid == table)
	{
		rows->relinfo->ri_RelationDesc = rel;
		for (int i = 0; i < rows->nindexes; i++)
			rows->relinfo->ri_IndexRelationDescs[i] = index_open(rows->indexes[i], RowExclusiveLock);
	}
	else
		prepare(rows, rel, natts);
	return rows;
}

CouponQueueTable *
coupon_queue_table_open_current(CouponQueue *queue, const Oid *children, int natts, uint32 *child)
{
	for (;;)
	{
		CouponQueueTable *rows;

		*child = pg_atomic_read_u32(&queue->child);
		rows = coupon_queue_table_open(children[*child], natts);
		if (*child == pg_atomic_read_u32(&queue->child))
			return rows;
		coupon_queue_table_close(rows);
	}
}

void
coupon_queue_table_close(CouponQueueTable *rows)
{
	ExecClearTuple(rows->slot);
	if (rows->lasting)
	{
		for (int i = 0; i < rows->nindexes; i++)
			index_close(rows->relinfo->ri_IndexRelationDescs[i], NoLock);
	}
	else
		ExecCloseIndices(rows->relinfo);
	/* the lock stays until commit: the child must not be emptied before */
	table_close(rows->relinfo->ri_RelationDesc, NoLock);
}

TupleTableSlot *
coupon_queue_table_slot(CouponQueueTable *rows)
{
	ExecClearTuple(rows->slot);
	memset(rows->slot->tts_isnull, true, rows->natts);
	return rows->slot;
}

void
coupon_queue_table_insert(CouponQueueTable *rows)
{
	ExecStoreVirtualTuple(rows->slot);
	rows->slot->tts_tableOid = rows->relid;
	table_tuple_insert(rows->relinfo->ri_RelationDesc, rows->slot, GetCurrentCommandId(true), 0, NULL);
	(void) coupon_insert_all_index_tuples(rows->relinfo, rows->slot, rows->estate, false);
	ResetPerTupleExprContext(rows->estate);
}

CouponRowUpdate
coupon_queue_table_update(CouponQueueTable *rows, ItemPointer tid, bool wait)
{
	TM_FailureData failure;
	LockTupleMode mode;
	bool		any_index;
	TM_Result	result;

	ExecStoreVirtualTuple(rows->slot);
	rows->slot->tts_tableOid = rows->relid;
	result = coupon_table_tuple_update(rows->relinfo->ri_RelationDesc, tid, rows->slot,
									   GetCurrentCommandId(true), wait,
									   &failure, &mode, &any_index);
	switch (result)
	{
		case TM_Ok:
			if (any_index)
			{
				(void) coupon_insert_all_index_tuples(rows->relinfo, rows->slot, rows->estate, true);
				ResetPerTupleExprContext(rows->estate);
			}
			return COUPON_ROW_UPDATED;
		case TM_BeingModified:
		case TM_WouldBlock:
			return COUPON_ROW_LOCKED;
		case TM_SelfModified:

			/*
			 * By an earlier command of this transaction the newer version has
			 * been seen; by the same command only if a trigger calls us.
			 */
		case TM_Updated:
		case TM_Deleted:
			return COUPON_ROW_STALE;
		default:
			elog(ERROR, "unexpected result %d of a row's update", result);
	}
	return COUPON_ROW_STALE;
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
