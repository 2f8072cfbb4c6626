/*
 * fault.h
 *	  Named points at which tests make things fail.
 *
 * A point stands where something could go wrong between two steps: shared
 * memory and table, lock and intent, send and settle.  In a build for tests
 * (-DCOUPON_FAULT_POINTS) a point that is armed fails whoever reaches it; in
 * any other build COUPON_FAULT() is nothing at all.
 *
 * A point that MAY_THROW fails by ERROR, FATAL, SIGKILL, a sleep, or as if memory
 * had run out.  One that is SILENT stands where nothing may throw, and knows
 * SIGKILL and the sleep alone.  None is within a spinlock.
 *
 * The list is the only place to name one.  test/t/185_faults.pl must have a
 * way to reach each.
 */
#ifndef COUPON_FAULT_H
#define COUPON_FAULT_H

/* POINT(name, MAY_THROW or SILENT, between what and what) */
#define COUPON_FAULT_POINTS_LIST(POINT) \
	POINT(allocation, MAY_THROW, "before memory is allocated, anywhere in src/") \
	POINT(unit_marked, SILENT, "the unit's bit is set, no intent tells of it") \
	POINT(unit_in_flight, SILENT, "the unit is in flight, and counted as free, too") \
	POINT(unit_taken, MAY_THROW, "the unit is taken, there is no row") \
	POINT(unit_freed, SILENT, "the unit's bit is clear, it is in flight, too") \
	POINT(unit_over, SILENT, "the unit of a row is in flight, the supply is the old one") \
	POINT(unit_returns, SILENT, "a row's unit is to come back, the supply is the old one") \
	POINT(row_written, MAY_THROW, "the row is in the heap, no index knows it") \
	POINT(row_speculative, MAY_THROW, "the row is in the heap for a trial, no index knows it") \
	POINT(row_refused, MAY_THROW, "a unique index has refused the row, it is in the heap yet") \
	POINT(row_updated, MAY_THROW, "the row has its new version, no index knows it") \
	POINT(unit_changed, MAY_THROW, "the unit's row is written or gone, its event is not there") \
	POINT(event_appended, MAY_THROW, "the event is there, its transaction goes on") \
	POINT(commit_unsettled, SILENT, "the transaction is committed, its intents are not settled") \
	POINT(abort_unsettled, SILENT, "the transaction is rolled back, its intents are not settled")

#ifdef COUPON_FAULT_POINTS

#include "base/shmem.h"

#define COUPON_FAULT_ENUM(name, throws, where) COUPON_FAULT_##name,

typedef enum CouponFaultPoint
{
	COUPON_FAULT_POINTS_LIST(COUPON_FAULT_ENUM)
	COUPON_FAULT_COUNT
} CouponFaultPoint;

#define COUPON_FAULT(name) coupon_fault_reach(COUPON_FAULT_##name)

extern void coupon_fault_reach(CouponFaultPoint point);
extern const CouponModule coupon_fault_module;

/*
 * Every allocation in src/ is one point.  The build for tests includes this
 * header into each file, right after postgres.h.
 */
#define palloc(size) (COUPON_FAULT(allocation), palloc(size))
#define palloc0(size) (COUPON_FAULT(allocation), palloc0(size))
#define palloc_extended(size, flags) (COUPON_FAULT(allocation), palloc_extended(size, flags))
#define repalloc(old, size) (COUPON_FAULT(allocation), repalloc(old, size))
#define repalloc_huge(old, size) (COUPON_FAULT(allocation), repalloc_huge(old, size))
#define MemoryContextAlloc(context, size) (COUPON_FAULT(allocation), MemoryContextAlloc(context, size))
#define MemoryContextAllocZero(context, size) (COUPON_FAULT(allocation), MemoryContextAllocZero(context, size))
#define MemoryContextAllocHuge(context, size) (COUPON_FAULT(allocation), MemoryContextAllocHuge(context, size))
#define pstrdup(from) (COUPON_FAULT(allocation), pstrdup(from))
#define pnstrdup(from, length) (COUPON_FAULT(allocation), pnstrdup(from, length))
#define psprintf(...) (COUPON_FAULT(allocation), psprintf(__VA_ARGS__))

#else

#define COUPON_FAULT(name) ((void) 0)

#endif							/* COUPON_FAULT_POINTS */

#endif							/* COUPON_FAULT_H */
