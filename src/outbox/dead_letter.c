/*
 * dead_letter.c
 *	  What the broker would not have: put back into the outbox, or forgotten.
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/uuid.h"

#include "base/spi.h"
#include "outbox/outbox.h"

PG_FUNCTION_INFO_V1(coupon_dead_letter_replay);

/*
 * coupon_dead_letter_replay(id, topic) - back into the outbox under their ids
 */
Datum
coupon_dead_letter_replay(PG_FUNCTION_ARGS)
{
	static CouponStatement take = {
		.sql = "DELETE FROM coupon.dead_letter d WHERE d.id OPERATOR(pg_catalog.=) ANY (ARRAY("
		"SELECT l.id FROM coupon.dead_letter l "
		"WHERE ($1 IS NULL OR l.id OPERATOR(pg_catalog.=) $1) "
		"AND ($2 IS NULL OR l.topic OPERATOR(pg_catalog.=) $2) "
		"ORDER BY l.id LIMIT 100)) "
		"RETURNING d.id, d.topic, d.key, d.type, d.payload",
		.nargs = 2, .types = {UUIDOID, TEXTOID}
	};
	Datum		values[2] = {0};
	char		nulls[2] = {' ', ' '};
	MemoryContext context;
	int64		total = 0;
	uint64		n;

	PreventCommandIfReadOnly("coupon_dead_letter_replay()");
	PreventCommandDuringRecovery("coupon_dead_letter_replay()");
	for (int i = 0; i < 2; i++)
	{
		if (PG_ARGISNULL(i))
			nulls[i] = 'n';
		else
			values[i] = PG_GETARG_DATUM(i);
	}

	coupon_spi_connect();
	context = AllocSetContextCreate(CurrentMemoryContext, "coupon replay", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	while ((n = coupon_spi_execute(&take, SPI_OK_DELETE_RETURNING, values, nulls)) > 0)
	{
		CouponOutbox *outbox = coupon_outbox_begin(n > 1);

		for (uint64 i = 0; i < n; i++)
			coupon_outbox_add_again(outbox, DatumGetUUIDP(coupon_spi_value(i, 1, NULL)),
									coupon_spi_text(i, 2), coupon_spi_text(i, 3),
									coupon_spi_text(i, 4), coupon_spi_text(i, 5));
		coupon_outbox_finish(outbox);
		SPI_freetuptable(SPI_tuptable);
		MemoryContextReset(context);
		total += n;
		CHECK_FOR_INTERRUPTS();
	}
	coupon_spi_finish();
	PG_RETURN_INT64(total);
}
