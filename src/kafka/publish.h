/*
 * publish.h
 *	  From the outbox to the sink.
 *
 * What is to be done next is one of the steps below.  Between them, outside of
 * any transaction, the publisher serves the sink; then it may be asked.
 */
#ifndef COUPON_PUBLISH_H
#define COUPON_PUBLISH_H

typedef enum CouponStep
{
	COUPON_STEP_WAIT,			/* for sessions or for the sink */
	COUPON_STEP_SETTLE,			/* remove what has been delivered, bury what
								 * was rejected */
	COUPON_STEP_OPEN,			/* the sink */
	COUPON_STEP_SEND,			/* as much of the batch as the sink takes */
	COUPON_STEP_ROTATE,			/* the outbox: give space back */
	COUPON_STEP_NAME_TOPICS,	/* look which topics there are events or
								 * campaigns for */
	COUPON_STEP_COLLECT			/* the next batch */
} CouponStep;

/* Takes the sink's reports, checks topics, closes a sink that is of no more use. */
extern void coupon_publish_serve(void);

/* The next step; woken: sessions have committed events since the last batch. */
extern CouponStep coupon_publish_next_step(bool woken);

/* How long to wait for it, in ms, unless the sink or a session has news. */
extern long coupon_publish_patience(void);

/*
 * Takes it, in a transaction with an active snapshot; then it is committed, or
 * it failed and was rolled back: it did not happen.
 */
extern void coupon_publish_step(CouponStep step);
extern void coupon_publish_committed(void);
extern void coupon_publish_failed(const char *message);

/* How many events have been sent and have no report? */
extern int	coupon_publish_in_flight(void);

/*
 * The settings were read again.  If they have changed, they are taken over as
 * soon as nothing is under way; topics are checked again in any case.
 */
extern void coupon_publish_reconfigure(void);

/* publisher_worker.c */
extern const struct CouponWorkerKind coupon_publisher;

#endif							/* COUPON_PUBLISH_H */
