/*
 * issuance_table.c
 *	  The rows of coupon.issuance: found, and inserted under their constraints.
 *
 * A conflict in a unique index is an answer, not an ERROR.  INSERT ... ON
 * CONFLICT gets that by speculative insertion, which costs another WAL record
 * a row.  Here it is cheaper: the stock map gives a serial to one session
 * only, and of two sessions that want the same user one is first in the user
 * index, whose page is locked from the check to the insertion; the other one's
 * insertion tells it so, and its row is deleted again.  Only who counts a user's
 * rows or keys first, and then inserts, locks the user: holds, and issues under a
 * key.  A hold that another issue comes before is told that it is.
 *
 * Reads use dirty snapshots: they see what is committed now and what others
 * are about to commit, at every isolation level, as a unique index does.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/locks.h"
#include "sale/away.h"
#include "sale/issuance_table.h"

/* ---- finding ---- */

bool
coupon_same_text(const text *a, const text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

void
coupon_issuance_read(TupleTableSlot *slot, CouponIssuance *issuance)
{
	slot_getsomeattrs(slot, Issuance_held_until);
	issuance->serial = DatumGetInt64(slot->tts_values[Issuance_serial - 1]);
	issuance->shard = DatumGetInt32(slot->tts_values[Issuance_shard - 1]);
	issuance->nth = DatumGetInt32(slot->tts_values[Issuance_nth - 1]);
	issuance->issued_at = DatumGetTimestampTz(slot->tts_values[Issuance_issued_at - 1]);
	issuance->expires_at = slot->tts_isnull[Issuance_expires_at - 1] ? DT_NOEND :
		DatumGetTimestampTz(slot->tts_values[Issuance_expires_at - 1]);
	issuance->held_until = slot->tts_isnull[Issuance_held_until - 1] ? 0 :
		DatumGetTimestampTz(slot->tts_values[Issuance_held_until - 1]);
	issuance->code = NULL;
}

/* A row of a transaction that has yet to decide. */
typedef struct Undecided
{
	TransactionId xid;			/* invalid: there is none */
	uint32		token;			/* of a speculative insertion */
	ItemPointerData tid;
} Undecided;

/*
 * What a row waits for: its insertion, or, of a hold that has run out, what
 * another transaction makes of it.
 */
static void
note_undecided(CouponLookup *lookup, const CouponIssuance *row, Undecided *pending)
{
	pending->xid = lookup->dirty.xmin;
	if (!TransactionIdIsValid(pending->xid) &&
		row->held_until != 0 && row->held_until <= lookup->now)
		pending->xid = lookup->dirty.xmax;
	pending->token = lookup->dirty.speculativeToken;
	pending->tid = lookup->slot->tts_tid;
}

/* What a row says of its user, once all of its versions have been seen. */
static void
judge_row(CouponLookup *lookup, const CouponIssuance *row, const Undecided *pending,
		  CouponIssuance *found, CouponIssuance *lapsed, Undecided *undecided)
{
	if (TransactionIdIsValid(pending->xid))
		*undecided = *pending;
	else if (row->held_until == 0)
	{
		if (found->held_until != 0)
			*found = *row;
	}
	else if (row->held_until <= lookup->now)
		*lapsed = *row;
	else if (lookup->hold.serial == 0)
		lookup->hold = *row;
}

/* The highest number between two that is within the limit, 0: none. */
static int32
unused_between(int32 lower, int32 upper, int32 limit)
{
	int32		highest = Min(upper - 1, limit);

	return highest > lower ? highest : 0;
}

/*
 * Where nothing is free, a hold that has run out comes before all else, then
 * issuances, then holds.
 */
static CouponUserState
judge_full(CouponLookup *lookup, const CouponIssuance *lapsed, CouponIssuance *found,
		   Undecided *undecided)
{
	if (lapsed->serial != 0)
	{
		*found = *lapsed;
		undecided->xid = InvalidTransactionId;
		return COUPON_USER_LAPSED;
	}
	if (found->held_until != 0 && lookup->hold.serial != 0)
		*found = lookup->hold;
	return COUPON_USER_HAS;
}

/*
 * A row that is in nobody's way, though its transaction runs: not if rows are
 * inserted speculatively (coupon_writer_insert_unless), which it then is in the
 * way of.  That leaves none behind after a conflict.
 */
static bool
is_withdrawn(CouponLookup *lookup, TupleTableSlot *slot)
{
	return coupon_row_withdrawn(slot) && !RelationIsLogicallyLogged(lookup->heap);
}

/*
 * One look at a user's rows, from the highest nth down.  Fills *found with
 * the newest row, or with a free nth; *undecided with a row to wait for, if
 * only that one stands in the way.  A row that is being updated has two live
 * versions with the same nth; it is there whatever becomes of the update.
 */
static CouponUserState
look_at_user(CouponLookup *lookup, Datum user_id, CouponIssuance *found, int *room,
			 Undecided *undecided)
{
	int32		limit = lookup->def->per_user_limit;
	TupleTableSlot *slot = lookup->slot;
	Undecided	pending = {0};	/* of the row being looked at */
	CouponIssuance row = {0};	/* that with the nth seen last */
	CouponIssuance lapsed = {0};
	int32		below = 0;		/* the nth seen last, 0: none yet */
	int32		nrows = 0;		/* so many numbers were seen */
	int32		unused = 0;		/* a number without a row, 0: none yet */
	bool		above = false;	/* is one above a limit that was lowered
								 * since? */

	*room = 1;
	undecided->xid = InvalidTransactionId;
	lookup->hold.serial = 0;
	lookup->missed = false;
	coupon_key_text(&lookup->keys[1], 2, user_id);
	index_rescan(lookup->scan, lookup->keys, 2, NULL, 0);

	while (coupon_index_next(lookup->scan, BackwardScanDirection, slot, &lookup->missed))
	{
		bool		isnull;
		int32		nth = DatumGetInt32(slot_getattr(slot, Issuance_nth, &isnull));

		if (is_withdrawn(lookup, slot))
			continue;
		if (nth == below)
		{
			/* the version that is there if the update of the row is undone */
			if (!TransactionIdIsValid(lookup->dirty.xmin))
			{
				coupon_issuance_read(slot, &row);
				note_undecided(lookup, &row, &pending);
				if (found->nth == nth)
					*found = row;
			}
			continue;
		}
		if (below != 0)
		{
			judge_row(lookup, &row, &pending, found, &lapsed, undecided);
			unused = Max(unused, unused_between(nth, below, limit));
			if (unused > 0 && !above)
				break;			/* a gap that a revocation left */
		}

		coupon_issuance_read(slot, &row);
		if (below == 0)
		{
			*found = row;
			if (nth < limit)
			{
				found->nth = nth + 1;
				*room = limit - nth;
				return COUPON_USER_MAY_HAVE;
			}
			above = nth > limit;
		}
		nrows++;
		below = nth;
		note_undecided(lookup, &row, &pending);
	}
	if (below > 0)
		judge_row(lookup, &row, &pending, found, &lapsed, undecided);

	if (below == 0)
	{
		*room = limit;
		found->nth = 1;
		return COUPON_USER_MAY_HAVE;
	}
	unused = Max(unused, unused_between(0, below, limit));
	if (unused > 0 && (!above || nrows < limit))
	{
		found->nth = unused;
		return COUPON_USER_MAY_HAVE;
	}
	return judge_full(lookup, &lapsed, found, undecided);
}

void
coupon_lookup_begin(CouponLookup *lookup, const CouponDefinition *def, CouponTableWriter *writer)
{
	const CouponCatalog *catalog = coupon_catalog();

	lookup->def = def;
	lookup->writer = writer;
	if (writer == NULL)
	{
		lookup->heap = table_open(catalog->issuance, AccessShareLock);
		(void) coupon_table(lookup->heap, NULL);
		lookup->index = coupon_index_open(catalog->issuance_user_key, AccessShareLock);
	}
	else
	{
		lookup->heap = coupon_writer_relation(writer);
		lookup->index = coupon_writer_index(writer, catalog->issuance_user_key);
	}

	coupon_key_int64(&lookup->keys[0], 1, BTEqualStrategyNumber, def->campaign_id);
	lookup->keys[1].sk_attno = 0;	/* nobody was looked for yet */
	InitDirtySnapshot(lookup->dirty);
	lookup->slot = table_slot_create(lookup->heap, NULL);
	lookup->scan = coupon_index_beginscan(lookup->heap, lookup->index, &lookup->dirty, 2);
}

void
coupon_lookup_end(CouponLookup *lookup)
{
	index_endscan(lookup->scan);
	ExecDropSingleTupleTableSlot(lookup->slot);
	if (lookup->writer == NULL)
	{
		index_close(lookup->index, NoLock);
		table_close(lookup->heap, NoLock);
	}
}

void
coupon_lookup_pause(CouponLookup *lookup)
{
	ExecClearTuple(lookup->slot);
	if (lookup->keys[1].sk_attno != 0)
		index_rescan(lookup->scan, lookup->keys, 2, NULL, 0);
}

/* Further looks are at what is committed: what a dirty scan missed is among it. */
static void
begin_committed(CouponLookup *lookup)
{
	CommandCounterIncrement();	/* what this transaction has written, too */
	coupon_lookup_pause(lookup);
	lookup->dirty.xmin = lookup->dirty.xmax = InvalidTransactionId;
	lookup->dirty.speculativeToken = 0;
	lookup->scan->xs_snapshot = RegisterSnapshot(GetLatestSnapshot());
}

static void
end_committed(CouponLookup *lookup)
{
	Snapshot	latest = lookup->scan->xs_snapshot;

	coupon_lookup_pause(lookup);
	lookup->scan->xs_snapshot = &lookup->dirty;
	UnregisterSnapshot(latest);
}

/*
 * The same look, at what is committed.  It can only refuse what the dirty look
 * has granted.  That one alone has seen what others have yet to commit, so a
 * number that may be free is its.
 */
static CouponUserState
look_at_committed(CouponLookup *lookup, Datum user_id, CouponIssuance *found, int *room,
				  Undecided *undecided)
{
	CouponIssuance granted = *found;
	int			granted_room = *room;
	CouponUserState state;

	begin_committed(lookup);
	state = look_at_user(lookup, user_id, found, room, undecided);
	end_committed(lookup);
	if (state == COUPON_USER_MAY_HAVE)
	{
		*found = granted;
		*room = Min(*room, granted_room);
	}
	return state;
}

CouponUserState
coupon_lookup_user(CouponLookup *lookup, Datum user_id, CouponWait wait,
				   CouponIssuance *found, int *room)
{
	const CouponDefinition *def = lookup->def;

	for (;;)
	{
		Undecided	undecided;
		CouponUserState state;

		lookup->now = GetCurrentTimestamp();
		state = look_at_user(lookup, user_id, found, room, &undecided);
		if (state == COUPON_USER_MAY_HAVE && lookup->missed)
			state = look_at_committed(lookup, user_id, found, room, &undecided);
		if (state == COUPON_USER_MAY_HAVE || !TransactionIdIsValid(undecided.xid))
		{
			if (state == COUPON_USER_HAS && found->held_until == 0 && def->coded)
				found->code = coupon_issuance_label(def->campaign_id, found->serial);
			return state;
		}
		if (wait == COUPON_NO_WAIT)
			return COUPON_USER_LOCKED;

		coupon_lookup_pause(lookup);

		/*
		 * As a unique index does: whoever came first decides.  A speculative
		 * insertion is somebody else's INSERT ... ON CONFLICT.
		 */
		if (undecided.token != 0)
			SpeculativeInsertionWait(undecided.xid, undecided.token);
		else
			XactLockTableWait(undecided.xid, lookup->heap,
							  &undecided.tid, XLTW_InsertIndex);
	}
}

/* One look at all of a user's rows: notes their numbers, returns how many there are. */
static int
note_numbers(CouponLookup *lookup, Datum user_id, uint8 *used, bool *undecided, int64 *lapsed)
{
	int32		limit = lookup->def->per_user_limit;
	TupleTableSlot *slot = lookup->slot;
	int			nrows = 0;
	int32		previous = 0;

	lookup->missed = false;
	coupon_key_text(&lookup->keys[1], 2, user_id);
	index_rescan(lookup->scan, lookup->keys, 2, NULL, 0);
	while (coupon_index_next(lookup->scan, ForwardScanDirection, slot, &lookup->missed))
	{
		CouponIssuance row;

		if (is_withdrawn(lookup, slot))
			continue;
		coupon_issuance_read(slot, &row);
		if (row.nth >= 1 && row.nth <= limit)
			used[(row.nth - 1) / 8] |= 1 << ((row.nth - 1) % 8);
		/* a row that is being updated has two versions */
		nrows += row.nth != previous;
		previous = row.nth;
		if (TransactionIdIsValid(lookup->dirty.xmin) || TransactionIdIsValid(lookup->dirty.xmax))
			*undecided = true;
		else if (row.held_until != 0 && row.held_until <= lookup->now)
			*lapsed = row.serial;
	}
	return nrows;
}

int
coupon_lookup_numbers(CouponLookup *lookup, Datum user_id, int wanted, int32 *nths,
					  bool *undecided, int64 *lapsed)
{
	int32		limit = lookup->def->per_user_limit;
	uint8		used[COUPON_MAX_PER_USER_LIMIT / 8 + 1];
	int			nfound = 0;
	int			nrows;

	*undecided = false;
	*lapsed = 0;
	memset(used, 0, limit / 8 + 1);
	lookup->now = GetCurrentTimestamp();
	nrows = note_numbers(lookup, user_id, used, undecided, lapsed);
	if (lookup->missed)
	{
		int			ncommitted;

		begin_committed(lookup);
		ncommitted = note_numbers(lookup, user_id, used, undecided, lapsed);
		end_committed(lookup);
		nrows = Max(nrows, ncommitted);
	}
	/* those above a limit that was lowered since count, too */
	wanted = Min(wanted, limit - nrows);
	for (int32 nth = 1; nth <= limit && nfound < wanted; nth++)
	{
		if (!(used[(nth - 1) / 8] & (1 << ((nth - 1) % 8))))
			nths[nfound++] = nth;
	}
	return nfound;
}

text *
coupon_issuance_label(int64 campaign_id, int64 serial)
{
	const CouponCatalog *catalog = coupon_catalog();
	ScanKeyData keys[2];
	CouponScan	scan;
	text	   *label = NULL;

	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, campaign_id);
	coupon_key_int64(&keys[1], 2, BTEqualStrategyNumber, serial);
	coupon_scan_begin(&scan, catalog->unit, catalog->unit_pkey, SnapshotSelf, keys, 2, false);
	if (coupon_scan_next(&scan, ForwardScanDirection))
	{
		bool		isnull;

		label = DatumGetTextPCopy(slot_getattr(scan.slot, Unit_label, &isnull));
	}
	coupon_scan_end(&scan);
	return label;
}

