/*
 * publisher_worker.c
 *	  The process that publishes: waits for sessions and for the broker.
 */
#include "postgres.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/guc.h"
#include "base/worker.h"
#include "kafka/publish.h"
#include "kafka/publisher_status.h"
#include "kafka/sink.h"

#define TICK_MS		100			/* longest wait while the broker owes reports */
#define FAREWELL_MS	400			/* for the reports of what is in flight, at the end */
#define SHUT_MS		300			/* for the client's threads */

static WaitEventSet *events = NULL;

static void
leave(int code, Datum arg)
{
	coupon_sink_shut(SHUT_MS);
	coupon_publisher_set_refused("");
	coupon_publisher_set_state(COUPON_BROKER_NONE);
}

static void
publish_start(void)
{
#ifdef M_MXFAST

	/*
	 * librdkafka allocates each header of each message by itself.  In glibc's
	 * fastbins such chunks are not merged when they are freed, but all at
	 * once now and then, and malloc searches the rest: without them events
	 * are sent half as fast again.
	 */
	(void) mallopt(M_MXFAST, 0);
#endif
	events = coupon_create_wait_event_set(TopMemoryContext, 3);
	AddWaitEventToSet(events, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(events, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(events, WL_SOCKET_READABLE, coupon_sink_fd(), NULL, NULL);
	before_shmem_exit(leave, 0);

	/* a removal that a crash undoes is an event published twice, as any crash may do */
	SetConfigOption("synchronous_commit", "off", PGC_USERSET, PGC_S_OVERRIDE);
}

static int
publish_interval(void)
{
	return coupon_publish_interval;
}

static void
wait_for_events(long ms)
{
	WaitEvent	event;

	if (WaitEventSetWait(events, ms, &event, 1, PG_WAIT_EXTENSION) == 1 &&
		event.events == WL_LATCH_SET)
		ResetLatch(MyLatch);
}

static bool
publish_wait(long ms)
{
	if (coupon_publish_serve())
		return true;
	if (coupon_publish_under_way())
		ms = Min(ms, TICK_MS);
	wait_for_events(ms);
	return coupon_publish_serve();
}

/*
 * What is in flight gets a moment to arrive, so that a restart publishes
 * little twice.
 */
static void
publish_stop(void)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FAREWELL_MS);

	while (coupon_publish_in_flight() > 0 && GetCurrentTimestamp() < end)
	{
		wait_for_events(10);
		(void) coupon_publish_serve();
	}
}

const CouponWorkerKind coupon_publisher = {
	.name = "coupon publisher",
	.work = coupon_publish_step,
	.interval = publish_interval,
	.listens = coupon_publish_listens,
	.wait = publish_wait,
	.recover = coupon_publish_recover,
	.reload = coupon_publish_reconfigure,
	.start = publish_start,
	.stop = publish_stop,
	.finish = coupon_publish_settle
};
