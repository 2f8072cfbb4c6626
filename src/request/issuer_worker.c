/*
 * issuer_worker.c
 *	  Decides requests, and lets the tables of requests take turns.
 */
#include "postgres.h"

#include "base/catalog.h"
#include "base/guc.h"
#include "base/worker.h"
#include "request/request.h"

#define BATCH_REQUESTS	1000
#define ROTATE_EVERY_MS	200
#define INTERVAL_MS		500		/* somebody wakes us sooner */
#define STANDING_MS		10		/* a line stands: is it time? */
#define SMALL_BATCH		200		/* a commit is shared by more, */
#define REST_MS			2		/* if they have the time to gather */

static bool standing = false;
static int64 last_batch = 0;

static bool
rotate(void)
{
	static TimestampTz rotated_at = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (coupon_worker_instance() != 0 ||
		!TimestampDifferenceExceeds(rotated_at, now, ROTATE_EVERY_MS))
		return false;
	rotated_at = now;
	coupon_queue_table_rotate(coupon_queue(&coupon_requests), coupon_catalog()->requests,
					   Request_decided_at, coupon_queue_keep);
	return true;
}

/* A cycle decides or rotates: emptying a table wants no lock on another. */
static bool
decide(void)
{
	int64		decided = 0;
	CouponDecideResult result;

	last_batch = 0;
	if (rotate())
		return true;
	result = coupon_request_decide_some(BATCH_REQUESTS, false, &decided);
	last_batch = decided;
	standing = result == COUPON_DECIDE_LATER;
	return result == COUPON_DECIDED_SOME;
}

static int
decide_interval(void)
{
	return standing ? STANDING_MS : INTERVAL_MS;
}

/* Who comes to an idle issuer is served at once, and only then it rests. */
static int
decide_rest(void)
{
	return last_batch > 0 && last_batch < SMALL_BATCH ? REST_MS : 0;
}

static int
issuers(void)
{
	return coupon_issuers;
}

static const char *const tables[] = {
	"campaign", "shard", "unit", "issuance", "lapsed_hold", "outbox_0", "outbox_1", "outbox_2",
	"request", NULL
};

const CouponWorkerKind coupon_issuer = {
	.name = "coupon issuer",
	.tables = tables,
	.work = decide,
	.interval = decide_interval,
	.instances = issuers,
	.rest = decide_rest
};
