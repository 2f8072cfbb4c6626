/*
 * own_row.c
 *	  The row of a user's that a call is answered with.
 *
 * Calls of one user come one after another, by a lock on the user, and see
 * each other's rows by a dirty snapshot.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "access/xact.h"
#include "storage/lmgr.h"
#include "utils/snapmgr.h"

#include "queue/own_row.h"

/* A user's row that is looked for. */
typedef struct OwnRow
{
	const CouponQueueKind *kind;
	int64		id;
	text	   *user_id;
	CouponAnswers answers;
	bool		final_too;
	void	   *arg;

	/* what a look has found */
	bool		found;
	int			nothers;
	TransactionId undecided;	/* its row would be the answer, if there is no
								 * other */
	bool		missed;			/* what was not found may be there */
} OwnRow;

static void
look(OwnRow *own, Snapshot snapshot)
{
	CouponQueue *queue = coupon_queue(own->kind);
	ScanKeyData keys[2];

	own->found = own->missed = false;
	own->nothers = 0;
	own->undecided = InvalidTransactionId;
	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, own->id);
	coupon_key_text(&keys[1], 2, PointerGetDatum(own->user_id));
	for (uint32 child = 0; child < COUPON_QUEUE_CHILDREN && !own->found; child++)
	{
		CouponScan	scan;

		/*
		 * its rows are all final: nothing to find, as a rule in one child of
		 * the two
		 */
		if (!own->final_too && pg_atomic_read_u32(&queue->open[child]) == 0)
			continue;
		coupon_scan_begin(&scan, coupon_queue_oids(own->kind->children)[child],
						  coupon_queue_oids(own->kind->user_keys)[child],
						  snapshot, keys, 2, false);
		while (!own->found && coupon_scan_next(&scan, ForwardScanDirection))
		{
			TransactionId inserter = snapshot->snapshot_type == SNAPSHOT_DIRTY ?
			snapshot->xmin : InvalidTransactionId;

			if (!own->answers(scan.slot, child, own->arg))
				own->nothers += slot_attisnull(scan.slot, own->kind->final_column);
			else if (TransactionIdIsValid(inserter))
				own->undecided = inserter;
			else
				own->found = true;
		}
		own->missed |= scan.missed;
		coupon_scan_end_unlock(&scan);
	}
}

static void
find(OwnRow *own)
{
	SnapshotData dirty;
	Snapshot	latest;
	int			nothers;

	InitDirtySnapshot(dirty);
	look(own, &dirty);
	nothers = own->nothers;
	if (own->found || !own->missed || TransactionIdIsValid(own->undecided))
		return;
	CommandCounterIncrement();
	latest = RegisterSnapshot(GetLatestSnapshot());
	look(own, latest);
	UnregisterSnapshot(latest);
	/* what others have yet to commit only the first look has seen */
	own->nothers = Max(own->nothers, nothers);
}

CouponOwnRow
coupon_own_row_lock(const CouponQueueKind *kind, int64 id, text *user_id,
					CouponAnswers answers, bool final_too, void *arg, bool wait,
					int *nothers, uint64 *lock)
{
	OwnRow		own = {kind, id, user_id, answers, final_too, arg};

	*lock = coupon_user_hash(PointerGetDatum(user_id), id);
	for (;;)
	{
		if (wait)
			coupon_lock(kind->user_lock, *lock);
		else if (coupon_lock_try(kind->user_lock, *lock) == LOCKACQUIRE_NOT_AVAIL)
			return COUPON_OWN_LOCKED;
		find(&own);
		*nothers = own.nothers;
		if (own.found || !TransactionIdIsValid(own.undecided))
			return own.found ? COUPON_OWN_FOUND : COUPON_OWN_NONE;
		/* not with the lock: its owner may want it */
		coupon_unlock(kind->user_lock, *lock);
		if (!wait)
			return COUPON_OWN_LOCKED;
		XactLockTableWait(own.undecided, NULL, NULL, XLTW_None);
	}
}

void
coupon_own_row_unlock(const CouponQueueKind *kind, uint64 lock)
{
	coupon_unlock(kind->user_lock, lock);
}
