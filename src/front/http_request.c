/*
 * http_request.c
 *	  coupon.http_request and coupon.http_request_status: requests that came at
 *	  the same moment.
 *
 * Nothing is waited for: who is in somebody else's transaction is answered busy,
 * which is pending, and asked for again.  An ERROR is that of the batch; the
 * front does it again call by call.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/formatting.h"
#include "utils/uuid.h"

#include "base/arguments.h"
#include "base/compat.h"
#include "base/stat.h"
#include "front/outcome.h"
#include "outbox/payload.h"
#include "request/request.h"
#include "sale/campaign.h"

PG_FUNCTION_INFO_V1(coupon_http_request);
PG_FUNCTION_INFO_V1(coupon_http_request_status);

static char *
format_id(const pg_uuid_t *id)
{
	return DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(id)));
}

/* What is known of a request, as JSON. */
static void
describe(StringInfo body, int64 campaign_id, const CouponRequestResult *result)
{
	const char *status = coupon_request_status_name(result->status);
	bool		has_unit = result->status != COUPON_REQUEST_WAITING &&
	(result->item.status == COUPON_ISSUED || result->item.status == COUPON_ALREADY_ISSUED);

	coupon_payload_begin(body);
	coupon_payload_int64(body, "campaign_id", campaign_id);
	if (result->requested_at != 0)
		coupon_payload_text(body, "request_id", format_id(&result->id));
	coupon_payload_text(body, "status", asc_tolower(status, strlen(status)));
	coupon_payload_text(body, "outcome", result->outcome);
	if (result->status != COUPON_REQUEST_REFUSED)
		coupon_payload_int64(body, "queue_position", result->position);
	if (result->requested_at != 0)
		coupon_payload_time(body, "requested_at", result->requested_at);
	if (result->decided_at != 0)
		coupon_payload_time(body, "decided_at", result->decided_at);
	if (has_unit)
	{
		coupon_payload_int64(body, "serial", result->item.issuance.serial);
		if (result->item.issuance.code != NULL)
			coupon_payload_text(body, "code", text_to_cstring(result->item.issuance.code));
	}
	coupon_payload_end(body);
}

static void
put_request(ReturnSetInfo *rsinfo, int64 campaign_id, const CouponRequestResult *result, StringInfo body)
{
	bool		refused = result->status == COUPON_REQUEST_REFUSED;
	Datum		location = (Datum) 0;

	if (refused && strcmp(result->outcome, coupon_status_name(COUPON_ALREADY_ISSUED)) != 0)
	{
		coupon_outcome_put_problem(rsinfo, result->outcome, NULL);
		return;
	}
	if (!refused)
		location = coupon_outcome_header("Location", psprintf("/campaigns/" INT64_FORMAT "/requests/%s", campaign_id,
															  format_id(&result->id)));
	resetStringInfo(body);
	describe(body, campaign_id, result);
	coupon_outcome_put(rsinfo, refused ? 200 : 202, location, body, false);
}

/* What is wrong with a call before it is made: an outcome; NULL: nothing. */
static const char *
find_problem(int64 campaign_id, const text *user_id, const text *key, int64 *known)
{
	if (campaign_id != *known)
	{
		if (campaign_id < 1 || campaign_id > COUPON_MAX_REQUEST_CAMPAIGN ||
			!coupon_campaign_exists(campaign_id))
			return "unknown_campaign";
		*known = campaign_id;
	}
	if (!coupon_is_name(user_id))
		return "invalid";
	return key == NULL || coupon_is_name(key) ? NULL : "invalid_key";
}

static Datum
http_request(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			ncalls;
	text	  **users = coupon_get_text_array(fcinfo, 1, "user_id", &ncalls);
	int64	   *campaigns = coupon_get_int64_array(fcinfo, 0, "campaign_id", ncalls, "user_id");
	text	  **keys = coupon_get_optional_texts(fcinfo, 2, "request_key", ncalls, "user_id");
	text	  **traces = coupon_get_optional_texts(fcinfo, 3, "traceparent", ncalls, "user_id");
	int64		known = 0;
	int			counts[COUPON_MAX_OUTCOMES] = {0};
	StringInfoData body;

	PreventCommandDuringRecovery("coupon_request()");
	InitMaterializedSRF(fcinfo, 0);
	initStringInfo(&body);
	for (int i = 0; i < ncalls; i++)
	{
		text	   *key = keys == NULL ? NULL : keys[i];
		const char *problem = find_problem(campaigns[i], users[i], key, &known);
		CouponRequestResult result;
		int			outcome;

		CHECK_FOR_INTERRUPTS();
		if (problem != NULL)
		{
			coupon_outcome_put_problem(rsinfo, problem, NULL);
			continue;
		}
		if (!coupon_request_accept(campaigns[i], users[i], key, coupon_outcome_trace(traces == NULL ? NULL : traces[i]),
								   false, &result))
		{
			coupon_outcome_put_problem(rsinfo, "busy", NULL);
			continue;
		}
		outcome = coupon_request_outcome(&result);
		if (outcome >= 0)
			counts[outcome]++;
		put_request(rsinfo, campaigns[i], &result, &body);
	}
	for (int outcome = 0; outcome < coupon_way_request.noutcomes; outcome++)
		coupon_stat_outcome(outcome, counts[outcome]);
	return (Datum) 0;
}

/*
 * coupon.http_request(campaign_id bigint[], user_id text[], request_key text[],
 * traceparent text[]) RETURNS SETOF coupon.http_answer
 */
Datum
coupon_http_request(PG_FUNCTION_ARGS)
{
	return coupon_stat_call(fcinfo, &coupon_way_request, http_request);
}

/*
 * coupon.http_request_status(campaign_id bigint[], request_id uuid[])
 * RETURNS SETOF coupon.http_answer
 */
Datum
coupon_http_request_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum	   *ids;
	bool	   *nulls;
	int			ncalls;
	int64	   *campaigns;
	StringInfoData body;

	coupon_require_argument(fcinfo, 1, "request_id");
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), UUIDOID, UUID_LEN, false, TYPALIGN_CHAR, &ids, &nulls, &ncalls);
	campaigns = coupon_get_int64_array(fcinfo, 0, "campaign_id", ncalls, "request_id");
	PreventCommandDuringRecovery("coupon_request_status()");
	InitMaterializedSRF(fcinfo, 0);
	initStringInfo(&body);
	for (int i = 0; i < ncalls; i++)
	{
		CouponRequestResult result;
		int64		campaign_id;

		CHECK_FOR_INTERRUPTS();
		/* another campaign's request is none of this one's */
		if (nulls[i] || !coupon_request_look(DatumGetUUIDP(ids[i]), &result, &campaign_id) ||
			campaign_id != campaigns[i])
		{
			coupon_outcome_put_problem(rsinfo, "not_requested", NULL);
			continue;
		}
		resetStringInfo(&body);
		describe(&body, campaign_id, &result);
		coupon_outcome_put(rsinfo, 200, (Datum) 0, &body, result.status == COUPON_REQUEST_WAITING);
	}
	return (Datum) 0;
}
