/*
 * sweeper.c
 *	  Ends what time has ended: holds that have run out go back to stock,
 *	  issuances whose usage period is over are marked, old memories are
 *	  forgotten.
 *
 * Only marks, events and stock wait for the sweeper; whether an issuance is
 * expired or a hold has run out is judged by the clock wherever it is used.
 *
 * Each campaign is swept apart, in a subtransaction.  One that cannot be swept
 * (a trigger of a DBA refuses it, its rows are locked, it is damaged) is left
 * alone for a while, and for longer each time; the others go on.  A transaction
 * sweeps a few campaigns only, since each stays pinned until the commit.
 */
#include "postgres.h"

#include "access/relscan.h"
#include "access/stratnum.h"
#include "catalog/pg_type_d.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/arguments.h"
#include "base/attempt.h"
#include "base/catalog.h"
#include "base/clock.h"
#include "base/errors.h"
#include "base/guc.h"
#include "base/spi.h"
#include "base/worker.h"
#include "sale/late_payment.h"
#include "sale/redeem.h"
#include "sale/refusal.h"
#include "sale/request_key.h"
#include "sale/sweep.h"

PG_FUNCTION_INFO_V1(coupon_hold_expire);
PG_FUNCTION_INFO_V1(coupon_expire);

#define SWEEP_ROWS			1000	/* at a time */
#define SWEEP_CAMPAIGNS		64
#define REFUSALS_MS			1000	/* until refusals are written */
#define CLEAN_MS			60000	/* between two looks for what may be
									 * forgotten */
#define MIN_SLEEP_MS		10

/* Of a campaign that cannot be swept. */
#define FIRST_BACK_OFF_MS	1000
#define LAST_BACK_OFF_MS	60000

/* A row can come into the index a little after its hold has run out. */
#define LATE_COMER_US		(10 * USECS_PER_SEC)

/* A sweep from the first hold on, dead ones included, in place of the last one. */
#define COMPLETE_SWEEP_MS	60000

/* One kind of thing that time ends, and how far those who sweep it have come. */
typedef struct Sweep
{
	const char *what;

	/* Finds what is due, by note_due, until that says no. */
	void		(*find) (struct Sweep *sweep);

	/* Ends n of one campaign that are due; returns how many. */
	int			(*end) (const CouponDue *due, int n, TimestampTz now);

	/* How long to wait after a sweep that left nothing, in ms. */
	int			(*interval) (struct Sweep *sweep);

	MemoryContext context;		/* of a call from SQL; NULL: the worker's own */
	HTAB	   *back_offs;		/* of campaigns, NULL: none yet */
	TimestampTz swept_at;		/* when nothing was left; 0: look again */
	TimestampTz from;			/* of holds: all before are done with */
	TimestampTz complete_at;	/* when from was the first */
	TimestampTz next;			/* of holds: when the next one runs out */

	/* the present transaction's */
	CouponDue  *due;
	int			ndue;
	int			max_due;
	int			ncampaigns;
	TimestampTz now;
	bool		more;			/* than fit */
	bool		full;			/* no room for the map of another campaign */
} Sweep;

typedef struct BackOff
{
	int64		campaign_id;
	TimestampTz until;
	int			ms;
	bool		passed_by;		/* something of it was left out since */
	uint32		logged;			/* the hash of the message logged last */
} BackOff;

/* ---- campaigns that cannot be swept ---- */

static bool
is_backed_off(Sweep *sweep, int64 campaign_id)
{
	BackOff    *entry = sweep->back_offs == NULL ? NULL :
	hash_search(sweep->back_offs, &campaign_id, HASH_FIND, NULL);

	if (entry == NULL || coupon_ms_until(entry->until, sweep->now, LAST_BACK_OFF_MS) == 0)
		return false;
	entry->passed_by = true;
	return true;
}

