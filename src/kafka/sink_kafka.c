/*
 * sink_kafka.c
 *	  The sink that is Apache Kafka, by librdkafka.
 *
 * librdkafka works in threads of its own, in which nothing of PostgreSQL may
 * run.  So there are no callbacks: reports, errors and log lines are events
 * on one queue, which this process polls; a pipe tells it when.
 */
#include "postgres.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "catalog/namespace.h"
#include "commands/dbcommands.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/clock.h"
#include "base/guc.h"
#include "kafka/publisher_status.h"
#include "kafka/sink.h"
#include "kafka/sink_config.h"
#include "kafka/sink_kafka_client.h"
#include "kafka/sink_kafka_topics.h"
#include "outbox/event_id.h"

#define LOG_LINES	20			/* of librdkafka, a minute */
#define RENEWAL_MS	5000		/* how often to look for new files while the
								 * broker does not answer */

static rd_kafka_t *client = NULL;
static rd_kafka_queue_t *queue = NULL;
static CouponSinkHealth health = COUPON_SINK_WORKS;
static int	pipe_fds[2] = {-1, -1};
static char source[NAMEDATALEN + 16];	/* ce_source */

/* The settings as of the opening. */
static char *opened_brokers = NULL;
static char *opened_file = NULL;
static uint64 opened_stamp;

/* The state as it was last shown. */
static CouponBrokerState shown = COUPON_BROKER_NONE;

static bool explained = false;	/* why it is not up was said, which comes once */

static void
show_state(CouponBrokerState state)
{
	if (state != shown)
		coupon_publisher_set_state(state);
	if (state == COUPON_BROKER_UP || state == COUPON_BROKER_CONNECTING)
		explained = false;
	shown = state;
}

/* ---- opening ---- */

