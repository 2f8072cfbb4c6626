/*
 * publish.c
 *	  From the outbox to the sink.
 *
 *	  waiting --send--> sent --report--> done --settle--> removed, or a dead letter
 *		 ^				  |
 *		 +----------------+
 *		   the sink was closed: sent again in order
 *
 * One batch at a time (see reader.c): all of it has been delivered, or put
 * aside, before the next one is collected.  A row is removed after the broker
 * has acknowledged its event, so a crash in between publishes it twice and
 * never not at all.  One that is locked then is kept for later batches, to be
 * removed without being sent again.
 *
 * Rejections.  A broker rejects a whole request, in which one event may be to
 * blame.  An event that was rejected alone becomes a dead letter.  Several are
 * suspects: the sink is closed, and they are sent again in rounds, an eighth
 * of them in the first, twice as many in each that goes well, again an eighth
 * of those that are rejected.  A round begins and ends with nothing in
 * flight, so only suspects are in a request with suspects.  A few rounds find
 * the one to blame, whatever else is in flight.
 *
 * Order.  The sink keeps it within a key as long as it is open, and sends
 * nothing any more when a request has failed for good.  When it is opened
 * again everything without a report is sent again, oldest first: a consumer
 * that drops duplicates by id sees the same order.  Events whose topic cannot
 * be published to stay behind, all that are left of that topic in the batch;
 * a later batch has them, or parks them.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/catalog.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/guc.h"
#include "kafka/burial.h"
#include "kafka/publish.h"
#include "kafka/publisher_status.h"
#include "kafka/sink.h"
#include "outbox/reader.h"

#define SEND_ROWS		5000	/* in one step, to keep its transaction short */
#define SETTLE_ROWS		2000	/* worth a step though more are in flight */
#define SETTLE_MS		100		/* the same, for fewer */
#define REJECTED_MAX	100		/* in one step, by the client itself */
#define PARTS			8		/* of suspects: one is the first round */
#define MAX_TRIES		31		/* that an entry can count */
#define BROKEN_MS		1000	/* after a sink that broke */
#define GAP_MS			1000	/* for the reports that say why it stopped */
#define OPEN_AGAIN_MS	2000	/* after a configuration that was wrong */
#define DOUBT_MS		2000	/* of silence: topics are asked about again */
#define SILENCE_MS		10000	/* is worth a word */
#define TICK_MS			100		/* longest wait while the broker owes reports */
#define IDLE_MS			500		/* longest wait at all */
#define RECONFIGURE_MS	1000	/* longest wait for reports before the sink is
								 * closed */
#define NAME_AGAIN_MS	5000	/* while some topic is refused */
#define FORGET_MS		10000	/* at least, until topics are forgotten again */
#define CHANCE_MS		3000	/* at least, for those that were just named */
#define LOCKED_AGAIN_MS	1000	/* until locked rows are looked at again */
#define COLLECT_SHARE	10		/* of the time, at most, goes into looking at
								 * what must stay */

/* CouponOutboxEntry.state */
enum
{
	WAITING,
	SENT,
	DONE						/* delivered, rejected, left or gone */
};

/* What the publisher of this process is at. */
static struct
{
	/* the batch: its entries by their numbers */
	CouponBatch batch;
	int			next;			/* nothing before it is waiting */
	int			nsent;			/* in state SENT */
	int			nover;			/* removed, buried, left or gone */

	/* those to be removed; the first are so when the transaction commits */
	int		   *delivered;		/* has room for the whole batch */
	int			max_delivered;
	int			ndelivered;
	int			ntried;			/* of these, so many in this transaction */
	int			nremoved;
	TimestampTz delivered_since;

	/* those to be buried, the same */
	CouponRejected *rejected;
	int			max_rejected;
	int			nrejected;
	int			nburied;

