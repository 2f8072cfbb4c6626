/*
 * issue_item.c
 *	  A wish and its outcome; many of them in the order of their users.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/pg_bswap.h"

#include "base/arguments.h"
#include "base/compat.h"
#include "base/fault.h"
#include "sale/issue_item.h"

/* A valid item, for sorting: most users are told apart by their first bytes. */
typedef struct UserPlace
{
	uint64		prefix;
	int			item;
} UserPlace;

static uint64
user_prefix(Datum user_id)
{
	const text *user = (text *) DatumGetPointer(user_id);
	uint64		prefix = 0;

	memcpy(&prefix, VARDATA_ANY(user), Min(VARSIZE_ANY_EXHDR(user), sizeof(prefix)));
	return pg_ntoh64(prefix);
}

/* By user, a user's items in their own order. */
static int
compare_places(const UserPlace *a, const UserPlace *b, const CouponItem *items)
{
	int			order = a->prefix < b->prefix ? -1 : a->prefix > b->prefix ? 1 :
	coupon_compare_users(items, a->item, b->item);

	return order != 0 ? order : a->item - b->item;
}

#define ST_SORT sort_places
#define ST_ELEMENT_TYPE UserPlace
#define ST_COMPARE_ARG_TYPE const CouponItem
#define ST_COMPARE(a, b, items) compare_places(a, b, items)
#define ST_CHECK_FOR_INTERRUPTS
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

void
coupon_sort_by_user(const CouponItem *items, int *numbers, int n)
{
	UserPlace  *places = palloc_huge_array(UserPlace, n);

	for (int i = 0; i < n; i++)
	{
		places[i].item = numbers[i];
		places[i].prefix = user_prefix(items[places[i].item].user_id);
	}
	sort_places(places, n, items);
	for (int i = 0; i < n; i++)
		numbers[i] = places[i].item;
	pfree(places);
}

/* For sorting: by user and key, those without one last, the same in their order. */
static int
compare_keys(const void *a, const void *b, void *items)
{
	const CouponItem *x = (const CouponItem *) items + *(const int *) a;
	const CouponItem *y = (const CouponItem *) items + *(const int *) b;
	int			order = coupon_compare_users(items, *(const int *) a, *(const int *) b);

	CHECK_FOR_INTERRUPTS();
	if (order == 0 && x->request_key != NULL && y->request_key != NULL)
		order = coupon_compare_texts(x->request_key, y->request_key);
	else if (order == 0)
		order = (x->request_key == NULL) - (y->request_key == NULL);
	return order != 0 ? order : *(const int *) a - *(const int *) b;
}

void
coupon_find_twins(CouponItem *items, const int *by_user, int n)
{
	int		   *sorted = palloc_huge_array(int, n);

	memcpy(sorted, by_user, n * sizeof(int));
	qsort_arg(sorted, n, sizeof(int), compare_keys, items);
	for (int i = 1; i < n; i++)
	{
		CouponItem *item = &items[sorted[i]];
		CouponItem *before = &items[sorted[i - 1]];

		item->twin = 0;
		if (item->request_key != NULL && before->request_key != NULL &&
			coupon_compare_users(items, sorted[i], sorted[i - 1]) == 0 &&
			coupon_compare_texts(item->request_key, before->request_key) == 0)
			item->twin = before->twin != 0 ? before->twin : sorted[i - 1] + 1;
	}
	pfree(sorted);
}
