/*
 * json_fields.c
 *	  The fields of a JSON object, without an ERROR for what is not one.
 *
 * A body is read before there is a transaction for it, so a bad one must be
 * an answer, not an ERROR.  PostgreSQL's parser reports what is wrong as a
 * value, but for one thing: it raises an ERROR when it is nested too deeply,
 * so the depth is bounded before it is asked.
 */
#include "postgres.h"

#include "common/jsonapi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/json.h"

#include "base/compat.h"
#include "front/json_fields.h"

#define MAX_DEPTH	64

typedef struct FieldsState
{
	JsonLexContext *lex;
	CouponJsonField f;
	void	   *state;
	int			depth;
	bool		is_object;
	bool		stopped;
	const char *start;			/* of the value of a field, in the text */
	char	   *scalar;			/* the value, if it is a scalar */
	JsonTokenType type;
} FieldsState;

/* Is the text nested no deeper than allowed?  Does not care for its syntax. */
static bool
is_shallow(const char *json, size_t length)
{
	bool		in_string = false;
	int			depth = 0;

	for (size_t i = 0; i < length; i++)
	{
		char		c = json[i];

		if (in_string)
		{
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = false;
		}
		else if (c == '"')
			in_string = true;
		else if ((c == '{' || c == '[') && ++depth > MAX_DEPTH)
			return false;
		else if (c == '}' || c == ']')
			depth--;
	}
	return true;
}

static COUPON_JSON_RESULT
begin_object(void *state)
{
	FieldsState *fields = state;

	if (fields->depth++ == 0)
		fields->is_object = true;
	return COUPON_JSON_OK;
}

static COUPON_JSON_RESULT
begin_array(void *state)
{
	((FieldsState *) state)->depth++;
	return COUPON_JSON_OK;
}

static COUPON_JSON_RESULT
end_nested(void *state)
{
	((FieldsState *) state)->depth--;
	return COUPON_JSON_OK;
}

static COUPON_JSON_RESULT
begin_field(void *state, char *name, bool isnull)
{
	FieldsState *fields = state;

	if (fields->depth == 1)
	{
		fields->start = fields->lex->token_start;
		fields->scalar = NULL;
	}
	return COUPON_JSON_OK;
}

static COUPON_JSON_RESULT
scalar(void *state, char *token, JsonTokenType type)
{
	FieldsState *fields = state;

	if (fields->depth == 1)
	{
		fields->scalar = token;
		fields->type = type;
	}
	return COUPON_JSON_OK;
}

static COUPON_JSON_RESULT
end_field(void *state, char *name, bool isnull)
{
	FieldsState *fields = state;
	char	   *value = fields->scalar;
	bool		is_string = false;

	if (fields->depth != 1 || fields->stopped)
		return COUPON_JSON_OK;
	if (value == NULL)
		value = pnstrdup(fields->start, fields->lex->prev_token_terminator - fields->start);
	else if (fields->type == JSON_TOKEN_NULL)
		value = NULL;
	else
		is_string = fields->type == JSON_TOKEN_STRING;
	if (!fields->f(fields->state, name, value, is_string))
		fields->stopped = true;
	return COUPON_JSON_OK;
}

const char *
coupon_json_fields(const char *json, size_t length, CouponJsonField f, void *state)
{
	FieldsState fields = {.f = f,.state = state};
	JsonSemAction actions = {
		.semstate = &fields,
		.object_start = begin_object,
		.object_end = end_nested,
		.array_start = begin_array,
		.array_end = end_nested,
		.object_field_start = begin_field,
		.object_field_end = end_field,
		.scalar = scalar
	};
	JsonParseErrorType result;

	if (pg_verify_mbstr(GetDatabaseEncoding(), json, length, true) == false)
		return "is not valid UTF-8";
	if (!is_shallow(json, length))
		return "is nested too deeply";
	fields.lex = coupon_json_lex(pstrdup(json), length);
	result = pg_parse_json(fields.lex, &actions);
	if (result != JSON_SUCCESS)
		return json_errdetail(result, fields.lex);
	if (!fields.is_object)
		return "is not a JSON object";
	return fields.stopped ? "has too many fields" : NULL;
}

void
coupon_json_append(StringInfo buffer, const char *text)
{
	if (text == NULL)
		appendStringInfoString(buffer, "null");
	else
		escape_json(buffer, text);
}

void
coupon_json_problem(StringInfo buffer, int status, const char *code, const char *title,
					const char *detail, const char *hint)
{
	appendStringInfo(buffer, "{\"type\":\"about:blank\",\"status\":%d,\"title\":", status);
	coupon_json_append(buffer, title);
	appendStringInfoString(buffer, ",\"code\":");
	coupon_json_append(buffer, code);
	if (detail != NULL)
	{
		appendStringInfoString(buffer, ",\"detail\":");
		coupon_json_append(buffer, detail);
	}
	if (hint != NULL)
	{
		appendStringInfoString(buffer, ",\"hint\":");
		coupon_json_append(buffer, hint);
	}
	/* clients that know no problem details read this */
	appendStringInfoString(buffer, ",\"message\":");
	coupon_json_append(buffer, title);
	appendStringInfoChar(buffer, '}');
}
