/*
 * database.c
 *	  What the sessions and the workers of one database share, and how a
 *	  session wakes a worker.
 *
 * Waking: the first who has work sets woken and the latch; until the worker
 * has cleared woken, which it does before it looks for work, nobody else need
 * set the latch.  A worker's latch is that of its PGPROC, which stays valid
 * when the worker is gone; setting it then wakes somebody for nothing.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"

#include "base/compat.h"
#include "base/database.h"
#include "base/shmem.h"

static CouponDatabase *mine = NULL;
static uint32 wake_mask = 0;	/* kinds to wake at commit */

static CouponDatabase *
find(Oid oid)
{
	for (int i = 0; i < COUPON_MAX_DATABASES; i++)
	{
		if (coupon_shared->databases[i].oid == oid)
			return &coupon_shared->databases[i];
	}
	return NULL;
}

CouponDatabase *
coupon_database(void)
{
	if (mine == NULL || mine->oid != MyDatabaseId)
		mine = find(MyDatabaseId);
	return mine;
}

static bool
has_workers(CouponDatabase *database)
{
	for (int id = 0; id < COUPON_WORKER_IDS; id++)
	{
		for (int i = 0; i < COUPON_MAX_INSTANCES; i++)
		{
			if (database->workers[id][i].latch != NULL)
				return true;
		}
	}
	return false;
}

CouponWorkerSlot *
coupon_database_claim(CouponWorkerId id, int instance)
{
	LWLock	   *lock = coupon_databases_lock();
	CouponDatabase *database;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	database = find(MyDatabaseId);
	if (database == NULL)
		database = find(InvalidOid);
	for (int i = 0; database == NULL && i < COUPON_MAX_DATABASES; i++)
	{
		if (!has_workers(&coupon_shared->databases[i]))
			database = &coupon_shared->databases[i];
	}
	if (database != NULL && database->oid != MyDatabaseId)
	{
		pg_atomic_write_u32(&database->outbox_child, 0);
		pg_atomic_write_u64(&database->group.batches, 0);
		pg_atomic_write_u64(&database->group.calls, 0);
		pg_atomic_write_u64(&database->group.largest, 0);
		pg_atomic_write_u64(&database->group.commit_us, 0);
		pg_atomic_write_u64(&database->group.repeated, 0);
		memset(&database->publisher, 0, sizeof(CouponPublisherStatus));
		SpinLockInit(&database->publisher.mutex);
		database->oid = MyDatabaseId;
	}
	if (database != NULL)
		database->workers[id][instance].latch = MyLatch;
	LWLockRelease(lock);

	if (database == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("coupon.databases names too many databases"),
				 errdetail("At most %d can have workers.", COUPON_MAX_DATABASES),
				 errhint("Take some off the list.")));
	mine = database;
	return &database->workers[id][instance];
}

void
coupon_wake(CouponWorkerId id)
{
	CouponDatabase *database = coupon_database();

	if (database == NULL)
		return;
	for (int i = 0; i < COUPON_MAX_INSTANCES; i++)
	{
		CouponWorkerSlot *worker = &database->workers[id][i];
		Latch	   *latch = worker->latch;

		if (latch != NULL && pg_atomic_exchange_u32(&worker->woken, 1) == 0)
		{
			SetLatch(latch);
			return;
		}
	}
}

/* Never allocates, never throws. */
static void
xact_callback(XactEvent event, void *arg)
{
	uint32		mask = wake_mask;

	if (mask == 0)
		return;
	if (event == XACT_EVENT_COMMIT)
	{
		wake_mask = 0;
		for (int id = 0; id < COUPON_WORKER_IDS; id++)
		{
			if (mask & (1U << id))
				coupon_wake(id);
		}
	}
	else if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		wake_mask = 0;			/* who commits a prepared one wakes nobody: they look by themselves */
}

void
coupon_wake_at_commit(CouponWorkerId id)
{
	static bool registered = false;

	if (!registered)
	{
		RegisterXactCallback(xact_callback, NULL);
		registered = true;
	}
	wake_mask |= 1U << id;
}
