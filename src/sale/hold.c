/*
 * hold.c
 *	  Holding units: one that is named, several or none, any one.
 *
 * A hold is an issuance with an end: a row of coupon.issuance in state held,
 * under the same unique indexes, so that a unit cannot be held twice nor held
 * and issued, and a user holds no more units than the limit allows.  The order
 * of steps is that of issue.c: who has the unit is told so first, then the
 * room is asked, then the window, then the stock map, then the row, then the
 * event.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type_d.h"
#include "common/int.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "base/arguments.h"
#include "base/compat.h"
#include "base/errors.h"
#include "base/guc.h"
#include "base/stat.h"
#include "base/trace.h"
#include "sale/hold.h"
#include "sale/issue.h"
#include "sale/take.h"
#include "sale/unit_event.h"
#include "sale/user_filter.h"

#define MAX_TTL			(7 * USECS_PER_DAY)
#define MIN_TTL			INT64CONST(1000)

PG_FUNCTION_INFO_V1(coupon_hold);
PG_FUNCTION_INFO_V1(coupon_hold_many);
PG_FUNCTION_INFO_V1(coupon_hold_any);

static const char *const status_names[] = {
	[COUPON_HOLD_HELD] = "held",
	[COUPON_HOLD_ALREADY_HELD] = "already_held",
	[COUPON_HOLD_ALREADY_ISSUED] = "already_issued",
	[COUPON_HOLD_TAKEN] = "taken",
	[COUPON_HOLD_BUSY] = "busy",
	[COUPON_HOLD_LIMIT_REACHED] = "limit_reached",
	[COUPON_HOLD_NOT_OPEN] = "not_open",
	[COUPON_HOLD_CLOSED] = "closed",
	[COUPON_HOLD_PAUSED] = "paused",
	[COUPON_HOLD_NOT_ADMITTED] = "not_admitted",
	[COUPON_HOLD_SOLD_OUT] = "sold_out",
	[COUPON_HOLD_NOT_HELD] = "not_held",
	[COUPON_HOLD_RETURNED] = "returned",
	[COUPON_HOLD_OTHER_CALL] = "other_call",
	[COUPON_HOLD_CONFIRMED] = "confirmed",
	[COUPON_HOLD_ALREADY_CONFIRMED] = "already_confirmed",
	[COUPON_HOLD_OTHER_REF] = "other_ref",
	[COUPON_HOLD_LOST] = "lost"
};

/* A call for a hold may have those before "confirmed". */
#define HOLD_OUTCOMES	COUPON_HOLD_CONFIRMED

#define HOLD_WAY(what) \
	{.name = what, .kind = COUPON_WAY_TRANSACTION, .outcomes = status_names, .noutcomes = HOLD_OUTCOMES}

CouponWay	coupon_way_hold = HOLD_WAY("hold");
CouponWay	coupon_way_hold_many = HOLD_WAY("hold_many");
CouponWay	coupon_way_hold_any = HOLD_WAY("hold_any");

/* What refuses everything, whoever has what; COUPON_HOLD_PENDING: nothing. */
static CouponHoldStatus
refusal_of(const CouponHold *hold)
{
	CouponStatus window = coupon_issue_window(hold->def, GetCurrentTimestamp());

	if (window == COUPON_NOT_OPEN)
		return COUPON_HOLD_NOT_OPEN;
	if (!coupon_campaign_admits(hold->def, hold->user_id))
		return COUPON_HOLD_NOT_ADMITTED;
	return window == COUPON_CLOSED ? COUPON_HOLD_CLOSED :
		window == COUPON_PAUSED ? COUPON_HOLD_PAUSED : COUPON_HOLD_PENDING;
}

/* Was the unit the user's before?  Then it stands in no way of the others. */
static bool
is_owned(const CouponWish *wish)
{
	return wish->status == COUPON_HOLD_ALREADY_HELD || wish->status == COUPON_HOLD_ALREADY_ISSUED;
}

/* ---- keys ---- */

static void
answer_all(CouponHold *hold, CouponHoldStatus status)
{
	for (int i = 0; i < hold->nwishes; i++)
		hold->wishes[i].status = status;
}

