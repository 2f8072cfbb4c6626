/*
 * late_payment.c
 *	  What is remembered of holds that have run out, for payments that come late.
 *
 * That memory is what makes the answer to a late payment true: who held a
 * unit gets it if it is still free, and is told that it is lost if it is not;
 * who never held it gets nothing.  A payment that was refused is remembered
 * in its place: it will be given back, so it must never confirm anything.
 *
 * A payment has one decision.  Whoever decides by what is remembered, or
 * refuses, has the payment lock until the transaction ends, so a second call
 * for the same payment sees what became of the first.
 */
#include "postgres.h"

#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/xact.h"
#include "catalog/pg_type_d.h"
#include "common/hashfn.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/catalog.h"
#include "base/guc.h"
#include "base/locks.h"
#include "base/spi.h"
#include "base/table_writer.h"
#include "sale/late_payment.h"

static void
insert_memory(int64 campaign_id, int64 serial, TimestampTz held_until, text *user_id,
			  text *refused_ref)
{
	CouponTableWriter *writer = coupon_writer_open(coupon_catalog()->lapsed_hold, COUPON_INSERT);
	TupleTableSlot *row = coupon_writer_row(writer);

	memset(row->tts_isnull, false, Lapsed_natts);
	row->tts_values[Lapsed_campaign_id - 1] = Int64GetDatum(campaign_id);
	row->tts_values[Lapsed_serial - 1] = Int64GetDatum(serial);
	row->tts_values[Lapsed_held_until - 1] = TimestampTzGetDatum(held_until);
	row->tts_values[Lapsed_user_id - 1] = PointerGetDatum(user_id);
	row->tts_values[Lapsed_refused_ref - 1] = PointerGetDatum(refused_ref);
	row->tts_isnull[Lapsed_refused_ref - 1] = refused_ref == NULL;
	coupon_writer_insert(writer);
	coupon_writer_close(writer);
}

void
coupon_late_payment_remember(const CouponIssuanceRow *row)
{
	insert_memory(row->def->campaign_id, row->issuance.serial, row->issuance.held_until,
				  row->user_id, NULL);
}

static void
begin_memories(CouponScan *scan, const CouponIssuanceRow *row, int64 serial, text *user_id,
			   Snapshot snapshot)
{
	ScanKeyData keys[3];

	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, row->def->campaign_id);
	coupon_key_int64(&keys[1], 2, BTEqualStrategyNumber, serial);
	coupon_key_text(&keys[2], 3, PointerGetDatum(user_id));
	coupon_scan_begin(scan, coupon_catalog()->lapsed_hold, coupon_catalog()->lapsed_hold_idx,
					  snapshot, keys, 3, false);
}

void
coupon_late_payment_lock(const CouponDefinition *def, int64 serial, text *user_id)
{
	coupon_lock(COUPON_LOCK_PAYMENT,
				coupon_user_hash(PointerGetDatum(user_id), hash_combine64(def->campaign_id, serial)));
}

bool
coupon_late_payment_any(const CouponIssuanceRow *row, int64 serial, text *user_id)
{
	SnapshotData dirty;
	CouponScan	scan;
	bool		found;

	InitDirtySnapshot(dirty);
	begin_memories(&scan, row, serial, user_id, &dirty);
	found = coupon_scan_next(&scan, ForwardScanDirection);
	coupon_scan_end(&scan);
	return found;
}

CouponMemory
coupon_late_payment_recall(const CouponIssuanceRow *row, int64 serial, text *user_id, text *ref)
{
	Snapshot	snapshot;
	CouponMemory memory = COUPON_MEMORY_NONE;
	CouponScan	scan;

	CommandCounterIncrement();	/* what this transaction has written, too */
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	begin_memories(&scan, row, serial, user_id, snapshot);
	while (memory != COUPON_MEMORY_REFUSED && coupon_scan_next(&scan, ForwardScanDirection))
	{
		bool		isnull;
		Datum		refused = slot_getattr(scan.slot, Lapsed_refused_ref, &isnull);

		if (isnull)
			memory = COUPON_MEMORY_LAPSED;
		else if (coupon_same_text(DatumGetTextPP(refused), ref))
			memory = COUPON_MEMORY_REFUSED;
		else if (memory == COUPON_MEMORY_NONE)
			memory = COUPON_MEMORY_LOST;
	}
	coupon_scan_end(&scan);
	UnregisterSnapshot(snapshot);
	return memory;
}

void
coupon_late_payment_forget(const CouponIssuanceRow *row, int64 serial, text *user_id)
{
	CouponTableWriter *writer = coupon_writer_open(coupon_catalog()->lapsed_hold, COUPON_DELETE);
	Snapshot	snapshot;
	CouponScan	scan;

	CommandCounterIncrement();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	begin_memories(&scan, row, serial, user_id, snapshot);
	while (coupon_scan_next(&scan, ForwardScanDirection))
	{
		bool		isnull;

		(void) slot_getattr(scan.slot, Lapsed_refused_ref, &isnull);
		/* whoever else is at it may be undone, and then the memory stayed */
		if (isnull)
			(void) coupon_writer_delete(writer, &scan.slot->tts_tid, true);
	}
	coupon_scan_end(&scan);
	coupon_writer_close(writer);
	UnregisterSnapshot(snapshot);
}

void
coupon_late_payment_refuse(const CouponIssuanceRow *row, int64 serial, text *user_id, text *ref)
{
	coupon_late_payment_forget(row, serial, user_id);
	insert_memory(row->def->campaign_id, serial, GetCurrentTimestamp(), user_id, ref);
}

int64
coupon_late_payment_clean(int32 max_rows)
{
	/*
	 * not of a restored copy that is not checked, whose rows may come before
	 * the campaign; and who has one locked, to erase its user, is not waited
	 * for
	 */
	static CouponStatement delete = {
		"DELETE FROM coupon.lapsed_hold WHERE ctid = ANY (ARRAY("
		"  SELECT l.ctid FROM coupon.lapsed_hold l WHERE l.held_until < $2"
		"   AND (SELECT c.dumped IS NULL FROM coupon.campaign c WHERE c.campaign_id = l.campaign_id)"
		"   ORDER BY l.held_until LIMIT $1 FOR UPDATE SKIP LOCKED))",
		2, {INT4OID, TIMESTAMPTZOID}
	};

	return coupon_spi_delete_old(&delete, max_rows, coupon_hold_keep);
}
