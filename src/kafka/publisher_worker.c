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

#include "base/clock.h"
#include "base/compat.h"
#include "base/guc.h"
#include "base/worker.h"
#include "kafka/publish.h"
#include "kafka/publisher_status.h"
#include "kafka/sink.h"

#define FAREWELL_MS	400			/* for the reports of what is in flight, at
								 * the end */
#define SHUT_MS		300			/* for the client's threads */

static WaitEventSet *events = NULL;

COUPON_WAIT_EVENT(wait_event, "CouponPublisherIdle");

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

	/*
	 * a removal that a crash undoes is an event published twice, as any crash
	 * may do
	 */
	SetConfigOption("synchronous_commit", "off", PGC_USERSET, PGC_S_OVERRIDE);
}

static void
wait_for_events(long ms)
{
	WaitEvent	event;

	if (WaitEventSetWait(events, ms, &event, 1, wait_event()) == 1 &&
		event.events == WL_LATCH_SET)
		ResetLatch(MyLatch);
}

/* What pg_stat_activity is told. */
static const char *const activities[] = {
	[COUPON_STEP_WAIT] = "waiting",
	[COUPON_STEP_SETTLE] = "removing events that the broker has acknowledged",
	[COUPON_STEP_OPEN] = "opening the client of the broker",
	[COUPON_STEP_SEND] = "sending events",
	[COUPON_STEP_ROTATE] = "emptying a table of the outbox",
	[COUPON_STEP_NAME_TOPICS] = "asking for topics",
	[COUPON_STEP_COLLECT] = "reading the outbox"
};

/* Unless the tables are locked, or gone. */
static void
take_step(CouponStep step)
{
	CouponCycle cycle = coupon_worker_begin();

	if (cycle == COUPON_CYCLE_BEGUN)
	{
		coupon_worker_tell("%s", activities[step]);
		coupon_publish_step(step);
		coupon_worker_commit();
		coupon_publish_committed();
	}
	coupon_worker_back_off(cycle);
}

/*
 * What is in flight gets a moment to arrive, so that a restart publishes
 * little twice.  Once: after an ERROR the loop is entered again, and an ERROR
 * in here would come again and again.
 */
static void
say_farewell(void)
{
	static bool said = false;
	TimestampTz end = TimestampTzPlusMilliseconds(coupon_steady_now(), FAREWELL_MS);

	if (said)
		return;
	said = true;
	HOLD_INTERRUPTS();
	while (coupon_publish_in_flight() > 0 && coupon_steady_now() < end)
	{
		wait_for_events(10);
		coupon_publish_serve();
	}
	take_step(COUPON_STEP_SETTLE);
	RESUME_INTERRUPTS();
}

static void
publish(void)
{
	set_up();
	while (coupon_worker_stay())
	{
		CouponStep	step;

		if (coupon_worker_reloaded())
			coupon_publish_reconfigure();
		coupon_publish_serve();
		step = coupon_publish_next_step(coupon_worker_is_woken());
		if (step == COUPON_STEP_WAIT)
		{
			wait_for_events(coupon_publish_patience());
			continue;
		}
		/* what is asked for from now on, this batch may not have */
		if (step == COUPON_STEP_COLLECT)
			coupon_worker_forget_woken();
		take_step(step);
	}
	say_farewell();
}

static const char *const tables[] = {"outbox_0", "outbox_1", "outbox_2", "outbox_parked", "dead_letter", NULL};

const CouponWorkerKind coupon_publisher = {
	.name = "coupon publisher",
	.activity = "reading the outbox",
	.tables = tables,
	.loop = publish,
	.recover = coupon_publish_failed
};
