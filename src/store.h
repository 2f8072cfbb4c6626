/*
 * store.h
 *	  The rows of coupon.issuance: found, and inserted under their constraints.
 */
#ifndef COUPON_STORE_H
#define COUPON_STORE_H

#include "campaign.h"
#include "catalog.h"
#include "stock.h"

/* What is known of one issuance. */
typedef struct CouponIssuance
{
	int64		serial;
	int32		shard;
	int32		nth;
	TimestampTz issued_at;
	TimestampTz expires_at;		/* DT_NOEND: never */
	text	   *code;			/* NULL: the campaign has no codes */
} CouponIssuance;

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
	COUPON_USER_HAS,			/* *found is the newest issuance */
	COUPON_USER_LOCKED			/* an undecided row, and COUPON_NO_WAIT */
} CouponUserState;

/* What became of an insertion. */
typedef enum CouponInsertion
{
	COUPON_INSERTED,
	COUPON_USER_TAKEN,			/* the user got a unit elsewhere meanwhile */
	COUPON_SERIAL_TAKEN			/* the index knows the serial, the map did not */
} CouponInsertion;

/* The table opened for insertions; nothing is locked against other sessions. */
typedef struct CouponStore CouponStore;

extern CouponStore *coupon_store_open(void);
extern void coupon_store_close(CouponStore *store);

/*
 * Inserts an issuance for a user who was looked up.  Of one that conflicts
 * nothing is left, but that others cannot know before the transaction ends.
 */
extern CouponInsertion coupon_store_insert(CouponStore *store, const CouponDefinition *def,
										   Datum user_id, const CouponIssuance *issuance);

/* Look-ups of users: the index is opened once for all of a call. */
typedef struct CouponLookup
{
	const CouponDefinition *def;
	CouponStore *store;			/* whose relations are used, or NULL */
	Relation	heap;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	ScanKeyData keys[2];
	SnapshotData dirty;
} CouponLookup;

extern void coupon_lookup_begin(CouponLookup *lookup, const CouponDefinition *def,
								CouponStore *store);
extern void coupon_lookup_end(CouponLookup *lookup);

/* Keeps no page pinned until the next look-up. */
extern void coupon_lookup_pause(CouponLookup *lookup);

/*
 * Looks a user up, waiting for undecided rows if allowed.  For one who may
 * have a unit, *room is how many numbers are free from found->nth on.
 */
extern CouponUserState coupon_lookup_user(CouponLookup *lookup, Datum user_id,
										  CouponWait wait, CouponIssuance *found, int *room);

/* The label of a serial, NULL if it has none. */
extern text *coupon_store_label(int64 campaign_id, int64 serial);

#endif							/* COUPON_STORE_H */
