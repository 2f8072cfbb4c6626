/*
 * front_worker.c
 *	  The process that serves HTTP: waits for the network and for its latch,
 *	  runs the listener, lets the front work.
 *
 *	  start -> connect -> [ wait -> listener -> turn ]* -> drain -> exit
 *
 * It holds no transaction while it waits.  It starts on a standby, too, where
 * it can read, and goes on by itself when that is promoted.
 *
 * SIGTERM, or when somebody wants to drop the database: no new connections;
 * whoever waits is answered with what is known; what has been committed is
 * sent; then out.
 */
#include "postgres.h"

#include "access/xact.h"
#include "libpq/pqsignal.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "base/clock.h"
#include "base/compat.h"
#include "base/missing_workers.h"
#include "base/shmem.h"
#include "base/worker.h"
#include "front/call.h"
#include "front/front.h"
#include "front/front_worker.h"
#include "front/pages.h"
#include "front/settings.h"
#include "front/statistics.h"
#include "front/token.h"

#define HOUSEKEEPING_MS		500
#define DRAIN_MS			3000	/* for answers to be sent after SIGTERM */
#define CLOSE_MS			1000	/* for answers to be sent before an
									 * address is given up */
#define RETRY_LISTEN_MS		1000
#define MAX_ADMINS			100 /* connections to coupon.http_admin_listen */

extern PGDLLEXPORT void coupon_front_main(Datum arg);

/* One of the two addresses. */
typedef struct Door
{
	char	  **setting;
	char	   *address;		/* that it listens on, NULL: none */
	CouponListener *listener;
	TimestampTz tried;			/* when it could not be opened */
	bool		is_admin;
} Door;

static Door doors[COUPON_DOORS] = {
	{.setting = &coupon_http_listen},
	{.setting = &coupon_http_admin_listen,.is_admin = true},
};

static int	number;				/* of this worker, from 0 */
static WaitEventSet *wait_set = NULL;
static bool wait_set_is_stale = true;

COUPON_WAIT_EVENT(idle_event, "CouponFrontIdle");
COUPON_WAIT_EVENT(close_event, "CouponFrontClose");
COUPON_WAIT_EVENT(drain_event, "CouponFrontDrain");

static void serve(void);

void
coupon_front_register(void)
{
	BackgroundWorker worker = {0};

	if (IsBinaryUpgrade || coupon_http_listen[0] == '\0')
		return;
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_library_name, "coupon", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "coupon_front_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_type, "coupon front", sizeof(worker.bgw_type));
	for (int i = 0; i < coupon_http_workers; i++)
	{
		snprintf(worker.bgw_name, sizeof(worker.bgw_name), "coupon front %d", i + 1);
		worker.bgw_main_arg = Int32GetDatum(i);
		RegisterBackgroundWorker(&worker);
	}
}

/* The database that is served: the setting's, or the first that has workers. */
static char *
choose_database(void)
{
	List	   *list = coupon_listed_databases();

	if (coupon_http_database[0] != '\0')
		return coupon_http_database;
	if (list == NIL)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("coupon.http_database is not set, and coupon.databases names none"),
				 errhint("Set coupon.http_database, and restart the server.")));
	return linitial(list);
}

/* ---- doors ---- */

/* What has been carried out is answered before. */
static void
close_door(Door *door)
{
	TimestampTz start = coupon_steady_now();

	coupon_listener_quiesce(door->listener);
	do
	{
		coupon_front_drop(door->listener);
		serve();
		if (coupon_listener_outstanding(door->listener) == 0)
			break;
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 10, close_event());
	} while (!ShutdownRequestPending && !TimestampDifferenceExceeds(start, coupon_steady_now(), CLOSE_MS));
	coupon_front_drop(door->listener);
	coupon_listener_close(door->listener);
	pfree(door->address);
	door->address = NULL;
	door->listener = NULL;
	wait_set_is_stale = true;
}

