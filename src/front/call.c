/*
 * call.c
 *	  Carrying out calls: functions with their arguments, as a role.
 *
 * There are two kinds of function.  A batched one takes arrays and answers
 * all calls that came at the same moment; a plain one is called once for each
 * and sees what PostgREST would show it.  Either runs in a subtransaction, so
 * that an ERROR is rolled back alone; a batch that fails is done again call by
 * call, or without those whose values are no values of their types.
 *
 * The role of the caller is set in a way that the function cannot undo: the
 * worker itself is a superuser, and SET ROLE is refused while it runs.  Who
 * may execute a function is asked here, since a plan might have been made for
 * somebody else.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/prepare.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "mb/pg_wchar.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "base/arguments.h"
#include "base/compat.h"
#include "base/trace.h"
#include "front/answer.h"
#include "front/call.h"
#include "front/json_fields.h"
#include "front/settings.h"

#define MAX_PLANS	64			/* of a route: for sets of given arguments */
#define MAX_ARRAY	(16 * COUPON_HTTP_MAX_BODY) /* bytes, of its elements as
												 * text */

/*
 * How long a batch waits for a lock, which all calls of its turn do with it, and
 * so do all calls of the front with a plain function of ours.  Enough for what
 * PostgreSQL itself locks for moments; of what is locked for longer the answer
 * is pending.
 */
#define SHORT_LOCK_MS	100
#define SHARED_LOCK_MS	20		/* with the locks of other calls in hand,
								 * which who has this one may want: another
								 * front worker */

/* The parameter whose value is being converted, for the answer if it fails. */
static const char *converting = NULL;

/* ---- arguments ---- */

static int
find_parameter(const CouponRoute *route, const char *name)
{
	for (int i = 0; i < route->nparameters; i++)
	{
		if (strcmp(route->parameters[i].name, name) == 0)
			return i;
	}
	return -1;
}

/*
 * A token's user is the value of user_id: to name another is refused, and so
 * is to name none where there is none.
 */
static bool
bind_user(CouponHttpCall *call)
{
	CouponHttpArgument *given = coupon_arguments_find(call, "user_id");

	if (find_parameter(call->route, "user_id") < 0 || call->user_id == NULL)
		return true;
	if (given == NULL)
		(void) coupon_arguments_add(call, "user_id", call->user_id, COUPON_GIVEN_TEXT);
	else if (given->value == NULL || strcmp(given->value, call->user_id) != 0)
	{
		coupon_answer_problem(call, 403, "other_user", "The user is not the one of the token.", NULL, NULL);
		return false;
	}
	return true;
}

static bool
refuse_argument(CouponHttpCall *call, const char *name, const char *format)
{
	coupon_answer_problem(call, 400, "invalid_argument", psprintf(format, coupon_clip(name)), NULL, NULL);
	return false;
}

bool
coupon_call_bind(CouponHttpCall *call)
{
	CouponRoute *route = call->route;
	const char *problem;

	if (!bind_user(call))
		return false;
	if (find_parameter(route, "request_key") >= 0 && (problem = coupon_arguments_add_key(call)) != NULL)
	{
		coupon_answer_problem(call, 400, "invalid_argument", problem, NULL, NULL);
		return false;
	}
	if (call->trace != NULL && find_parameter(route, "traceparent") >= 0 &&
		coupon_arguments_find(call, "traceparent") == NULL)
		(void) coupon_arguments_add(call, "traceparent", call->trace, COUPON_GIVEN_TEXT);
	for (int i = 0; i < call->narguments; i++)
	{
		if (find_parameter(route, call->arguments[i].name) < 0)
			return refuse_argument(call, call->arguments[i].name, "There is no argument \"%s\".");
	}
	for (int i = 0; i < route->nparameters; i++)
	{
		const char *name = route->parameters[i].name;

		if (!route->parameters[i].optional && coupon_arguments_find(call, name) == NULL)
			return refuse_argument(call, name, "The argument \"%s\" is missing.");
	}
	return true;
}

