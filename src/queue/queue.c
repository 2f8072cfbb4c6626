/*
 * queue.c
 *	  Queues: which lines there are, and how they are made from the tables.
 *
 * Locking: registry lock, then one line's lock, then those of the area.
 * Building is done under a heavyweight lock, since it reads tables.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "base/database.h"
#include "base/errors.h"
#include "base/guc.h"
#include "queue/queue.h"

#define QUEUES			(COUPON_QUEUE_IDS * COUPON_MAX_DATABASES)

typedef struct Shared
{
	LWLockPadded *locks;		/* the registry's, then the lines' */
	pg_atomic_uint64 refused;	/* entries, for want of room */
	CouponQueue queues[QUEUES];
	int			nlines;
	CouponLine	lines[FLEXIBLE_ARRAY_MEMBER];
} Shared;

static Shared *shared = NULL;
static void *area = NULL;

#define REGISTRY_LOCK	(&shared->locks[0].lock)

/* Lines that this session has met, by id. */
#define CACHED_LINES	64
static CouponLine *cached[CACHED_LINES];

/* ---- shared memory ---- */

static Size
shared_size(void)
{
	return add_size(offsetof(Shared, lines), mul_size(coupon_max_lines, sizeof(CouponLine)));
}

static Size
area_size(void)
{
	return mul_size(coupon_queue_memory, 1024);
}

static void
request(void)
{
	RequestAddinShmemSpace(shared_size());
	RequestAddinShmemSpace(area_size());
	RequestNamedLWLockTranche("coupon_queue", coupon_max_lines + 1);
}

static void
startup(void)
{
	bool		found;

	area = coupon_area_make("coupon queue memory", area_size());
	shared = coupon_shmem_struct("coupon queues", shared_size(), &found);
	if (found)
		return;

	shared->locks = GetNamedLWLockTranche("coupon_queue");
	pg_atomic_init_u64(&shared->refused, 0);
	for (int i = 0; i < QUEUES; i++)
	{
		CouponQueue *queue = &shared->queues[i];

		pg_atomic_init_u32(&queue->built, 0);
		pg_atomic_init_u32(&queue->child, 0);
		pg_atomic_init_u64(&queue->since, 0);
		for (int c = 0; c < COUPON_QUEUE_CHILDREN; c++)
		{
			pg_atomic_init_u32(&queue->open[c], 0);
			pg_atomic_init_u64(&queue->finished[c], 0);
		}
	}
	shared->nlines = coupon_max_lines;
	for (int i = 0; i < shared->nlines; i++)
	{
		shared->lines[i].lock = &shared->locks[i + 1].lock;
		ConditionVariableInit(&shared->lines[i].changed);
	}
}

static void
attach(void)
{
	coupon_queue_area = coupon_area_attach(area, "coupon_queue_memory");
}

static void
reset_statistics(void)
{
	for (int i = 0; i < shared->nlines; i++)
	{
		CouponLine *line = &shared->lines[i];

		if (line->queue == NULL)	/* an unlocked look */
			continue;
		LWLockAcquire(line->lock, LW_EXCLUSIVE);
		if (line->queue != NULL && line->queue->database == MyDatabaseId)
			line->served = line->rate_base = 0;
		LWLockRelease(line->lock);
	}
}

const CouponModule coupon_queue_module = {
	.request = request,
	.startup = startup,
	.attach = attach,
	.reset_statistics = reset_statistics
};

/* ---- the registry ---- */

/*
 * Forgets a queue with all its lines, unless a transaction is at one of them.
 * Called with the registry lock.  First nobody can enter a line any more, and
 * only when all are seen to be idle they go.
 */
static bool
forget_queue(CouponQueue *queue)
{
	bool		idle = true;

	for (int i = 0; i < shared->nlines; i++)
	{
		CouponLine *line = &shared->lines[i];

		if (line->queue != queue)
			continue;
		LWLockAcquire(line->lock, LW_EXCLUSIVE);
		line->closing = true;
		idle = idle && line->pending == 0;
		LWLockRelease(line->lock);
	}
	for (int i = 0; i < shared->nlines; i++)
	{
		CouponLine *line = &shared->lines[i];

		if (line->queue != queue)
			continue;
		LWLockAcquire(line->lock, LW_EXCLUSIVE);
		if (idle)
			coupon_line_free(line);
		line->closing = false;
		LWLockRelease(line->lock);
	}
	if (idle)
	{
		pg_atomic_write_u32(&queue->built, 0);
		queue->database = InvalidOid;
		queue->table = InvalidOid;
	}
	return idle;
}

