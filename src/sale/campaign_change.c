/*
 * campaign_change.c
 *	  Changing a sale that is under way: its rules, and taking free units off it.
 *
 * A unit is withdrawn by taking it in the stock map, as whoever issues it
 * would, and by noting that in its shard's row; so nobody else can have it
 * from then on, and if the transaction aborts it is free again.  The stock map
 * is made of the index and of these notes (stock_build.c).
 *
 * What is altered holds for calls that begin after the commit.  A call that
 * runs goes by the definition that it has entered with.
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/arguments.h"
#include "base/errors.h"
#include "base/guc.h"
#include "base/spi.h"
#include "base/table_writer.h"
#include "base/trace.h"
#include "outbox/outbox.h"
#include "outbox/payload.h"
#include "sale/campaign.h"
#include "sale/hold.h"
#include "sale/policy.h"
#include "sale/shard_note.h"
#include "sale/sweep.h"
#include "sale/take.h"

#define MAX_REDUCED		INT64CONST(1000000) /* at a time */
#define MAX_WITHDRAWN	10000	/* that are named */

PG_FUNCTION_INFO_V1(coupon_campaign_alter);
PG_FUNCTION_INFO_V1(coupon_campaign_require_room);
PG_FUNCTION_INFO_V1(coupon_campaign_reduce_stock);
PG_FUNCTION_INFO_V1(coupon_units_withdraw);

/* ---- rules ---- */

#define ALTER_NARGS	7

/* What append_altered() tells of. */
#define RULES \
	" RETURNING c.name, c.per_user_limit, c.opens_at, c.closes_at, c.policy::text, c.topic," \
	"           (SELECT r.name FROM coupon.room r WHERE r.room_id = c.room_id)"

/*
 * When the sale begins or ends.  No value is none, and so is the infinity that
 * does not bound it; the other one is told, so that a sale that never opens is not
 * taken for one that is open.
 */
static void
append_bound(StringInfo payload, const char *key, int column, TimestampTz unbounded)
{
	bool		isnull;
	TimestampTz bound = DatumGetTimestampTz(coupon_spi_value(0, column, &isnull));

	if (isnull || bound == unbounded)
		return;
	if (TIMESTAMP_NOT_FINITE(bound))
		coupon_payload_text(payload, key, TIMESTAMP_IS_NOEND(bound) ? "infinity" : "-infinity");
	else
		coupon_payload_time(payload, key, bound);
}

/* The rules as they are now, from the row that the last statement returned. */
static void
append_altered(int64 campaign_id, const CouponCampaignRow *row)
{
	StringInfoData payload;
	char		key[MAXINT8LEN + 1];

	initStringInfo(&payload);
	coupon_payload_begin(&payload);
	coupon_payload_int64(&payload, "campaign_id", campaign_id);
	coupon_payload_text(&payload, "name", coupon_spi_text(0, 1));
	coupon_payload_int64(&payload, "per_user_limit", DatumGetInt32(coupon_spi_value(0, 2, NULL)));
	append_bound(&payload, "opens_at", 3, DT_NOBEGIN);
	append_bound(&payload, "closes_at", 4, DT_NOEND);
	coupon_payload_json(&payload, "policy", coupon_spi_text(0, 5));
	coupon_payload_text(&payload, "topic", coupon_spi_text(0, 6));
	coupon_payload_text(&payload, "room", coupon_spi_text(0, 7));
	coupon_payload_int64(&payload, "stock", row->stock - row->withdrawn);
	coupon_payload_time(&payload, "at", GetCurrentTimestamp());
	coupon_payload_end(&payload);

	/* to the topic that it had, whose readers are to know of the new one */
	pg_lltoa(campaign_id, key);
	coupon_outbox_append(row->topic, key, COUPON_EVENT_CAMPAIGN_ALTERED, payload.data, coupon_trace());
}

