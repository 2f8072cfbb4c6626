/*
 * issuance_table.h
 *	  The rows of coupon.issuance: found, and inserted under their constraints.
 */
#ifndef COUPON_ISSUANCE_TABLE_H
#define COUPON_ISSUANCE_TABLE_H

#include "base/catalog.h"
#include "base/table_writer.h"
#include "sale/campaign.h"
#include "sale/stock.h"

/* What is known of one issuance. */
typedef struct CouponIssuance
{
	int64		serial;
	int32		shard;
	int32		nth;
	TimestampTz issued_at;		/* of a hold: when it began */
	TimestampTz expires_at;		/* DT_NOEND: never */
	TimestampTz held_until;		/* 0: it is not a hold */
	text	   *code;			/* NULL: the campaign has no codes */
} CouponIssuance;

/* What a row of coupon.issuance says, but for its code. */
extern void coupon_issuance_read(TupleTableSlot *slot, CouponIssuance *issuance);

/* May a session wait for other transactions? */
typedef enum CouponWait
{
	COUPON_WAIT,
	COUPON_NO_WAIT
} CouponWait;

/* What the user index says of a user. */
typedef enum CouponUserState
{
	COUPON_USER_MAY_HAVE,		/* found->nth is free */
	COUPON_USER_HAS,			/* *found is the newest issuance, or hold if
								 * there is none */
	COUPON_USER_LAPSED,			/* a hold of theirs, *found, has run out but
								 * is still there */
	COUPON_USER_LOCKED			/* an undecided row, and COUPON_NO_WAIT */
} CouponUserState;

/* What became of an insertion. */
typedef enum CouponInsertion
{
	COUPON_INSERTED,
	COUPON_USER_TAKEN,			/* the user got a unit elsewhere meanwhile */
	COUPON_SERIAL_TAKEN			/* the index knows the serial, the map did not */
} CouponInsertion;

/* The column state of an issuance or a hold. */
extern Datum coupon_issuance_state(bool held);

/*
 * Inserts an issuance for a user who was looked up, a hold if it says so;
 * confirm_ref: the payment that it begins with, or NULL.  Of one that
 * conflicts nothing is left, but that others cannot know before the
 * transaction ends.
 */
extern CouponInsertion coupon_issuance_insert(CouponTableWriter *writer, CouponCampaign *campaign,
											  const CouponDefinition *def, Datum user_id,
											  const CouponIssuance *issuance, text *confirm_ref);

/*
 * Issuances for many users, written together: fill up to COUPON_ROWS_AT_ONCE,
 * insert, and again.  NULL: the table has something for which they must be
 * inserted one by one.
 */
#define COUPON_ROWS_AT_ONCE	256

typedef struct CouponIssuanceRows CouponIssuanceRows;

extern CouponIssuanceRows *coupon_issuance_rows_begin(CouponTableWriter *writer,
													  CouponCampaign *campaign,
													  const CouponDefinition *def);
extern void coupon_issuance_rows_end(CouponIssuanceRows *rows);
extern void coupon_issuance_rows_add(CouponIssuanceRows *rows, Datum user_id,
									 const CouponIssuance *issuance);

/*
 * Returns how many are inserted, in the order of adding; *next is what became
 * of the one after these: it and all behind it are as if never inserted.
 */
extern int	coupon_issuance_rows_insert(CouponIssuanceRows *rows, CouponInsertion *next);

/*
 * Waits for the transactions that insert or delete issuances of these serials;
 * ERROR if there is one.
 */
extern void coupon_issuance_await_none(int64 campaign_id, int64 first_serial, int64 last_serial);

/*
 * While a user of a campaign is locked no other session holds or issues under a
 * key for them; who issues without one may, and then the user index refuses
 * whoever comes second.  Not to be held while waiting for anything.
 */
extern void coupon_issuance_lock_user(const CouponDefinition *def, Datum user_id);
extern void coupon_issuance_unlock_user(const CouponDefinition *def, Datum user_id);

extern bool coupon_same_text(const text *a, const text *b);

