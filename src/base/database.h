/*
 * database.h
 *	  What the sessions and the workers of one database share.
 */
#ifndef COUPON_DATABASE_H
#define COUPON_DATABASE_H

#include "port/atomics.h"
#include "storage/latch.h"

#include "kafka/publisher_status.h"

#define COUPON_MAX_DATABASES	64	/* with workers at the same time */
#define COUPON_MAX_INSTANCES	8	/* of one kind of worker in a database */

/* The kinds of workers; worker.c has a CouponWorkerKind for each. */
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

/* Grouped calls that wait for a worker, see group.c. */
typedef struct CouponGroup
{
	pg_atomic_uint32 newest;	/* the call that came last: number + 1, 0: none */
	pg_atomic_uint32 asleep;	/* a bit for each worker that is to be woken */

	/* statistics, since the server started */
	pg_atomic_uint64 batches;
	pg_atomic_uint64 calls;
	pg_atomic_uint64 largest;	/* most calls of a batch */
	pg_atomic_uint64 commit_us; /* that all commits together took */
	pg_atomic_uint64 repeated;	/* batches that an ERROR took apart */
} CouponGroup;

typedef struct CouponDatabase
{
	Oid			oid;			/* databases_lock to write; InvalidOid: free */
	pg_atomic_uint32 outbox_child;	/* set by the publisher, see outbox.c */
	CouponWorkerSlot workers[COUPON_WORKER_IDS][COUPON_MAX_INSTANCES];
	CouponGroup group;
	CouponPublisherStatus publisher;
} CouponDatabase;

/*
 * This database's entry, NULL if no worker ever claimed one.  Never throws.
 * The entry of a database without workers may pass to another one.
 */
extern CouponDatabase *coupon_database(void);

/*
 * For a worker: its place in the entry, which is made if there is none, with
 * its latch; ERROR if there are too many.
 */
extern CouponWorkerSlot *coupon_database_claim(CouponWorkerId id, int instance);

/* Wakes a worker of that kind, now or when this transaction commits. */
extern void coupon_wake(CouponWorkerId id);
extern void coupon_wake_at_commit(CouponWorkerId id);

#endif							/* COUPON_DATABASE_H */
