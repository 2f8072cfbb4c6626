/*
 * load.c
 *	  Loads an HTTP front: many connections with one call at a time each.
 *
 *	  http_load [OPTION]... HOST:PORT METHOD PATH BODY
 *
 *	-c N		connections
 *	-T SECONDS	how long; or
 *	-t N		calls of each connection; or
 *	-n N		calls in all
 *	-r STAGES	instead of these: "SECONDS:CONNECTIONS,..." as k6 has it, each
 *				stage a straight line from the connections before to its own
 *	-z MS		a connection's calls are due every so many ms (else as soon as it
 *				has the last answer), and latencies count from there
 *	-R RATE		calls are due at random times, so many a second in all, whether or
 *				not earlier ones are late, and latencies count from there
 *	-u N		users are drawn from so many (else each is new)
 *	-H SECONDS	leaves the connections open for so long after the last answer
 *	-L PREFIX	PREFIX.http has a line of pgbench's log for each call
 *	-j N		is of no meaning, and for those who call pgbench in the same way
 *
 * In PATH and BODY, %u is replaced by the user.  Prints one line: answers,
 * answers a second, p50, p95, p99, p99.9 and the slowest in ms, and how many of
 * each status; a connection that breaks counts as status 0.  Then what pgbench
 * prints.
 */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_STAGES	16
#define PATIENCE_S	30			/* for answers after the end */

typedef struct Connection
{
	int			fd;				/* -1: closed */
	bool		busy;			/* a request is under way */
	uint64_t	due;			/* ns; when the next call is, with -z */
	uint64_t	since;			/* what the latency counts from */
	int64_t		calls;
	size_t		length;
	char		buffer[4096];
} Connection;

typedef struct Stage
{
	double		seconds;
	int			connections;
} Stage;

static int	max_connections = 0;
static double duration = 0;		/* s */
static int64_t calls_each = 0;
static int64_t calls_left = INT64_MAX;
static Stage stages[MAX_STAGES];
static int	nstages = 0;
static uint64_t pause_ns = 0;
static double rate = 0;
static uint64_t users = 0;
static int	hold = 0;			/* s */
static const char *log_prefix = NULL;
static const char *host;
static const char *method;
static const char *path;
static const char *body;

static struct addrinfo *address;
static int	epoll_fd;
static Connection *connections;
static int	active = 0;			/* the first so many make calls */
static int	nbusy = 0;
static bool ended = false;		/* no new calls */
static uint64_t began;
static uint64_t next_due;		/* with -R */
static uint64_t next_user;

static uint32_t *latencies;		/* us */
static size_t nlatencies;
static size_t max_latencies;
static uint64_t statuses[1000];

static void
die(const char *what)
{
	perror(what);
	exit(1);
}

static void
usage(void)
{
	fprintf(stderr, "usage: http_load [OPTION]... HOST:PORT METHOD PATH BODY; see the head of bench/http/load.c\n");
	exit(2);
}

static uint64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * UINT64_C(1000000000) + t.tv_nsec;
}

/* Appends the text, with each %u replaced by the user; returns the end. */
static char *
expand(char *to, const char *limit, const char *text, const char *user)
{
	while (*text != '\0' && to + 64 < limit)
	{
		if (text[0] == '%' && text[1] == 'u')
		{
			to = stpcpy(to, user);
			text += 2;
		}
		else
			*to++ = *text++;
	}
	*to = '\0';
	return to;
}

/* ---- connections ---- */

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
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, connection->fd, &event) != 0)
		die("epoll_ctl");
}

static void
close_connection(Connection *connection)
{
	if (connection->fd >= 0)
		close(connection->fd);
	connection->fd = -1;
}

/* Sends a request whose latency counts from since. */
static void
send_request(Connection *connection, uint64_t since)
{
	char		user[32];
	char		content[1024];
	char		request[4096];
	size_t		length;
	char	   *p;

	snprintf(user, sizeof(user), "%" PRIx64, users == 0 ? next_user++ : (uint64_t) (drand48() * users));
	length = expand(content, content + sizeof(content), body, user) - content;
	p = stpcpy(request, method);
	*p++ = ' ';
	p = expand(p, request + 2048, path, user);
	p += sprintf(p, " HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
				 host, length);
	p = stpcpy(p, content);
	if (connection->fd < 0)
		open_connection(connection);
	connection->since = since;
	connection->busy = true;
	connection->calls++;
	connection->length = 0;
	calls_left--;
	nbusy++;
	/* a connection that is broken is noticed when it is read */
	if (send(connection->fd, request, p - request, MSG_NOSIGNAL) != p - request &&
		errno != EPIPE && errno != ECONNRESET)
		die("send");
}

