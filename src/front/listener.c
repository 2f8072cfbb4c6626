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
 * A connection on which no request becomes complete for too long is shut,
 * however busily it dribbles: the library's own time-out counts bytes.
 */
#include "postgres.h"

#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "libpq/pqsignal.h"
#include "utils/memutils.h"

#include "front/http.h"
#include "front/settings.h"

#define CONNECTION_MEMORY	(16 * 1024) /* bytes: request line and headers,
										 * and sending */
#define BACKLOG				4096
#define STREAM_BLOCK		4096

/* A connection, from accept to close. */
typedef struct Connection
{
	dlist_node	node;			/* among the listener's, the longest without a
								 * request first */
	int			fd;
	TimestampTz since;			/* accepted, or its last answer was sent */
	bool		reading;		/* a request's first line has come; its rest
								 * has not */
	bool		waiting;		/* a request is being worked on */
} Connection;

struct CouponListener
{
	struct MHD_Daemon *daemon;
	int			listen_fd;
	int			epoll_fd;
	CouponListenerLimits limits;
	dlist_head	connections;
	dlist_head *calls;			/* of the running coupon_listener_run */
	int			outstanding;	/* calls that have begun and not ended */
	bool		answered;		/* there are answers that the library does not
								 * know of */
	TimestampTz now;			/* of this run */
	TimestampTz swept;			/* when slow clients were looked for */
};

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
}

/* The first line of a request has come. */
static void *
begin_call(void *cls, const char *uri, struct MHD_Connection *mhd)
{
	CouponListener *listener = cls;
	Connection *connection = connection_of(mhd);
	CouponHttpCall *call = calloc(1, sizeof(CouponHttpCall));

	if (call == NULL)
		return NULL;
	call->target = strdup(uri);
	if (call->target == NULL || connection == NULL)
	{
		free(call->target);
		free(call);
		return NULL;
	}
	call->listener = listener;
	call->is_admin = listener->limits.is_admin;
	listener->outstanding++;
	call->connection = mhd;
	connection->reading = true;
	connection->since = listener->now;
	return call;
}

/* Appends to the body; what would make it too large is thrown away. */
static void
collect_body(CouponHttpCall *call, const char *data, size_t size)
{
	char	   *body;

	if (call->too_large)
		return;
	body = call->body_length + size <= COUPON_HTTP_MAX_BODY ?
		realloc(call->body, call->body_length + size + 1) : NULL;
	if (body == NULL)
	{
		call->too_large = true;
		return;
	}
	memcpy(body + call->body_length, data, size);
	call->body_length += size;
	body[call->body_length] = '\0';
	call->body = body;
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

		MHD_destroy_response(call->response);
		call->response = NULL;
		return result;
	}
	if (call->method == NULL)
	{
		/* the headers are there; a body may follow */
		call->method = method;
		return MHD_YES;
	}
	if (*upload_size > 0)
	{
		collect_body(call, upload_data, *upload_size);
		*upload_size = 0;
		return MHD_YES;
	}
	if (call->state == COUPON_HTTP_READING)
	{
		connection->reading = false;
		connection->waiting = true;
		INSTR_TIME_SET_CURRENT(call->arrived);
		call->state = COUPON_HTTP_ARRIVED;
		dlist_push_tail(call->listener->calls, &call->node);
	}
	else if (call->state == COUPON_HTTP_KEPT)
	{
		call->suspended = true;
		MHD_suspend_connection(mhd);
	}
	return MHD_YES;
}

