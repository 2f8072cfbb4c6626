/*
 * campaign_delete.c
 *	  The end of a campaign: nobody is issued a unit of a shard that is deleted, nor
 *	  one whose row was taken away.
 *
 * A row of coupon.issuance refers to its shard.  Whoever issues takes no lock on
 * the shard's row, because all who issue would write it.  Instead, whoever issues
 * looks at the campaign's deletions once their row is in the index, and if there
 * are any at the shard and the campaign; and whoever deletes looks into the index
 * once they have raised them.  So one of the two meets the other.  The count stays
 * raised when a deletion commits: others may have taken units of the shard before.
 *
 * The end of a campaign begins with a transaction of its own, which raises them, too:
 * rows are taken away after it only.  So who does not see it has a row in the index
 * while all others were there yet.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "base/arguments.h"
#include "base/catalog.h"
#include "base/intent.h"
#include "base/spi.h"
#include "base/trigger.h"
#include "outbox/payload.h"
#include "sale/campaign.h"
#include "sale/issuance_table.h"
#include "sale/sweep.h"

PG_FUNCTION_INFO_V1(coupon_shard_deleted);
PG_FUNCTION_INFO_V1(coupon_campaign_ending);
PG_FUNCTION_INFO_V1(coupon_campaign_end);
PG_FUNCTION_INFO_V1(coupon_campaign_end_holds);

/* The intent of a deletion: it stays raised unless the deletion is undone. */
static void
resolve_deletion(CouponIntent *intent, bool committed)
{
	if (!committed)
		pg_atomic_fetch_sub_u32(&intent->campaign->deletions, 1);
	coupon_slot_unpin(intent->campaign);
}

static void
raise_deletions(int64 campaign_id)
{
	CouponCampaignKey key = coupon_campaign_key(campaign_id);
	CouponCampaign *campaign;

	coupon_intent_reserve(1);
	campaign = coupon_slot_pin(&key);
	if (coupon_intent_find(resolve_deletion, campaign, NULL, 0) != NULL)
		coupon_slot_unpin(campaign);
	else
	{
		pg_atomic_fetch_add_u32(&campaign->deletions, 1);
		coupon_intent_push(resolve_deletion, campaign, NULL, 0);
	}
}

/*
 * coupon_shard_deleted() - row trigger on coupon.shard
 *
 * Waits for those who issue or revoke units of the shard; ERROR if one is left
 * that is issued.
 */
Datum
coupon_shard_deleted(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = coupon_trigger_after_row(fcinfo, "shard_deleted", COUPON_ON_DELETE,
													"shard", NULL);
	HeapTuple	tuple;
	TupleDesc	desc;
	bool		isnull;
	int64		campaign_id;
	int64		first;
	int64		last;

	/* without shared memory nobody issues */
	if (!coupon_shmem_available())
		return PointerGetDatum(NULL);
	coupon_shmem_attach();

	tuple = coupon_trigger_row(trigger);
	desc = RelationGetDescr(trigger->tg_relation);
	campaign_id = DatumGetInt64(heap_getattr(tuple, Shard_campaign_id, desc, &isnull));
	first = DatumGetInt64(heap_getattr(tuple, Shard_first_serial, desc, &isnull));
	last = DatumGetInt64(heap_getattr(tuple, Shard_last_serial, desc, &isnull));
	raise_deletions(campaign_id);
	coupon_issuance_await_none(campaign_id, first, last);
	return PointerGetDatum(NULL);
}

/*
 * coupon_campaign_ending(campaign_id) - in the transaction with which the end begins
 */
Datum
coupon_campaign_ending(PG_FUNCTION_ARGS)
{
	coupon_require_argument(fcinfo, 0, "campaign_id");
	coupon_shmem_attach();
	raise_deletions(PG_GETARG_INT64(0));
	PG_RETURN_VOID();
}

/*
 * coupon_campaign_end_holds(campaign_id, serials) - what a step of
 * coupon_campaign_archive() and coupon_campaign_drop() does with holds
 */
Datum
coupon_campaign_end_holds(PG_FUNCTION_ARGS)
{
	CouponDue  *due;
	int64	   *serials;
	int			n;

	coupon_require_argument(fcinfo, 0, "campaign_id");
	coupon_require_argument(fcinfo, 1, "serials");
	coupon_shmem_attach();

	serials = coupon_int64s(PG_GETARG_DATUM(1), "serials", &n);
	due = palloc(n * sizeof(CouponDue));
	for (int i = 0; i < n; i++)
	{
		due[i].campaign_id = PG_GETARG_INT64(0);
		due[i].serial = serials[i];
	}
	PG_RETURN_INT32(n == 0 ? 0 : coupon_sweep_campaign(due, n, GetCurrentTimestamp()));
}

/*
 * coupon_campaign_end(campaign_id, archived) - the last step of
 * coupon_campaign_archive() and coupon_campaign_drop()
 *
 * Issuances are gone by now; ERROR if one came after all.  Shards are deleted
 * first: that waits for those who issue, who may write or need the others.
 */
Datum
coupon_campaign_end(PG_FUNCTION_ARGS)
{
	static CouponStatement statements[] = {
		{"DELETE FROM coupon.shard WHERE campaign_id = $1", 1, {INT8OID}},
		/* in the order in which coupon_user_erase() changes their rows */
		{"DELETE FROM coupon.lapsed_hold WHERE campaign_id = $1", 1, {INT8OID}},
		{"DELETE FROM coupon.request_key WHERE campaign_id = $1", 1, {INT8OID}},
		{"DELETE FROM coupon.unit WHERE campaign_id = $1", 1, {INT8OID}},
		{"DELETE FROM coupon.campaign WHERE campaign_id = $1", 1, {INT8OID}}
	};
	CouponCampaignRow row;
	int64		campaign_id;
	Datum		values[1];

	coupon_require_argument(fcinfo, 0, "campaign_id");
	coupon_require_argument(fcinfo, 1, "archived");
	campaign_id = PG_GETARG_INT64(0);
	values[0] = Int64GetDatum(campaign_id);
	coupon_shmem_attach();

	coupon_spi_connect();
	coupon_campaign_lock_row(campaign_id, true, &row);
	for (size_t i = 0; i < lengthof(statements); i++)
		(void) coupon_spi_execute(&statements[i], SPI_OK_DELETE, values, NULL);
	coupon_campaign_event(campaign_id, &row, PG_GETARG_BOOL(1) ? COUPON_EVENT_CAMPAIGN_ARCHIVED :
						  COUPON_EVENT_CAMPAIGN_DROPPED, -1);
	coupon_spi_finish();
	PG_RETURN_VOID();
}
