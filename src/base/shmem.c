/*
 * shmem.c
 *	  Coupon's shared memory: slots of the campaigns in use, and an area for
 *	  what hangs on them.
 *
 * Locking: a slot's fields are guarded by its partition lock (by hash of its
 * key); slot_lock is taken after it, for the list of free slots.  Neither is
 * held while a table is read.  The hash table is partitioned by the same
 * hash, so one partition lock guards both.
 *
 * Eviction goes around the slots like the clock over shared buffers: a slot
 * used since the hand last passed gets a second chance, a pinned one is left
 * alone.  An idle slot first loses its memory (map and definition) and keeps
 * its counters; it loses its place when another campaign needs a slot.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "base/errors.h"
#include "base/guc.h"
#include "base/shmem.h"
#include "group/group.h"
#include "sale/stock.h"

typedef struct SlotEntry
{
	CouponCampaignKey key;
	int			slot;
} SlotEntry;

CouponShared *coupon_shared = NULL;
dsa_area   *coupon_area = NULL;

static HTAB *slot_table = NULL;
static void *area_place = NULL;

static shmem_startup_hook_type prev_shmem_startup_hook = NULL;
#if COUPON_HAVE_SHMEM_REQUEST_HOOK
static shmem_request_hook_type prev_shmem_request_hook = NULL;
#endif

#define SLOT_LOCK	(&coupon_shared->locks[COUPON_PARTITIONS].lock)
#define DATABASES_LOCK	(&coupon_shared->locks[COUPON_PARTITIONS + 1].lock)
#define LOCKS		(COUPON_PARTITIONS + 2)

static Size
shared_size(void)
{
	return add_size(offsetof(CouponShared, slots),
					mul_size(coupon_max_campaigns, sizeof(CouponCampaign)));
}

static Size
area_size(void)
{
	return mul_size(coupon_stock_map_memory, 1024);
}

static void
shmem_request(void)
{
#if COUPON_HAVE_SHMEM_REQUEST_HOOK
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
#endif
	RequestAddinShmemSpace(shared_size());
	RequestAddinShmemSpace(area_size());
	RequestAddinShmemSpace(coupon_group_shmem_size());
	RequestAddinShmemSpace(hash_estimate_size(coupon_max_campaigns, sizeof(SlotEntry)));
	RequestNamedLWLockTranche("coupon", LOCKS);
}

static void
shmem_startup(void)
{
	HASHCTL		info = {0};
	bool		found;
	bool		area_found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);

	coupon_shared = ShmemInitStruct("coupon", shared_size(), &found);
	if (!found)
	{
		memset(coupon_shared, 0, shared_size());
		coupon_shared->locks = GetNamedLWLockTranche("coupon");
		coupon_shared->dsa_tranche = LWLockNewTrancheId();
		pg_atomic_init_u64(&coupon_shared->versions, 0);
		pg_atomic_init_u64(&coupon_shared->event_clock, 0);
		pg_atomic_init_u32(&coupon_shared->clock_hand, 0);
		for (int i = 0; i < COUPON_MAX_DATABASES; i++)
		{
			CouponDatabase *database = &coupon_shared->databases[i];

			pg_atomic_init_u32(&database->outbox_child, 0);
			SpinLockInit(&database->publisher.mutex);
			for (int id = 0; id < COUPON_WORKER_IDS; id++)
			{
				for (int w = 0; w < COUPON_MAX_INSTANCES; w++)
					pg_atomic_init_u32(&database->workers[id][w].woken, 0);
			}
			pg_atomic_init_u32(&database->group.newest, 0);
			pg_atomic_init_u32(&database->group.asleep, 0);
			pg_atomic_init_u64(&database->group.batches, 0);
			pg_atomic_init_u64(&database->group.calls, 0);
			pg_atomic_init_u64(&database->group.largest, 0);
			pg_atomic_init_u64(&database->group.commit_us, 0);
			pg_atomic_init_u64(&database->group.repeated, 0);
		}
		coupon_shared->nslots = coupon_max_campaigns;
		for (int i = 0; i < coupon_shared->nslots; i++)
		{
			CouponCampaign *campaign = &coupon_shared->slots[i];

			pg_atomic_init_u32(&campaign->pins, 0);
			pg_atomic_init_u32(&campaign->recent, 0);
			for (int s = 0; s < COUPON_COUNTED_STATUSES; s++)
				pg_atomic_init_u64(&campaign->answers[s], 0);
		}
	}

	info.keysize = sizeof(CouponCampaignKey);
	info.entrysize = sizeof(SlotEntry);
	info.num_partitions = COUPON_PARTITIONS;
	slot_table = ShmemInitHash("coupon campaigns", coupon_max_campaigns,
							   coupon_max_campaigns, &info,
							   HASH_ELEM | HASH_BLOBS | HASH_PARTITION);

	area_place = ShmemInitStruct("coupon stock maps", area_size(), &area_found);
	if (!area_found)
	{
		dsa_area   *area;

		area = dsa_create_in_place(area_place, area_size(),
								   coupon_shared->dsa_tranche, NULL);
		dsa_pin(area);
		/* all of it lies in the main segment: no dynamic segments, ever */
		dsa_set_size_limit(area, area_size());
		dsa_detach(area);
	}

	coupon_group_shmem_init();

	LWLockRelease(AddinShmemInitLock);
}

