/*
 * user_filter.c
 *	  Who can have no unit of a campaign: a Bloom filter of its users.
 *
 * It saves look-ups in the index, twice.
 *
 * While units are issued, most users who come are new, and to look for their
 * rows costs nearly as much as to insert one.  So a campaign that has none
 * when its map is first used gets a filter, and whoever inserts a row adds its
 * user.  Whom such a filter does not know is presumed to be new.  That may be
 * wrong (a row may have been written past coupon, or while the filter got its
 * memory): then the index refuses the insertion, and the user is looked up.  So nothing may follow from the
 * presumption but an insertion, now or by the issuer of requests.
 *
 * After sell-out most callers have nothing, and to tell them so from the index
 * costs more than all else in the answer.  So the users whom the index knows
 * are entered, too, once the campaign is sold out, and the filter is complete:
 * whom it excludes is told so without a look-up.  A complete filter may only
 * err on one side: it must know everybody who has a row.
 *
 * Without memory there is no filter, and calls are answered from the index.
 * All filters together have a quarter of the memory, so that what maps need is
 * never taken by them; those of idle campaigns give way to new ones.
 *
 * Concurrency.  A session adds its user after it has taken a unit and before
 * it inserts the row, if it finds a filter there, complete or not.  Who
 * completes one announces that first and then makes sure that the campaign is
 * sold out and nothing is in flight: so all earlier takers are done, and the
 * index shows their rows, and all later ones see the announcement.  Users are
 * never removed; an abort or a revocation costs a look-up.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"

#include "base/catalog.h"
#include "base/fault.h"
#include "base/intent.h"
#include "base/locks.h"
#include "sale/user_filter.h"

#define BITS_PER_UNIT	16
#define BITS_PER_USER	3		/* with 16 a unit: 0.9 % found in vain */
#define WORTH_A_BUILD	8		/* rows to be read for each refusal so far */
#define MAX_SHARE		8		/* of coupon.stock_map_memory, as its inverse */
#define MAX_SHARE_NEW	32		/* the same for a campaign that is not sold
								 * out; a smaller filter finds more in vain */

/*
 * A user's bits are in one word, so that it costs one look into memory.  Sets
 * *mask to them.
 */
static pg_atomic_uint64 *
find_word(CouponStock *stock, int64 campaign_id, Datum user_id, uint64 *mask)
{
	uint64		hash = coupon_user_hash(user_id, campaign_id);
	pg_atomic_uint64 *words = dsa_get_address(coupon_area, stock->filter);

	*mask = 0;
	for (int i = 0; i < BITS_PER_USER; i++)
		*mask |= UINT64CONST(1) << ((hash >> (6 * i)) & 63);
	return &words[(uint32) (hash >> 32) % stock->filter_words];
}

static void
add_user(CouponStock *stock, int64 campaign_id, Datum user_id)
{
	uint64		mask;
	pg_atomic_uint64 *word = find_word(stock, campaign_id, user_id, &mask);

	if ((pg_atomic_read_u64(word) & mask) != mask)
		pg_atomic_fetch_or_u64(word, mask);
}

/* Does a filter that is at least in that state not know the user? */
static bool
is_unknown(CouponCampaign *campaign, Datum user_id, uint32 state)
{
	CouponStock *stock;
	uint64		mask;
	pg_atomic_uint64 *word;

	if (!DsaPointerIsValid(campaign->stock))
		return false;
	stock = stock_of(campaign);
	if (pg_atomic_read_u32(&stock->filter_state) < state)
		return false;
	pg_read_barrier();
	word = find_word(stock, campaign->key.campaign_id, user_id, &mask);
	return (pg_atomic_read_u64(word) & mask) != mask;
}

bool
coupon_filter_excludes(CouponCampaign *campaign, Datum user_id)
{
	return is_unknown(campaign, user_id, FILTER_COMPLETE);
}

bool
coupon_filter_presumes_new(CouponCampaign *campaign, Datum user_id)
{
	return is_unknown(campaign, user_id, FILTER_GROWING);
}

void
coupon_filter_add(CouponCampaign *campaign, Datum user_id)
{
	CouponStock *stock = stock_of(campaign);

	pg_memory_barrier();		/* the unit was taken before this look */
	if (pg_atomic_read_u32(&stock->filter_state) < FILTER_BUILDING)
		return;
	pg_read_barrier();			/* the filter was there before its state said
								 * so */
	add_user(stock, campaign->key.campaign_id, user_id);
}

/* The intent of a builder: somebody else may try again. */
static void
resolve_filter(CouponIntent *intent, bool committed)
{
	pg_atomic_write_u32(&stock_of(intent->campaign)->filter_state, intent->number);
}

/*
 * Gives the map memory for a filter, if it has none yet; false: there is none.  Only
 * by the one session that has claimed that by the state.
 */
static bool
install(CouponCampaign *campaign, CouponStock *stock, Size size)
{
	dsa_pointer memory;

	if (DsaPointerIsValid(stock->filter))
		return true;
	memory = coupon_area_allocate_filter(size);
	if (!DsaPointerIsValid(memory))
		return false;
	COUPON_FAULT(filter_unknown);
	LWLockAcquire(campaign->partition, LW_EXCLUSIVE);
	stock->filter_words = size / sizeof(uint64);
	stock->filter = memory;
	LWLockRelease(campaign->partition);
	return true;
}

