/*
 * reader.h
 *	  Reading the outbox in order, removing what is delivered, parking what
 *	  cannot go, and keeping it small.
 *
 * For the one publisher of a database.  A batch is what one snapshot shows,
 * in the order of the event ids; the next batch is for the caller to collect
 * when the last one has been seen to.
 */
#ifndef COUPON_OUTBOX_READER_H
#define COUPON_OUTBOX_READER_H

#include "nodes/pg_list.h"
#include "storage/itemptr.h"
#include "utils/uuid.h"

/* An event of a batch. */
typedef struct CouponOutboxEntry
{
	uint64		tick;			/* the time part of its id: the order */
	ItemPointerData tid;
	uint8		table;
	uint8		state:2;		/* the caller's, 0 at first */
	uint8		tries:5;		/* the same */
	uint8		kept:1;			/* see coupon_outbox_keep */
} CouponOutboxEntry;

/* An event as it is stored, in the database's encoding. */
typedef struct CouponEvent
{
	pg_uuid_t	id;
	const char *topic;
	const char *key;
	const char *type;
	const char *payload;
	const char *trace;			/* or NULL */
} CouponEvent;

/* What the next batch is to do with an event, by its topic and its tick. */
typedef enum CouponChoice
{
	COUPON_TAKE,				/* it belongs to the batch */
	COUPON_LEAVE,				/* it stays, for a later batch to look at */
	COUPON_PARK					/* it goes to coupon.outbox_parked, at once or
								 * soon */
} CouponChoice;

/* The parked events of a topic, as far as batches have had them. */
typedef struct CouponParked
{
	const char *topic;
	uint64		from;			/* those below that tick */
	bool		some;			/* there may be more */
} CouponParked;

typedef struct CouponBatch
{
	CouponOutboxEntry *entries; /* the reader's, until the next batch */
	int			n;
	int			nkept;			/* of them, so many are kept ones */
	bool		cut;			/* there are more, new ones or parked ones */
	bool		too_large;		/* so many that the newest had to go, parked
								 * ones among them */
	bool		left;			/* some stay for a later batch */
} CouponBatch;

/*
 * Opens and closes the tables, in each transaction that uses what follows.
 */
extern void coupon_outbox_open(void);
extern void coupon_outbox_close(void);

/*
 * Collects a batch: first of the topics in parked, a list of CouponParked that
 * are brought up to date, some of the parked events, then new events, as
 * choose says.  All of it is in the server's durable WAL when this returns.
 */
extern void coupon_outbox_collect(CouponBatch *batch, List *parked,
								  CouponChoice (*choose) (const char *topic, uint64 tick));

/* An event of the batch stays, for a later batch to look at. */
extern void coupon_outbox_leave(const CouponOutboxEntry *entry);

/*
 * An event of the batch has been delivered, and somebody has locked its row:
 * the next batch has it again, to remove it.
 */
extern void coupon_outbox_keep(const CouponOutboxEntry *entry);

/*
 * The transaction that collected was rolled back: the next batch looks at
 * everything.
 */
extern void coupon_outbox_forget(void);

/* Reads an event, into memory of the current context; false if it is gone. */
extern bool coupon_outbox_fetch(const CouponOutboxEntry *entry, CouponEvent *event);

/*
 * Removes an event that has been delivered.  False: somebody has locked the
 * row, as coupon_user_erase() does; try again.
 */
extern bool coupon_outbox_remove(const CouponOutboxEntry *entry);

/*
 * Truncates tables that are drained and moves the appending on to an empty
 * one when the current one has grown.  Waits for nobody.
 */
extern void coupon_outbox_rotate(void);

/*
 * What is committed and not yet removed, and the tick of the oldest (0: none).
 * It reads all rows; if it need not be exact, at most 16 MB of pages, evenly
 * spread over the tables, by which it estimates.
 */
extern int64 coupon_outbox_count(bool exact, uint64 *oldest);

/* The size of the tables on disk, in bytes. */
extern int64 coupon_outbox_size(void);

#endif							/* COUPON_OUTBOX_READER_H */
