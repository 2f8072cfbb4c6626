/*
 * locks.h
 *	  Heavyweight locks of our own: user locks, with these in the last field.
 *
 * Advisory locks use the same lock method with other tags, so an application's
 * never meet ours.
 */
#ifndef COUPON_LOCKS_H
#define COUPON_LOCKS_H

#define COUPON_LOCK_WORKER	1	/* field 2: kind; one worker a database */
#define COUPON_LOCK_USER	2	/* fields 2, 3: hash of campaign and user */

#endif							/* COUPON_LOCKS_H */