/* ---- inserting ---- */

Datum
coupon_issuance_state(bool held)
{
	static text *states[2];

	if (states[held] == NULL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

		states[held] = cstring_to_text(held ? "held" : "issued");
		MemoryContextSwitchTo(oldcontext);
	}
	return PointerGetDatum(states[held]);
}

static void
fill_row(TupleTableSlot *row, const CouponDefinition *def, Datum user_id,
		 const CouponIssuance *issuance, text *confirm_ref)
{
	bool		held = issuance->held_until != 0;
	Datum	   *values = row->tts_values;
	bool	   *nulls = row->tts_isnull;

	memset(nulls, false, Issuance_policy);
	values[Issuance_campaign_id - 1] = Int64GetDatum(def->campaign_id);
	values[Issuance_serial - 1] = Int64GetDatum(issuance->serial);
	values[Issuance_shard - 1] = Int32GetDatum(issuance->shard);
	values[Issuance_nth - 1] = Int32GetDatum(issuance->nth);
	values[Issuance_issued_at - 1] = TimestampTzGetDatum(issuance->issued_at);
	values[Issuance_expires_at - 1] = TimestampTzGetDatum(issuance->expires_at);
	nulls[Issuance_expires_at - 1] = issuance->expires_at == DT_NOEND;
	values[Issuance_user_id - 1] = user_id;
	values[Issuance_state - 1] = coupon_issuance_state(held);
	values[Issuance_policy - 1] = PointerGetDatum(COUPON_DEFINITION_POLICY(def));
	values[Issuance_held_until - 1] = TimestampTzGetDatum(issuance->held_until);
	nulls[Issuance_held_until - 1] = !held;
	values[Issuance_confirm_ref - 1] = PointerGetDatum(confirm_ref);
	nulls[Issuance_confirm_ref - 1] = confirm_ref == NULL;
}

