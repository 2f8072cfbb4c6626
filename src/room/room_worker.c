/*
 * room_worker.c
 *	  Serving rooms: admitting who is next, ending what is over; and the worker
 *	  that does it all the time.
 *
 * One session at a time serves a room, under a lock that dies with it.  It
 * takes the first tickets that are committed and alive, so a join that is not
 * committed holds nobody up, and who has gone silent is ended instead of
 * admitted.  It waits for nobody: a ticket that its holder is just leaving is
 * passed by, and if that is rolled back it is the first again.  One whose row
 * somebody has merely locked is alive: who is behind it is not admitted before.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type_d.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/attempt.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/random.h"
#include "base/spi.h"
#include "queue/queue_table.h"
#include "room/room.h"
#include "room/room_change.h"
#include "room/room_draw.h"
#include "room/room_worker.h"
#include "room/ticket_table.h"

#define BATCH			500		/* tickets changed in a transaction */
#define SWEPT_TICKETS	5000	/* looked at for silence in a cycle */
#define LOOK_US			20000	/* between two looks at all sessions, or all
								 * who wait, */
#define LOOK_US_EACH	1		/* and for each of them more */
#define RETRY_US		20000	/* after somebody was passed by */
#define FAILED_US		1000000 /* after an ERROR */
#define TELL_LOCKED_MS	10000

PG_FUNCTION_INFO_V1(coupon_queue_serve);

/* What is to be done with a ticket. */
typedef struct Job
{
	int64		number;
	uint32		child;
	const char *end;			/* the reason, NULL: admit */
} Job;

typedef struct Round
{
	Job			jobs[BATCH];
	int			njobs;
	int			done;
	int			passed;			/* by: the row is locked, or its table */
	int			slots;			/* how many may be admitted */
	int			admitted;
	bool		more;			/* than fits */
	bool		draw;			/* the lots are to be drawn first */
	bool		undrawn;		/* they could not be: the room's row is locked */
	bool		no_memory;		/* for those who are to be admitted */
} Round;

static void
add_job(Round *round, int64 number, const CouponTicket *ticket, const char *end)
{
	if (round->njobs == BATCH)
	{
		round->more = true;
		return;
	}
	round->jobs[round->njobs].number = number;
	round->jobs[round->njobs].child = ticket->child;
	round->jobs[round->njobs++].end = end;
}

/*
 * The next look at the silence of those who wait, or are admitted.  It is never put
 * off for longer than one may be silent: if it seems to be, the clock was set back.
 */
static TimestampTz
next_look(CouponLine *line, TimestampTz at, TimestampTz now)
{
	return at - now > coupon_room(line)->def.idle_ttl + 2 * USECS_PER_SEC ? now : at;
}

/* Nobody was heard, or admitted, in the future. */
static void
heed_clock(CouponTicket *ticket, TimestampTz now)
{
	uint32		clock = coupon_room_clock(now);

	ticket->seen = Min(ticket->seen, clock);
	ticket->admitted = Min(ticket->admitted, clock);
}

/* Sessions that are over.  A poll can only put the end off. */
static void
plan_expiry(CouponLine *line, Round *round, TimestampTz now)
{
	CouponRoom *room = coupon_room(line);
	TimestampTz next = DT_NOEND;

	if (room->nadmitted == 0 || now < next_look(line, room->next_expiry, now))
		return;
	for (uint32 i = 0; i < room->buckets; i++)
	{
		int64		number = coupon_room_session(line, i);
		CouponTicket *ticket;
		TimestampTz deadline;

		if (number == 0)
			continue;
		ticket = coupon_room_ticket(line, number);
		heed_clock(ticket, now);
		deadline = coupon_ticket_deadline(line, ticket);
		if (deadline <= now)
			add_job(round, number, ticket,
					deadline < coupon_room_time(ticket->admitted) + room->def.session_ttl ? "idle" : "expired");
		next = Min(next, deadline);
	}
	room->next_expiry = Max(next, now + LOOK_US + LOOK_US_EACH * (int64) room->nadmitted);
}

