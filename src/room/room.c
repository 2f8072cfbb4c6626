/*
 * room.c
 *	  Waiting rooms: what shared memory knows of them and of their tickets.
 *
 * A ticket waits in a line (line.c), is admitted to a session, and ends.  Its
 * row in coupon.ticket says all of it, but for one thing: when its holder last
 * showed a sign of life is in shared memory alone, so that a poll writes
 * nothing; after a restart everybody has his idle time anew.
 *
 * The changes of a ticket are noted by the callbacks of the transactions that
 * made them, in whatever order these come: ended wins, and a ticket is
 * forgotten when it is known both to be committed and to have ended.
 *
 * Sessions are also found by their users, for issuing, which asks whether one is admitted: in a table
 * of 64-bit hashes with a secret seed.  To be let in without a session one
 * would have to find a user id with the hash of somebody who has one.
 *
 * In a room that draws lots, those who came before the opening stand in the
 * order of sha256(seed || number); place and number differ for them alone.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/database.h"
#include "base/locks.h"
#include "base/shmem.h"
#include "room/room.h"
#include "room/room_draw.h"

PG_FUNCTION_INFO_V1(coupon_room_changed);

/* ---- rows ---- */

void
coupon_ticket_read(TupleTableSlot *slot, uint32 child, CouponTicketRow *row)
{
	Datum	   *values = slot->tts_values;
	bool	   *nulls = slot->tts_isnull;

	slot_getallattrs(slot);
	row->room_id = DatumGetInt64(values[Ticket_room_id - 1]);
	row->number = DatumGetInt64(values[Ticket_number - 1]);
	row->secret = *DatumGetUUIDP(values[Ticket_secret - 1]);
	row->joined_at = DatumGetTimestampTz(values[Ticket_joined_at - 1]);
	row->admitted_at = nulls[Ticket_admitted_at - 1] ? 0 :
		DatumGetTimestampTz(values[Ticket_admitted_at - 1]);
	row->ended_at = nulls[Ticket_ended_at - 1] ? 0 :
		DatumGetTimestampTz(values[Ticket_ended_at - 1]);
	row->user_id = DatumGetTextPCopy(values[Ticket_user_id - 1]);
	row->reason = nulls[Ticket_reason - 1] ? NULL : DatumGetTextPCopy(values[Ticket_reason - 1]);
	row->tid = slot->tts_tid;
	row->child = child;
}

void
coupon_ticket_fill(TupleTableSlot *slot, const CouponTicketRow *row)
{
	Datum	   *values = slot->tts_values;
	bool	   *nulls = slot->tts_isnull;

	values[Ticket_room_id - 1] = Int64GetDatum(row->room_id);
	values[Ticket_number - 1] = Int64GetDatum(row->number);
	values[Ticket_secret - 1] = UUIDPGetDatum(&row->secret);
	values[Ticket_joined_at - 1] = TimestampTzGetDatum(row->joined_at);
	values[Ticket_admitted_at - 1] = TimestampTzGetDatum(row->admitted_at);
	values[Ticket_ended_at - 1] = TimestampTzGetDatum(row->ended_at);
	values[Ticket_user_id - 1] = PointerGetDatum(row->user_id);
	values[Ticket_reason - 1] = PointerGetDatum(row->reason);
	memset(nulls, false, Ticket_natts);
	nulls[Ticket_admitted_at - 1] = row->admitted_at == 0;
	nulls[Ticket_ended_at - 1] = row->ended_at == 0;
	nulls[Ticket_reason - 1] = row->reason == NULL;
}

bool
coupon_ticket_find(int64 room_id, int64 number, uint32 child, CouponTicketRow *row)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData keys[2];
	CouponScan	scan;
	bool		found;

	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, room_id);
	coupon_key_int64(&keys[1], 2, BTEqualStrategyNumber, number);
	coupon_scan_begin(&scan, catalog->tickets[child], catalog->ticket_pkeys[child],
					  snapshot, keys, 2, false);
	found = coupon_scan_next(&scan, ForwardScanDirection);
	if (found)
		coupon_ticket_read(scan.slot, child, row);
	coupon_scan_end_unlock(&scan);
	UnregisterSnapshot(snapshot);
	return found;
}

CouponRowChange
coupon_ticket_update(CouponTableWriter *rows, CouponTicketRow *row, bool wait)
{
	coupon_ticket_fill(coupon_writer_row(rows), row);
	return coupon_writer_update(rows, &row->tid, wait);
}

