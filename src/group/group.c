/*
 * group.c
 *	  Grouped issuing, the callers' side: publish a call, sleep, read the
 *	  answer; and the shared memory in which calls wait.
 *
 * A commit costs a flush of WAL and a pass through locks that all sessions
 * share, whether it issues one unit or a hundred.  So a grouped call is not
 * carried out by its session but by a worker (group_worker.c), which takes
 * all calls that wait at that moment, issues them in one transaction, and
 * answers when that is durable.
 *
 * Concurrency.  Calls wait in a list to which sessions push and which workers
 * only take as a whole, so both are one compare-and-exchange and need no lock.
 * A call may leave at any moment (a cancellation, a timeout, the session's
 * end) by the state of the call alone, see group.h: either it had not been
 * taken, and nothing will come of it, or it had, and a repetition tells what
 * came of it.  What was left is not used again before a worker has put it
 * back.
 *
 * Nobody sleeps for ever: a session that has published makes sure that there
 * still is a worker; a worker that goes takes itself off before it empties
 * the list for the last time.  A worker that sleeps says so before it looks
 * at the list for the last time; a session that publishes into the empty list
 * looks for one that sleeps afterwards.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "tcop/pquery.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/compat.h"
#include "base/database.h"
#include "base/errors.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/shmem.h"
#include "base/stat.h"
#include "group/group.h"
#include "node/node.h"
#include "sale/request_key.h"

CouponWay	coupon_way_grouped = {
	.name = "grouped",
	.kind = COUPON_WAY_CALL,
	.batched = true,
	.outcomes = coupon_issue_outcomes,
	.noutcomes = COUPON_INVALID + 1
};

PG_FUNCTION_INFO_V1(coupon_issue_grouped);
PG_FUNCTION_INFO_V1(coupon_group_status);

/* Room for every session, and as many again that were left. */
#define CALLS_PER_SESSION	2

/* How often a session that waits looks whether there still is a worker. */
#define LOOK_AROUND_MS		500

/* How long a client's next message is waited for: it follows the call's at once. */
#define NEXT_MESSAGE_MS		5000

typedef struct CallPool
{
	slock_t		mutex;
	uint32		first;			/* mutex; free calls: number + 1, linked by
								 * next */
	int			ncalls;			/* constant */
	CouponGroup groups[COUPON_MAX_DATABASES];
} CallPool;

static CallPool *pool = NULL;
static char *call_memory = NULL;

/* The call that this session has, whatever its state; NULL: none yet. */
static CouponCall *my_call = NULL;

/* ---- shared memory ---- */

/* Calls of different sessions do not share a cache line. */
static inline Size
call_stride(void)
{
	return CACHELINEALIGN(sizeof(CouponCall));
}

static inline CouponCall *
get_call(uint32 number)
{
	return (CouponCall *) (call_memory + number * call_stride());
}

static inline uint32
number_of(CouponCall *call)
{
	return ((char *) call - call_memory) / call_stride();
}

static int
calls_wanted(void)
{
	return CALLS_PER_SESSION * (MaxConnections + max_worker_processes);
}

static Size
pool_size(void)
{
	return add_size(CACHELINEALIGN(sizeof(CallPool)) + PG_CACHE_LINE_SIZE,
					mul_size(calls_wanted(), call_stride()));
}

static void
request(void)
{
	RequestAddinShmemSpace(pool_size());
}

static void
new_database(int place)
{
	CouponGroup *group = &pool->groups[place];

	pg_atomic_write_u64(&group->batches, 0);
	pg_atomic_write_u64(&group->calls, 0);
	pg_atomic_write_u64(&group->largest, 0);
	pg_atomic_write_u64(&group->commit_us, 0);
	pg_atomic_write_u64(&group->repeated, 0);
}

static void
reset_statistics(void)
{
	int			place = coupon_database_place();

	if (place >= 0)
		new_database(place);
}

