/*
 * burial.c
 *	  An event that will not be accepted becomes a dead letter.
 */
#include "postgres.h"

#include "base/attempt.h"
#include "kafka/burial.h"
#include "kafka/publisher_status.h"
#include "outbox/dead_letter.h"

/* An event on its way to the dead letters. */
typedef struct Burial
{
	const CouponRejected *rejected;
	const CouponOutboxEntry *entry;
	const CouponEvent *event;
	bool		locked;
} Burial;

static void
bury_event(void *arg)
{
	Burial	   *burial = arg;

	burial->locked = !coupon_outbox_remove(burial->entry);
	if (!burial->locked)
		coupon_dead_letter_bury(burial->event, burial->rejected->reason, burial->entry->tries,
								burial->rejected->carries);
}

bool
coupon_bury(CouponRejected *rejected, const CouponOutboxEntry *entry)
{
	CouponEvent event;
	Burial		burial = {rejected, entry, &event};
	ErrorData  *error;

	rejected->trouble[0] = '\0';
	if (!coupon_outbox_fetch(entry, &event))
		return true;
	error = coupon_attempt(bury_event, &burial);
	if (error == NULL && !burial.locked)
	{
		coupon_publisher_problem("an event for topic \"%s\" is a dead letter: %s", event.topic, rejected->reason);
		return true;
	}
	rejected->topic = coupon_topic(event.topic);
	strlcpy(rejected->trouble, error == NULL ? "its row is locked" : error->message, sizeof(rejected->trouble));
	return false;
}