/* Those who wait and are silent leave the line: looked for a part at a time. */
static void
plan_sweep(CouponLine *line, Round *round, TimestampTz now)
{
	CouponRoom *room = coupon_room(line);
	int64		places[256];
	int64		place = room->swept + 1;
	bool		end = false;

	if (room->swept == 0)
	{
		if (now < next_look(line, room->next_idle, now))
			return;
		room->swept_idle = DT_NOEND;
	}
	for (int seen = 0; !end && seen < SWEPT_TICKETS && round->njobs < BATCH;)
	{
		int			n = coupon_line_find_ready(line, place, places, lengthof(places));

		for (int i = 0; i < n && round->njobs < BATCH; i++)
		{
			int64		number = coupon_room_number(line, places[i]);
			CouponTicket *ticket = coupon_room_ticket(line, number);
			TimestampTz deadline;

			heed_clock(ticket, now);
			deadline = coupon_ticket_deadline(line, ticket);
			/* looked at once more if this is rolled back */
			room->swept_idle = Min(room->swept_idle, deadline);
			if (deadline <= now)
				add_job(round, number, ticket, "idle");
			place = places[i] + 1;
		}
		seen += n;
		end = n < (int) lengthof(places) && round->njobs < BATCH;
	}
	room->swept = end ? 0 : place - 1;
	if (end)
		room->next_idle = Max(room->swept_idle, now + LOOK_US + LOOK_US_EACH * (int64) line->ready);
}

/* Of a room that is no more everybody goes. */
static void
plan_end(CouponLine *line, Round *round)
{
	int64		places[BATCH];
	int			n = coupon_line_find_ready(line, 1, places, BATCH);

	for (int i = 0; i < n; i++)
	{
		int64		number = coupon_room_number(line, places[i]);

		add_job(round, number, coupon_room_ticket(line, number), "gone");
	}
	for (uint32 i = 0; i < coupon_room(line)->buckets && !round->more; i++)
	{
		int64		number = coupon_room_session(line, i);

		if (number != 0)
			add_job(round, number, coupon_room_ticket(line, number), "gone");
	}
}

/* How many may be admitted now, by slots and by the rate. */
static int
allowed(CouponLine *line, TimestampTz now)
{
	CouponRoom *room = coupon_room(line);
	double		rate = room->def.per_second;
	int64		slots = coupon_room_free_slots(line);

	if (rate > 0)
	{
		if (room->allowance_at == 0)
			room->allowance = 1;
		else if (now > room->allowance_at)
			room->allowance += (now - room->allowance_at) * rate / USECS_PER_SEC;
		room->allowance = Min(room->allowance, Max(1.0, rate / 10));
		room->allowance_at = now;
		if (room->def.method != COUPON_ROOM_PASSTHROUGH)
			slots = Min(slots, (int64) room->allowance);
	}
	if (room->def.paused || now < room->def.opens_at)
		return 0;
	return Min(slots, BATCH);
}

/* When a room goes on that stands for a moment: now, if the clock was set back since. */
static TimestampTz
at_or_now(TimestampTz at, TimestampTz now)
{
	return at - now > 2 * Max(FAILED_US, RETRY_US) ? now : at;
}

/* When the room has something to do, as far as it knows. */
static TimestampTz
next_due(CouponLine *line, TimestampTz now)
{
	CouponRoom *room = coupon_room(line);
	TimestampTz due = DT_NOEND;
	TimestampTz retry_at = at_or_now(room->retry_at, now);
	TimestampTz resume_at = at_or_now(line->resume_at, now);

	if (line->ready == 0 && room->nadmitted == 0)
		return due;
	if (coupon_room_is_stale(line))
		return resume_at;
	if (!room->def.exists)
		return Max(retry_at, resume_at);
	if (room->nadmitted > 0)
		due = next_look(line, room->next_expiry, now);
	if (line->ready > 0)
	{
		due = Min(due, room->swept > 0 ? now : next_look(line, room->next_idle, now));
		if (!room->def.paused && coupon_room_free_slots(line) > 0)
		{
			TimestampTz free_at = Max(room->def.opens_at, retry_at);

			/* a few at a time, where the rate is high */
			if (room->def.per_second > 0 && room->allowance < 1 && room->allowance_at <= now)
			{
				double		us = (1 - room->allowance) / room->def.per_second * USECS_PER_SEC + 1;

				free_at = Max(free_at, room->allowance_at + (TimestampTz) Max(LOOK_US, Min(us, USECS_PER_DAY)));
			}
			due = Min(due, free_at);
		}
	}
	return Max(due, resume_at);
}

