/*
 * issue.c
 *	  Issuing: the one core that all ways in share.
 *
 * The order of steps is the product's promise:
 *	- who has a unit is told so first, so a retry always finds its coupon,
 *	  after sell-out, pause and close, too, and a duplicate burns no stock;
 *	- then the room, if the campaign requires one, so that nobody walks around it;
 *	- then the window, then the stock map, then the row under its constraints,
 *	  then the event; all of it in the caller's transaction.
 *
 * A batch is worked off in rounds.  Units are dealt out in the order of items,
 * so that first come is first served.  Users are looked up and rows inserted
 * in the order of user ids, and a batch waits for another transaction's user
 * only while all users that it has inserted itself are smaller; so two batches
 * cannot wait for each other.  A round leaves over what depends on another item
 * of the same user, and whatever follows a lost race; the next round takes
 * these.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/arguments.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/stat.h"
#include "base/trace.h"
#include "node/node.h"
#include "outbox/outbox.h"
#include "sale/issue.h"
#include "sale/refusal.h"
#include "sale/request_key.h"
#include "sale/sweep.h"
#include "sale/take.h"
#include "sale/unit_event.h"
#include "sale/user_filter.h"

/* A batch at work. */
typedef struct Batch
{
	CouponCampaign *campaign;
	const CouponDefinition *def;
	CouponLookup lookup;		/* def is NULL: not begun, nobody was looked
								 * up */
	CouponTableWriter *table;	/* NULL: there is nothing to issue */
	CouponIssuanceRows *rows;	/* NULL: one by one */
	CouponOutbox *outbox;		/* begun with the first event */
	TimestampTz now;
	CouponWait	wait;
	CouponItem *items;
	int			nitems;
	int		   *by_user;		/* numbers of valid items in the order of user
								 * ids */
	int			nvalid;
	bool		keyed;			/* some have a key */
	bool	   *pending;		/* item has no outcome yet */
	bool	   *candidate;		/* item wants a unit in this round */
	int			highest;		/* item of the greatest user inserted, or -1 */
	CouponUnit *units;			/* by item */
	CouponUnit *dealt;			/* as taken, before they are dealt out */
	int			nspare;			/* the first ones of dealt: for the next round */
	bool		was_short;		/* the last round had too few units */
	bool		careful;		/* a row was refused: users are looked up, and
								 * rows inserted one by one */
	CouponStatus refusal;		/* without a table: of all who have no unit */
} Batch;

const char *const coupon_issue_outcomes[] = {
	[COUPON_ISSUED] = "issued",
	[COUPON_ALREADY_ISSUED] = "already_issued",
	[COUPON_SOLD_OUT] = "sold_out",
	[COUPON_BUSY] = "busy",
	[COUPON_NOT_OPEN] = "not_open",
	[COUPON_CLOSED] = "closed",
	[COUPON_PAUSED] = "paused",
	[COUPON_NOT_ADMITTED] = "not_admitted",
	[COUPON_HELD] = "held",
	[COUPON_RETURNED] = "returned",
	[COUPON_OTHER_CALL] = "other_call",
	[COUPON_INVALID] = "invalid",
	[COUPON_MOVED] = "moved"
};

CouponWay	coupon_way_issue = {
	.name = "issue",
	.kind = COUPON_WAY_TRANSACTION,
	.outcomes = coupon_issue_outcomes,
	.noutcomes = COUPON_OTHER_CALL + 1
};

CouponWay	coupon_way_many = {
	.name = "many",
	.kind = COUPON_WAY_TRANSACTION,
	.batched = true,
	.outcomes = coupon_issue_outcomes,
	.noutcomes = COUPON_STATUSES
};

const char *
coupon_status_name(CouponStatus status)
{
	return coupon_issue_outcomes[status];
}

CouponStatus
coupon_issue_window(const CouponDefinition *def, TimestampTz now)
{
	if (def->closed || now >= def->closes_at)
		return COUPON_CLOSED;
	if (def->paused)
		return COUPON_PAUSED;
	if (now < def->opens_at)
		return COUPON_NOT_OPEN;
	return COUPON_ISSUED;
}

