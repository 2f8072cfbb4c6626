/*
 * line.c
 *	  Lines of people in shared memory: who waits, in which order.
 *
 * Two bits a place, live and ready, in chunks of 4096 places, and a directory
 * of the chunks with their counts.  How many are ahead of somebody is a sum
 * over the directory and one chunk's words: a few hundred nanoseconds with a
 * million waiting.  Numbers are given and made live in one step, so a
 * position never rises; an aborted entry is cleared and leaves no hole.
 *
 * A session may learn of a row before the callback of the transaction that
 * wrote it has noted it here, and change the row at once; so changes are
 * applied in any order, and each looks at what is there first.
 *
 * Locking: registry lock, then one line's lock, then those of the area.
 * Building is done under a heavyweight lock, since it reads tables.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "base/database.h"
#include "base/errors.h"
#include "base/guc.h"
#include "base/intent.h"
#include "base/shmem.h"
#include "queue/line.h"

#define QUEUES			(2 * COUPON_MAX_DATABASES)

#define CHUNK_PLACES	4096
#define CHUNK_WORDS		(CHUNK_PLACES / 64)
#define PAGE_TICKETS	256
#define EPOCH_DAYS		8		/* before the start: longer than any session */
#define CHUNK_PAGES		(CHUNK_PLACES / PAGE_TICKETS)

typedef struct Entry
{
	dsa_pointer chunk;			/* invalid: nothing in it */
	uint32		live;
	uint32		ready;
	uint32		kept;
} Entry;

typedef struct Chunk
{
	uint64		live[CHUNK_WORDS];
	uint64		ready[CHUNK_WORDS];
	dsa_pointer pages[CHUNK_PAGES]; /* of tickets, made when needed */
} Chunk;

typedef struct Shared
{
	LWLockPadded *locks;		/* the registry's, then the lines' */
	TimestampTz epoch;			/* of ticket time */
	uint64		seed;			/* of hashes of users */
	CouponQueue queues[QUEUES];
	int			nlines;
	CouponLine	lines[FLEXIBLE_ARRAY_MEMBER];
} Shared;

dsa_area   *coupon_queue_area = NULL;

static Shared *shared = NULL;
static void *area = NULL;

#define REGISTRY_LOCK	(&shared->locks[0].lock)

static bool forget_gone(void);

/* Lines that this session has met, by id. */
#define CACHED_LINES	64
static CouponLine *cached[CACHED_LINES];

/* ---- shared memory ---- */

