/*
 * request_decide.c
 *	  Deciding requests: a campaign's line, from its front, in batches.
 *
 * One session at a time decides for a campaign, under a lock that dies with
 * it, so that requests are served in their order; several sessions serve
 * several campaigns.  Units, rows and what becomes of the requests are one
 * transaction: killed at any point, it has decided all of a batch or nothing.
 *
 * Nothing is waited for.  A user whose own other transaction is undecided is
 * passed by and comes again soon.  When the last units are in flight
 * elsewhere, the line stands still for a moment; while the campaign is paused
 * it stands.  Anything else ends a request, and says how.
 *
 * A row that cannot be written (a constraint of the DBA's own) fails its
 * request alone: a batch that fails is done again in halves.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "base/arguments.h"
#include "base/compat.h"
#include "base/database.h"
#include "base/locks.h"
#include "outbox/outbox.h"
#include "outbox/payload.h"
#include "request/request.h"
#include "sale/issue.h"

#define LOOK_AGAIN_MS	20		/* after somebody was passed by, if nobody else waits */
#define PASSED_MS		100		/* and if others do */
#define PAUSED_MS		100		/* between looks at a paused campaign */
#define SCAN_GAP		64		/* decided rows that a scan may walk over */

#define OUTCOME_FAILED	"failed"
#define OUTCOME_CLOSED	"closed"

PG_FUNCTION_INFO_V1(coupon_request_decide);

typedef struct Batch
{
	int64		campaign_id;
	const CouponDefinition *def;	/* NULL: there is no such campaign */
	int			n;
	CouponRequest *requests;
	CouponItem *items;
	const char **outcomes;		/* NULL: as the item says */
	CouponOutbox *outbox;
	StringInfoData payload;
} Batch;

/* A row was decided: at commit the request leaves the line. */
static bool
apply_decided(CouponPending *change, bool committed)
{
	CouponLine *line = change->line;
	TimestampTz now;

	if (!committed)
		return false;
	if (coupon_line_is_live(line, change->number))
	{
		now = GetCurrentTimestamp();
		coupon_line_clear(line, change->number);
		coupon_line_drop(line, change->number);
		coupon_line_count_served(line, now);
		pg_atomic_write_u64(&line->queue->finished[change->child], now);
		pg_atomic_fetch_sub_u32(&line->queue->open[change->child], 1);
	}
	return true;
}

/* A batch that was not decided is the next again. */
static bool
apply_read(CouponPending *change, bool committed)
{
	if (!committed && change->number < change->line->cursor)
		change->line->cursor = change->number;
	return false;
}

/* ---- finding work ---- */

static bool
claim(int64 campaign_id)
{
	return coupon_lock_try(COUPON_LOCK_DECIDING, campaign_id) != LOCKACQUIRE_NOT_AVAIL;
}

/*
 * The next line with something to do, claimed until the transaction ends; 0:
 * none.  Sets *standing if requests wait that cannot be decided now.
 */
static int64
claim_line(CouponQueue *queue, bool *standing)
{
	static int	next = 0;
	TimestampTz now = GetCurrentTimestamp();

	*standing = false;
	for (int i = 0; i < coupon_line_slots(); i++)
	{
		int			n = next++ % coupon_line_slots();
		CouponLine *line = coupon_line_lock_nth(queue, n, LW_SHARED);
		int64		id = 0;

		if (next >= coupon_line_slots())
			next = 0;
		if (line == NULL)
			continue;
		if (line->ready > 0 && line->resume_at <= now)
			id = line->id;
		else if (line->ready > 0)
			*standing = true;
		LWLockRelease(line->lock);
		if (id != 0 && claim(id))
			return id;
	}
	return 0;
}

/* The line stands until then; from its front, if somebody was passed by. */
static void
hold_line(int64 campaign_id, int ms, bool rewind)
{
	CouponLine *line = coupon_line_lock(&coupon_requests, campaign_id, LW_EXCLUSIVE, true);

	line->resume_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
	if (rewind)
	{
		line->cursor = 0;
		line->passed_at = 0;
	}
	LWLockRelease(line->lock);
}

/* Somebody was passed by: to be looked at again before long. */
static void
note_passed(int64 campaign_id)
{
	CouponLine *line = coupon_line_lock(&coupon_requests, campaign_id, LW_EXCLUSIVE, true);

	if (line->passed_at == 0)
		line->passed_at = GetCurrentTimestamp();
	LWLockRelease(line->lock);
}