/* Is the call the one that the key was used for? */
static bool
is_same_call(const CouponHold *hold, const CouponUsedKey *used)
{
	if (used->kind != hold->kind || used->nserials != hold->nwishes)
		return false;
	for (int i = 0; hold->kind == COUPON_KEY_HOLD && i < hold->nwishes; i++)
	{
		if (used->serials[i] != hold->wishes[i].serial)
			return false;
	}
	return true;
}

/* What became of a unit that the key got. */
static void
answer_wish(CouponHold *hold, CouponWish *wish, const CouponUsedKey *used)
{
	if (!coupon_request_key_has(hold->def, hold->user_id, used, wish->serial, &wish->issuance))
		wish->status = hold->def->ending ? COUPON_HOLD_CLOSED : COUPON_HOLD_RETURNED;
	else if (wish->issuance.held_until == 0)
		wish->status = COUPON_HOLD_ALREADY_ISSUED;
	else
		wish->status = wish->issuance.issued_at == used->used_at ? COUPON_HOLD_HELD : COUPON_HOLD_ALREADY_HELD;
}

/*
 * Answers the wishes if the call's key was used before: as then, where the
 * units are still the user's.  False: it was not.
 */
static bool
answer_key(CouponHold *hold)
{
	CouponUsedKey used;

	if (hold->request_key == NULL)
		return false;
	switch (coupon_request_key_find(hold->def, hold->user_id, hold->request_key, COUPON_NO_WAIT, &used))
	{
		case COUPON_KEY_NEW:
			return false;
		case COUPON_KEY_LOCKED:
			answer_all(hold, COUPON_HOLD_BUSY);
			return true;
		case COUPON_KEY_USED:
			break;
	}
	if (!is_same_call(hold, &used))
	{
		answer_all(hold, COUPON_HOLD_OTHER_CALL);
		return true;
	}
	for (int i = 0; i < hold->nwishes; i++)
	{
		hold->wishes[i].serial = used.serials[i];
		answer_wish(hold, &hold->wishes[i], &used);
	}
	return true;
}

/* ---- holding ---- */

static void
append_events(CouponHold *hold)
{
	CouponOutbox *outbox = coupon_outbox_begin(hold->nwishes > 1);
	CouponUnitEvent event = {0};

	event.topic = COUPON_DEFINITION_TOPIC(hold->def);
	event.trace = coupon_trace();
	event.campaign_id = hold->def->campaign_id;
	event.user_id = TextDatumGetCString(hold->user_id);
	for (int i = 0; i < hold->nwishes; i++)
	{
		CouponWish *wish = &hold->wishes[i];

		if (wish->status != COUPON_HOLD_HELD)
			continue;
		wish->issuance.code = coupon_hold_label(hold->def, wish->serial, false);
		event.serial = wish->serial;
		event.label = wish->issuance.code == NULL ? NULL : text_to_cstring(wish->issuance.code);
		event.held_until = wish->issuance.held_until;
		event.at = wish->issuance.issued_at;
		coupon_unit_event_add(outbox, COUPON_EVENT_HELD, &event);
	}
	coupon_outbox_finish(outbox);
}

/* Holds the pending wishes, whose units are taken or can be taken over. */
static bool
hold_units(CouponHold *hold)
{
	if (!coupon_hold_take_over_all(hold))
	{
		coupon_hold_give_up(hold, COUPON_HOLD_NOT_HELD);
		return false;
	}
	if (!coupon_hold_insert(hold))
		return false;
	for (int i = 0; i < hold->nwishes; i++)
	{
		if (hold->wishes[i].inserted)
			hold->wishes[i].status = COUPON_HOLD_HELD;
	}
	append_events(hold);
	return true;
}

/* One try.  True if another one may come to another end. */
static bool
try_set(CouponHold *hold)
{
	CouponHoldStatus refusal = refusal_of(hold);
	int			npending = 0;
	bool		busy = false;
	bool		refused = false;

	if (answer_key(hold))
		return hold->nwishes > 0 && hold->wishes[0].status == COUPON_HOLD_BUSY;
	if (refusal == COUPON_HOLD_PENDING)
		PreventCommandIfReadOnly("coupon_hold()");
	coupon_hold_take(hold, refusal);
	for (int pass = 0; pass < 2; pass++)
	{
		npending = 0;
		busy = refused = false;
		for (int i = 0; i < hold->nwishes; i++)
		{
			CouponWish *wish = &hold->wishes[i];

			if (wish->status == COUPON_HOLD_PENDING)
				npending++;
			else if (wish->status == COUPON_HOLD_BUSY)
				busy = true;
			else if (!is_owned(wish) && wish->status != COUPON_HOLD_HELD &&
					 wish->status != COUPON_HOLD_NOT_HELD)
				refused = true;
		}
		if (busy || refused)
			coupon_hold_give_up(hold, COUPON_HOLD_NOT_HELD);
		else if (npending > 0 && !hold_units(hold))
			continue;			/* see why not */
		break;
	}
	return busy && !refused;
}

