/*
 * request.c
 *	  Asynchronous requests: accepting them, and finding them again.
 *
 * A request is one row, inserted here in the caller's transaction and changed
 * once by an issuer when it is decided (request_decide.c).  Its place is given
 * in shared memory before the row is written, and becomes ready when the
 * transaction commits, so a request is seen by an issuer neither too early nor
 * too late, whatever the order of commits.
 *
 * The id is a UUID of version 8: campaign, number and 58 random bits.  So one
 * index finds a request by its id and gives a campaign's requests in order.
 *
 * An accepted request is meant to end well.  What cannot is refused at once:
 * who has a unit, a campaign that is not open, sold out, or has no more units
 * than requests that wait.  This last is counted under the line's lock, so a
 * flood gets as many requests in as there are units.
 *
 * A user's requests are looked up under a lock on the user, and with a dirty
 * snapshot, so that the same key never gives two ids.
 */
#include "postgres.h"

#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "base/arguments.h"
#include "base/compat.h"
#include "base/database.h"
#include "base/errors.h"
#include "base/guc.h"
#include "base/locks.h"
#include "request/request.h"
#include "request/request_result.h"
#include "sale/issue.h"
#include "sale/sweep.h"

PG_FUNCTION_INFO_V1(coupon_request);

/* ---- ids ---- */

#define RANDOM_BITS		58
#define RANDOM_MASK		((UINT64CONST(1) << RANDOM_BITS) - 1)

void
coupon_request_make_id(pg_uuid_t *id, int64 campaign_id, int64 number, uint64 low_bits)
{
	uint64		value = ((uint64) campaign_id << 34) | (uint64) number;
	uint64		high = (value & ~UINT64CONST(0xffff)) | 0x8000 | ((value >> 4) & 0xfff);
	uint64		low = UINT64CONST(0x8000000000000000) | ((value & 0xf) << RANDOM_BITS) |
		(low_bits & RANDOM_MASK);

	for (int i = 0; i < 8; i++)
	{
		id->data[i] = high >> (56 - 8 * i);
		id->data[8 + i] = low >> (56 - 8 * i);
	}
}

static void
split_id(const pg_uuid_t *id, int64 *campaign_id, int64 *number)
{
	uint64		high = 0;
	uint64		value;

	for (int i = 0; i < 8; i++)
		high = high << 8 | id->data[i];
	value = (high & ~UINT64CONST(0xffff)) | ((high & 0xfff) << 4) | ((id->data[8] >> 2) & 0xf);
	*campaign_id = value >> 34;
	*number = value & COUPON_MAX_REQUEST_NUMBER;
}

static uint64
random_bits(void)
{
	static uint64 pool[128];
	static int	used = lengthof(pool);

	if (used == lengthof(pool))
	{
		if (!pg_strong_random(pool, sizeof(pool)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		used = 0;
	}
	return pool[used++];
}

/* ---- rows ---- */

void
coupon_request_read(TupleTableSlot *slot, uint32 child, CouponRequest *request)
{
	Datum	   *values = slot->tts_values;
	bool	   *nulls = slot->tts_isnull;

	slot_getallattrs(slot);
	request->id = *DatumGetUUIDP(values[Request_id - 1]);
	split_id(&request->id, &request->campaign_id, &request->number);
	request->requested_at = DatumGetTimestampTz(values[Request_requested_at - 1]);
	request->decided_at = nulls[Request_decided_at - 1] ? 0 :
		DatumGetTimestampTz(values[Request_decided_at - 1]);
	request->serial = nulls[Request_serial - 1] ? 0 : DatumGetInt64(values[Request_serial - 1]);
	request->user_id = DatumGetTextPCopy(values[Request_user_id - 1]);
	request->outcome = nulls[Request_outcome - 1] ? NULL :
		DatumGetTextPCopy(values[Request_outcome - 1]);
	request->key = nulls[Request_key - 1] ? NULL : DatumGetTextPCopy(values[Request_key - 1]);
	request->tid = slot->tts_tid;
	request->child = child;
	request->own = false;
}

void
coupon_request_fill(TupleTableSlot *slot, const CouponRequest *request)
{
	Datum	   *values = slot->tts_values;
	bool	   *nulls = slot->tts_isnull;

	values[Request_id - 1] = UUIDPGetDatum(&request->id);
	values[Request_campaign_id - 1] = Int64GetDatum(request->campaign_id);
	values[Request_requested_at - 1] = TimestampTzGetDatum(request->requested_at);
	values[Request_decided_at - 1] = TimestampTzGetDatum(request->decided_at);
	values[Request_serial - 1] = Int64GetDatum(request->serial);
	values[Request_user_id - 1] = PointerGetDatum(request->user_id);
	values[Request_outcome - 1] = PointerGetDatum(request->outcome);
	values[Request_key - 1] = PointerGetDatum(request->key);
	memset(nulls, false, Request_natts);
	nulls[Request_decided_at - 1] = request->decided_at == 0;
	nulls[Request_serial - 1] = request->serial == 0;
	nulls[Request_outcome - 1] = request->outcome == NULL;
	nulls[Request_key - 1] = request->key == NULL;
}

static bool
written_by_us(TupleTableSlot *slot)
{
	bool		isnull;
	Datum		xmin = slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull);

	return !isnull && TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin));
}

