/*
 * request_key.h
 *	  Keys of calls: a repeated call gets what the first one got.
 */
#ifndef COUPON_REQUEST_KEY_H
#define COUPON_REQUEST_KEY_H

#include "fmgr.h"

#include "sale/issuance_table.h"

/* What a key was used for.  Any way to issue is the same: a retry may take another one. */
typedef enum CouponKeyKind
{
	COUPON_KEY_ISSUE,
	COUPON_KEY_HOLD,			/* of units that the call has named */
	COUPON_KEY_HOLD_ANY
} CouponKeyKind;

/* What is known of a key. */
typedef struct CouponUsedKey
{
	CouponKeyKind kind;
	TimestampTz used_at;
	int64	   *serials;		/* the units that it got, in ascending order */
	int			nserials;
} CouponUsedKey;

typedef enum CouponKeyState
{
	COUPON_KEY_NEW,
	COUPON_KEY_USED,			/* *used is filled */
	COUPON_KEY_LOCKED			/* by a running transaction, and
								 * COUPON_NO_WAIT */
} CouponKeyState;

/* The key that an argument is, NULL without one; ERROR unless it has 1 to COUPON_MAX_NAME bytes. */
extern text *coupon_request_key_argument(FunctionCallInfo fcinfo, int argument);

/* Has the user used the key in this campaign? */
extern CouponKeyState coupon_request_key_find(const CouponDefinition *def, Datum user_id, text *key,
											  CouponWait wait, CouponUsedKey *used);

/*
 * Is one of the units that the key got still the user's, and by that call?  A
 * hold is as long as it runs.  Fills *found.
 */
extern bool coupon_request_key_has(const CouponDefinition *def, Datum user_id,
								   const CouponUsedKey *used, int64 serial, CouponIssuance *found);

/* Locks what is to be written, so that nothing is waited for while the user is locked. */
extern void coupon_request_key_prepare(void);

/*
 * Remembers what a key got.  The user must be locked, and the key have been
 * looked up since.
 */
extern void coupon_request_key_remember(const CouponDefinition *def, Datum user_id, text *key,
										const CouponUsedKey *used);

/* Forgets up to max_rows keys that were used longer than coupon.key_keep ago. */
extern int64 coupon_request_key_clean(int32 max_rows);

#endif							/* COUPON_REQUEST_KEY_H */
