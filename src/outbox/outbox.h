/*
 * outbox.h
 *	  The outbox: events committed with the changes that they tell of.
 *
 * Knows nothing of who reads it, nor of what the events mean.
 */
#ifndef COUPON_OUTBOX_H
#define COUPON_OUTBOX_H

#include "utils/uuid.h"

#include "base/shmem.h"

#define COUPON_MAX_TOPIC	245 /* Kafka's own limit, with room for the suffix */
#define COUPON_DEAD_LETTER_SUFFIX	".DLT"	/* of the topic for those that
											 * were not accepted */

/*
 * Events to be appended together.  Add any number, then finish; both may
 * throw.  The strings are copied by add; trace may be NULL.  Many need memory of their own.
 */
typedef struct CouponOutbox CouponOutbox;

extern CouponOutbox *coupon_outbox_begin(bool many);
extern pg_uuid_t coupon_outbox_add(CouponOutbox *outbox, const char *topic, const char *key,
								   const char *type, const char *payload, const char *trace);
extern void coupon_outbox_finish(CouponOutbox *outbox);

/* The same for an event that has its id already. */
extern void coupon_outbox_add_again(CouponOutbox *outbox, const pg_uuid_t *id, const char *topic,
									const char *key, const char *type, const char *payload,
									const char *trace);

/* One event alone. */
extern pg_uuid_t coupon_outbox_append(const char *topic, const char *key,
									  const char *type, const char *payload, const char *trace);

/*
 * The number of the table to which events of this database are appended; the
 * publisher changes it.  NULL if no worker ever ran: it is the first.
 */
extern pg_atomic_uint32 *coupon_outbox_current(void);

extern const CouponModule coupon_outbox_module;

/*
 * ERROR unless events other than dead letters may go to a topic of that name;
 * see emit.c.
 */
extern void coupon_outbox_check_topic(const char *topic);
extern bool coupon_outbox_is_dead_letter_topic(const char *topic);

#endif							/* COUPON_OUTBOX_H */
