/*
 * campaign_admin.c
 *	  Creating and changing campaigns.
 *
 * Each change locks the campaign's row first, so changes of one campaign
 * queue up, and appends one event.  Triggers on the tables see to the cache
 * (campaign.c).  Issuing never waits for these locks.
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/arguments.h"
#include "base/errors.h"
#include "base/spi.h"
#include "base/trace.h"
#include "node/node.h"
#include "outbox/outbox.h"
#include "outbox/payload.h"
#include "sale/campaign.h"
#include "sale/policy.h"

/*
 * So many shards that sessions seldom meet, so large that 100 million units
 * need no more than about 1500, and whole words of 64 bits.
 */
#define WANTED_SHARDS		64
#define MIN_SHARD_UNITS		64
#define MAX_SHARD_UNITS		65536

PG_FUNCTION_INFO_V1(coupon_campaign_create);
PG_FUNCTION_INFO_V1(coupon_campaign_add_stock);
PG_FUNCTION_INFO_V1(coupon_campaign_pause);
PG_FUNCTION_INFO_V1(coupon_campaign_resume);
PG_FUNCTION_INFO_V1(coupon_campaign_close);

void
coupon_campaign_lock_row(int64 campaign_id, bool allow_closed, CouponCampaignRow *row)
{
	static CouponStatement lock = {
		"SELECT paused, closed_at IS NOT NULL, coded, topic, labels_public, withdrawn, dumped IS NOT NULL, keeper"
		"  FROM coupon.campaign WHERE campaign_id = $1 FOR NO KEY UPDATE",
		1, {INT8OID}
	};
	static CouponStatement last_shard = {
		"SELECT last_serial, shard + 1 FROM coupon.shard"
		" WHERE campaign_id = $1 ORDER BY shard DESC LIMIT 1",
		1, {INT8OID}
	};
	Datum		values[1] = {Int64GetDatum(campaign_id)};
	bool		copy;
	bool		isnull;

	if (coupon_spi_execute(&lock, SPI_OK_SELECT, values, NULL) == 0)
		coupon_campaign_unknown(campaign_id);
	row->paused = DatumGetBool(coupon_spi_value(0, 1, NULL));
	row->closed = DatumGetBool(coupon_spi_value(0, 2, NULL));
	row->coded = DatumGetBool(coupon_spi_value(0, 3, NULL));
	row->topic = coupon_spi_text(0, 4);
	row->labels_public = DatumGetBool(coupon_spi_value(0, 5, NULL));
	row->withdrawn = DatumGetInt64(coupon_spi_value(0, 6, NULL));
	copy = DatumGetBool(coupon_spi_value(0, 7, NULL));
	row->keeper = DatumGetInt16(coupon_spi_value(0, 8, &isnull));
	if (isnull)
		row->keeper = 0;
	row->stock = 0;
	row->nshards = 0;
	if (coupon_spi_execute(&last_shard, SPI_OK_SELECT, values, NULL) > 0)
	{
		row->stock = DatumGetInt64(coupon_spi_value(0, 1, NULL));
		row->nshards = DatumGetInt32(coupon_spi_value(0, 2, NULL));
	}

	if (row->closed && !allow_closed)
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_CAMPAIGN_CLOSED),
				 errmsg("campaign is closed"),
				 errdetail("Campaign %lld was closed with coupon_campaign_close().",
						   (long long) campaign_id),
				 errhint("Closing is final; create another campaign.")));
	if (copy && !allow_closed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("campaign was restored and is not checked yet"),
				 errdetail("Campaign %lld may lack issuances.", (long long) campaign_id),
				 errhint("Look with SELECT * FROM coupon_restored().")));
}

static void
add_shards(int64 campaign_id, int64 units, CouponCampaignRow *row)
{
	static CouponStatement insert = {
		"INSERT INTO coupon.shard (campaign_id, shard, first_serial, last_serial)"
		" SELECT $1, $2 + g, $3 + g * $5 + 1, $3 + least((g + 1) * $5, $4)"
		"   FROM generate_series(0, ($4 - 1) / $5) g",
		5, {INT8OID, INT4OID, INT8OID, INT8OID, INT8OID}
	};
	int64		shard_units;
	int64		nshards;
	Datum		values[5];

	if (units == 0)
		return;
	if (units > COUPON_MAX_STOCK - row->stock)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("campaign would have too many units"),
				 errdetail("It has %lld, and %lld more were asked for.",
						   (long long) row->stock, (long long) units),
				 errhint("A campaign can have %lld units; create another one for the rest.",
						 (long long) COUPON_MAX_STOCK)));

	shard_units = (units + WANTED_SHARDS - 1) / WANTED_SHARDS;
	shard_units = TYPEALIGN(MIN_SHARD_UNITS, shard_units);
	shard_units = Min(shard_units, MAX_SHARD_UNITS);
	nshards = (units - 1) / shard_units + 1;

	values[0] = Int64GetDatum(campaign_id);
	values[1] = Int32GetDatum(row->nshards);
	values[2] = Int64GetDatum(row->stock);
	values[3] = Int64GetDatum(units);
	values[4] = Int64GetDatum(shard_units);
	coupon_spi_change(&insert, SPI_OK_INSERT, values, NULL, nshards);
	row->nshards += nshards;
	row->stock += units;
}