/* Look-ups of users: the index is opened once for all of a call. */
typedef struct CouponLookup
{
	const CouponDefinition *def;
	CouponTableWriter *writer;	/* whose relations are used, or NULL */
	Relation	heap;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	ScanKeyData keys[2];
	SnapshotData dirty;
	bool		missed;			/* the last look met an entry without its row */
	TimestampTz now;			/* holds are judged by it; of the last look-up */
	CouponIssuance hold;		/* serial 0: no live hold was seen; may not be
								 * the only one */
} CouponLookup;

extern void coupon_lookup_begin(CouponLookup *lookup, const CouponDefinition *def,
								CouponTableWriter *writer);
extern void coupon_lookup_end(CouponLookup *lookup);

/* Keeps no page pinned until the next look-up. */
extern void coupon_lookup_pause(CouponLookup *lookup);

/*
 * Looks a user up, waiting for undecided rows if allowed.  For one who may
 * have a unit, *room is how many numbers are free from found->nth on.
 */
extern CouponUserState coupon_lookup_user(CouponLookup *lookup, Datum user_id,
										  CouponWait wait, CouponIssuance *found, int *room);

/*
 * Which numbers the user can have more units under: up to wanted of them go to
 * nths.  Never waits; undecided: more may come free with other transactions.
 * *lapsed is the serial of a hold of theirs that has run out, 0 if there is none.
 */
extern int	coupon_lookup_numbers(CouponLookup *lookup, Datum user_id, int wanted, int32 *nths,
								  bool *undecided, int64 *lapsed);

/* What the index says of a serial. */
typedef enum CouponUnitState
{
	COUPON_UNIT_FREE,			/* there is no row */
	COUPON_UNIT_UNDECIDED,		/* a running transaction inserts, changes or
								 * deletes it */
	COUPON_UNIT_HELD,
	COUPON_UNIT_LAPSED,			/* a hold that has run out */
	COUPON_UNIT_ISSUED
} CouponUnitState;

/*
 * Look-ups of serials, and what is done to the row found last, which stays
 * pinned until the next look-up.
 */
typedef struct CouponIssuanceRow
{
	const CouponDefinition *def;
	CouponTableWriter *writer;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	ScanKeyData keys[2];
	SnapshotData dirty;

	/* of the row found last; not those of a free serial */
	CouponUnitState state;
	CouponIssuance issuance;	/* without its code */
	text	   *user_id;
	text	   *confirm_ref;	/* may be NULL */
	TransactionId xid;			/* whose end an undecided row waits for */
	uint32		token;			/* of a speculative insertion */
} CouponIssuanceRow;

/* ERROR where foreign triggers would have to fire. */
extern void coupon_issuance_row_begin(CouponIssuanceRow *row, const CouponDefinition *def,
									  CouponTableWriter *writer);
extern void coupon_issuance_row_end(CouponIssuanceRow *row);

/* Keeps no page pinned until the next look-up. */
extern void coupon_issuance_row_pause(CouponIssuanceRow *row);
extern CouponUnitState coupon_issuance_row_find(CouponIssuanceRow *row, int64 serial, TimestampTz now);

/* Waits for the transaction that an undecided row depends on. */
extern void coupon_issuance_row_wait(CouponIssuanceRow *row);

/*
 * Deletes the row found last.  False if another transaction has changed or
 * locked it meanwhile: look again.  Without wait, also if one may yet.
 */
extern bool coupon_issuance_row_remove(CouponIssuanceRow *row, CouponWait wait);

/* The policy of the row found last: what was promised when it was held. */
extern Jsonb *coupon_issuance_row_policy(CouponIssuanceRow *row);

/*
 * Makes the hold found last an issuance; sets what changes in *row.  Waits
 * for whoever has locked it; false if it was changed: look again.
 */
extern bool coupon_issuance_row_confirm(CouponIssuanceRow *row, TimestampTz now, text *confirm_ref);

/* The label of a serial, NULL if it has none. */
extern text *coupon_issuance_label(int64 campaign_id, int64 serial);

#endif							/* COUPON_ISSUANCE_TABLE_H */
