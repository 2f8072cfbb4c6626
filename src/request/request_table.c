/*
 * request_table.c
 *	  The rows of coupon.request, and the queue that is made from them.
 *
 * An id is a UUID of version 8: campaign and number in the line, then 58
 * random bits.  So an id finds its row, its campaign's rows are together in
 * the index and in the order in which they came.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/sysattr.h"
#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "base/random.h"
#include "node/node.h"
#include "request/request_table.h"

/* ---- ids ---- */

#define NODE_SHIFT		50		/* in the random bits: the node that made it */
#define RANDOM_BITS		58
#define RANDOM_MASK		((UINT64CONST(1) << RANDOM_BITS) - 1)

/* An id with these bits: random, or all 0 or all 1 to begin or end a range. */
static void
set_id(pg_uuid_t *id, int64 campaign_id, int64 number, uint64 low_bits)
{
	uint64		value = ((uint64) campaign_id << 34) | (uint64) number;
	uint64		high = (value & ~UINT64CONST(0xffff)) | 0x8000 | ((value >> 4) & 0xfff);
	uint64		low = UINT64CONST(0x8000000000000000) | ((value & 0xf) << RANDOM_BITS) |
	(low_bits & RANDOM_MASK);

	for (int i = 0; i < 8; i++)
	{
		id->data[i] = high >> (56 - 8 * i);
		id->data[8 + i] = low >> (56 - 8 * i);
	}
}

static void
split_id(const pg_uuid_t *id, int64 *campaign_id, int64 *number)
{
	uint64		high = 0;
	uint64		value;

	for (int i = 0; i < 8; i++)
		high = high << 8 | id->data[i];
	value = (high & ~UINT64CONST(0xffff)) | ((high & 0xfff) << 4) | ((id->data[8] >> 2) & 0xf);
	*campaign_id = value >> 34;
	*number = value & COUPON_MAX_REQUEST_NUMBER;
}

void
coupon_request_make_id(CouponRequest *request)
{
	uint64		bits;

	coupon_random(&bits, sizeof(bits));
	if (unlikely(coupon_node_here()))
		bits = (bits & ((UINT64CONST(1) << NODE_SHIFT) - 1)) | (uint64) coupon_node_id() << NODE_SHIFT;
	set_id(&request->id, request->campaign_id, request->number, bits);
}

/* ---- rows ---- */

void
coupon_request_read(TupleTableSlot *slot, uint32 child, CouponRequest *request)
{
	Datum	   *values = slot->tts_values;
	bool	   *nulls = slot->tts_isnull;

	slot_getallattrs(slot);
	request->id = *DatumGetUUIDP(values[Request_id - 1]);
	split_id(&request->id, &request->campaign_id, &request->number);
	request->requested_at = DatumGetTimestampTz(values[Request_requested_at - 1]);
	request->decided_at = nulls[Request_decided_at - 1] ? 0 :
		DatumGetTimestampTz(values[Request_decided_at - 1]);
	request->serial = nulls[Request_serial - 1] ? 0 : DatumGetInt64(values[Request_serial - 1]);
	request->user_id = DatumGetTextPCopy(values[Request_user_id - 1]);
	request->outcome = nulls[Request_outcome - 1] ? NULL :
		DatumGetTextPCopy(values[Request_outcome - 1]);
	request->key = nulls[Request_key - 1] ? NULL : DatumGetTextPCopy(values[Request_key - 1]);
	request->trace = nulls[Request_traceparent - 1] ? NULL :
		TextDatumGetCString(values[Request_traceparent - 1]);
	request->tid = slot->tts_tid;
	request->child = child;
	request->own = false;
}

