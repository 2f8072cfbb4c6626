/*
 * http_room.c
 *	  coupon.http_join, coupon.http_position and coupon.http_leave: visitors of
 *	  waiting rooms that came at the same moment.
 *
 * Nothing is waited for: who is in somebody else's transaction is answered busy,
 * which is pending, and asked for again.  An ERROR is that of the batch; the
 * front does it again call by call.
 */
#include "postgres.h"

#include <math.h>

#include "access/xlog.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/formatting.h"
#include "utils/timestamp.h"

#include "base/arguments.h"
#include "base/compat.h"
#include "base/stat.h"
#include "front/answer.h"
#include "front/outcome.h"
#include "outbox/payload.h"
#include "room/room_ticket.h"

PG_FUNCTION_INFO_V1(coupon_http_join);
PG_FUNCTION_INFO_V1(coupon_http_position);
PG_FUNCTION_INFO_V1(coupon_http_leave);

static int64
whole_seconds(int64 us)
{
	return (us + USECS_PER_SEC - 1) / USECS_PER_SEC;
}

/*
 * Two digits are enough of how many are behind: each change is told to all who
 * wait.
 */
static int64
round_behind(int64 behind)
{
	int64		unit = 1;

	while (behind / unit >= 100 && unit < 10000)
		unit *= 10;
	return behind - behind % unit;
}

/* A ticket as JSON; with behind, how many are behind it. */
static void
describe(StringInfo body, const CouponTicketAnswer *ticket, bool behind)
{
	resetStringInfo(body);
	coupon_payload_begin(body);
	coupon_payload_text(body, "status", asc_tolower(ticket->status, strlen(ticket->status)));
	coupon_payload_text(body, "token", ticket->token);
	if (ticket->position >= 0)
		coupon_payload_int64(body, "position", ticket->position);
	if (behind && ticket->position > 0 && ticket->waiting >= ticket->position)
		coupon_payload_int64(body, "behind", round_behind(ticket->waiting - ticket->position));
	if (ticket->eta >= 0)
		coupon_payload_int64(body, "eta_seconds", whole_seconds(ticket->eta));
	if (ticket->poll_after >= 0)
		coupon_payload_int64(body, "poll_after_seconds", whole_seconds(ticket->poll_after));
	coupon_payload_end(body);
}

static void
put_joined(ReturnSetInfo *rsinfo, text *room, const CouponTicketAnswer *ticket, StringInfo body)
{
	StringInfoData location;

	if (ticket->token == NULL)
	{
		coupon_outcome_put_problem(rsinfo, ticket->status, NULL);
		return;
	}
	initStringInfo(&location);
	appendStringInfoString(&location, "/rooms/");
	coupon_answer_append_segment(&location, room);
	appendStringInfo(&location, "/tickets/%s", ticket->token);
	describe(body, ticket, false);
	coupon_outcome_put(rsinfo, 201, coupon_outcome_header("Location", location.data), body, false);
}

static Datum
http_join(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			ncalls;
	int			nrooms;
	text	  **users = coupon_get_text_array(fcinfo, 1, "user_id", &ncalls);
	text	  **rooms = coupon_get_text_array(fcinfo, 0, "room", &nrooms);
	text	   *last = NULL;
	int64		room_id = 0;
	int			counts[COUPON_MAX_OUTCOMES] = {0};
	StringInfoData body;

	coupon_check_lengths("room", nrooms, "user_id", ncalls);
	PreventCommandDuringRecovery("coupon_queue_join()");
	PreventCommandIfReadOnly("coupon_queue_join()");
	InitMaterializedSRF(fcinfo, 0);
	initStringInfo(&body);
	for (int i = 0; i < ncalls; i++)
	{
		CouponTicketAnswer ticket;

		CHECK_FOR_INTERRUPTS();
		if (rooms[i] != NULL && (last == NULL || coupon_compare_texts(last, rooms[i]) != 0))
		{
			last = rooms[i];
			room_id = coupon_room_find(last);
		}
		if (rooms[i] == NULL || room_id == 0)
			coupon_outcome_put_problem(rsinfo, "unknown_room", NULL);
		else if (!coupon_is_name(users[i]))
			coupon_outcome_put_problem(rsinfo, "invalid", NULL);
		else if (!coupon_ticket_join(room_id, users[i], false, &ticket))
			coupon_outcome_put_problem(rsinfo, "busy", NULL);
		else
		{
			int			outcome = coupon_ticket_outcome(&ticket);

			if (outcome >= 0)
				counts[outcome]++;
			put_joined(rsinfo, rooms[i], &ticket, &body);
		}
	}
	for (int outcome = 0; outcome < coupon_way_join.noutcomes; outcome++)
		coupon_stat_outcome(outcome, counts[outcome]);
	return (Datum) 0;
}

