/*
 * route.c
 *	  Routes: which function a method and a path call, from coupon.http_route.
 *
 * The table is read once and again after it, or any function, has changed:
 * a trigger on the table invalidates its relcache entry, which every session
 * hears of.  A route whose function does not exist, or does not have the shape
 * that a route needs, is left out with a line in the log; the others serve.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "base/arguments.h"
#include "base/attempt.h"
#include "base/spi.h"
#include "base/trigger.h"
#include "front/route.h"
#include "front/settings.h"

PG_FUNCTION_INFO_V1(coupon_route_changed);
PG_FUNCTION_INFO_V1(coupon_route_check);
PG_FUNCTION_INFO_V1(coupon_route_function);

static List *routes = NIL;
static MemoryContext route_context = NULL;
static uint64 generation = 0;
static bool stale = true;
static bool loaded = false;		/* false, too, after an attempt that failed */
static bool watching = false;
static Oid	route_table = InvalidOid;

static CouponStatement select_routes = {
	"SELECT r.method, r.path, r.function, r.batched, r.role::pg_catalog.oid,"
	" r.anonymous_role::pg_catalog.oid, r.admin"
	" FROM coupon.http_route r ORDER BY r.path, r.method", 0
};

uint64
coupon_route_generation(void)
{
	return generation;
}

bool
coupon_route_stale(void)
{
	return stale || !loaded;
}

/* ---- what is known of a route ---- */

/* The type coupon.http_answer. */
static Oid
answer_type(void)
{
	return GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("http_answer"),
						   ObjectIdGetDatum(get_namespace_oid("coupon", false)));
}

/* Splits "/a/{b}/c"; returns what is wrong with it. */
static const char *
split_path(CouponRoute *route)
{
	const char *p = route->path;

	if (*p != '/')
		return "its path does not begin with a slash";
	route->nsegments = 0;
	do
	{
		const char *start = ++p;
		CouponSegment *segment;
		size_t		length;

		while (*p != '\0' && *p != '/')
			p++;
		length = p - start;
		if (route->nsegments == COUPON_MAX_SEGMENTS)
			return "its path has too many segments";
		segment = &route->segments[route->nsegments++];
		segment->is_argument = length > 2 && start[0] == '{' && start[length - 1] == '}';
		segment->text = segment->is_argument ? pnstrdup(start + 1, length - 2) : pnstrdup(start, length);
		if (strpbrk(segment->text, "{}?#%& ") != NULL)
			return "its path has characters that a path's template cannot have";
	} while (*p == '/');
	return NULL;
}

static bool
has_parameter(CouponRoute *route, const char *name)
{
	for (int i = 0; i < route->nparameters; i++)
	{
		if (route->parameters[i].name != NULL && strcmp(route->parameters[i].name, name) == 0)
			return true;
	}
	return false;
}

/* The function's parameters; returns what is wrong with them. */
static const char *
read_parameters(CouponRoute *route, HeapTuple tuple)
{
	Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(tuple);
	Oid		   *types;
	char	  **names;
	char	   *modes;
	int			nall = get_func_arg_info(tuple, &types, &names, &modes);
	int			n = 0;

	route->parameters = palloc0(Max(nall, 1) * sizeof(CouponParameter));
	for (int i = 0; i < nall; i++)
	{
		CouponParameter *parameter = &route->parameters[n];

		if (n == COUPON_HTTP_MAX_ARGUMENTS)
			return "its function has too many parameters";
		if (modes != NULL && modes[i] != PROARGMODE_IN && modes[i] != PROARGMODE_INOUT)
		{
			if (modes[i] == PROARGMODE_VARIADIC)
				return "its function is variadic";
			continue;
		}
		if (names != NULL && names[i] != NULL && names[i][0] != '\0')
			parameter->name = names[i];
		parameter->type = route->batched ? get_element_type(types[i]) : types[i];
		parameter->optional = n >= proc->pronargs - proc->pronargdefaults;
		if (!OidIsValid(parameter->type) || parameter->name == NULL)
			return route->batched ? "a batched function takes named arrays" : "its function's parameters have no names";
		getTypeInputInfo(parameter->type, &parameter->input, &parameter->ioparam);
		n++;
	}
	route->nparameters = n;
	return NULL;
}

static const char *
read_function(CouponRoute *route, HeapTuple tuple)
{
	Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(tuple);
	const char *problem;

	if (proc->prokind != PROKIND_FUNCTION)
		return "it does not name a function";
	route->schema = get_namespace_name(proc->pronamespace);
	route->name = quote_qualified_identifier(route->schema, NameStr(proc->proname));
	route->result = proc->prorettype;
	route->returns_set = proc->proretset;
	route->read_only = strcmp(route->method, "GET") == 0 && proc->provolatile != PROVOLATILE_VOLATILE;
	problem = read_parameters(route, tuple);
	if (problem != NULL)
		return problem;
	if (route->batched && (!route->returns_set || route->result != answer_type()))
		return "a batched function returns a set of coupon.http_answer";
	for (int i = 0; i < route->nsegments; i++)
	{
		if (route->segments[i].is_argument && !has_parameter(route, route->segments[i].text))
			return psprintf("its function has no parameter \"%s\", which its path names", route->segments[i].text);
	}
	return NULL;
}

