/*
 * issuance_row.c
 *	  The row of a certain serial: found, confirmed, removed.
 *
 * Below the executor as issuance_table.c, and with dirty snapshots.  The row that was
 * found stays pinned, so that what is changed is the version that was seen:
 * a change succeeds only if that is still the newest and nobody has it
 * locked.  Whoever is told otherwise looks again.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "storage/lmgr.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "sale/issuance_table_layout.h"

void
coupon_issuance_row_begin(CouponIssuanceRow *seats, const CouponDefinition *def, CouponIssuanceTable *store)
{
	Relation	rel = store->relinfo->ri_RelationDesc;

	if (store->foreign_change != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("holds do not work with triggers and foreign keys added to coupon.issuance"),
				 errdetail("\"%s\" would not fire when a hold is confirmed or ends.",
						   store->foreign_change),
				 errhint("Drop it; reference coupon.unit, and read the events in coupon.outbox instead.")));
	seats->def = def;
	seats->store = store;
	seats->index = coupon_issuance_index(store, coupon_catalog()->issuance_serial_key, "issuance_serial_key");
	seats->keys[1].sk_attno = 0;	/* nothing was looked for yet */
	coupon_key_int64(&seats->keys[0], 1, BTEqualStrategyNumber, def->campaign_id);
	InitDirtySnapshot(seats->dirty);
	seats->slot = table_slot_create(rel, NULL);
	seats->scan = coupon_index_beginscan(rel, seats->index, &seats->dirty, 2);
}

void
coupon_issuance_row_end(CouponIssuanceRow *seats)
{
	index_endscan(seats->scan);
	ExecDropSingleTupleTableSlot(seats->slot);
}

static text *
copy_attribute(TupleTableSlot *slot, int column)
{
	return slot->tts_isnull[column - 1] ? NULL : DatumGetTextPCopy(slot->tts_values[column - 1]);
}

CouponUnitState
coupon_issuance_row_find(CouponIssuanceRow *seats, int64 serial, TimestampTz now)
{
	TupleTableSlot *slot = seats->slot;

	seats->state = COUPON_UNIT_FREE;
	coupon_key_int64(&seats->keys[1], 2, BTEqualStrategyNumber, serial);
	index_rescan(seats->scan, seats->keys, 2, NULL, 0);
	if (!index_getnext_slot(seats->scan, ForwardScanDirection, slot))
	{
		ExecClearTuple(slot);
		return seats->state;
	}

	coupon_issuance_read(slot, &seats->issuance);
	slot_getallattrs(slot);
	seats->user_id = copy_attribute(slot, Issuance_user_id);
	seats->confirm_ref = copy_attribute(slot, Issuance_confirm_ref);
	seats->xid = TransactionIdIsValid(seats->dirty.xmin) ? seats->dirty.xmin : seats->dirty.xmax;
	seats->token = seats->dirty.speculativeToken;
	if (TransactionIdIsValid(seats->xid))
		seats->state = COUPON_UNIT_UNDECIDED;
	else if (seats->issuance.held_until == 0)
		seats->state = COUPON_UNIT_ISSUED;
	else
		seats->state = seats->issuance.held_until > now ? COUPON_UNIT_HELD : COUPON_UNIT_LAPSED;
	return seats->state;
}

void
coupon_issuance_row_pause(CouponIssuanceRow *seats)
{
	ExecClearTuple(seats->slot);
	if (seats->keys[1].sk_attno != 0)
		index_rescan(seats->scan, seats->keys, 2, NULL, 0);
}

void
coupon_issuance_row_wait(CouponIssuanceRow *seats)
{
	ItemPointerData tid = seats->slot->tts_tid;

	coupon_issuance_row_pause(seats);
	if (seats->token != 0)
		SpeculativeInsertionWait(seats->xid, seats->token);
	else
		XactLockTableWait(seats->xid, seats->store->relinfo->ri_RelationDesc, &tid, XLTW_Update);
}

