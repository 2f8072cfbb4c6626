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

#include "outbox/outbox_read.h"

typedef struct CouponTopic CouponTopic;

typedef enum CouponTopicState
{
	COUPON_TOPIC_UNKNOWN,		/* to be checked first */
	COUPON_TOPIC_READY,
	COUPON_TOPIC_REFUSED		/* not as the settings want it */
} CouponTopicState;

typedef enum CouponSent
{
	COUPON_SENT,				/* a report will come, unless the sink is closed */
	COUPON_SINK_FULL,			/* again when reports have come */
	COUPON_POISON,				/* will never be accepted */
	COUPON_DENIED,				/* no right to write to the topic, which is refused now */
	COUPON_SINK_BROKEN			/* close it, open it, send again what has no report */
} CouponSent;

typedef enum CouponVerdict
{
	COUPON_DELIVERED,
	COUPON_REJECTED,			/* by the broker, for good: this event or one sent with it */
	COUPON_TOO_LARGE,			/* the same, for that reason */
	COUPON_TOPIC_DENIED,		/* no right to write to the topic, which is refused now */
	COUPON_UNDELIVERED			/* the sink is broken */
} CouponVerdict;

/* What became of an event; reason is valid during the call. */
typedef void (*CouponReport) (uint32 tag, CouponVerdict verdict, const char *reason);

/*
 * Opens the sink as the settings say.  With one_by_one, the caller sends an
 * event only when it has the report of the last one, so that a rejection is
 * about that event.  False if no
 * broker is configured or the configuration is wrong; the status says which.
 */
extern bool coupon_sink_open(bool one_by_one);
extern bool coupon_sink_is_open(void);

/* Would it be opened otherwise now? */
extern bool coupon_sink_is_outdated(void);

/* Forgets what was sent and has no report. */
extern void coupon_sink_close(void);

/* At the end of the process: closes it, and waits for its threads up to so long. */
extern void coupon_sink_shut(long ms);

/* Becomes readable when there is something to poll for; constant. */
extern int	coupon_sink_fd(void);

/* Gives all reports that are there. */
typedef enum CouponSinkHealth
{
	COUPON_SINK_WORKS,
	COUPON_SINK_GAP,			/* an event failed; nothing after it will be sent */
	COUPON_SINK_BROKE
} CouponSinkHealth;

extern CouponSinkHealth coupon_sink_poll(CouponReport report);

/*
 * Topics, as the settings of the sink's opening want them.  A topic that was
 * refused and is all right now stays refused until adopted.
 */
extern CouponTopic *coupon_sink_topic(const char *name);
extern CouponTopicState coupon_sink_topic_state(const CouponTopic *topic);
extern bool coupon_sink_refuses(const char *topic);
extern bool coupon_sink_can_adopt(void);
extern bool coupon_sink_adopt_topics(void);	/* true if there were any */

/* Those that are refused are unknown again; if somebody wants them, he will ask. */
extern void coupon_sink_forget_refused(void);

/* All of them are to be checked again. */
extern void coupon_sink_doubt_topics(void);

/* Asks the broker about topics, one after the other, and takes the answers. */
extern void coupon_sink_check_topics(void);

/* Sends an event; reason is set for COUPON_POISON. */
extern CouponSent coupon_sink_send(CouponTopic *topic, const CouponEvent *event,
								   uint32 tag, const char **reason);

#endif							/* COUPON_SINK_H */
