/*
 * room_ticket.h
 *	  Waiting rooms, as their visitors use them.
 */
#ifndef COUPON_ROOM_TICKET_H
#define COUPON_ROOM_TICKET_H

#include "room/room.h"

/* What a ticket's holder is told. */
typedef struct CouponTicketAnswer
{
	const char *status;			/* WAITING, ADMITTED, REJECTED, GONE */
	char	   *token;			/* NULL: none to tell */
	int64		position;		/* -1: none */
	int64		eta;			/* microseconds, -1: unknown */
	int64		poll_after;		/* microseconds, -1: never */
	int64		waiting;		/* in the whole room; of WAITING */
} CouponTicketAnswer;

typedef struct CouponToken
{
	int64		room_id;
	int64		number;
	uint8		secret[16];
} CouponToken;

/* False: it has not the form of one. */
extern bool coupon_token_parse(const text *value, CouponToken *token);

/* The id of a room, 0 if there is none of that name. */
extern int64 coupon_room_find(text *name);

/* How many are before a ticket; asking keeps it alive. */
extern void coupon_ticket_position(const CouponToken *token, CouponTicketAnswer *answer);

/*
 * Takes a place in a room, in the caller's transaction; who has one is told the
 * same ticket.  False, only without wait: another transaction is at the user.
 */
extern bool coupon_ticket_join(int64 room_id, text *user_id, bool wait, CouponTicketAnswer *answer);

/* The number of what a join is told among the outcomes of coupon_way_join. */
extern int	coupon_ticket_outcome(const CouponTicketAnswer *answer);

/* What came of the end of a ticket. */
typedef enum CouponTicketEnd
{
	COUPON_TICKET_GONE,			/* there is none that lives */
	COUPON_TICKET_LEFT,			/* by this call */
	COUPON_TICKET_LOCKED		/* only without wait: another transaction is
								 * at it */
} CouponTicketEnd;

/* Ends a ticket, in the caller's transaction. */
extern CouponTicketEnd coupon_ticket_leave(const CouponToken *token, const char *reason, bool wait);

#endif							/* COUPON_ROOM_TICKET_H */
