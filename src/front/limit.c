/*
 * limit.c
 *	  How often a user, and a client's address, may call.
 *
 * A token bucket for each key, shared by all front workers.  A bucket is one
 * 64-bit word: the time at which it will be full again (a "theoretical arrival
 * time"), and some bits of the key's hash to tell it from its neighbours.  A
 * call moves that time by one interval, unless it is further ahead than the
 * burst allows.  Words are changed by compare-and-exchange; nobody waits.
 *
 * A key may stand in one of a few places.  Where all are taken the one that
 * has been full the longest gives way: a bucket that is full carries no
 * information.  If all are in use the key shares one, which errs on the side of
 * refusing; with 65,536 places that takes tens of thousands of callers within
 * one burst.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "port/atomics.h"
#include "utils/builtins.h"
#include "utils/varlena.h"

#include "front/limit.h"
#include "front/service.h"
#include "front/settings.h"

#define PLACES		(1 << 16)
#define WAYS		4
#define TAG_BITS	22
#define TIME_BITS	(64 - TAG_BITS) /* of milliseconds: 139 years */
#define TIME_MASK	((UINT64CONST(1) << TIME_BITS) - 1)

typedef struct Limits
{
	pg_atomic_uint64 places[PLACES];
} Limits;

static Limits *limits = NULL;

static void
request(void)
{
	RequestAddinShmemSpace(sizeof(Limits));
}

static void
startup(void)
{
	bool		found;

	limits = coupon_shmem_struct("coupon http limits", sizeof(Limits), &found);
	for (int i = 0; !found && i < PLACES; i++)
		pg_atomic_init_u64(&limits->places[i], 0);
}

const CouponModule coupon_limit_module = {.request = request,.startup = startup};

/* The place of a key: its own, or the one that gives way. */
static pg_atomic_uint64 *
find_place(uint64 hash, uint64 *word)
{
	pg_atomic_uint64 *set = &limits->places[(hash % (PLACES / WAYS)) * WAYS];
	uint64		tag = hash >> TIME_BITS;
	int			oldest = 0;
	uint64		oldest_time = PG_UINT64_MAX;

	for (int i = 0; i < WAYS; i++)
	{
		*word = pg_atomic_read_u64(&set[i]);
		if ((*word >> TIME_BITS) == tag)
			return &set[i];
		if ((*word & TIME_MASK) < oldest_time)
		{
			oldest_time = *word & TIME_MASK;
			oldest = i;
		}
	}
	*word = pg_atomic_read_u64(&set[oldest]);
	return &set[oldest];
}

/* Takes one from the bucket of a key; false if it is empty. */
static bool
take(const char *kind, const char *key, int per_second, TimestampTz now)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) key, strlen(key), (uint64) kind[0]);
	uint64		tag = hash >> TIME_BITS;
	uint64		now_ms = (uint64) (now / 1000);
	uint64		interval = Max(1000 / per_second, 1);
	uint64		burst = (uint64) coupon_http_burst * interval;
	uint64		word;
	pg_atomic_uint64 *place = find_place(hash, &word);

	for (;;)
	{
		uint64		full_at = Max(word & TIME_MASK, now_ms);

		if (full_at - now_ms > burst)
			return false;
		if (pg_atomic_compare_exchange_u64(place, &word, (tag << TIME_BITS) | (full_at + interval)))
			return true;
	}
}

void
coupon_limit_client(CouponHttpCall *call, char *buffer, size_t size)
{
	const char *forwarded;
	char	   *list;
	char	   *last;

	coupon_http_peer(call, buffer, size);
	if (coupon_http_trusted_proxies[0] == '\0' || !coupon_service_in_list(coupon_http_trusted_proxies, buffer))
		return;
	forwarded = coupon_http_header(call, "X-Forwarded-For");
	if (forwarded == NULL)
		return;

	/* from the right: each trusted proxy vouches for the one before it */
	list = pstrdup(forwarded);
	while ((last = strrchr(list, ',')) != NULL || list[0] != '\0')
	{
		char	   *address = last == NULL ? list : last + 1;

		address += strspn(address, " ");
		strlcpy(buffer, address, size);
		if (last == NULL || !coupon_service_in_list(coupon_http_trusted_proxies, buffer))
			break;
		*last = '\0';
	}
	pfree(list);
}

bool
coupon_limit_admits(CouponHttpCall *call, TimestampTz now)
{
	char		client[128];

	if (coupon_http_rate_per_user > 0 && call->user_id != NULL &&
		!take("user", call->user_id, coupon_http_rate_per_user, now))
		return false;
	if (coupon_http_rate_per_address <= 0)
		return true;
	coupon_limit_client(call, client, sizeof(client));
	return take("address", client, coupon_http_rate_per_address, now);
}