/* Gives an item its outcome.  COUPON_ISSUED is counted when it commits. */
static void
decide(Batch *batch, int item, CouponStatus status)
{
	batch->items[item].status = status;
	batch->pending[item] = false;
	if (status != COUPON_ISSUED && status < COUPON_COUNTED_STATUSES)
	{
		pg_atomic_fetch_add_u64(&batch->campaign->answers[status], 1);
		if (unlikely(batch->def->note_refusals) && coupon_is_refusal(status))
			coupon_refusal_note(batch->def, batch->items[item].user_id, coupon_status_name(status));
	}
}

/* ---- keys ---- */

/* Gives an item its outcome if its key was used before. */
static void
answer_key(Batch *batch, int number, CouponWait wait)
{
	CouponItem *item = &batch->items[number];
	CouponUsedKey used;
	CouponKeyState state = coupon_request_key_find(batch->def, item->user_id, item->request_key, COUPON_NO_WAIT, &used);

	if (state == COUPON_KEY_LOCKED && wait == COUPON_WAIT)
	{
		if (batch->lookup.def != NULL)
			coupon_lookup_pause(&batch->lookup);
		state = coupon_request_key_find(batch->def, item->user_id, item->request_key, wait, &used);
	}
	switch (state)
	{
		case COUPON_KEY_NEW:
			break;
		case COUPON_KEY_LOCKED:
			decide(batch, number, COUPON_BUSY);
			break;
		case COUPON_KEY_USED:
			item->repeated = true;
			if (used.kind != COUPON_KEY_ISSUE)
				decide(batch, number, COUPON_OTHER_CALL);
			else if (used.nserials == 0 ||
					 !coupon_request_key_has(batch->def, item->user_id, &used, used.serials[0], &item->issuance))
				/* what is missing may be in the archive */
				decide(batch, number, batch->def->ending ? COUPON_CLOSED : COUPON_RETURNED);
			else
			{
				if (batch->def->coded)
					item->issuance.code = coupon_issuance_label(batch->def->campaign_id, item->issuance.serial);
				decide(batch, number, COUPON_ISSUED);
			}
	}
}

/* Answers those of a user's items whose key, or whose twin, has an answer. */
static void
answer_keys(Batch *batch, int begin, int end, CouponWait wait)
{
	for (int i = begin; i < end; i++)
	{
		CouponItem *item = &batch->items[batch->by_user[i]];

		if (!batch->pending[batch->by_user[i]] || item->request_key == NULL)
			continue;
		CHECK_FOR_INTERRUPTS();
		if (item->twin == 0)
			answer_key(batch, batch->by_user[i], wait);
		else if (!batch->pending[item->twin - 1])
		{
			item->repeated = true;
			item->issuance = batch->items[item->twin - 1].issuance;
			decide(batch, batch->by_user[i], batch->items[item->twin - 1].status);
		}
	}
}

/* Inserts the row of an item with a key, unless the key was used meanwhile. */
static CouponInsertion
insert_keyed(Batch *batch, CouponItem *item)
{
	CouponIssuance *issuance = &item->issuance;
	CouponUsedKey used;
	CouponInsertion result = COUPON_USER_TAKEN;

	coupon_request_key_prepare();
	coupon_issuance_lock_user(batch->def, item->user_id);
	if (coupon_request_key_find(batch->def, item->user_id, item->request_key, COUPON_NO_WAIT, &used) == COUPON_KEY_NEW)
		result = coupon_issuance_insert(batch->table, batch->campaign, batch->def, item->user_id, issuance, NULL);
	if (result == COUPON_INSERTED)
	{
		COUPON_FAULT(key_unused);
		used.kind = COUPON_KEY_ISSUE;
		used.used_at = issuance->issued_at;
		used.serials = &issuance->serial;
		used.nserials = 1;
		coupon_request_key_remember(batch->def, item->user_id, item->request_key, &used);
	}
	coupon_issuance_unlock_user(batch->def, item->user_id);
	return result;
}

/* ---- candidates ---- */

/*
 * Looks a user up.  A hold of theirs that has run out is taken away first, if
 * it stands in the way and anything may be issued: its unit is the batch's.
 */
