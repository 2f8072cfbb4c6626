/*
 * hold.h
 *	  Holds: units that belong to a user for a while.
 */
#ifndef COUPON_HOLD_H
#define COUPON_HOLD_H

#include "access/htup.h"
#include "fmgr.h"

#include "sale/late_payment.h"
#include "sale/request_key.h"
#include "sale/stock.h"

#define COUPON_MAX_HELD_TOGETHER	COUPON_MAX_PER_USER_LIMIT

typedef enum CouponHoldStatus
{
	COUPON_HOLD_PENDING,		/* no answer yet */
	COUPON_HOLD_HELD,
	COUPON_HOLD_ALREADY_HELD,
	COUPON_HOLD_ALREADY_ISSUED,
	COUPON_HOLD_TAKEN,
	COUPON_HOLD_BUSY,
	COUPON_HOLD_LIMIT_REACHED,
	COUPON_HOLD_NOT_OPEN,
	COUPON_HOLD_CLOSED,
	COUPON_HOLD_PAUSED,
	COUPON_HOLD_NOT_ADMITTED,
	COUPON_HOLD_SOLD_OUT,
	COUPON_HOLD_NOT_HELD,
	COUPON_HOLD_RETURNED,		/* what the key got was given back since */
	COUPON_HOLD_OTHER_CALL,		/* the key was used for another call */
	COUPON_HOLD_CONFIRMED,
	COUPON_HOLD_ALREADY_CONFIRMED,
	COUPON_HOLD_OTHER_REF,
	COUPON_HOLD_LOST
} CouponHoldStatus;

/* One unit wished for, and its outcome. */
typedef struct CouponWish
{
	int64		serial;
	CouponHoldStatus status;
	CouponUnit	unit;
	bool		taken;			/* the unit is this transaction's */
	bool		inserted;		/* so is a row for it */
	bool		refused;		/* a row for it was written and deleted again */
	CouponIssuance issuance;	/* the user's, where it is theirs now */
	int			place;			/* in the caller's array */
} CouponWish;

/* A call at work. */
typedef struct CouponHold
{
	CouponCampaign *campaign;
	const CouponDefinition *def;
	CouponStock *stock;
	CouponTableWriter *table;
	CouponIssuanceRow row;
	CouponLookup lookup;		/* def is NULL: not begun */
	Datum		user_id;
	text	   *request_key;	/* or NULL */
	CouponKeyKind kind;			/* of the call, where it has a key */
	int64		ttl;			/* microseconds, 0: what is inserted is no
								 * hold ... */
	text	   *confirm_ref;	/* ... but paid for by this */
	const char *policy;			/* JSON, of what was confirmed */
	CouponMemory memory;		/* of that payment */
	bool		payment_locked;
	CouponWish *wishes;			/* in the order of serials, no serial twice */
	int			nwishes;
	TimestampTz deadline;		/* of all waiting, 0: did not wait yet */
} CouponHold;

/* The ways in. */
extern struct CouponWay coupon_way_hold;
extern struct CouponWay coupon_way_hold_many;
extern struct CouponWay coupon_way_hold_any;
extern struct CouponWay coupon_way_confirm;
extern struct CouponWay coupon_way_release;

extern void coupon_hold_begin(CouponHold *hold, int64 campaign_id, Datum user_id);
extern void coupon_hold_end(CouponHold *hold);

/* To look its user up; begun with the first use. */
extern CouponLookup *coupon_hold_lookup(CouponHold *hold);

/* ERROR unless the campaign has that unit. */
extern void coupon_hold_check_serial(const CouponDefinition *def, int64 serial);

/*
 * Takes the units of the wishes, or finds out why not; refusal: the answer for
 * all that are not the user's.
 */
extern void coupon_hold_take(CouponHold *hold, CouponHoldStatus refusal);

/* Takes over the units of pending wishes whose hold has run out; false if one cannot be. */
extern bool coupon_hold_take_over_all(CouponHold *hold);

/*
 * Gives all units back; what was inserted is withdrawn.  The pending wishes
 * get the status.
 */
extern void coupon_hold_give_up(CouponHold *hold, CouponHoldStatus status);

/*
 * Inserts rows for the pending wishes, whose units are taken: all or none.
 * True if they are there; otherwise the culprits have a status, and no unit
 * is taken any more.
 */
extern bool coupon_hold_insert(CouponHold *hold);

/*
 * Takes away the hold that has run out on the wish's unit, found last, and
 * takes the unit over; false if somebody is at it.
 */
extern bool coupon_hold_take_over(CouponHold *hold, CouponWish *wish, TimestampTz now);

/*
 * Sleeps a little, so that others come to an end; false if that has been
 * coupon.sold_out_wait by now, or others may wait for this transaction.
 */
extern bool coupon_hold_wait(CouponHold *hold);

/* The label of a unit, for who may see it: NULL otherwise. */
extern text *coupon_hold_label(const CouponDefinition *def, int64 serial, bool owned);

/* A coupon.hold_result. */
extern Datum coupon_hold_result(FunctionCallInfo fcinfo, CouponHold *hold, const CouponWish *wish);

#endif							/* COUPON_HOLD_H */
