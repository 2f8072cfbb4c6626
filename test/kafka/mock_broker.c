/*
 * mock_broker.c
 *	  A Kafka cluster in one process, to break in ways that a real one takes
 *	  its time for.
 *
 *	mock_broker [-b brokers] [-t name:partitions]...
 *
 * Speaks Kafka's protocol on the loopback address, by librdkafka's mock
 * cluster.  The first line of its output is the bootstrap servers.  Then each
 * line of its input is a command, answered by "ok" or by "error: why":
 *
 *	down ID | all               close the connections, accept no new ones
 *	up ID | all                 accept connections again
 *	rtt MS [ID | all]           delay every answer
 *	error API N CODE            fail the next N requests of a kind, such as
 *	                            "error Produce 3 MSG_SIZE_TOO_LARGE"; the code
 *	                            _TRANSPORT closes the connection instead
 *	clear API                   forget the failures that are left
 *	leader TOPIC PARTITION | all ID | none
 *	                            move a partition
 *	topic NAME PARTITIONS       create a topic
 *	quit
 *
 * It also ends at the end of its input, so it never outlives who started it.
 *
 * What it does not do as a real broker does, as of librdkafka 2.0.2:
 *
 * - It creates a topic that is asked for and missing, with 4 partitions (not
 *   from 2.8 on), whatever the client wishes; replication is not done.
 * - It keeps the newest 5 MB of each partition, as they came (compressed),
 *   and at most 100,000 batches.  What is older is dropped without a word,
 *   so a consumer of more than that has to read along.
 * - It checks no sequence numbers.  librdkafka's idempotent producer takes
 *   the success of a batch as proof that the one before it arrived, because a
 *   real broker would have refused the later one.  This one takes it.  So
 *   after a failed Produce request, or when a leader moves, events can be
 *   reported as delivered that are not here, and can be stored out of order.
 *   It is not the client's fault then.  Where a test judges loss or order:
 *   "error Produce" (_TRANSPORT too) only with
 *   max.in.flight.requests.per.connection=1, and a leader is moved while all
 *   brokers are down.  down, up and rtt need no such care.
 * - Without a leader for a partition it crashes, from librdkafka 2.8 on.
 * - A batch that is sent again after a lost answer is stored twice, before
 *   librdkafka 2.14.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#define DEFAULT_BROKERS		3
#define MAX_BROKERS			20
#define MAX_PARTITIONS		1000
#define MAX_TOPICS			2000
#define MAX_ERRORS			10000
#define MAX_WORDS			5
#define ALL_BROKERS			(-1)

static rd_kafka_mock_cluster_t *cluster;
static int	broker_count = DEFAULT_BROKERS;

/* The mock would create a topic that is named by mistake. */
static struct
{
	char	   *name;
	int			partitions;
}			topics[MAX_TOPICS];
static int	topic_count;

/* Requests that can be made to fail, by their number in the protocol. */
static const struct
{
	const char *name;
	int			key;
}			apis[] = {
	{"Produce", 0},
	{"Fetch", 1},
	{"ListOffsets", 2},
	{"Metadata", 3},
	{"OffsetCommit", 8},
	{"OffsetFetch", 9},
	{"FindCoordinator", 10},
	{"JoinGroup", 11},
	{"ApiVersion", 18},
	{"InitProducerId", 22},
	{"AddPartitionsToTxn", 24},
	{"EndTxn", 26},
};

static char complaint[300];

/* Sets the answer to a command that was not obeyed. */
#define fail(...)	(snprintf(complaint, sizeof(complaint), __VA_ARGS__), false)

static bool
parse_number(const char *word, long min, long max, int *number)
{
	char	   *end;
	long		value;

	errno = 0;
	value = strtol(word, &end, 10);
	if (errno || end == word || *end || value < min || value > max)
		return fail("\"%s\" is not a number between %ld and %ld", word, min, max);
	*number = (int) value;
	return true;
}

static bool
parse_broker(const char *word, int *broker)
{
	if (strcmp(word, "all") == 0)
	{
		*broker = ALL_BROKERS;
		return true;
	}
	return parse_number(word, 1, broker_count, broker);
}

static bool
parse_api(const char *word, int *key)
{
	for (size_t i = 0; i < sizeof(apis) / sizeof(apis[0]); i++)
	{
		if (strcasecmp(word, apis[i].name) == 0)
		{
			*key = apis[i].key;
			return true;
		}
	}
	return fail("no request is called \"%s\"; Produce and Metadata are two", word);
}

static bool
parse_error_code(const char *word, rd_kafka_resp_err_t *code)
{
	const struct rd_kafka_err_desc *descs;
	size_t		count;

	rd_kafka_get_err_descs(&descs, &count);
	for (size_t i = 0; i < count; i++)
	{
		if (descs[i].name && strcmp(descs[i].name, word) == 0 &&
			descs[i].code != RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			*code = descs[i].code;
			return true;
		}
	}
	return fail("no error code is called \"%s\"; MSG_SIZE_TOO_LARGE is one", word);
}

static bool
check_result(rd_kafka_resp_err_t err)
{
	return err == RD_KAFKA_RESP_ERR_NO_ERROR || fail("%s", rd_kafka_err2str(err));
}

static bool
create_topic(const char *name, const char *partitions)
{
	int			count;
	int			replicas = broker_count < 3 ? broker_count : 3;

	if (!parse_number(partitions, 1, MAX_PARTITIONS, &count))
		return false;
	if (topic_count == MAX_TOPICS)
		return fail("there are %d topics already", MAX_TOPICS);
	if (!check_result(rd_kafka_mock_topic_create(cluster, name, count, replicas)))
		return false;
	topics[topic_count].name = strdup(name);
	topics[topic_count++].partitions = count;
	return true;
}