void
coupon_issuance_lock_user(const CouponDefinition *def, Datum user_id)
{
	coupon_lock(COUPON_LOCK_USER, coupon_user_hash(user_id, def->campaign_id));
	COUPON_FAULT(user_locked);
}

void
coupon_issuance_unlock_user(const CouponDefinition *def, Datum user_id)
{
	coupon_unlock(COUPON_LOCK_USER, coupon_user_hash(user_id, def->campaign_id));
}

/* Somebody has deleted shards of the campaign, or is about to: this one? */
static void
require_shard(int64 campaign_id, int32 shard)
{
	const CouponCatalog *catalog = coupon_catalog();
	SnapshotData dirty;
	ScanKeyData keys[2];

	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, campaign_id);
	coupon_key_int32(&keys[1], 2, BTEqualStrategyNumber, shard);
	if (!coupon_row_exists(catalog->shard, catalog->shard_pkey, keys, 2, &dirty))
		ereport(ERROR,
				(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
				 errmsg("shard %d of campaign %lld was deleted", shard, (long long) campaign_id),
				 errdetail("The unit belonged to it."),
				 errhint("Keep the campaign closed, or restart the server: then its shards are read again.")));
	if (TransactionIdIsValid(dirty.xmax))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("campaign %lld is being deleted", (long long) campaign_id),
				 errdetail("Another transaction has deleted the shard %d, and has yet to commit.", shard),
				 errhint("Try again when that transaction has ended.")));
}