static void
startup(void)
{
	bool		found;

	pool = coupon_shmem_struct("coupon grouped calls", pool_size(), &found);
	call_memory = (char *) CACHELINEALIGN((char *) pool + sizeof(CallPool));
	if (found)
		return;

	for (int i = 0; i < COUPON_MAX_DATABASES; i++)
	{
		pg_atomic_init_u32(&pool->groups[i].newest, 0);
		pg_atomic_init_u32(&pool->groups[i].asleep, 0);
		new_database(i);
	}
	SpinLockInit(&pool->mutex);
	pool->ncalls = calls_wanted();
	pool->first = 0;
	for (int i = pool->ncalls - 1; i >= 0; i--)
	{
		CouponCall *call = get_call(i);

		pg_atomic_init_u32(&call->state, COUPON_CALL_IDLE);
		call->next = pool->first;
		pool->first = i + 1;
	}
}

const CouponModule coupon_group_module = {
	.request = request,
	.startup = startup,
	.new_database = new_database,
	.reset_statistics = reset_statistics
};

CouponGroup *
coupon_group(void)
{
	int			place = coupon_database_place();

	return place < 0 ? NULL : &pool->groups[place];
}

int
coupon_group_max_calls(void)
{
	return pool->ncalls;
}

static void
release_call(CouponCall *call)
{
	pg_atomic_write_u32(&call->state, COUPON_CALL_IDLE);
	SpinLockAcquire(&pool->mutex);
	call->next = pool->first;
	pool->first = number_of(call) + 1;
	SpinLockRelease(&pool->mutex);
}

/* After the answer, read or not. */
static void
finish_call(CouponCall *call)
{
	pg_read_barrier();			/* the answer was written before */
	pg_atomic_write_u32(&call->state, COUPON_CALL_IDLE);
}

/* Goes on without the call if it is still in that state. */
static bool
leave_call_in(CouponCall *call, uint32 state)
{
	if (!pg_atomic_compare_exchange_u32(&call->state, &state, COUPON_CALL_LEFT))
		return false;
	my_call = NULL;
	return true;
}

/* Goes on without an answer, if there is none yet.  Never throws. */
static void
leave_call(CouponCall *call)
{
	for (;;)
	{
		uint32		state = pg_atomic_read_u32(&call->state);

		if (state == COUPON_CALL_ANSWERED)
			finish_call(call);
		else if (state != COUPON_CALL_IDLE && !leave_call_in(call, state))
			continue;
		break;
	}
}

static void
leave_at_exit(int code, Datum arg)
{
	if (my_call != NULL)
		leave_call(my_call);
	if (my_call != NULL)
		release_call(my_call);
	my_call = NULL;
}

/* This session's call, idle. */
static CouponCall *
claim_call(void)
{
	static bool registered = false;

	if (my_call != NULL)
		return my_call;

	if (!registered)
	{
		before_shmem_exit(leave_at_exit, 0);
		registered = true;
	}
	SpinLockAcquire(&pool->mutex);
	if (pool->first != 0)
	{
		my_call = get_call(pool->first - 1);
		pool->first = my_call->next;
	}
	SpinLockRelease(&pool->mutex);
	if (my_call == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_GROUP_UNAVAILABLE),
				 errmsg("too many grouped calls were given up"),
				 errdetail("All %d places are taken by calls that the worker has yet to see.", pool->ncalls),
				 errhint("Nothing was issued: try again. If it lasts, see what the coupon group worker waits for in pg_stat_activity.")));
	return my_call;
}

/* ---- the list ---- */

/* Pushes a call; true if the list was empty. */
static bool
push_call(CouponGroup *group, CouponCall *call)
{
	uint32		newest = pg_atomic_read_u32(&group->newest);

	do
		call->next = newest;
	while (!pg_atomic_compare_exchange_u32(&group->newest, &newest, number_of(call) + 1));
	return newest == 0;
}

