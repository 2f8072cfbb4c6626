/*
 * consumer.c
 *	  The last part of the Redis + Kafka pile: reads what the API told Kafka and
 *	  writes it into PostgreSQL, a batch a transaction.
 *
 *	consumer -b brokers -k topic [-n batch] [-g group] [-X property=value]...
 *
 * While PostgreSQL works on a batch the next one is gathered.  Offsets are
 * committed after the rows, so that nothing is lost when it dies; what is read
 * again meets the unique indexes.  The rows are those of peers/common.sql, in
 * schema peer_pile; the event is the Kafka message itself.
 *
 * Says "ready" when it has its partitions, then ten times a second what it has
 * done so far, until SIGTERM:
 *
 *	messages 1000 rows 1000 batches 3 lag_ms 12 last 1700000000.123
 *
 * lag_ms is the age of the oldest message of the last batch when it was
 * committed, last the time of that; and at the end the ages of all messages:
 *
 *	age_ms p50 7 p99 22 max 31
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <libpq-fe.h>
#include <librdkafka/rdkafka.h>

#define MAX_BATCH		10000
#define MAX_AGE_MS		600000
#define GATHER_MS		5
#define INT8OID			20
#define TEXTOID			25

/* Unique violations are what was read twice: not an error. */
#define INSERT \
	"INSERT INTO peer_pile.issuance (campaign_id, serial, issued_at, user_id, state, policy) " \
	"SELECT c.campaign_id, m.serial, to_timestamp(m.issued_at / 1e6), m.user_id, 'issued', c.policy " \
	"FROM unnest($1::bigint[], $2::bigint[], $3::text[]) m (serial, issued_at, user_id), peer_pile.campaign c " \
	"WHERE c.campaign_id = 1 ON CONFLICT DO NOTHING"

typedef struct Batch
{
	rd_kafka_message_t *messages[MAX_BATCH];
	ssize_t		n;
} Batch;

/* A one-dimensional array in the binary format. */
typedef struct Array
{
	char	   *data;
	size_t		length;
	size_t		size;
} Array;

static volatile sig_atomic_t stop;
static volatile sig_atomic_t assigned;
static int64_t age_counts[MAX_AGE_MS + 1];
static int64_t total_messages;
static int64_t total_rows;
static int64_t total_batches;
static int64_t lag_ms;
static int64_t last_us;

static void __attribute__((noreturn, format(printf, 1, 2)))
die(const char *format,...)
{
	va_list		args;

	va_start(args, format);
	fputs("consumer: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

static int64_t
now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t) t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void
handle_stop(int signal)
{
	(void) signal;
	stop = 1;
}

/* ---- arrays ---- */

static void
array_add(Array *array, const void *data, size_t length)
{
	if (array->length + length > array->size)
	{
		array->size = (array->length + length) * 2;
		array->data = realloc(array->data, array->size);
		if (!array->data)
			die("no memory");
	}
	memcpy(array->data + array->length, data, length);
	array->length += length;
}

static void
array_add_int32(Array *array, int32_t value)
{
	uint32_t	big = htonl((uint32_t) value);

	array_add(array, &big, sizeof(big));
}

static void
array_begin(Array *array, int type, int n)
{
	array->length = 0;
	array_add_int32(array, 1);	/* dimensions */
	array_add_int32(array, 0);	/* no nulls */
	array_add_int32(array, type);
	array_add_int32(array, n);
	array_add_int32(array, 1);	/* lower bound */
}

static void
array_add_int64(Array *array, int64_t value)
{
	uint64_t	big = htobe64((uint64_t) value);

	array_add_int32(array, sizeof(big));
	array_add(array, &big, sizeof(big));
}

/* ---- Kafka ---- */

static void
rebalanced(rd_kafka_t *kafka, rd_kafka_resp_err_t err,
		   rd_kafka_topic_partition_list_t *partitions, void *opaque)
{
	(void) opaque;
	if (err == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS)
	{
		rd_kafka_assign(kafka, partitions);
		assigned = partitions->cnt;
	}
	else
		rd_kafka_assign(kafka, NULL);
}

static void
set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char		why[512];

	if (rd_kafka_conf_set(conf, name, value, why, sizeof(why)))
		die("%s", why);
}

