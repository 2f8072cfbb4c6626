/*
 * address.c
 *	  An address to listen on, and how many connections there may be to it.
 */
#include "postgres.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "front/address.h"

#define BACKLOG				4096
#define RESERVED_FILES		256 /* for the rest of the server's process */
#define VANISHED_MS			30000	/* after which a client whose machine says
									 * nothing is gone; of itself TCP would
									 * wait for a quarter of an hour */

/* Splits "host:port" where it is; host is NULL for any address. */
static bool
split_address(char *address, char **host, char **port)
{
	char	   *colon = strrchr(address, ':');

	if (colon == NULL || colon[1] == '\0')
		return false;
	*colon = '\0';
	*port = colon + 1;
	*host = address;
	if (address[0] == '[' && colon[-1] == ']')
	{
		colon[-1] = '\0';
		*host = address + 1;
	}
	if ((*host)[0] == '\0' || strcmp(*host, "*") == 0)
		*host = NULL;
	return true;
}

bool
coupon_address_is_well_formed(const char *address)
{
	char	   *copy = pstrdup(address);
	char	   *host;
	char	   *port;
	bool		well_formed = split_address(copy, &host, &port) && strspn(port, "0123456789") == strlen(port) &&
	strlen(port) <= 5 && atoi(port) >= 1 && atoi(port) <= 65535;

	pfree(copy);
	return well_formed;
}

int
coupon_address_listen(const char *address, bool shared, char **error)
{
	struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV,.ai_socktype = SOCK_STREAM};
	struct addrinfo *found;
	char	   *copy = pstrdup(address);
	char	   *host;
	char	   *port;
	int			fd;
	int			one = 1;
	int			vanished = VANISHED_MS;
	int			result;

	if (!split_address(copy, &host, &port))
	{
		pfree(copy);
		*error = psprintf("\"%s\" is not of the form address:port", address);
		return -1;
	}
	result = getaddrinfo(host, port, &hints, &found);
	pfree(copy);
	if (result != 0)
	{
		*error = psprintf("\"%s\": %s", address, gai_strerror(result));
		return -1;
	}
	fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd >= 0)
	{
		(void) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (shared)
			(void) setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
#ifdef TCP_USER_TIMEOUT
		/* its connections inherit it */
		(void) setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &vanished, sizeof(vanished));
#endif
	}
	if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0)
	{
		*error = psprintf("\"%s\": %m", address);
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	freeaddrinfo(found);
	return fd;
}

/*
 * How many connections there may be: so many that the files of the server are
 * not missing descriptors.  A WAL segment that cannot be opened is a PANIC.
 */
int
coupon_address_connections(const char *address, int connections)
{
	struct rlimit limit;
	rlim_t		wanted = connections + COUPON_SPARE_CONNECTIONS(connections) + RESERVED_FILES;
	int			most;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= wanted)
		return connections;
	limit.rlim_cur = limit.rlim_max == RLIM_INFINITY ? wanted : Min(limit.rlim_max, wanted);
	(void) setrlimit(RLIMIT_NOFILE, &limit);
	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
		return connections;
	most = ((int) limit.rlim_cur - RESERVED_FILES - 16) * 8 / 9;
	most = Max(most, 8);
	ereport(LOG,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("coupon front takes %d connections on %s, not %d", most, address, connections),
			 errdetail("A process may have %d files open.", (int) limit.rlim_cur),
			 errhint("Raise that limit (ulimit -n, or LimitNOFILE of the service) where the server is started, or lower coupon.http_max_connections.")));
	return most;
}
