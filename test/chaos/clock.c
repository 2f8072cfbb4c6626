/*
 * clock.c
 *	  A clock that the harness steps: preloaded into the servers.
 *
 * The file COUPON_CHAOS_CLOCK has the seconds that they are ahead, as eight
 * bytes; it is mapped, so a step costs no system call and reaches all at once.
 * The monotonic clock is left alone, as it is by whoever sets a real one.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *ahead;

static __attribute__((constructor)) void
map_clock(void)
{
	static const int64_t none;
	const char *path = getenv("COUPON_CHAOS_CLOCK");
	int			fd = path ? open(path, O_RDONLY) : -1;
	void	   *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(none), PROT_READ, MAP_SHARED, fd, 0);

	ahead = map == MAP_FAILED ? &none : map;
	if (fd >= 0)
		close(fd);
}

int
gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
	struct timespec now;
	int			result = clock_gettime(CLOCK_REALTIME, &now);

	(void) tz;
	tv->tv_sec = now.tv_sec + *ahead;
	tv->tv_usec = now.tv_nsec / 1000;
	return result;
}
