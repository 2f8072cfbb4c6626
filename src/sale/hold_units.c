/*
 * hold_units.c
 *	  What a call about held units does to them: takes them, writes their rows,
 *	  gives them back.
 *
 * Nothing is waited for while a unit is taken.  The bits of all units are
 * tried first, in the order of serials, and given back if one is not to be
 * had; only then rows are written.  So sets that overlap cannot wait for each
 * other, and of two that collide the one that is ahead goes on.  Who collided
 * with a running transaction tries again for coupon.sold_out_wait, with empty
 * hands.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/compat.h"
#include "base/errors.h"
#include "base/guc.h"
#include "base/stat.h"
#include "node/node.h"
#include "sale/hold.h"
#include "sale/sweep.h"
#include "sale/user_filter.h"

#define FIRST_SLICE_MS	1		/* of waiting, doubled until ... */
#define LAST_SLICE_MS	8

/* ---- a call ---- */

void
coupon_hold_begin(CouponHold *hold, int64 campaign_id, Datum user_id)
{
	coupon_node_require(campaign_id, (text *) DatumGetPointer(user_id));
	memset(hold, 0, sizeof(*hold));
	hold->user_id = user_id;
	hold->campaign = coupon_campaign_enter(campaign_id, &hold->def);
	hold->stock = coupon_stock_open(hold->campaign, hold->def);
	hold->table = coupon_writer_open(coupon_catalog()->issuance, COUPON_INSERT);
	coupon_issuance_row_begin(&hold->row, hold->def, hold->table);
}

void
coupon_hold_end(CouponHold *hold)
{
	coupon_issuance_row_end(&hold->row);
	if (hold->lookup.def != NULL)
		coupon_lookup_end(&hold->lookup);
	coupon_writer_close(hold->table);
	coupon_campaign_leave(hold->campaign);
}

CouponLookup *
coupon_hold_lookup(CouponHold *hold)
{
	if (hold->lookup.def == NULL)
		coupon_lookup_begin(&hold->lookup, hold->def, hold->table);
	return &hold->lookup;
}

void
coupon_hold_check_serial(const CouponDefinition *def, int64 serial)
{
	if (serial < 1 || serial > def->stock)
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_UNKNOWN_UNIT),
				 errmsg("unknown unit"),
				 errdetail("Campaign %lld has the serials 1 to %lld, not %lld.",
						   (long long) def->campaign_id, (long long) def->stock, (long long) serial),
				 errhint("coupon_units() lists the units of a campaign.")));
}

COUPON_WAIT_EVENT(wait_event, "CouponUnitBusy");

bool
coupon_hold_wait(CouponHold *hold)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz start;
	long		waited_ms;
	long		left_ms;

	if (coupon_stock_has_own(hold->campaign))
		return false;
	if (hold->deadline == 0)
		hold->deadline = TimestampTzPlusMilliseconds(now, coupon_sold_out_wait);
	start = TimestampTzPlusMilliseconds(hold->deadline, -coupon_sold_out_wait);
	waited_ms = TimestampDifferenceMilliseconds(start, now);
	left_ms = coupon_ms_until(hold->deadline, now, coupon_sold_out_wait);
	if (left_ms <= 0)
		return false;

	coupon_stat_tally(COUPON_TALLY_RETRIES);
	if (hold->lookup.def != NULL)
		coupon_lookup_pause(&hold->lookup);
	coupon_issuance_row_pause(&hold->row);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 Min(left_ms, Min(Max(waited_ms, FIRST_SLICE_MS), LAST_SLICE_MS)),
					 wait_event());
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return true;
}

/* ---- looking and taking ---- */

/*
 * What the index says of a wish whose unit is not free.  It stays pending if
 * a hold on the unit has run out.
 */
static void
look(CouponHold *hold, CouponWish *wish, CouponHoldStatus refusal)
{
	CouponIssuanceRow *row = &hold->row;
	CouponUnitState state = coupon_issuance_row_find(row, wish->serial, GetCurrentTimestamp());
	CouponHoldStatus status;

	if (state == COUPON_UNIT_FREE || state == COUPON_UNIT_UNDECIDED)
		status = COUPON_HOLD_BUSY;
	else if (state == COUPON_UNIT_LAPSED)
		status = COUPON_HOLD_PENDING;
	else if (coupon_same_text(row->user_id, (text *) DatumGetPointer(hold->user_id)))
	{
		wish->issuance = row->issuance;
		wish->status = state == COUPON_UNIT_HELD ?
			COUPON_HOLD_ALREADY_HELD : COUPON_HOLD_ALREADY_ISSUED;
		return;
	}
	else
		status = COUPON_HOLD_TAKEN;
	wish->status = refusal != COUPON_HOLD_PENDING ? refusal : status;
}

