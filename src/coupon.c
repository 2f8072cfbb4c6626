/*
 * coupon.c
 *	  The library's entry point: settings, and the lists of modules and workers.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "base/compat.h"
#include "base/database.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/launcher.h"
#include "base/shmem.h"
#include "base/stat.h"
#include "base/trace.h"
#include "base/worker.h"
#include "cluster/transfer_worker.h"
#include "front/front_worker.h"
#include "front/http_issue.h"
#include "front/limit.h"
#include "front/settings.h"
#include "front/statistics.h"
#include "group/group.h"
#include "kafka/publish.h"
#include "kafka/publisher_status.h"
#include "node/fence.h"
#include "outbox/event_id.h"
#include "outbox/outbox.h"
#include "queue/queue.h"
#include "request/issuer.h"
#include "request/request_status.h"
#include "room/room.h"
#include "room/room_worker.h"
#include "sale/campaign_slot.h"
#include "sale/hold.h"
#include "sale/issue.h"
#include "sale/redeem.h"
#include "sale/refusal.h"
#include "sale/stock_map.h"
#include "sale/sweep.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

/* Those that have shared memory, from the ground up. */
static const CouponModule *const modules[] = {
#ifdef COUPON_FAULT_POINTS
	&coupon_fault_module,
#endif
	&coupon_stat_module,
	&coupon_database_module,
	&coupon_fence_module,
	&coupon_event_id_module,
	&coupon_outbox_module,
	&coupon_publisher_module,
	&coupon_queue_module,
	&coupon_room_module,
	&coupon_stock_map_module,
	&coupon_campaign_slot_module,
	&coupon_refusal_module,
	&coupon_group_module,
	&coupon_limit_module,
	&coupon_statistics_module,
	NULL
};

/* The ways in, in the order in which statistics show them. */
static CouponWay *const ways[] = {
	&coupon_way_issue,
	&coupon_way_many,
	&coupon_way_grouped,
	&coupon_way_http_issue,
	&coupon_way_request,
	&coupon_way_decision,
	&coupon_way_hold,
	&coupon_way_hold_many,
	&coupon_way_hold_any,
	&coupon_way_confirm,
	&coupon_way_release,
	&coupon_way_redeem,
	&coupon_way_cancel,
	&coupon_way_revoke,
	&coupon_way_join,
	&coupon_way_http,
	&coupon_way_http_waited,
	&coupon_way_http_stream,
	&coupon_way_http_operator,
	&coupon_way_http_front,
	&coupon_way_commit,
	NULL
};

static const CouponWorkerKind *const workers[COUPON_WORKER_IDS] = {
	[COUPON_SWEEPER] = &coupon_sweeper,
	[COUPON_ISSUER] = &coupon_issuer,
	[COUPON_ROOM_WORKER] = &coupon_room_worker,
	[COUPON_GROUP] = &coupon_group_worker,
	[COUPON_PUBLISHER] = &coupon_publisher,
	[COUPON_TRANSFER] = &coupon_transfer,
};

void
_PG_init(void)
{
	coupon_guc_define(process_shared_preload_libraries_in_progress);
	coupon_trace_define();

	/* loaded by a session: the functions that need more will say so */
	if (!process_shared_preload_libraries_in_progress)
		return;

	coupon_front_define_settings();
	MarkGUCPrefixReserved("coupon");
	coupon_stat_register(ways);
	coupon_shmem_register(modules);
	coupon_launcher_register(workers);
	coupon_front_register();
}
