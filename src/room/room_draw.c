/*
 * room_draw.c
 *	  The random order of those who came before a room's opening.
 *
 * The seed is made by the draw and published with it, so before there is
 * nothing that a table, a dump or a backup could show.  Ticket n stands where
 * sha256(seed || n) comes among those of all tickets up to the last one of
 * that moment, so that everybody can do it again: coupon_room_draw() does, in
 * SQL.
 */
#include "postgres.h"

#include "catalog/pg_authid_d.h"
#include "catalog/pg_type_d.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "base/spi.h"
#include "queue/line.h"
#include "room/room_draw.h"

uint32 *
coupon_room_compute_draw(int64 room_id, int64 n)
{
	static CouponStatement order = {
		"SELECT t.number FROM coupon.room r, pg_catalog.generate_series(1::pg_catalog.int8, $2) t(number)"
		" WHERE r.room_id OPERATOR(pg_catalog.=) $1"
		" ORDER BY pg_catalog.sha256(r.seed OPERATOR(pg_catalog.||) pg_catalog.int8send(t.number)), t.number",
		2, {INT8OID, INT8OID}
	};
	uint32	   *places = MemoryContextAllocHuge(CurrentMemoryContext, mul_size(2 * n, sizeof(uint32)));
	Datum		values[2];
	Oid			user;
	int			context;

	/*
	 * whoever comes first after a restart draws, and need not be allowed to
	 * read rooms
	 */
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, context | SECURITY_LOCAL_USERID_CHANGE);
	values[0] = Int64GetDatum(room_id);
	values[1] = Int64GetDatum(n);
	coupon_spi_connect();
	if (coupon_spi_execute(&order, SPI_OK_SELECT, values, NULL) != (uint64) n)
		elog(ERROR, "the draw of room %lld is not complete", (long long) room_id);
	for (int64 place = 1; place <= n; place++)
	{
		int64		number = DatumGetInt64(coupon_spi_value(place - 1, 1, NULL));

		places[number - 1] = place;
		places[n + place - 1] = number;
	}
	coupon_spi_finish();
	SetUserIdAndSecContext(user, context);
	return places;
}

dsa_pointer
coupon_room_store_draw(const uint32 *places, int64 n)
{
	Size		size = 2 * n * sizeof(uint32);
	dsa_pointer pointer = coupon_line_allocate(size);

	if (DsaPointerIsValid(pointer))
		memcpy(dsa_get_address(coupon_queue_area, pointer), places, size);
	return pointer;
}