void
coupon_hold_take(CouponHold *hold, CouponHoldStatus refusal)
{
	for (int i = 0; i < hold->nwishes; i++)
	{
		CouponWish *wish = &hold->wishes[i];

		CHECK_FOR_INTERRUPTS();
		wish->status = COUPON_HOLD_PENDING;
		wish->taken = wish->inserted = wish->refused = false;
		if (refusal == COUPON_HOLD_PENDING)
			wish->taken = coupon_stock_take_serial(hold->campaign, hold->stock, wish->serial,
												   &wish->unit);
		if (wish->taken)
			continue;
		look(hold, wish, refusal);
		if (wish->status == COUPON_HOLD_BUSY && hold->row.state == COUPON_UNIT_FREE)
		{
			coupon_stock_heal(hold->campaign, hold->stock, &wish->unit);
			wish->taken = coupon_stock_take_serial(hold->campaign, hold->stock, wish->serial,
												   &wish->unit);
			if (wish->taken)
				wish->status = COUPON_HOLD_PENDING;
			else if (hold->def->withdrawn + hold->def->away > 0 &&
					 coupon_stock_is_withdrawn(hold->campaign, &wish->unit))
				wish->status = COUPON_HOLD_TAKEN;
		}
	}
}

void
coupon_hold_give_up(CouponHold *hold, CouponHoldStatus status)
{
	/* the last one first: that is found first among the intents */
	for (int i = hold->nwishes - 1; i >= 0; i--)
	{
		CouponWish *wish = &hold->wishes[i];

		CHECK_FOR_INTERRUPTS();
		if (wish->inserted)
		{
			/* nobody else can have touched it */
			if (coupon_issuance_row_find(&hold->row, wish->serial, DT_NOBEGIN) == COUPON_UNIT_FREE ||
				!coupon_issuance_row_remove(&hold->row, COUPON_NO_WAIT))
				elog(ERROR, "could not withdraw serial %lld", (long long) wish->serial);
		}
		if (wish->taken)
			coupon_stock_give_back(hold->campaign, &wish->unit,
								   wish->inserted || wish->refused ? COUPON_WITHDRAWN : COUPON_UNTOUCHED);
		wish->taken = wish->inserted = wish->refused = false;
		if (wish->status == COUPON_HOLD_PENDING)
			wish->status = status;
	}
}

bool
coupon_hold_take_over(CouponHold *hold, CouponWish *wish, TimestampTz now)
{
	if (!coupon_issuance_row_remove(&hold->row, COUPON_NO_WAIT))
		return false;
	wish->taken = coupon_stock_take_over(hold->campaign, hold->stock, COUPON_TO_HOLD,
										 wish->serial, &wish->unit);
	coupon_sweep_record(&hold->row, now);
	return wish->taken;
}

bool
coupon_hold_take_over_all(CouponHold *hold)
{
	for (int i = 0; i < hold->nwishes; i++)
	{
		CouponWish *wish = &hold->wishes[i];
		TimestampTz now = GetCurrentTimestamp();

		if (wish->status != COUPON_HOLD_PENDING || wish->taken)
			continue;
		if (coupon_issuance_row_find(&hold->row, wish->serial, now) != COUPON_UNIT_LAPSED ||
			!coupon_hold_take_over(hold, wish, now))
		{
			wish->status = COUPON_HOLD_BUSY;
			return false;
		}
	}
	return true;
}

/* ---- inserting ---- */

/*
 * Locks the user and finds numbers for the pending wishes; *presumed: without a
 * look-up, since the user most probably has nothing.  False if too few are left
 * for the user: then nobody is locked.
 */
static bool
lock_and_number(CouponHold *hold, int npending, int32 *nths, bool *presumed, CouponHoldStatus *why)
{
	for (;;)
	{
		bool		undecided;
		int64		lapsed;
		int			found;
		CouponUnit	unit;

		coupon_issuance_lock_user(hold->def, hold->user_id);
		*presumed = *presumed && coupon_filter_presumes_new(hold->campaign, hold->user_id);
		if (*presumed)
		{
			for (int i = 0; i < npending; i++)
				nths[i] = i + 1;
			return true;
		}
		found = coupon_lookup_numbers(coupon_hold_lookup(hold), hold->user_id, npending, nths,
									  &undecided, &lapsed);
		coupon_lookup_pause(&hold->lookup);
		if (found == npending)
			return true;
		coupon_issuance_unlock_user(hold->def, hold->user_id);

		/* a hold that has run out is none of theirs any more */
		if (lapsed != 0 &&
			coupon_sweep_serial(hold->campaign, hold->def, hold->table, COUPON_TO_HOLD, lapsed, &unit))
		{
			coupon_stock_give_back(hold->campaign, &unit, COUPON_WITHDRAWN);
			continue;
		}
		*why = undecided || lapsed != 0 ? COUPON_HOLD_BUSY : COUPON_HOLD_LIMIT_REACHED;
		return false;
	}
}