/* A function that is looked for. */
typedef struct Wanted
{
	const char *signature;
	Oid			function;
} Wanted;

static void
look_up(void *arg)
{
	Wanted	   *wanted = arg;

	LOCAL_FCINFO(fcinfo, 1);
	Datum		oid;

	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = CStringGetTextDatum(wanted->signature);
	fcinfo->args[0].isnull = false;
	oid = to_regprocedure(fcinfo);
	wanted->function = fcinfo->isnull ? InvalidOid : DatumGetObjectId(oid);
}

/*
 * A function by its signature, InvalidOid if there is none.  Where the type of an
 * argument is gone, too, PostgreSQL before 16 raises an ERROR, which would be that
 * of all routes.
 */
static Oid
find_function(const char *signature)
{
	Wanted		wanted = {signature, InvalidOid};

	return coupon_attempt(look_up, &wanted) == NULL ? wanted.function : InvalidOid;
}

/* Everything about a route but its plans; returns what is wrong with it. */
static const char *
describe(CouponRoute *route, const char *function)
{
	const char *problem = split_path(route);
	HeapTuple	tuple;

	if (problem != NULL)
		return problem;
	route->function = find_function(function);
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(route->function));
	if (!HeapTupleIsValid(tuple))
		return psprintf("there is no function %s", function);
	problem = read_function(route, tuple);
	ReleaseSysCache(tuple);
	return problem;
}

/* ---- reading the table ---- */

static void
relation_changed(Datum arg, Oid relid)
{
	if (relid == route_table || !OidIsValid(relid))
		stale = true;
}

static void
function_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	stale = true;
}

static void
forget_plans(void)
{
	ListCell   *cell;

	foreach(cell, routes)
	{
		for (CouponPlan *p = ((CouponRoute *) lfirst(cell))->plans; p != NULL; p = p->next)
			SPI_freeplan(p->plan);
	}
}

/* Literals before arguments, so that the more exact template is found first. */
static int
compare_routes(const ListCell *a, const ListCell *b)
{
	const CouponRoute *x = lfirst(a);
	const CouponRoute *y = lfirst(b);

	for (int i = 0; i < Min(x->nsegments, y->nsegments); i++)
	{
		if (x->segments[i].is_argument != y->segments[i].is_argument)
			return x->segments[i].is_argument ? 1 : -1;
	}
	return strcmp(x->path, y->path);
}

void
coupon_route_load(void)
{
	MemoryContext oldcontext;
	List	   *read = NIL;
	uint64		nrows;

	if (!watching)
	{
		CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(PROCOID, function_changed, (Datum) 0);
		watching = true;
		route_context = AllocSetContextCreate(TopMemoryContext, "coupon routes", ALLOCSET_DEFAULT_SIZES);
	}
	stale = false;
	loaded = false;
	forget_plans();
	routes = NIL;
	generation++;
	MemoryContextReset(route_context);
	route_table = get_relname_relid("route", get_namespace_oid("coupon", false));

	coupon_spi_connect();
	nrows = coupon_spi_execute(&select_routes, SPI_OK_SELECT, NULL, NULL);
	oldcontext = MemoryContextSwitchTo(route_context);
	for (uint64 i = 0; i < nrows; i++)
	{
		CouponRoute *route = palloc0(sizeof(CouponRoute));
		bool		isnull;
		const char *problem;

		route->method = coupon_spi_text(i, 1);
		route->path = coupon_spi_text(i, 2);
		route->batched = DatumGetBool(coupon_spi_value(i, 4, NULL));
		route->required_role = DatumGetObjectId(coupon_spi_value(i, 5, &isnull));
		if (isnull)
			route->required_role = InvalidOid;
		route->anonymous_role = DatumGetObjectId(coupon_spi_value(i, 6, &isnull));
		if (isnull)
			route->anonymous_role = InvalidOid;
		route->is_admin = DatumGetBool(coupon_spi_value(i, 7, NULL));
		problem = describe(route, coupon_spi_text(i, 3));
		if (problem == NULL)
			read = lappend(read, route);
		else
			ereport(LOG,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("route %s %s is not served: %s", route->method, route->path, problem)));
	}
	list_sort(read, compare_routes);
	MemoryContextSwitchTo(oldcontext);
	coupon_spi_finish();
	routes = read;
	loaded = true;
}

