/*
 * random.c
 *	  Random values that nobody can guess.
 */
#include "postgres.h"

#include "base/random.h"

void
coupon_random(void *to, Size length)
{
	static uint8 pool[4096];
	static Size used = sizeof(pool);

	Assert(length <= sizeof(pool));
	if (used + length > sizeof(pool))
	{
		if (!pg_strong_random(pool, sizeof(pool)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		used = 0;
	}
	memcpy(to, pool + used, length);
	/* what was given is nobody else's to find */
	memset(pool + used, 0, length);
	used += length;
}
