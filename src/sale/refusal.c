/*
 * refusal.c
 *	  Who was refused a unit, and why: noted for campaigns that want it.
 *
 * A refusal writes nothing: no transaction id, no WAL.  So for a campaign that
 * wants to know (coupon.campaign.note_refusals) it is noted in shared memory,
 * and the sweeper adds the notes to coupon.refusal, a row for each user,
 * campaign and answer.  For others it costs one look at the definition.
 *
 * The notes are few.  When they are half full the sweeper is woken; what comes
 * while there is no room is counted and lost.  Those of a database whose
 * sweeper does not come for them make room for others after a while.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "base/arguments.h"
#include "base/attempt.h"
#include "base/compat.h"
#include "base/database.h"
#include "base/guc.h"
#include "base/spi.h"
#include "sale/refusal.h"

#define MAX_NOTES		4096	/* some 300 bytes each */
#define STALE_MS		60000	/* nobody came for the oldest */
#define CLEAN_MS		60000	/* between looks for rows that are too old */

typedef struct Note
{
	Oid			database;
	Oid			installation;	/* coupon.campaign's OID */
	int64		campaign_id;
	TimestampTz at;
	char		status[16];
	uint16		length;
	char		user_id[COUPON_MAX_NAME];
} Note;

typedef struct Shared
{
	LWLock	   *lock;			/* of all that follows but the atomic */
	pg_atomic_uint64 lost;
	int			n;
	Note		notes[MAX_NOTES];
} Shared;

static Shared *shared = NULL;

PG_FUNCTION_INFO_V1(coupon_refusal_forget);

static void
request(void)
{
	RequestNamedLWLockTranche("coupon_refusals", 1);
}

static void
set_up(void)
{
	shared->lock = &GetNamedLWLockTranche("coupon_refusals")->lock;
	pg_atomic_init_u64(&shared->lost, 0);
}

const CouponModule coupon_refusal_module = {
	.name = "coupon refusals",
	.size = sizeof(Shared),
	.memory = (void **) &shared,
	.set_up = set_up,
	.request = request
};

/* ---- noting ---- */

void
coupon_refusal_note(const CouponDefinition *def, Datum user_id, const char *status)
{
	const text *user = (const text *) DatumGetPointer(user_id);
	Oid			installation = coupon_catalog()->campaign;
	TimestampTz now = GetCurrentTimestamp();
	bool		half_full;

	if (VARSIZE_ANY_EXHDR(user) > COUPON_MAX_NAME)
		return;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	if (shared->n == MAX_NOTES && TimestampDifferenceExceeds(shared->notes[0].at, now, STALE_MS))
	{
		pg_atomic_fetch_add_u64(&shared->lost, shared->n);
		shared->n = 0;
	}
	if (shared->n == MAX_NOTES)
		pg_atomic_fetch_add_u64(&shared->lost, 1);
	else
	{
		Note	   *note = &shared->notes[shared->n++];

		note->database = MyDatabaseId;
		note->installation = installation;
		note->campaign_id = def->campaign_id;
		note->at = now;
		strlcpy(note->status, status, sizeof(note->status));
		note->length = VARSIZE_ANY_EXHDR(user);
		memcpy(note->user_id, VARDATA_ANY(user), note->length);
	}
	half_full = shared->n == MAX_NOTES / 2;
	LWLockRelease(shared->lock);
	if (half_full)
		coupon_wake(COUPON_SWEEPER);
}

/* ---- writing ---- */

static bool
is_ours(const Note *note)
{
	return note->database == MyDatabaseId;
}

bool
coupon_refusal_is_due(void)
{
	bool		found = false;

	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < shared->n && !found; i++)
		found = is_ours(&shared->notes[i]);
	LWLockRelease(shared->lock);
	return found;
}

/* Takes those of this database away; with a user, only theirs. */
static int
take_notes(Note *taken, const text *user)
{
	int			ntaken = 0;
	int			nleft = 0;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->n; i++)
	{
		Note	   *note = &shared->notes[i];
		bool		take = is_ours(note);

		if (take && user != NULL)
			take = note->length == VARSIZE_ANY_EXHDR(user) &&
				memcmp(note->user_id, VARDATA_ANY(user), note->length) == 0;
		if (take)
			taken[ntaken++] = *note;
		else
			shared->notes[nleft++] = *note;
	}
	shared->n = nleft;
	LWLockRelease(shared->lock);
	return ntaken;
}

typedef struct Notes
{
	Note	   *notes;
	int			n;
} Notes;

/*
 * Nobody is waited for: not whoever deletes a campaign, which needs no rows any
 * more, nor whoever has a row locked, to erase its user: it stays as it is.
 */