/* ---- places ---- */

static uint32 *
draw_of(CouponLine *line)
{
	return dsa_get_address(coupon_queue_area, line->room.place_of);
}

int64
coupon_room_place(CouponLine *line, int64 number)
{
	return number > line->room.drawn ? number : draw_of(line)[number - 1];
}

int64
coupon_room_number(CouponLine *line, int64 place)
{
	return place > line->room.drawn ? place : draw_of(line)[line->room.drawn + place - 1];
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
	return dsa_get_address(coupon_queue_area, line->room.admitted);
}

uint64
coupon_room_hash_user(text *user_id)
{
	return coupon_user_hash(PointerGetDatum(user_id), coupon_line_seed());
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
	uint32		mask = line->room.buckets - 1;

	if (line->room.nadmitted == 0)
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
static void
remove_session(CouponLine *line, uint64 hash, int64 number)
{
	int64		found = find_session(line, hash, number);
	uint32		mask = line->room.buckets - 1;
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
	line->room.nadmitted--;
}

bool
coupon_room_reserve(CouponLine *line, int n)
{
	uint32		wanted = line->room.nadmitted + line->pending + n;
	uint32		buckets;
	dsa_pointer pointer;

	if (wanted * 2 <= line->room.buckets)
		return true;
	buckets = pg_nextpower2_32(Max(wanted * 2, 64));
	pointer = coupon_line_allocate(buckets * sizeof(Session));
	if (!DsaPointerIsValid(pointer))
		return false;
	if (DsaPointerIsValid(line->room.admitted))
	{
		Session    *old = sessions_of(line);

		for (uint32 i = 0; i < line->room.buckets; i++)
		{
			if (old[i].number != 0)
				add_session(dsa_get_address(coupon_queue_area, pointer), buckets,
							old[i].hash, old[i].number);
		}
		dsa_free(coupon_queue_area, line->room.admitted);
	}
	line->room.admitted = pointer;
	line->room.buckets = buckets;
	return true;
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

static void
begin_session(CouponLine *line, CouponTicket *ticket, int64 number, uint64 hash, uint32 clock)
{
	ticket->flags |= TICKET_ADMITTED;
	ticket->admitted = clock;
	ticket->seen = Max(ticket->seen, clock);
	add_session(sessions_of(line), line->room.buckets, hash, number);
	line->room.nadmitted++;
	line->room.next_expiry = Min(line->room.next_expiry, coupon_ticket_deadline(line, ticket));
}

TimestampTz
coupon_ticket_deadline(CouponLine *line, const CouponTicket *ticket)
{
	TimestampTz deadline = coupon_line_time(ticket->seen) + line->room.idle_ttl;

	if (ticket->flags & TICKET_ADMITTED)
		deadline = Min(deadline, coupon_line_time(ticket->admitted) + line->room.session_ttl);
	return deadline;
}

bool
coupon_ticket_is_alive(CouponLine *line, const CouponTicket *ticket, TimestampTz now)
{
	return (ticket->flags & TICKET_USED) != 0 && (ticket->flags & TICKET_ENDED) == 0 &&
		now < coupon_ticket_deadline(line, ticket);
}

/* ---- changes ---- */

/* Forgets a ticket that is known to have been committed and to have ended. */
static void
settle(CouponLine *line, CouponTicket *ticket, int64 number)
{
	if ((ticket->flags & (TICKET_READY | TICKET_ENDED)) != (TICKET_READY | TICKET_ENDED))
		return;
	pg_atomic_write_u64(&line->queue->finished[ticket->child], GetCurrentTimestamp());
	pg_atomic_fetch_sub_u32(&line->queue->open[ticket->child], 1);
	ticket->flags = 0;
	coupon_line_drop(line, number);
}

static void
leave_join(CouponPending *change, CouponTicket *ticket)
{
	CouponLine *line = change->line;

	coupon_line_clear(line, coupon_room_place(line, change->number));
	pg_atomic_fetch_sub_u32(&line->queue->open[change->child], 1);
	ticket->flags = 0;
	coupon_line_drop(line, change->number);
}

bool
coupon_apply_join(CouponPending *change, bool committed)
{
	CouponLine *line = change->line;
	CouponTicket *ticket = coupon_line_ticket(line, change->number);

	if (!committed)
	{
		leave_join(change, ticket);
		return false;
	}
	ticket->flags |= TICKET_READY;
	if (coupon_line_is_live(line, coupon_room_place(line, change->number)))
		coupon_line_set_ready(line, coupon_room_place(line, change->number));
	settle(line, ticket, change->number);
	coupon_wake(COUPON_ROOM_WORKER);
	return false;
}

bool
coupon_apply_join_admitted(CouponPending *change, bool committed)
{
	CouponLine *line = change->line;
	CouponTicket *ticket = coupon_line_ticket(line, change->number);

	if (!committed)
	{
		leave_join(change, ticket);
		return false;
	}
	ticket->flags |= TICKET_READY;
	if (!(ticket->flags & TICKET_ENDED))
	{
		begin_session(line, ticket, change->number, change->extra, ticket->admitted);
		coupon_line_count_served(line, GetCurrentTimestamp());
	}
	settle(line, ticket, change->number);
	coupon_wake(COUPON_ROOM_WORKER);
	return false;
}

bool
coupon_apply_admit(CouponPending *change, bool committed)
{
	CouponLine *line = change->line;
	CouponTicket *ticket = coupon_line_ticket(line, change->number);
	TimestampTz now;

	/* it may have ended, and be forgotten, before we came to note this */
	if (!committed || ticket == NULL || (ticket->flags & TICKET_ENDED) ||
		!(ticket->flags & TICKET_USED))
		return false;
	now = GetCurrentTimestamp();
	coupon_line_clear(line, coupon_room_place(line, change->number));
	begin_session(line, ticket, change->number, change->extra, coupon_line_clock(now));
	coupon_line_count_served(line, now);
	return false;
}

bool
coupon_apply_end(CouponPending *change, bool committed)
{
	CouponLine *line = change->line;
	CouponTicket *ticket = coupon_line_ticket(line, change->number);

	if (!committed || ticket == NULL || !(ticket->flags & TICKET_USED) ||
		(ticket->flags & TICKET_ENDED))
		return false;
	ticket->flags |= TICKET_ENDED;
	if (ticket->flags & TICKET_ADMITTED)
		remove_session(line, change->extra, change->number);
	else
		coupon_line_clear(line, coupon_room_place(line, change->number));
	settle(line, ticket, change->number);
	coupon_wake(COUPON_ROOM_WORKER);
	return false;
}

/* Those who waited for the draw take their places; extra is the draw. */
bool
coupon_apply_draw(CouponPending *change, bool committed)
{
	CouponLine *line = change->line;

	if (!committed)
	{
		dsa_free(coupon_queue_area, change->extra);
		return false;
	}
	for (int64 number = 1; number <= change->number; number++)
		coupon_line_clear(line, number);
	line->room.place_of = change->extra;
	line->room.drawn = change->number;
	for (int64 number = 1; number <= change->number; number++)
	{
		CouponTicket *ticket = coupon_line_ticket(line, number);

		if (ticket == NULL || !(ticket->flags & TICKET_USED) ||
			(ticket->flags & (TICKET_ADMITTED | TICKET_ENDED)))
			continue;
		coupon_line_set_live(line, coupon_room_place(line, number));
		if (ticket->flags & TICKET_READY)
			coupon_line_set_ready(line, coupon_room_place(line, number));
	}
	coupon_wake(COUPON_ROOM_WORKER);
	return false;
}

/* ---- definitions ---- */

static bool
apply_room_change(CouponPending *change, bool committed)
{
	/* after an abort, too: this transaction may have loaded its own change */
	change->line->room.wanted_version++;
	coupon_wake(COUPON_ROOM_WORKER);
	return false;
}

/*
 * coupon_room_changed() - row trigger on coupon.room
 */
Datum
coupon_room_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	HeapTuple	tuple;
	CouponLine *line;
	int64		room_id;
	bool		isnull;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("coupon.room_changed() must be called as a trigger")));
	if (!coupon_shmem_available())
		return PointerGetDatum(NULL);

	tuple = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ?
		trigger->tg_newtuple : trigger->tg_trigtuple;
	room_id = DatumGetInt64(heap_getattr(tuple, Room_id, RelationGetDescr(trigger->tg_relation), &isnull));
	coupon_pending_reserve(1);
	line = coupon_line_lock(&coupon_tickets, room_id, LW_EXCLUSIVE, true);
	coupon_pending_push(apply_room_change, line, 0, 0, 0);
	LWLockRelease(line->lock);
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

