/*
 * issuer.c
 *	  Deciding requests: a campaign's line, from its front, in batches; and the
 *	  worker that does it all the time.
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
 * A unit that cannot be issued, or whose outcome cannot be written (a
 * constraint of the DBA's own), fails its request alone: a batch that fails is
 * done again in halves.  The row is what counts: where the outbox refuses the
 * event of one that failed, it ends without one.  Only an ERROR that is
 * nobody's fault and passes, or an outbox that refuses all, makes the line
 * wait, and it alone, longer each time.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

#include "base/arguments.h"
#include "base/attempt.h"
#include "base/clock.h"
#include "base/compat.h"
#include "base/errors.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/stat.h"
#include "base/table_writer.h"
#include "base/trace.h"
#include "node/fence.h"
#include "queue/pending.h"
#include "queue/queue_table.h"
#include "request/issuer.h"
#include "request/request_table.h"
#include "sale/issue.h"
#include "sale/unit_event.h"

#define LOOK_AGAIN_MS	20		/* after somebody was passed by, if nobody
								 * else waits */
#define PASSED_MS		100		/* and if others do */
#define PAUSED_MS		100		/* between looks at a paused campaign */
#define LOCKED_MS		10		/* while somebody has the tables locked */
#define FAILED_MS		1000	/* after an ERROR that is not a request's own, */
#define FAILED_DOUBLED	4		/* doubled so often at most */
#define STUCK_MS		1000	/* until a request is tried again whose row
								 * could not be written */
#define TELL_STUCK_MS	10000	/* the log is told no oftener */
#define BATCH_REQUESTS	1000	/* of the worker */
#define SMALL_BATCH		200		/* a commit is shared by more, */
#define REST_MS			2		/* if they have the time to gather */
#define SCAN_GAP		64		/* decided rows that a scan may walk over */

#define OUTCOME_FAILED	"failed"
#define OUTCOME_CLOSED	"closed"

static const char *const decisions[] = {
	"issued", "already_issued", "sold_out", OUTCOME_CLOSED, "not_admitted", "held",
	"returned", "other_call", "invalid", OUTCOME_FAILED
};

CouponWay	coupon_way_decision = {
	.name = "decision",
	.kind = COUPON_WAY_COMMITTED,
	.batched = true,
	.outcomes = decisions,
	.noutcomes = lengthof(decisions)
};

PG_FUNCTION_INFO_V1(coupon_request_decide);

typedef struct Batch
{
	int64		campaign_id;
	const char *topic;			/* of its events; NULL: there is no such
								 * campaign */
	int			n;
	CouponRequest *requests;
	CouponItem *items;
	const char **outcomes;		/* NULL: as the item says */
	int		   *errors;			/* SQLSTATE of those that failed, or 0 */
	int			decided;		/* so many */
	int			stuck;			/* so many whose rows cannot be written */
	CouponOutbox *outbox;		/* of the part at work */
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
		line->failures = 0;
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

/*
 * The line stands for so long, and goes on from its front if somebody was
 * passed by; but who is stuck is not looked at before their time.
 */
static TimestampTz
hold_line(int64 campaign_id, int ms, bool rewind)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
	CouponLine *line = coupon_queue_lock(&coupon_requests, campaign_id, LW_EXCLUSIVE, true);

	line->resume_at = until;
	if (rewind && coupon_ms_until(line->passed_at, until, STUCK_MS) == 0)
	{
		line->cursor = 0;
		line->passed_at = 0;
	}
	LWLockRelease(line->lock);
	return until;
}

/* The line cannot be decided: how often before was it so, one after another? */
static int
note_failure(int64 campaign_id)
{
	CouponLine *line = coupon_queue_lock(&coupon_requests, campaign_id, LW_EXCLUSIVE, true);
	int			before = line->failures;

	line->failures = Min(before + 1, FAILED_DOUBLED);
	LWLockRelease(line->lock);
	return before;
}

/* Somebody was passed by: to be looked at again after so long at the latest. */
static void
note_passed(int64 campaign_id, int ms)
{
	TimestampTz at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms - PASSED_MS);
	CouponLine *line = coupon_queue_lock(&coupon_requests, campaign_id, LW_EXCLUSIVE, true);

	if (line->passed_at == 0 || line->passed_at > at)
		line->passed_at = at;
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
	line = coupon_queue_lock(&coupon_requests, campaign_id, LW_EXCLUSIVE, true);
	if (line->passed_at != 0 && coupon_ms_until(line->passed_at + PASSED_MS * 1000, now, STUCK_MS) == 0)
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
	CouponLine *line = coupon_queue_lock(&coupon_requests, campaign_id, LW_EXCLUSIVE, true);

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

