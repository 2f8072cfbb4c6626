/*
 * random.h
 *	  Random values that nobody can guess.
 */
#ifndef COUPON_RANDOM_H
#define COUPON_RANDOM_H

/* From a pool of the session's, so that few cost a system call.  ERROR without a source. */
extern void coupon_random(void *to, Size length);

#endif							/* COUPON_RANDOM_H */
