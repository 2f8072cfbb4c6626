/*
 * http_issue.c
 *	  coupon.http_issue: the calls of POST /campaigns/{campaign_id}/issues that
 *	  came at the same moment, issued together.
 *
 * The calls of a campaign are one batch, which waits for no other transaction.
 * An ERROR is the answer of the call that raises it: batches of several campaigns
 * run in a subtransaction each, and one that fails is done again call by call.
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "base/arguments.h"
#include "base/attempt.h"
#include "base/compat.h"
#include "base/errors.h"
#include "front/http_issue.h"
#include "front/json_fields.h"
#include "front/outcome.h"
#include "outbox/payload.h"
#include "sale/campaign.h"
#include "sale/issue.h"

PG_FUNCTION_INFO_V1(coupon_http_issue);

CouponWay	coupon_way_http_issue = {
	.name = "http_issue",
	.kind = COUPON_WAY_TRANSACTION,
	.batched = true,
	.outcomes = coupon_issue_outcomes,
	.noutcomes = COUPON_STATUSES
};

/* One call, and its place among the others. */
typedef struct Call
{
	int			position;
	int64		campaign_id;	/* 0: there is none */
	text	   *user_id;
	const char *trace;			/* or NULL */
	text	   *request_key;	/* or NULL */
	bool		invalid_key;
	CouponItem *item;
	ErrorData  *error;			/* instead of an outcome */
} Call;

static int
compare_calls(const void *a, const void *b)
{
	const Call *x = *(Call *const *) a;
	const Call *y = *(Call *const *) b;

	if (x->campaign_id != y->campaign_id)
		return x->campaign_id < y->campaign_id ? -1 : 1;
	return x->position - y->position;
}

/* Calls of one campaign. */
typedef struct Batch
{
	Call	  **calls;
	int			ncalls;
} Batch;

static void
issue_campaign(void *arg)
{
	Batch	   *batch = arg;
	CouponItem *items = palloc0(batch->ncalls * sizeof(CouponItem));

	for (int i = 0; i < batch->ncalls; i++)
	{
		items[i].user_id = PointerGetDatum(batch->calls[i]->user_id);
		items[i].trace = batch->calls[i]->trace;
		items[i].request_key = batch->calls[i]->request_key;
		batch->calls[i]->item = &items[i];
	}
	coupon_issue_batch(batch->calls[0]->campaign_id, items, batch->ncalls, COUPON_NO_WAIT);
}

/*
 * The ERROR of one user must not be their neighbours' answer.  What is all
 * there is may fail as a whole: whoever has called does it again, then.
 */
