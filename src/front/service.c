/*
 * service.c
 *	  What the front answers by itself: health; and its own counters.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/namespace.h"
#include "commands/extension.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/database.h"
#include "front/answer.h"
#include "front/service.h"
#include "front/settings.h"

PG_FUNCTION_INFO_V1(coupon_http_status);

/* Answers by class of status, and how long they took; of all front workers. */
typedef struct Counters
{
	pg_atomic_uint64 answers[6];	/* [2]: 2xx, and so on */
	pg_atomic_uint64 microseconds;	/* from a request's arrival to its answer */
	pg_atomic_uint64 slowest;
} Counters;

static Counters *counters = NULL;

static void
request(void)
{
	RequestAddinShmemSpace(sizeof(Counters));
}

static void
startup(void)
{
	bool		found;

	counters = coupon_shmem_struct("coupon http counters", sizeof(Counters), &found);
	if (found)
		return;
	for (size_t i = 0; i < lengthof(counters->answers); i++)
		pg_atomic_init_u64(&counters->answers[i], 0);
	pg_atomic_init_u64(&counters->microseconds, 0);
	pg_atomic_init_u64(&counters->slowest, 0);
}

const CouponModule coupon_service_module = {.request = request,.startup = startup};

void
coupon_service_count(CouponHttpCall *call)
{
	instr_time	took;
	uint64		us;
	uint64		slowest = pg_atomic_read_u64(&counters->slowest);

	INSTR_TIME_SET_CURRENT(took);
	INSTR_TIME_SUBTRACT(took, call->arrived);
	us = INSTR_TIME_GET_MICROSEC(took);
	pg_atomic_fetch_add_u64(&counters->answers[Min(call->status / 100, 5)], 1);
	pg_atomic_fetch_add_u64(&counters->microseconds, us);
	while (slowest < us && !pg_atomic_compare_exchange_u64(&counters->slowest, &slowest, us))
		;
}

bool
coupon_service_in_list(const char *list, const char *word)
{
	size_t		length = strlen(word);

	while (*list != '\0')
	{
		size_t		n;

		list += strspn(list, " ,");
		n = strcspn(list, " ,");
		if (n == length && n > 0 && memcmp(list, word, n) == 0)
			return true;
		list += n;
	}
	return false;
}

bool
coupon_front_has_extension(void)
{
	return OidIsValid(get_extension_oid("coupon", true)) &&
		OidIsValid(get_relname_relid("route", get_namespace_oid("coupon", true)));
}

/* ---- health ---- */

static bool
is_path(CouponHttpCall *call, const char *path)
{
	size_t		length = strlen(path);

	return strncmp(call->target, path, length) == 0 &&
		(call->target[length] == '\0' || call->target[length] == '?');
}

static bool
is_get(CouponHttpCall *call)
{
	return strcmp(call->method, "GET") == 0 || strcmp(call->method, "HEAD") == 0;
}

static void
answer_health(CouponHttpCall *call, bool healthy, const char *why)
{
	char	   *body = psprintf("{\"status\":\"%s\"}", healthy ? "ok" : why);

	coupon_answer_body(call, healthy ? 200 : 503, NULL, body, strlen(body));
	coupon_answer_header(call, "Cache-Control", "no-store");
}

bool
coupon_service_serve(CouponHttpCall *call)
{
	bool		admin_here = coupon_http_admin_listen[0] == '\0' || call->is_admin;

	if (!is_get(call))
		return false;
	if (admin_here && is_path(call, "/healthz"))
	{
		answer_health(call, true, NULL);
		return true;
	}
	if (admin_here && is_path(call, "/readyz"))
	{
		if (RecoveryInProgress())
			answer_health(call, false, "standby");
		else
			answer_health(call, coupon_database() != NULL, "no workers");
		return true;
	}
	return false;
}

/*
 * coupon_http_status(OUT answers_2xx, ... 5xx bigint, OUT average interval,
 * OUT slowest interval): since the server started.
 */
Datum
coupon_http_status(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[6];
	bool		nulls[6] = {0};
	uint64		total = 0;

	coupon_shmem_attach();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "coupon_http_status() has an unexpected result type");
	for (int i = 2; i <= 5; i++)
	{
		uint64		n = pg_atomic_read_u64(&counters->answers[i]);

		values[i - 2] = Int64GetDatum(n);
		total += n;
	}
	nulls[4] = total == 0;
	values[4] = Float8GetDatum(total == 0 ? 0 : pg_atomic_read_u64(&counters->microseconds) / 1000.0 / total);
	nulls[5] = total == 0;
	values[5] = Float8GetDatum(pg_atomic_read_u64(&counters->slowest) / 1000.0);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
