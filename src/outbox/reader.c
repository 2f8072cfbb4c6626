/*
 * reader.c
 *	  Reading the outbox in order, removing what is delivered, parking what
 *	  cannot go, and keeping it small.
 *
 * Nothing but the rows says what is yet to be published: a delivered event's
 * row is deleted.  So a reader that starts anew has nothing to remember, and
 * a transaction that took its event id first and commits last is seen when it
 * commits, like any other.
 *
 * Order.  A batch is all rows that a snapshot shows, sorted by id, and is
 * seen to before the next snapshot is taken: of two events in different
 * batches the one committed earlier comes first, and in one batch the one
 * appended earlier, which for two events of one issuance (appended under its
 * row's lock) is the one committed earlier too.  A batch of more than
 * BATCH_MAX rows is cut by id, so this holds for it as well.
 *
 * Cost.  Rows may come to any page of the table, not only the last ones, and
 * deleted rows stay as long as somebody's snapshot might see them.  So the
 * reader remembers each page's LSN as of when it had nothing left to tell,
 * and looks only at pages that have changed since.
 *
 * Parking.  Events that cannot go yet would be met by each batch anew, and
 * keep their tables from being emptied.  So they are moved, under their ids,
 * to a table that is not read until their topic can be published to.  Then
 * they go first, some with each batch, and new events of the topic are parked
 * behind them until one batch has the last ones and the new ones, in order.
 * Some may not be parked when that begins: they were locked, or too many.  Those
 * that are older than what a batch has of the parked ones belong to it as well.
 *
 * Size.  When the current child has grown to ROTATE_BLOCKS, appending moves on
 * to an empty one; a child that is not current and holds no live row any more
 * is truncated, which no snapshot can prevent.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/pg_class.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "base/catalog.h"
#include "base/clock.h"
#include "base/compat.h"
#include "base/spi.h"
#include "base/table_writer.h"
#include "outbox/event_id.h"
#include "outbox/outbox.h"
#include "outbox/reader.h"

#define ROTATE_BLOCKS	1024	/* a child of this size is not appended to any
								 * more */
#define ROTATE_INTERVAL_MS	100 /* between attempts to truncate */
#define SAMPLE_BLOCKS	(2 * ROTATE_BLOCKS) /* from which events are estimated */
#define BATCH_MAX		(1024 * 1024)
#define PARK_MAX		10000	/* by one batch, to keep its transaction short */
#define UNPARK_MAX		10000	/* the same, shared by the topics that have
								 * some */
#define UNPARK_MIN		100		/* of a topic, as long as there is room */

/* One of the tables, as long as it has the same file. */
typedef struct Table
{
	CouponTableWriter *writer;	/* open in this transaction ... */
	Relation	rel;			/* ... and so this */
	TupleTableSlot *slot;
	Oid			oid;
	Oid			file;
	BlockNumber nblocks;		/* in this transaction */
	BlockNumber nknown;			/* entries in lsns */
	XLogRecPtr *lsns;			/* per page; invalid: has something to tell */
	int			generation;		/* of the file, counted up */
} Table;

static Table tables[COUPON_OUTBOX_TABLES];

/* The batch, and the generations of the files that it points into. */
static CouponOutboxEntry *entries = NULL;
static int	nentries = 0;
static int	max_entries = 0;
static int	batch_generation[COUPON_OUTBOX_TABLES];

/* Those whose rows could not be removed yet, and the generations of their files. */
typedef struct Kept
{
	CouponOutboxEntry entry;
	int			generation;
} Kept;

static Kept *kept = NULL;
static int	nkept = 0;
static int	max_kept = 0;

/* Some parked events have gone to a batch: perhaps they were the last. */
static bool unparked_some = false;

/* Of those parked since batches last had some: the lowest tick. */
static uint64 lowest_parked = PG_UINT64_MAX;

void
coupon_outbox_open(void)
{
	const CouponCatalog *catalog = coupon_catalog();

	for (int i = 0; i < COUPON_OUTBOX_TABLES; i++)
	{
		Table	   *table = &tables[i];

		table->writer = coupon_writer_open(catalog->outbox[i], COUPON_DELETE);
		table->rel = coupon_writer_relation(table->writer);
		table->slot = table_slot_create(table->rel, NULL);
		table->nblocks = RelationGetNumberOfBlocks(table->rel);
		if (table->oid != RelationGetRelid(table->rel) ||
			table->file != table->rel->rd_rel->relfilenode)
		{
			table->oid = RelationGetRelid(table->rel);
			table->file = table->rel->rd_rel->relfilenode;
			table->generation++;
			table->nknown = 0;
		}
	}
}