/*
 * The campaign's end has begun: before this call did?  Units of rows that have been
 * taken away since look free, and no index knows that they are not.  Or its units have
 * got labels, which the answer and the event must tell.
 */
static void
require_campaign(CouponCampaign *campaign, const CouponDefinition *def)
{
	const CouponCatalog *catalog = coupon_catalog();
	bool		labelling = !def->coded && pg_atomic_read_u32(&campaign->labellings) > 0;
	Snapshot	latest = RegisterSnapshot(GetLatestSnapshot());
	bool		ended = false;
	bool		labelled = false;
	ScanKeyData key;
	CouponScan	scan;

	coupon_key_int64(&key, 1, BTEqualStrategyNumber, def->campaign_id);
	coupon_scan_begin(&scan, catalog->campaign, catalog->campaign_pkey, latest, &key, 1, false);
	if (coupon_scan_next(&scan, ForwardScanDirection))
	{
		bool		isnull;

		ended = !slot_attisnull(scan.slot, Campaign_archived_at);
		labelled = !def->coded && DatumGetBool(slot_getattr(scan.slot, Campaign_coded, &isnull));
	}
	coupon_scan_end(&scan);
	UnregisterSnapshot(latest);
	if (ended)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("campaign %lld has ended meanwhile", (long long) def->campaign_id),
				 errdetail("It is being archived or dropped since this call began."),
				 errhint("Try again: the answer is that of a closed campaign.")));
	if (labelled)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the units of campaign %lld have got labels meanwhile", (long long) def->campaign_id),
				 errdetail("They were imported since this call began."),
				 errhint("Try again: the answer has a label.")));
	if (labelling)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the units of campaign %lld are getting labels", (long long) def->campaign_id),
				 errdetail("Another transaction imports them, and has yet to commit."),
				 errhint("Try again when that transaction has ended.")));
}

