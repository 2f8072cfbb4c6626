/*
 * table_support.h
 *	  What a table of ours may have, and what is refused.
 */
#ifndef COUPON_TABLE_SUPPORT_H
#define COUPON_TABLE_SUPPORT_H

#include "base/catalog.h"
#include "base/compat.h"

/* What is done to a table. */
#define COUPON_INSERT	1
#define COUPON_UPDATE	2
#define COUPON_DELETE	4

/* ERROR: what is not supported on the table. */
pg_noreturn extern void coupon_table_refuse(Relation rel, const char *what, const char *detail, const char *hint);

/* ERROR if the table has what every operation would pass over. */
extern void coupon_table_refuse_parts(Relation rel, const CouponTable *table);

/* ERROR if something fires for one of the operations. */
extern void coupon_table_refuse_fired(Relation rel, const CouponTable *table, int operations);

#endif							/* COUPON_TABLE_SUPPORT_H */
