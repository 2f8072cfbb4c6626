/*
 * outbox_read.c
 *	  Reading the outbox in order, removing what is delivered, and keeping it
 *	  small.
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
 * Size.  When the current child has grown to ROTATE_BLOCKS, appending moves on
 * to an empty one; a child that is not current and holds no live row any more
 * is truncated, which no snapshot can prevent.  A few rows that must stay are
 * moved out of the way.
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
#include "base/compat.h"
#include "base/spi.h"
#include "base/table_writer.h"
#include "outbox/event_id.h"
#include "outbox/outbox.h"
#include "outbox/outbox_read.h"

#define ROTATE_BLOCKS	1024	/* a child of this size is not appended to any more */
#define ROTATE_INTERVAL_MS	100 /* between attempts to truncate */
#define BATCH_MAX		(1024 * 1024)

/* A child table, as long as it has the same file. */
typedef struct Child
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
} Child;

static Child children[COUPON_OUTBOX_CHILDREN];

/* The batch, and the generations of the files that it points into. */
static CouponOutboxEntry *entries = NULL;
static int	nentries = 0;
static int	max_entries = 0;
static int	batch_generation[COUPON_OUTBOX_CHILDREN];

void
coupon_outbox_open(void)
{
	const CouponCatalog *catalog = coupon_catalog();

	for (int i = 0; i < COUPON_OUTBOX_CHILDREN; i++)
	{
		Child	   *child = &children[i];

		child->writer = coupon_writer_open(catalog->outbox[i], COUPON_DELETE);
		child->rel = coupon_writer_relation(child->writer);
		child->slot = table_slot_create(child->rel, NULL);
		child->nblocks = RelationGetNumberOfBlocks(child->rel);
		if (child->oid != RelationGetRelid(child->rel) ||
			child->file != child->rel->rd_rel->relfilenode)
		{
			child->oid = RelationGetRelid(child->rel);
			child->file = child->rel->rd_rel->relfilenode;
			child->generation++;
			child->nknown = 0;
		}
	}
}

void
coupon_outbox_close(void)
{
	for (int i = 0; i < COUPON_OUTBOX_CHILDREN; i++)
	{
		ExecDropSingleTupleTableSlot(children[i].slot);
		coupon_writer_close(children[i].writer);
	}
}

void
coupon_outbox_forget(void)
{
	for (int i = 0; i < COUPON_OUTBOX_CHILDREN; i++)
		children[i].nknown = 0;
}

/* ---- collecting ---- */

