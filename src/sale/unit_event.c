/*
 * unit_event.c
 *	  What happened to a unit: its event, appended to the outbox.
 *
 * Its key is the user, so the events of one user stay in order.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "base/fault.h"
#include "sale/unit_event.h"

static void
payload_time(StringInfo payload, const char *key, TimestampTz value)
{
	if (value != 0)
		coupon_payload_time(payload, key, value);
}

void
coupon_unit_event_add(CouponOutbox *outbox, const char *type, const CouponUnitEvent *event)
{
	static StringInfoData payload;	/* kept: there are many */

	COUPON_FAULT(unit_changed);
	if (payload.data == NULL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

		initStringInfo(&payload);
		MemoryContextSwitchTo(oldcontext);
	}
	coupon_payload_begin(&payload);
	coupon_payload_int64(&payload, "campaign_id", event->campaign_id);
	coupon_payload_text(&payload, "user_id", event->user_id);
	if (event->serial != 0)
		coupon_payload_int64(&payload, "serial", event->serial);
	coupon_payload_text(&payload, "code", event->code);
	coupon_payload_text(&payload, "label", event->label);
	coupon_payload_text(&payload, "ref", event->ref);
	if (event->policy != NULL)
		coupon_payload_json(&payload, "policy", event->policy);
	payload_time(&payload, "issued_at", event->issued_at);
	payload_time(&payload, "expires_at", event->expires_at);
	payload_time(&payload, "held_until", event->held_until);
	coupon_payload_text(&payload, "order_ref", event->order_ref);
	payload_time(&payload, "redeemed_at", event->redeemed_at);
	coupon_payload_text(&payload, "reason", event->reason);
	coupon_payload_text(&payload, "request_id", event->request_id);
	coupon_payload_text(&payload, "outcome", event->outcome);
	coupon_payload_text(&payload, "sqlstate", event->sqlstate);
	payload_time(&payload, "at", event->at);
	coupon_payload_end(&payload);
	coupon_outbox_add(outbox, event->topic, event->user_id, type, payload.data, event->trace);
}

void
coupon_unit_event_append(const char *type, const CouponUnitEvent *event)
{
	CouponOutbox *outbox = coupon_outbox_begin(false);

	coupon_unit_event_add(outbox, type, event);
	coupon_outbox_finish(outbox);
}
