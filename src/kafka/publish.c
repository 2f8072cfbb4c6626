/*
 * publish.c
 *	  From the outbox to the sink.
 *
 *	  waiting --send--> sent --report--> delivered --settle--> removed
 *		 ^                |
 *		 |                +-- rejected: dead letter (see below)
 *		 +--- the sink broke: closed, opened, sent again in order
 *
 * One batch at a time (see outbox_read.c): all of it has been delivered, or
 * put aside, before the next one is collected.  A row is removed after the
 * broker has acknowledged its event, so a crash in between publishes it twice
 * and never not at all.  Removed means committed: what a step has removed is
 * taken off the list by the next one, so an error in between costs nothing
 * but another try.
 *
 * Rejections.  A broker rejects a whole request, in which one event may be to
 * blame.  So the first rejection closes the sink, and what was under way is
 * sent again one by one; only what is rejected then, or what the client itself
 * would never send, becomes a dead letter: a row of coupon.dead_letter and an
 * event for <topic>.DLT, in the transaction that removes the original.
 *
 * Order.  The sink keeps it within a key as long as it is open, and sends
 * nothing any more when a request has failed for good.  When it is opened
 * again everything without a report is sent again, oldest first: a consumer
 * that drops duplicates by id sees the same order.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "base/arguments.h"
#include "base/catalog.h"
#include "base/spi.h"
#include "kafka/publish.h"
#include "kafka/publisher_status.h"
#include "kafka/sink.h"
#include "outbox/outbox.h"
#include "outbox/outbox_read.h"
#include "outbox/payload.h"

#define SEND_ROWS		5000	/* in one step, to keep its transaction short */
#define SETTLE_ROWS		2000	/* worth a step though more are in flight */
#define REJECTED_MAX	100		/* in one step, by the client itself */
#define SETTLE_MS		100		/* the same, for fewer */
#define BROKEN_MS		1000	/* after a sink that broke */
#define OPEN_AGAIN_MS	2000	/* after a configuration that was wrong */
#define SILENCE_MS		10000	/* is worth a word */
#define RECONFIGURE_MS	1000	/* longest wait for reports before the sink is closed */

/* CouponOutboxEntry.state */
enum
{
	WAITING,
	SENT,
	DELIVERED,					/* or rejected, and in its list */
	REMOVED,					/* the same, by a step that has yet to commit */
	SETTLED						/* removed, put aside or gone */
};

/* An event that will not be accepted. */
typedef struct Rejected
{
	int			entry;
	int			attempts;
	bool		carries;		/* its dead letter can carry the payload */
	char		reason[128];
} Rejected;

static CouponOutboxEntry *batch = NULL;
static int	nbatch = 0;
static int	next = 0;			/* nothing before it is waiting */
static int	nsettled = 0;
static int	nsent = 0;			/* in state SENT */

static int *delivered = NULL;	/* has room for the whole batch */
static int	ndelivered = 0;
static int	max_delivered = 0;
static bool settling = false;	/* a step has removed some, see REMOVED */
static bool rotation_due = false;	/* rows have gone */
static int	nlocked = 0;		/* rows that it could not remove */
static TimestampTz delivered_since = 0;

static Rejected *rejected = NULL;
static int	nrejected = 0;
static int	max_rejected = 0;

static int	suspects = 0;		/* so many of the batch are to be sent one by one */
static bool one_by_one = false; /* the sink was opened so */
static int	full_with = 0;		/* so many were in flight when the sink was full; 0: it is not */
static CouponTopic *awaited = NULL; /* the next event's topic is being checked */
static bool reconfigure = false;
static bool reloaded = false;	/* topics that are refused get a fresh start */
static bool campaigns_wanted = false;	/* their topics are to be looked up */
static TimestampTz reconfigure_since = 0;
static TimestampTz open_at = 0; /* not before */
static TimestampTz heard_at = 0;	/* of the broker, or the sending began */
static bool heard = false;		/* since then: a report has come */

bool
coupon_publish_under_way(void)
{
	return nsettled < nbatch;
}

int
coupon_publish_in_flight(void)
{
	return nsent;
}

