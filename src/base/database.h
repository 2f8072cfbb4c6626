/*
 * database.h
 *	  The databases that have workers, and waking these.
 */
#ifndef COUPON_DATABASE_H
#define COUPON_DATABASE_H

#include "port/atomics.h"
#include "storage/latch.h"

#include "base/shmem.h"

#define COUPON_MAX_DATABASES	64	/* with workers at the same time */
#define COUPON_MAX_INSTANCES	8	/* of one kind of worker in a database */

/* The kinds of workers: who has work for one need not know who does it. */
typedef enum CouponWorkerId
{
	COUPON_SWEEPER,
	COUPON_ISSUER,
	COUPON_ROOM_WORKER,
	COUPON_GROUP,
	COUPON_PUBLISHER,
	COUPON_WORKER_IDS			/* how many there are */
} CouponWorkerId;

/* A worker, as those see it who have work for it. */
typedef struct CouponWorkerSlot
{
	Latch	   *latch;			/* set and cleared by the worker; NULL: none runs */
	pg_atomic_uint32 woken;		/* 1: latch was set, the worker has not looked yet */
} CouponWorkerSlot;

typedef struct CouponDatabase
{
	Oid			oid;			/* databases_lock to write; InvalidOid: free */
	CouponWorkerSlot workers[COUPON_WORKER_IDS][COUPON_MAX_INSTANCES];
} CouponDatabase;

/*
 * This database's entry, NULL if no worker ever claimed one.  Never throws.
 * The entry of a database without workers may pass to another one.
 */
extern CouponDatabase *coupon_database(void);

/*
 * The number of that entry, under COUPON_MAX_DATABASES, for what a module
 * keeps for each database; -1 if there is none.  Never throws.
 */
extern int	coupon_database_place(void);

/* How many workers of that kind run here.  Never throws. */
extern int	coupon_count_workers(CouponWorkerId id);

/*
 * For a worker: its place in the entry, which is made if there is none, with
 * its latch; ERROR if there are too many.
 */
extern CouponWorkerSlot *coupon_database_claim(CouponWorkerId id, int instance);

/* Wakes a worker of that kind, now or when this transaction commits. */
extern void coupon_wake(CouponWorkerId id);
extern void coupon_wake_at_commit(CouponWorkerId id);

extern const CouponModule coupon_database_module;

#endif							/* COUPON_DATABASE_H */
