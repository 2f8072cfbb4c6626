/*
 * load.c
 *	  Loads an HTTP front: many connections that each send a request as soon as
 *	  they have the answer to the last one.
 *
 *	  http_load HOST:PORT CONNECTIONS SECONDS METHOD PATH BODY
 *
 * In PATH and BODY, %u is replaced by a user who has never been sent before.
 * With SECONDS preceded by n (n20000), so many requests are sent instead.
 * Prints one line: answers, answers a second, p50, p95, p99 and p99.9 in ms,
 * and how many of each status; a connection that breaks counts as status 0.
 */
#define _GNU_SOURCE

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct Connection
{
	int			fd;
	uint64_t	sent_at;		/* ns */
	char		buffer[4096];
	size_t		length;
} Connection;

static const char *method;
static const char *path;
static const char *body;
static char *host;
static struct addrinfo *address;
static int	epoll_fd;
static uint64_t next_user;
static uint64_t left_to_send = UINT64_MAX;
static uint64_t *latencies;		/* us */
static size_t nlatencies,
			max_latencies;
static uint64_t statuses[1000];

static void
die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * UINT64_C(1000000000) + t.tv_nsec;
}

/* The text with each %u replaced by the user; a buffer of the caller's. */
static void
expand(char *to, size_t size, const char *text, const char *user)
{
	size_t		n = 0;

	while (*text != '\0' && n + 64 < size)
	{
		if (text[0] == '%' && text[1] == 'u')
		{
			n += snprintf(to + n, size - n, "%s", user);
			text += 2;
		}
		else
			to[n++] = *text++;
	}
	to[n] = '\0';
}

static void
open_connection(Connection *connection)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
	int			one = 1;

	connection->fd = socket(address->ai_family, SOCK_STREAM, 0);
	if (connection->fd < 0 || connect(connection->fd, address->ai_addr, address->ai_addrlen) != 0)
		die("connect");
	setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	fcntl(connection->fd, F_SETFL, O_NONBLOCK);
	connection->length = 0;
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, connection->fd, &event) != 0)
		die("epoll_ctl");
}

/* Sends the next request; 0 if there is none. */
static int
send_request(Connection *connection)
{
	char		user[32];
	char		target[1024];
	char		content[1024];
	char		request[4096];
	int			length;

	if (left_to_send == 0)
		return 0;
	left_to_send--;
	snprintf(user, sizeof(user), "%llx", (unsigned long long) next_user++);
	expand(target, sizeof(target), path, user);
	expand(content, sizeof(content), body, user);
	length = snprintf(request, sizeof(request),
					  "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
					  method, target, host, strlen(content), content);
	connection->sent_at = now_ns();
	connection->length = 0;
	return write(connection->fd, request, length) == length;
}

/* The length of the whole answer in the buffer; 0 if it is not whole. */
static size_t
answer_length(Connection *connection)
{
	char	   *end;
	char	   *length;

	connection->buffer[connection->length] = '\0';
	end = strstr(connection->buffer, "\r\n\r\n");
	if (end == NULL)
		return 0;
	length = strcasestr(connection->buffer, "\r\nContent-Length:");
	return end + 4 - connection->buffer + (length != NULL && length < end ? strtoul(length + 17, NULL, 10) : 0);
}

static void
count(Connection *connection, int status)
{
	if (nlatencies == max_latencies)
	{
		max_latencies = max_latencies * 2 + 65536;
		latencies = realloc(latencies, max_latencies * sizeof(*latencies));
		if (latencies == NULL)
			die("realloc");
	}
	latencies[nlatencies++] = (now_ns() - connection->sent_at) / 1000;
	statuses[status]++;
}

/* Reads what there is; 1 if the connection goes on, 0 if it is done. */
static int
receive(Connection *connection)
{
	ssize_t		n = read(connection->fd, connection->buffer + connection->length,
						 sizeof(connection->buffer) - 1 - connection->length);
	size_t		whole;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 1;
	if (n <= 0)
	{
		count(connection, 0);
		close(connection->fd);
		open_connection(connection);
		return send_request(connection);
	}
	connection->length += n;
	whole = answer_length(connection);
	if (whole == 0 || connection->length < whole)
		return 1;
	count(connection, atoi(connection->buffer + 9) % 1000);
	return send_request(connection);
}

static int
compare(const void *a, const void *b)
{
	uint64_t	x = *(const uint64_t *) a;
	uint64_t	y = *(const uint64_t *) b;

	return x < y ? -1 : x > y;
}

static double
percentile(double p)
{
	size_t		i = nlatencies * p / 100;

	return nlatencies == 0 ? 0 : latencies[i < nlatencies ? i : nlatencies - 1] / 1000.0;
}

int
main(int argc, char **argv)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct epoll_event events[256];
	Connection *connections;
	char	   *port;
	int			nconnections;
	int			open;
	uint64_t	start;
	uint64_t	end = UINT64_MAX;
	double		seconds;

	if (argc != 7 || (port = strrchr(argv[1], ':')) == NULL)
	{
		fprintf(stderr, "usage: http_load HOST:PORT CONNECTIONS SECONDS METHOD PATH BODY\n");
		return 2;
	}
	host = strdup(argv[1]);
	*port++ = '\0';
	nconnections = atoi(argv[2]);
	method = argv[4];
	path = argv[5];
	body = argv[6];
	if (getaddrinfo(argv[1], port, &hints, &address) != 0)
		die("getaddrinfo");
	epoll_fd = epoll_create1(0);
	connections = calloc(nconnections, sizeof(Connection));
	next_user = ((uint64_t) time(NULL) << 32) ^ ((uint64_t) getpid() << 24);
	start = now_ns();
	if (argv[3][0] == 'n')
		left_to_send = strtoull(argv[3] + 1, NULL, 10);
	for (int i = 0; i < nconnections; i++)
		open_connection(&connections[i]);
	start = now_ns();
	if (argv[3][0] != 'n')
		end = start + atof(argv[3]) * 1e9;
	open = 0;
	for (int i = 0; i < nconnections; i++)
		open += send_request(&connections[i]);
	while (open > 0)
	{
		int			n = epoll_wait(epoll_fd, events, 256, 1000);

		if (now_ns() >= end)
			left_to_send = 0;
		for (int i = 0; i < n; i++)
		{
			if (!receive(events[i].data.ptr))
				open--;
		}
		if (end != UINT64_MAX && now_ns() >= end + UINT64_C(30000000000))
			break;
	}
	seconds = (now_ns() - start) / 1e9;
	qsort(latencies, nlatencies, sizeof(*latencies), compare);
	printf("answers=%zu rate=%.0f p50=%.2f p95=%.2f p99=%.2f p99.9=%.2f", nlatencies, nlatencies / seconds,
		   percentile(50), percentile(95), percentile(99), percentile(99.9));
	for (int i = 0; i < 1000; i++)
	{
		if (statuses[i] > 0)
			printf(" %d=%llu", i, (unsigned long long) statuses[i]);
	}
	printf("\n");
	return 0;
}
