/*
 * apart.h
 *	  Something done apart: its ERROR is its own.
 */
#ifndef COUPON_APART_H
#define COUPON_APART_H

/*
 * Does something in a subtransaction of its own.  NULL if that went well;
 * otherwise the ERROR, in the caller's memory context, and nothing has
 * happened.  A cancellation is not its own: that is thrown again.
 */
extern ErrorData *coupon_do_apart(void (*what) (void *argument), void *argument);

/*
 * For transactions that are all ours: fires the triggers that a DBA has
 * deferred to the commit now, while an ERROR of theirs is still one's own.
 */
extern void coupon_fire_deferred_triggers(void);

#endif							/* COUPON_APART_H */
