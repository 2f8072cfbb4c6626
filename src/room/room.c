/*
 * room.c
 *	  Waiting rooms: what shared memory knows of them and of their tickets.
 *
 * A ticket waits in a line, is admitted to a session, and ends.  Its row in
 * coupon.ticket says all of it, but for one thing: when its holder last showed
 * a sign of life is in shared memory alone, so that a poll writes nothing;
 * after a restart everybody has their idle time anew.
 *
 * Sessions are also found by their users, since issuing asks whether one is
 * admitted: in a table of 64-bit hashes with a secret seed.  To be let in
 * without a session one would have to find a user id with the hash of somebody
 * who has one.
 *
 * In a room that draws lots, those who came before the opening stand in the
 * order of sha256(seed || number); place and number differ for them alone.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/database.h"
#include "base/intent.h"
#include "base/locks.h"
#include "base/trigger.h"
#include "node/node.h"
#include "room/room.h"
#include "room/room_draw.h"
#include "room/room_guest.h"
#include "room/ticket_table.h"

/* Before the start by longer than any session lasts. */
#define EPOCH		(PgStartTime - (COUPON_ROOM_MAX_DAYS + 1) * USECS_PER_DAY)
#define CLOCK_US	100000

typedef struct Shared
{
	pg_atomic_uint64 version;	/* of all definitions of rooms; from 1 */
	uint64		seed;			/* of the hashes of users */
} Shared;

static Shared *shared = NULL;

PG_FUNCTION_INFO_V1(coupon_room_changed);

/* ---- shared memory ---- */

static void
set_up(void)
{
	pg_atomic_init_u64(&shared->version, 1);
	if (!pg_strong_random(&shared->seed, sizeof(shared->seed)))
		elog(ERROR, "could not generate random values");
}

const CouponModule coupon_room_module = {
	.name = "coupon rooms",
	.size = sizeof(Shared),
	.memory = (void **) &shared,
	.set_up = set_up
};

/* ---- places ---- */

static uint32 *
places_of(CouponLine *line)
{
	return dsa_get_address(coupon_queue_area, line->blocks[ROOM_PLACES]);
}

int64
coupon_room_place(CouponLine *line, int64 number)
{
	return number > coupon_room(line)->placed ? number : places_of(line)[number - 1];
}

int64
coupon_room_number(CouponLine *line, int64 place)
{
	return place > coupon_room(line)->placed ? place : places_of(line)[coupon_room(line)->placed + place - 1];
}

/* ---- sessions ---- */

typedef struct Session
{
	uint64		hash;
	int64		number;			/* 0: the bucket is empty */
} Session;

static Session *
sessions_of(CouponLine *line)
{
	return dsa_get_address(coupon_queue_area, line->blocks[ROOM_SESSIONS]);
}

uint64
coupon_room_hash_user(text *user_id)
{
	return coupon_user_hash(PointerGetDatum(user_id), shared->seed);
}

static void
add_session(Session *sessions, uint32 buckets, uint64 hash, int64 number)
{
	uint32		at = hash & (buckets - 1);

	while (sessions[at].number != 0)
		at = (at + 1) & (buckets - 1);
	sessions[at].hash = hash;
	sessions[at].number = number;
}

/* The bucket of a user's session, or of one with that number; -1: none. */
static int64
find_session(CouponLine *line, uint64 hash, int64 number)
{
	Session    *sessions;
	uint32		mask = coupon_room(line)->buckets - 1;

	if (coupon_room(line)->nadmitted == 0)
		return -1;
	sessions = sessions_of(line);
	for (uint32 at = hash & mask; sessions[at].number != 0; at = (at + 1) & mask)
	{
		if (sessions[at].hash == hash && (number == 0 || sessions[at].number == number))
			return at;
	}
	return -1;
}

/* Removes a session; those behind it move up, so that no hole ends a search. */
void
coupon_room_end_session(CouponLine *line, uint64 hash, int64 number)
{
	int64		found = find_session(line, hash, number);
	uint32		mask = coupon_room(line)->buckets - 1;
	Session    *sessions;
	uint32		hole;

	if (found < 0)
		return;
	sessions = sessions_of(line);
	hole = found;
	for (uint32 at = (hole + 1) & mask; sessions[at].number != 0; at = (at + 1) & mask)
	{
		uint32		home = sessions[at].hash & mask;

		if (((at - home) & mask) >= ((at - hole) & mask))
		{
			sessions[hole] = sessions[at];
			hole = at;
		}
	}
	sessions[hole].number = 0;
	coupon_room(line)->nadmitted--;
}