static void
hold_set(CouponHold *hold)
{
	while (try_set(hold) && coupon_hold_wait(hold))
		;
}

/*
 * One try to hold any unit.  True if another one may come to another end.
 */
static bool
try_any(CouponHold *hold, CouponWish *wish)
{
	CouponHoldStatus refusal = refusal_of(hold);
	CouponUserState state;
	CouponIssuance found;
	CouponShortage why;
	int			room;

	wish->status = refusal;
	wish->taken = wish->inserted = wish->refused = false;
	if (answer_key(hold))
		return wish->status == COUPON_HOLD_BUSY;
	if (refusal == COUPON_HOLD_PENDING &&
		coupon_stock_sold_out(hold->campaign, hold->def, GetCurrentTimestamp()))
	{
		wish->status = refusal = COUPON_HOLD_SOLD_OUT;
		if (coupon_filter_excludes(hold->campaign, hold->user_id))
			return false;
	}

	state = coupon_lookup_user(coupon_hold_lookup(hold), hold->user_id, COUPON_NO_WAIT, &found, &room);
	coupon_lookup_pause(&hold->lookup);
	if (state == COUPON_USER_HAS)
	{
		wish->issuance = hold->lookup.hold.serial != 0 ? hold->lookup.hold : found;
		wish->serial = wish->issuance.serial;
		wish->status = wish->issuance.held_until != 0 ?
			COUPON_HOLD_ALREADY_HELD : COUPON_HOLD_ALREADY_ISSUED;
		return false;
	}
	if (refusal != COUPON_HOLD_PENDING)
		return false;
	if (state == COUPON_USER_LOCKED)
	{
		wish->status = COUPON_HOLD_BUSY;
		return true;
	}

	PreventCommandIfReadOnly("coupon_hold_any()");
	if (coupon_take(hold->campaign, hold->def, hold->table, COUPON_TO_HOLD, 1,
					coupon_stock_has_own(hold->campaign) ? 0 : coupon_sold_out_wait,
					&wish->unit, &why) == 0)
	{
		wish->status = why == COUPON_SHORT_BUSY ? COUPON_HOLD_BUSY : COUPON_HOLD_SOLD_OUT;
		return false;
	}
	wish->taken = true;
	wish->serial = wish->unit.serial;

	/*
	 * a limit that has been reached meanwhile is better told by what the user
	 * has
	 */
	return !hold_units(hold) &&
		(wish->status == COUPON_HOLD_BUSY || wish->status == COUPON_HOLD_LIMIT_REACHED);
}

/* ---- results ---- */

text *
coupon_hold_label(const CouponDefinition *def, int64 serial, bool owned)
{
	return def->coded && (owned || def->labels_public) ?
		coupon_issuance_label(def->campaign_id, serial) : NULL;
}

#define RESULT_NATTS	5

static HeapTuple
form_result(TupleDesc desc, CouponHold *hold, const CouponWish *wish)
{
	Datum		values[RESULT_NATTS] = {0};
	bool		nulls[RESULT_NATTS] = {false, false, true, true, true};
	text	   *label = NULL;

	values[0] = hold->user_id;
	values[1] = CStringGetTextDatum(status_names[wish->status]);
	values[2] = Int64GetDatum(wish->serial);
	nulls[2] = wish->serial == 0;
	switch (wish->status)
	{
		case COUPON_HOLD_HELD:
		case COUPON_HOLD_ALREADY_HELD:
			label = wish->issuance.code != NULL ? wish->issuance.code :
				coupon_hold_label(hold->def, wish->serial, false);
			values[4] = TimestampTzGetDatum(wish->issuance.held_until);
			nulls[4] = false;
			break;
		case COUPON_HOLD_ALREADY_ISSUED:
		case COUPON_HOLD_CONFIRMED:
		case COUPON_HOLD_ALREADY_CONFIRMED:
		case COUPON_HOLD_OTHER_REF:
			label = wish->issuance.code != NULL ? wish->issuance.code :
				coupon_hold_label(hold->def, wish->serial, true);
			break;
		default:
			break;
	}
	values[3] = PointerGetDatum(label);
	nulls[3] = label == NULL;
	return heap_form_tuple(desc, values, nulls);
}

