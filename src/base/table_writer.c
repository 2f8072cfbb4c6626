/*
 * table_writer.c
 *	  The one place that writes tables below the executor.
 *
 * Half of an SQL statement's time goes into its planning and its executor, so
 * the rows that are written most are written with the table and index access
 * methods.  The rest of PostgreSQL must not notice: what the executor would
 * have done is done here, or refused with a message when it is first met.
 *
 * What a DBA may add to our tables, and what becomes of it, is told by
 * table_support.c.
 *
 * What the executor prepares for each statement is prepared here once per
 * session and table, and again after the table's relcache entry was
 * invalidated.  A writer that is open belongs to the transaction's memory, so
 * an ERROR takes it away and a call within a call has one of its own; only
 * one that was closed is kept.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/pg_am_d.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "nodes/nodeFuncs.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/table_writer.h"

struct CouponTableWriter
{
	int			number;			/* the table's */
	uint64		changes;		/* the table's, when this was prepared */
	const CouponTable *table;
	MemoryContext context;		/* of all of this */
	EState	   *estate;
	ResultRelInfo *relinfo;
	Oid		   *indexes;		/* of the relinfo's */
	List	   *arbiters;		/* those in which a conflict is an answer ... */
	int		   *keys;			/* ... to which key, for each index, -1: to
								 * none */
	int			nordered;		/* the first indexes, which rows enter in
								 * their order: see insert_many_unless */
	int			allowed;		/* operations that were looked at */
	bool		waitless;		/* no index waits for another transaction */
	bool		lasting;		/* good for more than one call: calls no
								 * functions of others */
	MemoryContextCallback callback;
	TupleTableSlot *row;
	TupleTableSlot *locked;		/* what table_tuple_lock has read */
};

/* The writer whose constraints or indexes may be calling functions of others. */
static CouponTableWriter *evaluating = NULL;

/* Those that were closed, for the next call; by the tables' numbers. */
static CouponTableWriter *idle[COUPON_TABLES];

/* An ERROR has taken the writer away. */
static void
forget_evaluating(void *writer)
{
	if (evaluating == writer)
		evaluating = NULL;
}

void
coupon_writer_refuse_nested(void)
{
	if (evaluating != NULL)
		coupon_table_refuse(evaluating->relinfo->ri_RelationDesc, "constraints and indexes that call coupon",
							"A row was being written when coupon was called again.",
							"Drop the constraint or the index whose function calls it.");
}

void
coupon_writer_allow(CouponTableWriter *writer, int operations)
{
	Relation	rel = writer->relinfo->ri_RelationDesc;

	if (operations & ~writer->allowed)
		coupon_table_refuse_fired(rel, writer->table, operations);
	writer->allowed |= operations;

	/* publications come and go without a change of the table */
	if (operations & COUPON_UPDATE)
		CheckCmdReplicaIdentity(rel, CMD_UPDATE);
	if ((operations & COUPON_DELETE) && !writer->table->local_deletes)
		CheckCmdReplicaIdentity(rel, CMD_DELETE);
}

/* ---- preparing ---- */

static bool
is_foreign_function(Oid function, void *context)
{
	return function >= FirstNormalObjectId;
}

/* Does an expression call what somebody may replace? */
static bool
has_foreign_function(Node *node, void *context)
{
	return node != NULL &&
		(check_functions_in_node(node, is_foreign_function, NULL) ||
		 expression_tree_walker(node, has_foreign_function, NULL));
}

/* In which of the table's keys is a conflict in a unique index one, too?  -1: in none. */
static int
find_key(const CouponTable *table, Relation index, const IndexInfo *info)
{
	if (!info->ii_Unique || info->ii_Predicate != NIL)
		return -1;
	for (int k = 0; k < table->nkeys; k++)
	{
		const CouponKey *key = &table->keys[k];
		int			found = 0;

		for (int i = 0; i < key->ncolumns; i++)
		{
			AttrNumber	column = key->columns[i];

			for (int j = 0; j < info->ii_NumIndexKeyAttrs; j++)
				found += info->ii_IndexAttrNumbers[j] == column &&
					index->rd_indcollation[j] == table->columns[column - 1].collation;
		}
		if (found == key->ncolumns)
			return k;
	}
	return -1;
}

