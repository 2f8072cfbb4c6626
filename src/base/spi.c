/*
 * spi.c
 *	  SQL from C: run this statement, expect that code.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "base/spi.h"

#define SAFE_SEARCH_PATH	"pg_catalog, pg_temp"

void
coupon_spi_connect(void)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

void
coupon_spi_finish(void)
{
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
}

/*
 * Whatever the caller looks for first, a statement of ours finds operators and
 * functions in pg_catalog only.  Returns what unpin takes.  After an ERROR the
 * end of the subtransaction unpins.
 */
static int
pin_search_path(void)
{
	int			level;

	if (strcmp(namespace_search_path, SAFE_SEARCH_PATH) == 0)
		return 0;
	level = NewGUCNestLevel();
	(void) set_config_option("search_path", SAFE_SEARCH_PATH, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	return level;
}

static void
unpin_search_path(int level)
{
	if (level > 0)
		AtEOXact_GUC(false, level);
}

uint64
coupon_spi_execute(CouponStatement *statement, int expected,
				   Datum *values, const char *nulls)
{
	int			level = pin_search_path();
	int			code;

	if (statement->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(statement->sql, statement->nargs, statement->types);

		if (plan == NULL)
			elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
		statement->plan = plan;
	}

	code = SPI_execute_plan(statement->plan, values, nulls, false, 0);
	unpin_search_path(level);
	if (code != expected)
		elog(ERROR, "unexpected result of \"%s\": %s", statement->sql,
			 SPI_result_code_string(code));
	return SPI_processed;
}

void
coupon_spi_change(CouponStatement *statement, int expected, Datum *values, const char *nulls,
				  uint64 rows)
{
	uint64		changed = coupon_spi_execute(statement, expected, values, nulls);

	if (changed != rows)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a trigger has left rows of coupon's tables as they are"),
				 errdetail("%llu of %llu rows were changed by \"%s\".", (unsigned long long) changed,
						   (unsigned long long) rows, statement->sql),
				 errhint("Such triggers are not supported: have it raise an error.")));
}

Datum
coupon_spi_value(uint64 row, int column, bool *isnull)
{
	bool		null;
	Datum		value;

	if (row >= SPI_tuptable->numvals)
		elog(ERROR, "row " UINT64_FORMAT " of the result is missing", row + 1);
	value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &null);

	if (isnull != NULL)
		*isnull = null;
	else if (null)
		elog(ERROR, "unexpected null in column %d", column);
	return value;
}

char *
coupon_spi_text(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

uint64
coupon_spi_delete_old(CouponStatement *statement, int max_rows, int seconds)
{
	Datum		values[2];
	uint64		count;

	values[0] = Int32GetDatum(max_rows);
	values[1] = TimestampTzGetDatum(GetCurrentTimestamp() - seconds * USECS_PER_SEC);
	coupon_spi_connect();
	count = coupon_spi_execute(statement, SPI_OK_DELETE, values, NULL);
	coupon_spi_finish();
	return count;
}
