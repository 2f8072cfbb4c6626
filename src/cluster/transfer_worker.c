/*
 * transfer_worker.c
 *	  The worker that shares the stock of campaigns with other nodes.
 *
 * What it does is SQL, coupon.cluster_work() in sql/63_transfer.sql: one step of
 * the protocol in each cycle, and so in each transaction.  It has no lock on
 * anything while it waits for another node.
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"

#include "base/guc.h"
#include "base/spi.h"
#include "cluster/transfer_worker.h"

#define REST_MS		1			/* so that a node in need does not ask without
								 * end */

static int	next_ms = 0;

static int
instances(void)
{
	return coupon_cluster ? 1 : 0;
}

static bool
work(void)
{
	static CouponStatement step = {"SELECT coupon.cluster_work()", 0, {InvalidOid}};

	coupon_spi_connect();
	(void) coupon_spi_execute(&step, SPI_OK_SELECT, NULL, NULL);
	next_ms = DatumGetInt32(coupon_spi_value(0, 1, NULL));
	coupon_spi_finish();
	return next_ms == 0;
}

static int
interval(void)
{
	return next_ms;
}

static int
rest(void)
{
	return REST_MS;
}

static const char *const tables[] = {
	"campaign", "shard", "unit", "issuance", "lapsed_hold", "outbox_0", "outbox_1", "outbox_2", "transfer", NULL
};

const CouponWorkerKind coupon_transfer = {
	.name = "coupon transfer",
	.activity = "sharing stock with other nodes",
	.tables = tables,
	.instances = instances,
	.work = work,
	.interval = interval,
	.rest = rest
};