static CouponUserState
look_up_user(Batch *batch, Datum user_id, CouponWait wait, CouponIssuance *found, int *room)
{
	if (batch->lookup.def == NULL)
		coupon_lookup_begin(&batch->lookup, batch->def, batch->table);
	for (;;)
	{
		CouponUserState state = coupon_lookup_user(&batch->lookup, user_id, wait, found, room);
		CouponUnit	unit;

		if (state != COUPON_USER_LAPSED)
			return state;
		if (batch->table == NULL)
			return COUPON_USER_MAY_HAVE;
		PreventCommandIfReadOnly("coupon_issue()");
		if (!coupon_sweep_serial(batch->campaign, batch->def, batch->table, COUPON_TO_ISSUE,
								 found->serial, &unit))
			return COUPON_USER_LOCKED;
		if (batch->nspare < batch->nitems)
			batch->dealt[batch->nspare++] = unit;
		else
			coupon_stock_give_back(batch->campaign, &unit, COUPON_WITHDRAWN);
	}
}

/*
 * May an insertion be tried without a look-up?  Whoever is to be told anything
 * else is looked up first.
 */
static bool
presume_new(Batch *batch, CouponItem *item)
{
	if (batch->table == NULL || batch->careful || batch->was_short ||
		!coupon_filter_presumes_new(batch->campaign, item->user_id))
		return false;
	if (!item->admitted)
		item->admitted = coupon_campaign_admits(batch->def, item->user_id);
	return item->admitted;
}

/*
 * Looks a user up whose items are by_user[begin] to by_user[end - 1]; those
 * that may have a unit become candidates, what nothing more can come of gets
 * its outcome, and what depends on the candidates waits for the next round.
 */
static int
find_user_candidates(Batch *batch, int begin, int end)
{
	int			first = batch->by_user[begin];
	CouponWait	wait = batch->wait;
	CouponIssuance found;
	CouponUserState state;
	int			room;
	int			wish = -1;		/* the first pending item */
	int			ncandidates = 0;

	if (batch->highest >= 0 && coupon_compare_users(batch->items, first, batch->highest) <= 0)
		wait = COUPON_NO_WAIT;
	if (batch->keyed)
		answer_keys(batch, begin, end, wait);
	for (int i = end - 1; i >= begin; i--)
	{
		batch->candidate[batch->by_user[i]] = false;
		if (batch->pending[batch->by_user[i]])
			wish = batch->by_user[i];
	}
	if (wish < 0)
		return 0;

	CHECK_FOR_INTERRUPTS();
	if (presume_new(batch, &batch->items[wish]))
	{
		state = COUPON_USER_MAY_HAVE;
		found.nth = 1;
		room = batch->def->per_user_limit;
	}
	else
		state = look_up_user(batch, batch->items[first].user_id, wait, &found, &room);

	for (int i = begin; i < end; i++)
	{
		int			item = batch->by_user[i];

		if (!batch->pending[item])
			continue;
		if (state == COUPON_USER_HAS)
		{
			batch->items[item].issuance = found;
			decide(batch, item, found.held_until == 0 ? COUPON_ALREADY_ISSUED : COUPON_HELD);
		}
		else if (state == COUPON_USER_LOCKED)
			decide(batch, item, COUPON_BUSY);
		else if (batch->table == NULL)
			decide(batch, item, batch->refusal);
		else if (!batch->items[item].admitted &&
				 !coupon_campaign_admits(batch->def, batch->items[item].user_id))
			decide(batch, item, COUPON_NOT_ADMITTED);
		else if (ncandidates < room && batch->items[item].twin == 0)
		{
			batch->items[item].admitted = true; /* once is enough */
			batch->candidate[item] = true;
			batch->items[item].issuance.nth = found.nth + ncandidates++;
		}
	}
	return ncandidates;
}

/* The end of the items in by_user that are of the same user as the first. */
static int
end_of_user(Batch *batch, int begin)
{
	int			end = begin + 1;

	while (end < batch->nvalid &&
		   coupon_compare_users(batch->items, batch->by_user[begin], batch->by_user[end]) == 0)
		end++;
	return end;
}

/* Looks up who has pending items; returns how many items want a unit. */
static int
find_candidates(Batch *batch)
{
	int			ncandidates = 0;
	int			end;

	for (int begin = 0; begin < batch->nvalid; begin = end)
	{
		end = end_of_user(batch, begin);
		ncandidates += find_user_candidates(batch, begin, end);
	}
	if (batch->lookup.def != NULL)
		coupon_lookup_pause(&batch->lookup);
	return ncandidates;
}