bool
coupon_room_reserve(CouponLine *line, int n)
{
	uint32		wanted = coupon_room(line)->nadmitted + line->pending + n;
	uint32		buckets;
	dsa_pointer pointer;

	if (wanted * 2 <= coupon_room(line)->buckets)
		return true;
	buckets = pg_nextpower2_32(Max(wanted * 2, 64));
	pointer = coupon_line_allocate(buckets * sizeof(Session));
	if (!DsaPointerIsValid(pointer))
		return false;
	if (DsaPointerIsValid(line->blocks[ROOM_SESSIONS]))
	{
		Session    *old = sessions_of(line);

		for (uint32 i = 0; i < coupon_room(line)->buckets; i++)
		{
			if (old[i].number != 0)
				add_session(dsa_get_address(coupon_queue_area, pointer), buckets,
							old[i].hash, old[i].number);
		}
		dsa_free(coupon_queue_area, line->blocks[ROOM_SESSIONS]);
	}
	line->blocks[ROOM_SESSIONS] = pointer;
	coupon_room(line)->buckets = buckets;
	return true;
}

int64
coupon_room_free_slots(CouponLine *line)
{
	CouponRoom *room = coupon_room(line);

	/* after a change of method nobody is left behind */
	if (room->def.method == COUPON_ROOM_PASSTHROUGH)
		return PG_INT32_MAX;
	return Max(0, (int64) room->def.capacity - room->nadmitted);
}

int64
coupon_room_session(CouponLine *line, uint32 bucket)
{
	return sessions_of(line)[bucket].number;
}

bool
coupon_room_is_session_of(CouponLine *line, int64 number, text *user_id)
{
	return find_session(line, coupon_room_hash_user(user_id), number) >= 0;
}

void
coupon_room_begin_session(CouponLine *line, CouponTicket *ticket, int64 number, uint64 hash,
						  uint32 clock)
{
	CouponRoom *room = coupon_room(line);

	ticket->flags |= TICKET_ADMITTED;
	ticket->admitted = clock;
	ticket->seen = Max(ticket->seen, clock);
	add_session(sessions_of(line), room->buckets, hash, number);
	room->nadmitted++;
	room->next_expiry = Min(room->next_expiry, coupon_ticket_deadline(line, ticket));
}

/* ---- tickets ---- */

uint32
coupon_room_clock(TimestampTz time)
{
	return time <= EPOCH ? 1 : (time - EPOCH) / CLOCK_US + 1;
}

TimestampTz
coupon_room_time(uint32 clock)
{
	return EPOCH + (int64) clock * CLOCK_US;
}

TimestampTz
coupon_ticket_deadline(CouponLine *line, const CouponTicket *ticket)
{
	const CouponRoomDefinition *def = &coupon_room(line)->def;
	TimestampTz deadline = coupon_room_time(ticket->seen) + def->idle_ttl;

	if (ticket->flags & TICKET_ADMITTED)
		deadline = Min(deadline, coupon_room_time(ticket->admitted) + def->session_ttl);
	return deadline;
}

void
coupon_room_set_ready(CouponLine *line, int64 number)
{
	CouponRoom *room = coupon_room(line);

	coupon_line_set_ready(line, coupon_room_place(line, number));
	room->next_idle = Min(room->next_idle,
						  coupon_ticket_deadline(line, coupon_room_ticket(line, number)));
}

bool
coupon_ticket_is_alive(CouponLine *line, const CouponTicket *ticket, TimestampTz now)
{
	return (ticket->flags & TICKET_USED) != 0 && (ticket->flags & TICKET_ENDED) == 0 &&
		now < coupon_ticket_deadline(line, ticket);
}

/* ---- definitions ---- */

/* After an abort, too: this transaction may have read its own room. */
static void
resolve_change(CouponIntent *intent, bool committed)
{
	pg_atomic_fetch_add_u64(&shared->version, 1);
	coupon_wake(COUPON_ROOM_WORKER);
}

/*
 * coupon_room_changed() - row trigger on coupon.room
 *
 * All rooms are read again on their next use: changes are rare, and a line for
 * each room that one transaction creates might be more than there are.
 */
Datum
coupon_room_changed(PG_FUNCTION_ARGS)
{
	(void) coupon_trigger_after_row(fcinfo, "room_changed",
									COUPON_ON_INSERT | COUPON_ON_UPDATE | COUPON_ON_DELETE,
									"room", NULL);
	if (coupon_shmem_available())
	{
		coupon_intent_reserve(1);
		coupon_intent_push(resolve_change, NULL, NULL, 0);
	}
	return PointerGetDatum(NULL);
}

/*
 * The functions set nothing beyond these bounds, but whoever changes the
 * table itself may; what goes beyond would overflow the sums of times.
 */
static int64
lifetime_us(Datum value)
{
	Interval   *interval = DatumGetIntervalP(value);
	double		us = interval->time + (interval->day + interval->month * 30.0) * USECS_PER_DAY;

	return Max(USECS_PER_SEC, Min(us, COUPON_ROOM_MAX_DAYS * (double) USECS_PER_DAY));
}

