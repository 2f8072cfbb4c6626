/*
 * issuance_table_layout.h
 *	  How the open table coupon.issuance lies in memory: for issuance_table.c and issuance_row.c.
 */
#ifndef COUPON_ISSUANCE_TABLE_LAYOUT_H
#define COUPON_ISSUANCE_TABLE_LAYOUT_H

#include "nodes/execnodes.h"

#include "sale/issuance_table.h"

/*
 * What an insertion needs of the executor is prepared once per session, and
 * again after the table or its indexes change.  Relations are opened for each
 * call.
 */
struct CouponIssuanceTable
{
	bool		valid;
	uint64		invalidations;
	Oid			relid;
	MemoryContext context;
	EState	   *estate;
	ResultRelInfo *relinfo;
	Oid		   *indexes;
	int			nindexes;
	bool		lasting;		/* no index keeps pointers in its IndexInfo */
	TupleTableSlot *slot;		/* the row to insert */
	bool		checks;			/* the table has CHECK constraints */
	const char *foreign_change; /* a trigger for updates or deletions, or NULL */
	text	   *issued;			/* the states of a new row */
	text	   *held;
};

/* One of our indexes among those of the open table; ERROR without it. */
extern Relation coupon_issuance_index(CouponIssuanceTable *store, Oid oid, const char *name);

#endif							/* COUPON_ISSUANCE_TABLE_LAYOUT_H */
