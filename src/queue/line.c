/*
 * line.c
 *	  A line: who waits, in which order.
 *
 * Two bits a place, live and ready, in chunks of 4096 places, and a directory
 * of the chunks with their counts.  How many are ahead of somebody is a sum
 * over the directory and one chunk's words: a few hundred nanoseconds with a
 * million waiting.  Numbers are given and made live in one step, so a
 * position never rises; an aborted entry is cleared and leaves no hole.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/pg_bitutils.h"

#include "queue/line.h"

#define CHUNK_PLACES	4096
#define CHUNK_WORDS		(CHUNK_PLACES / 64)
#define PAGE_ENTRIES	256
#define CHUNK_PAGES		(CHUNK_PLACES / PAGE_ENTRIES)

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
	dsa_pointer pages[CHUNK_PAGES]; /* of what is remembered, made when needed */
} Chunk;

dsa_area   *coupon_queue_area = NULL;

dsa_pointer
coupon_line_allocate(Size size)
{
	return dsa_allocate_extended(coupon_queue_area, size,
								 DSA_ALLOC_NO_OOM | DSA_ALLOC_ZERO | (size > 1024 * 1024 ? DSA_ALLOC_HUGE : 0));
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
make_chunk(CouponLine *line, int64 number, bool with_entry)
{
	Entry	   *entry;
	Chunk	   *chunk;
	int			page = (number % CHUNK_PLACES) / PAGE_ENTRIES;

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
	if (with_entry && !DsaPointerIsValid(chunk->pages[page]))
	{
		chunk->pages[page] = coupon_line_allocate(PAGE_ENTRIES * line->entry_size);
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
coupon_line_enter(CouponLine *line, int64 *number)
{
	if (!make_chunk(line, line->next, line->entry_size > 0))
		return false;
	*number = line->next++;
	keep(line, *number);
	line->uncommitted++;
	line->entered_by = GetSessionUserId();
	coupon_line_set_live(line, *number);
	return true;
}

bool
coupon_line_restore(CouponLine *line, int64 number)
{
	if (!make_chunk(line, number, line->entry_size > 0))
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
		if (!make_chunk(line, i, false))
			return false;
		entry_of(line, i)->kept++;	/* but not line->kept: it keeps nobody's
									 * slot */
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

bool
coupon_line_is_live(CouponLine *line, int64 place)
{
	Chunk	   *chunk = chunk_of(entry_of(line, place));

	return chunk != NULL && (chunk->live[WORD_OF(place)] & MASK_OF(place)) != 0;
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

void *
coupon_line_entry(CouponLine *line, int64 number)
{
	Chunk	   *chunk = number < 1 || number >= line->next ? NULL : chunk_of(entry_of(line, number));
	dsa_pointer page;

	if (chunk == NULL)
		return NULL;
	page = chunk->pages[(number % CHUNK_PLACES) / PAGE_ENTRIES];
	if (!DsaPointerIsValid(page))
		return NULL;
	return (char *) dsa_get_address(coupon_queue_area, page) + number % PAGE_ENTRIES * line->entry_size;
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

/* ---- slots ---- */

void
coupon_line_init(CouponLine *line, struct CouponQueue *queue, int64 id, int64 next,
				 uint32 entry_size)
{
	line->id = id;
	line->closing = false;
	line->next = next;
	line->live = line->ready = line->kept = line->uncommitted = line->pending = 0;
	line->entered_by = InvalidOid;
	line->cursor = next;
	line->resume_at = 0;
	line->failures = 0;
	line->passed_at = 0;
	line->first_chunk = line->nchunks = 0;
	line->capacity = 0;
	line->entry_size = entry_size;
	line->directory = InvalidDsaPointer;
	line->served = line->rate_base = 0;
	line->rate_since = 0;
	line->rate = 0;
	memset(line->state, 0, sizeof(line->state));
	for (int i = 0; i < COUPON_LINE_BLOCKS; i++)
		line->blocks[i] = InvalidDsaPointer;
	line->queue = queue;
}

void
coupon_line_free(CouponLine *line)
{
	for (int64 i = line->first_chunk; i < line->first_chunk + line->nchunks; i++)
		free_chunk(entry_of(line, i * CHUNK_PLACES));
	if (DsaPointerIsValid(line->directory))
		dsa_free(coupon_queue_area, line->directory);
	for (int i = 0; i < COUPON_LINE_BLOCKS; i++)
	{
		if (DsaPointerIsValid(line->blocks[i]))
			dsa_free(coupon_queue_area, line->blocks[i]);
	}
	line->queue = NULL;
	line->closing = false;
	/* who sleeps looks again, and has it built anew */
	ConditionVariableBroadcast(&line->changed);
}

bool
coupon_line_is_idle(const CouponLine *line)
{
	return line->pending == 0 && line->kept == 0;
}
