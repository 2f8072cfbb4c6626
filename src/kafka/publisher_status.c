/*
 * publisher_status.c
 *	  What the publisher of a database tells about itself, and
 *	  coupon_outbox_status, which adds what the tables tell.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_authid_d.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/database.h"
#include "base/shmem.h"
#include "kafka/publisher_status.h"
#include "outbox/event_id.h"
#include "outbox/outbox.h"
#include "outbox/reader.h"

#define LOG_AGAIN_MS	(60 * 1000) /* the same problem */
#define LOG_LINES		30		/* in that time, of all problems */
#define STATE_NATTS		12
#define HIDDEN			"<insufficient privilege>"

PG_FUNCTION_INFO_V1(coupon_publisher_state);

/* The publishers' of all databases. */
static CouponPublisherStatus *all = NULL;

static void
new_database(int place)
{
	memset(&all[place], 0, sizeof(CouponPublisherStatus));
	SpinLockInit(&all[place].mutex);
}

static void
set_up(void)
{
	for (int i = 0; i < COUPON_MAX_DATABASES; i++)
		new_database(i);
}

static void
reset_statistics(void)
{
	int			place = coupon_database_place();

	if (place < 0)
		return;
	SpinLockAcquire(&all[place].mutex);
	all[place].published = all[place].retried = all[place].dead = 0;
	SpinLockRelease(&all[place].mutex);
}

const CouponModule coupon_publisher_module = {
	.name = "coupon publishers",
	.size = COUPON_MAX_DATABASES * sizeof(CouponPublisherStatus),
	.memory = (void **) &all,
	.set_up = set_up,
	.new_database = new_database,
	.reset_statistics = reset_statistics
};

static CouponPublisherStatus *
status(void)
{
	return &all[coupon_database_place()];
}

void
coupon_publisher_set_state(CouponBrokerState state)
{
	CouponPublisherStatus *s = status();

	SpinLockAcquire(&s->mutex);
	s->state = state;
	SpinLockRelease(&s->mutex);
}

void
coupon_publisher_count(int64 in_flight, int64 published, int64 retried, int64 dead)
{
	CouponPublisherStatus *s = status();
	TimestampTz now = published > 0 ? GetCurrentTimestamp() : 0;

	SpinLockAcquire(&s->mutex);
	s->in_flight = in_flight;
	s->published += published;
	s->retried += retried;
	s->dead += dead;
	if (published > 0)
		s->acknowledged_at = now;
	SpinLockRelease(&s->mutex);
}

void
coupon_publisher_set_refused(const char *topics)
{
	CouponPublisherStatus *s = status();
	char		line[COUPON_STATUS_TEXT];

	strlcpy(line, topics, sizeof(line));
	SpinLockAcquire(&s->mutex);
	memcpy(s->refused_topics, line, sizeof(line));
	SpinLockRelease(&s->mutex);
}

void
coupon_publisher_problem(const char *fmt,...)
{
	static char logged[COUPON_STATUS_TEXT];
	static TimestampTz logged_at = 0;
	static TimestampTz minute = 0;
	static int	lines = 0;
	CouponPublisherStatus *s = status();
	TimestampTz now = GetCurrentTimestamp();
	char		line[COUPON_STATUS_TEXT];
	va_list		args;

	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	/* it may quote a broker or a file: no half characters, no line breaks */
	line[pg_mbcliplen(line, strlen(line), sizeof(line) - 1)] = '\0';
	for (char *c = line; *c; c++)
	{
		if ((unsigned char) *c < ' ' || (unsigned char) *c > '~')
			*c = ' ';
	}

	SpinLockAcquire(&s->mutex);
	memcpy(s->error, line, sizeof(line));
	s->failed_at = now;
	SpinLockRelease(&s->mutex);

	if (TimestampDifferenceExceeds(minute, now, LOG_AGAIN_MS))
	{
		minute = now;
		lines = 0;
	}
	if ((strcmp(logged, line) != 0 || TimestampDifferenceExceeds(logged_at, now, LOG_AGAIN_MS)) &&
		++lines <= LOG_LINES)
	{
		strlcpy(logged, line, sizeof(logged));
		logged_at = now;
		ereport(LOG, (errmsg("coupon publisher: %s", line)));
	}
}