void
coupon_request_fill(TupleTableSlot *slot, const CouponRequest *request)
{
	Datum	   *values = slot->tts_values;
	bool	   *nulls = slot->tts_isnull;

	values[Request_id - 1] = UUIDPGetDatum(&request->id);
	values[Request_campaign_id - 1] = Int64GetDatum(request->campaign_id);
	values[Request_requested_at - 1] = TimestampTzGetDatum(request->requested_at);
	values[Request_decided_at - 1] = TimestampTzGetDatum(request->decided_at);
	values[Request_serial - 1] = Int64GetDatum(request->serial);
	values[Request_user_id - 1] = PointerGetDatum(request->user_id);
	values[Request_outcome - 1] = PointerGetDatum(request->outcome);
	values[Request_key - 1] = PointerGetDatum(request->key);
	values[Request_traceparent - 1] = request->trace == NULL ? (Datum) 0 : CStringGetTextDatum(request->trace);
	memset(nulls, false, Request_natts);
	nulls[Request_decided_at - 1] = request->decided_at == 0;
	nulls[Request_serial - 1] = request->serial == 0;
	nulls[Request_outcome - 1] = request->outcome == NULL;
	nulls[Request_key - 1] = request->key == NULL;
	nulls[Request_traceparent - 1] = request->trace == NULL;
}

static bool
written_by_us(TupleTableSlot *slot)
{
	bool		isnull;
	Datum		xmin = slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull);

	return !isnull && TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin));
}

bool
coupon_request_find(const pg_uuid_t *id, CouponRequest *request)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	uint32		child = pg_atomic_read_u32(&coupon_queue(&coupon_requests)->child);
	bool		found = false;
	ScanKeyData key;
	CouponScan	scan;

	coupon_key_uuid(&key, 1, BTEqualStrategyNumber, id);
	for (int i = 0; i < COUPON_QUEUE_CHILDREN && !found; i++, child = 1 - child)
	{
		coupon_scan_begin(&scan, catalog->requests[child], catalog->request_pkeys[child],
						  snapshot, &key, 1, false);
		if (coupon_scan_next(&scan, ForwardScanDirection))
		{
			found = true;
			coupon_request_read(scan.slot, child, request);
			request->own = written_by_us(scan.slot);
		}
		coupon_scan_end_unlock(&scan);
	}
	UnregisterSnapshot(snapshot);
	return found;
}

static void
set_user_keys(ScanKey keys, int64 campaign_id, text *user_id)
{
	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, campaign_id);
	coupon_key_text(&keys[1], 2, PointerGetDatum(user_id));
}

bool
coupon_request_find_newest(int64 campaign_id, text *user_id, CouponRequest *request)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		found = false;
	ScanKeyData keys[2];
	CouponScan	scan;

	set_user_keys(keys, campaign_id, user_id);
	for (uint32 child = 0; child < COUPON_QUEUE_CHILDREN; child++)
	{
		coupon_scan_begin(&scan, catalog->requests[child], catalog->request_user_keys[child],
						  snapshot, keys, 2, false);
		while (coupon_scan_next(&scan, ForwardScanDirection))
		{
			CouponRequest candidate;

			coupon_request_read(scan.slot, child, &candidate);
			if (!found || candidate.number > request->number)
				*request = candidate;
			found = true;
		}
		coupon_scan_end_unlock(&scan);
	}
	UnregisterSnapshot(snapshot);
	return found;
}

static int
compare_numbers(const void *a, const void *b)
{
	int64		x = ((const CouponRequest *) a)->number;
	int64		y = ((const CouponRequest *) b)->number;

	return x < y ? -1 : x > y;
}

static bool
is_among(int64 number, const int64 *numbers, int n)
{
	int			low = 0;
	int			high = n - 1;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (numbers[middle] < number)
			low = middle + 1;
		else
			high = middle;
	}
	return numbers[low] == number;
}

