/*
 * campaign_slot.c
 *	  The campaigns in use, in shared memory: a slot for each, and the memory
 *	  that hangs on it.
 *
 * Locking: a slot's fields are guarded by its partition lock (by hash of its
 * key); slot_lock is taken after it, for the list of free slots.  Neither is
 * held while a table is read.  The hash table is partitioned by the same
 * hash, so one partition lock guards both.
 *
 * Eviction goes around the slots like the clock over shared buffers: a slot
 * used since the hand last passed gets a second chance, a pinned one is left
 * alone.  An idle slot first loses its filter of users, which it can do
 * without, then its memory (map and definition), and keeps its counters; it
 * loses its place when another campaign needs a slot.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/compat.h"
#include "base/errors.h"
#include "base/guc.h"
#include "base/stat.h"
#include "sale/campaign_slot.h"
#include "sale/stock_map.h"

#define PARTITIONS		64		/* locks over the slots */
#define FILTER_PAUSE	1000000 /* us, at least, between evictions for filters */

typedef enum Eviction
{
	EVICT_FILTER,				/* the filter of a map */
	EVICT_MEMORY,				/* that, or else map and definition */
	EVICT_SLOT					/* all, with the place */
} Eviction;

typedef struct SlotEntry
{
	CouponCampaignKey key;
	int			slot;
} SlotEntry;

typedef struct Shared
{
	LWLockPadded *locks;		/* of the partitions, then slot_lock */
	pg_atomic_uint64 versions;	/* last version given to a definition */
	pg_atomic_uint32 clock_hand;	/* eviction's next slot */
	pg_atomic_uint64 evicted[2];	/* maps; slots with them */
	pg_atomic_uint64 evicted_at;	/* a time */
	pg_atomic_uint64 failures;	/* calls that got no room */
	pg_atomic_uint64 filters_evicted_at;	/* coupon_steady_now() */
	int			nslots;
	CouponCampaign slots[FLEXIBLE_ARRAY_MEMBER];
} Shared;

static Shared *shared = NULL;
static HTAB *slot_table = NULL;

#define SLOT_LOCK	(&shared->locks[PARTITIONS].lock)

static Size
shared_size(void)
{
	return add_size(offsetof(Shared, slots),
					mul_size(coupon_max_campaigns, sizeof(CouponCampaign)));
}

static void
request(void)
{
	RequestAddinShmemSpace(shared_size());
	RequestAddinShmemSpace(hash_estimate_size(coupon_max_campaigns, sizeof(SlotEntry)));
	RequestNamedLWLockTranche("coupon", PARTITIONS + 1);
}

static void
startup(void)
{
	HASHCTL		info = {0};
	bool		found;

	info.keysize = sizeof(CouponCampaignKey);
	info.entrysize = sizeof(SlotEntry);
	info.num_partitions = PARTITIONS;
	slot_table = ShmemInitHash("coupon campaigns", coupon_max_campaigns,
							   coupon_max_campaigns, &info,
							   HASH_ELEM | HASH_BLOBS | HASH_PARTITION);
	shared = coupon_shmem_struct("coupon", shared_size(), &found);
	if (found)
		return;

	shared->locks = GetNamedLWLockTranche("coupon");
	pg_atomic_init_u64(&shared->versions, 0);
	pg_atomic_init_u32(&shared->clock_hand, 0);
	for (int i = 0; i < 2; i++)
		pg_atomic_init_u64(&shared->evicted[i], 0);
	pg_atomic_init_u64(&shared->evicted_at, 0);
	pg_atomic_init_u64(&shared->failures, 0);
	pg_atomic_init_u64(&shared->filters_evicted_at, 0);
	shared->nslots = coupon_max_campaigns;
	for (int i = 0; i < shared->nslots; i++)
	{
		CouponCampaign *campaign = &shared->slots[i];

		pg_atomic_init_u32(&campaign->pins, 0);
		pg_atomic_init_u32(&campaign->deletions, 0);
		pg_atomic_init_u32(&campaign->labellings, 0);
		pg_atomic_init_u32(&campaign->recent, 0);
		for (int s = 0; s < COUPON_COUNTED_STATUSES; s++)
			pg_atomic_init_u64(&campaign->answers[s], 0);
	}
}

