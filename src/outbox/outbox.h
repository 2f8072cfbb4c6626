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

#define COUPON_MAX_TOPIC	245		/* Kafka's own limit, with room for .DLT */

/*
 * Events to be appended together.  Add any number, then finish; both may
 * throw.  The strings are copied by add.  Many need memory of their own.
 */
typedef struct CouponOutbox CouponOutbox;

extern CouponOutbox *coupon_outbox_begin(bool many);
extern pg_uuid_t coupon_outbox_add(CouponOutbox *outbox, const char *topic, const char *key,
								   const char *type, const char *payload);
extern void coupon_outbox_finish(CouponOutbox *outbox);

/* The same for an event that has its id already. */
extern void coupon_outbox_add_again(CouponOutbox *outbox, const pg_uuid_t *id, const char *topic,
									const char *key, const char *type, const char *payload);

/* One event alone. */
extern pg_uuid_t coupon_outbox_append(const char *topic, const char *key,
									  const char *type, const char *payload);

/*
 * The time part of an event's id: strictly increasing in append order, in
 * units of COUPON_TICKS_PER_MS since 1970.
 */
#define COUPON_TICKS_PER_MS	4096
extern uint64 coupon_event_tick(const pg_uuid_t *id);

/*
 * The number of the table to which events of this database are appended; the
 * publisher changes it.  NULL if no worker ever ran: it is the first.
 */
extern pg_atomic_uint32 *coupon_outbox_current(void);

extern const CouponModule coupon_outbox_module;

/* ERROR unless Kafka would take the name. */
extern void coupon_outbox_check_topic(const char *topic);

#endif							/* COUPON_OUTBOX_H */
