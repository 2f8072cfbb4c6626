/*
 * stock_build.c
 *	  Making stock maps: from coupon.shard the ranges, from the index the bits.
 *
 * A shard is read from the index with a dirty snapshot: rows of running
 * transactions count as taken, as do units that its row calls withdrawn.  Nobody takes from a shard that is being built,
 * so all that can change meanwhile is that a deleted row's unit returns; that
 * marks the shard stale, and the builder reads again.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/tableam.h"
#include "access/visibilitymap.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/catalog.h"
#include "base/fault.h"
#include "base/intent.h"
#include "base/random.h"
#include "base/stat.h"
#include "sale/stock.h"

/* how often to look whether another session has built a shard, if nobody says so */
#define BUILDING_SLICE_MS	10

/* ---- intents ---- */

/* A shard being built: somebody else may. */
static void
resolve_build(CouponIntent *intent, bool committed)
{
	pg_atomic_write_u32(&intent->shard->state, 0);
	wake_waiters(stock_of(intent->campaign));
}

/* A shard being compared with the index: in vain, if not committed. */
static void
resolve_check(CouponIntent *intent, bool committed)
{
	uint32		state = SHARD_BEING_CHECKED;

	if (!committed)
		pg_atomic_write_u32(&intent->shard->unchecked, SHARD_UNCHECKED);
	else
		/* unless that was wanted again meanwhile */
		(void) pg_atomic_compare_exchange_u32(&intent->shard->unchecked, &state, SHARD_CHECKED);
	pg_atomic_fetch_and_u32(&intent->shard->state, ~SHARD_CHECKING);
}

/* Shards that nobody else knows of yet: gone with the transaction's shards. */
static void
resolve_growth(CouponIntent *intent, bool committed)
{
	if (!committed)
	{
		CouponStock *stock = stock_of(intent->campaign);
		uint32		nshards = count_shards(stock);

		pg_atomic_write_u32(&stock->nshards, intent->number);
		for (uint32 i = intent->number; i < nshards; i++)
			free_bits(get_shard(stock, i));
	}
	coupon_slot_unpin(intent->campaign);
}

/* ---- making and growing a map ---- */

typedef struct ShardRow
{
	int64		first_serial;
	int64		last_serial;
} ShardRow;

/* Reads the rows of shards first..last - 1. */
static ShardRow *
read_shard_rows(int64 campaign_id, uint32 first, uint32 last)
{
	const CouponCatalog *catalog = coupon_catalog();
	ShardRow   *rows = palloc((last - first) * sizeof(ShardRow));
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	uint32		nread = 0;
	ScanKeyData keys[2];
	CouponScan	scan;
	bool		isnull;

	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, campaign_id);
	coupon_key_int32(&keys[1], 2, BTGreaterEqualStrategyNumber, first);
	coupon_scan_begin(&scan, catalog->shard, catalog->shard_pkey, snapshot, keys, 2, false);
	while (first + nread < last && coupon_scan_next(&scan, ForwardScanDirection))
	{
		ShardRow   *row = &rows[nread];

		row->first_serial = DatumGetInt64(slot_getattr(scan.slot, Shard_first_serial, &isnull));
		row->last_serial = DatumGetInt64(slot_getattr(scan.slot, Shard_last_serial, &isnull));
		if (DatumGetInt32(slot_getattr(scan.slot, Shard_number, &isnull)) != (int32) (first + nread) ||
			row->last_serial < row->first_serial ||
			row->last_serial - row->first_serial >= COUPON_MAX_STOCK)
			break;
		nread++;
	}
	coupon_scan_end(&scan);
	UnregisterSnapshot(snapshot);

	if (first + nread < last)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("shards of campaign %lld are damaged", (long long) campaign_id),
				 errdetail("Expected %u shards without gaps, found %u.", last, first + nread),
				 errhint("Compare with SELECT * FROM coupon_verify(%lld).", (long long) campaign_id)));
	return rows;
}

static dsa_pointer
make_stock(uint32 base)
{
	dsa_pointer pointer = coupon_area_allocate(sizeof(CouponStock));
	CouponStock *stock = dsa_get_address(coupon_area, pointer);

	pg_atomic_init_u64(&stock->supply, 0);
	pg_atomic_init_u64(&stock->sold_out_at, NEVER_SOLD_OUT);
	SpinLockInit(&stock->lapse_lock);
	stock->holds_noted = 0;
	pg_atomic_init_u64(&stock->lapse_at, (uint64) DT_NOBEGIN);
	pg_atomic_init_u32(&stock->nshards, 0);
	pg_atomic_init_u32(&stock->filter_state, FILTER_UNTRIED);
	pg_atomic_init_u64(&stock->filter_missed, 0);
	coupon_random(&stock->birth, sizeof(stock->birth));
	pg_atomic_init_u32(&stock->wanted, 0);
	pg_atomic_init_u64(&stock->low_water, NEVER_FETCHED);
	pg_atomic_init_u64(&stock->fetch_at, 0);
	pg_atomic_init_u64(&stock->gone_at, NEVER_SOLD_OUT);
	pg_atomic_init_u64(&stock->gone_until, 0);
	ConditionVariableInit(&stock->changed);
	stock->base = Max(base, 1);
	return pointer;
}

