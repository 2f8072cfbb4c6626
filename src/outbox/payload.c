/*
 * payload.c
 *	  What coupon's own events say: payloads in JSON.
 *
 * Written as text, because text is what the outbox stores and Kafka carries;
 * keys are our own and need no escaping.
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "outbox/payload.h"

void
coupon_payload_begin(StringInfo payload)
{
	resetStringInfo(payload);
	appendStringInfoChar(payload, '{');
}

static void
append_key(StringInfo payload, const char *key)
{
	if (payload->len > 1)
		appendStringInfoChar(payload, ',');
	appendStringInfoChar(payload, '"');
	appendStringInfoString(payload, key);
	appendBinaryStringInfo(payload, "\":", 2);
}

void
coupon_payload_int64(StringInfo payload, const char *key, int64 value)
{
	char		digits[MAXINT8LEN + 1];

	append_key(payload, key);
	appendBinaryStringInfo(payload, digits, pg_lltoa(value, digits));
}

void
coupon_payload_text(StringInfo payload, const char *key, const char *value)
{
	if (value == NULL)
		return;
	append_key(payload, key);
	escape_json(payload, value);
}

void
coupon_payload_json(StringInfo payload, const char *key, const char *json)
{
	append_key(payload, key);
	appendStringInfoString(payload, json);
}

void
coupon_payload_time(StringInfo payload, const char *key, TimestampTz value)
{
	/* the events of a batch have one time */
	static char encoded[MAXDATELEN + 1];
	static TimestampTz encoded_value = DT_NOBEGIN;

	if (TIMESTAMP_NOT_FINITE(value))
		return;
	if (value != encoded_value)
	{
		int			utc = 0;

		encoded_value = DT_NOBEGIN;
		JsonEncodeDateTime(encoded, TimestampTzGetDatum(value), TIMESTAMPTZOID, &utc);
		/* Z instead of +00:00, as most consumers write it */
		strcpy(encoded + strlen(encoded) - strlen("+00:00"), "Z\"");
		encoded_value = value;
	}
	append_key(payload, key);
	appendStringInfoChar(payload, '"');
	appendStringInfoString(payload, encoded);
}

void
coupon_payload_end(StringInfo payload)
{
	appendStringInfoChar(payload, '}');
}
