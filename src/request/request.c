/*
 * request.c
 *	  Accepting asynchronous requests.
 *
 * A request is one row, inserted here in the caller's transaction and changed
 * once by an issuer when it is decided (issuer.c).  Its place is given
 * in shared memory before the row is written, and becomes ready when the
 * transaction commits, so a request is seen by an issuer neither too early nor
 * too late, whatever the order of commits.
 *
 * An accepted request is meant to end well.  What cannot is refused at once:
 * who has a unit, a campaign that is not open, sold out, or has no more units
 * than requests that wait.  This last is counted under the line's lock, so a
 * flood gets as many requests in as there are units.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "base/arguments.h"
#include "base/database.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/missing_workers.h"
#include "base/stat.h"
#include "base/trace.h"
#include "node/node.h"
#include "queue/own_row.h"
#include "queue/pending.h"
#include "queue/queue_table.h"
#include "request/request.h"
#include "request/request_table.h"
#include "sale/refusal.h"
#include "sale/request_key.h"
#include "sale/sweep.h"
#include "sale/user_filter.h"

PG_FUNCTION_INFO_V1(coupon_request);

/* Why a request was not accepted, beside the answers of issuing. */
#define OUTCOME_FULL	"full"

static const char *const outcomes[] = {
	"accepted", "repeated",
	"already_issued", "sold_out", "busy", "not_open", "closed", "paused", "not_admitted", "held",
	"returned", "other_call", OUTCOME_FULL, "moved"
};

CouponWay	coupon_way_request = {
	.name = "request",
	.kind = COUPON_WAY_TRANSACTION,
	.outcomes = outcomes,
	.noutcomes = lengthof(outcomes)
};