/*
 * The units are dealt out, and there are no more: whoever gets none, and has
 * no item that got one, has the answer.
 */
static void
refuse_the_others(Batch *batch, CouponStatus answer)
{
	int			end;

	for (int begin = 0; begin < batch->nvalid; begin = end)
	{
		bool		gets_one = false;

		CHECK_FOR_INTERRUPTS();
		end = end_of_user(batch, begin);
		for (int i = begin; i < end; i++)
			gets_one |= batch->pending[batch->by_user[i]] && batch->candidate[batch->by_user[i]];
		for (int i = begin; i < end && !gets_one; i++)
		{
			if (batch->pending[batch->by_user[i]])
				decide(batch, batch->by_user[i], answer);
		}
	}
}

/*
 * Takes units and deals them out to the candidates in the order of items.
 * Who gets none is looked up once more before that is said: while this
 * session waited for the last unit, it may have become the user's own.
 */
static void
deal_units(Batch *batch, int ncandidates)
{
	CouponShortage why = COUPON_NO_SHORTAGE;
	int			wait_ms = batch->wait == COUPON_WAIT && !batch->was_short ? coupon_sold_out_wait : 0;
	int			ndealt = batch->nspare;
	int			next = 0;

	if (ndealt < ncandidates)
		ndealt += coupon_take(batch->campaign, batch->def, batch->table, COUPON_TO_ISSUE,
							  ncandidates - ndealt, wait_ms, batch->dealt + ndealt, &why);
	for (int item = 0; item < batch->nitems; item++)
	{
		if (!batch->pending[item] || !batch->candidate[item])
			continue;
		if (next < ndealt)
			batch->units[item] = batch->dealt[next++];
		else
			batch->candidate[item] = false;
	}
	if (why != COUPON_NO_SHORTAGE && batch->was_short)
		refuse_the_others(batch, why == COUPON_SHORT_BUSY ? COUPON_BUSY : COUPON_SOLD_OUT);
	batch->was_short = why != COUPON_NO_SHORTAGE;
	batch->nspare = ndealt - next;
	memmove(batch->dealt, batch->dealt + next, batch->nspare * sizeof(CouponUnit));
}

static void
append_event(Batch *batch, const CouponItem *item)
{
	const CouponIssuance *issuance = &item->issuance;
	CouponUnitEvent event = {0};

	if (batch->outbox == NULL)
		batch->outbox = coupon_outbox_begin(batch->nitems > 1);
	event.topic = COUPON_DEFINITION_TOPIC(batch->def);
	event.campaign_id = batch->def->campaign_id;
	event.user_id = TextDatumGetCString(item->user_id);
	event.serial = issuance->serial;
	event.code = issuance->code == NULL ? NULL : text_to_cstring(issuance->code);
	event.policy = COUPON_DEFINITION_POLICY_JSON(batch->def);
	event.issued_at = issuance->issued_at;
	event.expires_at = issuance->expires_at;
	event.trace = item->trace == NULL ? coupon_trace() : item->trace;
	coupon_unit_event_add(batch->outbox, COUPON_EVENT_ISSUED, &event);
	pfree(unconstify(char *, event.user_id));
	if (event.code != NULL)
		pfree(unconstify(char *, event.code));
}

/* The issuance of an item that has a unit.  Its user is in the filter from here on. */
static void
fill_issuance(Batch *batch, CouponItem *item, const CouponUnit *unit)
{
	const CouponDefinition *def = batch->def;
	CouponIssuance *issuance = &item->issuance;

	issuance->serial = unit->serial;
	issuance->shard = unit->shard_number;
	issuance->code = def->coded ? coupon_issuance_label(def->campaign_id, unit->serial) : NULL;
	issuance->issued_at = batch->now;
	issuance->held_until = 0;
	issuance->expires_at = def->usage_period_days == 0 ? DT_NOEND :
		batch->now + def->usage_period_days * USECS_PER_DAY;
	coupon_filter_begin(batch->campaign, def);
	coupon_filter_add(batch->campaign, item->user_id);
}

/*
 * Inserts the row of an item, in exchange for units that turn out to be
 * somebody else's if need be.  Fills the issuance.
 */
