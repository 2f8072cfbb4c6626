/*
 * ticket_table.h
 *	  The rows of coupon.ticket.
 */
#ifndef COUPON_TICKET_TABLE_H
#define COUPON_TICKET_TABLE_H

#include "executor/tuptable.h"
#include "utils/uuid.h"

#include "base/table_writer.h"

typedef struct CouponTicketRow
{
	int64		room_id;
	int64		number;
	pg_uuid_t	secret;
	TimestampTz joined_at;
	TimestampTz admitted_at;	/* 0: not yet */
	TimestampTz ended_at;		/* 0: not yet */
	text	   *user_id;
	text	   *reason;			/* NULL: not ended */
	ItemPointerData tid;
	uint32		child;
} CouponTicketRow;

extern void coupon_ticket_read(TupleTableSlot *slot, uint32 child, CouponTicketRow *row);
extern void coupon_ticket_fill(TupleTableSlot *slot, const CouponTicketRow *row);

/* As of now, in that child; false if there is none. */
extern bool coupon_ticket_find(int64 room_id, int64 number, uint32 child, CouponTicketRow *row);

/* Is a transaction that has yet to commit changing the row? */
extern bool coupon_ticket_is_changing(int64 room_id, int64 number, uint32 child);
extern CouponRowChange coupon_ticket_update(CouponTableWriter *rows, CouponTicketRow *row, bool wait);

#endif							/* COUPON_TICKET_TABLE_H */
