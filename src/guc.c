/*
 * guc.c
 *	  Settings of coupon.
 *
 * Those that size shared memory or name processes exist only where the
 * library was preloaded: a session cannot set what it cannot have.
 */
#include "postgres.h"

#include "compat.h"
#include "guc.h"

char	   *coupon_databases = NULL;
int			coupon_stock_map_memory = DEFAULT_STOCK_MAP_MEMORY;
int			coupon_max_campaigns = DEFAULT_MAX_CAMPAIGNS;
int			coupon_sold_out_wait = DEFAULT_SOLD_OUT_WAIT;
int			coupon_sweep_interval = DEFAULT_SWEEP_INTERVAL;
int			coupon_group_workers = DEFAULT_GROUP_WORKERS;
bool		coupon_allow_autonomous = false;

/* Settings that any session may have, preloaded or not. */
void
coupon_guc_define(void)
{
	DefineCustomIntVariable("coupon.sold_out_wait",
							"How long to wait for units held by running transactions before answering busy.",
							NULL,
							&coupon_sold_out_wait,
							DEFAULT_SOLD_OUT_WAIT, 0, MAX_SOLD_OUT_WAIT,
							PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomBoolVariable("coupon.allow_autonomous",
							 "Lets coupon_issue_grouped() run inside transaction blocks and functions.",
							 "It commits on its own, whatever becomes of the transaction around it.",
							 &coupon_allow_autonomous,
							 false,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);
}

/* Settings of the server's start and of the workers. */
void
coupon_guc_define_postmaster(void)
{
	DefineCustomStringVariable("coupon.databases",
							   "Databases that get coupon's workers, separated by commas.",
							   NULL,
							   &coupon_databases,
							   "postgres",
							   PGC_SIGHUP, 0,
							   NULL, NULL, NULL);

	DefineCustomIntVariable("coupon.stock_map_memory",
							"Shared memory for stock maps and campaign definitions.",
							"One bit a unit, and about 100 bytes for every shard and campaign in use.",
							&coupon_stock_map_memory,
							DEFAULT_STOCK_MAP_MEMORY, MIN_STOCK_MAP_MEMORY, MAX_STOCK_MAP_MEMORY,
							PGC_POSTMASTER, GUC_UNIT_KB,
							NULL, NULL, NULL);

	DefineCustomIntVariable("coupon.max_campaigns",
							"Campaigns known to shared memory at the same time.",
							"Beyond it the least recently used is forgotten, with its counters.",
							&coupon_max_campaigns,
							DEFAULT_MAX_CAMPAIGNS, MIN_MAX_CAMPAIGNS, MAX_MAX_CAMPAIGNS,
							PGC_POSTMASTER, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("coupon.sweep_interval",
							"How often the sweeper looks for issuances whose usage period is over.",
							NULL,
							&coupon_sweep_interval,
							DEFAULT_SWEEP_INTERVAL, MIN_SWEEP_INTERVAL, MAX_SWEEP_INTERVAL,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("coupon.group_workers",
							"Workers that carry out grouped calls, in each database.",
							"One keeps two cores busy; 0: grouped calls are refused.",
							&coupon_group_workers,
							DEFAULT_GROUP_WORKERS, 0, MAX_GROUP_WORKERS,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);
}
