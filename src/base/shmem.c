/*
 * shmem.c
 *	  Asks every module for its shared memory, and attaches sessions to it.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "base/errors.h"
#include "base/shmem.h"

/* An area: the tranche of its locks, then the memory itself. */
typedef struct Area
{
	int			tranche;
	char		memory[FLEXIBLE_ARRAY_MEMBER];
} Area;

#define AREA_HEADER		MAXALIGN(offsetof(Area, memory))
#define AREA_MEMORY(area)	((char *) (area) + AREA_HEADER)

const CouponModule *const *coupon_modules = NULL;

static bool laid_out = false;

static shmem_startup_hook_type prev_shmem_startup_hook = NULL;
#if COUPON_HAVE_SHMEM_REQUEST_HOOK
static shmem_request_hook_type prev_shmem_request_hook = NULL;
#endif

static void
shmem_request(void)
{
#if COUPON_HAVE_SHMEM_REQUEST_HOOK
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
#endif
	for (const CouponModule *const *module = coupon_modules; *module; module++)
	{
		if ((*module)->name)
			RequestAddinShmemSpace((*module)->size);
		if ((*module)->request)
			(*module)->request();
	}
}

static void
shmem_startup(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	for (const CouponModule *const *module = coupon_modules; *module; module++)
	{
		bool		found = true;

		if ((*module)->name)
			*(*module)->memory = coupon_shmem_struct((*module)->name, (*module)->size, &found);
		if (!found && (*module)->set_up)
			(*module)->set_up();
		if ((*module)->startup)
			(*module)->startup();
	}
	LWLockRelease(AddinShmemInitLock);
	laid_out = true;
}

void
coupon_shmem_register(const CouponModule *const *modules)
{
	coupon_modules = modules;
#if COUPON_HAVE_SHMEM_REQUEST_HOOK
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
#else
	shmem_request();
#endif
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

bool
coupon_shmem_available(void)
{
	return laid_out;
}

void
coupon_shmem_attach(void)
{
	static bool attached = false;

	if (likely(attached))
		return;

	if (!laid_out)
		ereport(ERROR,
				(errcode(ERRCODE_COUPON_NOT_PRELOADED),
				 errmsg("coupon must be loaded at server start"),
				 errdetail("Its shared memory exists only where shared_preload_libraries names it."),
				 errhint("Add the line shared_preload_libraries = 'coupon' to postgresql.conf and restart the server.")));

	for (const CouponModule *const *module = coupon_modules; *module; module++)
	{
		if ((*module)->attach)
			(*module)->attach();
	}
	attached = true;
}

void *
coupon_shmem_struct(const char *name, Size size, bool *found)
{
	void	   *memory = ShmemInitStruct(name, size, found);

	if (!*found)
		memset(memory, 0, size);
	return memory;
}

/* ---- areas ---- */

void *
coupon_area_make(const char *name, Size size)
{
	bool		found;
	Area	   *area = ShmemInitStruct(name, size, &found);

	if (!found)
	{
		Size		room = size - AREA_HEADER;
		dsa_area   *dsa;

		area->tranche = LWLockNewTrancheId();
		dsa = dsa_create_in_place(AREA_MEMORY(area), room, area->tranche, NULL);
		dsa_pin(dsa);
		/* all of it lies in the main segment: no dynamic segments, ever */
		dsa_set_size_limit(dsa, room);
		dsa_detach(dsa);
	}
	return area;
}

dsa_area *
coupon_area_attach(void *made, const char *tranche)
{
	Area	   *area = made;
	MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	dsa_area   *dsa;

	LWLockRegisterTranche(area->tranche, tranche);
	dsa = dsa_attach_in_place(AREA_MEMORY(area), NULL);
	dsa_pin_mapping(dsa);
	on_shmem_exit(dsa_on_shmem_exit_release_in_place, PointerGetDatum(AREA_MEMORY(area)));
	MemoryContextSwitchTo(oldcontext);
	return dsa;
}
