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
#define LOOK_AROUND_MS	500		/* longest wait at all */
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
set_up(void)
{
	if (events != NULL)
		return;
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

static void
wait_for_events(long ms)
{
	WaitEvent	event;

	if (WaitEventSetWait(events, ms, &event, 1, PG_WAIT_EXTENSION) == 1 &&
		event.events == WL_LATCH_SET)
		ResetLatch(MyLatch);
}

/* Until it is time for the next step: serves the sink meanwhile. */
static void
wait_for_work(void)
{
	TimestampTz start = GetCurrentTimestamp();

	while (!(coupon_worker_is_woken() && coupon_publish_listens()))
	{
		long		left = coupon_publish_interval -
			TimestampDifferenceMilliseconds(start, GetCurrentTimestamp());

		if (left <= 0 || coupon_publish_serve())
			return;
		wait_for_events(Min(left, coupon_publish_under_way() ? TICK_MS : LOOK_AROUND_MS));
		if (coupon_publish_serve() || !coupon_worker_stay())
			return;
	}
}

/*
 * What is in flight gets a moment to arrive, so that a restart publishes
 * little twice.
 */
static void
say_farewell(void)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FAREWELL_MS);

	HOLD_INTERRUPTS();
	while (coupon_publish_in_flight() > 0 && GetCurrentTimestamp() < end)
	{
		wait_for_events(10);
		(void) coupon_publish_serve();
	}
	if (coupon_worker_begin() == COUPON_CYCLE_BEGUN)
	{
		coupon_publish_settle();
		coupon_worker_commit();
	}
	RESUME_INTERRUPTS();
}

static void
publish(void)
{
	set_up();
	while (coupon_worker_stay())
	{
		CouponCycle cycle;
		bool		more;

		if (coupon_worker_reloaded())
			coupon_publish_reconfigure();
		/* what is asked for from now on, this step may not see */
		if (coupon_publish_listens())
			coupon_worker_forget_woken();
		cycle = coupon_worker_begin();
		coupon_worker_back_off(cycle);
		if (cycle != COUPON_CYCLE_BEGUN)
			continue;
		more = coupon_publish_step();
		coupon_worker_commit();
		if (!more)
			wait_for_work();
	}
	say_farewell();
}

static const char *const tables[] = {"outbox_0", "outbox_1", "outbox_2", "dead_letter", NULL};

const CouponWorkerKind coupon_publisher = {
	.name = "coupon publisher",
	.tables = tables,
	.loop = publish,
	.recover = coupon_publish_recover
};
