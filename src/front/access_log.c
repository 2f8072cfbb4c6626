/*
 * access_log.c
 *	  A line in the server's log for each answer, or for some.
 *
 * A line never has what a client could choose: of the path it has the route's
 * template, since the path itself may name users and has the tokens of waiting
 * rooms.  Nor has it a token or a user.  It has the client's address, without
 * which nobody could tell an attack from a crowd.
 */
#include "postgres.h"

#include "front/access_log.h"
#include "front/limit.h"
#include "front/route.h"
#include "front/settings.h"

/* A method that HTTP knows; "-" for what a client has made up. */
static const char *
known_method(const char *method)
{
	static const char *const known[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"};

	for (size_t i = 0; i < lengthof(known); i++)
	{
		if (strcmp(method, known[i]) == 0)
			return known[i];
	}
	return "-";
}

void
coupon_access_log(CouponHttpCall *call)
{
	static double due = 0;
	char		client[128];
	instr_time	took;
	bool		has_route = call->route != NULL && call->generation == coupon_route_generation();

	due += coupon_http_access_log;
	if (due < 1)
		return;
	due -= 1;
	INSTR_TIME_SET_CURRENT(took);
	INSTR_TIME_SUBTRACT(took, call->arrived);
	coupon_limit_client(call, client, sizeof(client));
	ereport(LOG,
			(errhidestmt(true), errhidecontext(true),
			 errmsg("access: %s %s %d, %.3f ms, %zu bytes, from %s",
					known_method(call->method), has_route ? call->route->path : "-", call->status,
					INSTR_TIME_GET_MILLISEC(took), call->answer_length, client)));
}
