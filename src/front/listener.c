/*
 * listener.c
 *	  HTTP connections, by libmicrohttpd.
 *
 * The library runs in external epoll mode: it has no thread, it is run when
 * its epoll descriptor is readable, and it calls the functions below.  None of
 * them may raise an ERROR, since that would jump through the library, so they
 * allocate with malloc and only collect: a request that is complete is put into
 * a list, which the front works off afterwards.
 *
 * The library asks for the answer of a complete request whenever it is run.  A
 * request whose answer takes longer than the front's turn is suspended the first
 * time that it asks in vain.  To suspend each would cost two system calls more,
 * and a third to look for a next request in vain.
 *
 * The paths and queries are taken as they came (the library would decode them
 * in place, and an encoded slash or NUL would then look like a real one).
 *
 * A connection on which no request becomes complete, or no answer is taken, for
 * too long is shut, however busily it dribbles: the library's own time-out
 * counts bytes, so it is not used.  Where all connections are taken, whoever is
 * slow or idle makes room much earlier; who comes in nevertheless is told to
 * come again.
 *
 * The library is lenient: of two lengths it takes the first, and what it does
 * not understand of an encoding it leaves out.  A proxy in front may have read
 * the same request differently, and take what we see as a second request for a
 * part of the first.  So a request whose end could be argued about is refused,
 * and its connection closed.
 */
#include "postgres.h"

#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "postmaster/interrupt.h"
#include "utils/memutils.h"

#include "base/clock.h"
#include "front/address.h"
#include "front/answer.h"
#include "front/settings.h"

#define CONNECTION_MEMORY	(16 * 1024) /* bytes: request line and headers,
										 * and sending */
#define STREAM_BLOCK		4096

/*
 * A proxy in front must not read another request than we do.  What 0.9.75 takes
 * we look at ourselves; 1.0 unfolds headers, unless it is told to be strict.
 */
#if MHD_VERSION >= 0x00097701
#define STRICTNESS			MHD_OPTION_CLIENT_DISCIPLINE_LVL, 1,
#else
#define STRICTNESS
#endif
#define MAX_HEADER			8192	/* bytes, with the request line */
#define MAX_HEADERS			100
#define MAX_DISCARDED		(1024 * 1024)	/* bytes of a body that is too
											 * large: a client that is told so
											 * before it has sent all may not
											 * read it */
#define MAX_BODIES			(64 * 1024 * 1024)	/* bytes, of all requests */
#define CROWDED_S			2	/* patience where all connections are taken */

/* What a connection is about. */
typedef enum ConnectionState
{
	CONNECTION_IDLE,			/* no request has begun */
	CONNECTION_READING,			/* a request's first line has come; its rest
								 * has not */
	CONNECTION_WORKING,			/* a request is being worked on */
	CONNECTION_SENDING,			/* an answer goes out */
	CONNECTION_STREAMING		/* events do */
} ConnectionState;

/* A connection, from accept to close. */
typedef struct Connection
{
	dlist_node	node;
	int			fd;
	ConnectionState state;
	TimestampTz since;			/* so it has been, or sent events last */
	bool		is_spare;		/* beyond the limit */
	CouponHttpCall *call;		/* that is being read or answered, or NULL */
} Connection;

struct CouponListener
{
	struct MHD_Daemon *daemon;
	int			listen_fd;
	int			epoll_fd;
	CouponListenerLimits limits;
	dlist_head	connections;
	int			nconnections;
	dlist_head *calls;			/* of the running coupon_listener_run */
	int			outstanding;	/* calls that have begun and not ended */
	bool		answered;		/* there are answers that the library does not
								 * know of */
	TimestampTz now;			/* of this run */
	TimestampTz swept;			/* when slow clients were looked for */
};

/* Why a request is refused before anything is done about it. */
static const CouponHttpRefusal ambiguous = {400, "malformed", "The request's headers contradict each other, or HTTP."};
static const CouponHttpRefusal long_header = {431, "header_too_large", "The request's headers are too large.", "They may have 8192 bytes, with the request line, and be 100."};
static const CouponHttpRefusal long_target = {414, "target_too_large", "The request's target is too long."};
static const CouponHttpRefusal long_body = {413, "too_large", "The body is too large.", "It may have 65536 bytes."};
static const CouponHttpRefusal crowded = {503, "full", "Too many are connected: try again."};
static const CouponHttpRefusal no_memory = {503, "full", "Too many bodies are being received: try again."};