static void
make_pipe(void)
{
	if (pipe_fds[0] >= 0)
		return;
	if (pipe(pipe_fds) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create a pipe: %m")));
	for (int i = 0; i < 2; i++)
	{
		if (fcntl(pipe_fds[i], F_SETFL, O_NONBLOCK) != 0 ||
			fcntl(pipe_fds[i], F_SETFD, FD_CLOEXEC) != 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not set up a pipe: %m")));
	}
}

static void
keep_string(char **kept, const char *value)
{
	char	   *copy = MemoryContextStrdup(TopMemoryContext, value);

	if (*kept != NULL)
		pfree(*kept);
	*kept = copy;
}

bool
coupon_sink_is_outdated(void)
{
	return opened_brokers == NULL || strcmp(opened_brokers, coupon_kafka_brokers) != 0 ||
		strcmp(opened_file, coupon_kafka_config_file) != 0 ||
		coupon_sink_config_stamp(coupon_kafka_config_file) != opened_stamp ||
		coupon_kafka_topics_are_outdated();
}

/*
 * With other settings no topic is known any more; after a mere accident they
 * are looked at again while events go on.
 */
static void
take_over_settings(void)
{
	bool		outdated = coupon_sink_is_outdated();

	keep_string(&opened_brokers, coupon_kafka_brokers);
	keep_string(&opened_file, coupon_kafka_config_file);
	opened_stamp = coupon_sink_config_stamp(coupon_kafka_config_file);
	coupon_kafka_topics_configure();
	if (outdated)
		coupon_topics_doubt();
	else
		coupon_topics_check_again(false);
}

bool
coupon_sink_open(void)
{
	Assert(client == NULL);
	if (coupon_kafka_brokers[strspn(coupon_kafka_brokers, " ")] == '\0')
	{
		coupon_publisher_set_refused("");
		show_state(COUPON_BROKER_OFF);
		return false;
	}
	make_pipe();
	snprintf(source, sizeof(source), "/coupon/%s", get_database_name(MyDatabaseId));

	take_over_settings();
	client = coupon_kafka_make_client();
	if (client == NULL)
	{
		show_state(COUPON_BROKER_MISCONFIGURED);
		return false;
	}
	queue = rd_kafka_queue_get_main(client);
	rd_kafka_set_log_queue(client, NULL);
	rd_kafka_queue_io_event_enable(queue, pipe_fds[1], "1", 1);

	health = COUPON_SINK_WORKS;
	show_state(COUPON_BROKER_CONNECTING);
	return true;
}

bool
coupon_sink_is_open(void)
{
	return client != NULL;
}

int
coupon_sink_fd(void)
{
	make_pipe();
	return pipe_fds[0];
}

/* ---- closing ---- */

void
coupon_sink_close(void)
{
	if (client == NULL)
		return;
	coupon_topics_each(coupon_kafka_topic_drop_handle);
	rd_kafka_queue_io_event_enable(queue, -1, NULL, 0);
	rd_kafka_queue_destroy(queue);
	rd_kafka_purge(client, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT |
				   RD_KAFKA_PURGE_F_NON_BLOCKING);
	coupon_kafka_topics_abandon(client);
	client = NULL;
	queue = NULL;
}

/* The last act: libraries' own exit handlers must not meet running threads. */
static void
exit_at_once(int code, Datum arg)
{
	_exit(code);
}

void
coupon_sink_shut(long ms)
{
	coupon_sink_close();
	if (!coupon_kafka_await_discarded(ms))
		on_proc_exit(exit_at_once, 0);
}

/* ---- events ---- */

static bool
is_permanent(rd_kafka_resp_err_t error)
{
	switch (error)
	{
		case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
		case RD_KAFKA_RESP_ERR_INVALID_MSG:
		case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP:
		case RD_KAFKA_RESP_ERR_INVALID_RECORD:
		case RD_KAFKA_RESP_ERR_POLICY_VIOLATION:
		case RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT:
		case RD_KAFKA_RESP_ERR__BAD_MSG:
		case RD_KAFKA_RESP_ERR__BAD_COMPRESSION:
			return true;
		default:
			return false;
	}
}

static bool
is_too_large(rd_kafka_resp_err_t error)
{
	return error == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE ||
		error == RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE ||
		error == RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE;
}

static void
take_reports(rd_kafka_event_t *event, CouponReport report, void *arg)
{
	const rd_kafka_message_t *message;

	while ((message = rd_kafka_event_message_next(event)) != NULL)
	{
		uint32		tag = (uint32) (uintptr_t) message->_private;

		const char *reason = rd_kafka_err2str(message->err);
		const char *name = rd_kafka_topic_name(message->rkt);

		if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			show_state(COUPON_BROKER_UP);
			report(arg, tag, COUPON_DELIVERED, NULL);
		}
		else if (message->err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)
		{
			coupon_kafka_topic_refuse(coupon_topic(name), reason);
			report(arg, tag, COUPON_TOPIC_DENIED, NULL);
		}
		else if (is_permanent(message->err))
			report(arg, tag, is_too_large(message->err) ? COUPON_TOO_LARGE : COUPON_REJECTED, reason);
		else
		{
			if (health == COUPON_SINK_WORKS)
			{
				coupon_publisher_problem("an event for topic \"%s\" was not delivered: %s", name, reason);
				health = COUPON_SINK_BROKE;
			}
			report(arg, tag, COUPON_UNDELIVERED, reason);
		}
	}
}

static void
take_error(rd_kafka_event_t *event)
{
	rd_kafka_resp_err_t error = rd_kafka_event_error(event);
	char		message[256];

	if (rd_kafka_event_error_is_fatal(event))
	{
		error = rd_kafka_fatal_error(client, message, sizeof(message));
		coupon_publisher_problem("the Kafka client gave up: %s: %s",
								 rd_kafka_err2name(error), message);
		health = error == RD_KAFKA_RESP_ERR__GAPLESS_GUARANTEE ? COUPON_SINK_GAP : COUPON_SINK_BROKE;
		return;
	}
	switch (error)
	{
		case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
			show_state(COUPON_BROKER_DOWN);
			if (!explained)
				coupon_publisher_problem("no broker can be reached: %s", rd_kafka_event_error_string(event));
			break;
		case RD_KAFKA_RESP_ERR__TRANSPORT:

			/*
			 * brokers close connections that were idle; before that, it says
			 * why
			 */
			if (shown == COUPON_BROKER_UP)
				break;
			/* FALLTHROUGH */
		default:
			coupon_publisher_problem("%s: %s", rd_kafka_err2name(error),
									 rd_kafka_event_error_string(event));
			explained = true;
			break;
	}
}

static void
take_log(rd_kafka_event_t *event)
{
	static TimestampTz minute = 0;
	static int	lines = 0;
	TimestampTz now = GetCurrentTimestamp();
	const char *facility;
	const char *text;
	int			level;

	if (rd_kafka_event_log(event, &facility, &text, &level) != 0)
		return;

	/*
	 * FAIL, ERROR and FATAL come as errors, too; that a property is
	 * experimental is known
	 */
	if (level > 4 || strcmp(facility, "FAIL") == 0 || strcmp(facility, "ERROR") == 0 ||
		strcmp(facility, "FATAL") == 0 || strstr(text, "enable.gapless.guarantee") != NULL)
	{
		ereport(DEBUG1, (errmsg_internal("librdkafka: %s: %s", facility, text)));
		return;
	}
	if (TimestampDifferenceExceeds(minute, now, 60000))
	{
		minute = now;
		lines = 0;
	}
	if (++lines <= LOG_LINES)
		ereport(LOG, (errmsg("coupon publisher: librdkafka: %s: %s", facility, text)));
}

CouponSinkHealth
coupon_sink_poll(CouponReport report, void *arg)
{
	char		bytes[64];
	rd_kafka_event_t *event;

	/* first the pipe: it is written to once, until the queue is empty again */
	while (pipe_fds[0] >= 0 && read(pipe_fds[0], bytes, sizeof(bytes)) > 0)
		;
	while (client != NULL && (event = rd_kafka_queue_poll(queue, 0)) != NULL)
	{
		switch (rd_kafka_event_type(event))
		{
			case RD_KAFKA_EVENT_DR:
				take_reports(event, report, arg);
				break;
			case RD_KAFKA_EVENT_ERROR:
				take_error(event);
				break;
			case RD_KAFKA_EVENT_LOG:
				take_log(event);
				break;
			case RD_KAFKA_EVENT_CREATETOPICS_RESULT:
				coupon_kafka_topics_created(event);
				break;
			default:
				break;
		}
		rd_kafka_event_destroy(event);
	}
	return health;
}

/*
 * The client has read its certificates once.  If they have run out, and been
 * renewed under the same names, it will not get far.
 */
static bool
files_were_renewed(void)
{
	static TimestampTz looked_at = 0;
	TimestampTz now = coupon_steady_now();

	if (!TimestampDifferenceExceeds(looked_at, now, RENEWAL_MS))
		return false;
	looked_at = now;
	if (!coupon_sink_is_outdated())
		return false;
	coupon_publisher_problem("the broker does not answer, and files of coupon.kafka_config_file have changed: the client is made anew");
	return true;
}

bool
coupon_sink_check_topics(bool doubt)
{
	rd_kafka_resp_err_t error;
	bool		lost = false;

	if (client == NULL)
		return false;
	if ((doubt || shown != COUPON_BROKER_UP) && files_were_renewed())
		health = COUPON_SINK_BROKE;
	if (doubt && shown == COUPON_BROKER_UP)
		coupon_topics_check_again(false);
	if (coupon_kafka_topics_answered(client, queue, &error, &lost))
	{
		if (error == RD_KAFKA_RESP_ERR_NO_ERROR)
			show_state(COUPON_BROKER_UP);
		else if (!explained)
			coupon_publisher_problem("no answer about topics: %s", rd_kafka_err2str(error));
	}
	coupon_kafka_topics_ask(client, shown != COUPON_BROKER_UP, pipe_fds[1]);
	return lost;
}

/* ---- sending ---- */

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

static void
add_header(rd_kafka_headers_t *headers, const char *name, const char *value)
{
	rd_kafka_header_add(headers, name, -1, value, -1);
}

/* CloudEvents in binary mode, and the id once more under its plain name. */
static rd_kafka_headers_t *
make_headers(const CouponEvent *event)
{
	static const char hex[] = "0123456789abcdef";
	rd_kafka_headers_t *headers = rd_kafka_headers_new(9);
	uint64		ms = coupon_event_tick(&event->id) / COUPON_TICKS_PER_MS;
	static uint64 shown_ms = 0;
	static char when[40];		/* of that millisecond, as many events are */
	char		id[37];
	char	   *out = id;

	for (int i = 0; i < UUID_LEN; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*out++ = '-';
		*out++ = hex[event->id.data[i] >> 4];
		*out++ = hex[event->id.data[i] & 0x0f];
	}
	*out = '\0';
	if (ms != shown_ms)
	{
		time_t		seconds = ms / 1000;
		struct tm	tm;

		gmtime_r(&seconds, &tm);
		snprintf(when, sizeof(when), "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year + 1900,
				 tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (int) (ms % 1000));
		shown_ms = ms;
	}

	add_header(headers, "id", id);
	add_header(headers, "content-type", "application/json");
	add_header(headers, "ce_specversion", "1.0");
	add_header(headers, "ce_id", id);
	add_header(headers, "ce_type", event->type);
	add_header(headers, "ce_source", source);
	add_header(headers, "ce_time", when);
	if (event->trace != NULL)
		add_header(headers, "traceparent", event->trace);
	return headers;
}

CouponSent
coupon_sink_send(CouponTopic *topic, const CouponEvent *event, uint32 tag, const char **reason)
{
	CouponEvent utf8 = *event;
	rd_kafka_headers_t *headers;
	rd_kafka_resp_err_t error;

	if (!to_utf8(&utf8.key) || !to_utf8(&utf8.type) || !to_utf8(&utf8.payload))
	{
		*reason = "it cannot be converted to UTF-8";
		return COUPON_POISON;
	}
	headers = make_headers(&utf8);
	if (topic->handle == NULL)
		topic->handle = rd_kafka_topic_new(client, topic->name, NULL);
	error = rd_kafka_producev(client,
							  RD_KAFKA_V_RKT((rd_kafka_topic_t *) topic->handle),
							  RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
							  RD_KAFKA_V_KEY(utf8.key, strlen(utf8.key)),
							  RD_KAFKA_V_VALUE((void *) utf8.payload, strlen(utf8.payload)),
							  RD_KAFKA_V_HEADERS(headers),
							  RD_KAFKA_V_OPAQUE((void *) (uintptr_t) tag),
							  RD_KAFKA_V_END);
	if (error == RD_KAFKA_RESP_ERR_NO_ERROR)
		return COUPON_SENT;
	rd_kafka_headers_destroy(headers);
	if (error == RD_KAFKA_RESP_ERR__QUEUE_FULL)
		return COUPON_SINK_FULL;
	*reason = rd_kafka_err2str(error);
	if (error == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)
	{
		coupon_kafka_topic_refuse(topic, *reason);
		return COUPON_DENIED;
	}
	if (is_permanent(error))
		return COUPON_POISON;
	coupon_publisher_problem("topic \"%s\" does not take events: %s", topic->name, *reason);
	return COUPON_SINK_BROKEN;
}