void
coupon_outbox_close(void)
{
	for (int i = 0; i < COUPON_OUTBOX_TABLES; i++)
	{
		ExecDropSingleTupleTableSlot(tables[i].slot);
		coupon_writer_close(tables[i].writer);
	}
}

void
coupon_outbox_forget(void)
{
	for (int i = 0; i < COUPON_OUTBOX_TABLES; i++)
		tables[i].nknown = 0;
}

/* ---- collecting ---- */

static int
compare_entries(const void *a, const void *b)
{
	const CouponOutboxEntry *x = a;
	const CouponOutboxEntry *y = b;

	if (x->tick != y->tick)
		return x->tick < y->tick ? -1 : 1;
	if (x->table != y->table)
		return x->table < y->table ? -1 : 1;
	return ItemPointerCompare((ItemPointer) &x->tid, (ItemPointer) &y->tid);
}

/*
 * The array is full.  Below twice the most that a batch may have it grows;
 * then the newer half goes, to be collected again next time.
 */
static void
make_room(uint64 *cut)
{
	if (max_entries < 2 * BATCH_MAX)
	{
		int			wanted = Max(max_entries * 2, 1024);

		if (entries == NULL)
			entries = MemoryContextAlloc(TopMemoryContext, wanted * sizeof(CouponOutboxEntry));
		else
			entries = repalloc_huge(entries, wanted * sizeof(CouponOutboxEntry));
		max_entries = wanted;
		return;
	}
	qsort(entries, nentries, sizeof(CouponOutboxEntry), compare_entries);
	nentries = BATCH_MAX;
	*cut = entries[nentries - 1].tick;
}

/* What collecting a batch needs and finds out. */
typedef struct Collection
{
	Snapshot	snapshot;
	CouponChoice (*choose) (const char *topic, uint64 tick);
	uint64		cut;			/* events behind it are for the next batch */
	bool		left;
	CouponOutboxEntry *parking; /* events to be parked: PARK_MAX at most ... */
	int			nparking;		/* ... of so many */
} Collection;

static void
add_entry(Collection *c, int number, uint64 tick, const ItemPointerData *tid)
{
	CouponOutboxEntry *entry;

	if (tick > c->cut)
		return;
	if (nentries == max_entries)
	{
		make_room(&c->cut);
		if (tick > c->cut)
			return;
	}
	entry = &entries[nentries++];
	entry->tick = tick;
	entry->tid = *tid;
	entry->table = number;
	entry->state = 0;
	entry->tries = 0;
	entry->kept = false;
}

/* True: there will be more to tell about the event. */
static bool
meet_event(Collection *c, int number, HeapTuple tuple)
{
	TupleDesc	desc = RelationGetDescr(tables[number].rel);
	bool		isnull;
	uint64		tick = coupon_event_tick(DatumGetUUIDP(heap_getattr(tuple, Outbox_id, desc, &isnull)));
	char	   *topic = TextDatumGetCString(heap_getattr(tuple, Outbox_topic, desc, &isnull));
	CouponChoice choice = c->choose(topic, tick);

	pfree(topic);
	if (choice == COUPON_TAKE)
	{
		add_entry(c, number, tick, &tuple->t_self);
		return false;
	}
	if (choice == COUPON_LEAVE)
		c->left = true;
	else
	{
		if (c->parking == NULL)
			c->parking = palloc(PARK_MAX * sizeof(CouponOutboxEntry));
		if (c->nparking < PARK_MAX)
		{
			c->parking[c->nparking].table = number;
			c->parking[c->nparking].tid = tuple->t_self;
		}
		c->nparking++;
	}
	return true;
}

/* The tuple there, on a page that is locked; false: there is none. */
static bool
get_tuple(Relation rel, Buffer buffer, OffsetNumber offset, HeapTuple tuple)
{
	Page		page = BufferGetPage(buffer);
	ItemId		item = PageGetItemId(page, offset);

	if (!ItemIdIsNormal(item))
		return false;
	tuple->t_data = (HeapTupleHeader) PageGetItem(page, item);
	tuple->t_len = ItemIdGetLength(item);
	tuple->t_tableOid = RelationGetRelid(rel);
	ItemPointerSet(&tuple->t_self, BufferGetBlockNumber(buffer), offset);
	return true;
}

