/*
 * sink.h
 *	  Where events go: a message broker, as the publisher sees it.
 *
 * Nothing here waits for the network, unless it says so, and nothing throws
 * for what a broker, an administrator or a file may do wrong: that is an
 * answer, and a text for the status.  A sink is this process's own.
 */
#ifndef COUPON_SINK_H
#define COUPON_SINK_H

#include "kafka/topics.h"

typedef enum CouponSent
{
	COUPON_SENT,				/* a report will come, unless the sink is
								 * closed */
	COUPON_SINK_FULL,			/* again when reports have come */
	COUPON_POISON,				/* will never be accepted */
	COUPON_DENIED,				/* no right to write to the topic, which is
								 * refused now */
	COUPON_SINK_BROKEN			/* close it, open it, send again what has no
								 * report */
} CouponSent;

typedef enum CouponVerdict
{
	COUPON_DELIVERED,
	COUPON_REJECTED,			/* by the broker, for good: this event or one
								 * of its request */
	COUPON_TOO_LARGE,			/* the same, for that reason */
	COUPON_TOPIC_DENIED,		/* no right to write to the topic, which is
								 * refused now */
	COUPON_UNDELIVERED			/* the sink is broken */
} CouponVerdict;

/* What became of an event; reason is valid during the call. */
typedef void (*CouponReport) (void *arg, uint32 tag, CouponVerdict verdict, const char *reason);

/*
 * Opens the sink as the settings say.  False if no broker is configured or the
 * configuration is wrong; the status says which.
 */
extern bool coupon_sink_open(void);
extern bool coupon_sink_is_open(void);

/* Would it be opened otherwise now? */
extern bool coupon_sink_is_outdated(void);

/* Forgets what was sent and has no report. */
extern void coupon_sink_close(void);

/* At the end of the process: closes it, and waits for its threads up to so long. */
extern void coupon_sink_shut(long ms);

/* Becomes readable when there is something to poll for; constant. */
extern int	coupon_sink_fd(void);

typedef enum CouponSinkHealth
{
	COUPON_SINK_WORKS,
	COUPON_SINK_GAP,			/* events failed; nothing more will be sent */
	COUPON_SINK_BROKE
} CouponSinkHealth;

/* Gives all reports that are there: those of one request at once. */
extern CouponSinkHealth coupon_sink_poll(CouponReport report, void *arg);

/*
 * Asks the broker about topics, several at once, and takes the answers.  With
 * doubt also about those that are ready, if there is a broker.  True: one that
 * was ready is refused, and what was sent for it may stay without a report.
 */
extern bool coupon_sink_check_topics(bool doubt);

/* Sends an event; reason is set for COUPON_POISON. */
extern CouponSent coupon_sink_send(CouponTopic *topic, const CouponEvent *event,
								   uint32 tag, const char **reason);

#endif							/* COUPON_SINK_H */
