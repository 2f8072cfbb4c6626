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
 * and never not at all.
 *
 * Rejections.  A broker rejects a whole request, in which one event may be to
 * blame.  So the first rejection closes the sink, and the batch is sent again
 * with one event a request; only what is rejected then, or what the client
 * itself would never send, becomes a dead letter: a row of coupon.dead_letter
 * and an event for <topic>.DLT, in the transaction that removes the original.
 *
 * Order.  The sink keeps it within a key as long as it is open.  When it is
 * opened again everything without a report is sent again, oldest first: a
 * consumer that drops duplicates by id sees the same order.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "arguments.h"
#include "event.h"
#include "outbox.h"
#include "outbox_read.h"
#include "publish.h"
#include "publisher_status.h"
#include "sink.h"
#include "spi.h"

#define SEND_ROWS		5000	/* in one step, to keep its transaction short */
#define SETTLE_ROWS		2000	/* worth a step though more are in flight */
#define SETTLE_MS		100		/* the same, for fewer */
#define OPEN_AGAIN_MS	2000	/* after a configuration that was wrong */
#define RECONFIGURE_MS	1000	/* longest wait for reports before the sink is closed */
#define DLT_SUFFIX		".DLT"

/* CouponOutboxEntry.state */
enum
{
	WAITING,
	SENT,
	DELIVERED,					/* and in the list */
	SETTLED						/* removed, put aside or gone */
};

/* An event that will not be accepted. */
typedef struct Rejected
{
	int			entry;
	int			attempts;
	char		reason[128];
} Rejected;

static CouponOutboxEntry *batch = NULL;
static int	nbatch = 0;
static int	next = 0;			/* nothing before it is waiting */
static int	nsettled = 0;
static int	nsent = 0;			/* in state SENT */

static int *delivered = NULL;
static int	ndelivered = 0;
static int	max_delivered = 0;
static TimestampTz delivered_since = 0;

static Rejected *rejected = NULL;
static int	nrejected = 0;
static int	max_rejected = 0;

static bool suspicious = false; /* something was rejected: one by one */
static bool one_by_one = false; /* the sink was opened so */
static bool sink_full = false;
static bool topic_wanted = false;	/* the next event's topic is to be checked */
static bool reconfigure = false;
static bool campaigns_wanted = false;	/* their topics are to be looked up */
static TimestampTz reconfigure_since = 0;
static TimestampTz open_at = 0; /* not before */

int
coupon_publish_in_flight(void)
{
	return nsent;
}

int
coupon_publish_unsettled(void)
{
	return ndelivered + nrejected;
}

bool
coupon_publish_listens(void)
{
	return nsettled == nbatch && coupon_sink_is_open();
}

/* ---- reports ---- */

static void
note_delivered(int entry)
{
	if (ndelivered == max_delivered)
	{
		max_delivered = Max(1024, max_delivered * 2);
		if (delivered == NULL)
			delivered = MemoryContextAlloc(TopMemoryContext, max_delivered * sizeof(int));
		else
			delivered = repalloc_huge(delivered, max_delivered * sizeof(int));
	}
	if (ndelivered == 0)
		delivered_since = GetCurrentTimestamp();
	delivered[ndelivered++] = entry;
	batch[entry].state = DELIVERED;
}

static void
note_rejected(int entry, int attempts, const char *reason)
{
	if (nrejected == max_rejected)
	{
		max_rejected = Max(16, max_rejected * 2);
		if (rejected == NULL)
			rejected = MemoryContextAlloc(TopMemoryContext, max_rejected * sizeof(Rejected));
		else
			rejected = repalloc_huge(rejected, max_rejected * sizeof(Rejected));
	}
	rejected[nrejected].entry = entry;
	rejected[nrejected].attempts = attempts;
	strlcpy(rejected[nrejected].reason, reason, sizeof(rejected[nrejected].reason));
	nrejected++;
	batch[entry].state = DELIVERED;
}