static size_t bodies = 0;		/* bytes, of all listeners' requests */

static Connection *
connection_of(struct MHD_Connection *mhd)
{
	const union MHD_ConnectionInfo *info =
	MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return info == NULL ? NULL : info->socket_context;
}

static void
note_connection(void *cls, struct MHD_Connection *mhd, void **context,
				enum MHD_ConnectionNotificationCode code)
{
	CouponListener *listener = cls;
	Connection *connection;

	if (code == MHD_CONNECTION_NOTIFY_CLOSED)
	{
		connection = *context;
		if (connection != NULL)
		{
			dlist_delete(&connection->node);
			listener->nconnections--;
			free(connection);
		}
		*context = NULL;
		return;
	}
	connection = calloc(1, sizeof(Connection));
	*context = connection;
	if (connection == NULL)
		return;
	connection->fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
	connection->since = listener->now;
	dlist_push_tail(&listener->connections, &connection->node);
	connection->is_spare = ++listener->nconnections > listener->limits.connections;
}

static void
set_state(Connection *connection, ConnectionState state)
{
	connection->state = state;
	connection->since = connection->call->listener->now;
}

/* Path and query of a target, which may begin with a server's name as for a proxy. */
static const char *
origin_form(const char *uri)
{
	if (pg_strncasecmp(uri, "http://", 7) != 0 && pg_strncasecmp(uri, "https://", 8) != 0)
		return uri;
	uri = strstr(uri, "://") + 3;
	uri += strcspn(uri, "/?");
	return *uri == '/' ? uri : "/";
}

/* The first line of a request has come. */
static void *
begin_call(void *cls, const char *uri, struct MHD_Connection *mhd)
{
	CouponListener *listener = cls;
	Connection *connection = connection_of(mhd);
	CouponHttpCall *call = uri == NULL || connection == NULL ? NULL : calloc(1, sizeof(CouponHttpCall));
	char	   *query;

	if (call == NULL)
		return NULL;
	call->target = strdup(origin_form(uri));
	if (call->target == NULL)
	{
		free(call);
		return NULL;
	}

	/*
	 * The library need not read the arguments: we do.  1.0.1 would crash over
	 * one without a value where no header follows.
	 */
	query = strchr(uri, '?');
	if (query != NULL)
		query[1] = '\0';
	call->listener = listener;
	call->is_admin = listener->limits.is_admin;
	listener->outstanding++;
	call->connection = mhd;
	connection->call = call;
	set_state(connection, CONNECTION_READING);
	return call;
}

/* ---- is it a request that we take? ---- */

typedef struct Framing
{
	int			headers;
	int			lengths;
	int			encodings;
	int			hosts;
	int			authorizations;
	bool		chunked;
	bool		malformed;
	uint64		length;
} Framing;

/* Is it that header, or one that a folded line has been glued to? */
static bool
begins_with(const char *name, const char *header, bool *malformed)
{
	size_t		length = strlen(header);

	if (pg_strncasecmp(name, header, length) != 0)
		return false;
	if (name[length] != '\0')
		*malformed = true;
	return true;
}

static enum MHD_Result
note_framing(void *cls, enum MHD_ValueKind kind, const char *name, const char *value)
{
	Framing    *framing = cls;

	if (value == NULL)
		value = "";
	framing->headers++;
	if (!coupon_answer_is_token(name))
		framing->malformed = true;
	if (begins_with(name, MHD_HTTP_HEADER_CONTENT_LENGTH, &framing->malformed))
	{
		framing->lengths++;
		framing->length = strtoull(value, NULL, 10);
	}
	else if (begins_with(name, MHD_HTTP_HEADER_TRANSFER_ENCODING, &framing->malformed))
	{
		framing->encodings++;
		framing->chunked = pg_strcasecmp(value, "chunked") == 0;
	}
	else if (pg_strcasecmp(name, MHD_HTTP_HEADER_HOST) == 0)
		framing->hosts++;
	else if (pg_strcasecmp(name, MHD_HTTP_HEADER_AUTHORIZATION) == 0)
		framing->authorizations++;
	return MHD_YES;
}