/* Error NULL: nothing could be done, since others are at it. */
static void
back_off(Sweep *sweep, int64 campaign_id, const ErrorData *error)
{
	BackOff    *entry;
	bool		found;

	if (sweep->back_offs == NULL)
	{
		HASHCTL		info = {.keysize = sizeof(int64),.entrysize = sizeof(BackOff),
		.hcxt = sweep->context ? sweep->context : TopMemoryContext};

		sweep->back_offs = hash_create("coupon sweeper", 64, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	entry = hash_search(sweep->back_offs, &campaign_id, HASH_ENTER, &found);
	if (!found)
	{
		entry->ms = FIRST_BACK_OFF_MS;
		entry->passed_by = false;
		entry->logged = 0;
	}
	else
		entry->ms = Min(entry->ms * 2, LAST_BACK_OFF_MS);
	entry->until = TimestampTzPlusMilliseconds(sweep->now, entry->ms);
	if (error != NULL)
	{
		uint32		message = DatumGetUInt32(hash_any((const unsigned char *) error->message,
													  strlen(error->message)));

		if (entry->logged == message)
			return;
		entry->logged = message;
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 campaign_id == 0 ?
				 errmsg("could not sweep the %s: %s", sweep->what, error->message) :
				 errmsg("could not sweep the %s of campaign %lld: %s", sweep->what,
						(long long) campaign_id, error->message),
				 error->detail ? errdetail_internal("%s", error->detail) : 0,
				 errhint("Everything else is swept nevertheless. This is tried again, at least once a minute.")));
	}
}

static void
forgive(Sweep *sweep, int64 campaign_id)
{
	if (sweep->back_offs != NULL)
		(void) hash_search(sweep->back_offs, &campaign_id, HASH_REMOVE, NULL);
}

/* Is it time again for a campaign that was passed by? */
static bool
end_back_offs(Sweep *sweep)
{
	HASH_SEQ_STATUS status;
	BackOff    *entry;
	bool		ended = false;

	if (sweep->back_offs == NULL)
		return false;
	hash_seq_init(&status, sweep->back_offs);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		if (entry->passed_by && coupon_ms_until(entry->until, sweep->now, LAST_BACK_OFF_MS) == 0)
		{
			entry->passed_by = false;
			ended = true;
		}
	}
	return ended;
}

/* ---- finding what is due ---- */

/* True unless there is no room. */
static bool
note_due(Sweep *sweep, int64 campaign_id, int64 serial)
{
	int			max_campaigns = Min(SWEEP_CAMPAIGNS, coupon_max_campaigns / 4);
	bool		known = false;

	for (int i = sweep->ndue - 1; i >= 0 && !known; i--)
		known = sweep->due[i].campaign_id == campaign_id;
	if (sweep->ndue == sweep->max_due || (!known && sweep->ncampaigns == max_campaigns))
	{
		sweep->more = true;
		return false;
	}
	sweep->ncampaigns += !known;
	sweep->due[sweep->ndue].campaign_id = campaign_id;
	sweep->due[sweep->ndue++].serial = serial;
	return true;
}

/*
 * Holds that have run out.  All before from are done with, and with a snapshot
 * held open for long their dead rows are many: they are not walked over again.
 * What somebody is at stays on this side of it.
 */
static void
find_holds(Sweep *sweep)
{
	SnapshotData dirty;
	ScanKeyData key;
	CouponScan	scan;
	TimestampTz undone = DT_NOEND;

	/* now and then from the beginning: clocks can be set back */
	if (end_back_offs(sweep) || sweep->now < sweep->complete_at ||
		TimestampDifferenceExceeds(sweep->complete_at, sweep->now, COMPLETE_SWEEP_MS))
	{
		sweep->from = DT_NOBEGIN;
		sweep->complete_at = sweep->now;
	}
	sweep->next = DT_NOEND;
	InitDirtySnapshot(dirty);
	coupon_key_time(&key, 1, BTGreaterEqualStrategyNumber, sweep->from);
	coupon_scan_begin(&scan, coupon_catalog()->issuance, coupon_catalog()->issuance_lapse_idx,
					  &dirty, &key, 1, false);
	while (coupon_scan_next(&scan, ForwardScanDirection))
	{
		bool		isnull;
		TimestampTz held_until = DatumGetTimestampTz(slot_getattr(scan.slot, Issuance_held_until, &isnull));
		int64		campaign_id = DatumGetInt64(slot_getattr(scan.slot, Issuance_campaign_id, &isnull));
		bool		undecided = TransactionIdIsValid(dirty.xmin) || TransactionIdIsValid(dirty.xmax);

		if (held_until > sweep->now)
		{
			sweep->next = held_until;
			break;
		}
		if (is_backed_off(sweep, campaign_id))
			continue;
		if (!undecided &&
			!note_due(sweep, campaign_id, DatumGetInt64(slot_getattr(scan.slot, Issuance_serial, &isnull))))
		{
			sweep->next = held_until;
			break;
		}
		undone = Min(undone, held_until);
	}
	coupon_scan_end(&scan);
	sweep->from = Min(undone, Min(sweep->next, sweep->now - LATE_COMER_US));
}