const char *
coupon_publisher_state_name(CouponBrokerState state)
{
	switch (state)
	{
		case COUPON_BROKER_NONE:
			return "no publisher";
		case COUPON_BROKER_OFF:
			return "off";
		case COUPON_BROKER_MISCONFIGURED:
			return "misconfigured";
		case COUPON_BROKER_CONNECTING:
			return "connecting";
		case COUPON_BROKER_UP:
			return "up";
		case COUPON_BROKER_DOWN:
			return "down";
	}
	return "unknown";
}

static void
set_timestamp(TimestampTz value, Datum *values, bool *nulls, int column)
{
	values[column] = TimestampTzGetDatum(value);
	nulls[column] = value == 0;
}

static void
set_text(const char *value, Datum *values, bool *nulls, int column)
{
	nulls[column] = value[0] == '\0';
	if (value[0] != '\0')
		values[column] = CStringGetTextDatum(value);
}

/*
 * Errors name brokers and files.  coupon_outbox_status runs as its owner, so
 * it is the role outside of it that counts.
 */
bool
coupon_publisher_may_see_errors(void)
{
	Oid			role = GetOuterUserId();
	Oid			admin = get_role_oid("coupon_admin", true);

	return has_privs_of_role(role, ROLE_PG_READ_ALL_STATS) ||
		(OidIsValid(admin) && has_privs_of_role(role, admin));
}

void
coupon_publisher_read(CouponPublisherStatus *copy)
{
	int			place = coupon_database_place();

	memset(copy, 0, sizeof(*copy));
	if (place < 0)
		return;
	SpinLockAcquire(&all[place].mutex);
	*copy = all[place];
	SpinLockRelease(&all[place].mutex);
	if (coupon_count_workers(COUPON_PUBLISHER) == 0)
	{
		copy->state = COUPON_BROKER_NONE;
		copy->in_flight = 0;
	}
}

/*
 * coupon.publisher_state(exact) - the row of coupon_outbox_status, without what
 * SQL tells more easily
 */
Datum
coupon_publisher_state(PG_FUNCTION_ARGS)
{
	CouponPublisherStatus copy;
	TupleDesc	desc;
	Datum		values[STATE_NATTS] = {0};
	bool		nulls[STATE_NATTS] = {0};
	uint64		oldest;
	int			n = 0;

	coupon_shmem_attach();
	PreventCommandDuringRecovery("coupon_outbox_status()");
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE ||
		desc->natts != STATE_NATTS)
		elog(ERROR, "coupon.publisher_state has an unexpected shape");

	coupon_publisher_read(&copy);
	values[n++] = Int64GetDatum(coupon_outbox_count(PG_GETARG_BOOL(0), &oldest));
	set_timestamp(oldest == 0 ? 0 :
				  (TimestampTz) (oldest / COUPON_TICKS_PER_MS) * 1000 -
				  (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY,
				  values, nulls, n++);
	values[n++] = Int64GetDatum(copy.in_flight);
	values[n++] = Int64GetDatum(copy.published);
	values[n++] = Int64GetDatum(copy.retried);
	values[n++] = Int64GetDatum(copy.dead);
	set_timestamp(copy.acknowledged_at, values, nulls, n++);
	values[n++] = CStringGetTextDatum(coupon_publisher_state_name(copy.state));
	set_text(copy.refused_topics, values, nulls, n++);
	set_text(copy.error[0] == '\0' || coupon_publisher_may_see_errors() ? copy.error : HIDDEN, values, nulls, n++);
	set_timestamp(copy.failed_at, values, nulls, n++);
	values[n++] = Int64GetDatum((int64) coupon_outbox_size());
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}
