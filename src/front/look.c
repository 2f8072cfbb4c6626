/*
 * look.c
 *	  Looking at a call: everything before its function.
 *
 *	  limits -> route -> caller and role -> arguments
 *
 * What is refused here costs no function, and no batch.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "base/guc.h"
#include "base/trace.h"
#include "front/answer.h"
#include "front/call.h"
#include "front/limit.h"
#include "front/look.h"
#include "front/pages.h"
#include "front/service.h"
#include "front/settings.h"
#include "front/statistics.h"
#include "front/token.h"

#define MAX_WAIT_S			60	/* of Prefer: wait=N */

/* How long the caller waits for an answer that is pending, in ms. */
static int
patience(CouponHttpCall *call)
{
	const char *prefer = coupon_http_header(call, "Prefer");
	const char *wait = prefer == NULL ? NULL : strstr(prefer, "wait=");

	if (wait != NULL)
	{
		int			seconds = atoi(wait + 5);

		return Min(Max(seconds, 0), MAX_WAIT_S) * 1000;
	}

	/*
	 * who asks for a unit waits for the last ones as a direct call does, and
	 * who changes anything for whoever is at it
	 */
	return strcmp(call->method, "GET") == 0 || strcmp(call->method, "HEAD") == 0 ? 0 : coupon_sold_out_wait;
}

void
coupon_look_answer_cors(CouponHttpCall *call)
{
	const char *origin = coupon_http_cors_origins[0] == '\0' ? NULL : coupon_http_header(call, "Origin");

	if (origin == NULL)
		return;
	if (strcmp(coupon_http_cors_origins, "*") != 0 && !coupon_service_in_list(coupon_http_cors_origins, origin))
		return;
	coupon_answer_header(call, "Access-Control-Allow-Origin",
						 strcmp(coupon_http_cors_origins, "*") == 0 ? "*" : origin);
	coupon_answer_header(call, "Vary", "Origin");
	coupon_answer_header(call, "Access-Control-Expose-Headers", "Location, Retry-After, X-Access-Token");
}

static void
answer_options(CouponHttpCall *call, const char *allow)
{
	coupon_answer_body(call, 204, NULL, NULL, 0);
	coupon_answer_header(call, "Allow", psprintf("%s, OPTIONS", allow));
	if (coupon_http_header(call, "Access-Control-Request-Method") != NULL)
	{
		coupon_answer_header(call, "Access-Control-Allow-Methods", allow);
		coupon_answer_header(call, "Access-Control-Allow-Headers",
							 "Authorization, Content-Type, Idempotency-Key, Prefer, traceparent, X-Access-Token");
		coupon_answer_header(call, "Access-Control-Max-Age", "600");
	}
}

/* Finds the route; false: the call has its answer. */
static bool
look_at_route(CouponHttpCall *call)
{
	const char *problem;

	call->route = coupon_route_find(call, NULL, &problem);
	if (call->route == NULL)
	{
		StringInfoData allow;

		initStringInfo(&allow);
		(void) coupon_route_find(call, &allow, &problem);
		if (strcmp(call->method, "OPTIONS") == 0 && allow.len > 0)
			answer_options(call, allow.data);
		else if (allow.len > 0)
		{
			coupon_answer_problem(call, 405, "method", psprintf("This route takes %s.", allow.data), NULL, NULL);
			coupon_answer_header(call, "Allow", allow.data);
		}
		else
			coupon_answer_problem(call, 404, "unknown_route", "There is no such route.", NULL, NULL);
		return false;
	}
	if (problem != NULL)
		coupon_answer_problem(call, 400, "malformed", problem, NULL, NULL);
	return problem == NULL;
}

/* May the caller use the route?  False: the call has its answer. */
static bool
look_at_role(CouponHttpCall *call)
{
	/* a role may have become a superuser, or gone, since it was let in */
	if (SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(call->role)) && !superuser_arg(call->role) &&
		(!OidIsValid(call->route->required_role) ||
		 is_member_of_role_nosuper(call->role, call->route->required_role)))
		return true;
	coupon_answer_problem(call, 403, "role", "The caller's role may not use this route.", NULL, NULL);
	return false;
}

