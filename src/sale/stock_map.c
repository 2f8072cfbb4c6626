/*
 * stock_map.c
 *	  The area of shared memory in which stock maps and definitions lie.
 */
#include "postgres.h"

#include "base/compat.h"
#include "base/guc.h"
#include "sale/stock_map.h"

#define FILTER_SHARE	4		/* of the area, as its inverse */

dsa_area   *coupon_area = NULL;

static void *area = NULL;
static pg_atomic_uint64 *filter_memory = NULL;	/* bytes that filters have */

Size
coupon_area_size(void)
{
	return mul_size(coupon_stock_map_memory, 1024);
}

static void
set_up(void)
{
	pg_atomic_init_u64(filter_memory, 0);
}

static void
request(void)
{
	RequestAddinShmemSpace(coupon_area_size());
}

static void
startup(void)
{
	area = coupon_area_make("coupon stock maps", coupon_area_size());
}

static void
attach(void)
{
	coupon_area = coupon_area_attach(area, "coupon_stock_map");
}

const CouponModule coupon_stock_map_module = {
	.name = "coupon filter memory",
	.size = sizeof(*filter_memory),
	.memory = (void **) &filter_memory,
	.set_up = set_up,
	.request = request,
	.startup = startup,
	.attach = attach
};

void
coupon_stock_free(dsa_pointer pointer)
{
	CouponStock *stock = dsa_get_address(coupon_area, pointer);
	uint32		nshards = count_shards(stock);

	for (uint32 i = 0; i < nshards; i++)
		free_bits(get_shard(stock, i));
	for (int segment = 0; segment < MAX_SEGMENTS; segment++)
	{
		if (DsaPointerIsValid(stock->segments[segment]))
			dsa_free(coupon_area, stock->segments[segment]);
	}
	coupon_filter_free(stock);
	dsa_free(coupon_area, pointer);
}

bool
coupon_filter_has_room(Size size)
{
	return pg_atomic_read_u64(filter_memory) + size <= coupon_area_size() / FILTER_SHARE;
}

bool
coupon_filter_reserve(Size size)
{
	if (pg_atomic_fetch_add_u64(filter_memory, size) + size <= coupon_area_size() / FILTER_SHARE)
		return true;
	coupon_filter_release(size);
	return false;
}

void
coupon_filter_release(Size size)
{
	pg_atomic_fetch_sub_u64(filter_memory, size);
}

void
coupon_filter_free(CouponStock *stock)
{
	if (!DsaPointerIsValid(stock->filter))
		return;
	dsa_free(coupon_area, stock->filter);
	coupon_filter_release(filter_size(stock));
	stock->filter = InvalidDsaPointer;
	stock->filter_words = 0;
	pg_atomic_write_u32(&stock->filter_state, FILTER_NONE);
}

uint32
coupon_stock_wait_event(void)
{
	static uint32 event = 0;

	if (event == 0)
		event = coupon_wait_event("CouponUnitInFlight");
	return event;
}