/* Who is next: more candidates than slots, for some may be passed by. */
static void
plan_admission(CouponLine *line, Round *round, TimestampTz now)
{
	CouponRoom *room = coupon_room(line);
	int64		places[256];
	int64		place = 1;
	int			n;

	round->slots = allowed(line, now);
	if (round->slots == 0 || line->ready == 0)
		return;
	if (room->def.method == COUPON_ROOM_RANDOM && room->def.opens_at != DT_NOBEGIN &&
		room->def.drawn < 0)
	{
		round->draw = true;
		return;
	}
	do
	{
		n = coupon_line_find_ready(line, place, places, lengthof(places));
		for (int i = 0; i < n && round->njobs < BATCH; i++)
		{
			int64		number = coupon_room_number(line, places[i]);
			CouponTicket *ticket = coupon_room_ticket(line, number);

			place = places[i] + 1;
			/* the sweep may have found it, too: then it is done once */
			add_job(round, number, ticket, coupon_ticket_deadline(line, ticket) <= now ? "idle" : NULL);
		}
	} while (n == lengthof(places) && round->njobs < BATCH);
	round->more |= round->njobs == BATCH;
}

/* Somebody has locked the ticket that is next, or the room (0): the operator is to know. */
static void
tell_locked(int64 room_id, int64 number)
{
	static TimestampTz told_at = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(told_at, now, TELL_LOCKED_MS))
		return;
	told_at = now;
	ereport(LOG,
			number == 0 ?
			errmsg("room %lld does not draw its lots, since another transaction has locked its row", (long long) room_id) :
			errmsg("room %lld admits nobody before ticket %lld, whose row another transaction has locked",
				   (long long) room_id, (long long) number));
}

/*
 * Does one job, unless somebody else is at the ticket or it is done.  *locked:
 * its row is, and it stays as it is.
 */
static bool
do_job(int64 room_id, CouponTableWriter *rows, const Job *job, bool *locked)
{
	CouponTicketRow row;
	CouponRowChange change;
	CouponLine *line;

	*locked = false;
	if (!coupon_ticket_find(room_id, job->number, job->child, &row) || row.ended_at != 0)
		return false;
	if (job->end != NULL)
	{
		row.ended_at = GetCurrentTimestamp();
		row.reason = cstring_to_text(job->end);
	}
	else if (row.admitted_at == 0)
		row.admitted_at = GetCurrentTimestamp();
	else
		return false;
	coupon_pending_reserve(1);
	change = coupon_ticket_update(rows, &row, false);
	*locked = change == COUPON_ROW_LOCKED && !coupon_ticket_is_changing(room_id, job->number, job->child);
	if (change != COUPON_ROW_CHANGED)
		return false;
	COUPON_FAULT(ticket_changed);
	line = coupon_queue_lock(&coupon_tickets, room_id, LW_EXCLUSIVE, true);
	coupon_pending_push(job->end != NULL ? coupon_apply_end : coupon_apply_admit, line,
						job->number, job->child, coupon_room_hash_user(row.user_id));
	LWLockRelease(line->lock);
	return true;
}

/* Does what was planned, in that order. */
static void
carry_out(int64 room_id, Round *round, bool wait_for_tables)
{
	const CouponCatalog *catalog = coupon_catalog();
	CouponTableWriter *rows[COUPON_QUEUE_CHILDREN] = {NULL};

	CommandCounterIncrement();
	for (int i = 0; i < round->njobs; i++)
	{
		Job		   *job = &round->jobs[i];
		uint32		child = job->child;
		bool		locked;

		CHECK_FOR_INTERRUPTS();
		if (job->end == NULL && round->admitted == round->slots)
			continue;
		if (rows[child] == NULL)
		{
			/* a worker waits for no table: somebody may be dropping it */
			if (!wait_for_tables && !ConditionalLockRelationOid(catalog->tickets[child], RowExclusiveLock))
			{
				round->passed++;
				break;
			}
			rows[child] = coupon_writer_open(catalog->tickets[child], COUPON_UPDATE);
		}
		if (do_job(room_id, rows[child], job, &locked))
		{
			round->done++;
			round->admitted += job->end == NULL;
			continue;
		}
		round->passed++;
		if (locked && job->end == NULL)
		{
			tell_locked(room_id, job->number);
			round->slots = round->admitted;
		}
	}
	for (int child = 0; child < COUPON_QUEUE_CHILDREN; child++)
	{
		if (rows[child] != NULL)
			coupon_writer_close(rows[child]);
	}
}

/* ---- the draw ---- */

/*
 * The seed of the room's draw, and the last ticket in it.  They are kept in
 * shared memory from the first try on: a session can serve a room, look at its
 * draw and roll back, and then the same is drawn again.
 */