/* The headers are there: NULL, or why nothing else is read. */
static const CouponHttpRefusal *
judge_headers(Connection *connection, CouponHttpCall *call, const char *version)
{
	Framing		framing = {0};
	const union MHD_ConnectionInfo *info =
	MHD_get_connection_info(call->connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);

	if (connection->is_spare)
		return &crowded;
	(void) MHD_get_connection_values(call->connection, MHD_HEADER_KIND, note_framing, &framing);
	if (strlen(call->target) > MAX_HEADER)
		return &long_target;
	if (framing.headers > MAX_HEADERS || (info != NULL && info->header_size > MAX_HEADER))
		return &long_header;
	if (framing.malformed || framing.hosts > 1 || (framing.hosts == 0 && strcmp(version, "HTTP/1.0") != 0) ||
		strchr(call->target, ' ') != NULL || framing.authorizations > 1 ||
		framing.lengths + framing.encodings > 1 ||
		(framing.encodings > 0 && (!framing.chunked || strcmp(version, "HTTP/1.0") == 0)) ||
		!coupon_answer_is_token(call->method))
		return &ambiguous;
	if (framing.length > MAX_DISCARDED)
		return &long_body;
	return NULL;
}

/* Appends to the body; false: enough of it has been thrown away. */
static bool
collect_body(CouponHttpCall *call, const char *data, size_t size)
{
	char	   *body = NULL;

	if (call->body_length + size > COUPON_HTTP_MAX_BODY)
		call->refusal = &long_body;
	else if (call->refusal == NULL && bodies + size <= MAX_BODIES)
		body = realloc(call->body, call->body_length + size + 1);
	if (body == NULL)
	{
		/* what comes later is counted, and not kept */
		if (call->refusal == NULL)
			call->refusal = &no_memory;
		if (call->body != NULL)
			bodies -= call->body_length;
		free(call->body);
		call->body = NULL;
		call->body_length += size;
		return call->body_length <= MAX_DISCARDED;
	}
	memcpy(body + call->body_length, data, size);
	call->body_length += size;
	bodies += size;
	body[call->body_length] = '\0';
	call->body = body;
	return true;
}

static void
suspend(CouponHttpCall *call)
{
	call->suspended = true;
	MHD_suspend_connection(call->connection);
}

/* The call is the front's. */
static void
hand_over(Connection *connection, CouponHttpCall *call)
{
	set_state(connection, CONNECTION_WORKING);
	INSTR_TIME_SET_CURRENT(call->arrived);
	call->state = COUPON_HTTP_ARRIVED;
	dlist_push_tail(call->listener->calls, &call->node);
}

static enum MHD_Result
handle(void *cls, struct MHD_Connection *mhd, const char *url, const char *method,
	   const char *version, const char *upload_data, size_t *upload_size, void **context)
{
	CouponHttpCall *call = *context;
	Connection *connection = connection_of(mhd);

	if (call == NULL || call->failed || connection == NULL)
		return MHD_NO;			/* without memory: the connection is closed */
	if (call->response != NULL)
	{
		enum MHD_Result result = MHD_queue_response(mhd, call->status, call->response);

		set_state(connection, call->events == NULL ? CONNECTION_SENDING : CONNECTION_STREAMING);
		MHD_destroy_response(call->response);
		call->response = NULL;
		return result;
	}
	if (call->method == NULL)
	{
		/*
		 * The headers are there; a body may follow.  After an answer that is
		 * given now the library closes the connection.
		 */
		call->method = method;
		call->refusal = judge_headers(connection, call, version);
		if (call->refusal != NULL)
		{
			hand_over(connection, call);
			suspend(call);
		}
		return MHD_YES;
	}
	if (*upload_size > 0)
	{
		size_t		size = *upload_size;

		*upload_size = 0;
		return collect_body(call, upload_data, size) ? MHD_YES : MHD_NO;
	}
	if (call->state == COUPON_HTTP_READING)
		hand_over(connection, call);
	else if (call->state == COUPON_HTTP_KEPT)
		suspend(call);
	return MHD_YES;
}

