/*
 * catalog.c
 *	  Where coupon's tables are, and one way to scan them.
 *
 * OIDs are looked up by name once and forgotten with a relcache invalidation
 * of one of them, so DROP EXTENSION and CREATE EXTENSION are noticed.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type_d.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "base/fault.h"

static CouponCatalog catalog;
static bool catalog_valid = false;
static uint64 invalidations = 0;

/* ---- OIDs ---- */

/* The names, in the order of the fields of CouponCatalog. */
static const char *const names[] = {
	"campaign", "campaign_pkey", "campaign_topic_idx", "shard", "shard_pkey", "unit", "unit_pkey", "unit_label_key",
	"issuance", "issuance_serial_key", "issuance_user_key", "issuance_held_idx",
	"issuance_lapse_idx", "lapsed_hold", "lapsed_hold_idx", "request_key", "request_key_pkey",
	"outbox_0", "outbox_1", "outbox_2", "outbox_parked", "outbox_parked_idx", "event_clock", "event_start",
	"request", "request_0", "request_1", "request_0_pkey", "request_1_pkey",
	"request_0_user_idx", "request_1_user_idx",
	"room", "room_pkey", "room_name_key",
	"ticket", "ticket_0", "ticket_1", "ticket_0_pkey", "ticket_1_pkey",
	"ticket_0_user_idx", "ticket_1_user_idx",
	"room_guest", "room_guest_pkey", "node_self", "node_self_pkey", "slot", "slot_pkey"
};

StaticAssertDecl(lengthof(names) == sizeof(CouponCatalog) / sizeof(Oid),
				 "every OID of the catalog has a name");

#define CATALOG_OIDS	((Oid *) &catalog)
#define COUPON_INDEXES	24

/* What the session knows of a table. */
static struct
{
	Oid			oid;
	bool		checked;		/* its columns were found to be right */
	uint64		changes;		/* of its relcache entry, or to another table */
}			known[COUPON_TABLES];

/* Its indexes that are as the script makes them, by their numbers. */
static Oid	checked_indexes[COUPON_INDEXES];

static void
relcache_callback(Datum arg, Oid relid)
{
	invalidations++;
	if (relid == InvalidOid)
		catalog_valid = false;
	for (size_t i = 0; i < lengthof(names) && catalog_valid; i++)
	{
		if (CATALOG_OIDS[i] == relid)
			catalog_valid = false;
	}
	for (int i = 0; i < COUPON_TABLES; i++)
	{
		if (relid != InvalidOid && relid != known[i].oid)
			continue;
		known[i].checked = false;
		known[i].changes++;
	}
	for (int i = 0; i < COUPON_INDEXES; i++)
	{
		if (relid == InvalidOid || relid == checked_indexes[i])
			checked_indexes[i] = InvalidOid;
	}
}

const CouponCatalog *
coupon_catalog(void)
{
	static bool registered = false;
	uint64		before;
	Oid			ns;

	if (likely(catalog_valid))
		return &catalog;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
		registered = true;
	}

	/* again, if something was dropped or created meanwhile */
	do
	{
		before = invalidations;
		ns = get_namespace_oid("coupon", true);
		for (size_t i = 0; i < lengthof(names); i++)
		{
			CATALOG_OIDS[i] = get_relname_relid(names[i], ns);
			if (!OidIsValid(CATALOG_OIDS[i]))
				ereport(ERROR,
						(errcode(ERRCODE_UNDEFINED_TABLE),
						 errmsg("relation coupon.%s does not exist", names[i]),
						 OidIsValid(ns) ? errhint("Create it as the extension's script does.") :
						 errhint("Run CREATE EXTENSION coupon in this database.")));
		}
	} while (invalidations != before);

	catalog_valid = true;
	return &catalog;
}

/* ---- columns ---- */

#define NULLABLE(...)	{__VA_ARGS__,.nullable = true}