/* Installs a pointer if nobody has yet; frees it otherwise. */
static void
install(CouponCampaign *campaign, dsa_pointer *place, dsa_pointer pointer)
{
	LWLock	   *lock = campaign->partition;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (!DsaPointerIsValid(*place))
	{
		*place = pointer;
		pointer = InvalidDsaPointer;
	}
	LWLockRelease(lock);
	if (DsaPointerIsValid(pointer))
		dsa_free(coupon_area, pointer);
}

/* Makes the map know the shards that the definition knows. */
static void
grow_stock(CouponCampaign *campaign, CouponStock *stock, const CouponDefinition *def)
{
	uint32		first = count_shards(stock);
	uint32		last = def->nshards;
	ShardRow   *rows = read_shard_rows(def->campaign_id, first, last);
	LWLock	   *lock = campaign->partition;

	for (int segment = 0; segment < MAX_SEGMENTS; segment++)
	{
		uint32		start = segment == 0 ? 0 : stock->base << (segment - 1);
		uint32		room = segment == 0 ? stock->base : start;

		if (start >= last)
			break;
		if (!DsaPointerIsValid(stock->segments[segment]))
			install(campaign, &stock->segments[segment],
					coupon_area_allocate(mul_size(room, SHARD_STRIDE)));
	}

	/* what only this transaction knows must go when it aborts */
	coupon_intent_reserve(1);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (count_shards(stock) == first)
	{
		for (uint32 i = first; i < last; i++)
		{
			CouponShard *shard = get_shard(stock, i);

			shard->first_serial = rows[i - first].first_serial;
			shard->units = rows[i - first].last_serial - rows[i - first].first_serial + 1;
			shard->number = i;
			pg_atomic_init_u32(&shard->state, 0);
			pg_atomic_init_u32(&shard->free, 0);
			pg_atomic_init_u32(&shard->in_flight, 0);
			pg_atomic_init_u32(&shard->cursor, 0);
			pg_atomic_init_u32(&shard->unchecked, SHARD_UNCHECKED);
		}
		pg_write_barrier();
		pg_atomic_write_u32(&stock->nshards, last);
		pg_atomic_fetch_add_u64(&stock->supply, 1);
		if (def->created)
		{
			pg_atomic_fetch_add_u32(&campaign->pins, 1);
			coupon_intent_push(resolve_growth, campaign, NULL, first);
		}
	}
	LWLockRelease(lock);
	pfree(rows);
}

CouponStock *
coupon_stock_open(CouponCampaign *campaign, const CouponDefinition *def)
{
	CouponStock *stock;

	if (!DsaPointerIsValid(campaign->stock))
		install(campaign, &campaign->stock, make_stock(def->nshards));
	stock = stock_of(campaign);
	while (count_shards(stock) < (uint32) def->nshards)
		grow_stock(campaign, stock, def);
	return stock;
}

/* ---- reading the index ---- */

/* Adds those of a column of a shard's row to the bits. */
static void
add_column(TupleTableSlot *shard, AttrNumber column, uint64 *bits, int nwords)
{
	bool		isnull;
	Datum		value = slot_getattr(shard, column, &isnull);
	bytea	   *units;
	int			n;

	if (isnull)
		return;
	units = DatumGetByteaPP(value);
	n = Min((int) VARSIZE_ANY_EXHDR(units), nwords * 8);
	for (int i = 0; i < n; i++)
		bits[i / 8] |= (uint64) (uint8) VARDATA_ANY(units)[i] << (i % 8 * 8);
}

static void
add_withdrawn(CouponScan *scan, uint64 *bits, int nwords)
{
	while (coupon_scan_next(scan, ForwardScanDirection))
	{
		add_column(scan->slot, Shard_withdrawn, bits, nwords);
		add_column(scan->slot, Shard_away, bits, nwords);
	}
}