bool
coupon_publish_listens(void)
{
	return nsettled == nbatch && coupon_sink_is_open();
}

/* Nothing more is to be done about it: removed, gone or not wanted. */
static void
skip(CouponOutboxEntry *entry)
{
	entry->state = SETTLED;
	nsettled++;
}

/* The transaction of the last settling has committed. */
static void
settled(void)
{
	int			count = ndelivered;
	int			dead = nrejected;

	if (!settling)
		return;
	settling = false;
	ndelivered = nrejected = 0;
	for (int i = 0; i < count; i++)
	{
		if (batch[delivered[i]].state == REMOVED)
			skip(&batch[delivered[i]]);
		else
			delivered[ndelivered++] = delivered[i];
	}
	for (int i = 0; i < dead; i++)
	{
		if (batch[rejected[i].entry].state == REMOVED)
			skip(&batch[rejected[i].entry]);
		else
			rejected[nrejected++] = rejected[i];
	}
	delivered_since = GetCurrentTimestamp();
	coupon_publisher_count(nsent, count - ndelivered, 0, dead - nrejected);
}

/* ---- reports ---- */

static void
note_delivered(int entry)
{
	if (ndelivered == 0)
		delivered_since = GetCurrentTimestamp();
	delivered[ndelivered++] = entry;
	batch[entry].state = DELIVERED;
}

static void
note_rejected(int entry, int attempts, const char *reason, bool carries)
{
	if (nrejected == max_rejected)
	{
		int			wanted = Max(16, max_rejected * 2);

		if (rejected == NULL)
			rejected = MemoryContextAlloc(TopMemoryContext, wanted * sizeof(Rejected));
		else
			rejected = repalloc_huge(rejected, wanted * sizeof(Rejected));
		max_rejected = wanted;
	}
	rejected[nrejected].entry = entry;
	rejected[nrejected].attempts = attempts;
	rejected[nrejected].carries = carries;
	strlcpy(rejected[nrejected].reason, reason, sizeof(rejected[nrejected].reason));
	nrejected++;
	batch[entry].state = DELIVERED;
}

static void
report(uint32 tag, CouponVerdict verdict, const char *reason)
{
	int			entry = tag;

	Assert(entry < nbatch && batch[entry].state == SENT);
	heard = true;
	if (verdict == COUPON_TOPIC_DENIED)
	{
		nsent--;
		skip(&batch[entry]);
	}
	else if (verdict == COUPON_DELIVERED)
	{
		nsent--;
		note_delivered(entry);
	}
	else if (verdict != COUPON_UNDELIVERED && one_by_one)
	{
		nsent--;
		note_rejected(entry, 2, reason, verdict != COUPON_TOO_LARGE);
	}
	else if (verdict != COUPON_UNDELIVERED)
	{
		if (suspects == 0)
			coupon_publisher_problem("an event was rejected: %s", reason);
		suspects = next;
	}
	/* what the sink lost stays SENT until it is closed */
}

/* Closes the sink; what has no report waits again. */
static void
close_sink(void)
{
	int			again = 0;

	coupon_sink_close();
	for (int i = next - 1; i >= 0 && nsent > 0; i--)
	{
		if (batch[i].state == SENT)
		{
			batch[i].state = WAITING;
			next = i;
			nsent--;
			again++;
		}
	}
	full_with = 0;
	awaited = NULL;
	coupon_publisher_count(0, 0, again, 0);
}

void
coupon_publish_recover(const char *message)
{
	coupon_publisher_problem("%s", message);
	if (settling)
	{
		for (int i = 0; i < ndelivered; i++)
			batch[delivered[i]].state = DELIVERED;
		for (int i = 0; i < nrejected; i++)
			batch[rejected[i].entry].state = DELIVERED;
		settling = false;
	}
	/* perhaps it was collecting, and has marked pages as read */
	coupon_outbox_forget();
}

void
coupon_publish_reconfigure(void)
{
	reloaded = true;
	if (coupon_sink_is_open() && !coupon_sink_is_outdated())
	{
		coupon_sink_doubt_topics();
		return;
	}
	reconfigure = true;
	reconfigure_since = GetCurrentTimestamp();
	open_at = 0;
}