/*
 * coupon.http_join(room text[], user_id text[]) RETURNS SETOF coupon.http_answer
 */
Datum
coupon_http_join(PG_FUNCTION_ARGS)
{
	return coupon_stat_call(fcinfo, &coupon_way_join, http_join);
}

/* The tokens of an argument; *ok: which have the form of one. */
static CouponToken *
get_tokens(FunctionCallInfo fcinfo, int argument, bool **ok, int *ncalls)
{
	text	  **values = coupon_get_text_array(fcinfo, argument, "token", ncalls);
	CouponToken *tokens = palloc(Max(*ncalls, 1) * sizeof(CouponToken));

	*ok = palloc(Max(*ncalls, 1) * sizeof(bool));
	for (int i = 0; i < *ncalls; i++)
		(*ok)[i] = values[i] != NULL && coupon_token_parse(values[i], &tokens[i]);
	return tokens;
}

/*
 * coupon.http_position(room text[], token text[]) RETURNS SETOF
 * coupon.http_answer.  The token says by itself which room it is of.
 */
Datum
coupon_http_position(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			ncalls;
	bool	   *ok;
	CouponToken *tokens = get_tokens(fcinfo, 1, &ok, &ncalls);
	StringInfoData body;

	PreventCommandDuringRecovery("coupon_queue_position()");
	InitMaterializedSRF(fcinfo, 0);
	initStringInfo(&body);
	for (int i = 0; i < ncalls; i++)
	{
		CouponTicketAnswer ticket = {.poll_after = -1};
		char		seconds[MAXINT8LEN + 1];

		CHECK_FOR_INTERRUPTS();
		if (ok[i])
			coupon_ticket_position(&tokens[i], &ticket);
		/* who is not told when to ask again has no ticket any more */
		if (ticket.poll_after < 0)
		{
			coupon_outcome_put_problem(rsinfo, "gone", NULL);
			continue;
		}
		describe(&body, &ticket, true);
		pg_lltoa(whole_seconds(ticket.poll_after), seconds);
		coupon_outcome_put(rsinfo, 200, coupon_outcome_header("Retry-After", seconds), &body, true);
	}
	return (Datum) 0;
}

/*
 * coupon.http_leave(room text[], token text[]) RETURNS SETOF coupon.http_answer
 */
Datum
coupon_http_leave(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			ncalls;
	bool	   *ok;
	CouponToken *tokens = get_tokens(fcinfo, 1, &ok, &ncalls);

	PreventCommandDuringRecovery("coupon_queue_leave()");
	PreventCommandIfReadOnly("coupon_queue_leave()");
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < ncalls; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!ok[i])
			coupon_outcome_put_problem(rsinfo, "invalid_token", NULL);
		else if (coupon_ticket_leave(&tokens[i], "left", false) == COUPON_TICKET_LOCKED)
			coupon_outcome_put_problem(rsinfo, "busy", NULL);
		else
			coupon_outcome_put(rsinfo, 204, (Datum) 0, NULL, false);
	}
	return (Datum) 0;
}
