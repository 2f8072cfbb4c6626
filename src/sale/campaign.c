/*
 * campaign.c
 *	  Definitions of campaigns: the cache in shared memory and what drops it.
 *
 * Every call needs its campaign's definition, and with thousands of campaigns
 * and hundreds of sessions a cache in each session would never be warm.  So
 * there is one copy in shared memory; a session keeps the one it used last.
 *
 * A definition is published only by a session that read it with a snapshot
 * taken after it had noted the slot's version, and only if the version is
 * still the same.  A change drops the definition and moves the version when
 * it commits, after it has become visible.  So a stale definition cannot stay.
 *
 * A transaction that has changed a campaign reads the tables for itself and
 * publishes nothing.  It sees its own pause or close; units that it added to
 * a campaign of others are not on sale before it commits.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/xact.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "base/errors.h"
#include "base/intent.h"
#include "base/table_writer.h"
#include "base/trigger.h"
#include "sale/campaign.h"
#include "sale/policy.h"
#include "sale/stock_map.h"

/* Campaigns that the running transaction has changed. */
typedef struct ChangedCampaign
{
	CouponCampaignKey key;
	bool		created;		/* by this transaction: nobody else knows it */
	int32		visible_shards; /* those that others have, too */
} ChangedCampaign;

static ChangedCampaign *changed = NULL;
static int	nchanged = 0;
static int	max_changed = 0;

/* The definition used last, and room for it. */
static CouponDefinition *cached = NULL;
static Size cached_room = 0;

PG_FUNCTION_INFO_V1(coupon_campaign_changed);

void
coupon_campaign_unknown(int64 campaign_id)
{
	ereport(ERROR,
			(errcode(ERRCODE_COUPON_UNKNOWN_CAMPAIGN),
			 errmsg("unknown campaign"),
			 errdetail("There is no campaign %lld.", (long long) campaign_id),
			 errhint("Use an id that coupon_campaign_create() returned; coupon.campaign lists them.")));
	pg_unreachable();
}

CouponCampaignKey
coupon_campaign_key(int64 campaign_id)
{
	CouponCampaignKey key = {0};

	key.database = MyDatabaseId;
	key.installation = coupon_catalog()->issuance;
	key.campaign_id = campaign_id;
	return key;
}

/* ---- changes ---- */

static ChangedCampaign *
find_changed(int64 campaign_id)
{
	for (int i = nchanged - 1; i >= 0; i--)
	{
		if (changed[i].key.campaign_id == campaign_id)
			return &changed[i];
	}
	return NULL;
}

/* Has the definition read again, by whoever enters.  With the partition lock. */
static void
drop_definition(CouponCampaign *campaign)
{
	campaign->version = coupon_slot_new_version();
	if (DsaPointerIsValid(campaign->definition))
	{
		dsa_free(coupon_area, campaign->definition);
		campaign->definition = InvalidDsaPointer;
	}
}

/* The intent of a changed campaign: drop its cached definition at commit. */
static void
resolve_change(CouponIntent *intent, bool committed)
{
	/* newest first, so what remains of the array is what is still owed */
	nchanged = intent->number;

	if (committed)
	{
		CouponCampaign *campaign;

		campaign = coupon_slot_lock(&changed[intent->number].key, LW_EXCLUSIVE);
		if (campaign != NULL)
		{
			drop_definition(campaign);
			/* one that was deleted is restored under its id */
			if (changed[intent->number].created)
				pg_atomic_write_u32(&campaign->deletions, 0);
			LWLockRelease(campaign->partition);
		}
	}
}

static void
note_change(int64 campaign_id, bool created, int32 visible_shards)
{
	ChangedCampaign *known = find_changed(campaign_id);

	if (known != NULL && (known->created || known->visible_shards <= visible_shards))
		return;
	if (known != NULL)
		created = known->created;

	if (nchanged == max_changed)
	{
		int			wanted = Max(16, max_changed * 2);

		changed = changed == NULL ?
			MemoryContextAlloc(TopMemoryContext, wanted * sizeof(ChangedCampaign)) :
			repalloc_huge(changed, wanted * sizeof(ChangedCampaign));
		max_changed = wanted;
	}
	coupon_intent_reserve(1);

	changed[nchanged].key = coupon_campaign_key(campaign_id);
	changed[nchanged].created = created;
	changed[nchanged].visible_shards = visible_shards;
	coupon_intent_push(resolve_change, NULL, NULL, nchanged);
	nchanged++;
}