Datum
coupon_hold_result(FunctionCallInfo fcinfo, CouponHold *hold, const CouponWish *wish)
{
	Oid			type = get_func_rettype(fcinfo->flinfo->fn_oid);
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_TUPDESC);

	if (entry->tupDesc == NULL || entry->tupDesc->natts != RESULT_NATTS)
		elog(ERROR, "coupon.hold_result has an unexpected shape");
	return HeapTupleGetDatum(form_result(entry->tupDesc, hold, wish));
}

/* ---- SQL functions ---- */

static Datum
get_user(FunctionCallInfo fcinfo, int argument)
{
	coupon_check_text(fcinfo, argument, "user_id", 1, COUPON_MAX_NAME);
	return PointerGetDatum(PG_GETARG_TEXT_PP(argument));
}

static int64
get_ttl(FunctionCallInfo fcinfo, int argument)
{
	Interval   *ttl;
	int64		days;
	int64		us;

	coupon_require_argument(fcinfo, argument, "ttl");
	ttl = PG_GETARG_INTERVAL_P(argument);
	days = (int64) ttl->month * DAYS_PER_MONTH + ttl->day;
	if (pg_mul_s64_overflow(days, USECS_PER_DAY, &us) ||
		pg_add_s64_overflow(us, ttl->time, &us) ||
		us < MIN_TTL || us > MAX_TTL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("ttl is out of range"),
				 errdetail("The value is %s.",
						   DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(ttl)))),
				 errhint("Use 1 millisecond to 7 days.")));
	return us;
}

static Datum
hold_one(PG_FUNCTION_ARGS)
{
	CouponHold	hold;
	CouponWish	wish = {0};
	Datum		user_id;
	text	   *key;
	int64		ttl;
	Datum		result;

	coupon_require_argument(fcinfo, 0, "campaign_id");
	coupon_require_argument(fcinfo, 1, "serial");
	user_id = get_user(fcinfo, 2);
	ttl = get_ttl(fcinfo, 3);
	key = coupon_request_key_argument(fcinfo, 4);
	PreventCommandDuringRecovery("coupon_hold()");

	coupon_hold_begin(&hold, PG_GETARG_INT64(0), user_id);
	coupon_hold_check_serial(hold.def, PG_GETARG_INT64(1));
	wish.serial = PG_GETARG_INT64(1);
	hold.ttl = ttl;
	hold.request_key = key;
	hold.kind = COUPON_KEY_HOLD;
	hold.wishes = &wish;
	hold.nwishes = 1;
	hold_set(&hold);
	result = coupon_hold_result(fcinfo, &hold, &wish);
	coupon_hold_end(&hold);
	coupon_stat_outcome(wish.status, 1);
	return result;
}

/*
 * coupon_hold(campaign_id bigint, serial bigint, user_id text, ttl interval, request_key text)
 */
Datum
coupon_hold(PG_FUNCTION_ARGS)
{
	return coupon_stat_call(fcinfo, &coupon_way_hold, hold_one);
}

COUPON_FOR_OTHER_USERS(coupon_hold, 2);

static int
compare_serials(const void *a, const void *b)
{
	int64		x = ((const CouponWish *) a)->serial;
	int64		y = ((const CouponWish *) b)->serial;

	return x < y ? -1 : x > y;
}

static int
compare_places(const void *a, const void *b)
{
	return ((const CouponWish *) a)->place - ((const CouponWish *) b)->place;
}