static Size
shared_size(void)
{
	return add_size(offsetof(Shared, lines), mul_size(coupon_max_queues, sizeof(CouponLine)));
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
	RequestNamedLWLockTranche("coupon_queue", coupon_max_queues + 1);
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
	shared->epoch = GetCurrentTimestamp() - EPOCH_DAYS * USECS_PER_DAY;
	if (!pg_strong_random(&shared->seed, sizeof(shared->seed)))
		elog(ERROR, "could not generate random values");
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
	shared->nlines = coupon_max_queues;
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

const CouponModule coupon_line_module = {
	.request = request,
	.startup = startup,
	.attach = attach
};

void
coupon_line_out_of_memory(void)
{
	(void) forget_gone();		/* for the next one */
	ereport(ERROR,
			(errcode(ERRCODE_COUPON_OUT_OF_QUEUE_MEMORY),
			 errmsg("queues do not fit into coupon.queue_memory"),
			 errdetail("All of %d kB is in use.", coupon_queue_memory),
			 errhint("Raise coupon.queue_memory: about 40 bytes for each ticket in a room, and 1 for each request.")));
	pg_unreachable();
}

dsa_pointer
coupon_line_allocate(Size size)
{
	return dsa_allocate_extended(coupon_queue_area, size,
								 DSA_ALLOC_NO_OOM | DSA_ALLOC_ZERO | (size > 1024 * 1024 ? DSA_ALLOC_HUGE : 0));
}

uint64
coupon_line_seed(void)
{
	return shared->seed;
}

uint32
coupon_line_clock(TimestampTz time)
{
	return time <= shared->epoch ? 1 : (time - shared->epoch) / 100000 + 1;
}

TimestampTz
coupon_line_time(uint32 clock)
{
	return shared->epoch + (int64) clock * 100000;
}

/* ---- the directory ---- */

static inline Entry *
entry_of(CouponLine *line, int64 place)
{
	int64		number = place / CHUNK_PLACES;
	Entry	   *directory;

	if (number < line->first_chunk || number >= line->first_chunk + line->nchunks)
		return NULL;
	directory = dsa_get_address(coupon_queue_area, line->directory);
	return &directory[number & (line->capacity - 1)];
}

static inline Chunk *
chunk_of(Entry *entry)
{
	if (entry == NULL || !DsaPointerIsValid(entry->chunk))
		return NULL;
	return dsa_get_address(coupon_queue_area, entry->chunk);
}

#define WORD_OF(place)	(((place) % CHUNK_PLACES) / 64)
#define MASK_OF(place)	(UINT64CONST(1) << ((place) % 64))

/* Makes the directory reach up to a chunk; false without memory. */
static bool
extend_directory(CouponLine *line, int64 number)
{
	int64		wanted;
	uint32		capacity;
	dsa_pointer pointer;
	Entry	   *directory;

	if (line->nchunks == 0)
		line->first_chunk = number;
	wanted = number - line->first_chunk + 1;
	if (wanted <= line->nchunks)
		return true;
	if (wanted > PG_INT32_MAX / (int64) sizeof(Entry))
		return false;
	if (wanted > line->capacity)
	{
		capacity = pg_nextpower2_32(Max(wanted, 8));
		pointer = coupon_line_allocate(capacity * sizeof(Entry));
		if (!DsaPointerIsValid(pointer))
			return false;
		directory = dsa_get_address(coupon_queue_area, pointer);
		for (int64 i = line->first_chunk; i < line->first_chunk + line->nchunks; i++)
			directory[i & (capacity - 1)] = *entry_of(line, i * CHUNK_PLACES);
		if (DsaPointerIsValid(line->directory))
			dsa_free(coupon_queue_area, line->directory);
		line->directory = pointer;
		line->capacity = capacity;
	}
	directory = dsa_get_address(coupon_queue_area, line->directory);
	while (line->nchunks < wanted)
	{
		memset(&directory[(line->first_chunk + line->nchunks) & (line->capacity - 1)], 0, sizeof(Entry));
		line->nchunks++;
	}
	return true;
}

static void
free_chunk(Entry *entry)
{
	Chunk	   *chunk = chunk_of(entry);

	if (chunk == NULL)
		return;
	for (int i = 0; i < CHUNK_PAGES; i++)
	{
		if (DsaPointerIsValid(chunk->pages[i]))
			dsa_free(coupon_queue_area, chunk->pages[i]);
	}
	dsa_free(coupon_queue_area, entry->chunk);
	entry->chunk = InvalidDsaPointer;
}

/* Frees a chunk that nothing is in any more, unless it is the one at the end. */
static void
shrink(CouponLine *line, int64 number)
{
	Entry	   *entry = entry_of(line, number);

	if (entry->kept == 0 && entry->live == 0 && number / CHUNK_PLACES != line->next / CHUNK_PLACES)
		free_chunk(entry);
	while (line->nchunks > 1 &&
		   !DsaPointerIsValid(entry_of(line, line->first_chunk * CHUNK_PLACES)->chunk))
	{
		line->first_chunk++;
		line->nchunks--;
	}
}

static bool
make_chunk(CouponLine *line, bool has_ticket, int64 number)
{
	Entry	   *entry;
	Chunk	   *chunk;
	int			page = (number % CHUNK_PLACES) / PAGE_TICKETS;

	if (!extend_directory(line, number / CHUNK_PLACES))
		return false;
	entry = entry_of(line, number);
	if (!DsaPointerIsValid(entry->chunk))
	{
		entry->chunk = coupon_line_allocate(sizeof(Chunk));
		if (!DsaPointerIsValid(entry->chunk))
			return false;
	}
	chunk = chunk_of(entry);
	if (has_ticket && !DsaPointerIsValid(chunk->pages[page]))
	{
		chunk->pages[page] = coupon_line_allocate(PAGE_TICKETS * sizeof(CouponTicket));
		if (!DsaPointerIsValid(chunk->pages[page]))
			return false;
	}
	return true;
}

static void
keep(CouponLine *line, int64 number)
{
	entry_of(line, number)->kept++;
	line->kept++;
}

bool
coupon_line_enter(CouponLine *line, bool has_ticket, int64 *number)
{
	if (!make_chunk(line, has_ticket, line->next))
		return false;
	*number = line->next++;
	keep(line, *number);
	coupon_line_set_live(line, *number);
	return true;
}

bool
coupon_line_restore(CouponLine *line, bool has_ticket, int64 number)
{
	if (!make_chunk(line, has_ticket, number))
		return false;
	keep(line, number);
	return true;
}

/* Makes the directory begin at place 0, where it may have been cut. */
static bool
extend_to_front(CouponLine *line)
{
	int64		first = line->first_chunk;
	int64		wanted = first + line->nchunks;
	uint32		capacity = pg_nextpower2_32(Max(wanted, 8));
	dsa_pointer pointer;
	Entry	   *directory;

	if (line->nchunks == 0 || first == 0)
		return true;
	pointer = coupon_line_allocate(capacity * sizeof(Entry));
	if (!DsaPointerIsValid(pointer))
		return false;
	directory = dsa_get_address(coupon_queue_area, pointer);
	for (int64 i = first; i < wanted; i++)
		directory[i] = *entry_of(line, i * CHUNK_PLACES);
	dsa_free(coupon_queue_area, line->directory);
	line->directory = pointer;
	line->capacity = capacity;
	line->first_chunk = 0;
	line->nchunks = wanted;
	return true;
}

bool
coupon_line_hold(CouponLine *line, int64 place)
{
	if (!extend_to_front(line))
		return false;
	for (int64 i = 1; i <= place;
		 i = (i / CHUNK_PLACES + 1) * CHUNK_PLACES)
	{
		if (!make_chunk(line, false, i))
			return false;
		keep(line, i);
	}
	return true;
}

void
coupon_line_drop(CouponLine *line, int64 number)
{
	Entry	   *entry = entry_of(line, number);

	entry->kept--;
	line->kept--;
	shrink(line, number);
}

/* ---- places ---- */

static inline bool
test_place(CouponLine *line, int64 place, bool ready)
{
	Chunk	   *chunk = chunk_of(entry_of(line, place));

	if (chunk == NULL)
		return false;
	return ((ready ? chunk->ready : chunk->live)[WORD_OF(place)] & MASK_OF(place)) != 0;
}

bool
coupon_line_is_live(CouponLine *line, int64 place)
{
	return test_place(line, place, false);
}

bool
coupon_line_is_ready(CouponLine *line, int64 place)
{
	return test_place(line, place, true);
}

void
coupon_line_set_live(CouponLine *line, int64 place)
{
	Entry	   *entry = entry_of(line, place);

	chunk_of(entry)->live[WORD_OF(place)] |= MASK_OF(place);
	entry->live++;
	line->live++;
}

/* Of a live place.  One that comes late moves the cursor back. */
void
coupon_line_set_ready(CouponLine *line, int64 place)
{
	Entry	   *entry = entry_of(line, place);

	chunk_of(entry)->ready[WORD_OF(place)] |= MASK_OF(place);
	entry->ready++;
	line->ready++;
	if (place < line->cursor)
		line->cursor = place;
}

void
coupon_line_clear(CouponLine *line, int64 place)
{
	Entry	   *entry = entry_of(line, place);
	Chunk	   *chunk = chunk_of(entry);
	uint64		mask = MASK_OF(place);
	int			word = WORD_OF(place);

	if (chunk == NULL)
		return;
	if (chunk->live[word] & mask)
	{
		chunk->live[word] &= ~mask;
		entry->live--;
		line->live--;
	}
	if (chunk->ready[word] & mask)
	{
		chunk->ready[word] &= ~mask;
		entry->ready--;
		line->ready--;
	}
}

int64
coupon_line_ahead(CouponLine *line, int64 place)
{
	int64		ahead = 0;
	int64		last = Min(place / CHUNK_PLACES, line->first_chunk + line->nchunks);
	Entry	   *directory;
	Chunk	   *chunk;

	if (line->nchunks == 0)
		return 0;
	directory = dsa_get_address(coupon_queue_area, line->directory);
	for (int64 i = line->first_chunk; i < last; i++)
		ahead += directory[i & (line->capacity - 1)].live;
	chunk = chunk_of(entry_of(line, place));
	if (chunk != NULL)
	{
		ahead += pg_popcount((const char *) chunk->live, WORD_OF(place) * sizeof(uint64));
		ahead += pg_popcount64(chunk->live[WORD_OF(place)] & (MASK_OF(place) - 1));
	}
	return ahead;
}

int
coupon_line_find_ready(CouponLine *line, int64 from, int64 *places, int max)
{
	int			n = 0;
	int64		place = Max(from, line->first_chunk * CHUNK_PLACES);

	while (n < max && place / CHUNK_PLACES < line->first_chunk + line->nchunks)
	{
		Entry	   *entry = entry_of(line, place);
		Chunk	   *chunk = chunk_of(entry);
		uint64		word;

		if (chunk == NULL || entry->ready == 0)
		{
			place = (place / CHUNK_PLACES + 1) * CHUNK_PLACES;
			continue;
		}
		word = chunk->ready[WORD_OF(place)] & ~(MASK_OF(place) - 1);
		place -= place % 64;
		while (word != 0 && n < max)
		{
			places[n++] = place + pg_rightmost_one_pos64(word);
			word &= word - 1;
		}
		place += 64;
	}
	return n;
}

CouponTicket *
coupon_line_ticket(CouponLine *line, int64 number)
{
	Chunk	   *chunk = number < 1 || number >= line->next ? NULL : chunk_of(entry_of(line, number));
	dsa_pointer page;

	if (chunk == NULL)
		return NULL;
	page = chunk->pages[(number % CHUNK_PLACES) / PAGE_TICKETS];
	if (!DsaPointerIsValid(page))
		return NULL;
	return (CouponTicket *) dsa_get_address(coupon_queue_area, page) + number % PAGE_TICKETS;
}

void
coupon_line_count_served(CouponLine *line, TimestampTz now)
{
	if (now - line->rate_since >= USECS_PER_SEC)
	{
		uint64		n = line->served - line->rate_base;

		if (n > 0 && line->rate_since != 0 && now - line->rate_since < 10 * USECS_PER_SEC)
			line->rate = n * (double) USECS_PER_SEC / (now - line->rate_since);
		line->rate_since = now;
		line->rate_base = line->served;
	}
	line->served++;
}

/* ---- the registry ---- */

static void
forget_line(CouponLine *line)
{
	for (int64 i = line->first_chunk; i < line->first_chunk + line->nchunks; i++)
		free_chunk(entry_of(line, i * CHUNK_PLACES));
	if (DsaPointerIsValid(line->directory))
		dsa_free(coupon_queue_area, line->directory);
	if (DsaPointerIsValid(line->room.admitted))
		dsa_free(coupon_queue_area, line->room.admitted);
	if (DsaPointerIsValid(line->room.place_of))
		dsa_free(coupon_queue_area, line->room.place_of);
	line->queue = NULL;
	line->closing = false;
	/* who sleeps looks again, and has it built anew */
	ConditionVariableBroadcast(&line->changed);
}

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
			forget_line(line);
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

CouponQueue *
coupon_queue(const CouponQueueKind *kind)
{
	static CouponQueue *last[2] = {NULL, NULL};
	CouponQueue **mine = &last[kind->has_tickets];
	Oid			table;

	coupon_shmem_attach();		/* or says what is missing */
	table = kind->table();
	for (;;)
	{
		CouponQueue *queue = *mine;

		if (queue == NULL || queue->table != table || queue->database != MyDatabaseId)
			queue = *mine = claim_queue(table);
		if (pg_atomic_read_u32(&queue->built))
			return queue;

		/* one session builds, the others wait; ERROR after a failure of its own only */
		coupon_lock(kind->lock, table);
		if (queue->table == table && queue->database == MyDatabaseId &&
			!pg_atomic_read_u32(&queue->built))
		{
			/* what a builder before left that failed, or nothing */
			LWLockAcquire(REGISTRY_LOCK, LW_EXCLUSIVE);
			if (queue->table == table && forget_queue(queue))
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
			kind->build(queue);
			pg_write_barrier();
			pg_atomic_write_u32(&queue->built, 1);
		}
		coupon_unlock(kind->lock, table);
	}
}

/* Is this slot, locked, that line? */
static inline bool
is_line(CouponLine *line, CouponQueue *queue, int64 id)
{
	return line->queue == queue && line->id == id && !line->closing;
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

/* Makes a line; NULL if there is no slot, or the queue was forgotten meanwhile. */
static CouponLine *
make_line(CouponQueue *queue, Oid table, int64 id, int64 next)
{
	CouponLine *line = NULL;

	LWLockAcquire(REGISTRY_LOCK, LW_EXCLUSIVE);
	if (queue->table == table && queue->database == MyDatabaseId)
	{
		for (int i = 0; line == NULL && i < shared->nlines; i++)
		{
			if (shared->lines[i].queue == NULL)
				line = &shared->lines[i];
		}
		/* a line in which nobody is can be made anew at any time */
		for (int i = 0; line == NULL && i < shared->nlines; i++)
		{
			CouponLine *idle = &shared->lines[i];

			LWLockAcquire(idle->lock, LW_EXCLUSIVE);
			if (idle->pending == 0 && idle->kept == 0)
			{
				forget_line(idle);
				line = idle;
			}
			LWLockRelease(idle->lock);
		}
	}
	if (line != NULL)
	{
		LWLockAcquire(line->lock, LW_EXCLUSIVE);
		line->id = id;
		line->closing = false;
		line->next = next;
		line->live = line->ready = line->kept = line->pending = 0;
		line->cursor = next;
		line->resume_at = 0;
		line->passed_at = 0;
		line->first_chunk = line->nchunks = 0;
		line->capacity = 0;
		line->directory = InvalidDsaPointer;
		line->served = line->rate_base = 0;
		line->rate_since = 0;
		line->rate = 0;
		memset(&line->room, 0, sizeof(line->room));
		line->room.wanted_version = 1;
		line->queue = queue;
		LWLockRelease(line->lock);
	}
	LWLockRelease(REGISTRY_LOCK);
	return line;
}

static void
complain_of_slots(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_COUPON_OUT_OF_QUEUE_MEMORY),
			 errmsg("too many rooms and campaigns with waiting users"),
			 errdetail("All %d places are in use.", coupon_max_queues),
			 errhint("Raise coupon.max_queues.")));
}