static void
free_call(CouponHttpCall *call)
{
	if (call->context != NULL)
		MemoryContextDelete(call->context);
	if (call->response != NULL)
		MHD_destroy_response(call->response);
	if (call->body != NULL)
		bodies -= call->body_length;
	free(call->target);
	free(call->body);
	free(call);
}

/* The answer has been sent, or never will be. */
static void
end_call(void *cls, struct MHD_Connection *mhd, void **context,
		 enum MHD_RequestTerminationCode code)
{
	CouponListener *listener = cls;
	CouponHttpCall *call = *context;
	Connection *connection = connection_of(mhd);

	*context = NULL;
	if (call == NULL)
		return;
	if (connection != NULL)
	{
		set_state(connection, CONNECTION_IDLE);
		connection->call = NULL;
	}
	listener->outstanding--;
	call->gone = true;
	call->connection = NULL;
	/* a call that the front keeps is released by it */
	if (call->state == COUPON_HTTP_KEPT)
		return;
	if (call->state == COUPON_HTTP_ARRIVED)
		dlist_delete(&call->node);
	free_call(call);
}

/* Nothing is decoded: the target is taken as it came. */
static size_t
keep_escaped(void *cls, struct MHD_Connection *mhd, char *text)
{
	return strlen(text);
}

/* ---- opening and closing ---- */

/* A mistake in the use of the library, which may not take the server down. */
static void
panic(void *cls, const char *file, unsigned int line, const char *reason)
{
	ereport(FATAL,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("libmicrohttpd cannot go on: %s", reason == NULL ? "it does not say why" : reason)));
}

bool
coupon_listener_is_built(void)
{
	return true;
}

CouponListener *
coupon_listener_open(const char *address, const CouponListenerLimits *limits, char **error)
{
	CouponListener *listener;
	int			fd = coupon_address_listen(address, limits->is_shared, error);

	if (fd < 0)
		return NULL;
	listener = MemoryContextAllocZero(TopMemoryContext, sizeof(CouponListener));
	listener->limits = *limits;
	listener->limits.connections = coupon_address_connections(address, limits->connections);
	listener->listen_fd = fd;
	dlist_init(&listener->connections);
	listener->now = listener->swept = coupon_steady_now();
	MHD_set_panic_func(panic, NULL);
	listener->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_TURBO | MHD_ALLOW_SUSPEND_RESUME,
										0, NULL, NULL, handle, listener,
										MHD_OPTION_LISTEN_SOCKET, fd,
										MHD_OPTION_CONNECTION_LIMIT,
										(unsigned int) (listener->limits.connections + COUPON_SPARE_CONNECTIONS(listener->limits.connections)),
										MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t) CONNECTION_MEMORY,
										MHD_OPTION_CONNECTION_MEMORY_INCREMENT, (size_t) 1024,
										MHD_OPTION_NOTIFY_CONNECTION, note_connection, listener,
										MHD_OPTION_NOTIFY_COMPLETED, end_call, listener,
										MHD_OPTION_URI_LOG_CALLBACK, begin_call, listener,
										MHD_OPTION_UNESCAPE_CALLBACK, keep_escaped, NULL,
										MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
										STRICTNESS
										MHD_OPTION_END);
	if (listener->daemon == NULL)
	{
		*error = psprintf("\"%s\": libmicrohttpd cannot start", address);
		close(fd);
		pfree(listener);
		return NULL;
	}
	listener->epoll_fd = MHD_get_daemon_info(listener->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
	return listener;
}

void
coupon_listener_quiesce(CouponListener *listener)
{
	if (listener->listen_fd < 0)
		return;
	listener->listen_fd = -1;
	(void) close(MHD_quiesce_daemon(listener->daemon));
}

void
coupon_listener_close(CouponListener *listener)
{
	dlist_head	late;

	dlist_init(&late);
	/* cppcheck-suppress autoVariables; the list outlives the listener */
	listener->calls = &late;
	MHD_stop_daemon(listener->daemon);
	pfree(listener);
}