/* ---- answers ---- */

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
	latencies[nlatencies++] = (now_ns() - connection->since) / 1000;
	statuses[status]++;
	connection->busy = false;
	nbusy--;
}

/* The length of the whole answer in the buffer; 0 if its head is not whole. */
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

/* Reads what there is; true if a call has ended. */
static bool
receive(Connection *connection)
{
	ssize_t		n = read(connection->fd, connection->buffer + connection->length,
						 sizeof(connection->buffer) - 1 - connection->length);
	size_t		whole;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0)
	{
		bool		was_busy = connection->busy;

		close_connection(connection);
		if (was_busy)
			count(connection, 0);
		return was_busy;
	}
	connection->length += n;
	whole = answer_length(connection);
	if (!connection->busy || whole == 0 || connection->length < whole)
		return false;
	count(connection, atoi(connection->buffer + 9) % 1000);
	return true;
}

/* ---- when calls are due ---- */

/* How many connections there are to be now; -1: it is over. */
static int
staged(uint64_t now)
{
	double		t = (now - began) / 1e9;
	int			from = 0;

	for (int i = 0; i < nstages; i++)
	{
		if (t < stages[i].seconds)
			return from + (stages[i].connections - from) * t / stages[i].seconds + 0.5;
		t -= stages[i].seconds;
		from = stages[i].connections;
	}
	return -1;
}

static bool
may_call(Connection *connection)
{
	return !ended && connection - connections < active && !connection->busy && calls_left > 0 &&
		(calls_each == 0 || connection->calls < calls_each);
}

/* Connections come and go as the stages say. */
static void
follow_stages(uint64_t now)
{
	int			wanted = staged(now);

	if (wanted < 0)
		ended = true;
	for (; active < wanted; active++)
		connections[active].due = now;
	if (wanted >= 0)
		active = wanted;
	for (int i = active; i < max_connections; i++)
	{
		if (!connections[i].busy)
			close_connection(&connections[i]);
	}
}

/* Starts the calls that are due; returns how many ms it is until the next. */
static int
start_calls(uint64_t now)
{
	uint64_t	next = now + 1000000000;

	if (rate > 0)
	{
		for (int i = 0; i < active && next_due <= now; i++)
		{
			if (!may_call(&connections[i]))
				continue;
			send_request(&connections[i], next_due);
			next_due += -log(1 - drand48()) / rate * 1e9;
		}
		next = next_due;
	}
	else if (pause_ns > 0)
	{
		for (int i = 0; i < active; i++)
		{
			Connection *connection = &connections[i];

			if (may_call(connection) && connection->due <= now)
			{
				send_request(connection, connection->due);
				connection->due += pause_ns;
			}
			if (!connection->busy && connection->due < next)
				next = connection->due;
		}
	}
	else if (nstages > 0)
	{
		for (int i = 0; i < active; i++)
		{
			if (may_call(&connections[i]))
				send_request(&connections[i], now);
		}
	}
	if (nstages > 0 && next > now + 10000000)
		next = now + 10000000;
	return next <= now ? 0 : (next - now + 999999) / 1000000;
}

static void
run(void)
{
	struct epoll_event events[256];
	uint64_t	end = duration > 0 ? began + (uint64_t) (duration * 1e9) : UINT64_MAX;
	bool		eager = rate == 0 && pause_ns == 0;
	uint64_t	stop = UINT64_MAX;

	for (int i = 0; eager && i < active; i++)
	{
		if (may_call(&connections[i]))
			send_request(&connections[i], now_ns());
	}
	for (;;)
	{
		uint64_t	now = now_ns();
		int			ms;
		int			n;

		if (nstages > 0)
			follow_stages(now);
		if (now >= end || calls_left == 0)
			ended = true;
		if (ended && stop == UINT64_MAX)
			stop = now + PATIENCE_S * UINT64_C(1000000000);
		ms = ended || (eager && nstages == 0) ? 1000 : start_calls(now);
		if (nbusy == 0 && (ended || (eager && nstages == 0)))
			break;
		if (now >= stop)
			break;
		n = epoll_wait(epoll_fd, events, 256, ms);
		for (int i = 0; i < n; i++)
		{
			Connection *connection = events[i].data.ptr;

			if (receive(connection) && eager && may_call(connection))
				send_request(connection, now_ns());
		}
	}
}

/* ---- what is told ---- */

