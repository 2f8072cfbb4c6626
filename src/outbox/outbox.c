/*
 * outbox.c
 *	  Appending events.
 *
 * Events go to the child table that shared memory names as current, which is
 * looked at again once the child is locked: when it has named another one and
 * the transactions that hold that lock are over, nobody appends to the child.
 * The children have no index; rows are written in bulk, below the executor.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "base/database.h"
#include "base/fault.h"
#include "base/shmem.h"
#include "base/table_writer.h"
#include "outbox/event_id.h"
#include "outbox/outbox.h"

#define OUTBOX_BATCH	256		/* rows written at a time */

struct CouponOutbox
{
	CouponTableWriter *writer;
	MemoryContext owner;		/* of what lives until finish */
	MemoryContext context;		/* of the rows not yet written; NULL: the
								 * caller's */
	BulkInsertState bistate;
	TupleTableSlot *slots[OUTBOX_BATCH];
	int			nslots;			/* made */
	int			nrows;			/* filled */
};

/* ---- shared memory ---- */

typedef struct Shared
{
	pg_atomic_uint32 current[COUPON_MAX_DATABASES]; /* set by the publisher */
} Shared;

static Shared *shared = NULL;

static void
set_up(void)
{
	for (int i = 0; i < COUPON_MAX_DATABASES; i++)
		pg_atomic_init_u32(&shared->current[i], 0);
}

static void
new_database(int place)
{
	pg_atomic_write_u32(&shared->current[place], 0);
}

const CouponModule coupon_outbox_module = {
	.name = "coupon outbox",
	.size = sizeof(Shared),
	.memory = (void **) &shared,
	.set_up = set_up,
	.new_database = new_database
};

pg_atomic_uint32 *
coupon_outbox_current(void)
{
	int			place = coupon_database_place();

	return place < 0 ? NULL : &shared->current[place];
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
	/* the tuples are made there */
	if (outbox->context != NULL)
		MemoryContextSwitchTo(outbox->context);
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
		const char *key, const char *type, const char *payload, const char *trace)
{
	MemoryContext oldcontext;
	TupleTableSlot *slot;
	pg_uuid_t  *id;

	/* as of a dead letter, once somebody has dropped its NOT NULL */
	if (topic == NULL || key == NULL || type == NULL || payload == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("an event needs a topic, a key, a type and a payload"),
				 errdetail("What it is made of has a null."),
				 errhint("Correct the row of coupon.dead_letter, and use ALTER TABLE ... SET NOT NULL.")));
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
		coupon_event_make_id(id);
	slot->tts_values[Outbox_id - 1] = UUIDPGetDatum(id);
	slot->tts_values[Outbox_topic - 1] = CStringGetTextDatum(topic);
	slot->tts_values[Outbox_key - 1] = CStringGetTextDatum(key);
	slot->tts_values[Outbox_type - 1] = CStringGetTextDatum(type);
	slot->tts_values[Outbox_payload - 1] = CStringGetTextDatum(payload);
	slot->tts_values[Outbox_traceparent - 1] = trace == NULL ? (Datum) 0 : CStringGetTextDatum(trace);
	memset(slot->tts_isnull, false, Outbox_natts);
	slot->tts_isnull[Outbox_traceparent - 1] = trace == NULL;
	outbox->nrows++;
	MemoryContextSwitchTo(oldcontext);
	return *id;
}

pg_uuid_t
coupon_outbox_add(CouponOutbox *outbox, const char *topic, const char *key,
				  const char *type, const char *payload, const char *trace)
{
	return add_row(outbox, NULL, topic, key, type, payload, trace);
}

void
coupon_outbox_add_again(CouponOutbox *outbox, const pg_uuid_t *id, const char *topic,
						const char *key, const char *type, const char *payload, const char *trace)
{
	(void) add_row(outbox, id, topic, key, type, payload, trace);
}

void
coupon_outbox_finish(CouponOutbox *outbox)
{
	write_rows(outbox);
	COUPON_FAULT(event_appended);
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
					 const char *payload, const char *trace)
{
	CouponOutbox *outbox = coupon_outbox_begin(false);
	pg_uuid_t	id = coupon_outbox_add(outbox, topic, key, type, payload, trace);

	coupon_outbox_finish(outbox);
	return id;
}
