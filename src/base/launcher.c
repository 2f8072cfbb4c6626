/*
 * launcher.c
 *	  The launcher: for each database in coupon.databases, workers of each kind.
 *
 * It is connected to no database.  Once a second it compares the settings
 * with shared memory (database.h), where each worker has a slot as long as it
 * runs, starts what is missing and stops what is no longer wanted.  So a
 * launcher that comes after another one knows all workers, whoever started
 * them.
 */
#include "postgres.h"

#include <signal.h>

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/compat.h"
#include "base/guc.h"
#include "base/launcher.h"
#include "base/missing_workers.h"

#define LAUNCHER_INTERVAL_MS	1000
#define RESTART_DELAY_MS		2000	/* of a worker that stopped */
#define MISSING_MS				10000	/* until a database that is not there
										 * is complained of */
#define INVALID_DATABASE		(-2)	/* datconnlimit after a DROP DATABASE
										 * that was interrupted */

extern PGDLLEXPORT void coupon_launcher_main(Datum arg);

/* What this launcher knows beyond the slot of a worker. */
typedef struct Launched
{
	BackgroundWorkerHandle *handle; /* of one that it has started, or NULL */
	TimestampTz stopped_at;		/* 0: it did not stop */
} Launched;

static Launched launched[COUPON_MAX_DATABASES][COUPON_WORKER_IDS][COUPON_MAX_INSTANCES];

void
coupon_launcher_register(const CouponWorkerKind *const *kinds)
{
	BackgroundWorker worker = {0};

	coupon_worker_kinds = kinds;
	if (IsBinaryUpgrade)
		return;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_library_name, "coupon", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "coupon_launcher_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "coupon launcher", sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "coupon launcher", sizeof(worker.bgw_type));
	RegisterBackgroundWorker(&worker);
}

/* Starts a worker; without a free background worker slot, says so. */
static void
start_worker(Launched *l, const CouponWorkerOrder *order, const char *database)
{
	static bool complained = false;
	const char *kind = coupon_worker_kinds[order->kind]->name;
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	memcpy(worker.bgw_extra, order, sizeof(CouponWorkerOrder));
	strlcpy(worker.bgw_library_name, "coupon", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "coupon_worker_main", sizeof(worker.bgw_function_name));
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "%s %s", kind, database);
	strlcpy(worker.bgw_type, kind, sizeof(worker.bgw_type));

	if (RegisterDynamicBackgroundWorker(&worker, &l->handle))
		complained = false;
	else if (!complained)
	{
		complained = true;
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker slot for \"%s\"", worker.bgw_name),
				 errhint("Raise max_worker_processes, and restart the server; coupon_health() says how many are needed.")));
	}
}

/* Starts the worker unless it runs, is about to, or stopped a moment ago. */
static void
see_to(const CouponWorkerOrder *order, const char *database)
{
	Launched   *l = &launched[order->place][order->kind][order->instance];
	TimestampTz now = GetCurrentTimestamp();
	pid_t		pid;

	if (coupon_database_at(order->place)->workers[order->kind][order->instance].pid != 0)
		return;
	if (l->handle != NULL)
	{
		if (GetBackgroundWorkerPid(l->handle, &pid) != BGWH_STOPPED)
			return;
		pfree(l->handle);
		l->handle = NULL;
		l->stopped_at = now;
	}
	if (l->stopped_at == 0 || coupon_ms_since(l->stopped_at, now) >= RESTART_DELAY_MS)
		start_worker(l, order, database);
}

/*
 * The OID of a database, InvalidOid if there is none.  A process without a
 * database cannot use system indexes, hence the scan.
 */
static Oid
find_database(const char *name)
{
	Relation	rel = table_open(DatabaseRelationId, AccessShareLock);
	TableScanDesc scan = table_beginscan_catalog(rel, 0, NULL);
	HeapTuple	tuple;
	Oid			oid = InvalidOid;

	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (strcmp(NameStr(form->datname), name) == 0 && form->datallowconn &&
			form->datconnlimit != INVALID_DATABASE)
			oid = form->oid;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	return oid;
}

/* A database of the setting that is not there, and since when. */
typedef struct Missing
{
	char		name[NAMEDATALEN];
	TimestampTz since;
	bool		told;
} Missing;

static Missing missing[COUPON_MAX_DATABASES];
static int	nmissing = 0;