static void
reset_statistics(void)
{
	for (int i = 0; i < shared->nslots; i++)
	{
		CouponCampaign *campaign = &shared->slots[i];

		for (int s = 0; s < COUPON_COUNTED_STATUSES && campaign->key.database == MyDatabaseId; s++)
			pg_atomic_write_u64(&campaign->answers[s], 0);
	}
}

const CouponModule coupon_campaign_slot_module = {
	.request = request,
	.startup = startup,
	.reset_statistics = reset_statistics
};

/* ---- slots ---- */

static inline LWLock *
partition_lock(uint32 hash)
{
	return &shared->locks[hash % PARTITIONS].lock;
}

static void
free_memory(CouponCampaign *campaign)
{
	if (DsaPointerIsValid(campaign->definition))
	{
		dsa_free(coupon_area, campaign->definition);
		campaign->definition = InvalidDsaPointer;
	}
	if (DsaPointerIsValid(campaign->stock))
	{
		coupon_stock_free(campaign->stock);
		campaign->stock = InvalidDsaPointer;
	}
}

/* The map if there is one with a filter, or else NULL. */
static CouponStock *
map_with_filter(CouponCampaign *campaign)
{
	dsa_pointer pointer = campaign->stock;
	CouponStock *stock = DsaPointerIsValid(pointer) ? dsa_get_address(coupon_area, pointer) : NULL;

	return stock != NULL && DsaPointerIsValid(stock->filter) ? stock : NULL;
}

/* Takes from an idle slot.  With its partition lock held. */
static void
evict(CouponCampaign *campaign, SlotEntry *entry, Eviction what)
{
	CouponStock *stock = what == EVICT_SLOT ? NULL : map_with_filter(campaign);

	if (stock != NULL)
	{
		coupon_filter_free(stock);
		pg_atomic_write_u64(&stock->filter_missed, pg_atomic_read_u64(&campaign->answers[COUPON_SOLD_OUT]));
		return;
	}
	if (what == EVICT_FILTER)
		return;

	coupon_stat_tally(what == EVICT_SLOT ? COUPON_TALLY_CAMPAIGN_EVICTIONS : COUPON_TALLY_MAP_EVICTIONS);
	free_memory(campaign);
	if (what == EVICT_SLOT)
	{
		hash_search(slot_table, &entry->key, HASH_REMOVE, NULL);
		LWLockAcquire(SLOT_LOCK, LW_EXCLUSIVE);
		campaign->in_use = false;
		LWLockRelease(SLOT_LOCK);
	}
	pg_atomic_fetch_add_u64(&shared->evicted[what == EVICT_SLOT], 1);
	pg_atomic_write_u64(&shared->evicted_at, GetCurrentTimestamp());
}

/*
 * Finds an idle slot that has what is wanted, and takes it.  Looks at no more
 * slots than *looks, of which it takes off those that it has looked at; false
 * if none of them will do.
 */
static bool
evict_one(Eviction what, int *looks)
{
	while ((*looks)-- > 0)
	{
		uint32		at = pg_atomic_fetch_add_u32(&shared->clock_hand, 1) % shared->nslots;
		CouponCampaign *campaign = &shared->slots[at];
		CouponCampaignKey key;
		SlotEntry  *entry;
		LWLock	   *lock;
		bool		done = false;

		/* unlocked looks; what matters is looked at again below */
		if (!campaign->in_use || pg_atomic_read_u32(&campaign->pins) > 0)
			continue;
		if (what == EVICT_FILTER && map_with_filter(campaign) == NULL)
			continue;
		if (what == EVICT_MEMORY && !DsaPointerIsValid(campaign->stock) &&
			!DsaPointerIsValid(campaign->definition))
			continue;
		if (pg_atomic_exchange_u32(&campaign->recent, 0) == 1)
			continue;

		/* the key just read may be torn: only the table says whose slot it is */
		key = campaign->key;
		lock = partition_lock(get_hash_value(slot_table, &key));
		LWLockAcquire(lock, LW_EXCLUSIVE);
		entry = hash_search(slot_table, &key, HASH_FIND, NULL);
		if (entry != NULL && entry->slot == at &&
			pg_atomic_read_u32(&campaign->pins) == 0)
		{
			evict(campaign, entry, what);
			done = true;
		}
		LWLockRelease(lock);

		if (done)
			return true;
	}
	return false;
}