static int
compare_entries(const void *a, const void *b)
{
	const CouponOutboxEntry *x = a;
	const CouponOutboxEntry *y = b;

	if (x->tick != y->tick)
		return x->tick < y->tick ? -1 : 1;
	if (x->child != y->child)
		return x->child < y->child ? -1 : 1;
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

static void
add_entry(int number, HeapTuple tuple, uint64 *cut, bool (*leave) (const char *topic))
{
	TupleDesc	desc = RelationGetDescr(children[number].rel);
	CouponOutboxEntry *entry;
	bool		isnull;
	uint64		tick;

	tick = coupon_event_tick(DatumGetUUIDP(heap_getattr(tuple, Outbox_id, desc, &isnull)));
	if (tick > *cut)
		return;
	if (leave != NULL)
	{
		char	   *topic = TextDatumGetCString(heap_getattr(tuple, Outbox_topic, desc, &isnull));
		bool		stays = leave(topic);

		pfree(topic);
		if (stays)
			return;
	}
	if (nentries == max_entries)
	{
		make_room(cut);
		if (tick > *cut)
			return;
	}
	entry = &entries[nentries++];
	entry->tick = tick;
	entry->tid = tuple->t_self;
	entry->child = number;
	entry->state = 0;
}

/*
 * Rows of transactions that are still running make the page one to look at
 * again, though its LSN will not change when they commit.
 */
static void
read_page(int number, Buffer buffer, Snapshot snapshot, uint64 *cut,
		  bool (*leave) (const char *topic))
{
	Child	   *child = &children[number];
	BlockNumber block = BufferGetBlockNumber(buffer);
	Page		page = BufferGetPage(buffer);
	XLogRecPtr	lsn;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	lsn = BufferGetLSNAtomic(buffer);
	if (XLogRecPtrIsInvalid(lsn) || child->lsns[block] != lsn)
	{
		OffsetNumber last = PageIsNew(page) ? 0 : PageGetMaxOffsetNumber(page);
		bool		running = false;

		for (OffsetNumber offset = FirstOffsetNumber; offset <= last; offset++)
		{
			ItemId		item = PageGetItemId(page, offset);
			HeapTupleData tuple;

			if (!ItemIdIsNormal(item))
				continue;
			tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
			tuple.t_len = ItemIdGetLength(item);
			tuple.t_tableOid = child->oid;
			ItemPointerSet(&tuple.t_self, block, offset);

			if (HeapTupleSatisfiesVisibility(&tuple, snapshot, buffer))
				add_entry(number, &tuple, cut, leave);
			else if (!HeapTupleHeaderXminInvalid(tuple.t_data) &&
					 XidInMVCCSnapshot(HeapTupleHeaderGetXmin(tuple.t_data), snapshot))
				running = true;
		}
		child->lsns[block] = running ? InvalidXLogRecPtr : lsn;
	}
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
}

static void
read_child(int number, Snapshot snapshot, uint64 *cut, bool (*leave) (const char *topic))
{
	Child	   *child = &children[number];
	BufferAccessStrategy strategy = NULL;

	/* once: later ones collect what came after the snapshot */
	child->nblocks = RelationGetNumberOfBlocks(child->rel);
	if (child->nblocks > NBuffers / 4)
		strategy = GetAccessStrategy(BAS_BULKREAD);

	if (child->nblocks > child->nknown)
	{
		Size		size = mul_size(child->nblocks, sizeof(XLogRecPtr));

		if (child->lsns == NULL)
			child->lsns = MemoryContextAllocHuge(TopMemoryContext, size);
		else
			child->lsns = repalloc_huge(child->lsns, size);
		memset(child->lsns + child->nknown, 0,
			   (child->nblocks - child->nknown) * sizeof(XLogRecPtr));
		child->nknown = child->nblocks;
	}

	for (BlockNumber block = 0; block < child->nblocks; block++)
	{
		Buffer		buffer;

		CHECK_FOR_INTERRUPTS();
		buffer = ReadBufferExtended(child->rel, MAIN_FORKNUM, block, RBM_NORMAL, strategy);
		read_page(number, buffer, snapshot, cut, leave);
		ReleaseBuffer(buffer);
	}
	if (strategy != NULL)
		FreeAccessStrategy(strategy);
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

int
coupon_outbox_collect(CouponOutboxEntry **batch, bool (*leave) (const char *topic))
{
	Snapshot	snapshot = GetActiveSnapshot();
	uint64		cut = PG_UINT64_MAX;

	nentries = 0;
	for (int i = 0; i < COUPON_OUTBOX_CHILDREN; i++)
	{
		read_child(i, snapshot, &cut, leave);
		batch_generation[i] = children[i].generation;
	}
	qsort(entries, nentries, sizeof(CouponOutboxEntry), compare_entries);
	if (nentries > BATCH_MAX)
	{
		nentries = BATCH_MAX;
		cut = 0;
	}
	if (cut != PG_UINT64_MAX)
		coupon_outbox_forget();
	if (nentries > 0)
		flush_what_was_seen();
	*batch = entries;
	return nentries;
}

/* ---- events ---- */

/* The child that an entry points into, NULL if its file is another one now. */
static Child *
child_of(const CouponOutboxEntry *entry)
{
	Child	   *child = &children[entry->child];

	if (child->generation != batch_generation[entry->child] ||
		ItemPointerGetBlockNumber(&entry->tid) >= child->nblocks)
		return NULL;
	return child;
}

/*
 * The entry's row in the child's slot.  Somebody may have deleted and vacuumed
 * it since it was collected, and its place may be another row's now.
 */
static bool
find_row(Child *child, const CouponOutboxEntry *entry)
{
	bool		isnull;

	if (child == NULL ||
		!table_tuple_fetch_row_version(child->rel, (ItemPointer) &entry->tid,
									   GetActiveSnapshot(), child->slot))
		return false;
	if (coupon_event_tick(DatumGetUUIDP(slot_getattr(child->slot, Outbox_id, &isnull))) == entry->tick)
		return true;
	ExecClearTuple(child->slot);
	return false;
}

bool
coupon_outbox_fetch(const CouponOutboxEntry *entry, CouponEvent *event)
{
	Child	   *child = child_of(entry);
	bool		found = find_row(child, entry);

	if (found)
	{
		TupleTableSlot *slot = child->slot;

		slot_getallattrs(slot);
		event->id = *DatumGetUUIDP(slot->tts_values[Outbox_id - 1]);
		event->topic = TextDatumGetCString(slot->tts_values[Outbox_topic - 1]);
		event->key = TextDatumGetCString(slot->tts_values[Outbox_key - 1]);
		event->type = TextDatumGetCString(slot->tts_values[Outbox_type - 1]);
		event->payload = TextDatumGetCString(slot->tts_values[Outbox_payload - 1]);
		ExecClearTuple(slot);
	}
	return found;
}

bool
coupon_outbox_remove(const CouponOutboxEntry *entry)
{
	Child	   *child = child_of(entry);

	if (!find_row(child, entry))
		return true;
	ExecClearTuple(child->slot);
	return coupon_writer_delete(child->writer, (ItemPointer) &entry->tid, false) != COUPON_ROW_LOCKED;
}

/* ---- rotation ---- */

/* Bytes of the rows that nobody has deleted, or anything above the limit. */
static int64
live_bytes(Relation rel, int64 limit)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	HeapTuple	tuple;
	int64		bytes = 0;

	while (bytes <= limit && (tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		bytes += tuple->t_len;
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	return bytes;
}

/* Appends the child's live rows to the current one, as they are. */
static void
move_rows(Child *child)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(child->rel, snapshot, 0, NULL);
	TupleTableSlot *slot = child->slot;
	CouponOutbox *outbox = coupon_outbox_begin(true);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "coupon outbox row",
												  ALLOCSET_DEFAULT_SIZES);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(context);

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		coupon_outbox_add_again(outbox, DatumGetUUIDP(slot->tts_values[Outbox_id - 1]),
								TextDatumGetCString(slot->tts_values[Outbox_topic - 1]),
								TextDatumGetCString(slot->tts_values[Outbox_key - 1]),
								TextDatumGetCString(slot->tts_values[Outbox_type - 1]),
								TextDatumGetCString(slot->tts_values[Outbox_payload - 1]));
		MemoryContextSwitchTo(oldcontext);
		MemoryContextReset(context);
	}
	coupon_outbox_finish(outbox);
	MemoryContextDelete(context);
	table_endscan(scan);
	ExecClearTuple(slot);
	UnregisterSnapshot(snapshot);
}