static const CouponColumn campaign_columns[] = {
	{INT8OID}, {TEXTOID, DEFAULT_COLLATION_OID}, {INT4OID}, NULLABLE(TIMESTAMPTZOID),
	NULLABLE(TIMESTAMPTZOID), {BOOLOID}, NULLABLE(TIMESTAMPTZOID), {BOOLOID},
	{JSONBOID}, {TEXTOID, DEFAULT_COLLATION_OID}, {TIMESTAMPTZOID}, NULLABLE(INT8OID),
	{BOOLOID}, {INT4OID}, {INT8OID}, NULLABLE(TIMESTAMPTZOID), NULLABLE(INT8ARRAYOID), {BOOLOID},
	{BOOLOID}, NULLABLE(INT2OID), {INT8OID}, {INT8OID}
};
static const CouponColumn shard_columns[] = {
	{INT8OID}, {INT4OID}, {INT8OID}, {INT8OID}, NULLABLE(BYTEAOID), NULLABLE(BYTEAOID)
};
static const CouponColumn unit_columns[] = {
	{INT8OID}, {INT8OID}, {TEXTOID, C_COLLATION_OID}
};
static const CouponColumn issuance_columns[] = {
	{INT8OID}, {INT8OID}, {INT4OID}, {INT4OID},
	{TIMESTAMPTZOID}, NULLABLE(TIMESTAMPTZOID), {TEXTOID, C_COLLATION_OID}, {TEXTOID, C_COLLATION_OID},
	{JSONBOID}, NULLABLE(TIMESTAMPTZOID), NULLABLE(TEXTOID, DEFAULT_COLLATION_OID),
	NULLABLE(TIMESTAMPTZOID), NULLABLE(TEXTOID, DEFAULT_COLLATION_OID)
};
static const CouponColumn lapsed_columns[] = {
	{INT8OID}, {INT8OID}, {TIMESTAMPTZOID}, {TEXTOID, C_COLLATION_OID},
	NULLABLE(TEXTOID, C_COLLATION_OID)
};
static const CouponColumn key_columns[] = {
	{INT8OID}, {TIMESTAMPTZOID}, {TEXTOID, C_COLLATION_OID}, {TEXTOID, C_COLLATION_OID},
	{TEXTOID, C_COLLATION_OID}, {INT8ARRAYOID}
};
static const CouponColumn outbox_columns[] = {
	{UUIDOID}, {TEXTOID, DEFAULT_COLLATION_OID}, {TEXTOID, DEFAULT_COLLATION_OID},
	{TEXTOID, DEFAULT_COLLATION_OID}, {JSONOID}, NULLABLE(TEXTOID, C_COLLATION_OID)
};
static const CouponColumn request_columns[] = {
	{UUIDOID}, {INT8OID}, {TIMESTAMPTZOID}, NULLABLE(TIMESTAMPTZOID), NULLABLE(INT8OID),
	{TEXTOID, C_COLLATION_OID}, NULLABLE(TEXTOID, C_COLLATION_OID), NULLABLE(TEXTOID, C_COLLATION_OID),
	NULLABLE(TEXTOID, C_COLLATION_OID)
};
static const CouponColumn room_columns[] = {
	{INT8OID}, {TEXTOID, C_COLLATION_OID}, {INT4OID}, NULLABLE(FLOAT8OID),
	{INTERVALOID}, {INTERVALOID}, {TEXTOID, C_COLLATION_OID}, {BOOLOID},
	NULLABLE(TIMESTAMPTZOID), NULLABLE(BYTEAOID), NULLABLE(INT8OID)
};
static const CouponColumn ticket_columns[] = {
	{INT8OID}, {INT8OID}, {UUIDOID}, {TIMESTAMPTZOID}, NULLABLE(TIMESTAMPTZOID),
	NULLABLE(TIMESTAMPTZOID), {TEXTOID, C_COLLATION_OID}, NULLABLE(TEXTOID, C_COLLATION_OID)
};
static const CouponColumn guest_columns[] = {{INT8OID}, {TEXTOID, C_COLLATION_OID}, {TIMESTAMPTZOID}};
static const CouponColumn self_columns[] = {{INT2OID}, {BOOLOID}};
static const CouponColumn slot_columns[] = {{INT2OID}, {INT2OID}, {INT8OID}, NULLABLE(INT2OID)};

