/*
 * missing_workers.c
 *	  Databases that should have workers, and whoever leaves work to nobody.
 *
 * A misspelt name in coupon.databases makes nothing fail: requests are accepted
 * and wait.  So those who are about to wait are told, once a session.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "base/arguments.h"
#include "base/guc.h"
#include "base/missing_workers.h"
#include "base/worker.h"

#define SETTLING_MS		10000	/* after a start or a reload: workers come */

PG_FUNCTION_INFO_V1(coupon_warn_without_workers);

static bool warned = false;		/* once a session, whatever leads to it */

List *
coupon_listed_databases(void)
{
	List	   *names;

	/* the setting's check has seen to it that it can be read */
	(void) SplitGUCList(pstrdup(coupon_databases), ',', &names);
	return names;
}

bool
coupon_database_is_listed(void)
{
	char	   *name = get_database_name(MyDatabaseId);
	ListCell   *cell;

	if (name == NULL)
		return false;
	foreach(cell, coupon_listed_databases())
	{
		if (strcmp(lfirst(cell), name) == 0)
			return true;
	}
	return false;
}

static void
warn_of_unlisted(void)
{
	const char *name = get_database_name(MyDatabaseId);

	warned = true;
	ereport(WARNING,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("database \"%s\" has no workers", name),
			 errdetail("Requests wait for ever, rooms admit nobody, and events stay in the outbox."),
			 errhint("Add \"%s\" to coupon.databases and reload the server's configuration; coupon_health() tells more.", name)));
}

void
coupon_warn_of_missing(CouponWorkerId id)
{
	TimestampTz now;

	if (warned || coupon_count_workers(id) > 0 || RecoveryInProgress())
		return;
	if (!coupon_database_is_listed())
	{
		warn_of_unlisted();
		return;
	}
	now = GetCurrentTimestamp();
	if (!TimestampDifferenceExceeds(PgStartTime, now, SETTLING_MS) ||
		!TimestampDifferenceExceeds(PgReloadTime, now, SETTLING_MS))
		return;
	warned = true;
	ereport(WARNING,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("no \"%s\" runs in database \"%s\"", coupon_worker_kinds[id]->name,
					get_database_name(MyDatabaseId)),
			 errdetail("What it would do waits until it is there."),
			 errhint("Raise max_worker_processes if the server's log asks for it; coupon_health() tells more.")));
}

/*
 * coupon.warn_without_workers(rooms): true for who makes a room, false for
 * CREATE EXTENSION
 */
Datum
coupon_warn_without_workers(PG_FUNCTION_ARGS)
{
	coupon_require_argument(fcinfo, 0, "rooms");
	if (!coupon_shmem_available())
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("coupon is not preloaded"),
				 errdetail("Its tables can be restored and read, but nothing can be issued."),
				 errhint("Add the line shared_preload_libraries = 'coupon' to postgresql.conf and restart the server.")));
	else if (PG_GETARG_BOOL(0))
		coupon_warn_of_missing(COUPON_ROOM_WORKER);
	else if (!warned && !coupon_database_is_listed())
		warn_of_unlisted();
	PG_RETURN_VOID();
}
