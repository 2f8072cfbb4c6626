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

#include <arpa/inet.h>

#include "common/hashfn.h"
#include "port/atomics.h"
#include "utils/builtins.h"
#include "utils/varlena.h"

#include "front/limit.h"
#include "front/settings.h"

#define PLACES		(1 << 16)
#define WAYS		4
#define TAG_BITS	16
#define TIME_BITS	(64 - TAG_BITS) /* of ticks: 89 years */
#define TICK_US		10
#define TICKS_PER_SECOND	(1000000 / TICK_US)
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
	uint64		now_ticks = (uint64) (now / TICK_US);
	uint64		interval = TICKS_PER_SECOND / per_second;
	uint64		burst = (uint64) coupon_http_burst * interval;
	uint64		word;
	pg_atomic_uint64 *place = find_place(hash, &word);

	for (;;)
	{
		uint64		full_at = Max(word & TIME_MASK, now_ticks);

		if (full_at - now_ticks > burst)
			return false;
		if (pg_atomic_compare_exchange_u64(place, &word, (tag << TIME_BITS) | (full_at + interval)))
			return true;
	}
}

/* ---- addresses ---- */

/*
 * The one way to write an address; of a network (what one customer of a
 * provider has, 64 bits) if that is wanted.  False: it is none.
 */
static bool
write_address(const char *address, bool network, char *buffer, size_t size)
{
	struct in_addr v4;
	struct in6_addr v6;

	if (inet_pton(AF_INET, address, &v4) == 1)
		return inet_ntop(AF_INET, &v4, buffer, size) != NULL;
	if (inet_pton(AF_INET6, address, &v6) != 1)
		return false;
	if (IN6_IS_ADDR_V4MAPPED(&v6))
		return inet_ntop(AF_INET, &v6.s6_addr[12], buffer, size) != NULL;
	if (network)
		memset(&v6.s6_addr[8], 0, 8);
	return inet_ntop(AF_INET6, &v6, buffer, size) != NULL;
}

/* Is that address, as write_address() has it, one of coupon.http_trusted_proxies? */
static bool
is_trusted(const char *address)
{
	char		word[64];
	char		written[64];

	for (const char *list = coupon_http_trusted_proxies; *list != '\0';)
	{
		size_t		n;

		list += strspn(list, " ,");
		n = strcspn(list, " ,");
		strlcpy(word, list, Min(n + 1, sizeof(word)));
		if (write_address(word, false, written, sizeof(written)) && strcmp(written, address) == 0)
			return true;
		list += n;
	}
	return false;
}

static void
note_forwarded(void *state, const char *name, const char *value)
{
	if (pg_strcasecmp(name, "X-Forwarded-For") == 0)
		appendStringInfo(state, ",%s", value);
}

void
coupon_limit_client(CouponHttpCall *call, char *buffer, size_t size)
{
	StringInfoData list;
	char	   *last;
	char		peer[128];

	coupon_http_peer(call, peer, sizeof(peer));
	if (!write_address(peer, false, buffer, size))
		strlcpy(buffer, peer, size);
	if (!is_trusted(buffer))
		return;

	/*
	 * From the right: each trusted proxy vouches for the one before it.  All
	 * lines count, since a proxy may add its own after what the client sent.
	 */
	initStringInfo(&list);
	coupon_http_each_header(call, note_forwarded, &list);
	while ((last = strrchr(list.data, ',')) != NULL)
	{
		char	   *address = last + 1 + strspn(last + 1, " \t");

		*last = '\0';
		address[strcspn(address, " \t")] = '\0';
		if (!write_address(address, false, buffer, size) || !is_trusted(buffer))
			break;
	}
	pfree(list.data);
}

/* ---- may it? ---- */

bool
coupon_limit_admits_address(CouponHttpCall *call, TimestampTz now)
{
	char		client[128];
	char		network[128];

	if (coupon_http_rate_per_address <= 0)
		return true;
	coupon_limit_client(call, client, sizeof(client));
	return take("address", write_address(client, true, network, sizeof(network)) ? network : client,
				coupon_http_rate_per_address, now);
}

bool
coupon_limit_admits_user(CouponHttpCall *call, TimestampTz now)
{
	return coupon_http_rate_per_user <= 0 || call->user_id == NULL ||
		take("user", call->user_id, coupon_http_rate_per_user, now);
}