/* Does it allow nothing that the key forbids? */
static bool
is_guard(const CouponTable *table, int key, const IndexInfo *info)
{
	return key >= 0 && info->ii_NumIndexKeyAttrs == table->keys[key].ncolumns;
}

/* Puts the index on the last key first. */
static void
put_ordered_first(CouponTableWriter *writer)
{
	ResultRelInfo *relinfo = writer->relinfo;

	for (int i = 0; i < relinfo->ri_NumIndices && writer->nordered == 0; i++)
	{
		Relation	index = relinfo->ri_IndexRelationDescs[i];
		IndexInfo  *info = relinfo->ri_IndexRelationInfo[i];
		int			key = find_key(writer->table, index, info);

		if (key != writer->table->nkeys - 1 || !is_guard(writer->table, key, info))
			continue;
		relinfo->ri_IndexRelationDescs[i] = relinfo->ri_IndexRelationDescs[0];
		relinfo->ri_IndexRelationInfo[i] = relinfo->ri_IndexRelationInfo[0];
		relinfo->ri_IndexRelationDescs[0] = index;
		relinfo->ri_IndexRelationInfo[0] = info;
		writer->nordered = 1;
	}
}

static void
prepare_indexes(CouponTableWriter *writer, Relation rel)
{
	ResultRelInfo *relinfo = writer->relinfo;
	int			guarded = 0;	/* a bit for each key */
	int			n;

	ExecOpenIndices(relinfo, false);
	put_ordered_first(writer);
	n = relinfo->ri_NumIndices;
	writer->waitless = true;
	writer->indexes = palloc(Max(n, 1) * sizeof(Oid));
	writer->keys = palloc(Max(n, 1) * sizeof(int));
	for (int i = 0; i < n; i++)
	{
		Relation	index = relinfo->ri_IndexRelationDescs[i];
		IndexInfo  *info = relinfo->ri_IndexRelationInfo[i];

		writer->indexes[i] = RelationGetRelid(index);
		writer->keys[i] = find_key(writer->table, index, info);
		if (is_guard(writer->table, writer->keys[i], info) && index->rd_index->indisvalid)
			guarded |= 1 << writer->keys[i];
		if (writer->keys[i] >= 0)
			writer->arbiters = lappend_oid(writer->arbiters, RelationGetRelid(index));
		else if (info->ii_Unique || info->ii_ExclusionOps != NULL)
			writer->waitless = false;
		/* other access methods keep pointers to the open index */
		if (index->rd_rel->relam != BTREE_AM_OID ||
			has_foreign_function((Node *) info->ii_Expressions, NULL) ||
			has_foreign_function((Node *) info->ii_Predicate, NULL))
			writer->lasting = false;
	}
	if (guarded != (1 << writer->table->nkeys) - 1)
		coupon_table_refuse(rel, "missing unique indexes", "Nothing else keeps a unit from being sold twice.",
							"Create them as the extension's script does.");
}

