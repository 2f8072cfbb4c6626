/*
 * request_status.c
 *	  Asynchronous requests: what a caller is told, waiting for a decision,
 *	  and how long the queue is.
 *
 * Whether a request is decided is in its row, and only there; its position is
 * in shared memory.  A request that the line no longer knows has been decided
 * since its row was read, so the row is read again.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/xlog.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

#include "base/arguments.h"
#include "base/clock.h"
#include "base/compat.h"
#include "base/errors.h"
#include "base/guc.h"
#include "node/node.h"
#include "request/request_status.h"

PG_FUNCTION_INFO_V1(coupon_request_status);
PG_FUNCTION_INFO_V1(coupon_request_status_of);
PG_FUNCTION_INFO_V1(coupon_request_wait);
PG_FUNCTION_INFO_V1(coupon_request_queue);

#define RESULT_NATTS	8

static const char *const names[] = {
	[COUPON_REQUEST_WAITING] = "WAITING",
	[COUPON_REQUEST_COMPLETED] = "COMPLETED",
	[COUPON_REQUEST_REFUSED] = "REFUSED",
	[COUPON_REQUEST_NONE] = "NOT_REQUESTED"
};

const char *
coupon_request_status_name(CouponRequestStatus status)
{
	return names[status];
}

/* ---- describing ---- */

/*
 * The issuance of a user: that of a serial, or the newest if it is 0.  Only
 * what is committed, or this transaction's own, is told of.
 */
static bool
find_issuance(int64 campaign_id, int64 serial, text *user_id, CouponIssuance *issuance)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		found = false;
	ScanKeyData keys[2];
	CouponScan	scan;

	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, campaign_id);
	coupon_key_text(&keys[1], 2, PointerGetDatum(user_id));
	coupon_scan_begin(&scan, catalog->issuance, catalog->issuance_user_key, snapshot, keys, 2, false);
	while (coupon_scan_next(&scan, ForwardScanDirection))
	{
		CouponIssuance row;

		CHECK_FOR_INTERRUPTS();
		coupon_issuance_read(scan.slot, &row);
		if (row.held_until != 0 || (serial != 0 && row.serial != serial) ||
			(found && row.issued_at < issuance->issued_at))
			continue;
		*issuance = row;
		found = true;
	}
	coupon_scan_end_unlock(&scan);
	UnregisterSnapshot(snapshot);
	if (found)
		issuance->code = coupon_issuance_label(campaign_id, issuance->serial);
	return found;
}

static void
describe_decided(const CouponRequest *request, CouponRequestResult *result)
{
	result->status = COUPON_REQUEST_COMPLETED;
	result->outcome = text_to_cstring(request->outcome);
	result->decided_at = request->decided_at;
	result->position = 0;
	result->item.status = COUPON_INVALID;
	if (request->serial != 0 &&
		find_issuance(request->campaign_id, request->serial, request->user_id, &result->item.issuance))
		result->item.status = strcmp(result->outcome, coupon_status_name(COUPON_ISSUED)) == 0 ?
			COUPON_ISSUED : COUPON_ALREADY_ISSUED;
}

/* The position of a request that waits; false if it does no longer. */
static bool
find_position(const CouponRequest *request, int64 *position)
{
	CouponLine *line = coupon_queue_lock(&coupon_requests, request->campaign_id, LW_SHARED, true);
	bool		live = coupon_line_is_live(line, request->number);

	if (live)
		*position = coupon_line_ahead(line, request->number) + 1;
	LWLockRelease(line->lock);
	return live;
}

void
coupon_request_describe(const CouponRequest *request, CouponRequestResult *result)
{
	CouponRequest again = *request;

	result->id = request->id;
	result->user_id = request->user_id;
	result->requested_at = request->requested_at;
	result->decided_at = 0;
	result->outcome = NULL;
	if (again.decided_at == 0 && !find_position(&again, &result->position) &&
		!coupon_request_find(&request->id, &again))
	{
		result->status = COUPON_REQUEST_NONE;
		result->requested_at = 0;
		return;
	}
	result->status = COUPON_REQUEST_WAITING;
	if (again.decided_at != 0)
		describe_decided(&again, result);
}

