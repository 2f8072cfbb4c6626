/*
 * send.c
 *	  Units that leave for other nodes of a cluster, and that arrive from them.
 *
 * A node of a cluster knows all serials of a campaign, and each shard's row says
 * which of them are away: at another node, or on their way to one.  A unit that is
 * away cannot be issued here, by constraint, and is taken in the stock map, which
 * is made of the index and of these notes (stock_build.c).
 *
 * Free units are sent away by taking them in the stock map, as whoever issues
 * them would, and by noting that in their shards' rows, in one transaction; if it
 * aborts they are free again.  Then the index is looked at: a map that is wrong
 * towards free must not send a unit away that has a row.  Those who issue look at
 * the shard once their row is in the index (coupon_away_refuse), so whatever the
 * map says, one of the two meets the other.
 *
 * A unit that arrives is in flight until the transaction ends, and then free.
 * A bit is only ever set that was not, and cleared that was: so a unit neither
 * leaves twice nor arrives twice.
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"

#include "base/arguments.h"
#include "base/catalog.h"
#include "base/errors.h"
#include "base/fault.h"
#include "base/spi.h"
#include "base/table_writer.h"
#include "outbox/payload.h"
#include "sale/away.h"
#include "sale/stock.h"
#include "sale/take.h"

#define MAX_CUT		INT64CONST(100000)	/* units at a time: each is an intent */

PG_FUNCTION_INFO_V1(coupon_units_cut);
PG_FUNCTION_INFO_V1(coupon_units_leave);
PG_FUNCTION_INFO_V1(coupon_units_arrive);
PG_FUNCTION_INFO_V1(coupon_units_born);
PG_FUNCTION_INFO_V1(coupon_units_lose);

/* Serials first to last. */
typedef struct Range
{
	int64		first;
	int64		last;
} Range;

/* ---- the notes in the shards' rows ---- */

/* Sets or clears the bits of a range; ERROR if one was so before. */
static void
change_bits(int64 campaign_id, uint8 *bits, int64 first_serial, int64 first, int64 last, bool away)
{
	for (int64 serial = first; serial <= last; serial++)
	{
		int64		bit = serial - first_serial;
		uint8		mask = 1 << (bit % 8);

		if (((bits[bit / 8] & mask) != 0) == away)
			ereport(ERROR,
					(errcode(ERRCODE_CHECK_VIOLATION),
					 away ? errmsg("unit is not at this node") : errmsg("unit is at this node already"),
					 errdetail("Campaign %lld, serial %lld.", (long long) campaign_id, (long long) serial),
					 errhint("Compare the nodes with coupon_cluster_verify().")));
		bits[bit / 8] ^= mask;
	}
}

/* The same in the rows of the shards that ranges in their order lie in. */
static void
change_shards(int64 campaign_id, const Range *ranges, int n, bool away)
{
	static CouponStatement select = {
		"SELECT shard, first_serial, last_serial, away FROM coupon.shard"
		" WHERE campaign_id = $1 AND last_serial >= $2 AND first_serial <= $3 ORDER BY shard",
		3, {INT8OID, INT8OID, INT8OID}
	};
	static CouponStatement update = {
		"UPDATE coupon.shard SET away = $3 WHERE campaign_id = $1 AND shard = $2",
		3, {INT8OID, INT4OID, BYTEAOID}
	};
	Datum		values[3] = {Int64GetDatum(campaign_id), Int64GetDatum(ranges[0].first), Int64GetDatum(ranges[n - 1].last)};
	uint64		nrows = coupon_spi_execute(&select, SPI_OK_SELECT, values, NULL);
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
		int			nbytes = (last - first) / 8 + 1;
		bytea	   *bits;

		CHECK_FOR_INTERRUPTS();
		if (from > last)
			continue;
		if (from < first)
			break;
		bits = palloc0(VARHDRSZ + nbytes);
		SET_VARSIZE(bits, VARHDRSZ + nbytes);
		if (!isnull)
		{
			bytea	   *old = DatumGetByteaPP(before);

			memcpy(VARDATA(bits), VARDATA_ANY(old), Min(nbytes, (int) VARSIZE_ANY_EXHDR(old)));
		}
		while (at < n && from >= first && from <= last)
		{
			int64		to = Min(ranges[at].last, last);

			change_bits(campaign_id, (uint8 *) VARDATA(bits), first, from, to, away);
			from = to + 1;
			if (to == ranges[at].last && ++at < n)
				from = ranges[at].first;
		}
		values[1] = SPI_getbinval(row, rows->tupdesc, 1, &isnull);
		values[2] = PointerGetDatum(bits);
		if (coupon_spi_execute(&update, SPI_OK_UPDATE, values, NULL) != 1)
			elog(ERROR, "a shard of campaign %lld is not there", (long long) campaign_id);
		pfree(bits);
	}
	if (at < n)
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_UNKNOWN_UNIT),
				 errmsg("campaign has no such unit"),
				 errdetail("Campaign %lld, serial %lld.", (long long) campaign_id, (long long) from),
				 errhint("Compare the nodes with coupon_cluster_verify().")));
	SPI_freetuptable(rows);
}

