/*
 * issue_item.h
 *	  A wish and its outcome; many of them in the order of their users.
 */
#ifndef COUPON_ISSUE_ITEM_H
#define COUPON_ISSUE_ITEM_H

#include "storage/shmem.h"
#include "utils/memutils.h"

#include "base/arguments.h"
#include "sale/issuance_table.h"
#include "sale/status_codes.h"

#define palloc_huge_array(type, n) \
	((type *) MemoryContextAllocHuge(CurrentMemoryContext, mul_size(sizeof(type), n)))

/* One wish and its outcome. */
typedef struct CouponItem
{
	Datum		user_id;		/* a detoasted text, 0: the item is invalid */
	bool		admitted;		/* the campaign's room need not be asked again */
	bool		accepted;		/* this node has said that the user's home is
								 * here */
	const char *trace;			/* of its call; NULL: the session's */
	text	   *request_key;	/* what the caller calls the wish, or NULL */
	int			twin;			/* see coupon_find_twins() */
	CouponStatus status;		/* out */
	bool		repeated;		/* out: issued to an earlier call with the key */
	CouponIssuance issuance;	/* out, for issued and already_issued */
} CouponItem;

/* What the item counts as: a repeated answer issues nothing. */
static inline CouponStatus
coupon_item_outcome(const CouponItem *item)
{
	return item->repeated && item->status == COUPON_ISSUED ? COUPON_ALREADY_ISSUED : item->status;
}

/* By their bytes, as memcmp() says. */
static inline int
coupon_compare_users(const CouponItem *items, int a, int b)
{
	return coupon_compare_texts((text *) DatumGetPointer(items[a].user_id),
								(text *) DatumGetPointer(items[b].user_id));
}

/* Puts the numbers of n valid items into the order of their users, a user's items in their own. */
extern void coupon_sort_by_user(const CouponItem *items, int *numbers, int n);

/* The same key of the same user again: a twin of the first, by its number + 1. */
extern void coupon_find_twins(CouponItem *items, const int *by_user, int n);

#endif							/* COUPON_ISSUE_ITEM_H */
