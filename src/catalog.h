/*
 * catalog.h
 *	  Where coupon's tables are, and one way to scan them.
 */
#ifndef COUPON_CATALOG_H
#define COUPON_CATALOG_H

#include "access/genam.h"
#include "access/skey.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#define COUPON_OUTBOX_CHILDREN	3

typedef struct CouponCatalog
{
	Oid			campaign;
	Oid			campaign_pkey;
	Oid			shard;
	Oid			shard_pkey;
	Oid			unit;
	Oid			unit_pkey;
	Oid			issuance;
	Oid			issuance_serial_key;
	Oid			issuance_user_key;
	Oid			outbox[COUPON_OUTBOX_CHILDREN];
} CouponCatalog;

/* The columns, by position in coupon--1.0.sql. */
enum
{
	Campaign_id = 1, Campaign_name, Campaign_per_user_limit, Campaign_opens_at,
	Campaign_closes_at, Campaign_paused, Campaign_closed_at, Campaign_coded,
	Campaign_policy, Campaign_topic
};
enum
{
	Shard_campaign_id = 1, Shard_number, Shard_first_serial, Shard_last_serial
};
enum
{
	Unit_campaign_id = 1, Unit_serial, Unit_label
};
enum
{
	Issuance_campaign_id = 1, Issuance_serial, Issuance_shard, Issuance_nth,
	Issuance_issued_at, Issuance_expires_at, Issuance_user_id, Issuance_state,
	Issuance_policy, Issuance_redeemed_at, Issuance_order_ref, Issuance_natts = Issuance_order_ref
};
enum
{
	Outbox_id = 1, Outbox_topic, Outbox_key, Outbox_type, Outbox_payload,
	Outbox_natts = Outbox_payload
};

/* The OIDs, looked up again after a relcache invalidation.  ERROR without the extension. */
extern const CouponCatalog *coupon_catalog(void);

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
} CouponScan;

extern void coupon_scan_begin(CouponScan *s, Oid heap, Oid index, Snapshot snapshot,
							  ScanKey keys, int nkeys, bool want_index_tuples);
extern bool coupon_scan_next(CouponScan *s, ScanDirection direction);
extern void coupon_scan_end(CouponScan *s);

/* Scan keys of the types that our indexes have; column counts index columns. */
extern void coupon_key_int64(ScanKey key, int column, StrategyNumber strategy, int64 value);
extern void coupon_key_int32(ScanKey key, int column, StrategyNumber strategy, int32 value);
extern void coupon_key_text(ScanKey key, int column, Datum value);

#endif							/* COUPON_CATALOG_H */
