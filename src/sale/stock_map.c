/*
 * stock_map.c
 *	  The area of shared memory in which stock maps and definitions lie.
 */
#include "postgres.h"

#include "base/compat.h"
#include "base/guc.h"
#include "sale/stock_map.h"

dsa_area   *coupon_area = NULL;

static void *area = NULL;

static Size
area_size(void)
{
	return mul_size(coupon_stock_map_memory, 1024);
}

static void
request(void)
{
	RequestAddinShmemSpace(area_size());
}

static void
startup(void)
{
	area = coupon_area_make("coupon stock maps", area_size());
}

static void
attach(void)
{
	coupon_area = coupon_area_attach(area, "coupon_stock_map");
}

const CouponModule coupon_stock_map_module = {
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
	if (DsaPointerIsValid(stock->filter))
		dsa_free(coupon_area, stock->filter);
	dsa_free(coupon_area, pointer);
}

uint32
coupon_stock_wait_event(void)
{
	static uint32 event = 0;

	if (event == 0)
		event = coupon_wait_event("CouponUnitInFlight");
	return event;
}