/* Was the table dropped, or its database, as this transaction sees it? */
static bool
is_gone(Oid database, Oid table)
{
	if (database == MyDatabaseId)
		return !SearchSysCacheExists1(RELOID, ObjectIdGetDatum(table));
	return !SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(database));
}

/*
 * Forgets who waited in databases and installations that were dropped; true
 * if there was one.  Should the drop be rolled back, they are read again.
 */
static bool
forget_gone(void)
{
	bool		found = false;

	for (int i = 0; i < QUEUES; i++)
	{
		CouponQueue *queue = &shared->queues[i];
		Oid			database;
		Oid			table;

		LWLockAcquire(REGISTRY_LOCK, LW_SHARED);
		database = queue->database;
		table = queue->table;
		LWLockRelease(REGISTRY_LOCK);
		if (!OidIsValid(table) || !is_gone(database, table))
			continue;
		LWLockAcquire(REGISTRY_LOCK, LW_EXCLUSIVE);
		if (queue->database == database && queue->table == table)
			found |= forget_queue(queue);
		LWLockRelease(REGISTRY_LOCK);
	}
	return found;
}

/* The place was given to another database, as happens only where there are too many. */
static void
complain_of_replaced(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("a queue was forgotten while it was in use"),
			 errdetail("Shared memory has room for those of %d databases.", COUPON_MAX_DATABASES),
			 errhint("Try again.")));
}

static CouponQueue *
find_queue(Oid table)
{
	for (int i = 0; i < QUEUES; i++)
	{
		if (shared->queues[i].table == table && shared->queues[i].database == MyDatabaseId)
			return &shared->queues[i];
	}
	return NULL;
}

/* Finds or makes the place of a queue; ERROR if all are in use. */
static CouponQueue *
claim_queue(Oid table)
{
	CouponQueue *queue;

	LWLockAcquire(REGISTRY_LOCK, LW_EXCLUSIVE);
	queue = find_queue(table);
	if (queue == NULL)
	{
		/* it may take the place of one that was dropped */
		LWLockRelease(REGISTRY_LOCK);
		(void) forget_gone();
		LWLockAcquire(REGISTRY_LOCK, LW_EXCLUSIVE);
		queue = find_queue(table);
	}
	for (int i = 0; queue == NULL && i < QUEUES; i++)
	{
		if (!OidIsValid(shared->queues[i].table))
			queue = &shared->queues[i];
	}
	for (int i = 0; queue == NULL && i < QUEUES; i++)
	{
		if (forget_queue(&shared->queues[i]))
			queue = &shared->queues[i];
	}
	if (queue != NULL && queue->table != table)
	{
		pg_atomic_write_u32(&queue->built, 0);
		pg_atomic_write_u32(&queue->child, 0);
		queue->database = MyDatabaseId;
		queue->table = table;
	}
	LWLockRelease(REGISTRY_LOCK);
	if (queue == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_OUT_OF_QUEUE_MEMORY),
				 errmsg("too many databases with queues in use"),
				 errdetail("Shared memory has room for %d.", COUPON_MAX_DATABASES),
				 errhint("Try again when transactions that use them have ended.")));
	return queue;
}

/* ---- lines ---- */

/* Is this slot, locked, that line of this database? */
static inline bool
is_line(CouponLine *line, CouponQueue *queue, Oid table, int64 id)
{
	return line->queue == queue && line->id == id && !line->closing &&
		queue->table == table && queue->database == MyDatabaseId;
}

