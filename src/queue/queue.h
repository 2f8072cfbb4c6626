/*
 * queue.h
 *	  Queues: which lines there are, and how they are made from the tables.
 *
 * A queue is one kind of line in one database: the requests, or the tickets.
 * Its lines have ids, those of the campaigns or rooms.
 *
 * The tables are the truth.  A queue is built from them on first use after a
 * start, and can be forgotten and built again whenever no transaction is at
 * it.  Between, every change is noted when it commits or aborts (pending.h).
 */
#ifndef COUPON_QUEUE_H
#define COUPON_QUEUE_H

#include "executor/tuptable.h"
#include "port/atomics.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "base/locks.h"
#include "base/shmem.h"
#include "queue/line.h"

typedef struct CouponQueue
{
	Oid			database;		/* registry lock; InvalidOid: free */
	Oid			table;			/* registry lock; the children's parent */
	pg_atomic_uint32 built;		/* 1: lines hold what the tables hold */
	pg_atomic_uint32 child;		/* where rows are written now */
	pg_atomic_uint64 since;		/* time at which that began */
	pg_atomic_uint32 open[COUPON_QUEUE_CHILDREN];	/* rows that may change
													 * yet */
	pg_atomic_uint64 finished[COUPON_QUEUE_CHILDREN];	/* when the last row
														 * became final */
} CouponQueue;

/* A row that is not final, as a building session finds it.  A kind adds to it. */
typedef struct CouponFound
{
	int64		id;
	int64		number;
	uint32		child;
} CouponFound;

/* Which kind: an index into what each session and database has of every kind. */
typedef enum CouponQueueId
{
	COUPON_REQUESTS,
	COUPON_TICKETS,
	COUPON_QUEUE_IDS			/* how many there are */
} CouponQueueId;

/* What a kind of queue is, and what its owner does for it. */
typedef struct CouponQueueKind
{
	CouponQueueId number;
	CouponLockKind lock;		/* of who builds */
	CouponLockKind user_lock;	/* of who enters: one call of a user at a time */
	int			final_column;	/* NULL in rows that are not final */
	uint32		entry_size;		/* of what a line remembers of an entry, or 0 */
	Size		found_size;		/* of a CouponFound with what the kind adds */

	/*
	 * Where the catalog has the tables: the parent, the children, their
	 * indexes by id and user.
	 */
	size_t		table;
	size_t		children;
	size_t		user_keys;

	/* The highest number of a line in the tables, 0: none. */
	int64		(*last_number) (int64 id);

	/* Of a row that is not final, all but the child. */
	void		(*read) (TupleTableSlot *slot, CouponFound *found);

	/*
	 * The line to restore into, locked: coupon_queue_lock_building, with
	 * whatever else a line of the kind needs.
	 */
	CouponLine *(*lock_building) (CouponQueue *queue, int64 id);

	/* Restores an entry; false without memory. */
	bool		(*restore) (CouponLine *line, const CouponFound *found);
} CouponQueueKind;

static inline const Oid *
coupon_queue_oids(size_t place)
{
	return (const Oid *) ((const char *) coupon_catalog() + place);
}

extern const CouponModule coupon_queue_module;

/* The queue of this database, built. */
extern CouponQueue *coupon_queue(const CouponQueueKind *kind);

/*
 * A line, locked; NULL if there is none and it is not to be made.  ERROR if
 * there is no room for one more.
 */
extern CouponLine *coupon_queue_lock(const CouponQueueKind *kind, int64 id, LWLockMode mode,
									 bool make);

/* The same for a kind's lock_building(), exclusively. */
extern CouponLine *coupon_queue_lock_building(const CouponQueueKind *kind, CouponQueue *queue,
											  int64 id);

/* For a walk over the lines of a queue: the n-th slot, locked if it is one. */
extern CouponLine *coupon_queue_lock_nth(CouponQueue *queue, int n, LWLockMode mode);
extern int	coupon_queue_slots(void);

/* For whoever only looks: this database's queue, NULL if nobody has built it yet. */
extern CouponQueue *coupon_queue_known(const CouponQueueKind *kind);

/* Of all databases: lines that somebody is in, of so many; entries refused for want of room. */
extern int	coupon_queue_lines_in_use(void);
extern uint64 coupon_queue_refused(void);

typedef enum CouponEntering
{
	COUPON_ENTERED,
	COUPON_NO_MEMORY,
	COUPON_NO_LINE				/* the role has too many uncommitted ones */
} CouponEntering;

/*
 * coupon_line_enter, for sessions.  What does not enter is refused by an
 * ERROR when the lock is released.
 */
extern CouponEntering coupon_queue_enter(CouponLine *line, int64 *number);
pg_noreturn extern void coupon_queue_refuse(CouponEntering why);

#endif							/* COUPON_QUEUE_H */