static double
rate_per_second(Datum value)
{
	double		rate = DatumGetFloat8(value);

	return rate > 0 ? Min(rate, COUPON_ROOM_MAX_RATE) : 0;
}

static CouponRoomMethod
method_of(text *name)
{
	char	   *method = text_to_cstring(name);

	return strcmp(method, "random") == 0 ? COUPON_ROOM_RANDOM :
		strcmp(method, "passthrough") == 0 ? COUPON_ROOM_PASSTHROUGH :
		strcmp(method, "reject") == 0 ? COUPON_ROOM_REJECT : COUPON_ROOM_FIFO;
}

/* A room as of now, with or without what this transaction has done; false if there is none. */
static bool
read_room_with(int64 room_id, bool own_changes, CouponRoomDefinition *def)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	CouponScan	scan;

	if (!own_changes)
		snapshot->curcid = FirstCommandId;
	memset(def, 0, sizeof(*def));
	def->drawn = -1;
	coupon_key_int64(&key, 1, BTEqualStrategyNumber, room_id);
	coupon_scan_begin(&scan, catalog->room, catalog->room_pkey, snapshot, &key, 1, false);
	def->exists = coupon_scan_next(&scan, ForwardScanDirection);
	if (def->exists)
	{
		Datum	   *values = scan.slot->tts_values;
		bool	   *nulls = scan.slot->tts_isnull;

		slot_getallattrs(scan.slot);
		def->capacity = DatumGetInt32(values[Room_capacity - 1]);
		if (!nulls[Room_admit_per_second - 1])
			def->per_second = rate_per_second(values[Room_admit_per_second - 1]);
		def->session_ttl = lifetime_us(values[Room_session_ttl - 1]);
		def->idle_ttl = lifetime_us(values[Room_idle_ttl - 1]);
		def->method = method_of(DatumGetTextPP(values[Room_method - 1]));
		def->paused = DatumGetBool(values[Room_paused - 1]);
		def->opens_at = nulls[Room_opens_at - 1] ? DT_NOBEGIN :
			DatumGetTimestampTz(values[Room_opens_at - 1]);
		if (!nulls[Room_drawn - 1])
			def->drawn = DatumGetInt64(values[Room_drawn - 1]);
	}
	coupon_scan_end_unlock(&scan);
	UnregisterSnapshot(snapshot);
	return def->exists;
}

/*
 * What is read is for all sessions, so it is what is committed; but a room
 * that this transaction has created nobody else can use.
 */
static bool
read_room(int64 room_id, CouponRoomDefinition *def)
{
	return read_room_with(room_id, false, def) || read_room_with(room_id, true, def);
}

/* Brings a room's definition in shared memory up to date. */
static void
load_room(int64 room_id)
{
	uint64		version = pg_atomic_read_u64(&shared->version);
	CouponRoomDefinition def;
	CouponLine *line;

	pg_read_barrier();
	(void) read_room(room_id, &def);
	line = coupon_queue_lock(&coupon_tickets, room_id, LW_EXCLUSIVE, true);
	if (coupon_room(line)->version < version)
	{
		CouponRoom *room = coupon_room(line);

		room->version = version;
		room->def = def;
		room->next_expiry = room->next_idle = 0;
	}
	LWLockRelease(line->lock);
}

bool
coupon_room_is_stale(CouponLine *line)
{
	return coupon_room(line)->version != pg_atomic_read_u64(&shared->version);
}

CouponLine *
coupon_room_lock(int64 room_id, LWLockMode mode, bool fresh)
{
	for (;;)
	{
		CouponLine *line = coupon_queue_lock(&coupon_tickets, room_id, mode, false);

		if (line == NULL)
		{
			CouponRoomDefinition def;

			/* whoever makes up ids makes no lines by that */
			if (!read_room(room_id, &def))
				return NULL;
			line = coupon_queue_lock(&coupon_tickets, room_id, mode, true);
		}
		if (!coupon_room_is_stale(line) || (!fresh && coupon_room(line)->version != 0))
		{
			if (coupon_room(line)->def.exists)
				return line;
			LWLockRelease(line->lock);
			return NULL;
		}
		LWLockRelease(line->lock);
		load_room(room_id);
		CHECK_FOR_INTERRUPTS();
	}
}

/* ---- the queue ---- */

/* A ticket that has not ended, as a building session finds it. */
typedef struct FoundTicket
{
	CouponFound found;
	pg_uuid_t	secret;
	TimestampTz admitted_at;
	uint64		hash;
} FoundTicket;

