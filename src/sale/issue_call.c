/*
 * issue_call.c
 *	  Issuing: the SQL functions on the core, and what they answer.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "storage/shmem.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

#include "base/arguments.h"
#include "base/compat.h"
#include "base/stat.h"
#include "node/node.h"
#include "sale/issue.h"
#include "sale/request_key.h"

PG_FUNCTION_INFO_V1(coupon_issue);
PG_FUNCTION_INFO_V1(coupon_issue_many);

#define RESULT_NATTS	6

HeapTuple
coupon_issue_form_result(TupleDesc desc, Datum user_id, const CouponItem *item)
{
	const CouponIssuance *issuance = &item->issuance;
	Datum		values[RESULT_NATTS] = {0};
	bool		nulls[RESULT_NATTS];

	memset(nulls, true, sizeof(nulls));
	values[0] = user_id;
	nulls[0] = user_id == (Datum) 0;
	values[1] = CStringGetTextDatum(coupon_status_name(item->status));
	nulls[1] = false;
	if (item->status == COUPON_ISSUED || item->status == COUPON_ALREADY_ISSUED)
	{
		values[2] = Int64GetDatum(issuance->serial);
		nulls[2] = false;
		values[3] = PointerGetDatum(issuance->code);
		nulls[3] = issuance->code == NULL;
		values[4] = TimestampTzGetDatum(issuance->issued_at);
		nulls[4] = false;
		values[5] = TimestampTzGetDatum(issuance->expires_at);
		nulls[5] = issuance->expires_at == DT_NOEND;
	}
	return heap_form_tuple(desc, values, nulls);
}

/* The result type's description, without a copy: a call is most often alone. */
static TupleDesc
result_desc(FunctionCallInfo fcinfo)
{
	Oid			type = get_func_rettype(fcinfo->flinfo->fn_oid);
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_TUPDESC);

	if (entry->tupDesc == NULL || entry->tupDesc->natts != RESULT_NATTS)
		elog(ERROR, "coupon.issue_result has an unexpected shape");
	return entry->tupDesc;
}

Datum
coupon_issue_result(FunctionCallInfo fcinfo, Datum user_id, const CouponItem *item)
{
	return HeapTupleGetDatum(coupon_issue_form_result(result_desc(fcinfo), user_id, item));
}

static Datum
issue(PG_FUNCTION_ARGS)
{
	CouponItem	item = {0};

	coupon_check_text(fcinfo, 1, "user_id", 1, COUPON_MAX_NAME);
	coupon_require_argument(fcinfo, 0, "campaign_id");
	item.user_id = PointerGetDatum(PG_GETARG_TEXT_PP(1));
	item.request_key = coupon_request_key_argument(fcinfo, 2);
	coupon_issue_batch(PG_GETARG_INT64(0), &item, 1, COUPON_WAIT);
	if (unlikely(item.status == COUPON_MOVED))
		coupon_node_refuse(PG_GETARG_INT64(0), (text *) DatumGetPointer(item.user_id));
	coupon_stat_outcome(coupon_item_outcome(&item), 1);
	return coupon_issue_result(fcinfo, item.user_id, &item);
}

/*
 * coupon_issue(campaign_id bigint, user_id text, request_key text)
 */
Datum
coupon_issue(PG_FUNCTION_ARGS)
{
	return coupon_stat_call(fcinfo, &coupon_way_issue, issue);
}

COUPON_FOR_OTHER_USERS(coupon_issue, 1);

static Datum
issue_many(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			nitems;
	text	  **users;
	text	  **keys;
	CouponItem *items;
	int			counts[COUPON_STATUSES] = {0};

	coupon_require_argument(fcinfo, 0, "campaign_id");
	users = coupon_get_text_array(fcinfo, 1, "user_ids", &nitems);
	keys = coupon_get_optional_texts(fcinfo, 2, "request_keys", nitems, "user_ids");
	InitMaterializedSRF(fcinfo, 0);

	items = MemoryContextAllocHuge(CurrentMemoryContext, mul_size(sizeof(CouponItem), Max(nitems, 1)));
	memset(items, 0, nitems * sizeof(CouponItem));
	for (int i = 0; i < nitems; i++)
	{
		/* without a user, or with a key that is none, the item is invalid */
		if (coupon_is_name(users[i]) && (keys == NULL || keys[i] == NULL || coupon_is_name(keys[i])))
			items[i].user_id = PointerGetDatum(users[i]);
		items[i].request_key = keys == NULL ? NULL : keys[i];
	}

	coupon_issue_batch(PG_GETARG_INT64(0), items, nitems, COUPON_WAIT);

	for (int i = 0; i < nitems; i++)
	{
		HeapTuple	tuple = coupon_issue_form_result(rsinfo->setDesc, PointerGetDatum(users[i]), &items[i]);

		CHECK_FOR_INTERRUPTS();
		tuplestore_puttuple(rsinfo->setResult, tuple);
		heap_freetuple(tuple);
		counts[coupon_item_outcome(&items[i])]++;
	}
	coupon_stat_batch(&coupon_way_many, nitems);
	for (int status = 0; status < COUPON_STATUSES; status++)
		coupon_stat_outcome(status, counts[status]);
	return (Datum) 0;
}

/*
 * coupon_issue_many(campaign_id bigint, user_ids text[], request_keys text[])
 */
Datum
coupon_issue_many(PG_FUNCTION_ARGS)
{
	return coupon_stat_call(fcinfo, &coupon_way_many, issue_many);
}