	/* rejections by the broker; an entry with tries is a suspect */
	int			nsuspected;		/* since the sink was last asked for reports */
	CouponRejected suspected;	/* the last of them */
	int			last_suspect;	/* of the batch */
	int			nsuspects;		/* waiting */
	int			round;			/* so many suspects may still be sent in this
								 * round */
	int			next_round;		/* so many in the next one; 0: there are no
								 * rounds */
	bool		denied;			/* some were, since the sink was opened */
	TimestampTz gap_since;		/* the sink stopped and has yet to say why; 0:
								 * it did not */

	/* what goes on */
	int			resume_with;	/* the sink is full until so few are in flight */
	bool		more;			/* the next batch will not be empty */
	bool		left;			/* it may have events of refused topics, to
								 * park them */
	bool		rotate;			/* rows have gone */
	TimestampTz collect_at;		/* though nobody has woken the publisher */
	TimestampTz heed_at;		/* until then, nobody does */
	TimestampTz name_at;
	TimestampTz forget_at;
	bool		worked;			/* since topics were forgotten */
	TimestampTz open_at;
	bool		reconfigure;
	TimestampTz reconfigure_since;
	TimestampTz heard_at;		/* of the broker, or the sending began */
	TimestampTz doubted_at;
}			self = {.resume_with = INT_MAX};

static TimestampTz
in_ms(int ms)
{
	return TimestampTzPlusMilliseconds(coupon_steady_now(), ms);
}

static bool
is_under_way(void)
{
	return self.nover < self.batch.n;
}

int
coupon_publish_in_flight(void)
{
	return self.nsent;
}

/* ---- what becomes of an entry ---- */

static bool
is_suspect(const CouponOutboxEntry *entry)
{
	return entry->tries > 0;
}

/* It waits no longer. */
static void
set_state(CouponOutboxEntry *entry, int state)
{
	if (entry->state == WAITING && is_suspect(entry))
	{
		self.nsuspects--;
		self.round--;
	}
	self.nsent += (state == SENT) - (entry->state == SENT);
	entry->state = state;
}

/* Nothing more is to be done about it in this batch. */
static void
finish(CouponOutboxEntry *entry)
{
	set_state(entry, DONE);
	self.nover++;
}

/* Its topic cannot be published to. */
static void
leave(CouponOutboxEntry *entry)
{
	coupon_outbox_leave(entry);
	finish(entry);
	self.more = self.left = true;
}

static void
note_delivered(int number)
{
	if (self.ndelivered == 0)
		self.delivered_since = coupon_steady_now();
	self.delivered[self.ndelivered++] = number;
	set_state(&self.batch.entries[number], DONE);
}

static void
note_rejected(const CouponRejected *rejected)
{
	CouponOutboxEntry *entry = &self.batch.entries[rejected->entry];

	if (self.nrejected == self.max_rejected)
	{
		int			wanted = Max(16, self.max_rejected * 2);

		if (self.rejected == NULL)
			self.rejected = MemoryContextAlloc(TopMemoryContext, wanted * sizeof(CouponRejected));
		else
			self.rejected = repalloc(self.rejected, wanted * sizeof(CouponRejected));
		self.max_rejected = wanted;
	}
	self.rejected[self.nrejected++] = *rejected;
	set_state(entry, DONE);
}

static void
count_try(CouponOutboxEntry *entry)
{
	if (entry->tries < MAX_TRIES)
		entry->tries++;
}

/* By the client itself, which would never send it. */
static void
reject_unsent(int number, const char *reason)
{
	CouponRejected rejected = {.entry = number,.carries = false};

	strlcpy(rejected.reason, reason, sizeof(rejected.reason));
	note_rejected(&rejected);
	count_try(&self.batch.entries[number]);
}

/* ---- serving the sink ---- */

static void
suspect(int number)
{
	count_try(&self.batch.entries[number]);
	self.nsuspected++;
	self.last_suspect = Max(self.last_suspect, number);
}

