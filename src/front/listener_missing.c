/*
 * listener_missing.c
 *	  In listener.c's and token.c's place where coupon is built without
 *	  libmicrohttpd or libjwt: there is no HTTP, and the log says why.
 */
#include "postgres.h"

#include "front/http.h"
#include "front/token.h"

#define MISSING "coupon was built without libmicrohttpd and libjwt"

CouponListener *
coupon_listener_open(const char *address, const CouponListenerLimits *limits, char **error)
{
	*error = psprintf("\"%s\": " MISSING " (Debian: libmicrohttpd-dev, libjwt-dev)", address);
	return NULL;
}

bool
coupon_listener_is_built(void)
{
	return false;
}

bool
coupon_token_has_library(void)
{
	return false;
}

/* Without a listener nothing else is ever called. */
static void
never(void)
{
	elog(ERROR, MISSING);
}

void
coupon_listener_set_patience(CouponListener *listener, int idle_s, int request_s)
{
	never();
}

void
coupon_listener_quiesce(CouponListener *listener)
{
	never();
}

void
coupon_listener_close(CouponListener *listener)
{
	never();
}

int
coupon_listener_fd(CouponListener *listener)
{
	never();
	return -1;
}

long
coupon_listener_timeout(CouponListener *listener)
{
	never();
	return -1;
}

void
coupon_listener_run(CouponListener *listener, dlist_head *calls)
{
	never();
}

void
coupon_listener_answer(CouponHttpCall *call)
{
	never();
}

void
coupon_listener_stream(CouponHttpCall *call)
{
	never();
}

void
coupon_listener_send(CouponHttpCall *call)
{
	never();
}

void
coupon_listener_release(CouponHttpCall *call)
{
	never();
}

const char *
coupon_http_header(CouponHttpCall *call, const char *name)
{
	never();
	return NULL;
}

void
coupon_http_each_header(CouponHttpCall *call,
						void (*f) (void *state, const char *name, const char *value), void *state)
{
	never();
}

void
coupon_http_peer(CouponHttpCall *call, char *buffer, size_t size)
{
	never();
}

int
coupon_listener_connections(CouponListener *listener)
{
	never();
	return 0;
}

int
coupon_listener_outstanding(CouponListener *listener)
{
	never();
	return 0;
}

const CouponIdentity *
coupon_token_check(const char *authorization, TimestampTz now, const char **problem)
{
	never();
	return NULL;
}

void
coupon_token_reload(void)
{
}
