/*
 * status_codes.h
 *	  The answers of an issue call, in the order in which they are counted.
 */
#ifndef COUPON_STATUS_CODES_H
#define COUPON_STATUS_CODES_H

typedef enum CouponStatus
{
	COUPON_ISSUED,
	COUPON_ALREADY_ISSUED,
	COUPON_SOLD_OUT,
	COUPON_BUSY,
	COUPON_NOT_OPEN,
	COUPON_CLOSED,
	COUPON_PAUSED,
	COUPON_NOT_ADMITTED,		/* the campaign requires a room */
	COUPON_HELD,				/* what the user may have is on hold for them */
	/* the campaign does not count these */
	COUPON_RETURNED,			/* what the key got was given back since */
	COUPON_OTHER_CALL,			/* the key was used for another kind of call */
	COUPON_INVALID,				/* one bad item of a batch */
	COUPON_MOVED,				/* the user's home is another node */
	COUPON_STATUSES				/* how many there are */
} CouponStatus;

#define COUPON_COUNTED_STATUSES	(COUPON_HELD + 1)

extern const char *coupon_status_name(CouponStatus status);

#endif							/* COUPON_STATUS_CODES_H */