/* In place of locks on the shard and the campaign, see campaign_delete.c. */
static void
require_parents(CouponCampaign *campaign, const CouponDefinition *def, TupleTableSlot **rows, int n)
{
	if (n > 0 && unlikely(coupon_campaign_may_differ(campaign, def)))
		require_campaign(campaign, def);
	for (int i = 0; i < n && pg_atomic_read_u32(&campaign->deletions) > 0; i++)
		require_shard(def->campaign_id, DatumGetInt32(rows[i]->tts_values[Issuance_shard - 1]));
}

static CouponInsertion
insertion(int conflict)
{
	return conflict < 0 ? COUPON_INSERTED :
		conflict == Issuance_serial_key ? COUPON_SERIAL_TAKEN : COUPON_USER_TAKEN;
}

CouponInsertion
coupon_issuance_insert(CouponTableWriter *writer, CouponCampaign *campaign,
					   const CouponDefinition *def, Datum user_id,
					   const CouponIssuance *issuance, text *confirm_ref)
{
	TupleTableSlot *row = coupon_writer_row(writer);
	int			conflict;

	fill_row(row, def, user_id, issuance, confirm_ref);
	conflict = coupon_writer_insert_unless(writer);
	if (conflict < 0)
		require_parents(campaign, def, &row, 1);
	if (def->shared && conflict < 0)
		coupon_away_refuse(def->campaign_id, issuance->shard, &issuance->serial, 1);
	return insertion(conflict);
}