static CouponInsertion
insert_item(Batch *batch, CouponItem *item, CouponUnit *unit)
{
	for (;;)
	{
		CouponInsertion result;
		CouponShortage why;

		fill_issuance(batch, item, unit);
		result = item->request_key != NULL ? insert_keyed(batch, item) :
			coupon_issuance_insert(batch->table, batch->campaign, batch->def, item->user_id,
								   &item->issuance, NULL);
		if (result != COUPON_SERIAL_TAKEN)
			return result;

		CHECK_FOR_INTERRUPTS();
		coupon_stock_give_back(batch->campaign, unit, COUPON_NOT_OURS);
		if (batch->nspare > 0)
			*unit = batch->dealt[--batch->nspare];
		else if (coupon_take(batch->campaign, batch->def, batch->table, COUPON_TO_ISSUE, 1, 0, unit,
							 &why) == 0)
			return result;
	}
}

static void
note_inserted(Batch *batch, int number)
{
	append_event(batch, &batch->items[number]);
	decide(batch, number, COUPON_ISSUED);
	if (batch->highest < 0 || coupon_compare_users(batch->items, number, batch->highest) > 0)
		batch->highest = number;
}

/*
 * Writes the candidates' rows and events, many together.  Returns how far it
 * came in by_user: to the first that was refused, of which *why tells.
 */
static int
insert_together(Batch *batch, CouponInsertion *why)
{
	int			places[COUPON_ROWS_AT_ONCE];
	int			at = 0;

	if (batch->rows == NULL)
		batch->rows = coupon_issuance_rows_begin(batch->table, batch->campaign, batch->def);
	while (batch->rows != NULL && at < batch->nvalid)
	{
		int			n = 0;
		int			ninserted;

		for (; at < batch->nvalid && n < COUPON_ROWS_AT_ONCE; at++)
		{
			int			number = batch->by_user[at];

			if (!batch->pending[number] || !batch->candidate[number])
				continue;
			CHECK_FOR_INTERRUPTS();
			fill_issuance(batch, &batch->items[number], &batch->units[number]);
			coupon_issuance_rows_add(batch->rows, batch->items[number].user_id,
									 &batch->items[number].issuance);
			places[n++] = at;
		}
		if (n == 0)
			break;
		ninserted = coupon_issuance_rows_insert(batch->rows, why);
		Assert(ninserted <= n);
		for (int i = 0; i < ninserted; i++)
			note_inserted(batch, batch->by_user[places[i]]);
		if (ninserted < n)
		{
			batch->careful = true;
			return places[ninserted];
		}
	}
	return at;
}

/*
 * Writes the candidates' rows and events, in the order of user ids, up to the
 * first that is refused: others wait for it as for one inserted, so greater
 * users are not to follow before its outcome is known.
 */
static void
insert_candidates(Batch *batch)
{
	CouponInsertion why = COUPON_INSERTED;
	bool		lost;
	int			begin = 0;

	/* one by one from where another unit is needed */
	if (batch->nitems > 1 && !batch->careful && !batch->keyed)
		begin = insert_together(batch, &why);
	lost = why == COUPON_USER_TAKEN;
	for (int i = begin; i < batch->nvalid; i++)
	{
		int			number = batch->by_user[i];
		CouponUnit *unit = &batch->units[number];

		if (!batch->pending[number] || !batch->candidate[number])
			continue;
		CHECK_FOR_INTERRUPTS();
		if (lost)
		{
			batch->dealt[batch->nspare++] = *unit;
			continue;
		}
		switch (insert_item(batch, &batch->items[number], unit))
		{
			case COUPON_INSERTED:
				note_inserted(batch, number);
				break;
			case COUPON_USER_TAKEN:
				/* no other session can have the unit before this one ends */
				batch->dealt[batch->nspare++] = *unit;
				lost = batch->careful = true;
				break;
			case COUPON_SERIAL_TAKEN:
				lost = true;
				break;
		}
	}
}

/* Rounds until every item has its outcome. */
static void
work_off(Batch *batch)
{
	int			nrounds = 0;

	for (;;)
	{
		int			ncandidates = find_candidates(batch);

		if (ncandidates == 0)
			break;
		PreventCommandIfReadOnly("coupon_issue()");
		deal_units(batch, ncandidates);
		insert_candidates(batch);
		if (nrounds++ > 0)
			coupon_stat_tally(COUPON_TALLY_RETRIES);
	}
	while (batch->nspare > 0)
		coupon_stock_give_back(batch->campaign, &batch->dealt[--batch->nspare], COUPON_WITHDRAWN);
	if (batch->rows != NULL)
		coupon_issuance_rows_end(batch->rows);
	if (batch->outbox != NULL)
		coupon_outbox_finish(batch->outbox);
}

