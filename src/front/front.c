/*
 * front.c
 *	  A turn of the front: the calls that are there, carried out together.
 *
 *	  arrived -> looked at -> carried out -> committed -> answered
 *							   ^     |
 *							   |     +- the answer may change by itself: wait
 *							   +------- and ask again
 *
 * All batched calls of a turn share one transaction.  Plain ones, which may
 * take long, wait until those have their answers, and are carried out some at a
 * time in another.
 * Answers go out when the transaction is committed, never before; if the
 * commit itself fails, the calls are carried out once more one by one, so that
 * only the one to blame is told so.
 *
 * Nothing is waited for inside a transaction.  An answer that is pending (the
 * last units are in flight, a request is not decided) is asked for again a
 * little later, while its connection is suspended; so ten thousand who wait
 * cost one call of their function a second.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/guc.h"
#include "front/access_log.h"
#include "front/answer.h"
#include "front/call.h"
#include "front/front.h"
#include "front/look.h"
#include "front/service.h"
#include "front/settings.h"
#include "front/statistics.h"

#define FIRST_TRY_MS		5	/* until a pending answer is asked for again;
								 * doubles */
#define STREAM_MS			1000	/* between two looks at what streams tell */
#define HEARTBEAT_MS		15000	/* a comment, so that a client that has
									 * gone is noticed */
#define MAX_PLAIN			16	/* plain calls of one transaction */
#define PLAIN_MS			100 /* after which it takes no more of them */

static dlist_head waiting = DLIST_STATIC_INIT(waiting); /* pending answers */
static int	nwaiting = 0;
static TimestampTz next_try = DT_NOEND; /* the earliest of theirs */
static dlist_head streams = DLIST_STATIC_INIT(streams); /* open ones */
static int	nstreams = 0;
static TimestampTz next_look;	/* at the streams */
static TimestampTz next_heartbeat;
static dlist_head queue = DLIST_STATIC_INIT(queue); /* plain calls to be
													 * carried out */
static int	nqueued = 0;
static MemoryContext turn_context = NULL;
static bool ending = false;

volatile sig_atomic_t coupon_front_commit = COUPON_NOT_COMMITTING;

/* The calls of a turn. */
typedef struct Turn
{
	CouponHttpCall **calls;
	bool	   *pending;		/* of the same positions */
	bool	   *batched;		/* likewise: it is for a batch, not refused */
	int			ncalls;
	TimestampTz now;
} Turn;

void
coupon_front_start(void)
{
	turn_context = AllocSetContextCreate(TopMemoryContext, "coupon front turn", ALLOCSET_DEFAULT_SIZES);
}

bool
coupon_front_is_waiting(void)
{
	return nwaiting + nstreams > 0;
}

void
coupon_front_count(int *nwaits, int *nopen)
{
	*nwaits = nwaiting;
	*nopen = nstreams;
}

/* ---- carrying out ---- */

static void
begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	/* what is answered lasts, even where synchronous_commit is off */
	ForceSyncCommit();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(turn_context);
}

/*
 * False: the front is to end, and so it has not waited for a synchronous
 * standby, which may never come.
 */
static bool
commit(void)
{
	bool		cancelled;
	bool		durable;

	PopActiveSnapshot();
	coupon_front_commit = COUPON_COMMITTING;
	if (ShutdownRequestPending)
	{
		coupon_front_commit = COUPON_COMMIT_CANCELLED;
		InterruptPending = QueryCancelPending = true;
	}
	CommitTransactionCommand();
	COUPON_FAULT(turn_committed);
	cancelled = coupon_front_commit == COUPON_COMMIT_CANCELLED;
	coupon_front_commit = COUPON_NOT_COMMITTING;
	/* whoever waits for a standby takes it back, and waits no longer */
	durable = !cancelled || QueryCancelPending;
	QueryCancelPending = false;
	MemoryContextSwitchTo(turn_context);
	return durable;
}

/* Whatever its answer was: it is to be asked for again. */
static void
answer_503(CouponHttpCall *call, const char *code, const char *title)
{
	coupon_answer_reset(call);
	coupon_answer_problem(call, 503, code, title, NULL, NULL);
}

static void
answer_unavailable(CouponHttpCall *call, const char *code)
{
	answer_503(call, code, "The service is not available at the moment.");
}

/* What a standby may not have is not told as done. */
static void
doubt(CouponHttpCall *call)
{
	answer_503(call, "40003", "The service was stopped before this was safe: ask again.");
}