static void
check_window(int64 campaign_id, Datum *values, char *nulls)
{
	static CouponStatement select = {
		"SELECT n.opens_at, n.closes_at FROM ("
		" SELECT nullif(coalesce($2, opens_at), '-infinity') AS opens_at,"
		"        nullif(coalesce($3, closes_at), 'infinity') AS closes_at"
		"   FROM coupon.campaign WHERE campaign_id = $1) n"
		" WHERE n.opens_at >= n.closes_at",
		3, {INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID}
	};
	Datum		times[3] = {Int64GetDatum(campaign_id), values[2], values[3]};
	char		time_nulls[3] = {' ', nulls[2], nulls[3]};

	if (coupon_spi_execute(&select, SPI_OK_SELECT, times, time_nulls) == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("campaign would close before it opens"),
			 errdetail("opens_at would be %s, closes_at %s.",
					   pstrdup(timestamptz_to_str(DatumGetTimestampTz(coupon_spi_value(0, 1, NULL)))),
					   pstrdup(timestamptz_to_str(DatumGetTimestampTz(coupon_spi_value(0, 2, NULL))))),
			 errhint("closes_at must be after opens_at; 'infinity' is never.")));
}

/*
 * coupon_campaign_alter(campaign_id, name, opens_at, closes_at, per_user_limit,
 *						 policy, topic)
 */
