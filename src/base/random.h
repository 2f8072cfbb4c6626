/*
 * random.h
 *	  Random values that nobody can guess.
 */
#ifndef COUPON_RANDOM_H
#define COUPON_RANDOM_H

/*
 * From a pool of the process's, so that few cost a system call.  ERROR without
 * a source.  Not in the postmaster: all that it starts would have its pool.
 */
extern void coupon_random(void *to, Size length);

#endif							/* COUPON_RANDOM_H */