/* After an ERROR outside of a call: what it was, the transaction being gone. */
static ErrorData *
abort_turn(void)
{
	ErrorData  *error;

	HOLD_INTERRUPTS();
	coupon_front_commit = COUPON_NOT_COMMITTING;
	MemoryContextSwitchTo(turn_context);
	error = CopyErrorData();
	EmitErrorReport();
	FlushErrorState();
	AbortCurrentTransaction();
	MemoryContextSwitchTo(turn_context);
	RESUME_INTERRUPTS();
	return error;
}

/* Looks at the calls that have not been looked at. */
static void
look_at_all(Turn *turn)
{
	for (int i = 0; i < turn->ncalls; i++)
	{
		CouponHttpCall *call = turn->calls[i];

		if (call->context == NULL)
		{
			call->context = AllocSetContextCreate(TopMemoryContext, "coupon call", ALLOCSET_DEFAULT_SIZES);
			coupon_look_at(call, turn->now);
		}
		else
			coupon_look_again(call);
		turn->batched[i] = !call->done && call->route->batched;
	}
}

static int
compare_calls(const void *a, const void *b)
{
	const CouponHttpCall *x = *(CouponHttpCall *const *) a;
	const CouponHttpCall *y = *(CouponHttpCall *const *) b;

	if (x->route != y->route)
		return x->route < y->route ? -1 : 1;
	if (x->role != y->role)
		return x->role < y->role ? -1 : 1;
	return x->position - y->position;
}

static bool
same_batch(const CouponHttpCall *a, const CouponHttpCall *b)
{
	return a->route == b->route && a->role == b->role;
}

/* The batched calls that have no answer, in batches, each in its own order. */
static void
carry_out_batches(Turn *turn)
{
	CouponHttpCall **calls = palloc(turn->ncalls * sizeof(CouponHttpCall *));
	bool	   *pending = palloc(turn->ncalls * sizeof(bool));
	int			ncalls = 0;

	for (int i = 0; i < turn->ncalls; i++)
	{
		turn->calls[i]->position = i;
		turn->pending[i] = false;
		if (turn->batched[i])
			calls[ncalls++] = turn->calls[i];
	}
	qsort(calls, ncalls, sizeof(CouponHttpCall *), compare_calls);
	for (int i = 0, n; i < ncalls; i += n)
	{
		for (n = 1; i + n < ncalls && same_batch(calls[i], calls[i + n]); n++)
			;
		coupon_call_batch(&calls[i], n, pending);
		for (int k = 0; k < n; k++)
			turn->pending[calls[i + k]->position] = pending[k];
	}
}

/* One call in a transaction of its own, after a commit of several had failed. */
static void
carry_out_alone(CouponHttpCall *call, bool *pending)
{
	volatile bool durable = true;

	*pending = false;
	if (ShutdownRequestPending)
	{
		answer_503(call, "57P01", "The service is being stopped: try again.");
		return;
	}
	PG_TRY();
	{
		begin();
		if (call->route->batched)
			coupon_call_batch(&call, 1, pending);
		else
			(void) coupon_call_plain(call, false, pending);
		durable = commit();
	}
	PG_CATCH();
	{
		coupon_answer_error(call, abort_turn());
		*pending = false;
	}
	PG_END_TRY();
	if (!durable)
		doubt(call);
}

static void
read_routes(void)
{
	if (!coupon_route_stale())
		return;
	/* without the extension they stay stale */
	if (!coupon_front_has_extension())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the database has no extension coupon")));
	coupon_route_load();
}

/* Batched calls, and all that is answered without a function. */
static void
carry_out_batched(Turn *turn)
{
	volatile bool looked = false;
	volatile bool failed = false;
	volatile bool durable = true;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		begin();
		read_routes();
		look_at_all(turn);
		looked = true;
		carry_out_batches(turn);
		COUPON_FAULT(turn_carried_out);
		durable = commit();
	}
	PG_CATCH();
	{
		error = abort_turn();
		failed = true;
	}
	PG_END_TRY();
	for (int i = 0; !durable && i < turn->ncalls; i++)
	{
		if (turn->batched[i])
		{
			doubt(turn->calls[i]);
			turn->pending[i] = false;
		}
	}
	for (int i = 0; failed && i < turn->ncalls; i++)
	{
		CouponHttpCall *call = turn->calls[i];

		if (call->context == NULL)
			call->context = AllocSetContextCreate(TopMemoryContext, "coupon call", ALLOCSET_DEFAULT_SIZES);
		if (!looked && !call->done && call->events != NULL)
		{
			/* it goes on with what it has told, and is asked again */
			turn->pending[i] = true;
			call->done = true;
		}
		else if (!looked && !call->done)
			answer_unavailable(call, unpack_sql_state(error->sqlerrcode));
		else if (looked && turn->batched[i])
			carry_out_alone(call, &turn->pending[i]);
	}
}