bool
coupon_request_find(const pg_uuid_t *id, CouponRequest *request)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		found = false;
	ScanKeyData key;
	CouponScan	scan;

	coupon_key_uuid(&key, 1, BTEqualStrategyNumber, id);
	for (uint32 child = 0; child < COUPON_QUEUE_CHILDREN && !found; child++)
	{
		coupon_scan_begin(&scan, catalog->requests[child], catalog->request_pkeys[child],
						  snapshot, &key, 1, false);
		if (coupon_scan_next(&scan, ForwardScanDirection))
		{
			found = true;
			coupon_request_read(scan.slot, child, request);
			request->own = written_by_us(scan.slot);
		}
		coupon_scan_end_unlock(&scan);
	}
	UnregisterSnapshot(snapshot);
	return found;
}

static void
set_user_keys(ScanKey keys, int64 campaign_id, text *user_id)
{
	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, campaign_id);
	coupon_key_text(&keys[1], 2, PointerGetDatum(user_id));
}

bool
coupon_request_find_newest(int64 campaign_id, text *user_id, CouponRequest *request)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		found = false;
	ScanKeyData keys[2];
	CouponScan	scan;

	set_user_keys(keys, campaign_id, user_id);
	for (uint32 child = 0; child < COUPON_QUEUE_CHILDREN; child++)
	{
		coupon_scan_begin(&scan, catalog->requests[child], catalog->request_user_keys[child],
						  snapshot, keys, 2, false);
		while (coupon_scan_next(&scan, ForwardScanDirection))
		{
			CouponRequest candidate;

			coupon_request_read(scan.slot, child, &candidate);
			if (!found || candidate.number > request->number)
				*request = candidate;
			found = true;
		}
		coupon_scan_end_unlock(&scan);
	}
	UnregisterSnapshot(snapshot);
	return found;
}

static int
compare_numbers(const void *a, const void *b)
{
	int64		x = ((const CouponRequest *) a)->number;
	int64		y = ((const CouponRequest *) b)->number;

	return x < y ? -1 : x > y;
}

static bool
is_among(int64 number, const int64 *numbers, int n)
{
	int			low = 0;
	int			high = n - 1;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (numbers[middle] < number)
			low = middle + 1;
		else
			high = middle;
	}
	return numbers[low] == number;
}

int
coupon_request_find_numbers(int64 campaign_id, const int64 *numbers, int nnumbers,
							uint32 child_mask, CouponRequest *requests)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	int			n = 0;
	int			children = 0;
	pg_uuid_t	bounds[2];
	ScanKeyData keys[2];
	CouponScan	scan;

	coupon_request_make_id(&bounds[0], campaign_id, numbers[0], 0);
	coupon_request_make_id(&bounds[1], campaign_id, numbers[nnumbers - 1], RANDOM_MASK);
	coupon_key_uuid(&keys[0], 1, BTGreaterEqualStrategyNumber, &bounds[0]);
	coupon_key_uuid(&keys[1], 1, BTLessEqualStrategyNumber, &bounds[1]);
	for (uint32 child = 0; child < COUPON_QUEUE_CHILDREN; child++)
	{
		int			before = n;

		if (!(child_mask & (1U << child)))
			continue;
		coupon_scan_begin(&scan, catalog->requests[child], catalog->request_pkeys[child],
						  snapshot, keys, 2, false);
		while (n < nnumbers && coupon_scan_next(&scan, ForwardScanDirection))
		{
			bool		isnull;
			int64		id;
			int64		number;

			if (!slot_attisnull(scan.slot, Request_decided_at))
				continue;
			/* one that was committed this moment is visible before it is ready */
			split_id(DatumGetUUIDP(slot_getattr(scan.slot, Request_id, &isnull)), &id, &number);
			if (is_among(number, numbers, nnumbers))
				coupon_request_read(scan.slot, child, &requests[n++]);
		}
		coupon_scan_end_unlock(&scan);
		children += n > before;
	}
	UnregisterSnapshot(snapshot);
	if (children > 1)
		qsort(requests, n, sizeof(CouponRequest), compare_numbers);
	return n;
}