static CouponTableWriter *
prepare(int number, const CouponTable *table, Relation rel)
{
	uint64		changes = coupon_table_changes(number);
	MemoryContext context = AllocSetContextCreate(CurTransactionContext, "coupon table writer",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	CouponTableWriter *writer = palloc0(sizeof(CouponTableWriter));
	TupleDesc	desc;

	coupon_table_refuse_parts(rel, table);
	writer->number = number;
	writer->changes = changes;
	writer->table = table;
	writer->context = context;
	writer->estate = CreateExecutorState();
	writer->relinfo = makeNode(ResultRelInfo);
	InitResultRelInfo(writer->relinfo, rel, 0, NULL, 0);
	/* a copy: a slot that outlives the transaction must not pin the original */
	desc = CreateTupleDescCopyConstr(RelationGetDescr(rel));
	writer->lasting = desc->constr == NULL || desc->constr->num_check == 0;
	writer->row = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	writer->locked = MakeSingleTupleTableSlot(desc, &TTSOpsBufferHeapTuple);
	prepare_indexes(writer, rel);
	MemoryContextSwitchTo(oldcontext);
	writer->callback.func = forget_evaluating;
	writer->callback.arg = writer;
	MemoryContextRegisterResetCallback(context, &writer->callback);
	return writer;
}

CouponTableWriter *
coupon_writer_open(Oid oid, int operations)
{
	Relation	rel = table_open(oid, RowExclusiveLock);
	int			number;
	const CouponTable *table = coupon_table(rel, &number);
	CouponTableWriter *writer = idle[number];

	coupon_writer_refuse_nested();
	idle[number] = NULL;
	if (writer != NULL && writer->changes != coupon_table_changes(number))
	{
		MemoryContextDelete(writer->context);
		writer = NULL;
	}
	if (writer == NULL)
		writer = prepare(number, table, rel);
	else
	{
		MemoryContextSetParent(writer->context, CurTransactionContext);
		writer->relinfo->ri_RelationDesc = rel;
		for (int i = 0; i < writer->relinfo->ri_NumIndices; i++)
			writer->relinfo->ri_IndexRelationDescs[i] = index_open(writer->indexes[i], RowExclusiveLock);
	}
	coupon_writer_allow(writer, operations);
	return writer;
}

void
coupon_writer_close(CouponTableWriter *writer)
{
	int			number = writer->number;
	Relation	rel = writer->relinfo->ri_RelationDesc;

	ExecClearTuple(writer->row);
	ExecClearTuple(writer->locked);
	/* the locks go with the transaction, all at once */
	if (writer->lasting && idle[number] == NULL && writer->changes == coupon_table_changes(number))
	{
		for (int i = 0; i < writer->relinfo->ri_NumIndices; i++)
			index_close(writer->relinfo->ri_IndexRelationDescs[i], NoLock);
		MemoryContextSetParent(writer->context, TopMemoryContext);
		idle[number] = writer;
	}
	else
	{
		ExecCloseIndices(writer->relinfo);
		FreeExecutorState(writer->estate);
		MemoryContextDelete(writer->context);
	}
	table_close(rel, NoLock);
}

Relation
coupon_writer_relation(const CouponTableWriter *writer)
{
	return writer->relinfo->ri_RelationDesc;
}

Relation
coupon_writer_index(const CouponTableWriter *writer, Oid index)
{
	for (int i = 0; i < writer->relinfo->ri_NumIndices; i++)
	{
		if (writer->indexes[i] == index)
		{
			coupon_index_check(writer->relinfo->ri_IndexRelationDescs[i]);
			return writer->relinfo->ri_IndexRelationDescs[i];
		}
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("index coupon.%s is missing", get_rel_name(index)),
			 errdetail("It is not among the indexes of the table that are ready."),
			 errhint("Create it as the extension's script does.")));
	pg_unreachable();
}

/* ---- rows ---- */

static TupleTableSlot *
empty(TupleTableSlot *row)
{
	ExecClearTuple(row);
	memset(row->tts_isnull, true, row->tts_tupleDescriptor->natts);
	return row;
}

TupleTableSlot *
coupon_writer_row(CouponTableWriter *writer)
{
	return empty(writer->row);
}

TupleTableSlot *
coupon_writer_new_row(const CouponTableWriter *writer)
{
	return empty(MakeSingleTupleTableSlot(writer->row->tts_tupleDescriptor, &TTSOpsVirtual));
}

static CommandId
command_id(const char *operation)
{
	PreventCommandIfReadOnly(operation);
	return GetCurrentCommandId(true);
}

/* The row is complete: makes it one that can be stored, and checks it. */
static void
finish_row(CouponTableWriter *writer, TupleTableSlot *row)
{
	Relation	rel = writer->relinfo->ri_RelationDesc;

	ExecStoreVirtualTuple(row);
	row->tts_tableOid = RelationGetRelid(rel);
	if (rel->rd_att->constr != NULL)
	{
		evaluating = writer->lasting ? NULL : writer;
		ExecConstraints(writer->relinfo, row, writer->estate);
		evaluating = NULL;
	}
}

