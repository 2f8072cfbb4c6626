/*
 * redeem.c
 *	  The life of an issuance after it was issued: redeemed, its redemption
 *	  cancelled, revoked, expired.
 *
 * Each step locks the user's rows in the order of nth, decides, changes one
 * row and appends one event under that lock, so the events of a row have the
 * order of its changes.  Doing a step twice changes nothing and says so.
 *
 * Revoking deletes the row: what is in coupon.issuance is what is issued, and
 * the history is in the events.  The unit goes back into stock when the
 * deletion commits, by the trigger on the table, whoever deletes.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "base/arguments.h"
#include "base/catalog.h"
#include "base/errors.h"
#include "base/spi.h"
#include "base/stat.h"
#include "base/trace.h"
#include "base/trigger.h"
#include "node/node.h"
#include "sale/away.h"
#include "sale/campaign.h"
#include "sale/redeem.h"
#include "sale/stock.h"
#include "sale/unit_event.h"
#include "sale/user_filter.h"

PG_FUNCTION_INFO_V1(coupon_redeem);
PG_FUNCTION_INFO_V1(coupon_redeem_cancel);
PG_FUNCTION_INFO_V1(coupon_revoke);
PG_FUNCTION_INFO_V1(coupon_issuance_arrived);
PG_FUNCTION_INFO_V1(coupon_issuance_returned);

#define REDEEM_WAY(what, names) \
	{.name = what, .kind = COUPON_WAY_TRANSACTION, .outcomes = names, .noutcomes = lengthof(names)}

static const char *const redeem_outcomes[] = {"redeemed", "already_redeemed", "expired", "held", "not_issued"};
static const char *const cancel_outcomes[] = {"cancelled", "not_redeemed", "not_issued", "other_order"};
static const char *const revoke_outcomes[] = {"not_issued", "revoked"};

CouponWay	coupon_way_redeem = REDEEM_WAY("redeem", redeem_outcomes);
CouponWay	coupon_way_cancel = REDEEM_WAY("cancel", cancel_outcomes);
CouponWay	coupon_way_revoke = REDEEM_WAY("revoke", revoke_outcomes);

/* A user's issuance, as this file needs it. */
typedef struct Holding
{
	CouponUnitEvent unit;		/* what its events say; a time that is none is
								 * DT_NOEND */
	char	   *state;
	TimestampTz held_until;		/* DT_NOEND: confirmed */
} Holding;

/* The columns of a Holding, for SELECT and RETURNING. */
#define HOLDING_COLUMNS \
	"i.campaign_id, i.user_id, c.topic, i.serial, i.state, u.label, i.policy::text," \
	" i.issued_at, i.expires_at, i.order_ref, i.redeemed_at, i.held_until"

static TimestampTz
get_time(uint64 row, int column)
{
	bool		isnull;
	Datum		value = coupon_spi_value(row, column, &isnull);

	return isnull ? DT_NOEND : DatumGetTimestampTz(value);
}

static void
get_holding(uint64 row, Holding *holding)
{
	memset(holding, 0, sizeof(*holding));
	holding->unit.campaign_id = DatumGetInt64(coupon_spi_value(row, 1, NULL));
	holding->unit.user_id = coupon_spi_text(row, 2);
	holding->unit.topic = coupon_spi_text(row, 3);
	holding->unit.serial = DatumGetInt64(coupon_spi_value(row, 4, NULL));
	holding->state = coupon_spi_text(row, 5);
	holding->unit.code = coupon_spi_text(row, 6);
	holding->unit.policy = coupon_spi_text(row, 7);
	holding->unit.issued_at = get_time(row, 8);
	holding->unit.expires_at = get_time(row, 9);
	holding->unit.order_ref = coupon_spi_text(row, 10);
	holding->unit.redeemed_at = get_time(row, 11);
	holding->held_until = get_time(row, 12);

	/* a row that was not written by coupon may lack it */
	if (holding->unit.order_ref == NULL && strcmp(holding->state, "redeemed") == 0)
		holding->unit.order_ref = pstrdup("");
}

/*
 * Locks and reads a user's issuances of a campaign, or the one with a given
 * serial (0: all), in the order of nth.  ERROR for an unknown campaign.
 */
