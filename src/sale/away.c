/*
 * away.c
 *	  Units of a shared campaign that other nodes have cannot be issued here.
 *
 * A node of a cluster knows all serials of a campaign, and each shard's row says
 * which of them are away: at another node, or on their way to one (send.c).  The
 * stock map gives none of these out.  But it is a hint, and this is the
 * constraint: who issues looks at the shard once their row is in the index, and
 * who sends units away looks into the index once their shard says so.  So one of
 * the two meets the other.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "utils/snapmgr.h"

#include "base/catalog.h"
#include "sale/away.h"

bool		coupon_away_leaving = false;

static bool
any_away(TupleTableSlot *shard, const int64 *serials, int n, int64 *which)
{
	bool		isnull;
	int64		first = DatumGetInt64(slot_getattr(shard, Shard_first_serial, &isnull));
	Datum		value = slot_getattr(shard, Shard_away, &isnull);
	bytea	   *away = isnull ? NULL : DatumGetByteaPP(value);

	for (int i = 0; i < n && away != NULL; i++)
	{
		*which = serials[i];
		if (coupon_unit_is_in(away, serials[i] - first))
			return true;
	}
	return false;
}

void
coupon_away_refuse(int64 campaign_id, int32 shard, const int64 *serials, int n)
{
	const CouponCatalog *catalog = coupon_catalog();
	SnapshotData dirty;
	ScanKeyData keys[2];
	CouponScan	scan;
	bool		found = false;
	int64		which;

	InitDirtySnapshot(dirty);
	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, campaign_id);
	coupon_key_int32(&keys[1], 2, BTEqualStrategyNumber, shard);
	coupon_scan_begin(&scan, catalog->shard, catalog->shard_pkey, &dirty, keys, 2, false);
	while (!found && coupon_scan_next(&scan, ForwardScanDirection))
		found = any_away(scan.slot, serials, n, &which);
	coupon_scan_end(&scan);
	if (!found && scan.missed)
	{
		/* it may have been updated in this moment, which is committed by now */
		Snapshot	latest = RegisterSnapshot(GetLatestSnapshot());

		coupon_scan_begin(&scan, catalog->shard, catalog->shard_pkey, latest, keys, 2, false);
		while (!found && coupon_scan_next(&scan, ForwardScanDirection))
			found = any_away(scan.slot, serials, n, &which);
		coupon_scan_end(&scan);
		UnregisterSnapshot(latest);
	}
	if (found)
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("unit is at another node"),
				 errdetail("Campaign %lld, serial %lld.", (long long) campaign_id, (long long) which),
				 errhint("Try again; units that are at this node are listed by coupon_units().")));
}
