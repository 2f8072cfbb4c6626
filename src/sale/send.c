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
 * It neither leaves twice nor arrives twice (shard_note.c).
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "miscadmin.h"

#include "base/arguments.h"
#include "base/catalog.h"
#include "base/errors.h"
#include "base/fault.h"
#include "base/spi.h"
#include "base/table_writer.h"
#include "outbox/payload.h"
#include "sale/away.h"
#include "sale/shard_note.h"
#include "sale/take.h"

#define MAX_CUT		INT64CONST(100000)	/* units at a time: each is an intent */

PG_FUNCTION_INFO_V1(coupon_units_cut);
PG_FUNCTION_INFO_V1(coupon_units_leave);
PG_FUNCTION_INFO_V1(coupon_units_arrive);
PG_FUNCTION_INFO_V1(coupon_units_born);
PG_FUNCTION_INFO_V1(coupon_units_lose);

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
static CouponRange *
get_ranges(FunctionCallInfo fcinfo, int number, int *n)
{
	int			nserials;
	int64	   *serials = coupon_int64s(PG_GETARG_DATUM(number), "serials", &nserials);
	CouponRange *ranges;

	*n = nserials / 2;
	ranges = palloc(Max(*n, 1) * sizeof(CouponRange));
	for (int i = 0; i < *n; i++)
	{
		ranges[i].first = serials[2 * i];
		ranges[i].last = serials[2 * i + 1];
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
form_ranges(const CouponRange *ranges, int n)
{
	int64	   *serials = palloc(Max(n, 1) * 2 * sizeof(int64));

	for (int i = 0; i < n; i++)
	{
		serials[2 * i] = ranges[i].first;
		serials[2 * i + 1] = ranges[i].last;
	}
	return coupon_int64s_form(serials, 2 * n);
}

/* ---- sending units away ---- */

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
	CouponRange *ranges;
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
	ranges = coupon_ranges_of(units, taken, &n);
	if (n > 0)
	{
		coupon_shard_note(campaign_id, COUPON_NOTE_AWAY, ranges, n, true);
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
delete_issuances(int64 campaign_id, const CouponRange *ranges, int n)
{
	/* one statement for all, and the index for each */
	static CouponStatement delete = {
		"DELETE FROM coupon.issuance WHERE ctid = ANY (ARRAY("
		"  SELECT i.ctid FROM unnest($2, $3) r(first, last),"
		"    LATERAL (SELECT x.ctid FROM coupon.issuance x"
		"              WHERE x.campaign_id = $1 AND x.serial BETWEEN r.first AND r.last OFFSET 0) i))",
		3, {INT8OID, INT8ARRAYOID, INT8ARRAYOID}
	};
	int64	   *firsts = palloc(n * sizeof(int64));
	int64	   *lasts = palloc(n * sizeof(int64));
	Datum		values[3] = {Int64GetDatum(campaign_id)};
	volatile int64 deleted = 0;

	for (int i = 0; i < n; i++)
	{
		firsts[i] = ranges[i].first;
		lasts[i] = ranges[i].last;
	}
	values[1] = coupon_int64s_form(firsts, n);
	values[2] = coupon_int64s_form(lasts, n);
	coupon_away_leaving = true;
	PG_TRY();
	{
		deleted = coupon_spi_execute(&delete, SPI_OK_DELETE, values, NULL);
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
	CouponRange *ranges = get_ranges(fcinfo, 1, &n);

	coupon_shmem_attach();
	if (n == 0)
		PG_RETURN_VOID();
	coupon_spi_connect();
	coupon_campaign_lock_row(campaign_id, true, &row);
	deleted = delete_issuances(campaign_id, ranges, n);
	if (deleted != coupon_ranges_count(ranges, n))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("an issuance that was to go to another node is gone"),
				 errdetail("Campaign %lld: %lld issuances of %lld.", (long long) campaign_id,
						   (long long) deleted, (long long) coupon_ranges_count(ranges, n)),
				 errhint("Try again.")));
	coupon_shard_note(campaign_id, COUPON_NOTE_AWAY, ranges, n, true);
	coupon_spi_finish();
	PG_RETURN_VOID();
}

/* ---- units that arrive ---- */

/* They are free when the transaction commits. */
static void
set_free(int64 campaign_id, const CouponRange *ranges, int n)
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
arrive(int64 campaign_id, const CouponRange *ranges, int n, int64 last_serial, CouponCampaignRow *row)
{
	int64		before = row->stock;

	if (n > 0)
		last_serial = Max(last_serial, ranges[n - 1].last);
	if (last_serial > before)
	{
		CouponRange all = {before + 1, last_serial};

		coupon_campaign_add_units(campaign_id, last_serial - before, row);
		coupon_shard_note(campaign_id, COUPON_NOTE_AWAY, &all, 1, true);
	}
	coupon_shard_note(campaign_id, COUPON_NOTE_AWAY, ranges, n, false);
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
	CouponRange *ranges = get_ranges(fcinfo, 1, &n);

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
	CouponRange *ranges = get_ranges(fcinfo, 1, &n);

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
	CouponRange *ranges = get_ranges(fcinfo, 1, &n);

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
	coupon_shard_note(campaign_id, COUPON_NOTE_AWAY, ranges, n, true);
	coupon_spi_finish();
	PG_RETURN_VOID();
}
