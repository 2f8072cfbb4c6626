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

/* Puts down the key, and makes room for so many bytes behind it. */
static void
append_key(StringInfo payload, const char *key, int room)
{
	int			length = strlen(key);
	char	   *to;

	enlargeStringInfo(payload, length + 4 + room);
	to = payload->data + payload->len;
	if (payload->len > 1)
		*to++ = ',';
	*to++ = '"';
	memcpy(to, key, length);
	to += length;
	*to++ = '"';
	*to++ = ':';
	*to = '\0';
	payload->len = to - payload->data;
}

void
coupon_payload_int64(StringInfo payload, const char *key, int64 value)
{
	append_key(payload, key, MAXINT8LEN + 1);
	payload->len += pg_lltoa(value, payload->data + payload->len);
}

/* The length of a text that needs no escaping; -1: it does. */
static int
plain_length(const char *value)
{
	const unsigned char *at = (const unsigned char *) value;

	while (*at >= ' ' && *at != '"' && *at != '\\')
		at++;
	return *at == '\0' ? (const char *) at - value : -1;
}

void
coupon_payload_text(StringInfo payload, const char *key, const char *value)
{
	int			length;

	if (value == NULL)
		return;
	length = plain_length(value);
	append_key(payload, key, Max(length, 0) + 2);
	if (length < 0)
		escape_json(payload, value);
	else
	{
		appendStringInfoCharMacro(payload, '"');
		appendBinaryStringInfo(payload, value, length);
		appendStringInfoCharMacro(payload, '"');
	}
}

void
coupon_payload_json(StringInfo payload, const char *key, const char *json)
{
	append_key(payload, key, 0);
	appendStringInfoString(payload, json);
}

void
coupon_payload_time(StringInfo payload, const char *key, TimestampTz value)
{
	/* the events of a batch have one time */
	static char encoded[MAXDATELEN + 2];
	static int	length;
	static TimestampTz encoded_value = DT_NOBEGIN;

	if (TIMESTAMP_NOT_FINITE(value))
		return;
	if (value != encoded_value)
	{
		int			utc = 0;

		encoded_value = DT_NOBEGIN;
		encoded[0] = '"';
		JsonEncodeDateTime(encoded + 1, TimestampTzGetDatum(value), TIMESTAMPTZOID, &utc);
		/* Z instead of +00:00, as most consumers write it */
		strcpy(encoded + strlen(encoded) - strlen("+00:00"), "Z\"");
		length = strlen(encoded);
		encoded_value = value;
	}
	append_key(payload, key, length);
	appendBinaryStringInfo(payload, encoded, length);
}

void
coupon_payload_end(StringInfo payload)
{
	appendStringInfoChar(payload, '}');
}