static CouponLine *
find_line(CouponQueue *queue, int64 id)
{
	CouponLine *found = NULL;

	LWLockAcquire(REGISTRY_LOCK, LW_SHARED);
	for (int i = 0; i < shared->nlines; i++)
	{
		if (shared->lines[i].queue == queue && shared->lines[i].id == id)
		{
			found = &shared->lines[i];
			break;
		}
	}
	LWLockRelease(REGISTRY_LOCK);
	return found;
}

/* A slot for a line: a free one, or that of a line in which nobody is.  Locked. */
static CouponLine *
take_slot(void)
{
	for (int i = 0; i < shared->nlines; i++)
	{
		CouponLine *line = &shared->lines[i];

		if (line->queue != NULL)
			continue;
		LWLockAcquire(line->lock, LW_EXCLUSIVE);
		return line;
	}
	for (int i = 0; i < shared->nlines; i++)
	{
		CouponLine *line = &shared->lines[i];

		LWLockAcquire(line->lock, LW_EXCLUSIVE);
		if (coupon_line_is_idle(line))
		{
			coupon_line_free(line);
			return line;
		}
		LWLockRelease(line->lock);
	}
	return NULL;
}

/*
 * Makes a line and returns it locked, so that it is not another one before the
 * caller has it.  NULL if there is no slot, or the queue was forgotten.
 */
static CouponLine *
make_line(const CouponQueueKind *kind, CouponQueue *queue, int64 id)
{
	Oid			table = *coupon_queue_oids(kind->table);
	int64		next = kind->last_number(id) + 1;
	CouponLine *line = NULL;

	LWLockAcquire(REGISTRY_LOCK, LW_EXCLUSIVE);
	if (queue->table == table && queue->database == MyDatabaseId)
		line = take_slot();
	if (line != NULL)
		coupon_line_init(line, queue, id, next, kind->entry_size);
	LWLockRelease(REGISTRY_LOCK);
	return line;
}

static void
complain_of_slots(void)
{
	pg_atomic_fetch_add_u64(&shared->refused, 1);
	ereport(ERROR,
			(errcode(ERRCODE_COUPON_OUT_OF_QUEUE_MEMORY),
			 errmsg("too many rooms and campaigns with waiting users"),
			 errdetail("All %d lines are in use.", coupon_max_lines),
			 errhint("Raise coupon.max_lines, and restart the server.")));
}

CouponLine *
coupon_queue_lock(const CouponQueueKind *kind, int64 id, LWLockMode mode, bool make)
{
	CouponLine **mine = &cached[((uint64) id * COUPON_QUEUE_IDS + kind->number) % CACHED_LINES];

	for (;;)
	{
		CouponQueue *queue = coupon_queue(kind);
		CouponLine *line = *mine;
		Oid			table = *coupon_queue_oids(kind->table);

		if (line == NULL || line->queue != queue || line->id != id)
			line = find_line(queue, id);
		if (line != NULL)
		{
			LWLockAcquire(line->lock, mode);
			if (is_line(line, queue, table, id))
			{
				*mine = line;
				return line;
			}
			LWLockRelease(line->lock);
			/* whoever closes it has the registry lock */
			*mine = NULL;
			continue;
		}
		if (!make)
			return NULL;

		/* one at a time, so that no number is given twice */
		coupon_lock(kind->lock, table);
		if (find_line(queue, id) == NULL)
		{
			line = make_line(kind, queue, id);
			if (line != NULL)
				LWLockRelease(line->lock);
			else if (queue->table == table && !forget_gone())
				complain_of_slots();
		}
		coupon_unlock(kind->lock, table);
	}
}

CouponLine *
coupon_queue_lock_building(const CouponQueueKind *kind, CouponQueue *queue, int64 id)
{
	Oid			table = *coupon_queue_oids(kind->table);

	while (queue->table == table && queue->database == MyDatabaseId)
	{
		CouponLine *line = find_line(queue, id);

		CHECK_FOR_INTERRUPTS();
		if (line == NULL)
		{
			line = make_line(kind, queue, id);
			if (line != NULL)
				return line;
			if (queue->table == table && !forget_gone())
				complain_of_slots();
			continue;
		}
		LWLockAcquire(line->lock, LW_EXCLUSIVE);
		if (is_line(line, queue, table, id))
			return line;
		LWLockRelease(line->lock);
	}
	complain_of_replaced();
	return NULL;
}

