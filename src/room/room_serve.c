/*
 * room_serve.c
 *	  Serving a room: admitting who is next, ending what is over.
 *
 * One session at a time serves a room, under a lock that dies with it.  It
 * takes the first tickets that are committed and alive, so a join that is not
 * committed holds nobody up, and who has gone silent is ended instead of
 * admitted.  It waits for nobody: a ticket that its holder is just leaving is
 * passed by, and if that is rolled back it is the first again.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/arguments.h"
#include "base/compat.h"
#include "base/locks.h"
#include "room/room.h"
#include "room/room_draw.h"

#define BATCH			500		/* tickets changed in a transaction */
#define SWEPT_TICKETS	5000	/* looked at for silence in a cycle */
#define EXPIRY_US		20000	/* between two looks at all sessions, */
#define EXPIRY_US_EACH	1		/* and for each session more */

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
	int			slots;			/* how many may be admitted */
	int			admitted;
	bool		more;			/* than fits */
	bool		draw;			/* the lots are to be drawn first */
} Round;

/*
 * Until the transaction ends, and once in it: what it has admitted and not
 * committed is not counted yet, and would be admitted past the capacity.
 */
static bool
claim(int64 room_id)
{
	return coupon_lock_try(COUPON_LOCK_ADMITTING, room_id) == LOCKACQUIRE_OK;
}

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

/* Sessions that are over.  A poll can only put the end off. */
static void
plan_expiry(CouponLine *line, Round *round, TimestampTz now)
{
	TimestampTz next = DT_NOEND;

	if (line->room.nadmitted == 0 || now < line->room.next_expiry)
		return;
	for (uint32 i = 0; i < line->room.buckets; i++)
	{
		int64		number = coupon_room_session(line, i);
		CouponTicket *ticket;
		TimestampTz deadline;

		if (number == 0)
			continue;
		ticket = coupon_line_ticket(line, number);
		deadline = coupon_ticket_deadline(line, ticket);
		if (deadline <= now)
			add_job(round, number, ticket,
					deadline < coupon_line_time(ticket->admitted) + line->room.session_ttl ? "idle" : "expired");
		next = Min(next, deadline);
	}
	line->room.next_expiry = Max(next, now + EXPIRY_US + EXPIRY_US_EACH * (int64) line->room.nadmitted);
}

/* A part of those who wait, in turn: who is silent leaves the line. */
static void
plan_sweep(CouponLine *line, Round *round, TimestampTz now)
{
	int64		places[256];
	int64		place = line->room.swept + 1;

	for (int seen = 0; seen < SWEPT_TICKETS && round->njobs < BATCH;)
	{
		int			n = coupon_line_find_ready(line, place, places, lengthof(places));

		for (int i = 0; i < n && round->njobs < BATCH; i++)
		{
			int64		number = coupon_room_number(line, places[i]);
			CouponTicket *ticket = coupon_line_ticket(line, number);

			if (coupon_ticket_deadline(line, ticket) <= now)
				add_job(round, number, ticket, "idle");
			place = places[i] + 1;
		}
		seen += n;
		if (n < (int) lengthof(places) && round->njobs < BATCH)
		{
			place = 1;			/* the end: from the front the next time */
			break;
		}
	}
	line->room.swept = place - 1;
}

/* How many may be admitted now, by slots and by the rate. */
static int
allowed(CouponLine *line, TimestampTz now)
{
	CouponRoomState *room = &line->room;
	int64		slots = (int64) room->capacity - room->nadmitted;

	if (room->per_second > 0)
	{
		double		most = Max(1.0, room->per_second / 10);

		if (room->allowance_at == 0)
			room->allowance = 1;
		else if (now > room->allowance_at)
			room->allowance += (now - room->allowance_at) * room->per_second / USECS_PER_SEC;
		room->allowance = Min(room->allowance, most);
		room->allowance_at = now;
		slots = Min(slots, (int64) room->allowance);
	}
	if (room->paused || now < room->opens_at)
		return 0;
	/* after a change of method nobody is left behind */
	if (room->method == COUPON_ROOM_PASSTHROUGH)
		slots = BATCH;
	return Max(0, Min(slots, BATCH));
}

/* Who is next: more candidates than slots, for some may be passed by. */
static void
plan_admission(CouponLine *line, Round *round, TimestampTz now)
{
	int64		places[256];
	int64		place = 1;
	int			n;

	round->slots = allowed(line, now);
	if (round->slots == 0 || line->ready == 0)
		return;
	if (line->room.method == COUPON_ROOM_RANDOM && line->room.opens_at != DT_NOBEGIN &&
		!line->room.is_drawn)
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
			CouponTicket *ticket = coupon_line_ticket(line, number);

			place = places[i] + 1;
			/* the sweep may have found it, too: then it is done once */
			add_job(round, number, ticket, coupon_ticket_deadline(line, ticket) <= now ? "idle" : NULL);
		}
	} while (n == lengthof(places) && round->njobs < BATCH);
	round->more |= round->njobs == BATCH;
}

