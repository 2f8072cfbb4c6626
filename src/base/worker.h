/*
 * worker.h
 *	  Background workers: what all kinds of them share.
 */
#ifndef COUPON_WORKER_H
#define COUPON_WORKER_H

#include "base/database.h"

/*
 * A kind of worker.  It has a loop of its own, made of the functions below,
 * or it is one of those that work whenever they are woken (coupon_wake) and
 * at intervals: then loop is NULL, and work and interval are not.
 */
typedef struct CouponWorkerKind
{
	const char *name;			/* in pg_stat_activity and in the log */
	const char *activity;		/* what it does in a cycle, unless it tells
								 * more: pg_stat_activity.query */

	/*
	 * The tables of coupon that it works on, up to NULL, in the order in
	 * which DROP EXTENSION locks them.  While one of them is locked there is
	 * no cycle; what is done to others is not in its way.
	 */
	const char *const *tables;

	/* How many a database gets, at most COUPON_MAX_INSTANCES; NULL: one. */
	int			(*instances) (void);

	/*
	 * All that it does, until coupon_worker_stay() says no.  After an ERROR,
	 * which is logged and rolled back, recover is told (it must not throw),
	 * and a second later the loop is entered again.
	 */
	void		(*loop) (void);
	void		(*recover) (const char *message);

	/* At exit, when nobody is told of this worker any more; must not throw. */
	void		(*leave) (void);

	/*
	 * One cycle, in a transaction with an active snapshot.  True: there is
	 * more to do at once.
	 */
	bool		(*work) (void);

	/* How long to wait after a cycle that left nothing to do, in ms. */
	int			(*interval) (void);

	/* How long to rest after a cycle, woken or not, in ms; NULL: not at all. */
	int			(*rest) (void);
} CouponWorkerKind;

/* By CouponWorkerId; set when the launcher is registered. */
extern const CouponWorkerKind *const *coupon_worker_kinds;

/* The settings that every worker has, whatever the database's or its role's. */
extern void coupon_worker_settle(void);

/* ---- for loops ---- */

/*
 * Between cycles: heeds signals and settings.  False: the worker is to go,
 * since it was told to, or somebody wants to drop, rename or copy the database.
 */
extern bool coupon_worker_stay(void);

/* Does somebody want to drop, rename or copy the database?  Looks twice a second. */
extern bool coupon_worker_database_is_wanted(void);

/* Were the settings read again since this was asked last? */
extern bool coupon_worker_reloaded(void);

/* Tells pg_stat_activity what is being done; nothing where a session does it. */
extern void coupon_worker_tell(const char *fmt,...) pg_attribute_printf(1, 2);

/* Waits for the latch, up to so many ms. */
extern void coupon_worker_wait(long ms);

/*
 * Have sessions asked for a cycle?  Whoever begins one that will see what
 * they have committed forgets it first.
 */
extern bool coupon_worker_is_woken(void);
extern void coupon_worker_forget_woken(void);

typedef enum CouponCycle
{
	COUPON_CYCLE_BEGUN,
	COUPON_CYCLE_LOCKED,		/* the tables, by somebody else */
	COUPON_CYCLE_NO_EXTENSION
} CouponCycle;

/*
 * Begins a transaction with an active snapshot and the tables locked.  If
 * that cannot be, there is no transaction, and coupon_worker_back_off() waits
 * until it is worth another try.  A worker that is to go may have a last one.
 */
extern CouponCycle coupon_worker_begin(void);
extern void coupon_worker_back_off(CouponCycle cycle);

/* Commits it; and what is to be done after a commit of one's own. */
extern void coupon_worker_commit(void);
extern void coupon_worker_committed(void);

/* The number of this instance, from 0. */
extern int	coupon_worker_instance(void);

/* ---- for the launcher ---- */

/* What it tells a worker, in bgw_extra. */
typedef struct CouponWorkerOrder
{
	Oid			database;
	int			place;
	int			kind;
	int			instance;
} CouponWorkerOrder;

extern void coupon_worker_set_up_signals(void);

/* Heeds signals and settings; true if the process is asked to end. */
extern bool coupon_worker_heed_signals(void);

#endif							/* COUPON_WORKER_H */