void
coupon_shmem_request(void)
{
#if COUPON_HAVE_SHMEM_REQUEST_HOOK
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
#else
	shmem_request();
#endif
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

LWLock *
coupon_databases_lock(void)
{
	return DATABASES_LOCK;
}

bool
coupon_shmem_available(void)
{
	return coupon_shared != NULL;
}

void
coupon_shmem_attach(void)
{
	MemoryContext oldcontext;

	if (likely(coupon_area != NULL))
		return;

	if (coupon_shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_NOT_PRELOADED),
				 errmsg("coupon must be loaded at server start"),
				 errdetail("Its shared memory exists only where shared_preload_libraries names it."),
				 errhint("Add the line shared_preload_libraries = 'coupon' to postgresql.conf and restart the server.")));

	LWLockRegisterTranche(coupon_shared->dsa_tranche, "coupon_stock_map");

	oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	coupon_area = dsa_attach_in_place(area_place, NULL);
	dsa_pin_mapping(coupon_area);
	on_shmem_exit(dsa_on_shmem_exit_release_in_place, PointerGetDatum(area_place));
	MemoryContextSwitchTo(oldcontext);
}

/* ---- slots ---- */

static inline LWLock *
partition_lock(uint32 hash)
{
	return &coupon_shared->locks[hash % COUPON_PARTITIONS].lock;
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

/*
 * One round of the clock, two at most: finds an idle slot that has memory
 * (or, with take_slot, any idle slot), frees its memory and with take_slot
 * also its place.  False if everything is pinned.
 */
static bool
evict_one(bool take_slot)
{
	for (int i = 0; i < coupon_shared->nslots * 2; i++)
	{
		uint32		at = pg_atomic_fetch_add_u32(&coupon_shared->clock_hand, 1) % coupon_shared->nslots;
		CouponCampaign *campaign = &coupon_shared->slots[at];
		CouponCampaignKey key;
		SlotEntry  *entry;
		LWLock	   *lock;
		bool		done = false;

		/* unlocked looks; what matters is looked at again below */
		if (!campaign->in_use || pg_atomic_read_u32(&campaign->pins) > 0)
			continue;
		if (!take_slot && !DsaPointerIsValid(campaign->stock) &&
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
			free_memory(campaign);
			if (take_slot)
			{
				hash_search(slot_table, &key, HASH_REMOVE, NULL);
				LWLockAcquire(SLOT_LOCK, LW_EXCLUSIVE);
				campaign->in_use = false;
				LWLockRelease(SLOT_LOCK);
			}
			done = true;
		}
		LWLockRelease(lock);

		if (done)
			return true;
	}
	return false;
}

/* A free slot marked in use, or NULL.  Called with a partition lock held. */
static CouponCampaign *
claim_free_slot(void)
{
	static int	next = 0;
	CouponCampaign *campaign = NULL;

	LWLockAcquire(SLOT_LOCK, LW_EXCLUSIVE);
	for (int i = 0; i < coupon_shared->nslots; i++)
	{
		CouponCampaign *candidate = &coupon_shared->slots[next];

		next = (next + 1) % coupon_shared->nslots;
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
		return &coupon_shared->slots[entry->slot];
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

		LWLockAcquire(lock, LW_EXCLUSIVE);
		entry = hash_search_with_hash_value(slot_table, key, hash, HASH_FIND, NULL);
		if (entry != NULL)
		{
			campaign = &coupon_shared->slots[entry->slot];
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
				entry->slot = campaign - coupon_shared->slots;
				campaign->key = *key;
				campaign->partition = lock;
				campaign->version = pg_atomic_add_fetch_u64(&coupon_shared->versions, 1);
				campaign->definition = InvalidDsaPointer;
				campaign->stock = InvalidDsaPointer;
				for (int s = 0; s < COUPON_COUNTED_STATUSES; s++)
					pg_atomic_write_u64(&campaign->answers[s], 0);
				pg_atomic_write_u32(&campaign->pins, 1);
				LWLockRelease(lock);
				return campaign;
			}
		}
		LWLockRelease(lock);

		if (!evict_one(true))
			ereport(ERROR,
					(errcode(ERRCODE_COUPON_OUT_OF_MAP_MEMORY),
					 errmsg("too many campaigns in use at the same time"),
					 errdetail("All %d slots are held by running transactions.",
							   coupon_shared->nslots),
					 errhint("Raise coupon.max_campaigns, or use fewer campaigns in one transaction.")));
		CHECK_FOR_INTERRUPTS();
	}
}

void
coupon_slot_unpin(CouponCampaign *campaign)
{
	pg_atomic_fetch_sub_u32(&campaign->pins, 1);
}

/* ---- memory ---- */

dsa_pointer
coupon_area_allocate(Size size)
{
	for (;;)
	{
		dsa_pointer pointer = dsa_allocate_extended(coupon_area, size,
													DSA_ALLOC_NO_OOM | DSA_ALLOC_ZERO);

		if (DsaPointerIsValid(pointer))
			return pointer;

		if (!evict_one(false))
			ereport(ERROR,
					(errcode(ERRCODE_COUPON_OUT_OF_MAP_MEMORY),
					 errmsg("stock maps do not fit into coupon.stock_map_memory"),
					 errdetail("Failed on a request of %zu bytes of %d kB, after every idle map was dropped.",
							   size, coupon_stock_map_memory),
					 errhint("Raise coupon.stock_map_memory: one bit a unit, and about 100 bytes for every shard and campaign in use.")));
		CHECK_FOR_INTERRUPTS();
	}
}