/* The array's serials as wishes, in order. */
static CouponWish *
get_wishes(FunctionCallInfo fcinfo, int argument, int *count)
{
	int64	   *serials;
	CouponWish *wishes;

	coupon_require_argument(fcinfo, argument, "serials");
	serials = coupon_int64s(PG_GETARG_DATUM(argument), "serials", count);
	if (*count > COUPON_MAX_HELD_TOGETHER)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("too many serials"),
				 errdetail("The array has %d.", *count),
				 errhint("Nobody can have more than %d units.", COUPON_MAX_HELD_TOGETHER)));

	wishes = palloc0(Max(*count, 1) * sizeof(CouponWish));
	for (int i = 0; i < *count; i++)
	{
		wishes[i].serial = serials[i];
		wishes[i].place = i;
	}
	qsort(wishes, *count, sizeof(CouponWish), compare_serials);
	for (int i = 1; i < *count; i++)
	{
		if (wishes[i].serial == wishes[i - 1].serial)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("serials must differ"),
					 errdetail("Serial %lld is in the array more than once.",
							   (long long) wishes[i].serial),
					 errhint("Pass each serial once.")));
	}
	return wishes;
}

static Datum
hold_many(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	CouponHold	hold;
	CouponWish *wishes;
	int			nwishes;
	int			counts[HOLD_OUTCOMES] = {0};
	Datum		user_id;
	text	   *key;
	int64		ttl;

	coupon_require_argument(fcinfo, 0, "campaign_id");
	wishes = get_wishes(fcinfo, 1, &nwishes);
	user_id = get_user(fcinfo, 2);
	ttl = get_ttl(fcinfo, 3);
	key = coupon_request_key_argument(fcinfo, 4);
	PreventCommandDuringRecovery("coupon_hold_many()");
	InitMaterializedSRF(fcinfo, 0);

	coupon_hold_begin(&hold, PG_GETARG_INT64(0), user_id);
	for (int i = 0; i < nwishes; i++)
		coupon_hold_check_serial(hold.def, wishes[i].serial);
	hold.ttl = ttl;
	hold.request_key = key;
	hold.kind = COUPON_KEY_HOLD;
	hold.wishes = wishes;
	hold.nwishes = nwishes;
	hold_set(&hold);

	qsort(wishes, nwishes, sizeof(CouponWish), compare_places);
	for (int i = 0; i < nwishes; i++)
		tuplestore_puttuple(rsinfo->setResult, form_result(rsinfo->setDesc, &hold, &wishes[i]));
	coupon_hold_end(&hold);
	for (int i = 0; i < nwishes; i++)
		counts[wishes[i].status]++;
	for (size_t status = 0; status < HOLD_OUTCOMES; status++)
		coupon_stat_outcome(status, counts[status]);
	return (Datum) 0;
}

/*
 * coupon_hold_many(campaign_id bigint, serials bigint[], user_id text, ttl interval, request_key text)
 */
Datum
coupon_hold_many(PG_FUNCTION_ARGS)
{
	return coupon_stat_call(fcinfo, &coupon_way_hold_many, hold_many);
}

COUPON_FOR_OTHER_USERS(coupon_hold_many, 2);

static Datum
hold_any(PG_FUNCTION_ARGS)
{
	CouponHold	hold;
	CouponWish	wish = {0};
	Datum		user_id;
	text	   *key;
	int64		ttl;
	Datum		result;

	coupon_require_argument(fcinfo, 0, "campaign_id");
	user_id = get_user(fcinfo, 1);
	ttl = get_ttl(fcinfo, 2);
	key = coupon_request_key_argument(fcinfo, 3);
	PreventCommandDuringRecovery("coupon_hold_any()");

	coupon_hold_begin(&hold, PG_GETARG_INT64(0), user_id);
	hold.ttl = ttl;
	hold.request_key = key;
	hold.kind = COUPON_KEY_HOLD_ANY;
	hold.wishes = &wish;
	hold.nwishes = 1;
	while (try_any(&hold, &wish) && coupon_hold_wait(&hold))
		;
	if (wish.status != COUPON_HOLD_HELD && !is_owned(&wish))
		wish.serial = 0;		/* whichever was tried, it is not the user's */
	result = coupon_hold_result(fcinfo, &hold, &wish);
	coupon_hold_end(&hold);
	coupon_stat_outcome(wish.status, 1);
	return result;
}

/*
 * coupon_hold_any(campaign_id bigint, user_id text, ttl interval, request_key text)
 */
Datum
coupon_hold_any(PG_FUNCTION_ARGS)
{
	return coupon_stat_call(fcinfo, &coupon_way_hold_any, hold_any);
}

COUPON_FOR_OTHER_USERS(coupon_hold_any, 1);
