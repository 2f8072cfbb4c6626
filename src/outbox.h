/*
 * outbox.h
 *	  The outbox: events committed with the changes that they tell of.
 *
 * Knows nothing of who reads it, nor of what the events mean.
 */
#ifndef COUPON_OUTBOX_H
#define COUPON_OUTBOX_H

#include "utils/uuid.h"

#define COUPON_MAX_TOPIC	249		/* Kafka's own limit */

/*
 * Events to be appended together.  Add any number, then finish; both may
 * throw.  The strings are copied by add.  Many need memory of their own.
 */
typedef struct CouponOutbox CouponOutbox;

extern CouponOutbox *coupon_outbox_begin(bool many);
extern pg_uuid_t coupon_outbox_add(CouponOutbox *outbox, const char *topic, const char *key,
								   const char *type, const char *payload);
extern void coupon_outbox_finish(CouponOutbox *outbox);

/* One event alone. */
extern pg_uuid_t coupon_outbox_append(const char *topic, const char *key,
									  const char *type, const char *payload);

/* ERROR unless Kafka would take the name. */
extern void coupon_outbox_check_topic(const char *topic);

#endif							/* COUPON_OUTBOX_H */