/* ---- the queue ---- */

static Oid
request_table(void)
{
	return coupon_catalog()->request;
}

static int64
last_number(int64 campaign_id)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	int64		last = 0;
	pg_uuid_t	bounds[2];
	ScanKeyData keys[2];
	CouponScan	scan;

	coupon_request_make_id(&bounds[0], campaign_id, 0, 0);
	coupon_request_make_id(&bounds[1], campaign_id, COUPON_MAX_REQUEST_NUMBER, RANDOM_MASK);
	coupon_key_uuid(&keys[0], 1, BTGreaterEqualStrategyNumber, &bounds[0]);
	coupon_key_uuid(&keys[1], 1, BTLessEqualStrategyNumber, &bounds[1]);
	for (int child = 0; child < COUPON_QUEUE_CHILDREN; child++)
	{
		coupon_scan_begin(&scan, catalog->requests[child], catalog->request_pkeys[child],
						  snapshot, keys, 2, false);
		if (coupon_scan_next(&scan, BackwardScanDirection))
		{
			CouponRequest request;

			coupon_request_read(scan.slot, child, &request);
			last = Max(last, request.number);
		}
		coupon_scan_end_unlock(&scan);
	}
	UnregisterSnapshot(snapshot);
	return last;
}

typedef struct Waiting
{
	int64		campaign_id;
	int64		number;
	uint32		child;
} Waiting;

static int
compare_waiting(const void *a, const void *b)
{
	const Waiting *x = a;
	const Waiting *y = b;

	if (x->campaign_id != y->campaign_id)
		return x->campaign_id < y->campaign_id ? -1 : 1;
	return x->number < y->number ? -1 : x->number > y->number;
}

/* Reads who waits, once after the server's start. */
static void
build_queue(CouponQueue *queue)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	Waiting    *waiting;
	int64		n = 0;
	int64		room = 1024;

	waiting = palloc(room * sizeof(Waiting));
	for (uint32 child = 0; child < COUPON_QUEUE_CHILDREN; child++)
	{
		Relation	rel = table_open(catalog->requests[child], AccessShareLock);
		TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
		TupleTableSlot *slot = table_slot_create(rel, NULL);

		while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		{
			bool		isnull;

			CHECK_FOR_INTERRUPTS();
			if (!slot_attisnull(slot, Request_decided_at))
				continue;
			if (n == room)
				waiting = repalloc_huge(waiting, mul_size(room *= 2, sizeof(Waiting)));
			split_id(DatumGetUUIDP(slot_getattr(slot, Request_id, &isnull)),
					 &waiting[n].campaign_id, &waiting[n].number);
			waiting[n++].child = child;
		}
		if (n > 0 && waiting[n - 1].child == child)
			pg_atomic_write_u32(&queue->child, child);
		ExecDropSingleTupleTableSlot(slot);
		table_endscan(scan);
		table_close(rel, AccessShareLock);
	}
	UnregisterSnapshot(snapshot);
	qsort(waiting, n, sizeof(Waiting), compare_waiting);

	for (int64 i = 0; i < n;)
	{
		int64		campaign_id = waiting[i].campaign_id;
		CouponLine *line = coupon_line_lock_building(&coupon_requests, queue, campaign_id);
		bool		fits = true;

		for (; i < n && fits && waiting[i].campaign_id == campaign_id; i++)
		{
			fits = coupon_line_restore(line, false, waiting[i].number);
			if (fits)
			{
				coupon_line_set_live(line, waiting[i].number);
				coupon_line_set_ready(line, waiting[i].number);
				pg_atomic_fetch_add_u32(&queue->open[waiting[i].child], 1);
			}
		}
		LWLockRelease(line->lock);
		if (!fits)
			coupon_line_out_of_memory();
		CHECK_FOR_INTERRUPTS();
	}
	pfree(waiting);
}

const CouponQueueKind coupon_requests = {
	request_table, build_queue, last_number, false, COUPON_LOCK_REQUESTS
};

/* ---- accepting ---- */

/* Why a request was not accepted, beside the answers of issuing. */
#define OUTCOME_FULL	"full"

