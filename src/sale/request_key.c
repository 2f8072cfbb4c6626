/*
 * request_key.c
 *	  Keys of calls: a repeated call gets what the first one got.
 *
 * Where a user may have several units, a client that has lost an answer cannot
 * tell by what the user has whether its call was carried out.  A key can: what
 * a call gets is remembered under its key, in a row of coupon.request_key that
 * commits with the unit.  What got nothing is not remembered, so that
 * refusals write nothing, and a later try with the same key may succeed.
 *
 * The row is written while the user is locked, after another look for it; so of
 * two calls with the same key one is first, and the other one finds the row.
 * If that is of a running transaction, its end decides.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "access/xact.h"
#include "catalog/pg_type_d.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/arguments.h"
#include "base/catalog.h"
#include "base/guc.h"
#include "base/spi.h"
#include "base/table_writer.h"
#include "sale/request_key.h"

static const char *const kind_names[] = {
	[COUPON_KEY_ISSUE] = "issue",
	[COUPON_KEY_HOLD] = "hold",
	[COUPON_KEY_HOLD_ANY] = "hold_any"
};

text *
coupon_request_key_argument(FunctionCallInfo fcinfo, int argument)
{
	if (PG_ARGISNULL(argument))
		return NULL;
	coupon_check_text(fcinfo, argument, "request_key", 1, COUPON_MAX_NAME);
	return PG_GETARG_TEXT_PP(argument);
}

/* ---- finding ---- */

static void
read_row(TupleTableSlot *slot, CouponUsedKey *used)
{
	text	   *kind;

	slot_getallattrs(slot);
	used->used_at = DatumGetTimestampTz(slot->tts_values[Key_used_at - 1]);
	kind = DatumGetTextPP(slot->tts_values[Key_kind - 1]);
	used->kind = COUPON_KEY_ISSUE;
	for (int i = 0; i < (int) lengthof(kind_names); i++)
	{
		if (strlen(kind_names[i]) == VARSIZE_ANY_EXHDR(kind) &&
			memcmp(kind_names[i], VARDATA_ANY(kind), VARSIZE_ANY_EXHDR(kind)) == 0)
			used->kind = i;
	}
	used->serials = coupon_int64s(slot->tts_values[Key_serials - 1], NULL, &used->nserials);
}

/*
 * One look.  Rows are inserted and deleted, but never updated, so a dirty scan
 * misses none.  *inserter: the transaction that has yet to commit the row.
 */
static bool
look(const CouponDefinition *def, Datum user_id, text *key, CouponUsedKey *used,
	 TransactionId *inserter)
{
	const CouponCatalog *catalog = coupon_catalog();
	SnapshotData dirty;
	ScanKeyData keys[3];
	CouponScan	scan;
	bool		found;

	InitDirtySnapshot(dirty);
	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, def->campaign_id);
	coupon_key_text(&keys[1], 2, user_id);
	coupon_key_text(&keys[2], 3, PointerGetDatum(key));
	coupon_scan_begin(&scan, catalog->request_key, catalog->request_key_pkey, &dirty, keys, 3, false);
	found = coupon_scan_next(&scan, ForwardScanDirection);
	*inserter = found ? dirty.xmin : InvalidTransactionId;
	if (found && !TransactionIdIsValid(*inserter))
		read_row(scan.slot, used);
	coupon_scan_end(&scan);
	return found;
}

CouponKeyState
coupon_request_key_find(const CouponDefinition *def, Datum user_id, text *key,
						CouponWait wait, CouponUsedKey *used)
{
	TransactionId inserter;

	while (look(def, user_id, key, used, &inserter))
	{
		if (!TransactionIdIsValid(inserter))
			return COUPON_KEY_USED;
		if (wait == COUPON_NO_WAIT)
			return COUPON_KEY_LOCKED;
		XactLockTableWait(inserter, NULL, NULL, XLTW_None);
	}
	return COUPON_KEY_NEW;
}

bool
coupon_request_key_has(const CouponDefinition *def, Datum user_id, const CouponUsedKey *used,
					   int64 serial, CouponIssuance *found)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	latest;
	ScanKeyData keys[2];
	CouponScan	scan;
	bool		has;

	CommandCounterIncrement();	/* what this transaction has written, too */
	latest = RegisterSnapshot(GetLatestSnapshot());
	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, def->campaign_id);
	coupon_key_int64(&keys[1], 2, BTEqualStrategyNumber, serial);
	coupon_scan_begin(&scan, catalog->issuance, catalog->issuance_serial_key, latest, keys, 2, false);
	has = coupon_scan_next(&scan, ForwardScanDirection);
	if (has)
	{
		bool		confirmed;
		bool		isnull;
		Datum		owner = slot_getattr(scan.slot, Issuance_user_id, &isnull);

		coupon_issuance_read(scan.slot, found);

		/*
		 * a hold begins anew when it is confirmed; what else is later is
		 * another call's
		 */
		confirmed = found->held_until == 0 && !slot_attisnull(scan.slot, Issuance_confirm_ref);
		has = coupon_same_text(DatumGetTextPP(owner), (text *) DatumGetPointer(user_id)) &&
			(found->issued_at <= used->used_at || (confirmed && used->kind != COUPON_KEY_ISSUE)) &&
			(found->held_until == 0 || found->held_until > GetCurrentTimestamp());
	}
	coupon_scan_end(&scan);
	UnregisterSnapshot(latest);
	return has;
}

/* ---- remembering and forgetting ---- */

void
coupon_request_key_prepare(void)
{
	LockRelationOid(coupon_catalog()->request_key, RowExclusiveLock);
}

void
coupon_request_key_remember(const CouponDefinition *def, Datum user_id, text *key,
							const CouponUsedKey *used)
{
	CouponTableWriter *writer = coupon_writer_open(coupon_catalog()->request_key, COUPON_INSERT);
	TupleTableSlot *row = coupon_writer_row(writer);

	memset(row->tts_isnull, false, Key_natts);
	row->tts_values[Key_campaign_id - 1] = Int64GetDatum(def->campaign_id);
	row->tts_values[Key_used_at - 1] = TimestampTzGetDatum(used->used_at);
	row->tts_values[Key_user_id - 1] = user_id;
	row->tts_values[Key_key - 1] = PointerGetDatum(key);
	row->tts_values[Key_kind - 1] = CStringGetTextDatum(kind_names[used->kind]);
	row->tts_values[Key_serials - 1] = coupon_int64s_form(used->serials, used->nserials);
	coupon_writer_insert(writer);
	coupon_writer_close(writer);
}

int64
coupon_request_key_clean(int32 max_rows)
{
	/* which rows: as coupon_late_payment_clean() */
	static CouponStatement delete = {
		"DELETE FROM coupon.request_key WHERE ctid = ANY (ARRAY("
		"  SELECT k.ctid FROM coupon.request_key k WHERE k.used_at < $2"
		"   AND (SELECT c.dumped IS NULL FROM coupon.campaign c WHERE c.campaign_id = k.campaign_id)"
		"   ORDER BY k.used_at LIMIT $1 FOR UPDATE SKIP LOCKED))",
		2, {INT4OID, TIMESTAMPTZOID}
	};

	return coupon_spi_delete_old(&delete, max_rows, coupon_key_keep);
}