static void
free_call(CouponHttpCall *call)
{
	if (call->context != NULL)
		MemoryContextDelete(call->context);
	if (call->response != NULL)
		MHD_destroy_response(call->response);
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
	if (connection != NULL)
	{
		connection->reading = connection->waiting = false;
		connection->since = listener->now;
		/* the list is in the order of since */
		dlist_delete(&connection->node);
		dlist_push_tail(&listener->connections, &connection->node);
	}
	if (call == NULL)
		return;
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

/* Splits "host:port"; host is NULL for any address. */
static bool
split_address(const char *address, char **host, char **port)
{
	char	   *copy = pstrdup(address);
	char	   *colon = strrchr(copy, ':');

	if (colon == NULL || colon[1] == '\0')
		return false;
	*colon = '\0';
	*port = colon + 1;
	*host = copy;
	if (copy[0] == '[' && colon[-1] == ']')
	{
		colon[-1] = '\0';
		*host = copy + 1;
	}
	if ((*host)[0] == '\0' || strcmp(*host, "*") == 0)
		*host = NULL;
	return true;
}

static int
open_socket(const char *address, char **error)
{
	struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV,.ai_socktype = SOCK_STREAM};
	struct addrinfo *found;
	char	   *host;
	char	   *port;
	int			fd;
	int			one = 1;
	int			result;

	if (!split_address(address, &host, &port))
	{
		*error = psprintf("\"%s\" is not of the form address:port", address);
		return -1;
	}
	result = getaddrinfo(host, port, &hints, &found);
	if (result != 0)
	{
		*error = psprintf("\"%s\": %s", address, gai_strerror(result));
		return -1;
	}
	fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd >= 0)
	{
		(void) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		(void) setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
	}
	if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0)
	{
		*error = psprintf("\"%s\": %m", address);
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	freeaddrinfo(found);
	return fd;
}

CouponListener *
coupon_listener_open(const char *address, const CouponListenerLimits *limits, char **error)
{
	CouponListener *listener;
	int			fd = open_socket(address, error);

	if (fd < 0)
		return NULL;
	listener = MemoryContextAllocZero(TopMemoryContext, sizeof(CouponListener));
	listener->limits = *limits;
	listener->listen_fd = fd;
	dlist_init(&listener->connections);
	listener->now = listener->swept = GetCurrentTimestamp();
	listener->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_TURBO | MHD_ALLOW_SUSPEND_RESUME,
										0, NULL, NULL, handle, listener,
										MHD_OPTION_LISTEN_SOCKET, fd,
										MHD_OPTION_CONNECTION_LIMIT, (unsigned int) limits->connections,
										MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t) CONNECTION_MEMORY,
										MHD_OPTION_CONNECTION_MEMORY_INCREMENT, (size_t) 1024,
										MHD_OPTION_CONNECTION_TIMEOUT, (unsigned int) limits->idle_s,
										MHD_OPTION_STRICT_FOR_CLIENT, 1,
										MHD_OPTION_NOTIFY_CONNECTION, note_connection, listener,
										MHD_OPTION_NOTIFY_COMPLETED, end_call, listener,
										MHD_OPTION_URI_LOG_CALLBACK, begin_call, listener,
										MHD_OPTION_UNESCAPE_CALLBACK, keep_escaped, NULL,
										MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
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

	return MHD_get_timeout(listener->daemon, &ms) == MHD_YES ? (long) Min(ms, 60000) : -1;
}

/* Shuts the connections whose clients take too long over a request. */
static void
shut_slow_clients(CouponListener *listener)
{
	dlist_iter	iter;

	dlist_foreach(iter, &listener->connections)
	{
		Connection *connection = dlist_container(Connection, node, iter.cur);
		int			patience = connection->reading ? listener->limits.request_s : listener->limits.idle_s;

		if (!connection->waiting &&
			TimestampDifferenceExceeds(connection->since, listener->now, patience * 1000))
			(void) shutdown(connection->fd, SHUT_RDWR);
	}
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
	listener->now = GetCurrentTimestamp();
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
		add_headers(response, call->headers);
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
		call->suspended = true;
		MHD_suspend_connection(call->connection);
		return 0;
	}
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
	if (!call->gone && call->suspended)
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
	const char *names[128];
	const char *values[128];
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
