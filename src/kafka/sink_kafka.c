/*
 * sink_kafka.c
 *	  The sink that is Apache Kafka, by librdkafka.
 *
 * librdkafka works in threads of its own, in which nothing of PostgreSQL may
 * run.  So there are no callbacks: reports, errors and log lines are events
 * on one queue, which this process polls; a pipe tells it when.  The threads
 * are made with all signals blocked: signals are this process's.
 *
 * What waits for the network runs in threads of our own, which know nothing
 * but librdkafka: asking about a topic, and destroying a client.
 */
#include "postgres.h"

#include <fcntl.h>
#include <librdkafka/rdkafka.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "commands/dbcommands.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/guc.h"
#include "kafka/publisher_status.h"
#include "kafka/sink.h"
#include "kafka/sink_config.h"
#include "outbox/event_id.h"
#include "outbox/outbox.h"

#define CHECK_TIMEOUT_MS	5000	/* of one question to the broker */
#define CHECK_AGAIN_MS		200		/* after a question without an answer */
#define REFUSED_AGAIN_MS	5000	/* has somebody seen to the topic? */
#define CREATE_TIMEOUT_MS	15000
#define LOG_LINES			20		/* of librdkafka, a minute */

struct CouponTopic
{
	char		name[COUPON_MAX_TOPIC + 5];
	CouponTopicState state;
	bool		adoptable;		/* refused, but all right when last asked */
	rd_kafka_topic_t *handle;	/* of the open client, or NULL */
	TimestampTz check_at;		/* when to ask next */
	TimestampTz creating_since; /* 0: not asked to be created */
	char		problem[COUPON_STATUS_TEXT];
};

/*
 * A question about a topic, or whether anybody is there, and its answer: a
 * thread's until it is answered.
 */
typedef struct Question
{
	char		topic[COUPON_MAX_TOPIC + 5];
	rd_kafka_t *client;
	rd_kafka_topic_t *handle;	/* NULL: no topic */
	pthread_t	thread;
	pg_atomic_uint32 answered;
	rd_kafka_resp_err_t error;
	const struct rd_kafka_metadata *metadata;
} Question;

/* What a thread is to destroy. */
typedef struct Remains
{
	rd_kafka_t *client;
	Question   *question;		/* or NULL */
} Remains;

static rd_kafka_t *client = NULL;
static Question *question = NULL;	/* the one that is asked */
static TimestampTz asked_at = 0;	/* the last one */
static rd_kafka_queue_t *queue = NULL;
static CouponSinkHealth health = COUPON_SINK_WORKS;
static int	pipe_fds[2] = {-1, -1};
static HTAB *topics = NULL;
static CouponTopic *last_topic = NULL;	/* that was looked up */
static pg_atomic_uint32 closing;	/* clients that threads are destroying */
static char source[NAMEDATALEN + 16];	/* ce_source */

/* The settings as of the opening. */
static char *opened_brokers = NULL;
static char *opened_file = NULL;
static struct stat opened_stat;
static int	wanted_partitions;
static int	wanted_replication;
static bool create_topics;

/* The state as it was last shown. */
static CouponBrokerState shown = COUPON_BROKER_NONE;

static bool explained = false;	/* why it is not up was said, which comes once */

static void show_refused(void);

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

static bool
set_property(rd_kafka_conf_t *conf, const char *name, const char *value, int line)
{
	char		message[256];
	rd_kafka_conf_res_t result = rd_kafka_conf_set(conf, name, value, message, sizeof(message));

	if (result == RD_KAFKA_CONF_OK)
		return true;
	/* the message quotes it */
	if (result == RD_KAFKA_CONF_INVALID && coupon_sink_config_is_secret(name))
		strlcpy(message, "its value is not accepted", sizeof(message));
	if (line > 0)
		coupon_publisher_problem("coupon.kafka_config_file, line %d: property \"%s\": %s",
								 line, name, message);
	else
		coupon_publisher_problem("property \"%s\": %s", name, message);
	return false;
}