bool
coupon_group_has_calls(CouponGroup *group)
{
	return pg_atomic_read_u32(&group->newest) != 0;
}

int
coupon_group_take(CouponGroup *group, CouponCall **calls)
{
	uint32		at = pg_atomic_read_u32(&group->newest) == 0 ? 0 :
	pg_atomic_exchange_u32(&group->newest, 0);
	int			n = 0;

	while (at != 0)
	{
		CouponCall *call = get_call(at - 1);
		uint32		state = COUPON_CALL_WAITING;

		at = call->next;
		if (!pg_atomic_compare_exchange_u32(&call->state, &state, COUPON_CALL_TAKEN))
			release_call(call);
		else if (call->database == MyDatabaseId)
			calls[n++] = call;
		else
		{
			/* the entry has passed from its database to this one */
			coupon_call_set_error(call, ERRCODE_COUPON_GROUP_UNAVAILABLE,
								  "the coupon group worker was stopped", "Nothing was issued.", "Try again.");
			coupon_group_answer(&call, 1);
		}
	}
	for (int i = 0; i < n / 2; i++)
	{
		CouponCall *call = calls[i];

		calls[i] = calls[n - 1 - i];
		calls[n - 1 - i] = call;
	}
	return n;
}

void
coupon_group_hand_back(CouponGroup *group, CouponCall **calls, int ncalls)
{
	for (int i = 0; i < ncalls; i++)
	{
		uint32		state = COUPON_CALL_TAKEN;

		/* one that leaves from now on is found in the list */
		if (pg_atomic_compare_exchange_u32(&calls[i]->state, &state, COUPON_CALL_WAITING))
			(void) push_call(group, calls[i]);
		else
			release_call(calls[i]);
	}
}

void
coupon_group_answer(CouponCall **calls, int ncalls)
{
	for (int i = 0; i < ncalls; i++)
	{
		CouponCall *call = calls[i];
		Latch	   *latch = call->latch;
		uint32		state = COUPON_CALL_TAKEN;

		/* as soon as it is answered, the call is the session's again */
		if (pg_atomic_compare_exchange_u32(&call->state, &state, COUPON_CALL_ANSWERED))
			SetLatch(latch);
		else
			release_call(call);
	}
}

void
coupon_group_turn_away(CouponGroup *group, int sqlstate, const char *message,
					   const char *detail, const char *hint)
{
	uint32		at = pg_atomic_exchange_u32(&group->newest, 0);

	while (at != 0)
	{
		CouponCall *call = get_call(at - 1);
		uint32		state = COUPON_CALL_WAITING;

		at = call->next;
		if (pg_atomic_compare_exchange_u32(&call->state, &state, COUPON_CALL_TAKEN))
		{
			coupon_call_set_error(call, sqlstate, message, detail, hint);
			coupon_group_answer(&call, 1);
		}
		else
			release_call(call);
	}
}

/* ---- workers, as callers see them ---- */

bool
coupon_group_has_worker(void)
{
	pg_memory_barrier();
	return coupon_count_workers(COUPON_GROUP) > 0;
}

void
coupon_group_wake_worker(CouponGroup *group)
{
	uint32		asleep = pg_atomic_read_u32(&group->asleep);

	while (asleep != 0)
	{
		int			instance = pg_rightmost_one_pos32(asleep);
		uint32		bit = 1U << instance;
		Latch	   *latch = coupon_database()->workers[COUPON_GROUP][instance].latch;

		asleep = pg_atomic_fetch_and_u32(&group->asleep, ~bit);
		if ((asleep & bit) && latch != NULL)
		{
			pg_atomic_fetch_add_u64(&coupon_database()->workers[COUPON_GROUP][instance].wakes, 1);
			SetLatch(latch);
			return;
		}
		asleep &= ~bit;
	}
}

/* ---- answers ---- */