static void
gather(rd_kafka_queue_t *queue, Batch *batch, int size)
{
	batch->n = rd_kafka_consume_batch_queue(queue, GATHER_MS, batch->messages, size);
	if (batch->n < 0)
		die("Kafka: %s", rd_kafka_err2str(rd_kafka_last_error()));
	for (ssize_t i = 0; i < batch->n;)
	{
		rd_kafka_message_t *message = batch->messages[i];

		if (!message->err)
		{
			i++;
			continue;
		}
		if (message->err != RD_KAFKA_RESP_ERR__PARTITION_EOF)
			die("Kafka: %s", rd_kafka_message_errstr(message));
		rd_kafka_message_destroy(message);
		memmove(&batch->messages[i], &batch->messages[i + 1], (--batch->n - i) * sizeof(*batch->messages));
	}
}

/* The rows are durable. */
static void
acknowledge(rd_kafka_t *kafka, Batch *batch)
{
	rd_kafka_topic_partition_list_t *offsets = rd_kafka_topic_partition_list_new(16);
	int64_t		now_ms;

	last_us = now_us();
	now_ms = last_us / 1000;
	lag_ms = 0;
	for (ssize_t i = 0; i < batch->n; i++)
	{
		rd_kafka_message_t *message = batch->messages[i];
		const char *topic = rd_kafka_topic_name(message->rkt);
		rd_kafka_topic_partition_t *offset;
		int64_t		age = now_ms - rd_kafka_message_timestamp(message, NULL);

		age = age < 0 ? 0 : age > MAX_AGE_MS ? MAX_AGE_MS : age;
		age_counts[age]++;
		if (age > lag_ms)
			lag_ms = age;
		offset = rd_kafka_topic_partition_list_find(offsets, topic, message->partition);
		if (!offset)
			offset = rd_kafka_topic_partition_list_add(offsets, topic, message->partition);
		if (offset->offset <= message->offset)
			offset->offset = message->offset + 1;
		rd_kafka_message_destroy(message);
	}
	/* the background thread commits them once a second */
	rd_kafka_offsets_store(kafka, offsets);
	rd_kafka_topic_partition_list_destroy(offsets);
	batch->n = 0;
}

/* ---- PostgreSQL ---- */

static PGconn *
open_postgres(void)
{
	PGconn	   *connection = PQconnectdb("");
	PGresult   *result;

	if (PQstatus(connection) != CONNECTION_OK)
		die("%s", PQerrorMessage(connection));
	result = PQprepare(connection, "insert", INSERT, 0, NULL);
	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		die("%s", PQerrorMessage(connection));
	PQclear(result);
	return connection;
}

static int64_t
field(const rd_kafka_message_t *message, const char *name)
{
	const char *at = memmem(message->payload, message->len, name, strlen(name));

	if (!at)
		die("no %s in %.*s", name, (int) message->len, (const char *) message->payload);
	/* the payload ends with a brace, which ends the number too */
	return strtoll(at + strlen(name), NULL, 10);
}

static void
send_batch(PGconn *connection, const Batch *batch)
{
	static Array serials, times, users;
	const char *values[3];
	int			lengths[3];
	const int	formats[3] = {1, 1, 1};

	array_begin(&serials, INT8OID, (int) batch->n);
	array_begin(&times, INT8OID, (int) batch->n);
	array_begin(&users, TEXTOID, (int) batch->n);
	for (ssize_t i = 0; i < batch->n; i++)
	{
		const rd_kafka_message_t *message = batch->messages[i];

		array_add_int64(&serials, field(message, "\"serial\": "));
		array_add_int64(&times, field(message, "\"issued_at\": "));
		array_add_int32(&users, (int32_t) message->key_len);
		array_add(&users, message->key, message->key_len);
	}
	values[0] = serials.data, lengths[0] = (int) serials.length;
	values[1] = times.data, lengths[1] = (int) times.length;
	values[2] = users.data, lengths[2] = (int) users.length;
	if (!PQsendQueryPrepared(connection, "insert", 3, values, lengths, formats, 0) || PQflush(connection) < 0)
		die("%s", PQerrorMessage(connection));
	total_batches++;
	total_messages += batch->n;
}

