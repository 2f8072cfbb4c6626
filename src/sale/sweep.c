/*
 * sweep.c
 *	  Holds that have run out: taken away, by whoever needs the unit or by the sweeper.
 *
 * Whether a hold has run out is judged by the clock wherever it is met, so a
 * sweeper that is late or dead blocks nothing: whoever wants the unit takes
 * the row away himself.  Whichever way it goes, the row is deleted, one event
 * is appended and one row of coupon.lapsed_hold written, in one transaction.
 */
#include "postgres.h"

#include "access/relscan.h"
#include "access/stratnum.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/catalog.h"
#include "outbox/outbox.h"
#include "outbox/payload.h"
#include "sale/late_payment.h"
#include "sale/sweep.h"

/* ---- recording ---- */

void
coupon_hold_payload(StringInfo payload, const CouponDefinition *def, const char *user_id,
					int64 serial, text *label, TimestampTz held_until, TimestampTz at)
{
	coupon_payload_begin(payload);
	coupon_payload_int64(payload, "campaign_id", def->campaign_id);
	coupon_payload_text(payload, "user_id", user_id);
	coupon_payload_int64(payload, "serial", serial);
	coupon_payload_text(payload, "label", label == NULL ? NULL : text_to_cstring(label));
	coupon_payload_time(payload, "held_until", held_until);
	coupon_payload_time(payload, "at", at);
	coupon_payload_end(payload);
}

void
coupon_sweep_append_event(const CouponIssuanceRow *seats, const char *type, TimestampTz now)
{
	const CouponDefinition *def = seats->def;
	char	   *user_id = text_to_cstring(seats->user_id);
	text	   *label = def->labels_public ?
		coupon_issuance_label(def->campaign_id, seats->issuance.serial) : NULL;
	StringInfoData payload;

	initStringInfo(&payload);
	coupon_hold_payload(&payload, def, user_id, seats->issuance.serial, label,
						seats->issuance.held_until, now);
	coupon_outbox_append(COUPON_DEFINITION_TOPIC(def), user_id, type, payload.data);
	pfree(payload.data);
	pfree(user_id);
}

void
coupon_sweep_record(const CouponIssuanceRow *seats, TimestampTz now)
{
	coupon_late_payment_remember(seats);
	coupon_sweep_append_event(seats, COUPON_EVENT_HOLD_EXPIRED, now);
}

/* Removes the row found last if it is a hold that has run out and free to be. */
static bool
remove_lapsed(CouponIssuanceRow *seats, int64 serial, TimestampTz now)
{
	if (coupon_issuance_row_find(seats, serial, now) != COUPON_UNIT_LAPSED ||
		!coupon_issuance_row_remove(seats, COUPON_NO_WAIT))
		return false;
	coupon_sweep_record(seats, now);
	return true;
}

/* ---- taking away ---- */

bool
coupon_sweep_serial(CouponCampaign *campaign, const CouponDefinition *def, CouponTableWriter *store,
					int64 serial)
{
	CouponStock *stock = coupon_stock_open(campaign, def);
	CouponIssuanceRow seats;
	bool		removed;

	coupon_issuance_row_begin(&seats, def, store);
	removed = remove_lapsed(&seats, serial, GetCurrentTimestamp());
	coupon_issuance_row_end(&seats);
	if (removed)
		coupon_stock_return(campaign, stock, serial);
	return removed;
}

int
coupon_sweep_take(CouponCampaign *campaign, const CouponDefinition *def, CouponTableWriter *store,
				  CouponPurpose purpose, int n, CouponUnit *units)
{
	CouponStock *stock = coupon_stock_open(campaign, def);
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = DT_NOEND;
	int64	   *serials = MemoryContextAllocHuge(CurrentMemoryContext, mul_size(n, sizeof(int64)));
	int			nserials = 0;
	int			taken = 0;
	SnapshotData dirty;
	ScanKeyData key;
	CouponScan	scan;
	CouponIssuanceRow seats;

	coupon_stock_begin_lapse(stock);
	InitDirtySnapshot(dirty);
	coupon_key_int64(&key, 1, BTEqualStrategyNumber, def->campaign_id);
	coupon_scan_begin(&scan, coupon_catalog()->issuance, coupon_catalog()->issuance_held_idx,
					  &dirty, &key, 1, false);
	while (coupon_scan_next(&scan, ForwardScanDirection))
	{
		bool		isnull;
		TimestampTz held_until = DatumGetTimestampTz(slot_getattr(scan.slot, Issuance_held_until, &isnull));

		if (held_until > now || nserials == n)
		{
			next = held_until;
			break;
		}
		/* what somebody is at is there again if he gives up */
		if (TransactionIdIsValid(dirty.xmin) || TransactionIdIsValid(dirty.xmax))
			next = Min(next, held_until);
		else
			serials[nserials++] = DatumGetInt64(slot_getattr(scan.slot, Issuance_serial, &isnull));
	}
	coupon_scan_end(&scan);

	coupon_issuance_row_begin(&seats, def, store);
	for (int i = 0; i < nserials; i++)
	{
		if (remove_lapsed(&seats, serials[i], now))
			coupon_stock_inherit(campaign, stock, purpose, serials[i], &units[taken++]);
		else
			next = Min(next, now);
	}
	coupon_issuance_row_end(&seats);
	/* and if this transaction is rolled back, they are there again, too */
	coupon_stock_note_hold(stock, taken > 0 ? Min(next, now) : next);
	pfree(serials);
	return taken;
}

/* ---- sweeping ---- */

int
coupon_sweep_campaign(const CouponDue *due, int n, TimestampTz now)
{
	const CouponDefinition *def;
	CouponCampaign *campaign = coupon_campaign_enter(due->campaign_id, &def);
	CouponStock *stock = coupon_stock_open(campaign, def);
	CouponTableWriter *store = coupon_writer_open(coupon_catalog()->issuance, COUPON_DELETE);
	CouponIssuanceRow seats;
	int			removed = 0;

	coupon_issuance_row_begin(&seats, def, store);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!remove_lapsed(&seats, due[i].serial, now))
			continue;
		coupon_stock_return(campaign, stock, due[i].serial);
		removed++;
	}
	coupon_issuance_row_end(&seats);
	coupon_writer_close(store);
	coupon_campaign_leave(campaign);
	return removed;
}

/* ---- counting ---- */

void
coupon_sweep_count(const CouponDefinition *def, int64 *live, int64 *lapsed)
{
	TimestampTz now = GetCurrentTimestamp();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	CouponScan	scan;

	*live = *lapsed = 0;
	coupon_key_int64(&key, 1, BTEqualStrategyNumber, def->campaign_id);
	coupon_scan_begin(&scan, coupon_catalog()->issuance, coupon_catalog()->issuance_held_idx,
					  snapshot, &key, 1, false);
	while (coupon_scan_next(&scan, ForwardScanDirection))
	{
		bool		isnull;

		if (DatumGetTimestampTz(slot_getattr(scan.slot, Issuance_held_until, &isnull)) > now)
			++*live;
		else
			++*lapsed;
	}
	coupon_scan_end_unlock(&scan);
	UnregisterSnapshot(snapshot);
}
