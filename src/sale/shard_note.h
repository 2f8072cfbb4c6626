/*
 * shard_note.h
 *	  Which units of a shard are withdrawn, or away at another node.
 */
#ifndef COUPON_SHARD_NOTE_H
#define COUPON_SHARD_NOTE_H

#include "sale/stock.h"

/* Serials first to last. */
typedef struct CouponRange
{
	int64		first;
	int64		last;
} CouponRange;

typedef enum CouponNote
{
	COUPON_NOTE_WITHDRAWN,
	COUPON_NOTE_AWAY
} CouponNote;

extern int64 coupon_ranges_count(const CouponRange *ranges, int n);

/* Units in their order as ranges, allocated; their number is written to *n. */
extern CouponRange *coupon_ranges_of(const CouponUnit *units, int nunits, int *n);

/*
 * Notes that ranges in their order are so now, or are so no longer, in their
 * shards' rows and in the campaign's.  The campaign is locked by
 * coupon_campaign_lock_row(), and the units are this transaction's.  ERROR if one
 * of them was so before.
 */
extern void coupon_shard_note(int64 campaign_id, CouponNote note, const CouponRange *ranges, int n, bool set);

#endif							/* COUPON_SHARD_NOTE_H */
