/*
 * database.c
 *	  The databases that have workers, and how a session wakes a worker.
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

typedef struct Shared
{
	LWLock	   *lock;			/* guards who has which place */
	CouponDatabase databases[COUPON_MAX_DATABASES];
} Shared;

static Shared *shared = NULL;
static CouponDatabase *mine = NULL;
static uint32 wake_mask = 0;	/* kinds to wake at commit */

static void
request(void)
{
	RequestAddinShmemSpace(sizeof(Shared));
	RequestNamedLWLockTranche("coupon_databases", 1);
}

static void
startup(void)
{
	bool		found;

	shared = coupon_shmem_struct("coupon databases", sizeof(Shared), &found);
	if (found)
		return;
	shared->lock = &GetNamedLWLockTranche("coupon_databases")->lock;
	for (int i = 0; i < COUPON_MAX_DATABASES; i++)
	{
		for (int id = 0; id < COUPON_WORKER_IDS; id++)
		{
			for (int w = 0; w < COUPON_MAX_INSTANCES; w++)
				pg_atomic_init_u32(&shared->databases[i].workers[id][w].woken, 0);
		}
	}
}

const CouponModule coupon_database_module = {
	.request = request,
	.startup = startup
};

static CouponDatabase *
find(Oid oid)
{
	for (int i = 0; i < COUPON_MAX_DATABASES; i++)
	{
		if (shared->databases[i].oid == oid)
			return &shared->databases[i];
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

int
coupon_database_place(void)
{
	CouponDatabase *database = coupon_database();

	return database == NULL ? -1 : database - shared->databases;
}

int
coupon_count_workers(CouponWorkerId id)
{
	CouponDatabase *database = coupon_database();
	int			count = 0;

	for (int i = 0; database != NULL && i < COUPON_MAX_INSTANCES; i++)
		count += database->workers[id][i].latch != NULL;
	return count;
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
	CouponDatabase *database;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	database = find(MyDatabaseId);
	if (database == NULL)
		database = find(InvalidOid);
	for (int i = 0; database == NULL && i < COUPON_MAX_DATABASES; i++)
	{
		if (!has_workers(&shared->databases[i]))
			database = &shared->databases[i];
	}
	if (database != NULL && database->oid != MyDatabaseId)
	{
		for (const CouponModule *const *module = coupon_modules; *module; module++)
		{
			if ((*module)->new_database)
				(*module)->new_database(database - shared->databases);
		}
		database->oid = MyDatabaseId;
	}
	if (database != NULL)
		database->workers[id][instance].latch = MyLatch;
	LWLockRelease(shared->lock);

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
