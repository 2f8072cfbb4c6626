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
	/* the stock map, and the row */ \
	POINT(shard_building, MAY_THROW, "the shard is marked as being built, the index was not read") \
	POINT(shard_read, MAY_THROW, "the index was read, the shard's bits are not there") \
	POINT(shard_copied, MAY_THROW, "the shard's bits were read, the index is to be read again") \
	POINT(shard_checked, MAY_THROW, "the index was read again, no bit is cleared") \
	POINT(unit_marked, SILENT, "the unit's bit is set, no intent tells of it") \
	POINT(unit_in_flight, SILENT, "the unit is in flight, and counted as free, too") \
	POINT(unit_taken, MAY_THROW, "the unit is taken, there is no row") \
	POINT(unit_over, SILENT, "the unit of a row is in flight, the supply is the old one") \
	POINT(unit_returns, SILENT, "a row's unit is to come back, the supply is the old one") \
	POINT(unit_freed, SILENT, "what becomes of the unit is in its bit, it is in flight, too") \
	POINT(units_missed, MAY_THROW, "no unit was got, nothing is judged") \
	POINT(none_free, MAY_THROW, "none was free, who is in flight was not counted") \
	POINT(units_gone, MAY_THROW, "no unit was seen, that is not remembered") \
	POINT(filter_unknown, SILENT, "there is memory for a filter of users, its map does not know") \
	POINT(commit_unsettled, SILENT, "the transaction is committed, its intents are not settled") \
	POINT(abort_unsettled, SILENT, "the transaction is rolled back, its intents are not settled") \
	/* rows and events */ \
	POINT(entry_read, MAY_THROW, "the index has told where a row is, it was not read") \
	POINT(user_locked, MAY_THROW, "the user is locked, there is no row") \
	POINT(row_written, MAY_THROW, "the row is in the heap, no index knows it") \
	POINT(row_speculative, MAY_THROW, "the row is in the heap for a trial, no index knows it") \
	POINT(row_refused, MAY_THROW, "a unique index has refused the row, it is in the heap yet") \
	POINT(row_updated, MAY_THROW, "the row has its new version, no index knows it") \
	POINT(key_unused, MAY_THROW, "the row is there, the call's key is not remembered") \
	POINT(unit_changed, MAY_THROW, "the unit's row is written or gone, its event is not there") \
	POINT(event_appended, MAY_THROW, "the event is there, its transaction goes on") \
	POINT(hold_removed, MAY_THROW, "the row of a hold that ran out is gone, nothing remembers it") \
	POINT(payment_locked, MAY_THROW, "the payment is locked, nothing is decided") \
	POINT(payment_refused, MAY_THROW, "the refusal's event is there, the refusal is not remembered") \
	/* lines */ \
	POINT(request_entered, MAY_THROW, "the request is in the line, there is no row") \
	POINT(request_chosen, MAY_THROW, "the line has gone on, nothing is decided") \
	POINT(request_decided, MAY_THROW, "the row is decided, the line does not know") \
	POINT(ticket_entered, MAY_THROW, "the ticket is in the line, there is no row") \
	POINT(ticket_changed, MAY_THROW, "the row is changed, the line does not know") \
	POINT(line_behind, SILENT, "the transaction is over, the line does not know") \
	/* answers */ \
	POINT(call_published, MAY_THROW, "the grouped call can be taken, nobody waits for its answer") \
	POINT(calls_taken, MAY_THROW, "the grouped calls are the worker's, nothing is issued") \
	POINT(calls_carried_out, MAY_THROW, "the grouped calls have their units, nothing is committed") \
	POINT(calls_committed, SILENT, "the grouped calls are committed, nobody was answered") \
	POINT(turn_carried_out, MAY_THROW, "the calls of the front's turn are carried out, not committed") \
	POINT(turn_committed, SILENT, "the front's turn is committed, nobody was answered") \
	/* the broker */ \
	POINT(event_sent, SILENT, "the broker's client has the event, it is not noted as sent") \
	POINT(event_delivered, MAY_THROW, "the broker has the event, its row is there") \
	POINT(event_removed, MAY_THROW, "the event's row is gone, that is not committed") \
	/* other nodes */ \
	POINT(units_sent, MAY_THROW, "units are away in their shards' rows, no transfer tells of it") \
	POINT(units_come, MAY_THROW, "units are here in their shards' rows, they are not free") \
	POINT(peer_asked, MAY_THROW, "another node is asked, it has not answered") \
	POINT(peer_answered, MAY_THROW, "another node has answered, nothing follows from it") \
	/* slots that move: triggers of test/fault.sql reach these */ \
	POINT(slots_leaving, MAY_THROW, "slots are marked as leaving, that is not committed") \
	POINT(slots_packed, MAY_THROW, "what the users of slots have is in the parcel and gone from the tables, the slots are here") \
	POINT(slots_given, MAY_THROW, "slots are given away, that is not committed") \
	POINT(slots_noted, MAY_THROW, "the parcel has come, nothing of it is in") \
	POINT(slots_owned, MAY_THROW, "slots are here, their users have nothing yet") \
	POINT(slots_come, MAY_THROW, "slots are here with all that their users have, that is not committed") \
	POINT(slots_done, MAY_THROW, "the receiver has the parcel and the donor has noted that, which is not committed") \
	/* workers */ \
	POINT(worker_claimed, MAY_THROW, "the worker has its slot, it has not begun")

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