/* A JSON array as an array of that type. */
static Datum
convert_array(const char *json, Oid array_type, Oid element_type)
{
	Jsonb	   *jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json)));
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	ArrayBuildState *state = initArrayResult(element_type, CurrentMemoryContext, false);
	size_t		length = 0;
	Oid			input;
	Oid			ioparam;

	if (!JB_ROOT_IS_ARRAY(jsonb) || JB_ROOT_IS_SCALAR(jsonb))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("an array is expected")));
	getTypeInputInfo(element_type, &input, &ioparam);
	it = JsonbIteratorInit(&jsonb->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		char	   *item = NULL;

		if (token != WJB_ELEM)
			continue;
		if (value.type == jbvString)
			item = pnstrdup(value.val.string.val, value.val.string.len);
		else if (value.type == jbvNumeric)
			item = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value.val.numeric)));
		else if (value.type == jbvBool)
			item = pstrdup(value.val.boolean ? "true" : "false");
		else if (value.type == jbvBinary)
			item = JsonbToCString(NULL, value.val.binary.data, value.val.binary.len);
		/* nine bytes of JSON may be a number of 131,072 digits */
		length += item == NULL ? 0 : strlen(item);
		if (length > MAX_ARRAY)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("the array is too large")));
		state = accumArrayResult(state, item == NULL ? (Datum) 0 : OidInputFunctionCall(input, item, ioparam, -1),
								 item == NULL, element_type, CurrentMemoryContext);
	}
	return makeArrayResult(state, CurrentMemoryContext);
}

/* The value of an argument for a parameter; may throw. */
static Datum
convert(const CouponParameter *parameter, const CouponHttpArgument *argument, bool *isnull)
{
	const char *value = argument->value;

	*isnull = value == NULL;
	if (value == NULL)
		return (Datum) 0;
	if (parameter->type == TEXTOID)
		return CStringGetTextDatum(value);
	converting = parameter->name;
	if (argument->kind == COUPON_GIVEN_STRING && (parameter->type == JSONOID || parameter->type == JSONBOID))
	{
		StringInfoData quoted;

		initStringInfo(&quoted);
		coupon_json_append(&quoted, value);
		value = quoted.data;
	}
	else if (argument->kind == COUPON_GIVEN_JSON && value[0] == '[' && OidIsValid(get_element_type(parameter->type)))
	{
		Datum		array = convert_array(value, parameter->type, get_element_type(parameter->type));

		converting = NULL;
		return array;
	}
	{
		Datum		datum = OidInputFunctionCall(parameter->input, unconstify(char *, value), parameter->ioparam, -1);

		converting = NULL;
		return datum;
	}
}

/* ---- plans ---- */

/*
 * What to select of a plain function, so that it gives JSON as text; a bytea is
 * a body as it is, of whatever type the function says.
 */
static void
append_plain(StringInfo sql, const CouponRoute *route, const char *arguments)
{
	if (route->returns_set)
		appendStringInfo(sql, "SELECT coalesce(pg_catalog.json_agg(r), '[]')::pg_catalog.text FROM %s(%s) AS r",
						 route->name, arguments);
	else if (route->result == JSONOID || route->result == JSONBOID)
		appendStringInfo(sql, "SELECT %s(%s)::pg_catalog.text", route->name, arguments);
	else if (route->result == BYTEAOID)
		appendStringInfo(sql, "SELECT pg_catalog.convert_from(%s(%s), 'UTF8')", route->name, arguments);
	else if (route->result == VOIDOID)
		appendStringInfo(sql, "SELECT NULL::pg_catalog.text FROM %s(%s)", route->name, arguments);
	else
		appendStringInfo(sql, "SELECT pg_catalog.to_json(%s(%s))::pg_catalog.text", route->name, arguments);
}

/*
 * The plan of a call, by its role: that a schema may be used, and a function that
 * has been inlined be executed, is asked when a plan is made, and never again.
 */