/* The numbers of the next requests of a line. */
static int
choose_requests(int64 campaign_id, int max, int64 *numbers)
{
	TimestampTz now = GetCurrentTimestamp();
	CouponLine *line;
	int			n;

	coupon_pending_reserve(1);
	line = coupon_line_lock(&coupon_requests, campaign_id, LW_EXCLUSIVE, true);
	if (line->passed_at != 0 && TimestampDifferenceExceeds(line->passed_at, now, PASSED_MS))
	{
		line->cursor = 0;
		line->passed_at = 0;
	}
	n = coupon_line_find_ready(line, line->cursor, numbers, max);
	if (n > 0)
	{
		line->cursor = numbers[n - 1] + 1;
		coupon_pending_push(apply_read, line, numbers[0], 0, 0);
	}
	LWLockRelease(line->lock);
	return n;
}

/* They were not even looked at: to be the next again. */
static void
put_back(int64 campaign_id, int64 number)
{
	CouponLine *line = coupon_line_lock(&coupon_requests, campaign_id, LW_EXCLUSIVE, true);

	line->cursor = Min(line->cursor, number);
	LWLockRelease(line->lock);
}

/*
 * The rows of chosen requests.  They lie together but where some were passed
 * by, so they are read in as few scans as walk over little else.
 */
static int
read_requests(int64 campaign_id, uint32 child_mask, const int64 *numbers, int n,
			  CouponRequest *requests)
{
	int			found = 0;
	int			end;

	for (int begin = 0; begin < n; begin = end)
	{
		for (end = begin + 1; end < n && numbers[end] - numbers[end - 1] <= SCAN_GAP; end++)
			;
		found += coupon_request_find_numbers(campaign_id, numbers + begin, end - begin,
											 child_mask, requests + found);
	}
	return found;
}

static bool
campaign_exists(int64 campaign_id)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	CouponScan	scan;
	bool		found;

	coupon_key_int64(&key, 1, BTEqualStrategyNumber, campaign_id);
	coupon_scan_begin(&scan, catalog->campaign, catalog->campaign_pkey, snapshot, &key, 1, false);
	found = coupon_scan_next(&scan, ForwardScanDirection);
	coupon_scan_end(&scan);
	UnregisterSnapshot(snapshot);
	return found;
}

/* ---- deciding ---- */

/* Could the same succeed later, without anybody changing anything? */
static bool
is_passing(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case MAKE_SQLSTATE('0', 'A', '0', '0', '0'):
		case MAKE_SQLSTATE('2', '1', '0', '0', '0'):
		case MAKE_SQLSTATE('2', '2', '0', '0', '0'):
		case MAKE_SQLSTATE('2', '3', '0', '0', '0'):
		case MAKE_SQLSTATE('P', '0', '0', '0', '0'):
			return false;
		default:
			return true;
	}
}

/*
 * Issues to a part of the batch in a subtransaction, and if that fails to its
 * halves; one that fails alone has that as its outcome.
 */
static void
issue_part(Batch *batch, int begin, int n)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	ResourceOwner oldowner = CurrentResourceOwner;
	volatile bool failed = false;

	check_stack_depth();
	for (int i = begin; i < begin + n; i++)
	{
		memset(&batch->items[i], 0, sizeof(CouponItem));
		batch->items[i].user_id = PointerGetDatum(batch->requests[i].user_id);
		batch->items[i].admitted = true;	/* asked when the request was accepted */
	}

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(oldcontext);
	PG_TRY();
	{
		coupon_issue_batch(batch->campaign_id, batch->items + begin, n, COUPON_NO_WAIT);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(oldcontext);
		CurrentResourceOwner = oldowner;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(oldcontext);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(oldcontext);
		CurrentResourceOwner = oldowner;
		if (is_passing(error->sqlerrcode))
			ReThrowError(error);
		failed = true;
		if (n == 1)
		{
			ereport(LOG,
					(errmsg("coupon request could not be decided: %s", error->message),
					 errdetail("Campaign %lld, request number %lld.", (long long) batch->campaign_id,
							   (long long) batch->requests[begin].number)));
			batch->outcomes[begin] = OUTCOME_FAILED;
		}
		FreeErrorData(error);
	}
	PG_END_TRY();

	if (failed && n > 1)
	{
		issue_part(batch, begin, n / 2);
		issue_part(batch, begin + n / 2, n - n / 2);
	}
}