/* It broke, and a new one may break as soon: not at once. */
static void
give_up_sink(void)
{
	close_sink();
	open_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BROKEN_MS);
}

/* Takes reports, and closes the sink if it is of no more use. */
static void
take_reports(void)
{
	CouponSinkHealth health = coupon_sink_poll(report);

	if (heard)
		heard_at = GetCurrentTimestamp();
	heard = false;
	if (!coupon_sink_is_open())
		return;
	if (health == COUPON_SINK_GAP && !one_by_one)
		suspects = next;
	if (suspects > 0 && !one_by_one)
		close_sink();
	else if (health != COUPON_SINK_WORKS)
		give_up_sink();
	else if (reconfigure &&
			 (nsent == 0 || TimestampDifferenceExceeds(reconfigure_since, GetCurrentTimestamp(),
													   RECONFIGURE_MS)))
	{
		reconfigure = false;
		close_sink();
	}
}

bool
coupon_publish_serve(void)
{
	settled();
	take_reports();
	if (!coupon_sink_is_open())
		return GetCurrentTimestamp() >= open_at;

	coupon_sink_check_topics();
	if (nsent > 0 && TimestampDifferenceExceeds(heard_at, GetCurrentTimestamp(), SILENCE_MS))
	{
		heard_at = GetCurrentTimestamp();
		coupon_publisher_problem("nothing has been acknowledged for %d seconds though events are in flight: a partition may have no leader, or too few replicas",
								 SILENCE_MS / 1000);
	}
	if (reconfigure)
		return false;			/* take_reports closes it in a moment */
	if (one_by_one && nsent == 0 && next < nbatch && awaited == NULL)
		return true;
	if (nsettled == nbatch && (reloaded || coupon_sink_can_adopt()))
		return true;
	if (awaited != NULL && coupon_sink_topic_state(awaited) != COUPON_TOPIC_UNKNOWN)
		return true;
	if (full_with > 0 && nsent <= full_with / 2)
		return true;
	return (ndelivered > 0 || nrejected > 0) &&
		((nsent == 0 && nlocked == 0) || ndelivered >= nlocked + SETTLE_ROWS ||
		 TimestampDifferenceExceeds(delivered_since, GetCurrentTimestamp(), SETTLE_MS));
}

/* ---- settling ---- */

/* The event for <topic>.DLT: the original, and why it is there. */
static char *
dead_letter_payload(const CouponEvent *event, const Rejected *why)
{
	StringInfoData payload;
	Datum		id = DirectFunctionCall1(uuid_out, UUIDPGetDatum(&event->id));

	initStringInfo(&payload);
	coupon_payload_begin(&payload);
	coupon_payload_text(&payload, "id", DatumGetCString(id));
	coupon_payload_text(&payload, "topic", event->topic);
	coupon_payload_text(&payload, "type", event->type);
	coupon_payload_text(&payload, "reason", why->reason);
	coupon_payload_int64(&payload, "attempts", why->attempts);
	coupon_payload_time(&payload, "dead_at", GetCurrentTimestamp());
	if (why->carries)
		coupon_payload_json(&payload, "payload", event->payload);
	coupon_payload_end(&payload);
	return payload.data;
}

/* False if the row is locked. */
static bool
bury(const Rejected *why)
{
	static CouponStatement insert = {
		.sql = "INSERT INTO coupon.dead_letter (id, topic, key, type, payload, reason, attempts, dead_at) "
		"VALUES ($1, $2, $3, $4, $5::pg_catalog.json, $6, $7, pg_catalog.clock_timestamp()) "
		"ON CONFLICT (id) DO UPDATE SET reason = excluded.reason, "
		"attempts = coupon.dead_letter.attempts OPERATOR(pg_catalog.+) excluded.attempts, dead_at = excluded.dead_at",
		.nargs = 7, .types = {UUIDOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT4OID}
	};
	const CouponOutboxEntry *entry = &batch[why->entry];
	CouponEvent event;
	Datum		values[7];

	if (!coupon_outbox_fetch(entry, &event))
		return true;
	if (!coupon_outbox_remove(entry))
		return false;
	values[0] = UUIDPGetDatum(&event.id);
	values[1] = CStringGetTextDatum(event.topic);
	values[2] = CStringGetTextDatum(event.key);
	values[3] = CStringGetTextDatum(event.type);
	values[4] = CStringGetTextDatum(event.payload);
	values[5] = CStringGetTextDatum(why->reason);
	values[6] = Int32GetDatum(why->attempts);
	coupon_spi_execute(&insert, SPI_OK_INSERT, values, NULL);

	if (!coupon_outbox_is_dead_letter_topic(event.topic))
		coupon_outbox_append(psprintf("%s" COUPON_DEAD_LETTER_SUFFIX, event.topic), event.key,
							 "coupon.dead_letter", dead_letter_payload(&event, why));
	coupon_publisher_problem("an event for topic \"%s\" is a dead letter: %s", event.topic, why->reason);
	return true;
}

