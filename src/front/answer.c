/*
 * answer.c
 *	  What a caller is told: bodies, problems, headers.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "base/compat.h"
#include "base/errors.h"
#include "front/answer.h"
#include "front/json_fields.h"

void
coupon_answer_reset(CouponHttpCall *call)
{
	/* a stream is asked for its answer again and again */
	if (call->headers != NULL)
	{
		pfree(call->headers->data);
		pfree(call->headers);
	}
	if (call->answer != NULL)
		pfree(call->answer);
	call->headers = NULL;
	call->answer = NULL;
	call->answer_length = 0;
	call->body_type = NULL;
	call->done = false;
}

void
coupon_answer_body(CouponHttpCall *call, int status, const char *type, const char *body, size_t length)
{
	call->status = status;
	call->body_type = type;
	call->answer = body == NULL ? NULL : MemoryContextAlloc(call->context, length + 1);
	call->answer_length = body == NULL ? 0 : length;
	if (body != NULL)
		memcpy(call->answer, body, length);
	call->done = true;
}

bool
coupon_answer_is_token(const char *name)
{
	return name[0] != '\0' &&
		name[strspn(name, "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")] == '\0';
}

static bool
is_header_value(const char *value)
{
	for (const unsigned char *p = (const unsigned char *) value; *p != '\0'; p++)
	{
		if ((*p < ' ' && *p != '\t') || *p == 0x7f)
			return false;
	}
	return true;
}

void
coupon_answer_header(CouponHttpCall *call, const char *name, const char *value)
{
	MemoryContext oldcontext;

	if (!coupon_answer_is_token(name) || !is_header_value(value) || pg_strcasecmp(name, "Content-Length") == 0 ||
		pg_strcasecmp(name, "Transfer-Encoding") == 0 || pg_strcasecmp(name, "Connection") == 0)
		return;
	oldcontext = MemoryContextSwitchTo(call->context);
	if (pg_strcasecmp(name, "Content-Type") == 0)
		call->body_type = pstrdup(value);
	else
	{
		if (call->headers == NULL)
			call->headers = makeStringInfo();
		appendStringInfo(call->headers, "%s: %s\n", name, value);
	}
	MemoryContextSwitchTo(oldcontext);
}

void
coupon_answer_problem(CouponHttpCall *call, int status, const char *code, const char *title,
					  const char *detail, const char *hint)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(call->context);
	StringInfoData body;

	initStringInfo(&body);
	coupon_json_problem(&body, status, code, title, detail, hint);
	call->status = status;
	call->body_type = "application/problem+json";
	call->answer = body.data;
	call->answer_length = body.len;
	call->done = true;
	MemoryContextSwitchTo(oldcontext);
	if (status == 503 || status == 429)
		coupon_answer_header(call, "Retry-After", "1");
	if (status == 401)
		coupon_answer_header(call, "WWW-Authenticate", "Bearer");
}