StaticAssertDecl(lengthof(campaign_columns) == Campaign_natts, "coupon.campaign");
StaticAssertDecl(lengthof(shard_columns) == Shard_natts, "coupon.shard");
StaticAssertDecl(lengthof(unit_columns) == Unit_natts, "coupon.unit");
StaticAssertDecl(lengthof(issuance_columns) == Issuance_natts, "coupon.issuance");
StaticAssertDecl(lengthof(lapsed_columns) == Lapsed_natts, "coupon.lapsed_hold");
StaticAssertDecl(lengthof(key_columns) == Key_natts, "coupon.request_key");
StaticAssertDecl(lengthof(outbox_columns) == Outbox_natts, "coupon.outbox");
StaticAssertDecl(lengthof(request_columns) == Request_natts, "coupon.request");
StaticAssertDecl(lengthof(room_columns) == Room_natts, "coupon.room");
StaticAssertDecl(lengthof(ticket_columns) == Ticket_natts, "coupon.ticket");
StaticAssertDecl(lengthof(guest_columns) == Guest_natts, "coupon.room_guest");
StaticAssertDecl(lengthof(self_columns) == Self_natts, "coupon.node_self");
StaticAssertDecl(lengthof(slot_columns) == Slot_natts, "coupon.slot");

static const char *const kept_nothing[] = {NULL};
static const char *const issuance_kept[] = {
	"issuance_guard", "issuance_arrived", "issuance_returned", NULL
};
static const char *const outbox_kept[] = {"outbox_guard", NULL};
static const char *const queue_kept[] = {"queue_guard", NULL};

static const CouponKey issuance_keys[] = {
	[Issuance_serial_key] = {2, {Issuance_campaign_id, Issuance_serial}},
	[Issuance_user_key] = {3, {Issuance_campaign_id, Issuance_user_id, Issuance_nth}}
};

#define COLUMNS(columns)	lengthof(columns), columns

static const CouponTable campaign_table = {COLUMNS(campaign_columns), kept_nothing};
static const CouponTable shard_table = {COLUMNS(shard_columns), kept_nothing};
static const CouponTable unit_table = {COLUMNS(unit_columns), kept_nothing};
static const CouponTable issuance_table = {
	COLUMNS(issuance_columns), issuance_kept, lengthof(issuance_keys), issuance_keys
};
static const CouponTable lapsed_table = {COLUMNS(lapsed_columns), kept_nothing};
static const CouponTable key_table = {COLUMNS(key_columns), kept_nothing};
static const CouponTable outbox_table = {COLUMNS(outbox_columns), outbox_kept,.local_deletes = true};
static const CouponTable request_table = {COLUMNS(request_columns), queue_kept};
static const CouponTable room_table = {COLUMNS(room_columns), kept_nothing};
static const CouponTable ticket_table = {COLUMNS(ticket_columns), queue_kept};
static const CouponTable guest_table = {COLUMNS(guest_columns), kept_nothing};
static const CouponTable self_table = {COLUMNS(self_columns), kept_nothing};
static const CouponTable slot_table = {COLUMNS(slot_columns), kept_nothing};

/* By their numbers. */
static const struct
{
	const Oid  *oid;
	const CouponTable *table;
}			tables[COUPON_TABLES] = {
	{&catalog.campaign, &campaign_table},
	{&catalog.shard, &shard_table},
	{&catalog.unit, &unit_table},
	{&catalog.issuance, &issuance_table},
	{&catalog.lapsed_hold, &lapsed_table},
	{&catalog.request_key, &key_table},
	{&catalog.outbox[0], &outbox_table},
	{&catalog.outbox[1], &outbox_table},
	{&catalog.outbox[2], &outbox_table},
	{&catalog.outbox[COUPON_OUTBOX_PARKED], &outbox_table},
	{&catalog.requests[0], &request_table},
	{&catalog.requests[1], &request_table},
	{&catalog.room, &room_table},
	{&catalog.tickets[0], &ticket_table},
	{&catalog.tickets[1], &ticket_table},
	{&catalog.room_guest, &guest_table},
	{&catalog.node_self, &self_table},
	{&catalog.slot, &slot_table}
};