int
coupon_request_find_numbers(int64 campaign_id, const int64 *numbers, int nnumbers,
							uint32 child_mask, CouponRequest *requests)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	int			n = 0;
	int			children = 0;
	pg_uuid_t	bounds[2];
	ScanKeyData keys[2];
	CouponScan	scan;

	set_id(&bounds[0], campaign_id, numbers[0], 0);
	set_id(&bounds[1], campaign_id, numbers[nnumbers - 1], RANDOM_MASK);
	coupon_key_uuid(&keys[0], 1, BTGreaterEqualStrategyNumber, &bounds[0]);
	coupon_key_uuid(&keys[1], 1, BTLessEqualStrategyNumber, &bounds[1]);
	for (uint32 child = 0; child < COUPON_QUEUE_CHILDREN; child++)
	{
		int			before = n;

		if (!(child_mask & (1U << child)))
			continue;
		coupon_scan_begin(&scan, catalog->requests[child], catalog->request_pkeys[child],
						  snapshot, keys, 2, false);
		while (n < nnumbers && coupon_scan_next(&scan, ForwardScanDirection))
		{
			bool		isnull;
			int64		id;
			int64		number;

			if (!slot_attisnull(scan.slot, Request_decided_at))
				continue;

			/*
			 * one that was committed this moment is visible before it is
			 * ready
			 */
			split_id(DatumGetUUIDP(slot_getattr(scan.slot, Request_id, &isnull)), &id, &number);
			if (is_among(number, numbers, nnumbers))
				coupon_request_read(scan.slot, child, &requests[n++]);
		}
		coupon_scan_end_unlock(&scan);
		children += n > before;
	}
	UnregisterSnapshot(snapshot);
	if (children > 1)
		qsort(requests, n, sizeof(CouponRequest), compare_numbers);
	return n;
}

/* ---- the queue ---- */

static int64
last_number(int64 campaign_id)
{
	const CouponCatalog *catalog = coupon_catalog();
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	int64		last = 0;
	pg_uuid_t	bounds[2];
	ScanKeyData keys[2];
	CouponScan	scan;

	set_id(&bounds[0], campaign_id, 0, 0);
	set_id(&bounds[1], campaign_id, COUPON_MAX_REQUEST_NUMBER, RANDOM_MASK);
	coupon_key_uuid(&keys[0], 1, BTGreaterEqualStrategyNumber, &bounds[0]);
	coupon_key_uuid(&keys[1], 1, BTLessEqualStrategyNumber, &bounds[1]);
	for (int child = 0; child < COUPON_QUEUE_CHILDREN; child++)
	{
		coupon_scan_begin(&scan, catalog->requests[child], catalog->request_pkeys[child],
						  snapshot, keys, 2, false);
		if (coupon_scan_next(&scan, BackwardScanDirection))
		{
			CouponRequest request;

			coupon_request_read(scan.slot, child, &request);
			last = Max(last, request.number);
		}
		coupon_scan_end_unlock(&scan);
	}
	UnregisterSnapshot(snapshot);
	return last;
}

static void
read_found(TupleTableSlot *slot, CouponFound *found)
{
	bool		isnull;

	split_id(DatumGetUUIDP(slot_getattr(slot, Request_id, &isnull)), &found->id, &found->number);
}

static CouponLine *
lock_building(CouponQueue *queue, int64 campaign_id)
{
	return coupon_queue_lock_building(&coupon_requests, queue, campaign_id);
}

static bool
restore(CouponLine *line, const CouponFound *found)
{
	if (!coupon_line_restore(line, found->number))
		return false;
	coupon_line_set_live(line, found->number);
	coupon_line_set_ready(line, found->number);
	return true;
}

const CouponQueueKind coupon_requests = {
	.number = COUPON_REQUESTS,
	.lock = COUPON_LOCK_REQUESTS,
	.user_lock = COUPON_LOCK_REQUESTER,
	.final_column = Request_decided_at,
	.found_size = sizeof(CouponFound),
	.table = offsetof(CouponCatalog, request),
	.children = offsetof(CouponCatalog, requests),
	.user_keys = offsetof(CouponCatalog, request_user_keys),
	.last_number = last_number,
	.read = read_found,
	.lock_building = lock_building,
	.restore = restore
};