/* Who is not served is told why, and so are those who listen. */
static void
append_event(Batch *batch, const CouponRequest *request, const char *outcome, TimestampTz now)
{
	StringInfo	payload = &batch->payload;
	char	   *user_id = text_to_cstring(request->user_id);
	char		id[40];

	if (batch->def == NULL)
		return;
	if (batch->outbox == NULL)
	{
		batch->outbox = coupon_outbox_begin(true);
		initStringInfo(payload);
	}
	for (int i = 0, at = 0; i < UUID_LEN; i++)
		at += sprintf(id + at, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x",
					  request->id.data[i]);
	coupon_payload_begin(payload);
	coupon_payload_int64(payload, "campaign_id", batch->campaign_id);
	coupon_payload_text(payload, "user_id", user_id);
	coupon_payload_text(payload, "request_id", id);
	coupon_payload_text(payload, "outcome", outcome);
	coupon_payload_time(payload, "at", now);
	coupon_payload_end(payload);
	coupon_outbox_add(batch->outbox, COUPON_DEFINITION_TOPIC(batch->def), user_id,
					  COUPON_EVENT_REQUEST_FAILED, payload->data);
	pfree(user_id);
}

/* Writes what became of a request into its row. */
static void
store_outcome(Batch *batch, CouponTableWriter *rows, int i, TimestampTz now)
{
	CouponRequest *request = &batch->requests[i];
	CouponItem *item = &batch->items[i];
	const char *outcome = batch->outcomes[i];
	CouponLine *line;

	if (outcome == NULL)
	{
		outcome = coupon_status_name(item->status);
		if (item->status == COUPON_ISSUED || item->status == COUPON_ALREADY_ISSUED)
			request->serial = item->issuance.serial;
	}
	request->outcome = cstring_to_text(outcome);
	request->decided_at = now;
	coupon_request_fill(coupon_writer_row(rows), request);
	if (coupon_writer_update(rows, &request->tid, false) != COUPON_ROW_CHANGED)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("a request was changed by somebody else"),
				 errdetail("Campaign %lld, request number %lld.", (long long) batch->campaign_id,
						   (long long) request->number),
				 errhint("Leave the rows of coupon.request to the issuer.")));
	if (batch->outcomes[i] != NULL || item->status != COUPON_ISSUED)
		append_event(batch, request, outcome, now);

	coupon_pending_reserve(1);
	line = coupon_line_lock(&coupon_requests, batch->campaign_id, LW_EXCLUSIVE, true);
	coupon_pending_push(apply_decided, line, request->number, request->child, 0);
	LWLockRelease(line->lock);
}

/* Decides what can be; returns how many. */
static int
decide_batch(Batch *batch)
{
	TimestampTz now = GetCurrentTimestamp();
	int			decided = 0;

	if (batch->def != NULL)
	{
		/* issuing enters the campaign for itself, and may move its definition */
		issue_part(batch, 0, batch->n);
		coupon_campaign_leave(coupon_campaign_enter(batch->campaign_id, &batch->def));
	}
	else
		for (int i = 0; i < batch->n; i++)
			batch->outcomes[i] = OUTCOME_CLOSED;

	/* rows of this transaction are changed by a later command only */
	CommandCounterIncrement();
	for (uint32 child = 0; child < COUPON_QUEUE_CHILDREN; child++)
	{
		CouponTableWriter *rows = NULL;

		for (int i = 0; i < batch->n; i++)
		{
			CHECK_FOR_INTERRUPTS();
			if (batch->requests[i].child != child ||
				(batch->outcomes[i] == NULL && batch->items[i].status == COUPON_BUSY))
				continue;
			if (rows == NULL)
				rows = coupon_writer_open(coupon_catalog()->requests[child], COUPON_UPDATE);
			store_outcome(batch, rows, i, now);
			decided++;
		}
		if (rows != NULL)
			coupon_writer_close(rows);
	}
	if (batch->outbox != NULL)
		coupon_outbox_finish(batch->outbox);
	return decided;
}