static SPIPlanPtr
prepare(CouponRoute *route, Oid role, uint64 given)
{
	CouponPlan *entry;
	SPIPlanPtr	plan;
	StringInfoData arguments;
	StringInfoData sql;
	Oid			types[COUPON_HTTP_MAX_ARGUMENTS];
	int			n = 0;

	for (entry = route->plans; entry != NULL; entry = entry->next)
	{
		if (entry->given == given && entry->role == role)
			return entry->plan;
	}
	initStringInfo(&arguments);
	for (int i = 0; i < route->nparameters; i++)
	{
		if ((given & (UINT64CONST(1) << i)) == 0)
			continue;
		types[n++] = route->batched ? get_array_type(route->parameters[i].type) : route->parameters[i].type;
		appendStringInfo(&arguments, "%s%s => $%d", n > 1 ? ", " : "",
						 quote_identifier(route->parameters[i].name), n);
	}
	initStringInfo(&sql);
	if (route->batched)
		appendStringInfo(&sql, "SELECT a.status, a.headers, a.body::pg_catalog.text, a.pending FROM %s(%s) AS a",
						 route->name, arguments.data);
	else
		append_plain(&sql, route, arguments.data);
	plan = SPI_prepare(sql.data, n, types);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql.data, SPI_result_code_string(SPI_result));

	/*
	 * callers choose which optional arguments they give, and could fill
	 * memory
	 */
	if (route->nplans >= MAX_PLANS)
		return plan;
	entry = MemoryContextAllocZero(GetMemoryChunkContext(route), sizeof(CouponPlan));
	entry->role = role;
	entry->given = given;
	entry->plan = plan;
	SPI_keepplan(plan);
	entry->next = route->plans;
	route->plans = entry;
	route->nplans++;
	return plan;
}

/* ---- running as somebody ---- */

volatile sig_atomic_t coupon_call_is_plain = false;

typedef struct Scope
{
	MemoryContext context;
	ResourceOwner owner;
	Oid			user;
	int			security;
	int			guc_level;
} Scope;

/* Begins a subtransaction with the rights of the role, and a time limit. */
static void
enter(Scope *scope, CouponHttpCall *call)
{
	scope->context = CurrentMemoryContext;
	scope->owner = CurrentResourceOwner;
	GetUserIdAndSecContext(&scope->user, &scope->security);
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(scope->context);
	PushActiveSnapshot(GetTransactionSnapshot());
	scope->guc_level = NewGUCNestLevel();
	enable_timeout_after(STATEMENT_TIMEOUT, coupon_http_statement_timeout);
	if (!coupon_may_execute(call->route->function, call->role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("the caller may not use this route")));
	SetUserIdAndSecContext(call->role, scope->security | SECURITY_LOCAL_USERID_CHANGE);
}

/* The time limit's signal may be on its way when the function is done. */
static void
stop_clock(void)
{
	coupon_call_is_plain = false;
	disable_timeout(STATEMENT_TIMEOUT, false);
	QueryCancelPending = false;
}

/*
 * What a function leaves in the session is no other caller's business.  Our
 * own locks are all the transaction's.
 */
static void
tidy_session(void)
{
	LockReleaseSession(USER_LOCKMETHOD);
	DropAllPreparedStatements();
	ResetTempTableNamespace();
}

static void
leave(Scope *scope)
{
	/*
	 * What is left for the commit would have the worker's rights there, and
	 * no time limit: deferred triggers, and cursors that are to be kept.
	 */
	AfterTriggerFireDeferred();
	PortalHashTableDeleteAll();
	stop_clock();
	SetUserIdAndSecContext(scope->user, scope->security);
	/* whatever the function has set is undone, too */
	AtEOXact_GUC(false, scope->guc_level);
	tidy_session();
	PopActiveSnapshot();
	ReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(scope->context);
	CurrentResourceOwner = scope->owner;
}

/* After an ERROR: rolls back, and returns what it was. */
static ErrorData *
fail(Scope *scope)
{
	ErrorData  *error;

	MemoryContextSwitchTo(scope->context);
	error = CopyErrorData();
	FlushErrorState();
	stop_clock();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(scope->context);
	CurrentResourceOwner = scope->owner;
	tidy_session();
	return error;
}

static void
answer_failed(CouponHttpCall *call, const ErrorData *error)
{
	int			category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

	/* not that it was cancelled, or that memory was short */
	if (converting != NULL && category != ERRCODE_OPERATOR_INTERVENTION && category != ERRCODE_INSUFFICIENT_RESOURCES)
	{
		coupon_answer_reset(call);
		coupon_answer_problem(call, 400, "invalid_argument",
							  psprintf("The argument \"%s\" is not valid.", converting),
							  category == ERRCODE_DATA_EXCEPTION ? error->message : NULL, NULL);
	}
	else
		coupon_answer_error(call, error);
	converting = NULL;
	if (call->status == 500 || category == ERRCODE_INSUFFICIENT_RESOURCES || category == ERRCODE_SYSTEM_ERROR)
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("%s %s failed: %s", call->route->method, call->route->path, error->message),
				 error->detail ? errdetail("%s", error->detail) : 0,
				 coupon_trace_context(call->trace)));
}