/* Sets the bits of units that the snapshot calls withdrawn; false if a row was missed. */
static bool
scan_withdrawn(int64 campaign_id, CouponShard *shard, Snapshot snapshot, uint64 *bits)
{
	const CouponCatalog *catalog = coupon_catalog();
	ScanKeyData keys[2];
	CouponScan	scan;

	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, campaign_id);
	coupon_key_int32(&keys[1], 2, BTEqualStrategyNumber, shard->number);
	coupon_scan_begin(&scan, catalog->shard, catalog->shard_pkey, snapshot, keys, 2, false);
	add_withdrawn(&scan, bits, count_words(shard));
	coupon_scan_end(&scan);
	return !scan.missed;
}

/* Sets the bits of units that are withdrawn, by who has committed or in this transaction. */
static void
read_withdrawn(int64 campaign_id, CouponShard *shard, uint64 *bits)
{
	Snapshot	latest = RegisterSnapshot(GetLatestSnapshot());

	(void) scan_withdrawn(campaign_id, shard, latest, bits);
	UnregisterSnapshot(latest);
}

/* The same with those that others are withdrawing. */
static void
read_all_withdrawn(int64 campaign_id, CouponShard *shard, uint64 *bits)
{
	SnapshotData dirty;

	InitDirtySnapshot(dirty);
	/* what was updated in this moment is committed by now */
	if (!scan_withdrawn(campaign_id, shard, &dirty, bits))
		read_withdrawn(campaign_id, shard, bits);
}

bool
coupon_stock_is_withdrawn(CouponCampaign *campaign, const CouponUnit *unit)
{
	uint64	   *bits = palloc0(count_words(unit->shard) * sizeof(uint64));
	bool		withdrawn;

	read_withdrawn(campaign->key.campaign_id, unit->shard, bits);
	withdrawn = (bits[unit->bit / 64] & (UINT64CONST(1) << (unit->bit % 64))) != 0;
	pfree(bits);
	return withdrawn;
}

/*
 * Sets the bits first to last of a shard whose serials have a live or
 * undecided row, and clears all others; returns the number of serials with
 * nothing but a row that a running transaction has inserted.  (A row being
 * updated has an older version that is decided, and one being deleted is in
 * flight in the map.)  Pages that the visibility map calls all-visible are not
 * looked at.
 */
int
coupon_stock_read_rows(int64 campaign_id, CouponShard *shard, int32 first, int32 last, uint64 *bits)
{
	const CouponCatalog *catalog = coupon_catalog();
	SnapshotData dirty;
	ScanKeyData keys[3];
	CouponScan	scan;
	ItemPointer tid;
	Buffer		vmbuffer = InvalidBuffer;
	int64		last_serial = 0;
	bool		last_undecided = false;
	int			undecided = 0;

	memset(bits, 0, count_words(shard) * sizeof(uint64));

	InitDirtySnapshot(dirty);
	coupon_key_int64(&keys[0], 1, BTEqualStrategyNumber, campaign_id);
	coupon_key_int64(&keys[1], 2, BTGreaterEqualStrategyNumber, shard->first_serial + first);
	coupon_key_int64(&keys[2], 2, BTLessEqualStrategyNumber, shard->first_serial + last);
	coupon_scan_begin(&scan, catalog->issuance, catalog->issuance_serial_key,
					  &dirty, keys, 3, true);

	while ((tid = index_getnext_tid(scan.scan, ForwardScanDirection)) != NULL)
	{
		bool		isnull;
		bool		is_undecided = false;
		int64		serial;
		int64		bit;

		CHECK_FOR_INTERRUPTS();

		if (!VM_ALL_VISIBLE(scan.heap, ItemPointerGetBlockNumber(tid), &vmbuffer))
		{
			if (!index_fetch_heap(scan.scan, scan.slot))
				continue;
			ExecClearTuple(scan.slot);
			is_undecided = TransactionIdIsValid(dirty.xmin);
		}
		serial = DatumGetInt64(index_getattr(scan.scan->xs_itup, 2,
											 scan.scan->xs_itupdesc, &isnull));
		bit = serial - shard->first_serial;
		bits[bit / 64] |= UINT64CONST(1) << (bit % 64);

		/* versions of one serial are neighbours */
		if (serial != last_serial)
			undecided += is_undecided;
		else if (last_undecided && !is_undecided)
			undecided--;
		last_undecided = is_undecided && (serial != last_serial || last_undecided);
		last_serial = serial;
	}

	if (BufferIsValid(vmbuffer))
		ReleaseBuffer(vmbuffer);
	coupon_scan_end(&scan);
	return undecided;
}

/* The same with the bits of units that are withdrawn. */
static int
read_index(int64 campaign_id, CouponShard *shard, int32 first, int32 last, uint64 *bits)
{
	int			undecided = coupon_stock_read_rows(campaign_id, shard, first, last, bits);

	read_all_withdrawn(campaign_id, shard, bits);
	return undecided;
}

