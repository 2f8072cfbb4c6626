/*
 * intent.c
 *	  What the running transaction owes to shared memory, and paying it.
 *
 * A growing array in backend-local memory, in the order in which things were
 * done; an aborting subtransaction owns a tail of it.  The callbacks are
 * registered once per session.  They never allocate and never throw, because
 * the transaction's fate is already sealed when they run.
 */
#include "postgres.h"

#include "access/xact.h"
#include "storage/shmem.h"
#include "utils/memutils.h"

#include "base/fault.h"
#include "base/intent.h"

#define INITIAL_INTENTS		64
#define RECENT_INTENTS		16
#define KEPT_INTENTS		4096	/* a larger array is freed at the end */
#define MERGED_INTENTS		8192	/* so many are worth merging */

static CouponIntent *intents = NULL;
static int	nintents = 0;
static int	max_intents = 0;
static int	merge_at = MERGED_INTENTS;	/* as soon as there are so many */

/* The top-level transaction is over: resolve everything, newest first. */
static void
resolve_all(bool committed)
{
	if (nintents > 0 && committed)
		COUPON_FAULT(commit_unsettled);
	else if (nintents > 0)
		COUPON_FAULT(abort_unsettled);
	while (nintents > 0)
	{
		CouponIntent *intent = &intents[--nintents];

		intent->resolve(intent, committed);
	}
	merge_at = MERGED_INTENTS;
	if (max_intents > KEPT_INTENTS)
	{
		pfree(intents);
		intents = NULL;
		max_intents = 0;
	}
}

static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PARALLEL_COMMIT:
			resolve_all(true);
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PARALLEL_ABORT:
			resolve_all(false);
			break;
		case XACT_EVENT_PRE_PREPARE:

			/*
			 * Another session may end a prepared transaction, after a restart
			 * even; nobody would be left to resolve its intents.
			 */
			if (nintents > 0)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has used coupon"),
						 errdetail("It holds units or campaign changes that only this session can settle."),
						 errhint("Use COMMIT, or keep coupon's calls out of two-phase transactions.")));
			break;
		default:
			break;
	}
}

static void
subxact_callback(SubXactEvent event, SubTransactionId subid,
				 SubTransactionId parent_subid, void *arg)
{
	int			level;

	if (nintents == 0)
		return;

	level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		/* the parent inherits the tail */
		for (int i = nintents; i > 0 && intents[i - 1].level >= level; i--)
			intents[i - 1].level = level - 1;
	}
	else if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		while (nintents > 0 && intents[nintents - 1].level >= level)
		{
			CouponIntent *intent = &intents[--nintents];

			intent->resolve(intent, false);
		}
	}
}

void
coupon_intent_reserve(int n)
{
	int			wanted;

	if (intents == NULL)
	{
		static bool registered = false;

		if (!registered)
		{
			RegisterXactCallback(xact_callback, NULL);
			RegisterSubXactCallback(subxact_callback, NULL);
			registered = true;
		}
		intents = MemoryContextAlloc(TopMemoryContext,
									 INITIAL_INTENTS * sizeof(CouponIntent));
		max_intents = INITIAL_INTENTS;
	}

	if (nintents + n <= max_intents)
		return;

	wanted = Max(max_intents * 2, nintents + n);
	intents = repalloc_huge(intents, mul_size(wanted, sizeof(CouponIntent)));
	max_intents = wanted;
}

CouponIntent *
coupon_intent_push(CouponResolver resolve, struct CouponCampaign *campaign,
				   struct CouponShard *shard, uint32 number)
{
	CouponIntent *intent;

	Assert(nintents < max_intents);

	intent = &intents[nintents++];
	intent->resolve = resolve;
	intent->campaign = campaign;
	intent->shard = shard;
	intent->number = number;
	intent->flags = 0;
	intent->level = GetCurrentTransactionNestLevel();
	return intent;
}

CouponIntent *
coupon_intent_find(CouponResolver resolve, struct CouponCampaign *campaign,
				   struct CouponShard *shard, uint32 number)
{
	for (int i = nintents - 1; i >= 0; i--)
	{
		CouponIntent *intent = &intents[i];

		if (intent->resolve == resolve && intent->campaign == campaign &&
			intent->shard == shard && intent->number == number)
			return intent;
	}
	return NULL;
}

CouponIntent *
coupon_intent_recent(CouponResolver resolve, struct CouponCampaign *campaign,
					 struct CouponShard *shard, uint32 number)
{
	int			level = GetCurrentTransactionNestLevel();

	for (int i = nintents - 1; i >= Max(nintents - RECENT_INTENTS, 0) && intents[i].level == level; i--)
	{
		CouponIntent *intent = &intents[i];

		if (intent->resolve == resolve && intent->campaign == campaign &&
			intent->shard == shard && intent->number == number)
			return intent;
	}
	return NULL;
}

static int
compare_intents(const void *a, const void *b)
{
	const CouponIntent *x = a;
	const CouponIntent *y = b;

	if (x->campaign != y->campaign)
		return x->campaign < y->campaign ? -1 : 1;
	if (x->shard != y->shard)
		return x->shard < y->shard ? -1 : 1;
	return x->number < y->number ? -1 : x->number > y->number;
}

void
coupon_intent_merge(CouponResolver resolve, void (*forget) (CouponIntent *intent))
{
	int			level = GetCurrentTransactionNestLevel();
	int			end = nintents;
	int			first;
	int			kept;

	if (nintents < merge_at)
		return;
	/* the caller's own pin may lie above them */
	while (end > Max(nintents - RECENT_INTENTS, 0) && intents[end - 1].resolve != resolve)
		end--;
	first = end;
	while (first > 0 && intents[first - 1].resolve == resolve && intents[first - 1].level == level)
		first--;
	qsort(&intents[first], end - first, sizeof(CouponIntent), compare_intents);
	kept = first;
	for (int i = first; i < end; i++)
	{
		if (kept > first && compare_intents(&intents[kept - 1], &intents[i]) == 0 &&
			(intents[kept - 1].flags & intents[i].flags) == 0)
		{
			intents[kept - 1].flags |= intents[i].flags;
			forget(&intents[i]);
		}
		else
			intents[kept++] = intents[i];
	}
	memmove(&intents[kept], &intents[end], (nintents - end) * sizeof(CouponIntent));
	nintents -= end - kept;
	merge_at = Max(MERGED_INTENTS, 2 * nintents);
}

void
coupon_intent_forget(CouponIntent *intent)
{
	int			index = intent - intents;

	Assert(index >= 0 && index < nintents);
	memmove(intent, intent + 1, (nintents - index - 1) * sizeof(CouponIntent));
	nintents--;
}

void
coupon_intent_finish(CouponIntent *intent, bool committed)
{
	CouponIntent copy = *intent;

	coupon_intent_forget(intent);
	copy.resolve(&copy, committed);
}