static Holding *
lock_holdings(int64 campaign_id, char *user_id, int64 serial, int *count)
{
	static CouponStatement campaign = {
		"SELECT FROM coupon.campaign WHERE campaign_id = $1",
		1, {INT8OID}
	};
	static CouponStatement select = {
		"SELECT " HOLDING_COLUMNS
		"  FROM coupon.issuance i"
		"  JOIN coupon.campaign c ON c.campaign_id = i.campaign_id"
		"  LEFT JOIN coupon.unit u ON u.campaign_id = i.campaign_id AND u.serial = i.serial"
		" WHERE i.campaign_id = $1 AND i.user_id = $2 AND ($3 = 0 OR i.serial = $3)"
		" ORDER BY i.nth FOR UPDATE OF i",
		3, {INT8OID, TEXTOID, INT8OID}
	};
	Relation	rel = table_open(coupon_catalog()->issuance, RowShareLock);
	Datum		values[3];
	Holding    *holdings;

	/* no null is read where there can be none */
	(void) coupon_table(rel, NULL);
	table_close(rel, NoLock);
	values[0] = Int64GetDatum(campaign_id);
	values[1] = CStringGetTextDatum(user_id);
	values[2] = Int64GetDatum(serial);
	*count = coupon_spi_execute(&select, SPI_OK_SELECT, values, NULL);
	holdings = palloc(Max(*count, 1) * sizeof(Holding));
	for (int i = 0; i < *count; i++)
		get_holding(i, &holdings[i]);

	if (*count == 0 && coupon_spi_execute(&campaign, SPI_OK_SELECT, values, NULL) == 0)
		coupon_campaign_unknown(campaign_id);
	return holdings;
}

static void
append_event(const Holding *holding, const char *type, const char *reason, TimestampTz now)
{
	CouponUnitEvent event = holding->unit;

	event.reason = reason;
	event.at = now;
	/* time has ended it, and no call of whoever comes by */
	event.trace = strcmp(type, COUPON_EVENT_EXPIRED) == 0 ? NULL : coupon_trace();
	coupon_unit_event_append(type, &event);
}

static bool
in_state(const Holding *holding, const char *state)
{
	return strcmp(holding->state, state) == 0;
}

/* Is the usage period over?  Judged now, whether or not the sweeper came by. */
static bool
is_expired(const Holding *holding, TimestampTz now)
{
	return in_state(holding, "expired") || holding->unit.expires_at <= now;
}

/* ---- redeeming ---- */

#define REDEEM_NATTS	6

static Datum
redeem_result(FunctionCallInfo fcinfo, const char *user_id, const char *status,
			  const Holding *holding)
{
	TupleDesc	desc;
	Datum		values[REDEEM_NATTS] = {0};
	bool		nulls[REDEEM_NATTS] = {false, false, true, true, true, true};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
		desc->natts != REDEEM_NATTS)
		elog(ERROR, "coupon.redeem_result has an unexpected shape");

	values[0] = CStringGetTextDatum(user_id);
	values[1] = CStringGetTextDatum(status);
	if (holding != NULL)
	{
		values[2] = Int64GetDatum(holding->unit.serial);
		nulls[2] = false;
		/* a code is not shown before it is paid for */
		nulls[3] = holding->unit.code == NULL || in_state(holding, "held");
		if (!nulls[3])
			values[3] = CStringGetTextDatum(holding->unit.code);
		if (holding->unit.order_ref != NULL)
			values[4] = CStringGetTextDatum(holding->unit.order_ref);
		nulls[4] = holding->unit.order_ref == NULL;
		values[5] = TimestampTzGetDatum(holding->unit.redeemed_at);
		nulls[5] = holding->unit.redeemed_at == DT_NOEND;
	}
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

/* What redeem and redeem_cancel share: connected to SPI, with the rows locked. */
typedef struct RedeemCall
{
	MemoryContext caller;
	char	   *user_id;
	char	   *order_ref;
	Holding    *holdings;
	int			count;
	TimestampTz now;
} RedeemCall;

static void
begin_redeem(FunctionCallInfo fcinfo, RedeemCall *call)
{
	int64		serial;

	coupon_require_argument(fcinfo, 0, "campaign_id");
	call->caller = CurrentMemoryContext;
	call->user_id = coupon_get_text(fcinfo, 1, "user_id", 1, COUPON_MAX_NAME);
	call->order_ref = coupon_get_text(fcinfo, 2, "order_ref", 1, COUPON_MAX_TEXT);
	serial = PG_ARGISNULL(3) ? 0 :
		coupon_get_int64(fcinfo, 3, "serial", 1, COUPON_MAX_STOCK);
	coupon_shmem_attach();
	coupon_node_require(PG_GETARG_INT64(0), PG_GETARG_TEXT_PP(1));
	coupon_spi_connect();
	call->holdings = lock_holdings(PG_GETARG_INT64(0), call->user_id, serial, &call->count);
	call->now = GetCurrentTimestamp();	/* the lock may have taken its time */
}

