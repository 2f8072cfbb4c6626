/*
 * campaign_slot.h
 *	  The campaigns in use, in shared memory.
 *
 * A hash table from (database, installation, campaign) to a slot, and the
 * slots.  What hangs on them, definitions and stock maps, lies in the area of
 * stock_map.c.
 */
#ifndef COUPON_CAMPAIGN_SLOT_H
#define COUPON_CAMPAIGN_SLOT_H

#include "datatype/timestamp.h"
#include "port/atomics.h"

#include "base/shmem.h"
#include "sale/status_codes.h"

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
	dsa_pointer stock;			/* set under the partition lock, stays while
								 * pinned */
	pg_atomic_uint32 pins;
	pg_atomic_uint32 deletions; /* of its shards, by running or committed
								 * transactions */
	pg_atomic_uint32 labellings;	/* running transactions that give labels
									 * to units that had none */
	pg_atomic_uint32 recent;	/* 1: used since the clock hand last passed */
	pg_atomic_uint64 answers[COUPON_COUNTED_STATUSES];
} CouponCampaign;

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
 * The slot of a number, NULL after the last one.  Nothing of it may be believed
 * without its partition lock.
 */
extern CouponCampaign *coupon_slot_nth(int number);

/* Its number among coupon.max_campaigns slots. */
extern int	coupon_slot_number(const CouponCampaign *campaign);

/* A version that no definition has had. */
extern uint64 coupon_slot_new_version(void);

/*
 * Memory in the area.  Evicts what is least recently used and idle until the
 * request fits; ERROR if it cannot.  Not with a partition lock held.
 */
extern dsa_pointer coupon_area_allocate(Size size);

/*
 * Memory for a filter of users, which must be installed before anything can
 * throw.  Evicts likewise, but not often, and for a filter beyond
 * the filters' share no map; invalid if there is none.
 */
extern dsa_pointer coupon_area_allocate_filter(Size size);

/* Since the server started. */
typedef struct CouponEvictions
{
	uint64		maps;			/* dropped for want of memory */
	uint64		slots;			/* given to another campaign */
	TimestampTz last;			/* when it last was so; 0: never */
	uint64		failures;		/* calls that got no room */
} CouponEvictions;

extern void coupon_slot_evictions(CouponEvictions *evictions);

extern const CouponModule coupon_campaign_slot_module;

#endif							/* COUPON_CAMPAIGN_SLOT_H */
