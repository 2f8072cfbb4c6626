/*
 * catalog.h
 *	  Where coupon's tables are, what columns they have, and one way to scan
 *	  them.
 */
#ifndef COUPON_CATALOG_H
#define COUPON_CATALOG_H

#include "access/attnum.h"
#include "access/genam.h"
#include "access/skey.h"
#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"
#include "utils/uuid.h"

#define COUPON_OUTBOX_CHILDREN	3	/* in rotation */
#define COUPON_OUTBOX_PARKED	3	/* the table of those that are parked */
#define COUPON_OUTBOX_TABLES	4
#define COUPON_QUEUE_CHILDREN	2	/* tables that a queue uses in turn */

typedef struct CouponCatalog
{
	Oid			campaign;
	Oid			campaign_pkey;
	Oid			campaign_topic_idx;
	Oid			shard;
	Oid			shard_pkey;
	Oid			unit;
	Oid			unit_pkey;
	Oid			unit_label_key;
	Oid			issuance;
	Oid			issuance_serial_key;
	Oid			issuance_user_key;
	Oid			issuance_held_idx;
	Oid			issuance_lapse_idx;
	Oid			lapsed_hold;
	Oid			lapsed_hold_idx;
	Oid			request_key;
	Oid			request_key_pkey;
	Oid			outbox[COUPON_OUTBOX_TABLES];
	Oid			outbox_parked_idx;
	Oid			event_clock;
	Oid			event_start;
	Oid			request;		/* the parent of those that follow, as are all
								 * of two */
	Oid			requests[COUPON_QUEUE_CHILDREN];
	Oid			request_pkeys[COUPON_QUEUE_CHILDREN];
	Oid			request_user_keys[COUPON_QUEUE_CHILDREN];
	Oid			room;
	Oid			room_pkey;
	Oid			room_name_key;
	Oid			ticket;
	Oid			tickets[COUPON_QUEUE_CHILDREN];
	Oid			ticket_pkeys[COUPON_QUEUE_CHILDREN];
	Oid			ticket_user_keys[COUPON_QUEUE_CHILDREN];
	Oid			room_guest;
	Oid			room_guest_pkey;
	Oid			node_self;
	Oid			node_self_pkey;
	Oid			slot;
	Oid			slot_pkey;
} CouponCatalog;

/* The columns, by position in sql/. */
enum
{
	Campaign_id = 1, Campaign_name, Campaign_per_user_limit, Campaign_opens_at,
	Campaign_closes_at, Campaign_paused, Campaign_closed_at, Campaign_coded,
	Campaign_policy, Campaign_topic, Campaign_created_at, Campaign_room_id,
	Campaign_labels_public, Campaign_max_per_user_limit, Campaign_withdrawn,
	Campaign_archived_at, Campaign_dumped, Campaign_note_refusals,
	Campaign_shared, Campaign_keeper, Campaign_version, Campaign_away,
	Campaign_natts = Campaign_away
};
enum
{
	Shard_campaign_id = 1, Shard_number, Shard_first_serial, Shard_last_serial,
	Shard_withdrawn, Shard_away, Shard_natts = Shard_away
};
enum
{
	Unit_campaign_id = 1, Unit_serial, Unit_label, Unit_natts = Unit_label
};
enum
{
	Issuance_campaign_id = 1, Issuance_serial, Issuance_shard, Issuance_nth,
	Issuance_issued_at, Issuance_expires_at, Issuance_user_id, Issuance_state,
	Issuance_policy, Issuance_redeemed_at, Issuance_order_ref,
	Issuance_held_until, Issuance_confirm_ref, Issuance_natts = Issuance_confirm_ref
};
enum							/* its unique keys */
{
	Issuance_serial_key, Issuance_user_key
};
enum
{
	Lapsed_campaign_id = 1, Lapsed_serial, Lapsed_held_until, Lapsed_user_id,
	Lapsed_refused_ref, Lapsed_natts = Lapsed_refused_ref
};
enum
{
	Key_campaign_id = 1, Key_used_at, Key_user_id, Key_key, Key_kind, Key_serials,
	Key_natts = Key_serials
};
enum
{
	Outbox_id = 1, Outbox_topic, Outbox_key, Outbox_type, Outbox_payload,
	Outbox_traceparent, Outbox_natts = Outbox_traceparent
};