/* Two rounds of the clock: then each slot that is idle has been found so. */
static int
all_slots(void)
{
	return shared->nslots * 2;
}

void
coupon_slot_evictions(CouponEvictions *evictions)
{
	evictions->maps = pg_atomic_read_u64(&shared->evicted[false]);
	evictions->slots = pg_atomic_read_u64(&shared->evicted[true]);
	evictions->last = (TimestampTz) pg_atomic_read_u64(&shared->evicted_at);
	evictions->failures = pg_atomic_read_u64(&shared->failures);
}

/* A free slot marked in use, or NULL.  Called with a partition lock held. */
static CouponCampaign *
claim_free_slot(void)
{
	static int	next = 0;
	CouponCampaign *campaign = NULL;

	LWLockAcquire(SLOT_LOCK, LW_EXCLUSIVE);
	for (int i = 0; i < shared->nslots; i++)
	{
		CouponCampaign *candidate = &shared->slots[next];

		next = (next + 1) % shared->nslots;
		if (!candidate->in_use)
		{
			campaign = candidate;
			campaign->in_use = true;
			break;
		}
	}
	LWLockRelease(SLOT_LOCK);
	return campaign;
}

CouponCampaign *
coupon_slot_lock(const CouponCampaignKey *key, LWLockMode mode)
{
	uint32		hash = get_hash_value(slot_table, key);
	LWLock	   *lock = partition_lock(hash);
	SlotEntry  *entry;

	LWLockAcquire(lock, mode);
	entry = hash_search_with_hash_value(slot_table, key, hash, HASH_FIND, NULL);
	if (entry != NULL)
		return &shared->slots[entry->slot];
	LWLockRelease(lock);
	return NULL;
}

CouponCampaign *
coupon_slot_pin(const CouponCampaignKey *key)
{
	uint32		hash = get_hash_value(slot_table, key);
	LWLock	   *lock = partition_lock(hash);

	for (;;)
	{
		CouponCampaign *campaign;
		SlotEntry  *entry;
		bool		found;
		int			looks;

		LWLockAcquire(lock, LW_EXCLUSIVE);
		entry = hash_search_with_hash_value(slot_table, key, hash, HASH_FIND, NULL);
		if (entry != NULL)
		{
			campaign = &shared->slots[entry->slot];
			pg_atomic_fetch_add_u32(&campaign->pins, 1);
			LWLockRelease(lock);
			return campaign;
		}

		campaign = claim_free_slot();
		if (campaign != NULL)
		{
			entry = hash_search_with_hash_value(slot_table, key, hash,
												HASH_ENTER_NULL, &found);
			if (entry == NULL)
				campaign->in_use = false;
			else
			{
				entry->slot = campaign - shared->slots;
				campaign->key = *key;
				campaign->partition = lock;
				campaign->version = coupon_slot_new_version();
				campaign->definition = InvalidDsaPointer;
				campaign->stock = InvalidDsaPointer;
				pg_atomic_write_u32(&campaign->deletions, 0);
				pg_atomic_write_u32(&campaign->labellings, 0);
				for (int s = 0; s < COUPON_COUNTED_STATUSES; s++)
					pg_atomic_write_u64(&campaign->answers[s], 0);
				pg_atomic_write_u32(&campaign->pins, 1);
				LWLockRelease(lock);
				return campaign;
			}
		}
		LWLockRelease(lock);

		looks = all_slots();
		if (!evict_one(EVICT_SLOT, &looks))
		{
			pg_atomic_fetch_add_u64(&shared->failures, 1);
			ereport(ERROR,
					(errcode(ERRCODE_COUPON_OUT_OF_MAP_MEMORY),
					 errmsg("too many campaigns in use at the same time"),
					 errdetail("All %d slots are held by running transactions.",
							   shared->nslots),
					 errhint("Raise coupon.max_campaigns, or use fewer campaigns in one transaction.")));
		}
		CHECK_FOR_INTERRUPTS();
	}
}

