/*
 * issuance_table.c
 *	  The rows of coupon.issuance: found, and inserted under their constraints.
 *
 * Works below the executor, with the table and index access methods, because
 * that is where half of an SQL statement's time goes.  What the executor
 * would do for the table is done here: all its indexes are maintained, also
 * those that a DBA adds, and CHECK constraints are evaluated.  Row triggers
 * are not fired: our own guard what this file keeps by construction, and a
 * foreign one is refused rather than skipped, as are added columns.
 *
 * A conflict in a unique index is an answer, not an ERROR.  INSERT ... ON
 * CONFLICT gets that by speculative insertion, which costs another WAL record
 * a row.  Here it is cheaper: the stock map gives a serial to one session
 * only, and a user is locked while his row is inserted, so of two sessions
 * that want the same user one is first.  The other one's insertion into the
 * index tells it so, and its row is deleted again.
 *
 * Reads use dirty snapshots: they see what is committed now and what others
 * are about to commit, at every isolation level, as a unique index does.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "base/locks.h"
#include "sale/issuance_table_layout.h"

static CouponIssuanceTable store_cache;

static void
relcache_callback(Datum arg, Oid relid)
{
	bool		ours = relid == InvalidOid || relid == store_cache.relid;

	for (int i = 0; i < store_cache.nindexes && !ours; i++)
		ours = relid == store_cache.indexes[i];
	if (ours)
	{
		store_cache.valid = false;
		store_cache.invalidations++;
	}
}

/*
 * Refuses what an insertion below the executor would silently pass over:
 * foreign triggers, and columns that have defaults or are generated.
 */
static void
refuse_foreign_parts(Relation rel)
{
	TriggerDesc *triggers = rel->trigdesc;

	if (RelationGetNumberOfAttributes(rel) != Issuance_natts)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("columns added to coupon.issuance are not supported"),
				 errdetail("The table has %d columns, coupon knows %d.",
						   RelationGetNumberOfAttributes(rel), Issuance_natts),
				 errhint("Keep data of your own in a table that references (campaign_id, serial).")));

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (!TRIGGER_FOR_INSERT(trigger->tgtype) || trigger->tgenabled == TRIGGER_DISABLED)
			continue;
		if (trigger->tgisinternal && trigger->tgconstrrelid != coupon_catalog()->shard)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("constraints added to coupon.issuance that need triggers are not supported"),
					 errdetail("Constraint \"%s\" would not be checked.",
							   get_constraint_name(trigger->tgconstraint)),
					 errhint("Drop it, and check what it checks before issuing.")));
		if (!trigger->tgisinternal && strcmp(trigger->tgname, "issuance_guard") != 0 &&
			strcmp(trigger->tgname, "issuance_arrived") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("trigger \"%s\" on coupon.issuance is not supported", trigger->tgname),
					 errdetail("Issuing writes the table below the level at which INSERT triggers fire."),
					 errhint("Drop the trigger, and read the events in coupon.outbox instead.")));
	}
}

/*
 * A trigger that an update or a deletion below the executor would pass over:
 * also what a foreign key that references the table has put there.
 */
static const char *
find_foreign_change(Relation rel)
{
	static const char *const ours[] = {"issuance_guard", "issuance_arrived", "issuance_returned"};
	TriggerDesc *triggers = rel->trigdesc;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];
		bool		known = trigger->tgisinternal && trigger->tgconstrrelid == coupon_catalog()->shard;

		if (trigger->tgenabled == TRIGGER_DISABLED ||
			!(TRIGGER_FOR_UPDATE(trigger->tgtype) || TRIGGER_FOR_DELETE(trigger->tgtype)))
			continue;
		for (size_t k = 0; k < lengthof(ours) && !trigger->tgisinternal; k++)
			known |= strcmp(trigger->tgname, ours[k]) == 0;
		if (!known)
			return pstrdup(trigger->tgisinternal ? get_constraint_name(trigger->tgconstraint) :
						   trigger->tgname);
	}
	return NULL;
}