static void
report(void *arg, uint32 tag, CouponVerdict verdict, const char *reason)
{
	bool	   *heard = arg;
	CouponOutboxEntry *entry = &self.batch.entries[tag];

	Assert(tag < self.batch.n && entry->state == SENT);
	*heard = true;
	switch (verdict)
	{
		case COUPON_DELIVERED:
			note_delivered(tag);
			break;
		case COUPON_TOPIC_DENIED:
			self.denied = true;
			leave(entry);
			break;
		case COUPON_REJECTED:
		case COUPON_TOO_LARGE:
			suspect(tag);
			self.suspected.entry = tag;
			self.suspected.carries = verdict != COUPON_TOO_LARGE;
			strlcpy(self.suspected.reason, reason, sizeof(self.suspected.reason));
			break;
		case COUPON_UNDELIVERED:
			/* stays sent until the sink is closed */
			break;
	}
}

/* Closes the sink; what has no report waits again. */
static void
close_sink(void)
{
	int			again = self.nsent;

	coupon_sink_close();
	for (int i = self.next - 1; i >= 0 && self.nsent > 0; i--)
	{
		CouponOutboxEntry *entry = &self.batch.entries[i];

		if (entry->state == SENT)
		{
			set_state(entry, WAITING);
			self.next = i;
		}
	}
	self.nsuspects = self.round = 0;
	for (int i = self.next; i <= self.last_suspect && i < self.batch.n; i++)
	{
		CouponOutboxEntry *entry = &self.batch.entries[i];

		self.nsuspects += entry->state == WAITING && is_suspect(entry);
	}
	self.denied = false;
	self.gap_since = 0;
	self.resume_with = INT_MAX;
	self.open_at = 0;
	coupon_publisher_count(0, 0, again, 0);
}

/* It broke, and a new one may break as soon: not at once. */
static void
give_up_sink(void)
{
	close_sink();
	self.open_at = in_ms(BROKEN_MS);
}

/* The broker rejected a request, or several. */
static void
take_rejection(void)
{
	if (self.nsuspected == 1)
		note_rejected(&self.suspected);
	else
	{
		if (self.next_round == 0)
			coupon_publisher_problem("%d events were rejected together and are sent again in parts: %s",
									 self.nsuspected, self.suspected.reason);
		self.next_round = Max(1, self.nsuspected / PARTS);
	}
	close_sink();
}

/* Takes reports, and closes the sink if it is of no more use. */
static void
take_reports(void)
{
	bool		heard = false;
	TimestampTz now;
	CouponSinkHealth health;

	self.nsuspected = 0;
	health = coupon_sink_poll(report, &heard);
	now = coupon_steady_now();
	if (heard)
		self.heard_at = now;
	if (!coupon_sink_is_open())
		return;
	if (self.nsuspected > 0)
		take_rejection();
	else if (health == COUPON_SINK_GAP && self.denied)
		close_sink();
	else if (health == COUPON_SINK_GAP && self.gap_since == 0)
		self.gap_since = now;
	else if (health == COUPON_SINK_GAP && !TimestampDifferenceExceeds(self.gap_since, now, GAP_MS))
		;						/* a report may yet say what was rejected */
	else if (health != COUPON_SINK_WORKS)
		give_up_sink();
	else if (self.reconfigure &&
			 (self.nsent == 0 || TimestampDifferenceExceeds(self.reconfigure_since, now, RECONFIGURE_MS)))
		close_sink();
}

/* So many ms without a word of the broker though it has been sent events, and since then. */
static bool
is_silent(TimestampTz since, int ms)
{
	return self.nsent > 0 &&
		TimestampDifferenceExceeds(Max(self.heard_at, since), coupon_steady_now(), ms);
}

void
coupon_publish_serve(void)
{
	bool		doubt;

	take_reports();
	doubt = is_silent(self.doubted_at, DOUBT_MS);
	if (doubt)
		self.doubted_at = coupon_steady_now();
	if (coupon_sink_check_topics(doubt) && self.nsent > 0)
		close_sink();
	if (is_silent(0, SILENCE_MS))
	{
		self.heard_at = coupon_steady_now();
		coupon_publisher_problem("nothing has been acknowledged for %d seconds though events are in flight: a partition may have too few replicas in sync",
								 SILENCE_MS / 1000);
	}
}