/* Returns the arbiters in which the row is in conflict. */
static List *
insert_index_entries(CouponTableWriter *writer, TupleTableSlot *row, bool update, List *arbiters,
					 bool only_summarizing)
{
	List	   *conflicts;
	bool		conflict;

	evaluating = writer->lasting ? NULL : writer;
	conflicts = coupon_insert_index_tuples(writer->relinfo, row, writer->estate, update,
										   arbiters != NIL, &conflict, arbiters, only_summarizing);
	evaluating = NULL;
	return conflicts;
}

/*
 * Is there another row with the same key, by this snapshot, that stands or may
 * come to stand?  *missed: see coupon_index_next.
 */
static bool
key_is_taken(CouponTableWriter *writer, TupleTableSlot *row, Relation index, Snapshot snapshot,
			 bool *missed)
{
	Relation	rel = writer->relinfo->ri_RelationDesc;
	TupleTableSlot *other = table_slot_create(rel, NULL);
	int			nkeys = IndexRelationGetNumberOfKeyAttributes(index);
	ScanKeyData keys[INDEX_MAX_KEYS];
	IndexScanDesc scan;
	bool		taken = false;

	for (int i = 0; i < nkeys; i++)
	{
		Oid			equal = get_opfamily_member(index->rd_opfamily[i], index->rd_opcintype[i],
												index->rd_opcintype[i], BTEqualStrategyNumber);

		ScanKeyEntryInitialize(&keys[i], 0, i + 1, BTEqualStrategyNumber, InvalidOid,
							   index->rd_indcollation[i], get_opcode(equal),
							   row->tts_values[index->rd_index->indkey.values[i] - 1]);
	}
	scan = coupon_index_beginscan(rel, index, snapshot, nkeys);
	index_rescan(scan, keys, nkeys, NULL, 0);
	while (!taken && coupon_index_next(scan, ForwardScanDirection, other, missed))
		taken = !ItemPointerEquals(&other->tts_tid, &row->tts_tid) && !coupon_row_withdrawn(other);
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(other);
	return taken;
}

/*
 * Of the keys in which the row is in conflict, those in which it is so with
 * more than rows that were withdrawn.  An index takes these for rows that may
 * come to stand as long as their transactions run.
 */
static List *
real_conflicts(CouponTableWriter *writer, TupleTableSlot *row, List *conflicts)
{
	ListCell   *cell;

	foreach(cell, conflicts)
	{
		Relation	index = coupon_writer_index(writer, lfirst_oid(cell));
		SnapshotData dirty;
		bool		missed = false;
		bool		taken;

		InitDirtySnapshot(dirty);
		taken = key_is_taken(writer, row, index, &dirty, &missed);
		if (!taken && missed)
		{
			Snapshot	latest = RegisterSnapshot(GetLatestSnapshot());

			taken = key_is_taken(writer, row, index, latest, &missed);
			UnregisterSnapshot(latest);
		}
		if (!taken)
			conflicts = foreach_delete_current(conflicts, cell);
	}
	return conflicts;
}

/* The first key with an arbiter among those in conflict; -1: there is none. */
static int
first_key(CouponTableWriter *writer, List *conflicts)
{
	int			result = -1;

	for (int i = 0; conflicts != NIL && i < writer->relinfo->ri_NumIndices; i++)
	{
		if (list_member_oid(conflicts, writer->indexes[i]) && (result < 0 || writer->keys[i] < result))
			result = writer->keys[i];
	}
	list_free(conflicts);
	return result;
}

/*
 * Enters a row that was written into some of the indexes, from the first on so
 * many; the key in which it is in conflict, or -1.  An ERROR takes the writer away.
 */
static int
enter_row(CouponTableWriter *writer, TupleTableSlot *row, int first, int n)
{
	ResultRelInfo *relinfo = writer->relinfo;
	int			nindexes = relinfo->ri_NumIndices;
	List	   *conflicts;

	relinfo->ri_NumIndices = n;
	relinfo->ri_IndexRelationDescs += first;
	relinfo->ri_IndexRelationInfo += first;
	conflicts = insert_index_entries(writer, row, false, writer->arbiters, false);
	relinfo->ri_NumIndices = nindexes;
	relinfo->ri_IndexRelationDescs -= first;
	relinfo->ri_IndexRelationInfo -= first;
	return conflicts == NIL ? -1 : first_key(writer, real_conflicts(writer, row, conflicts));
}