static int64
count_units(const Range *ranges, int n)
{
	int64		units = 0;

	for (int i = 0; i < n; i++)
		units += ranges[i].last - ranges[i].first + 1;
	return units;
}

/* Notes that units leave, or arrive, in the shards' rows and in the campaign's. */
static void
note(int64 campaign_id, const Range *ranges, int n, bool away)
{
	static CouponStatement count = {
		"UPDATE coupon.campaign SET away = away + $2 WHERE campaign_id = $1",
		2, {INT8OID, INT8OID}
	};
	Datum		values[2] = {Int64GetDatum(campaign_id), Int64GetDatum(count_units(ranges, n) * (away ? 1 : -1))};

	coupon_shard_noting = true;
	PG_TRY();
	{
		change_shards(campaign_id, ranges, n, away);
	}
	PG_FINALLY();
	{
		coupon_shard_noting = false;
	}
	PG_END_TRY();
	(void) coupon_spi_execute(&count, SPI_OK_UPDATE, values, NULL);
}

/* ---- arguments and results ---- */

/* These functions are called by our own: none of their arguments is null. */
static int64
get_campaign(FunctionCallInfo fcinfo)
{
	static const char *const names[] = {"campaign_id", "serials", "last_serial", "free"};

	for (int i = 0; i < PG_NARGS(); i++)
		coupon_require_argument(fcinfo, i, names[i]);
	return PG_GETARG_INT64(0);
}

/* Pairs of serials, first and last, in their order and apart. */
static Range *
get_ranges(FunctionCallInfo fcinfo, int number, int *n)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(number);
	Datum	   *elements;
	bool	   *nulls;
	int			nelements;
	Range	   *ranges;

	deconstruct_array(array, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
					  &elements, &nulls, &nelements);
	coupon_check_no_nulls("serials", nulls, nelements);
	*n = nelements / 2;
	ranges = palloc(Max(*n, 1) * sizeof(Range));
	for (int i = 0; i < *n; i++)
	{
		ranges[i].first = DatumGetInt64(elements[2 * i]);
		ranges[i].last = DatumGetInt64(elements[2 * i + 1]);
		if (ranges[i].last < ranges[i].first || ranges[i].first < 1 || ranges[i].last > COUPON_MAX_STOCK ||
			(i > 0 && ranges[i].first <= ranges[i - 1].last))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("serials are no ranges in their order"),
					 errdetail("Range %lld to %lld.", (long long) ranges[i].first, (long long) ranges[i].last),
					 errhint("They are what another node has sent.")));
	}
	return ranges;
}