/* Might the same succeed later, without anybody mending anything? */
static bool
is_passing(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case MAKE_SQLSTATE('4', '0', '0', '0', '0'):	/* a deadlock, a
														 * conflict */
		case MAKE_SQLSTATE('5', '3', '0', '0', '0'):	/* memory, disk,
														 * connections */
		case MAKE_SQLSTATE('5', '7', '0', '0', '0'):	/* told to stop */
		case MAKE_SQLSTATE('5', '8', '0', '0', '0'):	/* the file system */
			return true;
		default:
			return sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
				sqlerrcode == ERRCODE_COUPON_OUT_OF_MAP_MEMORY ||
				sqlerrcode == ERRCODE_COUPON_FENCED;
	}
}

/* A part of a batch. */
typedef struct Part
{
	Batch	   *batch;
	int			begin;
	int			n;
	bool		with_events;
} Part;

/* Who is not served is told why, and so are those who listen. */
static void
append_event(Batch *batch, const CouponRequest *request, const char *outcome, int error,
			 TimestampTz now)
{
	CouponUnitEvent event = {0};

	if (batch->outbox == NULL)
		batch->outbox = coupon_outbox_begin(true);
	event.topic = batch->topic;
	event.trace = request->trace;
	event.campaign_id = batch->campaign_id;
	event.user_id = text_to_cstring(request->user_id);
	event.request_id = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&request->id)));
	event.outcome = outcome;
	event.sqlstate = error == 0 ? NULL : unpack_sql_state(error);
	event.at = now;
	coupon_unit_event_add(batch->outbox, COUPON_EVENT_REQUEST_FAILED, &event);
}

/* Writes what became of a request into its row. */
static void
store_outcome(Batch *batch, CouponTableWriter *rows, int i, TimestampTz now, bool with_event)
{
	CouponRequest *request = &batch->requests[i];
	CouponItem *item = &batch->items[i];
	const char *outcome = batch->outcomes[i];
	CouponLine *line;

	request->serial = 0;		/* whatever an attempt that failed has found */
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
	if (with_event && batch->topic != NULL &&
		(batch->outcomes[i] != NULL || item->status != COUPON_ISSUED))
		append_event(batch, request, outcome, batch->errors[i], now);

	COUPON_FAULT(request_decided);
	coupon_pending_reserve(1);
	line = coupon_queue_lock(&coupon_requests, batch->campaign_id, LW_EXCLUSIVE, true);
	coupon_pending_push(apply_decided, line, request->number, request->child, 0);
	LWLockRelease(line->lock);
	coupon_stat_add(&coupon_way_decision, coupon_stat_find(&coupon_way_decision, outcome), 1,
					request->requested_at);
}

/* Does a request wait on, as its campaign, which was paused or put off just now? */
static bool
stands(const Batch *batch, int i)
{
	CouponStatus status = batch->items[i].status;

	return batch->outcomes[i] == NULL && (status == COUPON_PAUSED || status == COUPON_NOT_OPEN);
}

/* Writes what became of a part's requests, but for those who come again. */
static void
store_part(void *arg)
{
	Part	   *part = arg;
	Batch	   *batch = part->batch;
	TimestampTz now = GetCurrentTimestamp();

	/* rows of this transaction are changed by a later command only */
	CommandCounterIncrement();
	batch->outbox = NULL;
	for (uint32 child = 0; child < COUPON_QUEUE_CHILDREN; child++)
	{
		CouponTableWriter *rows = NULL;

		for (int i = part->begin; i < part->begin + part->n; i++)
		{
			CHECK_FOR_INTERRUPTS();
			if (batch->requests[i].child != child || stands(batch, i) ||
				(batch->outcomes[i] == NULL && batch->items[i].status == COUPON_BUSY))
				continue;
			if (rows == NULL)
				rows = coupon_writer_open(coupon_catalog()->requests[child], COUPON_UPDATE);
			store_outcome(batch, rows, i, now, part->with_events);
			batch->decided++;
		}
		if (rows != NULL)
			coupon_writer_close(rows);
	}
	if (batch->outbox != NULL)
		coupon_outbox_finish(batch->outbox);
}

