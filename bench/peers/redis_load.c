/*
 * redis_load.c
 *	  What pgbench is to PostgreSQL, for redis_issue.lua: many connections,
 *	  each with one call at a time, closed loop or at a rate; with -b the API of
 *	  the Redis + Kafka pile.
 *
 *	redis_load -s socket -d directory [-c connections] [-j threads]
 *			   [-T seconds | -t calls] [-R rate] [-L prefix] [-2] [-x percent]
 *			   [-b brokers -k topic [-X property=value]...]
 *
 *	-d dir      where redis_issue.lua and redis_return.lua are
 *	-t calls    of each connection
 *	-R rate     calls a second that are due at random times whether or not
 *				earlier ones are late; latency counts from then (as pgbench -R)
 *	-L prefix   a line a call into prefix.N: connection, number, latency in us
 *	-2          each user calls twice: a transaction is two calls
 *	-x percent  so many of the transactions give their unit back
 *	-b, -k      each unit is told to Kafka, and the caller has the answer when
 *				the broker has acknowledged it (acks=all, idempotent)
 *
 * Prints what pgbench prints, as far as it is read here, and the answers.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include <hiredis/hiredis.h>
#include <librdkafka/rdkafka.h>

#define MAX_EVENTS		256
#define MAX_PROPERTIES	32
#define KAFKA_WARM_S	2		/* until an idempotent producer has its id */
#define PATIENCE_US		INT64_C(30000000)	/* for one answer */

typedef enum
{
	IDLE,						/* nothing to do, or its call is not due yet */
	FIRST,						/* waits for the answer to its call */
	KAFKA,						/* waits for the broker's acknowledgement */
	SECOND,						/* waits for the second answer of -2 or -x */
	DONE
} State;

typedef struct Thread Thread;

typedef struct Connection
{
	Thread	   *thread;
	redisContext *redis;
	int			number;
	State		state;
	bool		writing;		/* epoll looks for room to write */
	int64_t		due;			/* us: latency counts from here */
	int64_t		sent;
	int64_t		calls;
	char		user[24];
} Connection;

struct Thread
{
	pthread_t	handle;
	int			number;
	int			epoll;
	Connection *connections;
	int			nconnections;
	int			active;			/* not DONE */
	uint64_t	random;
	int64_t		next_due;
	FILE	   *log;
	rd_kafka_t *kafka;
	int			kafka_wakes[2];
	int64_t		calls;
	int64_t		latency_us;
	int64_t		issued;
	int64_t		already_issued;
	int64_t		sold_out;
	int64_t		returned;
	int64_t		last_us;
};

static const char *socket_path;
static const char *brokers;
static const char *topic = "coupon-issue";
static const char *log_prefix;
static int	connections = 16;
static int	threads = 2;
static double duration;
static int64_t calls_each;
static double rate;
static bool twice;
static int	return_percent;
static const char *properties[MAX_PROPERTIES][2];
static int	nproperties;
static char issue_sha[41];
static char return_sha[41];
static char policy[256];
static int64_t start_us;
static int64_t end_us;
static pthread_barrier_t barrier;

/* As the extension's publisher has them; a caller waits, so it lingers less. */
static const char *const defaults[][2] = {
	{"acks", "all"},
	{"enable.idempotence", "true"},
	{"compression.codec", "lz4"},
	{"linger.ms", "1"},
	{"partitioner", "murmur2_random"},
	{"socket.nagle.disable", "true"},
	{"allow.auto.create.topics", "false"},
	{"queue.buffering.max.messages", "100000"},
};

