/*
 * group_worker.c
 *	  Carries out grouped calls: takes all that wait, issues them in one
 *	  transaction, answers when it is durable.
 *
 * A batch is bounded: it never waits for another transaction's row (busy is
 * the answer), and a lock that a session holds for longer than LOCK_PATIENCE
 * is an ERROR for those who wait.  One call's ERROR is not its neighbours':
 * the batch is rolled back and worked off again, campaign by campaign and if
 * need be call by call, each in a subtransaction; that is as slow as it is
 * rare.
 */
#include "postgres.h"

#include "access/xact.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "postmaster/interrupt.h"
#include "replication/syncrep.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "base/attempt.h"
#include "base/clock.h"
#include "base/compat.h"
#include "base/errors.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/stat.h"
#include "base/worker.h"
#include "group/group.h"

#define LOOK_AROUND_MS		500 /* of a worker that nobody calls */
#define TABLES_PATIENCE_MS	1000	/* while the tables cannot be locked */
#define LOCK_PATIENCE		"1s"	/* for any other lock */

#define LOCKED_MESSAGE	"the tables of coupon cannot be used at the moment"
#define LOCKED_DETAIL	"Nothing was issued. Another transaction has locked what the worker needs, or the extension was dropped."
#define LOCKED_HINT		"Try again when that transaction is over."

/* The calls that this worker has taken and not answered. */
static CouponCall **taken = NULL;
static int	ntaken = 0;

/* This worker's batch, for the statistics. */
static instr_time worked_at;	/* when it was ready to commit */
static bool repeated = false;

static TimestampTz barred_since = 0;	/* 0: the tables could be locked */

static int
compare_calls(const void *a, const void *b)
{
	const CouponCall *x = *(CouponCall *const *) a;
	const CouponCall *y = *(CouponCall *const *) b;

	if (x->campaign_id != y->campaign_id)
		return x->campaign_id < y->campaign_id ? -1 : 1;
	return x->position - y->position;
}

/* Brings together the calls of a campaign; they stay in their order. */
static void
sort_by_campaign(void)
{
	bool		sorted = true;

	for (int i = 0; i < ntaken; i++)
	{
		taken[i]->position = i;
		if (i > 0 && taken[i - 1]->campaign_id > taken[i]->campaign_id)
			sorted = false;
	}
	if (!sorted)
		qsort(taken, ntaken, sizeof(CouponCall *), compare_calls);
}

/* The number of calls from the first on that are of its campaign. */
static int
count_campaign(int first)
{
	int			end = first + 1;

	while (end < ntaken && taken[end]->campaign_id == taken[first]->campaign_id)
		end++;
	return end - first;
}

/* Calls of one campaign. */
typedef struct Part
{
	CouponCall **calls;
	int			ncalls;
} Part;

/* Issues to them and writes their answers. */
static void
issue_part(void *argument)
{
	Part	   *part = argument;
	CouponItem *items = palloc0(part->ncalls * sizeof(CouponItem));

	for (int i = 0; i < part->ncalls; i++)
	{
		items[i].user_id = PointerGetDatum(&part->calls[i]->user);
		items[i].trace = part->calls[i]->trace[0] == '\0' ? NULL : part->calls[i]->trace;
		items[i].request_key = part->calls[i]->keyed ? (text *) &part->calls[i]->key : NULL;
	}
	coupon_issue_batch(part->calls[0]->campaign_id, items, part->ncalls, COUPON_NO_WAIT);
	for (int i = 0; i < part->ncalls; i++)
		coupon_call_set_item(part->calls[i], &items[i]);
	pfree(items);
}

static void
set_error(CouponCall **calls, int ncalls, const ErrorData *error)
{
	bool		locked = error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;

	for (int i = 0; i < ncalls; i++)
		coupon_call_set_error(calls[i], error->sqlerrcode, locked ? LOCKED_MESSAGE : error->message,
							  locked ? LOCKED_DETAIL : error->detail,
							  locked ? LOCKED_HINT : error->hint);
}

/*
 * The same apart.  False: an ERROR that may be one call's alone; otherwise
 * the calls have their answers, or the ERROR.
 */
