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

/*
 * *undecided: a transaction whose row would be the answer, if there is no
 * other; *missed: one that was not found may be there.
 */
static bool
find_version(const CouponQueueKind *kind, int64 id, text *user_id, Snapshot snapshot,
			 CouponAnswers answers, bool final_too, void *arg, int *nothers,
			 TransactionId *undecided, bool *missed)
{
	CouponQueue *queue = coupon_queue(kind);
	bool		found = false;
	ScanKeyData keys[2];

	*undecided = InvalidTransactionId;
	*nothers = 0;
	*missed = false;
	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, id);
	coupon_key_text(&keys[1], 2, PointerGetDatum(user_id));
	for (uint32 child = 0; child < COUPON_QUEUE_CHILDREN && !found; child++)
	{
		CouponScan	scan;

		/*
		 * its rows are all final: nothing to find, as a rule in one child of
		 * the two
		 */
		if (!final_too && pg_atomic_read_u32(&queue->open[child]) == 0)
			continue;
		coupon_scan_begin(&scan, coupon_queue_oids(kind->children)[child], coupon_queue_oids(kind->user_keys)[child],
						  snapshot, keys, 2, false);
		while (!found && coupon_scan_next(&scan, ForwardScanDirection))
		{
			TransactionId inserter = snapshot->snapshot_type == SNAPSHOT_DIRTY ?
			snapshot->xmin : InvalidTransactionId;

			if (!answers(scan.slot, child, arg))
				*nothers += slot_attisnull(scan.slot, kind->final_column);
			else if (TransactionIdIsValid(inserter))
				*undecided = inserter;
			else
				found = true;
		}
		*missed |= scan.missed;
		coupon_scan_end_unlock(&scan);
	}
	return found;
}

static bool
find_row(const CouponQueueKind *kind, int64 id, text *user_id, CouponAnswers answers,
		 bool final_too, void *arg, int *nothers, TransactionId *undecided)
{
	SnapshotData dirty;
	bool		found;
	bool		missed;

	InitDirtySnapshot(dirty);
	found = find_version(kind, id, user_id, &dirty, answers, final_too, arg, nothers, undecided,
						 &missed);
	if (!found && missed && !TransactionIdIsValid(*undecided))
	{
		Snapshot	latest;

		CommandCounterIncrement();
		latest = RegisterSnapshot(GetLatestSnapshot());
		found = find_version(kind, id, user_id, latest, answers, final_too, arg, nothers,
							 undecided, &missed);
		UnregisterSnapshot(latest);
	}
	return found;
}

bool
coupon_own_row_lock(const CouponQueueKind *kind, int64 id, text *user_id,
					CouponAnswers answers, bool final_too, void *arg, int *nothers,
					uint64 *lock)
{
	*lock = coupon_user_hash(PointerGetDatum(user_id), id);
	for (;;)
	{
		TransactionId undecided;

		coupon_lock(kind->user_lock, *lock);
		if (find_row(kind, id, user_id, answers, final_too, arg, nothers, &undecided))
			return true;
		if (!TransactionIdIsValid(undecided))
			return false;
		/* not with the lock: its owner may want it */
		coupon_unlock(kind->user_lock, *lock);
		XactLockTableWait(undecided, NULL, NULL, XLTW_None);
	}
}

void
coupon_own_row_unlock(const CouponQueueKind *kind, uint64 lock)
{
	coupon_unlock(kind->user_lock, lock);
}