static void __attribute__((noreturn, format(printf, 1, 2)))
die(const char *format,...)
{
	va_list		args;

	va_start(args, format);
	fputs("redis_load: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

static int64_t
now_us(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (int64_t) t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* xorshift64* */
static uint64_t
random_bits(Thread *thread)
{
	uint64_t	x = thread->random;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	thread->random = x;
	return x * UINT64_C(2685821657736338717);
}

static double
random_fraction(Thread *thread)
{
	return (random_bits(thread) >> 11) * (1.0 / 9007199254740992.0);
}

/* Exponentially distributed, mean 1, by von Neumann: needs comparisons only. */
static double
exponential(Thread *thread)
{
	for (double whole = 0;; whole++)
	{
		double		first = random_fraction(thread);
		double		last = first;
		int			n = 1;

		for (;; n++)
		{
			double		next = random_fraction(thread);

			if (next > last)
				break;
			last = next;
		}
		if (n % 2 == 1)
			return whole + first;
	}
}

/* ---- Redis ---- */

static void
load_script(redisContext *redis, const char *dir, const char *name, char *sha)
{
	char		path[4096];
	static char text[16384];
	FILE	   *file;
	size_t		length;
	redisReply *reply;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	if (!(file = fopen(path, "r")))
		die("%s: %s", path, strerror(errno));
	length = fread(text, 1, sizeof(text), file);
	fclose(file);
	reply = redisCommand(redis, "SCRIPT LOAD %b", text, length);
	if (!reply || reply->type != REDIS_REPLY_STRING || reply->len != 40)
		die("%s: %s", name, reply && reply->str ? reply->str : redis->errstr);
	memcpy(sha, reply->str, 41);
	freeReplyObject(reply);
}

static void
prepare_redis(const char *dir)
{
	redisContext *redis = redisConnectUnix(socket_path);
	redisReply *reply;

	if (!redis || redis->err)
		die("%s: %s", socket_path, redis ? redis->errstr : "no memory");
	load_script(redis, dir, "redis_issue.lua", issue_sha);
	load_script(redis, dir, "redis_return.lua", return_sha);

	/* the API has read the campaign's policy once */
	reply = redisCommand(redis, "HGET campaign:1 policy");
	if (!reply || reply->type != REDIS_REPLY_STRING || reply->len >= sizeof(policy))
		die("no policy in campaign:1");
	strcpy(policy, reply->str);
	freeReplyObject(reply);
	redisFree(redis);
}

static void
watch(Connection *c, bool writing)
{
	struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = c};

	if (epoll_ctl(c->thread->epoll, EPOLL_CTL_MOD, c->redis->fd, &event) != 0)
		die("epoll_ctl: %s", strerror(errno));
	c->writing = writing;
}

static void
flush_out(Connection *c)
{
	int			done = 0;

	if (redisBufferWrite(c->redis, &done) != REDIS_OK)
		die("connection %d: %s", c->number, c->redis->errstr);
	if (done == c->writing)
		watch(c, !done);
}

static void
send_script(Connection *c, const char *sha)
{
	const char *arg[] = {"EVALSHA", sha, "4", "campaign:1", "users:1", "returned:1", "queue:1", c->user, "1", brokers ? "" : "queue"};

	if (redisAppendCommandArgv(c->redis, sizeof(arg) / sizeof(*arg), arg, NULL) != REDIS_OK)
		die("connection %d: %s", c->number, c->redis->errstr);
	c->sent = now_us(CLOCK_MONOTONIC);
	flush_out(c);
}

/* ---- a call's way ---- */

static void
begin_call(Connection *c, int64_t due)
{
	c->due = due;
	snprintf(c->user, sizeof(c->user), "%" PRIu64, random_bits(c->thread) % UINT64_C(1000000000000000) + 1);
	c->state = FIRST;
	send_script(c, issue_sha);
}

/* Begins the next call if it is due, or leaves it for the thread to begin. */
static void
next_call(Connection *c, int64_t now)
{
	Thread	   *thread = c->thread;

	if (calls_each ? c->calls >= calls_each : now >= end_us)
	{
		c->state = DONE;
		thread->active--;
		return;
	}
	if (rate > 0)
	{
		c->state = IDLE;
		return;
	}
	begin_call(c, now);
}

static void
end_call(Connection *c)
{
	Thread	   *thread = c->thread;
	int64_t		now = now_us(CLOCK_MONOTONIC);

	c->calls++;
	thread->calls++;
	thread->latency_us += now - c->due;
	thread->last_us = now;
	if (thread->log)
		fprintf(thread->log, "%d %" PRId64 " %" PRId64 "\n", c->number, c->calls, now - c->due);
	next_call(c, now);
}

/* What follows the first answer, and its acknowledgement by Kafka. */
static void
after_first(Connection *c)
{
	if (twice || (return_percent > 0 && random_fraction(c->thread) * 100 < return_percent))
	{
		c->state = SECOND;
		send_script(c, twice ? issue_sha : return_sha);
	}
	else
		end_call(c);
}

static void
delivered(rd_kafka_t *kafka, const rd_kafka_message_t *message, void *opaque)
{
	(void) kafka;
	(void) opaque;
	if (message->err)
		die("Kafka: %s", rd_kafka_err2str(message->err));
	after_first(message->_private);
}

static void
produce(Connection *c, long long serial)
{
	char		event[512];
	int			length;
	rd_kafka_resp_err_t err;

	length = snprintf(event, sizeof(event),
					  "{\"campaign_id\": 1, \"user_id\": \"%s\", \"serial\": %lld, \"policy\": %s, \"issued_at\": %" PRId64 "}",
					  c->user, serial, policy, now_us(CLOCK_REALTIME));
	c->state = KAFKA;
	err = rd_kafka_producev(c->thread->kafka, RD_KAFKA_V_TOPIC(topic),
							RD_KAFKA_V_KEY(c->user, strlen(c->user)),
							RD_KAFKA_V_VALUE(event, (size_t) length),
							RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
							RD_KAFKA_V_OPAQUE(c), RD_KAFKA_V_END);
	if (err)
		die("Kafka: %s", rd_kafka_err2str(err));
}

static void
answer(Connection *c, const redisReply *reply)
{
	Thread	   *thread = c->thread;

	if (reply->type != REDIS_REPLY_INTEGER)
		die("Redis: %s", reply->str ? reply->str : "no integer");
	if (c->state == SECOND && !twice)
	{
		if (reply->integer == 0)
			die("user %s has nothing to return", c->user);
		thread->returned++;
	}
	else if (reply->integer > 0)
		thread->issued++;
	else if (reply->integer < 0)
		thread->already_issued++;
	else
		thread->sold_out++;

	if (c->state == SECOND)
		end_call(c);
	else if (brokers && reply->integer > 0)
		produce(c, reply->integer);
	else if (reply->integer > 0 || twice)
		after_first(c);
	else
		end_call(c);
}

static void
read_answers(Connection *c)
{
	void	   *reply;

	if (redisBufferRead(c->redis) != REDIS_OK)
		die("connection %d: %s", c->number, c->redis->errstr);
	for (;;)
	{
		if (redisGetReplyFromReader(c->redis, &reply) != REDIS_OK)
			die("connection %d: %s", c->number, c->redis->errstr);
		if (!reply)
			break;
		answer(c, reply);
		freeReplyObject(reply);
	}
}

/* ---- threads ---- */

static void
open_kafka(Thread *thread)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_queue_t *queue;
	rd_kafka_topic_t *handle;
	const struct rd_kafka_metadata *metadata;
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
	rd_kafka_resp_err_t err;
	char		why[512];

	for (size_t i = 0; i < sizeof(defaults) / sizeof(*defaults); i++)
		if (rd_kafka_conf_set(conf, defaults[i][0], defaults[i][1], why, sizeof(why)))
			die("%s", why);
	for (int i = 0; i < nproperties; i++)
		if (rd_kafka_conf_set(conf, properties[i][0], properties[i][1], why, sizeof(why)))
			die("%s", why);
	if (rd_kafka_conf_set(conf, "bootstrap.servers", brokers, why, sizeof(why)))
		die("%s", why);
	rd_kafka_conf_set_dr_msg_cb(conf, delivered);
	thread->kafka = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof(why));
	if (!thread->kafka)
		die("Kafka: %s", why);

	/* an API that has run for a while knows the topic */
	handle = rd_kafka_topic_new(thread->kafka, topic, NULL);
	err = rd_kafka_metadata(thread->kafka, 0, handle, &metadata, 10000);
	if (err)
		die("Kafka, topic %s: %s", topic, rd_kafka_err2str(err));
	rd_kafka_metadata_destroy(metadata);

	/* reports arrive in a queue that wakes this thread by a pipe */
	if (pipe2(thread->kafka_wakes, O_NONBLOCK | O_CLOEXEC) != 0)
		die("pipe: %s", strerror(errno));
	queue = rd_kafka_queue_get_main(thread->kafka);
	rd_kafka_queue_io_event_enable(queue, thread->kafka_wakes[1], "w", 1);
	rd_kafka_queue_destroy(queue);
	if (epoll_ctl(thread->epoll, EPOLL_CTL_ADD, thread->kafka_wakes[0], &event) != 0)
		die("epoll_ctl: %s", strerror(errno));
}

