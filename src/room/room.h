/*
 * room.h
 *	  Waiting rooms: what shared memory knows of them and of their tickets.
 */
#ifndef COUPON_ROOM_H
#define COUPON_ROOM_H

#include "queue/queue.h"

#define COUPON_ROOM_MAX_DAYS	7	/* of a session, and of a ticket's silence */
#define COUPON_ROOM_MAX_RATE	1000000.0	/* admitted a second */
#define COUPON_SEED_LENGTH		32

typedef enum CouponRoomMethod
{
	COUPON_ROOM_FIFO,
	COUPON_ROOM_RANDOM,			/* who came before the opening is put in a
								 * random order */
	COUPON_ROOM_PASSTHROUGH,	/* everybody is admitted at once */
	COUPON_ROOM_REJECT			/* nobody may join */
} CouponRoomMethod;

/* A row of coupon.room. */
typedef struct CouponRoomDefinition
{
	bool		exists;
	bool		paused;
	CouponRoomMethod method;
	int32		capacity;
	int64		session_ttl;	/* microseconds */
	int64		idle_ttl;
	double		per_second;		/* 0: as fast as slots are free */
	TimestampTz opens_at;		/* DT_NOBEGIN: open */
	int64		drawn;			/* tickets up to this one drew lots; -1: not
								 * yet */
} CouponRoomDefinition;

/* What a room knows beside its line: the state of the line. */
typedef struct CouponRoom
{
	uint64		version;		/* of the definition, 0: never read */
	CouponRoomDefinition def;

	bool		has_lots;		/* the next two are set, see room_worker.c */
	uint8		seed[COUPON_SEED_LENGTH];
	int64		lots;			/* tickets up to this one draw lots */
	int64		placed;			/* tickets up to this one have a place by lot */

	uint32		nadmitted;		/* sessions, those in flight not counted */
	uint32		buckets;		/* of the table of sessions, a power of 2 or 0 */

	TimestampTz next_expiry;	/* no session ends before */
	TimestampTz next_idle;		/* nobody who waits is silent for too long
								 * before */
	TimestampTz swept_idle;		/* the same of those that this sweep has
								 * looked at */
	int64		swept;			/* ticket up to which it has; 0: there is none */
	TimestampTz retry_at;		/* somebody was passed by */
	double		allowance;		/* admissions that the rate allows now */
	TimestampTz allowance_at;
} CouponRoom;

/* Memory that goes with the line. */
#define ROOM_SESSIONS		0	/* users who are admitted, by hash */
#define ROOM_PLACES			1	/* of ticket 1..placed, then the reverse */

StaticAssertDecl(sizeof(CouponRoom) <= COUPON_LINE_STATE, "a room does not fit into a line");

static inline CouponRoom *
coupon_room(CouponLine *line)
{
	return (CouponRoom *) line->state;
}

/* What a line remembers of a ticket. */
typedef struct CouponTicket
{
	uint8		secret[16];
	uint32		seen;			/* last sign of life, see coupon_room_clock */
	uint32		admitted;		/* when admitted; 0: not yet */
	uint8		flags;
	uint8		child;			/* the table that has its row */
} CouponTicket;

#define TICKET_USED			1	/* the number was given, and its row not
								 * rolled back */
#define TICKET_READY		2	/* its row is committed */
#define TICKET_ADMITTED		4	/* committed, too */
#define TICKET_ENDED		8	/* committed, too; wins over the others */

extern const CouponQueueKind coupon_tickets;

/* The way in of coupon_queue_join(). */
extern struct CouponWay coupon_way_join;

extern const CouponModule coupon_room_module;

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

/* ---- under the line's lock ---- */

/* Is the definition to be read again? */
extern bool coupon_room_is_stale(CouponLine *line);

/* Time for tickets: tenths of a second since some days before the server's start, from 1. */
extern uint32 coupon_room_clock(TimestampTz time);
extern TimestampTz coupon_room_time(uint32 clock);

extern int64 coupon_room_place(CouponLine *line, int64 number);
extern int64 coupon_room_number(CouponLine *line, int64 place);

static inline CouponTicket *
coupon_room_ticket(CouponLine *line, int64 number)
{
	return (CouponTicket *) coupon_line_entry(line, number);
}

/* A ticket that waits is committed. */
extern void coupon_room_set_ready(CouponLine *line, int64 number);

/* The time at which a ticket's session, or its place, is lost. */
extern TimestampTz coupon_ticket_deadline(CouponLine *line, const CouponTicket *ticket);

/* Is the ticket neither ended nor over? */
extern bool coupon_ticket_is_alive(CouponLine *line, const CouponTicket *ticket, TimestampTz now);

/* How many more the room holds, whatever the rate. */
extern int64 coupon_room_free_slots(CouponLine *line);

/* Room in the table of sessions for so many more; false without memory. */
extern bool coupon_room_reserve(CouponLine *line, int n);

/* In reserved room; hash: of the user. */
extern void coupon_room_begin_session(CouponLine *line, CouponTicket *ticket, int64 number,
									  uint64 hash, uint32 clock);
extern void coupon_room_end_session(CouponLine *line, uint64 hash, int64 number);

/* For a walk over the sessions: the n-th bucket's ticket, 0 if it is empty. */
extern int64 coupon_room_session(CouponLine *line, uint32 bucket);

extern uint64 coupon_room_hash_user(text *user_id);

/* Is the ticket of that number the session of that user? */
extern bool coupon_room_is_session_of(CouponLine *line, int64 number, text *user_id);

#endif							/* COUPON_ROOM_H */
