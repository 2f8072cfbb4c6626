/*
 * thread.h
 *	  Threads for what waits in a library: nothing of PostgreSQL may run in them.
 */
#ifndef COUPON_THREAD_H
#define COUPON_THREAD_H

#include <pthread.h>

/* Starts one, with all signals blocked: signals are this process's.  False: it cannot be. */
extern bool coupon_thread_start(pthread_t *thread, void *(*run) (void *), void *arg);

#endif							/* COUPON_THREAD_H */