/* ---- plain functions ---- */

static void
set_local(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

static void
shorten_lock_timeout(int ms)
{
	if (coupon_http_lock_timeout > ms)
		set_local("lock_timeout", psprintf("%dms", ms));
}

static void
append_header(void *state, const char *name, const char *value)
{
	StringInfo	headers = state;
	char	   *lower = pstrdup(name);

	for (char *p = lower; *p != '\0'; p++)
		*p = pg_ascii_tolower((unsigned char) *p);
	/* the token is not the function's business */
	if (strcmp(lower, "authorization") == 0 ||
		!pg_verify_mbstr(GetDatabaseEncoding(), value, strlen(value), true))
		return;
	if (headers->len > 1)
		appendStringInfoChar(headers, ',');
	coupon_json_append(headers, lower);
	appendStringInfoChar(headers, ':');
	coupon_json_append(headers, value);
}

/* What PostgREST shows a function of its request. */
static void
set_envelope(CouponHttpCall *call)
{
	StringInfoData headers;
	const char *query = strchr(call->target, '?');

	initStringInfo(&headers);
	appendStringInfoChar(&headers, '{');
	coupon_http_each_header(call, append_header, &headers);
	appendStringInfoChar(&headers, '}');
	set_local("search_path", psprintf("%s, public, pg_temp", quote_identifier(call->route->schema)));
	set_local("request.method", call->method);
	set_local("request.path", query == NULL ? call->target : pnstrdup(call->target, query - call->target));
	set_local("request.headers", headers.data);
	set_local("request.jwt.claims", call->claims == NULL ? "{}" : call->claims);
	set_local("response.status", "");
	set_local("response.headers", "");
	if (call->trace != NULL)
		set_local("coupon.traceparent", call->trace);
}


static bool
note_response_header(void *state, char *name, char *value, bool is_string)
{
	if (value != NULL)
		coupon_answer_header(state, name, value);
	return true;
}

/* [{"Name": "value"}, ...], as PostgREST reads it; an object alone will do. */
static void
read_response_headers(CouponHttpCall *call, const char *text)
{
	Jsonb	   *jsonb;
	JsonbIterator *it;
	JsonbValue	value;
	JsonbIteratorToken token;

	if (text == NULL || text[0] == '\0')
		return;
	jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
	if (JB_ROOT_IS_OBJECT(jsonb))
	{
		(void) coupon_json_fields(text, strlen(text), note_response_header, call);
		return;
	}
	it = JsonbIteratorInit(&jsonb->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_ELEM && value.type == jbvBinary)
		{
			char	   *object = JsonbToCString(NULL, value.val.binary.data, value.val.binary.len);

			(void) coupon_json_fields(object, strlen(object), note_response_header, call);
		}
	}
}

/* Runs the function; its result as text, NULL for none. */
static char *
run_plain(CouponHttpCall *call)
{
	CouponRoute *route = call->route;
	Datum		values[COUPON_HTTP_MAX_ARGUMENTS];
	char		nulls[COUPON_HTTP_MAX_ARGUMENTS];
	uint64		given = 0;
	char	   *result = NULL;
	int			n = 0;
	MemoryContext context = CurrentMemoryContext;

	for (int i = 0; i < route->nparameters; i++)
	{
		CouponHttpArgument *argument = coupon_arguments_find(call, route->parameters[i].name);
		bool		isnull;

		if (argument == NULL)
			continue;
		values[n] = convert(&route->parameters[i], argument, &isnull);
		nulls[n++] = isnull ? 'n' : ' ';
		given |= UINT64CONST(1) << i;
	}
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_plan(prepare(route, call->role, given), values, nulls, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "%s did not return a result", route->name);
	if (SPI_processed > 0)
	{
		char	   *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

		if (value != NULL)
			result = MemoryContextStrdup(context, value);
	}
	SPI_finish();
	return result;
}

