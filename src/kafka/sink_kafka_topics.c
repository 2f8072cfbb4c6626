/*
 * sink_kafka_topics.c
 *	  Asks Kafka about topics, compares what it says with the settings, and
 *	  creates what is missing, if it may.
 *
 * A question waits for the network, so it runs in a thread, which knows
 * nothing but librdkafka.  There is one at a time; it is about all topics that
 * are due, so a thousand that are missing cost no more than a few.
 */
#include "postgres.h"

#include <unistd.h>

#include "port/atomics.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/guc.h"
#include "base/thread.h"
#include "kafka/publisher_status.h"
#include "kafka/sink_kafka_client.h"
#include "kafka/sink_kafka_topics.h"

#define QUESTION_TIMEOUT_MS	5000
#define QUESTION_TOPICS		1000	/* at most, in one question */
#define ASK_AGAIN_MS		200 /* about a topic that is about to be there */
#define PATIENCE_MS			15000	/* for that */
#define LEADER_PATIENCE_MS	5000	/* for a leader: an election takes a
									 * moment */

/* A question and its answer: a thread's until it is answered. */
typedef struct Question
{
	rd_kafka_t *client;
	int			ntopics;		/* 0: only whether anybody is there */
	rd_kafka_topic_t *topics[QUESTION_TOPICS];
	int			fd;
	pthread_t	thread;
	pg_atomic_uint32 answered;
	rd_kafka_resp_err_t error;
	const struct rd_kafka_metadata *metadata;
} Question;

static Question *question = NULL;	/* that is under way */
static int	questions = 0;		/* so far: the number of the last one */
static TimestampTz asked_at = 0;	/* the last one */

/* The settings as of the opening. */
static int	wanted_partitions = -1;
static int	wanted_replication = -1;
static bool create_topics = false;

/* Topics that one answer wants created. */
static rd_kafka_NewTopic_t *wishes[QUESTION_TOPICS];
static int	nwishes = 0;

bool
coupon_kafka_topics_are_outdated(void)
{
	return wanted_partitions != coupon_kafka_partitions ||
		wanted_replication != coupon_kafka_replication ||
		create_topics != coupon_kafka_create_topics;
}

void
coupon_kafka_topics_configure(void)
{
	wanted_partitions = coupon_kafka_partitions;
	wanted_replication = coupon_kafka_replication;
	create_topics = coupon_kafka_create_topics;
}

/* ---- handles ---- */

void
coupon_kafka_topic_drop_handle(CouponTopic *topic)
{
	if (topic->handle != NULL)
		rd_kafka_topic_destroy(topic->handle);
	topic->handle = NULL;
}

/* A topic without a handle can be forgotten. */
void
coupon_kafka_topic_refuse(CouponTopic *topic, const char *problem)
{
	coupon_kafka_topic_drop_handle(topic);
	coupon_topic_refuse(topic, problem);
}

/* ---- creating ---- */

static void
wish_for(CouponTopic *topic)
{
	char		message[256];
	rd_kafka_NewTopic_t *wish = rd_kafka_NewTopic_new(topic->name,
													  wanted_partitions > 0 ? wanted_partitions : -1,
													  wanted_replication > 0 ? wanted_replication : -1,
													  message, sizeof(message));

	if (wish == NULL)
	{
		coupon_kafka_topic_refuse(topic, message);
		return;
	}
	wishes[nwishes++] = wish;
	topic->creating = true;
	topic->since = coupon_steady_now();
}

static void
create_wishes(rd_kafka_t *client, rd_kafka_queue_t *queue)
{
	rd_kafka_AdminOptions_t *options;
	char		message[256];

	if (nwishes == 0)
		return;
	options = rd_kafka_AdminOptions_new(client, RD_KAFKA_ADMIN_OP_CREATETOPICS);
	rd_kafka_AdminOptions_set_request_timeout(options, PATIENCE_MS, message, sizeof(message));
	rd_kafka_CreateTopics(client, wishes, nwishes, options, queue);
	rd_kafka_AdminOptions_destroy(options);
	rd_kafka_NewTopic_destroy_array(wishes, nwishes);
	nwishes = 0;
}

