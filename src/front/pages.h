/*
 * pages.h
 *	  The pages for people: the waiting room's and the board's.
 */
#ifndef COUPON_PAGES_H
#define COUPON_PAGES_H

#include "front/http.h"

/* Answers a GET of a page or of what it is made of; false: it is none. */
extern bool coupon_pages_serve(CouponHttpCall *call);

/* Has the files read again. */
extern void coupon_pages_reload(void);

#endif							/* COUPON_PAGES_H */
