/*
 * call_arguments.c
 *	  The arguments of a call: from its path, its query and its body.
 *
 * Names are those of the function's parameters.  What comes from a path, a
 * query or a form is text, percent-encoded; a body may be JSON, whose strings
 * are text, too, and whose other values are JSON.  A name that is given twice
 * is refused rather than one of the two chosen.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "base/arguments.h"
#include "front/json_fields.h"
#include "front/route.h"
#include "front/settings.h"

#define KEY_HEADER		"Idempotency-Key"
#define FEW_ARGUMENTS	8		/* most calls have no more */

char *
coupon_decode(const char *text, size_t length, bool form)
{
	char	   *decoded = palloc(length + 1);
	size_t		n = 0;

	for (size_t i = 0; i < length; i++)
	{
		char		c = text[i];

		if (c == '%')
		{
			int			high = i + 2 < length ? coupon_hex_digit(text[i + 1]) : -1;
			int			low = i + 2 < length ? coupon_hex_digit(text[i + 2]) : -1;

			if (high < 0 || low < 0 || (high == 0 && low == 0))
				return NULL;
			c = (char) (high * 16 + low);
			i += 2;
		}
		else if (c == '+' && form)
			c = ' ';
		decoded[n++] = c;
	}
	decoded[n] = '\0';
	return pg_verify_mbstr(GetDatabaseEncoding(), decoded, n, true) ? decoded : NULL;
}

char *
coupon_clip(const char *name)
{
	return pnstrdup(name, pg_mbcliplen(name, strlen(name), 64));
}

const char *
coupon_arguments_add(CouponHttpCall *call, const char *name, const char *value,
					 CouponArgumentKind kind)
{
	CouponHttpArgument *argument;

	if (coupon_arguments_find(call, name) != NULL)
		return psprintf("The argument \"%s\" is given twice.", coupon_clip(name));
	if (call->narguments == COUPON_HTTP_MAX_ARGUMENTS)
		return "There are too many arguments.";
	if (call->arguments == NULL)
		call->arguments = palloc(FEW_ARGUMENTS * sizeof(CouponHttpArgument));
	else if (call->narguments == FEW_ARGUMENTS)
		call->arguments = repalloc(call->arguments, COUPON_HTTP_MAX_ARGUMENTS * sizeof(CouponHttpArgument));
	argument = &call->arguments[call->narguments++];
	argument->name = name;
	argument->value = value;
	argument->kind = kind;
	return NULL;
}

CouponHttpArgument *
coupon_arguments_find(CouponHttpCall *call, const char *name)
{
	for (int i = 0; i < call->narguments; i++)
	{
		if (strcmp(call->arguments[i].name, name) == 0)
			return &call->arguments[i];
	}
	return NULL;
}

/* name=value&name=value */
static const char *
read_form(CouponHttpCall *call, const char *form, size_t length)
{
	const char *end = form + length;

	while (form < end)
	{
		const char *stop = memchr(form, '&', end - form);
		const char *equals;
		char	   *name;
		char	   *value;

		if (stop == NULL)
			stop = end;
		equals = memchr(form, '=', stop - form);
		if (equals == NULL)
			equals = stop;
		name = coupon_decode(form, equals - form, true);
		value = equals < stop ? coupon_decode(equals + 1, stop - equals - 1, true) : pstrdup("");
		if (name == NULL || value == NULL)
			return "An argument is not percent-encoded UTF-8.";
		if (stop > form)
		{
			const char *problem = coupon_arguments_add(call, name, value, COUPON_GIVEN_TEXT);

			if (problem != NULL)
				return problem;
		}
		form = stop + 1;
	}
	return NULL;
}

typedef struct BodyState
{
	CouponHttpCall *call;
	const char *problem;
} BodyState;

static bool
note_field(void *state, char *name, char *value, bool is_string)
{
	BodyState  *body = state;

	if (body->problem == NULL)
		body->problem = coupon_arguments_add(body->call, name, value,
											 is_string ? COUPON_GIVEN_STRING : COUPON_GIVEN_JSON);
	return true;
}

static const char *
read_json(CouponHttpCall *call)
{
	BodyState	state = {.call = call};
	const char *problem = coupon_json_fields(call->body, call->body_length, note_field, &state);

	if (problem != NULL)
		return psprintf("The body %s%s", strncmp(problem, "is ", 3) == 0 || strncmp(problem, "has ", 4) == 0 ?
						"" : "is not JSON: ", problem);
	return state.problem;
}

/* Is the media type of the header this one, whatever its parameters? */
static bool
is_type(const char *header, const char *type)
{
	size_t		length = strlen(type);

	return pg_strncasecmp(header, type, length) == 0 &&
		(header[length] == '\0' || header[length] == ';' || header[length] == ' ');
}

const char *
coupon_arguments_read(CouponHttpCall *call)
{
	const char *query = strchr(call->target, '?');
	const char *type = coupon_http_header(call, "Content-Type");
	const char *problem = NULL;

	if (query != NULL)
		problem = read_form(call, query + 1, strlen(query + 1));
	if (problem != NULL || call->body_length == 0)
		return problem;
	/* what many clients send as a form, without asking, is JSON nevertheless */
	if (type != NULL && is_type(type, "application/x-www-form-urlencoded") &&
		call->body[strspn(call->body, " \t\r\n")] != '{')
		return read_form(call, call->body, call->body_length);
	if (type == NULL || is_type(type, "application/json") || is_type(type, "text/plain") ||
		is_type(type, "application/x-www-form-urlencoded"))
		return read_json(call);
	return "The body's type must be application/json or application/x-www-form-urlencoded.";
}

/* ---- the key ---- */

static void
count_keys(void *state, const char *name, const char *value)
{
	if (pg_strcasecmp(name, KEY_HEADER) == 0)
		(*(int *) state)++;
}

/*
 * What a key in quotes has in them: RFC 8941's strings, as IETF's draft on the
 * header has it.  Anything else is a key as it is.
 */
static char *
unquote(const char *value)
{
	char	   *key = pstrdup(value);
	char	   *to = key;

	for (const char *from = value + 1; value[0] == '"' && *from != '\0'; from++)
	{
		if (*from == '"' && from[1] == '\0')
		{
			*to = '\0';
			return key;
		}
		if (*from == '\\' && (from[1] == '"' || from[1] == '\\'))
			from++;
		else if (*from == '\\' || *from == '"')
			break;
		*to++ = *from;
	}
	return pstrdup(value);
}

const char *
coupon_arguments_add_key(CouponHttpCall *call)
{
	const char *value = coupon_http_header(call, KEY_HEADER);
	int			n = 0;

	if (value == NULL)
		return NULL;
	coupon_http_each_header(call, count_keys, &n);
	if (n > 1)
		return "The header \"" KEY_HEADER "\" is given twice.";
	if (!pg_verify_mbstr(GetDatabaseEncoding(), value, strlen(value), true))
		return "The header \"" KEY_HEADER "\" is not UTF-8.";
	return coupon_arguments_add(call, "request_key", unquote(value), COUPON_GIVEN_TEXT);
}