static void
prepare_store(CouponIssuanceTable *store, Relation rel)
{
	static bool registered = false;
	MemoryContext oldcontext;
	TupleDesc	desc;
	uint64		invalidations;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
		registered = true;
	}
	if (store->context == NULL)
		store->context = AllocSetContextCreate(TopMemoryContext, "coupon store",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(store->context);

	refuse_foreign_parts(rel);

	oldcontext = MemoryContextSwitchTo(store->context);
	store->valid = false;
	store->nindexes = 0;
	store->relid = RelationGetRelid(rel);
	invalidations = store->invalidations;
	store->estate = CreateExecutorState();
	store->relinfo = makeNode(ResultRelInfo);
	InitResultRelInfo(store->relinfo, rel, 0, NULL, 0);
	ExecOpenIndices(store->relinfo, false);
	store->indexes = palloc(Max(store->relinfo->ri_NumIndices, 1) * sizeof(Oid));
	store->lasting = true;
	for (int i = 0; i < store->relinfo->ri_NumIndices; i++)
	{
		Relation	index = store->relinfo->ri_IndexRelationDescs[i];

		store->indexes[i] = RelationGetRelid(index);
		if (index->rd_rel->relam != BTREE_AM_OID)
			store->lasting = false;
	}
	store->nindexes = store->relinfo->ri_NumIndices;
	/* a copy: a slot that outlives the transaction must not pin the original */
	desc = CreateTupleDescCopyConstr(RelationGetDescr(rel));
	store->slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	store->checks = desc->constr != NULL && desc->constr->num_check > 0;
	store->issued = cstring_to_text("issued");
	store->held = cstring_to_text("held");
	store->foreign_change = find_foreign_change(rel);
	MemoryContextSwitchTo(oldcontext);

	/*
	 * Good for the next call, too, unless the table changed meanwhile.  Other
	 * access methods than btree keep pointers to the open index.
	 */
	store->valid = store->lasting && store->invalidations == invalidations;
}

CouponIssuanceTable *
coupon_issuance_open(void)
{
	CouponIssuanceTable *store = &store_cache;
	Relation	rel = table_open(coupon_catalog()->issuance, RowExclusiveLock);

	if (store->valid && store->relid == RelationGetRelid(rel))
	{
		store->relinfo->ri_RelationDesc = rel;
		for (int i = 0; i < store->relinfo->ri_NumIndices; i++)
			store->relinfo->ri_IndexRelationDescs[i] =
				index_open(store->indexes[i], RowExclusiveLock);
	}
	else
		prepare_store(store, rel);
	return store;
}

void
coupon_issuance_close(CouponIssuanceTable *store)
{
	ExecClearTuple(store->slot);
	if (store->lasting)
	{
		for (int i = 0; i < store->relinfo->ri_NumIndices; i++)
			index_close(store->relinfo->ri_IndexRelationDescs[i], NoLock);
	}
	else
		ExecCloseIndices(store->relinfo);
	table_close(store->relinfo->ri_RelationDesc, NoLock);
}

/* ---- finding ---- */

