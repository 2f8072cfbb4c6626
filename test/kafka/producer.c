/*
 * producer.c
 *	  What a bare librdkafka producer does with messages like ours: the
 *	  yardstick for the publisher worker.
 *
 *	producer -b brokers [-t topic] [-n messages] [-k keys] [-s bytes | -f file]
 *			 [-r rate] [-e events] [-X property=value]...
 *
 *	-t topic    coupon-issued
 *	-n messages 100,000, or as many as the file has lines
 *	-k keys     so many user ids take turns, 1,000
 *	-s bytes    size of the JSON payload, 250; its fields need about 200
 *	-f file     lines of key, tab, payload instead
 *	-r rate     so many messages a second instead of as many as possible
 *	-e events   write "id, topic, key, sequence" of each delivered message
 *	            there, tab between, as the tests' checker wants them
 *	-X ...      a property of librdkafka, over those below
 *
 * Key, headers, partitioner and properties are those of the worker.  Waits
 * for every delivery report.  Prints one line:
 *
 *	messages 100000 seconds 0.812 messages/s 123152
 *
 * and exits with 1 if any message was not delivered.
 */
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <librdkafka/rdkafka.h>

#define UUID_LENGTH		36
#define KEY_SIZE		20
#define MAX_FIELDS		300

/* The worker's, so that the two can be compared. */
static const char *const properties[][2] = {
	{"acks", "all"},
	{"enable.idempotence", "true"},
	{"compression.codec", "lz4"},
	{"linger.ms", "5"},
	{"message.timeout.ms", "0"},
	{"partitioner", "murmur2_random"},
	{"queue.buffering.max.kbytes", "65536"},
	{"queue.buffering.max.messages", "100000"},
	{"socket.nagle.disable", "true"},
	{"allow.auto.create.topics", "false"},
};

typedef struct Message
{
	const char *key;
	size_t		key_length;
	const char *payload;
	size_t		payload_length;
	bool		delivered;
	char		id[UUID_LENGTH + 1];
}			Message;

static Message *messages;
static int	message_count = 100000;
static int	key_count = 1000;
static int	payload_size = 250;
static const char *topic = "coupon-issued";
static int64_t start_ms;
static char event_time[40];

static int	reported;
static int	failed;

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "producer: %s%s%s\n", what, why ? ": " : "", why ? why : "");
	exit(1);
}

static void *
allocate(size_t count, size_t size)
{
	void	   *memory = calloc(count, size);

	if (!memory)
		die("out of memory", NULL);
	return memory;
}

static double
seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static int
parse_count(const char *word)
{
	char	   *end;
	long		value;

	errno = 0;
	value = strtol(word, &end, 10);
	if (errno || end == word || *end || value < 1 || value > INT_MAX)
		die("not a number above 0", word);
	return value;
}

static uint64_t random_state;

/* xorshift64*: as good as these ids need, and of no weight in the figure */
static uint64_t
random_bits(void)
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return random_state * UINT64_C(2685821657736338717);
}

/* Takes the time of the run, in two forms, and the seed of its ids. */
static void
begin_run(void)
{
	struct timespec now;
	struct tm	utc;
	size_t		length;

	clock_gettime(CLOCK_REALTIME, &now);
	start_ms = now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
	gmtime_r(&now.tv_sec, &utc);
	length = strftime(event_time, sizeof(event_time), "%Y-%m-%dT%H:%M:%S", &utc);
	snprintf(event_time + length, sizeof(event_time) - length, ".%03dZ", (int) (now.tv_nsec / 1000000));

	random_state = (now.tv_nsec ^ ((uint64_t) getpid() << 32) ^ now.tv_sec) | 1;
	for (int i = 0; i < 10; i++)
		random_bits();
}

/* A UUID of version 7, as the outbox has; unique by the sequence in it. */
static void
make_id(int sequence, char *id)
{
	static const char digits[] = "0123456789abcdef";
	uint64_t	halves[2];
	char	   *to = id;

	halves[0] = (uint64_t) start_ms << 16 | 0x7000 | (random_bits() >> 52);
	halves[1] = UINT64_C(2) << 62 | (random_bits() >> 34) << 32 | (uint32_t) sequence;
	for (int i = 0; i < 32; i++)
	{
		if (i == 8 || i == 12 || i == 16 || i == 20)
			*to++ = '-';
		*to++ = digits[halves[i / 16] >> (60 - i % 16 * 4) & 15];
	}
	*to = '\0';
}