static void
copy_text(CouponCallText *to, const text *from)
{
	int			length = VARSIZE_ANY_EXHDR(from);

	Assert(length <= COUPON_MAX_NAME);
	SET_VARSIZE(to, VARHDRSZ + length);
	memcpy(VARDATA(to), VARDATA_ANY(from), length);
}

/* Cuts off what does not fit, between characters. */
static void
copy_message(char *to, const char *from)
{
	int			length = from == NULL ? 0 : strlen(from);

	length = pg_mbcliplen(from == NULL ? "" : from, length, COUPON_CALL_MESSAGE - 1);
	memcpy(to, from == NULL ? "" : from, length);
	to[length] = '\0';
}

void
coupon_call_set_error(CouponCall *call, int sqlstate, const char *message,
					  const char *detail, const char *hint)
{
	call->sqlstate = sqlstate;
	copy_message(call->u.error.message, message);
	copy_message(call->u.error.detail, detail);
	copy_message(call->u.error.hint, hint);
}

void
coupon_call_set_item(CouponCall *call, const CouponItem *item)
{
	const CouponIssuance *issuance = &item->issuance;

	call->sqlstate = 0;
	call->status = item->status;
	call->repeated = item->repeated;
	if (item->status != COUPON_ISSUED && item->status != COUPON_ALREADY_ISSUED)
		return;
	call->serial = issuance->serial;
	call->issued_at = issuance->issued_at;
	call->expires_at = issuance->expires_at;
	call->coded = issuance->code != NULL;
	if (!call->coded)
		return;
	if (VARSIZE_ANY_EXHDR(issuance->code) > COUPON_MAX_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the code of unit %lld is too long", (long long) issuance->serial),
				 errdetail("It has %d bytes.", (int) VARSIZE_ANY_EXHDR(issuance->code)),
				 errhint("coupon_codes_import() takes codes of 1 to %d bytes.", COUPON_MAX_NAME)));
	copy_text(&call->u.code, issuance->code);
}

/* The answer as the item of a call of one's own, or as its ERROR. */
static void
read_answer(CouponCall *call, CouponItem *item)
{
	CouponIssuance *issuance = &item->issuance;

	if (call->sqlstate != 0)
	{
		char	   *message = pstrdup(call->u.error.message);
		char	   *detail = pstrdup(call->u.error.detail);
		char	   *hint = pstrdup(call->u.error.hint);

		ereport(ERROR,
				(errcode(call->sqlstate),
				 errmsg_internal("%s", message),
				 *detail ? errdetail_internal("%s", detail) : 0,
				 *hint ? errhint("%s", hint) : 0));
	}
	item->status = call->status;
	item->repeated = call->repeated;
	if (item->status != COUPON_ISSUED && item->status != COUPON_ALREADY_ISSUED)
		return;
	issuance->serial = call->serial;
	issuance->issued_at = call->issued_at;
	issuance->expires_at = call->expires_at;
	issuance->code = NULL;
	if (call->coded)
		issuance->code = cstring_to_text_with_len(VARDATA(&call->u.code), VARSIZE(&call->u.code) - VARHDRSZ);
}

/* ---- calling ---- */

static void
complain_no_worker(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_COUPON_GROUP_UNAVAILABLE),
			 errmsg("no worker carries out grouped calls in this database"),
			 errdetail("Nothing was issued. A worker that stopped is replaced within a few seconds."),
			 errhint("Try again, or use coupon_issue(). If it lasts: coupon.databases must name the database, coupon.group_workers must not be 0, and max_worker_processes must have room.")));
}

COUPON_WAIT_EVENT(wait_event, "CouponGroup");

static void
wait_for_answer(CouponCall *call)
{
	for (;;)
	{
		uint32		state = pg_atomic_read_u32(&call->state);

		if (state == COUPON_CALL_ANSWERED)
			break;
		if (state == COUPON_CALL_WAITING && !coupon_group_has_worker() &&
			leave_call_in(call, COUPON_CALL_WAITING))
			complain_no_worker();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 LOOK_AROUND_MS, wait_event());
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	finish_call(call);
}

