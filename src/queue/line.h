/*
 * line.h
 *	  Lines of people in shared memory: who waits, in which order.
 *
 * A queue is one kind of line in one database: the requests, or the tickets.
 * Its lines have ids, those of the campaigns or rooms.  An entry of a line
 * has a number, 1, 2, 3, ... in the order of arrival, given when its
 * transaction writes its row; aborted ones leave a number that nobody has.
 *
 * The tables are the truth.  A queue is built from them on first use after a
 * start, and can be forgotten and built again whenever no transaction is at
 * it.  Between, every change is noted here when it commits (or aborts).
 *
 * Knows nothing of what is waited for.
 */
#ifndef COUPON_LINE_H
#define COUPON_LINE_H

#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "utils/dsa.h"
#include "utils/timestamp.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "base/shmem.h"
#include "base/locks.h"

typedef struct CouponQueue
{
	Oid			database;		/* registry lock; InvalidOid: free */
	Oid			table;			/* registry lock; the children's parent */
	pg_atomic_uint32 built;		/* 1: lines hold what the tables hold */
	pg_atomic_uint32 child;		/* where rows are written now */
	pg_atomic_uint64 since;		/* time at which that began */
	pg_atomic_uint32 open[COUPON_QUEUE_CHILDREN];	/* rows that may change yet */
	pg_atomic_uint64 finished[COUPON_QUEUE_CHILDREN];	/* when the last row became final */
} CouponQueue;

#define COUPON_SEED_LENGTH	32

/* What a room knows beside its line; room_map.h has the functions. */
typedef struct CouponRoomState
{
	uint64		wanted_version; /* of the definition; moves when it changes */
	uint64		version;		/* of what follows */
	int32		capacity;
	int32		method;
	bool		paused;
	bool		exists;
	int64		session_ttl;	/* microseconds */
	int64		idle_ttl;
	double		per_second;		/* 0: as fast as slots are free */
	TimestampTz opens_at;		/* DT_NOBEGIN: open */
	bool		is_drawn;		/* the lots, if it draws lots */
	bool		has_lots;		/* the next two are set, see room_draw.c */
	uint8		seed[COUPON_SEED_LENGTH];
	int64		lots;			/* tickets up to this one draw lots */
	int64		drawn;			/* tickets up to this one were put in a random order */
	uint32		nadmitted;		/* sessions, those in flight not counted */
	uint32		buckets;		/* of the table below, a power of 2 or 0 */
	dsa_pointer admitted;		/* users who are admitted, by hash */
	dsa_pointer place_of;		/* of ticket 1..drawn, then the reverse */
	TimestampTz next_expiry;	/* no session ends before */
	int64		swept;			/* ticket up to which the idle were looked for */
	double		allowance;		/* admissions that the rate allows now */
	TimestampTz allowance_at;
} CouponRoomState;

/*
 * A line.  Everything is under its lock, changes in exclusive mode.  A slot
 * is given to another line only with pending = 0 and under the registry lock.
 */
typedef struct CouponLine
{
	LWLock	   *lock;			/* constant */
	CouponQueue *queue;			/* NULL: the slot is free */
	int64		id;
	bool		closing;		/* about to be forgotten: find it anew */
	int64		next;			/* number of the next entry */
	uint32		live;			/* entries that wait, those in flight included */
	uint32		ready;			/* entries that wait and are committed */
	uint32		kept;			/* entries whose memory is needed */
	uint32		pending;		/* changes by running transactions */
	int64		cursor;			/* where to look for the next; before it are postponed ones */
	TimestampTz resume_at;		/* nothing to be done here before */
	TimestampTz passed_at;		/* when the first that was passed by was; 0: nobody */
	int64		first_chunk;
	int64		nchunks;
	uint32		capacity;		/* of the directory, a power of 2 or 0 */
	dsa_pointer directory;
	uint64		served;			/* since the line is known */
	uint64		rate_base;		/* served, when the present second began */
	TimestampTz rate_since;
	double		rate;			/* served a second, of the last busy second */
	ConditionVariable changed;	/* somebody was served */
	CouponRoomState room;
} CouponLine;