static int64
last_number(int64 room_id)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	CouponRoomDefinition def;
	int64		last;
	ScanKeyData key;

	/* numbers of a draw are taken, even if nobody of it is left */
	read_room(room_id, &def);
	last = Max(def.drawn, 0);
	coupon_key_int64(&key, 1, BTEqualStrategyNumber, room_id);
	for (int child = 0; child < COUPON_QUEUE_CHILDREN; child++)
	{
		CouponScan	scan;

		coupon_scan_begin(&scan, catalog->tickets[child], catalog->ticket_pkeys[child],
						  snapshot, &key, 1, false);
		if (coupon_scan_next(&scan, BackwardScanDirection))
		{
			bool		isnull;

			last = Max(last, DatumGetInt64(slot_getattr(scan.slot, Ticket_number, &isnull)));
		}
		coupon_scan_end_unlock(&scan);
	}
	UnregisterSnapshot(snapshot);
	return last;
}

static void
read_found(TupleTableSlot *slot, CouponFound *found)
{
	FoundTicket *ticket = (FoundTicket *) found;
	CouponTicketRow row;

	coupon_ticket_read(slot, 0, &row);
	found->id = row.room_id;
	found->number = row.number;
	ticket->secret = row.secret;
	ticket->admitted_at = row.admitted_at;
	ticket->hash = coupon_room_hash_user(row.user_id);
	pfree(row.user_id);
}

/* With the places of those who drew lots. */
static CouponLine *
lock_building(CouponQueue *queue, int64 room_id)
{
	CouponRoomDefinition def;
	uint32	   *places = NULL;
	CouponLine *line;
	bool		fits = true;

	if (read_room(room_id, &def) && def.drawn > 0)
		places = coupon_room_compute_draw(room_id, def.drawn);
	line = coupon_queue_lock_building(&coupon_tickets, queue, room_id);
	if (places != NULL)
	{
		line->blocks[ROOM_PLACES] = coupon_room_store_draw(places, def.drawn);
		fits = DsaPointerIsValid(line->blocks[ROOM_PLACES]) && coupon_line_hold(line, def.drawn);
		coupon_room(line)->placed = fits ? def.drawn : 0;
		pfree(places);
	}
	if (!fits)
	{
		LWLockRelease(line->lock);
		coupon_queue_refuse(COUPON_NO_MEMORY);
	}
	return line;
}

static bool
restore(CouponLine *line, const CouponFound *found)
{
	const FoundTicket *row = (const FoundTicket *) found;
	CouponTicket *ticket;

	if (!coupon_room_reserve(line, 1) || !coupon_line_restore(line, found->number))
		return false;
	ticket = coupon_room_ticket(line, found->number);
	memset(ticket, 0, sizeof(*ticket));
	memcpy(ticket->secret, row->secret.data, sizeof(ticket->secret));
	ticket->child = found->child;
	ticket->flags = TICKET_USED | TICKET_READY;
	ticket->seen = coupon_room_clock(GetCurrentTimestamp());
	if (row->admitted_at != 0)
		coupon_room_begin_session(line, ticket, found->number, row->hash,
								  coupon_room_clock(row->admitted_at));
	else
	{
		coupon_line_set_live(line, coupon_room_place(line, found->number));
		coupon_room_set_ready(line, found->number);
	}
	return true;
}

const CouponQueueKind coupon_tickets = {
	.number = COUPON_TICKETS,
	.lock = COUPON_LOCK_TICKETS,
	.user_lock = COUPON_LOCK_JOINER,
	.final_column = Ticket_ended_at,
	.entry_size = sizeof(CouponTicket),
	.found_size = sizeof(FoundTicket),
	.table = offsetof(CouponCatalog, ticket),
	.children = offsetof(CouponCatalog, tickets),
	.user_keys = offsetof(CouponCatalog, ticket_user_keys),
	.last_number = last_number,
	.read = read_found,
	.lock_building = lock_building,
	.restore = restore
};

/* ---- for the sale ---- */

bool
coupon_room_admits(int64 room_id, Datum user_id)
{
	TimestampTz now = GetCurrentTimestamp();
	CouponLine *line = coupon_room_lock(room_id, LW_SHARED, false);
	int64		bucket;
	bool		admits = false;

	/* of a room of another node */
	if (line == NULL)
		return unlikely(coupon_node_here()) && coupon_room_has_guest(room_id, user_id);
	bucket = find_session(line, coupon_room_hash_user((text *) DatumGetPointer(user_id)), 0);
	if (bucket >= 0)
	{
		CouponTicket *ticket = coupon_room_ticket(line, coupon_room_session(line, bucket));

		admits = coupon_ticket_is_alive(line, ticket, now);
		if (admits)
			ticket->seen = coupon_room_clock(now);
	}
	LWLockRelease(line->lock);
	return admits;
}