void
coupon_campaign_require_keeper(int64 campaign_id, const CouponCampaignRow *row)
{
	if (row->keeper != 0 && row->keeper != coupon_node_id())
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_NODE_MAP),
				 errmsg("campaign is shared and gets its units at another node"),
				 errdetail("The keeper of campaign %lld is node %d.", (long long) campaign_id, row->keeper),
				 errhint("Add stock, import codes, or withdraw units at that node.")));
}

void
coupon_campaign_add_units(int64 campaign_id, int64 units, CouponCampaignRow *row)
{
	static CouponStatement touch = {
		"UPDATE coupon.campaign SET withdrawn = withdrawn WHERE campaign_id = $1",
		1, {INT8OID}
	};
	Datum		values[1] = {Int64GetDatum(campaign_id)};

	coupon_campaign_require_keeper(campaign_id, row);
	/* whose snapshot does not show the shards must not get the row's lock */
	(void) coupon_spi_execute(&touch, SPI_OK_UPDATE, values, NULL);
	add_shards(campaign_id, units, row);
}

void
coupon_campaign_event(int64 campaign_id, const CouponCampaignRow *row,
					  const char *type, int64 units)
{
	StringInfoData payload;
	char		key[MAXINT8LEN + 1];

	initStringInfo(&payload);
	coupon_payload_begin(&payload);
	coupon_payload_int64(&payload, "campaign_id", campaign_id);
	if (units >= 0)
		coupon_payload_int64(&payload, "units", units);
	coupon_payload_int64(&payload, "stock", row->stock - row->withdrawn);
	coupon_payload_time(&payload, "at", GetCurrentTimestamp());
	coupon_payload_end(&payload);

	pg_lltoa(campaign_id, key);
	coupon_outbox_append(row->topic, key, type, payload.data, coupon_trace());
	pfree(payload.data);
}

/*
 * coupon_campaign_create(name, stock, per_user_limit, opens_at, closes_at,
 *						  policy, topic)
 */
Datum
coupon_campaign_create(PG_FUNCTION_ARGS)
{
	static CouponStatement insert = {
		"INSERT INTO coupon.campaign (name, per_user_limit, opens_at, closes_at, policy, topic)"
		" VALUES ($1, $2, $3, $4, $5, $6) RETURNING campaign_id",
		6, {TEXTOID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, JSONBOID, TEXTOID}
	};
	static CouponStatement insert_as = {
		"INSERT INTO coupon.campaign (name, per_user_limit, opens_at, closes_at, policy, topic, campaign_id)"
		" OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING campaign_id",
		7, {TEXTOID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, JSONBOID, TEXTOID, INT8OID}
	};
	CouponCampaignRow row = {0};
	int64		stock;
	int64		campaign_id;
	Datum		values[7];
	char		nulls[7] = {' ', ' ', ' ', ' ', ' ', ' ', ' '};

	coupon_check_text(fcinfo, 0, "name", 1, COUPON_MAX_NAME);
	stock = coupon_get_int64(fcinfo, 1, "stock", 0, COUPON_MAX_STOCK);
	values[0] = PG_GETARG_DATUM(0);
	values[1] = Int32GetDatum(coupon_get_int32(fcinfo, 2, "per_user_limit", 1,
											   COUPON_MAX_PER_USER_LIMIT));
	for (int i = 3; i <= 4; i++)
	{
		values[i - 1] = PG_GETARG_DATUM(i);
		if (PG_ARGISNULL(i))
			nulls[i - 1] = 'n';
	}
	if (!PG_ARGISNULL(3) && !PG_ARGISNULL(4) &&
		PG_GETARG_TIMESTAMPTZ(3) >= PG_GETARG_TIMESTAMPTZ(4))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("campaign would close before it opens"),
				 errdetail("opens_at is %s, closes_at is %s.",
						   pstrdup(timestamptz_to_str(PG_GETARG_TIMESTAMPTZ(3))),
						   pstrdup(timestamptz_to_str(PG_GETARG_TIMESTAMPTZ(4)))),
				 errhint("closes_at must be after opens_at.")));
	coupon_require_argument(fcinfo, 5, "policy");
	coupon_policy_check(PG_GETARG_JSONB_P(5));
	values[4] = PG_GETARG_DATUM(5);
	row.topic = coupon_get_text(fcinfo, 6, "topic", 1, COUPON_MAX_TEXT);
	coupon_outbox_check_topic(row.topic);
	values[5] = PG_GETARG_DATUM(6);
	/* coupon.campaign_create_as() has chosen the id */
	if (PG_NARGS() > 7)
		values[6] = PG_GETARG_DATUM(7);
	coupon_shmem_attach();

	coupon_spi_connect();
	coupon_spi_change(PG_NARGS() > 7 ? &insert_as : &insert, SPI_OK_INSERT_RETURNING, values, nulls, 1);
	campaign_id = DatumGetInt64(coupon_spi_value(0, 1, NULL));
	add_shards(campaign_id, stock, &row);
	coupon_campaign_event(campaign_id, &row, COUPON_EVENT_CAMPAIGN_CREATED, -1);
	coupon_spi_finish();
	PG_RETURN_INT64(campaign_id);
}