/* Events of the batch that are done with: the rows go. */
static void
settle(void)
{
	MemoryContext context;

	if (ndelivered == 0 && nrejected == 0)
		return;
	settling = true;
	nlocked = 0;
	for (int i = 0; i < ndelivered; i++)
	{
		if (coupon_outbox_remove(&batch[delivered[i]]))
			batch[delivered[i]].state = REMOVED;
		else
			nlocked++;
	}
	if (nrejected > 0)
	{
		coupon_spi_connect();
		context = AllocSetContextCreate(CurrentMemoryContext, "coupon dead letter",
										ALLOCSET_DEFAULT_SIZES);
		for (int i = 0; i < nrejected; i++)
		{
			MemoryContext oldcontext = MemoryContextSwitchTo(context);

			if (bury(&rejected[i]))
				batch[rejected[i].entry].state = REMOVED;
			else
				nlocked++;
			MemoryContextSwitchTo(oldcontext);
			MemoryContextReset(context);
		}
		coupon_spi_finish();
	}
	CommandCounterIncrement();
}

void
coupon_publish_settle(void)
{
	coupon_outbox_open();
	settle();
	coupon_outbox_close();
}

/* ---- sending ---- */

static void
open_sink(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (coupon_sink_is_open() || now < open_at)
		return;
	one_by_one = suspects > 0;
	reconfigure = false;
	if (coupon_sink_open(one_by_one))
		campaigns_wanted = true;
	else
		open_at = TimestampTzPlusMilliseconds(now, OPEN_AGAIN_MS);
}

/* So that a topic's fault is seen before the first event is. */
static void
name_topics(void)
{
	static CouponStatement select = {
		.sql = "SELECT DISTINCT topic FROM coupon.campaign WHERE closed_at IS NULL"
	};
	uint64		n;

	/* it can wait for whoever has locked the campaigns; events cannot */
	campaigns_wanted = !ConditionalLockRelationOid(coupon_catalog()->campaign, AccessShareLock);
	if (campaigns_wanted)
		return;
	coupon_spi_connect();
	n = coupon_spi_execute(&select, SPI_OK_SELECT, NULL, NULL);
	for (uint64 i = 0; i < n; i++)
		(void) coupon_sink_topic(coupon_spi_text(i, 1));
	coupon_spi_finish();
}

/* Kafka carries UTF-8.  False: the text has no form in it. */
static bool
to_utf8(const char **text)
{
	int			encoding = GetDatabaseEncoding();
	int			length = strlen(*text);
	unsigned char *converted;
	Oid			proc;

	if (encoding == PG_UTF8)
		return true;
	if (encoding == PG_SQL_ASCII)
		return pg_verify_mbstr(PG_UTF8, *text, length, true);
	proc = FindDefaultConversionProc(encoding, PG_UTF8);
	if (!OidIsValid(proc))
		return false;
	converted = MemoryContextAllocHuge(CurrentMemoryContext,
									   (Size) length * MAX_CONVERSION_GROWTH + 1);
	if (pg_do_encoding_conversion_buf(proc, encoding, PG_UTF8, (unsigned char *) *text, length,
									  converted, Min((Size) length * MAX_CONVERSION_GROWTH + 1, INT_MAX),
									  true) != length)
		return false;
	*text = (char *) converted;
	return true;
}

