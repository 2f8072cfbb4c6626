/*
 * outbox.c
 *	  Appending events.
 *
 * Events go to the child table that shared memory names as current, which is
 * looked at again once the child is locked: when it has named another one and
 * the transactions that hold that lock are over, nobody appends to the child.
 * The children have no index; rows are written in bulk, below the executor.
 *
 * Ids are UUIDs of version 7 whose 60 bits of time (milliseconds, and 1/4096
 * of one) come from one counter in shared memory that never stands still, so
 * they increase strictly in the order of appending.  Two events of one row
 * are appended under that row's lock, so their ids have the order of their
 * commits.  The other 62 bits are random.
 */
#include "postgres.h"

#include <sys/time.h>

#include "access/heapam.h"
#include "access/xact.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "base/arguments.h"
#include "base/catalog.h"
#include "base/compat.h"
#include "base/database.h"
#include "base/shmem.h"
#include "base/table_writer.h"
#include "outbox/outbox.h"

#define OUTBOX_BATCH	256		/* rows written at a time */

struct CouponOutbox
{
	CouponTableWriter *writer;
	MemoryContext owner;		/* of what lives until finish */
	MemoryContext context;		/* of the rows not yet written; NULL: the caller's */
	BulkInsertState bistate;
	TupleTableSlot *slots[OUTBOX_BATCH];
	int			nslots;			/* made */
	int			nrows;			/* filled */
};

PG_FUNCTION_INFO_V1(coupon_emit);

/* ---- shared memory ---- */

typedef struct Shared
{
	pg_atomic_uint64 clock;		/* the newest event id's time */
	pg_atomic_uint32 current[COUPON_MAX_DATABASES]; /* set by the publisher */
} Shared;

static Shared *shared = NULL;

static void
request(void)
{
	RequestAddinShmemSpace(sizeof(Shared));
}

static void
startup(void)
{
	bool		found;

	shared = coupon_shmem_struct("coupon outbox", sizeof(Shared), &found);
	if (found)
		return;
	pg_atomic_init_u64(&shared->clock, 0);
	for (int i = 0; i < COUPON_MAX_DATABASES; i++)
		pg_atomic_init_u32(&shared->current[i], 0);
}

static void
new_database(int place)
{
	pg_atomic_write_u32(&shared->current[place], 0);
}

const CouponModule coupon_outbox_module = {
	.request = request,
	.startup = startup,
	.new_database = new_database
};

pg_atomic_uint32 *
coupon_outbox_current(void)
{
	int			place = coupon_database_place();

	return place < 0 ? NULL : &shared->current[place];
}

/* ---- event ids ---- */

/* The time part: milliseconds since 1970 and 12 bits below, never twice. */
static uint64
next_tick(void)
{
	pg_atomic_uint64 *clock = &shared->clock;
	uint64		last = pg_atomic_read_u64(clock);
	struct timeval now;
	uint64		tick;

	gettimeofday(&now, NULL);
	tick = ((uint64) now.tv_sec * 1000 + now.tv_usec / 1000) * COUPON_TICKS_PER_MS +
		(uint64) (now.tv_usec % 1000) * COUPON_TICKS_PER_MS / 1000;

	for (;;)
	{
		uint64		next = Max(tick, last + 1);

		if (pg_atomic_compare_exchange_u64(clock, &last, next))
			return next;
	}
}