static bool
set_properties(rd_kafka_conf_t *conf, bool one_by_one)
{
	static const char *const preset[][2] = {
		{"client.id", "coupon"},
		{"linger.ms", "5"},
		{"compression.codec", "lz4"},
		{"queue.buffering.max.messages", "100000"},
		{"queue.buffering.max.kbytes", "65536"},
		{"socket.nagle.disable", "true"},
		{"socket.keepalive.enable", "true"},
		{"reconnect.backoff.max.ms", "2000"},
		{"topic.metadata.refresh.interval.ms", "60000"}
	};
	static const char *const fixed[][2] = {
		{"acks", "all"},
		{"enable.idempotence", "true"},
		{"message.timeout.ms", "0"},
		{"partitioner", "murmur2_random"},
		{"allow.auto.create.topics", "false"},
		{"log.queue", "true"}
	};
	ListCell   *cell;
	List	   *properties = NIL;
	char	   *problem = NULL;

	for (size_t i = 0; i < lengthof(preset); i++)
	{
		if (!set_property(conf, preset[i][0], preset[i][1], 0))
			return false;
	}
	if (coupon_kafka_config_file[0] != '\0')
		properties = coupon_sink_config_read(coupon_kafka_config_file, &problem);
	if (problem != NULL)
	{
		coupon_publisher_problem("coupon.kafka_config_file \"%s\": %s",
								 coupon_kafka_config_file, problem);
		return false;
	}
	foreach(cell, properties)
	{
		CouponProperty *property = lfirst(cell);

		if (!set_property(conf, property->name, property->value, property->line))
			return false;
	}
	for (size_t i = 0; i < lengthof(fixed); i++)
	{
		if (!set_property(conf, fixed[i][0], fixed[i][1], 0))
			return false;
	}

	/*
	 * To log in by Kerberos the client has the shell run a command with values
	 * of the file in it: let that do nothing.  A client without Kerberos does
	 * not know the property, and runs nothing.
	 */
	(void) rd_kafka_conf_set(conf, "sasl.kerberos.kinit.cmd", ":", NULL, 0);

	/* a failed request must not be overtaken by the next one */
	if (!one_by_one && !set_property(conf, "enable.gapless.guarantee", "true", 0))
		return false;
	if (one_by_one && !set_property(conf, "linger.ms", "0", 0))
		return false;
	return set_property(conf, "bootstrap.servers", coupon_kafka_brokers, 0);
}