/*
 * coupon_campaign_add_stock(campaign_id, units)
 */
Datum
coupon_campaign_add_stock(PG_FUNCTION_ARGS)
{
	CouponCampaignRow row;
	int64		campaign_id;
	int64		units;

	coupon_require_argument(fcinfo, 0, "campaign_id");
	campaign_id = PG_GETARG_INT64(0);
	units = coupon_get_int64(fcinfo, 1, "units", 1, COUPON_MAX_STOCK);
	coupon_shmem_attach();

	coupon_spi_connect();
	coupon_campaign_lock_row(campaign_id, false, &row);
	if (row.coded)
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_UNIT_KIND),
				 errmsg("units of this campaign need labels"),
				 errdetail("Campaign %lld has %s.", (long long) campaign_id,
						   row.labels_public ? "labelled units" : "codes"),
				 row.labels_public ? errhint("Add units with coupon_units_import().") :
				 errhint("Add units with coupon_codes_import() or coupon_codes_generate().")));
	coupon_campaign_add_units(campaign_id, units, &row);
	coupon_campaign_event(campaign_id, &row, COUPON_EVENT_STOCK_ADDED, units);
	coupon_spi_finish();
	PG_RETURN_INT64(row.stock - row.withdrawn);
}

/* Changes a campaign's state; false, and no event, if it is so already. */
static bool
change_state(FunctionCallInfo fcinfo, CouponStatement *update, bool allow_closed,
			 const char *type)
{
	CouponCampaignRow row;
	int64		campaign_id;
	Datum		values[1];
	bool		changed;

	coupon_require_argument(fcinfo, 0, "campaign_id");
	campaign_id = PG_GETARG_INT64(0);
	values[0] = Int64GetDatum(campaign_id);
	coupon_shmem_attach();

	coupon_spi_connect();
	coupon_campaign_lock_row(campaign_id, allow_closed, &row);
	changed = coupon_spi_execute(update, SPI_OK_UPDATE, values, NULL) > 0;
	if (changed)
		coupon_campaign_event(campaign_id, &row, type, -1);
	coupon_spi_finish();
	return changed;
}

/*
 * coupon_campaign_pause(campaign_id)
 */
Datum
coupon_campaign_pause(PG_FUNCTION_ARGS)
{
	static CouponStatement update = {
		"UPDATE coupon.campaign SET paused = true WHERE campaign_id = $1 AND NOT paused",
		1, {INT8OID}
	};

	PG_RETURN_BOOL(change_state(fcinfo, &update, false, COUPON_EVENT_CAMPAIGN_PAUSED));
}

/*
 * coupon_campaign_resume(campaign_id)
 */
Datum
coupon_campaign_resume(PG_FUNCTION_ARGS)
{
	static CouponStatement update = {
		"UPDATE coupon.campaign SET paused = false WHERE campaign_id = $1 AND paused",
		1, {INT8OID}
	};

	PG_RETURN_BOOL(change_state(fcinfo, &update, false, COUPON_EVENT_CAMPAIGN_RESUMED));
}

/*
 * coupon_campaign_close(campaign_id)
 */
Datum
coupon_campaign_close(PG_FUNCTION_ARGS)
{
	static CouponStatement update = {
		"UPDATE coupon.campaign SET closed_at = clock_timestamp()"
		" WHERE campaign_id = $1 AND closed_at IS NULL",
		1, {INT8OID}
	};

	PG_RETURN_BOOL(change_state(fcinfo, &update, true, COUPON_EVENT_CAMPAIGN_CLOSED));
}