/* Issuances whose usage period is over. */
static void
find_expired(Sweep *sweep)
{
	static CouponStatement select = {
		"SELECT d.campaign_id, d.serial FROM coupon.issuance d"
		" WHERE d.state = 'issued' AND d.expires_at <= $2 AND d.campaign_id <> ALL ($3)"
		" ORDER BY d.expires_at LIMIT $1",
		3, {INT4OID, TIMESTAMPTZOID, INT8ARRAYOID}
	};
	int			max = sweep->back_offs == NULL ? 0 : hash_get_num_entries(sweep->back_offs);
	int64	   *except = palloc((max + 1) * sizeof(int64));
	int			n = 0;
	Datum		values[3];
	uint64		count;

	if (max > 0)
	{
		HASH_SEQ_STATUS status;
		BackOff    *entry;

		hash_seq_init(&status, sweep->back_offs);
		while ((entry = hash_seq_search(&status)) != NULL)
		{
			if (is_backed_off(sweep, entry->campaign_id))
				except[n++] = entry->campaign_id;
		}
	}
	values[0] = Int32GetDatum(sweep->max_due);
	values[1] = TimestampTzGetDatum(sweep->now);
	values[2] = coupon_int64s_form(except, n);
	coupon_spi_connect();
	count = coupon_spi_execute(&select, SPI_OK_SELECT, values, NULL);
	for (uint64 row = 0; row < count; row++)
	{
		if (!note_due(sweep, DatumGetInt64(coupon_spi_value(row, 1, NULL)),
					  DatumGetInt64(coupon_spi_value(row, 2, NULL))))
			break;
	}
	if (count == (uint64) sweep->max_due)
		sweep->more = true;
	coupon_spi_finish();
}

/* Memories are of no campaign: there may be some that can be forgotten. */
static void
find_memories(Sweep *sweep)
{
	if (!is_backed_off(sweep, 0))
		(void) note_due(sweep, 0, 0);
}

static bool memories_left = false;

static int
forget_memories(const CouponDue *due, int n, TimestampTz now)
{
	memories_left = false;
	memories_left = coupon_late_payment_clean(SWEEP_ROWS) == SWEEP_ROWS;
	return n;
}

static bool keys_left = false;

static int
forget_keys(const CouponDue *due, int n, TimestampTz now)
{
	keys_left = false;
	keys_left = coupon_request_key_clean(SWEEP_ROWS) == SWEEP_ROWS;
	return n;
}

/* ---- one sweep ---- */

static int
compare_due(const void *a, const void *b)
{
	const CouponDue *x = a;
	const CouponDue *y = b;

	if (x->campaign_id != y->campaign_id)
		return x->campaign_id < y->campaign_id ? -1 : 1;
	return x->serial < y->serial ? -1 : x->serial > y->serial;
}

/* What is due of one campaign. */
typedef struct Part
{
	Sweep	   *sweep;
	const CouponDue *due;
	int			n;
	int			ended;
} Part;

static void
end_part(void *argument)
{
	Part	   *part = argument;
	ConstraintsSetStmt all_immediate = {.type = T_ConstraintsSetStmt};

	part->ended = part->sweep->end(part->due, part->n, part->sweep->now);

	/* what a DBA has deferred to the commit is this campaign's, too */
	if (part->sweep->context == NULL)
		AfterTriggerSetState(&all_immediate);
}

/* Sweeps once, up to max_rows; returns how many were ended. */
static int64
sweep_some(Sweep *sweep, int max_rows)
{
	int64		ended = 0;
	Part		part;

	sweep->now = GetCurrentTimestamp();
	sweep->max_due = Min(max_rows, SWEEP_ROWS);
	sweep->due = palloc(sweep->max_due * sizeof(CouponDue));
	sweep->ndue = sweep->ncampaigns = 0;
	sweep->more = sweep->full = false;
	sweep->find(sweep);

	qsort(sweep->due, sweep->ndue, sizeof(CouponDue), compare_due);
	part.sweep = sweep;
	for (int i = 0; i < sweep->ndue; i += part.n)
	{
		int64		campaign_id = sweep->due[i].campaign_id;
		ErrorData  *error;

		part.due = &sweep->due[i];
		for (part.n = 1; i + part.n < sweep->ndue && part.due[part.n].campaign_id == campaign_id;)
			part.n++;
		coupon_worker_tell("ending %s of campaign %lld", sweep->what, (long long) campaign_id);
		error = coupon_attempt(end_part, &part);
		if (error == NULL && part.ended > 0)
			forgive(sweep, campaign_id);
		else if (error == NULL || ended == 0 || error->sqlerrcode != ERRCODE_COUPON_OUT_OF_MAP_MEMORY)
			back_off(sweep, campaign_id, error);
		else
		{
			/* too many campaigns are in use; after the commit there is room */
			sweep->more = sweep->full = true;
			break;
		}
		ended += error == NULL ? part.ended : 0;
	}
	pfree(sweep->due);
	return ended;
}