void
coupon_publish_reconfigure(void)
{
	self.name_at = 0;
	if (coupon_sink_is_open() && !coupon_sink_is_outdated())
	{
		coupon_topics_check_again(true);
		return;
	}
	self.reconfigure = true;
	self.reconfigure_since = coupon_steady_now();
	self.open_at = 0;
}

/* ---- the next step ---- */

static bool
settling_is_due(void)
{
	if (self.nrejected > 0)
		return true;
	return self.ndelivered > 0 &&
		(self.nsent == 0 || self.ndelivered >= SETTLE_ROWS ||
		 TimestampDifferenceExceeds(self.delivered_since, coupon_steady_now(), SETTLE_MS));
}

/* May the batch's next event be sent before others have reports? */
static bool
next_is_free(void)
{
	if (self.nsent == 0 || self.next_round == 0)
		return true;
	return self.nsuspects > 0 && !(is_suspect(&self.batch.entries[self.next]) && self.round <= 0);
}

CouponStep
coupon_publish_next_step(bool woken)
{
	TimestampTz now = coupon_steady_now();

	if (settling_is_due())
		return COUPON_STEP_SETTLE;
	if (!coupon_sink_is_open())
		return now >= self.open_at ? COUPON_STEP_OPEN : COUPON_STEP_WAIT;
	if (self.reconfigure || self.gap_since != 0)
		return COUPON_STEP_WAIT;	/* the sink will be closed in a moment */
	if (self.next < self.batch.n && self.nsent <= self.resume_with && next_is_free())
		return COUPON_STEP_SEND;
	if (is_under_way())
		return COUPON_STEP_WAIT;
	if (self.rotate)
		return COUPON_STEP_ROTATE;
	if (now >= self.name_at)
		return COUPON_STEP_NAME_TOPICS;
	/* though the tables may be locked when it tries */
	self.more |= coupon_topics_have_news() || now >= self.collect_at || (woken && now >= self.heed_at);
	return self.more ? COUPON_STEP_COLLECT : COUPON_STEP_WAIT;
}

long
coupon_publish_patience(void)
{
	TimestampTz now = coupon_steady_now();
	TimestampTz until = in_ms(IDLE_MS);

	if (is_under_way())
		return TICK_MS;
	if (!coupon_sink_is_open())
		until = Min(until, self.open_at);
	else
	{
		until = Min(until, Min(self.collect_at, self.name_at));
		if (self.heed_at > now)
			until = Min(until, self.heed_at);
	}
	return TimestampDifferenceMilliseconds(now, until);
}

/* ---- settling ---- */

/* Events of the batch that are done with: the rows go. */
static void
settle(void)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "coupon dead letter",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);

	COUPON_FAULT(event_delivered);
	for (int i = 0; i < self.ndelivered; i++)
	{
		int			number = self.delivered[i];

		if (coupon_outbox_remove(&self.batch.entries[number]))
		{
			self.delivered[i] = self.delivered[self.nremoved];
			self.delivered[self.nremoved++] = number;
		}
	}
	for (int i = 0; i < self.nrejected; i++)
	{
		if (coupon_bury(&self.rejected[i], &self.batch.entries[self.rejected[i].entry]))
		{
			CouponRejected buried = self.rejected[i];

			self.rejected[i] = self.rejected[self.nburied];
			self.rejected[self.nburied++] = buried;
		}
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
	COUPON_FAULT(event_removed);
	self.ntried = self.ndelivered;
}

