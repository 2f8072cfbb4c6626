/*
 * dead_letter.h
 *	  Events that the broker would not have.
 */
#ifndef COUPON_DEAD_LETTER_H
#define COUPON_DEAD_LETTER_H

#include "outbox/reader.h"

/*
 * Makes a dead letter of an event, which the caller removes from the outbox in
 * the same transaction: a row of coupon.dead_letter and an event for
 * <topic>.DLT, with the payload if that topic can carry it.
 */
extern void coupon_dead_letter_bury(const CouponEvent *event, const char *reason, int attempts,
									bool with_payload);

#endif							/* COUPON_DEAD_LETTER_H */
