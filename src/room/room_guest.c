/*
 * room_guest.c
 *	  Guests: users who have shown the pass of a room of another node.
 *
 * coupon_room_admit() has checked the pass and written the row; it is looked
 * for each time, by what is committed now.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/catalog.h"
#include "room/room_guest.h"

bool
coupon_room_has_guest(int64 room_id, Datum user_id)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TimestampTz until = DT_NOBEGIN;
	ScanKeyData keys[2];
	CouponScan	scan;
	bool		isnull;

	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, room_id);
	coupon_key_text(&keys[1], 2, user_id);
	coupon_scan_begin(&scan, catalog->room_guest, catalog->room_guest_pkey, snapshot, keys, 2, false);
	if (coupon_scan_next(&scan, ForwardScanDirection))
		until = DatumGetTimestampTz(slot_getattr(scan.slot, Guest_until, &isnull));
	coupon_scan_end_unlock(&scan);
	UnregisterSnapshot(snapshot);
	return until > GetCurrentTimestamp();
}