/* At commit the request is one that waits; after an abort nobody is there. */
static bool
apply_accepted(CouponPending *change, bool committed)
{
	CouponLine *line = change->line;

	/* decided by the same transaction: settled already */
	if (!coupon_line_is_live(line, change->number))
		return false;
	if (committed)
	{
		coupon_line_set_ready(line, change->number);
		coupon_wake(COUPON_ISSUER);
	}
	else
	{
		pg_atomic_fetch_sub_u32(&line->queue->open[change->child], 1);
		coupon_line_clear(line, change->number);
		coupon_line_drop(line, change->number);
	}
	return false;
}

/*
 * The user's request that answers this call, too: the one with the same key,
 * or without a key one that waits.  A row of a transaction that has yet to
 * decide is to be waited for: *undecided.  If there is none, *nwaiting is how
 * many others of the user wait.
 */
static bool
find_own(int64 campaign_id, text *user_id, text *key, CouponRequest *found,
		 TransactionId *undecided, int *nwaiting)
{
	const CouponCatalog *catalog = coupon_catalog();
	bool		any = false;
	SnapshotData dirty;
	ScanKeyData keys[2];

	*undecided = InvalidTransactionId;
	*nwaiting = 0;
	InitDirtySnapshot(dirty);
	set_user_keys(keys, campaign_id, user_id);
	for (uint32 child = 0; child < COUPON_QUEUE_CHILDREN && !any; child++)
	{
		CouponScan	scan;

		coupon_scan_begin(&scan, catalog->requests[child], catalog->request_user_keys[child],
						  &dirty, keys, 2, false);
		while (!any && coupon_scan_next(&scan, ForwardScanDirection))
		{
			TransactionId inserter = dirty.xmin;
			CouponRequest request;

			coupon_request_read(scan.slot, child, &request);
			if (key == NULL ? request.decided_at != 0 :
				request.key == NULL ||
				VARSIZE_ANY_EXHDR(request.key) != VARSIZE_ANY_EXHDR(key) ||
				memcmp(VARDATA_ANY(request.key), VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key)) != 0)
			{
				*nwaiting += request.decided_at == 0;
				continue;
			}
			if (TransactionIdIsValid(inserter))
				*undecided = inserter;
			else
			{
				any = true;
				*found = request;
				*undecided = InvalidTransactionId;
			}
		}
		coupon_scan_end_unlock(&scan);
	}
	return any;
}

/*
 * Enters the campaign's line if a unit is there for one more; returns the
 * refusal otherwise.  Done under the line's lock, so that of a flood no more
 * get in than there are units.
 */
static const char *
enter_line(CouponCampaign *campaign, const CouponDefinition *def, CouponQueue *queue,
		   uint32 child, int64 *number, int64 *position)
{
	CouponStock *stock = coupon_stock_open(campaign, def);
	int64		due = 0;		/* holds that have run out: their units can be had, too */

	for (;;)
	{
		CouponLine *line;
		int64		waiting;

		coupon_pending_reserve(1);
		line = coupon_line_lock(&coupon_requests, def->campaign_id, LW_EXCLUSIVE, true);
		if (line->queue != queue)
			elog(ERROR, "the queue of requests was replaced meanwhile");
		waiting = line->live;
		if (waiting >= coupon_request_depth)
		{
			LWLockRelease(line->lock);
			return OUTCOME_FULL;
		}
		if (coupon_stock_exceeds(campaign, stock, waiting - due, false))
		{
			bool		entered = coupon_line_enter(line, false, number);

			if (entered)
			{
				pg_atomic_fetch_add_u32(&queue->open[child], 1);
				coupon_pending_push(apply_accepted, line, *number, child, 0);
				*position = coupon_line_ahead(line, *number) + 1;
			}
			LWLockRelease(line->lock);
			if (!entered)
				coupon_line_out_of_memory();
			return NULL;
		}
		LWLockRelease(line->lock);

		/* not among the shards that are known; perhaps in the others */
		due = coupon_sweep_count_due(campaign, def, waiting + 1);
		if (!coupon_stock_exceeds(campaign, stock, waiting - due, true))
			return coupon_status_name(waiting == 0 && !coupon_stock_exceeds(campaign, stock, 0, true) ?
									  COUPON_SOLD_OUT : COUPON_BUSY);
	}
}

static void
insert_request(CouponTableWriter *rows, CouponRequest *request)
{
	coupon_request_make_id(&request->id, request->campaign_id, request->number, random_bits());
	coupon_request_fill(coupon_writer_row(rows), request);
	coupon_writer_insert(rows);
}