/* Reading a column as what it is not could crash the server. */
static void
check_columns(Relation rel, const CouponTable *table)
{
	TupleDesc	desc = RelationGetDescr(rel);

	for (int i = 0; i < table->ncolumns; i++)
	{
		Form_pg_attribute column = i < desc->natts ? TupleDescAttr(desc, i) : NULL;
		const CouponColumn *expected = &table->columns[i];

		if (column != NULL && !column->attisdropped && column->atttypid == expected->type &&
			column->attcollation == expected->collation && column->atttypmod == -1)
		{
			if (column->attnotnull || expected->nullable)
				continue;
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("column %d of coupon.%s is not as coupon made it", i + 1, RelationGetRelationName(rel)),
					 errdetail("Column \"%s\" may be null.", NameStr(column->attname)),
					 errhint("Use ALTER TABLE ... ALTER COLUMN ... SET NOT NULL.")));
		}
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("column %d of coupon.%s is not as coupon made it", i + 1,
						RelationGetRelationName(rel)),
				 column == NULL || column->attisdropped ? errdetail("It was dropped.") :
				 errdetail("Column \"%s\" is of type %s, not %s, or has another collation.",
						   NameStr(column->attname),
						   format_type_with_typemod(column->atttypid, column->atttypmod),
						   format_type_be(expected->type)),
				 errhint("Give the column the type and collation back that the extension's script says.")));
	}
}

const CouponTable *
coupon_table(Relation rel, int *number)
{
	Oid			oid = RelationGetRelid(rel);

	for (int i = 0; i < COUPON_TABLES; i++)
	{
		if (*tables[i].oid != oid)
			continue;
		if (known[i].oid != oid)
		{
			known[i].oid = oid;
			known[i].checked = false;
			known[i].changes++;
		}
		if (!known[i].checked)
		{
			check_columns(rel, tables[i].table);
			known[i].checked = true;
		}
		if (number != NULL)
			*number = i;
		return tables[i].table;
	}
	elog(ERROR, "table \"%s\" is none of coupon's", RelationGetRelationName(rel));
}

uint64
coupon_table_changes(int number)
{
	return known[number].changes;
}

/* ---- indexes ---- */

/* An index as the script makes it: its columns, up to the first 0. */
typedef struct IndexShape
{
	const Oid  *oid;
	AttrNumber	columns[4];
	bool		partial;
} IndexShape;

static const IndexShape indexes[COUPON_INDEXES] = {
	{&catalog.campaign_pkey, {Campaign_id}},
	{&catalog.campaign_topic_idx, {Campaign_topic}},
	{&catalog.shard_pkey, {Shard_campaign_id, Shard_number}},
	{&catalog.unit_pkey, {Unit_campaign_id, Unit_serial}},
	{&catalog.unit_label_key, {Unit_campaign_id, Unit_label}},
	{&catalog.issuance_serial_key, {Issuance_campaign_id, Issuance_serial}},
	{&catalog.issuance_user_key, {Issuance_campaign_id, Issuance_user_id, Issuance_nth}},
	{&catalog.issuance_held_idx, {Issuance_campaign_id, Issuance_held_until}, true},
	{&catalog.issuance_lapse_idx, {Issuance_held_until}, true},
	{&catalog.lapsed_hold_idx, {Lapsed_campaign_id, Lapsed_serial, Lapsed_user_id}},
	{&catalog.request_key_pkey, {Key_campaign_id, Key_user_id, Key_key}},
	{&catalog.outbox_parked_idx, {Outbox_topic, Outbox_id}},
	{&catalog.request_pkeys[0], {Request_id}},
	{&catalog.request_pkeys[1], {Request_id}},
	{&catalog.request_user_keys[0], {Request_campaign_id, Request_user_id}},
	{&catalog.request_user_keys[1], {Request_campaign_id, Request_user_id}},
	{&catalog.room_pkey, {Room_id}},
	{&catalog.room_name_key, {Room_name}},
	{&catalog.ticket_pkeys[0], {Ticket_room_id, Ticket_number}},
	{&catalog.ticket_pkeys[1], {Ticket_room_id, Ticket_number}},
	{&catalog.ticket_user_keys[0], {Ticket_room_id, Ticket_user_id}},
	{&catalog.ticket_user_keys[1], {Ticket_room_id, Ticket_user_id}},
	{&catalog.room_guest_pkey, {Guest_room_id, Guest_user_id}},
	{&catalog.slot_pkey, {Slot_number}}
};

