/*
 * room_worker.c
 *	  Serves the waiting rooms, and lets the tables of tickets take turns.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "base/catalog.h"
#include "base/guc.h"
#include "base/worker.h"
#include "room/room.h"

#define ROTATE_EVERY_MS	200
#define INTERVAL_MS		500		/* nobody is there */
#define ACTIVE_MS		20		/* a session may end, a slot's time may come */

static bool active = false;

static bool
rotate(void)
{
	static TimestampTz rotated_at = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(rotated_at, now, ROTATE_EVERY_MS))
		return false;
	rotated_at = now;
	coupon_queue_table_rotate(coupon_queue(&coupon_tickets), coupon_catalog()->tickets,
					   Ticket_ended_at, coupon_queue_keep);
	return true;
}

/* A cycle serves or rotates: emptying a table wants no lock on another. */
static bool
serve(void)
{
	int64		served = 0;

	if (rotate())
		return true;
	return coupon_room_serve_some(false, &served, &active);
}

static int
serve_interval(void)
{
	return active ? ACTIVE_MS : INTERVAL_MS;
}

static const char *const tables[] = {"room", "ticket", NULL};

const CouponWorkerKind coupon_room_worker = {
	.name = "coupon room worker",
	.tables = tables,
	.work = serve,
	.interval = serve_interval
};
