/*
 * burial.h
 *	  An event that will not be accepted becomes a dead letter.
 */
#ifndef COUPON_BURIAL_H
#define COUPON_BURIAL_H

#include "kafka/topics.h"

typedef struct CouponRejected
{
	int			entry;			/* its number in the batch */
	bool		carries;		/* its dead letter can carry the payload */
	char		reason[128];
	CouponTopic *topic;
	char		trouble[128];	/* why it has no dead letter; empty: it may
								 * get one */
} CouponRejected;

/*
 * Removes the event and makes a dead letter of it.  False if its row is
 * locked, or the dead letter cannot be written: that is its topic's trouble.
 */
extern bool coupon_bury(CouponRejected *rejected, const CouponOutboxEntry *entry);

#endif							/* COUPON_BURIAL_H */
