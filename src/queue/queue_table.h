/*
 * queue_table.h
 *	  The rows of a queue's tables: written below the executor, emptied in turn.
 *
 * A queue has two child tables.  Rows go to one; each is inserted once and
 * changed a few times.  When all rows of the other are final and were kept
 * long enough it is truncated, and takes its turn.
 */
#ifndef COUPON_QUEUE_TABLE_H
#define COUPON_QUEUE_TABLE_H

#include "executor/tuptable.h"
#include "utils/relcache.h"

#include "queue/line.h"

typedef struct CouponQueueTable CouponQueueTable;

typedef enum CouponRowUpdate
{
	COUPON_ROW_UPDATED,
	COUPON_ROW_LOCKED,			/* a running transaction has changed it; not waited for */
	COUPON_ROW_STALE			/* changed meanwhile: look again */
} CouponRowUpdate;

/* Opens a child table for writing; ERROR if it has foreign parts. */
extern CouponQueueTable *coupon_queue_table_open(Oid table, int natts);

/* The same for the child where rows of the queue go now; sets its number. */
extern CouponQueueTable *coupon_queue_table_open_current(CouponQueue *queue, const Oid *children,
											int natts, uint32 *child);
extern void coupon_queue_table_close(CouponQueueTable *rows);

/* An empty row to be filled; ready to be stored as a virtual tuple. */
extern TupleTableSlot *coupon_queue_table_slot(CouponQueueTable *rows);

extern void coupon_queue_table_insert(CouponQueueTable *rows);

/* Replaces the row at tid by the slot's, which has the same keys. */
extern CouponRowUpdate coupon_queue_table_update(CouponQueueTable *rows, ItemPointer tid, bool wait);

/*
 * Empties the child that is out of use, and changes over to it, when it is
 * time; never waits.  In a transaction of its own.
 */
extern void coupon_queue_table_rotate(CouponQueue *queue, const Oid *children,
							   int final_column, int keep_ms);

#endif							/* COUPON_QUEUE_TABLE_H */