/* ---- inserting many ---- */

/* The number of a row, for sorting by serials. */
typedef struct SerialPlace
{
	int64		serial;
	int			row;
} SerialPlace;

#define ST_SORT sort_by_serial
#define ST_ELEMENT_TYPE SerialPlace
#define ST_COMPARE(a, b) ((a)->serial < (b)->serial ? -1 : (a)->serial > (b)->serial)
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

struct CouponIssuanceRows
{
	CouponTableWriter *writer;
	CouponCampaign *campaign;
	const CouponDefinition *def;
	MemoryContext context;		/* of the copies that an insertion makes */
	TupleTableSlot *rows[COUPON_ROWS_AT_ONCE];
	SerialPlace by_serial[COUPON_ROWS_AT_ONCE];
	int			nslots;			/* made */
	int			nrows;			/* filled */
};

CouponIssuanceRows *
coupon_issuance_rows_begin(CouponTableWriter *writer, CouponCampaign *campaign,
						   const CouponDefinition *def)
{
	CouponIssuanceRows *rows;

	if (!coupon_writer_takes_many(writer))
		return NULL;
	rows = palloc0(sizeof(CouponIssuanceRows));
	rows->writer = writer;
	rows->campaign = campaign;
	rows->def = def;
	rows->context = AllocSetContextCreate(CurrentMemoryContext, "coupon issuances",
										  ALLOCSET_DEFAULT_SIZES);
	return rows;
}

void
coupon_issuance_rows_end(CouponIssuanceRows *rows)
{
	for (int i = 0; i < rows->nslots; i++)
		ExecDropSingleTupleTableSlot(rows->rows[i]);
	MemoryContextDelete(rows->context);
	pfree(rows);
}

void
coupon_issuance_rows_add(CouponIssuanceRows *rows, Datum user_id, const CouponIssuance *issuance)
{
	Assert(rows->nrows < COUPON_ROWS_AT_ONCE);
	if (rows->nrows == rows->nslots)
		rows->rows[rows->nslots++] = coupon_writer_new_row(rows->writer);
	rows->by_serial[rows->nrows].serial = issuance->serial;
	rows->by_serial[rows->nrows].row = rows->nrows;
	fill_row(rows->rows[rows->nrows++], rows->def, user_id, issuance, NULL);
}