/* Reads a room as of now; false if there is none. */
static bool
read_room(int64 room_id, CouponRoomState *state, int64 *drawn)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	CouponScan	scan;
	bool		found;

	*drawn = 0;
	coupon_key_int64(&key, 1, BTEqualStrategyNumber, room_id);
	coupon_scan_begin(&scan, catalog->room, catalog->room_pkey, snapshot, &key, 1, false);
	found = coupon_scan_next(&scan, ForwardScanDirection);
	if (found)
	{
		Datum	   *values = scan.slot->tts_values;
		bool	   *nulls = scan.slot->tts_isnull;

		slot_getallattrs(scan.slot);
		state->capacity = DatumGetInt32(values[Room_capacity - 1]);
		state->per_second = nulls[Room_admit_per_second - 1] ? 0 :
			rate_per_second(values[Room_admit_per_second - 1]);
		state->session_ttl = lifetime_us(values[Room_session_ttl - 1]);
		state->idle_ttl = lifetime_us(values[Room_idle_ttl - 1]);
		state->method = method_of(DatumGetTextPP(values[Room_method - 1]));
		state->paused = DatumGetBool(values[Room_paused - 1]);
		state->opens_at = nulls[Room_opens_at - 1] ? DT_NOBEGIN :
			DatumGetTimestampTz(values[Room_opens_at - 1]);
		if (!nulls[Room_drawn - 1])
			*drawn = DatumGetInt64(values[Room_drawn - 1]);
	}
	state->exists = found;
	state->is_drawn = false;
	if (found)
		state->is_drawn = !scan.slot->tts_isnull[Room_drawn - 1];
	coupon_scan_end_unlock(&scan);
	UnregisterSnapshot(snapshot);
	return found;
}

