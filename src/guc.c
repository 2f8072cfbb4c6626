/*
 * guc.c
 *	  Settings of coupon.
 *
 * Those that size shared memory or name processes exist only where the
 * library was preloaded: a session cannot set what it cannot have.
 */
#include "postgres.h"

#include "compat.h"
#include "database.h"
#include "guc.h"

char	   *coupon_databases = NULL;
int			coupon_stock_map_memory = DEFAULT_STOCK_MAP_MEMORY;
int			coupon_max_campaigns = DEFAULT_MAX_CAMPAIGNS;
int			coupon_sold_out_wait = DEFAULT_SOLD_OUT_WAIT;
int			coupon_sweep_interval = DEFAULT_SWEEP_INTERVAL;
int			coupon_issuers = DEFAULT_ISSUERS;
int			coupon_queue_memory = DEFAULT_QUEUE_MEMORY;
int			coupon_max_queues = DEFAULT_MAX_QUEUES;
int			coupon_request_depth = DEFAULT_REQUEST_DEPTH;
int			coupon_queue_keep = DEFAULT_QUEUE_KEEP;

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

	DefineCustomIntVariable("coupon.issuers",
							"Workers that decide requests, for each database.",
							"A campaign's requests are decided by one at a time, in order; more serve more campaigns at once.",
							&coupon_issuers,
							DEFAULT_ISSUERS, 1, MAX_ISSUERS,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("coupon.queue_memory",
							"Shared memory for those who wait: requests and tickets.",
							"About 40 bytes for each ticket in a room, and 1 for each request.",
							&coupon_queue_memory,
							DEFAULT_QUEUE_MEMORY, MIN_QUEUE_MEMORY, MAX_QUEUE_MEMORY,
							PGC_POSTMASTER, GUC_UNIT_KB,
							NULL, NULL, NULL);

	DefineCustomIntVariable("coupon.max_queues",
							"Rooms, and campaigns with waiting requests, at the same time.",
							NULL,
							&coupon_max_queues,
							DEFAULT_MAX_QUEUES, MIN_MAX_QUEUES, MAX_MAX_QUEUES,
							PGC_POSTMASTER, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("coupon.request_depth",
							"Requests that may wait for one campaign; beyond it they are refused.",
							NULL,
							&coupon_request_depth,
							DEFAULT_REQUEST_DEPTH, 1, MAX_REQUEST_DEPTH,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("coupon.queue_keep",
							"How long decided requests and ended tickets are kept, at least.",
							NULL,
							&coupon_queue_keep,
							DEFAULT_QUEUE_KEEP, MIN_QUEUE_KEEP, MAX_QUEUE_KEEP,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
}
