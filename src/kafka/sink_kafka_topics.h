/*
 * sink_kafka_topics.h
 *	  Asks Kafka about topics, compares what it says with the settings, and
 *	  creates what is missing, if it may.
 */
#ifndef COUPON_SINK_KAFKA_TOPICS_H
#define COUPON_SINK_KAFKA_TOPICS_H

#include <librdkafka/rdkafka.h>

#include "kafka/topics.h"

/* A topic's handle is made when its first event is sent. */
extern void coupon_kafka_topic_drop_handle(CouponTopic *topic);

extern void coupon_kafka_topic_refuse(CouponTopic *topic, const char *problem);

/* Takes over the settings.  Have they changed since? */
extern void coupon_kafka_topics_configure(void);
extern bool coupon_kafka_topics_are_outdated(void);

/*
 * Takes the answer of the last question, if it is there: true, and the error
 * of the question as a whole.  Answers of topics are in topics.h; those that
 * are missing are created if they may be, the result comes on the queue.
 * *lost: one that was ready is refused.
 */
extern bool coupon_kafka_topics_answered(rd_kafka_t *client, rd_kafka_queue_t *queue,
										 rd_kafka_resp_err_t *error, bool *lost);

/*
 * Asks about topics, or whether anybody is there, unless a question is under
 * way or there is none to ask.  Writes to the descriptor when it is answered.
 */
extern void coupon_kafka_topics_ask(rd_kafka_t *client, bool is_anybody_there, int fd);

/* What the broker says of topics that were to be created. */
extern void coupon_kafka_topics_created(rd_kafka_event_t *event);

/* Destroys the client, and whatever question is under way, when it can be. */
extern void coupon_kafka_topics_abandon(rd_kafka_t *client);

#endif							/* COUPON_SINK_KAFKA_TOPICS_H */
