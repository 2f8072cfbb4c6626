/*
 * gate.h
 *	  Whether a campaign's room, if it requires one, has admitted a user.
 *
 * Issuing asks here, and rooms answer, so that neither knows the other.
 */
#ifndef COUPON_GATE_H
#define COUPON_GATE_H

#include "campaign.h"

/* Has the room a live session of the user?  Set by room.c at load. */
extern bool (*coupon_gate_room_admits) (int64 room_id, Datum user_id);

static inline bool
coupon_gate_admits(const CouponDefinition *def, Datum user_id)
{
	return def->room_id == 0 || coupon_gate_room_admits(def->room_id, user_id);
}

#endif							/* COUPON_GATE_H */
