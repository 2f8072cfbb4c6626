/*
 * topics.h
 *	  What the publisher knows of the topics that events are for.
 *
 *	  unknown --checked--> usable --next batch--> ready
 *		 |						^				   |
 *		 +------> refused ------+				   |
 *					 ^							   |
 *					 +-----------------------------+
 *
 * A topic is checked before its first event is sent, and it is refused when
 * it is not as the settings want it.  It becomes ready only between two
 * batches, so that all or none of its events are in one, hence in order; it
 * may be refused at any time.  Who asks the broker is the sink.
 */
#ifndef COUPON_TOPICS_H
#define COUPON_TOPICS_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

#include "outbox/outbox.h"
#include "outbox/reader.h"

/* Any topic of ours, and that of its dead letters. */
#define COUPON_TOPIC_BYTES	(COUPON_MAX_TOPIC + sizeof(COUPON_DEAD_LETTER_SUFFIX))

typedef enum CouponTopicState
{
	COUPON_TOPIC_UNKNOWN,		/* to be checked first */
	COUPON_TOPIC_READY,
	COUPON_TOPIC_REFUSED		/* not as the settings want it */
} CouponTopicState;

typedef struct CouponTopic
{
	char		name[COUPON_TOPIC_BYTES];
	CouponTopicState state;
	bool		usable;			/* not ready, but it was all right when last
								 * asked about */
	CouponParked parked;		/* events that go before new ones */
	bool		wanted;			/* somebody named it when last asked for */
	TimestampTz check_at;		/* when to ask next; COUPON_NOT_ASKED: not */
	TimestampTz since;			/* first asked about, or asked to be created */
	bool		creating;
	int			question;		/* the last one about it; 0: none that counts */
	void	   *handle;			/* the sink's, while it is open; NULL: none */
	char		problem[160];	/* why it is refused */
} CouponTopic;

#define COUPON_NOT_ASKED	PG_INT64_MAX

/* The topic of that name, which is made if there is none; NULL: none can be. */
extern CouponTopic *coupon_topic(const char *name);

/* The same, NULL if it is not known. */
extern CouponTopic *coupon_topic_find(const char *name);

extern void coupon_topics_each(void (*function) (CouponTopic *topic));

/* ---- for the publisher ---- */

/* What a batch does with events of that topic. */
extern CouponChoice coupon_topics_choose(const char *name, uint64 tick);

/* Has the choice changed since topics were last adopted? */
extern bool coupon_topics_have_news(void);

/* A new batch begins: what is usable is ready. */
extern void coupon_topics_adopt(void);

/*
 * Those that are ready and may have parked events, a list of CouponParked.
 * What batches had of any may have been for nothing: begin anew.
 */
extern List *coupon_topics_parked(void);
extern void coupon_topics_repark(void);

/*
 * Looks which topics there are parked events or campaigns for, so that a
 * topic's fault is seen before its first event is, and that parked events go
 * when they can.  With all, nobody needs others: what is refused is forgotten.
 * False if it is to look again: those of very many topics take turns.
 */
extern bool coupon_topics_name(bool all);

/* Is any refused? */
extern bool coupon_topics_any_refused(void);

/* So many that they are to be forgotten?  That needs a closed sink. */
extern bool coupon_topics_are_many(void);
extern void coupon_topics_forget(void);

/* ---- for the sink ---- */

/*
 * They are to be checked again: while they are used (those that are refused
 * are checked now and then in any case), or before they are used at all.
 */
extern void coupon_topics_check_again(bool refused);
extern void coupon_topics_doubt(void);

/* Those about which to ask now: a question, about at most so many. */
extern int	coupon_topics_due(CouponTopic **due, int max, int question);

/* The answers: it is all right; it is not; nothing is known yet. */
extern void coupon_topic_accept(CouponTopic *topic);
extern void coupon_topic_refuse(CouponTopic *topic, const char *problem);
extern void coupon_topic_ask_again(CouponTopic *topic, int ms);

#endif							/* COUPON_TOPICS_H */