static bool
issue_apart(CouponCall **calls, int ncalls)
{
	Part		part = {calls, ncalls};
	ErrorData  *error = coupon_attempt(issue_part, &part);

	if (error == NULL)
		return true;
	if (ncalls > 1 && error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		return false;
	set_error(calls, ncalls, error);
	return true;
}

/*
 * After an ERROR in the batch: begins the transaction anew.  True if all calls
 * have their answer: whoever waited for a lock does not wait again.
 */
static bool
start_over(MemoryContext context)
{
	ErrorData  *error;
	bool		done;

	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	done = error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
	if (done)
		set_error(taken, ntaken, error);
	AbortCurrentTransaction();
	RESUME_INTERRUPTS();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	return done;
}

static void
issue_together(void)
{
	for (int i = 0, n; i < ntaken; i += n)
	{
		Part		part;

		n = count_campaign(i);
		part.calls = &taken[i];
		part.ncalls = n;
		issue_part(&part);
	}
}

static void
issue_one_by_one(void)
{
	for (int i = 0, n; i < ntaken; i += n)
	{
		n = count_campaign(i);
		if (issue_apart(&taken[i], n))
			continue;
		for (int k = i; k < i + n; k++)
			(void) issue_apart(&taken[k], 1);
	}
}

/* The batch is as durable as the most demanding of its callers asks for. */
static void
choose_durability(void)
{
	int			durability = taken[0]->durability;

	for (int i = 1; i < ntaken; i++)
		durability = Max(durability, taken[i]->durability);
	if (durability != synchronous_commit)
		SetConfigOption("synchronous_commit",
						durability == SYNCHRONOUS_COMMIT_OFF ? "off" :
						durability == SYNCHRONOUS_COMMIT_LOCAL_FLUSH ? "local" :
						durability == SYNCHRONOUS_COMMIT_REMOTE_WRITE ? "remote_write" :
						durability == SYNCHRONOUS_COMMIT_REMOTE_FLUSH ? "on" : "remote_apply",
						PGC_USERSET, PGC_S_SESSION);
}

/* One batch: all calls that wait now. */
static void
carry_out(void)
{
	CouponGroup *group = coupon_group();
	MemoryContext context = CurrentMemoryContext;
	volatile bool failed = false;

	repeated = false;
	ntaken = coupon_group_take(group, taken);
	if (ntaken == 0)
		return;

	coupon_worker_tell("issuing to %d grouped calls", ntaken);
	coupon_stat_batch(&coupon_way_grouped, ntaken);
	choose_durability();
	sort_by_campaign();
	PG_TRY();
	{
		COUPON_FAULT(calls_taken);
		issue_together();
	}
	PG_CATCH();
	{
		failed = !start_over(context);
	}
	PG_END_TRY();
	if (failed)
	{
		repeated = true;
		coupon_stat_tally(COUPON_TALLY_RETRIES);
		choose_durability();	/* the rollback has undone it */
		issue_one_by_one();
	}
	INSTR_TIME_SET_CURRENT(worked_at);
}

static void
count_batch(CouponGroup *group)
{
	instr_time	took;
	uint64		largest = pg_atomic_read_u64(&group->largest);

	INSTR_TIME_SET_CURRENT(took);
	INSTR_TIME_SUBTRACT(took, worked_at);
	pg_atomic_fetch_add_u64(&group->commit_us, INSTR_TIME_GET_MICROSEC(took));
	pg_atomic_fetch_add_u64(&group->batches, 1);
	pg_atomic_fetch_add_u64(&group->calls, ntaken);
	pg_atomic_fetch_add_u64(&group->repeated, repeated);
	while (largest < ntaken &&
		   !pg_atomic_compare_exchange_u64(&group->largest, &largest, ntaken))
		;
}

/* What was issued is committed, and as durable as it was asked for. */
static void
answer(void)
{
	if (ntaken == 0)
		return;

	/*
	 * Told to stop, a worker does not go on waiting for a standby; one that
	 * has yet to read the settings cannot say that there was none to wait
	 * for.
	 */
	if (ProcDiePending && synchronous_commit > SYNCHRONOUS_COMMIT_LOCAL_FLUSH &&
		(ConfigReloadPending || (SyncRepStandbyNames != NULL && SyncRepStandbyNames[0] != '\0')))
	{
		for (int i = 0; i < ntaken; i++)
			coupon_call_set_error(taken[i], ERRCODE_T_R_STATEMENT_COMPLETION_UNKNOWN,
								  "the coupon group worker was stopped while it waited for a standby",
								  "What it issued is committed here, and might not be on the standby.",
								  "Ask again: who has a unit is told so.");
	}
	count_batch(coupon_group());
	coupon_group_answer(taken, ntaken);
	ntaken = 0;
}

/*
 * The transaction was rolled back.  If that came before calls were taken, it
 * may come again and again, and those who wait may be whom it waits for.
 */
static void
give_up(const char *message)
{
	if (ntaken == 0)
		coupon_group_turn_away(coupon_group(), ERRCODE_COUPON_GROUP_UNAVAILABLE,
							   "the coupon group worker cannot begin a transaction", message,
							   "Nothing was issued: try again. There may be more in the server's log.");
	for (int i = 0; i < ntaken; i++)
		coupon_call_set_error(taken[i], ERRCODE_COUPON_GROUP_UNAVAILABLE,
							  "the transaction of the coupon group worker failed",
							  message,
							  "Nothing was issued: try again. There may be more in the server's log.");
	coupon_group_answer(taken, ntaken);
	ntaken = 0;
}

/* Until calls wait, or it is time to look around. */
static bool
wait_for_calls(void)
{
	CouponGroup *group = coupon_group();
	uint32		bit = 1U << coupon_worker_instance();

	pg_atomic_fetch_or_u32(&group->asleep, bit);
	if (!coupon_group_has_calls(group))
		coupon_worker_wait(LOOK_AROUND_MS);
	pg_atomic_fetch_and_u32(&group->asleep, ~bit);
	return coupon_group_has_calls(group);
}

/*
 * Calls that come while the tables cannot be locked are turned away in time:
 * their sessions may hold the very locks.
 */
static void
turn_away(CouponCycle cycle)
{
	TimestampTz now = GetCurrentTimestamp();

	if (barred_since == 0)
		barred_since = now;
	if (cycle == COUPON_CYCLE_NO_EXTENSION || coupon_ms_since(barred_since, now) >= TABLES_PATIENCE_MS)
		coupon_group_turn_away(coupon_group(), ERRCODE_LOCK_NOT_AVAILABLE,
							   LOCKED_MESSAGE, LOCKED_DETAIL, LOCKED_HINT);
}

/* Who is left of those that wait is another worker's, or turned away. */
static void
leave(void)
{
	CouponGroup *group = coupon_group();

	AbortOutOfAnyTransaction();
	coupon_group_hand_back(group, taken, ntaken);
	ntaken = 0;
	if (coupon_group_has_worker())
		coupon_group_wake_worker(group);
	else
		coupon_group_turn_away(group, ERRCODE_COUPON_GROUP_UNAVAILABLE,
							   "the coupon group worker was stopped",
							   "Nothing was issued. It is replaced within a few seconds, unless the server or the database is going.",
							   "Try again.");
}

/*
 * A lock's timeout comes by SIGINT.  Nobody else's is heeded: it would make a
 * commit that waits for its standby look like one that has waited.
 */
static void
cancel_lock_wait(SIGNAL_ARGS)
{
	if (get_timeout_indicator(LOCK_TIMEOUT, false))
		StatementCancelHandler(postgres_signal_arg);
}

static void
set_up(void)
{
	if (taken != NULL)
		return;
	pqsignal(SIGINT, cancel_lock_wait);
	SetConfigOption("lock_timeout", LOCK_PATIENCE, PGC_SUSET, PGC_S_OVERRIDE);
	taken = MemoryContextAllocHuge(TopMemoryContext,
								   coupon_group_max_calls() * sizeof(CouponCall *));
}

static void
work_off_calls(void)
{
	set_up();
	while (coupon_worker_stay())
	{
		CouponCycle cycle;

		if (!wait_for_calls())
			continue;
		cycle = coupon_worker_begin();
		if (cycle != COUPON_CYCLE_BEGUN)
		{
			turn_away(cycle);
			coupon_worker_back_off(cycle);
			continue;
		}
		barred_since = 0;
		carry_out();
		PopActiveSnapshot();
		COUPON_FAULT(calls_carried_out);
		CommitTransactionCommand();
		COUPON_FAULT(calls_committed);
		answer();
		coupon_worker_committed();
	}
}

static int
instances(void)
{
	return coupon_group_workers;
}

static const char *const tables[] = {
	"campaign", "shard", "unit", "issuance", "request_key", "lapsed_hold", "outbox_0", "outbox_1", "outbox_2", NULL
};

const CouponWorkerKind coupon_group_worker = {
	.name = "coupon group",
	.activity = "taking grouped calls",
	.tables = tables,
	.instances = instances,
	.loop = work_off_calls,
	.recover = give_up,
	.leave = leave
};
