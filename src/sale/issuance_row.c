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
#include "storage/lmgr.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "sale/issuance_table.h"
#include "sale/policy.h"

void
coupon_issuance_row_begin(CouponIssuanceRow *row, const CouponDefinition *def, CouponTableWriter *writer)
{
	coupon_writer_allow(writer, COUPON_UPDATE | COUPON_DELETE);
	row->def = def;
	row->writer = writer;
	row->index = coupon_writer_index(writer, coupon_catalog()->issuance_serial_key);
	row->keys[1].sk_attno = 0;	/* nothing was looked for yet */
	coupon_key_int64(&row->keys[0], 1, BTEqualStrategyNumber, def->campaign_id);
	InitDirtySnapshot(row->dirty);
	row->slot = table_slot_create(coupon_writer_relation(writer), NULL);
	row->scan = coupon_index_beginscan(coupon_writer_relation(writer), row->index, &row->dirty, 2);
}

void
coupon_issuance_row_end(CouponIssuanceRow *row)
{
	index_endscan(row->scan);
	ExecDropSingleTupleTableSlot(row->slot);
}

static text *
copy_attribute(TupleTableSlot *slot, int column)
{
	return slot->tts_isnull[column - 1] ? NULL : DatumGetTextPCopy(slot->tts_values[column - 1]);
}

/* One look through the index; *missed: what was not found may be there. */
static bool
find_version(CouponIssuanceRow *row, Snapshot snapshot, bool *missed)
{
	*missed = false;
	ExecClearTuple(row->slot);
	row->scan->xs_snapshot = snapshot;
	index_rescan(row->scan, row->keys, 2, NULL, 0);
	return coupon_index_next(row->scan, ForwardScanDirection, row->slot, missed);
}

static bool
find_row(CouponIssuanceRow *row)
{
	bool		found;
	bool		missed;

	while (!(found = find_version(row, &row->dirty, &missed)) && missed)
	{
		Snapshot	latest;

		CommandCounterIncrement();
		latest = RegisterSnapshot(GetLatestSnapshot());
		/* if there is one, it was updated in the moment of the look */
		found = find_version(row, latest, &missed);
		ExecClearTuple(row->slot);
		row->scan->xs_snapshot = &row->dirty;
		UnregisterSnapshot(latest);
		if (!found)
			break;
	}
	return found;
}

CouponUnitState
coupon_issuance_row_find(CouponIssuanceRow *row, int64 serial, TimestampTz now)
{
	TupleTableSlot *slot = row->slot;

	row->state = COUPON_UNIT_FREE;
	coupon_key_int64(&row->keys[1], 2, BTEqualStrategyNumber, serial);
	if (!find_row(row))
		return row->state;

	coupon_issuance_read(slot, &row->issuance);
	slot_getallattrs(slot);
	row->user_id = copy_attribute(slot, Issuance_user_id);
	row->confirm_ref = copy_attribute(slot, Issuance_confirm_ref);
	row->xid = TransactionIdIsValid(row->dirty.xmin) ? row->dirty.xmin : row->dirty.xmax;
	row->token = row->dirty.speculativeToken;
	if (TransactionIdIsValid(row->xid))
		row->state = COUPON_UNIT_UNDECIDED;
	else if (row->issuance.held_until == 0)
		row->state = COUPON_UNIT_ISSUED;
	else
		row->state = row->issuance.held_until > now ? COUPON_UNIT_HELD : COUPON_UNIT_LAPSED;
	return row->state;
}

void
coupon_issuance_row_pause(CouponIssuanceRow *row)
{
	ExecClearTuple(row->slot);
	if (row->keys[1].sk_attno != 0)
		index_rescan(row->scan, row->keys, 2, NULL, 0);
}

void
coupon_issuance_row_wait(CouponIssuanceRow *row)
{
	ItemPointerData tid = row->slot->tts_tid;

	coupon_issuance_row_pause(row);
	if (row->token != 0)
		SpeculativeInsertionWait(row->xid, row->token);
	else
		XactLockTableWait(row->xid, coupon_writer_relation(row->writer), &tid, XLTW_Update);
}

bool
coupon_issuance_row_remove(CouponIssuanceRow *row, CouponWait wait)
{
	/* the row may be of this very command */
	CommandCounterIncrement();
	return coupon_writer_delete(row->writer, &row->slot->tts_tid, wait == COUPON_WAIT) == COUPON_ROW_CHANGED;
}

Jsonb *
coupon_issuance_row_policy(CouponIssuanceRow *row)
{
	return DatumGetJsonbP(row->slot->tts_values[Issuance_policy - 1]);
}

bool
coupon_issuance_row_confirm(CouponIssuanceRow *row, TimestampTz now, text *confirm_ref)
{
	TupleTableSlot *changed = coupon_writer_row(row->writer);
	CouponIssuance *issuance = &row->issuance;
	int32		days = coupon_policy_usage_period(coupon_issuance_row_policy(row));

	issuance->issued_at = now;
	issuance->expires_at = days == 0 ? DT_NOEND : now + days * USECS_PER_DAY;
	issuance->held_until = 0;

	memcpy(changed->tts_values, row->slot->tts_values, Issuance_natts * sizeof(Datum));
	memcpy(changed->tts_isnull, row->slot->tts_isnull, Issuance_natts * sizeof(bool));
	changed->tts_values[Issuance_issued_at - 1] = TimestampTzGetDatum(now);
	changed->tts_values[Issuance_expires_at - 1] = TimestampTzGetDatum(issuance->expires_at);
	changed->tts_isnull[Issuance_expires_at - 1] = issuance->expires_at == DT_NOEND;
	changed->tts_values[Issuance_state - 1] = coupon_issuance_state(false);
	changed->tts_isnull[Issuance_held_until - 1] = true;
	changed->tts_values[Issuance_confirm_ref - 1] = PointerGetDatum(confirm_ref);
	changed->tts_isnull[Issuance_confirm_ref - 1] = confirm_ref == NULL;

	CommandCounterIncrement();
	return coupon_writer_update(row->writer, &row->slot->tts_tid, true) == COUPON_ROW_CHANGED;
}
