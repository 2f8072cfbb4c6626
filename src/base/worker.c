/*
 * worker.c
 *	  Background workers: the launcher, and what all kinds of workers share.
 *
 *	  launcher -- for each database in coupon.databases --> workers of each kind
 *
 *	  worker:  start -> connect -> claim -> [ cycle -> wait ]* -> exit
 *						   |         |         |
 *						   |         |         +- error: report, abort, back off
 *						   |         +- another one holds the claim: exit
 *						   +- no such database: exit, the launcher looks again
 *
 * The launcher is connected to no database; it starts what is missing once a
 * second and stops what is no longer wanted.  A worker makes sure by a session
 * lock that it is the only one of its kind (and number) in its database, so a restarted
 * launcher need not know what its predecessor started.
 *
 * A worker must not be in the way of DDL.  It holds no snapshot and no lock
 * while it waits, locks the extension's tables only if they are free, and
 * leaves when somebody waits to drop, rename or copy its database.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_database.h"
#include "commands/extension.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "base/compat.h"
#include "base/guc.h"
#include "base/locks.h"
#include "base/shmem.h"
#include "base/worker.h"

#define LAUNCHER_INTERVAL_MS	1000
#define RESTART_DELAY_MS		2000	/* of a worker that stopped */
#define BACK_OFF_MS				1000	/* after an error in a cycle */
#define LOCKED_MS				50		/* while DDL has the extension's tables, in the end */
#define HOUSEKEEPING_MS			500 /* longest time without a look around */

static const CouponWorkerKind *const *kinds = NULL;

extern PGDLLEXPORT void coupon_launcher_main(Datum arg);
extern PGDLLEXPORT void coupon_worker_main(Datum arg);

/* What a worker is. */
static const CouponWorkerKind *my_kind = NULL;
static int	my_instance = 0;
static CouponWorkerSlot *my_slot = NULL;

static void say_farewell(void);

static void
leave(void)
{
	say_farewell();
	proc_exit(0);
}

/* Whatever came in by signal. */
static void
look_around(void)
{
	if (ProcDiePending)
		say_farewell();
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		if (my_kind != NULL && my_kind->reload != NULL)
			my_kind->reload();
	}
}

static void
wait_ms(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	look_around();
}

static void
set_up_signals(void)
{
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	/* one that came while this process was starting may have been ignored */
	ConfigReloadPending = true;
}

/* ---- launcher ---- */

/* A worker that the launcher has started. */
typedef struct Started
{
	char		database[NAMEDATALEN];
	int			kind;
	int			instance;
	BackgroundWorkerHandle *handle;
	TimestampTz stopped_at;		/* 0: runs */
	bool		wanted;
} Started;

static List *started = NIL;

void
coupon_worker_register(const CouponWorkerKind *const *all)
{
	BackgroundWorker worker = {0};

	kinds = all;
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
start_worker(Started *s, Oid database)
{
	static bool complained = false;
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = Int32GetDatum(s->kind * COUPON_MAX_INSTANCES + s->instance);
	worker.bgw_notify_pid = MyProcPid;
	memcpy(worker.bgw_extra, &database, sizeof(Oid));
	strlcpy(worker.bgw_library_name, "coupon", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "coupon_worker_main", sizeof(worker.bgw_function_name));
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "%s %s", kinds[s->kind]->name, s->database);
	strlcpy(worker.bgw_type, kinds[s->kind]->name, sizeof(worker.bgw_type));

	s->handle = NULL;
	if (RegisterDynamicBackgroundWorker(&worker, &s->handle))
		complained = false;
	else if (!complained)
	{
		complained = true;
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker slot for \"%s\"", worker.bgw_name),
				 errhint("Raise max_worker_processes.")));
	}
}

static Started *
find_started(const char *database, int kind, int instance)
{
	ListCell   *cell;
	Started    *s;

	foreach(cell, started)
	{
		s = lfirst(cell);
		if (strcmp(s->database, database) == 0 && s->kind == kind && s->instance == instance)
			return s;
	}
	s = MemoryContextAllocZero(TopMemoryContext, sizeof(Started));
	strlcpy(s->database, database, NAMEDATALEN);
	s->kind = kind;
	s->instance = instance;
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

		started = lappend(started, s);
		MemoryContextSwitchTo(oldcontext);
	}
	return s;
}

/* Starts the worker unless it runs or stopped a moment ago. */
static void
see_to(Started *s, Oid database)
{
	TimestampTz now = GetCurrentTimestamp();
	pid_t		pid;

	s->wanted = true;
	if (s->handle != NULL &&
		GetBackgroundWorkerPid(s->handle, &pid) == BGWH_STOPPED)
	{
		pfree(s->handle);
		s->handle = NULL;
		s->stopped_at = now;
	}
	if (s->handle == NULL && OidIsValid(database) &&
		(s->stopped_at == 0 ||
		 TimestampDifferenceExceeds(s->stopped_at, now, RESTART_DELAY_MS)))
		start_worker(s, database);
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

		if (strcmp(NameStr(form->datname), name) == 0 && form->datallowconn)
			oid = form->oid;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	return oid;
}