/* rd_kafka_new, whose threads inherit the signal mask. */
static bool
make_client(rd_kafka_conf_t *conf)
{
	char		message[512];
	sigset_t	all;
	sigset_t	before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	client = rd_kafka_new(RD_KAFKA_PRODUCER, conf, message, sizeof(message));
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (client == NULL)
	{
		coupon_publisher_problem("the Kafka client cannot be made: %s", message);
		rd_kafka_conf_destroy(conf);
		return false;
	}
	return true;
}

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
make_topics(void)
{
	HASHCTL		info = {0};

	info.keysize = sizeof(((CouponTopic *) NULL)->name);
	info.entrysize = sizeof(CouponTopic);
	info.hcxt = TopMemoryContext;
	topics = hash_create("coupon topics", 16, &info, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
}

/* What was checked for an earlier client is checked again. */
static void
doubt_topics(void)
{
	HASH_SEQ_STATUS scan;
	CouponTopic *topic;

	hash_seq_init(&scan, topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
	{
		if (topic->state == COUPON_TOPIC_READY)
			topic->state = COUPON_TOPIC_UNKNOWN;
		topic->adoptable = false;
		topic->check_at = 0;
		topic->creating_since = 0;
	}
}

void
coupon_sink_doubt_topics(void)
{
	HASH_SEQ_STATUS scan;
	CouponTopic *topic;

	hash_seq_init(&scan, topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
		topic->check_at = 0;
}

/* What stat says of the file of properties; zeros without one. */
static struct stat
stat_file(void)
{
	struct stat st;

	if (coupon_kafka_config_file[0] == '\0' || stat(coupon_kafka_config_file, &st) != 0)
		memset(&st, 0, sizeof(st));
	return st;
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
	struct stat st = stat_file();

	return strcmp(opened_brokers, coupon_kafka_brokers) != 0 ||
		strcmp(opened_file, coupon_kafka_config_file) != 0 ||
		st.st_ino != opened_stat.st_ino || st.st_size != opened_stat.st_size ||
		st.st_mtim.tv_sec != opened_stat.st_mtim.tv_sec ||
		st.st_mtim.tv_nsec != opened_stat.st_mtim.tv_nsec || st.st_mode != opened_stat.st_mode ||
		wanted_partitions != coupon_kafka_partitions ||
		wanted_replication != coupon_kafka_replication ||
		create_topics != coupon_kafka_create_topics;
}

bool
coupon_sink_open(bool one_by_one)
{
	rd_kafka_conf_t *conf;

	Assert(client == NULL);
	if (coupon_kafka_brokers[strspn(coupon_kafka_brokers, " ")] == '\0')
	{
		coupon_publisher_set_refused("");
		show_state(COUPON_BROKER_OFF);
		return false;
	}
	make_pipe();
	if (topics == NULL)
	{
		pg_atomic_init_u32(&closing, 0);
		make_topics();
	}
	snprintf(source, sizeof(source), "/coupon/%s", get_database_name(MyDatabaseId));

	keep_string(&opened_brokers, coupon_kafka_brokers);
	keep_string(&opened_file, coupon_kafka_config_file);
	opened_stat = stat_file();

	conf = rd_kafka_conf_new();
	rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG);
	if (!set_properties(conf, one_by_one))
	{
		rd_kafka_conf_destroy(conf);
		show_state(COUPON_BROKER_MISCONFIGURED);
		return false;
	}
	if (!make_client(conf))
	{
		show_state(COUPON_BROKER_MISCONFIGURED);
		return false;
	}
	queue = rd_kafka_queue_get_main(client);
	rd_kafka_set_log_queue(client, NULL);
	rd_kafka_queue_io_event_enable(queue, pipe_fds[1], "1", 1);

	show_refused();
	health = COUPON_SINK_WORKS;
	wanted_partitions = coupon_kafka_partitions;
	wanted_replication = coupon_kafka_replication;
	create_topics = coupon_kafka_create_topics;
	doubt_topics();
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

/* Starts a thread, which has all signals blocked. */
static bool
start_thread(pthread_t *thread, void *(*run) (void *), void *arg)
{
	sigset_t	all;
	sigset_t	before;
	int			failed;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	failed = pthread_create(thread, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return failed == 0;
}

/* Waits for the answer. */
static void
free_question(Question *q)
{
	pthread_join(q->thread, NULL);
	if (q->metadata != NULL)
		rd_kafka_metadata_destroy(q->metadata);
	if (q->handle != NULL)
		rd_kafka_topic_destroy(q->handle);
	free(q);
}

/* A thread: nothing of PostgreSQL in here. */
static void *
destroy_client(void *arg)
{
	Remains    *remains = arg;

	if (remains->question != NULL)
		free_question(remains->question);
	rd_kafka_destroy(remains->client);
	free(remains);
	pg_atomic_fetch_sub_u32(&closing, 1);
	return NULL;
}

void
coupon_sink_close(void)
{
	HASH_SEQ_STATUS scan;
	CouponTopic *topic;
	Remains    *remains;
	pthread_t	thread;

	if (client == NULL)
		return;
	hash_seq_init(&scan, topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
	{
		if (topic->handle != NULL)
			rd_kafka_topic_destroy(topic->handle);
		topic->handle = NULL;
	}
	rd_kafka_queue_io_event_enable(queue, -1, NULL, 0);
	rd_kafka_queue_destroy(queue);
	rd_kafka_purge(client, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT |
				   RD_KAFKA_PURGE_F_NON_BLOCKING);

	/* without the memory or the thread, the client is left to the process's end */
	pg_atomic_fetch_add_u32(&closing, 1);
	remains = malloc(sizeof(Remains));
	if (remains != NULL)
	{
		remains->client = client;
		remains->question = question;
		if (start_thread(&thread, destroy_client, remains))
			pthread_detach(thread);
	}
	client = NULL;
	question = NULL;
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
	if (topics == NULL)
		return;
	coupon_sink_close();
	while (pg_atomic_read_u32(&closing) > 0 && ms > 0)
	{
		pg_usleep(5000);
		ms -= 5;
	}
	if (pg_atomic_read_u32(&closing) > 0)
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

static void refuse_topic(CouponTopic *topic, const char *problem);

static void
take_reports(rd_kafka_event_t *event, CouponReport report)
{
	const rd_kafka_message_t *message;

	while ((message = rd_kafka_event_message_next(event)) != NULL)
	{
		uint32		tag = (uint32) (uintptr_t) message->_private;

		if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			show_state(COUPON_BROKER_UP);
			report(tag, COUPON_DELIVERED, NULL);
		}
		else if (message->err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)
		{
			refuse_topic(coupon_sink_topic(rd_kafka_topic_name(message->rkt)),
						 rd_kafka_err2str(message->err));
			report(tag, COUPON_TOPIC_DENIED, NULL);
		}
		else if (is_permanent(message->err))
			report(tag, message->err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE ||
				   message->err == RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE ||
				   message->err == RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE ?
				   COUPON_TOO_LARGE : COUPON_REJECTED,
				   rd_kafka_err2str(message->err));
		else
		{
			if (health == COUPON_SINK_WORKS)
				coupon_publisher_problem("an event for topic \"%s\" was not delivered: %s",
										 rd_kafka_topic_name(message->rkt),
										 rd_kafka_err2str(message->err));
			if (health == COUPON_SINK_WORKS)
				health = COUPON_SINK_BROKE;
			report(tag, COUPON_UNDELIVERED, rd_kafka_err2str(message->err));
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
			/* brokers close connections that were idle; before that, it says why */
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
	/* FAIL, ERROR and FATAL come as errors, too; that a property is experimental is known */
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

static void topic_created(rd_kafka_event_t *event);

CouponSinkHealth
coupon_sink_poll(CouponReport report)
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
				take_reports(event, report);
				break;
			case RD_KAFKA_EVENT_ERROR:
				take_error(event);
				break;
			case RD_KAFKA_EVENT_LOG:
				take_log(event);
				break;
			case RD_KAFKA_EVENT_CREATETOPICS_RESULT:
				topic_created(event);
				break;
			default:
				break;
		}
		rd_kafka_event_destroy(event);
	}
	return health;
}

/* ---- topics ---- */

CouponTopic *
coupon_sink_topic(const char *name)
{
	bool		found;
	CouponTopic *topic;

	if (last_topic != NULL && strcmp(last_topic->name, name) == 0)
		return last_topic;
	topic = hash_search(topics, name, HASH_ENTER, &found);
	if (!found)
		memset((char *) topic + sizeof(topic->name), 0, sizeof(CouponTopic) - sizeof(topic->name));
	return last_topic = topic;
}

CouponTopicState
coupon_sink_topic_state(const CouponTopic *topic)
{
	return topic->state;
}

bool
coupon_sink_refuses(const char *name)
{
	CouponTopic *topic = topics ? hash_search(topics, name, HASH_FIND, NULL) : NULL;

	return topic != NULL && topic->state == COUPON_TOPIC_REFUSED;
}

static void
show_refused(void)
{
	HASH_SEQ_STATUS scan;
	CouponTopic *topic;
	StringInfoData text;

	initStringInfo(&text);
	hash_seq_init(&scan, topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
	{
		if (topic->state == COUPON_TOPIC_REFUSED)
			appendStringInfo(&text, "%s%s: %s", text.len > 0 ? "; " : "", topic->name, topic->problem);
	}
	coupon_publisher_set_refused(text.data);
	pfree(text.data);
}

void
coupon_sink_forget_refused(void)
{
	HASH_SEQ_STATUS scan;
	CouponTopic *topic;

	hash_seq_init(&scan, topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
	{
		if (topic->state == COUPON_TOPIC_REFUSED)
		{
			if (topic->handle != NULL)
				rd_kafka_topic_destroy(topic->handle);
			hash_search(topics, topic->name, HASH_REMOVE, NULL);
		}
	}
	last_topic = NULL;
	show_refused();
}

bool
coupon_sink_can_adopt(void)
{
	HASH_SEQ_STATUS scan;
	CouponTopic *topic;

	hash_seq_init(&scan, topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
	{
		if (topic->state == COUPON_TOPIC_REFUSED && topic->adoptable)
		{
			hash_seq_term(&scan);
			return true;
		}
	}
	return false;
}

bool
coupon_sink_adopt_topics(void)
{
	HASH_SEQ_STATUS scan;
	CouponTopic *topic;
	bool		any = false;

	hash_seq_init(&scan, topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
	{
		if (topic->state == COUPON_TOPIC_REFUSED && topic->adoptable)
		{
			topic->state = COUPON_TOPIC_READY;
			any = true;
		}
	}
	if (any)
		show_refused();
	return any;
}

static rd_kafka_topic_t *
topic_handle(CouponTopic *topic)
{
	if (topic->handle == NULL)
		topic->handle = rd_kafka_topic_new(client, topic->name, NULL);
	return topic->handle;
}

static void
accept_topic(CouponTopic *topic)
{
	topic->creating_since = 0;
	topic->check_at = PG_INT64_MAX;
	if (topic->state == COUPON_TOPIC_REFUSED)
		topic->adoptable = true;
	else
		topic->state = COUPON_TOPIC_READY;
}

static void
refuse_topic(CouponTopic *topic, const char *problem)
{
	bool		known = topic->state == COUPON_TOPIC_REFUSED && strcmp(topic->problem, problem) == 0;

	topic->creating_since = 0;
	topic->check_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), REFUSED_AGAIN_MS);
	topic->state = COUPON_TOPIC_REFUSED;
	topic->adoptable = false;
	if (known)
		return;
	strlcpy(topic->problem, problem, sizeof(topic->problem));
	show_refused();
	coupon_publisher_problem("topic \"%s\" is refused, its events stay in the outbox: %s",
							 topic->name, problem);
}

static void
create_topic(CouponTopic *topic)
{
	char		message[256];
	rd_kafka_NewTopic_t *wish = rd_kafka_NewTopic_new(topic->name,
													  wanted_partitions > 0 ? wanted_partitions : -1,
													  wanted_replication > 0 ? wanted_replication : -1,
													  message, sizeof(message));
	rd_kafka_AdminOptions_t *options;

	if (wish == NULL)
	{
		refuse_topic(topic, message);
		return;
	}
	options = rd_kafka_AdminOptions_new(client, RD_KAFKA_ADMIN_OP_CREATETOPICS);
	rd_kafka_AdminOptions_set_request_timeout(options, CREATE_TIMEOUT_MS, message, sizeof(message));
	rd_kafka_CreateTopics(client, &wish, 1, options, queue);
	rd_kafka_AdminOptions_destroy(options);
	rd_kafka_NewTopic_destroy(wish);
	topic->creating_since = GetCurrentTimestamp();
	ereport(LOG, (errmsg("coupon publisher: creating topic \"%s\"", topic->name)));
}

static void
topic_created(rd_kafka_event_t *event)
{
	const rd_kafka_CreateTopics_result_t *result = rd_kafka_event_CreateTopics_result(event);
	const rd_kafka_topic_result_t **results;
	size_t		n;

	results = rd_kafka_CreateTopics_result_topics(result, &n);
	for (size_t i = 0; i < n; i++)
	{
		rd_kafka_resp_err_t error = rd_kafka_topic_result_error(results[i]);
		CouponTopic *topic = coupon_sink_topic(rd_kafka_topic_result_name(results[i]));

		if (error != RD_KAFKA_RESP_ERR_NO_ERROR &&
			error != RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS)
		{
			const char *text = rd_kafka_topic_result_error_string(results[i]);
			char	   *problem = psprintf("it cannot be created: %s",
										   text ? text : rd_kafka_err2str(error));

			refuse_topic(topic, problem);
			pfree(problem);
		}
		else
			topic->check_at = 0;
	}
	if (n == 0)
		coupon_publisher_problem("topics cannot be created: %s", rd_kafka_event_error_string(event));
}

/* Compares what the broker says with the settings. */
static void
judge_topic(CouponTopic *topic, const rd_kafka_metadata_topic_t *seen)
{
	TimestampTz now = GetCurrentTimestamp();
	int			replication = INT_MAX;
	char	   *problem = NULL;

	switch (seen->err)
	{
		case RD_KAFKA_RESP_ERR_NO_ERROR:
			break;
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
			topic->check_at = TimestampTzPlusMilliseconds(now, CHECK_AGAIN_MS);
			if (!create_topics)
				refuse_topic(topic, "it does not exist and coupon.kafka_create_topics is off");
			else if (topic->creating_since == 0)
				create_topic(topic);
			else if (TimestampDifferenceExceeds(topic->creating_since, now, CREATE_TIMEOUT_MS))
				refuse_topic(topic, "it was created but does not appear");
			return;
		case RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE:
			topic->check_at = TimestampTzPlusMilliseconds(now, CHECK_AGAIN_MS);
			return;
		default:
			refuse_topic(topic, rd_kafka_err2str(seen->err));
			return;
	}

	for (int i = 0; i < seen->partition_cnt; i++)
		replication = Min(replication, seen->partitions[i].replica_cnt);
	if (wanted_partitions > 0 && seen->partition_cnt != wanted_partitions)
		problem = psprintf("it has %d partitions, coupon.kafka_partitions is %d",
						   seen->partition_cnt, wanted_partitions);
	else if (wanted_replication > 0 && replication != wanted_replication)
		problem = psprintf("its replication factor is %d, coupon.kafka_replication is %d",
						   replication, wanted_replication);
	if (problem == NULL)
		accept_topic(topic);
	else
	{
		refuse_topic(topic, problem);
		pfree(problem);
	}
}

/* The topic to ask about next: one that somebody waits for, if there is one. */
static CouponTopic *
topic_to_check(void)
{
	TimestampTz now = GetCurrentTimestamp();
	HASH_SEQ_STATUS scan;
	CouponTopic *topic;
	CouponTopic *found = NULL;

	hash_seq_init(&scan, topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
	{
		if (topic->check_at <= now &&
			(found == NULL || found->state != COUPON_TOPIC_UNKNOWN ||
			 (topic->state == COUPON_TOPIC_UNKNOWN && topic->check_at < found->check_at)))
			found = topic;
	}
	return found;
}

/* A thread: nothing of PostgreSQL in here. */
static void *
ask(void *arg)
{
	Question   *q = arg;

	q->error = rd_kafka_metadata(q->client, 0, q->handle, &q->metadata, CHECK_TIMEOUT_MS);
	pg_write_barrier();
	pg_atomic_write_u32(&q->answered, 1);
	if (write(pipe_fds[1], "1", 1) < 0)
	{
		/* it is full, so it will be read */
	}
	return NULL;
}

/* topic may be NULL */
static void
start_question(CouponTopic *topic)
{
	Question   *q = calloc(1, sizeof(Question));

	/* again later, whatever happens to this one */
	asked_at = GetCurrentTimestamp();
	if (topic != NULL)
		topic->check_at = TimestampTzPlusMilliseconds(asked_at, CHECK_AGAIN_MS);
	if (q == NULL)
		return;
	q->client = client;
	if (topic != NULL)
	{
		strlcpy(q->topic, topic->name, sizeof(q->topic));
		q->handle = rd_kafka_topic_new(client, topic->name, NULL);
	}
	pg_atomic_init_u32(&q->answered, 0);
	if (start_thread(&q->thread, ask, q))
		question = q;
	else
	{
		if (q->handle != NULL)
			rd_kafka_topic_destroy(q->handle);
		free(q);
	}
}

static void
take_answer(void)
{
	CouponTopic *topic = question->handle ? coupon_sink_topic(question->topic) : NULL;

	if (question->error == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		show_state(COUPON_BROKER_UP);
		if (topic != NULL && question->metadata->topic_cnt == 1)
			judge_topic(topic, &question->metadata->topics[0]);
	}
	else if (topic != NULL)
	{
		topic->check_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), CHECK_AGAIN_MS);
		if (!explained)
			coupon_publisher_problem("no answer about topic \"%s\": %s", topic->name,
									 rd_kafka_err2str(question->error));
	}
}

void
coupon_sink_check_topics(void)
{
	CouponTopic *topic;

	if (client == NULL)
		return;
	if (question == NULL)
	{
		topic = topic_to_check();
		if (topic != NULL ||
			(shown != COUPON_BROKER_UP &&
			 TimestampDifferenceExceeds(asked_at, GetCurrentTimestamp(), CHECK_AGAIN_MS)))
			start_question(topic);
	}
	else if (pg_atomic_read_u32(&question->answered) != 0)
	{
		pg_read_barrier();
		take_answer();
		free_question(question);
		question = NULL;
	}
}

/* ---- sending ---- */

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
	rd_kafka_headers_t *headers = rd_kafka_headers_new(8);
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
	return headers;
}

CouponSent
coupon_sink_send(CouponTopic *topic, const CouponEvent *event, uint32 tag, const char **reason)
{
	rd_kafka_headers_t *headers = make_headers(event);
	rd_kafka_resp_err_t error;

	error = rd_kafka_producev(client,
							  RD_KAFKA_V_RKT(topic_handle(topic)),
							  RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
							  RD_KAFKA_V_KEY(event->key, strlen(event->key)),
							  RD_KAFKA_V_VALUE((void *) event->payload, strlen(event->payload)),
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
		refuse_topic(topic, *reason);
		return COUPON_DENIED;
	}
	if (is_permanent(error))
		return COUPON_POISON;
	coupon_publisher_problem("topic \"%s\" does not take events: %s", topic->name, *reason);
	return COUPON_SINK_BROKEN;
}