/* Does one job, unless somebody else is at the ticket or it is done. */
static bool
do_job(int64 room_id, CouponTableWriter *rows, const Job *job)
{
	CouponTicketRow row;
	CouponLine *line;

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
	if (coupon_ticket_update(rows, &row, false) != COUPON_ROW_CHANGED)
		return false;
	line = coupon_line_lock(&coupon_tickets, room_id, LW_EXCLUSIVE, true);
	coupon_pending_push(job->end != NULL ? coupon_apply_end : coupon_apply_admit, line,
						job->number, job->child, coupon_room_hash_user(row.user_id));
	LWLockRelease(line->lock);
	return true;
}

/* Does what was planned, in that order; returns how many tickets were changed. */
static int
carry_out(int64 room_id, Round *round, bool wait_for_tables)
{
	const CouponCatalog *catalog = coupon_catalog();
	CouponTableWriter *rows[COUPON_QUEUE_CHILDREN] = {NULL};
	int			done = 0;

	CommandCounterIncrement();
	for (int i = 0; i < round->njobs; i++)
	{
		Job		   *job = &round->jobs[i];
		uint32		child = job->child;

		CHECK_FOR_INTERRUPTS();
		if (job->end == NULL && round->admitted == round->slots)
			continue;
		if (rows[child] == NULL)
		{
			/* a worker waits for no table: somebody may be dropping it */
			if (!wait_for_tables && !ConditionalLockRelationOid(catalog->tickets[child], RowExclusiveLock))
				break;
			rows[child] = coupon_writer_open(catalog->tickets[child], COUPON_UPDATE);
		}
		if (do_job(room_id, rows[child], job))
		{
			done++;
			round->admitted += job->end == NULL;
		}
	}
	for (int child = 0; child < COUPON_QUEUE_CHILDREN; child++)
	{
		if (rows[child] != NULL)
			coupon_writer_close(rows[child]);
	}
	return done;
}

typedef enum Outcome
{
	SERVED_ALL,
	SERVED_SOME,				/* there may be more to do at once */
	SERVE_ALONE					/* in a transaction that has done nothing yet */
} Outcome;

/* One room, claimed. */
static Outcome
serve_room(int64 room_id, bool wait_for_tables, int64 *served)
{
	Round	   *round = palloc0(sizeof(Round));
	TimestampTz now = GetCurrentTimestamp();
	CouponLine *line = coupon_room_lock(room_id, LW_EXCLUSIVE, true);
	bool		fits;
	int			done;

	if (line == NULL)
		return SERVED_ALL;
	/* sessions in flight are none: who admits has the claim */
	fits = coupon_room_reserve(line, BATCH);
	plan_expiry(line, round, now);
	plan_sweep(line, round, now);
	if (fits)
		plan_admission(line, round, now);
	LWLockRelease(line->lock);
	/*
	 * Without memory for sessions those who are silent leave all the same, and
	 * free some.  What may fail must not undo what was done for other rooms.
	 */
	if (!fits && round->njobs == 0)
	{
		if (*served == 0)
			coupon_line_out_of_memory();
		return SERVED_ALL;
	}
	if (round->draw && *served > 0)
		return SERVE_ALONE;

	if (round->draw)
	{
		coupon_room_draw_lots(room_id);
		return SERVED_SOME;
	}
	if (round->njobs == 0)
		return SERVED_ALL;
	done = carry_out(room_id, round, wait_for_tables);
	*served += done;
	if (round->admitted > 0)
	{
		line = coupon_line_lock(&coupon_tickets, room_id, LW_EXCLUSIVE, true);
		line->room.allowance -= round->admitted;
		LWLockRelease(line->lock);
	}
	/* ends free slots, at commit */
	return done > 0 && (round->more || done > round->admitted) ? SERVED_SOME : SERVED_ALL;
}

bool
coupon_room_serve_some(bool wait_for_tables, int64 *served, bool *active)
{
	static int	next = 0;
	CouponQueue *queue = coupon_queue(&coupon_tickets);
	bool		more = false;

	*active = false;
	for (int i = 0; i < coupon_line_slots() && *served < BATCH; i++)
	{
		int			n = next++ % coupon_line_slots();
		CouponLine *line = coupon_line_lock_nth(queue, n, LW_SHARED);
		Outcome		outcome;
		int64		id;
		bool		has_tickets;

		if (next >= coupon_line_slots())
			next = 0;
		if (line == NULL)
			continue;
		id = line->id;
		has_tickets = line->ready > 0 || line->room.nadmitted > 0;
		LWLockRelease(line->lock);
		if (!has_tickets)
			continue;
		*active = true;
		if (!claim(id))
			continue;
		outcome = serve_room(id, wait_for_tables, served);
		if (outcome == SERVE_ALONE)
		{
			next = n;
			return true;
		}
		more |= outcome == SERVED_SOME;
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
	bool		active;

	PreventCommandIfReadOnly("coupon_queue_serve()");
	PreventCommandDuringRecovery("coupon_queue_serve()");
	(void) coupon_room_serve_some(true, &served, &active);
	PG_RETURN_INT64(served);
}
