/*
 * sink_config.c
 *	  The file of client properties: brokers' security, and tuning.
 *
 * name=value, one a line, # or ! begins a comment.  The file holds passwords,
 * so it must be the server's user's (or root's) and nobody else's to read.
 * Properties that load code, or that would take away what the publisher
 * promises, are refused.
 */
#include "postgres.h"

#include <ctype.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/fd.h"

#include "kafka/sink_config.h"

#define MAX_FILE_SIZE	(64 * 1024)

static const struct
{
	const char *name;
	const char *why;
}			refused[] = {
	{"plugin.library.paths", "it loads code"},
	{"ssl.engine.location", "it loads code"},
	{"ssl.providers", "it loads code"},
	{"sasl.kerberos.kinit.cmd", "it runs a program"},
	{"sasl.jaas.config", "it is the Java client's: here sasl.mechanism, sasl.username and sasl.password say it"},
	{"ssl.truststore.*", "it is the Java client's: here ssl.ca.location names a PEM file"},
	{"bootstrap.servers", "coupon.kafka_brokers says it"},
	{"metadata.broker.list", "coupon.kafka_brokers says it"},
	{"acks", "events are acknowledged by all replicas"},
	{"request.required.acks", "events are acknowledged by all replicas"},
	{"enable.idempotence", "the order of events rests on it"},
	{"enable.gapless.guarantee", "the publisher sees to it"},
	{"transactional.id", "the publisher uses no transactions of the broker"},
	{"message.timeout.ms", "the outbox keeps an event until it is delivered"},
	{"delivery.timeout.ms", "the outbox keeps an event until it is delivered"},
	{"retries", "the outbox keeps an event until it is delivered"},
	{"message.send.max.retries", "the outbox keeps an event until it is delivered"},
	{"partitioner", "events of a key go where Java clients expect them"},
	{"allow.auto.create.topics", "coupon.kafka_create_topics says it"},
	{"log.queue", "logs go to the server's log"},
	{"delivery.report.only.error", "deliveries must be reported"},
	{"enabled_events", "deliveries must be reported"},
	{"internal.*", "it is the client's own"},
	{"test.*", "it is for tests of the client"}
};

static const char *
trim(char *string)
{
	size_t		length;

	while (isspace((unsigned char) *string))
		string++;
	length = strlen(string);
	while (length > 0 && isspace((unsigned char) string[length - 1]))
		string[--length] = '\0';
	return string;
}

bool
coupon_sink_config_is_secret(const char *name)
{
	static const char *const parts[] = {"password", "secret", "token", ".pem", "jaas", "oauthbearer.config"};

	for (size_t i = 0; i < lengthof(parts); i++)
	{
		if (strstr(name, parts[i]) != NULL)
			return true;
	}
	return false;
}

/* NULL, or why the file must not be used. */
static char *
check_file(int fd, struct stat *st)
{
	if (fstat(fd, st) != 0)
		return psprintf("it cannot be examined: %s", strerror(errno));
	if (!S_ISREG(st->st_mode))
		return pstrdup("it is not a regular file");
	if (st->st_uid != geteuid() && st->st_uid != 0)
		return pstrdup("it must belong to the server's user or to root");
	if ((st->st_uid == geteuid() && (st->st_mode & (S_IRWXG | S_IRWXO)) != 0) ||
		(st->st_uid == 0 && (st->st_mode & (S_IWGRP | S_IXGRP | S_IRWXO)) != 0))
		return pstrdup("others can read it: its mode must be 0600 (or 0640 if root owns it)");
	if (st->st_size > MAX_FILE_SIZE)
		return psprintf("it is larger than %d bytes", MAX_FILE_SIZE);
	return NULL;
}

/* One line: adds a property to the list, or tells what is wrong with it. */
static char *
read_line(char *line, int number, List **properties)
{
	const char *text = trim(line);
	char	   *name = pstrdup(text);
	char	   *equals = strchr(name, '=');
	CouponProperty *property;

	if (*text == '\0' || *text == '#' || *text == '!')
		return NULL;
	if (equals == NULL)
		return psprintf("line %d is not name=value", number);
	*equals = '\0';

	property = palloc(sizeof(CouponProperty));
	property->name = pstrdup(trim(name));
	property->value = pstrdup(trim(equals + 1));
	property->line = number;
	for (size_t i = 0; i < lengthof(refused); i++)
	{
		size_t		prefix = strcspn(refused[i].name, "*");

		if (refused[i].name[prefix] == '*' ?
			strncmp(property->name, refused[i].name, prefix) == 0 :
			strcmp(property->name, refused[i].name) == 0)
			return psprintf("line %d: property \"%s\" is refused: %s", number,
							property->name, refused[i].why);
	}
	if ((strcmp(property->name, "sasl.mechanism") == 0 || strcmp(property->name, "sasl.mechanisms") == 0) &&
		pg_strcasecmp(property->value, "OAUTHBEARER") == 0)
		return psprintf("line %d: OAUTHBEARER is not supported: it needs a handler of tokens", number);
	*properties = lappend(*properties, property);
	return NULL;
}

List *
coupon_sink_config_read(const char *path, char **problem)
{
	List	   *properties = NIL;
	struct stat st;
	char	   *contents = NULL;
	char	   *next;
	ssize_t		length = 0;
	int			fd = OpenTransientFile(path, O_RDONLY | O_NONBLOCK | PG_BINARY);

	*problem = NULL;
	if (fd < 0)
	{
		*problem = psprintf("it cannot be opened: %s", strerror(errno));
		return NIL;
	}
	*problem = check_file(fd, &st);
	if (*problem == NULL)
	{
		contents = palloc0(st.st_size + 1);
		length = read(fd, contents, st.st_size);
		if (length != st.st_size)
			*problem = pstrdup("it cannot be read");
	}
	CloseTransientFile(fd);
	if (*problem != NULL)
		return NIL;
	if (strlen(contents) != length)
	{
		*problem = pstrdup("it contains a zero byte");
		return NIL;
	}

	next = contents;
	for (int number = 1; next != NULL && *problem == NULL; number++)
	{
		char	   *line = next;

		next = strchr(line, '\n');
		if (next != NULL)
			*next++ = '\0';
		*problem = read_line(line, number, &properties);
	}
	return *problem == NULL ? properties : NIL;
}