void
coupon_slot_unpin(CouponCampaign *campaign)
{
	pg_atomic_fetch_sub_u32(&campaign->pins, 1);
}

CouponCampaign *
coupon_slot_nth(int number)
{
	return number < shared->nslots ? &shared->slots[number] : NULL;
}

int
coupon_slot_number(const CouponCampaign *campaign)
{
	return campaign - shared->slots;
}

uint64
coupon_slot_new_version(void)
{
	return pg_atomic_add_fetch_u64(&shared->versions, 1);
}

/* ---- memory ---- */

static dsa_pointer
try_allocate(Size size)
{
	return dsa_allocate_extended(coupon_area, size, DSA_ALLOC_NO_OOM | DSA_ALLOC_ZERO);
}

/*
 * Filters are made anew seldom: where campaigns take turns, none of them would
 * keep its own, at a price that no filter is worth.
 */
static bool
may_evict_filters(void)
{
	uint64		last = pg_atomic_read_u64(&shared->filters_evicted_at);
	uint64		now = coupon_steady_now();

	return (last == 0 || now - last >= FILTER_PAUSE) &&
		pg_atomic_compare_exchange_u64(&shared->filters_evicted_at, &last, now);
}

/*
 * Idle campaigns lose their filters: those that were not used for some time,
 * or if there are none, all.
 */
static void
evict_filters(void)
{
	bool		found = false;

	for (int round = 0; round < 2 && !found; round++)
	{
		int			looks = shared->nslots;

		while (evict_one(EVICT_FILTER, &looks))
			found = true;
	}
}

static dsa_pointer
try_allocate_filter(Size size)
{
	dsa_pointer pointer = InvalidDsaPointer;

	if (coupon_filter_reserve(size))
	{
		pointer = try_allocate(size);
		if (!DsaPointerIsValid(pointer))
			coupon_filter_release(size);
	}
	return pointer;
}

dsa_pointer
coupon_area_allocate_filter(Size size)
{
	dsa_pointer pointer = try_allocate_filter(size);
	int			looks = shared->nslots; /* maps of use lately stay */

	if (DsaPointerIsValid(pointer) || !may_evict_filters())
		return pointer;
	evict_filters();
	while (!DsaPointerIsValid(pointer = try_allocate_filter(size)) && coupon_filter_has_room(size) && evict_one(EVICT_MEMORY, &looks))
		CHECK_FOR_INTERRUPTS();
	return pointer;
}

dsa_pointer
coupon_area_allocate(Size size)
{
	dsa_pointer pointer;
	int			looks = all_slots();

	while (!DsaPointerIsValid(pointer = try_allocate(size)) && evict_one(EVICT_MEMORY, &looks))
	{
		looks = all_slots();
		CHECK_FOR_INTERRUPTS();
	}
	if (!DsaPointerIsValid(pointer))
	{
		pg_atomic_fetch_add_u64(&shared->failures, 1);
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_OUT_OF_MAP_MEMORY),
				 errmsg("stock maps do not fit into coupon.stock_map_memory"),
				 errdetail("Failed on a request of %zu bytes of %d kB, after every idle map was dropped.",
						   size, coupon_stock_map_memory),
				 errhint("Raise coupon.stock_map_memory: one bit a unit, and about 100 bytes for every shard and campaign in use.")));
	}
	return pointer;
}