/* In bytes, for so many units. */
static Size
wanted_size(int64 units)
{
	return TYPEALIGN(64, units * BITS_PER_UNIT) / 8;
}

static bool
has_rows(int64 campaign_id)
{
	const CouponCatalog *catalog = coupon_catalog();
	SnapshotData dirty;
	ScanKeyData key;

	coupon_key_int64(&key, 1, BTEqualStrategyNumber, campaign_id);
	return coupon_row_exists(catalog->issuance, catalog->issuance_user_key, &key, 1, &dirty);
}

/*
 * Of the sessions that come here at the same moment one gets memory: if each took
 * some, the filters' share would not do, and who got none would give the filter
 * up for all.  The others do not wait for it, and their users are not in it.
 */
void
coupon_filter_begin(CouponCampaign *campaign, const CouponDefinition *def)
{
	CouponStock *stock = stock_of(campaign);
	Size		size = Min(wanted_size(def->stock), TYPEALIGN_DOWN(8, coupon_area_size() / MAX_SHARE_NEW));
	uint32		state = FILTER_UNTRIED;
	bool		wanted;

	if (pg_atomic_read_u32(&stock->filter_state) != FILTER_UNTRIED)
		return;
	/* before the others have rows */
	wanted = size > 0 && !has_rows(campaign->key.campaign_id);
	coupon_intent_reserve(1);
	if (!pg_atomic_compare_exchange_u32(&stock->filter_state, &state, FILTER_ALLOCATING))
		return;
	coupon_intent_push(resolve_filter, campaign, NULL, FILTER_UNTRIED);
	wanted = wanted && install(campaign, stock, size);
	coupon_intent_forget(coupon_intent_find(resolve_filter, campaign, NULL, FILTER_UNTRIED));
	pg_atomic_write_u32(&stock->filter_state, wanted ? FILTER_GROWING : FILTER_NONE);
}

/* True: the index had entries without their rows. */
static bool
add_users(CouponStock *stock, int64 campaign_id, Snapshot snapshot)
{
	const CouponCatalog *catalog = coupon_catalog();
	ScanKeyData key;
	CouponScan	scan;
	bool		isnull;

	coupon_key_int64(&key, 1, BTEqualStrategyNumber, campaign_id);
	coupon_scan_begin(&scan, catalog->issuance, catalog->issuance_user_key, snapshot, &key, 1, false);
	while (coupon_scan_next(&scan, ForwardScanDirection))
		add_user(stock, campaign_id, slot_getattr(scan.slot, Issuance_user_id, &isnull));
	coupon_scan_end(&scan);
	return scan.missed;
}

/*
 * Enters everybody whom the index shows, also those of running transactions.
 * A dirty scan misses a row that is updated under its eyes: the old version is
 * dead when it gets there, and the new one came behind it.  But that update is
 * committed by then, so a snapshot taken afterwards shows the row.
 */
static void
add_all_users(CouponStock *stock, int64 campaign_id)
{
	SnapshotData dirty;
	Snapshot	latest;

	InitDirtySnapshot(dirty);
	if (!add_users(stock, campaign_id, &dirty))
		return;
	latest = RegisterSnapshot(GetLatestSnapshot());
	(void) add_users(stock, campaign_id, latest);
	UnregisterSnapshot(latest);
}

void
coupon_filter_consider(CouponCampaign *campaign, const CouponDefinition *def)
{
	CouponStock *stock = stock_of(campaign);
	Size		size = wanted_size(def->stock);
	uint32		state = pg_atomic_read_u32(&stock->filter_state);
	uint64		answers = pg_atomic_read_u64(&campaign->answers[COUPON_SOLD_OUT]);
	bool		found;

	if (state == FILTER_ALLOCATING || state == FILTER_BUILDING || state == FILTER_COMPLETE || def->created ||
		(answers - pg_atomic_read_u64(&stock->filter_missed)) * WORTH_A_BUILD < (uint64) def->stock ||
		size == 0 || (state != FILTER_GROWING && size > coupon_area_size() / MAX_SHARE))
		return;

	/*
	 * Memory first, and for one session only: of a flood of callers each
	 * would take some.  It stays with the map, whatever becomes of the
	 * attempt.
	 */
	coupon_intent_reserve(1);
	if (!pg_atomic_compare_exchange_u32(&stock->filter_state, &state,
										state == FILTER_GROWING ? FILTER_BUILDING : FILTER_ALLOCATING))
		return;
	coupon_intent_push(resolve_filter, campaign, NULL, state);
	found = install(campaign, stock, size);
	if (!found)
		pg_atomic_write_u64(&stock->filter_missed, answers);

	/* a barrier: who takes a unit after the look that follows sees it */
	if (found)
		(void) pg_atomic_exchange_u32(&stock->filter_state, FILTER_BUILDING);
	if (found && coupon_stock_settled(stock))
	{
		add_all_users(stock, campaign->key.campaign_id);
		coupon_intent_forget(coupon_intent_find(resolve_filter, campaign, NULL, state));
		pg_write_barrier();
		pg_atomic_write_u32(&stock->filter_state, FILTER_COMPLETE);
	}
	else
		coupon_intent_finish(coupon_intent_find(resolve_filter, campaign, NULL, state), false);
}