static Datum
end_redeem(FunctionCallInfo fcinfo, RedeemCall *call, const CouponWay *way, const char *status,
		   const Holding *chosen)
{
	Datum		result;

	MemoryContextSwitchTo(call->caller);
	result = redeem_result(fcinfo, call->user_id, status, chosen);
	coupon_spi_finish();
	coupon_stat_outcome(coupon_stat_find(way, status), 1);
	return result;
}

static void
set_redemption(Holding *holding, const char *state, char *order_ref, TimestampTz redeemed_at)
{
	static CouponStatement update = {
		"UPDATE coupon.issuance SET state = $3, order_ref = $4, redeemed_at = $5"
		" WHERE campaign_id = $1 AND serial = $2",
		5, {INT8OID, INT8OID, TEXTOID, TEXTOID, TIMESTAMPTZOID}
	};
	Datum		values[5] = {0};
	char		nulls[5] = {' ', ' ', ' ', 'n', 'n'};

	values[0] = Int64GetDatum(holding->unit.campaign_id);
	values[1] = Int64GetDatum(holding->unit.serial);
	values[2] = CStringGetTextDatum(state);
	if (order_ref != NULL)
	{
		values[3] = CStringGetTextDatum(order_ref);
		values[4] = TimestampTzGetDatum(redeemed_at);
		nulls[3] = nulls[4] = ' ';
	}
	coupon_spi_change(&update, SPI_OK_UPDATE, values, nulls, 1);
}

/*
 * Which of a user's issuances a redemption is about, and what is to be said.
 * *status is NULL if the holding is to be redeemed now.
 */
static Holding *
choose_redeemable(Holding *holdings, int count, const char *order_ref, TimestampTz now,
				  const char **status)
{
	Holding    *usable = NULL;
	Holding    *redeemed = NULL;
	Holding    *expired = NULL;
	Holding    *held = NULL;

	for (int i = 0; i < count; i++)
	{
		Holding    *holding = &holdings[i];

		if (in_state(holding, "redeemed"))
		{
			if (strcmp(holding->unit.order_ref, order_ref) == 0)
			{
				*status = "already_redeemed";
				return holding;
			}
			redeemed = redeemed ? redeemed : holding;
		}
		else if (in_state(holding, "held"))
		{
			/* not paid for; and what has run out is not the user's any more */
			if (holding->held_until > now)
				held = held ? held : holding;
		}
		else if (is_expired(holding, now))
			expired = expired ? expired : holding;
		else
			usable = usable ? usable : holding;
	}

	*status = usable ? NULL : redeemed ? "already_redeemed" : expired ? "expired" :
		held ? "held" : "not_issued";
	return usable ? usable : redeemed ? redeemed : expired ? expired : held;
}

static Datum
redeem(PG_FUNCTION_ARGS)
{
	RedeemCall	call;
	Holding    *chosen;
	const char *status;

	begin_redeem(fcinfo, &call);
	chosen = choose_redeemable(call.holdings, call.count, call.order_ref, call.now, &status);
	if (status == NULL)
	{
		set_redemption(chosen, "redeemed", call.order_ref, call.now);
		chosen->unit.order_ref = call.order_ref;
		chosen->unit.redeemed_at = call.now;
		append_event(chosen, COUPON_EVENT_REDEEMED, NULL, call.now);
		status = "redeemed";
	}
	return end_redeem(fcinfo, &call, &coupon_way_redeem, status, chosen);
}

/*
 * coupon_redeem(campaign_id, user_id, order_ref, serial)
 */
Datum
coupon_redeem(PG_FUNCTION_ARGS)
{
	return coupon_stat_call(fcinfo, &coupon_way_redeem, redeem);
}

COUPON_FOR_OTHER_USERS(coupon_redeem, 1);

static Datum
cancel(PG_FUNCTION_ARGS)
{
	RedeemCall	call;
	Holding    *chosen = NULL;
	const char *status;

	begin_redeem(fcinfo, &call);
	status = call.count > 0 ? "not_redeemed" : "not_issued";
	for (int i = 0; i < call.count; i++)
	{
		if (!in_state(&call.holdings[i], "redeemed"))
			continue;
		chosen = &call.holdings[i];
		status = strcmp(chosen->unit.order_ref, call.order_ref) == 0 ? "cancelled" : "other_order";
		if (strcmp(status, "cancelled") == 0)
			break;
	}
	if (strcmp(status, "cancelled") == 0)
	{
		set_redemption(chosen, "issued", NULL, 0);
		append_event(chosen, COUPON_EVENT_REDEEM_CANCELLED, NULL, call.now);
	}
	return end_redeem(fcinfo, &call, &coupon_way_cancel, status, chosen);
}