/* Compares what runs with coupon.databases. */
static void
launch(void)
{
	static bool complained = false;
	char	   *names;
	List	   *databases = NIL;
	ListCell   *cell;

	foreach(cell, started)
		((Started *) lfirst(cell))->wanted = false;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	names = pstrdup(coupon_databases);
	if (SplitGUCList(names, ',', &databases))
		complained = false;
	else if (!complained)
	{
		complained = true;
		ereport(WARNING,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid list syntax in coupon.databases"),
				 errhint("Write database names separated by commas.")));
	}
	foreach(cell, databases)
	{
		const char *database = lfirst(cell);
		Oid			oid = find_database(database);

		for (int kind = 0; kind < COUPON_WORKER_IDS; kind++)
		{
			int			instances = kinds[kind]->instances ? kinds[kind]->instances() : 1;

			for (int i = 0; i < instances; i++)
			{
				MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

				see_to(find_started(database, kind, i), oid);
				MemoryContextSwitchTo(oldcontext);
			}
		}
	}
	CommitTransactionCommand();

	foreach(cell, started)
	{
		Started    *s = lfirst(cell);

		if (!s->wanted && s->handle != NULL)
		{
			TerminateBackgroundWorker(s->handle);
			pfree(s->handle);
			s->handle = NULL;
			s->stopped_at = 0;
		}
	}
}

void
coupon_launcher_main(Datum arg)
{
	set_up_signals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	pgstat_report_appname("coupon launcher");

	for (;;)
	{
		launch();
		pgstat_report_activity(STATE_IDLE, NULL);
		wait_ms(LAUNCHER_INTERVAL_MS);
	}
}

/* ---- workers ---- */

/* Is this the only worker of its kind and number in the database? */
static bool
claim_database(int kind, int instance)
{
	return coupon_lock_session(COUPON_LOCK_WORKER, (uint64) kind << 32 | instance);
}

/*
 * Does somebody hold the database against new connections, to drop, rename or
 * copy it?  They wait up to five seconds for the others to leave.
 */
static bool
database_is_wanted(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, MyDatabaseId, 0);
	if (LockAcquire(&tag, RowExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, RowExclusiveLock, false);
	return false;
}

/* What a cycle found. */
typedef enum Found
{
	NO_EXTENSION,
	LOCKED,						/* by DDL; try again soon */
	NOTHING_TO_DO,
	DONE_SOME					/* and there is more */
} Found;

/*
 * The extension is there, and nobody is dropping it: its tables could be
 * locked without waiting, in the order in which DROP EXTENSION locks them.
 */
static Found
look_for_extension(void)
{
	static const char *const tables[] = {
		"campaign", "shard", "unit", "issuance", "lapsed_hold", "outbox_0", "outbox_1", "outbox_2", "dead_letter",
		"request", "room", "ticket"
	};
	Oid			ns = get_namespace_oid("coupon", true);

	if (!OidIsValid(get_extension_oid("coupon", true)) || !OidIsValid(ns))
		return NO_EXTENSION;
	for (size_t i = 0; i < lengthof(tables); i++)
	{
		Oid			table = get_relname_relid(tables[i], ns);

		if (!OidIsValid(table) || !ConditionalLockRelationOid(table, RowExclusiveLock) ||
			get_relname_relid(tables[i], ns) != table)
			return LOCKED;
	}
	return NOTHING_TO_DO;
}

/* One cycle in one transaction. */
static Found
run_cycle(const CouponWorkerKind *kind)
{
	Found		found;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (database_is_wanted())
	{
		CommitTransactionCommand();
		leave();
	}
	found = look_for_extension();
	if (found == NOTHING_TO_DO)
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		pgstat_report_activity(STATE_RUNNING, kind->name);
		if (kind->work())
			found = DONE_SOME;
		PopActiveSnapshot();
	}
	CommitTransactionCommand();
	if (kind->committed != NULL)
		kind->committed();
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	return found;
}

static void
say_farewell(void)
{
	if (my_kind == NULL || my_kind->stop == NULL)
		return;
	HOLD_INTERRUPTS();
	my_kind->stop();
	StartTransactionCommand();
	if (look_for_extension() == NOTHING_TO_DO)
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		my_kind->finish();
		PopActiveSnapshot();
	}
	CommitTransactionCommand();
	RESUME_INTERRUPTS();
}

/* True if the cycle failed, after reporting why. */
static bool
run_cycle_safely(const CouponWorkerKind *kind, MemoryContext context, Found *found)
{
	volatile bool failed = false;
	ErrorData  *error;

	PG_TRY();
	{
		*found = run_cycle(kind);
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		EmitErrorReport();
		FlushErrorState();
		AbortCurrentTransaction();
		if (kind->recover != NULL)
			kind->recover(error->message);
		RESUME_INTERRUPTS();
		failed = true;
	}
	PG_END_TRY();

	MemoryContextSwitchTo(context);
	MemoryContextReset(context);
	return failed;
}

