/*
 * missing_workers.h
 *	  Databases that should have workers, and whoever leaves work to nobody.
 */
#ifndef COUPON_MISSING_WORKERS_H
#define COUPON_MISSING_WORKERS_H

#include "nodes/pg_list.h"

#include "base/database.h"

/* The names in coupon.databases, in the caller's memory. */
extern List *coupon_listed_databases(void);

/* Is this database among them?  In a transaction. */
extern bool coupon_database_is_listed(void);

/*
 * Once a session: a WARNING if nobody here does the work of that kind, which
 * the caller is about to leave behind.  In a transaction.
 */
extern void coupon_warn_of_missing(CouponWorkerId id);

#endif							/* COUPON_MISSING_WORKERS_H */