/*
 * coupon_redeem_cancel(campaign_id, user_id, order_ref, serial)
 */
Datum
coupon_redeem_cancel(PG_FUNCTION_ARGS)
{
	return coupon_stat_call(fcinfo, &coupon_way_cancel, cancel);
}

COUPON_FOR_OTHER_USERS(coupon_redeem_cancel, 1);

/* ---- revoking ---- */

static Datum
revoke_one(PG_FUNCTION_ARGS)
{
	static CouponStatement delete = {
		"DELETE FROM coupon.issuance WHERE campaign_id = $1 AND serial = $2",
		2, {INT8OID, INT8OID}
	};
	static CouponStatement forget = {
		"DELETE FROM coupon.lapsed_hold WHERE campaign_id = $1 AND serial = $2 AND user_id = $3"
		"   AND refused_ref IS NULL",
		3, {INT8OID, INT8OID, TEXTOID}
	};
	TimestampTz now;
	int64		campaign_id;
	char	   *user_id;
	char	   *reason;
	int64		serial;
	Holding    *holdings;
	Holding    *chosen = NULL;
	Holding    *held = NULL;
	Holding    *redeemed = NULL;
	int			count;
	Datum		values[3];

	coupon_require_argument(fcinfo, 0, "campaign_id");
	campaign_id = PG_GETARG_INT64(0);
	user_id = coupon_get_text(fcinfo, 1, "user_id", 1, COUPON_MAX_NAME);
	reason = coupon_get_text(fcinfo, 2, "reason", 1, COUPON_MAX_TEXT);
	serial = PG_ARGISNULL(3) ? 0 : coupon_get_int64(fcinfo, 3, "serial", 1, COUPON_MAX_STOCK);
	coupon_shmem_attach();
	coupon_node_require(campaign_id, PG_GETARG_TEXT_PP(1));

	coupon_spi_connect();
	holdings = lock_holdings(campaign_id, user_id, serial, &count);
	now = GetCurrentTimestamp();
	for (int i = 0; i < count; i++)
	{
		Holding    *holding = &holdings[i];

		if (in_state(holding, "redeemed"))
			redeemed = holding;
		else if (!in_state(holding, "held"))
			chosen = holding;
		else if (holding->held_until > now)
			held = holding;
	}
	if (chosen == NULL)
		chosen = held;
	if (chosen == NULL && redeemed != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_REDEEMED),
				 errmsg("cannot revoke a redeemed unit"),
				 errdetail("Campaign %lld, user \"%s\", serial %lld was redeemed by order \"%s\".",
						   (long long) campaign_id, user_id,
						   (long long) redeemed->unit.serial, redeemed->unit.order_ref),
				 errhint("Cancel the redemption first with coupon_redeem_cancel().")));
	if (chosen != NULL)
	{
		values[0] = Int64GetDatum(campaign_id);
		values[1] = Int64GetDatum(chosen->unit.serial);
		values[2] = CStringGetTextDatum(user_id);
		coupon_spi_change(&delete, SPI_OK_DELETE, values, NULL, 1);
		coupon_spi_execute(&forget, SPI_OK_DELETE, values, NULL);
		append_event(chosen, COUPON_EVENT_REVOKED, reason, now);
	}
	coupon_spi_finish();
	coupon_stat_outcome(chosen != NULL, 1);
	PG_RETURN_BOOL(chosen != NULL);
}

/*
 * coupon_revoke(campaign_id, user_id, reason, serial)
 */
Datum
coupon_revoke(PG_FUNCTION_ARGS)
{
	return coupon_stat_call(fcinfo, &coupon_way_revoke, revoke_one);
}

COUPON_FOR_OTHER_USERS(coupon_revoke, 1);

/* ---- what others do to the table ---- */

static Datum
get_column(TriggerData *trigger, HeapTuple tuple, int column, bool *isnull)
{
	return heap_getattr(tuple, column, RelationGetDescr(trigger->tg_relation), isnull);
}

/*
 * coupon_issuance_arrived() - row trigger on coupon.issuance
 *
 * Somebody else than coupon wrote a row: its user is not to be told that they
 * have no unit, and a hold is to be missed by nobody who looks for those that
 * have run out, neither the new one nor the old one, if this is rolled back.
 */
