/*
 * outcome.c
 *	  What an outcome that is no success is over HTTP: one table for all of the
 *	  neutral contract, whose functions are in C and in SQL.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "base/arguments.h"
#include "base/trace.h"
#include "front/json_fields.h"
#include "front/outcome.h"

PG_FUNCTION_INFO_V1(coupon_http_outcome);

static const CouponHttpOutcome outcomes[] = {
	{"sold_out", 409, "Nothing is left."},
	{"busy", 503, "The user, or the last units, are in another transaction: try again."},
	{"full", 503, "Too many requests wait: try again."},
	{"not_open", 425, "The sale has not begun."},
	{"paused", 503, "The sale is paused."},
	{"closed", 410, "The sale is over."},
	{"not_admitted", 403, "The waiting room has not admitted the user."},
	{"held", 409, "The user holds a unit and has not confirmed it."},
	{"invalid", 400, "The user must be a text of 1 to 256 bytes."},
	{"invalid_token", 400, "The token has not the form of one."},
	{"invalid_key", 400, "The request_key, or the header Idempotency-Key, must be a text of 1 to 256 bytes."},
	{"returned", 410, "What the first call with this key got was given back since: use another key."},
	{"other_call", 422, "The key was used for another call: use another key."},
	{"taken", 409, "The unit is another user's."},
	{"not_held", 404, "The user does not hold the unit."},
	{"lost", 410, "The hold ran out, and the unit is another user's."},
	{"limit_reached", 409, "The user has as many units as one may have."},
	{"other_ref", 409, "The unit has been paid for otherwise."},
	{"already_issued", 409, "The user has the unit already."},
	{"gone", 410, "The ticket has ended."},
	{"rejected", 503, "The room lets nobody in."},
	{"not_requested", 404, "There is no such request."},
	{"moved", 503, "The user has their home on another node: try again."},
	{"unknown_campaign", 404, "There is no such campaign."},
	{"unknown_room", 404, "There is no such room."},
};

CouponHttpOutcome
coupon_outcome_find(const char *name)
{
	CouponHttpOutcome unknown = {name, 409, name};

	for (size_t i = 0; i < lengthof(outcomes); i++)
	{
		if (pg_strcasecmp(outcomes[i].name, name) == 0)
			return outcomes[i];
	}
	return unknown;
}

Datum
coupon_outcome_header(const char *name, const char *value)
{
	Datum		elements[2] = {CStringGetTextDatum(name), CStringGetTextDatum(value)};

	return PointerGetDatum(construct_array(elements, 2, TEXTOID, -1, false, TYPALIGN_INT));
}

Datum
coupon_outcome_retry(void)
{
	return coupon_outcome_header("Retry-After", "1");
}

/* Who can wait may: the other transaction ends. */
static bool
is_pending(const CouponHttpOutcome *outcome)
{
	return strcmp(outcome->name, "busy") == 0;
}

void
coupon_outcome_put(ReturnSetInfo *rsinfo, int status, Datum headers, StringInfo body, bool pending)
{
	Datum		values[4] = {0};
	bool		nulls[4] = {false, headers == (Datum) 0, body == NULL, false};

	values[0] = Int32GetDatum(status);
	values[1] = headers;
	if (body != NULL)
		values[2] = PointerGetDatum(cstring_to_text_with_len(body->data, body->len));
	values[3] = BoolGetDatum(pending);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

void
coupon_outcome_put_problem(ReturnSetInfo *rsinfo, const char *name, const char *detail)
{
	CouponHttpOutcome outcome = coupon_outcome_find(name);
	StringInfoData body;

	initStringInfo(&body);
	coupon_json_problem(&body, outcome.status, outcome.name, outcome.title, detail, NULL);
	coupon_outcome_put(rsinfo, outcome.status, outcome.status == 503 ? coupon_outcome_retry() : (Datum) 0,
					   &body, is_pending(&outcome));
	pfree(body.data);
}

/*
 * coupon.http_outcome(outcome text) RETURNS coupon.http_answer
 */
Datum
coupon_http_outcome(PG_FUNCTION_ARGS)
{
	CouponHttpOutcome outcome = coupon_outcome_find(coupon_get_text(fcinfo, 0, "outcome", 1, COUPON_MAX_NAME));
	StringInfoData body;
	Datum		values[4] = {0};
	bool		nulls[4] = {false, outcome.status != 503, false, false};
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "coupon.http_outcome() has an unexpected result type");
	initStringInfo(&body);
	coupon_json_problem(&body, outcome.status, outcome.name, outcome.title, NULL, NULL);
	values[0] = Int32GetDatum(outcome.status);
	if (!nulls[1])
		values[1] = coupon_outcome_retry();
	values[2] = PointerGetDatum(cstring_to_text_with_len(body.data, body.len));
	values[3] = BoolGetDatum(is_pending(&outcome));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

const char *
coupon_outcome_trace(text *given)
{
	char		trace[COUPON_TRACE_SIZE];

	return given != NULL && coupon_trace_parse(text_to_cstring(given), trace) ? pstrdup(trace) : NULL;
}