/*
 * This one is not there.  It may be about to be created, so it is complained
 * of after a while, once.  The first kept of the list were seen in this look.
 */
static void
note_missing(const char *name, int *kept)
{
	TimestampTz now = GetCurrentTimestamp();
	Missing		one = {.since = now};
	int			i = *kept;

	if (*kept == COUPON_MAX_DATABASES)
		return;
	strlcpy(one.name, name, sizeof(one.name));
	while (i < nmissing && strcmp(missing[i].name, one.name) != 0)
		i++;
	if (i < nmissing)
		one = missing[i];
	else if (nmissing < COUPON_MAX_DATABASES)
		nmissing++;
	else
		i--;
	missing[i] = missing[*kept];
	if (!one.told && TimestampDifferenceExceeds(one.since, now, MISSING_MS))
	{
		one.told = true;
		ereport(WARNING,
				(errcode(ERRCODE_UNDEFINED_DATABASE),
				 errmsg("database \"%s\" of coupon.databases does not exist, or takes no connections", name),
				 errhint("Create it, or correct coupon.databases: a database that it does not name has no workers.")));
	}
	missing[(*kept)++] = one;
}

/*
 * The databases of the setting that exist: their OIDs and names; how many.
 * In the transaction's memory.
 */
static int
list_databases(Oid **oids, const char ***names)
{
	List	   *list = coupon_listed_databases();
	ListCell   *cell;
	int			n = 0;
	int			kept = 0;

	*oids = palloc((list_length(list) + 1) * sizeof(Oid));
	*names = palloc((list_length(list) + 1) * sizeof(char *));
	foreach(cell, list)
	{
		(*names)[n] = lfirst(cell);
		(*oids)[n] = find_database((*names)[n]);
		if (OidIsValid((*oids)[n]))
			n++;
		else
			note_missing((*names)[n], &kept);
	}
	nmissing = kept;
	return n;
}

/* Gives places to the databases; those in use that are not wanted lose theirs. */
static void
assign(const Oid *oids, int n, bool *wanted)
{
	static bool complained = false;

	if (coupon_database_assign(oids, n, wanted))
		complained = false;
	else if (!complained)
	{
		complained = true;
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("coupon.databases names too many databases"),
				 errdetail("At most %d can have workers.", COUPON_MAX_DATABASES),
				 errhint("Take some off the list.")));
	}
}

static int
instances(int kind)
{
	return coupon_worker_kinds[kind]->instances ? coupon_worker_kinds[kind]->instances() : 1;
}

/* What runs at a place and is not wanted there. */
static void
stop_others(int place, bool wanted)
{
	CouponDatabase *database = coupon_database_at(place);

	for (int kind = 0; kind < COUPON_WORKER_IDS; kind++)
	{
		for (int i = wanted ? instances(kind) : 0; i < COUPON_MAX_INSTANCES; i++)
		{
			pid_t		pid = database->workers[kind][i].pid;

			if (pid != 0)
				kill(pid, SIGTERM);
			launched[place][kind][i].stopped_at = 0;
		}
	}
}

/* Compares what runs with the settings. */
static void
launch(void)
{
	bool		wanted[COUPON_MAX_DATABASES] = {0};
	Oid		   *oids;
	const char **names;
	int			n;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	n = list_databases(&oids, &names);
	assign(oids, n, wanted);

	/* handles of workers outlive the transaction */
	MemoryContextSwitchTo(TopMemoryContext);
	for (int place = 0; place < COUPON_MAX_DATABASES; place++)
	{
		CouponWorkerOrder order = {coupon_database_at(place)->oid, place};

		stop_others(place, wanted[place]);
		for (int i = 0; i < n; i++)
		{
			if (!wanted[place] || oids[i] != order.database)
				continue;
			for (order.kind = 0; order.kind < COUPON_WORKER_IDS; order.kind++)
			{
				for (order.instance = 0; order.instance < instances(order.kind); order.instance++)
					see_to(&order, names[i]);
			}
			break;
		}
	}
	CommitTransactionCommand();
}

void
coupon_launcher_main(Datum arg)
{
	coupon_worker_set_up_signals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	pgstat_report_appname("coupon launcher");

	while (!coupon_worker_heed_signals())
	{
		launch();
		pgstat_report_activity(STATE_IDLE, NULL);
		coupon_worker_wait(LAUNCHER_INTERVAL_MS);
	}
	CHECK_FOR_INTERRUPTS();
	proc_exit(0);
}