static void
choose_lots(int64 room_id, void *seed, int64 *n)
{
	uint8		fresh[COUPON_SEED_LENGTH];
	CouponLine *line;
	CouponRoom *room;

	coupon_random(fresh, sizeof(fresh));
	line = coupon_queue_lock(&coupon_tickets, room_id, LW_EXCLUSIVE, true);
	room = coupon_room(line);
	if (!room->has_lots)
	{
		memcpy(room->seed, fresh, COUPON_SEED_LENGTH);
		room->lots = line->next - 1;
		room->has_lots = true;
	}
	memcpy(seed, room->seed, COUPON_SEED_LENGTH);
	*n = room->lots;
	LWLockRelease(line->lock);
}

/* Draws the lots of a room that opens now; false: somebody is just changing it. */
static bool
draw_lots(int64 room_id)
{
	static CouponStatement lock = {
		"SELECT FROM coupon.room r WHERE r.room_id OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE SKIP LOCKED",
		1, {INT8OID}
	};
	static CouponStatement publish = {
		"UPDATE coupon.room SET drawn = $2, seed = $3 WHERE room_id OPERATOR(pg_catalog.=) $1",
		3, {INT8OID, INT8OID, BYTEAOID}
	};
	bytea	   *seed = palloc(VARHDRSZ + COUPON_SEED_LENGTH);
	CouponLine *line;
	int64		n;
	uint32	   *places;
	dsa_pointer draw;
	Datum		values[3];
	bool		fits;

	SET_VARSIZE(seed, VARHDRSZ + COUPON_SEED_LENGTH);
	values[0] = Int64GetDatum(room_id);
	coupon_spi_connect();
	/* whoever waits for a room holds all others up */
	if (coupon_spi_execute(&lock, SPI_OK_SELECT, values, NULL) == 0)
	{
		coupon_spi_finish();
		return false;
	}
	choose_lots(room_id, VARDATA(seed), &n);
	values[1] = Int64GetDatum(n);
	values[2] = PointerGetDatum(seed);
	(void) coupon_spi_execute(&publish, SPI_OK_UPDATE, values, NULL);
	coupon_spi_finish();
	if (n == 0)
		return true;

	places = coupon_room_compute_draw(room_id, n);
	coupon_pending_reserve(1);
	line = coupon_queue_lock(&coupon_tickets, room_id, LW_EXCLUSIVE, true);
	draw = coupon_room_store_draw(places, n);
	fits = DsaPointerIsValid(draw) && coupon_line_hold(line, n);
	if (fits)
		coupon_pending_push(coupon_apply_draw, line, n, 0, draw);
	else if (DsaPointerIsValid(draw))
		dsa_free(coupon_queue_area, draw);
	LWLockRelease(line->lock);
	if (!fits)
		coupon_queue_refuse(COUPON_NO_MEMORY);
	pfree(places);
	return true;
}

/* ---- serving ---- */

/* A claimed room, and what comes of serving it. */
typedef struct Work
{
	int64		room_id;
	bool		wait_for_tables;
	int64		served;
	bool		more;			/* there may be more to do at once */
	TimestampTz due;			/* and if not, then */
} Work;

static void
plan(CouponLine *line, Round *round, TimestampTz now)
{
	if (!coupon_room(line)->def.exists)
	{
		plan_end(line, round);
		return;
	}
	plan_expiry(line, round, now);
	plan_sweep(line, round, now);
	/* sessions in flight are none: who admits has the claim */
	if (coupon_room_reserve(line, BATCH))
		plan_admission(line, round, now);
	else
		/* those who are silent leave, and free some */
		round->no_memory = round->njobs == 0 && line->ready > 0 && coupon_room_free_slots(line) > 0;
}