static void
end_batch(PGconn *connection)
{
	PGresult   *result;

	while ((result = PQgetResult(connection)) != NULL)
	{
		if (PQresultStatus(result) != PGRES_COMMAND_OK)
			die("%s", PQerrorMessage(connection));
		total_rows += strtoll(PQcmdTuples(result), NULL, 10);
		PQclear(result);
	}
}

/* ---- */

static void
report(bool force)
{
	static int64_t reported;
	int64_t		now = now_us();

	if (!force && now - reported < 100000)
		return;
	reported = now;
	printf("messages %" PRId64 " rows %" PRId64 " batches %" PRId64 " lag_ms %" PRId64 " last %.3f\n",
		   total_messages, total_rows, total_batches, lag_ms, last_us / 1e6);
	fflush(stdout);
}

static int
age_percentile(double share)
{
	int64_t		n = 0;
	int64_t		wanted = (int64_t) (total_messages * share);

	for (int age = 0; age <= MAX_AGE_MS; age++)
		if ((n += age_counts[age]) > 0 && n >= wanted)
			return age;
	return 0;
}

static void
work(rd_kafka_t *kafka, PGconn *connection, int size)
{
	static Batch batches[2];
	Batch	   *written = &batches[0];	/* PostgreSQL works on it */
	Batch	   *gathered = &batches[1];
	rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(kafka);
	bool		ready = false;

	while (!stop)
	{
		Batch	   *free_batch = written;

		gather(queue, gathered, size);
		if (!ready && assigned)
		{
			ready = true;
			puts("ready");
		}
		if (written->n > 0)
		{
			end_batch(connection);
			acknowledge(kafka, written);
		}
		if (gathered->n > 0)
			send_batch(connection, gathered);
		written = gathered;
		gathered = free_batch;
		report(false);
	}
	if (written->n > 0)
	{
		end_batch(connection);
		acknowledge(kafka, written);
	}
	rd_kafka_queue_destroy(queue);
	report(true);
}

int
main(int argc, char **argv)
{
	const char *brokers = NULL;
	const char *topic = NULL;
	const char *group = "coupon-issuer";
	char	   *value;
	int			size = 2000;
	int			option;
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *kafka;
	rd_kafka_topic_partition_list_t *topics;
	PGconn	   *connection;
	char		why[512];

	set(conf, "enable.auto.commit", "true");
	set(conf, "auto.commit.interval.ms", "1000");
	set(conf, "enable.auto.offset.store", "false");
	set(conf, "auto.offset.reset", "earliest");
	set(conf, "fetch.wait.max.ms", "10");
	set(conf, "queued.min.messages", "20000");
	while ((option = getopt(argc, argv, "b:k:n:g:X:")) != -1)
	{
		switch (option)
		{
			case 'b': brokers = optarg; break;
			case 'k': topic = optarg; break;
			case 'n': size = atoi(optarg); break;
			case 'g': group = optarg; break;
			case 'X':
				if (!(value = strchr(optarg, '=')))
					die("-X property=value");
				*value++ = '\0';
				set(conf, optarg, value);
				break;
			default:
				die("see the head of consumer.c");
		}
	}
	if (optind != argc || !brokers || !topic || size < 1 || size > MAX_BATCH)
		die("see the head of consumer.c");
	set(conf, "bootstrap.servers", brokers);
	set(conf, "group.id", group);
	rd_kafka_conf_set_rebalance_cb(conf, rebalanced);

	signal(SIGTERM, handle_stop);
	signal(SIGINT, handle_stop);
	connection = open_postgres();
	kafka = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof(why));
	if (!kafka)
		die("Kafka: %s", why);
	rd_kafka_poll_set_consumer(kafka);
	topics = rd_kafka_topic_partition_list_new(1);
	rd_kafka_topic_partition_list_add(topics, topic, RD_KAFKA_PARTITION_UA);
	if (rd_kafka_subscribe(kafka, topics))
		die("Kafka does not let us subscribe to %s", topic);

	work(kafka, connection, size);
	printf("age_ms p50 %d p99 %d max %d\n", age_percentile(0.5), age_percentile(0.99), age_percentile(1));
	fflush(stdout);
	rd_kafka_topic_partition_list_destroy(topics);
	rd_kafka_consumer_close(kafka);
	PQfinish(connection);
	return 0;
}
