/*
 * room_guest.h
 *	  Guests: users who have shown the pass of a room of another node.
 */
#ifndef COUPON_ROOM_GUEST_H
#define COUPON_ROOM_GUEST_H

/* Is the user (a text) a guest whose pass has not ended? */
extern bool coupon_room_has_guest(int64 room_id, Datum user_id);

#endif							/* COUPON_ROOM_GUEST_H */