Datum
coupon_campaign_alter(PG_FUNCTION_ARGS)
{
	static CouponStatement update = {
		"UPDATE coupon.campaign c"
		"   SET name = n.name, opens_at = n.opens_at, closes_at = n.closes_at,"
		"       per_user_limit = n.per_user_limit, policy = n.policy, topic = n.topic"
		"  FROM (SELECT campaign_id, coalesce($2, name) AS name,"
		"               nullif(coalesce($3, opens_at), '-infinity') AS opens_at,"
		"               nullif(coalesce($4, closes_at), 'infinity') AS closes_at,"
		"               coalesce($5, per_user_limit) AS per_user_limit,"
		"               coalesce($6, policy) AS policy, coalesce($7, topic) AS topic"
		"          FROM coupon.campaign WHERE campaign_id = $1) n"
		" WHERE c.campaign_id = n.campaign_id"
		"   AND (c.name, c.opens_at, c.closes_at, c.per_user_limit, c.policy, c.topic)"
		"       IS DISTINCT FROM"
		"       (n.name, n.opens_at, n.closes_at, n.per_user_limit, n.policy, n.topic)"
		RULES,
		ALTER_NARGS, {INT8OID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, JSONBOID, TEXTOID}
	};
	CouponCampaignRow row;
	int64		campaign_id;
	Datum		values[ALTER_NARGS];
	char		nulls[ALTER_NARGS];
	bool		changed;

	coupon_require_argument(fcinfo, 0, "campaign_id");
	campaign_id = PG_GETARG_INT64(0);
	for (int i = 0; i < ALTER_NARGS; i++)
	{
		values[i] = PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	if (!PG_ARGISNULL(1))
		coupon_check_text(fcinfo, 1, "name", 1, COUPON_MAX_NAME);
	if (!PG_ARGISNULL(4))
		(void) coupon_get_int32(fcinfo, 4, "per_user_limit", 1, COUPON_MAX_PER_USER_LIMIT);
	if (!PG_ARGISNULL(5))
		coupon_policy_check(PG_GETARG_JSONB_P(5));
	if (!PG_ARGISNULL(6))
		coupon_outbox_check_topic(coupon_get_text(fcinfo, 6, "topic", 1, COUPON_MAX_TEXT));
	coupon_shmem_attach();

	coupon_spi_connect();
	coupon_campaign_lock_row(campaign_id, false, &row);
	check_window(campaign_id, values, nulls);
	changed = coupon_spi_execute(&update, SPI_OK_UPDATE_RETURNING, values, nulls) > 0;
	if (changed)
		append_altered(campaign_id, &row);
	coupon_spi_finish();
	PG_RETURN_BOOL(changed);
}

/* The id of a room, which coupon_room_drop() waits to take away, or this for it. */
static Datum
lock_room(Datum name)
{
	static CouponStatement find = {"SELECT coupon.room_id($1)", 1, {TEXTOID}};
	static CouponStatement lock = {"SELECT FROM coupon.room WHERE room_id = $1 FOR KEY SHARE", 1, {INT8OID}};
	Datum		room_id;

	do
	{
		CHECK_FOR_INTERRUPTS();
		(void) coupon_spi_execute(&find, SPI_OK_SELECT, &name, NULL);
		room_id = coupon_spi_value(0, 1, NULL);
	} while (coupon_spi_execute(&lock, SPI_OK_SELECT, &room_id, NULL) == 0);
	return room_id;
}

/*
 * coupon_campaign_require_room(campaign_id, room)
 */
Datum
coupon_campaign_require_room(PG_FUNCTION_ARGS)
{
	static CouponStatement update = {
		"UPDATE coupon.campaign c SET room_id = $2"
		" WHERE campaign_id = $1 AND room_id IS DISTINCT FROM $2"
		RULES,
		2, {INT8OID, INT8OID}
	};
	CouponCampaignRow row;
	Datum		values[2];
	char		nulls[2] = {' ', PG_ARGISNULL(1) ? 'n' : ' '};

	coupon_require_argument(fcinfo, 0, "campaign_id");
	coupon_shmem_attach();

	coupon_spi_connect();
	values[0] = Int64GetDatum(PG_GETARG_INT64(0));
	values[1] = PG_ARGISNULL(1) ? (Datum) 0 : lock_room(PG_GETARG_DATUM(1));
	coupon_campaign_lock_row(PG_GETARG_INT64(0), true, &row);
	if (coupon_spi_execute(&update, SPI_OK_UPDATE_RETURNING, values, nulls) > 0)
		append_altered(PG_GETARG_INT64(0), &row);
	coupon_spi_finish();
	PG_RETURN_VOID();
}

/* ---- stock ---- */

/* Notes that units are withdrawn which this transaction has taken. */
static void
note_withdrawn(int64 campaign_id, CouponUnit *units, int n, CouponCampaignRow *row)
{
	int			nranges;
	CouponRange *ranges;

	qsort(units, n, sizeof(CouponUnit), coupon_compare_units);
	ranges = coupon_ranges_of(units, n, &nranges);
	coupon_shard_note(campaign_id, COUPON_NOTE_WITHDRAWN, ranges, nranges, true);
	pfree(ranges);
	row->withdrawn += n;
}

/*
 * Takes any n units of a campaign; returns how many there were.  *units is
 * allocated.
 */
static int
take_any(CouponCampaign *campaign, const CouponDefinition *def, int n, CouponUnit **units)
{
	CouponTableWriter *table = coupon_writer_open(coupon_catalog()->issuance, COUPON_DELETE);
	int			wait_ms = def->shared ? 0 : coupon_sold_out_wait;
	CouponShortage why;
	int			taken = 0;
	int			got;

	*units = palloc_extended(mul_size(n, sizeof(CouponUnit)), MCXT_ALLOC_HUGE);

	/*
	 * those of other nodes cannot come meanwhile: the campaign's row is
	 * locked
	 */
	do
	{
		got = coupon_take(campaign, def, table, COUPON_TO_HOLD, n - taken, wait_ms, *units + taken, &why);
		qsort(*units + taken, got, sizeof(CouponUnit), coupon_compare_units);
		taken += coupon_take_drop_issued(campaign, *units + taken, got);
	} while (got > 0 && taken < n);
	coupon_writer_close(table);
	return taken;
}

/*
 * coupon_campaign_reduce_stock(campaign_id, units)
 */
Datum
coupon_campaign_reduce_stock(PG_FUNCTION_ARGS)
{
	CouponCampaignRow row;
	CouponCampaign *campaign;
	const CouponDefinition *def;
	CouponUnit *units;
	int64		campaign_id;
	int64		n;
	int			taken;

	coupon_require_argument(fcinfo, 0, "campaign_id");
	campaign_id = PG_GETARG_INT64(0);
	n = coupon_get_int64(fcinfo, 1, "units", 1, MAX_REDUCED);
	coupon_shmem_attach();

	coupon_spi_connect();
	coupon_campaign_lock_row(campaign_id, false, &row);
	coupon_campaign_require_keeper(campaign_id, &row);
	if (row.labels_public)
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_UNIT_KIND),
				 errmsg("units of this campaign are not alike"),
				 errdetail("Campaign %lld has labelled units.", (long long) campaign_id),
				 errhint("Name those that are to go with coupon_units_withdraw().")));
	campaign = coupon_campaign_enter(campaign_id, &def);
	taken = take_any(campaign, def, n, &units);
	if (taken < n)
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_NOT_FREE),
				 errmsg("too few units of the campaign are free"),
				 errdetail("Campaign %lld: %lld were asked for, and %d are free.",
						   (long long) campaign_id, (long long) n, taken),
				 def->shared ? errhint("Units that other nodes have cannot be withdrawn here. coupon_campaign_close() ends a sale.") :
				 errhint("Ask for fewer; what is issued or held stays so. coupon_campaign_close() ends a sale.")));
	note_withdrawn(campaign_id, units, n, &row);
	coupon_campaign_event(campaign_id, &row, COUPON_EVENT_STOCK_REDUCED, n);
	coupon_campaign_leave(campaign);
	coupon_spi_finish();
	PG_RETURN_INT64(row.stock - row.withdrawn);
}