/*
 * The index entries of rows that were written, index by index, so that each one's
 * pages are met while they are in the caches.  Returns how many rows are in all of
 * them, *key for the next one.
 */
static int
enter_rows(CouponTableWriter *writer, TupleTableSlot **rows, int n, const int *numbers, int *key)
{
	int			nordered = n == 1 ? 0 : writer->nordered;
	int			nothers = writer->relinfo->ri_NumIndices - nordered;
	int			limit = n;

	for (int i = 0; i < n && nothers > 0; i++)
	{
		int			number = n == 1 ? 0 : numbers[i];
		int			conflict;

		if (number >= limit)
			continue;
		conflict = enter_row(writer, rows[number], nordered, nothers);
		if (conflict >= 0)
		{
			limit = number;
			*key = conflict;
		}
	}
	for (int i = 0; i < limit && nordered > 0; i++)
	{
		int			conflict = enter_row(writer, rows[i], 0, nordered);

		if (conflict >= 0)
		{
			limit = i;
			*key = conflict;
		}
	}
	return limit;
}

/*
 * Speculative insertion costs another WAL record a row.  Without it the row is
 * deleted again after a conflict; but who applies the decoded log would meet
 * the conflict, too.
 */
static int
insert_speculatively(CouponTableWriter *writer, TupleTableSlot *row)
{
	Relation	rel = writer->relinfo->ri_RelationDesc;
	uint32		token = SpeculativeInsertionLockAcquire(GetCurrentTransactionId());
	List	   *conflicts;

	table_tuple_insert_speculative(rel, row, command_id("INSERT"), 0, NULL, token);
	COUPON_FAULT(row_speculative);
	conflicts = insert_index_entries(writer, row, false, writer->arbiters, false);
	table_tuple_complete_speculative(rel, row, token, conflicts == NIL);
	SpeculativeInsertionLockRelease(GetCurrentTransactionId());
	return first_key(writer, conflicts);
}

void
coupon_writer_insert(CouponTableWriter *writer)
{
	finish_row(writer, writer->row);
	table_tuple_insert(writer->relinfo->ri_RelationDesc, writer->row, command_id("INSERT"), 0, NULL);
	COUPON_FAULT(row_written);
	(void) insert_index_entries(writer, writer->row, false, NIL, false);
	ResetPerTupleExprContext(writer->estate);
}

int
coupon_writer_insert_unless(CouponTableWriter *writer)
{
	int			key;

	(void) coupon_writer_insert_many_unless(writer, &writer->row, 1, NULL, &key);
	return key;
}

bool
coupon_writer_takes_many(const CouponTableWriter *writer)
{
	return writer->waitless && !RelationIsLogicallyLogged(writer->relinfo->ri_RelationDesc);
}

int
coupon_writer_insert_many_unless(CouponTableWriter *writer, TupleTableSlot **rows, int n,
								 const int *numbers, int *key)
{
	Relation	rel = writer->relinfo->ri_RelationDesc;
	int			ninserted = 0;

	*key = -1;
	for (int i = 0; i < n; i++)
		finish_row(writer, rows[i]);
	if (RelationIsLogicallyLogged(rel))
	{
		while (ninserted < n && (*key = insert_speculatively(writer, rows[ninserted])) < 0)
			ninserted++;
	}
	else
	{
		if (n == 1)
			table_tuple_insert(rel, rows[0], command_id("INSERT"), 0, NULL);
		else
		{
			TupleTableSlot **stored = palloc(n * sizeof(TupleTableSlot *));

			for (int i = 0; i < n; i++)
				stored[i] = rows[numbers[i]];
			table_multi_insert(rel, stored, n, command_id("INSERT"), 0, NULL);
		}
		COUPON_FAULT(row_written);
		ninserted = enter_rows(writer, rows, n, numbers, key);
		/* only a later command can delete rows */
		if (ninserted < n)
		{
			COUPON_FAULT(row_refused);
			CommandCounterIncrement();
		}
		for (int i = ninserted; i < n; i++)
			simple_table_tuple_delete(rel, &rows[i]->tts_tid, InvalidSnapshot);
	}
	ResetPerTupleExprContext(writer->estate);
	return ninserted;
}

