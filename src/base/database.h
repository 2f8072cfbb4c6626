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
	COUPON_TRANSFER,
	COUPON_WORKER_IDS			/* how many there are */
} CouponWorkerId;

/* A worker: set and cleared by itself. */
typedef struct CouponWorkerSlot
{
	pid_t		pid;			/* databases_lock to set; 0: none runs */
	Latch	   *latch;			/* NULL: nobody need wake it */
	pg_atomic_uint32 woken;		/* 1: latch was set, the worker has not looked
								 * yet */

	/* statistics */
	pg_atomic_uint64 started_at;	/* a TimestampTz; 0: never */
	pg_atomic_uint64 starts;
	pg_atomic_uint64 errors;	/* cycles that an ERROR ended */
	pg_atomic_uint64 wakes;		/* by whoever has work */
	pg_atomic_uint64 cycles;	/* transactions */
} CouponWorkerSlot;

typedef struct CouponDatabase
{
	Oid			oid;			/* databases_lock, written by the launcher;
								 * InvalidOid: free */
	bool		wanted;			/* written by the launcher: coupon.databases
								 * names it */
	CouponWorkerSlot workers[COUPON_WORKER_IDS][COUPON_MAX_INSTANCES];
} CouponDatabase;

/*
 * This database's entry, NULL if it never had workers.  Never throws.
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
 * For the launcher: gives places to databases.  wanted tells of each place
 * whether it is to be kept; free ones are given to those of the n databases
 * that have none.  False if there are too few.
 */
extern bool coupon_database_assign(const Oid *oids, int n, bool *wanted);

/* The entry at a place. */
extern CouponDatabase *coupon_database_at(int place);

/*
 * For a worker: its slot at a place, made its own; NULL if the place is
 * another database's by now, or another process has the slot.
 */
extern CouponWorkerSlot *coupon_database_claim(int place, CouponWorkerId id, int instance);

/* Wakes a worker of that kind, now or when this transaction commits. */
extern void coupon_wake(CouponWorkerId id);
extern void coupon_wake_at_commit(CouponWorkerId id);

extern const CouponModule coupon_database_module;

#endif							/* COUPON_DATABASE_H */
