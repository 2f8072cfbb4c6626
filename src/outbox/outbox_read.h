/*
 * outbox_read.h
 *	  Reading the outbox in order, removing what is delivered, and keeping it
 *	  small.
 *
 * For the one publisher of a database.  A batch is what one snapshot shows,
 * in the order of the event ids; the next batch is for the caller to collect
 * when the last one has been seen to.
 */
#ifndef COUPON_OUTBOX_READ_H
#define COUPON_OUTBOX_READ_H

#include "storage/itemptr.h"
#include "utils/uuid.h"

/* An event of a batch. */
typedef struct CouponOutboxEntry
{
	uint64		tick;			/* the time part of its id: the order */
	ItemPointerData tid;
	uint8		child;
	uint8		state;			/* the caller's, 0 at first */
} CouponOutboxEntry;

/* An event as it is stored, in the database's encoding. */
typedef struct CouponEvent
{
	pg_uuid_t	id;
	const char *topic;
	const char *key;
	const char *type;
	const char *payload;
} CouponEvent;

/*
 * Opens and closes the tables, in each transaction that uses what follows.
 */
extern void coupon_outbox_open(void);
extern void coupon_outbox_close(void);

/*
 * Collects a batch in an array that is palloc'd once and reused; returns how
 * many there are.  Events of topics that are to be left alone stay where they
 * are.  All of it is in the server's durable WAL when this returns.
 */
extern int	coupon_outbox_collect(CouponOutboxEntry **batch, bool (*leave) (const char *topic));

/*
 * Forgets which pages hold nothing new: the next batch looks at all of them.
 * To be called when events were left that are wanted now.
 */
extern void coupon_outbox_forget(void);

/* Reads an event, into memory of the current context; false if it is gone. */
extern bool coupon_outbox_fetch(const CouponOutboxEntry *entry, CouponEvent *event);

/*
 * Removes an event that has been delivered.  False: somebody (a superuser,
 * nobody else can) has locked the row; try again.
 */
extern bool coupon_outbox_remove(const CouponOutboxEntry *entry);

/*
 * Truncates tables that are drained and moves the appending on to an empty
 * one when the current one has grown.  Waits for nobody.
 */
extern void coupon_outbox_rotate(void);

/* What is committed and not yet removed, and the tick of the oldest (0: none). */
extern int64 coupon_outbox_count(uint64 *oldest);

/* The size of the tables on disk, in bytes. */
extern int64 coupon_outbox_size(void);

#endif							/* COUPON_OUTBOX_READ_H */