/*
 * Rows of transactions that are still running make the page one to look at
 * again, though its LSN will not change when they commit.
 */
static void
read_page(Collection *c, int number, Buffer buffer)
{
	Table	   *table = &tables[number];
	BlockNumber block = BufferGetBlockNumber(buffer);
	Page		page = BufferGetPage(buffer);
	XLogRecPtr	lsn;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	lsn = BufferGetLSNAtomic(buffer);
	if (XLogRecPtrIsInvalid(lsn) || table->lsns[block] != lsn)
	{
		OffsetNumber last = PageIsNew(page) ? 0 : PageGetMaxOffsetNumber(page);
		bool		again = false;

		for (OffsetNumber offset = FirstOffsetNumber; offset <= last; offset++)
		{
			HeapTupleData tuple;

			if (!get_tuple(table->rel, buffer, offset, &tuple))
				continue;
			if (HeapTupleSatisfiesVisibility(&tuple, c->snapshot, buffer))
				again |= meet_event(c, number, &tuple);
			else if (!HeapTupleHeaderXminInvalid(tuple.t_data) &&
					 XidInMVCCSnapshot(HeapTupleHeaderGetXmin(tuple.t_data), c->snapshot))
				again = true;
		}
		table->lsns[block] = again ? InvalidXLogRecPtr : lsn;
	}
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
}

static void
read_table(Collection *c, int number)
{
	Table	   *table = &tables[number];
	BufferAccessStrategy strategy = NULL;

	/* once: later ones collect what came after the snapshot */
	table->nblocks = RelationGetNumberOfBlocks(table->rel);
	if (table->nblocks > NBuffers / 4)
		strategy = GetAccessStrategy(BAS_BULKREAD);

	if (table->nblocks > table->nknown)
	{
		Size		size = mul_size(table->nblocks, sizeof(XLogRecPtr));

		if (table->lsns == NULL)
			table->lsns = MemoryContextAllocHuge(TopMemoryContext, size);
		else
			table->lsns = repalloc_huge(table->lsns, size);
		memset(table->lsns + table->nknown, 0,
			   (table->nblocks - table->nknown) * sizeof(XLogRecPtr));
		table->nknown = table->nblocks;
	}

	for (BlockNumber block = 0; block < table->nblocks; block++)
	{
		Buffer		buffer;

		CHECK_FOR_INTERRUPTS();
		buffer = ReadBufferExtended(table->rel, MAIN_FORKNUM, block, RBM_NORMAL, strategy);
		read_page(c, number, buffer);
		ReleaseBuffer(buffer);
	}
	if (strategy != NULL)
		FreeAccessStrategy(strategy);
}

/*
 * The next parked events of a topic, so many at most; returns how many.  What
 * earlier batches had is passed by in the index: it may be dead for long.
 */
static int
read_parked(Collection *c, CouponParked *parked, int max)
{
	CouponScan	scan;
	ScanKeyData keys[2];
	pg_uuid_t	from;
	int			n = 0;
	bool		isnull;

	/* a transaction that was long over its id may have been parked behind it */
	parked->from = Min(parked->from, lowest_parked);
	coupon_event_first_id(parked->from, &from);
	coupon_key_text(&keys[0], 1, CStringGetTextDatum(parked->topic));
	coupon_key_uuid(&keys[1], 2, BTGreaterEqualStrategyNumber, &from);
	coupon_scan_begin(&scan, tables[COUPON_OUTBOX_PARKED].oid, coupon_catalog()->outbox_parked_idx,
					  c->snapshot, keys, 2, false);
	while (n < max && coupon_scan_next(&scan, ForwardScanDirection))
	{
		uint64		tick = coupon_event_tick(DatumGetUUIDP(slot_getattr(scan.slot, Outbox_id, &isnull)));

		parked->from = tick + 1;
		add_entry(c, COUPON_OUTBOX_PARKED, tick, &scan.slot->tts_tid);
		n++;
	}
	coupon_scan_end(&scan);
	parked->some = n == max;
	return n;
}

