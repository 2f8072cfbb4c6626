/*
 * http.h
 *	  One HTTP request on its way through the front, and the listener.
 *
 * listener.c owns the connections: it collects whole requests and hands them
 * over, suspended; whoever gives an answer hands them back.  Everything in
 * between is plain PostgreSQL code that may raise an ERROR; nothing that
 * libmicrohttpd calls may.
 */
#ifndef COUPON_HTTP_H
#define COUPON_HTTP_H

#include "lib/ilist.h"
#include "lib/stringinfo.h"
#include "portability/instr_time.h"
#include "utils/timestamp.h"

#define COUPON_HTTP_MAX_BODY	(64 * 1024) /* bytes */

/* How an argument was given. */
typedef enum CouponArgumentKind
{
	COUPON_GIVEN_TEXT,			/* in a path, a query, a form, a header or a
								 * token */
	COUPON_GIVEN_STRING,		/* as a JSON string: value is its text */
	COUPON_GIVEN_JSON			/* as another JSON value, or null: then value
								 * is NULL */
} CouponArgumentKind;

/* One argument of a call, by name. */
typedef struct CouponHttpArgument
{
	const char *name;
	const char *value;
	CouponArgumentKind kind;
} CouponHttpArgument;

#define COUPON_HTTP_MAX_ARGUMENTS	32

/* Why a request is refused before it is looked at: a problem. */
typedef struct CouponHttpRefusal
{
	int			status;
	const char *code;
	const char *title;
	const char *detail;			/* or NULL */
} CouponHttpRefusal;

/* What is known of the caller; see token.h. */
struct CouponIdentity;
struct CouponRoute;
struct MHD_Connection;
struct MHD_Response;

/* Where a call is; when its client leaves, it is freed accordingly. */
typedef enum CouponHttpState
{
	COUPON_HTTP_READING,		/* not complete: the listener's */
	COUPON_HTTP_ARRIVED,		/* in the list of arrived calls */
	COUPON_HTTP_TAKEN,			/* in a turn, during which no client leaves */
	COUPON_HTTP_KEPT,			/* in a list of the front, which releases it */
	COUPON_HTTP_ANSWERED		/* the listener's again */
} CouponHttpState;

typedef struct CouponHttpCall
{
	dlist_node	node;			/* of the state's list */
	CouponHttpState state;
	struct CouponListener *listener;
	struct MHD_Connection *connection;
	instr_time	arrived;		/* when it was complete */

	/* ---- the request; listener.c sets it ---- */
	const char *method;			/* upper case, as it came */
	char	   *target;			/* path and query, not decoded; malloc */
	char	   *body;			/* NUL at its end; malloc, NULL: none */
	size_t		body_length;
	const CouponHttpRefusal *refusal;	/* NULL: it is to be looked at */
	bool		is_admin;		/* it came in by coupon.http_admin_listen */
	bool		failed;			/* no memory for its answer: the connection is
								 * closed */
	bool		suspended;		/* its connection is, until there is something
								 * to send */
	bool		gone;			/* its client has left */

	/* ---- the call; in context, which lives as long as the request ---- */
	MemoryContext context;		/* NULL before it is looked at */
	MemoryContext refreshed;	/* in it: the arguments, when they have been
								 * read again; or NULL */
	struct CouponRoute *route;	/* valid for the routes' generation */
	uint64		generation;
	Oid			role;
	const char *user_id;		/* of the token, NULL: none */
	const char *claims;			/* JSON, NULL: none */
	TimestampTz expires_at;		/* the token */
	const char *trace;			/* see base/trace.h; NULL: none */
	CouponHttpArgument *arguments;
	int			narguments;
	TimestampTz deadline;		/* until when a pending answer is waited for,
								 * by coupon_steady_now() */
	TimestampTz next_try;		/* by the same clock */
	int			tries;
	int			position;		/* in its turn */
	bool		is_stream;		/* it wants events */
	bool		done;			/* its answer is written */

	/* ---- the answer ---- */
	int			status;
	StringInfo	headers;		/* "Name: value\n" lines, NULL: none */
	const char *body_type;		/* a content type; NULL: application/json */
	char	   *answer;			/* NULL: no body */
	size_t		answer_length;
	struct MHD_Response *response;	/* what goes out; listener.c's */

	/* ---- an open event stream ---- */
	StringInfo	events;			/* what is yet to be sent */
	size_t		events_sent;
	bool		told;			/* told_hash is that of the body that was sent
								 * last */
	uint32		told_hash;
	bool		stream_ended;	/* nothing more will come */
} CouponHttpCall;

/* What the listener is bounded by. */
typedef struct CouponListenerLimits
{
	int			connections;	/* requests of further ones are refused */
	int			idle_s;			/* how long a connection may be without a
								 * request, and an answer be on its way */
	int			request_s;		/* from a request's first line to its end */
	bool		is_admin;		/* for the calls that come in */
	bool		is_shared;		/* other workers listen on the same address */
} CouponListenerLimits;

typedef struct CouponListener CouponListener;

/*
 * Listens on "address:port" ("[::1]:80", "*:80", ":80").  NULL, and *error
 * (palloc'd), if it cannot.  Several processes may listen on one address if it is
 * shared: the kernel lets every process of the same user join them.
 */
extern CouponListener *coupon_listener_open(const char *address, const CouponListenerLimits *limits,
											char **error);

/* False where libmicrohttpd was not there to build with: then nothing listens. */
extern bool coupon_listener_is_built(void);

/* Changes two of the limits. */
extern void coupon_listener_set_patience(CouponListener *listener, int idle_s, int request_s);

/* Takes no new connections any more; those that are open go on. */
extern void coupon_listener_quiesce(CouponListener *listener);

/* Closes everything.  All calls must have been answered. */
extern void coupon_listener_close(CouponListener *listener);

/* The descriptor that becomes readable when there is something to run. */
extern int	coupon_listener_fd(CouponListener *listener);

/* How long it may wait at most before it is run again, in ms; -1: for ever. */
extern long coupon_listener_timeout(CouponListener *listener);

/*
 * Reads and writes what can be read and written; requests that became
 * complete are appended to calls, all of which are to be taken before it is run
 * again.  Never throws.
 */
extern void coupon_listener_run(CouponListener *listener, dlist_head *calls);

/* Sends the answer that the call carries; the call is the listener's again. */
extern void coupon_listener_answer(CouponHttpCall *call);

/*
 * Opens the stream of events that the answer is, with what is in call->events;
 * later ones are sent by coupon_listener_send.
 */
extern void coupon_listener_stream(CouponHttpCall *call);
extern void coupon_listener_send(CouponHttpCall *call);

/* Frees a call that was kept, and whose client has left. */
extern void coupon_listener_release(CouponHttpCall *call);

/* A header of the request, NULL without it. */
extern const char *coupon_http_header(CouponHttpCall *call, const char *name);

/* Calls f for each header of the request. */
extern void coupon_http_each_header(CouponHttpCall *call,
									void (*f) (void *state, const char *name, const char *value),
									void *state);

/* The client's address as text, from the socket. */
extern void coupon_http_peer(CouponHttpCall *call, char *buffer, size_t size);

/* How many connections are open. */
extern int	coupon_listener_connections(CouponListener *listener);

/* How many requests have begun, and have not been answered to the end. */
extern int	coupon_listener_outstanding(CouponListener *listener);

#endif							/* COUPON_HTTP_H */
