/*
 * spi.h
 *	  SQL from C: run this statement, expect that code.
 *
 * For everything that is not the hot path.  Statements have parameters, never
 * values pasted in, and name every table with its schema; they run with
 * search_path = pg_catalog, pg_temp.  They are planned once per session.
 */
#ifndef COUPON_SPI_H
#define COUPON_SPI_H

#include "executor/spi.h"

/* A statement and its plan, static in the file that uses it. */
typedef struct CouponStatement
{
	const char *sql;
	int			nargs;
	Oid			types[10];
	SPIPlanPtr	plan;			/* made on first use */
} CouponStatement;

/*
 * Executes a statement in a connected SPI session; ERROR unless it returns
 * the expected SPI code.  nulls may be NULL: none.  Returns SPI_processed.
 */
extern uint64 coupon_spi_execute(CouponStatement *statement, int expected,
								 Datum *values, const char *nulls);

/* The same, of which so many rows are certain to be changed: ERROR if a trigger leaves one as it is. */
extern void coupon_spi_change(CouponStatement *statement, int expected, Datum *values,
							  const char *nulls, uint64 rows);

/* A column of the result's row; *isnull may be NULL where it cannot be null. */
extern Datum coupon_spi_value(uint64 row, int column, bool *isnull);
extern char *coupon_spi_text(uint64 row, int column);

/*
 * Executes a DELETE of at most $1 rows that are older than $2, with a
 * connection of its own: of those older than so many seconds.  Returns how many
 * there were.
 */
extern uint64 coupon_spi_delete_old(CouponStatement *statement, int max_rows, int seconds);

extern void coupon_spi_connect(void);
extern void coupon_spi_finish(void);

#endif							/* COUPON_SPI_H */