/* Who calls; false: the call has its answer. */
static bool
look_at_caller(CouponHttpCall *call)
{
	const char *authorization = coupon_http_header(call, "Authorization");
	const CouponIdentity *identity;
	const char *problem = NULL;

	call->expires_at = DT_NOEND;
	if (OidIsValid(call->route->anonymous_role) && authorization == NULL)
	{
		call->role = call->route->anonymous_role;
		call->claims = coupon_token_claims(GetUserNameFromId(call->role, true));
		return look_at_role(call);
	}
	identity = coupon_token_check(authorization, GetCurrentTimestamp(), &problem);
	if (identity == NULL)
	{
		coupon_answer_problem(call, 401, "token", problem, NULL, NULL);
		return false;
	}
	call->role = identity->role;
	call->user_id = identity->user_id == NULL ? NULL : pstrdup(identity->user_id);
	call->claims = pstrdup(identity->claims);
	call->expires_at = identity->expires_at;
	return look_at_role(call);
}

static void
count_traces(void *state, const char *name, const char *value)
{
	if (pg_strcasecmp(name, "traceparent") == 0)
		(*(int *) state)++;
}

/* The call's trace, by the rules of W3C trace context: what is none is ignored. */
static void
look_at_trace(CouponHttpCall *call)
{
	const char *given = coupon_http_header(call, "traceparent");
	char		trace[COUPON_TRACE_SIZE];
	int			n = 0;

	if (given == NULL || !coupon_trace_parse(given, trace))
		return;
	coupon_http_each_header(call, count_traces, &n);
	if (n == 1)
		call->trace = pstrdup(trace);
}

/* Everything before the function; false: the call has its answer. */
static bool
look(CouponHttpCall *call, TimestampTz now)
{
	const char *problem;

	if (call->refusal != NULL)
	{
		/* what is malformed is counted by its answer only */
		if (call->refusal->status != 400)
			coupon_stat_tally(call->refusal->status == 503 ? COUPON_TALLY_REFUSED_FULL : COUPON_TALLY_REFUSED_SIZE);
		coupon_answer_problem(call, call->refusal->status, call->refusal->code, call->refusal->title,
							  call->refusal->detail, NULL);
		return false;
	}
	/* it is shown to functions, and to whoever reads the log */
	if (!pg_verify_mbstr(GetDatabaseEncoding(), call->target, strlen(call->target), true))
	{
		coupon_answer_problem(call, 400, "malformed", "The target is not UTF-8.", NULL, NULL);
		return false;
	}
	if (coupon_service_serve(call) || coupon_pages_serve(call))
		return false;
	if (!coupon_limit_admits_address(call, now) ||
		(look_at_route(call) && look_at_caller(call) && !coupon_limit_admits_user(call, now)))
	{
		coupon_stat_tally(COUPON_TALLY_REFUSED_RATE);
		coupon_answer_problem(call, 429, "too_many", "There are too many calls from here: slow down.", NULL, NULL);
	}
	if (call->done)
		return false;
	look_at_trace(call);
	problem = coupon_arguments_read(call);
	if (problem != NULL)
	{
		coupon_answer_problem(call, 400, "malformed", problem, NULL, NULL);
		return false;
	}
	if (!coupon_call_bind(call))
		return false;
	if (call->route->batched && strcmp(call->method, "GET") == 0)
	{
		const char *accept = coupon_http_header(call, "Accept");

		call->is_stream = accept != NULL && strstr(accept, "text/event-stream") != NULL;
	}
	call->deadline = TimestampTzPlusMilliseconds(now, patience(call));
	return true;
}

void
coupon_look_at(CouponHttpCall *call, TimestampTz now)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(call->context);

	(void) look(call, now);
	call->generation = coupon_route_generation();
	MemoryContextSwitchTo(oldcontext);
}

void
coupon_look_again(CouponHttpCall *call)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(call->context);

	coupon_answer_reset(call);
	if (call->generation == coupon_route_generation())
		(void) look_at_role(call);
	else
	{
		/* streams may live through any number of changes of the routes */
		if (call->refreshed == NULL)
			call->refreshed = AllocSetContextCreate(call->context, "coupon call again", ALLOCSET_SMALL_SIZES);
		MemoryContextReset(call->refreshed);
		MemoryContextSwitchTo(call->refreshed);
		call->arguments = NULL;
		call->narguments = 0;
		if (!(look_at_route(call) && look_at_role(call) && coupon_arguments_read(call) == NULL &&
			  coupon_call_bind(call)) && !call->done)
			coupon_answer_problem(call, 404, "unknown_route", "There is no such route any more.", NULL, NULL);
		/* a plain function has one answer, and no events */
		call->is_stream = call->is_stream && !call->done && call->route->batched;
		if (!call->done && !call->is_stream && call->events != NULL)
			coupon_answer_problem(call, 404, "unknown_route", "There is no such stream any more.", NULL, NULL);
	}
	call->generation = coupon_route_generation();
	MemoryContextSwitchTo(oldcontext);
}