int
coupon_listener_fd(CouponListener *listener)
{
	return listener->epoll_fd;
}

long
coupon_listener_timeout(CouponListener *listener)
{
	MHD_UNSIGNED_LONG_LONG ms;

	if (listener->answered)
		return 0;
	return MHD_get_timeout(listener->daemon, &ms) == MHD_YES ? (long) Min(ms, 60000) : -1;
}

/* How long the client may go on as it does, in ms; -1: for ever. */
static int
patience(const CouponListener *listener, const Connection *connection)
{
	bool		is_full = listener->nconnections >= listener->limits.connections;
	int			seconds = listener->limits.idle_s;

	switch (connection->state)
	{
		case CONNECTION_WORKING:
			return -1;
		case CONNECTION_STREAMING:
			/* there is nothing to be sent, or the client does not take it */
			return connection->call->suspended ? -1 : seconds * 1000;
		case CONNECTION_READING:
			seconds = listener->limits.request_s;
			break;
		case CONNECTION_IDLE:
		case CONNECTION_SENDING:
			break;
	}
	return (is_full ? Min(seconds, CROWDED_S) : seconds) * 1000;
}

/* Shuts the connections whose clients take too long. */
static void
shut_slow_clients(CouponListener *listener)
{
	dlist_iter	iter;

	dlist_foreach(iter, &listener->connections)
	{
		Connection *connection = dlist_container(Connection, node, iter.cur);
		int			ms = patience(listener, connection);

		if (ms >= 0 && TimestampDifferenceExceeds(connection->since, listener->now, ms))
			(void) shutdown(connection->fd, SHUT_RDWR);
	}
}

void
coupon_listener_set_patience(CouponListener *listener, int idle_s, int request_s)
{
	listener->limits.idle_s = idle_s;
	listener->limits.request_s = request_s;
}

void
coupon_listener_run(CouponListener *listener, dlist_head *calls)
{
	/*
	 * After answers were given, the first run takes them over, the second
	 * sends them, and the third reads what clients have sent in return
	 * meanwhile, so that the next turn has all of it.
	 */
	int			runs = listener->answered ? 3 : 1;

	listener->calls = calls;
	listener->now = coupon_steady_now();
	listener->answered = false;
	for (int i = 0; i < runs; i++)
		(void) MHD_run(listener->daemon);
	if (TimestampDifferenceExceeds(listener->swept, listener->now, 1000))
	{
		listener->swept = listener->now;
		shut_slow_clients(listener);
	}
}

/* ---- answers ---- */

/* Adds the "Name: value" lines, which are ours or checked, to a response. */
static void
add_headers(struct MHD_Response *response, StringInfo headers)
{
	char	   *line;
	char	   *end;

	if (headers == NULL)
		return;
	for (line = headers->data; *line != '\0'; line = end + 1)
	{
		char	   *colon = strchr(line, ':');

		end = strchr(line, '\n');
		if (colon == NULL || end == NULL)
			break;
		*colon = *end = '\0';
		(void) MHD_add_response_header(response, line, colon + 2);
	}
}

static bool
has_header(StringInfo headers, const char *name)
{
	size_t		length = strlen(name);

	for (const char *line = headers == NULL ? "" : headers->data; *line != '\0'; line = strchr(line, '\n') + 1)
	{
		if (pg_strncasecmp(line, name, length) == 0 && line[length] == ':')
			return true;
	}
	return false;
}

/* There is something to send. */
static void
wake(CouponHttpCall *call)
{
	call->listener->answered = true;
	if (call->suspended)
		MHD_resume_connection(call->connection);
	call->suspended = false;
}

