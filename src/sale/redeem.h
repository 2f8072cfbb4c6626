/*
 * redeem.h
 *	  The life of an issuance after it was issued.
 */
#ifndef COUPON_REDEEM_H
#define COUPON_REDEEM_H

/*
 * Marks up to max_rows issuances whose usage period is over as expired, in
 * the current transaction, oldest first, skipping rows that others have
 * locked; returns how many.  Needs an active snapshot.
 */
extern int64 coupon_redeem_expire(int32 max_rows);

#endif							/* COUPON_REDEEM_H */
