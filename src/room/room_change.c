/*
 * room_change.c
 *	  What the end of a transaction makes of the tickets that it changed.
 *
 * The changes come in whatever order the transactions end: that a ticket has
 * ended wins, and it is forgotten when it is known both to be committed and to
 * have ended.
 */
#include "postgres.h"

#include "base/database.h"
#include "room/room.h"
#include "room/room_change.h"

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

/* Whoever joined is there; NULL: nobody is, after an abort. */
static CouponTicket *
end_join(CouponPending *change, bool committed)
{
	CouponLine *line = change->line;
	CouponTicket *ticket = coupon_room_ticket(line, change->number);

	line->uncommitted--;
	if (committed)
	{
		ticket->flags |= TICKET_READY;
		return ticket;
	}
	coupon_line_clear(line, coupon_room_place(line, change->number));
	pg_atomic_fetch_sub_u32(&line->queue->open[change->child], 1);
	ticket->flags = 0;
	coupon_line_drop(line, change->number);
	return NULL;
}

bool
coupon_apply_join(CouponPending *change, bool committed)
{
	CouponLine *line = change->line;
	CouponTicket *ticket = end_join(change, committed);

	if (ticket == NULL)
		return false;
	if (coupon_line_is_live(line, coupon_room_place(line, change->number)))
		coupon_room_set_ready(line, change->number);
	settle(line, ticket, change->number);

	/*
	 * behind others, in a full room, one waits for what wakes the worker
	 * anyway
	 */
	if (line->ready == 1 || coupon_room_free_slots(line) > 0 || coupon_room_is_stale(line))
		coupon_wake(COUPON_ROOM_WORKER);
	return false;
}

bool
coupon_apply_join_admitted(CouponPending *change, bool committed)
{
	CouponLine *line = change->line;
	CouponTicket *ticket = end_join(change, committed);

	if (ticket == NULL)
		return false;
	if (!(ticket->flags & TICKET_ENDED))
	{
		coupon_room_begin_session(line, ticket, change->number, change->extra, ticket->admitted);
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
	CouponTicket *ticket = coupon_room_ticket(line, change->number);
	TimestampTz now;

	/* it may have ended, and be forgotten, before we came to note this */
	if (!committed || ticket == NULL || (ticket->flags & TICKET_ENDED) ||
		!(ticket->flags & TICKET_USED))
		return false;
	now = GetCurrentTimestamp();
	coupon_line_clear(line, coupon_room_place(line, change->number));
	coupon_room_begin_session(line, ticket, change->number, change->extra, coupon_room_clock(now));
	coupon_line_count_served(line, now);
	return false;
}

bool
coupon_apply_end(CouponPending *change, bool committed)
{
	CouponLine *line = change->line;
	CouponTicket *ticket = coupon_room_ticket(line, change->number);

	if (!committed || ticket == NULL || !(ticket->flags & TICKET_USED) ||
		(ticket->flags & TICKET_ENDED))
		return false;
	ticket->flags |= TICKET_ENDED;
	if (ticket->flags & TICKET_ADMITTED)
		coupon_room_end_session(line, change->extra, change->number);
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
	line->blocks[ROOM_PLACES] = change->extra;
	coupon_room(line)->placed = change->number;
	for (int64 number = 1; number <= change->number; number++)
	{
		CouponTicket *ticket = coupon_room_ticket(line, number);

		if (ticket == NULL || !(ticket->flags & TICKET_USED) ||
			(ticket->flags & (TICKET_ADMITTED | TICKET_ENDED)))
			continue;
		coupon_line_set_live(line, coupon_room_place(line, number));
		if (ticket->flags & TICKET_READY)
			coupon_room_set_ready(line, number);
	}
	coupon_wake(COUPON_ROOM_WORKER);
	return false;
}
