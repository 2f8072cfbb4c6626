/*
 * front.h
 *	  A turn of the front: the calls that are there, carried out together.
 */
#ifndef COUPON_FRONT_H
#define COUPON_FRONT_H

#include <signal.h>

#include "front/http.h"

/* What a signal must know of a turn's commit. */
typedef enum CouponFrontCommit
{
	COUPON_NOT_COMMITTING,
	COUPON_COMMITTING,			/* perhaps waiting for a synchronous standby */
	COUPON_COMMIT_CANCELLED		/* told not to wait */
} CouponFrontCommit;

extern volatile sig_atomic_t coupon_front_commit;

/* Sets up, once in the process. */
extern void coupon_front_start(void);

/*
 * Carries out the calls that arrived (in the list, which is emptied) and those
 * whose time to be asked again has come, and hands over their answers.  False:
 * there were none.  Does not throw but for a shortage of memory at its very
 * beginning.
 */
extern bool coupon_front_turn(dlist_head *arrived);

/* When the next turn is due without new calls, in ms from now; -1: never. */
extern long coupon_front_timeout(void);

/* The server ends: whoever waits gets the answer that there is. */
extern void coupon_front_end_waits(void);

/* Are there calls that wait, or open streams? */
extern bool coupon_front_is_waiting(void);

/* How many calls wait, and how many streams are open. */
extern void coupon_front_count(int *nwaits, int *nopen);

/* A listener is about to be closed: answers what waits, ends the streams. */
extern void coupon_front_drop(CouponListener *listener);

#endif							/* COUPON_FRONT_H */