/* What cannot be a dead letter stays where it is, and its topic waits. */
static void
leave_unburied(void)
{
	int			kept = 0;

	for (int i = 0; i < self.nrejected; i++)
	{
		CouponRejected *rejected = &self.rejected[i];

		if (rejected->trouble[0] == '\0')
			self.rejected[kept++] = *rejected;
		else
		{
			char	   *problem = psprintf("a dead letter cannot be written: %s", rejected->trouble);

			coupon_topic_refuse(rejected->topic, problem);
			pfree(problem);
			leave(&self.batch.entries[rejected->entry]);
		}
	}
	self.nrejected = kept;
}

/* Others do not wait for whoever has locked the rows: these are for later batches. */
static void
keep_locked(void)
{
	bool		parked = false;

	for (int i = self.nremoved; i < self.ntried; i++)
	{
		const CouponOutboxEntry *entry = &self.batch.entries[self.delivered[i]];

		coupon_outbox_keep(entry);
		parked |= entry->table == COUPON_OUTBOX_PARKED;
	}
	if (parked)
		coupon_topics_repark();
	if (self.nremoved < self.ntried)
		self.collect_at = Min(self.collect_at, in_ms(LOCKED_AGAIN_MS));
	self.nover += self.ntried - self.nremoved;
	self.ndelivered -= self.ntried;
	self.ntried = 0;
}

void
coupon_publish_committed(void)
{
	keep_locked();
	if (self.nremoved + self.nburied > 0)
	{
		self.nrejected -= self.nburied;
		if (self.nrejected > 0)
			memmove(self.rejected, self.rejected + self.nburied, self.nrejected * sizeof(CouponRejected));
		self.nover += self.nremoved + self.nburied;
		self.rotate = self.worked = true;
	}
	coupon_publisher_count(self.nsent, self.nremoved, 0, self.nburied);
	self.nremoved = self.nburied = 0;
	leave_unburied();
}

void
coupon_publish_failed(const char *message)
{
	coupon_publisher_problem("%s", message);
	self.ntried = self.nremoved = self.nburied = 0;
	/* perhaps it was collecting, and has marked pages and topics as read */
	if (self.batch.n == 0)
	{
		coupon_outbox_forget();
		coupon_topics_repark();
	}
}

/* ---- sending ---- */

/* False: no more for now. */
static bool
send_event(int number)
{
	CouponOutboxEntry *entry = &self.batch.entries[number];
	CouponEvent event;
	CouponTopic *topic;
	const char *reason = NULL;

	if (!coupon_outbox_fetch(entry, &event))
	{
		finish(entry);
		return true;
	}
	topic = coupon_topic(event.topic);
	if (topic == NULL || topic->state != COUPON_TOPIC_READY)
	{
		leave(entry);
		return true;
	}
	switch (coupon_sink_send(topic, &event, number, &reason))
	{
		case COUPON_SENT:
			COUPON_FAULT(event_sent);
			if (self.nsent == 0)
				self.heard_at = coupon_steady_now();
			set_state(entry, SENT);
			return true;
		case COUPON_POISON:
			reject_unsent(number, reason);
			return self.nrejected < REJECTED_MAX;
		case COUPON_DENIED:
			leave(entry);
			return true;
		case COUPON_SINK_FULL:
			if (self.nsent == 0)
			{
				reject_unsent(number, "it is larger than queue.buffering.max.kbytes");
				return self.nrejected < REJECTED_MAX;
			}
			self.resume_with = Max(self.nsent / 2, 1);
			return false;
		case COUPON_SINK_BROKEN:
			give_up_sink();
			return false;
	}
	return false;
}

/* Rounds, see above: the next event is free, begin one if it is time. */
static void
begin_round(void)
{
	if (self.next_round == 0 || self.nsent > 0)
		return;
	if (self.nsuspects == 0)
		self.next_round = 0;
	else if (is_suspect(&self.batch.entries[self.next]))
	{
		self.round = self.next_round;
		self.next_round = Min(self.next_round * 2, INT_MAX / 2);
	}
}