static void
poll_kafka(Thread *thread)
{
	char		wakes[64];

	while (read(thread->kafka_wakes[0], wakes, sizeof(wakes)) > 0)
		;
	while (rd_kafka_poll(thread->kafka, 0) > 0)
		;
}

static void
open_connections(Thread *thread)
{
	for (int i = 0; i < thread->nconnections; i++)
	{
		Connection *c = &thread->connections[i];
		struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};

		c->thread = thread;
		c->number = thread->number + i * threads;
		/* in blocking mode; the listen queue may be full for a moment */
		for (int try = 0; ; try++)
		{
			c->redis = redisConnectUnix(socket_path);
			if (!c->redis || !c->redis->err || errno != EAGAIN || try == 500)
				break;
			redisFree(c->redis);
			usleep(10000);
		}
		if (!c->redis || c->redis->err)
			die("%s: %s", socket_path, c->redis ? c->redis->errstr : "no memory");
		c->redis->flags &= ~REDIS_BLOCK;
		if (fcntl(c->redis->fd, F_SETFL, fcntl(c->redis->fd, F_GETFL) | O_NONBLOCK) != 0 ||
			epoll_ctl(thread->epoll, EPOLL_CTL_ADD, c->redis->fd, &event) != 0)
			die("connection %d: %s", c->number, strerror(errno));
	}
}