static void
take_answer(CouponHttpCall *call, const char *result)
{
	const char *status = GetConfigOption("response.status", true, false);
	const char *headers = GetConfigOption("response.headers", true, false);
	int			code = status == NULL || status[0] == '\0' ? (result == NULL ? 204 : 200) : atoi(status);

	if (code < 200 || code > 599)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("response.status must be from 200 to 599, not \"%s\"", status)));
	coupon_answer_body(call, code, NULL, result, result == NULL ? 0 : strlen(result));
	read_response_headers(call, headers);
}

bool
coupon_call_plain(CouponHttpCall *call, bool shared, bool *pending)
{
	Scope		scope = {0};
	volatile bool answered = true;
	bool		is_ours = strcmp(call->route->schema, "coupon") == 0;
	volatile bool answering = false;

	*pending = false;
	coupon_answer_reset(call);
	PG_TRY();
	{
		char	   *result;

		enter(&scope, call);
		coupon_call_is_plain = true;
		/* from here on SIGTERM cancels it; what came before is seen here */
		if (ShutdownRequestPending)
			ereport(ERROR,
					(errcode(ERRCODE_ADMIN_SHUTDOWN),
					 errmsg("the front is being stopped")));
		set_envelope(call);
		if (shared || is_ours)
			shorten_lock_timeout(shared ? SHARED_LOCK_MS : SHORT_LOCK_MS);
		if (call->route->read_only)
			XactReadOnly = true;
		result = run_plain(call);
		answering = true;
		take_answer(call, result);
		answering = false;
		leave(&scope);
	}
	PG_CATCH();
	{
		ErrorData  *error = fail(&scope);

		/*
		 * a status or headers that are none are the function's mistake, not
		 * the caller's
		 */
		if (answering && ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_DATA_EXCEPTION)
			error->sqlerrcode = ERRCODE_EXTERNAL_ROUTINE_INVOCATION_EXCEPTION;
		answered = !shared || (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE && error->sqlerrcode != ERRCODE_T_R_DEADLOCK_DETECTED);
		if (answered)
			answer_failed(call, error);
		converting = NULL;
		*pending = answered && is_ours && error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
	}
	PG_END_TRY();
	return answered;
}

/* ---- batched functions ---- */

/* The array of one parameter's values over all calls. */
static Datum
gather(CouponHttpCall **calls, int ncalls, const CouponParameter *parameter)
{
	Datum	   *values = palloc(ncalls * sizeof(Datum));
	bool	   *nulls = palloc(ncalls * sizeof(bool));
	int			dims[1] = {ncalls};
	int			bounds[1] = {1};
	int16		length;
	bool		by_value;
	char		align;

	for (int i = 0; i < ncalls; i++)
	{
		CouponHttpArgument *argument = coupon_arguments_find(calls[i], parameter->name);

		nulls[i] = true;
		values[i] = (Datum) 0;
		if (argument != NULL)
			values[i] = convert(parameter, argument, &nulls[i]);
	}
	get_typlenbyvalalign(parameter->type, &length, &by_value, &align);
	return PointerGetDatum(construct_md_array(values, nulls, 1, dims, bounds, parameter->type,
											  length, by_value, align));
}

/* {name, value, name, value, ...} */
static void
take_headers(CouponHttpCall *call, Datum headers)
{
	Datum	   *elements;
	bool	   *nulls;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(headers), TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &n);
	for (int i = 0; i + 1 < n; i += 2)
	{
		if (!nulls[i] && !nulls[i + 1])
			coupon_answer_header(call, TextDatumGetCString(elements[i]), TextDatumGetCString(elements[i + 1]));
	}
}

static void
take_row(CouponHttpCall *call, HeapTuple tuple, TupleDesc desc, bool *pending)
{
	bool		isnull;
	Datum		status = SPI_getbinval(tuple, desc, 1, &isnull);
	Datum		value;

	if (isnull)
		elog(ERROR, "%s gave an answer without a status", call->route->name);
	call->status = DatumGetInt32(status);
	if (call->status < 200 || call->status > 599)
		elog(ERROR, "%s gave an answer with the status %d", call->route->name, call->status);
	value = SPI_getbinval(tuple, desc, 3, &isnull);
	if (isnull)
		coupon_answer_body(call, call->status, NULL, NULL, 0);
	else
	{
		text	   *body = DatumGetTextPP(value);

		coupon_answer_body(call, call->status, NULL, VARDATA_ANY(body), VARSIZE_ANY_EXHDR(body));
		if (call->status >= 400)
			call->body_type = "application/problem+json";
	}
	value = SPI_getbinval(tuple, desc, 2, &isnull);
	if (!isnull)
		take_headers(call, value);
	value = SPI_getbinval(tuple, desc, 4, &isnull);
	*pending = !isnull && DatumGetBool(value);
}