static bool
is_as_made(Relation index, const IndexShape *made)
{
	Form_pg_index form = index->rd_index;
	int			n = 0;

	for (; n < (int) lengthof(made->columns) && made->columns[n] != 0; n++)
	{
		/* in ascending order, and texts by their bytes */
		if (n >= form->indnkeyatts || form->indkey.values[n] != made->columns[n] || index->rd_indoption[n] != 0 ||
			(OidIsValid(index->rd_indcollation[n]) && index->rd_indcollation[n] != C_COLLATION_OID))
			return false;
	}
	return form->indnkeyatts == n && form->indisvalid && index->rd_rel->relam == BTREE_AM_OID &&
		heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL) == !made->partial;
}

void
coupon_index_check(Relation index)
{
	for (int i = 0; i < COUPON_INDEXES; i++)
	{
		if (*indexes[i].oid != RelationGetRelid(index))
			continue;
		if (checked_indexes[i] != RelationGetRelid(index) && !is_as_made(index, &indexes[i]))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("index coupon.%s is not as coupon made it", RelationGetRelationName(index)),
					 errdetail("It has other columns, another order, collation, condition or access method, or is not valid."),
					 errhint("Create it as the extension's script does.")));
		checked_indexes[i] = RelationGetRelid(index);
		return;
	}
}

/* ---- scans ---- */

Relation
coupon_index_open(Oid oid, LOCKMODE mode)
{
	Relation	index;

	for (size_t i = 0; i < lengthof(names) && !catalog_valid; i++)
	{
		if (CATALOG_OIDS[i] == oid)
			oid = ((const Oid *) coupon_catalog())[i];
	}
	index = index_open(oid, mode);
	coupon_index_check(index);
	return index;
}

void
coupon_scan_begin(CouponScan *s, Oid heap, Oid index, Snapshot snapshot,
				  ScanKey keys, int nkeys, bool want_index_tuples)
{
	s->heap = table_open(heap, AccessShareLock);
	(void) coupon_table(s->heap, NULL);
	s->index = coupon_index_open(index, AccessShareLock);
	s->slot = table_slot_create(s->heap, NULL);
	s->scan = coupon_index_beginscan(s->heap, s->index, snapshot, nkeys);
	s->scan->xs_want_itup = want_index_tuples;
	s->missed = false;
	if (keys != NULL)
		index_rescan(s->scan, keys, nkeys, NULL, 0);
}

bool
coupon_index_next(IndexScanDesc scan, ScanDirection direction, TupleTableSlot *slot, bool *missed)
{
	for (;;)
	{
		bool		next_entry = !scan->xs_heap_continue;

		CHECK_FOR_INTERRUPTS();
		if (next_entry && index_getnext_tid(scan, direction) == NULL)
			return false;
		COUPON_FAULT(entry_read);
		if (index_fetch_heap(scan, slot))
			return true;
		*missed |= next_entry;
	}
}

/*
 * To wait for who withdrew it would be a deadlock where two did, each of whom
 * waits for the other.
 */
bool
coupon_row_withdrawn(TupleTableSlot *slot)
{
	HeapTuple	tuple = ((HeapTupleTableSlot *) slot)->tuple;
	Buffer		buffer = ((BufferHeapTupleTableSlot *) slot)->buffer;
	HeapTupleHeader row = tuple->t_data;
	bool		withdrawn;

	if (HeapTupleHeaderGetRawXmax(row) != HeapTupleHeaderGetRawXmin(row))
		return false;

	/* an update of it, at this moment, writes one field after the other */
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	/* a version that was updated leads to the next one */
	withdrawn = ItemPointerEquals(&row->t_ctid, &tuple->t_self) &&
		HeapTupleHeaderGetRawXmax(row) == HeapTupleHeaderGetRawXmin(row) &&
		(row->t_infomask & (HEAP_XMAX_INVALID | HEAP_XMAX_IS_MULTI)) == 0 &&
		!HEAP_XMAX_IS_LOCKED_ONLY(row->t_infomask);
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	return withdrawn;
}

