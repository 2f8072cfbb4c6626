/*
 * node.c
 *	  A sale on several nodes: whose home is here.
 *
 * Each session has a copy of coupon.slot, a bit for each slot that is this
 * node's.  A change of coupon.slot or coupon.node_self sends a relcache
 * invalidation, as a change of a table's definition does, and that drops the
 * copy; so there is nothing to load at a start, and nothing that a promotion
 * could leave stale.
 *
 * Whoever asks for a slot first takes a lock on coupon.slot that they keep
 * until the end of their transaction (RowExclusiveLock, which costs next to
 * nothing among themselves), and taking it means to have received the
 * invalidations of whoever has committed.  Who gives a slot away commits that
 * it is leaving, then waits for all who have the lock (coupon_slots_settle).  So
 * a transaction either has seen that the slot is leaving, or is waited for.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "access/xlog.h"
#include "catalog/pg_type_d.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/pg_crc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/arguments.h"
#include "base/catalog.h"
#include "base/compat.h"
#include "base/errors.h"
#include "base/trigger.h"
#include "node/fence.h"
#include "node/node.h"

PG_FUNCTION_INFO_V1(coupon_slot);
PG_FUNCTION_INFO_V1(coupon_home);
PG_FUNCTION_INFO_V1(coupon_node_changed);
PG_FUNCTION_INFO_V1(coupon_slots_settle);

bool		coupon_node_known = false;
bool		coupon_node_is = false;

static int	node_id = 0;
static Oid	slot_table = InvalidOid;	/* whose invalidation drops the copy */
static uint64 invalidations = 0;
static uint64 owned[COUPON_SLOTS / 64];

/* ---- the hash ---- */

int
coupon_slot_of(const char *data, int length)
{
	pg_crc32	crc;

	INIT_TRADITIONAL_CRC32(crc);
	COMP_TRADITIONAL_CRC32(crc, data, length);
	FIN_TRADITIONAL_CRC32(crc);
	return (crc >> 16) & (COUPON_SLOTS - 1);
}

int
coupon_home_slot(int64 campaign_id, const text *user_id)
{
	char		home[32];

	if (likely(campaign_id < COUPON_FIRST_CAMPAIGN_HOME))
		return coupon_slot_of(VARDATA_ANY(user_id), VARSIZE_ANY_EXHDR(user_id));
	return coupon_slot_of(home, snprintf(home, sizeof(home), "campaign " INT64_FORMAT, campaign_id));
}

/*
 * coupon_slot(user_id text) RETURNS integer; needs no shared memory: a proxy has
 * the function without the extension
 */
Datum
coupon_slot(PG_FUNCTION_ARGS)
{
	text	   *user_id;

	coupon_require_argument(fcinfo, 0, "user_id");
	user_id = PG_GETARG_TEXT_PP(0);

	PG_RETURN_INT32(coupon_slot_of(VARDATA_ANY(user_id), VARSIZE_ANY_EXHDR(user_id)));
}

COUPON_FOR_OTHER_USERS(coupon_slot, 0);

/*
 * coupon_home(campaign_id bigint, user_id text) RETURNS integer; the same
 */
Datum
coupon_home(PG_FUNCTION_ARGS)
{
	coupon_require_argument(fcinfo, 0, "campaign_id");
	coupon_require_argument(fcinfo, 1, "user_id");
	PG_RETURN_INT32(coupon_home_slot(PG_GETARG_INT64(0), PG_GETARG_TEXT_PP(1)));
}

COUPON_FOR_OTHER_USERS(coupon_home, 1);

/* ---- the session's copy ---- */

static void
relcache_callback(Datum arg, Oid relid)
{
	if (relid != InvalidOid && relid != slot_table)
		return;
	invalidations++;
	coupon_node_known = false;
}

/* The one row of coupon.node_self; 0: there is none. */
static int
read_node_id(Snapshot snapshot)
{
	const CouponCatalog *catalog = coupon_catalog();
	CouponScan	scan;
	int			id = 0;
	bool		isnull;

	coupon_scan_begin(&scan, catalog->node_self, catalog->node_self_pkey, snapshot, NULL, 0, false);
	index_rescan(scan.scan, NULL, 0, NULL, 0);
	if (coupon_scan_next(&scan, ForwardScanDirection))
		id = DatumGetInt16(slot_getattr(scan.slot, Self_node_id, &isnull));
	coupon_scan_end_unlock(&scan);
	return id;
}