static void
insert_notes(void *arg)
{
	static CouponStatement insert = {
		"WITH there AS MATERIALIZED ("
		"  SELECT c.campaign_id FROM coupon.campaign c WHERE c.campaign_id = ANY ($2) FOR KEY SHARE SKIP LOCKED),"
		" noted AS MATERIALIZED ("
		"  SELECT n.user_id, n.campaign_id, n.status, min(n.at) AS first_at, max(n.at) AS last_at, count(*) AS times"
		"    FROM unnest($1, $2, $3, $4) n(user_id, campaign_id, status, at)"
		"   WHERE n.campaign_id IN (SELECT t.campaign_id FROM there t)"
		"   GROUP BY 1, 2, 3),"
		" free AS MATERIALIZED ("
		"  SELECT n.user_id, n.campaign_id, n.status"
		"    FROM noted n, LATERAL (SELECT FROM coupon.refusal r WHERE r.user_id = n.user_id"
		"      AND r.campaign_id = n.campaign_id AND r.status = n.status FOR UPDATE SKIP LOCKED) r)"
		" INSERT INTO coupon.refusal AS r (user_id, campaign_id, status, first_at, last_at, times)"
		" SELECT n.user_id, n.campaign_id, n.status, n.first_at, n.last_at, n.times FROM noted n"
		"  WHERE (n.user_id, n.campaign_id, n.status) IN (SELECT f.user_id, f.campaign_id, f.status FROM free f)"
		"     OR NOT EXISTS (SELECT FROM coupon.refusal r WHERE r.user_id = n.user_id"
		"          AND r.campaign_id = n.campaign_id AND r.status = n.status OFFSET 0)"
		"  ORDER BY 1, 2, 3"
		" ON CONFLICT (user_id, campaign_id, status) DO UPDATE"
		" SET last_at = greatest(r.last_at, excluded.last_at), times = r.times + excluded.times",
		4, {TEXTARRAYOID, INT8ARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID}
	};
	const Notes *all = arg;
	Oid			installation = coupon_catalog()->campaign;
	Datum	   *columns[4];
	Datum		values[4];
	int			n = 0;
	int			level;

	for (int c = 0; c < 4; c++)
		columns[c] = palloc(all->n * sizeof(Datum));
	for (int i = 0; i < all->n; i++)
	{
		const Note *note = &all->notes[i];

		if (note->installation != installation)
			continue;
		columns[0][n] = PointerGetDatum(cstring_to_text_with_len(note->user_id, note->length));
		columns[1][n] = Int64GetDatum(note->campaign_id);
		columns[2][n] = CStringGetTextDatum(note->status);
		columns[3][n++] = TimestampTzGetDatum(note->at);
	}
	values[0] = PointerGetDatum(construct_array(columns[0], n, TEXTOID, -1, false, TYPALIGN_INT));
	values[1] = PointerGetDatum(construct_array(columns[1], n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[2] = PointerGetDatum(construct_array(columns[2], n, TEXTOID, -1, false, TYPALIGN_INT));
	values[3] = PointerGetDatum(construct_array(columns[3], n, TIMESTAMPTZOID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	coupon_spi_connect();
	/* a plan of when the table was small would read all of it, for each note */
	level = NewGUCNestLevel();
	(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	coupon_spi_execute(&insert, SPI_OK_INSERT, values, NULL);
	AtEOXact_GUC(false, level);
	coupon_spi_finish();
}

static void
delete_old(void *arg)
{
	static CouponStatement delete = {
		"DELETE FROM coupon.refusal WHERE ctid = ANY (ARRAY("
		"  SELECT r.ctid FROM coupon.refusal r WHERE r.last_at < $1 ORDER BY r.last_at LIMIT 10000 FOR UPDATE SKIP LOCKED))",
		1, {TIMESTAMPTZOID}
	};
	Datum		value = TimestampTzGetDatum(GetCurrentTimestamp() - coupon_refusal_keep * USECS_PER_SEC);

	coupon_spi_connect();
	coupon_spi_execute(&delete, SPI_OK_DELETE, &value, NULL);
	coupon_spi_finish();
}

/* Does it; what fails, others' triggers for example, is logged and given up. */
static void
try(void (*work) (void *arg), void *arg, int nnotes)
{
	ErrorData  *error = coupon_attempt(work, arg);

	if (error == NULL)
		return;
	pg_atomic_fetch_add_u64(&shared->lost, nnotes);
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("could not write to coupon.refusal: %s", error->message)));
	FreeErrorData(error);
}

void
coupon_refusal_write(void)
{
	static TimestampTz cleaned_at = 0;
	TimestampTz now = GetCurrentTimestamp();
	Notes		all;

	if (coupon_refusal_is_due())
	{
		all.notes = palloc(MAX_NOTES * sizeof(Note));
		all.n = take_notes(all.notes, NULL);
		if (all.n > 0)
			try(insert_notes, &all, all.n);
		pfree(all.notes);
	}
	if (TimestampDifferenceExceeds(cleaned_at, now, CLEAN_MS))
	{
		cleaned_at = now;
		try(delete_old, NULL, 0);
	}
}

uint64
coupon_refusal_lost(void)
{
	return pg_atomic_read_u64(&shared->lost);
}

/*
 * coupon.refusal_forget(user_id): what is noted of a user and not written yet
 */
Datum
coupon_refusal_forget(PG_FUNCTION_ARGS)
{
	Note	   *notes;

	coupon_check_text(fcinfo, 0, "user_id", 1, COUPON_MAX_NAME);
	coupon_shmem_attach();
	notes = palloc(MAX_NOTES * sizeof(Note));
	(void) take_notes(notes, PG_GETARG_TEXT_PP(0));
	pfree(notes);
	PG_RETURN_VOID();
}