/* False: no more for now. */
static bool
send_event(int number)
{
	CouponOutboxEntry *entry = &batch[number];
	CouponEvent event;
	CouponTopic *topic;
	const char *reason;

	if (!coupon_outbox_fetch(entry, &event))
	{
		skip(entry);
		return true;
	}
	topic = coupon_sink_topic(event.topic);
	switch (coupon_sink_topic_state(topic))
	{
		case COUPON_TOPIC_UNKNOWN:
			awaited = topic;
			return false;
		case COUPON_TOPIC_REFUSED:
			skip(entry);
			return true;
		case COUPON_TOPIC_READY:
			break;
	}
	if (!to_utf8(&event.key) || !to_utf8(&event.type) || !to_utf8(&event.payload))
	{
		note_rejected(number, 1, "it cannot be converted to UTF-8", false);
		return nrejected < REJECTED_MAX;
	}
	switch (coupon_sink_send(topic, &event, number, &reason))
	{
		case COUPON_SENT:
			if (nsent == 0)
				heard_at = GetCurrentTimestamp();
			entry->state = SENT;
			nsent++;
			return true;
		case COUPON_POISON:
			/* what the client will not send is too large */
			note_rejected(number, 1, reason, false);
			return nrejected < REJECTED_MAX;
		case COUPON_DENIED:
			skip(entry);
			return true;
		case COUPON_SINK_FULL:
			full_with = Max(nsent, 1);
			return false;
		case COUPON_SINK_BROKEN:
			give_up_sink();
			return false;
	}
	return false;
}

/* True: there is more, and room for it. */
static bool
send_batch(void)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "coupon event",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	bool		more = true;

	full_with = 0;
	awaited = NULL;
	for (int rows = 0; rows < SEND_ROWS && next < nbatch && more; rows++)
	{
		if (one_by_one && (nsent > 0 || next >= suspects))
			break;
		if (batch[next].state == WAITING)
			more = send_event(next);
		if (next < nbatch && batch[next].state != WAITING)
			next++;
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
	if (one_by_one && nsent == 0 && next >= suspects)
	{
		/* the rest is sent as usual */
		suspects = 0;
		close_sink();
	}
	if (nrejected > 0 && nlocked == 0)
		return true;
	return more && next < nbatch && !(one_by_one && nsent > 0);
}

/* A new batch of that size, and room to note its reports. */
static void
make_room(int n)
{
	if (n > max_delivered)
	{
		if (delivered != NULL)
			pfree(delivered);
		delivered = NULL;
		max_delivered = 0;
		delivered = MemoryContextAllocHuge(TopMemoryContext, mul_size(n, sizeof(int)));
		max_delivered = n;
	}
	nbatch = n;
}

static bool
work(void)
{
	take_reports();
	if (ndelivered > 0 || nrejected > 0)
	{
		settle();
		if (nsettled + ndelivered + nrejected == nbatch)
		{
			/* what was removed must be seen as removed, and stay so */
			rotation_due = true;
			return nlocked == 0;
		}
	}
	if (rotation_due && nsettled == nbatch)
	{
		rotation_due = false;
		coupon_outbox_rotate();
		return true;
	}
	if (!coupon_sink_is_open())
		open_sink();
	if (!coupon_sink_is_open() || reconfigure)
		return false;
	if (campaigns_wanted)
		name_topics();

	if (nsettled == nbatch)
	{
		suspects = 0;
		if (one_by_one)
		{
			close_sink();
			return true;
		}
		if (reloaded)
		{
			coupon_sink_forget_refused();
			name_topics();
			coupon_outbox_forget();
			reloaded = false;
		}
		if (coupon_sink_adopt_topics())
			coupon_outbox_forget();
		nbatch = next = nsettled = 0;
		make_room(coupon_outbox_collect(&batch, coupon_sink_refuses));
		if (nbatch == 0)
		{
			coupon_outbox_rotate();
			rotation_due = false;
			return false;
		}
	}
	return send_batch();
}

bool
coupon_publish_step(void)
{
	bool		more;

	settled();
	coupon_outbox_open();
	more = work();
	coupon_publisher_count(nsent, 0, 0, 0);
	coupon_outbox_close();
	return more;
}