/* ---- answers ---- */

/* A name for what a stream told last, by which it is resumed. */
static uint32
hash_answer(const CouponHttpCall *call)
{
	return DatumGetUInt32(hash_any((const unsigned char *) call->answer, call->answer_length));
}

/* Appends an event, unless it would tell what was told before. */
static void
append_event(CouponHttpCall *call)
{
	uint32		hash = hash_answer(call);

	/* without one it could not be asked for */
	if (call->answer == NULL || (call->told && call->told_hash == hash))
		return;
	call->told = true;
	call->told_hash = hash;
	/* JSON of ours has no line breaks; a function's may */
	appendStringInfo(call->events, "id: %08x\nevent: %s\ndata: ", hash, call->status < 400 ? "status" : "problem");
	for (size_t i = 0; i < call->answer_length; i++)
	{
		if (call->answer[i] == '\n')
			appendStringInfoString(call->events, "\ndata: ");
		else if (call->answer[i] != '\r')
			appendStringInfoChar(call->events, call->answer[i]);
	}
	appendStringInfoString(call->events, "\n\n");
}

/* Drops what has been sent, so that a long stream needs no more memory. */
static void
trim_events(CouponHttpCall *call)
{
	if (call->events_sent < call->events->len)
		return;
	resetStringInfo(call->events);
	call->events_sent = 0;
}

/* The first answer of a call that wants events. */
static void
open_stream(CouponHttpCall *call, bool pending)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(call->context);
	const char *last = coupon_http_header(call, "Last-Event-ID");

	call->events = makeStringInfo();
	if (last != NULL)
	{
		call->told = true;
		call->told_hash = (uint32) strtoul(last, NULL, 16);
	}
	appendStringInfoString(call->events, "retry: 2000\n\n");
	append_event(call);
	MemoryContextSwitchTo(oldcontext);
	call->stream_ended = !pending;
	call->state = COUPON_HTTP_KEPT;
	dlist_push_tail(&streams, &call->node);
	nstreams++;
	coupon_statistics_answered(call);
	coupon_listener_stream(call);
}

/* What a stream has to tell now. */
static void
go_on_with_stream(CouponHttpCall *call, bool pending, bool heartbeat)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(call->context);

	trim_events(call);
	/* who does not read is told the newest when they do: nothing piles up */
	if (call->events->len == 0 || !pending)
		append_event(call);
	if (heartbeat && call->events->len == 0)
		appendStringInfoString(call->events, ": \n\n");
	MemoryContextSwitchTo(oldcontext);
	call->stream_ended = !pending || ending;
	if (call->events->len > 0 || call->stream_ended)
		coupon_listener_send(call);
}

/* One more that waits, or 503. */
static bool
may_wait(CouponHttpCall *call)
{
	if (nwaiting + nstreams < coupon_http_max_waiting)
		return true;
	coupon_stat_tally(COUPON_TALLY_REFUSED_FULL);
	answer_503(call, "full", "Too many wait already: try again.");
	return false;
}

static void
wait_on(CouponHttpCall *call, TimestampTz now)
{
	int			ms = FIRST_TRY_MS << Min(call->tries, 8);

	call->tries++;
	call->next_try = TimestampTzPlusMilliseconds(now, Min(ms, STREAM_MS));
	if (call->next_try > call->deadline)
		call->next_try = call->deadline;
	next_try = Min(next_try, call->next_try);
	call->state = COUPON_HTTP_KEPT;
	dlist_push_tail(&waiting, &call->node);
	nwaiting++;
}

/*
 * A stream that had ended, and whose client comes again, as an EventSource
 * does: 204 tells it that there is nothing more to come.
 */
static bool
was_told(CouponHttpCall *call, bool pending)
{
	const char *last = coupon_http_header(call, "Last-Event-ID");

	if (pending || last == NULL || (uint32) strtoul(last, NULL, 16) != hash_answer(call))
		return false;
	coupon_answer_reset(call);
	coupon_answer_body(call, 204, NULL, NULL, 0);
	return true;
}