static void
report(uint32 tag, CouponVerdict verdict, const char *reason)
{
	int			entry = tag;

	Assert(entry < nbatch && batch[entry].state == SENT);
	if (verdict == COUPON_DELIVERED)
	{
		nsent--;
		note_delivered(entry);
	}
	else if (verdict == COUPON_REJECTED && one_by_one)
	{
		nsent--;
		note_rejected(entry, 2, reason);
	}
	else if (verdict == COUPON_REJECTED)
	{
		if (!suspicious)
			coupon_publisher_problem("an event was rejected: %s", reason);
		suspicious = true;
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
	sink_full = false;
	topic_wanted = false;
	coupon_publisher_count(0, 0, again, 0);
}

void
coupon_publish_abandon(void)
{
	close_sink();
	nbatch = next = nsettled = ndelivered = nrejected = 0;
	suspicious = false;
	coupon_outbox_forget();
}

void
coupon_publish_reconfigure(void)
{
	reconfigure = true;
	reconfigure_since = GetCurrentTimestamp();
	open_at = 0;
}

/* Takes reports, and closes the sink if it is of no more use. */
static void
take_reports(void)
{
	bool		works = coupon_sink_poll(report);

	if (!coupon_sink_is_open())
		return;
	if (!works || (suspicious && !one_by_one))
		close_sink();
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
	take_reports();
	if (!coupon_sink_is_open())
		return GetCurrentTimestamp() >= open_at;

	coupon_sink_check_topics();
	if (topic_wanted && next < nbatch)
		return true;
	if (sink_full && nsent < SETTLE_ROWS)
		return true;
	return (ndelivered > 0 || nrejected > 0) &&
		(nsent == 0 || ndelivered >= SETTLE_ROWS ||
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
	/* what is too large once is too large twice */
	if (strstr(why->reason, "size") == NULL && strstr(why->reason, "large") == NULL)
		coupon_payload_json(&payload, "payload", event->payload);
	coupon_payload_end(&payload);
	return payload.data;
}

static const char *
from_utf8(const char *string)
{
	return pg_any_to_server(string, strlen(string), PG_UTF8);
}

static void
bury(const Rejected *why)
{
	static CouponStatement insert = {
		.sql = "INSERT INTO coupon.dead_letter (id, topic, key, type, payload, reason, attempts, dead_at) "
		"SELECT id, topic, key, type, payload, $4, $5, pg_catalog.clock_timestamp() FROM coupon.outbox "
		"WHERE tableoid OPERATOR(pg_catalog.=) $1 AND ctid OPERATOR(pg_catalog.=) $2 AND id OPERATOR(pg_catalog.=) $3 "
		"ON CONFLICT (id) DO UPDATE SET reason = excluded.reason, "
		"attempts = coupon.dead_letter.attempts OPERATOR(pg_catalog.+) excluded.attempts, dead_at = excluded.dead_at",
		.nargs = 5, .types = {OIDOID, TIDOID, UUIDOID, TEXTOID, INT4OID}
	};
	const CouponOutboxEntry *entry = &batch[why->entry];
	CouponEvent event;
	size_t		length;
	Datum		values[5];

	if (!coupon_outbox_fetch(entry, &event))
		return;
	values[0] = ObjectIdGetDatum(coupon_outbox_table(entry));
	values[1] = PointerGetDatum(&entry->tid);
	values[2] = UUIDPGetDatum(&event.id);
	values[3] = CStringGetTextDatum(why->reason);
	values[4] = Int32GetDatum(why->attempts);
	coupon_spi_execute(&insert, SPI_OK_INSERT, values, NULL);

	length = strlen(event.topic);
	if (length <= COUPON_MAX_TOPIC &&
		(length < strlen(DLT_SUFFIX) || strcmp(event.topic + length - strlen(DLT_SUFFIX), DLT_SUFFIX) != 0))
		coupon_outbox_append(psprintf("%s" DLT_SUFFIX, event.topic), from_utf8(event.key),
							 "coupon.dead_letter", from_utf8(dead_letter_payload(&event, why)));
	coupon_publisher_problem("an event for topic \"%s\" is a dead letter: %s", event.topic, why->reason);
	coupon_outbox_remove(entry);
}

/* Events of the batch that are done with: the rows go. */
static void
settle(void)
{
	int			count = ndelivered;
	int			dead = nrejected;

	for (int i = 0; i < ndelivered; i++)
	{
		coupon_outbox_remove(&batch[delivered[i]]);
		batch[delivered[i]].state = SETTLED;
	}
	if (nrejected > 0)
	{
		coupon_spi_connect();
		for (int i = 0; i < nrejected; i++)
		{
			bury(&rejected[i]);
			batch[rejected[i].entry].state = SETTLED;
		}
		coupon_spi_finish();
	}
	nsettled += ndelivered + nrejected;
	ndelivered = nrejected = 0;
	coupon_publisher_count(nsent, count, 0, dead);
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
	one_by_one = suspicious;
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

	coupon_spi_connect();
	n = coupon_spi_execute(&select, SPI_OK_SELECT, NULL, NULL);
	for (uint64 i = 0; i < n; i++)
		(void) coupon_sink_topic(coupon_spi_text(i, 1));
	coupon_spi_finish();
	campaigns_wanted = false;
}

/* An event that need not, or cannot, be sent. */
static void
skip(CouponOutboxEntry *entry)
{
	entry->state = SETTLED;
	nsettled++;
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
			topic_wanted = true;
			return false;
		case COUPON_TOPIC_REFUSED:
			skip(entry);
			return true;
		case COUPON_TOPIC_READY:
			break;
	}
	switch (coupon_sink_send(topic, &event, number, &reason))
	{
		case COUPON_SENT:
			entry->state = SENT;
			nsent++;
			return true;
		case COUPON_POISON:
			note_rejected(number, 1, reason);
			return true;
		case COUPON_SINK_FULL:
			sink_full = true;
			return false;
		case COUPON_SINK_BROKEN:
			close_sink();
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

	sink_full = false;
	topic_wanted = false;
	for (int rows = 0; rows < SEND_ROWS && next < nbatch && more; rows++)
	{
		if (batch[next].state == WAITING)
			more = send_event(next);
		if (more)
			next++;
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
	return more && next < nbatch;
}

static bool
work(void)
{
	take_reports();
	if (ndelivered > 0 || nrejected > 0)
	{
		settle();
		if (nsettled == nbatch)
		{
			coupon_outbox_rotate();
			return true;		/* what was removed must be seen as removed */
		}
	}
	if (!coupon_sink_is_open())
		open_sink();
	if (!coupon_sink_is_open() || reconfigure)
		return false;
	if (campaigns_wanted)
		name_topics();

	if (nsettled == nbatch)
	{
		suspicious = false;
		if (one_by_one)
		{
			close_sink();
			return true;
		}
		if (coupon_sink_adopt_topics())
			coupon_outbox_forget();
		nbatch = next = nsettled = 0;
		nbatch = coupon_outbox_collect(&batch, coupon_sink_refuses);
		if (nbatch == 0)
		{
			coupon_outbox_rotate();
			return false;
		}
	}
	return send_batch();
}

bool
coupon_publish_step(void)
{
	bool		more;

	coupon_outbox_open();
	more = work();
	coupon_publisher_count(nsent, 0, 0, 0);
	coupon_outbox_close();
	return more;
}