/* As pgbench -l: only the latency is of interest to those who read it. */
static void
write_log(void)
{
	char	   *name;
	FILE	   *log;

	if (asprintf(&name, "%s.http", log_prefix) < 0 || (log = fopen(name, "w")) == NULL)
		die("log");
	for (size_t i = 0; i < nlatencies; i++)
		fprintf(log, "0 %zu %" PRIu32 " 0 0 0\n", i, latencies[i]);
	if (fclose(log) != 0)
		die("log");
	free(name);
}

static int
compare(const void *a, const void *b)
{
	uint32_t	x = *(const uint32_t *) a;
	uint32_t	y = *(const uint32_t *) b;

	return x < y ? -1 : x > y;
}

static double
percentile(double p)
{
	size_t		i = nlatencies * p / 100;

	return nlatencies == 0 ? 0 : latencies[i < nlatencies ? i : nlatencies - 1] / 1000.0;
}

static void
report(double seconds)
{
	double		sum = 0;

	if (log_prefix != NULL)
		write_log();
	for (size_t i = 0; i < nlatencies; i++)
		sum += latencies[i];
	qsort(latencies, nlatencies, sizeof(*latencies), compare);
	printf("answers=%zu rate=%.0f p50=%.2f p95=%.2f p99=%.2f p99.9=%.2f max=%.2f", nlatencies, nlatencies / seconds,
		   percentile(50), percentile(95), percentile(99), percentile(99.9), percentile(100));
	for (int i = 0; i < 1000; i++)
	{
		if (statuses[i] > 0)
			printf(" %d=%" PRIu64, i, statuses[i]);
	}
	printf("\nnumber of transactions actually processed: %zu\n", nlatencies);
	printf("latency average = %.3f ms\n", nlatencies == 0 ? 0 : sum / 1000 / nlatencies);
	printf("tps = %f (without initial connection time)\n", nlatencies / seconds);
}

/* ---- what is asked for ---- */

static void
read_stages(char *text)
{
	for (char *stage = strtok(text, ","); stage != NULL; stage = strtok(NULL, ","))
	{
		if (nstages == MAX_STAGES ||
			sscanf(stage, "%lf:%d", &stages[nstages].seconds, &stages[nstages].connections) != 2)
			usage();
		if (stages[nstages].connections > max_connections)
			max_connections = stages[nstages].connections;
		nstages++;
	}
}

static void
read_options(int argc, char **argv)
{
	int			option;

	while ((option = getopt(argc, argv, "c:T:t:n:r:z:R:u:H:L:j:")) != -1)
	{
		switch (option)
		{
			case 'c': max_connections = atoi(optarg); break;
			case 'T': duration = atof(optarg); break;
			case 't': calls_each = atoll(optarg); break;
			case 'n': calls_left = atoll(optarg); break;
			case 'r': read_stages(optarg); break;
			case 'z': pause_ns = atof(optarg) * 1e6; break;
			case 'R': rate = atof(optarg); break;
			case 'u': users = strtoull(optarg, NULL, 10); break;
			case 'H': hold = atoi(optarg); break;
			case 'L': log_prefix = optarg; break;
			case 'j': break;
			default: usage();
		}
	}
	if (argc - optind != 4 || max_connections < 1 ||
		(duration > 0) + (calls_each > 0) + (calls_left != INT64_MAX) + (nstages > 0) != 1)
		usage();
	if (calls_each > 0)
		calls_left = calls_each * max_connections;
}

int
main(int argc, char **argv)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	char	   *name;
	char	   *port;

	read_options(argc, argv);
	host = argv[optind];
	method = argv[optind + 1];
	path = argv[optind + 2];
	body = argv[optind + 3];
	name = strdup(host);
	if (name == NULL || (port = strrchr(name, ':')) == NULL)
		usage();
	*port++ = '\0';
	if (getaddrinfo(name, port, &hints, &address) != 0)
		die("getaddrinfo");
	free(name);
	epoll_fd = epoll_create1(0);
	connections = calloc(max_connections, sizeof(Connection));
	if (epoll_fd < 0 || connections == NULL)
		die("connections");
	srand48(getpid() ^ time(NULL));
	next_user = ((uint64_t) time(NULL) << 32) ^ ((uint64_t) getpid() << 24);
	for (int i = 0; i < max_connections; i++)
	{
		connections[i].fd = -1;
		if (nstages == 0)
			open_connection(&connections[i]);
	}
	active = nstages > 0 ? 0 : max_connections;
	began = next_due = now_ns();
	for (int i = 0; i < max_connections; i++)
		connections[i].due = began + (uint64_t) (drand48() * pause_ns);
	run();
	report((now_ns() - began) / 1e9);
	fflush(stdout);
	sleep(hold);
	return 0;
}