static void
hand_over(Turn *turn, bool heartbeat)
{
	for (int i = 0; i < turn->ncalls; i++)
	{
		CouponHttpCall *call = turn->calls[i];
		bool		pending = turn->pending[i];

		if (call->events != NULL)
			go_on_with_stream(call, pending && GetCurrentTimestamp() < call->expires_at, heartbeat);
		else if (call->is_stream && call->status == 200 && !ending && !was_told(call, pending) && may_wait(call))
		{
			MemoryContext oldcontext = MemoryContextSwitchTo(call->context);

			coupon_look_answer_cors(call);
			MemoryContextSwitchTo(oldcontext);
			coupon_access_log(call);
			open_stream(call, pending);
		}
		else if (pending && call->deadline > turn->now && !ending && may_wait(call))
			wait_on(call, turn->now);
		else
		{
			MemoryContext oldcontext = MemoryContextSwitchTo(call->context);

			coupon_look_answer_cors(call);
			MemoryContextSwitchTo(oldcontext);
			coupon_statistics_answered(call);
			coupon_access_log(call);
			coupon_listener_answer(call);
		}
	}
}

/* ---- a turn ---- */

/* A kept call leaves its list; false: its client has gone, and so has it. */
static bool
unkeep(CouponHttpCall *call, int *nkept)
{
	bool		gone = call->gone;

	dlist_delete(&call->node);
	(*nkept)--;
	if (gone)
		coupon_listener_release(call);
	return !gone;
}

/* Appends to the turn's calls those that waited until now. */
static void
collect_waiting(Turn *turn)
{
	dlist_mutable_iter iter;

	if (turn->now < next_try && !ending)
		return;
	next_try = DT_NOEND;
	dlist_foreach_modify(iter, &waiting)
	{
		CouponHttpCall *call = dlist_container(CouponHttpCall, node, iter.cur);

		if (call->next_try > turn->now && !ending)
			next_try = Min(next_try, call->next_try);
		else if (unkeep(call, &nwaiting))
		{
			call->done = false;
			turn->calls[turn->ncalls++] = call;
		}
	}
}

static void
collect_streams(Turn *turn)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &streams)
	{
		CouponHttpCall *call = dlist_container(CouponHttpCall, node, iter.cur);

		if (call->gone)
			(void) unkeep(call, &nstreams);
		else if (!call->stream_ended)
		{
			call->done = false;
			turn->calls[turn->ncalls++] = call;
		}
	}
}

/* Moves to the turn's calls what has arrived or is due. */
static void
collect(Turn *turn, dlist_head *arrived, bool look_at_streams)
{
	dlist_mutable_iter iter;
	int			max = nwaiting + nstreams;

	dlist_foreach_modify(iter, arrived)
		max++;
	turn->calls = palloc(Max(max, 1) * sizeof(CouponHttpCall *));
	turn->pending = palloc0(Max(max, 1) * sizeof(bool));
	turn->batched = palloc0(Max(max, 1) * sizeof(bool));
	while (!dlist_is_empty(arrived))
	{
		CouponHttpCall *call = dlist_container(CouponHttpCall, node, dlist_pop_head_node(arrived));

		call->state = COUPON_HTTP_TAKEN;
		turn->calls[turn->ncalls++] = call;
	}
	collect_waiting(turn);
	if (look_at_streams)
		collect_streams(turn);
}

/* ---- plain calls ---- */

/* Those of the turn that have no answer are queued, the others remain. */
static void
queue_plain(Turn *turn)
{
	int			n = 0;

	for (int i = 0; i < turn->ncalls; i++)
	{
		CouponHttpCall *call = turn->calls[i];

		if (call->done)
		{
			turn->pending[n] = turn->pending[i];
			turn->calls[n++] = call;
			continue;
		}
		Assert(call->events == NULL);	/* a stream has a list already */
		call->state = COUPON_HTTP_KEPT;
		dlist_push_tail(&queue, &call->node);
		nqueued++;
	}
	turn->ncalls = n;
}

/* The next call of the queue; NULL: there is none. */
static CouponHttpCall *
next_plain(void)
{
	while (nqueued > 0)
	{
		CouponHttpCall *call = dlist_container(CouponHttpCall, node, dlist_head_node(&queue));

		if (unkeep(call, &nqueued))
			return call;
	}
	return NULL;
}

/*
 * Carries out some of the queue in one transaction, and hands over their
 * answers: as many as do not keep the others waiting.
 */
