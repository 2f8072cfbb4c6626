/*
 * campaign.h
 *	  Definitions of campaigns, cached in shared memory.
 */
#ifndef COUPON_CAMPAIGN_H
#define COUPON_CAMPAIGN_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"

#include "base/compat.h"
#include "room/room.h"
#include "sale/campaign_slot.h"

#define COUPON_MAX_STOCK			INT64CONST(100000000)
#define COUPON_MAX_PER_USER_LIMIT	10000

/*
 * A definition is one flat piece of memory, so that it can be copied between
 * shared and local memory as it is; strings are found by their offsets.
 */
typedef struct CouponDefinition
{
	Size		size;			/* of the whole piece */
	uint64		version;		/* 0: private to this transaction */
	int64		campaign_id;
	int64		stock;			/* units 1..stock exist */
	int64		withdrawn;		/* so many of them are off the sale */
	int64		away;			/* so many are other nodes' */
	int32		nshards;
	int32		per_user_limit;
	TimestampTz opens_at;		/* DT_NOBEGIN: at once */
	TimestampTz closes_at;		/* DT_NOEND: never */
	int32		usage_period_days;	/* 0: never expires */
	int64		room_id;		/* whose ticket a user needs, 0: none */
	bool		paused;
	bool		unchecked;		/* in a restored copy; paused, too */
	bool		closed;
	bool		ending;			/* its rows are being taken away; closed, too */
	bool		coded;
	bool		labels_public;	/* seats, not codes: whoever may hold may see
								 * them */
	bool		shared;			/* other nodes may have units when here are
								 * none */
	bool		note_refusals;	/* who is refused is noted, see refusal.c */
	bool		created;		/* by this transaction: nobody else knows it */
	Size		topic;			/* offset of a C string */
	Size		policy_json;	/* offset of a C string */
	Size		policy;			/* offset of a jsonb datum */
} CouponDefinition;

#define COUPON_DEFINITION_TOPIC(def)	((const char *) (def) + (def)->topic)
#define COUPON_DEFINITION_POLICY_JSON(def)	((const char *) (def) + (def)->policy_json)
#define COUPON_DEFINITION_POLICY(def)	((Jsonb *) ((char *) (def) + (def)->policy))

/* The key of its slot. */
extern CouponCampaignKey coupon_campaign_key(int64 campaign_id);

/*
 * Enters a campaign for the duration of a call: pins its slot and finds its
 * definition, which stays valid until the next enter in this session.  ERROR
 * for an unknown campaign.  Leave it again; after an ERROR the pin is
 * released with the (sub)transaction.
 */
extern CouponCampaign *coupon_campaign_enter(int64 campaign_id,
											 const CouponDefinition **definition);
extern void coupon_campaign_leave(CouponCampaign *campaign);

/*
 * Enters a campaign only if shared memory knows it, without its definition;
 * NULL otherwise.
 */
extern CouponCampaign *coupon_campaign_enter_known(int64 campaign_id);

/* Is there such a campaign?  A row is looked for only where shared memory knows of none. */
extern bool coupon_campaign_exists(int64 campaign_id);

pg_noreturn extern void coupon_campaign_unknown(int64 campaign_id);

/*
 * Units that have no labels get some, in this transaction.  Whoever issues one by a
 * definition without them looks, once their row is in the index, whether this has
 * begun; so who looks into the index afterwards sees it, or they learn of this.
 */
extern void coupon_campaign_begin_labelling(int64 campaign_id);

/* May a campaign differ from the definition by which a row was inserted?  An unlocked look. */
static inline bool
coupon_campaign_may_differ(CouponCampaign *campaign, const CouponDefinition *def)
{
	if (pg_atomic_read_u32(&campaign->deletions) > 0 || pg_atomic_read_u32(&campaign->labellings) > 0)
		return true;
	pg_read_barrier();			/* see resolve_labelling() */
	return def->version != 0 && campaign->version != def->version;
}

/* ---- campaign_admin.c; all in a connected SPI session ---- */

typedef struct CouponCampaignRow
{
	bool		paused;
	bool		closed;
	bool		coded;
	bool		labels_public;
	int64		stock;			/* the last serial */
	int64		withdrawn;		/* units that are off the sale */
	int			keeper;			/* the node that adds units; 0: not shared */
	int32		nshards;
	char	   *topic;
} CouponCampaignRow;

/*
 * Locks a campaign's row against other changes and reads what changes depend
 * on.  ERROR for an unknown campaign, and for a closed one unless allowed, as
 * for one of a copy that is not checked.
 */
extern void coupon_campaign_lock_row(int64 campaign_id, bool allow_closed,
									 CouponCampaignRow *row);

/* ERROR if the campaign is shared and another node is its keeper. */
extern void coupon_campaign_require_keeper(int64 campaign_id, const CouponCampaignRow *row);

/* Adds shards for more units of a locked campaign; updates *row. */
extern void coupon_campaign_add_units(int64 campaign_id, int64 units,
									  CouponCampaignRow *row);

/* Appends an event of the campaign itself; units < 0: none to tell of. */
extern void coupon_campaign_event(int64 campaign_id, const CouponCampaignRow *row,
								  const char *type, int64 units);

/* Is the n-th unit of a shard among these?  units: withdrawn or away of its row, or NULL. */
static inline bool
coupon_unit_is_in(const bytea *units, int64 n)
{
	return units != NULL && n / 8 < (int64) VARSIZE_ANY_EXHDR(units) &&
		(VARDATA_ANY(units)[n / 8] >> (n % 8) & 1) != 0;
}

/* Has the campaign's room, if it requires one, admitted the user? */
static inline bool
coupon_campaign_admits(const CouponDefinition *def, Datum user_id)
{
	return def->room_id == 0 || coupon_room_admits(def->room_id, user_id);
}

#endif							/* COUPON_CAMPAIGN_H */