bool
coupon_same_text(const text *a, const text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

void
coupon_issuance_read(TupleTableSlot *slot, CouponIssuance *issuance)
{
	slot_getsomeattrs(slot, Issuance_held_until);
	issuance->serial = DatumGetInt64(slot->tts_values[Issuance_serial - 1]);
	issuance->shard = DatumGetInt32(slot->tts_values[Issuance_shard - 1]);
	issuance->nth = DatumGetInt32(slot->tts_values[Issuance_nth - 1]);
	issuance->issued_at = DatumGetTimestampTz(slot->tts_values[Issuance_issued_at - 1]);
	issuance->expires_at = slot->tts_isnull[Issuance_expires_at - 1] ? DT_NOEND :
		DatumGetTimestampTz(slot->tts_values[Issuance_expires_at - 1]);
	issuance->held_until = slot->tts_isnull[Issuance_held_until - 1] ? 0 :
		DatumGetTimestampTz(slot->tts_values[Issuance_held_until - 1]);
	issuance->code = NULL;
}

/* A row of a transaction that has yet to decide. */
typedef struct Undecided
{
	TransactionId xid;			/* invalid: there is none */
	uint32		token;			/* of a speculative insertion */
	ItemPointerData tid;
} Undecided;

/*
 * What a row waits for: its insertion, or, of a hold that has run out, what
 * another transaction makes of it.
 */
static void
note_undecided(CouponLookup *lookup, const CouponIssuance *row, Undecided *pending)
{
	pending->xid = lookup->dirty.xmin;
	if (!TransactionIdIsValid(pending->xid) &&
		row->held_until != 0 && row->held_until <= lookup->now)
		pending->xid = lookup->dirty.xmax;
	pending->token = lookup->dirty.speculativeToken;
	pending->tid = lookup->slot->tts_tid;
}

/* What a row says of its user, once all of its versions have been seen. */
static void
judge_row(CouponLookup *lookup, const CouponIssuance *row, const Undecided *pending,
		  CouponIssuance *found, CouponIssuance *lapsed, Undecided *undecided)
{
	if (TransactionIdIsValid(pending->xid))
		*undecided = *pending;
	else if (row->held_until == 0)
	{
		if (found->held_until != 0)
			*found = *row;
	}
	else if (row->held_until <= lookup->now)
		*lapsed = *row;
	else if (lookup->hold.serial == 0)
		lookup->hold = *row;
}

/*
 * One look at a user's rows, from the highest nth down.  Fills *found with
 * the newest row, or with a free nth; *undecided with a row to wait for, if
 * only that one stands in the way.  A row that is being updated has two live
 * versions with the same nth; it is there whatever becomes of the update.
 *
 * Where nothing is free, a hold that has run out comes before all else, then
 * issuances, then holds.
 */
static CouponUserState
look_at_user(CouponLookup *lookup, Datum user_id, CouponIssuance *found, int *room,
			 Undecided *undecided)
{
	int32		limit = lookup->def->per_user_limit;
	TupleTableSlot *slot = lookup->slot;
	Undecided	pending = {0};	/* of the row being looked at */
	CouponIssuance row = {0};	/* that with the nth seen last */
	CouponIssuance lapsed = {0};
	int32		below = 0;		/* the nth seen last, 0: none yet */

	*room = 1;
	undecided->xid = InvalidTransactionId;
	lookup->hold.serial = 0;
	coupon_key_text(&lookup->keys[1], 2, user_id);
	index_rescan(lookup->scan, lookup->keys, 2, NULL, 0);

	while (index_getnext_slot(lookup->scan, BackwardScanDirection, slot))
	{
		bool		isnull;
		int32		nth = DatumGetInt32(slot_getattr(slot, Issuance_nth, &isnull));

		CHECK_FOR_INTERRUPTS();
		if (nth == below)
		{
			/* the version that is there if the update of the row is undone */
			if (!TransactionIdIsValid(lookup->dirty.xmin))
			{
				coupon_issuance_read(slot, &row);
				note_undecided(lookup, &row, &pending);
				if (found->nth == nth)
					*found = row;
			}
			continue;
		}
		if (below != 0)
		{
			judge_row(lookup, &row, &pending, found, &lapsed, undecided);
			if (nth < below - 1)
				break;			/* a gap that a revocation left */
		}

		coupon_issuance_read(slot, &row);
		if (below == 0)
		{
			*found = row;
			if (nth < limit)
			{
				found->nth = nth + 1;
				*room = limit - nth;
				return COUPON_USER_MAY_HAVE;
			}
		}
		below = nth;
		note_undecided(lookup, &row, &pending);
	}
	if (below > 0)
		judge_row(lookup, &row, &pending, found, &lapsed, undecided);

	if (below != 1)
	{
		if (below == 0)
			*room = limit;
		found->nth = below == 0 ? 1 : below - 1;
		return COUPON_USER_MAY_HAVE;
	}
	if (lapsed.serial != 0)
	{
		*found = lapsed;
		undecided->xid = InvalidTransactionId;
		return COUPON_USER_LAPSED;
	}
	if (found->held_until != 0 && lookup->hold.serial != 0)
		*found = lookup->hold;
	return COUPON_USER_HAS;
}

Relation
coupon_issuance_index(CouponIssuanceTable *store, Oid oid, const char *name)
{
	for (int i = 0; i < store->relinfo->ri_NumIndices; i++)
	{
		if (store->indexes[i] == oid)
			return store->relinfo->ri_IndexRelationDescs[i];
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("index coupon.%s is missing", name),
			 errdetail("It is not among the indexes of the table that are ready."),
			 errhint("Without it a unit could be issued twice: restore the constraint.")));
	pg_unreachable();
}

/* The relations of an open store, or opened for reading alone. */
static void
open_relations(CouponLookup *lookup)
{
	const CouponCatalog *catalog = coupon_catalog();
	CouponIssuanceTable *store = lookup->store;

	if (store == NULL)
	{
		lookup->heap = table_open(catalog->issuance, AccessShareLock);
		lookup->index = index_open(catalog->issuance_user_key, AccessShareLock);
		return;
	}

	lookup->heap = store->relinfo->ri_RelationDesc;
	lookup->index = coupon_issuance_index(store, catalog->issuance_user_key, "issuance_user_key");
}

