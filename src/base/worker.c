/*
 * worker.c
 *	  Background workers: what all kinds of them share.
 *
 *	  start -> connect -> claim -> [ cycle -> wait ]* -> exit
 *							|         |
 *							|         +- error: report, abort, back off, go on
 *							+- another process has the slot: exit
 *
 * A worker must not be in the way of DDL.  It holds no snapshot and no lock
 * while it waits, locks its tables only if they are free, and leaves when
 * somebody waits to drop, rename or copy its database.
 *
 * Nor is it ended by what is meant for its work: cancelling it
 * (pg_cancel_backend) ends a cycle, and nothing while it waits.
 */
#include "postgres.h"

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
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/shmem.h"
#include "base/worker.h"

#define BACK_OFF_MS				1000	/* after an error, or without the
										 * extension */
#define LOCKED_MS				50	/* while DDL has the tables, in the end */
#define HOUSEKEEPING_MS			500 /* longest time without a look around */

extern PGDLLEXPORT void coupon_worker_main(Datum arg);

const CouponWorkerKind *const *coupon_worker_kinds = NULL;

/* What this worker is. */
static const CouponWorkerKind *my_kind = NULL;
static CouponWorkerOrder order;
static CouponWorkerSlot *my_slot = NULL;
static MemoryContext my_context = NULL;

/* What it knows. */
static bool reloaded = false;
static bool database_wanted = false;	/* by somebody who cannot have us in
										 * it */
static TimestampTz looked_at = 0;	/* for that */

COUPON_WAIT_EVENT(idle_event, "CouponWorkerIdle");
COUPON_WAIT_EVENT(rest_event, "CouponWorkerRest");

/* ---- signals ---- */

void
coupon_worker_set_up_signals(void)
{
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	/* one that came while this process was starting may have been ignored */
	ConfigReloadPending = true;
}

bool
coupon_worker_heed_signals(void)
{
	if (ProcDiePending)
		return true;

	/* there is nothing to cancel */
	HOLD_CANCEL_INTERRUPTS();
	CHECK_FOR_INTERRUPTS();
	RESUME_CANCEL_INTERRUPTS();
	QueryCancelPending = false;

	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		reloaded = true;
	}
	return false;
}

bool
coupon_worker_reloaded(void)
{
	bool		answer = reloaded;

	reloaded = false;
	return answer;
}

void
coupon_worker_wait(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 ms, idle_event());
	ResetLatch(MyLatch);
}

/* ---- cycles ---- */

static void
end_transaction(void)
{
	CommitTransactionCommand();
	MemoryContextSwitchTo(my_context);
}

/*
 * Does somebody hold the database against new connections, to drop, rename or
 * copy it?  They wait up to five seconds for the others to leave.
 */
static void
look_for_ddl(TimestampTz now)
{
	LOCKTAG		tag;

	looked_at = now;
	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, MyDatabaseId, 0);
	if (LockAcquire(&tag, RowExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		database_wanted = true;
	else
		LockRelease(&tag, RowExclusiveLock, false);
}

bool
coupon_worker_database_is_wanted(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!database_wanted && coupon_ms_since(looked_at, now) >= HOUSEKEEPING_MS)
	{
		MemoryContext context = CurrentMemoryContext;

		StartTransactionCommand();
		look_for_ddl(now);
		CommitTransactionCommand();
		MemoryContextSwitchTo(context);
	}
	return database_wanted;
}

bool
coupon_worker_stay(void)
{
	return !coupon_worker_heed_signals() && !coupon_worker_database_is_wanted();
}

/*
 * The extension is there, and nobody is dropping it: the tables could be
 * locked without waiting.
 */
static CouponCycle
lock_tables(void)
{
	Oid			ns = get_namespace_oid("coupon", true);

	if (!OidIsValid(get_extension_oid("coupon", true)) || !OidIsValid(ns))
		return COUPON_CYCLE_NO_EXTENSION;
	for (const char *const *name = my_kind->tables; *name; name++)
	{
		Oid			table = get_relname_relid(*name, ns);

		if (!OidIsValid(table) || !ConditionalLockRelationOid(table, RowExclusiveLock) ||
			get_relname_relid(*name, ns) != table)
			return COUPON_CYCLE_LOCKED;
	}
	return COUPON_CYCLE_BEGUN;
}

CouponCycle
coupon_worker_begin(void)
{
	CouponCycle cycle = COUPON_CYCLE_LOCKED;
	bool		last = database_wanted;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (!last)
		look_for_ddl(GetCurrentTimestamp());
	if (last || !database_wanted)
		cycle = lock_tables();
	if (cycle != COUPON_CYCLE_BEGUN)
	{
		end_transaction();
		return cycle;
	}
	PushActiveSnapshot(GetTransactionSnapshot());
	pg_atomic_fetch_add_u64(&my_slot->cycles, 1);
	pgstat_report_activity(STATE_RUNNING, my_kind->activity);
	return cycle;
}

void
coupon_worker_tell(const char *fmt,...)
{
	char		line[256];
	va_list		args;

	if (my_slot == NULL)
		return;					/* a session does a worker's work */
	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	pgstat_report_activity(STATE_RUNNING, line);
}

void
coupon_worker_commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	coupon_worker_committed();
}

