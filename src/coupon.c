/*
 * coupon.c
 *	  The library's entry point: settings, shared memory, workers.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "base/compat.h"
#include "base/guc.h"
#include "base/shmem.h"
#include "base/worker.h"
#include "queue/line.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

void
_PG_init(void)
{
	coupon_guc_define();

	/* loaded by a session: the functions that need more will say so */
	if (!process_shared_preload_libraries_in_progress)
		return;

	coupon_guc_define_postmaster();
	MarkGUCPrefixReserved("coupon");
	coupon_shmem_request();
	coupon_line_shmem_request();
	coupon_worker_register();
}
