/*
 * event_id.c
 *	  The ids of events: increasing in the order of appending, for ever.
 *
 * Ids are UUIDs of version 7 whose 60 bits of time (milliseconds, and 1/4096
 * of one) come from one counter in shared memory that never stands still, so
 * they increase strictly in the order of appending.  Two events of one row
 * are appended under that row's lock, so their ids have the order of their
 * commits.  The other 62 bits are random.
 *
 * The counter starts anew with the server, and the clock may have been set
 * back meanwhile, or be that of another machine after a failover.  So ids are
 * reserved: the sequence coupon.event_clock says up to which millisecond ids
 * may have been given, and a session sets it on, for a second ahead, before
 * it goes beyond that.  What it does is in the WAL before the events are,
 * hence survives wherever one of them does.  coupon.event_start tells which
 * start of the server wrote it; whoever finds another one's moves the counter
 * to it.
 */
#include "postgres.h"

#include <sys/time.h>

#include "catalog/pg_authid_d.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/fmgrprotos.h"

#include "base/catalog.h"
#include "base/random.h"
#include "base/shmem.h"
#include "outbox/event_id.h"

#define AHEAD_MS		1000	/* reserved at a time */

PG_FUNCTION_INFO_V1(coupon_stat_clock_ahead);

/* ---- shared memory ---- */

typedef struct Shared
{
	pg_atomic_uint64 clock;		/* the time of the newest id */
	int64		start;			/* a random number for this start; constant */
} Shared;

static Shared *shared = NULL;

static void
set_up(void)
{
	pg_atomic_init_u64(&shared->clock, 0);
	if (!pg_strong_random(&shared->start, sizeof(shared->start)))
		elog(ERROR, "could not generate random values");
	shared->start &= PG_INT64_MAX;
}

const CouponModule coupon_event_id_module = {
	.name = "coupon event ids",
	.size = sizeof(Shared),
	.memory = (void **) &shared,
	.set_up = set_up
};

/* ---- reserving ---- */

/* What this session knows to be reserved: ids below that, in that sequence. */
static uint64 reserved = 0;
static Oid	reserved_in = InvalidOid;

static void
raise_clock(uint64 tick)
{
	uint64		last = pg_atomic_read_u64(&shared->clock);

	while (last < tick && !pg_atomic_compare_exchange_u64(&shared->clock, &last, tick))
		;
}

/* What a sequence was set to; 0: nobody has set it yet. */
static int64
get_sequence(Oid sequence)
{
	LOCAL_FCINFO(fcinfo, 1);
	Datum		last;

	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = ObjectIdGetDatum(sequence);
	fcinfo->args[0].isnull = false;
	last = pg_sequence_last_value(fcinfo);
	return fcinfo->isnull ? 0 : DatumGetInt64(last);
}

static void
set_sequence(Oid sequence, int64 value)
{
	DirectFunctionCall2(setval_oid, ObjectIdGetDatum(sequence), Int64GetDatum(value));
}

/*
 * As a superuser: who appends events may not touch the sequences.  The lock is
 * for reading and writing them in one; nothing waits while it is held.
 */
static void
reserve(Oid sequence, uint64 tick)
{
	Oid			start_sequence = coupon_catalog()->event_start;
	bool		known;
	uint64		ms;
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, context | SECURITY_LOCAL_USERID_CHANGE);
	LockRelationOid(sequence, ShareUpdateExclusiveLock);

	ms = get_sequence(sequence);
	known = get_sequence(start_sequence) == shared->start;
	if (!known)
		raise_clock(ms * COUPON_TICKS_PER_MS);
	if (!known || tick >= ms * COUPON_TICKS_PER_MS)
	{
		tick = Max(tick, pg_atomic_read_u64(&shared->clock));
		ms = tick / COUPON_TICKS_PER_MS + AHEAD_MS;
		set_sequence(sequence, ms);
	}
	if (!known)
		set_sequence(start_sequence, shared->start);
	reserved = ms * COUPON_TICKS_PER_MS;
	reserved_in = sequence;

	UnlockRelationOid(sequence, ShareUpdateExclusiveLock);
	SetUserIdAndSecContext(user, context);
}

/* The time part: milliseconds since 1970 and 12 bits below, never twice. */
static uint64
next_tick(void)
{
	Oid			sequence = coupon_catalog()->event_clock;
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

		if (unlikely(next >= reserved || sequence != reserved_in))
		{
			reserve(sequence, next);
			last = pg_atomic_read_u64(clock);
		}
		else if (pg_atomic_compare_exchange_u64(clock, &last, next))
			return next;
	}
}

/*
 * coupon.stat_clock_ahead() RETURNS double precision: by how many seconds ids
 * are ahead of the clock, which was set back, or was another machine's
 */
Datum
coupon_stat_clock_ahead(PG_FUNCTION_ARGS)
{
	uint64		ms;
	uint64		now;
	struct timeval clock;

	coupon_shmem_attach();
	ms = pg_atomic_read_u64(&shared->clock) / COUPON_TICKS_PER_MS;
	gettimeofday(&clock, NULL);
	now = (uint64) clock.tv_sec * 1000 + clock.tv_usec / 1000;
	PG_RETURN_FLOAT8(ms > now ? (ms - now) / 1000.0 : 0);
}

/* ---- ids ---- */

void
coupon_event_first_id(uint64 tick, pg_uuid_t *id)
{
	uint64		ms = tick / COUPON_TICKS_PER_MS;
	unsigned	fraction = tick % COUPON_TICKS_PER_MS;

	memset(id->data, 0, UUID_LEN);
	for (int i = 0; i < 6; i++)
		id->data[i] = (ms >> (40 - 8 * i)) & 0xff;
	id->data[6] = 0x70 | (fraction >> 8);
	id->data[7] = fraction & 0xff;
	id->data[8] = 0x80;
}

void
coupon_event_make_id(pg_uuid_t *id)
{
	coupon_event_first_id(next_tick(), id);
	coupon_random(&id->data[8], 8);
	id->data[8] = 0x80 | (id->data[8] & 0x3f);
}

uint64
coupon_event_tick(const pg_uuid_t *id)
{
	uint64		ms = 0;

	for (int i = 0; i < 6; i++)
		ms = ms << 8 | id->data[i];
	return ms * COUPON_TICKS_PER_MS + ((id->data[6] & 0x0f) << 8 | id->data[7]);
}
