/*
 * erase.c
 *	  What coupon_user_erase() cannot do in SQL: rows of the queues, and events
 *	  that are not published yet.
 *
 * The rows of requests and tickets that are final are nobody's business in
 * shared memory, so their users can be renamed.  Those that wait are left: what
 * waits would be issued to somebody who is nobody.
 *
 * Somebody may issue to the user between one statement and the next: that unit
 * and its event keep the name, both, for another erasure.
 *
 * An event is taken out of the outbox and appended again under its id, as a
 * dead letter is that is put back: all of one user's in one transaction, so
 * they reach one batch and keep their order.  What is on its way to the broker
 * at that moment is there under both names; consumers drop duplicates by the id.
 * The trace, by which others may know the user, goes.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "base/arguments.h"
#include "base/shmem.h"
#include "base/spi.h"
#include "outbox/outbox.h"
#include "outbox/payload.h"
#include "queue/queue_table.h"

PG_FUNCTION_INFO_V1(coupon_erase_queues);
PG_FUNCTION_INFO_V1(coupon_erase_events);

#define EVENT_USER_ERASED	"coupon.user_erased"

/* The two names, checked. */
static void
get_names(FunctionCallInfo fcinfo, Datum *values)
{
	coupon_shmem_attach();
	PreventCommandDuringRecovery("coupon_user_erase()");
	coupon_check_text(fcinfo, 0, "user_id", 1, COUPON_MAX_NAME);
	coupon_check_text(fcinfo, 1, "pseudonym", 1, COUPON_MAX_NAME);
	values[0] = PG_GETARG_DATUM(0);
	values[1] = PG_GETARG_DATUM(1);
}

/*
 * coupon.erase_queues(user_id, pseudonym, tickets): of requests, or of tickets,
 * how many rows were renamed
 */
Datum
coupon_erase_queues(PG_FUNCTION_ARGS)
{
	static CouponStatement requests = {
		"UPDATE coupon.request SET user_id = $2, request_key = NULL"
		" WHERE user_id = $1 AND decided_at IS NOT NULL",
		2, {TEXTOID, TEXTOID}
	};
	static CouponStatement tickets = {
		"UPDATE coupon.ticket SET user_id = $2 WHERE user_id = $1 AND ended_at IS NOT NULL",
		2, {TEXTOID, TEXTOID}
	};
	Datum		values[2];

	get_names(fcinfo, values);
	coupon_require_argument(fcinfo, 2, "tickets");
	PG_RETURN_INT64(coupon_queue_table_execute(PG_GETARG_BOOL(2) ? &tickets : &requests,
											   SPI_OK_UPDATE, values));
}

/* One of each topic says that the user is to be forgotten there as well. */
static void
add_erasure(CouponOutbox *outbox, const char *topic, const char *user_id)
{
	StringInfoData payload;

	initStringInfo(&payload);
	coupon_payload_begin(&payload);
	coupon_payload_text(&payload, "user_id", user_id);
	coupon_payload_time(&payload, "at", GetCurrentTimestamp());
	coupon_payload_end(&payload);
	(void) coupon_outbox_add(outbox, topic, user_id, EVENT_USER_ERASED, payload.data, NULL);
}

/*
 * coupon.erase_events(user_id, pseudonym, topics): how many events were renamed
 */
Datum
coupon_erase_events(PG_FUNCTION_ARGS)
{
	/*
	 * The key of a campaign's own events is no user.  Events of a unit that
	 * still has the old name were committed after its row was looked for.
	 */
	static CouponStatement take = {
		"DELETE FROM coupon.outbox o"
		" WHERE o.key = $1 AND o.type <> '" EVENT_USER_ERASED "' AND o.type NOT LIKE 'coupon.campaign\\_%'"
		"   AND NOT (o.type = 'coupon.dead_letter' AND o.payload->>'type' LIKE 'coupon.campaign\\_%')"
		"   AND NOT coupon.has_unit(o.type, o.payload, $1)"
		" RETURNING o.id, o.topic, o.type, coupon.renamed(o.payload, $1, $2)::text",
		2, {TEXTOID, TEXTOID}
	};
	Datum		values[2];
	char	   *user_id;
	char	   *pseudonym;
	text	  **topics;
	int			ntopics;
	uint64		n;
	CouponOutbox *outbox;

	get_names(fcinfo, values);
	user_id = TextDatumGetCString(values[0]);
	pseudonym = TextDatumGetCString(values[1]);
	topics = coupon_get_text_array(fcinfo, 2, "topics", &ntopics);

	coupon_spi_connect();
	n = coupon_spi_execute(&take, SPI_OK_DELETE_RETURNING, values, NULL);
	if (n > 0 || ntopics > 0)
	{
		outbox = coupon_outbox_begin(true);
		for (uint64 i = 0; i < n; i++)
			coupon_outbox_add_again(outbox, DatumGetUUIDP(coupon_spi_value(i, 1, NULL)),
									coupon_spi_text(i, 2), pseudonym, coupon_spi_text(i, 3),
									coupon_spi_text(i, 4), NULL);
		for (int i = 0; i < ntopics; i++)
			add_erasure(outbox, text_to_cstring(topics[i]), user_id);
		coupon_outbox_finish(outbox);
	}
	coupon_spi_finish();
	PG_RETURN_INT64((int64) n);
}
