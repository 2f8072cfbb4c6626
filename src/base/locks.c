/*
 * locks.c
 *	  Heavyweight locks of our own, and the hash of a user they go by.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "base/compat.h"
#include "base/locks.h"

static void
set_tag(LOCKTAG *tag, CouponLockKind kind, uint64 key)
{
	memset(tag, 0, sizeof(*tag));
	tag->locktag_field1 = MyDatabaseId;
	tag->locktag_field2 = (uint32) (key >> 32);
	tag->locktag_field3 = (uint32) key;
	tag->locktag_field4 = kind;
	tag->locktag_type = LOCKTAG_USERLOCK;
	tag->locktag_lockmethodid = USER_LOCKMETHOD;
}

static LockAcquireResult
acquire(CouponLockKind kind, uint64 key, bool session, bool dont_wait)
{
	LOCKTAG		tag;

	set_tag(&tag, kind, key);
	return LockAcquire(&tag, ExclusiveLock, session, dont_wait);
}

void
coupon_lock(CouponLockKind kind, uint64 key)
{
	(void) acquire(kind, key, false, false);
}

LockAcquireResult
coupon_lock_try(CouponLockKind kind, uint64 key)
{
	return acquire(kind, key, false, true);
}

void
coupon_unlock(CouponLockKind kind, uint64 key)
{
	LOCKTAG		tag;

	set_tag(&tag, kind, key);
	LockRelease(&tag, ExclusiveLock, false);
}

uint64
coupon_user_hash(Datum user_id, uint64 salt)
{
	text	   *user = DatumGetTextPP(user_id);
	uint64		hash = hash_bytes_extended((const unsigned char *) VARDATA_ANY(user),
										   VARSIZE_ANY_EXHDR(user), salt);

	if ((Pointer) user != DatumGetPointer(user_id))
		pfree(user);
	return hash;
}
