/*
 * guc.c
 *	  Settings of coupon.
 *
 * Those that a session may set exist wherever the library is loaded; those
 * that size shared memory or are for processes only where it was preloaded.
 */
#include "postgres.h"

#include "utils/varlena.h"

#include "base/compat.h"
#include "base/database.h"
#include "base/guc.h"

char	   *coupon_databases = NULL;
char	   *coupon_kafka_brokers = NULL;
char	   *coupon_kafka_config_file = NULL;
bool		coupon_allow_autonomous = false;
bool		coupon_kafka_create_topics = false;
int			coupon_stock_map_memory = 0;
int			coupon_max_campaigns = 0;
int			coupon_sold_out_wait = 0;
int			coupon_sweep_interval = 0;
int			coupon_hold_keep = 0;
int			coupon_key_keep = 0;
int			coupon_refusal_keep = 0;
int			coupon_issuers = 0;
int			coupon_queue_memory = 0;
int			coupon_max_lines = 0;
int			coupon_request_depth = 0;
int			coupon_queue_keep = 0;
int			coupon_group_workers = 0;
int			coupon_publish_interval = 0;
int			coupon_kafka_partitions = 0;
int			coupon_kafka_replication = 0;
bool		coupon_cluster = false;
int			coupon_cluster_timeout = 0;
int			coupon_transfer_low_water = 0;

#define SECOND		1000		/* in ms */
#define HOUR		(3600 * SECOND)
#define MB			1024		/* in kB */
#define GB			(1024 * MB)

static const struct
{
	const char *name;
	int		   *value;
	int			initial,
				min,
				max;
	GucContext	context;
	int			unit;
	const char *what,
			   *more;			/* may be NULL */
}			integers[] =

{
	{"coupon.sold_out_wait", &coupon_sold_out_wait, 100, 0, 60 * SECOND, PGC_USERSET, GUC_UNIT_MS,
	"How long to wait for units held by running transactions before answering busy."},
	{"coupon.stock_map_memory", &coupon_stock_map_memory, 64 * MB, 8 * MB, 64 * GB, PGC_POSTMASTER, GUC_UNIT_KB,
		"Shared memory for stock maps and campaign definitions.",
	"One bit a unit, and about 100 bytes for every shard and campaign in use."},
	{"coupon.max_campaigns", &coupon_max_campaigns, 16384, 16, 1024 * 1024, PGC_POSTMASTER, 0,
		"Campaigns known to shared memory at the same time.",
	"Beyond it the least recently used is forgotten, with its counters."},
	{"coupon.sweep_interval", &coupon_sweep_interval, 1 * SECOND, 10, 1 * HOUR, PGC_SIGHUP, GUC_UNIT_MS,
		"How often the sweeper looks for issuances whose usage period is over, and holds that have run out.",
	"It looks earlier when it knows of a hold that runs out earlier."},
	{"coupon.hold_keep", &coupon_hold_keep, 24 * 3600, 1, 366 * 24 * 3600, PGC_SIGHUP, GUC_UNIT_S,
		"How long it is remembered whose hold has run out.",
	"A payment that comes later than that is answered as that of a stranger."},
	{"coupon.key_keep", &coupon_key_keep, 24 * 3600, 1, 366 * 24 * 3600, PGC_SIGHUP, GUC_UNIT_S,
		"How long it is remembered what a call with a request_key got.",
	"A call with the same key that comes later than that is a new one."},
	{"coupon.refusal_keep", &coupon_refusal_keep, 30 * 24 * 3600, 1, 366 * 24 * 3600, PGC_SIGHUP, GUC_UNIT_S,
	"How long it is kept who was refused a unit, for campaigns that note it."},
	{"coupon.issuers", &coupon_issuers, 1, 1, COUPON_MAX_INSTANCES, PGC_SIGHUP, 0,
		"Workers that decide requests, for each database.",
	"A campaign's requests are decided by one at a time, in order; more serve more campaigns at once."},
	{"coupon.queue_memory", &coupon_queue_memory, 64 * MB, 1 * MB, 64 * GB, PGC_POSTMASTER, GUC_UNIT_KB,
		"Shared memory for those who wait: requests and tickets.",
	"About 40 bytes for each ticket in a room, and less than 1 for each request."},
	{"coupon.max_lines", &coupon_max_lines, 256, 8, 8192, PGC_POSTMASTER, 0,
	"Rooms, and campaigns with waiting requests, at the same time."},
	{"coupon.request_depth", &coupon_request_depth, 100000, 1, 100000000, PGC_SIGHUP, 0,
	"Requests that may wait for one campaign; beyond it they are refused."},
	{"coupon.queue_keep", &coupon_queue_keep, 1 * HOUR, 10, 7 * 24 * HOUR, PGC_SIGHUP, GUC_UNIT_MS,
	"How long decided requests and ended tickets are kept, at least."},
	{"coupon.group_workers", &coupon_group_workers, 1, 0, COUPON_MAX_INSTANCES, PGC_SIGHUP, 0,
		"Workers that carry out grouped calls, in each database.",
	"One keeps two cores busy; 0: grouped calls are refused."},
	{"coupon.publish_interval", &coupon_publish_interval, 1 * SECOND, 10, 1 * HOUR, PGC_SIGHUP, GUC_UNIT_MS,
		"How often the publisher looks into the outbox without being woken.",
	"Commits wake it; this is for those of prepared transactions."},
	{"coupon.kafka_partitions", &coupon_kafka_partitions, 12, 0, 100000, PGC_SIGHUP, 0,
	"Partitions that a topic must have; 0: any number."},
	{"coupon.kafka_replication", &coupon_kafka_replication, 0, 0, 100, PGC_SIGHUP, 0,
	"Replication factor that a topic must have; 0: any."},
	{"coupon.cluster_timeout", &coupon_cluster_timeout, 1 * SECOND, 10, 60 * SECOND, PGC_SIGHUP, GUC_UNIT_MS,
	"How long to wait for the answer of another node."},
	{"coupon.transfer_low_water", &coupon_transfer_low_water, 5, 0, 100, PGC_SIGHUP, 0,
		"With fewer free units than this percentage of a campaign's units at this node, more are fetched from others.",
	"0: only when a call finds none."}
};

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

