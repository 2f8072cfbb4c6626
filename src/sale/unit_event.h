/*
 * unit_event.h
 *	  What happened to a unit: its event, appended to the outbox.
 */
#ifndef COUPON_UNIT_EVENT_H
#define COUPON_UNIT_EVENT_H

#include "datatype/timestamp.h"

#include "outbox/outbox.h"
#include "outbox/payload.h"

/*
 * What an event says, in this order; what is NULL, 0 or an infinite time is
 * left out.
 */
typedef struct CouponUnitEvent
{
	const char *topic;			/* not said: where the event goes */
	const char *trace;			/* not said: of the call that it comes of */
	int64		campaign_id;
	const char *user_id;
	int64		serial;
	const char *code;			/* of what is issued */
	const char *label;			/* of what is held */
	const char *ref;			/* of the payment */
	const char *policy;			/* JSON */
	TimestampTz issued_at;
	TimestampTz expires_at;
	TimestampTz held_until;
	const char *order_ref;
	TimestampTz redeemed_at;
	const char *reason;
	const char *request_id;		/* of a request that ended without a unit */
	const char *outcome;
	const char *sqlstate;
	TimestampTz at;
} CouponUnitEvent;

/* Adds an event to an outbox that has been begun. */
extern void coupon_unit_event_add(CouponOutbox *outbox, const char *type,
								  const CouponUnitEvent *event);

/* Appends a single one. */
extern void coupon_unit_event_append(const char *type, const CouponUnitEvent *event);

#endif							/* COUPON_UNIT_EVENT_H */