/* Brings a room's definition in shared memory up to date. */
static void
load_room(int64 room_id)
{
	CouponRoomState state = {0};	/* as it stays where there is no such room */
	CouponLine *line = coupon_line_lock(&coupon_tickets, room_id, LW_SHARED, true);
	uint64		version = line->room.wanted_version;
	int64		drawn;

	LWLockRelease(line->lock);
	(void) read_room(room_id, &state, &drawn);

	line = coupon_line_lock(&coupon_tickets, room_id, LW_EXCLUSIVE, true);
	if (line->room.wanted_version == version)
	{
		line->room.capacity = state.capacity;
		line->room.per_second = state.per_second;
		line->room.session_ttl = state.session_ttl;
		line->room.idle_ttl = state.idle_ttl;
		line->room.method = state.method;
		line->room.paused = state.paused;
		line->room.opens_at = state.opens_at;
		line->room.exists = state.exists;
		line->room.is_drawn = state.is_drawn;
		line->room.next_expiry = 0;
		line->room.version = version;
	}
	LWLockRelease(line->lock);
}

CouponLine *
coupon_room_lock(int64 room_id, LWLockMode mode, bool fresh)
{
	for (;;)
	{
		CouponLine *line = coupon_line_lock(&coupon_tickets, room_id, mode, false);

		if (line == NULL)
		{
			CouponRoomState state;
			int64		drawn;

			/* whoever makes up ids makes no lines by that */
			if (!read_room(room_id, &state, &drawn))
				return NULL;
			line = coupon_line_lock(&coupon_tickets, room_id, mode, true);
		}
		if (line->room.version == line->room.wanted_version ||
			(!fresh && line->room.version != 0))
		{
			if (line->room.exists)
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

static Oid
ticket_table(void)
{
	return coupon_catalog()->ticket;
}

static int64
last_number(int64 room_id)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	CouponRoomState state;
	int64		last;
	ScanKeyData key;

	/* numbers of a draw are taken, even if nobody of it is left */
	(void) read_room(room_id, &state, &last);
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

/* A ticket that has not ended, as a building session finds it. */
typedef struct Found
{
	int64		room_id;
	int64		number;
	pg_uuid_t	secret;
	TimestampTz admitted_at;
	uint64		hash;
	uint32		child;
} Found;

static int
compare_found(const void *a, const void *b)
{
	const Found *x = a;
	const Found *y = b;

	if (x->room_id != y->room_id)
		return x->room_id < y->room_id ? -1 : 1;
	return x->number < y->number ? -1 : x->number > y->number;
}

static bool
restore_ticket(CouponLine *line, const Found *found, uint32 now)
{
	CouponTicket *ticket;

	if (!coupon_room_reserve(line, 1) ||
		!coupon_line_restore(line, true, found->number))
		return false;
	pg_atomic_fetch_add_u32(&line->queue->open[found->child], 1);
	ticket = coupon_line_ticket(line, found->number);
	memset(ticket, 0, sizeof(*ticket));
	memcpy(ticket->secret, found->secret.data, sizeof(ticket->secret));
	ticket->child = found->child;
	ticket->flags = TICKET_USED | TICKET_READY;
	ticket->seen = now;
	if (found->admitted_at != 0)
		begin_session(line, ticket, found->number, found->hash, coupon_line_clock(found->admitted_at));
	else
	{
		coupon_line_set_live(line, coupon_room_place(line, found->number));
		coupon_line_set_ready(line, coupon_room_place(line, found->number));
	}
	return true;
}

/* Reads who waits and who is admitted, once after the server's start. */
static void
build_queue(CouponQueue *queue)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	uint32		now = coupon_line_clock(GetCurrentTimestamp());
	int64		n = 0;
	int64		room = 1024;
	Found	   *found = palloc(room * sizeof(Found));

	for (uint32 child = 0; child < COUPON_QUEUE_CHILDREN; child++)
	{
		Relation	rel = table_open(catalog->tickets[child], AccessShareLock);
		TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
		TupleTableSlot *slot = table_slot_create(rel, NULL);

		while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		{
			CouponTicketRow row;

			CHECK_FOR_INTERRUPTS();
			if (!slot_attisnull(slot, Ticket_ended_at))
				continue;
			if (n == room)
				found = repalloc_huge(found, mul_size(room *= 2, sizeof(Found)));
			coupon_ticket_read(slot, child, &row);
			found[n].room_id = row.room_id;
			found[n].number = row.number;
			found[n].secret = row.secret;
			found[n].admitted_at = row.admitted_at;
			found[n].hash = coupon_room_hash_user(row.user_id);
			found[n++].child = child;
			pfree(row.user_id);
		}
		if (n > 0 && found[n - 1].child == child)
			pg_atomic_write_u32(&queue->child, child);
		ExecDropSingleTupleTableSlot(slot);
		table_endscan(scan);
		table_close(rel, AccessShareLock);
	}
	UnregisterSnapshot(snapshot);
	qsort(found, n, sizeof(Found), compare_found);

	for (int64 i = 0; i < n;)
	{
		int64		room_id = found[i].room_id;
		CouponRoomState state;
		CouponLine *line;
		int64		drawn;
		dsa_pointer draw = InvalidDsaPointer;
		bool		fits = true;

		if (read_room(room_id, &state, &drawn) && drawn > 0)
			draw = coupon_room_compute_draw(room_id, drawn);
		line = coupon_line_lock_building(&coupon_tickets, queue, room_id);
		if (DsaPointerIsValid(draw))
		{
			fits = coupon_line_hold(line, drawn);
			line->room.place_of = draw;
			line->room.drawn = drawn;
		}
		for (; i < n && fits && found[i].room_id == room_id; i++)
			fits = restore_ticket(line, &found[i], now);
		LWLockRelease(line->lock);
		if (!fits)
			coupon_line_out_of_memory();
		CHECK_FOR_INTERRUPTS();
	}
	pfree(found);
}

const CouponQueueKind coupon_tickets = {
	ticket_table, build_queue, last_number, true, COUPON_LOCK_TICKETS
};

/* ---- for the sale ---- */

bool
coupon_room_admits(int64 room_id, Datum user_id)
{
	TimestampTz now = GetCurrentTimestamp();
	CouponLine *line = coupon_room_lock(room_id, LW_SHARED, false);
	int64		bucket;
	bool		admits = false;

	if (line == NULL)
		return false;
	bucket = find_session(line, coupon_room_hash_user((text *) DatumGetPointer(user_id)), 0);
	if (bucket >= 0)
	{
		CouponTicket *ticket = coupon_line_ticket(line, coupon_room_session(line, bucket));

		admits = coupon_ticket_is_alive(line, ticket, now);
		if (admits)
			ticket->seen = coupon_line_clock(now);
	}
	LWLockRelease(line->lock);
	return admits;
}