/* Is a unit free, so that who was passed by stands in his own way? */
static bool
has_free_unit(CouponCampaign *campaign, const CouponDefinition *def)
{
	CouponStockSum sum;

	coupon_stock_sum(campaign, coupon_stock_open(campaign, def), &sum);
	return sum.free > 0;
}

/*
 * Locks the tables in which somebody waits, and only these, so that the
 * other can be emptied; who was chosen before is in one of them.  Workers do
 * not wait: somebody may be dropping the tables, and want what this
 * transaction has locked already.
 */
static uint32
lock_tables(CouponQueue *queue, bool wait)
{
	const CouponCatalog *catalog = coupon_catalog();
	uint32		mask = 0;

	for (int child = 0; child < COUPON_QUEUE_CHILDREN; child++)
	{
		if (pg_atomic_read_u32(&queue->open[child]) == 0)
			continue;
		if (wait)
			LockRelationOid(catalog->requests[child], RowExclusiveLock);
		else if (!ConditionalLockRelationOid(catalog->requests[child], RowExclusiveLock))
			return 0;
		mask |= 1U << child;
	}
	return mask;
}

/* One batch of a claimed line. */
static CouponDecideResult
decide_line(CouponQueue *queue, int64 campaign_id, int max, bool wait_for_tables, int64 *decided)
{
	Batch		batch = {0};
	CouponCampaign *campaign = NULL;
	int64	   *numbers = palloc(max * sizeof(int64));
	uint32		child_mask = 0;
	int			nchosen;
	int			n;

	batch.campaign_id = campaign_id;
	batch.requests = palloc(max * sizeof(CouponRequest));
	if (campaign_exists(campaign_id))
	{
		CouponStatus window;

		campaign = coupon_campaign_enter(campaign_id, &batch.def);
		window = coupon_issue_window(batch.def, GetCurrentTimestamp());
		if (window == COUPON_PAUSED || window == COUPON_NOT_OPEN)
		{
			coupon_campaign_leave(campaign);
			hold_line(campaign_id, PAUSED_MS, false);
			return COUPON_DECIDE_LATER;
		}
	}
	nchosen = choose_requests(campaign_id, max, numbers);
	if (nchosen > 0)
	{
		child_mask = lock_tables(queue, wait_for_tables);
		if (child_mask == 0)
		{
			put_back(campaign_id, numbers[0]);
			if (campaign != NULL)
				coupon_campaign_leave(campaign);
			return COUPON_DECIDE_LATER;
		}
		batch.n = read_requests(campaign_id, child_mask, numbers, nchosen, batch.requests);
	}
	if (batch.n == 0)
	{
		/* who waits was passed by */
		hold_line(campaign_id, LOOK_AGAIN_MS, true);
		if (campaign != NULL)
			coupon_campaign_leave(campaign);
		return COUPON_DECIDE_LATER;
	}
	batch.items = palloc0(batch.n * sizeof(CouponItem));
	batch.outcomes = palloc0(batch.n * sizeof(char *));
	n = decide_batch(&batch);
	*decided += n;
	if (batch.n < nchosen)
		note_passed(campaign_id);
	if (n < batch.n)
	{
		if (has_free_unit(campaign, batch.def))
			note_passed(campaign_id);
		else
			hold_line(campaign_id, LOOK_AGAIN_MS, true);
	}
	if (campaign != NULL)
		coupon_campaign_leave(campaign);
	return COUPON_DECIDED_SOME;
}

CouponDecideResult
coupon_request_decide_some(int max, bool wait_for_tables, int64 *decided)
{
	CouponQueue *queue = coupon_queue(&coupon_requests);
	bool		standing;
	int64		campaign_id = claim_line(queue, &standing);

	if (campaign_id == 0)
		return standing ? COUPON_DECIDE_LATER : COUPON_DECIDED_ALL;
	return decide_line(queue, campaign_id, max, wait_for_tables, decided);
}

/*
 * coupon_request_decide(max_rows) - what an issuer does, once for each line
 */
Datum
coupon_request_decide(PG_FUNCTION_ARGS)
{
	int32		max = coupon_get_int32(fcinfo, 0, "max_rows", 1, 100000);
	int64		decided = 0;

	PreventCommandIfReadOnly("coupon_request_decide()");
	PreventCommandDuringRecovery("coupon_request_decide()");
	(void) coupon_request_decide_some(max, true, &decided);
	PG_RETURN_INT64(decided);
}