/* Begins what is due; returns when the next is (us), -1 for never. */
static int64_t
begin_due(Thread *thread)
{
	int64_t		now = now_us(CLOCK_MONOTONIC);
	int			i = 0;

	if (rate <= 0)
		return -1;
	for (;;)
	{
		Connection *c;

		while (i < thread->nconnections && thread->connections[i].state != IDLE)
			i++;
		if (i == thread->nconnections)
			return -1;			/* an answer comes first */
		c = &thread->connections[i];
		if (!calls_each && now >= end_us)
		{
			c->state = DONE;
			thread->active--;
			continue;
		}
		if (thread->next_due > now)
			return !calls_each && end_us < thread->next_due ? end_us : thread->next_due;
		begin_call(c, thread->next_due);
		thread->next_due += exponential(thread) * 1e6 * threads / rate;
	}
}

static void
check_patience(Thread *thread, int64_t now)
{
	for (int i = 0; i < thread->nconnections; i++)
	{
		Connection *c = &thread->connections[i];

		if (c->state != IDLE && c->state != DONE && now - c->sent > PATIENCE_US)
			die("no answer on connection %d for %d s", c->number, (int) (PATIENCE_US / 1000000));
	}
}

static void *
run_thread(void *arg)
{
	Thread	   *thread = arg;
	struct epoll_event events[MAX_EVENTS];
	int64_t		checked;

	open_connections(thread);
	pthread_barrier_wait(&barrier);		/* all are connected */
	pthread_barrier_wait(&barrier);		/* the clock runs */

	checked = start_us;
	thread->active = thread->nconnections;
	thread->next_due = start_us;
	for (int i = 0; i < thread->nconnections; i++)
		next_call(&thread->connections[i], start_us);

	while (thread->active > 0)
	{
		int64_t		next = begin_due(thread);
		int64_t		now = now_us(CLOCK_MONOTONIC);
		int64_t		wait = next < 0 ? 1000000 : next > now ? next - now : 0;
		struct timespec timeout;
		int			n;

		if (thread->active == 0)
			break;
		if (wait > 1000000)
			wait = 1000000;
		timeout = (struct timespec) {.tv_sec = wait / 1000000, .tv_nsec = wait % 1000000 * 1000};
		n = epoll_pwait2(thread->epoll, events, MAX_EVENTS, &timeout, NULL);
		if (n < 0 && errno != EINTR)
			die("epoll_pwait2: %s", strerror(errno));
		for (int i = 0; i < n; i++)
		{
			Connection *c = events[i].data.ptr;

			if (!c)
				continue;
			if (events[i].events & EPOLLOUT)
				flush_out(c);
			if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))
				read_answers(c);
		}
		if (thread->kafka)
			poll_kafka(thread);
		if (now - checked > 1000000)
			check_patience(thread, checked = now);
	}
	return NULL;
}