void
coupon_lookup_begin(CouponLookup *lookup, const CouponDefinition *def, CouponIssuanceTable *store)
{
	lookup->def = def;
	lookup->store = store;
	open_relations(lookup);

	coupon_key_int64(&lookup->keys[0], 1, BTEqualStrategyNumber, def->campaign_id);
	InitDirtySnapshot(lookup->dirty);
	lookup->slot = table_slot_create(lookup->heap, NULL);
	lookup->scan = coupon_index_beginscan(lookup->heap, lookup->index, &lookup->dirty, 2);
}

void
coupon_lookup_end(CouponLookup *lookup)
{
	index_endscan(lookup->scan);
	ExecDropSingleTupleTableSlot(lookup->slot);
	if (lookup->store == NULL)
	{
		index_close(lookup->index, NoLock);
		table_close(lookup->heap, NoLock);
	}
}

void
coupon_lookup_pause(CouponLookup *lookup)
{
	ExecClearTuple(lookup->slot);
	index_rescan(lookup->scan, lookup->keys, 2, NULL, 0);
}

CouponUserState
coupon_lookup_user(CouponLookup *lookup, Datum user_id, CouponWait wait,
				   CouponIssuance *found, int *room)
{
	const CouponDefinition *def = lookup->def;

	for (;;)
	{
		Undecided	undecided;
		CouponUserState state;

		lookup->now = GetCurrentTimestamp();
		state = look_at_user(lookup, user_id, found, room, &undecided);
		if (state == COUPON_USER_MAY_HAVE || !TransactionIdIsValid(undecided.xid))
		{
			if (state == COUPON_USER_HAS && found->held_until == 0 && def->coded)
				found->code = coupon_issuance_label(def->campaign_id, found->serial);
			return state;
		}
		if (wait == COUPON_NO_WAIT)
			return COUPON_USER_LOCKED;

		coupon_lookup_pause(lookup);

		/*
		 * As a unique index does: whoever came first decides.  A speculative
		 * insertion is somebody else's INSERT ... ON CONFLICT.
		 */
		if (undecided.token != 0)
			SpeculativeInsertionWait(undecided.xid, undecided.token);
		else
			XactLockTableWait(undecided.xid, lookup->heap,
							  &undecided.tid, XLTW_InsertIndex);
	}
}

int
coupon_lookup_numbers(CouponLookup *lookup, Datum user_id, int wanted, int32 *nths,
					  bool *undecided, int64 *lapsed)
{
	int32		limit = lookup->def->per_user_limit;
	uint8		used[COUPON_MAX_PER_USER_LIMIT / 8 + 1];
	TupleTableSlot *slot = lookup->slot;
	int			nfound = 0;

	*undecided = false;
	*lapsed = 0;
	memset(used, 0, Min(limit, COUPON_MAX_PER_USER_LIMIT) / 8 + 1);
	lookup->now = GetCurrentTimestamp();
	coupon_key_text(&lookup->keys[1], 2, user_id);
	index_rescan(lookup->scan, lookup->keys, 2, NULL, 0);
	while (index_getnext_slot(lookup->scan, ForwardScanDirection, slot))
	{
		CouponIssuance row;

		CHECK_FOR_INTERRUPTS();
		coupon_issuance_read(slot, &row);
		if (row.nth >= 1 && row.nth <= COUPON_MAX_PER_USER_LIMIT)
			used[(row.nth - 1) / 8] |= 1 << ((row.nth - 1) % 8);
		if (TransactionIdIsValid(lookup->dirty.xmin) || TransactionIdIsValid(lookup->dirty.xmax))
			*undecided = true;
		else if (row.held_until != 0 && row.held_until <= lookup->now)
			*lapsed = row.serial;
	}
	for (int32 nth = 1; nth <= limit && nfound < wanted; nth++)
	{
		if (!(used[(nth - 1) / 8] & (1 << ((nth - 1) % 8))))
			nths[nfound++] = nth;
	}
	return nfound;
}

text *
coupon_issuance_label(int64 campaign_id, int64 serial)
{
	const CouponCatalog *catalog = coupon_catalog();
	ScanKeyData keys[2];
	CouponScan	scan;
	text	   *label = NULL;

	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, campaign_id);
	coupon_key_int64(&keys[1], 2, BTEqualStrategyNumber, serial);
	coupon_scan_begin(&scan, catalog->unit, catalog->unit_pkey, SnapshotSelf, keys, 2, false);
	if (coupon_scan_next(&scan, ForwardScanDirection))
	{
		bool		isnull;

		label = DatumGetTextPCopy(slot_getattr(scan.slot, Unit_label, &isnull));
	}
	coupon_scan_end(&scan);
	return label;
}