static void
issue_apart(Call **calls, int ncalls, bool is_all)
{
	Batch		batch = {calls, ncalls};
	ErrorData  *error;

	if (is_all && coupon_campaign_exists(calls[0]->campaign_id))
	{
		issue_campaign(&batch);
		return;
	}
	error = coupon_attempt(issue_campaign, &batch);
	if (error == NULL)
		return;
	for (int i = 0; i < ncalls; i++)
		calls[i]->error = error;
	/* these are not of one user, and a wait is not repeated for each */
	if (ncalls == 1 || error->sqlerrcode == ERRCODE_COUPON_UNKNOWN_CAMPAIGN ||
		error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		return;
	for (int i = 0; i < ncalls; i++)
	{
		CHECK_FOR_INTERRUPTS();
		calls[i]->error = NULL;
		issue_apart(&calls[i], 1, false);
	}
}

static void
describe_issuance(StringInfo body, const Call *call)
{
	const CouponIssuance *issuance = &call->item->issuance;

	Assert(call->item != NULL);
	coupon_payload_begin(body);
	coupon_payload_int64(body, "campaign_id", call->campaign_id);
	coupon_payload_text(body, "user_id", text_to_cstring(call->user_id));
	coupon_payload_text(body, "status", coupon_status_name(call->item->status));
	coupon_payload_int64(body, "serial", issuance->serial);
	if (issuance->code != NULL)
		coupon_payload_text(body, "code", text_to_cstring(issuance->code));
	coupon_payload_time(body, "issued_at", issuance->issued_at);
	coupon_payload_time(body, "expires_at", issuance->expires_at);
	coupon_payload_end(body);
}

static void
put_answer(ReturnSetInfo *rsinfo, const Call *call, StringInfo body)
{
	CouponStatus status = call->item == NULL ? COUPON_INVALID : call->item->status;

	resetStringInfo(body);
	if (call->error == NULL && (status == COUPON_ISSUED || status == COUPON_ALREADY_ISSUED))
	{
		describe_issuance(body, call);
		coupon_outcome_put(rsinfo, status == COUPON_ISSUED ? 201 : 200, (Datum) 0, body, false);
	}
	else if (call->error == NULL)
		coupon_outcome_put_problem(rsinfo, call->invalid_key ? "invalid_key" : coupon_status_name(status), NULL);
	else if (call->error->sqlerrcode == ERRCODE_COUPON_UNKNOWN_CAMPAIGN)
		coupon_outcome_put_problem(rsinfo, "unknown_campaign", call->error->detail);
	else
	{
		coupon_json_problem(body, 503, unpack_sql_state(call->error->sqlerrcode),
							"The campaign cannot be served at the moment.", NULL, NULL);
		coupon_outcome_put(rsinfo, 503, coupon_outcome_retry(), body,
						   call->error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE);
	}
}

/* The calls as they came, in *calls; their number. */
static int
read_calls(FunctionCallInfo fcinfo, Call **calls)
{
	int			ncalls;
	text	  **users = coupon_get_text_array(fcinfo, 1, "user_id", &ncalls);
	int64	   *campaigns = coupon_get_int64_array(fcinfo, 0, "campaign_id", ncalls, "user_id");
	text	  **keys = coupon_get_optional_texts(fcinfo, 2, "request_key", ncalls, "user_id");
	text	  **traces = coupon_get_optional_texts(fcinfo, 3, "traceparent", ncalls, "user_id");

	*calls = palloc0(Max(ncalls, 1) * sizeof(Call));
	for (int i = 0; i < ncalls; i++)
	{
		Call	   *call = &(*calls)[i];

		call->position = i;
		call->campaign_id = campaigns[i];
		if (coupon_is_name(users[i]))
			call->user_id = users[i];
		call->trace = coupon_outcome_trace(traces == NULL ? NULL : traces[i]);
		call->request_key = keys == NULL ? NULL : keys[i];
		call->invalid_key = call->request_key != NULL && !coupon_is_name(call->request_key);
	}
	return ncalls;
}

/* Counts the calls by what became of them. */
static void
count_calls(const Call *calls, int ncalls)
{
	int			counts[COUPON_STATUSES] = {0};

	coupon_stat_batch(&coupon_way_http_issue, ncalls);
	for (int i = 0; i < ncalls; i++)
	{
		if (calls[i].error != NULL)
			coupon_stat_error(calls[i].error->sqlerrcode);
		else
			counts[calls[i].item == NULL ? COUPON_INVALID : coupon_item_outcome(calls[i].item)]++;
	}
	for (int status = 0; status < COUPON_STATUSES; status++)
		coupon_stat_outcome(status, counts[status]);
}

static Datum
http_issue(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	StringInfoData body;
	Call	   *calls;
	Call	  **sorted;
	int			ncalls = read_calls(fcinfo, &calls);
	int			nvalid = 0;

	InitMaterializedSRF(fcinfo, 0);
	sorted = palloc(Max(ncalls, 1) * sizeof(Call *));
	for (int i = 0; i < ncalls; i++)
	{
		if (calls[i].user_id != NULL && !calls[i].invalid_key)
			sorted[nvalid++] = &calls[i];
	}
	qsort(sorted, nvalid, sizeof(Call *), compare_calls);
	for (int i = 0, n; i < nvalid; i += n)
	{
		CHECK_FOR_INTERRUPTS();
		for (n = 1; i + n < nvalid && sorted[i + n]->campaign_id == sorted[i]->campaign_id; n++)
			;
		issue_apart(&sorted[i], n, n == nvalid && n > 1);
	}
	initStringInfo(&body);
	for (int i = 0; i < ncalls; i++)
		put_answer(rsinfo, &calls[i], &body);
	count_calls(calls, ncalls);
	return (Datum) 0;
}

/*
 * coupon.http_issue(campaign_id bigint[], user_id text[], request_key text[],
 *					 traceparent text[])
 * RETURNS SETOF coupon.http_answer
 */
Datum
coupon_http_issue(PG_FUNCTION_ARGS)
{
	return coupon_stat_call(fcinfo, &coupon_way_http_issue, http_issue);
}
