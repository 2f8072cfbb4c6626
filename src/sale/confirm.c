/*
 * confirm.c
 *	  The end of a hold: confirmed by a payment, or released.
 *
 * The row decides, not the clock of whoever asks: a hold that has run out is
 * confirmed all the same while nobody else has the unit.  What runs at the
 * same time (another payment, the sweeper, another user's hold, a release, a
 * revocation) changes the row first or second; who is second looks again and
 * is answered by what is there then.
 *
 * A payment that came too late is an answer, and an event for whoever gives
 * the money back.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/arguments.h"
#include "base/fault.h"
#include "base/stat.h"
#include "base/trace.h"
#include "sale/hold.h"
#include "sale/sweep.h"
#include "sale/unit_event.h"

PG_FUNCTION_INFO_V1(coupon_confirm);
PG_FUNCTION_INFO_V1(coupon_release);

static const char *const confirm_outcomes[] = {
	[COUPON_HOLD_BUSY] = "busy",
	[COUPON_HOLD_LIMIT_REACHED] = "limit_reached",
	[COUPON_HOLD_NOT_HELD] = "not_held",
	[COUPON_HOLD_CONFIRMED] = "confirmed",
	[COUPON_HOLD_ALREADY_CONFIRMED] = "already_confirmed",
	[COUPON_HOLD_OTHER_REF] = "other_ref",
	[COUPON_HOLD_LOST] = "lost"
};

CouponWay	coupon_way_confirm = {
	.name = "confirm",
	.kind = COUPON_WAY_TRANSACTION,
	.outcomes = confirm_outcomes,
	.noutcomes = lengthof(confirm_outcomes)
};

static const char *const release_outcomes[] = {"not_held", "released"};

CouponWay	coupon_way_release = {
	.name = "release",
	.kind = COUPON_WAY_TRANSACTION,
	.outcomes = release_outcomes,
	.noutcomes = lengthof(release_outcomes)
};

/* ---- confirming ---- */

/* refused: why, for coupon.confirm_refused. */
static void
append_event(CouponHold *hold, CouponWish *wish, const char *refused)
{
	const CouponDefinition *def = hold->def;
	text	   *label = coupon_hold_label(def, wish->serial, refused == NULL);
	CouponUnitEvent event = {0};

	wish->issuance.code = label;
	event.topic = COUPON_DEFINITION_TOPIC(def);
	event.trace = coupon_trace();
	event.campaign_id = def->campaign_id;
	event.user_id = TextDatumGetCString(hold->user_id);
	event.serial = wish->serial;
	event.label = label == NULL ? NULL : text_to_cstring(label);
	event.ref = text_to_cstring(hold->confirm_ref);
	if (refused == NULL)
	{
		event.policy = hold->policy;
		event.issued_at = wish->issuance.issued_at;
		event.expires_at = wish->issuance.expires_at;
	}
	else
	{
		event.reason = refused;
		event.at = GetCurrentTimestamp();
	}
	coupon_unit_event_append(refused == NULL ? COUPON_EVENT_CONFIRMED : COUPON_EVENT_CONFIRM_REFUSED,
							 &event);
}

/* The user's own hold, run out or not.  False if it was changed meanwhile. */
static bool
confirm_own(CouponHold *hold, CouponWish *wish)
{
	CouponIssuanceRow *row = &hold->row;
	Jsonb	   *policy;

	PreventCommandIfReadOnly("coupon_confirm()");
	if (!coupon_issuance_row_confirm(row, GetCurrentTimestamp(), hold->confirm_ref))
		return false;
	/* a rollback makes it a hold again, which may have run out */
	(void) coupon_stock_take_over(hold->campaign, hold->stock, COUPON_TO_HOLD, wish->serial,
								  &wish->unit);
	policy = coupon_issuance_row_policy(row);
	hold->policy = JsonbToCString(NULL, &policy->root, VARSIZE(policy));
	wish->issuance = row->issuance;
	wish->status = COUPON_HOLD_CONFIRMED;
	return true;
}

/*
 * The user held the unit once, and it is free, or its hold by another has run
 * out: takes it again.  False if somebody is at it.
 */