static void
serve_room(void *arg)
{
	Work	   *work = arg;
	Round	   *round = palloc0(sizeof(Round));
	TimestampTz now = GetCurrentTimestamp();
	CouponLine *line;
	CouponRoom *room;

	line = coupon_room_lock(work->room_id, LW_EXCLUSIVE, true);
	if (line == NULL)
		line = coupon_queue_lock(&coupon_tickets, work->room_id, LW_EXCLUSIVE, true);
	plan(line, round, now);
	LWLockRelease(line->lock);

	if (round->no_memory)
		coupon_queue_refuse(COUPON_NO_MEMORY);
	if (round->draw && !draw_lots(work->room_id))
	{
		tell_locked(work->room_id, 0);
		round->draw = false;
		round->undrawn = true;
	}
	if (!round->draw && round->njobs > 0)
		carry_out(work->room_id, round, work->wait_for_tables);

	line = coupon_queue_lock(&coupon_tickets, work->room_id, LW_EXCLUSIVE, true);
	room = coupon_room(line);
	room->allowance -= round->admitted;
	if (round->undrawn)
		room->retry_at = now + RETRY_US;
	if (round->passed > 0)
	{
		room->retry_at = now + RETRY_US;
		room->next_idle = Min(room->next_idle, room->retry_at);
		room->next_expiry = Min(room->next_expiry, room->retry_at);
	}
	work->due = next_due(line, now);
	LWLockRelease(line->lock);
	work->served = round->done;
	/* ends free slots, at commit */
	work->more = round->draw || (round->done > 0 && (round->more || round->done > round->admitted));
}

/* A claimed room, whose ERROR is its own. */
static void
attempt_room(Work *work)
{
	ErrorData  *error;
	CouponLine *line;

	coupon_worker_tell("admitting to room %lld, ending tickets", (long long) work->room_id);
	error = coupon_attempt(serve_room, work);
	if (error == NULL)
		return;
	work->served = 0;
	work->more = false;
	work->due = GetCurrentTimestamp() + FAILED_US;
	line = coupon_queue_lock(&coupon_tickets, work->room_id, LW_EXCLUSIVE, true);
	line->resume_at = work->due;
	LWLockRelease(line->lock);
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("room %lld cannot be served now: %s", (long long) work->room_id, error->message),
			 error->detail ? errdetail("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0));
	FreeErrorData(error);
}

/*
 * Admits and ends what is to be in the rooms that need it, adds the tickets
 * changed to *served.  True: there may be more to do at once; if not, there
 * may be at *due.
 */
static bool
serve_some(bool wait_for_tables, int64 *served, TimestampTz *due)
{
	static int	next = 0;
	CouponQueue *queue = coupon_queue(&coupon_tickets);
	TimestampTz now = GetCurrentTimestamp();
	bool		more = false;

	*due = DT_NOEND;
	for (int i = 0; i < coupon_queue_slots() && *served < BATCH; i++)
	{
		Work		work = {.wait_for_tables = wait_for_tables};
		CouponLine *line;

		next = (next + 1) % coupon_queue_slots();
		line = coupon_queue_lock_nth(queue, next, LW_SHARED);
		if (line == NULL)
			continue;
		work.room_id = line->id;
		work.due = next_due(line, now);
		LWLockRelease(line->lock);

		/*
		 * Claimed until the transaction ends, and once in it: what it has
		 * admitted and not committed is not counted yet, and would be
		 * admitted past the capacity.
		 */
		if (work.due <= now)
		{
			if (coupon_lock_try(COUPON_LOCK_ADMITTING, work.room_id) != LOCKACQUIRE_OK)
				continue;
			attempt_room(&work);
			*served += work.served;
		}
		more |= work.more;
		*due = Min(*due, work.due);
	}
	return more || *served >= BATCH;
}

/*
 * coupon_queue_serve() - what the room worker does
 */
Datum
coupon_queue_serve(PG_FUNCTION_ARGS)
{
	int64		served = 0;
	TimestampTz due;

	PreventCommandIfReadOnly("coupon_queue_serve()");
	PreventCommandDuringRecovery("coupon_queue_serve()");
	(void) serve_some(true, &served, &due);
	PG_RETURN_INT64(served);
}

/* ---- the worker ---- */

static int	wait_ms = 0;		/* after a cycle that left nothing to do */

/* A cycle serves or rotates: emptying a table wants no lock on another. */
static bool
serve(void)
{
	int64		served = 0;
	TimestampTz due;
	bool		more;

	if (coupon_queue_table_rotate(&coupon_tickets))
		return true;
	more = serve_some(false, &served, &due);

	/*
	 * until a session or somebody's patience ends; who joins or leaves wakes
	 * us sooner
	 */
	wait_ms = coupon_queue_table_wait_ms(&coupon_tickets, due);
	return more;
}

static int
serve_interval(void)
{
	return wait_ms;
}

static const char *const tables[] = {"room", "ticket", NULL};

const CouponWorkerKind coupon_room_worker = {
	.name = "coupon room worker",
	.activity = "looking for tickets",
	.tables = tables,
	.work = serve,
	.interval = serve_interval
};