CouponLine *
coupon_queue_lock_nth(CouponQueue *queue, int n, LWLockMode mode)
{
	CouponLine *line = &shared->lines[n];

	if (line->queue != queue)	/* an unlocked look */
		return NULL;
	LWLockAcquire(line->lock, mode);
	if (line->queue == queue && !line->closing)
		return line;
	LWLockRelease(line->lock);
	return NULL;
}

int
coupon_queue_slots(void)
{
	return shared->nlines;
}

/* ---- entering ---- */

/*
 * A line that only transactions in progress are in cannot be made anew, and
 * nobody can tell whether they will ever commit.  So that no role takes all
 * lines of the server in this way, it may have no more of them than it leaves
 * free for others.  The looks are unlocked: the bound need not be exact.
 */
static bool
may_take_line(void)
{
	Oid			role = GetSessionUserId();
	int			taken = 0;
	int			free = 0;

	for (int i = 0; i < shared->nlines; i++)
	{
		CouponLine *line = &shared->lines[i];

		if (line->queue == NULL || coupon_line_is_idle(line))
			free++;
		else if (line->kept == line->uncommitted && line->entered_by == role)
			taken++;
	}
	return taken < free;
}

CouponEntering
coupon_queue_enter(CouponLine *line, int64 *number)
{
	if (line->kept == 0 && !may_take_line())
		return COUPON_NO_LINE;
	return coupon_line_enter(line, number) ? COUPON_ENTERED : COUPON_NO_MEMORY;
}

void
coupon_queue_refuse(CouponEntering why)
{
	pg_atomic_fetch_add_u64(&shared->refused, 1);
	if (why == COUPON_NO_LINE)
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_OUT_OF_QUEUE_MEMORY),
				 errmsg("too many rooms and campaigns with uncommitted entries"),
				 errdetail("Of %d lines this role holds as many by transactions in progress as it leaves free.",
						   coupon_max_lines),
				 errhint("Commit first, or raise coupon.max_lines.")));
	(void) forget_gone();		/* for the next one */
	ereport(ERROR,
			(errcode(ERRCODE_COUPON_OUT_OF_QUEUE_MEMORY),
			 errmsg("queues do not fit into coupon.queue_memory"),
			 errdetail("All of %d kB is in use.", coupon_queue_memory),
			 errhint("Raise coupon.queue_memory, and restart the server: it takes about 40 bytes for each ticket in a room, and less than 1 for each request.")));
	pg_unreachable();
}

/* ---- building ---- */

static int
compare_found(const void *a, const void *b)
{
	const CouponFound *x = a;
	const CouponFound *y = b;

	if (x->id != y->id)
		return x->id < y->id ? -1 : 1;
	return x->number < y->number ? -1 : x->number > y->number;
}

/* All rows that are not final, by line and number; sets where rows go now. */
static char *
find_open_rows(const CouponQueueKind *kind, CouponQueue *queue, int64 *nfound)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	int64		capacity = 1024;
	char	   *found = palloc(mul_size(capacity, kind->found_size));
	int64		n = 0;

	for (int child = 0; child < COUPON_QUEUE_CHILDREN; child++)
	{
		Relation	rel = table_open(coupon_queue_oids(kind->children)[child], AccessShareLock);
		TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
		TupleTableSlot *slot = table_slot_create(rel, NULL);

		while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		{
			CouponFound *row;

			CHECK_FOR_INTERRUPTS();
			if (!slot_attisnull(slot, kind->final_column))
				continue;
			if (n == capacity)
				found = repalloc_huge(found, mul_size(capacity *= 2, kind->found_size));
			row = (CouponFound *) (found + n++ * kind->found_size);
			kind->read(slot, row);
			row->child = child;
			pg_atomic_write_u32(&queue->child, child);
		}
		ExecDropSingleTupleTableSlot(slot);
		table_endscan(scan);
		table_close(rel, AccessShareLock);
	}
	UnregisterSnapshot(snapshot);
	qsort(found, n, kind->found_size, compare_found);
	*nfound = n;
	return found;
}