/* Moves events out of the way, except for those that somebody has locked. */
static void
park(Collection *c)
{
	CouponTableWriter *writer = tables[COUPON_OUTBOX_PARKED].writer;

	coupon_writer_allow(writer, COUPON_INSERT);
	for (int i = 0; i < Min(c->nparking, PARK_MAX); i++)
	{
		const CouponOutboxEntry *entry = &c->parking[i];
		Table	   *table = &tables[entry->table];
		TupleTableSlot *row = coupon_writer_row(writer);

		CHECK_FOR_INTERRUPTS();
		if (!table_tuple_fetch_row_version(table->rel, (ItemPointer) &entry->tid, c->snapshot, table->slot))
			continue;
		slot_getallattrs(table->slot);
		memcpy(row->tts_values, table->slot->tts_values, Outbox_natts * sizeof(Datum));
		memcpy(row->tts_isnull, table->slot->tts_isnull, Outbox_natts * sizeof(bool));
		if (coupon_writer_delete(table->writer, (ItemPointer) &entry->tid, false) == COUPON_ROW_CHANGED)
		{
			lowest_parked = Min(lowest_parked, coupon_event_tick(DatumGetUUIDP(row->tts_values[Outbox_id - 1])));
			coupon_writer_insert(writer);
		}
		ExecClearTuple(table->slot);
	}
}

/*
 * With synchronous_commit = off a transaction can be seen before its WAL is
 * on disk.  An event must not be sent whose row a crash would take away.
 */
static void
flush_what_was_seen(void)
{
	XLogRecPtr	end = GetXLogInsertRecPtr();

	/* at the start of a page it points past a header not yet written */
	if (XLogSegmentOffset(end, wal_segment_size) == SizeOfXLogLongPHD)
		end -= SizeOfXLogLongPHD;
	else if (end % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		end -= SizeOfXLogShortPHD;
	XLogFlush(end);
}

/*
 * Which of the batch's are kept ones?  Those behind its cut stay so; of the
 * others that are not in it the rows are gone.  Returns how many are.
 */
static int
mark_kept(bool is_cut)
{
	uint64		end = is_cut ? entries[nentries - 1].tick : PG_UINT64_MAX;
	int			nmarked = 0;
	int			nleft = 0;

	for (int i = 0; i < nkept; i++)
	{
		CouponOutboxEntry *entry;

		if (kept[i].generation != batch_generation[kept[i].entry.table])
			continue;
		entry = bsearch(&kept[i].entry, entries, nentries, sizeof(CouponOutboxEntry), compare_entries);
		if (entry != NULL)
		{
			entry->kept = true;
			nmarked++;
		}
		else if (kept[i].entry.tick > end)
			kept[nleft++] = kept[i];
	}
	nkept = nleft;
	return nmarked;
}

void
coupon_outbox_collect(CouponBatch *batch, List *parked, CouponChoice (*choose) (const char *topic, uint64 tick))
{
	Collection	c = {
		.snapshot = GetActiveSnapshot(),.choose = choose,.cut = PG_UINT64_MAX
	};
	int			room = UNPARK_MAX;
	int			share = Max(UNPARK_MIN, UNPARK_MAX / Max(1, list_length(parked)));
	bool		cut = false;
	ListCell   *cell;

	nentries = 0;
	foreach(cell, parked)
	{
		CouponParked *some = lfirst(cell);
		int			n = read_parked(&c, some, Min(room, share));

		room -= n;
		unparked_some |= n > 0;
		cut |= some->some;
	}
	lowest_parked = PG_UINT64_MAX;
	for (int i = 0; i < COUPON_OUTBOX_TABLES; i++)
	{
		if (i != COUPON_OUTBOX_PARKED)
			read_table(&c, i);
		batch_generation[i] = tables[i].generation;
	}
	qsort(entries, nentries, sizeof(CouponOutboxEntry), compare_entries);
	if (nentries > BATCH_MAX)
	{
		nentries = BATCH_MAX;
		c.cut = 0;
	}
	if (c.cut != PG_UINT64_MAX)
		coupon_outbox_forget();
	if (c.nparking > 0)
		park(&c);
	if (nentries > 0)
		flush_what_was_seen();

	batch->entries = entries;
	batch->n = nentries;
	batch->too_large = c.cut != PG_UINT64_MAX;
	batch->nkept = nkept == 0 ? 0 : mark_kept(batch->too_large);
	batch->cut = cut || batch->too_large || c.nparking > PARK_MAX;
	batch->left = c.left;
}

/* ---- events ---- */

/* The table that an entry points into, NULL if its file is another one now. */
static Table *
table_of(const CouponOutboxEntry *entry)
{
	Table	   *table = &tables[entry->table];

	if (table->generation != batch_generation[entry->table] ||
		ItemPointerGetBlockNumber(&entry->tid) >= table->nblocks)
		return NULL;
	return table;
}

void
coupon_outbox_leave(const CouponOutboxEntry *entry)
{
	Table	   *table = &tables[entry->table];
	BlockNumber block = ItemPointerGetBlockNumber(&entry->tid);

	if (table->generation == batch_generation[entry->table] && block < table->nknown)
		table->lsns[block] = InvalidXLogRecPtr;
}

void
coupon_outbox_keep(const CouponOutboxEntry *entry)
{
	if (nkept == max_kept)
	{
		int			wanted = Max(max_kept * 2, 64);

		if (kept == NULL)
			kept = MemoryContextAlloc(TopMemoryContext, wanted * sizeof(Kept));
		else
			kept = repalloc_huge(kept, wanted * sizeof(Kept));
		max_kept = wanted;
	}
	kept[nkept].entry = *entry;
	kept[nkept++].generation = batch_generation[entry->table];
	coupon_outbox_leave(entry);
	if (entry->table == COUPON_OUTBOX_PARKED)
		lowest_parked = Min(lowest_parked, entry->tick);
}

/*
 * The entry's row in the table's slot.  Somebody may have deleted and vacuumed
 * it since it was collected, and its place may be another row's now.
 */
static bool
find_row(Table *table, const CouponOutboxEntry *entry)
{
	bool		isnull;

	if (table == NULL ||
		!table_tuple_fetch_row_version(table->rel, (ItemPointer) &entry->tid,
									   GetActiveSnapshot(), table->slot))
		return false;
	if (coupon_event_tick(DatumGetUUIDP(slot_getattr(table->slot, Outbox_id, &isnull))) == entry->tick)
		return true;
	ExecClearTuple(table->slot);
	return false;
}

bool
coupon_outbox_fetch(const CouponOutboxEntry *entry, CouponEvent *event)
{
	Table	   *table = table_of(entry);
	bool		found = find_row(table, entry);

	if (found)
	{
		TupleTableSlot *slot = table->slot;

		slot_getallattrs(slot);
		event->id = *DatumGetUUIDP(slot->tts_values[Outbox_id - 1]);
		event->topic = TextDatumGetCString(slot->tts_values[Outbox_topic - 1]);
		event->key = TextDatumGetCString(slot->tts_values[Outbox_key - 1]);
		event->type = TextDatumGetCString(slot->tts_values[Outbox_type - 1]);
		event->payload = TextDatumGetCString(slot->tts_values[Outbox_payload - 1]);
		event->trace = slot->tts_isnull[Outbox_traceparent - 1] ? NULL :
			TextDatumGetCString(slot->tts_values[Outbox_traceparent - 1]);
		ExecClearTuple(slot);
	}
	return found;
}

bool
coupon_outbox_remove(const CouponOutboxEntry *entry)
{
	Table	   *table = table_of(entry);

	if (!find_row(table, entry))
		return true;
	ExecClearTuple(table->slot);
	return coupon_writer_delete(table->writer, (ItemPointer) &entry->tid, false) != COUPON_ROW_LOCKED;
}

/* ---- rotation ---- */

/* Is there a row that nobody has deleted? */
static bool
has_rows(Relation rel)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	bool		found = heap_getnext(scan, ForwardScanDirection) != NULL;

	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	return found;
}

