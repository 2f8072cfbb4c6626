/*
 * service.c
 *	  What the front answers by itself about its health, and how it goes.
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
#include "base/shmem.h"
#include "front/answer.h"
#include "front/service.h"
#include "front/settings.h"
#include "front/statistics.h"

PG_FUNCTION_INFO_V1(coupon_http_status);

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
 * OUT slowest interval): since the server started or coupon_stat_reset().
 */
Datum
coupon_http_status(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[6];
	bool		nulls[6] = {0};
	uint64		total = 0;
	double		average;
	double		slowest;

	coupon_shmem_attach();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "coupon_http_status() has an unexpected result type");
	for (int i = 2; i <= 5; i++)
	{
		uint64		n = coupon_statistics_class(i);

		values[i - 2] = Int64GetDatum(n);
		total += n;
	}
	coupon_statistics_times(&average, &slowest);
	nulls[4] = nulls[5] = total == 0;
	values[4] = Float8GetDatum(average);
	values[5] = Float8GetDatum(slowest);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