/* The HTTP status of an SQLSTATE. */
static int
status_of(int sqlstate, const char *code)
{
	/* PTnnn: the function chose it, as with PostgREST */
	if (strncmp(code, "PT", 2) == 0 && code[2] >= '2' && code[2] <= '5' &&
		isdigit((unsigned char) code[3]) && isdigit((unsigned char) code[4]))
		return atoi(code + 2);
	switch (sqlstate)
	{
		case ERRCODE_COUPON_UNKNOWN_CAMPAIGN:
		case ERRCODE_COUPON_UNKNOWN_UNIT:
		case ERRCODE_COUPON_UNKNOWN_ROOM:
			return 404;
		case ERRCODE_COUPON_NOT_ADMITTED:
			return 403;
		case ERRCODE_COUPON_CAMPAIGN_CLOSED:
		case ERRCODE_COUPON_REDEEMED:
		case ERRCODE_COUPON_UNIT_KIND:
			return 409;
		case ERRCODE_COUPON_NOT_PRELOADED:
		case ERRCODE_COUPON_OUT_OF_MAP_MEMORY:
		case ERRCODE_COUPON_GROUP_UNAVAILABLE:
		case ERRCODE_COUPON_OUT_OF_QUEUE_MEMORY:
		case ERRCODE_COUPON_NOT_COMMITTED:
		case ERRCODE_COUPON_NOT_HERE:
		case ERRCODE_COUPON_FENCED:
		case ERRCODE_READ_ONLY_SQL_TRANSACTION:
		case ERRCODE_QUERY_CANCELED:
		case ERRCODE_LOCK_NOT_AVAILABLE:
			return 503;
		case ERRCODE_INSUFFICIENT_PRIVILEGE:
			return 403;
		case ERRCODE_UNIQUE_VIOLATION:
		case ERRCODE_FOREIGN_KEY_VIOLATION:
		case ERRCODE_EXCLUSION_VIOLATION:
			return 409;
		case ERRCODE_RAISE_EXCEPTION:
			return 400;
		default:
			break;
	}
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case MAKE_SQLSTATE('2', '2', '0', '0', '0') & ((1 << 12) - 1):
		case MAKE_SQLSTATE('2', '3', '0', '0', '0') & ((1 << 12) - 1):
		case MAKE_SQLSTATE('U', 'C', '0', '0', '0') & ((1 << 12) - 1):
			return 400;
		case MAKE_SQLSTATE('4', '0', '0', '0', '0') & ((1 << 12) - 1):
		case MAKE_SQLSTATE('5', '3', '0', '0', '0') & ((1 << 12) - 1):
		case MAKE_SQLSTATE('5', '5', '0', '0', '0') & ((1 << 12) - 1):
		case MAKE_SQLSTATE('5', '7', '0', '0', '0') & ((1 << 12) - 1):
		case MAKE_SQLSTATE('5', '8', '0', '0', '0') & ((1 << 12) - 1):
			return 503;
		default:
			return 500;
	}
}

/*
 * Is what an ERROR says for a visitor to read?  What a function says on
 * purpose is, and what is wrong with a value; but not what names tables,
 * constraints, files or the contents of rows.
 */
static bool
is_for_visitors(int sqlstate, const char *code, int status)
{
	if (strncmp(code, "PT", 2) == 0)
		return true;
	return status < 500 &&
		(sqlstate == ERRCODE_RAISE_EXCEPTION ||
		 ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_DATA_EXCEPTION ||
		 ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_TO_CATEGORY(ERRCODE_COUPON_UNKNOWN_CAMPAIGN));
}

/* What is said instead. */
static const char *
describe_status(int status)
{
	switch (status)
	{
		case 400:
			return "An argument is not acceptable.";
		case 403:
			return "The caller may not do that.";
		case 409:
			return "The call contradicts what is there already.";
		case 503:
			return "The service is not available at the moment: try again.";
		default:
			return "The call failed.";
	}
}

void
coupon_answer_error(CouponHttpCall *call, const ErrorData *error)
{
	const char *sqlstate = unpack_sql_state(error->sqlerrcode);
	int			status = status_of(error->sqlerrcode, sqlstate);

	coupon_answer_reset(call);

	/*
	 * the hints of the engine's own errors name its SQL functions and
	 * settings
	 */
	if (is_for_visitors(error->sqlerrcode, sqlstate, status))
		coupon_answer_problem(call, status, sqlstate, error->message, error->detail,
							  sqlstate[0] == 'P' ? error->hint : NULL);
	else
		coupon_answer_problem(call, status, sqlstate, describe_status(status), NULL, NULL);
}

/* What a URL may have anywhere, whatever stands around it. */
static bool
is_unreserved(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		c == '-' || c == '.' || c == '_' || c == '~';
}

void
coupon_answer_append_segment(StringInfo path, const text *segment)
{
	for (int i = 0; i < VARSIZE_ANY_EXHDR(segment); i++)
	{
		unsigned char c = VARDATA_ANY(segment)[i];

		if (is_unreserved(c))
			appendStringInfoChar(path, c);
		else
			appendStringInfo(path, "%%%02X", c);
	}
}