static Datum
form_ranges(const Range *ranges, int n)
{
	Datum	   *elements = palloc(Max(n, 1) * 2 * sizeof(Datum));

	for (int i = 0; i < n; i++)
	{
		elements[2 * i] = Int64GetDatum(ranges[i].first);
		elements[2 * i + 1] = Int64GetDatum(ranges[i].last);
	}
	return PointerGetDatum(construct_array(elements, 2 * n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* ---- sending units away ---- */

/* Units in their order as ranges; their number is written to *n. */
static Range *
ranges_of(const CouponUnit *units, int nunits, int *n)
{
	Range	   *ranges = palloc(Max(nunits, 1) * sizeof(Range));

	*n = 0;
	for (int i = 0; i < nunits; i++)
	{
		if (*n > 0 && ranges[*n - 1].last == units[i].serial - 1)
			ranges[*n - 1].last++;
		else
			ranges[(*n)++] = (Range)
		{
			units[i].serial, units[i].serial
		};
	}
	return ranges;
}

/*
 * coupon.units_cut(campaign_id, units)
 *
 * Sends up to so many free units away; returns which, as pairs of serials.
 */
Datum
coupon_units_cut(PG_FUNCTION_ARGS)
{
	int64		campaign_id = get_campaign(fcinfo);
	MemoryContext caller = CurrentMemoryContext;
	int			wanted = Max(Min(PG_GETARG_INT64(1), MAX_CUT), 0);
	CouponCampaignRow row;
	CouponCampaign *campaign;
	const CouponDefinition *def;
	CouponTableWriter *table;
	CouponShortage why;
	CouponUnit *units;
	Range	   *ranges;
	Datum		result;
	int			taken;
	int			n;

	coupon_shmem_attach();
	coupon_spi_connect();
	coupon_campaign_lock_row(campaign_id, true, &row);
	campaign = coupon_campaign_enter(campaign_id, &def);
	units = palloc(Max(wanted, 1) * sizeof(CouponUnit));
	table = coupon_writer_open(coupon_catalog()->issuance, COUPON_DELETE);
	taken = def->unchecked ? 0 : coupon_take(campaign, def, table, COUPON_TO_SEND, wanted, 0, units, &why);
	coupon_writer_close(table);

	qsort(units, taken, sizeof(CouponUnit), coupon_compare_units);
	taken = coupon_take_drop_issued(campaign, units, taken);
	ranges = ranges_of(units, taken, &n);
	if (n > 0)
	{
		note(campaign_id, ranges, n, true);
		COUPON_FAULT(units_sent);
		/* the notes are there for all to see, and so are the rows by now */
		if (coupon_take_drop_issued(campaign, units, taken) != taken)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("a unit was issued that was about to be sent away"),
					 errdetail("Campaign %lld.", (long long) campaign_id),
					 errhint("Try again.")));
	}
	coupon_campaign_leave(campaign);
	/* what is allocated here ends with SPI */
	MemoryContextSwitchTo(caller);
	result = form_ranges(ranges, n);
	coupon_spi_finish();
	PG_RETURN_DATUM(result);
}

/* Deletes the issuances of ranges, whose units are not free then; returns how many. */
static int64
delete_issuances(int64 campaign_id, const Range *ranges, int n)
{
	static CouponStatement delete = {
		"DELETE FROM coupon.issuance WHERE campaign_id = $1 AND serial BETWEEN $2 AND $3",
		3, {INT8OID, INT8OID, INT8OID}
	};
	Datum		values[3] = {Int64GetDatum(campaign_id)};
	volatile int64 deleted = 0;

	coupon_away_leaving = true;
	PG_TRY();
	{
		for (int i = 0; i < n; i++)
		{
			values[1] = Int64GetDatum(ranges[i].first);
			values[2] = Int64GetDatum(ranges[i].last);
			deleted += coupon_spi_execute(&delete, SPI_OK_DELETE, values, NULL);
		}
	}
	PG_FINALLY();
	{
		coupon_away_leaving = false;
	}
	PG_END_TRY();
	return deleted;
}

/*
 * coupon.units_leave(campaign_id, serials)
 *
 * Deletes the issuances of these serials, whose units go with them.
 */
Datum
coupon_units_leave(PG_FUNCTION_ARGS)
{
	int64		campaign_id = get_campaign(fcinfo);
	CouponCampaignRow row;
	int64		deleted;
	int			n;
	Range	   *ranges = get_ranges(fcinfo, 1, &n);

	coupon_shmem_attach();
	if (n == 0)
		PG_RETURN_VOID();
	coupon_spi_connect();
	coupon_campaign_lock_row(campaign_id, true, &row);
	deleted = delete_issuances(campaign_id, ranges, n);
	if (deleted != count_units(ranges, n))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("an issuance that was to go to another node is gone"),
				 errdetail("Campaign %lld: %lld issuances of %lld.", (long long) campaign_id,
						   (long long) deleted, (long long) count_units(ranges, n)),
				 errhint("Try again.")));
	note(campaign_id, ranges, n, true);
	coupon_spi_finish();
	PG_RETURN_VOID();
}

/* ---- units that arrive ---- */