bool
coupon_guc_check_names(char **value, void **extra, GucSource source)
{
	List	   *names;

	if (SplitGUCList(pstrdup(*value), ',', &names))
		return true;
	GUC_check_errdetail("It is not a list of names separated by commas.");
	GUC_check_errhint("A name with a space or a comma in it is written in double quotes.");
	return false;
}

/* Settings of processes that are not integers. */
static void
define_others(void)
{
	DefineCustomStringVariable("coupon.databases",
							   "Databases that get coupon's workers, separated by commas.",
							   NULL,
							   &coupon_databases, "postgres",
							   PGC_SIGHUP, 0, coupon_guc_check_names, NULL, NULL);
	DefineCustomBoolVariable("coupon.cluster",
							 "Starts the worker that shares stock with other nodes.",
							 "A node of a cluster sells nothing before another one has confirmed it.",
							 &coupon_cluster, false,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("coupon.kafka_brokers",
							   "Kafka brokers to publish to, host:port separated by commas; empty: none.",
							   NULL,
							   &coupon_kafka_brokers, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, check_brokers, NULL, NULL);
	DefineCustomStringVariable("coupon.kafka_config_file",
							   "File of properties of the Kafka client (SASL, TLS, tuning); empty: none.",
							   "Only the server's user may be able to read it.",
							   &coupon_kafka_config_file, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomBoolVariable("coupon.kafka_create_topics",
							 "Creates topics that do not exist.",
							 "With coupon.kafka_partitions and coupon.kafka_replication, or the broker's defaults for 0.",
							 &coupon_kafka_create_topics, false,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
}

void
coupon_guc_define(bool preloaded)
{
	for (size_t i = 0; i < lengthof(integers); i++)
	{
		if (preloaded || integers[i].context == PGC_USERSET)
			DefineCustomIntVariable(integers[i].name, integers[i].what, integers[i].more,
									integers[i].value, integers[i].initial,
									integers[i].min, integers[i].max,
									integers[i].context, integers[i].unit, NULL, NULL, NULL);
	}
	DefineCustomBoolVariable("coupon.allow_autonomous",
							 "Lets coupon_issue_grouped() run inside transaction blocks and functions.",
							 "It commits on its own, whatever becomes of the transaction around it.",
							 &coupon_allow_autonomous, false,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	if (preloaded)
		define_others();
}
