/*
 * event_id.h
 *	  The ids of events: increasing in the order of appending, for ever.
 */
#ifndef COUPON_EVENT_ID_H
#define COUPON_EVENT_ID_H

#include "utils/uuid.h"

#include "base/shmem.h"

/* A new id, above all that this database has given; may throw. */
extern void coupon_event_make_id(pg_uuid_t *id);

/*
 * The time part of an event's id: strictly increasing in append order, in
 * units of COUPON_TICKS_PER_MS since 1970.
 */
#define COUPON_TICKS_PER_MS	4096
extern uint64 coupon_event_tick(const pg_uuid_t *id);

/* The least id of that tick. */
extern void coupon_event_first_id(uint64 tick, pg_uuid_t *id);

extern const CouponModule coupon_event_id_module;

#endif							/* COUPON_EVENT_ID_H */
