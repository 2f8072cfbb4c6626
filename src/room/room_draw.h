/*
 * room_draw.h
 *	  The random order of those who came before a room's opening.
 */
#ifndef COUPON_ROOM_DRAW_H
#define COUPON_ROOM_DRAW_H

#include "utils/dsa.h"

/*
 * The order of tickets 1..n by the room's seed: n places by number, then n
 * numbers by place, in the queue area.  ERROR without memory.
 */
extern dsa_pointer coupon_room_compute_draw(int64 room_id, int64 n);

/* Draws the lots of a room that opens now, in this transaction. */
extern void coupon_room_draw_lots(int64 room_id);

#endif							/* COUPON_ROOM_DRAW_H */
