/*
 * token.h
 *	  Who calls: JSON Web Tokens, checked by libjwt.
 */
#ifndef COUPON_TOKEN_H
#define COUPON_TOKEN_H

#include "utils/timestamp.h"

/* What a caller may do, and as whom. */
typedef struct CouponIdentity
{
	Oid			role;			/* InvalidOid: nobody */
	char	   *user_id;		/* the token's sub, NULL: the caller may speak
								 * for any user */
	char	   *claims;			/* all of them, JSON */
	TimestampTz expires_at;		/* DT_NOEND: never */
} CouponIdentity;

/*
 * The identity that the value of the header Authorization gives, or, without
 * one (NULL), that of coupon.http_role.  NULL, and *problem, if there is none.
 * In a transaction.  The identity is valid until the next call.
 */
extern const CouponIdentity *coupon_token_check(const char *authorization, TimestampTz now,
												const char **problem);

/* The claims of a role that came without a token. */
extern char *coupon_token_claims(const char *role);

/* Can tokens be checked at all?  Without libjwt they cannot. */
extern bool coupon_token_has_library(void);

/*
 * Why a file of coupon.http_jwt_key_files is not used, or NULL; in the
 * caller's memory.
 */
extern const char *coupon_token_judge_file(const char *path);

/* How many keys this process uses. */
extern int	coupon_token_keys(void);

/* Reads the keys anew, after the settings or the files changed. */
extern void coupon_token_reload(void);

#endif							/* COUPON_TOKEN_H */
