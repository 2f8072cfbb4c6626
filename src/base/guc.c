/*
 * guc.c
 *	  Settings of coupon.
 *
 * Those that size shared memory or name processes exist only where the
 * library was preloaded: a session cannot set what it cannot have.
 */
#include "postgres.h"

#include "base/compat.h"
#include "base/database.h"
#include "base/guc.h"

char	   *coupon_databases = NULL;
int			coupon_stock_map_memory = DEFAULT_STOCK_MAP_MEMORY;
int			coupon_max_campaigns = DEFAULT_MAX_CAMPAIGNS;
int			coupon_sold_out_wait = DEFAULT_SOLD_OUT_WAIT;
int			coupon_sweep_interval = DEFAULT_SWEEP_INTERVAL;
int			coupon_hold_keep = DEFAULT_HOLD_KEEP;
int			coupon_issuers = DEFAULT_ISSUERS;
int			coupon_queue_memory = DEFAULT_QUEUE_MEMORY;
int			coupon_max_lines = DEFAULT_MAX_LINES;
int			coupon_request_depth = DEFAULT_REQUEST_DEPTH;
int			coupon_queue_keep = DEFAULT_QUEUE_KEEP;
int			coupon_group_workers = DEFAULT_GROUP_WORKERS;
bool		coupon_allow_autonomous = false;
int			coupon_publish_interval = DEFAULT_PUBLISH_INTERVAL;
char	   *coupon_kafka_brokers = NULL;
char	   *coupon_kafka_config_file = NULL;
int			coupon_kafka_partitions = DEFAULT_KAFKA_PARTITIONS;
int			coupon_kafka_replication = DEFAULT_KAFKA_REPLICATION;
bool		coupon_kafka_create_topics = false;

/* host:port, host or protocol://host:port, by commas; or nothing at all */
static bool
check_brokers(char **value, void **extra, GucSource source)
{
	const char *rest = *value;
	bool		blank = strspn(rest, " ") == strlen(rest);

	while (!blank)
	{
		size_t		length = strcspn(rest, ",");
		const char *colon = memchr(rest, ':', length);
		const char *last = colon;
		size_t		spaces = strspn(rest, " ");

		while (last != NULL && (colon = memchr(last + 1, ':', rest + length - last - 1)) != NULL)
			last = colon;
		if (spaces >= length)
		{
			GUC_check_errdetail("A broker between commas is missing.");
			return false;
		}
		if (last != NULL && last[1] != '/' && strtoul(last + 1, NULL, 10) - 1 >= 65535)
		{
			GUC_check_errdetail("The port of \"%.*s\" is not a number from 1 to 65535.", (int) length, rest);
			return false;
		}
		if (rest[length] == '\0')
			break;
		rest += length + 1;
	}
	return true;
}

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
							"How often the sweeper looks for issuances whose usage period is over, and holds that have run out.",
							"It looks earlier when it knows of a hold that runs out earlier.",
							&coupon_sweep_interval,
							DEFAULT_SWEEP_INTERVAL, MIN_SWEEP_INTERVAL, MAX_SWEEP_INTERVAL,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("coupon.hold_keep",
							"How long it is remembered whose hold has run out.",
							"A payment that comes later than that is answered as that of a stranger.",
							&coupon_hold_keep,
							DEFAULT_HOLD_KEEP, MIN_HOLD_KEEP, MAX_HOLD_KEEP,
							PGC_SIGHUP, GUC_UNIT_S,
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

	DefineCustomIntVariable("coupon.max_lines",
							"Rooms, and campaigns with waiting requests, at the same time.",
							NULL,
							&coupon_max_lines,
							DEFAULT_MAX_LINES, MIN_MAX_LINES, MAX_MAX_LINES,
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

	DefineCustomIntVariable("coupon.group_workers",
							"Workers that carry out grouped calls, in each database.",
							"One keeps two cores busy; 0: grouped calls are refused.",
							&coupon_group_workers,
							DEFAULT_GROUP_WORKERS, 0, MAX_GROUP_WORKERS,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("coupon.publish_interval",
							"How often the publisher looks into the outbox without being woken.",
							"Commits wake it; this is for those of prepared transactions.",
							&coupon_publish_interval,
							DEFAULT_PUBLISH_INTERVAL, MIN_PUBLISH_INTERVAL, MAX_PUBLISH_INTERVAL,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomStringVariable("coupon.kafka_brokers",
							   "Kafka brokers to publish to, host:port separated by commas; empty: none.",
							   NULL,
							   &coupon_kafka_brokers,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   check_brokers, NULL, NULL);

	DefineCustomStringVariable("coupon.kafka_config_file",
							   "File of properties of the Kafka client (SASL, TLS, tuning); empty: none.",
							   "Only the server's user may be able to read it.",
							   &coupon_kafka_config_file,
							   "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);

	DefineCustomIntVariable("coupon.kafka_partitions",
							"Partitions that a topic must have; 0: any number.",
							NULL,
							&coupon_kafka_partitions,
							DEFAULT_KAFKA_PARTITIONS, 0, MAX_KAFKA_PARTITIONS,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("coupon.kafka_replication",
							"Replication factor that a topic must have; 0: any.",
							NULL,
							&coupon_kafka_replication,
							DEFAULT_KAFKA_REPLICATION, 0, MAX_KAFKA_REPLICATION,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	DefineCustomBoolVariable("coupon.kafka_create_topics",
							 "Creates topics that do not exist.",
							 "With coupon.kafka_partitions and coupon.kafka_replication, or the broker's defaults for 0.",
							 &coupon_kafka_create_topics,
							 false,
							 PGC_SIGHUP, 0,
							 NULL, NULL, NULL);
}