bool
coupon_scan_next(CouponScan *s, ScanDirection direction)
{
	return coupon_index_next(s->scan, direction, s->slot, &s->missed);
}

static void
end_scan(CouponScan *s, LOCKMODE lock)
{
	index_endscan(s->scan);
	ExecDropSingleTupleTableSlot(s->slot);
	index_close(s->index, lock);
	table_close(s->heap, lock);
}

void
coupon_scan_end(CouponScan *s)
{
	/* the locks go with the transaction, all at once */
	end_scan(s, NoLock);
}

void
coupon_scan_end_unlock(CouponScan *s)
{
	end_scan(s, AccessShareLock);
}

/* *missed: what was not found may be there. */
static bool
row_exists(Oid heap, Oid index, ScanKey keys, int nkeys, Snapshot snapshot, bool *missed)
{
	CouponScan	scan;
	bool		found;

	coupon_scan_begin(&scan, heap, index, snapshot, keys, nkeys, false);
	found = coupon_scan_next(&scan, ForwardScanDirection);
	coupon_scan_end(&scan);
	*missed = scan.missed;
	return found;
}

bool
coupon_row_exists(Oid heap, Oid index, ScanKey keys, int nkeys, SnapshotData *dirty)
{
	bool		missed;
	bool		found;

	InitDirtySnapshot(*dirty);
	found = row_exists(heap, index, keys, nkeys, dirty, &missed);
	if (!found && missed)
	{
		/* it may have been updated in this moment, which is committed by now */
		Snapshot	latest = RegisterSnapshot(GetLatestSnapshot());

		found = row_exists(heap, index, keys, nkeys, latest, &missed);
		UnregisterSnapshot(latest);
	}
	return found;
}

void
coupon_key_int64(ScanKey key, int column, StrategyNumber strategy, int64 value)
{
	RegProcedure procedure;

	switch (strategy)
	{
		case BTGreaterEqualStrategyNumber:
			procedure = F_INT8GE;
			break;
		case BTLessEqualStrategyNumber:
			procedure = F_INT8LE;
			break;
		default:
			Assert(strategy == BTEqualStrategyNumber);
			procedure = F_INT8EQ;
	}
	ScanKeyInit(key, column, strategy, procedure, Int64GetDatum(value));
}

void
coupon_key_int32(ScanKey key, int column, StrategyNumber strategy, int32 value)
{
	RegProcedure procedure = strategy == BTGreaterEqualStrategyNumber ? F_INT4GE : F_INT4EQ;

	Assert(procedure == F_INT4GE || strategy == BTEqualStrategyNumber);
	ScanKeyInit(key, column, strategy, procedure, Int32GetDatum(value));
}

void
coupon_key_time(ScanKey key, int column, StrategyNumber strategy, TimestampTz value)
{
	RegProcedure procedure = strategy == BTLessEqualStrategyNumber ? F_TIMESTAMPTZ_LE :
	strategy == BTGreaterEqualStrategyNumber ? F_TIMESTAMPTZ_GE : F_TIMESTAMPTZ_GT;

	ScanKeyInit(key, column, strategy, procedure, TimestampTzGetDatum(value));
}

void
coupon_key_uuid(ScanKey key, int column, StrategyNumber strategy, const pg_uuid_t *value)
{
	RegProcedure procedure = strategy == BTGreaterEqualStrategyNumber ? F_UUID_GE :
	strategy == BTLessEqualStrategyNumber ? F_UUID_LE : F_UUID_EQ;

	ScanKeyInit(key, column, strategy, procedure, UUIDPGetDatum(value));
}

void
coupon_key_text(ScanKey key, int column, Datum value)
{
	ScanKeyEntryInitialize(key, 0, column, BTEqualStrategyNumber, InvalidOid,
						   C_COLLATION_OID, F_TEXTEQ, value);
}