/* ---- finding one ---- */

/* The segments of a path, as they came; -1: too many. */
static int
split_target(const char *target, const char **starts, size_t *lengths)
{
	const char *p = target;
	int			n = 0;

	if (*p != '/')
		return -1;
	do
	{
		const char *start = ++p;

		while (*p != '\0' && *p != '/' && *p != '?')
			p++;
		if (n == COUPON_MAX_SEGMENTS)
			return -1;
		starts[n] = start;
		lengths[n++] = p - start;
	} while (*p == '/');
	/* a slash at the end changes nothing */
	if (n > 1 && lengths[n - 1] == 0)
		n--;
	return n;
}

static bool
matches(const CouponRoute *route, const char **starts, const size_t *lengths, int n)
{
	if (route->nsegments != n)
		return false;
	for (int i = 0; i < n; i++)
	{
		const CouponSegment *segment = &route->segments[i];

		if (segment->is_argument ? lengths[i] == 0 :
			(strlen(segment->text) != lengths[i] || memcmp(segment->text, starts[i], lengths[i]) != 0))
			return false;
	}
	return true;
}

/* The arguments that the path has; returns what is wrong with them. */
static const char *
bind_path(CouponHttpCall *call, const CouponRoute *route, const char **starts, const size_t *lengths)
{
	for (int i = 0; i < route->nsegments; i++)
	{
		const char *problem;
		char	   *value;

		if (!route->segments[i].is_argument)
			continue;
		value = coupon_decode(starts[i], lengths[i], false);
		if (value == NULL)
			return psprintf("The path's \"%s\" is not percent-encoded UTF-8.", route->segments[i].text);
		problem = coupon_arguments_add(call, route->segments[i].text, value, COUPON_GIVEN_TEXT);
		if (problem != NULL)
			return problem;
	}
	return NULL;
}

CouponRoute *
coupon_route_find(CouponHttpCall *call, StringInfo allow, const char **problem)
{
	const char *starts[COUPON_MAX_SEGMENTS] = {NULL};
	size_t		lengths[COUPON_MAX_SEGMENTS] = {0};
	int			n = split_target(call->target, starts, lengths);
	const char *method = strcmp(call->method, "HEAD") == 0 ? "GET" : call->method;
	const CouponRoute *seen = NULL;
	ListCell   *cell;

	*problem = NULL;
	foreach(cell, routes)
	{
		CouponRoute *route = lfirst(cell);

		if (!matches(route, starts, lengths, n) ||
			(coupon_http_admin_listen[0] != '\0' && route->is_admin != call->is_admin))
			continue;
		if (strcmp(route->method, method) == 0)
		{
			*problem = bind_path(call, route, starts, lengths);
			return route;
		}
		if (allow == NULL)
			continue;
		/* of several templates the first is meant */
		if (seen != NULL && strcmp(seen->path, route->path) != 0)
			continue;
		seen = route;
		appendStringInfo(allow, "%s%s%s", allow->len > 0 ? ", " : "", route->method,
						 strcmp(route->method, "GET") == 0 ? ", HEAD" : "");
	}
	return NULL;
}

/* ---- SQL functions ---- */

/*
 * coupon.route_changed() RETURNS trigger: tells every front that routes have
 * changed, when this commits.
 */
Datum
coupon_route_changed(PG_FUNCTION_ARGS)
{
	CacheInvalidateRelcache(coupon_trigger(fcinfo, "route_changed")->tg_relation);
	return PointerGetDatum(NULL);
}

/*
 * coupon.route_check(method text, path text, function text, batched boolean)
 * RETURNS void: ERROR for what would not be served.
 */
Datum
coupon_route_check(PG_FUNCTION_ARGS)
{
	CouponRoute route = {0};
	const char *problem;

	route.method = coupon_get_text(fcinfo, 0, "method", 1, 16);
	route.path = coupon_get_text(fcinfo, 1, "path", 1, COUPON_MAX_TEXT);
	coupon_require_argument(fcinfo, 3, "batched");
	route.batched = PG_GETARG_BOOL(3);
	problem = describe(&route, coupon_get_text(fcinfo, 2, "function", 1, COUPON_MAX_TEXT));
	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the route cannot be served: %s", problem),
				 errdetail("It is %s %.256s.", route.method, route.path),
				 errhint("A function's named parameters take the arguments of path, query and body.")));
	PG_RETURN_VOID();
}

/*
 * coupon.route_function(signature text) RETURNS regprocedure: null if there is none
 */
Datum
coupon_route_function(PG_FUNCTION_ARGS)
{
	Oid			function = find_function(coupon_get_text(fcinfo, 0, "signature", 1, COUPON_MAX_TEXT));

	if (!OidIsValid(function))
		PG_RETURN_NULL();
	PG_RETURN_OID(function);
}
