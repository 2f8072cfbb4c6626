/*
 * service.h
 *	  What the front answers by itself: health; and its own counters.
 */
#ifndef COUPON_SERVICE_H
#define COUPON_SERVICE_H

#include "base/shmem.h"
#include "front/http.h"

extern const CouponModule coupon_service_module;

/* Answers /healthz and /readyz; false: it is none of them. */
extern bool coupon_service_serve(CouponHttpCall *call);

/* Is the word in the setting's comma-separated list? */
extern bool coupon_service_in_list(const char *list, const char *word);

/* Counts an answer, with the time that it took. */
extern void coupon_service_count(CouponHttpCall *call);

/* Has this database the extension, with its tables in place? */
extern bool coupon_front_has_extension(void);

#endif							/* COUPON_SERVICE_H */
