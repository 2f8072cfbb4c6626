/*
 * topics.c
 *	  What the publisher knows of the topics that events are for.
 *
 * Knows nothing of how the broker is asked, see sink_kafka_topics.c.  Topics
 * are the publisher's own; what is refused is told in the status.
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/catalog.h"
#include "base/clock.h"
#include "base/spi.h"
#include "kafka/publisher_status.h"
#include "kafka/topics.h"

#define ASK_AGAIN_MS		200 /* after a question without an answer */
#define REFUSED_AGAIN_MS	5000	/* has somebody seen to the topic? */
#define MANY				1000	/* topics, worth to begin anew */
#define NAMES_MAX			1000	/* of topics with parked events, at a time */

static HTAB *topics = NULL;
static CouponTopic *last_topic = NULL;	/* that was looked up */
static int	nrefused = 0;
static bool news = false;
static TimestampTz next_check = 0;	/* nothing is due before */

/* Of the topics with parked events the last one named; empty: begin anew. */
static char named_to[COUPON_TOPIC_BYTES] = "";
static bool all_kept = true;	/* none was forgotten since that beginning */

CouponTopic *
coupon_topic_find(const char *name)
{
	if (last_topic != NULL && strcmp(last_topic->name, name) == 0)
		return last_topic;
	/* nobody but a superuser can have written a longer one */
	if (topics == NULL || strlen(name) >= COUPON_TOPIC_BYTES)
		return NULL;
	return hash_search(topics, name, HASH_FIND, NULL);
}