void
coupon_kafka_topics_created(rd_kafka_event_t *event)
{
	const rd_kafka_topic_result_t **results;
	size_t		n;

	results = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &n);
	for (size_t i = 0; i < n; i++)
	{
		rd_kafka_resp_err_t error = rd_kafka_topic_result_error(results[i]);
		CouponTopic *topic = coupon_topic_find(rd_kafka_topic_result_name(results[i]));

		if (topic == NULL)
			continue;
		/* what cannot be created is wished for again and again */
		if (error == RD_KAFKA_RESP_ERR_NO_ERROR)
			ereport(LOG, (errmsg("coupon publisher: topic \"%s\" is created", topic->name)));
		if (error == RD_KAFKA_RESP_ERR_NO_ERROR || error == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS)
			coupon_topic_ask_again(topic, 0);
		else
		{
			const char *text = rd_kafka_topic_result_error_string(results[i]);
			char	   *problem = psprintf("it cannot be created: %s",
										   text ? text : rd_kafka_err2str(error));

			coupon_kafka_topic_refuse(topic, problem);
			pfree(problem);
		}
	}
	if (n == 0)
		coupon_publisher_problem("topics cannot be created: %s", rd_kafka_event_error_string(event));
}

/* ---- answers ---- */

/*
 * What is sent to a partition without a leader waits for it, and all that
 * comes later with it.
 */
static void
judge_leaderless(CouponTopic *topic)
{
	if (topic->state == COUPON_TOPIC_REFUSED ||
		TimestampDifferenceExceeds(topic->since, coupon_steady_now(), LEADER_PATIENCE_MS))
		coupon_kafka_topic_refuse(topic, "it has no leader");
	else
		coupon_topic_ask_again(topic, ASK_AGAIN_MS);
}

/* There is no such topic, or not yet. */
static void
judge_missing(CouponTopic *topic)
{
	bool		impatient = TimestampDifferenceExceeds(topic->since, coupon_steady_now(), PATIENCE_MS);

	coupon_topic_ask_again(topic, ASK_AGAIN_MS);
	if (!create_topics)
		coupon_kafka_topic_refuse(topic, "it does not exist and coupon.kafka_create_topics is off");
	else if (!topic->creating)
		wish_for(topic);
	else if (impatient)
		coupon_kafka_topic_refuse(topic, "it was created but does not appear");
}

/* Compares what the broker says with the settings. */
static void
judge_topic(CouponTopic *topic, const rd_kafka_metadata_topic_t *seen)
{
	int			replication = INT_MAX;
	bool		leaderless = false;
	char		problem[sizeof(topic->problem)];

	switch (seen->err)
	{
		case RD_KAFKA_RESP_ERR_NO_ERROR:
			break;
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
			judge_missing(topic);
			return;
		case RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE:
			judge_leaderless(topic);
			return;
		default:
			coupon_kafka_topic_refuse(topic, rd_kafka_err2str(seen->err));
			return;
	}

	for (int i = 0; i < seen->partition_cnt; i++)
	{
		replication = Min(replication, seen->partitions[i].replica_cnt);
		leaderless |= seen->partitions[i].leader < 0;
	}
	if (wanted_partitions > 0 && seen->partition_cnt != wanted_partitions)
	{
		snprintf(problem, sizeof(problem), "it has %d partitions, coupon.kafka_partitions is %d",
				 seen->partition_cnt, wanted_partitions);
		coupon_kafka_topic_refuse(topic, problem);
	}
	else if (wanted_replication > 0 && replication != wanted_replication)
	{
		snprintf(problem, sizeof(problem), "its replication factor is %d, coupon.kafka_replication is %d",
				 replication, wanted_replication);
		coupon_kafka_topic_refuse(topic, problem);
	}
	else if (leaderless)
		judge_leaderless(topic);
	else
		coupon_topic_accept(topic);
}

