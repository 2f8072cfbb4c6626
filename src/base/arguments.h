/*
 * arguments.h
 *	  Reading SQL arguments, with one way to refuse bad ones.
 */
#ifndef COUPON_ARGUMENTS_H
#define COUPON_ARGUMENTS_H

#include "fmgr.h"
#include "utils/array.h"
#include "utils/fmgrprotos.h"

#define COUPON_MAX_NAME		256 /* bytes of a user, a name, a code */
#define COUPON_MAX_TEXT		1024	/* bytes of an order, a reason, a key */

/* ERROR 22004 if the argument is NULL. */
extern void coupon_require_argument(FunctionCallInfo fcinfo, int argument, const char *name);

/* A bigint in min..max, or ERROR. */
extern int64 coupon_get_int64(FunctionCallInfo fcinfo, int argument, const char *name,
							  int64 min, int64 max);

/* An integer in min..max, or ERROR. */
extern int32 coupon_get_int32(FunctionCallInfo fcinfo, int argument, const char *name,
							  int32 min, int32 max);

/* ERROR unless the argument is a text of min..max bytes. */
extern void coupon_check_text(FunctionCallInfo fcinfo, int argument, const char *name,
							  int min, int max);

/* The same, and the text as a C string. */
extern char *coupon_get_text(FunctionCallInfo fcinfo, int argument, const char *name,
							 int min, int max);

/* As collation "C" orders them; neither is compressed. */
static inline int
coupon_compare_texts(const text *a, const text *b)
{
	int			a_length = VARSIZE_ANY_EXHDR(a);
	int			b_length = VARSIZE_ANY_EXHDR(b);
	int			order = memcmp(VARDATA_ANY(a), VARDATA_ANY(b), Min(a_length, b_length));

	return order != 0 ? order : a_length - b_length;
}

/* Is it a user, a name or a key: of 1 to COUPON_MAX_NAME bytes, and there at all? */
static inline bool
coupon_is_name(const text *value)
{
	return value != NULL && VARSIZE_ANY_EXHDR(value) >= 1 && VARSIZE_ANY_EXHDR(value) <= COUPON_MAX_NAME;
}

/* 0 to 15, -1 for what is no hexadecimal digit. */
static inline int
coupon_hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Makes a user_id of another type the text that the type's output function gives. */
extern void coupon_user_id_as_text(FunctionCallInfo fcinfo, int argument, PGFunction output);

/* function_bigint, function_uuid: the function for users of these types. */
#define COUPON_FOR_OTHER_USERS(function, argument) \
	COUPON_FOR_USERS(function, argument, bigint, int8out); \
	COUPON_FOR_USERS(function, argument, uuid, uuid_out)
#define COUPON_FOR_USERS(function, argument, type, output) \
	extern PGDLLEXPORT Datum function##_##type(PG_FUNCTION_ARGS); \
	Datum \
	function##_##type(PG_FUNCTION_ARGS) \
	{ \
		coupon_user_id_as_text(fcinfo, argument, output); \
		return function(fcinfo); \
	} \
	PG_FUNCTION_INFO_V1(function##_##type)

/* The elements of a one-dimensional text array, NULL for a null; or ERROR. */
extern text **coupon_get_text_array(FunctionCallInfo fcinfo, int argument, const char *name,
									int *count);

/*
 * The same of an array that may be NULL: then NULL.  ERROR unless the elements are
 * as many as those of another argument, whose name that is.
 */
extern text **coupon_get_optional_texts(FunctionCallInfo fcinfo, int argument, const char *name,
										int count, const char *other);

/*
 * The elements of an array of bigints (0 for a null); ERROR unless they are as
 * many as those of another argument, whose name that is.
 */
extern int64 *coupon_get_int64_array(FunctionCallInfo fcinfo, int argument, const char *name,
									 int count, const char *other);

/*
 * The elements of an array of bigints, allocated.  A null in it, or a second
 * dimension, is an ERROR about what has that name; without a name a null is 0.
 */
extern int64 *coupon_int64s(Datum value, const char *name, int *n);

extern Datum coupon_int64s_form(const int64 *values, int n);

/* ERROR 22004 if one of an array's elements is a null. */
extern void coupon_check_no_nulls(const char *name, const bool *nulls, int count);

/* ERROR unless two arrays are of one length. */
extern void coupon_check_lengths(const char *name, int count, const char *other, int other_count);

/* An interval, as a result: so many microseconds. */
extern Datum coupon_interval(double us);

#endif							/* COUPON_ARGUMENTS_H */
