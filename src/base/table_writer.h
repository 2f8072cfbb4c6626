/*
 * table_writer.h
 *	  The one place that writes tables below the executor.
 */
#ifndef COUPON_TABLE_WRITER_H
#define COUPON_TABLE_WRITER_H

#include "executor/tuptable.h"
#include "storage/itemptr.h"
#include "utils/relcache.h"

#include "base/table_support.h"

struct BulkInsertStateData;

typedef struct CouponTableWriter CouponTableWriter;

/* What became of a change of a row. */
typedef enum CouponRowChange
{
	COUPON_ROW_CHANGED,
	COUPON_ROW_LOCKED,			/* another transaction is at it; not waited
								 * for */
	COUPON_ROW_STALE			/* it is another version now, or gone: look
								 * again */
} CouponRowChange;

/*
 * Opens a table of ours and locks it until the transaction ends; ERROR if it
 * has parts that the operations would pass over.  Close it in the same
 * subtransaction; after an ERROR there is nothing to close.
 */
extern CouponTableWriter *coupon_writer_open(Oid table, int operations);
extern void coupon_writer_close(CouponTableWriter *writer);

/* ERROR if a row is being written in this session, and a function of others called us. */
extern void coupon_writer_refuse_nested(void);

/* For another operation than those it was opened for; ERROR as above. */
extern void coupon_writer_allow(CouponTableWriter *writer, int operations);

extern Relation coupon_writer_relation(const CouponTableWriter *writer);

/* One of the table's indexes, open; ERROR without it. */
extern Relation coupon_writer_index(const CouponTableWriter *writer, Oid index);

/* The row to write, every column null; of those that we know set tts_values and tts_isnull. */
extern TupleTableSlot *coupon_writer_row(CouponTableWriter *writer);

/* More such rows, for insert_many; they go with the caller's memory context. */
extern TupleTableSlot *coupon_writer_new_row(const CouponTableWriter *writer);

/* Inserts the row; a conflict is an ERROR. */
extern void coupon_writer_insert(CouponTableWriter *writer);

/*
 * The same, but a conflict in one of the table's keys (CouponTable) is an
 * answer: returns the number of the first such key, or -1 for an inserted row.
 * Of a row in conflict nothing is left, but others may learn that only when
 * the transaction ends.
 */
extern int	coupon_writer_insert_unless(CouponTableWriter *writer);

/*
 * The same for many rows (coupon_writer_new_row), which enter the index on the
 * last key in their order, up to the first that is in conflict.  The table gets
 * them together, and the other indexes before that one, in the order of the
 * numbers: rows that are neighbours there are soon found and split pages well.
 * Returns how many are inserted, *key for the next one, which is withdrawn like
 * all behind it.  The caller's memory context takes a copy of each row.
 */
extern int	coupon_writer_insert_many_unless(CouponTableWriter *writer, TupleTableSlot **rows, int n,
											 const int *numbers, int *key);

/*
 * Does that pay, and does no row of many wait for another transaction, as in an
 * index that somebody added it may?
 */
extern bool coupon_writer_takes_many(const CouponTableWriter *writer);

extern void coupon_writer_insert_many(CouponTableWriter *writer, TupleTableSlot **rows, int n,
									  struct BulkInsertStateData *bulk);

/*
 * Replaces the row at tid by the writer's, which has the same keys, or deletes
 * it.  Waits for whoever is at it only with wait.
 */
extern CouponRowChange coupon_writer_update(CouponTableWriter *writer, ItemPointer tid, bool wait);
extern CouponRowChange coupon_writer_delete(CouponTableWriter *writer, ItemPointer tid, bool wait);

#endif							/* COUPON_TABLE_WRITER_H */
