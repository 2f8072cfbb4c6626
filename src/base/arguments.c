/*
 * arguments.c
 *	  Reading SQL arguments, with one way to refuse bad ones.
 *
 * Functions are not STRICT: a NULL that silently gives a NULL back is an
 * answer nobody expects from "issue a coupon".
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "mb/pg_wchar.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/arguments.h"

void
coupon_require_argument(FunctionCallInfo fcinfo, int argument, const char *name)
{
	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name),
				 errdetail("Argument %d of the function is null.", argument + 1),
				 errhint("Pass a value for %s.", name)));
}

static int64
check_range(int64 value, const char *name, int64 min, int64 max)
{
	if (value < min || value > max)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is out of range", name),
				 errdetail("The value is %lld.", (long long) value),
				 errhint("Use a value between %lld and %lld.",
						 (long long) min, (long long) max)));
	return value;
}

int64
coupon_get_int64(FunctionCallInfo fcinfo, int argument, const char *name,
				 int64 min, int64 max)
{
	coupon_require_argument(fcinfo, argument, name);
	return check_range(PG_GETARG_INT64(argument), name, min, max);
}

int32
coupon_get_int32(FunctionCallInfo fcinfo, int argument, const char *name,
				 int32 min, int32 max)
{
	coupon_require_argument(fcinfo, argument, name);
	return check_range(PG_GETARG_INT32(argument), name, min, max);
}

void
coupon_check_text(FunctionCallInfo fcinfo, int argument, const char *name,
				  int min, int max)
{
	text	   *value;
	int			length;

	coupon_require_argument(fcinfo, argument, name);
	value = PG_GETARG_TEXT_PP(argument);
	length = VARSIZE_ANY_EXHDR(value);
	if (length < min)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", name),
				 errdetail("The value has no characters."),
				 errhint("Pass a value of %d to %d bytes.", min, max)));
	if (length > max)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is too long", name),
				 errdetail("The value has %d bytes and begins with \"%.*s\".", length,
						   pg_mbcliplen(VARDATA_ANY(value), length, 32), VARDATA_ANY(value)),
				 errhint("Pass a value of %d to %d bytes.", min, max)));
}

char *
coupon_get_text(FunctionCallInfo fcinfo, int argument, const char *name,
				int min, int max)
{
	coupon_check_text(fcinfo, argument, name, min, max);
	return text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

void
coupon_user_id_as_text(FunctionCallInfo fcinfo, int argument, PGFunction output)
{
	if (PG_ARGISNULL(argument))
		return;
	fcinfo->args[argument].value =
		CStringGetTextDatum(DatumGetCString(DirectFunctionCall1(output, PG_GETARG_DATUM(argument))));
}

static void
check_dimensions(const ArrayType *array, const char *name)
{
	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("%s must be a one-dimensional array", name),
				 errdetail("It has %d dimensions.", ARR_NDIM(array)),
				 errhint("Flatten it, for example with array_agg() over unnest().")));
}

void
coupon_check_no_nulls(const char *name, const bool *nulls, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not contain nulls", name),
					 errdetail("Element %d is null.", i + 1),
					 errhint("Remove it, for example with array_remove(%s, NULL).", name)));
	}
}

void
coupon_check_lengths(const char *name, int count, const char *other, int other_count)
{
	if (count != other_count)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("%s and %s differ in length", name, other),
				 errdetail("They have %d and %d elements.", count, other_count),
				 errhint("Pass one for each element of the other, or a null.")));
}

text	  **
coupon_get_text_array(FunctionCallInfo fcinfo, int argument, const char *name, int *count)
{
	ArrayType  *array;
	Datum	   *values;
	bool	   *nulls;
	text	  **result;

	coupon_require_argument(fcinfo, argument, name);
	array = PG_GETARG_ARRAYTYPE_P(argument);
	check_dimensions(array, name);
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, count);
	result = palloc(mul_size(Max(*count, 1), sizeof(text *)));
	for (int i = 0; i < *count; i++)
		result[i] = nulls[i] ? NULL : DatumGetTextPP(values[i]);
	return result;
}

text	  **
coupon_get_optional_texts(FunctionCallInfo fcinfo, int argument, const char *name,
						  int count, const char *other)
{
	text	  **result;
	int			n;

	if (PG_ARGISNULL(argument))
		return NULL;
	result = coupon_get_text_array(fcinfo, argument, name, &n);
	coupon_check_lengths(other, count, name, n);
	return result;
}

int64 *
coupon_int64s(Datum value, const char *name, int *n)
{
	ArrayType  *array = DatumGetArrayTypeP(value);
	Datum	   *elements;
	bool	   *nulls;
	int64	   *values;

	deconstruct_array(array, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
					  &elements, &nulls, n);
	if (name != NULL)
	{
		check_dimensions(array, name);
		coupon_check_no_nulls(name, nulls, *n);
	}
	values = palloc(mul_size(Max(*n, 1), sizeof(int64)));
	for (int i = 0; i < *n; i++)
		values[i] = nulls[i] ? 0 : DatumGetInt64(elements[i]);
	return values;
}

Datum
coupon_int64s_form(const int64 *values, int n)
{
	Datum	   *elements = palloc(mul_size(Max(n, 1), sizeof(Datum)));
	ArrayType  *array;

	for (int i = 0; i < n; i++)
		elements[i] = Int64GetDatum(values[i]);
	array = construct_array(elements, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
	pfree(elements);
	return PointerGetDatum(array);
}

int64 *
coupon_get_int64_array(FunctionCallInfo fcinfo, int argument, const char *name,
					   int count, const char *other)
{
	int64	   *result;
	int			n;

	coupon_require_argument(fcinfo, argument, name);
	result = coupon_int64s(PG_GETARG_DATUM(argument), NULL, &n);
	coupon_check_lengths(name, n, other, count);
	return result;
}

Datum
coupon_interval(double us)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = Min(us, (double) PG_INT64_MAX / 2);
	return IntervalPGetDatum(interval);
}