/*
 * Empties a table to which nobody appends if it holds no row.  With the lock
 * there is no transaction that has appended and is not over, and none will
 * append.  False if somebody has the table locked, or it holds any.
 */
static bool
empty_table(int number)
{
	static CouponStatement statements[COUPON_OUTBOX_TABLES] = {
		{.sql = "TRUNCATE ONLY coupon.outbox_0"},
		{.sql = "TRUNCATE ONLY coupon.outbox_1"},
		{.sql = "TRUNCATE ONLY coupon.outbox_2"},
		{.sql = "TRUNCATE ONLY coupon.outbox_parked"}
	};
	Table	   *table = &tables[number];

	/* as long as somebody appends, a scan of many dead rows is for nothing */
	if (!ConditionalLockRelationOid(table->oid, ShareLock))
		return false;
	UnlockRelationOid(table->oid, ShareLock);
	if (has_rows(table->rel) || !ConditionalLockRelationOid(table->oid, AccessExclusiveLock) ||
		has_rows(table->rel))
		return false;

	/* TRUNCATE refuses a table that is open elsewhere in the session */
	ExecDropSingleTupleTableSlot(table->slot);
	coupon_writer_close(table->writer);
	coupon_spi_connect();
	coupon_spi_execute(&statements[number], SPI_OK_UTILITY, NULL, NULL);
	coupon_spi_finish();
	table->writer = coupon_writer_open(table->oid, COUPON_DELETE);
	table->rel = coupon_writer_relation(table->writer);
	table->slot = table_slot_create(table->rel, NULL);
	table->nblocks = 0;
	return true;
}

