/*
 * queue_table.h
 *	  A queue's two tables, which take turns.
 *
 * Each row is inserted once and changed a few times.
 */
#ifndef COUPON_QUEUE_TABLE_H
#define COUPON_QUEUE_TABLE_H

#include "base/table_writer.h"
#include "base/spi.h"
#include "queue/queue.h"

/* Opens the child where rows of the queue go now, for insertions; sets its number. */
extern CouponTableWriter *coupon_queue_table_open(const CouponQueueKind *kind, CouponQueue *queue,
												  uint32 *child);

/*
 * Looks after the tables, if it is time; to be called again and again by one
 * worker, in a transaction that has done nothing else.  Never waits.  True if
 * the transaction is to end now, so that a change counts and no lock stays.
 */
extern bool coupon_queue_table_rotate(const CouponQueueKind *kind);

/* How long a queue's worker may wait that has nothing else to do before due, in ms. */
extern int	coupon_queue_table_wait_ms(const CouponQueueKind *kind, TimestampTz due);

/*
 * Executes a statement that changes rows of queues, of which shared memory need
 * not learn; returns how many.
 */
extern uint64 coupon_queue_table_execute(CouponStatement *statement, int expected, Datum *values);

#endif							/* COUPON_QUEUE_TABLE_H */
