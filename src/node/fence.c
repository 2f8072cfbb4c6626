/*
 * fence.c
 *	  A node sells nothing until another one has confirmed it.
 *
 * A server that starts does not know whether a standby has taken its place
 * meanwhile, and has the same units and users.  So it asks the other nodes
 * first, which know the newest epoch of each node (sql/63_transfer.sql), and is
 * fenced until then.  The state is in shared memory, so it is lost with every
 * restart, that after a crash too, and a standby has none.
 *
 * One word for each database: written by its transfer worker, read by all.
 */
#include "postgres.h"

#include "fmgr.h"
#include "port/atomics.h"

#include "base/arguments.h"
#include "base/database.h"
#include "base/errors.h"
#include "base/guc.h"
#include "node/fence.h"

static pg_atomic_uint32 *passed = NULL;

PG_FUNCTION_INFO_V1(coupon_node_confirmed);
PG_FUNCTION_INFO_V1(coupon_node_set_confirmed);

static void
set_up(void)
{
	for (int i = 0; i < COUPON_MAX_DATABASES; i++)
		pg_atomic_init_u32(&passed[i], 0);
}

static void
new_database(int place)
{
	pg_atomic_write_u32(&passed[place], 0);
}

const CouponModule coupon_fence_module = {
	.name = "coupon fence",
	.size = COUPON_MAX_DATABASES * sizeof(pg_atomic_uint32),
	.memory = (void **) &passed,
	.set_up = set_up,
	.new_database = new_database
};

bool
coupon_fence_passed(void)
{
	int			place = coupon_database_place();

	return place >= 0 && pg_atomic_read_u32(&passed[place]) != 0;
}

bool
coupon_fence_open(void)
{
	return !coupon_cluster || coupon_fence_passed();
}

void
coupon_fence_refuse(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_COUPON_FENCED),
			 errmsg("this node is not confirmed yet"),
			 errdetail("Since this server started no other node has confirmed that no standby has taken its place."),
			 errhint("Try again. The transfer worker asks them: it needs coupon.cluster = on, this database in coupon.databases, and the other nodes.")));
	pg_unreachable();
}

/*
 * coupon.node_confirmed()
 */
Datum
coupon_node_confirmed(PG_FUNCTION_ARGS)
{
	coupon_shmem_attach();
	PG_RETURN_BOOL(coupon_fence_passed());
}

/*
 * coupon.node_set_confirmed(confirmed): returns whether that was so before
 */
Datum
coupon_node_set_confirmed(PG_FUNCTION_ARGS)
{
	int			place;

	coupon_require_argument(fcinfo, 0, "confirmed");
	coupon_shmem_attach();
	place = coupon_database_place();
	if (place < 0)
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(pg_atomic_exchange_u32(&passed[place], PG_GETARG_BOOL(0)) != 0);
}