void
coupon_stock_build_shard(CouponCampaign *campaign, CouponStock *stock, CouponShard *shard)
{
	int			nwords = count_words(shard);
	uint64	   *bits = palloc(nwords * sizeof(uint64));
	uint32		state = 0;
	uint32		free;

	coupon_intent_reserve(1);
	if (!pg_atomic_compare_exchange_u32(&shard->state, &state, SHARD_BUILDING))
	{
		pfree(bits);
		return;
	}
	coupon_intent_push(resolve_build, campaign, shard, 0);

	if (!DsaPointerIsValid(shard->bits))
		shard->bits = coupon_area_allocate(nwords * sizeof(uint64));

	do
	{
		pg_atomic_write_u32(&shard->state, SHARD_BUILDING);
		COUPON_FAULT(shard_building);
		(void) read_index(campaign->key.campaign_id, shard, 0, shard->units - 1, bits);
		/* what lies beyond the last unit is never free */
		if (shard->units % 64 != 0)
			bits[nwords - 1] |= PG_UINT64_MAX << (shard->units % 64);

		COUPON_FAULT(shard_read);
		free = nwords * 64;
		for (int i = 0; i < nwords; i++)
		{
			pg_atomic_init_u64(&get_words(shard)[i], bits[i]);
			free -= pg_popcount64(bits[i]);
		}
		pg_atomic_write_u32(&shard->free, free);
		pg_atomic_write_u32(&shard->unchecked, SHARD_UNCHECKED);
		state = SHARD_BUILDING;
	} while (!pg_atomic_compare_exchange_u32(&shard->state, &state, SHARD_READY));

	coupon_intent_forget(coupon_intent_find(resolve_build, campaign, shard, 0));
	pg_atomic_fetch_add_u64(&stock->supply, 1);
	wake_waiters(stock);
	coupon_stat_tally(COUPON_TALLY_MAP_BUILDS);
	pfree(bits);
}

void
coupon_stock_make_ready(CouponCampaign *campaign, CouponStock *stock, CouponShard *shard)
{
	while (!is_ready(shard))
	{
		coupon_stock_build_shard(campaign, stock, shard);
		if (is_ready(shard))
			break;
		/* another session is at it */
		(void) ConditionVariableTimedSleep(&stock->changed, BUILDING_SLICE_MS,
										   coupon_stock_wait_event());
		pg_memory_barrier();	/* who wakes looks for waiters after its
								 * change */
	}
	ConditionVariableCancelSleep();
}

int
coupon_stock_recheck(CouponCampaign *campaign, CouponStock *stock, CouponShard *shard,
					 int32 first, int32 last)
{
	Size		size = count_words(shard) * sizeof(uint64);
	uint64	   *rows = palloc(size);
	uint64	   *taken = palloc(size);
	bool		whole = first == 0 && last == shard->units - 1;
	uint64		supply = coupon_stock_supply(stock);
	uint32		state = SHARD_READY;
	int			undecided = 1;	/* not settled yet */

	coupon_intent_reserve(1);
	if (pg_atomic_compare_exchange_u32(&shard->state, &state, SHARD_READY | SHARD_CHECKING))
	{
		coupon_intent_push(resolve_check, campaign, shard, 0);
		coupon_stat_tally(COUPON_TALLY_MAP_CHECKS);
		if (whole)
			pg_atomic_write_u32(&shard->unchecked, SHARD_BEING_CHECKED);

		/*
		 * Units that are taken, while none is in flight, have a row.  Those
		 * that have none are free, if no unit has come back until the index
		 * has been read: then it is these same units that are taken.
		 */
		for (int i = 0; i < count_words(shard); i++)
			taken[i] = pg_atomic_read_u64(&get_words(shard)[i]);
		COUPON_FAULT(shard_copied);
		pg_read_barrier();
		if (pg_atomic_read_u32(&shard->in_flight) == 0)
		{
			int			found = read_index(campaign->key.campaign_id, shard, first, last, rows);

			COUPON_FAULT(shard_checked);
			pg_read_barrier();
			if (pg_atomic_read_u32(&shard->in_flight) == 0 &&
				pg_atomic_read_u64(&stock->supply) == supply)
			{
				undecided = found;
				for (int32 bit = first; bit <= last; bit++)
				{
					if (taken[bit / 64] & ~rows[bit / 64] & (UINT64CONST(1) << (bit % 64)))
						clear_bit(stock, shard, bit);
				}
			}
		}
		coupon_intent_finish(coupon_intent_find(resolve_check, campaign, shard, 0),
							 undecided == 0);
		if (pg_atomic_read_u64(&stock->supply) != supply)
			wake_waiters(stock);
	}
	pfree(taken);
	pfree(rows);
	return undecided;
}