/*
 * Empties a child that is not current and holds at most so much.  With the
 * lock there is no transaction that has appended and is not over, and none
 * will append.  False if somebody has the child locked, or it holds more.
 */
static bool
empty_child(int number, int64 limit)
{
	static CouponStatement statements[COUPON_OUTBOX_CHILDREN] = {
		{.sql = "TRUNCATE ONLY coupon.outbox_0"},
		{.sql = "TRUNCATE ONLY coupon.outbox_1"},
		{.sql = "TRUNCATE ONLY coupon.outbox_2"}
	};
	Child	   *child = &children[number];
	int64		live;

	if (live_bytes(child->rel, limit) > limit ||
		!ConditionalLockRelationOid(child->oid, AccessExclusiveLock))
		return false;
	live = live_bytes(child->rel, limit);
	if (live > limit)
		return false;
	if (live > 0)
		move_rows(child);

	/* TRUNCATE refuses a table that is open elsewhere in the session */
	ExecDropSingleTupleTableSlot(child->slot);
	coupon_writer_close(child->writer);
	coupon_spi_connect();
	coupon_spi_execute(&statements[number], SPI_OK_UTILITY, NULL, NULL);
	coupon_spi_finish();
	child->writer = coupon_writer_open(child->oid, COUPON_DELETE);
	child->rel = coupon_writer_relation(child->writer);
	child->slot = table_slot_create(child->rel, NULL);
	child->nblocks = 0;
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

	if (!TimestampDifferenceExceeds(last, now, ROTATE_INTERVAL_MS))
		return;
	last = now;

	for (int i = 1; i < COUPON_OUTBOX_CHILDREN; i++)
	{
		int			other = (current + i) % COUPON_OUTBOX_CHILDREN;

		if (children[other].nblocks == 0 || empty_child(other, 0))
			empty = other;
	}
	if (children[current].nblocks < ROTATE_BLOCKS)
		return;

	/*
	 * Events of a topic that is refused may hold all the others.  Moving them
	 * is worth it when they are less than what the current one has grown to.
	 */
	for (int i = 1; i < COUPON_OUTBOX_CHILDREN && empty < 0; i++)
	{
		int			other = (current + i) % COUPON_OUTBOX_CHILDREN;

		if (empty_child(other, (int64) children[current].nblocks * BLCKSZ / 2))
			empty = other;
	}
	if (empty >= 0)
		pg_atomic_write_u32(place, empty);
}

/* ---- counting ---- */

int64
coupon_outbox_count(uint64 *oldest)
{
	const CouponCatalog *catalog = coupon_catalog();
	int64		count = 0;

	*oldest = 0;
	for (int i = 0; i < COUPON_OUTBOX_CHILDREN; i++)
	{
		Relation	rel = table_open(catalog->outbox[i], AccessShareLock);
		TupleTableSlot *slot = table_slot_create(rel, NULL);
		TableScanDesc scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);

		(void) coupon_table(rel, NULL);
		while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		{
			bool		isnull;
			uint64		tick = coupon_event_tick(DatumGetUUIDP(slot_getattr(slot, Outbox_id, &isnull)));

			CHECK_FOR_INTERRUPTS();
			if (*oldest == 0 || tick < *oldest)
				*oldest = tick;
			count++;
		}
		table_endscan(scan);
		ExecDropSingleTupleTableSlot(slot);
		table_close(rel, AccessShareLock);
	}
	return count;
}

int64
coupon_outbox_size(void)
{
	const CouponCatalog *catalog = coupon_catalog();
	int64		blocks = 0;

	for (int i = 0; i < COUPON_OUTBOX_CHILDREN; i++)
	{
		Relation	rel = table_open(catalog->outbox[i], AccessShareLock);

		blocks += RelationGetNumberOfBlocks(rel);
		table_close(rel, AccessShareLock);
	}
	return blocks * BLCKSZ;
}
