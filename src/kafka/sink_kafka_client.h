/*
 * sink_kafka_client.h
 *	  Makes and destroys clients of Kafka, and the threads beside them.
 */
#ifndef COUPON_SINK_KAFKA_CLIENT_H
#define COUPON_SINK_KAFKA_CLIENT_H

#include <librdkafka/rdkafka.h>

/* A client as the settings say; NULL: they are wrong, the status says how. */
extern rd_kafka_t *coupon_kafka_make_client(void);

/*
 * Another one like it, for a question about many topics: of whatever a client
 * has heard it asks by itself, one by one, at the expense of the events that
 * it is to send.  NULL: it cannot be made.
 */
extern rd_kafka_t *coupon_kafka_make_asker(rd_kafka_t *client);

/*
 * Destroys a client, which takes its time, in a thread, which calls the
 * function (or NULL) first.
 */
extern void coupon_kafka_discard(rd_kafka_t *client, void (*first) (void *arg), void *arg);

/* Waits until that is done, so many ms at most; is it? */
extern bool coupon_kafka_await_discarded(long ms);

#endif							/* COUPON_SINK_KAFKA_CLIENT_H */
