/*
 * answer.h
 *	  What a caller is told: bodies, problems, headers.
 */
#ifndef COUPON_ANSWER_H
#define COUPON_ANSWER_H

#include "front/http.h"

/* A body of a content type (NULL: JSON), which is copied; NULL: none. */
extern void coupon_answer_body(CouponHttpCall *call, int status, const char *type, const char *body,
							   size_t length);

/*
 * Adds a header.  A name or a value that HTTP does not allow is dropped, so
 * that nobody who can choose a part of one can add another.
 */
extern void coupon_answer_header(CouponHttpCall *call, const char *name, const char *value);

/*
 * A problem (RFC 9457): code is a word or an SQLSTATE, for programs; title a
 * sentence, for people; detail and hint may be NULL.
 */
extern void coupon_answer_problem(CouponHttpCall *call, int status, const char *code, const char *title,
								  const char *detail, const char *hint);

/* The problem that an ERROR is. */
extern void coupon_answer_error(CouponHttpCall *call, const ErrorData *error);

/* Takes back what was written so far, before another attempt. */
extern void coupon_answer_reset(CouponHttpCall *call);

/* Is it what RFC 9110 calls a token, as methods and names of headers are? */
extern bool coupon_answer_is_token(const char *name);

/* Appends a text to a path, as one segment: percent-encoded. */
extern void coupon_answer_append_segment(StringInfo path, const text *segment);

#endif							/* COUPON_ANSWER_H */
