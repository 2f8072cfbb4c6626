/*
 * service.h
 *	  What the front answers by itself about its health, and how it goes.
 */
#ifndef COUPON_SERVICE_H
#define COUPON_SERVICE_H

#include "front/http.h"

/* Answers /healthz and /readyz; false: it is none of them. */
extern bool coupon_service_serve(CouponHttpCall *call);

/* Is the word in the setting's comma-separated list? */
extern bool coupon_service_in_list(const char *list, const char *word);

/* Has this database the extension, with its tables in place? */
extern bool coupon_front_has_extension(void);

#endif							/* COUPON_SERVICE_H */