/*
 * Inserts one row; false if an index refuses it, with a status, or still pending
 * and taken if its number was only presumed to be free.
 */
static bool
insert_wish(CouponHold *hold, CouponWish *wish, int32 nth, bool presumed, TimestampTz now)
{
	const CouponDefinition *def = hold->def;
	CouponIssuance *issuance = &wish->issuance;

	issuance->serial = wish->unit.serial;
	issuance->shard = wish->unit.shard_number;
	issuance->nth = nth;
	issuance->issued_at = now;
	issuance->held_until = hold->ttl == 0 ? 0 : now + hold->ttl;
	/* what is held cannot be used yet: its usage period has not begun */
	issuance->expires_at = hold->ttl != 0 || def->usage_period_days == 0 ? DT_NOEND :
		now + def->usage_period_days * USECS_PER_DAY;
	issuance->code = NULL;

	coupon_filter_begin(hold->campaign, def);
	coupon_filter_add(hold->campaign, hold->user_id);
	switch (coupon_issuance_insert(hold->table, hold->campaign, def, hold->user_id, issuance,
								   hold->confirm_ref))
	{
		case COUPON_INSERTED:
			wish->inserted = true;
			return true;
		case COUPON_USER_TAKEN:
			/* no other session can have the unit before this one ends */
			wish->refused = true;
			if (presumed)
				return false;
			wish->status = COUPON_HOLD_BUSY;
			coupon_stock_give_back(hold->campaign, &wish->unit, COUPON_WITHDRAWN);
			break;
		case COUPON_SERIAL_TAKEN:
			wish->status = COUPON_HOLD_BUSY;
			coupon_stock_give_back(hold->campaign, &wish->unit, COUPON_NOT_OURS);
			break;
	}
	wish->taken = false;
	return false;
}

static void
remember_key(CouponHold *hold, TimestampTz now)
{
	CouponUsedKey used = {.kind = hold->kind,.used_at = now,.nserials = hold->nwishes};

	used.serials = palloc(hold->nwishes * sizeof(int64));
	for (int i = 0; i < hold->nwishes; i++)
		used.serials[i] = hold->wishes[i].serial;
	coupon_request_key_remember(hold->def, hold->user_id, hold->request_key, &used);
	pfree(used.serials);
}

/*
 * Inserts rows for the pending wishes, with these numbers.  True if they are there;
 * *again: the presumption was wrong, and no row is.
 */
static bool
insert_wishes(CouponHold *hold, const int32 *nths, bool presumed, bool *again)
{
	TimestampTz now = GetCurrentTimestamp();
	int			used = 0;

	*again = false;
	for (int i = 0; i < hold->nwishes; i++)
	{
		CouponWish *wish = &hold->wishes[i];

		if (wish->status != COUPON_HOLD_PENDING)
			continue;
		if (!insert_wish(hold, wish, nths[used], presumed && used == 0, now))
		{
			*again = wish->status == COUPON_HOLD_PENDING;
			return false;
		}
		used++;
	}
	if (hold->request_key != NULL)
		remember_key(hold, now);
	if (hold->ttl != 0)
		coupon_stock_note_hold(hold->stock, now + hold->ttl);
	return true;
}

bool
coupon_hold_insert(CouponHold *hold)
{
	int			npending = 0;
	int32		one_nth;
	int32	   *nths = &one_nth;
	CouponHoldStatus why;
	CouponUsedKey used_key;
	bool		presumed = true;
	bool		done;
	bool		again;

	for (int i = 0; i < hold->nwishes; i++)
		npending += hold->wishes[i].status == COUPON_HOLD_PENDING;
	if (npending > hold->def->per_user_limit)
	{
		coupon_hold_give_up(hold, COUPON_HOLD_LIMIT_REACHED);
		return false;
	}
	if (hold->request_key != NULL)
		coupon_request_key_prepare();
	if (npending > 1)
		nths = palloc(npending * sizeof(int32));
	do
	{
		if (!lock_and_number(hold, npending, nths, &presumed, &why))
		{
			coupon_hold_give_up(hold, why);
			return false;
		}
		if (hold->request_key != NULL &&
			coupon_request_key_find(hold->def, hold->user_id, hold->request_key, COUPON_NO_WAIT, &used_key) != COUPON_KEY_NEW)
		{
			coupon_issuance_unlock_user(hold->def, hold->user_id);
			coupon_hold_give_up(hold, COUPON_HOLD_BUSY);
			return false;
		}
		done = insert_wishes(hold, nths, presumed, &again);
		coupon_issuance_unlock_user(hold->def, hold->user_id);
		presumed = false;
	} while (again);
	if (!done)
		coupon_hold_give_up(hold, COUPON_HOLD_NOT_HELD);
	return done;
}