static void
read_slots(Snapshot snapshot)
{
	const CouponCatalog *catalog = coupon_catalog();
	CouponScan	scan;

	memset(owned, 0, sizeof(owned));
	coupon_scan_begin(&scan, catalog->slot, catalog->slot_pkey, snapshot, NULL, 0, false);
	index_rescan(scan.scan, NULL, 0, NULL, 0);
	while (coupon_scan_next(&scan, ForwardScanDirection))
	{
		int			slot;

		slot_getallattrs(scan.slot);
		slot = DatumGetInt16(scan.slot->tts_values[Slot_number - 1]);
		if (slot >= 0 && slot < COUPON_SLOTS && scan.slot->tts_isnull[Slot_leaving - 1] &&
			DatumGetInt16(scan.slot->tts_values[Slot_node_id - 1]) == node_id)
			owned[slot / 64] |= UINT64CONST(1) << (slot % 64);
	}
	coupon_scan_end_unlock(&scan);
}

/* Makes the copy; false on a server that is no node. */
bool
coupon_node_look(void)
{
	static bool registered = false;
	uint64		before;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
		registered = true;
	}
	do
	{
		Snapshot	snapshot;

		CHECK_FOR_INTERRUPTS();
		slot_table = coupon_catalog()->slot;
		before = invalidations;
		snapshot = RegisterSnapshot(GetLatestSnapshot());
		node_id = read_node_id(snapshot);
		if (node_id != 0)
			read_slots(snapshot);
		UnregisterSnapshot(snapshot);
	} while (before != invalidations || slot_table != coupon_catalog()->slot);
	coupon_node_is = node_id != 0;
	coupon_node_known = true;
	return coupon_node_is;
}

int
coupon_node_id(void)
{
	return coupon_node_here() ? node_id : 0;
}

bool
coupon_node_has_slot(int slot)
{
	/* a standby answers what reads alone; nothing can leave it meanwhile */
	if (!RecoveryInProgress())
		LockRelationOid(coupon_catalog()->slot, RowExclusiveLock);
	if (unlikely(!coupon_node_known))
		(void) coupon_node_look();
	if (!coupon_fence_open() && !RecoveryInProgress())
		return false;
	return (owned[slot / 64] >> (slot % 64) & 1) != 0;
}

bool
coupon_node_has(int64 campaign_id, const text *user_id)
{
	return coupon_node_has_slot(coupon_home_slot(campaign_id, user_id));
}

void
coupon_node_refuse(int64 campaign_id, const text *user_id)
{
	if (!coupon_fence_open())
		coupon_fence_refuse();
	ereport(ERROR,
			(errcode(ERRCODE_COUPON_NOT_HERE),
			 errmsg("the user has their home on another node"),
			 errdetail("Slot %d of campaign %lld and user \"%.*s\" is not one of node %d, or is moving.",
					   coupon_home_slot(campaign_id, user_id), (long long) campaign_id,
					   pg_mbcliplen(VARDATA_ANY(user_id), VARSIZE_ANY_EXHDR(user_id), 64), VARDATA_ANY(user_id),
					   node_id),
			 errhint("The cluster's map has changed: ask the proxy again.")));
	pg_unreachable();
}

/* ---- changes of the map ---- */

/*
 * coupon_node_changed() - statement trigger on coupon.slot and coupon.node_self
 *
 * Every session's copy is dropped when this commits, its own with the command.
 */
Datum
coupon_node_changed(PG_FUNCTION_ARGS)
{
	(void) coupon_trigger(fcinfo, "node_changed");
	CacheInvalidateRelcacheByRelid(coupon_catalog()->slot);
	return PointerGetDatum(NULL);
}

/*
 * coupon.slots_settle(): waits for the end of all transactions that asked for a
 * slot before; lock_timeout says how long at most
 */
Datum
coupon_slots_settle(PG_FUNCTION_ARGS)
{
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, coupon_catalog()->slot);
	WaitForLockers(tag, ShareLock, false);
	PG_RETURN_VOID();
}