/* At commit the request is one that waits; after an abort nobody is there. */
static bool
apply_accepted(CouponPending *change, bool committed)
{
	CouponLine *line = change->line;

	line->uncommitted--;
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

/* What a call asks for, and the request that answers it if there is one. */
typedef struct Wish
{
	text	   *key;			/* or NULL */
	CouponRequest found;
} Wish;

/* The one with the same key answers a call, without a key one that waits. */
static bool
answers(TupleTableSlot *slot, uint32 child, void *arg)
{
	Wish	   *wish = arg;
	CouponRequest request;

	coupon_request_read(slot, child, &request);
	if (wish->key == NULL ? request.decided_at != 0 :
		request.key == NULL || !coupon_same_text(request.key, wish->key))
		return false;
	wish->found = request;
	return true;
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
	int64		due = 0;		/* holds that have run out: their units can be
								 * had, too */

	for (;;)
	{
		CouponLine *line;
		int64		waiting;

		coupon_pending_reserve(1);
		line = coupon_queue_lock(&coupon_requests, def->campaign_id, LW_EXCLUSIVE, true);
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
			CouponEntering entering = coupon_queue_enter(line, number);

			if (entering == COUPON_ENTERED)
			{
				pg_atomic_fetch_add_u32(&queue->open[child], 1);
				coupon_pending_push(apply_accepted, line, *number, child, 0);
				*position = coupon_line_ahead(line, *number) + 1;
			}
			LWLockRelease(line->lock);
			if (entering != COUPON_ENTERED)
				coupon_queue_refuse(entering);
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

/*
 * A call that did not wait may have used the key, and then a request would only
 * find that out: COUPON_ISSUED if none has.
 */
static CouponStatus
refusal_by_key(const CouponDefinition *def, text *user_id, text *key, CouponItem *item)
{
	Datum		user = PointerGetDatum(user_id);
	CouponUsedKey used;

	if (coupon_request_key_find(def, user, key, COUPON_NO_WAIT, &used) != COUPON_KEY_USED)
		return COUPON_ISSUED;
	if (used.kind != COUPON_KEY_ISSUE)
		return COUPON_OTHER_CALL;
	if (used.nserials == 0 || !coupon_request_key_has(def, user, &used, used.serials[0], &item->issuance))
		return def->ending ? COUPON_CLOSED : COUPON_RETURNED;
	if (def->coded)
		item->issuance.code = coupon_issuance_label(def->campaign_id, item->issuance.serial);
	return COUPON_ALREADY_ISSUED;
}

/*
 * The key, the window, the room, the user's limit: what refuses a request at once.
 * *presumed: a user whom the filter does not know may be let in without a look for
 * what they have, and was.  If that is wrong, the issuer finds out.
 */
static CouponStatus
refusal_of(CouponCampaign *campaign, const CouponDefinition *def, text *user_id, text *key,
		   int nwaiting, bool *presumed, CouponItem *item)
{
	CouponStatus window = coupon_issue_window(def, GetCurrentTimestamp());
	CouponStatus refusal;
	CouponLookup lookup;
	CouponUserState state;
	int			room;

	refusal = key == NULL ? COUPON_ISSUED : refusal_by_key(def, user_id, key, item);
	if (refusal != COUPON_ISSUED)
		return refusal;
	*presumed = *presumed && window == COUPON_ISSUED && nwaiting < def->per_user_limit &&
		coupon_filter_presumes_new(campaign, PointerGetDatum(user_id)) &&
		coupon_campaign_admits(def, PointerGetDatum(user_id));
	if (*presumed)
		return window;
	coupon_lookup_begin(&lookup, def, NULL);
	state = coupon_lookup_user(&lookup, PointerGetDatum(user_id), COUPON_NO_WAIT,
							   &item->issuance, &room);
	coupon_lookup_end(&lookup);
	if (state == COUPON_USER_HAS)
		return item->issuance.held_until == 0 ? COUPON_ALREADY_ISSUED : COUPON_HELD;
	if (window == COUPON_ISSUED && !coupon_campaign_admits(def, PointerGetDatum(user_id)))
		return COUPON_NOT_ADMITTED;

	/*
	 * under whatever keys, a user keeps no more units from others than they
	 * may have
	 */
	if (window == COUPON_ISSUED && nwaiting >= room)
		return COUPON_BUSY;
	return window;
}

/* Enters the request into line and table; returns what refused it, or NULL. */
static const char *
store_request(CouponCampaign *campaign, const CouponDefinition *def, CouponRequest *request,
			  int64 *position)
{
	CouponQueue *queue = coupon_queue(&coupon_requests);
	CouponTableWriter *rows;
	const char *refusal;

	PreventCommandIfReadOnly("coupon_request()");
	rows = coupon_queue_table_open(&coupon_requests, queue, &request->child);
	refusal = enter_line(campaign, def, queue, request->child, &request->number, position);
	if (refusal == NULL)
	{
		COUPON_FAULT(request_entered);
		coupon_request_make_id(request);
		coupon_request_fill(coupon_writer_row(rows), request);
		coupon_writer_insert(rows);
	}
	coupon_writer_close(rows);
	return refusal;
}

/* What refuses a call has its name as outcome. */
static void
refuse(CouponRequestResult *result, const char *outcome)
{
	result->status = COUPON_REQUEST_REFUSED;
	result->outcome = outcome;
}

bool
coupon_request_accept(int64 campaign_id, text *user_id, text *key, const char *trace, bool wait,
					  CouponRequestResult *result)
{
	const CouponDefinition *def;
	CouponCampaign *campaign;
	Wish		wish = {.key = key};
	CouponOwnRow own;
	int			nwaiting;
	bool		presumed = true;
	uint64		lock;

	memset(result, 0, sizeof(*result));
	if (unlikely(coupon_node_here()) && !coupon_node_has(campaign_id, user_id))
	{
		result->item.status = COUPON_MOVED;
		refuse(result, coupon_status_name(COUPON_MOVED));
		return true;
	}
	own = coupon_own_row_lock(&coupon_requests, campaign_id, user_id, answers, key != NULL,
							  &wish, wait, &nwaiting, &lock);
	if (own == COUPON_OWN_LOCKED)
		return false;
	if (own == COUPON_OWN_FOUND)
	{
		coupon_own_row_unlock(&coupon_requests, lock);
		coupon_request_describe(&wish.found, result);
		result->is_asked = true;
		result->repeated = true;
		return true;
	}
	campaign = coupon_campaign_enter(campaign_id, &def);
	result->user_id = user_id;
	result->item.status = refusal_of(campaign, def, user_id, key, nwaiting, &presumed, &result->item);
	if (result->item.status != COUPON_ISSUED)
		refuse(result, coupon_status_name(result->item.status));
	else
	{
		const char *refusal;
		CouponRequest request = {
			.campaign_id = campaign_id,
			.user_id = user_id,
			.key = key,
			.trace = trace,
			.requested_at = GetCurrentTimestamp()
		};

		result->item.status = COUPON_INVALID;
		coupon_warn_of_missing(COUPON_ISSUER);
		refusal = store_request(campaign, def, &request, &result->position);
		if (refusal != NULL && presumed)
		{
			/* who has a unit is told that, and nothing else */
			presumed = false;
			result->item.status = refusal_of(campaign, def, user_id, key, nwaiting, &presumed, &result->item);
			if (result->item.status == COUPON_ISSUED)
				result->item.status = COUPON_INVALID;
			else
				refusal = coupon_status_name(result->item.status);
		}
		if (refusal != NULL)
			refuse(result, refusal);
		else
		{
			result->status = COUPON_REQUEST_WAITING;
			result->id = request.id;
			result->requested_at = request.requested_at;
			result->is_asked = true;
		}
	}
	if (result->status == COUPON_REQUEST_REFUSED && def->note_refusals && coupon_is_refusal(result->item.status))
		coupon_refusal_note(def, PointerGetDatum(user_id), result->outcome);
	coupon_campaign_leave(campaign);
	coupon_own_row_unlock(&coupon_requests, lock);
	return true;
}

int
coupon_request_outcome(const CouponRequestResult *result)
{
	return coupon_stat_find(&coupon_way_request, result->repeated ? "repeated" :
							result->status == COUPON_REQUEST_REFUSED ? result->outcome : "accepted");
}

static Datum
request(PG_FUNCTION_ARGS)
{
	CouponRequestResult result;
	text	   *key;
	int64		campaign_id;

	PreventCommandDuringRecovery("coupon_request()");
	campaign_id = coupon_get_int64(fcinfo, 0, "campaign_id", PG_INT64_MIN, PG_INT64_MAX);
	coupon_check_text(fcinfo, 1, "user_id", 1, COUPON_MAX_NAME);
	key = coupon_request_key_argument(fcinfo, 2);
	if (campaign_id < 0 || campaign_id > COUPON_MAX_REQUEST_CAMPAIGN)
		coupon_campaign_unknown(campaign_id);

	(void) coupon_request_accept(campaign_id, PG_GETARG_TEXT_PP(1), key, coupon_trace(), true, &result);
	if (unlikely(result.item.status == COUPON_MOVED))
		coupon_node_refuse(campaign_id, PG_GETARG_TEXT_PP(1));
	coupon_stat_outcome(coupon_request_outcome(&result), 1);
	return coupon_request_form_result(fcinfo, &result);
}

/*
 * coupon_request(campaign_id, user_id, request_key)
 */
Datum
coupon_request(PG_FUNCTION_ARGS)
{
	return coupon_stat_call(fcinfo, &coupon_way_request, request);
}

COUPON_FOR_OTHER_USERS(coupon_request, 1);