static void
run_batch(CouponHttpCall **calls, int ncalls, bool *pending)
{
	CouponRoute *route = calls[0]->route;
	Datum		values[COUPON_HTTP_MAX_ARGUMENTS];

	for (int i = 0; i < route->nparameters; i++)
		values[i] = gather(calls, ncalls, &route->parameters[i]);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_plan(prepare(route, calls[0]->role, (UINT64CONST(1) << route->nparameters) - 1),
						 values, NULL, route->read_only, 0) != SPI_OK_SELECT ||
		SPI_processed != ncalls)
		elog(ERROR, "%s did not give one answer for each call", route->name);
	for (int i = 0; i < ncalls; i++)
		take_row(calls[i], SPI_tuptable->vals[i], SPI_tuptable->tupdesc, &pending[i]);
	SPI_finish();
}

/*
 * Answers the calls whose values cannot be converted; the others are put into
 * good, in their order.  Returns their number.
 */
static int
weed_out(CouponHttpCall **calls, int ncalls, CouponHttpCall **good)
{
	int			ngood = 0;

	for (int i = 0; i < ncalls; i++)
	{
		Scope		scope = {0};

		PG_TRY();
		{
			enter(&scope, calls[i]);
			for (int k = 0; k < calls[i]->route->nparameters; k++)
				(void) gather(&calls[i], 1, &calls[i]->route->parameters[k]);
			leave(&scope);
		}
		PG_CATCH();
		{
			answer_failed(calls[i], fail(&scope));
		}
		PG_END_TRY();
		if (!calls[i]->done)
			good[ngood++] = calls[i];
	}
	return ngood;
}

/*
 * A value could not be converted: the calls that it is not of are still one
 * batch, so that who sends such values does not make their neighbours costly.
 * False: there is no such value any more.
 */
static bool
carry_out_good(CouponHttpCall **calls, int ncalls, bool *pending)
{
	CouponHttpCall **good = palloc(ncalls * sizeof(CouponHttpCall *));
	bool	   *good_pending = palloc(ncalls * sizeof(bool));
	int			ngood = weed_out(calls, ncalls, good);

	if (ngood == ncalls)
		return false;
	if (ngood > 0)
		coupon_call_batch(good, ngood, good_pending);
	for (int i = 0, k = 0; i < ncalls && k < ngood; i++)
	{
		if (calls[i] == good[k])
			pending[i] = good_pending[k++];
	}
	return true;
}

void
coupon_call_batch(CouponHttpCall **calls, int ncalls, bool *pending)
{
	Scope		scope = {0};
	volatile bool failed = false;
	volatile bool unconverted = false;

	memset(pending, 0, ncalls * sizeof(bool));
	for (int i = 0; i < ncalls; i++)
		coupon_answer_reset(calls[i]);
	PG_TRY();
	{
		enter(&scope, calls[0]);
		shorten_lock_timeout(SHORT_LOCK_MS);
		run_batch(calls, ncalls, pending);
		leave(&scope);
	}
	PG_CATCH();
	{
		ErrorData  *error = fail(&scope);

		/*
		 * who has waited for a lock, or too long, does not wait once for each
		 * call
		 */
		failed = ncalls > 1 && error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE &&
			error->sqlerrcode != ERRCODE_QUERY_CANCELED;
		unconverted = failed && converting != NULL;
		for (int i = 0; !failed && i < ncalls; i++)
		{
			answer_failed(calls[i], error);
			/* a table is locked: their answers may change, others go on */
			pending[i] = error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
		}
		converting = NULL;
	}
	PG_END_TRY();
	if (unconverted && carry_out_good(calls, ncalls, pending))
		return;
	for (int i = 0; failed && i < ncalls; i++)
		coupon_call_batch(&calls[i], 1, &pending[i]);
}
