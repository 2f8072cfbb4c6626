/*
 * host_names.c
 *	  Names of hosts are looked up without waiting for it.
 *
 * libpq looks up a host's name in the middle of making a connection, and
 * nothing interrupts that: where no name server answers it takes ten seconds
 * and more, in which the process hears of nothing, and others wait for it.  So
 * a thread looks it up first, and libpq does so once there was an answer, which
 * it gets as soon.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <netdb.h>

#include "port/atomics.h"

#include "base/thread.h"
#include "cluster/host_names.h"

struct CouponHostNames
{
	pg_atomic_uint32 users;		/* the thread and the process; the last one
								 * frees it */
	pg_atomic_uint32 is_over;
	size_t		length;			/* of names, one behind the other, each ends
								 * with a zero */
	char		names[FLEXIBLE_ARRAY_MEMBER];
};

void
coupon_host_names_leave(CouponHostNames *lookup)
{
	if (pg_atomic_sub_fetch_u32(&lookup->users, 1) == 0)
		free(lookup);
}

bool
coupon_host_names_known(CouponHostNames *lookup)
{
	return pg_atomic_read_u32(&lookup->is_over) != 0;
}

/* A thread: nothing of PostgreSQL in here. */
static void *
look_up(void *arg)
{
	CouponHostNames *lookup = arg;
	const char *name;

	for (size_t at = 0; at < lookup->length; at += strlen(name) + 1)
	{
		struct addrinfo hints = {.ai_family = AF_UNSPEC,.ai_socktype = SOCK_STREAM};
		struct addrinfo *found;

		name = lookup->names + at;
		if (getaddrinfo(name, NULL, &hints, &found) == 0)
			freeaddrinfo(found);
	}
	pg_atomic_write_u32(&lookup->is_over, 1);
	coupon_host_names_leave(lookup);
	return NULL;
}

/* Is it a name, and no directory of a socket and no address? */
static bool
is_name(const char *host)
{
	struct in6_addr address;

	return host[0] != '\0' && host[0] != '/' && host[0] != '@' &&
		inet_pton(AF_INET, host, &address) != 1 && inet_pton(AF_INET6, host, &address) != 1;
}

CouponHostNames *
coupon_host_names_begin(const char *hosts)
{
	CouponHostNames *lookup = malloc(offsetof(CouponHostNames, names) + strlen(hosts) + 1);
	pthread_t	thread;

	if (lookup == NULL)
		return NULL;
	pg_atomic_init_u32(&lookup->users, 2);
	pg_atomic_init_u32(&lookup->is_over, 0);
	lookup->length = 0;
	while (*hosts != '\0')
	{
		char	   *name = lookup->names + lookup->length;
		size_t		length = strcspn(hosts, ",");

		strlcpy(name, hosts, length + 1);
		if (is_name(name))
			lookup->length += length + 1;
		hosts += length;
		if (*hosts == ',')
			hosts++;
	}
	if (lookup->length > 0 && coupon_thread_start(&thread, look_up, lookup))
	{
		pthread_detach(thread);
		return lookup;
	}
	free(lookup);
	return NULL;
}
