/*
 * pending.c
 *	  Changes of lines that a running transaction owes.
 *
 * A session may learn of a row before the callback of the transaction that
 * wrote it has noted it here, and change the row at once; so changes are
 * applied in any order, and each looks at what is there first.
 */
#include "postgres.h"

#include "storage/shmem.h"
#include "utils/memutils.h"

#include "base/fault.h"
#include "base/intent.h"
#include "queue/pending.h"

#define KEPT_PENDING	4096	/* a larger array is freed when it is empty */

static CouponPending *pending = NULL;
static int	npending = 0;
static int	max_pending = 0;

/* Applies changes from..to - 1; one lock for those to one line. */
static void
apply_changes(int from, int to, bool committed)
{
	for (int i = from; i < to;)
	{
		CouponLine *line = pending[i].line;
		bool		wake = false;

		LWLockAcquire(line->lock, LW_EXCLUSIVE);
		for (; i < to && pending[i].line == line; i++)
		{
			wake |= pending[i].apply(&pending[i], committed);
			line->pending--;
		}
		LWLockRelease(line->lock);
		if (wake)
			ConditionVariableBroadcast(&line->changed);
	}
}

/*
 * The intent of a change.  Intents are resolved newest first, and the first
 * of a commit applies all: whoever sees one entry ready is to see those before
 * it, too.
 */
static void
resolve_pending(CouponIntent *intent, bool committed)
{
	int			to = npending;

	if (to <= (int) intent->number)
		return;
	COUPON_FAULT(line_behind);
	npending = committed ? 0 : intent->number;
	apply_changes(npending, to, committed);
}

void
coupon_pending_reserve(int n)
{
	coupon_intent_reserve(n);
	if (npending + n <= max_pending && (npending > 0 || max_pending <= KEPT_PENDING))
		return;
	if (npending == 0 && pending != NULL)
	{
		pfree(pending);
		pending = NULL;
		max_pending = 0;
	}
	n = Max(Max(64, npending + n), max_pending * 2);
	if (pending == NULL)
		pending = MemoryContextAllocHuge(TopMemoryContext, mul_size(n, sizeof(CouponPending)));
	else
		pending = repalloc_huge(pending, mul_size(n, sizeof(CouponPending)));
	max_pending = n;
}

void
coupon_pending_push(CouponApply apply, CouponLine *line, int64 number, uint32 child, uint64 extra)
{
	CouponPending *change = &pending[npending];

	Assert(npending < max_pending);
	change->apply = apply;
	change->line = line;
	change->number = number;
	change->child = child;
	change->extra = extra;
	line->pending++;
	coupon_intent_push(resolve_pending, NULL, NULL, npending);
	npending++;
}