static bool
confirm_again(CouponHold *hold, CouponWish *wish, TimestampTz now)
{
	PreventCommandIfReadOnly("coupon_confirm()");
	wish->status = COUPON_HOLD_PENDING;
	wish->taken = wish->inserted = wish->refused = false;
	if (hold->def->ending)
	{
		/* whose it was may be in the archive already */
		wish->status = COUPON_HOLD_LOST;
		return true;
	}
	/* in a copy that is not checked the row of whose it is may be missing */
	if (hold->def->unchecked)
		return false;
	if (hold->row.state == COUPON_UNIT_LAPSED)
	{
		if (!coupon_hold_take_over(hold, wish, now))
			return false;
	}
	else
	{
		wish->taken = coupon_stock_take_serial(hold->campaign, hold->stock, wish->serial,
											   &wish->unit);
		if (!wish->taken)
		{
			coupon_stock_heal(hold->campaign, hold->stock, &wish->unit);
			if (!coupon_stock_is_withdrawn(hold->campaign, &wish->unit))
				return false;
			/* off the sale for good, so no retry would find it */
			wish->status = COUPON_HOLD_LOST;
			return true;
		}
	}
	hold->policy = COUPON_DEFINITION_POLICY_JSON(hold->def);
	if (coupon_hold_insert(hold))
		wish->status = COUPON_HOLD_CONFIRMED;
	return wish->status != COUPON_HOLD_BUSY;
}

/* One look at the unit.  True if that decides; otherwise somebody is at it. */
static bool
try_confirm(CouponHold *hold, CouponWish *wish)
{
	CouponIssuanceRow *row = &hold->row;
	text	   *user_id = (text *) DatumGetPointer(hold->user_id);

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		CouponUnitState state = coupon_issuance_row_find(row, wish->serial, now);
		bool		own = state != COUPON_UNIT_FREE && coupon_same_text(row->user_id, user_id);
		bool		paid = own && state == COUPON_UNIT_ISSUED;

		CHECK_FOR_INTERRUPTS();
		if (state == COUPON_UNIT_UNDECIDED)
		{
			coupon_issuance_row_wait(row);
			continue;
		}
		if (paid && row->confirm_ref != NULL && coupon_same_text(row->confirm_ref, hold->confirm_ref))
		{
			wish->issuance = row->issuance;
			wish->status = COUPON_HOLD_ALREADY_CONFIRMED;
			return true;
		}
		if (!hold->payment_locked &&
			(paid || coupon_late_payment_any(row, wish->serial, user_id)))
		{
			coupon_late_payment_lock(hold->def, wish->serial, user_id);
			hold->payment_locked = true;
			COUPON_FAULT(payment_locked);
			continue;			/* it may have taken its time */
		}
		if (hold->payment_locked)
			hold->memory = coupon_late_payment_recall(row, wish->serial, user_id, hold->confirm_ref);
		if (paid)
		{
			wish->issuance = row->issuance;
			wish->status = COUPON_HOLD_OTHER_REF;
			return true;
		}
		if (own && hold->memory != COUPON_MEMORY_REFUSED)
		{
			if (confirm_own(hold, wish))
				return true;
			continue;
		}
		if (hold->memory == COUPON_MEMORY_LAPSED &&
			(state == COUPON_UNIT_FREE || state == COUPON_UNIT_LAPSED))
			return confirm_again(hold, wish, now);
		if (hold->memory != COUPON_MEMORY_NONE)
			wish->status = COUPON_HOLD_LOST;
		else if (state == COUPON_UNIT_FREE && hold->def->ending)
			wish->status = COUPON_HOLD_BUSY;	/* paid for, it may be in the
												 * archive */
		else
			wish->status = COUPON_HOLD_NOT_HELD;
		return true;
	}
}

/* The payment is to be given back: said once. */
static void
refuse(CouponHold *hold, CouponWish *wish, const char *reason)
{
	if (hold->memory == COUPON_MEMORY_REFUSED)
		return;
	PreventCommandIfReadOnly("coupon_confirm()");
	append_event(hold, wish, reason);
	COUPON_FAULT(payment_refused);
	coupon_late_payment_refuse(&hold->row, wish->serial, (text *) DatumGetPointer(hold->user_id),
							   hold->confirm_ref);
}