static void
make_event_id(pg_uuid_t *id)
{
	static uint8 pool[1024];
	static int	used = sizeof(pool);
	uint64		tick = next_tick();
	uint64		ms = tick / COUPON_TICKS_PER_MS;
	unsigned	fraction = tick % COUPON_TICKS_PER_MS;

	if (used + 8 > (int) sizeof(pool))
	{
		if (!pg_strong_random(pool, sizeof(pool)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		used = 0;
	}

	for (int i = 0; i < 6; i++)
		id->data[i] = (ms >> (40 - 8 * i)) & 0xff;
	id->data[6] = 0x70 | (fraction >> 8);
	id->data[7] = fraction & 0xff;
	memcpy(&id->data[8], &pool[used], 8);
	id->data[8] = 0x80 | (id->data[8] & 0x3f);
	used += 8;
}

uint64
coupon_event_tick(const pg_uuid_t *id)
{
	uint64		ms = 0;

	for (int i = 0; i < 6; i++)
		ms = ms << 8 | id->data[i];
	return ms * COUPON_TICKS_PER_MS + ((id->data[6] & 0x0f) << 8 | id->data[7]);
}

/* ---- appending ---- */

static int
current_child(void)
{
	pg_atomic_uint32 *current = coupon_outbox_current();

	return current ? pg_atomic_read_u32(current) : 0;
}

CouponOutbox *
coupon_outbox_begin(bool many)
{
	CouponOutbox *outbox = palloc0(sizeof(CouponOutbox));

	outbox->owner = CurrentMemoryContext;
	coupon_shmem_attach();
	for (;;)
	{
		int			child = current_child();
		Oid			table = coupon_catalog()->outbox[child];

		LockRelationOid(table, RowExclusiveLock);
		if (child == current_child())
		{
			outbox->writer = coupon_writer_open(table, COUPON_INSERT);
			break;
		}
		UnlockRelationOid(table, RowExclusiveLock);
	}
	coupon_wake_at_commit(COUPON_PUBLISHER);
	if (many)
		outbox->context = AllocSetContextCreate(CurrentMemoryContext, "coupon outbox",
												ALLOCSET_DEFAULT_SIZES);
	return outbox;
}

static void
write_rows(CouponOutbox *outbox)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(outbox->owner);

	if (outbox->nrows > 1 && outbox->bistate == NULL)
		outbox->bistate = GetBulkInsertState();
	coupon_writer_insert_many(outbox->writer, outbox->slots, outbox->nrows, outbox->bistate);
	for (int i = 0; i < outbox->nrows; i++)
		ExecClearTuple(outbox->slots[i]);
	outbox->nrows = 0;
	if (outbox->context != NULL)
		MemoryContextReset(outbox->context);
	MemoryContextSwitchTo(oldcontext);
}

/* Fills the next row; a NULL id is made here. */
static pg_uuid_t
add_row(CouponOutbox *outbox, const pg_uuid_t *given, const char *topic,
		const char *key, const char *type, const char *payload)
{
	MemoryContext oldcontext;
	TupleTableSlot *slot;
	pg_uuid_t  *id;

	if (outbox->nrows == OUTBOX_BATCH)
		write_rows(outbox);
	if (outbox->nrows == outbox->nslots)
	{
		oldcontext = MemoryContextSwitchTo(outbox->owner);
		outbox->slots[outbox->nslots++] = coupon_writer_new_row(outbox->writer);
		MemoryContextSwitchTo(oldcontext);
	}

	slot = outbox->slots[outbox->nrows];
	oldcontext = MemoryContextSwitchTo(outbox->context ? outbox->context : CurrentMemoryContext);
	id = palloc(sizeof(pg_uuid_t));
	if (given != NULL)
		*id = *given;
	else
		make_event_id(id);
	slot->tts_values[Outbox_id - 1] = UUIDPGetDatum(id);
	slot->tts_values[Outbox_topic - 1] = CStringGetTextDatum(topic);
	slot->tts_values[Outbox_key - 1] = CStringGetTextDatum(key);
	slot->tts_values[Outbox_type - 1] = CStringGetTextDatum(type);
	slot->tts_values[Outbox_payload - 1] = CStringGetTextDatum(payload);
	memset(slot->tts_isnull, false, Outbox_natts);
	outbox->nrows++;
	MemoryContextSwitchTo(oldcontext);
	return *id;
}

pg_uuid_t
coupon_outbox_add(CouponOutbox *outbox, const char *topic, const char *key,
				  const char *type, const char *payload)
{
	return add_row(outbox, NULL, topic, key, type, payload);
}

void
coupon_outbox_add_again(CouponOutbox *outbox, const pg_uuid_t *id, const char *topic,
						const char *key, const char *type, const char *payload)
{
	(void) add_row(outbox, id, topic, key, type, payload);
}

void
coupon_outbox_finish(CouponOutbox *outbox)
{
	write_rows(outbox);
	if (outbox->bistate != NULL)
		FreeBulkInsertState(outbox->bistate);
	for (int i = 0; i < outbox->nslots; i++)
		ExecDropSingleTupleTableSlot(outbox->slots[i]);
	if (outbox->context != NULL)
		MemoryContextDelete(outbox->context);
	/* the lock stays until commit: the child must not be emptied before */
	coupon_writer_close(outbox->writer);
	pfree(outbox);
}

pg_uuid_t
coupon_outbox_append(const char *topic, const char *key, const char *type,
					 const char *payload)
{
	CouponOutbox *outbox = coupon_outbox_begin(false);
	pg_uuid_t	id = coupon_outbox_add(outbox, topic, key, type, payload);

	coupon_outbox_finish(outbox);
	return id;
}

void
coupon_outbox_check_topic(const char *topic)
{
	size_t		length = strlen(topic);

	if (length == 0 || length > COUPON_MAX_TOPIC ||
		strspn(topic, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != length ||
		strcmp(topic, ".") == 0 || strcmp(topic, "..") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid topic name"),
				 errdetail("The name has %zu bytes: \"%.*s\".", length,
						   pg_mbcliplen(topic, length, 64), topic),
				 errhint("A topic name has 1 to %d of the characters a-z, A-Z, 0-9, \".\", \"_\" and \"-\".",
						 COUPON_MAX_TOPIC)));
}

/*
 * coupon_emit(topic, key, type, payload) - the application's own event
 */
Datum
coupon_emit(PG_FUNCTION_ARGS)
{
	char	   *topic = coupon_get_text(fcinfo, 0, "topic", 1, COUPON_MAX_TOPIC);
	char	   *key = coupon_get_text(fcinfo, 1, "key", 1, COUPON_MAX_TEXT);
	char	   *type = coupon_get_text(fcinfo, 2, "type", 1, COUPON_MAX_NAME);
	Jsonb	   *payload;
	pg_uuid_t  *result = palloc(sizeof(pg_uuid_t));

	coupon_require_argument(fcinfo, 3, "payload");
	payload = PG_GETARG_JSONB_P(3);

	coupon_outbox_check_topic(topic);
	if (strncmp(type, "coupon.", 7) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event type \"%s\" is reserved", type),
				 errdetail("Types that begin with \"coupon.\" are the engine's own."),
				 errhint("Choose a type that begins otherwise.")));
	PreventCommandIfReadOnly("coupon_emit()");
	PreventCommandDuringRecovery("coupon_emit()");

	*result = coupon_outbox_append(topic, key, type,
								   JsonbToCString(NULL, &payload->root, VARSIZE(payload)));
	PG_RETURN_UUID_P(result);
}