static bool
is_woken(void)
{
	return pg_atomic_read_u32(&my_slot->woken) != 0;
}

static bool
listens(void)
{
	return my_kind->listens == NULL || my_kind->listens();
}

/*
 * Until it is time for the next cycle.  The interval may be long and may be
 * changed meanwhile, so it looks around in between.
 */
static void
wait_for_work(void)
{
	TimestampTz start = GetCurrentTimestamp();
	TimestampTz looked = start;

	while (!(is_woken() && listens()))
	{
		TimestampTz now = GetCurrentTimestamp();
		long		left = my_kind->interval() - TimestampDifferenceMilliseconds(start, now);

		if (left <= 0)
			return;
		if (TimestampDifferenceExceeds(looked, now, HOUSEKEEPING_MS))
		{
			bool		wanted;

			looked = now;
			StartTransactionCommand();
			wanted = database_is_wanted();
			CommitTransactionCommand();
			if (wanted)
				leave();
		}
		left = Min(left, HOUSEKEEPING_MS);
		if (my_kind->wait == NULL)
			wait_ms(left);
		else
		{
			bool		due = my_kind->wait(left);

			look_around();
			if (due)
				return;
		}
	}
}

/* Lets work gather, if the kind wants it; no latch ends this. */
static void
rest(void)
{
	int			ms = my_kind->rest == NULL ? 0 : my_kind->rest();

	if (ms > 0)
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms, PG_WAIT_EXTENSION);
	CHECK_FOR_INTERRUPTS();
}

/* When whatever is to be done will not succeed at once, woken or not. */
static void
back_off(long ms)
{
	TimestampTz start = GetCurrentTimestamp();
	long		left;

	while ((left = ms - TimestampDifferenceMilliseconds(start, GetCurrentTimestamp())) > 0)
		wait_ms(left);
}

int
coupon_worker_instance(void)
{
	return my_instance;
}

/* At exit: nobody need wake this process any more. */
static void
leave_slot(int code, Datum arg)
{
	my_slot->latch = NULL;
	if (my_kind->leave != NULL)
		my_kind->leave();
}

/*
 * Whatever sessions of this database begin with, workers work.  Nobody's
 * objects are to stand in for ours.
 */
static const char *const fixed_settings[][2] = {
	{"search_path", "pg_catalog, pg_temp"},
	{"default_transaction_isolation", "read committed"},
	{"default_transaction_read_only", "off"},
	{"default_transaction_deferrable", "off"},
	{"session_replication_role", "origin"},
	{"row_security", "off"},
	{"statement_timeout", "0"},
	{"lock_timeout", "0"},
	{"idle_in_transaction_session_timeout", "0"}
};

void
coupon_worker_main(Datum arg)
{
	int			id = DatumGetInt32(arg) / COUPON_MAX_INSTANCES;
	MemoryContext context;
	Oid			database;
	long		locked_ms = 1;

	my_kind = kinds[id];
	my_instance = DatumGetInt32(arg) % COUPON_MAX_INSTANCES;
	set_up_signals();
	memcpy(&database, MyBgworkerEntry->bgw_extra, sizeof(Oid));
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	pgstat_report_appname(my_kind->name);
	for (size_t i = 0; i < lengthof(fixed_settings); i++)
		SetConfigOption(fixed_settings[i][0], fixed_settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);

	if (!claim_database(id, my_instance))
		proc_exit(0);
	coupon_shmem_attach();
	my_slot = coupon_database_claim(id, my_instance);
	before_shmem_exit(leave_slot, 0);
	context = AllocSetContextCreate(TopMemoryContext, "coupon worker", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);

	if (my_kind->start != NULL)
		my_kind->start();
	for (;;)
	{
		Found		found = NOTHING_TO_DO;
		bool		failed;

		/* what is asked for from now on, this cycle may not see */
		if (listens())
			pg_atomic_exchange_u32(&my_slot->woken, 0);
		failed = run_cycle_safely(my_kind, context, &found);
		if ((found == NO_EXTENSION || found == LOCKED) && my_kind->barred != NULL)
			my_kind->barred(found == NO_EXTENSION);
		if (failed || found == NO_EXTENSION)
			back_off(BACK_OFF_MS);
		else if (found == LOCKED)
		{
			/* a TRUNCATE or a vacuum is over in a moment */
			back_off(locked_ms);
			locked_ms = Min(locked_ms * 2, LOCKED_MS);
			continue;
		}
		else if (found == NOTHING_TO_DO)
		{
			rest();
			wait_for_work();
		}
		else
		{
			rest();
			ResetLatch(MyLatch);
			look_around();
		}
		locked_ms = 1;
	}
}