/* ---- the worker ---- */

/* Until the next hold runs out, if that is known and soon. */
static int
hold_interval(Sweep *sweep)
{
	long		ms = sweep->next == DT_NOEND ? coupon_sweep_interval :
	TimestampDifferenceMilliseconds(sweep->swept_at, sweep->next) + 1;

	return Min(coupon_sweep_interval, Max(ms, MIN_SLEEP_MS));
}

static int
expiry_interval(Sweep *sweep)
{
	return coupon_sweep_interval;
}

static int
memory_interval(Sweep *sweep)
{
	return memories_left ? 0 : CLEAN_MS;
}

static int
key_interval(Sweep *sweep)
{
	return keys_left ? 0 : CLEAN_MS;
}

#define HOLDS		{.what = "holds", .find = find_holds, .end = coupon_sweep_campaign, \
					 .interval = hold_interval, .from = DT_NOBEGIN, .next = DT_NOEND}
#define EXPIRED		{.what = "usage periods", .find = find_expired, .end = coupon_redeem_expire_campaign, \
					 .interval = expiry_interval}

static Sweep sweeps[] = {
	HOLDS,
	EXPIRED,
	{.what = "memories of holds",.find = find_memories,.end = forget_memories,.interval = memory_interval},
	{.what = "keys of calls",.find = find_memories,.end = forget_keys,.interval = key_interval}
};

/* How long until it is time for a sweep, in ms; 0: it is. */
static int
time_left(Sweep *sweep)
{
	TimestampTz now = GetCurrentTimestamp();

	if (sweep->swept_at == 0 || now < sweep->swept_at)
		return 0;
	return Max(sweep->interval(sweep) - TimestampDifferenceMilliseconds(sweep->swept_at, now), 0);
}

/* One of the sweeps for which it is time, in turn. */
static bool
work(void)
{
	static int	turn = 0;

	coupon_refusal_write();
	for (int i = 0; i < (int) lengthof(sweeps); i++)
	{
		Sweep	   *sweep = &sweeps[turn];

		turn = (turn + 1) % lengthof(sweeps);
		if (time_left(sweep) > 0)
			continue;
		(void) sweep_some(sweep, SWEEP_ROWS);
		sweep->swept_at = sweep->more ? 0 : sweep->now;
		return true;
	}
	return false;
}

static int
interval(void)
{
	int			ms = INT_MAX;

	for (size_t i = 0; i < lengthof(sweeps); i++)
		ms = Min(ms, time_left(&sweeps[i]));
	return coupon_refusal_is_due() ? Min(ms, REFUSALS_MS) : ms;
}

static const char *const tables[] = {
	"campaign", "shard", "unit", "issuance", "request_key", "lapsed_hold", "outbox_0", "outbox_1", "outbox_2",
	"refusal", NULL
};

const CouponWorkerKind coupon_sweeper = {
	.name = "coupon sweeper",
	.activity = "looking for what has run out",
	.tables = tables,
	.work = work,
	.interval = interval
};

/* ---- from SQL ---- */

/* All that is due, up to max_rows, in this transaction. */
static Datum
sweep_all(FunctionCallInfo fcinfo, Sweep *sweep, const char *name)
{
	int64		max_rows = coupon_get_int32(fcinfo, 0, "max_rows", 1, 1000000);
	int64		ended = 0;

	coupon_shmem_attach();
	PreventCommandDuringRecovery(name);
	PreventCommandIfReadOnly(name);
	sweep->context = CurrentMemoryContext;
	do
	{
		CHECK_FOR_INTERRUPTS();
		ended += sweep_some(sweep, max_rows - ended);
	} while (sweep->ndue > 0 && ended < max_rows && !sweep->full);
	PG_RETURN_INT64(ended);
}

/*
 * coupon_hold_expire(max_rows)
 */
Datum
coupon_hold_expire(PG_FUNCTION_ARGS)
{
	Sweep		holds = HOLDS;

	return sweep_all(fcinfo, &holds, "coupon_hold_expire()");
}

/*
 * coupon_expire(max_rows)
 */
Datum
coupon_expire(PG_FUNCTION_ARGS)
{
	Sweep		expired = EXPIRED;

	return sweep_all(fcinfo, &expired, "coupon_expire()");
}