/* Has the other door that address?  A kernel that deals connections would let both in. */
static bool
is_taken(const Door *door)
{
	for (size_t i = 0; i < lengthof(doors); i++)
	{
		if (&doors[i] != door && doors[i].address != NULL && strcmp(*doors[i].setting, *door->setting) == 0)
			return true;
	}
	return false;
}

/* Opens, closes or moves a door as the settings say. */
static void
see_to_door(Door *door, TimestampTz now)
{
	CouponListenerLimits limits = {
		.connections = door->is_admin ? Min(coupon_http_max_connections, MAX_ADMINS) : coupon_http_max_connections,
		.idle_s = coupon_http_idle_timeout,
		.request_s = coupon_http_request_timeout,
		.is_admin = door->is_admin,
		.is_shared = coupon_http_workers > 1
	};
	char	   *error = NULL;

	if (door->address != NULL && strcmp(door->address, *door->setting) != 0)
		close_door(door);
	if (door->listener != NULL)
		coupon_listener_set_patience(door->listener, limits.idle_s, limits.request_s);
	if ((*door->setting)[0] == '\0' && door->tried != 0)
	{
		coupon_statistics_trouble(number, door - doors, NULL);
		door->tried = 0;
	}
	if (door->address != NULL || (*door->setting)[0] == '\0' ||
		(door->tried != 0 && !TimestampDifferenceExceeds(door->tried, now, RETRY_LISTEN_MS)))
		return;
	if (is_taken(door))
		error = psprintf("\"%s\": coupon.http_listen and coupon.http_admin_listen are the same", *door->setting);
	else
		door->listener = coupon_listener_open(*door->setting, &limits, &error);
	wait_set_is_stale = true;
	if (door->listener != NULL)
	{
		door->address = MemoryContextStrdup(TopMemoryContext, *door->setting);
		door->tried = 0;
		coupon_statistics_trouble(number, door - doors, NULL);
		ereport(LOG,
				(errmsg("coupon front listens on %s", door->address)));
		return;
	}
	if (door->tried == 0)
		ereport(LOG,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("coupon front cannot listen: %s", error),
				 errhint("It tries again every second. The address is coupon.http_listen or coupon.http_admin_listen.")));
	coupon_statistics_trouble(number, door - doors, error);
	pfree(error);
	door->tried = now;
}

static void
make_wait_set(void)
{
	if (wait_set != NULL)
		FreeWaitEventSet(wait_set);
	wait_set = coupon_create_wait_event_set(TopMemoryContext, 2 + lengthof(doors));
	AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (size_t i = 0; i < lengthof(doors); i++)
	{
		if (doors[i].listener != NULL)
			AddWaitEventToSet(wait_set, WL_SOCKET_READABLE, coupon_listener_fd(doors[i].listener), NULL, NULL);
	}
	wait_set_is_stale = false;
}

/* ---- the loop ---- */

static long
shorter(long a, long b)
{
	return a < 0 ? b : b < 0 ? a : Min(a, b);
}

static void
wait_for_something(void)
{
	WaitEvent	events[2 + lengthof(doors)];
	long		ms = shorter(HOUSEKEEPING_MS, coupon_front_timeout());

	for (size_t i = 0; i < lengthof(doors); i++)
	{
		if (doors[i].listener != NULL)
			ms = shorter(ms, coupon_listener_timeout(doors[i].listener));
	}
	if (wait_set_is_stale)
		make_wait_set();
	(void) WaitEventSetWait(wait_set, ms, events, lengthof(events), idle_event());
	ResetLatch(MyLatch);
}

/* What settings say that others than their readers have to know. */
static void
take_over_settings(void)
{
	char		ms[32];

	snprintf(ms, sizeof(ms), "%d", coupon_http_lock_timeout);
	SetConfigOption("lock_timeout", ms, PGC_SUSET, PGC_S_OVERRIDE);
	/* functions run as their callers, who may see what policies let them */
	SetConfigOption("row_security", "on", PGC_SUSET, PGC_S_OVERRIDE);
	coupon_token_reload();
	coupon_statistics_keys(number, coupon_token_keys());
	coupon_pages_reload();
}

