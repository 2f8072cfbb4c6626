/*
 * room_draw.c
 *	  The random order of those who came before a room's opening.
 *
 * The seed is made by the draw and published with it, so before there is
 * nothing that a table, a dump or a backup could show.  Ticket n stands where
 * sha256(seed || n) comes among those of all tickets up to the last one of
 * that moment, so that everybody can do it again: coupon_room_draw() does, in
 * SQL.
 *
 * A session can serve a room, look at its draw and roll back.  So seed and
 * last ticket are kept in shared memory at the first try, and each further
 * one draws the same.
 */
#include "postgres.h"

#include "catalog/pg_authid_d.h"
#include "catalog/pg_type_d.h"
#include "miscadmin.h"

#include "base/spi.h"
#include "queue/line.h"
#include "room/room.h"
#include "room/room_draw.h"

dsa_pointer
coupon_room_compute_draw(int64 room_id, int64 n)
{
	static CouponStatement order = {
		"SELECT t.number FROM coupon.room r, pg_catalog.generate_series(1::pg_catalog.int8, $2) t(number)"
		" WHERE r.room_id OPERATOR(pg_catalog.=) $1"
		" ORDER BY pg_catalog.sha256(r.seed OPERATOR(pg_catalog.||) pg_catalog.int8send(t.number)), t.number",
		2, {INT8OID, INT8OID}
	};
	Datum		values[2];
	dsa_pointer pointer;
	uint32	   *draw;
	Oid			user;
	int			context;

	pointer = coupon_line_allocate(mul_size(2 * n, sizeof(uint32)));
	if (!DsaPointerIsValid(pointer))
		coupon_line_out_of_memory();
	draw = dsa_get_address(coupon_queue_area, pointer);
	/* whoever comes first after a restart draws, and need not know the seed */
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, context | SECURITY_LOCAL_USERID_CHANGE);
	PG_TRY();
	{
		values[0] = Int64GetDatum(room_id);
		values[1] = Int64GetDatum(n);
		coupon_spi_connect();
		if (coupon_spi_execute(&order, SPI_OK_SELECT, values, NULL) != (uint64) n)
			elog(ERROR, "the draw of room %lld is not complete", (long long) room_id);
		for (int64 place = 1; place <= n; place++)
		{
			int64		number = DatumGetInt64(coupon_spi_value(place - 1, 1, NULL));

			draw[number - 1] = place;
			draw[n + place - 1] = number;
		}
		coupon_spi_finish();
	}
	PG_CATCH();
	{
		dsa_free(coupon_queue_area, pointer);
		PG_RE_THROW();
	}
	PG_END_TRY();
	SetUserIdAndSecContext(user, context);
	return pointer;
}

/* The seed of the room's draw and the last ticket in it: made once, kept from then on. */
static void
choose_lots(int64 room_id, uint8 *seed, int64 *n)
{
	uint8		fresh[COUPON_SEED_LENGTH];
	CouponLine *line;

	if (!pg_strong_random(fresh, sizeof(fresh)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	line = coupon_line_lock(&coupon_tickets, room_id, LW_EXCLUSIVE, true);
	if (!line->room.has_lots)
	{
		memcpy(line->room.seed, fresh, COUPON_SEED_LENGTH);
		line->room.lots = line->next - 1;
		line->room.has_lots = true;
	}
	memcpy(seed, line->room.seed, COUPON_SEED_LENGTH);
	*n = line->room.lots;
	LWLockRelease(line->lock);
}

void
coupon_room_draw_lots(int64 room_id)
{
	static CouponStatement publish = {
		"UPDATE coupon.room SET drawn = $2, seed = $3 WHERE room_id OPERATOR(pg_catalog.=) $1",
		3, {INT8OID, INT8OID, BYTEAOID}
	};
	char		seed[VARHDRSZ + COUPON_SEED_LENGTH] pg_attribute_aligned(8);
	CouponLine *line;
	int64		n;
	dsa_pointer draw;
	Datum		values[3];
	bool		fits;

	SET_VARSIZE(seed, sizeof(seed));
	choose_lots(room_id, (uint8 *) VARDATA(seed), &n);
	values[0] = Int64GetDatum(room_id);
	values[1] = Int64GetDatum(n);
	values[2] = PointerGetDatum(seed);
	coupon_spi_connect();
	(void) coupon_spi_execute(&publish, SPI_OK_UPDATE, values, NULL);
	coupon_spi_finish();
	if (n == 0)
		return;

	coupon_pending_reserve(1);
	draw = coupon_room_compute_draw(room_id, n);
	line = coupon_line_lock(&coupon_tickets, room_id, LW_EXCLUSIVE, true);
	fits = coupon_line_hold(line, n);
	if (fits)
		coupon_pending_push(coupon_apply_draw, line, n, 0, draw);
	LWLockRelease(line->lock);
	if (!fits)
	{
		dsa_free(coupon_queue_area, draw);
		coupon_line_out_of_memory();
	}
}
