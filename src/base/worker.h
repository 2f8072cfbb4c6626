/*
 * worker.h
 *	  Background workers: one launcher, and per database one of each kind.
 */
#ifndef COUPON_WORKER_H
#define COUPON_WORKER_H

#include "base/database.h"

/*
 * A kind of worker.  Everything but the work itself - the process, the
 * database, transactions, errors, waiting - is in worker.c.  A cycle comes
 * at start, when a session wakes the worker (coupon_wake), when its wait says
 * so, and otherwise after the interval.
 */
typedef struct CouponWorkerKind
{
	const char *name;			/* in pg_stat_activity and in the log */

	/*
	 * One cycle of work, in a transaction with an active snapshot, in a
	 * database that has the extension.  True: there is more to do at once.
	 */
	bool		(*work) (void);

	/* How long to wait after a cycle that left nothing to do, in ms. */
	int			(*interval) (void);

	/*
	 * The rest may be NULL.
	 *
	 * How many of the kind a database gets, at most COUPON_MAX_INSTANCES; one
	 * if NULL.
	 */
	int			(*instances) (void);

	/*
	 * Waits outside of any transaction, for the latch and whatever else the
	 * kind knows of, up to so many ms; true: it is time for a cycle.
	 */
	bool		(*wait) (long ms);

	/* How long to rest after a cycle, woken or not, in ms. */
	int			(*rest) (void);
	/*
	 * Instead of a cycle, every time that there cannot be one: the tables are
	 * locked, or the extension is not there; must not throw.
	 */
	void		(*barred) (bool dropped);

	/* After a cycle that was committed; must not throw. */
	void		(*committed) (void);

	/* After a cycle that failed and was rolled back, and why; must not throw. */
	void		(*recover) (const char *message);

	/* At exit, when nobody is told of this worker any more; must not throw. */
	void		(*leave) (void);

	/* After the settings were read again. */
	void		(*reload) (void);

	/* Once, when the process has come up. */
	void		(*start) (void);

	/*
	 * Would a cycle now do what sessions wake the worker for?  If not, being
	 * woken is of no use, and is remembered until it is.
	 */
	bool		(*listens) (void);

	/*
	 * Asked to end: what is done outside of any transaction, well below a
	 * second, and then in one, if the extension's tables are not locked.
	 */
	void		(*stop) (void);
	void		(*finish) (void);
} CouponWorkerKind;

/* Registers the launcher, while preloading, for kinds by CouponWorkerId. */
extern void coupon_worker_register(const CouponWorkerKind *const *all);

/* For a worker's own waiting: the number of this instance, from 0. */
extern int	coupon_worker_instance(void);

#endif							/* COUPON_WORKER_H */