/* The window, the room, the user's limit: what refuses a request at once. */
static CouponStatus
refusal_of(CouponCampaign *campaign, const CouponDefinition *def, text *user_id,
		   int nwaiting, CouponItem *item)
{
	CouponStatus window = coupon_issue_window(def, GetCurrentTimestamp());
	CouponLookup lookup;
	CouponUserState state;
	int			room;

	if (window == COUPON_NOT_OPEN)
		return window;
	coupon_lookup_begin(&lookup, def, NULL);
	state = coupon_lookup_user(&lookup, PointerGetDatum(user_id), COUPON_NO_WAIT,
							   &item->issuance, &room);
	coupon_lookup_end(&lookup);
	if (state == COUPON_USER_HAS)
		return item->issuance.held_until == 0 ? COUPON_ALREADY_ISSUED : COUPON_HELD;
	if (window == COUPON_ISSUED && !coupon_campaign_admits(def, PointerGetDatum(user_id)))
		return COUPON_NOT_ADMITTED;
	/* under whatever keys, a user keeps no more units from others than he may have */
	if (window == COUPON_ISSUED && nwaiting >= room)
		return COUPON_BUSY;
	return window;
}

static void
accept_request(int64 campaign_id, text *user_id, text *key, CouponRequestResult *result)
{
	CouponQueue *queue = coupon_queue(&coupon_requests);
	const CouponDefinition *def;
	CouponCampaign *campaign;
	CouponRequest request = {0};
	TransactionId undecided;
	int			nwaiting;
	uint32		child;
	uint64		requester = coupon_user_hash(PointerGetDatum(user_id), campaign_id);

	for (;;)
	{
		coupon_lock(COUPON_LOCK_REQUESTER, requester);
		if (find_own(campaign_id, user_id, key, &request, &undecided, &nwaiting))
		{
			coupon_unlock(COUPON_LOCK_REQUESTER, requester);
			coupon_request_describe(&request, result);
			return;
		}
		if (!TransactionIdIsValid(undecided))
			break;
		/* not with the lock: its owner may want it */
		coupon_unlock(COUPON_LOCK_REQUESTER, requester);
		XactLockTableWait(undecided, NULL, NULL, XLTW_None);
	}

	campaign = coupon_campaign_enter(campaign_id, &def);
	result->user_id = user_id;
	result->item.status = refusal_of(campaign, def, user_id, nwaiting, &result->item);
	result->outcome = NULL;
	if (result->item.status != COUPON_ISSUED)
		result->outcome = coupon_status_name(result->item.status);
	else
	{
		CouponTableWriter *rows;

		PreventCommandIfReadOnly("coupon_request()");
		rows = coupon_queue_table_open(queue, coupon_catalog()->requests, &child);
		request.campaign_id = campaign_id;
		request.user_id = user_id;
		request.key = key;
		request.requested_at = GetCurrentTimestamp();
		result->outcome = enter_line(campaign, def, queue, child, &request.number, &result->position);
		if (result->outcome == NULL)
			insert_request(rows, &request);
		coupon_writer_close(rows);
	}
	if (result->outcome == NULL)
	{
		result->status = COUPON_REQUEST_WAITING;
		result->id = request.id;
		result->requested_at = request.requested_at;
	}
	else
		result->status = COUPON_REQUEST_REFUSED;
	coupon_campaign_leave(campaign);
	coupon_unlock(COUPON_LOCK_REQUESTER, requester);
}

/*
 * coupon_request(campaign_id, user_id, request_key)
 */
Datum
coupon_request(PG_FUNCTION_ARGS)
{
	CouponRequestResult result = {0};
	text	   *key = NULL;
	int64		campaign_id;

	PreventCommandDuringRecovery("coupon_request()");
	campaign_id = coupon_get_int64(fcinfo, 0, "campaign_id", PG_INT64_MIN, PG_INT64_MAX);
	coupon_check_text(fcinfo, 1, "user_id", 1, COUPON_MAX_NAME);
	if (!PG_ARGISNULL(2))
	{
		coupon_check_text(fcinfo, 2, "request_key", 1, COUPON_MAX_NAME);
		key = PG_GETARG_TEXT_PP(2);
	}
	if (campaign_id < 0 || campaign_id > COUPON_MAX_REQUEST_CAMPAIGN)
		coupon_campaign_unknown(campaign_id);

	accept_request(campaign_id, PG_GETARG_TEXT_PP(1), key, &result);
	return coupon_request_form_result(fcinfo, &result);
}

COUPON_FOR_NUMERIC_USERS(coupon_request, 1);
