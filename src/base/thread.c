/*
 * thread.c
 *	  Threads for what waits in a library: nothing of PostgreSQL may run in them.
 */
#include "postgres.h"

#include <signal.h>

#include "base/thread.h"

bool
coupon_thread_start(pthread_t *thread, void *(*run) (void *), void *arg)
{
	sigset_t	all;
	sigset_t	before;
	int			failed;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	failed = pthread_create(thread, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return failed == 0;
}
