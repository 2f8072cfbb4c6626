/*
 * room_draw.h
 *	  The random order of those who came before a room's opening.
 */
#ifndef COUPON_ROOM_DRAW_H
#define COUPON_ROOM_DRAW_H

#include "utils/dsa.h"

/* The order of tickets 1..n by the room's seed: n places by number, then n numbers by place. */
extern uint32 *coupon_room_compute_draw(int64 room_id, int64 n);

/* The same in the queues' memory; invalid without memory.  Never throws. */
extern dsa_pointer coupon_room_store_draw(const uint32 *places, int64 n);

#endif							/* COUPON_ROOM_DRAW_H */