/* Sleeps until the call's outcome is durable; or has left it. */
static void
publish_call(CouponGroup *group, CouponCall *call)
{
	PG_TRY();
	{
		pg_atomic_write_u32(&call->state, COUPON_CALL_WAITING);
		if (push_call(group, call))
			coupon_group_wake_worker(group);
		COUPON_FAULT(call_published);
		wait_for_answer(call);
	}
	PG_CATCH();
	{
		if (my_call != NULL)
			leave_call(my_call);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* Has a worker carry out the call. */
static void
issue_by_worker(int64 campaign_id, CouponItem *item)
{
	CouponGroup *group = coupon_group();
	CouponCall *call;

	if (group == NULL || !coupon_group_has_worker())
		complain_no_worker();

	call = claim_call();
	call->latch = MyLatch;
	call->database = MyDatabaseId;
	call->durability = synchronous_commit;
	call->campaign_id = campaign_id;
	strlcpy(call->trace, coupon_trace() == NULL ? "" : coupon_trace(), sizeof(call->trace));
	copy_text(&call->user, (text *) DatumGetPointer(item->user_id));
	call->keyed = item->request_key != NULL;
	if (call->keyed)
		copy_text(&call->key, item->request_key);

	publish_call(group, call);
	read_answer(call, item);
}

/*
 * Is the function called by a statement that the client itself sent?  Then it
 * is of the portal's own plan; within a function it is of another one.
 */
static bool
is_top_level(FunctionCallInfo fcinfo)
{
	QueryDesc  *query = ActivePortal == NULL ? NULL : ActivePortal->queryDesc;

	return query != NULL && query->estate != NULL &&
		fcinfo->flinfo->fn_mcxt == query->estate->es_query_cxt;
}

/* libpq/libpq.h would ask for the headers of everything that PostgreSQL was built with */
extern WaitEventSet *FeBeWaitSet;
extern void pq_startmsgread(void);
extern int	pq_peekbyte(void);
extern void pq_endmsgread(void);

#define CLIENT_SOCKET	0		/* FeBeWaitSetSocketPos */

/*
 * Waits until the client has sent more; false if it does not for a while, which
 * is long for a network and short for a snapshot.  Reading would wait as well,
 * but for ever: within a statement only the session's end interrupts it.  (As it
 * does if all that has come is a part of an encrypted packet.)
 */
static bool
await_client(void)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), NEXT_MESSAGE_MS);

	while (!coupon_client_has_sent())
	{
		long		left = coupon_ms_until(until, GetCurrentTimestamp(), NEXT_MESSAGE_MS);
		WaitEvent	event;

		if (left <= 0)
			return false;
		/* an interrupt may have changed what is waited for */
		ModifyWaitEvent(FeBeWaitSet, CLIENT_SOCKET, WL_SOCKET_READABLE, NULL);
		if (WaitEventSetWait(FeBeWaitSet, left, &event, 1, WAIT_EVENT_CLIENT_READ) == 0)
			continue;
		if (event.events & WL_POSTMASTER_DEATH)
			proc_exit(1);
		if (event.events & WL_SOCKET_READABLE)
			break;
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

/*
 * A client that sends the next statement before the end of this one's
 * transaction (a pipeline, a batch) has both in one.  Of all but the first
 * IsInTransactionBlock() knows; of the first, that no Sync follows its
 * Execute, which a client without such plans sends with it.  A Close in between
 * says nothing.
 */
static bool
is_first_of_batch(void)
{
	QueryDesc  *query = ActivePortal->queryDesc;
	int			next;

	if (query->dest == NULL || query->dest->mydest != DestRemoteExecute || MyProcPort == NULL)
		return false;
	if (!await_client())
		return true;
	pq_startmsgread();
	next = pq_peekbyte();
	pq_endmsgread();
	return next != 'S' && next != 'C';
}

static void
refuse_foreign_transaction(FunctionCallInfo fcinfo)
{
	if (coupon_allow_autonomous ||
		(!IsInTransactionBlock(true) && is_top_level(fcinfo) && !is_first_of_batch()))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
			 errmsg("coupon_issue_grouped() cannot be part of another transaction"),
			 errdetail("It commits on its own: if this transaction or statement rolled back, the unit would stay issued."),
			 errhint("Call it alone and in autocommit mode, in no block, pipeline, batch or function. Use coupon_issue() here; or SET coupon.allow_autonomous = on, if that is what you want.")));
}

