/*
 * worker_sweeper.c
 *	  Marks what time has ended.
 *
 * Only the mark and its event wait for the sweeper; whether an issuance is
 * expired is judged by the clock wherever it is used.
 */
#include "postgres.h"

#include "guc.h"
#include "life.h"
#include "worker.h"

#define SWEEP_ROWS	1000

static bool
sweep(void)
{
	return coupon_life_expire(SWEEP_ROWS) == SWEEP_ROWS;
}

static int
sweep_interval(void)
{
	return coupon_sweep_interval;
}

const CouponWorkerKind coupon_sweeper = {"coupon sweeper", sweep, sweep_interval};