CouponTopic *
coupon_topic(const char *name)
{
	CouponTopic *topic = coupon_topic_find(name);

	if (topic == NULL && strlen(name) < COUPON_TOPIC_BYTES)
	{
		if (topics == NULL)
		{
			HASHCTL		info = {
				.keysize = COUPON_TOPIC_BYTES,.entrysize = sizeof(CouponTopic),.hcxt = TopMemoryContext
			};

			topics = hash_create("coupon topics", 16, &info, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
		}
		topic = hash_search(topics, name, HASH_ENTER, NULL);
		memset((char *) topic + COUPON_TOPIC_BYTES, 0, sizeof(CouponTopic) - COUPON_TOPIC_BYTES);
		topic->parked.topic = topic->name;
		topic->parked.some = true;
		next_check = 0;
	}
	return last_topic = topic;
}

void
coupon_topics_each(void (*function) (CouponTopic *topic))
{
	HASH_SEQ_STATUS scan;
	CouponTopic *topic;

	if (topics == NULL)
		return;
	hash_seq_init(&scan, topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
		function(topic);
}

/* ---- the status ---- */

static StringInfoData refused_text;

static void
tell_refused(CouponTopic *topic)
{
	if (topic->state == COUPON_TOPIC_REFUSED && refused_text.len < COUPON_STATUS_TEXT)
		appendStringInfo(&refused_text, "%s%s: %s", refused_text.len > 0 ? "; " : "",
						 topic->name, topic->problem);
	nrefused += topic->state == COUPON_TOPIC_REFUSED;
}

static void
show_refused(void)
{
	initStringInfo(&refused_text);
	nrefused = 0;
	coupon_topics_each(tell_refused);
	coupon_publisher_set_refused(refused_text.data);
	pfree(refused_text.data);
}

bool
coupon_topics_any_refused(void)
{
	return nrefused > 0;
}

/* ---- for the publisher ---- */

CouponChoice
coupon_topics_choose(const char *name, uint64 tick)
{
	CouponTopic *topic = coupon_topic(name);

	if (topic == NULL || topic->state == COUPON_TOPIC_REFUSED)
		return COUPON_PARK;
	if (topic->state == COUPON_TOPIC_UNKNOWN)
		return COUPON_LEAVE;
	return topic->parked.some && tick >= topic->parked.from ? COUPON_PARK : COUPON_TAKE;
}

bool
coupon_topics_have_news(void)
{
	return news;
}

static void
adopt(CouponTopic *topic)
{
	if (topic->usable)
		topic->state = COUPON_TOPIC_READY;
	topic->usable = false;
}

void
coupon_topics_adopt(void)
{
	if (!news)
		return;
	news = false;
	coupon_topics_each(adopt);
	show_refused();
}

static List *parked;

static void
add_parked(CouponTopic *topic)
{
	if (topic->state == COUPON_TOPIC_READY && topic->parked.some)
		parked = lappend(parked, &topic->parked);
}

List *
coupon_topics_parked(void)
{
	parked = NIL;
	coupon_topics_each(add_parked);
	return parked;
}

static void
repark(CouponTopic *topic)
{
	topic->parked.some = true;
	topic->parked.from = 0;
}

void
coupon_topics_repark(void)
{
	coupon_topics_each(repark);
}

static void
want_not(CouponTopic *topic)
{
	topic->wanted = false;
}

static void
forget_unwanted(CouponTopic *topic)
{
	if (topic->state == COUPON_TOPIC_REFUSED && !topic->wanted && topic->handle == NULL)
		(void) hash_search(topics, topic->name, HASH_REMOVE, NULL);
}

/* These are needed, and with all no others: what is refused is forgotten. */
static void
want(List *names, bool all)
{
	ListCell   *cell;

	coupon_topics_each(want_not);
	foreach(cell, names)
	{
		CouponTopic *topic = coupon_topic(lfirst(cell));

		if (topic != NULL)
			topic->wanted = true;
	}
	if (all)
		coupon_topics_each(forget_unwanted);
	last_topic = NULL;
	show_refused();
}

bool
coupon_topics_name(bool all)
{
	static CouponStatement select = {
		.sql = "WITH RECURSIVE parked (topic) AS ("
		"(SELECT p.topic COLLATE \"C\" FROM coupon.outbox_parked p "
		"WHERE p.topic COLLATE \"C\" OPERATOR(pg_catalog.>) $1 ORDER BY p.topic COLLATE \"C\" LIMIT 1) "
		"UNION ALL SELECT (SELECT p.topic COLLATE \"C\" FROM coupon.outbox_parked p "
		"WHERE p.topic COLLATE \"C\" OPERATOR(pg_catalog.>) t.topic ORDER BY p.topic COLLATE \"C\" LIMIT 1) "
		"FROM parked t WHERE t.topic IS NOT NULL) "
		"(SELECT p.topic, true FROM parked p WHERE p.topic IS NOT NULL LIMIT $2) "
		"UNION ALL (SELECT DISTINCT c.topic, false FROM coupon.campaign c WHERE c.closed_at IS NULL)",
		.nargs = 2,.types = {TEXTOID, INT4OID}
	};
	bool		from_start = named_to[0] == '\0';
	Datum		values[2] = {CStringGetTextDatum(named_to), Int32GetDatum(NAMES_MAX)};
	List	   *names = NIL;
	int			nparked = 0;
	uint64		n;

	all_kept |= from_start;
	/* it can wait for whoever has locked the campaigns; events cannot */
	if (!ConditionalLockRelationOid(coupon_catalog()->campaign, AccessShareLock))
		return false;
	coupon_spi_connect();
	n = coupon_spi_execute(&select, SPI_OK_SELECT, values, NULL);
	for (uint64 i = 0; i < n; i++)
	{
		char	   *name = coupon_spi_text(i, 1);

		names = lappend(names, name);
		if (!DatumGetBool(coupon_spi_value(i, 2, NULL)))
			continue;
		strlcpy(named_to, name, sizeof(named_to));
		nparked++;
	}
	if (nparked < NAMES_MAX)
		named_to[0] = '\0';
	want(names, all && from_start && nparked < NAMES_MAX);
	coupon_spi_finish();
	return nparked < NAMES_MAX && all_kept;
}

bool
coupon_topics_are_many(void)
{
	return topics != NULL && hash_get_num_entries(topics) > MANY;
}

void
coupon_topics_forget(void)
{
	hash_destroy(topics);
	topics = NULL;
	last_topic = NULL;
	news = false;
	/* those behind have their turn first, then all of them another one */
	all_kept = false;
	show_refused();
}

/* ---- for the sink ---- */

static void
check_ready(CouponTopic *topic)
{
	if (topic->state == COUPON_TOPIC_READY)
		topic->check_at = 0;
}

static void
check_any(CouponTopic *topic)
{
	topic->check_at = 0;
}

void
coupon_topics_check_again(bool refused)
{
	coupon_topics_each(refused ? check_any : check_ready);
	next_check = 0;
}

static void
doubt(CouponTopic *topic)
{
	if (topic->state == COUPON_TOPIC_READY)
		topic->state = COUPON_TOPIC_UNKNOWN;
	topic->usable = false;
	repark(topic);
	topic->creating = false;
	topic->since = 0;
}

void
coupon_topics_doubt(void)
{
	coupon_topics_each(doubt);
	coupon_topics_check_again(true);
}

/* Those for which somebody waits come first. */
int
coupon_topics_due(CouponTopic **due, int max, int question)
{
	TimestampTz now = coupon_steady_now();
	HASH_SEQ_STATUS scan;
	CouponTopic *topic;
	int			n = 0;

	if (now < next_check || topics == NULL)
		return 0;
	next_check = COUPON_NOT_ASKED;
	for (int waiting = 1; waiting >= 0; waiting--)
	{
		hash_seq_init(&scan, topics);
		while ((topic = hash_seq_search(&scan)) != NULL)
		{
			if ((topic->state == COUPON_TOPIC_UNKNOWN && !topic->usable) != waiting)
				continue;
			if (topic->check_at <= now && n < max)
			{
				due[n++] = topic;
				topic->question = question;
				if (topic->since == 0)
					topic->since = now;
				coupon_topic_ask_again(topic, ASK_AGAIN_MS);
			}
			next_check = Min(next_check, topic->check_at);
		}
	}
	return n;
}

void
coupon_topic_ask_again(CouponTopic *topic, int ms)
{
	topic->check_at = TimestampTzPlusMilliseconds(coupon_steady_now(), ms);
	next_check = Min(next_check, topic->check_at);
}

void
coupon_topic_accept(CouponTopic *topic)
{
	topic->creating = false;
	topic->since = 0;
	topic->check_at = COUPON_NOT_ASKED;
	if (topic->state != COUPON_TOPIC_READY)
		topic->usable = news = true;
}

void
coupon_topic_refuse(CouponTopic *topic, const char *problem)
{
	bool		known = topic->state == COUPON_TOPIC_REFUSED && strcmp(topic->problem, problem) == 0;

	topic->creating = false;
	topic->since = 0;
	topic->question = 0;		/* an answer under way is older than this */
	coupon_topic_ask_again(topic, REFUSED_AGAIN_MS);
	topic->state = COUPON_TOPIC_REFUSED;
	topic->usable = false;
	repark(topic);
	if (known)
		return;
	strlcpy(topic->problem, problem, sizeof(topic->problem));
	news = true;
	coupon_publisher_problem("topic \"%s\" is refused, its events stay in the outbox: %s",
							 topic->name, problem);
	show_refused();
}
