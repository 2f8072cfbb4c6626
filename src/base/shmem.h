/*
 * shmem.h
 *	  Modules, and what they ask of the server at its start.
 *
 * Shared memory is reserved at server start and never grows.  A module says
 * in a CouponModule what it needs; coupon.c lists the modules.  The ground
 * floor knows none of them.
 */
#ifndef COUPON_SHMEM_H
#define COUPON_SHMEM_H

#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/dsa.h"

/* What a module needs.  Each may be NULL. */
typedef struct CouponModule
{
	/* A structure of that name: zeroed, and then set up once. */
	const char *name;
	Size		size;
	void	  **memory;
	void		(*set_up) (void);

	/* Before the server starts: asks for shared memory and locks. */
	void		(*request) (void);

	/* Lays out what was asked for, or finds it; AddinShmemInitLock is held. */
	void		(*startup) (void);

	/* In each session that uses coupon, once. */
	void		(*attach) (void);

	/*
	 * The place of a database (database.h) is given to another one: its state
	 * begins anew.  Must not throw.
	 */
	void		(*new_database) (int place);

	/* coupon_stat_reset(): its counters of this database begin anew. */
	void		(*reset_statistics) (void);
} CouponModule;

/* All modules, up to NULL, from the ground up. */
extern const CouponModule *const *coupon_modules;

/* Called from _PG_init while preloading: reserves, and lays out at startup. */
extern void coupon_shmem_register(const CouponModule *const *modules);

/* Attaches this session; ERROR with the line to add where not preloaded. */
extern void coupon_shmem_attach(void);

/* True where the library was preloaded. */
extern bool coupon_shmem_available(void);

/* ---- for startup() and attach() ---- */

/* A structure of that name, zeroed if *found is false. */
extern void *coupon_shmem_struct(const char *name, Size size, bool *found);

/*
 * An area of a fixed size, for pieces of any size.  What is made is attached
 * by each session, with a name for its locks.
 */
extern void *coupon_area_make(const char *name, Size size);
extern dsa_area *coupon_area_attach(void *made, const char *tranche);

#endif							/* COUPON_SHMEM_H */