static void
issue_part(void *arg)
{
	Part	   *part = arg;
	Batch	   *batch = part->batch;

	for (int i = part->begin; i < part->begin + part->n; i++)
	{
		memset(&batch->items[i], 0, sizeof(CouponItem));
		batch->items[i].user_id = PointerGetDatum(batch->requests[i].user_id);
		batch->items[i].trace = batch->requests[i].trace;
		batch->items[i].request_key = batch->requests[i].key;
		/* both were asked when the request was accepted */
		batch->items[i].admitted = true;
		batch->items[i].accepted = true;
		if (batch->topic == NULL)
			batch->outcomes[i] = OUTCOME_CLOSED;
	}
	if (batch->topic != NULL)
		coupon_issue_batch(batch->campaign_id, batch->items + part->begin, part->n, COUPON_NO_WAIT);
	store_part(part);
}

/* In a subtransaction; an ERROR that passes is thrown on. */
static ErrorData *
attempt_part(void (*work) (void *arg), Part *part)
{
	int			decided = part->batch->decided;
	ErrorData  *error = coupon_attempt(work, part);

	if (error == NULL)
		return NULL;
	part->batch->decided = decided;
	if (is_passing(error->sqlerrcode))
		ReThrowError(error);
	return error;
}

/* Would any other row be refused as well, until somebody mends the table? */
static bool
is_of_table(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case MAKE_SQLSTATE('0', 'A', '0', '0', '0'):	/* a trigger, a column */
		case MAKE_SQLSTATE('2', '5', '0', '0', '0'):	/* read only */
		case MAKE_SQLSTATE('4', '2', '0', '0', '0'):	/* something is missing */
		case MAKE_SQLSTATE('5', '5', '0', '0', '0'):	/* its state */
		case MAKE_SQLSTATE('X', 'X', '0', '0', '0'):	/* damage */
			return true;
		default:
			return false;
	}
}

static void
report_failure(int level, const Part *part, const char *what, const ErrorData *error)
{
	ereport(level,
			(errcode(error->sqlerrcode),
			 errmsg("%s: %s", what, error->message),
			 errdetail("Campaign %lld, request number %lld, SQLSTATE %s.",
					   (long long) part->batch->campaign_id,
					   (long long) part->batch->requests[part->begin].number,
					   unpack_sql_state(error->sqlerrcode)),
			 coupon_trace_context(part->batch->requests[part->begin].trace)));
}

/* Who is stuck is tried again and again: the operator is not told each time. */
static bool
is_time_to_tell_stuck(void)
{
	static TimestampTz told_at = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(told_at, now, TELL_STUCK_MS))
		return false;
	told_at = now;
	return true;
}

/* A request that cannot be decided ends as failed, if that can be written. */
static void
fail_request(Part *part, const ErrorData *error)
{
	Batch	   *batch = part->batch;
	const char *what = NULL;
	ErrorData  *unwritten;

	batch->outcomes[part->begin] = OUTCOME_FAILED;
	batch->errors[part->begin] = error->sqlerrcode;
	unwritten = attempt_part(store_part, part);
	if (unwritten != NULL)
	{
		if (is_of_table(unwritten->sqlerrcode))
		{
			report_failure(LOG, part, "coupon request could not be decided", error);
			ReThrowError(unwritten);
		}
		part->with_events = false;
		if (attempt_part(store_part, part) == NULL)
			what = "coupon request failed, and its event could not be written";
		else
		{
			batch->stuck++;
			if (!is_time_to_tell_stuck())
				return;
			what = "what became of a coupon request could not be written";
		}
	}
	report_failure(LOG, part, "coupon request could not be decided", error);
	if (what != NULL)
		report_failure(WARNING, part, what, unwritten);
}

/*
 * Decides a part of the batch, and if that fails its halves; one that fails
 * alone has that as its outcome.
 */
static void
decide_part(Batch *batch, int begin, int n)
{
	Part		part = {batch, begin, n, true};
	ErrorData  *error;

	check_stack_depth();
	error = attempt_part(issue_part, &part);
	if (error == NULL)
		return;
	coupon_stat_tally(COUPON_TALLY_RETRIES);
	if (n > 1)
	{
		decide_part(batch, begin, n / 2);
		decide_part(batch, begin + n / 2, n - n / 2);
	}
	else
		fail_request(&part, error);
	FreeErrorData(error);
}

