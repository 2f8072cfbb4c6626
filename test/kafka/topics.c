/*
 * topics.c
 *	  Creates, widens, deletes and counts the partitions of topics, as
 *	  kafka-topics does, without the seconds that a Java program takes to start.
 *
 *	topics [-X property=value]... brokers create NAME PARTITIONS [setting=value]...
 *	topics [-X property=value]... brokers widen NAME PARTITIONS
 *	topics [-X property=value]... brokers delete NAME
 *	topics [-X property=value]... brokers partitions NAME
 *
 * partitions prints their number, or "none" for a topic that does not exist.
 * The mock broker knows the last one only.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <librdkafka/rdkafka.h>

#define TIMEOUT_MS	30000

static char errstr[512];

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "topics: %s: %s\n", what, why);
	exit(1);
}

static void
usage(void)
{
	fprintf(stderr, "usage: topics [-X property=value]... brokers create NAME PARTITIONS [setting=value]...\n"
			"       topics [-X property=value]... brokers widen NAME PARTITIONS\n"
			"       topics [-X property=value]... brokers delete NAME\n"
			"       topics [-X property=value]... brokers partitions NAME\n");
	exit(2);
}

static int
parse_partitions(const char *word)
{
	char	   *end;
	long		value;

	errno = 0;
	value = strtol(word, &end, 10);
	if (errno || end == word || *end || value < 1 || value > 10000)
		die(word, "not a number of partitions");
	return (int) value;
}

/* Dies unless the one topic of the request has its result. */
static void
await_result(const char *name, rd_kafka_queue_t *queue,
			 const rd_kafka_topic_result_t **(*topics_of) (rd_kafka_event_t *event, size_t *count))
{
	rd_kafka_event_t *event = rd_kafka_queue_poll(queue, TIMEOUT_MS);
	const rd_kafka_topic_result_t **results;
	size_t		count;

	if (!event)
		die(name, "no answer in time");
	if (rd_kafka_event_error(event))
		die(name, rd_kafka_event_error_string(event));
	results = topics_of(event, &count);
	for (size_t i = 0; i < count; i++)
	{
		if (rd_kafka_topic_result_error(results[i]))
			die(name, rd_kafka_topic_result_error_string(results[i]) ?
				rd_kafka_topic_result_error_string(results[i]) :
				rd_kafka_err2str(rd_kafka_topic_result_error(results[i])));
	}
	rd_kafka_event_destroy(event);
}

static const rd_kafka_topic_result_t **
created(rd_kafka_event_t *event, size_t *count)
{
	return rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), count);
}

static const rd_kafka_topic_result_t **
widened(rd_kafka_event_t *event, size_t *count)
{
	return rd_kafka_CreatePartitions_result_topics(rd_kafka_event_CreatePartitions_result(event), count);
}

static const rd_kafka_topic_result_t **
deleted(rd_kafka_event_t *event, size_t *count)
{
	return rd_kafka_DeleteTopics_result_topics(rd_kafka_event_DeleteTopics_result(event), count);
}

static void
create_topic(rd_kafka_t *handle, rd_kafka_queue_t *queue, const char *name,
			 const char *partitions, char **settings)
{
	rd_kafka_NewTopic_t *topic =
		rd_kafka_NewTopic_new(name, parse_partitions(partitions), -1, errstr, sizeof(errstr));

	if (!topic)
		die(name, errstr);
	for (; *settings; settings++)
	{
		char	   *equals = strchr(*settings, '=');

		if (!equals)
			usage();
		*equals = '\0';
		rd_kafka_NewTopic_set_config(topic, *settings, equals + 1);
	}
	rd_kafka_CreateTopics(handle, &topic, 1, NULL, queue);
	await_result(name, queue, created);
	rd_kafka_NewTopic_destroy(topic);
}

static void
widen_topic(rd_kafka_t *handle, rd_kafka_queue_t *queue, const char *name, const char *partitions)
{
	rd_kafka_NewPartitions_t *topic =
		rd_kafka_NewPartitions_new(name, parse_partitions(partitions), errstr, sizeof(errstr));

	if (!topic)
		die(name, errstr);
	rd_kafka_CreatePartitions(handle, &topic, 1, NULL, queue);
	await_result(name, queue, widened);
	rd_kafka_NewPartitions_destroy(topic);
}

static void
delete_topic(rd_kafka_t *handle, rd_kafka_queue_t *queue, const char *name)
{
	rd_kafka_DeleteTopic_t *topic = rd_kafka_DeleteTopic_new(name);

	rd_kafka_DeleteTopics(handle, &topic, 1, NULL, queue);
	await_result(name, queue, deleted);
	rd_kafka_DeleteTopic_destroy(topic);
}

/* Asks for all topics, since the mock broker creates one that is asked for. */
static void
print_partitions(rd_kafka_t *handle, const char *name)
{
	const rd_kafka_metadata_t *metadata;
	rd_kafka_resp_err_t err;
	int			partitions = 0;

	err = rd_kafka_metadata(handle, 1, NULL, &metadata, TIMEOUT_MS);
	if (err)
		die(name, rd_kafka_err2str(err));
	for (int i = 0; i < metadata->topic_cnt; i++)
	{
		if (strcmp(metadata->topics[i].topic, name) == 0)
			partitions = metadata->topics[i].partition_cnt;
	}
	rd_kafka_metadata_destroy(metadata);

	if (partitions)
		printf("%d\n", partitions);
	else
		puts("none");
}

int
main(int argc, char **argv)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *handle;
	rd_kafka_queue_t *queue;
	const char *command;
	int			option;

	while ((option = getopt(argc, argv, "+X:")) == 'X')
	{
		char	   *equals = strchr(optarg, '=');

		if (!equals)
			usage();
		*equals = '\0';
		if (rd_kafka_conf_set(conf, optarg, equals + 1, errstr, sizeof(errstr)) != RD_KAFKA_CONF_OK)
			die(optarg, errstr);
	}
	argv += optind;
	argc -= optind;
	if (option != -1 || argc < 3)
		usage();

	if (rd_kafka_conf_set(conf, "bootstrap.servers", argv[0], errstr, sizeof(errstr)) != RD_KAFKA_CONF_OK)
		die(argv[0], errstr);
	handle = rd_kafka_new(RD_KAFKA_PRODUCER, conf, errstr, sizeof(errstr));
	if (!handle)
		die(argv[0], errstr);
	queue = rd_kafka_queue_new(handle);

	command = argv[1];
	if (strcmp(command, "create") == 0 && argc >= 4)
		create_topic(handle, queue, argv[2], argv[3], argv + 4);
	else if (strcmp(command, "widen") == 0 && argc == 4)
		widen_topic(handle, queue, argv[2], argv[3]);
	else if (strcmp(command, "delete") == 0 && argc == 3)
		delete_topic(handle, queue, argv[2]);
	else if (strcmp(command, "partitions") == 0 && argc == 3)
		print_partitions(handle, argv[2]);
	else
		usage();

	rd_kafka_queue_destroy(queue);
	rd_kafka_destroy(handle);
	return 0;
}