CouponLine *
coupon_line_lock(const CouponQueueKind *kind, int64 id, LWLockMode mode, bool make)
{
	CouponLine **mine = &cached[((uint64) id * 2 + kind->has_tickets) % CACHED_LINES];

	for (;;)
	{
		CouponQueue *queue = coupon_queue(kind);
		CouponLine *line = *mine;
		Oid			table = queue->table;

		if (line == NULL || line->queue != queue || line->id != id)
			line = find_line(queue, id);
		if (line != NULL)
		{
			LWLockAcquire(line->lock, mode);
			if (is_line(line, queue, id) && queue->table == table)
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
		if (table == kind->table() && find_line(queue, id) == NULL)
		{
			line = make_line(queue, table, id, kind->last_number(id) + 1);
			if (line == NULL && queue->table == table && !forget_gone())
				complain_of_slots();
		}
		coupon_unlock(kind->lock, table);
	}
}

/* For a builder: the line, made if need be, locked. */
CouponLine *
coupon_line_lock_building(const CouponQueueKind *kind, CouponQueue *queue, int64 id)
{
	CouponLine *line = find_line(queue, id);

	if (line == NULL)
		line = make_line(queue, queue->table, id, kind->last_number(id) + 1);
	if (line == NULL && forget_gone())
		line = make_line(queue, queue->table, id, kind->last_number(id) + 1);
	if (line == NULL)
		complain_of_slots();
	LWLockAcquire(line->lock, LW_EXCLUSIVE);
	return line;
}

CouponLine *
coupon_line_lock_nth(CouponQueue *queue, int n, LWLockMode mode)
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
coupon_line_slots(void)
{
	return shared->nlines;
}

/* ---- changes that a transaction owes ---- */

#define KEPT_PENDING	4096	/* a larger array is freed when it is empty */

static CouponPending *pending = NULL;
static int	npending = 0;
static int	max_pending = 0;

/* Applies changes from..to - 1; one lock for those to one line. */
static void
apply_changes(int from, int to, bool committed)
{
	for (int i = from; i < to;)
	{
		CouponLine *line = pending[i].line;
		bool		wake = false;

		LWLockAcquire(line->lock, LW_EXCLUSIVE);
		for (; i < to && pending[i].line == line; i++)
		{
			wake |= pending[i].apply(&pending[i], committed);
			line->pending--;
		}
		LWLockRelease(line->lock);
		if (wake)
			ConditionVariableBroadcast(&line->changed);
	}
}

/*
 * The intent of a change.  Intents are resolved newest first, and the first
 * of a commit applies all: whoever sees one entry ready is to see those before
 * it, too.
 */
static void
resolve_pending(CouponIntent *intent, bool committed)
{
	int			to = npending;

	if (to <= (int) intent->number)
		return;
	npending = committed ? 0 : intent->number;
	apply_changes(npending, to, committed);
}

void
coupon_pending_reserve(int n)
{
	coupon_intent_reserve(n);
	if (npending + n <= max_pending && (npending > 0 || max_pending <= KEPT_PENDING))
		return;
	if (npending == 0 && pending != NULL)
	{
		pfree(pending);
		pending = NULL;
		max_pending = 0;
	}
	n = Max(Max(64, npending + n), max_pending * 2);
	if (pending == NULL)
		pending = MemoryContextAllocHuge(TopMemoryContext, mul_size(n, sizeof(CouponPending)));
	else
		pending = repalloc_huge(pending, mul_size(n, sizeof(CouponPending)));
	max_pending = n;
}

void
coupon_pending_push(CouponApply apply, CouponLine *line, int64 number, uint32 child, uint64 extra)
{
	CouponPending *change = &pending[npending];

	Assert(npending < max_pending);
	change->apply = apply;
	change->line = line;
	change->number = number;
	change->child = child;
	change->extra = extra;
	line->pending++;
	coupon_intent_push(resolve_pending, NULL, NULL, npending);
	npending++;
}
