/*
 * json_fields.h
 *	  The fields of a JSON object, without an ERROR for what is not one.
 */
#ifndef COUPON_JSON_FIELDS_H
#define COUPON_JSON_FIELDS_H

#include "lib/stringinfo.h"

/*
 * Calls f for each field of the object, in order: a string as its text,
 * another scalar and a nested value as JSON, a null as NULL.  Returns NULL, or
 * what is wrong with the text; f may have been called by then.  f returns
 * false to stop with "too many fields".  Everything is allocated in the
 * current context.
 */
typedef bool (*CouponJsonField) (void *state, char *name, char *value, bool is_string);

extern const char *coupon_json_fields(const char *json, size_t length, CouponJsonField f, void *state);

/* Appends a text as a JSON string, NULL as null. */
extern void coupon_json_append(StringInfo buffer, const char *text);

/*
 * Appends a problem (RFC 9457): code is a word or an SQLSTATE, for programs;
 * title a sentence, for people; detail and hint may be NULL.
 */
extern void coupon_json_problem(StringInfo buffer, int status, const char *code, const char *title,
								const char *detail, const char *hint);

#endif							/* COUPON_JSON_FIELDS_H */