/* ---- named units ---- */

static int64 *
get_serials(FunctionCallInfo fcinfo, int *n)
{
	int64	   *serials;

	coupon_require_argument(fcinfo, 1, "serials");
	serials = coupon_int64s(PG_GETARG_DATUM(1), "serials", n);
	if (*n < 1 || *n > MAX_WITHDRAWN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("serials must have 1 to %d elements", MAX_WITHDRAWN),
				 errdetail("It has %d.", *n),
				 errhint("Split the array.")));
	return serials;
}

/* Takes the unit of a serial, or that of a hold on it which has run out. */
static bool
take_named(CouponCampaign *campaign, const CouponDefinition *def, CouponTableWriter *table,
		   int64 serial, CouponUnit *unit)
{
	CouponStock *stock = coupon_stock_open(campaign, def);
	bool		taken = coupon_stock_take_serial(campaign, stock, serial, unit) ||
	coupon_sweep_serial(campaign, def, table, COUPON_TO_HOLD, serial, unit);

	if (!taken)
	{
		coupon_stock_heal(campaign, stock, unit);
		taken = coupon_stock_take_serial(campaign, stock, serial, unit);
	}
	return taken && coupon_take_drop_issued(campaign, unit, 1) == 1;
}

/*
 * coupon_units_withdraw(campaign_id, serials)
 */
Datum
coupon_units_withdraw(PG_FUNCTION_ARGS)
{
	CouponCampaignRow row;
	CouponCampaign *campaign;
	const CouponDefinition *def;
	CouponTableWriter *table;
	CouponUnit *units;
	int64		campaign_id;
	int64	   *serials;
	int			n;

	coupon_require_argument(fcinfo, 0, "campaign_id");
	campaign_id = PG_GETARG_INT64(0);
	serials = get_serials(fcinfo, &n);
	coupon_shmem_attach();

	coupon_spi_connect();
	coupon_campaign_lock_row(campaign_id, false, &row);
	coupon_campaign_require_keeper(campaign_id, &row);
	campaign = coupon_campaign_enter(campaign_id, &def);
	units = palloc(n * sizeof(CouponUnit));
	table = coupon_writer_open(coupon_catalog()->issuance, COUPON_DELETE);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		coupon_hold_check_serial(def, serials[i]);
		if (!take_named(campaign, def, table, serials[i], &units[i]))
			ereport(ERROR,
					(errcode(ERRCODE_COUPON_NOT_FREE),
					 errmsg("unit is not free"),
					 errdetail("Serial %lld of campaign %lld is issued, held or withdrawn, or another transaction is at it.",
							   (long long) serials[i], (long long) campaign_id),
					 errhint("None was withdrawn; coupon_units() lists those that are free.")));
	}
	coupon_writer_close(table);
	note_withdrawn(campaign_id, units, n, &row);
	coupon_campaign_event(campaign_id, &row, COUPON_EVENT_STOCK_REDUCED, n);
	coupon_campaign_leave(campaign);
	coupon_spi_finish();
	PG_RETURN_INT64(row.stock - row.withdrawn);
}