/* The intent of who gives labels to units that had none. */
static void
resolve_labelling(CouponIntent *intent, bool committed)
{
	CouponCampaign *campaign = intent->campaign;

	if (committed)
	{
		/* first: who goes by the old definition meets the one or the other */
		LWLockAcquire(campaign->partition, LW_EXCLUSIVE);
		drop_definition(campaign);
		LWLockRelease(campaign->partition);
	}
	pg_atomic_fetch_sub_u32(&campaign->labellings, 1);
	coupon_slot_unpin(campaign);
}

void
coupon_campaign_begin_labelling(int64 campaign_id)
{
	CouponCampaignKey key = coupon_campaign_key(campaign_id);
	CouponCampaign *campaign;

	coupon_intent_reserve(1);
	campaign = coupon_slot_pin(&key);
	pg_atomic_fetch_add_u32(&campaign->labellings, 1);
	coupon_intent_push(resolve_labelling, campaign, NULL, 0);
}

/*
 * coupon_campaign_changed() - row trigger on coupon.campaign and coupon.shard
 *
 * Whoever changes a definition, in whatever way, comes through here.
 */
Datum
coupon_campaign_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = coupon_trigger_after_row(fcinfo, "campaign_changed",
													COUPON_ON_INSERT | COUPON_ON_UPDATE | COUPON_ON_DELETE,
													"campaign", "shard");
	HeapTuple	tuple;
	TupleDesc	desc;
	bool		isnull;
	int64		campaign_id;
	bool		insertion;

	/* without shared memory there is no cache that could be stale */
	if (!coupon_shmem_available())
		return PointerGetDatum(NULL);
	coupon_shmem_attach();

	insertion = TRIGGER_FIRED_BY_INSERT(trigger->tg_event);
	tuple = coupon_trigger_row(trigger);
	desc = RelationGetDescr(trigger->tg_relation);

	/* both tables begin with campaign_id */
	campaign_id = DatumGetInt64(heap_getattr(tuple, Campaign_id, desc, &isnull));

	if (RelationGetRelid(trigger->tg_relation) == coupon_catalog()->campaign)
		note_change(campaign_id, insertion, PG_INT32_MAX);
	else
	{
		int32		shard = DatumGetInt32(heap_getattr(tuple, Shard_number, desc, &isnull));

		note_change(campaign_id, false, insertion ? shard : PG_INT32_MAX);
	}
	return PointerGetDatum(NULL);
}

/* ---- loading ---- */

/*
 * The number of a campaign's shards below the limit, and its stock: the last
 * serial of the last of them.
 */
static void
load_stock(int64 campaign_id, int32 limit, Snapshot snapshot, CouponDefinition *def)
{
	const CouponCatalog *catalog = coupon_catalog();
	ScanKeyData key;
	CouponScan	scan;
	bool		isnull;

	coupon_key_int64(&key, 1, BTEqualStrategyNumber, campaign_id);
	coupon_scan_begin(&scan, catalog->shard, catalog->shard_pkey, snapshot, &key, 1, false);
	while (coupon_scan_next(&scan, BackwardScanDirection))
	{
		int32		shard = DatumGetInt32(slot_getattr(scan.slot, Shard_number, &isnull));

		if (shard >= limit)
			continue;
		def->nshards = shard + 1;
		def->stock = DatumGetInt64(slot_getattr(scan.slot, Shard_last_serial, &isnull));
		break;
	}
	coupon_scan_end(&scan);
}

/*
 * Reads a definition from the tables, as of now: the latest snapshot, which
 * includes the transaction's own changes.  NULL if there is no such campaign.
 */