static void
look_around(void)
{
	(void) coupon_worker_heed_signals();
	if (coupon_worker_reloaded())
		take_over_settings();
}

/* Tells how much is open. */
static void
tell_open(void)
{
	int			connections = 0;
	int			waiting;
	int			streams;

	for (size_t i = 0; i < lengthof(doors); i++)
	{
		if (doors[i].listener != NULL)
			connections += coupon_listener_connections(doors[i].listener);
	}
	coupon_front_count(&waiting, &streams);
	coupon_statistics_open(number, connections, waiting, streams);
}

/*
 * Reads, works, and writes what can be written at once.  Under load there is
 * always more, and yet the settings and the database have to be looked after.
 */
static void
serve(void)
{
	TimestampTz start = coupon_steady_now();
	dlist_head	arrived;
	bool		worked;

	do
	{
		dlist_init(&arrived);
		for (size_t i = 0; i < lengthof(doors); i++)
		{
			if (doors[i].listener != NULL)
				coupon_listener_run(doors[i].listener, &arrived);
		}
		/* the listener sends the answers when it is run again */
		worked = coupon_front_turn(&arrived);
		tell_open();
	} while (worked && !ConfigReloadPending && !ShutdownRequestPending && !InterruptPending &&
			 !TimestampDifferenceExceeds(start, coupon_steady_now(), HOUSEKEEPING_MS));
}

/* Is there anything that has not been answered to the end? */
static bool
is_busy(void)
{
	for (size_t i = 0; i < lengthof(doors); i++)
	{
		if (doors[i].listener != NULL && coupon_listener_outstanding(doors[i].listener) > 0)
			return true;
	}
	return coupon_front_is_waiting();
}

/* Until all answers are sent, or it takes too long. */
static void
drain(void)
{
	TimestampTz start = coupon_steady_now();

	for (size_t i = 0; i < lengthof(doors); i++)
	{
		if (doors[i].listener != NULL)
			coupon_listener_quiesce(doors[i].listener);
	}
	coupon_front_end_waits();
	/* nothing that may take long is begun, SIGTERM or not */
	ShutdownRequestPending = true;
	do
	{
		serve();
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 20, drain_event());
	} while (is_busy() &&
			 !TimestampDifferenceExceeds(start, coupon_steady_now(), DRAIN_MS));
}

/* SIGTERM: what runs and may take long is given up, and so is waiting for a standby. */
static void
end_soon(SIGNAL_ARGS)
{
	if (coupon_call_is_plain || coupon_front_commit == COUPON_COMMITTING)
		InterruptPending = QueryCancelPending = true;
	if (coupon_front_commit == COUPON_COMMITTING)
		coupon_front_commit = COUPON_COMMIT_CANCELLED;
	SignalHandlerForShutdownRequest(postgres_signal_arg);
}

static void
end_statistics(int code, Datum arg)
{
	coupon_statistics_ended(number);
}

void
coupon_front_main(Datum arg)
{
	number = DatumGetInt32(arg);
	pqsignal(SIGTERM, end_soon);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(choose_database(), NULL, 0);
	pgstat_report_appname("coupon front");
	coupon_worker_settle();
	if (GetDatabaseEncoding() != PG_UTF8)
		ereport(FATAL,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("coupon front needs a database in UTF8"),
				 errdetail("Database \"%s\" is in %s.", choose_database(), GetDatabaseEncodingName()),
				 errhint("Name another one in coupon.http_database, and restart the server.")));
	coupon_shmem_attach();
	coupon_statistics_started(number);
	before_shmem_exit(end_statistics, 0);
	take_over_settings();
	coupon_front_start();

	while (!ShutdownRequestPending && !coupon_worker_database_is_wanted())
	{
		TimestampTz now = coupon_steady_now();

		look_around();
		for (size_t i = 0; i < lengthof(doors); i++)
			see_to_door(&doors[i], now);
		wait_for_something();
		serve();
	}
	drain();
	proc_exit(1);
}
