/*
 * ticket_table.c
 *	  The rows of coupon.ticket.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/catalog.h"
#include "room/ticket_table.h"

void
coupon_ticket_read(TupleTableSlot *slot, uint32 child, CouponTicketRow *row)
{
	Datum	   *values = slot->tts_values;
	bool	   *nulls = slot->tts_isnull;

	slot_getallattrs(slot);
	row->room_id = DatumGetInt64(values[Ticket_room_id - 1]);
	row->number = DatumGetInt64(values[Ticket_number - 1]);
	row->secret = *DatumGetUUIDP(values[Ticket_secret - 1]);
	row->joined_at = DatumGetTimestampTz(values[Ticket_joined_at - 1]);
	row->admitted_at = nulls[Ticket_admitted_at - 1] ? 0 :
		DatumGetTimestampTz(values[Ticket_admitted_at - 1]);
	row->ended_at = nulls[Ticket_ended_at - 1] ? 0 :
		DatumGetTimestampTz(values[Ticket_ended_at - 1]);
	row->user_id = DatumGetTextPCopy(values[Ticket_user_id - 1]);
	row->reason = nulls[Ticket_reason - 1] ? NULL : DatumGetTextPCopy(values[Ticket_reason - 1]);
	row->tid = slot->tts_tid;
	row->child = child;
}

void
coupon_ticket_fill(TupleTableSlot *slot, const CouponTicketRow *row)
{
	Datum	   *values = slot->tts_values;
	bool	   *nulls = slot->tts_isnull;

	values[Ticket_room_id - 1] = Int64GetDatum(row->room_id);
	values[Ticket_number - 1] = Int64GetDatum(row->number);
	values[Ticket_secret - 1] = UUIDPGetDatum(&row->secret);
	values[Ticket_joined_at - 1] = TimestampTzGetDatum(row->joined_at);
	values[Ticket_admitted_at - 1] = TimestampTzGetDatum(row->admitted_at);
	values[Ticket_ended_at - 1] = TimestampTzGetDatum(row->ended_at);
	values[Ticket_user_id - 1] = PointerGetDatum(row->user_id);
	values[Ticket_reason - 1] = PointerGetDatum(row->reason);
	memset(nulls, false, Ticket_natts);
	nulls[Ticket_admitted_at - 1] = row->admitted_at == 0;
	nulls[Ticket_ended_at - 1] = row->ended_at == 0;
	nulls[Ticket_reason - 1] = row->reason == NULL;
}

/* row: NULL if only whether there is one is asked. */
static bool
find(int64 room_id, int64 number, uint32 child, Snapshot snapshot, CouponTicketRow *row)
{
	const CouponCatalog *catalog = coupon_catalog();
	ScanKeyData keys[2];
	CouponScan	scan;
	bool		found;

	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, room_id);
	coupon_key_int64(&keys[1], 2, BTEqualStrategyNumber, number);
	coupon_scan_begin(&scan, catalog->tickets[child], catalog->ticket_pkeys[child],
					  snapshot, keys, 2, false);
	found = coupon_scan_next(&scan, ForwardScanDirection);
	if (found && row != NULL)
		coupon_ticket_read(scan.slot, child, row);
	coupon_scan_end_unlock(&scan);
	return found;
}

bool
coupon_ticket_find(int64 room_id, int64 number, uint32 child, CouponTicketRow *row)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		found = find(room_id, number, child, snapshot, row);

	UnregisterSnapshot(snapshot);
	return found;
}

bool
coupon_ticket_is_changing(int64 room_id, int64 number, uint32 child)
{
	SnapshotData dirty;

	InitDirtySnapshot(dirty);
	return !find(room_id, number, child, &dirty, NULL) || TransactionIdIsValid(dirty.xmin) ||
		TransactionIdIsValid(dirty.xmax);
}

CouponRowChange
coupon_ticket_update(CouponTableWriter *rows, CouponTicketRow *row, bool wait)
{
	coupon_ticket_fill(coupon_writer_row(rows), row);
	return coupon_writer_update(rows, &row->tid, wait);
}
