/*
 * payload.h
 *	  What coupon's own events say: types, and payloads in JSON.
 */
#ifndef COUPON_PAYLOAD_H
#define COUPON_PAYLOAD_H

#include "datatype/timestamp.h"
#include "lib/stringinfo.h"

#define COUPON_EVENT_ISSUED				"coupon.issued"
#define COUPON_EVENT_REDEEMED			"coupon.redeemed"
#define COUPON_EVENT_REDEEM_CANCELLED	"coupon.redeem_cancelled"
#define COUPON_EVENT_REVOKED			"coupon.revoked"
#define COUPON_EVENT_EXPIRED			"coupon.expired"
#define COUPON_EVENT_HELD				"coupon.held"
#define COUPON_EVENT_HOLD_RELEASED		"coupon.hold_released"
#define COUPON_EVENT_HOLD_EXPIRED		"coupon.hold_expired"
#define COUPON_EVENT_CONFIRMED			"coupon.confirmed"
#define COUPON_EVENT_CONFIRM_REFUSED	"coupon.confirm_refused"
#define COUPON_EVENT_REQUEST_FAILED		"coupon.request_failed"
#define COUPON_EVENT_CAMPAIGN_CREATED	"coupon.campaign_created"
#define COUPON_EVENT_STOCK_ADDED		"coupon.campaign_stock_added"
#define COUPON_EVENT_STOCK_REDUCED		"coupon.campaign_stock_reduced"
#define COUPON_EVENT_CAMPAIGN_ALTERED	"coupon.campaign_altered"
#define COUPON_EVENT_CAMPAIGN_ARCHIVED	"coupon.campaign_archived"
#define COUPON_EVENT_CAMPAIGN_DROPPED	"coupon.campaign_dropped"
#define COUPON_EVENT_CAMPAIGN_PAUSED	"coupon.campaign_paused"
#define COUPON_EVENT_CAMPAIGN_RESUMED	"coupon.campaign_resumed"
#define COUPON_EVENT_CAMPAIGN_CLOSED	"coupon.campaign_closed"

/*
 * A payload is begun, filled key by key, and ended.  Absent values (NULL,
 * infinite times) leave their key out.  Times are in UTC.
 */
extern void coupon_payload_begin(StringInfo payload);
extern void coupon_payload_int64(StringInfo payload, const char *key, int64 value);
extern void coupon_payload_text(StringInfo payload, const char *key, const char *value);
extern void coupon_payload_json(StringInfo payload, const char *key, const char *json);
extern void coupon_payload_time(StringInfo payload, const char *key, TimestampTz value);
extern void coupon_payload_end(StringInfo payload);

#endif							/* COUPON_PAYLOAD_H */