/* Reads who waits, once after the server's start. */
static void
build_queue(const CouponQueueKind *kind, CouponQueue *queue)
{
	int64		n;
	char	   *rows = find_open_rows(kind, queue, &n);
	CouponFound *row = (CouponFound *) rows;

	for (int64 i = 0; i < n;)
	{
		CouponLine *line = kind->lock_building(queue, row->id);
		int64		id = line->id;
		bool		fits = true;

		for (; i < n && fits && row->id == id; i++)
		{
			fits = kind->restore(line, row);
			if (fits)
				pg_atomic_fetch_add_u32(&queue->open[row->child], 1);
			row = (CouponFound *) ((char *) row + kind->found_size);
		}
		LWLockRelease(line->lock);
		if (!fits)
			coupon_queue_refuse(COUPON_NO_MEMORY);
		CHECK_FOR_INTERRUPTS();
	}
	pfree(rows);
}

/* Begins with nothing, whatever a builder before left that failed. */
static void
reset_queue(CouponQueue *queue, Oid table)
{
	LWLockAcquire(REGISTRY_LOCK, LW_EXCLUSIVE);
	if (queue->table == table && queue->database == MyDatabaseId && forget_queue(queue))
	{
		queue->database = MyDatabaseId;
		queue->table = table;
		pg_atomic_write_u32(&queue->child, 0);
		pg_atomic_write_u64(&queue->since, GetCurrentTimestamp());
		for (int c = 0; c < COUPON_QUEUE_CHILDREN; c++)
		{
			pg_atomic_write_u32(&queue->open[c], 0);
			pg_atomic_write_u64(&queue->finished[c], GetCurrentTimestamp());
		}
	}
	LWLockRelease(REGISTRY_LOCK);
}

/* What was built is there for all, unless the place was given away meanwhile. */
static void
publish_queue(CouponQueue *queue, Oid table)
{
	bool		ours;

	LWLockAcquire(REGISTRY_LOCK, LW_EXCLUSIVE);
	ours = queue->table == table && queue->database == MyDatabaseId;
	if (ours)
		pg_atomic_write_u32(&queue->built, 1);
	LWLockRelease(REGISTRY_LOCK);
	if (!ours)
		complain_of_replaced();
}

CouponQueue *
coupon_queue(const CouponQueueKind *kind)
{
	static CouponQueue *last[COUPON_QUEUE_IDS] = {NULL};
	CouponQueue **mine = &last[kind->number];
	Oid			table;

	coupon_shmem_attach();		/* or says what is missing */
	table = *coupon_queue_oids(kind->table);
	for (;;)
	{
		CouponQueue *queue = *mine;

		if (queue == NULL || queue->table != table || queue->database != MyDatabaseId)
			queue = *mine = claim_queue(table);
		if (pg_atomic_read_u32(&queue->built))
			return queue;

		/*
		 * one session builds, the others wait; ERROR after a failure of its
		 * own only
		 */
		coupon_lock(kind->lock, table);
		if (queue->table == table && queue->database == MyDatabaseId &&
			!pg_atomic_read_u32(&queue->built))
		{
			reset_queue(queue, table);
			build_queue(kind, queue);
			publish_queue(queue, table);
		}
		coupon_unlock(kind->lock, table);
	}
}

/* ---- looking ---- */

CouponQueue *
coupon_queue_known(const CouponQueueKind *kind)
{
	CouponQueue *queue;

	coupon_shmem_attach();
	LWLockAcquire(REGISTRY_LOCK, LW_SHARED);
	queue = find_queue(*coupon_queue_oids(kind->table));
	LWLockRelease(REGISTRY_LOCK);
	return queue != NULL && pg_atomic_read_u32(&queue->built) ? queue : NULL;
}

/* The looks are unlocked: the number need not be exact. */
int
coupon_queue_lines_in_use(void)
{
	int			n = 0;

	for (int i = 0; i < shared->nlines; i++)
		n += shared->lines[i].queue != NULL && !coupon_line_is_idle(&shared->lines[i]);
	return n;
}

uint64
coupon_queue_refused(void)
{
	return pg_atomic_read_u64(&shared->refused);
}
