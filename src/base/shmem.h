/*
 * shmem.h
 *	  Coupon's shared memory: reserved at server start, never grown.
 *
 * Fixed part: CouponShared, a hash table from (database, installation,
 * campaign) to a slot, and the slots.  Variable part: one DSA area in place,
 * of coupon.stock_map_memory, for definitions and stock maps.
 */
#ifndef COUPON_SHMEM_H
#define COUPON_SHMEM_H

#include "port/atomics.h"
#include "storage/lwlock.h"
#include "utils/dsa.h"

#include "base/database.h"
#include "sale/status_codes.h"

#define COUPON_PARTITIONS	64		/* locks over the campaign slots */

/*
 * The installation is the OID of coupon.issuance: dropping and creating the
 * extension again starts with campaign ids from 1, and must not meet the maps
 * of the old ones.
 */
typedef struct CouponCampaignKey
{
	Oid			database;
	Oid			installation;
	int64		campaign_id;
} CouponCampaignKey;

/*
 * A campaign in use.  A slot is given to another campaign, or its memory
 * freed, only with pins = 0 and under the partition lock in exclusive mode;
 * pins rise only under that lock (shared is enough) or while already pinned.
 */
typedef struct CouponCampaign
{
	CouponCampaignKey key;		/* partition lock */
	LWLock	   *partition;		/* that lock; constant while pinned */
	bool		in_use;			/* partition lock + slot_lock */
	uint64		version;		/* partition lock; of the definition, unique */
	dsa_pointer definition;		/* partition lock; invalid: to be loaded */
	dsa_pointer stock;			/* set under the partition lock, stays while pinned */
	pg_atomic_uint32 pins;
	pg_atomic_uint32 recent;	/* 1: used since the clock hand last passed */
	pg_atomic_uint64 answers[COUPON_COUNTED_STATUSES];
} CouponCampaign;

typedef struct CouponShared
{
	LWLockPadded *locks;		/* COUPON_PARTITIONS, slot_lock, databases_lock */
	int			dsa_tranche;
	pg_atomic_uint64 versions;	/* last version given to a definition */
	pg_atomic_uint64 event_clock;	/* newest event id's time, see outbox.c */
	pg_atomic_uint32 clock_hand;	/* eviction's next slot */
	CouponDatabase databases[COUPON_MAX_DATABASES];
	int			nslots;
	CouponCampaign slots[FLEXIBLE_ARRAY_MEMBER];
} CouponShared;

extern CouponShared *coupon_shared;
extern dsa_area *coupon_area;

/* Called from _PG_init while preloading: reserves, and creates at startup. */
extern void coupon_shmem_request(void);

/* Attaches this session; ERROR with the line to add where not preloaded. */
extern void coupon_shmem_attach(void);

/* Guards who has which place in databases. */
extern LWLock *coupon_databases_lock(void);

/* True where the library was preloaded. */
extern bool coupon_shmem_available(void);

/*
 * The slot of a campaign, pinned; made if there was none.  The pin is the
 * caller's to release, or to hand to an intent, before anything can throw.
 */
extern CouponCampaign *coupon_slot_pin(const CouponCampaignKey *key);
extern void coupon_slot_unpin(CouponCampaign *campaign);

/*
 * The slot of a campaign if there is one, with its partition lock held in
 * the given mode, or NULL without a lock.  Never throws.
 */
extern CouponCampaign *coupon_slot_lock(const CouponCampaignKey *key, LWLockMode mode);

/*
 * Memory in the area.  Evicts what is least recently used and idle until the
 * request fits; ERROR if it cannot.  Not with a partition lock held.
 */
extern dsa_pointer coupon_area_allocate(Size size);

#endif							/* COUPON_SHMEM_H */
