/*
 * trigger.h
 *	  What our trigger functions are called by: nothing but what they are for.
 */
#ifndef COUPON_TRIGGER_H
#define COUPON_TRIGGER_H

#include "commands/trigger.h"

#define COUPON_ON_INSERT	(1 << TRIGGER_EVENT_INSERT)
#define COUPON_ON_DELETE	(1 << TRIGGER_EVENT_DELETE)
#define COUPON_ON_UPDATE	(1 << TRIGGER_EVENT_UPDATE)

/* What called a trigger function; ERROR unless that is a trigger. */
extern TriggerData *coupon_trigger(FunctionCallInfo fcinfo, const char *function);

/*
 * The trigger that called a function for AFTER ... FOR EACH ROW; ERROR if it is
 * none, fires at another time or for other events, or is on another table of
 * schema coupon than the one or two given.  other_table may be NULL.
 */
extern TriggerData *coupon_trigger_after_row(FunctionCallInfo fcinfo, const char *function, int events,
											 const char *table, const char *other_table);

/* The row as it is now; of a deletion, as it was. */
extern HeapTuple coupon_trigger_row(const TriggerData *trigger);

#endif							/* COUPON_TRIGGER_H */
