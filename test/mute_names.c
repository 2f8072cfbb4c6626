/*
 * mute_names.c
 *	  Name servers that say nothing, preloaded into servers: names that end in
 *	  .mute take a minute, and are not found then.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

int
getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **res)
{
	int			(*next) (const char *, const char *, const struct addrinfo *, struct addrinfo **) =
		(int (*) (const char *, const char *, const struct addrinfo *, struct addrinfo **)) dlsym(RTLD_NEXT, "getaddrinfo");
	size_t		length = node ? strlen(node) : 0;

	if (length < 5 || strcmp(node + length - 5, ".mute") != 0)
		return next(node, service, hints, res);
	for (int i = 0; i < 600; i++)
		usleep(100000);
	return EAI_AGAIN;
}