static bool
set_leader(const char *topic, const char *partition_word, const char *broker_word)
{
	int			first = 0;
	int			last;
	int			broker;
	int			i = 0;

	while (i < topic_count && strcmp(topics[i].name, topic) != 0)
		i++;
	if (i == topic_count)
		return fail("topic \"%s\" was not created here", topic);
	last = topics[i].partitions - 1;
	if (strcmp(partition_word, "all") != 0)
	{
		if (!parse_number(partition_word, 0, last, &first))
			return false;
		last = first;
	}
	if (strcmp(broker_word, "none") == 0)
	{
		if (rd_kafka_version() >= 0x02080000)
			return fail("this librdkafka's mock cannot be without a leader");
		broker = -1;
	}
	else if (!parse_number(broker_word, 1, broker_count, &broker))
		return false;
	for (int partition = first; partition <= last; partition++)
	{
		if (!check_result(rd_kafka_mock_partition_set_leader(cluster, topic, partition, broker)))
			return false;
	}
	return true;
}

static bool
push_errors(const char *api, const char *count_word, const char *code_word)
{
	int			key;
	int			count;
	rd_kafka_resp_err_t code;
	rd_kafka_resp_err_t *codes;

	if (!parse_api(api, &key) ||
		!parse_number(count_word, 1, MAX_ERRORS, &count) ||
		!parse_error_code(code_word, &code))
		return false;

	codes = malloc(count * sizeof(*codes));
	if (!codes)
		return fail("out of memory");
	for (int i = 0; i < count; i++)
		codes[i] = code;
	rd_kafka_mock_push_request_errors_array(cluster, key, count, codes);
	free(codes);
	return true;
}

static bool
obey(char **words, int count)
{
	const char *command = words[0];
	int			broker = ALL_BROKERS;
	int			number;

	if (strcmp(command, "down") == 0 && count == 2)
		return parse_broker(words[1], &broker) &&
			check_result(rd_kafka_mock_broker_set_down(cluster, broker));
	if (strcmp(command, "up") == 0 && count == 2)
		return parse_broker(words[1], &broker) &&
			check_result(rd_kafka_mock_broker_set_up(cluster, broker));
	if (strcmp(command, "rtt") == 0 && (count == 2 || count == 3))
		return parse_number(words[1], 0, INT_MAX, &number) &&
			(count == 2 || parse_broker(words[2], &broker)) &&
			check_result(rd_kafka_mock_broker_set_rtt(cluster, broker, number));
	if (strcmp(command, "error") == 0 && count == 4)
		return push_errors(words[1], words[2], words[3]);
	if (strcmp(command, "clear") == 0 && count == 2)
	{
		if (!parse_api(words[1], &number))
			return false;
		rd_kafka_mock_clear_request_errors(cluster, number);
		return true;
	}
	if (strcmp(command, "leader") == 0 && count == 4)
		return set_leader(words[1], words[2], words[3]);
	if (strcmp(command, "topic") == 0 && count == 3)
		return create_topic(words[1], words[2]);

	return fail("\"%s\" with %d arguments is no command", command, count - 1);
}

static void
answer_commands(void)
{
	char	   *line = NULL;
	size_t		size = 0;

	while (getline(&line, &size, stdin) > 0)
	{
		char	   *words[MAX_WORDS];
		int			count = 0;

		for (char *word = strtok(line, " \t\r\n"); word && count < MAX_WORDS;
			 word = strtok(NULL, " \t\r\n"))
			words[count++] = word;

		if (count == 0)
			continue;
		if (strcmp(words[0], "quit") == 0)
		{
			puts("ok");
			break;
		}
		if (obey(words, count))
			puts("ok");
		else
			printf("error: %s\n", complaint);
	}
	free(line);
}

static void
usage(void)
{
	fprintf(stderr, "usage: mock_broker [-b brokers] [-t name:partitions]...\n");
	exit(2);
}

int
main(int argc, char **argv)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *handle;
	char		errstr[512];
	int			option;

	/* brokers first: a topic has as many replicas */
	while ((option = getopt(argc, argv, "b:t:")) != -1)
	{
		if (option == 'b' && !parse_number(optarg, 1, MAX_BROKERS, &broker_count))
		{
			fprintf(stderr, "mock_broker: %s\n", complaint);
			return 2;
		}
		if (option == '?')
			usage();
	}
	if (optind != argc)
		usage();

	/* a line must be seen when it is written, and a client may go away */
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);

	/* the handle is only the cluster's home; that it connects to nobody is
	 * no news */
	rd_kafka_conf_set(conf, "log_level", "4", NULL, 0);
	handle = rd_kafka_new(RD_KAFKA_PRODUCER, conf, errstr, sizeof(errstr));
	if (!handle)
	{
		fprintf(stderr, "mock_broker: %s\n", errstr);
		return 1;
	}
	cluster = rd_kafka_mock_cluster_new(handle, broker_count);
	if (!cluster)
	{
		fprintf(stderr, "mock_broker: cannot start %d brokers\n", broker_count);
		return 1;
	}

	optind = 1;
	while ((option = getopt(argc, argv, "b:t:")) != -1)
	{
		char	   *colon;

		if (option != 't')
			continue;
		colon = strrchr(optarg, ':');
		if (!colon || colon == optarg)
			usage();
		*colon = '\0';
		if (!create_topic(optarg, colon + 1))
		{
			fprintf(stderr, "mock_broker: topic \"%s\": %s\n", optarg, complaint);
			return 2;
		}
	}

	puts(rd_kafka_mock_cluster_bootstraps(cluster));
	answer_commands();

	rd_kafka_mock_cluster_destroy(cluster);
	rd_kafka_destroy(handle);
	return 0;
}