static void
send_batch(void)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "coupon event",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	bool		more = true;

	self.resume_with = INT_MAX;
	for (int rows = 0; rows < SEND_ROWS && self.next < self.batch.n && more; rows++)
	{
		if (self.batch.entries[self.next].state == WAITING)
		{
			if (!next_is_free())
				break;
			begin_round();
			more = send_event(self.next);
			MemoryContextReset(context);
		}
		if (self.next < self.batch.n && self.batch.entries[self.next].state != WAITING)
			self.next++;
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
}

/* ---- between batches ---- */

static void
open_sink(void)
{
	self.reconfigure = false;
	self.open_at = in_ms(OPEN_AGAIN_MS);
	if (coupon_sink_open())
		self.name_at = 0;
}

/*
 * A topic is not forgotten while it may have events that have yet to be
 * parked: it would be tried again at once.
 */
static void
name_topics(void)
{
	/* refused ones may be needed no longer, and many take turns */
	self.name_at = in_ms(NAME_AGAIN_MS);
	self.forget_at = Max(self.forget_at, in_ms(CHANCE_MS));
	if (coupon_topics_name(!self.left) && !coupon_topics_any_refused())
		self.name_at = PG_INT64_MAX;
}

/* Room to note the reports of the whole batch. */
static void
make_room(int n)
{
	if (n <= self.max_delivered)
		return;
	if (self.delivered != NULL)
		pfree(self.delivered);
	self.delivered = NULL;
	self.max_delivered = 0;
	self.delivered = MemoryContextAllocHuge(TopMemoryContext, mul_size(n, sizeof(int)));
	self.max_delivered = n;
}

/*
 * Topics by the thousand: memory for names that may never come again.  All are asked
 * about anew; done again before an event has gone, it would let none go, ever.
 */
static bool
forget_topics(TimestampTz now)
{
	if (!coupon_topics_are_many() || !self.worked || now < self.forget_at)
		return false;
	self.forget_at = in_ms(FORGET_MS);
	self.worked = false;
	close_sink();
	coupon_topics_forget();
	return true;
}

static void
collect(void)
{
	TimestampTz now = coupon_steady_now();
	CouponBatch batch;

	memset(&self.batch, 0, sizeof(CouponBatch));
	self.next = self.nover = 0;
	self.nsuspects = self.round = self.next_round = 0;
	self.last_suspect = -1;
	self.collect_at = in_ms(coupon_publish_interval);
	self.more = true;
	if (forget_topics(now))
		return;

	coupon_topics_adopt();
	coupon_outbox_collect(&batch, coupon_topics_parked(), coupon_topics_choose);
	make_room(batch.n);
	self.batch = batch;
	for (int i = 0; i < batch.n && batch.nkept > self.ndelivered; i++)
	{
		if (batch.entries[i].kept)
			note_delivered(i);
	}
	if (coupon_topics_any_refused() && self.name_at == PG_INT64_MAX)
		self.name_at = in_ms(NAME_AGAIN_MS);

	if (batch.too_large)
		coupon_topics_repark();
	self.more = batch.n > batch.nkept || batch.cut;
	self.left = batch.left || batch.cut;
	self.rotate = batch.n == 0;

	/*
	 * events that must stay have been looked at for nothing: not again at
	 * once
	 */
	self.heed_at = 0;
	if (batch.left && batch.n == 0)
		self.heed_at = now + (coupon_steady_now() - now) * COLLECT_SHARE;
}

void
coupon_publish_step(CouponStep step)
{
	coupon_outbox_open();
	switch (step)
	{
		case COUPON_STEP_WAIT:
			break;
		case COUPON_STEP_SETTLE:
			settle();
			break;
		case COUPON_STEP_OPEN:
			open_sink();
			break;
		case COUPON_STEP_SEND:
			send_batch();
			break;
		case COUPON_STEP_ROTATE:
			self.rotate = false;
			coupon_outbox_rotate();
			break;
		case COUPON_STEP_NAME_TOPICS:
			name_topics();
			break;
		case COUPON_STEP_COLLECT:
			collect();
			break;
	}
	coupon_outbox_close();
}