/* Is a unit free, so that who was passed by waits for a transaction of their own? */
static bool
has_free_unit(int64 campaign_id)
{
	const CouponDefinition *def;
	CouponCampaign *campaign = coupon_campaign_enter(campaign_id, &def);
	CouponStockSum sum;

	coupon_stock_sum(campaign, coupon_stock_open(campaign, def), &sum);
	coupon_campaign_leave(campaign);
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

/* What is to be done with a claimed line, and what was. */
typedef struct Work
{
	CouponQueue *queue;
	int64		campaign_id;
	int			max;
	bool		wait_for_tables;
	int64		decided;
	TimestampTz resume_at;		/* nothing more to be done before; 0: at once */
} Work;

/* Chooses and reads the next requests of the line; the batch may be empty. */
static void
fill_batch(Work *work, Batch *batch, int *nchosen)
{
	int64	   *numbers = palloc(work->max * sizeof(int64));
	uint32		child_mask;

	*nchosen = choose_requests(work->campaign_id, work->max, numbers);
	if (*nchosen > 0)
	{
		child_mask = lock_tables(work->queue, work->wait_for_tables);
		if (child_mask == 0)
		{
			put_back(work->campaign_id, numbers[0]);
			work->resume_at = hold_line(work->campaign_id, LOCKED_MS, false);
			return;
		}
		COUPON_FAULT(request_chosen);
		batch->requests = palloc(*nchosen * sizeof(CouponRequest));
		batch->n = read_requests(work->campaign_id, child_mask, numbers, *nchosen, batch->requests);
	}
	/* who waits was passed by */
	if (batch->n == 0)
		work->resume_at = hold_line(work->campaign_id, LOOK_AGAIN_MS, true);
}

/*
 * What is to be done about those of a batch who wait on.  Who is stuck holds
 * up nobody: the line stands only if nothing but such was found, and the
 * longer the more they were, for then it is most likely the table's.
 */
static void
note_waiting(Work *work, const Batch *batch, int nchosen)
{
	int			passed = batch->n - batch->decided - batch->stuck;
	int			first = 0;

	if (batch->stuck > 0)
		note_passed(work->campaign_id, STUCK_MS);
	if (batch->decided + batch->stuck < nchosen)
		note_passed(work->campaign_id, PASSED_MS);
	while (first < batch->n && !stands(batch, first))
		first++;
	if (first < batch->n)
	{
		put_back(work->campaign_id, batch->requests[first].number);
		work->resume_at = hold_line(work->campaign_id, PAUSED_MS, false);
	}
	else if (batch->stuck > 0 && batch->stuck == batch->n)
		work->resume_at = hold_line(work->campaign_id,
									Min(batch->stuck * LOOK_AGAIN_MS, FAILED_MS), false);
	else if (passed > 0 && !has_free_unit(work->campaign_id))
		work->resume_at = hold_line(work->campaign_id, LOOK_AGAIN_MS, true);
}

/* One batch of a claimed line. */
static void
decide_line(void *arg)
{
	Work	   *work = arg;
	Batch		batch = {.campaign_id = work->campaign_id};
	int			nchosen = 0;

	if (campaign_exists(work->campaign_id))
	{
		const CouponDefinition *def;
		CouponCampaign *campaign = coupon_campaign_enter(work->campaign_id, &def);
		CouponStatus window = coupon_issue_window(def, GetCurrentTimestamp());
		bool		shared = def->shared;

		/* issuing enters anew, which may move the definition: keep a copy */
		batch.topic = pstrdup(COUPON_DEFINITION_TOPIC(def));
		coupon_campaign_leave(campaign);
		if (window == COUPON_PAUSED || window == COUPON_NOT_OPEN || (shared && !coupon_fence_passed()))
			work->resume_at = hold_line(work->campaign_id, PAUSED_MS, false);
	}
	if (work->resume_at == 0)
		fill_batch(work, &batch, &nchosen);
	if (batch.n > 0)
	{
		batch.items = palloc0(batch.n * sizeof(CouponItem));
		batch.outcomes = palloc0(batch.n * sizeof(char *));
		batch.errors = palloc0(batch.n * sizeof(int));
		decide_part(&batch, 0, batch.n);
		work->decided = batch.decided;
		coupon_stat_batch(&coupon_way_decision, batch.decided);
		note_waiting(work, &batch, nchosen);
	}
}

/* A claimed line, whose ERROR is its own. */
static void
attempt_line(Work *work)
{
	ErrorData  *error;

	coupon_worker_tell("deciding requests of campaign %lld", (long long) work->campaign_id);
	error = coupon_attempt(decide_line, work);
	if (error == NULL)
		return;
	work->decided = 0;
	work->resume_at = hold_line(work->campaign_id, FAILED_MS << note_failure(work->campaign_id), false);
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("requests of campaign %lld cannot be decided now: %s",
					(long long) work->campaign_id, error->message),
			 error->detail ? errdetail("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0));
	FreeErrorData(error);
}

/*
 * Decides up to max waiting requests of one campaign, adds their number to
 * *decided.  True: there may be more to do at once; if not, there may be at
 * *due.
 */
static bool
decide_some(int max, bool wait_for_tables, int64 *decided, TimestampTz *due)
{
	static int	next = 0;
	CouponQueue *queue = coupon_queue(&coupon_requests);

	*due = DT_NOEND;
	for (int i = 0; i < coupon_queue_slots(); i++)
	{
		CouponLine *line;
		Work		work = {queue, 0, max, wait_for_tables};
		TimestampTz now = GetCurrentTimestamp();
		long		stands_ms;
		bool		waiting;

		next = (next + 1) % coupon_queue_slots();
		line = coupon_queue_lock_nth(queue, next, LW_SHARED);
		if (line == NULL)
			continue;
		work.campaign_id = line->id;
		stands_ms = coupon_ms_until(line->resume_at, now, FAILED_MS << FAILED_DOUBLED);
		waiting = line->ready > 0;
		LWLockRelease(line->lock);
		if (!waiting)
			continue;
		if (stands_ms > 0)
		{
			*due = Min(*due, TimestampTzPlusMilliseconds(now, stands_ms));
			continue;
		}

		/* claimed until the transaction ends, if no other session is at it */
		if (coupon_lock_try(COUPON_LOCK_DECIDING, work.campaign_id) == LOCKACQUIRE_NOT_AVAIL)
			continue;
		attempt_line(&work);
		*decided += work.decided;
		if (work.decided > 0 || work.resume_at == 0)
			return true;
		*due = Min(*due, work.resume_at);
	}
	return false;
}

/*
 * coupon_request_decide(max_rows) - what an issuer does, once for each line
 */
Datum
coupon_request_decide(PG_FUNCTION_ARGS)
{
	int32		max = coupon_get_int32(fcinfo, 0, "max_rows", 1, 100000);
	int64		decided = 0;
	TimestampTz due;

	PreventCommandIfReadOnly("coupon_request_decide()");
	PreventCommandDuringRecovery("coupon_request_decide()");
	(void) decide_some(max, true, &decided, &due);
	PG_RETURN_INT64(decided);
}

/* ---- the worker ---- */

static int	wait_ms = 0;		/* after a cycle that left nothing to do */
static int64 last_batch = 0;

/* A cycle decides or rotates: emptying a table wants no lock on another. */
static bool
decide(void)
{
	int64		decided = 0;
	TimestampTz due;
	bool		more;

	last_batch = 0;
	if (coupon_worker_instance() == 0 && coupon_queue_table_rotate(&coupon_requests))
		return true;
	more = decide_some(BATCH_REQUESTS, false, &decided, &due);
	last_batch = decided;
	/* until a line may go on; whoever requests wakes us sooner */
	wait_ms = coupon_queue_table_wait_ms(&coupon_requests, due);
	return more;
}

static int
decide_interval(void)
{
	return wait_ms;
}

/* Who comes to an idle issuer is served at once, and only then it rests. */
static int
decide_rest(void)
{
	return last_batch > 0 && last_batch < SMALL_BATCH ? REST_MS : 0;
}

static int
issuers(void)
{
	return coupon_issuers;
}

static const char *const tables[] = {
	"campaign", "shard", "unit", "issuance", "request_key", "lapsed_hold", "outbox_0", "outbox_1", "outbox_2",
	"request", NULL
};

const CouponWorkerKind coupon_issuer = {
	.name = "coupon issuer",
	.activity = "looking for requests",
	.tables = tables,
	.work = decide,
	.interval = decide_interval,
	.instances = issuers,
	.rest = decide_rest
};