void
coupon_listener_answer(CouponHttpCall *call)
{
	struct MHD_Response *response =
	MHD_create_response_from_buffer(call->answer_length, call->answer, MHD_RESPMEM_MUST_COPY);

	if (response != NULL)
	{
		/* what is true now, and of whom, no cache is to tell others later */
		if ((strcmp(call->method, "GET") == 0 || strcmp(call->method, "HEAD") == 0) &&
			!has_header(call->headers, MHD_HTTP_HEADER_CACHE_CONTROL))
			(void) MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
		add_headers(response, call->headers);
		/* so that nobody's next request meets a closed connection */
		if (call->listener->listen_fd < 0 || ShutdownRequestPending)
			(void) MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
		if (call->answer != NULL || call->body_type != NULL)
			(void) MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
										   call->body_type != NULL ? call->body_type : "application/json");
	}
	else
		call->failed = true;
	call->response = response;
	/* the rest of what the call needed is not needed any more */
	if (call->context != NULL)
		MemoryContextDelete(call->context);
	call->context = NULL;
	call->state = COUPON_HTTP_ANSWERED;
	wake(call);
}

/* libmicrohttpd asks for more of a stream. */
static ssize_t
read_stream(void *cls, uint64_t position, char *buffer, size_t max)
{
	CouponHttpCall *call = cls;
	size_t		left = call->events->len - call->events_sent;

	if (left == 0)
	{
		if (call->stream_ended)
			return MHD_CONTENT_READER_END_OF_STREAM;
		suspend(call);
		return 0;
	}
	/* what was given before has been sent */
	connection_of(call->connection)->since = call->listener->now;
	left = Min(left, max);
	memcpy(buffer, call->events->data + call->events_sent, left);
	call->events_sent += left;
	return left;
}

void
coupon_listener_stream(CouponHttpCall *call)
{
	call->response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, call, NULL);
	if (call->response != NULL)
	{
		add_headers(call->response, call->headers);
		(void) MHD_add_response_header(call->response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream");
		(void) MHD_add_response_header(call->response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
		/* nginx would keep events back until its buffer is full */
		(void) MHD_add_response_header(call->response, "X-Accel-Buffering", "no");
	}
	else
		call->failed = true;
	wake(call);
}

void
coupon_listener_send(CouponHttpCall *call)
{
	if (call->gone || !call->suspended)
		return;
	connection_of(call->connection)->since = call->listener->now;
	wake(call);
}

void
coupon_listener_release(CouponHttpCall *call)
{
	Assert(call->gone);
	free_call(call);
}

/* ---- the request ---- */

const char *
coupon_http_header(CouponHttpCall *call, const char *name)
{
	return MHD_lookup_connection_value(call->connection, MHD_HEADER_KIND, name);
}

typedef struct HeaderList
{
	const char *names[MAX_HEADERS];
	const char *values[MAX_HEADERS];
	int			n;
} HeaderList;

static enum MHD_Result
note_header(void *cls, enum MHD_ValueKind kind, const char *name, const char *value)
{
	HeaderList *list = cls;

	if (list->n < lengthof(list->names))
	{
		list->names[list->n] = name;
		list->values[list->n++] = value != NULL ? value : "";
	}
	return MHD_YES;
}

void
coupon_http_each_header(CouponHttpCall *call,
						void (*f) (void *state, const char *name, const char *value), void *state)
{
	HeaderList	list;

	/* f may throw, so not from within the library */
	list.n = 0;
	(void) MHD_get_connection_values(call->connection, MHD_HEADER_KIND, note_header, &list);
	for (int i = 0; i < list.n; i++)
		f(state, list.names[i], list.values[i]);
}

void
coupon_http_peer(CouponHttpCall *call, char *buffer, size_t size)
{
	const union MHD_ConnectionInfo *info =
	MHD_get_connection_info(call->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);

	if (info == NULL || info->client_addr == NULL ||
		getnameinfo(info->client_addr,
					info->client_addr->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in),
					buffer, size, NULL, 0, NI_NUMERICHOST) != 0)
		strlcpy(buffer, "unknown", size);
}

int
coupon_listener_connections(CouponListener *listener)
{
	const union MHD_DaemonInfo *info = MHD_get_daemon_info(listener->daemon, MHD_DAEMON_INFO_CURRENT_CONNECTIONS);

	return info == NULL ? 0 : (int) info->num_connections;
}

int
coupon_listener_outstanding(CouponListener *listener)
{
	return listener->outstanding;
}