/* What coupon_issue says, with a code that brings it to its size. */
static void
make_messages(void)
{
	char	  **keys = allocate(key_count, sizeof(*keys));

	messages = allocate(message_count, sizeof(Message));
	for (int i = 0; i < key_count; i++)
	{
		keys[i] = allocate(1, KEY_SIZE);
		snprintf(keys[i], KEY_SIZE, "user-%d", i);
	}

	for (int i = 0; i < message_count; i++)
	{
		Message    *message = &messages[i];
		char	   *payload = allocate(payload_size + MAX_FIELDS, 1);
		char		rest[MAX_FIELDS];
		int			length;
		int			rest_length;

		message->key = keys[i % key_count];
		message->key_length = strlen(message->key);
		length = sprintf(payload, "{\"campaign_id\":%d,\"user_id\":\"%s\",\"serial\":%d,\"code\":\"",
						 i % 4 + 1, message->key, i + 1);
		rest_length = snprintf(rest, sizeof(rest), "\",\"policy\":{\"kind\": \"RATE\", \"rate\": 10, \"usage_period_days\": 30},"
							   "\"issued_at\":\"%s\",\"expires_at\":\"%s\"}",
							   event_time, event_time);
		while (length + rest_length < payload_size)
			payload[length++] = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"[random_bits() >> 59];
		memcpy(payload + length, rest, rest_length);
		message->payload = payload;
		message->payload_length = length + rest_length;
	}
}

static void
read_messages(const char *path, bool all)
{
	FILE	   *file = fopen(path, "r");
	char	   *line = NULL;
	size_t		size = 0;
	ssize_t		length;
	int			room = 0;
	int			count = 0;

	if (!file)
		die(path, strerror(errno));
	while ((all || count < message_count) && (length = getline(&line, &size, file)) > 0)
	{
		char	   *tab = memchr(line, '\t', length);

		if (line[length - 1] == '\n')
			length--;
		if (!tab)
			die(path, "a line has no tab between key and payload");
		if (count == room)
		{
			room = room ? room * 2 : 1024;
			messages = realloc(messages, room * sizeof(Message));
			if (!messages)
				die("out of memory", NULL);
		}
		messages[count++] = (Message) {
			.key = line,
			.key_length = tab - line,
			.payload = tab + 1,
			.payload_length = line + length - tab - 1,
		};
		/* the line is the message's now */
		line = NULL;
		size = 0;
	}
	free(line);
	fclose(file);
	if (count == 0)
		die(path, "no lines");
	message_count = count;
}

static void
on_delivery(rd_kafka_t *handle, const rd_kafka_message_t *report, void *opaque)
{
	Message    *message = report->_private;

	(void) handle;
	(void) opaque;
	reported++;
	message->delivered = report->err == RD_KAFKA_RESP_ERR_NO_ERROR;
	if (!message->delivered && failed++ < 5)
		fprintf(stderr, "producer: message %d: %s\n", (int) (message - messages),
				rd_kafka_err2str(report->err));
}

/* An error that ends the producer; all others librdkafka tries to overcome. */
static void
on_error(rd_kafka_t *handle, int err, const char *reason, void *opaque)
{
	(void) handle;
	(void) opaque;
	if (err == RD_KAFKA_RESP_ERR__FATAL)
		die("fatal", reason);
}

static void
send_message(rd_kafka_t *handle, int i)
{
	Message    *message = &messages[i];
	rd_kafka_headers_t *headers = rd_kafka_headers_new(7);
	char	   *id = message->id;
	rd_kafka_resp_err_t err;

	make_id(i, id);
	rd_kafka_header_add(headers, "id", -1, id, UUID_LENGTH);
	rd_kafka_header_add(headers, "content-type", -1, "application/json", -1);
	rd_kafka_header_add(headers, "ce_specversion", -1, "1.0", -1);
	rd_kafka_header_add(headers, "ce_id", -1, id, UUID_LENGTH);
	rd_kafka_header_add(headers, "ce_type", -1, "coupon.issued", -1);
	rd_kafka_header_add(headers, "ce_source", -1, "/coupon/postgres", -1);
	rd_kafka_header_add(headers, "ce_time", -1, event_time, -1);

	for (;;)
	{
		err = rd_kafka_producev(handle,
								RD_KAFKA_V_TOPIC(topic),
								RD_KAFKA_V_KEY(message->key, message->key_length),
								RD_KAFKA_V_VALUE((void *) message->payload, message->payload_length),
								RD_KAFKA_V_HEADERS(headers),
								RD_KAFKA_V_OPAQUE(message),
								RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
								RD_KAFKA_V_END);
		if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
			return;
		if (err != RD_KAFKA_RESP_ERR__QUEUE_FULL)
			break;
		rd_kafka_poll(handle, 10);
	}

	/* refused at once: no report will come */
	rd_kafka_headers_destroy(headers);
	reported++;
	if (failed++ < 5)
		fprintf(stderr, "producer: message %d: %s\n", i, rd_kafka_err2str(err));
}