/* Waits for the answer.  A thread may call it: nothing of PostgreSQL in here. */
static void
free_question(void *arg)
{
	Question   *q = arg;

	pthread_join(q->thread, NULL);
	if (q->metadata != NULL)
		rd_kafka_metadata_destroy(q->metadata);
	for (int i = 0; i < q->ntopics; i++)
		rd_kafka_topic_destroy(q->topics[i]);
	free(q);
}

/* Its client, unless it is the sink's, has to be destroyed, which takes its time. */
static void
put_question_away(rd_kafka_t *client)
{
	if (question->client == client)
		free_question(question);
	else
		coupon_kafka_discard(question->client, free_question, question);
	question = NULL;
}

void
coupon_kafka_topics_abandon(rd_kafka_t *client)
{
	if (question != NULL && question->client == client)
	{
		coupon_kafka_discard(client, free_question, question);
		question = NULL;
		return;
	}
	if (question != NULL)
		put_question_away(client);
	coupon_kafka_discard(client, NULL, NULL);
}

bool
coupon_kafka_topics_answered(rd_kafka_t *client, rd_kafka_queue_t *queue, rd_kafka_resp_err_t *error, bool *lost)
{
	if (question == NULL || pg_atomic_read_u32(&question->answered) == 0)
		return false;
	pg_read_barrier();
	*error = question->error;
	for (int i = 0; *error == RD_KAFKA_RESP_ERR_NO_ERROR && i < question->metadata->topic_cnt; i++)
	{
		const rd_kafka_metadata_topic_t *seen = &question->metadata->topics[i];
		CouponTopic *topic = coupon_topic_find(seen->topic);
		bool		was_ready = topic != NULL && topic->state == COUPON_TOPIC_READY;

		/* the sink's client tells of all that it has heard of */
		if (topic != NULL && topic->question == questions)
			judge_topic(topic, seen);
		*lost |= was_ready && topic->state == COUPON_TOPIC_REFUSED;
	}
	create_wishes(client, queue);
	put_question_away(client);
	return true;
}

/* ---- asking ---- */

/* A thread: nothing of PostgreSQL in here. */
static void *
ask(void *arg)
{
	Question   *q = arg;

	/*
	 * without a name, the question is about all that the client has a handle
	 * of
	 */
	q->error = rd_kafka_metadata(q->client, 0, q->ntopics == 1 ? q->topics[0] : NULL,
								 &q->metadata, QUESTION_TIMEOUT_MS);
	pg_write_barrier();
	pg_atomic_write_u32(&q->answered, 1);
	if (write(q->fd, "1", 1) < 0)
	{
		/* it is full, so it will be read */
	}
	return NULL;
}

void
coupon_kafka_topics_ask(rd_kafka_t *client, bool is_anybody_there, int fd)
{
	CouponTopic *due[QUESTION_TOPICS];
	Question   *q;
	int			n;

	if (question != NULL)
		return;
	n = coupon_topics_due(due, QUESTION_TOPICS, questions + 1);
	if (n == 0 && !(is_anybody_there &&
					TimestampDifferenceExceeds(asked_at, coupon_steady_now(), ASK_AGAIN_MS)))
		return;
	asked_at = coupon_steady_now();
	questions++;

	/* without memory or a thread: again later, like topics without an answer */
	q = calloc(1, sizeof(Question));
	if (q == NULL)
		return;
	q->client = n > 1 ? coupon_kafka_make_asker(client) : client;
	q->fd = fd;
	pg_atomic_init_u32(&q->answered, 0);
	for (int i = 0; i < n && q->client != NULL; i++)
	{
		rd_kafka_topic_t *topic = rd_kafka_topic_new(q->client, due[i]->name, NULL);

		if (topic != NULL)
			q->topics[q->ntopics++] = topic;
	}
	if (q->client != NULL && coupon_thread_start(&q->thread, ask, q))
	{
		question = q;
		return;
	}
	for (int i = 0; i < q->ntopics; i++)
		rd_kafka_topic_destroy(q->topics[i]);
	if (q->client != NULL && q->client != client)
		coupon_kafka_discard(q->client, NULL, NULL);
	free(q);
}
