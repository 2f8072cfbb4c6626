/*
 * transfer_worker.h
 *	  The worker that shares the stock of campaigns with other nodes.
 */
#ifndef COUPON_TRANSFER_WORKER_H
#define COUPON_TRANSFER_WORKER_H

#include "base/worker.h"

extern const CouponWorkerKind coupon_transfer;

#endif							/* COUPON_TRANSFER_WORKER_H */
