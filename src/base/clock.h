/*
 * clock.h
 *	  Waiting by a clock that may be set back meanwhile.
 *
 * Whoever waits by two looks at the clock would wait until it has caught up,
 * an hour where it was set back by one.  A time that cannot be, since nobody
 * waits for that long, is taken for one that is over.  Durations are in ms.
 */
#ifndef COUPON_CLOCK_H
#define COUPON_CLOCK_H

#include "portability/instr_time.h"
#include "utils/timestamp.h"

/*
 * A clock that nobody sets: us since some moment, the same for all processes, as
 * long as the machine runs.  For what is not to be told, or stored, or compared
 * with times that are.
 */
static inline TimestampTz
coupon_steady_now(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (TimestampTz) INSTR_TIME_GET_MICROSEC(now);
}

/* How long ago was start?  Long, if it is still to come. */
static inline long
coupon_ms_since(TimestampTz start, TimestampTz now)
{
	return start > now ? PG_INT32_MAX : TimestampDifferenceMilliseconds(start, now);
}

/* How long is it until then, which was to be after at_most, or earlier?  0: it is over. */
static inline long
coupon_ms_until(TimestampTz then, TimestampTz now, long at_most)
{
	long		ms = TimestampDifferenceMilliseconds(now, then);

	return ms > at_most ? 0 : ms;
}

#endif							/* COUPON_CLOCK_H */