void
coupon_worker_committed(void)
{
	MemoryContextSwitchTo(my_context);
	MemoryContextReset(my_context);
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* Whatever is to be done will not succeed at once, woken or not. */
static void
back_off(long ms)
{
	TimestampTz start = GetCurrentTimestamp();
	long		left = ms;

	while (left > 0 && coupon_worker_stay())
	{
		coupon_worker_wait(Min(left, HOUSEKEEPING_MS));
		left = ms - coupon_ms_since(start, GetCurrentTimestamp());
	}
}

void
coupon_worker_back_off(CouponCycle cycle)
{
	static long locked_ms = 1;

	if (cycle == COUPON_CYCLE_NO_EXTENSION)
		back_off(BACK_OFF_MS);
	else if (cycle == COUPON_CYCLE_LOCKED)
	{
		/* a TRUNCATE or a vacuum is over in a moment */
		back_off(locked_ms);
		locked_ms = Min(locked_ms * 2, LOCKED_MS);
	}
	else
		locked_ms = 1;
}

bool
coupon_worker_is_woken(void)
{
	return pg_atomic_read_u32(&my_slot->woken) != 0;
}

void
coupon_worker_forget_woken(void)
{
	pg_atomic_exchange_u32(&my_slot->woken, 0);
}

int
coupon_worker_instance(void)
{
	return order.instance;
}

/* ---- the loop of those that have none of their own ---- */

/* Lets work gather, if the kind wants it; no latch ends this. */
static void
rest(void)
{
	int			ms = my_kind->rest == NULL ? 0 : my_kind->rest();

	if (ms > 0)
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms, rest_event());
}

/* The interval may be long and be changed meanwhile: it looks around. */
static void
wait_for_work(void)
{
	TimestampTz start = GetCurrentTimestamp();

	while (!coupon_worker_is_woken() && coupon_worker_stay())
	{
		long		left = my_kind->interval() - coupon_ms_since(start, GetCurrentTimestamp());

		if (left <= 0)
			return;
		coupon_worker_wait(Min(left, HOUSEKEEPING_MS));
	}
}

static void
work_at_intervals(void)
{
	while (coupon_worker_stay())
	{
		CouponCycle cycle;
		bool		more;

		/* what is asked for from now on, this cycle may not see */
		coupon_worker_forget_woken();
		cycle = coupon_worker_begin();
		coupon_worker_back_off(cycle);
		if (cycle != COUPON_CYCLE_BEGUN)
			continue;
		more = my_kind->work();
		coupon_worker_commit();
		rest();
		if (!more)
			wait_for_work();
	}
}

/* ---- the process ---- */

/* After an ERROR. */
static void
recover(void)
{
	ErrorData  *error;

	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(my_context);
	error = CopyErrorData();
	EmitErrorReport();
	FlushErrorState();
	AbortCurrentTransaction();
	pg_atomic_fetch_add_u64(&my_slot->errors, 1);
	if (my_kind->recover != NULL)
		my_kind->recover(error->message);
	coupon_worker_committed();
	RESUME_INTERRUPTS();
}

static void
run(void)
{
	volatile bool failed;

	do
	{
		failed = false;
		PG_TRY();
		{
			if (my_kind->loop)
				my_kind->loop();
			else
				work_at_intervals();
		}
		PG_CATCH();
		{
			recover();
			failed = true;
		}
		PG_END_TRY();
		if (failed)
			back_off(BACK_OFF_MS);
	} while (failed);
}

/* At exit: nobody need wake this process any more. */
static void
leave_slot(int code, Datum arg)
{
	my_slot->latch = NULL;
	if (my_kind->leave != NULL)
		my_kind->leave();
	my_slot->pid = 0;
}

/*
 * Whatever sessions of this database begin with, workers work.  Nobody's
 * objects are to stand in for ours.  Their statements find few rows, of tables
 * that may never have been analyzed: compiling those takes longer than they do.
 */
static const char *const fixed_settings[][2] = {
	{"role", "none"},
	{"search_path", "pg_catalog, pg_temp"},
	{"default_transaction_isolation", "read committed"},
	{"default_transaction_read_only", "off"},
	{"default_transaction_deferrable", "off"},
	{"session_replication_role", "origin"},
	{"row_security", "off"},
	{"statement_timeout", "0"},
	{"lock_timeout", "0"},
	{"idle_in_transaction_session_timeout", "0"},
	{"transaction_timeout", "0"},
	{"jit", "off"}
};

void
coupon_worker_settle(void)
{
	for (size_t i = 0; i < lengthof(fixed_settings); i++)
	{
		/* not every version has all of them */
		if (GetConfigOption(fixed_settings[i][0], true, false) != NULL)
			SetConfigOption(fixed_settings[i][0], fixed_settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	}
}

void
coupon_worker_main(Datum arg)
{
	memcpy(&order, MyBgworkerEntry->bgw_extra, sizeof(order));
	my_kind = coupon_worker_kinds[order.kind];
	coupon_worker_set_up_signals();
	BackgroundWorkerInitializeConnectionByOid(order.database, InvalidOid, 0);
	pgstat_report_appname(my_kind->name);
	coupon_worker_settle();

	coupon_shmem_attach();
	my_slot = coupon_database_claim(order.place, order.kind, order.instance);
	if (my_slot == NULL)
		proc_exit(0);
	before_shmem_exit(leave_slot, 0);
	COUPON_FAULT(worker_claimed);
	my_context = AllocSetContextCreate(TopMemoryContext, "coupon worker", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(my_context);

	run();

	/* told to end: says so in the log */
	CHECK_FOR_INTERRUPTS();
	proc_exit(0);
}
