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
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/database.h"
#include "base/shmem.h"

typedef struct Shared
{
	LWLock	   *lock;			/* databases_lock: who has which place */
	CouponDatabase databases[COUPON_MAX_DATABASES];
} Shared;

static Shared *shared = NULL;
static CouponDatabase *mine = NULL;
static uint32 wake_mask = 0;	/* kinds to wake at commit */

static void
request(void)
{
	RequestNamedLWLockTranche("coupon_databases", 1);
}

static void
set_up(void)
{
	shared->lock = &GetNamedLWLockTranche("coupon_databases")->lock;
	for (int i = 0; i < COUPON_MAX_DATABASES; i++)
	{
		for (int id = 0; id < COUPON_WORKER_IDS; id++)
		{
			for (int w = 0; w < COUPON_MAX_INSTANCES; w++)
			{
				CouponWorkerSlot *slot = &shared->databases[i].workers[id][w];

				pg_atomic_init_u32(&slot->woken, 0);
				pg_atomic_init_u64(&slot->started_at, 0);
				pg_atomic_init_u64(&slot->starts, 0);
				pg_atomic_init_u64(&slot->errors, 0);
				pg_atomic_init_u64(&slot->wakes, 0);
				pg_atomic_init_u64(&slot->cycles, 0);
			}
		}
	}
}

static void
clear_counters(CouponDatabase *database)
{
	for (int id = 0; database != NULL && id < COUPON_WORKER_IDS; id++)
	{
		for (int i = 0; i < COUPON_MAX_INSTANCES; i++)
		{
			CouponWorkerSlot *slot = &database->workers[id][i];

			pg_atomic_write_u64(&slot->starts, 0);
			pg_atomic_write_u64(&slot->errors, 0);
			pg_atomic_write_u64(&slot->wakes, 0);
			pg_atomic_write_u64(&slot->cycles, 0);
		}
	}
}

static void
reset_statistics(void)
{
	clear_counters(coupon_database());
}

/* A place is given away: nobody works there. */
static void
new_database(int place)
{
	CouponDatabase *database = &shared->databases[place];

	clear_counters(database);
	for (int id = 0; id < COUPON_WORKER_IDS; id++)
	{
		for (int i = 0; i < COUPON_MAX_INSTANCES; i++)
			pg_atomic_write_u64(&database->workers[id][i].started_at, 0);
	}
}

const CouponModule coupon_database_module = {
	.name = "coupon databases",
	.size = sizeof(Shared),
	.memory = (void **) &shared,
	.set_up = set_up,
	.request = request,
	.new_database = new_database,
	.reset_statistics = reset_statistics
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

CouponDatabase *
coupon_database_at(int place)
{
	return &shared->databases[place];
}

static bool
has_workers(CouponDatabase *database)
{
	for (int id = 0; id < COUPON_WORKER_IDS; id++)
	{
		for (int i = 0; i < COUPON_MAX_INSTANCES; i++)
		{
			if (database->workers[id][i].pid != 0)
				return true;
		}
	}
	return false;
}

/* A place that is neither wanted nor in use is given to that database. */
static bool
give_place(Oid oid, bool *wanted)
{
	for (int place = 0; place < COUPON_MAX_DATABASES; place++)
	{
		CouponDatabase *database = &shared->databases[place];

		if (wanted[place] || has_workers(database))
			continue;
		for (const CouponModule *const *module = coupon_modules; *module; module++)
		{
			if ((*module)->new_database)
				(*module)->new_database(place);
		}
		database->oid = oid;
		wanted[place] = true;
		return true;
	}
	return false;
}

bool
coupon_database_assign(const Oid *oids, int n, bool *wanted)
{
	bool		enough = true;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < n; i++)
	{
		CouponDatabase *database = find(oids[i]);

		if (database != NULL)
			wanted[database - shared->databases] = true;
	}
	for (int i = 0; i < n; i++)
		enough = (find(oids[i]) != NULL || give_place(oids[i], wanted)) && enough;
	for (int place = 0; place < COUPON_MAX_DATABASES; place++)
		shared->databases[place].wanted = wanted[place];
	LWLockRelease(shared->lock);
	return enough;
}

CouponWorkerSlot *
coupon_database_claim(int place, CouponWorkerId id, int instance)
{
	CouponDatabase *database = &shared->databases[place];
	CouponWorkerSlot *slot = &database->workers[id][instance];

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	if (database->oid != MyDatabaseId || slot->pid != 0)
		slot = NULL;
	else
	{
		slot->pid = MyProcPid;
		slot->latch = MyLatch;
		pg_atomic_write_u64(&slot->started_at, GetCurrentTimestamp());
		pg_atomic_fetch_add_u64(&slot->starts, 1);
	}
	LWLockRelease(shared->lock);
	return slot;
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
			pg_atomic_fetch_add_u64(&worker->wakes, 1);
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
		wake_mask = 0;			/* who commits a prepared one wakes nobody:
								 * they look by themselves */
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