static void
start_thread(Thread *thread, int number)
{
	char		path[4096];

	thread->number = number;
	thread->random = (uint64_t) now_us(CLOCK_REALTIME) * 1000003 + number * UINT64_C(0x9E3779B97F4A7C15) + 1;
	thread->nconnections = connections / threads + (number < connections % threads);
	thread->connections = calloc(thread->nconnections, sizeof(Connection));
	thread->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (!thread->connections || thread->epoll < 0)
		die("no memory or no file");
	if (log_prefix)
	{
		snprintf(path, sizeof(path), "%s.%d", log_prefix, number);
		if (!(thread->log = fopen(path, "w")))
			die("%s: %s", path, strerror(errno));
	}
	if (brokers)
		open_kafka(thread);
	if (pthread_create(&thread->handle, NULL, run_thread, thread) != 0)
		die("no thread");
}

static void
parse_options(int argc, char **argv, const char **dir)
{
	int			option;

	while ((option = getopt(argc, argv, "s:d:c:j:T:t:R:L:2x:b:k:X:")) != -1)
	{
		switch (option)
		{
			case 's': socket_path = optarg; break;
			case 'd': *dir = optarg; break;
			case 'c': connections = atoi(optarg); break;
			case 'j': threads = atoi(optarg); break;
			case 'T': duration = atof(optarg); break;
			case 't': calls_each = atoll(optarg); break;
			case 'R': rate = atof(optarg); break;
			case 'L': log_prefix = optarg; break;
			case '2': twice = true; break;
			case 'x': return_percent = atoi(optarg); break;
			case 'b': brokers = optarg; break;
			case 'k': topic = optarg; break;
			case 'X':
				if (nproperties == MAX_PROPERTIES || !strchr(optarg, '='))
					die("-X property=value");
				properties[nproperties][0] = strndup(optarg, strchr(optarg, '=') - optarg);
				properties[nproperties++][1] = strchr(optarg, '=') + 1;
				break;
			default:
				die("see the head of redis_load.c");
		}
	}
	if (threads > connections)
		threads = connections;
	if (optind != argc || !socket_path || !*dir || connections < 1 || threads < 1 ||
		(duration > 0) == (calls_each > 0))
		die("see the head of redis_load.c");
}

int
main(int argc, char **argv)
{
	const char *dir = NULL;
	Thread	   *thread;
	Thread		sum = {0};
	double		seconds;

	parse_options(argc, argv, &dir);
	prepare_redis(dir);
	pthread_barrier_init(&barrier, NULL, threads + 1);
	thread = calloc(threads, sizeof(Thread));
	if (!thread)
		die("no memory");
	for (int i = 0; i < threads; i++)
		start_thread(&thread[i], i);
	pthread_barrier_wait(&barrier);
	if (brokers)
		sleep(KAFKA_WARM_S);
	start_us = now_us(CLOCK_MONOTONIC);
	end_us = start_us + (int64_t) (duration * 1e6);
	printf("started at %.3f\n", now_us(CLOCK_REALTIME) / 1e6);
	fflush(stdout);
	pthread_barrier_wait(&barrier);

	for (int i = 0; i < threads; i++)
	{
		pthread_join(thread[i].handle, NULL);
		if (thread[i].log && fclose(thread[i].log) != 0)
			die("log: %s", strerror(errno));
		sum.calls += thread[i].calls;
		sum.latency_us += thread[i].latency_us;
		sum.issued += thread[i].issued;
		sum.already_issued += thread[i].already_issued;
		sum.sold_out += thread[i].sold_out;
		sum.returned += thread[i].returned;
		if (thread[i].last_us > sum.last_us)
			sum.last_us = thread[i].last_us;
	}
	seconds = sum.calls ? (sum.last_us - start_us) / 1e6 : 0;
	printf("number of transactions actually processed: %" PRId64 "\n", sum.calls);
	printf("latency average = %.3f ms\n", sum.calls ? sum.latency_us / 1e3 / sum.calls : 0);
	printf("tps = %f (without initial connection time)\n", seconds > 0 ? sum.calls / seconds : 0);
	printf("issued %" PRId64 " already_issued %" PRId64 " sold_out %" PRId64 " returned %" PRId64 "\n",
		   sum.issued, sum.already_issued, sum.sold_out, sum.returned);
	fflush(stdout);
	/* every message is acknowledged: nothing is lost by not closing */
	_exit(0);
}
