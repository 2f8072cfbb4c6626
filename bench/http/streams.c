/*
 * streams.c
 *	  Holds event streams of an HTTP front open, and measures how late they tell
 *	  of a place in line that has become another.
 *
 *	  http_streams HOST:PORT <PATHS
 *
 * Standard input is a path a line, an empty line, then commands.  When all
 * streams have told their first event it prints "open N".  Command "mark": the
 * line has just moved.  When each stream has told of a position that is lower
 * than the one before (or after 10 s) it prints how many have, and p50, p95, p99
 * and the greatest delay in ms.  At the end of standard input it ends.
 */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netdb.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS	10000

typedef struct Stream
{
	int			fd;
	int64_t		position;		/* told last, -1: none */
	int64_t		marked;			/* as it was when the line moved */
	double		delay;			/* ms, -1: none yet */
	size_t		length;
	char		buffer[1024];	/* a line that is not whole */
} Stream;

static struct addrinfo *address;
static const char *host;
static int	epoll_fd;
static Stream *streams = NULL;
static int	nstreams = 0;
static int	nopen = 0;			/* that have told something */
static int	nlate = 0;			/* that have not told of the move */
static double marked_at = 0;

static void
die(const char *what)
{
	perror(what);
	exit(1);
}

static double
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void
open_stream(Stream *stream, const char *path)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = stream};
	char		request[2048];
	int			length;

	stream->fd = socket(address->ai_family, SOCK_STREAM, 0);
	if (stream->fd < 0 || connect(stream->fd, address->ai_addr, address->ai_addrlen) != 0)
		die("connect");
	length = snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\n\r\n", path, host);
	if (write(stream->fd, request, length) != length)
		die("write");
	fcntl(stream->fd, F_SETFL, O_NONBLOCK);
	stream->position = -1;
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, stream->fd, &event) != 0)
		die("epoll_ctl");
}

/* The data of an event. */
static void
heed(Stream *stream, const char *line)
{
	const char *at = strstr(line, "\"position\":");
	int64_t		position = at == NULL ? 0 : strtoll(at + 11, NULL, 10);

	if (stream->position < 0)
		nopen++;
	stream->position = position;
	if (marked_at > 0 && stream->delay < 0 && position < stream->marked)
	{
		stream->delay = now_ms() - marked_at;
		nlate--;
	}
}

static void
receive(Stream *stream)
{
	ssize_t		n = read(stream->fd, stream->buffer + stream->length, sizeof(stream->buffer) - 1 - stream->length);
	char	   *line = stream->buffer;
	char	   *end;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0)
	{
		fprintf(stderr, "a stream has ended: %.200s\n", stream->buffer);
		exit(1);
	}
	stream->length += n;
	stream->buffer[stream->length] = '\0';
	while ((end = strchr(line, '\n')) != NULL)
	{
		*end = '\0';
		if (strncmp(line, "HTTP/1.1 ", 9) == 0 && strncmp(line + 9, "200", 3) != 0)
		{
			fprintf(stderr, "%s\n", line);
			exit(1);
		}
		if (strncmp(line, "data: ", 6) == 0)
			heed(stream, line);
		line = end + 1;
	}
	stream->length -= line - stream->buffer;
	memmove(stream->buffer, line, stream->length + 1);
}

/* Until there is input, or nothing more is waited for. */
static void
run(bool until_open, double deadline)
{
	struct epoll_event events[256];
	struct pollfd fds[2] = {{.fd = epoll_fd, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
	bool		until_input = !until_open && deadline == 0;

	for (;;)
	{
		int			n;

		if (until_open ? nopen == nstreams : deadline > 0 && (nlate == 0 || now_ms() > deadline))
			return;
		if (poll(fds, until_input ? 2 : 1, 100) < 0 && errno != EINTR)
			die("poll");
		if (until_input && fds[1].revents != 0)
			return;
		n = epoll_wait(epoll_fd, events, 256, 0);
		for (int i = 0; i < n; i++)
			receive(events[i].data.ptr);
	}
}

static int
compare(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return x < y ? -1 : x > y;
}

/* The line has moved: waits until all have told so. */
static void
mark(void)
{
	double	   *delays = calloc(nstreams, sizeof(double));
	int			n = 0;

	if (delays == NULL)
		die("calloc");
	marked_at = now_ms();
	nlate = nstreams;
	for (int i = 0; i < nstreams; i++)
	{
		streams[i].marked = streams[i].position;
		streams[i].delay = -1;
	}
	run(false, marked_at + PATIENCE_MS);
	for (int i = 0; i < nstreams; i++)
	{
		if (streams[i].delay >= 0)
			delays[n++] = streams[i].delay;
	}
	qsort(delays, n, sizeof(double), compare);
	printf("told %d of %d p50 %.0f p95 %.0f p99 %.0f max %.0f\n", n, nstreams,
		   n == 0 ? 0 : delays[n / 2], n == 0 ? 0 : delays[n * 95 / 100], n == 0 ? 0 : delays[n * 99 / 100],
		   n == 0 ? 0 : delays[n - 1]);
	fflush(stdout);
	free(delays);
	marked_at = 0;
}

/* Reads a line without the buffer that poll would not know of. */
static bool
read_line(char *line, size_t size)
{
	size_t		n = 0;
	char		c;

	while (read(STDIN_FILENO, &c, 1) == 1)
	{
		if (c == '\n')
		{
			line[n] = '\0';
			return true;
		}
		if (n + 1 < size)
			line[n++] = c;
	}
	return false;
}

int
main(int argc, char **argv)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	char		line[1024];
	char	   *name;
	char	   *port;
	char	  **paths = NULL;

	if (argc != 2 || (name = strdup(argv[1])) == NULL || (port = strrchr(name, ':')) == NULL)
	{
		fprintf(stderr, "usage: http_streams HOST:PORT <PATHS; see the head of bench/http/streams.c\n");
		return 2;
	}
	host = argv[1];
	*port++ = '\0';
	if (getaddrinfo(name, port, &hints, &address) != 0)
		die("getaddrinfo");
	epoll_fd = epoll_create1(0);
	while (read_line(line, sizeof(line)) && line[0] != '\0')
	{
		paths = realloc(paths, (nstreams + 1) * sizeof(char *));
		if (paths == NULL || (paths[nstreams++] = strdup(line)) == NULL)
			die("paths");
	}
	streams = calloc(nstreams, sizeof(Stream));
	if (streams == NULL || epoll_fd < 0)
		die("streams");
	for (int i = 0; i < nstreams; i++)
		open_stream(&streams[i], paths[i]);
	run(true, 0);
	printf("open %d\n", nopen);
	fflush(stdout);
	for (;;)
	{
		run(false, 0);
		if (!read_line(line, sizeof(line)))
			break;
		if (strcmp(line, "mark") == 0)
			mark();
	}
	return 0;
}