static CouponDefinition *
load_definition(int64 campaign_id, int32 visible_shards)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	CouponDefinition *def = NULL;
	ScanKeyData key;
	CouponScan	scan;

	coupon_key_int64(&key, 1, BTEqualStrategyNumber, campaign_id);
	coupon_scan_begin(&scan, catalog->campaign, catalog->campaign_pkey, snapshot, &key, 1, false);
	if (coupon_scan_next(&scan, ForwardScanDirection))
	{
		Datum	   *values = scan.slot->tts_values;
		bool	   *nulls = scan.slot->tts_isnull;
		Jsonb	   *policy;
		char	   *json;
		char	   *topic;
		Size		size;

		slot_getallattrs(scan.slot);
		policy = DatumGetJsonbP(values[Campaign_policy - 1]);
		json = JsonbToCString(NULL, &policy->root, VARSIZE(policy));
		topic = TextDatumGetCString(values[Campaign_topic - 1]);

		size = MAXALIGN(sizeof(CouponDefinition)) + MAXALIGN(VARSIZE(policy)) +
			strlen(json) + 1 + strlen(topic) + 1;
		def = palloc0(size);
		def->size = size;
		def->campaign_id = campaign_id;
		/* whoever drops the table's CHECK must not crash the server */
		def->per_user_limit = Min(Max(DatumGetInt32(values[Campaign_per_user_limit - 1]), 1), COUPON_MAX_PER_USER_LIMIT);
		def->opens_at = nulls[Campaign_opens_at - 1] ? DT_NOBEGIN :
			DatumGetTimestampTz(values[Campaign_opens_at - 1]);
		def->closes_at = nulls[Campaign_closes_at - 1] ? DT_NOEND :
			DatumGetTimestampTz(values[Campaign_closes_at - 1]);
		def->withdrawn = DatumGetInt64(values[Campaign_withdrawn - 1]);
		def->away = DatumGetInt64(values[Campaign_away - 1]);
		def->shared = DatumGetBool(values[Campaign_shared - 1]);
		/* of a copy it is not known yet whether all issuances are there */
		def->unchecked = !nulls[Campaign_dumped - 1];
		def->paused = DatumGetBool(values[Campaign_paused - 1]) || def->unchecked;
		def->ending = !nulls[Campaign_archived_at - 1];
		def->closed = !nulls[Campaign_closed_at - 1] || def->ending;
		def->coded = DatumGetBool(values[Campaign_coded - 1]);
		def->usage_period_days = coupon_policy_usage_period(policy);
		def->labels_public = DatumGetBool(values[Campaign_labels_public - 1]);
		def->note_refusals = DatumGetBool(values[Campaign_note_refusals - 1]);
		def->room_id = nulls[Campaign_room_id - 1] ? 0 : DatumGetInt64(values[Campaign_room_id - 1]);

		def->policy = MAXALIGN(sizeof(CouponDefinition));
		memcpy((char *) def + def->policy, policy, VARSIZE(policy));
		def->policy_json = def->policy + MAXALIGN(VARSIZE(policy));
		memcpy((char *) def + def->policy_json, json, strlen(json) + 1);
		def->topic = def->policy_json + strlen(json) + 1;
		memcpy((char *) def + def->topic, topic, strlen(topic) + 1);
	}
	coupon_scan_end(&scan);

	if (def != NULL)
		load_stock(campaign_id, visible_shards, snapshot, def);
	UnregisterSnapshot(snapshot);
	return def;
}

static void
cache_locally(const CouponDefinition *def)
{
	if (cached_room < def->size)
	{
		if (cached != NULL)
			pfree(cached);
		cached = NULL;
		cached_room = 0;
		cached = MemoryContextAlloc(TopMemoryContext, def->size + 512);
		cached_room = def->size + 512;
	}
	memcpy(cached, def, def->size);
}

/* ---- entering ---- */

/* The intent of a running call: release the pin, whatever happens. */
static void
resolve_pin(CouponIntent *intent, bool committed)
{
	coupon_slot_unpin(intent->campaign);
}

/*
 * The quick way: the definition is in shared memory, and most likely the one
 * that this session used last.
 */
static CouponCampaign *
enter_cached(const CouponCampaignKey *key)
{
	CouponCampaign *campaign = coupon_slot_lock(key, LW_SHARED);
	const CouponDefinition *shared;
	LWLock	   *lock;

	if (campaign == NULL)
		return NULL;
	lock = campaign->partition;

	if (!DsaPointerIsValid(campaign->definition))
	{
		LWLockRelease(lock);
		return NULL;
	}
	if (cached == NULL || cached->version != campaign->version)
	{
		shared = dsa_get_address(coupon_area, campaign->definition);
		if (shared->size > cached_room)
		{
			/* too small a room: let the slow way make one */
			LWLockRelease(lock);
			return NULL;
		}
		memcpy(cached, shared, shared->size);
	}
	pg_atomic_fetch_add_u32(&campaign->pins, 1);
	LWLockRelease(lock);

	coupon_intent_push(resolve_pin, campaign, NULL, 0);
	return campaign;
}