void
coupon_outbox_rotate(void)
{
	static TimestampTz last = 0;
	pg_atomic_uint32 *place = coupon_outbox_current();
	TimestampTz now = GetCurrentTimestamp();
	int			current = pg_atomic_read_u32(place);
	int			empty = -1;

	if (coupon_ms_since(last, now) < ROTATE_INTERVAL_MS)
		return;
	last = now;

	for (int i = 1; i < COUPON_OUTBOX_CHILDREN; i++)
	{
		int			other = (current + i) % COUPON_OUTBOX_CHILDREN;

		if (tables[other].nblocks == 0 || empty_table(other))
			empty = other;
	}
	if (empty >= 0 && tables[current].nblocks >= ROTATE_BLOCKS)
		pg_atomic_write_u32(place, empty);
	if (unparked_some)
	{
		unparked_some = false;
		(void) empty_table(COUPON_OUTBOX_PARKED);
	}
}

/* ---- counting ---- */

/* The events of a page that the snapshot shows; lowers *oldest. */
static int
count_page(Relation rel, BlockNumber block, BufferAccessStrategy strategy, Snapshot snapshot, uint64 *oldest)
{
	Buffer		buffer = ReadBufferExtended(rel, MAIN_FORKNUM, block, RBM_NORMAL, strategy);
	Page		page = BufferGetPage(buffer);
	OffsetNumber last;
	int			count = 0;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	last = PageIsNew(page) ? 0 : PageGetMaxOffsetNumber(page);
	for (OffsetNumber offset = FirstOffsetNumber; offset <= last; offset++)
	{
		HeapTupleData tuple;
		bool		isnull;
		uint64		tick;

		if (!get_tuple(rel, buffer, offset, &tuple) || !HeapTupleSatisfiesVisibility(&tuple, snapshot, buffer))
			continue;
		tick = coupon_event_tick(DatumGetUUIDP(heap_getattr(&tuple, Outbox_id, RelationGetDescr(rel), &isnull)));
		if (*oldest == 0 || tick < *oldest)
			*oldest = tick;
		count++;
	}
	UnlockReleaseBuffer(buffer);
	return count;
}

int64
coupon_outbox_count(bool exact, uint64 *oldest)
{
	const CouponCatalog *catalog = coupon_catalog();
	Relation	rels[COUPON_OUTBOX_TABLES];
	BlockNumber nblocks[COUPON_OUTBOX_TABLES];
	uint64		all = 0;
	uint64		step = 1;
	int64		count = 0;

	for (int i = 0; i < COUPON_OUTBOX_TABLES; i++)
	{
		rels[i] = table_open(catalog->outbox[i], AccessShareLock);
		(void) coupon_table(rels[i], NULL);
		nblocks[i] = RelationGetNumberOfBlocks(rels[i]);
		all += nblocks[i];
	}
	if (!exact)
		step += all / SAMPLE_BLOCKS;
	*oldest = 0;
	for (int i = 0; i < COUPON_OUTBOX_TABLES; i++)
	{
		BufferAccessStrategy strategy = nblocks[i] > NBuffers / 4 ? GetAccessStrategy(BAS_BULKREAD) : NULL;

		for (uint64 block = 0; block < nblocks[i]; block += step)
		{
			CHECK_FOR_INTERRUPTS();
			count += count_page(rels[i], (BlockNumber) block, strategy, GetActiveSnapshot(), oldest);
		}
		if (strategy != NULL)
			FreeAccessStrategy(strategy);
		table_close(rels[i], AccessShareLock);
	}
	return count * (int64) step;
}

int64
coupon_outbox_size(void)
{
	const CouponCatalog *catalog = coupon_catalog();
	int64		blocks = 0;

	for (int i = 0; i < COUPON_OUTBOX_TABLES; i++)
	{
		Relation	rel = table_open(catalog->outbox[i], AccessShareLock);

		blocks += RelationGetNumberOfBlocks(rel);
		table_close(rel, AccessShareLock);
	}
	return blocks * BLCKSZ;
}