/* One look at a shard for rows of it that follow each other. */
static void
refuse_away(CouponIssuanceRows *rows, int n)
{
	int64		serials[COUPON_ROWS_AT_ONCE];
	int			count = 0;

	for (int i = 0; i < n; i++)
	{
		int32		shard = DatumGetInt32(rows->rows[i]->tts_values[Issuance_shard - 1]);

		serials[count++] = DatumGetInt64(rows->rows[i]->tts_values[Issuance_serial - 1]);
		if (i + 1 == n || DatumGetInt32(rows->rows[i + 1]->tts_values[Issuance_shard - 1]) != shard)
		{
			coupon_away_refuse(rows->def->campaign_id, shard, serials, count);
			count = 0;
		}
	}
}

int
coupon_issuance_rows_insert(CouponIssuanceRows *rows, CouponInsertion *next)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(rows->context);
	int			numbers[COUPON_ROWS_AT_ONCE];
	int			conflict;
	int			ninserted;

	sort_by_serial(rows->by_serial, rows->nrows);
	for (int i = 0; i < rows->nrows; i++)
		numbers[i] = rows->by_serial[i].row;
	ninserted = coupon_writer_insert_many_unless(rows->writer, rows->rows, rows->nrows, numbers,
												 &conflict);
	require_parents(rows->campaign, rows->def, rows->rows, ninserted);
	if (rows->def->shared)
		refuse_away(rows, ninserted);
	for (int i = 0; i < rows->nrows; i++)
		ExecClearTuple(rows->rows[i]);
	rows->nrows = 0;
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(rows->context);
	*next = insertion(conflict);
	return ninserted;
}

/* ---- deleting what issuances refer to ---- */

pg_noreturn static void
refuse_deletion(int64 campaign_id, TupleTableSlot *slot)
{
	CouponIssuance issuance;

	coupon_issuance_read(slot, &issuance);
	ereport(ERROR,
			(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
			 errmsg("shard %d of campaign %lld is in use", issuance.shard, (long long) campaign_id),
			 errdetail("Serial %lld is issued.", (long long) issuance.serial),
			 errhint("Use coupon_campaign_archive() or coupon_campaign_drop().")));
}

void
coupon_issuance_await_none(int64 campaign_id, int64 first_serial, int64 last_serial)
{
	const CouponCatalog *catalog = coupon_catalog();
	SnapshotData dirty;
	Snapshot	latest;
	ScanKeyData keys[3];
	CouponScan	scan;

	InitDirtySnapshot(dirty);
	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, campaign_id);
	coupon_key_int64(&keys[1], 2, BTGreaterEqualStrategyNumber, first_serial);
	coupon_key_int64(&keys[2], 2, BTLessEqualStrategyNumber, last_serial);
	coupon_scan_begin(&scan, catalog->issuance, catalog->issuance_serial_key, &dirty, keys, 3, false);
	while (coupon_scan_next(&scan, ForwardScanDirection))
	{
		TransactionId xid = TransactionIdIsValid(dirty.xmin) ? dirty.xmin : dirty.xmax;
		ItemPointerData tid = scan.slot->tts_tid;
		CouponIssuance issuance;

		coupon_issuance_read(scan.slot, &issuance);
		if (!TransactionIdIsValid(xid))
			refuse_deletion(campaign_id, scan.slot);
		ExecClearTuple(scan.slot);
		XactLockTableWait(xid, scan.heap, &tid, XLTW_Delete);
		coupon_key_int64(&keys[1], 2, BTGreaterEqualStrategyNumber, issuance.serial);
		index_rescan(scan.scan, keys, 3, NULL, 0);
	}
	coupon_scan_end(&scan);
	if (!scan.missed)
		return;

	/* what was missed is deleted, or committed */
	CommandCounterIncrement();
	latest = RegisterSnapshot(GetLatestSnapshot());
	coupon_key_int64(&keys[1], 2, BTGreaterEqualStrategyNumber, first_serial);
	coupon_scan_begin(&scan, catalog->issuance, catalog->issuance_serial_key, latest, keys, 3, false);
	if (coupon_scan_next(&scan, ForwardScanDirection))
		refuse_deletion(campaign_id, scan.slot);
	coupon_scan_end(&scan);
	UnregisterSnapshot(latest);
}
