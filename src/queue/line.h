/*
 * line.h
 *	  A line: who waits, in which order.
 *
 * An entry of a line has a number, 1, 2, 3, ... in the order of arrival, given
 * when its transaction writes its row; aborted ones leave a number that nobody
 * has.  It stands at a place, which is its number unless the kind of line says
 * otherwise, is live there while it waits, and ready when it is committed.
 *
 * Knows nothing of what is waited for.  Which lines there are, queue.h says;
 * everything here is called with the line's lock.
 */
#ifndef COUPON_LINE_H
#define COUPON_LINE_H

#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "utils/dsa.h"
#include "utils/timestamp.h"

#define COUPON_LINE_STATE	256 /* bytes */
#define COUPON_LINE_BLOCKS	2

/*
 * Everything is under its lock, changes in exclusive mode.  A slot is given to
 * another line only while nobody is in the line and no change is pending, and
 * under the registry lock.
 */
typedef struct CouponLine
{
	LWLock	   *lock;			/* constant */
	struct CouponQueue *queue;	/* NULL: the slot is free */
	int64		id;				/* of the campaign or the room */
	bool		closing;		/* about to be forgotten: find it anew */
	int64		next;			/* number of the next entry */
	uint32		live;			/* entries that wait, those in flight included */
	uint32		ready;			/* entries that wait and are committed */
	uint32		kept;			/* entries whose memory is needed */
	uint32		uncommitted;	/* of these, those of running transactions */
	uint32		pending;		/* changes by running transactions */
	Oid			entered_by;		/* the session's role that entered last */
	int64		cursor;			/* where to look for the next; before it are
								 * postponed ones */
	TimestampTz resume_at;		/* nothing to be done here before */
	uint32		failures;		/* to decide it, one after another */
	TimestampTz passed_at;		/* when the first that was passed by was; 0:
								 * nobody */
	int64		first_chunk;
	int64		nchunks;
	uint32		capacity;		/* of the directory, a power of 2 or 0 */
	uint32		entry_size;		/* of what is remembered of an entry, or 0 */
	dsa_pointer directory;
	uint64		served;			/* since the line is known */
	uint64		rate_base;		/* served, when the present second began */
	TimestampTz rate_since;
	double		rate;			/* served a second, of the last busy second */
	ConditionVariable changed;	/* somebody was served */

	/* of the kind's own: zero in a new line, and memory that goes with it */
	uint64		state[COUPON_LINE_STATE / sizeof(uint64)];
	dsa_pointer blocks[COUPON_LINE_BLOCKS];
} CouponLine;

/* Where lines have their memory: set when a session attaches. */
extern dsa_area *coupon_queue_area;
extern dsa_pointer coupon_line_allocate(Size size); /* invalid: no memory */

/* A slot becomes a line that is empty; or what hangs on it is freed. */
extern void coupon_line_init(CouponLine *line, struct CouponQueue *queue, int64 id,
							 int64 next, uint32 entry_size);
extern void coupon_line_free(CouponLine *line);

/* Nobody is in it, and no transaction at it: it can be made anew at any time. */
extern bool coupon_line_is_idle(const CouponLine *line);

/*
 * Gives the next number, live and uncommitted; false if there is no memory.
 * The caller has reserved a pending change and notes it at once.
 */
extern bool coupon_line_enter(CouponLine *line, int64 *number);

/* An entry for a row found in the tables, numbers ascending; false without memory. */
extern bool coupon_line_restore(CouponLine *line, int64 number);

/* The memory of an entry is no longer needed. */
extern void coupon_line_drop(CouponLine *line, int64 number);

/* What is remembered of an entry; NULL: nothing any more. */
extern void *coupon_line_entry(CouponLine *line, int64 number);

/* Memory for all places up to one, to be kept as long as the line is known. */
extern bool coupon_line_hold(CouponLine *line, int64 place);

extern bool coupon_line_is_live(CouponLine *line, int64 place);
extern void coupon_line_set_live(CouponLine *line, int64 place);
extern void coupon_line_set_ready(CouponLine *line, int64 place);
extern void coupon_line_clear(CouponLine *line, int64 place);	/* neither live nor
																 * ready */

/* How many are before this place and live. */
extern int64 coupon_line_ahead(CouponLine *line, int64 place);

/* The first ready places from one on; returns how many, at most max. */
extern int	coupon_line_find_ready(CouponLine *line, int64 from, int64 *places, int max);

extern void coupon_line_count_served(CouponLine *line, TimestampTz now);

#endif							/* COUPON_LINE_H */
