/*
 * sweep.c
 *	  Holds that have run out: taken away, by whoever needs the unit or by the sweeper.
 *
 * Whether a hold has run out is judged by the clock wherever it is met, so a
 * sweeper that is late or dead blocks nothing: whoever wants the unit takes
 * the row away first.  Whichever way it goes, the row is deleted, one event is
 * appended and one row of coupon.lapsed_hold written, in one transaction.
 */
#include "postgres.h"

#include "access/relscan.h"
#include "access/stratnum.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/catalog.h"
#include "base/fault.h"
#include "sale/late_payment.h"
#include "sale/stock.h"
#include "sale/sweep.h"
#include "sale/unit_event.h"

/* How many more holds are looked for than wanted: others want the first ones, too. */
#define SPARE_FINDS			32

/* ---- recording ---- */

void
coupon_sweep_append_event(const CouponIssuanceRow *row, const char *type, TimestampTz now,
						  const char *trace)
{
	const CouponDefinition *def = row->def;
	text	   *label = def->labels_public ?
	coupon_issuance_label(def->campaign_id, row->issuance.serial) : NULL;
	CouponUnitEvent event = {0};

	event.topic = COUPON_DEFINITION_TOPIC(def);
	event.trace = trace;
	event.campaign_id = def->campaign_id;
	event.user_id = text_to_cstring(row->user_id);
	event.serial = row->issuance.serial;
	event.label = label == NULL ? NULL : text_to_cstring(label);
	event.held_until = row->issuance.held_until;
	event.at = now;
	coupon_unit_event_append(type, &event);
}

void
coupon_sweep_record(const CouponIssuanceRow *row, TimestampTz now)
{
	coupon_late_payment_remember(row);
	/* time ended it, and no call of whoever comes by */
	coupon_sweep_append_event(row, COUPON_EVENT_HOLD_EXPIRED, now, NULL);
}

/* Removes the row found last if it is a hold that has run out and free to be. */
static bool
remove_lapsed(CouponIssuanceRow *row, int64 serial, TimestampTz now)
{
	if (coupon_issuance_row_find(row, serial, now) != COUPON_UNIT_LAPSED ||
		!coupon_issuance_row_remove(row, COUPON_NO_WAIT))
		return false;
	COUPON_FAULT(hold_removed);
	coupon_sweep_record(row, now);
	return true;
}

/* ---- taking over ---- */

bool
coupon_sweep_serial(CouponCampaign *campaign, const CouponDefinition *def,
					CouponTableWriter *table, CouponPurpose purpose, int64 serial,
					CouponUnit *unit)
{
	CouponStock *stock = coupon_stock_open(campaign, def);
	CouponIssuanceRow row;
	bool		taken;

	coupon_issuance_row_begin(&row, def, table);
	taken = remove_lapsed(&row, serial, GetCurrentTimestamp()) &&
		coupon_stock_take_over(campaign, stock, purpose, serial, unit);
	coupon_issuance_row_end(&row);
	return taken;
}

/* Begins to read the holds of a campaign that end then or later, in that order. */
static void
scan_holds(CouponScan *scan, int64 campaign_id, TimestampTz from, Snapshot snapshot)
{
	ScanKeyData keys[2];

	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, campaign_id);
	coupon_key_time(&keys[1], 2, BTGreaterEqualStrategyNumber, from);
	coupon_scan_begin(scan, coupon_catalog()->issuance, coupon_catalog()->issuance_held_idx,
					  snapshot, keys, 2, false);
}

/*
 * Looks for up to max holds of a campaign that have run out by now and that
 * nobody is at, and tells the stock map when the next one does.  *undecided:
 * how many more there are that another transaction is at.
 */
static int
find_lapsed(CouponStock *stock, int64 campaign_id, TimestampTz now, int max, int64 *serials,
			int *undecided)
{
	TimestampTz from;
	uint64		noted = coupon_stock_holds_noted(stock, &from);
	TimestampTz next = DT_NOEND;
	int			n = 0;
	SnapshotData dirty;
	CouponScan	scan;

	*undecided = 0;
	InitDirtySnapshot(dirty);
	scan_holds(&scan, campaign_id, from, &dirty);
	while (n < max && coupon_scan_next(&scan, ForwardScanDirection))
	{
		bool		isnull;
		TimestampTz held_until = DatumGetTimestampTz(slot_getattr(scan.slot, Issuance_held_until, &isnull));

		next = Min(next, held_until);
		if (held_until > now)
			break;
		if (TransactionIdIsValid(dirty.xmin) || TransactionIdIsValid(dirty.xmax))
			++* undecided;
		else
			serials[n++] = DatumGetInt64(slot_getattr(scan.slot, Issuance_serial, &isnull));
	}
	coupon_scan_end(&scan);
	coupon_stock_next_lapse(stock, noted, next);
	return n;
}