static HeapTuple
form_result(TupleDesc desc, const CouponRequestResult *result)
{
	Datum		values[RESULT_NATTS];
	bool		nulls[RESULT_NATTS];

	memset(nulls, true, sizeof(nulls));
	if (result->requested_at != 0)
	{
		values[0] = UUIDPGetDatum(&result->id);
		values[5] = TimestampTzGetDatum(result->requested_at);
		nulls[0] = nulls[5] = false;
	}
	values[1] = CStringGetTextDatum(names[result->status]);
	nulls[1] = false;
	if (result->outcome != NULL)
	{
		values[2] = CStringGetTextDatum(result->outcome);
		nulls[2] = false;
	}
	if (result->status == COUPON_REQUEST_WAITING || result->status == COUPON_REQUEST_COMPLETED)
	{
		values[3] = Int64GetDatum(result->position);
		nulls[3] = false;
	}
	if (result->status != COUPON_REQUEST_WAITING && result->status != COUPON_REQUEST_NONE &&
		(result->item.status == COUPON_ISSUED || result->item.status == COUPON_ALREADY_ISSUED))
	{
		TypeCacheEntry *entry = lookup_type_cache(TupleDescAttr(desc, 4)->atttypid, TYPECACHE_TUPDESC);

		values[4] = HeapTupleGetDatum(coupon_issue_form_result(entry->tupDesc,
															   PointerGetDatum(result->user_id),
															   &result->item));
		nulls[4] = false;
	}
	if (result->decided_at != 0)
	{
		values[6] = TimestampTzGetDatum(result->decided_at);
		nulls[6] = false;
	}
	if (result->is_asked)
	{
		values[7] = BoolGetDatum(result->repeated);
		nulls[7] = false;
	}
	return heap_form_tuple(desc, values, nulls);
}

Datum
coupon_request_form_result(FunctionCallInfo fcinfo, const CouponRequestResult *result)
{
	Oid			type = get_func_rettype(fcinfo->flinfo->fn_oid);
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_TUPDESC);

	if (entry->tupDesc == NULL || entry->tupDesc->natts != RESULT_NATTS)
		elog(ERROR, "coupon.request_result has an unexpected shape");
	return HeapTupleGetDatum(form_result(entry->tupDesc, result));
}

/* ---- status ---- */

bool
coupon_request_look(const pg_uuid_t *id, CouponRequestResult *result, int64 *campaign_id)
{
	CouponRequest request;

	memset(result, 0, sizeof(*result));
	(void) coupon_queue(&coupon_requests);
	if (!coupon_request_find(id, &request))
	{
		result->status = COUPON_REQUEST_NONE;
		return false;
	}
	*campaign_id = request.campaign_id;
	coupon_request_describe(&request, result);
	return result->status != COUPON_REQUEST_NONE;
}

/*
 * coupon_request_status(request_id)
 */
Datum
coupon_request_status(PG_FUNCTION_ARGS)
{
	CouponRequestResult result;
	int64		campaign_id;

	coupon_require_argument(fcinfo, 0, "request_id");
	PreventCommandDuringRecovery("coupon_request_status()");
	(void) coupon_request_look(PG_GETARG_UUID_P(0), &result, &campaign_id);
	return coupon_request_form_result(fcinfo, &result);
}

/*
 * coupon_request_status_of(campaign_id, user_id): the user's newest request.
 * Who has a unit without one that is kept has got it, in whatever way.
 */
Datum
coupon_request_status_of(PG_FUNCTION_ARGS)
{
	CouponRequestResult result = {0};
	CouponRequest request;
	int64		campaign_id;
	text	   *user_id;

	campaign_id = coupon_get_int64(fcinfo, 0, "campaign_id", PG_INT64_MIN, PG_INT64_MAX);
	coupon_check_text(fcinfo, 1, "user_id", 1, COUPON_MAX_NAME);
	user_id = PG_GETARG_TEXT_PP(1);
	PreventCommandDuringRecovery("coupon_request_status_of()");
	coupon_node_require(campaign_id, user_id);
	(void) coupon_queue(&coupon_requests);
	if (coupon_request_find_newest(campaign_id, user_id, &request))
		coupon_request_describe(&request, &result);
	else
	{
		const CouponDefinition *def;

		coupon_campaign_leave(coupon_campaign_enter(campaign_id, &def));
		result.status = COUPON_REQUEST_NONE;
		if (find_issuance(campaign_id, 0, user_id, &result.item.issuance))
		{
			result.status = COUPON_REQUEST_COMPLETED;
			result.outcome = coupon_status_name(COUPON_ISSUED);
			result.item.status = COUPON_ISSUED;
			result.user_id = user_id;
		}
	}
	return coupon_request_form_result(fcinfo, &result);
}

COUPON_FOR_OTHER_USERS(coupon_request_status_of, 1);

/* ---- waiting ---- */

#define MAX_WAIT_MS		(24 * 3600 * 1000)
#define LOOK_AGAIN_MS	60000	/* without being woken */

COUPON_WAIT_EVENT(wait_event, "CouponRequestDecided");

