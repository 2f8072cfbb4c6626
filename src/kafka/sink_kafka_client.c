/*
 * sink_kafka_client.c
 *	  Makes and destroys clients of Kafka, and the threads beside them.
 *
 * What waits for the network runs in threads of our own, which know nothing
 * but librdkafka.  All threads, librdkafka's and ours, are made with all
 * signals blocked: signals are this process's.
 */
#include "postgres.h"

#include <signal.h>

#include "port/atomics.h"

#include "base/compat.h"
#include "base/guc.h"
#include "base/thread.h"
#include "kafka/publisher_status.h"
#include "kafka/sink_config.h"
#include "kafka/sink_kafka_client.h"

/* What a thread is to destroy. */
typedef struct Remains
{
	rd_kafka_t *client;
	void		(*first) (void *arg);
	void	   *arg;
} Remains;

COUPON_WAIT_EVENT(shut_event, "CouponPublisherShut");

static pg_atomic_uint32 discarded;	/* clients that are yet to be destroyed */

/* ---- making ---- */

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
set_properties(rd_kafka_conf_t *conf)
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
		{"log.queue", "true"},
		/* a failed request must not be overtaken by the next one */
		{"enable.gapless.guarantee", "true"}
	};
	ListCell   *cell;
	List	   *properties = NIL;
	const char *problem = NULL;

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
	 * To log in by Kerberos the client has the shell run a command with
	 * values of the file in it: let that do nothing.  A client without
	 * Kerberos does not know the property, and runs nothing.
	 */
	(void) rd_kafka_conf_set(conf, "sasl.kerberos.kinit.cmd", ":", NULL, 0);

	return set_property(conf, "bootstrap.servers", coupon_kafka_brokers, 0);
}

/* rd_kafka_new, whose threads inherit the signal mask. */
static rd_kafka_t *
make(rd_kafka_conf_t *conf)
{
	rd_kafka_t *made;
	char		message[512];
	sigset_t	all;
	sigset_t	before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	made = rd_kafka_new(RD_KAFKA_PRODUCER, conf, message, sizeof(message));
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (made == NULL)
	{
		coupon_publisher_problem("the Kafka client cannot be made: %s", message);
		rd_kafka_conf_destroy(conf);
	}
	return made;
}

rd_kafka_t *
coupon_kafka_make_client(void)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();

	rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG);
	if (set_properties(conf))
		return make(conf);
	rd_kafka_conf_destroy(conf);
	return NULL;
}

rd_kafka_t *
coupon_kafka_make_asker(rd_kafka_t *client)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_dup(rd_kafka_conf(client));

	if (set_property(conf, "enable.gapless.guarantee", "false", 0) &&
		set_property(conf, "enable.idempotence", "false", 0) &&
		set_property(conf, "max.in.flight.requests.per.connection", "1000", 0))
		return make(conf);
	rd_kafka_conf_destroy(conf);
	return NULL;
}

/* ---- threads ---- */

static void *
destroy(void *arg)
{
	Remains    *remains = arg;

	if (remains->first != NULL)
		remains->first(remains->arg);
	rd_kafka_destroy(remains->client);
	free(remains);
	pg_atomic_fetch_sub_u32(&discarded, 1);
	return NULL;
}

void
coupon_kafka_discard(rd_kafka_t *client, void (*first) (void *arg), void *arg)
{
	Remains    *remains = malloc(sizeof(Remains));
	pthread_t	thread;

	/*
	 * without the memory or the thread, the client is left to the process's
	 * end
	 */
	pg_atomic_fetch_add_u32(&discarded, 1);
	if (remains == NULL)
		return;
	remains->client = client;
	remains->first = first;
	remains->arg = arg;
	if (coupon_thread_start(&thread, destroy, remains))
		pthread_detach(thread);
}

bool
coupon_kafka_await_discarded(long ms)
{
	while (pg_atomic_read_u32(&discarded) > 0 && ms > 0)
	{
		pgstat_report_wait_start(shut_event());
		pg_usleep(5000);
		pgstat_report_wait_end();
		ms -= 5;
	}
	return pg_atomic_read_u32(&discarded) == 0;
}