int
coupon_sweep_take(CouponCampaign *campaign, const CouponDefinition *def,
				  CouponTableWriter *table, CouponPurpose purpose, int n, CouponUnit *units,
				  bool *undecided)
{
	CouponStock *stock = coupon_stock_open(campaign, def);
	TimestampTz now = GetCurrentTimestamp();
	int			max = n + SPARE_FINDS;
	int64	   *serials = MemoryContextAllocHuge(CurrentMemoryContext, mul_size(max, sizeof(int64)));
	int			taken = 0;
	int			nfound;
	int			others;
	bool		again;
	CouponIssuanceRow row;

	coupon_issuance_row_begin(&row, def, table);
	do
	{
		again = false;
		nfound = find_lapsed(stock, def->campaign_id, now, max, serials, &others);
		*undecided = others > 0;
		for (int i = 0; i < nfound && taken < n; i++)
		{
			CHECK_FOR_INTERRUPTS();
			if (!remove_lapsed(&row, serials[i], now))
				*undecided = true;
			else if (coupon_stock_take_over(campaign, stock, purpose, serials[i], &units[taken]))
			{
				taken++;
				again = nfound == max;
			}
		}
	} while (taken < n && again);
	coupon_issuance_row_end(&row);
	pfree(serials);
	return taken;
}

int64
coupon_sweep_count_due(CouponCampaign *campaign, const CouponDefinition *def, int max)
{
	TimestampTz now = GetCurrentTimestamp();
	int64	   *serials;
	int			others;
	int			n;

	if (!coupon_stock_may_lapse(campaign, now))
		return 0;
	serials = MemoryContextAllocHuge(CurrentMemoryContext, mul_size(max, sizeof(int64)));
	n = find_lapsed(coupon_stock_open(campaign, def), def->campaign_id, now, max, serials, &others);
	pfree(serials);
	return (int64) n + others;
}

/* ---- sweeping ---- */

int
coupon_sweep_campaign(const CouponDue *due, int n, TimestampTz now)
{
	const CouponDefinition *def;
	CouponCampaign *campaign = coupon_campaign_enter(due->campaign_id, &def);
	CouponStock *stock;
	CouponTableWriter *table;
	CouponIssuanceRow row;
	int64		first;
	int			others;
	int			removed = 0;

	/*
	 * its rows are to be counted before any of them goes; nothing waits for
	 * the units
	 */
	if (def->unchecked)
	{
		coupon_campaign_leave(campaign);
		return 0;
	}
	stock = coupon_stock_open(campaign, def);
	table = coupon_writer_open(coupon_catalog()->issuance, COUPON_DELETE);
	coupon_issuance_row_begin(&row, def, table);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!remove_lapsed(&row, due[i].serial, now))
			continue;
		coupon_stock_return(campaign, stock, due[i].serial);
		removed++;
	}
	/* so that nobody walks over them again */
	(void) find_lapsed(stock, due->campaign_id, now, 1, &first, &others);
	coupon_issuance_row_end(&row);
	coupon_writer_close(table);
	coupon_campaign_leave(campaign);
	return removed;
}

/* ---- counting ---- */

void
coupon_sweep_count(int64 campaign_id, CouponStock *stock, int64 *live, int64 *lapsed)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz from = DT_NOBEGIN;
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	CouponScan	scan;

	*live = *lapsed = 0;
	/* after the snapshot: what it shows has been noted */
	if (stock != NULL)
		(void) coupon_stock_holds_noted(stock, &from);
	scan_holds(&scan, campaign_id, from, snapshot);
	while (coupon_scan_next(&scan, ForwardScanDirection))
	{
		bool		isnull;

		if (DatumGetTimestampTz(slot_getattr(scan.slot, Issuance_held_until, &isnull)) > now)
			++* live;
		else
			++*lapsed;
	}
	coupon_scan_end_unlock(&scan);
	UnregisterSnapshot(snapshot);
}
