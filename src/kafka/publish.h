/*
 * publish.h
 *	  From the outbox to the sink.
 */
#ifndef COUPON_PUBLISH_H
#define COUPON_PUBLISH_H

/*
 * One step, in a transaction: removes what has been delivered, collects the
 * next batch if there is none, sends as much as the sink takes.  True: there
 * is more to do at once.
 */
extern bool coupon_publish_step(void);

/*
 * Between the steps, outside of any transaction: takes the sink's reports,
 * checks topics.  True: it is time for a step.
 */
extern bool coupon_publish_serve(void);

/* Would a step collect what sessions have just committed? */
extern bool coupon_publish_listens(void);

/* After a step that failed and was rolled back: it did not happen. */
extern void coupon_publish_recover(const char *message);

/*
 * The settings were read again.  If they have changed, they are taken over as
 * soon as nothing is under way; topics are checked again in any case.
 */
extern void coupon_publish_reconfigure(void);

/* Is there a batch that is not done with? */
extern bool coupon_publish_under_way(void);

/* Of it: sent and without a report. */
extern int	coupon_publish_in_flight(void);

/* Removes what has been delivered, in a transaction, and nothing else. */
extern void coupon_publish_settle(void);

/* publisher_worker.c */
extern const struct CouponWorkerKind coupon_publisher;

#endif							/* COUPON_PUBLISH_H */