static Datum
confirm(PG_FUNCTION_ARGS)
{
	CouponHold	hold;
	CouponWish	wish = {0};
	text	   *user_id;
	Datum		result;

	coupon_require_argument(fcinfo, 0, "campaign_id");
	coupon_require_argument(fcinfo, 1, "serial");
	coupon_check_text(fcinfo, 2, "user_id", 1, COUPON_MAX_NAME);
	coupon_check_text(fcinfo, 3, "ref", 1, COUPON_MAX_TEXT);
	user_id = PG_GETARG_TEXT_PP(2);
	PreventCommandDuringRecovery("coupon_confirm()");

	coupon_hold_begin(&hold, PG_GETARG_INT64(0), PointerGetDatum(user_id));
	coupon_hold_check_serial(hold.def, PG_GETARG_INT64(1));
	wish.serial = PG_GETARG_INT64(1);
	hold.confirm_ref = PG_GETARG_TEXT_PP(3);
	hold.wishes = &wish;
	hold.nwishes = 1;

	while (!try_confirm(&hold, &wish))
	{
		wish.status = COUPON_HOLD_BUSY;
		if (!coupon_hold_wait(&hold))
			break;
	}
	switch (wish.status)
	{
		case COUPON_HOLD_CONFIRMED:
			append_event(&hold, &wish, NULL);
			/* an old payment must not find it again after a revocation */
			if (hold.memory == COUPON_MEMORY_LAPSED)
				coupon_late_payment_forget(&hold.row, wish.serial, user_id);
			break;
		case COUPON_HOLD_LOST:
			refuse(&hold, &wish, "lost");
			break;
		case COUPON_HOLD_OTHER_REF:
			refuse(&hold, &wish, "other_ref");
			break;
		case COUPON_HOLD_LIMIT_REACHED:
			refuse(&hold, &wish, "limit_reached");
			break;
		default:
			break;
	}
	result = coupon_hold_result(fcinfo, &hold, &wish);
	coupon_hold_end(&hold);
	coupon_stat_outcome(wish.status, 1);
	return result;
}

/*
 * coupon_confirm(campaign_id bigint, serial bigint, user_id text, ref text)
 */
Datum
coupon_confirm(PG_FUNCTION_ARGS)
{
	return coupon_stat_call(fcinfo, &coupon_way_confirm, confirm);
}

COUPON_FOR_OTHER_USERS(coupon_confirm, 2);

/* ---- releasing ---- */

static Datum
release(PG_FUNCTION_ARGS)
{
	CouponHold	hold;
	CouponIssuanceRow *row = &hold.row;
	text	   *user_id;
	int64		serial;
	bool		released = false;

	coupon_require_argument(fcinfo, 0, "campaign_id");
	coupon_require_argument(fcinfo, 1, "serial");
	coupon_check_text(fcinfo, 2, "user_id", 1, COUPON_MAX_NAME);
	serial = PG_GETARG_INT64(1);
	user_id = PG_GETARG_TEXT_PP(2);
	PreventCommandDuringRecovery("coupon_release()");

	coupon_hold_begin(&hold, PG_GETARG_INT64(0), PointerGetDatum(user_id));
	coupon_hold_check_serial(hold.def, serial);
	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		CouponUnitState state = coupon_issuance_row_find(row, serial, now);

		CHECK_FOR_INTERRUPTS();
		/* whatever becomes of another's row, this user has no hold */
		if (state == COUPON_UNIT_FREE || !coupon_same_text(row->user_id, user_id))
			break;
		if (state == COUPON_UNIT_UNDECIDED)
		{
			coupon_issuance_row_wait(row);
			continue;
		}
		if (state != COUPON_UNIT_HELD)
			break;				/* paid for, or run out: nothing to give back */
		PreventCommandIfReadOnly("coupon_release()");
		if (!coupon_issuance_row_remove(row, COUPON_WAIT))
			continue;
		coupon_stock_return(hold.campaign, hold.stock, serial);
		coupon_sweep_append_event(row, COUPON_EVENT_HOLD_RELEASED, now, coupon_trace());
		coupon_late_payment_forget(row, serial, user_id);
		released = true;
		break;
	}
	coupon_hold_end(&hold);
	coupon_stat_outcome(released, 1);
	PG_RETURN_BOOL(released);
}

/*
 * coupon_release(campaign_id bigint, serial bigint, user_id text)
 */
Datum
coupon_release(PG_FUNCTION_ARGS)
{
	return coupon_stat_call(fcinfo, &coupon_way_release, release);
}

COUPON_FOR_OTHER_USERS(coupon_release, 2);