static Datum
issue_grouped(PG_FUNCTION_ARGS)
{
	CouponItem	item = {0};
	int64		campaign_id;
	text	   *key;

	coupon_check_text(fcinfo, 1, "user_id", 1, COUPON_MAX_NAME);
	coupon_require_argument(fcinfo, 0, "campaign_id");
	campaign_id = PG_GETARG_INT64(0);
	key = coupon_request_key_argument(fcinfo, 2);
	refuse_foreign_transaction(fcinfo);

	/* what needs no unit needs no worker */
	item.user_id = PointerGetDatum(PG_GETARG_TEXT_PP(1));
	item.request_key = key;
	if (!coupon_issue_refuse(campaign_id, &item))
	{
		PreventCommandIfReadOnly("coupon_issue_grouped()");
		issue_by_worker(campaign_id, &item);
	}
	if (unlikely(item.status == COUPON_MOVED))
		coupon_node_refuse(campaign_id, (text *) DatumGetPointer(item.user_id));
	coupon_stat_outcome(coupon_item_outcome(&item), 1);
	return coupon_issue_result(fcinfo, item.user_id, &item);
}

/*
 * coupon_issue_grouped(campaign_id bigint, user_id text, request_key text)
 */
Datum
coupon_issue_grouped(PG_FUNCTION_ARGS)
{
	return coupon_stat_call(fcinfo, &coupon_way_grouped, issue_grouped);
}

COUPON_FOR_OTHER_USERS(coupon_issue_grouped, 1);

/* ---- status ---- */

#define GROUP_STATUS_NATTS	7

/*
 * coupon_group_status() - of this database, since the server started or coupon_stat_reset()
 */
Datum
coupon_group_status(PG_FUNCTION_ARGS)
{
	CouponGroup *group;
	TupleDesc	desc;
	Datum		values[GROUP_STATUS_NATTS];
	bool		nulls[GROUP_STATUS_NATTS] = {0};
	int32		workers = 0;
	uint64		batches = 0;
	uint64		calls = 0;
	uint64		largest = 0;
	uint64		commit_us = 0;
	uint64		repeated = 0;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
		desc->natts != GROUP_STATUS_NATTS)
		elog(ERROR, "coupon_group_status has an unexpected shape");

	coupon_shmem_attach();
	group = coupon_group();
	if (group != NULL)
	{
		workers = coupon_count_workers(COUPON_GROUP);
		batches = pg_atomic_read_u64(&group->batches);
		calls = pg_atomic_read_u64(&group->calls);
		largest = pg_atomic_read_u64(&group->largest);
		commit_us = pg_atomic_read_u64(&group->commit_us);
		repeated = pg_atomic_read_u64(&group->repeated);
	}
	values[0] = Int32GetDatum(workers);
	values[1] = Int64GetDatum(batches);
	values[2] = Int64GetDatum(calls);
	values[3] = Float8GetDatum(batches == 0 ? 0 : (double) calls / batches);
	values[4] = Int64GetDatum(largest);
	values[5] = Float8GetDatum(commit_us / 1000.0);
	values[6] = Int64GetDatum(repeated);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}
