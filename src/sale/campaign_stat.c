/*
 * campaign_stat.c
 *	  Statistics of the campaigns in use: answers, maps, memory.
 *
 * Read from shared memory alone: no map is built for them, so that looking at
 * ten thousand campaigns pushes none out.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type_d.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/tuplestore.h"

#include "base/arguments.h"
#include "base/compat.h"
#include "base/guc.h"
#include "sale/campaign.h"
#include "sale/stock_map.h"

PG_FUNCTION_INFO_V1(coupon_stat_campaigns);
PG_FUNCTION_INFO_V1(coupon_stat_memory);

#define CAMPAIGN_NATTS	(2 + COUPON_COUNTED_STATUSES)
#define MEMORY_NATTS	5

/* The memory of a map.  Under its slot's partition lock. */
static Size
size_of_map(CouponStock *stock)
{
	Size		size = sizeof(CouponStock) + filter_size(stock);
	uint32		nshards = count_shards(stock);

	for (uint32 i = 0; i < nshards; i++)
	{
		CouponShard *shard = get_shard(stock, i);

		size += SHARD_STRIDE + (is_ready(shard) ? count_words(shard) * sizeof(uint64) : 0);
	}
	return size;
}

/*
 * Locks the partition of a slot in use; false if it is not used, or was given
 * to another campaign just now.
 */
static bool
lock_slot(CouponCampaign *campaign, CouponCampaignKey *key)
{
	CouponCampaign *found;

	/* what is read before the lock may be torn: the table decides */
	if (!campaign->in_use)
		return false;
	*key = campaign->key;
	found = coupon_slot_lock(key, LW_SHARED);
	if (found == campaign)
		return true;
	if (found != NULL)
		LWLockRelease(found->partition);
	return false;
}

static int
compare_ids(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return x < y ? -1 : x > y;
}

/* The ids of an array, sorted; NULL where the argument is null. */
static int64 *
get_ids(FunctionCallInfo fcinfo, int *n)
{
	int64	   *ids;

	if (PG_ARGISNULL(0))
		return NULL;
	ids = coupon_int64s(PG_GETARG_DATUM(0), NULL, n);
	qsort(ids, *n, sizeof(int64), compare_ids);
	return ids;
}

static void
put_campaign(ReturnSetInfo *rsinfo, int64 campaign_id, int64 map_bytes, const uint64 *answers)
{
	Datum		values[CAMPAIGN_NATTS];
	bool		nulls[CAMPAIGN_NATTS] = {campaign_id == 0, map_bytes == 0};

	values[0] = Int64GetDatum(campaign_id);
	values[1] = Int64GetDatum(map_bytes);
	for (int s = 0; s < COUPON_COUNTED_STATUSES; s++)
		values[2 + s] = Int64GetDatum(answers[s]);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * coupon.stat_campaigns(apart bigint[], OUT campaign_id bigint, OUT map_bytes bigint,
 * OUT answered_issued bigint, ...): those of this database that shared memory
 * knows; map_bytes is null without a map.  With an array only those in it, and
 * the sum of all others in a row without an id.
 */
Datum
coupon_stat_campaigns(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	CouponCampaignKey mine;
	CouponCampaign *campaign;
	uint64		others[COUPON_COUNTED_STATUSES] = {0};
	int			nids = 0;
	int64	   *ids;

	coupon_shmem_attach();
	InitMaterializedSRF(fcinfo, 0);
	ids = get_ids(fcinfo, &nids);
	mine = coupon_campaign_key(0);
	for (int i = 0; (campaign = coupon_slot_nth(i)) != NULL; i++)
	{
		CouponCampaignKey key;
		uint64		answers[COUPON_COUNTED_STATUSES];
		int64		map_bytes = 0;

		CHECK_FOR_INTERRUPTS();
		if (campaign->key.database != mine.database || campaign->key.installation != mine.installation ||
			!lock_slot(campaign, &key))
			continue;
		if (ids == NULL && DsaPointerIsValid(campaign->stock))
			map_bytes = size_of_map(dsa_get_address(coupon_area, campaign->stock));
		for (int s = 0; s < COUPON_COUNTED_STATUSES; s++)
			answers[s] = pg_atomic_read_u64(&campaign->answers[s]);
		LWLockRelease(campaign->partition);
		if (key.database != mine.database || key.installation != mine.installation)
			continue;
		if (ids == NULL || bsearch(&key.campaign_id, ids, nids, sizeof(int64), compare_ids) != NULL)
			put_campaign(rsinfo, key.campaign_id, map_bytes, answers);
		else
		{
			for (int s = 0; s < COUPON_COUNTED_STATUSES; s++)
				others[s] += answers[s];
		}
	}
	if (ids != NULL)
		put_campaign(rsinfo, 0, 0, others);
	return (Datum) 0;
}

/*
 * coupon.stat_slots(OUT campaigns bigint, OUT max_campaigns bigint,
 * OUT maps bigint, OUT map_bytes bigint, OUT map_memory_bytes bigint): of the
 * whole server
 */
Datum
coupon_stat_memory(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[MEMORY_NATTS];
	bool		nulls[MEMORY_NATTS] = {0};
	int64		campaigns = 0;
	int64		maps = 0;
	int64		bytes = 0;
	CouponCampaign *campaign;

	coupon_shmem_attach();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts != MEMORY_NATTS)
		elog(ERROR, "coupon.stat_slots has an unexpected shape");
	for (int i = 0; (campaign = coupon_slot_nth(i)) != NULL; i++)
	{
		CouponCampaignKey key;

		CHECK_FOR_INTERRUPTS();
		if (!lock_slot(campaign, &key))
			continue;
		campaigns++;
		if (DsaPointerIsValid(campaign->definition))
			bytes += ((CouponDefinition *) dsa_get_address(coupon_area, campaign->definition))->size;
		if (DsaPointerIsValid(campaign->stock))
		{
			maps++;
			bytes += size_of_map(dsa_get_address(coupon_area, campaign->stock));
		}
		LWLockRelease(campaign->partition);
	}
	values[0] = Int64GetDatum(campaigns);
	values[1] = Int64GetDatum(coupon_max_campaigns);
	values[2] = Int64GetDatum(maps);
	values[3] = Int64GetDatum(bytes);
	values[4] = Int64GetDatum((int64) coupon_area_size());
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}
