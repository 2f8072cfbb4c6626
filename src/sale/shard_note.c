/*
 * shard_note.c
 *	  Which units of a shard are withdrawn, or away at another node: a bit for
 *	  each, in the shard's row.
 *
 * The bits are read, changed and written back under the lock on the campaign's
 * row, which counts them, too; so no two change them at a time, and at REPEATABLE
 * READ who has waited for another one fails.  A bit is only ever set that was not,
 * and cleared that was: so no unit is withdrawn twice, leaves twice or arrives twice.
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "miscadmin.h"

#include "base/errors.h"
#include "base/spi.h"
#include "base/trigger.h"
#include "sale/shard_note.h"

PG_FUNCTION_INFO_V1(coupon_shard_withdrawn);

/* Is this session's own code writing the bits? */
static bool noting = false;

typedef struct Notes
{
	CouponStatement select;
	CouponStatement update;
	CouponStatement count;
	const char *already;		/* of a unit that is so before */
	const char *not_yet;
} Notes;

#define NOTES(column, already, not_yet) { \
	{"SELECT shard, first_serial, last_serial, " column " FROM coupon.shard" \
	" WHERE campaign_id = $1 AND last_serial >= $2 AND first_serial <= $3 ORDER BY shard", \
	3, {INT8OID, INT8OID, INT8OID}}, \
	{"UPDATE coupon.shard SET " column " = $3 WHERE campaign_id = $1 AND shard = $2", \
	3, {INT8OID, INT4OID, BYTEAOID}}, \
	{"UPDATE coupon.campaign SET " column " = " column " + $2 WHERE campaign_id = $1", \
	2, {INT8OID, INT8OID}}, \
	already, not_yet}

/* By CouponNote. */
static Notes all_notes[] = {
	NOTES("withdrawn", "unit is withdrawn already", "unit is not withdrawn"),
	NOTES("away", "unit is not at this node", "unit is at this node already")
};

/*
 * coupon_shard_withdrawn() - row trigger on coupon.shard
 *
 * Shared memory would not learn of what others note there.
 */
Datum
coupon_shard_withdrawn(PG_FUNCTION_ARGS)
{
	(void) coupon_trigger_after_row(fcinfo, "shard_withdrawn", COUPON_ON_UPDATE, "shard", NULL);
	if (!noting)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("units cannot be withdrawn or sent away by hand"),
				 errdetail("Sessions may be issuing them."),
				 errhint("Use coupon_campaign_reduce_stock() or coupon_units_withdraw().")));
	return PointerGetDatum(NULL);
}

int64
coupon_ranges_count(const CouponRange *ranges, int n)
{
	int64		units = 0;

	for (int i = 0; i < n; i++)
		units += ranges[i].last - ranges[i].first + 1;
	return units;
}

CouponRange *
coupon_ranges_of(const CouponUnit *units, int nunits, int *n)
{
	CouponRange *ranges = palloc_extended(mul_size(Max(nunits, 1), sizeof(CouponRange)), MCXT_ALLOC_HUGE);

	*n = 0;
	for (int i = 0; i < nunits; i++)
	{
		if (*n > 0 && ranges[*n - 1].last == units[i].serial - 1)
			ranges[*n - 1].last++;
		else
		{
			ranges[*n].first = ranges[*n].last = units[i].serial;
			(*n)++;
		}
	}
	return ranges;
}

static void
change_bits(const Notes *notes, int64 campaign_id, uint8 *bits, int64 first_serial, int64 first, int64 last, bool set)
{
	for (int64 serial = first; serial <= last; serial++)
	{
		int64		bit = serial - first_serial;
		uint8		mask = 1 << (bit % 8);

		if (((bits[bit / 8] & mask) != 0) == set)
			ereport(ERROR,
					(errcode(ERRCODE_CHECK_VIOLATION),
					 errmsg_internal("%s", set ? notes->already : notes->not_yet),
					 errdetail("Campaign %lld, serial %lld.", (long long) campaign_id, (long long) serial),
					 errhint("Compare the nodes with coupon_cluster_verify(), or see what coupon_verify() finds.")));
		bits[bit / 8] ^= mask;
	}
}

/* A copy of a shard's bits that can be changed. */
static bytea *
copy_bits(Datum before, bool isnull, int nbytes)
{
	bytea	   *bits = palloc0(VARHDRSZ + nbytes);

	SET_VARSIZE(bits, VARHDRSZ + nbytes);
	if (!isnull)
	{
		bytea	   *old = DatumGetByteaPP(before);

		memcpy(VARDATA(bits), VARDATA_ANY(old), Min(nbytes, (int) VARSIZE_ANY_EXHDR(old)));
	}
	return bits;
}

static void
change_shards(Notes *notes, int64 campaign_id, const CouponRange *ranges, int n, bool set)
{
	Datum		values[3] = {Int64GetDatum(campaign_id), Int64GetDatum(ranges[0].first), Int64GetDatum(ranges[n - 1].last)};
	uint64		nrows = coupon_spi_execute(&notes->select, SPI_OK_SELECT, values, NULL);
	SPITupleTable *rows = SPI_tuptable;
	int			at = 0;
	int64		from = ranges[0].first;

	for (uint64 i = 0; i < nrows && at < n; i++)
	{
		bool		isnull;
		HeapTuple	row = rows->vals[i];
		int64		first = DatumGetInt64(SPI_getbinval(row, rows->tupdesc, 2, &isnull));
		int64		last = DatumGetInt64(SPI_getbinval(row, rows->tupdesc, 3, &isnull));
		Datum		before = SPI_getbinval(row, rows->tupdesc, 4, &isnull);
		bytea	   *bits;

		CHECK_FOR_INTERRUPTS();
		if (from > last)
			continue;
		if (from < first)
			break;
		bits = copy_bits(before, isnull, (last - first) / 8 + 1);
		while (at < n && from >= first && from <= last)
		{
			int64		to = Min(ranges[at].last, last);

			change_bits(notes, campaign_id, (uint8 *) VARDATA(bits), first, from, to, set);
			from = to + 1;
			if (to == ranges[at].last && ++at < n)
				from = ranges[at].first;
		}
		values[1] = SPI_getbinval(row, rows->tupdesc, 1, &isnull);
		values[2] = PointerGetDatum(bits);
		coupon_spi_change(&notes->update, SPI_OK_UPDATE, values, NULL, 1);
		pfree(bits);
	}
	if (at < n)
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_UNKNOWN_UNIT),
				 errmsg("campaign has no such unit"),
				 errdetail("Campaign %lld, serial %lld.", (long long) campaign_id, (long long) from),
				 errhint("Compare the nodes with coupon_cluster_verify(), or see what coupon_verify() finds.")));
	SPI_freetuptable(rows);
}

void
coupon_shard_note(int64 campaign_id, CouponNote note, const CouponRange *ranges, int n, bool set)
{
	Notes	   *notes = &all_notes[note];
	Datum		values[2] = {Int64GetDatum(campaign_id), Int64GetDatum(coupon_ranges_count(ranges, n) * (set ? 1 : -1))};

	if (n == 0)
		return;
	noting = true;
	PG_TRY();
	{
		change_shards(notes, campaign_id, ranges, n, set);
	}
	PG_FINALLY();
	{
		noting = false;
	}
	PG_END_TRY();
	coupon_spi_change(&notes->count, SPI_OK_UPDATE, values, NULL, 1);
}