Datum
coupon_issuance_arrived(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = coupon_trigger_after_row(fcinfo, "issuance_arrived",
													COUPON_ON_INSERT | COUPON_ON_UPDATE,
													"issuance", NULL);
	bool		update = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
	HeapTuple	old = trigger->tg_trigtuple;
	HeapTuple	new = coupon_trigger_row(trigger);
	CouponCampaign *campaign;
	Datum		user_id;
	Datum		held_until;
	bool		isnull;
	CouponUnit	unit;

	if (!coupon_shmem_available())
		return PointerGetDatum(NULL);
	campaign = coupon_campaign_enter_known(DatumGetInt64(get_column(trigger, new, Issuance_campaign_id, &isnull)));
	if (campaign == NULL)
		return PointerGetDatum(NULL);
	if (DsaPointerIsValid(campaign->stock))
	{
		CouponStock *stock = coupon_stock_known(campaign);

		held_until = get_column(trigger, new, Issuance_held_until, &isnull);
		if (!isnull)
			coupon_stock_note_hold(stock, DatumGetTimestampTz(held_until));
		if (update)
		{
			(void) get_column(trigger, old, Issuance_held_until, &isnull);
			if (!isnull)
				(void) coupon_stock_take_over(campaign, stock, COUPON_TO_HOLD,
											  DatumGetInt64(get_column(trigger, old, Issuance_serial, &isnull)),
											  &unit);
		}
		user_id = get_column(trigger, new, Issuance_user_id, &isnull);
		coupon_filter_add(campaign, PointerGetDatum(PG_DETOAST_DATUM_PACKED(user_id)));
	}
	coupon_campaign_leave(campaign);
	return PointerGetDatum(NULL);
}

/*
 * coupon_issuance_returned() - row trigger on coupon.issuance
 *
 * A row is gone, or has another serial: its unit is free when this commits.
 */
Datum
coupon_issuance_returned(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = coupon_trigger_after_row(fcinfo, "issuance_returned",
													COUPON_ON_UPDATE | COUPON_ON_DELETE,
													"issuance", NULL);
	HeapTuple	old = trigger->tg_trigtuple;
	CouponCampaign *campaign;
	const CouponDefinition *def;
	CouponStock *stock;
	CouponUnit	unit;
	int64		serial;
	bool		isnull;

	/* without shared memory there is no map that could be wrong */
	if (!coupon_shmem_available())
		return PointerGetDatum(NULL);
	campaign = coupon_campaign_enter(DatumGetInt64(get_column(trigger, old, Issuance_campaign_id, &isnull)),
									 &def);
	serial = DatumGetInt64(get_column(trigger, old, Issuance_serial, &isnull));
	stock = coupon_stock_open(campaign, def);
	if (coupon_away_leaving)
		(void) coupon_stock_take_over(campaign, stock, COUPON_TO_SEND, serial, &unit);
	else
		coupon_stock_return(campaign, stock, serial);
	coupon_campaign_leave(campaign);
	return PointerGetDatum(NULL);
}

/* ---- expiring ---- */

int
coupon_redeem_expire_campaign(const CouponDue *due, int n, TimestampTz now)
{
	static CouponStatement update = {
		"WITH due AS ("
		"  SELECT d.serial FROM coupon.issuance d"
		"   WHERE d.campaign_id = $1 AND d.serial = ANY ($2)"
		"     AND d.state = 'issued' AND d.expires_at <= $3 FOR UPDATE SKIP LOCKED)"
		" UPDATE coupon.issuance i SET state = 'expired'"
		"   FROM due"
		"   JOIN coupon.campaign c ON c.campaign_id = $1"
		"   LEFT JOIN coupon.unit u ON u.campaign_id = $1 AND u.serial = due.serial"
		"  WHERE i.campaign_id = $1 AND i.serial = due.serial"
		" RETURNING " HOLDING_COLUMNS,
		3, {INT8OID, INT8ARRAYOID, TIMESTAMPTZOID}
	};
	int64	   *serials = palloc(n * sizeof(int64));
	Datum		values[3];
	uint64		count;

	for (int i = 0; i < n; i++)
		serials[i] = due[i].serial;
	values[0] = Int64GetDatum(due->campaign_id);
	values[1] = coupon_int64s_form(serials, n);
	values[2] = TimestampTzGetDatum(now);

	coupon_spi_connect();
	count = coupon_spi_execute(&update, SPI_OK_UPDATE_RETURNING, values, NULL);
	for (uint64 row = 0; row < count; row++)
	{
		Holding		holding;

		get_holding(row, &holding);
		append_event(&holding, COUPON_EVENT_EXPIRED, NULL, now);
	}
	coupon_spi_finish();
	return count;
}