/* Items that are decided before anything is looked up; the others are pending. */
static void
enter_items(Batch *batch, int64 campaign_id, CouponStatus window)
{
	bool		on_node = coupon_node_here();

	for (int i = 0; i < batch->nitems; i++)
	{
		CouponItem *item = &batch->items[i];

		batch->pending[i] = batch->candidate[i] = false;
		if (item->user_id == (Datum) 0)
			item->status = COUPON_INVALID;
		else if (on_node && !item->accepted &&
				 !coupon_node_has(campaign_id, (text *) DatumGetPointer(item->user_id)))
			item->status = COUPON_MOVED;
		/* of what a key got and gave back the filter knows nothing */
		else if (window != COUPON_ISSUED && item->request_key == NULL &&
				 coupon_filter_excludes(batch->campaign, item->user_id))
			decide(batch, i, window);
		else
		{
			batch->pending[i] = true;
			/* cppcheck-suppress objectIndex; one_int serves a single item */
			batch->by_user[batch->nvalid++] = i;
			batch->keyed |= item->request_key != NULL;
		}
	}
}

/* A batch; with refusals_only nothing is done, and false, if units may be issued. */
static bool
issue_batch(int64 campaign_id, CouponItem *items, int nitems, CouponWait wait,
			bool refusals_only)
{
	Batch		batch = {0};
	CouponStatus window;
	bool		one_bool[2];
	CouponUnit	one_unit[2];
	int			one_int = 0;

	PreventCommandDuringRecovery("coupon_issue()");

	batch.campaign = coupon_campaign_enter(campaign_id, &batch.def);
	batch.now = GetCurrentTimestamp();
	batch.wait = wait;
	batch.items = items;
	batch.nitems = nitems;
	batch.highest = -1;
	window = coupon_issue_window(batch.def, batch.now);
	if (window == COUPON_ISSUED && coupon_stock_sold_out(batch.campaign, batch.def, batch.now))
	{
		window = COUPON_SOLD_OUT;
		coupon_filter_consider(batch.campaign, batch.def);
	}
	if (window == COUPON_ISSUED && refusals_only)
	{
		coupon_campaign_leave(batch.campaign);
		return false;
	}

	if (nitems == 1)
	{
		batch.by_user = &one_int;
		batch.pending = &one_bool[0];
		batch.candidate = &one_bool[1];
		batch.units = &one_unit[0];
		batch.dealt = &one_unit[1];
	}
	else
	{
		batch.by_user = palloc_huge_array(int, nitems);
		batch.pending = palloc_huge_array(bool, nitems);
		batch.candidate = palloc_huge_array(bool, nitems);
		batch.units = palloc_huge_array(CouponUnit, nitems);
		batch.dealt = palloc_huge_array(CouponUnit, nitems);
	}

	enter_items(&batch, campaign_id, window);
	if (batch.nvalid > 0)
	{
		if (batch.nvalid > 1)
			coupon_sort_by_user(items, batch.by_user, batch.nvalid);
		if (batch.nvalid > 1 && batch.keyed)
			coupon_find_twins(items, batch.by_user, batch.nvalid);
		if (window == COUPON_ISSUED)
			batch.table = coupon_writer_open(coupon_catalog()->issuance, COUPON_INSERT);
		batch.refusal = window;
		work_off(&batch);
		if (batch.lookup.def != NULL)
			coupon_lookup_end(&batch.lookup);
		if (batch.table != NULL)
			coupon_writer_close(batch.table);
	}
	coupon_campaign_leave(batch.campaign);
	return true;
}

void
coupon_issue_batch(int64 campaign_id, CouponItem *items, int nitems, CouponWait wait)
{
	(void) issue_batch(campaign_id, items, nitems, wait, false);
}

bool
coupon_issue_refuse(int64 campaign_id, CouponItem *item)
{
	return issue_batch(campaign_id, item, 1, COUPON_NO_WAIT, true);
}