/* They are free when the transaction commits. */
static void
set_free(int64 campaign_id, const Range *ranges, int n)
{
	const CouponDefinition *def;
	CouponCampaign *campaign = coupon_campaign_enter(campaign_id, &def);
	CouponStock *stock = coupon_stock_open(campaign, def);

	for (int i = 0; i < n; i++)
	{
		for (int64 serial = ranges[i].first; serial <= ranges[i].last; serial++)
		{
			CHECK_FOR_INTERRUPTS();
			/* nothing for shards that the map gets to know with the commit */
			coupon_stock_return(campaign, stock, serial);
		}
	}
	coupon_campaign_leave(campaign);
}

/*
 * Has ranges of serials here.  The campaign has at least so many serials, of
 * which those that are new are away, but for the ranges.  Returns how many are
 * new; *row is as it was before, but for them.
 */
static int64
arrive(int64 campaign_id, const Range *ranges, int n, int64 last_serial, CouponCampaignRow *row)
{
	int64		before = row->stock;

	if (n > 0)
		last_serial = Max(last_serial, ranges[n - 1].last);
	if (last_serial > before)
	{
		Range		all = {before + 1, last_serial};

		coupon_campaign_add_units(campaign_id, last_serial - before, row);
		note(campaign_id, &all, 1, true);
	}
	if (n > 0)
		note(campaign_id, ranges, n, false);
	COUPON_FAULT(units_come);
	return row->stock - before;
}

/*
 * coupon.units_arrive(campaign_id, serials, last_serial, free)
 */
Datum
coupon_units_arrive(PG_FUNCTION_ARGS)
{
	int64		campaign_id = get_campaign(fcinfo);
	CouponCampaignRow row;
	int			n;
	Range	   *ranges = get_ranges(fcinfo, 1, &n);

	coupon_shmem_attach();
	coupon_spi_connect();
	coupon_campaign_lock_row(campaign_id, true, &row);
	/* the keeper has made them */
	row.keeper = 0;
	(void) arrive(campaign_id, ranges, n, PG_GETARG_INT64(2), &row);
	if (n > 0 && PG_GETARG_BOOL(3))
		set_free(campaign_id, ranges, n);
	coupon_spi_finish();
	PG_RETURN_VOID();
}

/*
 * coupon.units_born(campaign_id, serials, last_serial)
 *
 * At the keeper: the campaign has so many units from now on, of which these are
 * here.
 */
Datum
coupon_units_born(PG_FUNCTION_ARGS)
{
	int64		campaign_id = get_campaign(fcinfo);
	CouponCampaignRow row;
	int64		units;
	int			n;
	Range	   *ranges = get_ranges(fcinfo, 1, &n);

	coupon_shmem_attach();
	coupon_spi_connect();
	coupon_campaign_lock_row(campaign_id, false, &row);
	units = arrive(campaign_id, ranges, n, PG_GETARG_INT64(2), &row);
	coupon_campaign_event(campaign_id, &row, COUPON_EVENT_STOCK_ADDED, units);
	coupon_spi_finish();
	PG_RETURN_VOID();
}

/*
 * coupon.units_lose(campaign_id, serials)
 *
 * They went to another node before this server took the place of the one that
 * sent them, and did not know it.  Whoever has one of them here had given it back.
 */
Datum
coupon_units_lose(PG_FUNCTION_ARGS)
{
	int64		campaign_id = get_campaign(fcinfo);
	CouponCampaignRow row;
	CouponCampaign *campaign;
	const CouponDefinition *def;
	CouponStock *stock;
	CouponUnit	unit;
	int			n;
	Range	   *ranges = get_ranges(fcinfo, 1, &n);

	coupon_shmem_attach();
	if (n == 0)
		PG_RETURN_VOID();
	coupon_spi_connect();
	coupon_campaign_lock_row(campaign_id, true, &row);
	(void) delete_issuances(campaign_id, ranges, n);
	campaign = coupon_campaign_enter(campaign_id, &def);
	stock = coupon_stock_open(campaign, def);
	for (int i = 0; i < n; i++)
	{
		for (int64 serial = ranges[i].first; serial <= ranges[i].last; serial++)
		{
			CHECK_FOR_INTERRUPTS();
			(void) coupon_stock_take_serial(campaign, stock, serial, &unit);
		}
	}
	coupon_campaign_leave(campaign);
	note(campaign_id, ranges, n, true);
	coupon_spi_finish();
	PG_RETURN_VOID();
}
