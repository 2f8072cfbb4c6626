/*
 * sweeper.c
 *	  Marks what time has ended, and returns holds that have run out to stock.
 *
 * Only marks, events and stock wait for the sweeper; whether an issuance is
 * expired or a hold has run out is judged by the clock wherever it is used.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "base/guc.h"
#include "base/worker.h"
#include "sale/late_payment.h"
#include "sale/redeem.h"
#include "sale/sweep.h"

#define SWEEP_ROWS		1000
#define CLEAN_MS		60000	/* between two looks for what may be forgotten */
#define MIN_SLEEP_MS	10

static TimestampTz next_lapse = DT_NOEND;

static bool
sweep(void)
{
	static TimestampTz cleaned_at = 0;
	TimestampTz now = GetCurrentTimestamp();
	int64		lapsed;
	int64		expired;

	lapsed = coupon_sweep_holds(SWEEP_ROWS, &next_lapse);
	expired = coupon_redeem_expire(SWEEP_ROWS);
	if (now < cleaned_at || TimestampDifferenceExceeds(cleaned_at, now, CLEAN_MS))
	{
		/* as long as there is more of it, with every cycle */
		if (coupon_late_payment_clean(SWEEP_ROWS) < SWEEP_ROWS)
			cleaned_at = now;
	}
	return expired == SWEEP_ROWS || (lapsed > 0 && next_lapse <= now);
}

/* Until the next hold runs out, if that is known and soon. */
static int
sweep_interval(void)
{
	TimestampTz now = GetCurrentTimestamp();
	long		ms = next_lapse == DT_NOEND ? coupon_sweep_interval :
		TimestampDifferenceMilliseconds(now, next_lapse) + 1;

	return Min(coupon_sweep_interval, Max(ms, MIN_SLEEP_MS));
}

static const char *const tables[] = {
	"campaign", "shard", "unit", "issuance", "lapsed_hold", "outbox_0", "outbox_1", "outbox_2", NULL
};

const CouponWorkerKind coupon_sweeper = {
	.name = "coupon sweeper",
	.tables = tables,
	.work = sweep,
	.interval = sweep_interval
};