/* ---- inserting ---- */

static void
fill_slot(CouponIssuanceTable *store, const CouponDefinition *def, Datum user_id,
		  const CouponIssuance *issuance, text *confirm_ref)
{
	TupleTableSlot *slot = store->slot;
	bool		held = issuance->held_until != 0;
	Datum	   *values = slot->tts_values;
	bool	   *nulls = slot->tts_isnull;

	ExecClearTuple(slot);
	memset(nulls, true, Issuance_natts);
	memset(nulls, false, Issuance_policy);

	values[Issuance_campaign_id - 1] = Int64GetDatum(def->campaign_id);
	values[Issuance_serial - 1] = Int64GetDatum(issuance->serial);
	values[Issuance_shard - 1] = Int32GetDatum(issuance->shard);
	values[Issuance_nth - 1] = Int32GetDatum(issuance->nth);
	values[Issuance_issued_at - 1] = TimestampTzGetDatum(issuance->issued_at);
	values[Issuance_expires_at - 1] = TimestampTzGetDatum(issuance->expires_at);
	nulls[Issuance_expires_at - 1] = issuance->expires_at == DT_NOEND;
	values[Issuance_user_id - 1] = user_id;
	values[Issuance_state - 1] = PointerGetDatum(held ? store->held : store->issued);
	values[Issuance_held_until - 1] = TimestampTzGetDatum(issuance->held_until);
	nulls[Issuance_held_until - 1] = !held;
	values[Issuance_confirm_ref - 1] = PointerGetDatum(confirm_ref);
	nulls[Issuance_confirm_ref - 1] = confirm_ref == NULL;
	values[Issuance_policy - 1] = PointerGetDatum(COUPON_DEFINITION_POLICY(def));
	ExecStoreVirtualTuple(slot);
}

void
coupon_issuance_lock_user(const CouponDefinition *def, Datum user_id)
{
	coupon_lock(COUPON_LOCK_USER, coupon_user_hash(user_id, def->campaign_id));
}

void
coupon_issuance_unlock_user(const CouponDefinition *def, Datum user_id)
{
	coupon_unlock(COUPON_LOCK_USER, coupon_user_hash(user_id, def->campaign_id));
}

/*
 * Deletes the row just inserted; others see it as undecided until the
 * transaction ends.  What the index says stands in its way decides the answer.
 */
static CouponInsertion
withdraw_row(Relation rel, TupleTableSlot *slot, List *conflicting)
{
	const CouponCatalog *catalog = coupon_catalog();

	/* only a later command can delete the row */
	CommandCounterIncrement();
	simple_table_tuple_delete(rel, &slot->tts_tid, InvalidSnapshot);

	if (list_member_oid(conflicting, catalog->issuance_serial_key))
		return COUPON_SERIAL_TAKEN;
	if (list_member_oid(conflicting, catalog->issuance_user_key))
		return COUPON_USER_TAKEN;
	ereport(ERROR,
			(errcode(ERRCODE_UNIQUE_VIOLATION),
			 errmsg("issuance conflicts with a unique index that is not coupon's own"),
			 errdetail("Index \"%s\".", get_rel_name(linitial_oid(conflicting))),
			 errhint("Drop that index from coupon.issuance.")));
}

CouponInsertion
coupon_issuance_insert(CouponIssuanceTable *store, const CouponDefinition *def, Datum user_id,
					const CouponIssuance *issuance, text *confirm_ref)
{
	Relation	rel = store->relinfo->ri_RelationDesc;
	TupleTableSlot *slot = store->slot;
	CouponInsertion result = COUPON_INSERTED;
	List	   *conflicting;
	bool		conflict;

	fill_slot(store, def, user_id, issuance, confirm_ref);
	slot->tts_tableOid = RelationGetRelid(rel);
	if (store->checks)
		ExecConstraints(store->relinfo, slot, store->estate);

	coupon_issuance_lock_user(def, user_id);
	table_tuple_insert(rel, slot, GetCurrentCommandId(true), 0, NULL);
	conflicting = coupon_insert_index_tuples(store->relinfo, slot, store->estate, &conflict);
	if (conflicting != NIL)
		result = withdraw_row(rel, slot, conflicting);
	coupon_issuance_unlock_user(def, user_id);

	list_free(conflicting);
	ResetPerTupleExprContext(store->estate);
	return result;
}
