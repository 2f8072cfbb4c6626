/*
 * route.h
 *	  Routes: which function a method and a path call, from coupon.http_route.
 */
#ifndef COUPON_ROUTE_H
#define COUPON_ROUTE_H

#include "nodes/pg_list.h"

#include "front/http.h"

#define COUPON_MAX_SEGMENTS	16

/* A segment of a path's template: a literal, or the name of an argument. */
typedef struct CouponSegment
{
	char	   *text;
	bool		is_argument;
} CouponSegment;

typedef struct CouponParameter
{
	char	   *name;			/* NULL: it has none, and cannot be given */
	Oid			type;			/* of a batched function: the array's
								 * elements' */
	Oid			input;			/* the type's input function, and what it
								 * takes */
	Oid			ioparam;
	bool		optional;		/* it has a default */
} CouponParameter;

/* A prepared call of a route's function by a role, with some of its parameters given. */
typedef struct CouponPlan
{
	struct CouponPlan *next;
	Oid			role;			/* whose rights it was made with */
	uint64		given;			/* a bit for each parameter */
	struct _SPI_plan *plan;
} CouponPlan;

typedef struct CouponRoute
{
	char	   *method;
	char	   *path;			/* the template, for messages and
								 * /openapi.json */
	CouponSegment segments[COUPON_MAX_SEGMENTS];
	int			nsegments;
	Oid			function;
	char	   *name;			/* quoted, with its schema */
	char	   *schema;
	bool		batched;
	bool		read_only;		/* GET and STABLE or IMMUTABLE */
	Oid			required_role;	/* whoever calls must be a member; InvalidOid:
								 * anybody */
	Oid			anonymous_role; /* whose rights a call without a token has;
								 * InvalidOid: coupon.http_role's */
	bool		is_admin;		/* for coupon.http_admin_listen, if that is
								 * set */
	Oid			result;			/* its type */
	bool		returns_set;
	CouponParameter *parameters;
	int			nparameters;
	CouponPlan *plans;			/* made by call.c on first use */
	int			nplans;
} CouponRoute;

/* Changes whenever routes are read anew: earlier pointers are invalid then. */
extern uint64 coupon_route_generation(void);

/* Reads the routes if they have changed.  In a transaction with a snapshot. */
extern void coupon_route_load(void);

/* Must they be read? */
extern bool coupon_route_stale(void);

/*
 * The route of a request; its path's arguments are set in the call.  NULL if
 * there is none: then *allow, unless it is NULL, are the methods that the path
 * has, "" if it is unknown.
 */
extern CouponRoute *coupon_route_find(CouponHttpCall *call, StringInfo allow, const char **problem);

/*
 * Reads the arguments from query and body.  Returns NULL, or what is wrong, a
 * sentence.
 */
extern const char *coupon_arguments_read(CouponHttpCall *call);

/* Adds an argument; returns NULL, or what is wrong, a sentence. */
extern const char *coupon_arguments_add(CouponHttpCall *call, const char *name, const char *value,
										CouponArgumentKind kind);

/*
 * Adds what the header Idempotency-Key says as request_key; a second one is
 * refused.  Returns NULL, or what is wrong, a sentence.
 */
extern const char *coupon_arguments_add_key(CouponHttpCall *call);

/* The argument of that name, or NULL. */
extern CouponHttpArgument *coupon_arguments_find(CouponHttpCall *call, const char *name);

/* The beginning of a name that somebody else has chosen, to be quoted. */
extern char *coupon_clip(const char *name);

/* Decodes %xx, and + as a blank if it is a form; NULL if it is malformed. */
extern char *coupon_decode(const char *text, size_t length, bool form);

#endif							/* COUPON_ROUTE_H */