static CouponCampaign *
enter_loading(const CouponCampaignKey *key)
{
	ChangedCampaign *change = find_changed(key->campaign_id);
	int32		visible_shards = PG_INT32_MAX;
	CouponDefinition *def;
	CouponCampaign *campaign;
	LWLock	   *lock;
	uint64		version;

	if (change != NULL && !change->created)
		visible_shards = change->visible_shards;

	/* a flood of ids that do not exist must not push campaigns out of slots */
	campaign = coupon_slot_lock(key, LW_SHARED);
	if (campaign != NULL)
		LWLockRelease(campaign->partition);
	else if ((def = load_definition(key->campaign_id, visible_shards)) == NULL)
		coupon_campaign_unknown(key->campaign_id);
	else
		pfree(def);

	campaign = coupon_slot_pin(key);
	coupon_intent_push(resolve_pin, campaign, NULL, 0);
	lock = campaign->partition;

	LWLockAcquire(lock, LW_SHARED);
	version = campaign->version;
	LWLockRelease(lock);

	def = load_definition(key->campaign_id, visible_shards);
	if (def == NULL)
		coupon_campaign_unknown(key->campaign_id);

	if (change == NULL)
	{
		dsa_pointer copy = coupon_area_allocate(def->size);

		def->version = version;
		memcpy(dsa_get_address(coupon_area, copy), def, def->size);

		LWLockAcquire(lock, LW_EXCLUSIVE);
		if (campaign->version == version && !DsaPointerIsValid(campaign->definition))
		{
			campaign->definition = copy;
			copy = InvalidDsaPointer;
		}
		LWLockRelease(lock);
		if (DsaPointerIsValid(copy))
			dsa_free(coupon_area, copy);
	}
	else
		def->created = change->created;
	cache_locally(def);
	pfree(def);
	return campaign;
}

CouponCampaign *
coupon_campaign_enter(int64 campaign_id, const CouponDefinition **definition)
{
	CouponCampaignKey key;
	CouponCampaign *campaign = NULL;

	coupon_shmem_attach();
	/* whoever is in the middle of a call still uses the cached definition */
	coupon_writer_refuse_nested();
	coupon_intent_reserve(1);
	key = coupon_campaign_key(campaign_id);

	if (nchanged == 0 || find_changed(campaign_id) == NULL)
		campaign = enter_cached(&key);
	if (campaign == NULL)
		campaign = enter_loading(&key);

	if (pg_atomic_read_u32(&campaign->recent) == 0)
		pg_atomic_write_u32(&campaign->recent, 1);
	*definition = cached;
	return campaign;
}

CouponCampaign *
coupon_campaign_enter_known(int64 campaign_id)
{
	CouponCampaignKey key;
	CouponCampaign *campaign;

	coupon_shmem_attach();
	coupon_intent_reserve(1);
	key = coupon_campaign_key(campaign_id);
	campaign = coupon_slot_lock(&key, LW_SHARED);
	if (campaign == NULL)
		return NULL;
	pg_atomic_fetch_add_u32(&campaign->pins, 1);
	LWLockRelease(campaign->partition);
	coupon_intent_push(resolve_pin, campaign, NULL, 0);
	return campaign;
}

void
coupon_campaign_leave(CouponCampaign *campaign)
{
	coupon_intent_finish(coupon_intent_find(resolve_pin, campaign, NULL, 0), true);
}

bool
coupon_campaign_exists(int64 campaign_id)
{
	CouponCampaign *campaign = coupon_campaign_enter_known(campaign_id);
	ScanKeyData key;
	CouponScan	scan;
	Snapshot	snapshot;
	bool		found;

	if (campaign != NULL)
	{
		coupon_campaign_leave(campaign);
		return true;
	}
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	coupon_key_int64(&key, 1, BTEqualStrategyNumber, campaign_id);
	coupon_scan_begin(&scan, coupon_catalog()->campaign, coupon_catalog()->campaign_pkey,
					  snapshot, &key, 1, false);
	found = coupon_scan_next(&scan, ForwardScanDirection);
	coupon_scan_end_unlock(&scan);
	UnregisterSnapshot(snapshot);
	return found;
}
