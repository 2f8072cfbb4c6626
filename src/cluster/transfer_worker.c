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

#include "base/clock.h"
#include "base/guc.h"
#include "base/spi.h"
#include "cluster/transfer_worker.h"

#define REST_MS		1			/* so that a node in need does not ask without
								 * end */
#define SET_BACK_US	INT64CONST(1000000) /* by less nobody waits for long */

static int	next_ms = 0;

/* By how much the clock of the day was ahead of the steady one in the last cycle. */
static TimestampTz ahead = PG_INT64_MAX;

static int
instances(void)
{
	return coupon_cluster ? 1 : 0;
}

/* It may have been set back before a new process came, too, or be another machine's. */
static bool
clock_was_set_back(void)
{
	TimestampTz before = ahead;

	ahead = GetCurrentTimestamp() - coupon_steady_now();
	return ahead < before - SET_BACK_US;
}

static bool
work(void)
{
	static CouponStatement all_due = {"SELECT coupon.cluster_all_due()", 0, {InvalidOid}};
	static CouponStatement step = {"SELECT coupon.cluster_work()", 0, {InvalidOid}};

	coupon_spi_connect();
	if (clock_was_set_back())
		(void) coupon_spi_execute(&all_due, SPI_OK_SELECT, NULL, NULL);
	(void) coupon_spi_execute(&step, SPI_OK_SELECT, NULL, NULL);
	next_ms = DatumGetInt32(coupon_spi_value(0, 1, NULL));
	coupon_spi_finish();
	return next_ms == 0;
}

/* The cycle that found it out may have been rolled back. */
static void
recover(const char *message)
{
	ahead = PG_INT64_MAX;
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
	.recover = recover,
	.work = work,
	.interval = interval,
	.rest = rest
};