/* What a change of a row says: was it ours to make? */
static bool
was_changed(TM_Result result)
{
	switch (result)
	{
		case TM_Ok:
			return true;
		case TM_SelfModified:
		case TM_Updated:
		case TM_Deleted:
		case TM_BeingModified:
		case TM_WouldBlock:
			return false;
		default:
			elog(ERROR, "unexpected result %d of an issuance's change", result);
	}
	return false;
}

bool
coupon_issuance_row_remove(CouponIssuanceRow *seats, CouponWait wait)
{
	Relation	rel = seats->store->relinfo->ri_RelationDesc;
	ItemPointerData tid = seats->slot->tts_tid;
	TM_FailureData failure;
	TM_Result	result;

	/* the row may be of this very command */
	CommandCounterIncrement();
	result = table_tuple_delete(rel, &tid, GetCurrentCommandId(true), InvalidSnapshot,
								InvalidSnapshot, wait == COUPON_WAIT, &failure, false);
	if (result == TM_BeingModified)
	{
		/* a lock of our own is no obstacle, but only a locker can tell */
		result = table_tuple_lock(rel, &tid, GetLatestSnapshot(), seats->slot,
								  GetCurrentCommandId(true), LockTupleExclusive, LockWaitSkip,
								  0, &failure);
		if (result == TM_Ok)
			result = table_tuple_delete(rel, &tid, GetCurrentCommandId(true), InvalidSnapshot,
										InvalidSnapshot, true, &failure, false);
	}
	return was_changed(result);
}

Jsonb *
coupon_issuance_row_policy(CouponIssuanceRow *seats)
{
	return DatumGetJsonbP(seats->slot->tts_values[Issuance_policy - 1]);
}

bool
coupon_issuance_row_confirm(CouponIssuanceRow *seats, TimestampTz now, text *confirm_ref)
{
	CouponIssuanceTable *store = seats->store;
	Relation	rel = store->relinfo->ri_RelationDesc;
	TupleTableSlot *slot = store->slot;
	CouponIssuance *issuance = &seats->issuance;
	int32		days;
	TM_FailureData failure;
	LockTupleMode mode;
	bool		any_index;

	days = coupon_policy_usage_period(coupon_issuance_row_policy(seats));
	issuance->issued_at = now;
	issuance->expires_at = days == 0 ? DT_NOEND : now + days * USECS_PER_DAY;
	issuance->held_until = 0;

	ExecClearTuple(slot);
	memcpy(slot->tts_values, seats->slot->tts_values, Issuance_natts * sizeof(Datum));
	memcpy(slot->tts_isnull, seats->slot->tts_isnull, Issuance_natts * sizeof(bool));
	slot->tts_values[Issuance_issued_at - 1] = TimestampTzGetDatum(now);
	slot->tts_values[Issuance_expires_at - 1] = TimestampTzGetDatum(issuance->expires_at);
	slot->tts_isnull[Issuance_expires_at - 1] = issuance->expires_at == DT_NOEND;
	slot->tts_values[Issuance_state - 1] = PointerGetDatum(store->issued);
	slot->tts_isnull[Issuance_held_until - 1] = true;
	slot->tts_values[Issuance_confirm_ref - 1] = PointerGetDatum(confirm_ref);
	slot->tts_isnull[Issuance_confirm_ref - 1] = confirm_ref == NULL;
	ExecStoreVirtualTuple(slot);
	slot->tts_tableOid = RelationGetRelid(rel);
	if (store->checks)
		ExecConstraints(store->relinfo, slot, store->estate);

	CommandCounterIncrement();
	if (!was_changed(coupon_table_tuple_update(rel, &seats->slot->tts_tid, slot,
											   GetCurrentCommandId(true), true,
											   &failure, &mode, &any_index)))
		return false;
	if (any_index)
		(void) coupon_insert_all_index_tuples(store->relinfo, slot, store->estate, true);
	ResetPerTupleExprContext(store->estate);
	return true;
}
