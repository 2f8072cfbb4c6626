/*
 * dead_letter.c
 *	  Events that the broker would not have: kept in a table, put back into
 *	  the outbox, or forgotten.
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "base/shmem.h"
#include "base/spi.h"
#include "outbox/dead_letter.h"
#include "outbox/outbox.h"
#include "outbox/payload.h"

PG_FUNCTION_INFO_V1(coupon_dead_letter_replay);
PG_FUNCTION_INFO_V1(coupon_dead_letter_discard);

/* ---- burying ---- */

/* The event for <topic>.DLT: the original, and why it is there. */
static char *
tell(const CouponEvent *event, const char *reason, int attempts, bool with_payload)
{
	StringInfoData payload;
	Datum		id = DirectFunctionCall1(uuid_out, UUIDPGetDatum(&event->id));

	initStringInfo(&payload);
	coupon_payload_begin(&payload);
	coupon_payload_text(&payload, "id", DatumGetCString(id));
	coupon_payload_text(&payload, "topic", event->topic);
	coupon_payload_text(&payload, "type", event->type);
	coupon_payload_text(&payload, "reason", reason);
	coupon_payload_int64(&payload, "attempts", attempts);
	coupon_payload_time(&payload, "dead_at", GetCurrentTimestamp());
	if (with_payload)
		coupon_payload_json(&payload, "payload", event->payload);
	coupon_payload_end(&payload);
	return payload.data;
}

void
coupon_dead_letter_bury(const CouponEvent *event, const char *reason, int attempts, bool with_payload)
{
	static CouponStatement insert = {
		.sql = "INSERT INTO coupon.dead_letter (id, topic, key, type, payload, reason, attempts, dead_at, traceparent) "
		"VALUES ($1, $2, $3, $4, $5::pg_catalog.json, $6, $7, pg_catalog.clock_timestamp(), $8) "
		"ON CONFLICT (id) DO UPDATE SET reason = excluded.reason, "
		"attempts = coupon.dead_letter.attempts OPERATOR(pg_catalog.+) excluded.attempts, dead_at = excluded.dead_at",
		.nargs = 8,.types = {UUIDOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT4OID, TEXTOID}
	};
	Datum		values[8] = {
		UUIDPGetDatum(&event->id), CStringGetTextDatum(event->topic), CStringGetTextDatum(event->key),
		CStringGetTextDatum(event->type), CStringGetTextDatum(event->payload),
		CStringGetTextDatum(reason), Int32GetDatum(attempts),
		event->trace == NULL ? (Datum) 0 : CStringGetTextDatum(event->trace)
	};

	coupon_spi_connect();
	coupon_spi_execute(&insert, SPI_OK_INSERT, values, event->trace == NULL ? "       n" : NULL);

	/* of an event that was itself about a dead letter, none is made */
	if (!coupon_outbox_is_dead_letter_topic(event->topic))
		coupon_outbox_append(psprintf("%s" COUPON_DEAD_LETTER_SUFFIX, event->topic), event->key,
							 "coupon.dead_letter", tell(event, reason, attempts, with_payload), event->trace);
	coupon_spi_finish();
}

/* ---- what a user does with them ---- */

/*
 * Takes dead letters away, a hundred at a time: one by its id, those of a
 * topic, or all.  Again: back into the outbox with them, under their ids.
 */
static int64
take_away(FunctionCallInfo fcinfo, bool again)
{
	static CouponStatement take = {
		.sql = "DELETE FROM coupon.dead_letter d WHERE d.id OPERATOR(pg_catalog.=) ANY (ARRAY("
		"SELECT l.id FROM coupon.dead_letter l "
		"WHERE ($1 IS NULL OR l.id OPERATOR(pg_catalog.=) $1) "
		"AND ($2 IS NULL OR l.topic OPERATOR(pg_catalog.=) $2) "
		"ORDER BY l.id LIMIT 100)) "
		"RETURNING d.id, d.topic, d.key, d.type, d.payload, d.traceparent",
		.nargs = 2,.types = {UUIDOID, TEXTOID}
	};
	Datum		values[2] = {0};
	char		nulls[2] = {' ', ' '};
	MemoryContext context;
	int64		total = 0;
	uint64		n;

	coupon_shmem_attach();
	for (int i = 0; i < 2; i++)
	{
		if (PG_ARGISNULL(i))
			nulls[i] = 'n';
		else
			values[i] = PG_GETARG_DATUM(i);
	}

	coupon_spi_connect();
	context = AllocSetContextCreate(CurrentMemoryContext, "coupon dead letters", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	while ((n = coupon_spi_execute(&take, SPI_OK_DELETE_RETURNING, values, nulls)) > 0)
	{
		CouponOutbox *outbox = again ? coupon_outbox_begin(n > 1) : NULL;

		for (uint64 i = 0; i < n && again; i++)
			coupon_outbox_add_again(outbox, DatumGetUUIDP(coupon_spi_value(i, 1, NULL)),
									coupon_spi_text(i, 2), coupon_spi_text(i, 3),
									coupon_spi_text(i, 4), coupon_spi_text(i, 5), coupon_spi_text(i, 6));
		if (again)
			coupon_outbox_finish(outbox);
		SPI_freetuptable(SPI_tuptable);
		MemoryContextReset(context);
		total += n;
		CHECK_FOR_INTERRUPTS();
	}
	coupon_spi_finish();
	return total;
}

/*
 * coupon_dead_letter_replay(id, topic) - back into the outbox under their ids
 */
Datum
coupon_dead_letter_replay(PG_FUNCTION_ARGS)
{
	PreventCommandIfReadOnly("coupon_dead_letter_replay()");
	PreventCommandDuringRecovery("coupon_dead_letter_replay()");
	PG_RETURN_INT64(take_away(fcinfo, true));
}

/*
 * coupon_dead_letter_discard(id, topic) - deletes them for good
 */
Datum
coupon_dead_letter_discard(PG_FUNCTION_ARGS)
{
	PreventCommandIfReadOnly("coupon_dead_letter_discard()");
	PreventCommandDuringRecovery("coupon_dead_letter_discard()");
	PG_RETURN_INT64(take_away(fcinfo, false));
}
