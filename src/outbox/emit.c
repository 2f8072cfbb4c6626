/*
 * emit.c
 *	  The application's own events, and which names they may have.
 *
 * Who reads a topic must be able to tell the engine's events from others.  So
 * an application's event has neither a type that is, or looks like, one of the
 * engine's nor a topic to which the engine alone writes.
 */
#include "postgres.h"

#include "access/genam.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"

#include "base/arguments.h"
#include "base/catalog.h"
#include "base/shmem.h"
#include "base/trace.h"
#include "outbox/outbox.h"

#define LETTERS			"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
#define OWN_PREFIX		"coupon."	/* of the engine's types */
#define KAFKAS_PREFIX	"__"	/* of the broker's own topics */
#define SHOWN_BYTES		64		/* of a bad name, in the error */

PG_FUNCTION_INFO_V1(coupon_emit);

/* As much of a bad name as an error shows. */
static char *
quote_name(const char *name)
{
	return pnstrdup(name, pg_mbcliplen(name, strlen(name), SHOWN_BYTES));
}

bool
coupon_outbox_is_dead_letter_topic(const char *topic)
{
	size_t		length = strlen(topic);
	size_t		suffix = strlen(COUPON_DEAD_LETTER_SUFFIX);

	return length >= suffix && pg_strcasecmp(topic + length - suffix, COUPON_DEAD_LETTER_SUFFIX) == 0;
}

void
coupon_outbox_check_topic(const char *topic)
{
	size_t		length = strlen(topic);

	if (length == 0 || length > COUPON_MAX_TOPIC || strspn(topic, LETTERS "._-") != length ||
		strcmp(topic, ".") == 0 || strcmp(topic, "..") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid topic name"),
				 errdetail("The name has %zu bytes: \"%s\".", length, quote_name(topic)),
				 errhint("A topic name has 1 to %d of the characters a-z, A-Z, 0-9, \".\", \"_\" and \"-\".",
						 COUPON_MAX_TOPIC)));
	if (strncmp(topic, KAFKAS_PREFIX, strlen(KAFKAS_PREFIX)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("topic \"%s\" is reserved", quote_name(topic)),
				 errdetail("Topics that begin with \"%s\" are Kafka's own.", KAFKAS_PREFIX),
				 errhint("Choose a topic that begins otherwise.")));
	if (coupon_outbox_is_dead_letter_topic(topic))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("topic \"%s\" is reserved", quote_name(topic)),
				 errdetail("Topics that end in \"%s\" are for events that the broker did not accept.",
						   COUPON_DEAD_LETTER_SUFFIX),
				 errhint("Choose a topic that ends otherwise.")));
}

static void
check_type(const char *type)
{
	if (strspn(type, LETTERS "._-:/") != strlen(type))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid event type"),
				 errdetail("The type has %zu bytes: \"%s\".", strlen(type), quote_name(type)),
				 errhint("A type has 1 to %d of the characters a-z, A-Z, 0-9, \".\", \"_\", \"-\", \":\" and \"/\".",
						 COUPON_MAX_NAME)));
	if (pg_strncasecmp(type, OWN_PREFIX, strlen(OWN_PREFIX)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event type \"%s\" is reserved", type),
				 errdetail("Types that begin with \"%s\", in any case, are the engine's own.", OWN_PREFIX),
				 errhint("Choose a type that begins otherwise.")));
}

/* To a campaign's topic, open or closed, its own events go and no others. */
static void
refuse_campaigns_topic(const char *topic)
{
	const CouponCatalog *catalog = coupon_catalog();
	CouponScan	scan;
	ScanKeyData key;
	bool		found;

	coupon_key_text(&key, 1, CStringGetTextDatum(topic));
	coupon_scan_begin(&scan, catalog->campaign, catalog->campaign_topic_idx,
					  GetActiveSnapshot(), &key, 1, false);
	found = coupon_scan_next(&scan, ForwardScanDirection);
	coupon_scan_end(&scan);
	if (found)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("topic \"%s\" belongs to a campaign", topic),
				 errdetail("Its consumers take what they read there for events of campaigns."),
				 errhint("Choose a topic of your own.")));
}

/*
 * coupon_emit(topic, key, type, payload) - the application's own event
 */
Datum
coupon_emit(PG_FUNCTION_ARGS)
{
	char	   *topic = coupon_get_text(fcinfo, 0, "topic", 1, COUPON_MAX_TOPIC);
	char	   *key = coupon_get_text(fcinfo, 1, "key", 1, COUPON_MAX_TEXT);
	char	   *type = coupon_get_text(fcinfo, 2, "type", 1, COUPON_MAX_NAME);
	Jsonb	   *payload;
	pg_uuid_t  *result = palloc(sizeof(pg_uuid_t));

	coupon_require_argument(fcinfo, 3, "payload");
	payload = PG_GETARG_JSONB_P(3);

	coupon_outbox_check_topic(topic);
	check_type(type);
	PreventCommandIfReadOnly("coupon_emit()");
	PreventCommandDuringRecovery("coupon_emit()");
	coupon_shmem_attach();
	refuse_campaigns_topic(topic);

	*result = coupon_outbox_append(topic, key, type,
								   JsonbToCString(NULL, &payload->root, VARSIZE(payload)), coupon_trace());
	PG_RETURN_UUID_P(result);
}