static long
get_timeout(FunctionCallInfo fcinfo, int argument)
{
	Interval   *timeout;
	double		ms;

	coupon_require_argument(fcinfo, argument, "timeout");
	timeout = PG_GETARG_INTERVAL_P(argument);
	ms = timeout->time / 1000.0 + (timeout->day + timeout->month * 30.0) * 86400000.0;
	if (ms < 0 || ms > MAX_WAIT_MS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout is out of range"),
				 errdetail("The value is %.0f ms.", ms),
				 errhint("Use an interval between 0 and one day.")));
	return ms;
}

/* Sleeps until the line has served the request, or so many ms are over. */
static void
await_decision(const CouponRequest *request, long timeout)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);

	for (;;)
	{
		CouponLine *line = coupon_queue_lock(&coupon_requests, request->campaign_id, LW_SHARED, true);
		ConditionVariable *changed = &line->changed;
		bool		live;
		long		left;

		LWLockRelease(line->lock);
		ConditionVariablePrepareToSleep(changed);
		line = coupon_queue_lock(&coupon_requests, request->campaign_id, LW_SHARED, true);
		live = coupon_line_is_live(line, request->number) || &line->changed != changed;
		LWLockRelease(line->lock);
		left = coupon_ms_until(deadline, GetCurrentTimestamp(), timeout);
		if (!live || left <= 0)
			break;
		(void) ConditionVariableTimedSleep(changed, Min(left, LOOK_AGAIN_MS), wait_event());
	}
	ConditionVariableCancelSleep();
}

/*
 * coupon_request_wait(request_id, timeout)
 */
Datum
coupon_request_wait(PG_FUNCTION_ARGS)
{
	CouponRequestResult result = {0};
	CouponRequest request;
	long		timeout;

	coupon_require_argument(fcinfo, 0, "request_id");
	timeout = get_timeout(fcinfo, 1);
	PreventCommandDuringRecovery("coupon_request_wait()");
	(void) coupon_queue(&coupon_requests);
	if (!coupon_request_find(PG_GETARG_UUID_P(0), &request))
		result.status = COUPON_REQUEST_NONE;
	else
	{
		if (request.own && request.decided_at == 0)
			ereport(ERROR,
					(errcode(ERRCODE_COUPON_NOT_COMMITTED),
					 errmsg("cannot wait for a request of the same transaction"),
					 errdetail("It can be decided only when the transaction has committed."),
					 errhint("COMMIT first, then wait.")));
		if (request.decided_at == 0)
		{
			await_decision(&request, timeout);
			(void) coupon_request_find(PG_GETARG_UUID_P(0), &request);
		}
		coupon_request_describe(&request, &result);
	}
	return coupon_request_form_result(fcinfo, &result);
}

/* ---- the queue as a whole ---- */

#define QUEUE_NATTS		7

/* When the first that waits was requested; 0: nobody waits. */
static TimestampTz
find_oldest(int64 campaign_id, int64 number)
{
	CouponRequest request;

	if (number == 0 || coupon_request_find_numbers(campaign_id, &number, 1, 3, &request) == 0)
		return 0;
	return request.requested_at;
}

/*
 * coupon_request_queue(campaign_id): one row for each campaign whose requests
 * shared memory knows
 */
Datum
coupon_request_queue(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	CouponQueue *queue;
	TimestampTz now = GetCurrentTimestamp();

	PreventCommandDuringRecovery("coupon_request_queue()");
	InitMaterializedSRF(fcinfo, 0);
	queue = coupon_queue(&coupon_requests);
	for (int i = 0; i < coupon_queue_slots(); i++)
	{
		CouponLine *line = coupon_queue_lock_nth(queue, i, LW_SHARED);
		Datum		values[QUEUE_NATTS];
		bool		nulls[QUEUE_NATTS] = {0};
		int64		first = 0;
		int64		id;
		uint32		depth;
		double		rate;
		TimestampTz oldest;

		CHECK_FOR_INTERRUPTS();
		if (line == NULL)
			continue;
		id = line->id;
		depth = line->live;
		rate = line->rate;
		values[3] = Int64GetDatum(line->served);
		(void) coupon_line_find_ready(line, 0, &first, 1);
		LWLockRelease(line->lock);
		if (!PG_ARGISNULL(0) && PG_GETARG_INT64(0) != id)
			continue;

		oldest = find_oldest(id, first);
		values[0] = Int64GetDatum(id);
		values[1] = Int64GetDatum(depth);
		nulls[2] = oldest == 0;
		values[2] = nulls[2] ? (Datum) 0 : coupon_interval(Max(0, now - oldest));
		values[4] = Float8GetDatum(rate);
		nulls[4] = rate == 0;
		nulls[5] = rate == 0 && depth > 0;
		values[5] = nulls[5] ? (Datum) 0 : coupon_interval(depth == 0 ? 0 : depth / rate * USECS_PER_SEC);
		values[6] = Int64GetDatum(coupon_request_depth);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
