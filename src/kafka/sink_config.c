/*
 * sink_config.c
 *	  The file of client properties: brokers' security, and tuning.
 *
 * name=value, one a line, # or ! begins a comment.  The file holds passwords.
 * Properties that load code, or that would take away what the publisher
 * promises, are refused.
 */
#include "postgres.h"

#include <ctype.h>
#include <sys/stat.h>

#include "common/hashfn.h"
#include "utils/memutils.h"

#include "base/secret_file.h"
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

/* One line: adds a property to the list, or tells what is wrong with it. */
static const char *
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
coupon_sink_config_read(const char *path, const char **problem)
{
	List	   *properties = NIL;
	int			size;
	char	   *next = coupon_secret_file_read(path, MAX_FILE_SIZE, &size, problem);

	if (next != NULL && strlen(next) != size)
		*problem = "it contains a zero byte";
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

/* ---- has it changed? ---- */

static uint64
stamp_file(uint64 stamp, const char *path)
{
	struct stat st;
	uint64		seen[6] = {0};

	if (stat(path, &st) == 0)
	{
		seen[0] = st.st_dev;
		seen[1] = st.st_ino;
		seen[2] = st.st_size;
		seen[3] = st.st_mode;
		seen[4] = st.st_mtim.tv_sec;
		seen[5] = st.st_mtim.tv_nsec;
	}
	return hash_bytes_extended((unsigned char *) seen, sizeof(seen), stamp);
}

/* Does the property name a file, or a directory of files? */
static bool
names_file(const char *property)
{
	const char *last = strrchr(property, '.');

	return last != NULL && (strcmp(last, ".location") == 0 || strcmp(last, ".keytab") == 0);
}

uint64
coupon_sink_config_stamp(const char *path)
{
	uint64		stamp = 0;
	const char *problem = NULL;
	ListCell   *cell;
	MemoryContext context;
	MemoryContext oldcontext;

	if (path[0] == '\0')
		return stamp;
	context = AllocSetContextCreate(CurrentMemoryContext, "coupon properties", ALLOCSET_DEFAULT_SIZES);
	oldcontext = MemoryContextSwitchTo(context);
	stamp = stamp_file(stamp, path);
	foreach(cell, coupon_sink_config_read(path, &problem))
	{
		CouponProperty *property = lfirst(cell);

		if (names_file(property->name))
			stamp = stamp_file(stamp, property->value);
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
	return stamp;
}
