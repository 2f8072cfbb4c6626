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
#define COUPON_LOCK_REQUESTS	3	/* field 2: table; who builds its lines */
#define COUPON_LOCK_TICKETS	4	/* the same */
#define COUPON_LOCK_DECIDING	5	/* fields 2, 3: campaign whose requests are decided */
#define COUPON_LOCK_REQUESTER	6	/* fields 2, 3: hash of campaign and user */
#define COUPON_LOCK_JOINER	7	/* fields 2, 3: hash of room and user */
#define COUPON_LOCK_ADMITTING	8	/* fields 2, 3: room whose tickets are served */

#endif							/* COUPON_LOCKS_H */