void
coupon_writer_insert_many(CouponTableWriter *writer, TupleTableSlot **rows, int n,
						  struct BulkInsertStateData *bulk)
{
	ResultRelInfo *relinfo = writer->relinfo;

	if (n == 0)
		return;
	for (int i = 0; i < n; i++)
		finish_row(writer, rows[i]);
	if (n == 1 && bulk == NULL)
		table_tuple_insert(relinfo->ri_RelationDesc, rows[0], command_id("INSERT"), 0, NULL);
	else
		table_multi_insert(relinfo->ri_RelationDesc, rows, n, command_id("INSERT"), 0, bulk);
	for (int i = 0; i < n && relinfo->ri_NumIndices > 0; i++)
		(void) insert_index_entries(writer, rows[i], false, NIL, false);
	ResetPerTupleExprContext(writer->estate);
}

static CouponRowChange
judge(TM_Result result)
{
	switch (result)
	{
		case TM_Ok:
			return COUPON_ROW_CHANGED;
		case TM_BeingModified:
		case TM_WouldBlock:
			return COUPON_ROW_LOCKED;
		case TM_SelfModified:
		case TM_Updated:
		case TM_Deleted:
			return COUPON_ROW_STALE;
		default:
			elog(ERROR, "unexpected result %d of a row's change", result);
	}
	return COUPON_ROW_STALE;
}

/* Locks the row for a change, without waiting. */
static CouponRowChange
lock_row(CouponTableWriter *writer, ItemPointer tid, LockTupleMode mode)
{
	TM_FailureData failure;
	TM_Result	result;

	result = table_tuple_lock(writer->relinfo->ri_RelationDesc, tid, InvalidSnapshot, writer->locked,
							  GetCurrentCommandId(true), mode, LockWaitSkip, 0, &failure);
	ExecClearTuple(writer->locked);
	return judge(result);
}

CouponRowChange
coupon_writer_update(CouponTableWriter *writer, ItemPointer tid, bool wait)
{
	Relation	rel = writer->relinfo->ri_RelationDesc;
	CouponRowChange change;
	TM_FailureData failure;
	LockTupleMode mode;
	TU_UpdateIndexes indexes;

	finish_row(writer, writer->row);

	/* heap_update does not know how not to wait */
	if (!wait)
	{
		change = lock_row(writer, tid, LockTupleNoKeyExclusive);
		if (change != COUPON_ROW_CHANGED)
			return change;
	}
	change = judge(coupon_table_tuple_update(rel, tid, writer->row, command_id("UPDATE"), true,
											 &failure, &mode, &indexes));
	if (change == COUPON_ROW_CHANGED)
		COUPON_FAULT(row_updated);
	if (change == COUPON_ROW_CHANGED && indexes != TU_None)
		(void) insert_index_entries(writer, writer->row, true, NIL, indexes == TU_Summarizing);
	ResetPerTupleExprContext(writer->estate);
	return change;
}

CouponRowChange
coupon_writer_delete(CouponTableWriter *writer, ItemPointer tid, bool wait)
{
	Relation	rel = writer->relinfo->ri_RelationDesc;
	TM_FailureData failure;
	TM_Result	result;

	result = table_tuple_delete(rel, tid, command_id("DELETE"), InvalidSnapshot,
								InvalidSnapshot, wait, &failure, false);
	/* a lock of our own is no obstacle, but only a locker can tell */
	if (result == TM_BeingModified && !wait)
	{
		CouponRowChange change = lock_row(writer, tid, LockTupleExclusive);

		if (change != COUPON_ROW_CHANGED)
			return change;
		result = table_tuple_delete(rel, tid, command_id("DELETE"), InvalidSnapshot,
									InvalidSnapshot, true, &failure, false);
	}
	return judge(result);
}