/* A kind of queue: what its owner does for it. */
typedef struct CouponQueueKind
{
	Oid			(*table) (void);	/* the parent table here */
	void		(*build) (CouponQueue *queue);	/* restores every entry that is not final */
	int64		(*last_number) (int64 id);	/* the highest number in the tables, 0: none */
	bool		has_tickets;	/* entries have a CouponTicket */
	CouponLockKind lock;		/* of who builds */
} CouponQueueKind;

/* What is remembered of a ticket. */
typedef struct CouponTicket
{
	uint8		secret[16];
	uint32		seen;			/* last sign of life, see coupon_line_clock */
	uint32		admitted;		/* when admitted; 0: not yet */
	uint8		flags;			/* room_map.h */
	uint8		child;			/* the table that has its row */
} CouponTicket;

extern const CouponModule coupon_line_module;

/* The queue of this database, built. */
extern CouponQueue *coupon_queue(const CouponQueueKind *kind);

/*
 * A line, locked; NULL if there is none and it is not to be made.  ERROR if
 * there is no room for one more.
 */
extern CouponLine *coupon_line_lock(const CouponQueueKind *kind, int64 id,
									LWLockMode mode, bool make);

/* For a kind's build(): the line, made if need be, locked. */
extern CouponLine *coupon_line_lock_building(const CouponQueueKind *kind, CouponQueue *queue,
											 int64 id);

/* For a walk over the lines of a queue: the n-th slot, locked if it is one. */
extern CouponLine *coupon_line_lock_nth(CouponQueue *queue, int n, LWLockMode mode);
extern int	coupon_line_slots(void);

/* ---- under the lock ---- */

/*
 * Gives the next number, live and in flight; false if there is no memory.
 * The caller has reserved a pending change and notes it at once.
 */
extern bool coupon_line_enter(CouponLine *line, bool has_ticket, int64 *number);

/* The same for a row found in the tables, numbers ascending. */
extern bool coupon_line_restore(CouponLine *line, bool has_ticket, int64 number);

extern bool coupon_line_is_live(CouponLine *line, int64 place);
extern bool coupon_line_is_ready(CouponLine *line, int64 place);
extern void coupon_line_set_live(CouponLine *line, int64 place);
extern void coupon_line_set_ready(CouponLine *line, int64 place);
extern void coupon_line_clear(CouponLine *line, int64 place);	/* neither live nor ready */

/* The memory of an entry is no longer needed. */
extern void coupon_line_drop(CouponLine *line, int64 number);

/* Memory for all places up to one, to be kept as long as the line is known. */
extern bool coupon_line_hold(CouponLine *line, int64 place);

/* How many are before this place and live. */
extern int64 coupon_line_ahead(CouponLine *line, int64 place);

/* The first ready places from one on; returns how many, at most max. */
extern int	coupon_line_find_ready(CouponLine *line, int64 from, int64 *places, int max);

extern CouponTicket *coupon_line_ticket(CouponLine *line, int64 number);
extern void coupon_line_count_served(CouponLine *line, TimestampTz now);

/* ERROR: coupon.queue_memory is too small. */
pg_noreturn extern void coupon_line_out_of_memory(void);

extern dsa_area *coupon_queue_area;
extern dsa_pointer coupon_line_allocate(Size size);	/* invalid: no memory */

/* A secret of this server's run. */
extern uint64 coupon_line_seed(void);

/* Time for tickets: tenths of a second since some days before the server's start, from 1. */
extern uint32 coupon_line_clock(TimestampTz time);
extern TimestampTz coupon_line_time(uint32 clock);

/* ---- changes that a transaction owes ---- */

/*
 * Applied when the (sub)transaction ends, under the line's lock; must not
 * throw.  At commit all changes are applied in the order in which they were
 * noted, those to one line in one go.  True: wake who waits for a change.
 */
typedef struct CouponPending CouponPending;
typedef bool (*CouponApply) (CouponPending *change, bool committed);

struct CouponPending
{
	CouponApply apply;
	CouponLine *line;
	int64		number;
	uint64		extra;			/* of the change's own */
	uint32		child;			/* the table that has the row */
};

/* Makes room for n changes; may throw. */
extern void coupon_pending_reserve(int n);

/* Notes a change in reserved room, under the line's lock.  Never throws. */
extern void coupon_pending_push(CouponApply apply, CouponLine *line, int64 number,
								uint32 child, uint64 extra);

#endif							/* COUPON_LINE_H */
