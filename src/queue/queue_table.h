/*
 * queue_table.h
 *	  A queue's two tables, which take turns.
 *
 * A queue has two child tables.  Rows go to one; each is inserted once and
 * changed a few times.  When all rows of the other are final and were kept
 * long enough it is truncated, and takes its turn.
 */
#ifndef COUPON_QUEUE_TABLE_H
#define COUPON_QUEUE_TABLE_H

#include "base/table_writer.h"
#include "queue/line.h"

/* Opens the child where rows of the queue go now, for insertions; sets its number. */
extern CouponTableWriter *coupon_queue_table_open(CouponQueue *queue, const Oid *children,
												  uint32 *child);

/*
 * Empties the child that is out of use, and changes over to it, when it is
 * time; never waits.  In a transaction of its own.
 */
extern void coupon_queue_table_rotate(CouponQueue *queue, const Oid *children,
							   int final_column, int keep_ms);

#endif							/* COUPON_QUEUE_TABLE_H */