/* Serves delivery reports meanwhile. */
static void
wait_until(rd_kafka_t *handle, double when)
{
	double		left;

	while ((left = when - seconds_now()) > 0)
		rd_kafka_poll(handle, (int) (left * 1000) + 1);
}

static void
write_events(const char *path)
{
	FILE	   *file = fopen(path, "w");

	if (!file)
		die(path, strerror(errno));
	for (int i = 0; i < message_count; i++)
	{
		if (!messages[i].delivered)
			continue;
		fprintf(file, "%s\t%s\t%.*s\t%d\n", messages[i].id, topic,
				(int) messages[i].key_length, messages[i].key, i);
	}
	if (fclose(file) != 0)
		die(path, strerror(errno));
}

static void
set_property(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char		errstr[512];

	if (rd_kafka_conf_set(conf, name, value, errstr, sizeof(errstr)) != RD_KAFKA_CONF_OK)
		die(name, errstr);
}

static void
usage(void)
{
	fprintf(stderr, "usage: producer -b brokers [-t topic] [-n messages] [-k keys] "
			"[-s bytes | -f file] [-r rate] [-e events] [-X property=value]...\n");
	exit(2);
}

int
main(int argc, char **argv)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *handle;
	const char *brokers = NULL;
	const char *file = NULL;
	const char *events = NULL;
	bool		count_given = false;
	int			rate = 0;
	char		errstr[512];
	double		start;
	double		seconds;
	int			option;

	for (size_t i = 0; i < sizeof(properties) / sizeof(properties[0]); i++)
		set_property(conf, properties[i][0], properties[i][1]);

	while ((option = getopt(argc, argv, "b:t:n:k:s:f:r:e:X:")) != -1)
	{
		char	   *equals;

		switch (option)
		{
			case 'b':
				brokers = optarg;
				break;
			case 't':
				topic = optarg;
				break;
			case 'n':
				message_count = parse_count(optarg);
				count_given = true;
				break;
			case 'k':
				key_count = parse_count(optarg);
				break;
			case 's':
				payload_size = parse_count(optarg);
				break;
			case 'f':
				file = optarg;
				break;
			case 'r':
				rate = parse_count(optarg);
				break;
			case 'e':
				events = optarg;
				break;
			case 'X':
				equals = strchr(optarg, '=');
				if (!equals)
					usage();
				*equals = '\0';
				set_property(conf, optarg, equals + 1);
				break;
			default:
				usage();
		}
	}
	if (!brokers || optind != argc)
		usage();

	begin_run();
	if (file)
		read_messages(file, !count_given);
	else
		make_messages();

	set_property(conf, "bootstrap.servers", brokers);
	rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
	rd_kafka_conf_set_error_cb(conf, on_error);
	handle = rd_kafka_new(RD_KAFKA_PRODUCER, conf, errstr, sizeof(errstr));
	if (!handle)
		die("cannot make a producer", errstr);

	start = seconds_now();
	for (int i = 0; i < message_count; i++)
	{
		if (rate)
			wait_until(handle, start + (double) i / rate);
		send_message(handle, i);
		rd_kafka_poll(handle, 0);
	}
	while (reported < message_count)
		rd_kafka_poll(handle, 100);
	seconds = seconds_now() - start;

	if (events)
		write_events(events);
	printf("messages %d seconds %.3f messages/s %.0f\n",
		   message_count - failed, seconds, (message_count - failed) / seconds);
	rd_kafka_destroy(handle);
	return failed ? 1 : 0;
}
