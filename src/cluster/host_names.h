/*
 * host_names.h
 *	  Names of hosts are looked up without waiting for it.
 */
#ifndef COUPON_HOST_NAMES_H
#define COUPON_HOST_NAMES_H

typedef struct CouponHostNames CouponHostNames;

/*
 * Begins to look up the names in a list of hosts, as in a conninfo.  NULL: there
 * are none, or it cannot be done.  Never throws.
 */
extern CouponHostNames *coupon_host_names_begin(const char *hosts);

/* Is there an answer, whatever it is? */
extern bool coupon_host_names_known(CouponHostNames *lookup);

/* Nobody asks for it any more, be it over or not. */
extern void coupon_host_names_leave(CouponHostNames *lookup);

#endif							/* COUPON_HOST_NAMES_H */
