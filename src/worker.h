/*
 * worker.h
 *	  Background workers: one launcher, and per database one of each kind.
 */
#ifndef COUPON_WORKER_H
#define COUPON_WORKER_H

/*
 * A kind of worker.  Everything but the work itself - the process, the
 * database, transactions, errors, waiting - is in worker.c.
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
} CouponWorkerKind;

extern const CouponWorkerKind coupon_sweeper;	/* worker_sweeper.c */

/* Registers the launcher, while preloading. */
extern void coupon_worker_register(void);

#endif							/* COUPON_WORKER_H */