enum
{
	Request_id = 1, Request_campaign_id, Request_requested_at, Request_decided_at,
	Request_serial, Request_user_id, Request_outcome, Request_key,
	Request_traceparent, Request_natts = Request_traceparent
};
enum
{
	Room_id = 1, Room_name, Room_capacity, Room_admit_per_second, Room_session_ttl,
	Room_idle_ttl, Room_method, Room_paused, Room_opens_at, Room_seed,
	Room_drawn, Room_natts = Room_drawn
};
enum
{
	Ticket_room_id = 1, Ticket_number, Ticket_secret, Ticket_joined_at, Ticket_admitted_at,
	Ticket_ended_at, Ticket_user_id, Ticket_reason, Ticket_natts = Ticket_reason
};
enum
{
	Guest_room_id = 1, Guest_user_id, Guest_until, Guest_natts = Guest_until
};
enum
{
	Self_node_id = 1, Self_is_self, Self_natts = Self_is_self
};
enum
{
	Slot_number = 1, Slot_node_id, Slot_version, Slot_leaving, Slot_natts = Slot_leaving
};

/* The OIDs, looked up again after a relcache invalidation.  ERROR without the extension. */
extern const CouponCatalog *coupon_catalog(void);

/* A column as the script makes it. */
typedef struct CouponColumn
{
	Oid			type;
	Oid			collation;
	bool		nullable;
} CouponColumn;

/* A unique key, by the columns of its table. */
typedef struct CouponKey
{
	int			ncolumns;
	AttrNumber	columns[3];
} CouponKey;

/*
 * A table that is read or written by the positions of its columns; several
 * have the columns of one parent.
 */
typedef struct CouponTable
{
	int			ncolumns;
	const CouponColumn *columns;

	/* for its writer, see table_writer.h */
	const char *const *kept;	/* triggers and foreign keys whose work our
								 * code does */
	int			nkeys;
	const CouponKey *keys;		/* in which a conflict is an answer, no ERROR */
	bool		local_deletes;	/* deletions are not for subscribers */
} CouponTable;

#define COUPON_TABLES	18		/* of them there are so many */

/*
 * What the C code knows of an open table of ours, and in *number, unless that
 * is NULL, which of them it is.  ERROR if its columns are others.
 */
extern const CouponTable *coupon_table(Relation rel, int *number);

/* Grows whenever something about a table may have changed. */
extern uint64 coupon_table_changes(int number);

/*
 * Opens an index of the catalog, whose table is open and locked.  The lock may
 * have told that REINDEX CONCURRENTLY replaced it since its OID was looked up.
 */
extern Relation coupon_index_open(Oid index, LOCKMODE mode);

/* ERROR if an open index of the catalog is not what the scans of it expect. */
extern void coupon_index_check(Relation index);

/*
 * A table, one of its indexes and a scan over it: opened and closed together.
 * With want_index_tuples, scan->xs_itup is there beside the row.  Without keys
 * the caller begins by index_rescan.
 */
typedef struct CouponScan
{
	Relation	heap;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	bool		missed;			/* see coupon_index_next() */
} CouponScan;

extern void coupon_scan_begin(CouponScan *s, Oid heap, Oid index, Snapshot snapshot,
							  ScanKey keys, int nkeys, bool want_index_tuples);
extern bool coupon_scan_next(CouponScan *s, ScanDirection direction);
extern void coupon_scan_end(CouponScan *s);

/* The same, and the tables' locks, so that nobody need wait for the transaction. */
extern void coupon_scan_end_unlock(CouponScan *s);

/*
 * Is there a row with these keys, committed by now or about to be?  *dirty, which
 * this sets up, then says which transaction is at it, if one is.
 */
extern bool coupon_row_exists(Oid heap, Oid index, ScanKey keys, int nkeys, SnapshotData *dirty);

/*
 * The next row.  *missed is set if the index has an entry whose row is not
 * there: deleted, or updated while the scan was on its way to it.  A dirty
 * scan may have come by the new version's entry before it was there, so what
 * it did not find has to be looked for by a later snapshot; that shows the
 * row, since the update was committed by then.
 */
extern bool coupon_index_next(IndexScanDesc scan, ScanDirection direction, TupleTableSlot *slot,
							  bool *missed);

/*
 * Has its own transaction deleted the row, of a dirty scan, as it had inserted
 * it?  Then it will never be there, whatever becomes of the transaction.
 */
extern bool coupon_row_withdrawn(TupleTableSlot *slot);


/* Scan keys of the types that our indexes have; column counts index columns. */
extern void coupon_key_int64(ScanKey key, int column, StrategyNumber strategy, int64 value);
extern void coupon_key_int32(ScanKey key, int column, StrategyNumber strategy, int32 value);
extern void coupon_key_uuid(ScanKey key, int column, StrategyNumber strategy, const pg_uuid_t *value);
extern void coupon_key_time(ScanKey key, int column, StrategyNumber strategy, TimestampTz value);
extern void coupon_key_text(ScanKey key, int column, Datum value);

#endif							/* COUPON_CATALOG_H */