static void
carry_out_plain(TimestampTz now)
{
	CouponHttpCall *calls[MAX_PLAIN];
	bool		pending[MAX_PLAIN] = {false};
	Turn		turn = {.calls = calls,.pending = pending,.now = now};
	volatile int ncalls = 0;
	volatile bool carried[MAX_PLAIN] = {false};
	volatile bool durable = true;
	ErrorData  *volatile error = NULL;
	TimestampTz start = coupon_steady_now();

	PG_TRY();
	{
		begin();
		while (ncalls < MAX_PLAIN && (calls[ncalls] = next_plain()) != NULL)
		{
			CouponHttpCall *call = calls[ncalls++];

			read_routes();
			coupon_look_again(call);
			carried[ncalls - 1] = !call->done;
			if (!call->done && !coupon_call_plain(call, ncalls > 1, &pending[ncalls - 1]))
			{
				call->state = COUPON_HTTP_KEPT;
				dlist_push_head(&queue, &call->node);
				nqueued++;
				ncalls--;
				break;
			}
			if (TimestampDifferenceExceeds(start, coupon_steady_now(), PLAIN_MS))
				break;
		}
		durable = commit();
	}
	PG_CATCH();
	{
		error = abort_turn();
	}
	PG_END_TRY();
	for (int i = 0; i < ncalls; i++)
	{
		bool		is_same = calls[i]->generation == coupon_route_generation();

		if (error != NULL || !durable)
			pending[i] = false;
		if (error != NULL && carried[i] && is_same)
			carry_out_alone(calls[i], &pending[i]);
		else if (error != NULL && (carried[i] || !calls[i]->done))
			answer_unavailable(calls[i], unpack_sql_state(error->sqlerrcode));
		else if (!durable && carried[i])
			doubt(calls[i]);
	}
	turn.ncalls = ncalls;
	hand_over(&turn, false);
}

bool
coupon_front_turn(dlist_head *arrived)
{
	Turn		turn = {.now = coupon_steady_now()};
	bool		look_at_streams = turn.now >= next_look || ending;
	bool		heartbeat = look_at_streams && turn.now >= next_heartbeat;
	char		activity[64];

	MemoryContextSwitchTo(turn_context);
	collect(&turn, arrived, look_at_streams);
	if (look_at_streams)
		next_look = TimestampTzPlusMilliseconds(turn.now, STREAM_MS);
	if (heartbeat)
		next_heartbeat = TimestampTzPlusMilliseconds(turn.now, HEARTBEAT_MS);
	if (turn.ncalls == 0 && nqueued == 0)
		return false;
	snprintf(activity, sizeof(activity), "carrying out %d HTTP calls", turn.ncalls + nqueued);
	pgstat_report_activity(STATE_RUNNING, activity);
	/* the answers of the turn before have been sent by now */
	if (nqueued > 0)
		carry_out_plain(turn.now);
	if (turn.ncalls > 0)
	{
		carry_out_batched(&turn);
		queue_plain(&turn);
		hand_over(&turn, heartbeat);
		/* where there is nobody to be held up, at once */
		if (turn.ncalls == 0)
			carry_out_plain(turn.now);
	}
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
	MemoryContextReset(turn_context);
	return true;
}

long
coupon_front_timeout(void)
{
	TimestampTz now = coupon_steady_now();
	TimestampTz next = next_try;

	if (nqueued > 0)
		return 0;
	if (nstreams > 0)
		next = Min(next, next_look);
	if (next == DT_NOEND)
		return -1;
	return next <= now ? 0 : (long) ((next - now) / 1000 + 1);
}

void
coupon_front_end_waits(void)
{
	ending = true;
}

void
coupon_front_drop(CouponListener *listener)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &waiting)
	{
		CouponHttpCall *call = dlist_container(CouponHttpCall, node, iter.cur);

		if (call->listener != listener)
			continue;
		if (unkeep(call, &nwaiting))
			coupon_listener_answer(call);
	}
	dlist_foreach_modify(iter, &queue)
	{
		CouponHttpCall *call = dlist_container(CouponHttpCall, node, iter.cur);

		if (call->listener != listener || !unkeep(call, &nqueued))
			continue;
		answer_unavailable(call, "unavailable");
		coupon_listener_answer(call);
	}
	dlist_foreach_modify(iter, &streams)
	{
		CouponHttpCall *call = dlist_container(CouponHttpCall, node, iter.cur);

		if (call->listener != listener)
			continue;
		call->stream_ended = true;
		coupon_listener_send(call);
	}
}
