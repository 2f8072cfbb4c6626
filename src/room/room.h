/*
 * room.h
 *	  Waiting rooms: their tickets, in the tables and in shared memory.
 */
#ifndef COUPON_ROOM_H
#define COUPON_ROOM_H

#include "access/htup.h"
#include "executor/tuptable.h"
#include "utils/uuid.h"

#include "queue/line.h"
#include "queue/queue_table.h"

typedef enum CouponRoomMethod
{
	COUPON_ROOM_FIFO,
	COUPON_ROOM_RANDOM,			/* who came before the opening is put in a random order */
	COUPON_ROOM_PASSTHROUGH,	/* everybody is admitted at once */
	COUPON_ROOM_REJECT			/* nobody may join */
} CouponRoomMethod;

#define COUPON_ROOM_MAX_DAYS	7	/* of a session, and of a ticket's silence */
#define COUPON_ROOM_MAX_RATE	1000000.0	/* admitted a second */

/* Flags of a CouponTicket. */
#define TICKET_USED			1	/* the number was given, and its row not rolled back */
#define TICKET_READY		2	/* its row is committed */
#define TICKET_ADMITTED		4	/* committed, too */
#define TICKET_ENDED		8	/* committed, too; wins over the others */

/* A row of coupon.ticket. */
typedef struct CouponTicketRow
{
	int64		room_id;
	int64		number;
	pg_uuid_t	secret;
	TimestampTz joined_at;
	TimestampTz admitted_at;	/* 0: not yet */
	TimestampTz ended_at;		/* 0: not yet */
	text	   *user_id;
	text	   *reason;			/* NULL: not ended */
	ItemPointerData tid;
	uint32		child;
} CouponTicketRow;

extern const CouponQueueKind coupon_tickets;

/*
 * Has the room a live session of the user (a text)?  Counts as a sign of
 * life.  What a campaign that requires a room asks before it gives a unit.
 */
extern bool coupon_room_admits(int64 room_id, Datum user_id);

/*
 * The line of a room, locked, with its definition; with fresh the definition
 * as of now.  NULL if there is no such room.
 */
extern CouponLine *coupon_room_lock(int64 room_id, LWLockMode mode, bool fresh);

/* ---- rows ---- */

extern void coupon_ticket_read(TupleTableSlot *slot, uint32 child, CouponTicketRow *row);
extern bool coupon_ticket_find(int64 room_id, int64 number, uint32 child, CouponTicketRow *row);
extern CouponRowChange coupon_ticket_update(CouponTableWriter *rows, CouponTicketRow *row, bool wait);
extern void coupon_ticket_fill(TupleTableSlot *slot, const CouponTicketRow *row);

/* ---- under the line's lock ---- */

extern int64 coupon_room_place(CouponLine *line, int64 number);
extern int64 coupon_room_number(CouponLine *line, int64 place);

/* The time at which a ticket's session, or its place, is lost. */
extern TimestampTz coupon_ticket_deadline(CouponLine *line, const CouponTicket *ticket);

/* Is the ticket neither ended nor over? */
extern bool coupon_ticket_is_alive(CouponLine *line, const CouponTicket *ticket, TimestampTz now);

/* Room in the table of sessions for so many more; false without memory. */
extern bool coupon_room_reserve(CouponLine *line, int n);

/* For a walk over the sessions: the n-th bucket's ticket, 0 if it is empty. */
extern int64 coupon_room_session(CouponLine *line, uint32 bucket);

extern uint64 coupon_room_hash_user(text *user_id);

/* Is the ticket of that number the session of that user?  Under the lock. */
extern bool coupon_room_is_session_of(CouponLine *line, int64 number, text *user_id);

/* Changes; extra is the user's hash. */
extern bool coupon_apply_join(CouponPending *change, bool committed);
extern bool coupon_apply_join_admitted(CouponPending *change, bool committed);
extern bool coupon_apply_admit(CouponPending *change, bool committed);
extern bool coupon_apply_end(CouponPending *change, bool committed);
extern bool coupon_apply_draw(CouponPending *change, bool committed);

/* ---- room_serve.c ---- */

/*
 * Admits and ends what is to be in one room that needs it; returns whether
 * there may be more to do at once.  *active: some room has tickets.
 */
extern bool coupon_room_serve_some(bool wait_for_tables, int64 *served, bool *active);

/* room_worker.c */
extern const struct CouponWorkerKind coupon_room_worker;

#endif							/* COUPON_ROOM_H */
